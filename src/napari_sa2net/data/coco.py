"""COCO: cells as run lengths, down the columns; polygons are read, too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.listing import stem_of
from napari_sa2net.data.outlines import Cells, Found, cell_number, pieces, read_json
from napari_sa2net.errors import LabelsError
from napari_sa2net.words import counted


def write_coco(file: BinaryIO, cells: Cells) -> None:
    """COCO with run lengths, which hold every pixel; each plane of a stack is an image."""
    height, width = cells.shape[-2:]
    source = cells.image_path.name if cells.image_path is not None else f"{cells.name}.tif"
    rows = cells.rows()
    images = []
    for number, index in enumerate(np.ndindex(*cells.shape[:-2]), start=1):
        image = {"id": number, "file_name": source, "width": width, "height": height}
        if index:
            letters = cells.stack_axes.lower()
            image["plane"] = dict(zip(letters, index, strict=True))
        images.append(image)
    made = {"description": f"Cells of {cells.name}", "napari-sa2net": dict(cells.made)}
    head = {
        "info": made,
        "images": images,
        "categories": [{"id": 1, "name": "cell", "supercategory": "cell"}],
    }
    file.write(json.dumps(head, default=str, ensure_ascii=False).encode()[:-1])
    file.write(b', "annotations": [')
    between = b"\n"
    for number, piece in enumerate(pieces(cells), start=1):
        y0, x0 = piece.corner
        h, w = piece.mask.shape
        row = rows.get(piece.label)
        stack = cells.shape[:-2]
        annotation: dict[str, Any] = {
            "id": number if stack else piece.label,
            "image_id": int(np.ravel_multi_index(piece.index, stack)) + 1 if stack else 1,
            "category_id": 1,
            "iscrowd": 0,
            "label": piece.label,
            "bbox": [x0, y0, w, h],
            "area": int(piece.mask.sum()),
            "segmentation": {
                "size": [height, width],
                "counts": run_lengths(piece.mask, piece.corner, (height, width)),
            },
        }
        measured = cells.measured(row)
        if measured:
            annotation["measurements"] = measured
        if "confidence" in measured:
            annotation["score"] = measured["confidence"]
        file.write(between + json.dumps(annotation).encode())
        between = b",\n"
    file.write(b"\n]}\n")


def run_lengths(
    mask: NDArray[np.bool_], corner: tuple[int, int], shape: tuple[int, int]
) -> list[int]:
    """Lengths of what is out and in by turns, down the columns of the whole plane."""
    columns, rows = np.nonzero(mask.T)
    flat = (columns + corner[1]) * shape[0] + rows + corner[0]
    breaks = np.flatnonzero(np.diff(flat) != 1)
    starts = flat[np.concatenate([[0], breaks + 1])]
    ends = flat[np.concatenate([breaks, [len(flat) - 1]])] + 1
    turns = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(turns, prepend=0).tolist()
    rest = math.prod(shape) - int(turns[-1])
    return [*counts, rest] if rest else counts


def read_coco(path: Path, shape: tuple[int, ...], name: str) -> tuple[list[Found], list[str]]:
    """Cells of one image of a COCO file, and what is to be said of them.

    Parameters
    ----------
    name : str
        Of the image: its file without ending; needed where the file is of several.
    """
    content = read_json(path)
    images = _images_of(content, name)
    size = (shape[-2], shape[-1])
    of_image: dict[Any, Mapping[str, int]] = {}
    for image in images:
        given = int(image.get("height") or 0), int(image.get("width") or 0)
        if all(given) and given != size:
            raise LabelsError(
                f"These cells are of an image of {given[0]} × {given[1]}, not of "
                f"{size[0]} × {size[1]}."
            )
        plane = image.get("plane") or {}
        of_image[_id(image["id"])] = {str(a).upper(): int(i) for a, i in plane.items()}
    found, crowds, boxes = [], 0, 0
    for one in content.get("annotations", ()):
        number = _id(one.get("image_id"))
        if number not in of_image:
            continue
        if one.get("iscrowd"):
            crowds += 1
            continue
        cell = _segment(one.get("segmentation"), size)
        if cell is None:
            boxes += 1
            continue
        parts, pixels = cell
        found.append(Found(cell_number(one.get("label")), of_image[number], parts, pixels))
    notes = [f"{counted(crowds, 'crowd')} not read: no single cells"] if crowds else []
    if boxes:
        raise LabelsError(
            f"{boxes} of its cells are boxes without an outline. Export the segmentation too."
        )
    return found, notes


def _id(given: Any) -> str:
    """An image's id, which some write as text in one place and as a number in the other."""
    return str(cell_number(given) if isinstance(given, float) else given)


def coco_shape(path: Path, name: str) -> tuple[int, ...]:
    """Shape of the labels of an image of a COCO file: its planes, as far as it tells them."""
    images = _images_of(read_json(path), name)
    first = images[0]
    if not {"height", "width"} <= set(first):
        raise LabelsError("This COCO file does not say how large its image is.")
    planes = [image.get("plane") or {} for image in images]
    stack = tuple(max(int(plane[axis]) for plane in planes) + 1 for axis in planes[0])
    return (*stack, int(first["height"]), int(first["width"]))


def coco_images(path: Path) -> list[str]:
    """Names of the image files that a COCO file is of; none where it is no COCO."""
    try:
        content = read_json(path)
        if "annotations" not in content:
            return []
        names = [str(image["file_name"]) for image in content["images"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [one.replace("\\", "/").rsplit("/", 1)[-1] for one in dict.fromkeys(names)]


def _images_of(content: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        raise LabelsError("This is no COCO file: it has no images and annotations.")
    named: dict[str, list[Mapping[str, Any]]] = {}
    for image in content["images"]:
        file = str(image.get("file_name", "")).replace("\\", "/")
        named.setdefault(file, []).append(image)
    if len(named) == 1:
        return next(iter(named.values()))
    own = [file for file in named if name and stem_of(file.rsplit("/", 1)[-1]) == stem_of(name)]
    if len(own) == 1:
        return named[own[0]]
    if own:
        raise LabelsError(
            f"This COCO file is of {len(own)} images with the name {name}: {', '.join(own)}. "
            "Give each folder a COCO file of its own, or the images names that differ."
        )
    raise LabelsError(
        f"This COCO file is of {len(named)} images, and none is {name or 'named'!s}; file_name "
        "must be that of the image."
    )


def _segment(given: Any, size: tuple[int, int]) -> Any:
    """Polygons, or pixels of run lengths; None where there is neither."""
    if isinstance(given, Mapping):
        if tuple(map(int, given["size"])) != size:
            raise LabelsError(
                f"A cell's run lengths are of {given['size'][0]} × {given['size'][1]} pixels, "
                f"not of {size[0]} × {size[1]}."
            )
        counts = given["counts"]
        counts = _uncompressed(counts) if isinstance(counts, str) else list(counts)
        ends = np.cumsum(np.asarray(counts, np.int64))
        if (ends.size and ends[-1] > math.prod(size)) or min(counts, default=0) < 0:
            raise LabelsError("A cell's run lengths go beyond the image; the file is damaged.")
        starts, ends = ends[0:-1:2], ends[1::2]
        lengths = ends - starts[: len(ends)]
        first = np.repeat(starts[: len(ends)] - np.cumsum(lengths) + lengths, lengths)
        flat = first + np.arange(int(lengths.sum()))
        return (), (flat % size[0], flat // size[0])
    if not given:
        return None
    rings = [np.asarray(flat, np.float64).reshape(-1, 2) for flat in given]
    return [[ring] for ring in rings], None


def _uncompressed(text: str) -> list[int]:
    """Run lengths of COCO's text: 5 bits a sign, and from the third on what differs."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 31) << shift
            more = bool(bits & 32)
            at, shift = at + 1, shift + 5
            if not more and bits & 16:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
