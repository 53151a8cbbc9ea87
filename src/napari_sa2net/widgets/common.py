"""Small things that all panels use."""

from __future__ import annotations

import re

from pydantic import BaseModel
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QFrame,
    QGridLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QToolButton,
    QWidget,
)


def tip_of(model: type[BaseModel], field: str) -> str:
    """Help text of a settings field, as the form's tooltip."""
    info = model.model_fields[field]
    return info.description or info.title or field


def muted(text: str = "") -> QLabel:
    """A grey label that wraps."""
    label = QLabel(text)
    label.setProperty("role", "muted")
    label.setWordWrap(True)
    return label


def keep_together(text: str) -> str:
    """Let a line break neither after a number (``0.32 µm/px``) nor before a dot."""
    return re.sub(r"(?<=[\d×]) (?!·)| (?=[×·])", "\u00a0", text)


def link_button(text: str, tip: str) -> QPushButton:
    """A button that looks like a link."""
    button = QPushButton(text)
    button.setProperty("role", "link")
    button.setCursor(Qt.CursorShape.PointingHandCursor)
    button.setToolTip(tip)
    button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
    return button


def separator() -> QFrame:
    """A thin horizontal line."""
    line = QFrame()
    line.setProperty("role", "line")
    line.setFixedHeight(1)
    return line


def fold_button(text: str, tip: str) -> QToolButton:
    """A heading with an arrow that opens and closes what is under it."""
    button = QToolButton()
    button.setText(text)
    button.setToolTip(tip)
    button.setProperty("role", "fold")
    button.setCheckable(True)
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
    button.setArrowType(Qt.ArrowType.RightArrow)

    def turn(opened: bool) -> None:
        button.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)

    button.toggled.connect(turn)
    return button


def repolish(widget: QWidget) -> None:
    """Apply the style sheet again after a property that it looks at changed."""
    style = widget.style()
    if style is not None:
        style.unpolish(widget)
        style.polish(widget)


class Form(QWidget):
    """Rows of a label and a field, the fields aligned.

    Forms of one page align with each other through `align_forms`.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(6)
        grid.setColumnStretch(1, 1)
        self._grid = grid
        self._rows: dict[QWidget, QLabel] = {}

    def add(self, title: str, field: QWidget, tip: str, *, top: bool = False) -> None:
        """Add a row; the tooltip goes on the label and, where it has none, on the field.

        ``top``: the field has several lines, and the label stands beside the first.
        """
        row = self._grid.rowCount()
        label = QLabel(title)
        label.setToolTip(tip)
        label.setBuddy(field)
        if not field.toolTip():
            field.setToolTip(tip)
        if not field.accessibleName():
            field.setAccessibleName(title)
        align = Qt.AlignmentFlag.AlignTop if top else Qt.AlignmentFlag.AlignVCenter
        self._grid.addWidget(label, row, 0, align)
        self._grid.addWidget(field, row, 1)
        self._rows[field] = label

    def add_wide(self, field: QWidget) -> None:
        """Add a field without a label in the fields' column."""
        self._grid.addWidget(field, self._grid.rowCount(), 1)

    def rename(self, field: QWidget, title: str, tip: str) -> None:
        """Give a row another title and tooltip."""
        label = self._rows[field]
        label.setText(title)
        field.setAccessibleName(title)
        for part in (label, field):
            part.setToolTip(tip)

    def set_row_visible(self, field: QWidget, visible: bool) -> None:
        """Show or hide a field with its label."""
        field.setVisible(visible)
        self._rows[field].setVisible(visible)

    def label_width(self) -> int:
        """Width that the longest label needs, in pixels."""
        return max((label.sizeHint().width() for label in self._rows.values()), default=0)

    def set_label_width(self, width: int) -> None:
        """Width of the labels' column, in pixels."""
        self._grid.setColumnMinimumWidth(0, width)


def align_forms(root: QWidget) -> None:
    """Give all forms inside ``root`` one width of labels; again after a change of font."""
    forms = root.findChildren(Form)
    width = max((form.label_width() for form in forms), default=0)
    for form in forms:
        form.set_label_width(width)


class WheelGuard(QObject):
    """Keep the mouse wheel for scrolling: a control takes it only while it has the focus."""

    def guard(self, root: QWidget) -> None:
        """Watch every slider, number field and list inside ``root``."""
        for kind in (QSlider, QAbstractSpinBox, QComboBox):
            for widget in root.findChildren(kind):
                widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if (
            event is not None
            and event.type() == QEvent.Type.Wheel
            and isinstance(watched, QWidget)
            and not watched.hasFocus()
        ):
            event.ignore()
            return True
        return super().eventFilter(watched, event)


def duration_words(seconds: float) -> str:
    """``about 5 seconds``, ``about 3 minutes``."""
    if seconds < 1.5:
        return "about a second"
    if seconds < 10:
        return f"about {round(seconds)} seconds"
    if seconds < 55:
        return f"about {5 * round(seconds / 5)} seconds"
    if seconds < 90:
        return "about a minute"
    if seconds < 3300:
        return f"about {round(seconds / 60)} minutes"
    if seconds < 5400:
        return "about an hour"
    return f"about {round(seconds / 3600)} hours"


def range_words(low: float, high: float) -> str:
    """``about 2 to 15 seconds``; one figure where both are about the same."""
    first, last = duration_words(low), duration_words(high)
    if first == last:
        return first
    number, unit = first.removeprefix("about ").split()
    if number.isdecimal() and last.endswith(unit):
        first = f"about {number}"
    return f"{first} to {last.removeprefix('about ')}"
