"""Cells out into files of other programs: the formats, and one way to write them."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.coco import write_coco
from napari_sa2net.data.io import is_zarr, micrometres, plausible_scale
from napari_sa2net.data.label_files import is_label_image
from napari_sa2net.data.outlines import (
    Cells,
    Reordered,
    column_head,
    write_geojson,
    write_rois,
)
from napari_sa2net.data.write import label_type, pyramid_steps, write_folder, write_ome_labels
from napari_sa2net.errors import FormatError, OutputError, SettingsError
from napari_sa2net.files import readable_all, real, write_atomically
from napari_sa2net.metrics import distinct
from napari_sa2net.provenance import versions

# --------------------------------------------------------------------------------------------
# Which there are.


@dataclass(frozen=True)
class Format:
    """One format of files with cells.

    Attributes
    ----------
    key : str
        As it is called on the shell.
    title : str
        As people choose it.
    ending : str
        Of its files, after the image's name.
    write : callable(path, cells, overwrite)
        Writes all or nothing.
    also : tuple of str
        Other endings that its files may have.
    measures : bool
        It holds the measurements of each cell.
    """

    key: str
    title: str
    ending: str
    write: Callable[[Path, Cells, bool], None]
    also: tuple[str, ...] = ()
    measures: bool = False

    def named(self, path: str | os.PathLike[str]) -> Path:
        """A path with this format's ending, which is put there if need be."""
        path = Path(path).expanduser()
        if path.name.lower().endswith((self.ending, *self.also)):
            return path
        last = self.ending.rpartition(".")[2]
        return path.with_name(path.name.removesuffix(f".{last}") + self.ending)

    def stem(self, path: Path) -> str:
        """Name of a file without this format's ending."""
        for ending in (self.ending, *self.also):
            if path.name.lower().endswith(ending):
                return path.name[: -len(ending)] or path.name
        return path.stem


def _file(write: Callable[[BinaryIO, Cells], None]) -> Callable[[Path, Cells, bool], None]:
    """Of what writes into an open file, what writes a whole one."""

    def whole(path: Path, cells: Cells, _: bool = False) -> None:
        write_atomically(path, lambda file: write(file, cells))

    return whole


def _write_ome_tiff(path: Path, cells: Cells, _: bool = False) -> None:
    odd = set(cells.stack_axes) - set("TZ")
    if odd:
        raise FormatError(
            f"OME-TIFF can say planes (Z) and time points (T), and these cells have the axis "
            f"{min(odd)}. Take OME-Zarr."
        )
    write_ome_labels(path, cells.labels, cells.axes, cells.scale_um, cells.made, cells.name)


# --- OME-Zarr --------------------------------------------------------------------------------

#: Name of the labels beside the image.
LABELS = "cells"
_CHUNK = 1024
#: Of more cells the measurements are not among the attributes, which are read as a whole.
_MOST_PROPERTIES = 20_000


def _zarr_axes(axes: str) -> str:
    """Axes in the order of OME-Zarr: time, channel or another one, space."""
    others = [axis for axis in axes if axis not in "TZYX"]
    if len(others) > 1:
        raise FormatError(
            f"OME-Zarr has one axis beside T, Z, Y and X, and these cells have {len(others)}: "
            f"{', '.join(others)}. Save them one by one."
        )
    return "".join([*(a for a in "T" if a in axes), *others, *(a for a in "ZYX" if a in axes)])


def _write_ome_zarr(version: str) -> Callable[[Path, Cells, bool], None]:
    def write(path: Path, cells: Cells, whole: bool = False) -> None:
        _zarr_axes(cells.axes)
        if not whole and is_zarr(path) and not is_label_image(path):
            _add_labels(path, cells)
        else:
            write_folder(path, lambda new: _new_zarr(new, cells, version))

    return write


def _new_zarr(folder: Path, cells: Cells, version: str, filled: bool = True) -> None:
    root = _group(folder, version)
    if cells.image is None:
        # No image to lie beside: the labels are the image.
        _write_labels_group(root, cells, version)
        return
    image = _zarr_source(cells, "")
    axes = _zarr_axes(cells.image_axes)
    more = {"mean": True, "filled": filled}
    _pyramid(root, image, axes, cells.scale_um, version, cells.name, image.dtype, **more)
    labels = root.create_group("labels")
    _set_ome(labels, version, {"labels": [LABELS]})
    _write_labels_group(labels.create_group(LABELS), cells, version, "../../", filled)


def _zarr_source(cells: Cells, group: str) -> Reordered:
    """What a group of an OME-Zarr holds: the image, or its labels."""
    if group:
        return Reordered(cells.labels, cells.axes, _zarr_axes(cells.axes))
    return Reordered(cells.image, cells.image_axes, _zarr_axes(cells.image_axes))


#: Some chunks of one level: of the group, the level, from this chunk to that.
Share = tuple[str, int, int, int]
#: Chunks that one of several processes writes at once.
_SHARE = 16


def begin_zarr(folder: Path, cells: Cells, key: str) -> list[list[Share]]:
    """Make an OME-Zarr of cells with their image, without a pixel in it.

    Parameters
    ----------
    folder : Path
        Made anew.
    cells : Cells
    key : str
        Of `FORMATS`, one of `SHARED`.

    Returns
    -------
    Shares by level: `fill_zarr` fills those of a level in any order, when the one before is
    filled. No two write the same chunk.

    Raises
    ------
    FormatError, OutputError
    """
    _new_zarr(folder, cells, SHARED[key], filled=False)
    shares: list[list[Share]] = []
    for group in ("", f"labels/{LABELS}"):
        shape = _zarr_source(cells, group).shape
        for level, step in enumerate(pyramid_steps(shape)):
            sides = [-(-n // step) for n in shape[-2:]]
            n = len(list(_chunks((*shape[:-2], *sides))))
            shares += [[]] * (level == len(shares))
            shares[level] = shares[level] + [
                (group, level, first, min(first + _SHARE, n)) for first in range(0, n, _SHARE)
            ]
    return shares


def fill_zarr(folder: Path, cells: Cells, share: Share) -> None:
    """Write some chunks of what `begin_zarr` made."""
    import zarr

    name, level, first, last = share
    group: Any = zarr.open_group(str(folder / name), mode="r+")
    _fill(group, _zarr_source(cells, name), level, not name, slice(first, last))


def _add_labels(path: Path, cells: Cells) -> None:
    """Put labels beside an image that is there; other labels of it stay."""
    import zarr

    from napari_sa2net.data.io import read_image

    image = read_image(path)
    size = dict(zip(image.axes, image.array.shape, strict=True))
    ours = dict(zip(cells.axes, cells.shape, strict=True))
    if any(size.get(axis, 1) != n for axis, n in ours.items()):
        raise FormatError(
            f"{path} is there, and its image is {_by(size)}, the cells {_by(ours)}. Choose "
            "another name."
        )
    root = zarr.open_group(str(path), mode="r+")
    attributes: dict[str, Any] = dict(root.attrs)
    version = "0.5" if "ome" in attributes else "0.4"
    if "multiscales" not in attributes.get("ome", attributes):
        raise FormatError(f"{path} is there, and is no OME-Zarr image. Choose another name.")
    labels = root.require_group("labels")
    known: dict[str, Any] = dict(labels.attrs)
    known = known.get("ome", known) if version == "0.5" else known
    write_folder(
        path / "labels" / LABELS,
        lambda new: _write_labels_group(_group(new, version), cells, version, "../../"),
    )
    names = [*dict.fromkeys([*known.get("labels", ()), LABELS])]
    _set_ome(labels, version, {"labels": names})


def _by(sizes: Mapping[str, int]) -> str:
    return " × ".join(f"{axis} {n}" for axis, n in sizes.items())


def _group(folder: Path, version: str) -> Any:
    import zarr

    return zarr.open_group(str(folder), mode="w", zarr_format=3 if version == "0.5" else 2)


def _set_ome(group: Any, version: str, content: dict[str, Any]) -> None:
    if version == "0.5":
        group.attrs["ome"] = {**dict(group.attrs).get("ome", {}), "version": version, **content}
    else:
        group.attrs.update(content)


def _write_labels_group(
    group: Any, cells: Cells, version: str, source: str = "", filled: bool = True
) -> None:
    axes, labels = _zarr_axes(cells.axes), _zarr_source(cells, LABELS)
    dtype = np.dtype(label_type(cells.labels))
    _pyramid(group, labels, axes, cells.scale_um, version, LABELS, dtype, filled=filled)
    known: dict[str, Any] = {"version": version}
    rows = cells.rows()
    if rows and len(rows) <= _MOST_PROPERTIES:
        known["properties"] = [
            {"label-value": label, **cells.measured(row)} for label, row in rows.items()
        ]
    if source:
        known["source"] = {"image": source}
    _set_ome(group, version, {"image-label": known})
    if cells.made:
        group.attrs["napari-sa2net"] = json.loads(json.dumps(dict(cells.made), default=str))


def _pyramid(
    group: Any,
    array: Any,
    axes: str,
    scale_um: Mapping[str, float],
    version: str,
    name: str,
    dtype: np.dtype[Any],
    mean: bool = False,
    filled: bool = True,
) -> None:
    """Write an array, and smaller copies of its planes, chunk by chunk; or leave them empty."""
    steps = pyramid_steps(array.shape)
    datasets = []
    for number, step in enumerate(steps):
        stack = array.shape[:-2]
        sides = [-(-n // step) for n in array.shape[-2:]]
        shape = (*stack, *sides)
        if 0 in shape:
            raise OutputError("OME-Zarr holds no image without pixels.")
        more: dict[str, Any] = {"dimension_names": [*axes.lower()]}
        if version == "0.4":
            more = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        chunks = (*(1 for _ in stack), *(min(_CHUNK, n) for n in sides))
        group.create_array(str(number), shape=shape, chunks=chunks, dtype=dtype, **more)
        if filled:
            _fill(group, array, number, mean)
        scale = [scale_um.get(axis, 1.0) for axis in axes[:-2]]
        scale += [scale_um.get(axis, 1.0) * step for axis in axes[-2:]]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if mean and step > 1:
            # A pixel of the mean of several lies in their middle.
            shift = [0.0] * len(stack)
            shift += [(step - 1) / 2 * scale_um.get(axis, 1.0) for axis in axes[-2:]]
            transforms.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(number), "coordinateTransformations": transforms})
    one = {"name": name, "axes": [_axis(a, scale_um) for a in axes], "datasets": datasets}
    if version == "0.4":
        one["version"] = version
    _set_ome(group, version, {"multiscales": [one]})


def _fill(group: Any, array: Any, level: int, mean: bool, which: slice = slice(None)) -> None:
    """Write chunks of a level, from the array or from the level before."""
    source, out = group[str(level - 1)] if level else array, group[str(level)]
    for part in list(_chunks(out.shape))[which]:
        out[part] = _small(source, part, mean) if level else _read(source, part, out.dtype)


def _axis(axis: str, scale_um: Mapping[str, float]) -> dict[str, str]:
    kinds = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
    known = {"name": axis.lower(), **({"type": kinds[axis]} if axis in kinds else {})}
    return known | ({"unit": "micrometer"} if axis in "ZYX" and axis in scale_um else {})


def _chunks(shape: Sequence[int]) -> Iterable[tuple[slice, ...]]:
    for index in np.ndindex(*shape[:-2]):
        lead = tuple(slice(i, i + 1) for i in index)
        for y in range(0, shape[-2], _CHUNK):
            for x in range(0, shape[-1], _CHUNK):
                ends = min(y + _CHUNK, shape[-2]), min(x + _CHUNK, shape[-1])
                yield (*lead, slice(y, ends[0]), slice(x, ends[1]))


def _read(source: Any, part: tuple[slice, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(source[part]).astype(dtype, copy=False)


def _small(source: Any, part: tuple[slice, ...], mean: bool) -> NDArray[Any]:
    """Half of a part of the next larger copy: every second pixel, or the mean of four."""
    twice = [slice(2 * one.start, 2 * one.stop) for one in part[-2:]]
    values = np.asarray(source[(*part[:-2], *twice)])
    if not mean or values.dtype.kind not in "uif":
        return values[..., ::2, ::2]
    odd = [(0, n % 2) for n in values.shape[-2:]]
    values = np.pad(values, [(0, 0)] * (values.ndim - 2) + odd, mode="edge")
    four = [values[..., y::2, x::2].astype(np.float64) for y in (0, 1) for x in (0, 1)]
    middle = sum(four) / 4
    whole = np.rint(middle) if values.dtype.kind in "ui" else middle
    return np.asarray(whole).astype(values.dtype)


# --- Cellpose --------------------------------------------------------------------------------


def _write_seg(file: BinaryIO, cells: Cells) -> None:
    """What Cellpose's window opens and trains on; its format is a whole in memory."""
    from skimage.segmentation import find_boundaries

    if cells.stack_axes not in ("", "Z"):
        raise FormatError(
            "Cellpose's _seg.npy holds an image or a stack in depth (Z), and these cells have "
            f"the axes {cells.axes}. Save time points one by one, or take OME-TIFF or OME-Zarr."
        )
    kept = np.uint16 if label_type(cells.labels) == np.uint16 else np.uint32
    masks = np.asarray(cells.labels).astype(kept, copy=False)
    outlines = np.zeros_like(masks)
    numbers: set[int] = set()
    for index in np.ndindex(*masks.shape[:-2]):
        for top in range(0, masks.shape[-2], _CHUNK):
            # The rim of every cell with its number, also where the image ends.
            plane, end = masks[index], min(top + _CHUNK, masks.shape[-2])
            above, below = int(top > 0), int(end < len(plane))
            band = plane[top - above : end + below]
            around = np.pad(band, ((1 - above, 1 - below), (1, 1)))
            edge = find_boundaries(around, mode="inner")[1:-1, 1:-1]
            band = plane[top:end]
            outlines[index][top:end][edge] = band[edge]
            numbers.update(distinct(band)[0].tolist())
    n = len(numbers - {0})
    content = {
        "masks": masks,
        "outlines": outlines,
        "filename": str(cells.image_path or f"{cells.name}.tif"),
        "chan_choose": [0, 0],
        "ismanual": np.zeros(n, bool),
        "flows": [],
        "diameter": cells.made.get("diameter"),
        "manual_changes": [],
    }
    np.save(file, np.array(content, dtype=object), allow_pickle=True)


# --- CSV, and all of it in a folder ----------------------------------------------------------


def csv(columns: Mapping[str, Any]) -> bytes:
    """Columns by their heads as CSV."""
    import pandas as pd

    text = io.StringIO(newline="")
    pd.DataFrame(dict(columns)).to_csv(text, index=False, lineterminator="\n")
    # with the mark by which Excel knows that µ is no two letters
    return text.getvalue().encode("utf-8-sig")


def table_csv(table: Mapping[str, Any]) -> bytes:
    """A table as CSV, with units in its head."""
    return csv({column_head(name): np.asarray(column) for name, column in table.items()})


def _write_csv(file: BinaryIO, cells: Cells) -> None:
    label_type(cells.labels)  # what is no label has no measurements
    file.write(table_csv(cells.table))


#: Version of `project.json`.
SCHEMA_VERSION = 1
PROJECT = "project.json"


def _write_project(path: Path, cells: Cells, _: bool = False) -> None:
    if path.exists() and not (path / PROJECT).is_file():
        raise OutputError(f"{path} is there, and is no project. Choose another name.")

    def write(new: Path) -> None:
        new.mkdir()
        _write_ome_tiff(new / "labels.ome.tif", cells)
        write_atomically(new / "cells.csv", table_csv(cells.table))
        source: dict[str, Any] = {"name": cells.name, "axes": cells.image_axes}
        if cells.image_path is not None:
            source["path"] = str(real(cells.image_path))
            if cells.image_path.exists():
                stat = cells.image_path.stat()
                source |= {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
                source["beside"] = os.path.relpath(real(cells.image_path), real(path).parent)
        content = {
            "schema_version": SCHEMA_VERSION,
            "image": source,
            "labels": {
                "file": "labels.ome.tif",
                "axes": cells.axes,
                "shape": list(cells.shape),
                "n_cells": len(cells.rows()),
            },
            "table": {"file": "cells.csv", "columns": [str(name) for name in cells.table]},
            "spacing_um": dict(cells.scale_um),
            "settings": cells.made.get("settings", {}),
            "provenance": dict(cells.made),
            "versions": versions(),
        }
        text = json.dumps(readable_all(content), indent=2, default=str, ensure_ascii=False)
        write_atomically(new / PROJECT, f"{text}\n".encode())

    write_folder(path, write)


#: Formats that several processes can write together: their version.
SHARED = {"ome-zarr": "0.5", "ome-zarr-0.4": "0.4"}
FORMATS = {
    one.key: one
    for one in (
        Format("ome-tiff", "OME-TIFF labels", ".ome.tif", _write_ome_tiff, (".ome.tiff",)),
        Format("ome-zarr", "OME-Zarr 0.5", ".ome.zarr", _write_ome_zarr("0.5"), (".zarr",)),
        Format("ome-zarr-0.4", "OME-Zarr 0.4", ".ome.zarr", _write_ome_zarr("0.4"), (".zarr",)),
        Format("imagej", "ImageJ ROIs", "_rois.zip", _file(write_rois), (".zip",)),
        Format("geojson", "QuPath GeoJSON", ".geojson", _file(write_geojson), (), True),
        Format("cellpose", "Cellpose _seg.npy", "_seg.npy", _file(_write_seg)),
        Format("coco", "COCO JSON", ".coco.json", _file(write_coco), (".json",), True),
        Format("csv", "Table with units (CSV)", ".csv", _file(_write_csv), (), True),
        Format("project", "Project folder", ".sa2net", _write_project, (), True),
    )
}


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that a path's ending names.

    Raises
    ------
    SettingsError
        It names none.
    """
    name = Path(path).name.lower()
    for one in FORMATS.values():
        if name.endswith((one.ending, *one.also)):
            return one
    endings = ", ".join(dict.fromkeys(one.ending for one in FORMATS.values()))
    raise SettingsError(
        f"{path} has no ending of a format of cells ({endings}): name a format."
    )


# --------------------------------------------------------------------------------------------
# The one way to write.


def write_cells(
    path: str | os.PathLike[str],
    labels: Any,
    format: str | None = None,
    *,
    axes: str = "",
    pixel_size_um: float | tuple[float, float] | None = None,
    z_step_um: float | None = None,
    table: Any = None,
    image: Any = None,
    image_axes: str = "",
    image_path: str | os.PathLike[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    r"""Write cells in a format that other programs open.

    Parameters
    ----------
    path : path
        With the format's ending, which is put there if need be.
    labels : integers ≥ 0 (\*stack, H, W), or Cells
        numpy, or lazy: then read piece by piece.
    format : str, optional
        One of `FORMATS`; unsaid: as the ending of the path says.
    axes : str, optional
        One letter per axis of the labels; unsaid: a stack of YX.
    pixel_size_um : float or (float, float), optional
        Pixel size in µm, or along Y and X.
    z_step_um : float, optional
        Distance of planes.
    table : DataFrame or mapping of columns, optional
        Measurements, with a column ``label``; unsaid: the cells are measured where the format
        holds measurements.
    image : array, optional
        That OME-Zarr shall hold beside the labels.
    image_axes : str, optional
        One letter per axis of the image.
    image_path : path, optional
        File of the image, which some formats name.
    provenance : mapping, optional
        How the cells were made.
    overwrite : bool
        Also write the image of an OME-Zarr anew. Otherwise labels are added to an image of
        their size that is there.

    Returns
    -------
    The path that was written.

    Raises
    ------
    FormatError
        If the format cannot hold these cells; the message names one that can.
    OutputError
        If it cannot be written there. What was there is then as it was.
    SettingsError
        If there is no such format.
    """
    if format is not None and format not in FORMATS:
        raise SettingsError(f"There is no format {format!r}; there are {', '.join(FORMATS)}.")
    chosen = format_of(path) if format is None else FORMATS[format]
    target = chosen.named(path)
    if not isinstance(labels, Cells):
        sizes = np.broadcast_to(np.nan if pixel_size_um is None else pixel_size_um, 2)
        spacing = dict(zip("ZYX", (z_step_um or np.nan, *sizes.tolist()), strict=True))
        if not hasattr(labels, "shape"):
            labels = np.asarray(labels)
        if image is not None and not image_axes:
            from napari_sa2net.data.axes import resolve_axes

            image_axes = resolve_axes(image.shape).names
        labels = Cells(
            labels,
            axes,
            {axis: float(size) for axis, size in spacing.items() if np.isfinite(size)},
            _columns(table),
            chosen.stem(target),
            image,
            image_axes,
            None if image_path is None else Path(image_path),
            provenance or {},
        )
    if np.dtype(labels.labels.dtype).kind not in "bui":
        raise OutputError(
            f"Labels must be whole numbers, not {labels.labels.dtype}; convert them first."
        )
    chosen.write(target, _measured(labels) if chosen.measures else labels, overwrite)
    return target


def _columns(table: Any) -> dict[str, Any]:
    if table is None:
        return {}
    return {str(name): np.asarray(table[name]) for name in table}


def _measured(cells: Cells) -> Cells:
    """With a table: that of its own, or measured now."""
    if cells.table:
        return cells
    from napari_sa2net.measure import object_table

    sizes = tuple(cells.scale_um.get(axis, math.nan) for axis in "YX")
    known = all(math.isfinite(size) for size in sizes)
    labels = cells.labels
    if np.dtype(labels.dtype).kind == "b":
        labels = np.asarray(labels).astype(np.uint8)
    table = object_table(
        labels,
        pixel_size_um=sizes if known else None,
        stack_axes=cells.stack_axes,
        z_step_um=cells.scale_um.get("Z"),
    )
    return replace(cells, table=_columns(table))


# --------------------------------------------------------------------------------------------
# What napari calls when selected layers are saved.

_AXES = {"z": "Z", "depth": "Z", "plane": "Z", "t": "T", "time": "T", "frame": "T"}


def cells_of_layer(name: str, data: Any, meta: Mapping[str, Any]) -> Cells:
    """Cells of a Labels layer as napari hands it to writers."""
    labels = _finest(data, meta)
    n = len(labels.shape)
    told = [_AXES.get(str(one).strip().lower(), "") for one in meta.get("axis_labels") or ()]
    lead = "".join(told[: n - 2])
    axes = f"{lead}YX" if len(lead) == n - 2 and len(set(lead)) == len(lead) else ""
    features = meta.get("features")
    table = {}
    if features is not None and "label" in features and len(features):
        table = _columns(features)
        table.pop("index", None)
    cells = Cells(
        labels,
        axes,
        table=table,
        name=name,
        made=dict((meta.get("metadata") or {}).get("napari-sa2net") or {}),
    )
    return replace(cells, scale_um=_spacing(meta, cells.axes))


def _finest(data: Any, meta: Mapping[str, Any]) -> Any:
    """The array of a layer, of several levels the finest."""
    return data[0] if isinstance(data, (list, tuple)) or meta.get("multiscale") else data


def _spacing(meta: Mapping[str, Any], axes: str) -> dict[str, float]:
    """Spacing (µm) of a layer's axes, of those that are lengths."""
    scale = np.asarray(meta.get("scale", np.ones(len(axes))), float)
    n = len(scale)
    affine = meta.get("affine")
    if affine is not None:
        linear = np.asarray(affine, float)[:n, :n]
        scale = np.linalg.norm(linear * scale, axis=0)
    units = meta.get("units") or ("pixel",) * n
    units = (units,) * n if isinstance(units, str) else tuple(units)
    found = {}
    # a layer may have channels before these
    last = len(axes)
    for axis, step, unit in zip(axes, scale.tolist()[-last:], units[-last:], strict=False):
        factor = micrometres(str(unit))
        if axis in "ZYX" and factor:
            found[axis] = step * factor
    return plausible_scale(found)[0]


def _saver(key: str) -> Callable[[str, Any, dict[str, Any]], list[str]]:
    def save(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
        target = FORMATS[key].named(path)
        name = str(meta.get("name") or FORMATS[key].stem(target))
        return [str(write_cells(target, cells_of_layer(name, data, meta), key))]

    save.__doc__ = f"Save a Labels layer: {FORMATS[key].title}."
    return save


save_ome_tiff = _saver("ome-tiff")
save_ome_zarr = _saver("ome-zarr")
save_ome_zarr_04 = _saver("ome-zarr-0.4")
save_imagej = _saver("imagej")
save_geojson = _saver("geojson")
save_cellpose = _saver("cellpose")
save_coco = _saver("coco")
save_csv = _saver("csv")
save_project = _saver("project")


def save_with_image(path: str, layers: Sequence[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Save an Image layer and the Labels layer on it as one OME-Zarr."""
    kinds = {kind: (data, meta) for data, meta, kind in layers}
    data, meta = kinds["labels"]
    image, image_meta = kinds["image"]
    cells = cells_of_layer(str(image_meta.get("name") or Path(path).stem), data, meta)
    image = _finest(image, image_meta)
    n = len(image.shape) - bool(image_meta.get("rgb"))
    lead = cells.stack_axes[-(n - 2) :] if n > 2 else ""
    spare = n - 2 - len(lead)
    if spare > 1 or (spare == 1 and len(image.shape) > n):
        raise FormatError("The image has more axes than its cells: save the cells alone.")
    axes = "C" * spare + lead + "YX" + ("C" if image_meta.get("rgb") else "")
    sizes = dict(zip(axes, image.shape, strict=True))
    ours = dict(zip(cells.axes, cells.shape, strict=True))
    if any(sizes.get(axis) != size for axis, size in ours.items()):
        raise FormatError(
            f"The image is {_by(sizes)}, the cells {_by(ours)}: they must have the same "
            "pixels. Save the cells alone."
        )
    scale = cells.scale_um or _spacing(image_meta, axes.replace("C", ""))
    cells = replace(cells, image=image, image_axes=axes, scale_um=scale)
    return [str(write_cells(path, cells, "ome-zarr"))]
