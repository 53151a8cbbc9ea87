"""What cannot be read, written or kept is said in words that tell what to do."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr

from napari_sa2net.data import read_image
from napari_sa2net.data.coco import coco_shape
from napari_sa2net.data.formats import Cells, write_cells
from napari_sa2net.data.label_files import label_files, read_cells, read_mask
from napari_sa2net.data.outlines import read_geojson
from napari_sa2net.data.write import write_image, write_tiff_float
from napari_sa2net.errors import (
    AxesError,
    FormatError,
    ImageFileError,
    LabelsError,
    OutputError,
)

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]
RING = [[1, 1], [3, 1], [3, 3], [1, 3], [1, 1]]


def kept(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), "utf-8")
    return path


def coco(*cells: dict[str, Any], **image: Any) -> dict[str, Any]:
    size = {"id": 1, "file_name": "a.png", "height": 4, "width": 5}
    return {
        "images": [{**size, **image}],
        "annotations": [{"image_id": 1, **cell} for cell in cells],
    }


def runs(counts: list[int], size: tuple[int, int] = (4, 5)) -> dict[str, Any]:
    return {"segmentation": {"size": size, "counts": counts}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            coco({"bbox": [1, 1, 2, 2]}, {"segmentation": []}, {"segmentation": SQUARE}),
            ": 2 of its cells are boxes",
        ),
        (coco({"segmentation": SQUARE}, height=5), "an image of 5 × 5, not of 4 × 5"),
        (coco({"segmentation": SQUARE}, width=4), "an image of 4 × 4, not of 4 × 5"),
        (coco(runs([0, 2, 18], (5, 4))), "of 5 × 4 pixels, not of 4 × 5"),
        (coco(runs([5, 16])), "beyond the image"),
        (coco(runs([5, -1, 3])), "beyond the image"),
    ],
)
def test_coco_that_does_not_fit_its_image(tmp_path, content, words):
    with pytest.raises(LabelsError, match=words):
        read_cells(kept(tmp_path / "a.json", content), (4, 5), "a")


@pytest.mark.parametrize("left", ["height", "width"])
def test_coco_may_leave_out_a_side_where_the_image_is_known(tmp_path, left):
    content = coco({"segmentation": SQUARE})
    del content["images"][0][left]
    path = kept(tmp_path / "a.json", content)
    assert (read_cells(path, (4, 5), "a").labels == 1).sum() == 4
    with pytest.raises(LabelsError, match="how large its image is"):
        coco_shape(path, "a")


def test_crowds_and_cells_of_other_images_are_not_read(tmp_path):
    crowd = {"segmentation": SQUARE, "iscrowd": 1}
    other = {"image_id": 2, "segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]}
    content = coco(crowd, other, crowd, runs([19, 1]), runs([1, 2]))
    read = read_cells(kept(tmp_path / "a.json", content), (4, 5), "a")
    assert list(read.notes) == ["2 crowds not read: no single cells"]
    # down the columns, to the last pixel
    assert np.argwhere(read.labels).tolist() == [[1, 0], [2, 0], [3, 4]]


def test_compressed_runs_may_be_long_and_shrink(tmp_path):
    """From the third on, what differs from the one before the last is written."""
    size = (40, 50)
    # 100, 40, 60 (100 - 40), 50 (40 + 10) by the rules of the format
    text = "".join(map(chr, [48 + (100 & 31 | 32), 48 + 3, 48 + (40 & 31 | 32), 48 + 1]))
    text += "".join(map(chr, [48 + (60 & 31 | 32), 48 + 1, 48 + 10]))
    content = coco(runs(text, size), height=40, width=50)  # type: ignore[arg-type]
    flat = read_cells(kept(tmp_path / "a.json", content), size, "a").labels.T.ravel()
    wanted = np.zeros(2000, int)
    wanted[100:140] = wanted[200:250] = 1
    assert np.array_equal(flat, wanted)


@pytest.mark.parametrize("content", [[], {"images": []}, {"annotations": []}])
def test_no_coco(tmp_path, content):
    with pytest.raises(LabelsError, match="no images and annotations"):
        coco_shape(kept(tmp_path / "a.json", content), "")


@pytest.mark.parametrize("content", [{"features": {}}, [{"type": "Polygon"}], 3, [3]])
def test_no_geojson(tmp_path, content):
    with pytest.raises(LabelsError, match="no GeoJSON with a geometry"):
        read_geojson(kept(tmp_path / "a.geojson", content))


def test_geojson_of_many_parts(tmp_path):
    """Collections are all of their polygons; what has no area is no cell, and is said."""
    polygon = {"type": "Polygon", "coordinates": [RING]}
    moved = {"type": "MultiPolygon", "coordinates": [[[[x + 4, y] for x, y in RING]], []]}
    point = {"type": "Point", "coordinates": [1, 1]}
    both = {"type": "GeometryCollection", "geometries": [polygon, moved, point]}
    found, notes = read_geojson(
        kept(tmp_path / "a.geojson", [{"geometry": one} for one in (both, point, None)])
    )
    assert [len(one.parts) for one in found] == [2]
    assert notes == ["2 points or lines not read: no cells"]


def test_a_zip_without_outlines(tmp_path):
    path = tmp_path / "a_RoiSet.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "none")
        archive.writestr("__MACOSX/._a.roi", b"")
    with pytest.raises(LabelsError, match="holds no ImageJ ROI"):
        read_cells(path, (4, 5))


@pytest.mark.parametrize(("axis", "word"), [("z", "planes"), ("t", "time points")])
def test_cells_of_several_planes_on_one_plane(tmp_path, axis, word):
    features = [
        {"geometry": {"type": "Polygon", "coordinates": [RING], "plane": {axis: at}}}
        for at in (0, 1)
    ]
    path = kept(tmp_path / "a.geojson", features)
    with pytest.raises(LabelsError, match=f"several {word}, and the image is one plane"):
        read_cells(path, (4, 5))
    both = read_cells(path, (2, 4, 5), axes=f"{axis.upper()}YX").labels
    assert both.any((1, 2)).tolist() == [True, True]


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((5,), "", "at least the axes Y and X, not 1"),
        ((4, 5), "ZYX", "do not fit labels of shape"),
        ((3, 4, 5), "YX", "do not fit labels of shape"),
        ((4, 5), "ZX", "Y and X last"),
    ],
)
def test_cells_of_other_axes(shape, axes, words):
    with pytest.raises(FormatError, match=words):
        Cells(np.zeros(shape, np.int32), axes)


def test_cells_that_a_format_does_not_hold(tmp_path):
    many = Cells(np.zeros((2, 2, 4, 5), np.int32), "PQYX")
    with pytest.raises(FormatError, match=r"these cells have 2: P, Q"):
        write_cells(tmp_path / "a.zarr", many, "ome-zarr")
    for key, name in (("ome-zarr", "b.zarr"), ("ome-tiff", "b.ome.tif")):
        with pytest.raises(OutputError, match="no image without pixels"):
            write_cells(tmp_path / name, Cells(np.zeros((0, 5), np.int32)), key)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_real_are_not_written(tmp_path):
    path = tmp_path / "a.tif"
    with pytest.raises(OutputError, match="not complex64"):
        write_tiff_float(path, np.zeros((4, 5), np.complex64))
    with pytest.raises(OutputError, match="not complex64"):
        write_image(path, np.zeros((4, 5), np.complex64), "YX")
    for axes in ("ZYX", "XY", "YXC"):
        with pytest.raises(AxesError, match=f"these are '{axes}'"):
            write_image(path, np.zeros((4, 5)), axes)
    assert not path.exists()


@pytest.mark.parametrize(
    ("names", "letters"),
    [
        (["t", "c", "y", "x"], "TCYX"),
        (["y", "x"], None),
        (["row", "round", "y", "x"], "RZYX"),  # of two that begin alike, the second a free one
        (["1", "c", "y", "x"], "ZCYX"),
    ],
)
def test_axes_of_ome_zarr_have_a_letter_each(tmp_path, names, letters):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("0", shape=(2, 3, 4, 5), dtype="uint8")
    group.attrs["multiscales"] = [{"axes": names, "datasets": [{"path": "0"}]}]
    if letters is None:
        with pytest.raises(ImageFileError, match="describe 2 axes, but the array has 4"):
            read_image(path)
    else:
        assert read_image(path).axes == letters


@pytest.mark.parametrize(
    ("voxel", "scale"),
    [
        ({"X": 2.5e-7, "Y": 2.5e-7, "Z": 1e-6}, {"Y": 0.25, "X": 0.25, "Z": 1.0}),
        ({"X": 2.5e-7, "Y": 2.5e-7, "Z": 0}, {"Y": 0.25, "X": 0.25}),
    ],
)
def test_sizes_of_a_confocal_microscope_are_in_metres(voxel, scale):
    from napari_sa2net.data.io import _metadata

    told = {f"VoxelSize{axis}": size for axis, size in voxel.items()}
    page = SimpleNamespace(tags={}, description="")
    kinds = dict.fromkeys(["is_ome", "is_imagej", "is_shaped", "is_svs"], False)
    tif = SimpleNamespace(
        series=[SimpleNamespace(keyframe=page, axes="ZYX")],
        is_lsm=True,
        lsm_metadata=told,
        **kinds,
    )
    assert _metadata(tif, 0)[0] == pytest.approx(scale)


def test_hidden_files_are_no_labels(tmp_path):
    for name in (".a.tif", "b.tif", "c.txt", "d.json"):
        (tmp_path / name).write_bytes(b"[]")
    assert set(label_files(sorted(tmp_path.iterdir()))) == {"b", "d"}


def test_a_mask_is_where_numbers_are_above_0(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[-1.0, 0.0, 0.5], [1, 2, 300]]))
    assert read_mask(path, (2, 3)).tolist() == [[False, False, True], [True] * 3]
