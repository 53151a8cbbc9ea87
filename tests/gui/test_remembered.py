"""The dock is closed and opened again: what was chosen is chosen still."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_sa2net.widgets.dock import SegmentDock

if TYPE_CHECKING:
    from napari_sa2net.widgets.dock import SA2NetDock


def test_closed_and_opened_again(open_dock: Callable[[], SA2NetDock]) -> None:
    dock = open_dock()
    viewer = dock._viewer
    viewer.add_image(np.zeros((64, 64)), name="image")
    page: Any = dock.pages[0]
    page.size_row.spin.setValue(21)
    page.result.foreground.spin.setValue(0.35)
    page.region_row.setValue("view", "all")
    page._region_changed()
    dock.shut()

    again = SegmentDock(viewer)
    page = again.pages[0]
    assert page.size_row.value() == 21
    assert page.session.predict.diameter == 21
    assert page.session.instances.foreground == 0.35
    assert page.result.foreground.value() == 0.35
    assert page.session.model == "tiny"
    assert page.model_row.combo.currentData() == "tiny"
    assert page.region_row.where() == "view"
    again.shut()
