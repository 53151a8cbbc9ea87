"""Cells of another part of an image, added to those that are there."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.edits import (
    Corrections,
    History,
    accept,
    laid_over,
    replace_area,
    replace_box,
)
from napari_sa2net.errors import EditError, NothingToEditError


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


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("inside", [1, 4, 5, 6, 7])
def test_what_the_edge_of_a_box_cuts_goes_with_most_of_it(turns: int, inside: int) -> None:
    """On all sides: a bar of 10 pixels, so many of them in the box, where nothing is found."""
    labels = np.zeros((25, 25), np.int32)
    labels[12, 16 - inside : 26 - inside] = 3
    labels = np.rot90(labels, turns).copy()
    corrections = Corrections(labels)
    corrections.apply(replace_box(corrections, (9, 16, 9, 16), np.zeros((7, 7), int)))
    assert labels[9:16, 9:16].max() == 0
    assert np.count_nonzero(labels == 3) == (0 if inside > 5 else 10 - inside)


@pytest.mark.parametrize("turns", range(4))
def test_what_goes_on_across_the_edge_of_a_box_stays_one(turns: int) -> None:
    """With the new object that touches it most; its other neighbour gets a name of its own."""
    labels = np.zeros((20, 20), np.int32)
    labels[3:10, 9:16] = 4
    new = np.zeros((20, 10), np.int32)
    new[2:5, 5:10], new[6:9, 5:10] = 8, 9  # contacts of 2 and 3 pixels
    new[15:18, 2:5] = 7
    labels, part = np.rot90(labels, turns).copy(), np.rot90(new, turns)
    box = [(0, 20, 0, 10), (10, 20, 0, 20), (0, 20, 10, 20), (0, 10, 0, 20)][turns]
    corrections = Corrections(labels)
    corrections.apply(replace_box(corrections, box, part))
    left = np.rot90(labels, -turns)
    assert (left[6:9, 5:16] == 4).all()
    assert (left[2:5, 5:10] == 5).all() or (left[2:5, 5:10] == 6).all()
    assert {int(left[2, 5]), int(left[15, 2])} == {5, 6}
    assert np.count_nonzero(left) == 42 + 15 + 15 + 9


@pytest.mark.parametrize(
    ("rows", "same"),
    [(0, True), (1, True), (3, True), (4, False), (5, False)],  # of 10: 9/11, 7/13, 6/14
)
def test_a_new_object_on_most_of_an_old_one_keeps_its_name(rows: int, same: bool) -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[5:15, 5:15] = 6
    new = np.zeros((30, 30), np.int32)
    new[5 + rows : 15 + rows, 5:15] = 1
    corrections = Corrections(labels)
    if rows == 0:
        with pytest.raises(NothingToEditError):
            replace_box(corrections, (0, 30, 0, 30), new)
        return
    corrections.apply(replace_box(corrections, (0, 30, 0, 30), new))
    assert np.unique(labels).tolist() == [0, 6 if same else 7]
    np.testing.assert_array_equal(labels > 0, new > 0)


@pytest.mark.parametrize(("covered", "stays"), [(0, 100), (40, 60), (49, 51), (50, 0), (90, 0)])
def test_new_objects_give_way_to_reviewed_ones(covered: int, stays: int) -> None:
    """What is left of one is kept, unless most of it was a second copy."""
    labels = np.zeros((20, 40), np.int32)
    labels[5, 0:1] = 2
    mask = np.zeros((20, 40), bool)
    mask[5:15, 5:15] = True
    at = np.argwhere(mask)[:covered]
    labels[tuple(at.T)] = 2
    corrections = Corrections(labels)
    corrections.apply(accept(corrections, [2]))
    new = np.where(mask, 1, 0)
    new[0, 30:34] = 2  # small, but not cut
    corrections.apply(replace_box(corrections, (0, 20, 0, 40), new))
    assert np.count_nonzero(labels == 2) == covered + 1
    assert np.count_nonzero(labels[5:15] > 2) == stays
    assert np.count_nonzero(labels[0, 30:34] > 2) == 4
    # whoever says so has them replaced
    again = labels.copy()
    other = Corrections(again)
    other.apply(accept(other, [2]))
    other.apply(replace_box(other, (0, 20, 0, 40), np.where(mask, 1, 0), keep_reviewed=False))
    np.testing.assert_array_equal(again > 0, mask)


@pytest.mark.parametrize(("left", "kept"), [(4, False), (5, True)])
def test_crumbs_beside_reviewed_objects_are_dropped(left: int, kept: bool) -> None:
    labels = np.zeros((10, 20), np.int32)
    labels[2, 2:4] = 1
    corrections = Corrections(labels)
    corrections.apply(accept(corrections, [1]))
    new = np.zeros((10, 20), np.int32)
    new[2, 2 : 4 + left] = 1
    new[7:9, 2:9] = 2
    corrections.apply(replace_box(corrections, (0, 10, 0, 20), new))
    assert np.count_nonzero(labels[2] > 1) == (left if kept else 0)
    assert np.count_nonzero(labels[2] == 1) == 2


@pytest.mark.parametrize(
    ("box", "new", "words"),
    [
        ((0, 4, 0, 5), np.zeros((4, 4), int), "give the labels of just that box"),
        ((0, 4, 0, 50), np.zeros((4, 50), int), "give the labels of just that box"),
        ((0, 4, 0, 5), np.zeros((4, 5)), "whole numbers"),
        ((0, 4, 0, 5), np.full((4, 5), -1), "whole numbers"),
    ],
)
def test_labels_that_do_not_fit_their_box_are_refused(box, new, words) -> None:
    labels = np.ones((10, 20), np.int32)
    with pytest.raises(EditError, match=words):
        replace_box(Corrections(labels), box, new)
    assert labels.all()
