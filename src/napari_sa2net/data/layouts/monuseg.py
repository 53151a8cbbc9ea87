"""MoNuSeg 2018: nuclei in H&E tissue, 1000×1000 px at 40×.

Kumar et al., IEEE TMI 2017 and 2020. As downloaded it is TIFF images with Aperio XML
outlines; the published SA2-Net code trains from Train_Folder/Val_Folder/Test_Folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from napari_sa2net.data.layouts.base import (
    Layout,
    LayoutItem,
    check_directory,
    count_note,
    files_below,
    has_folders,
    make_layout,
    missing,
    open_folders,
    picture,
)
from napari_sa2net.errors import TrainingDataError

CLASSES = ("background", "nucleus")
#: Training images of the challenge, and of the later download.
WHOLE = (30, 37)
#: A folder of test images: the word, not a part of another ("latest").
TEST = re.compile(r"T(?:est|EST)|(?<![A-Za-z])test")
IMAGES, OUTLINES = "Tissue Images", "Annotations"
EXPECTED = "'Tissue Images/*.tif' with 'Annotations/*.xml', or Train_Folder/img and labelcol"


def open_monuseg(directory: Path) -> Layout:
    """MoNuSeg in either form; see `open_layout`.

    As downloaded, images and outlines are paired by name wherever they lie; those below a
    folder with the word "test" in its name are the test images. Groups are patients.
    """
    check_directory(directory, "MoNuSeg", EXPECTED)
    if has_folders(directory):
        return open_folders(directory, "monuseg", CLASSES, patient, WHOLE)
    images = files_below(directory, (".tif", ".tiff"))
    outlines = {path.stem: path for path in files_below(directory, (".xml",))}
    annotated = list(outlines.values())
    items = []
    for path in images:
        outline = outlines.pop(path.stem, None)
        if outline is None:
            place = _partner(path, IMAGES, OUTLINES, annotated).with_suffix(".xml")
            raise missing(place, f"the outlines of {path.name}")
        inside = path.relative_to(directory).parts[:-1]
        split = "test" if any(map(TEST.search, inside)) else "train"
        load = _Outlined(path, outline)
        items.append(LayoutItem(path.stem, patient(path.stem), split, load))
    if outlines:
        orphan = next(iter(outlines.values()))
        place = _partner(orphan, OUTLINES, IMAGES, images).with_suffix(".tif")
        raise missing(place, f"the image of {orphan.name}")
    found = sum(item.split == "train" for item in items)
    notes = count_note(found, WHOLE, "training images")
    return make_layout(directory, "monuseg", CLASSES, items, "downloaded", EXPECTED, notes)


def _partner(path: Path, own: str, other: str, others: Iterable[Path]) -> Path:
    """Where the partner of a file belongs, its ending left aside."""
    if path.parent.name == own:
        return path.parent.parent / other / path.name
    return next((p.parent for p in others), path.parent) / path.name


def patient(name: str) -> str:
    """Patient of a TCGA slide: TCGA-21-5784-01Z-00-DX1 is of TCGA-21-5784."""
    parts = name.split("-")
    return "-".join(parts[:3]) if parts[0] == "TCGA" and len(parts) > 3 else name


@dataclass(frozen=True)
class _Outlined:
    image: Path
    outlines: Path

    def __call__(self) -> tuple[NDArray[Any], NDArray[Any]]:
        image = picture(self.image)
        return image, read_outlines(self.outlines, (image.shape[0], image.shape[1]))


def read_outlines(path: Path, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Instance labels of an Aperio XML file.

    Vertices lie on pixel corners (0, 0 is the image's upper left corner). Where outlines
    overlap, the later one lies on top.

    Raises
    ------
    TrainingDataError
        If the file holds no outlines.
    """
    try:
        root = ElementTree.parse(path).getroot()
        outlines = [
            [(float(v.attrib["Y"]), float(v.attrib["X"])) for v in region.iter("Vertex")]
            for region in root.iter("Region")
        ]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise TrainingDataError(
            f"{path} is not a file of outlines ({error}). Download it again."
        ) from error
    if not outlines:
        raise TrainingDataError(f"{path} holds no outlines (no Region). Download it again.")
    labels = np.zeros(shape, np.int32)
    for number, vertices in enumerate(outlines, start=1):
        if len(vertices) < 3:
            continue  # a slip of the pen: it has no inside
        y, x = np.array(vertices).T - 0.5  # corners to pixel centres
        labels[polygon(y, x, shape)] = number
    return labels
