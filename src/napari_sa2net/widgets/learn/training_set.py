"""The training set: its folder, a short list of what is in it, and how it will be divided."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.training_set import ImportQuestion, SetItem, SetSaid, SetSummary, cells
from napari_sa2net.widgets.controls import Form, link_button, muted
from napari_sa2net.widgets.rows import ChannelButton

# --------------------------------------------------------------------------------------------
# What has to be said of images before they are taken into the training set.

AXES_TIP = "The axis of the files that counts channels, and how long it is"
CHANNELS_TIP = (
    "The channels that show the cells: these are copied and learned from. Choose those that "
    "you segment with"
)


class ImportBox(QWidget):
    """A question and its answer, in the place of a dialog.

    Signals
    -------
    answered : Path, str, tuple of int
        Source, axes (empty where the files tell) and channels.
    dropped
        Nothing shall be taken in.
    """

    answered = Signal(object, str, tuple)
    dropped = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._question: ImportQuestion | None = None
        self.words = muted()
        self.axes = QComboBox()
        self.axes.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.axes.setMinimumContentsLength(8)
        self.channels = ChannelButton()
        self.form = Form()
        # as wide as the fields of other rows
        self.channels.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.form.add("Channels are", self.axes, AXES_TIP)
        self.form.add("Cells are in", self.channels, CHANNELS_TIP)
        self.take_in = QPushButton("Import")
        self.drop = link_button("Cancel", "Take nothing in")
        row = QHBoxLayout()
        row.addWidget(self.take_in, 1)
        row.addWidget(self.drop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.words)
        layout.addWidget(self.form)
        layout.addLayout(row)
        self.axes.activated.connect(lambda _: self._show_channels())
        self.take_in.clicked.connect(self._answer)
        self.drop.clicked.connect(self.dropped)
        self.set_question(None)

    def set_question(self, question: ImportQuestion | None) -> None:
        """Ask; hidden where there is nothing to ask."""
        self.setVisible(question is not None)
        if question is None or question == self._question:
            self._question = question
            return
        self._question = question
        self.axes.clear()
        for axes in question.axes:
            side = "first" if axes.startswith("C") else "last"
            self.axes.addItem(f"{side} axis ({question.shape[axes.index('C')]})", axes)
        self.form.set_row_visible(self.axes, len(question.axes) > 1)
        self._show_channels()

    def _show_channels(self) -> None:
        assert self._question is not None
        names = self._question.channels(self.axes.currentData())
        self.channels.set_channels(list(names), (0,))
        self.words.setText(
            f"The images of {self._question.source.name} have {len(names)} channels. Say which "
            "of them show the cells."
        )

    def _answer(self) -> None:
        if self._question is not None:
            axes = self.axes.currentData() if self.axes.count() > 1 else ""
            self.answered.emit(self._question.source, axes, self.channels.value())


# --------------------------------------------------------------------------------------------
# What can be done with the images of the training set.

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


ICON = 28
#: rows that are seen at once
ROWS = 3


class SetSection(QWidget):
    """What is learned from.

    Signals
    -------
    folderChosen : Path
    """

    folderChosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder = Path()
        self._shown: tuple[SetItem, ...] = ()
        self.folder = QLabel()
        self.folder.setProperty("role", "muted")
        # However long its name, the dock stays as narrow as it is; the tooltip has all of it.
        self.folder.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.folder.setMinimumWidth(60)
        self.change = link_button("change…", "Learn from another folder, and keep there too")
        where = QWidget()
        row = QHBoxLayout(where)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.folder, 1)
        row.addWidget(self.change)
        form = Form()
        form.add("Learn from", where, "The folder of your training set")
        self.list = QListWidget()
        self.list.setIconSize(QSize(ICON, ICON))
        self.list.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setUniformItemSizes(True)
        self.list.setAccessibleName("Images of the training set")
        self.total = QLabel()
        self.total.setProperty("role", "summary")
        self.division = muted()
        self.buttons = SetActions()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        parts: list[QWidget] = [form, self.list, self.buttons, self.total, self.division]
        for part in parts:
            layout.addWidget(part)
        self.change.clicked.connect(self._choose)
        self.list.itemSelectionChanged.connect(self._show_chosen)

    def set_folder(self, folder: Path) -> None:
        """Show where it lies."""
        self._folder = folder
        self.folder.setText(folder.name)
        self.folder.setToolTip(str(folder))
        self.buttons.set_folder(folder)

    def chosen(self) -> list[str]:
        """Keys of the rows that are selected, from top to bottom."""
        items = sorted(self.list.selectedItems(), key=self.list.row)
        return [item.data(Qt.ItemDataRole.UserRole) for item in items]

    def set_summary(self, summary: SetSummary | None) -> None:
        """Show what is in it; None while it is being read."""
        there = summary is not None and summary.n_images > 0
        for part in (self.list, self.total, self.division):
            part.setVisible(there)
        self.buttons.setVisible(summary is not None)
        if summary is not None:
            self.buttons.set_summary(summary)
        if summary is None or not there:
            return
        self.total.setText(total_words(summary))
        self.division.setText(summary.division)
        if summary.items != self._shown:
            self._shown = summary.items
            self._fill()

    def _fill(self) -> None:
        chosen = set(self.chosen())
        self.list.clear()
        for one in self._shown:
            item = QListWidgetItem(_line(one))
            item.setToolTip(_tip(one))
            item.setSizeHint(QSize(10, ICON + 6))
            if one.thumbnail is not None:
                item.setIcon(QIcon(pixmap(one.thumbnail)))
            item.setData(Qt.ItemDataRole.UserRole, one.key)
            self.list.addItem(item)
            item.setSelected(one.key in chosen)
        rows = min(ROWS, len(self._shown))
        self.list.setFixedHeight(rows * (ICON + 6) + 2 * self.list.frameWidth() + 2)

    def _show_chosen(self) -> None:
        self.buttons.set_chosen(len(self.list.selectedItems()))

    def _choose(self) -> None:
        start = self._folder if self._folder.is_dir() else self._folder.parent
        chosen = QFileDialog.getExistingDirectory(
            self, "Folder of the training set", str(start)
        )
        if chosen:
            self.folderChosen.emit(Path(chosen))


def pixmap(values: Any) -> QPixmap:
    """A thumbnail, uint8 (h, w) or (h, w, 3), as a square picture."""
    rgb = np.asarray(values)
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[..., None], 3, axis=2)
    side = min(rgb.shape[:2])
    y, x = ((n - side) // 2 for n in rgb.shape[:2])
    rgb = np.ascontiguousarray(rgb[y : y + side, x : x + side])
    image = QImage(rgb.tobytes(), side, side, 3 * side, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image.copy()).scaled(
        ICON,
        ICON,
        Qt.AspectRatioMode.IgnoreAspectRatio,
        Qt.TransformationMode.SmoothTransformation,
    )


def total_words(summary: SetSummary) -> str:
    """``3 images · 57 reviewed cells · 2 groups``."""
    n, groups = summary.n_images, summary.n_groups
    parts = [f"{n} image{'' if n == 1 else 's'}"]
    if summary.n_cells is not None:
        parts.append(cells(summary.n_cells).replace("cell", "reviewed cell"))
    if groups:
        parts.append(f"{groups} group{'' if groups == 1 else 's'}")
    return " · ".join(parts)


def when_words(time: str, now: datetime | None = None) -> str:
    """``today 14:05``, ``yesterday``, ``3 March``; empty for what is no time."""
    try:
        at = datetime.fromisoformat(time)
    except ValueError:
        return ""
    at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone()
    days = ((now or datetime.now()).date() - at.date()).days
    if days == 0:
        return f"today {at:%H:%M}"
    if days == 1:
        return "yesterday"
    return f"{at.day} {at:%B}" + ("" if days < 300 else f" {at.year}")


def _line(one: SetItem) -> str:
    parts = [one.name]
    if one.n_cells is not None:
        parts.append(cells(one.n_cells))
    when = when_words(one.time)
    if when:
        parts.append(when)
    return " · ".join(parts)


def _tip(one: SetItem) -> str:
    group = f"\ngroup {one.group}" if one.group else ""
    return f"{_line(one)}{group}"
