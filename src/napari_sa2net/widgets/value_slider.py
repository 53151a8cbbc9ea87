"""A slider with its number beside it."""

from __future__ import annotations

import math

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QAbstractSpinBox, QHBoxLayout, QSlider, QWidget

from napari_sa2net.widgets.number_field import NumberField

STEPS = 1000


class ValueSlider(QWidget):
    """A slider and a number field for one value.

    Parameters
    ----------
    low, high : float
        Ends of the slider.
    decimals : int
        Of the number.
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
    ) -> None:
        super().__init__(parent)
        self._power = power
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
        self._set(self.spin, value)
        self.valueChanged.emit(self.spin.value())

    def _typed(self, value: float) -> None:
        self._set(self.slider, self._position(value))
        self.valueChanged.emit(value)
