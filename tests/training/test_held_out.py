"""What is held back: groups, images, or a part of the one image."""

from pathlib import Path

import numpy as np
import pytest

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.errors import TrainingDataError
from napari_sa2net.training.dataset import Example
from napari_sa2net.training.held_out import focus, make_view, split_examples


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


def test_all_held_back_is_said():
    some = [example(f"i{i}", seed=i, split="val") for i in range(3)]
    with pytest.raises(
        TrainingDataError, match=r"learn from.* one of those marked val the mark train"
    ):
        split_examples(some, 0.25, 0)
    split_examples([*some, example("other", seed=9)], 0.25, 0)
