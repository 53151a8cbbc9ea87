"""The training set on the Learn page: shown, removed, brought back, taken in, copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.layers import Image, Labels
from qtpy.QtWidgets import QFileDialog, QTabWidget

from napari_sa2net.data.commit import Commit, is_training_set
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.formats import write_cells
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets.napari_port.reading import camera_of

pytestmark = pytest.mark.timeout(120)
WAIT_MS = 60_000
BOX = (40, 136, 30, 134)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def keep(folder: Path, n: int = 3) -> TrainingSet:
    """Whole images, and as the last one a crop with a pixel size."""
    training_set = TrainingSet.open(folder, create=True)
    for i in range(n):
        image, labels = synthetic_nuclei((96, 104), n=8, diameter=22, seed=50 + i)
        crop: dict[str, Any] = {"box": BOX, "pixel_size_um": 0.5} if i == n - 1 else {}
        reviewed = np.ones(labels.shape, bool)
        reviewed[:, 60:] = False
        training_set.commit(
            Commit(image, labels, reviewed, source=f"slide {i}", fingerprint=str(i), **crop)
        )
    return training_set


def open_page(dock: Any, name: str, qtbot: Any) -> Any:
    tabs = dock.findChild(QTabWidget)
    index = next(i for i in range(tabs.count()) if tabs.tabText(i) == name)
    dock.window().show()
    tabs.setCurrentIndex(index)
    page = dock.pages[index]
    qtbot.waitUntil(page.isVisible)
    return page


def learn_page(dock: Any, qtbot: Any, n: int) -> Any:
    page = open_page(dock, "Learn", qtbot)
    wait(qtbot, lambda: page.state.summary is not None and page.set.list.count() == n)
    return page


def wait(qtbot: Any, condition: Callable[[], object]) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=WAIT_MS)


def choose(page: Any, *rows: int) -> None:
    page.set.list.clearSelection()
    for row in rows:
        page.set.list.item(row).setSelected(True)


def test_shown_corrected_again_and_kept_in_its_place(
    open_dock: Any, home: Path, qtbot: Any
) -> None:
    training_set = keep(home / "corrections")
    dock = open_dock()
    viewer = dock._viewer
    mine = viewer.add_image(np.zeros((96, 104), np.uint8), name="mine")
    page = learn_page(dock, qtbot, 3)
    actions = page.set.buttons
    assert not actions.open.isEnabled()
    assert not actions.remove.isEnabled()
    choose(page, 0)
    camera = (camera_of(viewer).zoom, camera_of(viewer).center)
    actions.open.click()
    wait(qtbot, lambda: len(viewer.layers) == 3 and not page.state.set_busy)
    image, cells = viewer.layers[1:]
    record = training_set.commits()[-1]
    data = training_set.load(record.id)
    assert isinstance(image, Image)
    assert isinstance(cells, Labels)
    assert (image.name, cells.name) == ("slide 2", "slide 2 cells")
    np.testing.assert_array_equal(image.data, data.image)
    np.testing.assert_array_equal(cells.data, data.labels)
    for layer in (image, cells):
        np.testing.assert_allclose(layer.scale, (0.5, 0.5))
        np.testing.assert_allclose(layer.translate, (20, 15))
        assert all("micro" in str(unit) for unit in layer.units)
    # nothing is stolen
    assert viewer.layers.selection.active is mine
    assert dock.workspace.port.current is mine
    assert not dock.workspace.port.pinned
    assert (camera_of(viewer).zoom, camera_of(viewer).center) == camera
    # nor opened twice
    actions.open.click()
    wait(qtbot, lambda: not page.state.set_busy)
    assert len(viewer.layers) == 3

    correct = open_page(dock, "Correct", qtbot)
    dock.workspace.cells.choose(_key(cells))
    assert correct.state.cells.image.name == "slide 2"
    victim = int(cells.data[:, :40][cells.data[:, :40] > 0][0])
    y, x = (int(v[0]) for v in np.nonzero(cells.data == victim))
    assert dock.workspace.correct.delete(point=(y, x))
    future = dock.workspace.correct.keeping.keep()
    assert future is not None
    wait(qtbot, future.done)
    (kept,) = future.result()
    assert kept.place == record.place
    assert kept.source.name == "slide 2"
    active = training_set.commits()
    assert len(active) == 3
    assert record.id not in [one.id for one in active]
    again = training_set.load(kept.id)
    assert (again.labels == 0)[data.labels == victim].all()
    # what was reviewed before stays so
    assert again.reviewed[data.reviewed].all()


def _key(layer: Any) -> str:
    from napari_sa2net.widgets.napari_port.reading import layer_key

    return layer_key(layer)


def test_cells_keep_to_their_own_image(open_dock: Any, home: Path, qtbot: Any) -> None:
    """Two images of one size lie on each other: neither takes the cells of the other."""
    keep(home / "corrections")
    dock = open_dock()
    page = learn_page(dock, qtbot, 3)
    choose(page, 1, 2)
    page.set.buttons.open.click()
    wait(qtbot, lambda: len(dock._viewer.layers) == 4)
    cells = dock.workspace.cells
    names = [layer.name for layer in dock._viewer.layers]
    assert names == ["slide 1", "slide 1 cells", "slide 0", "slide 0 cells"]
    for name in ("slide 0", "slide 1"):
        cells.choose(_key(dock._viewer.layers[f"{name} cells"]))
        assert cells.source().image.name == name
        assert cells.source().kept.name == name


def test_all_channels_of_a_kept_image_are_kept_anew(
    open_dock: Any, home: Path, qtbot: Any
) -> None:
    training_set = TrainingSet.open(home / "corrections", create=True)
    grey, labels = synthetic_nuclei((96, 104), n=8, diameter=22, seed=5)
    image = np.stack([grey, 255 - grey])
    place = {"fingerprint": "two", "index": (3,), "group": "dish 1", "split": "val"}
    record = training_set.commit(Commit(image, labels, source="two", axes="CYX", **place))
    dock = open_dock()
    page = learn_page(dock, qtbot, 1)
    choose(page, 0)
    page.set.buttons.open.click()
    wait(qtbot, lambda: len(dock._viewer.layers) == 2)
    layer = dock._viewer.layers["two"]
    assert layer.ndim == 3
    assert layer.axis_labels == ("c", "y", "x")
    # and segmented again as they were
    assert dock.workspace.port.channels_of(layer) == (0, 1)
    dock.workspace.cells.choose(_key(dock._viewer.layers["two cells"]))
    correct = dock.workspace.correct
    assert correct.accept(int(labels.max()))
    future = correct.keeping.keep()
    wait(qtbot, future.done)
    (kept,) = future.result()
    assert kept.place == record.place
    assert (kept.axes, kept.group, kept.split) == ("CYX", "dish 1", "val")
    np.testing.assert_array_equal(training_set.load(kept.id).image, image)


def test_doubt_about_the_outlines_is_said_where_they_are_corrected(
    open_dock: Any, home: Path, qtbot: Any
) -> None:
    """They may be in µm, so that all cells lie in a corner of the image."""
    folder = home / "corrections"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    image, labels = synthetic_nuclei((80, 80), n=6, diameter=14, seed=1)
    labels[40:] = labels[:, 40:] = 0
    labels[30:40, 30:40] = labels.max() + 1
    tifffile.imwrite(
        folder / "images" / "a.tif",
        image,
        imagej=True,
        resolution=(2.0, 2.0),
        metadata={"unit": "um"},
    )
    write_cells(folder / "labels" / "a.geojson", labels, "geojson")
    dock = open_dock()
    viewer = dock._viewer
    page = learn_page(dock, qtbot, 1)
    choose(page, 0)
    page.set.buttons.open.click()
    wait(qtbot, lambda: any(isinstance(layer, Labels) for layer in viewer.layers))
    correct = open_page(dock, "Correct", qtbot)
    wait(qtbot, lambda: correct.state.cells is not None)
    assert correct.notes.isVisible()
    assert correct.notes.text().startswith("The outlines end where the image would in µm")
    assert correct.notes.text().endswith("divide their coordinates by 0.5.")
    viewer.add_labels(labels, name="others")
    viewer.layers.selection.active = viewer.layers["others"]
    wait(qtbot, lambda: correct.state.cells.name == "others")
    assert not correct.notes.isVisible()


def test_removed_and_undone(open_dock: Any, home: Path, qtbot: Any) -> None:
    training_set = keep(home / "corrections")
    ids = [record.id for record in training_set.commits()]
    page = learn_page(open_dock(), qtbot, 3)
    actions = page.set.buttons
    assert actions.undo.isHidden()
    choose(page, 0, 2)
    actions.remove.click()
    wait(qtbot, lambda: page.set.list.count() == 1)
    assert [r.id for r in training_set.commits()] == [ids[1]]
    assert [r.id for r in training_set.commits("removed")] == [ids[0], ids[2]]
    assert "2 images" in actions.said.text()
    assert not actions.undo.isHidden()
    actions.undo.click()
    wait(qtbot, lambda: page.set.list.count() == 3)
    assert [r.id for r in training_set.commits()] == ids
    assert actions.undo.isHidden()
    # one that another window has removed: nothing is half done
    choose(page, 0, 1)
    training_set.remove(ids[1])
    actions.remove.click()
    wait(qtbot, lambda: page.state.error is not None)
    assert "trash already" in page.error.message.text()
    assert {r.id for r in training_set.commits()} == {ids[0], ids[2]}


def test_given_away_and_taken_in(
    open_dock: Any, home: Path, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(open_dock(), "Learn", qtbot)
    wait(qtbot, lambda: page.state.summary is not None)
    actions = page.set.buttons
    assert actions.open.isHidden()
    assert actions.copy.isHidden()
    # an empty set begins with images of elsewhere
    plain = tmp_path / "elsewhere ü"
    for i in range(2):
        image, labels = synthetic_nuclei((96, 104), n=8, diameter=22, seed=i)
        for kind, values in (("images", image), ("labels", labels)):
            (plain / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(plain / kind / f"{i}.tif", values)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(plain))
    # what is refused can be mended here
    for wrong, words in (
        (labels + 1, "Background must have the number 0. Or open this image and its labels"),
        (np.minimum(labels, 1), "Count Masks. Or open this image and its labels"),
    ):
        tifffile.imwrite(plain / "labels" / "1.tif", wrong)
        actions.take_in.menu().actions()[0].trigger()
        wait(qtbot, lambda words=words: words in str(page.state.error))
        assert page.set.list.count() == 0
    # the second has pairs of cells under one number
    tifffile.imwrite(plain / "labels" / "1.tif", (labels + 1) // 2)
    actions.take_in.menu().actions()[0].trigger()
    wait(qtbot, lambda: page.set.list.count() == 2)
    said = actions.said.text()
    assert said.startswith("Imported 2 images from elsewhere ü. 1: 4 of 4 numbers stand in")
    assert "several cells under one number are left out" in said
    # out to a zip file whose ending nobody typed, and in again from there
    asked = str(tmp_path / "copy"), "Zip file (*.zip)"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: asked)
    actions.copy.click()
    wait(qtbot, lambda: "Copied" in actions.said.text())
    archive = tmp_path / "copy.zip"
    assert archive.is_file()
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(archive), ""))
    actions.take_in.menu().actions()[1].trigger()
    wait(qtbot, lambda: "is here already" in actions.said.text())
    # or to a folder
    asked = str(tmp_path / "copy"), "New folder (*)"
    actions.copy.click()
    wait(qtbot, lambda: is_training_set(tmp_path / "copy"))

    # a folder that no list of ours belongs to is left as it is, but looked at
    page.controller.set_folder(plain)
    wait(qtbot, lambda: page.state.summary and page.state.summary.folder == plain)
    choose(page, 0)
    assert actions.open.isEnabled()
    for button in (actions.remove, actions.take_in, actions.copy):
        assert not button.isEnabled()
        assert "yours" in button.toolTip()
    actions.open.click()
    viewer = page._workspace.port.viewer
    wait(qtbot, lambda: len(viewer.layers) == 2)
    assert viewer.layers[0].name == "0"
    assert page.minimumSizeHint().width() <= 341


def test_an_import_asks_which_channels_show_the_cells(
    open_dock: Any, home: Path, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files that do not say what their axes are, the axes as well."""
    plain = tmp_path / "two dyes"
    for i in range(2):
        image, labels = synthetic_nuclei((96, 104), n=8, diameter=22, seed=i)
        stack = np.stack([np.zeros_like(image), image // 2, image])
        for kind, values in (("images", stack), ("labels", labels)):
            (plain / kind).mkdir(parents=True, exist_ok=True)
            np.save(plain / kind / f"{i}.npy", values)
    page = open_page(open_dock(), "Learn", qtbot)
    wait(qtbot, lambda: page.state.summary is not None)
    actions = page.set.buttons
    ask = actions.question
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(plain))
    actions.take_in.menu().actions()[0].trigger()
    wait(qtbot, lambda: not ask.isHidden())
    assert [ask.axes.itemData(i) for i in range(ask.axes.count())] == ["CYX", "YXC"]
    assert "have 3 channels" in ask.words.text()
    ask.drop.click()
    assert ask.isHidden()
    assert not (home / "corrections").exists()
    actions.take_in.menu().actions()[0].trigger()
    wait(qtbot, lambda: not ask.isHidden())
    assert page.minimumSizeHint().width() <= 341
    for tick in (2, 0):
        ask.channels.menu().actions()[tick].trigger()
    assert ask.channels.value() == (2,)
    ask.take_in.click()
    wait(qtbot, lambda: page.set.list.count() == 2)
    assert ask.isHidden()
    assert "Imported 2 images" in actions.said.text()
    training_set = TrainingSet.open(home / "corrections")
    for record in training_set.commits():
        stack = np.load(plain / "images" / f"{record.source.name}.npy")
        np.testing.assert_array_equal(training_set.load(record.id).image, stack[2])
    # A folder that is learned from as it lies says which channel that is.
    for i in range(2):
        path = plain / "images" / f"{i}.npy"
        tifffile.imwrite(
            path.with_suffix(".tif"),
            np.load(path),
            metadata={"axes": "CYX"},
            photometric="minisblack",
        )
        path.unlink()
    page.controller.set_folder(plain)
    wait(qtbot, lambda: "channel 0 is learned from" in page.set.division.text())
