"""Axes and channels: what is meant when nothing is said, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.config import InputConfig
from napari_sa2net.data import plan_image
from napari_sa2net.data.axes import (
    channel_choice,
    channel_mapping,
    channel_numbers,
    choose_channels,
    index_words,
    mix_channels,
    resolve_axes,
)
from napari_sa2net.errors import AxesError, ChannelError


@pytest.mark.parametrize(
    ("shape", "names", "rgb"),
    [
        ((5, 6), "YX", False),
        ((5, 6, 3), "YXC", True),
        ((5, 6, 4), "YXC", True),
        ((5, 6, 2), "ZYX", False),
        ((3, 5, 6), "ZYX", False),
        ((2, 3, 5, 6), "TZYX", False),
        ((7, 5, 6, 3), "ZYXC", True),
        ((9, 7, 5, 6, 4), "TZYXC", True),
        ((3, 4), "YX", False),
        ((1, 1), "YX", False),
        ((5, 6, 1), "YXC", False),
        ((7, 5, 6, 1), "ZYXC", False),
        ((7, 5, 1, 1), "TZYX", False),
        ((0, 0, 3), "YXC", True),
    ],
)
def test_unsaid(shape: tuple[int, ...], names: str, rgb: bool) -> None:
    axes = resolve_axes(shape)
    assert (axes.names, axes.rgb) == (names, rgb)


@pytest.mark.parametrize(
    ("shape", "axes", "names", "rgb", "stack"),
    [
        ((3, 5, 6), "cyx", "CYX", False, ""),
        ((5, 6, 3), "YXC", "YXC", True, ""),
        ((5, 6, 3), "YXZ", "YXZ", False, "Z"),
        ((3, 5, 6), "SYX", "CYX", True, ""),
        ((2, 3, 5, 6), "TCYX", "TCYX", False, "T"),
        ((5, 6, 2, 3), "YXTC", "YXTC", True, "T"),
        ((2, 5, 6, 3), "CYXS", "ZYXC", True, "Z"),
        ((4, 5, 6), "PXY", "PXY", False, "P"),
    ],
)
def test_said(shape: tuple[int, ...], axes: str, names: str, rgb: bool, stack: str) -> None:
    resolved = resolve_axes(shape, axes)
    assert (resolved.names, resolved.rgb, resolved.stack) == (names, rgb, stack)


@pytest.mark.parametrize(
    ("shape", "axes", "says"),
    [
        ((), None, "single value"),
        ((7,), None, "row of 7"),
        ((5, 6), "Y", "names 1 axes"),
        ((5, 6), "ZYX", "has 2"),
        ((5, 6, 7), "YXY", "Y twice"),
        ((5, 6, 7), "ZTX", "no Y"),
        ((5, 6, 7), "CYZ", "no X"),
        ((5, 6), "Y1", "letters"),
        ((5, 6), "", "letters"),
        ((5, 6), ("Y", "X"), "string"),
        ((1,) * 40, None, "40 axes"),
    ],
)
def test_refused_axes(shape: tuple[int, ...], axes: str | None, says: str) -> None:
    with pytest.raises(AxesError, match=says):
        resolve_axes(shape, axes)


def test_default_channels() -> None:
    assert plan_image(np.zeros((4, 5))).channels == (0,)
    assert plan_image(np.zeros((4, 5, 3))).channels == (0, 1, 2)
    assert plan_image(np.zeros((4, 5, 4))).channels == (0, 1, 2)
    assert plan_image(np.zeros((3, 4, 5)), axes="CYX").channels == (0,)
    assert plan_image(np.zeros((4, 5, 2)), axes="YXC").channels == (0,)
    assert plan_image(np.zeros((4, 5, 3)), channels=np.int64(2)).channels == (2,)


@pytest.mark.parametrize("channels", [3, -1, (0, 9), (), "0", (0.0,), True, [None]])
def test_refused_channels(channels: object) -> None:
    with pytest.raises(ChannelError):
        plan_image(np.zeros((3, 4, 5)), axes="CYX", channels=channels)


def test_no_channel_axis_has_channel_0_only() -> None:
    assert plan_image(np.zeros((4, 5)), channels=0).channels == (0,)
    with pytest.raises(ChannelError, match="channel 0 only"):
        plan_image(np.zeros((4, 5)), channels=1)


@pytest.fixture
def planes() -> np.ndarray:
    """Five channels, (C, Y, X), of values that stay as they are without normalisation."""
    return np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)


@pytest.mark.parametrize(
    ("channels", "order", "n", "expected"),
    [
        ((0, 1, 2), "RGB", 3, lambda p: p[[0, 1, 2]]),
        ((2, 0, 4), "RGB", 3, lambda p: p[[2, 0, 4]]),
        ((0, 1, 2), "BGR", 3, lambda p: p[[2, 1, 0]]),
        ((0, 1, 2, 3), "BGR", 4, lambda p: p[[2, 1, 0, 3]]),
        ((3,), "RGB", 3, lambda p: p[[3, 3, 3]]),
        ((3,), "BGR", 4, lambda p: p[[3, 3, 3, 3]]),
        ((3,), "any", 3, lambda p: p[[3, 3, 3]]),
        ((3,), "any", 1, lambda p: p[[3]]),
        ((4, 1), "any", 2, lambda p: p[[4, 1]]),
        ((0, 1), "RGB", 3, lambda p: np.stack([p[:2].mean(0)] * 3)),
        ((0, 1, 2, 4), "RGB", 3, lambda p: np.stack([p[[0, 1, 2, 4]].mean(0)] * 3)),
        ((0, 1, 2), "RGB", 1, lambda p: p[:3].mean(0)[None]),
    ],
)
def test_channels_reach_the_network(planes, channels, order, n, expected) -> None:
    plan = plan_image(
        planes, "CYX", channels, False, InputConfig(channel_order=order), in_channels=n
    )
    np.testing.assert_allclose(plan.read((), 0, 6, 0, 7), expected(planes), atol=1e-6)


@pytest.mark.parametrize(("channels", "n"), [((0,), 2), ((0, 1), 3), ((0, 1, 2), 2)])
def test_separate_stains_must_fit(planes, channels, n) -> None:
    with pytest.raises(ChannelError, match=f"takes {n} channels"):
        plan_image(planes, "CYX", channels, True, InputConfig(channel_order="any"), n)


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        (None, None),
        (2, (2,)),
        (np.int64(0), (0,)),
        ("1", ("1",)),
        ("0, 2", ("0", "2")),
        ("0 2", ("0", "2")),
        ("DAPI,GFP", ("DAPI", "GFP")),
        (" far red , 1", ("far red", "1")),
        ((3, "GFP"), (3, "GFP")),
    ],
)
def test_channels_are_said_by_number_or_by_name(said: object, choice: object) -> None:
    assert channel_choice(said) == choice


@pytest.mark.parametrize("said", ["", "   ", ()])
def test_no_channel_is_named(said: object) -> None:
    with pytest.raises(ChannelError, match="No channel is named"):
        channel_choice(said)


def test_names_of_channels_are_looked_for_where_no_number_is_meant() -> None:
    names = ("DAPI", " far red", "488")
    assert channel_numbers(("far RED ", 0, "2"), 3, names) == (1, 0, 2)
    assert channel_numbers(("488",), 3, names) == (2,)
    for one, n, said, words in (
        ("GFP", 3, names, "no channel is called 'GFP': its channels are DAPI"),
        ("gfp", 2, ("GFP", "gfp"), "two channels are called 'gfp'"),
        ("GFP", 2, (), "it names no channel"),
        ("3", 3, names, "There is no channel 3: the image has channels 0 to 2"),
        ("-1", 3, (), "There is no channel -1"),
    ):
        with pytest.raises(ChannelError, match=words):
            channel_numbers((one,), n, said)


@pytest.mark.parametrize(
    ("axes", "index", "stack", "words"),
    [
        ("", (), (), ""),
        ("Z", (3,), (), "plane 3"),
        ("T", (0,), (), "time point 0"),
        ("TZ", (2, 12), (), "time point 2, plane 12"),
        ("TZ", (2, 12), (5, 60), "time point 2 of 0–4, plane 12 of 0–59"),
        ("TZ", (0, 12), (1, 60), "plane 12 of 0–59"),
        ("TZ", (2, 0), (5, 1), "time point 2 of 0–4"),
        ("", (3, 4), (), "plane 3, plane 4"),
        ("T", (3, 4), (), "plane 3, time point 4"),
        ("TZ", (2, 12), (5,), "time point 2, plane 12"),
    ],
)
def test_places_in_a_stack_in_words(axes, index, stack, words):
    assert index_words(axes, index, stack) == words


@pytest.mark.parametrize(
    ("channels", "n", "rgb", "chosen"),
    [
        (None, 3, True, (0, 1, 2)),
        (None, 4, False, (0,)),
        (None, 0, False, ()),
        (0, 1, False, (0,)),
        (2, 3, False, (2,)),
        ([2, 0, 2], 3, False, (2, 0, 2)),
        (np.array([1]), 2, False, (1,)),
        (3, 3, False, "the image has channels 0 to 2"),
        (-1, 3, False, "the image has channels 0 to 2"),
        (1, 1, False, "the image has channel 0 only"),
        (0, 0, False, "the image has no channel"),
        (True, 3, False, "There is no channel True"),
        (1.0, 3, False, "whole numbers from 0"),
        (["DAPI"], 3, False, "not by 'DAPI'"),
        ([], 3, False, "No channel is chosen"),
    ],
)
def test_channels_are_chosen_by_number(channels, n, rgb, chosen):
    if isinstance(chosen, tuple):
        assert choose_channels(channels, n, rgb) == chosen
    else:
        with pytest.raises(ChannelError, match=chosen):
            choose_channels(channels, n, rgb)


@pytest.mark.parametrize(
    ("n", "into", "order", "weights"),
    [
        (3, 3, "RGB", np.eye(3)),
        (3, 3, "BGR", np.eye(3)[::-1]),
        (2, 2, "any", np.eye(2)),
        (1, 3, "RGB", np.ones((3, 1))),
        (1, 3, "any", np.ones((3, 1))),
        (2, 3, "RGB", np.full((3, 2), 0.5)),
        (4, 3, "BGR", np.full((3, 4), 0.25)),
        (4, 1, "any", np.full((1, 4), 0.25)),
        (0, 1, "any", np.ones((1, 0))),
        (2, 3, "any", "takes 3 channels, and 2 are chosen; choose 3"),
        (1, 2, "any", "takes 2 channels, and 1 is chosen; choose 2"),
        (3, 2, "any", "takes 2 channels, and 3 are chosen; choose 2"),
    ],
)
def test_channels_are_mixed_into_those_of_the_network(n, into, order, weights):
    if isinstance(weights, str):
        with pytest.raises(ChannelError, match=weights):
            channel_mapping(n, into, order)
        return
    mapping = channel_mapping(n, into, order)
    np.testing.assert_allclose(mapping, weights)
    values = np.random.default_rng(0).random((n, 4, 5)).astype(np.float32)
    mixed = mix_channels(values, mapping)
    np.testing.assert_allclose(mixed, np.einsum("nk,khw->nhw", weights, values), rtol=1e-6)
    assert mixed.dtype == np.float32
    assert mixed.flags.c_contiguous


def test_any_weights_mix_channels():
    mapping = np.array([[0.5, 0, 2], [0, 1, 0], [0.5, 0, 2], [0, 0, 0.5]], np.float32)
    values = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        mix_channels(values, mapping), np.einsum("nk,khw->nhw", mapping, values), rtol=1e-6
    )
