"""The tools as buttons with icons and words, and one history for all of them."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor
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

from napari_sa2net.widgets.common import repolish
from napari_sa2net.widgets.correct.icons import tool_icon
from napari_sa2net.widgets.correct.tools import TOOLS, Tool

COLUMNS = 4


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
        self.hint_text = QLabel()
        self.hint_text.setWordWrap(True)
        inside = QVBoxLayout(self.hint)
        inside.setContentsMargins(10, 6, 8, 6)
        inside.addWidget(self.hint_text)
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.said.setProperty("role", "muted")
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
        self.hint.setVisible(tool is not None)
        if tool is not None:
            self.hint_text.setText(f"<b>{tool.words}.</b> {tool.hint} Esc ends.")

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
