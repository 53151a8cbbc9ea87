"""A TIFF that stays on disk; copies of the array, also pickled ones, open the file anew."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import tifffile
import zarr


class LazyTiff(zarr.Array):
    """An image series at full resolution."""

    where: tuple[Path, int]

    @classmethod
    def of(cls, tif: tifffile.TiffFile, path: Path, number: int) -> LazyTiff:
        """Of an open file's series with this number; the file is closed with the array."""
        array: Any = zarr.open_array(tif.series[number].aszarr(level=0), mode="r")
        lazy = cls(array.async_array)
        weakref.finalize(lazy, tif.close)
        object.__setattr__(lazy, "where", (path, number))
        return lazy

    def __reduce__(self) -> Any:
        return _opened, self.where


def _opened(path: Path, number: int) -> LazyTiff:
    return LazyTiff.of(tifffile.TiffFile(path), path, number)
