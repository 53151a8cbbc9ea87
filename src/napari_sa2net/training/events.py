"""What fine-tuning tells while it runs: plain and small, and without torch."""

from __future__ import annotations

from dataclasses import dataclass

from napari_sa2net.training.compare import Score


@dataclass(frozen=True)
class Planned:
    """What is going to happen.

    Attributes
    ----------
    steps, rounds : int
    seconds : float
        Expected for all of it.
    n_learned, n_held_out : int
        Reviewed objects to learn from, and held back.
    parent : Score
        Of the parent, on what was held back.
    reference : Score
        Of the parent, on the reference set.
    """

    steps: int
    rounds: int
    seconds: float
    n_learned: int
    n_held_out: int
    parent: Score
    reference: Score


@dataclass(frozen=True)
class LossPoint:
    """One step: its loss and its share of the peak learning rate."""

    step: int
    steps: int
    loss: float
    rate: float


@dataclass(frozen=True)
class RoundPoint:
    """One round: how good the averaged weights are.

    Attributes
    ----------
    round, step : int
    held_out, reference : Score
    best : bool
        The best so far; its weights are what a stop would keep.
    """

    round: int
    step: int
    held_out: Score
    reference: Score
    best: bool


@dataclass(frozen=True)
class Notice:
    """Something that a person should know: a rollback, less memory, an early end."""

    text: str


Event = Planned | LossPoint | RoundPoint | Notice
