"""Networks for the tests of prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sa2net.config import NetworkConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.models import Model
from napari_sa2net.models.card import ModelCard
from napari_sa2net.nn import SA2Net


def network(base: int = 4, n_classes: int = 3, in_channels: int = 3, **more) -> SA2Net:
    """Random weights; batch normalisation has seen an image, so activations are plausible."""
    torch.manual_seed(0)
    net = SA2Net(in_channels, n_classes, base, **more)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    image, _ = synthetic_nuclei(shape=(128, 128), n=20, seed=1)
    image = image.astype(np.float32) / image.max()
    x = torch.from_numpy(image).expand(1, in_channels, -1, -1)
    with torch.no_grad():
        net.train()(x)
        net.outc4.weight /= net.eval()(x).std()
    return net


def model_of(net: SA2Net, diameter: float | None = None, **card) -> Model:
    classes = {
        1: ("foreground",),
        2: ("background", "foreground"),
        3: ("background", "interior", "boundary"),
    }[net.n_classes]
    config = NetworkConfig(
        in_channels=net.in_channels, n_classes=net.n_classes, base_channels=net.base_channels
    )
    return Model(
        net, ModelCard(name="test", network=config, classes=classes, diameter=diameter, **card)
    )


@pytest.fixture(scope="session")
def make_model():
    """make_model(base, n_classes, in_channels, diameter=…) -> Model with random weights."""

    def make(base: int = 4, n_classes: int = 3, in_channels: int = 3, **card) -> Model:
        return model_of(network(base, n_classes, in_channels), **card)

    return make


@pytest.fixture(scope="session")
def make_network():
    """make_network(base, n_classes, in_channels, gamma=…) -> SA2Net with random weights."""
    return network


@pytest.fixture(scope="session")
def nuclei() -> np.ndarray:
    """A synthetic image, (50, 900): several tiles wide."""
    image, _ = synthetic_nuclei(shape=(50, 900), n=40, seed=2)
    return image
