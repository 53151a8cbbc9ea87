"""Watershed of a landscape over a mask, on the flat list of the mask's pixels.

Every pixel climbs to a summit, which cuts the mask into basins; basins are then merged over
shallow passes. This is the h-maxima watershed without greyscale reconstruction and without
a queue: whole-array steps only, so the cost follows the mask and not the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Index = NDArray[np.integer[Any]]
Floats = NDArray[np.float32]

#: Rounds of the distance transform over the mask before scipy's takes over.
DISTANCE_ROUNDS = 48


def inner_distance(mask: Mask, pixels: Index) -> Floats:
    """Exact Euclidean distance of mask pixels to the nearest pixel outside the mask.

    Beyond the image there is nothing: a cell that the border cuts is not narrower for it.

    Parameters
    ----------
    mask : bool array, shape (H, W)
    pixels : int array
        ``np.flatnonzero(mask)``

    Returns
    -------
    float32 array, shape of pixels; H + W where there is nothing outside.
    """
    height, width = mask.shape
    far = min(height + width, 46_000)  # its square fits an int32
    if pixels.size == mask.size:
        return np.full(pixels.size, far, np.float32)
    # Columns: distance to the nearest gap above and below. Rows: the best of the neighbours
    # at growing distance, for those pixels that can still gain.
    pad = DISTANCE_ROUNDS
    squared = np.full((height, width + 2 * pad), far * far, np.int32)
    inside = mask.astype(np.int32)
    above = np.empty((height, width), np.int32)
    run = np.full(width, far, np.int32)
    for y in range(height):
        run += 1
        run *= inside[y]
        above[y] = run
    run[:] = far
    for y in range(height - 1, -1, -1):
        run += 1
        run *= inside[y]
        nearest = np.minimum(np.minimum(run, above[y]), far)
        np.multiply(nearest, nearest, out=squared[y, pad:-pad])
    line = squared.ravel()
    at = pixels + (pixels // width) * (2 * pad)
    best = line[pad:].take(at)
    if best.mean(dtype=np.float64) > (pad / 2) ** 2:  # large objects: many rounds
        return _scipy_distance(mask, pixels)
    active = np.flatnonzero(best > 1)
    at, own = at[active], best[active]
    for step in range(1, pad + 1):
        np.minimum(own, line[pad - step :].take(at) + step * step, out=own)
        np.minimum(own, line[pad + step :].take(at) + step * step, out=own)
        going = own > (step + 1) ** 2
        count = np.count_nonzero(going)
        if count < 0.8 * own.size:  # finished ones may stay: they cannot gain any more
            best[active] = own
            active, at, own = active[going], at[going], own[going]
        if count == 0:
            return np.sqrt(best, dtype=np.float32)
    return _scipy_distance(mask, pixels)


def _scipy_distance(mask: Mask, pixels: Index) -> Floats:
    result: Floats = ndimage.distance_transform_edt(mask).ravel()[pixels].astype(np.float32)
    return result


class Basins:
    """Basins of a landscape over a mask.

    Parameters
    ----------
    shape : (H, W)
    pixels : int array, shape (n,)
        Flat positions of the mask's pixels in raster order, at least one.
    height : float array, shape (n,)
        The landscape there, finite.

    Attributes
    ----------
    basin : int array, shape (n,)
        Number of the basin of each pixel.
    peak, area : array, shape (basins,)
        Height of the summit and number of pixels of each basin.
    first, second, saddle : array, shape (pairs,)
        Pairs of basins that touch (diagonals too) and the height of the highest pass.
    """

    def __init__(self, shape: tuple[int, int], pixels: Index, height: Floats) -> None:
        # One pixel of padding, so that neighbours never wrap around; positions count from
        # the first pixel inside it, so that all neighbours are slices of the padded image.
        stride = shape[1] + 2
        at = pixels + 2 * (pixels // shape[1])
        height = height.astype(np.float32, copy=False)
        ground = np.full((shape[0] + 2) * stride, -np.inf, np.float32)
        ground[stride + 1 :][at] = height
        place = np.full(ground.size, -1, np.int32)
        place[stride + 1 :][at] = np.arange(at.size, dtype=np.int32)

        parent = _roots(_uphill(ground, place, at, height, stride))
        summit = np.flatnonzero(parent == np.arange(at.size))
        number = np.empty(at.size, np.int32)
        number[summit] = np.arange(summit.size, dtype=np.int32)
        self.basin: Index = number[parent]
        self.peak: Floats = height[summit]
        self.area: Index = np.bincount(self.basin, minlength=summit.size)
        place[stride + 1 :][at] = self.basin
        self.first, self.second, self.saddle = _passes(ground, place, at, self.basin, stride)

    def merged(self, depth: float, smallest: int = 0) -> Index:
        """Merge over passes less than ``depth`` below the lower of the two summits.

        Basins of fewer than ``smallest`` pixels merge whatever the depth, over their highest
        pass and if it leads to a higher summit. Every connected part of the mask keeps at
        least its highest summit. All basins whose highest pass leads to a higher neighbour
        merge at once, in rounds until nothing changes; without ``smallest`` this equals
        merging one by one from the highest pass down.

        Returns
        -------
        int array, shape (basins,) : the basin that each one ended in.
        """
        n = self.peak.size
        peak = self.peak
        area: Index = self.area
        # Of equal summits the first pixel's is the higher one.
        rank = np.empty(n, np.int64)
        rank[np.lexsort((-np.arange(n), peak))] = np.arange(n)
        first: Index = self.first
        second: Index = self.second
        saddle = self.saddle
        group: Index = np.arange(n)
        while first.size:
            low = np.where(rank[first] < rank[second], first, second)
            high = first + second - low
            best = np.full(n, -np.inf, np.float32)  # highest pass of every basin
            np.maximum.at(best, first, saddle)
            np.maximum.at(best, second, saddle)
            shallow = (peak[low] - saddle < depth) | (area[low] < smallest)
            up = np.flatnonzero((saddle == best[low]) & shallow)
            if up.size == 0:
                break
            # Of equal passes the one written last counts: to the highest neighbour.
            up = up[np.argsort(rank[high[up]])]
            parent: Index = np.arange(n)
            parent[low[up]] = high[up]
            parent = _roots(parent)
            group = parent[group]
            area = np.bincount(group, weights=self.area, minlength=n).astype(np.int64)
            first, second = parent[first], parent[second]
            apart = first != second
            first, second, saddle = _highest(first[apart], second[apart], saddle[apart])
        return group


def _uphill(
    ground: Floats, place: Index, at: Index, height: Floats, stride: int
) -> NDArray[np.int64]:
    """Number of the pixel that each pixel climbs to: its steepest higher neighbour, or itself.

    On a plateau the way goes to the neighbour before it in raster order.
    """
    origin = stride + 1
    before = (-1, -stride, -stride - 1, -stride + 1)
    offsets = np.array([0, *before, 1, stride, stride + 1, stride - 1])
    gain = np.zeros(at.size, np.float32)
    choice = np.zeros(at.size, np.int8)
    for number, offset in enumerate(offsets[1:].tolist(), start=1):
        rise = ground[origin + offset :].take(at)
        rise -= height
        if abs(offset) not in (1, stride):
            rise *= np.float32(0.5**0.5)
        better = rise > gain
        np.copyto(gain, rise, where=better)
        np.copyto(choice, np.int8(number), where=better)
    flat = np.flatnonzero(gain == 0)
    for number, offset in enumerate(before, start=1):
        level = ground[origin + offset :].take(at[flat]) == height[flat]
        choice[flat[level]] = number
    return place[origin:].take(at + offsets[choice]).astype(np.int64)


def _roots(parent: Index) -> Index:
    """Follow parents to the end; there are no rings, since parents are strictly higher."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above


def _passes(
    ground: Floats, basin_at: Index, at: Index, basin: Index, stride: int
) -> tuple[Index, Index, Floats]:
    """Highest pass between every two basins that touch: (first, second, height)."""
    origin = stride + 1
    firsts, seconds, heights = [], [], []
    for offset in (1, stride - 1, stride, stride + 1):
        other = basin_at[origin + offset :].take(at)
        touch = np.flatnonzero((other >= 0) & (other != basin))
        firsts.append(basin[touch])
        seconds.append(other[touch])
        here = at[touch] + origin
        heights.append(np.minimum(ground[here], ground[here + offset]))
    first = np.concatenate(firsts).astype(np.int64)
    second = np.concatenate(seconds).astype(np.int64)
    return _highest(first, second, np.concatenate(heights))


def _highest(first: Index, second: Index, saddle: Floats) -> tuple[Index, Index, Floats]:
    """One entry per pair, the lower number first, with its highest pass."""
    if first.size == 0:
        return first, second, saddle
    first, second = np.minimum(first, second), np.maximum(first, second)
    key = first * (int(second.max()) + 1) + second
    order = np.argsort(key, kind="stable")
    key = key[order]
    start: Any = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    chosen = order[start]
    return first[chosen], second[chosen], np.maximum.reduceat(saddle[order], start)
