"""What the Learn page shows, as evented state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from psygnal import SignalGroupDescriptor

from napari_sa2net.app.session import ErrorInfo, JobProgress
from napari_sa2net.config import FineTuneConfig
from napari_sa2net.training.compare import Change, Score, Verdict
from napari_sa2net.training.events import LossPoint, Planned, RoundPoint
from napari_sa2net.training.runs import UnfinishedRun

Phase = Literal["idle", "starting", "learning", "pausing", "paused", "stopping"]
RUNNING: tuple[Phase, ...] = ("starting", "learning", "pausing", "stopping")
"""Phases in which an engine of learning is at work."""


@dataclass(frozen=True, eq=False)
class SetItem:
    """One image of the training set.

    Attributes
    ----------
    n_cells
        Reviewed cells; None where the set does not say.
    time
        When it was kept (ISO 8601, UTC); empty where unknown.
    thumbnail
        uint8 (h, w) or (h, w, 3); None until it was read.
    """

    key: str
    name: str
    n_cells: int | None = None
    group: str = ""
    time: str = ""
    thumbnail: Any = None


@dataclass(frozen=True, eq=False)
class SetSummary:
    """What there is to learn from.

    Attributes
    ----------
    items
        The newest, the last one first; not always all.
    n_cells
        Reviewed cells of all; None where the set does not say.
    n_groups
        Groups that a person has named.
    division
        How it will be divided, in words.
    problem
        Why nothing can be learned from it, and what to do; empty if it can.
    listed
        It has a list of commits, from which images can be removed, and which can be added to.
    there, gone
        There is such a folder; it was there, and no longer is.
    channels
        Channels that went in, by name of the image that they were kept of.
    """

    folder: Path
    n_images: int = 0
    items: tuple[SetItem, ...] = ()
    n_cells: int | None = 0
    n_groups: int = 0
    division: str = ""
    problem: str = ""
    listed: bool = False
    there: bool = True
    gone: bool = False
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SetSaid:
    """What was last done with the training set.

    Attributes
    ----------
    removed
        Commits that were removed, which can be undone; empty otherwise.
    """

    folder: Path
    text: str
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportQuestion:
    """What a folder does not tell of its images, and a person has to say.

    Attributes
    ----------
    source
        The folder or zip file.
    axes
        Spellings to choose from, the likeliest first; a single one is known.
    shape
        Of the first image.
    names
        Of its channels, where the file tells.
    """

    source: Path
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()

    def channels(self, axes: str) -> tuple[str, ...]:
        """What the channels are called, if the axes are spelled so."""
        n = self.shape[axes.index("C")] if "C" in axes else 1
        if len(self.names) == n:
            return self.names
        return tuple(map(str, range(n)))


@dataclass(frozen=True, eq=False)
class Curves:
    """Points of a run so far.

    Attributes
    ----------
    parent
        The model as it was, on what is held back: the dashed lines.
    """

    losses: tuple[LossPoint, ...] = ()
    rounds: tuple[RoundPoint, ...] = ()
    parent: Score | None = None
    steps: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a run.

    Attributes
    ----------
    parent, child
        Names of models.
    aside
        The child is kept aside now; else it is offered by name.
    """

    parent: str
    child: str
    path: str
    aside: bool
    verdict: Verdict
    held_out: Change
    reference: Change
    seconds: float


@dataclass(frozen=True, eq=False)
class Difference:
    """Parent and child on a part of an image, in words."""

    image_key: str
    words: str


@dataclass
class LearnState:
    """Evented; written by the controller, read by the page.

    Attributes
    ----------
    folder, summary
        The training set; no summary before it was read.
    problem
        Why learning cannot begin, and what to do; empty if it can.
    child
        Name that a person gave; empty for `suggested`.
    phase
        What goes on; `parent` and `run` are those of the run.
    progress, seconds_left
        How far it is; None while that is not known.
    plan
        What the run is going to do, in words.
    notices
        Sentences that came up on the way.
    wants_preview
        Show the image's view as the child sees it, after each round.
    previewed
        Number of the round that is shown; 0 for none.
    unfinished
        Runs that can go on.
    outcome
        Of the last run; None before the first has ended.
    in_use
        The outcome's child is the chosen model.
    difference
        What is shown of parent and child; `comparing` while that is on the way.
    set_busy, set_said, set_question
        What is being done with the training set, in words, and what was; what has to be said
        before images are taken in.
    error
        What went wrong here; other pages have nothing to do with it.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    folder: Path = field(default_factory=Path)
    summary: SetSummary | None = None
    problem: str = ""
    child: str = ""
    suggested: str = ""
    config: FineTuneConfig = field(default_factory=FineTuneConfig)
    phase: Phase = "idle"
    parent: str = ""
    name: str = ""
    run: str = ""
    progress: JobProgress | None = None
    seconds_left: float | None = None
    plan: str = ""
    curves: Curves = field(default_factory=Curves)
    notices: tuple[str, ...] = ()
    wants_preview: bool = True
    previewed: int = 0
    unfinished: tuple[UnfinishedRun, ...] = ()
    outcome: Outcome | None = None
    in_use: bool = False
    comparing: bool = False
    difference: Difference | None = None
    set_busy: str = ""
    set_said: SetSaid | None = None
    set_question: ImportQuestion | None = None
    error: ErrorInfo | None = None


def plan_words(plan: Planned) -> str:
    """``Learns from 57 cells, judged on 14 that are held back. nuclei now: AP 0.61``."""
    held = plan.n_held_out
    return (
        f"Learns from {cells(plan.n_learned)}, and is judged on {held:,} that "
        f"{'is' if held == 1 else 'are'} held back."
    )


def cells(n: int) -> str:
    """``1 cell``, ``57 cells``."""
    return f"{n:,} cell{'' if n == 1 else 's'}"
