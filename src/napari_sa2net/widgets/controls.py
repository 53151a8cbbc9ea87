"""Small things that all panels use."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from pydantic import BaseModel
from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QGuiApplication, QKeyEvent, QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QBoxLayout,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_sa2net.app.session import ErrorInfo, JobProgress, Session
from napari_sa2net.models.registry import MAX_NAME
from napari_sa2net.widgets.number_field import NumberField


def tip_of(model: type[BaseModel], field: str) -> str:
    """Help text of a settings field, as the form's tooltip."""
    info = model.model_fields[field]
    return info.description or info.title or field


# --------------------------------------------------------------------------------------------
# Widgets and layouts as the pages have them, each in a line.

#: what a layout takes: None is room that stretches, a number is how much a part stretches
Part = QWidget | QLayout | tuple[QWidget | QLayout, int] | None
Margins = tuple[int, int, int, int]
#: around all that is on a page
PAGE_MARGINS: Margins = (10, 10, 8, 10)


def vbox(
    *parts: Part,
    on: QWidget | None = None,
    spacing: int = 6,
    margins: Margins = (0, 0, 0, 0),
) -> QVBoxLayout:
    """Parts one below the other, on a widget or for another layout."""
    layout = QVBoxLayout() if on is None else QVBoxLayout(on)
    _fill(layout, parts, spacing, margins)
    return layout


def hbox(*parts: Part, on: QWidget | None = None, spacing: int = 6) -> QHBoxLayout:
    """Parts side by side, on a widget or for another layout."""
    layout = QHBoxLayout() if on is None else QHBoxLayout(on)
    _fill(layout, parts, spacing)
    return layout


def _fill(
    layout: QBoxLayout, parts: tuple[Part, ...], spacing: int, margins: Margins = (0, 0, 0, 0)
) -> None:
    layout.setContentsMargins(*margins)
    layout.setSpacing(spacing)
    for part in parts:
        what, stretch = part if isinstance(part, tuple) else (part, 0)
        if what is None:
            layout.addStretch(1)
        elif isinstance(what, QLayout):
            layout.addLayout(what, stretch)
        else:
            layout.addWidget(what, stretch)


def text_label(text: str = "", *, role: str = "", tip: str = "", wrap: bool = True) -> QLabel:
    """A label; `role` is what the style sheet knows it by."""
    label = QLabel(text)
    label.setProperty("role", role)
    label.setWordWrap(wrap)
    label.setToolTip(tip)
    return label


def muted(text: str = "") -> QLabel:
    """A grey label that wraps."""
    return text_label(text, role="muted")


class LineLabel(QLabel):
    """One line, which ends in "…" where there is no room for all of it."""

    def __init__(self, role: str = "") -> None:
        super().__init__()
        self.setProperty("role", role)

    def shown(self) -> str:
        """As much of the text as there is room for."""
        right, width = Qt.TextElideMode.ElideRight, self.contentsRect().width()
        return self.fontMetrics().elidedText(self.text(), right, width)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the text as the style sheet says."""
        painter, style = QPainter(self), self.style()
        assert style is not None
        place, role = self.contentsRect(), self.foregroundRole()
        align = int(self.alignment() | Qt.TextFlag.TextSingleLine)
        style.drawItemText(
            *(painter, place, align, self.palette(), self.isEnabled(), self.shown(), role)
        )


def show_text(label: QLabel, text: str) -> None:
    """Show a text, or hide the label where there is none."""
    label.setText(text)
    label.setVisible(bool(text))


def push_button(text: str = "", tip: str = "", role: str = "plain") -> QPushButton:
    """A button; `role` is what the style sheet knows it by."""
    button = QPushButton(text)
    button.setProperty("role", role)
    button.setToolTip(tip)
    return button


def check_box(text: str, tip: str, checked: bool = False) -> QCheckBox:
    """A box to tick."""
    box = QCheckBox(text)
    box.setToolTip(tip)
    box.setChecked(checked)
    return box


def narrow_combo(letters: int) -> QComboBox:
    """A list that may become as narrow as so many letters."""
    combo = QComboBox()
    make_narrow(combo, letters)
    return combo


def make_narrow(combo: QComboBox, letters: int) -> None:
    """Let a list become as narrow as so many letters."""
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(letters)


def offer(combo: QComboBox, choices: Iterable[tuple[Any, str]], current: Any) -> None:
    """Offer values in words, one of them chosen; says nothing."""
    with signals_blocked(combo):
        combo.clear()
        for value, words in choices:
            combo.addItem(words, value)
        combo.setCurrentIndex(combo.findData(current))


def keep_together(text: str) -> str:
    """Let a line break neither after a number (``0.32 µm/px``) nor before a dot."""
    return re.sub(r"(?<=[\d×]) (?!·)| (?=[×·])", "\u00a0", text)


def link_button(text: str, tip: str) -> QPushButton:
    """A button that looks like a link."""
    button = push_button(text, tip, "link")
    button.setCursor(Qt.CursorShape.PointingHandCursor)
    button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
    return button


def separator() -> QFrame:
    """A thin horizontal line."""
    line = QFrame()
    line.setProperty("role", "line")
    line.setFixedHeight(1)
    return line


def fold_button(text: str, tip: str, body: QWidget) -> QToolButton:
    """A heading with an arrow that opens and closes what is under it; closed at first."""
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
    button.toggled.connect(body.setVisible)
    body.setVisible(False)
    return button


class NameRow(QWidget):
    """A field for the name of a model, with what accepts it; hidden until it is asked.

    Parameters
    ----------
    accept, tip : str
        Word and tooltip of the button that takes the name.
    cancel_tip : str

    Signals
    -------
    accepted : str
    """

    accepted = Signal(str)

    def __init__(self, accept: str, tip: str, cancel_tip: str) -> None:
        super().__init__()
        self.field = QLineEdit()
        self.field.setMaxLength(MAX_NAME)
        self.field.setAccessibleName("New name")
        self.field.setToolTip(
            f"1 to {MAX_NAME} letters, digits, spaces, dots, dashes or underscores"
        )
        self.ok = push_button(accept, f"{tip} (Enter)")
        self.cancel = link_button("Cancel", f"{cancel_tip} (Esc)")
        hbox((self.field, 1), self.ok, self.cancel, on=self)
        self.field.returnPressed.connect(self._accept)
        self.ok.clicked.connect(self._accept)
        self.cancel.clicked.connect(self.hide)
        self.field.textChanged.connect(lambda text: self.ok.setEnabled(bool(text.strip())))
        self.setVisible(False)

    def ask(self, name: str) -> None:
        """Show the field with a name."""
        self.field.setText(name)
        self.field.selectAll()
        self.setVisible(True)
        self.field.setFocus()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Take the keys that mean something here."""
        if event is not None and event.key() == Qt.Key.Key_Escape:
            self.hide()
            return
        super().keyPressEvent(event)

    def _accept(self) -> None:
        name = self.field.text().strip()
        if name:
            self.accepted.emit(name)


class FolderRow(QWidget):
    """The name of a folder, and what chooses another.

    Signals
    -------
    chosen : Path
    """

    chosen = Signal(object)

    def __init__(self, tip: str) -> None:
        super().__init__()
        self._folder = Path()
        self.name = text_label(role="muted", wrap=False)
        # However long its name, the dock stays as narrow as it is; the tooltip has all of it.
        self.name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.name.setMinimumWidth(60)
        self.change = link_button("change…", tip)
        hbox((self.name, 1), self.change, on=self)
        self.change.clicked.connect(self._choose)

    def set_folder(self, folder: Path, words: str = "") -> None:
        """Show a folder by its name, or by words."""
        self._folder = folder
        self.name.setText(words or folder.name)
        self.name.setToolTip(str(folder))

    def text(self) -> str:
        """What is shown."""
        return self.name.text()

    def _choose(self) -> None:
        start = self._folder if self._folder.is_dir() else self._folder.parent
        chosen = QFileDialog.getExistingDirectory(
            self, "Folder of the training set", str(start)
        )
        if chosen:
            self.chosen.emit(Path(chosen))


class LeftoverBox(QFrame):
    """Something that was left undone, with what can be done with it; hidden without.

    Parameters
    ----------
    acts : buttons
        That go on with it.
    discard, sure : buttons
        The first asks, the second lets it go for good.
    """

    def __init__(
        self,
        acts: tuple[QPushButton, ...],
        discard: QPushButton,
        sure: QPushButton,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setProperty("role", "hint")
        self.words = text_label()
        self.discard, self.sure = discard, sure
        row = hbox(*acts, discard, sure, None, spacing=10)
        vbox(self.words, row, on=self, spacing=4, margins=(10, 6, 8, 6))
        discard.clicked.connect(lambda: self._ask(True))
        self.set_words("")

    def set_words(self, words: str) -> None:
        """Say what it is; nothing is asked yet."""
        self.setVisible(bool(words))
        self.words.setText(words)
        self._ask(False)

    def _ask(self, sure: bool) -> None:
        self.sure.setVisible(sure)
        self.discard.setVisible(not sure)


Found = TypeVar("Found", bound=QWidget)


def around(widget: QWidget, kind: type[Found]) -> Found | None:
    """The nearest widget of that kind that this one lies in."""
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, kind):
        parent = parent.parentWidget()
    return parent


def timer(
    owner: QObject, milliseconds: int, call: Callable[[], Any], *, once: bool = False
) -> QTimer:
    """A timer that is started later; ``once``: it calls when it has not been started anew."""
    made = QTimer(owner)
    made.setSingleShot(once)
    made.setInterval(milliseconds)
    made.timeout.connect(call)
    return made


@cache
def loading_pyqtgraph() -> Thread:
    """The thread that loads what plots are drawn with; the first who asks starts it."""
    loader = Thread(target=import_module, args=("pyqtgraph",), daemon=True)
    loader.start()
    return loader


def paint_plot(plot: Any, text: QColor, background: QColor) -> None:
    """Give the axes and the ground of a plot their colours."""
    plot.setBackground(background)
    for side in ("left", "bottom"):
        axis = plot.getAxis(side)
        axis.setPen(text)
        axis.setTextPen(text)


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

    def __init__(self) -> None:
        super().__init__()
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
        label = text_label(title, tip=tip, wrap=False)
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
        """Look at the events of what is watched."""
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
        slid_decimals: int | None = None,
    ) -> None:
        super().__init__()
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
        hbox((self.slider, 1), self.spin, on=self)
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
        self._slid_decimals = decimals
        with signals_blocked(self.spin):
            self.spin.setDecimals(decimals)
            self.spin.setRange(low, max(high, 1e6))
            self.spin.setSuffix(suffix)

    def fit(self, text: str) -> None:
        """Make the number field as wide as a text, so that sliders in a column end alike."""
        self.spin.setFixedWidth(self.spin.fontMetrics().horizontalAdvance(text) + 28)

    def setToolTip(self, text: str | None) -> None:
        """Give all of its parts the tooltip."""
        super().setToolTip(text)
        self.slider.setToolTip(text)
        self.spin.setToolTip(text)

    def _position(self, value: float) -> int:
        share = (value - self._low) / ((self._high - self._low) or 1)
        return round(STEPS * math.pow(min(max(share, 0.0), 1.0), 1 / self._power))

    def _set(self, widget: QSlider | NumberField, value: float) -> None:
        with signals_blocked(widget):
            widget.setValue(value)  # type: ignore[arg-type]

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
        self.message = text_label()
        self.copy = link_button("Copy", "Copy the message and its details")
        self.restart = link_button("Restart", "Start the background process again")
        self.dismiss = link_button("Dismiss", "Hide this message")
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setFixedHeight(140)
        self.fold = fold_button("Details", "The technical text, for a bug report", self.details)
        row = hbox(self.fold, None, self.restart, self.copy, self.dismiss, spacing=4)
        vbox(self.message, row, self.details, on=self, spacing=4, margins=(10, 8, 8, 6))
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

    def __init__(self) -> None:
        super().__init__()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress")
        self.label = muted()
        vbox(self.bar, self.label, on=self, spacing=4)
        self._progress: JobProgress | None = None
        # the time that is left runs on between two parts
        self._clock = timer(self, 1000, self._tick)
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
