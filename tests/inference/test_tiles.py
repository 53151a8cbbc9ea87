"""Tiles cover every pixel once, on the stride grid, with their halo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.predict import kept_range
from napari_sa2net.inference.tiling import (
    MAX_SCALE,
    MIN_SCALE,
    Axis,
    network_scale,
    plan_tiles,
    split_axis,
)


@given(length=st.integers(1, 5000), halo=st.integers(0, 8), core=st.integers(1, 40))
def test_one_axis(length: int, halo: int, core: int) -> None:
    halo *= 16
    tile = 2 * halo + 16 * core
    ranges = split_axis(length, tile, halo)
    position = 0
    for (c0, c1), (r0, r1) in ranges:
        assert c0 == position < c1
        position = c1
        assert r0 % 16 == 0
        assert c0 % 16 == 0
        assert r1 % 16 == 0 or r1 == length
        assert r1 - r0 <= tile
        assert 0 <= r0 <= c0 < c1 <= r1 <= length
        assert r0 == 0 or c0 - r0 >= halo
        assert r1 == length or r1 - c1 >= halo
    assert position == length
    if -(-length // 16) * 16 <= tile:
        assert len(ranges) == 1


def test_no_more_tiles_than_needed() -> None:
    assert len(plan_tiles(1024, 1024, 1024, 64)) == 1
    assert len(plan_tiles(1020, 1024, 512, 64)) == 9
    # Two tiles with one halo each: 2 × (512 − 64) = 896.
    assert len(plan_tiles(896, 16, 512, 64)) == 2
    assert len(plan_tiles(897, 16, 512, 64)) == 3


def test_tiles_of_a_plane_cover_it_once() -> None:
    seen = np.zeros((333, 777), int)
    for tile in plan_tiles(333, 777, 256, 32):
        core = tile.core
        seen[core.y0 : core.y1, core.x0 : core.x1] += 1
        assert max(tile.read.shape) <= 256
    assert (seen == 1).all()


@pytest.mark.parametrize(("tile", "halo"), [(100, 16), (128, 60), (128, 64), (64, -16)])
def test_impossible_tiles(tile: int, halo: int) -> None:
    with pytest.raises(SettingsError, match="tile"):
        plan_tiles(500, 500, tile, halo)


@pytest.mark.parametrize(
    ("diameter", "trained", "spatial", "scale"),
    [
        (None, 24, (500, 500), 1),
        (24, None, (500, 500), 1),
        (24, 24, (500, 500), 1),
        (12, 24, (500, 500), 2),
        (48, 24, (500, 500), 0.5),
        # so close to 1 that it is not worth it, on both sides
        (24 / 1.049, 24, (500, 500), 1),
        (24 / 0.951, 24, (500, 500), 1),
        (24 / 1.051, 24, (500, 500), 1.051),
        (24 / 0.949, 24, (500, 500), 0.949),
        # bounds
        (24 * 8, 24, (5000, 5000), 1 / 8),
        (24 * 9, 24, (5000, 5000), 1 / 8),
        (24 / 8, 24, (500, 500), 8),
        (24 / 9, 24, (500, 500), 8),
        # the shorter side has a pixel of the deepest stage at least
        (24 * 4, 24, (500, 32), 0.5),
        (24 * 4, 24, (64, 500), 0.25),
        (24 * 4, 24, (8, 500), 1),
        (24 / 2, 24, (8, 500), 2),
        (24, 24, (0, 5), 1),
    ],
)
def test_the_scale_that_brings_cells_to_size(diameter, trained, spatial, scale) -> None:
    assert network_scale(diameter, trained, spatial) == pytest.approx(scale)


@pytest.mark.parametrize("scale", [MIN_SCALE, 0.37, 1.0, 2.6, MAX_SCALE])
def test_what_is_kept_of_a_tile_holds_all_that_its_pixels_are_made_of(scale: float) -> None:
    axis = Axis(256, round(256 * scale), scale)
    for start, stop in ((0, 64), (64, 128), (128, 256)):
        low, high = kept_range(axis, 0, start, stop, 256)
        assert low % 16 == high % 16 == 0
        assert max(0, start - 16) <= low <= start < stop <= high <= min(256, stop + 16)
        centres = (np.arange(axis.n_out) + 0.5) / scale
        own = np.flatnonzero((centres >= start) & (centres < stop))
        first, last = axis.needs(int(own[0]), int(own[-1]) + 1)
        assert (low <= first < last <= high) or axis.is_identity
    # within what was read, and counted from there
    assert kept_range(axis, 32, 64, 96, 112) == ((32, 64) if scale == 1 else (16, 80))
    assert kept_range(axis, 64, 64, 96, 96) == (0, 32)
