"""What became of objects from one segmentation to another of the same pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import SettingsError

#: Share of the smaller object's area from which two objects are the same cell's. Below it
#: they merely touch: a boundary that moved by a pixel or two laps over its neighbour.
MATCH = 0.25

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Changes:
    """What became of the objects of a segmentation in another one.

    Attributes
    ----------
    appeared : int
        Objects that match none before.
    vanished : int
        Objects before that match none after.
    split : int
        Objects before that match several after.
    merged : int
        Objects after that match several before.
    gained_px, lost_px : int
        Pixels that became foreground, and background.
    change : int8 (H, W)
        +1 where foreground was gained, −1 where it was lost. A new cut between objects that
        leaves no gap changes no foreground: it shows in the counts only.
    """

    appeared: int
    vanished: int
    split: int
    merged: int
    gained_px: int
    lost_px: int
    change: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Objects of two segmentations, and which of them match.

    Attributes
    ----------
    before, after : int64 (n,), (m,)
        Labels in ascending order; gaps in the numbering are fine.
    area_before, area_after : int64 (n,), (m,)
        Pixels of each.
    i, j : int64 (pairs,)
        Positions in `before` and `after` of the objects that match: they share at least
        `MATCH` of the smaller one's area.
    """

    before: Index
    after: Index
    area_before: Index
    area_after: Index
    i: Index
    j: Index

    @property
    def children(self) -> Index:
        """Matches of each object before, (n,)."""
        return np.bincount(self.i, minlength=self.before.size)

    @property
    def parents(self) -> Index:
        """Matches of each object after, (m,)."""
        return np.bincount(self.j, minlength=self.after.size)


def stage_change(
    before: NDArray[np.integer[Any]], after: NDArray[np.integer[Any]]
) -> NDArray[np.int8]:
    """Where foreground came and went between two labelled planes.

    Parameters
    ----------
    before, after : integer arrays (H, W)
        0 is background.

    Returns
    -------
    int8 (H, W)
        +1 foreground only after, −1 only before, 0 elsewhere.

    Raises
    ------
    SettingsError
        If they are not labels of one shape.
    """
    before, after = check_labels(before, after)
    return np.subtract(after > 0, before > 0, dtype=np.int8)


def compare_objects(
    before: NDArray[np.integer[Any]], after: NDArray[np.integer[Any]]
) -> Changes:
    """Count what happened to objects between two labelled planes (H, W).

    Objects match that share at least a quarter of the smaller one's area. The numbering does
    not matter.

    Raises
    ------
    SettingsError
        If they are not labels of one shape.
    """
    change = stage_change(before, after)
    found = overlaps(before, after)
    children, parents = found.children, found.parents
    return Changes(
        appeared=int((parents == 0).sum()),
        vanished=int((children == 0).sum()),
        split=int((children > 1).sum()),
        merged=int((parents > 1).sum()),
        gained_px=int((change > 0).sum()),
        lost_px=int((change < 0).sum()),
        change=change,
    )


def overlaps(before: NDArray[np.integer[Any]], after: NDArray[np.integer[Any]]) -> Overlaps:
    """Match the objects of two labelled planes (H, W)."""
    before, after = check_labels(before, after)
    a, b = before.ravel(), after.ravel()
    starts = np.flatnonzero(_turns(a) | _turns(b))
    lengths = np.diff(starts, append=a.size)
    run_a, run_b = a[starts].astype(np.int64), b[starts].astype(np.int64)
    names_a, area_a = _areas(run_a, lengths)
    names_b, area_b = _areas(run_b, lengths)
    both = (run_a > 0) & (run_b > 0)
    i, j = np.searchsorted(names_a, run_a[both]), np.searchsorted(names_b, run_b[both])
    pairs, which = np.unique(i * max(names_b.size, 1) + j, return_inverse=True)
    shared = np.bincount(which, lengths[both], minlength=pairs.size)
    i, j = np.divmod(pairs, max(names_b.size, 1))
    matched = shared >= MATCH * np.minimum(area_a[i], area_b[j])
    return Overlaps(names_a, names_b, area_a, area_b, i[matched], j[matched])


def distinct(labels: NDArray[np.integer[Any]]) -> Index:
    """Labels > 0 that occur in an array, ascending."""
    line = labels.ravel()
    values = np.sort(line[_turns(line)].astype(np.int64))
    return values[(np.diff(values, prepend=0) > 0) & (values > 0)]


def _turns(line: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Where a run of equal values starts: few places, where pixels are many."""
    turns = np.ones(line.size, bool)
    if line.size:
        np.not_equal(line[1:], line[:-1], out=turns[1:])
    return turns


def _areas(labels: Index, lengths: Index) -> tuple[Index, Index]:
    """Labels of runs without background, and the pixels of each."""
    own = labels > 0
    names, which = np.unique(labels[own], return_inverse=True)
    area = np.bincount(which, lengths[own], minlength=names.size)
    return names, area.astype(np.int64)


def check_labels(
    *planes: NDArray[np.integer[Any]],
) -> tuple[NDArray[np.integer[Any]], ...]:
    """The planes as arrays, if all are labels of one shape (H, W).

    Raises
    ------
    SettingsError
    """
    arrays = tuple(np.asarray(plane) for plane in planes)
    for array in arrays:
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise SettingsError(
                f"Labels of one plane are whole numbers (Y, X), not {array.dtype} of shape "
                f"{array.shape}; choose one plane of a stack."
            )
        if array.shape != arrays[0].shape:
            raise SettingsError(
                f"Labels of shapes {arrays[0].shape} and {array.shape} cannot be compared: "
                "both must be of the same pixels."
            )
    return arrays
