"""Fine-tuning, as client and engine speak of it. Training has an engine of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from napari_sa2net.config import FineTuneConfig
from napari_sa2net.training.compare import Change, Score, Verdict
from napari_sa2net.training.events import LossPoint, Planned, RoundPoint

__all__ = [
    "Change",
    "FineTune",
    "FineTuneResult",
    "LossPoint",
    "Pause",
    "Planned",
    "RoundPoint",
    "Score",
    "StopAndKeep",
    "TrainProgress",
    "Verdict",
]

# --- requests ----------------------------------------------------------------------------


@dataclass(frozen=True)
class FineTune:
    """Let a model learn from corrections; done with a `FineTuneResult`.

    `Cancel` ends it as `Pause` does, but with `WasCancelled`: what was learned stays on disk.

    Attributes
    ----------
    training_set
        Folder of the set.
    base
        Name or path of the parent.
    name
        Of the child; empty: the parent's with "-tuned".
    resume
        Folder of a run to go on with; the other fields but `preview` are then not looked at.
    preview
        After each round write the present weights to a model file, and say where. Any engine
        can segment with that path as model.
    """

    job: int
    training_set: str = ""
    base: str = "nuclei"
    config: FineTuneConfig = field(default_factory=FineTuneConfig)
    name: str = ""
    resume: str = ""
    preview: bool = False


@dataclass(frozen=True)
class Pause:
    """Write a fine-tuning to disk and end it; `FineTune.resume` goes on where it stood."""

    job: int


@dataclass(frozen=True)
class StopAndKeep:
    """End a fine-tuning within two seconds, with the best round so far as its result."""

    job: int


# --- events and results ------------------------------------------------------------------


@dataclass(frozen=True)
class TrainProgress:
    """News of a fine-tuning, several times a second at most.

    Attributes
    ----------
    run
        Folder of the run, for `FineTune.resume`.
    plan
        Once, when it begins.
    losses, rounds
        New points of the curves; after `FineTune.resume`, the first event has the old ones.
    notices
        Sentences for the person.
    preview
        Model file with the weights of the newest round; empty if there is none.
    """

    job: int
    run: str
    plan: Planned | None = None
    losses: tuple[LossPoint, ...] = ()
    rounds: tuple[RoundPoint, ...] = ()
    notices: tuple[str, ...] = ()
    preview: str = ""


@dataclass(frozen=True)
class FineTuneResult:
    """What became of it.

    Attributes
    ----------
    paused
        It was paused: only `run` means anything.
    model, path
        Name and file of the child.
    promoted
        Offered by name from now on; else kept aside, see `models.promote_model`.
    """

    run: str
    paused: bool = False
    model: str = ""
    path: str = ""
    promoted: bool = False
    verdict: Verdict | None = None
    held_out: Change | None = None
    reference: Change | None = None
    seconds: float = 0.0
