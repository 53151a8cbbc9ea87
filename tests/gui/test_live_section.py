"""Learning while a person corrects, in a real viewer with a real engine."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from tests.gui.test_correct_page import drag, open_page  # noqa: F401

import napari_sa2net.app.live as live_module
from napari_sa2net.app.segment import settings_file
from napari_sa2net.config import LiveConfig
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets.napari_port.results import METADATA_KEY

pytestmark = pytest.mark.timeout(300)
WAIT_MS = 150_000
SHAPE = (200, 240)


class Silence:
    """How long the window did not answer, in processor time of its own thread (ms)."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = time.thread_time()
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(5)

    def _tick(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, 1000 * (now - self._last))
        self._last = now

    def stop(self) -> float:
        self._timer.stop()
        return self.longest


def test_correct_some_and_the_rest_follows(
    open_page: Any,  # noqa: F811
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "REST_S", 0.5)
    # so few steps say little of whether it helps
    monkeypatch.setattr(live_module, "JUDGES", 99)
    page = open_page()
    viewer = page.port.viewer
    image, truth = synthetic_nuclei(SHAPE, 30, seed=5)
    viewer.add_image(255 - image, name="dark cells")
    labels = np.where(np.arange(SHAPE[1]) < 150, truth, 0).astype(np.int32)
    cells = viewer.add_labels(labels, name="cells")
    section, live = page.learning, page.live
    live.config = LiveConfig(steps=10)
    page.session.predict = page.session.predict.model_copy(
        update={"rescale": False, "device": "cpu"}
    )
    assert not section.switch.isChecked()
    assert not section.words.text()
    section.switch.click()
    qtbot.waitUntil(lambda: section.words.text() == "Accept or correct 5 more cells.")
    qtbot.waitUntil(lambda: page.session.engine == "ready", timeout=WAIT_MS)
    for label in np.unique(labels[:, :120])[1:8].tolist():
        assert page.controller.accept(label)
        qtbot.wait(20)
    qtbot.wait(300)
    before = cells.data.copy()
    silence = Silence()
    qtbot.waitUntil(lambda: section.words.text().startswith("Wave 1: "), timeout=WAIT_MS)
    qtbot.wait(300)
    longest = silence.stop()
    assert (cells.data != before).any()
    for label in page.controller.session.corrections.marked():
        np.testing.assert_array_equal(cells.data == label, before == label)
    assert section.undo.isVisible()
    assert section.undo.toolTip().startswith("Undo wave 1 (")
    qtbot.waitUntil(lambda: (page.reviewed.layer.data == 5).any())
    note = cells.metadata[METADATA_KEY]["waves"]
    assert [one["wave"] for one in note] == [1]
    assert note[0]["live"]["cells"] >= 4
    assert json.loads(json.dumps(note)) == note
    section.undo.click()
    np.testing.assert_array_equal(cells.data, before)
    assert cells.metadata[METADATA_KEY]["waves"] == []
    qtbot.waitUntil(lambda: section.words.text() == "Wave 1 was taken back.")
    assert not section.undo.isVisible()
    section.switch.click()
    assert not live.state.on
    assert json.loads(settings_file().read_text())["live"] is False
    # of napari's own drawing some is in it, too
    assert longest < 60, longest
