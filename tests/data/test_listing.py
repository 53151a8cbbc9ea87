"""Which image files paths, patterns and folders name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_sa2net.data import list_images
from napari_sa2net.errors import ImageFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b10.tif", "b2.TIF", "a.png", ".hidden.png", "notes.txt", "sub/c.tif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    zarr.create_array(str(tmp_path / "z.zarr"), data=np.zeros((4, 4), np.uint8))
    return tmp_path


def test_list_folder(folder) -> None:
    found = list_images(folder)
    assert [path.name for path in found] == ["a.png", "b2.TIF", "b10.tif", "z.zarr"]
    assert list_images(str(folder)) == found


def test_list_mixture_without_doubles(folder) -> None:
    found = list_images([folder / "b10.tif", f"{folder}/b*", folder / "z.zarr", folder])
    assert [path.name for path in found] == ["b10.tif", "b2.TIF", "z.zarr", "a.png"]


def test_list_patterns(folder) -> None:
    names = {path.name for path in list_images(str(folder / "**" / "*.tif"))}
    assert names == {"b10.tif", "c.tif"}
    (folder / "odd[1].tif").touch()
    assert list_images(str(folder / "odd[1].tif")) == [folder / "odd[1].tif"]


def test_named_files_are_kept_for_reading_to_complain(folder) -> None:
    assert list_images(folder / "notes.txt") == [folder / "notes.txt"]


@pytest.mark.parametrize("given", ["missing.tif", "*.gif", "empty", []])
def test_list_nothing(folder, given, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    with pytest.raises(ImageFileError):
        list_images(given)
