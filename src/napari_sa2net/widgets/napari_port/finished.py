"""Layers can be deleted without ending the program where there is no graphics card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: how OpenGL calls itself where the processor draws (Mesa)
SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")


class FinishedPictures:
    """Waits for the end of each picture of a viewer, where the processor draws.

    napari deletes what a layer was drawn from as soon as the layer goes. Mesa's software
    renderer may still be at work on the picture before then, and crashes with the next one:
    a tool's line, a brush or an outline that is taken away ended the program.

    Parameters
    ----------
    viewer : Viewer
        One without a window is left alone.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._software: bool | None = None
        window = getattr(viewer, "window", None)
        # napari has no public way to its canvas
        canvas = getattr(getattr(window, "_qt_viewer", None), "canvas", None)
        scene = getattr(canvas, "_scene_canvas", None)
        self._drawn: Any = scene.events.draw if scene is not None else None
        if self._drawn is not None:
            self._drawn.connect(self.finish, position="last")

    def close(self) -> None:
        """Leave the viewer as it was."""
        if self._drawn is not None:
            self._drawn.disconnect(self.finish)
            self._drawn = None

    def finish(self, event: Any = None) -> None:
        """Wait until the picture is drawn; at once with a graphics card."""
        from vispy.gloo import gl

        if self._software is None:
            name = str(gl.glGetParameter(gl.GL_RENDERER)).lower()
            self._software = any(words in name for words in SOFTWARE)
        if self._software:
            gl.glFinish()
