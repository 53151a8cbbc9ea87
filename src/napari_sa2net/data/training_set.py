"""Training folders: images and labels by name, splits from index.csv or the manifest."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import os
import random
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InputConfig
from napari_sa2net.data.axes import Channels, channel_choice, channel_numbers
from napari_sa2net.data.commit import KINDS, CommitRecord, Seen, is_training_set, read_manifest
from napari_sa2net.data.io import ImageFile, is_zarr, read_image, turned
from napari_sa2net.data.label_files import is_label_image, is_other_format, label_files
from napari_sa2net.data.listing import stem_of
from napari_sa2net.data.plan import ImagePlan, plan_as_input, plan_image
from napari_sa2net.errors import (
    ChannelError,
    CommitNotFoundError,
    SA2NetError,
    TrainingDataError,
)
from napari_sa2net.words import listed

logger = logging.getLogger(__name__)

# --------------------------------------------------------------------------------------------
# Tables of images (index.csv), as people and spreadsheets write them.

_DELIMITERS = ",;\t|"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_word(text: str) -> str:
    """A split in one spelling: "Training" is train, "validation" is val."""
    return _SPLITS.get(text.strip().casefold(), text.strip())


def read_index(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a table of images.

    UTF-8, UTF-16 and Windows-1252; columns set apart by commas, semicolons or tabs; blanks
    around words, empty rows and upper case in the heads do not count, nor do folders in names.

    Returns
    -------
    columns : list of str
        In lower case.
    rows : list of dict of str to str

    Raises
    ------
    TrainingDataError
        If it cannot be read.
    """
    try:
        lines = _text(path.read_bytes()).lstrip("\ufeff").splitlines(keepends=True)
        while lines and not lines[0].strip():
            del lines[0]
        delimiter = ""
        if lines and (said := re.match(r"sep=(.)\s*$", lines[0], re.IGNORECASE)):
            delimiter = said[1]  # Excel's own way of telling
            del lines[0]
        delimiter = delimiter or _delimiter(lines[0] if lines else "")
        text = io.StringIO("".join(lines), newline="")
        table = [
            [cell.strip() for cell in row]
            for row in csv.reader(text, delimiter=delimiter, skipinitialspace=True)
        ]
    except (OSError, UnicodeError, csv.Error) as error:
        raise TrainingDataError(
            f"The index {path} cannot be read ({error}). Save it as CSV in UTF-8."
        ) from error
    columns = [head.casefold() for head in table[0]] if table else []
    rows = [
        dict(zip(columns, [*row, *[""] * len(columns)], strict=False))
        for row in table[1:]
        if any(row)
    ]
    for row in rows:
        if "name" in row:  # scripts like to write whole paths
            row["name"] = re.split(r"[/\\]", row["name"])[-1]
    return [head for head in columns if head], rows


def _text(raw: bytes) -> str:
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return raw.decode(encoding)
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        half = raw[start::2]
        if half and half.count(0) > len(half) // 2:
            return raw.decode(encoding)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _delimiter(head: str) -> str:
    """What sets the columns apart: what gives one called name, else most columns."""
    heads = {
        mark: [
            cell.strip().casefold()
            for cell in next(csv.reader([head], delimiter=mark, skipinitialspace=True), [])
        ]
        for mark in _DELIMITERS
    }
    return max(_DELIMITERS, key=lambda mark: ("name" in heads[mark], len(heads[mark])))


#: Endings of image files, in the order they are looked for.
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy")
COLUMNS = ("split", "name", "kind", "group")
#: Splits to train on and to validate with.
LEARNED_FROM = ("train", "val")


@dataclass(frozen=True)
class TrainingItem:
    """One image to train on or to validate with.

    Attributes
    ----------
    name : str
        Stem of the files.
    image, labels : Path
    reviewed : Path or None
        Mask of the pixels that count; None: all of them.
    split : str
        ``train``, ``val``, or empty where nothing says so.
    kind, group : str
        What the image shows, and what it belongs with (slide, patient, dish); may be empty.
    levels : tuple of (low, high), or None
        Per channel, the values that become 0 and 1, where the image is a crop of a larger one
        that was measured.
    commit : str
        Id of the commit in a set of corrections; may be empty.
    place : str
        Fingerprint of the source, plane and crop, that all commits of this place share; empty
        where the source's pixels are not known.
    before : tuple of str
        Ids of the other commits of this place, whatever became of them.
    kin : tuple of str
        Ids (where there are none, names) of what belongs to the same group.
    axes : str or None
        Of the image's file; None: as the file tells.
    channels : tuple of int or str, or None
        Channels of the file that go in, by number or name; None: all of a commit's, otherwise
        nobody has chosen.
    seen : Seen or None
        How the image went in when its cells were made; None where that is unknown.
    """

    name: str
    image: Path
    labels: Path
    reviewed: Path | None = None
    split: str = ""
    kind: str = ""
    group: str = ""
    levels: tuple[tuple[float, float], ...] | None = None
    commit: str = ""
    place: str = ""
    before: tuple[str, ...] = ()
    kin: tuple[str, ...] = ()
    axes: str | None = None
    channels: tuple[int | str, ...] | None = None
    seen: Seen | None = None


def load_training_folder(
    directory: str | Path,
    splits: Collection[str] = LEARNED_FROM,
    only: Collection[str] | None = None,
    axes: str | None = None,
    channels: Channels = None,
) -> list[TrainingItem]:
    """Find the images of a training folder.

    Parameters
    ----------
    directory : path
        Holds ``images/`` and ``labels/`` with the same stems, optionally ``reviewed/``, and
        optionally ``index.csv`` (columns split, name, and if you like kind and group). With
        an index, the folders may also lie below each split: ``train/images`` and so on.
        Where there is a ``corrections.json``, its active commits are the items, and nothing
        else is looked at.
    splits : collection of str
        Rows of the index to take, and those that name none; the others are left out, without a
        look at their files.
    only : collection of str, optional
        Names of images or ids of commits: nothing else is taken. Commits that were superseded
        or removed since are taken too, as long as their files are there.
    axes : str, optional
        Of the images, one letter each; unsaid: as each file tells.
    channels : int, str or sequence of these, optional
        Channels of the images that go in, by number from 0 or by name: ``1``, ``"DAPI,GFP"``.
        Commits know theirs.

    Returns
    -------
    list of TrainingItem, sorted by name

    Raises
    ------
    TrainingDataError
        If a folder or file is missing, or a group lies in two splits; with `only`, if one of
        them is gone.
    """
    directory = Path(directory).expanduser()
    if not os.path.isdir(directory):
        raise TrainingDataError(
            f"{directory} is not a folder. Give a folder with images/ and labels/ inside."
        )
    index = directory / "index.csv"
    choice = channel_choice(channels)
    if is_training_set(directory):
        if axes is not None or choice is not None:
            raise TrainingDataError(
                f"{directory} is a set of corrections: its images know their axes and "
                "channels. Leave axes and channels out."
            )
        items = _committed(directory, only)
    else:
        items = (
            _indexed(directory, index, splits) if os.path.isfile(index) else _listed(directory)
        )
        items = [replace(item, axes=axes, channels=choice) for item in _with_kin(items)]
    if only is not None:
        items = _chosen(items, only)
    if not items:
        raise TrainingDataError(
            f"{directory} holds no training images. Put images into images/ and their label "
            "images, with the same names, into labels/."
        )
    sides: dict[str, set[str]] = {}
    for item in items:
        if item.group:
            sides.setdefault(item.group, set()).add(item.split)
    for group, found in sorted(sides.items()):
        both = sorted(split for split in found if split)
        if len(both) > 1:
            raise TrainingDataError(
                f"Group {group!r} is in split {both[0]} and in split {both[1]}, so scores "
                "would be of what training saw. Put each group on one side of index.csv."
            )
    return sorted(items, key=lambda item: item.name)


def read_truth(
    item: TrainingItem,
    shape: tuple[int, int],
    many: str = "learned as one",
    pixel_size_um: float | None = None,
) -> tuple[NDArray[Any], NDArray[np.bool_] | None, str]:
    """Labels of an item, the pixels that count (None: all), and what may be wrong.

    Parameters
    ----------
    item : TrainingItem
    shape : (H, W)
        Of its image.
    many : str
        As of `look_at`. Of a commit such cells do not count, nor where they are `LEFT_OUT`.
    pixel_size_um : float, optional
        Of the image, as its file tells.

    Raises
    ------
    TrainingDataError
        If a file cannot be read, does not fit the image, or does not hold numbered cells.
    """
    from napari_sa2net.data.label_files import read_cells, read_mask
    from napari_sa2net.data.labels import LEFT_OUT, look_at, look_at_reviewed

    check_pixels(item, shape)
    path = item.labels
    try:
        read = read_cells(path, shape, item.name, pixel_size_um=pixel_size_um)
        labels = read.labels
        if item.reviewed is not None:
            path = item.reviewed
        counts = read_mask(path, shape) if item.reviewed is not None else None
    except SA2NetError as error:
        said = str(error) if str(path) in str(error) else f"{path}: {error}"
        if how := turned(item.image):
            said += (
                f" The image is read as it is stored, and viewers of photographs show it {how} "
                "(EXIF). If the labels were drawn on what they show, save it so, without EXIF."
            )
        raise TrainingDataError(said) from error
    if item.commit and counts is not None:
        # Looked at by a person, cell by cell; so what nobody looked at may be anything.
        look = look_at_reviewed(labels, counts)
        if look.problem:
            raise TrainingDataError(
                f"{item.name}: {look.problem.rstrip('.')}. Then keep it anew, or take it out "
                "of the set."
            )
        counts &= ~np.isin(labels, look.apart)
        return labels, counts, f"{item.name}: {look.note}" if look.apart else ""
    look = look_at(labels, many)
    if look.problem:
        raise TrainingDataError(f"{item.labels}: {look.problem}")
    notes = [*read.notes, *([look.note] if look.note else [])]
    if (how := turned(item.image)) and not turned(item.labels):
        notes.append(
            f"viewers of photographs show this image {how} (EXIF), and here it is read as it "
            "is stored: see that the labels fit"
        )
    if look.apart and many == LEFT_OUT:
        counts = ~np.isin(labels, look.apart) & (True if counts is None else counts)
    note = "; ".join(notes)
    return labels, counts, f"{item.name}: {note}" if note else ""


def check_pixels(item: TrainingItem, shape: tuple[int, int]) -> None:
    """TrainingDataError where an image has no pixel."""
    if 0 in shape:
        raise TrainingDataError(
            f"{item.image} has no pixel (it is {shape[0]} × {shape[1]}). Take it out, with its "
            "labels."
        )


def split_items(
    items: list[TrainingItem], fraction: float = 0.1, seed: int = 0
) -> tuple[list[TrainingItem], list[TrainingItem]]:
    """Items to train on and items to validate with.

    Where no item is marked ``val``, a seeded share of each kind is held out, whole groups at
    a time.

    Raises
    ------
    TrainingDataError
        If one side would be empty.
    """
    validation = [item for item in items if item.split == "val"]
    if not validation:
        held_out: set[str] = set()
        for kind in sorted({item.kind for item in items}):
            units: dict[str, list[str]] = {}
            for item in items:
                if item.kind == kind:
                    units.setdefault(item.group or item.name, []).append(item.name)
            names = sorted(units)
            random.Random(f"{seed}-{kind}").shuffle(names)
            wanted = max(1, round(fraction * sum(len(u) for u in units.values())))
            taken = 0
            for name in names[:-1]:  # at least one unit stays to train on
                if taken >= wanted:
                    break
                held_out.update(units[name])
                taken += len(units[name])
        # A group that spans kinds goes to one side as a whole.
        groups = {item.group for item in items if item.name in held_out and item.group}
        validation = [
            replace(item, split="val")
            for item in items
            if item.name in held_out or item.group in groups
        ]
    names_out = {item.name for item in validation}
    training = [item for item in items if item.name not in names_out]
    if not training or not validation:
        raise TrainingDataError(
            f"{len(items)} image(s) cannot be split into training and validation. Add at "
            "least one more image (of another group), or mark splits in index.csv."
        )
    return training, validation


def _chosen(items: list[TrainingItem], only: Collection[str]) -> list[TrainingItem]:
    chosen = [item for item in items if item.name in only or item.commit in only]
    found = {key for item in chosen for key in (item.name, item.commit)}
    missing = [name for name in only if name not in found]
    if missing:
        raise TrainingDataError(
            f"The training set no longer has {listed(missing)}. Bring the files back, or start "
            "a new run."
        )
    return chosen


def _with_kin(items: list[TrainingItem]) -> list[TrainingItem]:
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item.name)
    return [
        replace(item, kin=tuple(name for name in groups[item.group] if name != item.name))
        if item.group
        else item
        for item in items
    ]


def _committed(directory: Path, only: Collection[str] | None) -> list[TrainingItem]:
    """Active commits; with `only`, also others of these, and just those with their files."""
    from napari_sa2net.data.commit import locate

    everything = read_manifest(directory).commits
    also = only or ()
    active = [r for r in everything if r.state == "active"]
    others = [r for r in everything if r.state != "active" and (r.id in also or r.name in also)]
    if not active and not others:
        raise TrainingDataError(
            f"{directory} holds no corrections yet. Keep corrected labels in it, or import "
            "images and labels: sa2net corrections import DIR FOLDER"
        )
    sides = {_group(record): record.split for record in active if record.split}
    of_place: dict[tuple[Any, ...], list[str]] = {}
    of_group: dict[str, list[str]] = {}
    for record in everything:
        of_place.setdefault(record.place, []).append(record.id)
        of_group.setdefault(_group(record), []).append(record.id)
    items = []
    for record in (*active, *others):
        try:
            image, labels, reviewed = (locate(directory, record, kind) for kind in KINDS)
        except CommitNotFoundError:
            if only is None:
                raise
            continue  # it is missed where it was asked for
        group = _group(record)
        items.append(
            TrainingItem(
                record.name,
                image,
                labels,
                reviewed,
                # A new correction follows its group, so that none is torn.
                record.split or sides.get(group, ""),
                record.kind,
                group,
                record.levels,
                record.id,
                _place(record),
                tuple(i for i in of_place[record.place] if i != record.id),
                tuple(i for i in of_group[group] if i != record.id),
                record.axes,
                record.channels,
                record.seen,
            )
        )
    return items


def _place(record: CommitRecord) -> str:
    """`CommitRecord.place` as text; the fingerprint comes first."""
    if not record.source.fingerprint:
        return ""
    parts = [record.index, record.box or ()]
    return "/".join([record.source.fingerprint, *("-".join(map(str, p)) for p in parts)])


def _group(record: CommitRecord) -> str:
    """The group; crops and planes of one image belong together even where nothing says so."""
    return record.group or f"{record.source.name} {record.source.fingerprint}".strip()


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if os.path.isdir(folder) else []
    except OSError as error:
        raise TrainingDataError(f"{folder} cannot be read: {error.strerror}.") from error


class _Folders:
    """Files of folders by stem, each folder listed once; in the order of SUFFIXES."""

    def __init__(self) -> None:
        self._known: dict[Path, dict[str, list[Path]]] = {}
        self._labels: dict[Path, dict[str, list[Path]]] = {}

    def __getitem__(self, folder: Path) -> dict[str, list[Path]]:
        """Images, and masks of what is reviewed."""
        if folder not in self._known:
            found: dict[str, list[Path]] = {}
            labels = {path for paths in self.labels(folder, True).values() for path in paths}
            for path in _entries(folder):
                known = path.suffix.lower() in SUFFIXES or is_zarr(path)
                # an OME-Zarr may be an image and its labels in one
                mask = path in labels and (not is_zarr(path) or is_label_image(path))
                if known and not mask and not path.name.startswith("."):
                    found.setdefault(stem_of(path.name), []).append(path)
            for paths in found.values():
                paths.sort(key=lambda path: [*SUFFIXES, ".zarr"].index(path.suffix.lower()))
            self._known[folder] = found
        return self._known[folder]

    def labels(self, folder: Path, beside_images: bool = False) -> dict[str, list[Path]]:
        """Files with cells; beside images those that cannot be images themselves."""
        if folder not in self._labels:
            self._labels[folder] = label_files(_entries(folder))
        found = self._labels[folder]
        if not beside_images:
            return found
        others = {
            name: [path for path in paths if is_other_format(path)]
            for name, paths in found.items()
        }
        return {name: paths for name, paths in others.items() if paths}


def _listed(directory: Path) -> list[TrainingItem]:
    folders = _Folders()
    images = _images_in(directory)
    if not os.path.isdir(directory / "images") and not folders.labels(images, True):
        raise TrainingDataError(
            f"{directory} has no images/ folder. Put images into images/ and their label "
            "images, with the same names, into labels/. Cells as ImageJ ROIs, GeoJSON, COCO, "
            f"_seg.npy or OME-Zarr may also lie beside the images.{_masks_of(folders[images])}"
        )
    twice = sorted(name for name, paths in folders[images].items() if len(paths) > 1)
    if twice:
        raise TrainingDataError(
            f"{images} holds {twice[0]!r} with two endings. Keep one file per name."
        )
    return [_item(directory, name, folders) for name in folders[images]]


def _images_in(directory: Path) -> Path:
    """Folder of the images: images/, or where there is none, the folder itself."""
    images = directory / "images"
    return images if os.path.isdir(images) else directory


def _indexed(directory: Path, index: Path, splits: Collection[str]) -> list[TrainingItem]:
    columns, table = read_index(index)
    missing = [c for c in ("split", "name") if c not in columns]
    if missing:
        raise TrainingDataError(
            f"{index} has no column {missing[0]!r}. Its first line should name the "
            f"columns: {', '.join(COLUMNS)}."
        )
    wanted = ("", *splits)
    rows = [row for row in table if split_word(row["split"]) in wanted]
    if table and not rows:
        known = ", ".join(sorted({row["split"] for row in table}))
        raise TrainingDataError(
            f"{directory} holds no training images: the splits in {index.name} are {known}, "
            f"and none is {' or '.join(splits)}."
        )
    odd = [row for row in table if split_word(row["split"]) not in {*wanted, *_SPLITS.values()}]
    if odd:
        n, words = len(odd), ", ".join(sorted({row["split"] for row in odd})[:3])
        logger.warning(
            f"{n} image{' is' if n == 1 else 's are'} left out: {index.name} gives "
            f"{'it' if n == 1 else 'them'} the split {words}, which is none of "
            f"{', '.join(dict.fromkeys((*splits, 'test')))}."
        )
    if not all(row["name"] for row in rows):
        raise TrainingDataError(
            f"{index} has a row without a name of an image. Write it there, or delete the row."
        )
    items = []
    folders = _Folders()
    for row in rows:
        split = split_word(row["split"])
        below = [directory / name for name in dict.fromkeys((row["split"], split)) if name]
        where = next((one for one in below if os.path.isdir(one / "images")), directory)
        item = _item(where, stem_of(row["name"]), folders)
        items.append(
            replace(item, split=split, kind=row.get("kind", ""), group=row.get("group", ""))
        )
    names = [item.name for item in items]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TrainingDataError(
            f"{index} lists {twice!r} twice. Keep one row per image; folders before a name do "
            "not count."
        )
    return items


def _item(directory: Path, name: str, folders: _Folders) -> TrainingItem:
    beside = _images_in(directory)
    image = next(iter(folders[beside].get(name, ())), None)
    reviewed = next(iter(folders[directory / "reviewed"].get(name, ())), None)
    given = folders.labels(directory / "labels").get(name, [])
    labels = next(iter(given or folders.labels(beside, True).get(name, [])), None)
    for path, folder in ((image, beside), (labels, directory / "labels")):
        if path is None:
            there = folders[folder] if folder is beside else folders.labels(folder)
            raise TrainingDataError(
                f"{folder} has no file for {name!r} "
                f"({', '.join(SUFFIXES)}). Every image needs labels of the same name."
                f"{_meant(name, there) or _of_no_image(beside, folders)}"
            )
    assert image is not None and labels is not None
    return TrainingItem(name, image, labels, reviewed)


#: What programs add to the name of an image for that of its masks.
_MASKS = re.compile(r"(.+?)[._-](?:cp[._-])?(?:masks?|labels?)", re.IGNORECASE)


def _masks_of(images: dict[str, list[Path]]) -> str:
    """What is said of masks that lie beside their images, as a_cp_masks.tif beside a.tif."""
    for stem, paths in images.items():
        found = _MASKS.fullmatch(stem)
        if found is not None and found[1] in images:
            mask, image = paths[0].name, images[found[1]][0]
            name = f"{image.stem}{paths[0].suffix}"
            where = f"move it to labels/{name}"
            return f" {mask} looks like the labels of {image.name}: {where}."
    return ""


def _of_no_image(images: Path, folders: _Folders) -> str:
    """What is said of cells that lie beside images and have the name of none."""
    known = folders[images]
    names = [
        path.name
        for stem, paths in folders.labels(images, beside_images=True).items()
        for path in paths
        if stem not in known
    ]
    if not names:
        return ""
    return (
        f" {names[0]} has the name of no image: call it as its image, such as "
        f"{next(iter(known), 'image')}{_ending(names[0])}."
    )


def _ending(name: str) -> str:
    for ending, known in ((".zip", "_RoiSet.zip"), (".npy", "_seg.npy")):
        if name.lower().endswith(ending):
            return known
    return name[name.rindex(".") :]


def _meant(name: str, there: Iterable[str]) -> str:
    """What is said of a file that may be meant, such as 001 for 1 and a_mask for a."""

    def plain(text: str) -> str:
        return text.casefold().lstrip("0")

    pattern = re.escape(plain(name)) + "([_-].*)?"
    alike = (one for one in sorted(there) if re.fullmatch(pattern, plain(one)))
    found = next(alike, None)
    return (
        ""
        if found is None
        else f" There is {found!r}: if that is meant, make both names the same."
    )


# --------------------------------------------------------------------------------------------
# An image of a training set as segmenting saw it: channels, axes, levels and size.

#: Settings of the input that have nothing to do with intensities.
_NO_LEVELS = {"channel_order", "resize_to", "antialias"}
#: Normalisations by values of the image itself; the others are given.
_MEASURED = {"percentile", "range"}
#: An estimated object size this many times off what a person left of the cells was wrong.
OFF = 2.0


def plan_item(
    item: TrainingItem,
    expects: InputConfig | None = None,
    in_channels: int = 3,
    measure: bool = True,
) -> ImagePlan:
    """Plan of an item's image for a network, as it was when its cells were made.

    Parameters
    ----------
    item : TrainingItem
    expects : InputConfig, optional
        What the network expects.
    in_channels : int
        Channels that it takes.
    measure : bool
        As of `plan_image`.

    Raises
    ------
    ImageFileError, ImageError, AxesError, ChannelError
    """
    return plan_file(read_image(item.image), item, expects, in_channels, measure)


def plan_file(
    file: ImageFile,
    item: TrainingItem,
    expects: InputConfig | None = None,
    in_channels: int = 3,
    measure: bool = True,
) -> ImagePlan:
    """`plan_item` of a file that is open already."""
    axes = item.axes or file.axes
    plan = plan_as_input(
        file.array,
        axes,
        chosen_channels(file, item),
        item.seen is None or item.seen.normalize,
        expects or InputConfig(),
        in_channels,
        measure=False,
    )
    if item.seen is not None and item.seen.predicted.dab == "remove":
        plan = plan.without_dab()
    if measure:
        take_levels(plan, item)
    return plan


def chosen_channels(file: ImageFile, item: TrainingItem) -> tuple[int, ...] | None:
    """Channels of the file that go in; None: nobody has chosen."""
    if item.channels is not None:
        return named_channels(file, item.axes, item.channels)
    plan = plan_image(file.array, item.axes or file.axes, in_channels=1, measure=False)
    if item.commit and not plan.is_rgb:
        return tuple(range(plan.n_channels))
    return None


def named_channels(
    file: ImageFile, axes: str | None, choice: Iterable[str | int]
) -> tuple[int, ...]:
    """Numbers of channels of a file that are given by number or by name.

    Parameters
    ----------
    axes : str or None
        Of the image; None: as the file tells.
    choice : iterable of str or int
        See `channel_choice`.

    Raises
    ------
    ChannelError
    """
    plan = plan_image(file.array, axes or file.axes, in_channels=1, measure=False)
    try:
        return channel_numbers(choice, plan.n_channels, names_of(file, plan))
    except ChannelError as error:
        raise plan.no_such_channel(error) from error


def names_of(file: ImageFile, plan: ImagePlan) -> tuple[str, ...]:
    """What the channels are called of a file that goes in so; as far as it is known."""
    colours = ("red", "green", "blue", "alpha")[: plan.n_channels] if plan.is_rgb else ()
    # the file may name other things: pictures of which each has its colours
    named = file.axes.find("C") == plan.channel_axis
    told = file.channel_names if named else ()
    return colours if plan.is_rgb and len(told) != plan.n_channels else told


def unchosen(file: ImageFile, item: TrainingItem) -> str:
    """Which of several channels goes in where nobody has chosen; empty where that is plain."""
    if item.channels is not None or item.commit:
        return ""
    plan = plan_image(file.array, item.axes or file.axes, in_channels=1, measure=False)
    if plan.is_rgb or plan.n_channels < 2:
        return ""
    names = names_of(file, plan)
    named = f" ({names[0]})" if names else ""
    return (
        f"{item.name} has {plan.n_channels} channels, and none is chosen: channel 0{named} is "
        "learned from, here and in images like it. Choose with --channels, or when you import "
        "the folder."
    )


def object_size(item: TrainingItem, measured: float | None, otherwise: float) -> float:
    """Object diameter (px) that sets the scale: that of segmenting, else that of the cells.

    Parameters
    ----------
    measured : float or None
        Of the cells as a person left them.
    otherwise : float
        The network's, which leaves the image as it is.
    """
    seen = item.seen
    if seen is None:
        return measured or otherwise
    if seen.predict.get("rescale") is False:
        return otherwise
    if typed := seen.predict.get("diameter"):
        return float(typed)
    found = seen.diameter
    if found and not (measured and not 1 / OFF <= found / measured <= OFF):
        return float(found)
    return measured or otherwise


def is_unscaled(item: TrainingItem) -> bool:
    """Whether the image went in at its own size."""
    return item.seen is not None and item.seen.predict.get("rescale") is False


def take_levels(plan: ImagePlan, item: TrainingItem) -> None:
    """A crop of a larger image is as bright as that image was when it was segmented."""
    given, expects, seen = item.levels, plan.model_input, item.seen
    chosen = seen is not None and seen.predicted.contrast is not None
    if given is None or not plan.normalize or not (chosen or _alike(seen, expects)):
        _ = plan.measured
        return
    if len(given) == plan.n_channels:
        given = tuple(given[c] for c in plan.channels)
    low, high = np.array(given, np.float64).T
    if len(low) == len(plan.channels) and (high > low).all():
        clip = chosen or plan.measured.clip
        plan.measured = replace(plan.measured, low=low, high=high, clip=clip, constant=False)


def _alike(seen: Seen | None, expects: InputConfig) -> bool:
    """Whether levels of the one are levels to the other."""
    made = InputConfig() if seen is None else seen.expects
    if {made.normalization, expects.normalization} <= _MEASURED:
        return True
    one, other = (config.model_dump(exclude=_NO_LEVELS) for config in (made, expects))
    return one == other
