"""One correction: what it changes, how to take it back, and how it is written down."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from napari_sa2net.edits.patch import Index, Integers, Patch
from napari_sa2net.edits.regions import REGION_KINDS, Region
from napari_sa2net.edits.shapes import Box
from napari_sa2net.errors import StepFormatError

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
    if any(((m.after < 0) | (m.after >= len(STATUS)) | (m.before < 0)).any() for m in marks):
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
