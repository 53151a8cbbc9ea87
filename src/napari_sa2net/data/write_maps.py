"""Attention maps out: OME-TIFF files or one OME-Zarr, on their own grids, placed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from napari_sa2net.errors import OutputError
from napari_sa2net.files import TEMPORARY_PREFIX, write_atomically

#: Side of a chunk (px of the map).
CHUNK = 1024


class Map(Protocol):
    """What is written of an attention map.

    Attributes
    ----------
    name : str
    values : float array (h, w)
    scale : (float, float)
        Image px per map px along Y and X.
    translate : (float, float)
        Y, x of the centre of map pixel (0, 0) in the image (px; the centre of its first pixel
        is 0).
    """

    @property
    def name(self) -> str: ...

    @property
    def values(self) -> Any: ...

    @property
    def scale(self) -> tuple[float, float]: ...

    @property
    def translate(self) -> tuple[float, float]: ...


def write_map(
    path: str | Path,
    one: Map,
    pixel_size_um: float | None = None,
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
    pixel_size_um : float, optional
        Of the image.
    metadata : mapping, optional
        Provenance, kept as JSON in the file's annotation.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left behind then.
    """
    import tifffile

    unit, size = ("µm", pixel_size_um) if pixel_size_um else ("pixel", 1.0)
    values = np.ascontiguousarray(one.values, np.float32)
    description: dict[str, Any] = {
        "axes": "YX",
        "Name": one.name,
        "Plane": {
            "PositionY": [one.translate[0] * size],
            "PositionX": [one.translate[1] * size],
            "PositionYUnit": [unit],
            "PositionXUnit": [unit],
        },
    }
    for axis, step in zip("YX", one.scale, strict=True):
        description[f"PhysicalSize{axis}"] = step * size
        description[f"PhysicalSize{axis}Unit"] = unit
    if metadata:
        description["MapAnnotation"] = {"napari-sa2net": json.dumps(metadata, default=str)}

    def save(file: BinaryIO) -> None:
        # A name of its own, since tifffile trips over files known by number only.
        handle = tifffile.FileHandle(file, name=Path(path).name, size=0)
        with tifffile.TiffWriter(handle, ome=True) as tif:
            tif.write(
                values,
                photometric="minisblack",
                compression="zlib",
                compressionargs={"level": 1},
                metadata=description,
            )

    return write_atomically(path, save)


def write_maps_zarr(
    folder: str | Path,
    maps: Mapping[str, Map],
    pixel_size_um: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write all maps as one OME-Zarr (0.5): a collection with an image for each.

    Parameters
    ----------
    folder : path
        Made, or replaced as a whole.
    maps : mapping of name to Map
    pixel_size_um : float, optional
        Of the image; without it lengths have no unit and are px of the image.
    metadata : mapping, optional
        Provenance, kept among the attributes.

    Raises
    ------
    OutputError
        If it cannot be written; what was there is then as it was.
    """
    import zarr

    target = Path(folder)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=target.parent))
        root = zarr.open_group(str(temporary / "new"), mode="w", zarr_format=3)
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
        if target.exists():
            # Two steps, since a folder cannot replace another; the old one goes last.
            os.replace(target, temporary / "old")
        os.replace(temporary / "new", target)
    except OSError as error:
        raise OutputError(
            f"{str(target)!r} cannot be written ({error}). Check that the folder may be "
            "written to and that the disk is not full."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write_image(group: Any, one: Map, pixel_size_um: float | None) -> None:
    values = np.asarray(one.values, np.float32)
    array = group.create_array(
        "0",
        shape=values.shape,
        chunks=tuple(max(1, min(CHUNK, n)) for n in values.shape),
        dtype="float32",
        dimension_names=("y", "x"),
    )
    array[...] = values
    size = pixel_size_um or 1.0
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
                            {"type": "scale", "scale": [step * size for step in one.scale]},
                            {
                                "type": "translation",
                                "translation": [at * size for at in one.translate],
                            },
                        ],
                    }
                ],
            }
        ],
    }
