"""Objects that a model proposes where nobody has reviewed, as one step of the history.

Two moves, as a person may go on in between: `proposed` lays new objects under what stays, on
plain arrays and anywhere; `proposal` makes a step of it that leaves out what was edited since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts load on first use
from numpy.typing import NDArray

from napari_sa2net.edits.areas import names_of, yielding
from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.objects import pixel_step
from napari_sa2net.edits.shapes import Box
from napari_sa2net.edits.step import Index, Patch, Step
from napari_sa2net.errors import NothingToEditError
from napari_sa2net.metrics import distinct, overlap_table
from napari_sa2net.words import counted

#: A new object that covers an old one so well (IoU) is no change that a person would see.
SAME = 0.85


@dataclass(frozen=True)
class Changed:
    """Which objects a proposal changes.

    Attributes
    ----------
    changed, new, gone : tuple of int
        Labels.
    """

    changed: tuple[int, ...] = ()
    new: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.new or self.gone)

    @property
    def words(self) -> str:
        """Such as: 41 cells changed, 12 new, 5 gone."""
        said = ((self.changed, "changed"), (self.new, "new"), (self.gone, "gone"))
        first, *more = [(len(labels), how) for labels, how in said if labels] or [
            (0, "changed")
        ]
        parts = [f"{counted(first[0], 'cell')} {first[1]}"]
        return ", ".join([*parts, *(f"{n} {how}" for n, how in more)])


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is compared to tell which objects were edited since.

    Attributes
    ----------
    objects : dict of int to (float, float, float)
        Area and centre of each object of a plane.
    regions : frozenset of int
        Ids of the regions.
    """

    objects: dict[int, tuple[float, float, float]]
    regions: frozenset[int]

    @classmethod
    def of(cls, corrections: Corrections, index: Index) -> Snapshot:
        """As they are now."""
        plane = corrections.plane(index)
        columns = np.column_stack([plane.areas, plane.centres]).tolist()
        objects = dict(zip(plane.labels.tolist(), map(tuple, columns), strict=True))
        return cls(objects, frozenset(r.id for r in corrections.regions_of(index)))

    def edited(self, corrections: Corrections, index: Index) -> set[int]:
        """Objects that are gone, new, or no longer as they were."""
        now = Snapshot.of(corrections, index).objects
        return {label for label, _ in self.objects.items() ^ now.items()}


def proposed(
    labels: NDArray[np.integer],
    new_labels: NDArray[np.integer],
    stays: NDArray[np.bool_],
    corner: tuple[int, int] = (0, 0),
    shape: tuple[int, int] | None = None,
) -> Patch:
    """What changes where new objects take the place of those that may go.

    An object that has a pixel in what stays, stays whole, and new ones yield to it. So does
    one that reaches beyond the box. A new object that covers an old one but for a little
    (`SAME`) leaves it as it is; one that covers just about an old one keeps its label.

    Parameters
    ----------
    labels : int (h, w)
        Of a box of a plane.
    new_labels : int (h, w)
        In any numbering; 0 is background.
    stays : bool (h, w)
        Pixels that nothing may change.
    corner : (y, x)
        First pixel of the box in the plane.
    shape : (H, W), optional
        Of the plane; unsaid, the box is all of it.

    Returns
    -------
    Patch
        Of plane (); labels of objects that are new are negative.
    """
    old = np.asarray(labels).astype(np.int64)
    fixed = np.array(stays, bool)
    open_edges = _open_edges(old.shape, corner, shape)
    new = _inside(np.asarray(new_labels), open_edges)
    kept = distinct(old[fixed | open_edges])[0]
    fixed |= np.isin(old, kept[kept > 0])
    number, n = yielding(new, fixed)
    number = _in_one_piece(number, new, fixed)
    # what is nearly as it was is not touched
    free = np.where(fixed, 0, old)
    table = overlap_table(free, number)
    union = table.area_before[table.i] + table.area_after[table.j] - table.shared
    same = table.shared >= SAME * union
    fixed |= np.isin(free, table.before[table.i][same])
    number[np.isin(number, table.after[table.j][same])] = 0
    number[fixed] = 0
    free = np.where(fixed, 0, old)
    there, areas = distinct(free[free > 0])
    names = names_of(free, number, there, areas, set(), {})
    to = -np.arange(n + 1)
    for own, label in names.items():
        to[own] = label
    result = np.where(fixed, old, to[number])
    return Patch.between((), corner, old, result)


def proposal(
    corrections: Corrections,
    index: Index,
    patch: Patch,
    words: str,
    since: Snapshot,
) -> tuple[Step, Changed]:
    """The step of what `proposed` gave for the labels as they were, on those of now.

    Objects are left as they are now if anything of them, or of what would take their place,
    was edited or reviewed meanwhile.

    Parameters
    ----------
    corrections : Corrections
    index : tuple of int
        Plane of the stack.
    patch : Patch
        As of `proposed`, in pixels of the plane.
    words : str
        Of the step; what changes follows in brackets.
    since : Snapshot
        Of when `proposed` was given the labels.

    Raises
    ------
    NothingToEditError
        If nothing is left to change.
    """
    index = corrections.checked(index)
    rows, cols = patch.pixels()
    now = corrections.read_pixels(index, rows, cols).astype(np.int64)
    run = np.repeat(np.arange(patch.rows.size), patch.lengths)
    edited = now != patch.old[run]
    touched = edited
    for region in corrections.regions_of(index):
        if region.id not in since.regions and region.kind != "cleared" and rows.size:
            touched = touched | _in(region, patch.box, rows, cols)
    left = {*patch.old[run[touched]].tolist(), *patch.new[run[touched]].tolist()}
    left |= {*now[edited].tolist(), *corrections.marked_labels(index)}
    left |= since.edited(corrections, index)
    keep = ~_tied(patch, left)
    old, new = patch.old[keep], patch.new[keep]
    if not old.size:
        raise NothingToEditError("That changes nothing.")
    fresh = distinct(new[new < 0])[0][::-1]
    numbers = np.asarray(corrections.new_labels(fresh.size), np.int64)
    named = new.copy()
    named[new < 0] = numbers[np.searchsorted(-fresh, -new[new < 0])]
    final = Patch(index, patch.rows[keep], patch.cols[keep], patch.lengths[keep], old, named)
    changed = _changes(corrections, index, final, {*numbers.tolist()})
    step = pixel_step(
        corrections, "resegment", f"{words} ({changed.words})", [final], by_person=False
    )
    return step, changed


def _changes(corrections: Corrections, index: Index, patch: Patch, fresh: set[int]) -> Changed:
    plane = corrections.plane(index)
    by: dict[int, int] = {}
    for values, sign in ((patch.old, -1), (patch.new, 1)):
        there, which = np.unique(values, return_inverse=True)
        pixels = np.bincount(which, patch.lengths).astype(np.int64)
        for label, n in zip(there.tolist(), pixels.tolist(), strict=True):
            by[label] = by.get(label, 0) + sign * n
    by.pop(0, None)
    gone = {label for label, n in by.items() if plane.area(label) + n <= 0}
    changed = set(by) - gone - fresh
    ordered: Sequence[tuple[int, ...]] = [tuple(sorted(s)) for s in (changed, fresh, gone)]
    return Changed(*ordered)


def _tied(patch: Patch, left: set[int]) -> NDArray[np.bool_]:
    """Runs of objects that are left, or that take or give pixels of such, and so on."""
    values, which = np.unique(np.concatenate([patch.old, patch.new]), return_inverse=True)
    old, new = which[: patch.old.size], which[patch.old.size :]
    both = (values[old] != 0) & (values[new] != 0)
    lost = np.isin(values, [label for label in left if label])
    reached = -1
    while reached != (reached := int(lost.sum())):
        spread = both & (lost[old] | lost[new])
        lost[old[spread]] = lost[new[spread]] = True
    result: NDArray[np.bool_] = lost[old] | lost[new]
    return result


def _in(region: Any, box: Box, rows: NDArray[Any], cols: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pixels lie in a region."""
    y0, _, x0, _ = box
    inside: NDArray[np.bool_] = region.mask(box)[rows - y0, cols - x0]
    return inside


def _open_edges(
    size: tuple[int, ...], corner: tuple[int, int], shape: tuple[int, int] | None
) -> NDArray[np.bool_]:
    """Pixels at the edges of a box beyond which the plane goes on."""
    edges = np.zeros(size, bool)
    if shape is not None:
        edges[0] |= corner[0] > 0
        edges[-1] |= corner[0] + size[0] < shape[0]
        edges[:, 0] |= corner[1] > 0
        edges[:, -1] |= corner[1] + size[1] < shape[1]
    return edges


def _inside(new: NDArray[np.integer], open_edges: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Without the objects that such an edge cuts."""
    cut = distinct(new[open_edges])[0] if open_edges.any() else new[:0, 0]
    return np.where(np.isin(new, cut[cut > 0]), 0, new) if (cut > 0).any() else new


def _in_one_piece(
    number: NDArray[np.int64], new: NDArray[np.integer], fixed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Of objects that yielded pixels, the largest piece."""
    torn = distinct(number[_beside(fixed & (new > 0))])[0]
    boxes = scipy.ndimage.find_objects(number)
    for own in torn[torn > 0].tolist():
        box = boxes[own - 1]
        if box is None:
            continue
        pieces, n = scipy.ndimage.label(number[box] == own)
        if n > 1:
            areas = np.bincount(pieces.ravel())
            areas[0] = 0
            number[box][(pieces > 0) & (pieces != areas.argmax())] = 0
    return number


def _beside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return scipy.ndimage.binary_dilation(mask) & ~mask
