"""Rectangles of pixels out of an array of any kind, loaded once where chunks are large."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import ImageError

#: Chunks of more pixels are kept between reads: every tile inside would load them again.
LARGE_CHUNK = 1024**2
#: But no more than this many bytes of them.
MAX_KEPT = 256 * 2**20


class BlockReader:
    """Reads planes of an array whose axes have names.

    Parameters
    ----------
    image : array
        Anything with shape, dtype and slicing by whole numbers and slices.
    axes : str
        One letter per axis, among them Y and X.
    """

    def __init__(self, image: Any, axes: str) -> None:
        self.image = image
        self.axes = axes
        self.shape = tuple(int(n) for n in image.shape)
        self._chunks = _chunk_sizes(image)
        self._keep = (
            self._chunks is not None
            and LARGE_CHUNK < math.prod(self._chunks) <= MAX_KEPT // image.dtype.itemsize
        )
        self._kept: OrderedDict[tuple[int, ...], NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A copy, also one in another process, loads chunks anew.
        return {**self.__dict__, "_kept": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    @property
    def chunk(self) -> tuple[int, int] | None:
        """Chunk size along Y and X, where the array tells it."""
        if self._chunks is None:
            return None
        return self._chunks[self.axes.index("Y")], self._chunks[self.axes.index("X")]

    def read(self, at: dict[str, int | slice]) -> NDArray[Any]:
        """Rows, columns and channels of one plane, (channels, rows, columns).

        Parameters
        ----------
        at : dict of str to int or slice
            For every axis: a number on stack axes, a slice with both ends on Y, X and C.

        Raises
        ------
        ImageError
            Whatever the array raised.
        """
        key = tuple(at[name] for name in self.axes)
        kept = [name for name in self.axes if name in "YXC"]
        block = self._from_chunks(key) if self._keep else self._load(key)
        if block.ndim != len(kept):
            raise ImageError(
                f"Slicing this {type(self.image).__name__} gave {block.ndim} axes instead of "
                f"{len(kept)}; convert it with numpy.asarray first."
            )
        if "C" not in kept:
            return block.transpose(kept.index("Y"), kept.index("X"))[np.newaxis]
        return block.transpose([kept.index(name) for name in "CYX"])

    def _load(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        try:
            return np.asarray(self.image[key])
        except (MemoryError, ImageError):
            raise
        except Exception as error:  # any reader's own: file gone, chunk damaged, ...
            raise ImageError(f"The pixels could not be loaded: {error}") from error

    def _from_chunks(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        """Put together from whole chunks, which any read loads and which are kept."""
        assert self._chunks is not None
        wanted = [k if isinstance(k, slice) else slice(k, k + 1) for k in key]
        out = np.empty([w.stop - w.start for w in wanted], self.image.dtype)
        numbers = (
            range(w.start // size, -(-w.stop // size))
            for w, size in zip(wanted, self._chunks, strict=True)
        )
        for number in product(*numbers):
            starts = [i * size for i, size in zip(number, self._chunks, strict=True)]
            chunk = self._chunk_at(tuple(starts))
            ends = [start + n for start, n in zip(starts, chunk.shape, strict=True)]
            source, target = [], []
            for w, start, end in zip(wanted, starts, ends, strict=True):
                low, high = max(w.start, start), min(w.stop, end)
                source.append(slice(low - start, high - start))
                target.append(slice(low - w.start, high - w.start))
            out[tuple(target)] = chunk[tuple(source)]
        return out[tuple(slice(None) if isinstance(k, slice) else 0 for k in key)]

    def _chunk_at(self, starts: tuple[int, ...]) -> NDArray[Any]:
        assert self._chunks is not None
        with self._lock:
            chunk = self._kept.pop(starts, None)
        if chunk is None:
            ends = [
                min(start + size, n)
                for start, size, n in zip(starts, self._chunks, self.shape, strict=True)
            ]
            chunk = self._load(tuple(slice(a, b) for a, b in zip(starts, ends, strict=True)))
        with self._lock:
            self._kept[starts] = chunk  # the last used is the last to go
            while sum(kept.nbytes for kept in self._kept.values()) > MAX_KEPT:
                self._kept.popitem(last=False)
        return chunk


def _chunk_sizes(image: Any) -> tuple[int, ...] | None:
    """Largest chunk along every axis of a lazy array, where it tells it."""
    chunks = getattr(image, "chunks", None)
    if isinstance(image, np.ndarray) or not isinstance(chunks, tuple):
        return None
    if len(chunks) != len(image.shape):
        return None
    sizes = (max(c, default=1) if isinstance(c, tuple) else int(c) for c in chunks)
    return tuple(max(1, size) for size in sizes)
