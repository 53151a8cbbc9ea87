"""Drawing on a layer with the mouse: lines, lassos, boxes and clicks, for one tool.

What is drawn is shown on a layer of shapes that nobody draws on with napari's own tools:
where such a layer is deleted in the middle, napari goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from napari.layers import Shapes

from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.napari_port.maps import SLOT_KEY
from napari_sa2net.widgets.napari_port.picking import SLACK
from napari_sa2net.widgets.napari_port.reading import (
    box_around,
    camera_of,
    in_layer_units,
    in_viewer_units,
    plane_shape,
)
from napari_sa2net.widgets.napari_port.results import METADATA_KEY, keep_selection

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer
    from napari.viewer import Viewer
    from numpy.typing import NDArray


Shape = Literal["line", "ruler", "lasso", "box"]

COLOR = "#ffd166"
#: a drawn line gets a new point after so many screen pixels
STEP = 2.0


class Drawing:
    """Lets a person draw on a layer of cells, or an image, until it is ended.

    The layer stays selected; only its mouse drags are ours meanwhile. What is drawn is shown
    on a thin layer of shapes, which goes with the tool. The space bar moves the view, Esc
    ends the tool, and so does choosing a mode of napari's or another layer.

    Parameters
    ----------
    viewer, layer
        Where to draw.
    shape : "line", "ruler", "lasso" or "box"
        What a drag draws; a ruler is a straight line.
    name : str
        Of the layer of shapes: says what to do.
    drawn : callable
        Called with the points (n, 2) of each drawn shape, (y, x) in pixels of the layer.
    clicked : callable or None
        Called for a press without a drag, with (y, x) and whether Alt was held.
    ended : callable
        Called once, when the tool has ended by itself.
    later : callable
        Runs a function after the current event.
    """

    def __init__(
        self,
        viewer: Viewer,
        layer: Labels | Image,
        shape: Shape,
        name: str,
        drawn: Callable[[NDArray[np.float64]], Any],
        clicked: Callable[[tuple[float, float], bool], Any] | None,
        ended: Callable[[], Any],
        later: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._viewer = viewer
        self._layer = layer
        self._shape: Shape = shape
        self._drawn, self._clicked = drawn, clicked
        self._ended, self._later = ended, later
        self._open = True
        self._panning = False
        self._ours = False
        self._cursor = layer.cursor
        if viewer.dims.ndisplay != 2:
            viewer.dims.ndisplay = 2
        viewer.layers.selection.active = layer
        layer.mode = "pan_zoom"
        layer.mouse_pan = False
        layer.cursor = "cross"
        layer.mouse_drag_callbacks.append(self._drag)
        self._former = {
            "Escape": layer.bind_key("Escape", self._escape, overwrite=True),
            "Space": layer.bind_key("Space", self._pan, overwrite=True),
        }
        self.preview = Shapes(
            ndim=2,
            name=name,
            opacity=1,
            metadata={METADATA_KEY: {SLOT_KEY: "drawing"}},
            **_last_two(layer),
        )
        with keep_selection(viewer):
            viewer.add_layer(self.preview)
        self._connections = Connections()
        connect = self._connections.connect
        connect(layer.events.mode, self._check)
        connect(viewer.layers.selection.events.active, self._check)
        connect(viewer.layers.events.removed, self._check)

    def end(self) -> None:
        """Give the mouse back; harmless twice."""
        if not self._open:
            return
        self._open = False
        self._connections.disconnect()
        layer = self._layer
        if self._drag in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._drag)
        for key, former in self._former.items():
            layer.bind_key(key, former, overwrite=True)
        if str(layer.mode) == "pan_zoom":
            layer.mouse_pan = True
            layer.cursor = self._cursor
        if layer in self._viewer.layers:
            self._clear()
        else:
            # napari is about to delete layers: it would stumble over one that is gone already
            self._later(self._clear)

    def _clear(self) -> None:
        if self.preview in self._viewer.layers:
            with keep_selection(self._viewer):
                self._viewer.layers.remove(self.preview)

    # --- what napari says --------------------------------------------------------------

    def _drag(self, layer: Labels | Image, event: Any) -> Generator[None, None, None]:
        if event.button != 1 or self._panning or not self._open:
            return
        began = np.array(event.pos, dtype=float)
        last = began
        points = [self._point(event)]
        alt = "Alt" in event.modifiers
        moved = False
        yield
        while event.type == "mouse_move":
            now = np.array(event.pos, dtype=float)
            moved = moved or bool(np.abs(now - began).max() > SLACK)
            if np.abs(now - last).max() >= STEP:
                last = now
                points.append(self._point(event))
                if moved:
                    self._show(points)
            yield
        if not self._open:
            return
        self._show([])
        if moved:
            points.append(self._point(event))
            outline = self._outline(points)
            self._later(lambda: self._drawn(outline))
        elif self._clicked is not None:
            clicked, (y, x) = self._clicked, points[0]
            self._later(lambda: clicked((float(y), float(x)), alt))

    def _point(self, event: Any) -> NDArray[np.float64]:
        world = in_layer_units(self._viewer, self._layer, np.asarray(event.position))
        return np.asarray(self._layer.world_to_data(world), dtype=float)[-2:]

    def _outline(self, points: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        if self._shape == "ruler":
            return np.array([points[0], points[-1]])
        if self._shape != "box":
            return np.array(points)
        (y0, x0), (y1, x1) = points[0], points[-1]
        return np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)])

    def _show(self, points: list[NDArray[np.float64]]) -> None:
        if self.preview not in self._viewer.layers:
            return
        self.preview.data = []
        if len(points) > 1:
            kind = "path" if self._shape in ("line", "ruler") else "polygon"
            outline = self._outline(points)
            if kind == "polygon" and len(np.unique(outline, axis=0)) < 3:
                kind = "path"
            self.preview.add(
                outline,
                shape_type=kind,
                edge_color=COLOR,
                face_color="transparent",
                edge_width=self._line_width(),
            )

    def _line_width(self) -> float:
        """About two screen pixels, in pixels of the layer."""
        camera = camera_of(self._viewer)
        scale = float(np.abs(np.asarray(self._layer.scale)[-2:]).mean()) or 1.0
        return float(np.clip(2.0 / (camera.zoom * scale), 0.02, 1000))

    def _escape(self, layer: Labels | Image) -> None:
        self._later(self._finish)

    def _pan(self, layer: Labels | Image) -> Generator[None, None, None]:
        self._panning = True
        layer.mouse_pan = True
        yield
        self._panning = False
        layer.mouse_pan = not self._open

    def _given_up(self) -> bool:
        """The person has turned to another layer or to a mode of napari's."""
        layers = self._viewer.layers
        return (
            self._layer not in layers
            or self.preview not in layers
            or layers.selection.active is not self._layer
            or str(self._layer.mode) != "pan_zoom"
        )

    def _check(self, _: Any = None) -> None:
        if self._given_up():
            # napari may still be at work on the layers: one that is added is active at first
            self._later(lambda: self._finish() if self._given_up() else None)

    def _finish(self) -> None:
        if self._open:
            self.end()
            self._ended()


def _last_two(layer: Labels | Image) -> dict[str, Any]:
    """Transforms of a layer's plane."""
    n = layer.ndim
    arguments: dict[str, Any] = {
        "scale": layer.scale[-2:],
        "translate": layer.translate[-2:],
        "units": layer.units[-2:],
        "affine": layer.affine.affine_matrix[np.ix_([n - 2, n - 1, n], [n - 2, n - 1, n])],
    }
    if np.shape(layer.rotate) == (n, n):
        arguments["rotate"] = layer.rotate[-2:, -2:]
    if np.size(layer.shear):
        arguments["shear"] = np.asarray(layer.shear)[-1:]
    return arguments


# --------------------------------------------------------------------------------------------
# What a person draws to say which part of an image is meant.

AREA_NAME = "area to segment"


def drawn_box(viewer: Viewer, layer: Image) -> tuple[int, int, int, int] | None:
    """The part of the layer's planes around what is drawn: ``(y0, y1, x0, x1)`` in pixels.

    That is the selected layer of shapes, else the topmost that is shown, and of it the
    selected shapes, else all. None where there is none.
    """
    drawn = [one for one in viewer.layers if is_area(one) and len(one.data)]
    active = viewer.layers.selection.active
    chosen = active if active in drawn else next((s for s in drawn[::-1] if s.visible), None)
    if chosen is None:
        return None
    corners = []
    for number in sorted(chosen.selected_data) or range(len(chosen.data)):
        for vertex in np.asarray(chosen.data[number]):
            point = np.array(viewer.dims.point, dtype=float)
            world = in_viewer_units(viewer, chosen, np.array(chosen.data_to_world(vertex)))
            point[-2:] = world[-2:]
            corners.append(layer.world_to_data(in_layer_units(viewer, layer, point))[-2:])
    return box_around(np.array(corners), plane_shape(layer)[-2:])


def is_area(layer: Layer) -> bool:
    """A layer of shapes that a person draws on; tools have some of their own."""
    return isinstance(layer, Shapes) and METADATA_KEY not in layer.metadata


def begin_area(viewer: Viewer, image: Image) -> Shapes | None:
    """Let the person drag a rectangle with napari's own tool, unless something is drawn.

    Returns the layer to draw on.
    """
    if drawn_box(viewer, image) is not None:
        return None
    empty = [one for one in viewer.layers if is_area(one) and not len(one.data)]
    if not empty:
        empty = [Shapes(ndim=2, name=AREA_NAME, **_last_two(image))]
        # cells must be seen in it
        empty[0].current_face_color, empty[0].current_edge_color = "transparent", COLOR
        viewer.add_layer(empty[0])
    viewer.layers.selection.active = empty[-1]
    empty[-1].mode = "add_rectangle"
    return empty[-1]


# --------------------------------------------------------------------------------------------
# Layers can be deleted without ending the program where there is no graphics card.

#: how OpenGL calls itself where the processor draws (Mesa)
SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")


class FinishedPictures:
    """Waits for the end of each picture of a viewer, where the processor draws.

    napari deletes what a layer was drawn from as soon as the layer goes. Mesa's software
    renderer may still be at work on the picture before then, and crashes with the next one:
    a tool's line, a brush or an outline that is taken away ended the program.

    Parameters
    ----------
    viewer : Viewer
        One without a window is left alone.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._software: bool | None = None
        window = getattr(viewer, "window", None)
        # napari has no public way to its canvas
        canvas = getattr(getattr(window, "_qt_viewer", None), "canvas", None)
        scene = getattr(canvas, "_scene_canvas", None)
        self._drawn: Any = scene.events.draw if scene is not None else None
        if self._drawn is not None:
            self._drawn.connect(self.finish, position="last")

    def close(self) -> None:
        """Leave the viewer as it was."""
        if self._drawn is not None:
            self._drawn.disconnect(self.finish)
            self._drawn = None

    def finish(self, event: Any = None) -> None:
        """Wait until the picture is drawn; at once with a graphics card."""
        from vispy.gloo import gl

        if self._software is None:
            name = str(gl.glGetParameter(gl.GL_RENDERER)).lower()
            self._software = any(words in name for words in SOFTWARE)
        if self._software:
            gl.glFinish()


@contextmanager
def undrawn(viewer: Viewer) -> Iterator[None]:
    """The canvas is drawn after, not meanwhile: without a graphics card that takes long."""
    canvas = getattr(getattr(viewer.window, "_qt_viewer", None), "canvas", None)
    if canvas is None:
        yield
        return
    canvas.native.setUpdatesEnabled(False)
    try:
        yield
    finally:
        canvas.native.setUpdatesEnabled(True)


# --------------------------------------------------------------------------------------------
# Measure a length by dragging a line over an image.

LINE_NAME = "drag a line across one cell (Esc cancels)"


class MeasureLine:
    """One line that a person draws over an image; its length is in the image's pixels.

    Whatever ends it (the line is drawn, Esc, another layer is chosen, a layer is deleted,
    the page closes) what was shown goes and the selection comes back.

    Parameters
    ----------
    viewer, image
        Where to draw, and the layer that is measured.
    later
        Runs a function after the current event.
    done
        Called once, with the length in pixels, or None when nothing was drawn.
    """

    def __init__(
        self,
        viewer: Viewer,
        image: Image,
        later: Callable[[Callable[[], None]], Any],
        done: Callable[[float | None], None],
    ) -> None:
        self._viewer = viewer
        self._image = image
        self._done = done
        self._open = True
        self._former: Layer | None = viewer.layers.selection.active
        self._selected = set(viewer.layers.selection)
        self._display = viewer.dims.ndisplay
        self._drawing = Drawing(
            viewer, image, "ruler", LINE_NAME, self._drawn, None, self.cancel, later
        )

    def cancel(self) -> None:
        """End without a length; harmless when it has ended."""
        self._finish(None)

    def _drawn(self, line: NDArray[np.float64]) -> None:
        length = float(np.linalg.norm(line[1] - line[0]))
        # a click with an unsteady hand is no line: go on waiting for one
        if length >= 1:
            self._finish(length)

    def _finish(self, length: float | None) -> None:
        if not self._open:
            return
        self._open = False
        layers = self._viewer.layers
        chosen_by_user = layers.selection.active not in (self._image, None)
        self._drawing.end()
        if not chosen_by_user:
            layers.selection.active = self._former if self._former in layers else None
            layers.selection.update(layer for layer in self._selected if layer in layers)
        if self._display != self._viewer.dims.ndisplay:
            self._viewer.dims.ndisplay = self._display
        self._done(length)
