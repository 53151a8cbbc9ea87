"""What napari's process loads, in a fresh one: never torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import json, sys, time
import napari
import numpy as np
from qtpy.QtWidgets import QApplication

viewer = napari.Viewer(show=False)
viewer.add_image(np.zeros((64, 64), np.uint8))
before = set(sys.modules)
start = time.process_time()
_, dock = viewer.window.add_plugin_dock_widget("napari-sa2net", "SA2-Net")
cpu = time.process_time() - start
session = dock.pages[0].session
end = time.monotonic() + 150
while session.info is None and time.monotonic() < end:
    QApplication.processEvents()
    time.sleep(0.01)
heavy = ("torch", "lightning", "kornia", "torchmetrics")
print(json.dumps({
    "ready": session.info is not None,
    "heavy": [name for name in heavy if name in sys.modules],
    "cpu": cpu,
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
    # processor time, so that a busy machine does not fail the test
    assert said["cpu"] < 1.0
