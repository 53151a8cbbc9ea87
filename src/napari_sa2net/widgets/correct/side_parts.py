"""Smaller parts of the Correct page: restoring, settings of a box, keys."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.correct_restore import Offer
from napari_sa2net.config import InstanceConfig
from napari_sa2net.widgets.common import Form, fold_button, link_button, tip_of
from napari_sa2net.widgets.correct.tools import NAPARI_KEYS, OTHER_KEYS, TOOLS
from napari_sa2net.widgets.number_field import NumberField, take_typed
from napari_sa2net.widgets.value_slider import ValueSlider


class CellsRow(QComboBox):
    """List of Labels layers.

    Signals
    -------
    chosen : str
        Key of the layer that was picked.
    """

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.setMinimumContentsLength(8)
        self.activated.connect(lambda index: self.chosen.emit(self.itemData(index)))

    def set_choices(self, choices: list[tuple[str, str]], current: str | None) -> None:
        """Show the layers (key, name); says nothing."""
        self.blockSignals(True)
        self.clear()
        for key, name in choices:
            self.addItem(name, key)
        self.setCurrentIndex(self.findData(current))
        self.blockSignals(False)


class OfferBox(QFrame):
    """Corrections that were never kept; hidden where there are none.

    Signals
    -------
    restoreWanted, discardWanted : Offer
    """

    restoreWanted = Signal(object)
    discardWanted = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "hint")
        self._offers: tuple[Offer, ...] = ()
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.restore = link_button("Restore", "Show them as a new layer and go on")
        self.discard = link_button("Discard…", "Delete them for good")
        self.sure = link_button("Delete for good", "There is no way back")
        row = QHBoxLayout()
        row.setSpacing(10)
        row.addWidget(self.restore)
        row.addWidget(self.discard)
        row.addWidget(self.sure)
        row.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 6, 8, 6)
        layout.setSpacing(4)
        layout.addWidget(self.words)
        layout.addLayout(row)
        self.restore.clicked.connect(lambda: self.restoreWanted.emit(self._offers[0]))
        self.discard.clicked.connect(lambda: self._ask(True))
        self.sure.clicked.connect(lambda: self.discardWanted.emit(self._offers[0]))
        self.set_offers(())

    def set_offers(self, offers: tuple[Offer, ...]) -> None:
        """Show the newest."""
        self._offers = offers
        self.setVisible(bool(offers))
        if offers:
            newest, more = offers[0], len(offers) - 1
            text = f"{newest.words}, were never kept."
            if newest.problem:
                text = f"{text} {newest.problem}"
            if more:
                text += f" ({more} older one{'' if more == 1 else 's'} after that.)"
            self.words.setText(text)
            self.restore.setEnabled(not newest.problem)
        self._ask(False)

    def _ask(self, sure: bool) -> None:
        self.sure.setVisible(sure)
        self.discard.setVisible(not sure)


class BoxSettings(QWidget):
    """How a box is segmented again; starts with the settings of the Segment page."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        fields = InstanceConfig.model_fields
        self.foreground = ValueSlider(0.02, 0.98)
        self.split = ValueSlider(0, 1)
        self.diameter_box = NumberField()
        self.diameter_box.setRange(0, 10000)
        self.diameter_box.setDecimals(1)
        self.diameter_box.setSpecialValueText("as before")
        self.diameter_box.setSuffix(" px")
        form = Form()
        form.add(
            fields["foreground"].title or "Foreground",
            self.foreground,
            tip_of(InstanceConfig, "foreground"),
        )
        form.add(fields["split"].title or "Split", self.split, tip_of(InstanceConfig, "split"))
        form.add(
            "Object size",
            self.diameter_box,
            "Diameter of a cell in the box, in pixels; smaller finds smaller cells",
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(form)

    def set_values(self, config: InstanceConfig) -> None:
        """Start from these."""
        self.foreground.setValue(config.foreground)
        self.split.setValue(config.split)

    def instances(self, base: InstanceConfig) -> InstanceConfig:
        """``base`` with what the sliders say."""
        take_typed(self)
        return base.model_copy(
            update={"foreground": self.foreground.value(), "split": self.split.value()}
        )

    def diameter(self) -> float | None:
        """Object size in px; None for as before."""
        take_typed(self)
        return self.diameter_box.value() or None


class CheatSheet(QWidget):
    """All keys, folded away until asked for."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.fold = fold_button("Keys", "All keys of this page and the handiest of napari's")
        self.sheet = QLabel(_sheet())
        self.sheet.setTextFormat(Qt.TextFormat.RichText)
        self.sheet.setVisible(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.fold)
        layout.addWidget(self.sheet)
        self.fold.toggled.connect(self.sheet.setVisible)


def _sheet() -> str:
    tools = [(tool.key, tool.words) for tool in TOOLS]
    half = (len(tools) + 1) // 2
    rows = [_row(*left, *right) for left, right in zip(tools[:half], tools[half:], strict=True)]
    history = [("Ctrl+Z", "undo"), ("Ctrl+Shift+Z", "redo"), ("Esc", "lay the tool down")]
    others = [(key.replace("-", "+"), words) for key, words in OTHER_KEYS]
    rows += [_wide(key, words) for key, words in (*others, *history)]
    rows += [_wide(key, words + " (napari)") for key, words in NAPARI_KEYS]
    return f"<table cellspacing='2'>{''.join(rows)}</table>"


def _row(key: str, words: str, key2: str, words2: str) -> str:
    cell = "<td style='padding-right:6px'><b>{}</b></td><td style='padding-right:16px'>{}</td>"
    left, right = cell.format(escape(key), words), cell.format(escape(key2), words2)
    return f"<tr>{left}{right}</tr>"


def _wide(key: str, words: str) -> str:
    return (
        f"<tr><td style='padding-right:6px'><b>{escape(key)}</b></td>"
        f"<td colspan='3'>{escape(words)}</td></tr>"
    )
