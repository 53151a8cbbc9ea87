"""The files of a set of corrections: where they lie, and what a crash may leave of them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from napari_sa2net.data.commit import Commit
from napari_sa2net.data.locks import locked
from napari_sa2net.data.manifest import (
    KINDS,
    PLACES,
    CommitRecord,
    Manifest,
    State,
    is_training_set,
    read_manifest,
    write_manifest,
)
from napari_sa2net.data.write import write_image
from napari_sa2net.errors import CommitNotFoundError, CorrectionsError, OutputError
from napari_sa2net.files import TEMPORARY_PREFIX, sync_folder, write_atomically

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
        return [record.id for record in self.manifest.commits]

    def find(self, identity: str) -> CommitRecord:
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
    for pending in sorted(folder.glob(f"{PENDING_PREFIX}*.json")):
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
