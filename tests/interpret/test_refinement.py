from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net.errors import SettingsError
from napari_sa2net.interpret import refinement
from napari_sa2net.interpret.refinement import (
    band_pixels,
    boundary_pixels,
    contested,
    refinement_table,
)


def disk(shape, centre, radius, label=1) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
    return (inside * label).astype(np.int32)


def outline(mask: np.ndarray) -> np.ndarray:
    """Boundary pixels by the book; the edge of the image is none."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


SHAPE = (60, 70)
SURE = np.zeros(SHAPE, np.float32)


def test_identical_stages_do_not_move():
    labels = disk(SHAPE, (30, 30), 12, 4)
    table = refinement_table({8: labels, 4: labels, 2: labels, 1: labels}, SURE)
    (row,) = table.to_dict("records")
    assert row["label"] == 4
    assert row["history"] == ""
    assert row["refinement_px"] == row["moved_1_max_px"] == row["moved_4_mean_px"] == 0
    assert not any(name.endswith("_um") for name in table)


def test_movement_is_the_distance_to_the_boundary_before():
    before, after = disk(SHAPE, (30, 30), 14, 9), disk(SHAPE, (31, 33), 11, 2)
    table = refinement_table({2: before, 1: after}, SURE, pixel_size_um=0.5)
    distance = ndimage.distance_transform_edt(~outline(before > 0))[outline(after > 0)]
    (row,) = table.to_dict("records")
    assert row["moved_1_mean_px"] == pytest.approx(distance.mean())
    assert row["moved_1_max_px"] == pytest.approx(distance.max())
    assert row["moved_1_mean_um"] == pytest.approx(distance.mean() / 2)
    assert row["refinement_px"] == row["moved_1_mean_px"]
    # Stages that are missing are not made up.
    assert np.isnan(
        [row["moved_4_mean_px"], row["moved_2_max_px"], row["moved_4_max_um"]]
    ).all()


def test_a_neighbour_does_not_lend_its_boundary():
    """An object that shrank away from a neighbour is measured against its own old boundary."""
    before = disk(SHAPE, (30, 20), 14, 1) + disk(SHAPE, (30, 50), 14, 2)
    after = disk(SHAPE, (30, 20), 14, 1) + disk(SHAPE, (30, 46), 5, 2)
    table = refinement_table({2: before, 1: after}, SURE).set_index("label")
    alone = refinement_table({2: (before == 2) * 1, 1: (after == 2) * 1}, SURE)
    assert table.loc[2, "moved_1_mean_px"] == alone.loc[0, "moved_1_mean_px"] > 5
    assert table.loc[1, "moved_1_max_px"] == 0


def test_history_names_splits_merges_and_appearances():
    clump = disk(SHAPE, (20, 20), 10) | disk(SHAPE, (20, 38), 10)
    left, right = disk(SHAPE, (20, 20), 8, 1), disk(SHAPE, (20, 38), 8, 2)
    halves = disk(SHAPE, (48, 30), 9, 5)
    halves[:, 30:][halves[:, 30:] > 0] = 6
    whole, late = disk(SHAPE, (48, 30), 9, 3), disk(SHAPE, (48, 60), 4, 4)
    table = refinement_table(
        {
            8: clump + halves,
            4: left + right + halves,
            2: left + right + whole,
            1: left + right + whole + late,
        },
        SURE,
    ).set_index("label")
    assert table["history"].to_dict() == {
        1: "split at 1/4",
        2: "split at 1/4",
        3: "merged at 1/2",
        4: "appeared at full",
    }
    gone = {8: clump, 4: clump * 0, 2: clump * 0, 1: clump}
    assert refinement_table(gone, SURE)["history"].tolist() == [
        "vanished at 1/4; appeared at full"
    ]
    # The cut is a movement of both, as far as the old outline is from it.
    assert table.loc[[1, 2], "moved_4_max_px"].min() > 4
    assert table.loc[[1, 2], "moved_1_max_px"].max() == 0
    assert np.isnan(table.loc[4, "moved_1_mean_px"])
    assert table.loc[4, "refinement_px"] == 0


def test_of_a_clump_each_object_gets_the_part_that_is_nearest():
    """Two cells in one clump till the end: the clump grew only at the right one."""
    left, right = disk(SHAPE, (30, 20), 10, 1), disk(SHAPE, (30, 42), 10, 2)
    neck = np.zeros(SHAPE, np.int32)
    neck[28:33, 20:42] = 1
    early = ((left + disk(SHAPE, (30, 42), 6) + neck) > 0).astype(np.int32)
    later = ((left + right + neck) > 0).astype(np.int32)
    table = refinement_table({4: early, 2: later, 1: left + right}, SURE).set_index("label")
    assert table.loc[1, "moved_2_max_px"] <= 1
    assert table.loc[2, "moved_2_mean_px"] > 2
    assert (table["history"] == "split at full").all()


def test_contested_is_the_entropy_along_the_boundary():
    labels = disk(SHAPE, (30, 20), 12, 1) + disk(SHAPE, (30, 52), 12, 7)
    foreground = (labels > 0).astype(np.float32)
    near = ndimage.distance_transform_cdt(labels != 7) <= 3  # chessboard steps
    foreground[near & (labels == 0)] = 0.5
    table = refinement_table({1: labels}, foreground).set_index("label")
    assert table.loc[1, "contested"] < 1e-6
    assert 0.3 < table.loc[7, "contested"] < 0.7
    toss_up = np.full(SHAPE, 0.5, np.float32)
    assert refinement_table({1: labels}, toss_up)["contested"].to_numpy() == pytest.approx(1)
    lost = np.full(SHAPE, np.nan, np.float32)
    assert refinement_table({1: labels}, lost)["contested"].max() < 1e-6


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_contested_is_the_same_however_many_rows_are_looked_at_at_once(rows, monkeypatch):
    labels = disk(SHAPE, (30, 12), 12, 1) + disk(SHAPE, (30, 40), 9, 30)
    labels[28:32, 49:55] = 31
    foreground = np.random.default_rng(0).random(SHAPE)
    values = np.array([1, 30, 31])
    whole = contested(labels, foreground, values)
    monkeypatch.setattr(refinement, "_ROWS", rows)
    np.testing.assert_allclose(contested(labels, foreground, values), whole, rtol=1e-12)


def test_band_lies_on_both_sides_and_belongs_to_the_nearest():
    labels = disk(SHAPE, (30, 12), 12, 1) + disk(SHAPE, (30, 40), 9, 30)
    labels[28:32, 49:55] = 31  # touches the second
    position, owner = band_pixels(labels, 3)
    assert len(np.unique(position)) == len(position)
    band = np.zeros(SHAPE, np.int64)
    band.ravel()[position] = owner
    inside = labels > 0
    assert np.array_equal(band[inside & (band > 0)], labels[inside & (band > 0)])
    for label in (1, 30, 31):
        own = labels == label
        # Steps inwards from the boundary pixels, by the book.
        edge = np.zeros(SHAPE, bool)
        edge.ravel()[boundary_pixels(labels)] = True
        reached = edge & own
        for _ in range(2):
            reached |= ndimage.binary_dilation(reached, np.ones((3, 3))) & own
        assert np.array_equal((band == label) & own, reached)
    outside = ~inside & (ndimage.distance_transform_cdt(~inside) <= 3)
    assert np.array_equal((band > 0) & ~inside, outside)


def test_the_edge_of_the_image_is_no_boundary():
    half = disk(SHAPE, (30, 0), 12, 1)
    columns = boundary_pixels(half) % SHAPE[1]
    assert columns.max() == 12
    assert (columns > 0).sum() >= columns.size - 2  # the two where the outline meets the edge
    everything = np.ones(SHAPE, np.int32)
    (row,) = refinement_table({2: everything, 1: everything}, SURE).to_dict("records")
    assert np.isnan(row["moved_1_mean_px"])
    assert np.isnan(row["contested"])
    assert row["refinement_px"] == 0


def test_odd_labels():
    none = np.zeros(SHAPE, np.int32)
    table = refinement_table({8: none, 4: none, 2: none, 1: none}, SURE, 0.3)
    assert len(table) == 0
    assert {"label", "moved_4_mean_um", "history", "contested"} <= set(table)
    assert table["label"].dtype == np.int64
    dots = none.copy()
    dots[0, 0] = dots[59, 69] = 2_000_000_000
    dots[10, 10] = 5
    table = refinement_table({2: none, 1: dots}, SURE)
    assert table["label"].tolist() == [5, 2_000_000_000]
    assert (table["history"] == "appeared at full").all()
    table = refinement_table({2: dots, 1: dots}, SURE)
    assert table["moved_1_max_px"].tolist() == [0, 0]
    empty = np.zeros((0, 0), np.int32)
    assert len(refinement_table({2: empty, 1: empty}, empty.astype(float))) == 0


def test_numbering_and_order_do_not_matter():
    rng = np.random.default_rng(0)
    stages = {}
    for stride in (8, 4, 2, 1):
        noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3)
        stages[stride] = ndimage.label(noise > 0)[0].astype(np.int32)
    foreground = rng.random(SHAPE).astype(np.float32)
    table = refinement_table(stages, foreground)
    other = {}
    for stride, labels in stages.items():
        number = rng.permutation(np.arange(1, labels.max() + 1)) * 3
        other[stride] = np.concatenate([[0], number])[labels]
    again = refinement_table(dict(reversed(other.items())), foreground)
    number = {int(a): int(b) for a, b in zip(stages[1].ravel(), other[1].ravel(), strict=True)}
    again = again.set_index("label").loc[[number[label] for label in table["label"]]]
    for name in set(table) - {"label", "history"}:
        if name != "contested":  # of a pixel between two, the higher label has it
            assert np.allclose(table[name], again[name].to_numpy(), equal_nan=True)
    assert table["history"].tolist() == again["history"].tolist()


@pytest.mark.parametrize("stages", [{}, {8: SURE.astype(int)}, {1: SURE.astype(int), 3: SURE}])
def test_stages_that_do_not_fit_are_refused(stages):
    with pytest.raises(SettingsError):
        refinement_table(stages, SURE)


def test_shapes_that_do_not_fit_are_refused():
    labels = np.zeros(SHAPE, np.int32)
    with pytest.raises(SettingsError):
        refinement_table({2: labels[1:], 1: labels}, SURE)
    with pytest.raises(SettingsError):
        refinement_table({1: labels}, SURE[1:])


def test_time_grows_with_the_image_not_with_the_objects():
    """Hundreds of objects in one clump before: no object looks at all of the others."""
    grid = np.kron(np.arange(1, 401).reshape(20, 20), np.pad(np.ones((16, 16)), 2)).astype(int)
    blob = np.ones_like(grid)
    blob[0] = blob[-1] = 0
    foreground = np.zeros(grid.shape, np.float32)

    def seconds(stages) -> float:
        start = time.process_time()
        refinement_table(stages, foreground)
        return time.process_time() - start

    plain = min(seconds({4: grid, 2: grid, 1: grid}) for _ in range(2))
    clump = min(seconds({4: grid, 2: blob, 1: grid}) for _ in range(2))
    assert clump < 20 * plain
