"""Axes, boxes and areas, without a viewer."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.data.axes import resolve_axes
from napari_sa2net.widgets.napari_port import reading as g


@pytest.mark.parametrize(
    ("ndim", "rgb", "labels", "axes"),
    [
        (2, False, (), "YX"),
        (2, True, (), "YXS"),
        (3, False, (), "ZYX"),
        (4, False, (), "TZYX"),
        (3, True, (), "ZYXS"),
        (3, False, ("t", "y", "x"), "TYX"),
        (3, False, ("Channel", "y", "x"), "CYX"),
        (4, False, ("time", "c", "y", "x"), "TCYX"),
        (3, False, ("-3", "-2", "-1"), "ZYX"),
        (4, False, ("z", "z", "y", "x"), "TZYX"),
    ],
)
def test_axes_are_guessed(ndim: int, rgb: bool, labels: tuple[str, ...], axes: str) -> None:
    assert g.guess_axes(ndim, rgb, labels) == axes


@pytest.mark.parametrize("axes", ["ZYX", "TZYX", "ZYXS", "PTZYX", "VMPTZYX"])
def test_every_choice_of_axes_is_understood(axes: str) -> None:
    choices = g.axes_choices(axes)
    assert choices[0][0] == axes
    assert len({spelling for spelling, _ in choices}) == len(choices)
    for spelling, words in choices:
        shape = tuple(range(5, 5 + len(spelling) - spelling.count("S"))) + (3,) * ("S" in axes)
        assert resolve_axes(shape, spelling).labels.endswith("YX")
        assert words


def test_a_plane_has_no_choice_of_axes() -> None:
    assert g.axes_choices("YX") == []
    assert g.axes_choices("YXS") == []


def test_channels_are_offered_for_grey_stacks_only() -> None:
    assert any("C" in spelling for spelling, _ in g.axes_choices("ZYX"))
    assert not any("C" in spelling for spelling, _ in g.axes_choices("ZYXS"))


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ([(-50, -50), (500, 500)], (0, 100, 0, 80)),
        ([(10, 20), (30, 40)], (10, 31, 20, 41)),
        ([(10.4, 20.4), (10.6, 20.6)], (10, 12, 20, 22)),
        ([(-20, -20), (-10, -10)], (0, 0, 0, 0)),
        ([(300, 10), (400, 20)], (100, 100, 10, 21)),
    ],
)
def test_visible_box_is_clipped(
    corners: list[tuple[float, float]], box: tuple[int, ...]
) -> None:
    assert g.box_around(np.array(corners, float), (100, 80)) == box


def test_linear_part_and_area() -> None:
    matrix = np.array([[2.0, 0.5], [0.0, 3.0]])
    points = g.unit_points(2) @ matrix.T + [7, -3]
    np.testing.assert_allclose(g.linear_part(points), matrix)
    assert g.parallelogram_area(matrix[:, 0], matrix[:, 1]) == pytest.approx(6)
