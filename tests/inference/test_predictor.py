"""Tiles, scales, cancelling and memory of the predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr

from napari_sa2net.config import InputConfig, PredictConfig
from napari_sa2net.data import plan_image
from napari_sa2net.errors import Cancelled, DeviceError, OutOfMemoryError
from napari_sa2net.inference.predict import HALO, Predictor, activate
from napari_sa2net.inference.tiling import network_scale

EXACT = PredictConfig(device="cpu", precision="float32")


def predictor_of(model, **settings) -> Predictor:
    return Predictor(model, EXACT.model_copy(update=settings))


def test_one_tile_is_the_network_itself(make_model, nuclei: np.ndarray) -> None:
    model, plan = make_model(), plan_image(nuclei)
    got = predictor_of(model).predict_plane(plan)
    x = torch.from_numpy(plan.read((), 0, 50, 0, 900))[None]
    with torch.no_grad():
        expected = activate(model.net(x))[0]
    np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_allclose(got.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("augment", [False, True])
def test_tiles_agree_with_the_whole(make_model, nuclei: np.ndarray, augment: bool) -> None:
    model, plan = make_model(), plan_image(nuclei)
    whole = predictor_of(model, tile=1024, augment=augment).predict_plane(plan)
    tiled = predictor_of(model, tile=384, augment=augment)
    counts: list[tuple[int, int]] = []
    parts = tiled.predict_plane(plan, on_tile=lambda i, n: counts.append((i, n)))
    n = len(counts) - 1  # told before the first, and after every one
    assert n > 1
    assert counts == [(i, n) for i in range(n + 1)]
    assert np.abs(parts - whole).max() < 1e-3


@pytest.mark.parametrize("scale", [0.6, 1.7])
def test_tiles_agree_when_rescaled(make_model, nuclei: np.ndarray, scale: float) -> None:
    model, plan = make_model(), plan_image(nuclei)
    whole = predictor_of(model, tile=2048).predict_plane(plan, scale=scale)
    parts = predictor_of(model, tile=384).predict_plane(plan, scale=scale)
    assert whole.shape == (3, 50, 900)
    assert np.abs(parts - whole).max() < 1e-3
    np.testing.assert_allclose(parts.sum(axis=0), 1, atol=1e-5)


def test_only_what_is_wanted(make_model, nuclei: np.ndarray) -> None:
    model, x = make_model(), plan_image(nuclei).read((), 0, 50, 0, 900)
    for augment in (False, True):
        predictor = predictor_of(model, augment=augment)
        part = predictor.probabilities(x, (16, 50, 320, 640))
        np.testing.assert_allclose(
            part, predictor.probabilities(x)[:, 16:50, 320:640], atol=1e-5
        )


def test_flips_are_averaged(make_model, nuclei: np.ndarray) -> None:
    # With all four flips averaged, flipping the image flips the result.
    model, x = make_model(), plan_image(nuclei[:48, :96]).read((), 0, 48, 0, 96)
    predictor = predictor_of(model, augment=True)
    once = predictor.probabilities(x)
    turned = predictor.probabilities(np.ascontiguousarray(x[:, ::-1, ::-1]))
    np.testing.assert_allclose(turned[:, ::-1, ::-1], once, atol=1e-4)
    plain = predictor_of(model).probabilities(x)
    assert np.abs(plain - once).max() > 1e-3


def test_fixed_input_size(make_model, nuclei: np.ndarray) -> None:
    model = make_model(n_classes=1, input=InputConfig(resize_to=64))
    plan = plan_image(nuclei, model_input=model.card.input)
    sizes: list[tuple[int, ...]] = []
    predictor = predictor_of(model)
    net = predictor._net
    predictor._net = lambda x, *rest: (sizes.append(tuple(x.shape)), net(x, *rest))[1]
    result = predictor.predict_plane(plan)
    assert sizes == [(1, 3, 64, 64)]
    assert result.shape == (1, 50, 900)


def test_writes_into_a_lazy_array(make_model, nuclei: np.ndarray, tmp_path) -> None:
    plan, predictor = plan_image(nuclei), predictor_of(make_model(), tile=384)
    out = zarr.create_array(tmp_path / "p", shape=(3, 50, 900), chunks=(3, 64, 64), dtype="f4")
    predictor.predict_plane(plan, out=out)
    np.testing.assert_array_equal(out[:], predictor.predict_plane(plan))


def test_cancels_before_the_next_tile(make_model, nuclei: np.ndarray) -> None:
    predictor = predictor_of(make_model(), tile=336)
    done: list[int] = []
    with pytest.raises(Cancelled):
        predictor.predict_plane(
            plan_image(nuclei),
            on_tile=lambda i, n: done.append(i),
            cancelled=lambda: len(done) == 3,
        )
    assert done == [0, 1, 2]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("not enough memory: x")])
def test_less_memory_makes_smaller_tiles(
    make_model, nuclei: np.ndarray, error: Exception
) -> None:
    plan, predictor = plan_image(nuclei), predictor_of(make_model(), tile=1024)
    net = predictor._net

    def small_memory(x: torch.Tensor, *rest: object) -> torch.Tensor:
        if max(x.shape[-2:]) > 512:
            raise error
        return net(x, *rest)

    predictor._net = small_memory
    result = predictor.predict_plane(plan)
    assert predictor.tile == 512
    assert np.abs(result - predictor_of(make_model()).predict_plane(plan)).max() < 1e-3


def test_no_memory_at_all(make_model, nuclei: np.ndarray) -> None:
    predictor = predictor_of(make_model())

    def no_memory(x: torch.Tensor, *rest: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    predictor._net = no_memory
    with pytest.raises(OutOfMemoryError, match="smaller model"):
        predictor.predict_plane(plan_image(nuclei))
    assert predictor.tile == predictor.min_tile > 2 * HALO


def test_other_errors_are_not_swallowed(make_model, nuclei: np.ndarray) -> None:
    predictor = predictor_of(make_model())

    def broken(x: torch.Tensor, *rest: object) -> torch.Tensor:
        raise RuntimeError("shape mismatch")

    predictor._net = broken
    with pytest.raises(RuntimeError, match="shape mismatch"):
        predictor.predict_plane(plan_image(nuclei))


def test_missing_device(make_model) -> None:
    with pytest.raises(DeviceError):
        Predictor(make_model(), PredictConfig(device="cuda:7"))


@pytest.mark.parametrize(
    ("diameter", "trained", "spatial", "expected"),
    [
        (None, 24, (500, 500), 1),
        (24, None, (500, 500), 1),
        (12, 24, (500, 500), 2),
        (23.5, 24, (500, 500), 1),
        (1, 24, (500, 500), 8),
        (5000, 24, (5000, 5000), 1 / 8),
        (96, 24, (32, 500), 0.5),
        (96, 24, (8, 500), 1),
        (12, 24, (1, 1), 2),
    ],
)
def test_scale(diameter, trained, spatial, expected) -> None:
    assert network_scale(diameter, trained, spatial) == pytest.approx(expected)


def test_seams_lie_at_pixels_of_the_image(make_model) -> None:
    predictor = Predictor(make_model(), PredictConfig(tile=320))
    plan = plan_image(np.zeros((1000, 320), np.uint8), measure=False)
    rows = [tile.core.y0 for tile in predictor.tiles(predictor.scaled(plan, (), 1.0))]
    assert predictor.seams(plan) == (tuple(rows[1:]), ())
    halved = [tile.core.y0 for tile in predictor.tiles(predictor.scaled(plan, (), 0.5))]
    assert 1 < len(halved) < len(rows)
    assert predictor.seams(plan, 0.5) == (tuple(2 * y for y in halved[1:]), ())
