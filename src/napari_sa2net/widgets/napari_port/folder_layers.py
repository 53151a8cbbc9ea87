"""Images from disk as layers, with their cells: of a folder, and of a training set."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import QTimer

from napari_sa2net.app.folder_files import Corrected, FolderImage, OpenedImage, What
from napari_sa2net.app.session import SegmentRequest, source_plan
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine.messages import SegmentResult, Summary, Window
from napari_sa2net.errors import SA2NetError
from napari_sa2net.metrics import distinct
from napari_sa2net.widgets.napari_port.cells import NOTES_KEY
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.napari_port.maps import cell_colors
from napari_sa2net.widgets.napari_port.reading import PATH_KEY, layer_key, voxel_sides_um
from napari_sa2net.widgets.napari_port.results import METADATA_KEY, keep_selection

if TYPE_CHECKING:
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_sa2net.app.correct import CorrectController
    from napari_sa2net.app.folder import FolderController
    from napari_sa2net.app.segment import SegmentController
    from napari_sa2net.app.training_set import KeptImage
    from napari_sa2net.data.plan import ImagePlan
    from napari_sa2net.widgets.napari_port.cells import CellLayers
    from napari_sa2net.widgets.napari_port.port import NapariPort

# --------------------------------------------------------------------------------------------
# Of a folder: the image that is shown, one at a time.

#: Cells of larger layers are not counted for the list.
MOST_COUNTED = 1 << 24


class FolderLayers:
    """Shows an opened image, and takes away the one before with its cells.

    Parameters
    ----------
    port, cells
    folder
        Whose images are shown.
    segment
        Takes the cells as a result of its image.
    correct
        Gives the controller of corrections, made now if ``make``; None while there is none.
    """

    def __init__(
        self,
        port: NapariPort,
        cells: CellLayers,
        folder: FolderController,
        segment: SegmentController,
        correct: Callable[[bool], CorrectController | None],
    ) -> None:
        self._port, self._cells, self._viewer = port, cells, port.viewer
        self._folder, self._segment, self._correct = folder, segment, correct
        self._shown: OpenedImage | None = None
        self._image: Image | None = None
        self._closed = False
        self._connections = Connections()
        self._connections.connect(folder.opened, self.show)
        self._connections.connect(folder.segmented, self.update)
        self._connections.connect(folder.closed, self._let_go)
        self._connections.connect(port.image_gone, self._gone)
        self._connections.connect(port.images_changed, folder.layers_changed)
        self._connections.connect(port.image_changed, self._image_changed)
        for signal in (segment.result_ready, segment.table_ready):
            self._connections.connect(signal, self._found)
        folder.leaving = self.leaving
        folder.shelf = self

    def show(self, opened: OpenedImage) -> None:
        """An image and its cells, in the place of what was shown."""
        former = self._of_shown()
        extent = former[-1].extent.world if former else None
        there = self._left_open(opened)
        image = self._image_layer(opened) if there is None else there
        self._shown, self._image = opened, image
        if there is not None and self._cells_of(there):
            # of a folder that was closed: what a person did there since goes on
            self._viewer.layers.selection.active = there
            self._one_by_one([partial(self._take_away, layer) for layer in former])
            return
        # the new one first: without any image the pages would be empty for a moment
        if there is None:
            self._viewer.add_layer(image)

        def look() -> None:
            if extent is not None and not np.array_equal(extent, image.extent.world):
                self._viewer.reset_view()

        steps = [partial(self._take_away, layer) for layer in former]
        self._one_by_one([*steps, look, partial(self._show_cells, opened, image)])

    def _left_open(self, opened: OpenedImage) -> Image | None:
        """The layer of that file from before the folder was closed."""
        for layer in self._viewer.layers:
            ours = isinstance(layer, Image) and layer is not self._image
            if ours and layer.metadata.get(PATH_KEY) == str(opened.path):
                return layer
        return None

    def _one_by_one(self, steps: list[Callable[[], Any]]) -> None:
        """Each takes napari a while: not in one go."""

        def act() -> None:
            if not self._closed:
                steps[0]()
                self._one_by_one(steps[1:])

        if steps:
            QTimer.singleShot(0, act)

    def _take_away(self, layer: Any) -> None:
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def update(self, opened: OpenedImage) -> None:
        """The shown image has been segmented: show its cells, unless a person has others."""
        shown, image = self._shown, self._image
        if shown is None or image is None or shown.number != opened.number:
            return
        if opened.corrected or opened.journal or opened.labels is None:
            return
        if any(self._is_touched(layer, shown) for layer in self._cells_of(image)):
            return
        self._show_labels(opened, image)

    def leaving(self) -> Corrected | None:
        """The cells of the shown image if a person has corrected them since it was opened."""
        opened, image = self._shown, self._image
        if opened is None or image is None or image not in self._viewer.layers:
            return None
        for layer in self._cells_of(image):
            if not self._is_touched(layer, opened):
                continue
            source = self._port.source_of(image)
            _, corner, extra = self._cells.image_under(layer)
            labels = np.squeeze(np.asarray(layer.data), extra).copy()
            axes = source_plan(source).label_axes
            if corner is None or len(axes) != labels.ndim:
                continue
            made = layer.metadata.get(METADATA_KEY, {})
            made = {name: made[name] for name in made if name != "journal"}
            return Corrected(opened.number, labels, axes, voxel_sides_um(image, axes), made)
        return None

    def is_shown(self, key: str) -> bool:
        """Whether cells with this key are those of the shown image."""
        layer = self._cells.find(key)
        if self._folder.state.layers and layer is not None:
            image = self._cells.image_under(layer)[0]
            return image is not None and layer_key(image) == self.chosen()
        return layer is not None and self._image is not None and layer in self._of_shown()

    # --- all open layers as the list -------------------------------------------------------

    def look(self) -> list[FolderImage]:
        """All open image layers with what is known of their cells."""
        return [self._described(image) for image in reversed(self._port.images())]

    def chosen(self) -> str:
        """Key of the image that is worked on."""
        current = self._port.current
        return layer_key(current) if current is not None else ""

    def choose(self, key: str) -> bool:
        """Work on an image, and show it alone with its cells."""
        image = self._port.image_layer(key)
        if image is None:
            return False
        others = [one for one in self._port.images() if one is not image]
        for other in others:
            for layer in (other, *self._cells_of(other)):
                layer.visible = False
        own = self._cells_of(image)
        for layer in (image, *own[:1]):
            layer.visible = True
        self._port.choose(key)
        self._viewer.layers.selection.active = own[0] if own else image
        return True

    def plan(self, key: str) -> ImagePlan | None:
        """How an image is read."""
        image = self._port.image_layer(key)
        with suppress(SA2NetError):
            return source_plan(self._port.source_of(image)) if image is not None else None
        return None

    def labels(self, key: str) -> NDArray[Any] | None:
        """A copy of the cells of an image."""
        image = self._port.image_layer(key)
        own = self._cells_of(image) if image is not None else []
        return np.array(own[0].data) if own and not own[0].multiscale else None

    def segment(self, key: str) -> bool:
        """Begin to segment an image, with the settings of the page."""
        self._segment.set_image(self._port.source())
        image = self._segment.session.image
        return image is not None and image.key == key and self._segment.segment() is not None

    def cancel(self) -> None:
        """Stop that."""
        self._segment.cancel()

    def _image_changed(self) -> None:
        """Another layer is worked on; of what merely moves nothing is counted anew."""
        state = self._folder.state
        at = state.images[state.current].key if 0 <= state.current < len(state.images) else ""
        if state.layers and self.chosen() != at:
            self._folder.layers_changed()

    def _found(self, *_: Any) -> None:
        self._folder.layers_changed()

    def _described(self, image: Image) -> FolderImage:
        key, own = layer_key(image), self._cells_of(image)
        found = FolderImage(image.name, Path(key), key=key)
        if not own:
            return found
        layer, correct = own[0], self._correct(False)
        what: What = "corrected" if self._port.is_edited(layer) else "segmented"
        session = correct.session_of(layer_key(layer)) if correct is not None else None
        if session is not None and session.changed:
            kept = session.tally.kept and not session.tally.unsaved
            what = "kept" if kept else "corrected"
        if session is not None:
            n_cells: int | None = session.n_cells
        else:
            many = layer.multiscale or layer.data.size > MOST_COUNTED
            there = () if many else distinct(np.asarray(layer.data))[0].tolist()
            n_cells = None if many else sum(label != 0 for label in there)
        model = layer.metadata.get(METADATA_KEY, {}).get("model", {}).get("name", "")
        return replace(found, what=what, n_cells=n_cells, model=model)

    def close(self) -> None:
        """Leave the viewer with no callback of ours; the layers are the person's."""
        self._connections.disconnect()
        self._folder.leaving = lambda: None
        self._folder.shelf = None
        self._closed = True
        self._shown = self._image = None

    # --- inside ------------------------------------------------------------------------

    def _image_layer(self, opened: OpenedImage) -> Image:
        size = opened.scale_um
        names = [name for name in opened.axes if not (opened.rgb and name == "C")]
        known = "X" in size
        return Image(
            opened.data,
            name=opened.name,
            rgb=opened.rgb,
            contrast_limits=opened.limits,
            scale=[size.get(name, 1.0) if known else 1.0 for name in names],
            units=["micrometer" if known and name in size else "pixel" for name in names],
            axis_labels=[name.lower() for name in names],
            metadata={PATH_KEY: str(opened.path)},
        )

    def _show_cells(self, opened: OpenedImage, image: Image) -> None:
        if image is not self._image or image not in self._viewer.layers:
            return
        if self._port.source_of(image).axes != opened.axes:
            self._port.set_axes(opened.axes)
        if opened.journal:
            self._restore(opened)
        elif opened.labels is not None:
            self._show_labels(opened, image)

    def _restore(self, opened: OpenedImage) -> None:
        from napari_sa2net.app.edit_session import Offer

        correct = self._correct(True)
        if correct is not None:
            correct.keeping.restore(Offer(opened.journal, opened.name, 0, ""))

    def _show_labels(self, opened: OpenedImage, image: Image) -> None:
        labels = opened.labels
        assert labels is not None
        source, key = self._port.source_of(image), uuid.uuid4().hex
        made = dict(opened.provenance)
        settings = made.get("settings", {})
        session = self._segment.session
        predict, instances = session.predict, session.instances
        with suppress(ValueError, TypeError, SA2NetError):  # of another version
            predict = PredictConfig(**settings["predict"])
            instances = InstanceConfig(**settings["instances"])
        request = SegmentRequest(
            source,
            self._segment.link.generation(source.key),
            key,
            made.get("model", {}).get("name") or session.model,
            predict,
            instances,
            bool(settings.get("image", {}).get("normalize", session.normalize)),
            Window(),
        )
        result = SegmentResult(
            key,
            labels,
            (0,) * labels.ndim,
            _summary(opened.table),
            opened.table,
            made.get("diameter"),
            made,
        )
        self._segment.accept(request, result, kept=False)
        layer = self._port.result_layer(key)
        if layer is not None and opened.corrected:
            self._port.mark_edited(layer)
            self._cells.made.emit(layer)  # to be measured

    def _cells_of(self, image: Image) -> list[Labels]:
        """Cells of an image that are ours, those first that are worked on."""
        name = f"{image.name} cells"
        found = [
            layer
            for layer in self._port.cells()
            if self._port.image_of(layer) is image
            or (
                self._cells.image_under(layer)[0] is image
                and (METADATA_KEY in layer.metadata or layer.name.startswith(name))
            )
        ]
        current = self._cells.current
        return sorted(found, key=lambda layer: layer is not current)

    def _of_shown(self) -> list[Any]:
        image = self._image
        if image is None or image not in self._viewer.layers:
            return []
        return [*self._cells_of(image), image]

    def _is_touched(self, layer: Labels, opened: OpenedImage) -> bool:
        correct = self._correct(False)
        session = correct.session_of(layer_key(layer)) if correct is not None else None
        if session is not None:
            return bool(session.changed)
        return self._port.is_edited(layer) and not opened.corrected

    def _let_go(self) -> None:
        self._shown = self._image = None

    def _gone(self, key: str) -> None:
        if self._image is not None and key == layer_key(self._image):
            self._let_go()
            self._folder.forget_shown()


def _summary(table: Any) -> Summary:
    """Numbers for the line under the sliders, of a table that was written."""
    if table is None or not len(table.get("label", ())):
        return Summary(0, float("nan"), 0)
    in_depth = "volume_voxels" in table and bool((np.asarray(table["planes"]) > 1).any())
    area = table["volume_voxels"] if in_depth else table["area_px"]
    border = int(np.count_nonzero(table["touches_border"]))
    return Summary(len(table["label"]), float(np.median(area)), border, in_depth)


# --------------------------------------------------------------------------------------------
# Of a training set: the image as it was kept, and its cells.

KEPT_KEY = "kept"


class KeptLayers:
    """Shows kept images; what is selected and worked on stays so.

    Parameters
    ----------
    port, cells
        Whose choice of image and of cells stays as it is, and which learn where the image
        came from.
    """

    def __init__(self, port: NapariPort, cells: CellLayers) -> None:
        self._port = port
        self._cells = cells
        self._viewer = port.viewer

    def show(self, kept: KeptImage) -> None:
        """Two new layers; those that are open already are made visible."""
        name = [str(kept.folder), kept.key]
        there = [layer for layer in self._viewer.layers if _name(layer) == name]
        for layer in there:
            layer.visible = True
        if there:
            return
        image = _image_layer(kept, name)
        if kept.place is not None:
            self._cells.came_from(image, kept.place)
        if kept.axes == "CYX":
            # what was learned from is segmented again, not the first channel alone
            self._port.set_channels(kept.channels, image)
        self._add(image, len(self._viewer.layers))
        # each takes napari a while: not in one go
        QTimer.singleShot(0, lambda: self._show_labels(kept, image, name))

    def _show_labels(self, kept: KeptImage, image: Image, name: list[str]) -> None:
        if image not in self._viewer.layers:
            return
        labels = Labels(
            kept.labels,
            name=f"{image.name} cells",
            metadata={
                METADATA_KEY: {
                    KEPT_KEY: name,
                    "model": kept.model or {},
                    NOTES_KEY: kept.notes,
                }
            },
            **_plane(kept),
            **cell_colors(image),
        )
        self._cells.belongs_to(labels, image)
        # right over its image, also where others were opened meanwhile
        self._add(labels, self._viewer.layers.index(image) + 1)

    def _add(self, layer: Layer, at: int) -> None:
        port = self._port
        pinned, port.pinned = port.pinned, port.current is not None
        try:
            with self._cells.held(), keep_selection(self._viewer):
                self._viewer.layers.insert(at, layer)
        finally:
            port.pinned = pinned


def _image_layer(kept: KeptImage, name: list[str]) -> Image:
    placed = _plane(kept)
    rgb = kept.limits is None
    n_lead = kept.image.ndim - int(rgb) - 2
    if n_lead > 0:
        lead = [letter.lower() for letter in kept.axes[:n_lead]]
        placed = {
            "scale": (*(1,) * n_lead, *placed["scale"]),
            "translate": (*(0,) * n_lead, *placed["translate"]),
            "units": (*("pixel",) * n_lead, *placed["units"]),
            "axis_labels": (*lead, "y", "x"),
        }
    return Image(
        kept.image,
        name=kept.name,
        rgb=rgb,
        contrast_limits=kept.limits,
        metadata={METADATA_KEY: {KEPT_KEY: name}},
        **placed,
    )


def _plane(kept: KeptImage) -> dict[str, Any]:
    """Where a plane lies: a crop at its place in the image that it was cut from."""
    size, place = kept.pixel_size_um, kept.place
    y, x = (place.box[0], place.box[2]) if place is not None and place.box else (0, 0)
    step = size or 1.0
    return {
        "scale": (step, step),
        "translate": (y * step, x * step),
        "units": ("micrometer" if size else "pixel",) * 2,
    }


def _name(layer: Layer) -> Any:
    ours = layer.metadata.get(METADATA_KEY)
    return ours.get(KEPT_KEY) if isinstance(ours, dict) else None
