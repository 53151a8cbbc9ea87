"""A folder of images: the list, the walk through it, and one button that segments all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractListModel, QModelIndex, QRect, QSize, Qt
from qtpy.QtGui import QColor, QFontMetrics, QIcon, QPainter, QPalette
from qtpy.QtWidgets import (
    QFileDialog,
    QListView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from napari_sa2net.app.folder import FolderController, FolderState, summary_words
from napari_sa2net.app.folder_files import FolderImage
from napari_sa2net.widgets.controls import (
    ErrorBox,
    ProgressLine,
    hbox,
    link_button,
    muted,
    push_button,
    repolish,
    separator,
    show_text,
    text_label,
    vbox,
)
from napari_sa2net.widgets.learn.training_set import pixmap
from napari_sa2net.widgets.theme import warning_color
from napari_sa2net.words import counted

if TYPE_CHECKING:
    from napari_sa2net.widgets.napari_port.connections import Connections
    from napari_sa2net.widgets.workspace import Workspace

ICON = 30
#: Rows that are seen at once.
ROWS = 5
STATE = Qt.ItemDataRole.UserRole
FAILED = Qt.ItemDataRole.UserRole + 1

ALL_TIP = (
    "Find the cells of every image, with the model and the settings of this page. Results are "
    "saved image by image; what is done already with these settings is passed over"
)
LAYERS_TIP = (
    "Find the cells of every layer, with the model and the settings of this page. They become "
    "layers, too; cells that you have corrected stay as they are"
)
WORTH_TIP = (
    "Put first the images in which the model is most in doubt, and open the first that you "
    "have not corrected: there a correction teaches most"
)
OUTPUT_TIP = (
    "Here go NAME.tif with the cells of every image, objects.csv with a row for each cell, and "
    "the cells that you corrected, in the folder “corrected”"
)


class FolderRows(QAbstractListModel):
    """The images in the order that is shown; small pictures come as rows are seen."""

    def __init__(self, controller: FolderController, parent: QWidget) -> None:
        super().__init__(parent)
        self._controller = controller
        self._images: tuple[FolderImage, ...] = ()
        self._order: tuple[int, ...] = ()
        self._rows: dict[int, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take the state as it is; only rows that differ are drawn anew."""
        state = self._controller.state
        if state.order != self._order or len(state.images) != len(self._images):
            self.beginResetModel()
            self._images, self._order = state.images, state.order
            self._rows = {number: row for row, number in enumerate(self._order)}
            self.endResetModel()
            return
        before, self._images = self._images, state.images
        for number, (old, new) in enumerate(zip(before, self._images, strict=True)):
            if old is not new and old != new:
                self.touch(number)

    def touch(self, number: int) -> None:
        """Draw the row of an image anew."""
        row = self._rows.get(number)
        if row is not None:
            self.dataChanged.emit(self.index(row), self.index(row))

    def row(self, number: int) -> int:
        """Row of an image; -1 where it has none."""
        return self._rows.get(number, -1)

    def number(self, row: int) -> int:
        """Number of the image in a row."""
        return self._order[row]

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """How many there are."""
        return 0 if parent is not None and parent.isValid() else len(self._order)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a row shows."""
        if not index.isValid() or index.row() >= len(self._order):
            return None
        number = self._order[index.row()]
        image, state = self._images[number], self._controller.state
        if role == Qt.ItemDataRole.DisplayRole:
            return image.title
        if role in (STATE, Qt.ItemDataRole.ToolTipRole):
            model = self._controller.link.session.model
            words = image.words(model, doubt=state.by_worth)
            return (
                words
                if role == STATE
                else f"{image.name if image.key else image.path}\n{words}"
            )
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{image.title}, {image.words()}"
        if role == FAILED:
            return image.what == "failed"
        if role == Qt.ItemDataRole.DecorationRole:
            picture = self._controller.picture(number)
            if picture is not None and picture is not False:
                return QIcon(pixmap(picture))
        return None


class RowPainter(QStyledItemDelegate):
    """Two lines beside the picture: the name, and how far the image is."""

    @staticmethod
    def row_height(line: int) -> int:
        """Of two lines of that height, and of the picture."""
        return max(ICON + 6, 2 * line + 6)

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        """Room for two lines."""
        return QSize(10, self.row_height(QFontMetrics(option.font).height()))

    def paint(
        self, painter: QPainter | None, option: QStyleOptionViewItem, index: QModelIndex
    ) -> None:
        """Draw a row."""
        if painter is None:
            return
        self.initStyleOption(option, index)
        icon, option.text, option.icon = QIcon(option.icon), "", QIcon()
        view = option.widget
        style = view.style() if view is not None else None
        if style is not None:
            style.drawControl(QStyle.ControlElement.CE_ItemViewItem, option, painter, view)
        rect, metrics = option.rect, QFontMetrics(option.font)
        icon.paint(painter, QRect(rect.x() + 4, rect.center().y() - ICON // 2, ICON, ICON))
        left, width = rect.x() + ICON + 12, rect.width() - ICON - 16
        height = metrics.height()
        top = rect.center().y() - height
        name, state = index.data(), index.data(STATE)
        painter.save()
        painter.setPen(option.palette.color(QPalette.ColorRole.Text))
        first = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, width)
        painter.drawText(QRect(left, top, width, height), Qt.AlignmentFlag.AlignLeft, first)
        if index.data(FAILED):
            on_dark = option.palette.color(QPalette.ColorRole.Text).lightness() > 128
            painter.setPen(QColor(warning_color(on_dark)))
        else:
            painter.setOpacity(0.66)
        second = metrics.elidedText(state, Qt.TextElideMode.ElideRight, width)
        under = QRect(left, top + height, width, height)
        painter.drawText(under, Qt.AlignmentFlag.AlignLeft, second)
        painter.restore()


class FolderWalk(QWidget):
    """From image to image, on every page where one is worked on.

    Parameters
    ----------
    told : bool
        Say which image it is; the list does so already.
    """

    def __init__(
        self, controller: FolderController, connections: Connections, told: bool = True
    ) -> None:
        super().__init__()
        self._state = state = controller.state
        self._told = told
        self.words = text_label(wrap=False)
        self.previous = push_button("◀", "The image before in the folder's list (Page Up)")
        self.next = push_button("▶", "The next image in the folder's list (Page Down)")
        self.previous.setAccessibleName("Previous image")
        self.next.setAccessibleName("Next image")
        self.worth = push_button("Most worth your time next", WORTH_TIP)
        row = hbox(self.previous, self.next, (self.worth, 1), spacing=4)
        vbox(self.words, row, on=self, spacing=4)
        self.previous.clicked.connect(controller.previous)
        self.next.clicked.connect(controller.next)
        self.worth.clicked.connect(controller.most_worth)
        events = state.events
        connections.follow(
            self._show, *(events.order, events.images, events.current, events.opening)
        )

    def _show(self) -> None:
        state = self._state
        at = state.opening if state.opening >= 0 else state.current
        place = state.order.index(at) if at in state.order else -1
        self.previous.setEnabled(place > 0)
        self.next.setEnabled(place < len(state.order) - 1)
        self.setVisible(bool(state.order))
        words = ""
        if self._told and place >= 0:
            image = state.images[at]
            where = "open layers" if state.layers else "folder"
            n = len(state.order)
            words = f"Image {place + 1} of {n} in the {where} · {image.words()}"
        show_text(self.words, words)


class FolderSection(QWidget):
    """The open folder; hidden while there is none and nothing to say."""

    def __init__(self, workspace: Workspace, connections: Connections) -> None:
        super().__init__()
        self._session = workspace.session
        self._controller = controller = workspace.folder
        self._state: FolderState = controller.state
        self.title = text_label(role="summary", wrap=False)
        self.title.setMinimumWidth(60)
        self.other = link_button("open another…", "List the images of another folder")
        self.shut_it = link_button("close", "Put the list away; what is shown stays")
        self.busy = muted()
        self.list = QListView()
        self.list.setIconSize(QSize(ICON, ICON))
        self.list.setUniformItemSizes(True)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setAccessibleName("Images of the folder")
        self.rows = FolderRows(controller, self.list)
        self.list.setModel(self.rows)
        self.painter = RowPainter(self.list)
        self.list.setItemDelegate(self.painter)
        self.summary = muted()
        self.walk = FolderWalk(controller, connections, told=False)
        self.worth = self.walk.worth
        self.by_name = link_button("sort by name", "The order of the files' names again")
        self.all = push_button("Segment all", ALL_TIP, "primary")
        self.with_what = muted()
        self.progress = ProgressLine()
        self.output = muted()
        self.output.setToolTip(OUTPUT_TIP)
        self.change = link_button("change…", "Put the results into another folder")
        self.said = text_label()
        self.error = ErrorBox()
        self.body = QWidget()
        head = hbox((self.title, 1), self.other, self.shut_it, spacing=8)
        results = hbox((self.output, 1), self.change)
        vbox(
            *(head, self.list, self.summary, self.by_name, self.walk, self.all, self.with_what),
            *(self.progress, self.said, results, separator()),
            on=self.body,
            spacing=6,
        )
        vbox(self.busy, self.error, self.body, on=self)
        self._connect(connections)

    def _connect(self, connections: Connections) -> None:
        controller, events, session = self._controller, self._state.events, self._session
        follow = connections.follow
        follow(self._show_folder, events.folder, events.layers, events.output, events.busy)
        follow(self._show_rows, events.images, events.order, session.events.model)
        follow(self._show_current, events.current, events.opening, events.order)
        follow(self._show_run, events.running, events.stopping, events.progress, events.layers)
        follow(
            self._show_settings,
            *(session.events.model, session.events.predict, session.events.image),
            *(events.current, events.running),
        )
        follow(self._show_said, events.said, events.error, session.events.engine)
        connections.connect(controller.pictured, self.rows.touch)
        self.list.activated.connect(lambda index: self._open(index))
        self.list.clicked.connect(lambda index: self._open(index))
        self.by_name.clicked.connect(lambda: controller.sort(False))
        self.all.clicked.connect(self._all)
        self.change.clicked.connect(self._choose_output)
        self.other.clicked.connect(self.choose)
        self.shut_it.clicked.connect(controller.close_folder)
        self.error.dismissed.connect(controller.dismiss_error)

    # --- what a person does --------------------------------------------------------------

    def choose(self) -> None:
        """Ask for a folder and list its images."""
        start = str(self._state.folder or "")
        chosen = QFileDialog.getExistingDirectory(self, "Open a folder of images", start)
        if chosen:
            self._controller.open_folder(Path(chosen))

    def _choose_output(self) -> None:
        start = str(self._state.output.parent)
        chosen = QFileDialog.getExistingDirectory(self, "Folder for the results", start)
        if chosen:
            self._controller.set_output(Path(chosen))

    def _open(self, index: QModelIndex) -> None:
        self._controller.open(self.rows.number(index.row()))

    def _all(self) -> None:
        if self._state.running:
            self._controller.segmenting.cancel()
        else:
            self._controller.segmenting.segment_all()

    # --- what the controller says --------------------------------------------------------

    def _show_folder(self) -> None:
        state = self._state
        show_text(self.busy, state.busy)
        self.body.setVisible(state.folder is not None or state.layers)
        for part in (self.output, self.change):
            part.setVisible(not state.layers)
        if state.layers:
            self.title.setText("All open layers")
            self.title.setToolTip("The image layers of this window, the first opened first")
        if state.folder is None:
            return
        self.title.setText(f"Folder “{state.folder.name}”")
        self.title.setToolTip(str(state.folder))
        inside = state.output.parent == state.folder
        where = state.output.name if inside else str(state.output)
        self.output.setText(f"Results in {where}")
        self.output.setToolTip(f"{state.output}\n{OUTPUT_TIP}")

    def _show_rows(self) -> None:
        state = self._state
        self.rows.refresh()
        self.summary.setText(summary_words(state))
        self.by_name.setVisible(state.by_worth)
        rows = min(ROWS, max(1, len(state.images)))
        height = self.painter.row_height(self.list.fontMetrics().height())
        self.list.setFixedHeight(rows * height + 2 * self.list.frameWidth() + 2)
        if not state.running:
            self.all.setText(_all_words(len(state.images)))

    def _show_current(self) -> None:
        state = self._state
        at = state.opening if state.opening >= 0 else state.current
        row = self.rows.row(at)
        if row >= 0:
            index = self.rows.index(row)
            self.list.setCurrentIndex(index)
            self.list.scrollTo(index)
        else:
            self.list.clearSelection()

    def _show_run(self) -> None:
        state = self._state
        n = len(state.images)
        self.all.setText("Cancel" if state.running else _all_words(n))
        self.all.setToolTip(
            "Stop; what is done stays, and “Segment all” goes on from there"
            if state.running
            else (LAYERS_TIP if state.layers else ALL_TIP)
        )
        role = "cancel" if state.running else "primary"
        if self.all.property("role") != role:
            self.all.setProperty("role", role)
            repolish(self.all)
        self.progress.set_progress(state.progress, "")
        for part in (self.other, self.change):
            part.setEnabled(not state.running)

    def _show_settings(self) -> None:
        words = (
            ""
            if self._state.running
            else f"With {self._controller.segmenting.settings_words()}"
        )
        show_text(self.with_what, words)

    def _show_said(self) -> None:
        show_text(self.said, self._state.said)
        self.error.set_error(self._state.error)


def _all_words(n: int) -> str:
    return "Segment this image" if n == 1 else f"Segment all {counted(n, 'image')}"
