"""The Lightning module of fine-tuning: what a step is, and how one that failed is undone."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from napari_sa2net.config import (
    CLASSES,
    FineTuneConfig,
    InstanceConfig,
    LossConfig,
    TrainConfig,
    n_classes,
)
from napari_sa2net.errors import TrainingError
from napari_sa2net.inference.devices import fast_dtype
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import as_stored
from napari_sa2net.nn import Network, activate
from napari_sa2net.training.compare import (
    TOLERANCE,
    Event,
    LossPoint,
    Notice,
    RoundPoint,
    Score,
    Tally,
    ap_change,
    change,
    judge,
    score_of,
    tally,
)
from napari_sa2net.training.dataset import Example
from napari_sa2net.training.losses import deep_supervision_loss
from napari_sa2net.training.material import HELD_OUT
from napari_sa2net.training.replay import answers_kept
from napari_sa2net.training.schedule import MovingAverage, Schedule, gamma_peak
from napari_sa2net.training.train import SegmentationModule
from napari_sa2net.words import counted

#: Parameters with these beginnings are the decoder's.
DECODER = ("up", "outc")
#: Gradients are clipped to this norm.
CLIP = 5.0
#: After a loss that is no number the learning rate is multiplied by this.
SLOWER = 0.3


class TuningModule(SegmentationModule):
    """Trains a copy of a model on reviewed pixels, and keeps its answers elsewhere.

    Parameters
    ----------
    net : Network
        Becomes the child.
    teacher : Network
        The parent; stays as it is.
    diameter : float
        Object size of the network (px).
    trust : float
        Weight of the parent's sure answers on pixels that nobody has reviewed.
    ask : callable
        Called before every part of a step; raises to stop there.

    Attributes
    ----------
    done : int
        Steps that were taken, or tried.
    micro : int
        Crops that go through the network at once.
    slower : float
        Factor of the learning rate, below 1 after a rollback.
    last_loss : float
        Of the last step; NaN where the step was not taken, because loss or gradient were no
        numbers.
    """

    def __init__(
        self,
        net: Network,
        teacher: Network,
        config: FineTuneConfig,
        diameter: float,
        schedule: Schedule,
        trust: float = 0.0,
        ask: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(net, as_training(config, diameter))
        self.automatic_optimization = False
        self.tuning = config
        self.schedule = schedule
        self.trust = trust
        self.ask = ask
        for part in net.children():
            # Also within a part, so that a stop is quick on slow machines.
            part.register_forward_pre_hook(lambda *_: self.ask())
        # In a tuple, so that it is no part of the module: neither trained nor saved.
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.average = MovingAverage(net, config.ema_decay)
        self.done = 0
        self.micro = config.batch_size
        self.last_loss = math.nan
        self.slower = 1.0
        self.rollbacks = 0
        self.waiting: dict[str, Any] | None = None
        self._good: dict[str, Any] | None = None
        self.train()  # Lightning leaves the modes of modules as they are

    # --- what Lightning asks for -----------------------------------------------------------

    def train(self, mode: bool = True) -> TuningModule:
        """Called by Lightning."""
        super().train(mode)
        if self.tuning.freeze_norm or self.tuning.learn == "attention":
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def configure_optimizers(self) -> Any:
        """Called by Lightning."""
        peak = self.tuning.learning_rate
        groups = []
        if self.tuning.learn == "attention":
            # The mean of the rates of a run is about half their peak.
            own = [p for name, p in self.net.named_parameters() if _is_exponent(name)]
            peak = gamma_peak(self.schedule.total, mean_share=0.5)
            groups.append({"params": own, "peak": peak, "weight_decay": 0.0})
            self._adam = (torch.optim.AdamW(groups, lr=peak),)
            return self._adam[0]
        for decoder in (True, False):
            for matrices in (True, False):
                chosen = [
                    p
                    for name, p in self.net.named_parameters()
                    if name.startswith(DECODER) == decoder and (p.ndim > 1) == matrices
                ]
                share = 1.0 if decoder else self.tuning.encoder_rate
                decay = self.tuning.weight_decay if matrices else 0.0
                groups.append({"params": chosen, "peak": peak * share, "weight_decay": decay})
        self._adam = (torch.optim.AdamW(groups, lr=peak),)
        return self._adam[0]

    def on_fit_start(self) -> None:
        """Called by Lightning."""
        self._teacher[0].to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average.to(self.device)
        if self.waiting is not None:
            self.restore(self.waiting)
            self.waiting = None
        if self._good is None:
            self.remember()

    def training_step(self, batch: dict[str, Tensor], _index: int) -> None:  # type: ignore[override]
        """Called by Lightning."""
        optimizer: Any = self.optimizers()
        self._prepare(optimizer)
        size = len(batch["target"])
        total = 0.0
        for part in _parts(batch, self.micro):
            self.ask()
            loss = self.loss_of(part) * (len(part["target"]) / size)
            self.manual_backward(loss)
            total += float(loss.detach())
        learning = [p for p in self.net.parameters() if p.requires_grad]
        norm = float(nn.utils.clip_grad_norm_(learning, CLIP))
        self.done += 1
        if math.isfinite(total) and math.isfinite(norm):
            optimizer.step()
            self.average.update(self.net)
        else:
            total = math.nan
        self.last_loss = total

    # --- a step ----------------------------------------------------------------------------

    def loss_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of reviewed pixels, and of leaving the parent's answers elsewhere."""
        config = self.tuning
        image = self._image(batch)
        heads = self.net(image, deep_supervision=True)
        weights = config.head_weights
        mask = _believed(heads[0], batch)
        distance = batch["distance"] if self.learns_distance else None
        loss = deep_supervision_loss(self.loss, heads, weights, batch["target"], mask, distance)
        replay = batch["replay"][:, None, None]
        where = torch.where(replay, 1.0, self.trust * (~batch["mask"]).float())
        if config.distillation and bool(where.any()):
            asked = where.flatten(1).any(1)
            with torch.no_grad():
                teacher = self._teacher[0](image[asked], deep_supervision=True)
            kept = answers_kept(
                [h[asked] for h in heads], teacher, weights, where[asked], config.confidence
            )
            # By the share of the crops, so that replay weighs alike in every batch.
            loss = loss + config.distillation * kept * asked.float().mean()
        return loss

    def _prepare(self, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        rate = self.schedule.rate(self.done) * self.slower
        all_learn = self.schedule.progress(self.done) >= self.tuning.decoder_first
        for name, parameter in self.net.named_parameters():
            if self.tuning.learn == "attention":
                parameter.requires_grad_(_is_exponent(name))
            else:
                parameter.requires_grad_(all_learn or name.startswith(DECODER))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["peak"]

    # --- states ----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, on the CPU and independent of the module."""
        if not hasattr(self, "_adam"):
            self.configure_optimizers()
        whole = {
            "net": self.net.state_dict(),
            "mean": self.average.state,
            "optimizer": self._adam[0].state_dict(),
            "averaged": self.average.n,
            "done": self.done,
            "slower": self.slower,
            "rollbacks": self.rollbacks,
        }
        copied: dict[str, Any] = _copied(whole)
        return copied

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state on."""
        self.net.load_state_dict(state["net"])
        self.average.restore(state["mean"], state["averaged"])
        self._adam[0].load_state_dict(_copied(state["optimizer"]))
        self.done, self.slower = state["done"], state["slower"]
        self.rollbacks = state["rollbacks"]

    def remember(self) -> None:
        """Take the weights as they are for good ones."""
        self._good = self.state()

    def roll_back(self) -> None:
        """Back to the last good weights, and on from there with a lower learning rate."""
        assert self._good is not None
        done, slower, rollbacks = self.done, self.slower, self.rollbacks
        self.restore(self._good)
        # Not back in time: the crops that broke it are not seen again.
        self.done, self.slower, self.rollbacks = done, slower * SLOWER, rollbacks + 1


def as_training(config: FineTuneConfig, diameter: float) -> TrainConfig:
    """The settings that crops and losses know."""
    return TrainConfig(
        batch_size=config.batch_size,
        crop=config.crop,
        diameter=diameter,
        seed=config.seed,
        # What a person corrected is the domain; there is no time to learn others.
        augmentation="plain",
        **{name: getattr(config, name) for name in LossConfig.model_fields},
    )


def _is_exponent(name: str) -> bool:
    return name.endswith(".focal.gamma")


def _believed(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Reviewed pixels, without uncertain background that looks like a cell to the network.

    It may be a neighbour that nobody has labelled; to learn it as background would unlearn
    cells.
    """
    looks_empty = logits.detach()[:, : len(CLASSES)].float().softmax(1)[:, 0] > 0.5
    return batch["mask"] & (batch["certain"] | looks_empty)


def _parts(batch: dict[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(batch["target"]), size):
        yield {key: value[start : start + size] for key, value in batch.items()}


def _copied(value: Any) -> Any:
    """A copy on the CPU; of so many tensors ``copy.deepcopy`` takes five times as long."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return value


# --------------------------------------------------------------------------------------------
# After every round: score, keep the best, save, tell, and plan the rest anew.

#: A plan is changed when the rest would take so much more or less time.
OFF_PLAN = 0.1
#: A run that is not stopped by then (as a share of its time) ends where it is.
LATE = 1.15
#: Steps that are taken even where the time is over before the first: exponents are learned by
#: few steps, but not by one.
FEWEST = {"everything": 1, "attention": 12}
#: Half of a 95 % interval is so many standard errors.
DEVIATIONS = 1.96
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
    views : mapping of str to sequence of Example
        By set, from `make_view`.
    card : ModelCard
        Classes and how objects are made.
    device, dtype
        Of the run.
    ask : callable
        Called before each view; raises to stop.
    """

    def __init__(
        self,
        views: Mapping[str, Sequence[Example]],
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

    def probability(self, net: Network, view: Example) -> Any:
        """Class probabilities (C, h, w) of a view."""
        x = torch.from_numpy(view.image)[None].to(self.device)
        x = x.contiguous(memory_format=torch.channels_last)
        low = self.dtype != torch.float32
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=low):
            logits = net(x)
        return activate(logits.float(), n_classes(self.classes))[0].cpu().numpy()

    def score(
        self, net: Network, progress: Callable[[int, int], None] | None = None
    ) -> Tallies:
        """Tallies of a network in eval mode, by set; `progress` hears of views and of all."""
        out: Tallies = {}
        done, total = 0, sum(len(views) for views in self.views.values())
        for name, views in self.views.items():
            out[name] = []
            for view in views:
                self.ask()
                if progress:
                    progress(done, total)
                done += 1
                labels = label_objects(
                    self.probability(net, view), self.classes, self.instances
                )
                out[name].append(tally(labels, view.labels, view.counts))
        return out


def merit(tallies: Tallies, parent: Tallies) -> float:
    """What a round is worth: its held-out score less what was lost."""
    return score_of(tallies[HELD_OUT]).both - _all_lost(tallies, parent)


def is_as_good(tallies: Tallies, top: Tallies, parent: Tallies) -> bool:
    """Whether nothing tells a later round from the one of most merit.

    What is held back is little, and of rounds in a row the luckiest has the highest score;
    images that nobody has seen gain from learning on. So the last round counts whose AP is
    within one standard error of the top's, as in the rule of Breiman et al., "Classification
    and Regression Trees", 1984, that is better than the parent where the top is, and that has
    lost no more than the top, or little.
    """
    if tallies is top:
        return True
    fall = ap_change(tallies[HELD_OUT], top[HELD_OUT])
    if fall.difference > fall.margin / DEVIATIONS:
        return False
    if _all_lost(tallies, parent) > max(_all_lost(top, parent), TOLERANCE):
        return False
    before = parent[HELD_OUT]
    better = judge(change(before, tallies[HELD_OUT])).better
    return better or not judge(change(before, top[HELD_OUT])).better


def _all_lost(tallies: Tallies, parent: Tallies) -> float:
    """What was forgotten most of the reference set, and area that was covered rightly.

    A round that finds every cell in a flood of false foreground is none to keep.
    """
    lost = {name: _lost(parent[name], some) for name, some in tallies.items()}
    held_out = lost.pop(HELD_OUT)[1]
    forgotten = [part for both in lost.values() for part in both]
    return max(0.0, held_out) + max(0.0, *forgotten, 0.0)


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
    best : dict or None
        Of the round that is kept: the last that is as good as the top.
    top : dict or None
        Of the round of most merit.
    weights : dict or None
        Of the best round.
    step : int
        Of the best round.
    seconds : float
        Time that the run has taken, without breaks.
    taken_back : float
        By this share of the way the weights went back to the parent's.
    """

    parent: Tallies
    best: Tallies | None = None
    top: Tallies | None = None
    weights: dict[str, Tensor] | None = None
    step: int = 0
    since_best: int = 0
    rounds: list[RoundPoint] = field(default_factory=list)
    losses: list[LossPoint] = field(default_factory=list)
    seconds: float = 0.0
    taken_back: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As tensors, lists and numbers, to be stored."""
        return {
            "parent": _plain(self.parent),
            "best": None if self.best is None else _plain(self.best),
            "top": None if self.top is None else _plain(self.top),
            "weights": self.weights,
            "step": self.step,
            "since_best": self.since_best,
            "rounds": [asdict(point) for point in self.rounds],
            "losses": [asdict(point) for point in self.losses],
            "seconds": self.seconds,
            "taken_back": self.taken_back,
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Record:
        """From `plain`."""
        return cls(
            _tallies(plain["parent"]),
            None if plain["best"] is None else _tallies(plain["best"]),
            None if (top := plain.get("top", plain["best"])) is None else _tallies(top),
            plain["weights"],
            plain["step"],
            plain["since_best"],
            [round_point(point) for point in plain["rounds"]],
            [LossPoint(**point) for point in plain["losses"]],
            plain["seconds"],
            plain.get("taken_back", 0.0),  # older runs lack it
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
    card : ModelCard
        Of the parent.
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
        """Called by Lightning."""
        self._clock = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called by Lightning."""
        assert isinstance(pl_module, TuningModule)
        self._mark = (pl_module.done, self._seconds())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Called by Lightning."""
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
        net.load_state_dict(as_stored(module.average.state))
        net.eval()
        record = self.record
        tallies = self.scorer.score(net)
        held_out, reference = score_of(tallies[HELD_OUT]), score_of(reference_of(tallies))
        parent = record.parent
        if record.top is None or merit(tallies, parent) > merit(record.top, parent):
            record.top = tallies
        best = is_as_good(tallies, record.top, parent)
        record.since_best = 0 if best else record.since_best + 1
        if best:
            record.best, record.step, record.taken_back = tallies, module.done, 0.0
            mean = module.average.state
            record.weights = {k: v.detach().cpu().clone() for k, v in mean.items()}
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
                    f"Worse for {counted(record.since_best, 'round')}: learning ends early "
                    f"with the best so far, that of step {record.step}."
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
