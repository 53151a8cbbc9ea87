"""What can be said of an image before anything is read of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_sa2net.data.plan import plan_image
from napari_sa2net.errors import SA2NetError

if TYPE_CHECKING:
    from napari_sa2net.app.session import ImageSource, Session
    from napari_sa2net.data.plan import ImagePlan


def source_plan(source: ImageSource) -> ImagePlan:
    """Axes, shape and channels of a source; no pixel is read.

    Raises
    ------
    ImageError
        It is no image of numbers, or its axes or channels do not fit.
    """
    return plan_image(source.data, source.axes, source.channels, measure=False)


def image_line(source: ImageSource) -> str:
    """``512 × 640 · 1 channel · 0.32 µm/px``, or what is wrong with the image."""
    try:
        return source_plan(source).describe(source.pixel_size_um)
    except SA2NetError as error:
        return str(error)


def pixels_to_segment(
    source: ImageSource, box: tuple[int, int, int, int] | None, one_plane: bool
) -> int:
    """Image pixels that a run covers; 0 for an image that cannot be run."""
    try:
        plan = source_plan(source)
    except SA2NetError:
        return 0
    y0, y1, x0, x1 = box or (0, plan.spatial[0], 0, plan.spatial[1])
    return (y1 - y0) * (x1 - x0) * (1 if one_plane else plan.n_planes)


def seconds_to_run(session: Session, one_plane: bool = False) -> float | None:
    """Seconds that segmenting would take, from the engine's probe; None before it."""
    info, source = session.info, session.image
    if info is None or info.seconds_per_megapixel is None or source is None:
        return None
    box = source.view if session.where == "view" else None
    pixels = pixels_to_segment(source, box, one_plane or session.planes == "current")
    scale = 1.0
    diameter = session.predict.diameter
    if diameter and info.model_diameter and session.predict.rescale:
        scale = info.model_diameter / diameter
    return pixels / 1e6 * scale**2 * info.seconds_per_megapixel
