"""How the image under corrected cells went in when they were made: that is what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from napari_sa2net.app.correct_source import CellSource, Index, KeptPlace
from napari_sa2net.app.session import ImageSource
from napari_sa2net.data.manifest import Seen
from napari_sa2net.data.plan import ImagePlan, plan_as_input, plan_image


def how_seen(
    source: CellSource, image: ImageSource, page: Mapping[str, Any]
) -> tuple[ImagePlan, Seen | None]:
    """The image as it went in when the cells were made: its plan and settings.

    As the segmentation that made them says, whatever the page is set to by now; else as the
    commit says, where the image was opened from a training set; else as the page is set.

    Returns
    -------
    plan : ImagePlan
        Its channels are those that are kept.
    seen : Seen or None
        None: as the commit says that the image came from.
    """
    kept = source.kept
    whole = plan_image(image.data, image.axes, in_channels=1, measure=False)
    n = whole.n_channels
    seen = Seen.of(source.made)
    if seen is not None and seen.n_channels == n:
        return _planned(image, seen.channels, seen), seen
    if kept is not None:
        channels = kept.channels or (whole.channels if whole.is_rgb else tuple(range(n)))
        return plan_image(image.data, image.axes, channels, in_channels=len(channels)), None
    seen = Seen.of(page) or Seen()
    plan = _planned(image, image.channels or seen.channels or None, seen)
    return plan, seen.model_copy(update=plan.settings(measured=False))


def levels_of(
    plan: ImagePlan, seen: Seen | None, kept: KeptPlace | None, index: Index
) -> Sequence[Sequence[float]]:
    """Values that became 0 and 1 in a plane, as far as is known; else measured."""
    known: Sequence[Sequence[float]] = ()
    if seen is not None:
        known = seen.levels_of(index)
    elif kept is not None:
        known = kept.levels or ()
    if len(known) == len(plan.channels):
        return known
    measured: list[list[float]] = plan.measured_of(index).as_array().tolist()
    return measured


def _planned(image: ImageSource, channels: tuple[int, ...] | None, seen: Seen) -> ImagePlan:
    predict = seen.predicted
    return plan_as_input(
        image.data,
        image.axes,
        channels,
        seen.normalize,
        seen.expects,
        3 if channels is None else len(channels),
        measure=False,
        levels=predict.levels,
        contrast=predict.contrast if seen.normalize else None,
    )


def provenance_of(seen: Seen | None, kept: KeptPlace | None) -> dict[str, Any]:
    """What a commit is told of how the image went in."""
    if seen is None:
        seen = kept.seen if kept is not None else None
    elif kept is not None and kept.seen is not None:
        # Counted in the image that this one was cut from.
        former = dict(enumerate(kept.seen.channels))
        counted = [former.get(c, c) for c in seen.channels]
        seen = seen.model_copy(update={"image": {**seen.image, "channels": counted}})
    if seen is None:
        return {}
    settings = seen.model_dump(mode="json")
    # Those of the plane are the commit's own.
    settings["image"].pop("levels", None)
    more = {name: settings.pop(name) for name in ("diameter", "scale")}
    return {"settings": settings, **more}
