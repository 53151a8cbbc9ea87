"""The published experiments, on tiny look-alikes of their data."""

from __future__ import annotations

import importlib.util
import json
import math
import multiprocessing
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from napari_sa2net.errors import (
    Cancelled,
    DeviceError,
    SettingsError,
    TrainingDataError,
    TrainingError,
)
from napari_sa2net.experiments.layouts import DATASETS, open_layout
from napari_sa2net.experiments.reproduce import report
from napari_sa2net.experiments.reproduce import run as run_module
from napari_sa2net.experiments.reproduce.fold import (
    EpochSampler,
    ProtocolModule,
    dice_bce,
    dice_ce,
)
from napari_sa2net.experiments.reproduce.fold import test_probabilities as probabilities_of
from napari_sa2net.experiments.reproduce.prepare import augment, bilinear, prepare
from napari_sa2net.experiments.reproduce.recipes import POOLED, RECIPES, SIZE, recipe_of
from napari_sa2net.experiments.reproduce.report import decided, score
from napari_sa2net.experiments.reproduce.run import fold_splits, reproduce
from napari_sa2net.models import open_model
from napari_sa2net.nn import SA2Net

_spec = importlib.util.spec_from_file_location(
    "make_layouts", Path(__file__).parent.parent / "experiments" / "make_layouts.py"
)
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

TINY = {"base_channels": 2, "epochs": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 px instead of 224: what is tested does not depend on the size."""
    for module in ("prepare", "fold"):
        monkeypatch.setattr(f"napari_sa2net.experiments.reproduce.{module}.SIZE", 32)


def test_every_layout_has_a_recipe() -> None:
    assert set(RECIPES) == set(DATASETS)
    assert all(recipe.dataset == name for name, recipe in RECIPES.items())
    with pytest.raises(SettingsError, match="Known are"):
        recipe_of("imagenet")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_published_figures_can_be_of_one_overlap(recipe: Any) -> None:
    """IoU is never above Dice, nor (as a mean over images) far from what Dice says of it."""
    for figure in recipe.figures:
        assert 0 < figure.iou < figure.dice < 100
        iou = figure.dice / (2 - figure.dice / 100)
        # of pooled figures IoU is the mean over both classes
        assert iou - 1.5 < figure.iou < iou + (15 if figure.of == POOLED else 2.5)
        assert all(sd is None or 0 < sd < 2 for sd in (figure.dice_sd, figure.iou_sd))


# --- recipe --------------------------------------------------------------------------------


def test_loss_of_sigmoid_heads() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 1, 5, 6), (torch.rand(3, 5, 6) > 0.8).to(torch.uint8)
    p, y = logits.sigmoid()[:, 0].double(), target.double()
    dice = [
        1 - 2 * (a * b).sum() / ((a * a).sum() + b.sum()) for a, b in zip(p, y, strict=True)
    ]
    cross = -(y * p.log() + (1 - y) * (1 - p).log())
    balanced = (cross[y > 0].mean() + cross[y == 0].mean()) / 2
    expected = 0.5 * torch.stack(dice).mean() + 0.5 * balanced
    assert float(dice_bce(logits, target)) == pytest.approx(float(expected), rel=1e-4)
    plain = 0.5 * torch.stack(dice).mean() + 0.5 * cross.mean()
    assert float(dice_bce(logits, target, balanced=False)) == pytest.approx(float(plain))
    for empty in (torch.zeros_like(target), torch.ones_like(target)):
        for balanced in (True, False):
            x = logits.clone().requires_grad_()
            dice_bce(x * 100, empty, balanced=balanced).backward()
            assert torch.isfinite(x.grad).all()


def test_loss_of_softmax_heads() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 4, 5, 6), torch.randint(0, 4, (3, 5, 6))
    right = F.one_hot(target, 4).movedim(-1, 1) * 50.0
    for share in (0.5, 0.7):
        assert float(dice_ce(right, target, share)) < 1e-3
    assert float(dice_ce(logits, target, 0.0)) == pytest.approx(
        float(F.cross_entropy(logits, target))
    )
    only_dice = float(dice_ce(logits, target, 1.0))
    mixed = 0.7 * only_dice + 0.3 * float(F.cross_entropy(logits, target))
    assert float(dice_ce(logits, target, 0.7)) == pytest.approx(mixed, rel=1e-5)


def test_augmentation_turns_image_and_mask_alike() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((24, 24), np.uint8)
    mask[3:11, 4:18] = 1
    image = np.repeat(mask[..., None] * 200, 3, axis=-1).astype(np.uint8)
    right = same = turned = 0
    for _ in range(400):
        i, m = augment(image, mask, rng)
        assert i.shape == image.shape
        np.testing.assert_array_equal(i[..., 0] > 0, m > 0)
        if np.array_equal(m, mask):
            same += 1
        elif m.sum() == mask.sum() and len(np.unique(np.nonzero(m)[0])) in (8, 14):
            right += 1
        else:
            turned += 1
    assert 150 < right < 250
    assert 60 < turned < 140
    assert 60 < same < 160


def test_order_depends_on_seed_and_epoch() -> None:
    sampler = EpochSampler(9, (0, 1))
    first = list(sampler)
    assert first == list(sampler)
    assert sorted(i for _, i in first) == list(range(9))
    sampler.set_epoch(4)
    assert [i for _, i in sampler] != [i for _, i in first]
    assert {e for e, _ in sampler} == {4}


def test_learning_rate_restarts_every_five_epochs() -> None:
    module = ProtocolModule(SA2Net(3, 1, 1), RECIPES["glas"], np.array(["a"]))
    optimizer = module.configure_optimizers()["optimizer"]
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["weight_decay"] == 0
    rates = [1e-3 * module._warm_restarts(epoch) for epoch in range(11)]
    published = [
        1e-4 + 9e-4 * (1 + math.cos(math.pi * (2 * e % 10) / 10)) / 2 for e in range(11)
    ]
    np.testing.assert_allclose(rates, published)
    assert rates[0] == rates[5] == rates[10] == pytest.approx(1e-3)


# --- data ----------------------------------------------------------------------------------


def test_images_are_resized_as_published(tmp_path: Path, monkeypatch) -> None:
    layout = open_layout("glas", make.glas(tmp_path / "data"))
    data = prepare(layout, RECIPES["glas"], tmp_path / "cache.npz")
    assert data.images.shape == (6, 32, 32, 3)
    assert data.images.dtype == data.masks.dtype == np.uint8
    sample = layout.items[2].read()
    expected = np.rint(bilinear(sample.image[..., ::-1], 32))
    np.testing.assert_array_equal(data.images[2], expected)
    # Blue comes first in the network's input, and 255 is 1.
    np.testing.assert_allclose(data.tensor(2)[0], data.images[2][..., 0] / 255, atol=1e-6)
    # Every pixel that a gland touches belongs to it: masks grow.
    plain = bilinear((sample.mask > 0)[..., None].astype(float), 32)[..., 0]
    assert (data.masks[2] >= (plain > 0.5)).all()
    assert data.masks[2].sum() > (plain > 0.5).sum()

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("napari_sa2net.experiments.reproduce.prepare.prepare_sample", fail)
    again = prepare(layout, RECIPES["glas"], tmp_path / "cache.npz")
    np.testing.assert_array_equal(again.images, data.images)
    next((tmp_path / "data").rglob("train_1.bmp")).touch()
    with pytest.raises(AssertionError, match="read again"):
        prepare(layout, RECIPES["glas"], tmp_path / "cache.npz")


def test_bilinear_is_that_of_the_published_script() -> None:
    # Pixel centres at halves, no antialiasing: 64 → 32 averages two neighbours.
    image = np.arange(64, dtype=np.uint8)[None, :, None].repeat(32, 0)
    np.testing.assert_allclose(bilinear(image, 32)[0, :, 0], np.arange(32) * 2 + 0.5)
    # Smoothed, a pixel that lies between the two counts, too: 96 → 32.
    stripe = np.zeros((96, 96, 1), np.uint8)
    stripe[:, 48] = 90
    assert bilinear(stripe, 32).max() == 0
    assert bilinear(stripe, 32, antialiased=True).sum(1) == pytest.approx(30)


def test_five_folds_of_training_and_validation_images(tmp_path: Path) -> None:
    root = make.folders(
        tmp_path / "data", {"Train_Folder": 5, "Val_Folder": 2, "Test_Folder": 1}
    )
    recipe = RECIPES["monuseg"]
    data = prepare(open_layout("monuseg", root), recipe, tmp_path / "c.npz")
    splits = fold_splits(data, recipe)
    assert len(splits) == 5
    images = data.where("train", "val").tolist()
    assert sorted(i for _, validation in splits for i in validation) == images
    for training, validation in splits:
        assert sorted([*training, *validation]) == images


def test_score_is_dice_and_iou_per_image_or_volume() -> None:
    truth = np.zeros((3, 4, 4), int)
    truth[0, :2], truth[1, 0, 0] = 1, 1
    found = np.zeros_like(truth)
    found[0, 0] = 1
    table = score(found, truth, ["a", "b", "c"], 1)
    assert table["dice"].tolist() == pytest.approx([2 * 4 / 12, 0, 1])
    assert table["iou"].tolist() == pytest.approx([0.5, 0, 1])
    volume = score(found, truth, ["v", "v", "v"], 1)
    assert volume["dice"].tolist() == pytest.approx([2 * 4 / 13])
    many = score(np.full((1, 2, 2), 2), np.full((1, 2, 2), 2), ["a"], 4)
    assert many["dice"].tolist() == [1.0]


# --- whole runs ----------------------------------------------------------------------------


def test_probabilities_and_classes_of_one_head_or_several() -> None:
    logits = torch.tensor([-2.0, -0.01, 0.0, 0.01])[None, None, None]
    one = report.probabilities(logits.half())
    assert one.dtype == torch.float32
    np.testing.assert_allclose(one[0, 0, 0], [0.119, 0.4975, 0.5, 0.5025], atol=1e-3)
    assert decided(one.numpy()).tolist() == [[[0, 0, 0, 1]]]
    two = report.probabilities(torch.cat([0 * logits, logits], 1))
    np.testing.assert_allclose(two.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(two[:, 1], one[:, 0], atol=1e-3)
    three = report.probabilities(torch.cat([0 * logits, logits, logits + 1], 1))
    np.testing.assert_allclose(three.sum(1), 1, atol=1e-6)
    assert decided(three.numpy()).tolist() == [[[0, 2, 2, 2]]]


def test_glas_folds_vote_and_report(tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    root = make.folders(tmp_path / "data", {"Train_Folder": 6, "Test_Folder": 2})
    out = tmp_path / "out"
    report = reproduce(
        "glas", root, out, folds=2, on_progress=lambda *a: steps.append(a), command="as called",
        **TINY,
    )  # fmt: skip
    names = [row["of"] for row in report["summary"]]
    assert names == [
        "validation images, fold 1",
        "validation images, fold 2",
        "validation images, mean over folds",
        "validation images, all folds together",
        "test images, fold 1",
        "test images, fold 2",
        "test images, mean over folds",
        "test images, vote of 2 folds",
    ]
    assert report == json.loads((out / "report.json").read_text())
    assert steps[-1][0] == steps[-1][1]
    images = pd.read_csv(out / "images.csv", dtype={"fold": str})
    # The vote is the mean probability, scored at 0.5.
    p = np.mean([probabilities_of(out / f"fold_{i}") for i in (1, 2)], axis=0)
    with np.load(out / "prepared.npz") as file:
        truth = file["masks"][file["splits"] == "test"]
    vote = score(decided(p), truth, ["Te0", "Te1"], 1)
    np.testing.assert_allclose(images.query("fold == 'vote'")["dice"], vote["dice"])
    row = report["summary"][-1]
    assert row["dice"] == pytest.approx(100 * vote["dice"].mean())
    assert row["dice_sd"] == pytest.approx(100 * vote["dice"].std())
    text = (out / "report.md").read_text()
    assert "92.05" in text
    assert "85.99" in text
    assert "91.38 ± 0.4" in text
    assert "as called" in text
    assert "Of the 5 folds only 2 ran" in text
    assert "this one 2" in text
    model = open_model(out / "fold_1" / "model.safetensors")
    assert model.card.input.channel_order == "BGR"
    assert model.card.input.resize_to == 32
    assert not list(out.rglob("last.ckpt"))
    # All of it is there: nothing is trained again.
    assert reproduce("glas", root, out, folds=2, command="as called", **TINY) == report


@pytest.mark.parametrize("dataset", ["monuseg", "isic2018", "segpc2021", "acdc"])
def test_the_other_experiments_run(tmp_path: Path, dataset: str) -> None:
    if dataset == "acdc":
        pytest.importorskip("nibabel")
    root = make.MAKERS[dataset](tmp_path / "data")
    if dataset == "monuseg":  # three training images are too few for five folds
        top = root / "MoNuSeg 2018 Training Data"
        for i in range(3, 6):
            image, labels = make.blob(i)
            make.save(top / "Tissue Images" / f"TCGA-{i}.tif", image)
            make.write_xml(top / "Annotations" / f"TCGA-{i}.xml", labels)
    folds = 1 if dataset == "monuseg" else None
    report = reproduce(dataset, root, tmp_path / "out", folds=folds, **TINY | {"epochs": 1})
    pooled = ["pooled as published"] if dataset in ("isic2018", "segpc2021") else []
    assert [row["of"] for row in report["summary"]] == [
        f"{kind} {RECIPES[dataset].scored}{how}"
        for kind in ("validation", "test")
        for how in ("", *(f", {p}" for p in pooled))
    ]
    assert all(0 <= row["dice"] <= 100 for row in report["summary"])
    assert RECIPES[dataset].unverified in report["notes"]
    if dataset == "acdc":
        assert report["summary"][1]["n"] == 2, "two frames of one patient"
    model = open_model(tmp_path / "out" / "fold_1" / "model.safetensors")
    assert model.net.in_channels == {"segpc2021": 4, "acdc": 1}.get(dataset, 3)
    assert model.net.n_classes == {"monuseg": 1, "acdc": 4}.get(dataset, 2)


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch) -> None:
    # A checkpoint every epoch, so that there is one to go on from.
    monkeypatch.setattr("napari_sa2net.experiments.reproduce.fold.SAVE_SECONDS", 0.0)
    root = make.folders(tmp_path / "data", {"Train_Folder": 6})
    settings = {**TINY, "epochs": 4, "folds": 1}
    whole = reproduce("glas", root, tmp_path / "whole", **settings)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 9  # six images are read; one step is an epoch

    parts = tmp_path / "parts"
    with pytest.raises(Cancelled, match="same command again"):
        reproduce("glas", root, parts, cancelled=stop, **settings)
    assert (parts / "fold_1" / "last.ckpt").is_file()
    assert not (parts / "report.json").exists()
    epochs: list[str] = []
    again = reproduce(
        "glas", root, parts, on_progress=lambda *a: epochs.append(a[2]), **settings
    )
    assert [e.split(",")[0] for e in epochs] == ["epoch 3", "epoch 4"]
    assert again["summary"] == whole["summary"]
    a, b = (
        open_model(p / "fold_1" / "model.safetensors").net.state_dict()
        for p in (tmp_path / "whole", parts)
    )
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_recipe_learns(tmp_path: Path) -> None:
    root = make.folders(tmp_path / "data", {"Train_Folder": 20, "Test_Folder": 3})
    report = reproduce(
        "glas", root, tmp_path / "out", folds=1, base_channels=4, epochs=12, device="cpu"
    )
    test = report["summary"][-1]
    assert test["of"] == "test images"
    assert test["dice"] > 80, "dark squares on a bright ground"


def test_patience_ends_training(tmp_path: Path, monkeypatch) -> None:
    recipe = RECIPES["glas"]
    object.__setattr__(recipe, "patience", 2)
    try:
        monkeypatch.setattr(
            "napari_sa2net.experiments.reproduce.fold.score",
            lambda *a: pd.DataFrame({"name": ["all"], "dice": [0.5], "iou": [0.4]}),
        )
        root = make.folders(tmp_path / "data", {"Train_Folder": 6})
        report = reproduce("glas", root, tmp_path / "out", folds=1, **TINY | {"epochs": 9})
    finally:
        object.__setattr__(recipe, "patience", 50)
    assert report["folds"][0]["kept_epoch"] == 1
    assert report["folds"][0]["epochs"] == 3


def test_mistakes_are_told_before_the_work(tmp_path: Path) -> None:
    root = make.folders(tmp_path / "data", {"Train_Folder": 4})
    with pytest.raises(TrainingDataError, match="too few for 5 folds"):
        reproduce("glas", root, tmp_path / "a", **TINY)
    with pytest.raises(SettingsError, match="Choose from 1 to 5"):
        reproduce("glas", root, tmp_path / "b", folds=6, **TINY)
    with pytest.raises(SettingsError, match="Choose from 1 to 1"):
        reproduce("acdc", root, tmp_path / "b", folds=2, **TINY)
    with pytest.raises(SettingsError, match="epochs must be 1 or more"):
        reproduce("glas", root, tmp_path / "b", **TINY | {"epochs": 0})
    with pytest.raises(SettingsError, match="seed must be 0 or more, not -1"):
        reproduce("glas", root, tmp_path / "b", **TINY, seed=-1)
    with pytest.raises(DeviceError):
        reproduce("glas", root, tmp_path / "b", **TINY | {"device": "cpu,cuda:9"})
    with pytest.raises(TrainingDataError, match="is not a folder"):
        reproduce("glas", tmp_path / "nowhere", tmp_path / "b", **TINY)
    assert not (tmp_path / "b").exists()
    with pytest.raises(SettingsError, match="base channels 2, and this one has 4"):
        reproduce("glas", root, tmp_path / "a", **TINY | {"base_channels": 4})
    with pytest.raises(SettingsError, match="holds other files"):
        reproduce("glas", root, root, **TINY)


def test_folds_at_the_same_time_are_those_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "forkserver" in multiprocessing.get_all_start_methods():
        # what the two load is loaded once
        quick = multiprocessing.get_context("forkserver")
        quick.set_forkserver_preload([run_module.__name__])
        ours = SimpleNamespace(get_context=lambda method: quick)
        monkeypatch.setattr(run_module, "multiprocessing", ours)
    root = make.folders(tmp_path / "data", {"Train_Folder": 6, "Test_Folder": 1})
    settings = {**TINY, "epochs": 1, "folds": 2}
    told: list[tuple[int, int, str]] = []
    one_by_one = reproduce("glas", root, tmp_path / "one", **settings)
    together = reproduce(
        "glas",
        root,
        tmp_path / "two",
        on_progress=lambda *a: told.append(a),
        **{**settings, "device": "cpu,cpu"},
    )
    assert together["folds"] == one_by_one["folds"]
    assert together["summary"] == one_by_one["summary"]
    assert {what.split(",")[0] for _, _, what in told[7:]} == {"fold 1 of 2", "fold 2 of 2"}


def test_what_goes_wrong_in_a_fold_says_in_which(tmp_path: Path, monkeypatch) -> None:
    def broken(*job, **more):
        raise ValueError("no such thing")

    monkeypatch.setattr(run_module, "run_fold", broken)
    monkeypatch.setattr(run_module, "_own", {"device": "cpu", "stop": threading.Event()})
    with pytest.raises(TrainingError, match="Fold 2: ValueError: no such thing"):
        run_module._work(1, (), 0)


def test_every_gpu_is_used_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert run_module._devices("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert run_module._devices("cuda:1") == ["cuda:1"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_module._devices("auto") == ["auto"]
    assert SIZE == 224
