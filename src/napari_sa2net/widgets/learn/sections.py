"""A run of learning and its curves; and what came of it, in a sentence and in numbers."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QFrame, QGridLayout, QLabel, QVBoxLayout, QWidget

from napari_sa2net.app.learn import LearnController
from napari_sa2net.app.training_set import Curves, Outcome
from napari_sa2net.training.compare import Change
from napari_sa2net.widgets.controls import (
    LeftoverBox,
    ProgressLine,
    check_box,
    hbox,
    link_button,
    loading_pyqtgraph,
    muted,
    paint_plot,
    push_button,
    repolish,
    show_text,
    text_label,
    timer,
    vbox,
)
from napari_sa2net.widgets.learn.training_set import when_words
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.words import counted

# --------------------------------------------------------------------------------------------
# Curves of a run: the loss, and how good the child is beside its parent.

LOSS_HEIGHT, SCORE_HEIGHT = 84, 128
#: time between two drawings: no eye wants more, and the window stays free
REDRAW_MS = 200
#: a curve of more points is thinned out to so many bins, each with its lowest and highest
MOST_BINS = 300
AP_COLOR, DICE_COLOR, LOSS_COLOR = "#3aa0ff", "#ff8c1a", "#9a9a9a"


class CurvesPlot(QWidget):
    """Two plots over one axis of steps; pyqtgraph loads in the background."""

    def __init__(self) -> None:
        super().__init__()
        self._text, self._background = QColor("gray"), QColor("black")
        self._wanted: Curves | None = None
        self._plots: list[Any] = []
        self._lines: dict[str, Any] = {}
        self.drawn = 0
        self.legend = text_label()
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(2)
        self._layout.addWidget(self.legend)
        self._timer = timer(self, 0, self._draw, once=True)

    def prepare(self) -> None:
        """Load what drawing needs, in the background; curves come soon."""
        loading_pyqtgraph()

    def set_curves(self, curves: Curves) -> None:
        """Show these, at the latest after a fifth of a second."""
        self._wanted = curves
        self.prepare()
        if not self._timer.isActive():
            self._timer.start(REDRAW_MS)

    def set_colors(self, text: QColor, background: QColor) -> None:
        """Of axes and ground."""
        self._text, self._background = text, background
        for plot in self._plots:
            paint_plot(plot, self._text, self._background)

    def shut(self) -> None:
        """Draw no more."""
        self._timer.stop()

    def values(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What is drawn: steps and values of "loss", "ap" or "dice"."""
        x, y = self._lines[name].getData() if name in self._lines else (None, None)
        empty = np.zeros(0)
        return (empty, empty) if x is None else (np.asarray(x), np.asarray(y))

    def _draw(self) -> None:
        curves = self._wanted
        if curves is None:
            return
        if loading_pyqtgraph().is_alive():
            self._timer.start(REDRAW_MS)
            return
        if not self._plots:
            self._make()
        self._wanted = None
        self.drawn += 1
        steps = max(1, curves.steps)
        self._lines["loss"].setData(*_thinned(curves))
        rounds = curves.rounds
        at = [point.step for point in rounds]
        self._lines["ap"].setData(at, [point.held_out.ap50 for point in rounds])
        self._lines["dice"].setData(at, [point.held_out.dice for point in rounds])
        best = [point for point in rounds if point.best][-1:]
        self._lines["best"].setData([p.step for p in best], [p.held_out.ap50 for p in best])
        for name, value in (
            ("parent ap", curves.parent.ap50 if curves.parent else None),
            ("parent dice", curves.parent.dice if curves.parent else None),
        ):
            self._lines[name].setVisible(value is not None)
            if value is not None:
                self._lines[name].setValue(value)
        for plot in self._plots:
            plot.setXRange(0, steps, padding=0.02)
        self._fit_scores(curves)
        self.legend.setText(legend(curves))

    def _fit_scores(self, curves: Curves) -> None:
        """From a quarter below the lowest score up to 1, so that small gains are seen."""
        scores = [point.held_out for point in curves.rounds]
        scores += [curves.parent] if curves.parent else []
        lowest = min((min(s.ap50, s.dice) for s in scores), default=0.0)
        low = max(0.0, np.floor(4 * (lowest - 0.02)) / 4)
        plot = self._plots[0]
        plot.setYRange(low, 1, padding=0.08)
        ticks = [(v, f"{v:g}") for v in (low, 1.0)]
        plot.getAxis("left").setTicks([ticks])

    def _make(self) -> None:
        import pyqtgraph as pg

        loss, score = pg.PlotWidget(), pg.PlotWidget()
        for plot, height, words in (
            (score, SCORE_HEIGHT, "AP and Dice on what is held back (0 to 1), by step"),
            (
                loss,
                LOSS_HEIGHT,
                "Loss of each step: how wrong the network was; lower is better",
            ),
        ):
            plot.setFixedHeight(height)
            plot.setToolTip(words)
            plot.setAccessibleName(words)
            plot.setMouseEnabled(x=False, y=False)
            plot.setMenuEnabled(False)
            plot.hideButtons()
            plot.getAxis("left").setWidth(34)
            plot.getAxis("left").setStyle(tickTextOffset=3)
            self._layout.addWidget(plot)
        for plot in (score, loss):
            for side in ("left", "bottom"):
                # one kind of ticks: the finer ones are noise at this size
                plot.getAxis(side).setStyle(maxTickLevel=0)
        score.getAxis("bottom").setStyle(showValues=False)
        lines = self._lines
        lines["loss"] = loss.plot(pen=pg.mkPen(LOSS_COLOR, width=1))
        for name, color in (("dice", DICE_COLOR), ("ap", AP_COLOR)):
            lines[name] = score.plot(
                pen=pg.mkPen(color, width=2), symbol="o", symbolSize=5, symbolBrush=color,
                symbolPen=None,
            )  # fmt: skip
            dashed = pg.mkPen(color, width=1.5, style=Qt.PenStyle.DashLine)
            lines[f"parent {name}"] = score.addLine(y=0, pen=dashed)
        lines["best"] = score.plot(
            pen=None, symbol="o", symbolSize=11, symbolBrush=None,
            symbolPen=pg.mkPen(AP_COLOR, width=1.5),
        )  # fmt: skip
        self._plots = [score, loss]
        for plot in self._plots:
            paint_plot(plot, self._text, self._background)


def legend(curves: Curves) -> str:
    """Colours and newest values, as rich text."""
    parent, newest = curves.parent, curves.rounds[-1] if curves.rounds else None

    def part(color: str, name: str, before: float | None, now: float | None) -> str:
        words = name if now is None else f"{name} {now:.2f}"
        if before is not None:
            words += f" (before {before:.2f})"
        words = words.replace(" ", "&nbsp;")
        return f"<span style='color:{color}'>●</span>&nbsp;{words}"

    scores = [
        part(
            color,
            name,
            getattr(parent, field) if parent else None,
            getattr(newest.held_out, field) if newest else None,
        )
        for color, name, field in ((AP_COLOR, "AP", "ap50"), (DICE_COLOR, "Dice", "dice"))
    ]
    if curves.losses:
        scores.append(part(LOSS_COLOR, "loss", None, curves.losses[-1].loss))
    return " &nbsp;".join(scores)


def _thinned(curves: Curves) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and losses; of long runs the lowest and highest of each bin."""
    x = np.array([point.step for point in curves.losses], float)
    y = np.array([point.loss for point in curves.losses], float)
    if x.size <= 2 * MOST_BINS:
        return x, y
    size = -(-x.size // MOST_BINS)
    whole = x.size // size * size
    rows = y[:whole].reshape(-1, size)
    low, high = rows.min(1), rows.max(1)
    at = x[:whole:size]
    xs = np.concatenate([np.repeat(at, 2), x[whole:]])
    ys = np.concatenate([np.stack([low, high], 1).ravel(), y[whole:]])
    return xs, ys


# --------------------------------------------------------------------------------------------
# What came of it: a verdict in a sentence, numbers side by side, and what to do with it.

AP_TIP = (
    "Average precision at IoU 0.5: cells found, of all that were found or missed; 1 is perfect"
)
EXACT_TIP = "Mean average precision at IoU 0.5 to 0.9: found, and outlined exactly"
DICE_TIP = "How well the area of all cells together is covered; 1 is perfect"
INTERVAL_TIP = "Difference, with half its 95 % interval from drawing the cells anew"


class OutcomeCard(QFrame):
    """The end of a run."""

    def __init__(
        self, controller: LearnController, connections: Connections, parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._state = controller.state
        self.setProperty("role", "hint")
        self.title = text_label(role="title", wrap=False)
        self.verdict = text_label()
        self.verdict.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.advice = text_label()
        self.standing = muted()
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(10)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(0, 1)
        self.use = push_button("Use it", role="primary")
        self.aside = push_button(
            "Keep aside", "Keep the new model, but do not offer it on the other pages"
        )
        self.back = push_button("", "Segment with the model as it was; the new one stays")
        self.difference = push_button(
            "Show the difference on the image",
            "Segment the view with both models: blue is gained by the new one, orange is lost",
        )
        self.difference.setCheckable(True)
        self.words = muted()
        self.dismiss = link_button(
            "Learn again", "Back to the training set; the models stay as they are"
        )
        buttons = hbox(*((button, 1) for button in (self.use, self.aside, self.back)))
        end = hbox(None, self.dismiss)
        vbox(
            *(self.title, self.verdict, self.advice, self._grid, self.standing, buttons),
            *(self.difference, self.words, end),
            on=self,
            margins=(10, 8, 8, 6),
        )
        self.use.clicked.connect(controller.use_child)
        self.aside.clicked.connect(controller.keep_aside)
        self.back.clicked.connect(controller.back_to_parent)
        self.difference.clicked.connect(controller.show_difference)
        self.dismiss.clicked.connect(controller.dismiss_outcome)
        events = self._state.events
        connections.follow(self._show_outcome, events.outcome, events.in_use)
        connections.follow(self._show_difference, events.comparing, events.difference)

    def _show_outcome(self) -> None:
        outcome, in_use = self._state.outcome, self._state.in_use
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

    def _show_difference(self) -> None:
        """Whether the layer is there, on the way, and what it shows."""
        difference, comparing = self._state.difference, self._state.comparing
        words = difference.words if difference is not None else ""
        self.difference.setChecked(difference is not None or comparing)
        self.difference.setEnabled(not comparing)
        self.difference.setText(
            "Comparing…" if comparing else "Show the difference on the image"
        )
        text = f"In the view: {words}. Blue is gained, orange is lost." if words else ""
        show_text(self.words, text)

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
            ("Held-back corrections", outcome.held_out),
            ("Reference set", outcome.reference),
        ):
            label = muted(f"{title}, {counted(change.after.n, 'cell')}")
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
        label = text_label(text, tip=tip, wrap=False)
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
    """Shows a run; hidden where there is none."""

    def __init__(
        self, controller: LearnController, connections: Connections, parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._controller = controller
        self._state = controller.state
        self.title = text_label(role="summary")
        self.plan = muted()
        self.progress = ProgressLine()
        self.pause = push_button("Pause")
        self.stop = push_button("Stop and keep the best", STOP_TIP)
        self.discard = link_button("Discard…", "Forget this run; the models stay as they are")
        self.sure = link_button("Discard for good", "There is no way back")
        buttons = hbox((self.pause, 1), (self.stop, 1))
        self.preview = check_box(
            "show the cells so far on the image",
            "After each round, outline the cells in view as the learning model sees them",
        )
        self.previewed = muted()
        vbox(
            *(self.title, self.plan, self.progress, buttons, self.discard, self.sure),
            *(self.preview, self.previewed),
            on=self,
        )
        self.pause.clicked.connect(self._pressed)
        self.stop.clicked.connect(controller.stop)
        self.discard.clicked.connect(lambda: self._ask(True))
        self.sure.clicked.connect(lambda: controller.discard())
        self.preview.clicked.connect(controller.set_preview)
        follow, events = connections.follow, self._state.events
        follow(self._show_run, events.phase, events.name, events.plan)
        follow(self._show_progress, events.progress, events.seconds_left)
        follow(self._show_preview, events.wants_preview, events.previewed)

    def _show_run(self) -> None:
        """Phase, names, plan."""
        state = self._state
        phase = state.phase
        self.setVisible(phase != "idle")
        paused = phase == "paused"
        verb = "has paused learning" if paused else "learns"
        self.title.setText(f"{state.name} {verb} from {state.parent}")
        show_text(self.plan, state.plan)
        self.pause.setText("Go on" if paused else "Pause")
        self.pause.setToolTip("Go on where it stood" if paused else PAUSE_TIP)
        self.pause.setEnabled(phase in ("starting", "learning", "paused"))
        self.stop.setEnabled(phase in ("starting", "learning", "paused"))
        self._ask(False)
        self._show_progress()
        self._show_preview()

    def _show_progress(self) -> None:
        """How far it is; called several times a second."""
        state = self._state
        progress, left = state.progress, state.seconds_left
        if state.phase == "paused":
            where = "Paused before the first step."
            if state.curves.losses:
                last = state.curves.losses[-1]
                where = f"Paused at step {last.step} of {last.steps}."
                if last.step == last.steps:
                    where = "Paused after the last step; what is left is to judge it."
            self.progress.set_progress(None, where)
            return
        if progress is not None and progress.total and state.phase == "learning":
            ends = None if left is None else time.monotonic() + left
            progress = replace(progress, ends=ends)
        self.progress.set_progress(progress, "")

    def _show_preview(self) -> None:
        """Whether the cells so far are shown, and of which round."""
        state = self._state
        self.preview.setChecked(state.wants_preview)
        self.preview.setVisible(state.phase in ("starting", "learning"))
        shown = bool(state.previewed) and state.phase == "learning"
        self.previewed.setVisible(shown)
        self.previewed.setText(f"The outlines show round {state.previewed}.")

    def _ask(self, sure: bool) -> None:
        paused = self._state.phase == "paused"
        self.discard.setVisible(paused and not sure)
        self.sure.setVisible(paused and sure)

    def _pressed(self) -> None:
        if self._state.phase == "paused":
            self._controller.resume()
        else:
            self._controller.pause()


# --------------------------------------------------------------------------------------------
# A run that was paused or broken off: go on, take what it has, or let it go.


class UnfinishedBox(LeftoverBox):
    """The newest unfinished run; hidden where there is none."""

    def __init__(
        self, controller: LearnController, connections: Connections, parent: QWidget
    ) -> None:
        resume = link_button("Go on", "Learn on where it stood")
        keep = link_button(
            "Keep the best",
            "End it with the best round so far, also where its images are gone",
        )
        discard = link_button("Discard…", "Forget this run; the models stay as they are")
        sure = link_button("Discard for good", "There is no way back")
        super().__init__((resume, keep), discard, sure, parent)
        self.resume, self.keep = resume, keep
        self._state = state = controller.state
        self.resume.clicked.connect(lambda: controller.resume(state.unfinished[0]))
        self.keep.clicked.connect(lambda: controller.keep_best(state.unfinished[0]))
        self.sure.clicked.connect(lambda: controller.discard(state.unfinished[0]))
        connections.follow(self._show, state.events.unfinished)

    def _show(self) -> None:
        """The newest, while nothing else learns."""
        runs = self._state.unfinished if self._state.phase == "idle" else ()
        text = ""
        if runs:
            newest, more = runs[0], len(runs) - 1
            when = when_words(datetime.fromtimestamp(newest.time, UTC).isoformat())
            asked = newest.asked
            text = f"{asked.name} has not finished learning from {asked.base_name} ({when})."
            if more:
                text += f" {more} more after that."
        self.set_words(text)
