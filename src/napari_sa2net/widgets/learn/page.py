"""The Learn page: from kept corrections to a model that earned its place."""

from __future__ import annotations

from typing import Any

from napari.utils.theme import get_theme
from qtpy.QtCore import QTimer
from qtpy.QtGui import QColor, QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.training_set import seconds_to_learn
from napari_sa2net.config import FineTuneConfig
from napari_sa2net.widgets.controls import (
    ErrorBox,
    Form,
    ValueSlider,
    align_forms,
    duration_words,
    muted,
    tip_of,
)
from napari_sa2net.widgets.learn.curves_plot import CurvesPlot
from napari_sa2net.widgets.learn.sections import OutcomeCard, RunSection, UnfinishedBox
from napari_sa2net.widgets.learn.settings_form import SettingsForm
from napari_sa2net.widgets.learn.training_set import SetSection
from napari_sa2net.widgets.number_field import take_typed
from napari_sa2net.widgets.page import PageWidget, column
from napari_sa2net.widgets.rows import ModelRow
from napari_sa2net.widgets.theme import text_color
from napari_sa2net.widgets.workspace import Workspace

TEACH = (
    "A model learns from the cells that you corrected or accepted, and is then judged on some "
    "that were held back. Keep a few on the Correct page first."
)
NAME_TIP = "Of the new model; the one that it learns from is not changed"
#: what may learn, as `FineTuneConfig.learn` has it
LEARNS = {"everything": "Everything", "attention": "Attention only, in seconds"}
#: minutes at the ends of the slider; more can be typed
SHORT, LONG = 1.0, 30.0


class LearnPage(PageWidget):
    """Binds the panels to the controller; all state lives there."""

    def __init__(self, workspace: Workspace, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._workspace = workspace
        self.session = workspace.session
        self.controller = workspace.learn
        self.state = self.controller.state
        self._build()
        self._connect()
        self._show_all()

    # --- building ------------------------------------------------------------------------

    def _build(self) -> None:
        self.unfinished = UnfinishedBox()
        self.card = OutcomeCard()
        self.run = RunSection()
        self.curves = CurvesPlot()
        self.notices = muted()
        self.error = ErrorBox()
        self._build_empty()
        self._build_setup()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 10, 8, 10)
        layout.setSpacing(8)
        parts: list[QWidget] = [
            *(self.unfinished, self.card, self.run, self.curves, self.notices),
            *(self.empty, self.setup, self.error),
        ]
        for part in parts:
            layout.addWidget(part)
        layout.addStretch(1)

    def _build_empty(self) -> None:
        self.empty = QWidget()
        self.title = QLabel()
        self.title.setProperty("role", "title")
        self.teach = muted()
        self.to_correct = QPushButton("To the Correct page")
        self.to_correct.setProperty("role", "primary")
        self.to_correct.setToolTip("Repair cells, say which are right, and keep that")
        empty = column(self.empty)
        parts: list[QWidget] = [self.title, self.teach, self.to_correct]
        for part in parts:
            empty.addWidget(part)

    def _build_setup(self) -> None:
        self.setup, self.choices = QWidget(), QWidget()
        self.set = SetSection()
        self.model_row = ModelRow()
        self.name = QLineEdit()
        self.time = ValueSlider(SHORT, LONG, decimals=2, power=2.0, slid_decimals=0)
        self.time.spin.trim()
        self.time.spin.setSuffix(" min")
        self.time.spin.units = {"s": 1 / 60, "sec": 1 / 60, "seconds": 1 / 60, "h": 60}
        self.time.spin.setRange(0.1, 1440)
        self.learns = QComboBox()
        self.learns.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.learns.setMinimumContentsLength(6)
        for value, words in LEARNS.items():
            self.learns.addItem(words, value)
        form = self.form = Form()
        form.add("Model", self.model_row, "The model that learns; it is not changed itself")
        form.add("New name", self.name, NAME_TIP)
        form.add("Learns", self.learns, tip_of(FineTuneConfig, "learn"))
        form.add("Time", self.time, tip_of(FineTuneConfig, "minutes"))
        self.advanced = SettingsForm(
            FineTuneConfig,
            without=("minutes", "learn"),
            choices={"device": self._devices},
            empty="by the time",
        )
        self.problem = muted()
        self.button = QPushButton()
        self.button.setProperty("role", "primary")
        choices = column(self.choices)
        parts: list[QWidget] = [form, self.advanced, self.problem, self.button]
        for part in parts:
            choices.addWidget(part)
        setup = column(self.setup)
        setup.addWidget(self.set)
        setup.addWidget(self.choices)

    def _connect(self) -> None:
        connect = self.connections.connect
        events = self.state.events
        for field, show in (
            ("folder", self._show_set),
            ("summary", self._show_set),
            ("problem", self._show_set),
            ("config", self._show_config),
            ("suggested", self._show_name),
            ("child", self._show_name),
            ("phase", self._show_phase),
            ("name", self._show_phase),
            ("plan", self._show_phase),
            ("progress", self._show_progress),
            ("seconds_left", self._show_progress),
            ("wants_preview", self._show_preview),
            ("previewed", self._show_preview),
            ("curves", self._show_curves),
            ("notices", self._show_notices),
            ("unfinished", self._show_unfinished),
            ("outcome", self._show_outcome),
            ("in_use", self._show_outcome),
            ("comparing", self._show_difference),
            ("difference", self._show_difference),
            ("error", self._show_error),
            ("set_busy", self._show_set_news),
            ("set_said", self._show_set_news),
            ("set_question", self._show_set_news),
        ):
            connect(getattr(events, field), show)
        for field, show in (
            ("models", self._show_model),
            ("model", self._show_model),
            ("info", self._show_devices),
            ("error", self._show_error),
            ("engine", self._show_error),
        ):
            connect(getattr(self.session.events, field), show)
        controller = self.controller
        self.set.folderChosen.connect(controller.set_folder)
        buttons, its = self.set.buttons, controller.set
        buttons.showWanted.connect(lambda: its.show(self.set.chosen()))
        self.set.list.itemActivated.connect(lambda _: its.show(self.set.chosen()))
        buttons.removeWanted.connect(lambda: its.remove(self.set.chosen()))
        buttons.undoWanted.connect(its.put_back)
        buttons.importWanted.connect(its.look_into)
        buttons.importAnswered.connect(its.take_in)
        buttons.importDropped.connect(its.drop_question)
        buttons.exportWanted.connect(its.copy_to)
        self.model_row.valueChanged.connect(self._workspace.controller.set_model)
        self.name.editingFinished.connect(lambda: controller.set_child(self.name.text()))
        self.learns.activated.connect(self._set_learns)
        self.time.valueChanged.connect(self._set_minutes)
        self.advanced.valueChanged.connect(controller.set_config)
        self.button.clicked.connect(self._learn)
        self.run.pauseWanted.connect(controller.pause)
        self.run.resumeWanted.connect(lambda: controller.resume())
        self.run.stopWanted.connect(controller.stop)
        self.run.discardWanted.connect(lambda: controller.discard())
        self.run.previewToggled.connect(controller.set_preview)
        self.unfinished.resumeWanted.connect(controller.resume)
        self.unfinished.keepWanted.connect(controller.keep_best)
        self.unfinished.discardWanted.connect(controller.discard)
        self.card.useWanted.connect(controller.use_child)
        self.card.asideWanted.connect(controller.keep_aside)
        self.card.backWanted.connect(controller.back_to_parent)
        self.card.differenceToggled.connect(controller.show_difference)
        self.card.dismissed.connect(controller.dismiss_outcome)
        self.error.dismissed.connect(self._dismiss)
        self.error.restartWanted.connect(self._workspace.controller.restart_engine)
        self.to_correct.clicked.connect(self._go_to_correct)

    def shut(self) -> None:
        """Undo every connection; a run that goes on is the controller's."""
        self.curves.shut()
        super().shut()

    def set_theme(self, theme: str) -> None:
        """Follow napari's theme where a style sheet cannot."""
        background = QColor(get_theme(theme).background.as_hex())
        self.curves.set_colors(text_color(theme), background)
        align_forms(self)
        self.time.fit("1440 min")

    def showEvent(self, event: QShowEvent | None) -> None:
        super().showEvent(event)
        # after it is drawn: other windows may have kept corrections meanwhile
        QTimer.singleShot(0, self.controller.refresh)
        self.curves.prepare()

    # --- what a person does ----------------------------------------------------------------

    def _learn(self) -> None:
        take_typed(self)
        self.controller.set_child(self.name.text())
        self.controller.learn()

    def _set_learns(self, _: int) -> None:
        chosen = self.learns.currentData()
        if chosen != self.state.config.learn:
            # the other settings that suit it come with it
            self.controller.set_config(FineTuneConfig(learn=chosen))

    def _set_minutes(self, minutes: float) -> None:
        config = self.state.config
        # a fixed number of steps would win over the time that was just chosen
        changed = {**config.model_dump(), "minutes": minutes, "steps": None}
        self.controller.set_config(FineTuneConfig(**changed))

    def _go_to_correct(self) -> None:
        widget: QWidget | None = self
        while widget is not None and not isinstance(widget, QTabWidget):
            widget = widget.parentWidget()
        if isinstance(widget, QTabWidget):
            names = [widget.tabText(i) for i in range(widget.count())]
            widget.setCurrentIndex(names.index("Correct"))

    def _dismiss(self) -> None:
        self.controller.dismiss_error()
        self._workspace.controller.dismiss_error()

    def _devices(self) -> list[str]:
        info = self.session.info
        return ["auto", *(info.devices if info is not None else ("cpu",))]

    # --- what the state says ---------------------------------------------------------------

    def _show_all(self) -> None:
        for show in (
            *(self._show_set, self._show_config, self._show_name, self._show_model),
            *(self._show_phase, self._show_curves, self._show_notices, self._show_unfinished),
            *(self._show_outcome, self._show_difference, self._show_devices),
            *(self._show_error, self._show_set_news),
        ):
            show()

    def _show_set(self, _: Any = None) -> None:
        state, summary = self.state, self.state.summary
        idle = state.phase == "idle" and state.outcome is None
        nothing = summary is not None and not summary.n_images
        # a folder that cannot be read is a problem; one without corrections is a beginning
        self.empty.setVisible(idle and nothing)
        self.setup.setVisible(idle and summary is not None)
        self.choices.setVisible(not nothing)
        gone = summary is not None and summary.gone
        self.title.setText("The training set is gone" if gone else "Nothing to learn from yet")
        self.teach.setText(state.problem if gone else TEACH)
        self.to_correct.setVisible(self._has_tabs() and not gone)
        self.set.set_folder(state.folder)
        self.set.set_summary(summary)
        self.problem.setText(state.problem)
        self.problem.setVisible(bool(state.problem) and not nothing)
        self._show_button()

    def _show_set_news(self, _: Any = None) -> None:
        self.set.buttons.set_news(self.state.set_busy, self.state.set_said)
        self.set.buttons.question.set_question(self.state.set_question)

    def _show_config(self, _: Any = None) -> None:
        config = self.state.config
        self.learns.setCurrentIndex(self.learns.findData(config.learn))
        self.form.set_row_visible(self.time, config.learn == "everything")
        self.time.setValue(config.minutes)
        self.time.slider.setEnabled(config.steps is None)
        self.advanced.set_value(config)
        self._show_button()

    def _show_button(self) -> None:
        state, config = self.state, self.state.config
        n = state.summary.n_images if state.summary is not None else 0
        what = f"{n} correction{'' if n == 1 else 's'}"
        if config.steps is not None:
            how = f"in {config.steps:,} step{'' if config.steps == 1 else 's'}"
        else:
            info = self.session.info
            pace = info.seconds_per_megapixel if info is not None else None
            seconds = seconds_to_learn(config, n, pace)
            if seconds <= 60 * config.minutes:
                how = f"in about {_time_words(config.minutes)}"
            else:
                how = f"in {duration_words(seconds)}"
        self.button.setText(f"Learn from {what}\n{how}" if n else "Learn")
        self.button.setEnabled(bool(n) and not state.problem and bool(self.session.models))
        self.button.setToolTip(
            state.problem
            or "Teach a copy of the model; you can go on working meanwhile. The time includes "
            "scoring the model before and after, which a slow computer takes longer for than "
            "the time that you set"
        )

    def _show_name(self, _: Any = None) -> None:
        if not self.name.hasFocus() and self.name.text() != self.state.child:
            self.name.setText(self.state.child)
        self.name.setPlaceholderText(self.state.suggested)

    def _show_model(self, _: Any = None) -> None:
        self.model_row.set_models(self.session.models, self.session.model)
        self._show_button()

    def _show_devices(self, _: Any = None) -> None:
        self.advanced.refresh_choices()
        self._show_button()

    def _show_phase(self, _: Any = None) -> None:
        active = self.state.phase != "idle"
        self.run.setVisible(active)
        self.run.set_run(self.state)
        self._show_curves()
        self._show_notices()
        self._show_outcome()

    def _show_progress(self, _: Any = None) -> None:
        self.run.set_progress(self.state)

    def _show_preview(self, _: Any = None) -> None:
        self.run.set_preview(self.state)

    def _show_curves(self, _: Any = None) -> None:
        curves = self.state.curves
        there = bool(curves.losses or curves.rounds)
        self.curves.setVisible(there)
        if there:
            self.curves.set_curves(curves)

    def _show_notices(self, _: Any = None) -> None:
        self.notices.setText("\n".join(self.state.notices))
        self.notices.setVisible(bool(self.state.notices))

    def _show_unfinished(self, _: Any = None) -> None:
        self.unfinished.set_runs(self.state.unfinished if self.state.phase == "idle" else ())

    def _show_outcome(self, _: Any = None) -> None:
        self.card.set_outcome(self.state.outcome, self.state.in_use)
        self._show_set()

    def _show_difference(self, _: Any = None) -> None:
        difference = self.state.difference
        words = difference.words if difference is not None else ""
        self.card.set_difference(difference is not None, self.state.comparing, words)

    def _show_error(self, _: Any = None) -> None:
        down = self.session.engine == "down"
        self.error.set_error(self.state.error or self.session.error, can_restart=down)

    def _has_tabs(self) -> bool:
        widget = self.parentWidget()
        while widget is not None and not isinstance(widget, QTabWidget):
            widget = widget.parentWidget()
        return widget is not None


def _time_words(minutes: float) -> str:
    """``3 minutes``: the number that the field shows, or the same in seconds."""
    if minutes < 1:
        return f"{60 * minutes:.3g} seconds"
    return "a minute" if minutes == 1 else f"{round(minutes, 2):g} minutes"
