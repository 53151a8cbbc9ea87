"""Where the tiles of a plane lie: pure geometry."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_sa2net.errors import OutputError, SettingsError

#: Tile origins and sizes are multiples of this, so that all poolings fall on one grid.
STRIDE = 16

Seams = tuple[tuple[int, ...], tuple[int, ...]]
"""First rows and first columns (image px) of the tiles but for the first."""


@dataclass(frozen=True)
class Window:
    """Rows y0…y1-1 and columns x0…x1-1."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0


@dataclass(frozen=True)
class Tile:
    """What is read, and the part of it that is kept.

    `read` starts on the stride grid and ends on it or at the image's edge; `core` windows
    tile the image without gap or overlap.
    """

    core: Window
    read: Window


def plan_tiles(
    height: int, width: int, tile: int, halo: int, stride: int = STRIDE
) -> list[Tile]:
    """Cut a plane into tiles.

    Parameters
    ----------
    height, width : int, >= 1
    tile : int
        Largest side of a read window, a multiple of `stride`, > 2 * halo.
    halo : int
        Least distance, a multiple of `stride`, from a core to the edge of its read window
        (0 where that edge is the image's own).
    stride : int

    Returns
    -------
    list of Tile, row by row

    Raises
    ------
    SettingsError
        If tile or halo is off the stride grid, or the halo leaves no core.
    """
    if tile % stride or halo % stride or tile <= 2 * halo or halo < 0:
        raise SettingsError(
            f"A tile of {tile} px with a halo of {halo} px is not possible: both must be "
            f"multiples of {stride} and the tile larger than twice the halo. "
            f"Choose a tile of at least {2 * halo + stride} px."
        )
    rows = split_axis(height, tile, halo, stride)
    columns = split_axis(width, tile, halo, stride)
    return [
        Tile(Window(cy0, cy1, cx0, cx1), Window(ry0, ry1, rx0, rx1))
        for (cy0, cy1), (ry0, ry1) in rows
        for (cx0, cx1), (rx0, rx1) in columns
    ]


def inside(seams: Seams, corner: tuple[int, int], size: tuple[int, int]) -> Seams:
    """Seams that run through a part of an image, counted from its first pixel."""
    rows, columns = (
        tuple(line - first for line in lines if 0 < line - first < length)
        for lines, first, length in zip(seams, corner, size, strict=True)
    )
    return rows, columns


def split_axis(
    length: int, tile: int, halo: int, stride: int = STRIDE
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Cut one axis into (core, read) ranges; see `plan_tiles`."""
    padded = _up(length, stride)
    if padded <= tile:
        return [((0, length), (0, length))]
    # As few tiles as fit, then as small as covers: equal sizes, little overlap.
    n = -(-(padded - 2 * halo) // (tile - 2 * halo))
    size = _up(-(-(padded + (n - 1) * 2 * halo) // n), stride)
    starts = [i * (padded - size) // (n - 1) // stride * stride for i in range(n)]
    cuts = [0]
    for left, right in pairwise(starts):
        cuts.append((left + size + right) // 2 // stride * stride)
    cuts.append(length)
    return [
        ((cuts[i], cuts[i + 1]), (start, min(start + size, length)))
        for i, start in enumerate(starts)
    ]


def _up(n: int, stride: int) -> int:
    return -(-n // stride) * stride


# --------------------------------------------------------------------------------------------
# Exact resampling of any window of an image, without the rest of it.
#
# Grids are aligned by their outer edges: pixel i of the network's grid lies at image
# coordinate (i + 0.5) / s - 0.5. Each output pixel's taps depend only on its own position, so
# windows agree with the whole to rounding.

#: Largest piece of the image held as float32 while a window is resampled (bytes).
MAX_READ_BYTES = 256 * 2**20


class Plane(Protocol):
    """What is read of an image plan."""

    @property
    def spatial(self) -> tuple[int, int]:
        """Height and width."""

    def read(
        self, index: tuple[int, ...], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[np.float32]:
        """A window of one plane, as the network takes it."""


@dataclass(frozen=True)
class Axis:
    """Resampling of one axis.

    Parameters
    ----------
    n_in, n_out : int
        Pixels before and after.
    scale : float
        Output pixels per input pixel; need not be n_out / n_in exactly.
    antialias : bool
        Widen the triangle filter by 1 / scale when shrinking.
    """

    n_in: int
    n_out: int
    scale: float
    antialias: bool = True

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.scale == 1.0 and self.n_in == self.n_out

    @property
    def reach(self) -> float:
        """Half width of the filter in input pixels."""
        return max(1.0, 1.0 / self.scale) if self.antialias else 1.0

    def taps(self, start: int, stop: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Input indices and weights of output pixels start…stop-1.

        Returns
        -------
        index : (stop - start, k) intp, within 0…n_in-1
        weight : (stop - start, k) float32, rows sum to 1
        """
        centre = (np.arange(start, stop) + 0.5) / self.scale - 0.5
        centre = np.clip(centre, 0, self.n_in - 1)
        reach = self.reach
        first = np.floor(centre - reach).astype(np.intp) + 1
        index = first[:, None] + np.arange(int(np.ceil(2 * reach)), dtype=np.intp)
        weight = np.maximum(0.0, 1.0 - np.abs(index - centre[:, None]) / reach)
        weight[(index < 0) | (index >= self.n_in)] = 0.0
        weight /= weight.sum(axis=1, keepdims=True)
        return np.clip(index, 0, self.n_in - 1), weight.astype(np.float32)

    def needs(self, start: int, stop: int) -> tuple[int, int]:
        """Range of input pixels that output pixels start…stop-1 are made of."""
        first, _ = self.taps(start, start + 1)
        last, _ = self.taps(stop - 1, stop)
        return int(first.min()), int(last.max()) + 1


def resample(
    block: NDArray[np.float32],
    rows: Axis,
    columns: Axis,
    out: tuple[int, int, int, int],
    origin: tuple[int, int] = (0, 0),
) -> NDArray[np.float32]:
    """Compute output window (y0, y1, x0, x1) from a block of the input.

    Parameters
    ----------
    block : (C, h, w) float32
        Part of the input that starts at `origin` and covers what the window needs.
    rows, columns : Axis
    out : y0, y1, x0, x1 in output pixels
    origin : y, x of the block in input pixels

    Returns
    -------
    (C, y1 - y0, x1 - x0) float32
    """
    y0, y1, x0, x1 = out
    if rows.is_identity and columns.is_identity:
        oy, ox = origin
        return block[:, y0 - oy : y1 - oy, x0 - ox : x1 - ox]
    # Rows first: whole rows are contiguous, and shrinking leaves less for the columns.
    return _apply(_apply(block, rows, y0, y1, origin[0], 1), columns, x0, x1, origin[1], 2)


def _apply(
    block: NDArray[np.float32], axis: Axis, start: int, stop: int, origin: int, dim: int
) -> NDArray[np.float32]:
    if axis.is_identity:
        window = [slice(None)] * 3
        window[dim] = slice(start - origin, stop - origin)
        return block[tuple(window)]
    index, weight = axis.taps(start, stop)
    shape = [1, 1, 1]
    shape[dim] = -1
    total: NDArray[np.float32] | None = None
    for i, w in zip(index.T - origin, weight.T, strict=True):
        term = block.take(np.clip(i, 0, block.shape[dim] - 1), axis=dim)
        term *= w.reshape(shape)
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return total


class ScaledPlane:
    """One plane of an image as the network sees it: rescaled, read window by window.

    Parameters
    ----------
    plan : ImagePlan
    index : tuple of int
        Which plane of the stack.
    scale : float
        Network pixels per image pixel; 1 reads the image itself.
    resize_to : int, optional
        Instead of by `scale`, resize the whole plane to this square, bilinear.
    antialias : bool
        With `resize_to`: smooth what shrinks; a published script did not.
    """

    def __init__(
        self,
        plan: Plane,
        index: tuple[int, ...],
        scale: float = 1.0,
        resize_to: int | None = None,
        antialias: bool = False,
    ) -> None:
        self.plan = plan
        self.index = index
        height, width = plan.spatial
        if resize_to:
            self.rows = Axis(height, resize_to, resize_to / height, antialias)
            self.columns = Axis(width, resize_to, resize_to / width, antialias)
        else:
            self.rows = Axis(height, max(1, round(height * scale)), scale)
            self.columns = Axis(width, max(1, round(width * scale)), scale)
        # The way back: the same geometry from the other side.
        self.back_rows = _inverse(self.rows)
        self.back_columns = _inverse(self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in network pixels."""
        return self.rows.n_out, self.columns.n_out

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.float32]:
        """Network input of a window in network pixels: (C, y1 - y0, x1 - x0) float32."""
        if self.rows.is_identity and self.columns.is_identity:
            return self.plan.read(self.index, y0, y1, x0, x1)
        left, right = self.columns.needs(x0, x1)
        parts = []
        for a, b in self._bands(y0, y1, right - left):
            top, bottom = self.rows.needs(a, b)
            block = self.plan.read(self.index, top, bottom, left, right)
            parts.append(resample(block, self.rows, self.columns, (a, b, x0, x1), (top, left)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _bands(self, y0: int, y1: int, width: int) -> Iterator[tuple[int, int]]:
        """Cut rows so that a strongly shrunk image is not read in one piece."""
        channels = getattr(self.plan, "in_channels", 4)
        rows_in = max(1, MAX_READ_BYTES // (4 * channels * width))
        step = max(1, int((rows_in - 2 * self.rows.reach) * self.rows.scale))
        for a in range(y0, y1, step):
            yield a, min(a + step, y1)

    def image_window(self, y0: int, y1: int, x0: int, x1: int) -> tuple[int, int, int, int]:
        """Image pixels whose centres lie in a window of the network's grid.

        Windows that tile the network's grid give windows that tile the image.
        """
        return (*_pixels(self.rows, y0, y1), *_pixels(self.columns, x0, x1))

    def to_image(
        self,
        values: NDArray[np.float32],
        origin: tuple[int, int],
        window: tuple[int, int, int, int],
    ) -> NDArray[np.float32]:
        """Resample network values (C, h, w) that start at `origin` to an image window."""
        return resample(values, self.back_rows, self.back_columns, window, origin)


def _inverse(axis: Axis) -> Axis:
    return Axis(axis.n_out, axis.n_in, 1.0 / axis.scale, axis.antialias)


def _pixels(axis: Axis, start: int, stop: int) -> tuple[int, int]:
    """Input pixels j with start <= (j + 0.5) * scale < stop; the ends take the rest."""
    first = 0 if start <= 0 else int(np.ceil(start / axis.scale - 0.5))
    last = axis.n_in if stop >= axis.n_out else int(np.ceil(stop / axis.scale - 0.5))
    return min(first, axis.n_in), min(last, axis.n_in)


# --------------------------------------------------------------------------------------------
# How large an image is to the network.

MIN_SCALE, MAX_SCALE = 1 / 8, 8.0
#: Scales this close to 1 are 1: resampling would cost more than it brings.
SCALE_TOLERANCE = 0.05


def network_scale(
    diameter: float | None, model_diameter: float | None, spatial: tuple[int, int]
) -> float:
    """Network pixels per image pixel for objects of a diameter.

    Parameters
    ----------
    diameter, model_diameter : float or None
        Typical object diameter in the image and in the model's training images (px);
        either unknown gives 1.
    spatial : (H, W) of the image

    Returns
    -------
    float
        In 1/8…8, exactly 1 when within 5 %, and not so small that the shorter side falls
        below 16 network pixels.
    """
    if not diameter or not model_diameter:
        return 1.0
    smallest = min(1.0, STRIDE / max(1, min(spatial)))
    scale = min(max(model_diameter / diameter, MIN_SCALE, smallest), MAX_SCALE)
    return 1.0 if abs(scale - 1) < SCALE_TOLERANCE else scale


# --------------------------------------------------------------------------------------------
# Room for results: in memory, or on disk when they are large.

#: Arrays above this many bytes go to disk.
MEMORY_LIMIT = 2**28
#: Side of a chunk on disk (px).
CHUNK = 512


def allocate(
    shape: tuple[int, ...], dtype: DTypeLike, limit: int | None = None, chunk: int = CHUNK
) -> Any:
    """Array of zeros that can be written and read by slices.

    Parameters
    ----------
    shape : tuple of int
        The last two axes are Y and X.
    dtype : dtype
    limit : int, optional
        Bytes from which the array goes to disk; `MEMORY_LIMIT` if not given.
    chunk : int
        Side of a chunk on disk (px); small ones suit arrays of many channels.

    Returns
    -------
    numpy.ndarray, or zarr.Array in a temporary folder that is removed when the array is
    garbage-collected or Python ends.

    Raises
    ------
    OutputError
        If the temporary folder cannot be made.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if n_bytes <= (MEMORY_LIMIT if limit is None else limit):
        return np.zeros(shape, dtype)
    import zarr
    from zarr.codecs import BloscCodec

    from napari_sa2net.data.on_disk import Stored

    # Chunks hold all classes of a block, since they are written and read together.
    n_lead = len(shape) - 2
    lead = shape[-3:-2] if n_lead else ()
    chunks = (*(1,) * max(0, n_lead - 1), *lead, min(chunk, shape[-2]), min(chunk, shape[-1]))
    try:
        folder = Path(tempfile.mkdtemp(prefix="napari-sa2net-"))
        array = zarr.create_array(
            str(folder / "array.zarr"),
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            fill_value=0,
            # smaller than by the default, and written twice as fast
            compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
        )
    except OSError as error:
        raise OutputError(
            f"A result of {n_bytes / 2**30:.1f} GB needs room on disk, but "
            f"{tempfile.gettempdir()} cannot be written ({error}). Free space there, or set "
            "the environment variable TMPDIR to another folder."
        ) from error
    return Stored.of(array, folder)


class PlaneOf:
    """One plane of a stack, to be written and read by slices."""

    def __init__(self, array: Any, index: tuple[int, ...]) -> None:
        self.array, self.index = array, index
        self.shape = tuple(array.shape[len(index) :])
        self.dtype = array.dtype

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Any:
        return np.asarray(self.array[self.index], dtype)

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        return self.array[(*self.index, *key)]

    def __setitem__(self, key: tuple[Any, ...], values: Any) -> None:
        self.array[(*self.index, *key)] = values


# --------------------------------------------------------------------------------------------
# How the search for the object size looks at an image, and what that costs; no torch.

#: Side of a crop (network px) and how many are run at each scale.
CROP = 512
N_CROPS = 3
#: Planes of a stack among which they are chosen.
N_PLANES = 5
#: A scale within this factor of the one before ends the search.
AGREEMENT = 1.2
#: Cells so small that a larger scale were needed are not taken for cells.
LARGEST_SCALE = 5.0
#: Enlarged by more than this, cells must look like cells.
LARGE_SCALE = 2.5


def agree(one: float, other: float) -> bool:
    """Whether two scales are as good as the same."""
    return abs(math.log(one / other)) <= math.log(AGREEMENT)


def pixels_of_pass(spatial: tuple[int, int], scale: float, n_planes: int = 1) -> float:
    """Network pixels that one pass of the search runs, of an image (H, W) or a stack."""
    planes = min(n_planes, N_CROPS)
    return min(N_CROPS * CROP**2, planes * spatial[0] * spatial[1] * scale**2)


def pixels_of_search(
    spatial: tuple[int, int], scale: float, n_planes: int = 1, first: float = 1.0
) -> float:
    """Network pixels of a search that ends at a scale: at the first, there, and once more."""
    begin = pixels_of_pass(spatial, first, n_planes)
    if agree(scale, first):
        return begin
    more = 1 if scale <= max(LARGE_SCALE, first) else 2
    return begin + more * pixels_of_pass(spatial, scale, n_planes)
