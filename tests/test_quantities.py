"""Groups of measurements: against scikit-image, by hand, and tile by tile."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage.measure import label, marching_cubes, mesh_surface_area, regionprops_table

from napari_sa2net import quantities
from napari_sa2net.errors import SettingsError
from napari_sa2net.measure import object_table
from napari_sa2net.quantities import (
    GROUPS,
    Quantities,
    checked_groups,
    measure_groups,
)


def blobs(seed: int, shape: tuple[int, ...] = (160, 200), level: float = 0.05) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return label(field > level).astype(np.int32)


def specks(seed: int) -> np.ndarray:
    """Objects in many pieces, of single pixels and lines, some at the edge."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 30, (70, 90)).astype(np.int32)
    labels[rng.random(labels.shape) < 0.7] = 0
    labels[labels == 7] = 0
    labels[0, 0] = 7
    labels[-1, 20:40] = 50
    labels[30:50, 30] = 51
    return labels


def table(labels: np.ndarray, image: Any = None, axes: str = "", **sizes: Any) -> pd.DataFrame:
    return object_table(labels, image=image, stack_axes=axes, groups=GROUPS, **sizes)


OURS = {
    "equivalent_diameter_area": "equivalent_diameter_{}",
    "axis_major_length": "major_axis_{}",
    "axis_minor_length": "minor_axis_{}",
    "solidity": "solidity",
    "feret_diameter_max": "feret_max_{}",
}
FLAT = {"eccentricity": "eccentricity", "orientation": "orientation_deg"}


@pytest.mark.parametrize("tile", [1024, 48])
@pytest.mark.parametrize("spacing", [None, (0.5, 0.5), (0.6, 0.25)])
@pytest.mark.parametrize("make", [blobs, specks])
def test_equal_to_scikit_image(
    make: Any, spacing: Any, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantities, "TILE", tile)
    monkeypatch.setattr(quantities, "_HULLS", tile)
    labels = make(0)
    image = np.random.default_rng(1).normal(1000, 5, (*labels.shape, 2))
    got = table(labels, image, pixel_size_um=spacing)
    ours = {**OURS, **FLAT}
    if spacing is None or spacing[0] == spacing[1]:
        ours["perimeter"] = "perimeter_{}"
    intensities = ["mean", "std", "min", "max"]
    names = [*ours, *(f"intensity_{name}" for name in intensities)]
    want = regionprops_table(labels, image, properties=["label", *names], spacing=spacing)
    assert got["label"].tolist() == want["label"].tolist()
    assert len(got) > 25
    unit = "px" if spacing is None else "um"
    for theirs, name in ours.items():
        values, other = got[name.format(unit)].to_numpy(), want[theirs]
        if theirs == "orientation":
            sure = want["eccentricity"] > 0.05
            # both ends of the scale are the same direction
            away = np.abs(values - np.degrees(other))[sure]
            assert np.minimum(away, 180 - away).max() < 1e-6
        else:
            np.testing.assert_allclose(values, other, rtol=1e-6, atol=1e-6, err_msg=theirs)
    for name in intensities:
        for channel in range(2):
            np.testing.assert_allclose(
                got[f"{name}_ch{channel}"], want[f"intensity_{name}-{channel}"], rtol=1e-9
            )
    total = got["mean_ch1"] * got["area_px"]
    np.testing.assert_allclose(got["sum_ch1"], total)


@pytest.mark.parametrize("tile", [1024, 20])
def test_equal_in_depth(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantities, "TILE", tile)
    labels = blobs(3, (14, 50, 60), 0.08)
    sizes = np.bincount(labels.ravel())
    labels[sizes[labels] < 60] = 0  # scikit-image has no hull of flat ones
    image = np.random.default_rng(2).random(labels.shape)
    spacing = (2.0, 0.5, 0.25)
    got = table(labels, image, "Z", pixel_size_um=spacing[1:], z_step_um=spacing[0])
    want = regionprops_table(
        labels, image, properties=["label", "area", *OURS, "intensity_mean"], spacing=spacing
    )
    assert len(got) > 5
    np.testing.assert_allclose(got["volume_um3"], want["area"])
    np.testing.assert_allclose(got["mean_ch0"], want["intensity_mean"])
    for theirs, name in OURS.items():
        np.testing.assert_allclose(
            got[name.format("um")], want[theirs], rtol=1e-6, err_msg=theirs
        )
    for row in got.itertuples():
        solid = np.pad(labels == row.label, 1)
        vertices, faces, _, _ = marching_cubes(solid, 0.5, spacing=spacing)
        assert row.surface_um2 == pytest.approx(mesh_surface_area(vertices, faces))
    assert (got["sphericity"] < 1.01).all()
    assert not {"perimeter_um", "circularity", "orientation_deg"} & set(got)


def test_perimeter_of_pixels_that_are_not_square() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[4:10, 5:21] = 1  # its outermost pixels go 5 steps down and 15 across
    row = table(labels, pixel_size_um=(2.0, 0.5)).iloc[0]
    assert row.perimeter_um == pytest.approx(2 * (5 * 2.0 + 15 * 0.5))
    assert row.circularity == pytest.approx(4 * np.pi * 96 / row.perimeter_um**2)


def test_single_pixels() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[4, 4], labels[0, 0] = 1, 2
    got = table(labels)
    assert got["feret_max_px"].tolist() == [1, 1]
    assert got["solidity"].tolist() == [1, 1]
    assert got["perimeter_px"].tolist() == [0, 0]
    assert got["circularity"].isna().all()
    depth = table(np.stack([labels, 0 * labels]), axes="Z")
    assert depth["solidity"].tolist() == [1, 1]
    assert depth["feret_max_px"].tolist() == [1, 1]


def test_hull_of_a_body_that_is_its_own_hull() -> None:
    """Rows along x about a round cross-section: rows at its corners are not in the hull."""
    z, y = np.indices((9, 9)) - 4
    stack = np.zeros((11, 11, 14), np.int32)
    stack[1:10, 1:10, 2:12][np.abs(z) + np.abs(y) <= 4] = 1
    row = table(stack, axes="Z").iloc[0]
    assert row.solidity == 1
    assert row.volume_voxels == 41 * 10


@pytest.mark.parametrize("tile", [1024, 30])
def test_ring_of_background(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantities, "TILE", tile)
    labels = blobs(5, (80, 90), 0.25)
    image = np.random.default_rng(3).random((80, 90))
    image[10, 10] = np.nan
    got = table(labels, image)
    for row in got.itertuples():
        away = ndimage.distance_transform_edt(labels != row.label)
        ring = (away > 2) & (away <= 2 + 5) & (labels == 0)
        want = np.nanmean(image[ring]) if ring.any() else np.nan
        np.testing.assert_allclose(row.background_ch0, want)
    full = np.ones((20, 20), np.int32)
    assert table(full, full)["background_ch0"].isna().all()


def test_neighbours_and_contact() -> None:
    labels = np.zeros((12, 12), np.int32)
    labels[2:6, 2:6], labels[2:6, 6:10], labels[6:8, 2:4] = 1, 2, 3
    labels[8, 4] = 4  # touches the corner of 3 only
    got = table(labels, pixel_size_um=(2.0, 0.5)).set_index("label")
    assert got["neighbours"].tolist() == [2, 1, 1, 0]
    assert got["contact_um"].tolist() == [4 * 2 + 2 * 0.5, 4 * 2, 2 * 0.5, 0]
    assert got.loc[1, "contact_fraction"] == pytest.approx(9 / (8 * 2 + 8 * 0.5))
    # a face to the next plane is a contact, too
    stack = np.zeros((3, 6, 6), np.int32)
    stack[0, 1:3, 1:3], stack[1, 1:3, 1:4] = 1, 2
    deep = table(stack, axes="Z", pixel_size_um=0.5, z_step_um=3).set_index("label")
    assert deep["neighbours"].tolist() == [1, 1]
    assert deep["contact_um2"].tolist() == [1, 1]
    assert deep.loc[1, "contact_fraction"] == pytest.approx(1 / (2 * 1 + 8 * 1.5))
    # no cell touches another at another time
    apart = table(stack, axes="T").set_index("label")
    assert apart["neighbours"].tolist() == [0, 0]


def test_over_time_shapes_are_means_by_area() -> None:
    movie = np.zeros((2, 20, 20), np.int32)
    movie[0, 2:12, 2:12], movie[1, 2:12, 2:6] = 1, 1
    one, two = (table(plane).iloc[0] for plane in movie)
    both = table(movie, axes="T").iloc[0]
    for name in ("perimeter_px", "solidity", "feret_max_px", "major_axis_px"):
        want = (100 * one[name] + 40 * two[name]) / 140
        assert both[name] == pytest.approx(want), name


@pytest.mark.parametrize("axes", ["", "T", "Z", "TZ"])
def test_no_cells_have_the_same_columns(axes: str) -> None:
    shape = (*(2,) * len(axes), 9, 9)
    image = np.zeros(shape)
    none = table(np.zeros(shape, np.int32), image, axes, pixel_size_um=1)
    some = table(np.ones(shape, np.int32), image, axes, pixel_size_um=1)
    assert dict(none.dtypes) == dict(some.dtypes)
    assert len(none) == 0


def test_groups_by_name() -> None:
    assert checked_groups(None) == ("shape",)
    assert checked_groups("none") == ()
    assert checked_groups(["neighbours", "shape"]) == ("shape", "neighbours")
    with pytest.raises(SettingsError, match="shape, intensity, neighbours"):
        checked_groups(["texture"])
    labels = blobs(0)
    names = {group: set(object_table(labels, image=labels, groups=[group])) for group in GROUPS}
    basic = set(object_table(labels))
    assert not (names["shape"] - basic) & (names["intensity"] - basic)
    assert set(table(labels, labels)) == set().union(*names.values())


def test_memory_does_not_grow_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantities, "TILE", 512)
    side, height = 40, 4_000
    cell = np.zeros((side, side), np.int32)
    cell[5:35, 5:35] = 1

    class Tall:
        """So many rows of cells as one asks for, made when they are read."""

        def __call__(self, index: Any, rows: slice, columns: slice) -> np.ndarray:
            y, x = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
            inside = cell[y % side][:, x % side]
            return inside * ((y // side)[:, None] * 1000 + x // side + 1)

    tracemalloc.start()
    wanted = Quantities(GROUPS, (height, 400), n_channels=1)
    found = measure_groups(wanted, Tall(), lambda *at: Tall()(*at)[..., None] % 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found["label"]) == height // side * 10
    assert (found["feret_max_px"] == found["feret_max_px"][0]).all()
    assert peak < height * 400 * 8 * 1.5  # no copies of the image: a tile, and sums
