"""Our recipe for the published experiments: wide augmentation, mean weights, symmetries."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_sa2net.data import read_image
from napari_sa2net.errors import Cancelled, SettingsError
from napari_sa2net.experiments.reproduce.fold import Keeper, on_grid, seldom
from napari_sa2net.experiments.reproduce.prepare import WideAugmentation
from napari_sa2net.experiments.reproduce.recipes import OURS, RECIPES, recipe_of
from napari_sa2net.experiments.reproduce.report import at_side, predict
from napari_sa2net.experiments.reproduce.run import reproduce
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import plan_for
from napari_sa2net.models import open_model

_spec = importlib.util.spec_from_file_location(
    "make_layouts", Path(__file__).parent.parent / "experiments" / "make_layouts.py"
)
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

TINY = {"base_channels": 1, "epochs": 2, "device": "cpu", "folds": 1}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 px instead of 224: what is tested does not depend on the size."""
    for module in ("prepare", "fold", "report"):
        monkeypatch.setattr(f"napari_sa2net.experiments.reproduce.{module}.SIZE", 32)


def batch(n: int = 6, side: int = 64) -> tuple[Tensor, Tensor]:
    """Images that are as bright as their masks say."""
    mask = torch.zeros(n, side, side, dtype=torch.uint8)
    mask[:, side // 8 : side // 2, side // 4 : 3 * side // 4] = 1
    mask[:, 5 * side // 8 : 7 * side // 8, side // 8 : side // 4] = 1
    image = (mask[:, None].float() * 0.8 + 0.1).repeat(1, 3, 1, 1)
    return image, mask


# --- augmentation --------------------------------------------------------------------------


def test_wide_augmentation_bends_image_and_mask_alike() -> None:
    image, mask = batch(16)
    vary = WideAugmentation((0, 1), 64)
    moved = 0
    for step in range(4):
        varied, bent = vary(image, mask, step)
        assert varied.shape == image.shape
        assert bent.shape == mask.shape
        assert bent.dtype == mask.dtype
        assert set(bent.unique().tolist()) == {0, 1}
        assert 0 <= float(varied.min()) <= float(varied.max()) <= 1
        for one, own, before in zip(varied, bent, mask, strict=True):
            # Colours vary by image, so the threshold is the image's own.
            grey = one.mean(0)
            found = grey > (grey.min() + grey.max()) / 2
            both = float((found & (own > 0)).sum())
            assert 2 * both / float(found.sum() + own.sum()) > 0.9
            moved += not torch.equal(own, before)
    assert moved > 48, "of 64"


def test_wide_augmentation_is_that_of_its_seed_and_step() -> None:
    image, mask = batch()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = WideAugmentation((0, 1), 64)(image, mask, 5)
    again = WideAugmentation((0, 1), 64)(image, mask, 5)
    assert torch.equal(torch.rand(1), expected), "the generator of the rest is left alone"
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for seed, step in (((0, 1), 6), ((0, 2), 5), ((1, 1), 5)):
        other = WideAugmentation(seed, 64)(image, mask, step)
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])


def test_wide_augmentation_cuts_out_another_place_of_each_image() -> None:
    image, _ = batch(8)
    vary = WideAugmentation((0,), 32)
    vary._vary = lambda image, mask: (image, mask)  # what is left is the cut
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    image = (torch.stack([y, x, y * 0]) / 64)[None].repeat(8, 1, 1, 1)
    places = (64 * y + x)[None].repeat(8, 1, 1)
    cut, where = vary(image, places, 0)
    assert cut.shape == (8, 3, 32, 32)
    assert where.shape == (8, 32, 32)
    corners = {tuple((64 * one[:2, 0, 0]).round().int().tolist()) for one in cut}
    assert len(corners) > 4
    for one, own in zip(cut, where, strict=True):
        torch.testing.assert_close(own.float(), 64 * 64 * one[0] + 64 * one[1])
    assert torch.equal(vary(3 * image - 1, places, 0)[0], (3 * cut - 1).clamp(0, 1))


# --- scoring -------------------------------------------------------------------------------


def test_a_mask_on_a_finer_grid_is_the_same_mask() -> None:
    mask = torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8)
    fine = on_grid(mask, 24)
    assert fine.shape == (2, 24, 24)
    assert fine.dtype == mask.dtype
    assert torch.equal(fine[:, 1::3, 1::3], mask)
    assert torch.equal(at_side(fine[:, None].float(), 8)[:, 0], mask.float())
    assert on_grid(mask, 8) is mask


class Uneven(nn.Module):
    """Sees top and bottom, left and right, in other ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, x.shape[-1])
        return 3 * self.conv(x) + ramp + 0.5 * ramp[:, None]


def all_eight(x: Tensor) -> list[Tensor]:
    """Of the last two axes, written down one by one."""
    t = x.transpose(-1, -2)
    both = (-2, -1)
    return [
        *(x, x.flip(-1), x.flip(-2), x.flip(both)),
        *(t, t.flip(-1), t.flip(-2), t.flip(both)),
    ]


def test_symmetries_are_the_mean_over_eight_and_turn_with_the_image() -> None:
    net, x = Uneven().eval(), torch.rand(3, 3, 24, 24)
    found = torch.from_numpy(predict(net, x, CPU, 2, 24, symmetries=True))
    with torch.inference_mode():
        p = [net(turned).sigmoid() for turned in all_eight(x)]
    undo = [
        p[0], p[1].flip(-1), p[2].flip(-2), p[3].flip((-2, -1)),
        p[4].transpose(-1, -2), p[5].flip(-1).transpose(-1, -2),
        p[6].flip(-2).transpose(-1, -2), p[7].flip((-2, -1)).transpose(-1, -2),
    ]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(undo).mean(0), rtol=0, atol=1e-6)
    for turned, expected in zip(all_eight(x), all_eight(found), strict=True):
        again = torch.from_numpy(predict(net, turned, CPU, 3, 24, symmetries=True))
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-6)
    plain = torch.from_numpy(predict(net, x, CPU, 2, 24))
    torch.testing.assert_close(plain, p[0], rtol=0, atol=1e-6)
    assert not torch.allclose(plain, found, atol=1e-2)
    coarse = torch.from_numpy(predict(net, x, CPU, 2, 12, symmetries=True))
    expected = found.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    torch.testing.assert_close(coarse, expected, rtol=0, atol=1e-6)


# --- whole runs ----------------------------------------------------------------------------


def test_our_recipes_share_network_images_and_scores_with_the_published() -> None:
    for name, ours in OURS.items():
        published = RECIPES[name]
        for part in ("channel_order", "in_channels", "n_classes", "scaling", "masks",
                     "cross_validated", "loss", "dice_share", "figures"):  # fmt: skip
            assert getattr(ours, part) == getattr(published, part)
        assert recipe_of(name, "ours") is ours
    with pytest.raises(SettingsError, match=r"no recipe 'ours' for acdc.*monuseg and glas"):
        recipe_of("acdc", "ours")


@pytest.mark.parametrize("dataset", ["monuseg", "glas"])
def test_our_recipe_from_images_to_report(tmp_path: Path, dataset: str) -> None:
    root = make.folders(tmp_path / "data", {"Train_Folder": 6, "Test_Folder": 2})
    out = tmp_path / "out"
    settings = {**TINY, "epochs": 3, "folds": 2}
    report = reproduce(dataset, root, out, recipe="ours", **settings)
    assert report["recipe"] == "ours"
    assert [row["of"] for row in report["summary"]][-1] == "test images, vote of 2 folds"
    assert [fold["kept_epoch"] for fold in report["folds"]] == [3, 3]
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {OURS[dataset].title}, by our recipe for SA2-Net\n")
    assert "the validation images chose nothing" in text
    assert "say nothing about the published one" in text
    assert "as published" not in text
    zoom = OURS[dataset].zoom
    assert (f"Images had {32 * zoom} px" in text) is (zoom != 1)
    model = open_model(out / "fold_1" / "model.safetensors")
    assert model.card.input.resize_to == 32 * zoom
    assert model.card.input.antialias
    assert "our recipe" in model.card.description
    with np.load(out / "prepared.npz") as file:
        assert file["images"].shape[1:] == (32 * zoom, 32 * zoom, 3)
        assert file["masks"].shape[1:] == (32, 32)
    # All of it is there: nothing is trained again.
    steps: list[str] = []
    again = reproduce(
        dataset, root, out, recipe="ours", on_progress=lambda *a: steps.append(a[2]), **settings
    )
    assert again == report
    assert not steps


def test_the_mean_weights_of_the_last_epoch_are_kept(tmp_path: Path, monkeypatch) -> None:
    seen: dict[str, dict[str, Tensor]] = {}
    keep = Keeper.on_validation_end

    def note(self: Keeper, trainer, module) -> None:
        keep(self, trainer, module)
        seen["net"] = {k: v.clone() for k, v in module.net.state_dict().items()}
        seen["mean"] = {k: v.clone() for k, v in module.mean.module.state_dict().items()}

    monkeypatch.setattr(Keeper, "on_validation_end", note)
    root = make.folders(tmp_path / "data", {"Train_Folder": 6})
    reproduce("glas", root, tmp_path / "out", recipe="ours", **TINY)
    kept = open_model(tmp_path / "out" / "fold_1" / "model.safetensors").net.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in seen["mean"].items())
    assert any(not torch.equal(kept[key], value) for key, value in seen["net"].items())


def test_our_recipe_goes_on_exactly_where_it_was_stopped(tmp_path: Path, monkeypatch) -> None:
    # A checkpoint every epoch, so that there is one to go on from.
    monkeypatch.setattr("napari_sa2net.experiments.reproduce.fold.SAVE_SECONDS", 0.0)
    root = make.folders(tmp_path / "data", {"Train_Folder": 6})
    settings = {**TINY, "recipe": "ours", "epochs": 4}
    whole = reproduce("monuseg", root, tmp_path / "whole", **settings)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 9  # six images are read; one step is an epoch

    parts = tmp_path / "parts"
    with pytest.raises(Cancelled, match="same command again"):
        reproduce("monuseg", root, parts, cancelled=stop, **settings)
    epochs: list[str] = []
    again = reproduce(
        "monuseg", root, parts, on_progress=lambda *a: epochs.append(a[2]), **settings
    )
    assert [e.split(",")[0] for e in epochs] == ["epoch 3", "epoch 4"]
    assert again["summary"] == whole["summary"]
    a, b = (
        open_model(p / "fold_1" / "model.safetensors").net.state_dict()
        for p in (tmp_path / "whole", parts)
    )
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("epochs", "every"), [(400, 10), (12, 6), (7, 7), (1, 1), (13, 1)])
def test_where_validation_chooses_nothing_it_is_seldom_and_ends_with_the_last(
    epochs: int, every: int
) -> None:
    assert seldom(epochs) == every


def test_a_model_of_our_recipe_sees_images_as_its_training_did(tmp_path: Path) -> None:
    root = make.folders(tmp_path / "data", {"Train_Folder": 6})
    out = tmp_path / "out"
    reproduce("glas", root, out, recipe="ours", **TINY)
    model = open_model(out / "fold_1" / "model.safetensors")
    with np.load(out / "prepared.npz") as file:
        prepared, names = file["images"], file["names"].tolist()
    path = next((root / "Train_Folder" / "img").glob(f"{names[0]}.*"))
    plan = plan_for(model, read_image(path).array)
    seen = Predictor(model).scaled(plan, (), 1.0).read(0, 32, 0, 32)
    np.testing.assert_allclose(seen, prepared[0].transpose(2, 0, 1) / 255, atol=0.6 / 255)


def test_a_folder_keeps_to_one_recipe(tmp_path: Path) -> None:
    root = make.folders(tmp_path / "data", {"Train_Folder": 6})
    out = tmp_path / "out"
    settings = {**TINY, "epochs": 1}
    reproduce("glas", root, out, **settings)
    before = (out / "report.json").read_bytes()
    with pytest.raises(SettingsError, match="recipe published, and this one has ours"):
        reproduce("glas", root, out, recipe="ours", **settings)
    assert (out / "report.json").read_bytes() == before
    assert json.loads(before)["recipe"] == "published"
    with pytest.raises(SettingsError, match="no recipe 'ours' for acdc"):
        reproduce("acdc", root, tmp_path / "b", recipe="ours", **settings)
    assert not (tmp_path / "b").exists()
