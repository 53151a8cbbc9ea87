"""Normalisation: one scale for the whole image, whatever its type and size."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from napari_sa2net.config import InputConfig, PredictConfig
from napari_sa2net.data import plan_image
from napari_sa2net.data.levels import sample_windows, spread_indices
from napari_sa2net.errors import ImageError, SettingsError

DIVIDE = InputConfig(normalization="divide")


def test_percentiles_of_a_ramp() -> None:
    ramp = np.arange(1000, dtype=np.uint16).reshape(20, 50)
    plan = plan_image(ramp)
    assert plan.levels == pytest.approx(np.array([[10, 998]]), abs=1.5)
    low, high = plan.levels[0]
    expected = np.clip((ramp - low) / (high - low), -0.5, 1.5)
    np.testing.assert_allclose(plan.read((), 0, 20, 0, 50)[1], expected, atol=1e-6)


def test_a_hot_pixel_changes_nothing_else_and_is_clipped() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 10, (64, 64))
    hot = image.copy()
    hot[5, 5], hot[6, 6] = 1e9, -1e9
    plain, spoilt = (plan_image(i).read((), 0, 64, 0, 64)[0] for i in (image, hot))
    assert (spoilt[5, 5], spoilt[6, 6]) == (1.5, -0.5)
    assert np.abs(plain - spoilt)[10:].max() < 0.02


def test_one_scale_for_the_whole_stack() -> None:
    stack = np.stack([np.full((8, 8), 10), np.full((8, 8), 30)])
    stack[:, 0] = 0
    plan = plan_image(stack)
    dim, bright = (plan.read((i,), 0, 8, 0, 8)[0, 4, 4] for i in (0, 1))
    assert dim == pytest.approx(1 / 3)
    assert bright == pytest.approx(1)


def test_planes_of_time_points_have_levels_of_their_own() -> None:
    plane = np.random.default_rng(0).random((16, 16))
    factors = np.array([[1, 1.5, 2], [2.5, 0.8, 1.2]])
    stack = factors[..., None, None] * plane + 1000 * factors[..., None, None]
    plan = plan_image(stack, "TZYX", levels="plane")
    seen = [plan.read(index, 0, 16, 0, 16)[0] for index in plan.indices()]
    for one in seen[1:]:
        np.testing.assert_allclose(one, seen[0], atol=1e-4)


def test_a_part_of_a_stack_is_as_bright_as_in_the_whole() -> None:
    plane = np.random.default_rng(1).random((16, 16))
    plan = plan_image(np.stack([n * plane + 9 * n for n in (2.0, 1.0, 3.0)]), "TYX")
    for t in range(3):
        part = plan.part((t,), (4, 12, 0, 16))
        want = plan.read((t,), 4, 12, 0, 16)
        np.testing.assert_array_equal(part.read((0,), 0, 8, 0, 16), want)


def test_blank_frames_do_not_blow_up_the_noise_of_others() -> None:
    rng = np.random.default_rng(2)
    stack = np.zeros((9, 16, 16))
    stack[[1, 4, 7]] = 1000 * rng.random((3, 16, 16))
    stack[5] = 3 * rng.random((16, 16))
    plan = plan_image(stack, "TYX")
    assert plan.read((4,), 0, 16, 0, 16).max() > 0.9
    assert plan.read((5,), 0, 16, 0, 16).max() < 0.05


def test_a_plane_that_is_blank_in_one_channel_counts_in_the_other() -> None:
    ramp = np.linspace(0, 100, 32 * 32).reshape(32, 32)
    stack = np.stack([[ramp, ramp], [0 * ramp, 10 * ramp]])
    plan = plan_image(stack, "ZCYX", channels=(0, 1))
    assert plan.levels[1, 1] > 500
    # one of one value in all channels says nothing of the others
    stack[1, 1] = 5000
    assert plan_image(stack, "ZCYX", channels=(0, 1)).levels[1, 1] < 101


def test_an_almost_empty_colour_is_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = rng.integers(0, 200, (64, 64))
    image[..., 1] = rng.integers(0, 3, (64, 64))
    low, high = plan_image(image).levels.T
    widths = high - low
    assert widths[1:] == pytest.approx([widths[0] / 4] * 2)
    assert np.abs(plan_image(image).read((), 0, 64, 0, 64)[2]).max() == 0


def test_few_bright_pixels_on_even_ground_are_seen() -> None:
    image = np.zeros((200, 200), np.uint16)
    image[100:104, 100:104] = 500
    plan = plan_image(image)
    assert not plan.constant
    assert plan.read((), 100, 101, 100, 101).max() == 1


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [0, 7, -3.5, 1e300, 255])
def test_constant(value: float, normalize: bool) -> None:
    plan = plan_image(np.full((9, 8), value), normalize=normalize)
    assert plan.constant
    assert not plan.is_empty
    if normalize:
        assert not plan.read((), 0, 9, 0, 8).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_constant_large(dtype: type) -> None:
    image = np.full((2300, 2300), 5, dtype)
    assert plan_image(image).constant
    image[2299, 2298] = 6  # off every sampling grid
    assert not plan_image(image).constant


def test_constant_large_lazy_is_not_claimed() -> None:
    lazy = da.zeros((9000, 9000), chunks=1500, dtype=np.uint16)
    plan = plan_image(lazy)
    assert not plan.constant
    assert not plan.read((), 0, 5, 0, 5).any()


@pytest.mark.parametrize(
    "image",
    [
        np.full((5, 6), np.nan),
        np.full((5, 6), np.inf, np.float32),
        np.full((2, 5, 6), [[[np.nan]], [[-np.inf]]]),
        da.full((5, 6), np.nan, chunks=3),
        np.full((2100, 2100), np.nan, np.float16),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_no_finite_value(image, normalize: bool) -> None:
    with pytest.raises(ImageError, match="no finite value"):
        plan_image(image, normalize=normalize)


def test_nan_and_infinity_among_values() -> None:
    image = np.linspace(0, 1, 100).reshape(10, 10)
    image[0, :3] = np.nan, np.inf, -np.inf
    assert plan_image(image).read((), 0, 1, 0, 3)[0].tolist() == [[0, 1.5, -0.5]]
    raw = plan_image(image, normalize=False).read((), 0, 1, 0, 4)[0, 0]
    assert raw == pytest.approx([0, 1, image[0, 3], image[0, 3]])


def test_a_dead_channel_beside_a_live_one() -> None:
    image = np.random.default_rng(0).random((9, 9, 3))
    image[..., 1] = np.nan
    values = plan_image(image).read((), 0, 9, 0, 9)
    assert not values[1].any()
    assert values[0].max() > 0.9


def test_divide() -> None:
    image = np.arange(200, dtype=np.uint8).reshape(10, 20)
    values = plan_image(image, model_input=DIVIDE).read((), 0, 10, 0, 20)
    np.testing.assert_array_equal(values[0], image.astype(np.float32) / 255)
    as_float = plan_image(image.astype(float), model_input=DIVIDE).read((), 0, 10, 0, 20)
    np.testing.assert_allclose(as_float, values, atol=1e-7)


@pytest.mark.parametrize("factor", [1 / 255, 257, -1])
def test_divide_falls_back_where_values_are_not_8_bit(factor: float) -> None:
    image = np.arange(256).reshape(16, 16) * factor
    values = plan_image(image, model_input=DIVIDE).read((), 0, 16, 0, 16)
    assert values.max() == pytest.approx(1, abs=0.02)
    assert values.min() == pytest.approx(0, abs=0.02)


def test_raw_values_stay() -> None:
    image = np.random.default_rng(0).normal(0, 1000, (7, 9)).astype(np.float32)
    for plan in (
        plan_image(image, normalize=False),
        plan_image(image, model_input=InputConfig(normalization="none")),
    ):
        np.testing.assert_array_equal(plan.read((), 0, 7, 0, 9)[0], image)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.float64, -1e308, 1e308),
        (np.float64, 0, 1e-307),
        (np.float32, 0, 1e-44),
        (np.float32, -3e38, 3e38),
        (np.float16, -6e4, 6e4),
        (np.int64, -(2**63), 2**63 - 1),
        (np.uint64, 2**63, 2**63 + 2**20),
        (np.uint32, 4_294_967_000, 4_294_967_200),
        (np.int8, -128, 127),
        (np.bool_, 0, 1),
        (np.longdouble, 0, 1e30),
    ],
)
def test_extreme_ranges(dtype: type, low: float, high: float) -> None:
    image = np.full((10, 10), low, dtype)
    image[:, 5:] = dtype(high)
    values = plan_image(image).read((), 0, 10, 0, 10)[0]
    assert values[0, 0] == pytest.approx(0, abs=1e-5)
    assert values[0, 9] == pytest.approx(1, abs=1e-5)


def test_lazy_sample_is_close_and_repeatable() -> None:
    rng = da.random.default_rng(1)
    lazy = rng.gamma(2, 100, (4, 1500, 1500), chunks=(1, 500, 700)).persist()
    plan = plan_image(lazy)
    full = np.percentile(lazy[:, ::3, ::3].compute(), [1, 99.8])
    assert plan.levels[0] == pytest.approx(full, rel=0.03)
    np.testing.assert_array_equal(plan.levels, plan_image(lazy).levels)


def test_a_range_is_that_of_all_channels_together() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 20, 70, 40
    image[0, 0] = 20, 120, 60
    plan = plan_image(image, model_input=InputConfig(normalization="range"))
    assert plan.levels.tolist() == [[20, 120]] * 3
    read = plan.read((), 0, 4, 0, 4)
    np.testing.assert_allclose(read[:, 0, 0], [0, 1, 0.4], atol=1e-6)
    np.testing.assert_allclose(read[:, 2, 2], [0, 0.5, 0.2], atol=1e-6)


# --- stacks ------------------------------------------------------------------------------


def _cells(bright: float = 1000, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    """Dim ground with noise, and a bright quarter."""
    image = np.random.default_rng(0).normal(100, 5, shape)
    image[: shape[0] // 2, : shape[1] // 2] += bright
    return np.clip(image, 0, 65535).astype(np.uint16)


def _plane(plan, *index: int) -> np.ndarray:
    return plan.read(index, 0, plan.spatial[0], 0, plan.spatial[1])


@pytest.mark.parametrize(
    "spoilt",
    [
        np.full((64, 64), 65535, np.uint16),  # saturated throughout
        np.clip(_cells().astype(float) * 100, 0, 65535).astype(np.uint16),  # in part
        np.zeros((64, 64), np.uint16),  # the shutter was closed
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_odd_time_point_changes_no_other(spoilt: np.ndarray, at: int) -> None:
    alone = _plane(plan_image(_cells()))
    frames = [_cells()] * 3
    frames[at] = spoilt
    plan = plan_image(np.stack(frames), "TYX")
    for i in range(3):
        if i != at:
            np.testing.assert_array_equal(_plane(plan, i), alone)


def test_bleaching_is_followed() -> None:
    movie = np.stack([_cells(1000 * 0.8**i) for i in range(10)])
    plan = plan_image(movie, "TYX")
    for i in range(10):
        assert _plane(plan, i)[0, :30, :30].mean() > 0.9


def test_the_noise_of_an_empty_time_point_stays_noise() -> None:
    empty = _cells(0)
    plan = plan_image(np.stack([_cells(), _cells(), empty, _cells()]), "TYX")
    assert _plane(plan, 2).max() < 0.2
    assert _plane(plan_image(empty)).max() >= 1


def test_a_time_point_is_measured_with_all_its_planes_in_depth() -> None:
    bright, dim = _cells(1000), _cells(500)
    both = np.stack([bright, dim])
    movie = np.stack([both, both // 4])
    plan = plan_image(movie, "TZYX")
    whole = plan_image(both, "ZYX")
    for z in range(2):
        np.testing.assert_array_equal(_plane(plan, 0, z), _plane(whole, z))
    assert _plane(plan, 0, 1)[0, 8, 8] < 0.6
    # in whatever order the axes are
    turned = plan_image(np.moveaxis(movie, 0, 1), "ZTYX")
    np.testing.assert_array_equal(_plane(turned, 1, 0), _plane(plan, 0, 1))


def test_planes_in_depth_share_their_levels_unless_told() -> None:
    stack = np.stack([_cells(1000), _cells(300)])
    shared, own, whole = (
        plan_image(stack, "ZYX", levels=how) for how in ("auto", "plane", "stack")
    )
    assert _plane(shared, 1).max() < 0.6
    np.testing.assert_array_equal(_plane(own, 1), _plane(plan_image(stack[1])))
    np.testing.assert_array_equal(_plane(whole, 1), _plane(shared, 1))
    movie = plan_image(stack, "TYX", levels="stack")
    np.testing.assert_array_equal(_plane(movie, 1), _plane(shared, 1))


@pytest.mark.parametrize("value", [0, 65535])
def test_a_plane_of_one_value_says_nothing_of_a_stack(value: int) -> None:
    blank = np.full((64, 64), value, np.uint16)
    plan = plan_image(np.stack([_cells(), blank, _cells()]), "ZYX")
    np.testing.assert_array_equal(_plane(plan, 0), _plane(plan_image(_cells())))


def test_a_time_point_without_a_finite_value_is_empty() -> None:
    movie = np.stack([_cells(), _cells()]).astype(np.float32)
    movie[1] = np.nan
    plan = plan_image(movie, "TYX")
    np.testing.assert_allclose(_plane(plan, 0), _plane(plan_image(_cells())), atol=1e-6)
    assert _plane(plan, 1).max() == 0


def test_lazy_time_points_are_as_in_memory() -> None:
    movie = np.stack([_cells(), _cells(300), np.full((64, 64), 65535, np.uint16)])
    lazy = plan_image(da.from_array(movie, chunks=(1, 32, 32)), "TYX")
    for i in range(3):
        np.testing.assert_array_equal(_plane(lazy, i), _plane(plan_image(movie, "TYX"), i))


def test_levels_that_were_chosen() -> None:
    stack = np.stack([_cells(), _cells(300)])
    for axes in ("ZYX", "TYX"):
        plan = plan_image(stack, axes, contrast=(100, 600))
        expected = np.clip((stack - 100.0) / 500, -0.5, 1.5)
        for i in range(2):
            np.testing.assert_allclose(_plane(plan, i)[0], expected[i], atol=1e-6)
        assert plan.levels.tolist() == [[100, 600]]
    divided = plan_image(stack[0], model_input=DIVIDE, contrast=(100, 600))
    np.testing.assert_allclose(_plane(divided)[0], expected[0], atol=1e-6)


def test_chosen_levels_and_raw_values_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="Leave out one"):
        plan_image(_cells(), normalize=False, contrast=(0, 1))
    with pytest.raises(ValueError, match="below"):
        PredictConfig(contrast=(2, 1))


@pytest.mark.parametrize(
    ("size", "chunk", "effort"),
    [
        ((1, 3000, 2000), None, 1),
        ((40, 1500, 900), None, 1),
        ((3, 5000, 4000), (512, 700), 1),
        ((2, 9000, 9000), (4000, 9000), 1),
        ((2, 9000, 9000), (9000, 9000), 2),
        ((900, 80, 5000), (16, 5000), 3),
    ],
)
def test_a_large_image_is_looked_at_in_windows_within_its_chunks(size, chunk, effort):
    windows, whole = sample_windows(*size, chunk, effort=effort)
    n, height, width = size
    assert not whole
    assert len(set(windows)) == len(windows)
    step = chunk or (1024, 1024)
    for one in windows:
        assert 0 <= one.plane < n
        assert 0 <= one.y0 < one.y1 <= height
        assert 0 <= one.x0 < one.x1 <= width
        assert one.y1 - one.y0 <= 1024
        assert one.x1 - one.x0 <= 1024
        assert one.y0 // step[0] == (one.y1 - 1) // step[0]
        assert one.x0 // step[1] == (one.x1 - 1) // step[1]
    loaded = min(height, step[0]) * min(width, step[1])
    n_chunks = n * -(-height // step[0]) * -(-width // step[1])
    most = max(8, min(256, 64_000_000 // loaded)) * effort
    assert len(windows) <= most
    assert len(windows) >= min(most, n_chunks) / 2
    # of an image in memory everything may be looked at, and is not called whole
    every, whole = sample_windows(*size, chunk, in_memory=True)
    assert [one.plane for one in every] == list(range(n))
    assert {(one.y0, one.y1, one.x0, one.x1) for one in every} == {(0, height, 0, width)}
    assert not whole


@pytest.mark.parametrize(
    ("size", "effort", "is_whole", "planes"),
    [
        ((1, 2000, 2000), 1, True, 1),
        ((1, 2000, 2001), 1, False, None),
        ((1, 2000, 2001), 2, True, 1),
        ((4096, 10, 10), 1, True, 4096),
        ((4097, 10, 10), 1, False, 2049),
    ],
)
def test_a_small_image_is_looked_at_whole(size, effort, is_whole, planes):
    windows, whole = sample_windows(*size, effort=effort)
    assert whole == is_whole
    if planes is not None:
        assert len(windows) == planes
        assert {(one.y1 - one.y0, one.x1 - one.x0) for one in windows} == {size[1:]}


@pytest.mark.parametrize("counts", [(), (1,), (7,), (5, 1), (3, 4), (50,), (40, 9), (2, 3, 9)])
@pytest.mark.parametrize("n", [1, 3, 12])
def test_places_are_spread_over_a_stack(counts, n):
    places = spread_indices(counts, n)
    total = int(np.prod(counts))
    assert len(places) == len(set(places)) == min(n, total)
    assert all(0 <= i < count for one in places for i, count in zip(one, counts, strict=True))
    if total > n:
        assert places[0] == tuple(count // 2 for count in counts)
    if n == 12 and total > 12:  # in each half of every long axis
        for axis, count in enumerate(counts):
            if count > 2:
                halves = {one[axis] >= count / 2 for one in places}
                assert halves == {False, True}
