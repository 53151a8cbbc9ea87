"""Correcting over all planes of a stack: the walk through its cells, and carrying on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.cells import Box, CellSource, Index, MakeStep
from napari_sa2net.data.axes import axis_noun
from napari_sa2net.edits import StackQueue, carried, delete
from napari_sa2net.edits.carry import CARRIED
from napari_sa2net.edits.step import planes_of
from napari_sa2net.errors import EditError, SA2NetError
from napari_sa2net.words import counted

if TYPE_CHECKING:
    from napari_sa2net.app.edit_session import Change, EditSession
    from napari_sa2net.app.link import EngineLink
    from napari_sa2net.edits.step import Step


class Corrector(Protocol):
    """Who corrects: the controller of the Correct page."""

    link: EngineLink
    lock: Any
    state: Any
    look_at: Any
    changed: Any
    restored: Any
    through: Callable[[], Any]
    carry: Any
    review: Any

    @property
    def session(self) -> EditSession | None:
        """Corrections of the chosen cells, if they have begun."""

    def session_of(self, key: str) -> EditSession | None:
        """Corrections of the cells with that key, if they have begun."""

    def journals(self) -> set[str]:
        """Ids of the journals that are written here."""

    def open(self) -> EditSession | None:
        """Begin with the chosen cells, or go on."""

    def is_unseen(self) -> bool:
        """The view shows no plane of the cells; that is said."""

    def accept(self, label: int) -> bool:
        """Say that a cell is right."""

    def do(self, make: MakeStep) -> bool:
        """One correction on the shown plane."""

    def change(self, key: str, act: Callable[[], Change]) -> bool:
        """Carry out a step."""

    def about(self, source: CellSource, box: Box) -> dict[str, Any]:
        """What a request on a box of the shown plane says of image, model and settings."""

    def say(self, words: str, ok: bool = True) -> None:
        """One line for the page."""

    def show(self) -> None:
        """The state as the session is."""

    def show_odd(self) -> None:
        """Say anew whether the cells are numbered one by one."""


# --------------------------------------------------------------------------------------------
# Walking through the cells in the order of doubt.

#: what the order goes by, with what the network saw and without
_SHAPE = "irregular shape, unusual size, contact with a neighbour"
_LAST = "cells that the image's edge cuts come last"
BY_SHAPE = f"{_SHAPE}; {_LAST}"
BY_BLUR = f"blurred boundary, {_SHAPE}, a seam of the network's pieces; {_LAST}"
#: so often the walk looks at more cells, where those that are known are all reviewed
TRIES = 5
NOT_YET = "The other planes are still being looked through: press again in a moment."


@dataclass(frozen=True)
class Review:
    """Where the review stands.

    Attributes
    ----------
    label
        Cell that is looked at; 0 for none.
    reasons
        Why it is doubtful, in words.
    status
        "", "accepted" or "corrected".
    done, total
        Reviewed cells, of how many; one that goes on over planes is one cell.
    scored
        The order is known; else it is still being worked out.
    by
        What the order goes by.
    where
        "plane 5" of a stack.
    planes
        How many planes are known, of how many.
    noun
        What one of them is called: "plane" or "time point".
    """

    label: int = 0
    reasons: tuple[str, ...] = ()
    status: str = ""
    done: int = 0
    total: int = 0
    scored: bool = False
    by: str = ""
    where: str = ""
    planes: tuple[int, int] = (1, 1)
    noun: str = "plane"

    @property
    def all_done(self) -> str:
        """Said when nothing is left."""
        n = self.planes[1]
        where = f"all {counted(n, self.noun)}" if n > 1 else "this image"
        return f"Every cell of {where} is reviewed."


class CorrectReview:
    """The review of all planes; a part of the controller.

    Parameters
    ----------
    controller
        Whose state and session these are.
    """

    def __init__(self, controller: Corrector) -> None:
        self._controller = controller
        self._state = controller.state
        self._node: tuple[str, Index, int] = ("", (), 0)
        #: what was said of cells on the walk, and of which
        self._said: WeakKeyDictionary[Step, tuple[str, Index, int]] = WeakKeyDictionary()

    def score_some(self, seconds: float = 0.02) -> bool:
        """Work on the order of review for so long; True when it is known."""
        with self._controller.lock:
            queue = self._queue(begin=False)
            if queue is None:
                return True
            before = queue.planes
            done = queue.score_some(seconds)
            known, review = self._doubt(queue), self._state.review
            # the cells may be ordered anew while one of them is looked at
            reasons = known.reasons if known is not None else review.reasons
            more = queue.planes != before
            if more or done != review.scored or reasons != review.reasons:
                self.show()
            return done

    def next(self) -> None:
        """Go to the most doubtful cell that nobody has reviewed."""
        with self._controller.lock:
            queue = self._queue()
            if queue is None:
                return
            node, tries = queue.next(self._from()), 0
            while node is None and not queue.scored and tries < TRIES:
                queue.score_some(0.05)
                node, tries = queue.next(self._from()), tries + 1
            if node is None and queue.scored:
                self._go(None, self._state.review.all_done)
                self._controller.through()
            else:
                self._go(node, NOT_YET)

    def previous(self) -> None:
        """Go back in the order of doubt."""
        with self._controller.lock:
            queue = self._queue()
            if queue is not None:
                at = self._from()
                node = queue.previous(at) if at is not None else queue.next()
                self._go(node, "This is the most doubtful cell.")

    def accept_and_next(self) -> None:
        """The cell under review is right: accept it and go on."""
        with self._controller.lock:
            label = self._state.review.label
            if self._queue() is None:
                return
            unseen = label and not self._state.review.status
            if unseen and not self._say(lambda: self._controller.accept(label)):
                return  # what is wrong is said
            self.next()

    def remove_and_next(self) -> None:
        """The cell under review is none: take it away and go on."""
        with self._controller.lock:
            label = self._state.review.label
            if self._queue() is None:
                return
            if label and not self._say(
                lambda: self._controller.do(lambda c, i: delete(c, [label], i))
            ):
                return  # what is wrong is said
            self.next()

    def back_to(self, step: Step) -> None:
        """A step was taken back: to its cell, if that was what was said of it on the walk."""
        source, node = self._state.cells, self._said.get(step)
        if source is not None and node is not None and node[0] == source.key:
            self._node = node
            self._controller.look_at.emit(node[2], node[1])
            self.show()

    def replaced(self, former: Step, step: Step) -> None:
        """A step took the place of another: what was said on the walk is of the same cell."""
        if former in self._said:
            self._said[step] = self._said.pop(former)

    def choose(self, label: int) -> None:
        """Look at a cell of the shown plane, such as one that was clicked."""
        with self._controller.lock:
            source = self._state.cells
            if self._queue() is not None and source is not None:
                self._node = (source.key, source.plane, label)
                self.show()

    def show(self) -> None:
        """Bring the state up to date."""
        session, source = self._controller.session, self._state.cells
        if session is None or source is None:
            self._state.review = Review()
            return
        queue = session.queue(source)
        key, index, label = self._node
        if key != source.key:
            self._node, label = ("", (), 0), 0
        elif label and index != source.plane:
            # who looks at a cell on the planes beside still looks at that cell
            if (source.plane, label) in queue.run(index, label):
                self._node = (key, source.plane, label)
            else:
                label = 0
        if label not in session.corrections.plane(source.plane):
            label = 0
        doubt = queue.doubt(source.plane, label) if label else None
        done, total = queue.progress
        self._state.review = Review(
            label,
            doubt.reasons if doubt is not None else (),
            session.corrections.status(label, source.plane) if label else "",
            done,
            total,
            queue.scored,
            BY_SHAPE if session.foreground is None else BY_BLUR,
            source.words_of(source.plane),
            queue.planes,
            source.axis_noun,
        )

    def _say(self, act: Callable[[], bool]) -> bool:
        """Say something of the cell under review, and note of which."""
        node = self._node
        if not act():
            return False
        session = self._controller.session
        if session is not None and session.history.done:
            self._said[session.history.done[-1]] = node
        return True

    def _doubt(self, queue: StackQueue) -> Any:
        source, label = self._state.cells, self._state.review.label
        return queue.doubt(source.plane, label) if source is not None and label else None

    def _from(self) -> tuple[Index, int] | None:
        """The cell that was looked at last, also where another plane is shown by now."""
        source, (key, index, label) = self._state.cells, self._node
        return (index, label) if source is not None and key == source.key and label else None

    def _queue(self, begin: bool = True) -> StackQueue | None:
        session = self._controller.open() if begin else self._controller.session
        source = self._state.cells
        if session is None or source is None:
            return None
        if begin and source.turned and self._controller.is_unseen():
            return None
        queue = session.queue(source)
        if begin:
            queue.score_some(0.1)
        return queue

    def _go(self, node: tuple[Index, int] | None, end: str) -> None:
        source = self._state.cells
        if node is None or source is None:
            self.show()
            self._controller.say(end)
            return
        self._node = (source.key, *node)
        # the plane first: what is shown of the cell belongs to it
        self._controller.look_at.emit(node[1], node[0])
        self.show()
        self._controller.say("")


# --------------------------------------------------------------------------------------------
# Carrying a correction to the planes beside it.


@dataclass(frozen=True)
class Carried:
    """What the newest correction has done on other planes than its own.

    Attributes
    ----------
    is_stack
        There are other planes.
    can
        It is one that can be carried, and was not.
    words
        "planes 4–6 and 8"; empty where it is on its own plane alone.
    planes
        Those, in their order.
    noun
        What one of them is called: "plane" or "time point".
    """

    is_stack: bool = False
    can: bool = False
    words: str = ""
    planes: tuple[Index, ...] = ()
    noun: str = "plane"


class CorrectCarry:
    """Carries corrections to the planes beside theirs; a part of the controller.

    Parameters
    ----------
    controller
        Whose state and session these are.
    """

    def __init__(self, controller: Corrector) -> None:
        self._controller = controller
        self._state = controller.state

    def set_on(self, on: bool) -> None:
        """Carry every correction at once, or only those that a person says."""
        self._state.carry = on

    def carry(self) -> bool:
        """Carry the newest correction; False where that could not be, which is said."""
        with self._controller.lock:
            session, source = self._controller.session, self._state.cells
            done = session.history.done if session is not None else []
            if session is None or source is None or not done:
                self._controller.say("Correct a cell first, then carry that.", ok=False)
                return False
            try:
                return self._carry(session, source)
            except EditError as error:
                self._controller.say(str(error), ok=False)
                return False

    def after(self, key: str) -> bool:
        """A correction was made: carry it where a person wants that. Always True."""
        session, source = self._controller.session, self._state.cells
        if not self._state.carry or session is None or source is None or source.key != key:
            return True
        if _axis(source) is not None and session.history.done[-1].kind in CARRIED:
            try:
                self._carry(session, source)
            except EditError as error:
                words = self._state.said.words.rstrip(".")
                self._controller.say(f"{words}. {error}")
        return True

    def look(self) -> None:
        """Go to the next plane to which the newest correction was carried."""
        with self._controller.lock:
            session, source = self._controller.session, self._state.cells
            planes = self._state.carried.planes
            if session is None or source is None or not planes:
                return
            later = [index for index in planes if index > source.plane]
            index = later[0] if later else planes[0]
            plane = session.corrections.plane(index)
            labels = {
                label
                for patch in session.history.done[-1].patches
                if patch.index == index
                for label in (*patch.new.tolist(), *patch.old.tolist())
            }
            there = [label for label in sorted(labels) if label in plane]
            self._controller.look_at.emit(there[0] if there else 0, index)

    def show(self) -> None:
        """Bring the state up to date."""
        session, source = self._controller.session, self._state.cells
        axis = _axis(source) if source is not None else None
        if session is None or source is None or axis is None:
            self._state.carried = Carried()
            return
        done = session.history.done
        record = session.record_of(done[-1], "carried") if done else None
        if record is None:
            can = bool(done) and done[-1].kind in CARRIED and len(planes_of(done[-1])) == 1
            self._state.carried = Carried(True, can, noun=source.axis_noun)
            return
        planes = tuple(tuple(index) for index in record["planes"])
        words = _plane_words(source, axis, planes)
        self._state.carried = Carried(True, False, words, planes, source.axis_noun)

    def _carry(self, session: EditSession, source: CellSource) -> bool:
        axis, step = _axis(source), session.history.done[-1]
        if axis is None:
            raise EditError("This is no stack: there is no other plane to carry it to.")
        if session.record_of(step, "carried") is not None:
            raise EditError("This correction was carried already. Undo takes all of it back.")
        (own,) = {patch.index for patch in step.patches} or {source.plane}
        pixels = _Pixels(source) if source.image is not None else None
        made = carried(
            session.corrections, step, axis, pixels, linked=source.depth_axis is not None
        )
        others = sorted(planes_of(made) - {own})
        words = _plane_words(source, axis, others)
        former, step = step, replace(made, words=f"{made.words}, also on {words}")
        record = {
            "carried": made.words,
            "from": list(own),
            "planes": [list(index) for index in others],
        }
        if not self._controller.change(source.key, lambda: session.extend(step, record)):
            return False
        self._controller.review.replaced(former, step)
        return True


class _Pixels:
    """The image under cells, read window by window; None where it cannot be read."""

    def __init__(self, source: CellSource) -> None:
        self._source = source

    def __call__(self, index: Index, box: Box) -> NDArray[Any] | None:
        source = self._source
        if source.image is None or source.corner is None:
            return None
        try:
            y0, y1, x0, x1 = source.image_box(box)
            values = source.image.plan.read_raw(source.image_index(index), y0, y1, x0, x1)
        except (SA2NetError, OSError):
            return None
        mean: NDArray[Any] = np.asarray(values, np.float32).mean(0)
        return mean


def _axis(source: CellSource) -> int | None:
    """Stack axis along which planes lie beside each other: depth, else the last; or None."""
    stack = source.labels.shape[:-2]
    axis = source.depth_axis
    if axis is None or stack[axis] < 2:
        longer = [i for i, n in enumerate(stack) if n > 1]
        axis = longer[-1] if longer else None
    return axis


def _plane_words(source: CellSource, axis: int, planes: Sequence[Index]) -> str:
    """``planes 4–6 and 8``."""
    numbers = sorted(index[axis] for index in planes)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    named = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    names = " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
    return f"{axis_noun(source.stack_axes[axis : axis + 1], len(numbers))} {names}"
