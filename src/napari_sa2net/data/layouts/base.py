"""What a data set's layout is: items with names, groups and splits, read one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.io import natural_key, read_image
from napari_sa2net.errors import SA2NetError, TrainingDataError

SPLITS = ("train", "val", "test")
#: Of the published training code.
FOLDERS = ("Train_Folder", "Val_Folder", "Test_Folder")
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
    name, group : str
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
    dataset : str
    classes : tuple of str
        Background first. With two, every mask value above 0 is the second one.
    items : tuple of LayoutItem
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


def has_folders(directory: Path) -> bool:
    """Whether it is laid out as the published training code reads it."""
    return any((directory / name).is_dir() for name in FOLDERS)


def check_directory(directory: Path, dataset: str, expected: str) -> None:
    """Raises TrainingDataError if there is no such folder."""
    if not directory.is_dir():
        raise TrainingDataError(
            f"{directory} is not a folder. Give the folder that {dataset} was unpacked into, "
            f"with {expected}."
        )


def make_layout(
    directory: Path,
    dataset: str,
    classes: tuple[str, ...],
    items: Sequence[LayoutItem],
    form: str,
    expected: str,
    notes: Sequence[str] = (),
) -> Layout:
    """A layout, once it is known to hold something and no name twice."""
    if not items:
        raise TrainingDataError(
            f"{directory} holds no images of {dataset}. Expected is {expected}."
        )
    name, count = Counter((item.split, item.name) for item in items).most_common(1)[0]
    if count > 1:
        raise TrainingDataError(
            f"{directory} holds {name[1]!r} {count} times. Keep one copy of the data set there."
        )
    return Layout(dataset, classes, tuple(items), form, tuple(notes))


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


def open_folders(
    directory: Path,
    dataset: str,
    classes: tuple[str, ...],
    group: Callable[[str], str] = str,
    whole: Sequence[int] = (),
) -> Layout:
    """The layout that the published training code reads.

    ``Train_Folder``, and if they are there ``Val_Folder`` and ``Test_Folder``, each with
    ``img/NAME.png`` (or another picture) and ``labelcol/NAME.png``.

    Parameters
    ----------
    directory : path
    dataset : str
    classes : tuple of str
    group : callable
        Group of an image's name.
    whole : sequence of int
        How many training images, those for validation among them, are handed out.
    """
    expected = "Train_Folder/img and Train_Folder/labelcol"
    items = []
    if not (directory / FOLDERS[0]).is_dir():
        raise missing(directory / FOLDERS[0], f"expected is {expected}")
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
            items.append(LayoutItem(path.stem, group(path.stem), split, _Pair(path, mask)))
        named = {path.stem for path in files_in(folder / "img")}
        for mask in masks.values():
            if not {mask.stem, mask.stem.removesuffix("_anno")} & named:
                raise missing(
                    folder / "img" / f"{mask.stem.removesuffix('_anno')}{mask.suffix}",
                    f"the image of {mask.name}",
                )
    found = sum(item.split != "test" for item in items)
    notes = count_note(found, whole, "images to train and validate on")
    return make_layout(directory, dataset, classes, items, "folders", expected, notes)


@dataclass(frozen=True)
class _Pair:
    image: Path
    mask: Path

    def __call__(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return picture(self.image), mask_picture(self.mask)


def pair(image: Path, mask: Path) -> Callable[[], tuple[NDArray[Any], NDArray[Any]]]:
    """What loads an image file and its mask file."""
    return _Pair(image, mask)
