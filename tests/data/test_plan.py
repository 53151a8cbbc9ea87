"""Windows of an image: the same values however they are cut, and only they are loaded."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_sa2net.data import plan as plan_module
from napari_sa2net.data import plan_image
from napari_sa2net.data.levels import contrast_of
from napari_sa2net.errors import ImageError


class Counting:
    """A lazy array that counts the pixels it hands out."""

    def __init__(self, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.chunks = shape, np.dtype(np.uint16), chunks
        self.loaded, self.largest = 0, 0
        self.lock = threading.Lock()

    def __getitem__(self, key):
        at = [
            np.arange(n)[k] if isinstance(k, slice) else np.array(k)
            for k, n in zip(key, self.shape, strict=True)
        ]
        grids = np.meshgrid(*at, indexing="ij")
        values = sum((i + 1) * g for i, g in enumerate(grids)) % 60000
        values = values.reshape([a.size for a in at if a.ndim]).astype(np.uint16)
        self.loaded += values.size
        self.largest = max(self.largest, values.size)
        return values


def test_attributes() -> None:
    plan = plan_image(np.zeros((2, 3, 4, 50, 60), np.uint8), axes="TCZYX")
    assert (plan.axes, plan.shape, plan.dtype) == ("TCZYX", (2, 3, 4, 50, 60), np.uint8)
    assert (plan.stack_axes, plan.stack_shape, plan.spatial) == ("TZ", (2, 4), (50, 60))
    assert (plan.channel_axis, plan.n_channels, plan.channels) == (1, 3, (0,))
    assert (plan.is_lazy, plan.is_rgb, plan.is_empty) == (False, False, False)
    assert len(list(plan.indices())) == plan.n_planes == 8
    assert list(plan.indices())[5] == (1, 1)
    assert list(plan_image(np.zeros((4, 5))).indices()) == [()]


def test_label_axes_follow_the_image() -> None:
    image = np.random.default_rng(0).random((7, 3, 5, 2))
    plan = plan_image(image, axes="XTYC")
    assert (plan.label_axes, plan.label_shape) == ("XTY", (7, 3, 5))
    planes = np.stack([plan.read_raw(i, 0, 5, 0, 7)[0] for i in plan.indices()])
    np.testing.assert_array_equal(planes, image[..., 0].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("image", "size", "expected"),
    [
        (np.zeros((512, 640)), 0.32, "512 × 640 · 1 channel · 0.32 µm/px"),
        (np.zeros((512, 640, 3)), None, "512 × 640 · RGB"),
        (np.zeros((9, 8)), (0.5, 0.25), "9 × 8 · 1 channel · 0.5 × 0.25 µm/px"),
        (np.zeros((30, 51, 51)), None, "30 planes (Z) of 51 × 51 · 1 channel"),
        (
            np.zeros((5, 30, 5, 6)),
            None,
            "5 time points (T) × 30 planes (Z) of 5 × 6 · 1 channel",
        ),
    ],
)
def test_describe(image, size, expected) -> None:
    assert plan_image(image, measure=False).describe(pixel_size_um=size) == expected


def test_describe_names_the_channels_in_use() -> None:
    image = np.zeros((4, 5, 6))
    assert plan_image(image, "CYX").describe() == "5 × 6 · channel 0 of 4"
    assert plan_image(image, "CYX", (3, 1)).describe() == "5 × 6 · channels 3, 1 of 4"


def test_describe_names_the_colours_in_use() -> None:
    image = np.zeros((5, 6, 4), np.uint8)
    assert plan_image(image).describe() == "5 × 6 · RGB"
    assert plan_image(image, channels=(2, 0)).describe() == "5 × 6 · blue, red of RGB"
    assert plan_image(image, channels=3).describe() == "5 × 6 · channel 3 of 4"


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        *(((96, 80, n), "YXC") for n in (2, 5, 6, 7, 8, 10, 12, 16, 20)),
        ((512, 512, 32), "YXC"),
        ((20, 96, 80, 5), "ZYXC"),
        ((96, 2, 80), "YCX"),
        ((96, 6, 80), "YCX"),
        ((20, 96, 6, 80), "ZYCX"),
        # what may well be planes
        ((96, 80), None),
        ((5, 96, 80), None),
        ((2, 40, 12), None),
        ((96, 80, 40), None),
        ((512, 512, 100), None),
        ((3, 200, 30), None),
        ((96, 80, 3), None),  # colours
        ((96, 80, 1), None),  # the only channel
        ((96, 4, 2), None),
        ((96, 0, 5), None),
    ],
)
def test_channels_that_were_taken_for_pixels_are_pointed_out(shape, axes) -> None:
    plan = plan_image(np.zeros(shape), measure=False)
    notice = plan.notice("say {}")
    if axes is None:
        assert notice == ""
        return
    counts = f"{int(np.prod(shape[:-2]))} planes of {shape[-2]} × {shape[-1]} pixels"
    assert counts in notice
    assert notice.endswith(f"holds channels, say {axes}.")
    assert shape[axes.index("C")] == min(shape)
    assert plan_image(np.zeros(shape), axes, measure=False).notice() == ""


@pytest.mark.parametrize("shape", [(2, 96, 80), (3, 96, 80), (4, 200, 30)])
def test_a_short_first_axis_of_which_nobody_spoke_may_be_channels(shape) -> None:
    plan = plan_image(np.zeros(shape), measure=False)
    n, height, width = shape
    words = plan.notice("say {}", guessed=True)
    assert words == (
        f"Read as {n} planes of {height} × {width} pixels; if the first axis holds channels, "
        "say CYX."
    )
    assert plan.notice("say {}") == ""


@pytest.mark.parametrize("shape", [(1, 96, 80), (5, 96, 80), (2, 2, 96, 80), (96, 80, 3)])
def test_longer_stacks_are_no_channels(shape) -> None:
    plan = plan_image(np.zeros(shape), measure=False)
    assert plan.notice(guessed=True) == ""


@pytest.mark.parametrize("axes", ["TCYX", "YXCT", "CXTY"])
@pytest.mark.parametrize("channels", [(0,), (2, 0), (0, 7), (0, 8, 4)])
def test_any_window_gives_the_same_values(axes: str, channels: tuple[int, ...]) -> None:
    size = {"T": 2, "C": 9, "Y": 33, "X": 47}
    image = np.random.default_rng(0).normal(50, 20, [size[a] for a in axes])
    plan = plan_image(image, axes, channels)
    whole = plan.read((1,), 0, 33, 0, 47)
    assert whole.shape == (3, 33, 47)
    assert whole.dtype == np.float32
    assert whole.flags.c_contiguous
    for y0, y1, x0, x1 in [(0, 1, 0, 1), (3, 30, 11, 12), (32, 33, 0, 47), (7, 24, 9, 42)]:
        window = plan.read((1,), y0, y1, x0, x1)
        np.testing.assert_array_equal(window, whole[:, y0:y1, x0:x1])
        assert window.flags.c_contiguous


def test_reading_does_not_touch_the_image() -> None:
    image = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    image[3, 3] = np.nan
    before = image.copy()
    for normalize in (True, False):
        plan_image(image, normalize=normalize).read((), 0, 20, 0, 20)[:] = 5
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "window", [(-1, 2, 0, 2), (0, 11, 0, 2), (3, 2, 0, 2), (0, 2, 0, 13), (0, 2, 5, 1)]
)
def test_windows_outside_are_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(ImageError, match="not inside"):
        plan_image(np.zeros((10, 12))).read((), *window)


@pytest.mark.parametrize("index", [(), (3,), (-1,), (0, 0)])
def test_planes_outside_are_refused(index: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="no plane"):
        plan_image(np.zeros((3, 10, 12))).read(index, 0, 1, 0, 1)


def test_only_the_window_is_loaded() -> None:
    image = Counting((4, 3, 20000, 30000), (1, 1, 500, 500))
    plan = plan_image(image, axes="ZCYX", channels=(2,), measure=False)
    assert plan.describe() == "4 planes (Z) of 20000 × 30000 · channel 2 of 3"
    assert image.loaded == 0
    plan.levels  # noqa: B018
    assert image.loaded <= 64_000_000
    assert image.largest <= 1024**2
    assert plan.is_lazy
    image.loaded = 0
    values = plan.read((1,), 100, 164, 200, 232)
    assert image.loaded == 64 * 32
    assert values.shape == (3, 64, 32)


@pytest.mark.parametrize("chunks", [(1, 1, 550, 650), (5, 1, 300, 350), (2, 3, 600, 1500)])
def test_large_chunks_are_loaded_once(
    chunks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_sa2net.data.plan.LARGE_CHUNK", 2**18)
    image = Counting((4, 3, 600, 1500), chunks)
    plan = plan_image(image, axes="ZCYX", channels=(2,), normalize=False)
    direct = Counting(image.shape, (1, 1, 8, 8))
    image.loaded = 0
    for y in range(0, 600, 80):
        for x in range(0, 1500, 375):
            y0, x0 = max(0, y - 20), max(0, x - 20)
            values = plan.read_raw((3,), y0, min(y + 100, 600), x0, min(x + 395, 1500))[0]
            key = (3, 2, slice(y0, y + 100), slice(x0, x + 395))
            np.testing.assert_array_equal(values, direct[key])
    planes = min(chunks[0], 4) * chunks[1]  # in one chunk
    assert image.loaded <= planes * 600 * 1500


def test_chunks_too_large_to_keep_are_not_kept() -> None:
    image = Counting((20000, 20000), (20000, 20000))
    plan = plan_image(image, measure=False)
    for _ in range(2):
        image.loaded = 0
        assert plan.read_raw((), 0, 10, 0, 10).shape == (1, 10, 10)
        assert image.loaded == 100


def test_channels_far_apart_are_loaded_alone() -> None:
    image = Counting((40, 64, 64), (1, 64, 64))
    plan = plan_image(image, axes="CYX", channels=(0, 39))
    image.loaded = 0
    plan.read((), 0, 64, 0, 64)
    assert image.loaded == 2 * 64 * 64


@pytest.mark.parametrize("kind", ["dask", "zarr2", "zarr3", "memmap"])
def test_lazy_equals_memory(kind: str, tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 4000, (3, 70, 90), dtype=np.uint16)
    if kind == "dask":
        lazy = da.from_array(image, chunks=(1, 32, 32))
    elif kind == "memmap":
        np.save(tmp_path / "a.npy", image)
        lazy = np.load(tmp_path / "a.npy", mmap_mode="r")
    else:
        lazy = zarr.create_array(
            str(tmp_path / "a.zarr"),
            data=image,
            chunks=(1, 32, 32),
            zarr_format=int(kind[-1]),
        )
    plan, memory = plan_image(lazy), plan_image(image)
    assert plan.is_lazy
    np.testing.assert_array_equal(plan.levels, memory.levels)
    for window in [(0, 70, 0, 90), (31, 33, 60, 90)]:
        np.testing.assert_array_equal(plan.read((2,), *window), memory.read((2,), *window))


def test_multiscale_uses_the_first_level() -> None:
    from napari.layers._multiscale_data import MultiScaleData

    full = np.random.default_rng(0).random((40, 60))
    levels = [full, full[::2, ::2], full[::4, ::4]]
    for image in (levels, tuple(levels), [da.from_array(a) for a in levels], [full]):
        assert plan_image(image).shape == (40, 60)
    plan = plan_image(MultiScaleData(levels))
    np.testing.assert_array_equal(plan.read_raw((), 0, 40, 0, 60)[0], full)


@pytest.mark.parametrize(
    "levels",
    [
        [],
        [np.zeros((4, 4))] * 2,
        [np.zeros((4, 4)), np.zeros((8, 8))],
        [np.zeros((4, 4, 2)), np.zeros((2, 2))],
        [[1, 2], [3]],
        ["a", "b"],
    ],
)
def test_other_lists_are_refused(levels) -> None:
    with pytest.raises(ImageError):
        plan_image(levels)


def test_nested_lists_of_numbers_are_an_image() -> None:
    assert plan_image([[1, 2, 3], [4, 5, 6]]).shape == (2, 3)


def test_a_failing_reader_is_named() -> None:
    def fail(_block):
        raise OSError("the disk is gone")

    lazy = da.zeros((8, 8), chunks=4).map_blocks(fail, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(ImageError, match="the disk is gone"):
        plan_image(lazy)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 5), (0, 0, 3), (2, 0, 4)])
def test_zero_size(shape: tuple[int, ...]) -> None:
    plan = plan_image(np.zeros(shape, np.uint16))
    assert plan.is_empty
    assert plan.levels.shape == (len(plan.channels), 2)
    height, width = plan.spatial
    for index in plan.indices():
        assert plan.read(index, 0, height, 0, width).shape == (3, height, width)


def test_no_channel_at_all() -> None:
    plan = plan_image(np.zeros((0, 5, 6)), axes="CYX")
    assert plan.is_empty
    assert plan.label_shape == (5, 6)
    assert plan.read((), 0, 5, 0, 6).tolist() == np.zeros((3, 5, 6)).tolist()


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        # (planes, height, width): no wider than 4 px, and longer
        ((20, 30, 4), 2),
        ((20, 4, 30), 1),
        ((19, 30, 5), None),
        ((19, 5, 30), None),
        ((20, 4, 5), 1),
        ((20, 4, 4), None),
        ((20, 1, 1), None),
        # up to 32 px, where sides and stack are four times as long
        ((128, 128, 32), 2),
        ((128, 32, 128), 1),
        ((127, 128, 32), None),
        ((128, 127, 32), None),
        ((132, 132, 33), None),
        ((40, 40, 10), 2),
        ((39, 40, 10), None),
        # of several stack axes the last counts
        ((2, 40, 40, 10), 3),
        ((40, 2, 40, 10), None),
        # so few planes that they may be channels, where the axes were guessed
        ((2, 100, 100), "guessed"),
        ((4, 100, 100), "guessed"),
        ((5, 100, 100), None),
        ((1, 100, 100), None),
        ((2, 2, 100, 100), None),
        ((100, 100), None),
        ((0, 30, 4), None),
    ],
)
def test_the_axis_that_may_hold_channels(shape, axis) -> None:
    axes = "TZYX"[-len(shape) :]
    plan = plan_image(np.zeros(shape, np.uint8), axes, measure=False)
    assert plan.likely_channels() == (None if axis == "guessed" else axis)
    assert plan.likely_channels(guessed=True) == (0 if axis == "guessed" else axis)


def test_axes_with_channels_or_in_another_order_are_meant() -> None:
    for shape, axes in (((20, 30, 4), "ZXY"), ((3, 20, 30, 4), "CZYX"), ((30, 4), "YX")):
        plan = plan_image(np.zeros(shape, np.uint8), axes, measure=False)
        assert plan.likely_channels(guessed=True) is None


class Chunked:
    """An array in chunks that notes what is loaded of it."""

    def __init__(self, values: np.ndarray, chunks: tuple[Any, ...]) -> None:
        self.values, self.chunks = values, chunks
        self.shape, self.dtype = values.shape, values.dtype
        self.loaded: list[tuple[Any, ...]] = []

    def __getitem__(self, key: Any) -> np.ndarray:
        self.loaded.append(tuple(k if isinstance(k, int) else (k.start, k.stop) for k in key))
        return self.values[key]


@pytest.mark.parametrize(
    ("pixels", "n_bytes", "reads"),
    [
        (99, 1000, 3),  # one chunk of 100 pixels, and its two neighbours below and beside
        (99, 100, 6),  # room for one: each window loads its chunks
        (100, 1000, 5),  # no large chunks: what is asked for is loaded
        (99, 99, 5),  # larger than what may be kept
    ],
)
def test_large_chunks_are_loaded_once_as_long_as_there_is_room(
    monkeypatch, pixels, n_bytes, reads
):
    monkeypatch.setattr(plan_module, "LARGE_CHUNK", pixels)
    monkeypatch.setattr(plan_module, "MAX_KEPT", n_bytes)
    values = np.random.default_rng(0).integers(0, 255, (25, 23)).astype(np.uint8)
    image = Chunked(values, (10, (10, 10, 3)))
    reader = plan_module.BlockReader(image, "YX")
    assert reader.chunk == (10, 10)
    for y, x in ((0, 0), (0, 0), (5, 0), (0, 5), (5, 0)):
        got = reader.read_block({"Y": slice(y, y + 8), "X": slice(x, x + 8)})
        assert np.array_equal(got[0], values[y : y + 8, x : x + 8])
    assert len(image.loaded) == reads
    again = pickle.loads(pickle.dumps(reader))
    last = again.read_block({"Y": slice(18, 25), "X": slice(19, 23)})
    assert np.array_equal(last[0], values[18:25, 19:23])


@pytest.mark.parametrize(
    ("chunks", "shape", "sizes"),
    [
        ((10, 20), (30, 30), (10, 20)),
        (((4, 6, 1), (7,)), (11, 7), (6, 7)),
        (((), (7,)), (0, 7), (1, 7)),
        ((0, 7), (0, 7), (1, 7)),
        ((10,), (30, 30), None),
        ("auto", (30, 30), None),
        (None, (30, 30), None),
    ],
)
def test_chunks_as_an_array_tells_them(chunks, shape, sizes):
    assert plan_module.chunk_sizes(Chunked(np.zeros(shape), chunks)) == sizes
    assert plan_module.chunk_sizes(np.zeros(shape)) is None


def test_an_array_that_slices_otherwise_is_refused():
    class Matrix:
        shape, dtype = (2, 6, 7), np.dtype(np.uint8)

        def __getitem__(self, key: Any) -> np.ndarray:
            return np.zeros((1, 6, 7), np.uint8)

    with pytest.raises(ImageError, match="Slicing this Matrix gave 3 axes instead of 2"):
        plan_module.BlockReader(Matrix(), "ZYX").read_block(
            {"Z": 0, "Y": slice(0, 6), "X": slice(0, 7)}
        )


@pytest.mark.parametrize(
    ("box", "origin", "size"),
    [
        ((0, 20, 0, 30), (0, 0), (20, 30)),
        ((-5, 8, -3, 9), (0, 0), (8, 9)),
        ((15, 40, 22, 31), (15, 22), (5, 8)),
        ((19, 20, 29, 30), (19, 29), (1, 1)),
        ((20, 25, 0, 5), None, None),
        ((0, 5, 30, 35), None, None),
        ((-5, 0, 0, 5), None, None),
        ((0, 5, -5, 0), None, None),
    ],
)
def test_a_part_is_what_the_view_shows_of_the_image(box, origin, size):
    image = np.arange(600, dtype=np.float32).reshape(20, 30)
    plan = plan_image(image)
    if origin is None:
        with pytest.raises(ImageError, match="shows no part of this image"):
            plan.part(box=box)
        return
    part = plan.part(box=box)
    assert (part.origin["Y"], part.origin["X"]) == origin
    assert part.spatial == part.shape == size
    (y, x), (height, width) = origin, size
    seen = part.read_raw((), 0, height, 0, width)[0]
    assert np.array_equal(seen, image[y : y + height, x : x + width])


def test_what_an_image_was_read_as_says_its_levels():
    """Of the whole image, or of each time point that was looked at so far."""
    image = np.random.default_rng(0).random((3, 40, 50)).astype(np.float32)
    whole = plan_image(image, "TYX", levels="stack")
    said = whole.settings(measured=True, layer="a")["image"]
    assert said["levels"] == whole.levels.tolist()
    assert (said["axes"], said["shape"], said["layer"]) == ("TYX", [3, 40, 50], "a")
    assert "levels_along" not in said
    each = plan_image(image, "TYX")
    each.measured_of((2,))
    said = each.settings(measured=True)["image"]
    assert said["levels_along"] == "T"
    assert set(said["levels"]) == {"2"}
    for plan in (whole, each):
        assert not {"levels", "levels_along"} & set(plan.settings(measured=False)["image"])


@pytest.mark.parametrize(("share", "kept"), [(1.0, 1.0), (0.3, 0.3), (0.2, 0.25), (0.01, 0.25)])
def test_a_dim_time_point_keeps_a_quarter_of_the_usual_contrast(share, kept):
    """So that the noise of an empty one stays noise."""
    ramp = np.linspace(0, 1, 2500, dtype=np.float32).reshape(50, 50)
    plan = plan_image(100 + 80 * np.stack([ramp] * 4 + [ramp * share]), "TYX")
    usual = contrast_of(plan.measured_of((0,)))
    assert usual == pytest.approx(80, rel=0.05)
    assert contrast_of(plan.measured_of((4,))) == pytest.approx(kept * usual, rel=0.01)
    assert plan.measured_of((4,)).low[0] == pytest.approx(100, abs=1)


@pytest.mark.parametrize(
    ("shape", "axes", "instead"),
    [
        ((3, 20, 30), "ZYX", "CYX"),
        ((2, 3, 20, 30), "TZYX", "TCYX"),
        ((20, 30, 3), "YXZ", "YXC"),
    ],
)
def test_where_planes_may_be_channels_that_is_said(shape, axes, instead):
    with pytest.raises(ImageError, match=f"if those are channels, give axes {instead} "):
        plan_image(np.zeros(shape, np.uint8), axes, channels=1)
