"""A layer with thin outlines around what is reviewed, and around what is ignored.

The lines are in the data: napari's own contours look at the whole plane again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_sa2net.app.edit_session import EditSession
from napari_sa2net.edits.shapes import grown
from napari_sa2net.widgets.napari_port.maps import SLOT_KEY
from napari_sa2net.widgets.napari_port.reading import layer_key
from napari_sa2net.widgets.napari_port.repaint import repaint
from napari_sa2net.widgets.napari_port.results import METADATA_KEY, keep_selection

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]

REVIEWED, IGNORED, CURRENT = 1, 2, 3
_COLORS: Any = {
    REVIEWED: "#2ee6d6",
    IGNORED: "#ff9f1c",
    CURRENT: "#ffffff",
    None: "transparent",
}
NAME = "reviewed"


class ReviewedLayer:
    """Shows the reviewed pixels of one plane of the cells; changed in place.

    Attributes
    ----------
    wanted : bool
        The outlines are to be seen.
    current : int
        Label of the cell under review; it has an outline of its own.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.layer: Labels | None = None
        self.wanted = True
        self.current = 0
        self._session: EditSession | None = None
        self._place: tuple[Any, ...] = ()

    def show(
        self, cells: Labels, session: EditSession, index: tuple[int, ...], current: int = 0
    ) -> None:
        """Show a plane; a layer is made once there is something to be seen."""
        former, self.current = self.current, current
        if not self.wanted:
            self.hide()
            return
        if self._shows(cells, session, index):
            plane = session.corrections.plane(index)
            changed = {former, current} if former != current else set()
            boxes = [plane.box(label) for label in changed if label in plane]
            self.update(cells, session, index, boxes)
            return
        said = session.corrections.marked(index) or session.corrections.regions_of(index)
        self.hide()
        if not (said or current):
            return
        height, width = session.corrections.shape
        lines = self._lines(session, index, (0, height, 0, width))
        self.layer = _layer(cells, index, lines)
        self._session, self._place = session, _place(cells, index)
        with keep_selection(self._viewer):
            self._viewer.add_layer(self.layer)

    def update(
        self, cells: Labels, session: EditSession, index: tuple[int, ...], boxes: list[Box]
    ) -> bool:
        """Draw boxes of the shown plane anew; False where that plane is not shown (yet)."""
        if self.layer is None or not self._shows(cells, session, index):
            return not self.wanted
        if self.layer not in self._viewer.layers:
            # a person has deleted it: they do not want to see it
            self.layer, self.wanted = None, False
            return True
        plane = (0,) * (self.layer.ndim - 2)
        for box in boxes:
            # pixels beside the box may be on a line now, or no longer
            y0, y1, x0, x1 = around = grown(box, 1, session.corrections.shape)
            self.layer.data[plane][y0:y1, x0:x1] = self._lines(session, index, around)
            repaint(self._viewer, self.layer, plane, around)
        return True

    def hide(self) -> None:
        """Take the layer away."""
        layer, self.layer, self._session = self.layer, None, None
        if layer is not None and layer in self._viewer.layers:
            with keep_selection(self._viewer):
                self._viewer.layers.remove(layer)

    def _shows(self, cells: Labels, session: EditSession, index: tuple[int, ...]) -> bool:
        return (
            self.layer is not None
            and self._session is session
            and self._place == _place(cells, index)
        )

    def _lines(
        self, session: EditSession, index: tuple[int, ...], box: Box
    ) -> NDArray[np.uint8]:
        """Outlines in a box: of every area the outermost pixels, else 0."""
        y0, y1, x0, x1 = grown(box, 1, session.corrections.shape)
        areas = session.mask.plane(index)[y0:y1, x0:x1].astype(np.uint8)
        for region in session.corrections.regions_of(index):
            if region.kind == "ignore":
                areas[region.mask((y0, y1, x0, x1))] = IGNORED
        if self.current:
            areas[session.labels[index][y0:y1, x0:x1] == self.current] = CURRENT
        inner = np.ones(areas.shape, bool)
        same = areas[1:] == areas[:-1]
        inner[1:] &= same
        inner[:-1] &= same
        same = areas[:, 1:] == areas[:, :-1]
        inner[:, 1:] &= same
        inner[:, :-1] &= same
        areas[inner] = 0
        return areas[box[0] - y0 : box[1] - y0, box[2] - x0 : box[3] - x0]


def _place(cells: Labels, index: tuple[int, ...]) -> tuple[Any, ...]:
    """Plane, and where three of its corners lie."""
    height, width = cells.data.shape[-2:]
    corners = [cells.data_to_world((*index, *yx)) for yx in ((0, 0), (height, 0), (0, width))]
    return (layer_key(cells), index, *np.ravel(corners))


def _layer(cells: Labels, index: tuple[int, ...], lines: NDArray[np.uint8]) -> Labels:
    corner: Any = cells.affine.inverse(cells.data_to_world((*index, 0, 0)))
    layer = Labels(
        lines.reshape((1,) * len(index) + lines.shape),
        name=NAME,
        scale=cells.scale,
        translate=corner,
        rotate=cells.rotate,
        shear=_shear(cells),
        affine=cells.affine,
        units=cells.units,
        opacity=1,
        colormap=DirectLabelColormap(color_dict=_COLORS),
        metadata={METADATA_KEY: {SLOT_KEY: "reviewed"}},
    )
    layer.editable = False
    return layer


def _shear(layer: Labels) -> Any:
    """napari gives zeros of another length than it takes."""
    shear = np.asarray(layer.shear)
    return shear if shear.any() else np.zeros(layer.ndim * (layer.ndim - 1) // 2)
