"""Zarr in: OME-Zarr 0.1 to 0.5 by their metadata, and plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import zarr

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


def read_zarr(path: Path) -> ImageFile:
    """Open a Zarr folder lazily, an OME-Zarr at full resolution.

    Raises
    ------
    ImageFileError
        A group without an image, or a whole plate.
    """
    node: Any = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        axes = _dimension_names(node) or resolve_axes(node.shape).names
        return ImageFile(node, axes, None, image_name(path), path=path)
    attributes = _ome(node)
    if "multiscales" not in attributes and "0" in node and _is_image(node["0"]):
        return _read_largest(path, node)  # bioformats2raw keeps all images of a file
    if "multiscales" in attributes:
        return _read_multiscale(path, node, attributes)
    if "plate" in attributes or "well" in attributes:
        raise ImageFileError(
            f"{path} is a whole plate or well; name one image in it, such as {path}/A/1/0."
        )
    arrays = [name for name, member in node.members() if isinstance(member, zarr.Array)]
    if len(arrays) == 1:
        array = node[arrays[0]]
        axes = resolve_axes(array.shape).names
        return ImageFile(array, axes, None, image_name(path), path=path)
    what = f"{len(arrays)} arrays: {', '.join(sorted(arrays)[:5])}" if arrays else "no array"
    raise ImageFileError(
        f"{path} holds no OME-Zarr image but {what}; name the array, such as {path}/0."
    )


def _ome(node: Any) -> Mapping[str, Any]:
    """OME metadata: under "ome" since version 0.5, at the top before."""
    attributes = dict(node.attrs)
    ome = attributes.get("ome")
    return ome if isinstance(ome, Mapping) else attributes


def _is_image(node: Any) -> bool:
    return isinstance(node, zarr.Group) and "multiscales" in _ome(node)


def _read_largest(path: Path, node: Any) -> ImageFile:
    """Of the images "0", "1", … in a group the largest: others are thumbnails and labels."""
    groups: dict[str, Any] = {}
    while str(len(groups)) in node and _is_image(node[str(len(groups))]):
        groups[str(len(groups))] = node[str(len(groups))]
    images = {
        name: _read_multiscale(path, group, _ome(group)) for name, group in groups.items()
    }
    # max keeps the first of equals.
    taken = max(images, key=lambda name: math.prod(images[name].array.shape))
    image = images[taken]
    if len(images) == 1:
        return image
    size = " × ".join(str(length) for length in image.array.shape)
    note = f"picture {taken} of 0 to {len(images) - 1} in this file read, the largest ({size})"
    return replace(image, notes=(*image.notes, note))


def _read_multiscale(path: Path, node: Any, attributes: Mapping[str, Any]) -> ImageFile:
    multiscale = attributes["multiscales"][0]
    dataset = multiscale["datasets"][0]
    array = node[dataset["path"]]
    axes, units = _axes(multiscale.get("axes"), array.ndim)
    sizes: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    steps = _scale(dataset, array.ndim), _scale(multiscale, array.ndim)
    for i, name in enumerate(axes):
        factor, step = micrometres(units[i]), steps[0][i] * steps[1][i]
        if name in "ZYX" and factor and step:
            sizes[name] = step * factor
        elif name in "YX":
            notes = unknown_unit(units[i])
    scale, doubts = plausible_scale(sizes, any(counts_dots(unit) for unit in units))
    channels = attributes.get("omero", {}).get("channels", [])
    names = tuple(str(channel.get("label", i)) for i, channel in enumerate(channels))
    return ImageFile(
        array, axes, pixel_size(scale), image_name(path), names, path, scale, (*notes, *doubts)
    )


def _axes(described: Any, ndim: int) -> tuple[str, list[str | None]]:
    """Axes letters and units. Version 0.3 lists names only, earlier ones mean TCZYX."""
    if not described:
        return "TCZYX"[-ndim:], [None] * ndim
    letters: list[str] = []
    units: list[str | None] = []
    for axis in described:
        entry = axis if isinstance(axis, Mapping) else {"name": axis}
        name = str(entry.get("name", "")).upper()
        kind = {"channel": "C", "time": "T"}.get(str(entry.get("type")))
        letter = kind or name[:1]
        if letter in letters or not letter.isalpha():
            letter = next(free for free in STACK_NAMES if free not in letters)
        letters.append(letter)
        units.append(entry.get("unit"))
    if len(letters) != ndim:
        raise ImageFileError(
            f"The metadata describe {len(letters)} axes, but the array has {ndim}."
        )
    return "".join(letters), units


def _scale(entry: Mapping[str, Any], ndim: int) -> list[float]:
    for transform in entry.get("coordinateTransformations") or []:
        if transform.get("type") == "scale" and len(transform.get("scale", [])) == ndim:
            return [float(step) for step in transform["scale"]]
    return [1.0] * ndim


def _dimension_names(array: Any) -> str | None:
    """Axes of a plain array of version 3 that names its dimensions by single letters."""
    names = getattr(array.metadata, "dimension_names", None)
    if not names or not all(isinstance(name, str) and len(name) == 1 for name in names):
        return None
    axes = "".join(names).upper()
    return axes if {"Y", "X"} <= set(axes) and len(set(axes)) == len(axes) else None
