"""The thread that writes a journal: in order, flushed, and again after a failure."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_sa2net.data.journal_files import MAGIC, STEP, Frame, frame_bytes, write_snapshot
from napari_sa2net.data.journal_list import JournalImage, log_of, write_about
from napari_sa2net.errors import JournalError, OutputError, SA2NetError
from napari_sa2net.files import sync_folder

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
