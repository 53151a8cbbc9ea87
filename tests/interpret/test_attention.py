"""Attention maps of images of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_sa2net.config import PredictConfig
from napari_sa2net.data import plan_image
from napari_sa2net.errors import AxesError, Cancelled
from napari_sa2net.inference.tiling import ScaledPlane
from napari_sa2net.interpret.attention import attention, attention_maps, reduced
from napari_sa2net.models import load_model
from napari_sa2net.nn import ATTENTION_NAMES, capture_attention


@pytest.mark.parametrize(
    ("checkpoint", "vectors"),
    [
        ("official_monuseg_style.pth.tar", "official_monuseg_style.npz"),
        ("official_segpc_style.pt", "official_segpc_style.npz"),
    ],
)
def test_equals_the_published_code(shared_dir: Path, checkpoint: str, vectors: str) -> None:
    golden = np.load(shared_dir / "golden" / vectors)
    model = load_model(shared_dir / "golden" / checkpoint)
    for b, x in enumerate(golden["x"]):
        maps = attention(x, model=model, axes="CYX", normalize=False)
        native = maps.native
        assert tuple(maps) == ATTENTION_NAMES
        np.testing.assert_allclose(native["global_query"], golden["global_q"][b], atol=1e-5)
        for i in (1, 2, 3, 4):
            gates = [golden[f"lsa{i}_gate1"][b], golden[f"lsa{i}_gate2"][b]]
            np.testing.assert_allclose(
                native[f"local_gate_{i}"], np.concatenate(gates), atol=1e-5
            )
            np.testing.assert_allclose(
                native[f"scale_gate_{i}"][0], golden["scale_gates"][b, i - 1], atol=1e-5
            )
            np.testing.assert_allclose(
                native[f"aua_{2 ** (i - 1)}"], golden[f"psi_up{i}"][b], atol=1e-5
            )
        for name, image in maps.items():
            assert image.shape == x.shape[1:]
            assert image.dtype == np.float32
            expected = F.interpolate(
                reduced(name, torch.from_numpy(native[name]))[None, None],
                size=x.shape[1:],
                mode="bilinear",
            )[0, 0]
            np.testing.assert_allclose(image, expected, atol=1e-5)


def test_tiles_join_on_the_native_grids(make_model, nuclei: np.ndarray) -> None:
    model = make_model()
    plan = plan_image(nuclei)
    plane = ScaledPlane(plan, ())
    steps: list[tuple[int, int, str]] = []
    parts = attention_maps(
        model, plan, config=PredictConfig(tile=384), progress=lambda *s: steps.append(s)
    )
    assert steps[-1][0] == steps[-1][1] > 1
    x = torch.from_numpy(plane.read(0, 50, 0, 900))[None]
    with torch.no_grad(), capture_attention(model.net) as whole:
        model.net(x)
    for name, stride in parts.strides.items():
        grid = -(-50 // stride), -(-900 // stride)
        assert parts.native[name].shape[1:] == grid
        expected = whole[name][0, :, : grid[0], : grid[1]].numpy()
        assert np.abs(parts.native[name] - expected).max() < 1e-2 * np.abs(expected).max()


def test_odd_sizes_and_scales(make_model) -> None:
    model = make_model(diameter=20)
    image = np.random.default_rng(0).random((37, 21))
    for diameter in (8, 20, 50):
        maps = attention(image, model=model, diameter=diameter)
        assert {m.shape for m in maps.values()} == {(37, 21)}
        assert all(np.isfinite(m).all() for m in maps.values())
    # The shorter side is kept at 16 network px or more: 28 × 16.
    assert maps.native["aua_8"].shape == (1, 4, 2)


def test_empty_image(make_model) -> None:
    maps = attention(np.zeros((0, 7)), model=make_model())
    assert maps["aua_1"].shape == (0, 7)


def test_no_hooks_are_left_and_cancelling(make_model, nuclei: np.ndarray) -> None:
    model = make_model()
    with pytest.raises(Cancelled):
        attention(nuclei, model=model, cancelled=lambda: True)
    attention(nuclei[:40, :40], model=model)
    assert not any(m._forward_hooks for m in model.net.modules())


def test_stacks_are_refused(make_model) -> None:
    with pytest.raises(AxesError, match="one plane"):
        attention(np.zeros((4, 30, 30)), model=make_model())


def test_maps_without_settings_are_those_of_the_defaults(make_model) -> None:
    """Whatever precision and flips are asked for: maps are exact."""
    plan = plan_image(np.random.default_rng(0).random((40, 50), np.float32))
    model = make_model()
    plain = attention_maps(model, plan)
    config = PredictConfig(precision="auto", augment=True)
    for other in (attention_maps(model, plan, config=config), attention_maps(model, plan, 1.0)):
        for name, values in plain.native.items():
            np.testing.assert_array_equal(values, other.native[name])
