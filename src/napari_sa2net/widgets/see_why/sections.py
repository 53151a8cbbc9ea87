"""Walk through the stages of the boundary over the image."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen
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
from superqt.utils import signals_blocked

from napari_sa2net.app.see_why import STAGE_WORDS, history_words
from napari_sa2net.app.session import KeptVariant, WhatIfSettings
from napari_sa2net.config import GAMMA_MOST, NetworkConfig
from napari_sa2net.engine.messages import CellInspection, Exponents
from napari_sa2net.interpret.maps import ADDED, REMOVED, STRIDES
from napari_sa2net.widgets.controls import (
    Form,
    NameRow,
    ValueSlider,
    check_box,
    fold_button,
    hbox,
    keep_together,
    link_button,
    muted,
    paint_plot,
    push_button,
    show_text,
    text_label,
    timer,
    vbox,
)
from napari_sa2net.widgets.napari_port.maps import OUTLINE, STAGE_COLORS
from napari_sa2net.widgets.see_why.maps import fitted, to_image

#: one step of ▶
PLAY_MS = 700


class StageTicks(QWidget):
    """Names of the stages under the slider, each with its colour."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = 1
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """The size that suits it."""
        return QSize(160, self.fontMetrics().height() + 6)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw it."""
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
    jumpWanted : str
        Column of the table: ``refinement_px`` or ``contested``.
    """

    stageChanged = Signal(int)
    jumpWanted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
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
        self.outlines = check_box(
            "outlines", "Show the outlines of the chosen stage over the image"
        )
        self.change = check_box(
            "last change",
            "Show what the last stage (1/2 to full) added (blue) and took away (orange)",
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
        boxes = hbox(self.outlines, self.change, None, spacing=12)
        jumps = hbox(self.refined, self.contested, None, spacing=12)
        vbox(grid, boxes, jumps, on=self)
        self._timer = timer(self, PLAY_MS, self._next)
        self.play.toggled.connect(self._played)
        self.slider.valueChanged.connect(self._moved)
        self.refined.clicked.connect(lambda: self.jumpWanted.emit("refinement_px"))
        self.contested.clicked.connect(lambda: self.jumpWanted.emit("contested"))

    def setValue(self, stage: int, outlines: bool, change: bool) -> None:
        """Show a state; says nothing."""
        with signals_blocked(self.slider):
            self.slider.setValue(STRIDES.index(stage))
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


# --------------------------------------------------------------------------------------------
# Attention switched off or sharpened, and what that would do to the cells.

SCALES = (("1", "full size"), ("2", "half size"), ("3", "a quarter"), ("4", "an eighth"))
GAMMA_TIP = (
    "How choosy the {} stage is with fine detail. 0: all of it passes (attention off), 1: as "
    "the map shows, above 1: only where the map is bright. In papers: exponent γ of {}. "
)
SE_TIP = (
    "How choosy the network is with the features of the {} stage. 0: all count alike (off), "
    "1: as learned, above 1: only the strongest. In papers: exponent γ of squeeze and "
    "excitation. "
)
NONE_HERE = "This model has none here."
#: shortest step of a γ that is shown
STEP = 0.01


class WhatIfSection(QWidget):
    """A switch for each scale, a γ for each module of attention, one line, Reset, Keep.

    Every slider shows the γ that is at work: the model's own until a person chooses another.

    Attributes
    ----------
    network : NetworkConfig
        Of the model that it is about.

    Signals
    -------
    valueChanged
        By a person; ask :meth:`value`.
    """

    valueChanged = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.form = Form()
        self.gates: list[QCheckBox] = []
        self.scales = QWidget()
        for text, grain in SCALES:
            tip = f"Attention at scale {text} (the image at {grain}); off: none"
            box = check_box(text, tip)
            box.setAccessibleName(f"Scale {text}")
            box.clicked.connect(lambda _: self.valueChanged.emit())
            self.gates.append(box)
        hbox(*self.gates, None, on=self.scales, spacing=10)
        self.form.add("Scales", self.scales, "Switch attention at single scales off")
        self.gammas = self._sliders(self.form)
        self.se_form = Form()
        self.fold = fold_button(
            "Weights of features",
            "How much each kind of feature counts in this image (squeeze and excitation, SE)",
            self.se_form,
        )
        self.se_gammas = self._sliders(self.se_form)
        self.note = muted(
            "Selectivity 0: all detail passes · 1: as the map shows · above 1: only its bright "
            "places"
        )
        self.line = text_label(
            role="summary", tip="Against the same part of the image with everything as trained"
        )
        self.reset = link_button("Reset", "Everything as trained; takes the layer away")
        bottom = hbox((self.line, 1), self.reset, spacing=8)
        self.keep = push_button(
            "Keep as a model…",
            "Save the model with this change under a name of its own and choose it. Its "
            "parent stays as it is",
        )
        self.name_row = NameRow("Keep", "Keep the model under this name", "Keep nothing")
        self.kept = text_label()
        self.undo = link_button(
            "Undo", "Take this model away again, and choose the one that it is a variant of"
        )
        told = hbox((self.kept, 1), self.undo, spacing=8)
        #: All but what was kept, which can be undone also where nothing can be tried.
        self.controls = QWidget()
        vbox(
            *(self.form, self.fold, self.se_form, self.note, bottom, self.keep, self.name_row),
            on=self.controls,
        )
        vbox(self.controls, told, on=self)
        self.set_kept(None, "", can_keep=False)
        self.set_network(NetworkConfig())
        self.setValue(WhatIfSettings())
        self.set_line("")

    def _sliders(self, form: Form) -> list[ValueSlider]:
        sliders = []
        for _ in STRIDES:
            # 1 stands in the middle, and most of the way is for what is mostly tried
            slider = ValueSlider(0, GAMMA_MOST, power=3)
            slider.valueChanged.connect(lambda _: self.valueChanged.emit())
            form.add("", slider, "")
            sliders.append(slider)
        return sliders

    def value(self) -> WhatIfSettings:
        """What the controls say."""
        on = (box.isChecked() for box in self.gates)
        return WhatIfSettings(
            tuple(None if a == b else a for a, b in zip(on, self._scales, strict=True)),
            _chosen(self.gammas, self._gamma),
            _chosen(self.se_gammas, self._se_gamma),
        )

    def setValue(self, settings: WhatIfSettings) -> None:
        """Show settings; says nothing."""
        for box, on, was in zip(self.gates, settings.gates, self._scales, strict=True):
            box.setChecked(was if on is None else on)
        for sliders, chosen, own in (
            (self.gammas, settings.gamma, self._gamma),
            (self.se_gammas, settings.se_gamma, self._se_gamma),
        ):
            for slider, gamma, trained in zip(sliders, chosen, own, strict=True):
                # Without a module everything passes, as with γ = 0.
                slider.setValue((trained or 0.0) if gamma is None else gamma)
        self.reset.setEnabled(not settings.is_default)

    def set_network(self, network: NetworkConfig) -> None:
        """What the model has, with the γ that it was trained to; the value is set after it."""
        self.network = network
        self._gamma = _own(network.gamma, network.gates)
        self._se_gamma = _own(network.se_gamma, network.se)
        self._scales: tuple[bool, ...] = network.scales[::-1]
        self.form.set_row_visible(self.scales, network.kind == "sa2net")
        symbol = "ψ" if network.kind == "sa2net" else "the attention gate α"
        for slider, stride, own in zip(self.gammas, STRIDES, self._gamma, strict=True):
            stage = STAGE_WORDS[stride]
            tip = GAMMA_TIP.format(stage, symbol)
            self.form.rename(slider, f"Detail {stage}", tip + _as_trained(own))
            slider.setEnabled(own is not None)
        for slider, stride, own in zip(self.se_gammas, STRIDES, self._se_gamma, strict=True):
            stage = STAGE_WORDS[stride]
            self.se_form.rename(
                slider, f"Features {stage}", SE_TIP.format(stage) + _as_trained(own)
            )
            self.se_form.set_row_visible(slider, own is not None)
        any_se = any(network.se)
        self.fold.setVisible(any_se)
        self.se_form.setVisible(any_se and self.fold.isChecked())

    def set_line(self, text: str) -> None:
        """What the change did."""
        self.line.setText(keep_together(text))

    def set_kept(
        self,
        kept: KeptVariant | None,
        problem: str,
        *,
        can_keep: bool,
        chosen: bool = False,
    ) -> None:
        """What came of keeping a what-if, and whether the present one can be kept.

        ``chosen``: the kept one is the model that segments.
        """
        self.keep.setEnabled(can_keep)
        if not can_keep:
            self.name_row.hide()
        text = ""
        if kept is not None:
            used = ", and chosen for segmenting" if chosen else ""
            text = f"Kept as {kept.name}{used}. Its scores have not been measured."
        self.undo.setVisible(kept is not None)
        show_text(self.kept, problem or text)

    def fit(self) -> None:
        """Follow a change of font."""
        for slider in (*self.gammas, *self.se_gammas):
            slider.fit("0.00")


def _own(gamma: Exponents, there: tuple[bool, ...]) -> Exponents:
    """The model's γ; None where it has no module."""
    g8, g4, g2, g1 = (g if t else None for g, t in zip(gamma, there, strict=True))
    return g8, g4, g2, g1


def _as_trained(own: float | None) -> str:
    return NONE_HERE if own is None else f"As trained: {own:.2f}."


def _chosen(sliders: list[ValueSlider], own: Exponents) -> Exponents:
    """The γ that differ from the model's as far as is shown; None for the others."""
    g8, g4, g2, g1 = (
        None if t is None or abs(slider.value() - t) < 0.51 * STEP else slider.value()
        for slider, t in zip(sliders, own, strict=True)
    )
    return g8, g4, g2, g1


# --------------------------------------------------------------------------------------------
# Curves of ψ across a boundary.

HEIGHT = 132


class ProfilePlot(QWidget):
    """One curve for each stage, in the stage's colour; pyqtgraph loads with the first."""

    def __init__(self) -> None:
        super().__init__()
        self._text, self._background = QColor("gray"), QColor("black")
        self._plot: Any = None
        self.setFixedHeight(HEIGHT)
        self.setToolTip(
            "How much fine detail each stage stresses (0 to 1), from 12 px inside the cell to "
            "12 px outside. In papers and files: profiles of ψ"
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
            paint_plot(self._plot, self._text, self._background)

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
        paint_plot(self._plot, self._text, self._background)


# --------------------------------------------------------------------------------------------
# One cell looked at closely: scales as bars, the boundary as curves, its history in words.


class Thumbnail(QWidget):
    """The cell with its outline."""

    def __init__(self) -> None:
        super().__init__()
        self._image: QImage | None = None
        self.setFixedSize(104, 104)
        self.setToolTip("The cell with its outline, as it is now")

    def set_cell(self, inspection: CellInspection) -> None:
        """Show a cell."""
        self._image = to_image(outlined(inspection.thumbnail, inspection.outline))
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw it."""
        if self._image is not None:
            painter = QPainter(self)
            painter.fillRect(self.rect(), Qt.GlobalColor.black)
            painter.drawImage(fitted(self._image, QRectF(self.rect())), self._image)


class GateBars(QWidget):
    """Mean gate of each scale in the cell; a line marks the mean of the image."""

    def __init__(self) -> None:
        super().__init__()
        self._gates: tuple[float, ...] = ()
        self._image: tuple[float, ...] = ()
        self._text = QColor("gray")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "How much attention adds at each scale, on average over this cell (bar) and over "
            "the image (line); left of the middle the addition is reversed. In papers and "
            "files: scale gates"
        )

    def set_gates(self, gates: tuple[float, ...], image: tuple[float, ...]) -> None:
        """Show the means of the cell and of the image."""
        self._gates, self._image = gates, image
        self.update()

    def sizeHint(self) -> QSize:
        """The size that suits it."""
        return QSize(120, 4 * (self.fontMetrics().height() + 4))

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw it."""
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

    def __init__(self, key: str) -> None:
        super().__init__()
        self._shown: CellInspection | None = None
        self._ask = f"Click a cell in the image, or press {key} for the selected one."
        self.hint = muted(self._ask)
        self.body = QWidget()
        self.thumbnail = Thumbnail()
        self.title = text_label(role="summary", wrap=False)
        self.bars = GateBars()
        self.plot = ProfilePlot()
        self.history = text_label(
            tip="What each stage did to this cell, from coarse to full size"
        )
        self.history.setTextFormat(Qt.TextFormat.RichText)
        self.scales = muted("scales in this cell (line: image)")
        side = vbox(self.title, self.scales, self.bars, None, spacing=2)
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(self.thumbnail, 0, Qt.AlignmentFlag.AlignTop)
        top.addLayout(side, 1)
        self.across = muted("detail across the boundary, px (− is inside)")
        vbox(top, self.across, self.plot, self.history, on=self.body)
        vbox(self.hint, self.body, on=self)
        self.body.setVisible(False)

    def set_cell(self, inspection: CellInspection | None) -> None:
        """Show a cell, or how to choose one."""
        if inspection is self._shown:
            return
        self._shown = inspection
        self.body.setVisible(inspection is not None)
        if inspection is None:
            return
        self.title.setText(f"Cell {inspection.label}")
        self.thumbnail.set_cell(inspection)
        self.bars.set_gates(inspection.gates, inspection.image_gates)
        # A FocalUNet has no scales.
        has_scales = bool(np.isfinite(inspection.image_gates).any())
        for part in (self.scales, self.bars):
            part.setVisible(has_scales)
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
