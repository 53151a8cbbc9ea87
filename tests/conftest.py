"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of data and reference numbers beside the project; skips where it is absent."""
    folder = Path(
        os.environ.get("SA2NET_DATA") or Path(__file__).parent.parent.parent / "shared"
    )
    if not folder.is_dir():
        pytest.skip("no folder of shared data (set SA2NET_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a small network with random weights (base 4, three classes): fast, not good."""
    import torch

    from napari_sa2net.config import NetworkConfig
    from napari_sa2net.models.card import ModelCard
    from napari_sa2net.models.file import save_model
    from napari_sa2net.nn import SA2Net

    torch.manual_seed(0)
    card = ModelCard(
        name="tiny",
        network=NetworkConfig(in_channels=3, n_classes=3, base_channels=4),
        classes=("background", "interior", "boundary"),
    )
    net = SA2Net(in_channels=3, n_classes=3, base_channels=4).eval()
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, net, card)
    return path
