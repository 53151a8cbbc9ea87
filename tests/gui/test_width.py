"""The dock is 360 px wide on small screens: nothing on any page may need more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.settings import get_settings
from qtpy.QtWidgets import QApplication, QTabWidget, QWidget

if TYPE_CHECKING:
    from napari_sa2net.widgets.dock import SA2NetDock

WIDTH = 360


@pytest.fixture(params=[9, 11])
def font_size(request: pytest.FixtureRequest) -> Iterator[int]:
    """Napari's own size, and 125 % of it."""
    appearance = get_settings().appearance
    before = appearance.font_size
    appearance.font_size = request.param
    yield request.param
    appearance.font_size = before


@pytest.mark.both_bindings
def test_every_page_fits(open_dock: Callable[[], SA2NetDock], font_size: int) -> None:
    dock = open_dock()
    stack = np.zeros((4, 3, 64, 64), np.uint8)
    dock._viewer.add_image(stack, name="a rather long name that somebody gave an image")
    tabs = dock.findChild(QTabWidget)
    assert tabs is not None
    for page in dock.pages:
        for part in page.children():
            # Also what appears only in some state of the page.
            if isinstance(part, QWidget) and not part.isWindow():
                part.setVisible(True)
    for widget in dock.findChildren(QWidget):
        widget.ensurePolished()
    QApplication.processEvents()
    bar = 19
    widths = {type(page).__name__: page.minimumSizeHint().width() for page in dock.pages}
    assert len(widths) == 5
    assert max(widths.values()) + bar <= WIDTH, widths
    assert tabs.tabBar().minimumSizeHint().width() <= WIDTH
    assert dock.minimumSizeHint().width() <= WIDTH
    if font_size == 9:  # all five names whole
        assert tabs.tabBar().sizeHint().width() <= WIDTH


def test_a_list_narrower_than_its_words_says_them_in_full(
    open_dock: Callable[[], SA2NetDock],
) -> None:
    dock = open_dock()
    dock._viewer.add_image(np.zeros((4, 3, 64, 64), np.uint8), name="stack")
    axes: Any = dock.pages[0].details.axes
    for i in range(axes.count()):
        axes.setCurrentIndex(i)
        assert axes.toolTip().startswith(axes.itemText(i) + "\n")
