"""SegPC-2021: plasma cells in bone marrow (Gupta et al., MedIA 2023), cell by cell.

The task of the papers that compare on it: given a crop around a nucleus and the nucleus
itself as a fourth channel, find the cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.layouts.base import (
    Layout,
    LayoutItem,
    check_directory,
    files_in,
    make_layout,
    mask_picture,
    missing,
    picture,
)
from napari_sa2net.errors import TrainingDataError

CLASSES = ("background", "cell")
EXPECTED = "train/x/N.bmp with train/y/N_1.bmp, N_2.bmp …, and the same in validation"
TRAINING, VALIDATION = ("train",), ("validation", "valid", "val")
#: Values of cytoplasm and nucleus in a cell's mask, or above.
CYTOPLASM, NUCLEUS = 20, 40
#: The crop is the nucleus' box, grown on each side by half of this times its height and width.
SCALE = 2.5
#: Where in the cells of all images those that validate begin, and those that test.
SPLIT = (0.5, 0.7)
PICTURES = (".bmp",)


def open_segpc2021(directory: Path) -> Layout:
    """SegPC-2021 as downloaded, one item per annotated cell; see `open_layout`.

    Each mask file holds one cell: cytoplasm 20, nucleus 40. Of the cells of the training
    images and then of the validation images, in order of their names, the first half trains,
    the next fifth validates, the rest tests, as published. Cells are counted, not images, so
    one image may lie on two sides. Groups are images.
    """
    check_directory(directory, "SegPC-2021", EXPECTED)
    tops = {
        path.parent
        for path in directory.rglob("[xy]")
        if path.is_dir() and path.parent.name in (*TRAINING, *VALIDATION)
    }
    for names in (TRAINING, VALIDATION):
        if not any(top.name in names for top in tops):
            raise missing(directory / names[0] / "x", f"expected is {EXPECTED}")
    found: list[tuple[Path, list[Path]]] = []
    for top in sorted(tops, key=lambda top: (top.name in VALIDATION, top)):
        folder, masks_folder = top / "x", top / "y"
        if not folder.is_dir():
            raise missing(folder, "it holds the images")
        if not masks_folder.is_dir():
            raise missing(masks_folder, "it holds the masks of the cells")
        masks = files_in(masks_folder, PICTURES)
        by_image: dict[str, list[Path]] = {}
        for mask in masks:
            by_image.setdefault(mask.stem.rpartition("_")[0], []).append(mask)
        for image in files_in(folder, PICTURES):
            if image.stem not in by_image:
                raise missing(
                    masks_folder / f"{image.stem}_1.bmp", f"the first cell of {image.name}"
                )
            found.append((image, by_image.pop(image.stem)))
        if by_image:
            name = next(iter(by_image))
            raise missing(folder / f"{name}.bmp", f"the image of {by_image[name][0].name}")
    notes = tuple(
        f"{masks[0].parent}: cells of {image.name} are not numbered from 1 without a gap, so "
        "some may be missing."
        for image, masks in found
        if {m.stem.rpartition("_")[2] for m in masks}
        != {str(n) for n in range(1, len(masks) + 1)}
    )
    cells = [(image, mask) for image, masks in found for mask in masks]
    first, second = (int(share * len(cells)) for share in SPLIT)
    items = []
    for i, (image, mask) in enumerate(cells):
        split = "train" if i < first else "val" if i < second else "test"
        # With its folder: training and validation images may share numbers.
        where = image.parent.parent.name
        items.append(
            LayoutItem(
                f"{where} {mask.stem}", f"{where} {image.stem}", split, _Cell(image, mask)
            )
        )
    return make_layout(directory, "segpc2021", CLASSES, items, "downloaded", EXPECTED, notes)


@dataclass(frozen=True)
class _Cell:
    image: Path
    mask: Path

    def __call__(self) -> tuple[NDArray[Any], NDArray[Any]]:
        image, values = picture(self.image), mask_picture(self.mask)
        if image.shape[:2] != values.shape:
            raise TrainingDataError(
                f"{self.mask} is {values.shape}, its image {image.shape[:2]}. "
                "Unpack the data set again."
            )
        if not (values >= NUCLEUS).any():
            raise TrainingDataError(
                f"{self.mask} has no nucleus (no value of {NUCLEUS} or more). "
                "Unpack the data set again."
            )
        return crop_cell(image, values)


def crop_cell(
    image: NDArray[Any], values: NDArray[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The surroundings of a cell's nucleus, with the nucleus as fourth channel.

    Parameters
    ----------
    image : (Y, X, 3) uint8
    values : (Y, X)
        The cell's mask: `CYTOPLASM` or more is the cell, `NUCLEUS` or more the nucleus.

    Returns
    -------
    crop : (h, w, 4) uint8
        Nucleus 255; black beyond the image.
    cell : (h, w) uint8
        1 in the cell, its nucleus included.
    """
    inside = values >= NUCLEUS
    sides: list[int] = []
    source: list[slice] = []
    target: list[slice] = []
    for axis, length in enumerate(values.shape):
        hit = np.flatnonzero(inside.any(axis=1 - axis))
        start, stop = int(hit[0]), int(hit[-1]) + 1
        margin = round(SCALE * (stop - start) / 2)
        start, stop = start - margin, stop + margin
        low, high = max(0, start), min(length, stop)
        sides.append(stop - start)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    crop, cell = np.zeros((*sides, 4), np.uint8), np.zeros(sides, np.uint8)
    rows, columns = source
    y, x = target
    crop[y, x, :3] = image[rows, columns]
    crop[y, x, 3] = np.where(inside[rows, columns], 255, 0)
    cell[y, x] = values[rows, columns] >= CYTOPLASM
    return crop, cell
