"""Measure a length by dragging a line over an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_sa2net.widgets.napari_port.drawing import Drawing

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.viewer import Viewer
    from numpy.typing import NDArray

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
