"""Holes, roughness, the probability's edge, redrawing, and boxes segmented again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net.edits import (
    Corrections,
    History,
    accept,
    add_at,
    fill_holes,
    fit_to_edge,
    mark_region,
    redraw,
    redraw_mask,
    replace_box,
    smooth,
)
from napari_sa2net.errors import EditError, NothingToEditError


def disk(shape, y, x, r) -> np.ndarray:
    rows, cols = np.indices(shape)
    return np.hypot(rows - y, cols - x) <= r


def do(labels, step_of) -> Corrections:
    corrections = Corrections(labels)
    History(corrections).do(step_of(corrections))
    return corrections


def test_fill_holes_takes_background_only():
    labels = np.where(disk((40, 40), 20, 20, 15), 4, 0).astype(np.int32)
    labels[15:25, 15:25] = 0
    labels[18:20, 18:20] = 9
    corrections = do(labels, lambda c: fill_holes(c, [4]))
    assert (labels == 9).sum() == 4
    np.testing.assert_array_equal(labels > 0, disk((40, 40), 20, 20, 15))
    with pytest.raises(NothingToEditError, match="no holes in cell 4"):
        fill_holes(corrections, [4])
    with pytest.raises(EditError, match="no cell 5"):
        fill_holes(corrections, [4, 5])


def test_smooth_removes_spurs_and_keeps_the_rest():
    labels = np.where(disk((60, 60), 30, 30, 15), 2, 0).astype(np.int32)
    rough = labels.copy()
    rough[29:31, 45:55] = 2  # a spur
    rough[29:31, 15:22] = 0  # a bay
    do(rough, lambda c: smooth(c, [2]))
    assert not rough[:, 49:].any()
    assert (rough != labels).sum() < 40
    assert ndimage.label(rough)[1] == 1


def test_smooth_at_the_image_border_and_between_neighbours():
    labels = np.zeros((40, 40), np.int32)
    labels[0:20, 5:35] = 1
    labels[20:40, 5:35] = 2
    do(labels, lambda c: smooth(c, [1, 2]))
    assert (labels[:20, 12:28] == 1).all()
    assert (labels[20:, 12:28] == 2).all()
    assert (labels[19, 8:32] == 1).all()  # the line between them stays
    speck = np.zeros((20, 20), np.int32)
    speck[10, 10] = 1
    with pytest.raises(NothingToEditError, match="nothing to smooth"):
        smooth(Corrections(speck), [1])
    for radius in (0, 0.4, 21, np.nan):
        with pytest.raises(EditError, match="radius"):
            smooth(Corrections(speck), [1], radius=radius)


@pytest.mark.parametrize("drawn", [6, 14])
def test_fit_to_edge_grows_and_shrinks(drawn):
    shape = (60, 60)
    away = np.hypot(*(np.indices(shape) - 30))
    foreground = 1 / (1 + np.exp(away - 10.5))
    labels = np.where(disk(shape, 30, 30, drawn), 3, 0).astype(np.int32)
    do(labels, lambda c: fit_to_edge(c, [3], foreground))
    np.testing.assert_array_equal(labels > 0, foreground >= 0.5)


def test_fit_to_edge_leaves_neighbours_their_half():
    labels = np.zeros((30, 60), np.int32)
    labels[10:20, 10:14] = 1
    labels[10:20, 45:49] = 2
    foreground = np.zeros((30, 60))
    foreground[8:22, 5:55] = 0.9
    do(labels, lambda c: fit_to_edge(c, [1], foreground, reach=30))
    assert (labels == 1).any(axis=0).nonzero()[0].max() == 29  # half way
    assert (labels == 2).sum() == 40
    labels[labels == 1] = 0
    labels[10:20, 10:14] = 1
    do(labels, lambda c: fit_to_edge(c, [1], foreground, reach=4))
    assert (labels == 1).any(axis=0).nonzero()[0].max() == 17


def test_fit_to_edge_refuses():
    labels = np.zeros((30, 30), np.int32)
    labels[10:20, 10:20] = 1
    corrections = Corrections(labels)
    with pytest.raises(NothingToEditError, match="sees nothing at cell 1"):
        fit_to_edge(corrections, [1], np.zeros((30, 30)))
    with pytest.raises(NothingToEditError, match="at the edge already"):
        fit_to_edge(corrections, [1], (labels > 0).astype(float))
    with pytest.raises(EditError, match="shape"):
        fit_to_edge(corrections, [1], np.zeros((30, 31)))
    for bad in ({"threshold": 0}, {"threshold": 1.5}, {"reach": 0}, {"reach": 1000}):
        with pytest.raises(EditError, match="threshold"):
            fit_to_edge(corrections, [1], np.zeros((30, 30)), **bad)


SQUARE = [(9.5, 9.5), (9.5, 19.5), (19.5, 19.5), (19.5, 9.5)]


def test_redraw_one_cell():
    labels = np.zeros((40, 40), np.int32)
    labels[15:30, 15:30] = 1
    labels[9:12, 9:12] = 2
    do(labels, lambda c: redraw(c, SQUARE, label=1))
    assert (labels == 1).sum() == 100 - 4  # the neighbour keeps its pixels
    assert (labels == 2).sum() == 9
    do(labels, lambda c: redraw(c, SQUARE, label=1, overwrite=True))
    assert (labels[10:20, 10:20] == 1).all()
    assert (labels == 1).sum() == 100
    corrections = do(labels, lambda c: redraw(c, [(30, 30), (30, 35), (35, 35), (35, 30)]))
    assert labels[32, 32] == 3
    assert corrections.marked() == {3: "corrected"}


def test_cells_that_nobody_reviewed_give_way_to_an_outline():
    labels = np.zeros((40, 60), np.int32)
    labels[10:20, 6:14] = 1  # a half lies under the outline: the rest stays
    labels[12:18, 12:15] = 0
    labels[12:22, 15:22] = 2  # most of it: it goes whole
    labels[16:26, 9:12] = 3  # reviewed: it stays
    labels[30:34, 30:34] = 4
    corrections = Corrections(labels)
    labels[10:12, 18:30] = 6  # reviewed as a part of a region: it stays
    labels[10:12, 15:18] = 0
    corrections = Corrections(labels)
    corrections.apply(accept(corrections, [3]))
    region = [(8, 22), (8, 40), (13, 40), (13, 22)]
    corrections.apply(mark_region(corrections, "reviewed", polygon=region))
    before = labels.copy()
    step = redraw(corrections, SQUARE, overwrite="unreviewed")
    corrections.apply(step)
    square = np.zeros(labels.shape, bool)
    square[10:20, 10:20] = True
    expected = np.where(before == 2, 0, before)
    new = labels[15, 12]
    expected[square & ~np.isin(before, [3, 6])] = new
    np.testing.assert_array_equal(labels, expected)
    # nobody has judged what is left of 1
    assert corrections.marked() == {3: "accepted", new: "corrected"}
    corrections.apply(step.inverse())
    np.testing.assert_array_equal(labels, before)
    assert corrections.marked() == {3: "accepted"}


def test_redraw_by_a_mask():
    labels = np.zeros((20, 20), np.int32)
    labels[2:6, 2:6] = 1
    mask = disk((9, 9), 4, 4, 4)
    do(labels, lambda c: redraw_mask(c, mask, (10, 11), label=1))
    np.testing.assert_array_equal(labels[10:19, 11:20] == 1, mask)
    assert (labels > 0).sum() == mask.sum()


def test_redraw_refuses():
    labels = np.zeros((20, 20), np.int32)
    labels[2:10, 2:10] = 1
    corrections = Corrections(labels)
    for outline, match in (
        ([(30, 30), (30, 40), (40, 40)], "outside"),
        ([(3, 3), (3, 8), (8, 8), (8, 3)], "no free pixel.*delete those cells"),
        ([(15.1, 15.1), (15.1, 15.2), (15.2, 15.2)], "no free pixel: draw it larger"),
        ([(3, 3), (3, 8)], "at least 3"),
    ):
        with pytest.raises(EditError, match=match):
            redraw(corrections, outline)
    with pytest.raises(EditError, match="no cell 6"):
        redraw(corrections, SQUARE, label=6)
    with pytest.raises(EditError, match="bool"):
        redraw_mask(corrections, np.ones((3, 3)))
    for corner in ((18, 0), (0, 18), (-1, 0)):
        with pytest.raises(EditError, match="beyond the image"):
            redraw_mask(corrections, np.ones((3, 3), bool), corner)
    with pytest.raises(NothingToEditError, match="changes nothing"):
        redraw_mask(corrections, labels == 1, label=1)


# --- a box segmented again --------------------------------------------------------------


def test_box_replaces_what_is_inside():
    labels = np.zeros((40, 40), np.int32)
    labels[12:20, 12:20] = 5
    labels[30:38, 30:38] = 6
    new = np.zeros((20, 20), int)
    new[2:6, 2:18] = 1000
    new[12:18, 2:8] = 3
    corrections = do(labels, lambda c: replace_box(c, (10, 30, 10, 30), new))
    assert set(np.unique(labels[10:30, 10:30])) == {0, 7, 8}
    assert (labels[30:38, 30:38] == 6).all()
    np.testing.assert_array_equal(labels[10:30, 10:30] > 0, new > 0)
    assert corrections.marked() == {}  # a model drew it
    assert not corrections.regions


def test_box_keeps_the_label_of_what_is_about_the_same():
    labels = np.zeros((40, 40), np.int32)
    labels[12:20, 12:20] = 5
    new = np.zeros((20, 20), int)
    new[1:10, 2:10] = 1
    do(labels, lambda c: replace_box(c, (10, 30, 10, 30), new))
    assert set(np.unique(labels)) == {0, 5}
    assert (labels == 5).sum() == 72


def test_box_continues_cells_across_its_edge():
    labels = np.zeros((40, 60), np.int32)
    labels[5:35, 10:50] = 4  # reaches out of the box on the right, a little
    new = np.zeros((40, 45), int)
    new[5:35, 10:28] = 1
    new[5:35, 30:45] = 2
    do(labels, lambda c: replace_box(c, (0, 40, 0, 45), new))
    assert (labels[5:35, 30:50] == 4).all()  # joined with the rest outside
    left = labels[20, 15]
    assert left not in (0, 4)
    assert (labels[5:35, 10:28] == left).all()
    assert not labels[:, 28:30].any()


def test_box_at_a_cut_cell_that_nothing_continues():
    mostly_inside = np.zeros((40, 60), np.int32)
    mostly_inside[5:35, 10:50] = 4
    empty = np.zeros((40, 45), int)
    do(mostly_inside, lambda c: replace_box(c, (0, 40, 0, 45), empty))
    assert not mostly_inside.any()
    mostly_outside = np.zeros((40, 60), np.int32)
    mostly_outside[5:35, 30:60] = 4
    do(mostly_outside, lambda c: replace_box(c, (0, 40, 0, 40), np.zeros((40, 40), int)))
    assert (mostly_outside[5:35, 40:60] == 4).all()
    assert not mostly_outside[:, :40].any()


def test_box_spares_what_was_reviewed():
    labels = np.zeros((40, 40), np.int32)
    labels[10:20, 10:20] = 1
    labels[10:20, 25:35] = 2
    corrections = Corrections(labels)
    history = History(corrections)
    history.do(accept(corrections, [1]))
    new = np.zeros((40, 40), int)
    new[11:19, 11:21] = 1  # mostly on the accepted cell: dropped
    new[18:30, 10:20] = 2  # touches it: cut back
    history.do(replace_box(corrections, (0, 40, 0, 40), new))
    assert (labels[10:20, 10:20] == 1).all()
    assert (labels == 1).sum() == 100
    assert corrections.marked() == {1: "accepted"}
    assert set(np.unique(labels)) == {0, 1, 3}
    assert (labels == 3).sum() == 100
    history.do(replace_box(corrections, (0, 40, 0, 40), new, keep_reviewed=False))
    assert corrections.marked() == {}
    assert (labels > 0).sum() == (new > 0).sum()


def test_box_refuses():
    corrections = Corrections(np.zeros((20, 20), np.int32))
    for box, new, match in (
        ((0, 10, 0, 10), np.zeros((9, 10), int), "just that box"),
        ((0, 30, 0, 10), np.zeros((30, 10), int), "just that box"),
        ((0, 10, 0, 10), np.zeros((10, 10)), "whole numbers"),
        ((0, 10, 0, 10), np.full((10, 10), -1), "whole numbers"),
        ((5, 5, 0, 10), np.zeros((0, 10), int), "no pixel"),
        ((0, 10, 0), np.zeros((10, 10), int), "A box is"),
        (("a", 10, 0, 10), np.zeros((10, 10), int), "A box is"),
        ((0, 10, 0, np.nan), np.zeros((10, 10), int), "A box is"),
    ):
        with pytest.raises(EditError, match=match):
            replace_box(corrections, box, new)
    with pytest.raises(NothingToEditError):
        replace_box(corrections, (0, 10, 0, 10), np.zeros((10, 10), int))


def test_a_click_on_background_makes_an_object_of_background_only():
    labels = np.where(disk((40, 40), 20, 26, 6), 3, 0).astype(np.int32)
    history = History(Corrections(labels))
    before = labels.copy()
    mask = disk((20, 20), 10, 10, 8)  # reaches into object 3
    history.do(add_at(history.corrections, mask, (10, 5), (20, 12)))
    np.testing.assert_array_equal(labels == 3, before == 3)
    new = labels[20, 12]
    assert new not in (0, 3)
    expected = np.zeros((40, 40), bool)
    expected[10:30, 5:25] = mask
    np.testing.assert_array_equal(labels == new, expected & (before == 0))
    history.undo()
    np.testing.assert_array_equal(labels, before)


def test_a_click_on_an_object_cuts_it():
    """Other objects stay; crumbs go with the part that was clicked."""
    left, right = disk((40, 60), 20, 20, 9), disk((40, 60), 20, 36, 9)
    labels = np.where(left | right, 7, 0).astype(np.int32)
    labels[0:6, 30:40] = 2
    labels[19:21, 45:48] = 7  # a crumb beyond the clicked part
    history = History(Corrections(labels))
    before = labels.copy()
    mask = (right & ~left) | (before == 2)
    history.do(add_at(history.corrections, mask, (0, 0), (20, 38)))
    new = labels[20, 38]
    assert new not in (0, 2, 7)
    np.testing.assert_array_equal(labels == 2, before == 2)
    np.testing.assert_array_equal(labels == 7, left)
    np.testing.assert_array_equal(labels == new, (before == 7) & ~left)
    assert history.undo_words == "Undo cutting of cell 7 by a click"


def test_a_click_that_means_all_of_an_object_says_so():
    labels = np.where(disk((40, 40), 20, 20, 9), 7, 0).astype(np.int32)
    corrections = Corrections(labels)
    for mask in (disk((40, 40), 20, 20, 9.5), disk((40, 40), 20, 21, 9)):
        with pytest.raises(EditError, match="Cell 7 is one cell there"):
            add_at(corrections, mask, (0, 0), (20, 20))


def test_a_click_grows_an_object_that_is_too_small():
    labels = np.where(disk((40, 40), 20, 18, 5), 7, 0).astype(np.int32)
    labels[:, 30:] = 2
    history = History(Corrections(labels))
    before = labels.copy()
    mask = disk((40, 40), 20, 22, 10)  # reaches into object 2
    history.do(add_at(history.corrections, mask, (0, 0), (20, 18)))
    np.testing.assert_array_equal(labels == 2, before == 2)
    np.testing.assert_array_equal(labels == 7, (mask | (before == 7)) & (before != 2))
    assert history.corrections.marked() == {7: "corrected"}
    assert history.undo_words == "Undo redrawing of cell 7"


def test_of_an_object_beyond_the_box_no_crumb_is_taken():
    labels = np.zeros((40, 80), np.int32)
    labels[10:30, 5:75] = 1
    corrections = do(labels, lambda c: add_at(c, np.ones((20, 12), bool), (10, 6), (20, 12)))
    assert corrections.labels[20, 5] == 1  # it goes on to the right
    assert corrections.labels[20, 19] == 1
    assert corrections.labels[20, 12] == 2


def a_bar(label: int = 4) -> np.ndarray:
    """20 columns of 10 pixels."""
    labels = np.zeros((40, 60), np.int32)
    labels[10:20, 10:30] = label
    return labels


@pytest.mark.parametrize(
    ("columns", "cut_off"),
    [
        (1, 1),
        (10, 10),
        (17, 17),
        (18, None),
        (20, None),
        (23, None),
        (24, "grows"),
        (30, "grows"),
    ],
)
def test_what_a_click_on_a_cell_means(columns: int, cut_off: int | str | None) -> None:
    """A part of it; all of it, where less than 15 % is left; more, where 15 % are missing."""
    labels = a_bar()
    mask = np.zeros((10, 40), bool)
    mask[:, :columns] = True
    corrections = Corrections(labels)
    if cut_off is None:
        with pytest.raises(EditError, match="is one cell there"):
            add_at(corrections, mask, (10, 10), (15, 10))
        np.testing.assert_array_equal(labels, a_bar())
        return
    corrections.apply(add_at(corrections, mask, (10, 10), (15, 10)))
    if cut_off == "grows":
        assert np.unique(labels).tolist() == [0, 4]
        assert np.count_nonzero(labels == 4) == 10 * columns
    else:
        assert np.count_nonzero(labels == 5) == 10 * columns
        assert np.count_nonzero(labels == 4) == 200 - 10 * columns


@pytest.mark.parametrize(("columns", "left"), [(1, 19), (10, 10), (11, 0), (20, 0)])
@pytest.mark.parametrize("reviewed", [False, True])
def test_a_cell_that_nobody_reviewed_goes_where_most_of_it_is_drawn_over(
    columns: int, left: int, reviewed: bool
) -> None:
    labels = a_bar()
    corrections = Corrections(labels)
    if reviewed:
        corrections.apply(accept(corrections, [4]))
    mask = np.ones((10, columns + 5), bool)  # from 5 columns before it on
    corrections.apply(redraw_mask(corrections, mask, (10, 5), overwrite="unreviewed"))
    assert np.count_nonzero(labels == 4) == 10 * (20 if reviewed else left)
    assert np.count_nonzero(labels == 5) == 10 * (5 if reviewed else columns + 5)
