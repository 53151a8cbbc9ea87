"""Against forgetting: images on which, and pixels where, a child answers as its parent did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from napari_sa2net.config import CLASSES, InputConfig, TrainConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.models.card import ModelCard
from napari_sa2net.training.dataset import CropDataset, Example

#: Synthetic images that crops are cut from, and their side in typical diameters.
N_REPLAY, SIDE = 16, 10
#: Seeds of replay start here; the reference set uses others.
FIRST_SEED = 7000
#: A parent is trusted fully where its sure answers agree so often with a person's, and not at
#: all below the first.
TRUST_FROM, TRUST_FULL = 0.9, 0.98


def replay_examples(card: ModelCard, diameter: float, seed: int) -> list[Example]:
    """Synthetic cells at the network's object size, as sparse and as crowded as real ones."""
    return list(_drawn(card.input, card.network.in_channels, diameter, seed))


@lru_cache(maxsize=2)
def _drawn(
    expects: InputConfig, in_channels: int, diameter: float, seed: int
) -> tuple[Example, ...]:
    rng = np.random.default_rng([FIRST_SEED, seed])
    side = round(SIDE * diameter)
    examples = []
    for i in range(N_REPLAY):
        kind: Literal["fluo", "stained"] = "fluo" if i % 4 else "stained"
        size = diameter * 2.0 ** rng.uniform(-0.3, 0.3)
        n = int(rng.uniform(0.15, 0.75) * side**2 / (np.pi / 4 * size**2))
        image, labels = synthetic_nuclei(
            (side, side), n, size, FIRST_SEED + 100 * seed + i, kind
        )
        plan = plan_image(image, model_input=expects, in_channels=in_channels)
        item = TrainingItem(f"replay-{i}", Path(), Path(), kind=kind)
        pixels = plan.read((), 0, side, 0, side)
        examples.append(Example(item, pixels, labels, None, diameter, np.zeros((0, 2))))
    return tuple(examples)


def as_fluorescence(examples: Sequence[Example]) -> list[Example]:
    """Colour images as if cells shone on a dark ground: real textures to repeat answers on.

    Returns
    -------
    list of Example
        Without pixels that count; grey images are left out, being what they are already.
    """
    out = []
    for example in examples:
        if example.is_colour:
            grey = np.broadcast_to(example.image.mean(0, keepdims=True), example.image.shape)
            grey = 1 - grey if np.median(grey) > 0.5 else grey
            item = replace(example.item, kind="fluo")
            out.append(replace(example, item=item, image=np.ascontiguousarray(grey)))
    return out


class MixedCrops(Dataset[dict[str, Tensor]]):
    """Crops of corrections and of replay, in every batch the same share of each.

    Parameters
    ----------
    share : float
        Of replay; at least one crop of a batch is of corrections.
    start : int
        Number of the first batch, where a run goes on.

    Notes
    -----
    Crop number i is the same in every run. `mask` says which pixels the loss sees; of replay,
    none.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        replay: Sequence[Example],
        config: TrainConfig,
        share: float,
        batches: int,
        start: int = 0,
    ) -> None:
        self.batch = config.batch_size
        self.n_replay = min(self.batch - 1, round(share * self.batch)) if replay else 0
        self.n_own = self.batch - self.n_replay
        self.start = start
        self.batches = batches
        length = start + batches
        self.own = CropDataset(examples, config, length * self.n_own)
        other = config.model_copy(update={"seed": config.seed + 1_000_003})
        self.replay = CropDataset(replay, other, length * self.n_replay) if replay else None

    def __len__(self) -> int:
        return self.batches * self.batch

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        batch, j = divmod(i, self.batch)
        batch += self.start
        if j < self.n_own or self.replay is None:
            crop = self.own[batch * self.n_own + j]
            crop["replay"] = torch.tensor(False)
        else:
            crop = self.replay[batch * self.n_replay + j - self.n_own]
            crop["replay"] = torch.tensor(True)
            crop["mask"] = torch.zeros_like(crop["mask"])
            crop["certain"] = crop["mask"]
        return crop


def answers_kept(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    weights: Sequence[float],
    where: Tensor,
    confidence: float,
) -> Tensor:
    """Mean divergence of the student from what the teacher is sure of.

    Kullback and Leibler's of the classes; of a distance, how far it is off.

    Parameters
    ----------
    student, teacher : logits (B, C, H, W) of the heads, main first
    where : (B, H, W) float
        Weight of each pixel.
    confidence : float
        Pixels count where the teacher's main head gives a class this probability or more.
    """
    n = len(CLASSES)
    sure = teacher[0][:, :n].float().softmax(1).amax(1) >= confidence
    counts = where * sure
    norm = counts.sum().clamp(min=1.0)
    total = torch.zeros((), device=where.device)
    for s, t, w in zip(student, teacher, weights, strict=True):
        if w > 0:
            s, t = s.float(), t.float()
            log_t = t[:, :n].log_softmax(1)
            each = (log_t.exp() * (log_t - s[:, :n].log_softmax(1))).sum(1)
            if s.shape[1] > n:
                each = each + (s[:, n:].sigmoid() - t[:, n:].sigmoid()).abs().sum(1)
            total = total + w * (each * counts).sum() / norm
    return total / sum(weights)


def agreement(
    probability: np.ndarray, truth: np.ndarray, counts: np.ndarray | None, confidence: float
) -> np.ndarray:
    """Sure pixels of the parent where a person has looked: (right, all) of background and cell.

    Parameters
    ----------
    probability : float (3, H, W)
        Background, interior, boundary.
    truth : int (H, W)
    counts : bool (H, W) or None

    Returns
    -------
    int64 (2, 2)
    """
    cell = 1 - probability[0]
    sure = np.maximum(cell, 1 - cell) >= max(confidence, 0.7)
    if counts is not None:
        sure &= counts
    rows = []
    for is_cell in (False, True):
        here = sure & ((truth > 0) == is_cell)
        rows.append([int((here & ((cell > 0.5) == is_cell)).sum()), int(here.sum())])
    return np.array(rows, np.int64)


def trust(counted: np.ndarray) -> float:
    """How much a parent's sure answers are worth on images of this kind, 0 … 1."""
    shares = [right / whole for right, whole in counted if whole]
    mean = float(np.mean(shares)) if shares else 0.0
    return float(np.clip((mean - TRUST_FROM) / (TRUST_FULL - TRUST_FROM), 0, 1))
