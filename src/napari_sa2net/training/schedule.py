"""How far a run is: its learning rate, its rounds, and the moving average of its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from napari_sa2net.nn import Network

# --------------------------------------------------------------------------------------------
# Steps to progress, progress to learning rate and rounds.

#: The learning rate ends at this share of its peak.
LAST_RATE = 0.01
#: Sum of the learning rates that γ gets (reconstruction). Adam's steps are about as large as
#: the rate, so γ could go from 1 to 0 four times over, in however few steps: what holds it is
#: the data, not the length of the training. In 4000 steps it is the rate of all weights.
GAMMA_TRAVEL = 4.0
#: The largest rate of γ: in a short run, too, several steps have to agree on a direction.
GAMMA_STEP = 0.2


def gamma_peak(steps: float, mean_share: float = 1.0) -> float:
    """Peak learning rate of γ in a run of so many steps (reconstruction).

    Parameters
    ----------
    mean_share : float
        Mean rate of the run as a share of its peak.
    """
    return min(GAMMA_STEP, GAMMA_TRAVEL / (mean_share * steps))


#: Steps in which the rate rises at least, however short the run.
FEWEST_WARMUP = 10


def warmed(step: int) -> float:
    """Highest share of the peak rate in the step that follows `step`.

    Adam's first steps are as large as the rate, whatever the gradient: at the peak they undo
    what a model knows.
    """
    return min(1.0, (step + 1) / FEWEST_WARMUP)


class Schedule:
    """Progress 0 … 1 of a run whose length may be planned anew on the way.

    The learning rate follows the progress, not the steps, so it comes down in time also
    where the machine turns out slower than was measured.

    Parameters
    ----------
    steps : int
        Steps in all.
    rounds : int
        The progress is cut into so many rounds.
    warmup : float
        Share of the run in which the rate rises.
    pieces : sequence of (step, total), optional
        Plans of an earlier run, to be followed again.
    """

    def __init__(
        self,
        steps: int,
        rounds: int,
        warmup: float = 0.0,
        pieces: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.rounds = rounds
        self.warmup = warmup
        self.pieces = [(int(at), int(total)) for at, total in pieces] or [(0, steps)]

    @property
    def total(self) -> int:
        """Steps in all, as planned now."""
        return self.pieces[-1][1]

    def replan(self, step: int, total: int) -> None:
        """From `step` on, end after `total` steps."""
        total = max(total, step + 1)
        if total != self.total:
            self.pieces.append((step, total))

    def progress(self, step: int) -> float:
        """Share of the run that is done after `step` steps."""
        done = 0.0
        for i, (at, total) in enumerate(self.pieces):
            until = self.pieces[i + 1][0] if i + 1 < len(self.pieces) else step
            until = min(until, step)
            if until > at:
                done += (1 - done) * (until - at) / max(1, total - at)
        return min(1.0, done)

    def rate(self, step: int) -> float:
        """Learning rate of the step that follows `step`, as a share of its peak."""
        done = self.progress(step)
        if done < self.warmup:
            # In a run of few steps the first one may lie beyond the warm-up's end.
            return min(warmed(step), (done + 1 / self.total) / self.warmup)
        rest = (done - self.warmup) / max(1e-9, 1 - self.warmup)
        rate = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))
        return min(warmed(step), rate)

    def round_of(self, step: int) -> int:
        """Rounds that are over after `step` steps."""
        if step >= self.total:
            return self.rounds
        # A hair of tolerance: k / rounds is rarely exact.
        return min(self.rounds - 1, int(self.progress(step) * self.rounds + 1e-9))


def steps_within(
    seconds: float, per_step: float, per_round: float, rounds: int, fewest: int = 1
) -> tuple[int, int]:
    """Steps and rounds that fit into a time; scoring takes at most a third of it.

    Parameters
    ----------
    seconds : float
        What is left.
    per_step, per_round : float
        Seconds of one step, and of scoring once.
    rounds : int
        Wanted.
    fewest : int
        Steps below which learning would be by chance; taken even if the time is over.
    """
    rounds = max(1, min(rounds, int(seconds / 3 / max(per_round, 1e-6))))
    steps = int((seconds - rounds * per_round) / max(per_step, 1e-6))
    return max(steps, rounds, fewest), rounds


# --------------------------------------------------------------------------------------------
# The moving average.


def decay_at(decay: float, n: int) -> float:
    """Decay of a moving average of weights at its n-th step.

    It grows from 0.1 to its value, so that the first, random weights are soon gone.
    """
    return min(decay, (1 + n) / (10 + n))


class MovingAverage:
    """Moving average of a network's weights and BatchNorm statistics."""

    def __init__(self, net: Network, decay: float) -> None:
        self.decay, self.n = decay, 0
        self.state = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: Network) -> None:
        """Take a step of the network in."""
        self.n += 1
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay_at(self.decay, self.n))
            else:
                self.state[key].copy_(value)

    def to(self, device: torch.device) -> None:
        """Move it to a device."""
        self.state = {k: v.to(device) for k, v in self.state.items()}

    def restore(self, state: dict[str, Tensor], n: int) -> None:
        """Take a stored average on, of so many steps."""
        self.n = n
        for key, value in state.items():
            self.state[key].copy_(value)
