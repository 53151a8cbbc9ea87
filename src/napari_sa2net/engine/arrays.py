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
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_sa2net.data.plan import ImagePlan, Levels, plan_image
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.messages import ArrayRef, FileRef, RegionRef
from napari_sa2net.errors import EngineError, ImageError

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


# --------------------------------------------------------------------------------------------
# How an image of napari's process gets to the engine: whole, by its path, or in regions.

WHOLE_LIMIT = 2**30
"""Arrays up to this many bytes are copied whole; larger ones are served in regions."""


class Sources:
    """The arrays that are served in regions, by name."""

    def __init__(self) -> None:
        self._arrays: dict[str, Any] = {}
        self._lock = threading.Lock()

    def add(self, name: str, array: Any) -> None:
        with self._lock:
            self._arrays[name] = array

    def remove(self, name: str) -> None:
        with self._lock:
            self._arrays.pop(name, None)

    def clear(self) -> None:
        with self._lock:
            self._arrays.clear()

    def read(self, name: str, key: tuple[int | slice, ...]) -> np.ndarray[Any, Any]:
        """A region of a source.

        Raises
        ------
        ImageError
            The source is no longer served, or cannot be read.
        """
        with self._lock:
            array = self._arrays.get(name)
        if array is None:
            raise ImageError("The image is no longer open; open it and run again.")
        try:
            return np.asarray(array[key])
        except Exception as error:
            raise ImageError(
                f"The image could not be read ({type(error).__name__}: {error}). Check that "
                "its file is still there, and run again."
            ) from error


def image_reference(
    image: Any, name: str, pool: Pool, sources: Sources, check: Check | None = None
) -> ArrayRef | FileRef | RegionRef:
    """Make an image reachable for the engine.

    Parameters
    ----------
    image
        numpy, dask, zarr, anything with shape, dtype and ``[]``; numbers.
    name
        Under which it is served if it is too large to be copied.
    check
        Called between chunks; may raise.

    Raises
    ------
    ImageError
        It cannot be read.
    EngineError
        There is no room for it.
    """
    stored = _stored(image)
    if stored is not None:
        return stored
    dtype = np.dtype(image.dtype)
    shape = tuple(int(n) for n in image.shape)
    if math.prod(shape) * dtype.itemsize > WHOLE_LIMIT:
        sources.add(name, image)
        return RegionRef(name, shape, dtype.str, _chunks(image))
    try:
        return pool.share(image, check)
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(
            f"The image could not be read ({type(error).__name__}: {error}). Check that its "
            "file is still there, and run again."
        ) from error


def _stored(array: Any) -> FileRef | None:
    """Where a zarr array lies, if that is a folder on this machine."""
    if not type(array).__module__.startswith("zarr"):
        return None
    root = getattr(getattr(array, "store", None), "root", None)
    if root is None or not Path(root).is_dir():
        return None
    return FileRef(str(Path(root).resolve()), str(getattr(array, "path", "")))


def _chunks(array: Any) -> tuple[int, ...] | None:
    """Largest chunk along each axis, of dask (tuples of sizes) or zarr (sizes)."""
    chunks = getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != len(array.shape):
        return None
    return tuple(int(max(c)) if isinstance(c, tuple) else int(c) for c in chunks)


# --------------------------------------------------------------------------------------------
# Images as the engine sees them: attached, opened from disk, or read through the client.

ReadRegion = Callable[[str, tuple[int | slice, ...]], NDArray[Any]]
Box = tuple[int, int, int, int]


class OpenImage:
    """An image that stays readable until `close`.

    Attributes
    ----------
    array
        numpy, zarr or `RemoteArray`.
    n_bytes
        Memory that it holds.
    """

    def __init__(self, array: Any, shared: SharedArray | None = None) -> None:
        self.array = array
        self._shared = shared
        self.n_bytes = array.nbytes if shared is not None else 0

    def close(self) -> None:
        self.array = None
        if self._shared is not None:
            self._shared.close()


def open_image(ref: ArrayRef | FileRef | RegionRef, read: ReadRegion) -> OpenImage:
    """Open what the client sent.

    Raises
    ------
    EngineError
        The shared memory is gone.
    ImageError
        The zarr array cannot be opened.
    """
    if isinstance(ref, RegionRef):
        return OpenImage(RemoteArray(ref, read))
    if isinstance(ref, ArrayRef):
        shared = SharedArray.attach(ref)
        shared.array.flags.writeable = False
        return OpenImage(shared.array, shared)
    try:
        import zarr

        array = zarr.open_array(store=ref.store, path=ref.path, mode="r")
    except Exception as error:
        raise ImageError(
            f"The image at {Path(ref.store) / ref.path} could not be opened "
            f"({type(error).__name__}: {error}). Check that it is still there."
        ) from error
    return OpenImage(array)


class RemoteArray:
    """A lazy array of napari's process; every slice is a question to the client."""

    def __init__(self, ref: RegionRef, read: ReadRegion) -> None:
        self.shape = ref.shape
        self.dtype = np.dtype(ref.dtype)
        self.ndim = len(ref.shape)
        if ref.chunks is not None:
            # Only where they are known: who samples by chunks looks for the attribute.
            self.chunks = ref.chunks
        self._source = ref.source
        self._read = read

    def __getitem__(self, key: Any) -> NDArray[Any]:
        parts = key if isinstance(key, tuple) else (key,)
        plain = tuple(part if isinstance(part, slice) else int(part) for part in parts)
        return self._read(self._source, plain)


class WindowPlan(ImagePlan):
    """Part of a planned image, normalised as the whole of it.

    Parameters
    ----------
    plan
        The whole image.
    index
        One plane of its stack, which then has length 1 everywhere; None for all planes.
    box
        ``(y0, y1, x0, x1)`` inside the image.
    """

    def __init__(self, plan: ImagePlan, index: tuple[int, ...] | None, box: Box) -> None:
        _ = plan.measured
        self.__dict__.update(plan.__dict__)
        self._whole = plan
        self._first = index or (0,) * len(plan.stack_shape)
        self._y, self._x = box[0], box[2]
        sizes = dict(zip(plan.axes, plan.shape, strict=True))
        sizes |= {"Y": box[1] - box[0], "X": box[3] - box[2]}
        if index is not None:
            sizes |= dict.fromkeys(plan.stack_axes, 1)
        self.shape = tuple(sizes[name] for name in plan.axes)
        self.stack_shape = tuple(sizes[name] for name in plan.stack_axes)
        self.spatial = (sizes["Y"], sizes["X"])
        self.is_empty = 0 in self.shape

    def measured_of(self, index: Sequence[int]) -> Levels:
        """As of `ImagePlan`, counted from the window's first plane."""
        return self._whole.measured_of([a + b for a, b in zip(index, self._first, strict=True)])

    @property
    def origin(self) -> dict[str, int]:
        """Index of the first pixel in the whole image, by axis."""
        stack = dict(zip(self.stack_axes, self._first, strict=True))
        return {**stack, "Y": self._y, "X": self._x}

    def read_raw(
        self, index: Sequence[int], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[Any]:
        """As of `ImagePlan`, counted from the window's first pixel."""
        where = tuple(a + b for a, b in zip(index, self._first, strict=True))
        y, x = self._y, self._x
        return self._whole.read_raw(where, y0 + y, y1 + y, x0 + x, x1 + x)


def resolve_index(plan: ImagePlan, index: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The plane, checked.

    Raises
    ------
    ImageError
        The stack has no such plane.
    """
    if index is None or not plan.stack_shape:
        return None
    if len(index) != len(plan.stack_shape) or not all(
        0 <= i < n for i, n in zip(index, plan.stack_shape, strict=True)
    ):
        raise ImageError(
            f"There is no plane {index}: the stack has shape {plan.stack_shape}. Choose a "
            "plane of it, or all planes."
        )
    return index


def resolve_box(plan: ImagePlan, box: Box | None) -> Box:
    """The box clipped to the image; the whole plane for None.

    Raises
    ------
    ImageError
        Nothing of the image is in it.
    """
    height, width = plan.spatial
    if box is None:
        return 0, height, 0, width
    y0, y1 = max(0, box[0]), min(height, box[1])
    x0, x1 = max(0, box[2]), min(width, box[3])
    if y1 <= y0 or x1 <= x0:
        raise ImageError(
            "The view shows no part of this image. Move the camera over it, or choose the "
            "whole image."
        )
    return y0, y1, x0, x1


# --------------------------------------------------------------------------------------------
# Arrays of requests and results: by reference on the wire, by value at its ends.

#: Arrays with fewer bytes go through the pipe with the rest of the result.
SMALL = 2**16


def prepare(
    request: p.JobRequest, pool: Pool, sources: Sources, check: Check
) -> tuple[p.JobRequest, list[str]]:
    """The request with references instead of arrays, and the names of what was shared.

    Parameters
    ----------
    check
        Called between chunks; may raise.

    Raises
    ------
    ImageError, AxesError, ChannelError
        The image cannot be read, or is none.
    EngineError
        There is no room for it.
    """
    ref: Any
    if isinstance(request, p.MeasureImage):
        return _both(request, pool, sources, check)
    if isinstance(request, p.Segment):
        name = request.keep_as or f"job-{request.job}"
        image = plan_image(request.image, request.axes, request.channels, measure=False).image
        ref = image_reference(image, name, pool, sources, check)
        wire: p.JobRequest = replace(request, image=ref)
    elif isinstance(request, p.Measure | p.Inspect) and request.labels is not None:
        ref = pool.share(request.labels, check)
        wire = replace(request, labels=ref)
    else:
        return request, []
    return wire, [ref.name] if isinstance(ref, p.ArrayRef) else []


def _both(
    request: p.MeasureImage, pool: Pool, sources: Sources, check: Check
) -> tuple[p.JobRequest, list[str]]:
    """Labels and the image under them."""
    labels = pool.share(request.labels, check)
    names = [labels.name]
    image: Any = None
    try:
        if request.image is not None:
            plan = plan_image(request.image, request.axes, request.channels, measure=False)
            image = image_reference(plan.image, f"job-{request.job}", pool, sources, check)
    except BaseException:
        pool.release(labels.name)
        raise
    if isinstance(image, p.ArrayRef):
        names.append(image.name)
    return replace(request, labels=labels, image=image), names


def pack(result: Any, pool: Pool) -> Any:
    """A result, nested as it may be, with references instead of its large arrays.

    Raises
    ------
    EngineError
        There is no room for them.
    """
    shared: list[str] = []

    def packed(part: Any) -> Any:
        if not isinstance(part, np.ndarray):
            return _rebuilt(part, packed)
        if part.nbytes < SMALL or part.dtype.hasobject:
            return part
        ref = pool.share(part)
        shared.append(ref.name)
        return ref

    try:
        return packed(result)
    except BaseException:
        for name in shared:
            pool.release(name)
        raise


def unpack(result: Any) -> tuple[Any, list[str]]:
    """The result with private copies instead of references, and the references' names.

    What cannot be copied is an `EngineError` in place of the result; the names are complete.
    """
    names: list[str] = []
    error: EngineError | None = None

    def unpacked(part: Any) -> Any:
        nonlocal error
        if not isinstance(part, p.ArrayRef):
            return _rebuilt(part, unpacked)
        names.append(part.name)
        if error is None:
            try:
                return take(part)
            except EngineError as gone:
                error = gone
        return part

    whole = unpacked(result)
    return (whole if error is None else error), names


def _rebuilt(value: Any, change: Any) -> Any:
    """A container with changed parts; anything else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        changed = {name: change(part) for name, part in parts.items()}
        if all(changed[name] is parts[name] for name in parts):
            return value
        return replace(value, **changed)
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(change(part) for part in value)
    return value
