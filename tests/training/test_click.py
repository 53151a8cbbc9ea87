"""Clicks that learn from a person's cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_sa2net.errors import Cancelled
from napari_sa2net.inference.click import CHANNELS, TYPICAL, click_network, object_at
from napari_sa2net.inference.click import SIDE as SIDE_OF_WINDOW
from napari_sa2net.training import click
from napari_sa2net.training.click import (
    ClickExample,
    both_losses,
    click_loss,
    examples_in,
    learned_clicks,
    score_loss,
)

SIDE, RADIUS = 60, 13


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click, "BATCH", 6)


def cell(seed: int, whole: bool) -> tuple[Any, Any]:
    """A bright nucleus in a faint cell, and what a person wants of it."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIDE, SIDE)) - SIDE / 2 + rng.uniform(-2, 2, (2, 1, 1))
    body = np.hypot(y, x * rng.uniform(0.85, 1.15)) <= RADIUS
    nucleus = np.hypot(y - rng.uniform(-3, 3), x - rng.uniform(-3, 3)) <= 5
    image = ndimage.gaussian_filter(0.2 * body + 0.8 * nucleus, 1)
    image = image + rng.normal(0, 0.01, image.shape)
    seen = np.broadcast_to(image.astype(np.float32), (3, SIDE, SIDE))
    return seen, body if whole else nucleus


def example(seed: int, whole: bool = False) -> ClickExample:
    image, own = cell(seed, whole)
    nothing = np.zeros((3, SIDE, SIDE), np.float32)
    return ClickExample(image, nothing, own.astype(np.int32), own, 2 * RADIUS)


def overlap(net: Any, whole: bool = False) -> float:
    """Mean IoU of clicks on cells that it has not seen."""
    ious = []
    for seed in range(100, 106):
        image, own = cell(seed, whole)
        middle = ndimage.center_of_mass(own)
        found = object_at(image, np.zeros(own.shape, np.int32), middle, 2 * RADIUS, net=net)
        ious.append((found & own).sum() / (found | own).sum())
    return float(np.mean(ious))


@pytest.mark.parametrize("whole", [False, True])
def test_a_few_cells_teach_a_click_what_a_cell_is(whole: bool) -> None:
    """The nucleus alone, or all of the cell: both cannot be what it gives untaught."""
    before = overlap(click_network(), whole)
    net = learned_clicks([example(seed, whole) for seed in range(4)], steps=12)
    assert net is not None
    assert overlap(net, whole) > max(0.7, before)
    # the bundled one is as it was
    assert overlap(click_network(), whole) == before
    assert not any(p.requires_grad for p in net.parameters())


def test_what_is_no_better_on_cells_held_back_is_not_taken() -> None:
    """Those held back are what it gives untaught, and it is taught the other."""
    other = overlap(click_network(), True) < overlap(click_network(), False)
    some = [example(seed, other != (seed % 4 == 3)) for seed in range(8)]
    assert learned_clicks(some, steps=12) is None
    assert learned_clicks(some[:7], steps=1) is not None  # too few to hold some back


def test_it_ends_where_it_is_told_to() -> None:
    steps = []

    def on_step(*_: int) -> None:
        steps.append(1)
        if len(steps) == 3:
            raise Cancelled("no more")

    with pytest.raises(Cancelled):
        learned_clicks([example(seed) for seed in range(3)], on_step)
    assert len(steps) == 3


def test_a_slow_machine_teaches_for_no_longer() -> None:
    steps: list[int] = []
    net = learned_clicks([example(0)], lambda *_: steps.append(1), seconds=1e-9)
    assert len(steps) <= 2
    assert net is not None


def test_a_cell_that_is_hardly_seen_teaches_nothing() -> None:
    image, own = cell(0, whole=False)
    speck = np.zeros_like(own)
    speck[30, 30] = True
    nothing = np.zeros((3, SIDE, SIDE), np.float32)
    one = ClickExample(image, nothing, speck.astype(np.int32), speck, 2 * RADIUS)
    assert one.look(np.random.default_rng(0)) is None
    net = learned_clicks([one], steps=2)
    assert net is not None
    assert overlap(net) == overlap(click_network())


def test_cells_of_many_pixels_are_learned_from_as_coarse_as_the_network_sees_them() -> None:
    """Else each step of them takes seconds, in which no click is answered."""
    small = example(0, whole=True)
    image, own = (np.kron(a, np.ones((5, 5), a.dtype)) for a in (small.image[0], small.own))
    large = ClickExample(
        np.stack([image] * 3)[:, 3:],
        np.zeros((3, *own.shape), np.float32)[:, 3:],
        own.astype(np.int32)[3:],
        own[3:],
        5 * small.diameter,
    ).reduced()
    assert large.own.size <= small.own.size
    assert (
        large.own.shape == large.labels.shape == large.image.shape[1:] == large.seen.shape[1:]
    )
    # for the network it is as large as it was
    still = [one.look(np.random.default_rng(0), still=True) for one in (small, large)]
    areas = [int(look.own.sum()) for look in still if look is not None]
    assert areas[1] == pytest.approx(areas[0], rel=0.1)
    assert small.reduced() is small


def test_a_look_shows_what_lies_around_a_cell_where_it_lies() -> None:
    """From its middle, as large as it is; what is no pixel of the image does not count."""
    labels = np.zeros((50, 70), np.int32)
    labels[20:31, 3:14] = 4
    labels[20:31, 20:40] = 9
    image = np.stack([labels, labels * 2, labels * 3]).astype(np.float32)
    one = ClickExample(image, image * 10, labels, labels == 4, TYPICAL)
    look = one.look(np.random.default_rng(0), still=True)
    assert look is not None
    # one element of the window is a pixel; its middle lies between two
    pixels = np.arange(SIDE_OF_WINDOW) - 31.5
    ys, xs = 25 + pixels, 8 + pixels
    np.testing.assert_array_equal(
        look.counts, ((ys > -0.5) & (ys < 49.5))[:, None] & ((xs > -0.5) & (xs < 69.5))
    )
    assert int(look.own.sum()) == 11 * 11
    assert set(look.labels.unique().tolist()) == {0, 4, 9}
    assert torch.equal(look.own, look.labels == 4)
    torch.testing.assert_close(look.image[2], 3 * look.image[0])
    torch.testing.assert_close(look.seen, 10 * look.image)
    x, truth, counts = look.given([(1.0, 1.0)], [(60.0, 60.0)])
    assert x.shape == (CHANNELS, SIDE_OF_WINDOW, SIDE_OF_WINDOW)
    assert torch.equal(x[9], (look.labels == 9).float())
    assert x[10, 1, 1] == 1
    assert x[11, 60, 60] == 1
    assert torch.equal(truth, look.own.float())
    assert torch.equal(counts, look.counts.float())
    # else turned, mirrored, and of another size each time
    rng = np.random.default_rng(0)
    areas = [int(other.own.sum()) for _ in range(20) if (other := one.look(rng)) is not None]
    assert min(areas) < 110
    assert max(areas) > 132
    assert np.mean(areas) == pytest.approx(121, rel=0.15)
    same = [one.look(rng, sizes=0.0) for _ in range(5)]
    assert all(abs(int(other.own.sum()) - 121) <= 8 for other in same if other is not None)


def test_what_is_reduced_is_the_mean_of_its_pixels() -> None:
    labels = np.arange(7 * 9, dtype=np.int32).reshape(7, 9)
    image = np.stack([labels, -labels, labels * 0]).astype(np.float32)
    one = ClickExample(image, image + 1, labels, labels % 2 == 1, 2 * TYPICAL)
    small = one.reduced()
    blocks = image[0, :6, :8].reshape(3, 2, 4, 2)
    np.testing.assert_array_equal(small.image[0], blocks.mean((1, 3)))
    np.testing.assert_array_equal(small.image[1], -small.image[0])
    np.testing.assert_array_equal(small.seen, small.image + 1)
    np.testing.assert_array_equal(small.labels, labels[1:6:2, 1:8:2])
    np.testing.assert_array_equal(small.own, small.labels % 2 == 1)
    assert small.diameter == TYPICAL
    # just below twice as large it stays, and what is smaller than a block does, too
    almost = replace(one, diameter=2 * TYPICAL - 1)
    assert almost.reduced() is almost
    huge = replace(one, diameter=8 * TYPICAL)
    assert huge.reduced() is huge


def test_the_loss_is_cross_entropy_and_dice_of_what_counts() -> None:
    logits = torch.zeros(2, 4, 4)
    truth, counts = torch.zeros(2, 4, 4), torch.ones(2, 4, 4)
    truth[:, :2] = 1
    counts[1, :, 2:] = 0
    logits[1, :, 2:] = 99.0  # what does not count may be anything
    # p = 1/2 everywhere: of 16 and of 8 pixels, half of them the object
    dice = [(2 * n / 4 + 5) / (n / 2 + 8 + 5) for n in (16, 8)]
    expected = float(np.mean([np.log(2) + 1 - one for one in dice]))
    assert float(click_loss(logits, truth, counts)) == pytest.approx(expected)
    # a pixel of the object weighs five times as much
    logits = torch.where(truth > 0, 30.0, 0.0)[:1]
    wrong = 8 * np.log(2) / (5 * 8 + 8)
    dice = [(2 * 8 + 5) / (8 + 4 + 8 + 5)]
    loss = float(click_loss(logits, truth[:1], counts[:1]))
    assert loss == pytest.approx(wrong + 1 - dice[0], abs=1e-5)


def test_teaching_is_the_same_each_time_and_no_step_teaches_nothing() -> None:
    examples = [example(seed) for seed in range(3)]
    first, again, other = (learned_clicks(examples, steps=2, seed=seed) for seed in (5, 5, 6))
    weights = [net.h.weight for net in (first, again, other) if net is not None]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    untaught = learned_clicks(examples, steps=0)
    assert untaught is not None
    assert torch.equal(untaught.h.weight, click_network().h.weight)


def test_examples_of_a_plane_are_its_reviewed_cells_and_places_beside_them() -> None:
    labels = np.zeros((120, 140), np.uint32)
    for number, (y, x) in zip((3, 2**32 - 5, 9), ((30, 30), (80, 40), (60, 100)), strict=True):
        labels[y - 8 : y + 8, x - 8 : x + 8] = number
    counts = np.zeros(labels.shape, bool)
    counts[:, :64] = True
    image = np.random.default_rng(0).random((3, *labels.shape), np.float32)
    some = examples_in(image, np.zeros_like(image), labels, counts)
    cells = [one for one in some if not one.is_empty]
    assert {int(one.labels[one.own][0]) for one in cells} == {3, 2**32 - 5}
    assert all(one.own.sum() == 256 for one in cells)
    assert {one.diameter for one in some} == {2 * np.sqrt(256 / np.pi)}
    empty = [one for one in some if one.is_empty]
    assert len(empty) == 48
    assert all(one.own.any() and not one.labels[one.own].any() for one in empty)
    look = empty[0].look(np.random.default_rng(0))
    assert look is not None
    assert not look.own.any()
    # nothing reviewed, nothing to learn from
    assert examples_in(image, image, labels, np.zeros_like(counts)) == []


def test_places_without_a_cell_teach_what_is_none() -> None:
    """Clicks on them are scored lower than clicks on cells then, and lower than before."""
    wanted = [example(seed) for seed in range(6)]
    empty = []
    for one in wanted:
        corner = np.zeros_like(one.own)
        corner[3:9, 3:9] = True
        empty.append(replace(one, own=corner & ~one.own, is_empty=True))
    net = learned_clicks([*wanted, *empty], steps=12)
    assert net is not None

    def scores(some: Any) -> Any:
        looks = [one.look(np.random.default_rng(1)) for one in some]
        return net(torch.stack([look.given()[0] for look in looks if look is not None]))[1]

    assert scores(wanted).min() > scores(empty).max()


def test_a_lesson_is_as_long_as_it_was_when_it_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thirty steps of twelve clicks; of empty places, where some are known, two of five."""
    monkeypatch.undo()
    taken: list[bool] = []
    monkeypatch.setattr(ClickExample, "look", lambda one, _: taken.append(one.is_empty))
    steps: set[int] = set()
    one = example(0)
    learned_clicks([one], lambda _, all_of_them: steps.add(all_of_them))
    assert steps == {30}
    assert taken == [False] * 30 * 12
    taken.clear()
    learned_clicks([one, replace(one, is_empty=True)])
    assert np.mean(taken) == pytest.approx(0.4, abs=0.08)


@pytest.mark.parametrize(("empty", "rate"), [(False, 3e-3), (True, 2e-3)])
def test_a_lesson_begins_slowly_and_is_slower_where_nothing_is_learned_too(
    empty: bool, rate: float
) -> None:
    """In a first step a weight goes a fifth of the way that it may go later."""
    one = example(0)
    some = [one, replace(one, is_empty=True)] if empty else [one]
    before, net = click_network(), learned_clicks(some, steps=1)
    assert net is not None
    pairs = zip(net.parameters(), before.parameters(), strict=True)
    furthest = max(float((new - old).detach().abs().max()) for new, old in pairs)
    assert furthest == pytest.approx(rate / 5, rel=0.05)


def test_scores_weigh_half_of_what_is_marked() -> None:
    logits, truth, counts = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), torch.ones(2, 4, 4)
    scores = torch.zeros(2)  # whatever was hit, unsure: log 2
    assert float(both_losses(scores, logits, truth, counts)) == pytest.approx(np.log(2) / 2)
    truth[1, :2] = 1  # of the first nothing is to be marked, and it is not asked what was
    expected = np.log(2) / 2 + float(click_loss(logits[1:], truth[1:], counts[1:]))
    assert float(both_losses(scores, logits, truth, counts)) == pytest.approx(expected)


def test_scores_are_taught_what_was_hit() -> None:
    """The IoU of what is marked, 0 where nothing is; of pixels that count alone."""
    truth = torch.zeros(3, SIDE, SIDE)
    truth[0, 10:20, 10:20] = truth[1, 10:20, 10:20] = 1
    logits = torch.full((3, SIDE, SIDE), -9.0)
    logits[0, 10:20, 10:15] = logits[2, 10:20, 10:20] = 9.0
    counts = torch.ones(3, SIDE, SIDE)
    wanted = torch.tensor([0.5, 0.0, 0.0])
    best = score_loss(torch.logit(wanted.clamp(1e-6, 1 - 1e-6)), logits, truth, counts)
    entropy = float(torch.nn.functional.binary_cross_entropy(wanted, wanted))
    assert float(best) == pytest.approx(entropy, abs=1e-4)
    for off in (0.3, 0.7):
        other = torch.logit(torch.tensor([off, 1e-6, 1e-6]))
        assert score_loss(other, logits, truth, counts) > best + 0.01
    counts[0, :, 15:] = 0  # half of it lies outside the image
    truth[0, :, 15:] = 0
    full = torch.logit(torch.tensor([1 - 1e-6, 1e-6, 1e-6]))
    assert float(score_loss(full, logits, truth, counts)) < 1e-3
