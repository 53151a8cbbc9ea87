"""Layers with thin outlines: of what is reviewed and ignored, and of a cell that was chosen.

The lines are in the data: napari's own contours look at the whole plane again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap, ensure_colormap
from scipy.ndimage import binary_dilation

from napari_sa2net.app.edit_session import EditSession
from napari_sa2net.edits.reviewed import reviewed_labels
from napari_sa2net.edits.shapes import blocks_of, grown
from napari_sa2net.widgets.napari_port.maps import SLOT_KEY
from napari_sa2net.widgets.napari_port.reading import layer_key
from napari_sa2net.widgets.napari_port.repaint import repaint
from napari_sa2net.widgets.napari_port.results import (
    METADATA_KEY,
    keep_selection,
    set_transforms,
)

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]

REVIEWED, IGNORED, CURRENT, AROUND, PROPOSED = 1, 2, 3, 4, 5
_COLORS: Any = {
    REVIEWED: "#2ee6d6",
    IGNORED: "#ff9f1c",
    CURRENT: "#ffffff",
    # beside the white, so that it is seen over bright pictures, too
    AROUND: "#000000",
    PROPOSED: "#ff6ad5",
    None: "transparent",
}
#: of more cells all is drawn anew instead of so many places
MANY = 40
#: Side of the blocks in which a plane is drawn (px).
_BLOCK = 1024
NAME, CHOSEN = "reviewed", "chosen cell"


class ReviewedLayer:
    """Shows the reviewed cells of one plane of the cells; changed in place.

    Attributes
    ----------
    wanted : bool
        The outlines are to be seen.
    current : int
        Label of the cell under review; it has an outline of its own.
    proposed : frozenset of int
        Cells that a wave of learning has changed or found, see `propose`.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.layer: Labels | None = None
        self.wanted = True
        self.current = 0
        self.proposed: frozenset[int] = frozenset()
        self._done: set[int] = set()
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
        if not (said or current or self.proposed):
            return
        height, width = session.corrections.shape
        self._done = reviewed_labels(session.corrections, index)
        lines = np.zeros((1,) * len(index) + (height, width), np.uint8)
        self._draw(lines[(0,) * len(index)], session, index)
        self.layer = _layer(cells, (*index, 0, 0), lines)
        self._session, self._place = session, _place(cells, index)
        with keep_selection(self._viewer):
            self._viewer.add_layer(self.layer)

    def propose(
        self,
        cells: Labels,
        session: EditSession,
        index: tuple[int, ...],
        proposed: frozenset[int],
    ) -> None:
        """Outline other cells as proposed; `show` follows, which makes a layer."""
        changed, self.proposed = self.proposed ^ proposed, proposed
        layer = self.layer
        if changed and layer is not None and self.wanted and self._shows(cells, session, index):
            plane = session.corrections.plane(index)
            if len(changed) > MANY:
                # drawn as a whole, in the same layer: to make one takes napari half a second
                self._done = reviewed_labels(session.corrections, index)
                lines = np.zeros(session.corrections.shape, np.uint8)
                self._draw(lines, session, index)
                layer.data[(0,) * (layer.ndim - 2)] = lines
                layer.refresh()
            else:
                boxes = [plane.box(label) for label in changed if label in plane]
                self.update(cells, session, index, boxes)

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
        before, self._done = self._done, reviewed_labels(session.corrections, index)
        # cells of which a marked region holds only the middle
        cut = session.corrections.plane(index)
        more = [cut.box(label) for label in before ^ self._done if label in cut]
        for box in [*boxes, *more]:
            # pixels beside the box may be on a line now, or no longer
            y0, y1, x0, x1 = around = grown(box, 1, session.corrections.shape)
            self.layer.data[plane][y0:y1, x0:x1] = self._lines(session, index, around)
            repaint(self._viewer, self.layer, plane, around)
        return True

    def is_of(self, cells: Labels | None) -> bool:
        """Whether what is shown, if anything is, lies over these cells."""
        return self.layer is None or (cells is not None and self._place[0] == layer_key(cells))

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

    def _draw(
        self, lines: NDArray[np.uint8], session: EditSession, index: tuple[int, ...]
    ) -> None:
        """Draw a whole plane, of which only those parts are looked at that have lines."""
        corrections = session.corrections
        plane, shape = corrections.plane(index), corrections.shape
        boxes = [
            box
            for label in {*self._done, *self.proposed, self.current}
            if label in plane
            for box in corrections.parts(label, index)
        ]
        for region in corrections.regions_of(index):
            if region.kind != "cleared":
                boxes += region.boxes(shape)
        # of the chosen cell the pixels beside it, too
        for y0, y1, x0, x1 in blocks_of([grown(box, 1, shape) for box in boxes], _BLOCK, shape):
            lines[y0:y1, x0:x1] = self._lines(session, index, (y0, y1, x0, x1))

    def _lines(
        self, session: EditSession, index: tuple[int, ...], box: Box
    ) -> NDArray[np.uint8]:
        """Outlines in a box: of every reviewed cell and marked region the outermost pixels."""
        y0, y1, x0, x1 = around = grown(box, 1, session.corrections.shape)
        labels = session.labels[index][y0:y1, x0:x1]
        lines = np.zeros(labels.shape, np.uint8)
        regions = session.corrections.regions_of(index)
        for kind, value in (("reviewed", REVIEWED), ("ignore", IGNORED)):
            for region in regions:
                if region.kind == kind:
                    lines[_rim(region.mask(around))] = value
        rims = _rim(labels)
        there = np.unique(labels[rims]).tolist()
        for known, value in ((self.proposed, PROPOSED), (self._done, REVIEWED)):
            here = [label for label in there if label in known]
            lines[rims & np.isin(labels, here)] = value
        if self.current:
            own = labels == self.current
            lines[binary_dilation(own) & ~own & (lines == 0)] = AROUND
            lines[rims & own] = CURRENT
        return lines[box[0] - y0 : box[1] - y0, box[2] - x0 : box[3] - x0]


class ChosenCell:
    """A white outline of one cell, in all planes that it is in."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.layer: Labels | None = None
        self._label = 0

    @property
    def label(self) -> int:
        """Of the outlined cell; 0 while there is none, or its outline was deleted."""
        return self._label if self.layer in self._viewer.layers else 0

    def show(self, cells: Labels, label: int, box: Any = None) -> None:
        """Outline a cell of a layer, in the place of the one before.

        Parameters
        ----------
        box : (low, high), optional
            Its corners in the layer's pixels, half-open; unsaid, it is looked for.
        """
        data = cells.data[0] if cells.multiscale else cells.data
        if box is None and label:
            where = np.nonzero(np.asarray(data) == label)
            if len(where[0]):
                box = np.array([[a.min(), a.max() + 1] for a in where]).T
        if not label or box is None:
            self.hide()
            return
        low, high = np.array(box[0]), np.array(box[1])
        low[-2:] = np.maximum(low[-2:] - 1, 0)
        high[-2:] = np.minimum(high[-2:] + 1, data.shape[-2:])
        part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        own = np.asarray(data[part]) == label
        lines = np.zeros(own.shape, np.uint8)
        for index in np.ndindex(own.shape[:-2]):
            lines[index][binary_dilation(own[index]) & ~own[index]] = AROUND
            lines[index][_rim(own[index])] = CURRENT
        layer, self._label = _layer(cells, tuple(low.tolist()), lines, CHOSEN), label
        shown = self.layer
        if shown is None or shown not in self._viewer.layers or shown.ndim != layer.ndim:
            self.hide()
            self.layer, self._label = layer, label
            with keep_selection(self._viewer):
                self._viewer.add_layer(layer)
            return
        shown.data = layer.data
        places = ("scale", "translate", "rotate", "affine", "units")
        there = {name: getattr(layer, name) for name in places}
        there["affine"] = layer.affine.affine_matrix
        set_transforms(shown, {**there, "shear": _shear(layer)})

    def hide(self) -> None:
        """Take the outline away."""
        layer, self.layer, self._label = self.layer, None, 0
        if layer is not None and layer in self._viewer.layers:
            with keep_selection(self._viewer):
                self._viewer.layers.remove(layer)


#: What a painted cell is: filtered out, left as it is, chosen; from there on a scale.
FILTERED, PLAIN, LIT, SCALE = 1, 2, 3, 4
#: Steps of the scale.
STEPS = 256 - SCALE
#: Layers of more pixels are painted piece by piece, when they are looked at.
_AT_ONCE = 2**26


class PaintedCells:
    """Cells in colours that say something of them, over their layer, which stays as it is.

    The layer above has a number for what each cell is, and one colour for each number, so
    that other cells are painted by other pixels alone.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._colormap: Any = None
        self._of: Any = None
        self.layer: Labels | None = None

    def show(self, cells: Labels, labels: NDArray[Any], what: NDArray[Any], name: str) -> None:
        """Paint cells of a layer.

        Parameters
        ----------
        labels, what : integer (n,)
            Of each cell: its label, and `FILTERED`, `PLAIN`, `LIT` or `SCALE` and its step.
        name : str
            Of the layer.
        """
        data = cells.data[0] if cells.multiscale else cells.data
        table = np.zeros(int(labels.max(initial=0)) + 2, np.uint8)
        table[labels] = what
        painted: Any
        if isinstance(data, np.ndarray) and data.size <= _AT_ONCE:
            painted = table.take(data, mode="clip")
        else:
            import dask.array as da

            painted = da.asarray(data).map_blocks(table.take, mode="clip", dtype=np.uint8)
        layer = self.layer
        if layer is None or layer not in self._viewer.layers or self._of is not cells:
            self.hide()
            self._make(cells, painted, name)
            return
        if layer.name != name:
            layer.name = name
        if not (isinstance(painted, np.ndarray) and layer.data.shape == painted.shape):
            layer.data = painted
        else:
            layer.data[...] = painted
            if layer.visible:
                layer.refresh(extent=False, thumbnail=False, highlight=False)
        if not layer.visible:
            layer.visible = True  # said of a visible layer, this would draw it a second time

    def _make(self, cells: Labels, painted: Any, name: str) -> None:
        if self._colormap is None:
            self._colormap = DirectLabelColormap(color_dict=painted_colors())
        self._of = cells
        self.layer = _layer(cells, (0,) * cells.ndim, painted, name, self._colormap)
        with keep_selection(self._viewer):
            self._viewer.add_layer(self.layer)

    def rest(self) -> None:
        """Show nothing for now: napari takes long to remove a layer and to add it again."""
        if self.layer is not None and self.layer in self._viewer.layers:
            self.layer.visible = False

    def hide(self) -> None:
        """Take the colours away."""
        layer, self.layer, self._of = self.layer, None, None
        if layer is not None and layer in self._viewer.layers:
            with keep_selection(self._viewer):
                self._viewer.layers.remove(layer)


def painted_colors() -> dict[int | None, Any]:
    """Colour of what a painted cell is."""
    scale = ensure_colormap("viridis").map(np.linspace(0, 1, STEPS))
    colors: dict[int | None, Any] = dict(enumerate(scale, start=SCALE))
    clear = np.zeros(4)
    return {
        **colors,
        FILTERED: np.array([0.05, 0.05, 0.05, 0.85]),
        LIT: np.array([1.0, 0.85, 0.1, 0.85]),
        **dict.fromkeys((0, PLAIN, None), clear),
    }


def _rim(areas: NDArray[Any]) -> NDArray[np.bool_]:
    """The outermost pixels of every area that is not 0; where the picture ends is no edge."""
    rim = np.zeros(areas.shape, bool)
    # rows against rows, and by the other view columns against columns
    for seen, edge in ((areas, rim), (areas.T, rim.T)):
        other = seen[1:] != seen[:-1]
        edge[1:] |= other
        edge[:-1] |= other
    return rim & (areas != 0)


def _place(cells: Labels, index: tuple[int, ...]) -> tuple[Any, ...]:
    """Plane, and where three of its corners lie."""
    height, width = cells.data.shape[-2:]
    corners = [cells.data_to_world((*index, *yx)) for yx in ((0, 0), (height, 0), (0, width))]
    return (layer_key(cells), index, *np.ravel(corners))


def _layer(
    cells: Labels,
    first: tuple[int, ...],
    lines: NDArray[np.uint8],
    name: str = NAME,
    colormap: Any = None,
) -> Labels:
    """A layer over cells, whose first pixel lies on this one of theirs."""
    corner: Any = cells.affine.inverse(cells.data_to_world(first))
    layer = Labels(
        lines,
        name=name,
        scale=cells.scale,
        translate=corner,
        rotate=cells.rotate,
        shear=_shear(cells),
        affine=cells.affine,
        units=cells.units,
        opacity=1,
        colormap=colormap or DirectLabelColormap(color_dict=_COLORS),
        metadata={METADATA_KEY: {SLOT_KEY: name}},
    )
    layer.editable = False
    return layer


def _shear(layer: Labels) -> Any:
    """Napari gives zeros of another length than it takes."""
    shear = np.asarray(layer.shear)
    return shear if shear.any() else np.zeros(layer.ndim * (layer.ndim - 1) // 2)
