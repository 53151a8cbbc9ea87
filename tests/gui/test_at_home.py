"""What napari knows of us: its activity dock, its tasks, its notifications, its menus."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from napari.utils import progress
from napari.utils.notifications import notification_manager
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QApplication, QLabel, QPushButton, QTabWidget

from napari_sa2net.app.session import JobProgress
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets import workspace
from napari_sa2net.widgets.correct.tools import USUAL_KEYS
from napari_sa2net.widgets.dock import PAGES, measure_cells
from napari_sa2net.widgets.napari_port.keys import choose_keys, key_now, spelled
from napari_sa2net.widgets.workspace import TABLE, WHEEL, Activity


class Run:
    """Something that runs, for as long as a test wants."""

    def __init__(self, viewer):
        self.on, self.far, self.said = False, None, "12 cells"
        self.activity = Activity(
            viewer, "finding cells", lambda: self.on, lambda: self.far, lambda: self.said
        )

    def set(self, on, far=None):
        self.on, self.far = on, far
        self.activity.follow()


@pytest.fixture
def run(make_napari_viewer):
    viewer = make_napari_viewer()
    one = Run(viewer)
    yield one, viewer
    one.activity.end()


def tasks(viewer):
    return viewer.window._task_status_manager.get_status()


def test_a_run_is_in_the_activity_dock_and_asks_before_napari_closes(run, qtbot):
    one, viewer = run
    bars = set(progress._all_instances)
    one.set(True, JobProgress(0, 10, "segmenting"))
    assert not tasks(viewer)  # it may be over in a moment
    qtbot.waitUntil(lambda: bool(tasks(viewer)), timeout=20_000)
    assert tasks(viewer) == ["SA2-Net: finding cells"]
    labels = viewer.window._qt_window.statusBar().findChildren(QLabel)
    assert [label.movie().speed() for label in labels if label.movie()] == [WHEEL]
    (bar,) = set(progress._all_instances) - bars
    one.set(True, JobProgress(4, 10, "segmenting"))
    qtbot.waitUntil(lambda: bar.n == 40 and bar.desc == "SA2-Net: segmenting: ")
    assert bar.total == 100
    one.set(True, JobProgress(0, 0, "measuring"))
    qtbot.waitUntil(lambda: bar.desc.startswith("SA2-Net: measuring"))
    one.set(False)
    qtbot.waitUntil(lambda: not tasks(viewer))
    qtbot.waitUntil(lambda: set(progress._all_instances) == bars)


def test_the_canvas_is_not_drawn_while_napari_makes_its_bar(run, qtbot, monkeypatch):
    one, viewer = run
    canvas, seen = viewer.window._qt_viewer.canvas.native, []

    def made(*given, **named):
        seen.append(canvas.updatesEnabled())
        return progress(*given, **named)

    monkeypatch.setattr(workspace, "progress", made)
    one.set(True, JobProgress(1, 10, "segmenting"))
    qtbot.waitUntil(lambda: bool(seen), timeout=20_000)
    assert seen == [False]
    assert canvas.updatesEnabled()


def test_a_run_may_end_while_napari_draws_its_bar(run, qtbot):
    one, viewer = run
    bars = set(progress._all_instances)
    one.set(True, JobProgress(1, 10, "segmenting"))
    qtbot.waitUntil(lambda: bool(tasks(viewer)))
    (bar,) = set(progress._all_instances) - bars
    # napari handles other events inside of this call
    bar.events.value.connect(lambda _: one.set(False) or one.activity.end())
    one.set(True, JobProgress(9, 10, "segmenting"))
    qtbot.waitUntil(lambda: not tasks(viewer))
    qtbot.waitUntil(lambda: set(progress._all_instances) == bars)


def test_a_brief_run_is_not_told(run, qtbot):
    one, viewer = run
    bars = set(progress._all_instances)
    one.set(True)
    one.set(False)
    qtbot.wait(2 * workspace.BRIEF_MS)
    assert not tasks(viewer)
    assert set(progress._all_instances) == bars


@pytest.mark.parametrize(("seen", "long", "told"), [(0, 1, 1), (1, 1, 0), (0, 0, 0)])
def test_the_end_of_a_long_run_is_told_to_who_looks_elsewhere(
    run, qtbot, monkeypatch, open_dock, seen, long, told
):
    one, _ = run
    if seen:
        dock = open_dock()
        one.activity = Activity(
            dock.workspace.port.viewer, "", lambda: one.on, lambda: None, lambda: one.said
        )
        dock.window().show()
        qtbot.waitUntil(dock.isVisible)
        monkeypatch.setattr(QApplication, "activeWindow", lambda: dock.window())
    monkeypatch.setattr(workspace, "LONG", 0.0 if long else 3600.0)
    before = len(notification_manager.records)
    one.set(True)
    qtbot.wait(5)
    one.set(False)
    qtbot.waitUntil(lambda: not one.activity._began)
    words = [record.message for record in notification_manager.records[before:]]
    assert words == (["SA2-Net: 12 cells"] if told else [])


def test_segmenting_is_told(open_dock, monkeypatch, qtbot):
    monkeypatch.setattr(workspace, "BRIEF_MS", 5)
    dock = open_dock()
    session, viewer = dock.workspace.session, dock.workspace.port.viewer
    told, register = [], viewer.window._register_task_status

    def spy(provider, status, words, cancel=None):
        told.append(words)
        return register(provider, status, words, cancel)

    monkeypatch.setattr(viewer.window, "_register_task_status", spy)
    image, _ = synthetic_nuclei((256, 256), n=20, seed=1)
    viewer.add_image(image)
    qtbot.waitUntil(
        lambda: session.engine == "ready" and session.image is not None, timeout=60_000
    )
    dock.pages[0].button.click()
    qtbot.waitUntil(lambda: session.running, timeout=60_000)
    qtbot.waitUntil(lambda: not session.running and bool(session.counted), timeout=60_000)
    assert told == ["finding cells"]
    qtbot.waitUntil(lambda: not tasks(viewer))

    # the sliders go back to what was tuned for the model, and nothing else does
    page, controller = dock.pages[0], dock.workspace.controller
    assert page.result.reset.isHidden()
    tuned = session.instances
    controller.set_instances(tuned.model_copy(update={"split": 0.11, "fill_holes": False}))
    assert not page.result.reset.isHidden()
    page.result.reset.click()
    assert session.instances == tuned.model_copy(update={"fill_holes": False})
    assert page.result.split.value() == pytest.approx(tuned.split)
    assert page.result.reset.isHidden()


def test_corrections_are_kept_where_the_preferences_say(
    make_napari_viewer, open_dock, tmp_path
):
    from napari.settings import get_plugin_settings  # since napari 0.9

    make_napari_viewer()
    settings = get_plugin_settings("napari-sa2net")
    assert settings.correct.corrections == ""
    # tests never write where a person's own preferences are
    assert settings.config_path.parent == Path(os.environ["NAPARI_CONFIG"]).parent
    settings.correct.corrections = str(tmp_path / "mine")
    try:
        dock = open_dock()
    finally:
        settings.correct.corrections = ""
    assert dock.workspace.correct.state.folder == tmp_path / "mine"
    assert dock.workspace.models.state.folder == tmp_path / "mine"
    assert dock.workspace.learn.state.folder == tmp_path / "mine"


def test_keys_and_memory_are_those_of_the_preferences(make_napari_viewer, open_dock, home):
    from napari.settings import get_plugin_settings  # since napari 0.9

    make_napari_viewer()
    settings = get_plugin_settings("napari-sa2net")
    assert settings.keys.model_dump() == USUAL_KEYS
    usual = settings.model_dump()
    settings.keys.split, settings.keys.next, settings.keys.merge = "x", "alt-n", "nonsense"
    settings.keys.previous = "alt-p"
    settings.segment.memory = 0.5
    before = len(notification_manager.records)
    try:
        dock = open_dock()
        assert dock.workspace.link.client.memory == 2**29
        page = dock._places[[page.name for page in PAGES].index("Correct")].fill()
        viewer = dock.workspace.port.viewer
        page.keys.bind(viewer)
        bound = {str(key) for key in viewer.keymap}
        page.keys.release()
    finally:
        for part in ("keys", "segment"):
            for name, value in usual[part].items():
                setattr(getattr(settings, part), name, value)
    assert {"X", "Alt+N", "G"} <= bound
    assert not {"S", "N"} & bound
    assert page.strip.buttons["split"].toolTip().endswith("(X)")
    assert page.review.back.toolTip().endswith("(Alt+P)")
    assert "<b>Alt+N</b>" in page.sheet.sheet.text()
    page.sheet.fold.setChecked(True)  # which makes the page no wider than the dock
    assert page.sheet.minimumSizeHint().width() < 320
    words = [record.message for record in notification_manager.records[before:]]
    assert words == [
        "Keys in the preferences of SA2-Net: 'nonsense' is no key, so merge stays with G."
    ]
    # as they are for the next who opens a dock
    assert choose_keys(USUAL_KEYS, {}) == []
    assert spelled("Shift-N") == "Shift+N"


def test_one_key_for_two_things_is_refused():
    try:
        (why,) = choose_keys({"split": "S", "merge": "G", "keep": "K"}, {"split": "g"})
        assert why == "G is given to split and merge, so all keep their usual keys."
        assert key_now("S") == "S"
        assert choose_keys({"split": "S", "merge": "G"}, {"split": "G", "merge": "S"}) == []
        assert (key_now("S"), key_now("G")) == ("G", "S")
        (why,) = choose_keys({"split": "S", "accept_view": "Shift-A"}, {"split": "shift+a"})
        assert "split and accept view" in why
    finally:
        choose_keys({}, {})


@pytest.mark.parametrize(
    "key", ["Ctrl+Z", "control-shift-z", "Escape", "Space", "2", "m", "Ctrl"]
)
def test_keys_that_are_needed_otherwise_are_refused(key):
    try:
        (why,) = choose_keys({"split": "S", "previous": "Shift-N"}, {"previous": key})
        assert why.endswith("so previous stays with Shift+N.")
        assert key_now("Shift-N") == "Shift-N"
    finally:
        choose_keys({}, {})


def test_every_page_leads_to_its_documentation(open_dock, monkeypatch):
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toString()))
    dock = open_dock()
    for place in dock._places:
        (link,) = [b for b in place.fill().findChildren(QPushButton) if b.text() == "Help"]
        link.click()
    root = Path(__file__).parents[2]
    docs = root / "docs"
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(opened) == len(PAGES)
    for url in opened:
        assert url.startswith(project["urls"]["Documentation"])
        assert (docs / f"{url.split('/')[-2]}.md").is_file(), url


def test_a_right_click_on_a_layer_offers_what_fits_it(open_dock):
    from napari._app_model import get_app_model

    def offered(viewer):
        from napari._app_model.context import get_context

        kind = get_context(viewer.layers)["active_layer_type"]
        items = get_app_model().menus.get_menu("napari/layers/context")
        ours = [
            item
            for item in items
            if "(SA2-Net)" in getattr(getattr(item, "command", None), "title", "")
        ]
        return [one.command.title for one in ours if one.when.eval({"active_layer_type": kind})]

    dock = open_dock()
    viewer = dock.workspace.port.viewer
    image, truth = synthetic_nuclei((64, 64), n=3, seed=1)
    viewer.add_image(image)
    assert offered(viewer) == ["Segment (SA2-Net)"]
    viewer.add_labels(truth)
    assert offered(viewer) == ["Measure cells (SA2-Net)", "Correct (SA2-Net)"]

    # what is open is shown, and no second dock is opened
    commands = get_app_model().commands
    docks = len(viewer.window.dock_widgets)
    tabs = dock.findChild(QTabWidget)
    dock.parentWidget().hide()
    for number, page in ((2, "Correct"), (0, "Segment")):
        commands.execute_command(f"napari-sa2net.on_layer.{number}").result()
        assert tabs.tabText(tabs.currentIndex()) == page
        assert dock.parentWidget().isVisibleTo(viewer.window._qt_window)
    commands.execute_command("napari-sa2net.on_layer.1").result()
    assert TABLE in viewer.window.dock_widgets
    assert len(viewer.window.dock_widgets) == docks + 1
    dock.shut()
    assert offered(viewer) == []


def test_a_right_click_opens_a_page_that_is_not_open(make_napari_viewer, home, qtbot):
    from napari._app_model import get_app_model

    viewer = make_napari_viewer()
    _, correct = viewer.window.add_plugin_dock_widget("napari-sa2net", "Correct")
    commands = get_app_model().commands
    for _ in range(2):
        commands.execute_command("napari-sa2net.on_layer.2").result()
        assert list(viewer.window.dock_widgets) == ["Correct (napari-sa2net)"]
    for _ in range(2):
        commands.execute_command("napari-sa2net.on_layer.0").result()
        assert set(viewer.window.dock_widgets) == {
            "Correct (napari-sa2net)",
            "Segment (napari-sa2net)",
        }
    viewer.window.dock_widgets["Segment (napari-sa2net)"].shut()
    correct.shut()


def test_cells_of_any_layer_are_measured_from_the_menu(make_napari_viewer, home, qtbot):
    viewer = make_napari_viewer()
    image, truth = synthetic_nuclei((128, 128), n=6, seed=1)
    viewer.add_image(image)
    viewer.add_labels(truth)
    measure_cells(viewer)
    dock = viewer.window.dock_widgets["SA2-Net (napari-sa2net)"]
    qtbot.waitUntil(lambda: "6 cells" in dock.workspace.session.counted, timeout=20_000)
    assert TABLE in viewer.window.dock_widgets
    dock.shut()
