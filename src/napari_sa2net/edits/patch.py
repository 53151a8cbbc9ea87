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

    def pixels(self) -> tuple[Integers, Integers]:
        """Rows and columns of all changed pixels."""
        return expanded(self.rows, self.cols, self.lengths)

    def inverse(self) -> Patch:
        """The patch that takes this one back."""
        return Patch(self.index, self.rows, self.cols, self.lengths, self.new, self.old)


def expanded(rows: Integers, cols: Integers, lengths: Integers) -> tuple[Integers, Integers]:
    """Rows and columns of all pixels of runs."""
    ends = np.cumsum(lengths)
    offset = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - lengths, lengths)
    return np.repeat(rows, lengths), np.repeat(cols, lengths) + offset
