"""ψ across the boundaries of all objects at once.

The same numbers as :func:`napari_sa2net.inference.inspection.boundary_profiles` finds for one
object, at a cost that hardly depends on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net.inference.changes import check_labels, distinct
from napari_sa2net.inference.map_values import Map, sample_grid
from napari_sa2net.inference.refinement import STRIDES

#: Profiles reach this far (px) to both sides of the boundary.
REACH = 12
#: Distances (px) that the columns `psi_8_inside`, `psi_8_boundary`, `psi_8_outside`, … are
#: means over; first and last.
RANGES = {"inside": (-REACH, -3), "boundary": (-2, 2), "outside": (3, REACH)}
_WIDTH = 2 * REACH + 1
#: Squares of distances that round to at most REACH.
_FARTHEST = int((REACH + 0.5) ** 2)
#: Rows that are looked at at once, which bounds memory.
_ROWS = 512

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Profiles:
    """ψ by distance from the boundary, of n objects.

    Attributes
    ----------
    labels : int64 (n,)
        Ascending.
    distances : float32 (25,)
        −12 … +12 px. 0: the object's outermost pixels; negative: inside.
    counts : int64 (n, 25)
        Pixels at each distance.
    sums : dict of stride to float64 (n, 25)
        Sums of ψ over them; without a map, not there.
    """

    labels: Index
    distances: NDArray[np.float32]
    counts: Index
    sums: dict[int, NDArray[np.float64]]

    def means(self, stride: int) -> NDArray[np.float32]:
        """Profiles (n, 25) of a stage; NaN where no pixel lies at that distance."""
        return _mean(self.sums[stride], self.counts).astype(np.float32)

    def columns(self) -> pd.DataFrame:
        """One row per object: label, and for every stride and part of `RANGES` the mean of ψ.

        float64 `psi_8_inside` … `psi_1_outside`: over all pixels whose distance is in that
        range; NaN where there is none, or no such map.
        """
        table: dict[str, Any] = {"label": self.labels}
        for stride in STRIDES:
            for name, (first, last) in RANGES.items():
                part = slice(first + REACH, last + REACH + 1)
                table[f"psi_{stride}_{name}"] = (
                    _mean(
                        self.sums[stride][:, part].sum(axis=1), self.counts[:, part].sum(axis=1)
                    )
                    if stride in self.sums
                    else np.full(self.labels.size, np.nan)
                )
        return pd.DataFrame(table)

    def long(self) -> pd.DataFrame:
        """One row per object, stride and distance at which there are pixels.

        Columns label (int64), stride, distance_px (int64), psi (float32).
        """
        at, which = np.nonzero(self.counts)
        parts = [
            pd.DataFrame(
                {
                    "label": self.labels[at],
                    "stride": stride,
                    "distance_px": which - REACH,
                    "psi": self.means(stride)[at, which],
                }
            )
            for stride in STRIDES
            if stride in self.sums
        ]
        if not parts:
            return pd.DataFrame(columns=["label", "stride", "distance_px", "psi"])
        return pd.concat(parts, ignore_index=True)


def all_profiles(
    labels: NDArray[np.integer[Any]],
    maps: Mapping[str, Map],
    origin: tuple[int, int] = (0, 0),
) -> Profiles:
    """Profiles of ψ across the boundary of every object.

    Parameters
    ----------
    labels : integer array (H, W)
    maps : mapping of name to Map
        Those of aua_8, aua_4, aua_2, aua_1 that the model has; others are not looked at.
    origin : (int, int)
        Where pixel (0, 0) of the labels lies in the whole image (px).
    """
    (labels,) = check_labels(labels)
    values = distinct(labels)
    n = values.size
    present = [stride for stride in STRIDES if f"aua_{stride}" in maps]
    counts = np.zeros(n * _WIDTH, np.int64)
    sums = {stride: np.zeros(n * _WIDTH) for stride in present}
    xs = np.arange(labels.shape[1]) + origin[1]
    for start, position, slot in _bands(_numbered(labels, values), n) if present else ():
        counts += np.bincount(slot, minlength=counts.size)
        ys = np.arange(start, min(start + _ROWS, labels.shape[0])) + origin[0]
        for stride in present:
            psi = sample_grid(maps[f"aua_{stride}"], ys, xs).ravel()[position]
            sums[stride] += np.bincount(slot, psi, minlength=counts.size)
    return Profiles(
        values,
        np.arange(-REACH, REACH + 1, dtype=np.float32),
        counts.reshape(n, _WIDTH),
        {stride: total.reshape(n, _WIDTH) for stride, total in sums.items()},
    )


def _mean(total: NDArray[np.float64], count: Index) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = total / count
    return mean


def _numbered(labels: NDArray[np.integer[Any]], values: Index) -> NDArray[np.int32]:
    """Labels as 1 … n; mostly they are so already."""
    if values.size and values[-1] == values.size:
        return labels.astype(np.int32, copy=False)
    return np.where(labels > 0, np.searchsorted(values, labels) + 1, 0).astype(np.int32)


def _bands(labels: NDArray[np.int32], n: int) -> Iterator[tuple[int, Index, Index]]:
    """Pixels along boundaries, by bands of rows.

    Yields
    ------
    First row of the band; flat positions in it; for each the object (from 0) times 25 plus
    the distance, of which −12 is 0.
    """
    inside = _inside(labels)
    height = labels.shape[0]
    for start in range(0, height, _ROWS):
        stop = min(start + _ROWS, height)
        own = np.flatnonzero(inside[start:stop])
        band = labels[start:stop]
        slots = [(band.ravel()[own] - 1) * np.int64(_WIDTH) + inside[start:stop].ravel()[own]]
        slots[0] -= 1
        # What lies farther from the band than REACH cannot be nearest to a pixel of it.
        first, last = max(0, start - REACH - 1), min(height, stop + REACH + 1)
        beyond, owner, distance = _outside(
            labels[first:last], slice(start - first, stop - first)
        )
        slots.append((owner - 1) * np.int64(_WIDTH) + distance + REACH)
        yield start, np.concatenate([own, beyond]), np.concatenate(slots)


def _inside(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Of every object's pixels the distance + 13, so 13 outermost and 1 deepest; else 0."""
    out = np.zeros(labels.shape, np.uint8)
    shape = labels.shape
    for label, found in enumerate(ndimage.find_objects(labels), 1):
        if found is None:
            continue
        # One pixel beyond the bounds, where the nearest pixel of something else may lie.
        window = tuple(
            slice(max(0, one.start - 1), min(size, one.stop + 1))
            for one, size in zip(found, shape, strict=True)
        )
        mine = labels[window] == label
        if mine.all():
            continue  # fills the image: no boundary
        distance = ndimage.distance_transform_edt(mine)
        near = mine & (distance < REACH + 1.5)
        out[window][near] = REACH + 2 - np.rint(distance[near]).astype(np.int64)
    return out


def _outside(labels: NDArray[np.int32], rows: slice) -> tuple[Index, Index, NDArray[np.int64]]:
    """Unlabelled pixels near an object and nearer to it than to any other.

    Parameters
    ----------
    labels : int32 (h, W)
    rows : slice
        Those that are asked for.

    Returns
    -------
    Flat positions in these rows, the objects' labels, distances (px, rounded).
    """
    free = labels == 0
    empty = np.zeros(0, np.int64)
    if free.all() or not free[rows].any():
        return empty, empty, empty
    nearest = ndimage.distance_transform_edt(free, return_distances=False, return_indices=True)
    owner = labels[nearest[0], nearest[1]]
    square = (nearest[0] - np.arange(labels.shape[0], dtype=np.int32)[:, None]) ** 2
    square += (nearest[1] - np.arange(labels.shape[1], dtype=np.int32)) ** 2
    del nearest
    wanted = np.zeros(free.shape, bool)
    wanted[rows] = free[rows] & (square[rows] <= _FARTHEST)
    _drop_ties(labels, owner, square, wanted)
    position = np.flatnonzero(wanted)
    distance = np.rint(np.sqrt(square.ravel()[position])).astype(np.int64)
    whose = owner.ravel()[position].astype(np.int64)
    return position - rows.start * labels.shape[1], whose, distance


def _drop_ties(
    labels: NDArray[np.int32],
    owner: NDArray[np.int32],
    square: NDArray[np.int32],
    wanted: NDArray[np.bool_],
) -> None:
    """Take out of `wanted` the pixels that are as near to another object."""
    # Only where two objects' surroundings meet can a pixel be as near to both.
    meet = np.zeros(owner.shape, bool)
    for one, other in (
        ((slice(1, None), slice(None)), (slice(-1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(-1))),
        ((slice(1, None), slice(1, None)), (slice(-1), slice(-1))),
        ((slice(1, None), slice(-1)), (slice(-1), slice(1, None))),
    ):
        apart = owner[one] != owner[other]
        meet[one] |= apart
        meet[other] |= apart
    rows, columns = np.nonzero(meet & wanted)
    distance, whose = square[rows, columns], owner[rows, columns]
    height, width = labels.shape
    for far in np.unique(distance):
        at = np.flatnonzero(distance == far)
        y, x, own = rows[at], columns[at], whose[at]
        tied = np.zeros(at.size, bool)
        for dy, dx in _offsets(int(far)):
            there = labels[(y + dy).clip(0, height - 1), (x + dx).clip(0, width - 1)]
            fits = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
            tied |= fits & (there > 0) & (there != own)
        wanted[y[tied], x[tied]] = False


@cache
def _offsets(square: int) -> tuple[tuple[int, int], ...]:
    """All steps (y, x) of this squared length."""
    reach = range(-REACH - 1, REACH + 2)
    return tuple((y, x) for y in reach for x in reach if y * y + x * x == square)
