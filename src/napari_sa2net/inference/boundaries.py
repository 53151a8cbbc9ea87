"""Boundary pixels of labelled objects, and the bands of pixels along them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Line = NDArray[np.signedinteger[Any]]


def boundary_pixels(labels: NDArray[np.integer[Any]]) -> Index:
    """Flat positions of all object pixels beside another label, in raster order.

    Neighbours are left, right, above and below. The edge of the array is no boundary: what
    an object does beyond it is not known.

    Parameters
    ----------
    labels : integer array (H, W), 0 background
    """
    edge = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    edge &= labels > 0
    return np.flatnonzero(edge)


def band_pixels(labels: NDArray[np.integer[Any]], width: int) -> tuple[Index, Index]:
    """Pixels within `width` steps of an object's boundary, on both sides of it.

    Inside, these are the object's own pixels; outside, unlabelled ones, each given to the
    object that reaches it in the fewest steps (of several the highest label). A step goes to
    any of the eight neighbours. The edge of the array is no boundary.

    Returns
    -------
    position : int64 (n,)
        Flat position of each pixel of a band; none occurs twice.
    owner : int64 (n,)
        Label of the object whose band it is in.
    """
    height, stride = labels.shape[0], labels.shape[1] + 2
    # A frame that is neither background nor object: no neighbour ever falls off the array.
    framed = np.full((height + 2, stride), -1, np.promote_types(labels.dtype, np.int32))
    framed[1:-1, 1:-1] = labels
    line = framed.ravel()
    around = [dy * stride + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    rows, columns = np.divmod(boundary_pixels(labels), max(labels.shape[1], 1))
    inner = (rows + 1) * stride + columns + 1
    owner = np.zeros_like(line)
    owner[inner] = line[inner]
    outer = inner
    positions = [inner]
    for step in range(width):
        outer = _step(outer, around, line, owner, outside=True)
        positions.append(outer)
        if step:  # the boundary pixels are the first inside
            inner = _step(inner, around, line, owner, outside=False)
            positions.append(inner)
    found = np.concatenate(positions)
    rows, columns = np.divmod(found, stride)
    return (rows - 1) * labels.shape[1] + columns - 1, owner[found].astype(np.int64)


def _step(pixels: Index, around: list[int], line: Line, owner: Line, *, outside: bool) -> Index:
    """Pixels one step on that nobody owns yet; fills in their owners."""
    whose = owner[pixels]
    reached = []
    for offset in around:
        beside = pixels + offset
        fits = (line[beside] == (0 if outside else whose)) & (owner[beside] == 0)
        reached.append((beside[fits], whose[fits]))
    positions, best = (np.concatenate(parts) for parts in zip(*reached, strict=True))
    # Ascending, so that of several the highest label is written last.
    order = np.argsort(best, kind="stable")
    owner[positions[order]] = best[order]
    positions.sort()  # np.unique hashes integers here, ten times slower
    return positions[np.diff(positions, prepend=-1) > 0]
