"""Curves of a run: the loss, and how good the child is beside its parent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_sa2net.app.training_set import Curves
from napari_sa2net.widgets.controls import loading_pyqtgraph, paint_plot, text_label, timer

LOSS_HEIGHT, SCORE_HEIGHT = 84, 128
#: time between two drawings: no eye wants more, and the window stays free
REDRAW_MS = 200
#: a curve of more points is thinned out to so many bins, each with its lowest and highest
MOST_BINS = 300
AP_COLOR, DICE_COLOR, LOSS_COLOR = "#3aa0ff", "#ff8c1a", "#9a9a9a"


class CurvesPlot(QWidget):
    """Two plots over one axis of steps; pyqtgraph loads in the background."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
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
