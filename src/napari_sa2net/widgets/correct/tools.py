"""The tools of the Correct page: name, key, what to do with the mouse."""

from __future__ import annotations

from dataclasses import dataclass

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QFrame, QGridLayout, QLabel, QSizePolicy, QToolButton, QWidget

from napari_sa2net.widgets.controls import hbox, muted, push_button, repolish, show_text, vbox
from napari_sa2net.widgets.napari_port.drawing import Shape
from napari_sa2net.widgets.napari_port.keys import spelled
from napari_sa2net.widgets.theme import icon


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
        "click", "Click a cell", "C", "Make a cell of what you click, or cut one where two are",
        "Click a cell that was missed or is too small, or one of two that are one. Drag a box "
        "to bound it; Alt-click takes a cell away.", "box", True,
    ),
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

#: keys of the page beside those of the tools, by their name in napari's preferences
OTHER_KEYS: dict[str, tuple[str, str]] = {
    "next": ("N", "next doubtful cell"),
    "previous": ("Shift-N", "the one before"),
    "accept": ("A", "accept, and next"),
    "no_cell": ("Shift-D", "wrong: take it away, and next"),
    "accept_view": ("Shift-A", "accept all cells in view"),
    "carry": ("J", "carry the last correction to neighbouring planes"),
    "keep": ("K", "keep these corrections"),
}
#: what a person may give other keys, with the usual ones
USUAL_KEYS: dict[str, str] = {
    **{tool.name: tool.key for tool in TOOLS if not tool.mode},
    **{name: key for name, (key, _) in OTHER_KEYS.items()},
}
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
# The tools as buttons with icons and words, and one history for all of them.

COLUMNS = 4
IDLE = "Take up a tool, or click a cell to look at it."


class ToolStrip(QWidget):
    """Buttons, of which at most one is pressed; a hint on what to do with the mouse.

    Signals
    -------
    toolChosen : str
        A person has taken up a tool, or laid it down (empty).
    """

    toolChosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.buttons = {tool.name: _button(tool) for tool in TOOLS}
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        first, *others = self.buttons.values()
        first.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        grid.addWidget(first, 0, 0, 1, COLUMNS)
        for i, button in enumerate(others):
            grid.addWidget(button, 1 + i // COLUMNS, i % COLUMNS)
        for name, button in self.buttons.items():
            button.clicked.connect(
                lambda checked, name=name: self.toolChosen.emit(name if checked else "")
            )
        for column in range(COLUMNS):
            grid.setColumnStretch(column, 1)
        self.undo = push_button("↶ Undo")
        self.redo = push_button("↷ Redo")
        history = hbox((self.undo, 1), (self.redo, 1), spacing=4)
        self.hint = QFrame()
        self.hint.setProperty("role", "hint")
        self.hint_text = _Hint(self.hint)
        vbox(self.hint_text, on=self.hint, margins=(10, 6, 8, 6))
        self.said = muted()
        policy = self.said.sizePolicy()
        # what lies below stays where it is
        policy.setRetainSizeWhenHidden(True)
        self.said.setSizePolicy(policy)
        vbox(grid, self.hint, history, self.said, on=self)
        self._tool: Tool | None = None
        self._learned = 0
        self.set_tool(None)
        self.set_history("", "")
        self.set_said("", True)

    def set_tool(self, tool: Tool | None) -> None:
        """Show which tool is taken up; says nothing."""
        for name, button in self.buttons.items():
            button.setChecked(tool is not None and name == tool.name)
        self._tool = tool
        self._show_hint()

    def set_learned(self, cells: int) -> None:
        """From so many cells of the plane clicks have learned."""
        self._learned = cells
        self._show_hint()

    def _show_hint(self) -> None:
        tool = self._tool
        self.hint_text.setText(IDLE if tool is None else _hint(tool, self._learned))

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
        show_text(self.said, words)
        role = "muted" if ok else "warning"
        if self.said.property("role") != role:
            self.said.setProperty("role", role)
            repolish(self.said)

    def set_color(self, color: QColor) -> None:
        """Colour of the icons, from the theme."""
        for name, button in self.buttons.items():
            button.setIcon(icon(name, color))


class _Hint(QLabel):
    """As high as the longest hint needs at all times: what lies below stays where it is."""

    def __init__(self, frame: QFrame) -> None:
        super().__init__()
        self.setWordWrap(True)
        self._ruler = QLabel(frame)  # in the frame, whose style it shares
        self._ruler.setWordWrap(True)
        self._ruler.hide()
        self._heights: dict[tuple[int, str], int] = {}

    def heightForWidth(self, width: int) -> int:
        # asked again and again by a layout, and slow to tell
        key = width, self._ruler.font().key()
        if key not in self._heights:
            heights = []
            for words in (IDLE, *(_hint(tool) for tool in TOOLS)):
                self._ruler.setText(words)
                heights.append(self._ruler.heightForWidth(width))
            self._heights[key] = max(heights)
        return self._heights[key]


def _hint(tool: Tool, learned: int = 0) -> str:
    words = f"<b>{tool.words}.</b> {tool.hint} "
    if tool.name == "click":
        # no longer than what stands there before: the height is made for that
        words += (
            f"Clicks know {learned} of your cells by now. "
            if learned
            else "Clicks learn from the cells that you correct. "
        )
    return words + "Esc ends."


def _button(tool: Tool) -> QToolButton:
    button = QToolButton()
    button.setProperty("role", "tool")
    button.setText(tool.words)
    button.setToolTip(f"{tool.tip} ({spelled(tool.key)})")
    button.setAccessibleName(tool.words)
    button.setAccessibleDescription(tool.tip)
    button.setCheckable(True)
    button.setIconSize(QSize(22, 22))
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
    button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return button
