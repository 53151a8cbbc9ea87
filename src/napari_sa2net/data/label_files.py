"""Files with cells: which of a folder they are and of which image, and what they hold."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.axes import STACK_NAMES
from napari_sa2net.data.coco import coco_images, coco_shape, read_coco
from napari_sa2net.data.io import is_zarr, read_image, reading
from napari_sa2net.data.labels import as_labels, fitted, grey
from napari_sa2net.data.listing import is_seg, stem_of
from napari_sa2net.data.outlines import (
    Found,
    ReadCells,
    check_pixels_meant,
    painted,
    read_geojson,
    read_json,
    read_rois,
)
from napari_sa2net.errors import LabelsError

#: Endings of files with cells that are no pictures of numbers, in the order of preference.
_OTHERS = ("_seg.npy", ".sa2net", ".zarr", ".geojson", ".json", ".zip", ".roi")
_OTHER_ENDING = re.compile(
    r"(_seg\.npy|\.sa2net|\.zarr|[._-]rois?\.zip|[._-]roiset\.zip|\.coco\.json|\.geojson|"
    r"\.json|\.zip|\.roi)$",
    re.IGNORECASE,
)
_ROISET = re.compile(r"^roiset[._-]", re.IGNORECASE)
#: Endings of files with an outline for each cell.
OUTLINES = (".geojson", ".json", ".zip", ".roi")
#: Endings of pictures of numbers, in the order of preference.
PICTURES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy")


def is_other_format(path: Path) -> bool:
    """Whether a file holds cells as no picture does: ROIs, GeoJSON, COCO, or _seg.npy."""
    name = path.name.lower()
    if name.endswith(".npy"):
        return is_seg(path)
    if name.endswith(".zarr"):
        return bool(zarr_labels(path)) or is_label_image(path)
    if name.endswith(".sa2net"):
        return (path / "project.json").is_file()
    return name.endswith(_OTHERS)


def tells_shape(path: Path) -> bool:
    """Whether a file with cells tells how large their image is."""
    name = path.name.lower()
    if name.endswith(".json"):
        return bool(coco_images(path))
    return not name.endswith(OUTLINES)


def label_files(entries: Iterable[Path]) -> dict[str, list[Path]]:
    """Files with cells by the stem of their image, in the order in which they are taken.

    A COCO file is of every image that it names.
    """
    found: dict[str, list[Path]] = {}
    for path in entries:
        if path.name.startswith("."):
            continue
        for stem in _stems(path):
            found.setdefault(stem, []).append(path)
    for paths in found.values():
        paths.sort(key=_preference)
    return found


def _stems(path: Path) -> list[str]:
    name = path.name.lower()
    if name.endswith(".json"):
        images = coco_images(path)
        if len(images) > 1 or not (images or _is_geojson(path)):
            return [stem_of(image) for image in images]
        own = stem_of(_OTHER_ENDING.sub("", path.name))
        return [*dict.fromkeys([own, *map(stem_of, images)])]
    elif name.endswith(".zarr"):
        return [stem_of(path.name[:-5])] if is_zarr(path) else []
    elif not is_other_format(path):
        return [stem_of(path.name)] if name.endswith(PICTURES) else []
    return [stem_of(_ROISET.sub("", _OTHER_ENDING.sub("", path.name)))]


def _preference(path: Path) -> int:
    endings = (*PICTURES, *_OTHERS) if not is_other_format(path) else _OTHERS
    rank = next(i for i, ending in enumerate(endings) if path.name.lower().endswith(ending))
    return rank + (len(PICTURES) if endings is _OTHERS else 0)


def _is_geojson(path: Path) -> bool:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return True  # that it cannot be read is said when it is
    features = content.get("features", [content]) if isinstance(content, dict) else content
    first = features[0] if isinstance(features, list) and features else None
    return (isinstance(first, dict) and "geometry" in first) or features == []


def zarr_labels(path: Path) -> list[str]:
    """Names of the labels beside an OME-Zarr image; empty where there are none."""
    if not is_zarr(path):
        return []
    import zarr

    try:
        group: Any = zarr.open_group(str(path / "labels"), mode="r")
        attributes = dict(group.attrs)
        names = attributes.get("ome", attributes).get("labels")
        return [str(name) for name in names or sorted(name for name, _ in group.groups())]
    except Exception:  # no such group, or no Zarr at all: whoever opens it says so
        return []


def is_label_image(path: Path) -> bool:
    """Whether an OME-Zarr holds labels, and no image beside them."""
    import zarr

    try:
        node: Any = zarr.open(str(path), mode="r")
        attributes: dict[str, Any] = dict(node.attrs)
    except Exception:  # no Zarr at all: whoever opens it says so
        return False
    return "image-label" in attributes.get("ome", attributes)


#: Kinds of files that change the numbers they are given.
_LOSSY = (".jpg", ".jpeg")


def read_labels(
    path: str | Path, shape: tuple[int, int] | None = None, name: str = ""
) -> NDArray[Any]:
    """Labels of a file as integers that int32 holds, see `as_labels`.

    Of an indexed picture the index is the number, and of a grey one in RGB its grey. Cells may
    also be ImageJ ROIs, GeoJSON, COCO, Cellpose's _seg.npy, OME-Zarr with labels or a project.

    Parameters
    ----------
    path : path
    shape : (H, W), optional
        Of their image; unsaid: all axes but those of length 1, and of colours.
    name : str
        Of the image, where a file is of several.

    Raises
    ------
    ImageFileError
        If the file cannot be read.
    LabelsError
        If it does not hold labels, or they have another shape.
    """
    return read_cells(path, shape, name).labels


def read_cells(
    path: str | Path,
    shape: tuple[int, ...] | None = None,
    name: str = "",
    axes: str = "",
    pixel_size_um: float | None = None,
) -> ReadCells:
    r"""Read cells of a file in any format that we write, with what is to be said of them.

    Parameters
    ----------
    path : path
        A picture of numbers, as `read_labels` takes it, a zip file of ImageJ ROIs, GeoJSON,
        COCO, Cellpose's _seg.npy, OME-Zarr (its labels, or those named: IMAGE/labels/NAME),
        or a project.
    shape : (\*stack, H, W), optional
        Of the image. ROIs and GeoJSON do not tell it.
    name : str
        Of the image, where a file is of several.
    axes : str
        One letter per axis of `shape`; unsaid: a stack of YX.
    pixel_size_um : float, optional
        Of the image: outlines of GeoJSON that are in µm are told by it.

    Returns
    -------
    ReadCells with ``labels`` and ``notes``, which say such as that cells overlap.

    Raises
    ------
    ImageFileError
        If the file cannot be read.
    LabelsError
        If it does not hold labels, or they have another shape.
    """
    path = Path(path)
    try:
        return _read(path, shape, name, axes, pixel_size_um)
    except LabelsError as error:
        if path.name in str(error):
            raise
        raise LabelsError(f"{path}: {error}") from error


def _read(
    path: Path, shape: tuple[int, ...] | None, name: str, axes: str, pixel_size_um: float | None
) -> ReadCells:
    with reading(path):
        read = _read_other(path, shape, name, axes, pixel_size_um)
    if read is None:
        read = ReadCells(_numbers(path, "labels", _plane_of(shape)))
    labels = as_labels(read.labels)
    if shape is not None and labels.shape != tuple(shape):
        labels = as_labels(labels, _plane_of(shape))
        if [n for n in labels.shape if n > 1] == [n for n in shape if n > 1]:
            labels = labels.reshape(shape)
        if labels.shape != tuple(shape):
            raise LabelsError(
                f"Labels of shape {labels.shape} do not fit an image of {tuple(shape)}."
            )
    return ReadCells(labels, read.notes)


def _plane_of(shape: tuple[int, ...] | None) -> tuple[int, int] | None:
    return (shape[0], shape[1]) if shape is not None and len(shape) == 2 else None


def _read_other(
    path: Path, shape: tuple[int, ...] | None, name: str, axes: str, pixel_size_um: float | None
) -> ReadCells | None:
    """Cells of a file that is no picture of numbers; None of one that is."""
    ending = path.suffix.lower()
    if path.is_dir():
        if (path / "project.json").is_file():
            return ReadCells(_numbers(path / "labels.ome.tif", "labels", _plane_of(shape)))
        names = zarr_labels(path)
        if len(names) > 1:
            raise LabelsError(
                f"{path} holds the labels {', '.join(names)}: name one, such as "
                f"{path}/labels/{names[0]}."
            )
        if not names:
            return None
        return ReadCells(_numbers(path / "labels" / names[0], "labels", _plane_of(shape)))
    if ending == ".npy":
        return ReadCells(_seg_masks(path)) if is_seg(path) else None
    if ending not in OUTLINES:
        return None
    if shape is None and ending == ".json" and coco_images(path):
        shape = coco_shape(path, name)
    if shape is None:
        raise LabelsError(
            f"{path.name} holds outlines, and not how large the image is: give its shape too."
        )
    axes = axes or STACK_NAMES[: len(shape) - 2][::-1] + "YX"
    found, notes = _outlines(path, shape, name, axes)
    if path.suffix.lower() not in (".zip", ".roi") and not coco_images(path):
        doubt = check_pixels_meant(found, shape, pixel_size_um)
        notes += [doubt] if doubt else []
    return painted(found, shape, axes, notes)


def _outlines(
    path: Path, shape: tuple[int, ...], name: str, axes: str
) -> tuple[list[Found], list[str]]:
    if path.suffix.lower() in (".zip", ".roi"):
        return read_rois(path, axes)
    return read_coco(path, shape, name) if coco_images(path) else read_geojson(path)


def outlined_shape(path: Path) -> tuple[int, int]:
    """Rows and columns that the outlines of a file reach, of ROIs or GeoJSON.

    Raises
    ------
    SA2NetError
        It cannot be read.
    """
    with reading(path):
        found, _ = _outlines(path, (0, 0), "", "YX")
    ends = [ring.max(0) for one in found for part in one.parts for ring in part if len(ring)]
    width, height = np.ceil(np.max(ends, axis=0)).astype(int).tolist() if ends else (1, 1)
    return max(1, height), max(1, width)


class _Plain(pickle.Unpickler):
    """Takes arrays and plain values; what else a file names is not looked up, let alone run."""

    def find_class(self, module: str, name: str) -> Any:
        known = ("_reconstruct", "ndarray", "dtype", "scalar", "encode")
        arrays = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_codecs")
        if module in arrays and name in known:
            return super().find_class(module, name)
        if module.startswith("numpy.") and name == "_frombuffer":
            return super().find_class(module, name)
        return _Unknown


class _Unknown:
    """In the place of an object of a kind that is not taken."""

    def __new__(cls, *_: Any, **__: Any) -> _Unknown:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Unknown:
        return self


def _seg_masks(path: Path) -> NDArray[Any]:
    """Masks of a _seg.npy file of Cellpose, of which nothing is run."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        headers = {(1, 0): np.lib.format.read_array_header_1_0}
        headers.get(version, np.lib.format.read_array_header_2_0)(file)
        content = _Plain(file).load()
    if isinstance(content, np.ndarray) and content.size == 1:
        content = content.item()
    masks = content.get("masks") if isinstance(content, dict) else None
    if not isinstance(masks, np.ndarray) or masks.dtype.kind not in "buif" or masks.ndim < 2:
        raise LabelsError(f"{path} has no masks, as Cellpose's _seg.npy has them.")
    # Old versions counted background as -1.
    return masks + 1 if masks.size and masks.min() == -1 else masks


def read_mask(path: str | Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask of a file: where it is above 0; parameters and errors as of `read_labels`."""
    values = _numbers(Path(path), "a mask", shape)
    if values.dtype.kind not in "biuf":
        raise LabelsError(f"A mask must be numbers, not {values.dtype}.")
    return np.asarray(values > 0)


def _numbers(path: Path, what: str, shape: tuple[int, int] | None) -> NDArray[Any]:
    if path.suffix.lower() in _LOSSY:
        raise LabelsError(
            f"JPEG changes the numbers of {what} a little. Save it as TIFF or PNG, from the "
            "original numbers."
        )
    plain = _picture(path)
    if plain is not None:
        return plain if shape is None else fitted(plain, shape)
    file = read_image(path)
    array = np.asarray(file.array)
    if "C" in file.axes:
        axis = file.axes.index("C")
        if array.shape[axis] in (3, 4):
            array = grey(array, axis)
        elif array.shape[axis] != 1:
            raise LabelsError(
                f"These labels have {array.shape[axis]} channels, and labels are one whole "
                "number for each pixel. Save the channel with the numbers on its own."
            )
    if shape is not None:
        return fitted(array, shape)
    while array.ndim > 2 and 1 in array.shape:
        array = np.squeeze(array, array.shape.index(1))
    return array


def _picture(path: Path) -> NDArray[Any] | None:
    """Numbers that the reader of images would resolve to colours, or cut to 8 bits."""
    if path.suffix.lower() not in (".png", ".bmp"):
        return None
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if picture.mode in ("P", "PA"):
                indices = np.asarray(picture)
                return indices[..., 0] if picture.mode == "PA" else indices
        with path.open("rb") as file:
            header = file.read(26)
        # Depth and kind of colour of a PNG; Pillow reads 16 bits of several channels as 8.
        if picture.format == "PNG" and header[24] == 16 and header[25] in (2, 4, 6):
            from imagecodecs import png_decode

            values = np.asarray(png_decode(path.read_bytes()))
            return values[..., 0] if header[25] == 4 else grey(values, -1)
    except LabelsError:
        raise
    except Exception:  # whatever decoders raise: `read_image` says what is wrong
        return None
    return None
