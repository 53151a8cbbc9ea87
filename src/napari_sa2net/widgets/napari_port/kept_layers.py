"""Images of a training set as layers: the image as it was kept, and its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from qtpy.QtCore import QTimer

from napari_sa2net.app.training_set import KeptImage
from napari_sa2net.widgets.napari_port.maps import cell_colors
from napari_sa2net.widgets.napari_port.results import METADATA_KEY, keep_selection

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_sa2net.widgets.napari_port.cells import CellLayers
    from napari_sa2net.widgets.napari_port.port import NapariPort

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
            metadata={METADATA_KEY: {KEPT_KEY: name, "model": kept.model or {}}},
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
