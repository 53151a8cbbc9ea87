"""What a viewer's session holds, as evented state; widgets bind to ``Session.events``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from psygnal import SignalGroupDescriptor

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data.plan import ImagePlan, plan_image
from napari_sa2net.engine.messages import (
    AttentionMap,
    CellInspection,
    EngineInfo,
    ExplainResult,
    Exponents,
    ObjectTable,
    Summary,
    WhatIfResult,
    Window,
)
from napari_sa2net.errors import ImageError, SA2NetError
from napari_sa2net.inference.tiling import LARGE_SCALE, pixels_of_search
from napari_sa2net.provenance import quick_fingerprint
from napari_sa2net.quantities import DEFAULT
from napari_sa2net.words import counted, plain, plural, signed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_sa2net.data.plan import ImagePlan
    from napari_sa2net.interpret.maps import Changes
    from napari_sa2net.models.card import ModelCard


EngineState = Literal["stopped", "starting", "ready", "busy", "down"]
Where = Literal["whole", "view", "area"]
Planes = Literal["current", "all"]
Sliders = Literal["none", "live", "edited", "lost", "reread"]

SLIDER_WORDS: dict[str, str] = {
    "none": "Segment first; then these adjust the result live.",
    "live": "",
    "edited": "You edited these cells, so the sliders no longer change them. "
    "Segment again for a new layer.",
    "reread": "The axes of the image were changed, so these cells are of the image as it was "
    "read before. Segment it again.",
    "lost": "The probabilities of this result are no longer kept. Segment again to adjust it: "
    "“Bring it back” does so with the settings that it was made with.",
}


@dataclass(frozen=True, eq=False)
class ImageSource:
    """An image as a layer offers it; a new object whenever anything of it changes.

    Attributes
    ----------
    key
        Identifies the layer for as long as it lives.
    data
        numpy, dask, zarr or a list of levels, finest first.
    axes
        Spelling as `napari_sa2net.segment` takes it; None lets the shape decide.
    axes_guessed
        Nobody has said what the axes are: neither a person nor the layer.
    channels
        Channels that go in; None for the default.
    seen_channel
        The one that is shown of several, see `as_seen`; None where all are, or there is one.
    contrast
        Values shown as black and white, where these shall be the levels; otherwise None.
    pixel_size_um
        Micrometres per pixel, those along Y and X where they differ; None where unknown.
    z_step_um
        Micrometres from plane to plane of a Z stack; None where unknown.
    plane
        Stack index that is shown, in the order of the stack axes; None for a 2-D image.
    view
        ``(y0, y1, x0, x1)`` in pixels that the camera shows, clipped to the image.
    area
        The same around what is drawn on a layer of shapes; None where there is none.
    path
        Its file, where there is one.
    plan
        Axes, shape and channels, made when first asked for; no pixel is read. Pixels may
        change later, so nothing that is measured should be taken from it.
    """

    key: str
    name: str
    data: Any
    axes: str | None = None
    channels: tuple[int, ...] | None = None
    pixel_size_um: float | tuple[float, float] | None = None
    plane: tuple[int, ...] | None = None
    view: tuple[int, int, int, int] | None = None
    area: tuple[int, int, int, int] | None = None
    seen_channel: int | None = None
    contrast: tuple[float, float] | None = None
    z_step_um: float | None = None
    path: str = ""
    axes_guessed: bool = False

    def reads_as(self, other: ImageSource) -> bool:
        """Whether cells of this image are cells of the other: the axes are the same."""
        return self.axes == other.axes

    @property
    def pixel_side_um(self) -> float | None:
        """Side of a square of one pixel's area; None where unknown."""
        size = self.pixel_size_um
        return math.sqrt(math.prod(size)) if isinstance(size, tuple) else size

    @cached_property
    def identity(self) -> str:
        """The same for the same image in another session: by its file, else by some pixels."""
        return f"{self.path} {self.shape}" if self.path else quick_fingerprint(self.level0)

    @property
    def stack_axes(self) -> str:
        """Letters of the axes but Y, X and channels, as far as they are spelled."""
        return "".join(name for name in self.axes or "" if name not in "YXCS")

    @cached_property
    def plan(self) -> ImagePlan:
        """How the image goes through a network; made once."""
        return plan_image(self.data, self.axes, self.channels, measure=False)

    def take_plan(self, former: ImageSource | None) -> None:
        """Go on with the plan of a former source, if it was of the same pixels and settings."""
        plan = former.__dict__.get("plan") if former is not None else None
        if former is None or plan is None or self.data is not former.data:
            return
        same = (self.axes, self.channels) == (former.axes, former.channels)
        # an array on disk may have grown
        if same and plan.shape == self.shape:
            self.__dict__["plan"] = plan

    @property
    def level0(self) -> Any:
        """The finest level of a multiscale image, else the data itself."""
        data = self.data
        if isinstance(data, (list, tuple)) or type(data).__name__ == "MultiScaleData":
            return data[0]
        return data

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the finest level."""
        return tuple(int(n) for n in self.level0.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the finest level."""
        return np.dtype(self.level0.dtype)


@dataclass(frozen=True)
class JobProgress:
    """Progress of the running job.

    Attributes
    ----------
    done, total
        Parts of what goes on now; a total of 0 is an unknown one.
    what
        What goes on, such as "segmenting".
    ends
        Time (`time.monotonic`) at which it will be over, about; None where unknown.
    """

    done: int
    total: int
    what: str
    ends: float | None = field(default=None, compare=False)

    @property
    def fraction(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    def __str__(self) -> str:
        # of one part nothing can be said before its end
        return f"{self.what} · {self.fraction:.0%}" if self.total > 1 else self.what

    def seconds_left(self, now: float) -> float | None:
        """Until its end; None where unknown or over."""
        return self.ends - now if self.ends is not None and self.ends > now else None


@dataclass(frozen=True)
class ErrorInfo:
    """An error for the page: class name, words with the next step, details to fold out."""

    kind: str
    message: str
    details: str = ""


def error_info(error: BaseException) -> ErrorInfo:
    """An error of ours, whose words say all."""
    return ErrorInfo(type(error).__name__, str(error))


@dataclass(frozen=True, eq=False)
class LabelsUpdate:
    """New labels, same shape and place, for the result of that key (a slider moved)."""

    key: str
    labels: NDArray[np.int32]
    summary: Summary


@dataclass(frozen=True, eq=False)
class TableUpdate:
    """The object table that belongs to the newest labels of that key."""

    key: str
    objects: ObjectTable


@dataclass
class Session:
    """Evented state of one viewer; written by the controller, read by any widget.

    ``session.events.<field>.connect(callback)`` calls back with the new value, on the thread
    on which the controller runs. Widgets change it through the controller's methods.

    Attributes
    ----------
    image, image_line
        The image, and its preview line ("512 × 640 · 1 channel · 0.32 µm/px").
    models, model
        Entries of the registry, and the name of the chosen one.
    engine, device_line
        Engine state, and a line on the device once it is known.
    running, progress
        Whether a segmentation is in flight, and how far it is.
    sliders, sliders_note
        Whether the instance settings act on the shown result, and why not, in words.
    result_key, summary
        Key of the image's newest result, and its line ("143 cells · median 96 µm² · ...").
    counted
        The line of the chosen cells as they are now, whoever made or changed them.
    countable
        Name of the chosen cells where they can be measured and have not been; else empty.
    found_diameter
        Size of the cells (px) that the last run of this image and model estimated.
    estimate
        How long segmenting would take, from the engine's probe; None before it.
    why
        What the See-why page shows of the image; None before it was looked into.
    live
        The model learns while cells are corrected.
    measure
        Groups of measurements that tables tell, of `quantities.GROUPS`.
    error
        What to show; None after the next success or `SegmentController.dismiss_error`.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    image: ImageSource | None = None
    image_line: str = ""
    models: tuple[Any, ...] = ()
    model: str = "nuclei"
    predict: PredictConfig = field(default_factory=PredictConfig)
    instances: InstanceConfig = field(default_factory=InstanceConfig)
    normalize: bool = True
    where: Where = "whole"
    planes: Planes = "all"
    engine: EngineState = "stopped"
    device_line: str = ""
    info: EngineInfo | None = None
    running: bool = False
    progress: JobProgress | None = None
    sliders: Sliders = "none"
    sliders_note: str = SLIDER_WORDS["none"]
    result_key: str = ""
    summary: str = ""
    counted: str = ""
    countable: str = ""
    found_diameter: float | None = None
    estimate: RunTime | None = None
    why: WhyState | None = None
    live: bool = False
    measure: tuple[str, ...] = DEFAULT
    error: ErrorInfo | None = None

    @property
    def card(self) -> ModelCard | None:
        """Of the chosen model; None where it is none of `models`."""
        return next((entry.card for entry in self.models if entry.name == self.model), None)


def summary_line(
    summary: Summary, pixel_side_um: float | None, z_step_um: float | None = None
) -> str:
    """``143 cells · median 96 µm² · 3 touch the border``; of cells in depth the volume."""
    n = summary.n_objects
    if n == 0:
        return "No cells found"
    parts = [counted(n, "cell")]
    area = summary.median_area_px
    if math.isfinite(area):
        if summary.in_depth and pixel_side_um and z_step_um:
            parts.append(f"median {plain(area * pixel_side_um**2 * z_step_um)} µm³")
        elif summary.in_depth:
            parts.append(f"median {area:,.0f} voxels")
        elif pixel_side_um:
            parts.append(f"median {plain(area * pixel_side_um**2)} µm²")
        else:
            parts.append(f"median {area:,.0f} px²")
    if summary.n_border:
        verb = plural(summary.n_border, "touches", "touch")
        parts.append(f"{summary.n_border:,} {verb} the border")
    return " · ".join(parts)


def device_line(info: EngineInfo) -> str:
    """``CPU, 2 threads (no GPU found)`` or the accelerator's name."""
    if info.device == "cpu":
        note = "" if len(info.devices) > 1 else "; no GPU found, it works all the same"
        return f"CPU, {counted(info.threads, 'thread')}{note}"
    return f"{info.device_name} ({info.device})"


# --------------------------------------------------------------------------------------------
# Intents: what a button asks for, frozen at the moment it was pressed.


@dataclass(frozen=True, eq=False)
class SegmentRequest:
    """Everything a segmentation depends on.

    Attributes
    ----------
    source
        The image as it was.
    generation
        Number of the image's content; a result of an older generation is dropped.
    key
        Name of the result, new for every run; `LabelsUpdate` and `TableUpdate` carry it.
    """

    source: ImageSource
    generation: int
    key: str
    model: str
    predict: PredictConfig
    instances: InstanceConfig
    normalize: bool
    window: Window

    #: Name of the engine's function, and fields that it takes besides.
    function: ClassVar[str] = "segment"
    asks: ClassVar[tuple[str, ...]] = ()
    #: It is to see why; the cells that come with it are not what was asked for.
    looks: ClassVar[bool] = False

    def arguments(self) -> dict[str, Any]:
        """Of the engine's call; its image is still the array itself."""
        source, predict = self.source, self.predict
        if source.contrast is not None and self.normalize:
            predict = predict.model_copy(update={"contrast": source.contrast})
        return {
            "image": source.data,
            "model": self.model,
            "axes": source.axes,
            "channels": source.channels,
            "normalize": self.normalize,
            "predict": for_image(predict, source),
            "instances": self.instances,
            "pixel_size_um": source.pixel_size_um,
            "z_step_um": source.z_step_um,
            "window": self.window,
            **{name: getattr(self, name) for name in self.asks},
        }

    def may_replace(self, former: SegmentRequest) -> bool:
        """Whether the labels may take the place of a former result of the image."""
        return self.window in (Window(), former.window)

    def adds_to(self, former: SegmentRequest) -> bool:
        """Whether the cells of a former result stay, but for those of this part of the image.

        A view or a plane says nothing of the cells elsewhere.
        """
        return self.window not in (Window(), former.window) and not isinstance(
            former, ExplainRequest
        )


class ExplainRequest(SegmentRequest):
    """A segmentation of one plane that also shows why."""

    function = "explain"
    looks = True

    def adds_to(self, former: SegmentRequest) -> bool:
        """Never: its layer is looked into, and has the labels that the engine knows."""
        return False

    def may_replace(self, former: SegmentRequest) -> bool:
        """Not a result of more or other than this: another model, a stack for its planes."""
        part = isinstance(former, ExplainRequest) or former.window == self.window
        return part and former.model == self.model


def for_image(predict: PredictConfig, source: ImageSource | None) -> PredictConfig:
    """Without what was chosen for another image, and of which the page shows no choice here."""
    if predict.dab != "remove" or source is None:
        return predict
    with suppress(SA2NetError):  # whoever reads the image says what is wrong
        if source.plan.tells_stains:
            return predict
    return predict.model_copy(update={"dab": "auto"})


def decided_in(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What was decided for a result: of the brown stain, and whether the model was adapted.

    Fields of `PredictConfig`, as they are where nothing is left to decide.
    """
    settings: Mapping[str, Any] = provenance.get("settings") or {}
    predict = settings.get("predict") or {}
    return {
        "dab": "remove" if predict.get("dab") == "remove" else "keep",
        "adapt": "on" if predict.get("adapt") == "on" else "off",
    }


def as_seen(source: ImageSource, session: Session) -> ImageSource:
    """The source with the channel that is shown, where nobody has chosen any.

    A model that takes just as many channels as there are gets all of them.
    """
    if source.channels is not None or source.seen_channel is None:
        return source
    card = session.card
    taken = card.network.in_channels if card is not None else 3
    axes = source.axes or ""
    n = source.shape[axes.index("C")] if "C" in axes else 1
    if n == taken and (taken > 3 or not session.normalize):
        return source
    return replace(source, channels=(source.seen_channel,))


def segment_request(session: Session, generation: int, key: str) -> SegmentRequest:
    """Freeze the session's settings into a request.

    Raises
    ------
    ImageError
        There is no image, or "view" was chosen and the view shows nothing of it.
    """
    source = _source(session, "segment")
    index = source.plane if session.planes == "current" else None
    return SegmentRequest(*_frozen(session, source, generation, key, index))


def explain_request(session: Session, generation: int, key: str) -> ExplainRequest:
    """The same for an explanation; of a stack the plane that is shown.

    Raises
    ------
    ImageError
        As of `segment_request`.
    """
    source = _source(session, "look into")
    return ExplainRequest(*_frozen(session, source, generation, key, source.plane))


def _source(session: Session, verb: str) -> ImageSource:
    if session.image is None:
        raise ImageError(f"There is no image to {verb}. Open one, or try a sample image.")
    return session.image


NOWHERE: dict[Where, str] = {
    "view": "The view shows no part of this image. Move the camera over it, "
    "or choose the whole image.",
    "area": "No area is drawn over this image. Drag a rectangle on a layer of shapes, "
    "or choose the whole image.",
}


def part_of(session: Session, source: ImageSource) -> tuple[int, int, int, int] | None:
    """``(y0, y1, x0, x1)`` of the chosen part of an image; None for the whole image."""
    return {"view": source.view, "area": source.area, "whole": None}[session.where]


def _frozen(
    session: Session,
    source: ImageSource,
    generation: int,
    key: str,
    index: tuple[int, ...] | None,
) -> tuple[Any, ...]:
    box = part_of(session, source)
    if session.where != "whole" and (box is None or box[1] <= box[0] or box[3] <= box[2]):
        raise ImageError(NOWHERE[session.where])
    return (
        source,
        generation,
        key,
        session.model,
        session.predict,
        session.instances,
        session.normalize,
        Window(index=index, box=box),
    )


# --------------------------------------------------------------------------------------------
# What can be said of an image before anything is read of it.


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


def nothing_found_words(request: SegmentRequest, blank: bool = False) -> str:
    """What to try next where a run has found no cells, in the words of the page.

    ``blank``: the image has one value throughout.
    """
    plan = source_plan(request.source)
    if blank:
        other = "channel or image" if plan.n_channels > 1 else "image"
        return f"What went in has one value throughout: choose another {other}."
    tries = ["another channel"] if plan.n_channels > 1 else []
    sure = "Confidence or " if request.instances.min_confidence > 0 else ""
    tries += ["“measure…” across one cell, for the Object size", f"a lower {sure}Foreground"]
    if plan.n_planes > 1 and request.predict.levels != "plane":
        tries.append("Brightness of each plane, under Advanced")
    return f"Nothing found? Try {'; '.join(tries)}; or another Model."


def difference_words(changes: Changes, more: int) -> str:
    """``+4 cells, +318 px, −40 px, 2 split``; empty where no pixel differs."""
    parts = []
    if more:
        parts.append(f"{signed(more)} {plural(abs(more), 'cell')}")
    if changes.gained_px:
        parts.append(f"+{changes.gained_px:,} px")
    if changes.lost_px:
        parts.append(f"−{changes.lost_px:,} px")
    parts += [
        f"{n:,} {what}"
        for what in ("split", "merged", "appeared", "vanished")
        if (n := getattr(changes, what))
    ]
    return ", ".join(parts)


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


def time_to_run(
    session: Session, one_plane: bool = False, diameter: float | None = None
) -> RunTime | None:
    """How long segmenting would take, from the engine's probe; None before it.

    With automatic size that is the search for the size, and the run at what it finds: what
    it found the last time, or a size that the model has learned from, or else anything likely.
    A `diameter` (px) is known already.
    """
    info, source = session.info, session.image
    if info is None or info.seconds_per_megapixel is None or source is None:
        return None
    try:
        plan = source_plan(source)
    except SA2NetError:
        return RunTime(0.0, 0.0)
    box = part_of(session, source)
    y0, y1, x0, x1 = box or (0, plan.spatial[0], 0, plan.spatial[1])
    n_planes = 1 if one_plane or session.planes == "current" else plan.n_planes
    pixels = (y1 - y0) * (x1 - x0) * n_planes

    trained, card = info.model_diameter, session.card
    learned = card.image_diameters if card is not None else None
    expected = card.expected_diameter if card is not None else None
    first = trained / expected if trained and expected else 1.0

    def at(scale: float, searched: bool) -> float:
        search = pixels_of_search(plan.spatial, scale, plan.n_planes, first) if searched else 0
        return (pixels * scale**2 + search) / 1e6 * (info.seconds_per_megapixel or 0.0)

    if not trained or not session.predict.rescale:
        seconds = at(1.0, False)
    elif known := diameter or session.predict.diameter:
        seconds = at(trained / known, False)
    elif session.found_diameter:
        seconds = at(trained / session.found_diameter, True)
    else:
        likely = [trained / size for size in reversed(learned)] if learned else LIKELY_SCALES
        return RunTime(*(at(scale, True) for scale in likely))
    return RunTime(seconds, seconds)


def time_to_explain(session: Session) -> RunTime | None:
    """How long explaining the shown plane would take; None before the engine's probe."""
    known = session.found_diameter
    if known and session.predict.rescale and not session.predict.diameter:
        # it is not looked for again
        time = time_to_run(session, one_plane=True, diameter=known)
    else:
        time = time_to_run(session, one_plane=True)
    return None if time is None else time * MORE_TO_EXPLAIN


# --------------------------------------------------------------------------------------------
# What the See-why page holds of an image: explanation, shown layers, what-if.

Box = tuple[int, int, int, int]

STAGE, CHANGE, WHAT_IF, CELL = "stage", "change", "what_if", "cell"
"""Layers of the page that are no attention maps; those go by the map's name."""
PREVIEW, DIFFERENCE = "learn_preview", "learn_difference"
"""Layers of the Learn page: cells as the child sees them, and where it differs."""


@dataclass(frozen=True)
class WhatIfSettings:
    """Attention as a person wants to try it.

    Attributes
    ----------
    gates
        Which of the four scales are on, 1 (finest) first; None as the model has it.
    gamma
        Exponents of ψ at strides 8, 4, 2, 1: 0 off, 1 plain ψ, above 1 sharper; None as
        trained.
    se_gamma
        The same of squeeze and excitation on the skips at these strides.
    """

    gates: tuple[bool | None, ...] = (None, None, None, None)
    gamma: Exponents = (None, None, None, None)
    se_gamma: Exponents = (None, None, None, None)

    @property
    def is_default(self) -> bool:
        """Everything is as trained."""
        return self == WhatIfSettings()


@dataclass(frozen=True)
class KeptVariant:
    """A what-if that was kept as a model.

    Attributes
    ----------
    name, parent
        Of the new model, and of the one that it is a variant of.
    settings
        What was changed.
    card
        Tells it from any other model that is called so later.
    """

    name: str
    parent: str
    settings: WhatIfSettings
    card: ModelCard


@dataclass(frozen=True, eq=False)
class WhyState:
    """All that the page shows of one image; every change makes a new one.

    Attributes
    ----------
    maps
        By name; of a map with several channels the one that was chosen.
    channels
        Channel that is wanted of a map; a map that is not in it shows all of them.
    shown
        Which layers are over the image: names of maps, `STAGE`, `CHANGE`, `WHAT_IF`, `CELL`.
    focus
        Map that the page describes; empty for none.
    stage
        Stride of the boundary stage that is chosen.
    kept
        The engine can still answer questions on it.
    moved
        The sliders of the Segment page have changed the cells since.
    wanted
        Label that is being inspected.
    what_if_box
        Part of the image that the newest what-if was asked for; None before the first.
    variant, keep_problem
        The what-if that was kept last; why one could not be kept or taken back.
    """

    request: ExplainRequest
    result: ExplainResult
    maps: dict[str, AttentionMap]
    channels: dict[str, int] = field(default_factory=dict)
    shown: frozenset[str] = frozenset()
    focus: str = ""
    stage: int = 1
    kept: bool = True
    moved: bool = False
    wanted: int | None = None
    inspection: CellInspection | None = None
    what_if: WhatIfSettings = field(default_factory=WhatIfSettings)
    what_if_box: Box | None = None
    what_if_result: WhatIfResult | None = None
    variant: KeptVariant | None = None
    keep_problem: str = ""

    @property
    def model(self) -> str:
        """Name of the model that was looked into."""
        return str(self.result.segmentation.provenance["model"]["name"])

    @property
    def key(self) -> str:
        """Of the segmentation."""
        return self.request.key

    @property
    def image_key(self) -> str:
        """Of the image that was looked into."""
        return self.request.source.key

    @property
    def what_if_part(self) -> str:
        """Part of the image that the what-if's result is about, in words."""
        assert self.what_if_result is not None
        box, explained = self.what_if_result.box, self.result.box
        if box == explained:
            height, width = source_plan(self.request.source).spatial
            whole = explained == (0, height, 0, width)
            return "in the whole image" if whole else "in all that was looked into"
        return "in the view" if box == self.what_if_box else "in the view before this one"

    def changed(self, **fields: Any) -> WhyState:
        """A state with other fields."""
        return replace(self, **fields)


@dataclass(frozen=True, eq=False)
class Patch:
    """Pixels of a part of the image.

    Attributes
    ----------
    values
        int32 labels, int8 signs or the lines around a cell (h, w).
    box
        ``(y0, y1, x0, x1)`` in the image.
    stride
        Stage of labels; 0 where it means nothing.
    """

    values: Any
    box: Box
    stride: int = 0


@dataclass(frozen=True, eq=False)
class Overlay:
    """One layer of the page: show it, put other content into it, or take it away.

    Attributes
    ----------
    source
        The image as it was explained.
    slot
        Name of a map, `STAGE`, `CHANGE`, `WHAT_IF` or `CELL`; one layer for each.
    content
        None: take the layer away.
    index
        Plane of the stack.
    """

    source: ImageSource
    slot: str
    content: AttentionMap | Patch | None
    index: tuple[int, ...] = ()
