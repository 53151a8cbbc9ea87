"""Small things that all panels use."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.session import ErrorInfo, JobProgress, Session
from napari_sa2net.widgets.number_field import NumberField


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


# --------------------------------------------------------------------------------------------
# A slider with its number beside it.

STEPS = 1000


class ValueSlider(QWidget):
    """A slider and a number field for one value.

    Parameters
    ----------
    low, high : float
        Ends of the slider.
    decimals : int
        Of the number.
    slid_decimals : int, optional
        Of a number that is chosen with the slider; unsaid: as many as are shown.
    power : float
        Value = low + (high - low) * position ** power: above 1 the low end gets more room.

    Signals
    -------
    valueChanged : float
        By a person only.
    """

    valueChanged = Signal(float)

    def __init__(
        self,
        low: float,
        high: float,
        decimals: int = 2,
        power: float = 1.0,
        parent: QWidget | None = None,
        slid_decimals: int | None = None,
    ) -> None:
        super().__init__(parent)
        self._power = power
        self._slid_decimals = decimals if slid_decimals is None else slid_decimals
        self._low, self._high = low, high
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, STEPS)
        self.slider.setPageStep(STEPS // 10)
        self.slider.setSingleStep(STEPS // 100)
        self.spin = NumberField()
        self.spin.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
        self.spin.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.spin.setDecimals(decimals)
        self.spin.setRange(low, high)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.slider, 1)
        layout.addWidget(self.spin)
        self.slider.valueChanged.connect(self._slid)
        self.spin.valueChanged.connect(self._typed)

    def value(self) -> float:
        """The number that is shown."""
        return self.spin.value()

    def setValue(self, value: float) -> None:
        """Show a value; says nothing. Beyond the end, the number field still shows it."""
        if value > self.spin.maximum():
            self.spin.setMaximum(value)
        self._set(self.spin, value)
        self._set(self.slider, self._position(value))

    def set_range(self, low: float, high: float, decimals: int, suffix: str) -> None:
        """Change the ends and the unit; the value is set anew after it."""
        self._low, self._high = low, high
        self.spin.blockSignals(True)
        self._slid_decimals = decimals
        self.spin.setDecimals(decimals)
        self.spin.setRange(low, max(high, 1e6))
        self.spin.setSuffix(suffix)
        self.spin.blockSignals(False)

    def fit(self, text: str) -> None:
        """Make the number field as wide as a text, so that sliders in a column end alike."""
        self.spin.setFixedWidth(self.spin.fontMetrics().horizontalAdvance(text) + 28)

    def setToolTip(self, text: str | None) -> None:
        super().setToolTip(text)
        self.slider.setToolTip(text)
        self.spin.setToolTip(text)

    def _position(self, value: float) -> int:
        share = (value - self._low) / ((self._high - self._low) or 1)
        return round(STEPS * math.pow(min(max(share, 0.0), 1.0), 1 / self._power))

    def _set(self, widget: QSlider | NumberField, value: float) -> None:
        widget.blockSignals(True)
        widget.setValue(value)  # type: ignore[arg-type]
        widget.blockSignals(False)

    def _slid(self, position: int) -> None:
        value = self._low + (self._high - self._low) * (position / STEPS) ** self._power
        self._set(self.spin, round(value, self._slid_decimals))
        self.valueChanged.emit(self.spin.value())

    def _typed(self, value: float) -> None:
        self._set(self.slider, self._position(value))
        self.valueChanged.emit(value)


# --------------------------------------------------------------------------------------------
# An error in words, inside the page; details fold out and can be copied.


def guarded(session: Session, action: Callable[[], Any]) -> None:
    """Say on the page what went wrong with an action of napari's."""
    try:
        action()
    except Exception as error:
        session.error = ErrorInfo(type(error).__name__, str(error), traceback.format_exc())


class ErrorBox(QFrame):
    """Hidden until there is something to say.

    Signals
    -------
    dismissed, restartWanted
    """

    dismissed = Signal()
    restartWanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "error")
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.fold = fold_button("Details", "The technical text, for a bug report")
        self.copy = link_button("Copy", "Copy the message and its details")
        self.restart = link_button("Restart", "Start the background process again")
        self.dismiss = link_button("Dismiss", "Hide this message")
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setFixedHeight(140)
        self.details.setVisible(False)
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self.fold)
        row.addStretch(1)
        row.addWidget(self.restart)
        row.addWidget(self.copy)
        row.addWidget(self.dismiss)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 8, 8, 6)
        layout.setSpacing(4)
        layout.addWidget(self.message)
        layout.addLayout(row)
        layout.addWidget(self.details)
        self.fold.toggled.connect(self.details.setVisible)
        self.copy.clicked.connect(self._copy)
        self.dismiss.clicked.connect(self.dismissed)
        self.restart.clicked.connect(self.restartWanted)
        self.setVisible(False)

    def set_error(self, error: ErrorInfo | None, *, can_restart: bool = False) -> None:
        """Show an error, or hide the box."""
        self.setVisible(error is not None)
        if error is None:
            return
        self.message.setText(error.message)
        self.details.setPlainText(error.details)
        self.fold.setChecked(False)
        self.fold.setVisible(bool(error.details))
        self.restart.setVisible(can_restart)

    def _copy(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            text = f"{self.message.text()}\n\n{self.details.toPlainText()}"
            clipboard.setText(text.strip())


# --------------------------------------------------------------------------------------------
# One line of progress: what is going on, how far it is, and how long it will take.


class ProgressLine(QWidget):
    """A thin bar and a grey line; the bar is there only while something runs."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress")
        self.label = muted()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.bar)
        layout.addWidget(self.label)
        self._progress: JobProgress | None = None
        # the time that is left runs on between two parts
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._tick)
        self.set_progress(None, "")

    def set_progress(self, progress: JobProgress | None, idle: str) -> None:
        """Show progress; without it the words for an idle page."""
        self._progress = progress
        self.bar.setVisible(progress is not None)
        if progress is None:
            self._clock.stop()
            self.label.setText(idle)
            self.label.setVisible(bool(idle))
            return
        # a range of 0 to 0 is Qt's "busy" bar
        self.bar.setRange(0, progress.total if progress.total > 1 else 0)
        self.bar.setValue(progress.done)
        self._tick()
        self.label.setVisible(True)
        if progress.ends is None:
            self._clock.stop()
        else:
            self._clock.start()

    def _tick(self) -> None:
        progress = self._progress
        if progress is None:
            return
        text = str(progress)
        text = text[:1].upper() + text[1:]
        left = progress.seconds_left(time.monotonic())
        if left is not None:
            text += f" · {duration_words(left)} left"
        elif progress.total <= 1:
            text += "…"
        self.label.setText(text)


# --------------------------------------------------------------------------------------------
# What the page shows while no image is open: how to get one.


class EmptyState(QWidget):
    """Two buttons: open an image, or try a sample.

    Parameters
    ----------
    samples : list of (str, str)
        Key and words of each sample image.
    promise : str
        What the page does with an image.

    Signals
    -------
    openWanted
    sampleWanted : str
        Key of the sample.
    """

    openWanted = Signal()
    sampleWanted = Signal(str)

    def __init__(
        self,
        samples: list[tuple[str, str]],
        promise: str = "One click then finds and measures its cells.",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        title = QLabel("Open an image, or try a sample")
        title.setProperty("role", "title")
        title.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        title.setWordWrap(True)
        text = muted(promise)
        text.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.open = QPushButton("Open an image…")
        self.open.setProperty("role", "primary")
        self.open.setToolTip("Choose an image file; you can also drop one onto napari")
        self.sample = QPushButton("Try a sample")
        self.sample.setToolTip("Open an image that comes with the plugin")
        menu = QMenu(self.sample)
        for key, words in samples:
            action = menu.addAction(words)
            assert action is not None
            action.triggered.connect(lambda _=False, key=key: self.sampleWanted.emit(key))
        self.sample.setMenu(menu)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 24, 4, 24)
        layout.setSpacing(10)
        for widget in (title, text, self.open, self.sample):
            layout.addWidget(widget)
        self.open.clicked.connect(self.openWanted)
