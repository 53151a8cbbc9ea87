"""Two models side by side, as numbers with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.model_words import part_words
from napari_sa2net.training.comparison import Comparison
from napari_sa2net.widgets.common import Form, link_button, muted

AP_TIP = (
    "AP: share of cells that are found with at least half their area in common, of all that "
    "are there or were found. In brackets: 95 % interval of the difference"
)


class CompareSection(QWidget):
    """Which models, on what, and how they did.

    Signals
    -------
    compareWanted
    otherChosen : str
    folderChosen : Path
    """

    compareWanted = Signal()
    otherChosen = Signal(str)
    folderChosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder = Path()
        self.title = QLabel("Compare")
        self.title.setProperty("role", "summary")
        self.title.setWordWrap(True)
        self.other = QComboBox()
        self.other.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.other.setMinimumContentsLength(8)
        self.folder = QLabel()
        self.folder.setProperty("role", "muted")
        self.change = link_button("change…", "Another training set to compare on")
        where = QWidget()
        row = QHBoxLayout(where)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.folder, 1)
        row.addWidget(self.change)
        form = Form()
        form.add("With", self.other, "The model to compare it with, such as its parent")
        form.add("On", where, "Your corrections that neither of both has learned from")
        self.note = muted()
        self.button = QPushButton("Compare")
        self.button.setProperty("role", "plain")
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.verdict.setProperty("role", "summary")
        self.table = QLabel()
        self.table.setTextFormat(Qt.TextFormat.RichText)
        self.table.setWordWrap(True)
        self.table.setToolTip(AP_TIP)
        self.table.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.notes = muted()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        parts: list[QWidget] = [
            *(self.title, form, self.note, self.button),
            *(self.verdict, self.table, self.notes),
        ]
        for part in parts:
            layout.addWidget(part)
        self.button.clicked.connect(self.compareWanted)
        self.other.activated.connect(
            lambda index: self.otherChosen.emit(self.other.itemData(index))
        )
        self.change.clicked.connect(self._choose)
        self.set_models("", (), "")
        self.set_folder(Path(), has_corrections=False)
        self.set_result(None)
        self.set_running(False, False)

    def set_models(self, chosen: str, names: Sequence[str], other: str) -> None:
        """Offer models to compare the chosen one with; says nothing."""
        self.title.setText(f"Compare {chosen}" if chosen else "Compare")
        self.other.blockSignals(True)
        self.other.clear()
        for name in names:
            if name != chosen:
                self.other.addItem(name, name)
        self.other.setCurrentIndex(self.other.findData(other))
        self.other.blockSignals(False)
        self.other.setEnabled(self.other.count() > 0)

    def set_folder(self, folder: Path, *, has_corrections: bool) -> None:
        """Show what is compared on."""
        self._folder = folder
        self.folder.setText(folder.name if has_corrections else "no corrections yet")
        self.folder.setToolTip(str(folder))
        self.note.setText(
            "Scores both on corrections that neither learned from, and on a reference set "
            "of synthetic cells."
            if has_corrections
            else "Scores both on a reference set of synthetic cells. Corrections of yours "
            "would tell more."
        )

    def set_running(self, running: bool, comparing: bool) -> None:
        """Whether the engine is busy, and whether with this."""
        can = self.other.count() > 0 and not running
        self.button.setEnabled(can)
        self.button.setText("Comparing…" if comparing else "Compare")
        if self.other.count() == 0:
            tip = "There is no other model to compare it with"
        elif running:
            tip = "Something runs; wait for its end, or cancel it"
        else:
            tip = "Score both models on the same images. Nothing is changed"
        self.button.setToolTip(tip)

    def set_result(self, result: Comparison | None) -> None:
        """Show how the two did, or nothing."""
        for label in (self.verdict, self.table, self.notes):
            label.setVisible(result is not None)
        if result is None:
            return
        self.verdict.setText(result.verdict.text)
        rows = []
        for part in result.parts:
            about, scores = part_words(part)
            rows.append(
                f"<p style='margin:4px 0 0 0'>{escape(about)}</p>"
                f"<p style='margin:0 0 0 12px'><b>{escape(scores)}</b></p>"
            )
        head = f"{escape(result.first)} → {escape(result.second)}"
        self.table.setText(f"<p style='margin:0'>{head}</p>{''.join(rows)}")
        self.notes.setText(" ".join(result.notes))
        self.notes.setVisible(bool(result.notes))

    def _choose(self) -> None:
        start = self._folder if self._folder.is_dir() else self._folder.parent
        chosen = QFileDialog.getExistingDirectory(
            self, "Folder of the training set", str(start)
        )
        if chosen:
            self.folderChosen.emit(Path(chosen))
