"""sa2net reproduce on tiny look-alikes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "make_layouts", Path(__file__).parent.parent / "experiments" / "make_layouts.py"
)
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("prepare", "fold"):
        monkeypatch.setattr(f"napari_sa2net.experiments.reproduce.{module}.SIZE", 32)


def test_table_stands_beside_the_published_figures(run, tmp_path) -> None:
    root = make.folders(tmp_path / "data", {"Train_Folder": 5, "Test_Folder": 1})
    out = tmp_path / "out"
    command = ("reproduce", "monuseg", "--data", root, "-o", out, "--base-channels", 1)
    options = ("--folds", 1, "--epochs", 1, "--device", "cpu")
    result = run(*command, *options)
    assert result.code == 0
    assert "test images" in result.out
    assert "82.27" in result.out
    assert "69.99" in result.out
    assert "mean over folds could not be verified" in result.err
    assert (out / "report.md").is_file()
    report = run(*command, *options, "--json").json()
    assert report["dataset"] == "monuseg"
    assert len(report["folds"]) == 1


def test_mistakes_are_one_line(run, tmp_path) -> None:
    root = make.glas(tmp_path / "data")
    next(root.rglob("train_1_anno.bmp")).unlink()
    result = run("reproduce", "glas", "--data", root, "-o", tmp_path / "out")
    assert result.code == 2
    assert "train_1_anno.bmp is missing" in result.err
    assert len(result.err.splitlines()) == 1
    assert run("reproduce", "imagenet", "--data", root, "-o", tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()
