"""Tiny look-alikes of public data sets, in their true file formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

SHAPE = (40, 48)


def blob(seed: int, shape: tuple[int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """An RGB image with two dark squares, and their instance labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    labels[4:16, 5:17] = 1
    labels[22:34, 20 + seed % 8 : 36 + seed % 8] = 2
    image = rng.integers(180, 230, (*shape, 3))
    image[labels > 0] = rng.integers(60, 110, (int((labels > 0).sum()), 3))
    return image.astype(np.uint8), labels


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)


def folders(root: Path, counts: dict[str, int] | None = None, top: int = 255) -> Path:
    for folder, n in (counts or {"Train_Folder": 4, "Val_Folder": 1, "Test_Folder": 2}).items():
        for i in range(n):
            image, labels = blob(i + 10 * len(folder))
            save(root / folder / "img" / f"{folder[:2]}{i}.png", image)
            mask = np.where(labels > 0, top, 0).astype(np.uint8)
            save(root / folder / "labelcol" / f"{folder[:2]}{i}.png", mask)
    return root


def monuseg(root: Path) -> Path:
    top = root / "MoNuSeg 2018 Training Data"
    for i in range(3):
        name = f"TCGA-A7-A13{i // 2}-01Z-00-DX{i}"
        image, labels = blob(i)
        save(top / "Tissue Images" / f"{name}.tif", image)
        write_xml(top / "Annotations" / f"{name}.xml", labels)
    image, labels = blob(9)
    save(root / "MoNuSegTestData" / "TCGA-2Z-A9J9-01A-01-TS1.tif", image)
    write_xml(root / "MoNuSegTestData" / "TCGA-2Z-A9J9-01A-01-TS1.xml", labels)
    return root


def write_xml(path: Path, labels: np.ndarray) -> None:
    """Outlines of the squares in the format of Aperio ImageScope."""
    regions = []
    for number in range(1, labels.max() + 1):
        y, x = np.nonzero(labels == number)
        corners = [
            (x.min(), y.min()),
            (x.max() + 1, y.min()),
            (x.max() + 1, y.max() + 1),
            (x.min(), y.max() + 1),
        ]
        vertices = "".join(f'<Vertex X="{a}.0" Y="{b}.0" Z="0"/>' for a, b in corners)
        regions.append(
            f'<Region Id="{number}" Type="0"><Attributes/>'
            f"<Vertices>{vertices}</Vertices></Region>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<?xml version="1.0"?><Annotations MicronsPerPixel="0.252000"><Annotation Id="1" '
        'Type="4"><Regions><RegionAttributeHeaders/>' + "".join(regions) + "</Regions>"
        "<Plots/></Annotation></Annotations>"
    )


def glas(root: Path, n: int = 4) -> Path:
    top = root / "Warwick QU Dataset (Released 2016_07_08)"
    names = [*(f"train_{i + 1}" for i in range(n)), "testA_1", "testB_1"]
    for i, name in enumerate(names):
        image, labels = blob(i)
        save(top / f"{name}.bmp", image)
        save(top / f"{name}_anno.bmp", labels)
    rows = [f"{name}, {i // 2 + 1}, benign, adenomatous" for i, name in enumerate(names)]
    header = "name, patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"
    (top / "Grade.csv").write_text("\n".join([header, *rows]))
    return root


def isic2018(root: Path, n: int = 10) -> Path:
    for i in range(n):
        image, labels = blob(i)
        save(root / "ISIC2018_Task1-2_Training_Input" / f"ISIC_{i:07d}.jpg", image)
        mask = np.where(labels == 1, 255, 0).astype(np.uint8)
        folder = root / "ISIC2018_Task1_Training_GroundTruth"
        save(folder / f"ISIC_{i:07d}_segmentation.png", mask)
    return root


def segpc2021(root: Path, n: int = 4) -> Path:
    for folder, first in (("train", 100), ("validation", 1000)):
        for i in range(n if folder == "train" else 1):
            image, labels = blob(i)
            top = root / "TCIA_SegPC_dataset" / folder
            save(top / "x" / f"{first + i}.bmp", image)
            for cell in (1, 2):
                values = np.where(labels == cell, 20, 0).astype(np.uint8)
                y, x = np.argwhere(labels == cell).mean(0).astype(int)
                values[y - 2 : y + 2, x - 3 : x + 3] = 40
                save(top / "y" / f"{first + i}_{cell}.bmp", values)
    return root


def acdc(root: Path, patients: tuple[int, ...] = (1, 2, 8, 9)) -> Path:
    import nibabel

    for number in patients:
        folder = root / "training" / f"patient{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        mask = np.zeros((*SHAPE, 2), np.uint8)
        mask[6:30, 8:40], mask[10:26, 12:36], mask[14:22, 16:32] = 1, 2, 3
        volume = mask * 60 + rng.integers(0, 20, mask.shape)
        affine = np.diag([1.5, 1.5, 10, 1])
        for frame in (1, 12):
            name = f"patient{number:03d}_frame{frame:02d}"
            for array, ending in ((volume.astype(np.int16), ""), (mask, "_gt")):
                image = nibabel.Nifti1Image(array.transpose(1, 0, 2), affine)
                nibabel.save(image, folder / f"{name}{ending}.nii.gz")
        film = nibabel.Nifti1Image(np.zeros((8, 8, 2, 3), np.int16), affine)
        nibabel.save(film, folder / f"patient{number:03d}_4d.nii.gz")
    return root


MAKERS = {
    "monuseg": monuseg,
    "glas": glas,
    "isic2018": isic2018,
    "segpc2021": segpc2021,
    "acdc": acdc,
}
