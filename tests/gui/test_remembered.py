"""The dock is closed and opened again: what was chosen and found is known still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtWidgets import QTabWidget

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets.dock import SA2NetDock, SegmentDock

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

WAIT_MS = 120_000
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def reopen() -> Iterator[Callable[[SA2NetDock], SA2NetDock]]:
    """Closes a dock and opens another one in its viewer."""
    docks: list[SA2NetDock] = []

    def again(dock: SA2NetDock) -> SA2NetDock:
        viewer = dock._viewer
        dock.shut()
        docks.append(SA2NetDock(viewer))
        viewer.window.add_dock_widget(docks[-1], name="SA2-Net again")
        docks[-1].window().show()
        return docks[-1]

    yield again
    for dock in docks:
        dock.shut()


def segmented(dock: SA2NetDock, qtbot: QtBot) -> Any:
    viewer = dock._viewer
    image = synthetic_nuclei((128, 144), n=12, diameter=22, seed=50)[0]
    viewer.add_image(image, name="slide")
    page: Any = dock.pages[0]
    page.button.click()
    ready(page, qtbot)
    return viewer.layers["slide cells"]


def ready(page: Any, qtbot: QtBot) -> None:
    session = page.session
    qtbot.waitUntil(lambda: not session.running and session.sliders == "live", timeout=WAIT_MS)
    assert session.error is None


def show(dock: SA2NetDock, name: str) -> Any:
    tabs = dock.findChild(QTabWidget)
    assert tabs is not None
    index = next(i for i in range(tabs.count()) if tabs.tabText(i) == name)
    tabs.setCurrentIndex(index)
    return dock.pages[index]


def test_closed_and_opened_again(open_dock: Callable[[], SA2NetDock]) -> None:
    dock = open_dock()
    viewer = dock._viewer
    viewer.add_image(np.zeros((64, 64)), name="image")
    page: Any = dock.pages[0]
    page.size_row.spin.setValue(21)
    page.result.foreground.spin.setValue(0.35)
    page.region_row.setValue("view", "all")
    page._region_changed()
    dock.shut()

    again = SegmentDock(viewer)
    page = again.pages[0]
    assert page.size_row.value() == 21
    assert page.session.predict.diameter == 21
    assert page.session.instances.foreground == 0.35
    assert page.result.foreground.value() == 0.35
    assert page.session.model == "tiny"
    assert page.model_row.combo.currentData() == "tiny"
    assert page.region_row.where() == "view"
    # another image has a size of its own
    viewer.add_image(np.ones((64, 64)), name="other")
    assert page.size_row.value() is None
    viewer.layers.selection.active = viewer.layers["image"]
    assert page.size_row.value() == 21
    again.shut()


def test_a_result_is_linked_again_and_one_click_makes_it_live(
    open_dock: Callable[[], SA2NetDock], reopen: Any, qtbot: QtBot
) -> None:
    dock = open_dock()
    cells = segmented(dock, qtbot)
    labels, table = cells.data.copy(), cells.features.copy()
    line = dock.pages[0].session.counted
    assert line

    again = reopen(dock)
    page, session = again.pages[0], again.pages[0].session
    assert session.sliders == "lost"
    assert not page.result.form.isEnabled()
    assert "Bring it back" in page.result.note.text()
    assert page.result.back.isVisible()
    assert session.counted == line
    assert page.result.table.isVisible()
    assert page.port.result_layer(session.result_key) is cells
    assert show(again, "Correct").state.cells.result_key == session.result_key
    # the table follows the cells as before
    label = int(table["label"].iloc[0])
    show(again, "Segment")
    page.result.back.click()
    ready(page, qtbot)
    assert not page.result.back.isVisible()
    assert [layer.name for layer in page.port.viewer.layers] == ["slide", "slide cells"]
    assert page.port.result_layer(session.result_key) is cells
    np.testing.assert_array_equal(cells.data, labels)
    assert cells.features.equals(table)
    page.result.foreground.spin.setValue(0.9)
    qtbot.waitUntil(lambda: (cells.data != labels).any(), timeout=WAIT_MS)
    assert label in labels


def test_cells_that_were_changed_meanwhile_are_a_persons(
    open_dock: Callable[[], SA2NetDock], reopen: Any, qtbot: QtBot
) -> None:
    dock = open_dock()
    cells = segmented(dock, qtbot)
    n = len(cells.features)
    viewer = dock._viewer
    dock.shut()
    cells.data[cells.data == cells.data.max()] = 0  # a script, and no event
    again = reopen(dock)
    page = again.pages[0]
    assert page.session.sliders == "edited"
    assert not page.result.back.isVisible()
    qtbot.waitUntil(lambda: page.session.counted.startswith(f"{n - 1} cell"), timeout=WAIT_MS)
    assert len(cells.features) == n - 1
    page.button.click()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=WAIT_MS)


def test_a_table_of_cells_from_elsewhere_follows_them_again(
    open_dock: Callable[[], SA2NetDock], reopen: Any, qtbot: QtBot
) -> None:
    dock = open_dock()
    viewer = dock._viewer
    image, truth = synthetic_nuclei((96, 96), n=6, diameter=18, seed=1)
    viewer.add_image(image, name="slide")
    layer = viewer.add_labels(truth, name="mine")
    dock.pages[0].result.measure.click()
    again = reopen(dock)  # before it was measured
    counted = lambda: again.pages[0].session.counted  # noqa: E731
    qtbot.waitUntil(lambda: "median" in counted(), timeout=WAIT_MS)
    n, line = len(layer.features), counted()
    assert n == truth.max()
    again = reopen(again)
    assert counted() == line
    y, x = np.argwhere(truth == 0)[0]
    layer.data_setitem((np.array([y]), np.array([x])), 99)
    qtbot.waitUntil(lambda: len(layer.features) == n + 1, timeout=WAIT_MS)


def test_channels_that_were_chosen_are_chosen_again(
    open_dock: Callable[[], SA2NetDock], reopen: Any
) -> None:
    dock = open_dock()
    dock._viewer.add_image(np.random.default_rng(0).random((3, 40, 48)), name="three")
    dock.pages[0].port.set_axes("CYX")
    dock.pages[0].port.set_channels((2,))
    again = reopen(dock)
    source = again.pages[0].session.image
    assert (source.axes, source.channels) == ("CYX", (2,))
