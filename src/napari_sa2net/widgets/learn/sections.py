"""What came of it: a verdict in a sentence, numbers side by side, and what to do with it."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.training_set import LearnState, Outcome
from napari_sa2net.training.compare import Change
from napari_sa2net.training.runs import UnfinishedRun
from napari_sa2net.widgets.controls import ProgressLine, link_button, muted, repolish
from napari_sa2net.widgets.learn.training_set import when_words

AP_TIP = (
    "Average precision at IoU 0.5: cells found, of all that were found or missed; 1 is perfect"
)
EXACT_TIP = "Mean average precision at IoU 0.5 to 0.9: found, and outlined exactly"
DICE_TIP = "How well the area of all cells together is covered; 1 is perfect"
INTERVAL_TIP = "Difference, with half its 95 % interval from drawing the cells anew"


class OutcomeCard(QFrame):
    """The end of a run.

    Signals
    -------
    useWanted, asideWanted, backWanted, dismissed
    differenceToggled : bool
    """

    useWanted = Signal()
    asideWanted = Signal()
    backWanted = Signal()
    dismissed = Signal()
    differenceToggled = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "hint")
        self.title = QLabel()
        self.title.setProperty("role", "title")
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.verdict.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.advice = QLabel()
        self.advice.setWordWrap(True)
        self.standing = muted()
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(10)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(0, 1)
        self.use = QPushButton("Use it")
        self.use.setProperty("role", "primary")
        self.aside = QPushButton("Keep aside")
        self.aside.setProperty("role", "plain")
        self.aside.setToolTip("Keep the new model, but do not offer it on the other pages")
        self.back = QPushButton()
        self.back.setProperty("role", "plain")
        self.back.setToolTip("Segment with the model as it was; the new one stays")
        self.difference = QPushButton("Show the difference on the image")
        self.difference.setProperty("role", "plain")
        self.difference.setCheckable(True)
        self.difference.setToolTip(
            "Segment the view with both models: blue is gained by the new one, orange is lost"
        )
        self.words = muted()
        self.dismiss = link_button(
            "Learn again", "Back to the training set; the models stay as they are"
        )
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        for button in (self.use, self.aside, self.back):
            buttons.addWidget(button, 1)
        end = QHBoxLayout()
        end.addStretch(1)
        end.addWidget(self.dismiss)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 8, 8, 6)
        layout.setSpacing(6)
        layout.addWidget(self.title)
        layout.addWidget(self.verdict)
        layout.addWidget(self.advice)
        layout.addLayout(self._grid)
        layout.addWidget(self.standing)
        layout.addLayout(buttons)
        layout.addWidget(self.difference)
        layout.addWidget(self.words)
        layout.addLayout(end)
        self.use.clicked.connect(self.useWanted)
        self.aside.clicked.connect(self.asideWanted)
        self.back.clicked.connect(self.backWanted)
        self.difference.clicked.connect(self.differenceToggled)
        self.dismiss.clicked.connect(self.dismissed)
        self.setVisible(False)

    def set_outcome(self, outcome: Outcome | None, in_use: bool) -> None:
        """Show it; None hides the card."""
        self.setVisible(outcome is not None)
        if outcome is None:
            return
        better = outcome.verdict.better
        self.title.setText("It got better" if better else "It did not get better")
        self.verdict.setText(unbroken(outcome.verdict.text))
        advice = outcome.verdict.advice
        self.advice.setText(f"What next: {advice}" if advice else "")
        self.advice.setVisible(bool(advice))
        self.standing.setText(_standing(outcome, in_use))
        self._fill(outcome)
        self.use.setText("Use it" if better else "Use it anyway")
        self.use.setToolTip(f"Segment with {outcome.child} from now on")
        self.use.setProperty("role", "primary" if better else "plain")
        repolish(self.use)
        self.use.setVisible(not in_use)
        self.aside.setVisible(not outcome.aside)
        self.back.setText(f"Back to {outcome.parent}")
        self.back.setVisible(in_use)

    def set_difference(self, shown: bool, comparing: bool, words: str) -> None:
        """Whether the layer is there, on the way, and what it shows."""
        self.difference.setChecked(shown or comparing)
        self.difference.setEnabled(not comparing)
        self.difference.setText(
            "Comparing…" if comparing else "Show the difference on the image"
        )
        text = f"In the view: {words}. Blue is gained, orange is lost." if words else ""
        self.words.setText(text)
        self.words.setVisible(bool(text))

    def texts(self) -> list[list[str]]:
        """The numbers, row by row."""
        rows = []
        for row in range(self._grid.rowCount()):
            items = [self._grid.itemAtPosition(row, column) for column in range(4)]
            labels = [item.widget() for item in items if item is not None]
            rows.append([label.text() for label in labels if isinstance(label, QLabel)])
        return [row for row in rows if row]

    def _fill(self, outcome: Outcome) -> None:
        while self._grid.count():
            item = self._grid.takeAt(0)
            widget = item.widget() if item is not None else None
            if widget is not None:
                widget.deleteLater()
        for column, words in enumerate(("before", "now", "change"), 1):
            self._put(0, column, words, role="muted")
        row = 1
        for title, change in (
            (f"Held-back corrections, {outcome.held_out.after.n} cells", outcome.held_out),
            (f"Reference set, {outcome.reference.after.n} cells", outcome.reference),
        ):
            label = muted(title)
            self._grid.addWidget(label, row, 0, 1, 4)
            row = self._rows(row + 1, change)

    def _rows(self, row: int, change: Change) -> int:
        before, after = change.before, change.after
        for name, field, tip in (
            ("AP", "ap50", AP_TIP),
            ("mean AP", "mean_ap", EXACT_TIP),
            ("Dice", "dice", DICE_TIP),
        ):
            old, new = getattr(before, field), getattr(after, field)
            spread = {"ap50": change.margin, "dice": change.dice.margin}.get(field)
            margin = "" if spread is None else f" ± {spread:.2f}"
            self._put(row, 0, name, tip)
            self._put(row, 1, f"{old:.2f}", tip)
            self._put(row, 2, f"{new:.2f}", tip)
            self._put(row, 3, f"{signed(new - old)}{margin}", INTERVAL_TIP if margin else tip)
            row += 1
        return row

    def _put(self, row: int, column: int, text: str, tip: str = "", role: str = "") -> None:
        label = QLabel(text)
        label.setToolTip(tip)
        if role:
            label.setProperty("role", role)
        side = Qt.AlignmentFlag.AlignLeft if column == 0 else Qt.AlignmentFlag.AlignRight
        self._grid.addWidget(label, row, column, side)


def unbroken(text: str) -> str:
    """No line ends within ``0.61 → 0.78`` or before a margin."""
    for sign in ("→", "±", "="):
        text = text.replace(f" {sign} ", f"\u00a0{sign}\u00a0")
    return text.replace("AP ", "AP\u00a0")


def signed(value: float) -> str:
    """``+0.17``, ``−0.02``, ``0.00``."""
    text = f"{abs(value):.2f}"
    if text == "0.00":
        return text
    return f"+{text}" if value > 0 else f"−{text}"


def _standing(outcome: Outcome, in_use: bool) -> str:
    child, parent = outcome.child, outcome.parent
    if in_use:
        return f"{child} is in use. {parent} is one click away."
    if outcome.aside:
        return f"{child} is kept aside: the other pages do not offer it. {parent} stays in use."
    return f"{child} is among your models. {parent} is still in use, and stays as it was."


# --------------------------------------------------------------------------------------------
# A run that goes on: how far it is, its curves, pause and stop.

PAUSE_TIP = (
    "Write everything to disk and give the computer back; it goes on where it stood, today or "
    "after a restart"
)
STOP_TIP = "End now, with the best round so far; within two seconds"


class RunSection(QWidget):
    """Shows a run.

    Signals
    -------
    pauseWanted, resumeWanted, stopWanted, discardWanted
    previewToggled : bool
    """

    pauseWanted = Signal()
    resumeWanted = Signal()
    stopWanted = Signal()
    discardWanted = Signal()
    previewToggled = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._phase = ""
        self.title = QLabel()
        self.title.setProperty("role", "summary")
        self.title.setWordWrap(True)
        self.plan = muted()
        self.progress = ProgressLine()
        self.pause = QPushButton("Pause")
        self.pause.setProperty("role", "plain")
        self.stop = QPushButton("Stop and keep the best")
        self.stop.setProperty("role", "plain")
        self.stop.setToolTip(STOP_TIP)
        self.discard = link_button("Discard…", "Forget this run; the models stay as they are")
        self.sure = link_button("Discard for good", "There is no way back")
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        buttons.addWidget(self.pause, 1)
        buttons.addWidget(self.stop, 1)
        self.preview = QCheckBox("show the cells so far on the image")
        self.preview.setToolTip(
            "After each round, outline the cells in view as the learning model sees them"
        )
        self.previewed = muted()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for part in (self.title, self.plan, self.progress):
            layout.addWidget(part)
        layout.addLayout(buttons)
        layout.addWidget(self.discard)
        layout.addWidget(self.sure)
        layout.addWidget(self.preview)
        layout.addWidget(self.previewed)
        self.pause.clicked.connect(self._pressed)
        self.stop.clicked.connect(self.stopWanted)
        self.discard.clicked.connect(lambda: self._ask(True))
        self.sure.clicked.connect(self.discardWanted)
        self.preview.clicked.connect(self.previewToggled)

    def set_run(self, state: LearnState) -> None:
        """Phase, names, plan."""
        phase = self._phase = state.phase
        paused = phase == "paused"
        verb = "has paused learning" if paused else "learns"
        self.title.setText(f"{state.name} {verb} from {state.parent}")
        self.plan.setText(state.plan)
        self.plan.setVisible(bool(state.plan))
        self.pause.setText("Go on" if paused else "Pause")
        self.pause.setToolTip("Go on where it stood" if paused else PAUSE_TIP)
        self.pause.setEnabled(phase in ("starting", "learning", "paused"))
        self.stop.setEnabled(phase in ("starting", "learning", "paused"))
        self._ask(False)
        self.set_progress(state)
        self.set_preview(state)

    def set_progress(self, state: LearnState) -> None:
        """How far it is; called several times a second."""
        progress, left = state.progress, state.seconds_left
        if state.phase == "paused":
            losses = state.curves.losses
            where = f"Paused at step {losses[-1].step} of {losses[-1].steps}." if losses else ""
            self.progress.set_progress(None, where)
            return
        if progress is not None and progress.total and state.phase == "learning":
            ends = None if left is None else time.monotonic() + left
            progress = replace(progress, ends=ends)
        self.progress.set_progress(progress, "")

    def set_preview(self, state: LearnState) -> None:
        """Whether the cells so far are shown, and of which round."""
        self.preview.setChecked(state.wants_preview)
        self.preview.setVisible(state.phase in ("starting", "learning"))
        shown = bool(state.previewed) and state.phase == "learning"
        self.previewed.setVisible(shown)
        self.previewed.setText(f"The outlines show round {state.previewed}.")

    def _ask(self, sure: bool) -> None:
        paused = self._phase == "paused"
        self.discard.setVisible(paused and not sure)
        self.sure.setVisible(paused and sure)

    def _pressed(self) -> None:
        if self._phase == "paused":
            self.resumeWanted.emit()
        else:
            self.pauseWanted.emit()


# --------------------------------------------------------------------------------------------
# A run that was paused or broken off: go on, take what it has, or let it go.


class UnfinishedBox(QFrame):
    """The newest unfinished run; hidden where there is none.

    Signals
    -------
    resumeWanted, keepWanted, discardWanted : UnfinishedRun
    """

    resumeWanted = Signal(object)
    keepWanted = Signal(object)
    discardWanted = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "hint")
        self._runs: tuple[UnfinishedRun, ...] = ()
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.resume = link_button("Go on", "Learn on where it stood")
        self.keep = link_button(
            "Keep the best",
            "End it with the best round so far, also where its images are gone",
        )
        self.discard = link_button("Discard…", "Forget this run; the models stay as they are")
        self.sure = link_button("Discard for good", "There is no way back")
        row = QHBoxLayout()
        row.setSpacing(10)
        for button in (self.resume, self.keep, self.discard, self.sure):
            row.addWidget(button)
        row.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 6, 8, 6)
        layout.setSpacing(4)
        layout.addWidget(self.words)
        layout.addLayout(row)
        self.resume.clicked.connect(lambda: self.resumeWanted.emit(self._runs[0]))
        self.keep.clicked.connect(lambda: self.keepWanted.emit(self._runs[0]))
        self.discard.clicked.connect(lambda: self._ask(True))
        self.sure.clicked.connect(lambda: self.discardWanted.emit(self._runs[0]))
        self.set_runs(())

    def set_runs(self, runs: tuple[UnfinishedRun, ...]) -> None:
        """Show the newest."""
        self._runs = runs
        self.setVisible(bool(runs))
        self._ask(False)
        if runs:
            newest, more = runs[0], len(runs) - 1
            when = when_words(datetime.fromtimestamp(newest.time, UTC).isoformat())
            asked = newest.asked
            text = f"{asked.name} has not finished learning from {asked.base_name} ({when})."
            if more:
                text += f" {more} more after that."
            self.words.setText(text)

    def _ask(self, sure: bool) -> None:
        self.sure.setVisible(sure)
        self.discard.setVisible(not sure)
