"""What the Correct page does, without a page: intents in, steps done, journalled and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal, SignalGroupDescriptor

from napari_sa2net import edits
from napari_sa2net.app.cells import (
    Box,
    BoxRequest,
    CellSource,
    CorrectEngine,
    Foreground,
    Index,
    MakeStep,
    Odd,
    chosen,
    inside,
    mended,
    odd_words,
    unmarked,
)
from napari_sa2net.app.clicks import CorrectClicks
from napari_sa2net.app.edit_session import (
    AREA_WORDS,
    BeginJournal,
    Change,
    EditSession,
    Offer,
    RestoredCells,
    now,
    resumed_session,
)
from napari_sa2net.app.keep import CorrectFiles, WhatToKeep, default_folder
from napari_sa2net.app.keeping import CorrectKeeping
from napari_sa2net.app.link import EngineLink, wait_a_while
from napari_sa2net.app.planes import Carried, CorrectCarry, CorrectReview, Review
from napari_sa2net.config import InstanceConfig
from napari_sa2net.data.journal import Journal, lost_words
from napari_sa2net.data.labels import Look
from napari_sa2net.edits import Corrections, Step
from napari_sa2net.errors import EditConflictError, EditError, SA2NetError

logger = logging.getLogger(__name__)

# --------------------------------------------------------------------------------------------
# What the Correct page shows, as evented state.


@dataclass(frozen=True)
class Said:
    """One line on what was just done, or why it could not be done.

    Attributes
    ----------
    ok
        False: nothing was changed.
    """

    words: str = ""
    ok: bool = True


@dataclass
class CorrectState:
    """Evented; written by the controller, read by the page.

    Attributes
    ----------
    cells
        The cells that are corrected; None where there are none.
    undo, redo
        "Undo split of cell 17"; empty where there is nothing.
    unsaved
        Corrections since the last Keep.
    safe
        All of them are on disk, in the journal.
    journal_problem
        Why they are not.
    carry
        Corrections are carried to the planes beside at once.
    carried
        Whether the newest one can be, or to which planes it was.
    keep
        What Keep would do.
    keeping
        A Keep is under way.
    kept_before
        What the folder holds of the image from before, in words.
    kept
        What the last Keep did, in words.
    kept_note
        What a person has to know of it besides.
    folder, group
        Where to keep, and what slide, patient or dish the image belongs to.
    offers
        Corrections of this image that can be restored.
    said
        What was just done.
    clicks_learned
        Cells of the shown plane that clicks have learned from.
    odd
        Why nothing can be accepted or kept.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    cells: CellSource | None = None
    undo: str = ""
    redo: str = ""
    unsaved: int = 0
    safe: bool = True
    journal_problem: str = ""
    review: Review = field(default_factory=Review)
    carry: bool = False
    carried: Carried = field(default_factory=Carried)
    keep: WhatToKeep = field(default_factory=WhatToKeep)
    keeping: bool = False
    kept_before: str = ""
    kept: str = ""
    kept_note: str = ""
    folder: Path = field(default_factory=default_folder)
    group: str = ""
    offers: tuple[Offer, ...] = ()
    said: Said = field(default_factory=Said)
    clicks_learned: int = 0
    odd: Odd = field(default_factory=Odd)


class CorrectController:
    """Runs the Correct page of one viewer.

    All methods return at once and belong to the link's thread. What the page shows is
    ``state``. Files are written by a thread of its own.

    Parameters
    ----------
    link
        Session, dispatch and lock; errors of files go to its ``fail``.

    Attributes
    ----------
    state : CorrectState
    changed
        Key of the layer and `Change`: draw these pixels anew.
    look_at
        Bring a cell into view: label and plane.
    through
        Called when every cell is reviewed and a person goes on.
    restored
        `RestoredCells`: show them as a new layer.
    journal_begun
        Key of the layer and id of the journal of its corrections.
    waves_changed, carried_changed
        Key of the layer and what was noted of the waves of learning that it holds; and of the
        corrections that were carried to other planes.
    """

    changed = Signal(str, Change)
    look_at = Signal(int, tuple)
    restored = Signal(RestoredCells)
    journal_begun = Signal(str, str)
    waves_changed = Signal(str, tuple)
    carried_changed = Signal(str, tuple)

    def __init__(self, link: EngineLink) -> None:
        self.link = link
        self.state = CorrectState()
        self.lock = link.lock
        self._sessions: dict[str, EditSession] = {}
        self._sources: dict[str, CellSource] = {}
        self._seen_since: dict[str, datetime] = {}
        self._offered = ""
        self._files = CorrectFiles(link, self._show_safety)
        self._engine = CorrectEngine(link, self._foreground_ready, self._box_ready)
        self.through: Callable[[], Any] = lambda: None
        self.review = CorrectReview(self)
        self.carry = CorrectCarry(self)
        self.keeping = CorrectKeeping(self, self._files)
        self.clicks = CorrectClicks(self)

    # --- what is corrected -------------------------------------------------------------

    @property
    def session(self) -> EditSession | None:
        """Corrections of the chosen cells, if they have begun."""
        cells = self.state.cells
        return self._sessions.get(cells.key) if cells is not None else None

    def set_cells(self, source: CellSource | None) -> None:
        """Choose the cells, or tell that their place, plane or image changed."""
        with self.lock:
            former = self.state.cells
            if source is not None:
                known = self._sessions.get(source.key)
                if known is not None and known.labels is not source.labels:
                    # Before anybody hears of the new labels: they may have another shape.
                    self.forget_cells(source.key)
            at = (source.key, source.plane) if source is not None else None
            if former is None or (former.key, former.plane) != at:
                self.state.said = Said()
                self.state.odd = Odd()
            self.state.cells = source
            image = source.image if source is not None else self.link.session.image
            if image is None or image.key != self._offered:
                self._offered = image.key if image is not None else ""
                self.keeping.look_for_offers(image)
            self.keeping.image_chosen(image.key if image is not None else "")
            if source is not None:
                self._sources[source.key] = source
                self._seen_since.setdefault(source.key, source.since or now())
            self.show()
            if (former and former.key) != (source and source.key) and self.session is None:
                # what is said is of the former cells
                self.keeping.refresh()

    def session_of(self, key: str) -> EditSession | None:
        """Corrections of the cells with that key, if they have begun."""
        return self._sessions.get(key)

    def journals(self) -> set[str]:
        """Ids of the journals that are written here, or will be when the page is seen."""
        found = {one.journal.id for one in self._sessions.values() if one.journal is not None}
        cells = self.state.cells
        if cells is not None and cells.journal and cells.key not in self._sessions:
            found.add(cells.journal)
        return found

    def open(self) -> EditSession | None:
        """Begin with the chosen cells, or go on; None where there are none."""
        with self.lock:
            source = self.state.cells
            if source is None:
                return None
            session = self._sessions.get(source.key)
            if session is None:
                session = self.keeping.take(source.journal)
                if session is None or session.labels is not source.labels:
                    session = self._begin(source)
                if session is None:
                    return None
                self._sessions[source.key] = session
                self._tell_notes(source.key, session)
                if session.journal is not None:
                    self._files.listen(session.journal)
                    self.keeping.taken_up(session.journal.id)
            session.show_plane(source.plane)
            if session.foreground is None:
                self._engine.ask_foreground(source)
            return session

    def forget_cells(self, key: str) -> None:
        """The layer is gone or has other labels: what was not kept can be restored."""
        with self.lock:
            session = self._sessions.pop(key, None)
            self._sources.pop(key, None)
            self._seen_since.pop(key, None)
            self.keeping.forget(key)
            self.clicks.forget(key)
            image = self.state.cells.image if self.state.cells is not None else None
            if self.state.cells is not None and self.state.cells.key == key:
                self.state.cells = None
            if session is not None:
                for error in _let_go([session]):
                    self.keeping.report(error)
                self.keeping.look_for_offers(image or self.link.session.image)
            self.show()

    def close(self) -> None:
        """Let all journals go, their steps on disk."""
        with self.lock:
            left = [*self._sessions.values(), *self.keeping.leave()]
            self._sessions.clear()
        _let_go(left, self._files.close)

    # --- corrections -------------------------------------------------------------------

    def do(self, make: MakeStep) -> bool:
        """Make a step on the shown plane and carry it out; False where it could not be.

        ``state.said`` tells what was done, or why not.
        """
        with self.lock:
            session, source = self.open(), self.state.cells
            if session is None or source is None or self.is_unseen():
                return False

            def act() -> Change:
                step = make(session.corrections, source.plane)
                self._take_area(session, source)
                return session.do(step)

            return self.change(source.key, act) and self.carry.after(source.key)

    def add_area(self, key: str, start: tuple[int, ...], labels: Any) -> bool:
        """Add the cells of a part of the image to cells that a person has edited.

        What is reviewed stays, and so does what lies elsewhere.
        """
        with self.lock:
            own = self._begun(key)
            if own is None:
                return False
            return self.change(
                key, lambda: own.do(edits.replace_area(own.corrections, start, labels))
            )

    def about(self, source: CellSource, box: Box) -> dict[str, Any]:
        """What a request on a box of the shown plane says of image, model and settings."""
        return self._engine.about(source, box, self.link.session.instances, None)

    def propose(
        self, key: str, make: Callable[[Corrections], Step], record: Mapping[str, Any]
    ) -> bool:
        """Carry out what a model proposes for cells, as one step; False where nothing is left.

        Parameters
        ----------
        record
            What is noted of its making, of plain values.
        """
        with self.lock:
            session = self._sessions.get(key)
            if session is None:
                return False
            return self.change(
                key, lambda: session.do(make(session.corrections), record), quiet=True
            )

    def _take_area(self, session: EditSession, source: CellSource) -> None:
        """What was added to the cells before their first correction can be taken back, too."""
        if source.added and not session.history.done and not session.journal:
            session.record_area(source.added)

    def split(self, line: Any) -> bool:
        """Split the cells that a drawn line crosses."""
        return self.do(lambda c, i: edits.split(c, line, i))

    def merge(self, stroke: Any) -> bool:
        """Make one cell of all that a stroke touches."""
        return self.do(lambda c, i: edits.merge(c, stroke, i))

    def delete(self, point: Any = None, lasso: Any = None) -> bool:
        """Delete the cell under a point, or those in a lasso."""
        return self.do(lambda c, i: edits.delete(c, None, i, point=point, lasso=lasso))

    def remove(self, labels: Iterable[int]) -> bool:
        """Delete these cells in all planes, as one step."""
        return self.do(lambda c, _: edits.delete_everywhere(c, labels))

    def fill(self, point: Any = None, lasso: Any = None) -> bool:
        """Fill the holes of the cell under a point, or of those in a lasso."""
        return self.do(lambda c, i: edits.fill_holes(c, chosen(c, i, point, lasso), i))

    def smooth(self, point: Any = None, lasso: Any = None) -> bool:
        """Smooth the outline of the cell under a point, or of those in a lasso."""
        return self.do(lambda c, i: edits.smooth(c, chosen(c, i, point, lasso), i))

    def redraw(self, outline: Any) -> bool:
        """Draw a cell anew: the one in the middle of the outline, or a new one.

        Others that nobody has reviewed give way: a person's outline is worth more than theirs.
        """
        return self.do(
            lambda c, i: edits.redraw(c, outline, i, inside(c, i, outline), "unreviewed")
        )

    def mark(self, kind: str, polygon: Any) -> bool:
        """Mark a region as "ignore" or "reviewed"."""
        if kind == "reviewed" and not self._are_cells():
            return False
        return self.do(lambda c, i: edits.mark_region(c, kind, i, polygon=polygon))  # type: ignore[arg-type]

    def unmark(self, point: Any) -> bool:
        """Remove the marked region under a point."""
        return self.do(unmarked(point))

    def fit(self, point: Any = None, lasso: Any = None) -> bool:
        """Grow or shrink cells to the edge that the model saw."""
        return self.do(lambda c, i: self._fitted(c, i, chosen(c, i, point, lasso)))

    def segment_box(
        self, outline: Any, instances: InstanceConfig, diameter: float | None = None
    ) -> None:
        """Segment a box again with other settings; what is reviewed in it stays."""
        with self.lock:
            source = self.state.cells
            if self.open() is None or source is None or self.is_unseen():
                return
            try:
                self._engine.segment_box(source, outline, instances, diameter)
            except EditError as error:
                self.say(str(error), ok=False)

    def add(self, point: tuple[float, float], bounds: Any = None) -> None:
        """Make a cell of what is clicked: one that was missed, or a part of one of two.

        Parameters
        ----------
        point
            (y, x) in pixels of the plane.
        bounds
            Outline of a box around the cell, where one was drawn.
        """
        with self.lock:
            self.clicks.add(point, bounds)

    def accept(self, label: int) -> bool:
        """Say that a cell is right as it is."""
        if not self._are_cells():
            return False
        return self.do(lambda c, i: edits.accept(c, [label], i))

    def accept_view(self) -> bool:
        """Say that all cells that are seen are right, of the shown plane."""
        if self.is_unseen() or not self._are_cells():
            return False
        source = self.state.cells
        image = source.image if source is not None else None
        view = image.view if image is not None else None
        if source is None or view is None or source.corner is None:
            self.say("The view shows no cell: move the camera over the image.", ok=False)
            return False
        y, x = source.corner[-2:]
        box = (view[0] - y, view[1] - y, view[2] - x, view[3] - x)
        return self.do(lambda c, i: edits.accept_in_view(c, box, i))

    def mend(self) -> bool:
        """Do what `CorrectState.odd` offers, as one step."""
        done = self.do(lambda c, i: mended(c, self._look()))
        if done:
            self.keeping.refresh()
        return done

    def stroke(self, key: str, atoms: Any) -> bool:
        """Take in a stroke of napari's brush, eraser, bucket or polygon."""
        with self.lock:
            session = self._begun(key)
            if session is None:
                return False
            done = self.change(key, lambda: session.stroke(atoms), quiet=True)
            return done and self.carry.after(key)

    def undo(self) -> bool:
        """Take the newest correction back, whatever made it."""
        with self.lock:
            session, source = self.open(), self.state.cells
            if session is None or source is None:
                return False
            self._take_area(session, source)
            done = self.change(source.key, session.undo, taken_back=True)
            if done:
                self.review.back_to(session.history.undone[-1])
            return done

    def redo(self) -> bool:
        """Do again what was taken back last."""
        with self.lock:
            session, source = self.open(), self.state.cells
            if session is None or source is None:
                return False
            return self.change(source.key, session.redo)

    # --- inside ------------------------------------------------------------------------

    def _begun(self, key: str) -> EditSession | None:
        """Corrections of the cells with that key, which begin now if those are chosen."""
        session, cells = self._sessions.get(key), self.state.cells
        if session is None and cells is not None and cells.key == key:
            session = self.open()
        return session

    def _begin(self, source: CellSource) -> EditSession | None:
        begin = self._journal_maker(source.key)
        session = resumed_session(source, begin) if source.journal else None
        if session is None and source.journal:
            self.keeping.look_for_offers(source.image)
        try:
            if session is None:
                session = EditSession(source.labels, begin, self._seen_since.get(source.key))
                look = session.look(source.plane)
                self.state.odd = Odd.of(look)
                words = self.state.odd.words or odd_words(look)
                words = "" if source.model or source.kept else words
                if words:
                    self.say(words, ok=False)
            return session
        except SA2NetError as error:
            self.say(str(error), ok=False)
            return None

    def change(
        self,
        key: str,
        act: Callable[[], Change],
        quiet: bool = False,
        taken_back: bool = False,
    ) -> bool:
        """Carry out a step on the cells with that key; False where it could not be."""
        try:
            change = act()
        except EditConflictError as error:
            source = self.state.cells
            self.forget_cells(key)
            self.set_cells(source)
            self.say(f"{error} What you did before can be restored above.", ok=False)
            return False
        except EditError as error:
            if not quiet:
                self.say(str(error), ok=False)
            return False
        words = change.step.words
        back = "Taken back: " + words
        self.say(back if taken_back else words[:1].upper() + words[1:])
        self.changed.emit(key, change)
        session = self._sessions.get(key)
        if session is not None and session.record_of(change.step) is not None:
            self._tell_notes(key, session)
        self.show()
        return True

    def _tell_notes(self, key: str, session: EditSession) -> None:
        """How the steps were made that are no person's alone."""
        self.waves_changed.emit(key, session.waves)
        self.carried_changed.emit(key, session.carried)

    def show(self) -> None:
        """The state as the session is."""
        session, state = self.session, self.state
        history = session.history if session is not None else None
        state.undo = history.undo_words if history is not None else ""
        if not state.undo and state.cells is not None and state.cells.added:
            state.undo = f"Undo {AREA_WORDS}"
        state.redo = history.redo_words if history is not None else ""
        state.unsaved = session.tally.unsaved if session is not None else 0
        self._show_safety()
        self.carry.show()
        self.review.show()
        self.clicks.show()

    def _show_safety(self) -> None:
        session = self.session
        error = None
        if session is not None:
            error = session.journal_error
            if error is None and session.journal is not None:
                error = session.journal.error
        self.state.journal_problem = str(error) if error is not None else ""
        self.state.safe = session.is_safe if session is not None else True

    def show_odd(self) -> None:
        """Say anew whether the shown plane is numbered cell by cell."""
        session, source = self.session, self.state.cells
        if session is not None and source is not None:
            self.state.odd = Odd.of(session.look(source.plane))

    def _look(self) -> Look:
        session, source = self.session, self.state.cells
        assert session is not None and source is not None
        return session.look(source.plane)

    def _are_cells(self) -> bool:
        """Whether a person may say that something is right here; if not, says why."""
        if self.open() is None:
            return True
        self.show_odd()
        if self.state.odd.words:
            self.say(self.state.odd.words, ok=False)
        return not self.state.odd.words

    def is_unseen(self) -> bool:
        """The view shows no plane of the cells: say how to go on."""
        source = self.state.cells
        if source is not None and source.unseen:
            self.say(source.unseen, ok=False)
            return True
        return False

    def say(self, words: str, ok: bool = True) -> None:
        """One line for the page on what was done, or why not."""
        self.state.said = Said(words, ok)

    # --- what the engine says ----------------------------------------------------------

    def _fitted(self, corrections: Corrections, index: Index, labels: list[int]) -> Step:
        session = self.session
        known = session.foreground if session is not None else None
        if known is None:
            raise EditError(
                "The model's probability of these cells is not at hand. Segment the image "
                "again, or draw the outline anew."
            )
        return edits.fit_to_edge(corrections, labels, known.plane(index), index, known.edge)

    def _foreground_ready(self, key: str, foreground: Foreground) -> None:
        session = self._sessions.get(key)
        if session is not None and foreground.shape == session.labels.shape:
            session.foreground = foreground
            session.forget_queue()
            self.review.show()

    def _box_ready(self, request: BoxRequest, labels: NDArray[np.int32]) -> None:
        session = self._sessions.get(request.cells)
        if session is not None:
            self.change(
                request.cells,
                lambda: session.do(
                    edits.replace_box(session.corrections, request.box, labels, request.index)
                ),
            )

    # --- files -------------------------------------------------------------------------

    def image_changed(self, key: str) -> None:
        """The pixels of an image changed, or its layer is gone."""
        self._files.image_changed(key)

    def _journal_maker(self, key: str) -> BeginJournal:
        def begin(arrays: Mapping[str, Any]) -> Journal:
            journal = self._files.begin_journal(self._sources[key], arrays)
            self.journal_begun.emit(key, journal.id)
            return journal

        return begin


def _let_go(
    sessions: Iterable[EditSession], then: Callable[[], Any] = lambda: None
) -> list[SA2NetError]:
    """Close sessions; what went wrong in the first seconds.

    What takes longer goes on behind the window, and is waited for when Python ends. All that
    goes wrong is logged: there may be no page any more to say it on.
    """
    errors: list[SA2NetError] = []

    def close() -> None:
        for session in sessions:
            error = session.close()
            if error is not None and session.journal is not None:
                logger.error("%s", lost_words(session.journal, error))
                errors.append(error)
        then()

    wait_a_while(close)
    return errors[:]
