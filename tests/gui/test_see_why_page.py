"""The See-why page by its buttons: real viewer, real engine process, real network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from app_model.types import KeyBinding
from napari.layers import Labels
from qtpy.QtWidgets import QTabWidget

from napari_sa2net.app.session import CHANGE, STAGE, WHAT_IF
from napari_sa2net.config import InstanceConfig
from napari_sa2net.data import read_image
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets.napari_port.picking import KEY
from napari_sa2net.widgets.napari_port.reading import camera_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

    OpenDock = Callable[[], SA2NetDock]

#: generous: on a busy machine the engine takes long to import torch
WAIT_MS = 180_000
pytestmark = pytest.mark.timeout(600)


def nuclei(shape: tuple[int, int] = (160, 200), seed: int = 0) -> Any:
    return synthetic_nuclei(shape, n=12, diameter=20, seed=seed)[0]


def parts(dock: SA2NetDock, qtbot: QtBot) -> tuple[Any, Any, Any]:
    """Viewer, See-why page, session; the page is in front and can be seen."""
    dock.window().show()
    tabs = dock.findChild(QTabWidget)
    if tabs is not None:
        tabs.setCurrentIndex(1)
    page: Any = dock.pages[0 if tabs is None else 1]
    qtbot.waitUntil(page.isVisible)
    return page.port.viewer, page, page.session


def look(qtbot: QtBot, page: Any) -> None:
    """Press Look inside and wait for the end."""
    page.button.click()
    assert page.session.running
    qtbot.waitUntil(lambda: not page.session.running, timeout=WAIT_MS)
    assert page.session.error is None


def why_names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers if layer.name.startswith("why: ")]


class Mouse:
    """A mouse event as napari hands it to callbacks."""

    def __init__(self, position: tuple[float, ...], button: int = 1) -> None:
        self.position = position
        self.pos = np.zeros(2)
        self.button = button
        self.modifiers: tuple[Any, ...] = ()
        self.type = "mouse_press"


def click(viewer: Any, position: tuple[float, ...], move: float = 0.0) -> None:
    event = Mouse(position)
    for callback in list(viewer.mouse_drag_callbacks):
        generator = callback(viewer, event)
        next(generator, None)
        if move:
            event.type, event.pos = "mouse_move", np.array([move, 0])
            next(generator, None)
        event.type = "mouse_release"
        next(generator, None)


def middle_of(layer: Labels, label: int) -> Any:
    """World position of a pixel inside a cell."""
    where = np.argwhere(np.asarray(layer.data) == label)
    return layer.data_to_world(where[len(where) // 2])


@pytest.mark.both_bindings
def test_look_try_inspect_close(open_dock: OpenDock, qtbot: QtBot) -> None:
    """The whole way: look inside, layers, stages, one cell, what if; then close."""
    dock = open_dock()
    callbacks = list(dock.pages[0].port.viewer.mouse_drag_callbacks)  # type: ignore[attr-defined]
    viewer, page, session = parts(dock, qtbot)
    assert not page.empty.isHidden()
    assert page.work.isHidden()
    assert page.inside.isHidden()

    source = viewer.add_image(
        nuclei(), name="nuclei", scale=(0.5, 0.5), rotate=20, units=("um", "um")
    )
    assert page.empty.isHidden()
    assert not page.teach.isHidden()
    camera = (camera_of(viewer).zoom, camera_of(viewer).center)
    look(qtbot, page)
    why = session.why
    (cells,) = (layer for layer in viewer.layers if isinstance(layer, Labels))
    assert cells.name == "nuclei cells"
    assert cells.contour > 0
    assert page.teach.isHidden()
    assert why_names(viewer) == []
    assert set(why.maps) == set(page.tiles.tiles)

    # every map lies where the network looked, under the image's rotation
    for name in page.tiles.tiles:
        page.tiles.tiles[name].click()
    assert len(why_names(viewer)) == 13
    for name, shown in session.why.maps.items():
        layer = page.port.maps.layer(why.image_key, name)
        for pixel in ((0, 0), np.subtract(shown.values.shape, 1)):
            there = np.array(shown.translate) + np.array(shown.scale) * pixel
            here = source.world_to_data(layer.data_to_world(pixel))
            np.testing.assert_allclose(here, there, atol=1e-6)
        # and it covers the image, edge to edge, to one of its pixels
        ends = np.array([-0.5, -0.5]), np.subtract(shown.values.shape, 0.5)
        low, high = (source.world_to_data(layer.data_to_world(end)) for end in ends)
        np.testing.assert_allclose(low, -0.5, atol=0.5 * shown.scale[0])
        np.testing.assert_allclose(
            high, np.subtract(source.data.shape, 0.5), atol=shown.scale[0]
        )
    assert viewer.layers.selection.active is source
    assert (camera_of(viewer).zoom, camera_of(viewer).center) == camera
    assert page.detail.title.text() == "detail full"

    for name in list(page.tiles.tiles)[:-1]:
        page.tiles.tiles[name].click()
    assert why_names(viewer) == ["why: detail full (nuclei)"]
    # a layer that the person deletes
    viewer.layers.remove(page.port.maps.layer(why.image_key, "aua_1"))
    assert not page.tiles.tiles["aua_1"].isChecked()

    # one channel of a local gate
    page.tiles.tiles["local_gate_2"].click()
    page.detail.channel.setValue(3)
    qtbot.waitUntil(lambda: session.why.maps["local_gate_2"].channel == 2, timeout=WAIT_MS)
    assert why_names(viewer) == ["why: nearby 2, channel 2 (nuclei)"]
    page.detail.channel.setValue(0)
    qtbot.waitUntil(lambda: session.why.maps["local_gate_2"].channel is None, timeout=WAIT_MS)
    page.tiles.tiles["local_gate_2"].click()

    # the boundary, stage by stage
    page.stages.slider.setValue(0)
    outlines = page.port.maps.layer(why.image_key, STAGE)
    np.testing.assert_array_equal(outlines.data, why.result.stages[8])
    page.stages.slider.setValue(3)
    np.testing.assert_array_equal(outlines.data, cells.data)
    page.stages.change.click()
    change = page.port.maps.layer(why.image_key, CHANGE).data
    stages = why.result.stages
    np.testing.assert_array_equal(change, (stages[1] > 0).astype(int) - (stages[2] > 0))

    # a cell by a click, by the key, by jumping
    labels = [int(n) for n in np.unique(cells.data) if n]
    click(viewer, middle_of(cells, labels[0]), move=30)
    click(viewer, middle_of(cells, labels[0]))
    qtbot.waitUntil(lambda: session.why.inspection is not None, timeout=WAIT_MS)
    assert session.why.inspection.label == labels[0]
    assert page.cell.title.text() == f"Cell {labels[0]}"
    assert len(page.cell.plot.curves()) == 4
    cells.selected_label = labels[-1]
    viewer.keymap[KeyBinding.from_str(KEY)](viewer)
    qtbot.waitUntil(lambda: session.why.inspection.label == labels[-1], timeout=WAIT_MS)
    ranked = cells.features.sort_values("refinement_px", ascending=False)["label"]
    page.stages.refined.click()
    assert cells.selected_label == ranked.iloc[0]
    centre = np.array(source.data_to_world(np.argwhere(cells.data == ranked.iloc[0]).mean(0)))
    np.testing.assert_allclose(camera_of(viewer).center[1:], centre, atol=3)
    page.stages.refined.click()
    assert cells.selected_label == ranked.iloc[1]
    page.stages.contested.click()
    top = cells.features.sort_values("contested", ascending=False)["label"].iloc[0]
    assert cells.selected_label == top

    # what if
    page.what_if.gates[0].click()
    qtbot.waitUntil(lambda: session.why.what_if_result is not None, timeout=WAIT_MS)
    page.what_if.gammas[3].slider.setValue(0)
    qtbot.waitUntil(lambda: "Trying" not in page.what_if.line.text(), timeout=WAIT_MS)
    tried = session.why.what_if_result
    layer = page.port.maps.layer(why.image_key, WHAT_IF)
    np.testing.assert_array_equal(layer.data, session.why.what_if_result.change)
    assert int((tried.change > 0).sum()) == tried.gained_px
    page.what_if.reset.click()
    assert WHAT_IF not in session.why.shown
    assert page.what_if.line.text() == "As trained"
    assert not page.what_if.keep.isEnabled()

    # the same layers take a second run
    page.tiles.tiles["aua_8"].click()
    assert "why: this cell (nuclei)" in viewer.layers
    before = [layer for layer in viewer.layers if layer.name != "why: this cell (nuclei)"]
    look(qtbot, page)
    assert list(viewer.layers) == before
    assert session.why.key != why.key

    # edited cells are inspected as they are, and a new run leaves them alone
    new = int(cells.data.max()) + 1
    block = np.indices((20, 30)).reshape(2, -1) + 60
    cells.data_setitem(tuple(block), new)
    assert session.sliders == "edited"
    page.inspect(new)
    qtbot.waitUntil(lambda: session.why.inspection is not None, timeout=WAIT_MS)
    np.testing.assert_allclose(session.why.inspection.centre, (69.5, 74.5), atol=1)
    kept = cells.data.copy()
    look(qtbot, page)
    np.testing.assert_array_equal(cells.data, kept)
    assert sum(layer.name.startswith("nuclei cells") for layer in viewer.layers) == 1

    # closed, the layers stay and nothing of ours is left in the viewer
    before = list(viewer.layers)
    viewer.window.remove_dock_widget(dock)
    assert list(viewer.layers) == before
    assert KeyBinding.from_str(KEY) not in viewer.keymap
    assert viewer.mouse_drag_callbacks == callbacks
    viewer.layers.clear()


def test_a_what_if_is_kept_as_a_model_and_undone(open_dock: OpenDock, qtbot: QtBot) -> None:
    """By the buttons, under a name that is free; the variant is looked into meanwhile."""
    viewer, page, session = parts(open_dock(), qtbot)
    viewer.add_image(nuclei((96, 112)), name="nuclei")
    look(qtbot, page)
    section, parent = page.what_if, session.model
    section.gates[0].click()
    section.gammas[3].spin.setValue(0)
    qtbot.waitUntil(lambda: session.why.what_if_result is not None, timeout=WAIT_MS)
    section.keep.click()
    assert section.name_row.field.text() == f"{parent}-variant"
    section.name_row.field.setText("nuclei")
    section.name_row.ok.click()
    qtbot.waitUntil(lambda: "called 'nuclei' already" in section.kept.text())
    assert not section.name_row.isHidden()
    section.name_row.field.setText("finer cells")
    section.name_row.ok.click()
    qtbot.waitUntil(lambda: session.model == "finer cells")
    qtbot.waitUntil(lambda: "finer cells" in section.kept.text())
    assert "scores have not been measured" in section.kept.text()
    assert section.name_row.isHidden()
    assert not section.keep.isEnabled(), "it is kept already"
    assert "finer cells" in [entry.name for entry in session.models]
    # Looked into, it begins with its own switches and γ, and can still be taken back.
    own = session.why.what_if
    look(qtbot, page)
    assert session.why.model == "finer cells"
    assert session.why.what_if.is_default
    assert not section.gates[0].isChecked()
    assert section.gammas[3].value() == 0
    assert section.line.text() == "As trained"
    section.undo.click()
    qtbot.waitUntil(lambda: session.model == parent)
    qtbot.waitUntil(lambda: section.undo.isHidden())
    assert "finer cells" not in [entry.name for entry in session.models]
    assert section.kept.text() == ""
    look(qtbot, page)
    page.controller.set_what_if(own)
    qtbot.waitUntil(lambda: session.why.what_if_result is not None, timeout=WAIT_MS)
    assert section.keep.isEnabled()


def test_view_of_a_stack_in_colour(open_dock: OpenDock, qtbot: QtBot) -> None:
    """A part of one time point of an RGB time-lapse, turned and scaled."""
    dock = open_dock()
    viewer, page, session = parts(dock, qtbot)
    frames = np.stack([np.repeat(nuclei((128, 160), s)[..., None], 3, 2) for s in range(3)])
    frames = (255 * (frames / frames.max())).astype(np.uint8)
    image = viewer.add_image(
        frames, name="movie", rgb=True, scale=(1, 2, 2), affine=np.diag([1, 0.5, 0.5, 1])
    )
    viewer.dims.set_current_step(0, 2)
    page.region_row.view.click()
    assert session.where == "view"
    camera_of(viewer).zoom = max(viewer.canvas.size) / 80
    camera_of(viewer).center = (0, 64, 90)
    assert page.plane.text() == "plane 2 of 0–2"
    look(qtbot, page)
    result = session.why.result
    assert result.index == (2,)
    y0, y1, x0, x1 = result.box
    assert (y1 - y0, x1 - x0) < (128, 160)
    page.tiles.tiles["aua_4"].click()
    layer = page.port.maps.layer(session.why.image_key, "aua_4")
    shown = session.why.maps["aua_4"]
    assert layer.data.shape == (1, *shown.values.shape)
    for y, x in ((0, 0), np.subtract(shown.values.shape, 1)):
        there = (2, *(np.array(shown.translate) + np.array(shown.scale) * (y, x)))
        here = image.world_to_data(layer.data_to_world((0, y, x)))
        np.testing.assert_allclose(here, there, atol=1e-6)
    low = np.array(image.world_to_data(layer.data_to_world((0, -0.5, -0.5))))[1:]
    # the first pixel of the map is the one that the corner of the view lies in
    before = np.array((y0 - 0.5, x0 - 0.5)) - low
    assert ((before > -1e-6) & (before < shown.scale)).all()
    # another time point is shown: the page says which one it tells of
    viewer.dims.set_current_step(0, 0)
    qtbot.waitUntil(lambda: "in plane 2 of 0–2" in page.plane.text(), timeout=5000)
    # channels that were read as planes are pointed out here, too
    assert page.misread.isHidden()
    viewer.layers.clear()
    viewer.add_image(np.dstack([nuclei()] * 5), name="five", rgb=False)
    assert page.misread.isVisible()
    words = page.misread.notice.text().replace("\u00a0", " ")
    assert words.startswith("Read as 160 planes of 200 × 5 pixels; if the last axis holds")
    page.misread.split.click()
    assert len(viewer.layers) == 5
    assert page.misread.isHidden()


def test_whatever_happens_in_mid_run(open_dock: OpenDock, qtbot: QtBot) -> None:
    dock = open_dock()
    viewer, page, session = parts(dock, qtbot)
    large = np.tile(nuclei((256, 256)), (3, 3))
    page._workspace.controller.set_predict(
        session.predict.model_copy(update={"tile": 256, "diameter": 20.0})
    )
    first = viewer.add_image(large, name="first")

    def under_way() -> None:
        page.button.click()
        qtbot.waitUntil(
            lambda: session.progress is not None and session.progress.done > 0,
            timeout=WAIT_MS,
        )

    # cancel, on whichever page
    under_way()
    assert page.button.text() == "Cancel"
    other: Any = dock.pages[0]
    assert other.button.text() == "Cancel"
    other.button.click()
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    assert session.why is None
    assert list(viewer.layers) == [first]

    # the image is deleted
    under_way()
    viewer.layers.remove(first)
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    assert len(viewer.layers) == 0
    assert not page.empty.isHidden()
    assert session.error is None

    # another is chosen: the result waits at its own
    small = viewer.add_image(nuclei(), name="small")
    page.button.click()
    second = viewer.add_image(np.zeros((40, 40)), name="second")
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    assert session.error is None
    assert session.why is None
    viewer.layers.selection.active = small
    assert session.why is not None
    page.tiles.tiles["aua_1"].click()

    # an image that is the same everywhere: said, and nothing to try
    viewer.layers.selection.active = second
    look(qtbot, page)
    assert "same" in page.note.text()
    assert not page.what_if.controls.isEnabled()
    assert not page.tiles.tiles["aua_1"].isEnabled()

    # an image without cells
    second.data = np.add.outer(np.arange(40.0), np.arange(40.0))
    none = InstanceConfig(min_size=10**6)
    page._workspace.controller.set_instances(none)
    look(qtbot, page)
    assert page.note.isHidden()
    page.stages.refined.click()
    page.tiles.tiles["scale_gate_1"].click()
    page.stages.slider.setValue(1)
    page.what_if.gates[2].click()
    qtbot.waitUntil(lambda: session.why.what_if_result is not None, timeout=WAIT_MS)
    assert session.error is None

    # the page is closed and opened again while another holds the session
    from napari_sa2net.widgets.dock import SeeWhyDock

    viewer.layers.selection.active = small
    alone = SeeWhyDock(viewer)
    viewer.window.add_dock_widget(alone, name="See why")
    viewer.window.remove_dock_widget(dock)
    _, again, session = parts(alone, qtbot)
    assert session.why is not None
    assert again.tiles.tiles["aua_1"].isChecked()
    again.tiles.tiles["aua_1"].click()
    assert "why: detail full (small)" not in why_names(viewer)
    # and the pixels change under it
    again.tiles.tiles["aua_1"].click()
    small.data = small.data[::-1]
    assert session.why is None
    look(qtbot, again)
    again.tiles.tiles["aua_1"].click()
    assert why_names(viewer).count("why: detail full (small)") == 1
    viewer.window.remove_dock_widget(alone)


@pytest.mark.parametrize("kind", ["fluo", "rgb"])
def test_a_real_image(open_dock: OpenDock, qtbot: QtBot, shared_dir: Path, kind: str) -> None:
    import csv

    folder = shared_dir / "data" / "dsb2018"
    if not (folder / "index.csv").is_file():
        pytest.skip("no real images")
    with (folder / "index.csv").open(encoding="utf-8") as file:
        names = [
            row["name"]
            for row in csv.DictReader(file)
            if row["split"] == "test" and row["kind"] == kind and int(row["height"]) <= 260
        ]
    dock = open_dock()
    viewer, page, session = parts(dock, qtbot)
    page._workspace.controller.set_model("nuclei")
    image = viewer.add_image(read_image(folder / "test" / "images" / names[0]).array)
    look(qtbot, page)
    for name in ("scale_gate_1", "aua_2"):
        page.tiles.tiles[name].click()
        layer = page.port.maps.layer(session.why.image_key, name)
        assert np.isfinite(layer.data).all()
        assert np.ptp(layer.data) > 0
        low, high = layer.contrast_limits
        assert (low, high) == (0, 1) or low == pytest.approx(-high)
    assert layer.blending == ("additive" if kind == "fluo" else "translucent_no_depth")
    cells = page.port.result_layer(session.why.key)
    assert cells.data.max() > 2
    assert {"refinement_px", "contested", "scale_gate_1"} <= set(cells.features.columns)
    assert image in viewer.layers


def test_corrected_cells_stay_alone_and_are_looked_into(
    open_dock: OpenDock, qtbot: QtBot
) -> None:
    """No second layer over them, no second search for their size, and the answer is in view."""
    dock = open_dock()
    viewer, page, session = parts(dock, qtbot)
    dock.window().resize(1366, 720)
    viewer.add_image(nuclei(), name="nuclei")
    dock.pages[0].button.click()  # type: ignore[attr-defined]
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    cells = viewer.layers["nuclei cells"]
    found = session.found_diameter
    before = cells.data.copy()
    gone, merged = (int(v) for v in np.unique(before)[1:3])
    cells.data_setitem(np.nonzero(before == gone), merged)
    said: set[str] = set()
    session.events.progress.connect(lambda now: said.add(str(now)))
    look(qtbot, page)
    assert not [words for words in said if "size" in words]
    assert session.found_diameter == found
    assert [layer.name for layer in viewer.layers if isinstance(layer, Labels)] == [
        "nuclei cells"
    ]
    assert gone not in cells.data
    assert not viewer.layers.selection.active or cells.visible
    # its cells are asked about, in their order of doubt
    ranked = page.port.ranked(session.why.key, "refinement_px")
    assert set(ranked) <= set(np.unique(cells.data)) - {0}
    assert merged in ranked
    click(viewer, middle_of(cells, merged))
    qtbot.waitUntil(lambda: session.why.inspection is not None, timeout=WAIT_MS)
    assert session.why.inspection.label == merged
    area = page.parentWidget().parentWidget()

    def in_view() -> bool:
        top = page.cell.mapTo(page, page.cell.rect().topLeft()).y()
        bar = area.verticalScrollBar().value()
        return bool(bar <= top and top + 100 <= bar + area.viewport().height())

    qtbot.waitUntil(in_view)

    # a map is described while it is shown
    tile = page.tiles.tiles["aua_1"]
    tile.click()
    assert page.detail.title.text() == "detail full"
    tile.click()
    assert page.detail.title.isHidden()
    assert page.detail.bar.isHidden()
    tile.click()
    page.tiles.tiles["aua_2"].click()
    assert page.detail.title.text() == "detail 1/2"
    viewer.layers.remove(page.port.maps.layer(session.why.image_key, "aua_2"))
    assert page.detail.title.text() == "detail full"


def test_cells_of_others_are_not_covered(open_dock: OpenDock, qtbot: QtBot) -> None:
    """The cells that come with the maps are hidden where cells are seen already."""
    viewer, page, session = parts(open_dock(), qtbot)
    image, truth = synthetic_nuclei((160, 200), n=12, diameter=20, seed=0)
    viewer.add_image(image, name="nuclei")
    mine = viewer.add_labels(truth.astype(np.int32), name="mine")
    viewer.layers.selection.active = viewer.layers["nuclei"]
    look(qtbot, page)
    made = page.port.result_layer(session.why.key)
    assert made is not mine
    assert not made.visible
    assert mine.visible
    # what is not seen is not corrected, measured and listed in the place of what is
    assert page._workspace.cells.current is mine
    assert {name for _, name in page._workspace.cells.choices()} == {"mine", made.name}
    viewer.layers.selection.active = made
    assert page._workspace.cells.current is made
