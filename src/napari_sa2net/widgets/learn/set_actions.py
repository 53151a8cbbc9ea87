"""What can be done with the images of the training set."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.learn_state import SetSaid, SetSummary
from napari_sa2net.widgets.common import link_button, muted
from napari_sa2net.widgets.learn.import_question import ImportBox

ZIP = "Zip file (*.zip)"
FOLDER = "New folder (*)"
CHOOSE = "Choose an image in the list first"
#: why a folder of images and labels, with no list of ours, is left as it is
YOURS = "This folder has no list of corrections: its files are yours to add, copy and delete"
SHOW_TIP = (
    "Open the kept image and its cells as two layers, a crop at its place in the whole; what "
    "you work on stays selected. Correct and keep them, and they replace what was kept"
)
REMOVE_TIP = (
    "Nothing is learned from it any more; its files stay in the set, and Undo is offered"
)
IMPORT_TIP = (
    "Copy images with labels into this training set: another training set, or a folder with "
    "images/ and labels/ inside. What is here already is passed over"
)
EXPORT_TIP = "Copy this training set to a zip file or a new folder, to keep it or give it away"


class SetActions(QWidget):
    """Four buttons, and what the last one did.

    Signals
    -------
    showWanted, removeWanted, undoWanted
    importWanted : Path
        A folder or a zip file.
    importAnswered : Path, str, tuple of int
        What was asked of it: axes and channels.
    importDropped
    exportWanted : Path, bool
        Where to, and whether a person has agreed to replace what is there.
    """

    showWanted = Signal()
    removeWanted = Signal()
    undoWanted = Signal()
    importWanted = Signal(object)
    importAnswered = Signal(object, str, tuple)
    importDropped = Signal()
    exportWanted = Signal(object, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder = Path()
        self._chosen = 0
        self._busy = False
        self._summary = SetSummary(Path())
        self.open = QPushButton("Show")
        self.remove = QPushButton("Remove")
        self.take_in = QPushButton("Import…")
        self.copy = QPushButton("Export…")
        row = QHBoxLayout()
        row.setSpacing(4)
        for button in (self.open, self.remove, self.take_in, self.copy):
            button.setProperty("role", "plain")
            row.addWidget(button, 1)
        menu = QMenu(self)
        menu.addAction("From a folder…", self._choose_folder)
        menu.addAction("From a zip file…", self._choose_zip)
        self.take_in.setMenu(menu)
        self.question = ImportBox()
        self.busy = muted()
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.undo = link_button("Undo", "Put what was removed back into the training set")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(row)
        for part in (self.question, self.busy, self.said, self.undo):
            layout.addWidget(part)
        self.open.clicked.connect(self.showWanted)
        self.remove.clicked.connect(self.removeWanted)
        self.copy.clicked.connect(self._choose_target)
        self.undo.clicked.connect(self.undoWanted)
        self.question.answered.connect(self.importAnswered)
        self.question.dropped.connect(self.importDropped)
        self.set_news("", None)

    def set_folder(self, folder: Path) -> None:
        """Where the set lies."""
        self._folder = folder

    def set_summary(self, summary: SetSummary) -> None:
        """What the set is, and so what can be done with it."""
        self._summary = summary
        self._show_buttons()

    def set_chosen(self, n: int) -> None:
        """How many rows of the list are selected."""
        self._chosen = n
        self._show_buttons()

    def set_news(self, busy: str, said: SetSaid | None) -> None:
        """Show what is being done, or was."""
        self._busy = bool(busy)
        self.busy.setText(busy)
        self.busy.setVisible(bool(busy))
        self.said.setText(said.text if said is not None else "")
        self.said.setVisible(said is not None)
        self.undo.setVisible(said is not None and bool(said.removed))
        self._show_buttons()

    def _show_buttons(self) -> None:
        summary = self._summary
        any_, free = summary.n_images > 0, not self._busy
        yours = any_ and not summary.listed
        chosen = self._chosen > 0
        for button in (self.open, self.remove, self.copy):
            button.setVisible(any_)
        self.take_in.setVisible(not summary.gone)
        self.open.setEnabled(free and chosen)
        self.remove.setEnabled(free and chosen and not yours)
        self.take_in.setEnabled(free and not yours)
        self.copy.setEnabled(free and not yours)
        self.open.setToolTip(SHOW_TIP if chosen else CHOOSE)
        self.remove.setToolTip(YOURS if yours else REMOVE_TIP if chosen else CHOOSE)
        self.take_in.setToolTip(YOURS if yours else IMPORT_TIP)
        self.copy.setToolTip(YOURS if yours else EXPORT_TIP)

    def _choose_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder to import")
        if chosen:
            self.importWanted.emit(Path(chosen))

    def _choose_zip(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Zip file to import", "", ZIP)
        if chosen:
            self.importWanted.emit(Path(chosen))

    def _choose_target(self) -> None:
        chosen, kind = QFileDialog.getSaveFileName(
            self, "Export the training set", f"{self._folder.name}.zip", f"{ZIP};;{FOLDER}"
        )
        if not chosen:
            return
        path = Path(chosen)
        # the dialog has asked only about the very name that it returns
        asked = path.is_file()
        if kind == ZIP and path.suffix.lower() != ".zip":
            path, asked = path.with_name(path.name + ".zip"), False
        self.exportWanted.emit(path, asked)
