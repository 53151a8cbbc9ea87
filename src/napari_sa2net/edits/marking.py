"""What a person says of objects and areas without changing a pixel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from napari_sa2net.edits.build import named, status_change
from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.patch import Index
from napari_sa2net.edits.regions import REGION_KINDS, Region, RegionKind, drawn_region
from napari_sa2net.edits.shapes import (
    as_box,
    as_point,
    as_points,
    box_polygon,
    inside_polygon,
    polygon_box,
)
from napari_sa2net.edits.step import ACCEPTED, UNSEEN, Step
from napari_sa2net.errors import EditError, NothingToEditError

_REGION_WORDS = {"ignore": "region to ignore", "reviewed": "reviewed region"}


def accept(corrections: Corrections, labels: Iterable[int], index: Index = ()) -> Step:
    """Say that objects are right as they are. Corrected ones stay marked as corrected.

    Raises
    ------
    NothingToEditError
        If all of them were reviewed before.
    EditError
        If a label is not there.
    """
    index = corrections.checked(index)
    chosen = corrections.objects(labels, index)
    fresh = [label for label in chosen if corrections.status_code(label, index) == UNSEEN]
    if not fresh:
        raise NothingToEditError("Every cell there is reviewed already.")
    return _status_step(corrections, index, fresh, ACCEPTED)


def accept_in_view(corrections: Corrections, view: Any, index: Index = ()) -> Step:
    """Accept all objects whose centres lie in a box (y0, y1, x0, x1), clipped to the image.

    Objects in regions to ignore are passed over. Errors as of :func:`accept`.
    """
    index = corrections.checked(index)
    box = as_box(view, corrections.shape)
    plane = corrections.plane(index)
    ignored = _in_regions(corrections, index, "ignore")
    labels = [label for label in plane.within(box).tolist() if label not in ignored]
    if not labels:
        raise NothingToEditError("There is no cell in view.")
    return accept(corrections, labels, index)


def unaccept(corrections: Corrections, labels: Iterable[int], index: Index = ()) -> Step:
    """Take back that objects are reviewed, whether accepted or corrected.

    Raises
    ------
    NothingToEditError
        If none of them was reviewed.
    EditError
        If a label is not there.
    """
    index = corrections.checked(index)
    chosen = corrections.objects(labels, index)
    known = [label for label in chosen if corrections.status_code(label, index) != UNSEEN]
    if not known:
        raise NothingToEditError("No cell there is reviewed yet.")
    return _status_step(corrections, index, known, UNSEEN)


def mark_region(
    corrections: Corrections,
    kind: RegionKind,
    index: Index = (),
    *,
    polygon: ArrayLike | None = None,
    box: Any = None,
) -> Step:
    """Mark an area as wholly reviewed, or to be ignored.

    Parameters
    ----------
    corrections : Corrections
    kind : "reviewed" or "ignore"
    index : tuple of int
        Plane of the stack.
    polygon : (n, 2) points (y, x), optional
    box : (y0, y1, x0, x1), optional
        Half-open, in pixels; one of the two is needed.

    Raises
    ------
    EditError
        If the kind is unknown, or the area holds no pixel of the image.
    """
    index = corrections.checked(index)
    if kind not in _REGION_WORDS:
        known = [name for name in REGION_KINDS if name in _REGION_WORDS]
        raise EditError(f"A region is {' or '.join(known)}, not {kind!r}.")
    if (polygon is None) == (box is None):
        raise EditError("Draw the region as a polygon or as a box.")
    if box is not None:
        corners = box_polygon(as_box(box, corrections.shape))
    else:
        assert polygon is not None
        corners = as_points(polygon, 3, "region")
    region = drawn_region(corrections.new_region(), kind, index, corners)
    place = polygon_box(corners, corrections.shape)
    if place is None or not region.mask(place).any():
        raise EditError("The region holds no pixel of the image: draw it on the image.")
    return Step("region", f"marking of a {_REGION_WORDS[kind]}", added=(region,))


def remove_region(corrections: Corrections, region_id: int) -> Step:
    """Remove a marked region.

    Raises
    ------
    EditError
        If there is none of that id.
    """
    region = corrections.regions.get(region_id)
    if region is None or region.kind not in _REGION_WORDS:
        raise EditError(f"There is no marked region {region_id!r}.")
    words = f"removal of a {_REGION_WORDS[region.kind]}"
    return Step("unregion", words, removed=(region,))


def region_at(corrections: Corrections, point: ArrayLike, index: Index = ()) -> Region | None:
    """The newest marked region under a point (y, x); None where there is none."""
    y, x = as_point(point)
    for region in reversed(corrections.regions_of(corrections.checked(index))):
        if region.kind in _REGION_WORDS and inside_polygon(region.polygon, y, x):
            return region
    return None


def reviewed_labels(corrections: Corrections, index: Index = ()) -> set[int]:
    """Objects that count as reviewed: accepted, corrected, or in a reviewed region."""
    marked = set(corrections.marked(corrections.checked(index)))
    return marked | _in_regions(corrections, index, "reviewed")


def ignored_labels(corrections: Corrections, index: Index = ()) -> set[int]:
    """Objects whose centres lie in a region to ignore."""
    return _in_regions(corrections, corrections.checked(index), "ignore")


def _in_regions(corrections: Corrections, index: Index, kind: str) -> set[int]:
    regions = [region for region in corrections.regions_of(index) if region.kind == kind]
    found: set[int] = set()
    if regions:
        plane = corrections.plane(index)
        labels = plane.labels
        y, x = plane.centres.T
        for region in regions:
            found.update(labels[inside_polygon(region.polygon, y, x)].tolist())
    return found


def _status_step(
    corrections: Corrections, index: Index, labels: list[int], status: int
) -> Step:
    values = np.asarray(labels, np.int64)
    marks = status_change(corrections, index, values, np.full(values.size, status, np.int64))
    if status == ACCEPTED:
        return Step("accept", f"acceptance of {named(labels)}", marks=(marks,))
    return Step("unaccept", f"taking {named(labels)} back from review", marks=(marks,))
