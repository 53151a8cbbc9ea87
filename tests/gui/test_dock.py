"""Pages are made when they are first shown, and do nothing before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtWidgets import QTabWidget

import napari_sa2net
from napari_sa2net.data.journal import Journal
from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets import workspace
from napari_sa2net.widgets.page import PageWidget

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

WAIT_MS = 180_000
pytestmark = pytest.mark.timeout(600)

PACKAGE = Path(napari_sa2net.__file__).parent
#: what is there for the pages that are not the first
OTHERS = (
    "see_why",
    "correct",
    "learn",
    "widgets/models",
    "app/models",
    "interpret",
)


def made(dock: SA2NetDock) -> list[str]:
    return sorted(type(page).__name__ for page in dock.findChildren(PageWidget))


def show(dock: SA2NetDock, name: str) -> Any:
    tabs = dock.findChild(QTabWidget)
    assert tabs is not None
    index = next(i for i in range(tabs.count()) if tabs.tabText(i) == name)
    tabs.setCurrentIndex(index)
    return dock.pages[index]


@contextmanager
def called() -> Iterator[list[str]]:
    """Modules of ours by path, once for each call on this thread."""
    heard: list[str] = []

    def hear(frame: Any, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(PACKAGE)):
            heard.append(Path(path).relative_to(PACKAGE).as_posix())

    sys.setprofile(hear)
    try:
        yield heard
    finally:
        sys.setprofile(None)


def test_a_click_runs_nothing_for_pages_that_nobody_opened(
    open_dock: Callable[[], SA2NetDock], qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = open_dock()
    dock.window().show()
    assert made(dock) == ["SegmentPage"]
    page: Any = dock.pages[0]
    viewer, session = page.port.viewer, page.session
    viewer.add_image(synthetic_nuclei((256, 256), n=20, diameter=20, seed=0)[0], name="nuclei")
    qtbot.waitUntil(lambda: session.estimate is not None, timeout=WAIT_MS)

    plans: list[object] = []
    begin = ImagePlan.__init__

    def plan(self: ImagePlan, *args: Any) -> None:
        plans.append(self)
        begin(self, *args)

    monkeypatch.setattr(ImagePlan, "__init__", plan)
    with called() as heard:
        page.button.click()
        qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
        qtbot.wait(300)
    assert session.error is None
    assert session.summary
    assert "widgets/segment.py" in heard
    assert [path for path in heard if any(name in path for name in OTHERS)] == []
    # one where the image goes to the engine, and one there (tests/engine)
    assert len(plans) <= 1
    assert made(dock) == ["SegmentPage"]

    # what is opened later shows what there is
    correct = show(dock, "Correct")
    assert made(dock) == ["CorrectPage", "SegmentPage"]
    cells = viewer.layers["nuclei cells"]
    assert correct.state.cells.key == str(cells.unique_id)
    assert correct.cells_row.isEnabled()
    assert correct.body.isVisible()
    why = show(dock, "See why")
    assert why.image_row.value() == session.image.key
    assert why.work.isVisible()
    models = show(dock, "Models")
    assert [entry.name for entry in models.state.entries] == ["nuclei", "tiny"]
    assert models.state.folder == correct.state.folder
    learn = show(dock, "Learn")
    assert learn.model_row.value() == "tiny"
    qtbot.waitUntil(lambda: learn.state.summary is not None, timeout=WAIT_MS)
    assert len(made(dock)) == len(dock.pages) == 5
    assert dock.pages[-1] is models


def test_a_stroke_is_journalled_before_the_page_was_opened(
    open_dock: Callable[[], SA2NetDock], qtbot: QtBot
) -> None:
    dock = open_dock()
    dock.window().show()
    viewer = dock._viewer
    labels = np.zeros((64, 64), np.int32)
    labels[10:20, 10:20] = 1
    viewer.add_image(np.random.default_rng(0).random((64, 64)), name="nuclei")
    cells = viewer.add_labels(labels, name="cells")
    cells.data_setitem(np.nonzero(np.ones((4, 4))), 2)
    qtbot.wait(50)
    assert made(dock) == ["SegmentPage"]
    page = show(dock, "Correct")
    assert page.state.unsaved == 1
    assert page.state.undo
    qtbot.waitUntil(lambda: page.state.safe, timeout=WAIT_MS)
    journal = page.controller.session.journal
    dock.shut()

    # and offered to those who open the page of another dock later, and only then
    cells.data = np.zeros_like(labels)
    other = open_dock()
    other.window().show()
    assert made(other) == ["SegmentPage"]
    offered = show(other, "Correct")
    viewer = other._viewer
    viewer.add_image(np.random.default_rng(0).random((64, 64)), name="nuclei")
    qtbot.waitUntil(lambda: bool(offered.state.offers), timeout=WAIT_MS)
    assert [offer.id for offer in offered.state.offers] == [journal.id]
    assert not offered.offers.isHidden()
    steps = Journal.reopen(journal.id)
    assert len(steps.read().steps) == 1
    steps.close()


def test_cells_are_known_since_they_are_shown(open_dock: Callable[[], SA2NetDock]) -> None:
    """What others keep of the image while the page is closed is not taken for known."""
    dock = open_dock()
    viewer = dock._viewer
    viewer.add_image(np.zeros((32, 32)), name="nuclei")
    cells = viewer.add_labels(np.zeros((32, 32), np.int32), name="cells")
    assert dock.workspace is not None
    earlier = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    dock.workspace.port._seen_since[cells] = earlier
    controller = show(dock, "Correct").controller
    assert controller.open().began == earlier


def test_a_page_that_is_asked_for_is_made_once(open_dock: Callable[[], SA2NetDock]) -> None:
    dock = open_dock()
    (first,) = dock.pages[:1]
    assert made(dock) == ["SegmentPage"]
    assert dock.pages[0] is first is show(dock, "Segment")
    assert show(dock, "Models") is dock.pages[4]
    assert made(dock) == ["ModelsPage", "SegmentPage"]
    with pytest.raises(IndexError):
        dock.pages[5]
    dock.shut()
    tabs = dock.findChild(QTabWidget)
    assert tabs is not None
    tabs.setCurrentIndex(1)
    assert made(dock) == ["ModelsPage", "SegmentPage"]


def test_preferences_are_read_where_there_may_be_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import napari.settings

    class Stored:
        config_path: Path | None = tmp_path / "settings.yaml"

    monkeypatch.setattr(napari.settings, "get_settings", Stored)
    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {}, raising=False)
    assert not workspace._may_be_set()
    (tmp_path / "napari-sa2net.yaml").write_text("segment:\n  device: cpu\n")
    assert workspace._may_be_set()
    monkeypatch.setattr(Stored, "config_path", None)
    assert not workspace._may_be_set()
    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {"other": object()})
    assert workspace._may_be_set()


def test_a_page_that_is_chosen_in_the_menu_comes_to_the_front(
    home: Path, make_napari_viewer: Any, qtbot: Any
) -> None:
    """A new one lies before the others; one behind a tab is raised, not hidden."""
    from napari._app_model import get_app_model

    viewer = make_napari_viewer(show=True)
    window = viewer.window
    window._qt_window.resize(1366, 740)

    def choose(command: str) -> None:
        get_app_model().commands.execute_command(f"napari-sa2net.{command}").result()

    def in_front(command: str) -> bool:
        name = f"{command.capitalize()} (SA2-Net)".replace("Dock ", "SA2-Net ")
        dock = window._wrapped_dock_widgets[name]
        return bool(dock.isVisible() and not dock.visibleRegion().isEmpty())

    for command in ("correct", "segment", "learn", "dock"):
        choose(command)
        qtbot.waitUntil(lambda command=command: in_front(command))
        qtbot.wait(50)
        assert in_front(command)
    for command in ("segment", "correct", "dock", "segment"):
        choose(command)
        qtbot.waitUntil(lambda command=command: in_front(command))
        qtbot.wait(50)
        assert in_front(command)
    # napari's tick in the menu hides the one that is seen, and brings it back
    choose("segment")
    qtbot.waitUntil(lambda: not in_front("segment"))
    choose("segment")
    qtbot.waitUntil(lambda: in_front("segment"))
    window.remove_dock_widget("all")

    # what the whole dock has is shown there, and no second dock is opened beside it
    choose("dock")
    ((name, whole),) = window.dock_widgets.items()
    whole.parentWidget().hide()
    tabs = whole.findChild(QTabWidget)
    for command in ("see_why", "models", "correct"):
        choose(command)
        qtbot.waitUntil(lambda: list(window.dock_widgets) == [name] and whole.isVisible())
        assert tabs.tabText(tabs.currentIndex()) == command.capitalize().replace("_", " ")
        assert set(whole.workspace.docks) == {whole}
    # a script gets the dock that it asks for
    _, alone = window.add_plugin_dock_widget("napari-sa2net", "Correct")
    qtbot.wait(50)
    assert len(window.dock_widgets) == 2
    assert set(alone.workspace.docks) == {whole, alone}
    window.remove_dock_widget("all")
