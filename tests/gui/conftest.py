"""Fixtures of the window's tests: a home with one small model, and an open dock."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from napari_sa2net.widgets.dock import SA2NetDock


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a display where there is none (napari draws with OpenGL)."""
    if not sys.platform.startswith("linux"):
        return
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    mark = pytest.mark.skip(reason="needs a display; run under xvfb-run")
    for item in items:
        if "make_napari_viewer" in getattr(item, "fixturenames", ()):
            item.add_marker(mark)


@pytest.fixture
def home(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with the model ``tiny``, for this process and the engine's."""
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    shutil.copy(tiny_model, models / "tiny.safetensors")
    monkeypatch.setenv("SA2NET_HOME", str(models.parent))
    return models.parent


@pytest.fixture
def open_dock(home: Path, make_napari_viewer: Any) -> Iterator[Callable[[], SA2NetDock]]:
    """Opens the dock in a new viewer, with the model ``tiny``; closes it afterwards."""
    docks: list[SA2NetDock] = []

    def open_it() -> SA2NetDock:
        from napari_sa2net.widgets.dock import SA2NetDock

        viewer = make_napari_viewer()
        dock = SA2NetDock(viewer)
        viewer.window.add_dock_widget(dock, name="SA2-Net")
        assert dock.workspace is not None
        dock.workspace.controller.set_model("tiny")
        docks.append(dock)
        return dock

    yield open_it
    for dock in docks:
        dock.shut()
