"""One cell looked at closely: scales as bars, the boundary as curves, its history in words."""

from __future__ import annotations

from html import escape

import numpy as np
from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_sa2net.app.why_words import history_words
from napari_sa2net.config import NetworkKind
from napari_sa2net.engine.protocol import CellInspection
from napari_sa2net.inference.map_palette import ADDED, REMOVED
from napari_sa2net.models.exponents import GATE_WORDS
from napari_sa2net.widgets.common import muted
from napari_sa2net.widgets.map_colors import OUTLINE, STAGE_COLORS
from napari_sa2net.widgets.see_why.map_tiles import fitted, to_image
from napari_sa2net.widgets.see_why.profile_plot import ProfilePlot


class Thumbnail(QWidget):
    """The cell with its outline."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._image: QImage | None = None
        self.setFixedSize(104, 104)
        self.setToolTip("The cell with its outline, as it is now")

    def set_cell(self, inspection: CellInspection) -> None:
        """Show a cell."""
        self._image = to_image(outlined(inspection.thumbnail, inspection.outline))
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        if self._image is not None:
            painter = QPainter(self)
            painter.fillRect(self.rect(), Qt.GlobalColor.black)
            painter.drawImage(fitted(self._image, QRectF(self.rect())), self._image)


class GateBars(QWidget):
    """Mean gate of each scale in the cell; a line marks the mean of the image."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._gates: tuple[float, ...] = ()
        self._image: tuple[float, ...] = ()
        self._text = QColor("gray")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "How much attention adds at each scale, on average over this cell (bar) and over "
            "the image (line); left of the middle the addition is reversed"
        )

    def set_gates(self, gates: tuple[float, ...], image: tuple[float, ...]) -> None:
        """Show the means of the cell and of the image."""
        self._gates, self._image = gates, image
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(120, 4 * (self.fontMetrics().height() + 4))

    def paintEvent(self, event: QPaintEvent | None) -> None:
        painter = QPainter(self)
        text = self.palette().windowText().color()
        known = [abs(v) for v in (*self._gates, *self._image) if np.isfinite(v)]
        most = max(known, default=0.0) or 1.0
        metrics = painter.fontMetrics()
        left = metrics.horizontalAdvance("4 ") + 4
        right = metrics.horizontalAdvance("−0.00") + 6
        width = self.width() - left - right
        row = self.height() / max(1, len(self._gates))
        middle = left + width / 2
        faint = QColor(text)
        faint.setAlphaF(0.3)
        painter.setPen(faint)
        painter.drawLine(int(middle), 0, int(middle), self.height())
        for i, (gate, mean) in enumerate(zip(self._gates, self._image, strict=True)):
            top = i * row
            line = QRectF(0, top, self.width(), row)
            painter.setPen(text)
            align = Qt.AlignmentFlag.AlignVCenter
            painter.drawText(line, align | Qt.AlignmentFlag.AlignLeft, str(i + 1))
            if not np.isfinite(gate):
                painter.drawText(line, align | Qt.AlignmentFlag.AlignRight, "–")
                continue
            number = f"{gate:.2f}".replace("-", "−")
            painter.drawText(line, align | Qt.AlignmentFlag.AlignRight, number)
            length = gate / most * width / 2
            bar = QRectF(middle, top + 3, length, row - 6).normalized()
            painter.fillRect(bar, QColor(ADDED if gate >= 0 else REMOVED))
            if np.isfinite(mean):
                at = middle + mean / most * width / 2
                painter.setPen(QPen(text, 2))
                painter.drawLine(int(at), int(top + 1), int(at), int(top + row - 1))


class CellSection(QWidget):
    """Empty but for one line until a cell was chosen.

    Parameters
    ----------
    key : str
        The key that inspects the selected cell.
    """

    def __init__(self, key: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._shown: CellInspection | None = None
        self._ask = f"Click a cell in the image, or press {key} for the selected one."
        self.hint = muted(self._ask)
        self.body = QWidget()
        self.thumbnail = Thumbnail()
        self.title = QLabel()
        self.title.setProperty("role", "summary")
        self.bars = GateBars()
        self.plot = ProfilePlot()
        self.history = QLabel()
        self.history.setTextFormat(Qt.TextFormat.RichText)
        self.history.setWordWrap(True)
        self.history.setToolTip("What each stage did to this cell, from coarse to full size")
        side = QVBoxLayout()
        side.setSpacing(2)
        side.addWidget(self.title)
        side.addWidget(muted("scales in this cell (line: image)"))
        side.addWidget(self.bars)
        side.addStretch(1)
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(self.thumbnail, 0, Qt.AlignmentFlag.AlignTop)
        top.addLayout(side, 1)
        body = QVBoxLayout(self.body)
        body.setContentsMargins(0, 0, 0, 0)
        body.setSpacing(6)
        body.addLayout(top)
        self.across = muted()
        body.addWidget(self.across)
        body.addWidget(self.plot)
        body.addWidget(self.history)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.hint)
        layout.addWidget(self.body)
        self.body.setVisible(False)

    def set_cell(
        self, inspection: CellInspection | None, network: NetworkKind = "sa2net"
    ) -> None:
        """Show a cell, or how to choose one."""
        self.across.setText(f"{GATE_WORDS[network]} across the boundary, px (− is inside)")
        if inspection is self._shown:
            return
        self._shown = inspection
        self.body.setVisible(inspection is not None)
        if inspection is None:
            return
        self.title.setText(f"Cell {inspection.label}")
        self.thumbnail.set_cell(inspection)
        self.bars.set_gates(inspection.gates, inspection.image_gates)
        self.plot.set_profiles(inspection.distances, inspection.profiles)
        strides = [step.stride for step in inspection.history]
        rows = "".join(
            f"<tr><td style='padding-right:8px; color:{STAGE_COLORS[stride]}'><b>{stage}</b>"
            f"</td><td>{escape(words)}</td></tr>"
            for stride, (stage, words) in zip(
                strides, history_words(inspection.history, inspection.by_hand), strict=True
            )
        )
        self.history.setText(f"<table cellspacing='1'>{rows}</table>")

    def set_colors(self, text: QColor, background: QColor) -> None:
        """Follow the theme where a style sheet cannot."""
        self.plot.set_colors(text, background)


def outlined(thumbnail: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """RGBA pixels of a thumbnail (0…1, grey or RGB) with the outline drawn in."""
    grey = np.asarray(thumbnail, dtype=float)
    colors = grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)
    pixels = np.full((*colors.shape[:2], 4), 255, np.uint8)
    pixels[..., :3] = np.round(255 * np.clip(np.nan_to_num(colors[..., :3]), 0, 1))
    pixels[np.asarray(outline, dtype=bool), :3] = QColor(OUTLINE).getRgb()[:3]
    return pixels
