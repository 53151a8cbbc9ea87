"""Edits that were not kept yet, on disk as they are made: a crash loses none of them.

A journal belongs to one image in one window. It is a folder with a snapshot of the labels and
a log of steps after it. A step is bytes and a small header, whose meaning is the editor's.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import secrets
import shutil
import struct
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import BaseFileLock
from numpy.typing import NDArray

from napari_sa2net.data.locks import locked, take_lock
from napari_sa2net.errors import JournalError, JournalInUseError, OutputError, SA2NetError
from napari_sa2net.files import sync_folder, user_data_dir, write_atomically

# --------------------------------------------------------------------------------------------
# Files of a journal: framed records that say themselves whether they are whole.

#: First bytes of a log and of a snapshot; the digit is the version of the format.
MAGIC = b"sa2net journal 1\n"
STEP, COMMITTED, SNAPSHOT, CHUNK, END = range(5)

# Mark, kind, number, length of the header and of the payload; then a CRC-32 of all of it.
_HEAD = struct.Struct("<4sBQII")
_CRC = struct.Struct("<I")
_MARK = b"\xa7sa2"
_CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Frame:
    """One record.

    Attributes
    ----------
    kind : int
        STEP, COMMITTED, SNAPSHOT, CHUNK or END.
    number : int
        Of the step; of others, the number of steps before it.
    header : dict
        Plain values.
    payload : bytes
    """

    kind: int
    number: int
    header: dict[str, Any]
    payload: bytes = b""


@dataclass
class LogScan:
    """What can be read of a log.

    Attributes
    ----------
    frames : list of Frame
        Whole ones, up to the first that is not.
    good_bytes, lost_bytes : int
        Length of these, and of what comes after: the last record of a process that died.
    """

    frames: list[Frame] = field(default_factory=list)
    good_bytes: int = 0
    lost_bytes: int = 0


def frame_bytes(frame: Frame) -> bytes:
    """A record as it is written; TypeError if the header is not plain values."""
    header = json.dumps(frame.header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    head = _HEAD.pack(_MARK, frame.kind, frame.number, len(header), len(frame.payload))
    crc = zlib.crc32(frame.payload, zlib.crc32(header, zlib.crc32(head)))
    return b"".join((head, header, frame.payload, _CRC.pack(crc)))


def read_frames(file: BinaryIO) -> Iterator[Frame]:
    """Records from an open file's position, up to the end or the first that is not whole."""
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        mark, kind, number, n_header, n_payload = _HEAD.unpack(head)
        if mark != _MARK:
            return
        header, payload = file.read(n_header), file.read(n_payload)
        crc = zlib.crc32(payload, zlib.crc32(header, zlib.crc32(head)))
        if file.read(_CRC.size) != _CRC.pack(crc):
            return
        yield Frame(kind, number, json.loads(header), payload)


def scan_log(path: Path, first: int) -> LogScan:
    """Read a log whose first step should have the number `first`; an absent one is empty.

    Raises
    ------
    JournalError
        If it cannot be read, or is of a newer version.
    """
    scan = LogScan()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
            if magic == MAGIC:
                scan.good_bytes = len(MAGIC)
                expected = first
                for frame in read_frames(file):
                    # A gap cannot be undone or redone across.
                    if frame.kind == STEP and frame.number != expected:
                        break
                    expected += frame.kind == STEP
                    scan.frames.append(frame)
                    scan.good_bytes = file.tell()
            elif len(magic) == len(MAGIC) and magic.startswith(MAGIC[:-2]):
                raise JournalError(
                    f"{path} was written by a newer version of this program. Update: "
                    "pip install -U napari-sa2net"
                )
    except FileNotFoundError:
        return scan
    except OSError as error:
        raise JournalError(f"{path} cannot be read ({error}).") from error
    scan.lost_bytes = size - scan.good_bytes
    return scan


def write_snapshot(
    path: Path,
    arrays: Mapping[str, Any],
    number: int,
    header: Mapping[str, Any],
) -> None:
    """Write arrays, compressed and whole or not at all.

    Parameters
    ----------
    path : Path
    arrays : mapping of str to array
        Anything with shape, dtype and slicing; read block by block.
    number : int
        Steps that are in them.
    header : mapping of plain values

    Raises
    ------
    OutputError
    """
    described = {
        name: {"dtype": np.dtype(array.dtype).str, "shape": [int(n) for n in array.shape]}
        for name, array in arrays.items()
    }

    def save(file: BinaryIO) -> None:
        import imagecodecs

        file.write(MAGIC)
        top = {"arrays": described, **header}
        file.write(frame_bytes(Frame(SNAPSHOT, number, top)))
        for name, array in arrays.items():
            for index, (start, stop) in _slabs(tuple(described[name]["shape"]), array.dtype):
                slab = np.ascontiguousarray(array[(*index, slice(start, stop))])
                packed = bytes(imagecodecs.zstd_encode(slab.tobytes(), level=1))
                place = {"array": name, "index": list(index), "rows": [start, stop]}
                file.write(frame_bytes(Frame(CHUNK, number, place, packed)))
        file.write(frame_bytes(Frame(END, number, {})))

    write_atomically(path, save, durable=True, make_folder=False)


def read_snapshot_header(path: Path) -> Frame:
    """The first record of a snapshot.

    Raises
    ------
    JournalError
    """
    with _opened(path) as file:
        return _first(path, file)


def read_snapshot(path: Path) -> tuple[Frame, dict[str, NDArray[Any]]]:
    """First record and arrays of a snapshot.

    Raises
    ------
    JournalError
        If it is damaged.
    """
    import imagecodecs

    with _opened(path) as file:
        top = _first(path, file)
        arrays = {
            name: np.zeros(tuple(one["shape"]), np.dtype(one["dtype"]))
            for name, one in top.header["arrays"].items()
        }
        for frame in read_frames(file):
            if frame.kind == END:
                return top, arrays
            array = arrays[frame.header["array"]]
            start, stop = frame.header["rows"]
            rows = array[(*frame.header["index"], slice(start, stop))]
            raw = imagecodecs.zstd_decode(frame.payload)
            rows[...] = np.frombuffer(raw, array.dtype).reshape(rows.shape)
    raise _damaged(path)


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
    except OSError as error:
        raise JournalError(f"{path} cannot be read ({error}).") from error
    if file.read(len(MAGIC)) != MAGIC:
        file.close()
        raise _damaged(path)
    return file


def _first(path: Path, file: BinaryIO) -> Frame:
    frame = next(read_frames(file), None)
    if frame is None or frame.kind != SNAPSHOT:
        raise _damaged(path)
    return frame


def _damaged(path: Path) -> JournalError:
    return JournalError(
        f"{path} is damaged, or of a newer version, so these edits cannot be restored. "
        "Discard the journal, or update this program."
    )


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


# --------------------------------------------------------------------------------------------
# Which journals there are, whose they are, and which can be restored.

SCHEMA_VERSION = 1
ABOUT = "about.json"
#: Held while journals appear and go, and while their locks are tried.
LOCK = ".lock"


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
            try:
                info = _describe(path, lock is None)
                if lock is not None and (info is None or not (info.n_edits or info.problem)):
                    _delete(path)
                elif info is not None and (in_use or lock is not None):
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
        delete_journal(folder / identity, lock)
    finally:
        lock.release()


# --- for Journal ---------------------------------------------------------------------------


def new_journal(folder: Path) -> tuple[str, BaseFileLock]:
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


def claim_journal(folder: Path, identity: str) -> tuple[JournalImage, BaseFileLock]:
    """Image and lock, held, of a journal that nobody is writing."""
    lock = _claim(folder, identity)
    try:
        return _image(_read_about(folder / identity)), lock
    except BaseException:
        lock.release()
        raise


def write_about(path: Path, image: JournalImage) -> None:
    """Say whose journal this is; without this file it does not count."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "image": asdict(image),
        "pid": os.getpid(),
    }
    text = json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
    write_atomically(path / ABOUT, text, durable=True, make_folder=False)


def delete_journal(path: Path, lock: BaseFileLock) -> None:
    """Delete a journal whose lock is held; the lock is released."""
    if not path.parent.is_dir():
        lock.release()
        return
    with locked(path.parent / LOCK):
        _delete(path)
        lock.release()
        _lock_path(path).unlink(missing_ok=True)


def find_base(path: Path) -> tuple[Path, Frame]:
    """The latest snapshot of a journal, and its first record.

    Raises
    ------
    JournalError
        If none can be read.
    """
    problem = JournalError(f"The journal {path} is gone, or nothing was written to it yet.")
    for base in sorted(path.glob("base-*.snap"), reverse=True):
        try:
            return base, read_snapshot_header(base)
        except JournalError as error:
            problem = error
    raise problem


def log_of(base: Path) -> Path:
    """The log of the steps after a snapshot."""
    return base.with_name(base.name.replace("base-", "steps-")).with_suffix(".log")


def progress(top: Frame, scan: LogScan) -> tuple[int, int]:
    """Number of the last step, and of the last one that is in a commit."""
    number = top.number + sum(frame.kind == STEP for frame in scan.frames)
    marks = [frame.header["upto"] for frame in scan.frames if frame.kind == COMMITTED]
    return number, max([top.header["committed"], *marks])


def _claim(folder: Path, identity: str) -> BaseFileLock:
    path = folder / identity
    if not folder.is_dir():
        raise _unknown(path)
    with locked(folder / LOCK):
        if not (path / ABOUT).is_file() or path.parent != folder:
            raise _unknown(path)
        lock = take_lock(_lock_path(path))
    if lock is None:
        pid = _read_about(path).get("pid")
        raise JournalInUseError(
            f"Another window (process {pid}) is writing these edits. Go on there, or close it "
            "first."
        )
    return lock


def _describe(path: Path, in_use: bool) -> JournalInfo | None:
    """None for what is no journal (yet, or any more)."""
    if not (path / ABOUT).is_file():
        return None
    changed = max((p.stat().st_mtime for p in path.iterdir()), default=0.0)
    when = datetime.fromtimestamp(changed, UTC)
    size = sum(p.stat().st_size for p in path.iterdir())
    image = JournalImage("?")
    try:
        image = _image(_read_about(path))
        base, top = find_base(path)
        number, committed = progress(top, scan_log(log_of(base), top.number + 1))
    except JournalError as error:
        return JournalInfo(path.name, image, when, 0, size, in_use, str(error))
    return JournalInfo(path.name, image, when, number - committed, size, in_use)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / ABOUT).read_bytes())
        version = content["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{path / ABOUT} cannot be read ({error}).") from error
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"The journal {path} was written by a newer version of this program. Update: "
            "pip install -U napari-sa2net"
        )
    return dict(content)


def _image(about: dict[str, Any]) -> JournalImage:
    one = about["image"]
    return JournalImage(
        one["name"], one["path"], one["fingerprint"], tuple(one["shape"]), one["more"]
    )


def _unknown(path: Path) -> JournalError:
    return JournalError(f"There is no journal {path.name!r} in {path.parent}.")


def _lock_path(path: Path) -> Path:
    # Beside the folder, so that the folder can be deleted while the lock is held.
    return path.with_name(f"{path.name}.lock")


def _delete(path: Path) -> None:
    # First what makes it a journal, so that a crash leaves rubbish rather than half of one.
    (path / ABOUT).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


# --------------------------------------------------------------------------------------------
# The thread that writes a journal: in order, flushed, and again after a failure.

#: Seconds that closing waits for the last steps.
CLOSE_TIMEOUT = 30.0


@dataclass(frozen=True)
class Snapshot:
    """Arrays to begin anew from; `number` steps are in them, `committed` of these kept."""

    arrays: Mapping[str, Any]
    state: dict[str, Any]
    number: int
    committed: int


class JournalWriter:
    """Writes what is put, and tells what is on disk.

    Attributes
    ----------
    durable : int
        Number of the last step on disk; −1 while there is nothing.
    error : SA2NetError or None
        Why the last writing failed.
    log_bytes : int
        Length of the log.
    listener : callable or None
        Called from the thread when `durable` or `error` changed.
    """

    def __init__(self, path: Path, image: JournalImage) -> None:
        self.path = path
        self.image = image
        self.durable = -1
        self.error: SA2NetError | None = None
        self.log_bytes = 0
        self.listener: Callable[[], None] | None = None
        self._changed = threading.Condition()
        self._queue: deque[Frame | Snapshot] = deque()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._log: Path | None = None
        self._handle: int | None = None

    def go_on(self, log: Path, length: int, durable: int) -> None:
        """Append to a log, of which the first `length` bytes are good.

        Raises
        ------
        OSError
        """
        self._open_log(log, length)
        self.durable = durable

    def put(self, item: Frame | Snapshot) -> None:
        """Hand over; returns at once.

        Raises
        ------
        JournalError
            If the journal is closed.
        """
        with self._changed:
            if self._closing:
                raise JournalError("This journal is closed. Begin a new one.")
            self._queue.append(item)
            self.error = None
            if self._thread is None:
                # It must not keep a process alive; _write_the_rest sees to the last steps.
                self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
                self._thread.start()
                _writers.add(self)
            self._changed.notify_all()

    def retry(self) -> None:
        """Try again what failed."""
        with self._changed:
            self.error = None
            self._changed.notify_all()

    def wait(self, number: int | None, timeout: float) -> bool:
        """Wait for a step, or for everything; False if it takes longer, or raises `error`."""
        with self._changed:
            self._changed.wait_for(lambda: self.error or self._is_done(number), timeout)
            if self.error is not None and not self._is_done(number):
                raise self.error
            return self._is_done(number)

    def stop(self) -> None:
        """End the thread, after what it is writing just now."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT)
        self._close_log()
        _writers.discard(self)

    # --- in the thread ---------------------------------------------------------------------

    def _is_done(self, number: int | None) -> bool:
        return not self._queue if number is None else self.durable >= number

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or (bool(self._queue) and self.error is None)
                )
                if self._closing:
                    return
                self._drop_what_is_gone()
                first = self._queue[0]
                frames: list[Frame] = []
                for item in self._queue:  # together, up to the next snapshot
                    if isinstance(item, Snapshot):
                        break
                    frames.append(item)
            error = self._try(first, frames)
            with self._changed:
                self.error = error
                if isinstance(first, Snapshot):
                    # Without a log no step has a meaning; else a snapshot can be left out.
                    if error is None or self._handle is not None:
                        self._queue.popleft()
                    if error is None:
                        self.durable = max(self.durable, first.number)
                elif error is None:
                    for frame in frames:
                        self._queue.popleft()
                        if frame.kind == STEP:
                            self.durable = frame.number
                elif self._handle is None:
                    self.durable = -1
                self._changed.notify_all()
            if self.listener is not None:
                self.listener()

    def _drop_what_is_gone(self) -> None:
        """Where the log was deleted, a snapshot stands for all that came before it."""
        if self._handle is None and any(isinstance(item, Snapshot) for item in self._queue):
            while not isinstance(self._queue[0], Snapshot):
                self._queue.popleft()

    def _try(self, first: Frame | Snapshot, frames: list[Frame]) -> SA2NetError | None:
        try:
            if isinstance(first, Snapshot):
                self._write_snapshot(first)
            else:
                self._write_frames(frames)
        except SA2NetError as problem:
            return problem
        except Exception as problem:  # also what lazy arrays raise: the thread must live on
            return OutputError(
                f"The journal of edits in {self.path} cannot be written ({problem}). Free some "
                "space on that disk, or keep your corrections now."
            )
        return None

    def _write_frames(self, frames: list[Frame]) -> None:
        handle = self._checked_log()
        data = memoryview(b"".join(frame_bytes(frame) for frame in frames))
        try:
            done = 0
            while done < len(data):
                done += os.write(handle, data[done:])
            os.fsync(handle)
        except OSError:
            # Half a record would hide all later ones.
            os.ftruncate(handle, self.log_bytes)
            os.lseek(handle, self.log_bytes, os.SEEK_SET)
            raise
        self.log_bytes += len(data)
        self._checked_log()

    def _checked_log(self) -> int:
        """The open log, if it is still in its place: its deletion would go unseen."""
        if self._handle is not None and self._log is not None:
            try:
                if os.path.samestat(os.stat(self._log), os.fstat(self._handle)):
                    return self._handle
            except (FileNotFoundError, NotADirectoryError):
                pass
            self._close_log()
        raise JournalError(
            f"The journal of edits {self.path} was deleted. Keep your corrections now: until "
            "then a crash would lose them."
        )

    def _write_snapshot(self, snapshot: Snapshot) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        base = self.path / f"base-{snapshot.number:010d}.snap"
        log = log_of(base)
        header = {"state": snapshot.state, "committed": snapshot.committed}
        # A log of that name has no steps, or its base would be a later one.
        write_snapshot(base, snapshot.arrays, snapshot.number, header)
        self._close_log()
        self._open_log(log, 0)
        write_about(self.path, self.image)
        for path in self.path.iterdir():
            if path.suffix in (".snap", ".log") and path not in (base, log):
                path.unlink(missing_ok=True)

    def _open_log(self, log: Path, length: int) -> None:
        """Open a log to go on after its good part."""
        handle = os.open(log, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if length < len(MAGIC):
                os.ftruncate(handle, 0)
                os.write(handle, MAGIC)
                length = len(MAGIC)
            os.ftruncate(handle, length)
            os.fsync(handle)
            sync_folder(log.parent)
            os.lseek(handle, length, os.SEEK_SET)
        except BaseException:
            os.close(handle)
            raise
        self._handle, self._log, self.log_bytes = handle, log, length

    def _close_log(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


_writers: weakref.WeakSet[JournalWriter] = weakref.WeakSet()


@atexit.register
def _write_the_rest() -> None:
    for writer in list(_writers):
        try:
            writer.wait(None, timeout=5)
        except SA2NetError:
            continue


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
