"""The Learn page: from kept corrections to a model that earned its place."""

from __future__ import annotations

from napari.utils.theme import get_theme
from qtpy.QtCore import QTimer
from qtpy.QtGui import QColor, QShowEvent
from qtpy.QtWidgets import QLineEdit, QWidget

from napari_sa2net.app.training_set import seconds_to_learn
from napari_sa2net.config import FineTuneConfig
from napari_sa2net.widgets.controls import (
    PAGE_MARGINS,
    Form,
    ValueSlider,
    align_forms,
    duration_words,
    muted,
    narrow_combo,
    offer,
    push_button,
    show_text,
    text_label,
    tip_of,
    vbox,
)
from napari_sa2net.widgets.learn.sections import (
    CurvesPlot,
    OutcomeCard,
    RunSection,
    UnfinishedBox,
)
from napari_sa2net.widgets.learn.settings_form import SettingsForm
from napari_sa2net.widgets.learn.training_set import SetSection
from napari_sa2net.widgets.number_field import take_typed
from napari_sa2net.widgets.page import PageWidget, error_box
from napari_sa2net.widgets.rows import ModelRow
from napari_sa2net.widgets.theme import text_color
from napari_sa2net.widgets.workspace import Workspace
from napari_sa2net.words import counted

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

    # --- building ------------------------------------------------------------------------

    def _build(self) -> None:
        of = (self.controller, self.connections, self)
        self.unfinished = UnfinishedBox(*of)
        self.card = OutcomeCard(*of)
        self.run = RunSection(*of)
        self.curves = CurvesPlot()
        self.notices = muted()
        self.error = error_box(self, self._workspace, self.controller)
        self._build_empty()
        self._build_setup()
        vbox(
            *(self.unfinished, self.card, self.run, self.curves, self.notices, self.empty),
            *(self.setup, self.error, None),
            on=self,
            spacing=8,
            margins=PAGE_MARGINS,
        )

    def _build_empty(self) -> None:
        self.empty = QWidget()
        self.title = text_label(role="title", wrap=False)
        self.teach = muted()
        self.to_correct = push_button(
            "To the Correct page",
            "Repair cells, say which are right, and keep that",
            role="primary",
        )
        vbox(self.title, self.teach, self.to_correct, on=self.empty, spacing=8)

    def _build_setup(self) -> None:
        self.setup, self.choices = QWidget(), QWidget()
        self.set = SetSection(self.controller, self.connections)
        self.model_row = ModelRow()
        self.name = QLineEdit()
        self.time = ValueSlider(SHORT, LONG, decimals=2, power=2.0, slid_decimals=0)
        self.time.spin.trim()
        self.time.spin.setSuffix(" min")
        self.time.spin.units = {"s": 1 / 60, "sec": 1 / 60, "seconds": 1 / 60, "h": 60}
        self.time.spin.setRange(0.1, 1440)
        self.learns = narrow_combo(6)
        offer(self.learns, LEARNS.items(), self.state.config.learn)
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
        self.button = push_button("", role="primary")
        vbox(form, self.advanced, self.problem, self.button, on=self.choices, spacing=8)
        vbox(self.set, self.choices, on=self.setup, spacing=8)

    def _connect(self) -> None:
        follow, controller = self.connections.follow, self.controller
        events, session = self.state.events, self.session.events
        follow(
            self._show_set,
            *(events.folder, events.summary, events.problem, events.phase),
            *(events.outcome, events.in_use),
        )
        follow(self._show_config, events.config)
        follow(self._show_name, events.suggested, events.child)
        follow(self._show_model, session.models, session.model)
        follow(self._show_curves, events.curves, events.phase)
        notices = self.notices
        follow(lambda: show_text(notices, "\n".join(self.state.notices)), events.notices)
        follow(self._show_devices, session.info)
        self.model_row.valueChanged.connect(self._workspace.controller.set_model)
        self.name.editingFinished.connect(lambda: controller.set_child(self.name.text()))
        self.learns.activated.connect(self._set_learns)
        self.time.valueChanged.connect(self._set_minutes)
        self.advanced.valueChanged.connect(controller.set_config)
        self.button.clicked.connect(self._learn)
        self.to_correct.clicked.connect(lambda: self._workspace.open_page("Correct"))

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
        """It comes into view."""
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

    def _devices(self) -> list[str]:
        info = self.session.info
        return ["auto", *(info.devices if info is not None else ("cpu",))]

    # --- what the state says ---------------------------------------------------------------

    def _show_set(self) -> None:
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
        self.to_correct.setVisible(not gone)
        self.problem.setText(state.problem)
        self.problem.setVisible(bool(state.problem) and not nothing)
        self._show_button()

    def _show_config(self) -> None:
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
        what = counted(n, "correction")
        if config.steps is not None:
            how = f"in {counted(config.steps, 'step')}"
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

    def _show_name(self) -> None:
        if not self.name.hasFocus() and self.name.text() != self.state.child:
            self.name.setText(self.state.child)
        self.name.setPlaceholderText(self.state.suggested)

    def _show_model(self) -> None:
        self.model_row.set_models(self.session.models, self.session.model)
        self._show_button()

    def _show_devices(self) -> None:
        self.advanced.refresh_choices()
        self._show_button()

    def _show_curves(self) -> None:
        curves = self.state.curves
        there = bool(curves.losses or curves.rounds)
        self.curves.setVisible(there)
        if there:
            self.curves.set_curves(curves)


def _time_words(minutes: float) -> str:
    """``3 minutes``: the number that the field shows, or the same in seconds."""
    if minutes < 1:
        return f"{60 * minutes:.3g} seconds"
    return "a minute" if minutes == 1 else f"{round(minutes, 2):g} minutes"
