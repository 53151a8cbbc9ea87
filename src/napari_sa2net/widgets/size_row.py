"""How large the cells are: a number, or a line dragged across one."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_sa2net.widgets.common import keep_together, link_button, muted, repolish
from napari_sa2net.widgets.number_field import NumberField

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
        self.spin.setToolTip(TIP)
        self.measure = link_button("measure…", MEASURE_TIP)
        self.measure.setCheckable(True)
        #: for the page to place under the row
        self.note = muted()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.spin, 1)
        layout.addWidget(self.measure)
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
        self._update_note()

    def set_pixel_size(self, pixel_size_um: float | None) -> None:
        """Micrometres per pixel, for the note beside the number."""
        self._pixel_size = pixel_size_um
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
        self._update_note()
        self.valueChanged.emit(self.value())

    def _update_note(self) -> None:
        value, size = self.value(), self._pixel_size
        if value is not None:
            text = f"{value * size:.3g} µm" if size else ""
        elif self._estimate is not None:
            text = f"last run: {self._estimate:.3g} px"
            text += f" = {self._estimate * size:.3g} µm" if size else ""
            text += f". {UNSURE}" if self._unsure else ""
        else:
            text = ""
        unsure = value is None and self._estimate is not None and self._unsure
        self.note.setProperty("role", "warning" if unsure else "muted")
        repolish(self.note)
        self.note.setText(keep_together(text))
        self.note.setVisible(bool(text))
