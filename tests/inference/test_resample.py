"""Windows of a resampled plane equal the whole, and the whole equals torch's filters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_sa2net.data import plan_image
from napari_sa2net.inference import tiling as module
from napari_sa2net.inference.tiling import Axis, ScaledPlane


def plane_of(image: np.ndarray, scale: float = 1.0, **fixed_size):
    plan = plan_image(image, normalize=False, in_channels=1)
    return ScaledPlane(plan, (), scale, **fixed_size)


@pytest.mark.parametrize("scale", [0.13, 0.5, 0.77, 1.0, 1.31, 2.0, 3.7])
def test_windows_equal_the_whole(scale: float) -> None:
    image = np.random.default_rng(0).random((90, 70)).astype(np.float32)
    plane = plane_of(image, scale)
    height, width = plane.shape
    whole = plane.read(0, height, 0, width)
    assert whole.shape == (1, round(90 * scale), round(70 * scale))
    y, x = height // 3, width // 2
    np.testing.assert_array_equal(plane.read(y, height, 0, x), whole[:, y:, :x])
    np.testing.assert_array_equal(plane.read(0, y, x, width), whole[:, :y, x:])


def test_windows_equal_the_whole_where_one_side_stays() -> None:
    image = np.random.default_rng(0).random((90, 64)).astype(np.float32)
    for turned in (image, image.T):
        plane = plane_of(turned, resize_to=64)
        whole = plane.read(0, 64, 0, 64)
        for y0, y1, x0, x1 in ((20, 50, 30, 60), (0, 9, 0, 9), (40, 64, 1, 64)):
            part = plane.read(y0, y1, x0, x1)
            np.testing.assert_array_equal(part, whole[:, y0:y1, x0:x1])


@pytest.mark.parametrize(
    ("size", "scale"), [((64, 48), 0.5), ((64, 48), 0.25), ((20, 30), 3.0)]
)
def test_equals_torch_antialiased_bilinear(size: tuple[int, int], scale: float) -> None:
    image = np.random.default_rng(1).random(size).astype(np.float32)
    plane = plane_of(image, scale)
    expected = F.interpolate(
        torch.from_numpy(image)[None, None],
        size=plane.shape,
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[0]
    np.testing.assert_allclose(
        plane.read(0, plane.shape[0], 0, plane.shape[1]), expected, atol=1e-5
    )


@pytest.mark.parametrize("antialias", [False, True])
def test_fixed_size_equals_plain_bilinear(antialias: bool) -> None:
    image = np.random.default_rng(2).random((300, 90)).astype(np.float32)
    plane = plane_of(image, resize_to=64, antialias=antialias)
    expected = F.interpolate(
        torch.from_numpy(image)[None, None], (64, 64), mode="bilinear", antialias=antialias
    )
    np.testing.assert_allclose(plane.read(0, 64, 0, 64), expected[0], atol=1e-5)
    back = plane.to_image(expected[0].numpy(), (0, 0), (0, 300, 0, 90))
    there = F.interpolate(expected, size=(300, 90), mode="bilinear")
    np.testing.assert_allclose(back, there[0], atol=1e-5)


def test_strong_shrinking_reads_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(3).random((400, 160)).astype(np.float32)
    plane = plane_of(image, 1 / 8)
    whole = plane.read(0, 50, 0, 20)
    rows_read: list[int] = []
    read = plane.plan.read

    def watched(index: tuple[int, ...], y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        rows_read.append(y1 - y0)
        return read(index, y0, y1, x0, x1)

    monkeypatch.setattr(plane.plan, "read", watched)
    monkeypatch.setattr(module, "MAX_READ_BYTES", 4 * 160 * 64)
    np.testing.assert_array_equal(plane.read(0, 50, 0, 20), whole)
    assert len(rows_read) > 4
    assert max(rows_read) <= 64


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    scale=st.floats(0.125, 8.0),
    cuts=st.lists(st.integers(1, 2000), max_size=4),
)
def test_image_windows_tile_the_image(n: int, scale: float, cuts: list[int]) -> None:
    plane = plane_of(np.zeros((n, 3), np.float32), scale)
    length = plane.shape[0]
    edges = [0, *sorted({c for c in cuts if c < length}), length]
    seen: list[int] = []
    for a, b in pairwise(edges):
        y0, y1, x0, x1 = plane.image_window(a, b, 0, plane.shape[1])
        assert (x0, x1) == (0, 3)
        seen += range(y0, y1)
    assert seen == list(range(n))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 200), scale=st.floats(0.125, 8.0), antialias=st.booleans())
def test_weights_are_averages(n: int, scale: float, antialias: bool) -> None:
    axis = Axis(n, max(1, round(n * scale)), scale, antialias)
    index, weight = axis.taps(0, axis.n_out)
    assert index.min() >= 0
    assert index.max() < n
    assert weight.min() >= 0
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-6)


def test_there_and_back_keeps_positions() -> None:
    y, x = np.mgrid[:120, :100].astype(np.float32)
    for scale in (0.4, 2.3):
        for image in (y, x):
            plane = plane_of(image, scale)
            small = plane.read(0, plane.shape[0], 0, plane.shape[1])
            back = plane.to_image(small, (0, 0), (0, 120, 0, 100))[0]
            np.testing.assert_allclose(back[8:-8, 8:-8], image[8:-8, 8:-8], atol=0.05)
