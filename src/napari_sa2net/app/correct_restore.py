"""Journals that a crash or a closed window left behind, and taking them up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.correct_session import BeginJournal, EditSession, difference, replay
from napari_sa2net.app.correct_source import CellSource
from napari_sa2net.app.session import ImageSource
from napari_sa2net.data.journal import Journal, JournalInfo, list_journals
from napari_sa2net.errors import JournalError, SA2NetError


@dataclass(frozen=True)
class Offer:
    """Corrections that were never kept and can be restored.

    Attributes
    ----------
    words
        "14 steps of work on nuclei_03, yesterday 17:03".
    n_edits
        Undoing counts as well.
    problem
        Why they cannot be restored; empty if they can.
    """

    id: str
    name: str
    n_edits: int
    words: str
    problem: str = ""


@dataclass(frozen=True, eq=False)
class RestoredCells:
    """Labels of a journal, for a new layer over the image.

    Attributes
    ----------
    corner, extra
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
    extra: tuple[int, ...]
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


def find_offers(fingerprint: str, name: str, now: datetime | None = None) -> tuple[Offer, ...]:
    """Journals of an image that no window is writing, the latest first.

    The name decides where the image could not be read for its fingerprint.

    Raises
    ------
    OutputError
        If the folder of the journals cannot be used.
    """
    return tuple(
        _offer(info, now or datetime.now(UTC))
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
    words = f"{n} step{'' if n == 1 else 's'} of work on {info.image.name}, {when}"
    return Offer(info.id, info.image.name, n, words, info.problem)


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
        labels = restored.arrays["labels"]
        session = EditSession(labels, _no_journal)
        replay(session, journal, restored.steps, restored.committed)
    except BaseException:
        journal.close()
        raise
    more = journal.image.more
    corner = more.get("corner") or [0] * labels.ndim
    extra = tuple(more.get("extra") or ())
    name = more.get("layer") or journal.image.name
    cells = RestoredCells(
        identity,
        name,
        labels,
        image,
        tuple(corner),
        extra,
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
        before = restored.arrays["labels"]
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
