"""What a viewer's session holds, as evented state; widgets bind to ``Session.events``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from psygnal import SignalGroupDescriptor

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data.fingerprint import quick_fingerprint
from napari_sa2net.data.plan import ImagePlan, plan_image
from napari_sa2net.engine.protocol import EngineInfo, ObjectTable, SegmentResult, Summary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_sa2net.app.preview import RunTime
    from napari_sa2net.app.requests import SegmentRequest
    from napari_sa2net.app.why import WhyState

EngineState = Literal["stopped", "starting", "ready", "busy", "down"]
Where = Literal["whole", "view"]
Planes = Literal["current", "all"]
Sliders = Literal["none", "live", "edited", "lost"]

SLIDER_WORDS: dict[str, str] = {
    "none": "Segment first; then these adjust the result live.",
    "live": "",
    "edited": "You edited these cells, so the sliders no longer change them. "
    "Segment again for a new layer.",
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
    channels
        Channels that go in; None for the default.
    seen_channel
        The one that is shown of several, see `as_seen`; None where all are, or there is one.
    contrast
        Values shown as black and white, where these shall be the levels; otherwise None.
    pixel_size_um
        Micrometres per pixel; None where units are unknown.
    z_step_um
        Micrometres from plane to plane of a Z stack; None where unknown.
    plane
        Stack index that is shown, in the order of the stack axes; None for a 2-D image.
    view
        ``(y0, y1, x0, x1)`` in pixels that the camera shows, clipped to the image.
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
    pixel_size_um: float | None = None
    plane: tuple[int, ...] | None = None
    view: tuple[int, int, int, int] | None = None
    seen_channel: int | None = None
    contrast: tuple[float, float] | None = None
    z_step_um: float | None = None
    path: str = ""

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
        return tuple(int(n) for n in self.level0.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
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
class SegmentOutcome:
    """A finished segmentation, for the view to show.

    Attributes
    ----------
    key
        Names the result, new for every run; `LabelsUpdate` and `TableUpdate` carry it.
    replaces
        Key of the image's former result if no person has edited it: its layer takes the new
        labels. None: the labels go to a new layer.
    adds_to
        Key of the image's former result where this is another part of the image: its cells
        stay, but for those of this part.
    request
        What was asked for, with the source image.
    result
        Labels (int32, see `SegmentResult`), offset, table, provenance.
    """

    key: str
    replaces: str | None
    request: SegmentRequest
    result: SegmentResult
    adds_to: str | None = None

    @property
    def size_unsure(self) -> bool:
        """Many cells are doubtful, and their size was only estimated: it may be wrong."""
        from napari_sa2net.measure import many_doubtful  # scipy takes a while to load

        objects = self.result.objects
        if objects is None or self.request.predict.diameter or not self.result.diameter:
            return False
        return many_doubtful(objects["confidence"])

    @property
    def labels(self) -> NDArray[np.int32]:
        return self.result.labels  # type: ignore[no-any-return]


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
    error: ErrorInfo | None = None


def summary_line(
    summary: Summary, pixel_size_um: float | None, z_step_um: float | None = None
) -> str:
    """``143 cells · median 96 µm² · 3 touch the border``; of cells in depth the volume."""
    n = summary.n_objects
    if n == 0:
        return "No cells found"
    parts = [f"{n} cell{'' if n == 1 else 's'}"]
    area = summary.median_area_px
    if math.isfinite(area):
        if summary.in_depth and pixel_size_um and z_step_um:
            parts.append(f"median {plain(area * pixel_size_um**2 * z_step_um)} µm³")
        elif summary.in_depth:
            parts.append(f"median {area:,.0f} voxels")
        elif pixel_size_um:
            parts.append(f"median {plain(area * pixel_size_um**2)} µm²")
        else:
            parts.append(f"median {area:,.0f} px²")
    if summary.n_border:
        verb = "touches" if summary.n_border == 1 else "touch"
        parts.append(f"{summary.n_border} {verb} the border")
    return " · ".join(parts)


def plain(value: float) -> str:
    """Three figures, never an exponent: ``0.0123``, ``96``, ``6,710``."""
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    text = f"{rounded:,.{min(max(digits, 0), 12)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def device_line(info: EngineInfo) -> str:
    """``CPU, 2 threads (no GPU found)`` or the accelerator's name."""
    if info.device == "cpu":
        plural = "" if info.threads == 1 else "s"
        note = "" if len(info.devices) > 1 else "; no GPU found, it works all the same"
        return f"CPU, {info.threads} thread{plural}{note}"
    return f"{info.device_name} ({info.device})"
