"""What can be done with the chosen model."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.models.registry import MAX_NAME, ModelEntry
from napari_sa2net.widgets.common import link_button

BUNDLED_TIP = "Bundled models stay as they are; export it and import the copy to change that"

RENAME_TIP = "Call it something else; its file keeps its content"
REMOVE_TIP = "Take it out of the list; asks first, and it can be put back"


class Actions(QWidget):
    """The big button "Use", and what else there is, with the questions that it asks.

    Signals
    -------
    useWanted, exportWanted, asideWanted, promoteWanted, removeWanted
    renameWanted : str
        The new name.
    """

    useWanted = Signal()
    exportWanted = Signal()
    asideWanted = Signal()
    promoteWanted = Signal()
    removeWanted = Signal()
    renameWanted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._entry: ModelEntry | None = None
        self.use = QPushButton()
        self.use.setProperty("role", "primary")
        self.rename = _plain("Rename…", RENAME_TIP)
        self.export = _plain("Export…", "Copy its file elsewhere, to keep it or give it away")
        self.shelf = _plain("Set aside", "")
        self.remove = _plain("Remove…", REMOVE_TIP)
        grid = QGridLayout()
        grid.setSpacing(6)
        # Two by two: four in a row are wider than the dock when letters are large.
        for i, button in enumerate((self.rename, self.export, self.shelf, self.remove)):
            grid.addWidget(button, i // 2, i % 2)
            grid.setColumnStretch(i % 2, 1)
        self.name_row = NameRow()
        self.question = Question()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.use)
        layout.addLayout(grid)
        layout.addWidget(self.name_row)
        layout.addWidget(self.question)
        self.use.clicked.connect(self.useWanted)
        self.export.clicked.connect(self.exportWanted)
        self.shelf.clicked.connect(self._shelf)
        self.rename.clicked.connect(self.ask_name)
        self.remove.clicked.connect(self.ask_remove)
        self.name_row.accepted.connect(self._renamed)
        self.question.answered.connect(self.removeWanted)
        self.set_entry(None, "", busy=False)

    def set_entry(self, entry: ModelEntry | None, used: str, *, busy: bool) -> None:
        """Offer what can be done with a model; questions about another one are closed."""
        if entry is None or self._entry is None or entry.name != self._entry.name:
            self.name_row.setVisible(False)
            self.question.setVisible(False)
        self._entry = entry
        in_use = entry is not None and entry.name == used
        aside = entry is not None and entry.aside
        if in_use:
            self.use.setText("In use")
            self.use.setToolTip("This model is chosen on the Segment page")
        elif aside:
            self.use.setText("Offer again and use")
            self.use.setToolTip("Offer it on the Segment page again, and choose it there")
        else:
            self.use.setText("Use")
            self.use.setToolTip("Choose this model on the Segment page")
        self.use.setEnabled(entry is not None and not in_use and not busy)
        self.export.setEnabled(entry is not None and not busy)
        own = entry is not None and not entry.bundled
        for button in (self.rename, self.shelf, self.remove):
            button.setEnabled(own and not busy)
        self.shelf.setText("Offer again" if aside else "Set aside")
        shelf = (
            "Offer it on the Segment page again"
            if aside
            else "Keep it here, but do not offer it on the Segment page"
        )
        self.shelf.setToolTip(shelf if own else BUNDLED_TIP)
        self.remove.setToolTip(
            "Take it out of the list; asks first, and it can be put back"
            if own
            else BUNDLED_TIP
        )
        self.rename.setToolTip(
            "Call it something else; its file keeps its content" if own else BUNDLED_TIP
        )

    def ask_name(self) -> None:
        """Open the field for the new name."""
        if self._entry is not None:
            self.question.setVisible(False)
            self.name_row.ask(self._entry.name)

    def ask_remove(self) -> None:
        """Ask whether to remove the model."""
        if self._entry is not None:
            self.name_row.setVisible(False)
            self.question.ask(
                f"Remove {self._entry.name} from the list? Its file goes to the folder "
                "“removed” beside your models, from where it can be put back.",
                "Remove",
            )

    def _shelf(self) -> None:
        if self._entry is not None and self._entry.aside:
            self.promoteWanted.emit()
        else:
            self.asideWanted.emit()

    def _renamed(self, name: str) -> None:
        self.name_row.setVisible(False)
        self.renameWanted.emit(name)


class NameRow(QWidget):
    """A field for a name, with what accepts it.

    Signals
    -------
    accepted : str
    """

    accepted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.field = QLineEdit()
        self.field.setMaxLength(MAX_NAME)
        self.field.setAccessibleName("New name")
        self.field.setToolTip(
            f"1 to {MAX_NAME} letters, digits, spaces, dots, dashes or underscores"
        )
        self.ok = _plain("Rename", "Take this name (Enter)")
        self.cancel = link_button("Cancel", "Keep the name (Esc)")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.field, 1)
        row.addWidget(self.ok)
        row.addWidget(self.cancel)
        self.field.returnPressed.connect(self._accept)
        self.ok.clicked.connect(self._accept)
        self.cancel.clicked.connect(self.hide)
        self.field.textChanged.connect(lambda text: self.ok.setEnabled(bool(text.strip())))
        self.setVisible(False)

    def ask(self, name: str) -> None:
        """Show the field with the present name."""
        self.field.setText(name)
        self.field.selectAll()
        self.setVisible(True)
        self.field.setFocus()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        if event is not None and event.key() == Qt.Key.Key_Escape:
            self.hide()
            return
        super().keyPressEvent(event)

    def _accept(self) -> None:
        name = self.field.text().strip()
        if name:
            self.accepted.emit(name)


class Question(QFrame):
    """A question on the page, with one answer that does it and one that does not.

    Signals
    -------
    answered
        Yes.
    """

    answered = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "hint")
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.yes = QPushButton()
        self.no = QPushButton("Keep it")
        self.no.setToolTip("Change nothing")
        for button in (self.yes, self.no):
            button.setProperty("role", "plain")
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(self.no)
        row.addWidget(self.yes)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 8, 8, 8)
        layout.addWidget(self.words)
        layout.addLayout(row)
        self.yes.clicked.connect(self._answer)
        self.no.clicked.connect(self.hide)
        self.setVisible(False)

    def ask(self, words: str, yes: str) -> None:
        """Show the question."""
        self.words.setText(words)
        self.yes.setText(yes)
        self.yes.setToolTip(words.split("? ")[-1])
        self.setVisible(True)
        self.no.setFocus()

    def _answer(self) -> None:
        self.hide()
        self.answered.emit()


def _plain(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setProperty("role", "plain")
    button.setToolTip(tip)
    return button
