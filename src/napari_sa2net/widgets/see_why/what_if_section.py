"""Attention switched off or sharpened, and what that would do to the cells."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_sa2net.app.why import STRIDES, WhatIfSettings
from napari_sa2net.app.why_words import STAGE_WORDS
from napari_sa2net.widgets.common import Form, keep_together, link_button, muted
from napari_sa2net.widgets.value_slider import ValueSlider

SCALES = (("1", "full size"), ("2", "half size"), ("3", "a quarter"), ("4", "an eighth"))
GAMMA_TIP = (
    "Exponent γ of ψ at the {} stage: 0 lets all detail in (attention off), 1 is as trained, "
    "above 1 lets only what attention is sure of in"
)


class WhatIfSection(QWidget):
    """A switch for each scale, a γ for each stage, one line, Reset.

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
        switches = QWidget()
        row = QHBoxLayout(switches)
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
        self.form.add("Scales", switches, "Switch attention at single scales off")
        self.gammas: list[ValueSlider] = []
        for stride in STRIDES:
            # 1 stands in the middle
            slider = ValueSlider(0, 4, power=2)
            slider.valueChanged.connect(lambda _: self.valueChanged.emit())
            self.gammas.append(slider)
            words = STAGE_WORDS[stride]
            self.form.add(f"ψ {words}  γ", slider, GAMMA_TIP.format(words))
        self.note = muted("γ 0: attention off · 1: as trained · above 1: sharper")
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
        layout.addWidget(self.form)
        layout.addWidget(self.note)
        layout.addLayout(bottom)
        self.reset.clicked.connect(self.resetWanted)
        self.setValue(WhatIfSettings())
        self.set_line("")

    def value(self) -> WhatIfSettings:
        """What the controls say."""
        g1, g2, g3, g4 = (box.isChecked() for box in self.gates)
        e8, e4, e2, e1 = (slider.value() for slider in self.gammas)
        return WhatIfSettings((g1, g2, g3, g4), (e8, e4, e2, e1))

    def setValue(self, settings: WhatIfSettings) -> None:
        """Show settings; says nothing."""
        for box, on in zip(self.gates, settings.gates, strict=True):
            box.setChecked(on)
        for slider, gamma in zip(self.gammas, settings.gamma, strict=True):
            slider.setValue(gamma)
        self.reset.setEnabled(not settings.is_default)

    def set_stages(self, scales: tuple[bool, ...], strides: tuple[int, ...]) -> None:
        """What the model has; the rest cannot be tried."""
        for box, there in zip(self.gates, scales, strict=True):
            box.setEnabled(there)
        for slider, stride in zip(self.gammas, STRIDES, strict=True):
            slider.setEnabled(stride in strides)

    def set_line(self, text: str) -> None:
        """What the change did."""
        self.line.setText(keep_together(text))

    def fit(self) -> None:
        """Follow a change of font."""
        for slider in self.gammas:
            slider.fit("0.00")
