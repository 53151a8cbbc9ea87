"""Images, and running the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_sa2net import cli
from napari_sa2net.data import synthetic_nuclei


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models of a test stay in its own folder."""
    home = tmp_path / "home"
    monkeypatch.setenv("SA2NET_HOME", str(home))
    return home


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder with two grey images, a colour one and a damaged one."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        image, _ = synthetic_nuclei(shape=(64, 80), n=5, diameter=14, seed=seed)
        tifffile.imwrite(folder / f"{name}.tif", image)
    colour = np.random.default_rng(0).integers(0, 255, (48, 40, 3)).astype(np.uint8)
    tifffile.imwrite(folder / "colour.tif", colour, photometric="rgb")
    (folder / "bad.tif").write_bytes(b"not an image")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command line in this process: .code, .out, .err and .json()."""

    def call(*arguments: Any) -> SimpleNamespace:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, json=lambda: json.loads(out))

    return call
