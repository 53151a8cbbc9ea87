"""Small things that all panels use."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, Literal

from pydantic import BaseModel
from qtpy.QtCore import QEvent, QObject, QPoint, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QGuiApplication
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QRadioButton,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.session import ErrorInfo, JobProgress, Planes, Session, Where
from napari_sa2net.config import InstanceConfig
from napari_sa2net.data.axes import axis_noun
from napari_sa2net.models.registry import ModelEntry
from napari_sa2net.widgets.number_field import NumberField
from napari_sa2net.widgets.theme import pin_icon


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


# --------------------------------------------------------------------------------------------
# What part of the image is segmented, and whether its planes belong together.


class RegionRow(QWidget):
    """Whole image or view; for stacks, all planes or the one that is shown.

    Signals
    -------
    valueChanged
        Ask :meth:`where` and :meth:`planes`.
    linkChanged
        Whether cells are linked across Z, see ``link``.
    """

    valueChanged = Signal()
    linkChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.whole = QRadioButton("whole image")
        self.whole.setToolTip("Segment the image from edge to edge")
        self.view = QRadioButton("view")
        self.view.setToolTip("Segment only what the canvas shows now: quick for trials")
        self.all = QRadioButton()
        self.plane = QRadioButton("this one")
        self.link = QCheckBox("link cells across Z")
        self.link.setToolTip(tip_of(InstanceConfig, "link_planes"))
        self._in_depth = False
        self._wheres = QButtonGroup(self)
        self._planes = QButtonGroup(self)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(4)
        for row, (group, buttons) in enumerate(
            ((self._wheres, (self.whole, self.view)), (self._planes, (self.all, self.plane)))
        ):
            for column, button in enumerate(buttons):
                group.addButton(button)
                grid.addWidget(button, row, column)
        grid.addWidget(self.link, 2, 0, 1, 3)
        grid.setColumnStretch(2, 1)
        self.whole.setChecked(True)
        self.all.setChecked(True)
        self._wheres.buttonClicked.connect(self._clicked)
        self._planes.buttonClicked.connect(self._clicked)
        self.link.clicked.connect(lambda _: self.linkChanged.emit())
        self.set_stack()

    def where(self) -> Where:
        """``whole`` or ``view``."""
        return "view" if self.view.isChecked() else "whole"

    def planes(self) -> Planes:
        """``all`` or ``current``."""
        return "current" if self.plane.isChecked() else "all"

    def setValue(self, where: Where, planes: Literal["all", "current"]) -> None:
        """Show a choice; says nothing (only clicks do)."""
        (self.view if where == "view" else self.whole).setChecked(True)
        (self.plane if planes == "current" else self.all).setChecked(True)
        self._show_link()

    def set_stack(self, axes: str = "", shape: tuple[int, ...] = ()) -> None:
        """Ask only for what makes a difference: along axes with several elements."""
        several = "".join(axis for axis, n in zip(axes, shape, strict=True) if n > 1)
        self.all.setText(f"all {axis_noun(several, 2)}")
        self.all.setToolTip(f"Segment every {axis_noun(several, 1)} of the stack")
        self.plane.setToolTip(f"Segment only the {axis_noun(several, 1)} that is shown now")
        self.all.setVisible(bool(several))
        self.plane.setVisible(bool(several))
        self._in_depth = "Z" in several
        self._show_link()

    def _show_link(self) -> None:
        # a single plane has nothing to be linked to
        self.link.setVisible(self._in_depth and self.planes() == "all")

    def _clicked(self) -> None:
        self._show_link()
        self.valueChanged.emit()


# --------------------------------------------------------------------------------------------
# How large the cells are: a number, or a line dragged across one.

TIP = (
    "Typical diameter of a cell in pixels of the image. The image is resized so that cells "
    "look as large as those the model learned from. auto: estimated from the image"
)
#: Smallest size that is not automatic (px).
LEAST = 1.0
UNSURE = "Many doubtful cells: measure one with “measure…” and segment again."
MEASURE_TIP = "Drag a line across one cell in the image to measure its diameter"


class SizeRow(QWidget):
    """Object size in pixels, or automatic.

    Signals
    -------
    valueChanged : object
        Diameter in px, or None for automatic.
    measureToggled : bool
        The measuring tool is wanted, or no longer.
    """

    valueChanged = Signal(object)
    measureToggled = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pixel_size: float | None = None
        self._estimate: float | None = None
        self._unsure = False
        self.spin = NumberField()
        self.spin.setRange(0, 10000)
        self.spin.setDecimals(1)
        self.spin.setSuffix(" px")
        self.spin.setSpecialValueText("auto")
        self.spin.set_lengths(None)
        self.spin.setToolTip(TIP)
        self.auto = link_button("auto", "Let the size be estimated from the image again")
        self.measure = link_button("measure…", MEASURE_TIP)
        self.measure.setCheckable(True)
        #: for the page to place under the row
        self.note = muted()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.spin, 1)
        layout.addWidget(self.auto)
        layout.addWidget(self.measure)
        self.auto.clicked.connect(lambda: self.spin.setValue(0))
        self.spin.problemChanged.connect(self._update_note)
        self.spin.valueChanged.connect(self._changed)
        self.measure.clicked.connect(self.measureToggled)
        self._update_note()

    def value(self) -> float | None:
        """Diameter in px; None for automatic."""
        value = self.spin.value()
        return value if value > 0 else None

    def setValue(self, value: float | None) -> None:
        """Show a diameter; says nothing."""
        self.spin.blockSignals(True)
        self.spin.setValue(value or 0)
        self.spin.blockSignals(False)
        self.spin.problem = ""
        self._update_note()

    def set_pixel_size(self, pixel_size_um: float | None) -> None:
        """Micrometres per pixel, for the note beside the number and for what is typed."""
        self._pixel_size = pixel_size_um
        self.spin.set_lengths(pixel_size_um)
        self._update_note()

    def set_estimate(self, diameter: float | None, *, unsure: bool = False) -> None:
        """What the last run took for the size (px); unsure: it may well be wrong."""
        self._estimate = diameter
        self._unsure = unsure
        self._update_note()

    def set_measuring(self, measuring: bool) -> None:
        """Show whether the line tool is active; says nothing."""
        self.measure.setChecked(measuring)
        self.measure.setText("cancel" if measuring else "measure…")

    def _changed(self) -> None:
        if 0 < self.spin.value() < LEAST:
            self.spin.setValue(LEAST)  # comes back here
            return
        self.spin.problem = ""
        self._update_note()
        self.valueChanged.emit(self.value())

    def _update_note(self, _: str = "") -> None:
        value, size = self.value(), self._pixel_size
        if self.spin.problem:
            text = self.spin.problem
        elif value is not None:
            text = f"{value * size:.3g} µm" if size else ""
        elif self._estimate is not None:
            text = f"last run: {self._estimate:.3g} px"
            text += f" = {self._estimate * size:.3g} µm" if size else ""
            text += f". {UNSURE}" if self._unsure else ""
        else:
            text = ""
        unsure = value is None and self._estimate is not None and self._unsure
        self.note.setProperty("role", "warning" if unsure or self.spin.problem else "muted")
        repolish(self.note)
        self.auto.setVisible(value is not None)
        self.note.setText(keep_together(text))
        self.note.setVisible(bool(text))


# --------------------------------------------------------------------------------------------
# Which model, and its card behind an info button.


def card_html(entry: ModelEntry) -> str:
    """The card of a model in words, as rich text."""
    # with it come corrections and files, which opening the dock does not need
    from napari_sa2net.app.models import short_rows

    text = f"<h3 style='margin:0'>{escape(entry.name)}</h3>"
    if entry.card.description:
        text += f"<p style='margin:4px 0'>{escape(entry.card.description)}</p>"
    return text + rows_html((escape(name), escape(value)) for name, value in short_rows(entry))


def rows_html(rows: Iterable[tuple[str, str]]) -> str:
    """Titles and values, both rich text, as a table."""
    left, right = "padding:3px 12px 3px 0", "padding:3px 0"
    table = "".join(
        f"<tr><td style='{left}'>{name}</td><td style='{right}'>{value}</td></tr>"
        for name, value in rows
    )
    return f"<table cellspacing='0'>{table}</table>"


class CardPopup(QFrame):
    """The card beside its button; a click elsewhere closes it."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setProperty("role", "card")
        self.label = QLabel()
        self.label.setTextFormat(Qt.TextFormat.RichText)
        self.label.setWordWrap(True)
        self.label.setFixedWidth(320)
        self.label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 10)
        layout.addWidget(self.label)

    def show_card(self, entry: ModelEntry, under: QWidget) -> None:
        """Show a model's card under a widget, right edges aligned."""
        self.label.setText(card_html(entry))
        self.adjustSize()
        corner = under.mapToGlobal(QPoint(under.width(), under.height() + 4))
        self.move(corner - QPoint(self.width(), 0))
        self.show()


class ModelRow(QWidget):
    """List of models and the info button.

    Signals
    -------
    valueChanged : str
        Name of the model that was picked.
    """

    valueChanged = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._entries: dict[str, ModelEntry] = {}
        self.combo = QComboBox()
        self.combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.combo.setMinimumContentsLength(6)
        self.combo.setToolTip("The trained network that finds the cells")
        self.info = QToolButton()
        self.info.setText("i")
        self.info.setProperty("role", "info")
        self.info.setToolTip("What this model was trained on, its scores, object size, licence")
        self.info.setAccessibleName("About this model")
        self.info.setEnabled(False)
        self.popup = CardPopup(self)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.combo, 1)
        layout.addWidget(self.info)
        self.combo.activated.connect(self._activated)
        self.info.clicked.connect(self.show_card)

    def set_models(self, entries: tuple[ModelEntry, ...], current: str) -> None:
        """Offer models; says nothing."""
        self._entries = {entry.name: entry for entry in entries}
        self.combo.blockSignals(True)
        self.combo.clear()
        for name in self._entries:
            self.combo.addItem(name, name)
        self.combo.blockSignals(False)
        self.setValue(current)

    def value(self) -> str | None:
        """Name of the shown model."""
        return self.combo.currentData()

    def setValue(self, name: str) -> None:
        """Show a model by name; says nothing."""
        self.combo.blockSignals(True)
        self.combo.setCurrentIndex(self.combo.findData(name))
        self.combo.blockSignals(False)
        self.info.setEnabled(self.entry() is not None)

    def entry(self) -> ModelEntry | None:
        """The shown model with its card."""
        return self._entries.get(self.value() or "")

    def show_card(self) -> None:
        """Open the card of the shown model."""
        entry = self.entry()
        if entry is not None:
            self.popup.show_card(entry, self)

    def _activated(self, index: int) -> None:
        self.info.setEnabled(True)
        self.valueChanged.emit(self.combo.itemData(index))


# --------------------------------------------------------------------------------------------
# Which image, what its axes are, which channels go in.

FOLLOWS = "Follows the image that is selected in the layer list. Click to stay with this one."
PINNED = "Stays with this image. Click to follow the selection in the layer list again."

AXES_TIP = (
    "What the axes before height and width are: planes in depth, time points or channels, the "
    "outermost first"
)


SPLIT = "split into channels"


class ImageRow(QWidget):
    """List of image layers, and a pin: pressed, the page stays with the chosen image.

    Signals
    -------
    chosen : str
        Key of the layer that was picked from the list.
    pinToggled : bool
    """

    chosen = Signal(str)
    pinToggled = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._color = QColor("gray")
        self.combo = QComboBox()
        self.combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.combo.setMinimumContentsLength(8)
        self.combo.setToolTip("The image layer to segment. Picking one here pins it.")
        self.pin = QToolButton()
        self.pin.setCheckable(True)
        self.pin.setIconSize(QSize(18, 18))
        self.pin.setAccessibleName("Stay with this image")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.combo, 1)
        layout.addWidget(self.pin)
        self.combo.activated.connect(self._activated)
        self.pin.clicked.connect(self.pinToggled)
        self.set_pinned(False)

    def set_choices(self, choices: list[tuple[str, str]], current: str | None) -> None:
        """Show the layers (key, name); says nothing."""
        self.combo.blockSignals(True)
        self.combo.clear()
        for key, name in choices:
            self.combo.addItem(name, key)
        self.combo.setCurrentIndex(self.combo.findData(current))
        self.combo.blockSignals(False)

    def set_pinned(self, pinned: bool) -> None:
        """Show whether the page stays with this image; says nothing."""
        self.pin.setChecked(pinned)
        self.pin.setIcon(pin_icon(self._color, filled=pinned))
        self.pin.setToolTip(PINNED if pinned else FOLLOWS)

    def set_color(self, color: QColor) -> None:
        """Colour of the pin, from the theme."""
        self._color = color
        self.set_pinned(self.pin.isChecked())

    def value(self) -> str | None:
        """Key of the shown layer."""
        return self.combo.currentData()

    def _activated(self, index: int) -> None:
        self.chosen.emit(self.combo.itemData(index))


class ChannelButton(QToolButton):
    """A menu of channels with a tick each; at least one stays ticked.

    Signals
    -------
    valueChanged : tuple of int
    """

    valueChanged = Signal(tuple)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._menu = QMenu(self)
        self.setMenu(self._menu)
        self._names: list[str] = []
        self._value: tuple[int, ...] = ()

    def set_channels(self, names: list[str], chosen: tuple[int, ...]) -> None:
        """Offer channels by name; says nothing."""
        self._names = names
        self._menu.clear()
        for i, name in enumerate(names):
            action = self._menu.addAction(name)
            assert action is not None
            action.setCheckable(True)
            action.setChecked(i in chosen)
            action.triggered.connect(self._triggered)
        self._show(chosen)

    def value(self) -> tuple[int, ...]:
        """Numbers of the ticked channels, from 0."""
        return self._value

    def _triggered(self) -> None:
        actions = self._menu.actions()
        chosen = tuple(i for i, action in enumerate(actions) if action.isChecked())
        if not chosen:
            for i in self._value:
                actions[i].setChecked(True)
            return
        self._show(chosen)
        self.valueChanged.emit(chosen)

    def _show(self, chosen: tuple[int, ...]) -> None:
        self._value = chosen
        self.setText(", ".join(self._names[i] for i in chosen if i < len(self._names)) + "  ")


class ImageDetails(QObject):
    """The preview line; for stacks what their axes are; for several channels which go in.

    Parameters
    ----------
    form : Form
        Its rows go there.

    Signals
    -------
    axesChosen : str
    channelsChosen : tuple of int
    splitWanted : int
        An axis holds channels: make layers of them.
    """

    axesChosen = Signal(str)
    channelsChosen = Signal(tuple)
    splitWanted = Signal(int)

    def __init__(self, form: Form) -> None:
        super().__init__(form)
        self._form = form
        self.line = muted()
        self.line.setToolTip("Height × width in pixels, channels, and the size of a pixel")
        self.axes = QComboBox()
        self.axes.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.axes.setMinimumContentsLength(8)
        self.channels = ChannelButton()
        self.notice = muted()
        self.notice.setProperty("role", "warning")
        self.split = link_button(
            SPLIT, "Make a layer of every channel in the place of this one"
        )
        self._split_axis = 0
        form.add_wide(self.line)
        form.add_wide(self.notice)
        form.add_wide(self.split)
        self.split.clicked.connect(lambda: self.splitWanted.emit(self._split_axis))
        self.set_notice("", None)
        form.add("Stack of", self.axes, AXES_TIP)
        self.axes.currentIndexChanged.connect(self._show_tip)
        form.add(
            "Channels",
            self.channels,
            "Which channels the model looks at; several are averaged where it takes one",
        )
        self.axes.activated.connect(
            lambda index: self.axesChosen.emit(self.axes.itemData(index))
        )
        self.channels.valueChanged.connect(self.channelsChosen)
        self.set_axes([], "")
        self.set_channels([], ())

    def set_line(self, text: str) -> None:
        """Show the preview line."""
        self.line.setText(keep_together(text))

    def set_notice(self, text: str, axis: int | None) -> None:
        """Show what may be a misunderstanding, and offer to split along an axis."""
        self._split_axis = axis or 0
        self.notice.setText(keep_together(text))
        self.notice.setVisible(bool(text))
        self.split.setVisible(axis is not None)

    def set_axes(self, choices: list[tuple[str, str]], axes: str) -> None:
        """Offer spellings of the axes (spelling, words); hidden where there are none."""
        self.axes.blockSignals(True)
        self.axes.clear()
        for spelling, words in choices:
            self.axes.addItem(words, spelling)
        self.axes.setCurrentIndex(self.axes.findData(axes))
        self.axes.blockSignals(False)
        self._show_tip()
        self._form.set_row_visible(self.axes, bool(choices))

    def _show_tip(self, _: int = 0) -> None:
        # The list is narrower than what it says.
        words = self.axes.currentText()
        self.axes.setToolTip(f"{words}\n{AXES_TIP}" if words else AXES_TIP)

    def set_channels(self, names: list[str], chosen: tuple[int, ...]) -> None:
        """Offer channels; hidden where there is only one."""
        self.channels.set_channels(names, chosen)
        self._form.set_row_visible(self.channels, len(names) > 1)
