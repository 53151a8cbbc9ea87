"""Which image files paths, patterns and folders name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_sa2net.data import list_images
from napari_sa2net.data.listing import is_seg, natural_key, stem_of
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


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (("images/a.tif", "labels/a.tif"), "itself; for those in its folder images, give '{}'"),
        (
            ("x/images/a.tif", "x/labels/a.tif"),
            "for those in its folders, give the pattern '{}'",
        ),
        (("x/a.tif", "x/b.tif"), "for those in its folders, give the pattern '{}'"),
        (("x/y/a.tif", "x/y/b.png"), "for those in its folders, give the pattern '{}'"),
    ],
)
def test_images_further_down_are_pointed_out(tmp_path, files, advice) -> None:
    """With what, when it is given, lists them and no labels."""
    for name in files:
        path = tmp_path / "top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(ImageFileError, match="holds no image") as raised:
        list_images(tmp_path / "top")
    before = advice.partition("'{}'")[0]
    words = str(raised.value)
    assert before in words
    given = words.partition(before + "'")[2].partition("'")[0]
    images = [
        path
        for path in (tmp_path / "top" / name for name in files)
        if "labels" not in str(path)
    ]
    assert list_images(given) == images


def test_a_folder_without_any_image_gives_no_advice(tmp_path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").touch()
    with pytest.raises(ImageFileError, match="holds no image; TIFF"):
        list_images(tmp_path)


def test_names_of_one_image() -> None:
    names = ("cell.1.ome.tif", "cell.1.tif", "cell.1.OME.TIFF", "cell.1.ome.zarr", "cell.1.png")
    assert {stem_of(name) for name in names} == {"cell.1"}
    assert stem_of("e\u0301.tif") == stem_of("\u00e9.czi") == "\u00e9"  # as systems spell é
    assert stem_of(".tif") == ".tif"
    assert stem_of("cell.1") == "cell.1"


def test_numbers_in_names_count_as_numbers():
    names = ["b2", "a10", "A3", "a2b10", "a2b9", "10", "9", "a", "a02"]
    ordered = [path.name for path in sorted(map(Path, names), key=natural_key)]
    assert ordered == ["9", "10", "a", "a02", "a2b9", "a2b10", "A3", "a10", "b2"]


def test_masks_of_cellpose_are_told_from_images_by_what_they_hold(tmp_path):
    np.save(tmp_path / "a_seg.npy", {"masks": 1}, allow_pickle=True)
    np.save(tmp_path / "b_SEG.NPY", np.zeros((3, 3)))
    np.save(tmp_path / "c.npy", {"masks": 1}, allow_pickle=True)
    (tmp_path / "d_seg.npy").mkdir()
    found = {name: is_seg(tmp_path / name) for name in ("a_seg.npy", "c.npy", "d_seg.npy")}
    assert found == {"a_seg.npy": True, "c.npy": False, "d_seg.npy": False}
    (seg,) = tmp_path.glob("b_*")
    assert not is_seg(seg)
    assert not is_seg(tmp_path / "gone_seg.npy")
