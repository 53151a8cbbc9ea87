"""Which model, and its card behind an info button."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from qtpy.QtCore import QPoint, Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.model_words import short_rows
from napari_sa2net.models.registry import ModelEntry


def card_html(entry: ModelEntry) -> str:
    """The card of a model in words, as rich text."""
    text = f"<h3 style='margin:0'>{escape(entry.name)}</h3>"
    if entry.card.description:
        text += f"<p style='margin:4px 0'>{escape(entry.card.description)}</p>"
    return text + rows_html((escape(name), escape(value)) for name, value in short_rows(entry))


def rows_html(rows: Iterable[tuple[str, str]]) -> str:
    """Titles and values, both rich text, as a table."""
    left, right = "padding:3px 12px 3px 0", "padding:3px 0"
    table = "".join(
        f"<tr><td style='{left}'>{name}</td><td style='{right}'>{value}</td></tr>"
        for name, value in rows
    )
    return f"<table cellspacing='0'>{table}</table>"


class CardPopup(QFrame):
    """The card beside its button; a click elsewhere closes it."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setProperty("role", "card")
        self.label = QLabel()
        self.label.setTextFormat(Qt.TextFormat.RichText)
        self.label.setWordWrap(True)
        self.label.setFixedWidth(320)
        self.label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 10)
        layout.addWidget(self.label)

    def show_card(self, entry: ModelEntry, under: QWidget) -> None:
        """Show a model's card under a widget, right edges aligned."""
        self.label.setText(card_html(entry))
        self.adjustSize()
        corner = under.mapToGlobal(QPoint(under.width(), under.height() + 4))
        self.move(corner - QPoint(self.width(), 0))
        self.show()


class ModelRow(QWidget):
    """List of models and the info button.

    Signals
    -------
    valueChanged : str
        Name of the model that was picked.
    """

    valueChanged = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._entries: dict[str, ModelEntry] = {}
        self.combo = QComboBox()
        self.combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.combo.setMinimumContentsLength(6)
        self.combo.setToolTip("The trained network that finds the cells")
        self.info = QToolButton()
        self.info.setText("i")
        self.info.setProperty("role", "info")
        self.info.setToolTip("What this model was trained on, its scores, object size, licence")
        self.info.setAccessibleName("About this model")
        self.info.setEnabled(False)
        self.popup = CardPopup(self)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.combo, 1)
        layout.addWidget(self.info)
        self.combo.activated.connect(self._activated)
        self.info.clicked.connect(self.show_card)

    def set_models(self, entries: tuple[ModelEntry, ...], current: str) -> None:
        """Offer models; says nothing."""
        self._entries = {entry.name: entry for entry in entries}
        self.combo.blockSignals(True)
        self.combo.clear()
        for name in self._entries:
            self.combo.addItem(name, name)
        self.combo.blockSignals(False)
        self.setValue(current)

    def value(self) -> str | None:
        """Name of the shown model."""
        return self.combo.currentData()

    def setValue(self, name: str) -> None:
        """Show a model by name; says nothing."""
        self.combo.blockSignals(True)
        self.combo.setCurrentIndex(self.combo.findData(name))
        self.combo.blockSignals(False)
        self.info.setEnabled(self.entry() is not None)

    def entry(self) -> ModelEntry | None:
        """The shown model with its card."""
        return self._entries.get(self.value() or "")

    def show_card(self) -> None:
        """Open the card of the shown model."""
        entry = self.entry()
        if entry is not None:
            self.popup.show_card(entry, self)

    def _activated(self, index: int) -> None:
        self.info.setEnabled(True)
        self.valueChanged.emit(self.combo.itemData(index))
