"""Cells as files of other programs, from napari's own dialog and from the table's menu."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import roifile
from qtpy.QtWidgets import QFileDialog

from napari_sa2net.app import saving
from napari_sa2net.app.saving import Placed
from napari_sa2net.data import read_cells, read_image
from napari_sa2net.data.formats import FORMATS
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets.numbers import range_of

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

    OpenDock = Callable[[], SA2NetDock]

WAIT_MS = 60_000
pytestmark = pytest.mark.timeout(300)


def test_napari_offers_every_format_of_labels(make_napari_viewer: Any) -> None:
    from napari.plugins import _npe2

    layer = make_napari_viewer().add_labels(np.ones((5, 5), np.int32))
    _, writers = _npe2.file_extensions_string_for_layers([layer])
    ours = [writer for writer in writers if writer.command.startswith("napari-sa2net.")]
    endings = {ending for writer in ours for ending in writer.filename_extensions}
    for one in FORMATS.values():
        assert one.ending.endswith(tuple(endings))
    assert len(ours) == len(FORMATS)


def test_save_selected_layers(make_napari_viewer: Any, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    labels = synthetic_nuclei((60, 80), n=6, diameter=14, seed=0)[1].astype(np.int32)
    layer = viewer.add_labels(labels, name="mine", scale=(0.5, 0.5), units=("um", "um"))
    viewer.layers.selection = {layer}
    plain = ("a.zip", "a.geojson", "a_seg.npy", "a.json", "a.csv", "a.sa2net")
    for name in ("a.ome.tif", "a.ome.zarr", *plain):
        to = str(tmp_path / name)
        (path,) = viewer.layers.save(to, selected=True, plugin="napari-sa2net")
        if name == "a.csv":
            assert "area (µm²)" in Path(path).read_text("utf-8-sig")
            continue
        assert np.array_equal(read_cells(path, labels.shape).labels, labels), name
        if name not in plain:
            assert read_image(path).pixel_size_um == 0.5


def test_image_and_labels_are_saved_as_one(make_napari_viewer: Any, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    image, labels = synthetic_nuclei((60, 80), n=6, diameter=14, seed=0)
    viewer.add_image(image, name="image", scale=(0.5, 0.5), units=("um", "um"))
    viewer.add_labels(labels.astype(np.int32), scale=(0.5, 0.5), units=("um", "um"))
    (path,) = viewer.layers.save(str(tmp_path / "both.ome.zarr"), plugin="napari-sa2net")
    assert np.array_equal(np.asarray(read_image(path).array), image)
    assert np.array_equal(read_cells(path).labels, labels)
    assert read_image(f"{path}/labels/cells").pixel_size_um == 0.5


@pytest.fixture
def table(open_dock: OpenDock, qtbot: QtBot) -> Any:
    """A table of measured cells that lie on a part of an image."""
    dock = open_dock()
    workspace: Any = dock.workspace
    viewer = workspace.port.viewer
    image, truth = synthetic_nuclei((120, 160), n=14, diameter=16, seed=0)
    viewer.add_image(image, name="slide", scale=(0.5, 0.5), units=("um", "um"))
    viewer.add_labels(
        truth[20:100, 40:140].astype(np.int32),
        name="part",
        scale=(0.5, 0.5),
        translate=(10, 20),
        units=("um", "um"),
    )
    dock.pages[0].result.measure.click()
    made = workspace.show_table()
    qtbot.waitUntil(lambda: made.model.rowCount() > 0, timeout=WAIT_MS)
    made.truth = np.zeros(truth.shape, np.int32)
    made.truth[20:100, 40:140] = truth[20:100, 40:140]
    made.session = workspace.session
    return made


def save(table: Any, key: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    table.saves[key].trigger()


def test_the_menu_saves_cells_where_they_lie_in_the_image(
    table: Any, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(table.saves) == set(FORMATS)
    for key, one in FORMATS.items():
        path = tmp_path / f"slide-{key}"
        save(table, key, path, monkeypatch)
        said = f"Saved slide-{key}{one.ending}: {table.model.rowCount()} cells"
        qtbot.waitUntil(lambda said=said: table.said.text() == said, timeout=WAIT_MS)
        if key == "csv":
            continue
        written = path.with_name(f"slide-{key}{one.ending}")
        assert np.array_equal(read_cells(written, table.truth.shape).labels, table.truth)
    content = json.loads((tmp_path / "slide-geojson.geojson").read_text("utf-8"))
    first = content["features"][0]["properties"]["measurements"]
    assert first["area (µm²)"] == (table.truth == first["label"]).sum() / 4
    assert "mean intensity" in first
    assert read_image(tmp_path / "slide-ome-zarr.ome.zarr").array.shape == table.truth.shape
    project = json.loads(
        (tmp_path / "slide-project.sa2net" / "project.json").read_text("utf-8")
    )
    assert project["image"]["name"] == "slide"
    assert len(roifile.roiread(tmp_path / "slide-imagej_rois.zip")) == table.model.rowCount()

    # of other cells nothing was saved
    layer, layers = table._layer, table._viewer.layers
    layers.selection.active = table._viewer.add_labels(table.truth, name="others")
    assert table.title.text().startswith("others")
    assert table.said.text() == table.said.toolTip() == ""
    layers.selection.active = layer
    assert table.said.text() == table.said.toolTip() == said


def test_what_is_said_makes_no_window_wider(
    table: Any, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the screen's edge would be the buttons of the page."""
    width = table.minimumSizeHint().width()
    save(table, "csv", tmp_path / f"{'long ' * 30}.csv", monkeypatch)
    qtbot.waitUntil(lambda: "long long" in table.said.text(), timeout=WAIT_MS)
    assert table.said.toolTip() == table.said.text()
    table._layer.name = "a long name " * 20
    qtbot.waitUntil(lambda: "long name" in table.title.text(), timeout=WAIT_MS)
    assert table.title.toolTip() == table.title.text()
    assert table.minimumSizeHint().width() <= width


def test_what_cannot_be_written_is_said(
    table: Any, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    save(table, "geojson", tmp_path / "file" / "a.geojson", monkeypatch)
    qtbot.waitUntil(lambda: table.session.error is not None, timeout=WAIT_MS)
    assert "cannot be written" in table.session.error.message
    assert table.said.text() == ""
    # nobody was asked whether this one may go
    (tmp_path / "a.geojson").write_text("mine")
    save(table, "geojson", tmp_path / "a", monkeypatch)
    assert "to replace it" in table.session.error.message
    assert (tmp_path / "a.geojson").read_text() == "mine"
    # the dialog was closed
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: ("", ""))
    before = list(tmp_path.iterdir())
    table.saves["coco"].trigger()
    assert list(tmp_path.iterdir()) == before


def test_what_a_filter_takes_out_is_in_no_file(
    table: Any, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, numbers = table._layer.features.copy(), table.numbers
    n, middle = len(features), float(features["area_um2"].median())
    large = features.loc[features["area_um2"] >= middle, "label"].tolist()
    assert 1 < len(large) < n
    assert not table.only.isVisible()
    table.plot.click()
    table.window().show()
    qtbot.waitUntil(numbers.isVisible, timeout=WAIT_MS)
    numbers.set_gate(range_of("area_um2", middle, 1e6))
    numbers.keep.click()
    assert table.model.rowCount() == len(large)
    assert table.title.text().endswith(f"{n - len(large)} filtered out")
    assert table.only.text().startswith(f"Only the {len(large)} of {n} cells")

    def saved(key: str, words: str) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}{FORMATS[key].ending}"
        save(table, key, path, monkeypatch)
        said = f"Saved {path.name}: {words}"
        qtbot.waitUntil(lambda: table.said.text() == said, timeout=WAIT_MS)
        return path

    def labels_in(path: Path) -> list[int]:
        lines = path.read_text("utf-8-sig").splitlines()[1:]
        return sorted(int(line.split(",")[0]) for line in lines)

    few = f"{len(large)} of {n} cells"
    assert labels_in(saved("csv", few)) == sorted(large)
    want = np.where(np.isin(table.truth, large), table.truth, 0)
    for key in ("ome-tiff", "geojson"):
        assert np.array_equal(read_cells(saved(key, few), want.shape).labels, want)
    # all of them, where that is chosen
    table.only.setChecked(False)
    assert len(labels_in(saved("csv", f"{n} cells"))) == n
    assert np.array_equal(
        read_cells(saved("ome-tiff", f"{n} cells"), want.shape).labels, table.truth
    )
    # and where the plot, which shows what is filtered out, is closed
    table.only.setChecked(True)
    table.plot.click()
    assert not table.only.isVisible()
    assert table.model.rowCount() == n
    assert len(labels_in(saved("csv", f"{n} cells"))) == n
    table.plot.click()
    qtbot.waitUntil(lambda: table.model.rowCount() == len(large), timeout=WAIT_MS)


def test_edits_while_large_ones_are_saved_are_said(
    table: Any, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, n = table._layer, table.model.rowCount()
    # small ones are copied before anything else happens
    save(table, "ome-tiff", tmp_path / "copied", monkeypatch)
    layer.paint((1, 1), 99)
    qtbot.waitUntil(
        lambda: table.said.text() == f"Saved copied.ome.tif: {n} cells", timeout=WAIT_MS
    )
    assert np.array_equal(read_cells(tmp_path / "copied.ome.tif").labels, table.truth)
    monkeypatch.setattr(saving, "COPIED", 0)
    save(table, "ome-tiff", tmp_path / "live", monkeypatch)
    layer.paint((1, 1), 98)
    qtbot.waitUntil(lambda: "save them again" in table.said.text(), timeout=WAIT_MS)
    qtbot.waitUntil(lambda: 98 in set(layer.features["label"]), timeout=WAIT_MS)
    save(table, "ome-tiff", tmp_path / "live.ome.tif", monkeypatch)
    said = f"Saved live.ome.tif: {table.model.rowCount()} cells"
    qtbot.waitUntil(lambda: table.said.text() == said, timeout=WAIT_MS)


@pytest.mark.parametrize("extra", [(), (0,)])
def test_labels_in_the_frame_of_their_image(extra: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (2, 10, 12))
    whole = np.zeros((4, 20, 30), int)
    whole[1:3, 5:15, 7:19] = labels
    placed = Placed(labels[None] if extra else labels, (1, 5, 7), whole.shape, extra)
    assert np.array_equal(np.asarray(placed), whole)
    for index in (
        (2,),
        (1, slice(3, 9)),
        (slice(0, 4), slice(0, 20, 2), slice(1, 30, 3)),
        (0, slice(None), slice(20, 30)),
        (slice(2, 9), slice(6, 7), slice(8, 100)),
    ):
        assert np.array_equal(placed[index], whole[index])
