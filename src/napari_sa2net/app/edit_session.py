"""Corrections of one array of labels as they are made: history, review, journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.cells import CellSource, Foreground, look_at_plane
from napari_sa2net.app.session import ImageSource
from napari_sa2net.data.journal import Journal, JournalInfo, Restored, list_journals
from napari_sa2net.data.labels import Look
from napari_sa2net.edits import (
    Corrections,
    History,
    Patch,
    ReviewedMask,
    ReviewQueue,
    StackQueue,
    Step,
    reviewed_regions,
    stroke,
)
from napari_sa2net.edits.shapes import Box
from napari_sa2net.edits.step import Index, planes_of
from napari_sa2net.errors import EditConflictError, JournalError, SA2NetError, StepFormatError
from napari_sa2net.words import counted

AREA_WORDS = "segmenting of an area"
Move = Literal["do", "undo", "redo", "state"]
BeginJournal = Callable[[Mapping[str, Any]], Journal]

#: planes whose reviewed pixels are held
MAX_PLANES = 4


def now() -> datetime:
    """To the second, as commits tell their time."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Change:
    """What is to be drawn anew.

    Attributes
    ----------
    step
        What was done, or taken back.
    labels
        Changed pixels of each plane.
    reviewed
        Where reviewed pixels may have changed.
    by_napari
        The pixels are drawn already.
    """

    step: Step
    labels: dict[Index, Box]
    reviewed: dict[Index, list[Box]]
    by_napari: bool = False


@dataclass
class Tally:
    """How far the corrections are from what was kept.

    Attributes
    ----------
    depth
        Steps that are done.
    low
        Lowest depth since the last Keep, which was at ``kept``.
    """

    depth: int = 0
    low: int = 0
    kept: int = 0

    def move(self, how: Move) -> None:
        """Follow a step."""
        self.depth += -1 if how == "undo" else 1 if how in ("do", "redo") else 0
        self.low = min(self.low, self.depth)

    @property
    def unsaved(self) -> int:
        """Steps to what was kept: those taken back from it and those done after."""
        return (self.kept - self.low) + (self.depth - self.low)

    def keep(self, depth: int) -> None:
        """All up to a depth was kept; more may have been done since."""
        self.kept = depth
        self.low = min(depth, self.depth)


class EditSession:
    r"""Carries out corrections of one array, journals them, and knows what is reviewed.

    Parameters
    ----------
    labels : integer array (\*stack, H, W)
        Corrected in place.
    begin_journal : callable
        Makes a journal from the arrays, as the first step leaves them. It need not copy them
        at once (see `Journal.create`): `labels_before` takes back what it finds of the steps.
    began
        When the cells were shown first; unsaid, now.

    Attributes
    ----------
    journal : Journal or None
        None before the first step, or where none can be written (``journal_error``).
    tally : Tally
    changed : Counter of indices
        How often each plane was changed.
    began : datetime
    foreground : Foreground or None
        What the model saw, where the engine has told.
    """

    def __init__(
        self,
        labels: NDArray[Any],
        begin_journal: BeginJournal,
        began: datetime | None = None,
    ) -> None:
        self.labels = labels
        self.corrections = Corrections(labels)
        self.history = History(self.corrections)
        self.mask = ReviewedMask(self.corrections)
        self.journal: Journal | None = None
        self.journal_error: SA2NetError | None = None
        self.tally = Tally()
        self.changed: Counter[Index] = Counter()
        self.began = began or now()
        self.foreground: Foreground | None = None
        self._begin_journal = begin_journal
        self._unjournalled = 0  # oldest steps, which were done before there was a journal
        self._queue: StackQueue | None = None
        self._shown: list[Index] = []
        self._cleared: dict[int, int] = {}
        self._looks: dict[Index, tuple[int, Look]] = {}
        self._present: dict[Index, tuple[int, frozenset[int]]] = {}
        self._records: list[tuple[Step, Mapping[str, Any]]] = []

    # --- steps -----------------------------------------------------------------------

    def do(self, step: Step, record: Mapping[str, Any] | None = None) -> Change:
        """Carry out a step; EditConflictError where it does not fit.

        Parameters
        ----------
        record
            Of plain values: how a model made it, or from where it was carried.
        """
        self.redo_no_more(self.history.undone, lambda: self.history.do(step))
        self.take_record(step, record)
        return self._done("do", step)

    def extend(self, step: Step, record: Mapping[str, Any]) -> Change:
        """Put a step in the place of the newest, which it holds beside more."""
        former = self.undo()
        try:
            now = self.do(step, record)
        except SA2NetError:
            self.redo()
            raise
        reviewed = {index: list(boxes) for index, boxes in now.reviewed.items()}
        for index, boxes in former.reviewed.items():
            reviewed.setdefault(index, []).extend(boxes)
        return Change(step, now.labels, reviewed)

    def record_of(self, step: Step, kind: str = "") -> Mapping[str, Any] | None:
        """What was noted of a step's making: of a "wave", of what was "carried", or any."""
        found = next((record for one, record in self._records if one is step), None)
        return found if found is not None and (not kind or kind in found) else None

    def take_record(self, step: Step, record: Mapping[str, Any] | None) -> None:
        """Note how a step was made, where more than a person's hand did it."""
        if record:
            self._records.append((step, record))

    def redo_no_more(self, undone: list[Step], act: Callable[[], Any]) -> None:
        """Do a step, by which those taken back are forgotten, and what was noted of them."""
        gone = list(undone)
        act()
        if gone:
            self._records = [
                (step, record)
                for step, record in self._records
                if not any(step is other for other in gone)
            ]

    def noted(self, kind: str) -> tuple[Mapping[str, Any], ...]:
        """What was noted of steps, see `record_of`, without those taken back."""
        undone = self.history.undone
        return tuple(
            record
            for step, record in self._records
            if kind in record and not any(step is other for other in undone)
        )

    @property
    def waves(self) -> tuple[Mapping[str, Any], ...]:
        """What was noted of the steps that a model made, without those taken back."""
        return self.noted("wave")

    @property
    def carried(self) -> tuple[Mapping[str, Any], ...]:
        """What was noted of corrections that were carried to other planes."""
        return self.noted("carried")

    def stroke(self, atoms: Any) -> Change:
        """Take in a stroke that napari has painted already.

        Raises
        ------
        EditError
            If it changed nothing, or is none.
        """
        step = stroke(self.corrections, atoms)
        return self.record(step)

    def record(self, step: Step) -> Change:
        """Take in a step whose pixels are in the array already."""
        self.redo_no_more(self.history.undone, lambda: self.history.record(step))
        return self._done("do", step, by_napari=True)

    def record_area(self, changes: tuple[Patch, ...]) -> None:
        """Take in cells of a part of the image that were added to these: the first step.

        Parameters
        ----------
        changes
            What that changed.
        """
        from napari_sa2net.edits.objects import pixel_step

        try:
            for patch in changes:
                self.corrections.check_painted(patch)
        except EditConflictError:
            return  # a script wrote over them, so they cannot be taken back
        for patch in changes:
            # the index is to know the labels before
            look = partial(self.corrections.look, patch.index)
            self.corrections.plane(patch.index).update(patch.inverse(), look)
        self.record(
            pixel_step(self.corrections, "resegment", AREA_WORDS, changes, by_person=False)
        )

    def undo(self) -> Change:
        """Take the newest step back."""
        return self._done("undo", self.history.undo())

    def redo(self) -> Change:
        """Do again what was taken back last."""
        return self._done("redo", self.history.redo())

    @property
    def is_safe(self) -> bool:
        """Every step is on disk."""
        journal = self.journal
        if journal is None:
            return self.tally.unsaved == 0
        return journal.error is None and journal.durable >= journal.number

    # --- planes ----------------------------------------------------------------------

    def show_plane(self, index: Index) -> None:
        """A plane is shown; masks of the few last ones are held."""
        if index in self._shown:
            self._shown.remove(index)
        self._shown.append(index)
        if self._queue is not None:
            self._queue.show(index)
        for old in self._shown[:-MAX_PLANES]:
            self.mask.forget(old)
        del self._shown[:-MAX_PLANES]

    def reviewed(self, index: Index) -> NDArray[np.bool_]:
        """Reviewed pixels of a plane, a copy."""
        mask = np.array(self.mask.plane(index))
        if index not in self._shown:
            self.mask.forget(index)
        return mask

    def queue(self, source: CellSource) -> StackQueue:
        """All objects in the order of doubt; those of the shown plane are looked at first."""
        if self._queue is None:
            along = source.depth_axis
            self._queue = StackQueue(self.corrections, self._plane_queue, along)
            self._queue.show(source.plane)
        return self._queue

    def _plane_queue(self, index: Index) -> ReviewQueue:
        known = self.foreground
        if known is None:
            return ReviewQueue(self.corrections, index)
        return ReviewQueue(self.corrections, index, known.plane(index), seams=known.seams)

    def look(self, index: Index) -> Look:
        """Whether a plane is numbered cell by cell as it is now."""
        times = self.changed[index]
        known = self._looks.get(index)
        if known is None or known[0] != times:
            known = self._looks[index] = times, look_at_plane(self.labels[index])
        return known[1]

    def forget_queue(self) -> None:
        """More is known: order the cells anew."""
        self._queue = None

    def reviewed_planes(self) -> list[Index]:
        """Planes of which a person has said anything that can be learned from."""
        stack = self.labels.shape[:-2]
        return [
            index
            for index in np.ndindex(*stack)
            if self.corrections.marked(index) or reviewed_regions(self.corrections, index)
        ]

    @property
    def n_cells(self) -> int:
        """Distinct cells of all planes as they are now."""
        found: set[int] = set()
        for index in np.ndindex(*self.labels.shape[:-2]):
            times = self.changed[index]
            known = self._present.get(index)
            if known is None or known[0] != times:
                present = frozenset(self.corrections.plane(index).labels.tolist())
                known = self._present[index] = times, present
            found |= known[1]
        return len(found)

    def n_deleted(self, index: Index) -> int:
        """Cells of a plane whose deletion says something, as that of a blob does not."""
        regions = reviewed_regions(self.corrections, index)
        return sum(self._cleared.get(region.id, 0) for region in regions)

    def note(self, step: Step) -> None:
        """A step was done or taken back: take in which planes it changed."""
        for index in planes_of(step):
            self.changed[index] += 1
        for region in step.added:
            if region.kind == "cleared" and region.id not in self._cleared:
                self._cleared[region.id] = self._vanished(step, region.index)

    def close(self) -> SA2NetError | None:
        """Let the journal go, its steps on disk; what went wrong with that."""
        if self.journal is None:
            return None
        try:
            if self.tally.unsaved == 0:
                self.journal.mark_committed()
            self.journal.close()
        except SA2NetError as error:
            return error
        return None

    # --- inside ----------------------------------------------------------------------

    def _vanished(self, step: Step, index: Index) -> int:
        """Cells that a step has taken from a plane; a restored area counts as one."""
        plane = self.corrections.plane(index)
        old = [patch.old[patch.new == 0] for patch in step.patches if patch.index == index]
        labels = np.unique(np.concatenate(old)).tolist() if old else []
        return max(1, sum(label not in plane for label in labels if label))

    def _done(self, how: Move, step: Step, by_napari: bool = False) -> Change:
        self.tally.move(how)
        self._journal(how, step)
        if self._queue is not None:
            self._queue.update(step)
        reviewed = self.mask.update(step)
        self.note(step)
        return Change(step, step.boxes, reviewed, by_napari)

    def _journal(self, how: Move, step: Step) -> None:
        try:
            if self.journal is None:
                self.journal = self._begin_journal({"labels": self.labels})
                if self.tally.depth != 1 or how != "do":
                    # what was done before there was a journal is in these labels
                    self._unjournalled = self.tally.depth + len(self.history.undone)
                    step, how = self.corrections.said(), "state"
            elif how == "do":
                self._unjournalled = min(self._unjournalled, self.tally.depth - 1)
            elif self.tally.depth < self._unjournalled + (how == "redo"):
                # a step that the journal has no other word of
                step, how = (step.inverse() if how == "undo" else step), "state"
            record = self.record_of(step) if how == "do" else None
            header = {"move": how} if record is None else {"move": how, "wave": dict(record)}
            payload = step.to_bytes() if how in ("do", "state") else b""
            self.journal.append(payload, header)
            self.journal_error = None
        except SA2NetError as error:
            self.journal_error = error


def labels_before(restored: Restored) -> NDArray[Any]:
    """Labels of a journal before its first step.

    They were copied while a person went on, so any of the steps may be in them. A pixel that
    none of them changes is as it was; of the others, the first step that does knows it.

    Raises
    ------
    StepFormatError
        If a step is damaged.
    """
    labels = restored.arrays["labels"]
    for entry in reversed(restored.steps):
        # undo and redo change the pixels of steps before them
        if entry.header.get("move", "do") in ("do", "state"):
            for patch in Step.from_bytes(entry.payload).patches:
                try:
                    _write(labels, patch.inverse())
                except IndexError:
                    raise StepFormatError(
                        "A step of a journal lies outside of its labels."
                    ) from None
    return labels


def replay(session: EditSession, journal: Journal, steps: list[Any], committed: int) -> None:
    """Do the steps of a journal again; the session goes on writing it.

    Raises
    ------
    SA2NetError
        If a step is damaged or does not fit.
    """
    for entry in steps:
        move = entry.header.get("move", "do")
        if move == "undo":
            step = session.history.undo()
        elif move == "redo":
            step = session.history.redo()
        elif move in ("do", "state"):
            step = Step.from_bytes(entry.payload)
            if move == "do":
                session.redo_no_more(session.history.undone, partial(session.history.do, step))
                session.take_record(step, entry.header.get("wave"))
            else:
                session.corrections.apply(step)
        else:
            raise StepFormatError(
                f"A journal has an unknown entry {move!r}: update to read it."
            )
        session.tally.move(move)
        if move == "state" and entry.number > committed:
            session.tally.kept += 1  # it can no more be undone, but was never kept
        if entry.number <= committed:
            session.tally.keep(session.tally.depth)
        session.note(step)
    session.journal = journal


def difference(session: EditSession, labels: NDArray[Any]) -> Step | None:
    """The step from a session's labels to others of the same shape; None where equal."""
    patches = []
    for index in np.ndindex(*labels.shape[:-2]):
        patch = Patch.between(index, (0, 0), session.labels[index], labels[index])
        if patch:
            patches.append(patch)
    if not patches:
        return None
    from napari_sa2net.edits.objects import pixel_step

    return pixel_step(session.corrections, "paint", "changes made elsewhere", patches)


def _write(labels: NDArray[Any], patch: Patch) -> None:
    rows, cols = patch.pixels()
    labels[patch.index][rows, cols] = np.repeat(patch.new, patch.lengths)


# --------------------------------------------------------------------------------------------
# Journals that a crash or a closed window left behind, and taking them up again.


@dataclass(frozen=True)
class Offer:
    """Corrections that were never kept and can be restored.

    Attributes
    ----------
    words
        "14 steps of work on “nuclei_03 cells” over nuclei_03, yesterday 17:03".
    n_edits
        Undoing counts as well.
    problem
        Why they cannot be restored; empty if they can.
    is_whole
        As of `JournalInfo`.
    """

    id: str
    name: str
    n_edits: int
    words: str
    problem: str = ""
    is_whole: bool = True


@dataclass(frozen=True, eq=False)
class RestoredCells:
    """Labels of a journal, for a new layer over the image.

    Attributes
    ----------
    corner
        As of `CellSource`.
    model
        Name and sha256 of the model that made the cells.
    made
        Provenance of the segmentation that made them, as of `CellSource`.
    """

    journal: str
    name: str
    labels: NDArray[Any]
    image: ImageSource
    corner: tuple[int, ...]
    model: dict[str, str]
    made: dict[str, Any] = field(default_factory=dict)


def journal_place(source: CellSource) -> dict[str, Any]:
    """What a journal must know to show its labels again."""
    return {
        "layer": source.name,
        "corner": None if source.corner is None else list(source.corner),
        "extra": list(source.extra),
        "model": {"name": source.model, "sha256": source.model_sha256},
        "made": dict(source.made),
    }


def find_offers(fingerprint: str, name: str) -> tuple[Offer, ...]:
    """Journals of an image that no window is writing, the latest first.

    The name decides where the image could not be read for its fingerprint.

    Raises
    ------
    OutputError
        If the folder of the journals cannot be used.
    """
    return tuple(
        _offer(info, datetime.now(UTC))
        for info in list_journals()
        if (
            info.image.fingerprint == fingerprint
            if info.image.fingerprint and fingerprint
            else info.image.name == name
        )
    )


def _offer(info: JournalInfo, now: datetime) -> Offer:
    n = info.n_edits
    when = moment_words(info.changed, now)
    layer = str(info.image.more.get("layer") or "")
    where = f"“{layer}” over {info.image.name}" if layer else info.image.name
    words = f"{counted(n, 'step')} of work on {where}, {when}"
    return Offer(info.id, info.image.name, n, words, info.problem, info.is_whole)


def moment_words(moment: datetime, now: datetime) -> str:
    """``yesterday 17:03``, where the person is."""
    when = moment.astimezone()
    days = (now.astimezone().date() - when.date()).days
    day = "today" if days <= 0 else "yesterday" if days == 1 else when.strftime("%d %B %Y")
    return f"{day} {when:%H:%M}"


def restored_session(identity: str, image: ImageSource) -> tuple[EditSession, RestoredCells]:
    """Take over a journal: its labels with all steps done, and the session that goes on.

    Raises
    ------
    SA2NetError
        If another window writes it, it is damaged, or its labels do not lie on this image.
    """
    journal = Journal.reopen(identity)
    try:
        restored = journal.read()
        labels = labels_before(restored)
        session = EditSession(labels, _no_journal)
        replay(session, journal, restored.steps, restored.committed)
    except BaseException:
        journal.close()
        raise
    more = journal.image.more
    corner = more.get("corner") or [0] * labels.ndim
    name = more.get("layer") or journal.image.name
    cells = RestoredCells(
        identity,
        name,
        labels,
        image,
        tuple(corner),
        more.get("model") or {},
        more.get("made") or {},
    )
    return session, cells


def resumed_session(source: CellSource, begin: BeginJournal) -> EditSession | None:
    """Go on with the journal that a layer names, where it is there and fits.

    What was painted while no page was open becomes one more step.
    """
    shown = np.array(source.labels)
    try:
        journal = Journal.reopen(source.journal)
    except SA2NetError:
        return None
    try:
        restored = journal.read()
        before = labels_before(restored)
        if before.shape != shown.shape or before.dtype != shown.dtype:
            journal.close()
            return None
        source.labels[...] = before
        session = EditSession(source.labels, begin)
        replay(session, journal, restored.steps, restored.committed)
        step = difference(session, shown)
        if step is not None:
            session.do(step)
        return session
    except SA2NetError:
        journal.close()
        return None
    finally:
        source.labels[...] = shown


def _no_journal(arrays: Mapping[str, Any]) -> Journal:
    raise JournalError("A restored session goes on in its own journal.")
