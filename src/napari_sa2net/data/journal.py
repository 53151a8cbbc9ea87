"""Edits that were not kept yet, on disk as they are made: a crash loses none of them.

A journal belongs to one image in one window. It is a folder with a snapshot of the labels and
the steps after it (see `journal_store`). A step is bytes and a small header, whose meaning is
the editor's.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import secrets
import shutil
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import BaseFileLock
from numpy.typing import NDArray

from napari_sa2net.data import journal_store as store
from napari_sa2net.errors import JournalError, JournalInUseError, OutputError, SA2NetError
from napari_sa2net.files import locked, sync_folder, take_lock, user_data_dir

logger = logging.getLogger(__name__)

#: Held while journals appear and go, and while their locks are tried.
LOCK = ".lock"
#: Seconds that closing waits for the last steps, or for the next block of arrays.
CLOSE_TIMEOUT = 30.0
#: Name of an image that nobody has told yet.
UNKNOWN = "?"

# --------------------------------------------------------------------------------------------
# Which journals there are, whose they are, and which can be restored.


@dataclass(frozen=True)
class JournalImage:
    """The image whose labels are edited, as far as it takes to find it again.

    Attributes
    ----------
    name : str
    path : str
        Its file, where there is one.
    fingerprint : str
        See `image_fingerprint`.
    shape : tuple of int
        Of the labels.
    more : dict of plain values
        What the editor needs (training set, model).
    """

    name: str
    path: str = ""
    fingerprint: str = ""
    shape: tuple[int, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JournalInfo:
    """A journal as it is listed.

    Attributes
    ----------
    id : str
    image : JournalImage
    changed : datetime
        Of the last step, UTC.
    n_edits : int
        Steps that are in no commit.
    n_bytes : int
    in_use : bool
        A window is writing it.
    problem : str
        Why it cannot be restored; empty if it can.
    is_whole : bool
        It was closed with all of its steps. False: the last ones may not have been written,
        as after a crash, or on a full disk. True where it does not say.
    """

    id: str
    image: JournalImage
    changed: datetime
    n_edits: int
    n_bytes: int
    in_use: bool
    problem: str = ""
    is_whole: bool = True


def journals_dir() -> Path:
    """Folder of all journals of this user; it may not exist yet."""
    return user_data_dir() / "journals"


def list_journals(folder: Path | None = None, in_use: bool = False) -> list[JournalInfo]:
    """Journals with edits that were never kept, the latest first.

    Those without any, and what is left of half-made or half-deleted ones, are cleared away.

    Parameters
    ----------
    folder : Path, optional
        Unsaid: `journals_dir`.
    in_use : bool
        Also list those of living windows (this one's too).

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    folder = folder or journals_dir()
    if not folder.is_dir():
        return []
    found = []
    with locked(folder / LOCK):
        for path in sorted(p for p in folder.iterdir() if p.is_dir()):
            lock = take_lock(_lock_path(path))
            if lock is None and not in_use:
                continue
            try:
                info = _describe(path, lock is None)
                if lock is not None and (info is None or not (info.n_edits or info.problem)):
                    _delete(path)
                elif info is not None:
                    found.append(info)
            finally:
                if lock is not None:
                    lock.release()
        for path in folder.glob("*.lock"):
            if path.name != LOCK and not path.with_suffix("").is_dir():
                path.unlink(missing_ok=True)
    return sorted(found, key=lambda info: info.changed, reverse=True)


def discard_journal(identity: str, folder: Path | None = None) -> None:
    """Delete a journal that no window is writing.

    Raises
    ------
    JournalError, JournalInUseError
        If there is none; if a window is writing it.
    """
    folder = folder or journals_dir()
    lock = _claim(folder, identity)
    try:
        _delete_claimed(folder / identity, lock)
    finally:
        lock.release()


def _describe(path: Path, in_use: bool) -> JournalInfo | None:
    """None for what is no journal (yet, or any more)."""
    size, changed = 0, 0.0
    for file in path.iterdir():
        with suppress(FileNotFoundError):  # a window that writes makes and deletes some
            stat = file.stat()
            size, changed = size + stat.st_size, max(changed, stat.st_mtime)
    held = store.load(path, "ro" if in_use else "rw")  # what a dead window left is rolled back
    if held is None:
        return None
    n_edits, problem = 0, str(held.problem or "")
    if held.is_usable:
        n_edits = held.number - held.committed
        problem = "" if n_edits else problem
        changed = (held.step or held.snapshot)[-1].time
    when = datetime.fromtimestamp(changed, UTC)
    image, whole = _image_of(held), bool(_about_of(held).get("whole", True))
    return JournalInfo(path.name, image, when, n_edits, size, in_use, problem, whole)


def _new_journal(folder: Path) -> tuple[str, BaseFileLock]:
    """Make the folder of a journal; returns its id and its lock, held."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            while True:
                identity = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
                lock = take_lock(_lock_path(folder / identity))
                if lock is not None:
                    (folder / identity).mkdir()
                    return identity, lock
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error}), so edits cannot be journalled. Check its "
            "permissions, or set SA2NET_HOME to another folder."
        ) from error


def _claim(folder: Path, identity: str) -> BaseFileLock:
    """The lock, held, of a journal that nobody is writing."""
    path = folder / identity
    if not folder.is_dir():
        raise _unknown(path)
    with locked(folder / LOCK):
        is_one = any((path / name).is_file() for name in (store.DATABASE, store.ABOUT))
        if not is_one or path.parent != folder:
            raise _unknown(path)
        lock = take_lock(_lock_path(path))
    if lock is None:
        held = store.load(path, "ro")
        pid = _about_of(held).get("pid") if held else "?"
        raise JournalInUseError(
            f"Another window (process {pid}) is writing these edits. Go on there, or close it "
            "first."
        )
    return lock


def _unknown(path: Path) -> JournalError:
    return JournalError(f"There is no journal {path.name!r} in {path.parent}.")


def _lock_path(path: Path) -> Path:
    # Beside the folder, so that the folder can be deleted while the lock is held.
    return path.with_name(f"{path.name}.lock")


def _delete_claimed(path: Path, lock: BaseFileLock) -> None:
    """Delete a journal whose lock is held; the lock is released."""
    if not path.parent.is_dir():
        lock.release()
        return
    with locked(path.parent / LOCK):
        _delete(path)
        lock.release()
        _lock_path(path).unlink(missing_ok=True)


def _delete(path: Path) -> None:
    # First what makes it a journal, so that a crash leaves rubbish rather than half of one.
    for name in (store.DATABASE, store.ABOUT):
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


# --------------------------------------------------------------------------------------------
# Writing


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
        As they were given to `Journal.create` or `Journal.compact`; of those that were copied
        while they were edited, any of the steps may be in them, whole or in part.
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
    number : int
        Of the last step.
    durable : int
        Number of the last step that is on disk; −1 while nothing is.
    error : SA2NetError or None
        Why the last writing failed; None once it has worked again.
    """

    def __init__(
        self, folder: Path, identity: str, image: JournalImage, lock: BaseFileLock
    ) -> None:
        self.id = identity
        self.path = folder / identity
        self._database = self.path / store.DATABASE
        self.image = image
        self.number = 0
        self.durable = -1
        self.error: SA2NetError | None = None
        self._lock = lock
        self._committed = 0
        self._listener: Callable[[], None] | None = None
        self._queue: deque[store.Entry | store.Snapshot] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._stopping = False
        self._n_written = 0  # rows of snapshots
        self._find_out: Callable[[], JournalImage] | None = None
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None  # the thread's
        self._file: os.stat_result | None = None  # None while there is no database

    # --- making ----------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        image: JournalImage | Callable[[], JournalImage],
        arrays: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        copy: bool = True,
    ) -> Journal:
        """Begin a journal; what it starts from is written in the background.

        Parameters
        ----------
        image : JournalImage, or callable() -> JournalImage
            To know it again; what takes a while to find out is asked for in the background.
        arrays : mapping of str to array
            Labels before the first step, and what else is needed (reviewed pixels).
        state : mapping of plain values, optional
            Given back with the arrays.
        folder : Path, optional
            Unsaid: `journals_dir`.
        copy : bool
            Copy arrays in memory now. False: they are read, block by block, while they may
            change already, for which whoever restores them must know what each step found.

        Raises
        ------
        OutputError
            If the folder cannot be made. Arrays that cannot be written are an `error`.
        """
        folder = folder or journals_dir()
        identity, lock = _new_journal(folder)
        known = image if isinstance(image, JournalImage) else JournalImage(UNKNOWN)
        journal = cls(folder, identity, known, lock)
        journal._find_out = None if isinstance(image, JournalImage) else image
        journal.compact(arrays, state, copy)
        return journal

    @classmethod
    def reopen(cls, identity: str, folder: Path | None = None) -> Journal:
        """Take over a journal whose window has closed or died; new steps go after the old.

        One of version 0.1.0 is converted.

        Raises
        ------
        JournalInUseError
            If another window is writing it.
        JournalError
            If it is gone, or damaged from the start.
        OutputError
            If it cannot be written; it is as it was.
        """
        folder = folder or journals_dir()
        lock = _claim(folder, identity)
        try:
            journal = cls(folder, identity, JournalImage(UNKNOWN), lock)
            journal._take_over()
        except BaseException:
            lock.release()
            raise
        return journal

    def _take_over(self) -> None:
        held = store.load(self.path)
        # To a damaged one nothing can be added, nor to an old one.
        anew = (
            held
            and held.is_usable
            and (held.is_torn or held.about[0].number < store.SCHEMA_VERSION)
        )
        if anew:
            held = store.load(self.path, arrays=True)
        if held is None:
            raise _unknown(self.path)
        held.check()
        self.image = _image_of(held)
        held.about = [_about_row(self.image)]
        try:
            if anew:
                store.new_database(self.path, held.entries())
            else:
                with closing(store.connect(self._database, "rw")) as db, store.transaction(db):
                    store.put(db, "about", held.about[0])
            for path in (*self.path.glob("*.snap"), *self.path.glob("*.log")):
                path.unlink()
            self._file = self._database.stat()
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"{self.path} cannot be written ({error}).") from error
        self.number = self.durable = held.number
        self._committed = held.committed

    # --- what is there ---------------------------------------------------------------------

    @property
    def n_uncommitted(self) -> int:
        """Steps that are in no commit."""
        return self.number - self._committed

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call back, from the writing thread, whenever `durable` or `error` changed."""
        self._listener = listener

    def read(self) -> Restored:
        """Everything that is on disk.

        Raises
        ------
        JournalError
            If it is damaged from the start. A torn end is passed over.
        """
        held = store.load(self.path, arrays=True)
        if held is None:
            raise JournalError(
                f"The journal {self.path} is gone, or nothing was written to it yet."
            )
        held.check()
        steps = [Step(row.number, json.loads(row.header), row.payload) for row in held.step]
        return Restored(
            store.arrays_of(self.path, held), held.top["state"], steps, self._committed
        )

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
        row = store.Row(
            self.number + 1, store.to_json(header or {}), bytes(payload), time.time()
        )
        self._hand_over(("step", row))
        self.number += 1
        return self.number

    def mark_committed(self, number: int | None = None, commit: str = "") -> None:
        """Note that the steps up to `number` (unsaid: all) are in a commit, after it is."""
        upto = self.number if number is None else int(number)
        self._hand_over(
            ("kept", store.Row(upto, store.to_json({"commit": commit}), b"", time.time()))
        )
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
        self._hand_over(store.Snapshot(kept, dict(state or {}), self.number, self._committed))

    def retry(self) -> None:
        """Try again to write what could not be written."""
        with self._changed:
            self.error = None
            self._changed.notify_all()

    def wait(self, number: int | None = None, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Wait until a step (unsaid: everything so far) is on disk; False if it takes longer.

        Raises
        ------
        OutputError, JournalError
            If it cannot be written.
        """

        def is_done() -> bool:
            return not self._queue if number is None else self.durable >= number

        with self._changed:
            self._changed.wait_for(lambda: self.error or is_done(), timeout)
            if self.error is not None and not is_done():
                raise self.error
            return is_done()

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
            # arrays of which nothing is on disk yet are not written only to be deleted
            if self.durable >= 0 or self.n_uncommitted > 0:
                self._write_out(CLOSE_TIMEOUT)
        finally:
            self._stop()
            if self.n_uncommitted == 0:
                _delete_claimed(self.path, self._lock)
            self._lock.release()

    def _write_out(self, timeout: float) -> None:
        """Wait for the last steps, and for arrays before them as long as these progress.

        After them it is noted that these are all.
        """
        self._hand_over(("about", store.Row(store.SCHEMA_VERSION, b"")))
        before = self._n_written
        while not self.wait(timeout=timeout):
            if self._n_written == before:
                raise OutputError(
                    f"The last edits could not be written to {self.path} in time."
                )
            before = self._n_written

    def discard(self) -> None:
        """Delete the journal and its steps, for good."""
        if not self._closed:
            self._closed = True
            self._stop()
            _delete_claimed(self.path, self._lock)

    def finish(self, commit: str = "") -> None:
        """After a commit of all steps: nothing is left to restore, so the journal goes."""
        self.mark_committed(commit=commit)
        self.close()

    def _hand_over(self, item: store.Entry | store.Snapshot) -> None:
        """To the thread; returns at once, or raises JournalError if the journal is closed."""
        with self._changed:
            if self._stopping:
                raise JournalError("This journal is closed. Begin a new one.")
            self._queue.append(item)
            self.error = None
            if self._thread is None:
                # It must not keep a process alive; _write_the_rest sees to the last steps.
                self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
                self._thread.start()
                _writing.add(self)
            self._changed.notify_all()

    def _stop(self) -> None:
        """End the thread, after what it is writing just now."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT)
        _writing.discard(self)

    # --- in the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping or (bool(self._queue) and self.error is None)
                )
                written = self._file is not None and self.error is None
                if self._stopping and not (written and self._queue):
                    break  # else the steps after a snapshot that was just finished
                if self._file is None:  # a snapshot stands for all that came before it
                    while not isinstance(self._queue[0], store.Snapshot) and any(
                        isinstance(item, store.Snapshot) for item in self._queue
                    ):
                        self._queue.popleft()
                first = self._queue[0]
                entries: list[store.Entry] = []
                for item in self._queue:  # together, up to the next snapshot
                    if isinstance(item, store.Snapshot):
                        break
                    entries.append(item)
            error = self._try(first, entries)
            with self._changed:
                self.error = error
                if isinstance(first, store.Snapshot):
                    # Without a database no step has a meaning; else a snapshot can be left out.
                    if error is None or self._file is not None:
                        self._queue.popleft()
                    if error is None:
                        self.durable = max(self.durable, first.number)
                elif error is None:
                    for table, row in entries:
                        self._queue.popleft()
                        if table == "step":
                            self.durable = row.number
                elif self._file is None:
                    self.durable = -1
                self._changed.notify_all()
            if self._listener is not None:
                self._listener()
        self._let_go()

    def _try(
        self, first: store.Entry | store.Snapshot, entries: list[store.Entry]
    ) -> SA2NetError | None:
        try:
            if isinstance(first, store.Snapshot):
                self._write_snapshot(first)
            else:
                self._write(entries)
            return None
        except SA2NetError as problem:
            error = problem
        except Exception as problem:  # also what lazy arrays raise: the thread must live on
            error = OutputError(
                f"The journal of edits in {self.path} cannot be written ({problem}). Free some "
                "space on that disk, or keep your corrections now."
            )
        self._let_go()
        return error

    def _write(self, entries: list[store.Entry]) -> None:
        if not self._is_in_place():
            raise self._deleted()
        db = self._connection()
        with store.transaction(db):
            for table, row in entries:
                # one that ends it is made now: what the image is may have been found out late
                last = table == "about"
                store.put(db, table, _about_row(self.image, whole=True) if last else row)
        if not self._database.with_name(f"{store.DATABASE}-wal").exists():
            # Without one, nothing is done; if it was cleared away, what is only there is saved.
            db.execute("PRAGMA wal_checkpoint(FULL)")
        if not self._is_in_place():
            raise self._deleted()

    def _write_snapshot(self, snapshot: store.Snapshot) -> None:
        entries = self._watched(store.entries_of(self._about, snapshot))
        if self._is_in_place():
            store.fill(self._connection(), entries)
        else:
            self._let_go()
            self._file, self.durable = None, -1
            self.path.mkdir(parents=True, exist_ok=True)
            store.new_database(self.path, entries)
            sync_folder(self.path.parent)
            self._file = self._database.stat()

    def _about(self) -> store.Row:
        if self._find_out is not None:
            self.image, self._find_out = self._find_out(), None
        return _about_row(self.image)

    def _watched(self, entries: Iterable[store.Entry]) -> Iterator[store.Entry]:
        for entry in entries:
            if self._stopping:  # nobody waits for it any more
                raise JournalError("This journal was closed while it was begun.")
            yield entry
            self._n_written += 1

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = store.connect_writer(self._database)
        return self._db

    def _let_go(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _is_in_place(self) -> bool:
        """Whether the database is there: its deletion would go unseen."""
        try:
            now = self._database.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return self._file is not None and os.path.samestat(now, self._file)

    def _deleted(self) -> JournalError:
        self._file = None
        return JournalError(
            f"The journal of edits {self.path} was deleted. Keep your corrections now: until "
            "then a crash would lose them."
        )


def _about_of(held: store.Held) -> dict[str, Any]:
    return dict(json.loads(held.about[0].header)) if held.about else {}


def _image_of(held: store.Held) -> JournalImage:
    one = _about_of(held).get("image", {})
    return JournalImage(**{"name": UNKNOWN, **one, "shape": tuple(one.get("shape", ()))})


def _about_row(image: JournalImage, whole: bool = False) -> store.Row:
    about = {"image": asdict(image), "pid": os.getpid(), "whole": whole}
    return store.Row(store.SCHEMA_VERSION, store.to_json(about), b"", time.time())


def lost_words(journal: Journal, error: SA2NetError) -> str:
    """What to say where a journal was closed and its last steps could not be written."""
    name = journal.image.name
    there = "Those before them are offered when the image is opened again."
    return (
        f"The last corrections{'' if name == UNKNOWN else f' of {name!r}'} were not written "
        f"down: {error} {there if journal.durable >= 0 else 'None of them can be restored.'}"
    )


_writing: weakref.WeakSet[Journal] = weakref.WeakSet()


@atexit.register
def _write_the_rest() -> None:
    for journal in list(_writing):
        try:
            journal._write_out(5)
        except SA2NetError as error:
            logger.error("%s", lost_words(journal, error))
