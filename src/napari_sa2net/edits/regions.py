"""Areas of a plane that a person marked, and those that their deletions cleared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.edits.patch import Index, Integers, cell_boxes, expanded
from napari_sa2net.edits.shapes import (
    Box,
    Points,
    common,
    polygon_box,
    polygon_mask,
)

RegionKind = Literal["ignore", "reviewed", "cleared"]
REGION_KINDS: tuple[str, ...] = get_args(RegionKind)

#: Side of the blocks in which a cleared region is looked at (px).
_BLOCK = 128


@dataclass(frozen=True, eq=False)
class Region:
    """A marked area of one plane.

    Attributes
    ----------
    id : int
        Unique among the regions of a set of corrections.
    kind : "ignore", "reviewed" or "cleared"
        Never trained on; wholly reviewed; or where deleted objects were, which is reviewed
        background as long as it stays background.
    index : tuple of int
        Plane of the stack.
    polygon : float64 (n, 2)
        Corners (y, x) of a drawn region; (0, 2) for cleared ones.
    runs : int64 (4, m)
        Rows, columns and lengths of a cleared region, and the area (px) of the deleted object
        that each was of; (4, 0) for drawn ones.
    """

    id: int
    kind: RegionKind
    index: Index
    polygon: Points
    runs: Integers

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Region)
            and (self.id, self.kind, self.index) == (other.id, other.kind, other.index)
            and np.array_equal(self.polygon, other.polygon)
            and np.array_equal(self.runs, other.runs)
        )

    def __hash__(self) -> int:
        return hash((self.id, self.kind, self.index))

    @property
    def nbytes(self) -> int:
        """Memory of the outline or the runs."""
        return self.polygon.nbytes + self.runs.nbytes

    def box(self, shape: tuple[int, int]) -> Box | None:
        """Bounding box within a plane (H, W); None where it lies outside."""
        if self.kind != "cleared":
            return polygon_box(self.polygon, shape)
        rows, cols, lengths, _ = self.runs
        return (
            int(rows.min()),
            int(rows.max()) + 1,
            int(cols.min()),
            int((cols + lengths).max()),
        )

    def boxes(self, shape: tuple[int, int]) -> list[Box]:
        """Boxes that together hold the region; of places far apart, one around each."""
        if self.kind == "cleared":
            rows, cols, lengths, _ = self.runs
            return cell_boxes(rows, cols, cols + lengths, _BLOCK)
        box = self.box(shape)
        return [] if box is None else [box]

    def mask(self, box: Box, largest: float = np.inf) -> NDArray[np.bool_]:
        """Pixels of a box that lie in the region; bool (y1 - y0, x1 - x0).

        Of a cleared region only the places of objects whose area was `largest` px or less.
        """
        y0, y1, x0, x1 = box
        mask = np.zeros((y1 - y0, x1 - x0), bool)
        own = self.box((y1, x1))
        part = None if own is None else common(own, box)
        if part is None:
            return mask
        if self.kind != "cleared":
            a, b, c, d = part
            mask[a - y0 : b - y0, c - x0 : d - x0] = polygon_mask(self.polygon, part)
            return mask
        small = self.runs[3] <= largest
        rows, cols = expanded(*self.runs[:3, small])
        inside = (rows >= y0) & (rows < y1) & (cols >= x0) & (cols < x1)
        mask[rows[inside] - y0, cols[inside] - x0] = True
        return mask


def drawn_region(id: int, kind: RegionKind, index: Index, polygon: Points) -> Region:
    """A region with a drawn outline."""
    return Region(id, kind, index, polygon, np.empty((4, 0), np.int64))


def cleared_region(id: int, index: Index, runs: Integers) -> Region:
    """The place of deleted objects, as runs (4, m)."""
    return Region(id, "cleared", index, np.empty((0, 2)), runs)
