"""Arrays between two processes without a copy through the pipe.

Whoever makes a segment frees it: after `Release`, or at the end of the process. Python's
resource tracker does so when the maker was killed, and for that only the maker may be
registered with it: a process that merely attaches must not be, else its tracker frees
(and warns of) segments that are not its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_sa2net.engine.protocol import ArrayRef
from napari_sa2net.errors import EngineError

Check = Callable[[], None]

CHUNK = 4 * 2**20
"""Bytes that are copied at a time, so that other threads get their turn."""

LAZY_CHUNK = 64 * 2**20
"""The same for lazy arrays, whose chunks should be read once."""

_FOLDER = Path("/dev/shm")
# Names that this process is registered for: attaching to one's own must not end that.
_OWN: set[str] = set()
# Segments that something still looks at; closed when the next one is.
_LINGERING: list[shared_memory.SharedMemory] = []


class SharedArray:
    """An array in shared memory, made here or attached to.

    Use `create` or `attach`; `close` when it is no longer needed. The view in ``array`` must
    not be used after `close`.
    """

    def __init__(self, ref: ArrayRef, array: NDArray[Any], memory: Any, owner: bool) -> None:
        self.ref = ref
        self.array = array
        self._memory = memory
        self._owner = owner

    @classmethod
    def create(
        cls, shape: tuple[int, ...], dtype: DTypeLike, folder: str | None = None
    ) -> SharedArray:
        """Room for an array, in shared memory or, where that is too small, in a file.

        Parameters
        ----------
        shape, dtype
            Of the array; values are undefined.
        folder
            For the file; the system's temporary folder if not given.

        Raises
        ------
        EngineError
            There is room neither in memory nor on disk.
        """
        dtype = np.dtype(dtype)
        n_bytes = max(1, math.prod(shape) * dtype.itemsize)
        try:
            memory = shared_memory.SharedMemory(_new_name(), create=True, size=n_bytes)
        except OSError:
            return cls._create_file(shape, dtype, n_bytes, folder)
        if not _reserve(memory.name, n_bytes):
            memory.close()
            memory.unlink()
            return cls._create_file(shape, dtype, n_bytes, folder)
        _OWN.add(memory.name)
        ref = ArrayRef(memory.name, tuple(shape), dtype.str)
        return cls(ref, _view(ref, memory.buf), memory, owner=True)

    @classmethod
    def _create_file(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], n_bytes: int, folder: str | None
    ) -> SharedArray:
        try:
            handle, name = tempfile.mkstemp(".raw", "napari-sa2net-", folder)
        except OSError as error:
            raise _no_room(n_bytes) from error
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, n_bytes)
            else:
                os.truncate(handle, n_bytes)
        except OSError as error:
            os.close(handle)
            os.unlink(name)
            raise _no_room(n_bytes) from error
        os.close(handle)
        ref = ArrayRef(name, tuple(shape), dtype.str, is_file=True)
        return cls(ref, _map(ref, "r+"), None, owner=True)

    @classmethod
    def attach(cls, ref: ArrayRef) -> SharedArray:
        """Another process's array.

        Raises
        ------
        EngineError
            It is gone.
        """
        try:
            if ref.is_file:
                array = _map(ref, "r")
                if os.name == "posix":
                    # The mapping stays; so nothing is left behind if its maker is killed.
                    os.unlink(ref.name)
                return cls(ref, array, None, owner=False)
            if sys.version_info >= (3, 13):
                memory = shared_memory.SharedMemory(ref.name, track=False)
            else:
                memory = shared_memory.SharedMemory(ref.name)
                if os.name == "posix" and memory.name not in _OWN:
                    resource_tracker.unregister(f"/{memory.name}", "shared_memory")
        except (OSError, ValueError) as error:
            raise EngineError(
                f"Shared memory {ref.name} is gone ({error}). Run again; if it happens "
                "again, restart napari."
            ) from error
        return cls(ref, _view(ref, memory.buf), memory, owner=False)

    def close(self) -> None:
        """Let go of the memory; the maker also frees it. More than once does no harm."""
        memory, self._memory = self._memory, None
        owner, self._owner = self._owner, False
        # The view must go first: memory with exported buffers cannot be closed.
        self.array = np.empty(0)
        if memory is not None:
            _let_go(memory)
            if owner:
                _OWN.discard(memory.name)
                with contextlib.suppress(FileNotFoundError):
                    memory.unlink()
        elif owner and self.ref.is_file:
            Path(self.ref.name).unlink(missing_ok=True)


class Pool:
    """The segments that this process made and that the other side has not released.

    Parameters
    ----------
    folder
        For what shared memory has no room for.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._held: dict[str, SharedArray] = {}
        self._lock = threading.Lock()

    def share(self, source: Any, check: Check | None = None) -> ArrayRef:
        """Copy an array (numpy-like; read in chunks) into a new segment.

        ``check`` is called between chunks and may raise.
        """
        shared = self.create(tuple(source.shape), source.dtype)
        try:
            copy_chunked(source, shared.array, check)
        except BaseException:
            self.release(shared.ref.name)
            raise
        return shared.ref

    def create(self, shape: tuple[int, ...], dtype: DTypeLike) -> SharedArray:
        shared = SharedArray.create(shape, dtype, self._folder)
        with self._lock:
            self._held[shared.ref.name] = shared
        return shared

    def release(self, name: str) -> None:
        with self._lock:
            shared = self._held.pop(name, None)
        if shared is not None:
            shared.close()

    def close(self) -> None:
        with self._lock:
            held, self._held = list(self._held.values()), {}
        for shared in held:
            shared.close()


def take(ref: ArrayRef) -> NDArray[Any]:
    """A private copy of another process's array."""
    shared = SharedArray.attach(ref)
    try:
        out = np.empty(ref.shape, np.dtype(ref.dtype))
        copy_chunked(shared.array, out)
        return out
    finally:
        shared.close()


def copy_chunked(source: Any, out: NDArray[Any], check: Check | None = None) -> None:
    """Copy ``source`` (numpy, dask, zarr, ...) to ``out`` in small pieces.

    Small pieces keep the interpreter's lock, and a lazy source's memory, for a short time.
    ``check`` is called between them and may raise.
    """
    if check is not None:
        check()
    if out.ndim == 0 or out.size == 0:
        out[...] = np.asarray(source)
        return
    lazy = not isinstance(source, np.ndarray)
    limit = LAZY_CHUNK if lazy else CHUNK
    row = out.nbytes // out.shape[0]
    if row > limit and out.ndim > 1:
        for i in range(out.shape[0]):
            copy_chunked(source[i], out[i], check)
        return
    step = max(1, limit // max(1, row))
    for start in range(0, out.shape[0], step):
        part = source[start : start + step]
        if lazy:
            copy_chunked(np.asarray(part), out[start : start + step], check)
            continue
        if check is not None:
            check()
        out[start : start + step] = part


def _let_go(memory: shared_memory.SharedMemory) -> None:
    """Close the mapping, or keep it for later where a view of it is still in use."""
    waiting = [*_LINGERING, memory]
    _LINGERING.clear()
    for one in waiting:
        try:
            one.close()
        except BufferError:
            _LINGERING.append(one)


def _new_name() -> str:
    """Says whose it is; macOS allows 31 characters."""
    return f"sa2net_{os.getpid():x}_{secrets.token_hex(4)}"


def _view(ref: ArrayRef, buffer: Any) -> NDArray[Any]:
    dtype = np.dtype(ref.dtype)
    count = math.prod(ref.shape)
    if count == 0:
        return np.empty(ref.shape, dtype)
    # frombuffer, unlike ndarray(buffer=...), keeps the mapping from being closed beneath it.
    return np.frombuffer(buffer, dtype, count).reshape(ref.shape)


def _map(ref: ArrayRef, mode: Any) -> NDArray[Any]:
    if 0 in ref.shape:
        return np.empty(ref.shape, np.dtype(ref.dtype))
    return np.memmap(ref.name, np.dtype(ref.dtype), mode, shape=ref.shape)


def _reserve(name: str, n_bytes: int) -> bool:
    """Have the system set the memory aside; False when there is not so much.

    Linux hands out shared memory on first touch, and a container's /dev/shm may hold 64 MB:
    touching more kills the process (SIGBUS), so it is asked for beforehand.
    """
    path = _FOLDER / name
    if not path.exists() or not hasattr(os, "posix_fallocate"):
        return True
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, 0, n_bytes)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _no_room(n_bytes: int) -> EngineError:
    return EngineError(
        f"There is no room for {n_bytes / 2**20:.0f} MB, neither in shared memory nor in "
        f"{tempfile.gettempdir()}. Close other programs, or set TMPDIR to a larger disk."
    )
