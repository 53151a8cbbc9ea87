"""Measure a length by dragging a line over an image."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes

from napari_sa2net.widgets.napari_port.connections import Connections

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.viewer import Viewer

LINE_NAME = "drag a line across one cell (Esc cancels)"
LINE_COLOR = "#ffd166"


class MeasureLine:
    """A temporary Shapes layer on which one line is drawn.

    It lies over the image with the same transforms, so the line's length comes out in the
    image's pixels. Whatever ends it (the line is drawn, Esc, another layer is chosen, a
    layer is deleted, the page closes) the layer goes and the selection comes back.

    Parameters
    ----------
    viewer, image
        Where to draw, and the layer that is measured.
    later
        Runs a function after the current event: napari still uses the layer while its
        mouse callbacks run.
    done
        Called once, with the length in pixels, or None when nothing was drawn.
    """

    def __init__(
        self,
        viewer: Viewer,
        image: Image,
        later: Callable[[Callable[[], None]], None],
        done: Callable[[float | None], None],
    ) -> None:
        self._viewer = viewer
        self._later = later
        self._done = done
        self._open = True
        self._connections = Connections()
        self._former: Layer | None = viewer.layers.selection.active
        self._selected = set(viewer.layers.selection)
        self._display = viewer.dims.ndisplay
        if viewer.dims.ndisplay != 2:
            viewer.dims.ndisplay = 2
        self.layer = Shapes(
            ndim=image.ndim,
            name=LINE_NAME,
            scale=image.scale,
            translate=image.translate,
            rotate=image.rotate,
            shear=image.shear,
            affine=image.affine,
            units=image.units,
        )
        self.layer.current_edge_color = LINE_COLOR
        self.layer.current_edge_width = self._line_width(image)
        viewer.add_layer(self.layer)
        self.layer.mode = "add_line"
        self.layer.mouse_drag_callbacks.append(self._drag)
        self.layer.bind_key("Escape", self._escape, overwrite=True)
        self._connections.connect(viewer.layers.events.removed, self._layers_changed)
        self._connections.connect(viewer.layers.selection.events.active, self._layers_changed)

    def cancel(self) -> None:
        """End without a length; harmless when it has ended."""
        self._finish(None)

    def _line_width(self, image: Image) -> float:
        """About two screen pixels, in the image's pixels."""
        camera = getattr(self._viewer, "scene", self._viewer).camera
        scale = float(np.abs(np.asarray(image.scale)[-2:]).mean()) or 1.0
        return float(np.clip(2.5 / (camera.zoom * scale), 0.05, 1000))

    def _drag(self, layer: Shapes, event: Any) -> Generator[None, None, None]:
        start = np.asarray(layer.world_to_data(event.position))
        yield
        end = start
        while event.type == "mouse_move":
            end = np.asarray(layer.world_to_data(event.position))
            yield
        length = float(np.linalg.norm((end - start)[-2:]))
        # a click without a drag is no line: go on waiting for one
        if length >= 1:
            self._later(lambda: self._finish(length))
        else:
            self._later(self._clear)

    def _clear(self) -> None:
        if self._open:
            self.layer.data = []

    def _escape(self, layer: Shapes) -> None:
        self._later(self.cancel)

    def _layers_changed(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if active is not self.layer:
            self._later(self.cancel)

    def _finish(self, length: float | None) -> None:
        if not self._open:
            return
        self._open = False
        self._connections.disconnect()
        layers = self._viewer.layers
        chosen_by_user = layers.selection.active not in (self.layer, None)
        if self.layer in layers:
            layers.remove(self.layer)
        if not chosen_by_user:
            layers.selection.active = self._former if self._former in layers else None
            layers.selection.update(layer for layer in self._selected if layer in layers)
        if self._display != self._viewer.dims.ndisplay:
            self._viewer.dims.ndisplay = self._display
        self._done(length)
