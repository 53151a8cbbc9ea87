"""Changed pixels of one plane: the atoms that every correction is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.edits.shapes import Box

Index = tuple[int, ...]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Patch:
    """Pixels of one plane that change, as runs along rows.

    A run is a piece of a row where all pixels have the same label before, and the same
    after: an object costs a few numbers per row, whatever its size.

    Attributes
    ----------
    index : tuple of int
        Plane of the stack; () for a single plane.
    rows, cols, lengths : int64 (n,)
        First pixel and length of each run.
    old, new : int64 (n,)
        Label before and after.
    """

    index: Index
    rows: Integers
    cols: Integers
    lengths: Integers
    old: Integers
    new: Integers

    @classmethod
    def between(
        cls, index: Index, corner: tuple[int, int], old: NDArray[Any], new: NDArray[Any]
    ) -> Patch:
        """What differs between two windows (h, w) of labels, whose first pixel is corner."""
        rows, cols = np.nonzero(old != new)
        return cls._runs(
            index, rows + corner[0], cols + corner[1], old[rows, cols], new[rows, cols]
        )

    @classmethod
    def of_pixels(
        cls,
        index: Index,
        rows: NDArray[Any],
        cols: NDArray[Any],
        old: NDArray[Any],
        new: NDArray[Any],
    ) -> Patch:
        """From distinct pixels in any order; those that do not change are left out."""
        changed = old != new
        rows, cols, old, new = (a[changed] for a in (rows, cols, old, new))
        order = np.lexsort((cols, rows))
        return cls._runs(index, rows[order], cols[order], old[order], new[order])

    @classmethod
    def _runs(
        cls,
        index: Index,
        rows: NDArray[Any],
        cols: NDArray[Any],
        old: NDArray[Any],
        new: NDArray[Any],
    ) -> Patch:
        """From changed pixels in raster order."""
        first = np.ones(rows.size, bool)
        first[1:] = (
            (rows[1:] != rows[:-1])
            | (cols[1:] != cols[:-1] + 1)
            | (old[1:] != old[:-1])
            | (new[1:] != new[:-1])
        )
        at = np.flatnonzero(first)
        lengths = np.diff(np.append(at, rows.size))
        columns = (rows[at], cols[at], lengths, old[at], new[at])
        return cls(tuple(int(i) for i in index), *(c.astype(np.int64) for c in columns))

    def __bool__(self) -> bool:
        return self.rows.size > 0

    @property
    def nbytes(self) -> int:
        """Memory of the runs."""
        return 5 * self.rows.nbytes

    @property
    def n_pixels(self) -> int:
        """Number of changed pixels."""
        return int(self.lengths.sum())

    @property
    def box(self) -> Box:
        """Bounding box of the changed pixels, of which there is at least one."""
        ends = self.cols + self.lengths
        return (
            int(self.rows.min()),
            int(self.rows.max()) + 1,
            int(self.cols.min()),
            int(ends.max()),
        )

    def boxes(self, side: int = 128) -> list[Box]:
        """Boxes that together hold all changed pixels, none much larger than side.

        A stroke from corner to corner changes few pixels of its bounding box.
        """
        if self.n_pixels == 0:
            return []
        return cell_boxes(self.rows, self.cols, self.cols + self.lengths, side)

    def pixels(self) -> tuple[Integers, Integers]:
        """Rows and columns of all changed pixels."""
        return expanded(self.rows, self.cols, self.lengths)

    def inverse(self) -> Patch:
        """The patch that takes this one back."""
        return Patch(self.index, self.rows, self.cols, self.lengths, self.new, self.old)


def cell_boxes(rows: Integers, starts: Integers, ends: Integers, side: int) -> list[Box]:
    """Boxes around runs, one for each cell of a grid in which some of them start."""
    y0, y1 = int(rows.min()), int(rows.max()) + 1
    x0, x1 = int(starts.min()), int(ends.max())
    if max(y1 - y0, x1 - x0) <= side:
        return [(y0, y1, x0, x1)]
    cell = rows // side * (x1 // side + 1) + starts // side
    order = np.argsort(cell, kind="stable")
    first = np.flatnonzero(np.diff(cell[order], prepend=-1))
    edges = (
        np.minimum.reduceat(rows[order], first),
        np.maximum.reduceat(rows[order], first) + 1,
        np.minimum.reduceat(starts[order], first),
        np.maximum.reduceat(ends[order], first),
    )
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in zip(*edges, strict=True)]


def distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Distinct values and how often each occurs, like np.unique.

    Labels of a window are mostly a narrow range, where counting beats sorting.
    """
    if values.size == 0:
        return values.ravel(), np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low > 4 * values.size + 1_000_000:
        found, counts = np.unique(values, return_counts=True)
        return found, counts
    counts = np.bincount((values.ravel() - low).astype(np.int64))
    there = np.flatnonzero(counts)
    return (there + low).astype(values.dtype), counts[there]


def expanded(rows: Integers, cols: Integers, lengths: Integers) -> tuple[Integers, Integers]:
    """Rows and columns of all pixels of runs."""
    ends = np.cumsum(lengths)
    offset = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - lengths, lengths)
    return np.repeat(rows, lengths), np.repeat(cols, lengths) + offset
