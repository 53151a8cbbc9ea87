"""One object from a click: the window's geometry, and the bundled network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.errors import Cancelled
from napari_sa2net.inference import click
from napari_sa2net.inference.click import (
    CHANNELS,
    SIDE,
    TYPICAL,
    ClickNet,
    ClickWindow,
    network_input,
    object_at,
    objects_everywhere,
)


def as_input(image: Any) -> Any:
    values = image.astype(np.float32)
    values = (values - values.min()) / np.ptp(values)
    return np.broadcast_to(values, (3, *values.shape))


def iou(a: Any, b: Any) -> float:
    return float((a & b).sum() / (a | b).sum())


def middle(mask: Any) -> tuple[int, int]:
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(y), int(x)


@pytest.mark.parametrize("diameter", [9, 18, 27, 40, 75])
def test_what_is_cut_comes_back_where_it_was(diameter: float) -> None:
    """A spot stays at its place, whatever the size, in smooth values as in labels."""
    size, click = 260, (120.0, 131.0)
    y, x = np.indices((size, size))
    place = (click[0] + diameter / 3, click[1] - diameter / 4)
    spot = np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / (diameter / 4) ** 2)
    window = ClickWindow(click, diameter, (size, size))
    cut = window.cut(torch.tensor(spot[None], dtype=torch.float32))
    assert cut.shape == (1, SIDE, SIDE)
    back = window.back(cut[0])
    found = np.unravel_index(int(back.argmax()), back.shape)
    assert np.hypot(found[0] - place[0], found[1] - place[1]) <= 1 + diameter / TYPICAL
    near = window.nearest(torch.tensor((spot > 0.5).astype(np.int32) * 7))
    assert set(near.unique().tolist()) == {0, 7}
    ys, xs = np.nonzero(near.numpy())
    expected = window.inside(place)
    assert abs(ys.mean() - expected[0]) < 0.6
    assert abs(xs.mean() - expected[1]) < 0.6


@pytest.mark.parametrize("diameter", [6, 8, 18, 27, 36, 54, 72])
def test_smoothing_moves_nothing(diameter: float) -> None:
    """Over even and odd numbers of pixels, and over none for small objects."""
    y, x = np.indices((320, 320))
    place, sigma = (163.0, 154.0), diameter / 3
    spot = np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * sigma**2))
    window = ClickWindow((160.0, 158.0), diameter, (320, 320))
    cut = window.cut(torch.tensor(spot[None], dtype=torch.float32))[0].numpy()
    np.testing.assert_allclose(ndimage.center_of_mass(cut), window.inside(place), atol=0.02)
    # nor does the way back
    back = window.back(torch.from_numpy(cut)).clip(0)
    np.testing.assert_allclose(ndimage.center_of_mass(back), place, atol=0.02 * window.step)


def test_beyond_the_image_there_is_nothing() -> None:
    window = ClickWindow((0.0, 0.0), 18, (30, 30))
    labels = window.nearest(torch.ones(30, 30, dtype=torch.int32))
    assert not labels[: SIDE // 2 - 1].any()
    assert labels[SIDE // 2 :, SIDE // 2 :][:29, :29].all()
    logits = window.back(torch.full((SIDE, SIDE), 5.0))
    assert (logits > 4).all()
    assert (
        ClickWindow((0.0, 0.0), 3, (30, 30)).back(torch.full((SIDE, SIDE), 5.0))[20:] < 0
    ).all()


def test_the_network_sees_clicks_and_other_objects() -> None:
    labels = torch.zeros(SIDE, SIDE, dtype=torch.int32)
    labels[:, :20] = 3
    labels[30:34, 30:34] = 5  # under the click
    x = network_input(
        torch.rand(3, SIDE, SIDE),
        torch.rand(3, SIDE, SIDE),
        labels,
        [(31.5, 31.5)],
        [(10.0, 50.0)],
    )
    assert x.shape == (CHANNELS, SIDE, SIDE)
    assert torch.equal(x[9], (labels == 3).float())
    assert np.unravel_index(int(x[11].argmax()), (SIDE, SIDE)) == (10, 50)
    assert x[10, 31, 31] > 0.9
    logits, scores = ClickNet()(x[None])
    assert logits.shape == (1, SIDE, SIDE)
    assert scores.shape == (1,)


def test_the_network_sees_both_contrasts_and_the_model() -> None:
    """Of a dim image with one bright pixel, which is not to outshine all."""
    image, seen = torch.full((3, SIDE, SIDE), 0.1), torch.rand(3, SIDE, SIDE)
    image[0] += 0.1 * torch.arange(SIDE) / SIDE
    image[1, 5, 6] = 50
    nothing = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    x = network_input(image, seen, nothing, [(31.5, 31.5), (3.0, 4.0)], [])
    assert torch.equal(x[3:6], image)
    assert torch.equal(x[6:9], seen)
    spread = float(image.std()) + 0.03
    torch.testing.assert_close(x[0], (image[0] - image[0].mean()) / spread)
    assert x[1, 5, 6] == 4
    assert not x[9].any()
    assert not x[11].any()
    # spots as wide as a ninth of a typical object
    assert x[10, 3, 4] == 1
    torch.testing.assert_close(x[10, 5, 4], torch.tensor(np.exp(-0.5), dtype=torch.float32))
    torch.testing.assert_close(x[10, 3, 7], torch.tensor(np.exp(-9 / 8), dtype=torch.float32))


@pytest.mark.parametrize("angle", [0.0, np.pi / 2, 0.3])
@pytest.mark.parametrize("flip", [False, True])
def test_a_window_is_turned_and_mirrored_about_its_click(angle: float, flip: bool) -> None:
    window = ClickWindow((50.0, 70.0), 2 * TYPICAL, (100, 120), angle, flip)
    y, x = (place.numpy() for place in window.grid)
    middle = (SIDE - 1) / 2
    np.testing.assert_allclose((y.mean(), x.mean()), (50, 70), atol=1e-3)
    # two pixels from each element to the next
    down = np.array([y[1, 0] - y[0, 0], x[1, 0] - x[0, 0]])
    right = np.array([y[0, 1] - y[0, 0], x[0, 1] - x[0, 0]])
    sign = -1 if flip else 1
    cos, sin = 2 * np.cos(angle), 2 * np.sin(angle)
    np.testing.assert_allclose(down, (sign * cos, sign * sin), atol=1e-4)
    np.testing.assert_allclose(right, (-sin, cos), atol=1e-4)
    corner = np.array([50.0, 70.0]) - middle * (down + right)
    np.testing.assert_allclose((y[0, 0], x[0, 0]), corner, atol=1e-3)


class Says(torch.nn.Module):
    """A network that finds what a test says."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found, self.given = found, torch.zeros(0)

    def forward(self, x: Any) -> Any:
        self.given = x[0]
        return torch.where(self.found, 9.0, -9.0)[None], torch.zeros(1)


def test_an_object_is_one_piece_without_holes_and_holds_the_click() -> None:
    y, x = np.indices((SIDE, SIDE))
    ring = (np.hypot(y - 31.5, x - 31.5) <= 12) & (np.hypot(y - 31.5, x - 31.5) >= 6)
    ring |= np.hypot(y - 8, x - 8) <= 4  # another piece
    net: Any = Says(torch.tensor(ring))
    image = np.zeros((3, 100, 110), np.float32)
    labels, against = np.zeros((100, 110), np.int32), [(52.0, 63.0)]
    mask = object_at(image, labels, (50.0, 60.0), TYPICAL, against, net=net)
    # the click lies in the hole, so what it is in is one pixel
    assert np.argwhere(mask).tolist() == [[50, 60]]
    seen = np.stack([np.full((100, 110), v, np.float32) for v in (0.25, 0.5, 0.75)])
    mask = object_at(image, labels, (50.0, 70.0), TYPICAL, against, seen, net)
    assert mask.sum() == 1
    np.testing.assert_allclose(net.given[6:9].mean((1, 2)), (0.25, 0.5, 0.75), atol=1e-6)
    assert np.unravel_index(int(net.given[11].argmax()), (SIDE, SIDE)) == (33, 24)
    net.found = torch.tensor(ring | (np.abs(y - 31.5) < 2) & (x >= 31) & (x < 40))
    mask = object_at(image, labels, (50.0, 60.0), TYPICAL, net=net)
    disk = np.hypot(*(np.indices((100, 110)) - np.array([50, 60])[:, None, None])) <= 12
    assert iou(mask, disk) > 0.9
    assert ndimage.label(mask)[1] == 1
    # beyond the edge of the image the click is at the edge
    mask = object_at(
        image, labels, (-0.4, 109.4), TYPICAL, net=Says(torch.zeros(SIDE, SIDE) > 0)
    )
    assert np.argwhere(mask).tolist() == [[0, 109]]


@pytest.mark.parametrize("diameter", [12, 24, 48])
@pytest.mark.parametrize("dark", [False, True])
def test_a_click_finds_the_nucleus(diameter: int, dark: bool) -> None:
    """Of any size, bright or dark, without a model's probability."""
    image, truth = synthetic_nuclei((8 * diameter, 9 * diameter), 12, diameter, seed=4)
    seen = as_input(-image.astype(float) if dark else image)
    nothing = np.zeros(truth.shape, np.int32)
    hits = []
    for label in range(1, truth.max() + 1):
        own = truth == label
        mask = object_at(seen, nothing, middle(own), diameter)
        assert mask[middle(own)]
        assert ndimage.label(mask)[1] == 1
        hits.append(iou(mask, own) >= 0.5)
    assert np.mean(hits) >= 0.8, hits


def test_a_click_against_keeps_the_other_out() -> None:
    """Two that touch, taken for one: a click in each gives each."""
    y, x = np.indices((60, 80))
    left, right = (np.hypot(y - 30, x - cx) <= 10 for cx in (32, 50))
    image = as_input(ndimage.gaussian_filter((left | right) * 1.0, 1.5))
    labels = (left | right).astype(np.int32) * 4
    mask = object_at(image, labels, (30, 50), 20, against=[(30.0, 32.0)])
    assert mask[30, 50]
    assert not mask[30, 32]
    assert iou(mask, right) > 0.5


def test_at_the_corner_of_an_image() -> None:
    y, x = np.indices((40, 40))
    disk = np.hypot(y - 2, x - 3) <= 9
    image = as_input(ndimage.gaussian_filter(disk * 1.0, 1))
    mask = object_at(image, np.zeros((40, 40), np.int32), (2, 3), 18)
    assert iou(mask, disk) > 0.5


@pytest.mark.parametrize("diameter", [40, 75])
def test_rows_and_columns_are_smoothed_as_a_square_is(diameter: float) -> None:
    values = torch.rand(2, 90, 70, generator=torch.Generator().manual_seed(0))
    window = ClickWindow((30.0, 41.0), diameter, (90, 70))
    every = round(window.step)
    square = torch.nn.functional.avg_pool2d(
        values[None], every, 1, every // 2, count_include_pad=False
    )[0, :, :90, :70]
    expected = window._sampled(square, "bilinear", "reflection", (every - 1) % 2 / 2)
    torch.testing.assert_close(window.cut(values), expected)


def test_cells_with_very_large_numbers_are_told_apart() -> None:
    labels = np.full((40, 40), 2**32 - 2, np.uint32)
    labels[:, 20:] = 2**24
    labels[:, 30:] += 1
    seen = ClickWindow((20.0, 20.0), 12, (40, 40)).nearest(
        torch.as_tensor(labels.astype(np.int64))
    )
    assert set(seen.unique().tolist()) == {0, 2**32 - 2, 2**24, 2**24 + 1}
    mask = object_at(as_input(labels.astype(np.float64)), labels, (20.0, 25.0), 12)
    assert mask[20, 25]


@pytest.mark.parametrize("diameter", [14, 30])
def test_clicks_everywhere_find_what_is_left(diameter: int) -> None:
    """Beside objects that stay, which are as they were; on empty ground hardly anything."""
    image, truth = synthetic_nuclei((7 * diameter, 8 * diameter), 14, diameter, seed=2)
    stays = np.where(truth <= 4, truth, 0).astype(np.int32)
    found = objects_everywhere(as_input(image), stays, diameter, np.zeros_like(stays))
    assert found.shape == truth.shape
    assert not found[stays > 0].any()
    best = []
    for label in range(5, truth.max() + 1):
        under = np.bincount(found[truth == label])
        under[0] = 0
        best.append(iou(found == under.argmax(), truth == label) if under.any() else 0.0)
    assert np.mean(np.array(best) >= 0.5) >= 0.7, best
    false = [n for n in range(1, found.max() + 1) if not truth[found == n].any()]
    assert len(false) <= 2


def test_clicks_on_nothing_are_scored_low() -> None:
    """On flat ground there is no object, whatever the network would draw."""
    noise = np.random.default_rng(0).normal(0, 0.02, (100, 110))
    empty = np.zeros(noise.shape, np.int32)
    found = objects_everywhere(
        as_input(0.1 + noise + np.pad([[1.0]], ((0, 99), (0, 109)))), empty, 20, empty
    )
    assert found.max() <= 1


def test_many_places_are_clicked_farther_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = np.zeros((120, 90), np.int32)
    all_places = click._places(empty, empty, 12)
    assert len(all_places) == 20 * 15
    monkeypatch.setattr(click, "MOST", 50)
    assert 30 <= len(click._places(empty, empty, 12)) <= 60
    guessed = empty.copy()
    guessed[40:51, 20:31] = 7
    assert click._places(empty, guessed, 12)[0] == (45.0, 25.0)
    # not where something is
    assert all(not guessed[int(y), int(x)] for y, x in click._places(guessed, guessed, 12))


def test_clicks_everywhere_end_where_they_are_told_to() -> None:
    empty = np.zeros((60, 60), np.int32)

    image = np.zeros((3, 60, 60), np.float32)
    places: list[tuple[int, int]] = []

    def on_places(done: int, n: int) -> None:
        places.append((done, n))
        if len(places) == 2:
            raise Cancelled("no more")

    with pytest.raises(Cancelled):
        objects_everywhere(image, empty, 12, empty, on_places=on_places)
    n = len(click._places(empty, empty, 12))
    assert places == [(0, n), (click.TOGETHER, n)]
