from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.errors import SettingsError
from napari_sa2net.interpret.refinement import compare_objects, overlaps, stage_change


def plane(*boxes: tuple[int, int, int, int, int], shape=(20, 30)) -> np.ndarray:
    """Labels of rectangles given as label, y0, y1, x0, x1."""
    labels = np.zeros(shape, np.int32)
    for label, y0, y1, x0, x1 in boxes:
        labels[y0:y1, x0:x1] = label
    return labels


def counts(changes) -> tuple[int, int, int, int]:
    return changes.appeared, changes.vanished, changes.split, changes.merged


def test_renumbering_is_no_change():
    before = plane((1, 2, 8, 2, 9), (2, 2, 8, 9, 15))
    after = plane((900_000, 2, 8, 2, 9), (7, 2, 8, 9, 15))
    changes = compare_objects(before, after)
    assert counts(changes) == (0, 0, 0, 0)
    assert changes.gained_px == changes.lost_px == 0
    assert not changes.change.any()


def test_each_kind_of_change_is_counted_once():
    before = plane((1, 1, 5, 1, 13), (2, 8, 12, 1, 7), (3, 8, 12, 7, 13), (4, 15, 19, 1, 5))
    after = plane((5, 1, 5, 1, 6), (6, 1, 5, 7, 13), (8, 8, 12, 1, 13), (9, 15, 19, 20, 25))
    changes = compare_objects(before, after)
    assert counts(changes) == (1, 1, 1, 1)
    assert changes.gained_px == 4 * 5
    assert changes.lost_px == 4 + 4 * 4  # the column of the cut, and the one that vanished
    assert changes.change.dtype == np.int8
    assert (changes.change > 0).sum() == changes.gained_px
    assert np.array_equal(changes.change, stage_change(before, after))


def test_a_lap_over_the_neighbour_is_neither_split_nor_merge():
    before = plane((1, 0, 10, 0, 10), (2, 0, 10, 10, 20))
    after = plane((1, 0, 10, 0, 12), (2, 0, 10, 12, 20))
    assert counts(compare_objects(before, after)) == (0, 0, 0, 0)


def test_one_pixel_and_no_objects():
    one, none = plane((3, 0, 1, 0, 1)), plane()
    assert counts(compare_objects(one, one)) == (0, 0, 0, 0)
    assert counts(compare_objects(none, one)) == (1, 0, 0, 0)
    assert counts(compare_objects(one, none)) == (0, 1, 0, 0)
    assert counts(compare_objects(none, none)) == (0, 0, 0, 0)
    empty = np.zeros((0, 5), np.int32)
    assert counts(compare_objects(empty, empty)) == (0, 0, 0, 0)


def test_areas_and_pairs_agree_with_counting():
    rng = np.random.default_rng(3)
    before = np.repeat(np.repeat(rng.integers(0, 6, (8, 9)), 4, 0), 4, 1)
    after = np.repeat(np.repeat(rng.integers(0, 5, (16, 18)), 2, 0), 2, 1) * 10
    found = overlaps(before, after)
    assert found.before.tolist() == [1, 2, 3, 4, 5]
    assert found.area_after.tolist() == [int((after == v).sum()) for v in found.after]
    pairs = set(zip(found.before[found.i].tolist(), found.after[found.j].tolist(), strict=True))
    wanted = {
        (a, b)
        for a in found.before.tolist()
        for b in found.after.tolist()
        if ((before == a) & (after == b)).sum()
        >= min((before == a).sum(), (after == b).sum()) / 4
    }
    assert pairs == wanted


@pytest.mark.parametrize(
    "after", [np.zeros((20, 31), np.int32), np.zeros((20, 30)), np.zeros((2, 20, 30), int)]
)
def test_what_does_not_fit_is_refused(after):
    with pytest.raises(SettingsError):
        compare_objects(plane(), after)
