"""sa2net focal-study on a few synthetic nuclei."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_sa2net.cli.console import StepProgress
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.experiments.focal_study import scoring

QUICK = ("--base", 1, "--steps", 1, "--crop", 32, "--batch-size", 2, "--device", "cpu")
LOSS = ("--loss", "unified_focal", "--unified-focal.no-asymmetric", "--unified-focal.gamma")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for i in range(3):
        image, labels = synthetic_nuclei(shape=(40, 48), n=3, diameter=14, seed=i)
        for kind, array in (("images", image), ("labels", labels.astype(np.uint16))):
            path = tmp_path / "data" / kind / f"n{i}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, array)
    return tmp_path / "data"


def test_interrupted_and_gone_on_with_its_loss(run, data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "ROUNDS", 2)
    out = tmp_path / "out"
    said = ("focal-study", data, "-o", out, *QUICK, *LOSS)
    command = (*said, 0.3)
    show = StepProgress.step

    def press(self: StepProgress, done: int, total: int, what: str) -> None:
        show(self, done, total, what)
        if what.startswith("none, seed 0") and "loss" in what:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(StepProgress, "step", press)
        stopped = run(*command)
    assert stopped.code == 130
    assert "The same command goes on" in stopped.err
    assert len(json.loads((out / "study.json").read_text())["runs"]) == 3
    assert not list(out.rglob(".part-*"))

    result = run(*command)
    assert result.code == 0
    assert "learnable" in result.out
    assert "ratio to none" in result.out
    assert "report: " in result.out
    assert "all, seed 2 (3 of 3): Dice" in " ".join(result.err.split())
    assert "learnable, seed" not in result.err, "those were finished"
    study = run(*command, "--json").json()
    assert set(study["result"]["variants"]) == {"none", "all", "learnable", "chosen"}
    loss = study["settings"]["unified_focal"]
    assert (loss["gamma"], loss["asymmetric"], loss["delta"]) == (0.3, False, 0.6)
    page = (out / "study.md").read_text(encoding="utf-8")
    assert "sa2net" in page
    assert "loss unified_focal (weight 0.5, delta 0.6, gamma 0.3" in page
    other = run(*said, 0.4)
    assert other.code == 2
    assert "unified focal gamma 0.3, and this one has 0.4" in other.err


def test_mistakes_are_one_line(run, data, tmp_path) -> None:
    out = tmp_path / "out"
    for arguments, words in (
        ((data, "--kind", "fluo"), "no images of kind 'fluo'"),
        ((data, "--seeds", 2), "--seeds"),
        ((tmp_path / "nowhere",), "is not a folder"),
        ((data, "--device", "abacus"), "Unknown device"),
        ((data, "--preset", "huge"), "preset"),
        ((data, "--unified-focal.gamma", 0.3), "--unified-focal.gamma: only with --loss uni"),
        ((data, "--unified-focal.delta", 2), "--unified-focal.delta 2: input should be less"),
    ):
        result = run("focal-study", *arguments, "-o", out)
        assert result.code == 2
        assert words in result.err
        assert len(result.err.splitlines()) == 1
    assert not out.exists()
