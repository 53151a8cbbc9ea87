"""Which reviewed pixels are certain: background far from a reviewed cell may be no background.

Around an accepted or corrected cell the background counts as reviewed, up to half the way to
the next labelled cell and at most 15 px. A neighbour that nobody has labelled lies in there
with all its pixels. Close to the cell itself a person has seen that there is none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_sa2net.edits.reviewed import REACH
from napari_sa2net.training.compare import reviewed_objects

#: So far from a reviewed cell its background is certain, as a share of the typical diameter.
NEAR = 0.15
LEAST = 2.0


def certain_pixels(
    labels: NDArray[np.integer], counts: NDArray[np.bool_] | None, diameter: float
) -> NDArray[np.bool_] | None:
    """Reviewed pixels that are what they are labelled as.

    Parameters
    ----------
    labels : int (H, W)
    counts : bool (H, W) or None
        Reviewed pixels; None: all.
    diameter : float
        Typical of the reviewed cells (px).

    Returns
    -------
    bool (H, W) or None
        Reviewed cells, the background next to them, and what was reviewed farther away than
        any cell's surroundings reach, with what lies around that: a region that was marked as
        all right, or a place that was cleared. None: all.
    """
    if counts is None or counts.all():
        return None
    own = counts & reviewed_objects(labels, counts)[labels]
    if not own.any():
        return counts
    away = ndimage.distance_transform_edt(~own)
    marked = counts & (away > REACH + 1)
    if marked.any():
        marked = ndimage.distance_transform_edt(~marked) <= REACH
    return counts & (own | (away <= max(LEAST, NEAR * diameter)) | marked)
