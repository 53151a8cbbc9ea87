"""A study's folder: what is damaged in it, and what is trained again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from filelock import FileLock

from napari_sa2net.config import UnifiedFocalConfig
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.errors import Cancelled, SettingsError, TrainingError
from napari_sa2net.experiments.focal_study import run, scoring
from napari_sa2net.experiments.focal_study.plan import StudySettings, settings_of
from napari_sa2net.experiments.focal_study.run import focal_study

SMALL = StudySettings(base_channels=1, steps=2, batch_size=2, crop=32, diameter=12)
INDEX = "split,name\ntrain,n0\ntrain,n1\ntest,n2\ntest,n3\n"


def make_folder(folder: Path) -> Path:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(4):
        image, labels = synthetic_nuclei((48, 56), n=4, diameter=12, seed=i)
        tifffile.imwrite(folder / "images" / f"n{i}.tif", image)
        tifffile.imwrite(folder / "labels" / f"n{i}.tif", labels.astype(np.uint16))
    (folder / "index.csv").write_text(INDEX)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module", autouse=True)
def quickly_timed_and_not_drawn() -> Iterator[None]:
    """Nothing here is of times and of the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "ROUNDS", 2)
        patch.setattr(run, "write_report", lambda *_: None)
        yield


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


def test_a_folder_holds_one_study(finished, folder, tmp_path) -> None:
    out = finished
    before = (out / "study.json").read_bytes()
    with pytest.raises(SettingsError, match="study with steps 2, and this one has 3"):
        focal_study(folder, out, SMALL.model_copy(update={"steps": 3}), device="cpu")
    changed = make_folder(tmp_path / "data")
    tifffile.imwrite(changed / "labels" / "n1.tif", np.ones((48, 56), np.uint16))
    with pytest.raises(SettingsError, match="other images"):
        focal_study(changed, out, SMALL, device="cpu")
    with (
        FileLock(out / ".lock"),
        pytest.raises(SettingsError, match="Another process"),
    ):
        focal_study(folder, out, SMALL, device="cpu")
    assert (out / "study.json").read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="other files"):
        focal_study(folder, other, SMALL, device="cpu")
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "study.json").write_text("{")
    with pytest.raises(SettingsError, match="damaged"):
        focal_study(folder, damaged, SMALL, device="cpu")


def test_a_damaged_state_says_what_to_do(folder, tmp_path) -> None:
    out, seen = tmp_path / "out", []
    with pytest.raises(Cancelled):
        focal_study(
            folder, out, SMALL, device="cpu",
            on_progress=lambda *a: seen.append(a), cancelled=lambda: "loss" in seen[-1][2]
            if seen else False,
        )  # fmt: skip
    state = out / "runs" / "learnable_0" / "state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(TrainingError, match="Delete that file"):
        focal_study(folder, out, SMALL, device="cpu")


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
    assert done == {"learnable, seed 0 (1 of 3)", "none, seed 2 (3 of 3)", "timing"}
    for name in ("runs/learnable_0", "runs/none_2"):
        assert (out / name / "model.safetensors").is_file()
    before = json.loads((finished / "study.json").read_text(encoding="utf-8"))
    after = json.loads((out / "study.json").read_text(encoding="utf-8"))
    for key, one in before["runs"].items():
        assert after["runs"][key]["scores"] == one["scores"]
        assert after["runs"][key]["gamma"] == one["gamma"]
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
    assert done == {f"chosen, seed {i} ({i + 1} of 3)" for i in range(3)} | {"timing"}
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
