"""Newly segmented objects laid over a box, or an area of a stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.objects import pixel_step
from napari_sa2net.edits.shapes import Box, as_box, union
from napari_sa2net.edits.step import UNSEEN, Index, Patch, Step
from napari_sa2net.errors import EditError, NothingToEditError
from napari_sa2net.metrics import distinct, objects_numbered, overlaps
from napari_sa2net.words import counted

#: An object with more than this share of its area in the box belongs to the box.
_MOSTLY = 0.5
#: Pieces of new objects smaller than this (px²), cut off by kept ones, are dropped.
_CRUMB = 5


def replace_box(
    corrections: Corrections,
    box: Any,
    new_labels: ArrayLike,
    index: Index = (),
    keep_reviewed: bool = True,
) -> Step:
    """Replace what is inside a box by newly segmented objects.

    Objects cut by the edge of the box: what lies outside stays, and the new object that
    continues it across the edge (the one with the longest contact) joins it. Where nothing
    continues it, the rest outside stays if most of the object lay outside, and goes with
    the inside otherwise. At the border of the image nothing is cut.

    A new object that covers just about an old one (more than half of both together) keeps
    its label. New objects are a model's, so they are not reviewed.

    Parameters
    ----------
    corrections : Corrections
    box : (y0, y1, x0, x1)
        Half-open, in pixels, inside the plane.
    new_labels : integer array (y1 - y0, x1 - x0)
        New objects of the box, in any numbering; 0 is background.
    index : tuple of int
        Plane of the stack.
    keep_reviewed : bool
        Accepted and corrected objects stay; new ones yield to them.

    Raises
    ------
    NothingToEditError
        If nothing changes.
    EditError
        If box and labels do not fit.
    """
    new = np.asarray(new_labels)
    part = _part(corrections, box, new, index, keep_reviewed)
    n = distinct(new[new > 0])[0].size
    words = f"segmenting a box again ({counted(n, 'cell')})"
    return pixel_step(corrections, "resegment", words, [part.patch], by_person=False)


def replace_area(
    corrections: Corrections,
    start: Sequence[int],
    new_labels: ArrayLike,
    keep_reviewed: bool = True,
) -> Step:
    r"""Replace what is in an area of an image or stack by newly segmented objects.

    Each plane as of :func:`replace_box`. What an earlier area cut off at the edge of this one
    is joined to what continues it on most of their common edge. An object that goes on over
    planes has one label in all of them, that of an old object which it continues beyond the
    area if there is one.

    Parameters
    ----------
    corrections : Corrections
    start : sequence of int
        First element of the area: stack axes, y, x.
    new_labels : integer array (\*stack, h, w)
        New objects of the area, in any numbering; 0 is background.
    keep_reviewed : bool
        As of :func:`replace_box`.

    Raises
    ------
    NothingToEditError
        If nothing changes.
    EditError
        If area and labels do not fit.
    """
    new = np.asarray(new_labels)
    y, x = (int(v) for v in start[-2:])
    box = (y, y + new.shape[-2], x, x + new.shape[-1])
    parts = [
        _part(
            corrections,
            box,
            new[offset],
            tuple(int(a) + b for a, b in zip(start[:-2], offset, strict=True)),
            keep_reviewed,
            side_by_side=True,
        )
        for offset in np.ndindex(*new.shape[:-2])
    ]
    if len(parts) > 1:
        _one_name(corrections, parts)
    n = distinct(new[new > 0])[0].size
    words = f"segmenting of an area ({counted(n, 'cell')})"
    patches = [part.patch for part in parts]
    return pixel_step(corrections, "resegment", words, patches, by_person=False)


def laid_over(
    labels: NDArray[Any], start: Sequence[int], new_labels: ArrayLike
) -> tuple[NDArray[Any], tuple[Patch, ...]]:
    """A copy of labels with newly segmented objects in an area, and what differs in it.

    See :func:`replace_area`.
    """
    corrections = Corrections(np.array(labels))
    try:
        step = replace_area(corrections, start, new_labels, keep_reviewed=False)
    except NothingToEditError:
        return corrections.labels, ()
    corrections.apply(step)
    return corrections.labels, step.patches


@dataclass(eq=False)
class _Part:
    """One plane of an area.

    Attributes
    ----------
    window, result
        Labels of ``around`` before and after.
    new, here
        Labels that were segmented, and their place in the window.
    kept
        Reviewed objects, which stay.
    """

    index: Index
    around: Box
    window: NDArray[Any]
    result: NDArray[np.int64]
    new: NDArray[Any]
    here: tuple[slice, slice]
    kept: list[int]

    @property
    def patch(self) -> Patch:
        corner = (self.around[0], self.around[2])
        return Patch.between(self.index, corner, self.window, self.result)


def _part(
    corrections: Corrections,
    box: Any,
    new: NDArray[Any],
    index: Index,
    keep_reviewed: bool,
    side_by_side: bool = False,
) -> _Part:
    index = corrections.checked(index)
    place = as_box(box, corrections.shape)
    size = (place[1] - place[0], place[3] - place[2])
    if tuple(int(v) for v in box) != place or new.shape != size:
        raise EditError(
            f"Labels of shape {new.shape} were given for a box of {size} in the plane "
            f"{corrections.shape}: give the labels of just that box."
        )
    if not np.issubdtype(new.dtype, np.integer) or (new.size and new.min() < 0):
        raise EditError("New labels must be whole numbers, 0 for background, none below.")
    window, around = _window(corrections, index, place)
    top, left = place[0] - around[0], place[2] - around[2]
    here = (slice(top, top + new.shape[0]), slice(left, left + new.shape[1]))
    labels, inside = distinct(window[here][window[here] != 0])
    kept = [
        int(label)
        for label in labels
        if keep_reviewed and corrections.status_code(int(label), index) != UNSEEN
    ]
    result = _replaced(
        corrections, index, window, here, new, labels, inside, set(kept), side_by_side
    )
    return _Part(index, around, window, result, new, here, kept)


def _one_name(corrections: Corrections, parts: Sequence[_Part]) -> None:
    """Give every new object one label in all planes; no label to two of them."""
    count: dict[tuple[int, int], int] = {}
    outside: set[int] = set()
    for part in parts:
        values = np.where(np.isin(part.result[part.here], part.kept), 0, part.result[part.here])
        table = np.stack(overlaps(part.new, values)).T.tolist()
        for mine, label, n in table:
            count[mine, label] = count.get((mine, label), 0) + n
        beyond = part.result.copy()
        beyond[part.here] = 0
        outside.update(distinct(beyond)[0].tolist())
    names: dict[int, int] = {}
    taken: set[int] = set()
    order = sorted(count, key=lambda pair: (pair[1] not in outside, -count[pair], pair))
    for mine, label in order:
        if mine not in names and label not in taken:
            names[mine] = label
            taken.add(label)
    unnamed = sorted({mine for mine, _ in count} - set(names))
    names |= dict(zip(unnamed, corrections.new_labels(len(unnamed)), strict=True))
    own = np.array(sorted(names), np.int64)
    to = np.array([names[mine] for mine in own.tolist()], np.int64)
    for part in parts:
        values = part.result[part.here]
        both = (part.new > 0) & (values > 0) & ~np.isin(values, part.kept)
        values[both] = to[np.searchsorted(own, part.new[both])]


def _window(corrections: Corrections, index: Index, place: Box) -> tuple[NDArray[Any], Box]:
    """Labels of the box and of all objects that reach into it, and their box."""
    plane = corrections.plane(index)
    present = [int(v) for v in distinct(corrections.read(index, place))[0] if v != 0]
    around = union([place, *(plane.box(label) for label in present)])
    # One pixel more, where contact across the edge is looked for.
    around = (
        max(min(around[0], place[0] - 1), 0),
        min(max(around[1], place[1] + 1), corrections.shape[0]),
        max(min(around[2], place[2] - 1), 0),
        min(max(around[3], place[3] + 1), corrections.shape[1]),
    )
    return corrections.read(index, around), around


def _replaced(
    corrections: Corrections,
    index: Index,
    window: NDArray[Any],
    here: tuple[slice, slice],
    new: NDArray[Any],
    labels: NDArray[Any],
    inside: NDArray[np.int64],
    reviewed: set[int],
    side_by_side: bool,
) -> NDArray[np.int64]:
    """The window with the new objects in it; ``inside``: how many pixels of each old label."""
    plane = corrections.plane(index)
    old = window[here]
    kept = np.isin(old, list(reviewed))
    number, fresh = yielding(new, kept)

    result = window.astype(np.int64)
    result[here] = np.where(kept, old, 0)
    cut: dict[int, bool] = {}  # objects with pixels outside -> do most of them lie inside
    for label, n in zip(labels.tolist(), inside.tolist(), strict=True):
        if label not in reviewed and plane.area(label) > n:
            cut[label] = n > _MOSTLY * plane.area(label)
    joins = _continued(result, here, number, set(cut))
    if side_by_side:
        _join_beside(result, here, number, {*labels.tolist()}, joins)
    names = names_of(old, number, labels, inside, set(cut) | reviewed, joins)
    unnamed = [i for i in range(1, fresh + 1) if i not in names]
    names |= dict(zip(unnamed, corrections.new_labels(len(unnamed)), strict=True))
    gone = [label for label, mostly in cut.items() if mostly and label not in joins.values()]
    if gone:
        result[np.isin(result, gone)] = 0
    table = np.zeros(fresh + 1, np.int64)
    for i, label in names.items():
        table[i] = label
    result[here] = np.where(number > 0, table[number], result[here])
    return result


def yielding(new: NDArray[Any], kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """New objects numbered 1..n, without what lies on kept objects.

    One that lies mostly on kept ones is dropped, being a second copy of them.
    """
    number, n = objects_numbered(new)
    whole = np.bincount(number.ravel(), minlength=n + 1)
    free = np.where(kept, 0, number)
    left = np.bincount(free.ravel(), minlength=n + 1)
    drop = (left <= _MOSTLY * whole) | ((left < whole) & (left < _CRUMB))
    drop[0] = True
    to = np.zeros(n + 1, np.int64)
    to[~drop] = np.arange(1, np.count_nonzero(~drop) + 1)
    return to[free], int(np.count_nonzero(~drop))


def _continued(
    result: NDArray[np.int64],
    here: tuple[slice, slice],
    number: NDArray[np.int64],
    cut: set[int],
) -> dict[int, int]:
    """New object -> cut object that it continues: of each pair the longest contact first."""
    contact: dict[tuple[int, int], int] = {}
    for own, other in _edges(result, here, number) if cut else ():
        touch = (own > 0) & (other > 0)
        for pair in zip(own[touch].tolist(), other[touch].tolist(), strict=True):
            if pair[1] in cut:
                contact[pair] = contact.get(pair, 0) + 1
    joins: dict[int, int] = {}
    for (mine, theirs), _ in sorted(contact.items(), key=lambda item: (-item[1], item[0])):
        if mine not in joins and theirs not in joins.values():
            joins[mine] = theirs
    return joins


def _edges(
    result: NDArray[np.int64], here: tuple[slice, slice], number: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """New objects along each edge of the box, and what lies beside them outside."""
    (top, bottom), (left, right) = ((axis.start, axis.stop) for axis in here)
    height, width = result.shape
    edges = []
    if top > 0:
        edges.append((number[0], result[top - 1, left:right]))
    if bottom < height:
        edges.append((number[-1], result[bottom, left:right]))
    if left > 0:
        edges.append((number[:, 0], result[top:bottom, left - 1]))
    if right < width:
        edges.append((number[:, -1], result[top:bottom, right]))
    return edges


def _join_beside(
    result: NDArray[np.int64],
    here: tuple[slice, slice],
    number: NDArray[np.int64],
    inside: set[int],
    joins: dict[int, int],
) -> None:
    """Join new objects to old ones that end where they begin, at the edge of the box.

    That both end there on most of the edge that they have there is no chance: an earlier
    area ended there and cut the object.
    """
    for mine, theirs in _edges(result, here, number):
        both = (mine > 0) & (theirs > 0)
        for pair in sorted(set(zip(mine[both].tolist(), theirs[both].tolist(), strict=True))):
            own, other = mine == pair[0], theirs == pair[1]
            most = np.count_nonzero(own & other) > _MOSTLY * np.count_nonzero(own | other)
            free = pair[0] not in joins and pair[1] not in joins.values()
            if most and free and pair[1] not in inside:
                joins[pair[0]] = pair[1]


def names_of(
    old: NDArray[Any],
    number: NDArray[np.int64],
    labels: NDArray[Any],
    inside: NDArray[np.int64],
    taken: set[int],
    joins: dict[int, int],
) -> dict[int, int]:
    """Labels of new objects that continue old ones, or cover just about the same pixels."""
    names = dict(joins)
    area_new = np.bincount(number.ravel())
    area_old = dict(zip(labels.tolist(), inside.tolist(), strict=True))
    for mine, theirs, n in np.stack(overlaps(number, old)).T.tolist():
        # More than half of the union: true of at most one pair of each.
        union_area = area_new[mine] + area_old[theirs] - n
        if mine not in names and theirs not in taken and n > _MOSTLY * union_area:
            names[mine] = theirs
    return names
