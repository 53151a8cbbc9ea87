"""The See-why page: what the network looked at, and what if it had not."""

from __future__ import annotations

from typing import Any

from napari.utils.theme import get_theme
from qtpy.QtGui import QColor, QHideEvent, QShowEvent
from qtpy.QtWidgets import QLabel, QWidget

from napari_sa2net.app.see_why import what_if_words
from napari_sa2net.app.session import (
    CELL,
    CHANGE,
    STAGE,
    WhyState,
    source_plan,
    time_to_explain,
)
from napari_sa2net.config import NetworkConfig
from napari_sa2net.data.axes import index_words
from napari_sa2net.errors import SA2NetError
from napari_sa2net.widgets.controls import (
    PAGE_MARGINS,
    Form,
    align_forms,
    guarded,
    muted,
    separator,
    show_text,
    timer,
    vbox,
)
from napari_sa2net.widgets.napari_port.picking import KEY, CellPicker
from napari_sa2net.widgets.page import (
    ImageChoice,
    NoImage,
    PageWidget,
    RunControls,
)
from napari_sa2net.widgets.rows import Misread, RegionRow
from napari_sa2net.widgets.see_why.maps import MapDetail, MapTiles
from napari_sa2net.widgets.see_why.sections import CellSection, StageSection, WhatIfSection
from napari_sa2net.widgets.theme import text_color
from napari_sa2net.widgets.workspace import Workspace

TEACH = (
    "The network runs once more and keeps what it looked at: which of four scales counted "
    "where, how each stage moved the boundaries, and why one cell was cut as it was."
)
LOST = (
    "The cells were made anew since, or the background process was started again. Look inside "
    "again to go on."
)
BLANK = "Every pixel here is the same: the network was not run, and there are no maps."
NO_ATTENTION = "This model has no maps of attention, only the boundary by stages."
MOVED = "The cells were adjusted since; outlines and maps are those of before."


class SeeWhyPage(PageWidget):
    """Binds the panels to the session; all state lives there."""

    def __init__(self, workspace: Workspace, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = workspace.session
        self.controller = workspace.explain
        self.port = workspace.port
        self._workspace = workspace
        self._jumped: tuple[str, int] = ("", -1)
        #: asked for by a person, who wants to see the answer
        self._asked = False
        self._build()
        self._connect()
        self.picker = CellPicker(self.port.viewer, self._cells, self.inspect)

    # --- building ------------------------------------------------------------------------

    def _build(self) -> None:
        self.empty = NoImage(
            self._workspace, "One click then shows what the network looked at."
        )
        self._choice = ImageChoice(self._workspace, self)
        self.image_row = self._choice.row
        self.region_row = RegionRow()
        self._run = RunControls(
            self._workspace,
            self,
            "Look inside",
            "Segment once more and keep what the network looked at",
            self._start,
            lambda: time_to_explain(self.session),
        )
        self.button, self.progress = self._run.button, self._run.progress
        self.error = self._run.error
        self.teach = muted(TEACH)
        self.note = muted()
        self.tiles = MapTiles()
        self.detail = MapDetail()
        self.stages = StageSection()
        self.cell = CellSection(KEY)
        self.what_if = WhatIfSection()

        form = Form()
        form.add("Image", self.image_row, "The image layer to look into")
        self.misread = Misread()
        form.add_wide(self.misread)
        form.add("Where", self.region_row, "How much of the image is looked into", top=True)
        self.plane = muted()
        form.add_wide(self.plane)
        self.work, self.inside = QWidget(), QWidget()
        vbox(form, self.button, self.progress, self.teach, self.note, on=self.work, spacing=8)
        inside = vbox(separator(), self.tiles, self.detail, on=self.inside, spacing=8)
        sections: list[tuple[str, QWidget]] = [
            ("Boundary, stage by stage", self.stages),
            ("One cell", self.cell),
            ("What if", self.what_if),
        ]
        for title, section in sections:
            heading = QLabel(title)
            heading.setProperty("role", "summary")
            for part in (separator(), heading, section):
                inside.addWidget(part)
            if section is self.cell:
                self._cell_heading = heading
        vbox(
            *(self.empty, self.work, self.error, self.inside, None),
            on=self,
            spacing=8,
            margins=PAGE_MARGINS,
        )
        # the camera moves many times a second; what depends on it follows when it rests
        self._rest = timer(self, 250, self._view_rested, once=True)
        # once it is laid out
        self._answer = timer(self, 50, self._show_cell, once=True)

    def _connect(self) -> None:
        connect, follow = self.connections.connect, self.connections.follow
        events = self.session.events
        follow(self._show_image, events.image)
        follow(self._show_region, events.where)
        follow(self._show_why, events.why)
        follow(self._show_kept, events.models, events.model, events.why)
        connect(self.port.view_changed, self._view_moved)
        self.region_row.valueChanged.connect(self._region_changed)
        self.misread.splitWanted.connect(
            lambda axis: guarded(self.session, lambda: self.port.split(axis))
        )
        self.tiles.toggled.connect(self.controller.show_layer)
        self.detail.channelChanged.connect(self.controller.set_channel)
        self.stages.stageChanged.connect(self.controller.set_stage)
        show_layer = self.controller.show_layer
        self.stages.outlines.clicked.connect(lambda on: show_layer(STAGE, on))
        self.stages.change.clicked.connect(lambda on: show_layer(CHANGE, on))
        self.stages.jumpWanted.connect(self._jump)
        self.what_if.valueChanged.connect(self._try)
        self.what_if.reset.clicked.connect(self.controller.reset_what_if)
        ask = self.what_if.name_row.ask
        self.what_if.keep.clicked.connect(lambda: ask(self.controller.proposed_name()))
        self.what_if.name_row.accepted.connect(self.controller.keep_what_if)
        self.what_if.undo.clicked.connect(self.controller.undo_keep)

    def shut(self) -> None:
        """Undo every connection to session, port and viewer; the page is about to go."""
        self._rest.stop()
        self._answer.stop()
        self.stages.stop()
        self.picker.turn(False)
        super().shut()

    def set_theme(self, theme: str) -> None:
        """Follow napari's theme where a style sheet cannot."""
        color = text_color(theme)
        self.image_row.set_color(color)
        self.cell.set_colors(color, QColor(get_theme(theme).background.as_hex()))
        align_forms(self)
        self.what_if.fit()

    def showEvent(self, event: QShowEvent | None) -> None:
        """It comes into view."""
        self.picker.turn(True)
        self.port.maps.set_seen(CELL, True)
        # the camera may have moved while another page was in front
        self._rest.start()
        super().showEvent(event)

    def hideEvent(self, event: QHideEvent | None) -> None:
        """It goes out of view."""
        # on another page a click means something else
        self.picker.turn(False)
        self.port.maps.set_seen(CELL, False)
        self.stages.stop()
        super().hideEvent(event)

    # --- what a person does --------------------------------------------------------------

    def _start(self) -> None:
        # plane and view are those of this moment
        self._workspace.refresh_image()
        self.controller.explain()

    def _region_changed(self) -> None:
        self._workspace.set_region(self.region_row.where())

    def inspect(self, label: int) -> None:
        """Show one cell of the result closely."""
        why = self.session.why
        if why is not None:
            self._asked = True
            shape = why.result.segmentation.labels.shape
            self.controller.inspect(label, self.port.edited_labels(why.key, shape))

    def _jump(self, column_name: str) -> None:
        why = self.session.why
        if why is None:
            return
        ranked = self.port.ranked(why.key, column_name)
        before, label = self._jumped
        at = ranked.index(label) + 1 if before == column_name and label in ranked else 0
        for label in [*ranked[at:], *ranked[:at]]:
            # a cell of the table may be gone from edited labels
            if self.port.go_to(why.key, label):
                self._jumped = (column_name, label)
                self.inspect(label)
                return

    def _try(self) -> None:
        self.controller.set_what_if(self.what_if.value())

    # --- what the viewer and the session say ---------------------------------------------

    def _cells(self) -> Any:
        why = self.session.why
        return self.port.result_layer(why.key) if why is not None and why.kept else None

    def _view_moved(self) -> None:
        self._rest.start()

    def _view_rested(self) -> None:
        if self.isVisible():
            self._workspace.refresh_image()
            self.controller.view_rested()
            self._show_plane()

    def _show_image(self) -> None:
        source = self.session.image
        self.empty.setVisible(source is None)
        self.work.setVisible(source is not None)
        self.misread.set_image(source)
        self._show_region()
        self._show_plane()
        self._run.show_progress()

    def _show_region(self) -> None:
        self.region_row.setValue(self.session.where, self.session.planes)

    def _show_plane(self) -> None:
        """Of a stack: which plane it is about."""
        source, why = self.session.image, self.session.why
        text = ""
        if source is not None and source.plane is not None:
            try:
                stack = source_plan(source).stack_shape
            except SA2NetError:
                stack = ()
            text = index_words(source.stack_axes, source.plane, stack)
            if why is not None and why.result.index != source.plane:
                index = why.result.index
                shown = index_words(source.stack_axes, index, stack)
                text += f"; shown is why in {shown}"
        show_text(self.plane, text)

    def _show_why(self) -> None:
        why = self.session.why
        self.teach.setVisible(why is None)
        self.inside.setVisible(why is not None)
        note = "" if why is None else _note(why)
        show_text(self.note, note)
        self._show_plane()
        if why is None:
            self.stages.stop()
            self.tiles.set_maps({})
            self.cell.set_cell(None)
            return
        bright = self.port.is_bright(why.image_key)
        result = why.result
        kind = result.network.kind
        self.tiles.set_maps(why.maps, bright, kind)
        self.tiles.set_shown(why.shown, why.focus)
        self.detail.set_map(
            why.maps.get(why.focus),
            why.channels.get(why.focus),
            can_choose=why.kept,
            bright=bright,
            network=kind,
        )
        self.detail.set_together(len(why.shown & why.maps.keys()))
        self.stages.set_stages(tuple(result.stages))
        self.stages.setValue(why.stage, STAGE in why.shown, CHANGE in why.shown)
        self.cell.set_cell(why.inspection)
        self._show_what_if(why)
        answered = why.inspection is not None and why.inspection.label == why.wanted
        if self._asked and answered:
            self._asked = False
            self._answer.start()

    def _show_cell(self) -> None:
        """The answer lies below the maps, out of sight on a small screen."""
        self.bring_up(self._cell_heading, self.cell)

    def _show_what_if(self, why: WhyState) -> None:
        result = why.result
        # without a tile the network was not run: there is nothing to try
        tried = result.segmentation.n_tiles > 0
        self.what_if.controls.setEnabled(why.kept and tried and has_attention(result.network))
        if self.what_if.network != result.network:
            self.what_if.set_network(result.network)
            align_forms(self)
        self.what_if.setValue(why.what_if)
        if why.what_if.is_default:
            self.what_if.set_line("As trained")
        elif why.what_if_result is None:
            self.what_if.set_line("Trying…")
        else:
            self.what_if.set_line(what_if_words(why.what_if_result, why.what_if_part))

    def _show_kept(self) -> None:
        why = self.session.why
        kept = None if why is None else why.variant
        if kept is not None and all(kept.card != entry.card for entry in self.session.models):
            kept = None  # removed, renamed or replaced elsewhere
        can_keep = why is not None and not why.what_if.is_default
        if why is not None and kept is not None:
            same = (kept.parent, kept.settings) == (why.model, why.what_if)
            can_keep = can_keep and not same
        self.what_if.set_kept(
            kept,
            "" if why is None else why.keep_problem,
            can_keep=can_keep,
            chosen=kept is not None and kept.name == self.session.model,
        )


def has_attention(network: NetworkConfig) -> bool:
    """Whether there is something in a network that can be switched off."""
    return network.kind == "sa2net" or any((*network.gates, *network.se))


def _note(why: WhyState) -> str:
    """What a person should know of an explanation; mostly nothing."""
    if not why.kept:
        return LOST
    if not why.maps:
        ran = why.result.segmentation.n_tiles
        return NO_ATTENTION if ran else BLANK
    return MOVED if why.moved else ""
