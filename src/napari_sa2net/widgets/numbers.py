"""Numbers of cells as a plot: histogram and scatter, gates, filters and colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtGui import QColor, QImage, QPixmap
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget
from superqt.utils import signals_blocked

from napari_sa2net.widgets.controls import (
    check_box,
    hbox,
    link_button,
    loading_pyqtgraph,
    muted,
    narrow_combo,
    offer,
    paint_plot,
    show_text,
    text_label,
    timer,
    vbox,
)
from napari_sa2net.widgets.napari_port.reviewed_layer import (
    FILTERED,
    LIT,
    PLAIN,
    SCALE,
    STEPS,
    PaintedCells,
    painted_colors,
)
from napari_sa2net.widgets.number_field import NumberField
from napari_sa2net.words import counted

if TYPE_CHECKING:
    import pandas as pd
    from napari.layers import Labels
    from napari.viewer import Viewer

#: Time between what a hand does and what is drawn of it.
REDRAW_MS = 40
REST_MS = 150
BINS = 48
#: Of more cells so many points are drawn; gates act on all.
MOST_POINTS = 20_000
#: What the scale of colours leaves out at each end (%): a few odd cells must not spoil it.
ODD = 1.0
ALL_COLOR, CHOSEN_COLOR = "#7f8c98", "#ffd91a"
COUNT = ""
#: Columns that tell nothing to plot.
_NO_NUMBERS = ("label", "index")
_DRAG = {
    False: "Drag across the histogram: the cells in that range light up.",
    True: "Drag a box around points, or tick Lasso and draw around them: the cells light up.",
}


@dataclass(frozen=True, eq=False)
class Gate:
    """Cells by one or two columns.

    Attributes
    ----------
    x, y
        Names of columns; y is empty for a range of x.
    outline : (n, 2)
        Corners of a polygon of x and y; of a range its ends in the first column.
    """

    x: str
    y: str
    outline: NDArray[np.float64]

    def __call__(self, columns: dict[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
        """Which cells are in it; those without a value are not."""
        x = columns[self.x]
        if not self.y:
            low, high = self.limits
            return (x >= low) & (x <= high)
        from skimage.measure import points_in_poly  # slow to load

        points = np.column_stack([x, columns[self.y]])
        known = np.asarray(np.isfinite(points).all(axis=1))
        known[known] = points_in_poly(points[known], self.outline)
        return known

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest x."""
        return float(self.outline[:, 0].min()), float(self.outline[:, 0].max())

    def words(self, heads: dict[str, str]) -> str:
        """``area (µm²) 20 to 300``."""
        if self.y:
            return f"{heads.get(self.x, self.x)} by {heads.get(self.y, self.y)}, as drawn"
        low, high = self.limits
        return f"{heads.get(self.x, self.x)} {low:.4g} to {high:.4g}"


def range_of(x: str, low: float, high: float) -> Gate:
    """A gate of the cells from one value to another."""
    return Gate(x, "", np.array([[low, 0], [high, 0]], float))


class NumbersView(QWidget):
    """Plots columns of a table of cells, and shows on the canvas what is chosen in them.

    Parameters
    ----------
    viewer
    remove
        Deletes cells by their labels, as one correction; whether it did.
    undo
        Takes the last correction back.

    Signals
    -------
    chosen : array of int
        Labels of the cells in the gate; empty without one.
    left_out : array of int
        Labels of the cells that filters take away; none while nobody looks at the plot.
    """

    chosen = Signal(object)
    left_out = Signal(object)

    def __init__(
        self, viewer: Viewer, remove: Callable[[list[int]], bool], undo: Callable[[], object]
    ) -> None:
        super().__init__()
        self._viewer, self._remove, self._undo = viewer, remove, undo
        self._layer: Labels | None = None
        self._labels: NDArray[np.int64] = np.empty(0, np.int64)
        self._columns: dict[str, NDArray[np.float64]] = {}
        self._heads: dict[str, str] = {}
        self._text, self._background = QColor("gray"), QColor("black")
        self._plot: Any = None
        self._edges: NDArray[np.float64] | None = None
        self._items: dict[str, Any] = {}
        self._lit: NDArray[np.int64] | None = None
        self._out: NDArray[np.int64] = np.empty(0, np.int64)
        self.gate: Gate | None = None
        self.filters: list[Gate] = []
        # of layers that were plotted before
        self._filters_of: WeakKeyDictionary[Labels, list[Gate]] = WeakKeyDictionary()
        self.painted = PaintedCells(viewer)
        self._said = ""
        # --- what is plotted
        self.across, self.up = narrow_combo(8), narrow_combo(8)
        self.across.setToolTip("What is plotted along the axis below")
        self.up.setToolTip("How many cells there are, or another column: each cell is a point")
        self.lasso = check_box("Lasso", "Draw around points by hand instead of a box")
        self.color = check_box(
            "Colour cells",
            "Colour the cells in the picture by the column on the left; untick it, and they "
            "have their own colours again",
        )
        self._bar, self._low, self._high = QLabel(), muted(), muted()
        self._bar.setFixedSize(60, 9)
        self._bar.setScaledContents(True)
        self._bar.setPixmap(_gradient())
        self._scale = QWidget()
        hbox(self._low, self._bar, self._high, on=self._scale, spacing=4)
        for label in (self._low, self._high):
            label.setWordWrap(False)
        # two short rows, so that the table beside them has room on a small screen
        head = hbox((self.across, 2), text_label("by", wrap=False), (self.up, 2))
        ways = hbox(self.lasso, self.color, None, self._scale)
        # --- what is chosen
        self.low, self.high = NumberField(), NumberField()
        for field, words in ((self.low, "Least"), (self.high, "Most")):
            field.setToolTip(f"{words} value of the cells that are chosen")
            field.setDecimals(4)
            field.setRange(-1e12, 1e12)
            field.trim()
            field.setKeyboardTracking(False)
            field.setButtonSymbols(NumberField.ButtonSymbols.NoButtons)
            field.setFixedWidth(72)
            field.valueChanged.connect(self._typed)
        self._ends = QWidget()
        hbox(self.low, text_label("to", wrap=False), self.high, on=self._ends, spacing=4)
        self.line = muted()
        self.keep = link_button("Only these", "Filter out all cells but these")
        self.drop = link_button("Not these", "Filter out these cells")
        self.clear = link_button("Clear", "Choose no cells")
        foot = hbox((self.line, 1), self._ends)
        self._acts = QWidget()
        hbox(None, self.keep, self.drop, self.clear, on=self._acts)
        # --- what is filtered out
        self.filter_line = text_label(role="warning")
        self.delete = link_button("", "Delete them from the layer; this can be taken back")
        self.back = link_button("Show them again", "Take the last filter away")
        self.undo = link_button("Undo", "Take the deletion back, as on the Correct page")
        self._filter_row = QWidget()
        acts = hbox(None, self.delete, self.back, self.undo)
        vbox(self.filter_line, acts, on=self._filter_row, spacing=0)
        self._place = QVBoxLayout()
        vbox(
            head, ways, (self._place, 1), foot, self._acts, self._filter_row, on=self, spacing=2
        )
        self.across.currentIndexChanged.connect(self._axes_chosen)
        self.up.currentIndexChanged.connect(self._axes_chosen)
        self.color.toggled.connect(self._repaint)
        self.keep.clicked.connect(partial(self._filter, True))
        self.drop.clicked.connect(partial(self._filter, False))
        self.clear.clicked.connect(lambda: self.set_gate(None))
        self.delete.clicked.connect(self._delete)
        self.back.clicked.connect(self._unfilter)
        self.undo.clicked.connect(self._take_back)
        self._timer = timer(self, 0, self._draw, once=True)
        self._painter = timer(self, 0, self._paint, once=True)
        self._teller = timer(
            self, 0, lambda: self._tell(self._labels[self.inside()]), once=True
        )
        self._say()

    # --- what others say -----------------------------------------------------------------

    def set_features(
        self, layer: Labels | None, features: pd.DataFrame, heads: dict[str, str]
    ) -> None:
        """Plot the cells of a layer; gates and filters stay as far as their columns do.

        Another layer has filters of its own, which are there again when it is.
        """
        other = layer is not self._layer
        if other and self._layer is not None:
            self._filters_of[self._layer] = self.filters
        self._layer, self._heads = layer, heads
        self._columns = {
            name: features[name].to_numpy(float)
            for name in heads
            if name not in _NO_NUMBERS and features[name].dtype.kind in "iuf"
        }
        self._labels = (
            features["label"].to_numpy(np.int64) if "label" in features else np.empty(0, int)
        )
        names = list(self._columns)
        liked = [name for name in ("area_um2", "area_px", "volume_um3") if name in names]
        x = self.across.currentData() if self.across.currentData() in names else None
        y = self.up.currentData() if self.up.currentData() in names else COUNT
        offer(
            self.across, [(name, heads[name]) for name in names], x or (liked + names + [""])[0]
        )
        offer(self.up, [(COUNT, "number of cells"), *((n, heads[n]) for n in names)], y)
        if other:
            kept = [] if layer is None else self._filters_of.get(layer, [])
            self.gate, self.filters, self._said = None, kept, ""
            self.painted.hide()
        known = set(names)
        self.filters = [one for one in self.filters if {one.x, one.y} - {""} <= known]
        if self.gate is not None and not {self.gate.x, self.gate.y} - {""} <= known:
            self.gate = None
        self._redraw()
        self._repaint()

    def set_colors(self, text: QColor, background: QColor) -> None:
        """Of axes and ground."""
        self._text, self._background = text, background
        if self._plot is not None:
            paint_plot(self._plot, self._text, self._background)

    def shut(self) -> None:
        """Draw no more, and leave the canvas as it was."""
        self._timer.stop()
        self._painter.stop()
        self._teller.stop()
        self.painted.hide()

    def showEvent(self, event: Any) -> None:
        """It is looked at: draw what there is."""
        super().showEvent(event)
        self._redraw()
        self._repaint()

    def hideEvent(self, event: Any) -> None:
        """Nobody looks at it: the cells have their own colours again."""
        super().hideEvent(event)
        self._teller.stop()
        self.painted.hide()
        self._tell(np.empty(0, np.int64))
        self._leave_out(np.empty(0, np.int64))

    # --- gates and filters ---------------------------------------------------------------

    def set_gate(self, gate: Gate | None) -> None:
        """Choose cells; none for None."""
        self.gate, self._said = gate, ""
        self._show_gate()
        self._repaint()

    def inside(self) -> NDArray[np.bool_]:
        """Which cells are in the gate and not filtered out."""
        if self.gate is None:
            return np.zeros(self._labels.size, bool)
        return self.gate(self._columns) & ~self.filtered()

    def filtered(self) -> NDArray[np.bool_]:
        """Which cells are filtered out."""
        out = np.zeros(self._labels.size, bool)
        for one in self.filters:
            out |= one(self._columns) if isinstance(one, _Without) else ~one(self._columns)
        return out

    def _filter(self, keep: bool) -> None:
        gate = self.gate
        if gate is None:
            return
        kind = Gate if keep else _Without
        self.filters.append(kind(gate.x, gate.y, gate.outline))
        self.set_gate(None)
        self._redraw()

    def _unfilter(self) -> None:
        self.filters = self.filters[:-1]
        self._said = ""
        self._redraw()
        self._repaint()

    def _delete(self) -> None:
        labels = self._labels[self.filtered()].tolist()
        if labels and self._remove(labels):
            self.filters = []
            self._said = f"{counted(len(labels), 'cell')} deleted."
            self._repaint()

    def _take_back(self) -> None:
        self._undo()
        self._said = ""
        self._say()

    def _typed(self, _: float) -> None:
        low, high = sorted((self.low.value(), self.high.value()))
        self.set_gate(range_of(self.across.currentData(), low, high))

    def _axes_chosen(self, _: int) -> None:
        if self.gate is not None:
            self.set_gate(None)
        self._redraw()
        self._repaint()

    # --- on the canvas -------------------------------------------------------------------

    def _repaint(self, _: Any = None) -> None:
        self._say()
        if not self._painter.isActive():
            self._painter.start(REDRAW_MS)

    def _paint(self) -> None:
        layer = self._layer
        if not self.isVisible():
            return
        out, lit = self.filtered(), self.inside()
        # thousands of rows take the table a while to choose: once the hand rests
        self._teller.start(REST_MS)
        self._draw_chosen(lit)
        name = self.across.currentData()
        colored = self.color.isChecked() and name in self._columns
        if layer is None or not (colored or self.gate is not None or out.any()):
            self.painted.rest()
            return
        what = np.full(self._labels.size, PLAIN, np.uint8)
        if colored:
            step = self._steps(self._columns[name], ~out)
            shown = lit if self.gate is not None else step >= 0
            what[shown & (step >= 0)] = (SCALE + step[shown & (step >= 0)]).astype(np.uint8)
        elif self.gate is not None:
            what[lit] = LIT
        what[out] = FILTERED
        words = f"cells by {self._heads.get(name, name)}" if colored else "chosen cells"
        self.painted.show(layer, self._labels, what, words)

    def _steps(
        self, values: NDArray[np.float64], shown: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Step of each shown value on the scale; -1 where there is none."""
        known = np.isfinite(values) & shown
        if not known.any():
            return np.full(values.size, -1)
        low, high = limits(values[known])
        self._low.setText(f"{low:.3g}")
        self._high.setText(f"{high:.3g}")
        with np.errstate(invalid="ignore"):
            part = np.clip((values - low) / ((high - low) or 1), 0, 1) * (STEPS - 1)
        return np.where(known, np.where(known, part, 0).round(), -1).astype(np.int64)

    def _tell(self, labels: NDArray[np.int64]) -> None:
        if self._lit is None or not np.array_equal(labels, self._lit):
            if labels.size or self._lit is not None:
                self.chosen.emit(labels)
            self._lit = labels

    def _leave_out(self, labels: NDArray[np.int64]) -> None:
        if not np.array_equal(labels, self._out):
            self._out = labels
            self.left_out.emit(labels)

    def _say(self) -> None:
        """What is chosen and what is filtered out, in words."""
        flat = self.up.currentData() in (COUNT, None)
        self.lasso.setVisible(not flat)
        chosen, filtered = self.gate is not None, self.filtered()
        n, out = self._labels.size, int(filtered.sum())
        if self.isVisible():
            self._leave_out(self._labels[filtered])
        words = _DRAG[not flat] if n else "No cells to plot."
        if chosen:
            words = f"{int(self.inside().sum())} of {counted(n, 'cell')}"
        self.line.setText(words)
        self.line.setWordWrap(not chosen)
        self._ends.setVisible(chosen and flat)
        self._acts.setVisible(chosen)
        self._scale.setVisible(self.color.isChecked())
        line = self._said
        if self.filters:
            told = "; ".join(one.words(self._heads) for one in self.filters)
            line = f"{out} of {counted(n, 'cell')} filtered out: {told}"
        show_text(self.filter_line, line)
        self.delete.setText(f"Delete {'it' if out == 1 else f'these {out}'}")
        self.delete.setVisible(bool(self.filters) and out > 0)
        self.back.setVisible(bool(self.filters))
        self.undo.setVisible(bool(self._said) and not self.filters)
        self._filter_row.setVisible(bool(line))

    # --- the plot ------------------------------------------------------------------------

    def _redraw(self) -> None:
        loading_pyqtgraph()
        if not self._timer.isActive():
            self._timer.start(REDRAW_MS)

    def _draw(self) -> None:
        if loading_pyqtgraph().is_alive():
            self._timer.start(REDRAW_MS)
            return
        if not self.isVisible():
            return
        if self._plot is None:
            self._make()
        x, y = self.across.currentData(), self.up.currentData()
        shown = ~self.filtered()
        values = self._columns.get(x)
        bars, points = self._items["bars"], self._items["points"]
        bars.setVisible(not y)
        points.setVisible(bool(y))
        self._plot.setLabel("bottom", self._heads.get(x, ""))
        self._plot.setLabel("left", self._heads.get(y, "") if y else "cells")
        if values is not None and not y:
            self._edges = np.histogram_bin_edges(_finite(values), BINS) if values.size else None
            self._bars(bars, values[shown])
        elif values is not None:
            some = np.flatnonzero(shown)
            if some.size > MOST_POINTS:
                some = np.random.default_rng(0).choice(some, MOST_POINTS, replace=False)
            points.setData(values[some], self._columns[y][some])
        self._plot.getViewBox().enableAutoRange()
        self._show_gate()
        self._draw_chosen(self.inside())

    def _bars(self, item: Any, values: NDArray[np.float64]) -> None:
        if self._edges is None:
            item.setData([], [])
            return
        counts = np.histogram(_finite(values), self._edges)[0]
        item.setData(self._edges, counts)

    def _draw_chosen(self, lit: NDArray[np.bool_]) -> None:
        """The chosen cells in the plot."""
        x, y = self.across.currentData(), self.up.currentData()
        if self._plot is None or x not in self._columns:
            return
        bars, points = self._items["chosen bars"], self._items["chosen points"]
        bars.setVisible(not y and bool(lit.any()))
        points.setVisible(bool(y))
        if not y and lit.any():
            self._bars(bars, self._columns[x][lit])
        elif y:
            some = np.flatnonzero(lit)[:MOST_POINTS]
            points.setData(self._columns[x][some], self._columns[y][some])

    def _show_gate(self) -> None:
        gate = self.gate
        if gate is not None and not gate.y:
            for field, value in zip((self.low, self.high), gate.limits, strict=True):
                with signals_blocked(field):
                    field.setValue(value)
        if self._plot is None:
            return
        region, outline = self._items["region"], self._items["outline"]
        region.setVisible(gate is not None and not gate.y)
        outline.setVisible(gate is not None and bool(gate.y))
        if gate is not None and gate.y:
            closed = np.concatenate([gate.outline, gate.outline[:1]])
            outline.setData(closed[:, 0], closed[:, 1])
        elif gate is not None and tuple(region.getRegion()) != gate.limits:
            with signals_blocked(region):
                region.setRegion(gate.limits)

    def _dragged(self, path: list[tuple[float, float]]) -> None:
        """A hand drew a line over the plot, from its first to its present point."""
        x, y = self.across.currentData(), self.up.currentData()
        if x not in self._columns:
            return
        (x0, y0), (x1, y1) = path[0], path[-1]
        if not y:
            gate = range_of(x, min(x0, x1), max(x0, x1))
        elif self.lasso.isChecked():
            if len(path) < 3:
                return
            gate = Gate(x, y, np.array(path, float))
        else:
            gate = Gate(x, y, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float))
        self.set_gate(gate)

    def _region_moved(self) -> None:
        if self.gate is not None and not self.gate.y:
            low, high = self._items["region"].getRegion()
            self.set_gate(range_of(self.gate.x, float(low), float(high)))

    def _make(self) -> None:
        import pyqtgraph as pg

        dragged, clear = self._dragged, partial(self.set_gate, None)

        class Box(pg.ViewBox):  # type: ignore[misc]
            """Drags draw a gate, a double click takes it away; nothing zooms by mistake."""

            path: list[tuple[float, float]]

            def mouseDragEvent(self, event: Any, axis: Any = None) -> None:
                event.accept()
                at = self.mapSceneToView(event.scenePos())
                if event.isStart():
                    begin = self.mapSceneToView(event.buttonDownScenePos())
                    self.path = [(begin.x(), begin.y())]
                self.path.append((at.x(), at.y()))
                dragged(self.path)

            def mouseDoubleClickEvent(self, event: Any) -> None:
                event.accept()
                clear()

        self._plot = plot = pg.PlotWidget(viewBox=Box())
        plot.setMinimumHeight(70)
        plot.setMenuEnabled(False)
        plot.hideButtons()
        for side in ("bottom", "left"):
            # the numbers as the table has them, not in thousandths
            plot.getAxis(side).enableAutoSIPrefix(False)
        plot.getViewBox().setMouseEnabled(x=False, y=False)
        plot.setAccessibleName("Plot of the cells")
        self._place.addWidget(plot)
        steps = {"stepMode": "center", "fillLevel": 0, "pen": None}
        points = {"pen": None, "pxMode": True}
        items = self._items
        items["bars"] = pg.PlotCurveItem([0, 1], [0], brush=ALL_COLOR, **steps)
        items["chosen bars"] = pg.PlotCurveItem([0, 1], [0], brush=CHOSEN_COLOR, **steps)
        items["points"] = pg.ScatterPlotItem(size=4, brush=ALL_COLOR, **points)
        items["chosen points"] = pg.ScatterPlotItem(size=5, brush=CHOSEN_COLOR, **points)
        items["outline"] = pg.PlotCurveItem(pen=pg.mkPen(CHOSEN_COLOR, width=1.5))
        items["region"] = pg.LinearRegionItem(brush=(255, 217, 26, 40), pen=CHOSEN_COLOR)
        for item in items.values():
            plot.addItem(item, ignoreBounds=item in (items["region"], items["outline"]))
        items["region"].sigRegionChanged.connect(self._region_moved)
        paint_plot(self._plot, self._text, self._background)


class _Without(Gate):
    """A filter that takes away what is in it."""

    def words(self, heads: dict[str, str]) -> str:
        """In words."""
        return f"without {super().words(heads)}"


def limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the scale of colours; those of all values where nearly all are the same."""
    known = _finite(values)
    low, high = np.percentile(known, [ODD, 100 - ODD]).tolist()
    return (low, high) if high > low else (float(known.min()), float(known.max()))


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _gradient() -> QPixmap:
    """The scale of colours, from the least to the greatest value."""
    colors = painted_colors()
    row = np.array([colors[SCALE + i] for i in range(STEPS)])
    pixels = np.ascontiguousarray((row[None] * 255).round().astype(np.uint8))
    image = QImage(pixels.tobytes(), STEPS, 1, 4 * STEPS, QImage.Format.Format_RGBA8888)
    # as high as it is shown: what is one pixel high may be scaled to none
    return QPixmap.fromImage(image.scaled(STEPS, 9))
