"""Which cells or regions a click or a lasso means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari_sa2net import edits
from napari_sa2net.app.correct_source import Index
from napari_sa2net.edits import Corrections, Step
from napari_sa2net.errors import EditError

MakeStep = Callable[[Corrections, Index], Step]


def chosen(corrections: Corrections, index: Index, point: Any, lasso: Any) -> list[int]:
    """Cells under a point or in a lasso."""
    if lasso is not None:
        found = edits.labels_in(corrections, lasso, index)
    else:
        found = [edits.label_at(corrections, point, index)]
    found = [label for label in found if label]
    if not found:
        raise EditError("There is no cell there: click on one.")
    return found


def inside(corrections: Corrections, index: Index, outline: Any) -> int | None:
    """The cell that an outline is about: the one whose centre lies in it, if just one does."""
    found = edits.labels_in(corrections, outline, index)
    return found[0] if len(found) == 1 else None


def unmarked(point: Any) -> MakeStep:
    """Removal of the marked region under a point."""

    def make(corrections: Corrections, index: Index) -> Step:
        region = edits.region_at(corrections, point, index)
        if region is None:
            raise EditError("There is no marked region there: draw around one.")
        return edits.remove_region(corrections, region.id)

    return make
