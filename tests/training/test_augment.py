"""Image and labels stay together under every warp."""

import math
from dataclasses import asdict, fields

import numpy as np
import pytest
import torch

from napari_sa2net.training import dataset
from napari_sa2net.training.dataset import (
    STAINS,
    WIDE,
    Crop,
    Warp,
    Wide,
    as_fluorescence,
    as_jpeg,
    as_stained,
    degrade,
    depths,
    distance_target,
    median_diameter,
    pack,
    random_warp,
    restain,
    vary_intensity,
    warp_pair,
)


def scene():
    labels = np.zeros((60, 80), np.int32)
    labels[20:32, 30:50] = 5
    labels[40:50, 10:24] = 9
    image = np.stack([(labels > 0).astype(np.float32)] * 3)
    return torch.from_numpy(image), torch.from_numpy(labels)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0.0, math.pi / 2, 0.7])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_labels_follow_the_image(angle, flip, scale):
    image, labels = scene()
    warp = Warp(scale, angle, flip, (30.0, 35.0))
    crop, moved, grades = warp_pair(image, labels, torch.ones_like(labels), warp, 64)
    inside = grades.numpy() > 0
    same = (crop[0].numpy() > 0.5) == (moved.numpy() > 0)
    assert same[inside].mean() > 0.98
    assert set(np.unique(moved)) <= {0, 5, 9}


def test_pixels_beyond_the_image_do_not_count():
    image, labels = scene()
    warp = Warp(1.0, 0.0, False, (30.0, 40.0))
    _, moved, grades = warp_pair(image, labels, torch.ones_like(labels), warp, 128)
    mask = grades > 0
    # A pixel whose centre falls on the very edge may go either way.
    assert 59 * 79 <= int(mask.sum()) <= 60 * 80
    assert not moved[~mask].any()


def test_what_counts_is_warped_too():
    image, labels = scene()
    reviewed = (labels == 5) * 2
    warp = Warp(1.0, 0.3, True, (26.0, 40.0))
    _, moved, grades = warp_pair(image, labels, reviewed, warp, 64)
    assert set(np.unique(grades)) == {0, 2}
    mask = grades > 0
    assert bool((moved[mask] == 5).all())
    assert int(mask.sum()) == pytest.approx(240, rel=0.1)


def test_scale_brings_objects_to_size():
    rng = np.random.default_rng(0)
    labels = np.zeros((300, 300), np.int32)
    for i in range(25):
        y, x = 30 + 55 * (i // 5), 30 + 55 * (i % 5)
        labels[y - 10 : y + 10, x - 10 : x + 10] = i + 1
    image = torch.zeros(3, 300, 300)
    sizes = []
    for _ in range(20):
        warp = random_warp(rng, (300, 300), 256, 24 / 22.6)
        whole = torch.from_numpy(labels)
        _, moved, _ = warp_pair(image, whole, torch.ones_like(whole), warp, 256)
        diameter = median_diameter(moved.numpy())
        assert diameter is not None
        sizes.append(diameter)
    assert np.median(sizes) == pytest.approx(24, rel=0.25)


def test_intensities_stay_in_range_and_grey_stays_grey():
    rng = np.random.default_rng(3)
    grey = torch.rand(1, 20, 20).expand(3, -1, -1).contiguous()
    for _ in range(30):
        out = vary_intensity(grey, rng, colour=False)
        assert torch.isfinite(out).all()
        assert out.min() >= -0.5
        assert out.max() <= 1.5
        torch.testing.assert_close(out[0], out[2])
    colour = vary_intensity(torch.rand(3, 20, 20), rng, colour=True)
    assert not torch.allclose(colour[0], colour[2])


def test_restaining_keeps_unstained_glass_and_the_order_of_densities():
    rng = np.random.default_rng(5)
    amount = torch.linspace(0, 1.2, 12)
    tissue = torch.exp(-amount[None, None] * STAINS[0][:, None, None])
    brown_seen = False
    for _ in range(40):
        out = restain(tissue, rng)
        assert torch.isfinite(out).all()
        torch.testing.assert_close(out[:, 0, 0], torch.ones(3), atol=1e-5, rtol=0)
        # what is stained more stays darker, in the mean over the colours
        assert (out.mean(0)[0].diff() < 0).all()
    eosin = torch.exp(-amount[None, None] * STAINS[1][:, None, None])
    for _ in range(40):
        red, _, blue = restain(eosin, rng)[:, 0, -1]
        brown_seen |= bool(red > blue + 0.2)
    assert brown_seen


@pytest.mark.parametrize("colour", [False, True])
def test_wide_variation_keeps_shape_and_numbers_finite(colour):
    image, _ = scene()
    if colour:
        image = torch.stack([1 - 0.3 * image[0], 1 - 0.6 * image[0], 1 - 0.2 * image[0]])
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        varied = vary_intensity(image.clone(), rng, colour, wide=True)
        assert varied.shape == image.shape
        assert torch.isfinite(varied).all()
        assert varied.min() >= -0.5
        assert varied.max() <= 1.5
        seen.add(bool((varied[0] != varied[-1]).any()))
    assert seen == {False, True}, "stains turn into fluorescence and the reverse"


@pytest.fixture
def only(monkeypatch):
    """Sets what happens in wide variation, each time."""
    never = dict.fromkeys((one.name for one in fields(Wide)), 0.0)

    def set_to(*names):
        monkeypatch.setattr(dataset, "WIDE", Wide(**never | dict.fromkeys(names, 1.0)))

    return set_to


@pytest.mark.parametrize("name", ["blurred", "coarse", "shaded", "noisy", "counted", "jpeg"])
def test_only_wide_variation_degrades(only, name):
    image, _ = scene()

    def varied(wide):
        return vary_intensity(image, np.random.default_rng(1), colour=False, wide=wide)

    only()
    narrow, wide = varied(False), varied(True)
    only(name)
    assert torch.equal(varied(False), narrow)
    assert not torch.equal(varied(True), wide)


def test_what_is_blurred_or_coarse_is_the_mean_of_its_pixels(only):
    """Of a checkerboard nothing is left but grey."""
    image = (torch.arange(40)[:, None] + torch.arange(40)).remainder(2).float()[None]
    for name in ("blurred", "coarse"):
        only(name)
        for seed in range(8):
            out = degrade(image, np.random.default_rng(seed))
            assert out.shape == image.shape
            assert (out - 0.5).abs().max() < 0.2
    only()
    assert torch.equal(degrade(image, np.random.default_rng(0)), image)


def test_packed_cells_lie_between_the_others_and_what_is_covered_does_not_count():
    labels = torch.zeros(40, 40, dtype=torch.int32)
    labels[4:14, 4:14], labels[20:30, 20:30] = 1, 2
    other = torch.zeros(40, 40, dtype=torch.int32)
    other[4:14, 6:16], other[26:36, 20:30] = 1, 2  # mostly over 1; over 4 rows of 2
    grade = torch.full((40, 40), 2.0)

    def crop(some):
        return Crop((some > 0).float().expand(3, -1, -1), some, grade, depths(some.numpy()))

    both = pack(crop(labels), crop(other))
    assert set(np.unique(both.labels)) == {0, 1, 2, 3, 4}
    assert (both.labels[other > 0] == other[other > 0] + 2).all()
    assert (both.grade[both.labels == 1] == 0).all(), "two columns are left of it"
    assert (both.grade[both.labels == 2] == 2).all()
    assert both.image.max() <= 1 + 1e-6, "what overlaps is not brighter than a cell"
    target = distance_target(both.labels.numpy(), both.deepest)
    for i in (2, 3, 4):
        assert target[both.labels.numpy() == i].max() == pytest.approx(1, abs=0.01)


def test_stained_nuclei_become_bright_and_grey_ones_stained():
    _, labels = scene()
    cells = (labels > 0).float()
    stained = torch.einsum("hw,c->chw", cells, STAINS[0]).neg().exp()
    bright = as_fluorescence(stained)[0]
    assert bright[labels > 0].min() > 0.9
    assert bright[labels == 0].max() < 0.1
    made = as_stained(cells.expand(3, -1, -1), np.random.default_rng(0))
    assert made.mean(0)[labels > 0].mean() < made.mean(0)[labels == 0].mean() - 0.1
    assert (made[0] != made[2]).any()


def test_every_third_stain_is_brown():
    """Of nuclei that are made, and of a counterstain that is mixed anew."""
    rng = np.random.default_rng(0)
    cells = torch.zeros(3, 6, 6)
    cells[:, 2:4, 2:4] = 1
    made = [as_stained(cells, rng)[:, 2:4, 2:4].mean((1, 2)) for _ in range(200)]
    eosin = STAINS[1].neg().exp()[:, None, None]
    mixed = [-restain(eosin, rng).log()[:, 0, 0] for _ in range(200)]
    assert np.mean([bool(one[2] < one[0]) for one in made]) == pytest.approx(0.35, abs=0.08)
    brown = [bool(one[2] > 0.3 * one[1]) for one in mixed]
    assert np.mean(brown) == pytest.approx(0.35, abs=0.08)


def test_jpeg_loses_more_the_lower_its_quality():
    image = torch.from_numpy(np.random.default_rng(0).random((3, 32, 32)).astype(np.float32))
    lost = [float((as_jpeg(image, q) - image).abs().mean()) for q in (95, 60, 20)]
    assert 0 < lost[0] < lost[1] < lost[2]
    grey = as_jpeg(image[:1], 95)
    assert grey.shape == (1, 32, 32)
    assert (grey - image[:1]).abs().mean() < 0.02
    smooth = torch.linspace(-0.5, 1.5, 32).expand(3, 32, 32)
    back = as_jpeg(smooth, 95)
    torch.testing.assert_close(back, smooth.clamp(0, 1), atol=0.06, rtol=0)


def test_wide_variation_is_as_likely_as_when_the_bundled_models_were_trained():
    assert asdict(WIDE) == {
        "turned": 0.15,
        "inverted": 0.08,
        "channels": 0.1,
        "blurred": 0.15,
        "coarse": 0.15,
        "shaded": 0.25,
        "noisy": 0.3,
        "counted": 0.15,
        "jpeg": 0.15,
        "packed": 0.25,
    }
