"""Class probabilities to labelled objects, and objects of planes to objects of stacks.

The probabilities and the shape of the foreground make a landscape whose hills are cells
(:func:`_landscape`). The foreground is cut between two hills where the pass is deep enough
below the lower summit (:mod:`napari_sa2net.inference.basins`); how deep, the split setting
says. A foreground component keeps at least one object, so that small ones are never lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net.config import CLASSES, DISTANCE, OUTPUTS, InstanceConfig
from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.basins import Basins, Floats, Index, inner_distance

Labels = NDArray[np.int32]

# --- parameters of the landscape and its cuts ------------------------------------------

#: Depth of a pass, in landscape units, that cuts at split = 0.5; infinite at 0.
DEPTH = 0.3
#: Exponent of ((1 - split) / split) in the depth.
DEPTH_POWER = 1.0
#: Depth at split = 1: shallower passes are rounding noise.
DEPTH_MIN = 0.01
#: Added to interior + boundary before dividing, where both are next to nothing.
SHARE_FLOOR = 1e-3
#: Weight of the logarithm of the distance to the background, with three classes ...
DISTANCE_WEIGHT = 0.2
#: ... and where the network has no boundary class.
DISTANCE_WEIGHT_BINARY = 0.6
#: The depth where the network gives the distance to the edge itself.
DEPTH_WITH_DISTANCE = 0.12
#: Smoothing (px) of the distance that the network gives.
DISTANCE_SIGMA = 1.0
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
        Threshold, split, smallest area (px² of this grid), holes, border.

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
    probability = np.asarray(probability)
    foreground = foreground_probability(probability, classes)
    with np.errstate(invalid="ignore"):
        mask = foreground >= config.foreground
    if config.split == 0:
        labels = ndimage.label(mask, structure=_EIGHT, output=np.int32)[0]
    else:
        labels = _split(mask, probability, foreground, list(classes), config.split)
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
    return max(middle * ((1 - split) / split) ** DEPTH_POWER, DEPTH_MIN)


def _split(
    mask: NDArray[np.bool_],
    probability: NDArray[np.floating[Any]],
    foreground: NDArray[np.floating[Any]],
    names: list[str],
    split: float,
) -> Labels:
    """Label the foreground, cut along passes as deep as the split setting asks for."""
    height, width = mask.shape
    labels = np.zeros((height, width), np.int32)
    pixels = np.flatnonzero(mask)
    if pixels.size:
        landscape = _landscape(mask, pixels, probability, foreground, names)
        basins = Basins((height, width), pixels, landscape)
        depth = cut_depth(split, DEPTH_WITH_DISTANCE if DISTANCE in names else DEPTH)
        group = basins.merged(depth, SMALLEST_PART)
        labels.ravel()[pixels] = (group + 1).astype(np.int32)[basins.basin]
    return labels


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
        seen = np.nan_to_num(probability[names.index(DISTANCE)])
        smooth: Floats = ndimage.gaussian_filter(seen, DISTANCE_SIGMA).ravel()[pixels]
        return smooth
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


def _clean(labels: Labels, config: InstanceConfig) -> Labels:
    """Fill holes, drop small and border objects, number in raster order."""
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
    dropped = ~keep[values]
    if dropped.any():
        line[pixels[dropped]] = 0
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
    linker = PlaneLinker(overlap)
    if out is None:
        out = np.zeros(labels.shape, np.int32)
    for z in range(labels.shape[0]):
        out[z] = linker.add(np.asarray(labels[z]))
    return out
