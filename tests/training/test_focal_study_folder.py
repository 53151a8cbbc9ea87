"""A study's folder: what is damaged in it, and what is trained again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_sa2net.config import UnifiedFocalConfig
from napari_sa2net.data.synthetic import synthetic_nuclei
from napari_sa2net.errors import SettingsError
from napari_sa2net.training.focal_study.plan import StudySettings, settings_of
from napari_sa2net.training.focal_study.run import focal_study

SMALL = StudySettings(base_channels=1, steps=2, batch_size=2, crop=32, diameter=12)
INDEX = "split,name\ntrain,n0\ntrain,n1\ntest,n2\ntest,n3\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for i in range(4):
        image, labels = synthetic_nuclei((48, 56), n=4, diameter=12, seed=i)
        for kind, array in (("images", image), ("labels", labels.astype(np.uint16))):
            (folder / kind).mkdir(exist_ok=True)
            tifffile.imwrite(folder / kind / f"n{i}.tif", array)
    (folder / "index.csv").write_text(INDEX)
    return folder


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("studies") / "study"
    focal_study(folder, out, SMALL, device="cpu")
    return out


@pytest.fixture
def out(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def change(out: Path, how: Callable[[dict], object]) -> None:
    state = json.loads((out / "study.json").read_text(encoding="utf-8"))
    how(state)
    (out / "study.json").write_text(json.dumps(state), encoding="utf-8")


def go_on(folder: Path, out: Path, settings: StudySettings = SMALL) -> tuple[dict, set[str]]:
    """The study, and the trainings that it did."""
    whats: list[str] = []
    study = focal_study(
        folder, out, settings, device="cpu", on_progress=lambda *a: whats.append(a[2])
    )
    return study, {what.split(":")[0] for what in whats if "loss" in what or what == "timing"}


@pytest.mark.parametrize(
    "how",
    [
        lambda s: s.update(settings=[]),
        lambda s: s["settings"].update(steps="many"),
        lambda s: s.pop("images"),
        lambda s: s["images"].pop("digest"),
        lambda s: s.pop("runs"),
        lambda s: s["runs"].update(none_0=[]),
        lambda s: s["runs"]["learnable_0"].pop("gamma"),
        lambda s: s["runs"]["learnable_0"].update(gamma=None),
        lambda s: s["runs"]["all_1"].pop("scores"),
        lambda s: s["runs"]["all_1"]["scores"]["dice"].pop(),
        lambda s: s["runs"]["all_1"]["scores"]["matches"][0].pop(),
        lambda s: s["time"].pop("variants"),
        lambda s: s["time"]["variants"]["all"].pop("ratio"),
    ],
)
def test_a_damaged_study_says_so(folder, out, how) -> None:
    change(out, how)
    before = (out / "study.json").read_bytes()
    with pytest.raises(SettingsError, match=r"study\.json is damaged. Choose another folder"):
        focal_study(folder, out, SMALL, device="cpu")
    assert (out / "study.json").read_bytes() == before


@pytest.mark.parametrize("content", ["[]", "{", "null", '{"schema_version": 1}'])
def test_what_is_no_study_is_damaged(folder, out, content) -> None:
    (out / "study.json").write_text(content)
    with pytest.raises(SettingsError, match="is damaged"):
        focal_study(folder, out, SMALL, device="cpu")
    (out / "study.json").write_text('{"schema_version": 2}')
    with pytest.raises(SettingsError, match="of another version"):
        focal_study(folder, out, SMALL, device="cpu")


@pytest.mark.parametrize("timed", [True, False])
def test_a_training_whose_model_is_gone_is_done_again(folder, finished, out, timed) -> None:
    (out / "runs" / "learnable_0" / "model.safetensors").unlink()
    shutil.rmtree(out / "runs" / "none_2")
    if not timed:
        change(out, lambda s: (s.pop("time"), s.pop("result")))
    study, done = go_on(folder, out)
    assert done == {"learnable, seed 1 of 3", "none, seed 3 of 3", "timing"}
    for name in ("runs/learnable_0", "runs/none_2"):
        assert (out / name / "model.safetensors").is_file()
    before = json.loads((finished / "study.json").read_text(encoding="utf-8"))
    after = json.loads((out / "study.json").read_text(encoding="utf-8"))
    for key, run in before["runs"].items():
        assert after["runs"][key]["scores"] == run["scores"]
        assert after["runs"][key]["gamma"] == run["gamma"]
    assert study["result"]["kept"] == before["result"]["kept"]


def test_chosen_modules_are_trained_again_where_the_rule_keeps_others(folder, out) -> None:
    # As where a repeated training on another device ends with another γ.
    def other(state: dict) -> None:
        for seed in range(3):
            gamma = state["runs"][f"learnable_{seed}"]["gamma"]
            gamma.update(dict.fromkeys(gamma, 0.9) | {"psi4": 0.1, "se1": 0.1})

    change(out, other)
    study, done = go_on(folder, out)
    assert study["result"]["removed"] == ["psi4", "se1"]
    assert done == {f"chosen, seed {i} of 3" for i in (1, 2, 3)} | {"timing"}
    assert len(study["runs"]["chosen_0"]["gamma"]) == 6


def test_a_study_of_before_a_setting_goes_on_with_its_default(folder, out) -> None:
    change(out, lambda s: s["settings"].pop("unified_focal"))
    study, done = go_on(folder, out)
    assert not done
    assert study["settings"] == SMALL.model_dump(mode="json")


def test_parameters_of_the_loss_are_the_trainings(folder, out) -> None:
    loss = UnifiedFocalConfig(gamma=0.2, delta=0.7)
    settings = SMALL.model_copy(update={"loss": "unified_focal", "unified_focal": loss})
    assert settings.training(0).unified_focal == loss
    with pytest.raises(SettingsError, match="loss dice_ce, and this one has unified_focal"):
        focal_study(folder, out, settings, device="cpu")
    alone = SMALL.model_copy(update={"unified_focal": loss})
    with pytest.raises(SettingsError, match=r"unified focal delta 0\.6, and this one has 0\.7"):
        focal_study(folder, out, alone, device="cpu")
    with pytest.raises(SettingsError, match=r"--unified-focal\.gamma: .*less than 1"):
        settings_of(unified_focal={"gamma": 1})
