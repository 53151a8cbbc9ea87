"""Results on disk: same shape and values, integer labels, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr

from napari_sa2net.data import read_image, write, write_labels, write_tiff_float
from napari_sa2net.data.write import label_type, pyramid_steps
from napari_sa2net.errors import AxesError, ImageError, OutputError

SHAPES = [(20, 30), (1, 1), (1, 20, 30), (5, 20, 30), (2, 1, 9, 8), (2, 3, 4, 9, 8), (5, 9, 3)]


def _labels(shape: tuple[int, ...], largest: int = 300, dtype: type = np.int32) -> np.ndarray:
    labels = np.random.default_rng(0).integers(0, largest, shape).astype(dtype)
    labels.flat[-1] = largest
    return labels


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("largest", [3, 65535, 65536, 2**31 - 1])
@pytest.mark.parametrize("size", [None, 0.31, (0.5, 0.25)])
def test_labels_come_back(tmp_path, shape, largest, size) -> None:
    labels = _labels(shape, largest)
    write_labels(tmp_path / "a.tif", labels, size, {"model": "nuclei"})
    back = tifffile.imread(tmp_path / "a.tif")
    assert back.dtype == (np.uint16 if largest < 65536 else np.int32)
    np.testing.assert_array_equal(back, labels)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array, labels)
    assert image.axes == "TZ"[max(0, 4 - len(shape)) :] + "YX" or len(shape) == 5
    if size is None:
        assert image.pixel_size_um is None
    else:
        sides = np.broadcast_to(size, 2)
        assert [image.scale_um[a] for a in "YX"] == pytest.approx(sides, rel=1e-5)


@pytest.mark.parametrize("more", [0, 1])
def test_files_that_outgrow_a_classic_tiff_are_big_ones(tmp_path, monkeypatch, more) -> None:
    """With four bytes for a place in the file, as ImageJ's layout has, it ends at 4 GiB."""
    labels = _labels((60, 100), 300)
    n_bytes = labels.size * 2
    monkeypatch.setattr(write, "_CLASSIC_BYTES", n_bytes + 1 - more)
    write_labels(tmp_path / "a.tif", labels, 0.5)
    write.write_image(tmp_path / "b.tif", labels.astype(np.uint16), "YX")
    # half size and quarter size beside it are a third more
    monkeypatch.setattr(write, "_CLASSIC_BYTES", n_bytes * 4 // 3 + 1 - more)
    write.write_ome_labels(tmp_path / "c.tif", labels, "YX", {}, {}, "c")
    for name in "abc":
        with tifffile.TiffFile(tmp_path / f"{name}.tif") as tif:
            assert tif.is_bigtiff == bool(more)
            assert tif.is_imagej == (name == "a" and not more)
            np.testing.assert_array_equal(tif.asarray(), labels)
        assert read_image(tmp_path / f"{name}.tif").axes == "YX"


@pytest.mark.parametrize("shape", [(0, 20), (20, 0), (3, 0, 20), (0, 4, 5)])
def test_empty_labels_come_back(tmp_path, shape) -> None:
    write_labels(tmp_path / "a.tif", np.zeros(shape, np.int32), 0.3)
    assert tifffile.imread(tmp_path / "a.tif").shape == shape
    image = read_image(tmp_path / "a.tif")
    assert image.array.shape == shape


@pytest.mark.parametrize("largest", [300, 70000])
@pytest.mark.parametrize("shape", [(3, 9, 8), (2, 3, 9, 8), (1, 3, 9, 8), (3, 9, 1)])
def test_the_step_between_planes_comes_back(tmp_path, largest, shape) -> None:
    # also of many cells, and in shapes that ImageJ does not know
    write_labels(tmp_path / "a.tif", _labels(shape, largest), (2.0, 0.5, 0.25))
    assert read_image(tmp_path / "a.tif").scale_um == pytest.approx(
        {"Z": 2.0, "Y": 0.5, "X": 0.25}, rel=1e-5
    )
    assert read_image(tmp_path / "a.tif").voxel_sides_um == pytest.approx((2.0, 0.5, 0.25))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.uint64, ">i4"])
def test_label_types(tmp_path, dtype) -> None:
    labels = _labels((9, 8), 1, dtype)
    write_labels(tmp_path / "a.tif", labels)
    back = tifffile.imread(tmp_path / "a.tif")
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, labels)


@pytest.mark.parametrize("axes", ["TYX", "ZYX", "YXT", "XTY"])
def test_axes_are_kept(tmp_path, axes) -> None:
    write_labels(tmp_path / "a.tif", _labels((4, 5, 6)), axes=axes)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == axes
    np.testing.assert_array_equal(image.array, _labels((4, 5, 6)))


def test_metadata_is_in_the_file(tmp_path) -> None:
    record = {"schema_version": 1, "model": "nuclei", "µ": [1, None]}
    write_labels(tmp_path / "a.tif", _labels((9, 8)), 0.3, record)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert json.loads(tif.imagej_metadata["Info"]) == record
    write_labels(tmp_path / "b.tif", _labels((1, 9, 8), 70000), 0.3, record)
    with tifffile.TiffFile(tmp_path / "b.tif") as tif:
        assert tif.shaped_metadata[0]["napari-sa2net"] == record


@pytest.mark.parametrize(("shape", "axes"), [((9, 8), "YX"), ((2, 3, 9, 8), "TZYX")])
def test_more_cells_than_uint16_holds_are_in_the_layout_of_imagej(
    tmp_path, shape, axes
) -> None:
    record = {"model": "nuclei"}
    for name, largest in {"a.tif": 300, "b.tif": 70000}.items():
        write_labels(tmp_path / name, _labels(shape, largest), (2.0, 0.5, 0.25), record, axes)
    with (
        tifffile.TiffFile(tmp_path / "a.tif") as few,
        tifffile.TiffFile(tmp_path / "b.tif") as many,
    ):
        assert many.series[0].dtype == np.int32
        assert many.series[0].axes == few.series[0].axes == axes
        few_told, many_told = few.imagej_metadata, many.imagej_metadata
        assert json.loads(many_told["Info"]) == record
        assert many_told == few_told
        for tag in ("XResolution", "YResolution", "ResolutionUnit"):
            assert many.pages[0].tags[tag].value == few.pages[0].tags[tag].value


def test_a_step_that_others_write_beside_the_shape_is_read(tmp_path) -> None:
    step = {"spacing": 500, "unit": "nm", "axes": "ZYX"}
    more = {
        "resolution": (1e4 / 0.25,) * 2,
        "resolutionunit": "CENTIMETER",
        "photometric": "minisblack",
    }
    tifffile.imwrite(tmp_path / "a.tif", _labels((3, 9, 8)), metadata=step, **more)
    scale = read_image(tmp_path / "a.tif").scale_um
    assert scale == pytest.approx({"Z": 0.5, "Y": 0.25, "X": 0.25}, rel=1e-5)
    tifffile.imwrite(tmp_path / "a.tif", _labels((3, 9, 8)), metadata={"spacing": 2}, **more)
    assert "Z" not in read_image(tmp_path / "a.tif").scale_um  # of no known unit


def test_float(tmp_path) -> None:
    maps = np.random.default_rng(0).random((3, 20, 30))
    write_tiff_float(tmp_path / "a.tif", maps, 0.3, axes="CYX")
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.array.dtype) == ("CYX", np.float32)
    np.testing.assert_array_equal(image.array, maps.astype(np.float32))


class Planes:
    """A stack that remembers how much of it was asked for at once."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.largest = 0

    def __getitem__(self, key) -> np.ndarray:
        self.largest = max(self.largest, self.array[key].size)
        return self.array[key]


def test_plane_by_plane(tmp_path) -> None:
    lazy = Planes(_labels((50, 40, 30)))
    write_labels(tmp_path / "a.tif", lazy)
    assert lazy.largest == 40 * 30
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), lazy.array)


@pytest.mark.parametrize("shape", [(6, 20, 1), (3, 2, 20, 1), (6, 1, 20), (6, 1, 1), (20, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_planes_one_pixel_wide_come_back(tmp_path, shape, dtype) -> None:
    labels = _labels(shape).astype(dtype)
    axes = "TZYX"[-len(shape) :]
    write_labels(tmp_path / "a.tif", labels, axes=axes)
    again = read_image(tmp_path / "a.tif")
    assert again.axes == axes
    np.testing.assert_array_equal(again.array, labels)


def test_huge_planes_tile_by_tile(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(write, "MAX_PLANE_PIXELS", 1000)
    monkeypatch.setattr(write, "_TILE", 64)
    lazy = Planes(_labels((2, 200, 100), dtype=np.uint16))
    write_labels(tmp_path / "a.tif", lazy)
    assert lazy.largest <= 64 * 64
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), lazy.array)


def test_dask_and_zarr(tmp_path) -> None:
    labels = _labels((5, 40, 30))
    for lazy in (da.from_array(labels, chunks=16), zarr.create_array({}, data=labels)):
        write_labels(tmp_path / "a.tif", lazy)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((4, 4)),
        np.zeros((4, 4), complex),
        np.full((4, 4), -1),
        np.full((4, 4), 2**31),
        np.zeros(4, int),
    ],
)
def test_what_are_no_labels(tmp_path, labels) -> None:
    with pytest.raises(OutputError):
        write_labels(tmp_path / "a.tif", labels)
    assert not list(tmp_path.iterdir())


def test_wrong_axes(tmp_path) -> None:
    with pytest.raises(AxesError):
        write_labels(tmp_path / "a.tif", np.zeros((4, 4), int), axes="ZYX")


def test_failure_midway_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "a.tif"
    write_labels(path, _labels((4, 4)))
    before = path.read_bytes()

    class Failing(Planes):
        def __getitem__(self, key) -> np.ndarray:
            if key[0] == 3:
                raise OSError("the share is gone")
            return super().__getitem__(key)

    with pytest.raises(ImageError, match="the share is gone"):
        write_labels(path, Failing(_labels((9, 40, 30), dtype=np.uint16)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.tif", tmp_path / "folder"):
        with pytest.raises(OutputError):
            write_labels(path, _labels((4, 4)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("values", "written"),
    [
        (np.array([[True, False]]), np.uint16),
        (np.array([[0, 255]], np.uint8), np.uint16),
        (np.array([[0, 2**16 - 1]], np.uint16), np.uint16),
        (np.array([[0, 2**16 - 1]], np.int64), np.uint16),
        (np.array([[0, 2**16]], np.int64), np.int32),
        (np.array([[0, 2**31 - 1]], np.uint32), np.int32),
        (np.zeros((0, 4), np.int32), np.uint16),
        (np.array([[0, 2**31]], np.uint32), "0 … 2147483648"),
        (np.array([[-1, 5]], np.int8), "-1 … 5"),
        (np.array([[1.0]]), "whole numbers, not float64"),
    ],
)
def test_labels_are_written_as_small_as_they_fit(values, written):
    if isinstance(written, str):
        with pytest.raises(OutputError, match=written):
            label_type(values)
    else:
        assert label_type(values) == written


def test_copies_of_planes_are_halved_until_they_are_small():
    assert pyramid_steps((5, 2048, 2048)) == [1]
    assert pyramid_steps((9000, 10, 10)) == [1]
    assert pyramid_steps((2049, 10)) == [1, 2]
    assert pyramid_steps((10, 4096)) == [1, 2]
    assert pyramid_steps((3, 4097, 9000)) == [1, 2, 4, 8]
