"""Corrections of labels as invertible steps, with one history, and the order of review.

A function looks at the labels and gives a :class:`Step`; the :class:`History` does it:

>>> corrections = Corrections(labels)
>>> history = History(corrections)
>>> history.do(split(corrections, [(10, 0), (10, 40)]))
>>> history.undo_words
'Undo split of cell 17'

Points are (y, x) in pixels of the plane, boxes (y0, y1, x0, x1) half-open, and ``index`` is
the plane of a stack, () for a single plane.
"""

from __future__ import annotations

from napari_sa2net.edits.boxes import laid_over, replace_area, replace_box
from napari_sa2net.edits.contours import fill_holes, fit_to_edge, redraw, redraw_mask, smooth
from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.doubt import Doubt
from napari_sa2net.edits.history import History
from napari_sa2net.edits.label_index import LabelIndex, PlaneIndex
from napari_sa2net.edits.marking import (
    accept,
    accept_in_view,
    ignored_labels,
    mark_region,
    region_at,
    remove_region,
    reviewed_labels,
    unaccept,
)
from napari_sa2net.edits.objects import delete, label_at, labels_in, labels_under, merge, split
from napari_sa2net.edits.patch import Patch
from napari_sa2net.edits.regions import Region
from napari_sa2net.edits.review import ReviewQueue
from napari_sa2net.edits.reviewed import (
    ReviewedMask,
    changed_boxes,
    outlines,
    reviewed_mask,
    reviewed_regions,
)
from napari_sa2net.edits.step import SCHEMA_VERSION, STEP_KINDS, Marks, Step
from napari_sa2net.edits.strokes import stroke

__all__ = [
    "SCHEMA_VERSION",
    "STEP_KINDS",
    "Corrections",
    "Doubt",
    "History",
    "LabelIndex",
    "Marks",
    "Patch",
    "PlaneIndex",
    "Region",
    "ReviewQueue",
    "ReviewedMask",
    "Step",
    "accept",
    "accept_in_view",
    "changed_boxes",
    "delete",
    "fill_holes",
    "fit_to_edge",
    "ignored_labels",
    "label_at",
    "labels_in",
    "labels_under",
    "laid_over",
    "mark_region",
    "merge",
    "outlines",
    "redraw",
    "redraw_mask",
    "region_at",
    "remove_region",
    "replace_area",
    "replace_box",
    "reviewed_labels",
    "reviewed_mask",
    "reviewed_regions",
    "smooth",
    "split",
    "stroke",
    "unaccept",
]
