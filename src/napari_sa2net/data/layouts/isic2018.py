"""ISIC 2018, task 1: outlines of skin lesions (Codella et al., arXiv 1902.03368)."""

from __future__ import annotations

from pathlib import Path

from napari_sa2net.data.layouts.base import (
    Layout,
    LayoutItem,
    check_directory,
    count_note,
    files_in,
    make_layout,
    missing,
    pair,
)

CLASSES = ("background", "lesion")
IMAGES, MASKS = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
#: Training images.
WHOLE = (2594,)
EXPECTED = f"{IMAGES}/ISIC_*.jpg with {MASKS}/ISIC_*_segmentation.png"


def open_isic2018(directory: Path) -> Layout:
    """ISIC 2018 as downloaded; see `open_layout`.

    The 2594 training images, in order of their names: as published, the first 1815 train,
    the next 259 validate, the other 520 test; of fewer images the same shares (70 %, 10 %).
    """
    check_directory(directory, "ISIC 2018", EXPECTED)
    folders = [directory / IMAGES, directory / MASKS]
    for folder in folders:
        if not folder.is_dir():
            raise missing(folder, f"expected is {EXPECTED}")
    images = files_in(folders[0], (".jpg", ".jpeg"))
    named = {path.stem for path in images}
    # Before the split, which one image less would shift.
    for mask in files_in(folders[1], (".png",)):
        image = folders[0] / f"{mask.stem.removesuffix('_segmentation')}.jpg"
        if mask.stem.endswith("_segmentation") and image.stem not in named:
            raise missing(image, f"the image of {mask.name}")
    first, second = int(0.7 * len(images)), int(0.7 * len(images)) + int(0.1 * len(images))
    items = []
    for i, path in enumerate(images):
        mask = folders[1] / f"{path.stem}_segmentation.png"
        if not mask.is_file():
            raise missing(mask, f"the mask of {path.name}")
        split = "train" if i < first else "val" if i < second else "test"
        items.append(LayoutItem(path.stem, path.stem, split, pair(path, mask)))
    notes = count_note(len(items), WHOLE, "images")
    return make_layout(directory, "isic2018", CLASSES, items, "downloaded", EXPECTED, notes)
