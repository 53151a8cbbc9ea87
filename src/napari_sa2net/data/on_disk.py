"""Arrays that stay on disk and can be copied: of a TIFF, and a large result; loads zarr."""

from __future__ import annotations

import shutil
import tempfile
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


class Stored(zarr.Array):
    """An array in a temporary folder of its own; a copy, also a pickled one, has another."""

    folder: Path

    @classmethod
    def of(cls, array: Any, folder: Path) -> Stored:
        """Take over an array; its folder is removed when it is garbage-collected."""
        stored = cls(array.async_array)
        object.__setattr__(stored, "folder", folder)
        weakref.finalize(stored, shutil.rmtree, folder, ignore_errors=True)
        return stored

    def __reduce__(self) -> Any:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return _restored, ({str(p.relative_to(self.folder)): p.read_bytes() for p in files},)


def _restored(files: dict[str, bytes]) -> Stored:
    folder = Path(tempfile.mkdtemp(prefix="napari-sa2net-"))
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Stored.of(zarr.open_array(str(folder / "array.zarr"), mode="r+"), folder)
