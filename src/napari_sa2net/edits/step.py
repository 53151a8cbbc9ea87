"""One correction: what it changes, how to take it back, and how it is written down."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.edits.shapes import Box, Points, common, polygon_box, polygon_mask, runs_box
from napari_sa2net.errors import StepFormatError

# --------------------------------------------------------------------------------------------
# Changed pixels of one plane: the atoms that every correction is made of.

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
        return runs_box(self.rows, self.cols, self.cols + self.lengths)

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
    y0, y1, x0, x1 = runs_box(rows, starts, ends)
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


def expanded(rows: Integers, cols: Integers, lengths: Integers) -> tuple[Integers, Integers]:
    """Rows and columns of all pixels of runs."""
    ends = np.cumsum(lengths)
    offset = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - lengths, lengths)
    return np.repeat(rows, lengths), np.repeat(cols, lengths) + offset


# --------------------------------------------------------------------------------------------
# Areas of a plane that a person marked, and those that their deletions cleared.

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
        return self._around if self.kind == "cleared" else polygon_box(self.polygon, shape)

    @cached_property
    def _tight(self) -> list[Box]:
        return _tight(self.runs)

    @cached_property
    def _around(self) -> Box:
        """Box of a cleared region, which is asked for at every step after it."""
        rows, cols, lengths, _ = self.runs
        return runs_box(rows, cols, cols + lengths)

    def boxes(
        self, shape: tuple[int, int], areas: tuple[float, float] = (0, np.inf)
    ) -> list[Box]:
        """Boxes that together hold the region; of places far apart, one around each.

        Of a cleared region only the places of objects of more than the first and at most the
        second of two areas (px).
        """
        if self.kind == "cleared":
            if areas == (0, np.inf):
                return self._tight
            some = (self.runs[3] > areas[0]) & (self.runs[3] <= areas[1])
            return _tight(self.runs[:, some])
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
        # only the runs that meet the box: a lasso clears far more than one block
        first, start, length, area = self.runs
        meets = (first >= y0) & (first < y1) & (start < x1) & (start + length > x0)
        rows, cols = expanded(*self.runs[:3, meets & (area <= largest)])
        inside = (cols >= x0) & (cols < x1)
        mask[rows[inside] - y0, cols[inside] - x0] = True
        return mask


def _tight(runs: Integers) -> list[Box]:
    rows, cols, lengths, _ = runs
    return cell_boxes(rows, cols, cols + lengths, _BLOCK) if rows.size else []


def drawn_region(id: int, kind: RegionKind, index: Index, polygon: Points) -> Region:
    """A region with a drawn outline."""
    return Region(id, kind, index, polygon, np.empty((4, 0), np.int64))


def cleared_region(id: int, index: Index, runs: Integers) -> Region:
    """The place of deleted objects, as runs (4, m)."""
    return Region(id, "cleared", index, np.empty((0, 2)), runs)


#: Version of the layout of :meth:`Step.to_bytes`. In 1, cleared regions had no areas.
SCHEMA_VERSION = 2

StepKind = Literal[
    "split",
    "merge",
    "delete",
    "fill",
    "smooth",
    "edge",
    "redraw",
    "resegment",
    "paint",
    "erase",
    "accept",
    "unaccept",
    "region",
    "unregion",
    "restore",
]
STEP_KINDS: tuple[str, ...] = get_args(StepKind)

#: What a person has said of an object, by code.
STATUS = ("", "accepted", "corrected")
UNSEEN, ACCEPTED, CORRECTED = range(3)


@dataclass(frozen=True, eq=False)
class Marks:
    """Objects of one plane whose review status changes.

    Attributes
    ----------
    index : tuple of int
    labels : int64 (n,)
        Distinct.
    before, after : int64 (n,)
        UNSEEN, ACCEPTED or CORRECTED.
    """

    index: Index
    labels: Integers
    before: Integers
    after: Integers

    def __bool__(self) -> bool:
        return self.labels.size > 0

    @property
    def nbytes(self) -> int:
        """Memory of the columns."""
        return 3 * self.labels.nbytes

    def inverse(self) -> Marks:
        """The change back."""
        return replace(self, before=self.after, after=self.before)


@dataclass(frozen=True, eq=False)
class Step:
    """One correction, invertible.

    It holds only what changes, so that it can be applied to (and reverted on) any labels
    that are as they were when it was made; :class:`~napari_sa2net.edits.Corrections` checks
    that.

    Attributes
    ----------
    kind : str
        One of STEP_KINDS.
    words : str
        Continues "Undo ...": "split of cell 17".
    patches : tuple of Patch
        Changed pixels, at most one patch per plane.
    marks : tuple of Marks
        Changes of review status, at most one per plane.
    added, removed : tuple of Region
    """

    kind: StepKind
    words: str
    patches: tuple[Patch, ...] = ()
    marks: tuple[Marks, ...] = ()
    added: tuple[Region, ...] = ()
    removed: tuple[Region, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory of the step, nearly."""
        pixels = sum(patch.nbytes for patch in self.patches)
        marks = sum(marks.nbytes for marks in self.marks)
        regions = sum(region.nbytes for region in (*self.added, *self.removed))
        return 500 + pixels + marks + regions

    @property
    def labels(self) -> tuple[int, ...]:
        """Objects that change, with those that appear or vanish, ascending."""
        values = [marks.labels for marks in self.marks]
        for patch in self.patches:
            values += [patch.old, patch.new]
        if not values:
            return ()
        return tuple(int(v) for v in np.unique(np.concatenate(values)) if v != 0)

    @property
    def boxes(self) -> dict[Index, Box]:
        """Bounding box of the changed pixels of each plane."""
        return {patch.index: patch.box for patch in self.patches}

    def inverse(self) -> Step:
        """The step that takes this one back."""
        return Step(
            self.kind,
            self.words,
            tuple(patch.inverse() for patch in self.patches),
            tuple(marks.inverse() for marks in self.marks),
            added=self.removed,
            removed=self.added,
        )

    # --- on disk ---------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The step as an npz file: arrays, and JSON in the array "meta"."""
        regions = (*self.added, *self.removed)
        meta = {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "words": self.words,
            "patches": [[patch.index, patch.rows.size] for patch in self.patches],
            "marks": [[marks.index, marks.labels.size] for marks in self.marks],
            "regions": [
                [r.id, r.kind, r.index, len(r.polygon), r.runs.shape[1]] for r in regions
            ],
            "n_added": len(self.added),
        }
        arrays: dict[str, Any] = {
            "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
            "patches": _joined(
                [np.stack([p.rows, p.cols, p.lengths, p.old, p.new]) for p in self.patches], 5
            ),
            "marks": _joined([np.stack([m.labels, m.before, m.after]) for m in self.marks], 3),
            "regions": _joined([region.runs for region in regions], 4),
            "polygons": np.concatenate([np.empty((0, 2)), *(r.polygon for r in regions)]),
        }
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Step:
        """Read what :meth:`to_bytes` gave.

        Raises
        ------
        StepFormatError
            If the bytes are damaged, or of a newer version of this program.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                meta = json.loads(file["meta"].tobytes())
                version = meta["schema_version"]
                if version in (1, SCHEMA_VERSION):
                    arrays = {name: file[name] for name in file.files}
                    if version == 1:
                        arrays["regions"] = np.pad(arrays["regions"], ((0, 1), (0, 0)))
                    return _read(meta, arrays)
        except (
            *(OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError),
            *(zipfile.BadZipFile, zlib.error, NotImplementedError),
        ) as error:
            raise StepFormatError(
                f"A stored correction is damaged ({error}); the ones before it are whole."
            ) from error
        raise StepFormatError(
            f"A stored correction has layout {version!r}, this program reads "
            f"{SCHEMA_VERSION}: update napari-sa2net to read it."
        )


def planes_of(step: Step) -> set[Index]:
    """Planes that a step changes in any way."""
    planes = {patch.index for patch in step.patches} | {marks.index for marks in step.marks}
    return planes | {region.index for region in (*step.added, *step.removed)}


def _joined(arrays: list[Integers], rows: int) -> Integers:
    return np.concatenate([np.empty((rows, 0), np.int64), *arrays], axis=1)


def _read(meta: dict[str, Any], arrays: dict[str, Any]) -> Step:
    """A step from checked JSON and arrays; ValueError and the like where they do not fit."""
    if meta["kind"] not in STEP_KINDS:
        raise ValueError(f"unknown kind {meta['kind']!r}")
    patches = [
        Patch(index, *part) for index, part in _parts(meta["patches"], arrays["patches"], 5)
    ]
    if any((p.lengths < 1).any() or not p for p in patches):
        raise ValueError("a run of no pixels")
    marks = [Marks(index, *part) for index, part in _parts(meta["marks"], arrays["marks"], 3)]
    states = [state for m in marks for state in (m.before, m.after)]
    if any(((state < 0) | (state >= len(STATUS))).any() for state in states):
        raise ValueError("an unknown review status")
    regions = []
    runs, corners = arrays["regions"], arrays["polygons"]
    for id, kind, index, n_corners, n_runs in meta["regions"]:
        if kind not in REGION_KINDS or (kind == "cleared") != (n_corners == 0):
            raise ValueError(f"a region of unknown kind {kind!r}")
        if len(corners) < n_corners or runs.shape[1] < n_runs:
            raise ValueError("a region is cut short")
        regions.append(
            Region(
                int(id), kind, _index(index), corners[:n_corners], _whole(runs[:, :n_runs], 4)
            )
        )
        corners, runs = corners[n_corners:], runs[:, n_runs:]
    n = meta["n_added"]
    return Step(
        meta["kind"],
        str(meta["words"]),
        tuple(patches),
        tuple(marks),
        tuple(regions[:n]),
        tuple(regions[n:]),
    )


def _parts(entries: list[Any], array: Any, rows: int) -> list[tuple[Index, Integers]]:
    """Columns of each plane, cut from the joined array."""
    ends = np.cumsum([0, *(int(n) for _, n in entries)])
    whole = _whole(array, rows)
    if whole.shape[1] != ends[-1]:
        raise ValueError("arrays do not fit their table")
    return [
        (_index(index), whole[:, start:end])
        for (index, _), start, end in zip(entries, ends[:-1], ends[1:], strict=True)
    ]


def _index(values: list[Any]) -> Index:
    return tuple(int(value) for value in values)


def _whole(array: Any, rows: int) -> Integers:
    if array.dtype != np.int64 or array.ndim != 2 or array.shape[0] != rows:
        raise ValueError(f"an array of {array.dtype} {array.shape}")
    result: Integers = array
    return result
