"""What client and engine say to each other: plain frozen dataclasses, no torch.

Requests go from napari's process to the engine, events come back. A request that carries a
``job`` is answered by any number of `Progress` and then by exactly one of the `Call` itself
with its result, `Failed` and `WasCancelled` with the same number.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from napari_sa2net.config import NetworkConfig
from napari_sa2net.interpret.maps import AttentionMap, Changes
from napari_sa2net.interpret.maps import CellInspection as CellInspection
from napari_sa2net.interpret.maps import StageStep as StageStep
from napari_sa2net.training.compare import Change, LossPoint, Planned, RoundPoint, Verdict

if TYPE_CHECKING:
    from napari_sa2net.edits import Patch

# --------------------------------------------------------------------------------------------
# Segmenting, as client and engine speak of it: images, requests and results.

# --- references to arrays ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Whole:
    """A lazy array that is read and sent whole; its receiver has a numpy array."""

    array: Any


@dataclass(frozen=True)
class FileRef:
    """A zarr array on a local disk that the engine opens itself.

    Attributes
    ----------
    store
        Folder of the zarr store.
    path
        Path of the array inside the store; empty for its root.
    """

    store: str
    path: str = ""


@dataclass(frozen=True)
class RegionRef:
    """A lazy array that stays with the client; the engine asks for regions of it.

    Attributes
    ----------
    source
        Name under which the client serves it.
    shape, dtype
        Shape, and dtype as ``numpy.dtype.str``.
    chunks
        Largest chunk along each axis; None where unknown.
    """

    source: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Window:
    """The part of an image that is segmented.

    Attributes
    ----------
    index
        One plane of the stack, in the order of the image's stack axes; None for all planes.
    box
        ``(y0, y1, x0, x1)`` in pixels; None for the whole plane.
    """

    index: tuple[int, ...] | None = None
    box: tuple[int, int, int, int] | None = None


# --- requests ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """Call one of the engine's functions (`service.Handlers`); comes back with its result.

    Attributes
    ----------
    name
        Of the function: ``segment``, ``explain``, ``derive``, ``fine_tune``, ...
    arguments
        By keyword; an image may be any array (numpy, dask, zarr, list of levels), and so may
        labels.
    key
        Of the result that the call is about, or that is kept for further calls; empty is none.
    result
        What the function returned, once it is done.
    kind, about
        Whose call it is, and what for; this stays in the caller's process.
    """

    job: int
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    result: Any = None
    kind: str = field(default="", compare=False)
    about: Any = field(default=None, compare=False, repr=False)

    def done(self, result: Any) -> Call:
        """The call as it comes back."""
        return replace(self, arguments={}, result=result)


# --- results -----------------------------------------------------------------------------

ObjectTable = dict[str, NDArray[Any]]
"""Columns of the object table by name, all of one length; with boxes in the labels' pixels."""


@dataclass(frozen=True)
class EngineInfo:
    """What the engine runs on.

    Attributes
    ----------
    device, device_name
        ``cpu``, ``cuda:0``, ``mps``, and the name to show.
    devices
        Every device that could be chosen.
    seconds_per_megapixel
        Measured by the last warm-up, per 10⁶ network pixels; None before it.
    model_diameter
        Object diameter (px) that the warmed-up model was trained on; None where unknown.
    """

    device: str
    device_name: str
    torch_version: str
    pid: int
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 1
    seconds_per_megapixel: float | None = None
    model: str = ""
    model_diameter: float | None = None


@dataclass(frozen=True)
class Summary:
    """Numbers for the line under the sliders.

    Attributes
    ----------
    median_area_px
        In px², or in voxels where ``in_depth``.
    in_depth
        Cells go on over several planes of a Z stack.
    """

    n_objects: int
    median_area_px: float
    n_border: int
    in_depth: bool = False


@dataclass(frozen=True, eq=False)
class SegmentResult:
    """Labels and what belongs to them.

    Attributes
    ----------
    labels
        int32, the image's axes without C, of the window only; stack axes are kept, with
        length 1 where one plane was asked for.
    offset
        Index of the first element of ``labels`` in the image without C.
    objects
        Table columns, or None where it was not asked for. Positions (``z``, ``centroid_y``,
        ...) count from the first pixel of the image, also where only a window was segmented.
    diameter
        Object diameter (px of the image) that set the scale; None where nothing was rescaled.
    seams
        Rows and columns of ``labels`` at which the network's tiles met.
    """

    key: str
    labels: Any
    offset: tuple[int, ...]
    summary: Summary
    objects: ObjectTable | None = None
    diameter: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    n_tiles: int = 0
    seconds: float = 0.0
    seams: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


# --------------------------------------------------------------------------------------------
# Explaining, as client and engine speak of it: maps, stages, single objects, what-ifs.

#: γ at strides 8, 4, 2 and 1; None where it is the model's own.
Exponents = tuple[float | None, float | None, float | None, float | None]

# --- results -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ExplainResult:
    """A segmentation and what the network attended to.

    Attributes
    ----------
    segmentation
        As ``segment`` gives it, with further columns in its table.
    maps
        By name; a model without some stage lacks its maps.
    stages
        int32 labels (H, W) of the window from the heads at strides 8, 4, 2 and 1; those of 1
        are the segmentation's.
    change
        int8 (H, W): +1 where the last stage (1/2 → full) added foreground, −1 where it
        removed it.
    image_gates
        Means of the four scale gates over the window; NaN where a model has none.
    index, box
        What was explained: the plane, and ``(y0, y1, x0, x1)`` in pixels of the image.
    network
        Of the model: its attention modules and their γ.
    """

    segmentation: SegmentResult
    maps: dict[str, AttentionMap]
    stages: dict[int, Any]
    change: Any
    image_gates: tuple[float, ...]
    index: tuple[int, ...]
    box: tuple[int, int, int, int]
    network: NetworkConfig


@dataclass(frozen=True, eq=False)
class WhatIfResult(Changes):
    """What changed attention would have done, against the same box with all at its default.

    Attributes
    ----------
    labels
        int32 (h, w) of the box.
    n_before, n_after
        Objects.
    from_cache
        The part of the network that the change does not touch was not run again.
    """

    key: str
    labels: Any
    box: tuple[int, int, int, int]
    n_before: int
    n_after: int
    seconds: float
    from_cache: bool


# --------------------------------------------------------------------------------------------
# Learning while a person corrects.


@dataclass(frozen=True, eq=False)
class TaughtCell:
    """A cell of a person's, for clicks to learn from.

    Attributes
    ----------
    label
        Its number.
    labels : integer (H, W)
        Of a box around it.
    box
        In the image.
    """

    label: int
    labels: NDArray[Any]
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class WaveResult:
    """What a wave proposes.

    Attributes
    ----------
    patch : Patch
        Changes of the labels that were sent, in pixels of the image; labels of objects that
        are new are negative.
    n_learned, n_judged
        Cells that it learned from; corrections that were held back.
    before, after
        Mean score of these by the base model and now, 0 … 1; NaN without any.
    provenance
        Of the segmentation, with ``live``: how it learned.
    """

    patch: Patch
    n_learned: int
    n_judged: int
    before: float
    after: float
    seconds: float
    provenance: dict[str, Any]


# --------------------------------------------------------------------------------------------
# Fine-tuning, as client and engine speak of it. Training has an engine of its own.

# --- requests ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pause:
    """Write a fine-tuning to disk and end it; `resume_fine_tuning` goes on where it stood."""

    job: int


@dataclass(frozen=True)
class StopAndKeep:
    """End a fine-tuning within two seconds, with the best round so far as its result."""

    job: int


# --- events and results ------------------------------------------------------------------


@dataclass(frozen=True)
class TrainProgress:
    """News of a fine-tuning, several times a second at most.

    Attributes
    ----------
    run
        Folder of the run, to go on with.
    plan
        Once, when it begins.
    losses, rounds
        New points of the curves; of a run that goes on, the first event has the old ones.
    notices
        Sentences for the person.
    preview
        Model file with the weights of the newest round; empty if there is none.
    """

    job: int
    run: str
    plan: Planned | None = None
    losses: tuple[LossPoint, ...] = ()
    rounds: tuple[RoundPoint, ...] = ()
    notices: tuple[str, ...] = ()
    preview: str = ""


@dataclass(frozen=True)
class FineTuneResult:
    """What became of it.

    Attributes
    ----------
    paused
        It was paused: only `run` means anything.
    model, path
        Name and file of the child.
    promoted
        Offered by name from now on; else kept aside, see `models.promote_model`.
    """

    run: str
    paused: bool = False
    model: str = ""
    path: str = ""
    promoted: bool = False
    verdict: Verdict | None = None
    held_out: Change | None = None
    reference: Change | None = None
    seconds: float = 0.0


# --- requests ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Forget:
    """Drop what is kept under a key."""

    key: str


@dataclass(frozen=True)
class Cancel:
    """Stop a job at the next tile or plane."""

    job: int


@dataclass(frozen=True)
class Shutdown:
    """End the engine."""


@dataclass(frozen=True)
class RegionData:
    """Answer to `ReadRegion`: the region, or what went wrong."""

    token: int
    array: Any
    error: str = ""


Request = Call | Forget | Cancel | Shutdown | RegionData | Pause | StopAndKeep

# --- events ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """The engine has imported torch and takes jobs; it keeps nothing from before."""

    info: EngineInfo


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` steps of the job; ``what`` says what goes on."""

    job: int
    done: int
    total: int
    what: str


@dataclass(frozen=True)
class Failed:
    """The job failed.

    Attributes
    ----------
    kind
        Class name of the error: one of `napari_sa2net.errors`, else the foreign name.
    message
        For the user: what is wrong and what to do.
    details
        Traceback or the engine's last words, to be folded away.
    """

    job: int
    kind: str
    message: str
    details: str = ""


@dataclass(frozen=True)
class WasCancelled:
    """The job was cancelled, or replaced by a newer one of its kind."""

    job: int


@dataclass(frozen=True)
class Starting:
    """The client is starting an engine process."""


@dataclass(frozen=True)
class Died:
    """The engine process is gone, and with it everything it kept.

    Attributes
    ----------
    message
        What happened and what to do; empty when it was ended to cancel a job.
    restarting
        The client starts another one by itself; else `EngineClient.restart` does.
    """

    message: str
    details: str = ""
    restarting: bool = True


@dataclass(frozen=True)
class ReadRegion:
    """The engine asks the client for part of a `RegionRef`; never reaches ``on_event``."""

    token: int
    source: str
    key: tuple[int | slice, ...]


Event = (
    Starting
    | Ready
    | Progress
    | TrainProgress
    | Call
    | Failed
    | WasCancelled
    | Died
    | ReadRegion
)
