"""What is held back: groups, images, or a part of the one image."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.errors import TrainingDataError
from napari_sa2net.training.dataset import Example
from napari_sa2net.training.held_out import (
    _take,
    _window,
    certain_pixels,
    focus,
    is_one_group,
    make_view,
    split_examples,
)


def example(name, group="", n=12, seed=0, counts=None, split="", shape=(120, 150)):
    image, labels = synthetic_nuclei(shape, n, 16, seed)
    pixels = np.repeat(image[None].astype(np.float32) / 4095, 3, axis=0)
    item = TrainingItem(name, Path(), Path(), None, split, "", group)
    return focus(Example(item, pixels, labels, counts, 16.0, np.zeros((0, 2))), 24)


def names(examples):
    return sorted(e.item.name for e in examples)


def test_whole_groups_are_held_out():
    some = [example(f"{g}{i}", g, seed=i) for g in "abcd" for i in range(3)]
    split = split_examples(some, 0.25, seed=0)
    assert {e.item.group for e in split.held_out}.isdisjoint(
        {e.item.group for e in split.training}
    )
    assert len(split.held_out) in (3, 6)
    assert len(split.held_out) + len(split.training) == 12
    assert names(split_examples(some, 0.25, seed=0).held_out) == names(split.held_out)
    drawn = {tuple(names(split_examples(some, 0.25, seed=s).held_out)) for s in range(8)}
    assert len(drawn) > 1


def test_images_of_the_only_group_and_marked_ones():
    some = [example(f"i{i}", "slide", seed=i) for i in range(5)]
    assert len(split_examples(some, 0.2, 0).held_out) == 1
    marked = [*some, example("v", "other", split="val")]
    assert names(split_examples(marked, 0.2, 0).held_out) == ["v"]


def test_the_order_does_not_change_when_the_set_grows():
    some = [example(f"i{i}", seed=i) for i in range(4)]
    first = split_examples(some, 0.25, 0)
    known, held = names(first.training), names(first.held_out)
    grown = [*some, *(example(f"n{i}", seed=10 + i) for i in range(4))]
    split = split_examples(grown, 0.25, 0, known, held)
    # What the parent saw is never held out; what was held out before stays aside.
    assert set(names(split.held_out)).isdisjoint(known)
    assert names(split.earlier) == held
    assert not split.known
    assert set(names(split.training)) >= set(known)


def test_nothing_new_means_the_same_images_are_held_out_again():
    some = [example(f"i{i}", seed=i) for i in range(4)]
    first = split_examples(some, 0.25, 0)
    again = split_examples(some, 0.25, 0, names(first.training), names(first.held_out))
    assert names(again.held_out) == names(first.held_out)
    assert not again.known
    # A parent that has learned from all of them: said so.
    assert split_examples(some, 0.25, 0, [e.item.name for e in some]).known


def test_one_image_is_cut_in_two_with_a_gap():
    one = example("only", n=30, shape=(120, 260))
    split = split_examples([one], 0.25, 0)
    learned, held = split.training[0], split.held_out[0]
    a, b = (np.flatnonzero(e.counts.any(0)) for e in (learned, held))
    assert b[0] - a[-1] > one.diameter / 2
    assert len(held.centres) >= 5
    assert len(learned.centres) > len(held.centres)
    assert len(learned.centres) + len(held.centres) <= len(one.centres)


def test_too_little_says_what_to_do():
    with pytest.raises(TrainingDataError, match="a few more cells"):
        split_examples([example("x", n=2)], 0.2, 0)
    nobody = np.zeros((120, 150), bool)
    with pytest.raises(TrainingDataError, match="has been reviewed"):
        split_examples([example("x", counts=nobody)], 0.2, 0)


def test_size_and_places_are_those_of_reviewed_objects():
    image, labels = synthetic_nuclei((200, 200), 40, 14, 3)
    big = np.zeros_like(labels)
    big[150:190, 150:190] = labels.max() + 1
    labels = np.where(big > 0, big, labels)
    counts = big > 0
    pixels = np.repeat(image[None].astype(np.float32) / 4095, 3, axis=0)
    item = TrainingItem("x", Path(), Path())
    one = focus(Example(item, pixels, labels, counts, 14.0, np.zeros((0, 2))), 24)
    assert one.diameter == pytest.approx(2 * 40 / np.sqrt(np.pi), rel=0.01)
    assert len(one.centres) == 1
    y, x = np.round(one.centres[0]).astype(int)
    assert one.labels[y, x] == labels.max()


def test_a_view_shows_the_part_with_most_reviewed_cells():
    image, labels = synthetic_nuclei((300, 300), 80, 14, 3)
    counts = np.zeros(labels.shape, bool)
    counts[10:60, 200:280] = True
    pixels = np.repeat(image[None].astype(np.float32) / 4095, 3, axis=0)
    item = TrainingItem("x", Path(), Path())
    one = focus(Example(item, pixels, labels, counts, 14.0, np.zeros((0, 2))), 14)
    view = make_view(one, one.diameter, side=96)
    assert view.image.shape == (3, 96, 96)
    assert view.labels.shape == view.counts.shape == (96, 96)
    assert view.counts.sum() > 0.9 * counts.sum()


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("sure", [True, False])
def test_of_a_view_count_the_pixels_whose_label_is_certain(counted, sure):
    labels = np.zeros((20, 30), np.int32)
    labels[5:15, 5:15] = 1
    columns = np.indices(labels.shape)[1]
    counts, certain = columns < 20, columns % 2 == 0
    item = TrainingItem("x", Path(), Path())
    pixels = np.zeros((3, 20, 30), np.float32)
    example = Example(
        item, pixels, labels, counts if counted else None, 11.0, np.array([[9.5, 9.5]])
    )
    example = replace(example, certain=certain if sure else None)
    view = make_view(example, 11.0)
    if not counted:
        assert view.counts is None
    else:
        np.testing.assert_array_equal(view.counts, counts & certain if sure else counts)


def test_all_held_back_is_said():
    some = [example(f"i{i}", seed=i, split="val") for i in range(3)]
    with pytest.raises(
        TrainingDataError, match=r"learn from.* one of those marked val the mark train"
    ):
        split_examples(some, 0.25, 0)
    split_examples([*some, example("other", seed=9)], 0.25, 0)


@pytest.mark.parametrize(
    ("places", "extent", "n", "side", "start"),
    [
        ([], (0, 90), 100, 100, 0),
        ([], (0, 90), 80, 100, 0),
        ([50], (40, 60), 200, 40, 30),  # all that counts is in the middle
        ([50], (45, 60), 200, 40, 32),
        ([5], (0, 10), 200, 40, 0),
        ([195], (190, 199), 200, 40, 160),
        ([100], (80, 120), 200, 40, 80),
        # more counts than is seen: most places, in the middle
        ([10, 100, 110, 190], (0, 199), 200, 40, 85),
        ([10, 20, 100], (0, 199), 200, 40, 0),
        ([60, 70, 80, 150], (0, 199), 200, 40, 50),
        ([190, 195, 20], (0, 199), 200, 40, 160),
        ([], (0, 199), 200, 40, 79),
    ],
)
def test_a_window_shows_most(places, extent, n, side, start):
    assert _window(np.array(places, float), np.array(extent, float), n, side) == start


@pytest.mark.parametrize(("across", "down"), [(1, 20), (20, 1)])
@pytest.mark.parametrize(
    ("fraction", "held"), [(0.01, 1), (0.25, 2), (0.3, 2), (0.35, 3), (0.5, 4), (0.99, None)]
)
def test_a_strip_at_the_end_of_one_image_is_held_back(across, down, fraction, held):
    """Of eight cells in a line, 20 px apart and 9 px wide."""
    labels = np.zeros((180, 180), np.int32)
    for i in range(8):
        y, x = 10 + i * down if down > 1 else 90, 10 + i * across if across > 1 else 90
        labels[y : y + 9, x : x + 9] = i + 1
    item = TrainingItem("a", Path(), Path())
    one = focus(
        Example(item, np.zeros((3, 180, 180), np.float32), labels, None, 9, np.zeros((0, 2))), 9
    )
    if held is None:
        with pytest.raises(TrainingDataError, match="left to learn from"):
            split_examples([one], fraction, 0)
        return
    split = split_examples([one], fraction, 0)
    (learned,), (aside,) = split.training, split.held_out
    axis = 0 if down > 1 else 1
    # the border lies in the middle between two cells
    border = round(10 + 20 * (8 - held) - 20 + 14)
    rows = np.indices(labels.shape)[axis]
    np.testing.assert_array_equal(aside.counts, rows >= border)
    np.testing.assert_array_equal(learned.counts, rows < border - round(one.diameter))
    assert len(aside.centres) == held
    assert aside.centres[:, axis].min() >= border
    assert len(learned.centres) == 8 - held - 1  # the gap cuts the last one


def test_units_are_taken_until_they_hold_enough():
    units = {
        name: [SimpleNamespace(centres=range(n))]
        for name, n in zip("abcde", (3, 0, 5, 2, 9), strict=True)
    }
    for wanted, keep_one, taken in (
        (0, False, "a"),
        (3, False, "a"),
        (3.1, False, "ac"),
        (8, False, "ac"),
        (8.5, False, "acd"),
        (99, False, "acde"),
        (99, True, "acd"),
    ):
        assert _take("abcde", units, wanted, keep_one) == list(taken)
    assert _take("b", units, 5, False) == []
    assert _take("a", units, 5, True) == []


@pytest.mark.parametrize(
    ("groups", "cells", "is_one"),
    [
        ("aa", (3, 3), True),
        ("ab", (3, 3), False),
        ("a", (3,), False),
        (("", ""), (3, 3), False),
        (("a", ""), (3, 3), False),
        ("aab", (3, 3, 0), True),
        ("aa", (3, 0), False),
    ],
)
def test_images_of_one_group_are_torn(groups, cells, is_one):
    some = [
        SimpleNamespace(item=SimpleNamespace(group=group), centres=range(n))
        for group, n in zip(groups, cells, strict=True)
    ]
    assert is_one_group(some) == is_one


def test_what_lies_far_off_reviewed_places_is_left_out():
    """128 px of the network around them are kept."""
    labels = np.zeros((400, 500), np.int32)
    labels[190:200, 240:250] = 3
    labels[5:15, 5:15] = 8
    counts = np.zeros(labels.shape, bool)
    counts[185:205, 235:255] = True
    rows, columns = np.indices(labels.shape)
    image = np.stack([rows, columns, labels]).astype(np.float32)
    item = TrainingItem("x", Path(), Path())
    diameter = 2 * 10 / np.sqrt(np.pi)
    for network in (diameter, 2 * diameter):
        one = focus(Example(item, image, labels, counts, 30.0, np.zeros((0, 2))), network)
        margin = round(128 * diameter / network) + 1
        assert one.diameter == pytest.approx(diameter)
        top, left = (int(one.image[i, 0, 0]) for i in (0, 1))
        bottom, right = (int(one.image[i, -1, -1]) for i in (0, 1))
        assert abs(top - (185 - margin)) <= 1
        assert abs(left - (235 - margin)) <= 1
        assert abs(bottom - (204 + margin)) <= 1
        assert abs(right - (254 + margin)) <= 1
        np.testing.assert_array_equal(one.labels, one.image[2])
        assert one.counts.sum() == 400
        np.testing.assert_allclose(one.centres, [[194.5 - top, 244.5 - left]])


@pytest.mark.parametrize(("side", "away"), [(10, 2), (40, 6)])
def test_background_is_certain_close_to_a_cell_that_was_reviewed(side, away):
    """Within two pixels, or 0.15 of a diameter where that is more."""
    labels = np.zeros((100, 100), np.int32)
    labels[30 : 30 + side, 30 : 30 + side] = 1
    counts = np.zeros(labels.shape, bool)
    counts[20 : 40 + side, 20 : 40 + side] = True
    certain = certain_pixels(labels, counts, float(side))
    middle = 30 + side // 2
    assert certain[middle, 20:30].tolist() == [False] * (10 - away) + [True] * away


@pytest.mark.parametrize(("n", "enough"), [(3, False), (4, True)])
def test_of_one_image_with_four_cells_one_can_be_held_back(n, enough):
    labels = np.zeros((40, 30 * n), np.int32)
    for i in range(n):
        labels[10:26, 30 * i + 5 : 30 * i + 21] = i + 1
    item = TrainingItem("a", Path(), Path())
    image = np.zeros((3, *labels.shape), np.float32)
    one = focus(Example(item, image, labels, None, 16.0, np.zeros((0, 2))), 24)
    if enough:
        split = split_examples([one], 0.25, 0)
        assert [len(e[0].centres) for e in (split.training, split.held_out)] == [2, 1]
    else:
        with pytest.raises(TrainingDataError, match=r"Only 3 cell\(s\) .* 4 are needed"):
            split_examples([one], 0.25, 0)


def test_context_around_what_was_reviewed_is_that_of_a_crop():
    labels = np.zeros((400, 400), np.int32)
    labels[195:205, 195:205] = 1
    item = TrainingItem("a", Path(), Path())
    image = np.zeros((3, 400, 400), np.float32)
    counts = labels > 0
    one = focus(Example(item, image, labels, counts, 24.0, np.zeros((0, 2))), 10.0)
    diameter = one.diameter  # of the cell, in pixels of the image
    assert (one.labels.shape[0] - 10) / 2 == pytest.approx(128 * diameter / 10, abs=1)
