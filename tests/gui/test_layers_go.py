"""Layers that are deleted while the mouse works on them, in a real window with a real mouse."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.layers import Shapes
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QTabWidget

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets.dock import PAGES

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

pytestmark = [pytest.mark.timeout(600), pytest.mark.both_bindings]

WAYS: dict[str, Callable[[Any], Any]] = {
    "cells": lambda viewer: viewer.layers.remove("cells"),
    "image": lambda viewer: viewer.layers.remove("image"),
    "all": lambda viewer: viewer.layers.clear(),
    "selected": lambda viewer: viewer.layers.remove_selected(),
}


def page_of(dock: SA2NetDock, name: str) -> Any:
    """Show a page."""
    index = [page.name for page in PAGES].index(name)
    tabs = dock.findChild(QTabWidget)
    assert tabs is not None
    tabs.setCurrentIndex(index)
    return dock.pages[index]


def mouse(viewer: Any, kind: QEvent.Type, x: int, y: int) -> None:
    canvas = viewer.window._qt_viewer.canvas.native
    place = QPointF(canvas.width() / 2 + x, canvas.height() / 2 + y)
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
    held = none if kind == QEvent.Type.MouseButtonRelease else left
    button = none if kind == QEvent.Type.MouseMove else left
    where = canvas.mapToGlobal(place)
    keys = Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(canvas, QMouseEvent(kind, place, where, button, held, keys))


def begin(viewer: Any, qtbot: QtBot) -> None:
    """Press and move, without a release."""
    mouse(viewer, QEvent.Type.MouseButtonPress, -60, -20)
    for step in range(4):
        mouse(viewer, QEvent.Type.MouseMove, -60 + 20 * step, -20 + 10 * step)
        qtbot.wait(10)


def release(viewer: Any, qtbot: QtBot) -> None:
    mouse(viewer, QEvent.Type.MouseButtonRelease, 0, 10)
    qtbot.wait(60)


def test_layers_go_while_one_draws(open_dock: Callable[[], SA2NetDock], qtbot: QtBot) -> None:
    dock = open_dock()
    segment: Any = page_of(dock, "Segment")
    viewer = segment.port.viewer
    image, truth = synthetic_nuclei((120, 120), n=12, diameter=16, seed=0)

    def add() -> None:
        viewer.layers.clear()
        qtbot.wait(60)
        viewer.add_image(image, name="image")
        viewer.add_labels(truth.astype(np.int32), name="cells")

    def is_clean() -> None:
        qtbot.waitUntil(lambda: not any(isinstance(one, Shapes) for one in viewer.layers))
        for layer in viewer.layers:
            assert layer.mouse_pan
            assert str(layer.mode) == "pan_zoom"

    # a length is measured, and Segment pressed at once: the line is gone before napari draws
    add()
    segment.size_row.measure.click()
    begin(viewer, qtbot)
    release(viewer, qtbot)
    length = segment.session.predict.diameter
    assert length is not None
    assert length > 1
    is_clean()
    segment.size_row.measure.click()
    qtbot.wait(20)
    segment.button.click()
    qtbot.wait(60)
    assert not segment.hint.isVisible()
    segment.controller.cancel()
    is_clean()

    for way in ("image", "all", "selected"):
        add()
        segment.size_row.measure.click()
        begin(viewer, qtbot)
        WAYS[way](viewer)
        release(viewer, qtbot)
        assert not segment.size_row.measure.isChecked(), way
        is_clean()

    correct: Any = page_of(dock, "Correct")
    for way in ("cells", "all", "selected"):
        for tool in ("split", "box"):
            add()
            correct.bench.choose(tool)
            begin(viewer, qtbot)
            assert correct.bench.drawing is not None
            WAYS[way](viewer)
            release(viewer, qtbot)
            assert correct.bench.tool is None, (tool, way)
            is_clean()

    # software rendering goes on with a picture while napari deletes what it is drawn from
    for _ in range(4):
        add()
        correct.bench.choose("brush")
        begin(viewer, qtbot)
        release(viewer, qtbot)
        viewer.layers.remove("cells")
        qtbot.wait(60)
        mouse(viewer, QEvent.Type.MouseMove, 20, 0)
        qtbot.wait(60)
