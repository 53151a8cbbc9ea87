"""What a data set's layout is: items with names, groups and splits, read one by one."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from napari_sa2net.data.io import read_image
from napari_sa2net.data.listing import natural_key
from napari_sa2net.errors import SA2NetError, SettingsError, TrainingDataError

SPLITS = ("train", "val", "test")
#: Of the published training code.
FOLDERS = ("Train_Folder", "Val_Folder", "Test_Folder")
IN_FOLDERS = "Train_Folder/img and Train_Folder/labelcol"
PICTURES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")


class Sample(NamedTuple):
    """One image with its truth.

    Attributes
    ----------
    image : (Y, X) or (Y, X, C)
        As stored; colours are red, green, blue.
    mask : (Y, X) int32
        Instance numbers where the files have them, else classes; 0 is background.
    name, group : str
        The group (patient, slide) is what must not be torn apart; the name where none is
        known.
    """

    image: NDArray[Any]
    mask: NDArray[np.int32]
    name: str
    group: str


@dataclass(frozen=True)
class LayoutItem:
    """Where one sample is, unread.

    Attributes
    ----------
    split : "train", "val" or "test"
    load : callable -> (image, mask)
    unit : str
        What is scored as one: the image, or the volume that it is a slice of.
    """

    name: str
    group: str
    split: str
    load: Callable[[], tuple[NDArray[Any], NDArray[Any]]]
    unit: str = ""

    def read(self) -> Sample:
        """Read image and mask.

        Raises
        ------
        TrainingDataError
            If a file is damaged or the two differ in size.
        """
        try:
            image, mask = self.load()
        except TrainingDataError:
            raise
        except (SA2NetError, OSError, ValueError) as error:
            raise TrainingDataError(f"{self.name} cannot be read: {error}") from error
        if image.shape[:2] != mask.shape:
            raise TrainingDataError(
                f"{self.name}: the mask is {mask.shape}, the image {image.shape[:2]}. "
                "Unpack the data set again."
            )
        return Sample(image, np.ascontiguousarray(mask, np.int32), self.name, self.group)


@dataclass(frozen=True)
class Layout:
    """A data set on disk.

    Iterating reads one sample after the other.

    Attributes
    ----------
    classes : tuple of str
        Background first. With two, every mask value above 0 is the second one.
    form : str
        Which of its forms it was found in.
    notes : tuple of str
        What seems to be missing, for the reader of its figures to know.
    """

    dataset: str
    classes: tuple[str, ...]
    items: tuple[LayoutItem, ...]
    form: str
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Sample]:
        return (item.read() for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def split(self, *names: str) -> tuple[LayoutItem, ...]:
        """Items of some splits, in order."""
        return tuple(item for item in self.items if item.split in names)


#: What a data set's own opener finds: items, and notes on what seems to be missing.
Found = tuple[list[LayoutItem], tuple[str, ...]]


def has_folders(directory: Path) -> bool:
    """Whether it is laid out as the published training code reads it."""
    return any((directory / name).is_dir() for name in FOLDERS)


def count_note(here: int, whole: Sequence[int], what: str) -> tuple[str, ...]:
    """What to say where there are not as many of something as are handed out."""
    if here in whole:
        return ()
    return (f"{here} {what} are there, of {' or '.join(map(str, whole))} handed out.",)


def picture(path: Path) -> NDArray[Any]:
    """A picture or TIFF as (Y, X) or (Y, X, 3), without transparency.

    Raises
    ------
    ImageFileError
    """
    array = np.asarray(read_image(path).array)
    return array[..., :3] if array.ndim == 3 and array.shape[-1] == 4 else array


def mask_picture(path: Path) -> NDArray[Any]:
    """A mask, which some programs save in three equal channels."""
    array = np.asarray(read_image(path).array)
    return array[..., 0] if array.ndim == 3 else array


def files_in(directory: Path, suffixes: Sequence[str] = PICTURES) -> list[Path]:
    """Files with these endings right inside a folder, in natural order."""
    return sorted(
        (
            path
            for path in directory.iterdir()
            if path.suffix.lower() in suffixes and not path.name.startswith(".")
        ),
        key=natural_key,
    )


def files_below(directory: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with these endings anywhere below a folder, in natural order."""
    found = (
        path
        for path in directory.rglob("*")
        if path.name.lower().endswith(tuple(suffixes)) and not path.name.startswith(".")
    )
    return sorted(found, key=natural_key)


def missing(path: Path, why: str) -> TrainingDataError:
    """The error for a file that should be there."""
    return TrainingDataError(f"{path} is missing: {why}. Unpack the data set again.")


def split_of(i: int, first: int, second: int) -> str:
    """Split of item i where the first so many train, and those up to the second validate."""
    return "train" if i < first else "val" if i < second else "test"


def open_folders(
    directory: Path, group: Callable[[str], str] = str, whole: Sequence[int] = ()
) -> Found:
    """The layout that the published training code reads.

    ``Train_Folder``, and if they are there ``Val_Folder`` and ``Test_Folder``, each with
    ``img/NAME.png`` (or another picture) and ``labelcol/NAME.png``.

    Parameters
    ----------
    group : callable
        Group of an image's name.
    whole : sequence of int
        How many training images, those for validation among them, are handed out.
    """
    items = []
    if not (directory / FOLDERS[0]).is_dir():
        raise missing(directory / FOLDERS[0], f"expected is {IN_FOLDERS}")
    for split, name in zip(SPLITS, FOLDERS, strict=True):
        folder = directory / name
        if not folder.is_dir():
            continue
        for part in ("img", "labelcol"):
            if not (folder / part).is_dir():
                raise missing(folder / part, f"{name} holds img and labelcol")
        masks = {path.stem: path for path in files_in(folder / "labelcol")}
        for path in files_in(folder / "img"):
            mask = masks.get(path.stem) or masks.get(f"{path.stem}_anno")
            if mask is None:
                raise missing(
                    folder / "labelcol" / f"{path.stem}.png", f"the mask of {path.name}"
                )
            items.append(LayoutItem(path.stem, group(path.stem), split, Pair(path, mask)))
        named = {path.stem for path in files_in(folder / "img")}
        for mask in masks.values():
            if not {mask.stem, mask.stem.removesuffix("_anno")} & named:
                raise missing(
                    folder / "img" / f"{mask.stem.removesuffix('_anno')}{mask.suffix}",
                    f"the image of {mask.name}",
                )
    found = sum(item.split != "test" for item in items)
    return items, count_note(found, whole, "images to train and validate on")


@dataclass(frozen=True)
class Pair:
    """Loads an image file and its mask file."""

    image: Path
    mask: Path

    def __call__(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return picture(self.image), mask_picture(self.mask)


# --------------------------------------------------------------------------------------------
# ACDC: heart chambers in cine MRI (Bernard et al., IEEE TMI 2018), slice by slice.

#: In the training part.
PATIENTS = 100
ACDC_EXPECTED = "training/patient001/patient001_frame01.nii.gz with …_gt.nii.gz and so on"
ACDC_NAME = re.compile(r"(patient(\d+)_frame\d+)\.nii(\.gz)?")


def open_acdc(directory: Path) -> Found:
    """ACDC as downloaded, one item per slice; see `open_layout`.

    The two annotated frames of each of the 100 patients in ``training``. Of ten patients in
    order of their numbers, which are sorted by disease, the first seven train, the eighth
    validates, the last two test: shares as in the papers that compare on it, whose lists of
    patients we could not verify. Groups are patients; a frame is scored as one volume.

    Raises
    ------
    SettingsError
        If nibabel is not installed.
    """
    nibabel = _nibabel()
    root = directory / "training" if (directory / "training").is_dir() else directory
    items = []
    for path in files_below(root, (".nii", ".nii.gz")):
        match = ACDC_NAME.fullmatch(path.name)
        if match is None:
            image = path.with_name(path.name.replace("_gt.", ".", 1))
            if ACDC_NAME.fullmatch(image.name) and not image.is_file():
                raise missing(image, f"the image of {path.name}")
            continue  # the whole film, or a mask
        frame, number = match[1], int(match[2])
        mask = path.with_name(path.name.replace(frame, f"{frame}_gt", 1))
        if not mask.is_file():
            raise missing(mask, f"the mask of {path.name}")
        try:
            shape = nibabel.load(path).shape
        except Exception as error:  # whatever a damaged file provokes
            raise TrainingDataError(
                f"{path} cannot be read ({error}). Download it again."
            ) from error
        if len(shape) != 3:
            raise TrainingDataError(f"{path} has {len(shape)} axes, where a frame has three.")
        turn = (number - 1) % 10
        split, group = split_of(turn, 7, 8), f"patient{number:03d}"
        items += [
            LayoutItem(f"{frame}_slice{z:02d}", group, split, _Slice(path, mask, z), frame)
            for z in range(shape[2])
        ]
    return items, _missing_patients({item.group for item in items})


def _missing_patients(there: Collection[str]) -> tuple[str, ...]:
    lacking = [p for n in range(1, PATIENTS + 1) if (p := f"patient{n:03d}") not in there]
    if not lacking:
        return ()
    some = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
    return (f"Of {PATIENTS} patients {len(lacking)} are not there ({some}).",)


@dataclass(frozen=True)
class _Slice:
    image: Path
    mask: Path
    z: int

    def __call__(self) -> tuple[NDArray[Any], NDArray[Any]]:
        image, mask = (self._plane(path) for path in (self.image, self.mask))
        return image.astype(np.float32), np.rint(mask).astype(np.int32)

    def _plane(self, path: Path) -> NDArray[Any]:
        volume = _nibabel().load(path)
        # Stored with X first.
        return np.asarray(volume.dataobj[..., self.z]).T


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError:
        raise SettingsError(
            "NIfTI files need nibabel, which is not installed: pip install nibabel"
        ) from None
    return nibabel


# --------------------------------------------------------------------------------------------
# GlaS: glands in H&E colon tissue, MICCAI 2015 (Sirinukunwattana et al., MedIA 2017).
#
# As downloaded it is BMP pairs in one folder; the published SA2-Net code trains from
# Train_Folder/Test_Folder.

#: Training images.
GLAS_WHOLE = (85,)
GLAS_EXPECTED = "train_1.bmp with train_1_anno.bmp and so on, or Train_Folder/img and labelcol"
GLAS_NAME = re.compile(r"(train|testA|testB)_\d+")


def open_glas(directory: Path) -> Found:
    """GlaS as downloaded; see `open_layout`.

    ``train_N.bmp``, ``testA_N.bmp`` and ``testB_N.bmp``, each with
    ``…_anno.bmp`` (instance numbers). Groups are the patients of ``Grade.csv``, where that
    is there.
    """
    files = files_below(directory, (".bmp",))
    images = [p for p in files if GLAS_NAME.fullmatch(p.stem)]
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
        items.append(LayoutItem(path.stem, group, split, Pair(path, mask)))
    for path in files:
        image = path.with_name(f"{path.stem.removesuffix('_anno')}{path.suffix}")
        if path != image and GLAS_NAME.fullmatch(image.stem) and image not in images:
            raise missing(image, f"the image of {path.name}")
    found = sum(item.split == "train" for item in items)
    return items, count_note(found, GLAS_WHOLE, "training images")


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


# --------------------------------------------------------------------------------------------
# ISIC 2018, task 1: outlines of skin lesions (Codella et al., arXiv 1902.03368).

ISIC_IMAGES, MASKS = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
#: Training images.
ISIC_WHOLE = (2594,)
ISIC_EXPECTED = f"{ISIC_IMAGES}/ISIC_*.jpg with {MASKS}/ISIC_*_segmentation.png"


def open_isic2018(directory: Path) -> Found:
    """ISIC 2018 as downloaded; see `open_layout`.

    The 2594 training images, in order of their names: as published, the first 1815 train,
    the next 259 validate, the other 520 test; of fewer images the same shares (70 %, 10 %).
    """
    folders = [directory / ISIC_IMAGES, directory / MASKS]
    for folder in folders:
        if not folder.is_dir():
            raise missing(folder, f"expected is {ISIC_EXPECTED}")
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
        split = split_of(i, first, second)
        items.append(LayoutItem(path.stem, path.stem, split, Pair(path, mask)))
    return items, count_note(len(items), ISIC_WHOLE, "images")


# --------------------------------------------------------------------------------------------
# MoNuSeg 2018: nuclei in H&E tissue, 1000×1000 px at 40×.
#
# Kumar et al., IEEE TMI 2017 and 2020. As downloaded it is TIFF images with Aperio XML
# outlines; the published SA2-Net code trains from Train_Folder/Val_Folder/Test_Folder.

#: Training images of the challenge, and of the later download.
MONUSEG_WHOLE = (30, 37)
#: A folder of test images: the word, not a part of another ("latest").
TEST = re.compile(r"T(?:est|EST)|(?<![A-Za-z])test")
MONUSEG_IMAGES, OUTLINES = "Tissue Images", "Annotations"
MONUSEG_EXPECTED = (
    "'Tissue Images/*.tif' with 'Annotations/*.xml', or Train_Folder/img and labelcol"
)


def open_monuseg(directory: Path) -> Found:
    """MoNuSeg as downloaded; see `open_layout`.

    Images and outlines are paired by name wherever they lie; those below a
    folder with the word "test" in its name are the test images. Groups are patients.
    """
    images = files_below(directory, (".tif", ".tiff"))
    outlines = {path.stem: path for path in files_below(directory, (".xml",))}
    annotated = list(outlines.values())
    items = []
    for path in images:
        outline = outlines.pop(path.stem, None)
        if outline is None:
            place = _partner(path, MONUSEG_IMAGES, OUTLINES, annotated).with_suffix(".xml")
            raise missing(place, f"the outlines of {path.name}")
        inside = path.relative_to(directory).parts[:-1]
        split = "test" if any(map(TEST.search, inside)) else "train"
        load = _Outlined(path, outline)
        items.append(LayoutItem(path.stem, patient(path.stem), split, load))
    if outlines:
        orphan = next(iter(outlines.values()))
        place = _partner(orphan, OUTLINES, MONUSEG_IMAGES, images).with_suffix(".tif")
        raise missing(place, f"the image of {orphan.name}")
    found = sum(item.split == "train" for item in items)
    return items, count_note(found, MONUSEG_WHOLE, "training images")


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


# --------------------------------------------------------------------------------------------
# SegPC-2021: plasma cells in bone marrow (Gupta et al., MedIA 2023), cell by cell.
#
# The task of the papers that compare on it: given a crop around a nucleus and the nucleus
# itself as a fourth channel, find the cell.

SEGPC_EXPECTED = "train/x/N.bmp with train/y/N_1.bmp, N_2.bmp …, and the same in validation"
TRAINING, VALIDATION = ("train",), ("validation", "valid", "val")
#: Values of cytoplasm and nucleus in a cell's mask, or above.
CYTOPLASM, NUCLEUS = 20, 40
#: The crop is the nucleus' box, grown on each side by half of this times its height and width.
SCALE = 2.5
#: Where in the cells of all images those that validate begin, and those that test.
SPLIT = (0.5, 0.7)
SEGPC_PICTURES = (".bmp",)


def open_segpc2021(directory: Path) -> Found:
    """SegPC-2021 as downloaded, one item per annotated cell; see `open_layout`.

    Each mask file holds one cell: cytoplasm 20, nucleus 40. Of the cells of the training
    images and then of the validation images, in order of their names, the first half trains,
    the next fifth validates, the rest tests, as published. Cells are counted, not images, so
    one image may lie on two sides. Groups are images.
    """
    tops = {
        path.parent
        for path in directory.rglob("[xy]")
        if path.is_dir() and path.parent.name in (*TRAINING, *VALIDATION)
    }
    for names in (TRAINING, VALIDATION):
        if not any(top.name in names for top in tops):
            raise missing(directory / names[0] / "x", f"expected is {SEGPC_EXPECTED}")
    found: list[tuple[Path, list[Path]]] = []
    for top in sorted(tops, key=lambda top: (top.name in VALIDATION, top)):
        folder, masks_folder = top / "x", top / "y"
        if not folder.is_dir():
            raise missing(folder, "it holds the images")
        if not masks_folder.is_dir():
            raise missing(masks_folder, "it holds the masks of the cells")
        masks = files_in(masks_folder, SEGPC_PICTURES)
        by_image: dict[str, list[Path]] = {}
        for mask in masks:
            by_image.setdefault(mask.stem.rpartition("_")[0], []).append(mask)
        for image in files_in(folder, SEGPC_PICTURES):
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
    ends = tuple(int(share * len(cells)) for share in SPLIT)
    items = []
    for i, (image, mask) in enumerate(cells):
        # With its folder: training and validation images may share numbers.
        where = image.parent.parent.name
        name, group, split = f"{where} {mask.stem}", f"{where} {image.stem}", split_of(i, *ends)
        items.append(LayoutItem(name, group, split, _Cell(image, mask)))
    return items, notes


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


# --------------------------------------------------------------------------------------------
# Public data sets as their authors hand them out, read without preparing anything.

__all__ = ["DATASETS", "Layout", "LayoutItem", "Sample", "open_layout"]


@dataclass(frozen=True)
class _DataSet:
    """What its authors hand out, and what opens that; `whole` where there are folders, too."""

    title: str
    classes: tuple[str, ...]
    expected: str
    open: Callable[[Path], Found]
    whole: tuple[int, ...] = ()
    group: Callable[[str], str] = str


#: By name.
DATASETS: dict[str, _DataSet] = {
    "monuseg": _DataSet(
        "MoNuSeg",
        ("background", "nucleus"),
        MONUSEG_EXPECTED,
        open_monuseg,
        MONUSEG_WHOLE,
        patient,
    ),
    "glas": _DataSet("GlaS", ("background", "gland"), GLAS_EXPECTED, open_glas, GLAS_WHOLE),
    "isic2018": _DataSet("ISIC 2018", ("background", "lesion"), ISIC_EXPECTED, open_isic2018),
    "segpc2021": _DataSet("SegPC-2021", ("background", "cell"), SEGPC_EXPECTED, open_segpc2021),
    "acdc": _DataSet(
        "ACDC",
        ("background", "right ventricle", "myocardium", "left ventricle"),
        ACDC_EXPECTED,
        open_acdc,
    ),
}


def open_layout(dataset: str, directory: str | Path) -> Layout:
    """Find the images and masks of a public data set; nothing is read yet.

    Parameters
    ----------
    dataset : str
        One of `DATASETS`.
    directory : path
        Where it was unpacked.

    Raises
    ------
    SettingsError
        If the data set is not known.
    TrainingDataError
        If the folder is not laid out as its authors hand it out; the message names the file
        or folder that is missing.
    """
    if dataset not in DATASETS:
        raise SettingsError(f"Unknown data set {dataset!r}. Known are: {', '.join(DATASETS)}.")
    of, directory = DATASETS[dataset], Path(directory).expanduser()
    if not directory.is_dir():
        raise TrainingDataError(
            f"{directory} is not a folder. Give the folder that {of.title} was unpacked into, "
            f"with {of.expected}."
        )
    in_folders = bool(of.whole) and has_folders(directory)
    opened = open_folders(directory, of.group, of.whole) if in_folders else of.open(directory)
    items, notes = opened
    if not items:
        expected = IN_FOLDERS if in_folders else of.expected
        raise TrainingDataError(
            f"{directory} holds no images of {dataset}. Expected is {expected}."
        )
    name, count = Counter((item.split, item.name) for item in items).most_common(1)[0]
    if count > 1:
        raise TrainingDataError(
            f"{directory} holds {name[1]!r} {count} times. Keep one copy of the data set there."
        )
    form = "folders" if in_folders else "downloaded"
    return Layout(dataset, of.classes, tuple(items), form, notes)
