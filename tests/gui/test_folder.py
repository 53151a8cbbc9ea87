"""A folder of images in a real viewer: opened, segmented, corrected, left and opened again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QTabWidget

from napari_sa2net.data import read_image, synthetic_nuclei
from napari_sa2net.data.results import CORRECTED
from napari_sa2net.widgets.folder import STATE

if TYPE_CHECKING:
    from napari_sa2net.widgets.dock import SA2NetDock

pytestmark = pytest.mark.timeout(300)
WAIT_MS = 120_000


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "plate 3"
    folder.mkdir()
    for i in range(3):
        image, _ = synthetic_nuclei((96, 96 + 16 * (i == 2)), 5, seed=i)
        tifffile.imwrite(
            folder / f"w{i}.tif",
            image,
            imagej=True,
            resolution=(2, 2),
            metadata={"unit": "um"},
        )
    (folder / "w9.tif").write_bytes(b"II*\0 no image")
    return folder


class Person:
    """Opens the folder, looks at the list, presses buttons."""

    def __init__(self, dock: SA2NetDock, qtbot: Any, folder: Path) -> None:
        self.qtbot, self.viewer = qtbot, dock._viewer
        assert dock.workspace is not None
        self.workspace = dock.workspace
        dock.window().show()
        self.page: Any = dock.pages[0]
        self.section = self.page.with_folder()
        self.controller = self.workspace.folder
        self.state = self.controller.state
        self.controller.open_folder(folder)
        self.wait(lambda: self.state.folder is not None)

    def wait(self, condition: Callable[[], Any]) -> None:
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=WAIT_MS)

    def rows(self) -> list[str]:
        model = self.section.list.model()
        return [str(model.index(row).data(STATE)) for row in range(model.rowCount())]

    def layers(self) -> list[str]:
        return [layer.name for layer in self.viewer.layers]

    def shows(self, *names: str) -> None:
        # outlines of what is reviewed come and go with the Correct page
        self.wait(
            lambda: (
                self.state.opening < 0
                and [name for name in self.layers() if name.startswith("w")] == list(names)
            )
        )

    def press(self, key: str) -> None:
        self.bound()[key](self.viewer)

    def bound(self) -> dict[str, Any]:
        return {str(key): act for key, act in self.viewer.keymap.items()}


def test_a_folder_is_segmented_corrected_and_found_again(
    open_dock: Any, images: Path, qtbot: Any
) -> None:
    dock = open_dock()
    person = Person(dock, qtbot, images)
    workspace, section, state = person.workspace, person.section, person.state
    assert person.rows() == ["not segmented"] * 4
    assert section.summary.text() == "4 images"
    assert section.all.text() == "Segment all 4 images"
    assert not person.page.open_folder.isVisible()
    person.wait(lambda: section.rows.index(0).data(Qt.ItemDataRole.DecorationRole) is not None)

    # the first is opened with a click, the second with a key
    index = section.rows.index(0)
    where = section.list.visualRect(index).center()
    qtbot.mouseClick(section.list.viewport(), Qt.MouseButton.LeftButton, pos=where)
    person.shows("w0")
    assert workspace.session.image.pixel_size_um == pytest.approx(0.5)
    assert workspace.session.image.path == str(images / "w0.tif")
    person.press("PageDown")
    person.shows("w1")

    section.all.click()
    assert section.all.text() == "Cancel"
    person.wait(lambda: not state.running)
    person.wait(lambda: section.summary.text() == "4 images · 3 segmented · 1 failed")
    assert person.rows()[3] == "failed: holds no image."
    # the image that was shown meanwhile shows its cells
    person.shows("w1", "w1 cells")
    first = np.asarray(read_image(state.output / "w1.tif").array)
    assert (person.viewer.layers["w1 cells"].data == first).all()
    assert workspace.session.sliders == "lost"
    assert workspace.session.counted.startswith(f"{first.max()} cells · median")
    assert workspace.session.error is None

    # a correction, and away: it is written, and comes back with its history
    correct = workspace.correct
    layer = person.viewer.layers["w1 cells"]
    assert correct.state.cells.made["model"]["name"] == "tiny"
    y, x = np.argwhere(first == 1)[0]
    assert correct.delete(point=(float(y), float(x)))
    assert not (layer.data == 1).any()
    left = first.max() - 1
    person.wait(lambda: person.rows()[1] == f"{left} cells · corrected")
    person.press("PageDown")
    person.shows("w2", "w2 cells")
    theirs = np.asarray(read_image(state.output / CORRECTED / "w1.tif").array)
    assert (theirs == np.where(first == 1, 0, first)).all()
    assert (np.asarray(read_image(state.output / "w1.tif").array) == first).all()
    person.press("PageUp")
    person.shows("w1", "w1 cells")
    layer = person.viewer.layers["w1 cells"]
    person.wait(lambda: correct.state.cells is not None)
    assert (layer.data == theirs).all()
    assert layer.contour > 0, "outlines, as before"
    assert correct.undo()
    assert (layer.data == first).all()
    assert correct.redo()

    # closed and opened again, the image that is there goes on, with what was done since
    person.controller.close_folder()
    person.wait(lambda: state.folder is None)
    y, x = np.argwhere(first == 2)[0]
    assert correct.delete(point=(float(y), float(x)))
    person.controller.open_folder(images)
    person.wait(lambda: state.folder is not None)
    person.controller.open(1)
    person.wait(lambda: state.current == 1)
    person.shows("w1", "w1 cells")
    assert person.viewer.layers["w1 cells"] is layer
    assert correct.undo()
    assert (layer.data == theirs).all()

    # the page where it is corrected goes from image to image, too
    page: Any = dock.pages[2]
    dock.findChild(QTabWidget).setCurrentIndex(2)
    person.wait(page.isVisible)
    words = f"Image 2 of 4 in the folder · {left} cells · corrected"
    assert page.walk.words.text() == words
    page.walk.next.click()
    person.shows("w2", "w2 cells")
    page.walk.previous.click()
    person.shows("w1", "w1 cells")
    layer = person.viewer.layers["w1 cells"]
    person.wait(lambda: correct.state.cells is not None)

    # kept, it is what was written that comes back
    assert correct.accept(2)
    answer = correct.keeping.keep()
    person.wait(answer.done)
    person.wait(lambda: person.rows()[1] == f"{left} cells · kept")
    person.controller.open(0)
    person.shows("w0", "w0 cells")
    person.controller.open(1)
    person.shows("w1", "w1 cells")
    assert (person.viewer.layers["w1 cells"].data == theirs).all()
    assert workspace.session.sliders == "edited"
    # a new run leaves corrected cells alone
    workspace.controller.set_instances(
        workspace.session.instances.model_copy(update={"min_size": 30})
    )
    section.all.click()
    person.wait(lambda: not state.running)
    assert (person.viewer.layers["w1 cells"].data == theirs).all()
    again = np.asarray(read_image(state.output / CORRECTED / "w1.tif").array)
    assert (again == theirs).all()

    # the order of doubt, and back; then the list is put away, and what is shown stays
    section.worth.click()
    person.wait(lambda: state.by_worth and state.opening < 0)
    assert state.order[-1] == 1
    assert state.images[state.current].what == "segmented"
    assert "wrong or missed" in person.rows()[0]
    section.by_name.click()
    assert person.rows()[3].startswith("failed")
    shown = person.layers()
    section.shut_it.click()
    assert not section.body.isVisible()
    assert person.layers() == shown
    assert "PageDown" not in person.bound()


def test_an_image_that_somebody_took_away_can_be_opened_again(
    open_dock: Any, images: Path, qtbot: Any
) -> None:
    person = Person(open_dock(), qtbot, images)
    person.controller.open(0)
    person.shows("w0")
    person.viewer.layers.remove("w0")
    assert person.state.current == -1
    person.controller.open(0)
    person.shows("w0")
    # one that cannot be read: the row and the page say so, and the image stays
    person.controller.open(3)
    person.wait(lambda: person.section.error.isVisible())
    assert "holds no image" in person.section.error.message.text()
    assert person.layers() == ["w0"]
    # layers of the person's own stay when the image goes
    person.viewer.add_labels(np.ones((96, 96), np.int32), name="truth")
    person.controller.next()
    person.wait(lambda: "w1" in person.layers() and "w0" not in person.layers())
    assert "truth" in person.layers()


def test_the_walk_goes_on_with_the_next_image(open_dock: Any, images: Path, qtbot: Any) -> None:
    dock = open_dock()
    person = Person(dock, qtbot, images)
    section, state, correct = person.section, person.state, person.workspace.correct
    section.all.click()
    person.wait(lambda: not state.running and state.images[0].n_cells is not None)
    person.controller.open(0)
    person.shows("w0", "w0 cells")
    page: Any = dock.pages[2]
    dock.findChild(QTabWidget).setCurrentIndex(2)
    person.wait(page.isVisible)
    person.wait(lambda: correct.state.cells is not None and correct.state.review.scored)
    n = correct.state.review.total
    page.review.forward.click()
    for _ in range(n):
        assert correct.state.review.label
        page.review.accept.click()
    person.wait(lambda: state.opening < 0 and state.current in (1, 2))
    worth = [state.images[i].wrong for i in (1, 2)]
    second = state.current
    assert state.images[second].wrong == max(w for w in worth if w is not None)
    person.shows(f"w{second}", f"w{second} cells")
    # the walk has begun there, and no outlines of the image before are left
    person.wait(lambda: correct.state.review.label > 0)
    assert person.rows()[0] == f"{n} cells · corrected"
    person.wait(lambda: "reviewed" in person.layers())
    person.wait(lambda: person.layers().count("reviewed") == 1)
    # on another page the outlines go with their image, too
    page.review.accept.click()
    dock.findChild(QTabWidget).setCurrentIndex(0)
    person.press("PageUp")
    person.wait(lambda: state.opening < 0 and state.current != second)
    person.wait(lambda: "reviewed" not in person.layers())


def test_all_open_layers_are_a_list_like_a_folder(open_dock: Any, qtbot: Any) -> None:
    dock = open_dock()
    viewer, workspace = dock._viewer, dock.workspace
    assert workspace is not None
    dock.window().show()
    page: Any = dock.pages[0]
    assert not page.all_layers.isVisible()
    for i in range(3):
        image, _ = synthetic_nuclei((96, 96 + 16 * (i == 2)), 5, seed=i)
        viewer.add_image(image, name=f"field {i}")
    qtbot.waitUntil(page.all_layers.isVisible, timeout=WAIT_MS)
    page.all_layers.click()
    section, controller = page.folder, workspace.folder
    state = controller.state

    def wait(condition: Callable[[], Any]) -> None:
        qtbot.waitUntil(lambda: bool(condition()), timeout=WAIT_MS)

    def rows(role: Any = STATE) -> list[str]:
        model = section.list.model()
        return [str(model.index(row).data(role)) for row in range(model.rowCount())]

    wait(section.body.isVisible)
    assert section.title.text() == "All open layers"
    assert rows(Qt.ItemDataRole.DisplayRole) == ["field 0", "field 1", "field 2"]
    assert rows() == ["not segmented"] * 3
    assert not section.output.isVisible()
    wait(lambda: section.rows.index(0).data(Qt.ItemDataRole.DecorationRole) is not None)
    # walked through with buttons and keys: one is seen, and worked on
    controller.open(0)
    assert workspace.session.image.name == "field 0"
    keys = {str(key): act for key, act in viewer.keymap.items()}
    keys["PageDown"](viewer)
    assert workspace.session.image.name == "field 1"
    assert [viewer.layers[f"field {i}"].visible for i in range(3)] == [False, True, False]
    section.walk.previous.click()
    assert state.current == 0

    # all are segmented, the cells are layers; one that was corrected is passed over
    section.all.click()
    assert section.all.text() == "Cancel"
    wait(lambda: not state.running)
    assert section.all.text() == "Segment all 3 images"
    wait(lambda: all(image.wrong is not None for image in state.images))
    counts = [int(viewer.layers[f"field {i} cells"].data.max()) for i in range(3)]
    assert [image.n_cells for image in state.images] == counts
    assert section.summary.text() == "3 images · 3 segmented"
    assert f"{sum(counts)} cells in the open layers" in section.said.text()
    controller.open(1)
    labels = viewer.layers["field 1 cells"].data
    y, x = np.argwhere(labels == 1)[0]
    correct = workspace.correct
    wait(lambda: correct.state.cells is not None)
    assert correct.delete(point=(float(y), float(x)))
    left = counts[1] - 1
    assert rows()[1] == f"{left} cell{'s' * (left != 1)} · corrected"
    after = labels.copy()
    section.all.click()
    wait(lambda: not state.running)
    np.testing.assert_array_equal(viewer.layers["field 1 cells"].data, after)

    # the most doubtful first; what is cancelled stops
    controller.open(1)
    section.worth.click()
    wrong = [image.wrong for image in state.images]
    assert wrong[state.current] == max(one for one in wrong if one is not None)
    assert state.order[-1] == 1
    section.all.click()
    section.all.click()
    wait(lambda: not state.running)
    assert "Stopped" in section.said.text()
    assert workspace.session.error is None
    # a layer that goes leaves the list, one that comes is at its end
    viewer.layers.remove("field 0")
    wait(lambda: len(state.images) == 2)
    viewer.add_image(np.zeros((64, 64), np.uint8), name="empty")
    wait(lambda: rows(Qt.ItemDataRole.DisplayRole)[-1] == "empty")
    section.shut_it.click()
    assert not section.body.isVisible()
    assert page.all_layers.isVisible()
