"""Boundary pixels of labelled objects, and the bands of pixels along them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


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
    # Unsigned labels too large for int64 do not occur: ours are int32.
    framed = np.full((height + 2, stride), -1, np.int64)
    framed[1:-1, 1:-1] = labels
    line = framed.ravel()
    around = np.array([dy * stride + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
    rows, columns = np.divmod(boundary_pixels(labels), max(labels.shape[1], 1))
    inner = (rows + 1) * stride + columns + 1
    owner = line[inner]
    taken = np.zeros(line.size, bool)
    taken[inner] = True
    positions, owners = [inner], [owner]
    outer, outer_owner = _next(inner, owner, around, line, taken, outside=True)
    for step in range(width):
        if step:
            inner, owner = _next(inner, owner, around, line, taken, outside=False)
            positions.append(inner)
            owners.append(owner)
            outer, outer_owner = _next(outer, outer_owner, around, line, taken, outside=True)
        positions.append(outer)
        owners.append(outer_owner)
    rows, columns = np.divmod(np.concatenate(positions), stride)
    return (rows - 1) * labels.shape[1] + columns - 1, np.concatenate(owners)


def _next(
    pixels: Index,
    owner: Index,
    around: Index,
    line: Index,
    taken: NDArray[np.bool_],
    *,
    outside: bool,
) -> tuple[Index, Index]:
    """Pixels one step on that are not taken yet; marks them as taken."""
    beside = (pixels[:, None] + around).ravel()
    whose = np.repeat(owner, around.size)
    fits = (line[beside] == (0 if outside else whose)) & ~taken[beside]
    beside, whose = beside[fits], whose[fits]
    order = np.lexsort((whose, beside))
    beside, whose = beside[order], whose[order]
    last = np.ones(beside.size, bool)
    last[:-1] = beside[1:] != beside[:-1]
    beside, whose = beside[last], whose[last]
    taken[beside] = True
    return beside, whose
