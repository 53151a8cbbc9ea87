"""The Learn page by its buttons: real viewer, real engines, a tiny model, a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QTabWidget, QWidget

from napari_sa2net.app.training_set import Curves
from napari_sa2net.config import FineTuneConfig, UnifiedFocalConfig
from napari_sa2net.data.commit import Commit
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.errors import Paused
from napari_sa2net.models.registry import find_model
from napari_sa2net.training.compare import LossPoint, RoundPoint, Score
from napari_sa2net.training.fine_tune import fine_tune
from napari_sa2net.training.runs import unfinished_runs
from napari_sa2net.widgets.controls import loading_pyqtgraph
from napari_sa2net.widgets.dock import LearnDock
from napari_sa2net.widgets.learn.sections import MOST_BINS, REDRAW_MS, CurvesPlot
from napari_sa2net.widgets.learn.settings_form import SettingsForm
from napari_sa2net.widgets.learn.training_set import when_words
from napari_sa2net.widgets.napari_port.reading import camera_of

pytestmark = pytest.mark.timeout(300)
WAIT_MS = 120_000

FEW = FineTuneConfig(
    steps=3, rounds=1, batch_size=2, crop=48, replay=0, held_out=0.4, max_scored=1
)
LONG = FineTuneConfig(**{**FEW.model_dump(), "steps": 3000, "rounds": 1000, "patience": 1000})


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def keep(folder: Path, labels_of: Callable[[int, Any], Any] = lambda i, labels: labels) -> None:
    training_set = TrainingSet.open(folder, create=True)
    for i in range(2):
        image, labels = synthetic_nuclei((128, 144), n=14, diameter=22, seed=50 + i)
        training_set.commit(
            Commit(
                image,
                labels_of(i, labels),
                source=f"slide {i}",
                fingerprint=str(i),
                split="train" if i else "val",
            )
        )


def learn_page(dock: Any, qtbot: Any) -> Any:
    """The page, turned to."""
    tabs = dock.findChild(QTabWidget)
    index = next(i for i in range(tabs.count()) if tabs.tabText(i) == "Learn")
    dock.window().show()
    tabs.setCurrentIndex(index)
    page = dock.pages[index]
    qtbot.waitUntil(page.isVisible)
    qtbot.waitUntil(lambda: page.state.summary is not None, timeout=WAIT_MS)
    return page


def wait(qtbot: Any, condition: Callable[[], object]) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=WAIT_MS)


def shown(widget: QWidget) -> bool:
    return widget.isVisibleTo(widget.window())


def plain(label: Any) -> str:
    return label.text().replace("\u00a0", " ")


def slots(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers if layer.name.startswith("learn:")]


@pytest.mark.both_bindings
def test_without_corrections_it_says_what_to_do_next(
    open_dock: Any, home: Path, qtbot: Any
) -> None:
    dock = open_dock()
    page = learn_page(dock, qtbot)
    assert shown(page.empty)
    assert not shown(page.button)
    assert not shown(page.run)
    page.to_correct.click()
    tabs = dock.findChild(QTabWidget)
    assert tabs.tabText(tabs.currentIndex()) == "Correct"

    keep(home / "corrections")
    page = learn_page(dock, qtbot)
    wait(qtbot, lambda: page.state.summary.n_images == 2)
    assert not shown(page.empty)
    assert page.set.list.count() == 2
    assert page.set.list.item(0).text().startswith("slide 1 · 14 cells · today")
    wait(qtbot, lambda: not page.set.list.item(1).icon().isNull())
    assert page.set.total.text() == "2 images · 28 reviewed cells"
    assert page.button.text() == "Learn from 2 corrections\nin about 3 minutes"
    page.time.spin.setValue(10)
    assert page.state.config.minutes == 10
    assert page.button.text().endswith("in about 10 minutes")
    for text, minutes, field, words in (
        ("0,5", 0.5, "0.5 min", "30 seconds"),
        ("2.5", 2.5, "2.5 min", "2.5 minutes"),
        ("90 s", 1.5, "1.5 min", "1.5 minutes"),
        ("1", 1, "1 min", "a minute"),
        ("10", 10, "10 min", "10 minutes"),
    ):
        page.time.spin.selectAll()
        QTest.keyClicks(page.time.spin.lineEdit(), text)
        QTest.keyClick(page.time.spin.lineEdit(), Qt.Key.Key_Return)
        assert page.state.config.minutes == minutes
        assert page.time.spin.text() == field
        assert page.button.text().endswith(f"in about {words}")
    # attention alone learns in seconds, with settings of its own
    page.learns.setCurrentIndex(page.learns.findData("attention"))
    page.learns.activated.emit(page.learns.currentIndex())
    assert page.state.config == FineTuneConfig(learn="attention")
    assert page.button.text().endswith("in about 15 seconds")
    assert not shown(page.time)
    assert not shown(page.advanced.reset)
    page.learns.setCurrentIndex(page.learns.findData("everything"))
    page.learns.activated.emit(page.learns.currentIndex())
    assert page.state.config == FineTuneConfig()
    assert shown(page.time)
    # fits the dock, also with all settings open
    page.advanced.fold.setChecked(True)
    assert page.minimumSizeHint().width() <= 360


def test_a_run_from_the_button_to_the_verdict(open_dock: Any, home: Path, qtbot: Any) -> None:
    keep(home / "corrections")
    dock = open_dock()
    viewer = dock._viewer
    image, _ = synthetic_nuclei((120, 140), n=10, diameter=22, seed=5)
    layer = viewer.add_image(image, name="nuclei 4", scale=(0.5, 0.5), units=("um", "um"))
    page = learn_page(dock, qtbot)
    state = page.state
    page.controller.set_config(LONG)
    camera = (camera_of(viewer).zoom, camera_of(viewer).center)
    page.button.click()
    assert shown(page.run)
    assert not shown(page.setup)
    wait(qtbot, lambda: len(page.curves.values("ap")[0]) >= 2)
    steps, losses = page.curves.values("loss")
    assert list(steps[:3]) == [1, 2, 3]
    assert np.isfinite(losses).all()
    assert state.curves.parent is not None
    assert "before" in page.curves.legend.text()
    assert "left" in page.run.progress.label.text()
    # what it finds so far lies on the image and takes neither selection nor camera
    wait(qtbot, lambda: state.previewed)
    assert slots(viewer) == ["learn: cells so far (nuclei 4)"]
    assert viewer.layers.selection.active is layer
    assert (camera_of(viewer).zoom, camera_of(viewer).center) == camera
    np.testing.assert_allclose(viewer.layers[-1].extent.world, layer.extent.world)
    viewer.layers.pop()
    assert not page.run.preview.isChecked()

    page.run.pause.click()
    wait(qtbot, lambda: state.phase == "paused")
    assert page.run.progress.label.text().startswith("Paused at step ")
    curves, said = state.curves, page.run.progress.label
    # no step is left, as where it goes back towards its parent, so it does not look like one
    state.curves = replace(curves, losses=(LossPoint(8, 8, 0.5, 1.0),))
    page.run._show_progress()
    assert said.text() == "Paused after the last step; what is left is to judge it."
    state.curves = curves
    assert shown(page.run.discard)
    assert page.run.pause.text() == "Go on"
    page.run.pause.click()
    wait(qtbot, lambda: state.phase == "learning")
    page.run.stop.click()
    wait(qtbot, lambda: state.outcome is not None)
    # long before its end
    assert len(state.curves.rounds) < LONG.rounds / 2

    card = page.card
    assert shown(card)
    assert not shown(page.setup)
    assert plain(card.verdict) == state.outcome.verdict.text
    before, after = state.outcome.held_out.before, state.outcome.held_out.after
    rows = card.texts()
    assert rows[0] == ["before", "now", "change"]
    assert rows[2][:3] == ["AP", f"{before.ap50:.2f}", f"{after.ap50:.2f}"]
    assert "±" in rows[2][3]
    card.difference.click()
    wait(qtbot, lambda: state.difference is not None)
    assert slots(viewer) == ["learn: difference (nuclei 4)"]
    assert viewer.layers.selection.active is layer
    assert card.words.text().startswith("In the view: ")
    card.difference.click()
    assert slots(viewer) == []

    card.use.click()
    wait(qtbot, lambda: state.in_use)
    assert page.model_row.value() == "tiny-tuned"
    assert not find_model("tiny-tuned").aside
    assert card.back.text() == "Back to tiny"
    card.back.click()
    assert page.session.model == "tiny"
    card.dismiss.click()
    assert not shown(card)
    assert not shown(page.curves)
    assert shown(page.setup)
    assert page.name.placeholderText() == "tiny-tuned-2"


def test_a_child_made_worse_is_not_offered_and_the_page_says_why(
    open_dock: Any, home: Path, qtbot: Any
) -> None:
    keep(home / "corrections", lambda i, labels: labels[::-1, ::-1].copy() if i else labels)
    page = learn_page(open_dock(), qtbot)
    bad = {"steps": 16, "learning_rate": 5e-2, "decoder_first": 0, "ema_decay": 0.5}
    page.controller.set_config(FEW.model_copy(update={**bad, "distillation": 0, "crop": 64}))
    page.name.setText("wörse")
    page.button.click()
    wait(qtbot, lambda: page.state.outcome is not None or page.session.error is not None)
    assert page.card.title.text() == "It did not get better"
    assert page.card.advice.isVisibleTo(page.card)
    assert "learn again" in page.card.advice.text()
    assert plain(page.card.verdict).startswith("Worse on corrections you held back: AP ")
    assert "kept aside" in page.card.standing.text()
    assert page.card.use.text() == "Use it anyway"
    assert not shown(page.card.aside)
    assert "wörse" not in [e.name for e in page.session.models]
    assert page.session.model == "tiny"
    # by the person's own choice it is offered all the same
    page.card.use.click()
    wait(qtbot, lambda: page.state.in_use)
    assert "wörse" in [e.name for e in page.session.models]
    page.card.aside.click()
    wait(qtbot, lambda: page.state.outcome.aside)
    assert page.session.model == "tiny"


def test_a_learn_dock_of_its_own_opens_the_correct_page(
    home: Path, make_napari_viewer: Any, qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-sa2net", "Learn")
    dock.window().show()
    page: Any = dock.pages[0]
    wait(qtbot, lambda: shown(page.to_correct))
    page.to_correct.click()
    (other,) = set(dock.workspace.docks) - {dock}
    assert [type(one).__name__ for one in other.pages] == ["CorrectPage"]


def test_a_dock_closed_while_learning_leaves_a_run_to_go_on_with(
    home: Path, make_napari_viewer: Any, qtbot: Any
) -> None:
    keep(home / "corrections")
    viewer = make_napari_viewer()

    def open_alone() -> tuple[LearnDock, Any]:
        dock = LearnDock(viewer)
        viewer.window.add_dock_widget(dock, name="Learn")
        dock.window().show()
        page: Any = dock.pages[0]
        assert dock.workspace is not None
        dock.workspace.controller.set_model("tiny")
        wait(qtbot, lambda: page.state.summary is not None)
        return dock, page

    dock, page = open_alone()
    page.controller.set_config(LONG)
    page.button.click()
    wait(qtbot, lambda: page.state.curves.rounds)
    viewer.window.remove_dock_widget(dock)
    wait(qtbot, unfinished_runs)

    dock, page = open_alone()
    wait(qtbot, lambda: shown(page.unfinished))
    assert page.unfinished.words.text().startswith("tiny-tuned has not finished learning")
    assert shown(page.unfinished.keep)
    page.unfinished.resume.click()
    wait(qtbot, lambda: page.state.phase == "learning")
    assert not shown(page.unfinished)
    page.run.pause.click()
    wait(qtbot, lambda: page.state.phase == "paused")
    page.run.discard.click()
    assert shown(page.run.sure)
    page.run.sure.click()
    wait(qtbot, lambda: page.state.phase == "idle" and not unfinished_runs())
    dock.shut()


def test_the_form_has_every_setting_and_only_valid_ones(qtbot: Any) -> None:
    form = SettingsForm(
        FineTuneConfig, ("minutes",), {"device": lambda: ["auto", "cpu"]}, "by the time"
    )
    qtbot.addWidget(form)
    heard: list[FineTuneConfig] = []
    form.valueChanged.connect(heard.append)
    rows = {*form.fields, "minutes"}
    inner = {f"unified_focal.{name}" for name in UnifiedFocalConfig.model_fields}
    assert rows - inner == set(FineTuneConfig.model_fields) - {"unified_focal"}
    assert inner <= rows
    fields: dict[str, Any] = form.fields
    assert fields["steps"].text() == "by the time"
    fields["steps"].setValue(12)
    assert heard[-1].steps == 12
    fields["learning_rate"].setValue(0.003)
    assert heard[-1] == FineTuneConfig(steps=12, learning_rate=0.003)
    fields["freeze_norm"].click()
    assert not heard[-1].freeze_norm
    fields["device"].setCurrentText("cpu")
    fields["device"].textActivated.emit("cpu")
    assert heard[-1].device == "cpu"
    # what the model refuses is put back
    n = len(heard)
    fields["crop"].setValue(100)
    assert len(heard) == n
    assert fields["crop"].value() == FineTuneConfig().crop
    form.set_value(FineTuneConfig(minutes=7, steps=3))
    assert len(heard) == n
    form.reset.click()
    assert heard[-1] == FineTuneConfig(minutes=7)


def test_a_loss_is_chosen_with_its_own_settings(qtbot: Any) -> None:
    form = SettingsForm(FineTuneConfig, choices={"device": lambda: ["auto", "cpu"]})
    qtbot.addWidget(form)
    heard: list[FineTuneConfig] = []
    form.valueChanged.connect(heard.append)
    fields: dict[str, Any] = form.fields
    gamma, boundary = fields["unified_focal.gamma"], fields["boundary_weight"]
    assert gamma.isHidden()
    assert not boundary.isHidden()
    fields["loss"].textActivated.emit("unified_focal")
    assert heard[-1].loss == "unified_focal"
    assert not gamma.isHidden()
    assert boundary.isHidden()
    gamma.setValue(0.25)
    fields["unified_focal.asymmetric"].click()
    assert heard[-1].unified_focal == UnifiedFocalConfig(gamma=0.25, asymmetric=False)
    n = len(heard)
    gamma.setValue(1.0)  # γ lies below 1
    assert len(heard) == n
    assert gamma.value() == 0.25
    form.reset.click()
    assert heard[-1] == FineTuneConfig()
    assert gamma.isHidden()


def test_curves_are_drawn_a_few_times_a_second_however_fast_they_come(qtbot: Any) -> None:
    plot = CurvesPlot()
    qtbot.addWidget(plot)
    plot.show()
    plot.prepare()
    loading_pyqtgraph().join()
    points = tuple(LossPoint(i + 1, 5000, 1 / (1 + i % 7), 1.0) for i in range(5000))
    score = Score(0.5, 0.4, 0.9, 20)
    rounds = (RoundPoint(1, 100, score, score, True),)
    start = time.monotonic()
    n = 0
    while time.monotonic() - start < 1:
        n += 40
        plot.set_curves(Curves(points[:n], rounds, score, 5000))
        qtbot.wait(5)
    qtbot.wait(2 * REDRAW_MS)
    assert 1 <= plot.drawn <= 2 + 1000 * (time.monotonic() - start) / REDRAW_MS
    plot.set_curves(Curves(points, rounds, score, 5000))
    qtbot.waitUntil(lambda: plot.values("loss")[0][-1] > 4900)
    # thinned out, with the extremes kept
    steps, losses = plot.values("loss")
    assert steps.size <= 3 * MOST_BINS
    assert losses.max() == 1
    assert list(plot.values("dice")[1]) == [0.9]
    plot.shut()


def test_when_is_said_in_words() -> None:
    now = datetime.now()
    assert when_words(datetime.now(UTC).isoformat()).startswith("today ")
    assert when_words((now - timedelta(days=1)).isoformat()) in ("yesterday",) or now.hour < 14
    assert when_words("2020-03-03T12:00:00Z", datetime(2020, 5, 1)) == "3 March"
    assert when_words("2020-03-03T12:00:00Z", datetime(2022, 5, 1)) == "3 March 2020"
    assert when_words("") == ""


def test_the_best_is_kept_when_the_images_are_gone(
    home: Path, make_napari_viewer: Any, qtbot: Any
) -> None:
    folder = home / "corrections"
    keep(folder)
    rounds: list[RoundPoint] = []
    config = FEW.model_copy(update={"steps": 40, "rounds": 20})
    with pytest.raises(Paused):
        fine_tune(
            folder,
            "tiny",
            config,
            name="halves",
            on_event=lambda e: rounds.extend([e] if isinstance(e, RoundPoint) else []),
            paused=lambda: bool(rounds),
        )
    for path in folder.glob("images/*"):
        path.unlink()
    viewer = make_napari_viewer()
    dock = LearnDock(viewer)
    viewer.window.add_dock_widget(dock, name="Learn")
    page: Any = dock.pages[0]
    dock.window().show()
    wait(qtbot, lambda: shown(page.unfinished))
    page.unfinished.resume.click()
    wait(qtbot, lambda: page.state.error is not None)
    assert "The best so far can be kept" in page.state.error.message
    wait(qtbot, lambda: shown(page.unfinished.keep))
    page.unfinished.keep.click()
    wait(qtbot, lambda: page.state.outcome is not None)
    assert page.state.outcome.child == "halves"
    rows = [row for row in page.card.texts() if row[0] == "Dice"]
    assert all("±" in row[3] for row in rows)
    assert len(rows) == 2
    assert not unfinished_runs()
    dock.shut()
