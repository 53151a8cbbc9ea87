"""The list of commits of a set of corrections: ``corrections.json``."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from napari_sa2net.config import InputConfig, PredictConfig
from napari_sa2net.errors import CorrectionsError, OutputError
from napari_sa2net.files import readable, write_atomically

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
        Labels, and those with a reviewed pixel.
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
    return (folder / MANIFEST).is_file()


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
            f"{path} is damaged ({_first_line(error)}). Images, labels and masks beside it are "
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
    name = unicodedata.normalize("NFC", readable(source))
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


def _first_line(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
