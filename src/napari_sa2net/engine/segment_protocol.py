"""Segmenting, as client and engine speak of it: images, requests and results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from napari_sa2net.config import InstanceConfig, PredictConfig

# --- references to arrays ----------------------------------------------------------------


@dataclass(frozen=True)
class ArrayRef:
    """A C-ordered array that another process can attach to.

    Attributes
    ----------
    name
        Name of the shared memory segment, or of a file when ``is_file``.
    shape, dtype
        Shape, and dtype as ``numpy.dtype.str``.
    is_file
        The array lies in a temporary file, because shared memory was too small for it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_file: bool = False


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
        As of `ArrayRef`.
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
class WarmUp:
    """Load a model and run one small tile; done with an `EngineInfo`."""

    job: int
    model: str
    predict: PredictConfig = field(default_factory=PredictConfig)


@dataclass(frozen=True)
class Segment:
    """Segment an image; done with a `SegmentResult`.

    Attributes
    ----------
    image
        To `EngineClient.submit`: any array (numpy, dask, zarr, list of levels). On the wire:
        a reference.
    axes, channels, normalize
        As `napari_sa2net.segment` takes them.
    model
        Name or path.
    pixel_size_um
        Pixel size in micrometres, for the table; None where units are unknown.
    z_step_um
        Likewise the distance of the planes of a Z stack.
    keep_as
        Key under which the engine keeps the probabilities for `Derive`; empty keeps nothing.
    window
        What to segment; the normalisation is always that of the whole image.
    """

    job: int
    image: Any
    model: str
    axes: str | None = None
    channels: tuple[int, ...] | None = None
    normalize: bool = True
    predict: PredictConfig = field(default_factory=PredictConfig)
    instances: InstanceConfig = field(default_factory=InstanceConfig)
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    keep_as: str = ""
    window: Window = Window()


@dataclass(frozen=True)
class Derive:
    """Labels anew from kept probabilities; done with a `SegmentResult`.

    Of several waiting for one key only the newest runs; the others are `WasCancelled`.
    """

    job: int
    key: str
    instances: InstanceConfig = field(default_factory=InstanceConfig)
    table: bool = False


@dataclass(frozen=True)
class Measure:
    """The object table of given labels over the kept image; done with an `ObjectTable`.

    Attributes
    ----------
    labels
        int32 labels in the shape of the result: an array to `submit`, a reference on the
        wire. For labels that a person has edited.
    at
        Where only part of the result is given, its first element (stack axes, y, x): then
        the table has the columns label and confidence alone.
    """

    job: int
    key: str
    labels: Any
    at: tuple[int, ...] | None = None


@dataclass(frozen=True)
class MeasureImage:
    """The object table of labels that lie on any image; done with an `ObjectTable`.

    Attributes
    ----------
    labels
        Whole numbers (\\*stack, H, W): an array to `submit`, a reference on the wire.
    image, axes, channels
        As of `Segment`; an image of None gives a table without intensities.
    corner
        Place of the first label in the image (stack axes, y, x).
    stack_axes, pixel_size_um, z_step_um
        Of the labels, as of `napari_sa2net.measure.object_table`.
    """

    job: int
    labels: Any
    image: Any = None
    axes: str | None = None
    channels: tuple[int, ...] | None = None
    corner: tuple[int, ...] | None = None
    stack_axes: str = ""
    pixel_size_um: float | None = None
    z_step_um: float | None = None


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
        length 1 where one plane was asked for. A reference on the wire, an array in the
        client's events.
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
