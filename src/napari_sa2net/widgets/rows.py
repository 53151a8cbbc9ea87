"""Rows of the pages: which part of the image, how large the cells, which model, which image."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from html import escape
from typing import Literal

from qtpy.QtCore import QObject, QPoint, QSize, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QButtonGroup, QFrame, QMenu, QRadioButton, QToolButton, QWidget
from superqt.utils import signals_blocked

from napari_sa2net.app.session import ImageSource, Planes, Where, source_plan
from napari_sa2net.config import InstanceConfig
from napari_sa2net.data.axes import axis_noun
from napari_sa2net.errors import SA2NetError
from napari_sa2net.models.registry import ModelEntry
from napari_sa2net.widgets.controls import (
    Form,
    check_box,
    hbox,
    keep_together,
    link_button,
    muted,
    narrow_combo,
    offer,
    repolish,
    show_text,
    text_label,
    tip_of,
    vbox,
)
from napari_sa2net.widgets.number_field import NumberField
from napari_sa2net.widgets.theme import icon

# --------------------------------------------------------------------------------------------
# What part of the image is segmented, and whether its planes belong together.


AREA_TIP = (
    "Segment only the rectangle around what is drawn on a layer of shapes (of several shapes "
    "the selected ones). Where nothing is drawn yet, you can drag a rectangle now"
)


class RegionRow(QWidget):
    """Whole image, view or a drawn area; for stacks, all planes or the one that is shown.

    Signals
    -------
    valueChanged
        Ask :meth:`where` and :meth:`planes`.
    linkChanged
        Whether cells are linked across Z, see ``link``.
    """

    valueChanged = Signal()
    linkChanged = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.whole = QRadioButton("whole")
        self.whole.setToolTip("Segment the whole image, from edge to edge")
        self.view = QRadioButton("view")
        self.view.setToolTip("Segment only what the canvas shows now: quick for trials")
        self.area = QRadioButton("area")
        self.area.setToolTip(AREA_TIP)
        self.all = QRadioButton()
        self.plane = QRadioButton("this one")
        self.link = check_box("link cells across Z", tip_of(InstanceConfig, "link_planes"))
        self._in_depth = False
        self._wheres = QButtonGroup(self)
        self._planes = QButtonGroup(self)
        rows = ((self.whole, self.view, self.area), (self.all, self.plane))
        for group, buttons in zip((self._wheres, self._planes), rows, strict=True):
            for button in buttons:
                group.addButton(button)
        vbox(*(hbox(*buttons, None) for buttons in rows), self.link, on=self, spacing=4)
        self.whole.setChecked(True)
        self.all.setChecked(True)
        self._wheres.buttonClicked.connect(self._clicked)
        self._planes.buttonClicked.connect(self._clicked)
        self.link.clicked.connect(lambda _: self.linkChanged.emit())
        self.set_stack()

    def where(self) -> Where:
        """``whole``, ``view`` or ``area``."""
        if self.area.isChecked():
            return "area"
        return "view" if self.view.isChecked() else "whole"

    def planes(self) -> Planes:
        """``all`` or ``current``."""
        return "current" if self.plane.isChecked() else "all"

    def setValue(self, where: Where, planes: Literal["all", "current"]) -> None:
        """Show a choice; says nothing (only clicks do)."""
        {"view": self.view, "area": self.area, "whole": self.whole}[where].setChecked(True)
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

    def __init__(self) -> None:
        super().__init__()
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
        hbox((self.spin, 1), self.auto, self.measure, on=self)
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
        with signals_blocked(self.spin):
            self.spin.setValue(value or 0)
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
        self.label = text_label()
        self.label.setTextFormat(Qt.TextFormat.RichText)
        self.label.setFixedWidth(320)
        self.label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        vbox(self.label, on=self, margins=(12, 10, 12, 10))

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

    def __init__(self) -> None:
        super().__init__()
        self._entries: dict[str, ModelEntry] = {}
        self.combo = narrow_combo(6)
        self.combo.setToolTip("The trained network that finds the cells")
        self.info = QToolButton()
        self.info.setText("i")
        self.info.setProperty("role", "info")
        self.info.setToolTip("What this model was trained on, its scores, object size, licence")
        self.info.setAccessibleName("About this model")
        self.info.setEnabled(False)
        self.popup = CardPopup(self)
        hbox((self.combo, 1), self.info, on=self)
        self.combo.activated.connect(self._activated)
        self.info.clicked.connect(self.show_card)

    def set_models(self, entries: tuple[ModelEntry, ...], current: str) -> None:
        """Offer models; says nothing."""
        self._entries = {entry.name: entry for entry in entries}
        offer(self.combo, ((name, name) for name in self._entries), current)
        self.setValue(current)

    def value(self) -> str | None:
        """Name of the shown model."""
        return self.combo.currentData()

    def setValue(self, name: str) -> None:
        """Show a model by name; says nothing."""
        with signals_blocked(self.combo):
            self.combo.setCurrentIndex(self.combo.findData(name))
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

    def __init__(self) -> None:
        super().__init__()
        self._color = QColor("gray")
        self.combo = narrow_combo(8)
        self.combo.setToolTip("The image layer to segment. Picking one here pins it.")
        self.pin = QToolButton()
        self.pin.setCheckable(True)
        self.pin.setIconSize(QSize(18, 18))
        self.pin.setAccessibleName("Stay with this image")
        hbox((self.combo, 1), self.pin, on=self, spacing=4)
        self.combo.activated.connect(self._activated)
        self.pin.clicked.connect(self.pinToggled)
        self.set_pinned(False)

    def set_choices(self, choices: list[tuple[str, str]], current: str | None) -> None:
        """Show the layers (key, name); says nothing."""
        offer(self.combo, choices, current)

    def set_pinned(self, pinned: bool) -> None:
        """Show whether the page stays with this image; says nothing."""
        self.pin.setChecked(pinned)
        self.pin.setIcon(icon("pinned" if pinned else "pin", self._color))
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

    def __init__(self) -> None:
        super().__init__()
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


class Misread(QWidget):
    """Says that the axes of an image may be misread; its channels can be made layers.

    Signals
    -------
    splitWanted : int
        That axis holds channels.
    """

    splitWanted = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.notice = muted()
        self.notice.setProperty("role", "warning")
        self.split = link_button(
            SPLIT, "Make a layer of every channel in the place of this one"
        )
        self._axis = 0
        vbox(self.notice, self.split, on=self, spacing=4)
        self.split.clicked.connect(lambda: self.splitWanted.emit(self._axis))
        self.set_notice("", None)

    def set_image(self, source: ImageSource | None) -> None:
        """Show what is odd about an image, if anything is."""
        words, axis = "", None
        if source is not None:
            with suppress(SA2NetError):  # the preview line says what is wrong
                plan, guessed = source_plan(source), source.axes_guessed
                words = plan.notice(f"press “{SPLIT}”", guessed)
                axis = plan.likely_channels(guessed)
        self.set_notice(words, axis)

    def set_notice(self, text: str, axis: int | None) -> None:
        """Show what may be a misunderstanding, and offer to split along an axis."""
        self._axis = axis or 0
        show_text(self.notice, keep_together(text))
        self.split.setVisible(axis is not None)
        self.setVisible(bool(text))


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
    """

    axesChosen = Signal(str)
    channelsChosen = Signal(tuple)

    def __init__(self, form: Form) -> None:
        super().__init__(form)
        self._form = form
        self.line = muted()
        self.line.setToolTip("Height × width in pixels, channels, and the size of a pixel")
        self.axes = narrow_combo(8)
        self.channels = ChannelButton()
        self.misread = Misread()
        form.add_wide(self.line)
        form.add_wide(self.misread)
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

    def set_axes(self, choices: list[tuple[str, str]], axes: str) -> None:
        """Offer spellings of the axes (spelling, words); hidden where there are none."""
        offer(self.axes, choices, axes)
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
