"""Which image, what its axes are, which channels go in."""

from __future__ import annotations

from qtpy.QtCore import QObject, QSize, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QMenu, QToolButton, QWidget

from napari_sa2net.widgets.common import Form, keep_together, link_button, muted
from napari_sa2net.widgets.theme import pin_icon

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
