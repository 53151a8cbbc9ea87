"""Which pixels are reviewed: those that a model may learn from.

On every plane a pixel is reviewed when it lies in no region to ignore, and

* it lies in a region marked as wholly reviewed; or
* it belongs to an accepted or corrected object; or
* it is background, an accepted or corrected object is at most REACH px away (between pixel
  centres), and no other object is nearer: half the gap, and no more than REACH; or
* it is background where a person deleted an object, unless that was larger than LARGE typical
  objects. To delete a blob that covers half the image says that it is no cell, but not that
  there is no cell in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.objects import named, status_change
from napari_sa2net.edits.shapes import (
    Box,
    Points,
    as_box,
    as_point,
    as_points,
    blocks_of,
    box_polygon,
    grown,
    inside_polygon,
    polygon_box,
    squared_distance,
    union,
)
from napari_sa2net.edits.step import (
    ACCEPTED,
    REGION_KINDS,
    UNSEEN,
    Index,
    Region,
    RegionKind,
    Step,
    drawn_region,
)
from napari_sa2net.errors import EditError, NothingToEditError

Mask = NDArray[np.bool_]

#: Farthest reviewed background from its object (px).
REACH = 15
#: A deleted object of more times the typical area says nothing about its place.
LARGE = 4.0
#: Side of the blocks in which a large mask is made (px).
_BLOCK = 512
#: Side of the blocks in which many boxes are updated (px).
_SMALL_BLOCK = 64
#: Labels below this are looked up in a table.
_TABLE = 2**20
#: To draw a box takes as long as so many pixels, whatever its size.
_PER_BOX = 8000


def reviewed_mask(corrections: Corrections, index: Index = (), box: Any = None) -> Mask:
    """Reviewed pixels of a plane or of a part of it.

    Parameters
    ----------
    corrections : Corrections
    index : tuple of int
        Plane of the stack.
    box : (y0, y1, x0, x1), optional
        Part of the plane, clipped to it; all of it if not given. What lies outside is taken
        into account, so the parts of a plane fit together.

    Returns
    -------
    bool (y1 - y0, x1 - x0)

    Raises
    ------
    EditError
        If there is no such plane or box.
    """
    index = corrections.checked(index)
    shape = corrections.shape
    whole = (0, shape[0], 0, shape[1]) if box is None else as_box(box, shape)
    mask = np.zeros((whole[1] - whole[0], whole[3] - whole[2]), bool)
    _draw(corrections, index, mask, (whole[0], whole[2]), [whole])
    return mask


def _draw(
    corrections: Corrections,
    index: Index,
    mask: Mask,
    corner: tuple[int, int],
    boxes: Iterable[Box],
) -> None:
    """Draw the reviewed pixels of boxes into a mask whose first pixel lies at corner."""
    shape = corrections.shape
    plane = corrections.plane(index)
    marked = corrections.marked_labels(index)
    regions = corrections.regions_of(index)
    # tight boxes: the one around a region with parts far from each other meets every block
    tight = [region.boxes(shape) for region in regions]
    of = np.repeat(np.arange(len(regions)), [len(boxes) for boxes in tight])
    places = np.asarray([box for boxes in tight for box in boxes], np.int64).reshape(-1, 4)
    largest = largest_cleared(corrections, index)
    for y0, y1, x0, x1 in (block for box in boxes for block in _blocks(box)):
        block = (y0, y1, x0, x1)
        meeting = plane.meeting(grown(block, REACH, shape)).tolist()
        some = np.asarray([label for label in meeting if label in marked], np.int64)
        meets = (places[:, 0] < y1) & (places[:, 1] > y0)
        meets &= (places[:, 2] < x1) & (places[:, 3] > x0)
        touching = [regions[i] for i in np.unique(of[meets]).tolist()]
        mask[y0 - corner[0] : y1 - corner[0], x0 - corner[1] : x1 - corner[1]] = (
            _block_mask(corrections, index, block, some, touching, largest)
            if some.size or touching
            else False
        )


def _blocks(box: Box) -> Iterator[Box]:
    """Parts of about equal size."""
    y0, y1, x0, x1 = box
    rows = np.linspace(y0, y1, -((y0 - y1) // _BLOCK) + 1).astype(int).tolist()
    cols = np.linspace(x0, x1, -((x0 - x1) // _BLOCK) + 1).astype(int).tolist()
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            yield top, bottom, left, right


def _block_mask(
    corrections: Corrections,
    index: Index,
    block: Box,
    marked: NDArray[np.int64],
    regions: list[Region],
    largest: float,
) -> Mask:
    around = grown(block, REACH, corrections.shape)
    window = corrections.look(index, around)
    inner = (
        slice(block[0] - around[0], block[1] - around[0]),
        slice(block[2] - around[2], block[3] - around[2]),
    )
    background = window[inner] == 0
    mask = np.zeros(background.shape, bool)
    own = _members(window, marked)
    if own.any():
        away = squared_distance(own, REACH)[inner]
        mask |= away <= REACH**2
        others = (window != 0) & ~own
        if others.any():
            # Equally far from both is half the gap. Pixels of others are 0 away from them.
            mask &= away <= squared_distance(others, REACH)[inner]
    for kind in ("cleared", "reviewed", "ignore"):
        for region in regions:
            if region.kind == kind:
                area = region.mask(block, largest)
                if kind == "cleared":
                    mask |= area & background
                elif kind == "reviewed":
                    mask |= area
                else:
                    mask &= ~area
    return mask


def _members(window: NDArray[Any], labels: NDArray[np.int64]) -> Mask:
    """Pixels of a window that have one of a few labels; by a table where these are small."""
    if labels.size == 0:
        return np.zeros(window.shape, bool)
    highest = int(window.max())
    if highest >= _TABLE:
        return np.isin(window, labels)
    table = np.zeros(highest + 1, bool)
    table[labels[labels <= highest]] = True
    return table[window]


def largest_cleared(corrections: Corrections, index: Index = ()) -> float:
    """Area (px) up to which the place of a deleted object is reviewed background.

    By the median area of the accepted and corrected objects of the plane; of all its objects
    where there is none; without any, there is no limit.
    """
    if all(region.kind != "cleared" for region in corrections.regions_of(index)):
        return np.inf
    plane = corrections.plane(index)
    areas, marked = plane.areas, corrections.marked_labels(index)
    own = np.fromiter((label in marked for label in plane.labels.tolist()), bool, areas.size)
    some = areas[own] if own.any() else areas
    return LARGE * float(np.median(some)) if some.size else np.inf


def reviewed_regions(corrections: Corrections, index: Index = ()) -> list[Region]:
    """Regions of a plane that make pixels reviewed, as long as they are background."""
    largest = largest_cleared(corrections, index)
    return [
        region
        for region in corrections.regions_of(index)
        if region.kind == "reviewed"
        or (region.kind == "cleared" and (region.runs[3] <= largest).any())
    ]


class ReviewedMask:
    """The reviewed pixels of planes, kept up to date step by step.

    Parameters
    ----------
    corrections : Corrections
    """

    def __init__(self, corrections: Corrections) -> None:
        self._corrections = corrections
        self._planes: dict[Index, Mask] = {}
        self._largest: dict[Index, float] = {}

    def plane(self, index: Index = ()) -> Mask:
        """Reviewed pixels of a plane (H, W); computed once, then changed in place."""
        index = self._corrections.checked(index)
        if index not in self._planes:
            self._planes[index] = reviewed_mask(self._corrections, index)
            self._largest[index] = largest_cleared(self._corrections, index)
        return self._planes[index]

    def forget(self, index: Index) -> None:
        """Free the memory of a plane that is not shown any more."""
        self._planes.pop(index, None)
        self._largest.pop(index, None)

    def update(self, step: Step) -> dict[Index, list[Box]]:
        """Follow a step that was just done or undone.

        Returns
        -------
        dict of index to boxes (y0, y1, x0, x1)
            The parts of the planes that may have changed.
        """
        changed = changed_boxes(self._corrections, step)
        for index, known in self._largest.items():
            self._largest[index] = now = largest_cleared(self._corrections, index)
            if now != known:
                flipped = self._between(index, *sorted((known, now)))
                changed.setdefault(index, []).extend(flipped)
        changed = {index: boxes for index, boxes in changed.items() if boxes}
        for index, boxes in changed.items():
            if index in self._planes:
                _draw(self._corrections, index, self._planes[index], (0, 0), boxes)
        return changed

    def _between(self, index: Index, low: float, high: float) -> list[Box]:
        """Places of deleted objects of more than `low` and at most `high` px."""
        boxes = []
        for region in self._corrections.regions_of(index):
            if region.kind == "cleared":
                boxes += region.boxes(self._corrections.shape, (low, high))
        return boxes


def changed_boxes(corrections: Corrections, step: Step) -> dict[Index, list[Box]]:
    """Where reviewed pixels may change by a step that was just done or undone."""
    shape = corrections.shape
    found: dict[Index, list[Box]] = {}
    for patch in step.patches:
        near = [grown(box, REACH, shape) for box in patch.boxes()]
        found.setdefault(patch.index, []).extend(near)
    for marks in step.marks:
        plane = corrections.plane(marks.index)
        for label in marks.labels.tolist():
            if label in plane:  # of one that vanished, the pixels changed
                parts = corrections.parts(label, marks.index)
                near = [grown(box, REACH, shape) for box in parts]
                found.setdefault(marks.index, []).extend(near)
    for region in (*step.added, *step.removed):
        found.setdefault(region.index, []).extend(region.boxes(shape))
    return {index: _once(boxes, shape) for index, boxes in found.items()}


def _once(boxes: list[Box], shape: tuple[int, int]) -> list[Box]:
    """Boxes that hold the same pixels, which take the least to draw.

    Those themselves; of many that lie on each other, the blocks of a grid that they meet, or
    one around all.
    """
    boxes = list(dict.fromkeys(boxes))
    if len(boxes) <= 1:
        return boxes
    blocks = _fused(blocks_of(boxes, _SMALL_BLOCK, shape))
    return min((boxes, blocks, [union(boxes)]), key=_cost)


def _fused(boxes: list[Box]) -> list[Box]:
    """The same pixels in fewer boxes: neighbours in a row, then those under each other."""
    for _ in range(2):
        found: list[Box] = []
        for a0, a1, b0, b1 in sorted(boxes):
            if found and found[-1][:2] == (a0, a1) and found[-1][3] == b0:
                found[-1] = (a0, a1, found[-1][2], b1)
            else:
                found.append((a0, a1, b0, b1))
        boxes = [(b0, b1, a0, a1) for a0, a1, b0, b1 in found]
    return boxes


def _cost(boxes: list[Box]) -> int:
    """Pixels that are looked at to draw boxes, and what each box takes beside."""
    sides = ((y1 - y0 + 2 * REACH, x1 - x0 + 2 * REACH) for y0, y1, x0, x1 in boxes)
    return sum(height * width + _PER_BOX for height, width in sides)


def outlines(mask: Mask, corner: tuple[int, int] = (0, 0)) -> list[Points]:
    """Outlines of a mask, as closed lines for display.

    Parameters
    ----------
    mask : bool (h, w)
    corner : (y, x) of its first pixel in the image

    Returns
    -------
    list of float64 (n, 2)
        Points (y, x) between pixels, first equal to last; also around holes.
    """
    from skimage.measure import approximate_polygon, find_contours  # slow to load

    padded = np.pad(np.asarray(mask, np.float32), 1)
    shift = np.asarray(corner, np.float64) - 1
    return [
        approximate_polygon(line, tolerance=0.6) + shift for line in find_contours(padded, 0.5)
    ]


# --------------------------------------------------------------------------------------------
# What a person says of objects and areas without changing a pixel.

_REGION_WORDS = {"ignore": "region to ignore", "reviewed": "reviewed region"}


def accept(corrections: Corrections, labels: Iterable[int], index: Index = ()) -> Step:
    """Say that objects are right as they are. Corrected ones stay marked as corrected.

    Raises
    ------
    NothingToEditError
        If all of them were reviewed before.
    EditError
        If a label is not there.
    """
    index = corrections.checked(index)
    chosen = corrections.objects(labels, index)
    fresh = [label for label in chosen if corrections.status_code(label, index) == UNSEEN]
    if not fresh:
        raise NothingToEditError("Every cell there is reviewed already.")
    return _status_step(corrections, index, fresh, ACCEPTED)


def accept_in_view(corrections: Corrections, view: Any, index: Index = ()) -> Step:
    """Accept all objects whose centres lie in a box (y0, y1, x0, x1), clipped to the image.

    Objects in regions to ignore are passed over. Errors as of :func:`accept`.
    """
    index = corrections.checked(index)
    box = as_box(view, corrections.shape)
    plane = corrections.plane(index)
    ignored = _in_regions(corrections, index, "ignore")
    labels = [label for label in plane.within(box).tolist() if label not in ignored]
    if not labels:
        raise NothingToEditError("There is no cell in view.")
    return accept(corrections, labels, index)


def unaccept(corrections: Corrections, labels: Iterable[int], index: Index = ()) -> Step:
    """Take back that objects are reviewed, whether accepted or corrected.

    Raises
    ------
    NothingToEditError
        If none of them was reviewed.
    EditError
        If a label is not there.
    """
    index = corrections.checked(index)
    chosen = corrections.objects(labels, index)
    known = [label for label in chosen if corrections.status_code(label, index) != UNSEEN]
    if not known:
        raise NothingToEditError("No cell there is reviewed yet.")
    return _status_step(corrections, index, known, UNSEEN)


def mark_region(
    corrections: Corrections,
    kind: RegionKind,
    index: Index = (),
    *,
    polygon: ArrayLike | None = None,
    box: Any = None,
) -> Step:
    """Mark an area as wholly reviewed, or to be ignored.

    Parameters
    ----------
    corrections : Corrections
    kind : "reviewed" or "ignore"
    index : tuple of int
        Plane of the stack.
    polygon : (n, 2) points (y, x), optional
    box : (y0, y1, x0, x1), optional
        Half-open, in pixels; one of the two is needed.

    Raises
    ------
    EditError
        If the kind is unknown, or the area holds no pixel of the image.
    """
    index = corrections.checked(index)
    if kind not in _REGION_WORDS:
        known = [name for name in REGION_KINDS if name in _REGION_WORDS]
        raise EditError(f"A region is {' or '.join(known)}, not {kind!r}.")
    if (polygon is None) == (box is None):
        raise EditError("Draw the region as a polygon or as a box.")
    if box is not None:
        corners = box_polygon(as_box(box, corrections.shape))
    else:
        assert polygon is not None
        corners = as_points(polygon, 3, "region")
    region = drawn_region(corrections.new_region(), kind, index, corners)
    place = polygon_box(corners, corrections.shape)
    if place is None or not region.mask(place).any():
        raise EditError("The region holds no pixel of the image: draw it on the image.")
    return Step("region", f"marking of a {_REGION_WORDS[kind]}", added=(region,))


def remove_region(corrections: Corrections, region_id: int) -> Step:
    """Remove a marked region.

    Raises
    ------
    EditError
        If there is none of that id.
    """
    region = corrections.regions.get(region_id)
    if region is None or region.kind not in _REGION_WORDS:
        raise EditError(f"There is no marked region {region_id!r}.")
    words = f"removal of a {_REGION_WORDS[region.kind]}"
    return Step("unregion", words, removed=(region,))


def region_at(corrections: Corrections, point: ArrayLike, index: Index = ()) -> Region | None:
    """The newest marked region under a point (y, x); None where there is none."""
    y, x = as_point(point)
    for region in reversed(corrections.regions_of(corrections.checked(index))):
        if region.kind in _REGION_WORDS and inside_polygon(region.polygon, y, x):
            return region
    return None


def reviewed_labels(corrections: Corrections, index: Index = ()) -> set[int]:
    """Objects that count as reviewed: accepted, corrected, or in a reviewed region."""
    marked = corrections.marked_labels(corrections.checked(index))
    return set(marked) | _in_regions(corrections, index, "reviewed")


def ignored_labels(corrections: Corrections, index: Index = ()) -> set[int]:
    """Objects whose centres lie in a region to ignore."""
    return _in_regions(corrections, corrections.checked(index), "ignore")


def _in_regions(corrections: Corrections, index: Index, kind: str) -> set[int]:
    regions = [region for region in corrections.regions_of(index) if region.kind == kind]
    found: set[int] = set()
    if regions:
        plane = corrections.plane(index)
        labels = plane.labels
        y, x = plane.centres.T
        for region in regions:
            found.update(labels[inside_polygon(region.polygon, y, x)].tolist())
    return found


def _status_step(
    corrections: Corrections, index: Index, labels: list[int], status: int
) -> Step:
    values = np.asarray(labels, np.int64)
    marks = status_change(corrections, index, values, np.full(values.size, status, np.int64))
    if status == ACCEPTED:
        return Step("accept", f"acceptance of {named(labels)}", marks=(marks,))
    return Step("unaccept", f"taking {named(labels)} back from review", marks=(marks,))
