"""Segmenting one part of an image after another: cells elsewhere stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from napari.layers import Labels, Shapes

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.measure import object_table
from napari_sa2net.widgets.napari_port.reading import camera_of, layer_key

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

    OpenDock = Callable[[], SA2NetDock]

WAIT_MS = 180_000
pytestmark = pytest.mark.timeout(600)


class Window:
    """A dock over one image, and a camera that shows parts of it."""

    def __init__(self, dock: SA2NetDock, qtbot: QtBot, image: Any, **more: Any) -> None:
        self.qtbot = qtbot
        self.workspace: Any = dock.workspace
        self.page: Any = dock.pages[0]
        self.viewer = self.workspace.port.viewer
        self.image = self.viewer.add_image(image, name="nuclei", **more)
        self.page.size_row.spin.setValue(20)

    def look(self, y: float, x: float, pixels: float) -> None:
        camera_of(self.viewer).zoom = max(self.viewer.canvas.size) / pixels
        camera_of(self.viewer).center = (0, y, x)

    def segment(self) -> None:
        self.page.button.click()
        session = self.workspace.session
        self.qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
        assert session.error is None

    @property
    def results(self) -> list[Labels]:
        return [layer for layer in self.viewer.layers if isinstance(layer, Labels)]

    def on_image(self, layer: Labels) -> np.ndarray:
        """Labels in the place that they have in the image."""
        whole = np.zeros(self.image.data.shape, np.int32)
        corner = np.round(self.image.world_to_data(layer.data_to_world((0,) * layer.ndim)))
        where = zip(corner.astype(int), layer.data.shape, strict=True)
        whole[tuple(slice(a, a + n) for a, n in where)] = layer.data
        return whole

    def true_table(self, layer: Labels) -> bool:
        want = object_table(self.on_image(layer)) if layer.ndim == 2 else None
        features = layer.features
        if want is None or list(features["label"]) != list(want["label"]):
            return False
        return bool(np.allclose(features["centroid_x"], want["centroid_x"]))


def test_views_add_up(open_dock: OpenDock, qtbot: QtBot) -> None:
    image = synthetic_nuclei((300, 400), n=40, diameter=20, seed=3)[0]
    window = Window(open_dock(), qtbot, image, scale=(0.5, 0.5))
    page = window.page
    page.region_row.view.click()
    window.look(75, 50, 150)
    window.segment()
    (cells,) = window.results
    assert window.workspace.session.sliders_note == ""
    first = window.on_image(cells)
    seen = np.zeros(first.shape, bool)
    y, x = (int(v) for v in np.round(window.image.world_to_data(cells.data_to_world((0, 0)))))
    seen[y : y + cells.data.shape[0], x : x + cells.data.shape[1]] = True

    window.look(75, 120, 150)
    window.segment()
    assert window.results == [cells]
    assert "segmented last; cells elsewhere stay" in window.workspace.session.sliders_note
    both = window.on_image(cells)
    box = window.workspace.session.image.view
    here = np.zeros(first.shape, bool)
    here[box[0] : box[1], box[2] : box[3]] = True
    # elsewhere all is as it was, but for cells that go on over the seam
    elsewhere = seen & ~here
    assert (first[elsewhere] > 0).any()
    np.testing.assert_array_equal(both[elsewhere] > 0, first[elsewhere] > 0)
    assert (both[here & ~seen] > 0).any()
    # a cell that both saw a part of is one cell: as the whole image would have it
    seam = here[:, 1:] & ~here[:, :-1]
    a, b = both[:, :-1][seam], both[:, 1:][seam]
    touching = (a > 0) & (b > 0)
    assert (a[touching] == b[touching]).mean() > 0.8
    qtbot.waitUntil(lambda: window.true_table(cells), timeout=WAIT_MS)
    n = len(cells.features)
    assert page.result.summary.text().replace("\u00a0", " ").startswith(f"{n} cell")

    def known() -> bool:
        # not of cells that were put together of what two runs saw
        features = cells.features
        seen_now = {*both[here].tolist()} - {*both[~here].tolist()}
        as_before = [label for label in np.unique(both[~here]).tolist() if label > 0]
        as_before = [n for n in as_before if np.array_equal(both == n, first == n)]
        wanted = features["label"].isin([*seen_now, *as_before])
        return bool(features["confidence"][wanted].notna().all())

    qtbot.waitUntil(known, timeout=20_000)

    # sliders act on the part that was segmented last, and on what reaches into it
    apart = elsewhere & (first > 0) & ~np.isin(first, first[here])
    assert apart.any()
    assert page.result.form.isEnabled()
    page.result.foreground.spin.setValue(0.9)
    qtbot.waitUntil(
        lambda: int((window.on_image(cells)[here] > 0).sum()) < int((both[here] > 0).sum()),
        timeout=WAIT_MS,
    )
    assert (window.on_image(cells)[apart] > 0).all()
    # the same part again
    window.segment()
    assert window.results == [cells]
    assert (window.on_image(cells)[apart] > 0).all()

    # taken back and done again
    now = window.on_image(cells)
    correct = window.workspace.correct
    assert "area" in correct.state.undo
    assert correct.undo()
    np.testing.assert_array_equal(window.on_image(cells), first)
    assert correct.redo()
    np.testing.assert_array_equal(window.on_image(cells), now)
    qtbot.waitUntil(lambda: window.true_table(cells), timeout=WAIT_MS)

    # edited by now: another part inside the layer is one more step, what is reviewed stays
    label = int(now[now > 0][0])
    assert correct.accept(label)
    cell = now == label
    window.look(75, 60, 100)
    window.segment()
    assert window.results == [cells]
    np.testing.assert_array_equal(window.on_image(cells) == label, cell)
    assert "segmenting of an area" in correct.state.undo
    # and one that reaches beyond is a layer of its own: nothing is lost
    kept = cells.data.copy()
    window.look(120, 180, 100)
    window.segment()
    assert len(window.results) == 2
    np.testing.assert_array_equal(cells.data, kept)


def test_planes_add_up(open_dock: OpenDock, qtbot: QtBot) -> None:
    stack = np.stack(
        [synthetic_nuclei((128, 128), n=8, diameter=20, seed=i)[0] for i in range(4)]
    )
    window = Window(open_dock(), qtbot, stack, scale=(3, 1, 1))
    window.page.region_row.plane.click()
    window.viewer.dims.set_current_step(0, 0)
    window.segment()
    (cells,) = window.results
    first = window.on_image(cells)
    assert first[0].any()
    window.viewer.dims.set_current_step(0, 2)
    window.segment()
    assert window.results == [cells]
    both = window.on_image(cells)
    np.testing.assert_array_equal(both[0], first[0])
    assert both[2].any()
    assert not both[1].any()
    assert not {*both[0][both[0] > 0]} & {*both[2][both[2] > 0]}
    # the whole stack takes the place of its parts
    window.page.region_row.all.click()
    window.segment()
    assert window.results == [cells]
    assert window.on_image(cells).any(axis=(1, 2)).all()


@pytest.mark.both_bindings
def test_an_area_is_drawn_with_naparis_own_tool(open_dock: OpenDock, qtbot: QtBot) -> None:
    image = synthetic_nuclei((300, 400), n=40, diameter=20, seed=3)[0]
    window = Window(open_dock(), qtbot, image, scale=(0.5, 0.5), translate=(10, 20))
    page, viewer, session = window.page, window.viewer, window.workspace.session
    page.region_row.area.click()
    (shapes,) = [one for one in viewer.layers if isinstance(one, Shapes)]
    assert viewer.layers.selection.active is shapes
    assert shapes.mode == "add_rectangle"
    assert session.image.key == layer_key(window.image)
    # nothing is drawn yet: it says what to do, and nothing runs
    page.button.click()
    assert not session.running
    assert "Drag a rectangle" in session.error.message
    assert not page.hint.isHidden()
    assert page.hint_text.text() == "Drag a rectangle over the image, then press Segment."
    # what is drawn hides no cells
    assert to_rgba(shapes.current_face_color)[3] == 0

    shapes.add_rectangles(np.array([[50, 100], [149.5, 249.5]]))
    assert page.hint.isHidden()
    assert session.image.area == (50, 150, 100, 250)
    window.workspace.controller.dismiss_error()
    window.segment()
    assert session.image.area == (50, 150, 100, 250)
    (cells,) = window.results
    whole = window.on_image(cells)
    inside = np.zeros(whole.shape, bool)
    inside[50:150, 100:250] = True
    assert whole[inside].any()
    assert not whole[~inside].any()

    # of several the selected one, also on a layer that a person made with another scale
    other = viewer.add_shapes(
        [np.array([[0, 0], [0, 9], [9, 9], [9, 0]]), np.array([[20, 40], [20, 60], [40, 50]])],
        shape_type=["rectangle", "polygon"],
        scale=(2, 2),
    )
    other.selected_data = {1}
    viewer.layers.selection.active = other
    window.workspace.refresh_image()
    y0, y1, x0, x1 = session.image.area
    assert (y0, y1) == (60, 141)
    assert (x0, x1) == (120, 201)
    # clicked again it stays: something is drawn already
    n = len(viewer.layers)
    page.region_row.whole.click()
    page.region_row.area.click()
    assert len(viewer.layers) == n


def test_an_area_on_a_stack_is_of_every_plane(open_dock: OpenDock, qtbot: QtBot) -> None:
    plane = synthetic_nuclei((120, 160), n=9, diameter=20, seed=3)[0]
    window = Window(open_dock(), qtbot, np.stack([plane, plane[::-1]]), scale=(4, 1, 1))
    window.viewer.dims.set_point(0, 4)
    window.viewer.add_shapes([np.array([[10, 20], [10, 79], [59, 79], [59, 20]])])
    window.page.region_row.area.click()
    window.workspace.refresh_image()
    assert window.workspace.session.image.area == (10, 60, 20, 80)
