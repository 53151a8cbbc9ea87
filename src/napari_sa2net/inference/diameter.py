"""Typical object diameter of an image, from a few crops run at scales that agree with it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InstanceConfig
from napari_sa2net.errors import Cancelled
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.inference.predictor import (
    MIN_SCALE,
    CancelCallback,
    Predictor,
)
from napari_sa2net.inference.resample import Plane, ScaledPlane
from napari_sa2net.inference.tiles import Window

#: Side of a crop (network px) and how many are run at each scale.
CROP = 512
N_CROPS = 3
#: Positions per axis among which the crops with most contrast are chosen.
POSITIONS = 3
#: Passes at most; a scale within this factor of the one before ends the search.
MAX_PASSES = 3
AGREEMENT = 1.2
#: Cells so small that a larger scale were needed are not taken for cells.
LARGEST_SCALE = 5.0
#: Scales tried when nothing is found at the first.
OTHER_SCALES = (2.0, 0.5)
#: Fewer objects than this say nothing of the typical one.
MIN_OBJECTS = 3
#: Objects below this share of the area that half of the foreground reaches are specks.
SPECK = 0.15


def estimate_diameter(
    predictor: Predictor,
    plan: Plane,
    index: tuple[int, ...] = (),
    *,
    instances: InstanceConfig | None = None,
    cancelled: CancelCallback | None = None,
) -> float | None:
    """Typical object diameter in an image.

    The network finds objects best near the size that it was trained on, so it is run on a
    few crops, the image rescaled by what was found, and run again until both agree.

    Parameters
    ----------
    predictor : Predictor
    plan : ImagePlan
    index : tuple of int
        The plane to look at.
    instances : InstanceConfig, optional
        How objects are made; the model's own if not given.
    cancelled : callable -> bool, optional
        Asked before every crop.

    Returns
    -------
    float or None
        Median equivalent diameter in image pixels; None if the model does not say at which
        diameter it was trained, or no objects are found.

    Raises
    ------
    Cancelled
    """
    trained = predictor.card.diameter
    if not trained or 0 in plan.spatial:
        return None
    config = instances or predictor.card.instance
    scale = 1.0
    passes: list[tuple[float, float]] = []  # share of the crops that is cell, diameter
    for _ in range(MAX_PASSES):
        found = _measure(predictor, plan, index, scale, config, cancelled)
        if found is None:
            break
        share, diameter = found
        wanted = trained / diameter
        if abs(math.log(wanted / scale)) <= math.log(AGREEMENT):
            return diameter
        passes.append((share, trained / scale))
        scale = min(max(wanted, MIN_SCALE), LARGEST_SCALE)
    if passes:
        # No agreement: the scale at which most was found, rather than wherever it drifted.
        return max(passes)[1]
    for scale in OTHER_SCALES:
        found = _measure(predictor, plan, index, scale, config, cancelled)
        if found is not None:
            return found[1]
    return None


def _measure(
    predictor: Predictor,
    plan: Plane,
    index: tuple[int, ...],
    scale: float,
    config: InstanceConfig,
    cancelled: CancelCallback | None,
) -> tuple[float, float] | None:
    """Share of the crops that is cell, and the cells' median diameter (image px)."""
    plane = ScaledPlane(plan, index, scale)
    sizes, looked_at = [], 0
    for window in crops(plane):
        if cancelled and cancelled():
            raise Cancelled("Cancelled; nothing was changed.")
        values = plane.read(window.y0, window.y1, window.x0, window.x1)
        labels = label_objects(predictor.probabilities(values), predictor.card.classes, config)
        sizes.append(_areas(labels, window, plane.shape))
        looked_at += labels.size
    areas = np.concatenate(sizes)
    if len(areas) < MIN_OBJECTS:
        return None
    # On images unlike those trained on, specks may outnumber cells, though they make up
    # little of the foreground; by number alone, they would ask for an ever larger scale.
    areas = np.sort(areas)
    middle = areas[np.searchsorted(np.cumsum(areas), areas.sum() / 2)]
    typical = np.median(areas[areas >= SPECK * middle])
    return float(areas.sum() / looked_at), float(np.sqrt(4 / np.pi * typical) / scale)


def crops(plane: ScaledPlane) -> list[Window]:
    """Up to `N_CROPS` windows of the plane: all of it, or those with most contrast."""
    height, width = plane.shape
    candidates = [
        Window(y, min(y + CROP, height), x, min(x + CROP, width))
        for y in _starts(height)
        for x in _starts(width)
    ]
    if len(candidates) <= N_CROPS:
        return candidates
    # Looked at through every eighth row, which is cheap also when the plane is on disk.
    contrast = [
        float(np.std([plane.read(y, y + 1, w.x0, w.x1) for y in range(w.y0, w.y1, 8)]))
        for w in candidates
    ]
    best = sorted(range(len(candidates)), key=lambda i: (-contrast[i], i))[:N_CROPS]
    return [candidates[i] for i in sorted(best)]


def _starts(length: int) -> list[int]:
    if length <= CROP:
        return [0]
    n = min(POSITIONS, -(-length // CROP))
    return [i * (length - CROP) // (n - 1) for i in range(n)]


def _areas(
    labels: NDArray[np.int32], window: Window, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Areas of the objects that the crop does not cut."""
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    cut = (window.y0 > 0, window.y1 < shape[0], window.x0 > 0, window.x1 < shape[1])
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    for edge, is_cut in zip(edges, cut, strict=True):
        if is_cut:
            areas[edge] = 0
    return areas[areas > 0]
