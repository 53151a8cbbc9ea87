"""The card of the chosen model, in words, with its family."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from urllib.parse import quote, unquote

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_sa2net.app.model_words import detail_rows, file_words, lineage, main_rows
from napari_sa2net.app.models_state import Family
from napari_sa2net.models.registry import ModelEntry
from napari_sa2net.widgets.common import fold_button, muted
from napari_sa2net.widgets.model_row import rows_html

GAMMA_TIP = (
    "γ: exponent of the attention maps, from the coarsest to the finest. Above 1 a map keeps "
    "only what it is sure of; 1 is ordinary attention, 0 none"
)


class CardSection(QWidget):
    """Title, description, and a row for all that the card says.

    Signals
    -------
    chosen : str
        A relative of the model was clicked.
    """

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._link_color = ""
        self._shown: tuple[ModelEntry, dict[str, Family]] | None = None
        self.title = QLabel()
        self.title.setProperty("role", "title")
        self.title.setWordWrap(True)
        self.description = muted()
        self.rows, self.details = _table(), _table()
        self.details.setToolTip(GAMMA_TIP)
        self.details.setVisible(False)
        self.fold = fold_button("Details", "Network, classes, γ, commits, versions, file")
        self.fold.toggled.connect(self.details.setVisible)
        self.rows.linkActivated.connect(lambda link: self.chosen.emit(unquote(link)))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for part in (self.title, self.description, self.rows, self.fold, self.details):
            layout.addWidget(part)

    def set_link_color(self, color: str) -> None:
        """Colour of links, which a style sheet cannot set."""
        self._link_color = color
        if self._shown is not None:
            self.set_card(*self._shown)

    def set_card(self, entry: ModelEntry | None, families: Mapping[str, Family]) -> None:
        """Show a model's card, or nothing."""
        self.setVisible(entry is not None)
        if entry is None:
            self._shown = None
            return
        self._shown = (entry, dict(families))
        self.title.setText(entry.name)
        self.description.setText(entry.card.description)
        self.description.setVisible(bool(entry.card.description))
        rows = _html(main_rows(entry))
        family = self._family(entry.name, families)
        if family:
            rows.insert(0, ("Family", family))
        self.rows.setText(rows_html(rows))
        details = _html(detail_rows(entry))
        details.append(
            ("File", f"{escape(file_words(entry))}<br>{_breakable(str(entry.path))}")
        )
        self.details.setText(rows_html(details))

    def _family(self, name: str, families: Mapping[str, Family]) -> str:
        """Ancestors → this one → children."""
        chain, children = lineage(dict(families), name)
        if not chain and not children:
            return ""
        parts = [self._link(one, families) for one in chain]
        parts.append(f"<b>{escape(name)}</b>")
        if children:
            parts.append(", ".join(self._link(one, families) for one in children))
        return " → ".join(parts)

    def _link(self, name: str, families: Mapping[str, Family]) -> str:
        if name not in families:
            return f"{escape(name)} (not in the list)"
        style = f" style='color:{self._link_color}'" if self._link_color else ""
        return f"<a href='{quote(name)}'{style}>{escape(name)}</a>"


def _table() -> QLabel:
    label = QLabel()
    label.setTextFormat(Qt.TextFormat.RichText)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
    return label


def _html(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(escape(title), escape(value).replace("\n", "<br>")) for title, value in rows]


def _breakable(path: str) -> str:
    """A path that lines may break after a separator."""
    return escape(path).replace("/", "/\u200b").replace("\\", "\\\u200b")
