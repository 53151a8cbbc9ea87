"""Losses over logits, with a mask of the pixels that count; chosen by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from napari_sa2net.config import LossConfig
from napari_sa2net.errors import SettingsError

# --------------------------------------------------------------------------------------------
# Unified Focal loss, and our Focal distance penalty on top of it.
#
# Published: Yeung et al., Unified Focal loss (arXiv 2102.04525), as the authors' code
# computes it. Reconstruction: the distance penalty, whose idea Yeung et al., ISBI 2022
# (arXiv 2111.00534) publish without a formula.

#: Probabilities are clipped to [EPSILON, 1 - EPSILON]; also added above and below in mTI.
EPSILON = 1e-7


class UnifiedFocalLoss(nn.Module):
    """λ · focal Tversky loss + (1 - λ) · focal cross-entropy, linked by one γ.

    With p the softmax clipped to [ε, 1 - ε] and y the one-hot truth, sums over the pixels of
    an image, a = 1 - δ for background and δ for every other class:

    - mTI_c = (TP + ε) / (TP + δ FN + (1 - δ) FP + ε)
    - focal: mean over pixels of Σ_c a_c (1 - p_c)^γ (-y_c log p_c)
    - focal Tversky: mean over images and classes of (1 - mTI_c)^(1 - γ)

    The asymmetric form keeps the focal factor on the background alone, and the Tversky
    exponent on the foreground alone.

    Parameters
    ----------
    weight : float
        λ in 0…1, the share of the Tversky part.
    delta : float
        δ in 0…1, the weight of false negatives, and of the foreground in the cross-entropy.
    gamma : float
        γ in [0, 1), the focal parameter.
    distance_gamma : float
        γ_d >= 0 of the distance penalty (see `distance_weights`); 0 is exactly the plain
        Unified Focal loss.

    Raises
    ------
    SettingsError
        If a parameter is out of its bounds.

    Notes
    -----
    Published, and equal to the authors' code, with ``distance_gamma=0``. (The equation in
    the paper swaps λ, and in the symmetric case γ with 1 - γ; the authors' code and figure
    are followed.) The distance penalty is a **reconstruction**: the paper gives the idea but
    no formula. Like the authors' code, a class that an image lacks costs nearly 1 in the
    Tversky part even where nothing of it is predicted.
    """

    def __init__(
        self,
        weight: float = 0.5,
        delta: float = 0.6,
        gamma: float = 0.5,
        asymmetric: bool = True,
        distance_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, good, bounds in (
            ("weight", weight, 0 <= weight <= 1, "from 0 to 1"),
            ("delta", delta, 0 <= delta <= 1, "from 0 to 1"),
            ("gamma", gamma, 0 <= gamma < 1, "at least 0 and below 1"),
            ("distance_gamma", distance_gamma, 0 <= distance_gamma < float("inf"), "0 or more"),
        ):
            if not good:
                raise SettingsError(
                    f"Unified Focal loss: {name} must be {bounds}, not {value}."
                )
        self.weight = weight
        self.delta = delta
        self.gamma = gamma
        self.asymmetric = asymmetric
        self.distance_gamma = distance_gamma

    def extra_repr(self) -> str:
        """What torch shows of the parameters."""
        return (
            f"weight={self.weight}, delta={self.delta}, gamma={self.gamma}, "
            f"asymmetric={self.asymmetric}, distance_gamma={self.distance_gamma}"
        )

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        pixel_weights: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch.

        Parameters
        ----------
        logits : (B, C, H, W), C >= 2
            Channel 0 is the background. log p is a valid logit of p.
        target : (B, H, W) int64
        mask : (B, H, W) bool, optional
            Pixels that count; the others have no say, whatever their logits and target.
            None at all gives 0 with a gradient of 0.
        pixel_weights : (B, H, W), optional
            Of each pixel's errors, in place of what `penalty` gives for this target and mask
            (`deep_supervision_loss` multiplies it in). The focal part is a mean over pixels,
            not over weights, as with the penalty: where they are large, so is the loss.

        Returns
        -------
        Scalar Tensor, float32, or float64 for float64 logits.

        Raises
        ------
        SettingsError
            If the logits have one channel only, or `check_pixels` finds fault.
        """
        check_pixels(logits, target, mask)
        if logits.shape[1] < 2:
            raise SettingsError(
                "The Unified Focal loss compares classes, and these logits have one channel. "
                "Give the network a channel for every class, the background first."
            )
        if pixel_weights is None:
            pixel_weights = self.penalty(target, mask)
        if logits.dtype != torch.float64:
            logits = logits.float()
        logits, known = without_ignored(logits, target, mask)
        p = logits.softmax(1).clamp(EPSILON, 1 - EPSILON)
        counts = torch.ones_like(p[:, 0]) if mask is None else mask.to(p.dtype)
        truth = F.one_hot(known, p.shape[1]).movedim(-1, 1).to(p.dtype)
        w = None if pixel_weights is None else pixel_weights.to(p.dtype)
        tversky = self._tversky(p, truth, counts, w)
        focal = self._focal(p, truth, counts if w is None else counts * w, counts)
        return self.weight * tversky + (1 - self.weight) * focal

    def penalty(self, target: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Pixel weights of the distance penalty (reconstruction); None where it is off.

        Parameters
        ----------
        target : (B, H, W) int64
        mask : (B, H, W) bool, optional

        Returns
        -------
        (B, H, W) float32 on the target's device, or None
        """
        if self.distance_gamma == 0:
            return None
        masks = None if mask is None else mask.cpu().numpy()
        planes = [
            distance_weights(t, self.distance_gamma, None if masks is None else masks[i])
            for i, t in enumerate(target.cpu().numpy())
        ]
        return torch.from_numpy(np.stack(planes)).to(target.device)

    def _tversky(self, p: Tensor, truth: Tensor, counts: Tensor, w: Tensor | None) -> Tensor:
        inside = counts[:, None]
        errors = inside if w is None else inside * w[:, None]
        found = (truth * p * inside).sum((2, 3))
        missed = (truth * (1 - p) * errors).sum((2, 3))
        wrong = ((1 - truth) * p * errors).sum((2, 3))
        lost = self.delta * missed + (1 - self.delta) * wrong
        # 1 - mTI written as a quotient: never rounds to below 0, where the power is no number.
        cost = lost / (found + lost + EPSILON)
        powered = _power(cost, 1 - self.gamma)
        untouched = 1 if self.asymmetric else 0  # the background's, or none
        cost = torch.cat([cost[:, :untouched], powered[:, untouched:]], dim=1)
        # Images without a pixel that counts do not dilute the mean.
        present = counts.flatten(1).sum(1).clamp(max=1)
        return (cost.mean(1) * present).sum() / present.sum().clamp(min=1)

    def _focal(self, p: Tensor, truth: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
        share = torch.full_like(p[:1, :, :1, :1], self.delta)
        share[:, 0] = 1 - self.delta
        factor = _power(1 - p, self.gamma)
        if self.asymmetric:
            factor = torch.cat([factor[:, :1], torch.ones_like(factor[:, 1:])], dim=1)
        pixel = (share * factor * truth * -p.log()).sum(1)
        return (pixel * weights).sum() / counts.sum().clamp(min=1)


def check_pixels(logits: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """Logits, target and mask must fit: what torch would broadcast gives a wrong loss.

    Raises
    ------
    SettingsError
        If logits are not (B, C, H, W) of floats, the target not (B, H, W) of int64, or the
        mask not (B, H, W) of bool.
    """
    if logits.ndim != 4 or not logits.is_floating_point():
        raise SettingsError(
            f"Logits must be (B, C, H, W) of floats, not {_spoken(logits)}. Give what the "
            "network returns, before softmax."
        )
    shape = (logits.shape[0], *logits.shape[2:])
    for name, given, dtype in (("target", target, torch.int64), ("mask", mask, torch.bool)):
        if given is not None and (tuple(given.shape) != shape or given.dtype != dtype):
            raise SettingsError(
                f"The {name} must be {shape} of {str(dtype)[6:]}, as the logits are "
                f"{tuple(logits.shape)}, not {_spoken(given)}."
            )


def _spoken(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype)[6:]}"


def without_ignored(
    logits: Tensor, target: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Logits (B, C, H, W) and target (B, H, W), both 0 where the mask is False.

    Ignored pixels may hold anything: a target that is no class (255, say) must not be looked
    up, and a logit that is no number would stay one times a weight of 0.
    """
    if mask is None:
        return logits, target
    known = target.where(mask, torch.zeros_like(target))
    return logits.where(mask[:, None], torch.zeros_like(logits)), known


def _power(base: Tensor, exponent: float) -> Tensor:
    """Power of a base >= 0, with gradient 0 where the base is 0."""
    positive = base > 0
    safe = base.where(positive, torch.ones_like(base))
    if exponent == 0:
        return torch.ones_like(base)
    return safe.pow(exponent).where(positive, torch.zeros_like(base))


def distance_weights(
    target: NDArray[np.integer],
    distance_gamma: float,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Weights of the Focal distance penalty for one image: Φ^γ_d, Φ = 1 - D / max D.

    D is the Euclidean distance (px) of a pixel to the nearest pixel of a ground-truth
    boundary: one with another class above, below, left or right of it. So boundaries weigh
    1, and the pixel farthest from them 0.

    Parameters
    ----------
    target : (H, W) integer
        Class of each pixel.
    distance_gamma : float
        γ_d >= 0; 0 gives 1 everywhere.
    mask : (H, W) bool, optional
        Pixels whose class is known; a boundary lies between two known pixels, and max D is
        taken over the known ones.

    Returns
    -------
    (H, W) float32
        1 everywhere for an image without boundary (empty or full).

    Notes
    -----
    Reconstruction: the published text (arXiv 2111.00534) names the penalty without a
    formula.
    """
    ones = np.ones(target.shape, np.float32)
    boundary = np.zeros(target.shape, bool)
    for before, after in (
        (np.s_[:-1, :], np.s_[1:, :]),
        (np.s_[:, :-1], np.s_[:, 1:]),
    ):
        differs = target[before] != target[after]
        if mask is not None:
            differs &= mask[before] & mask[after]
        boundary[before] |= differs
        boundary[after] |= differs
    if distance_gamma == 0 or not boundary.any():
        return ones
    distance = ndimage.distance_transform_edt(~boundary)
    farthest = distance.max() if mask is None else distance[mask].max()
    if not farthest > 0:
        return ones
    nearness = np.clip(1 - distance / farthest, 0, 1)
    return np.power(nearness, distance_gamma).astype(np.float32)


#: Weight of the distance's loss beside that of the classes, and below which error it is square.
DISTANCE_SHARE, DISTANCE_BETA = 3.0, 0.1


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

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        pixel_weights: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch.

        Parameters
        ----------
        logits : (B, C, H, W), C >= 2
        target : (B, H, W) int64
        mask : (B, H, W) bool, optional
            Pixels that count; the others have no say, whatever their logits and target.
            None at all gives 0 with a gradient of 0.
        pixel_weights : (B, H, W), optional
            Of the cross-entropy.

        Raises
        ------
        SettingsError
            As of `check_pixels`.
        """
        check_pixels(logits, target, mask)
        logits, target = without_ignored(logits.float(), target, mask)
        counts = torch.ones_like(target, dtype=torch.float32) if mask is None else mask.float()
        log_p = F.log_softmax(logits, dim=1)
        p = log_p.exp()
        pixel = F.nll_loss(log_p, target, weight=self.weights, reduction="none")
        weighed = counts if pixel_weights is None else counts * pixel_weights
        norm = (self.weights[target] * weighed).sum().clamp(min=1e-6)
        cross_entropy = (pixel * weighed).sum() / norm

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


def distance_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Smooth L1 of the distance to the edge; objects and background weigh 2 to 1.

    Parameters
    ----------
    logits : (B, H, W)
        Their sigmoid is the distance.
    target : (B, H, W) float32, 0 … 1
        As of `dataset.distance_target`.
    mask : (B, H, W) bool, optional
        Pixels that count; none at all gives 0 with a gradient of 0.
    pixel_weights : (B, H, W), optional
    """
    counts = torch.ones_like(target) if mask is None else mask.to(target.dtype)
    if pixel_weights is not None:
        counts = counts * pixel_weights
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
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Weighted mean of a loss over the four heads, main first.

    With `distance`, the last channel of each head learns that beside the classes.
    `pixel_weights` (B, H, W) say how much a pixel counts in either.
    """
    if distance is not None:
        parts = [
            w * distance_loss(h[:, -1], distance, mask, pixel_weights)
            for h, w in zip(heads, weights, strict=True)
            if w > 0
        ]
        seen = torch.stack(parts).sum() / sum(weights)
        heads = [h[:, :-1] for h in heads]
        classes = deep_supervision_loss(
            loss, heads, weights, target, mask, pixel_weights=pixel_weights
        )
        return DISTANCE_SHARE * seen + classes
    if isinstance(loss, UnifiedFocalLoss):
        # Distances depend on the target alone: computed once for all heads.
        penalty = loss.penalty(target, mask)
        if penalty is not None:
            pixel_weights = penalty if pixel_weights is None else penalty * pixel_weights
    parts = [
        w * loss(h, target, mask, pixel_weights)
        for h, w in zip(heads, weights, strict=True)
        if w > 0
    ]
    return torch.stack(parts).sum() / sum(weights)
