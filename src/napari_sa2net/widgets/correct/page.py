"""The Correct page: repair cells, say which are right, keep what was done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_warning
from qtpy.QtCore import Qt
from qtpy.QtGui import QHideEvent, QKeyEvent, QShowEvent
from qtpy.QtWidgets import QWidget

from napari_sa2net.app.edit_session import Change
from napari_sa2net.widgets.controls import (
    PAGE_MARGINS,
    Form,
    ProgressLine,
    align_forms,
    guarded,
    link_button,
    muted,
    push_button,
    separator,
    show_text,
    text_label,
    timer,
    vbox,
)
from napari_sa2net.widgets.correct.bench import CellsRow, CheatSheet, OfferBox, ToolBench
from napari_sa2net.widgets.correct.sections import (
    CarrySection,
    KeepSection,
    LiveSection,
    ReviewSection,
)
from napari_sa2net.widgets.correct.tools import OTHER_KEYS, TOOLS, USUAL_KEYS
from napari_sa2net.widgets.napari_port.keys import Keys, choose_keys
from napari_sa2net.widgets.napari_port.reviewed_layer import ReviewedLayer
from napari_sa2net.widgets.page import NoImage, PageWidget, error_box
from napari_sa2net.widgets.theme import text_color
from napari_sa2net.widgets.workspace import Workspace

NO_CELLS = (
    "There are no cells over this image yet. Once they are found, you repair what is wrong "
    "here, and keep it to teach the model."
)
FIXED = (
    "These cells cannot be changed where they are: in a file, in several resolutions, or "
    "read-only. A copy in memory can be corrected; what is in the file stays as it is."
)
SCORE_MS = 25
REST_MS = 200

if TYPE_CHECKING:
    from napari_sa2net.widgets.folder import FolderWalk


class CorrectPage(PageWidget):
    """Binds the panels to the controller; all state lives there."""

    def __init__(self, workspace: Workspace, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._workspace = workspace
        self.session = workspace.session
        self.controller = workspace.correct
        self.live = workspace.live
        self.state = self.controller.state
        self.port = workspace.port
        self.cells = workspace.cells
        self.reviewed = ReviewedLayer(self.port.viewer)
        for refused in choose_keys(USUAL_KEYS, workspace.wanted_keys):
            show_warning(f"Keys in the preferences of SA2-Net: {refused}")
        self._build()
        self.keys = Keys(self._bindings())
        history = {"Control-Z": self.controller.undo, "Control-Shift-Z": self.controller.redo}
        self.undo_keys = Keys(history)
        # the cells need not be selected: layers with an undo of their own come before these
        self.viewer_undo_keys = Keys(history)
        self.outline_undo_keys = Keys(history)
        self._connect()

    # --- building ------------------------------------------------------------------------

    def _build(self) -> None:
        #: made where a folder of images is open
        self.walk: FolderWalk | None = None
        self.empty = NoImage(self._workspace, "Its cells can then be found, repaired and kept.")
        self.cells_row = CellsRow()
        self.place = muted()
        form = Form()
        form.add("Cells", self.cells_row, "The layer of cells that is corrected")
        form.add_wide(self.place)
        # here, not beside the button below: who comes back is to see it at once
        self.kept_before = muted()
        form.add_wide(self.kept_before)
        self.lay_on = push_button(
            "Lay them on the image",
            "Give these cells the scale and the place of the image",
            role="",
        )
        form.add_wide(self.lay_on)
        self.offers = OfferBox()
        self.no_cells = QWidget()
        self.no_cells_text = muted(NO_CELLS)
        self.to_segment = push_button(
            "Find the cells",
            "Segment this image with the settings of the Segment page",
            role="primary",
        )
        self.copy = push_button(
            "Correct a copy",
            "Bring these cells into memory, where they can be corrected",
            role="primary",
        )
        self.new_layer = link_button(
            "or draw them by hand", "Add an empty layer of cells over the image"
        )
        vbox(
            self.no_cells_text,
            self.copy,
            self.to_segment,
            self.new_layer,
            on=self.no_cells,
            spacing=8,
        )
        self.notes, self.odd = text_label(role="warning"), text_label(role="warning")
        self.mend = push_button(
            "", "Until then nothing can be accepted or kept. Undo takes it back", role=""
        )
        self.bench = ToolBench(self.port, self.controller, self._begin, self)
        self.strip, self.box = self.bench.strip, self.bench.box
        self.progress = ProgressLine()
        self.error = error_box(self, self._workspace)
        self.carry = CarrySection(self.controller, self.connections)
        self.review = ReviewSection()
        self.learning = LiveSection(self.live, self.connections)
        self.keep = KeepSection(self.controller, self.connections)
        self.sheet = CheatSheet()
        self.work, self.body = QWidget(), QWidget()
        vbox(form, self.offers, self.no_cells, on=self.work, spacing=8)
        vbox(
            *(self.notes, self.odd, self.mend, self.strip, self.carry, separator()),
            *(self.review, self.learning, self.box, self.progress, separator(), self.keep),
            *(separator(), self.sheet),
            on=self.body,
            spacing=8,
        )
        self._parts = vbox(
            *(self.empty, self.work, self.error, self.body, None),
            on=self,
            spacing=8,
            margins=PAGE_MARGINS,
        )
        self._scoring = timer(self, SCORE_MS, self._score)
        self._outline = timer(self, 0, self._show_outlines, once=True)
        self._rest = timer(self, REST_MS, self.controller.keeping.refresh, once=True)

    def _connect(self) -> None:
        connect, follow = self.connections.connect, self.connections.follow
        state, session = self.state.events, self.session.events
        connect(state.cells, self._cells_changed)
        self._cells_changed()
        follow(self._show_cells, session.image, self.cells.listed, self.cells.changed)
        now, strip = self.state, self.strip
        follow(lambda: strip.set_history(now.undo, now.redo), state.undo, state.redo)
        follow(lambda: strip.set_learned(now.clicks_learned), state.clicks_learned)
        follow(self._show_odd, state.odd, state.said)
        follow(self._show_review, state.review)
        follow(lambda: self.offers.set_offers(now.offers), state.offers)
        follow(lambda: show_text(self.kept_before, now.kept_before), state.kept_before)
        follow(self._show_progress, session.running, session.progress)
        follow(lambda: self.box.set_values(self.session.instances), session.instances)
        connect(self.controller.changed, self._drawn_anew)
        connect(self.controller.look_at, self._look_at)
        self.cells_row.chosen.connect(self.cells.choose)
        keeping = self.controller.keeping
        self.offers.restore.clicked.connect(lambda: keeping.restore(self.state.offers[0]))
        self.offers.sure.clicked.connect(lambda: keeping.discard(self.state.offers[0]))
        self.to_segment.clicked.connect(self._find_cells)
        self.copy.clicked.connect(self._copy)
        self.new_layer.clicked.connect(lambda: self.cells.add_empty())
        self.lay_on.clicked.connect(self._lay_on)
        self.mend.clicked.connect(self._mend)
        self.review.back.clicked.connect(self.previous)
        self.review.accept.clicked.connect(self.accept)
        self.review.no_cell.clicked.connect(self.no_cell)
        self.review.forward.clicked.connect(self.next)
        self.review.fix.clicked.connect(self.fix)
        self.review.all.clicked.connect(self.accept_view)
        self.review.outlines.toggled.connect(self._outlines_toggled)
        self.learning.outlines.toggled.connect(lambda _: self._outline.start())
        connect(self.live.state.events.shown, lambda _: self._outline.start())

    def _bindings(self) -> dict[str, Callable[[], Any]]:
        own: dict[str, Callable[[], Any]] = {
            tool.key: (lambda name=tool.name: self.bench.toggle(name))  # type: ignore[misc]
            for tool in TOOLS
            if not tool.mode
        }
        others: dict[str, Callable[[], Any]] = {
            "next": self.next,
            "previous": self.previous,
            "accept": self.accept,
            "no_cell": self.no_cell,
            "accept_view": self.accept_view,
            "keep": self.controller.keeping.keep,
            "carry": self.controller.carry.carry,
        }
        return own | {OTHER_KEYS[name][0]: act for name, act in others.items()}

    def shut(self) -> None:
        """Undo every connection; the page is about to go, the cells stay as they are."""
        self._scoring.stop()
        self._rest.stop()
        self._outline.stop()
        self.bench.shut()
        self.bench.disconnect_all()
        self.keys.release()
        for keys in (self.undo_keys, self.viewer_undo_keys, self.outline_undo_keys):
            keys.release()
        self.reviewed.hide()
        super().shut()

    def set_theme(self, theme: str) -> None:
        """Follow napari's theme where a style sheet cannot."""
        self.strip.set_color(text_color(theme))
        align_forms(self)
        self.box.foreground.fit("0.00")
        self.box.split.fit("0.00")

    def showEvent(self, event: QShowEvent | None) -> None:
        """It comes into view."""
        super().showEvent(event)
        if self.walk is None and "folder" in vars(self._workspace):
            from napari_sa2net.widgets.folder import FolderWalk

            self.walk = FolderWalk(self._workspace.folder, self.connections)
            self._parts.insertWidget(0, self.walk)
        self.keys.bind(self.port.viewer)
        self.viewer_undo_keys.bind(self.port.viewer)
        self.bench.picker.turn(True)
        self._begin()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """It goes out of view."""
        # on another page keys and clicks mean something else
        self.bench.shut()
        for keys in (self.keys, self.viewer_undo_keys):
            keys.release()
        self._scoring.stop()
        super().hideEvent(event)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Take the keys that mean something here."""
        # the canvas has its own keys; this is for when the page has the focus
        if event is not None and event.key() == Qt.Key.Key_Escape and self.bench.tool:
            self.bench.end()
            return
        super().keyPressEvent(event)

    # --- what a person does ----------------------------------------------------------------

    def fix(self) -> None:
        """Take up the brush with the cell under review."""
        self.bench.brush(self.state.review.label)

    def next(self) -> None:
        """To the next doubtful cell."""
        self.bench.end_fix()
        self.controller.review.next()

    def previous(self) -> None:
        """Back to the cell before."""
        self.bench.end_fix()
        self.controller.review.previous()

    def accept(self) -> None:
        """The cell under review is right; to the next."""
        self.bench.end_fix()
        self.controller.review.accept_and_next()

    def no_cell(self) -> None:
        """The cell under review is none: take it away; to the next."""
        self.bench.end_fix()
        self.controller.review.remove_and_next()

    def accept_view(self) -> None:
        """Accept all cells that are seen now."""
        self.bench.end_fix()
        self.controller.set_cells(self.cells.source())
        self.controller.accept_view()

    # --- what the viewer says --------------------------------------------------------------

    def _look_at(self, label: int, index: tuple[int, ...]) -> None:
        session, source = self.controller.session, self.state.cells
        if session is None or source is None or self.bench.layer is None:
            return
        plane = session.corrections.plane(index)
        if label in plane:
            self.bench.layer.selected_label = label
            typical = float(np.sqrt(np.median(plane.areas)))
            self.cells.go_to(index, plane.box(label), typical)
        else:
            self.cells.show_plane(index)

    def _drawn_anew(self, key: str, change: Change) -> None:
        session, source = self.controller.session, self.state.cells
        if session is None or source is None or source.key != key or self.bench.layer is None:
            return
        boxes = change.reviewed.get(source.plane, [])
        shown = self.reviewed.update(self.bench.layer, session, source.plane, boxes)
        if not shown and self.isVisible():
            # a layer takes napari a while to make: after the correction is seen
            self._outline.start()
        self._rest.start()
        self._scoring.start()

    def _begin(self) -> None:
        """Corrections of the chosen cells begin when the page is seen."""
        if not self.isVisible() or self.bench.layer is None:
            return
        session, source = self.controller.open(), self.state.cells
        if session is None or source is None:
            return
        self.undo_keys.bind(self.bench.layer)
        self.controller.show()
        # not now: napari may be at work on its layers
        self._outline.start()
        self._scoring.start()
        self._rest.start()

    def _score(self) -> None:
        if not self.isVisible() or self.controller.review.score_some():
            self._scoring.stop()

    def _outlines_toggled(self, on: bool) -> None:
        self.reviewed.wanted = on
        self._show_outlines()

    def _show_outlines(self) -> None:
        session, source, layer = self.controller.session, self.state.cells, self.bench.layer
        there = session is not None and source is not None and layer is not None
        if not there or not self.reviewed.is_of(layer):
            self.reviewed.hide()  # its cells went, such as with their image
        if not self.isVisible():
            return  # nobody who paints on another page asked for a layer
        if session is not None and source is not None and layer is not None:
            shown = self.live.state.shown if self.learning.outlines.isChecked() else ()
            self.reviewed.propose(layer, session, source.plane, frozenset(shown))
            self.reviewed.show(layer, session, source.plane, self.state.review.label)
        if self.reviewed.layer is not None:
            self.outline_undo_keys.bind(self.reviewed.layer)
        else:
            self.outline_undo_keys.release()

    def _find_cells(self) -> None:
        """Segment, on the page where it is seen how far that is."""
        self._workspace.open_page("Segment")
        if not self.session.running:
            # plane and view are those of this moment
            self._workspace.refresh_image()
            self._workspace.controller.segment()

    def _lay_on(self) -> None:
        source = self.state.cells
        if source is not None:
            self.cells.lay_on_image(source.key)

    def _mend(self) -> None:
        session = self.controller.session
        if session is not None and not session.history.done:
            self.cells.widen()
        self.controller.mend()

    def _copy(self) -> None:
        # what is too large for the memory is said on the page
        guarded(self.session, self.cells.bring_into_memory)

    # --- what the state says ---------------------------------------------------------------

    def _cells_changed(self) -> None:
        source = self.state.cells
        layer = self.cells.find(source.key) if source is not None else None
        if layer is not self.bench.layer:
            self.undo_keys.release()
            self._outline.start()
        self.bench.set_layer(layer)
        self._begin()
        self._show_cells()

    def _show_cells(self) -> None:
        choices, source = self.cells.choices(), self.state.cells
        has_image = self.session.image is not None
        self.empty.setVisible(not has_image and not choices)
        self.work.setVisible(has_image or bool(choices))
        self.body.setVisible(source is not None)
        current = self.cells.current
        fixed = current is not None and source is None
        self.no_cells.setVisible(source is None)
        self.no_cells_text.setText(FIXED if fixed else NO_CELLS)
        self.copy.setVisible(fixed)
        self.to_segment.setVisible(not fixed)
        key = source.key if source is not None else None
        self.cells_row.set_choices(choices, key)
        self.cells_row.setEnabled(bool(choices))
        self.place.setText(_place(source))
        self.place.setVisible(source is not None)
        notes = source.notes if source is not None else ""
        show_text(self.notes, notes[:1].upper() + notes[1:])
        self.lay_on.setVisible(source is not None and source.could_lie_on)
        image = source.image if source is not None else None
        size = image.pixel_side_um if image is not None else None
        self.box.diameter_box.set_lengths(size)

    def _show_said(self) -> None:
        said, odd = self.state.said, self.state.odd
        words = "" if said.words == odd.words else said.words  # it is above
        self.strip.set_said(words, said.ok)

    def _show_odd(self) -> None:
        odd = self.state.odd
        self.odd.setText(odd.words)
        self.mend.setText(odd.mend)
        for part in (self.odd, self.mend):
            part.setVisible(bool(odd.words))
        self._show_said()

    def _show_review(self) -> None:
        review = self.state.review
        self.review.set_review(review)
        if not review.scored and self.isVisible():
            self._scoring.start()
        if review.label != self.reviewed.current:
            self._outline.start()

    def _show_progress(self) -> None:
        running = self.session.running
        self.progress.set_progress(self.session.progress if running else None, "")
        self.progress.setVisible(running)


def _place(source: Any) -> str:
    """``over nuclei_03 · plane 3 of 0–59``."""
    if source is None:
        return ""
    words = f"over {source.image.name}" if source.image is not None else "over no image"
    if source.could_lie_on and source.image is not None:
        words = f"as large as {source.image.name}, but of another scale or place"
    plane = source.unseen or source.words_of(source.plane, sizes=True)
    return f"{words} · {plane}" if plane else words
