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

from napari_sa2net.edits.areas import laid_over, replace_area, replace_box
from napari_sa2net.edits.carry import carried
from napari_sa2net.edits.contours import (
    add_at,
    fill_holes,
    fit_to_edge,
    redraw,
    redraw_mask,
    smooth,
)
from napari_sa2net.edits.corrections import Corrections, History, LabelIndex, PlaneIndex
from napari_sa2net.edits.objects import (
    delete,
    delete_everywhere,
    label_at,
    labels_in,
    labels_under,
    merge,
    split,
    stroke,
)
from napari_sa2net.edits.proposals import Changed, Snapshot, proposal, proposed
from napari_sa2net.edits.review import UNKNOWN_DIAMETER, Doubt, ReviewQueue, StackQueue
from napari_sa2net.edits.reviewed import (
    ReviewedMask,
    accept,
    accept_in_view,
    changed_boxes,
    ignored_labels,
    mark_region,
    outlines,
    region_at,
    remove_region,
    reviewed_labels,
    reviewed_mask,
    reviewed_regions,
    unaccept,
)
from napari_sa2net.edits.step import SCHEMA_VERSION, STEP_KINDS, Marks, Patch, Region, Step

__all__ = [
    "SCHEMA_VERSION",
    "STEP_KINDS",
    "UNKNOWN_DIAMETER",
    "Changed",
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
    "Snapshot",
    "StackQueue",
    "Step",
    "accept",
    "accept_in_view",
    "add_at",
    "carried",
    "changed_boxes",
    "delete",
    "delete_everywhere",
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
    "proposal",
    "proposed",
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
