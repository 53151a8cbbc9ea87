"""TIFF in: axes, pixel size and channel names as the writing program recorded them."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from napari_sa2net.data.axes import STACK_NAMES, resolve_axes
from napari_sa2net.data.image_file import (
    ImageFile,
    counts_dots,
    image_name,
    micrometres,
    pixel_size,
    plausible_scale,
    unknown_unit,
)
from napari_sa2net.errors import ImageFileError

# Of a damaged file our error says what there is to say; without a handler Python would print
# tifffile's line before it.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

#: Above this size in bytes an image stays on disk and is read window by window.
LAZY_BYTES = 256 * 2**20

#: Spacing in µm by axis, channel names, and notes.
Metadata = tuple[dict[str, float], list[str], tuple[str, ...]]


def read_tiff(path: Path) -> ImageFile:
    """Open a TIFF file's image at full resolution: of several, the largest."""
    tif = tifffile.TiffFile(path)
    try:
        if not tif.series:
            raise ImageFileError(f"{path} holds no image.")
        number = _largest(tif.series)
        series: Any = tif.series[number]
        lazy = series.size * series.dtype.itemsize > LAZY_BYTES
        if lazy and series.dataoffset is not None and not series.is_pyramidal:
            array: Any = tifffile.memmap(path, series=number, mode="r")
        elif lazy:
            from napari_sa2net.data.lazy_tiff import LazyTiff

            array = LazyTiff.of(tif, path, tif.series.index(series))
        else:
            array = series.asarray()
        axes = _clean_axes(series.axes, series.kind, tuple(array.shape))
        scale, names, notes = _metadata(tif, number)
        notes = (*notes, *_others(tif.series, number))
    except BaseException:
        tif.close()
        raise
    if not lazy or isinstance(array, np.ndarray):
        tif.close()
    return ImageFile(
        array, axes, pixel_size(scale), image_name(path), tuple(names), path, scale, notes
    )


def _largest(series: Sequence[Any]) -> int:
    """Which series has most pixels, the first of equals: others are thumbnails and labels."""

    def pixels(one: Any) -> int:
        sizes = zip(one.axes, one.shape, strict=True)
        return math.prod(size for axis, size in sizes if axis != "S")

    return max(range(len(series)), key=lambda i: (pixels(series[i]), -i))


def _others(series: Sequence[Any], taken: int) -> tuple[str, ...]:
    """What to say of the series that are not read."""
    n = len(series)
    if n == 1:
        return ()
    if taken == 0:
        return (f"{n - 1} further image series in this file not read",)
    size = " × ".join(str(length) for length in series[taken].shape)
    return (f"picture {taken + 1} of {n} in this file read, the largest ({size})",)


def _clean_axes(axes: str, kind: str, shape: tuple[int, ...]) -> str:
    """tifffile's axes as `plan_image` takes them; unknown ones become a stack."""
    if kind == "shaped" and set(axes) & set("QI") and not set(axes) & set("SC"):
        return resolve_axes(shape).names
    if "C" not in axes and axes.endswith("S"):
        axes = axes[:-1] + "C"
    known = set(axes) - set("QI")
    free = [letter for letter in STACK_NAMES if letter not in known]
    clean: list[str] = []
    for letter in reversed(axes):  # the axis next to the plane gets the first free name
        unknown = letter in "QI" or letter in clean
        clean.append(free.pop(0) if unknown else letter)
    return "".join(reversed(clean))


def _metadata(tif: Any, number: int) -> Metadata:
    """What the file tells of one of its series."""
    series = tif.series[number]
    if tif.is_ome and tif.ome_metadata:
        return _ome(tif.ome_metadata, series, number)
    if tif.is_imagej and tif.imagej_metadata is not None:
        scale, notes = _imagej(tif.imagej_metadata, series)
        return scale, [], notes
    scale, notes = _resolution_tags(series)
    if tif.is_lsm and tif.lsm_metadata:
        sizes = {axis: tif.lsm_metadata.get(f"VoxelSize{axis}", 0) * 1e6 for axis in "ZYX"}
        scale, notes = plausible_scale(_told(sizes))
    elif tif.is_svs:
        match = re.search(r"\bMPP\s*=\s*([\d.,]+)", series.keyframe.description or "")
        size = _number(match[1]) if match else None
        if size:
            scale, notes = plausible_scale(dict.fromkeys("YX", size))
    return scale, [], notes


def _told(sizes: dict[str, float]) -> dict[str, float]:
    """Sizes but for zeros, by which programs say that they do not know."""
    return {axis: size for axis, size in sizes.items() if size}


def _ome(xml: str, series: Any, number: int) -> Metadata:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}, [], ()
    every = [e for e in root.iter() if e.tag.endswith("}Pixels")]
    pixels = next(iter(_of_series(every, series, number)), None)
    if pixels is None:
        return {}, [], ()
    sizes: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    dots = False
    for axis in "ZYX":
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        size, factor = _number(pixels.get(f"PhysicalSize{axis}")), micrometres(unit)
        if size and factor:
            sizes[axis] = size * factor
            dots = dots or counts_dots(unit)
        elif size:
            notes = unknown_unit(unit)
    scale, doubts = plausible_scale(sizes, dots)
    names = [e.get("Name") for e in pixels if e.tag.endswith("}Channel")]
    return scale, [name for name in names if name] if all(names) else [], (*notes, *doubts)


def _of_series(every: list[Any], series: Any, number: int) -> list[Any]:
    """Descriptions of a series among those of all images: its own first."""
    if len(every) < 2:
        return every
    size = {axis: str(length) for axis, length in zip(series.axes, series.shape, strict=True)}
    fits = [e for e in every if all(e.get(f"Size{a}") == size.get(a) for a in "YX")]
    own = every[number : number + 1]
    return own if own and own[0] in fits else fits


def _imagej(metadata: dict[str, Any], series: Any) -> tuple[dict[str, float], tuple[str, ...]]:
    unit = str(metadata.get("unit", ""))
    factor = micrometres(unit)
    if not factor:
        return {}, unknown_unit(unit)
    y_factor = micrometres(str(metadata.get("yunit", ""))) or factor
    per_pixel = _per_pixel(series)
    scale = {axis: per_pixel[axis] * {"Y": y_factor, "X": factor}[axis] for axis in per_pixel}
    spacing = _number(metadata.get("spacing"))
    if spacing and scale:
        scale["Z"] = abs(spacing) * factor
    return plausible_scale(scale, counts_dots(unit))


def _resolution_tags(series: Any) -> tuple[dict[str, float], tuple[str, ...]]:
    """From the baseline tags; the inch of most programs is a screen's 72 dpi, not a size."""
    unit = series.keyframe.tags.get("ResolutionUnit")
    factor = {2: 25400.0, 3: 1e4}.get(int(unit.value) if unit else 0)
    if factor is None:
        return {}, ()
    scale = {axis: size * factor for axis, size in _per_pixel(series).items()}
    # Said of nearly every TIFF file, so there is nothing to note.
    return plausible_scale(scale, dots=True)[0], ()


def _per_pixel(series: Any) -> dict[str, float]:
    """Resolution units per pixel, from rationals of pixels per unit."""
    sizes = {}
    for axis in "YX":
        tag = series.keyframe.tags.get(f"{axis}Resolution")
        if tag is None or not isinstance(tag.value, Sequence) or 0 in tag.value:
            return {}
        pixels, units = tag.value
        sizes[axis] = units / pixels
    return sizes


def _number(value: Any) -> float | None:
    try:
        return float(str(value).replace(",", "."))
    except (TypeError, ValueError):
        return None
