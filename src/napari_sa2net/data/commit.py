"""What is handed over to be kept: an image, its corrected labels, and what was reviewed."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from napari_sa2net.config import InputConfig, PredictConfig
from napari_sa2net.data.axes import choose_channels
from napari_sa2net.data.write import write_image
from napari_sa2net.errors import (
    ChannelError,
    CommitNotFoundError,
    CorrectionsError,
    OutputError,
)
from napari_sa2net.files import (
    TEMPORARY_PREFIX,
    file_name,
    locked,
    readable,
    sync_folder,
    write_atomically,
)
from napari_sa2net.metrics import distinct

# --------------------------------------------------------------------------------------------
# The list of commits of a set of corrections: ``corrections.json``.

#: The file that says what belongs to a set.
MANIFEST = "corrections.json"
SCHEMA_VERSION = 1
FORMAT = "napari-sa2net corrections"
#: The same list once more, for when the manifest is damaged from outside.
COPY = f"{MANIFEST}.bak"

#: Folders of the three files of a commit.
KINDS = ("images", "labels", "reviewed")
#: Where the files of a commit lie, by its state.
PLACES = {"active": "", "superseded": "earlier", "removed": "trash"}
State = Literal["active", "superseded", "removed"]

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]+')
_MAX_STEM_BYTES = 120
# Names come back from a file that people may edit: none may lead out of the folder.
_Stem = Annotated[
    str, Field(min_length=1, pattern=r'^[^<>:"/\\|?*\x00-\x1f.][^<>:"/\\|?*\x00-\x1f]*$')
]


_Config = TypeVar("_Config", bound=BaseModel)


class _Record(BaseModel):
    """Immutable; entries that a person or a later version added are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Source(_Record):
    """The image that a commit was cut from.

    Attributes
    ----------
    name : str
        As it was shown.
    path : str
        Its file, where there was one.
    fingerprint : str
        Of the whole image's pixels, see `image_fingerprint`; empty where unknown.
    """

    name: str
    path: str = ""
    fingerprint: str = ""


class Parent(_Record):
    """The model whose labels were corrected."""

    name: str = ""
    sha256: str = ""


def _known(kind: type[_Config], values: Mapping[str, Any]) -> _Config:
    """Settings of a kind, without what another version may have written."""
    try:
        return kind(**{k: v for k, v in values.items() if k in kind.model_fields})
    except pydantic.ValidationError:
        return kind()


class Seen(_Record):
    """How an image went into the network when its cells were made; whatever else is kept, too.

    Attributes
    ----------
    image : dict
        Of the whole image: axes, channels, normalize and further settings.
    input : dict
        What the model expected, see `InputConfig`.
    predict, instances : dict
        See `PredictConfig` and `InstanceConfig`.
    diameter : float or None
        Object diameter (image px) that set the scale; None where nothing was rescaled, or
        nothing is known.
    scale : float or None
        Network pixels per image pixel.
    """

    image: dict[str, Any] = Field(default_factory=dict)
    input: dict[str, Any] = Field(default_factory=dict)
    predict: dict[str, Any] = Field(default_factory=dict)
    instances: dict[str, Any] = Field(default_factory=dict)
    diameter: float | None = None
    scale: float | None = None

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> Seen | None:
        """From the provenance of a result; None where it does not tell."""
        settings = provenance.get("settings")
        if not isinstance(settings, Mapping) or "image" not in settings:
            return None
        more = {name: provenance.get(name) for name in ("diameter", "scale")}
        try:
            return cls.model_validate({**settings, **more})
        except pydantic.ValidationError:
            return None

    def levels_of(self, index: Sequence[int]) -> Sequence[Sequence[float]]:
        """Values that became 0 and 1 in a plane, per channel that went in; empty: unknown."""
        known: Any = self.image.get("levels") or ()
        along, axes = self.image.get("levels_along"), str(self.image.get("axes", ""))
        if not along:
            return known if isinstance(known, Sequence) else ()
        at = dict(zip((a for a in axes if a not in "YXC"), index, strict=False))
        return known.get("-".join(str(at.get(name)) for name in along)) or ()

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the whole image, in their order; empty where unknown."""
        return tuple(int(c) for c in self.image.get("channels") or ())

    @property
    def n_channels(self) -> int:
        """Channels that the whole image has, whichever went in; 0 where unknown."""
        axes, shape = str(self.image.get("axes", "")), self.image.get("shape") or ()
        if not self.channels or len(axes) != len(shape):
            return 0
        return int(shape[axes.index("C")]) if "C" in axes else 1

    @property
    def expects(self) -> InputConfig:
        """What the model expected, as far as this version knows it."""
        return _known(InputConfig, self.input)

    @property
    def predicted(self) -> PredictConfig:
        """How the network was run, as far as this version knows it."""
        return _known(PredictConfig, self.predict)

    @property
    def normalize(self) -> bool:
        """Whether intensities were stretched at all."""
        return bool(self.image.get("normalize", True))


class CommitRecord(_Record):
    """What the manifest says of one commit.

    Attributes
    ----------
    id : str
        Never given twice.
    name : str
        Stem of its three files.
    state : "active", "superseded" or "removed"
        Only active ones are trained on. A superseded one made room for a later commit of the
        same place.
    time : str
        When it was committed, ISO 8601 in UTC.
    source : Source
    index : tuple of int
        The plane in the source's stack; empty for a single image.
    box : (y0, y1, x0, x1) or None
        The crop in that plane, px; None: all of it.
    shape : (H, W)
    axes : str
        Of the image file: YX, YXC or CYX. It holds the channels that went in, in their order.
    levels : tuple of (low, high), or None
        Per channel of the file, the values that became 0 and 1 when the cells were made, where
        known: the percentiles of a crop are others.
    seen : Seen or None
        With which settings the image went in; None where that is unknown.
    pixel_size_um : float or None
    parent : Parent
    group, kind : str
        What must not be torn apart in validation (slide, patient, dish), and what is shown.
    split : "", "train" or "val"
        Empty: chosen when training starts.
    n_objects, n_reviewed : int
        Labels, and those of which the most pixels are reviewed.
    reviewed_share : float
        Share of the pixels that are reviewed.
    n_edits : int
        Steps of correcting that led here.
    notes : str
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-z]{6,32}$")]
    name: _Stem
    state: State = "active"
    time: str
    source: Source
    index: tuple[int, ...] = ()
    box: tuple[int, int, int, int] | None = None
    shape: tuple[int, int]
    axes: str = "YX"
    levels: tuple[tuple[float, float], ...] | None = None
    seen: Seen | None = None
    pixel_size_um: float | None = None
    parent: Parent = Parent()
    group: str = ""
    kind: str = ""
    split: Literal["", "train", "val"] = ""
    n_objects: int = 0
    n_reviewed: int = 0
    reviewed_share: float = 1.0
    n_edits: int = 0
    notes: str = ""

    @property
    def channels(self) -> tuple[int, ...] | None:
        """Channels of the file that go in; None: all of them.

        An import of version 0.1.0 copied every channel, and the first was learned from. All
        other commits hold just what went in.
        """
        old = self.seen is None and self.levels is None and self.axes == "CYX"
        return (0,) if old and self.notes.startswith("imported from ") else None

    @property
    def place(self) -> tuple[Any, ...]:
        """What a later commit must share to supersede this one: source, plane and box."""
        return (self.source.fingerprint or self.source.name, self.index, self.box)


class Manifest(_Record):
    """All commits, in the order in which they were made."""

    schema_version: int = SCHEMA_VERSION
    format: str = FORMAT
    commits: tuple[CommitRecord, ...] = ()

    def replaced(self, records: Iterable[CommitRecord]) -> Manifest:
        """A copy with some records changed, and new ones at the end."""
        commits = {record.id: record for record in self.commits}
        commits |= {record.id: record for record in records}
        return self.model_copy(update={"commits": tuple(commits.values())})


def is_training_set(folder: Path) -> bool:
    """Whether a folder holds a manifest."""
    return os.path.isfile(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """Read the list of commits.

    Raises
    ------
    CorrectionsError
        If folder or manifest are missing, damaged, or written by a newer version.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(folder) from None
    except OSError as error:
        raise CorrectionsError(f"{path} cannot be read ({error}).") from error
    return parse_manifest(text, path)


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """A manifest from its bytes; `path` is named in errors (see `read_manifest`)."""
    try:
        content = json.loads(text)
        version = content["schema_version"]
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise CorrectionsError(
                f"{path} was written by a newer version of this program (schema {version}; "
                f"this one knows {SCHEMA_VERSION}). Update: pip install -U napari-sa2net"
            )
        manifest = Manifest.model_validate(content)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CorrectionsError):
            raise
        raise CorrectionsError(
            f"{path} is damaged ({_said_by(error)}). Images, labels and masks beside it are "
            f"untouched. {_way_out(path)}"
        ) from error
    ids = [record.id for record in manifest.commits]
    names = [record.name.casefold() for record in manifest.commits]
    if len(set(ids)) < len(ids) or len(set(names)) < len(names):
        raise CorrectionsError(f"{path} lists a commit twice. Keep one entry of each.")
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """A manifest as JSON that people can read."""
    content = manifest.model_dump(mode="json")
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest, whole and flushed to disk.

    Raises
    ------
    OutputError
    """
    content = manifest_bytes(manifest)
    write_atomically(folder / MANIFEST, content, durable=True, make_folder=False)


def write_copy(folder: Path, manifest: Manifest) -> None:
    """Keep the list once more; a failure costs nothing as long as the manifest is whole."""
    with suppress(OutputError):
        write_atomically(folder / COPY, manifest_bytes(manifest), make_folder=False)


def new_id(taken: Iterable[str]) -> str:
    """An id that none of `taken` begins like."""
    starts = {identity[:8] for identity in taken}
    while True:
        identity = secrets.token_hex(6)
        if identity[:8] not in starts:
            return identity


def file_stem(source: str, index: tuple[int, ...], identity: str) -> str:
    """Name of a commit's files: the source's as far as any system takes it, plane and id."""
    name = unicodedata.normalize("NFC", file_name(source))
    name = _FORBIDDEN.sub("_", name).strip(" .")
    while len(name.encode()) > _MAX_STEM_BYTES:
        name = name[:-1]
    plane = "-".join(str(i) for i in index)
    return "_".join(part for part in (name.strip(" .") or "image", plane, identity[:8]) if part)


def _way_out(path: Path) -> str:
    """What to do where a manifest is damaged."""
    try:
        Manifest.model_validate_json((path.parent / COPY).read_bytes())
    except (OSError, ValueError):
        return (
            f"Rename {path.name}, then import the folder into a new set: sa2net corrections "
            f"import NEW {shlex.quote(str(path.parent))}"
        )
    return f"Delete {path.name} and rename {COPY} to {path.name}: it holds the same list."


def _missing(folder: Path) -> CorrectionsError:
    if folder.is_dir():
        return CorrectionsError(
            f"{folder} holds no corrections ({MANIFEST} is missing). Choose the folder of a "
            "training set, or start a new one."
        )
    return CorrectionsError(
        f"The folder {folder} is not there (any more). Bring it back or choose another; "
        "edits that were not kept yet stay in their journal."
    )


def _said_by(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


@dataclass(frozen=True)
class Commit:
    """Corrected labels of an image, a plane or a crop.

    Attributes
    ----------
    image : (H, W), (H, W, 3 or 4) or (C, H, W), real numbers
        The values of the source, not normalised.
    labels : whole numbers ≥ 0, (H, W)
        0 is background.
    reviewed : (H, W), not 0 where the labels can be trusted, or None for everywhere
        All that was ever reviewed there: the commit replaces an earlier one of its place.
    source : str
        Name of the image.
    path, fingerprint : str
        Its file, and its `image_fingerprint`, by which later commits find this one.
    index, box, levels, pixel_size_um, group, kind, split, n_edits, notes
        See `CommitRecord`.
    axes : "YX", "YXC", "CYX" or None
        Unsaid: YX, or YXC where the last axis has length 3 or 4.
    channels : sequence of int, optional
        Channels of `image` that the cells were made from, in their order: only these are kept,
        and learned from. Unsaid: all of them.
    made : mapping, optional
        ``provenance`` of the segmentation that made the cells: settings, model and object size
        travel with the commit, so that learning sees what segmenting saw.
    parent, parent_sha256 : str
        Name of the model whose labels were corrected, and of its file.
    """

    image: NDArray[Any]
    labels: NDArray[Any]
    reviewed: NDArray[Any] | None = None
    source: str = "image"
    path: str = ""
    fingerprint: str = ""
    index: Sequence[int] = ()
    box: Sequence[int] | None = None
    axes: str | None = None
    channels: Sequence[int] | None = None
    made: Mapping[str, Any] | None = None
    levels: Sequence[Sequence[float]] | None = None
    pixel_size_um: float | None = None
    parent: str = ""
    parent_sha256: str = ""
    group: str = ""
    kind: str = ""
    split: Literal["", "train", "val"] = ""
    n_edits: int = 0
    notes: str = ""

    def record(self, identity: str, name: str, time: str) -> CommitRecord:
        """The entry of a checked commit for the manifest."""
        assert self.reviewed is not None and self.axes is not None
        numbers, areas = distinct(self.labels)
        seen_of, seen_areas = distinct(self.labels[self.reviewed])
        # a cell of which a region that is left out cuts the most is not one that was reviewed
        mostly = 2 * seen_areas > areas[np.searchsorted(numbers, seen_of)]
        size = self.pixel_size_um
        made = self.made or {}
        seen, model = Seen.of(made), made.get("model") or {}
        levels = self.levels
        if levels is None and seen is not None:
            # Of the channels of the file, which need not be those that went in.
            known = seen.levels_of(self.index)
            n = 1 if self.axes == "YX" else self.image.shape[self.axes.index("C")]
            levels = known if len(known) == n else None
        return CommitRecord(
            id=identity,
            name=name,
            time=time,
            source=Source(name=self.source, path=self.path, fingerprint=self.fingerprint),
            index=tuple(int(i) for i in self.index),
            box=_box(self.box),
            shape=(self.labels.shape[0], self.labels.shape[1]),
            axes=self.axes,
            levels=None
            if levels is None
            else tuple((float(low), float(high)) for low, high in levels),
            seen=seen,
            pixel_size_um=None if size is None else float(size),
            parent=Parent(
                name=self.parent or model.get("name", ""),
                sha256=self.parent_sha256 or model.get("sha256", ""),
            ),
            group=self.group.strip(),
            kind=self.kind.strip(),
            split=self.split,
            n_objects=np.count_nonzero(numbers),
            n_reviewed=np.count_nonzero(seen_of[mostly]),
            reviewed_share=round(float(self.reviewed.mean()), 6),
            n_edits=self.n_edits,
            notes=self.notes,
        )


def checked_commit(commit: Commit) -> Commit:
    """The commit with its axes named, its mask as bool, and its labels as whole numbers.

    Raises
    ------
    CorrectionsError
        If the arrays do not fit each other, labels are not labels, or nothing is reviewed.
    """
    image, labels = np.asarray(commit.image), np.asarray(commit.labels)
    axes = commit.axes or _axes(image)
    if axes not in ("YX", "YXC", "CYX") or image.ndim != len(axes):
        told = f"with axes {axes!r}" if commit.axes else "whose axes are not told"
        raise CorrectionsError(
            f"An image of shape {image.shape} {told} cannot be kept: choose one plane, and "
            'give its axes: "YX", "YXC" or "CYX".'
        )
    if axes == "YXC" and image.shape[2] not in (3, 4):
        image, axes = np.moveaxis(image, 2, 0), "CYX"
    if commit.channels is not None:
        image, axes = pick_channels(image, axes, commit.channels)
    if image.dtype.kind not in "biuf" or image.dtype.itemsize > 8:
        raise CorrectionsError(
            f"An image of {image.dtype} cannot be kept; convert it to real numbers."
        )
    check_values(image)
    spatial = tuple(image.shape[axes.index(axis)] for axis in "YX")
    reviewed = (
        np.ones(spatial, bool) if commit.reviewed is None else np.asarray(commit.reviewed) != 0
    )
    if not spatial == labels.shape == reviewed.shape or 0 in spatial:
        raise CorrectionsError(
            f"Image {spatial}, labels {labels.shape} and reviewed mask {reviewed.shape} must "
            "have the same height and width, and at least one pixel."
        )
    if labels.dtype.kind not in "biu":
        raise CorrectionsError(
            f"Labels must be whole numbers, not {labels.dtype}. Convert them: one whole number "
            "for each cell, 0 for background, saved as 16-bit or as labels of napari."
        )
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise CorrectionsError(
            f"Labels must lie in 0 … 2147483647; these are {labels.min()} … {labels.max()}."
        )
    if not reviewed.any():
        raise CorrectionsError(
            "Nothing is marked as reviewed, so nothing could be learned from it. Accept or "
            "correct at least one object, or mark a region as wholly reviewed."
        )
    box = _box(commit.box)
    if box is not None and (box[1] - box[0], box[3] - box[2]) != spatial:
        raise CorrectionsError(f"The box {box} does not have the image's size {spatial}.")
    size = commit.pixel_size_um
    if size is not None and not (math.isfinite(size) and size > 0):
        raise CorrectionsError(f"A pixel size of {size} µm makes no sense; leave it out.")
    return replace(
        commit,
        image=image,
        labels=labels,
        reviewed=reviewed,
        axes=axes,
        source=readable(commit.source),
        path=readable(commit.path),
        group=readable(commit.group),
        kind=readable(commit.kind),
        notes=readable(commit.notes),
        channels=None,
    )


def check_values(image: NDArray[Any], whose: str = "") -> None:
    """CorrectionsError where an image has no number that could be learned from."""
    if image.size and not np.isfinite(image).any():
        raise CorrectionsError(
            f"{whose}The image has no number in it: every pixel is NaN or infinite, so nothing "
            "can be learned from it. Check how it was made or loaded, or leave it out."
        )


def pick_channels(
    image: NDArray[Any], axes: str, channels: Sequence[int]
) -> tuple[NDArray[Any], str]:
    """Channels of a plane in that order, and the axes of what they make.

    Raises
    ------
    CorrectionsError
        If there is no such channel.
    """
    at = axes.find("C")
    n = image.shape[at] if at >= 0 else 1
    try:
        picks = choose_channels(channels, n, axes == "YXC")
    except ChannelError as error:
        raise CorrectionsError(str(error)) from error
    planes = image[None] if at < 0 else np.moveaxis(image, at, 0)
    return as_plane(planes[list(picks)], axes == "YXC")


def as_plane(values: NDArray[Any], colours: bool) -> tuple[NDArray[Any], str]:
    """Channels (k, H, W) as they are kept: YX, colours YXC, others CYX."""
    if len(values) == 1:
        return values[0], "YX"
    if colours and len(values) == 3:
        return np.moveaxis(values, 0, 2), "YXC"
    return values, "CYX"


def _axes(image: NDArray[Any]) -> str:
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        return "YXC"
    return "YX" if image.ndim == 2 else "?" * image.ndim


def _box(box: Sequence[int] | None) -> tuple[int, int, int, int] | None:
    if box is None:
        return None
    y0, y1, x0, x1 = (int(value) for value in box)
    return y0, y1, x0, x1


# --------------------------------------------------------------------------------------------
# The files of a set of corrections: where they lie, and what a crash may leave of them.

logger = logging.getLogger(__name__)

LOCK = ".lock"
#: A note of files that are about to be written; while it is there, they may be incomplete.
PENDING_PREFIX = ".pending-"


class Changes:
    """A manifest being changed, under the lock."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def ids(self) -> list[str]:
        """Ids of all commits."""
        return [record.id for record in self.manifest.commits]

    def find(self, identity: str) -> CommitRecord:
        """The record with an id or name, or the only one whose id begins so."""
        return find_record(self.manifest, identity)

    def put(self, record: CommitRecord, state: State) -> CommitRecord:
        """Add or change a record."""
        record = record.model_copy(update={"state": state})
        self.manifest = self.manifest.replaced([record])
        return record

    def activate(self, record: CommitRecord) -> CommitRecord:
        """Make a record the active one of its place."""
        for other in self.manifest.commits:
            if other.state == "active" and other.place == record.place:
                self.put(other, "superseded")
        return self.put(record, "active")

    def withdraw(self, ids: Iterable[str]) -> None:
        """Move commits to the trash; what they superseded is active again."""
        gone = set(ids)
        was_active = []
        for record in self.manifest.commits:
            if record.id in gone and record.state != "removed":
                self.put(record, "removed")
                if record.state == "active":
                    was_active.append(record.place)
        for place in was_active:
            before = [
                record
                for record in self.manifest.commits
                if record.place == place and record.state == "superseded"
            ]
            if before:
                self.activate(before[-1])

    @contextmanager
    def writing(self, records: Sequence[CommitRecord]) -> Iterator[None]:
        """Note which files are being written, so that a crash leaves none for good."""
        files = [f"{kind}/{record.name}.tif" for record in records for kind in KINDS]
        note = {"ids": [record.id for record in records], "files": files}
        path = self.folder / f"{PENDING_PREFIX}{records[0].id}.json" if records else None
        try:
            for kind in KINDS:
                (self.folder / kind).mkdir(exist_ok=True)
            if path is not None:
                content = json.dumps(note).encode()
                write_atomically(path, content, durable=True, make_folder=False)
            yield
            for kind in KINDS:
                sync_folder(self.folder / kind)
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be written ({error}). Check that the folder is there "
                "and that the disk is not full; nothing was changed."
            ) from error


def find_record(manifest: Manifest, identity: str) -> CommitRecord:
    """The record with an id or name, or the only one whose id begins so."""
    exact = [r for r in manifest.commits if identity in (r.id, r.name)]
    found = exact or [r for r in manifest.commits if identity and r.id.startswith(identity)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommitNotFoundError(
            f"Several commits begin with {identity!r}; give more of the id."
        )
    raise CommitNotFoundError(
        f"The set has no commit {identity!r}. List them with: sa2net corrections list DIR --all"
    )


def locate(folder: Path, record: CommitRecord, kind: str) -> Path:
    """A file of a commit: where its state says, or where a crash left it.

    Raises
    ------
    CommitNotFoundError
        If it is in none of these places.
    """
    places = [PLACES[record.state], *PLACES.values()]
    for place in places:
        path = folder / place / kind / f"{record.name}.tif"
        if path.is_file():
            return path
    if not folder.is_dir():
        read_manifest(folder)  # says that the folder is gone
    raise CommitNotFoundError(
        f"{kind}/{record.name}.tif of commit {record.id} is gone. Bring the file back, or "
        "remove the commit."
    )


def create_set(folder: Path) -> None:
    """Make an empty set; one that is there is left as it is."""
    taken = [
        kind for kind in KINDS if (folder / kind).is_dir() and any((folder / kind).iterdir())
    ]
    if taken:
        raise CorrectionsError(
            f"{folder} holds {taken[0]}/ already, but no corrections. Start the set in a new "
            "folder and import this one into it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            if not is_training_set(folder):
                for kind in KINDS:
                    (folder / kind).mkdir(exist_ok=True)
                write_manifest(folder, Manifest())
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made ({error}). Choose a folder that may be written to."
        ) from error


def write_files(folder: Path, commit: Commit, record: CommitRecord) -> None:
    """Write the three files of a checked commit; the record goes into the labels' file."""
    labels = commit.labels
    most = int(labels.max()) if labels.size else 0
    kept = np.uint16 if most <= np.iinfo(np.uint16).max else np.int32
    assert commit.reviewed is not None and commit.axes is not None
    mask = commit.reviewed.astype(np.uint8) * np.uint8(255)
    note = record.model_dump(mode="json")
    arrays = (
        ("images", commit.image, commit.axes, {"id": record.id}),
        ("labels", labels.astype(kept), "YX", note),
        ("reviewed", mask, "YX", {"id": record.id}),
    )
    for kind, array, axes, metadata in arrays:
        path = folder / kind / f"{record.name}.tif"
        write_image(path, array, axes, record.pixel_size_um, metadata, make_folder=False)


def recover(folder: Path) -> None:
    """Take back what a commit that was never listed has written. Under the lock only."""
    for pending in folder.glob(f"{PENDING_PREFIX}*.json"):
        with suppress(ValueError, KeyError, TypeError):
            note = json.loads(pending.read_bytes())
            listed = {record.id for record in read_manifest(folder).commits}
            if not listed.intersection(note["ids"]):
                for file in note["files"]:
                    kind, name = file.split("/")
                    if kind in KINDS:
                        (folder / kind / name).unlink(missing_ok=True)
        pending.unlink(missing_ok=True)
    # Whoever writes holds the lock, so these are of a process that died.
    for place in (folder, *(folder / kind for kind in KINDS)):
        for part in place.glob(f"{TEMPORARY_PREFIX}*"):
            if part.is_file():
                part.unlink(missing_ok=True)


def tidy(folder: Path, manifest: Manifest) -> None:
    """Move the files of commits to where their state says. Under the lock only.

    The manifest is the truth and readers look in all places, so a failure costs nothing.
    """
    try:
        for record in manifest.commits:
            for kind in KINDS:
                target = folder / PLACES[record.state] / kind / f"{record.name}.tif"
                if target.exists():
                    continue
                with suppress(CommitNotFoundError):
                    path = locate(folder, record, kind)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
    except OSError as error:
        logger.warning("Files in %s could not be moved: %s", folder, error)
