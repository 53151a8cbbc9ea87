"""One object looked at closely: its gates, the attention across its boundary, its history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.changes import check_labels, distinct
from napari_sa2net.inference.map_values import Map, sample, sample_grid
from napari_sa2net.inference.profiles import REACH
from napari_sa2net.inference.refinement import STRIDES, follow_objects

SCALE_GATES = tuple(f"scale_gate_{i}" for i in (1, 2, 3, 4))
#: Longest side (px) of a thumbnail; of larger objects every second, third … pixel is shown.
THUMBNAIL = 256
#: A line around an object is as wide as this part of its longer side (at least 1 px).
RING_SHARE = 40
#: Rows that are resampled at once.
_ROWS = 512

Box = tuple[int, int, int, int]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StageStep:
    """An object at one stage of the decoder.

    Attributes
    ----------
    stride : int
        8, 4, 2 or 1.
    n_objects_overlapping : int
        Objects of this stage that match it; 0: not seen here.
    area_px : int
        Their pixels together.
    mean_move_px, max_move_px : float
        As the columns `moved_…` of the table; NaN at the first stage.
    event : str
        "", "split", "merged", "appeared" or "vanished", since the stage before.
    """

    stride: int
    n_objects_overlapping: int
    area_px: int
    mean_move_px: float
    max_move_px: float
    event: str


@dataclass(frozen=True, eq=False)
class Inspection:
    """What :func:`inspect_object` found.

    Attributes
    ----------
    label : int
    gates, image_gates : four floats
        Mean of each scale gate in the object, and in the image; NaN without that map.
    distances : float32 (25,)
        −12 … +12 px. 0: the object's outermost pixels; negative: inside.
    profiles : dict of stride to float32 (25,)
        Mean ψ at each distance; NaN where no pixel lies that far.
    history : tuple of StageStep
        Coarse to fine.
    thumbnail : float32 (h, w) or (h, w, 3)
        The image around the object, 0…1.
    outline : bool (h, w)
        The object's outermost pixels in the thumbnail.
    centre : (float, float)
        Mean y, x of the object in px of the whole image.
    by_hand : bool
        The network did not make this object as it is: a person drew or changed it.
    ring : uint8 (h, w)
        Lines around the object, in its image: 1 next to it, 2 around that, else 0.
    ring_box : (y0, y1, x0, x1)
        Where the ring lies, in px of the whole image.
    """

    label: int
    gates: tuple[float, float, float, float]
    image_gates: tuple[float, float, float, float]
    distances: NDArray[np.float32]
    profiles: dict[int, NDArray[np.float32]]
    history: tuple[StageStep, ...]
    thumbnail: NDArray[np.float32]
    outline: NDArray[np.bool_]
    centre: tuple[float, float]
    by_hand: bool = False
    ring: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    ring_box: Box = (0, 0, 0, 0)


def inspect_object(
    labels: NDArray[np.integer[Any]],
    label: int,
    maps: Mapping[str, Map],
    stages: Mapping[int, NDArray[np.integer[Any]]],
    image: NDArray[Any] | None = None,
    *,
    origin: tuple[int, int] = (0, 0),
    image_gates: Sequence[float] | None = None,
) -> Inspection:
    """Look at one object.

    Parameters
    ----------
    labels : integer array (H, W)
        The objects as they are now, maybe edited by hand. They take the place of stage 1,
        which tells, if it is given, what the network made itself.
    label : int
        Which one.
    maps : mapping of name to Map
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
    distances, profiles = boundary_profiles(labels, label, maps, origin=origin, box=box)
    thumbnail, outline = _thumbnail(mask, box, image)
    ring, around = _ring(mask, box)
    return Inspection(
        label=int(label),
        gates=_four(gates[name].iloc[0] for name in SCALE_GATES),
        image_gates=mean_gates(maps) if image_gates is None else _four(image_gates),
        distances=distances,
        profiles=profiles,
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
    maps: Mapping[str, Map],
    origin: tuple[int, int] = (0, 0),
) -> pd.DataFrame:
    """Mean of each scale gate in every object.

    Parameters
    ----------
    labels : integer array (H, W)
    maps : mapping of name to Map
        Those of scale_gate_1…4 that the model has; others are not looked at.
    origin : (int, int)
        Where pixel (0, 0) of the labels lies in the whole image (px).

    Returns
    -------
    DataFrame, in ascending order of label, with the columns label (int64) and scale_gate_1…4
    (float64; NaN without that map)
    """
    (labels,) = check_labels(labels)
    values = distinct(labels)
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


def mean_gates(maps: Mapping[str, Map]) -> tuple[float, float, float, float]:
    """Mean of each scale gate over its whole map; NaN without it."""
    means = []
    for name in SCALE_GATES:
        values = np.asarray(maps[name].values) if name in maps else np.zeros((0, 0))
        means.append(float(values.mean(dtype=np.float64)) if values.size else float("nan"))
    return _four(means)


def boundary_profiles(
    labels: NDArray[np.integer[Any]],
    label: int,
    maps: Mapping[str, Map],
    *,
    origin: tuple[int, int] = (0, 0),
    box: Box | None = None,
) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]:
    """Mean of ψ along lines of equal distance from an object's boundary.

    Distance 0 is the object's outermost pixels (beside any other pixel, be it of another
    object; the edge of the image is no boundary), negative ones lie inside, positive ones
    outside: the distance to the nearest pixel of the object, rounded. Outside, only
    unlabelled pixels count that are nearer to this object than to any other, so that the
    profile of a cell in a crowd is not that of its neighbours.

    Parameters
    ----------
    labels, label, maps, origin
        As of `inspect_object`.
    box : (y0, y1, x0, x1), optional
        Bounds of the object, if known.

    Returns
    -------
    distances : float32 (25,), −12 … +12 px
    profiles : dict of stride to float32 (25,)
        For each map aua_8, aua_4, aua_2, aua_1 that is there, sampled bilinearly at the
        pixels' centres; NaN where no pixel lies at that distance.
    """
    # Twice: a neighbour that far from a pixel of the profile may be the nearer one.
    y0, y1, x0, x1 = _grown(box or _bounds(labels == label), 2 * REACH + 2, labels.shape)
    part = labels[y0:y1, x0:x1]
    mine, others = part == label, (part > 0) & (part != label)
    distance = np.where(mine, 1 - _distance_to(~mine), _distance_to(mine))
    wanted = mine | (~others & (distance < _distance_to(others)))
    wanted &= np.abs(distance) < REACH + 0.5
    rows, columns = np.nonzero(wanted)
    bins = np.rint(distance[wanted]).astype(np.intp) + REACH
    ok = (bins >= 0) & (bins <= 2 * REACH)  # 12.5 rounds to the even 12
    rows, columns, bins = rows[ok] + y0 + origin[0], columns[ok] + x0 + origin[1], bins[ok]
    count = np.bincount(bins, minlength=2 * REACH + 1)
    profiles = {}
    for stride in STRIDES:
        if f"aua_{stride}" in maps:
            psi = sample(maps[f"aua_{stride}"], rows, columns)
            with np.errstate(invalid="ignore"):
                mean = np.bincount(bins, psi, minlength=2 * REACH + 1) / count
            profiles[stride] = mean.astype(np.float32)
    return np.arange(-REACH, REACH + 1, dtype=np.float32), profiles


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


def _distance_to(target: NDArray[np.bool_]) -> Floats:
    """Distance of every pixel to the nearest target pixel; infinite without one."""
    if not target.any():
        return np.full(target.shape, np.inf)
    distance: Floats = ndimage.distance_transform_edt(~target)
    return distance


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
            grown |= np.isin(planes[stride], distinct(planes[stride][touched]))
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
