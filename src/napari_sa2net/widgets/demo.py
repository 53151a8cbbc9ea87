"""The demo's window: napari with a sample, the dock, and a segmentation under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_sa2net.data.samples import has_bio_samples
from napari_sa2net.widgets.napari_port import PLUGIN

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_sa2net.widgets.dock import SA2NetDock

#: What the model handles best of the samples that are real, and what is there without them.
SAMPLE, WITHOUT = "nuclei_stack", "tissue"


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
    stack = has_bio_samples()
    viewer.open_sample(PLUGIN, SAMPLE if stack else WITHOUT)
    if stack:
        viewer.dims.set_current_step(0, int(viewer.dims.nsteps[0]) // 2)
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "SA2-Net")
    controller = dock.workspace.controller
    controller.set_model(model)
    controller.set_predict(controller.session.predict.model_copy(update={"device": device}))
    if stack:
        # Its middle plane: all of them would take a minute.
        controller.set_region(planes="current")
    dock.workspace.refresh_image()
    controller.segment()
    return dock
