"""After every round: score, keep the best, save, tell, and plan the rest anew."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from napari_sa2net.config import InstanceConfig, n_classes
from napari_sa2net.errors import TrainingError
from napari_sa2net.inference.devices import fast_dtype
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.inference.predictor import activate
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import as_stored
from napari_sa2net.nn import Network
from napari_sa2net.training.compare import Score, Tally, score_of, tally
from napari_sa2net.training.events import Event, LossPoint, Notice, RoundPoint
from napari_sa2net.training.held_out import View
from napari_sa2net.training.material import HELD_OUT
from napari_sa2net.training.tuning_module import TuningModule

#: A plan is changed when the rest would take so much more or less time.
OFF_PLAN = 0.1
#: A run that is not stopped by then (as a share of its time) ends where it is.
LATE = 1.15
#: Steps that are taken even where the time is over before the first: exponents are learned by
#: few steps, but not by one.
FEWEST = {"everything": 1, "attention": 12}
#: After so many rollbacks learning ends with the best so far.
MAX_ROLLBACKS = 3

Tallies = dict[str, list[Tally]]


def working_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Precision of training on a device, and of scoring beside it."""
    dtype = fast_dtype(device)
    # float16 would need scaled gradients, which could not be told from ones that broke.
    exact = precision == "float32" or dtype == torch.float16
    return torch.float32 if exact else dtype


class Scorer:
    """Scores networks on the same views.

    Parameters
    ----------
    views : mapping of str to sequence of View
        By set.
    card : ModelCard
        Classes and how objects are made.
    device, dtype
        Of the run.
    ask : callable
        Called before each view; raises to stop.
    """

    def __init__(
        self,
        views: Mapping[str, Sequence[View]],
        card: ModelCard,
        device: torch.device,
        dtype: torch.dtype,
        ask: Callable[[], None] = lambda: None,
    ) -> None:
        self.views = {name: list(some) for name, some in views.items()}
        self.classes = card.classes
        self.instances: InstanceConfig = card.instance
        self.device = device
        self.dtype = dtype
        self.ask = ask

    def probability(self, net: Network, view: View) -> Any:
        """Class probabilities (C, h, w) of a view."""
        x = view.image[None].to(self.device).contiguous(memory_format=torch.channels_last)
        low = self.dtype != torch.float32
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=low):
            logits = net(x)
        return activate(logits.float(), n_classes(self.classes))[0].cpu().numpy()

    def score(self, net: Network) -> Tallies:
        """Tallies of a network in eval mode, by set."""
        out: Tallies = {}
        for name, views in self.views.items():
            out[name] = []
            for view in views:
                self.ask()
                labels = label_objects(
                    self.probability(net, view), self.classes, self.instances
                )
                out[name].append(tally(labels, view.labels, view.counts))
        return out


def merit(tallies: Tallies, parent: Tallies) -> float:
    """What the best round is chosen by: held-out score less what was lost.

    Lost are what was forgotten most of the reference set, and area that was covered rightly:
    a round that finds every cell in a flood of false foreground is none to keep.
    """
    lost = {name: _lost(parent[name], some) for name, some in tallies.items()}
    held_out = lost.pop(HELD_OUT)[1]
    forgotten = [part for both in lost.values() for part in both]
    return score_of(tallies[HELD_OUT]).both - max(0.0, held_out) - max(0.0, *forgotten, 0.0)


def _lost(before: Sequence[Tally], after: Sequence[Tally]) -> tuple[float, float]:
    """By how much a set's scores fell: of cells, of Dice."""
    first, second = score_of(before), score_of(after)
    return first.both - second.both, first.dice - second.dice


def reference_of(tallies: Tallies) -> list[Tally]:
    """All of the reference set."""
    return [one for name, some in tallies.items() if name != HELD_OUT for one in some]


@dataclass(eq=False)
class Record:
    """What has come out of a run so far; stored with its state.

    Attributes
    ----------
    parent : Tallies
    best : Tallies or None
    weights : dict or None
        Of the best round.
    step : int
        Of the best round.
    seconds : float
        Time that the run has taken, without breaks.
    """

    parent: Tallies
    best: Tallies | None = None
    weights: dict[str, Tensor] | None = None
    step: int = 0
    since_best: int = 0
    rounds: list[RoundPoint] = field(default_factory=list)
    losses: list[LossPoint] = field(default_factory=list)
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As tensors, lists and numbers, to be stored."""
        return {
            "parent": _plain(self.parent),
            "best": None if self.best is None else _plain(self.best),
            "weights": self.weights,
            "step": self.step,
            "since_best": self.since_best,
            "rounds": [asdict(point) for point in self.rounds],
            "losses": [asdict(point) for point in self.losses],
            "seconds": self.seconds,
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Record:
        """From `plain`."""
        return cls(
            _tallies(plain["parent"]),
            None if plain["best"] is None else _tallies(plain["best"]),
            plain["weights"],
            plain["step"],
            plain["since_best"],
            [round_point(point) for point in plain["rounds"]],
            [LossPoint(**point) for point in plain["losses"]],
            plain["seconds"],
        )


def round_point(plain: dict[str, Any]) -> RoundPoint:
    """From a stored record."""
    scores = {name: Score(**plain[name]) for name in ("held_out", "reference")}
    return RoundPoint(**{**plain, **scores})


def _plain(tallies: Tallies) -> dict[str, Any]:
    return {name: [one.plain() for one in some] for name, some in tallies.items()}


def _tallies(plain: dict[str, Any]) -> Tallies:
    return {name: [Tally.of(one) for one in some] for name, some in plain.items()}


class Rounds(Callback):
    """Watches a run.

    Parameters
    ----------
    record : Record
        Filled.
    scorer : Scorer
    card : ModelCard
        Of the parent.
    patience : int
    limit : float or None
        Seconds that the run may take in all; None: as long as its steps do.
    save : callable
        Writes the state to disk.
    tell : callable
        Takes events.
    show : callable(net, round) or None
        For a preview; the net is in eval mode and of the caller's until it returns.
    """

    def __init__(
        self,
        record: Record,
        scorer: Scorer,
        patience: int,
        limit: float | None,
        save: Callable[[], None],
        tell: Callable[[Event], None],
        show: Callable[[Network, int], None] | None = None,
    ) -> None:
        self.record = record
        self.scorer = scorer
        self.patience = patience
        self.limit = limit
        self.save = save
        self.tell = tell
        self.show = show
        self._clock = time.monotonic()
        self._mark = (0, 0.0)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TuningModule)
        self._mark = (pl_module.done, self._seconds())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        module = pl_module
        assert isinstance(module, TuningModule)
        schedule = module.schedule
        if math.isnan(module.last_loss):
            self._roll_back(module)
        else:
            point = LossPoint(
                module.done,
                schedule.total,
                module.last_loss,
                schedule.rate(module.done - 1) * module.slower,
            )
            self.record.losses.append(point)
            self.tell(point)
        late = (
            self.limit is not None
            and self._seconds() > LATE * self.limit
            and module.done >= FEWEST[module.tuning.learn]
        )
        if late:
            schedule.replan(module.done, module.done)
        before = schedule.round_of(module.done - 1)
        last = module.done >= schedule.total or late
        if last or schedule.round_of(module.done) > before:
            self._round(module)
            last = last or self.record.since_best >= self.patience
        if last or module.rollbacks > MAX_ROLLBACKS:
            trainer.should_stop = True

    def _seconds(self) -> float:
        """Time so far; also noted in the record."""
        now = time.monotonic()
        self.record.seconds += now - self._clock
        self._clock = now
        return self.record.seconds

    def _round(self, module: TuningModule) -> None:
        start = self._seconds()
        net = copy.deepcopy(module.net)
        # what is judged is what will be saved
        net.load_state_dict(as_stored(module.mean))
        net.eval()
        record = self.record
        tallies = self.scorer.score(net)
        held_out, reference = score_of(tallies[HELD_OUT]), score_of(reference_of(tallies))
        best = record.best is None or (
            merit(tallies, record.parent) > merit(record.best, record.parent)
        )
        record.since_best = 0 if best else record.since_best + 1
        if best:
            record.best, record.step = tallies, module.done
            record.weights = {k: v.detach().cpu().clone() for k, v in module.mean.items()}
        point = RoundPoint(len(record.rounds) + 1, module.done, held_out, reference, best)
        record.rounds.append(point)
        module.remember()
        self.save()
        self.tell(point)
        if self.show is not None:
            self.show(net, point.round)
        if record.since_best >= self.patience and module.done < module.schedule.total:
            self.tell(
                Notice(
                    f"No better for {record.since_best} rounds: learning ends early with the "
                    f"best so far, that of step {record.step}."
                )
            )
        self._replan(module, start)

    def _replan(self, module: TuningModule, start: float) -> None:
        """Fit the rest into the time that is left, by what the last steps took."""
        step, at = self._mark
        per_step = (start - at) / max(1, module.done - step)
        now = self._seconds()
        self._mark = (module.done, now)
        schedule = module.schedule
        if self.limit is None or module.done >= schedule.total:
            return
        left = schedule.rounds - schedule.round_of(module.done)
        time_left = self.limit - now - left * (now - start)
        wanted = module.done + max(1, int(time_left / max(per_step, 1e-6)))
        wanted = max(wanted, FEWEST[module.tuning.learn])
        rest = schedule.total - module.done
        if abs(wanted - schedule.total) > OFF_PLAN * rest:
            schedule.replan(module.done, wanted)

    def _roll_back(self, module: TuningModule) -> None:
        module.roll_back()
        if module.rollbacks > MAX_ROLLBACKS and self.record.best is None:
            raise TrainingError(
                f"The loss was no number {module.rollbacks} times, also with a learning rate "
                "a hundred times lower. Check the images for pixels that are no numbers, or "
                "choose another model to start from."
            )
        ending = module.rollbacks > MAX_ROLLBACKS
        then = "learning ends with the best so far" if ending else "on with a lower rate"
        self.tell(
            Notice(
                f"The loss was no number at step {module.done}: back to the last good "
                f"weights, {then}."
            )
        )
