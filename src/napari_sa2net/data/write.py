"""Results out: labels and float maps as TIFF, plane by plane, all of it or nothing; figures."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.axes import STACK_NAMES
from napari_sa2net.data.io import Sizes
from napari_sa2net.errors import AxesError, ImageError, OutputError
from napari_sa2net.files import TEMPORARY_PREFIX, cannot_write, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Dots per inch of figures.
DPI = 300
#: Planes with more pixels are written in tiles, so that none is ever whole in memory.
MAX_PLANE_PIXELS = 64_000_000
_TILE = 1024
_CLASSIC_BYTES = 2**32 - 2**25
_KEY = "napari-sa2net"


def write_labels(
    path: str | Path,
    labels: Any,
    pixel_size_um: Sizes = None,
    metadata: Mapping[str, Any] | None = None,
    axes: str | None = None,
) -> None:
    """Write integer labels as a zlib-compressed TIFF that reads back in the same shape.

    Parameters
    ----------
    path : str or Path
        File to make or replace; its folder is made if need be.
    labels : array
        Whole numbers ≥ 0 of any shape from 2-D up, lazy ones are read plane by plane.
        uint16 in the file where they fit, otherwise int32.
    pixel_size_um : float, (float, float) or (float, float, float), optional
        Pixel size in µm, or along Y and X, or along Z, Y and X.
    metadata : mapping, optional
        Provenance, kept as JSON in the file.
    axes : str, optional
        One letter per axis; unsaid: a stack of YX.

    Raises
    ------
    OutputError
        No labels, or they cannot be written there. Nothing is left behind then.
    """
    kept = label_type(labels)
    _write(Path(path), labels, kept, pixel_size_um, metadata, axes, level=6)


def label_type(labels: Any) -> np.dtype[Any]:
    """In what type labels are written: uint16 where they fit, else int32.

    Raises
    ------
    OutputError
        If they are no whole numbers that int32 holds.
    """
    dtype = np.dtype(labels.dtype)
    if dtype.kind not in "bui":
        raise OutputError(f"Labels must be whole numbers, not {dtype}; convert them first.")
    if dtype.kind == "b" or dtype in (np.uint8, np.uint16):
        return np.dtype(np.uint16)
    least, most = _extent(labels)
    if least < 0 or most > np.iinfo(np.int32).max:
        raise OutputError(f"Labels must lie in 0 … 2147483647; these are {least} … {most}.")
    return np.dtype(np.uint16 if most <= np.iinfo(np.uint16).max else np.int32)


def write_tiff_float(
    path: str | Path,
    array: Any,
    pixel_size_um: Sizes = None,
    metadata: Mapping[str, Any] | None = None,
    axes: str | None = None,
) -> None:
    """Write real numbers as a float32 TIFF; otherwise as `write_labels`."""
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf":
        raise OutputError(f"Only real numbers can be written, not {dtype}.")
    _write(Path(path), array, np.dtype(np.float32), pixel_size_um, metadata, axes, level=1)


def write_image(
    path: str | Path,
    image: NDArray[Any],
    axes: str,
    pixel_size_um: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    make_folder: bool = True,
) -> None:
    """Write one plane with all its channels as a TIFF, in its own dtype.

    Parameters
    ----------
    path : str or Path
        File to make or replace.
    image : real array, (H, W), (H, W, 3 or 4) or (C, H, W)
    axes : "YX", "YXC" or "CYX"
        YXC are colours, and shown as such by other programs.
    pixel_size_um : float, optional
    metadata : mapping, optional
        Kept as JSON in the file.
    make_folder : bool
        As for `write_atomically`.

    Raises
    ------
    OutputError
        It cannot be written there. Nothing is left behind then.
    """
    if axes not in ("YX", "YXC", "CYX") or len(axes) != image.ndim:
        raise AxesError(f"A plane has the axes YX, YXC or CYX; these are {axes!r}.")
    if image.dtype.kind not in "biuf" or image.dtype.itemsize > 8:
        raise OutputError(f"Only images of real numbers can be written, not {image.dtype}.")
    if image.dtype.kind == "b":
        image = image.astype(np.uint8)
    colours = axes == "YXC"
    options: dict[str, Any] = {
        "photometric": "rgb" if colours else "minisblack",
        "metadata": {
            "axes": "YXS" if colours else axes,
            **({_KEY: metadata} if metadata else {}),
        },
    }
    if image.size:
        options |= {"compression": "zlib", "compressionargs": {"level": 1}}
    if pixel_size_um is not None:
        options |= {"resolution": (1e4 / pixel_size_um,) * 2, "resolutionunit": "CENTIMETER"}
    writer = {"shaped": True, "bigtiff": image.nbytes >= _CLASSIC_BYTES}
    _save(path, np.ascontiguousarray(image), writer, options, make_folder)


def _save(
    path: str | Path,
    data: Any,
    writer: dict[str, Any],
    options: dict[str, Any],
    make_folder: bool = True,
) -> Path:
    """Write a TIFF, whole or not at all; `writer` and `options` are tifffile's."""
    import tifffile

    def save(file: BinaryIO) -> None:
        # A name of its own, since tifffile trips over files known by number only.
        handle = tifffile.FileHandle(file, name=Path(path).name, size=0)
        with warnings.catch_warnings(), tifffile.TiffWriter(handle, **writer) as tif:
            warnings.simplefilter("ignore", UserWarning)  # an empty array is what we mean
            tif.write(data, **options)

    return write_atomically(path, save, make_folder=make_folder)


def _write(
    path: Path,
    array: Any,
    dtype: np.dtype[Any],
    pixel_size_um: Sizes,
    metadata: Mapping[str, Any] | None,
    axes: str | None,
    level: int,
) -> None:
    shape = tuple(int(n) for n in array.shape)
    axes = _check_axes(axes, shape)
    n_bytes = math.prod(shape) * dtype.itemsize
    empty = n_bytes == 0
    steps = np.atleast_1d([] if pixel_size_um is None else pixel_size_um).astype(float)
    size = np.broadcast_to(steps[-2:], 2) if len(steps) else None
    # tifffile lays planes that are one pixel wide side by side, so it needs all at once
    narrow = len(shape) > 2 and shape[-1] == 1
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": axes}}
    if not empty:
        options |= {"compression": "zlib", "compressionargs": {"level": level}}
    # ImageJ's layout carries the pixel size to Fiji, but drops axes of length 1; tifffile's
    # own keeps every shape, and centimetres are read by all.
    imagej = (
        not empty
        and n_bytes < _CLASSIC_BYTES
        and not narrow
        and 1 not in shape[:-2]
        and axes in ("YX", "ZYX", "TYX", "TZYX", "CYX", "ZCYX", "TCYX", "TZCYX")
    )
    note = json.dumps(dict(metadata), default=str) if metadata else None
    if len(steps) == 3 and "Z" in axes and np.isfinite(steps[0]):
        options["metadata"] |= {"unit": "um", "spacing": float(steps[0])}
    if imagej:
        if size is not None:
            options["metadata"]["unit"] = "um"
            options |= {"resolution": (1 / size[1], 1 / size[0])}
        if note:
            options["metadata"]["Info"] = note
    else:
        if size is not None:
            options |= {"resolution": (1e4 / size[1], 1e4 / size[0])}
            options["resolutionunit"] = "CENTIMETER"
        if note:
            options["metadata"][_KEY] = json.loads(note)
    if imagej and dtype == np.int32:
        options |= _imagej_tags(shape, options.pop("metadata"))
    data: Any = None
    if empty:
        data = np.zeros(shape, dtype)
    elif narrow:
        data = np.asarray(array).astype(dtype)
    elif math.prod(shape[-2:]) > MAX_PLANE_PIXELS:
        options["tile"] = (_TILE, _TILE)
        data = _tiles(array, shape, dtype, _TILE)
    else:
        data = _planes(array, shape, dtype)

    bigtiff = n_bytes >= _CLASSIC_BYTES
    by_tifffile = imagej and dtype != np.int32
    writer = {"imagej": by_tifffile, "shaped": not imagej, "bigtiff": bigtiff}
    _save(path, data, writer, {"shape": shape, "dtype": dtype, **options})


def _imagej_tags(shape: tuple[int, ...], metadata: dict[str, Any]) -> dict[str, Any]:
    """What ImageJ reads of its layout; tifffile does not write it with int32, Fiji reads it."""
    import tifffile

    told = {name: value for name, value in metadata.items() if name != "Info"}
    note = {"Info": metadata["Info"]} if "Info" in metadata else {}
    return {
        "metadata": None,
        "resolutionunit": "NONE",
        "description": tifffile.imagej_description(shape, **told),
        "extratags": tifffile.imagej_metadata_tag(note, "<") if note else (),
    }


def _check_axes(axes: str | None, shape: tuple[int, ...]) -> str:
    if len(shape) < 2:
        raise OutputError(f"Only images can be written; this has {len(shape)} axes.")
    if axes is None:
        return STACK_NAMES[: len(shape) - 2][::-1] + "YX"
    if len(axes) != len(shape):
        raise AxesError(f"axes {axes!r} does not name the {len(shape)} axes of {shape}.")
    return axes.upper()


#: A plane larger than this (px) gets smaller copies, down to about this size.
_PYRAMID = 2048


def pyramid_steps(shape: tuple[int, ...]) -> list[int]:
    """Steps of the copies of planes, 1 for the whole: each half as large as the one before."""
    steps = [1]
    while max(shape[-2:]) > _PYRAMID * steps[-1]:
        steps.append(2 * steps[-1])
    return steps


def write_ome_labels(
    path: str | Path,
    labels: Any,
    axes: str,
    scale_um: Mapping[str, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
    name: str = "",
) -> None:
    """Write integer labels as OME-TIFF in tiles, large planes with smaller copies.

    Parameters
    ----------
    path : str or Path
        File to make or replace.
    labels : array
        As of `write_labels`; lazy ones are read tile by tile.
    axes : str
        One letter per axis: Z, T, Y, X.
    scale_um : mapping, optional
        Spacing (µm) by axis.
    metadata : mapping, optional
        Provenance, kept as JSON in the file's annotation.
    name : str
        Of the image in it.

    Raises
    ------
    OutputError
        It cannot be written there. Nothing is left behind then.
    """
    import tifffile

    dtype = label_type(labels)
    shape = tuple(int(n) for n in labels.shape)
    if 0 in shape:
        raise OutputError("OME-TIFF holds no image without pixels.")
    description: dict[str, Any] = {"axes": axes, **({"Name": name} if name else {})}
    for axis, step in (scale_um or {}).items():
        if axis in "XYZ" and axis in axes:
            description[f"PhysicalSize{axis}"] = step
            description[f"PhysicalSize{axis}Unit"] = "µm"
    if metadata:
        description["MapAnnotation"] = {_KEY: json.dumps(dict(metadata), default=str)}
    side = max(16, min(_TILE, -(-max(shape[-2:]) // 16) * 16))
    options: dict[str, Any] = {
        "photometric": "minisblack",
        "compression": "zlib",
        "compressionargs": {"level": 6},
        "tile": (side, side),
        "dtype": dtype,
    }
    steps = pyramid_steps(shape)
    bigtiff = math.prod(shape) * dtype.itemsize * 4 / 3 >= _CLASSIC_BYTES

    def save(file: BinaryIO) -> None:
        handle = tifffile.FileHandle(file, name=Path(path).name, size=0)
        with tifffile.TiffWriter(handle, ome=True, bigtiff=bigtiff) as tif:
            for step in steps:
                small = (*shape[:-2], *(-(-n // step) for n in shape[-2:]))
                first = {"subifds": len(steps) - 1, "metadata": description}
                more = first if step == 1 else {"subfiletype": 1}
                tiles = _tiles(labels, small, dtype, side, step)
                tif.write(tiles, shape=small, **options, **more)

    write_atomically(path, save)


def _blocks(shape: tuple[int, ...], side: int) -> Iterator[tuple[int | slice, ...]]:
    """Index of each plane, or of each square of a plane larger than `side`."""
    height, width = shape[-2:]
    for index in np.ndindex(shape[:-2]):
        for y in range(0, height, side):
            for x in range(0, width, side):
                rows, columns = slice(y, min(y + side, height)), slice(x, min(x + side, width))
                yield (*index, rows, columns)


def _extent(labels: Any) -> tuple[int, int]:
    """Smallest and largest label, 0 and 0 without any."""
    least, most = 0, 0
    shape = tuple(int(n) for n in labels.shape)
    if 0 in shape or len(shape) < 2:
        return 0, 0
    for block in _blocks(shape, 4096):
        values = _load(labels, block)
        least, most = min(least, int(values.min())), max(most, int(values.max()))
    return least, most


def _planes(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    for index in np.ndindex(shape[:-2]):
        plane = _load(array, (*index, slice(None), slice(None)))
        yield np.ascontiguousarray(plane, dtype)


def _tiles(
    array: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    side: int,
    step: int = 1,
) -> Iterator[NDArray[Any]]:
    """Tiles of every plane; of each `step`-th row and column, which `shape` counts."""
    for block in _blocks(shape, side):
        tile = np.zeros((side, side), dtype)
        if step > 1:
            block = tuple(
                slice(one.start * step, one.stop * step, step)
                if isinstance(one, slice)
                else one
                for one in block
            )
        values = _load(array, block)
        tile[: values.shape[0], : values.shape[1]] = values
        yield tile


def _load(array: Any, index: tuple[int | slice, ...]) -> NDArray[Any]:
    try:
        return np.asarray(array[index])
    except MemoryError:
        raise
    except Exception as error:  # whatever a lazy array raises
        raise ImageError(f"What should be written could not be loaded: {error}") from error


# --------------------------------------------------------------------------------------------
# Attention maps out: OME-TIFF files or one OME-Zarr, on their own grids, placed.

#: Side of a chunk (px of the map).
CHUNK = 1024


class Map(Protocol):
    """What is written of an attention map."""

    @property
    def name(self) -> str:
        """Of the map in the network."""

    @property
    def values(self) -> Any:
        """Float array (h, w)."""

    @property
    def scale(self) -> tuple[float, float]:
        """Image px per map px along Y and X."""

    @property
    def translate(self) -> tuple[float, float]:
        """Y, x of the centre of map pixel (0, 0) in the image; its first pixel's is 0."""


def write_map(
    path: str | Path,
    one: Map,
    pixel_size_um: float | tuple[float, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write one map as a float32 OME-TIFF.

    Its pixel size is that of the map's own pixels, and its plane's position that of its first
    pixel: in µm where the image's pixel size is known, otherwise in px of the image.

    Parameters
    ----------
    path : path
        File to make or replace; its folder is made if need be.
    one : Map
    pixel_size_um : float or (float, float), optional
        Of the image, or along Y and X.
    metadata : mapping, optional
        Provenance, kept as JSON in the file's annotation.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left behind then.
    """
    unit = "µm" if pixel_size_um else "pixel"
    sides = np.broadcast_to(pixel_size_um or 1.0, 2).tolist()
    values = np.ascontiguousarray(one.values, np.float32)
    description: dict[str, Any] = {
        "axes": "YX",
        "Name": one.name,
        "Plane": {
            "PositionY": [one.translate[0] * sides[0]],
            "PositionX": [one.translate[1] * sides[1]],
            "PositionYUnit": [unit],
            "PositionXUnit": [unit],
        },
    }
    for axis, step, side in zip("YX", one.scale, sides, strict=True):
        description[f"PhysicalSize{axis}"] = step * side
        description[f"PhysicalSize{axis}Unit"] = unit
    if metadata:
        description["MapAnnotation"] = {"napari-sa2net": json.dumps(metadata, default=str)}

    options = {
        "photometric": "minisblack",
        "compression": "zlib",
        "compressionargs": {"level": 1},
        "metadata": description,
    }
    return _save(path, values, {"ome": True}, options)


def write_maps_zarr(
    folder: str | Path,
    maps: Mapping[str, Map],
    pixel_size_um: float | tuple[float, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write all maps as one OME-Zarr (0.5): a collection with an image for each.

    Parameters
    ----------
    folder : path
        Made, or replaced as a whole.
    maps : mapping of name to Map
    pixel_size_um : float or (float, float), optional
        Of the image, or along Y and X; without it lengths have no unit and are px of the image.
    metadata : mapping, optional
        Provenance, kept among the attributes.

    Raises
    ------
    OutputError
        If it cannot be written; what was there is then as it was.
    """
    import zarr

    def write(new: Path) -> None:
        root = zarr.open_group(str(new), mode="w", zarr_format=3)
        root.attrs.update(
            {
                "ome": {"version": "0.5", "bioformats2raw.layout": 3},
                "napari-sa2net": json.loads(json.dumps(dict(metadata or {}), default=str)),
            }
        )
        listing = root.create_group("OME")
        listing.attrs["ome"] = {"version": "0.5", "series": list(maps)}
        for name, one in maps.items():
            _write_image(root.create_group(name), one, pixel_size_um)

    return write_folder(folder, write)


def write_folder(folder: str | Path, write: Callable[[Path], None]) -> Path:
    """Make a folder, or replace it as a whole; `write` makes it elsewhere first.

    Raises
    ------
    OutputError
        If it cannot be written; what was there is then as it was.
    """
    target = Path(folder).expanduser()
    # named before it is there, so that an interrupt at any moment leaves none behind
    temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        write(temporary / "new")
        if target.exists():
            # Two steps, since a folder cannot replace another; the old one goes last.
            os.replace(target, temporary / "old")
        os.replace(temporary / "new", target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write_image(
    group: Any, one: Map, pixel_size_um: float | tuple[float, float] | None
) -> None:
    values = np.asarray(one.values, np.float32)
    array = group.create_array(
        "0",
        shape=values.shape,
        chunks=tuple(max(1, min(CHUNK, n)) for n in values.shape),
        dtype="float32",
        dimension_names=("y", "x"),
    )
    array[...] = values
    sides = np.broadcast_to(pixel_size_um or 1.0, 2)
    unit = {"unit": "micrometer"} if pixel_size_um else {}
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": one.name,
                "axes": [{"name": name, "type": "space", **unit} for name in "yx"],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": (sides * one.scale).tolist()},
                            {
                                "type": "translation",
                                "translation": (sides * one.translate).tolist(),
                            },
                        ],
                    }
                ],
            }
        ],
    }


def render(figure: Figure, kind: str) -> bytes:
    """A figure as "png" or "svg"; the same figure gives the same bytes."""
    from matplotlib import rc_context

    content = BytesIO()
    # Text stays text, so that a journal's font can be put in; no time, no random names.
    metadata = {"Date": None} if kind == "svg" else {}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sa2net"}):
        figure.savefig(content, format=kind, dpi=DPI, metadata=metadata)
    return content.getvalue()
