"""The list of models; a model file that is dropped on it is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QDragEnterEvent, QDragMoveEvent, QDropEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

from napari_sa2net.app.model_words import file_words, hint_words
from napari_sa2net.app.models_state import Family
from napari_sa2net.models.registry import ModelEntry

_NAME = Qt.ItemDataRole.UserRole
MOST_ROWS = 10
GROUPS = (
    ("Bundled", "They come with the program and stay as they are"),
    ("Yours", "Imported, or taught by your corrections"),
    ("Kept aside", "Not better than the model they learned from, or set aside by you"),
)


class ModelList(QTreeWidget):
    """Models in groups: bundled, yours, kept aside.

    Signals
    -------
    chosen : str
        The card of this one is wanted.
    useWanted : str
        It was double-clicked.
    dropped : list of Path
        Files that were dropped.
    """

    chosen = Signal(str)
    useWanted = Signal(str)
    dropped = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setColumnCount(2)
        self.setHeaderHidden(True)
        self.setRootIsDecorated(False)
        self.setItemsExpandable(False)
        self.setIndentation(12)
        self.setUniformRowHeights(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName("Models")
        self.setAcceptDrops(True)
        header = self.header()
        if header is not None:
            header.setStretchLastSection(False)
            header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
            header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.currentItemChanged.connect(self._chosen)
        self.itemDoubleClicked.connect(self._double_clicked)

    def set_models(
        self,
        entries: Sequence[ModelEntry],
        families: Mapping[str, Family],
        used: str,
        chosen: str,
    ) -> None:
        """Show the list; says nothing."""
        self.blockSignals(True)
        self.clear()
        groups = [
            [entry for entry in entries if entry.bundled],
            [entry for entry in entries if not entry.bundled and not entry.aside],
            [entry for entry in entries if entry.aside],
        ]
        for (title, tip), members in zip(GROUPS, groups, strict=True):
            if members:
                self._add_group(title, tip, members, families, used)
        self.expandAll()
        self.set_chosen(chosen)
        self.blockSignals(False)
        self.updateGeometry()

    def set_chosen(self, name: str) -> None:
        """Select a model; says nothing."""
        was = self.blockSignals(True)
        self.setCurrentItem(self.item(name))
        self.blockSignals(was)

    def item(self, name: str) -> QTreeWidgetItem | None:
        """The row of a model."""
        return next((item for item in self._rows() if item.data(0, _NAME) == name), None)

    def names(self) -> list[str]:
        """Names of the shown models, in order."""
        return [item.data(0, _NAME) for item in self._rows()]

    def sizeHint(self) -> QSize:
        row = self.sizeHintForRow(0) if self.topLevelItemCount() else 20
        n = self.topLevelItemCount() + len(self._rows())
        return QSize(200, max(3, min(MOST_ROWS, n)) * row + 2 * self.frameWidth() + 4)

    def minimumSizeHint(self) -> QSize:
        return QSize(100, self.sizeHint().height())

    # --- dropping ------------------------------------------------------------------------

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        self._answer(event)

    def dragMoveEvent(self, event: QDragMoveEvent | None) -> None:
        self._answer(event)

    def dropEvent(self, event: QDropEvent | None) -> None:
        paths = _files(event)
        if event is not None and paths:
            event.setDropAction(Qt.DropAction.CopyAction)
            event.accept()
            self.dropped.emit(paths)

    def _answer(self, event: QDragMoveEvent | None) -> None:
        # taken here, or napari would try to open the file as an image
        if event is None:
            return
        if _files(event):
            event.setDropAction(Qt.DropAction.CopyAction)
            event.accept()
        else:
            event.ignore()

    # --- inside --------------------------------------------------------------------------

    def _add_group(
        self,
        title: str,
        tip: str,
        members: Sequence[ModelEntry],
        families: Mapping[str, Family],
        used: str,
    ) -> None:
        top = QTreeWidgetItem(self, [title, ""])
        top.setFlags(Qt.ItemFlag.ItemIsEnabled)
        top.setToolTip(0, tip)
        top.setFirstColumnSpanned(True)
        muted = self.palette().color(self.foregroundRole())
        muted.setAlphaF(0.66)
        top.setForeground(0, muted)
        for entry in members:
            family = families.get(entry.name, Family())
            name = f"{entry.name}  ✓" if entry.name == used else entry.name
            item = QTreeWidgetItem(top, [name, hint_words(entry, family.parent)])
            item.setData(0, _NAME, entry.name)
            item.setForeground(1, muted)
            item.setTextAlignment(1, Qt.AlignmentFlag.AlignRight)
            about = [entry.card.description, file_words(entry)]
            if entry.name == used:
                about.append("In use on the Segment page")
                font = item.font(0)
                font.setBold(True)
                item.setFont(0, font)
            text = "\n".join(line for line in about if line)
            for column in (0, 1):
                item.setToolTip(column, f"{entry.name}\n{text}")

    def _rows(self) -> list[QTreeWidgetItem]:
        groups = [self.topLevelItem(i) for i in range(self.topLevelItemCount())]
        return [g.child(j) for g in groups if g is not None for j in range(g.childCount())]  # type: ignore[misc]

    def _chosen(self, item: QTreeWidgetItem | None, _: QTreeWidgetItem | None = None) -> None:
        name = item.data(0, _NAME) if item is not None else None
        if name:
            self.chosen.emit(name)

    def _double_clicked(self, item: QTreeWidgetItem, _: int) -> None:
        name = item.data(0, _NAME)
        if name:
            self.useWanted.emit(name)


def _files(event: QDropEvent | None) -> list[Path]:
    data = event.mimeData() if event is not None else None
    if data is None:
        return []
    paths = [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()]
    return [path for path in paths if path.is_file()]
