"""Networks that look at the whole image at once, tile by tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sa2net.config import InputConfig, NetworkConfig, PredictConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.inference import predict as pooling
from napari_sa2net.inference.predict import Predictor, activate, coarse_plane, whole_plane
from napari_sa2net.inference.tiling import ScaledPlane
from napari_sa2net.interpret.attention import WhatIfRun, attention_maps
from napari_sa2net.interpret.explain import explain_plane
from napari_sa2net.models import Model, ModelCard
from napari_sa2net.nn import capture_attention, make_network, pad_to_stride

ALL = (True, True, True, True)
KINDS = pytest.mark.parametrize("kind", ["sa2net", "focal_unet"])


def model_of(kind: str, **card) -> Model:
    torch.manual_seed(0)
    config = NetworkConfig(kind=kind, n_classes=2, base_channels=4, se=ALL)
    net = make_network(config)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    image, _ = synthetic_nuclei(shape=(128, 128), n=20, seed=1)
    x = torch.from_numpy(image / image.max()).float().expand(1, 3, -1, -1)
    with torch.no_grad():
        net.train()(x)
        # So that what is pooled decides much.
        for module in net.se.values():
            module.fc1.weight *= 4
            module.fc2.weight *= 4
        net.outc4.weight /= net.eval()(x).std()
    classes = ("background", "foreground")
    return Model(net, ModelCard(name="test", network=config, classes=classes, **card))


@pytest.fixture(scope="module")
def uneven() -> np.ndarray:
    """Nuclei on the left, nothing on the right: tiles alone pool different things."""
    image, _ = synthetic_nuclei(shape=(50, 900), n=40, seed=2)
    return np.where(np.arange(900) < 500, image, image.min())


@pytest.fixture(autouse=True)
def whole_halo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A halo beyond which the network does not look: what differs then is the pooling."""
    monkeypatch.setattr("napari_sa2net.inference.predict.HALO", 192)


def predicted(model: Model, image: np.ndarray, **settings) -> np.ndarray:
    config = PredictConfig(device="cpu", precision="float32", **settings)
    plan = plan_image(image, model_input=model.card.input)
    return Predictor(model, config).predict_plane(plan)


@KINDS
@pytest.mark.parametrize("augment", [False, True])
def test_tiles_agree_with_the_whole(kind: str, uneven: np.ndarray, augment: bool) -> None:
    model = model_of(kind)
    whole = predicted(model, uneven, augment=augment)
    tiled = predicted(model, uneven, tile=448, augment=augment)
    assert np.abs(tiled - whole).max() < 1e-5


@KINDS
def test_the_whole_is_the_network_itself(kind: str, uneven: np.ndarray) -> None:
    model, plan = model_of(kind), plan_image(uneven)
    x = torch.from_numpy(plan.read((), 0, 50, 0, 900))[None]
    with torch.no_grad():
        expected = activate(model.net(x))[0]
    np.testing.assert_allclose(predicted(model, uneven), expected, atol=1e-4)
    np.testing.assert_allclose(predicted(model, uneven, tile=448), expected, atol=1e-4)


def test_tiles_alone_would_disagree(uneven: np.ndarray, monkeypatch) -> None:
    model = model_of("sa2net")
    whole = predicted(model, uneven)
    monkeypatch.setattr(pooling, "pools_globally", lambda net: False)
    assert np.abs(predicted(model, uneven, tile=448) - whole).max() > 1e-2


@KINDS
def test_large_planes_are_pooled_coarsely(kind: str, uneven: np.ndarray, monkeypatch) -> None:
    # As if the image were far larger than what is pooled as it is.
    monkeypatch.setattr("napari_sa2net.inference.predict.COARSE_SIDE", 128)
    model = model_of(kind)
    whole, tiled = predicted(model, uneven), predicted(model, uneven, tile=448)
    assert np.abs(tiled - whole).max() < 1e-5
    monkeypatch.undo()
    assert np.abs(predicted(model, uneven) - whole).max() > 1e-5, "the coarse pass is coarse"


def test_coarse_planes_have_a_bounded_area() -> None:
    plan = plan_image(np.zeros((300, 2000), np.uint8))
    plane = ScaledPlane(plan, (), 1.25)
    assert coarse_plane(plane) is plane
    height, width = coarse_plane(plane, 256).shape
    assert height * width == pytest.approx(256**2, rel=0.03)
    assert width / height == pytest.approx(2000 / 300, rel=0.05)
    square = ScaledPlane(plan, (), resize_to=512)
    assert coarse_plane(square, 256).shape == (256, 256)


def test_statistics_do_not_outlive_the_plane(uneven: np.ndarray) -> None:
    model = model_of("sa2net")
    plane = ScaledPlane(plan_image(uneven), ())
    x = pad_to_stride(torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        before = model.net(x)
        with whole_plane(model.net, plane):
            assert not torch.equal(model.net(x), before)
        assert torch.equal(model.net(x), before)


@KINDS
def test_a_box_is_seen_as_a_part_of_its_image(kind: str, uneven: np.ndarray) -> None:
    model = model_of(kind)
    predictor = Predictor(model, PredictConfig(device="cpu", precision="float32"))
    plan, box = plan_image(uneven), (0, 50, 304, 400)
    whole = predictor.predict_plane(plan)[:, :, 304:400]
    explained = explain_plane(predictor, plan, box=box)
    assert np.abs(explained.probability - whole).max() < 1e-5
    again = WhatIfRun(predictor, plan, box=box).run()
    assert np.abs(again - whole).max() < 1e-5
    # Without the rest of the image it would be another answer.
    alone = predictor.predict_plane(plan_image(uneven[:, 96:608]))[:, :, 208:304]
    assert np.abs(alone - whole).max() > 1e-3


@KINDS
def test_attention_of_the_networks(kind: str, uneven: np.ndarray) -> None:
    model, plan = model_of(kind), plan_image(uneven)
    maps = attention_maps(model, plan, config=PredictConfig(device="cpu", tile=448))
    assert set(maps) >= {"aua_8", "aua_4", "aua_2", "aua_1"}
    assert ("global_query" in maps) == (kind == "sa2net")
    x = torch.from_numpy(plan.read((), 0, 50, 0, 900))[None]
    with torch.no_grad(), capture_attention(model.net) as expected:
        model.net(x)
    for name in ("aua_8", "aua_1"):
        values = expected[name][0].numpy()
        height, width = maps.native[name].shape[1:]
        got = np.asarray(maps.native[name])
        assert np.abs(got - values[:, :height, :width]).max() < 1e-4


def test_models_of_a_fixed_size(uneven: np.ndarray) -> None:
    model = model_of("focal_unet", input=InputConfig(resize_to=64))
    assert predicted(model, uneven).shape == (2, 50, 900)
