"""The Models page: which models there are, what they are, and what can be done with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from qtpy.QtCore import QSize, Qt, QUrl, Signal
from qtpy.QtGui import (
    QDesktopServices,
    QDragEnterEvent,
    QDragMoveEvent,
    QDropEvent,
    QGuiApplication,
    QKeyEvent,
    QShowEvent,
)
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.app.models import (
    Family,
    detail_rows,
    file_words,
    hint_words,
    lineage,
    main_rows,
    part_words,
)
from napari_sa2net.models.registry import MAX_NAME, SUFFIX, ModelEntry
from napari_sa2net.training.compare import Comparison
from napari_sa2net.widgets.controls import (
    ErrorBox,
    Form,
    ProgressLine,
    align_forms,
    fold_button,
    link_button,
    muted,
    separator,
)
from napari_sa2net.widgets.page import PageWidget
from napari_sa2net.widgets.rows import rows_html
from napari_sa2net.widgets.theme import link_color
from napari_sa2net.widgets.workspace import Workspace

# --------------------------------------------------------------------------------------------
# What can be done with the chosen model.

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


# --------------------------------------------------------------------------------------------
# The card of the chosen model, in words, with its family.

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


# --------------------------------------------------------------------------------------------
# Two models side by side, as numbers with an interval.

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


# --------------------------------------------------------------------------------------------
# The list of models; a model file that is dropped on it is imported.

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


KINDS = f"Models (*{SUFFIX} *.pth *.pt *.tar *.ckpt *.bin);;All files (*)"


class ModelsPage(PageWidget):
    """Binds the panels to the controller; all state lives there."""

    def __init__(self, workspace: Workspace, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = workspace.session
        self.controller = workspace.models
        self.state = self.controller.state
        self._segmenting = workspace.controller
        self._build()
        self._connect()
        self.controller.refresh()
        self._show_all()

    # --- building ------------------------------------------------------------------------

    def _build(self) -> None:
        self.list = ModelList()
        self.import_button = QPushButton("Import…")
        self.import_button.setProperty("role", "plain")
        self.import_button.setToolTip(
            "Take in a model file of this program, or a published SA2-Net checkpoint "
            "(.pth.tar, .pt). The file itself stays where it is"
        )
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.import_button)
        row.addWidget(muted("or drop a model file on the list"), 1)
        self.busy = muted()
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.put_back = link_button("Put it back", "Undo the removal")
        self.error = ErrorBox()
        self.problems = muted()
        self.buttons = Actions()
        self.card = CardSection()
        self.compare = CompareSection()
        self.progress = ProgressLine()
        self.cancel = link_button("Cancel", "Stop comparing; nothing is changed")
        self.where = muted()
        self.open_folder = link_button("Open folder", "Show your models in the file manager")
        self.copy_path = link_button("Copy path", "Copy the folder's path")
        links = QHBoxLayout()
        links.addWidget(self.open_folder)
        links.addWidget(self.copy_path)
        links.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 10, 8, 10)
        layout.setSpacing(8)
        layout.addWidget(self.list)
        layout.addLayout(row)
        top: list[QWidget] = [
            *(self.problems, self.busy, self.said, self.put_back, self.error),
            *(self.buttons, separator(), self.card, separator()),
            *(self.compare, self.progress, self.cancel, separator(), self.where),
        ]
        for part in top:
            layout.addWidget(part)
        layout.addLayout(links)
        layout.addStretch(1)

    def _connect(self) -> None:
        connect = self.connections.connect
        events, session = self.state.events, self.session.events
        for field, show in (
            ("entries", self._show_models),
            ("families", self._show_models),
            ("chosen", self._show_models),
            ("problems", self._show_problems),
            ("busy", self._show_news),
            ("said", self._show_news),
            ("error", self._show_error),
            ("other", self._show_compare),
            ("folder", self._show_compare),
            ("has_corrections", self._show_compare),
            ("comparing", self._show_running),
            ("comparison", self._show_result),
        ):
            connect(getattr(events, field), show)
        for field, show in (
            ("model", self._show_models),
            ("running", self._show_running),
            ("progress", self._show_running),
            ("error", self._show_error),
            ("engine", self._show_error),
        ):
            connect(getattr(session, field), show)
        controller, buttons = self.controller, self.buttons
        self.list.chosen.connect(controller.choose)
        self.list.useWanted.connect(controller.use)
        self.list.dropped.connect(controller.import_files)
        self.import_button.clicked.connect(self._import)
        self.put_back.clicked.connect(controller.put_back)
        buttons.useWanted.connect(lambda: controller.use(self.state.chosen))
        buttons.exportWanted.connect(self._export)
        buttons.promoteWanted.connect(lambda: controller.promote(self.state.chosen))
        buttons.asideWanted.connect(lambda: controller.set_aside(self.state.chosen))
        buttons.removeWanted.connect(lambda: controller.remove(self.state.chosen))
        buttons.renameWanted.connect(lambda new: controller.rename(self.state.chosen, new))
        self.card.chosen.connect(controller.choose)
        self.compare.compareWanted.connect(controller.compare)
        self.compare.otherChosen.connect(controller.choose_other)
        self.compare.folderChosen.connect(controller.set_folder)
        self.cancel.clicked.connect(controller.cancel)
        self.error.dismissed.connect(self._dismiss)
        self.error.restartWanted.connect(self._segmenting.restart_engine)
        self.open_folder.clicked.connect(self._open_folder)
        self.copy_path.clicked.connect(self._copy_path)

    def showEvent(self, event: QShowEvent | None) -> None:
        super().showEvent(event)
        # another window, the shell or learning may have changed the list
        self.controller.refresh()

    def set_theme(self, theme: str) -> None:
        """Follow napari's theme where a style sheet cannot."""
        self.card.set_link_color(link_color(theme))
        align_forms(self)
        self._show_models()

    # --- what a person does --------------------------------------------------------------

    def _import(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Import models", "", KINDS)
        if paths:
            self.controller.import_files([Path(path) for path in paths])

    def _export(self) -> None:
        name = self.state.chosen
        chosen, _ = QFileDialog.getSaveFileName(
            self, f"Export {name}", f"{name}{SUFFIX}", f"Model (*{SUFFIX})"
        )
        if not chosen:
            return
        path = Path(chosen)
        # the dialog has asked only about the very name that it returns
        asked = path.exists()
        if not path.name.endswith(SUFFIX):
            path, asked = path.with_name(path.name + SUFFIX), False
        self.controller.export(name, path, overwrite=asked)

    def _open_folder(self) -> None:
        folder = self.controller.models_folder
        if folder.is_dir():
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))

    def _copy_path(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(str(self.controller.models_folder))

    def _dismiss(self) -> None:
        self.controller.dismiss_error()
        self._segmenting.dismiss_error()

    # --- what the state says -------------------------------------------------------------

    def _show_all(self) -> None:
        for show in (
            self._show_models,
            self._show_problems,
            self._show_news,
            self._show_error,
            self._show_compare,
            self._show_running,
            self._show_result,
        ):
            show()

    def _show_models(self, _: Any = None) -> None:
        state = self.state
        self.list.set_models(state.entries, state.families, self.session.model, state.chosen)
        self.card.set_card(state.entry(), state.families)
        self._show_buttons()
        self._show_compare()
        folder = self.controller.models_folder
        there = folder.is_dir()
        self.where.setText(
            f"Your models are in {folder}"
            if there
            else f"Your models will be in {folder}, once there are any."
        )
        self.open_folder.setEnabled(there)

    def _show_buttons(self) -> None:
        self.buttons.set_entry(
            self.state.entry(), self.session.model, busy=bool(self.state.busy)
        )

    def _show_problems(self, _: Any = None) -> None:
        problems = self.state.problems
        self.problems.setText("Left out of the list: " + "\n".join(problems))
        self.problems.setVisible(bool(problems))

    def _show_news(self, _: Any = None) -> None:
        state = self.state
        self.busy.setText(state.busy)
        self.busy.setVisible(bool(state.busy))
        self.said.setText(state.said.text if state.said is not None else "")
        self.said.setVisible(state.said is not None)
        self.put_back.setVisible(state.said is not None and state.said.removed is not None)
        self.import_button.setEnabled(not state.busy)
        self._show_buttons()

    def _show_error(self, _: Any = None) -> None:
        down = self.session.engine == "down"
        self.error.set_error(self.state.error or self.session.error, can_restart=down)

    def _show_compare(self, _: Any = None) -> None:
        state = self.state
        names = [entry.name for entry in state.entries]
        self.compare.set_models(state.chosen, names, state.other)
        self.compare.set_folder(state.folder, has_corrections=state.has_corrections)
        self._show_running()
        self._show_result()

    def _show_running(self, _: Any = None) -> None:
        session, comparing = self.session, self.state.comparing
        self.compare.set_running(session.running, comparing)
        self.progress.set_progress(session.progress if comparing else None, "")
        self.progress.setVisible(comparing)
        self.cancel.setVisible(comparing)

    def _show_result(self, _: Any = None) -> None:
        result = self.state.comparison
        # what is shown is about the model that is shown
        shown = result is not None and result.second == self.state.chosen
        self.compare.set_result(result if shown else None)
