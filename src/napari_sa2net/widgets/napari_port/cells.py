"""Labels layers that are corrected: which one is chosen, and how it lies on its image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_sa2net.app.session import source_plan
from napari_sa2net.widgets.napari_port.connections import Connections, WatchedLayers
from napari_sa2net.widgets.napari_port.maps import OUTLINED, cell_colors, contour_for, is_cells
from napari_sa2net.widgets.napari_port.picking import bring_into_view, elsewhere_words
from napari_sa2net.widgets.napari_port.reading import (
    image_source,
    in_viewer_units,
    layer_axes,
    layer_key,
    layer_path,
    place_on,
)
from napari_sa2net.widgets.napari_port.repaint import (
    draw_parts,
    repaint,
    shown_index,
    turned_words,
)
from napari_sa2net.widgets.napari_port.results import (
    METADATA_KEY,
    place_grid,
    place_labels,
    set_transforms,
    with_axes_before,
)

if TYPE_CHECKING:
    from napari_sa2net.app.cells import CellSource, KeptPlace

    # not at once: they bring all of editing, and scipy with it
    from napari_sa2net.app.edit_session import Change, RestoredCells
    from napari_sa2net.widgets.napari_port.port import NapariPort

JOURNAL_KEY = "journal"
NOTES_KEY = "notes"
WAVES_KEY, CARRIED_KEY = "waves", "carried"


class CellLayers:
    """Follows the Labels layers of the viewer and tells which one is corrected.

    That is the one that a person picked on the page; else the selected one; else the result
    of the current image; else the topmost over it.

    Attributes
    ----------
    changed
        Other cells are chosen, or something of them: name, place, plane, data.
    listed
        The list of layers or a name in it changed.
    painted
        Key of a layer and what napari painted there.
    gone
        Key of a layer that was deleted.
    made
        A layer of ours without a table: restored, or to be drawn.
    """

    changed = Signal()
    listed = Signal()
    painted = Signal(str, object)
    gone = Signal(str)
    made = Signal(object)

    def __init__(self, port: NapariPort) -> None:
        self._port = port
        self._viewer = port.viewer
        self._picked: Labels | None = None
        self._current: Labels | None = None
        self._held = False
        self._passed: Labels | None = None
        self._owners: WeakKeyDictionary[Labels, Image] = WeakKeyDictionary()
        self._places: WeakKeyDictionary[Image, KeptPlace] = WeakKeyDictionary()
        self._watched = WatchedLayers(
            self._viewer, is_cells, self._watch, lambda _: self.listed.emit(), self._forget
        )
        self._connections = Connections()
        connect = self._connections.connect
        layers = self._viewer.layers
        connect(layers.events.inserted, self._follow)
        connect(layers.events.removed, self._follow)
        connect(layers.selection.events.active, self._follow)
        connect(self._viewer.dims.events.current_step, self._moved)
        connect(self._viewer.dims.events.order, self._moved)
        connect(port.image_changed, self._follow)
        connect(port.image_chosen, self._image_chosen)
        self._follow()

    # --- which -------------------------------------------------------------------------

    def layers(self) -> list[Labels]:
        """Labels layers but for those of ours, the topmost first."""
        return self._port.cells()

    def choices(self) -> list[tuple[str, str]]:
        """Key and name of every layer, the topmost first."""
        return [(layer_key(layer), layer.name) for layer in self.layers()]

    @property
    def current(self) -> Labels | None:
        """The layer that is corrected."""
        return self._current

    def find(self, key: str) -> Labels | None:
        """The layer with this key."""
        return next((layer for layer in self.layers() if layer_key(layer) == key), None)

    def choose(self, key: str) -> None:
        """Correct this layer, and select it."""
        layer = self.find(key)
        if layer is not None:
            self._picked = layer
            self._viewer.layers.selection.active = layer
            self._follow()

    def source(self) -> CellSource | None:
        """The chosen cells as they are now."""
        from napari_sa2net.app.cells import CellSource  # with the tools, when they are needed

        layer = self._current
        if layer is None or not can_be_written(layer):
            return None
        image, corner, extra = self.image_under(layer)
        ours = layer.metadata.get(METADATA_KEY, {})
        model = ours.get("model", {})
        source = None
        if image is not None:
            source = image_source(
                self._viewer,
                image,
                self._port.axes_of(image),
                self._port.channels_of(image),
                self._port.as_displayed,
            )
        return CellSource(
            layer_key(layer),
            layer.name,
            layer.data,
            shown_index(self._viewer, layer),
            source,
            corner,
            extra,
            layer_path(image) if image is not None else "",
            self._port.result_key(layer),
            model.get("name", ""),
            model.get("sha256", ""),
            ours.get(JOURNAL_KEY, ""),
            turned_words(self._viewer.dims),
            self._places.get(image) if image is not None else None,
            self._port.seen_since(layer),
            image is not None and corner is None and self._fits(image, layer),
            self._port.added_part(layer) or (),
            _made(ours),
            elsewhere_words(self._viewer, layer),
            ours.get(NOTES_KEY, ""),
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stay with the chosen cells, whatever napari selects meanwhile."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._follow()

    def came_from(self, image: Image, place: KeptPlace) -> None:
        """An image was opened from a training set: what is kept of it replaces that."""
        self._places[image] = place

    def belongs_to(self, layer: Labels, image: Image) -> None:
        """Cells are those of this image, also where another one lies at the same place."""
        self._owners[layer] = image

    # --- showing -----------------------------------------------------------------------

    def show(self, key: str, change: Change) -> None:
        """Draw changed pixels anew; the layer is the person's from now on."""
        layer = self.find(key)
        if layer is None:
            return
        self._port.mark_edited(layer)
        if not change.by_napari:
            for index, box in change.labels.items():
                repaint(self._viewer, layer, index, box)

    def show_restored(self, cells: RestoredCells) -> None:
        """A new layer with restored cells over their image, chosen."""
        image = self._port.image_layer(cells.image.key)
        if image is None:
            return
        arguments = place_grid(image, cells.image, cells.corner)
        # they may have axes that the image lacks
        arguments = with_axes_before(arguments, cells.labels.ndim)
        names = [layer.name for layer in self._viewer.layers]
        name = cells.name if cells.name not in names else f"{cells.name} (restored)"
        layer = Labels(
            cells.labels,
            name=name,
            metadata={
                METADATA_KEY: {**cells.made, JOURNAL_KEY: cells.journal, "model": cells.model}
            },
            **arguments,
            **cell_colors(image),
        )
        if np.prod(cells.labels.shape[-2:]) <= OUTLINED:
            # as they were when they were segmented
            plane = cells.labels[tuple(n // 2 for n in cells.labels.shape[:-2])]
            areas = np.unique(plane[plane > 0], return_counts=True)[1]
            layer.contour = contour_for(float(np.median(areas)) if areas.size else 0.0)
        self._viewer.add_layer(layer)
        self._picked = layer
        self._follow()
        self.made.emit(layer)

    def add_empty(self) -> None:
        """A new layer without a cell over the current image, chosen."""
        image, source = self._port.current, self._port.source()
        if image is None or source is None:
            return
        plan = source_plan(source)
        labels = np.zeros(plan.label_shape, np.int32)
        labels, arguments = place_labels(image, source, labels, (0,) * labels.ndim)
        arguments.update(cell_colors(image))
        layer = Labels(labels, name=f"{image.name} cells", **arguments)
        self._viewer.add_layer(layer)
        self._picked = layer
        self._follow()
        self.made.emit(layer)

    def lay_on_image(self, key: str) -> None:
        """Give cells the scale and place of the image whose shape they have."""
        layer = self.find(key)
        image = self.image_under(layer)[0] if layer is not None else None
        if layer is None or image is None or not self._fits(image, layer):
            return
        axes, channels = self._port.axes_of(image), self._port.channels_of(image)
        source = image_source(self._viewer, image, axes, channels)
        shape = _plane_shape(image, self._axes(image))
        labels, arguments = place_labels(
            image, source, layer.data.reshape(shape), (0,) * len(shape)
        )
        if labels.ndim != layer.ndim:
            layer.data = labels
        set_transforms(layer, arguments)
        self._picked = layer
        self._follow()

    def bring_into_memory(self) -> None:
        """Correct a copy of the chosen cells, where they cannot be written as they are.

        The layer takes the copy; of several resolutions the finest one gets a layer of its own.
        """
        layer = self._current
        if layer is None or can_be_written(layer):
            return
        if not layer.multiscale:
            layer.data = np.array(layer.data)
            return
        _, state, kind = layer.as_layer_data_tuple()
        more = {"multiscale": False, "name": f"{layer.name} (copy)"}
        copy = Labels.create(np.array(layer.data[0]), {**state, **more}, kind)
        layer.visible = False
        self._viewer.layers.insert(self._viewer.layers.index(layer) + 1, copy)
        self._picked = copy
        self._viewer.layers.selection.active = copy
        self._follow()

    def widen(self) -> None:
        """Let the chosen cells have numbers beyond 255, which masks have no room for."""
        layer = self._current
        if layer is not None and can_be_written(layer) and layer.data.dtype.itemsize < 4:
            layer.data = layer.data.astype(np.int32)

    def set_journal(self, key: str, journal: str) -> None:
        """Note on the layer where its corrections are journalled."""
        layer = self.find(key)
        if layer is not None:
            ours = {**layer.metadata.get(METADATA_KEY, {}), JOURNAL_KEY: journal}
            layer.metadata = {**layer.metadata, METADATA_KEY: ours}
            self.changed.emit()

    def set_waves(self, key: str, waves: tuple[Any, ...]) -> None:
        """Note on the layer what it holds of waves of learning."""
        self._note(key, WAVES_KEY, waves)

    def set_carried(self, key: str, carried: tuple[Any, ...]) -> None:
        """Note on the layer which corrections were carried from plane to plane."""
        self._note(key, CARRIED_KEY, carried)

    def _note(self, key: str, name: str, records: tuple[Any, ...]) -> None:
        layer = self.find(key)
        if layer is None:
            return
        ours = layer.metadata.get(METADATA_KEY, {})
        if list(records) != ours.get(name, []):
            ours = {**ours, name: list(records)}
            layer.metadata = {**layer.metadata, METADATA_KEY: ours}

    def show_plane(self, index: tuple[int, ...]) -> None:
        """Bring a plane of the chosen layer into view."""
        layer = self._current
        if layer is not None:
            world = np.array(layer.data_to_world((*index, 0, 0)))
            world = in_viewer_units(self._viewer, layer, world)
            first = self._viewer.dims.ndim - layer.ndim
            for axis in range(len(index)):
                self._viewer.dims.set_point(first + axis, float(world[axis]))

    def go_to(
        self, index: tuple[int, ...], box: tuple[int, int, int, int], typical: float
    ) -> None:
        """Bring a cell of the chosen layer into the middle of the view.

        Parameters
        ----------
        typical : float
            Side of a typical cell (px); one that is hardly seen is zoomed to.
        """
        layer = self._current
        if layer is not None:
            y0, y1, x0, x1 = box
            low, high = np.array([*index, y0, x0]), np.array([*index, y1 - 1, x1 - 1])
            bring_into_view(self._viewer, layer, low.astype(float), high.astype(float), typical)

    def close(self) -> None:
        """Leave the viewer with no callback of ours."""
        self._connections.disconnect()
        self._watched.close()
        self._current = self._picked = None

    # --- inside ------------------------------------------------------------------------

    def _follow(self, _: Any = None) -> None:
        if self._held or self._port.adds_unseen:
            return
        layers = self.layers()
        active, image = self._viewer.layers.selection.active, self._port.current
        if active is not self._passed:
            self._passed = None
        if active in layers and active not in (self._picked, self._passed):
            self._picked = None
        chosen = self._picked if self._picked in layers else None
        if chosen is None and isinstance(active, Labels) and active in layers:
            chosen = active if active is not self._passed else None
        if chosen is None and image is not None:
            chosen = self._port.newest_result(image)
            over = [layer for layer in layers if self._is_over(image, layer)]
            if self._current in over:
                chosen = self._current
            elif chosen is None and over:
                chosen = over[0]
            elif chosen is None:  # some that a click lays on it
                free = (one for one in layers if self._port.image_of(one) is None)
                chosen = next((one for one in free if self._fits(image, one)), None)
        if chosen is None and image is None and layers:
            chosen = self._current if self._current in layers else layers[0]
        self._current = chosen
        if chosen is not None:
            draw_parts(self._viewer, chosen)
        self.changed.emit()

    def _image_chosen(self, image: Image) -> None:
        """A person has chosen an image on a page; cells that are selected may not be its."""
        active = self._viewer.layers.selection.active
        self._picked = self._passed = None
        if isinstance(active, Labels) and not self._is_over(image, active):
            self._passed = active
        self._follow()

    def _is_over(self, image: Image, layer: Labels) -> bool:
        """Whether cells lie on an image, and are not those of a picture of something else.

        Channels that are layers of their own are pictures of the same; pictures that a camera
        takes one after the other are of one shape, and lie at the same place, too.
        """
        if not place_on(image, layer, self._axes(image)):
            return False
        own = self._port.image_of(layer)
        return own in (None, image) or _seen_together(own, image)

    def _axes(self, image: Image) -> str:
        return self._port.axes_of(image) or layer_axes(image)

    def image_under(
        self, layer: Labels
    ) -> tuple[Image | None, tuple[int, ...] | None, tuple[int, ...]]:
        """The image that the layer lies on, pixel on pixel: its own, the current, or any."""
        images = self._port.images()
        own = self._port.image_of(layer) or self._owners.get(layer)
        if own not in images:
            own = None
        order = [own, self._port.current, *images]
        seen = [image for image in dict.fromkeys(order) if image is not None]
        for image in seen:
            place = place_on(image, layer, self._axes(image))
            if place is not None:
                return image, *place
        seen.sort(key=lambda image: not self._fits(image, layer))
        return (seen[0] if seen else None), None, ()

    def _fits(self, image: Image, layer: Labels) -> bool:
        """Whether a layer has the shape of an image, wherever it lies."""
        shape = tuple(layer.data.shape)
        while len(shape) > 2 and shape[0] == 1:
            shape = shape[1:]
        wanted = _plane_shape(image, self._axes(image))
        while len(wanted) > 2 and wanted[0] == 1:
            wanted = wanted[1:]
        return shape == wanted

    def _watch(self, layer: Labels, connect: Callable[..., None]) -> None:
        connect(layer.events.name, self._renamed)
        for name in ("data", "scale", "translate", "rotate", "shear", "affine"):
            connect(getattr(layer.events, name), self._moved)

    def _forget(self, layer: Labels) -> None:
        if self._picked is layer:
            self._picked = None
        self.gone.emit(layer_key(layer))
        self.listed.emit()

    def take_stroke(self, layer: Labels, atoms: Any) -> None:
        """Tell of what napari paints, once it is painted."""
        key = layer_key(layer)
        if _is_painted(layer, atoms):
            self.painted.emit(key, atoms)
        else:
            # napari tells of some strokes before it has made them
            QTimer.singleShot(0, lambda: self._painted_late(key, atoms))

    def _painted_late(self, key: str, atoms: Any) -> None:
        if self._watched:
            self.painted.emit(key, atoms)

    def _moved(self, _: Any = None) -> None:
        self.changed.emit()

    def _renamed(self, _: Any = None) -> None:
        self.listed.emit()
        self.changed.emit()


def _seen_together(one: Image, other: Image) -> bool:
    """Whether two images are channels of one: of one file, or one seen through the other."""
    if one.source.path is not None and one.source.path == other.source.path:
        return True
    return "additive" in (str(one.blending), str(other.blending))


def can_be_written(layer: Labels) -> bool:
    """Whether the labels lie in memory, of one resolution, and may be changed there."""
    return isinstance(layer.data, np.ndarray) and layer.data.flags.writeable


def _made(ours: Any) -> dict[str, Any]:
    """Provenance of a result in what a layer notes of itself."""
    if not isinstance(ours, dict) or "settings" not in ours:
        return {}
    return {name: value for name, value in ours.items() if name != JOURNAL_KEY}


def _is_painted(layer: Labels, atoms: Any) -> bool:
    """Whether the pixels of a stroke are in the layer already; looks at its end."""
    atom: Any = atoms[-1] if isinstance(atoms, list) and atoms else None
    if hasattr(atom, "slice_key"):
        mask = ... if atom.mask is None else atom.mask
        return bool(np.all(np.asarray(layer.data[atom.slice_key])[mask] == atom.new_value))
    if isinstance(atom, tuple) and len(atom) == 3:
        return bool(np.all(np.asarray(layer.data[atom[0]]) == atom[2]))
    return True


def _plane_shape(image: Image, axes: str) -> tuple[int, ...]:
    """Shape of the labels of an image."""
    shape = (image.data[0] if image.multiscale else image.data).shape
    return tuple(int(n) for n, name in zip(shape, axes, strict=False) if name != "C")
