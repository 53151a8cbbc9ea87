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
Index = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Rounds of the distance transform over the mask before scipy's takes over.
DISTANCE_ROUNDS = 48
#: Slope that makes all heights different, so that a plateau has one way up.
_TILT = 1e-13


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
    float64 array, shape of pixels; H + W where there is nothing outside.
    """
    height, width = mask.shape
    far = height + width
    if pixels.size == mask.size:
        return np.full(pixels.size, float(far))
    # Columns: distance to the nearest gap above and below. Rows: the best of the neighbours
    # at growing distance, for those pixels that can still gain.
    number = mask.astype(np.int32)
    above = np.empty((height, width), np.int32)
    below = np.empty((height, width), np.int32)
    above[0], below[-1] = far * number[0], far * number[-1]
    for y in range(1, height):
        np.add(above[y - 1], 1, out=above[y])
        above[y] *= number[y]
        np.add(below[-y], 1, out=below[-y - 1])
        below[-y - 1] *= number[-y - 1]
    pad = DISTANCE_ROUNDS
    squared = np.full((height, width + 2 * pad), far * far, np.int64)
    nearest = squared[:, pad:-pad]
    nearest[...] = np.minimum(above, below)
    np.minimum(nearest, far, out=nearest)
    nearest *= nearest
    line = squared.ravel()
    where = pixels + (pixels // width) * (2 * pad) + pad
    best = line[where]
    active = np.flatnonzero(best > 1)
    at, own = where[active], best[active]
    for step in range(1, pad + 1):
        beside = np.minimum(line[at - step], line[at + step])
        beside += step * step
        np.minimum(own, beside, out=own)
        going = own > (step + 1) ** 2
        if not going.all():
            best[active] = own
            active, at, own = active[going], at[going], own[going]
        if active.size == 0:
            return np.sqrt(best)
    result: Floats = ndimage.distance_transform_edt(mask).ravel()[pixels]
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
        stride = shape[1] + 2  # one pixel of padding: neighbours never wrap around
        flat = pixels + 2 * (pixels // shape[1]) + stride + 1
        height = height - flat * _TILT
        ground = np.full((shape[0] + 2) * stride, -np.inf)
        ground[flat] = height
        place = np.full(ground.size, -1, np.int64)
        place[flat] = np.arange(flat.size)

        parent = place[_uphill(ground, flat, height, stride)]
        parent = _roots(parent)
        summit = np.flatnonzero(parent == np.arange(flat.size))
        number = np.empty(flat.size, np.int64)
        number[summit] = np.arange(summit.size)
        self.basin: Index = number[parent]
        self.peak: Floats = height[summit]
        self.area: Index = np.bincount(self.basin, minlength=summit.size)
        place[flat] = self.basin
        self.first, self.second, self.saddle = _passes(ground, place, flat, self.basin, stride)

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
        peak, area = self.peak, self.area
        first, second, saddle = self.first, self.second, self.saddle
        group = np.arange(n)
        while first.size:
            low = np.where(peak[first] < peak[second], first, second)
            high = first + second - low
            best = np.full(n, -np.inf)  # highest pass of every basin
            np.maximum.at(best, first, saddle)
            np.maximum.at(best, second, saddle)
            shallow = (peak[low] - saddle < depth) | (area[low] < smallest)
            up = np.flatnonzero((saddle == best[low]) & shallow)
            if up.size == 0:
                break
            # Of equal passes the one written last counts: to the highest neighbour.
            up = up[np.argsort(peak[high[up]], kind="stable")]
            parent = np.arange(n)
            parent[low[up]] = high[up]
            parent = _roots(parent)
            group = parent[group]
            area = np.bincount(group, weights=self.area, minlength=n).astype(np.int64)
            first, second = parent[first], parent[second]
            apart = first != second
            first, second, saddle = _highest(first[apart], second[apart], saddle[apart])
        return group


def _uphill(ground: Floats, flat: Index, height: Floats, stride: int) -> Index:
    """Flat position of the steepest higher neighbour of each pixel, or of itself."""
    gain = np.zeros(flat.size)
    choice = np.zeros(flat.size, np.int8)
    offsets = np.array(
        [0, 1, -1, stride, -stride, *(s * stride + t for s in (1, -1) for t in (1, -1))]
    )
    rise = np.empty(flat.size)
    better = np.empty(flat.size, bool)
    for number, offset in enumerate(offsets[1:], start=1):
        np.take(ground, flat + offset, out=rise)
        rise -= height
        if number > 4:  # diagonal
            rise *= 0.5**0.5
        np.greater(rise, gain, out=better)
        np.copyto(gain, rise, where=better)
        np.copyto(choice, np.int8(number), where=better)
    uphill: Index = flat + offsets[choice]
    return uphill


def _roots(parent: Index) -> Index:
    """Follow parents to the end; there are no rings, since parents are strictly higher."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above


def _passes(
    ground: Floats, basin_at: Index, flat: Index, basin: Index, stride: int
) -> tuple[Index, Index, Floats]:
    """Highest pass between every two basins that touch: (first, second, height)."""
    firsts, seconds, heights = [], [], []
    for offset in (1, stride - 1, stride, stride + 1):
        other = basin_at[flat + offset]
        touch = np.flatnonzero((other >= 0) & (other != basin))
        firsts.append(basin[touch])
        seconds.append(other[touch])
        at = flat[touch]
        heights.append(np.minimum(ground[at], ground[at + offset]))
    return _highest(np.concatenate(firsts), np.concatenate(seconds), np.concatenate(heights))


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
