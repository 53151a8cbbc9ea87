"""What the Correct page shows, as evented state."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from psygnal import SignalGroupDescriptor

from napari_sa2net.app.correct_keep import WhatToKeep, default_folder
from napari_sa2net.app.correct_restore import Offer
from napari_sa2net.app.correct_source import CellSource


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
        Reviewed cells of the plane, of how many.
    scored
        The order is known; else it is still being worked out.
    by
        What the order goes by.
    noun
        What the cells are those of: "plane" or "time point".
    """

    label: int = 0
    reasons: tuple[str, ...] = ()
    status: str = ""
    done: int = 0
    total: int = 0
    scored: bool = False
    by: str = ""
    noun: str = "plane"


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
    keep
        What Keep would do.
    keeping
        A Keep is under way.
    kept
        What the last one did, in words.
    kept_note
        What a person has to know of it besides.
    folder, group
        Where to keep, and what slide, patient or dish the image belongs to.
    offers
        Corrections of this image that can be restored.
    said
        What was just done.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    cells: CellSource | None = None
    undo: str = ""
    redo: str = ""
    unsaved: int = 0
    safe: bool = True
    journal_problem: str = ""
    review: Review = field(default_factory=Review)
    keep: WhatToKeep = field(default_factory=WhatToKeep)
    keeping: bool = False
    kept: str = ""
    kept_note: str = ""
    folder: Path = field(default_factory=default_folder)
    group: str = ""
    offers: tuple[Offer, ...] = ()
    said: Said = field(default_factory=Said)
