"""How a journal lies on disk: rows of an SQLite database, and the files of version 0.1.0."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import JournalError
from napari_sa2net.files import TEMPORARY_PREFIX, write_atomically

SCHEMA_VERSION = 2
DATABASE = "edits.sqlite"
#: Beside the database, so that version 0.1.0 says "newer" where it would clear it away.
ABOUT = "about.json"
#: Seconds that one connection waits for another.
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


class Row(NamedTuple):
    """A row of any table."""

    number: int
    header: bytes  # JSON
    payload: bytes = b""
    time: float = 0.0  # when it was made

    @property
    def crc(self) -> int:
        """Of all of it."""
        key = struct.pack("<qd", self.number, self.time)
        return zlib.crc32(self.payload, zlib.crc32(self.header, zlib.crc32(key)))


Entry = tuple[str, Row]  # a row with its table


def to_json(header: Mapping[str, Any]) -> bytes:
    """A header as it is stored."""
    return json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")


def connect(file: Path, mode: str) -> sqlite3.Connection:
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


def connect_writer(file: Path) -> sqlite3.Connection:
    """A connection that appends fast and stops no reader: by a write-ahead log if it can."""
    db = connect(file, "rw")
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        db.close()
        db = connect(file, "rw")
    db.execute(f"PRAGMA journal_size_limit={_WAL_BYTES}")
    return db


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All that the block writes, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    with db:
        yield


def put(db: sqlite3.Connection, table: str, row: Row) -> None:
    """Write a row, in the place of one with its key."""
    db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)", (*row, row.crc))


def fill(db: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Begin anew from these entries; all of them, or it stays as it was."""
    with transaction(db):
        for table, key in _TABLES.items():
            columns = f"{key} INTEGER PRIMARY KEY, header BLOB, payload BLOB, time REAL, crc"
            db.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
            db.execute(f"DELETE FROM {table}")
        for table, row in entries:
            put(db, table, row)


def new_database(path: Path, entries: Iterable[Entry]) -> None:
    """Put a new database in the place of what there is, whole or not at all."""
    part = path / f"{TEMPORARY_PREFIX}{DATABASE}"
    part.unlink(missing_ok=True)
    try:
        with closing(connect(part, "rwc")) as db:
            fill(db, entries)
        for suffix in ("-wal", "-shm", "-journal"):
            (path / f"{DATABASE}{suffix}").unlink(missing_ok=True)
        os.replace(part, path / DATABASE)
    finally:
        part.unlink(missing_ok=True)
    mark = to_json({"schema_version": SCHEMA_VERSION})
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
class Held:
    """Rows of a journal by their tables, as far as they can be read; `problem` says why."""

    about: list[Row] = field(default_factory=list)
    snapshot: list[Row] = field(default_factory=list)
    chunk: list[Row] = field(default_factory=list)
    step: list[Row] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)
    is_torn: bool = False
    problem: JournalError | None = None

    @property
    def is_usable(self) -> bool:
        """There is a snapshot to begin from."""
        return bool(self.about and self.snapshot)

    def check(self) -> None:
        """JournalError if it is not usable."""
        if self.problem is not None and not self.is_usable:
            raise self.problem

    @property
    def top(self) -> dict[str, Any]:
        """Header of the snapshot."""
        return dict(json.loads(self.snapshot[0].header))

    @property
    def number(self) -> int:
        """Of the last step."""
        return (self.snapshot[0].number if self.snapshot else -1) + len(self.step)

    @property
    def committed(self) -> int:
        """Number of the last step that is in a commit."""
        return min(self.number, max(self.top["committed"], *(r.number for r in self.kept), 0))

    def entries(self) -> Iterator[Entry]:
        """All rows."""
        return ((table, row) for table in _TABLES for row in getattr(self, table))


def load(path: Path, mode: str = "rw", arrays: bool = False) -> Held | None:
    """What a journal holds, with its arrays or without; None before its first snapshot."""
    held = Held()
    if not (path / DATABASE).is_file():
        return _load_old(path, held, arrays)
    try:
        with closing(connect(path / DATABASE, mode)) as db:
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


def _load_table(db: sqlite3.Connection, table: str, held: Held) -> None:
    """Rows up to the first that is damaged; without a whole snapshot there are none."""
    rows = getattr(held, table)
    try:
        for *values, crc in db.execute(f"SELECT * FROM {table} ORDER BY rowid"):
            row = Row(*values)
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


def entries_of(about: Callable[[], Row], snapshot: Snapshot) -> Iterator[Entry]:
    """Rows of a snapshot, whose arrays are read block by block.

    They may be written into meanwhile; what is packed is a copy, as that must not change.
    ``about`` is asked last: to find it out may take a while.
    """
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
    yield "snapshot", Row(snapshot.number, to_json(header), b"", time.time())
    place = 0
    for name, array in snapshot.arrays.items():
        for index, (start, stop) in _slabs(tuple(described[name]["shape"]), array.dtype):
            slab: Any = np.array(array[(*index, slice(start, stop))], order="C")
            packed = bytes(imagecodecs.zstd_encode(slab.reshape(-1).view(np.uint8), level=1))
            where = {"array": name, "index": list(index), "rows": [start, stop]}
            yield "chunk", Row(place, to_json(where), packed)
            place += 1
    yield "about", about()


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


def arrays_of(path: Path, held: Held) -> dict[str, NDArray[Any]]:
    """Arrays of the snapshot; JournalError if a part is missing."""
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


@dataclass(frozen=True)
class Snapshot:
    """Arrays to begin anew from; `number` steps are in them, `committed` of these kept."""

    arrays: Mapping[str, Any]
    state: dict[str, Any]
    number: int
    committed: int


# --------------------------------------------------------------------------------------------
# Journals of version 0.1.0: frames in ``base-N.snap`` (arrays) and ``steps-N.log`` (what came
# after the first N steps), each with its length and a CRC-32; read here, and no more written.

_OLD_MAGIC = b"sa2net journal 1\n"
_OLD_COMMITTED, _OLD_SNAPSHOT, _OLD_END = 1, 2, 4  # kinds; 0 is a step, 3 a block of arrays
_OLD_HEAD = struct.Struct("<4sBQII")  # mark, kind, number, length of the header, of the payload


def _load_old(path: Path, held: Held, arrays: bool) -> Held | None:
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
        held.about.append(Row(version, about))
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


def _old_frames(path: Path) -> Iterator[tuple[int, Row]]:
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
                yield kind, Row(number, header, payload, when)
