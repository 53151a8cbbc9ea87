"""The pages of the dock, in the order of the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QWidget

if TYPE_CHECKING:
    from napari_sa2net.widgets.workspace import Workspace


@dataclass(frozen=True)
class Page:
    """A page: its name on the tab, a tooltip, and what makes it."""

    name: str
    tip: str
    make: Callable[[Workspace], QWidget]


def _segment(workspace: Workspace) -> QWidget:
    from napari_sa2net.widgets.segment_page import SegmentPage

    return SegmentPage(workspace)


PAGES: tuple[Page, ...] = (Page("Segment", "Find the cells in an image", _segment),)


def page_named(name: str) -> Page:
    """The page of that name."""
    return next(page for page in PAGES if page.name == name)
