"""How often an image is drawn, which part of it is seen, and what of it counts."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_sa2net.config import TrainConfig
from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.errors import TrainingDataError
from napari_sa2net.training import dataset
from napari_sa2net.training.dataset import (
    CropDataset,
    Example,
    ValidationDataset,
    between_objects,
    class_targets,
    evenly,
    label_notes,
    median_diameter,
    middle_part,
    nearest,
    random_warp,
    sampling_weights,
    scaled_part,
    vary_intensity,
    wrong_places,
)


def example(tmp_path, shape=(20, 20), diameter=30.0, kind="", **more) -> Example:
    """Its image tells each pixel's place: row + column / 1000."""
    rows, columns = np.indices(shape)
    item = TrainingItem("a", tmp_path, tmp_path, kind=kind, commit=more.pop("commit", ""))
    return Example(
        item,
        np.stack([rows + columns / 1000] * 3).astype(np.float32),
        more.pop("labels", np.zeros(shape, np.int32)),
        more.pop("counts", None),
        diameter,
        np.zeros((0, 2)),
        **more,
    )


@pytest.mark.parametrize(
    ("examples", "kinds", "expected"),
    [
        # side in the network's pixels: 20 px at 30 px cells, 40 px, and 40 px enlarged twice
        ([((20, 20), 30.0, ""), ((40, 40), 30.0, ""), ((40, 40), 15.0, "")], {}, (1, 2, 4)),
        ([((10, 40), 30.0, ""), ((20, 20), 30.0, "")], {}, (1, 1)),
        # one kind's share is said, the rest is that of all others
        (
            [((20, 20), 30.0, "a"), ((40, 40), 30.0, "b"), ((20, 20), 30.0, "c")],
            {"a": 0.4},
            (0.4, 0.4, 0.2),
        ),
        (
            [((20, 20), 30.0, "a"), ((60, 60), 30.0, "a"), ((20, 20), 30.0, "b")],
            {"a": 0.6, "b": 0.4},
            (0.15, 0.45, 0.4),
        ),
        # more than all is said: nothing is left for what is not named
        ([((20, 20), 30.0, "a"), ((20, 20), 30.0, "b")], {"a": 2.0}, (1, 0)),
        # a kind that there is not takes no share
        ([((20, 20), 30.0, "a"), ((20, 20), 30.0, "b")], {"x": 0.9}, (0.5, 0.5)),
        ([((20, 20), 30.0, "a"), ((20, 20), 30.0, "b")], {"a": 0.0}, (0, 1)),
    ],
)
def test_how_often_an_image_is_drawn(tmp_path, examples, kinds, expected):
    made = [example(tmp_path, shape, size, kind) for shape, size, kind in examples]
    config = TrainConfig(diameter=30, kind_weights=kinds)
    weights = sampling_weights(made, config)
    np.testing.assert_allclose(weights / weights.sum(), np.array(expected) / sum(expected))


def test_a_share_of_nothing_is_refused(tmp_path):
    config = TrainConfig(kind_weights={"a": 0.0})
    with pytest.raises(TrainingDataError, match="share 0"):
        sampling_weights([example(tmp_path, kind="a")], config)


def test_crops_come_from_images_as_often_as_their_weights_say(tmp_path):
    cell = np.ones((20, 20), np.int32)
    made = [example(tmp_path, kind="a"), example(tmp_path, kind="b", labels=cell)]
    config = TrainConfig(crop=64, diameter=30, kind_weights={"a": 0.25, "b": 0.75}, seed=3)
    crops = CropDataset(made, config, 400)
    assert len(crops) == 400
    picks = [
        int(np.searchsorted([0.25, 1.0], np.random.default_rng([3, i]).random(), side="right"))
        for i in range(40)
    ]
    assert 0 < sum(picks) < 40
    for i, pick in enumerate(picks):
        assert bool(crops[i]["target"].any()) == bool(pick)
    # a run that goes on begins where the other ended
    later = CropDataset(made, config, 400, start=7)
    for name, value in later[3].items():
        assert torch.equal(value, crops[10][name])


@pytest.mark.parametrize(
    ("counts", "certain", "mask", "sure"),
    [
        (None, None, (1, 1), (1, 1)),
        ((1, 0), None, (1, 0), (1, 0)),
        ((1, 1), (0, 1), (1, 1), (0, 1)),
        ((1, 0), (0, 1), (1, 0), (0, 0)),
        (None, (1, 0), (1, 1), (1, 1)),
    ],
)
def test_what_counts_and_what_is_certain(tmp_path, counts, certain, mask, sure, monkeypatch):
    """Of columns that are one after the other; a crop at its own size shows them all."""

    def columns(values):
        if values is None:
            return None
        return np.repeat(np.array(values, bool), 32)[None].repeat(64, 0)

    one = example(tmp_path, (64, 64), counts=columns(counts), certain=columns(certain))
    as_it_is = dataset.Warp(1.0, 0.0, False, (31.5, 31.5))
    monkeypatch.setattr(dataset, "random_warp", lambda *_, **__: as_it_is)
    crop = CropDataset([one], TrainConfig(crop=64, diameter=30), 1)[0]
    for name, expected in (("mask", mask), ("certain", sure)):
        inner = crop[name][2:-2, 2:-2].numpy()
        np.testing.assert_array_equal(inner, columns(expected)[2:-2, 2:-2])


@pytest.mark.parametrize(
    ("n", "scale", "start", "stop", "expected"),
    [
        (4, 1.0, 0, 4, [0, 1, 2, 3]),
        (4, 2.0, 0, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (4, 2.0, 3, 6, [1, 2, 2]),
        (6, 0.5, 0, 3, [1, 3, 5]),
        (5, 0.5, 0, 3, [1, 3, 4]),  # the last lies beyond the axis
        (2, 3.0, -1, 7, [0, 0, 0, 0, 1, 1, 1, 1]),
        (9, 1 / 3, 0, 3, [1, 4, 7]),
    ],
)
def test_pixels_under_those_of_a_scaled_grid(n, scale, start, stop, expected):
    assert nearest(n, scale, start, stop).tolist() == expected


def test_a_part_at_another_scale_has_image_and_labels_of_one_place(tmp_path):
    labels = np.arange(12 * 20).reshape(12, 20).astype(np.int32)
    counts, certain = labels % 3 > 0, labels % 5 > 0
    one = example(tmp_path, (12, 20), labels=labels, counts=counts, certain=certain)
    part = scaled_part(one, 1.0, 8, lambda shape: (3, 5))
    np.testing.assert_array_equal(part.labels, labels[3:11, 5:13])
    np.testing.assert_array_equal(part.counts, counts[3:11, 5:13])
    np.testing.assert_array_equal(part.certain, certain[3:11, 5:13])
    np.testing.assert_array_equal(part.image, one.image[:, 3:11, 5:13])
    # what is left at the end is shorter
    assert scaled_part(one, 1.0, 8, lambda shape: (7, 16)).labels.shape == (5, 4)
    asked: list[tuple[int, int]] = []
    double = scaled_part(one, 2.0, 8, lambda shape: asked.append(shape) or (4, 6))
    assert asked == [(24, 40)]
    np.testing.assert_array_equal(double.labels, labels.repeat(2, 0).repeat(2, 1)[4:12, 6:14])
    np.testing.assert_allclose(double.image[0], double.labels // 20, atol=0.8)
    none = scaled_part(example(tmp_path, (12, 20)), 1.0, 8, lambda shape: (0, 0))
    assert none.counts is None is none.certain


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [((20, 20), (0, 20), (0, 20)), ((32, 40), (0, 32), (4, 36)), ((43, 33), (5, 37), (0, 32))],
)
def test_validation_sees_the_middle(tmp_path, shape, rows, columns, monkeypatch):
    monkeypatch.setattr(dataset, "VALIDATION_SIDE", 32)
    labels = np.arange(math.prod(shape)).reshape(shape).astype(np.int32)
    one = example(tmp_path, shape, labels=labels)
    (seen,) = ValidationDataset([one], TrainConfig(diameter=30))
    middle = labels[slice(*rows), slice(*columns)]
    np.testing.assert_array_equal(seen["labels"], middle)
    assert seen["image"].shape[1:] == middle.shape
    assert seen["mask"].all()
    counts = labels % 2 > 0
    one = example(tmp_path, shape, labels=labels, counts=counts)
    (seen,) = ValidationDataset([one], TrainConfig(diameter=30))
    np.testing.assert_array_equal(seen["mask"], counts[slice(*rows), slice(*columns)])


def test_some_are_taken_evenly():
    assert evenly([3, 1, 2], None, lambda x: x) == [1, 2, 3]
    assert evenly([3, 1, 2], 3, lambda x: -x) == [3, 2, 1]
    assert evenly(range(10), 2, lambda x: x) == [2, 7]
    assert evenly(range(9), 3, lambda x: x) == [1, 4, 7]
    assert evenly(range(4), 1, lambda x: x) == [2]
    assert evenly(range(3), 0, lambda x: x) == []


def test_a_folder_without_a_cell_is_refused_unless_a_person_says_so(tmp_path):
    cell = np.ones((20, 20), np.int32)
    empty, full = example(tmp_path), example(tmp_path, labels=cell)
    said = example(tmp_path, commit="c1")
    with pytest.raises(TrainingDataError, match="No label image"):
        label_notes([empty, empty], tmp_path)
    assert label_notes([], tmp_path) == ()
    assert label_notes([said], tmp_path) == ()
    assert label_notes([full], tmp_path) == ()
    (note,) = label_notes([empty, full], tmp_path)
    assert note.startswith("a: no cell is labelled")
    odd = example(tmp_path, labels=cell, note="odd", unchosen="of two the first")
    assert label_notes([odd, odd, full], tmp_path) == ("of two the first", "odd", "odd")


def test_only_large_objects_have_a_wider_boundary_where_they_touch():
    for side, wide in ((7, False), (8, True)):  # 49 and 64 px²
        labels = np.zeros((20, 30), np.int32)
        labels[4 : 4 + side, 15 - side : 15], labels[4 : 4 + side, 15 : 15 + side] = 1, 2
        target = class_targets(labels)
        assert (target[7, 14], target[7, 15]) == (2, 2)
        assert (target[7, 13] == 2) == (target[7, 16] == 2) == wide
        assert target[7, 12] == target[7, 17] == 1


def test_the_size_of_objects_is_that_of_those_that_no_edge_cuts():
    labels = np.zeros((40, 50), np.int32)
    labels[20:24, 20:24] = 1
    for place in (
        (slice(0, 9), slice(20, 29)),
        (slice(31, 40), slice(20, 29)),
        (slice(10, 19), slice(0, 9)),
        (slice(10, 19), slice(41, 50)),
    ):
        cut = labels.copy()
        cut[place] = 2
        assert median_diameter(cut) == pytest.approx(2 * math.sqrt(16 / math.pi))
        cut[cut == 1] = 0
        assert median_diameter(cut) == pytest.approx(2 * math.sqrt(81 / math.pi))


def test_a_warp_stays_within_the_image_and_near_its_scale():
    rng = np.random.default_rng(0)
    warps = [random_warp(rng, (300, 60), 64, 2.0) for _ in range(400)]
    octaves = np.log2([warp.scale / 2 for warp in warps])
    assert 1.0 < np.abs(octaves).max() <= 1.2
    far = np.mean(np.abs(octaves) > 0.5)
    assert far == pytest.approx(0.2 * 0.7 / 1.2, abs=0.05)
    for warp in warps:
        half = 32 / warp.scale
        y, x = warp.centre
        assert half <= y <= 300 - half
        # too small for a crop: it is shown whole, nearly in the middle
        if half >= 30:
            assert abs(x - 29.5) <= 6
        else:
            assert half <= x <= 60 - half
    assert np.mean([warp.flip for warp in warps]) == pytest.approx(0.5, abs=0.08)
    right = [warp.angle % (math.pi / 2) < 1e-9 for warp in warps]
    assert np.mean(right) == pytest.approx(0.5, abs=0.08)
    assert {round(warp.angle / (math.pi / 2)) for warp in warps} >= {0, 1, 2, 3}


def test_most_crops_look_at_an_object():
    rng = np.random.default_rng(1)
    places = np.array([[100.0, 500.0], [900.0, 20.0]])
    near = 0
    for _ in range(400):
        warp = random_warp(rng, (1000, 1000), 64, 1.0, places)
        half = 32 / warp.scale
        away = np.abs(np.array(warp.centre) - places).max(1).min()
        near += away <= max(0.7 * half, 20 + half - 40)
        assert all(half <= at <= 1000 - half for at in warp.centre)
    assert near / 400 == pytest.approx(0.7, abs=0.07)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.3, 0.21), (1.0, 0.7)])
def test_some_of_them_look_at_one_that_is_hard(share, expected):
    rng = np.random.default_rng(1)
    places, hard = np.array([[100.0, 900.0]]), np.array([[500.0, 300.0]])
    warps = [random_warp(rng, (1000, 1000), 64, 1.0, places, hard, share) for _ in range(400)]
    near = [
        np.abs(np.array(warp.centre) - hard[0]).max() <= 0.5 * 32 / warp.scale for warp in warps
    ]
    assert np.mean(near) == pytest.approx(expected, abs=0.05)


def test_where_nothing_is_hard_any_object_will_do():
    draws = [
        [
            random_warp(np.random.default_rng(i), (500, 500), 64, 1.0, places, hard, share)
            for i in range(20)
        ]
        for places in [np.array([[50.0, 400.0]])]
        for hard, share in ((None, 0.0), (np.zeros((0, 2)), 1.0))
    ]
    assert draws[0] == draws[1]


def test_where_no_object_is_labelled_what_is_hard_is_looked_at():
    rng = np.random.default_rng(1)
    hard = np.array([[500.0, 300.0]])
    warps = [
        random_warp(rng, (1000, 1000), 64, 1.0, np.zeros((0, 2)), hard, 0.6) for _ in range(400)
    ]
    near = [np.abs(np.array(w.centre) - hard[0]).max() <= 0.5 * 32 / w.scale for w in warps]
    assert np.mean(near) == pytest.approx(0.6 * 0.7, abs=0.05)


def test_crops_look_at_what_is_hard_in_their_image(tmp_path):
    labels = np.zeros((400, 400), np.int32)
    labels[348:353, 348:353] = 1
    one = example(tmp_path, (400, 400), labels=labels, hard=np.array([[350.0, 350.0]]))
    one = replace(one, centres=np.array([[50.0, 50.0]]))
    for share, expected in ((0.0, 0.0), (1.0, 0.7)):
        config = TrainConfig(crop=32, diameter=30, hard_share=share, augmentation="plain")
        crops = CropDataset([one], config, 60)
        seen = [bool(crops[i]["target"].any()) for i in range(60)]
        assert np.mean(seen) == pytest.approx(expected, abs=0.12)


def test_between_objects_is_within_four_pixels_of_two():
    labels = np.zeros((20, 40), np.int32)
    labels[5:15, 4:10] = 1
    labels[5:15, 13:20] = 2  # three pixels of background between
    labels[5:15, 30:36] = 3  # ten
    near = between_objects(labels)
    columns = np.flatnonzero(near[10])
    # 4 px from the second object on this side, from the first on the other
    assert columns.tolist() == list(range(9, 14))
    assert np.flatnonzero(near[:, 11]).tolist() == list(range(1, 19))
    assert not between_objects((labels == 2).astype(np.int32)).any()
    assert not between_objects(np.zeros((5, 5), np.int32)).any()


def test_pixels_between_objects_weigh_more(tmp_path, monkeypatch):
    labels = np.repeat([[1] * 32 + [2] * 32], 64, axis=0).astype(np.int32)
    one = example(tmp_path, (64, 64), labels=labels)
    as_it_is = dataset.Warp(1.0, 0.0, False, (31.5, 31.5))
    monkeypatch.setattr(dataset, "random_warp", lambda *_, **__: as_it_is)
    for more, expected in ((0.0, {1.0}), (2.5, {1.0, 3.5})):
        config = TrainConfig(crop=64, diameter=30, touching_weight=more)
        weight = CropDataset([one], config, 1)[0]["weight"]
        assert set(weight.unique().tolist()) == expected
        if more:
            assert (weight[:, 28:36] == 3.5).all()
            assert (weight[:, :28] == 1).all()


@pytest.mark.parametrize(
    ("chosen", "share", "expected"),
    [("wide", 1.0, 1.0), ("wide", 0.4, 0.4), ("wide", 0.0, 0.0), ("plain", 1.0, 0.0)],
)
def test_a_share_of_the_crops_is_augmented_widely(
    tmp_path, monkeypatch, chosen, share, expected
):
    seen = []

    def vary(image, rng, colour, wide=False):
        seen.append(wide)
        return image

    monkeypatch.setattr(dataset, "vary_intensity", vary)
    config = TrainConfig(crop=32, diameter=30, augmentation=chosen, wide_share=share)
    crops = CropDataset([example(tmp_path, kind="a")], config, 200)
    for i in range(200):
        crops[i]
    assert np.mean(seen) == pytest.approx(expected, abs=0.1 if share == 0.4 else 0)


def test_places_that_a_network_gets_wrong():
    truth = np.zeros((40, 40), np.int32)
    truth[0:5, 0:5] = 1  # found
    truth[10:15, 0:5] = 2  # missed
    truth[20:25, 0:5], truth[20:25, 6:11] = 3, 4  # merged
    labels = np.zeros_like(truth)
    labels[0:5, 0:6] = 7
    labels[20:25, 0:11] = 2
    labels[30:35, 30:35] = 3  # none
    wrong = [[12, 2], [22, 2], [22, 8], [22, 5], [32, 32]]
    np.testing.assert_allclose(wrong_places(labels, truth), wrong)
    counts = np.ones(truth.shape, bool)
    counts[28:] = False
    np.testing.assert_allclose(wrong_places(labels, truth, counts), wrong[:-1])
    assert wrong_places(truth, truth).shape == (0, 2)
    assert wrong_places(np.zeros((5, 5), int), np.zeros((5, 5), int), counts[:5, :5]).shape == (
        0,
        2,
    )


def test_the_middle_of_an_example_tells_where_it_starts(tmp_path):
    one = example(tmp_path, (40, 30))
    part, start = middle_part(one, 1.0, 20)
    assert start == (10, 5)
    np.testing.assert_array_equal(part.image, one.image[:, 10:30, 5:25])
    part, start = middle_part(one, 0.5, 100)
    assert (start, part.labels.shape) == ((0, 0), (20, 15))


class Chances(SimpleNamespace):
    """Draws that are said beforehand: chances one after the other, and the middle of ranges."""

    def random(self) -> float:
        return self.chances.pop(0)

    def uniform(self, low, high, size=None):
        value = low + (high - low) * self.at
        return value if size is None else np.full(size, value)

    def normal(self, mean, sigma, size):
        return np.full(size, mean, float)

    def standard_normal(self, shape):
        return np.ones(shape)


GREY = torch.linspace(0.1, 0.9, 64).reshape(1, 8, 8).expand(3, -1, -1)


@pytest.mark.parametrize(
    ("at", "chances", "expected"),
    [
        (0.5, (0.9, 0.9, 0.9), lambda x: x),
        (0.5, (0.051, 0.201, 0.401), lambda x: x),
        (0.5, (0.049, 0.9, 0.9), lambda x: 1 - x),  # bright on dark is dark on bright
        (0.5, (0.9, 0.9, 0.399), lambda x: x + 0.04),  # noise
        (1.0, (0.9, 0.9, 0.9), lambda x: x ** (2**0.7) * 1.25 + 0.1),
        (0.0, (0.9, 0.9, 0.9), lambda x: x ** (2**-0.7) * 0.75 - 0.1),
    ],
)
def test_intensities_of_grey_vary_by_chance(at, chances, expected):
    rng = Chances(at=at, chances=list(chances))
    out = vary_intensity(GREY, rng, colour=False)
    assert rng.chances == []
    torch.testing.assert_close(out, expected(GREY))
    # values that are no usual intensities vary on their own scale
    rng = Chances(at=at, chances=list(chances))
    large = vary_intensity(GREY * 1000, rng, colour=False)
    torch.testing.assert_close(
        large, 900 * expected(GREY / 0.9).clamp(-0.5, 1.5), rtol=1e-4, atol=1e-2
    )


def test_focus_varies_by_chance():
    sharp = torch.zeros(3, 9, 9)
    sharp[:, 4, 4] = 1
    blurred = vary_intensity(sharp, Chances(at=0.5, chances=[0.9, 0.199, 0.9]), colour=False)
    assert float(blurred[0].sum()) == pytest.approx(1, abs=1e-3)
    assert float(blurred[0, 4, 4]) == pytest.approx(1 / (2 * math.pi * 0.9**2), rel=0.05)


def test_colours_vary_by_chance():
    tissue = torch.stack([GREY[0], GREY[0] ** 2, GREY[0] / 2])
    rng = Chances(at=0.5, chances=[0.601, 0.101, 0.9, 0.9])
    out = vary_intensity(tissue, rng, colour=True)
    grey = tissue.mean(0)
    torch.testing.assert_close(out, grey + 0.95 * (tissue - grey))
    # now and then without colour
    out = vary_intensity(tissue, Chances(at=0.5, chances=[0.601, 0.099, 0.9, 0.9]), colour=True)
    torch.testing.assert_close(out, grey.expand(3, -1, -1))
