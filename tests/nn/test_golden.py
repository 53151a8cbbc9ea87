"""The network equals what the published code computes (random weights, float32, CPU)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_sa2net.models import load_checkpoint
from napari_sa2net.nn import ATTENTION_NAMES, capture_attention

HERE = Path(__file__).parent / "golden"
HEADS = ("head_full", "head_half", "head_quarter", "head_eighth")
TOLERANCE = 1e-5


def assert_equals_published(net: torch.nn.Module, expected: dict[str, np.ndarray]) -> None:
    x = torch.from_numpy(expected["x"])
    with torch.no_grad(), capture_attention(net) as maps:
        heads = net(x, deep_supervision=True)
    # The one-class script applies the sigmoid inside its network.
    if net.n_classes == 1:
        heads = [head.sigmoid() for head in heads]
    got: dict[str, Tensor] = dict(zip(HEADS, heads, strict=True))
    got["scale_gates"] = torch.cat([maps[f"scale_gate_{i}"] for i in (1, 2, 3, 4)], dim=1)
    got["global_q"] = maps["global_query"]
    for i in (1, 2, 3, 4):
        got[f"lsa{i}_gate1"], got[f"lsa{i}_gate2"] = maps[f"local_gate_{i}"].chunk(2, dim=1)
        got[f"psi_up{i}"] = maps[f"aua_{2 ** (i - 1)}"]
    assert set(got) == set(expected) - {"x"}
    for name, value in got.items():
        assert value.shape == expected[name].shape, name
        assert np.abs(value.numpy() - expected[name]).max() <= TOLERANCE, name


def test_equals_published_numbers() -> None:
    with np.load(HERE / "one_class.npz") as file:
        expected = dict(file)
    assert_equals_published(load_checkpoint(HERE / "one_class.safetensors"), expected)


@pytest.mark.parametrize("name", ["official_monuseg_style.pth.tar", "official_segpc_style.pt"])
def test_published_checkpoints_equal_their_numbers(shared_dir: Path, name: str) -> None:
    path = shared_dir / "golden" / name
    with np.load(path.with_name(f"{name.split('.')[0]}.npz")) as file:
        expected = dict(file)
    assert_equals_published(load_checkpoint(path), expected)


def test_comparison_notices_a_change() -> None:
    with np.load(HERE / "one_class.npz") as file:
        expected = dict(file)
    net = load_checkpoint(HERE / "one_class.safetensors")
    with torch.no_grad():
        net.bottleneck.gcn3.dwconv5x5.weight *= 1.01
    with pytest.raises(AssertionError):
        assert_equals_published(net, expected)


def test_names_of_maps_are_complete() -> None:
    assert sorted(ATTENTION_NAMES) == sorted(
        [
            *(f"scale_gate_{i}" for i in (1, 2, 3, 4)),
            "global_query",
            *(f"local_gate_{i}" for i in (1, 2, 3, 4)),
            *(f"aua_{s}" for s in (8, 4, 2, 1)),
        ]
    )
