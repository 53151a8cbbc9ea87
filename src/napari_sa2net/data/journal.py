"""Edits that were not kept yet, on disk as they are made: a crash loses none of them.

A journal belongs to one image in one window. It is a folder with a snapshot of the labels and
a log of steps after it. A step is bytes and a small header, whose meaning is the editor's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import BaseFileLock
from numpy.typing import NDArray

from napari_sa2net.data.journal_files import (
    COMMITTED,
    STEP,
    Frame,
    frame_bytes,
    read_snapshot,
    scan_log,
)
from napari_sa2net.data.journal_list import (
    JournalImage,
    JournalInfo,
    claim_journal,
    delete_journal,
    discard_journal,
    find_base,
    journals_dir,
    list_journals,
    log_of,
    new_journal,
    progress,
    write_about,
)
from napari_sa2net.data.journal_writer import CLOSE_TIMEOUT, JournalWriter, Snapshot
from napari_sa2net.errors import OutputError, SA2NetError

__all__ = [
    "Journal",
    "JournalImage",
    "JournalInfo",
    "Restored",
    "Step",
    "discard_journal",
    "journals_dir",
    "list_journals",
]


@dataclass(frozen=True)
class Step:
    """An edit as it was journalled.

    Attributes
    ----------
    number : int
        1, 2, … over the life of the journal.
    header : dict
    payload : bytes
    """

    number: int
    header: dict[str, Any]
    payload: bytes


@dataclass(frozen=True)
class Restored:
    """What a journal holds: apply the steps to the arrays, in order.

    Attributes
    ----------
    arrays : dict of str to array
        As they were given to `Journal.create` or `Journal.compact`.
    state : dict
        Given with them.
    steps : list of Step
        After these arrays.
    committed : int
        Number of the last step that is in a commit; later ones were never kept.
    """

    arrays: dict[str, NDArray[Any]]
    state: dict[str, Any]
    steps: list[Step]
    committed: int


class Journal:
    """A journal that this process writes; made by `create` or `reopen`.

    A thread of its own writes, so that no caller waits for the disk. Steps are *journalled*
    when `durable` has reached their number. If writing fails (disk full, folder deleted), they
    wait in memory, `error` says why, and the next step or `retry` tries again.

    Attributes
    ----------
    id : str
    path : Path
        Its folder.
    image : JournalImage
    """

    def __init__(
        self, folder: Path, identity: str, image: JournalImage, lock: BaseFileLock
    ) -> None:
        self.id = identity
        self.path = folder / identity
        self.image = image
        self._lock = lock
        self._writer = JournalWriter(self.path, image)
        self._number = 0
        self._committed = 0
        self._closed = False

    # --- making ----------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        image: JournalImage,
        arrays: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        copy: bool = True,
    ) -> Journal:
        """Begin a journal; what it starts from is written in the background.

        Parameters
        ----------
        image : JournalImage
            To know it again.
        arrays : mapping of str to array
            Labels before the first step, and what else is needed (reviewed pixels).
        state : mapping of plain values, optional
            Given back with the arrays.
        folder : Path, optional
            Unsaid: `journals_dir`.
        copy : bool
            Copy arrays in memory now. False for those that will not change before `durable`
            is 0.

        Raises
        ------
        OutputError
            If the folder cannot be made. Arrays that cannot be written are an `error`.
        """
        folder = folder or journals_dir()
        identity, lock = new_journal(folder)
        journal = cls(folder, identity, image, lock)
        journal.compact(arrays, state, copy)
        return journal

    @classmethod
    def reopen(cls, identity: str, folder: Path | None = None) -> Journal:
        """Take over a journal whose window has closed or died; new steps go after the old.

        Raises
        ------
        JournalInUseError
            If another window is writing it.
        JournalError
            If it is gone, or damaged from the start.
        """
        folder = folder or journals_dir()
        image, lock = claim_journal(folder, identity)
        try:
            journal = cls(folder, identity, image, lock)
            base, top = find_base(journal.path)
            scan = scan_log(log_of(base), top.number + 1)
            journal._number, journal._committed = progress(top, scan)
            journal._writer.go_on(log_of(base), scan.good_bytes, journal._number)
            write_about(journal.path, image)
        except OSError as error:
            lock.release()
            raise OutputError(f"{folder} cannot be written ({error}).") from error
        except BaseException:
            lock.release()
            raise
        return journal

    # --- what is there ---------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Number of the last step."""
        return self._number

    @property
    def durable(self) -> int:
        """Number of the last step that is on disk; −1 while nothing is."""
        return self._writer.durable

    @property
    def n_uncommitted(self) -> int:
        """Steps that are in no commit."""
        return self._number - self._committed

    @property
    def error(self) -> SA2NetError | None:
        """Why the last writing failed; None once it has worked again."""
        return self._writer.error

    @property
    def log_bytes(self) -> int:
        """Size of the steps on disk since the last snapshot."""
        return self._writer.log_bytes

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call back, from the writing thread, whenever `durable` or `error` changed."""
        self._writer.listener = listener

    def read(self) -> Restored:
        """Everything that is on disk.

        Raises
        ------
        JournalError
            If it is damaged from the start. A torn end is passed over.
        """
        base, _ = find_base(self.path)
        top, arrays = read_snapshot(base)
        steps = [
            Step(frame.number, frame.header, frame.payload)
            for frame in scan_log(log_of(base), top.number + 1).frames
            if frame.kind == STEP
        ]
        return Restored(arrays, top.header["state"], steps, self._committed)

    # --- writing ---------------------------------------------------------------------------

    def append(self, payload: bytes, header: Mapping[str, Any] | None = None) -> int:
        """Add a step; returns its number at once, see `durable` and `wait`.

        Parameters
        ----------
        payload : bytes
        header : mapping of plain values, optional

        Raises
        ------
        JournalError
            If the journal is closed.
        TypeError
            If the header holds other than plain values.
        """
        frame = Frame(STEP, self._number + 1, dict(header or {}), bytes(payload))
        frame_bytes(Frame(STEP, 0, frame.header))  # a bad header fails here, not in the thread
        self._writer.put(frame)
        self._number += 1
        return self._number

    def mark_committed(self, number: int | None = None, commit: str = "") -> None:
        """Note that the steps up to `number` (unsaid: all) are in a commit, after it is."""
        upto = self._number if number is None else number
        self._writer.put(Frame(COMMITTED, self._number, {"upto": upto, "commit": commit}))
        self._committed = max(self._committed, upto)

    def compact(
        self,
        arrays: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        copy: bool = True,
    ) -> None:
        """Begin anew from these arrays, which have all steps so far in them.

        Steps before them cannot be undone after a restart. This also makes a journal anew
        whose folder was deleted. Arguments as for `create`.
        """
        kept = {
            name: array.copy() if copy and isinstance(array, np.ndarray) else array
            for name, array in arrays.items()
        }
        self._writer.put(Snapshot(kept, dict(state or {}), self._number, self._committed))

    def retry(self) -> None:
        """Try again to write what could not be written."""
        self._writer.retry()

    def wait(self, number: int | None = None, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Wait until a step (unsaid: everything so far) is on disk; False if it takes longer.

        Raises
        ------
        OutputError, JournalError
            If it cannot be written.
        """
        return self._writer.wait(number, timeout)

    def close(self) -> None:
        """Write the rest and let go. A journal whose steps are all committed is deleted.

        Raises
        ------
        OutputError, JournalError
            If steps could not be written; the journal is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.retry()
            if not self.wait():
                raise OutputError(
                    f"The last edits could not be written to {self.path} in time."
                )
        finally:
            self._writer.stop()
            if self.n_uncommitted == 0:
                delete_journal(self.path, self._lock)
            self._lock.release()

    def discard(self) -> None:
        """Delete the journal and its steps, for good."""
        if not self._closed:
            self._closed = True
            self._writer.stop()
            delete_journal(self.path, self._lock)

    def finish(self, commit: str = "") -> None:
        """After a commit of all steps: nothing is left to restore, so the journal goes."""
        self.mark_committed(commit=commit)
        self.close()
