"""Training of other networks and losses through the same room."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from napari_sa2net.config import TrainConfig, UnifiedFocalConfig
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.errors import ModelNotFoundError, SettingsError, TrainingDataError
from napari_sa2net.models import load_model
from napari_sa2net.nn import FocalUNet, SA2Net
from napari_sa2net.training.dataset import Example
from napari_sa2net.training.fine_tune import repeat_from_card
from napari_sa2net.training.replay import as_fluorescence
from napari_sa2net.training.train import train_folder

SMALL = TrainConfig(
    base_channels=4,
    steps=2,
    batch_size=2,
    crop=64,
    diameter=12,
    validate_every=2,
    learning_rate=1e-2,
    max_validation_images=1,
    precision="float32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("training set")
    for kind in ("images", "labels"):
        (directory / kind).mkdir()
    for i in range(3):
        image, labels = synthetic_nuclei((96, 80), n=8, diameter=12, seed=i)
        tifffile.imwrite(directory / "images" / f"{i}.tif", image)
        tifffile.imwrite(directory / "labels" / f"{i}.tif", labels.astype(np.uint16))
    return directory


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))


def test_focal_unet_with_the_focal_loss_and_learned_exponents(folder) -> None:
    config = SMALL.model_copy(
        update={
            "network": "focal_unet",
            "learnable_gamma": True,
            "loss": "unified_focal",
            "unified_focal": UnifiedFocalConfig(distance_gamma=0.5),
        }
    )
    result = train_folder(folder, "focal", config)
    model = load_model("focal")
    assert isinstance(model.net, FocalUNet)
    network = model.card.network
    assert network.kind == "focal_unet"
    assert network.se == (True,) * 4
    learned = (*network.gamma, *network.se_gamma)
    assert all(g != 1 for g in learned), "every exponent has moved"
    assert model.card.training["settings"]["unified_focal"]["distance_gamma"] == 0.5
    assert np.isfinite(list(result.scores.values())).all()
    # Training goes on from it: learned exponents start where they were.
    child = SMALL.model_copy(
        update={"base": "focal", "learnable_gamma": True, "learning_rate": 1e-9, "steps": 1}
    )
    train_folder(folder, "child", child)
    grown = load_model("child").card.network
    assert grown.kind == "focal_unet"
    assert (*grown.gamma, *grown.se_gamma) == pytest.approx(learned, abs=1e-5)


def test_squeeze_and_excitation_in_sa2net(folder) -> None:
    train_folder(folder, "se", SMALL.model_copy(update={"squeeze_excitation": True}))
    model = load_model("se")
    assert isinstance(model.net, SA2Net)
    assert model.card.network.se == (True,) * 4
    assert model.card.network.se_gamma == (1,) * 4
    with torch.no_grad():
        assert torch.isfinite(model.net(torch.rand(1, 3, 32, 32))).all()


def test_a_base_grows_wider_and_what_it_cannot_be_is_refused(folder) -> None:
    train_folder(folder, "base", SMALL)
    wider = {"base": "base", "base_channels": 8, "learning_rate": 1e-9, "steps": 1}
    train_folder(folder, "wider", SMALL.model_copy(update=wider))
    assert load_model("wider").card.network.base_channels == 8
    same = wider | {"base_channels": None}
    train_folder(folder, "same", SMALL.model_copy(update=same))
    assert load_model("same").card.network.base_channels == 4
    for wrong, words in (
        ({"base_channels": 6}, "has 4 base channels: give a multiple"),
        ({"network": "focal_unet"}, "is a sa2net: leave out --network focal_unet, or --base"),
        ({"squeeze_excitation": True}, "has no squeeze and excitation"),
    ):
        with pytest.raises(SettingsError, match=words):
            train_folder(folder, "never", SMALL.model_copy(update=same | wrong))


def test_what_is_wrong_with_the_images_is_not_said_of_the_card(folder, tmp_path) -> None:
    train_folder(folder, "first", SMALL.model_copy(update={"steps": 1}))
    with pytest.raises(TrainingDataError):
        repeat_from_card(load_model("first").card, tmp_path / "nowhere", "again")


@pytest.mark.parametrize("channels", [4, 8])
def test_what_a_card_says_of_the_network_beside_a_base_is_what_was_made(
    folder, channels: int
) -> None:
    """Version 0.1.0 wrote what it had not looked at."""
    train_folder(folder, "base", SMALL)
    config = SMALL.model_copy(update={"base": "base", "base_channels": channels, "steps": 1})
    train_folder(folder, "first", config)
    card = load_model("first").card
    if channels == 4:
        formerly = {"network": "focal_unet", "base_channels": 16, "squeeze_excitation": True}
        card.training["settings"].update(formerly)
    repeat_from_card(card, folder, "again")
    one, two = load_model("first"), load_model("again")
    assert two.card.network == one.card.network
    for a, b in zip(one.net.parameters(), two.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_is_repeated_from_the_very_base(folder, tmp_path) -> None:
    train_folder(folder, "base", SMALL)
    train_folder(folder, "first", SMALL.model_copy(update={"base": "base", "steps": 1}))
    card = load_model("first").card
    moved = shutil.move(load_model("base").path, tmp_path / "moved.safetensors")
    # another of its name
    train_folder(folder, "base", SMALL.model_copy(update={"seed": 1}))
    with pytest.raises(ModelNotFoundError, match=r"not among your models.* with --base"):
        repeat_from_card(card, folder, "again")
    with pytest.raises(ModelNotFoundError, match="is not the parent"):
        repeat_from_card(card, folder, "again", base="base")
    again = repeat_from_card(card, folder, "again", base=str(moved))
    assert again.card.parent == card.parent
    # a base that was a file is found where it was
    third = repeat_from_card(again.card, folder, "third")
    assert third.card.parent == card.parent


def test_only_tissue_is_shown_as_fluorescence() -> None:
    """Dark cells on light ground become bright ones, and what is bright already stays so."""
    rows = np.indices((4, 5))[0]
    item = TrainingItem("replay-0", Path(), Path(), kind="he")
    stained = (rows == 1).astype(float)
    light = np.stack([0.9 - 0.1 * stained, 0.8 - 0.4 * stained, 0.85 - 0.2 * stained])
    counts = np.ones((4, 5), bool)

    def example(image: np.ndarray) -> Example:
        return Example(item, image.astype(np.float32), rows * 0, counts, 9.0, np.zeros((0, 2)))

    (one,) = as_fluorescence([example(light), example(np.stack([light[0]] * 3))])
    assert one.item.kind == "fluo"
    np.testing.assert_allclose(one.image, np.stack([1 - light.mean(0)] * 3), rtol=1e-6)
    (dark,) = as_fluorescence([example(1 - light)])
    np.testing.assert_allclose(dark.image, np.stack([1 - light.mean(0)] * 3), rtol=1e-6)
    assert item.kind == "he"
