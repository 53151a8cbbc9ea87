"""The Correct page by its buttons, keys and mouse: real viewer, real journal, real commits."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from app_model.types import KeyBinding
from napari.layers import Labels
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import Qt

from napari_sa2net.app.edit_session import Offer
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.journal import list_journals
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets.correct.bench import OfferBox
from napari_sa2net.widgets.correct.tools import TOOLS, USUAL_KEYS
from napari_sa2net.widgets.dock import CorrectDock, SegmentDock, _dock_of
from napari_sa2net.widgets.napari_port import repaint
from napari_sa2net.widgets.napari_port.reading import camera_of

pytestmark = pytest.mark.timeout(300)
WAIT_MS = 60_000


def disks(*centres: tuple[int, int], shape: tuple[int, int] = (96, 120)) -> Any:
    """Labels 1, 2, … as disks of radius 8."""
    y, x = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for label, (cy, cx) in enumerate(centres, 1):
        labels[np.hypot(y - cy, x - cx) <= 8] = label
    return labels


FOUR = ((20, 20), (20, 60), (60, 20), (60, 77))


def picture(labels: Any) -> Any:
    noise = np.random.default_rng(0).normal(0, 5, labels.shape)
    return (100 * (labels > 0) + 30 + noise).astype(np.float32)


@pytest.fixture
def open_page(home: Path, make_napari_viewer: Any, qtbot: Any) -> Iterator[Callable[..., Any]]:
    docks: list[CorrectDock] = []

    def open_it(viewer: Any = None) -> Any:
        viewer = viewer or make_napari_viewer()
        dock = CorrectDock(viewer)
        viewer.window.add_dock_widget(dock, name="Correct")
        dock.window().show()
        docks.append(dock)
        page: Any = dock.pages[0]
        qtbot.waitUntil(page.isVisible)
        return page

    yield open_it
    for dock in docks:
        dock.shut()


def with_cells(open_page: Any, labels: Any = None, **transforms: Any) -> tuple[Any, Any, Any]:
    """Page, viewer, and a layer of cells over an image, chosen."""
    page = open_page()
    viewer = page.port.viewer
    labels = disks(*FOUR) if labels is None else labels
    viewer.add_image(picture(labels), name="nuclei 3", **transforms)
    cells = viewer.add_labels(labels, name="cells", **transforms)
    assert page.state.cells.key == str(cells.unique_id)
    return page, viewer, cells


class Mouse:
    """A mouse event as napari hands it to callbacks."""

    def __init__(self, layer: Labels, point: tuple[float, ...]) -> None:
        self.layer = layer
        self.button = 1
        self.modifiers: tuple[Any, ...] = ()
        self.type = "mouse_press"
        self.move(point)

    def move(self, point: tuple[float, ...]) -> None:
        self.position = self.layer.data_to_world(point)
        self.pos = 10 * np.array(point[-2:], dtype=float)


def drag(qtbot: Any, layer: Labels, *points: tuple[float, ...]) -> None:
    """Press, move, release; with one point it is a click."""
    event = Mouse(layer, points[0])
    called = [callback(layer, event) for callback in list(layer.mouse_drag_callbacks)]
    generators = [one for one in called if one is not None]
    for generator in generators:
        next(generator, None)
    event.type = "mouse_move"
    for point in points[1:]:
        event.move(point)
        for generator in generators:
            next(generator, None)
    event.type = "mouse_release"
    for generator in generators:
        next(generator, None)
    qtbot.wait(10)


def alt_click(qtbot: Any, layer: Labels, point: tuple[float, ...]) -> None:
    event = Mouse(layer, point)
    event.modifiers = ("Alt",)
    generators = [callback(layer, event) for callback in list(layer.mouse_drag_callbacks)]
    event.type = "mouse_press"
    for kind in ("mouse_press", "mouse_release"):
        event.type = kind
        for generator in generators:
            if generator is not None:
                next(generator, None)
    qtbot.wait(10)


def key(viewer: Any, *keys: str) -> None:
    for one in keys:
        viewer.window._qt_viewer.canvas._key_map_handler.press_key(one)


def dock_of(page: Any) -> Any:
    while not isinstance(page, CorrectDock):
        page = page.parentWidget()
    return page


def labels_of(cells: Labels) -> list[int]:
    return [int(v) for v in np.unique(cells.data) if v]


@pytest.mark.both_bindings
def test_tools_one_history_and_keep(open_page: Any, qtbot: Any, home: Path) -> None:
    """Split, merge, delete, redraw, brush, regions; undone and done again; kept."""
    page, viewer, cells = with_cells(open_page, scale=(0.5, 0.5), units=("um", "um"))
    began = cells.data.copy()
    camera = (camera_of(viewer).zoom, camera_of(viewer).center)
    assert not page.strip.undo.isEnabled()

    key(viewer, "S")
    assert page.strip.buttons["split"].isChecked()
    assert viewer.layers.selection.active is cells
    assert not cells.mouse_pan
    drag(qtbot, cells, (20, 8), (20, 20), (20, 32))
    assert len(labels_of(cells)) == 5
    assert page.strip.undo.toolTip().startswith("Undo split of cell 1")
    assert "Split of cell 1" in page.strip.said.text()
    # the tool stays, for the next cell; a line in the void says what is wrong
    drag(qtbot, cells, (40, 40), (44, 48))
    assert "touches no cell" in page.strip.said.text()
    assert len(labels_of(cells)) == 5

    page.strip.buttons["merge"].click()
    drag(qtbot, cells, (14, 20), (26, 20))
    assert len(labels_of(cells)) == 4

    key(viewer, "D")
    drag(qtbot, cells, (60, 20))
    assert 3 not in labels_of(cells)
    key(viewer, "R")
    drag(qtbot, cells, (52, 12), (52, 30), (70, 30), (70, 12))
    assert len(labels_of(cells)) == 4
    key(viewer, "Escape")
    qtbot.waitUntil(lambda: not page.strip.buttons["redraw"].isChecked())
    assert cells.mouse_pan
    assert [layer.name for layer in viewer.layers] == ["nuclei 3", "cells", "reviewed"]

    # napari's own brush is in the same history
    page.strip.buttons["brush"].click()
    assert str(cells.mode) == "paint"
    cells.selected_label = 9
    drag(qtbot, cells, (85, 100), (85, 110))
    assert 9 in labels_of(cells)
    assert page.state.undo == "Undo painting of cell 9"
    # a script's stroke, of which napari tells before it is made
    cells.paint((90, 60), 9)
    qtbot.waitUntil(lambda: page.state.unsaved == 6)
    key(viewer, "Control-Z")
    assert cells.data[90, 60] == 0
    key(viewer, "U")
    assert str(cells.mode) == "pan_zoom"
    drag(qtbot, cells, (40, 40), (40, 110), (90, 110), (90, 40))
    assert page.state.unsaved == 6
    assert (camera_of(viewer).zoom, camera_of(viewer).center) == camera

    # our history over all of it, on the keys of the layer
    done = cells.data.copy()
    for _ in range(6):
        key(viewer, "Control-Z")
    np.testing.assert_array_equal(cells.data, began)
    assert page.state.unsaved == 0
    for _ in range(6):
        key(viewer, "Control-Shift-Z")
    np.testing.assert_array_equal(cells.data, done)
    qtbot.waitUntil(lambda: page.state.safe, timeout=WAIT_MS)
    assert "6 corrections" in page.keep.title.text()

    page.keep.group.setText("dish 3")
    page.keep.group.editingFinished.emit()
    qtbot.waitUntil(page.keep.button.isEnabled, timeout=WAIT_MS)
    page.keep.button.click()
    assert page.keep.button.text() == "Keeping…"
    qtbot.waitUntil(lambda: not page.state.keeping, timeout=WAIT_MS)
    assert page.session.error is None
    assert page.state.unsaved == 0
    assert "Kept" in page.keep.kept.text()
    training_set = TrainingSet.open(page.state.folder)
    (record,) = training_set.commits()
    assert record.group == "dish 3"
    assert record.source.name == "nuclei 3"
    assert record.pixel_size_um == pytest.approx(0.5)
    kept = training_set.load(record.id)
    np.testing.assert_array_equal(kept.labels, done)
    assert kept.reviewed[20, 20]
    assert kept.reviewed[41:89, 41:109].all()
    assert not kept.reviewed[5, 118]
    # nothing is left to restore
    viewer.window.remove_dock_widget(dock_of(page))
    assert list_journals(in_use=True) == []
    assert [layer.name for layer in viewer.layers] == ["nuclei 3", "cells"]
    assert KeyBinding.from_str("S") not in viewer.keymap


def test_no_key_of_ours_is_one_of_naparis(open_page: Any) -> None:
    """napari's keys of Labels layers and of the viewer keep their meaning, and so do ours."""
    page, viewer, cells = with_cells(open_page)
    own = set(USUAL_KEYS.values())
    assert set(page._bindings()) == own
    bound = {KeyBinding.from_str(name.replace("-", "+")) for name in own}
    assert len(bound) == len(own)
    of_layers = {
        one
        for action, keys in default_shortcuts.items()
        for one in keys
        if "label" in action or "polygon" in action or "brush" in action
    }
    assert len(of_layers) > 15
    of_viewer = set(type(viewer).class_keymap) | set(type(cells).class_keymap)
    for cls in (*type(viewer).__mro__, *type(cells).__mro__):
        of_viewer |= set(getattr(cls, "class_keymap", {}))
    assert len(of_viewer) > 20
    assert not bound & (of_layers | of_viewer)
    # with the cells selected, every key is ours
    viewer.layers.selection.active = cells
    handler = viewer.window._qt_viewer.canvas._key_map_handler
    active = handler.active_keymap
    for one in bound:
        assert "Keys" in repr(active[one]) or "pressed" in repr(active[one])
    # napari's tools by napari's keys; the sheet names all of them
    sheet = page.sheet.sheet.text()
    for tool in TOOLS:
        assert f"<b>{tool.key}</b>" in sheet
    key(viewer, "2")
    assert page.strip.buttons["brush"].isChecked()
    key(viewer, "1")
    assert page.strip.buttons["eraser"].isChecked()
    page.sheet.fold.click()
    assert page.sheet.sheet.isVisible()


def test_what_was_kept_before_is_seen_without_scrolling(open_page: Any, qtbot: Any) -> None:
    page, viewer, _ = with_cells(open_page)
    page.window().resize(1366, 768)
    image = viewer.layers["nuclei 3"]
    page.next()
    page.accept()
    qtbot.waitUntil(page.keep.button.isEnabled, timeout=WAIT_MS)
    page.keep.button.click()
    qtbot.waitUntil(lambda: bool(page.state.kept), timeout=WAIT_MS)
    assert page.kept_before.isHidden()
    other = viewer.add_image(np.zeros((20, 20), np.float32), name="other")
    qtbot.waitUntil(lambda: not page.state.kept, timeout=WAIT_MS)
    viewer.layers.remove(other)
    viewer.layers.selection.active = image
    qtbot.waitUntil(lambda: bool(page.state.kept_before), timeout=WAIT_MS)
    assert "1 reviewed cell of this image" in page.kept_before.text()
    qtbot.waitUntil(page.kept_before.isVisible)
    assert page.kept_before.visibleRegion().boundingRect() == page.kept_before.rect()
    assert "added to what was kept before" in page.keep.kept.text()


def test_outlines_of_many_cells_come_in_the_layer_that_is_there(
    open_page: Any, qtbot: Any
) -> None:
    """Such as of a wave: to make a layer takes napari half a second."""
    places = [(y, x) for y in range(15, 290, 30) for x in range(15, 290, 30)]
    labels = disks(*places, shape=(300, 300))
    page, viewer, _ = with_cells(open_page, labels)
    assert page.controller.accept(1)
    qtbot.waitUntil(lambda: "reviewed" in viewer.layers)
    layer = viewer.layers["reviewed"]
    many = frozenset(range(2, 82))
    page.live.state.shown = many
    qtbot.waitUntil(lambda: (layer.data == 5).any(), timeout=WAIT_MS)
    assert viewer.layers["reviewed"] is layer
    assert set(np.unique(labels[layer.data == 5])) == many
    assert set(np.unique(labels[layer.data == 1])) == {1}
    page.live.state.shown = frozenset()
    qtbot.waitUntil(lambda: not (layer.data == 5).any(), timeout=WAIT_MS)
    assert set(np.unique(labels[layer.data == 1])) == {1}
    assert viewer.layers["reviewed"] is layer


def test_review_takes_away_what_is_no_cell_with_one_key(open_page: Any, qtbot: Any) -> None:
    labels = disks(*FOUR)
    page, viewer, cells = with_cells(open_page, labels)
    qtbot.waitUntil(lambda: page.state.review.scored, timeout=WAIT_MS)
    assert not page.review.no_cell.isEnabled()
    key(viewer, "Shift-D")  # starts the walk, as A does
    first = page.state.review.label
    assert first > 0
    np.testing.assert_array_equal(cells.data, labels)
    before = cells.data.copy()
    key(viewer, "Shift-D")
    second = page.state.review.label
    assert second not in (0, first)
    np.testing.assert_array_equal(cells.data, np.where(before == first, 0, before))
    page.review.no_cell.click()
    assert set(np.unique(cells.data)) == {0, *range(1, 5)} - {first, second}
    assert page.state.review.done == 0
    # undo is back at the cell that came back, of a cell that was accepted, too
    third = page.state.review.label
    key(viewer, "A")
    assert page.state.review.done == 1
    assert page.state.review.label not in (0, third)
    for label in (third, second, first):
        page.controller.undo()
        assert page.state.said.words.startswith("Taken back: ")
        assert page.state.review.label == label
    np.testing.assert_array_equal(cells.data, before)
    assert page.state.review.done == 0


def test_review_walks_and_the_view_follows(open_page: Any, qtbot: Any) -> None:
    labels = disks(*FOUR, shape=(400, 400))
    labels[200:240, 200:204] = 5  # thin and long: the most doubtful one
    page, viewer, cells = with_cells(open_page, labels)
    qtbot.waitUntil(lambda: page.state.review.scored, timeout=WAIT_MS)
    assert "0 of 5" in page.review.title.text()
    assert not page.review.accept.isEnabled()
    # only now: napari fits the view once more when its window is laid out
    camera_of(viewer).zoom = 1
    key(viewer, "N")
    first = page.state.review.label
    assert cells.selected_label == first
    y, x = np.argwhere(labels == first).mean(axis=0)
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (y, x), atol=2)
    assert camera_of(viewer).zoom > 1
    assert f"Cell {first}:" in page.review.cell.text()
    qtbot.waitUntil(lambda: "reviewed" in viewer.layers)
    outlines = viewer.layers["reviewed"]
    top = int(np.argwhere(labels == first)[0, 0])
    qtbot.waitUntil(lambda: (outlines.data[top, labels[top] == first] == 3).all())
    assert (outlines.data == 3)[labels != first].sum() == 0
    key(viewer, "A")
    assert page.state.review.done == 1
    second = page.state.review.label
    assert second not in (0, first)
    qtbot.waitUntil(lambda: not (outlines.data[labels == first] == 3).any())
    # what is reviewed is outlined, and nothing around it
    assert set(np.unique(labels[outlines.data == 1])) == {first}
    assert outlines.data[top, labels[top] == first].all()
    page.review.back.click()
    assert page.state.review.label == first
    assert page.review.accept.text() == "✓ Accepted"
    page.review.forward.click()
    page.review.fix.click()
    assert str(cells.mode) == "paint"
    assert cells.selected_label == page.state.review.label
    page.strip.buttons["brush"].click()
    assert str(cells.mode) == "pan_zoom"
    # a tool stays taken up while the outlines come: napari makes a new layer active at first
    viewer.layers.remove(outlines)
    page.review.outlines.click()
    page.review.outlines.click()
    page.strip.buttons["split"].click()
    page.reviewed.hide()
    page._outline.start()
    qtbot.waitUntil(lambda: "reviewed" in viewer.layers)
    qtbot.wait(50)
    assert page.bench.tool is not None
    assert page.bench.tool.name == "split"
    page.strip.buttons["split"].click()
    # a click on a cell looks at that one
    event_at = tuple(np.argwhere(labels == 3).mean(axis=0).round())
    event = Mouse(cells, event_at)
    for callback in list(viewer.mouse_drag_callbacks):
        generator = callback(viewer, event)
        next(generator, None)
        event.type = "mouse_release"
        next(generator, None)
    assert page.state.review.label == 3
    viewer.reset_view()
    page.review.all.click()
    assert page.state.review.done == 5
    shown = viewer.layers["reviewed"].data
    # the one under review in white
    qtbot.waitUntil(lambda: set(np.unique(labels[shown == 1])) == {1, 2, 4, 5})
    assert set(np.unique(labels[shown == 3])) == {3}
    key(viewer, "N")
    assert "Every cell" in page.strip.said.text()
    page.review.outlines.click()
    assert "reviewed" not in viewer.layers
    page.review.outlines.click()
    assert "reviewed" in viewer.layers
    key(viewer, "Control-Z")
    assert page.state.review.done == 1


def test_closed_reopened_deleted_replaced_restored(open_page: Any, qtbot: Any) -> None:
    """Whatever happens in mid-work, nothing is lost."""
    page, viewer, cells = with_cells(open_page)
    key(viewer, "D")
    drag(qtbot, cells, (60, 20))
    assert page.state.unsaved == 1
    # renamed: the same cells
    cells.name = "my cells"
    viewer.layers["nuclei 3"].name = "renamed"
    assert page.cells_row.currentText() == "my cells"
    assert page.state.unsaved == 1

    # page closed: the journal is there, the cells too; what is painted meanwhile counts
    viewer.window.remove_dock_widget(dock_of(page))
    (left,) = list_journals()
    assert left.n_edits == 1
    cells.selected_label = 2
    cells.paint((25, 60), 2)
    kept = cells.data.copy()
    page = open_page(viewer)
    np.testing.assert_array_equal(cells.data, kept)
    assert page.state.unsaved == 2
    assert page.state.undo == "Undo changes made elsewhere"
    assert page.state.offers == ()
    page.strip.undo.click()
    page.strip.undo.click()
    assert 3 in labels_of(cells)
    page.strip.redo.click()
    assert page.state.unsaved == 1
    after = cells.data.copy()

    # the layer is deleted: its corrections are offered, and come back with their history
    qtbot.waitUntil(lambda: page.state.safe, timeout=WAIT_MS)
    viewer.layers.remove(cells)
    assert page.state.cells is None
    qtbot.waitUntil(lambda: len(page.state.offers) == 1, timeout=WAIT_MS)
    assert not page.offers.isHidden()
    assert "5 steps of work on" in page.offers.words.text()
    page.offers.restore.click()
    qtbot.waitUntil(lambda: page.state.cells is not None, timeout=WAIT_MS)
    restored = viewer.layers[-1] if viewer.layers[-1].name != "reviewed" else viewer.layers[-2]
    np.testing.assert_array_equal(restored.data, after)
    assert page.offers.isHidden()
    assert page.state.unsaved == 1
    page.strip.undo.click()
    assert 3 in labels_of(restored)
    page.strip.redo.click()

    # someone's script puts other labels into the layer: one more step
    restored.data = disks((40, 40))
    assert page.state.unsaved == 2
    key(viewer, "Control-Z")
    np.testing.assert_array_equal(restored.data, after)
    # labels of another size: a new beginning, and the old can be restored
    restored.data = disks((40, 40), shape=(80, 80))
    assert page.state.unsaved == 0
    qtbot.waitUntil(lambda: len(page.state.offers) == 1, timeout=WAIT_MS)
    key(viewer, "O")
    drag(qtbot, restored, (40, 40))
    page.offers.discard.click()
    page.offers.sure.click()
    qtbot.waitUntil(lambda: page.state.offers == (), timeout=WAIT_MS)

    # a tool is taken up and the layer goes; then the image; then the window
    key(viewer, "S")
    viewer.layers.remove(restored)
    qtbot.waitUntil(lambda: not any("drawing" in layer.name for layer in viewer.layers))
    more = viewer.add_labels(disks(*FOUR), name="more")
    assert page.state.cells.name == "more"
    key(viewer, "D")
    drag(qtbot, more, (60, 20))
    viewer.layers.remove(viewer.layers["renamed"])
    assert page.state.unsaved == 1
    assert "no image" in page.keep.what.text() or page.state.cells.image is None
    key(viewer, "Control-Z")
    assert page.state.unsaved == 0
    key(viewer, "Control-Shift-Z")
    viewer.close()
    left = {one.image.name: one.n_edits for one in list_journals()}
    assert left["renamed"] >= 1


def test_planes_of_a_stack(open_page: Any, qtbot: Any) -> None:
    stack = np.stack([disks(*FOUR), disks(*FOUR[:2]), disks(FOUR[3])])
    page, viewer, cells = with_cells(open_page, stack, scale=(3, 1, 1))
    viewer.dims.set_current_step(0, 1)
    assert "plane 1 of 0–2" in page.place.text()
    qtbot.waitUntil(lambda: page.state.review.total == 2, timeout=WAIT_MS)
    key(viewer, "D")
    drag(qtbot, cells, (1, 20, 20))
    assert [len(np.unique(plane)) for plane in cells.data] == [5, 2, 2]
    viewer.dims.set_current_step(0, 2)
    key(viewer, "D", "D")  # laid down and taken up again
    key(viewer, "U")
    drag(qtbot, cells, (2, 2, 2), (2, 2, 110), (2, 90, 110), (2, 90, 2))
    assert page.state.review.done == 1
    outlines = viewer.layers["reviewed"]
    assert outlines.data_to_world((0, 0, 0))[0] == pytest.approx(6)
    key(viewer, "K")
    qtbot.waitUntil(lambda: bool(page.state.kept), timeout=WAIT_MS)
    records = TrainingSet.open(page.state.folder).commits()
    assert sorted(record.index for record in records) == [(1,), (2,)]
    assert {record.shape for record in records} == {(96, 120)}
    # undo crosses planes
    key(viewer, "Control-Z", "Control-Z")
    assert len(np.unique(cells.data[1])) == 3
    assert page.state.unsaved == 2


def test_a_stack_seen_from_another_side_is_not_corrected(open_page: Any, qtbot: Any) -> None:
    stack = np.stack([disks(*FOUR)] * 3)
    page, viewer, cells = with_cells(open_page, stack)
    began = stack.copy()
    key(viewer, "D")
    viewer.dims.order = (1, 0, 2)
    assert "Ctrl+E twice" in page.place.text()
    drag(qtbot, cells, (0, 20, 20))
    assert "do not see" in page.strip.said.text()
    for act in ("D", "S", "A", "Shift-A", "N", "Q"):
        page.controller.say("")
        key(viewer, act)
        assert not page.strip.buttons["split"].isChecked()
        assert "do not see" in page.strip.said.text() or act == "D"  # laid down
    np.testing.assert_array_equal(cells.data, began)
    for _ in range(2):
        viewer.dims.roll()
    # x and y may change places
    assert viewer.dims.order == (0, 2, 1)
    assert "plane 1 of 0–2" in page.place.text()
    key(viewer, "D")
    drag(qtbot, cells, (1, 20, 20))
    assert [len(np.unique(plane)) for plane in cells.data] == [5, 4, 5]
    # what is taken back is seen from the side, too
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_current_step(1, 20)
    assert 1 not in np.asarray(cells._slice.image.raw)[1]
    key(viewer, "Control-Z")
    assert 1 in np.asarray(cells._slice.image.raw)[1]
    viewer.dims.order = (2, 1, 0)
    assert "viewer.dims.order" not in page.place.text()


def test_undo_by_key_whatever_layer_is_selected(open_page: Any, qtbot: Any) -> None:
    page, viewer, _cells = with_cells(open_page)
    image = viewer.layers["nuclei 3"]
    for label in (1, 2):
        assert page.controller.accept(label)
    page.controller.delete(point=(20, 20))
    qtbot.waitUntil(lambda: "reviewed" in viewer.layers)
    for n, layer in ((2, image), (1, viewer.layers["reviewed"])):
        viewer.layers.selection.active = layer
        key(viewer, "Control-Z")
        assert page.state.unsaved == n
        key(viewer, "Control-Shift-Z", "Control-Z")
        assert page.state.unsaved == n
    # a layer's own undo stays its own
    calls: list[str] = []
    shapes = viewer.add_shapes(name="mine")
    shapes.bind_key("Control-Z", lambda _: calls.append("undo"))
    viewer.layers.selection.active = shapes
    key(viewer, "Control-Z")
    assert calls == ["undo"]
    assert page.state.unsaved == 1
    # on another page it is none of ours
    viewer.layers.selection.active = image
    page.hide()
    key(viewer, "Control-Z")
    assert page.state.unsaved == 1
    undo = KeyBinding.from_str("Ctrl+Z")
    assert undo not in viewer.keymap


def test_group_and_what_is_taken_back_on_the_page(open_page: Any, qtbot: Any) -> None:
    """After a Keep the group can still be typed; undone work is offered to be taken back."""
    page, viewer, _cells = with_cells(open_page)
    page.controller.accept(1)
    key(viewer, "K")
    qtbot.waitUntil(lambda: bool(page.state.kept), timeout=WAIT_MS)
    assert not page.keep.button.isEnabled()
    qtbot.keyClicks(page.keep.group, "dish 3")
    assert page.keep.button.isEnabled()
    page.keep.button.click()
    qtbot.waitUntil(lambda: not page.state.keeping, timeout=WAIT_MS)
    (record,) = TrainingSet.open(page.state.folder).commits()
    assert record.group == "dish 3"
    key(viewer, "Control-Z")
    qtbot.waitUntil(page.keep.button.isEnabled)
    assert page.keep.button.text() == "Take back what was kept"
    assert "Nothing of this image is reviewed any more" in page.keep.what.text()
    page.keep.button.click()
    qtbot.waitUntil(lambda: not page.state.keeping, timeout=WAIT_MS)
    assert "Took this image back" in page.keep.kept.text()
    assert TrainingSet.open(page.state.folder).commits() == []


def test_result_edge_box_and_sliders(open_page: Any, qtbot: Any) -> None:
    """Cells of the network: sliders let go, the edge and a box come from the engine."""
    page = open_page()
    viewer, workspace = page.port.viewer, page._workspace
    image, _ = synthetic_nuclei((160, 200), n=12, diameter=20, seed=0)
    viewer.add_image(image, name="nuclei")
    assert page.state.cells is None
    assert not page.no_cells.isHidden()
    workspace.controller.set_model("tiny")
    workspace.controller.segment()
    qtbot.waitUntil(lambda: not page.session.running, timeout=3 * WAIT_MS)
    assert page.session.error is None
    cells = viewer.layers["nuclei cells"]
    assert page.state.cells.name == "nuclei cells"
    assert page.state.cells.model == "tiny"
    assert page.session.sliders == "live"
    session = page.controller.session
    qtbot.waitUntil(lambda: session.foreground is not None, timeout=WAIT_MS)
    qtbot.waitUntil(lambda: "blurred" in page.state.review.by, timeout=WAIT_MS)
    edge = page.session.instances.foreground
    np.testing.assert_array_equal(session.foreground[cells.data > 0] >= edge, True)

    # half of a cell is erased, and grows back to the edge that the model saw
    label = int(np.bincount(cells.data[cells.data > 0]).argmax())
    whole = cells.data == label
    rows = np.flatnonzero(whole.any(axis=1))
    lower = whole.copy()
    lower[: int(rows.mean())] = False
    cells.data_setitem(np.nonzero(lower), 0)
    qtbot.waitUntil(lambda: page.state.unsaved == 1)
    assert page.session.sliders == "edited"
    y, x = np.argwhere(cells.data == label).mean(axis=0).round()
    key(viewer, "T")
    drag(qtbot, cells, (y, x))
    assert (whole & (cells.data == label)).sum() > 0.9 * whole.sum()

    key(viewer, "Q")
    assert page.box.isVisible()
    before = cells.data.copy()
    page.box.foreground.spin.setValue(0.9)
    drag(qtbot, cells, (-5, -5), (100, 120))
    qtbot.waitUntil(lambda: not page.session.running, timeout=WAIT_MS)
    assert page.session.error is None
    assert page.state.undo.startswith("Undo segmenting a box again")
    changed = cells.data != before
    assert changed[:101, :121].any()
    # beyond the box only cells that it cuts may change
    cut = np.unique(before[:101, :121])
    assert np.isin(before[101:][changed[101:]], cut).all()
    key(viewer, "Control-Z")
    np.testing.assert_array_equal(cells.data, before)


@pytest.mark.parametrize("lead", [(), (1,)])
def test_cells_of_another_scale_are_laid_on_the_image(
    open_page: Any, qtbot: Any, lead: tuple[int, ...]
) -> None:
    page = open_page()
    viewer = page.port.viewer
    labels = disks(*FOUR)
    image = viewer.add_image(
        picture(labels), name="nuclei", scale=(0.3, 0.4), translate=(5, 6), rotate=10
    )
    cells = viewer.add_labels(labels.reshape(lead + labels.shape).copy(), name="from a file")
    qtbot.waitUntil(lambda: page.state.cells is not None)
    assert page.lay_on.isVisible()
    page.controller.keeping.refresh()
    assert "lay them on it first" in page.state.keep.problem
    page.lay_on.click()
    qtbot.waitUntil(lambda: not page.lay_on.isVisible())
    assert page.state.cells.corner == (0, 0)
    assert page.place.text() == "over nuclei"
    for point in ((0, 0), (7, 3), (20, 30)):
        there = image.data_to_world(point)
        np.testing.assert_allclose(cells.data_to_world(point), there, atol=1e-9)
    assert page.controller.accept(1)
    page.controller.keeping.refresh()
    assert page.state.keep.can
    # Cells of another size have nothing to be laid on.
    viewer.add_labels(labels[:-3].copy(), name="smaller")
    qtbot.waitUntil(lambda: page.state.cells.name == "smaller")
    assert not page.lay_on.isVisible()


def test_cells_of_a_stack_with_channels_are_laid_on_it(open_page: Any, qtbot: Any) -> None:
    page = open_page()
    viewer = page.port.viewer
    labels = np.stack([disks(*FOUR)] * 3)
    values = np.stack([picture(plane) for plane in labels])
    image = viewer.add_image(
        np.stack([values] * 2, 1), name="stack", scale=(2, 1, 0.3, 0.3), translate=(1, 0, 2, 3)
    )
    page.port.set_axes("ZCYX")
    cells = viewer.add_labels(labels, name="from a file")
    qtbot.waitUntil(lambda: page.lay_on.isVisible())
    page.lay_on.click()
    qtbot.waitUntil(lambda: not page.lay_on.isVisible())
    assert page.state.cells.corner == (0, 0, 0)
    assert cells.data.shape == (3, 1, *labels.shape[1:])
    at = np.asarray(cells.data_to_world((2, 0, 4, 5)))[[0, 2, 3]]
    np.testing.assert_allclose(at, np.asarray(image.data_to_world((2, 0, 4, 5)))[[0, 2, 3]])


@pytest.mark.filterwarnings("ignore:data shape .* exceeds GL_MAX_TEXTURE_SIZE")
def test_of_a_plane_larger_than_a_texture_parts_are_drawn(
    open_page: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools and brush draw what they change alone, and the picture is that of the whole."""
    page, viewer, cells = with_cells(open_page)
    visual = viewer.window._qt_viewer.canvas.layer_to_visual[cells]
    visual.MAX_TEXTURE_SIZE_2D = 50
    cells.refresh()
    viewer.screenshot(canvas_only=True, flash=False)
    assert visual.node._texture.shape[:2] == (48, 40)
    page.cells.choose(page.state.cells.key)
    page.reviewed.wanted = False
    drawn: list[Any] = []
    monkeypatch.setattr(cells, "refresh", lambda *a, **k: drawn.append(k))
    page.strip.buttons["delete"].click()
    drag(qtbot, cells, (20, 20))
    assert labels_of(cells) == [2, 3, 4], page.state.said
    page.bench.choose("")
    cells.brush_size = 7
    cells.paint((61, 41), 9)
    qtbot.waitUntil(lambda: page.state.unsaved == 2)
    page.strip.undo.click()
    cells.paint((33, 95), 4)
    qtbot.waitUntil(lambda: page.state.unsaved == 2)
    qtbot.wait(50)
    assert labels_of(cells) == [2, 3, 4]
    assert not drawn
    monkeypatch.undo()
    parts = viewer.screenshot(canvas_only=True, flash=False)
    cells.refresh()
    whole = viewer.screenshot(canvas_only=True, flash=False)
    np.testing.assert_array_equal(parts, whole)
    assert (whole != whole[0, 0]).any()
    # where napari has no such transform, napari draws it
    theirs: list[Any] = []
    event = SimpleNamespace(offset=(0, 0), data=np.zeros((2, 2)))
    with monkeypatch.context() as patch:
        patch.setattr(visual, "_on_partial_labels_update", theirs.append)
        patch.setattr(cells, "_transforms", {})
        repaint._draw_part(weakref.ref(visual), event)
    assert theirs == [event]


def test_cells_that_cannot_be_changed_are_corrected_in_a_copy(
    open_page: Any, qtbot: Any, tmp_path: Path
) -> None:
    """Read-only, in a file, lazy, or of several resolutions: one click, then all tools."""
    truth = disks(*FOUR)
    fixed = truth.copy()
    fixed.flags.writeable = False
    np.save(tmp_path / "labels.npy", truth)
    zarr.save_array(tmp_path / "labels.zarr", truth)
    kinds: dict[str, Any] = {
        "read-only": fixed,
        "memory map": np.load(tmp_path / "labels.npy", mmap_mode="r"),
        "dask": da.from_array(truth.copy(), chunks=40),
        "zarr": zarr.open_array(tmp_path / "labels.zarr", mode="r"),
        "several": [truth.copy(), truth[::2, ::2].copy()],
    }
    page = open_page()
    viewer = page.port.viewer
    place = {"scale": (0.5, 0.5), "translate": (3, 7)}
    viewer.add_image(picture(truth), name="nuclei", **place)
    for kind, labels in kinds.items():
        cells = viewer.add_labels(labels, name=kind, **place)
        assert page.state.cells is None, kind
        assert page.copy.isVisible(), kind
        assert not page.to_segment.isVisible()
        page.copy.click()
        source = page.state.cells
        assert source is not None, kind
        assert not page.copy.isVisible()
        copy = viewer.layers.selection.active
        assert source.key == str(copy.unique_id)
        assert source.corner == (0, 0)
        key(viewer, "D")
        drag(qtbot, copy, (20, 20))
        assert labels_of(copy) == [2, 3, 4], (kind, page.state.said)
        # what was given is as it was, and napari draws on
        finest = labels[0] if kind == "several" else labels
        np.testing.assert_array_equal(np.asarray(finest), truth)
        assert (copy is cells) == (kind != "several")
        np.testing.assert_array_equal(copy.scale, (0.5, 0.5))
        np.testing.assert_array_equal(copy.translate, (3, 7))
        page.bench.choose("")
        viewer.screenshot(canvas_only=True)


@pytest.mark.both_bindings
def test_the_page_alone_finds_cells_beside_it(open_page: Any, qtbot: Any) -> None:
    """A page in a dock of its own opens the other one, behind tabs of one place."""
    page = open_page()
    viewer = page.port.viewer
    window = page.window()
    viewer.add_image(picture(disks(*FOUR)), name="nuclei")
    qtbot.waitUntil(page.to_segment.isVisible)
    page.to_segment.click()
    other = next(one for one in window.findChildren(SegmentDock))
    mine, its = (_dock_of(dock_of(page)), _dock_of(other))
    assert mine is not None
    assert its is not None
    qtbot.waitUntil(lambda: mine in window.tabifiedDockWidgets(its))
    qtbot.waitUntil(other.pages[0].isVisible)  # it lies in front
    # and at work
    assert page.session.running
    qtbot.waitUntil(lambda: not page.session.running, timeout=WAIT_MS)
    assert "nuclei cells" in viewer.layers
    # asked again, the same is brought to the front
    mine.raise_()
    qtbot.waitUntil(page.isVisible)
    page.to_segment.click()
    qtbot.waitUntil(other.pages[0].isVisible)
    assert len(window.findChildren(SegmentDock)) == 1
    other.shut()


@pytest.mark.both_bindings
def test_the_brush_is_laid_down(open_page: Any, qtbot: Any) -> None:
    """By Esc in the canvas or on the page, and once a cell is fixed."""
    page, viewer, cells = with_cells(open_page)
    for name in ("brush", "eraser"):
        page.bench.choose(name)
        assert str(cells.mode) in ("paint", "erase")
        assert "Esc" in page.strip.hint_text.text()
        key(viewer, "Escape")
        qtbot.waitUntil(lambda: str(cells.mode) == "pan_zoom")
        assert page.bench.tool is None
        page.bench.choose(name)
        qtbot.keyClick(page, Qt.Key.Key_Escape)
        assert str(cells.mode) == "pan_zoom"
    # taken up by napari's own key, it is laid down as well; Esc is napari's again after it
    cells.mode = "paint"
    key(viewer, "Escape")
    qtbot.waitUntil(lambda: str(cells.mode) == "pan_zoom")
    assert KeyBinding.from_str("Escape") not in cells.keymap

    qtbot.waitUntil(lambda: page.state.review.scored)
    page.controller.review.next()
    for done in (page.review.forward.click, lambda: key(viewer, "A"), page.accept_view):
        page.fix()
        assert str(cells.mode) == "paint"
        done()
        assert str(cells.mode) == "pan_zoom"
        assert page.bench.tool is None
        page.controller.review.choose(1)
    page.fix()
    dock_of(page).hide()
    assert str(cells.mode) == "pan_zoom"
    # a brush that was not taken up for one cell stays
    dock_of(page).show()
    qtbot.waitUntil(page.isVisible)
    page.bench.choose("brush")
    page.next()
    assert str(cells.mode) == "paint"


def test_a_mask_is_numbered_by_a_click(open_page: Any, qtbot: Any, home: Path) -> None:
    mask = (disks(*FOUR) > 0).astype(np.uint8)
    mask[2:90:3, 90:120:3] = 1  # more than 8 bits number
    page, _, cells = with_cells(open_page, mask)
    qtbot.waitUntil(page.mend.isVisible)
    assert page.odd.text().startswith("This looks like a mask")
    assert page.mend.text() == "Number the pieces"
    assert "Fiji" not in page.odd.text()  # the button does it
    assert page.strip.said.text() == ""
    page.accept_view()
    assert page.state.review.done == 0
    assert not page.keep.button.isEnabled()
    qtbot.mouseClick(page.mend, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not page.mend.isVisible())
    assert cells.data.max() == 4 + 30 * 10
    page.controller.undo()
    np.testing.assert_array_equal(cells.data, mask)
    qtbot.waitUntil(page.mend.isVisible)


def test_what_can_be_restored_in_words(qtbot: Any) -> None:
    box = OfferBox()
    qtbot.addWidget(box)
    one = Offer("a", "nuclei", 1, "1 step of work on “cells” over nuclei, today 17:03")
    two = Offer("b", "nuclei", 2, "2 steps of work on “cells” over nuclei, today 17:01")
    box.set_offers((one,))
    assert box.words.text().endswith("today 17:03, was never kept.")
    box.set_offers((two, one, one))
    assert "17:01, were never kept. 2 older pieces of work are offered" in box.words.text()
    box.set_offers((replace(one, is_whole=False),))
    assert "look whether your last steps are there" in box.words.text()


def test_the_brush_is_as_small_as_the_cells_and_buttons_stay(
    open_page: Any, qtbot: Any
) -> None:
    """A third of a cell, until a person chooses another; no tool moves what is below."""
    page, viewer, cells = with_cells(open_page)
    page.bench.choose("brush")
    assert cells.brush_size == 5  # of disks of 16 px
    cells.brush_size = 10
    page.bench.choose("eraser")
    assert cells.brush_size == 10
    page.bench.choose("")
    small = viewer.add_labels((disks(*FOUR)[::4, ::4]), name="small")
    small.mode = "paint"  # by napari's own button
    assert small.brush_size == 1
    small.mode = "pan_zoom"
    viewer.layers.selection.active = cells
    qtbot.waitUntil(lambda: page.state.review.scored, timeout=WAIT_MS)
    page.next()
    page.window().resize(1366, 740)
    qtbot.wait(300)

    def where() -> list[int]:
        qtbot.wait(20)
        buttons = (page.review.accept, page.review.fix, page.review.forward)
        return [button.mapTo(page, button.rect().topLeft()).y() for button in buttons]

    # a busy machine lays out late
    qtbot.waitUntil(lambda: len({tuple(where()) for _ in range(15)}) == 1, timeout=WAIT_MS)
    there = where()

    def moved() -> int:
        return max(abs(now - then) for now, then in zip(where(), there, strict=True))

    for tool in TOOLS:
        page.bench.choose(tool.name)
        assert moved() <= 1, tool.name
    page.bench.choose("")
    assert moved() <= 1
    page.fix()
    assert moved() <= 1
    page.accept()
    assert moved() <= 1
    page.controller.delete((20, 20))
    assert moved() <= 1


def test_all_that_is_reviewed_is_outlined(open_page: Any, qtbot: Any) -> None:
    """Its cells, however many; of a marked region the edge as well."""
    page, viewer, cells = with_cells(open_page)
    page.controller.mark("reviewed", [(5, 5), (5, 75), (35, 75), (35, 5)])
    qtbot.waitUntil(lambda: "reviewed" in viewer.layers)
    lines = viewer.layers["reviewed"].data == 1
    inside = {int(v) for v in np.unique(cells.data[lines])}
    assert inside == {0, 1, 2}  # two cells, and the edge of the region around them
    page.controller.undo()
    page.accept_view()
    assert page.state.review.done == 4
    qtbot.waitUntil(lambda: (viewer.layers["reviewed"].data == 1).any())
    lines = viewer.layers["reviewed"].data == 1
    assert {int(v) for v in np.unique(cells.data[lines])} == {1, 2, 3, 4}


def test_clicks_add_cut_and_take_away(open_page: Any, qtbot: Any) -> None:
    """Each click is answered by the engine and is one step of the history."""
    image, truth = synthetic_nuclei((160, 200), n=14, diameter=20, seed=3)
    missed, kept = 2, truth.copy()
    kept[truth == missed] = 0
    page = open_page()
    viewer = page.port.viewer
    viewer.add_image(image, name="nuclei 3")
    cells = viewer.add_labels(kept.copy(), name="cells")
    key(viewer, "C")
    assert page.strip.buttons["click"].isChecked()
    ys, xs = np.nonzero(truth == missed)
    point = (int(np.median(ys)), int(np.median(xs)))
    assert not cells.data[point]
    drag(qtbot, cells, point)
    qtbot.waitUntil(lambda: cells.data[point] != 0, timeout=WAIT_MS)
    new = cells.data == cells.data[point]
    assert (new & (truth == missed)).sum() / (new | (truth == missed)).sum() > 0.5
    np.testing.assert_array_equal(cells.data[kept > 0], kept[kept > 0])
    assert page.state.undo.startswith("Undo drawing of cell")
    key(viewer, "Control-Z")
    np.testing.assert_array_equal(cells.data, kept)

    # Alt-click takes a cell away
    ys, xs = np.nonzero(truth == 5)
    event_point = (int(np.median(ys)), int(np.median(xs)))
    alt_click(qtbot, cells, event_point)
    assert 5 not in labels_of(cells)
    key(viewer, "Control-Z")

    # a box that is dragged bounds what is made
    top, left, bottom, right = 2, 2, 22, 24
    drag(qtbot, cells, (top, left), (12, 12), (bottom, right))
    qtbot.waitUntil(lambda: bool(page.state.said.words), timeout=WAIT_MS)
    key(viewer, "Escape")
    qtbot.waitUntil(lambda: not page.strip.buttons["click"].isChecked())


def test_a_stack_is_walked_through_and_a_correction_is_carried(
    open_page: Any, qtbot: Any
) -> None:
    stack = np.stack([disks(*FOUR)] * 6)
    stack[4, 40:43, 95:118] = 9  # thin: the most doubtful cell of all planes
    page, viewer, cells = with_cells(open_page, stack, scale=(3, 1, 1))
    viewer.dims.set_current_step(0, 1)
    qtbot.waitUntil(lambda: page.state.review.scored, timeout=WAIT_MS)
    assert "0 of 5 cells on 6 planes" in page.review.title.text()
    key(viewer, "N")
    assert viewer.dims.current_step[0] == 4
    assert page.review.cell.text().startswith("Cell 9, plane 4: ")
    assert "plane 4 of 0–5" in page.place.text()
    key(viewer, "A")
    assert "1 of 5 cells" in page.review.title.text()
    assert page.state.review.label in (1, 2, 3, 4)
    # a linked cell is one, also where a person looks at it on the plane beside
    label = page.state.review.label
    viewer.dims.set_current_step(0, 2)
    assert page.state.review.label == label

    # corrected on one plane, carried by a key, looked at, and all of it taken back
    assert not page.carry.now.isEnabled()
    key(viewer, "D")
    drag(qtbot, cells, (2, 20, 20))
    assert page.carry.now.isEnabled()
    key(viewer, "J")
    assert not (cells.data == 1).any()
    assert page.carry.words.text() == "Carried to planes 0–1 and 3–5."
    assert page.carry.below.isVisible()
    assert cells.metadata["napari-sa2net"]["carried"][0]["from"] == [2]
    page.carry.look.click()
    assert viewer.dims.current_step[0] == 3
    qtbot.waitUntil(lambda: "reviewed" in viewer.layers, timeout=WAIT_MS)
    key(viewer, "Control-Z")
    assert (cells.data == 1).any(axis=(1, 2)).all()
    assert not page.carry.below.isVisible()
    assert cells.metadata["napari-sa2net"]["carried"] == []

    # every correction, as long as the switch is on: a stroke of the brush, too
    page.carry.switch.click()
    viewer.dims.set_current_step(0, 2)
    key(viewer, "S")
    drag(qtbot, cells, (2, 60, 8), (2, 60, 32))
    parts = [len(np.unique(plane[52:69, 12:29])) for plane in cells.data]
    assert parts == [3] * 6
    page.carry.switch.click()

    # one plane has no neighbours
    viewer.add_image(picture(disks(*FOUR)), name="flat")
    flat = viewer.add_labels(disks(*FOUR), name="flat cells")
    viewer.layers.selection.active = flat
    qtbot.waitUntil(lambda: page.state.cells.key == str(flat.unique_id))
    assert not page.carry.isVisible()
    assert "of 4 cells, most" in page.review.title.text()


def test_outlines_are_looked_for_only_where_something_is_reviewed(
    open_page: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_sa2net.widgets.napari_port.reviewed_layer._BLOCK", 16)
    page, viewer, _ = with_cells(open_page)
    whole, looked_at = (0, 96, 0, 120), list[tuple[int, ...]]()
    lines = page.reviewed._lines

    def noted(session: Any, index: Any, box: Any) -> Any:
        looked_at.append(box)
        return lines(session, index, box)

    page.controller.accept(1)
    page.controller.mark("ignore", [(70, 90), (70, 110), (90, 110), (90, 90)])
    page.controller.review.choose(4)
    page._show_outlines()
    page.reviewed.hide()
    monkeypatch.setattr(page.reviewed, "_lines", noted)
    page._show_outlines()
    made = viewer.layers["reviewed"].data
    assert set(np.unique(made)) == {0, 1, 2, 3, 4}
    assert np.array_equal(made, lines(page.controller.session, (), whole))
    assert sum((b - a) * (d - c) for a, b, c, d in looked_at) < 0.5 * made.size


def test_cells_of_a_plane_that_is_not_shown_are_not_corrected(
    open_page: Any, qtbot: Any
) -> None:
    page = open_page()
    viewer = page.port.viewer
    image = np.stack([picture(disks(*FOUR))] * 4)
    viewer.add_image(image, name="stack", scale=(2, 1, 1))
    place = {"scale": (2, 1, 1), "translate": (4, 0, 0)}
    cells = viewer.add_labels(np.stack([disks(*FOUR)]), name="cells", **place)
    viewer.dims.set_current_step(0, 0)
    before = cells.data.copy()
    for tool in ("delete", "brush"):
        page.bench.toggle(tool)
        assert page.bench.tool is None
    assert not page.controller.delete([1])
    assert "move the slider to 2" in page.state.said.words
    assert "move the slider to 2" in page.place.text()
    assert np.array_equal(cells.data, before)
    # the walk through them comes to where they are
    page.next()
    assert viewer.dims.current_step[0] == 2
    page.bench.toggle("delete")
    drag(qtbot, cells, (0, 20, 20))
    assert labels_of(cells) == [2, 3, 4]
