"""The demo's window: napari with a sample, the dock, and a segmentation under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_sa2net.widgets.napari_port import PLUGIN

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_sa2net.widgets.dock import SA2NetDock

SAMPLE = "tissue"


def open_demo(model: str = "nuclei", device: str = "auto") -> None:
    """Open napari, segment a sample, and stay until the window is closed."""
    import napari

    viewer = napari.Viewer()
    segment_sample(viewer, model, device)
    napari.run()


def segment_sample(viewer: Viewer, model: str = "nuclei", device: str = "auto") -> SA2NetDock:
    """Open the sample and the dock, and press Segment; returns the dock at once.

    Parameters
    ----------
    viewer : napari.Viewer
    model : str
        Name or path.
    device : str
    """
    viewer.open_sample(PLUGIN, SAMPLE)
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "SA2-Net")
    controller = dock.workspace.controller
    controller.set_model(model)
    controller.set_predict(controller.session.predict.model_copy(update={"device": device}))
    controller.segment()
    return dock
