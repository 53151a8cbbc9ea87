"""How an image of napari's process gets to the engine: whole, by its path, or in regions."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np

from napari_sa2net.engine.protocol import ArrayRef, FileRef, RegionRef
from napari_sa2net.engine.shm import Check, Pool
from napari_sa2net.errors import ImageError

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
