"""A TIFF that stays on disk; copies of the array, also pickled ones, open the file anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tifffile
import zarr


class LazyTiff(zarr.Array):
    """An image series at full resolution."""

    where: tuple[Path, int]

    @classmethod
    def of(cls, series: Any, path: Path, number: int) -> LazyTiff:
        """Of an open file's series with this number."""
        array: Any = zarr.open_array(series.aszarr(level=0), mode="r")
        lazy = cls(array.async_array)
        object.__setattr__(lazy, "where", (path, number))
        return lazy

    def __reduce__(self) -> Any:
        return _opened, self.where


def _opened(path: Path, number: int) -> LazyTiff:
    return LazyTiff.of(tifffile.TiffFile(path).series[number], path, number)
