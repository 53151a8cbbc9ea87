"""Count line, features and table of cells: real viewer, real engine, whatever changes them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.measure import object_table
from napari_sa2net.widgets.cell_table import CellModel, shown_columns, two_lines
from napari_sa2net.widgets.napari_port.reading import camera_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

    OpenDock = Callable[[], SA2NetDock]

WAIT_MS = 180_000
pytestmark = pytest.mark.timeout(600)


def is_true(layer: Labels, image: Any, text: str) -> bool:
    """Whether features and count line are those of the layer as it is."""
    want = object_table(np.asarray(layer.data), image=image)
    have = layer.features
    if list(have["label"]) != list(want["label"]) or not text.startswith(f"{len(want)} cell"):
        return False
    columns = ["area_px", "centroid_y", "centroid_x", "mean_intensity", "touches_border"]
    return all(np.allclose(have[name], want[name]) for name in columns)


def test_measurements_follow_the_cells(open_dock: OpenDock, qtbot: QtBot) -> None:
    """Brush, bucket, eraser, corrections, undo, redo and scripts; only changes are measured."""
    dock = open_dock()
    workspace: Any = dock.workspace
    viewer, page, session = workspace.port.viewer, dock.pages[0], workspace.session
    image = synthetic_nuclei((160, 200), n=12, diameter=20, seed=0)[0]
    viewer.add_image(image, name="nuclei")
    page.button.click()
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    cells = viewer.layers["nuclei cells"]
    text = page.result.summary.text

    def line() -> str:
        return str(text()).replace("\u00a0", " ")

    def settled() -> bool:
        return is_true(cells, image, line())

    assert settled()
    n = int(cells.data.max())
    cells.features = cells.features.assign(mine=[f"no {i}" for i in range(n)])
    measured = workspace.measurements.cells(str(cells.unique_id))

    def after(act: Callable[[], object], most: int) -> None:
        before = measured.n_measured
        act()
        qtbot.waitUntil(settled, timeout=WAIT_MS)
        assert measured.n_measured - before <= most
        # what a person wrote beside the cells stays with them
        for label, mine in zip(cells.features["label"], cells.features["mine"], strict=True):
            assert mine == f"no {label - 1}" or (label > n and pd.isna(mine))

    y, x = (int(v) for v in np.argwhere(cells.data == 3)[0])
    before = line()
    after(lambda: cells.fill((y, x), 0), 0)
    assert line() != before
    after(lambda: cells.paint((30, 40), n + 1), 6)
    after(lambda: cells.data_setitem((np.array([0, 1]), np.array([0, 0])), n + 2), 6)

    def script() -> None:
        cells.data[100:120, 100:130] = n + 3
        cells.refresh()

    after(script, 12)
    correct = workspace.correct
    label = int(cells.features["label"].iloc[0])
    y, x = (int(v) for v in np.argwhere(cells.data == label)[0])
    after(lambda: correct.delete((y, x)), 0)
    after(correct.undo, 1)
    after(correct.redo, 0)
    # napari's own undo writes without a word
    cells.paint((60, 60), n + 4)
    qtbot.waitUntil(settled, timeout=WAIT_MS)
    after(cells.undo, 6)

    def other() -> None:
        cells.data = np.where(cells.data == n + 3, 0, cells.data)

    after(other, 0)
    # the engine fills in what only the network can say
    qtbot.waitUntil(lambda: cells.features["confidence"].notna().all(), timeout=WAIT_MS)


def test_what_a_script_writes_into_cells_is_not_replaced(
    open_dock: OpenDock, qtbot: QtBot
) -> None:
    dock = open_dock()
    workspace: Any = dock.workspace
    viewer, page, session = workspace.port.viewer, dock.pages[0], workspace.session
    viewer.add_image(synthetic_nuclei((96, 128), n=8, diameter=16, seed=0)[0], name="nuclei")
    page.button.click()
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    cells = viewer.layers["nuclei cells"]
    # drawing it anew is no edit
    cells.contour = 2
    cells.refresh()
    qtbot.wait(50)
    assert not workspace.port.is_edited(cells)
    label = int(cells.data.max())
    cells.data[cells.data == label] = 0
    cells.refresh()
    qtbot.waitUntil(lambda: workspace.port.is_edited(cells))
    assert session.sliders == "edited"
    kept = cells.data.copy()
    page.button.click()
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    np.testing.assert_array_equal(cells.data, kept)
    assert len([layer for layer in viewer.layers if isinstance(layer, Labels)]) == 2


@pytest.mark.parametrize("refreshed", [True, False])
def test_what_a_script_writes_while_a_slider_moves_is_kept(
    open_dock: OpenDock, qtbot: QtBot, refreshed: bool
) -> None:
    dock = open_dock()
    workspace: Any = dock.workspace
    viewer, page, session = workspace.port.viewer, dock.pages[0], workspace.session
    image = synthetic_nuclei((96, 128), n=8, diameter=16, seed=0)[0]
    viewer.add_image(image, name="nuclei")
    page.button.click()
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    cells, spin = viewer.layers["nuclei cells"], page.result.foreground.spin

    def write(label: int) -> None:
        cells.data[2:12, 2:12] = label
        if refreshed:
            cells.refresh()

    # the answer of the first move is shown, and its table is still to come
    before = cells.data
    spin.setValue(0.6)
    qtbot.waitUntil(lambda: cells.data is not before, timeout=WAIT_MS)
    write(71)
    spin.setValue(0.3)
    qtbot.waitUntil(lambda: workspace.port.is_edited(cells), timeout=WAIT_MS)
    assert session.sliders == "edited"
    qtbot.waitUntil(
        lambda: is_true(cells, image, page.result.summary.text().replace("\u00a0", " ")),
        timeout=WAIT_MS,
    )
    assert (cells.data[2:12, 2:12] == 71).all()
    # in the same moment as a run that would take its place
    kept = cells.data.copy()
    page.button.click()
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    np.testing.assert_array_equal(cells.data, kept)
    newest = viewer.layers[-1]
    assert newest is not cells
    page.button.click()
    newest.data[2:12, 2:12] = 72
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    assert (newest.data[2:12, 2:12] == 72).all()
    assert len([layer for layer in viewer.layers if isinstance(layer, Labels)]) == 3


def test_any_labels_over_an_image_are_measured(open_dock: OpenDock, qtbot: QtBot) -> None:
    dock = open_dock()
    workspace: Any = dock.workspace
    viewer, page = workspace.port.viewer, dock.pages[0]
    image, truth = synthetic_nuclei((160, 200), n=12, diameter=20, seed=0)
    viewer.add_image(image, name="nuclei")
    mine = viewer.add_labels(truth.astype(np.int32), name="mine")
    assert "not measured" in page.result.summary.text().replace("\u00a0", " ")
    assert page.result.table.isHidden()
    assert list(mine.features.columns) == []
    page.result.measure.click()

    def line() -> str:
        text: str = page.result.summary.text().replace("\u00a0", " ")
        return text.removeprefix("“mine”: ")

    qtbot.waitUntil(lambda: "label" in mine.features.columns, timeout=WAIT_MS)
    assert is_true(mine, image, line())
    assert not page.result.table.isHidden()
    # neither a pixel size nor a network: no column without a value
    assert not {"area_um2", "confidence"} & set(mine.features.columns)
    mine.data[mine.data == 2] = 0
    mine.refresh()
    qtbot.waitUntil(lambda: is_true(mine, image, line()), timeout=WAIT_MS)
    # drawn by hand on a layer of ours: measured unasked
    workspace.cells.add_empty()
    drawn = viewer.layers[-1]
    assert "No cells found" in page.result.summary.text().replace("\u00a0", " ")
    drawn.paint((50, 50), 1)
    qtbot.waitUntil(lambda: len(drawn.features) == 1, timeout=WAIT_MS)
    assert drawn.features["area_px"][0] == np.count_nonzero(drawn.data)
    assert drawn.features["mean_intensity"][0] == pytest.approx(image[drawn.data > 0].mean())


def test_table_and_canvas_agree(
    open_dock: OpenDock, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = open_dock()
    workspace: Any = dock.workspace
    viewer, page = workspace.port.viewer, dock.pages[0]
    viewer.window._qt_window.resize(1366, 740)
    viewer.show()
    rng = np.random.default_rng(0)
    image = rng.random((3, 300, 300))
    viewer.add_image(image, name="stack", scale=(2, 0.5, 0.5), units=("um",) * 3)
    labels = np.zeros(image.shape, np.int32)
    for i in range(36):
        y, x = (i // 6) * 50 + 10, (i % 6) * 50 + 10
        labels[i % 3, y : y + 20 + i % 7, x : x + 20] = 3 * i + 4  # with gaps
    cells = viewer.add_labels(labels, name="mine", scale=(2, 0.5, 0.5), units=("um",) * 3)
    page.result.measure.click()
    qtbot.waitUntil(lambda: len(cells.features) == 36, timeout=WAIT_MS)
    page.result.table.click()
    table = workspace.show_table()
    view, model = table.view, table.model
    qtbot.waitUntil(lambda: view.viewport().height() > 150)
    assert view.viewport().height() / view.verticalHeader().defaultSectionSize() >= 8
    heads = [*model.heads]
    assert heads.count("label") == 1
    assert not {"index", "Index", "confidence"} & set(heads)
    assert {"area (px²)", "area (µm²)", "plane (from 0)", "y (px)"} <= set(heads)
    assert not {"volume (µm³)", "planes"} & set(heads)  # none goes on over planes

    # a row chooses its very cell, and brings its plane
    for row in (0, 7, 35):
        view.selectRow(row)
        label = int(model.index(row, 0).data())
        assert cells.selected_label == label
        assert label in cells.data[int(viewer.dims.current_step[0])]
    # also in another order, and out of view
    view.sortByColumn(heads.index("y (px)"), Qt.SortOrder.DescendingOrder)
    camera_of(viewer).zoom = 20
    camera_of(viewer).center = (0, 5, 5)
    view.selectRow(0)
    assert cells.selected_label == int(model.index(0, 0).data()) == 3 * 34 + 4
    at = np.argwhere(cells.data == cells.selected_label)
    assert camera_of(viewer).center[1:] == pytest.approx(at.mean(axis=0)[1:] / 2, abs=0.5)
    # in view the camera stays
    view.selectRow(1)
    view.selectRow(0)
    center = camera_of(viewer).center
    view.selectRow(1)
    view.selectRow(0)
    assert camera_of(viewer).center == center

    # a cell chooses its row; none where there is none
    cells.selected_label = 7
    assert int(model.index(view.currentIndex().row(), 0).data()) == 7
    cells.selected_label = 5
    assert not view.selectionModel().hasSelection()
    # and napari tells of the cell under the mouse what its row says
    status = cells._get_properties((2, 12, 60 + 0), world=False)
    label = int(cells.data[2, 12, 60])
    if label:
        area = int((cells.data == label).sum())
        assert any(f"area_px: {area}" in words for words in status)

    # an edit keeps place and choice
    cells.selected_label = 10
    cells.data[cells.data == 4] = 0
    cells.refresh()
    qtbot.waitUntil(lambda: model.rowCount() == 35, timeout=WAIT_MS)
    assert int(model.index(view.currentIndex().row(), 0).data()) == 10

    # the file is what is shown
    path = tmp_path / "cells.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    table.saves["csv"].trigger()
    qtbot.waitUntil(path.exists, timeout=WAIT_MS)
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    assert list(rows[0]) == heads
    assert {int(row["label"]) for row in rows} == set(np.unique(cells.data)) - {0}
    first = next(row for row in rows if row["label"] == "10")
    assert int(first["area (px²)"]) == np.count_nonzero(cells.data == 10)
    # planes are counted as in the table that the command line writes
    written = object_table(cells.data, stack_axes="Z").set_index("label")["z"]
    assert {int(row["label"]): int(row["plane (from 0)"]) for row in rows} == dict(written)

    # closed and opened again; the dock closed with it open
    viewer.window.remove_dock_widget(table)
    again = workspace.show_table()
    assert again is not table
    assert again.model.rowCount() == 35
    viewer.layers.selection.active = viewer.layers["stack"]
    viewer.window.remove_dock_widget(dock)
    cells.selected_label = 13


def test_what_a_table_shows() -> None:
    """Units in the heads, and the words of space and time."""
    labels = np.zeros((3, 20, 20), int)
    labels[0:2, 2:9, 2:9] = 1
    labels[2, 12:15, 12:15] = 2
    linked = object_table(labels, stack_axes="Z", pixel_size_um=1, z_step_um=2)
    heads = set(shown_columns(linked).values())
    assert {
        "volume (voxels)",
        "volume (µm³)",
        "planes",
        "z (planes)",
        "first plane (from 0)",
    } <= heads
    assert not {"area (px²)", "area (µm²)"} & heads
    # of both, what goes on over planes goes on in depth
    both = pd.DataFrame({"label": [1], "t": [0], "z": [1], "planes": [2]})
    assert shown_columns(both)["planes"] == "planes"
    assert shown_columns(both.drop(columns="z"))["planes"] == "time points"
    labels[1] = 0
    flat = set(shown_columns(object_table(labels, stack_axes="Z", pixel_size_um=1)).values())
    assert {"plane (from 0)", "area (µm²)"} <= flat
    assert not {"volume (voxels)", "planes", "z (planes)"} & flat
    time = set(shown_columns(object_table(labels, stack_axes="T")).values())
    assert "time point (from 0)" in time
    assert not any("plane" in head for head in time)


def test_heads_are_low_and_narrow() -> None:
    assert two_lines("label") == "label"
    assert two_lines("mean intensity") == "mean\nintensity"
    assert two_lines("largest diameter (Feret)") == "largest\ndiameter (Feret)"
    assert two_lines("share of outline in contact") == "share of outline\nin contact"


def test_order_of_rows() -> None:
    model = CellModel()
    model.set_features(
        pd.DataFrame({"label": [2, 5, 9], "area_px": [7, 3, 5], "mine": [np.nan, 1.0, 2.0]})
    )
    assert [model.label(i) for i in range(3)] == [2, 5, 9]
    model.sort(1)
    assert [model.label(i) for i in range(3)] == [5, 9, 2]
    model.sort(2, Qt.SortOrder.DescendingOrder)
    assert [model.label(i) for i in range(3)] == [9, 5, 2]  # without a value: last
    assert model.row(5) == 1
    assert model.row(4) == -1
    model.set_features(pd.DataFrame({"label": [1, 2], "mine": [3.0, 4.0]}))
    assert [model.label(i) for i in range(2)] == [2, 1]


def test_the_arrow_is_on_the_column_by_which_rows_are_sorted(
    open_dock: OpenDock, qtbot: QtBot
) -> None:
    """Also when the table becomes one of another kind; a chosen cell is outlined."""
    dock = open_dock()
    workspace: Any = dock.workspace
    viewer, session = workspace.port.viewer, workspace.session
    labels = np.zeros((3, 60, 60), np.int32)
    labels[:, 5:15, 5:15], labels[1, 30:50, 30:55], labels[2, 40:45, 5:9] = 1, 2, 3
    for name, data in (("flat", labels[1]), ("time", labels)):
        axes = {"axis_labels": ("t", "y", "x")} if data.ndim == 3 else {}
        image = viewer.add_image(data.astype(np.float32), name=name, **axes)
        cells = viewer.add_labels(data, name=f"{name} cells", **axes)
        workspace.measured.measure(cells)
        qtbot.waitUntil(lambda cells=cells: len(cells.features) > 0, timeout=WAIT_MS)  # type: ignore[misc]
    table = workspace.show_table()
    view, model, head = table.view, table.model, table.view.horizontalHeader()

    def heads() -> list[str]:
        return [*model.heads]

    viewer.layers.selection.active = viewer.layers["flat cells"]
    view.sortByColumn(heads().index("area (px²)"), Qt.SortOrder.DescendingOrder)
    assert [model.label(i) for i in range(2)] == [2, 1]
    viewer.layers.selection.active = cells
    assert "time point (from 0)" in heads()
    assert heads()[head.sortIndicatorSection()] == "area (px²)"
    assert head.sortIndicatorOrder() == Qt.SortOrder.DescendingOrder
    areas = [float(model.index(i, heads().index("area (px²)")).data()) for i in range(3)]
    assert areas == sorted(areas, reverse=True)
    # a time point is the number at napari's slider, which its tip says
    view.selectRow(model.row(3))
    at = heads().index("time point (from 0)")
    assert model.index(model.row(3), at).data() == "2"
    assert viewer.dims.current_step[0] == 2
    assert "begins with 0" in model.headerData(
        at, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole
    )

    # the chosen cell is marked in the picture, in its own planes, and where it is
    outline = table.chosen.layer
    assert outline in viewer.layers
    assert viewer.layers.selection.active is cells
    white = np.argwhere(np.asarray(outline.data) == 3)
    marked = {
        int(
            cells.data[
                tuple(np.round(cells.world_to_data(outline.data_to_world(p))).astype(int))
            ]
        )
        for p in white
    }
    assert marked == {3}
    view.selectRow(model.row(1))
    assert table.chosen.label == 1
    assert np.asarray(table.chosen.layer.data).shape == (3, 12, 12)
    cells.selected_label = 2  # by other means, as a brush takes one up
    assert table.chosen.label == 0
    view.selectRow(model.row(3))
    cells.data[cells.data == 3] = 0
    cells.refresh()
    qtbot.waitUntil(lambda: model.rowCount() == 2, timeout=WAIT_MS)
    assert table.chosen.label == 0
    assert "chosen cell" not in viewer.layers

    # without its layer there is nothing left to see, or to save
    view.selectRow(0)
    viewer.layers.remove(cells)
    assert "flat cells" in table.title.text() or "No cells over time" in table.title.text()
    viewer.layers.remove(viewer.layers["flat cells"])
    assert model.rowCount() == 0
    assert table.title.text().startswith(f"No cells over {session.image.name}")
    assert not table.save.isEnabled()
    assert "chosen cell" not in viewer.layers
    viewer.layers.clear()
    assert table.title.text().startswith("No cells. Open an image")
    assert image not in viewer.layers


def test_the_table_is_of_the_image_that_is_chosen(open_dock: OpenDock, qtbot: QtBot) -> None:
    """Pictures of one camera are of one shape, at one place; each has its own cells."""
    dock = open_dock()
    workspace: Any = dock.workspace
    viewer, page, session = workspace.port.viewer, dock.pages[0], workspace.session
    first = viewer.add_image(synthetic_nuclei((160, 200), n=12, seed=0)[0], name="first")
    page.button.click()
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    table = workspace.show_table()
    assert table.title.text().startswith("first cells: ")
    rows = table.model.rowCount()
    assert rows > 0
    viewer.layers.selection.active = viewer.layers["first cells"]
    other = synthetic_nuclei((160, 200), n=12, seed=1)[0]
    second = viewer.add_image(other, name="second")
    assert table.title.text().startswith("No cells over second")
    assert table.model.rowCount() == 0
    assert not table.save.isEnabled()
    # chosen on a page, while a layer of cells is selected
    viewer.layers.selection.active = viewer.layers["first cells"]
    assert table.model.rowCount() == rows
    workspace.port.choose(str(second.unique_id))
    assert table.title.text().startswith("No cells over second")
    workspace.port.choose(str(first.unique_id))
    assert table.title.text().startswith("first cells: ")
    # a channel that is seen with it is of the same cells
    second.blending = "additive"
    workspace.port.choose(str(second.unique_id))
    assert table.title.text().startswith("first cells: ")
