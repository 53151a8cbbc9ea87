"""Odd images: every real array is readable, window by window; everything else is refused."""

from __future__ import annotations

import datetime
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_sa2net.config import InputConfig
from napari_sa2net.data import ImagePlan, plan_image
from napari_sa2net.errors import ImageError

REAL = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
)
LAYOUTS = [
    "plain", "strided", "reversed", "fortran", "read-only", "offset", "dask", "zarr",
    "levels", "subclass",
]  # fmt: skip


class Subclass(np.ndarray):
    """As astropy's quantities and others are."""


@st.composite
def images(draw: st.DrawFn) -> tuple[object, str | None]:
    """An image of any real kind, and its axes or None."""
    axes = draw(st.sampled_from([None, None, "YX", "XY", "YXC", "CYX", "ZYX", "TCYX", "YXZ"]))
    ndim = len(axes) if axes else draw(st.integers(2, 4))
    sides = st.one_of(st.integers(1, 3), st.integers(0, 24))
    shape = tuple(draw(sides) for _ in range(ndim))
    dtype = draw(REAL)
    array = draw(hnp.arrays(dtype, shape))
    if draw(st.booleans()) and array.size:  # all values differing, rather than hypothesis' few
        seed = draw(st.integers(0, 99))
        array = (np.random.default_rng(seed).random(shape) * 200).astype(dtype)
    return _laid_out(array, draw(st.sampled_from(LAYOUTS))), axes


def _laid_out(array: np.ndarray, layout: str) -> object:
    if layout == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "reversed":
        return array[::-1, ::-1]
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "read-only":
        array.flags.writeable = False
    if layout == "offset":  # not aligned to the size of its type
        data = np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:]
        return np.frombuffer(data, array.dtype).reshape(array.shape)
    if layout == "dask":
        return da.from_array(array, chunks=5)
    if layout == "zarr" and array.size and array.dtype.itemsize <= 8:
        return zarr.create_array({}, data=array.astype(array.dtype.newbyteorder("=")))
    if layout == "levels":
        return [array, array[::2, ::2]] if min(array.shape[:2]) > 1 else [array]
    if layout == "subclass":
        return array.view(Subclass)
    return array


def _has_value(plan: ImagePlan) -> bool:
    """Whether a chosen channel holds a finite value, looked up plane by plane."""
    height, width = plan.spatial
    planes = [plan.read_raw(index, 0, height, 0, width) for index in plan.indices()]
    with np.errstate(over="ignore"):
        return any(np.isfinite(plane.astype(np.float64)).any() for plane in planes)


def test_time_points_without_a_channel_are_read() -> None:
    plan = plan_image(np.zeros((2, 0, 3, 4), bool), "TCYX")
    assert plan.levels_along == "T"
    assert plan.read((1,), 0, 3, 0, 4).shape == (3, 3, 4)


@given(
    images(),
    st.booleans(),
    st.sampled_from(["percentile", "divide", "range", "none"]),
    st.sampled_from(["RGB", "BGR"]),
    st.sampled_from([1, 3, 4]),
    st.data(),
)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_real_image_is_readable(image_axes, normalize, kind, order, n, data) -> None:
    image, axes = image_axes
    config = InputConfig(normalization=kind, channel_order=order)
    plan = plan_image(image, axes, None, normalize, config, n, measure=False)
    if not plan.is_empty and not _has_value(plan):
        with pytest.raises(ImageError, match="no finite value"):
            plan_image(image, axes, None, normalize, config, n)
        return
    height, width = plan.spatial
    assert plan.levels.shape == (len(plan.channels), 2)
    assert np.isfinite(plan.levels).all()
    assert (plan.levels[:, 0] < plan.levels[:, 1]).all()
    assert isinstance(plan.describe(), str)
    for index in list(plan.indices())[:3]:
        whole = plan.read(index, 0, height, 0, width)
        assert whole.shape == (n, height, width)
        assert whole.dtype == np.float32
        assert np.isfinite(whole).all()
        if normalize and kind != "none":
            assert whole.size == 0 or (whole.min() >= -0.5 and whole.max() <= 1.5)
        y0, x0 = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
        y1, x1 = data.draw(st.integers(y0, height)), data.draw(st.integers(x0, width))
        window = plan.read(index, y0, y1, x0, x1)
        np.testing.assert_array_equal(window, whole[:, y0:y1, x0:x1])
        if plan.constant and normalize and kind != "none":
            assert not whole.any()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5), complex),
        np.zeros((4, 5), np.complex64),
        np.array([["a", "b"], ["c", "d"]]),
        np.array([[b"a", b"b"]]),
        np.array([[1, None], [2, "x"]], object),
        np.zeros((4, 5), "datetime64[s]"),
        np.zeros((4, 5), "timedelta64[s]"),
        np.zeros((4, 5), [("r", "u1"), ("g", "u1")]),
        np.full((4, 5), np.nan),
        np.zeros(()),
        np.zeros(7),
        np.float32(3),
        5,
        None,
        True,
        "image.tif",
        b"bytes",
        {"a": 1},
        datetime.datetime(2026, 1, 1),
        [[1, 2], [3, 4, 5]],
        [],
        object(),
        lambda: None,
        da.zeros((4, 5), dtype=complex),
        da.from_array(np.arange(20.0), chunks=5)[da.from_array(np.arange(20) > 3, chunks=5)],
        zarr.create_group({}),
    ],
)
def test_everything_else_is_refused(image) -> None:
    with pytest.raises(ImageError) as caught:
        plan_image(image)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize("name", ["image.tif", b"image.tif", Path("image.tif")])
def test_a_name_is_refused_with_the_way_to_open_it(name) -> None:
    with pytest.raises(ImageError, match=r"name of an image.*data\.read_image"):
        plan_image(name)


@pytest.mark.parametrize(
    "axes", ["", "Y", "YXZ", "YY", "ZX", "Y X", "1X", "YX?", 7, ["Y", "X"]]
)
def test_axes_that_do_not_fit_are_refused(axes) -> None:
    with pytest.raises(ImageError):
        plan_image(np.zeros((4, 5)), axes=axes)
