"""Curves of ψ across a boundary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_sa2net.widgets.map_colors import STAGE_COLORS

HEIGHT = 132


class ProfilePlot(QWidget):
    """One curve for each stage, in the stage's colour; pyqtgraph loads with the first."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._background = QColor("gray"), QColor("black")
        self._plot: Any = None
        self.setFixedHeight(HEIGHT)
        self.setToolTip(
            "How much fine detail each stage lets in (0 to 1), from 12 px inside the cell to "
            "12 px outside"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)

    def set_profiles(self, distances: Any, profiles: Mapping[int, Any]) -> None:
        """Show curves by stride; NaN leaves a gap."""
        if self._plot is None:
            self._make()
        import pyqtgraph as pg

        self._plot.clear()
        self._plot.addLine(x=0, pen=pg.mkPen(self._text, style=Qt.PenStyle.DashLine))
        for stride, profile in profiles.items():
            pen = pg.mkPen(STAGE_COLORS[stride], width=2)
            self._plot.plot(
                np.asarray(distances, float), np.asarray(profile, float), pen=pen,
                connect="finite",
            )  # fmt: skip

    def curves(self) -> list[tuple[Any, Any]]:
        """What is drawn: distances and values of every curve."""
        items = [] if self._plot is None else self._plot.listDataItems()
        return [item.getData() for item in items]

    def set_colors(self, text: QColor, background: QColor) -> None:
        """Of axes and ground."""
        self._text, self._background = text, background
        if self._plot is not None:
            self._paint()

    def _make(self) -> None:
        import pyqtgraph as pg

        self._plot = pg.PlotWidget()
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.setRange(xRange=(-13, 13), yRange=(0, 1), padding=0.02)
        self._plot.getAxis("left").setTicks([[(v, f"{v:g}") for v in (0, 0.5, 1)]])
        ticks = [(x, f"−{-x}" if x < 0 else str(x)) for x in range(-12, 13, 4)]
        self._plot.getAxis("bottom").setTicks([ticks])
        layout = self.layout()
        assert layout is not None
        layout.addWidget(self._plot)
        self._paint()

    def _paint(self) -> None:
        self._plot.setBackground(self._background)
        for side in ("left", "bottom"):
            axis = self._plot.getAxis(side)
            axis.setPen(self._text)
            axis.setTextPen(self._text)
