"""The one place that touches napari's layers: it reads images and shows results."""

from __future__ import annotations

from napari_sa2net.widgets.napari_port.port import PLUGIN, NapariPort
from napari_sa2net.widgets.napari_port.results import METADATA_KEY

__all__ = ["METADATA_KEY", "PLUGIN", "NapariPort"]
