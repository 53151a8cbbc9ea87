"""Dice and IoU per image or over all pixels, as the papers report them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_sa2net.experiments.reproduce.recipes import Recipe


def probabilities(logits: Tensor) -> Tensor:
    """Sigmoid of one class, softmax of several; (B, C, h, w) float32."""
    logits = logits.float()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def decided(probability: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Class of each pixel, (N, h, w), of probabilities (N, C, h, w)."""
    if probability.shape[1] == 1:
        return (probability[:, 0] > 0.5).astype(np.uint8)
    return probability.argmax(1).astype(np.uint8)


def at_side(probability: Tensor, side: int) -> Tensor:
    """Means over the pixels of a coarser grid: (B, C, side, side)."""
    if probability.shape[-1] == side:
        return probability
    return F.interpolate(probability, size=(side, side), mode="area")


def predict(
    net: nn.Module,
    images: Tensor,
    device: torch.device,
    batch_size: int,
    side: int,
    symmetries: bool = False,
) -> NDArray[np.float32]:
    """Probabilities (N, C, side, side) of images (N, C, h, h) by the main head.

    Parameters
    ----------
    side : int
        Of the masks.
    symmetries : bool
        Mean over the eight turned and mirrored images.
    """
    net = net.eval().to(device)
    turns = [(k, m) for k in range(4) for m in (False, True)] if symmetries else [(0, False)]
    parts = []
    with torch.inference_mode():
        for i in range(0, len(images), batch_size):
            batch = images[i : i + batch_size].to(device)
            p = torch.stack([_turned(net, batch, *turn) for turn in turns]).mean(0)
            parts.append(at_side(p, side).cpu())
    return torch.cat(parts).numpy()


def _turned(net: nn.Module, batch: Tensor, quarter_turns: int, mirrored: bool) -> Tensor:
    """Probabilities of the turned and mirrored images, turned back."""
    x = batch.rot90(quarter_turns, (2, 3))
    x = x.flip(3) if mirrored else x
    p = probabilities(net(x))
    p = p.flip(3) if mirrored else p
    return p.rot90(-quarter_turns, (2, 3))


def scored(
    predicted: NDArray[np.integer],
    truth: NDArray[np.integer],
    images: NDArray[Any],
    channel_axis: int,
    recipe: Recipe,
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Prediction and truth (N, h, w) as they are scored.

    Where the recipe has a channel of nuclei, their pixels become background in both: as
    published, cytoplasm alone is scored.

    Parameters
    ----------
    predicted, truth : (N, h, w)
    images : (N, …)
        As they went in, or before they were scaled.
    """
    if recipe.nucleus_channel is None:
        return predicted, truth
    nuclei = images.take(recipe.nucleus_channel, channel_axis) > 0
    return np.where(nuclei, 0, predicted), np.where(nuclei, 0, truth)


def pooled(predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> dict[str, float]:
    """Scores (0…1) over all pixels of all images at once, of two classes.

    Returns
    -------
    dict: dice, iou, foreground_iou
        Dice is the foreground's; iou, as published, the mean of the background's and the
        foreground's. What neither side has scores 1.
    """
    a, b = predicted > 0, truth > 0
    ious = []
    for x, y in ((a, b), (~a, ~b)):
        either = int((x | y).sum())
        ious.append(int((x & y).sum()) / either if either else 1.0)
    foreground = ious[0]
    return {
        "dice": 2 * foreground / (1 + foreground),
        "iou": sum(ious) / 2,
        "foreground_iou": foreground,
    }


def score(
    predicted: NDArray[np.integer],
    truth: NDArray[np.integer],
    units: Sequence[str] | NDArray[np.str_],
    n_classes: int,
) -> pd.DataFrame:
    """Dice and IoU (0…1) of each image, or of each volume of slices.

    Parameters
    ----------
    predicted, truth : (N, h, w)
        Classes, 0 is background.
    units : sequence of N str
        Slices with the same name are scored as one volume.
    n_classes : int
        Of the network; with more than one foreground class the scores are means over them.

    Returns
    -------
    DataFrame with the columns name, dice, iou, in order of first appearance
        A class that neither side has scores 1.
    """
    rows = []
    units = np.asarray(units)
    for unit in dict.fromkeys(units.tolist()):
        own = units == unit
        p, t = predicted[own], truth[own]
        dices, ious = [], []
        for c in range(1, max(2, n_classes)):
            a, b = p == c, t == c
            both, either = int((a & b).sum()), int((a | b).sum())
            dices.append(2 * both / (both + either) if either else 1.0)
            ious.append(both / either if either else 1.0)
        rows.append((unit, float(np.mean(dices)), float(np.mean(ious))))
    return pd.DataFrame(rows, columns=["name", "dice", "iou"])
