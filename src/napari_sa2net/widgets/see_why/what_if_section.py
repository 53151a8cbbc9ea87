"""Attention switched off or sharpened, and what that would do to the cells."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_sa2net.app.why import STRIDES, WhatIfSettings
from napari_sa2net.app.why_words import STAGE_WORDS
from napari_sa2net.config import GAMMA_MOST, NetworkConfig
from napari_sa2net.engine.protocol import Exponents
from napari_sa2net.models.exponents import GATE_WORDS
from napari_sa2net.widgets.common import Form, fold_button, keep_together, link_button, muted
from napari_sa2net.widgets.value_slider import ValueSlider

SCALES = (("1", "full size"), ("2", "half size"), ("3", "a quarter"), ("4", "an eighth"))
GAMMA_TIP = (
    "Exponent γ of {} at the {} stage: 0 lets all detail in (attention off), 1 leaves the map "
    "as it is, above 1 lets only what attention is sure of in. "
)
SE_TIP = (
    "Exponent γ of the channel weights on the {} skip: 0 lets all channels through alike "
    "(off), 1 leaves the weights as they are, above 1 keeps the strongest channels only. "
)
NONE_HERE = "This model has none here."
#: shortest step of a γ that is shown
STEP = 0.01


class WhatIfSection(QWidget):
    """A switch for each scale, a γ for each module of attention, one line, Reset.

    Every slider shows the γ that is at work: the model's own until a person chooses another.

    Attributes
    ----------
    network : NetworkConfig
        Of the model that it is about.

    Signals
    -------
    valueChanged
        By a person; ask :meth:`value`.
    resetWanted
    """

    valueChanged = Signal()
    resetWanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.form = Form()
        self.gates: list[QCheckBox] = []
        self.scales = QWidget()
        row = QHBoxLayout(self.scales)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        for text, grain in SCALES:
            box = QCheckBox(text)
            box.setToolTip(f"Attention at scale {text} (the image at {grain}); off: none")
            box.setAccessibleName(f"Scale {text}")
            box.clicked.connect(lambda _: self.valueChanged.emit())
            self.gates.append(box)
            row.addWidget(box)
        row.addStretch(1)
        self.form.add("Scales", self.scales, "Switch attention at single scales off")
        self.gammas = self._sliders(self.form)
        self.fold = fold_button(
            "Channel weights (SE)",
            "Squeeze and excitation: how much each channel of a skip counts in this image",
        )
        self.se_form = Form()
        self.se_gammas = self._sliders(self.se_form)
        self.se_form.setVisible(False)
        self.fold.toggled.connect(self.se_form.setVisible)
        self.note = muted("γ 0: off · 1: the map as it is · above 1: sharper")
        self.line = QLabel()
        self.line.setProperty("role", "summary")
        self.line.setWordWrap(True)
        self.line.setToolTip("Against the same part of the image with everything as trained")
        self.reset = link_button("Reset", "Everything as trained; takes the layer away")
        bottom = QHBoxLayout()
        bottom.setSpacing(8)
        bottom.addWidget(self.line, 1)
        bottom.addWidget(self.reset)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for part in (self.form, self.fold, self.se_form, self.note):
            layout.addWidget(part)
        layout.addLayout(bottom)
        self.reset.clicked.connect(self.resetWanted)
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
        g1, g2, g3, g4 = (box.isChecked() for box in self.gates)
        return WhatIfSettings(
            (g1, g2, g3, g4),
            _chosen(self.gammas, self._gamma),
            _chosen(self.se_gammas, self._se_gamma),
        )

    def setValue(self, settings: WhatIfSettings) -> None:
        """Show settings; says nothing."""
        for box, on in zip(self.gates, settings.gates, strict=True):
            box.setChecked(on)
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
        self.form.set_row_visible(self.scales, network.kind == "sa2net")
        word = GATE_WORDS[network.kind]
        for slider, stride, own in zip(self.gammas, STRIDES, self._gamma, strict=True):
            stage = STAGE_WORDS[stride]
            tip = GAMMA_TIP.format(word if word == "ψ" else "the gate", stage)
            self.form.rename(slider, f"{word} {stage}  γ", tip + _as_trained(own))
            slider.setEnabled(own is not None)
        for slider, stride, own in zip(self.se_gammas, STRIDES, self._se_gamma, strict=True):
            stage = STAGE_WORDS[stride]
            self.se_form.rename(
                slider, f"SE {stage}  γ", SE_TIP.format(stage) + _as_trained(own)
            )
            self.se_form.set_row_visible(slider, own is not None)
        any_se = any(network.se)
        self.fold.setVisible(any_se)
        self.se_form.setVisible(any_se and self.fold.isChecked())

    def set_line(self, text: str) -> None:
        """What the change did."""
        self.line.setText(keep_together(text))

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
