"""The output folder of a batch: masks, tables, records; every file whole or not there.

::

    OUT/NAME.tif              labels
    OUT/corrected/NAME.tif    labels that a person has corrected; written by the window only
    OUT/FORMAT/NAME.*         the cells in a further format, see `formats`
    OUT/objects.csv           one row per object of every image in OUT
    OUT/extra/run.json        the last run: model, settings, what became of each image
    OUT/extra/images/NAME.json, NAME.csv    record and table of one image

Of explanations the labels are OUT/NAME/labels.tif, among other files of the image, and the
records are in OUT/extra/attention.json and OUT/extra/attention/.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from napari_sa2net.data.formats import FORMATS
from napari_sa2net.data.io import image_name, is_zarr, remote_content
from napari_sa2net.data.listing import list_images
from napari_sa2net.errors import ImageFileError, OutputError, SettingsError
from napari_sa2net.files import (
    file_name,
    readable,
    readable_all,
    real,
    remote,
    write_atomically,
)
from napari_sa2net.provenance import versions

# --------------------------------------------------------------------------------------------
# Which output name each input gets, so that nothing overwrites anything silently.


def as_text(name: str) -> str:
    """A name as a spreadsheet takes it for text; one apostrophe less gives the name again.

    What begins with =, +, - or @ it would compute: '=1+1' is shown as =1+1, and not as 2.
    """
    return f"'{name}" if name.lstrip("'").startswith(("=", "+", "-", "@")) else name


@dataclass(frozen=True)
class Job:
    """One image of a batch: where it is, and the name its results get."""

    name: str
    path: Path


def name_jobs(paths: Sequence[Path]) -> list[Job]:
    """Give each input a name of its own.

    The name is the file's stem; inside an OME-Zarr, such as a plate, the way to the image in it
    (``A_1_0``). Inputs that share it are told apart by the folders above, as many as need be
    (``plate1_a``, ``plate2_a``), or else by their ending (``a_png``, ``a_tif``), or by a number
    (``a``, ``a_2``).

    Parameters
    ----------
    paths : sequence of Path
        A path given twice is one input.
    """
    unique = list({real(path): path for path in paths}.values())
    parts = {path: _Parts.of(path) for path in unique}
    names = {path: part.name() for path, part in parts.items()}
    # A refined name may be that of another input, so what has become equal is refined again.
    for _ in range(len(unique)):
        shared = [group for group in _groups(names) if len(group) > 1]
        if not shared:
            break
        for group in shared:
            names.update(_apart({path: parts[path] for path in group}))
    taken = {name.casefold() for name in names.values()}
    for group in _groups(names):
        for path in sorted(group)[1:]:  # such as a.tif and A.TIF, or a.tif and a.ome.tif
            numbered = (f"{names[path]}_{number}" for number in count(2))
            names[path] = next(name for name in numbered if name.casefold() not in taken)
            taken.add(names[path].casefold())
    return [Job(names[path], path) for path in unique]


@dataclass(frozen=True)
class _Parts:
    """Of what an input's name is made: folders above, outermost first, its own, its ending."""

    above: tuple[str, ...]
    own: str
    ending: str

    @classmethod
    def of(cls, path: Path) -> _Parts:
        full = real(path)
        top = _zarr_above(full)
        if top is None:
            ending = path.suffix.lstrip(".").lower()
            return cls(full.parts[1:-1], image_name(path), ending)
        own = "_".join(full.relative_to(top).parts)
        return cls((*top.parts[1:-1], image_name(top)), own, "")

    def name(self, folders: int = 0, ending: bool = False) -> str:
        """With so many folders."""
        above = self.above[max(0, len(self.above) - folders) :]
        return file_name("_".join([*above, self.own, *([self.ending] if ending else [])]))


def _zarr_above(path: Path) -> Path | None:
    """The outermost OME-Zarr that an image lies in; None for one that is no part of another."""
    if os.path.isfile(path):
        return None
    named = [parent for parent in path.parents if parent.suffix.lower() == ".zarr"]
    inner = list(takewhile(is_zarr, path.parents)) if is_zarr(path) else []
    return max((*named, *inner), key=lambda one: -len(one.parts), default=None)


def _groups(names: dict[Path, str]) -> list[list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, name in names.items():
        # Some file systems hold A.tif and a.tif for one file.
        groups[name.casefold()].append(path)
    return list(groups.values())


def _apart(group: dict[Path, _Parts]) -> dict[Path, str]:
    """Names with the fewest folders, or else the ending, that tell all of a group apart."""
    depth = max(len(parts.above) for parts in group.values())
    for ending in (False, True):
        for folders in range(0 if ending else 1, depth + 1):
            refined = {path: parts.name(folders, ending) for path, parts in group.items()}
            if len(_groups(refined)) == len(group):
                return refined
    return {}


SCHEMA_VERSION = 1
#: Folder beside the masks, with the cells of images that a person has corrected in the window.
CORRECTED = "corrected"


@dataclass(frozen=True)
class Layout:
    """Where things are in an output folder.

    Attributes
    ----------
    command : str
        That writes it.
    mask : str
        Path of an image's labels.
    records, manifest : str
        Folder and file below ``extra``.
    beside : tuple of str
        First parts of what else is written beside an image's labels.
    """

    command: str
    mask: str
    records: str
    manifest: str
    beside: tuple[str, ...] = ()

    def owner(self, parts: Sequence[str]) -> str | None:
        """Name of the image that a path inside the output folder would be a result of."""
        if not self.beside:
            if parts and parts[0] in FORMATS:
                # inside an OME-Zarr or a project everything is the image's
                return FORMATS[parts[0]].stem(Path(parts[1])) if len(parts) > 1 else None
            own = parts[1:] if parts[:1] == (CORRECTED,) else parts
            return own[0][:-4] if len(own) == 1 and own[0].endswith(".tif") else None
        return parts[0] if len(parts) > 1 and parts[1] in self.beside else None


SEGMENT = Layout("segment", "{name}.tif", "images", "run.json")
ATTENTION = Layout(
    "attention",
    "{name}/labels.tif",
    "attention",
    "attention.json",
    (
        *("labels.tif", "stage_2.tif", "stage_4.tif", "stage_8.tif"),
        *("maps", "maps.ome.zarr", "figure.png", "figure.svg", "objects.csv"),
    ),
)
LAYOUTS = (SEGMENT, ATTENTION)


def without_results(paths: Sequence[Path]) -> list[Path]:
    """Images among paths: those that a batch did not write itself.

    Results may lie in the folder of the images, and must not be segmented in turn when that
    folder is given again.

    Raises
    ------
    ImageFileError
        If there is none.
    """
    images = [path for path in paths if not is_result(path)]
    if paths and not images:
        raise ImageFileError(
            f"{paths[0].parent} holds only results of sa2net; name the folder of the images."
        )
    return images


def input_images(inputs: Sequence[str]) -> list[Path]:
    """Images among files, folders and patterns, without the results of an earlier batch.

    Raises
    ------
    ImageFileError
        A path does not exist, or no image is left.
    """
    # A shell's pattern names also the table and the folder of records, which are no images.
    given = [one for one in inputs if not is_result(Path(one))]
    return without_results(list_images(given or inputs))


def refuse_inputs_as_outputs(jobs: Sequence[Job], output: Path) -> None:
    """Masks must not take the place of images.

    Raises
    ------
    SettingsError
        If one would.
    """
    sources = {real(job.path) for job in jobs}
    for job in jobs:
        target = real(output / f"{job.name}.tif")
        if target in sources:
            raise SettingsError(
                f"The mask of {job.path} would replace the image {target}. "
                "Choose another output folder."
            )


def is_result(path: Path) -> bool:
    """Whether a record says that a batch wrote this file."""
    path = real(path)
    if path.name in ("extra", "objects.csv"):
        return any(
            os.path.isfile(path.parent / "extra" / layout.manifest) for layout in LAYOUTS
        )
    for folder in list(path.parents)[:3]:
        parts = path.relative_to(folder).parts
        for layout in LAYOUTS:
            name = layout.owner(parts)
            record = name and _read_record(folder / "extra" / layout.records / f"{name}.json")
            if record and _wrote(record) and _input(record) != readable(str(path)):
                return True
    return False


def records_of(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What an output folder of `segment` tells of images, by the names of their results.

    Nothing is written. An image that is done has its mask.
    """
    found = {}
    for name in names:
        record = _read_record(folder / "extra" / SEGMENT.records / f"{name}.json")
        if record is None:
            continue
        mask = folder / SEGMENT.mask.format(name=name)
        if record.get("state") != "done" or mask.is_file():
            found[name] = record
    return found


def table_of(folder: Path, name: str) -> Path:
    """The table of the cells of one image."""
    return folder / "extra" / SEGMENT.records / f"{name}.csv"


def fingerprint(path: Path) -> dict[str, Any]:
    """Path, size (bytes) and time of change of a file or of all files of a folder."""
    if url := remote(path):
        return {"path": url, "content": remote_content(url)}
    if path.is_dir():
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    else:
        files = [path]
    stats = [file.stat() for file in files]
    return {
        "path": readable(str(real(path))),
        "size": sum(s.st_size for s in stats),
        "mtime_ns": max((s.st_mtime_ns for s in stats), default=0),
    }


def settings_key(settings: dict[str, Any], model_sha256: str) -> str:
    """Digest of everything but the image that a result depends on."""
    content = {"settings": settings, "model": model_sha256, "version": _version()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _version() -> str:
    """Of this package."""
    return versions().get("napari-sa2net", "")


class ResultFolder:
    """Reads and writes the output folder.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    key : str
        Of :func:`settings_key`; results with another one are not taken as done.
    overwrite : bool
        Do everything again, and replace masks that came from elsewhere.
    layout : Layout
    otherwise : str
        What a person can do beside choosing another folder, for the errors: ", or ...".

    Raises
    ------
    OutputError
        If the folder cannot be made, or holds what another command wrote.
    """

    def __init__(
        self,
        folder: Path,
        key: str = "",
        overwrite: bool = False,
        layout: Layout = SEGMENT,
        otherwise: str = "",
    ) -> None:
        self.folder = folder
        self.layout = layout
        for other in LAYOUTS:
            # Both would write objects.csv, each of its own images only.
            if other is not layout and (folder / "extra" / other.records).is_dir():
                raise OutputError(
                    f"{folder} holds results of sa2net {other.command}. "
                    "Choose another output folder."
                )
        self._records = folder / "extra" / layout.records
        self._key = key
        self._overwrite = overwrite
        self._otherwise = otherwise
        #: Input of the images being done, their record before, and when their mask changed.
        self._claimed: dict[str, tuple[dict[str, Any], dict[str, Any] | None, int]] = {}
        #: Further formats that are asked for.
        self.formats: tuple[str, ...] = ()
        #: Formats among them that are written later, by several processes.
        self.together: tuple[str, ...] = ()
        #: Records of the images that were finished here.
        self.done: dict[str, dict[str, Any]] = {}
        new = (folder / "extra", folder, *folder.parents)
        self._made = [one for one in new if not one.exists()]
        try:
            self._records.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"The output folder {folder} cannot be made ({error}). Choose another one."
            ) from error

    def mask_path(self, name: str) -> Path:
        """Where the labels of an image go."""
        return self.folder / self.layout.mask.format(name=name)

    def export_path(self, name: str, key: str) -> Path:
        """Where the cells of an image go in a further format."""
        return self.folder / key / f"{name}{FORMATS[key].ending}"

    def exported(self, name: str) -> list[str]:
        """Formats that are asked for, and those of which the image has a file from before."""
        there = [key for key in FORMATS if self.export_path(name, key).exists()]
        every = dict.fromkeys([*self.formats, *there])
        return [key for key in every if key not in self.together]

    def missing(self, name: str) -> list[str]:
        """Formats that are asked for, and of which the image has no file."""
        lacks = [key for key in self.formats if not self.export_path(name, key).exists()]
        return [key for key in lacks if key not in self.together]

    def drop(self, path: Path) -> None:
        """Take away what is out of date."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def finished(self, job: Job) -> dict[str, Any] | None:
        """Record of an image that needs not be done again, else None."""
        record = self._read(job.name)
        if (
            self._overwrite
            or record is None
            or record.get("state") != "done"
            or record.get("key") != self._key
            or record.get("input") != fingerprint(job.path)
            or not self.mask_path(job.name).is_file()
        ):
            return None
        return record

    def claim(self, job: Job) -> dict[str, Any]:
        """Note that an image is being done, before its mask is written.

        Returns
        -------
        Fingerprint of the image, for :meth:`finish`.

        Raises
        ------
        OutputError
            If a mask of that name is there and came from somewhere else.
        """
        mask = self.mask_path(job.name)
        record = self._read(job.name)
        if mask.exists() and not self._overwrite:
            if record is None or not _wrote(record):
                raise OutputError(
                    f"{mask} exists and was not written by sa2net. Choose another output "
                    f"folder{self._otherwise}."
                )
            if _input(record) != readable(str(real(job.path))):
                raise OutputError(
                    f"{mask} belongs to another image, {_input(record)}. "
                    f"Choose another output folder{self._otherwise}."
                )
        source = fingerprint(job.path)
        self._write(job.name, {"state": "running", "input": source})
        self._claimed[job.name] = (source, record, _changed(mask))
        return source

    def fail(self, job: Job, error: str) -> None:
        """Note that an image that was claimed has not been done, and why.

        One that was not claimed keeps its record, which may be another image's. So does one
        that was done before with other settings, while its mask is as it was.
        """
        if job.name not in self._claimed or job.name in self.done:
            return
        source, former, changed = self._claimed.pop(job.name)
        mask = self.mask_path(job.name)
        if (
            former is not None
            and former.get("state") == "done"
            and former.get("input") == source
            and _changed(mask) == changed
        ):
            self._write(job.name, former)
            return
        record = {"state": "failed", "error": error, "input": source, "mask": mask.exists()}
        self._write(job.name, record)

    def finish(
        self, job: Job, source: dict[str, Any], table_csv: str, record: dict[str, Any]
    ) -> dict[str, Any]:
        """Write the table and then the record, which makes the image count as done."""
        write_atomically(self._records / f"{job.name}.csv", table_csv.encode())
        record = {"state": "done", "key": self._key, "input": source, **record}
        self._write(job.name, record)
        self.done[job.name] = record
        return record

    def discard(self) -> bool:
        """Take away a folder that was made for this run, in which nothing was done.

        Returns
        -------
        Whether it was; a folder that was there before stays as it is.
        """
        if self.folder / "extra" not in self._made:
            return False
        shutil.rmtree(self.folder / "extra", ignore_errors=True)
        with suppress(OSError):  # not empty: somebody else put something there
            for folder in self._made[1:]:
                folder.rmdir()
        return True

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write what became of the last run."""
        content = {"schema_version": SCHEMA_VERSION, "version": _version(), **manifest}
        write_atomically(self.folder / "extra" / self.layout.manifest, _json(content))

    def write_objects(self) -> int:
        """Write ``objects.csv`` anew from the tables of all finished images.

        Returns
        -------
        Number of objects.
        """
        columns = ["image"]
        for _, reader in self._tables():
            last = "image"
            for name in reader.fieldnames or ():
                if name not in columns:
                    # Where its table has it, also if others lack it, as without a pixel size.
                    columns.insert(columns.index(last) + 1, name)
                last = name
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        count = 0
        # Rows are copied as text, so that no number changes on the way.
        for name, reader in self._tables():
            for row in reader:
                writer.writerow({"image": as_text(name), **row})
                count += 1
        write_atomically(self.folder / "objects.csv", text.getvalue().encode())
        return count

    def _tables(self) -> Iterator[tuple[str, csv.DictReader[str]]]:
        for path in sorted(self._records.glob("*.csv")):
            record = self._read(path.stem)
            if record and record.get("state") == "done" and self.mask_path(path.stem).is_file():
                with path.open(newline="", encoding="utf-8") as file:
                    yield path.stem, csv.DictReader(file)

    def _read(self, name: str) -> dict[str, Any] | None:
        return _read_record(self._records / f"{name}.json")

    def _write(self, name: str, record: dict[str, Any]) -> None:
        content = {"schema_version": SCHEMA_VERSION, **record}
        write_atomically(self._records / f"{name}.json", _json(content))


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _changed(path: Path) -> int:
    """When a file changed (ns); 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _wrote(record: dict[str, Any]) -> bool:
    """Whether the mask beside a record is ours: not if there was none when it failed."""
    return bool(record.get("mask", True))


def _input(record: dict[str, Any]) -> Any:
    """Path of the image that a record is of."""
    return record.get("input", {}).get("path")


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(readable_all(content), indent=2) + "\n").encode()
