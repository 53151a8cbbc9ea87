"""The tools of the Correct page: name, key, what to do with the mouse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QIcon,
    QPainter,
    QPainterPath,
    QPen,
    QPixmap,
    QPolygonF,
)
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.widgets.controls import repolish
from napari_sa2net.widgets.napari_port.drawing import Shape


@dataclass(frozen=True)
class Tool:
    """A tool of the strip.

    Attributes
    ----------
    name
        Of the tool; its icon goes by it, too.
    words
        Under the icon.
    key
        That takes it up; of napari's own tools, napari's key.
    tip
        What it does.
    hint
        What to do with the mouse while it is taken up.
    shape
        What a drag draws; None for napari's own tools.
    clicks
        A click does something, too.
    mode
        Of the layer, for napari's own tools.
    """

    name: str
    words: str
    key: str
    tip: str
    hint: str
    shape: Shape | None = None
    clicks: bool = False
    mode: str = ""


TOOLS: tuple[Tool, ...] = (
    Tool(
        "brush", "Brush", "2", "Paint the selected cell with napari's brush",
        "Paint the chosen cell. M starts a new one, [ and ] change the size.", mode="paint",
    ),
    Tool(
        "eraser", "Eraser", "1", "Erase pixels with napari's eraser",
        "Erase pixels. [ and ] change the size.", mode="erase",
    ),
    Tool(
        "split", "Split", "S", "Cut a cell in two along a line",
        "Drag a line across a cell, from outside to outside.", "line",
    ),
    Tool(
        "merge", "Merge", "G", "Make one cell of several",
        "Drag from one cell into the next; all that you touch become one.", "line",
    ),
    Tool(
        "delete", "Delete", "D", "Remove cells that are none",
        "Click a cell, or drag around several.", "lasso", True,
    ),
    Tool(
        "fill", "Fill", "H", "Fill the holes in a cell",
        "Click a cell with holes, or drag around several.", "lasso", True,
    ),
    Tool(
        "smooth", "Smooth", "O", "Smooth the outline of a cell",
        "Click a cell with a rough outline, or drag around several.", "lasso", True,
    ),
    Tool(
        "edge", "To edge", "T", "Grow or shrink a cell to the edge that the model saw",
        "Click a cell: it grows or shrinks to the edge that the model saw.", "lasso", True,
    ),
    Tool(
        "redraw", "Redraw", "R", "Draw the outline of a cell anew, or a cell that was missed",
        "Drag around one cell to draw it anew; on free ground you draw a new cell.", "lasso",
    ),
    Tool(
        "box", "Box", "Q", "Segment a part of the image again with other settings",
        "Set the sliders below, then drag a box: the cells in it are found anew.", "box",
    ),
    Tool(
        "ignore", "Ignore", "I", "Mark a region that nothing shall be learned from",
        "Drag around a region to leave out. A click in it takes the mark away.", "lasso", True,
    ),
    Tool(
        "reviewed", "All right", "U", "Mark a region in which every cell is right now",
        "Drag around a region where every cell is right. A click in it takes the mark away.",
        "lasso", True,
    ),
)  # fmt: skip

#: keys of the page beside those of the tools
OTHER_KEYS: tuple[tuple[str, str], ...] = (
    ("N", "next doubtful cell"),
    ("Shift-N", "the one before"),
    ("A", "accept, and next"),
    ("Shift-A", "accept all cells in view"),
    ("K", "keep these corrections"),
)
#: of napari, good to know
NAPARI_KEYS: tuple[tuple[str, str], ...] = (
    ("M", "brush a new cell"),
    ("L", "pick a cell by a click"),
    ("[  ]", "size of the brush"),
    ("Space", "hold to move the view"),
)


def tool_named(name: str) -> Tool:
    """The tool of that name."""
    return next(tool for tool in TOOLS if tool.name == name)


# --------------------------------------------------------------------------------------------
# Icons of the tools, drawn in the colour of the theme's text.

SIZE = 48
_MARK = QColor("#ffb02e")


def tool_icon(name: str, color: QColor) -> QIcon:
    """The icon of a tool; points lie in a square of 24."""
    pixmap = QPixmap(SIZE, SIZE)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.scale(SIZE / 24, SIZE / 24)
    painter.setPen(_pen(color))
    _DRAW[name](painter, color)
    painter.end()
    return QIcon(pixmap)


def _pen(color: QColor, width: float = 1.8, dashed: bool = False) -> QPen:
    pen = QPen(color, width)
    pen.setCapStyle(Qt.PenCapStyle.RoundCap)
    pen.setJoinStyle(Qt.PenJoinStyle.RoundJoin)
    if dashed:
        pen.setDashPattern([2.0, 1.8])
    return pen


def _line(painter: QPainter, *points: tuple[float, float]) -> None:
    painter.drawPolyline(QPolygonF([QPointF(x, y) for x, y in points]))


def _brush(painter: QPainter, color: QColor) -> None:
    _line(painter, (20, 4), (11, 13))
    tip = QPainterPath(QPointF(11, 12))
    tip.cubicTo(6, 12, 8, 19, 3.5, 20)
    tip.cubicTo(8, 22, 13.5, 19, 12.5, 13.5)
    painter.fillPath(tip, color)


def _eraser(painter: QPainter, color: QColor) -> None:
    corners = [(9, 19), (4, 14), (14, 4), (20, 10), (11, 19), (9, 19)]
    _line(painter, *corners)
    _line(painter, (8.5, 9.5), (14.5, 15.5))
    _line(painter, (9, 20.5), (20, 20.5))


def _split(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(3, 6, 18, 12))
    painter.setPen(_pen(_MARK, 2.2))
    _line(painter, (14.5, 2.5), (9.5, 21.5))


def _merge(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(2.5, 6.5, 10, 11))
    painter.drawEllipse(QRectF(11.5, 6.5, 10, 11))
    painter.setPen(_pen(_MARK, 2.2))
    _line(painter, (7, 12), (17, 12))


def _delete(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(3, 4, 18, 16))
    painter.setPen(_pen(_MARK, 2.2))
    _line(painter, (8.5, 8.5), (15.5, 15.5))
    _line(painter, (15.5, 8.5), (8.5, 15.5))


def _fill(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(3, 4, 18, 16))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(_MARK)
    painter.drawEllipse(QRectF(9, 8.5, 7, 6.5))


def _smooth(painter: QPainter, color: QColor) -> None:
    _line(painter, (3, 9), (6, 4), (9, 9.5), (12, 3.5), (15, 9), (18, 4.5), (21, 9))
    painter.setPen(_pen(_MARK, 2.2))
    curve = QPainterPath(QPointF(3, 19.5))
    curve.cubicTo(8, 13, 16, 13, 21, 19.5)
    painter.drawPath(curve)


def _edge(painter: QPainter, color: QColor) -> None:
    painter.setPen(_pen(color, 1.5, dashed=True))
    painter.drawEllipse(QRectF(2.5, 3, 19, 18))
    painter.setPen(_pen(color))
    painter.drawEllipse(QRectF(8, 8, 8, 8))
    painter.setPen(_pen(_MARK, 2.0))
    for sign in (-1, 1):
        _line(painter, (12 + 5 * sign, 12), (12 + 9 * sign, 12))


def _redraw(painter: QPainter, color: QColor) -> None:
    _line(painter, (18, 3), (21, 6), (11, 16), (7, 17), (8, 13), (18, 3))
    painter.setPen(_pen(_MARK, 2.0))
    curve = QPainterPath(QPointF(3, 19))
    curve.cubicTo(8, 24, 16, 17, 21, 21)
    painter.drawPath(curve)


def _box(painter: QPainter, color: QColor) -> None:
    painter.setPen(_pen(color, 1.6, dashed=True))
    painter.drawRect(QRectF(3, 3.5, 18, 17))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(_MARK)
    painter.drawEllipse(QRectF(6, 7.5, 5.5, 5.5))
    painter.drawEllipse(QRectF(12.5, 11, 5.5, 5.5))


def _ignore(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(3, 3.5, 18, 17))
    painter.setPen(_pen(_MARK, 1.6))
    _line(painter, (5.5, 16), (15, 5.5))
    _line(painter, (8, 19), (19, 7.5))


def _reviewed(painter: QPainter, color: QColor) -> None:
    painter.drawRoundedRect(QRectF(3, 3.5, 18, 17), 5, 5)
    painter.setPen(_pen(_MARK, 2.4))
    _line(painter, (7.5, 12), (10.8, 15.5), (16.5, 8))


_DRAW: dict[str, Callable[[QPainter, QColor], None]] = {
    "brush": _brush,
    "eraser": _eraser,
    "split": _split,
    "merge": _merge,
    "delete": _delete,
    "fill": _fill,
    "smooth": _smooth,
    "edge": _edge,
    "redraw": _redraw,
    "box": _box,
    "ignore": _ignore,
    "reviewed": _reviewed,
}


# --------------------------------------------------------------------------------------------
# The tools as buttons with icons and words, and one history for all of them.

COLUMNS = 4
IDLE = "Take up a tool, or click a cell to look at it."


class ToolStrip(QWidget):
    """Buttons, of which at most one is pressed; a hint on what to do with the mouse.

    Signals
    -------
    toolChosen : str
        A person has taken up a tool, or laid it down (empty).
    undoWanted, redoWanted
    """

    toolChosen = Signal(str)
    undoWanted = Signal()
    redoWanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.buttons = {tool.name: _button(tool) for tool in TOOLS}
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        for i, (name, button) in enumerate(self.buttons.items()):
            grid.addWidget(button, i // COLUMNS, i % COLUMNS)
            button.clicked.connect(
                lambda checked, name=name: self.toolChosen.emit(name if checked else "")
            )
        for column in range(COLUMNS):
            grid.setColumnStretch(column, 1)
        self.undo = QPushButton("↶ Undo")
        self.redo = QPushButton("↷ Redo")
        for plain in (self.undo, self.redo):
            plain.setProperty("role", "plain")
        history = QHBoxLayout()
        history.setSpacing(4)
        history.addWidget(self.undo, 1)
        history.addWidget(self.redo, 1)
        self.hint = QFrame()
        self.hint.setProperty("role", "hint")
        self.hint_text = _Hint(self.hint)
        inside = QVBoxLayout(self.hint)
        inside.setContentsMargins(10, 6, 8, 6)
        inside.addWidget(self.hint_text)
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.said.setProperty("role", "muted")
        policy = self.said.sizePolicy()
        # what lies below stays where it is
        policy.setRetainSizeWhenHidden(True)
        self.said.setSizePolicy(policy)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(grid)
        layout.addWidget(self.hint)
        layout.addLayout(history)
        layout.addWidget(self.said)
        self.undo.clicked.connect(self.undoWanted)
        self.redo.clicked.connect(self.redoWanted)
        self.set_tool(None)
        self.set_history("", "")
        self.set_said("", True)

    def set_tool(self, tool: Tool | None) -> None:
        """Show which tool is taken up; says nothing."""
        for name, button in self.buttons.items():
            button.setChecked(tool is not None and name == tool.name)
        self.hint_text.setText(IDLE if tool is None else _hint(tool))

    def set_history(self, undo: str, redo: str) -> None:
        """What undo and redo would do; empty where there is nothing."""
        for button, words, key in (
            (self.undo, undo, "Ctrl+Z"),
            (self.redo, redo, "Ctrl+Shift+Z"),
        ):
            button.setEnabled(bool(words))
            button.setToolTip(f"{words} ({key})" if words else f"Nothing to do ({key})")

    def set_said(self, words: str, ok: bool) -> None:
        """What was just done, or why it could not be."""
        self.said.setText(words)
        self.said.setVisible(bool(words))
        role = "muted" if ok else "warning"
        if self.said.property("role") != role:
            self.said.setProperty("role", role)
            repolish(self.said)

    def set_color(self, color: QColor) -> None:
        """Colour of the icons, from the theme."""
        for name, button in self.buttons.items():
            button.setIcon(tool_icon(name, color))


class _Hint(QLabel):
    """As high as the longest hint needs at all times: what lies below stays where it is."""

    def __init__(self, frame: QFrame) -> None:
        super().__init__()
        self.setWordWrap(True)
        self._ruler = QLabel(frame)  # in the frame, whose style it shares
        self._ruler.setWordWrap(True)
        self._ruler.hide()

    def heightForWidth(self, width: int) -> int:
        heights = []
        for words in (IDLE, *(_hint(tool) for tool in TOOLS)):
            self._ruler.setText(words)
            heights.append(self._ruler.heightForWidth(width))
        return max(heights)


def _hint(tool: Tool) -> str:
    return f"<b>{tool.words}.</b> {tool.hint} Esc ends."


def _button(tool: Tool) -> QToolButton:
    button = QToolButton()
    button.setProperty("role", "tool")
    button.setText(tool.words)
    button.setToolTip(f"{tool.tip} ({tool.key})")
    button.setAccessibleName(tool.words)
    button.setAccessibleDescription(tool.tip)
    button.setCheckable(True)
    button.setIconSize(QSize(22, 22))
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
    button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return button
