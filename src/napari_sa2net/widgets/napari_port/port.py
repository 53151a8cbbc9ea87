"""The viewer as the pages see it: the image they work on, and the results they show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels
from napari.layers.utils.stack_utils import stack_to_images
from psygnal import Signal

from napari_sa2net.app.session import ImageSource, Overlay
from napari_sa2net.engine.messages import SegmentResult, Window
from napari_sa2net.widgets.napari_port.connections import Connections, WatchedLayers
from napari_sa2net.widgets.napari_port.drawing import (
    FinishedPictures,
    MeasureLine,
    begin_area,
    drawn_box,
)
from napari_sa2net.widgets.napari_port.maps import (
    OUTLINED,
    MapLayers,
    cell_colors,
    contour_for,
    is_bright,
    is_cells,
    is_overlay,
)
from napari_sa2net.widgets.napari_port.picking import go_to
from napari_sa2net.widgets.napari_port.reading import (
    camera_of,
    image_source,
    layer_axes,
    layer_key,
    place_on,
)
from napari_sa2net.widgets.napari_port.results import (
    LEFT_CHOICES,
    LEFT_RESULTS,
    Area,
    LeftResult,
    ResultLayer,
    keep_selection,
    labels_digest,
    place_labels,
    ranked,
    set_features,
)

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer
    from numpy.typing import NDArray

    from napari_sa2net.app.segment import ResultState
    from napari_sa2net.edits import Patch

PLUGIN = "napari-sa2net"
#: Pixels of a layer that holds several parts of an image; larger ones get a layer each.
MOST_TOGETHER = 2**28


class NapariPort:
    """Follows the viewer's image layers and owns the result layers.

    Attributes
    ----------
    images_changed
        The list of image layers or a name in it changed.
    image_changed
        Another image is current, or something of it (not its pixels) changed.
    image_chosen
        A person has chosen this image layer on a page.
    view_changed
        The camera or a slider moved.
    pixels_changed, image_gone
        An image's content changed; its layer was deleted. With the layer's key.
    result_edited, result_gone
        A person edited a result; its layer was deleted. With the result's key.
    painted
        A layer of cells, and what napari painted there (perhaps only after this is told).
    tabled
        Labels of a result and their table are shown: layer, table, and key and result.
    added
        Cells of another part of the image were added to a result: layer, key and result.
    add_to_edited
        Adds them to a layer that a person has edited: its key, the first element of the part
        in it, and the labels; tells whether it could.
    """

    images_changed = Signal()
    image_changed = Signal()
    image_chosen = Signal(object)
    view_changed = Signal()
    pixels_changed = Signal(str)
    image_gone = Signal(str)
    result_edited = Signal(str)
    result_gone = Signal(str)
    painted = Signal(object, object)
    tabled = Signal(object, object, object)
    added = Signal(object, str, object)

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.pinned = False
        #: contrast limits are the levels
        self.as_displayed = False
        self._current: Image | None = None
        self._selected_last: Image | None = None
        self._axes: dict[str, str] = {}
        self._channels: dict[str, tuple[int, ...]] = {}
        #: while cells are added that stay hidden
        self.adds_unseen = False
        self._results: dict[str, ResultLayer] = {}
        self._measure: MeasureLine | None = None
        self.add_to_edited: Callable[[str, tuple[int, ...], Any], bool] = lambda *_: False
        self.maps = MapLayers(viewer)
        self._finished = FinishedPictures(viewer)
        self._seen_since: WeakKeyDictionary[Labels, datetime] = WeakKeyDictionary()
        self._watched = WatchedLayers(
            viewer, lambda layer: _is_image(layer) or is_cells(layer), self._watch
        )
        self._layer_connections = Connections()
        self._connections = Connections()
        connect = self._connections.connect
        layers = viewer.layers
        connect(layers.events.inserted, self._inserted)
        connect(layers.events.removed, self._removed)
        connect(layers.events.reordered, self._renamed)
        connect(layers.selection.events.active, self._selected)
        for event in ("current_step", "ndisplay", "order"):
            connect(getattr(viewer.dims.events, event), self._moved)
        camera = camera_of(viewer)
        for event in ("center", "zoom"):
            connect(getattr(camera.events, event), self._moved)
        for layer in self.images():
            axes, channels = LEFT_CHOICES.pop(layer, (None, None))
            if axes is not None:
                self._axes[layer_key(layer)] = axes
            if channels is not None:
                self._channels[layer_key(layer)] = channels
        self._follow()

    # --- the image ---------------------------------------------------------------------

    def images(self) -> list[Image]:
        """Image layers but for those of ours, the topmost first."""
        return [layer for layer in reversed(self.viewer.layers) if _is_image(layer)]

    def cells(self) -> list[Labels]:
        """Labels layers but for those of ours, the topmost first."""
        return [layer for layer in reversed(self.viewer.layers) if is_cells(layer)]

    def seen_since(self, layer: Labels) -> datetime | None:
        """When a layer of cells came into the viewer, to the second."""
        return self._seen_since.get(layer)

    def choices(self) -> list[tuple[str, str]]:
        """Key and name of every image layer, the topmost first."""
        return [(layer_key(layer), layer.name) for layer in self.images()]

    @property
    def current(self) -> Image | None:
        """The image layer that the pages work on."""
        return self._current

    def source(self) -> ImageSource | None:
        """The current image as it is now."""
        layer = self._current
        if layer is None:
            return None
        return self.source_of(layer)

    def source_of(self, layer: Image) -> ImageSource:
        """An image as it is now."""
        key = layer_key(layer)
        source = image_source(
            self.viewer,
            layer,
            self._axes.get(key),
            self._channels.get(key),
            self.as_displayed,
        )
        return replace(source, area=drawn_box(self.viewer, layer))

    def choose(self, key: str) -> None:
        """Work on an image, and stay with it (pinned) whatever is selected."""
        for layer in self.images():
            if layer_key(layer) == key:
                self.pinned = True
                self._selected_last = layer
                self._set_current(layer)
                self.image_chosen.emit(layer)

    def set_pinned(self, pinned: bool) -> None:
        """Stay with the current image, or follow the selection again."""
        self.pinned = pinned
        if not pinned:
            self._follow()

    def set_axes(self, axes: str) -> None:
        """Spell the current image's axes; its channels start anew."""
        if self._current is not None:
            key = layer_key(self._current)
            self._axes[key] = axes
            self._channels.pop(key, None)
            self.image_changed.emit()

    def set_channels(self, channels: tuple[int, ...], image: Image | None = None) -> None:
        """Choose channels that go in, of the current image or of another one."""
        image = image or self._current
        if image is not None:
            self._channels[layer_key(image)] = channels
            if image is self._current:
                self.image_changed.emit()

    def set_as_displayed(self, on: bool) -> None:
        """Take contrast limits as levels, or measure them."""
        self.as_displayed = on
        self.image_changed.emit()

    def split(self, axis: int) -> None:
        """Put a layer for each channel along an axis in the place of the current image."""
        layer = self._current
        if layer is None:
            return
        channels = stack_to_images(layer, axis)
        for i, channel in enumerate(channels):
            channel.name = f"{layer.name} channel {i}"
        self.viewer.layers.remove(layer)
        self.viewer.layers.extend(channels)
        self.viewer.layers.selection.active = channels[0]

    def open(self, paths: list[str]) -> None:
        """Open files with whichever reader napari finds."""
        self.viewer.open(paths, plugin=None)

    def open_sample(self, name: str) -> None:
        """Open one of our sample images."""
        self.viewer.open_sample(PLUGIN, name)

    def open_page(self, name: str) -> None:
        """Open a page of ours in a dock of its own."""
        dock, _ = self.viewer.window.add_plugin_dock_widget(PLUGIN, name)
        dock.show()
        dock.raise_()

    def measure(
        self,
        later: Callable[[Callable[[], None]], None],
        done: Callable[[float | None], None],
    ) -> None:
        """Let the person drag a line over the current image; see `MeasureLine`."""
        self.cancel_measure()
        if self._current is not None:
            self._measure = MeasureLine(self.viewer, self._current, later, done)

    def cancel_measure(self) -> None:
        """Take the line tool away, if it is there."""
        if self._measure is not None:
            self._measure.cancel()
            self._measure = None

    def draw_area(self) -> None:
        """Let the person drag a rectangle with napari's own tool, unless something is drawn."""
        if self._current is not None:
            drawing = begin_area(self.viewer, self._current)
            if drawing is not None:
                self._connections.connect(drawing.events.data, self._placed)

    def image_layer(self, key: str) -> Image | None:
        """The image layer with this key."""
        return self._image(key)

    def axes_of(self, image: Image) -> str | None:
        """Axes that a person has spelled for an image."""
        return self._axes.get(layer_key(image))

    def channels_of(self, image: Image) -> tuple[int, ...] | None:
        """Channels that a person has chosen of an image."""
        return self._channels.get(layer_key(image))

    # --- results -----------------------------------------------------------------------

    def image_of(self, layer: Labels) -> Image | None:
        """The image that a result belongs to; None for other layers."""
        shown = next((r for r in self._results.values() if r.layer is layer), None)
        return shown.image if shown is not None and shown.image in self.images() else None

    def result_key(self, layer: Labels) -> str:
        """Key of the result that a layer shows; empty for other layers."""
        return next((key for key, r in self._results.items() if r.layer is layer), "")

    def newest_result(self, image: Image) -> Labels | None:
        """The layer of the newest result of an image."""
        for shown in reversed(self._results.values()):
            if shown.image is image and shown.alive:
                return shown.layer
        return None

    def mark_edited(self, layer: Labels) -> None:
        """A person has corrected a layer; if it is a result, sliders let go of it."""
        for shown in self._results.values():
            if shown.layer is layer:
                shown.touch()

    def look(self, layer: Labels) -> None:
        """Mark a result that a script has written into, of which napari says nothing."""
        for shown in self._results.values():
            if shown.layer is layer:
                shown.look()

    def is_edited(self, layer: Labels) -> bool:
        """Whether a layer is a result that a person has corrected."""
        return any(shown.layer is layer and shown.edited for shown in self._results.values())

    def show(self, state: ResultState, result: SegmentResult) -> None:
        """Show a result over its image, in the place of the one that it replaces.

        Nothing happens where the image is gone. Selection and camera stay as they are.
        """
        image = self._image(state.request.source.key)
        if image is None:
            return
        if state.adds_to and self._add(image, state, result):
            return
        labels, arguments = place_labels(
            image, state.request.source, result.labels, result.offset
        )
        former = self._results.pop(state.looks_into or "", None)
        if former is not None and former.alive:
            # a person's cells stay as they are; the maps are all that was asked for
            former.adopt(lambda: self._edited(state.key))
            former.result = result
            self._results[state.key] = former
            self.added.emit(former.layer, state.key, result)
            return
        old = self._results.pop(state.replaces, None) if state.replaces else None
        if old is not None and old.alive and not old.look() and old.layer.ndim == labels.ndim:
            shown = old
            shown.adopt(lambda: self._edited(state.key))
            if shown.area is not None and state.request.window != Window():
                # the same part again: what lies around it stays
                merged = shown.area.with_cells(result.labels)
                labels, arguments = place_labels(
                    image, state.request.source, merged, shown.area.offset
                )
                shown.replace(labels, arguments)
                self._results[state.key] = shown
                self._added(state.key, shown, result)
                return
            shown.area = None
            shown.replace(labels, arguments)
        else:
            if old is not None:
                old.disconnect()
            seen = not (state.request.looks and self._has_cells(image, result.offset))
            arguments.update(cell_colors(image), visible=seen)
            layer = Labels(labels, name=f"{image.name} cells", **arguments)
            if np.prod(labels.shape[-2:]) <= OUTLINED:
                layer.contour = contour_for(result.summary.median_area_px)
            # for a moment napari selects what is added: cells that nobody sees are not to be
            # corrected in the place of those that are seen
            self.adds_unseen = not seen
            try:
                with keep_selection(self.viewer):
                    self.viewer.add_layer(layer)
            finally:
                self.adds_unseen = False
            shown = ResultLayer(self.viewer, layer, image, lambda: self._edited(state.key))
        self._results[state.key] = shown
        if state.request.looks and not shown.layer.contour:
            # filled cells would hide the maps that lie under them
            shown.layer.contour = contour_for(result.summary.median_area_px)
        shown.set_metadata(result.provenance)
        shown.result = result
        if result.objects is not None:
            self._show_table(state.key, shown, result.objects)

    def update_labels(self, key: str, labels: NDArray[Any]) -> bool:
        """Show labels that a slider made anew; False where somebody has edited those there."""
        shown = self._results.get(key)
        if shown is None or not shown.alive or shown.look():
            return False
        if shown.area is not None:
            labels = shown.area.with_cells(labels)
        shown.replace(labels.reshape(shown.layer.data.shape))
        if shown.area is not None:
            self.added.emit(shown.layer, key, shown.result)
        return True

    def update_table(self, key: str, table: dict[str, NDArray[Any]]) -> None:
        """Show the table that belongs to the labels."""
        shown = self._results.get(key)
        # that of a part is of cells with other numbers
        if shown is not None and shown.alive and shown.area is None and not shown.look():
            self._show_table(key, shown, table)

    def result_layer(self, key: str) -> Labels | None:
        """The layer of a result, if it is there."""
        shown = self._results.get(key)
        return shown.layer if shown is not None and shown.alive else None

    def edited_labels(self, key: str, shape: tuple[int, ...]) -> NDArray[np.int32] | None:
        """Labels of a result as a person has left them; None where they are ours still."""
        shown = self._results.get(key)
        if shown is None or not shown.alive or not shown.edited:
            return None
        labels = np.asarray(shown.layer.data)
        return labels.reshape(shape).astype(np.int32) if labels.size == np.prod(shape) else None

    def _has_cells(self, image: Image, first: tuple[int, ...]) -> bool:
        """Whether cells that are seen lie on a plane of an image: that of this pixel."""
        for layer in self.cells():
            place = place_on(image, layer, self._axes_of(image)) if layer.visible else None
            if place is not None:
                corner, extra = place
                sizes = [n for i, n in enumerate(layer.data.shape) if i not in extra]
                lead = zip(first[:-2], corner[:-2], sizes[:-2], strict=True)
                if all(low <= at < low + n for at, low, n in lead):
                    return True
        return False

    def is_writing(self, layer: Labels) -> bool:
        """Whether we put labels into a result layer just now, whose table is still to come."""
        return any(r.layer is layer and r.writing for r in self._results.values())

    def ranked(self, key: str, column: str) -> list[int]:
        """Labels of a result by a column of its table, the highest first; specks last."""
        layer = self.result_layer(key)
        if layer is None:
            return []
        if not self._results[key].edited:
            known = {"label", column} <= set(layer.features.columns)
            return ranked(layer.features, column) if known else []
        # the cells that a person has made of those which were ranked
        import pandas as pd

        result = self._results[key].result
        table = result.objects or {}
        now, found = np.asarray(layer.data).reshape(-1), np.asarray(result.labels).reshape(-1)
        if not {"label", column} <= set(table) or now.size != found.size:
            return []
        order: list[int] = []
        for label in ranked(pd.DataFrame(dict(table)), column):
            own = now[found == label]
            own = own[own > 0]
            if own.size:
                order.append(int(np.bincount(own).argmax()))
        return list(dict.fromkeys(order))

    def go_to(self, key: str, label: int) -> bool:
        """Select an object of a result and bring it into view."""
        layer = self.result_layer(key)
        return layer is not None and go_to(self.viewer, layer, label)

    # --- overlays ----------------------------------------------------------------------

    def show_overlay(self, overlay: Overlay) -> None:
        """Show, replace or take away a layer of the See-why page, if its image is there."""
        image = self._image(overlay.source.key)
        if image is not None:
            self.maps.show(image, overlay)

    def is_bright(self, key: str) -> bool:
        """Whether an image is so light that maps lie on it as a film and are not added."""
        image = self._image(key)
        return image is not None and is_bright(image)

    # --- closing, and opening again -------------------------------------------------------

    def leave(self, states: Mapping[str, ResultState]) -> None:
        """Note on the layers what they show, for the next dock; ``states`` by result's key."""
        for number, (key, shown) in enumerate(self._results.items()):
            if not shown.alive or shown.image not in self.images():
                continue
            state = states.get(key)
            if state is not None:
                source = replace(state.request.source, data=None)
                state = replace(state, request=replace(state.request, source=source))
            LEFT_RESULTS[shown.layer] = LeftResult(
                *(key, layer_key(shown.image), number, shown.result, shown.area, shown.edited),
                *(state, labels_digest(shown.layer)),
            )
        for image in self.images():
            LEFT_CHOICES[image] = self.axes_of(image), self.channels_of(image)

    def take_up(self) -> list[ResultState]:
        """Know the results again that a dock has left in this viewer; the newest of each image.

        Their probabilities went with the engine, and labels that are others by now a person
        has edited.
        """
        found = [(LEFT_RESULTS.pop(layer, None), layer) for layer in self.cells()]
        there = [(one, layer) for one, layer in found if one is not None]
        states = []
        for one, layer in sorted(there, key=lambda pair: pair[0].number):
            image = self._image(one.image)
            if image is None:
                continue
            shown = ResultLayer(self.viewer, layer, image, partial(self._edited, one.key))
            shown.result, shown.area = one.result, one.area
            shown.edited = one.edited or one.labels != labels_digest(layer)
            self._results[one.key] = shown
            if one.state is not None:
                source = replace(one.state.request.source, data=image.data)
                request = replace(one.state.request, source=source)
                states.append(
                    replace(one.state, request=request, edited=shown.edited, kept=False)
                )
        return states

    def close(self) -> None:
        """Leave the viewer with no callback of ours; the layers are the user's."""
        self.cancel_measure()
        self._finished.close()
        self._connections.disconnect()
        self._layer_connections.disconnect()
        self._watched.close()
        for shown in self._results.values():
            shown.disconnect()
        self._results.clear()
        self.maps.close()
        self._current = None

    # --- what napari says --------------------------------------------------------------

    def _inserted(self, event: Any) -> None:
        if _is_image(event.value):
            self.images_changed.emit()
            self._follow()

    def _removed(self, event: Any) -> None:
        layer = event.value
        for key, shown in list(self._results.items()):
            if shown.layer is layer:
                shown.disconnect()
                del self._results[key]
                self.result_gone.emit(key)
        self.maps.removed(layer)
        if not _is_image(layer):
            return
        key = layer_key(layer)
        self._axes.pop(key, None)
        self._channels.pop(key, None)
        self.maps.forget_image(key)
        self.image_gone.emit(key)
        if layer is self._selected_last:
            self._selected_last = None
        if layer is self._current:
            self.pinned = False
            self._set_current(None)
            self._follow()
        self.images_changed.emit()

    def _selected(self, event: Any = None) -> None:
        self._follow()

    def _renamed(self, event: Any = None) -> None:
        self.images_changed.emit()
        self.image_changed.emit()

    def _moved(self, event: Any = None) -> None:
        self.view_changed.emit()

    def _placed(self, event: Any = None) -> None:
        self.image_changed.emit()

    def _pixels(self, layer: Image) -> None:
        self.maps.forget_image(layer_key(layer), replaced=True)
        self.pixels_changed.emit(layer_key(layer))
        if layer is self._current:
            self.image_changed.emit()

    def _edited(self, key: str) -> None:
        self.result_edited.emit(key)

    # --- inside ------------------------------------------------------------------------

    def added_part(self, layer: Labels) -> tuple[Patch, ...] | None:
        """What the last part changed in the labels of a result; None where none was added."""
        for shown in self._results.values():
            if shown.layer is layer and shown.area is not None and not shown.edited:
                # the layer may have axes of length 1 beside those of the labels
                stacks = (shown.area.former.shape[:-2], layer.data.shape[:-2])
                planes = dict(zip(*(np.ndindex(*stack) for stack in stacks), strict=True))
                return tuple(
                    replace(patch, index=planes[patch.index]) for patch in shown.area.changes
                )
        return None

    def _add(self, image: Image, state: ResultState, result: SegmentResult) -> bool:
        """Add the cells of a part of the image to a former result; whether that could be."""
        old = self._results.get(state.adds_to or "")
        place = None
        if old is not None and old.alive:
            place = place_on(image, old.layer, self._axes_of(image))
        if old is None or place is None:
            return False
        corner, offset = np.array(place[0]), np.array(result.offset)
        cells = np.squeeze(np.asarray(old.layer.data), place[1])
        ends = corner + cells.shape, offset + result.labels.shape
        low, high = np.minimum(corner, offset), np.maximum(*ends)
        if math.prod((high - low).tolist()) > MOST_TOGETHER:
            return False
        if old.look():
            if (low < corner).any() or (high > ends[0]).any():
                return False
            start = (offset - corner).tolist()
            for axis in sorted(place[1]):
                start.insert(axis, 0)
            labels = np.expand_dims(result.labels, place[1])
            if not self.add_to_edited(layer_key(old.layer), tuple(start), labels):
                return False
            del self._results[state.adds_to or ""]
            self._results[state.key] = old
            self._added(state.key, old, result)
            self._edited(state.key)
            return True
        former = np.zeros((high - low).tolist(), np.int32)
        where = zip(corner - low, ends[0] - low, strict=True)
        former[tuple(slice(int(a), int(b)) for a, b in where)] = cells
        old.area = Area(
            former, tuple((offset - low).tolist()), tuple(int(v) for v in low.tolist())
        )
        merged = old.area.with_cells(result.labels)
        labels, arguments = place_labels(image, state.request.source, merged, old.area.offset)
        del self._results[state.adds_to or ""]
        self._results[state.key] = old
        old.adopt(lambda: self._edited(state.key))
        old.replace(labels, arguments)
        self._added(state.key, old, result)
        return True

    def _added(self, key: str, shown: ResultLayer, result: SegmentResult) -> None:
        shown.result = result
        shown.set_metadata(result.provenance)
        self.added.emit(shown.layer, key, result)

    def _axes_of(self, image: Image) -> str:
        return self.axes_of(image) or layer_axes(image)

    def _show_table(self, key: str, shown: ResultLayer, table: dict[str, NDArray[Any]]) -> None:
        set_features(shown.layer, table)
        self.tabled.emit(shown.layer, table, (key, shown.result))

    def _image(self, key: str) -> Image | None:
        return next((layer for layer in self.images() if layer_key(layer) == key), None)

    def _follow(self) -> None:
        """The image selected last unless pinned, else the topmost; one that is seen, if any."""
        images = self.images()
        if self.pinned and self._current in images:
            return
        active = self.viewer.layers.selection.active
        if active is not None and _is_image(active):
            self._selected_last = active
        wanted = [self._selected_last, self._current, *images]
        there = [layer for layer in wanted if layer in images]
        seen = [layer for layer in there if layer is not None and layer.visible]
        self._set_current(next(iter(seen or there), None))

    def _set_current(self, layer: Image | None) -> None:
        if layer is self._current:
            return
        self._layer_connections.disconnect()
        self._current = layer
        if layer is not None:
            for name in (
                "scale",
                "translate",
                "rotate",
                "shear",
                "affine",
                "units",
                "axis_labels",
            ):
                self._layer_connections.connect(getattr(layer.events, name), self._placed)
        self.image_changed.emit()

    def _watch(self, layer: Image | Labels, connect: Callable[..., None]) -> None:
        if isinstance(layer, Image):
            connect(layer.events.name, self._renamed)
            connect(layer.events.data, lambda _: self._pixels(layer))
            connect(layer.events.visible, self._selected)
        else:
            connect(layer.events.paint, lambda event: self.painted.emit(layer, event.value))
            # as commits tell their time
            self._seen_since[layer] = datetime.now(UTC).replace(microsecond=0)


def _is_image(layer: Layer) -> TypeGuard[Image]:
    return isinstance(layer, Image) and not is_overlay(layer)
