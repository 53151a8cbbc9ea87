"""Teaching the network that marks the object under a click."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from napari_sa2net.inference.click import (
    REACH,
    SIDE,
    SMALLEST,
    TYPICAL,
    ClickNet,
    ClickWindow,
    Point,
    click_network,
    network_input,
)
from napari_sa2net.inference.devices import bfloat16_is_fast

#: A person's objects teach it in so many steps of so many clicks, with this rate; with a lower
#: one where it learns of empty places, too.
STEPS, BATCH, RATE = 30, 12, 3e-3
LOW_RATE = 2e-3
#: Every so many-th object is held back where there are `JUDGED` of them, and judges.
HOLD, JUDGED = 4, 8
#: The typical size varies by so much (standard deviation of its logarithm).
SIZES = 0.12
#: At most so many cells and empty places of a plane are looked at.
MOST = 48
#: Share of clicks on nothing, where it is known of places, and weight of the loss of scores.
NOTHING, SCORES = 0.4, 0.5

Places = tuple[NDArray[np.intp], ...]


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
    is_empty : bool
        No object: of all places in ``own`` a click should give nothing.
    """

    image: NDArray[np.float32]
    seen: NDArray[np.float32]
    labels: NDArray[np.integer]
    own: NDArray[np.bool_]
    diameter: float
    is_empty: bool = False

    @cached_property
    def _depth(self) -> NDArray[np.floating]:
        depth = ndimage.distance_transform_edt(np.pad(self.own, 1))[1:-1, 1:-1]
        return depth  # type: ignore[no-any-return]

    @cached_property
    def _inside(self) -> Places:
        """Pixels that a person may click on."""
        return np.nonzero(self.own if self.is_empty else self._depth >= self._depth.max() / 2)

    @cached_property
    def _middle(self) -> Places:
        return np.nonzero(self._depth >= self._depth.max())

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
        return ClickExample(image, seen, labels, own, self.diameter / n, self.is_empty)

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
        ys, xs = self._middle if still else self._inside
        if not len(ys):
            return None
        at = int(rng.integers(len(ys)))
        window = ClickWindow(
            (float(ys[at]), float(xs[at])),
            self.diameter * (1 if still else float(np.exp(rng.normal(0, sizes)))),
            self.own.shape,
            0.0 if still else rng.uniform(0, 2 * math.pi),
            not still and bool(rng.integers(2)),
        )
        own = window.nearest(torch.as_tensor(self.own.astype(np.int32))) > 0
        if self.is_empty:
            own = torch.zeros_like(own)
        elif own.sum() < SMALLEST:
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


def examples_in(
    image: NDArray[np.float32],
    seen: NDArray[np.float32],
    labels: NDArray[np.integer],
    counts: NDArray[np.bool_],
) -> list[ClickExample]:
    """Of the reviewed cells of a plane, and of places beside them where none is.

    Parameters
    ----------
    image, seen : float32 (3, H, W)
    labels : int (H, W)
    counts : bool (H, W)
        Reviewed pixels.
    """
    rng = np.random.default_rng(0)
    # numbers of labels may be large
    numbers, flat = np.unique(np.where(labels > 0, labels, 0), return_inverse=True)
    flat = flat.reshape(labels.shape) + (numbers[0] > 0)
    areas = np.bincount(flat.ravel())
    inside = np.bincount(flat[counts], minlength=areas.size)
    reviewed = 1 + np.flatnonzero(inside[1:] > 0.9 * areas[1:])
    if not reviewed.size:
        return []
    diameter = 2 * math.sqrt(float(np.median(areas[reviewed])) / math.pi)
    reach = math.ceil(1.4 * REACH * diameter)

    def around(y: float, x: float) -> tuple[slice, slice]:
        ys, xs = (
            slice(max(0, int(at) - reach), min(n, int(at) + reach))
            for at, n in zip((y, x), labels.shape, strict=True)
        )
        return ys, xs

    def example(part: Any, own: NDArray[np.bool_], is_empty: bool) -> ClickExample:
        return ClickExample(
            image[:, *part], seen[:, *part], labels[part], own, diameter, is_empty
        )

    out = []
    some = rng.permutation(reviewed)[:MOST]
    for number, (y, x) in zip(some, ndimage.center_of_mass(flat > 0, flat, some), strict=True):
        part = around(y, x)
        out.append(example(part, flat[part] == number, False))
    empty = np.argwhere(counts & (flat == 0))
    for y, x in empty[rng.permutation(len(empty))[:MOST]]:
        part = around(y, x)
        ys, xs = np.ogrid[part]
        near = np.hypot(ys - y, xs - x) <= diameter / 4
        out.append(example(part, near & counts[part] & (flat[part] == 0), True))
    return out


def click_loss(logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """Weighted cross-entropy and Dice, by example; all (B, SIDE, SIDE)."""
    weight = (1 + 4 * truth) * counts
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    entropy = (entropy * weight).sum((1, 2)) / weight.sum((1, 2))
    p = logits.sigmoid() * counts
    dice = (2 * (p * truth).sum((1, 2)) + 5) / (p.sum((1, 2)) + truth.sum((1, 2)) + 5)
    return (entropy + 1 - dice).mean()


def score_loss(scores: Tensor, logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of scores (B,) and the IoU of what is marked; 0 where nothing is."""
    found, own = (logits.detach() > 0) & (counts > 0), truth > 0
    either = (found | own).sum((1, 2)).clamp(min=1)
    iou = (found & own).sum((1, 2)) / either
    return F.binary_cross_entropy_with_logits(scores, iou)


def both_losses(scores: Tensor, logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """Of what is marked where something is, and of the scores."""
    some = truth.flatten(1).any(1)
    loss = SCORES * score_loss(scores, logits, truth, counts)
    return loss + click_loss(logits[some], truth[some], counts[some]) if some.any() else loss


def learned_clicks(
    examples: Sequence[ClickExample],
    on_step: Callable[[int, int], None] = lambda *_: None,
    steps: int = STEPS,
    seconds: float = math.inf,
    seed: int = 0,
) -> ClickNet | None:
    """The bundled network, taught what a person's objects look like in an image.

    Parameters
    ----------
    examples : sequence of ClickExample
        Objects that a person is content with. With places where there is none, it learns to
        tell them apart, too: then it can be asked everywhere.
    on_step : callable
        Called before every step with its number and how many there are; what it raises ends
        the teaching.
    steps : int
    seconds : float
        On a slow machine it ends by then, after fewer steps.
    seed : int

    Returns
    -------
    ClickNet or None
        None where it was worse than the bundled one on what was held back.

    Examples
    --------
    >>> net = learned_clicks(examples)  # doctest: +SKIP
    >>> mask = object_at(image, labels, (40, 52), 22, net=net)  # doctest: +SKIP
    """
    nothing = [one.reduced() for one in examples if one.is_empty]
    examples = [one.reduced() for one in examples if not one.is_empty]
    # who gives empty places asks everywhere, and judges all that comes of it
    is_judged = len(examples) >= JUDGED and not nothing
    judges = examples[HOLD - 1 :: HOLD] if is_judged else ()
    held = {id(one) for one in judges}
    learned = [one for one in examples if id(one) not in held]
    rng = np.random.default_rng(seed)
    base = click_network()
    # Its statistics stay: some tens of windows of one image are too few for new ones.
    net = copy.deepcopy(base).eval().requires_grad_(True)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    is_low = bfloat16_is_fast()
    peak = LOW_RATE if nothing else RATE
    optimizer = torch.optim.AdamW(net.parameters(), lr=peak, weight_decay=0.0)
    began = time.monotonic()
    for step in range(steps):
        on_step(step, steps)
        done = max(step / steps, (time.monotonic() - began) / seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            rise = min(1.0, (step + 1) / 5)
            group["lr"] = peak * rise * 0.5 * (1 + math.cos(math.pi * done))
        drawn = [
            nothing if nothing and rng.random() < NOTHING else learned for _ in range(BATCH)
        ]
        looks = [some[int(rng.integers(len(some)))].look(rng) for some in drawn]
        given = [look.given() for look in looks if look is not None]
        if not given:
            continue
        x, truth, counts = (torch.stack(part) for part in zip(*given, strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
            answers = net(x.contiguous(memory_format=torch.channels_last))
        logits, scores = (part.float() for part in answers)
        if nothing:
            loss = both_losses(scores, logits, truth, counts)
        else:
            loss = click_loss(logits, truth, counts)
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
                found = (net(x[None])[0][0] > 0) & (counts > 0)
                both = (found & (truth > 0)).sum()
                ious.append(float(both / (found | (truth > 0)).sum()))
    return float(np.mean(ious)) if ious else 0.0
