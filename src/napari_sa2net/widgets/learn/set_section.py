"""The training set: its folder, a short list of what is in it, and how it will be divided."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.learn_state import SetItem, SetSummary, cells
from napari_sa2net.widgets.common import Form, link_button, muted
from napari_sa2net.widgets.learn.set_actions import SetActions

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
