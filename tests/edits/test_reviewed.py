"""Which pixels are reviewed, against the rule written out in the plainest way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net import edits
from napari_sa2net.edits import Corrections, History, ReviewedMask, outlines, reviewed_mask
from napari_sa2net.edits.shapes import (
    inside_polygon,
    line_pixels,
    polygon_mask,
    squared_distance,
)
from napari_sa2net.errors import EditError, NothingToEditError


def plainly(labels: np.ndarray, reviewed: set[int]) -> np.ndarray:
    """Objects, and background within 15 px that is no farther from them than from others."""
    mine = np.isin(labels, list(reviewed))
    others = (labels > 0) & ~mine
    far = np.full(labels.shape, np.inf)
    to_mine = ndimage.distance_transform_edt(~mine) if mine.any() else far
    to_others = ndimage.distance_transform_edt(~others) if others.any() else far
    return mine | ((labels == 0) & (to_mine <= 15) & (to_mine <= to_others))


@pytest.fixture
def labels() -> np.ndarray:
    random = np.random.default_rng(4)
    labels = np.zeros((170, 230), np.int32)
    y, x = np.indices(labels.shape)
    for label in range(1, 30):
        away = np.hypot(y - random.integers(0, 170), x - random.integers(0, 230))
        labels[away < random.uniform(3, 12)] = label
    return labels


def test_the_rule(labels, monkeypatch):
    corrections = Corrections(labels)
    present = corrections.plane().labels.tolist()
    chosen = present[::3]
    corrections.apply(edits.accept(corrections, chosen))
    expected = plainly(labels, set(chosen))
    assert 0.1 < expected.mean() < 0.8
    np.testing.assert_array_equal(reviewed_mask(corrections), expected)
    for box in ((0, 50, 0, 60), (31, 90, 77, 200), (160, 170, 229, 230)):
        y0, y1, x0, x1 = box
        np.testing.assert_array_equal(
            reviewed_mask(corrections, box=box), expected[y0:y1, x0:x1]
        )
    monkeypatch.setattr("napari_sa2net.edits.reviewed._BLOCK", 37)
    np.testing.assert_array_equal(reviewed_mask(corrections), expected)
    corrections.apply(edits.unaccept(corrections, chosen))
    assert not reviewed_mask(corrections).any()
    corrections.apply(edits.accept(corrections, present))
    np.testing.assert_array_equal(reviewed_mask(corrections), plainly(labels, set(present)))


def test_half_the_gap():
    labels = np.zeros((20, 60), np.int32)
    labels[5:15, 0:10] = 1
    labels[5:15, 20:30] = 2  # ten pixels of gap: five are ours
    corrections = Corrections(labels)
    corrections.apply(edits.accept(corrections, [1]))
    assert reviewed_mask(corrections)[10].nonzero()[0].tolist() == list(range(15))
    corrections.apply(edits.delete(corrections, [2]))
    row = reviewed_mask(corrections)[10]
    assert row[:25].all()  # 15 px from the first one
    assert row[20:30].all()  # background where the second one was
    assert not row[30:].any()


def test_what_is_deleted_becomes_background_while_it_stays_so():
    labels = np.zeros((30, 90), np.int32)
    labels[10:20, 40:50] = 1
    corrections = Corrections(labels)
    history = History(corrections)
    history.do(edits.delete(corrections, [1]))
    mask = reviewed_mask(corrections)
    assert mask.sum() == 100
    assert mask[10:20, 40:50].all()
    new = np.zeros((30, 90), int)
    new[15:25, 45:55] = 1
    history.do(edits.replace_box(corrections, (0, 30, 0, 90), new))
    mask = reviewed_mask(corrections)
    assert not (mask & (labels > 0)).any()  # a model drew there since
    assert mask.sum() == 75
    history.undo()
    history.undo()
    assert not reviewed_mask(corrections).any()


def test_a_deleted_blob_says_nothing_about_the_cells_in_it():
    labels = np.zeros((60, 120), np.int32)
    labels[2:50, 2:80] = 1  # most of the image, as a model that has never seen such a one does
    labels[52:58, 5:15] = 2
    for label, x in enumerate((85, 97, 109), 3):
        labels[5:15, x : x + 10] = label
    corrections = Corrections(labels)
    kept = ReviewedMask(corrections)
    kept.plane()
    history = History(corrections)

    def do(step: edits.Step) -> np.ndarray:
        kept.update(history.do(step))
        np.testing.assert_array_equal(kept.plane(), reviewed_mask(corrections))
        return reviewed_mask(corrections)

    mask = do(edits.delete(corrections, [1, 2]))
    assert not mask[2:50, 2:80].any()
    assert mask[52:58, 5:15].all()  # of ordinary size
    mask = do(edits.accept(corrections, [3]))
    assert not mask[2:50, 2:69].any()
    assert mask[5:15, 80:85].all()  # beside the cell as ever
    # four large cells: the blob is no larger than those
    large = np.ones((40, 25), bool)
    for x in (3, 30, 55):
        mask = do(edits.redraw_mask(corrections, large, (5, x)))
    assert mask[2:50, 2:80].all()
    while history.undo_words:
        kept.update(history.undo())
        np.testing.assert_array_equal(kept.plane(), reviewed_mask(corrections))


def test_regions(labels):
    corrections = Corrections(labels)
    corrections.apply(edits.mark_region(corrections, "reviewed", box=(20, 80, 30, 100)))
    expected = np.zeros(labels.shape, bool)
    expected[20:80, 30:100] = True
    np.testing.assert_array_equal(reviewed_mask(corrections), expected)
    corrections.apply(edits.redraw(corrections, [(48, 55), (48, 63), (58, 59)], overwrite=True))
    expected = reviewed_mask(corrections)
    ignored = edits.mark_region(
        corrections, "ignore", polygon=[(39.5, 49.5), (39.5, 69.5), (69.5, 69.5), (69.5, 49.5)]
    )
    corrections.apply(ignored)
    expected[40:70, 50:70] = False
    np.testing.assert_array_equal(reviewed_mask(corrections), expected)
    inside = edits.labels_in(corrections, ignored.added[0].polygon)
    assert inside
    assert set(inside) == edits.ignored_labels(corrections)
    assert set(inside) & edits.reviewed_labels(corrections)
    assert not reviewed_mask(corrections, box=(40, 70, 50, 70)).any()  # ignored, always

    assert edits.region_at(corrections, (50, 60)).kind == "ignore"
    assert edits.region_at(corrections, (25, 40)).kind == "reviewed"
    assert edits.region_at(corrections, (5, 5)) is None
    corrections.apply(edits.remove_region(corrections, ignored.added[0].id))
    assert reviewed_mask(corrections, box=(20, 80, 30, 100)).all()
    for region in (ignored.added[0].id, 99, "x"):
        with pytest.raises(EditError, match="no marked region"):
            edits.remove_region(corrections, region)


def test_regions_that_are_none(labels):
    corrections = Corrections(labels)
    for more, match in (
        ({}, "polygon or as a box"),
        ({"box": (0, 9, 0, 9), "polygon": [(0, 0), (0, 9), (9, 9)]}, "polygon or as a box"),
        ({"box": (300, 400, 0, 9)}, "no pixel"),
        ({"polygon": [(300, 300), (300, 309), (309, 309)]}, "no pixel"),
        ({"polygon": [(3.1, 3.1), (3.1, 3.2), (3.2, 3.2)]}, "no pixel"),
    ):
        with pytest.raises(EditError, match=match):
            edits.mark_region(corrections, "ignore", **more)
    with pytest.raises(EditError, match="ignore or reviewed"):
        edits.mark_region(corrections, "cleared", box=(0, 9, 0, 9))
    assert not corrections.regions


def test_acceptance(labels):
    corrections = Corrections(labels)
    history = History(corrections)
    first, second = corrections.plane().labels.tolist()[:2]
    history.do(edits.accept(corrections, [first]))
    assert corrections.status(first) == "accepted"
    with pytest.raises(NothingToEditError, match="reviewed already"):
        edits.accept(corrections, [first])
    history.do(edits.accept(corrections, [first, second]))
    assert history.undo_words == f"Undo acceptance of cell {second}"
    history.do(edits.accept_in_view(corrections, (-50, 500, -50, 500)))
    assert len(corrections.marked()) == len(corrections.plane())
    with pytest.raises(NothingToEditError, match="No cell"):
        edits.unaccept(Corrections(labels), [first])
    history.undo()
    history.do(edits.unaccept(corrections, [second]))
    assert corrections.marked() == {first: "accepted"}
    with pytest.raises(NothingToEditError, match="no cell in view"):
        edits.accept_in_view(Corrections(np.zeros((9, 9), int)), (0, 9, 0, 9))
    with pytest.raises(EditError, match="no pixel"):
        edits.accept_in_view(corrections, (1000, 1100, 0, 9))


def test_the_mask_follows_large_steps(labels):
    corrections = Corrections(labels)
    kept = ReviewedMask(corrections)
    kept.plane()
    history = History(corrections)
    rows, cols = np.arange(170), np.arange(170)
    old = labels[rows, cols].copy()
    labels[rows, cols] = 77  # a stroke from end to end
    for step in (
        history.record(edits.stroke(corrections, [((rows, cols), old, 77)])),
        history.do(edits.accept_in_view(corrections, (0, 170, 0, 230))),
        history.do(edits.delete(corrections, lasso=[(0, 0), (0, 160), (160, 160), (160, 0)])),
        history.undo(),
        history.undo(),
    ):
        changed = kept.update(step)
        assert changed
        np.testing.assert_array_equal(kept.plane(), reviewed_mask(corrections))
    kept.forget(())
    np.testing.assert_array_equal(kept.plane(), reviewed_mask(corrections))


def test_outlines_are_closed_and_lie_between_pixels():
    mask = np.zeros((30, 30), bool)
    mask[10:20, 5:25] = True
    mask[13:16, 10:15] = False
    lines = outlines(mask, corner=(100, 200))
    assert len(lines) == 2
    outer = max(lines, key=lambda line: np.ptp(line[:, 1]))
    np.testing.assert_array_equal(outer[0], outer[-1])
    assert np.abs(outer.min(axis=0) - [109.5, 204.5]).max() <= 0.5
    assert np.abs(outer.max(axis=0) - [119.5, 224.5]).max() <= 0.5
    whole = outlines(np.ones((4, 4), bool))
    assert len(whole) == 1
    assert outlines(np.zeros((4, 4), bool)) == []


@pytest.mark.parametrize("reach", [1, 7, 15, 100])
def test_bounded_distances_are_those_of_scipy(reach):
    random = np.random.default_rng(reach)
    for shape in ((1, 1), (3, 80), (90, 2), (150, 230)):
        mask = random.random(shape) < 3 / np.prod(shape)
        mask[0, 0] = True
        exact = np.round(ndimage.distance_transform_edt(~mask) ** 2)
        found = squared_distance(mask, reach).astype(int)
        near = exact <= reach**2
        np.testing.assert_array_equal(found[near], exact[near])
        assert (found[~near] > reach**2).all()
    assert (squared_distance(np.zeros((5, 9), bool), reach) > reach**2).all()


def test_inside_a_polygon_edge_by_edge():
    """Even-odd rule, against a loop over the edges for every point."""
    random = np.random.default_rng(2)
    for n in (3, 4, 9, 60):
        # on half pixels, so that many points lie on edges and corners
        points = np.round(random.uniform(0, 30, (n, 2)) * 2) / 2
        y, x = np.round(random.uniform(-3, 33, (2, 500)) * 2) / 2
        expected = np.zeros(y.size, bool)
        for (ya, xa), (yb, xb) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if ya != yb:
                crosses = (ya > y) != (yb > y)
                expected ^= crosses & (x < xa + (y - ya) / (yb - ya) * (xb - xa))
        np.testing.assert_array_equal(inside_polygon(points, y, x), expected)
        assert inside_polygon(points, y[7], x[7]) == expected[7]


def test_a_wide_deletion_is_followed_to_the_pixel():
    """Wide cells deleted at once and brought back: the mask is that of a fresh look."""
    random = np.random.default_rng(5)
    labels = np.zeros((900, 1100), np.int32)
    for label in range(1, 240):
        y, x = random.integers(0, (880, 1080))
        labels[y : y + random.integers(5, 20), x : x + random.integers(5, 20)] = label
    for label, y in ((5, 100), (9, 500), (12, 820)):
        labels[y : y + 12, 40:1000] = label
    corrections = Corrections(labels)
    history, kept = History(corrections), ReviewedMask(corrections)
    kept.plane()
    present = corrections.plane().labels
    history.do(edits.accept(corrections, present[::2]))
    kept.update(history.done[-1])
    history.do(edits.delete(corrections, [5, *present[40:60].tolist()]))
    kept.update(history.done[-1])
    for move in (
        lambda: history.do(edits.delete(corrections, lasso=[(0, 0), (0, 500), (400, 300)])),
        history.undo,
        history.redo,
        lambda: history.do(edits.unaccept(corrections, corrections.marked())),
        history.undo,
        lambda: history.do(edits.delete(corrections, [9, 12])),
        history.undo,
        history.undo,
        history.undo,
    ):
        kept.update(move())
        np.testing.assert_array_equal(kept.plane(), reviewed_mask(corrections))


@pytest.mark.parametrize("seed", range(6))
def test_the_mask_of_a_polygon_holds_the_centres_inside(seed: int) -> None:
    """Slanted edges, corners beyond the box, edges that cross."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-10, 50, (rng.integers(3, 9), 2))
    box = (3, 37, 5, 41)
    y, x = np.mgrid[box[0] : box[1], box[2] : box[3]].reshape(2, -1)
    expected = inside_polygon(points, y, x).reshape(34, 36)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(polygon_mask(points, box), expected)


def test_a_line_of_one_point_is_its_pixel():
    """Else a click with a tool that draws lines does nothing."""
    for points, pixels in (([(3, 4)], [(3, 4)]), ([(3, 4), (3, 6)], [(3, 4), (3, 5), (3, 6)])):
        rows, cols = line_pixels(np.array(points, float), (9, 9))
        assert list(zip(rows.tolist(), cols.tolist(), strict=True)) == pixels


@pytest.mark.parametrize("tight", [False, True])
def test_a_line_has_all_pixels_that_it_runs_over_to_the_edges(tight):
    shape = (7, 9)
    around = np.array([(0, 0), (0, 8), (6, 8), (6, 0), (0, 0)], float)
    seen = np.zeros(shape, int)
    np.add.at(seen, line_pixels(around, shape, tight), 1)
    edge = np.ones(shape, bool)
    edge[1:-1, 1:-1] = False
    assert np.array_equal(seen > 0, edge)
    for start, stop in (((-3, -3), (10, 10)), ((3, -5), (3, 20)), ((-5, 4), (20, 4))):
        rows, cols = line_pixels(np.array([start, stop], float), shape, tight)
        steps = np.abs(np.diff(rows)) + np.abs(np.diff(cols))
        assert steps.max() == (1 if tight or start[0] == stop[0] or start[1] == stop[1] else 2)
        assert {int(rows[0]), int(rows[-1])} <= {0, 3, 6}
        assert rows.min() >= 0
        assert cols.min() >= 0
        assert len(rows) >= 7
