"""Whether labels are numbered cells, or a mask that somebody took for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Separate pieces of the usual label from which an image is taken for a mask.
PIECES = 3
#: Pieces below this share of a label's largest are crumbs.
CRUMB = 0.1
NUMBER_THEM = (
    "Number the cells first: with scikit-image, skimage.measure.label(mask > 0); with Fiji, "
    "Analyze Particles, Show: Count Masks."
)


def mask_problem(labels: NDArray[Any]) -> str:
    """What is wrong, and what to do, where labels look like a mask; empty where they do not.

    A numbered cell is one piece, or a few where something lies across it. In a mask of 0 and
    1, of 0 and 255, or of classes, one value stands in many places.
    """
    from skimage.measure import label  # slow to load

    labels = np.asarray(labels)
    pieces = label(labels.astype(np.int64), connectivity=2).ravel()
    areas = np.bincount(pieces)[1:]
    if areas.size < 2:
        return ""
    owner = np.zeros(areas.size + 1, np.int64)
    owner[pieces] = labels.ravel()
    values, index = np.unique(owner[1:], return_inverse=True)
    largest = np.zeros(values.size, np.int64)
    np.maximum.at(largest, index, areas)
    per_label = np.bincount(index[areas >= CRUMB * largest[index]], minlength=values.size)
    usual = int(np.median(per_label))
    # 255 is what programs write into masks; as a number of a single cell it is an odd one.
    is_mask = values.size == 1 and values[0] == 255 and usual > 1
    if usual < PIECES and not is_mask:
        return ""
    what = f"the one value {values[0]}" if values.size == 1 else f"each of {values.size} values"
    return (
        f"this looks like a mask, not like numbered cells: {what} stands in {usual} separate "
        f"places. {NUMBER_THEM}"
    )
