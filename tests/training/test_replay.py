"""What is learned again so that nothing is forgotten, and how far the parent is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_sa2net.config import TrainConfig
from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.models import read_card
from napari_sa2net.training.dataset import Example
from napari_sa2net.training.replay import (
    MixedCrops,
    agreement,
    as_fluorescence,
    replay_examples,
    trust,
)


def test_synthetic_cells_are_of_the_networks_size_sparse_and_crowded(tiny_model: Path) -> None:
    card = read_card(tiny_model)
    assert card is not None
    examples = replay_examples(card, 8.0, seed=1)
    assert len(examples) == 16
    side = 10 * 8
    covered = []
    for i, example in enumerate(examples):
        assert example.image.shape == (3, side, side)
        assert example.labels.shape == (side, side)
        assert example.item.kind == ("fluo" if i % 4 else "stained")
        areas = np.bincount(example.labels.ravel())[1:]
        assert 8 * 0.7 < 2 * np.sqrt(np.median(areas[areas > 0]) / np.pi) < 8 * 1.35
        covered.append((example.labels > 0).mean())
    assert min(covered) < 0.3 < 0.4 < max(covered)
    # drawn by the seed, and others than those of another
    again = replay_examples(card, 8.0, seed=1)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(examples, again, strict=True))
    other = replay_examples(card, 8.0, seed=2)
    assert not any(
        np.array_equal(a.labels, b.labels) for a, b in zip(examples, other, strict=True)
    )


def example(value: float, kind: str = "") -> Example:
    image = np.full((3, 64, 64), value, np.float32)
    labels = np.zeros((64, 64), np.int32)
    labels[20:40, 20:40] = 1
    item = TrainingItem("a", Path(), Path(), kind=kind)
    return Example(item, image, labels, None, 20.0, np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("batch", "share", "n"), [(4, 0.5, 2), (4, 1.0, 3), (4, 0.0, 0), (1, 0.9, 0), (8, 0.2, 2)]
)
def test_every_batch_has_its_share_of_replay(batch: int, share: float, n: int) -> None:
    config = TrainConfig(batch_size=batch, crop=32)
    crops = MixedCrops([example(0.2)], [example(0.9)], config, share, batches=3)
    assert len(crops) == 3 * batch
    for i in range(len(crops)):
        crop = crops[i]
        is_replay = i % batch >= batch - n
        assert bool(crop["replay"]) == is_replay
        assert bool(crop["mask"].any()) != is_replay  # of replay no pixel counts
        assert not (is_replay and crop["certain"].any())
    none = MixedCrops([example(0.2)], [], config, share, batches=3)
    assert not any(bool(none[i]["replay"]) for i in range(len(none)))


def test_a_run_goes_on_with_the_crops_that_come_next() -> None:
    config = TrainConfig(batch_size=3, crop=32)
    given: Any = ([example(0.2)], [example(0.9)], config, 0.34)
    whole = MixedCrops(*given, batches=4)
    rest = MixedCrops(*given, batches=2, start=2)
    assert len(rest) == 6
    for i in range(6):
        for key, value in whole[6 + i].items():
            assert torch.equal(value, rest[i][key])
    seen = [whole[i]["image"] for i in range(12) if not whole[i]["replay"]]
    assert len({one.numpy().tobytes() for one in seen}) > 1


def test_colours_become_light_cells_on_dark_ground() -> None:
    rng = np.random.default_rng(0)
    light = rng.uniform(0.7, 1, (3, 8, 8)).astype(np.float32)
    dark = rng.uniform(0, 0.3, (3, 8, 8)).astype(np.float32)
    grey = np.broadcast_to(light[:1], light.shape)

    def of(image: Any) -> Example:
        item = TrainingItem("a", Path(), Path(), kind="stained")
        return Example(item, image, np.zeros((8, 8), np.int32), None, 5.0, np.zeros((0, 2)))

    one, other = as_fluorescence([of(light), of(grey), of(dark)])
    np.testing.assert_allclose(one.image[0], 1 - light.mean(0), rtol=1e-5)
    np.testing.assert_allclose(other.image[2], dark.mean(0), rtol=1e-5)
    assert one.item.kind == other.item.kind == "fluo"


def test_agreement_counts_what_both_have_said() -> None:
    background = np.array([[0.95, 0.95, 0.6, 0.05, 0.05, 0.95]])
    probability = np.stack([background, 1 - background, 0 * background])
    truth = np.array([[0, 0, 0, 0, 3, 3]])
    # sure of all but the third; wrong once of background and once of cells
    assert agreement(probability, truth, None, 0.9).tolist() == [[2, 3], [1, 2]]
    seen = np.array([[True, False, True, True, True, False]])
    assert agreement(probability, truth, seen, 0.9).tolist() == [[1, 2], [1, 1]]
    # nobody is sure below 0.7, whatever is asked
    assert agreement(probability, truth, None, 0.5).tolist() == [[2, 3], [1, 2]]


@pytest.mark.parametrize(
    ("counted", "worth"),
    [
        ([[98, 100], [98, 100]], 1.0),
        ([[100, 100], [88, 100]], 0.5),  # the mean of both, however many each
        ([[90, 100], [900, 1000]], 0.0),
        ([[10, 100], [0, 0]], 0.0),
        ([[99, 100], [0, 0]], 1.0),
        ([[0, 0], [0, 0]], 0.0),
    ],
)
def test_trust_is_earned(counted: Any, worth: float) -> None:
    assert trust(np.array(counted)) == pytest.approx(worth)
