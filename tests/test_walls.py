"""The walls between rooms, and that torch stays out of the window's process."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "lightning", "kornia", "torchmetrics")
WINDOW = ("napari", "qtpy", "magicgui", "PyQt5", "PyQt6", "PySide6")


@cache
def modules_after(statement: str) -> frozenset[str]:
    """Top-level names in sys.modules of a fresh Python after a statement."""
    script = f"import sys\n{statement}\nprint(' '.join(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return frozenset(run.stdout.split())


def test_import_contracts():
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as c; c()",
            "--no-cache",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


def test_the_package_itself_is_light():
    loaded = modules_after("import napari_sa2net")
    assert not loaded.intersection((*HEAVY, *WINDOW, "numpy", "pandas", "scipy", "skimage"))


#: Everything that napari's process imports, and what must be quick to import.
LIGHT = (
    "napari_sa2net.config",
    "napari_sa2net.errors",
    "napari_sa2net.data",
    "napari_sa2net.data.io",
    "napari_sa2net.data.listing",
    "napari_sa2net.data.plan",
    "napari_sa2net.data.samples",
    "napari_sa2net.edits",
    "napari_sa2net.data.corrections",
    "napari_sa2net.data.journal",
    "napari_sa2net.measure",
    "napari_sa2net.metrics",
    "napari_sa2net.quantities",
    "napari_sa2net.evaluation",
    "napari_sa2net.inference",
    "napari_sa2net.inference.instances",
    "napari_sa2net.inference.tiling",
    "napari_sa2net.models",
    "napari_sa2net.models.card",
    "napari_sa2net.models.registry",
    "napari_sa2net.engine.client",
    "napari_sa2net.engine.messages",
    "napari_sa2net.training.compare",
    "napari_sa2net.app.session",
    "napari_sa2net.app.segment",
    "napari_sa2net.cli",
)


def test_imports_without_torch_and_without_a_window():
    # One process for all: each step is checked, so the message names the first that fails.
    lines = [f"heavy = {{*{HEAVY!r}, *{WINDOW!r}}}"]
    for module in LIGHT:
        lines.append(f"import {module}")
        lines.append(
            f"assert not heavy & set(sys.modules), ({module!r}, heavy & set(sys.modules))"
        )
    loaded = modules_after("\n".join(lines))
    assert set(LIGHT) <= loaded


def test_widgets_import_without_torch():
    loaded = modules_after("import napari_sa2net.widgets.dock")
    assert not loaded.intersection(HEAVY)


def test_the_dock_opens_without_what_is_slow_to_load():
    """What only a run, a correction or a file of that kind needs is loaded with it."""
    loaded = modules_after("import napari_sa2net.widgets.dock")
    assert not loaded.intersection(("zarr", "scipy.ndimage"))


def test_the_engine_is_ready_without_what_trains():
    """Lightning takes longer to load than all that segmenting needs."""
    loaded = modules_after("import napari_sa2net.engine.service")
    assert "torch" in loaded
    assert not loaded.intersection(("lightning", "torchmetrics", "kornia"))
