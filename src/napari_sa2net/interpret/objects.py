"""One object looked at closely: its gates, the attention across its boundary, its history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net.errors import SettingsError
from napari_sa2net.interpret.maps import (
    STRIDES,
    AttentionMap,
    CellInspection,
    StageStep,
    sample_grid,
)
from napari_sa2net.interpret.refinement import check_labels, follow_objects
from napari_sa2net.metrics import distinct

# --------------------------------------------------------------------------------------------
# ψ across the boundaries of all objects at once.
#
# Distance 0 is an object's outermost pixels (beside any other pixel, be it of another object;
# the edge of the image is no boundary), negative ones lie inside, positive ones outside: the
# distance to the nearest pixel of the object, rounded. Outside, only unlabelled pixels count
# that are nearer to this object than to any other, so that the profile of a cell in a crowd is
# not that of its neighbours.

#: Profiles reach this far (px) to both sides of the boundary.
REACH = 12
#: Distances (px) that the columns `psi_8_inside`, `psi_8_boundary`, `psi_8_outside`, … are
#: means over; first and last.
RANGES = {"inside": (-REACH, -3), "boundary": (-2, 2), "outside": (3, REACH)}
_WIDTH = 2 * REACH + 1
#: Squares of distances that round to at most REACH.
_FARTHEST = int((REACH + 0.5) ** 2)
#: Rows that are looked at at once, which bounds memory.
_PROFILE_ROWS = 512

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
    maps: Mapping[str, AttentionMap],
    origin: tuple[int, int] = (0, 0),
) -> Profiles:
    """Profiles of ψ across the boundary of every object.

    Parameters
    ----------
    labels : integer array (H, W)
    maps : mapping of name to AttentionMap
        Those of aua_8, aua_4, aua_2, aua_1 that the model has; others are not looked at.
    origin : (int, int)
        Where pixel (0, 0) of the labels lies in the whole image (px).
    """
    (labels,) = check_labels(labels)
    values = distinct(labels[labels > 0])[0].astype(np.int64)
    n = values.size
    present = [stride for stride in STRIDES if f"aua_{stride}" in maps]
    counts = np.zeros(n * _WIDTH, np.int64)
    sums = {stride: np.zeros(n * _WIDTH) for stride in present}
    xs = np.arange(labels.shape[1]) + origin[1]
    for start, position, slot in _bands(_numbered(labels, values)) if present else ():
        counts += np.bincount(slot, minlength=counts.size)
        ys = np.arange(start, min(start + _PROFILE_ROWS, labels.shape[0])) + origin[0]
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


def _bands(labels: NDArray[np.int32]) -> Iterator[tuple[int, Index, Index]]:
    """Pixels along boundaries, by bands of rows.

    Yields
    ------
    First row of the band; flat positions in it; for each the object (from 0) times 25 plus
    the distance, of which −12 is 0.
    """
    inside = _inside(labels)
    height = labels.shape[0]
    for start in range(0, height, _PROFILE_ROWS):
        stop = min(start + _PROFILE_ROWS, height)
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


SCALE_GATES = tuple(f"scale_gate_{i}" for i in (1, 2, 3, 4))
#: Longest side (px) of a thumbnail; of larger objects every second, third … pixel is shown.
THUMBNAIL = 256
#: A line around an object is as wide as this part of its longer side (at least 1 px).
RING_SHARE = 40
#: Rows that are resampled at once.
_ROWS = 512

Box = tuple[int, int, int, int]
Floats = NDArray[np.float64]


def inspect_object(
    labels: NDArray[np.integer[Any]],
    label: int,
    maps: Mapping[str, AttentionMap],
    stages: Mapping[int, NDArray[np.integer[Any]]],
    image: NDArray[Any] | None = None,
    *,
    origin: tuple[int, int] = (0, 0),
    image_gates: Sequence[float] | None = None,
) -> CellInspection:
    """Look at one object.

    Parameters
    ----------
    labels : integer array (H, W)
        The objects as they are now, maybe edited by hand. They take the place of stage 1,
        which tells, if it is given, what the network made itself.
    label : int
        Which one.
    maps : mapping of name to AttentionMap
        Any of scale_gate_1…4 and aua_8, aua_4, aua_2, aua_1; others are not looked at.
    stages : mapping of stride to integer labels (H, W)
        Of the heads; any may be missing.
    image : array (H, W) or (H, W, 3), optional
        For the thumbnail; black without it.
    origin : (int, int)
        Where pixel (0, 0) of labels, stages and image lies in the whole image (px).
    image_gates : four floats, optional
        Means of the scale gates, if known already.

    Raises
    ------
    SettingsError
        If there is no such object, or shapes do not fit.
    """
    (labels,) = check_labels(labels)
    mask = labels == label
    if label <= 0 or not mask.any():
        raise SettingsError(f"There is no object {label} here; choose one that is outlined.")
    box = _bounds(mask)
    y0, y1, x0, x1 = box
    window = mask[y0:y1, x0:x1]
    corner = y0 + origin[0], x0 + origin[1]
    gates = gate_columns(window.view(np.uint8), maps, corner)
    # Twice: a neighbour that far from a pixel of the profile may be the nearer one.
    top, bottom, left, right = _grown(box, 2 * REACH + 2, labels.shape)
    near = labels[top:bottom, left:right]
    found = all_profiles(near, maps, (top + origin[0], left + origin[1]))
    at = int(np.searchsorted(found.labels, label))
    thumbnail, outline = _thumbnail(mask, box, image)
    ring, around = _ring(mask, box)
    return CellInspection(
        label=int(label),
        gates=_four(gates[name].iloc[0] for name in SCALE_GATES),
        image_gates=mean_gates(maps) if image_gates is None else _four(image_gates),
        distances=found.distances,
        profiles={stride: found.means(stride)[at] for stride in found.sums},
        history=_history(labels, label, mask, stages),
        thumbnail=thumbnail,
        outline=outline,
        centre=_centre(window, corner),
        by_hand=1 in stages and not _is_object(mask, np.asarray(stages[1]), box),
        ring=ring,
        ring_box=(
            around[0] + origin[0],
            around[1] + origin[0],
            around[2] + origin[1],
            around[3] + origin[1],
        ),
    )


def gate_columns(
    labels: NDArray[np.integer[Any]],
    maps: Mapping[str, AttentionMap],
    origin: tuple[int, int] = (0, 0),
) -> pd.DataFrame:
    """Mean of each scale gate in every object.

    Parameters
    ----------
    labels : integer array (H, W)
    maps : mapping of name to AttentionMap
        Those of scale_gate_1…4 that the model has; others are not looked at.
    origin : (int, int)
        Where pixel (0, 0) of the labels lies in the whole image (px).

    Returns
    -------
    DataFrame, in ascending order of label, with the columns label (int64) and scale_gate_1…4
    (float64; NaN without that map)
    """
    (labels,) = check_labels(labels)
    values = distinct(labels[labels > 0])[0].astype(np.int64)
    table: dict[str, Any] = {"label": values}
    present = [name for name in SCALE_GATES if name in maps]
    sums = {name: np.zeros(values.size) for name in present}
    area = np.zeros(values.size)
    xs = np.arange(labels.shape[1]) + origin[1]
    for start in range(0, labels.shape[0], _ROWS):
        band = labels[start : start + _ROWS]
        inside = band > 0
        which = np.searchsorted(values, band[inside])
        area += np.bincount(which, minlength=values.size)
        ys = np.arange(start, start + band.shape[0]) + origin[0]
        for name in present:
            grid = sample_grid(maps[name], ys, xs)
            sums[name] += np.bincount(which, grid[inside], minlength=values.size)
    for name in SCALE_GATES:
        table[name] = sums[name] / area if name in sums else np.full(values.size, np.nan)
    return pd.DataFrame(table)


def mean_gates(maps: Mapping[str, AttentionMap]) -> tuple[float, float, float, float]:
    """Mean of each scale gate over its whole map; NaN without it."""
    means = []
    for name in SCALE_GATES:
        values = np.asarray(maps[name].values) if name in maps else np.zeros((0, 0))
        means.append(float(values.mean(dtype=np.float64)) if values.size else float("nan"))
    return _four(means)


# --- parts of an inspection --------------------------------------------------------------


def _bounds(mask: NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise SettingsError("There is no such object here; choose one that is outlined.")
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _centre(mask: NDArray[np.bool_], corner: tuple[int, int]) -> tuple[float, float]:
    y, x = ndimage.center_of_mass(mask)
    return float(y) + corner[0], float(x) + corner[1]


def _four(values: Iterable[float]) -> tuple[float, float, float, float]:
    a, b, c, d = (float(value) for value in values)
    return a, b, c, d


def _is_object(mask: NDArray[np.bool_], labels: NDArray[np.integer[Any]], box: Box) -> bool:
    """Whether exactly these pixels are an object, whatever its number."""
    window = slice(*box[:2]), slice(*box[2:])
    own = labels[window][mask[window]]
    return bool(own[0] > 0 and (own == own[0]).all() and (labels == own[0]).sum() == own.size)


def _grown(box: Box, by: int, shape: tuple[int, ...]) -> Box:
    y0, y1, x0, x1 = box
    return max(0, y0 - by), min(shape[0], y1 + by), max(0, x0 - by), min(shape[1], x1 + by)


def _history(
    labels: NDArray[np.integer[Any]],
    label: int,
    mask: NDArray[np.bool_],
    stages: Mapping[int, NDArray[np.integer[Any]]],
) -> tuple[StageStep, ...]:
    """Steps of one object; of the planes only the part that bears on it is looked at."""
    planes = {**{s: np.asarray(p) for s, p in stages.items()}, 1: labels}
    present = [stride for stride in STRIDES if stride in planes]
    check_labels(*(planes[stride] for stride in present))
    touched = mask
    # Its objects at all stages, then those these came from, then what else became of them.
    for _ in range(3):
        grown = touched.copy()
        for stride in present:
            inside = planes[stride][touched]
            grown |= np.isin(planes[stride], distinct(inside[inside > 0])[0])
        touched = grown
    y0, y1, x0, x1 = _grown(_bounds(touched), 2 * REACH, mask.shape)
    parts = {stride: plane[y0:y1, x0:x1] for stride, plane in planes.items()}
    names, columns = follow_objects(parts, only=label)
    at = int(np.searchsorted(names, label))
    return tuple(
        StageStep(
            stride,
            int(step.n_objects[at]),
            int(step.area_px[at]),
            float(step.mean_move_px[at]),
            float(step.max_move_px[at]),
            str(step.event[at]),
        )
        for stride, step in columns.items()
    )


def _ring(mask: NDArray[np.bool_], box: Box) -> tuple[NDArray[np.uint8], Box]:
    """Two lines around an object, wider around a large one, and where they lie."""
    width = max(1, round(max(box[1] - box[0], box[3] - box[2]) / RING_SHARE))
    y0, y1, x0, x1 = around = _grown(box, 2 * width, mask.shape)
    own = mask[y0:y1, x0:x1]
    near = ndimage.binary_dilation(own, iterations=width)
    far = ndimage.binary_dilation(near, iterations=width)
    ring = far.astype(np.uint8) * 2
    ring[near] = 1
    ring[own] = 0
    return ring, around


def _thumbnail(
    mask: NDArray[np.bool_], box: Box, image: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    side = max(box[1] - box[0], box[3] - box[2])
    y0, y1, x0, x1 = _grown(box, max(4, side // 4), mask.shape)
    step = -(-max(y1 - y0, x1 - x0) // THUMBNAIL)
    window = slice(y0, y1, step), slice(x0, x1, step)
    part = mask[window]
    outline: NDArray[np.bool_] = part & ~ndimage.binary_erosion(part, border_value=1)
    if image is None:
        return np.zeros(part.shape, np.float32), outline
    if image.shape[:2] != mask.shape or image.ndim > 3:
        raise SettingsError(
            f"The image has shape {image.shape}, the labels {mask.shape}: both must be of the "
            "same pixels."
        )
    values = np.asarray(image[window])
    if values.dtype == np.uint8 and values.ndim == 3:
        return np.asarray(values[..., :3] / 255, np.float32), outline
    return _stretched(values.astype(np.float32)), outline


def _stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of a thumbnail to 0…1, from the 0.5th to the 99.8th percentile."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(values.shape, np.float32)
    low, high = np.percentile(finite, (0.5, 99.8))
    scaled = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    return np.asarray(np.clip(scaled, 0, 1), np.float32)
