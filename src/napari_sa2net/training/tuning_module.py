"""The Lightning module of fine-tuning: what a step is, and how one that failed is undone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from napari_sa2net.config import CLASSES, FineTuneConfig, LossConfig, TrainConfig
from napari_sa2net.nn import Network
from napari_sa2net.training.losses import deep_supervision_loss
from napari_sa2net.training.module import SegmentationModule
from napari_sa2net.training.replay import answers_kept
from napari_sa2net.training.schedule import Schedule, gamma_peak

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
    config : FineTuneConfig
    diameter : float
        Object size of the network (px).
    schedule : Schedule
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
        self.mean = {k: v.detach().clone() for k, v in net.state_dict().items()}
        self.averaged = 0
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
        super().train(mode)
        if self.tuning.freeze_norm or self.tuning.learn == "attention":
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def configure_optimizers(self) -> Any:
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
        self._teacher[0].to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = {k: v.to(self.device) for k, v in self.mean.items()}
        if self.waiting is not None:
            self.restore(self.waiting)
            self.waiting = None
        if self._good is None:
            self.remember()

    def training_step(self, batch: dict[str, Tensor], _index: int) -> None:  # type: ignore[override]
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
            self._average()
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

    @torch.no_grad()
    def _average(self) -> None:
        """Moving average of the weights; its decay grows from 0.1, as in training."""
        self.averaged += 1
        decay = min(self.tuning.ema_decay, (1 + self.averaged) / (10 + self.averaged))
        for key, value in self.net.state_dict().items():
            if value.is_floating_point():
                self.mean[key].lerp_(value, 1 - decay)
            else:
                self.mean[key].copy_(value)

    # --- states ----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, on the CPU and independent of the module."""
        whole = {
            "net": self.net.state_dict(),
            "mean": self.mean,
            "optimizer": self._adam[0].state_dict(),
            "averaged": self.averaged,
            "done": self.done,
            "slower": self.slower,
            "rollbacks": self.rollbacks,
        }
        return copy.deepcopy(_on_cpu(whole))

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state on."""
        self.net.load_state_dict(state["net"])
        for key, value in state["mean"].items():
            self.mean[key].copy_(value)
        self._adam[0].load_state_dict(copy.deepcopy(state["optimizer"]))
        self.averaged, self.done = state["averaged"], state["done"]
        self.slower, self.rollbacks = state["slower"], state["rollbacks"]

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


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(part) for part in value)
    return value
