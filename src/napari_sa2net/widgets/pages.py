"""The pages of the dock, in the order of the work.

A new page is a subclass of `PageWidget` and one more entry in `PAGES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_sa2net.widgets.page_parts import PageWidget

if TYPE_CHECKING:
    from napari_sa2net.widgets.workspace import Workspace


@dataclass(frozen=True)
class Page:
    """A page: its name on the tab, a tooltip, and what makes it."""

    name: str
    tip: str
    make: Callable[[Workspace], PageWidget]


def _segment(workspace: Workspace) -> PageWidget:
    from napari_sa2net.widgets.segment_page import SegmentPage

    return SegmentPage(workspace)


def _see_why(workspace: Workspace) -> PageWidget:
    from napari_sa2net.widgets.see_why_page import SeeWhyPage

    return SeeWhyPage(workspace)


def _correct(workspace: Workspace) -> PageWidget:
    from napari_sa2net.widgets.correct_page import CorrectPage

    return CorrectPage(workspace)


def _models(workspace: Workspace) -> PageWidget:
    from napari_sa2net.widgets.models_page import ModelsPage

    return ModelsPage(workspace)


def _learn(workspace: Workspace) -> PageWidget:
    from napari_sa2net.widgets.learn_page import LearnPage

    return LearnPage(workspace)


PAGES: tuple[Page, ...] = (
    Page("Segment", "Find the cells in an image", _segment),
    Page("See why", "What the network looked at, and what if it had not", _see_why),
    Page("Correct", "Repair cells, say which are right, and keep that", _correct),
    Page("Learn", "Teach the model what you corrected", _learn),
    Page("Models", "Which models there are; import, compare, rename, remove", _models),
)


def page_named(name: str) -> Page:
    """The page of that name."""
    return next(page for page in PAGES if page.name == name)
