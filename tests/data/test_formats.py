"""Cells out and in: each format against its own reader, and the same pixels back."""

from __future__ import annotations

import json
import pickle
import typing
import zipfile
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pytest
import roifile
import shapely
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shapely.geometry import Point, shape

from napari_sa2net.cli.options import FormatName
from napari_sa2net.data import read_cells, read_image, write_cells
from napari_sa2net.data.formats import FORMATS, cells_of_layer, format_of, save_with_image
from napari_sa2net.data.label_files import is_other_format, label_files, outlined_shape
from napari_sa2net.data.outlines import (
    Cells,
    Found,
    check_pixels_meant,
    column_head,
    pieces,
    polygons,
)
from napari_sa2net.errors import (
    FormatError,
    ImageFileError,
    LabelsError,
    OutputError,
    SettingsError,
)
from napari_sa2net.measure import object_table

LARGEST = np.iinfo(np.int32).max
#: Formats that hold cells and not only their table.
PIXELS = [key for key in FORMATS if key != "csv"]


@pytest.fixture
def labels() -> np.ndarray:
    """A cell with a hole, one in two pieces, two that touch at a corner, odd numbers."""
    plane = np.zeros((40, 60), np.int32)
    plane[2:12, 3:15] = 7
    plane[5:8, 6:9] = 0  # a hole,
    plane[6, 7] = 9  # and in it another cell
    plane[15:20, 0:6] = plane[25:30, 10:20] = LARGEST
    plane[30:35, 30:35] = 40_000
    plane[35:40, 35:40] = 40_000
    plane[0:2, 55:60] = 3
    return plane


def written(tmp_path: Path, labels, key: str, **more) -> Path:
    return write_cells(tmp_path / f"one{FORMATS[key].ending}", labels, key, **more)


# --- the same pixels back --------------------------------------------------------------------


@pytest.mark.parametrize("key", PIXELS)
@pytest.mark.parametrize("axes", ["YX", "ZYX", "TYX", "TZYX"])
def test_the_same_pixels_come_back(tmp_path, labels, key, axes):
    stack = {"Z": 3, "T": 2}
    lead = tuple(stack[axis] for axis in axes[:-2])
    full = np.broadcast_to(labels, (*lead, *labels.shape)).copy()
    if lead:
        full[(0,) * len(lead)] = np.roll(labels, 5, axis=1)
    if key == "cellpose" and "T" in axes:
        with pytest.raises(FormatError, match="OME-TIFF"):
            written(tmp_path, full, key, axes=axes)
        assert not list(tmp_path.iterdir())
        return
    path = written(tmp_path, full, key, axes=axes, pixel_size_um=0.5, z_step_um=2)
    read = read_cells(path, full.shape, axes=axes)
    assert np.array_equal(read.labels, full)
    assert read.notes == ()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    labels=hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=9),
        elements=st.integers(0, 4),
    ),
    key=st.sampled_from(["imagej", "geojson", "coco", "cellpose", "ome-tiff", "ome-zarr-0.4"]),
    last=st.sampled_from([4, 300, LARGEST]),
)
def test_any_labels_come_back(tmp_path, labels, key, last):
    labels = np.where(labels == 4, last, labels).astype(np.int32)
    axes = "ZYX"[-labels.ndim :]
    path = written(tmp_path, labels, key, axes=axes, overwrite=True)
    assert np.array_equal(read_cells(path, labels.shape, axes=axes).labels, labels)


@given(
    mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)),
)
@settings(max_examples=150, deadline=None)
def test_outlines_are_valid_polygons_of_just_the_pixels(mask):
    for piece in pieces(Cells(mask.astype(np.int32))):
        shapes = [
            shape({"type": "Polygon", "coordinates": [ring.tolist() for ring in one]})
            for one in polygons(piece)
        ]
        assert all(one.is_valid for one in shapes)
        assert sum(one.area for one in shapes) == mask.sum()
        for y, x in np.ndindex(mask.shape):
            assert any(one.contains(Point(x + 0.5, y + 0.5)) for one in shapes) == mask[y, x]


# --- the same stack by the readers of others -------------------------------------------------


@pytest.fixture
def crowd(labels) -> np.ndarray:
    """A stack (Z, Y, X) with holes, cells that touch along sides and corners, and pieces."""
    full = np.zeros((50, 70), np.int32)
    full[2:42, 3:63] = labels
    full[44:50, 0:10], full[44:50, 10:20], full[38:44, 10:20] = 11, 12, 13  # touch
    return np.stack([full, np.roll(full, 6, axis=1), np.zeros_like(full)])


def filled(shapes: list[tuple[int, Any]], size: tuple[int, int]) -> np.ndarray:
    """Labels of pixels whose centres lie in shapes of shapely, of which none meets another."""
    plane = np.zeros(size, np.int32)
    y, x = np.indices(size)
    for number, one in shapes:
        inside = shapely.contains_xy(one, x + 0.5, y + 0.5)
        assert not plane[inside].any()
        assert inside.sum() == one.area
        plane[inside] = number
    return plane


def test_a_stack_by_roifile(tmp_path, crowd):
    path = written(tmp_path, crowd, "imagej", axes="ZYX", pixel_size_um=0.5, z_step_um=2)
    planes: list[list[tuple[int, Any]]] = [[] for _ in crowd]
    for roi in roifile.roiread(path):
        assert roi.name is not None
        # of rings, those inside of others are holes, as in ImageJ
        one = shapely.Polygon()
        for ring in roi.coordinates(multi=True):
            one = one.symmetric_difference(shapely.Polygon(ring))
        planes[roi.position - 1].append((int(roi.name.split()[1]), one))
    for shapes, plane in zip(planes, crowd, strict=True):
        assert np.array_equal(filled(shapes, plane.shape), plane)


def test_a_stack_by_geojson_and_shapely(tmp_path, crowd):
    sizes = {"pixel_size_um": 0.5, "stack_axes": "Z", "z_step_um": 2.0}
    table = object_table(crowd, **sizes)
    path = written(tmp_path, crowd, "geojson", axes="ZYX", table=table)
    content = geojson.loads(path.read_text("utf-8"))
    assert content.is_valid
    planes: list[list[tuple[int, Any]]] = [[] for _ in crowd]
    volumes = dict(zip(table["label"], table["volume_um3"], strict=True))
    for feature in content["features"]:
        measured = feature["properties"]["measurements"]
        assert measured["volume (µm³)"] == volumes[measured["label"]]
        one = shape(feature["geometry"])
        assert one.is_valid
        planes[feature["geometry"]["plane"]["z"]].append((measured["label"], one))
    for shapes, plane in zip(planes, crowd, strict=True):
        assert np.array_equal(filled(shapes, plane.shape), plane)


def test_a_stack_by_tifffile(tmp_path, crowd):
    movie = np.stack([crowd, crowd[::-1]])
    path = written(
        tmp_path, movie, "ome-tiff", axes="TZYX", pixel_size_um=(0.5, 0.25), z_step_um=2
    )
    with tifffile.TiffFile(path) as tif:
        assert tif.series[0].axes == "TZYX"
        assert np.array_equal(tif.asarray(), movie)
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
    told = {axis: pixels[f"PhysicalSize{axis}"] for axis in "ZYX"}
    assert told == {"Z": 2, "Y": 0.5, "X": 0.25}
    assert {pixels[f"PhysicalSize{axis}Unit"] for axis in "ZYX"} == {"µm"}


@pytest.mark.parametrize("key", ["ome-zarr", "ome-zarr-0.4"])
def test_a_stack_by_ome_zarr(tmp_path, crowd, key):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    sizes = {"pixel_size_um": (0.5, 0.25), "z_step_um": 2}
    path = written(tmp_path, crowd, key, axes="ZYX", image=crowd, image_axes="ZYX", **sizes)
    (node,) = [one for one in Reader(parse_url(path))() if one.zarr.basename() == "cells"]
    assert np.array_equal(np.asarray(node.data[0]), crowd)
    (transform,) = node.metadata["coordinateTransformations"][0]
    assert transform == {"type": "scale", "scale": [2.0, 0.5, 0.25]}
    ngio = pytest.importorskip("ngio")
    cells = ngio.open_ome_zarr_container(path).get_label("cells")
    np.testing.assert_array_equal(cells.get_as_numpy(axes_order=["z", "y", "x"]), crowd)
    size = cells.pixel_size
    assert (size.z, size.y, size.x) == (2, 0.5, 0.25)


# --- OME-TIFF --------------------------------------------------------------------------------


def test_ome_tiff_has_sizes_and_smaller_copies(tmp_path):
    labels = np.zeros((2500, 4200), np.uint32)
    labels[100:2000, 500:4000] = 70_000
    path = written(tmp_path, labels, "ome-tiff", pixel_size_um=(0.5, 0.25))
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        levels = tif.series[0].levels
        assert [level.shape for level in levels] == [(2500, 4200), (1250, 2100), (625, 1050)]
        # parts as large as they are best read, and of what is small one
        assert [level.keyframe.tilewidth for level in levels] == [1024] * 3
        assert np.array_equal(levels[0].asarray(), labels)
        assert np.array_equal(levels[1].asarray(), labels[::2, ::2])
    image = read_image(path)
    assert image.scale_um == {"Y": 0.5, "X": 0.25}
    with tifffile.TiffFile(written(tmp_path, labels[:40, :700], "ome-tiff")) as tif:
        assert tif.pages[0].tilewidth == 704


class Lazy:
    """Counts the largest part that is read."""

    def __init__(self, labels: np.ndarray) -> None:
        self._labels, self.shape, self.dtype = labels, labels.shape, labels.dtype
        self.most = 0

    def __getitem__(self, index):
        part = self._labels[index]
        self.most = max(self.most, part.size)
        return part


@pytest.mark.parametrize("key", ["ome-tiff", "ome-zarr", "imagej", "geojson", "coco"])
def test_lazy_labels_are_read_part_by_part(tmp_path, key, monkeypatch):
    monkeypatch.setattr("napari_sa2net.data.outlines.BAND", 2**18)
    monkeypatch.setattr("napari_sa2net.data.write._EXTENT", 512, raising=False)
    labels = np.zeros((6000, 3000), np.int32)
    labels[10:60, 20:90], labels[5000:5050, 2000:2100] = 1, 2
    lazy = Lazy(labels)
    table = {"label": np.array([1, 2])}
    path = written(tmp_path, lazy, key, table=table)
    assert lazy.most < labels.size
    assert np.array_equal(read_cells(path, labels.shape).labels, labels)


# --- OME-Zarr --------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "version"), [("ome-zarr", "0.5"), ("ome-zarr-0.4", "0.4")])
def test_ome_zarr_has_labels_beside_the_image(tmp_path, key, version):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    rng = np.random.default_rng(1)
    image = rng.integers(0, 4000, (3000, 2100, 3)).astype(np.uint16)
    labels = np.zeros((3000, 2100), np.int32)
    labels[100:900, 200:700] = 5
    path = written(tmp_path, labels, key, image=image, image_axes="YXC", pixel_size_um=0.5)
    nodes = {node.zarr.basename(): node for node in Reader(parse_url(path))()}
    assert {path.name, "cells"} <= set(nodes)
    for name, wanted in ((path.name, np.moveaxis(image, -1, 0)), ("cells", labels)):
        levels = nodes[name].data
        assert len(levels) == 2
        assert np.array_equal(np.asarray(levels[0]), wanted)
    group = zarr.open_group(str(path / "labels" / "cells"), mode="r")
    ome = group.attrs["ome"] if version == "0.5" else group.attrs
    assert group.metadata.zarr_format == (3 if version == "0.5" else 2)
    multiscale = ome["multiscales"][0]
    assert [axis["unit"] for axis in multiscale["axes"]] == ["micrometer"] * 2
    assert multiscale["datasets"][1]["coordinateTransformations"][0]["scale"] == [1.0, 1.0]
    assert ome["image-label"]["source"] == {"image": "../../"}
    small = read_image(path)
    assert small.pixel_size_um == 0.5


@pytest.mark.parametrize("key", ["ome-zarr", "ome-zarr-0.4"])
def test_ome_zarr_says_how_cells_were_made(tmp_path, labels, key):
    made = {"model": {"name": "nuclei"}, "folder": Path("set")}
    for name, provenance in (("cells", made), ("drawn", {})):
        path = tmp_path / f"{name}.ome.zarr"
        write_cells(path, labels, key, provenance=provenance)
        attributes = zarr.open_group(str(path), mode="r").attrs
        told = attributes.get("napari-sa2net")
        assert told == ({**made, "folder": "set"} if provenance else None)


@pytest.mark.parametrize(("key", "version"), [("ome-zarr", "0.5"), ("ome-zarr-0.4", "0.4")])
def test_ome_zarr_fits_the_published_models(tmp_path, labels, key, version):
    models = pytest.importorskip("ome_zarr_models")
    path = written(tmp_path, labels, key, image=labels.astype(np.uint16), image_axes="YX")
    group = models.open_ome_zarr(zarr.open_group(str(path), mode="r"))
    assert group.ome_zarr_version == version
    again = models.open_ome_zarr(zarr.open_group(str(path / "labels" / "cells"), mode="r"))
    assert "label" in type(again).__name__.lower()


@pytest.mark.parametrize("key", ["ome-zarr", "ome-zarr-0.4"])
def test_ome_zarr_by_ngio(tmp_path, labels, key):
    ngio = pytest.importorskip("ngio")
    path = written(tmp_path, labels, key, image=labels, image_axes="YX", pixel_size_um=0.25)
    container = ngio.open_ome_zarr_container(path)
    assert container.list_labels() == ["cells"]
    cells = container.get_label("cells")
    np.testing.assert_array_equal(np.squeeze(cells.get_as_numpy()), labels)
    assert (cells.pixel_size.y, cells.pixel_size.x) == (0.25, 0.25)
    assert container.get_image().pixel_size.space_unit == "micrometer"


@pytest.mark.parametrize("version", ["ome-zarr", "ome-zarr-0.4"])
def test_labels_are_added_to_an_image_that_is_there(tmp_path, labels, version):
    path = tmp_path / "mine.ome.zarr"
    image = np.arange(labels.size, dtype=np.uint16).reshape(labels.shape)
    write_cells(path, labels, version, image=image, image_axes="YX")
    group = zarr.open_group(str(path), mode="r+")
    group.attrs["mine"] = "kept"
    other = group["labels"].create_group("others")
    assert other is not None
    changed = np.roll(labels, 3, axis=0)
    write_cells(path, changed, "ome-zarr")
    again = zarr.open_group(str(path), mode="r")
    assert again.attrs["mine"] == "kept"
    assert np.array_equal(read_image(path).array[:], image)
    assert np.array_equal(np.asarray(read_image(path / "labels" / "cells").array), changed)
    with pytest.raises(FormatError, match="another name"):
        write_cells(path, labels[:10], "ome-zarr")
    assert np.array_equal(np.asarray(read_image(path / "labels" / "cells").array), changed)


@pytest.mark.parametrize("version", ["ome-zarr", "ome-zarr-0.4"])
def test_labels_alone_are_written_anew(tmp_path, labels, version):
    path = written(tmp_path, labels, version)
    written(tmp_path, labels[:20], version)
    assert np.array_equal(read_cells(path).labels, labels[:20])
    assert not (path / "labels").exists()


def test_several_labels_are_not_guessed(tmp_path, labels):
    path = written(tmp_path, labels, "ome-zarr", image=labels, image_axes="YX")
    group = zarr.open_group(str(path / "labels"), mode="r+")
    group.attrs["ome"] = {"version": "0.5", "labels": ["cells", "nuclei"]}
    with pytest.raises(LabelsError, match="labels/cells"):
        read_cells(path)
    assert np.array_equal(read_cells(path / "labels" / "cells").labels, labels)


# --- ImageJ ----------------------------------------------------------------------------------


def test_rois_by_roifile(tmp_path, labels):
    path = written(tmp_path, np.stack([labels, labels * 0 + 1]), "imagej", axes="ZYX")
    rois = {roi.name: roi for roi in roifile.roiread(path)}
    assert set(rois) == {*(f"cell {n} z1" for n in np.unique(labels[labels > 0])), "cell 1 z2"}
    assert rois["cell 3 z1"].position == 1
    assert rois["cell 1 z2"].position == 2
    assert rois["cell 3 z1"].roitype == roifile.ROI_TYPE.TRACED
    assert (rois["cell 3 z1"].left, rois["cell 3 z1"].bottom) == (55, 2)
    assert rois["cell 7 z1"].composite
    assert len(rois["cell 7 z1"].coordinates(multi=True)) == 2
    with zipfile.ZipFile(path) as archive:
        assert len(set(archive.namelist())) == len(rois)


def test_rois_of_time_and_depth_have_both(tmp_path):
    stack = np.zeros((2, 3, 5, 5), np.uint8)
    stack[1, 2, 1, 1] = 4
    (roi,) = roifile.roiread(written(tmp_path, stack, "imagej", axes="TZYX"))
    assert (roi.t_position, roi.z_position) == (2, 3)


def test_rois_of_others(tmp_path):
    made = [
        roifile.ImagejRoi.frompoints([[1, 1], [6, 1], [6, 5], [1, 5]], name="a"),
        roifile.ImagejRoi.frompoints([[4, 3], [9, 3], [9, 8], [4, 8]], name="b"),
    ]
    oval = roifile.ImagejRoi()
    oval.roitype = roifile.ROI_TYPE.OVAL
    oval.left, oval.top, oval.right, oval.bottom = 20, 20, 30, 30
    line = roifile.ImagejRoi.frompoints([[1, 1], [6, 1]], name="line")
    line.roitype = roifile.ROI_TYPE.POLYLINE
    path = tmp_path / "RoiSet.zip"
    roifile.roiwrite(path, [*made, oval, line], mode="w")
    read = read_cells(path, (40, 40))
    assert sorted(np.unique(read.labels)) == [0, 1, 2, 3]
    assert (read.labels == 1).sum() == 20 - 4
    assert (read.labels == 2).sum() == 25
    assert (read.labels == 3).sum() == pytest.approx(np.pi * 25, rel=0.05)
    assert any("overlap in 4 pixels" in note for note in read.notes)
    assert any("1 ROIs are lines" in note for note in read.notes)
    with pytest.raises(LabelsError, match="outside"):
        read_cells(path, (15, 15))
    # what macOS puts into zip files beside what it zips
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._a.roi", b"\0\5\x16\7Mac OS X")
    assert np.array_equal(read_cells(path, (40, 40)).labels, read.labels)


def test_rois_end_where_imagej_ends(tmp_path):
    with pytest.raises(FormatError, match="GeoJSON"):
        written(tmp_path, Lazy(np.zeros((2, 40_000), np.uint8)), "imagej")
    assert not list(tmp_path.iterdir())


# --- GeoJSON ---------------------------------------------------------------------------------


def test_geojson_as_qupath_reads_it(tmp_path, labels):
    table = object_table(labels, pixel_size_um=0.5)
    path = written(tmp_path, labels, "geojson", table=table)
    content = geojson.loads(path.read_text("utf-8"))
    assert content.is_valid
    assert content["type"] == "FeatureCollection"
    by_name = {feature["properties"]["name"]: feature for feature in content["features"]}
    ring = by_name["cell 7"]
    assert ring["geometry"]["type"] == "Polygon"
    assert len(ring["geometry"]["coordinates"]) == 2
    assert by_name["cell 40000"]["geometry"]["type"] == "MultiPolygon"
    properties = ring["properties"]
    assert properties["objectType"] == "detection"
    assert properties["classification"]["name"] == "cell"
    assert properties["measurements"]["area (px²)"] == (labels == 7).sum()
    assert properties["measurements"]["area (µm²)"] == (labels == 7).sum() / 4
    assert all(np.isfinite(value) for value in properties["measurements"].values())
    assert len({feature["id"] for feature in content["features"]}) == len(by_name)
    for feature in content["features"]:
        assert shape(feature["geometry"]).is_valid


def test_geojson_says_plane_and_time(tmp_path):
    stack = np.zeros((2, 3, 5, 5), np.uint8)
    stack[1, 2, 1, 1] = 4
    path = written(tmp_path, stack, "geojson", axes="TZYX")
    (feature,) = json.loads(path.read_text("utf-8"))["features"]
    assert feature["geometry"]["plane"] == {"c": -1, "z": 2, "t": 1}
    with pytest.raises(LabelsError, match="outside"):
        read_cells(path, (2, 2, 5, 5), axes="TZYX")


def test_geojson_of_others(tmp_path):
    def feature(kind, x, geometry="Polygon", **more):
        ring = [[x, 1], [x + 4, 1], [x + 4, 5], [x, 5], [x, 1]]
        coordinates = [ring] if geometry == "Polygon" else ring[0]
        return {
            "type": "Feature",
            "geometry": {"type": geometry, "coordinates": coordinates},
            "properties": {"objectType": kind, **more},
        }

    features = [
        feature("annotation", 0),
        feature("detection", 1),
        feature("detection", 10, name="cell 12", measurements={"label": 12}),
        feature("detection", 20, "Point"),
    ]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(features))
    read = read_cells(path, (10, 30))
    assert sorted(np.unique(read.labels)) == [0, 1, 12]
    assert (read.labels == 1).sum() == 16
    assert len(read.notes) == 2
    with pytest.raises(LabelsError, match="how large"):
        read_cells(path)
    assert outlined_shape(path) == (5, 14)


def test_geojson_in_um_is_told_from_pixels(tmp_path, labels):
    def written_in(side, measure=None):
        path = written(tmp_path, labels, "geojson", overwrite=True)
        content = json.loads(path.read_text("utf-8"))
        for feature in content["features"]:
            geometry, properties = feature["geometry"], feature["properties"]
            many = geometry["coordinates"]
            many = [many] if geometry["type"] == "Polygon" else many
            geometry.update(
                type="MultiPolygon",
                coordinates=[[(side * np.array(r)).tolist() for r in one] for one in many],
            )
            area = float((labels == properties["measurements"]["label"]).sum())
            properties["measurements"] = {measure: area * 0.25} if measure else {}
        path.write_text(json.dumps(content))
        return path

    half = {"shape": labels.shape, "pixel_size_um": 0.5}
    plain = read_cells(written_in(1), **half)
    assert np.array_equal(plain.labels > 0, labels > 0)
    assert not plain.notes
    # what the file has measured tells for sure
    for name in ("Area µm^2", "Cell: Area μm^2", "area (µm²)"):
        with pytest.raises(LabelsError, match=r"in µm, and a pixel of the image is 0\.5 µm"):
            read_cells(written_in(0.5, name), **half)
        assert not read_cells(written_in(1, name), **half).notes
        # where a pixel is 1 µm it is all the same
        assert read_cells(written_in(1, name), labels.shape, pixel_size_um=1.0).notes == ()
    # of a ring the hole is not measured
    outer = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    ring = Found(1, {}, [[outer, 1 + 0.8 * outer]], area_um2=36.0)
    with pytest.raises(LabelsError, match="their areas are those"):
        check_pixels_meant([ring], (40, 60), 0.5)
    with pytest.raises(LabelsError, match="divide their coordinates by 2"):
        read_cells(written_in(2), labels.shape, pixel_size_um=2.0)
    # a cell that hangs over the edge does not make it µm, nor do areas that say otherwise
    hanging = Found(1, {}, [[np.add(outer, (54.0, 0.0))]])
    assert check_pixels_meant([hanging], (40, 60), 2.0) == ""
    far = [[np.add(outer, (70.0, 0.0))]]
    assert check_pixels_meant([Found(1, {}, far, area_um2=400.0)], (40, 60), 2.0) == ""
    with pytest.raises(LabelsError, match="beyond its pixels"):
        check_pixels_meant([Found(1, {}, far)], (40, 60), 2.0)
    note = read_cells(written_in(0.5), **half).notes[0]
    assert (
        "If they do not lie on the cells, they are in µm: divide their coordinates by 0.5"
        in note
    )
    assert not any("µm" in one for one in read_cells(written_in(0.5), labels.shape).notes)


@pytest.mark.parametrize(
    ("pixel", "end", "area", "says"),
    [
        (1.05, 118, None, ""),  # µm and pixels are about the same
        (1.2, 118, None, "they reach beyond its pixels, and not beyond its size in µm"),
        (1.2, 112, None, ""),  # hardly beyond its pixels
        (1.2, 123, None, ""),  # nor in µm within the image
        (0.5, 45, None, "end where the image would in µm"),
        (0.5, 44, None, ""),  # they may be of a part of it
        (0.5, 45, 1.04, "their areas are those that the file gives in µm²"),
        (0.5, 45, 1.06, ""),
    ],
)
def test_outlines_of_an_image_of_100_pixels_may_be_in_um(pixel, end, area, says):
    square = end * np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    one = Found(1, {}, [[square]], area_um2=area and end**2 / area)
    try:
        said = check_pixels_meant([one], (100, 100), pixel)
    except LabelsError as error:
        said = str(error)
    assert says in said
    assert bool(says) == bool(said)


# --- COCO ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_coco_by_pycocotools(tmp_path, labels):
    coco = pytest.importorskip("pycocotools.coco")
    path = written(tmp_path, labels, "coco")
    found = coco.COCO(str(path))
    again = np.zeros(labels.shape, np.int64)
    for one in found.loadAnns(found.getAnnIds()):
        mask = found.annToMask(one).astype(bool)
        assert mask.sum() == one["area"]
        again[mask] = one["label"]
    assert np.array_equal(again, labels)


def test_coco_as_its_format_is_described(tmp_path, labels):
    """Runs of out and in by turns, down the columns."""
    path = written(tmp_path, labels, "coco", image_path="cells/one.png")
    content = json.loads(path.read_text("utf-8"))
    (image,) = content["images"]
    assert image["file_name"] == "one.png"
    assert (image["height"], image["width"]) == labels.shape
    again = np.zeros(labels.size, np.int64)
    for one in content["annotations"]:
        at, inside = 0, False
        assert sum(one["segmentation"]["counts"]) == labels.size
        for n in one["segmentation"]["counts"]:
            if inside:
                again[at : at + n] = one["label"]
            at, inside = at + n, not inside
        x, y, w, h = one["bbox"]
        rows, columns = np.nonzero(labels == one["label"])
        assert (x, y, w, h) == (
            *(columns.min(), rows.min()),
            *(np.ptp(columns) + 1, np.ptp(rows) + 1),
        )
    assert np.array_equal(again.reshape(labels.shape[::-1]).T, labels)


def test_coco_of_several_images_and_compressed_runs(tmp_path):
    content = {
        "images": [
            {"id": 4, "file_name": "folder/a.png", "width": 5, "height": 4},
            {"id": 9, "file_name": "b.tif", "width": 6, "height": 4},
        ],
        "annotations": [
            # 5 out, 2 in, 13 out: 4 bits of a sign are enough for each
            {"id": 1, "image_id": 4, "segmentation": {"size": [4, 5], "counts": "52="}},
            {"id": 2, "image_id": 9, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]},
            {"id": 3, "image_id": 9, "segmentation": [[0, 3, 1, 3, 1, 4, 0, 4]]},
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    one = read_cells(path, (4, 5), "a").labels
    assert np.argwhere(one).tolist() == [[1, 1], [2, 1]]
    two = read_cells(path, name="b").labels
    assert (two == 1).sum() == 6
    assert (two == 2).sum() == 1
    assert set(label_files([path])) == {"a", "b"}
    with pytest.raises(LabelsError, match="2 images"):
        read_cells(path, (4, 5), "c")
    with pytest.raises(LabelsError, match="not of 4 × 6"):
        read_cells(path, (4, 6), "a")


def test_coco_images_of_one_name_in_several_folders_are_told_apart(tmp_path):
    images = [
        {"id": i, "file_name": f"{folder}/a.png", "width": 5, "height": 4}
        for i, folder in enumerate(["train", "val"])
    ]
    cells = [{"image_id": i, "segmentation": [[i, i, i + 2, i, i + 2, i + 2]]} for i in (0, 1)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": cells}))
    with pytest.raises(LabelsError, match=r"2 images with the name a: train/a.png, val/a.png"):
        read_cells(path, (4, 5), "a")


def test_ids_as_text_and_labels_in_words_are_read(tmp_path):
    image = {"id": "7", "file_name": "a.png", "width": 5, "height": 4}
    box = [[0, 0, 2, 0, 2, 2, 0, 2]]
    cells = [
        {"image_id": 7, "label": "nucleus", "segmentation": box},
        {"image_id": 7.0, "label": "5", "segmentation": [[3, 0, 4, 0, 4, 2, 3, 2]]},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [image], "annotations": cells}))
    labels = read_cells(path, (4, 5), "a").labels
    assert labels[:2].tolist() == [[1, 1, 0, 5, 0]] * 2
    ring = [[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]
    feature = {
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"name": "cell NaN", "measurements": {"label": "NaN"}},
    }
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"features": [feature]}))
    assert read_cells(path, (4, 5)).labels[0].tolist() == [1, 1, 0, 0, 0]


# --- Cellpose --------------------------------------------------------------------------------


def test_cellpose_has_what_its_window_wants(tmp_path, labels):
    path = written(tmp_path, labels, "cellpose", image_path="one.tif")
    content = np.load(path, allow_pickle=True).item()
    assert np.array_equal(content["masks"], labels)
    outlines = content["outlines"]
    assert ((outlines == 0) | (outlines == labels)).all()
    assert (outlines[labels == 3] == 3).all()
    assert not outlines[32, 32]
    assert content["filename"] == "one.tif"
    assert len(content["ismanual"]) == 5
    assert {"flows", "chan_choose"} <= set(content)


@pytest.mark.filterwarnings("ignore")
def test_cellpose_reads_it(tmp_path, labels):
    io = pytest.importorskip("cellpose.io")
    tifffile.imwrite(tmp_path / "one.tif", labels.astype(np.uint16))
    written(tmp_path, labels, "cellpose")
    names = io.get_image_files(str(tmp_path), "_masks")
    assert [Path(name).name for name in names] == ["one.tif"]
    found, _ = io.get_label_files(names, "_seg.npy")
    assert [Path(name).name for name in found] == ["one_seg.npy"]
    # as its window and its training open them
    content = np.load(found[0], allow_pickle=True).item()
    rois = tmp_path / "again"
    io.save_rois(content["masks"], str(rois))
    # of a cell of one pixel it makes no outline
    assert len(roifile.roiread(f"{rois}_rois.zip")) == 4


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


def test_nothing_of_a_seg_file_is_run(tmp_path, labels, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"masks": labels, "flows": [Evil()], "model": Path("somewhere")}
    np.save("a_seg.npy", np.array(content, dtype=object), allow_pickle=True)
    assert np.array_equal(read_cells("a_seg.npy").labels, labels)
    assert not Path("evil").exists()
    np.save("b_seg.npy", np.array({"flows": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(LabelsError, match="no masks"):
        read_cells("b_seg.npy")


def test_old_seg_files_begin_with_minus_one(tmp_path, labels):
    small = np.minimum(labels, 50)
    path = tmp_path / "a_seg.npy"
    np.save(path, np.array({"masks": small - 1}, dtype=object), allow_pickle=True)
    assert np.array_equal(read_cells(path).labels, small)
    np.save(path, np.array({"masks": small.astype(float)}, dtype=object), allow_pickle=True)
    assert np.array_equal(read_cells(path).labels, small)


# --- tables and projects ---------------------------------------------------------------------


def test_csv_has_units(tmp_path, labels):
    import pandas as pd

    path = written(tmp_path, labels, "csv", pixel_size_um=0.5)
    raw = path.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")  # by it Excel knows µ
    table = pd.read_csv(path)
    assert {"label", "area (px²)", "area (µm²)", "diameter (px)", "y (px)"} <= set(table)
    assert table["label"].tolist() == np.unique(labels[labels > 0]).tolist()


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("perimeter_um", "perimeter (µm)"),
        ("volume_um3", "volume (µm³)"),
        ("feret_max_px", "feret max (px)"),
        ("mean_intensity", "mean intensity"),
    ],
)
def test_heads_of_columns(name, head):
    assert column_head(name) == head


def test_heads_are_those_of_the_window():
    from napari_sa2net.widgets.cell_table import COUNTED, FROM_0, HEADS

    for name in object_table(np.ones((1, 2, 2), int), stack_axes="Z").columns:
        said = HEADS[name] + FROM_0 * (name in COUNTED)
        assert column_head(name) == said


def test_cells_without_a_table_are_measured_where_a_format_says_so(tmp_path, labels):
    rows = {"geojson": "features", "coco": "annotations"}
    for key, name in rows.items():
        content = json.loads(written(tmp_path, labels, key, pixel_size_um=0.5).read_text())
        cells = [one.get("properties", one)["measurements"] for one in content[name]]
        assert len(cells) == 5
        areas = {one.get("area (px²)", one.get("area_px")) for one in cells}
        assert areas == {np.count_nonzero(labels == one) for one in np.unique(labels)[1:]}
    csv = written(tmp_path, labels, "csv").read_text("utf-8-sig")
    project = written(tmp_path, labels, "project") / "cells.csv"
    assert len(csv.splitlines()) == 6
    assert project.read_text("utf-8-sig") == csv
    # the others keep what they are given, and measure nothing by themselves
    assert {one.key for one in FORMATS.values() if one.measures} == {*rows, "csv", "project"}


def test_a_project_has_all_of_it(tmp_path, labels):
    tifffile.imwrite(tmp_path / "image.tif", labels.astype(np.uint16))
    made = {"model": {"name": "nuclei"}, "settings": {"instances": {"min_size": 15}}}
    path = written(
        tmp_path,
        labels,
        "project",
        pixel_size_um=0.5,
        image_path=tmp_path / "image.tif",
        provenance=made,
    )
    content = json.loads((path / "project.json").read_text("utf-8"))
    assert content["image"]["beside"] == "image.tif"
    assert content["image"]["size"] == (tmp_path / "image.tif").stat().st_size
    assert content["settings"] == made["settings"]
    assert content["provenance"]["model"]["name"] == "nuclei"
    assert content["spacing_um"] == {"Y": 0.5, "X": 0.5}
    assert (path / "cells.csv").is_file()
    assert read_image(path / "labels.ome.tif").pixel_size_um == 0.5
    write_cells(path, labels * 0, "project")
    assert not read_cells(path).labels.any()
    (tmp_path / "other.sa2net").mkdir()
    with pytest.raises(OutputError, match="no project"):
        write_cells(tmp_path / "other.sa2net", labels)


# --- what cannot be done ---------------------------------------------------------------------


@pytest.mark.parametrize("key", ["imagej", "geojson", "cellpose", "ome-tiff", "project"])
def test_what_a_format_cannot_hold_is_said(tmp_path, labels, key):
    with pytest.raises(FormatError, match=r"axis P|axes PYX"):
        written(tmp_path, labels[None], key, axes="PYX", table={"label": np.array([1])})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", FORMATS)
@pytest.mark.parametrize("odd", ["negative", "large", "real"])
def test_what_is_no_label_is_refused(tmp_path, labels, key, odd):
    values = {
        "negative": labels - 1,
        "large": labels.astype(np.int64) + LARGEST,
        "real": labels / 2,
    }[odd]
    with pytest.raises(OutputError):
        written(tmp_path, values, key)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.geojson", "a_rois.zip", "a.json", "a_seg.npy", "a.roi"])
def test_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    content = {"a_seg.npy": b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False"}
    path.write_bytes(content.get(name, b'{"type": "Feat'))
    with pytest.raises((ImageFileError, LabelsError), match="a"):
        read_cells(path, (10, 10))
    with pytest.raises(ImageFileError, match="no file"):
        read_cells(tmp_path / f"none{name}", (10, 10))


def test_an_earlier_file_stays_where_writing_fails(tmp_path, labels):
    path = written(tmp_path, labels, "geojson")
    before = path.read_bytes()
    with pytest.raises(OutputError):
        write_cells(path, labels - 1)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_formats_by_name(tmp_path, labels):
    assert format_of("x/a.ome.tif").key == "ome-tiff"
    assert format_of("a_rois.zip").key == format_of("RoiSet.zip").key == "imagej"
    assert format_of("a.json").key == "coco"
    assert write_cells(tmp_path / "a.npy", labels, "cellpose").name == "a_seg.npy"
    assert write_cells(tmp_path / "a", labels, "geojson").name == "a.geojson"
    assert write_cells(tmp_path / "b.tif", labels, "ome-tiff").name == "b.ome.tif"
    with pytest.raises(SettingsError, match="ending"):
        write_cells(tmp_path / "a.xyz", labels)
    with pytest.raises(SettingsError, match="geojson"):
        write_cells(tmp_path / "a", labels, "xyz")
    assert set(typing.get_args(FormatName)) == set(FORMATS)


# --- as napari hands layers over --------------------------------------------------------------


def test_a_layer_keeps_its_pixel_size_and_table(labels):
    import pandas as pd

    meta = {
        "scale": (2, 0.5, 0.25),
        "units": ("micrometer", "micrometer", "micrometer"),
        "axis_labels": ("t", "y", "x"),
        "features": pd.DataFrame({"label": [3, 7], "area_px": [1, 2], "index": [3, 7]}),
        "metadata": {"napari-sa2net": {"model": "m"}},
    }
    cells = cells_of_layer("mine", labels[None], meta)
    assert cells.axes == "TYX"
    assert cells.scale_um == {"Y": 0.5, "X": 0.25}
    assert set(cells.table) == {"label", "area_px"}
    assert cells.made == {"model": "m"}
    assert cells_of_layer("mine", labels, {}).scale_um == {}


def test_image_and_labels_as_one(tmp_path, labels):
    image = np.stack([labels, labels]).astype(np.uint16)
    layers = [
        (
            image,
            {"name": "image", "scale": (1, 0.5, 0.5), "units": ("pixel", "um", "um")},
            "image",
        ),
        (labels, {"name": "cells"}, "labels"),
    ]
    (path,) = save_with_image(str(tmp_path / "a.ome.zarr"), layers)
    assert read_image(path).axes == "CYX"
    assert read_image(path).pixel_size_um == 0.5
    assert np.array_equal(read_cells(path).labels, labels)
    layers[1] = (labels[:5], {}, "labels")
    with pytest.raises(FormatError, match="same pixels"):
        save_with_image(str(tmp_path / "b.ome.zarr"), layers)


def test_pickles_are_plain(labels, tmp_path):
    """What is written needs no class of ours to be opened."""
    path = written(tmp_path, labels, "cellpose", provenance={"diameter": np.float64(3)})
    assert b"napari_sa2net" not in path.read_bytes()
    assert pickle.dumps(np.load(path, allow_pickle=True).item())


def test_axes_in_another_order(tmp_path, labels):
    stack = np.stack([labels, np.roll(labels, 2, axis=0), labels * 0], axis=-1)
    for key in PIXELS:
        path = written(tmp_path, stack, key, axes="YXZ", overwrite=True)
        read = read_cells(path, (3, *labels.shape), axes="ZYX")
        assert np.array_equal(read.labels, np.moveaxis(stack, -1, 0))
    turned = Cells(labels, "XY")
    assert turned.axes == "YX"
    assert np.array_equal(turned.labels[:, :], labels.T)
    for wrong in ("YXZ", "AB"):
        with pytest.raises(FormatError, match=r"do not fit labels of shape"):
            Cells(labels, wrong)


@pytest.mark.parametrize("key", FORMATS)
@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "uint64", "dask", "zarr", "list"])
def test_labels_of_any_kind(tmp_path, key, kind):
    import dask.array

    plane = np.zeros((20, 30), np.uint8)
    plane[3:9, 4:10] = 1
    made = {
        "dask": lambda: dask.array.from_array(plane, chunks=8),
        "zarr": lambda: zarr.array(plane, chunks=(8, 8)),
        "list": plane.tolist,
    }
    labels = made.get(kind, lambda: plane.astype(kind))()
    path = written(tmp_path, labels, key)
    if key != "csv":
        assert np.array_equal(read_cells(path, plane.shape).labels, plane)


@pytest.mark.parametrize("key", FORMATS)
def test_an_image_without_a_cell(tmp_path, key):
    path = written(tmp_path, np.zeros((20, 30), np.int32), key)
    if key != "csv":
        assert not read_cells(path, (20, 30)).labels.any()


def test_a_folder_that_is_a_zarr_by_its_name_alone_holds_no_cells(tmp_path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "file.zarr").write_text("")
    for name in ("empty.zarr", "file.zarr", "gone.zarr"):
        assert not is_other_format(tmp_path / name)
