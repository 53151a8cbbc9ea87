"""Strokes of napari's own brush, eraser, fill bucket and polygon, as steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.edits.build import named, pixel_step
from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.patch import Patch
from napari_sa2net.edits.step import Step
from napari_sa2net.errors import EditError, NothingToEditError


def stroke(corrections: Corrections, atoms: Any) -> Step:
    """A stroke that napari has painted into the labels already.

    Remember it with :meth:`History.record`.

    Parameters
    ----------
    corrections : Corrections
    atoms : list
        The value of a Labels layer's ``events.paint``: in the order of painting, triples
        (indices, old values, new value), with indices a tuple of arrays, one per axis; or
        napari's masked atoms with slice_key, mask, old_values and new_value.

    Raises
    ------
    NothingToEditError
        If no pixel is another than before.
    EditError
        If the atoms are something else or lie outside the labels.
    EditConflictError
        If their pixels are not in the array.
    """
    if isinstance(atoms, tuple) and len(atoms) == 3:
        atoms = [atoms]
    try:
        parts = [_atom(atom, corrections.labels.ndim) for atom in atoms]
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise EditError(f"This is no stroke of a Labels layer: {error}") from error
    if not parts:
        raise NothingToEditError("The stroke painted nothing.")
    where = np.concatenate([part[0] for part in parts], axis=1)
    old = np.concatenate([part[1] for part in parts])
    new = np.concatenate([part[2] for part in parts])
    shape = np.asarray(corrections.labels.shape)
    if ((where < 0) | (where >= shape[:, None])).any():
        raise EditError("The stroke lies outside the labels: was the layer's data replaced?")
    flat = np.ravel_multi_index(tuple(where), tuple(shape))
    # A pixel may be painted twice in a stroke: its first old and its last new value count.
    pixels, first = np.unique(flat, return_index=True)
    last = flat.size - 1 - np.unique(flat[::-1], return_index=True)[1]
    old, new = old[first], new[last]
    changed = old != new
    if not changed.any():
        raise NothingToEditError("The stroke changed nothing.")
    pixels, old, new = pixels[changed], old[changed], new[changed]
    patches = _patches(corrections, pixels, old, new)
    for patch in patches:
        corrections.check_painted(patch)
        corrections.index.scan_before(patch, corrections.look)
    painted = sorted({int(v) for v in np.unique(new) if v != 0})
    if painted:
        return pixel_step(corrections, "paint", f"painting of {named(painted)}", patches)
    erased = sorted({int(v) for v in np.unique(old)})
    return pixel_step(corrections, "erase", f"erasing of {named(erased)}", patches)


def _patches(
    corrections: Corrections,
    pixels: NDArray[np.int64],
    old: NDArray[np.int64],
    new: NDArray[np.int64],
) -> list[Patch]:
    """One patch per plane, of sorted flat positions."""
    height, width = corrections.shape
    planes = pixels // (height * width)
    patches = []
    for plane in np.unique(planes):
        part = planes == plane
        within = pixels[part] - plane * (height * width)
        stack = corrections.labels.shape[:-2]
        index = tuple(int(i) for i in np.unravel_index(plane, stack)) if stack else ()
        patches.append(
            Patch.of_pixels(index, within // width, within % width, old[part], new[part])
        )
    return patches


def _atom(
    atom: Any, ndim: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Positions (ndim, n), old and new values (n,) of one atom."""
    if hasattr(atom, "slice_key"):
        starts = [int(part.start) for part in atom.slice_key]
        sizes = [
            int(part.stop) - start for part, start in zip(atom.slice_key, starts, strict=True)
        ]
        mask = np.ones(sizes, bool) if atom.mask is None else np.asarray(atom.mask)
        where = np.stack(np.nonzero(mask)) + np.asarray(starts)[:, None]
        before, after = np.asarray(atom.old_values).ravel(), atom.new_value
    else:
        indices, before, after = atom
        where = np.stack(np.broadcast_arrays(*(np.atleast_1d(np.asarray(i)) for i in indices)))
        where = where.reshape(len(where), -1)
    if where.shape[0] != ndim:
        raise ValueError(f"positions of {where.shape[0]} axes in labels of {ndim}")
    n = where.shape[1]
    old = np.broadcast_to(np.asarray(before).ravel(), (n,))
    new = np.broadcast_to(np.asarray(after).ravel(), (n,))
    if any(not np.issubdtype(values.dtype, np.integer) for values in (where, old, new)):
        raise ValueError("positions and labels must be whole numbers")
    return where.astype(np.int64), old.astype(np.int64), new.astype(np.int64)
