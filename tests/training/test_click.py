"""Clicks that learn from a person's cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_sa2net.errors import Cancelled
from napari_sa2net.inference.click import click_network, object_at
from napari_sa2net.training import click
from napari_sa2net.training.click import (
    HOLD,
    JUDGED,
    ClickExample,
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
    some = [example(seed, other != (seed % HOLD == HOLD - 1)) for seed in range(JUDGED)]
    assert learned_clicks(some, steps=12) is None
    assert learned_clicks(some[: JUDGED - 1], steps=1) is not None  # too few to hold some back


def test_it_ends_where_it_is_told_to() -> None:
    steps = []

    def between() -> None:
        steps.append(1)
        if len(steps) == 3:
            raise Cancelled("no more")

    with pytest.raises(Cancelled):
        learned_clicks([example(seed) for seed in range(3)], between)
    assert len(steps) == 3


def test_a_slow_machine_teaches_for_no_longer() -> None:
    steps: list[int] = []
    net = learned_clicks([example(0)], lambda: steps.append(1), seconds=1e-9)
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
    assert len(empty) == click.MOST
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
