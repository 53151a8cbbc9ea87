"""Teaching the network that marks the object under a click."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from napari_sa2net.inference.click import (
    SIDE,
    TYPICAL,
    ClickNet,
    ClickWindow,
    Point,
    click_network,
    network_input,
)
from napari_sa2net.inference.devices import bfloat16_is_fast

#: A person's objects teach it in so many steps of so many clicks, with this rate.
STEPS, BATCH, RATE = 30, 12, 3e-3
#: Every so many-th object is held back where there are `JUDGED` of them, and judges.
HOLD, JUDGED = 4, 8
#: The typical size varies by so much (standard deviation of its logarithm).
SIZES = 0.12
#: An object of fewer elements of the window is not learned from.
SMALLEST = 12


@dataclass(frozen=True, eq=False)
class ClickExample:
    """An object that a click should give, and what lies around it.

    Attributes
    ----------
    image : float32 (3, H, W)
        As of `inference.click.object_at`, as all that follows.
    seen : float32 (3, H, W)
        0 where no model has looked.
    labels : integer (H, W)
        Objects that are there.
    own : bool (H, W)
        The object.
    diameter : float
        Of a typical object (px).
    """

    image: NDArray[np.float32]
    seen: NDArray[np.float32]
    labels: NDArray[np.integer]
    own: NDArray[np.bool_]
    diameter: float

    def reduced(self) -> ClickExample:
        """About as coarse as the network sees it: what is large is slow to cut."""
        n = int(self.diameter / TYPICAL)
        height, width = (size // n * n for size in self.own.shape) if n > 1 else (0, 0)
        if not height or not width:
            return self
        blocks = (3, height // n, n, width // n, n)
        image, seen = (
            values[:, :height, :width].reshape(blocks).mean((2, 4))
            for values in (self.image, self.seen)
        )
        middles = slice(n // 2, height, n), slice(n // 2, width, n)
        labels, own = self.labels[middles], self.own[middles]
        return ClickExample(image, seen, labels, own, self.diameter / n)

    def look(
        self, rng: np.random.Generator, sizes: float = SIZES, still: bool = False
    ) -> ClickLook | None:
        """From a click well inside it, turned anyhow; None where hardly any of it is seen.

        Parameters
        ----------
        rng
            Draws the click, the turn, and the size.
        sizes : float
            As `SIZES`.
        still : bool
            From its middle, as it is.
        """
        depth = ndimage.distance_transform_edt(np.pad(self.own, 1))[1:-1, 1:-1]
        ys, xs = np.nonzero(depth >= depth.max() * (1 if still else 0.5))
        at = int(rng.integers(len(ys)))
        window = ClickWindow(
            (float(ys[at]), float(xs[at])),
            self.diameter * (1 if still else float(np.exp(rng.normal(0, sizes)))),
            self.own.shape,
            0.0 if still else rng.uniform(0, 2 * math.pi),
            not still and bool(rng.integers(2)),
        )
        own = window.nearest(torch.as_tensor(self.own.astype(np.int32))) > 0
        if own.sum() < SMALLEST:
            return None
        values = window.cut(torch.as_tensor(np.concatenate([self.image, self.seen])))
        y, x = window.grid
        height, width = self.own.shape
        counts = (y > -0.5) & (y < height - 0.5) & (x > -0.5) & (x < width - 0.5)
        labels = window.nearest(torch.as_tensor(self.labels.astype(np.int64)))
        return ClickLook(values[:3], values[3:], labels, own, counts)


@dataclass(frozen=True, eq=False)
class ClickLook:
    """What is on the window's grid.

    Attributes
    ----------
    image, seen : float32 (3, SIDE, SIDE)
    labels : int64 (SIDE, SIDE)
    own : bool (SIDE, SIDE)
        What a click in the middle should give.
    counts : bool (SIDE, SIDE)
        Pixels of the image.
    """

    image: Tensor
    seen: Tensor
    labels: Tensor
    own: Tensor
    counts: Tensor

    def given(
        self, inside: Sequence[Point] = (), outside: Sequence[Point] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Input of the network, truth and what counts; with further clicks."""
        middle = ((SIDE - 1) / 2, (SIDE - 1) / 2)
        x = network_input(self.image, self.seen, self.labels, [middle, *inside], outside)
        return x, self.own.float(), self.counts.float()


def click_loss(logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """Weighted cross-entropy and Dice, by example; all (B, SIDE, SIDE)."""
    weight = (1 + 4 * truth) * counts
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    entropy = (entropy * weight).sum((1, 2)) / weight.sum((1, 2))
    p = logits.sigmoid() * counts
    dice = (2 * (p * truth).sum((1, 2)) + 5) / (p.sum((1, 2)) + truth.sum((1, 2)) + 5)
    return (entropy + 1 - dice).mean()


def learned_clicks(
    examples: Sequence[ClickExample],
    between: Callable[[], None] = lambda: None,
    steps: int = STEPS,
    seed: int = 0,
) -> ClickNet | None:
    """The bundled network, taught what a person's objects look like in an image.

    Parameters
    ----------
    examples : sequence of ClickExample
        Objects that a person is content with.
    between : callable
        Called before every step; what it raises ends the teaching.
    steps, seed : int

    Returns
    -------
    ClickNet or None
        None where it was worse than the bundled one on what was held back.

    Examples
    --------
    >>> net = learned_clicks(examples)  # doctest: +SKIP
    >>> mask = object_at(image, labels, (40, 52), 22, net=net)  # doctest: +SKIP
    """
    examples = [one.reduced() for one in examples]
    judges = examples[HOLD - 1 :: HOLD] if len(examples) >= JUDGED else ()
    held = {id(one) for one in judges}
    learned = [one for one in examples if id(one) not in held]
    rng = np.random.default_rng(seed)
    base = click_network()
    # Its statistics stay: some tens of windows of one image are too few for new ones.
    net = copy.deepcopy(base).eval().requires_grad_(True)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    is_low = bfloat16_is_fast()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.0)
    for step in range(steps):
        between()
        for group in optimizer.param_groups:
            rise = min(1.0, (step + 1) / 5)
            group["lr"] = RATE * rise * 0.5 * (1 + math.cos(math.pi * step / steps))
        looks = [learned[int(i)].look(rng) for i in rng.integers(len(learned), size=BATCH)]
        given = [look.given() for look in looks if look is not None]
        if not given:
            continue
        x, truth, counts = (torch.stack(part) for part in zip(*given, strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
            logits = net(x.contiguous(memory_format=torch.channels_last))
        loss = click_loss(logits.float(), truth, counts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    net.requires_grad_(False)
    return net if _overlap(net, judges, seed) >= _overlap(base, judges, seed) else None


def _overlap(net: ClickNet, examples: Sequence[ClickExample], seed: int) -> float:
    """Mean IoU of clicks in the middle, on the window's grid; 0 without examples."""
    rng = np.random.default_rng(seed)
    looks = [one.look(rng, still=True) for one in examples]
    ious = []
    with torch.inference_mode():
        for look in looks:
            if look is not None:
                x, truth, counts = look.given()
                found = (net(x[None])[0] > 0) & (counts > 0)
                both = (found & (truth > 0)).sum()
                ious.append(float(both / (found | (truth > 0)).sum()))
    return float(np.mean(ious)) if ious else 0.0
