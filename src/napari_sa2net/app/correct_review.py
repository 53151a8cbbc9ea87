"""Walking through the cells in the order of doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_sa2net.app.correct_session import EditSession
from napari_sa2net.app.correct_source import CellSource
from napari_sa2net.app.correct_state import Review
from napari_sa2net.edits import ReviewQueue

if TYPE_CHECKING:
    from napari_sa2net.app.correct import CorrectController

#: what the order goes by, with what the network saw and without
_SHAPE = "irregular shape, unusual size, contact with a neighbour"
_LAST = "cells that the image's edge cuts come last"
BY_SHAPE = f"{_SHAPE}; {_LAST}"
BY_BLUR = f"blurred boundary, {_SHAPE}, a seam of the network's pieces; {_LAST}"


class CorrectReview:
    """The review of the shown plane; a part of the controller.

    Parameters
    ----------
    controller
        Whose state and session these are.
    """

    def __init__(self, controller: CorrectController) -> None:
        self._controller = controller
        self._state = controller.state

    def score_some(self, seconds: float = 0.02) -> bool:
        """Work on the order of review for so long; True when it is known."""
        with self._controller.lock:
            at = self._at(begin=False)
            if at is None:
                return True
            done = at[2].score_some(seconds)
            known = at[2].doubt(self._state.review.label)
            # the cells may be ordered anew while one of them is looked at
            reasons = known.reasons if known is not None else self._state.review.reasons
            if done != self._state.review.scored or reasons != self._state.review.reasons:
                self.show(scored=done)
            return done

    def next(self) -> None:
        """Go to the most doubtful cell that nobody has reviewed."""
        with self._controller.lock:
            at = self._at()
            if at is not None:
                label = at[2].next(self._state.review.label or None)
                cells = self._state.cells
                here = cells.axis_noun if cells is not None else "plane"
                self._go(label, f"Every cell of this {here} is reviewed.")

    def previous(self) -> None:
        """Go back in the order of doubt."""
        with self._controller.lock:
            at = self._at()
            if at is not None:
                now = self._state.review.label
                label = at[2].previous(now) if now else at[2].next()
                self._go(label, "This is the most doubtful cell.")

    def accept_and_next(self) -> None:
        """The cell under review is right: accept it and go on."""
        with self._controller.lock:
            label = self._state.review.label
            at = self._at()
            if at is None:
                return
            if label and not self._state.review.status:
                self._controller.accept(label)
            self.next()

    def choose(self, label: int) -> None:
        """Look at a cell, such as one that was clicked."""
        with self._controller.lock:
            if self._at() is not None:
                self.show(label)

    def show(self, label: int | None = None, scored: bool | None = None) -> None:
        """Bring the state up to date, with another cell or the same."""
        session, source, old = (
            self._controller.session,
            self._state.cells,
            self._state.review,
        )
        if session is None or source is None:
            self._state.review = Review()
            return
        label = old.label if label is None else label
        if label not in session.corrections.plane(source.plane):
            label = 0
        queue = self._queue(session, source)
        doubt = queue.doubt(label) if label else None
        done, total = queue.progress
        self._state.review = Review(
            label,
            doubt.reasons if doubt is not None else (),
            session.corrections.status(label, source.plane) if label else "",
            done,
            total,
            old.scored if scored is None else scored,
            BY_SHAPE if session.foreground is None else BY_BLUR,
            source.axis_noun,
        )

    def _at(self, begin: bool = True) -> tuple[EditSession, CellSource, ReviewQueue] | None:
        session = self._controller.open() if begin else self._controller.session
        source = self._state.cells
        if session is None or source is None or (begin and self._controller.is_turned()):
            return None
        queue = self._queue(session, source)
        if begin:
            queue.score_some(0.1)
        return session, source, queue

    def _queue(self, session: EditSession, source: CellSource) -> ReviewQueue:
        return session.queue(source.plane)

    def _go(self, label: int | None, end: str) -> None:
        self.show(label)
        self._controller.say(end if label is None else "")
        if label is not None:
            self._controller.look_at.emit(label)
