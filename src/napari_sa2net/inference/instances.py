"""Class probabilities to labelled objects, and objects of planes to objects of stacks.

The probabilities and the shape of the foreground make a landscape whose hills are cells
(:func:`_landscape`). The foreground is cut between two hills where the pass is deep enough
below the lower summit (:mod:`napari_sa2net.inference.instances`); how deep, the split setting
says. A foreground component keeps at least one object, so that small ones are never lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net.config import CLASSES, DISTANCE, OUTPUTS, InstanceConfig
from napari_sa2net.errors import SettingsError
from napari_sa2net.measure import confidence_of, confidence_sums
from napari_sa2net.metrics import overlap_table

# --------------------------------------------------------------------------------------------
# Watershed of a landscape over a mask, on the flat list of the mask's pixels.
#
# Every pixel climbs to a summit, which cuts the mask into basins; basins are then merged over
# shallow passes. This is the h-maxima watershed without greyscale reconstruction and without
# a queue: whole-array steps only, so the cost follows the mask and not the image.

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


Labels = NDArray[np.int32]

# --- parameters of the landscape and its cuts ------------------------------------------

#: Depth of a pass, in landscape units, that cuts at split = 0.5; infinite at 0.
DEPTH = 0.3
#: Depth at split = 1: shallower passes are rounding noise.
DEPTH_MIN = 0.01
#: Added to interior + boundary before dividing, where both are next to nothing.
SHARE_FLOOR = 1e-3
#: Weight of the logarithm of the distance to the background, with three classes ...
DISTANCE_WEIGHT = 0.2
#: ... and where the network has no boundary class.
DISTANCE_WEIGHT_BINARY = 0.6
#: The depth where the network gives the distance to the edge itself.
DEPTH_WITH_DISTANCE = 0.25
#: Pixels added to the distance before the logarithm, against steps on a coarse grid.
DISTANCE_OFFSET = 1.0
#: Parts smaller than this (px²) are not cut off.
SMALLEST_PART = 5

_EIGHT = np.ones((3, 3), dtype=bool)


def label_objects(
    probability: NDArray[np.floating[Any]], classes: Sequence[str], config: InstanceConfig
) -> Labels:
    """Separate class probabilities into labelled objects.

    Parameters
    ----------
    probability : float array, shape (C, H, W)
        Class probabilities at image scale; NaN counts as 0.
    classes : sequence of str, length C
        `config.OUTPUTS`, or without the distance, ("background", "foreground") or
        ("foreground",).
    config : InstanceConfig
        Threshold, split, smallest area (px² of this grid), least confidence, holes, border.

    Returns
    -------
    int32 array, shape (H, W)
        0 is background; objects are numbered 1..n by their first pixel in raster order and
        are connected (diagonals count). The same input gives the same labels.

    Raises
    ------
    SettingsError
        If the classes are unknown or do not fit the array.
    """
    (labels,) = label_at_splits(probability, classes, config, (config.split,))
    return labels


def label_at_splits(
    probability: NDArray[np.floating[Any]],
    classes: Sequence[str],
    config: InstanceConfig,
    splits: Sequence[float],
) -> Iterator[Labels]:
    """As `label_objects`, with each of several splits; most of the work is done once."""
    probability = np.asarray(probability)
    foreground = foreground_probability(probability, classes)
    with np.errstate(invalid="ignore"):
        mask = foreground >= config.foreground
    pixels = np.flatnonzero(mask)
    basins = None
    if pixels.size and any(splits):
        landscape = _landscape(mask, pixels, probability, foreground, list(classes))
        basins = Basins((mask.shape[0], mask.shape[1]), pixels, landscape)
    middle = DEPTH_WITH_DISTANCE if DISTANCE in classes else DEPTH
    for split in splits:
        if split == 0 or basins is None:
            labels = ndimage.label(mask, structure=_EIGHT, output=np.int32)[0]
        else:
            group = basins.merged(cut_depth(split, middle), SMALLEST_PART)
            labels = np.zeros(mask.shape, np.int32)
            labels.ravel()[pixels] = (group + 1).astype(np.int32)[basins.basin]
        yield _clean(labels, foreground, config)


def foreground_probability(
    probability: NDArray[np.floating[Any]], classes: Sequence[str]
) -> NDArray[np.floating[Any]]:
    """Probability (H, W) that a pixel belongs to any object, from (C, H, W).

    Raises
    ------
    SettingsError
        If the classes are unknown or do not fit the array.
    """
    names = list(classes)
    if probability.ndim != 3 or probability.shape[0] != len(names):
        raise SettingsError(
            f"Probabilities of shape (classes, Y, X) with {len(names)} classes are needed "
            f"({', '.join(names)}), but the array has shape {probability.shape}."
        )
    known = (sorted(CLASSES), sorted(OUTPUTS), ["background", "foreground"])
    if sorted(names) in known:
        result: NDArray[np.floating[Any]] = 1 - probability[names.index("background")]
        return result
    if names == ["foreground"]:
        return probability[0]
    raise SettingsError(
        f"Objects cannot be made from the classes {', '.join(names) or '(none)'}; known are "
        "background + interior + boundary (+ distance), background + foreground, and "
        "foreground alone."
    )


def cut_depth(split: float, middle: float = DEPTH) -> float:
    """Depth below the lower summit from which a pass cuts.

    Parameters
    ----------
    split : float
        The setting, above 0.
    middle : float
        The depth at split = 0.5.
    """
    return max(middle * (1 - split) / split, DEPTH_MIN)


def _landscape(
    mask: NDArray[np.bool_],
    pixels: Index,
    probability: NDArray[np.floating[Any]],
    foreground: NDArray[np.floating[Any]],
    names: list[str],
) -> Floats:
    """Height of every foreground pixel: what the network saw plus the shape of the mask.

    The logarithm makes a neck count by its width relative to the cells on both sides,
    whatever their size.
    """
    if DISTANCE in names:
        # As it is: smoothing would fill the passes between cells of a few pixels.
        seen: Floats = np.nan_to_num(probability[names.index(DISTANCE)]).ravel()[pixels]
        return seen
    distance = np.log(inner_distance(mask, pixels) + DISTANCE_OFFSET)
    if "boundary" in names:
        interior = np.nan_to_num(probability[names.index("interior")].ravel()[pixels])
        boundary = np.nan_to_num(probability[names.index("boundary")].ravel()[pixels])
        # The interior's share of the foreground, not interior - boundary: that rises again
        # from the middle of the boundary outwards, and cuts splinters off its outer half.
        share = interior / (interior + boundary + SHARE_FLOOR)
        return share + DISTANCE_WEIGHT * distance
    return foreground.ravel()[pixels] + DISTANCE_WEIGHT_BINARY * distance


# --- after the watershed ---------------------------------------------------------------


def _clean(
    labels: Labels, foreground: NDArray[np.floating[Any]], config: InstanceConfig
) -> Labels:
    """Fill holes, drop small, border and doubtful objects, number in raster order."""
    if labels.size == 0:
        return labels
    if config.fill_holes:
        labels = fill_holes(labels)
    line = labels.ravel()
    pixels = np.flatnonzero(line)
    values = line[pixels]
    keep = np.bincount(values, minlength=1) >= config.min_size
    if config.remove_border:
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[edge] = False
    if config.min_confidence > 0:
        keep &= confidences(labels, foreground) >= config.min_confidence
    dropped = ~keep[values]
    if dropped.any():
        line[pixels[dropped]] = 0
        if config.fill_holes:  # what was dropped may have stood in a hole
            labels = fill_holes(labels)
    return relabel_raster(labels)


def confidences(
    labels: NDArray[np.integer[Any]], foreground: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Confidence of objects 0 … n of labels (H, W), as in the object table; 1 of background."""
    pixels = np.flatnonzero(labels)
    values = labels.ravel()[pixels]
    n = int(values.max(initial=0)) + 1
    found = confidence_of(*confidence_sums(values, foreground.ravel()[pixels], n))
    found[0] = 1
    return found


def fill_holes(labels: Labels) -> Labels:
    """Give background that is enclosed by one object alone to that object.

    Enclosed means: a 4-connected piece of background that touches neither the image border
    nor a second object. Takes and returns integer labels (H, W).
    """
    background = labels == 0
    piece, count = ndimage.label(background)
    inside = np.ones(count + 1, bool)
    inside[0] = False
    for edge in (piece[0], piece[-1], piece[:, 0], piece[:, -1]):
        inside[edge] = False
    if not inside.any():
        return labels
    at = np.flatnonzero(inside.take(piece))  # never on the border: neighbours exist
    number = piece.ravel()[at]
    lowest = np.full(count + 1, np.iinfo(labels.dtype).max, labels.dtype)
    highest = np.zeros(count + 1, labels.dtype)
    line = labels.ravel()
    for offset in (1, -1, labels.shape[1], -labels.shape[1]):
        beside = line[at + offset]
        touch = beside > 0
        np.minimum.at(lowest, number[touch], beside[touch])
        np.maximum.at(highest, number[touch], beside[touch])
    one = lowest[number] == highest[number]
    filled = line.copy()
    filled[at[one]] = highest[number[one]]
    return filled.reshape(labels.shape)


def relabel_raster(labels: Labels) -> Labels:
    """Number objects 1..n in the order of their first pixels (int32, same shape)."""
    line = labels.ravel()
    pixels = np.flatnonzero(line)
    if pixels.size == 0:
        return labels.astype(np.int32, copy=False)
    values = line[pixels]
    first = np.full(int(values.max()) + 1, -1, np.int64)
    first[values[::-1]] = pixels[::-1]  # of repeated indices the last one stays
    present = np.flatnonzero(first >= 0)
    number = np.zeros(first.size, np.int32)
    number[present[np.argsort(first[present])]] = np.arange(1, present.size + 1)
    return number.take(labels)


# --- stacks ----------------------------------------------------------------------------


class PlaneLinker:
    """Carry labels from plane to plane; feed the planes of one Z stack in order.

    Two objects of neighbouring planes are one when their intersection over union is at least
    ``overlap``; each object links to at most one other, the best pairs first. Only the
    previous plane is kept in memory.
    """

    def __init__(self, overlap: float) -> None:
        self.overlap = overlap
        self.count = 0
        self._previous: Labels | None = None

    def add(self, plane: NDArray[np.integer[Any]]) -> Labels:
        """Return the plane (H, W) with linked labels (int32); new objects get new numbers."""
        current = relabel_raster(np.asarray(plane))
        n = int(current.max(initial=0))
        number = np.zeros(n + 1, np.int32)
        if self._previous is not None and n and self._previous.any():
            for old, new in _match(self._previous, current, self.overlap):
                number[new] = old
        fresh = np.flatnonzero(number[1:] == 0) + 1
        number[fresh] = self.count + np.arange(1, fresh.size + 1)
        self.count += fresh.size
        self._previous = number[current]
        return self._previous.copy()


def _match(previous: Labels, current: Labels, overlap: float) -> list[tuple[int, int]]:
    """Best pairs first (intersection over union, then labels), every label used once."""
    found = overlap_table(previous, current)
    found = found.of(found.iou >= overlap)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for at in np.lexsort((found.j, found.i, -found.iou)):
        old, new = int(found.before[found.i[at]]), int(found.after[found.j[at]])
        if old not in pairs and new not in taken:
            pairs[old] = new
            taken.add(new)
    return list(pairs.items())
