"""Tables of the cells of a viewer's layers, which follow whatever becomes of the cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.measured import Box, MeasuredCells, Part, Place, TooMuch, slices
from napari_sa2net.app.session import ErrorInfo, summary_line
from napari_sa2net.engine import messages as p
from napari_sa2net.measure import empty_table
from napari_sa2net.quantities import checked_groups


@dataclass(frozen=True)
class KeptWindow:
    """Where the network's probabilities of cells are to be asked for.

    Attributes
    ----------
    key
        Of the result.
    corner, shape
        Place of its window in the image (stack axes, y, x), and its size.
    """

    key: str
    corner: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(eq=False)
class _Layer:
    cells: MeasuredCells
    kept: KeptWindow | None = None
    #: labels as they were sent to be measured as a whole
    sent: NDArray[Any] | None = None
    measured: bool = False
    #: of labels that a slider shows now, while the table is still to come
    summary: p.Summary | None = None
    #: groups that were asked for, of the cells with these stamps
    asked: tuple[tuple[str, ...], Mapping[int, int]] | None = None
    #: columns of its cells before, where all are measured anew
    before: p.ObjectTable = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A question to the engine: of which cells, and as they were then."""

    key: str
    layer: _Layer
    sent: NDArray[Any] | None = None
    stamps: Mapping[int, int] = field(default_factory=dict)


class Measurements:
    """Measures the cells of layers, and what changes of them.

    A table comes from a segmentation (`adopt`) or is asked for (`measure`). From then on
    `follow` keeps it true. All methods belong to the link's thread.

    Parameters
    ----------
    link
        The engine, which measures whole layers and knows the confidence of results.

    Attributes
    ----------
    changed
        Key of a layer whose table or summary is another.
    groups
        Of measurements that every table tells, see `choose`; at first none.
    """

    changed = Signal(str)

    def __init__(self, link: EngineLink) -> None:
        self._link = link
        self._layers: dict[str, _Layer] = {}
        self.groups: tuple[str, ...] = ()
        link.answer(("measure_image", "measure_groups", "confidence"), self)

    def choose(self, groups: Iterable[str]) -> None:
        """Tell these groups of measurements of every layer, and no others."""
        with self._link.lock:
            self.groups = checked_groups(groups)
            for key, layer in self._layers.items():
                if layer.measured:
                    if layer.cells.drop(set(layer.cells.groups) - set(self.groups)):
                        self.changed.emit(key)
                    self._complete(key, layer)

    # --- which are measured ------------------------------------------------------------

    def adopt(
        self,
        key: str,
        labels: Any,
        place: Place,
        table: Mapping[str, Any],
        kept: KeptWindow | None = None,
    ) -> None:
        """Take the table that came with the labels of a layer."""
        with self._link.lock:
            layer = _Layer(MeasuredCells(labels, place), kept, measured=True)
            layer.cells.adopt(table)
            self._layers[key] = layer
            self.changed.emit(key)

        def complete() -> None:
            with self._link.lock:
                if self._layers.get(key) is layer:
                    self._complete(key, layer)

        # it copies the labels, which are being shown: the window answers in between
        self._link.dispatch(complete)

    def measure(self, key: str, labels: Any, place: Place) -> None:
        """Measure all cells of a layer, of whatever origin; `changed` tells when it is done."""
        with self._link.lock:
            former = self._layers.get(key)
            layer = _Layer(MeasuredCells(labels, place))
            if former is not None:
                layer.kept = former.kept
                layer.cells.n_measured = former.cells.n_measured
                layer.before = former.cells.columns if former.measured else former.before
            self._layers[key] = layer
            self._ask_all(key, layer)

    def forget(self, key: str) -> None:
        """The layer is gone."""
        self._layers.pop(key, None)

    def cells(self, key: str) -> MeasuredCells | None:
        """The measured cells of a layer; None where there are none yet."""
        layer = self._layers.get(key)
        return layer.cells if layer is not None and layer.measured else None

    def is_followed(self, key: str) -> bool:
        """Whether a layer is measured, or about to be."""
        return key in self._layers

    def line(self, key: str) -> str:
        """``143 cells · median 96 µm² · 3 touch the border``; empty where unknown."""
        layer = self._layers.get(key)
        if layer is None:
            return ""
        if layer.sent is not None:
            return "Measuring the cells…"
        place = layer.cells.place
        summary = layer.summary or layer.cells.summary()
        side = np.sqrt(place.area_um2)
        known = float(side) if np.isfinite(side) else None
        return summary_line(summary, known, place.z_step_um)

    # --- following ---------------------------------------------------------------------

    def follow(
        self, key: str, labels: Any, place: Place, parts: Sequence[Part] | None = None
    ) -> bool:
        """Bring a table up to date with the labels as they are now.

        Parameters
        ----------
        labels
            The layer's array, maybe another one than before.
        parts
            Where it may have changed (axes of ``labels`` without those that the image does
            not have); unsaid, anywhere.

        Returns
        -------
        Whether cells of it are known to be other ones than before.
        """
        with self._link.lock:
            layer = self._layers.get(key)
            if layer is None:
                return False
            cells = layer.cells
            other = labels.shape != cells.labels.shape or place.extra != cells.place.extra
            if other or place.stack_axes != cells.place.stack_axes:
                self.measure(key, labels, place)
                return False
            cells.labels = labels
            if not layer.measured:
                return False  # compared when the table comes
            layer.summary = None
            moved = cells.move(place)
            try:
                changed = cells.follow(parts)
            except TooMuch:
                self._ask_all(key, layer)
                return True
            if changed or moved:
                self.changed.emit(key)
            if changed:
                self._ask_confidence(key, layer, changed)
            self._complete(key, layer)
            return bool(changed)

    def extend(self, key: str, labels: Any, place: Place, kept: KeptWindow) -> None:
        """Cells of another part of the image were added to those of a layer."""
        with self._link.lock:
            layer = self._layers.get(key)
            if layer is None:
                self.measure(key, labels, place)
            else:
                layer.kept = kept
                self.follow(key, labels, place)

    def set_summary(self, key: str, summary: p.Summary) -> None:
        """What a slider shows now; its table follows when the slider rests."""
        layer = self._layers.get(key)
        if layer is not None:
            layer.summary = summary
            self.changed.emit(key)

    # --- what the engine says ----------------------------------------------------------

    def job_done(self, call: p.Call, result: Any) -> None:
        """A call of ours is done; the link says so."""
        asked = call.about
        layer = self._layers.get(asked.key)
        if layer is None or asked.layer is not layer:
            return
        if call.kind == "measure_groups":
            groups, stamps = layer.asked or ((), {})
            layer.asked = None
            wanted = {name for one in groups if one in self.groups for name in result}
            if layer.measured and wanted and layer.cells.add(stamps, result):
                layer.cells.drop(set(groups) - set(self.groups))
                self.changed.emit(asked.key)
            self._complete(asked.key, layer)
        elif call.kind == "confidence":
            if layer.cells.set_confidence(asked.stamps, result):
                self.changed.emit(asked.key)
        elif layer.sent is asked.sent:
            self._take(asked.key, layer, result, asked.sent)

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """A call of ours failed; without its confidence a table is a table."""
        asked = call.about
        layer = self._layers.get(asked.key)
        if call.kind == "measure_groups" and layer is not None:
            layer.asked = None
            self._link.fail(error)
            return
        if call.kind == "confidence" or layer is None or layer.sent is not asked.sent:
            return
        # what is known of it is of other cells
        self.forget(asked.key)
        self.changed.emit(asked.key)
        self._link.fail(error)

    def job_cancelled(self, call: p.Call) -> None:
        """The engine ended with the question unanswered."""
        key = call.about.key
        if call.kind == "measure_groups" and key in self._layers:
            self._layers[key].asked = None
        if call.kind == "measure_image" and key in self._layers:
            self.forget(key)
            self.changed.emit(key)

    # --- inside ------------------------------------------------------------------------

    def _ask_all(self, key: str, layer: _Layer) -> None:
        cells, place = layer.cells, layer.cells.place
        layer.sent = labels = cells.now()
        if not labels.any():
            table = empty_table(place.stack_axes)
            columns = {str(name): table[name].to_numpy() for name in table.columns}
            self._take(key, layer, columns, labels)
            return
        arguments = _arguments(labels, place)
        self._link.ask("measure_image", arguments, about=_Asked(key, layer, labels))
        self.changed.emit(key)

    def _complete(self, key: str, layer: _Layer) -> None:
        """Have the engine measure what the table does not tell yet of the chosen groups."""
        cells = layer.cells
        if not layer.measured or layer.asked is not None or layer.sent is not None:
            return
        groups = tuple(group for group in self.groups if group not in cells.groups)
        if "intensity" in groups and cells.place.plan() is None:
            groups = tuple(group for group in groups if group != "intensity")
        if not groups:
            return
        labels = cells.now()
        wanted = cells.quantities(groups)
        if not cells.columns["label"].size:
            cells.add({}, {"label": cells.columns["label"], **wanted.nothing()})
            return
        layer.asked = groups, cells.stamps(cells.columns["label"].tolist())
        # only intensities are of the image, which is a way to go for nothing else
        place = cells.place if "intensity" in groups else replace(cells.place, image=None)
        arguments = {**_arguments(labels, place), "groups": groups}
        about = _Asked(key, layer)
        self._link.ask("measure_image", arguments, kind="measure_groups", about=about)

    def _take(
        self, key: str, layer: _Layer, table: Mapping[str, Any], sent: NDArray[Any] | None
    ) -> None:
        """A whole table came; what changed meanwhile is measured after it."""
        cells, before = layer.cells, layer.cells.columns
        cells.adopt(table, sent)
        cells.recall(layer.before or dict(before))
        layer.before = {}
        cells.n_measured += len(table["label"])
        layer.sent, layer.measured, layer.summary = None, True, None
        try:
            cells.follow()
        except TooMuch:
            self._ask_all(key, layer)
            return
        self.changed.emit(key)
        self._ask_confidence(key, layer, cells.boxes)
        self._complete(key, layer)

    def _ask_confidence(self, key: str, layer: _Layer, changed: Mapping[int, Box]) -> None:
        cells, kept, corner = layer.cells, layer.kept, layer.cells.place.corner
        if kept is None or corner is None or len(kept.corner) != len(corner):
            return  # made when the image was read as one of other axes
        # the window in the labels' own pixels
        low = np.asarray(kept.corner) - np.asarray(corner)
        high = low + np.asarray(kept.shape)
        inside = [
            label
            for label in sorted(changed.keys() & cells.boxes.keys())
            if (cells.boxes[label][0] >= low).all() and (cells.boxes[label][1] <= high).all()
        ]
        for window, own in cells.crops(inside):
            crop = np.maximum(window[0], low), np.minimum(window[1], high)
            at = tuple((crop[0] - low).tolist())
            asked = _Asked(key, layer, stamps=cells.stamps(own))
            arguments = {"labels": np.array(cells.read(slices(crop))), "at": at}
            self._link.ask("measure", arguments, kept.key, "confidence", asked)


def _arguments(labels: NDArray[Any], place: Place) -> dict[str, Any]:
    """Of the engine's calls that measure labels on their image."""
    arguments = {
        "labels": labels,
        "corner": place.corner,
        "stack_axes": place.stack_axes,
        "pixel_size_um": place.pixel_size_um,
        "z_step_um": place.z_step_um,
    }
    image = place.image if place.corner is not None else None
    if image is not None:
        arguments |= {"image": image.data, "axes": image.axes, "channels": image.channels}
    return arguments
