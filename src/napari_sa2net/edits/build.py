"""From changed pixels to a whole step: who was corrected, who vanished, what was cleared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.patch import Index, Patch
from napari_sa2net.edits.regions import Region, cleared_region
from napari_sa2net.edits.step import CORRECTED, UNSEEN, Marks, Step, StepKind
from napari_sa2net.errors import NothingToEditError

#: So many cells are named one by one in the words of a step.
_NAMED = 4


def pixel_step(
    corrections: Corrections,
    kind: StepKind,
    words: str,
    patches: Sequence[Patch],
    by_person: bool = True,
) -> Step:
    """Make a step of changed pixels.

    Objects that gain or lose pixels count as corrected, those that vanish lose their
    status, and where they were becomes a cleared region, as far as it is background now.

    Parameters
    ----------
    corrections : Corrections
    kind, words : str
        As of :class:`Step`.
    patches : sequence of Patch
        At most one per plane.
    by_person : bool
        False for what a model drew: changed objects then lose their status instead, and
        nothing is cleared.

    Raises
    ------
    NothingToEditError
        If no pixel changes.
    """
    patches = [patch for patch in patches if patch]
    if not patches:
        raise NothingToEditError("That changes nothing.")
    marks, cleared = [], []
    for patch in patches:
        plane = corrections.plane(patch.index)
        labels, change = _area_changes(patch)
        # Of strokes the pixels are in the array already, but the index still knows the old.
        vanished = [
            label
            for label, by in zip(labels.tolist(), change.tolist(), strict=True)
            if plane.area(label) + by <= 0
        ]
        status = np.full(labels.size, CORRECTED if by_person else UNSEEN, np.int64)
        status[np.isin(labels, vanished)] = UNSEEN
        mark = status_change(corrections, patch.index, labels, status)
        if mark:
            marks.append(mark)
        if by_person and vanished:
            gone = np.isin(patch.old, vanished) & (patch.new == 0)
            if gone.any():
                cleared.append(_cleared(corrections, patch, gone, labels, -change))
    return Step(kind, words, tuple(patches), tuple(marks), added=tuple(cleared))


def status_change(
    corrections: Corrections,
    index: Index,
    labels: NDArray[np.int64],
    after: NDArray[np.int64],
) -> Marks:
    """Marks of the labels whose status is another than before; may be empty."""
    before = np.asarray(
        [corrections.status_code(label, index) for label in labels.tolist()], np.int64
    )
    changed = before != after
    return Marks(index, labels[changed], before[changed], after[changed])


def joined(index: Index, patches: Sequence[Patch]) -> Patch:
    """One patch of several of a plane; a pixel that two want goes to the first."""
    if len(patches) == 1:
        return patches[0]
    pixels = [np.stack(_pixels(patch)) for patch in patches]
    rows, cols, old, new = np.concatenate([np.empty((4, 0), np.int64), *pixels], axis=1)
    # A stable sort keeps the order of the patches among equal pixels.
    order = np.lexsort((cols, rows))
    rows, cols, old, new = (column[order] for column in (rows, cols, old, new))
    first = np.ones(rows.size, bool)
    first[1:] = (rows[1:] != rows[:-1]) | (cols[1:] != cols[:-1])
    return Patch.of_pixels(index, rows[first], cols[first], old[first], new[first])


def _pixels(patch: Patch) -> tuple[NDArray[np.int64], ...]:
    lengths = patch.lengths
    return (*patch.pixels(), np.repeat(patch.old, lengths), np.repeat(patch.new, lengths))


def named(labels: Sequence[int]) -> str:
    """Cells in words: "cell 3", "cells 3, 7 and 9", "12 cells"."""
    if len(labels) == 1:
        return f"cell {labels[0]}"
    if len(labels) <= _NAMED:
        *some, last = (str(label) for label in labels)
        return f"cells {', '.join(some)} and {last}"
    return f"{len(labels)} cells"


def _area_changes(patch: Patch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Objects of a patch, and by how many pixels each grows."""
    labels, which = np.unique(np.concatenate([patch.old, patch.new]), return_inverse=True)
    n = patch.old.size
    by = np.bincount(which[n:], patch.lengths, labels.size)
    by -= np.bincount(which[:n], patch.lengths, labels.size)
    held = labels != 0
    return labels[held], by[held].astype(np.int64)


def _cleared(
    corrections: Corrections,
    patch: Patch,
    gone: NDArray[np.bool_],
    labels: NDArray[np.int64],
    areas: NDArray[np.int64],
) -> Region:
    """Where deleted objects were; labels are sorted, areas are what each of them lost."""
    area = areas[np.searchsorted(labels, patch.old[gone])]
    runs = np.stack([patch.rows[gone], patch.cols[gone], patch.lengths[gone], area])
    return cleared_region(corrections.new_region(), patch.index, runs)
