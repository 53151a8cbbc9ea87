"""From labelled objects to the classes a network learns: background, interior, boundary."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Objects with a smaller area keep a thin boundary also where they touch (px²).
TOUCHING_MIN_AREA = 60


def class_targets(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Class of each pixel.

    The boundary is the inner one, 1 px wide, and 2 px wide on either side where two objects
    touch: what has to be cut is worth more pixels than what is only outlined.

    Parameters
    ----------
    labels : (H, W) integer
        0 is background.

    Returns
    -------
    (H, W) uint8
        0 background, 1 interior, 2 boundary. An object so thin that all of it is boundary
        keeps its innermost pixels as interior.
    """
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    target = (labels > 0).astype(np.uint8)
    if not target.any():
        return target
    # An edge of the image is no boundary: the object may go on beyond it.
    lowest = ndimage.minimum_filter(labels, size=3, mode="nearest")
    highest = ndimage.maximum_filter(labels, size=3, mode="nearest")
    inner = (target > 0) & (lowest != highest)
    far = np.where(labels > 0, labels, np.iinfo(np.int32).max)
    touching = (
        (ndimage.minimum_filter(far, size=5, mode="nearest") != labels)
        | (ndimage.maximum_filter(labels, size=5, mode="nearest") != labels)
    ) & (target > 0)
    areas = np.bincount(labels.ravel())
    boundary = inner | (touching & (areas[labels] >= TOUCHING_MIN_AREA))
    target[boundary] = 2

    whole = np.bincount(labels.ravel()[target.ravel() == 1], minlength=areas.size) == 0
    lost = whole & (areas > 0)
    lost[0] = False
    if lost.any():
        thin = lost[labels]
        depth = ndimage.distance_transform_edt(labels > 0)
        deepest = ndimage.maximum(depth, labels, index=np.arange(areas.size))
        target[thin & (depth >= np.asarray(deepest)[labels])] = 1
    return target


def edge_distance(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Distance (px) of each object's pixels to the object's edge; 0 on the background.

    The middle of a boundary pixel is half a pixel away. An edge of the image is no edge of an
    object: it may go on beyond it.

    Parameters
    ----------
    labels : (H, W) integer
        0 is background; objects may touch.

    Returns
    -------
    (H, W) float32
    """
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    cross = ndimage.generate_binary_structure(2, 1)
    rim = ndimage.minimum_filter(labels, footprint=cross, mode="nearest") != labels
    rim |= ndimage.maximum_filter(labels, footprint=cross, mode="nearest") != labels
    if not rim.any():
        return (labels > 0) * np.float32(max(labels.shape))
    distance = ndimage.distance_transform_edt(~rim) + 0.5
    return (distance * (labels > 0)).astype(np.float32)


def depths(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Largest distance to its edge (px) of every object, by label; 0 for unused labels."""
    distance = edge_distance(labels)
    deepest = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(deepest, np.asarray(labels).ravel(), distance.ravel())
    deepest[0] = 0
    return deepest


def distance_target(
    labels: NDArray[np.integer], deepest: NDArray[np.floating]
) -> NDArray[np.float32]:
    """What the output ``distance`` learns: 0 on the background, 1 in the middle of an object.

    Parameters
    ----------
    labels : (H, W) integer
        0 is background.
    deepest : (n + 1,) float
        Depth of every object, by label (`depths`), in pixels of this grid: of the whole object,
        also where `labels` shows a part of it.

    Returns
    -------
    (H, W) float32, 0 … 1
    """
    whole = np.maximum(np.asarray(deepest, np.float32), 0.5)[labels]
    return np.minimum(edge_distance(labels) / whole, 1.0, dtype=np.float32)


def median_diameter(labels: NDArray[np.integer]) -> float | None:
    """Median diameter (px) of discs with the objects' areas; None without objects.

    Objects cut by the image's edge count only where there is no whole one.
    """
    areas = np.bincount(np.asarray(labels, np.int64).ravel())
    areas[0] = 0
    edge = np.unique(
        np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).astype(np.int64)
    )
    inside = areas.copy()
    inside[edge] = 0
    sizes = inside[inside > 0] if (inside > 0).any() else areas[areas > 0]
    if not sizes.size:
        return None
    return float(2 * np.sqrt(np.median(sizes) / np.pi))
