"""Choose an object: by a click, by a key, or by jumping to it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import QTimer

from napari_sa2net.widgets.napari_port.reading import (
    camera_of,
    canvas_size,
    in_layer_units,
    in_viewer_units,
    visible_box,
)

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from numpy.typing import NDArray

#: no binding of napari's own, neither of the viewer nor of any kind of layer
KEY = "W"
#: screen pixels that a mouse may move between press and release of a click
SLACK = 4.0
#: of the canvas's shorter side an object takes so much at least, and at most; else it is
#: zoomed to until it takes the middle of the three
LEAST, GOOD, MOST = 0.08, 0.15, 0.7
#: of its surroundings so much is seen on every side, in sides of an object
AROUND = 0.75
#: milliseconds for which an object that was chosen in a table is shown alone
BLINK_MS = 500


class CellPicker:
    """Tells which object of a layer was clicked, while it is on.

    Parameters
    ----------
    viewer : Viewer
    labels : callable
        The layer whose objects can be clicked; None for none.
    picked : callable
        Called with a label.
    with_key : bool
        Also by the key, which takes the selected object.
    """

    def __init__(
        self,
        viewer: Viewer,
        labels: Callable[[], Labels | None],
        picked: Callable[[int], None],
        with_key: bool = True,
    ) -> None:
        self._viewer = viewer
        self._labels = labels
        self._picked = picked
        self._former: Any = None
        self._with_key = with_key
        self.on = False

    def turn(self, on: bool) -> None:
        """Listen to clicks and the key, or no longer."""
        if on == self.on:
            return
        self.on = on
        callbacks = self._viewer.mouse_drag_callbacks
        if on:
            callbacks.append(self._drag)
            if self._with_key:
                self._former = self._viewer.bind_key(KEY, self._key, overwrite=True)
        else:
            callbacks.remove(self._drag)
            if not self._with_key:
                return
            bound = self._viewer.bind_key(KEY, None, overwrite=True)
            # what was bound before comes back, and what was bound since stays
            keep = self._former if bound == self._key else bound
            if keep is not None:
                self._viewer.bind_key(KEY, keep, overwrite=True)

    def _drag(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        # napari paints, erases, picks … in other modes, and those clicks are not for us
        active = self._viewer.layers.selection.active
        busy = active is not None and str(active.mode) not in ("pan_zoom", "select")
        layer = self._labels()
        if busy or layer is None or event.button != 1 or event.modifiers:
            return
        start, world = np.array(event.pos, dtype=float), event.position
        yield
        while event.type == "mouse_move":
            if np.abs(np.array(event.pos, dtype=float) - start).max() > SLACK:
                return
            yield
        label = label_at(self._viewer, layer, world)
        if label:
            layer.selected_label = label
            self._picked(label)

    def _key(self, viewer: Any) -> None:
        layer = self._labels()
        if layer is not None and layer.selected_label:
            self._picked(int(layer.selected_label))


def label_at(viewer: Viewer, layer: Labels, world: tuple[float, ...]) -> int:
    """Label under a position in the viewer; 0 for none."""
    position = layer.world_to_data(in_layer_units(viewer, layer, np.asarray(world)))
    index = np.round(np.asarray(position)).astype(int)
    if (index < 0).any() or (index >= layer.data.shape).any():
        return 0
    return int(layer.data[tuple(index)])


def go_to(viewer: Viewer, layer: Labels, label: int) -> bool:
    """Select an object and bring it into the middle of the view; False where it is not."""
    where = np.nonzero(np.asarray(layer.data) == label)
    if not len(where[0]):
        return False
    layer.selected_label = label
    low = np.array([axis.min() for axis in where], dtype=float)
    high = np.array([axis.max() for axis in where], dtype=float)
    bring_into_view(viewer, layer, low, high)
    return True


def show_cell(
    viewer: Viewer, layer: Labels, label: int, box: tuple[NDArray[Any], NDArray[Any]] | None
) -> None:
    """Select an object and let it be seen: it blinks, and comes into view where it is not.

    Parameters
    ----------
    box : (low, high), optional
        Corners of the object in the layer's pixels, half-open; unsaid, it is looked for.
    """
    if box is None:
        if not go_to(viewer, layer, label):
            return
    else:
        layer.selected_label = label
        low, high = box[0].astype(float), box[1].astype(float) - 1
        if not is_in_view(viewer, layer, low, high):
            bring_into_view(viewer, layer, low, high)
    blink(layer)


def is_in_view(
    viewer: Viewer, layer: Labels, low: NDArray[np.floating], high: NDArray[np.floating]
) -> bool:
    """Whether the middle of a part of a layer is on the canvas, in a plane that is shown."""
    if _elsewhere(viewer, layer, low, high):
        return False
    if viewer.dims.ndisplay == 3:
        return True
    view = visible_box(viewer, layer)
    if view is None:
        return False
    y, x = (low + high)[-2:] / 2
    return bool(view[0] <= y < view[1] and view[2] <= x < view[3])


def _elsewhere(
    viewer: Viewer, layer: Labels, low: NDArray[np.floating], high: NDArray[np.floating]
) -> list[int]:
    """Axes of the layer along which a part is not in the plane that is shown."""
    lead = viewer.dims.ndim - layer.ndim
    point = in_layer_units(viewer, layer, np.array(viewer.dims.point))
    now = np.asarray(layer.world_to_data(point))
    hidden = [axis - lead for axis in viewer.dims.not_displayed if axis >= lead]
    # one pixel may be as long as all channels: stay where it is seen
    return [i for i in hidden if not low[i] - 0.5 <= now[i] <= high[i] + 0.5]


def elsewhere_words(viewer: Viewer, layer: Labels) -> str:
    """How to come to the planes of a layer; empty where one of them is shown."""
    low, high = np.zeros(layer.ndim), np.array(layer.data.shape) - 1.0
    lead, moves = viewer.dims.ndim - layer.ndim, []
    middle = in_viewer_units(viewer, layer, np.array(layer.data_to_world((low + high) // 2)))
    for axis in _elsewhere(viewer, layer, low, high):
        start, _, step = viewer.dims.range[axis + lead]
        name = viewer.dims.axis_labels[axis + lead]
        named = "" if name.lstrip("-").isdigit() else f" {name}"
        moves.append(f"the slider{named} to {round((middle[axis] - start) / step)}")
    if not moves:
        return ""
    return (
        "These cells are of another plane than the one that is shown, and you would correct "
        f"what you do not see: move {' and '.join(moves)}, or choose other cells."
    )


def blink(layer: Labels) -> None:
    """Show the selected object alone for a moment."""
    if layer.show_selected_label:
        return
    layer.show_selected_label = True

    def back() -> None:
        layer.show_selected_label = False

    QTimer.singleShot(BLINK_MS, back)


def bring_into_view(
    viewer: Viewer,
    layer: Labels,
    low: NDArray[np.floating],
    high: NDArray[np.floating],
    typical: float | None = None,
) -> None:
    """Show the part of a layer between two corners, in pixels, so that it can be judged.

    It comes into the middle, and the camera zooms where it is too small or too large. With the
    side of a typical object (px), as one walks from one to the next, the zoom goes by that, and
    the camera stays where the object, with what is around it, is well seen already: the
    picture does not jump.
    """
    begin, middle, end = (
        in_viewer_units(viewer, layer, np.array(layer.data_to_world(point)))
        for point in (low - 0.5, (low + high) / 2, high + 0.5)
    )
    lead = viewer.dims.ndim - layer.ndim
    shown = [axis - lead for axis in viewer.dims.displayed[-2:]]
    for axis in _elsewhere(viewer, layer, low, high):
        viewer.dims.set_point(axis + lead, float(middle[axis]))
    camera = camera_of(viewer)
    canvas = canvas_size(viewer)
    extent = np.abs(end - begin)[shown]
    side = ruler = float(extent.max())
    if typical is not None:
        ruler = side * typical / float((high - low + 1)[shown].max())
    zoom = _zoom(camera.zoom, side, ruler, float(canvas.min()))
    at = middle[shown]
    around = extent / 2 + AROUND * ruler
    there = np.abs(at - np.array(camera.center[-2:])) + around <= canvas / zoom / 2
    if typical is not None and zoom == camera.zoom and there.all():
        return
    camera.zoom = zoom
    camera.center = (camera.center[0], *(float(value) for value in at))


def _zoom(now: float, side: float, ruler: float, room: float) -> float:
    """Zoom at which an object of this side is well seen: the present one, if it is."""
    if not (side > 0 and ruler > 0 and room > 0):
        return now
    if LEAST * room <= ruler * now and side * now <= MOST * room:
        return now
    return min(GOOD * room / ruler, MOST * room / side)
