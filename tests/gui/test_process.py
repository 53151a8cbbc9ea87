"""What napari's process loads, in a fresh one: never torch, and little to open the dock."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from napari_sa2net.widgets import workspace

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import json, sys, time
import napari
import napari.layers
import numpy as np
from qtpy.QtWidgets import QApplication

viewer = napari.Viewer(show=False)
before = set(sys.modules)
_, dock = viewer.window.add_plugin_dock_widget("napari-sa2net", "SA2-Net")
QApplication.processEvents()
opening = sorted(set(sys.modules) - before)
session = dock.pages[0].session
end = time.monotonic() + 150
while session.info is None and time.monotonic() < end:
    QApplication.processEvents()
    time.sleep(0.01)
heavy = ("torch", "lightning", "kornia", "torchmetrics")
print(json.dumps({
    "ready": session.info is not None,
    "heavy": [name for name in heavy if name in sys.modules],
    "opening": opening,
}))
viewer.close()
"""


@pytest.mark.timeout(300)
def test_torch_stays_out_of_the_window(home: Path) -> None:
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        pytest.skip("needs a display; run under xvfb-run")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "NAPARI_CONFIG": ""},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["ready"]
    assert said["heavy"] == []
    # what takes long to open is what is loaded for it
    ours = [name for name in said["opening"] if name.startswith("napari_sa2net.")]
    assert "napari_sa2net.widgets.segment" in ours
    others = (
        "correct_page",
        "correct_session",
        "correct_engine",
        "learn_page",
        "learn_run",
        "see_why",
        "models_page",
        "explain_h",
    )
    assert [name for name in ours if any(part in name for part in others)] == []
    assert [name for name in ours if name.startswith("napari_sa2net.edits")] == []
    slow = {"scipy.ndimage", "skimage", "pyqtgraph", "matplotlib", "zarr", "tifffile"}
    assert slow.isdisjoint(said["opening"])


def test_garbage_is_sought_after_the_imports_and_not_in_a_run(
    open_dock, monkeypatch, tmp_path, qtbot
) -> None:
    (tmp_path / "late_part.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(workspace, "PRELOADED", ("late_part",))
    monkeypatch.setattr(workspace, "PRELOAD_MS", 0)
    sought = []

    def note(phase, info):
        if phase == "stop" and info["generation"] == 2:
            here = threading.current_thread() is threading.main_thread()
            sought.append(("late_part" in sys.modules, here))

    gc.callbacks.append(note)
    try:
        open_dock()
        # Qt's objects may only be taken away in the thread of the window
        qtbot.waitUntil(lambda: (True, True) in sought)
    finally:
        gc.callbacks.remove(note)
        sys.modules.pop("late_part", None)
