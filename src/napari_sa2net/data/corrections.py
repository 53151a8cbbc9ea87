"""A set of corrections on disk: commits that can be trained on, undone and exchanged.

Every change holds a lock of the folder, reads the manifest anew, and ends in one rename of it:
two windows may write to one set, and a crash leaves the set before or after, never between.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.channels import Channels
from napari_sa2net.data.commit import Commit, checked_commit
from napari_sa2net.data.corrections_files import (
    LOCK,
    Changes,
    create_set,
    find_record,
    locate,
    recover,
    tidy,
    write_files,
)
from napari_sa2net.data.locks import locked
from napari_sa2net.data.manifest import (
    KINDS,
    CommitRecord,
    State,
    file_stem,
    is_training_set,
    new_id,
    read_manifest,
    write_copy,
    write_manifest,
)
from napari_sa2net.data.numbered import as_labels
from napari_sa2net.errors import (
    CommitNotFoundError,
    CorrectionsError,
    LabelsError,
    OutputError,
    SA2NetError,
)
from napari_sa2net.files import write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommittedData:
    """The arrays of a commit.

    Attributes
    ----------
    image : (H, W), (H, W, 3 or 4) or (C, H, W), as committed
    labels : int32 (H, W)
    reviewed : bool (H, W)
    record : CommitRecord
    """

    image: NDArray[Any]
    labels: NDArray[np.int32]
    reviewed: NDArray[np.bool_]
    record: CommitRecord


class TrainingSet:
    """Commits of corrected labels in a folder; made by `open`.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest = read_manifest(path)

    # --- opening ---------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | os.PathLike[str], create: bool = False) -> TrainingSet:
        """Open a set, and clear away what a crash left unfinished.

        Parameters
        ----------
        path : path
            Its folder. One that may only be read can be listed and loaded from.
        create : bool
            Make it where there is none.

        Raises
        ------
        CorrectionsError
            If there is no set, the folder holds other images and labels, or the manifest is
            damaged.
        OutputError
            If a new one cannot be made.
        """
        folder = Path(path).expanduser().absolute()
        if create and not is_training_set(folder):
            create_set(folder)
        training_set = cls(folder)
        try:
            with locked(folder / LOCK, timeout=1):
                recover(folder)
                tidy(folder, read_manifest(folder))
        except SA2NetError as error:
            # Read-only, or another window is at work, which clears up itself.
            logger.debug("Nothing cleared up in %s: %s", folder, error)
        return training_set

    # --- reading ---------------------------------------------------------------------------

    def commits(self, *states: State) -> list[CommitRecord]:
        """Commits in those states (unsaid: active), oldest first, as they are now on disk.

        Raises
        ------
        CorrectionsError
            If the folder is gone or its manifest damaged.
        """
        self._manifest = read_manifest(self.path)
        wanted = states or ("active",)
        return [record for record in self._manifest.commits if record.state in wanted]

    def find(self, identity: str) -> CommitRecord:
        """The commit with that id or name, or the only one whose id begins so.

        Raises
        ------
        CommitNotFoundError
        """
        self._manifest = read_manifest(self.path)
        return find_record(self._manifest, identity)

    def latest(
        self, source: str, index: Sequence[int] = (), box: Sequence[int] | None = None
    ) -> CommitRecord | None:
        """The active commit of a place, which a new one would supersede.

        Parameters
        ----------
        source : str
            The fingerprint of the image (or its name, if it was committed without one).
        index, box
            As committed.
        """
        place = (source, tuple(index), None if box is None else tuple(box))
        return next((r for r in self.commits() if r.place == place), None)

    def load(self, identity: str) -> CommittedData:
        """Read the arrays of a commit, whatever its state.

        Raises
        ------
        CommitNotFoundError
            If there is no such commit, or a file of it is gone.
        CorrectionsError
            If a file was changed from outside so that it does not fit.
        """
        from napari_sa2net.data.io import read_image

        record = self.find(identity)
        arrays = []
        for kind in KINDS:
            for attempt in range(3):
                path = locate(self.path, record, kind)
                try:
                    arrays.append(np.asarray(read_image(path).array))
                    break
                except SA2NetError:
                    # Another window may just have moved it to the trash or back.
                    if attempt == 2 or path.exists():
                        raise
        image, labels, reviewed = arrays
        spatial = tuple(image.shape[record.axes.index(axis)] for axis in "YX")
        try:
            labels = as_labels(labels)
        except LabelsError as error:
            raise CorrectionsError(
                f"{locate(self.path, record, 'labels')}: {error} Bring the file back, or "
                "remove the commit."
            ) from error
        if not spatial == labels.shape == reviewed.shape:
            raise CorrectionsError(
                f"The files of {record.name!r} do not fit each other any more: image "
                f"{spatial}, labels {labels.shape}, reviewed {reviewed.shape}. Bring them "
                "back, or remove the commit."
            )
        return CommittedData(image, labels.astype(np.int32, copy=False), reviewed > 0, record)

    def is_complete(self, record: CommitRecord) -> bool:
        """Whether all files of a commit are there."""
        try:
            return all(locate(self.path, record, kind) for kind in KINDS)
        except CommitNotFoundError:
            return False

    # --- changing --------------------------------------------------------------------------

    def commit(self, commit: Commit) -> CommitRecord:
        """Keep corrected labels; when this returns they are on disk and listed.

        An active commit of the same source, plane and box is superseded: kept, no longer
        trained on, and brought back by `revert`.

        Raises
        ------
        CorrectionsError
            If the arrays do not fit, nothing is reviewed, or the folder is gone.
        OutputError
            If it cannot be written (disk full, read-only). The set is then as before.
        """
        return self.commit_all([commit])[0]

    def commit_all(
        self, commits: Iterable[Commit], withdraw: Iterable[str] = ()
    ) -> list[CommitRecord]:
        """Keep several at once: all of them or, after an error, none (see `commit`).

        Parameters
        ----------
        commits
        withdraw : str
            Ids of commits to take back in the same change: they go to the trash, and where
            one of them was active, the one before of its place is active again.
        """
        checked = [checked_commit(commit) for commit in commits]
        with self._changing() as changes:
            records: list[CommitRecord] = []
            for commit in checked:
                identity = new_id([*changes.ids, *(r.id for r in records)])
                name = file_stem(commit.source, tuple(commit.index), identity)
                records.append(commit.record(identity, name, _now()))
            with changes.writing(records):
                for commit, record in zip(checked, records, strict=True):
                    write_files(self.path, commit, record)
            for record in records:
                changes.activate(record)
            changes.withdraw(withdraw)
        return records

    def adopt(self, folder: Path, records: Sequence[CommitRecord]) -> None:
        """Copy active commits of another set, ids and all, see `import_corrections`.

        Of two of one place the later one is active. Those that are here are passed over.

        Raises
        ------
        CommitNotFoundError, CorrectionsError, OutputError
        """
        with self._changing() as changes:
            here = set(changes.ids)
            new = [record for record in records if record.id not in here]
            with changes.writing(new):
                for record in new:
                    for kind in KINDS:
                        content = locate(folder, record, kind).read_bytes()
                        path = self.path / kind / f"{record.name}.tif"
                        write_atomically(path, content, make_folder=False)
            for record in new:
                rivals = [
                    other
                    for other in changes.manifest.commits
                    if other.state == "active" and other.place == record.place
                ]
                if any(other.time > record.time for other in rivals):
                    changes.put(record, "superseded")
                else:
                    changes.activate(record)

    def revert(self, identity: str) -> CommitRecord:
        """Take an active commit back: it goes to the trash, the one before is active again.

        Returns
        -------
        The commit that is active now.

        Raises
        ------
        CommitNotFoundError
        CorrectionsError
            If it is not active, or there is none before it.
        OutputError
        """
        with self._changing() as changes:
            record = changes.find(identity)
            if record.state != "active":
                raise CorrectionsError(
                    f"{record.name!r} is {record.state}; only an active commit can be reverted."
                )
            before = [
                r
                for r in changes.manifest.commits
                if r.place == record.place and r.state == "superseded"
            ]
            if not before:
                raise CorrectionsError(
                    f"There is no commit before {record.name!r}. To take it out of the set, "
                    "remove it."
                )
            changes.put(record, "removed")
            return changes.activate(before[-1])

    def remove(self, identity: str) -> CommitRecord:
        """Move a commit to the set's trash; `restore` brings it back.

        Raises
        ------
        CommitNotFoundError, CorrectionsError, OutputError
        """
        with self._changing() as changes:
            record = changes.find(identity)
            if record.state == "removed":
                raise CorrectionsError(f"{record.name!r} is in the trash already.")
            return changes.put(record, "removed")

    def restore(self, identity: str) -> CommitRecord:
        """Make a removed or superseded commit active; another of its place is superseded.

        Raises
        ------
        CommitNotFoundError
            Also if its files are gone, because the trash was emptied.
        CorrectionsError, OutputError
        """
        with self._changing() as changes:
            record = changes.find(identity)
            if record.state == "active":
                raise CorrectionsError(f"{record.name!r} is active already.")
            for kind in KINDS:
                locate(self.path, record, kind)
            return changes.activate(record)

    # --- in and out ------------------------------------------------------------------------

    def export(self, destination: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Copy the active commits to a folder or .zip, see `export_corrections`."""
        from napari_sa2net.data.exchange import export_corrections

        return export_corrections(self, destination, overwrite)

    def import_folder(
        self,
        source: str | os.PathLike[str],
        group: str = "",
        axes: str | None = None,
        channels: Channels = None,
    ) -> list[CommitRecord]:
        """Take in a folder or zip file, see `import_corrections`."""
        from napari_sa2net.data.exchange import import_corrections

        return import_corrections(self, source, group, axes=axes, channels=channels)

    @contextmanager
    def _changing(self) -> Iterator[Changes]:
        """Changes to the set as it is now; written when the block ends without an error."""
        read_manifest(self.path)  # a folder that is gone is named before its lock is missed
        with locked(self.path / LOCK):
            recover(self.path)
            changes = Changes(self.path, read_manifest(self.path))
            try:
                yield changes
                read_manifest(self.path)  # not deleted meanwhile
                write_manifest(self.path, changes.manifest)
            except OutputError:
                read_manifest(self.path)  # where the folder is gone, says so
                raise
            finally:
                # After an error this takes back the files of commits that are not listed.
                with suppress(SA2NetError, OSError):
                    recover(self.path)
            self._manifest = changes.manifest
            write_copy(self.path, changes.manifest)
            tidy(self.path, changes.manifest)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
