"""An experiment's folder: whose images, what is damaged in it, what its report says."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from napari_sa2net.errors import Cancelled, OutputError, SettingsError, TrainingError
from napari_sa2net.experiments.layouts import DATASETS
from napari_sa2net.experiments.reproduce.recipes import (
    FOLDS,
    OURS,
    RECIPES,
    recipe_of,
)
from napari_sa2net.experiments.reproduce.report import notes, summarise, table_rows
from napari_sa2net.experiments.reproduce.run import reproduce
from napari_sa2net.models import open_model

_spec = importlib.util.spec_from_file_location(
    "make_layouts", Path(__file__).parent.parent / "experiments" / "make_layouts.py"
)
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

TINY = {"base_channels": 1, "epochs": 1, "device": "cpu", "folds": 2}
FOLDERS = {"Train_Folder": 6, "Test_Folder": 2}


@pytest.fixture(autouse=True, scope="module")
def small_images() -> Iterator[None]:
    """32 px instead of 224: what is tested does not depend on the size."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("prepare", "fold", "report"):
            patch.setattr(f"napari_sa2net.experiments.reproduce.{module}.SIZE", 32)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make.folders(tmp_path_factory.mktemp("glas") / "data", FOLDERS)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned from once; each test has a copy."""
    out = tmp_path_factory.mktemp("runs") / "out"
    reproduce("glas", data, out, **TINY)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def whats(call: Callable[..., dict]) -> list[str]:
    """What a call did."""
    steps: list[str] = []
    call(lambda _done, _total, what: steps.append(what))
    return steps


def test_a_folder_holds_a_run_on_one_data_set(data: Path, out: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    other = make.folders(tmp_path / "other", {"Train_Folder": 7, "Test_Folder": 2})
    with pytest.raises(SettingsError, match=r"run on other images than .*other has now"):
        reproduce("glas", other, out, **TINY)
    # The same names, and another picture.
    changed = make.folders(tmp_path / "changed", FOLDERS)
    make.save(changed / "Test_Folder" / "img" / "Te1.png", make.blob(99)[0])
    with pytest.raises(SettingsError, match="run on other images"):
        reproduce("glas", changed, out, **TINY)
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before
    # A copy of the data set elsewhere is the same data set.
    copy = make.folders(tmp_path / "copy", FOLDERS)
    again = reproduce("glas", copy, out, **TINY)
    assert again["folds"] == json.loads(before[out / "report.json"])["folds"]


def test_the_images_are_known_from_the_first_training_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 9  # eight images are read

    with pytest.raises(Cancelled, match="Stopped in epoch 1"):
        reproduce("glas", data, out, cancelled=stop, **TINY)
    other = make.folders(tmp_path / "other", {"Train_Folder": 7})
    with pytest.raises(SettingsError, match="run on other images"):
        reproduce("glas", other, out, **TINY)
    # While images are read, nothing is claimed.
    with pytest.raises(Cancelled, match="nothing was written"):
        reproduce("glas", data, tmp_path / "b", cancelled=lambda: True, **TINY)
    assert not (tmp_path / "b").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        reproduce("glas", data, tmp_path / "file", **TINY)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_prepared_images_that_are_damaged_are_prepared_anew(
    data: Path, out: Path, damage: bytes | None
) -> None:
    prepared = out / "prepared.npz"
    whole = prepared.read_bytes()
    prepared.write_bytes(whole[:2000] if damage is None else damage)
    steps = whats(lambda note: reproduce("glas", data, out, on_progress=note, **TINY))
    assert set(steps) == {"reading images"}
    with np.load(prepared) as file:
        assert len(file["images"]) == 8


@pytest.mark.parametrize("content", ["", "[]", '{"fold": 1}', '{"fold": []}', "null"])
def test_a_damaged_outcome_says_what_to_do(data: Path, out: Path, content: str) -> None:
    report = json.loads((out / "report.json").read_text())
    path = out / "fold_1" / "result.json"
    path.write_text(content)
    with pytest.raises(TrainingError, match=r"fold_1.result\.json is damaged.*Delete the fol"):
        reproduce("glas", data, out, **TINY)
    for file in sorted(path.parent.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.parent.rmdir()
    steps: list[str] = []
    again = reproduce("glas", data, out, on_progress=lambda *a: steps.append(a[2]), **TINY)
    assert {step.split(",")[0] for step in steps} == {"fold 1 of 2"}
    assert again["summary"] == report["summary"]


def test_a_fold_whose_model_is_gone_is_trained_again(data: Path, out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    model = out / "fold_2" / "model.safetensors"
    model.unlink()
    steps = whats(lambda note: reproduce("glas", data, out, on_progress=note, **TINY))
    assert {step.split(",")[0] for step in steps} == {"fold 2 of 2"}
    assert model.is_file()
    assert json.loads((out / "report.json").read_text())["summary"] == report["summary"]


def test_damaged_predictions_and_checkpoints_say_what_to_do(
    data: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = out / "fold_2" / "test.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"fold_2.test\.npz is damaged"):
        reproduce("glas", data, out, **TINY)
    path.unlink()
    with pytest.raises(TrainingError, match=r"fold_2.test\.npz is damaged or gone"):
        reproduce("glas", data, out, **TINY)

    monkeypatch.setattr("napari_sa2net.experiments.reproduce.fold.SAVE_SECONDS", 0.0)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 10

    parts, settings = tmp_path / "parts", TINY | {"epochs": 3}
    with pytest.raises(Cancelled):
        reproduce("glas", data, parts, cancelled=stop, **settings)
    last = parts / "fold_1" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"last\.ckpt is damaged. Delete that file"):
        reproduce("glas", data, parts, **settings)
    last.unlink()
    assert len(reproduce("glas", data, parts, **settings)["folds"]) == 2


@pytest.mark.parametrize("content", ["[]", "{", "3"])
def test_damaged_settings_say_so(data: Path, out: Path, content: str) -> None:
    (out / "settings.json").write_text(content)
    with pytest.raises(SettingsError, match=r"settings\.json is damaged. Choose another fol"):
        reproduce("glas", data, out, **TINY)


# --- report --------------------------------------------------------------------------------


def fold(n: int) -> dict:
    table = pd.DataFrame({"name": range(n), "dice": 0.5, "iou": 0.4}).to_dict("records")
    return {"fold": 1, "validation": table, "test": []}


def test_one_value_has_no_spread() -> None:
    recipe = RECIPES["acdc"]
    summary = summarise(recipe, [fold(1)], None)
    assert summary[0]["dice_sd"] is summary[0]["iou_sd"] is None
    assert table_rows(recipe, summary) == [
        ("validation volumes", "50.00", "40.00", "1 volumes")
    ]
    several = table_rows(recipe, summarise(recipe, [fold(3)], None))
    assert several[0][1:3] == ("50.00 ± 0.00", "40.00 ± 0.00")


@pytest.mark.parametrize("dataset", list(RECIPES))
def test_what_is_not_published_is_not_said_to_be(dataset: str) -> None:
    recipe = RECIPES[dataset]
    settings = {
        "base_channels": 64, "epochs": recipe.epochs, "batch_size": recipe.batch_size,
    }  # fmt: skip
    said = " ".join(notes(recipe, settings, 5 if recipe.cross_validated else 1, True))
    if dataset == "acdc":
        assert recipe.whose == "our reading of SA2-Net's recipe, after CASCADE"
        assert "chose the epoch, by our reading" in said
        for words in ("224×224", "four heads", "best validation Dice is kept", "CASCADE"):
            assert words in said
        return
    assert recipe.whose == "the published recipe of SA2-Net"
    for words in ("224×224 px,", "four heads", "Dice over all", "learning rate after"):
        assert words not in said, "published"
    if dataset in OURS:
        assert "chose the epoch, as published" in said
    else:
        assert "The last epoch was kept, as published" in said
        assert "keeps it by reference" in said
        assert "--keep best" in said


def test_title_and_card_say_whose_recipe_it_is(tmp_path: Path) -> None:
    root = make.isic2018(tmp_path / "data")
    reproduce("isic2018", root, tmp_path / "out", **TINY | {"folds": 1})
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    whose = "by the published recipe of SA2-Net"
    assert page.splitlines()[0] == f"# ISIC 2018, task 1, {whose}"
    card = open_model(tmp_path / "out" / "fold_1" / "model.safetensors").card
    assert card.description == f"Trained on ISIC 2018, task 1 {whose}"


def noted(recipe: Any, n_folds: int = FOLDS, has_test: bool = True, **settings: Any) -> str:
    given = {
        "base_channels": 64,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        **settings,
    }
    return " ".join(notes(recipe, given, n_folds, has_test, ["The data says this."]))


@pytest.mark.parametrize("dataset", list(DATASETS))
def test_what_has_to_be_known_of_a_run_is_said_and_nothing_else(dataset: str) -> None:
    recipe = recipe_of(dataset)
    said = noted(recipe)
    assert said.startswith("The data says this.")
    for words, other in (
        (
            "published network has 64 base channels, this one 16",
            noted(recipe, base_channels=16),
        ),
        (f"at most {recipe.epochs} epochs", noted(recipe, epochs=recipe.epochs - 1)),
        ("this run", noted(recipe, batch_size=recipe.batch_size + 1)),
        *(
            (words, noted(recipe_of(dataset, "ours")))
            for words in ("by our recipe", "Ours are all settings")
            if dataset in OURS
        ),
        ("no test images", noted(recipe, has_test=False)),
    ):
        assert words not in said
        assert words in other
    assert ("only 2 ran" in noted(recipe, n_folds=2)) == recipe.cross_validated
    assert "folds only" not in said
    other = replace(recipe, keeps="best" if recipe.keeps == "last" else "last")
    kept = f"kept the {other.keeps} epoch, where the recipe keeps the {recipe.keeps}"
    assert kept in noted(other)
    assert "This run kept" not in said
    assert ("Pixels of the nucleus" in said) == (recipe.nucleus_channel is not None)
    assert "Images had" not in said
    assert "Images had" in noted(replace(recipe, zoom=2))
