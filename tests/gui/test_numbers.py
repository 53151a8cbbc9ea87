"""Plots of the table of cells: gates, filters and colours, in a real viewer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.measure import object_table
from napari_sa2net.widgets.napari_port.reviewed_layer import (
    FILTERED,
    LIT,
    PLAIN,
    SCALE,
    STEPS,
)

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

    OpenDock = Callable[[], SA2NetDock]

WAIT_MS = 60_000
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def opened(open_dock: OpenDock, qtbot: QtBot) -> tuple[Any, Any, Any]:
    """Workspace, cells and the plot beside their table."""
    dock = open_dock()
    workspace: Any = dock.workspace
    image, truth = synthetic_nuclei((200, 240), n=24, diameter=20, seed=0)
    viewer = workspace.port.viewer
    viewer.add_image(image, name="nuclei")
    cells = viewer.add_labels(truth.astype(np.int32), name="cells")
    workspace.measure_cells()
    qtbot.waitUntil(lambda: "solidity" in cells.features, timeout=WAIT_MS)
    viewer.window._qt_window.resize(1366, 768)
    viewer.window._qt_window.show()
    table = workspace.show_table()
    table.plot.click()
    numbers = table.numbers
    qtbot.waitUntil(lambda: numbers._plot is not None, timeout=WAIT_MS)
    return workspace, cells, table


def is_roomy(table: Any) -> bool:
    """Beside the plot the table shows some columns and rows, and what they are called."""
    view = table.view
    head, port = view.horizontalHeader(), view.viewport()
    ends = [
        head.sectionViewportPosition(i) + head.sectionSize(i)
        for i in range(table.model.columnCount())
    ]
    rows = port.height() / view.verticalHeader().defaultSectionSize()
    return sum(end <= port.width() for end in ends) >= 4 and rows >= 8


def drag(numbers: Any, *points: tuple[float, float]) -> None:
    """Draw over the plot with the left button, by values of its axes."""
    plot = numbers._plot
    QTest.qWait(100)  # the axes are as wide as the numbers at them only when these are drawn
    box, port = plot.getViewBox(), plot.viewport()
    at = [QPointF(plot.mapFromScene(box.mapViewToScene(QPointF(*point)))) for point in points]
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton

    def send(kind: QEvent.Type, where: QPointF, button: Any, held: Any) -> None:
        keys = Qt.KeyboardModifier.NoModifier
        event = QMouseEvent(kind, where, QPointF(port.mapToGlobal(where)), button, held, keys)
        QApplication.sendEvent(port, event)
        QTest.qWait(20)  # moves that follow each other faster are left out

    send(QEvent.Type.MouseButtonPress, at[0], left, left)
    for a, b in pairwise(at):
        for part in np.linspace(0, 1, 6)[1:]:
            send(QEvent.Type.MouseMove, a + (b - a) * float(part), none, left)
    send(QEvent.Type.MouseButtonRelease, at[-1], left, none)


def painted(numbers: Any, cells: Any, label: int) -> int:
    """What a cell is painted as; it must be the same all over."""
    values = np.unique(np.asarray(numbers.painted.layer.data)[np.asarray(cells.data) == label])
    assert values.size == 1
    return int(values[0])


def test_a_range_of_the_histogram_lights_up_cells(opened: Any, qtbot: QtBot) -> None:
    workspace, cells, table = opened
    numbers, viewer = table.numbers, workspace.port.viewer
    n_layers, colors = len(viewer.layers), cells.colormap
    assert numbers.across.currentText() == "area (px²)"
    features = cells.features
    middle = float(np.median(features["area_px"]))
    drag(numbers, (float(features["area_px"].min()) - 3, 1), (middle, 2))
    low, high = numbers.gate.limits
    want = features.loc[features["area_px"].between(low, high), "label"].tolist()
    assert 3 < len(want) < len(features) - 3

    def lit() -> bool:
        chosen = {
            table.model.label(i.row()) for i in table.view.selectionModel().selectedRows()
        }
        return chosen == set(want)

    qtbot.waitUntil(lit, timeout=WAIT_MS)
    assert numbers.line.text() == f"{len(want)} of {len(features)} cells"
    for label in features["label"]:
        assert painted(numbers, cells, label) == (LIT if label in want else PLAIN)
    assert is_roomy(table)
    # exact ends can be typed
    numbers.high.setValue(1e6)
    assert numbers.gate.limits == (pytest.approx(low, abs=1e-3), 1e6)
    numbers.clear.click()
    qtbot.waitUntil(lambda: not numbers.painted.layer.visible, timeout=WAIT_MS)
    table.plot.click()
    assert len(viewer.layers) == n_layers
    assert cells.colormap is colors


def test_a_box_and_a_lasso_in_the_scatter(opened: Any, qtbot: QtBot) -> None:
    _, cells, table = opened
    numbers = table.numbers
    numbers.across.setCurrentIndex(numbers.across.findData("area_px"))
    numbers.up.setCurrentIndex(numbers.up.findData("circularity"))
    qtbot.waitUntil(lambda: numbers._items["points"].isVisible(), timeout=WAIT_MS)
    x, y = cells.features["area_px"], cells.features["circularity"]
    assert len(numbers._items["points"].getData()[0]) == len(x)
    axis = numbers._plot.getAxis("left")
    assert axis.labelString().count("circularity") == 1
    assert axis.autoSIPrefixScale == 1  # 0.9, not 900 thousandths
    mid, side = float(x.median()), float(y.median())
    drag(numbers, (float(x.min()) - 1, float(y.min())), (mid, side))
    inside = numbers.inside()
    corner = numbers.gate.outline
    np.testing.assert_array_equal(
        inside,
        x.between(*sorted({*corner[:, 0]})) & y.between(*sorted({*corner[:, 1]})),
    )
    assert inside.any()
    numbers.lasso.setChecked(True)
    drag(numbers, (mid, float(y.max())), (float(x.max()), side), (mid, float(y.min())))
    assert len(numbers.gate.outline) > 5
    assert not (numbers.inside() & (x < mid - 5)).any()


def test_cells_are_coloured_by_a_column(opened: Any, qtbot: QtBot) -> None:
    _, cells, table = opened
    numbers = table.numbers
    numbers.across.setCurrentIndex(numbers.across.findData("mean_intensity"))
    numbers.color.setChecked(True)
    assert is_roomy(table)
    qtbot.waitUntil(lambda: numbers.painted.layer is not None, timeout=WAIT_MS)
    assert numbers.painted.layer.name == "cells by mean intensity"
    features = cells.features.sort_values("mean_intensity")
    steps = [painted(numbers, cells, label) for label in features["label"]]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (SCALE, SCALE + STEPS - 1)
    assert not numbers._bar.pixmap().isNull()
    # the cells themselves can be edited as ever, and the colours follow
    where = np.argwhere(np.asarray(cells.data) == features["label"].iloc[0])
    cells.fill(tuple(int(v) for v in where[0]), 0)
    y, x = where[0]
    qtbot.waitUntil(lambda: numbers.painted.layer.data[y, x] == 0, timeout=WAIT_MS)
    numbers.color.setChecked(False)
    qtbot.waitUntil(lambda: not numbers.painted.layer.visible, timeout=WAIT_MS)


def test_each_layer_has_filters_of_its_own(opened: Any, qtbot: QtBot) -> None:
    from napari_sa2net.widgets.numbers import range_of

    workspace, cells, table = opened
    numbers, viewer = table.numbers, workspace.port.viewer
    n, middle = len(cells.features), float(cells.features["area_px"].median())
    numbers.set_gate(range_of("area_px", middle, 1e6))
    numbers.keep.click()
    listed = table.model.rowCount()
    assert 0 < listed < n
    other = viewer.add_labels(np.array(cells.data), name="others")
    qtbot.waitUntil(lambda: table._layer is other and numbers._layer is other)
    assert (numbers.filters, table.only.isVisible()) == ([], False)
    viewer.layers.selection = {cells}
    qtbot.waitUntil(lambda: table.model.rowCount() == listed, timeout=WAIT_MS)
    assert table.only.text().startswith(f"Only the {listed} of {n}")


def test_filters_are_shown_and_taken_back_or_deleted_as_one_step(
    opened: Any, qtbot: QtBot
) -> None:
    from napari_sa2net.widgets.numbers import range_of

    workspace, cells, table = opened
    numbers, before = table.numbers, np.array(cells.data)
    features = cells.features
    middle = float(features["area_px"].median())
    numbers.set_gate(range_of("area_px", middle, 1e6))
    numbers.keep.click()
    numbers.set_gate(range_of("circularity", 0.0, float(features["circularity"].median())))
    numbers.drop.click()
    out = numbers.filtered()
    want = (features["area_px"] < middle) | (
        features["circularity"] <= features["circularity"].median()
    )
    np.testing.assert_array_equal(out, want)
    numbers._paint()
    for label, gone in zip(features["label"], out, strict=True):
        assert painted(numbers, cells, label) == (FILTERED if gone else PLAIN)
    np.testing.assert_array_equal(cells.data, before)  # only shown so far
    assert numbers.filter_line.text().startswith(
        f"{out.sum()} of {len(out)} cells filtered out"
    )
    numbers.back.click()
    np.testing.assert_array_equal(numbers.filtered(), features["area_px"] < middle)
    gone = features.loc[features["area_px"] < middle, "label"]
    numbers.delete.click()
    np.testing.assert_array_equal(cells.data, np.where(np.isin(before, gone), 0, before))
    assert numbers.filters == []
    correct = workspace.correct
    assert len(correct.session.history.done) == 1
    qtbot.waitUntil(lambda: len(cells.features) == len(features) - len(gone), timeout=WAIT_MS)
    numbers.undo.click()
    np.testing.assert_array_equal(cells.data, before)


def test_what_is_measured_is_chosen_beside_the_table(opened: Any, qtbot: QtBot) -> None:
    workspace, cells, table = opened
    assert not table.groups["intensity"].isChecked()
    table.groups["intensity"].trigger()
    table.groups["neighbours"].trigger()
    table.groups["shape"].trigger()

    def told() -> bool:
        names = set(cells.features)
        return {"std_ch0", "contact_px"} <= names and "solidity" not in names

    qtbot.waitUntil(told, timeout=WAIT_MS)
    image = workspace.port.viewer.layers["nuclei"].data

    def is_true() -> bool:
        groups = ("intensity", "neighbours")
        want = object_table(np.asarray(cells.data), image=image, groups=groups)
        names = ["std_ch0", "background_ch0", "neighbours", "contact_px", "contact_fraction"]
        return list(cells.features["label"]) == list(want["label"]) and all(
            np.allclose(cells.features[name], want[name], equal_nan=True) for name in names
        )

    assert is_true()
    known = {"channel 0: std", "contact (px)", "share of outline in contact"}
    assert known <= set(table.model.heads)
    at = table.model.heads.index("contact (px)")
    assert table.model.headerData(at, Qt.Orientation.Horizontal) == "contact\n(px)"
    # two cells more that touch: what is told of neighbours follows
    cells.data[150:160, 0:10], cells.data[150:160, 10:20] = 900, 901
    cells.refresh()
    qtbot.waitUntil(is_true, timeout=WAIT_MS)
    assert workspace.session.measure == ("intensity", "neighbours")
