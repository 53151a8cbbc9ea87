"""Images and results between two processes: arrays travel as files, opened as memory maps.

Whoever sends an array writes it into the engine's own folder, in memory (``/dev/shm``) where
the system has such a folder; whoever receives the message opens the file and takes its name
away, so that the system frees it with the last view of it, however the processes end.
"""

from __future__ import annotations

import io
import math
import pickle
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.plan import chunk_sizes, plan_image
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.messages import FileRef, RegionRef, Whole
from napari_sa2net.errors import EngineError, ImageError

Check = Callable[[], None]

SMALL = 2**16
"""Arrays with fewer bytes go through the pipe with the rest of a message."""

CHUNK = 4 * 2**20
"""Bytes that are written at a time, so that other threads get their turn."""

LAZY_CHUNK = 64 * 2**20
"""The same for lazy arrays, whose chunks should be read once."""

WHOLE_LIMIT = 2**30
"""Images up to this many bytes are written whole; larger ones are served in regions."""

# Files that could not be removed while they were open (Windows); tried again later.
_LINGERING: list[Path] = []


@dataclass(frozen=True)
class Packed:
    """A message ready to be sent, and the files of its arrays."""

    data: bytes
    files: Sequence[Path] = ()

    def drop(self) -> None:
        """It will not be sent."""
        for path in self.files:
            path.unlink(missing_ok=True)


class ArrayPipe:
    """A connection on which large arrays, anywhere in a message, go as files.

    Parameters
    ----------
    connection
        To the other process.
    folders
        For the files; the first with room for one is taken.
    """

    def __init__(self, connection: Connection, folders: Sequence[str]) -> None:
        self._connection = connection
        self._folders = folders
        self._sending = threading.Lock()

    def pack(self, message: Any, check: Check | None = None) -> Packed:
        """Write the arrays of a message.

        Parameters
        ----------
        check
            Called between pieces; may raise.

        Raises
        ------
        EngineError
            There is no room for an array.
        ImageError
            A lazy one cannot be read.
        """
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, self._folders, check)
        try:
            pickler.dump(message)
        except BaseException:
            Packed(b"", pickler.files).drop()
            raise
        return Packed(buffer.getvalue(), pickler.files)

    def send(self, message: Any) -> None:
        """Send a message, packed or not; OSError when the other side is gone."""
        packed = message if isinstance(message, Packed) else self.pack(message)
        with self._sending:
            self._connection.send_bytes(packed.data)

    def receive(self) -> Any:
        """Next message; EOFError or OSError when the other side is gone.

        Raises
        ------
        EngineError
            An array of it is gone.
        """
        return _Unpickler(io.BytesIO(self._connection.recv_bytes())).load()

    def poll(self, timeout: float) -> bool:
        """Whether there is a message within so many seconds."""
        return self._connection.poll(timeout)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Pickler(pickle.Pickler):
    """Puts the path of a file in the place of each large or lazy array."""

    def __init__(self, out: io.BytesIO, folders: Sequence[str], check: Check | None) -> None:
        super().__init__(out, pickle.HIGHEST_PROTOCOL)
        self._folders, self._check = folders, check
        self.files: list[Path] = []

    def persistent_id(self, part: Any) -> str | None:
        array = part
        if isinstance(part, Whole):
            array = part.array
        elif not isinstance(part, np.ndarray) or part.nbytes < SMALL or part.dtype.hasobject:
            return None
        self.files.append(save(array, self._folders, self._check))
        return str(self.files[-1])


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, path: str) -> NDArray[Any]:
        return load(path)


def save(source: Any, folders: Sequence[str], check: Check | None = None) -> Path:
    """Write an array (numpy, dask, zarr, ...) as a .npy file; its path.

    Not `numpy.save`, which would read all of a lazy array at once.

    Raises
    ------
    EngineError
        No folder has room for it.
    ImageError
        A lazy array cannot be read.
    """
    dtype, shape = np.dtype(source.dtype), tuple(int(n) for n in source.shape)
    n_bytes = math.prod(shape) * dtype.itemsize
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    cause: OSError | None = None
    for folder in folders:
        path = Path(folder) / f"{secrets.token_hex(8)}.npy"
        try:
            # Filling memory to the brim would harm others.
            if shutil.disk_usage(folder).free < n_bytes:
                continue
            with path.open("xb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for piece in pieces(source):
                    if check is not None:
                        check()
                    file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
            return path
        except OSError as error:
            path.unlink(missing_ok=True)
            cause = error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    raise EngineError(
        f"There is no room for {n_bytes / 2**20:.0f} MB in {' or '.join(folders)}. Close other "
        "programs, or set TMPDIR to a larger disk."
    ) from cause


def load(path: str) -> NDArray[Any]:
    """Open an array of the other process; changes stay private.

    Raises
    ------
    EngineError
        It is gone.
    """
    try:
        array = np.load(path, mmap_mode="c")
    except (OSError, ValueError) as error:
        raise EngineError(
            f"Data for the background process is gone ({error}). Run again; if it happens "
            "again, restart napari."
        ) from error
    waiting = [*_LINGERING, Path(path)]
    _LINGERING.clear()
    for one in waiting:
        try:
            one.unlink(missing_ok=True)
        except OSError:
            _LINGERING.append(one)
    return np.asarray(array)


def pieces(source: Any) -> Iterator[NDArray[Any]]:
    """An array in C order, some rows at a time.

    Raises
    ------
    ImageError
        A lazy array cannot be read.
    """
    shape = source.shape
    if not shape or 0 in shape:
        yield np.asarray(source)
        return
    limit = CHUNK if isinstance(source, np.ndarray) else LAZY_CHUNK
    row = math.prod(shape[1:]) * np.dtype(source.dtype).itemsize
    if row > limit and len(shape) > 1:
        for i in range(shape[0]):
            yield from pieces(source[i])
        return
    step = max(1, limit // row)
    for start in range(0, shape[0], step):
        yield _read(source, slice(start, start + step))


def _read(source: Any, key: Any) -> NDArray[Any]:
    try:
        return np.asarray(source[key])
    except Exception as error:
        raise ImageError(
            f"The image could not be read ({type(error).__name__}: {error}). Check that its "
            "file is still there, and run again."
        ) from error


# --------------------------------------------------------------------------------------------
# How an image of napari's process gets to the engine: whole, by its path, or in regions.


Sources = dict[str, Any]
"""The arrays that are served in regions, by name."""


def read_region(sources: Sources, name: str, key: tuple[int | slice, ...]) -> NDArray[Any]:
    """A region of a source.

    Raises
    ------
    ImageError
        The source is no longer served, or cannot be read.
    """
    array = sources.get(name)
    if array is None:
        raise ImageError("The image is no longer open; open it and run again.")
    return _read(array, key)


def prepare(call: p.Call, sources: Sources) -> p.Call:
    """The call with references instead of its image and of lazy labels.

    Raises
    ------
    ImageError, AxesError, ChannelError
        The image is none.
    """
    given, changed = call.arguments, {}
    if given.get("image") is not None:
        plan = plan_image(
            given["image"], given.get("axes"), given.get("channels"), measure=False
        )
        changed["image"] = image_reference(plan.image, source_name(call), sources)
    if given.get("labels") is not None:
        changed["labels"] = whole(given["labels"])
    return replace(call, arguments={**given, **changed}, about=None)


def whole(array: Any) -> Any:
    """An array to be sent whole, lazy or not."""
    return array if isinstance(array, np.ndarray) else Whole(array)


def source_name(call: p.Call) -> str:
    """Under which the image of a call is served if it is too large to be written."""
    keyed = call.key and "image" in call.arguments
    return call.key if keyed else f"job-{call.job}"


def image_reference(image: Any, name: str, sources: Sources) -> Any:
    """Make an image (anything with shape, dtype and ``[]``) reachable for the engine."""
    stored = _stored(image)
    if stored is not None:
        return stored
    dtype = np.dtype(image.dtype)
    shape = tuple(int(n) for n in image.shape)
    if math.prod(shape) * dtype.itemsize <= WHOLE_LIMIT:
        return whole(image)
    sources[name] = image
    return RegionRef(name, shape, dtype.str, chunk_sizes(image))


def _stored(array: Any) -> FileRef | None:
    """Where a zarr array lies, if that is a folder on this machine."""
    if not type(array).__module__.startswith("zarr"):
        return None
    root = getattr(getattr(array, "store", None), "root", None)
    if root is None or not Path(root).is_dir():
        return None
    return FileRef(str(Path(root).resolve()), str(getattr(array, "path", "")))


# --------------------------------------------------------------------------------------------
# Images as the engine sees them: a memory map, opened from disk, or read through the client.

ReadRegion = Callable[[str, tuple[int | slice, ...]], NDArray[Any]]


def open_image(image: NDArray[Any] | FileRef | RegionRef, read: ReadRegion) -> Any:
    """The image that the client sent: numpy, zarr or `RemoteArray`.

    Raises
    ------
    ImageError
        The zarr array cannot be opened.
    """
    if isinstance(image, RegionRef):
        return RemoteArray(image, read)
    if not isinstance(image, FileRef):
        return image
    try:
        import zarr

        return zarr.open_array(store=image.store, path=image.path, mode="r")
    except Exception as error:
        raise ImageError(
            f"The image at {Path(image.store) / image.path} could not be opened "
            f"({type(error).__name__}: {error}). Check that it is still there."
        ) from error


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
