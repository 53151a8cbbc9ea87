"""Put newly segmented objects into a box."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_sa2net.edits.build import pixel_step
from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.patch import Index, Patch, distinct
from napari_sa2net.edits.shapes import Box, as_box, union
from napari_sa2net.edits.step import UNSEEN, Step
from napari_sa2net.errors import EditError

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
    index = corrections.checked(index)
    place = as_box(box, corrections.shape)
    new = np.asarray(new_labels)
    size = (place[1] - place[0], place[3] - place[2])
    if tuple(int(v) for v in box) != place or new.shape != size:
        raise EditError(
            f"Labels of shape {new.shape} were given for a box of {size} in the plane "
            f"{corrections.shape}: give the labels of just that box."
        )
    if not np.issubdtype(new.dtype, np.integer) or (new.size and new.min() < 0):
        raise EditError("New labels must be whole numbers, 0 for background, none below.")
    window, around = _window(corrections, index, place)
    result = _replaced(corrections, index, window, around, place, new, keep_reviewed)
    patch = Patch.between(index, (around[0], around[2]), window, result)
    n = distinct(new[new > 0])[0].size
    words = f"segmenting a box again ({n} cell{'' if n == 1 else 's'})"
    return pixel_step(corrections, "resegment", words, [patch], by_person=False)


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
    around: Box,
    place: Box,
    new: NDArray[Any],
    keep_reviewed: bool,
) -> NDArray[np.int64]:
    """The window with the new objects in it."""
    top, left = place[0] - around[0], place[2] - around[2]
    here = (slice(top, top + new.shape[0]), slice(left, left + new.shape[1]))
    plane = corrections.plane(index)
    old = window[here]
    labels, inside = distinct(old[old != 0])
    reviewed = {
        int(label)
        for label in labels
        if keep_reviewed and corrections.status_code(int(label), index) != UNSEEN
    }
    kept = np.isin(old, list(reviewed))
    number, fresh = _yielding(new, kept)

    result = window.astype(np.int64)
    result[here] = np.where(kept, old, 0)
    cut: dict[int, bool] = {}  # objects with pixels outside -> do most of them lie inside
    for label, n in zip(labels.tolist(), inside.tolist(), strict=True):
        if label not in reviewed and plane.area(label) > n:
            cut[label] = n > _MOSTLY * plane.area(label)
    joins = _continued(result, here, number, set(cut))
    names = _names(old, number, labels, inside, set(cut) | reviewed, joins)
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


def _yielding(new: NDArray[Any], kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """New objects numbered 1..n, without what lies on kept objects.

    One that lies mostly on kept ones is dropped, being a second copy of them.
    """
    labels, _ = distinct(new)
    number = np.searchsorted(np.union1d(labels, 0), new)
    n = int(number.max(initial=0))
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
    if not cut:
        return {}
    whole = np.zeros(result.shape, np.int64)
    whole[here] = number
    outside = np.where(np.isin(result, list(cut)), result, 0)
    outside[here] = 0
    contact: dict[tuple[int, int], int] = {}
    h, w = result.shape
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        a = whole[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)]
        b = outside[max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)]
        touch = (a > 0) & (b > 0)
        for pair in zip(a[touch].tolist(), b[touch].tolist(), strict=True):
            contact[pair] = contact.get(pair, 0) + 1
    joins: dict[int, int] = {}
    for (mine, theirs), _ in sorted(contact.items(), key=lambda item: (-item[1], item[0])):
        if mine not in joins and theirs not in joins.values():
            joins[mine] = theirs
    return joins


def _names(
    old: NDArray[Any],
    number: NDArray[np.int64],
    labels: NDArray[Any],
    inside: NDArray[np.int64],
    taken: set[int],
    joins: dict[int, int],
) -> dict[int, int]:
    """Labels of new objects that continue old ones, or cover just about the same pixels."""
    names = dict(joins)
    both = (number > 0) & (old != 0)
    at = np.searchsorted(labels, old[both])
    pair, shared = distinct(number[both] * labels.size + at)
    pairs = zip(
        (pair // labels.size).tolist(), labels[pair % labels.size].tolist(), strict=True
    )
    area_new = np.bincount(number.ravel())
    area_old = dict(zip(labels.tolist(), inside.tolist(), strict=True))
    for (mine, theirs), n in zip(pairs, shared.tolist(), strict=True):
        # More than half of the union: true of at most one pair of each.
        union_area = area_new[mine] + area_old[theirs] - n
        if mine not in names and theirs not in taken and n > _MOSTLY * union_area:
            names[mine] = theirs
    return names
