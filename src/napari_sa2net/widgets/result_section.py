"""Sliders that change the shown cells live, and a line that counts them."""

from __future__ import annotations

import math

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_sa2net.app.session import Sliders
from napari_sa2net.config import InstanceConfig
from napari_sa2net.widgets.common import Form, keep_together, link_button, muted, tip_of
from napari_sa2net.widgets.value_slider import ValueSlider


class ResultSection(QWidget):
    """Foreground, Split, Smallest; summary; link to the table.

    Signals
    -------
    valueChanged
        A person moved a slider; ask :meth:`value`.
    tableWanted, measureWanted
    backWanted
        What the sliders act on shall be there again.
    """

    valueChanged = Signal()
    tableWanted = Signal()
    measureWanted = Signal()
    backWanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pixel_area: float | None = None
        self._typical = 300.0
        self._min_px = 0
        fields = InstanceConfig.model_fields
        low, high = 0.02, 0.98
        self.form = Form()
        self.foreground = ValueSlider(low, high)
        self.split = ValueSlider(0, 1)
        # areas span orders of magnitude: most of the slider belongs to small ones
        self.smallest = ValueSlider(0, 1, power=2)
        self.form.add(
            fields["foreground"].title or "Foreground",
            self.foreground,
            f"{tip_of(InstanceConfig, 'foreground')} (0.02 to 0.98)",
        )
        self.form.add(
            fields["split"].title or "Split", self.split, tip_of(InstanceConfig, "split")
        )
        self.form.add("Smallest", self.smallest, tip_of(InstanceConfig, "min_size"))
        self.note = muted()
        self.back = link_button(
            "Bring it back",
            "Run the model again as it made these cells; then the sliders act on them",
        )
        self.summary = QLabel()
        self.summary.setProperty("role", "summary")
        self.summary.setWordWrap(True)
        self.summary.setToolTip("Number of cells, their median area, and how many are cut off")
        self.table = link_button(
            "→ table", "Open the table of all cells: area, shape, brightness, confidence"
        )
        self.measure = link_button(
            "Measure", "Count these cells and measure them: area, shape, brightness"
        )
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.summary, 1)
        row.addWidget(self.table)
        row.addWidget(self.measure)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.form)
        layout.addWidget(self.note)
        layout.addWidget(self.back)
        layout.addLayout(row)
        self.foreground.valueChanged.connect(lambda _: self.valueChanged.emit())
        self.split.valueChanged.connect(lambda _: self.valueChanged.emit())
        self.smallest.valueChanged.connect(self._smallest_moved)
        self.table.clicked.connect(self.tableWanted)
        self.measure.clicked.connect(self.measureWanted)
        self.back.clicked.connect(self.backWanted)
        self.set_pixel_size(None)
        self.setValue(InstanceConfig())
        self.set_state("none", "", "")

    def value(self, base: InstanceConfig) -> InstanceConfig:
        """``base`` with what the sliders say."""
        changes = {
            "foreground": self.foreground.value(),
            "split": self.split.value(),
            "min_size": self._min_px,
        }
        return InstanceConfig(**{**base.model_dump(), **changes})

    def setValue(self, config: InstanceConfig) -> None:
        """Show settings; says nothing."""
        self.foreground.setValue(config.foreground)
        self.split.setValue(config.split)
        self._min_px = config.min_size
        self._show_smallest()

    def set_pixel_size(self, pixel_size_um: float | None) -> None:
        """Show the smallest area in µm² where the pixel size is known, else in px²."""
        self._pixel_area = pixel_size_um**2 if pixel_size_um else None
        self._set_range()

    def set_typical_area(self, area_px: float) -> None:
        """Area of a typical cell (px²): the slider ends at twice of it."""
        self._typical = area_px
        self._set_range()

    def fit(self) -> None:
        """Follow a change of font."""
        for slider in (self.foreground, self.split, self.smallest):
            slider.fit("0000.0 µm²")

    def set_state(self, sliders: Sliders, note: str, summary: str, countable: str = "") -> None:
        """Sliders act only on a result that is live; the note says why not.

        ``countable``: name of cells that are not measured yet.
        """
        self.form.setEnabled(sliders == "live")
        self.note.setText(note)
        self.note.setVisible(bool(note))
        self.back.setVisible(sliders == "lost")
        line = f"“{countable}” is not measured." if countable else summary
        self.summary.setText(keep_together(line))
        self.summary.setVisible(bool(line))
        self.table.setVisible(bool(summary))
        self.measure.setVisible(bool(countable))

    def _set_range(self) -> None:
        high = max(100.0, 2 * self._typical)
        if self._pixel_area is None:
            self.smallest.set_range(0, high, 0, " px²")
        else:
            decimals = max(0, math.ceil(-math.log10(self._pixel_area)))
            self.smallest.set_range(0, high * self._pixel_area, min(decimals, 4), " µm²")
        self._show_smallest()

    def _show_smallest(self) -> None:
        self.smallest.setValue(self._min_px * (self._pixel_area or 1.0))

    def _smallest_moved(self, value: float) -> None:
        self._min_px = max(0, round(value / (self._pixel_area or 1.0)))
        self.valueChanged.emit()
