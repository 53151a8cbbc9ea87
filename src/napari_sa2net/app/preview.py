"""What can be said of an image before anything is read of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_sa2net.errors import SA2NetError
from napari_sa2net.inference.size_search import LARGE_SCALE, pixels_of_search

if TYPE_CHECKING:
    from napari_sa2net.app.requests import SegmentRequest
    from napari_sa2net.app.session import ImageSource, Session
    from napari_sa2net.data.plan import ImagePlan


def source_plan(source: ImageSource) -> ImagePlan:
    """Axes, shape and channels of a source; no pixel is read.

    Raises
    ------
    ImageError
        It is no image of numbers, or its axes or channels do not fit.
    """
    return source.plan


def image_line(source: ImageSource) -> str:
    """``512 × 640 · 1 channel · 0.32 µm/px``, or what is wrong with the image."""
    try:
        return source_plan(source).describe(source.pixel_size_um)
    except SA2NetError as error:
        return str(error)


def nothing_found_words(request: SegmentRequest) -> str:
    """What to try next where a run has found no cells, in the words of the page."""
    plan = source_plan(request.source)
    tries = ["another channel"] if plan.n_channels > 1 else []
    tries += ["“measure…” across one cell, for the Object size", "a lower Foreground"]
    if plan.n_planes > 1 and request.predict.levels != "plane":
        tries.append("Brightness of each plane, under Advanced")
    return f"Nothing found? Try {'; '.join(tries)}; or another Model."


#: An explanation costs so much more than a segmentation, about.
MORE_TO_EXPLAIN = 1.35
#: Where the size of the cells is unknown: the largest and smallest that are likely, as the
#: scale that they would be brought to. A range of all that may be would say nothing.
LIKELY_SCALES = (0.6, LARGE_SCALE)


@dataclass(frozen=True)
class RunTime:
    """How long a run would take, in seconds; a range while the size of the cells is unknown."""

    low: float
    high: float

    def __mul__(self, factor: float) -> RunTime:
        return RunTime(factor * self.low, factor * self.high)


def time_to_run(session: Session, one_plane: bool = False) -> RunTime | None:
    """How long segmenting would take, from the engine's probe; None before it.

    With automatic size that is the search for the size, and the run at what it finds: what
    it found the last time, or else anything likely.
    """
    info, source = session.info, session.image
    if info is None or info.seconds_per_megapixel is None or source is None:
        return None
    try:
        plan = source_plan(source)
    except SA2NetError:
        return RunTime(0.0, 0.0)
    box = source.view if session.where == "view" else None
    y0, y1, x0, x1 = box or (0, plan.spatial[0], 0, plan.spatial[1])
    n_planes = 1 if one_plane or session.planes == "current" else plan.n_planes
    pixels = (y1 - y0) * (x1 - x0) * n_planes

    def at(scale: float, searched: bool) -> float:
        search = pixels_of_search(plan.spatial, scale, plan.n_planes) if searched else 0.0
        return (pixels * scale**2 + search) / 1e6 * (info.seconds_per_megapixel or 0.0)

    trained = info.model_diameter
    if not trained or not session.predict.rescale:
        seconds = at(1.0, False)
    elif session.predict.diameter:
        seconds = at(trained / session.predict.diameter, False)
    elif session.found_diameter:
        seconds = at(trained / session.found_diameter, True)
    else:
        return RunTime(*(at(scale, True) for scale in LIKELY_SCALES))
    return RunTime(seconds, seconds)


def time_to_explain(session: Session) -> RunTime | None:
    """How long explaining the shown plane would take; None before the engine's probe."""
    time = time_to_run(session, one_plane=True)
    return None if time is None else time * MORE_TO_EXPLAIN
