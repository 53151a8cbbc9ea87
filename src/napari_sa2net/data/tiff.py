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
from napari_sa2net.data.image_file import ImageFile, image_name, micrometres, pixel_size
from napari_sa2net.errors import ImageFileError

# Of a damaged file our error says what there is to say; without a handler Python would print
# tifffile's line before it.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

#: Above this size in bytes an image stays on disk and is read window by window.
LAZY_BYTES = 256 * 2**20
#: Resolutions coarser than this come from screens and scanners, not from microscopes.
MAX_TAG_UM = 50.0


def read_tiff(path: Path) -> ImageFile:
    """Open the first image series of a TIFF file at full resolution."""
    tif = tifffile.TiffFile(path)
    try:
        if not tif.series:
            raise ImageFileError(f"{path} holds no image.")
        series: Any = tif.series[0]
        lazy = series.size * series.dtype.itemsize > LAZY_BYTES
        if lazy and series.dataoffset is not None and not series.is_pyramidal:
            array: Any = tifffile.memmap(path, series=0, mode="r")
        elif lazy:
            from napari_sa2net.data.lazy_tiff import LazyTiff

            array = LazyTiff.of(series, path, tif.series.index(series))
        else:
            array = series.asarray()
        axes = _clean_axes(series.axes, series.kind, tuple(array.shape))
        scale, names = _metadata(tif, series)
        notes = []
        if len(tif.series) > 1:
            notes.append(f"{len(tif.series) - 1} further image series in this file not read")
    except BaseException:
        tif.close()
        raise
    if not lazy or isinstance(array, np.ndarray):
        tif.close()
    scale = {axis: size for axis, size in scale.items() if math.isfinite(size) and size > 0}
    return ImageFile(
        array,
        axes,
        pixel_size(scale),
        image_name(path),
        tuple(names),
        path,
        scale,
        tuple(notes),
    )


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


def _metadata(tif: Any, series: Any) -> tuple[dict[str, float], list[str]]:
    """Spacing in µm by axis, and channel names."""
    if tif.is_ome and tif.ome_metadata:
        return _ome(tif.ome_metadata)
    if tif.is_imagej and tif.imagej_metadata is not None:
        return _imagej(tif.imagej_metadata, series), []
    if tif.is_lsm and tif.lsm_metadata:
        sizes = {axis: tif.lsm_metadata.get(f"VoxelSize{axis}", 0) * 1e6 for axis in "ZYX"}
        return sizes, []
    if tif.is_svs:
        match = re.search(r"\bMPP\s*=\s*([\d.]+)", tif.pages[0].description or "")
        if match:
            return dict.fromkeys("YX", float(match[1])), []
    return _resolution_tags(series), []


def _ome(xml: str) -> tuple[dict[str, float], list[str]]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}, []
    pixels = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
    if pixels is None:
        return {}, []
    scale = {}
    for axis in "ZYX":
        unit = micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = _number(pixels.get(f"PhysicalSize{axis}"))
        if unit and size:
            scale[axis] = size * unit
    names = [e.get("Name") for e in pixels if e.tag.endswith("}Channel")]
    return scale, [name for name in names if name] if all(names) else []


def _imagej(metadata: dict[str, Any], series: Any) -> dict[str, float]:
    unit = micrometres(str(metadata.get("unit", "")))
    if not unit:
        return {}
    y_unit = micrometres(str(metadata.get("yunit", ""))) or unit
    per_pixel = _per_pixel(series)
    scale = {axis: per_pixel[axis] * {"Y": y_unit, "X": unit}[axis] for axis in per_pixel}
    spacing = _number(metadata.get("spacing"))
    if spacing and scale:
        scale["Z"] = abs(spacing) * unit
    return scale


def _resolution_tags(series: Any) -> dict[str, float]:
    """From the baseline tags; the inch of most programs is a screen's 72 dpi, not a size."""
    unit = series.keyframe.tags.get("ResolutionUnit")
    factor = {2: 25400.0, 3: 1e4}.get(int(unit.value) if unit else 0)
    if factor is None:
        return {}
    scale = {axis: size * factor for axis, size in _per_pixel(series).items()}
    return scale if scale and max(scale.values()) <= MAX_TAG_UM else {}


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
        return float(value)
    except (TypeError, ValueError):
        return None
