"""Cells of another part of an image, added to those that are there."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.edits import Corrections, History, accept, laid_over, replace_area
from napari_sa2net.errors import NothingToEditError


def disks(
    centres: list[tuple[int, int]], shape: tuple[int, int] = (60, 100), radius: int = 8
) -> np.ndarray:
    rows, cols = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for i, (y, x) in enumerate(centres):
        labels[np.hypot(rows - y, cols - x) <= radius] = i + 1
    return labels


def same_cells(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays hold the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize("first_ends", [50, 62])
def test_two_halves_are_a_whole(first_ends: int) -> None:
    """Cells cut by the seam are one, side by side or overlapping; those elsewhere stay."""
    truth = disks([(15, 15), (30, 50), (45, 80), (12, 58)])
    left = truth.copy()
    left[:, first_ends:] = 0
    merged, changes = laid_over(left, (0, 50), truth[:, 50:])
    assert same_cells(merged, truth)
    again = merged.copy()
    for patch in changes:
        rows, cols = patch.pixels()
        again[rows, cols] = np.repeat(patch.old, patch.lengths)
    np.testing.assert_array_equal(again, left)
    np.testing.assert_array_equal(merged[truth == 1], 1)
    assert left[:, first_ends:].max() == 0  # a copy


def test_what_is_there_now_replaces_what_was() -> None:
    old = disks([(30, 20), (30, 70)])
    merged, _ = laid_over(old, (0, 50), np.zeros((60, 50), np.int32))
    np.testing.assert_array_equal(merged, np.where(old == 1, 1, 0))
    assert laid_over(merged, (0, 50), np.zeros((60, 50), np.int32))[1] == ()


def test_in_depth_a_cell_has_one_label() -> None:
    truth = np.stack([disks([(30, 50), (15, 15), (45, 80)])] * 3)
    truth[2, :, 40:60] = 0
    left = truth.copy()
    left[:, :, 50:] = 0
    # the planes were linked with other numbers in the new part
    part = np.where(truth > 0, 40 - truth, 0)[:, :, 50:]
    merged, _ = laid_over(left, (0, 0, 50), part)
    assert same_cells(merged, truth)
    # a single plane of the stack: the others stay
    one, _ = laid_over(truth, (1, 0, 0), np.zeros((1, 60, 100), int))
    assert one[1].max() == 0
    np.testing.assert_array_equal(one[[0, 2]], truth[[0, 2]])


def test_a_cell_in_depth_keeps_the_name_of_most_of_it() -> None:
    """Of two cells, one above the other, that are one now."""
    one = disks([(30, 50)])
    for names in ((5, 5, 5, 7), (7, 5, 5, 5), (7, 7, 5, 7)):
        old = np.stack([one * name for name in names])
        merged, _ = laid_over(old, (0, 10, 10), np.stack([one] * 4)[:, 10:50, 10:90])
        most = max(names, key=names.count)
        np.testing.assert_array_equal(merged, np.stack([one * most] * 4))


def test_a_step_like_any_other() -> None:
    labels = np.stack([disks([(30, 50), (15, 80)]), disks([(30, 20)])])
    labels[1][labels[1] > 0] = 3
    before = labels.copy()
    corrections = Corrections(labels)
    history = History(corrections)
    history.do(accept(corrections, [2], (0,)))
    part = np.stack([disks([(30, 50), (40, 85)]), disks([(30, 85)])])[:, :, 45:]
    part[1][part[1] > 0] = 9
    step = history.do(replace_area(corrections, (0, 0, 45), part))
    assert "2 cells" in step.words or "3 cells" in step.words
    assert (labels[0][before[0] == 2] == 2).all()  # reviewed: it stays
    assert labels[1, 30, 85] > 0
    assert (labels[1][before[1] == 3] == 3).all()
    # of what nobody has judged nothing is marked anew, in the journal either
    assert step.marks == ()
    history.undo()
    np.testing.assert_array_equal(labels, before)
    with pytest.raises(NothingToEditError):
        replace_area(Corrections(before), (0, 0, 0), before)
