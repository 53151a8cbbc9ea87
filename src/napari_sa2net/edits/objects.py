"""Split, merge and delete whole objects."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import scipy  # its parts load on first use
from numpy.typing import ArrayLike, NDArray

from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.shapes import (
    Box,
    Pixels,
    Points,
    as_point,
    as_points,
    common,
    grown,
    inside_polygon,
    line_pixels,
    union,
)
from napari_sa2net.edits.step import (
    CORRECTED,
    UNSEEN,
    Index,
    Marks,
    Patch,
    Region,
    Step,
    StepKind,
    cleared_region,
)
from napari_sa2net.errors import EditError, NothingToEditError

# --------------------------------------------------------------------------------------------
# From changed pixels to a whole step: who was corrected, who vanished, what was cleared.

#: So many cells are named one by one in the words of a step.
_NAMED = 4


def pixel_step(
    corrections: Corrections,
    kind: StepKind,
    words: str,
    patches: Sequence[Patch],
    by_person: bool = True,
    yielded: Collection[int] = (),
) -> Step:
    """Make a step of changed pixels.

    Objects that gain or lose pixels count as corrected, those that vanish lose their
    status, and where they were becomes a cleared region, as far as it is background now.

    Parameters
    ----------
    corrections : Corrections
    kind, words : str
        As of :class:`Step`.
    patches : sequence of Patch
        At most one per plane.
    by_person : bool
        False for what a model drew: changed objects then lose their status instead, and
        nothing is cleared.
    yielded : collection of int
        Objects that gave way to another one: nobody has judged what is left of them.

    Raises
    ------
    NothingToEditError
        If no pixel changes.
    """
    patches = [patch for patch in patches if patch]
    if not patches:
        raise NothingToEditError("That changes nothing.")
    marks, cleared = [], []
    for patch in patches:
        plane = corrections.plane(patch.index)
        labels, change = _area_changes(patch)
        # Of strokes the pixels are in the array already, but the index still knows the old.
        vanished = [
            label
            for label, by in zip(labels.tolist(), change.tolist(), strict=True)
            if plane.area(label) + by <= 0
        ]
        status = np.full(labels.size, CORRECTED if by_person else UNSEEN, np.int64)
        status[np.isin(labels, [*vanished, *yielded])] = UNSEEN
        mark = status_change(corrections, patch.index, labels, status)
        if mark:
            marks.append(mark)
        if by_person and vanished:
            gone = np.isin(patch.old, vanished) & (patch.new == 0)
            if gone.any():
                cleared.append(_cleared(corrections, patch, gone, labels, -change))
    return Step(kind, words, tuple(patches), tuple(marks), added=tuple(cleared))


def status_change(
    corrections: Corrections,
    index: Index,
    labels: NDArray[np.int64],
    after: NDArray[np.int64],
) -> Marks:
    """Marks of the labels whose status is another than before; may be empty."""
    before = np.asarray(
        [corrections.status_code(label, index) for label in labels.tolist()], np.int64
    )
    changed = before != after
    return Marks(index, labels[changed], before[changed], after[changed])


def joined(index: Index, patches: Sequence[Patch]) -> Patch:
    """One patch of several of a plane; a pixel that two want goes to the first."""
    if len(patches) == 1:
        return patches[0]
    pixels = [np.stack(_pixels(patch)) for patch in patches]
    rows, cols, old, new = np.concatenate([np.empty((4, 0), np.int64), *pixels], axis=1)
    # A stable sort keeps the order of the patches among equal pixels.
    order = np.lexsort((cols, rows))
    rows, cols, old, new = (column[order] for column in (rows, cols, old, new))
    first = np.ones(rows.size, bool)
    first[1:] = (rows[1:] != rows[:-1]) | (cols[1:] != cols[:-1])
    return Patch.of_pixels(index, rows[first], cols[first], old[first], new[first])


def _pixels(patch: Patch) -> tuple[NDArray[np.int64], ...]:
    lengths = patch.lengths
    return (*patch.pixels(), np.repeat(patch.old, lengths), np.repeat(patch.new, lengths))


def named(labels: Sequence[int]) -> str:
    """Cells in words: "cell 3", "cells 3, 7 and 9", "12 cells"."""
    if len(labels) == 1:
        return f"cell {labels[0]}"
    if len(labels) <= _NAMED:
        *some, last = (str(label) for label in labels)
        return f"cells {', '.join(some)} and {last}"
    return f"{len(labels)} cells"


def _area_changes(patch: Patch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Objects of a patch, and by how many pixels each grows."""
    labels, which = np.unique(np.concatenate([patch.old, patch.new]), return_inverse=True)
    n = patch.old.size
    by = np.bincount(which[n:], patch.lengths, labels.size)
    by -= np.bincount(which[:n], patch.lengths, labels.size)
    held = labels != 0
    return labels[held], by[held].astype(np.int64)


def _cleared(
    corrections: Corrections,
    patch: Patch,
    gone: NDArray[np.bool_],
    labels: NDArray[np.int64],
    areas: NDArray[np.int64],
) -> Region:
    """Where deleted objects were; labels are sorted, areas are what each of them lost."""
    area = areas[np.searchsorted(labels, patch.old[gone])]
    runs = np.stack([patch.rows[gone], patch.cols[gone], patch.lengths[gone], area])
    return cleared_region(corrections.new_region(), patch.index, runs)


#: Parts smaller than this (px²) are not cut off: a line that is not quite straight leaves
#: crumbs along an outline.
SMALLEST_PART = 5
#: Gaps up to this width (px) between merged objects are filled.
SEAM = 3

_EIGHT = np.ones((3, 3), bool)


# --- finding ---------------------------------------------------------------------------


def label_at(corrections: Corrections, point: ArrayLike, index: Index = ()) -> int:
    """Object under a point (y, x); 0 on background and outside the plane.

    Raises
    ------
    EditError
        If it is no point or the plane does not exist.
    """
    y, x = as_point(point)
    index = corrections.checked(index)
    row, col = np.floor(y + 0.5), np.floor(x + 0.5)
    if not (0 <= row < corrections.shape[0] and 0 <= col < corrections.shape[1]):
        return 0
    return int(corrections.read_pixels(index, np.array([int(row)]), np.array([int(col)]))[0])


def labels_under(corrections: Corrections, points: ArrayLike, index: Index = ()) -> list[int]:
    """Objects that a drawn line touches, in the order of touching; may be empty."""
    line = as_points(points, 1, "line")
    rows, cols = line_pixels(line, corrections.shape)
    values = corrections.read_pixels(corrections.checked(index), rows, cols)
    return [label for label in dict.fromkeys(values.tolist()) if label != 0]


def labels_in(corrections: Corrections, polygon: ArrayLike, index: Index = ()) -> list[int]:
    """Objects whose centres lie in a polygon (a lasso); may be empty."""
    corners = as_points(polygon, 3, "lasso")
    plane = corrections.plane(index)
    y, x = plane.centres.T
    return sorted(plane.labels[inside_polygon(corners, y, x)].tolist())


# --- split -----------------------------------------------------------------------------


def split(
    corrections: Corrections,
    line: ArrayLike,
    index: Index = (),
    labels: Iterable[int] | None = None,
) -> Step:
    """Split objects along a drawn line.

    The largest part keeps the label. Pixels under the line go to the parts beside them. A
    line that ends inside an object is lengthened straight on to its edge, by no more than
    what was drawn in it.

    Parameters
    ----------
    corrections : Corrections
    line : (n, 2) points (y, x), n >= 2
    index : tuple of int
        Plane of the stack.
    labels : iterable of int, optional
        Split only these; otherwise all that the line cuts through.

    Raises
    ------
    NothingToEditError
        If the line touches no object.
    EditError
        If it cuts none through.
    """
    points = as_points(line, 2, "line")
    index = corrections.checked(index)
    touched = labels_under(corrections, points, index)
    wanted = touched if labels is None else corrections.objects(labels, index)
    if not set(wanted) & set(touched):
        raise NothingToEditError("The line touches no cell: draw it across one.")
    for lengthened in (False, True):
        cuts = {}
        for label in wanted:
            box = grown(_where_cut(corrections, index, label, points), 1, corrections.shape)
            window = corrections.look(index, box) == label
            parts = _cut(window, points - (box[0], box[2]), lengthened)
            if parts is not None:
                cuts[label] = (box, parts)
        if cuts:
            break
    else:
        raise EditError(
            f"The line does not cut {named(wanted)} through: draw it from outside to outside."
        )
    patches = [
        _parts_patch(corrections, index, label, box, parts)
        for label, (box, parts) in cuts.items()
    ]
    patch = joined(index, patches)
    return pixel_step(corrections, "split", f"split of {named(sorted(cuts))}", [patch])


def _where_cut(corrections: Corrections, index: Index, label: int, line: Points) -> Box:
    """Box of what a line touches of an object; parts far from it stay as they are."""
    places = corrections.places(label, index)
    rows, cols = line_pixels(line, corrections.shape)
    own = corrections.read_pixels(index, rows, cols) == label
    rows, cols = rows[own], cols[own]
    touched = [
        (y0, y1, x0, x1)
        for y0, y1, x0, x1 in places
        if ((rows >= y0) & (rows < y1) & (cols >= x0) & (cols < x1)).any()
    ]
    return union(touched or places)


def _cut(mask: NDArray[np.bool_], line: Points, lengthened: bool) -> NDArray[np.int32] | None:
    """Parts 1, 2, ... of an object, the largest first; None where it stays one."""
    rows, cols = line_pixels(line, mask.shape, tight=True)  # type: ignore[arg-type]
    on = np.zeros_like(mask)
    on[rows, cols] = True
    if lengthened:
        n_drawn = np.count_nonzero(on & mask)
        rows, cols = _lengthened(mask, line)
        on[rows, cols] = True
        if np.count_nonzero(on & mask) > 2 * n_drawn:
            return None
    on &= mask
    if not on.any():
        return None
    whole, n_whole = scipy.ndimage.label(mask, _EIGHT)
    parts, n = scipy.ndimage.label(mask & ~on, _EIGHT)
    size = np.bincount(parts.ravel())
    of_whole = np.zeros(n + 1, np.int64)
    of_whole[parts[mask & ~on]] = whole[mask & ~on]
    crossed = np.zeros(n_whole + 1, bool)
    crossed[whole[on]] = True
    real = (size >= SMALLEST_PART) & crossed[of_whole]
    real[0] = False
    cut = np.bincount(of_whole[real], minlength=n_whole + 1) >= 2
    real &= cut[of_whole]
    if not real.any():
        return None
    order = np.argsort(-size[real], kind="stable")
    number = np.zeros(n + 1, np.int32)
    number[np.flatnonzero(real)[order]] = np.arange(1, order.size + 1)
    result: NDArray[np.int32] = number[parts]
    result[mask & ~cut[whole]] = 1  # pieces that lay apart already stay with the largest
    _spread(result, mask)
    return result


def _lengthened(mask: NDArray[np.bool_], line: Points) -> tuple[Pixels, Pixels]:
    """Pixels from the ends of a line that lie in the object, straight on to its edge."""
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    far = float(sum(mask.shape))
    for end, before in ((line[0], line[1:]), (line[-1], line[-2::-1])):
        # Look back a few pixels: the last bit of a stroke is often a hook.
        away = np.hypot(*(before - end).T)
        at = min(int(np.searchsorted(np.maximum.accumulate(away), 5.0)), len(before) - 1)
        if away[at] == 0:
            continue
        target = end + (end - before[at]) / away[at] * far
        rows, cols = line_pixels(np.stack([end, target]), mask.shape, tight=True)  # type: ignore[arg-type]
        outside = np.flatnonzero(~mask[rows, cols])
        n = int(outside[0]) if outside.size else rows.size
        found.append((rows[:n], cols[:n]))
    return np.concatenate([r for r, _ in found]), np.concatenate([c for _, c in found])


def _spread(parts: NDArray[np.int32], mask: NDArray[np.bool_]) -> None:
    """Give pixels of the mask that have no part yet to a part beside them, in place."""
    height, width = parts.shape
    rows, cols = np.nonzero(mask & (parts == 0))
    while rows.size:
        best = np.zeros(rows.size, np.int32)
        for dy, dx in ((0, -1), (-1, 0), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)):
            y, x = rows + dy, cols + dx
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (best == 0)
            best[inside] = parts[y[inside], x[inside]]
        parts[rows, cols] = best
        left = best == 0
        if left.all():  # a crumb that only touches itself
            parts[rows, cols] = 1
            return
        rows, cols = rows[left], cols[left]


def _parts_patch(
    corrections: Corrections, index: Index, label: int, box: Box, parts: NDArray[np.int32]
) -> Patch:
    number = np.asarray([0, label, *corrections.new_labels(int(parts.max()) - 1)], np.int64)
    old = np.where(parts > 0, label, 0)
    return Patch.between(index, (box[0], box[2]), old, number[parts])


# --- merge -----------------------------------------------------------------------------


def merge(
    corrections: Corrections,
    stroke: ArrayLike | None = None,
    index: Index = (),
    labels: Iterable[int] | None = None,
) -> Step:
    """Make several objects one.

    The largest keeps its label. Gaps of up to 3 px of background between them are filled.

    Parameters
    ----------
    corrections : Corrections
    stroke : (n, 2) points (y, x), optional
        All objects it touches are merged ...
    index : tuple of int
        Plane of the stack.
    labels : iterable of int, optional
        ... or these.

    Raises
    ------
    EditError
        If there are fewer than two objects.
    """
    index = corrections.checked(index)
    if (stroke is None) == (labels is None):
        raise EditError("Say which cells to merge, by a stroke or by their labels.")
    if labels is not None:
        chosen = corrections.objects(labels, index)
    else:
        assert stroke is not None
        chosen = sorted(labels_under(corrections, stroke, index))
    if len(chosen) < 2:
        raise NothingToEditError(
            "A merge needs two cells: draw the stroke from one into the other."
        )
    plane = corrections.plane(index)
    keep = max(chosen, key=plane.area)
    patches = [
        patch
        for label in chosen
        if label != keep
        for patch in _given(corrections, index, label, keep)
    ]
    for one, other in combinations(chosen, 2):
        seam = _seam(corrections, index, one, other, keep)
        if seam is not None:
            patches.append(seam)
    patch = joined(index, patches)
    return pixel_step(corrections, "merge", f"merge of {named(chosen)}", [patch])


def _given(corrections: Corrections, index: Index, label: int, to: int) -> list[Patch]:
    """All pixels of an object, given to another label."""
    patches = []
    for box in corrections.parts(label, index):
        window = corrections.look(index, box)
        new = np.where(window == label, to, window)
        patches.append(Patch.between(index, (box[0], box[2]), window, new))
    return patches


def _seam(
    corrections: Corrections, index: Index, one: int, other: int, to: int
) -> Patch | None:
    """Background between two objects where the gap is narrow, given to a label."""
    box = _between(corrections.parts(one, index), corrections.parts(other, index), corrections)
    if box is None:
        return None
    box = grown(box, SEAM, corrections.shape)
    window = corrections.read(index, box)
    sides = [window == label for label in (one, other)]
    if not all(side.any() for side in sides):
        return None
    # A pixel lies in the gap where its ways to both sides are short and in line.
    ways, ends = zip(
        *(scipy.ndimage.distance_transform_edt(~side, return_indices=True) for side in sides),
        strict=True,
    )
    way, straight = ways[0] + ways[1], np.hypot(*(ends[0] - ends[1]))
    gap = (window == 0) & (way <= SEAM + 1.5) & (straight >= 0.9 * way)
    return Patch.between(index, (box[0], box[2]), window, np.where(gap, to, window))


def _between(one: list[Box], other: list[Box], corrections: Corrections) -> Box | None:
    """Box of where the surroundings of two objects meet."""
    sides = [[grown(box, SEAM, corrections.shape) for box in side] for side in (one, other)]
    both = [common(a, b) for a in sides[0] for b in sides[1]]
    meeting = [box for box in both if box is not None]
    return union(meeting) if meeting else None


# --- delete ----------------------------------------------------------------------------


def delete(
    corrections: Corrections,
    labels: Iterable[int] | None = None,
    index: Index = (),
    *,
    point: ArrayLike | None = None,
    lasso: ArrayLike | None = None,
) -> Step:
    """Delete objects.

    Parameters
    ----------
    corrections : Corrections
    labels : iterable of int, optional
        These objects ...
    index : tuple of int
        Plane of the stack.
    point : (y, x), optional
        ... or the one under a click ...
    lasso : (n, 2) points (y, x), optional
        ... or those whose centres lie in a polygon.

    Raises
    ------
    NothingToEditError
        If there is no object.
    EditError
        If a label is not there.
    """
    index = corrections.checked(index)
    if sum(way is not None for way in (labels, point, lasso)) != 1:
        raise EditError("Say which cells to delete: by label, by a click, or by a lasso.")
    if point is not None:
        chosen = [label for label in (label_at(corrections, point, index),) if label]
    elif lasso is not None:
        chosen = labels_in(corrections, lasso, index)
    else:
        assert labels is not None
        chosen = corrections.objects(labels, index)
    if not chosen:
        raise NothingToEditError("There is no cell to delete there.")
    patch = joined(
        index, [patch for label in chosen for patch in _given(corrections, index, label, 0)]
    )
    return pixel_step(corrections, "delete", f"deletion of {named(chosen)}", [patch])


def delete_everywhere(corrections: Corrections, labels: Iterable[int]) -> Step:
    """Delete objects in all planes, many at once; what is not there is left out.

    Raises
    ------
    NothingToEditError
        If none is there.
    """
    wanted, found, patches = np.array(sorted(set(labels) - {0}), np.int64), set[int](), []
    height, width = corrections.shape
    band = max(1, 2**22 // max(1, width))
    for index in np.ndindex(*corrections.labels.shape[:-2]):
        parts = []
        for top in range(0, height, band):
            old = corrections.look(index, (top, min(top + band, height), 0, width))
            rows, cols = np.nonzero(np.isin(old, wanted))
            parts.append((rows + top, cols, old[rows, cols].astype(np.int64)))
        rows, cols, gone = (np.concatenate(part) for part in zip(*parts, strict=True))
        if gone.size:
            found.update(np.unique(gone).tolist())
            patches.append(Patch.of_pixels(index, rows, cols, gone, 0 * gone))
    if not found:
        raise NothingToEditError("There is no cell to delete there.")
    return pixel_step(corrections, "delete", f"deletion of {named(sorted(found))}", patches)


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
