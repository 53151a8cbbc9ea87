from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net.errors import SettingsError
from napari_sa2net.interpret.maps import sample_grid
from napari_sa2net.interpret.objects import (
    REACH,
    gate_columns,
    inspect_object,
    mean_gates,
)
from napari_sa2net.interpret.refinement import refinement_table

SHAPE = (80, 90)


def disk(centre, radius, label=1) -> np.ndarray:
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
    return (inside * label).astype(np.int32)


def map_of(function, stride: float, shape=SHAPE, offset=(0.0, 0.0)) -> SimpleNamespace:
    """A map of a function of image y, x on a grid of that many pixels."""
    n = [int(np.ceil(size / stride)) for size in shape]
    at = (stride - 1) / 2
    ys, xs = (np.arange(k) * stride + at + o for k, o in zip(n, offset, strict=True))
    values = np.broadcast_to(function(ys[:, None], xs[None]), n).astype(np.float32)
    translate = (at + offset[0], at + offset[1])
    return SimpleNamespace(values=values, scale=(stride, stride), translate=translate)


def ramp(y, x):
    return 0.25 * y + 2.0 * x + 1


@pytest.mark.parametrize("stride", [1, 2, 4, 2.5])
def test_sampling_is_exact_for_a_plane_and_keeps_to_the_edge(stride):
    one = map_of(ramp, stride)
    ys, xs = np.array([20, 31, 5]), np.array([7, 40, 60])
    grid = sample_grid(one, ys, xs)
    assert grid == pytest.approx(ramp(ys[:, None], xs), rel=1e-5)
    far = sample_grid(one, np.array([-5, 500]), np.array([-5, 500]))
    assert np.diag(far) == pytest.approx([one.values[0, 0], one.values[-1, -1]])


def test_a_map_of_one_pixel_and_an_empty_one():
    dot = SimpleNamespace(values=np.full((1, 1), 3.0), scale=(16.0, 16.0), translate=(7.5, 7.5))
    assert sample_grid(dot, np.array([0, 15]), np.array([3, 9])).tolist() == [[3, 3]] * 2
    none = SimpleNamespace(values=np.zeros((0, 0)), scale=(4.0, 4.0), translate=(1.5, 1.5))
    assert np.isnan(sample_grid(none, np.arange(2), np.arange(3))).all()


def test_gates_are_means_in_each_object():
    labels = disk((30, 30), 9, 3) + disk((60, 70), 6, 800)
    maps = {"scale_gate_1": map_of(ramp, 4), "scale_gate_3": map_of(lambda y, x: y * 0 - 2, 4)}
    table = gate_columns(labels, maps).set_index("label")
    assert table.index.tolist() == [3, 800]
    assert table["scale_gate_1"].to_numpy() == pytest.approx([ramp(30, 30), ramp(60, 70)])
    assert table["scale_gate_3"].to_numpy() == pytest.approx([-2, -2])
    assert table["scale_gate_2"].isna().all()
    assert len(gate_columns(np.zeros(SHAPE, np.int32), maps)) == 0
    assert mean_gates(maps)[2] == -2


def test_a_window_counts_in_the_image():
    labels = disk((30, 30), 9, 1)
    maps = {"scale_gate_1": map_of(ramp, 4, offset=(100, 200)), "aua_2": map_of(ramp, 2)}
    found = inspect_object(labels, 1, maps, {}, origin=(100, 200))
    assert found.gates[0] == pytest.approx(ramp(130, 230))
    assert found.centre == pytest.approx((130, 230))


def test_profile_is_psi_by_distance():
    labels = disk((40, 45), 20, 5)
    distance = np.where(
        labels > 0,
        1 - ndimage.distance_transform_edt(labels),
        ndimage.distance_transform_edt(labels == 0),
    )
    ones = SimpleNamespace(values=distance, scale=(1.0, 1.0), translate=(0.0, 0.0))
    found = inspect_object(labels, 5, {"aua_1": ones}, {})
    assert found.distances.tolist() == list(range(-12, 13))
    assert set(found.profiles) == {1}
    assert found.profiles[1] == pytest.approx(found.distances, abs=0.3)
    assert found.profiles[1][REACH] == pytest.approx(0, abs=0.15)
    assert found.profiles[1].dtype == np.float32


def test_a_neighbours_side_is_left_out():
    labels = disk((40, 30), 12, 1) + disk((40, 60), 12, 2)  # 5 px of background between
    psi = SimpleNamespace(
        values=(np.arange(90)[None] > 45).repeat(80, 0).astype(float),
        scale=(1.0, 1.0),
        translate=(0.0, 0.0),
    )
    profiles = inspect_object(labels, 1, {"aua_1": psi}, {}).profiles
    assert np.nanmax(profiles[1]) == 0  # all that is 1 is nearer to the neighbour
    touching = disk((40, 30), 12, 1)
    touching[:, 31:][touching[:, 31:] > 0] = 2
    touching[touching == 1] = 3
    profiles = inspect_object(touching, 3, {"aua_1": psi}, {}).profiles
    assert np.isfinite(profiles[1][REACH - 3 : REACH + 4]).all()


def test_small_border_and_filling_objects():
    maps = {"aua_4": map_of(ramp, 4), "scale_gate_1": map_of(ramp, 4)}
    dot = np.zeros(SHAPE, np.int32)
    dot[0, 0] = 9
    found = inspect_object(dot, 9, maps, {2: dot * 0})
    assert np.isnan(found.profiles[4][:REACH]).all()
    assert np.isfinite(found.profiles[4][REACH:]).all()
    assert found.history[-1].event == "appeared"
    assert found.history[0].n_objects_overlapping == 0
    assert found.thumbnail.shape == found.outline.shape
    assert np.isnan(found.gates[1:]).all()
    everything = np.ones(SHAPE, np.int32)
    found = inspect_object(everything, 1, maps, {})
    assert np.isnan(found.profiles[4]).all()
    assert [step.stride for step in found.history] == [1]
    assert not found.outline.any()


def test_history_is_the_tables():
    rng = np.random.default_rng(4)
    stages = {}
    for stride, sigma in ((8, 5), (4, 4), (2, 3), (1, 3)):
        noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), sigma)
        stages[stride] = ndimage.label(noise > 0.02)[0].astype(np.int32)
    table = refinement_table(stages, np.zeros(SHAPE, np.float32)).set_index("label")
    assert len(table) > 5
    for label, row in table.iterrows():
        steps = inspect_object(stages[1], int(label), {}, stages).history
        assert [step.stride for step in steps] == [8, 4, 2, 1]
        for step in steps[1:]:
            assert step.mean_move_px == pytest.approx(
                row[f"moved_{step.stride}_mean_px"], nan_ok=True
            )
            assert step.max_move_px == pytest.approx(
                row[f"moved_{step.stride}_max_px"], nan_ok=True
            )
            assert step.event in row["history"]
        assert steps[-1].n_objects_overlapping == 1
        assert steps[-1].area_px == (stages[1] == label).sum()


def test_edited_labels_take_the_place_of_the_last_stage():
    before = disk((40, 45), 20, 1)
    edited = before.copy()
    edited[:, 45:][edited[:, 45:] > 0] = 2
    found = inspect_object(edited, 2, {}, {2: before, 1: before})
    assert found.history[-1].event == "split"
    assert found.history[-1].area_px == (edited == 2).sum()
    assert found.by_hand


def test_what_was_drawn_by_hand_is_told_from_what_the_network_made():
    made = disk((40, 25), 10, 1) + disk((40, 65), 10, 2)
    edited = disk((40, 25), 10, 7) + disk((40, 65), 9, 2) + disk((70, 45), 5, 9)
    assert not inspect_object(edited, 7, {}, {1: made}).by_hand  # another number only
    assert inspect_object(edited, 2, {}, {1: made}).by_hand  # smaller
    assert inspect_object(edited, 9, {}, {1: made}).by_hand  # drawn
    assert not inspect_object(edited, 9, {}, {2: made}).by_hand  # nothing to compare with
    assert not inspect_object(made, 1, {}, {1: made}).by_hand


def test_thumbnails():
    labels = disk((40, 45), 20, 5)
    gray = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
    found = inspect_object(labels, 5, {}, {}, gray)
    assert found.thumbnail.shape == found.outline.shape == (61, 61)
    assert found.thumbnail.dtype == np.float32
    assert (found.thumbnail.min(), found.thumbnail.max()) == (0, 1)
    colour = np.zeros((*SHAPE, 3), np.uint8)
    colour[..., 1] = 51
    found = inspect_object(labels, 5, {}, {}, colour)
    assert found.thumbnail[0, 0].tolist() == pytest.approx([0, 0.2, 0])
    flat = np.full(SHAPE, np.nan, np.float32)
    assert not inspect_object(labels, 5, {}, {}, flat).thumbnail.any()
    huge = np.ones((30, 600), np.int32)
    assert max(inspect_object(huge, 1, {}, {}).thumbnail.shape) <= 256
    with pytest.raises(SettingsError, match="same pixels"):
        inspect_object(labels, 5, {}, {}, gray[1:])


@pytest.mark.parametrize(
    ("centre", "radius", "width"), [((40, 45), 5, 1), ((40, 45), 38, 2), ((2, 88), 6, 1)]
)
def test_the_ring_lies_around_the_object_in_the_image(centre, radius, width):
    labels = disk(centre, radius, 5)
    found = inspect_object(labels, 5, {}, {}, origin=(100, 200))
    y0, y1, x0, x1 = found.ring_box
    assert found.ring.shape == (y1 - y0, x1 - x0)
    whole = np.zeros(SHAPE, np.uint8)
    whole[y0 - 100 : y1 - 100, x0 - 200 : x1 - 200] = found.ring
    steps = ndimage.distance_transform_cdt(labels != 5, "taxicab")
    np.testing.assert_array_equal(whole == 1, (steps > 0) & (steps <= width))
    np.testing.assert_array_equal(whole == 2, (steps > width) & (steps <= 2 * width))


@pytest.mark.parametrize("label", [0, -1, 99])
def test_no_such_object(label):
    with pytest.raises(SettingsError, match="no object"):
        inspect_object(disk((40, 45), 20, 5), label, {}, {})
