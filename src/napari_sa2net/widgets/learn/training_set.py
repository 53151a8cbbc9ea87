"""The training set: its folder, a short list of what is in it, and how it will be divided."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QFileDialog,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QPushButton,
    QSizePolicy,
    QWidget,
)

from napari_sa2net.app.learn import LearnController
from napari_sa2net.app.training_set import (
    ImportQuestion,
    LearnSet,
    LearnState,
    SetItem,
    SetSummary,
)
from napari_sa2net.widgets.controls import (
    FolderRow,
    Form,
    hbox,
    link_button,
    muted,
    narrow_combo,
    push_button,
    show_text,
    text_label,
    vbox,
)
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.rows import ChannelButton
from napari_sa2net.words import counted

# --------------------------------------------------------------------------------------------
# What has to be said of images before they are taken into the training set.

AXES_TIP = "The axis of the files that counts channels, and how long it is"
CHANNELS_TIP = (
    "The channels that show the cells: these are copied and learned from. Choose those that "
    "you segment with"
)


class ImportBox(QWidget):
    """A question and its answer, in the place of a dialog."""

    def __init__(self, controller: LearnSet) -> None:
        super().__init__()
        self._controller = controller
        self._question: ImportQuestion | None = None
        self.words = muted()
        self.axes = narrow_combo(8)
        self.channels = ChannelButton()
        self.form = Form()
        # as wide as the fields of other rows
        self.channels.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.form.add("Channels are", self.axes, AXES_TIP)
        self.form.add("Cells are in", self.channels, CHANNELS_TIP)
        self.take_in = QPushButton("Import")
        self.drop = link_button("Cancel", "Take nothing in")
        row = hbox((self.take_in, 1), self.drop)
        vbox(self.words, self.form, row, on=self, spacing=4)
        self.axes.activated.connect(lambda _: self._show_channels())
        self.take_in.clicked.connect(self._answer)
        self.drop.clicked.connect(controller.drop_question)
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
            channels = self.channels.value()
            self._controller.take_in(self._question.source, axes, channels)


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

    Parameters
    ----------
    controller : LearnSet
    state : LearnState
    connections : Connections
    chosen : callable() -> list of str
        Keys of the images that are selected.
    """

    def __init__(
        self,
        controller: LearnSet,
        state: LearnState,
        connections: Connections,
        chosen: Callable[[], list[str]],
    ) -> None:
        super().__init__()
        self._controller, self._state = controller, state
        self._chosen = chosen
        self.open = push_button("Show")
        self.remove = push_button("Remove")
        self.take_in = push_button("Import…")
        self.copy = push_button("Export…")
        buttons = (self.open, self.remove, self.take_in, self.copy)
        row = hbox(*((button, 1) for button in buttons), spacing=4)
        menu = QMenu(self)
        menu.addAction("From a folder…", self._choose_folder)
        menu.addAction("From a zip file…", self._choose_zip)
        self.take_in.setMenu(menu)
        self.question = ImportBox(controller)
        self.busy = muted()
        self.said = text_label()
        self.undo = link_button("Undo", "Put what was removed back into the training set")
        vbox(row, self.question, self.busy, self.said, self.undo, on=self, spacing=4)
        self.open.clicked.connect(lambda: controller.show(chosen()))
        self.remove.clicked.connect(lambda: controller.remove(chosen()))
        self.copy.clicked.connect(self._choose_target)
        self.undo.clicked.connect(controller.put_back)
        events = state.events
        connections.follow(
            self._show_news, events.set_busy, events.set_said, events.set_question
        )

    def _show_news(self) -> None:
        """What is being done, or was."""
        said = self._state.set_said
        show_text(self.busy, self._state.set_busy)
        show_text(self.said, said.text if said is not None else "")
        self.undo.setVisible(said is not None and bool(said.removed))
        self.question.set_question(self._state.set_question)
        self.show_buttons()

    def show_buttons(self) -> None:
        """What can be done with the set, and with the rows that are selected."""
        summary = self._state.summary or SetSummary(Path())
        any_, free = summary.n_images > 0, not self._state.set_busy
        yours = any_ and not summary.listed
        chosen = bool(self._chosen())
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
            self._controller.look_into(Path(chosen))

    def _choose_zip(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Zip file to import", "", ZIP)
        if chosen:
            self._controller.look_into(Path(chosen))

    def _choose_target(self) -> None:
        chosen, kind = QFileDialog.getSaveFileName(
            self,
            "Export the training set",
            f"{self._state.folder.name}.zip",
            f"{ZIP};;{FOLDER}",
        )
        if not chosen:
            return
        path = Path(chosen)
        # the dialog has asked only about the very name that it returns
        asked = path.is_file()
        if kind == ZIP and path.suffix.lower() != ".zip":
            path, asked = path.with_name(path.name + ".zip"), False
        self._controller.copy_to(path, asked)


ICON = 28
#: rows that are seen at once
ROWS = 3


class SetSection(QWidget):
    """What is learned from."""

    def __init__(self, controller: LearnController, connections: Connections) -> None:
        super().__init__()
        self._state = state = controller.state
        self._shown: tuple[SetItem, ...] = ()
        self.folder = FolderRow("Learn from another folder, and keep there too")
        form = Form()
        form.add("Learn from", self.folder, "The folder of your training set")
        self.list = QListWidget()
        self.list.setIconSize(QSize(ICON, ICON))
        self.list.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setUniformItemSizes(True)
        self.list.setAccessibleName("Images of the training set")
        self.total = text_label(role="summary", wrap=False)
        self.division = muted()
        self.buttons = SetActions(controller.set, state, connections, self.chosen)
        vbox(form, self.list, self.buttons, self.total, self.division, on=self)
        self.folder.chosen.connect(controller.set_folder)
        self.list.itemSelectionChanged.connect(self.buttons.show_buttons)
        self.list.itemActivated.connect(lambda _: controller.set.show(self.chosen()))
        connections.follow(self._show_set, state.events.folder, state.events.summary)

    def chosen(self) -> list[str]:
        """Keys of the rows that are selected, from top to bottom."""
        items = sorted(self.list.selectedItems(), key=self.list.row)
        return [item.data(Qt.ItemDataRole.UserRole) for item in items]

    def _show_set(self) -> None:
        """What is in it; nothing while it is being read."""
        summary = self._state.summary
        self.folder.set_folder(self._state.folder)
        there = summary is not None and summary.n_images > 0
        for part in (self.list, self.total, self.division):
            part.setVisible(there)
        self.buttons.setVisible(summary is not None)
        self.buttons.show_buttons()
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
    parts = [counted(n, "image")]
    if summary.n_cells is not None:
        parts.append(counted(summary.n_cells, "reviewed cell"))
    if groups:
        parts.append(counted(groups, "group"))
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
        parts.append(counted(one.n_cells, "cell"))
    when = when_words(one.time)
    if when:
        parts.append(when)
    return " · ".join(parts)


def _tip(one: SetItem) -> str:
    group = f"\ngroup {one.group}" if one.group else ""
    return f"{_line(one)}{group}"
