"""Class probabilities to labelled objects: watershed basins merged where they are shallow.

The probabilities make a landscape (see :func:`_landscape`) whose hills are cells. Every
foreground pixel climbs to its summit, which cuts the foreground into basins; a basin whose
summit rises less than a depth ``h`` above the pass to a higher neighbour is merged into it.
That is the h-maxima watershed, without its slow greyscale reconstruction, and a foreground
component keeps at least one object whatever ``h`` is. Everything works on the flat list of
foreground pixels, so the cost follows the cells and not the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net.config import InstanceConfig
from napari_sa2net.errors import SettingsError

Labels = NDArray[np.int32]
_Index = NDArray[np.int64]
_Float = NDArray[np.float64]

# --- parameters, chosen on validation images -------------------------------------------

#: Depth h of a pass, in landscape units, at split = 0.5; it grows to infinity at 0.
DEPTH = 0.15
#: Exponent of ((1 - split) / split) in the depth.
DEPTH_POWER = 1.0
#: Depth at split = 1: shallower passes are rounding noise.
DEPTH_MIN = 0.01
#: Weight of the boundary probability in the landscape (three classes).
BOUNDARY_WEIGHT = 1.0
#: Weight of the logarithm of the distance to the background, with three classes ...
DISTANCE_WEIGHT = 0.3
#: ... and where the network has no boundary class.
DISTANCE_WEIGHT_BINARY = 0.6
#: Pixels added to the distance before the logarithm, against steps on a coarse grid.
DISTANCE_OFFSET = 1.0
#: Parts smaller than this (px²) are never cut off.
SMALLEST_PART = 5
#: Rounds of the exact distance transform over the foreground before scipy's takes over.
DISTANCE_ROUNDS = 64

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
        ("background", "interior", "boundary"), ("background", "foreground") or
        ("foreground",).
    config : InstanceConfig
        Threshold, split, smallest area (px² of this grid), holes, border.

    Returns
    -------
    int32 array, shape (H, W)
        0 is background; objects are numbered 1..n by their first pixel in raster order.
        The same input gives the same labels, whatever the threads.

    Raises
    ------
    SettingsError
        If the classes are unknown or do not fit the array.
    """
    probability = np.asarray(probability)
    foreground = foreground_probability(probability, classes)
    with np.errstate(invalid="ignore"):
        mask = foreground >= config.foreground
    if config.split == 0:
        labels = ndimage.label(mask, structure=_EIGHT, output=np.int32)[0]
    else:
        labels = _split(mask, probability, foreground, classes, config.split)
    return _clean(labels, config)


def foreground_probability(
    probability: NDArray[np.floating[Any]], classes: Sequence[str]
) -> NDArray[np.floating[Any]]:
    """Probability (H, W) that a pixel belongs to any object, from (C, H, W).

    Raises
    ------
    SettingsError
        If the classes are unknown or do not fit the array.
    """
    if probability.ndim != 3 or probability.shape[0] != len(classes):
        raise SettingsError(
            f"Probabilities of shape (classes, Y, X) are needed with {len(classes)} classes "
            f"({', '.join(classes)}), but the array has shape {probability.shape}."
        )
    names = list(classes)
    if "background" in names:
        result: NDArray[np.floating[Any]] = 1 - probability[names.index("background")]
        return result
    if names == ["foreground"]:
        return probability[0]
    raise SettingsError(
        f"Objects cannot be made from the classes {', '.join(names) or '(none)'}; known are "
        "background + interior + boundary, background + foreground, and foreground alone."
    )


def _depth(split: float) -> float:
    """Depth h that a pass needs to cut; infinite at split 0, DEPTH_MIN at 1."""
    return max(DEPTH * ((1 - split) / split) ** DEPTH_POWER, DEPTH_MIN)


def _split(
    mask: NDArray[np.bool_],
    probability: NDArray[np.floating[Any]],
    foreground: NDArray[np.floating[Any]],
    classes: Sequence[str],
    split: float,
) -> Labels:
    """Label the foreground, cut along passes deeper than the split setting asks for."""
    height, width = mask.shape
    labels = np.zeros((height, width), np.int32)
    rows, cols = np.nonzero(mask)
    if rows.size == 0:
        return labels
    stride = width + 2  # one pixel of padding: neighbours never wrap around
    flat = (rows + 1) * stride + (cols + 1)
    height_of = np.full((height + 2) * stride, -np.inf)
    # The tiny slope makes all heights different, so a plateau has one way up.
    height_of[flat] = _landscape(mask, rows, cols, probability, foreground, classes)
    height_of[flat] -= flat * 1e-13

    summit, position = _climb(height_of, flat, stride)
    peak = height_of[flat[summit]]
    basin_of = np.full(height_of.size, -1, np.int64)
    basin_of[flat] = position
    first, second, saddle = _passes(height_of, basin_of, flat, position, stride)
    area = np.bincount(position, minlength=peak.size)
    group = merge_basins(peak, area, first, second, saddle, _depth(split))
    labels[rows, cols] = group[position] + 1
    return labels


def _landscape(
    mask: NDArray[np.bool_],
    rows: _Index,
    cols: _Index,
    probability: NDArray[np.floating[Any]],
    foreground: NDArray[np.floating[Any]],
    classes: Sequence[str],
) -> _Float:
    """Height of every foreground pixel: what the network saw plus the shape of the mask.

    The logarithm makes a neck count by its width relative to the cells on both sides,
    whatever their size.
    """
    names = list(classes)
    distance = np.log(_distance(mask, rows, cols) + DISTANCE_OFFSET)
    if "interior" in names and "boundary" in names:
        interior = probability[names.index("interior")][rows, cols]
        boundary = probability[names.index("boundary")][rows, cols]
        seen = np.nan_to_num(interior) - BOUNDARY_WEIGHT * np.nan_to_num(boundary)
        return seen + DISTANCE_WEIGHT * distance
    return foreground[rows, cols] + DISTANCE_WEIGHT_BINARY * distance


def _distance(mask: NDArray[np.bool_], rows: _Index, cols: _Index) -> _Float:
    """Exact Euclidean distance of the foreground pixels to the background inside the image.

    Two passes (columns, then rows) over the foreground only; images of small objects are
    done several times faster than by scipy, which takes over for large ones.
    """
    height, width = mask.shape
    if mask.all():
        return np.full(rows.size, float(max(height, width)))
    far = 4 * (height + width)
    number = np.arange(height, dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(mask, np.int32(-far), number), axis=0)
    below = np.minimum.accumulate(np.where(mask, np.int32(far), number)[::-1], axis=0)[::-1]
    column = np.minimum(number - above, below - number)
    squared = np.full((height, width + 2 * DISTANCE_ROUNDS), float(far) ** 2)
    squared[:, DISTANCE_ROUNDS:-DISTANCE_ROUNDS] = column.astype(np.float64) ** 2
    line = squared.ravel()
    where = rows * squared.shape[1] + cols + DISTANCE_ROUNDS
    best = line[where]
    active = np.arange(rows.size)
    for step in range(1, DISTANCE_ROUNDS + 1):
        active = active[best[active] > step * step]
        if active.size == 0:
            return np.sqrt(best)
        at = where[active]
        beside = np.minimum(line[at - step], line[at + step]) + step * step
        best[active] = np.minimum(best[active], beside)
    result: _Float = ndimage.distance_transform_edt(mask)[rows, cols]
    return result


def _climb(height_of: _Float, flat: _Index, stride: int) -> tuple[_Index, _Index]:
    """Follow the steepest ascent of every pixel to its summit.

    Returns the summits, as positions in ``flat``, and the number of each pixel's summit.
    """
    own = height_of[flat]
    gain = np.zeros(flat.size)
    target = flat.copy()
    for offset in (1, stride, stride + 1, stride - 1):
        scale = 1.0 if offset in (1, stride) else 0.5**0.5
        for signed in (-offset, offset):
            rise = (height_of[flat + signed] - own) * scale
            better = rise > gain
            gain[better] = rise[better]
            target[better] = flat[better] + signed
    place = np.empty(height_of.size, np.int64)
    place[flat] = np.arange(flat.size)
    parent = place[target]
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            break
        parent = above
    summit = np.flatnonzero(parent == np.arange(flat.size))
    number = np.empty(flat.size, np.int64)
    number[summit] = np.arange(summit.size)
    return summit, number[parent]


def _passes(
    height_of: _Float, basin_of: _Index, flat: _Index, position: _Index, stride: int
) -> tuple[_Index, _Index, _Float]:
    """Highest pass between every two basins that touch: (first, second, height)."""
    firsts, seconds, heights = [], [], []
    for offset in (1, stride - 1, stride, stride + 1):
        other = basin_of[flat + offset]
        touch = np.flatnonzero((other >= 0) & (other != position))
        firsts.append(position[touch])
        seconds.append(other[touch])
        at = flat[touch]
        heights.append(np.minimum(height_of[at], height_of[at + offset]))
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    return _highest(
        np.minimum(first, second), np.maximum(first, second), np.concatenate(heights)
    )


def _highest(first: _Index, second: _Index, saddle: _Float) -> tuple[_Index, _Index, _Float]:
    """One edge per pair, with its highest pass."""
    if first.size == 0:
        return first, second, saddle
    key = first * (int(second.max()) + 1) + second
    order = np.argsort(key, kind="stable")
    key = key[order]
    start = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    return first[order[start]], second[order[start]], np.maximum.reduceat(saddle[order], start)


def merge_basins(
    peak: _Float, area: _Index, first: _Index, second: _Index, saddle: _Float, depth: float
) -> _Index:
    """Merge basins over passes less than ``depth`` below the lower of the two summits.

    All basins whose highest pass leads to a higher neighbour merge at once, in rounds until
    nothing changes; the result equals merging one by one from the highest pass down.

    Parameters
    ----------
    peak, area : array, shape (n,)
        Height of each basin's summit (all different) and its pixels; basins smaller than
        SMALLEST_PART merge whatever their depth.
    first, second, saddle : array, shape (m,)
        Pairs of touching basins with the height of the pass between them.
    depth : float
        Smallest depth that separates.

    Returns
    -------
    int64 array, shape (n,)
        Number of the basin that each one ended in.
    """
    group = np.arange(peak.size)
    area = area.copy()
    while first.size:
        low = np.where(peak[first] < peak[second], first, second)
        high = first + second - low
        # Best pass of every basin, over both directions of every edge.
        best = np.full(peak.size, -np.inf)
        np.maximum.at(best, first, saddle)
        np.maximum.at(best, second, saddle)
        shallow = (peak[low] - saddle < depth) | (area[low] < SMALLEST_PART)
        up = np.flatnonzero((saddle == best[low]) & shallow)
        if up.size == 0:
            break
        parent = np.arange(peak.size)
        # Of equal passes the one written last wins: the highest neighbour.
        up = up[np.argsort(peak[high[up]], kind="stable")]
        parent[low[up]] = high[up]
        while True:  # chains end, since parents are strictly higher
            above = parent[parent]
            if np.array_equal(above, parent):
                break
            parent = above
        group = parent[group]
        area = np.bincount(parent, weights=area, minlength=peak.size).astype(np.int64)
        first, second = parent[first], parent[second]
        apart = first != second
        first, second = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
        first, second, saddle = _highest(first, second, saddle[apart])
    return group


# --- after the watershed ---------------------------------------------------------------


def _clean(labels: Labels, config: InstanceConfig) -> Labels:
    """Fill holes, drop small and border objects, number in raster order."""
    if labels.size == 0:
        return labels
    if config.fill_holes:
        labels = fill_holes(labels)
    count = int(labels.max()) + 1
    keep = np.bincount(labels.ravel(), minlength=count) >= config.min_size
    keep[0] = False
    if config.remove_border:
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[edge] = False
    dropped = not keep[1:].all()
    if dropped:
        labels = np.where(keep[labels], labels, np.int32(0))
        if config.fill_holes:  # a dropped speck may have stood in a hole
            labels = fill_holes(labels)
    return relabel_raster(labels)


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
    rows, cols = np.nonzero(inside[piece])  # never on the border: neighbours exist
    number = piece[rows, cols]
    lowest = np.full(count + 1, np.iinfo(labels.dtype).max, labels.dtype)
    highest = np.zeros(count + 1, labels.dtype)
    for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        beside = labels[rows + down, cols + right]
        touch = beside > 0
        np.minimum.at(lowest, number[touch], beside[touch])
        np.maximum.at(highest, number[touch], beside[touch])
    one = lowest[number] == highest[number]
    filled = labels.copy()
    filled[rows[one], cols[one]] = highest[number[one]]
    return filled


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
    return number[labels]


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
    both = np.flatnonzero((previous > 0) & (current > 0))
    a, b = previous.ravel()[both].astype(np.int64), current.ravel()[both].astype(np.int64)
    size_a, size_b = np.bincount(previous.ravel()), np.bincount(current.ravel())
    pairs, shared = np.unique(a * size_b.size + b, return_counts=True)
    old, new = pairs // size_b.size, pairs % size_b.size
    iou = shared / (size_a[old] + size_b[new] - shared)
    result = []
    used_old: set[int] = set()
    used_new: set[int] = set()
    for i in np.lexsort((new, old, -iou)):
        o, c = int(old[i]), int(new[i])
        if iou[i] < overlap:
            break
        if o not in used_old and c not in used_new:
            result.append((o, c))
            used_old.add(o)
            used_new.add(c)
    return result


def link_planes(labels: Any, overlap: float, out: Any = None) -> Any:
    """Give overlapping objects of neighbouring planes one label.

    Parameters
    ----------
    labels : integer array, shape (Z, H, W)
        Labels of each plane by itself; anything that gives planes by ``labels[z]`` (numpy,
        zarr, dask).
    overlap : float in (0, 1]
        Smallest intersection over union that links.
    out : array-like of shape (Z, H, W), optional
        Written plane by plane (zarr, memmap); a new int32 array without it.

    Returns
    -------
    out, with labels 1..n unique over the stack, numbered in the order of appearance.
    """
    if out is None:
        out = np.zeros(labels.shape, np.int32)
    for z, plane in enumerate(linked_planes(labels, overlap)):
        out[z] = plane
    return out


def linked_planes(planes: Iterable[Any], overlap: float) -> Iterable[Labels]:
    """Yield linked planes one by one, keeping only two in memory."""
    linker = PlaneLinker(overlap)
    for plane in planes:
        yield linker.add(np.asarray(plane))
