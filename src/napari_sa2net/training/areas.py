"""Pixels of objects that two label images share, and Dice from objects drawn anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def overlaps(
    found: NDArray[np.int32], true: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of labels that share a pixel, and their IoU."""
    both = (found > 0) & (true > 0)
    width = int(true.max(initial=0)) + 1
    pairs, shared = np.unique(
        found[both].astype(np.int64) * width + true[both], return_counts=True
    )
    p_of, t_of = pairs // width, pairs % width
    area_p, area_t = np.bincount(found.ravel()), np.bincount(true.ravel())
    return p_of, t_of, shared / (area_p[p_of] + area_t[t_of] - shared)


def areas_of(
    found: NDArray[np.bool_], true: NDArray[np.int32], numbers: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Pixels found, missed, and falsely found nearest to each true object."""
    areas = np.zeros((max(1, numbers.size), 3), np.int64)
    false = found & (true == 0)
    if not numbers.size:
        areas[0, 2] = false.sum()
        return areas
    nearest = true
    if false.any():
        from scipy import ndimage  # slow to load

        at = ndimage.distance_transform_edt(
            true == 0, return_distances=False, return_indices=True
        )
        nearest = true[tuple(at)]
    most = int(numbers[-1]) + 1
    for column, pixels in enumerate((found & (true > 0), ~found & (true > 0), false)):
        areas[:, column] = np.bincount(nearest[pixels], minlength=most)[numbers]
    return areas


def drawn_dice(
    shares: Sequence[NDArray[np.floating]], picks: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Dice of each draw of objects, as a mean over the images that the draw holds.

    Parameters
    ----------
    shares : sequence of (n, 3)
        Per image, of each object: pixels found, missed, and falsely found nearest to it.
    picks : (draws, all n)
        Numbers of the objects that each draw takes, counted through all images.
    """
    n = picks.shape[1]
    rows = np.arange(len(picks))[:, None]
    times = np.bincount((picks + n * rows).ravel(), minlength=n * len(picks))
    times = times.reshape(len(picks), n)
    total, images = np.zeros(len(picks)), np.zeros(len(picks))
    start = 0
    for one in shares:
        part = times[:, start : start + len(one)]
        start += len(one)
        hit, missed, false = (part @ one).T
        whole = 2 * hit + missed + false
        there = part.any(1)
        total += there * np.where(whole > 0, 2 * hit / np.where(whole > 0, whole, 1), 1.0)
        images += there
    return total / np.maximum(images, 1)
