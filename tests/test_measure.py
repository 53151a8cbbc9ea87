"""The object table against scikit-image, by hand, and over stacks."""

from __future__ import annotations

import time

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from skimage.measure import label, regionprops

from napari_sa2net import quantities
from napari_sa2net.errors import SettingsError
from napari_sa2net.measure import empty_table, many_doubtful, object_table, offset_labels


def blobs(seed=0, shape=(60, 80)):
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return label(field > 0.05).astype(np.int32)


@pytest.fixture
def image():
    return np.random.default_rng(5).random((60, 80))


def test_equal_to_regionprops(image):
    labels = blobs()
    table = object_table(labels, image=image, pixel_size_um=(0.5, 0.25))
    regions = regionprops(labels, image)
    in_um = regionprops(labels, spacing=(0.5, 0.25))
    assert len(table) == len(regions) > 10
    for row, region, scaled in zip(table.itertuples(), regions, in_um, strict=True):
        y, x = region.centroid
        assert row.label == region.label
        assert row.area_px == region.area
        assert row.area_um2 == pytest.approx(region.area * 0.125)
        assert row.diameter_px == pytest.approx(region.equivalent_diameter_area)
        assert row.eccentricity == pytest.approx(scaled.eccentricity, abs=1e-6)
        assert row.mean_intensity == pytest.approx(region.intensity_mean)
        assert (row.centroid_y, row.centroid_x) == pytest.approx((y, x))
        top, left, bottom, right = region.bbox
        assert row.touches_border == (top == 0 or left == 0 or bottom == 60 or right == 80)
    assert table["touches_border"].any()
    assert not table["touches_border"].all()


def test_gaps_and_huge_labels_give_the_same_rows(image):
    labels = blobs()
    plain = object_table(labels, image=image)
    sparse = np.where(labels > 0, labels.astype(np.int64) * 10**9 + 7, 0)
    table = object_table(sparse, image=image)
    assert np.array_equal(table["label"], plain["label"] * 10**9 + 7)
    pd.testing.assert_frame_equal(table.drop(columns="label"), plain.drop(columns="label"))


def test_single_pixels_and_lines():
    labels = np.zeros((5, 9), int)
    labels[2, 2] = 1
    labels[4, 3:8] = 2
    table = object_table(labels)
    assert table["eccentricity"].tolist() == [0, 1]
    assert table["diameter_px"][0] == pytest.approx(np.sqrt(4 / np.pi))
    assert table["touches_border"].tolist() == [False, True]


def test_unknown_is_nan():
    table = object_table(blobs())
    assert table[["area_um2", "mean_intensity", "confidence"]].isna().all().all()


def test_channels_are_averaged_and_holes_in_the_data_left_out():
    labels = np.array([[1, 1, 0, 2]])
    rgb = np.array([[[1, 2, 3], [4, 5, 6], [0, 0, 0], [7, 7, 7]]], np.uint8)
    assert object_table(labels, image=rgb)["mean_intensity"].tolist() == [3.5, 7]
    holes = np.array([[np.nan, 4.0, 0, np.inf]])
    means = object_table(labels, image=holes)["mean_intensity"]
    assert means[0] == 4
    assert np.isnan(means[1])


# --- confidence ------------------------------------------------------------------------


def square(inside, outside):
    labels = np.zeros((12, 12), int)
    labels[4:8, 4:8] = 1
    return labels, np.where(labels > 0, inside, outside).astype(np.float32)


def confidence(inside, outside):
    return object_table(*square(inside, outside))["confidence"][0]


def test_confidence_is_the_probability_where_it_is_surest():
    assert confidence(1, 0) == 1
    assert confidence(0.6, 0) == pytest.approx(0.6)
    labels, probability = square(0.5, 0)
    probability[5:7, 5:7] = 0.9  # 4 of 16 px
    weights = np.array([0.9] * 4 + [0.5] * 12)
    found = object_table(labels, probability)["confidence"][0]
    assert found == pytest.approx((weights**9).sum() / (weights**8).sum())
    assert found > 0.88


def test_a_wider_outline_hardly_changes_the_confidence():
    labels, probability = square(0.95, 0.3)
    wide = np.zeros_like(labels)
    wide[3:9, 3:9] = 1
    narrow, other = (object_table(one, probability)["confidence"][0] for one in (labels, wide))
    assert narrow == pytest.approx(0.95)
    assert other == pytest.approx(narrow, abs=0.001)


def test_what_lies_outside_says_nothing_of_the_confidence():
    assert confidence(0.9, 0) > confidence(0.7, 0)
    assert confidence(0.9, 0) == confidence(0.9, 0.4)
    labels, probability = square(1, 0)
    labels[4:8, 8:11] = 2
    probability[4:8, 8:11] = 0.5
    assert object_table(labels, probability)["confidence"].tolist() == [1, 0.5]


def test_an_object_where_there_is_no_foreground_at_all():
    assert confidence(0, 1) == 0
    assert confidence(1e-30, 1) == pytest.approx(1e-30)
    assert confidence(1e-300, 1) == 0


def test_confidence_stays_between_0_and_1():
    labels = blobs()
    wild = np.random.default_rng(0).normal(0.5, 3, labels.shape)
    wild[::7] = np.nan
    found = object_table(labels, wild)["confidence"]
    assert found.between(0, 1).all()


# --- empty -----------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axes"), [((5, 5), ""), ((0, 5), ""), ((0, 5, 5), "Z")])
def test_without_objects_columns_and_dtypes_are_the_same(shape, axes):
    empty = object_table(np.zeros(shape, np.int32), pixel_size_um=1, stack_axes=axes)
    filled = object_table(np.ones((1,) * len(axes) + (5, 5), np.int32), stack_axes=axes)
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == filled.dtypes.to_dict()
    pd.testing.assert_frame_equal(empty, empty_table(axes))


# --- tiles -----------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["", "Z"])
def test_tile_by_tile_is_as_the_whole(image, axes, monkeypatch):
    labels = blobs()
    labels[20:40, 10:70] = 900  # over many tiles
    probability = np.random.default_rng(1).random(labels.shape)
    arrays = [labels, probability, image]
    if axes:
        arrays = [np.stack([one, np.roll(one, 7, axis=1)]) for one in arrays]
    labels, probability, image = arrays
    settings = {"pixel_size_um": (0.5, 0.25), "stack_axes": axes, "boxes": True}
    whole = object_table(labels, probability, image, **settings)
    monkeypatch.setattr(quantities, "TILE", 16)
    tiled = object_table(labels, probability, image, **settings)
    pd.testing.assert_frame_equal(tiled, whole, rtol=1e-9)


class Parts:
    """Cells of a plane that are made as they are read, and how much was read at once."""

    def __init__(self, shape, dtype=np.int32):
        self.shape, self.dtype, self.most = shape, np.dtype(dtype), 0

    def __getitem__(self, key):
        y, x = (np.arange(*part.indices(n)) for part, n in zip(key, self.shape, strict=True))
        self.most = max(self.most, y.size * x.size)
        inside = (y[:, None] % 40 > 4) & (x % 40 > 4)
        return (inside * ((y // 40)[:, None] * 1000 + x // 40 + 1)).astype(self.dtype)


def test_a_large_plane_is_read_in_parts():
    side = 2200
    labels, image = Parts((side, side)), Parts((side, side), np.float32)
    table = object_table(labels, image=image, groups=("intensity",))
    assert len(table) == (side // 40) ** 2
    assert (table["area_px"] == 35**2).all()
    assert (table["mean_intensity"] == table["label"]).all()
    most = (quantities.TILE + 2 * quantities.MARGIN) ** 2
    assert max(labels.most, image.most) <= most


# --- stacks ----------------------------------------------------------------------------


def test_planes_of_a_stack_are_measured_one_by_one():
    first, second = blobs(0), blobs(1)
    stack = np.stack([first, offset_labels(second, int(first.max()))])[None]
    table = object_table(stack, stack_axes="TZ", image=stack.astype(float))
    assert list(table.columns[:5]) == ["label", "t", "z", "planes", "area_px"]
    assert (table["t"] == 0).all()
    assert (table["planes"] == 1).all()
    assert np.array_equal(table["mean_intensity"], table["label"])
    for z, plane in enumerate((first, second)):
        alone = object_table(plane)
        rows = table[table["z"] == z].reset_index(drop=True)
        columns = ["area_px", "eccentricity", "centroid_y", "touches_border"]
        pd.testing.assert_frame_equal(rows[columns], alone[columns])


def test_a_linked_cell_is_one_row():
    stack = np.zeros((3, 20, 20), int)
    stack[1, 5:15, 5:15] = 4
    stack[2, 5:15, 6:12] = 4
    stack[0, 0, 0] = 2
    probability = np.where(stack > 0, 0.5, 0)
    table = object_table(stack, probability, pixel_size_um=2, stack_axes="Z")
    assert table["label"].tolist() == [2, 4]
    cell = table.iloc[1]
    assert (cell["z"], cell["planes"], cell["area_px"], cell["area_um2"]) == (1, 2, 160, 640)
    assert cell["diameter_px"] == pytest.approx(np.sqrt(4 / np.pi * 80))
    assert cell["centroid_x"] == pytest.approx((100 * 9.5 + 60 * 8.5) / 160)
    assert cell["confidence"] == pytest.approx(0.5)
    assert table["touches_border"].tolist() == [True, False]


def test_a_cell_in_depth_has_a_volume_and_a_depth():
    stack = np.zeros((4, 20, 20), int)
    stack[1, 5:15, 5:15] = 1
    stack[2, 5:15, 6:12] = 1
    stack[3, 0:2, 0:2] = 9
    table = object_table(stack, pixel_size_um=(0.5, 0.25), stack_axes="Z", z_step_um=2)
    assert table["volume_voxels"].tolist() == [160, 4]
    np.testing.assert_allclose(table["volume_um3"], [160 * 0.25, 4 * 0.25])
    np.testing.assert_allclose(table["centroid_z"], [(100 * 1 + 60 * 2) / 160, 3])
    assert table["planes"].tolist() == [2, 1]
    # a size that is unknown gives no volume in µm³, but the voxels all the same
    for sizes in ({"pixel_size_um": 1}, {"z_step_um": 1}):
        table = object_table(stack, stack_axes="Z", **sizes)
        assert table["volume_um3"].isna().all()
        assert table["volume_voxels"].tolist() == [160, 4]
    # time is no depth
    assert not {"volume_voxels", "centroid_z"} & set(object_table(stack, stack_axes="T"))


def test_lazy_stacks_are_read():
    stack = np.stack([blobs(0), blobs(0)])
    lazy = da.from_array(stack, chunks=(1, 30, 40))
    table = object_table(lazy, lazy > 0, lazy, stack_axes="T")
    pd.testing.assert_frame_equal(table, object_table(stack, stack > 0, stack, stack_axes="T"))
    assert (table["confidence"] == 1).all()


def test_offset_labels():
    labels = np.array([[0, 1], [3, 0]], np.uint8)
    moved = offset_labels(labels, 300)
    assert moved.dtype == np.int32
    assert moved.tolist() == [[0, 301], [303, 0]]
    with pytest.raises(SettingsError, match="2147483647"):
        offset_labels(labels, 2**31 - 2)


# --- refused, speed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"labels": np.zeros((4, 4))}, "whole numbers"),
        ({"labels": np.zeros((2, 4, 4), int)}, "stack axes"),
        ({"labels": np.zeros((4, 4), int), "stack_axes": "Z"}, "stack axes"),
        ({"labels": np.zeros((4, 4), int), "probability_fg": np.zeros((4, 5))}, "probability"),
        ({"labels": np.zeros((4, 4), int), "image": np.zeros((3, 4, 4))}, "image"),
        ({"labels": np.zeros((4, 4), int), "pixel_size_um": 0}, "positive"),
        ({"labels": np.zeros((4, 4), int), "pixel_size_um": (1, 2, 3)}, "pixel size"),
        ({"labels": np.zeros((4, 4), int), "pixel_size_um": float("nan")}, "positive"),
    ],
)
def test_what_does_not_fit_is_refused(kwargs, says):
    with pytest.raises(SettingsError, match=says):
        object_table(**kwargs)


def test_hundreds_of_objects_are_measured_at_once():
    cell = np.zeros((44, 44), int)
    cell[10:34, 10:34] = 1
    labels = np.tile(cell, (23, 23))
    labels[labels > 0] = label(labels)[labels > 0]
    assert labels.max() == 529
    image = labels.astype(np.float32)
    one = np.where(labels == 265, 1, 0)

    def seconds(labels):
        start = time.process_time()
        object_table(labels, labels > 0, image)
        return time.process_time() - start

    assert len(object_table(labels, labels > 0, image)) == 529
    # as if each were looked for in the whole image, it would be hundreds of times as long
    many, few = (min(seconds(labels) for _ in range(3)) for labels in (labels, one))
    assert many < 60 * few


@pytest.mark.parametrize(
    ("confidence", "doubtful"),
    [
        ([], False),
        ([np.nan], False),
        ([0.93], True),
        ([0.94], False),
        ([0.1, 0.95, 0.97], False),
        ([0.1, 0.2, 0.97], True),
        ([0.9, 0.97], True),
        ([0.91, np.nan, 0.98, np.nan, np.nan], False),
    ],
)
def test_cells_are_doubtful_where_the_median_is(confidence, doubtful):
    assert many_doubtful(np.array(confidence)) is doubtful
