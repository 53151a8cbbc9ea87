"""Which pixels are reviewed: those that a model may learn from.

On every plane a pixel is reviewed when it lies in no region to ignore, and

* it lies in a region marked as wholly reviewed; or
* it belongs to an accepted or corrected object; or
* it is background, an accepted or corrected object is at most REACH px away (between pixel
  centres), and no other object is nearer: half the gap, and no more than REACH; or
* it is background where a person deleted an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.patch import Index
from napari_sa2net.edits.regions import Region
from napari_sa2net.edits.shapes import Box, Points, as_box, grown
from napari_sa2net.edits.step import Step

Mask = NDArray[np.bool_]

#: Farthest reviewed background from its object (px).
REACH = 15
#: Side of the blocks in which a large mask is made (px).
_BLOCK = 512


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
    marked = np.asarray(list(corrections.marked(index)), np.int64)
    regions = [(r, r.box(shape)) for r in corrections.regions_of(index)]
    for block in _blocks(whole):
        here = slice(block[0] - whole[0], block[1] - whole[0])
        there = slice(block[2] - whole[2], block[3] - whole[2])
        near = corrections.plane(index).meeting(grown(block, REACH, shape))
        some = marked[np.isin(marked, near)]
        touching = [r for r, own in regions if own is not None and _meet(own, block)]
        if some.size or touching:
            mask[here, there] = _block_mask(corrections, index, block, some, touching)
    return mask


def _blocks(box: Box) -> Iterator[Box]:
    y0, y1, x0, x1 = box
    for top in range(y0, y1, _BLOCK):
        for left in range(x0, x1, _BLOCK):
            yield top, min(top + _BLOCK, y1), left, min(left + _BLOCK, x1)


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _block_mask(
    corrections: Corrections,
    index: Index,
    block: Box,
    marked: NDArray[np.int64],
    regions: list[Region],
) -> Mask:
    around = grown(block, REACH, corrections.shape)
    window = corrections.read(index, around)
    inner = (
        slice(block[0] - around[0], block[1] - around[0]),
        slice(block[2] - around[2], block[3] - around[2]),
    )
    background = window[inner] == 0
    mask = np.zeros(background.shape, bool)
    own = np.isin(window, marked) if marked.size else np.zeros(window.shape, bool)
    if own.any():
        away = ndimage.distance_transform_edt(~own)[inner]
        mask |= away <= REACH
        others = (window != 0) & ~own
        if others.any():
            # Equally far from both is half the gap. Pixels of others are 0 away from them.
            mask &= away <= ndimage.distance_transform_edt(~others)[inner]
    for kind in ("cleared", "reviewed", "ignore"):
        for region in regions:
            if region.kind == kind:
                area = region.mask(block)
                if kind == "cleared":
                    mask |= area & background
                elif kind == "reviewed":
                    mask |= area
                else:
                    mask &= ~area
    return mask


class ReviewedMask:
    """The reviewed pixels of planes, kept up to date step by step.

    Parameters
    ----------
    corrections : Corrections
    """

    def __init__(self, corrections: Corrections) -> None:
        self._corrections = corrections
        self._planes: dict[Index, Mask] = {}

    def plane(self, index: Index = ()) -> Mask:
        """Reviewed pixels of a plane (H, W); computed once, then changed in place."""
        index = self._corrections.checked(index)
        if index not in self._planes:
            self._planes[index] = reviewed_mask(self._corrections, index)
        return self._planes[index]

    def forget(self, index: Index) -> None:
        """Free the memory of a plane that is not shown any more."""
        self._planes.pop(index, None)

    def update(self, step: Step) -> dict[Index, list[Box]]:
        """Follow a step that was just done or undone.

        Returns
        -------
        dict of index to boxes (y0, y1, x0, x1)
            The parts of the planes that may have changed.
        """
        changed = changed_boxes(self._corrections, step)
        for index, boxes in changed.items():
            if index in self._planes:
                for y0, y1, x0, x1 in boxes:
                    self._planes[index][y0:y1, x0:x1] = reviewed_mask(
                        self._corrections, index, (y0, y1, x0, x1)
                    )
        return changed


def changed_boxes(corrections: Corrections, step: Step) -> dict[Index, list[Box]]:
    """Where reviewed pixels may change by a step that was just done or undone."""
    shape = corrections.shape
    found: dict[Index, list[Box]] = {}
    for index, box in step.boxes.items():
        found.setdefault(index, []).append(grown(box, REACH, shape))
    for marks in step.marks:
        plane = corrections.plane(marks.index)
        for label in marks.labels.tolist():
            if label in plane:  # of one that vanished, the pixels changed
                found.setdefault(marks.index, []).append(grown(plane.box(label), REACH, shape))
    for region in (*step.added, *step.removed):
        box_of = region.box(shape)
        if box_of is not None:
            found.setdefault(region.index, []).append(box_of)
    return found


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
    padded = np.pad(np.asarray(mask, np.float32), 1)
    shift = np.asarray(corner, np.float64) - 1
    return [
        approximate_polygon(line, tolerance=0.6) + shift for line in find_contours(padded, 0.5)
    ]
