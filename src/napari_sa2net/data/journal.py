"""Edits that were not kept yet, on disk as they are made: a crash loses none of them.

A journal belongs to one image in one window. It is a folder with an SQLite database: a snapshot
of the labels, and the steps after it. A step is bytes and a small header, whose meaning is the
editor's.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import secrets
import shutil
import sqlite3
import struct
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from filelock import BaseFileLock
from numpy.typing import NDArray

from napari_sa2net.errors import JournalError, JournalInUseError, OutputError, SA2NetError
from napari_sa2net.files import (
    TEMPORARY_PREFIX,
    locked,
    sync_folder,
    take_lock,
    user_data_dir,
    write_atomically,
)

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

SCHEMA_VERSION = 2
DATABASE = "edits.sqlite"
#: Beside the database, so that version 0.1.0 says "newer" where it would clear it away.
ABOUT = "about.json"
#: Held while journals appear and go, and while their locks are tried.
LOCK = ".lock"
#: Seconds that closing waits for the last steps, and one connection for another.
CLOSE_TIMEOUT = 30.0
BUSY_TIMEOUT = 10.0
_CHUNK_BYTES = 16 * 2**20
#: What a write-ahead log keeps of its length when it begins anew, as it does all 1,000 pages.
_WAL_BYTES = 4 * 2**20

# --------------------------------------------------------------------------------------------
# The database. All tables have the same columns, and each row says itself whether it is whole.

#: Tables and their keys: the image and who writes; steps in the snapshot; number of a block of
#: its arrays; number of a step; number of the last step in a commit.
_TABLES = {
    "about": "schema_version",
    "snapshot": "number",
    "chunk": "place",
    "step": "number",
    "kept": "upto",
}
_DAMAGE = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class _Row(NamedTuple):
    number: int
    header: bytes  # JSON
    payload: bytes = b""
    time: float = 0.0  # when it was made

    @property
    def crc(self) -> int:
        key = struct.pack("<qd", self.number, self.time)
        return zlib.crc32(self.payload, zlib.crc32(self.header, zlib.crc32(key)))


_Entry = tuple[str, _Row]  # a row with its table


def _json(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _connect(file: Path, mode: str) -> sqlite3.Connection:
    """A connection of this thread: "ro", "rw", or "rwc" to make the file."""
    # as_uri would name the host of \\server\home, which SQLite refuses.
    name = quote(os.fsencode(file.absolute().as_posix()))
    uri = f"file://{'' if name.startswith('/') else '/'}{name}?mode={mode}"

    def opened() -> sqlite3.Connection:
        db = sqlite3.connect(uri, BUSY_TIMEOUT, isolation_level=None, uri=True)
        db.text_factory = bytes
        return db

    db = opened()
    try:
        # FULL, and without a write-ahead log the end of a transaction outlives a power cut too.
        db.execute("PRAGMA synchronous=EXTRA")
    except sqlite3.OperationalError as error:
        db.close()
        if mode == "ro" or _code(error) == sqlite3.SQLITE_BUSY:
            raise
        # A write-ahead log needs shared memory, which some network drives lack.
        db = opened()
        for words in ("locking_mode=EXCLUSIVE", "journal_mode=DELETE", "locking_mode=NORMAL"):
            db.execute(f"PRAGMA {words}")
        db.execute("PRAGMA synchronous=EXTRA")
    except sqlite3.DatabaseError:
        pass  # damaged, as whoever reads it will be told
    return db


def _connect_writer(file: Path) -> sqlite3.Connection:
    """A connection that appends fast and stops no reader: by a write-ahead log if it can."""
    db = _connect(file, "rw")
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        db.close()
        db = _connect(file, "rw")
    db.execute(f"PRAGMA journal_size_limit={_WAL_BYTES}")
    return db


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    with db:
        yield


def _put(db: sqlite3.Connection, table: str, row: _Row) -> None:
    db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)", (*row, row.crc))


def _fill(db: sqlite3.Connection, entries: Iterable[_Entry]) -> None:
    """Begin anew from these entries; all of them, or it stays as it was."""
    with _transaction(db):
        for table, key in _TABLES.items():
            columns = f"{key} INTEGER PRIMARY KEY, header BLOB, payload BLOB, time REAL, crc"
            db.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
            db.execute(f"DELETE FROM {table}")
        for table, row in entries:
            _put(db, table, row)


def _new_database(path: Path, entries: Iterable[_Entry]) -> None:
    """Put a new database in the place of what there is, whole or not at all."""
    part = path / f"{TEMPORARY_PREFIX}{DATABASE}"
    part.unlink(missing_ok=True)
    try:
        with closing(_connect(part, "rwc")) as db:
            _fill(db, entries)
        for suffix in ("-wal", "-shm", "-journal"):
            (path / f"{DATABASE}{suffix}").unlink(missing_ok=True)
        os.replace(part, path / DATABASE)
    finally:
        part.unlink(missing_ok=True)
    mark = _json({"schema_version": SCHEMA_VERSION})
    write_atomically(path / ABOUT, mark, durable=True, make_folder=False)


def _damaged(path: Path) -> JournalError:
    return JournalError(
        f"{path} is damaged, or of a newer version, so these edits cannot be restored. "
        "Discard the journal, or update this program."
    )


def _newer(path: Path) -> JournalError:
    return JournalError(
        f"The journal {path} was written by a newer version of this program. Update: "
        "pip install -U napari-sa2net"
    )


@dataclass
class _Held:
    """Rows of a journal by their tables, as far as they can be read; `problem` says why."""

    about: list[_Row] = field(default_factory=list)
    snapshot: list[_Row] = field(default_factory=list)
    chunk: list[_Row] = field(default_factory=list)
    step: list[_Row] = field(default_factory=list)
    kept: list[_Row] = field(default_factory=list)
    is_torn: bool = False
    problem: JournalError | None = None

    @property
    def is_usable(self) -> bool:
        return bool(self.about and self.snapshot)

    def check(self) -> None:
        if self.problem is not None and not self.is_usable:
            raise self.problem

    @property
    def top(self) -> dict[str, Any]:
        return dict(json.loads(self.snapshot[0].header))

    @property
    def number(self) -> int:
        return (self.snapshot[0].number if self.snapshot else -1) + len(self.step)

    @property
    def committed(self) -> int:
        return min(self.number, max(self.top["committed"], *(r.number for r in self.kept), 0))

    @property
    def image(self) -> JournalImage:
        one = json.loads(self.about[0].header).get("image", {}) if self.about else {}
        return JournalImage(**{"name": "?", **one, "shape": tuple(one.get("shape", ()))})

    def entries(self) -> Iterator[_Entry]:
        return ((table, row) for table in _TABLES for row in getattr(self, table))


def _load(path: Path, mode: str = "rw", arrays: bool = False) -> _Held | None:
    """What a journal holds, with its arrays or without; None before its first snapshot."""
    held = _Held()
    if not (path / DATABASE).is_file():
        return _load_old(path, held, arrays)
    try:
        with closing(_connect(path / DATABASE, mode)) as db:
            db.execute("PRAGMA writable_schema=ON")  # else nothing of a file cut short is read
            db.execute("BEGIN")  # all of one moment
            (version,) = db.execute("SELECT max(schema_version) FROM about").fetchone()
            if version is not None and version > SCHEMA_VERSION:
                held.problem = _newer(path)
                return held
            for table in _TABLES:
                if arrays or table != "chunk":
                    _load_table(db, table, held)
        if held.is_usable and held.is_torn:
            held.problem = _damaged(path)
    except sqlite3.Error as error:
        # Not to be taken for what is left of it.
        held.snapshot.clear()
        if _code(error) not in _DAMAGE:
            held.problem = JournalError(f"{path / DATABASE} cannot be read ({error}).")
    if not held.is_usable:
        held.problem = held.problem or _damaged(path)
    return held


def _load_table(db: sqlite3.Connection, table: str, held: _Held) -> None:
    """Rows up to the first that is damaged; without a whole snapshot there are none."""
    rows = getattr(held, table)
    try:
        for *values, crc in db.execute(f"SELECT * FROM {table} ORDER BY rowid"):
            row = _Row(*values)
            # a gap cannot be undone or redone across
            if row.crc != crc or (table == "step" and row.number != held.number + 1):
                break
            rows.append(row)
        else:
            return
    except (sqlite3.DatabaseError, TypeError, struct.error) as error:
        # a flipped bit can make a number a text
        if isinstance(error, sqlite3.Error) and _code(error) not in _DAMAGE:
            raise
    held.is_torn = True
    if table not in ("step", "kept"):
        held.snapshot.clear()


def _entries(image: JournalImage, snapshot: _Snapshot) -> Iterator[_Entry]:
    """Rows of a snapshot, whose arrays are read block by block."""
    import imagecodecs

    described = {
        name: {"dtype": np.dtype(array.dtype).str, "shape": [int(n) for n in array.shape]}
        for name, array in snapshot.arrays.items()
    }
    header = {
        "arrays": described,
        "state": snapshot.state,
        "committed": snapshot.committed,
    }
    yield "about", _about_row(image)
    yield "snapshot", _Row(snapshot.number, _json(header), b"", time.time())
    place = 0
    for name, array in snapshot.arrays.items():
        for index, (start, stop) in _slabs(tuple(described[name]["shape"]), array.dtype):
            slab = np.ascontiguousarray(array[(*index, slice(start, stop))])
            packed = bytes(imagecodecs.zstd_encode(slab.tobytes(), level=1))
            where = {"array": name, "index": list(index), "rows": [start, stop]}
            yield "chunk", _Row(place, _json(where), packed)
            place += 1


def _slabs(
    shape: tuple[int, ...], dtype: Any
) -> Iterator[tuple[tuple[int, ...], tuple[int, int]]]:
    """Plane and rows of blocks of bounded size; an array of one axis is one block of rows."""
    stack, plane = shape[:-2], shape[-2:]
    row_bytes = math.prod(plane[1:]) * np.dtype(dtype).itemsize
    step = max(1, _CHUNK_BYTES // max(1, row_bytes))
    for index in np.ndindex(stack):
        for start in range(0, plane[0], step):
            yield index, (start, min(plane[0], start + step))


def _arrays(path: Path, held: _Held) -> dict[str, NDArray[Any]]:
    import imagecodecs

    arrays = {
        name: np.zeros(tuple(one["shape"]), np.dtype(one["dtype"]))
        for name, one in held.top["arrays"].items()
    }
    missing = sum(array.size for array in arrays.values())
    for row in held.chunk:
        where = json.loads(row.header)
        array = arrays[where["array"]]
        rows = array[(*where["index"], slice(*where["rows"]))]
        raw = imagecodecs.zstd_decode(row.payload)
        rows[...] = np.frombuffer(raw, array.dtype).reshape(rows.shape)
        missing -= rows.size
    if missing:
        raise _damaged(path)
    return arrays


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
    """

    id: str
    image: JournalImage
    changed: datetime
    n_edits: int
    n_bytes: int
    in_use: bool = False
    problem: str = ""


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
    held = _load(path, "ro" if in_use else "rw")  # what a dead window left is rolled back
    if held is None:
        return None
    n_edits, problem = 0, str(held.problem or "")
    if held.is_usable:
        n_edits = held.number - held.committed
        problem = "" if n_edits else problem
        changed = (held.step or held.snapshot)[-1].time
    when = datetime.fromtimestamp(changed, UTC)
    return JournalInfo(path.name, held.image, when, n_edits, size, in_use, problem)


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
        is_one = any((path / name).is_file() for name in (DATABASE, ABOUT))
        if not is_one or path.parent != folder:
            raise _unknown(path)
        lock = take_lock(_lock_path(path))
    if lock is None:
        held = _load(path, "ro")
        pid = json.loads(held.about[0].header).get("pid") if held and held.about else "?"
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
    for name in (DATABASE, ABOUT):
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


@dataclass(frozen=True)
class _Snapshot:
    """Arrays to begin anew from; `number` steps are in them, `committed` of these kept."""

    arrays: Mapping[str, Any]
    state: dict[str, Any]
    number: int
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
    log_bytes : int
        Size of the steps on disk since the last snapshot.
    """

    def __init__(
        self, folder: Path, identity: str, image: JournalImage, lock: BaseFileLock
    ) -> None:
        self.id = identity
        self.path = folder / identity
        self._database = self.path / DATABASE
        self.image = image
        self.number = 0
        self.durable = -1
        self.error: SA2NetError | None = None
        self.log_bytes = 0
        self._lock = lock
        self._committed = 0
        self._listener: Callable[[], None] | None = None
        self._queue: deque[_Entry | _Snapshot] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None  # the thread's
        self._file: os.stat_result | None = None  # None while there is no database

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
        identity, lock = _new_journal(folder)
        journal = cls(folder, identity, image, lock)
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
            journal = cls(folder, identity, JournalImage("?"), lock)
            journal._take_over()
        except BaseException:
            lock.release()
            raise
        return journal

    def _take_over(self) -> None:
        held = _load(self.path)
        # To a damaged one nothing can be added, nor to an old one.
        anew = (
            held and held.is_usable and (held.is_torn or held.about[0].number < SCHEMA_VERSION)
        )
        if anew:
            held = _load(self.path, arrays=True)
        if held is None:
            raise _unknown(self.path)
        held.check()
        self.image = held.image
        held.about = [_about_row(self.image)]
        try:
            if anew:
                _new_database(self.path, held.entries())
            else:
                with closing(_connect(self._database, "rw")) as db, _transaction(db):
                    _put(db, "about", held.about[0])
            for path in (*self.path.glob("*.snap"), *self.path.glob("*.log")):
                path.unlink()
            self._file = self._database.stat()
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"{self.path} cannot be written ({error}).") from error
        self.number = self.durable = held.number
        self._committed = held.committed
        self.log_bytes = sum(len(row.header) + len(row.payload) for row in held.step)

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
        held = _load(self.path, arrays=True)
        if held is None:
            raise JournalError(
                f"The journal {self.path} is gone, or nothing was written to it yet."
            )
        held.check()
        steps = [Step(row.number, json.loads(row.header), row.payload) for row in held.step]
        return Restored(_arrays(self.path, held), held.top["state"], steps, self._committed)

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
        row = _Row(self.number + 1, _json(header or {}), bytes(payload), time.time())
        self._hand_over(("step", row))
        self.number += 1
        return self.number

    def mark_committed(self, number: int | None = None, commit: str = "") -> None:
        """Note that the steps up to `number` (unsaid: all) are in a commit, after it is."""
        upto = self.number if number is None else int(number)
        self._hand_over(("kept", _Row(upto, _json({"commit": commit}), b"", time.time())))
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
        self._hand_over(_Snapshot(kept, dict(state or {}), self.number, self._committed))

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
            self.retry()
            if not self.wait():
                raise OutputError(
                    f"The last edits could not be written to {self.path} in time."
                )
        finally:
            self._stop()
            if self.n_uncommitted == 0:
                _delete_claimed(self.path, self._lock)
            self._lock.release()

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

    def _hand_over(self, item: _Entry | _Snapshot) -> None:
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
                if self._stopping:
                    break
                if self._file is None:  # a snapshot stands for all that came before it
                    while not isinstance(self._queue[0], _Snapshot) and any(
                        isinstance(item, _Snapshot) for item in self._queue
                    ):
                        self._queue.popleft()
                first = self._queue[0]
                entries: list[_Entry] = []
                for item in self._queue:  # together, up to the next snapshot
                    if isinstance(item, _Snapshot):
                        break
                    entries.append(item)
            error = self._try(first, entries)
            with self._changed:
                self.error = error
                if isinstance(first, _Snapshot):
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

    def _try(self, first: _Entry | _Snapshot, entries: list[_Entry]) -> SA2NetError | None:
        try:
            if isinstance(first, _Snapshot):
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

    def _write(self, entries: list[_Entry]) -> None:
        if not self._is_in_place():
            raise self._deleted()
        db = self._connection()
        with _transaction(db):
            for table, row in entries:
                _put(db, table, row)
        if not self._database.with_name(f"{DATABASE}-wal").exists():
            # Without one, nothing is done; if it was cleared away, what is only there is saved.
            db.execute("PRAGMA wal_checkpoint(FULL)")
        if not self._is_in_place():
            raise self._deleted()
        self.log_bytes += sum(
            len(row.header) + len(row.payload) for table, row in entries if table == "step"
        )

    def _write_snapshot(self, snapshot: _Snapshot) -> None:
        entries = _entries(self.image, snapshot)
        if self._is_in_place():
            _fill(self._connection(), entries)
        else:
            self._let_go()
            self._file, self.durable = None, -1
            self.path.mkdir(parents=True, exist_ok=True)
            _new_database(self.path, entries)
            sync_folder(self.path.parent)
            self._file = self._database.stat()
        self.log_bytes = 0

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = _connect_writer(self._database)
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


def _about_row(image: JournalImage) -> _Row:
    about = {"image": asdict(image), "pid": os.getpid()}
    return _Row(SCHEMA_VERSION, _json(about), b"", time.time())


_writing: weakref.WeakSet[Journal] = weakref.WeakSet()


@atexit.register
def _write_the_rest() -> None:
    for journal in list(_writing):
        with suppress(SA2NetError):
            journal.wait(timeout=5)


# --------------------------------------------------------------------------------------------
# Journals of version 0.1.0: frames in ``base-N.snap`` (arrays) and ``steps-N.log`` (what came
# after the first N steps), each with its length and a CRC-32; read here, and no more written.

_OLD_MAGIC = b"sa2net journal 1\n"
_OLD_COMMITTED, _OLD_SNAPSHOT, _OLD_END = 1, 2, 4  # kinds; 0 is a step, 3 a block of arrays
_OLD_HEAD = struct.Struct("<4sBQII")  # mark, kind, number, length of the header, of the payload


def _load_old(path: Path, held: _Held, arrays: bool) -> _Held | None:
    try:
        if not (path / ABOUT).is_file():
            return None
        about = (path / ABOUT).read_bytes()
        version = int(json.loads(about)["schema_version"])
        if version == SCHEMA_VERSION:  # its database is gone
            return None
        if version > SCHEMA_VERSION:
            held.problem = _newer(path)
            return held
        held.about.append(_Row(version, about))
        # The latest snapshot, unless a window died while it began anew.
        for base in sorted(path.glob("base-*.snap"), reverse=True):
            frames = list(islice(_old_frames(base), None if arrays else 1))
            kinds = [kind for kind, _ in frames]
            if kinds[:1] == [_OLD_SNAPSHOT] and (not arrays or kinds[-1] == _OLD_END):
                held.chunk = [row._replace(number=i) for i, (_, row) in enumerate(frames[1:-1])]
                log = base.with_name(base.name.replace("base-", "steps-")).with_suffix(".log")
                number = frames[0][1].number
                for kind, row in _old_frames(log) if log.exists() else ():
                    if kind == _OLD_COMMITTED:
                        upto = json.loads(row.header)["upto"]
                        held.kept.append(row._replace(number=upto))
                    elif row.number == number + len(held.step) + 1:
                        held.step.append(row)
                    else:  # a gap cannot be undone or redone across
                        break
                held.snapshot.append(frames[0][1])
                return held
        held.problem = _damaged(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        held.problem = JournalError(f"{path / ABOUT} cannot be read ({error}).")
    return held


def _old_frames(path: Path) -> Iterator[tuple[int, _Row]]:
    """Kinds and records, up to the first that is not whole."""
    when = path.stat().st_mtime
    with path.open("rb") as file:
        whole = file.read(len(_OLD_MAGIC)) == _OLD_MAGIC
        while whole and len(head := file.read(_OLD_HEAD.size)) == _OLD_HEAD.size:
            mark, kind, number, n_header, n_payload = _OLD_HEAD.unpack(head)
            header, payload = file.read(n_header), file.read(n_payload)
            crc = zlib.crc32(payload, zlib.crc32(header, zlib.crc32(head)))
            whole = mark == b"\xa7sa2" and file.read(4) == crc.to_bytes(4, "little")
            if whole:
                yield kind, _Row(number, header, payload, when)
