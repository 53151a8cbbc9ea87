"""The Models page: which models there are, what they are, and what can be done with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote

from qtpy.QtCore import QSize, Qt, QUrl, Signal
from qtpy.QtGui import (
    QDesktopServices,
    QDragEnterEvent,
    QDragMoveEvent,
    QDropEvent,
    QGuiApplication,
    QShowEvent,
)
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QFrame,
    QGridLayout,
    QHeaderView,
    QLabel,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_sa2net.app.models import (
    Family,
    ModelsController,
    detail_rows,
    file_words,
    hint_words,
    lineage,
    main_rows,
    part_words,
)
from napari_sa2net.app.session import Session
from napari_sa2net.models.registry import SUFFIX, ZOO_SUFFIX, ModelEntry
from napari_sa2net.widgets.controls import (
    PAGE_MARGINS,
    FolderRow,
    Form,
    NameRow,
    ProgressLine,
    align_forms,
    fold_button,
    hbox,
    link_button,
    muted,
    narrow_combo,
    offer,
    push_button,
    separator,
    show_text,
    text_label,
    vbox,
)
from napari_sa2net.widgets.napari_port.connections import Connections
from napari_sa2net.widgets.page import PageWidget, error_box
from napari_sa2net.widgets.rows import rows_html
from napari_sa2net.widgets.theme import link_color
from napari_sa2net.widgets.workspace import Workspace

# --------------------------------------------------------------------------------------------
# What can be done with the chosen model.

BUNDLED_TIP = "Bundled models stay as they are; export it and import the copy to change that"

RENAME_TIP = "Call it something else; its file keeps its content"
REMOVE_TIP = "Take it out of the list; asks first, and it can be put back"


class Actions(QWidget):
    """The big button "Use", and what else there is, with the questions that it asks."""

    def __init__(self, controller: ModelsController) -> None:
        super().__init__()
        self._controller = controller
        self._entry: ModelEntry | None = None
        self.use = push_button("", role="primary")
        self.rename = push_button("Rename…", RENAME_TIP)
        self.export = push_button(
            "Export…", "Copy its file elsewhere, to keep it or give it away"
        )
        self.shelf = push_button("Set aside", "")
        self.remove = push_button("Remove…", REMOVE_TIP)
        grid = QGridLayout()
        grid.setSpacing(6)
        # Two by two: four in a row are wider than the dock when letters are large.
        for i, button in enumerate((self.rename, self.export, self.shelf, self.remove)):
            grid.addWidget(button, i // 2, i % 2)
            grid.setColumnStretch(i % 2, 1)
        self.name_row = NameRow("Rename", "Take this name", "Keep the name")
        self.question = Question()
        vbox(self.use, grid, self.name_row, self.question, on=self)
        self.use.clicked.connect(lambda: controller.use(controller.state.chosen))
        self.export.clicked.connect(self._export)
        self.shelf.clicked.connect(self._shelf)
        self.rename.clicked.connect(self.ask_name)
        self.remove.clicked.connect(self.ask_remove)
        self.name_row.accepted.connect(self._renamed)
        self.question.answered.connect(lambda: controller.remove(controller.state.chosen))
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
            words, tip = "In use", "This model is chosen on the Segment page"
        elif aside:
            words = "Offer again and use"
            tip = "Offer it on the Segment page again, and choose it there"
        else:
            words, tip = "Use", "Choose this model on the Segment page"
        self.use.setText(words)
        self.use.setToolTip(tip)
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
        for button, tip in (
            (self.shelf, shelf),
            (self.remove, REMOVE_TIP),
            (self.rename, RENAME_TIP),
        ):
            button.setToolTip(tip if own else BUNDLED_TIP)

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
        controller, entry = self._controller, self._entry
        aside = entry is not None and entry.aside
        act = controller.promote if aside else controller.set_aside
        act(controller.state.chosen)

    def _renamed(self, name: str) -> None:
        self.name_row.setVisible(False)
        self._controller.rename(self._controller.state.chosen, name)

    def _export(self) -> None:
        name = self._controller.state.chosen
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
        self._controller.export(name, path, overwrite=asked)


class Question(QFrame):
    """A question on the page, with one answer that does it and one that does not.

    Signals
    -------
    answered
        Yes.
    """

    answered = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("role", "hint")
        self.words = text_label()
        self.yes = push_button()
        self.no = push_button("Keep it", "Change nothing")
        row = hbox(None, self.no, self.yes)
        vbox(self.words, row, on=self, margins=(10, 8, 8, 8))
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


# --------------------------------------------------------------------------------------------
# The card of the chosen model, in words, with its family.

GAMMA_TIP = (
    "Selectivity: how choosy each stage is with fine detail, from the coarsest to the finest. "
    "Above 1 only what is sure passes; 1 is ordinary attention, 0 none. In papers: exponent γ"
)


class CardSection(QWidget):
    """Title, description, and a row for all that the card says.

    Signals
    -------
    chosen : str
        A relative of the model was clicked.
    """

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._link_color = ""
        self._shown: tuple[ModelEntry, dict[str, Family]] | None = None
        self.title = text_label(role="title")
        self.description = muted()
        self.rows, self.details = _table(), _table()
        self.details.setToolTip(GAMMA_TIP)
        tip = "Network, classes, selectivity, commits, versions, file"
        self.fold = fold_button("Details", tip, self.details)
        self.rows.linkActivated.connect(lambda link: self.chosen.emit(unquote(link)))
        vbox(
            self.title, self.description, self.rows, self.fold, self.details, on=self, spacing=4
        )

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
        show_text(self.description, entry.card.description)
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
    label = text_label()
    label.setTextFormat(Qt.TextFormat.RichText)
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
    """Which models, on what, and how they did."""

    def __init__(
        self, controller: ModelsController, session: Session, connections: Connections
    ) -> None:
        super().__init__()
        self._state, self._session = controller.state, session
        self.title = text_label("Compare", role="summary")
        self.other = narrow_combo(8)
        self.folder = FolderRow("Another training set to compare on")
        form = Form()
        form.add("With", self.other, "The model to compare it with, such as its parent")
        form.add("On", self.folder, "Your corrections that neither of both has learned from")
        self.note = muted()
        self.button = push_button("Compare")
        self.verdict = text_label(role="summary")
        self.table = text_label(tip=AP_TIP)
        self.table.setTextFormat(Qt.TextFormat.RichText)
        self.table.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.notes = muted()
        vbox(
            *(self.title, form, self.note, self.button, self.verdict, self.table, self.notes),
            on=self,
        )
        self.button.clicked.connect(controller.compare)
        self.folder.chosen.connect(controller.set_folder)
        self.other.activated.connect(
            lambda index: controller.choose_other(self.other.itemData(index))
        )
        follow, events = connections.follow, self._state.events
        follow(
            self._show_choice,
            *(events.entries, events.chosen, events.other),
            *(events.folder, events.has_corrections),
        )
        follow(self._show_running, events.comparing, session.events.running)
        follow(self._show_result, events.comparison)

    def _show_choice(self) -> None:
        """Which models there are to compare the chosen one with, and on what."""
        state = self._state
        self.title.setText(f"Compare {state.chosen}" if state.chosen else "Compare")
        names = [one.name for one in state.entries if one.name != state.chosen]
        offer(self.other, ((name, name) for name in names), state.other)
        self.other.setEnabled(bool(names))
        has_corrections = state.has_corrections
        self.folder.set_folder(state.folder, "" if has_corrections else "no corrections yet")
        self.note.setText(
            "Scores both on corrections that neither learned from, and on a reference set "
            "of synthetic cells."
            if has_corrections
            else "Scores both on a reference set of synthetic cells. Corrections of yours "
            "would tell more."
        )

        self._show_running()
        self._show_result()

    def _show_running(self) -> None:
        """Whether the engine is busy, and whether with this."""
        running, comparing = self._session.running, self._state.comparing
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

    def _show_result(self) -> None:
        """How the two did, or nothing."""
        result = self._state.comparison
        # what is shown is about the model that is shown
        shown = result is not None and result.second == self._state.chosen
        for label in (self.verdict, self.table, self.notes):
            label.setVisible(shown)
        if result is None or not shown:
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
        show_text(self.notes, " ".join(result.notes))


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

    def __init__(self) -> None:
        super().__init__()
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
        groups = [
            [entry for entry in entries if entry.bundled],
            [entry for entry in entries if not entry.bundled and not entry.aside],
            [entry for entry in entries if entry.aside],
        ]
        with signals_blocked(self):
            self.clear()
            for (title, tip), members in zip(GROUPS, groups, strict=True):
                if members:
                    self._add_group(title, tip, members, families, used)
            self.expandAll()
            self.set_chosen(chosen)
        self.updateGeometry()

    def set_chosen(self, name: str) -> None:
        """Select a model; says nothing."""
        with signals_blocked(self):
            self.setCurrentItem(self.item(name))

    def item(self, name: str) -> QTreeWidgetItem | None:
        """The row of a model."""
        return next((item for item in self._rows() if item.data(0, _NAME) == name), None)

    def names(self) -> list[str]:
        """Names of the shown models, in order."""
        return [item.data(0, _NAME) for item in self._rows()]

    def sizeHint(self) -> QSize:
        """The size that suits it."""
        row = self.sizeHintForRow(0) if self.topLevelItemCount() else 20
        n = self.topLevelItemCount() + len(self._rows())
        return QSize(200, max(3, min(MOST_ROWS, n)) * row + 2 * self.frameWidth() + 4)

    def minimumSizeHint(self) -> QSize:
        """The least size."""
        return QSize(100, self.sizeHint().height())

    # --- dropping ------------------------------------------------------------------------

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        """Take model files."""
        self._answer(event)

    def dragMoveEvent(self, event: QDragMoveEvent | None) -> None:
        """Take model files."""
        self._answer(event)

    def dropEvent(self, event: QDropEvent | None) -> None:
        """Hand on the files that were dropped."""
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


KINDS = f"Models (*{SUFFIX} *{ZOO_SUFFIX} *.pth *.pt *.tar *.ckpt *.bin);;All files (*)"


class ModelsPage(PageWidget):
    """Binds the panels to the controller; all state lives there."""

    def __init__(self, workspace: Workspace, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = workspace.session
        self.controller = workspace.models
        self.state = self.controller.state
        self._workspace = workspace
        self._build()
        self.controller.refresh()
        self._connect()

    # --- building ------------------------------------------------------------------------

    def _build(self) -> None:
        self.list = ModelList()
        self.import_button = push_button(
            "Import…",
            "Take in a model file of this program, a package of the BioImage Model Zoo that "
            "has one in it (.zip), or a published SA2-Net checkpoint (.pth.tar, .pt). The "
            "file itself stays where it is",
        )
        row = hbox(
            self.import_button, (muted("or drop a model file on the list"), 1), spacing=8
        )
        self.busy = muted()
        self.said = text_label()
        self.put_back = link_button("Put it back", "Undo the removal")
        self.error = error_box(self, self._workspace, self.controller)
        self.problems = muted()
        self.buttons = Actions(self.controller)
        self.card = CardSection()
        self.compare = CompareSection(self.controller, self.session, self.connections)
        self.progress = ProgressLine()
        self.cancel = link_button("Cancel", "Stop comparing; nothing is changed")
        self.where = muted()
        self.open_folder = link_button("Open folder", "Show your models in the file manager")
        self.copy_path = link_button("Copy path", "Copy the folder's path")
        links = hbox(self.open_folder, self.copy_path, None)
        vbox(
            *(self.list, row, self.problems, self.busy, self.said, self.put_back, self.error),
            *(self.buttons, separator(), self.card, separator(), self.compare, self.progress),
            *(self.cancel, separator(), self.where, links, None),
            on=self,
            spacing=8,
            margins=PAGE_MARGINS,
        )

    def _connect(self) -> None:
        follow, events, session = (
            self.connections.follow,
            self.state.events,
            self.session.events,
        )
        follow(self._show_models, events.entries, events.families, events.chosen, session.model)
        follow(self._show_problems, events.problems)
        follow(self._show_news, events.busy, events.said)
        follow(self._show_progress, events.comparing, session.running, session.progress)
        controller = self.controller
        self.list.chosen.connect(controller.choose)
        self.list.useWanted.connect(controller.use)
        self.list.dropped.connect(controller.import_files)
        self.import_button.clicked.connect(self._import)
        self.put_back.clicked.connect(controller.put_back)
        self.card.chosen.connect(controller.choose)
        self.cancel.clicked.connect(controller.cancel)
        self.open_folder.clicked.connect(self._open_folder)
        self.copy_path.clicked.connect(self._copy_path)

    def showEvent(self, event: QShowEvent | None) -> None:
        """It comes into view."""
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

    def _open_folder(self) -> None:
        folder = self.controller.models_folder
        if folder.is_dir():
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))

    def _copy_path(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(str(self.controller.models_folder))

    # --- what the state says -------------------------------------------------------------

    def _show_models(self) -> None:
        state = self.state
        self.list.set_models(state.entries, state.families, self.session.model, state.chosen)
        self.card.set_card(state.entry(), state.families)
        self._show_buttons()
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

    def _show_problems(self) -> None:
        problems = self.state.problems
        self.problems.setText("Left out of the list: " + "\n".join(problems))
        self.problems.setVisible(bool(problems))

    def _show_news(self) -> None:
        state = self.state
        show_text(self.busy, state.busy)
        show_text(self.said, state.said.text if state.said is not None else "")
        self.put_back.setVisible(state.said is not None and state.said.removed is not None)
        self.import_button.setEnabled(not state.busy)
        self._show_buttons()

    def _show_progress(self) -> None:
        comparing = self.state.comparing
        self.progress.set_progress(self.session.progress if comparing else None, "")
        self.progress.setVisible(comparing)
        self.cancel.setVisible(comparing)
