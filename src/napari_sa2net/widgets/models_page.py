"""The Models page: which models there are, what they are, and what can be done with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices, QGuiApplication, QShowEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_sa2net.models.registry import SUFFIX
from napari_sa2net.widgets.common import align_forms, link_button, muted, separator
from napari_sa2net.widgets.error_box import ErrorBox
from napari_sa2net.widgets.models.actions import Actions
from napari_sa2net.widgets.models.card_section import CardSection
from napari_sa2net.widgets.models.compare_section import CompareSection
from napari_sa2net.widgets.models.model_list import ModelList
from napari_sa2net.widgets.page_parts import PageWidget
from napari_sa2net.widgets.progress_line import ProgressLine
from napari_sa2net.widgets.theme import link_color
from napari_sa2net.widgets.workspace import Workspace

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
