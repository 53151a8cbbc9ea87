"""The Lightning module: loss on four heads, optimiser, validation by objects."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from napari_sa2net.config import CLASSES, OUTPUTS, InstanceConfig, TrainConfig
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.inference.predictor import activate
from napari_sa2net.metrics import ImageScore, pool, score_image
from napari_sa2net.nn import Network
from napari_sa2net.training.losses import deep_supervision_loss, make_loss


class SegmentationModule(pl.LightningModule):
    """Trains a network on crops and scores it on whole images.

    Parameters
    ----------
    net : SA2Net or FocalUNet
        With the outputs `config.OUTPUTS`, or without the distance.
    config : TrainConfig
    """

    def __init__(self, net: Network, config: TrainConfig) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.loss = make_loss(config)
        self.learns_distance = net.n_classes == len(OUTPUTS)
        self.outputs = OUTPUTS if self.learns_distance else CLASSES
        self._scores: list[ImageScore] = []
        self._losses: list[float] = []

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        heads = self.net(self._image(batch), deep_supervision=True)
        loss = deep_supervision_loss(
            self.loss,
            heads,
            self.config.head_weights,
            batch["target"],
            batch["mask"],
            batch["distance"] if self.learns_distance else None,
        )
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._scores, self._losses = [], []

    def validation_step(self, batch: dict[str, Tensor], _index: int) -> None:
        logits = self.net(self._image(batch))
        classes = logits[:, : len(CLASSES)]
        self._losses.append(float(self.loss(classes, batch["target"], batch["mask"])))
        probability = activate(logits.float(), len(CLASSES))[0].cpu().numpy()
        labels = label_objects(probability, self.outputs, InstanceConfig())
        counts = batch["mask"][0].cpu().numpy()
        self._scores.append(
            score_image(labels * counts, batch["labels"][0].cpu().numpy() * counts)
        )

    def on_validation_epoch_end(self) -> None:
        scores = pool(self._scores)
        self.log("val_loss", sum(self._losses) / len(self._losses), prog_bar=True)
        for name in ("ap50", "mean_ap", "dice"):
            self.log(f"val_{name}", scores[name], prog_bar=True)
        # Chosen by both: found at all, and found exactly.
        self.log("val_score", (scores["ap50"] + scores["mean_ap"]) / 2)

    def configure_optimizers(self) -> Any:
        decay = [p for p in self.net.parameters() if p.ndim > 1]
        plain = [p for p in self.net.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": self.config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a hundredth."""
        warmup = max(1, round(self.config.warmup * self.config.steps))
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, self.config.steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

    def _image(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["image"].contiguous(memory_format=torch.channels_last)
