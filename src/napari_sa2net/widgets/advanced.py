"""Settings that are right for most: folded away."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QVBoxLayout, QWidget

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine.protocol import EngineInfo
from napari_sa2net.widgets.common import Form, fold_button, tip_of

_TILES = (256, 512, 1024, 2048)
NORMALIZE_TIP = (
    "Stretch the image's brightness to what the model expects (percentiles of the whole "
    "image). Off: the raw values go in"
)


LEVELS_TIP = (
    "What becomes black and white. Automatic: of each time point, and of all planes in depth "
    "together. As displayed: the contrast limits of the image layer"
)
AS_DISPLAYED = "displayed"


class AdvancedSection(QWidget):
    """Device, tile, precision and what becomes of the cells.

    Signals
    -------
    predictChanged, instancesChanged, normalizeChanged, displayedChanged
        Ask :meth:`predict`, :meth:`instances`, :meth:`normalize`, :meth:`as_displayed`.
    """

    predictChanged = Signal()
    instancesChanged = Signal()
    normalizeChanged = Signal()
    displayedChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.fold = fold_button(
            "Advanced", "Device, size of the pieces, precision, border cells"
        )
        self.form = Form()
        self.device = QComboBox()
        self.tile = QComboBox()
        self.tile.addItem("automatic", None)
        for side in _TILES:
            self.tile.addItem(f"{side} px", side)
        self.precision = QComboBox()
        self.precision.addItem("fast", "auto")
        self.precision.addItem("exact (float32)", "float32")
        for title, combo, tip in (
            ("Device", self.device, "What the network runs on; automatic takes a GPU if any"),
            ("Pieces", self.tile, tip_of(PredictConfig, "tile")),
            ("Precision", self.precision, tip_of(PredictConfig, "precision")),
        ):
            self.form.add(title, combo, tip)
        self.augment = self._box("average flips (slower)", PredictConfig, "augment")
        self.normalize_box = QCheckBox("adjust brightness")
        self.normalize_box.setToolTip(NORMALIZE_TIP)
        self.normalize_box.setChecked(True)
        self.form.add_wide(self.normalize_box)
        self.levels = QComboBox()
        self.form.add("Brightness", self.levels, LEVELS_TIP)
        self.drop_border = self._box("drop border cells", InstanceConfig, "remove_border")
        self.fill_holes = self._box("fill holes", InstanceConfig, "fill_holes")
        self.set_info(None)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.fold)
        layout.addWidget(self.form)
        self.form.setVisible(False)
        self.fold.toggled.connect(self.form.setVisible)
        self.levels.activated.connect(self._levels_chosen)
        self.normalize_box.toggled.connect(self.levels.setEnabled)
        for combo in (self.device, self.tile, self.precision):
            combo.activated.connect(lambda _: self.predictChanged.emit())
        self.augment.clicked.connect(lambda _: self.predictChanged.emit())
        self.normalize_box.clicked.connect(lambda _: self.normalizeChanged.emit())
        for box in (self.drop_border, self.fill_holes):
            box.clicked.connect(lambda _: self.instancesChanged.emit())
        self.set_levels(False, False)
        self.set_values(PredictConfig(), InstanceConfig(), True)

    def set_info(self, info: EngineInfo | None) -> None:
        """Offer the engine's devices; the choice stays where it can."""
        chosen = self.device.currentData() or "auto"
        self.device.clear()
        self.device.addItem("automatic", "auto")
        for device in info.devices if info is not None else ("cpu",):
            self.device.addItem(device.upper() if device == "cpu" else device, device)
        self.device.setCurrentIndex(max(0, self.device.findData(chosen)))

    def set_levels(self, stack: bool, grey: bool) -> None:
        """Offer what brightness may be measured over; hidden where there is no choice."""
        self.levels.clear()
        offered = [("automatic", "auto")]
        if stack:
            offered += [("of the whole stack", "stack"), ("of each plane", "plane")]
        if grey:
            offered.append(("as displayed", AS_DISPLAYED))
        for words, value in offered:
            self.levels.addItem(words, value)
        self.form.set_row_visible(self.levels, len(offered) > 1)

    def as_displayed(self) -> bool:
        """Whether the contrast limits of the layer are the levels."""
        return bool(self.levels.currentData() == AS_DISPLAYED)

    def predict(self, base: PredictConfig) -> PredictConfig:
        """``base`` with this section's settings."""
        return _with(
            base,
            device=self.device.currentData(),
            tile=self.tile.currentData(),
            precision=self.precision.currentData(),
            augment=self.augment.isChecked(),
            levels=self.levels.currentData() if self._offers(base.levels) else base.levels,
        )

    def instances(self, base: InstanceConfig) -> InstanceConfig:
        """``base`` with this section's settings."""
        return _with(
            base,
            remove_border=self.drop_border.isChecked(),
            fill_holes=self.fill_holes.isChecked(),
        )

    def normalize(self) -> bool:
        """Whether brightness is adjusted to what the model expects."""
        return self.normalize_box.isChecked()

    def set_values(
        self,
        predict: PredictConfig,
        instances: InstanceConfig,
        normalize: bool,
        as_displayed: bool = False,
    ) -> None:
        """Show settings; says nothing (only clicks do)."""
        wanted = AS_DISPLAYED if as_displayed else predict.levels
        self.levels.setCurrentIndex(max(0, self.levels.findData(wanted)))
        self.levels.setEnabled(normalize)
        self.device.setCurrentIndex(max(0, self.device.findData(predict.device)))
        if predict.tile is not None and self.tile.findData(predict.tile) < 0:
            self.tile.addItem(f"{predict.tile} px", predict.tile)
        self.tile.setCurrentIndex(self.tile.findData(predict.tile))
        self.precision.setCurrentIndex(self.precision.findData(predict.precision))
        self.augment.setChecked(predict.augment)
        self.drop_border.setChecked(instances.remove_border)
        self.fill_holes.setChecked(instances.fill_holes)
        self.normalize_box.setChecked(normalize)

    def _offers(self, levels: str) -> bool:
        """Whether there is this choice now, and a row to choose it from."""
        return not self.as_displayed() and self.levels.findData(levels) >= 0

    def _levels_chosen(self, _: int) -> None:
        self.displayedChanged.emit()
        self.predictChanged.emit()

    def _box(
        self, text: str, model: type[PredictConfig] | type[InstanceConfig], field: str
    ) -> QCheckBox:
        box = QCheckBox(text)
        box.setToolTip(tip_of(model, field))
        self.form.add_wide(box)
        return box


def _with(base: Any, **changes: Any) -> Any:
    """A validated copy (pydantic's model_copy would not check)."""
    return type(base)(**{**base.model_dump(), **changes})
