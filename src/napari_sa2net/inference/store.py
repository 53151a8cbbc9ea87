"""Room for results: in memory, or on disk when they are large."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from napari_sa2net.errors import OutputError

#: Arrays above this many bytes go to disk.
MEMORY_LIMIT = 2**30
#: Side of a chunk on disk (px).
CHUNK = 512


def allocate(
    shape: tuple[int, ...], dtype: DTypeLike, limit: int | None = None, chunk: int = CHUNK
) -> Any:
    """Array of zeros that can be written and read by slices.

    Parameters
    ----------
    shape : tuple of int
        The last two axes are Y and X.
    dtype : dtype
    limit : int, optional
        Bytes from which the array goes to disk; `MEMORY_LIMIT` if not given.
    chunk : int
        Side of a chunk on disk (px); small ones suit arrays of many channels.

    Returns
    -------
    numpy.ndarray, or zarr.Array in a temporary folder that is removed when the array is
    garbage-collected or Python ends.

    Raises
    ------
    OutputError
        If the temporary folder cannot be made.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if n_bytes <= (MEMORY_LIMIT if limit is None else limit):
        return np.zeros(shape, dtype)
    import zarr

    from napari_sa2net.inference.stored import Stored

    # Chunks hold all classes of a block, since they are written and read together.
    n_lead = len(shape) - 2
    lead = shape[-3:-2] if n_lead else ()
    chunks = (*(1,) * max(0, n_lead - 1), *lead, min(chunk, shape[-2]), min(chunk, shape[-1]))
    try:
        folder = Path(tempfile.mkdtemp(prefix="napari-sa2net-"))
        array = zarr.create_array(
            str(folder / "array.zarr"), shape=shape, chunks=chunks, dtype=dtype, fill_value=0
        )
    except OSError as error:
        raise OutputError(
            f"A result of {n_bytes / 2**30:.1f} GB needs room on disk, but "
            f"{tempfile.gettempdir()} cannot be written ({error}). Free space there, or set "
            "the environment variable TMPDIR to another folder."
        ) from error
    return Stored.of(array, folder)


class PlaneOf:
    """One plane of a stack, to be written and read by slices."""

    def __init__(self, array: Any, index: tuple[int, ...]) -> None:
        self.array, self.index = array, index
        self.shape = tuple(array.shape[len(index) :])
        self.dtype = array.dtype

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Any:
        return np.asarray(self.array[self.index], dtype)

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        return self.array[(*self.index, *key)]

    def __setitem__(self, key: tuple[Any, ...], values: Any) -> None:
        self.array[(*self.index, *key)] = values
