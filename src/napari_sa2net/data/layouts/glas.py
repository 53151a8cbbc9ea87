"""GlaS: glands in H&E colon tissue, MICCAI 2015 (Sirinukunwattana et al., MedIA 2017).

As downloaded it is BMP pairs in one folder; the published SA2-Net code trains from
Train_Folder/Test_Folder.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

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
    pair,
)

CLASSES = ("background", "gland")
#: Training images.
WHOLE = (85,)
EXPECTED = "train_1.bmp with train_1_anno.bmp and so on, or Train_Folder/img and labelcol"
NAME = re.compile(r"(train|testA|testB)_\d+")


def open_glas(directory: Path) -> Layout:
    """GlaS in either form; see `open_layout`.

    As downloaded: ``train_N.bmp``, ``testA_N.bmp`` and ``testB_N.bmp``, each with
    ``…_anno.bmp`` (instance numbers). Groups are the patients of ``Grade.csv``, where that
    is there.
    """
    check_directory(directory, "GlaS", EXPECTED)
    if has_folders(directory):
        return open_folders(directory, "glas", CLASSES, whole=WHOLE)
    files = files_below(directory, (".bmp",))
    images = [p for p in files if NAME.fullmatch(p.stem)]
    items = []
    patients: dict[Path, dict[str, str]] = {}
    for path in images:
        mask = path.with_name(f"{path.stem}_anno{path.suffix}")
        if not mask.is_file():
            raise missing(mask, f"the mask of {path.name}")
        if path.parent not in patients:
            patients[path.parent] = _patients(path.parent / "Grade.csv")
        group = patients[path.parent].get(path.stem, path.stem)
        split = "train" if path.stem.startswith("train") else "test"
        items.append(LayoutItem(path.stem, group, split, pair(path, mask)))
    for path in files:
        image = path.with_name(f"{path.stem.removesuffix('_anno')}{path.suffix}")
        if path != image and NAME.fullmatch(image.stem) and image not in images:
            raise missing(image, f"the image of {path.name}")
    found = sum(item.split == "train" for item in items)
    notes = count_note(found, WHOLE, "training images")
    return make_layout(directory, "glas", CLASSES, items, "downloaded", EXPECTED, notes)


def _patients(path: Path) -> dict[str, str]:
    """Patient of each image, off the table of grades."""
    if not path.is_file():
        return {}
    # Names and numbers are all that is used: what another encoding spoils is not among them.
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = [{(k or "").strip(): v for k, v in row.items()} for row in csv.DictReader(file)]
    return {
        row["name"].strip(): f"patient {row['patient ID'].strip()}"
        for row in rows
        if row.get("name") and row.get("patient ID")
    }
