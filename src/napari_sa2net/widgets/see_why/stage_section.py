"""Walk through the stages of the boundary over the image."""

from __future__ import annotations

from qtpy.QtCore import QRectF, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.why import STRIDES
from napari_sa2net.app.why_words import STAGE_WORDS
from napari_sa2net.widgets.common import link_button
from napari_sa2net.widgets.map_colors import STAGE_COLORS

#: one step of ▶
PLAY_MS = 700


class StageTicks(QWidget):
    """Names of the stages under the slider, each with its colour."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.stage = 1
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(160, self.fontMetrics().height() + 6)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        painter = QPainter(self)
        text = self.palette().windowText().color()
        # the slider's handle stops half its width before the ends
        inset, n = 8.0, len(STRIDES)
        step = (self.width() - 2 * inset) / (n - 1)
        for i, stride in enumerate(STRIDES):
            words = STAGE_WORDS[stride]
            font = self.font()
            font.setBold(stride == self.stage)
            painter.setFont(font)
            width = painter.fontMetrics().horizontalAdvance(words) + 4
            middle = inset + i * step
            left = min(max(0.0, middle - width / 2), self.width() - width)
            painter.fillRect(QRectF(middle - 8, 0, 16, 3), QColor(STAGE_COLORS[stride]))
            painter.setPen(text)
            box = QRectF(left, 4, width, self.height() - 4)
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, words)


class StageSection(QWidget):
    """Slider, ▶, outlines, last change, jumps.

    Signals
    -------
    stageChanged : int
        Stride that a person, or ▶, chose.
    outlinesToggled, changeToggled : bool
    jumpWanted : str
        Column of the table: ``refinement_px`` or ``contested``.
    """

    stageChanged = Signal(int)
    outlinesToggled = Signal(bool)
    changeToggled = Signal(bool)
    jumpWanted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._there: tuple[int, ...] = STRIDES
        self.play = QToolButton()
        self.play.setText("▶")
        self.play.setCheckable(True)
        self.play.setToolTip(
            "Walk through the stages, again and again; click once more to stop"
        )
        self.play.setAccessibleName("Play")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, len(STRIDES) - 1)
        self.slider.setPageStep(1)
        self.slider.setToolTip(
            "Outlines of the cells as each stage of the network sees them: first at an eighth "
            "of the size, at last at full size"
        )
        self.slider.setAccessibleName("Stage")
        self.ticks = StageTicks()
        self.outlines = QCheckBox("outlines")
        self.outlines.setToolTip("Show the outlines of the chosen stage over the image")
        self.change = QCheckBox("last change")
        self.change.setToolTip(
            "Show what the last stage (1/2 to full) added (blue) and took away (orange)"
        )
        self.refined = link_button(
            "Most refined",
            "Go to the cell whose boundary moved most from stage to stage; again: the next "
            "one. Specks (below a quarter of the median area) come last",
        )
        self.contested = link_button(
            "Most contested",
            "Go to the cell whose boundary is least certain; again: the next one. Specks "
            "(below a quarter of the median area) come last",
        )
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(0)
        grid.addWidget(self.play, 0, 0, 2, 1, Qt.AlignmentFlag.AlignTop)
        grid.addWidget(self.slider, 0, 1)
        grid.addWidget(self.ticks, 1, 1)
        boxes, jumps = QHBoxLayout(), QHBoxLayout()
        for row, parts in (
            (boxes, (self.outlines, self.change)),
            (jumps, (self.refined, self.contested)),
        ):
            row.setSpacing(12)
            for part in parts:
                row.addWidget(part)
            row.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(grid)
        layout.addLayout(boxes)
        layout.addLayout(jumps)
        self._timer = QTimer(self)
        self._timer.setInterval(PLAY_MS)
        self._timer.timeout.connect(self._next)
        self.play.toggled.connect(self._played)
        self.slider.valueChanged.connect(self._moved)
        self.outlines.clicked.connect(self.outlinesToggled)
        self.change.clicked.connect(self.changeToggled)
        self.refined.clicked.connect(lambda: self.jumpWanted.emit("refinement_px"))
        self.contested.clicked.connect(lambda: self.jumpWanted.emit("contested"))

    def setValue(self, stage: int, outlines: bool, change: bool) -> None:
        """Show a state; says nothing."""
        self.slider.blockSignals(True)
        self.slider.setValue(STRIDES.index(stage))
        self.slider.blockSignals(False)
        self._mark(stage)
        self.outlines.setChecked(outlines)
        self.change.setChecked(change)

    def set_stages(self, there: tuple[int, ...]) -> None:
        """Which stages the model has."""
        self._there = there
        several = len(there) > 1
        for part in (self.slider, self.play, self.change):
            part.setEnabled(several)
        if not several:
            self.stop()

    def stop(self) -> None:
        """Stop walking."""
        self.play.setChecked(False)

    def _mark(self, stage: int) -> None:
        self.ticks.stage = stage
        self.ticks.update()

    def _moved(self, at: int) -> None:
        stage = STRIDES[at]
        if stage not in self._there:
            return
        self._mark(stage)
        self.stageChanged.emit(stage)

    def _played(self, on: bool) -> None:
        self.play.setText("■" if on else "▶")
        if on:
            self._timer.start()
            self._next()
        else:
            self._timer.stop()

    def _next(self) -> None:
        at = self.slider.value()
        for _ in STRIDES:
            at = (at + 1) % len(STRIDES)
            if STRIDES[at] in self._there:
                break
        self.slider.setValue(at)
