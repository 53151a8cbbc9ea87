"""Image files in: which there are, and reading one of them."""

from __future__ import annotations

import glob
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.axes import resolve_axes
from napari_sa2net.data.image_file import ImageFile, image_name
from napari_sa2net.data.write import write_labels, write_tiff_float
from napari_sa2net.errors import ImageFileError, SA2NetError

__all__ = ["ImageFile", "list_images", "read_image", "write_labels", "write_tiff_float"]

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".lsm", ".svs", ".ndpi", ".scn", ".stk")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
SUFFIXES = (*TIFF_SUFFIXES, *PICTURE_SUFFIXES, ".npy")
_KNOWN = "TIFF, PNG, JPEG, BMP, NPY and OME-Zarr"


def read_image(path: str | Path) -> ImageFile:
    """Open an image file or OME-Zarr folder; large ones stay on disk.

    Parameters
    ----------
    path : str or Path
        TIFF (also OME and ImageJ), PNG, JPEG, BMP, NPY or a Zarr folder.

    Raises
    ------
    ImageFileError
        Missing, damaged, or of another kind.
    AxesError
        The file holds fewer than two axes.
    """
    path = Path(path)
    if not path.exists():
        raise ImageFileError(f"There is no file {path}; check the path.")
    try:
        if path.is_dir():
            return _read_folder(path)
        suffix = path.suffix.lower()
        if suffix in TIFF_SUFFIXES:
            from napari_sa2net.data.tiff import read_tiff

            return read_tiff(path)
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            axes = resolve_axes(array.shape).names
            return ImageFile(array, axes, None, image_name(path), path=path)
        if suffix in PICTURE_SUFFIXES:
            array = _read_picture(path)
            return ImageFile(array, "YXC"[: array.ndim], None, image_name(path), path=path)
    except (SA2NetError, MemoryError):
        raise
    except PermissionError as error:
        raise ImageFileError(f"{path} may not be read: {error.strerror}.") from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        reason = str(error) or type(error).__name__
        raise ImageFileError(
            f"{path} cannot be read; it may be damaged or incomplete ({reason})."
        ) from error
    raise ImageFileError(f"{path} is of an unknown kind; {_KNOWN} can be read.")


def list_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Images among files, patterns and folders, in natural order within each.

    A folder stands for the image files right inside it; an OME-Zarr folder is one image. A
    file that is named is taken whatever its ending, so that reading it can say what is
    wrong. Nothing is listed twice.

    Raises
    ------
    ImageFileError
        A path does not exist, or a pattern or folder holds no image.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    found: dict[Path, None] = {}
    for given in paths:
        images = list(_expand(given))
        if not images:
            raise ImageFileError(f"{given} holds no image; {_KNOWN} can be read.")
        found |= dict.fromkeys(images)
    if not found:
        raise ImageFileError("No image is given; name files, folders or a pattern.")
    return list(found)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts image2 before image10."""
    parts = re.findall(r"\d+|\D+", path.name.casefold())
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts]


def _expand(given: str | Path) -> Iterator[Path]:
    path = Path(given).expanduser()
    if path.is_dir() and not is_zarr(path):
        entries = sorted(path.iterdir(), key=natural_key)
        yield from (entry for entry in entries if _is_image(entry))
    elif path.exists():
        yield path
    elif glob.has_magic(str(given)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        yield from (match for match in sorted(matches, key=natural_key) if _is_image(match))
    else:
        raise ImageFileError(f"There is no file or folder {given}; check the path.")


def _is_image(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return is_zarr(path) if path.is_dir() else path.suffix.lower() in SUFFIXES


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    marks = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
    return path.is_dir() and (
        path.suffix.lower() == ".zarr" or any((path / mark).is_file() for mark in marks)
    )


def _read_folder(path: Path) -> ImageFile:
    if not is_zarr(path):
        raise ImageFileError(f"{path} is a folder, not an image; name the files in it.")
    from napari_sa2net.data.ome_zarr import read_zarr

    return read_zarr(path)


def _read_picture(path: Path) -> NDArray[Any]:
    """A picture as (Y, X) or (Y, X, C), palettes and print colours resolved to RGB."""
    from PIL import Image

    with warnings.catch_warnings():
        # Large scans are what this program is for; Pillow still refuses absurd ones.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            mode = picture.mode
            if mode in ("P", "PA"):
                mode = "RGBA" if "A" in mode or "transparency" in picture.info else "RGB"
            elif mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and mode[0] != "I":
                mode = "RGB"
            array = np.asarray(picture if mode == picture.mode else picture.convert(mode))
    return array[..., 0] if mode == "LA" else array
