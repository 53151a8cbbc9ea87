"""Losses over logits, with a mask of the pixels that count; chosen by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_sa2net.config import LossConfig
from napari_sa2net.training.focal_loss import (
    UnifiedFocalLoss,
    check_pixels,
    without_ignored,
)

#: Weight of the distance's loss beside that of the classes, and below which error it is square.
DISTANCE_SHARE, DISTANCE_BETA = 3.0, 0.1

__all__ = [
    "DiceCrossEntropy",
    "UnifiedFocalLoss",
    "deep_supervision_loss",
    "distance_loss",
    "make_loss",
]


class DiceCrossEntropy(nn.Module):
    """Class-weighted cross-entropy plus soft Dice, as in the SA2-Net recipe.

    Parameters
    ----------
    class_weights : sequence of float
        Weight of each class in the cross-entropy. The Dice part is the mean over classes.
    """

    def __init__(self, class_weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(class_weights, dtype=torch.float32))
        self.weights: Tensor

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of a batch.

        Parameters
        ----------
        logits : (B, C, H, W), C >= 2
        target : (B, H, W) int64
        mask : (B, H, W) bool, optional
            Pixels that count; the others have no say, whatever their logits and target.
            None at all gives 0 with a gradient of 0.

        Raises
        ------
        SettingsError
            As of `focal_loss.check_pixels`.
        """
        check_pixels(logits, target, mask)
        logits, target = without_ignored(logits.float(), target, mask)
        counts = torch.ones_like(target, dtype=torch.float32) if mask is None else mask.float()
        log_p = F.log_softmax(logits, dim=1)
        p = log_p.exp()
        pixel = F.nll_loss(log_p, target, weight=self.weights, reduction="none")
        norm = (self.weights[target] * counts).sum().clamp(min=1e-6)
        cross_entropy = (pixel * counts).sum() / norm

        truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).float()
        inside = counts[:, None]
        overlap = (p * truth * inside).sum((0, 2, 3))
        total = ((p + truth) * inside).sum((0, 2, 3))
        # A class that neither side has is no error: ε in both parts makes its Dice 1.
        dice = (2 * overlap + 1.0) / (total + 1.0)
        present = counts.sum().clamp(max=1.0)
        return cross_entropy + present * (1 - dice.mean())


def make_loss(config: LossConfig) -> nn.Module:
    """The loss that the settings name, for the classes background, interior, boundary."""
    if config.loss == "unified_focal":
        return UnifiedFocalLoss(**config.unified_focal.model_dump())
    return DiceCrossEntropy((1.0, 1.0, config.boundary_weight))


def distance_loss(logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Smooth L1 of the distance to the edge; objects and background weigh 2 to 1.

    Parameters
    ----------
    logits : (B, H, W)
        Their sigmoid is the distance.
    target : (B, H, W) float32, 0 … 1
        As of `targets.distance_target`.
    mask : (B, H, W) bool, optional
        Pixels that count; none at all gives 0 with a gradient of 0.
    """
    counts = torch.ones_like(target) if mask is None else mask.to(target.dtype)
    inside = counts * (target > 0)
    outside = counts - inside
    weight = inside / inside.sum().clamp(min=1) + 0.5 * outside / outside.sum().clamp(min=1)
    # Where nothing counts a logit that is no number must not, either.
    logits = torch.where(weight > 0, logits.float(), torch.zeros_like(target))
    error = F.smooth_l1_loss(logits.sigmoid(), target, beta=DISTANCE_BETA, reduction="none")
    return (error * weight).sum()


def deep_supervision_loss(
    loss: nn.Module,
    heads: Sequence[Tensor],
    weights: Sequence[float],
    target: Tensor,
    mask: Tensor | None = None,
    distance: Tensor | None = None,
) -> Tensor:
    """Weighted mean of a loss over the four heads, main first.

    With `distance`, the last channel of each head learns that beside the classes.
    """
    if distance is not None:
        parts = [
            w * distance_loss(h[:, -1], distance, mask)
            for h, w in zip(heads, weights, strict=True)
            if w > 0
        ]
        seen = torch.stack(parts).sum() / sum(weights)
        heads = [h[:, :-1] for h in heads]
        return DISTANCE_SHARE * seen + deep_supervision_loss(loss, heads, weights, target, mask)
    shared: dict[str, Tensor | None] = {}
    if isinstance(loss, UnifiedFocalLoss):
        # Distances depend on the target alone: computed once for all heads.
        shared["pixel_weights"] = loss.penalty(target, mask)
    parts = [
        w * loss(h, target, mask, **shared)
        for h, w in zip(heads, weights, strict=True)
        if w > 0
    ]
    return torch.stack(parts).sum() / sum(weights)
