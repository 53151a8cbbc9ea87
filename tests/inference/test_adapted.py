"""A model that is adapted to an image: its encoder is normalised by what the image shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
import torch
import torch.nn.functional as F
from torch import nn

from napari_sa2net.cli import run
from napari_sa2net.config import PredictConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.plan import plan_image
from napari_sa2net.engine.cache import Cache
from napari_sa2net.experiments.focal_study.scoring import card_of
from napari_sa2net.inference import diameter, tiling
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import look_first, predict_image, segment
from napari_sa2net.interpret.attention import attention
from napari_sa2net.interpret.explain import explain
from napari_sa2net.models import Model, load_model
from napari_sa2net.nn import FocalUNet, SA2Net, adapted_to
from napari_sa2net.nn.base import ADAPTED
from napari_sa2net.training.live import LivePlane


@pytest.fixture(scope="module")
def brown() -> np.ndarray:
    """A part of real immunohistochemistry, (160, 200, 3) uint8."""
    return np.asarray(skimage.data.immunohistochemistry()[:160, :200])


def sized(path: Path) -> Model:
    """A model that knows at which size of cells it was trained."""
    model = load_model(path)
    return replace(model, card=model.card.model_copy(update={"diameter": 18.0}))


@pytest.mark.parametrize("kind", [SA2Net, FocalUNet])
def test_the_encoder_takes_what_the_image_shows(kind) -> None:
    torch.manual_seed(0)
    net = kind(base_channels=4).eval()
    x = torch.rand(2, 3, 32, 48) * 3 + 1
    with torch.no_grad():
        before = net(x)
        values = net.inc.conv(x).double()
    own = adapted_to(net, x)
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)
    # of a network that was never trained: mean 0, variance 1
    torch.testing.assert_close(own.inc.norm.running_mean.double(), ADAPTED * mean)
    mixed = (1 - ADAPTED) + ADAPTED * variance + ADAPTED * (1 - ADAPTED) * mean**2
    torch.testing.assert_close(own.inc.norm.running_var.double(), mixed)
    for name in net.encoder:
        for module in own.get_submodule(name).modules():
            if isinstance(module, nn.BatchNorm2d):
                assert not torch.equal(
                    module.running_mean, torch.zeros_like(module.running_mean)
                )
    assert own.up1 is net.up1
    with torch.no_grad():
        torch.testing.assert_close(net(x), before)
        assert not torch.allclose(own(x), before)
    adapted = dict(own.named_modules())
    assert not any(norm._forward_pre_hooks for norm in adapted.values())


@pytest.mark.parametrize(("gain", "offset"), [(1.5, 0.0), (1.0, 0.3)])
def test_what_a_camera_adds_is_taken_away(gain: float, offset: float) -> None:
    """The same image, brighter, gives more of what it gave."""
    torch.manual_seed(1)
    net = SA2Net(base_channels=4)
    x = 3 * F.avg_pool2d(torch.rand(4, 3, 64, 64), 5, 1, 2) - 1
    net.train()
    for _ in range(60):  # statistics of these images
        net(x)
    net.eval()
    other = gain * x + offset
    with torch.no_grad():
        wanted, plain = net.encode(x)[1], net.encode(other)[1]
        own = adapted_to(net, other).encode(other)[1]
    assert (own - wanted).abs().mean() < 0.7 * (plain - wanted).abs().mean()


@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("kind", [SA2Net, FocalUNet])
def test_a_predictor_runs_what_its_model_is(kind, precision) -> None:
    torch.manual_seed(2)
    net = kind(n_classes=3, base_channels=4).eval()
    card = card_of(net, "m", 20.0)
    config = PredictConfig(precision=precision)
    predictor = Predictor(Model(net, card), config)
    x = np.random.default_rng(0).random((3, 64, 64), np.float32)
    before = predictor.probabilities(x)
    own = predictor.adapted([x, x[:, ::-1].copy()])
    assert own.model.base is predictor.model
    assert not own.adapts
    assert own.adapted([x]) is own
    fresh = Predictor(Model(own.model.net, card), config)
    np.testing.assert_array_equal(own.probabilities(x), fresh.probabilities(x))
    np.testing.assert_array_equal(predictor.probabilities(x), before)
    assert not np.allclose(own.probabilities(x), before, atol=1e-3)


@pytest.mark.parametrize(
    ("adapt", "before", "after", "is_adapted"),
    [
        ("auto", 40.0, 43.9, False),
        ("auto", 40.0, 44.1, True),
        ("auto", 10.0, 12.9, False),  # a cell or two: chance
        ("auto", 10.0, 13.1, True),
        ("auto", 0.0, 0.0, False),
        ("on", 10.0, 1.0, True),
        ("off", 10.0, 99.0, False),
    ],
)
def test_it_is_adapted_where_more_is_seen(
    tiny_model, monkeypatch, adapt, before, after, is_adapted
) -> None:
    predictor = Predictor(sized(tiny_model), PredictConfig(adapt=adapt, diameter=18))
    image, _ = synthetic_nuclei(shape=(96, 128), n=8, diameter=18, seed=1)
    monkeypatch.setattr(
        diameter, "_seen_in", lambda one, *_: before if one is predictor else after
    )
    if adapt == "auto":  # the levels of a grey image are all that a stain changes
        assert look_first(predictor, plan_image(image))[0] is predictor
    plan = plan_image(np.stack([image] * 3, -1), "YXC")
    own, *_ = look_first(predictor, plan)
    assert (own is not predictor) == is_adapted == (own.model.base is not None)
    made = predict_image(predictor.model, plan, predictor=predictor)
    assert (made.model.base is not None) == is_adapted
    told = made.record(made.model.card.instance)["settings"]["predict"]["adapt"]
    assert told == ("on" if is_adapted else "off")


def test_models_that_are_not_adapted(tiny_model) -> None:
    model = sized(tiny_model)
    assert Predictor(model).adapts
    assert not Predictor(model, PredictConfig(adapt="off")).adapts
    assert not Predictor(model, PredictConfig(rescale=False)).adapts
    for update in (
        {"diameter": None},
        {"input": model.card.input.model_copy(update={"resize_to": 64})},
    ):
        card = model.card.model_copy(update=update)
        assert not Predictor(Model(model.net, card)).adapts
    for image in (np.zeros((40, 40)), np.zeros((0, 40)), np.full((40, 40), np.nan)):
        if not np.isnan(image).any():
            own, *_ = look_first(Predictor(model), plan_image(image.astype(np.float32)))
            assert own.model is model


def test_more_is_seen_of_real_tissue(brown) -> None:
    n = {}
    for adapt in ("off", "on", "auto"):
        made = segment(brown, model="nuclei", diameter=20, adapt=adapt, table=False)
        n[adapt] = int(made.labels.max())
    assert made.provenance["settings"]["predict"]["adapt"] == "on"
    assert n["auto"] == n["on"] > 1.3 * n["off"]
    again = made.provenance["settings"]["predict"]
    again = segment(
        brown, "nuclei", diameter=20, adapt=again["adapt"], dab=again["dab"], table=False
    )
    np.testing.assert_array_equal(again.labels, made.labels)


def test_what_looks_inside_and_learns_sees_the_same(brown) -> None:
    more = {"diameter": 20, "dab": "remove"}
    cells = segment(brown, model="nuclei", table=False, **more)
    why = explain(brown, model="nuclei", **more)
    np.testing.assert_array_equal(why.labels, cells.labels)
    assert why.provenance["settings"]["predict"]["adapt"] == "on"
    auto, on, off = (
        attention(brown, "nuclei", adapt=way, **more)["aua_1"] for way in ("auto", "on", "off")
    )
    np.testing.assert_array_equal(auto, on)
    assert not np.allclose(auto, off)
    plane = LivePlane(
        Predictor(load_model("nuclei"), PredictConfig(**more)),
        plan_image(brown).without_dab(),
        (),
    )
    # what it learned is judged beside what a person sees, but it learns as what is kept does
    assert plane.predictor.model.base is plane.base
    made = plane._predicted(plane.predictor.model, (0, 160, 0, 200), None, None)
    np.testing.assert_array_equal(np.asarray(made.probability), cells.probability)


def test_a_part_is_seen_as_in_the_whole(brown) -> None:
    predictor = Predictor(load_model("nuclei"), PredictConfig(diameter=20))
    plan = plan_image(brown).without_dab()
    own, *_ = look_first(predictor, plan)
    assert own is not predictor
    part = plan.part(box=(40, 90, 60, 130))
    made = predict_image(predictor.model, part, predictor=predictor)
    norms = [one.model.net.down1.nConvs[0].norm.running_mean for one in (own, made)]
    torch.testing.assert_close(*norms)


def test_in_blocks(brown, tmp_path) -> None:
    path = tmp_path / "ihc.tif"
    tifffile.imwrite(path, brown, photometric="rgb")
    more = ("--tile", "448", "--diameter", "20")
    assert run(["segment", str(path), "-o", str(tmp_path / "one"), *more]) == 0
    for part in ("1/2", "2/2", "join"):
        shard = ("-o", str(tmp_path / "out"), *more, "--block", "128", "--shard", part)
        assert run(["segment", str(path), *shard]) == 0
    one, out = (tifffile.imread(tmp_path / name / "ihc.tif") for name in ("one", "out"))
    np.testing.assert_array_equal(out, one)


def test_the_engine_keeps_what_was_adapted(tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(tiling, "MEMORY_LIMIT", tiling.MEMORY_LIMIT)  # the cache sets it
    model = sized(tiny_model)
    cache = Cache(None)  # type: ignore[arg-type]
    config = PredictConfig()
    predictor = cache.predictor(model, config, model.card.input)
    x = np.random.default_rng(0).random((model.card.network.in_channels, 64, 64), np.float32)
    adapted = [predictor.adapted([x * k]).model for k in (1, 2)]
    first = cache.predictor(adapted[0], config, model.card.input)
    assert first.model is adapted[0]
    assert cache.predictor(adapted[0], config, model.card.input) is first
    assert cache.predictor(model, config, model.card.input) is predictor
    decided = PredictConfig(adapt="on", dab="keep", diameter=20)
    assert cache.predictor(model, decided, model.card.input) is predictor
    assert predictor.config == decided
    second = cache.predictor(adapted[1], config, model.card.input)
    assert second.model is adapted[1]
    assert not np.allclose(first.probabilities(x), second.probabilities(x))
