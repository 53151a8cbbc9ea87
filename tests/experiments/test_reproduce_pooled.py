"""ISIC 2018 and SegPC-2021 as published, by numbers worked out by hand."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from napari_sa2net.data import read_image
from napari_sa2net.errors import Cancelled, SettingsError, TrainingError
from napari_sa2net.experiments.layouts import Sample, open_layout
from napari_sa2net.experiments.reproduce.fold import (
    AugmentedImages,
    Keeper,
    ProtocolModule,
    dice_ce,
)
from napari_sa2net.experiments.reproduce.prepare import (
    bilinear,
    prepare,
    prepare_sample,
    to_input,
)
from napari_sa2net.experiments.reproduce.recipes import RECIPES
from napari_sa2net.experiments.reproduce.report import pooled, score, scored, table_rows
from napari_sa2net.experiments.reproduce.run import reproduce
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import plan_for
from napari_sa2net.models import open_model
from napari_sa2net.nn import SA2Net

_spec = importlib.util.spec_from_file_location(
    "make_layouts", Path(__file__).parent.parent / "experiments" / "make_layouts.py"
)
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

ISIC, SEGPC = RECIPES["isic2018"], RECIPES["segpc2021"]
TINY = {"base_channels": 1, "epochs": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 px instead of 224: what is tested does not depend on the size."""
    for module in ("prepare", "fold", "report"):
        monkeypatch.setattr(f"napari_sa2net.experiments.reproduce.{module}.SIZE", 32)


# --- recipe --------------------------------------------------------------------------------


def test_the_published_settings() -> None:
    for recipe, epochs, channels in ((ISIC, 150, 3), (SEGPC, 100, 4)):
        assert (recipe.epochs, recipe.batch_size, recipe.patience) == (epochs, 16, None)
        assert (recipe.in_channels, recipe.n_classes) == (channels, 2)
        assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == (
            "adam",
            1e-4,
            0,
        )
        assert (recipe.augmentation, recipe.dice_share, recipe.keeps) == ("none", 0.5, "last")
        assert not recipe.cross_validated
    assert {f.network: (f.dice, f.iou) for f in ISIC.figures} == {
        "GA2-Net (2024)": (89.29, 87.69),
        "InceptionMamba (2025)": (90.56, 88.98),
    }
    assert {f.network: (f.dice, f.iou) for f in SEGPC.figures} == {
        "GA2-Net (2024)": (92.49, 92.32),
        "InceptionMamba (2025)": (92.84, 92.63),
    }


def test_dice_has_no_squares_and_is_over_the_batch() -> None:
    # Two images of one pixel: p of the foreground ¾ and ½, truth 1 and 0.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])[:, :, None, None]
    target = torch.tensor([1, 0])[:, None, None]
    # Foreground 2·¾ / (1¼ + 1), background 2·½ / (¾ + 1).
    dice = (1.5 / 2.25 + 1 / 1.75) / 2
    entropy = -(math.log(0.75) + math.log(0.5)) / 2
    module = ProtocolModule(SA2Net(3, 2, 1), ISIC, np.array(["a"]))
    assert float(module.loss(logits, target)) == pytest.approx(
        0.5 * (1 - dice) + 0.5 * entropy, abs=1e-6
    )
    assert float(dice_ce(logits, target, 1.0, squared=False)) == pytest.approx(
        1 - dice, abs=1e-6
    )
    # A class that neither side has: nothing over 1e-6, so its Dice is 0.
    sure = torch.tensor([[-200.0, 200.0]])[:, :, None, None]
    assert float(dice_ce(sure, target[:1], 1.0, squared=False)) == pytest.approx(0.5, abs=1e-5)
    # Of ACDC, after CASCADE: with squares.
    squared = (1.5 / (0.5625 + 0.25 + 1) + 1 / (0.0625 + 0.25 + 1)) / 2
    acdc = ProtocolModule(SA2Net(1, 4, 1), RECIPES["acdc"], np.array(["a"]))
    assert float(dice_ce(logits, target, 1.0)) == pytest.approx(1 - squared, abs=1e-5)
    assert float(acdc.loss(logits, target)) == pytest.approx(
        0.7 * (1 - squared) + 0.3 * entropy, abs=1e-5
    )


def test_the_four_heads_are_summed() -> None:
    module = ProtocolModule(SA2Net(3, 2, 1), ISIC, np.array(["a"]))
    module.log = lambda *_, **__: None
    image, target = torch.rand(2, 3, 32, 32), torch.randint(0, 2, (2, 32, 32))
    heads = [head.detach() for head in module.net(image, deep_supervision=True)]
    assert len(heads) == 4
    expected = sum(float(dice_ce(head, target, 0.5, squared=False)) for head in heads)
    assert float(module.training_step((image, target), 0).detach()) == pytest.approx(
        expected, rel=1e-4
    )


def test_the_rate_is_halved_after_ten_epochs_without_a_lower_loss() -> None:
    module = ProtocolModule(SA2Net(3, 2, 1), SEGPC, np.array(["a"]))
    made = module.configure_optimizers()
    optimizer, plateau = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["monitor"] == "val_loss"
    assert type(optimizer) is torch.optim.Adam
    rates = []
    for loss in (0.5, *[0.5] * 11, 0.4, *[0.6] * 11):
        plateau.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1e-4] * 11 + [5e-5] * 12 + [2.5e-5]


# --- data ----------------------------------------------------------------------------------


def test_intensities_are_from_the_least_to_the_greatest_of_each_image() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 50, 75, 100
    image[0, 0] = 150, 100, 50
    small, _ = prepare_sample(Sample(image, np.zeros((32, 32), np.int32), "a", "a"), ISIC)
    x = to_input(small, ranged=True)
    assert x[:, 0, 0].tolist() == [1, 0.5, 0]
    assert x[:, 1, 1].tolist() == [0, 0.25, 0.5]
    # Several at once, each its own; and one of a single value.
    both = to_input(np.stack([small, small // 2, small * 0 + 9]), ranged=True)
    torch.testing.assert_close(both[0], x)
    assert (float(both[1].min()), float(both[1].max())) == (0, 1)
    assert not both[2].any()
    # After resizing: a bright line that no pixel of the smaller image sees does not count.
    stripe = np.full((96, 96, 3), 100, np.uint8)
    stripe[:, 60:], stripe[:, 48] = 180, 255
    small, _ = prepare_sample(Sample(stripe, np.zeros((96, 96), np.int32), "a", "a"), ISIC)
    assert sorted(np.unique(small)) == [100, 180]
    assert to_input(small, ranged=True).unique().tolist() == [0, 1]


def test_images_are_prepared_and_not_varied(tmp_path: Path) -> None:
    for dataset in ("isic2018", "segpc2021"):
        layout = open_layout(dataset, make.MAKERS[dataset](tmp_path / dataset))
        data = prepare(layout, RECIPES[dataset], tmp_path / f"{dataset}.npz")
        again = prepare(layout, RECIPES[dataset], tmp_path / f"{dataset}.npz")
        for some in (data, again):
            sample = layout.items[0].read()
            x = np.rint(bilinear(sample.image, 32)).transpose(2, 0, 1)
            x = (x - x.min()) / (x.max() - x.min())
            np.testing.assert_allclose(some.tensor(0), x, atol=1e-6)
            seen = AugmentedImages(some, np.arange(3), (0, 1), as_published=False)
            for epoch in range(3):
                torch.testing.assert_close(seen[epoch, 0][0], some.tensor(0))


def test_masks_are_of_the_nearest_pixel_or_of_what_is_touched() -> None:
    rng = np.random.default_rng(0)
    mask = (rng.random((64, 64)) > 0.5).astype(np.int32) * 255
    image = np.zeros((64, 64, 4), np.uint8)
    _, lesion = prepare_sample(Sample(image[..., :3], mask, "a", "a"), ISIC)
    np.testing.assert_array_equal(lesion, mask[::2, ::2] > 0)
    # Two by two pixels make one: below 0.5 of 255 is nothing, else the cell.
    _, cell = prepare_sample(Sample(image, mask, "a", "a"), SEGPC)
    blocks = mask.reshape(32, 2, 32, 2).max((1, 3))
    np.testing.assert_array_equal(cell, blocks > 0)


def test_a_crop_is_stretched_and_its_nucleus_is_a_channel(tmp_path: Path) -> None:
    layout = open_layout("segpc2021", make.segpc2021(tmp_path / "data"))
    sample = layout.items[0].read()
    assert sample.image.shape == (14, 22, 4), "4 + 2 · 5 and 6 + 2 · 8 px"
    data = prepare(layout, SEGPC, tmp_path / "cache.npz")
    assert data.images.shape == (10, 32, 32, 4)
    nucleus = data.tensor(0)[3]
    # 4 of 14 rows and 6 of 22 columns, and what they touch.
    assert float((nucleus > 0.5).float().mean()) == pytest.approx(24 / 308, abs=0.02)
    assert float(nucleus.max()) == 1


# --- scores --------------------------------------------------------------------------------


def test_pooled_scores_are_over_all_pixels_and_iou_is_that_of_both_classes() -> None:
    truth, found = np.zeros((2, 4, 4), int), np.zeros((2, 4, 4), int)
    truth[0, 0] = 1
    found[0, 0, :2] = 1
    found[1, 3, :2] = 1
    # True 2, false 2, missed 2, and 26 of background.
    assert pooled(found, truth) == pytest.approx(
        {"dice": 4 / 8, "iou": (2 / 6 + 26 / 30) / 2, "foreground_iou": 2 / 6}
    )
    table = score(found, truth, ["a", "b"], 2)
    assert table["dice"].tolist() == pytest.approx([4 / 6, 0])
    assert table["iou"].tolist() == pytest.approx([2 / 4, 0])
    nothing = np.zeros((1, 4, 4), int)
    assert pooled(nothing, nothing) == {"dice": 1, "iou": 1, "foreground_iou": 1}
    assert pooled(nothing + 1, nothing) == {"dice": 0, "iou": 0, "foreground_iou": 0}


def test_nuclei_are_background_when_scored() -> None:
    image = np.zeros((1, 2, 3, 4), np.uint8)
    image[0, 0, 0, 3], image[0, 1, 2, 3] = 255, 1
    image[..., :3] = 90
    found, truth = np.array([[[1, 1, 0], [0, 1, 1]]]), np.array([[[1, 0, 0], [1, 1, 1]]])
    left = scored(found, truth, image, -1, SEGPC)
    assert left[0].tolist() == [[[0, 1, 0], [0, 1, 0]]]
    assert left[1].tolist() == [[[0, 0, 0], [1, 1, 0]]]
    first = scored(found, truth, to_input(image, True).numpy(), 1, SEGPC)
    assert all((a == b).all() for a, b in zip(first, left, strict=True))
    # One is found, one is missed, one is too much: 1 − ½, and not 3 of 4.
    assert pooled(*left)["dice"] == pytest.approx(0.5)
    assert pooled(found, truth)["dice"] == pytest.approx(0.75)
    whole = scored(found, truth, image, -1, ISIC)
    assert whole[0] is found
    assert whole[1] is truth


def test_nuclei_are_background_when_validated() -> None:
    module = ProtocolModule(SA2Net(4, 2, 1), SEGPC, np.array(["a"])).eval()
    logged: dict[str, float] = {}
    module.log = lambda name, value: logged.update({name: float(value)})
    module.lr_schedulers = lambda: ReduceLROnPlateau(module.configure_optimizers()["optimizer"])
    image, target = torch.zeros(1, 4, 32, 32), torch.zeros(1, 32, 32, dtype=torch.uint8)
    image[0, 3, 8:16, 8:16], target[0, 8:16, 8:24] = 1, 1

    def found(_: torch.Tensor) -> torch.Tensor:  # all of the nucleus and half of the rest
        logits = torch.zeros(1, 2, 32, 32)
        logits[0, 0] = 10
        logits[0, 1, 8:16, 8:20] = 20
        return logits

    module.net.forward = found
    module.on_validation_epoch_start()
    module.validation_step((image, target), 0)
    module.on_validation_epoch_end()
    assert logged["val_dice"] == pytest.approx(2 * 32 / (32 + 64))
    # The loss sees the whole cell.
    assert logged["val_loss"] == pytest.approx(
        float(dice_ce(found(image), target, 0.5, squared=False))
    )


# --- which weights -------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "kept"), [("last", 3), ("best", 1)])
def test_the_last_epoch_is_tested_or_the_one_with_the_lowest_loss(keep: str, kept: int) -> None:
    module = ProtocolModule(SA2Net(3, 2, 1), ISIC, np.array(["a"]))
    recipe = SimpleNamespace(keeps=keep, best_by=ISIC.best_by, patience=None)
    keeper = Keeper(recipe)
    scores = ((0.1, 0.9), (0.2, 0.4), (0.9, 0.6), (0.3, 0.5))
    for epoch, (dice, loss) in enumerate(scores):
        with torch.no_grad():
            module.net.outc4.bias.fill_(epoch)
        metrics = {"val_dice": torch.tensor(dice), "val_loss": torch.tensor(loss)}
        trainer = SimpleNamespace(callback_metrics=metrics, current_epoch=epoch, max_epochs=4)
        keeper.on_validation_end(trainer, module)
    assert keeper.epoch == kept
    assert keeper.best == pytest.approx(scores[kept][0])
    assert keeper.weights["outc4.bias"].tolist() == [kept, kept]


def test_a_run_says_which_epoch_it_tests(tmp_path: Path) -> None:
    root = make.isic2018(tmp_path / "data")
    settings = TINY | {"epochs": 3}
    last = reproduce("isic2018", root, tmp_path / "last", **settings)
    assert last["folds"][0]["kept_epoch"] == 3
    assert any("keeps it by reference" in note for note in last["notes"])
    best = reproduce("isic2018", root, tmp_path / "best", keep="best", **settings)
    log = pd.read_csv(next((tmp_path / "best").rglob("metrics.csv")))
    assert best["folds"][0]["kept_epoch"] == 1 + int(log["val_loss"].dropna().argmin())
    said = " ".join(best["notes"])
    assert "kept the best epoch, where the recipe keeps the last one" in said
    assert "lowest loss on the validation images" in said
    with pytest.raises(SettingsError, match="kept epoch last, and this one has best"):
        reproduce("isic2018", root, tmp_path / "last", keep="best", **settings)


# --- whole runs ----------------------------------------------------------------------------


def test_both_metrics_are_reported(tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = reproduce("segpc2021", make.segpc2021(tmp_path / "data"), out, **TINY)
    with np.load(out / "prepared.npz") as file, np.load(out / "fold_1" / "test.npz") as test:
        own = file["splits"] == "test"
        other = file["images"][own][..., 3] == 0
        truth = (file["masks"][own] > 0) & other
        found = (test["probability"].argmax(1) > 0) & other
    both, either = (truth & found).sum(), (truth | found).sum()
    background = (~truth & ~found).sum() / (~truth | ~found).sum()
    rows = {row["of"]: row for row in report["summary"]}
    row = rows["test images, pooled as published"]
    assert row["dice"] == pytest.approx(100 * 2 * both / (truth.sum() + found.sum()))
    assert row["iou"] == pytest.approx(50 * (both / either + background))
    assert row["n"] == 3
    dices = [
        2 * (a & b).sum() / (a.sum() + b.sum()) if (a | b).any() else 1
        for a, b in zip(truth, found, strict=True)
    ]
    assert rows["test images"]["dice"] == pytest.approx(100 * np.mean(dices))
    images = pd.read_csv(out / "images.csv").query("split == 'test'")
    np.testing.assert_allclose(images["dice"], dices)
    text = (out / "report.md").read_text(encoding="utf-8")
    assert (
        f"| test images, pooled as published | {row['dice']:.2f} | {row['iou']:.2f} |" in text
    )
    assert "IoU of background and foreground" in text
    assert "| GA2-Net (2024): test images, pooled | 92.49 | 92.32 | its authors' own" in text
    assert "what is scored is the cytoplasm" in text
    printed = table_rows(SEGPC, report["summary"])
    assert f"{100 * both / either:.2f}" in {r[0]: r[3] for r in printed}[row["of"]]
    # A finished run is read, with its pooled scores.
    assert (
        reproduce("segpc2021", tmp_path / "data", out, **TINY)["summary"] == report["summary"]
    )
    result = out / "fold_1" / "result.json"
    broken = json.loads(result.read_text()) | {"pooled": {"test": {"dice": 1}}}
    result.write_text(json.dumps(broken))
    with pytest.raises(TrainingError, match=r"result\.json is damaged"):
        reproduce("segpc2021", tmp_path / "data", out, **TINY)


def test_a_run_goes_on_with_the_rate_that_it_had(tmp_path: Path, monkeypatch) -> None:
    class Eager(ReduceLROnPlateau):
        """No epoch is good enough, so each halves the rate."""

        def __init__(self, optimizer, **_) -> None:
            super().__init__(optimizer, factor=0.5, patience=0, threshold=1.0)

    reduce = "napari_sa2net.experiments.reproduce.fold.ReduceLROnPlateau"
    monkeypatch.setattr(reduce, Eager)
    monkeypatch.setattr("napari_sa2net.experiments.reproduce.fold.SAVE_SECONDS", 0.0)
    rates: list[float] = []
    keep = Keeper.on_train_batch_end

    def note(self: Keeper, trainer, *rest) -> None:
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        keep(self, trainer, *rest)

    monkeypatch.setattr(Keeper, "on_train_batch_end", note)
    root = make.isic2018(tmp_path / "data")
    settings = TINY | {"epochs": 4}
    whole = reproduce("isic2018", root, tmp_path / "whole", **settings)
    assert rates == [1e-4, 5e-5, 2.5e-5, 1.25e-5]
    rates.clear()
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 13  # ten images are read; one step is an epoch

    with pytest.raises(Cancelled):
        reproduce("isic2018", root, tmp_path / "parts", cancelled=stop, **settings)
    assert rates == [1e-4, 5e-5, 2.5e-5]
    again = reproduce("isic2018", root, tmp_path / "parts", **settings)
    assert rates[3:] == [2.5e-5, 1.25e-5]
    assert again["summary"] == whole["summary"]


def test_a_run_by_an_earlier_reading_is_not_gone_on_with(tmp_path: Path) -> None:
    root = make.isic2018(tmp_path / "data")
    reproduce("isic2018", root, tmp_path / "out", **TINY)
    settings = tmp_path / "out" / "settings.json"
    before = json.loads(settings.read_text())
    assert before.pop("kept_epoch") == "last"
    settings.write_text(json.dumps(before))
    with pytest.raises(SettingsError, match="by an earlier reading of its recipe"):
        reproduce("isic2018", root, tmp_path / "out", **TINY)
    # Of GlaS nothing changed.
    folders = make.folders(tmp_path / "glas", {"Train_Folder": 6})
    report = reproduce("glas", folders, tmp_path / "b", folds=1, **TINY)
    settings = tmp_path / "b" / "settings.json"
    before = json.loads(settings.read_text())
    assert before.pop("kept_epoch") == "best"
    settings.write_text(json.dumps(before))
    assert reproduce("glas", folders, tmp_path / "b", folds=1, **TINY) == report


def test_a_model_sees_images_as_its_training_did(tmp_path: Path) -> None:
    root = make.isic2018(tmp_path / "data")
    reproduce("isic2018", root, tmp_path / "out", **TINY)
    model = open_model(tmp_path / "out" / "fold_1" / "model.safetensors")
    assert model.card.input.normalization == "range"
    data = prepare(open_layout("isic2018", root), ISIC, tmp_path / "out" / "prepared.npz")
    path = root / "ISIC2018_Task1-2_Training_Input" / "ISIC_0000000.jpg"
    plan = plan_for(model, read_image(path).array)
    seen = Predictor(model).scaled(plan, (), 1.0).read(0, 32, 0, 32)
    # Its levels are those of the image before it was resized, which has more extremes.
    np.testing.assert_allclose(seen, data.tensor(0), atol=0.1)
    slope = np.polyfit(data.tensor(0).ravel(), seen.ravel(), 1)[0]
    assert slope == pytest.approx(1, abs=0.1)
