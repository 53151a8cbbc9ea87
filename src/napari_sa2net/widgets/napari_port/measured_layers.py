"""Tables of Labels layers: put into their features, and told of every change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_sa2net.app.measured import Part, Place
from napari_sa2net.app.measurements import KeptWindow, Measurements
from napari_sa2net.data.axes import STACK_NAMES
from napari_sa2net.engine.messages import SegmentResult
from napari_sa2net.widgets.napari_port.connections import Connections, WatchedLayers
from napari_sa2net.widgets.napari_port.maps import is_cells
from napari_sa2net.widgets.napari_port.reading import layer_key, pixel_size_um, z_step_um
from napari_sa2net.widgets.napari_port.results import (
    LEFT_TABLES,
    LeftTable,
    labels_digest,
    link_rows,
    set_features,
)

if TYPE_CHECKING:
    from napari_sa2net.app.edit_session import Change
    from napari_sa2net.widgets.napari_port.cells import CellLayers
    from napari_sa2net.widgets.napari_port.port import NapariPort


class MeasuredLayers:
    """Follows Labels layers, and shows what is measured of them.

    Attributes
    ----------
    changed
        Layer whose table or line is another.
    """

    changed = Signal(object)

    def __init__(self, port: NapariPort, cells: CellLayers, measurements: Measurements) -> None:
        self._viewer = port.viewer
        self._port = port
        self._cells = cells
        self._measurements = measurements
        self._dirty: dict[Labels, list[Part] | None] = {}
        self._seen: dict[Labels, Any] = {}
        self._behind: set[Labels] = set()
        self._tabling = False
        self._connections = Connections()
        connect = self._connections.connect
        connect(port.tabled, self._tabled)
        connect(port.added, self._added)
        connect(port.image_changed, self._moved)
        connect(measurements.changed, self._changed)
        self._watched = WatchedLayers(port.viewer, is_cells, self._watch, gone=self._forget)

    # --- what is asked for -------------------------------------------------------------

    def measure(self, layer: Labels) -> None:
        """Measure all cells of a layer, whatever made them."""
        self._measurements.measure(layer_key(layer), finest(layer), self.place(layer))

    def is_measured(self, layer: Labels) -> bool:
        """Whether a layer has a table that follows it, or is about to."""
        return self._measurements.is_followed(layer_key(layer))

    def line(self, layer: Labels) -> str:
        """Count and sizes of a layer's cells as they are now."""
        return self._measurements.line(layer_key(layer))

    def box(self, layer: Labels, label: int) -> tuple[Any, Any] | None:
        """Corners of a cell in the layer's pixels, half-open; None where not known."""
        cells = self._measurements.cells(layer_key(layer))
        box = cells.boxes.get(label) if cells is not None else None
        if box is None or cells is None:
            return None
        low, high = box
        for axis in sorted(cells.place.extra):
            low, high = np.insert(low, axis, 0), np.insert(high, axis, 1)
        return low, high

    def place(self, layer: Labels) -> Place:
        """How a layer lies on the image under it."""
        image, corner, extra = self._cells.image_under(layer)
        source = self._port.source_of(image) if image is not None else None
        if source is not None and corner is not None:
            return Place(
                source,
                corner,
                extra,
                source.stack_axes[-(len(corner) - 2) :] if len(corner) > 2 else "",
                source.pixel_size_um,
                source.z_step_um,
            )
        axes = STACK_NAMES[: layer.ndim - 2][::-1]
        return Place(
            stack_axes=axes,
            pixel_size_um=pixel_size_um(layer),
            z_step_um=z_step_um(layer, axes + "YX"),
        )

    def correct_changed(self, key: str, change: Change) -> None:
        """A correction was made, taken back or done again."""
        layer = self._cells.find(key)
        if layer is not None:
            parts = [
                (*(slice(i, i + 1) for i in patch.index), slice(y0, y1), slice(x0, x1))
                for patch in change.step.patches
                for y0, y1, x0, x1 in patch.boxes()
            ]
            self._note(layer, parts)

    def flush(self) -> None:
        """Take in what has changed since the last time."""
        dirty, self._dirty = self._dirty, {}
        for layer, parts in dirty.items():
            if layer in self._watched:
                place = self.place(layer)
                if parts is None:
                    self._port.look(layer)
                else:
                    parts = [_without(part, place.extra) for part in parts]
                self._measurements.follow(layer_key(layer), finest(layer), place, parts)

    def leave(self) -> None:
        """Note on the layers that they are measured, for the next dock."""
        self.flush()
        for layer in self._watched:
            if self.is_measured(layer):
                cells = self._measurements.cells(layer_key(layer))
                columns = cells.columns if cells is not None else {}
                LEFT_TABLES[layer] = LeftTable(columns, labels_digest(layer))

    def take_up(self) -> None:
        """Follow the tables again that a dock has left; changed cells are measured anew."""
        for layer in self._watched:
            table = LEFT_TABLES.pop(layer, None)
            if table is None:
                continue
            place = self.place(layer)
            key, labels = layer_key(layer), finest(layer)
            if table.columns:
                self._measurements.adopt(key, labels, place, table.columns)
            if not table.columns or table.labels != labels_digest(layer):
                self._measurements.measure(key, labels, place)

    def close(self) -> None:
        """Leave the viewer with no callback of ours."""
        self._connections.disconnect()
        self._watched.close()
        self._dirty.clear()

    # --- what napari says --------------------------------------------------------------

    def _watch(self, layer: Labels, connect: Callable[..., None]) -> None:
        connect(layer.events.paint, lambda event: self._note(layer, _parts_of(event.value)))
        connect(layer.events.data, lambda _: self._replaced(layer))
        connect(layer.events.set_data, lambda _: self._refreshed(layer))
        connect(layer.events.features, lambda _: link_rows(layer))
        link_rows(layer)

    def _forget(self, layer: Labels) -> None:
        self._dirty.pop(layer, None)
        self._seen.pop(layer, None)
        self._behind.discard(layer)
        self._measurements.forget(layer_key(layer))

    def _replaced(self, layer: Labels) -> None:
        if self._port.is_writing(layer):
            self._behind.add(layer)
        else:
            self._note(layer, None)

    def _refreshed(self, layer: Labels) -> None:
        """Drawn anew: where the view is as it was, a script may have written into it."""
        dims = self._viewer.dims
        seen = (tuple(dims.point), tuple(dims.order), dims.ndisplay)
        before = self._seen.get(layer)
        self._seen[layer] = seen
        own = self._port.is_writing(layer) or not isinstance(layer.data, np.ndarray)
        if not own and before in (seen, None):
            self._note(layer, None)

    def _moved(self, _: Any = None) -> None:
        for layer in self._watched:
            self._note(layer, [])

    def _note(self, layer: Labels, parts: Sequence[Part] | None) -> None:
        """Look at parts of a layer, or everywhere, once whoever writes has done so."""
        if not self.is_measured(layer):
            return
        if layer in self._behind:
            parts = None if parts else parts
        if not self._dirty:
            # no timer is kept, which Qt may delete before we are closed
            QTimer.singleShot(0, self.flush)
        known = self._dirty.get(layer, [])
        self._dirty[layer] = None if parts is None or known is None else [*known, *parts]

    # --- what is measured --------------------------------------------------------------

    def _tabled(
        self, layer: Labels, table: Mapping[str, Any], kept: tuple[str, SegmentResult]
    ) -> None:
        """A table came with the labels of a result."""
        place = self.place(layer)
        key, result = kept
        window = KeptWindow(key, tuple(result.offset), tuple(result.labels.shape))
        self._dirty.pop(layer, None)
        self._behind.discard(layer)
        self._tabling = True
        try:
            self._measurements.adopt(layer_key(layer), finest(layer), place, table, window)
        finally:
            self._tabling = False

    def _added(self, layer: Labels, key: str, result: SegmentResult) -> None:
        """Cells of another part of the image were added to a result."""
        window = KeptWindow(key, tuple(result.offset), tuple(result.labels.shape))
        self._dirty.pop(layer, None)
        self._behind.discard(layer)
        place = self.place(layer)
        self._measurements.extend(layer_key(layer), finest(layer), place, window)

    def _changed(self, key: str) -> None:
        layer = self._cells.find(key)
        if layer is None:
            return
        cells = self._measurements.cells(key)
        if cells is not None and not self._tabling:
            set_features(layer, cells.columns)
        self.changed.emit(layer)


def finest(layer: Labels) -> Any:
    """The array of a layer, of several levels the finest."""
    return layer.data[0] if layer.multiscale else layer.data


def _without(part: Part, extra: tuple[int, ...]) -> Part:
    return tuple(piece for axis, piece in enumerate(part) if axis not in extra)


def _parts_of(atoms: Any) -> list[Part] | None:
    """Where napari has painted, or will have; None where that is not told."""
    parts: list[Part] = []
    for atom in atoms if isinstance(atoms, list) else [atoms]:
        if hasattr(atom, "slice_key"):
            parts.append(tuple(atom.slice_key))
        elif isinstance(atom, tuple) and len(atom) == 3:
            where = [np.atleast_1d(np.asarray(axis)) for axis in atom[0]]
            if where and all(axis.size for axis in where):
                ends = [(int(axis.min()), int(axis.max()) + 1) for axis in where]
                parts.append(tuple(slice(a, b) for a, b in ends))
        else:
            return None
    return parts
