"""Scores as the papers report them, and what came out beside what was published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_sa2net.experiments.reproduce.recipes import FOLDS, SIZE, Recipe, recipe_of
from napari_sa2net.files import write_atomically

# --------------------------------------------------------------------------------------------
# Dice and IoU per image or over all pixels.


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


# --------------------------------------------------------------------------------------------
# Tables and files.

Row = tuple[str, str, str, str]


def summarise(
    recipe: Recipe, folds: Sequence[dict[str, Any]], vote: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """Rows of means and standard deviations (percent).

    Parameters
    ----------
    folds : sequence of dict
        Of `fold.run_fold`.
    vote : DataFrame, optional
        Scores of the mean probability of all folds, on the test images.

    Returns
    -------
    list of dict: of, spread ("images", "folds" or "pixels"), n, dice, dice_sd, iou, iou_sd
        Standard deviations are of the sample (n - 1); None for a single value. A row over all
        pixels of n images has foreground_iou, too.
    """
    rows = []
    several = len(folds) > 1
    unit = recipe.scored
    for kind in ("validation", "test"):
        tables = [pd.DataFrame(f[kind]) for f in folds if f[kind]]
        if not tables:
            continue
        for fold, table in zip(folds, tables, strict=True):
            name = f"{kind} {unit}" + (f", fold {fold['fold']}" if several else "")
            rows.append(_row(name, table, unit))
            if recipe.pooled:
                rows.append(_pooled_row(name, fold["pooled"][kind], len(table)))
        if several:
            means = pd.DataFrame([t[["dice", "iou"]].mean() for t in tables])
            rows.append(_row(f"{kind} {unit}, mean over folds", means, "folds"))
        if several and kind == "validation":
            rows.append(_row(f"{kind} {unit}, all folds together", pd.concat(tables), unit))
    if vote is not None:
        rows.append(_row(f"test {unit}, vote of {len(folds)} folds", vote, unit))
    return rows


def _row(name: str, table: pd.DataFrame, spread: str) -> dict[str, Any]:
    row: dict[str, Any] = {"of": name, "spread": spread, "n": len(table)}
    for column in ("dice", "iou"):
        values = 100 * table[column].to_numpy(float)
        row[column] = float(values.mean())
        row[f"{column}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
    return row


def _pooled_row(name: str, scores: dict[str, float], n: int) -> dict[str, Any]:
    values = {key: 100 * value for key, value in scores.items()}
    row = {"of": f"{name}, pooled as published", "spread": "pixels", "n": n}
    return row | values | {"dice_sd": None, "iou_sd": None}


def table_rows(recipe: Recipe, summary: Sequence[dict[str, Any]]) -> list[Row]:
    """What is printed: (of, Dice, IoU, spread or source), ours and then the published."""
    ours = [
        (
            row["of"],
            _percent(row["dice"], row["dice_sd"], 2),
            _percent(row["iou"], row["iou_sd"], 2),
            _over(row),
        )
        for row in summary
    ]
    published = [
        (
            f"{f.network}: {f.of}",
            _percent(f.dice, f.dice_sd, 1),
            _percent(f.iou, f.iou_sd, 1),
            f.source,
        )
        for f in recipe.figures
    ]
    return [*ours, *published]


def _over(row: dict[str, Any]) -> str:
    if row["spread"] == "pixels":
        return (
            f"all pixels; IoU of background and foreground (of the latter "
            f"{row['foreground_iou']:.2f})"
        )
    return f"{row['n']} {row['spread']}"


def _percent(mean: float, sd: float | None, digits: int) -> str:
    """A mean with its spread, where more than one value makes one."""
    return f"{mean:.2f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def notes(
    recipe: Recipe,
    settings: dict[str, Any],
    n_folds: int,
    has_test: bool,
    of_data: Sequence[str] = (),
) -> list[str]:
    """What a reader has to know to compare the figures.

    Parameters
    ----------
    settings : dict
        Of `fold.FoldSettings`.
    of_data : sequence of str
        What the layout says is missing.
    """
    found = list(of_data)
    if recipe.unverified:
        found.append(recipe.unverified)
    if settings["base_channels"] != 64:
        found.append(
            f"The published network has 64 base channels, this one {settings['base_channels']}."
        )
    if settings["epochs"] != recipe.epochs or settings["batch_size"] != recipe.batch_size:
        found.append(
            f"The recipe has at most {recipe.epochs} epochs of batches of "
            f"{recipe.batch_size}, this run {settings['epochs']} of {settings['batch_size']}."
        )
    if recipe.cross_validated and n_folds < FOLDS:
        found.append(f"Of the {FOLDS} folds only {n_folds} ran.")
    if recipe.name == "ours":
        found.append(
            "Trained and asked by our recipe: the figures say nothing about the published one."
        )
    if recipe.nucleus_channel is not None:
        found.append(
            "Pixels of the nucleus are background in prediction and truth, as published: what "
            "is scored is the cytoplasm."
        )
    if recipe.zoom != 1:
        found.append(f"Images had {SIZE * recipe.zoom} px; masks and scores are at {SIZE} px.")
    usual = recipe_of(recipe.dataset, recipe.name).keeps
    if recipe.keeps != usual:
        found.append(
            f"This run kept the {recipe.keeps} epoch, where the recipe keeps the {usual} one."
        )
    if recipe.keeps == "best" and recipe.best_by == "loss":
        found.append(
            "Kept was the epoch with the lowest loss on the validation images, so their scores "
            "are on the high side. The published code means to keep it, and in fact tests the "
            "last one."
        )
    elif recipe.keeps == "best":
        how = "by our reading" if recipe.outlined else "as published"
        found.append(
            f"The validation images also chose the epoch, {how}, so their scores are on the "
            "high side."
        )
    elif recipe.best_by == "loss":
        found.append(
            "The last epoch was kept, as published: the published code means to keep the one "
            "with the lowest validation loss (--keep best), but keeps it by reference, not as "
            "a copy, so that training goes on changing it. The validation images only lowered "
            "the learning rate."
        )
    else:
        found.append("The last epoch was kept: the validation images chose nothing.")
    if not has_test:
        found.append("There are no test images in the folder, so none were scored.")
    if recipe.name == "ours":
        found.append(
            "Ours are all settings of the training; our reading, too: "
            + "; ".join(recipe.filled_in)
            + "."
        )
    else:
        found.append(
            "Our reading, where nothing is published: " + "; ".join(recipe.filled_in) + "."
        )
    return found


def write_report(
    out: Path,
    recipe: Recipe,
    settings: dict[str, Any],
    folds: Sequence[dict[str, Any]],
    vote: pd.DataFrame | None,
    command: str,
    of_data: Sequence[str] = (),
) -> dict[str, Any]:
    """Write report.json, report.md and images.csv; returns what is in the first."""
    summary = summarise(recipe, folds, vote)
    has_test = bool(folds[0]["test"])
    remarks = notes(recipe, settings, len(folds), has_test, of_data)
    report = {
        "dataset": recipe.dataset,
        "recipe": recipe.name,
        "command": command,
        "settings": settings,
        "summary": summary,
        "published": [asdict(figure) for figure in recipe.figures],
        "notes": remarks,
        "folds": [
            {k: v for k, v in fold.items() if k not in ("validation", "test")} for fold in folds
        ],
    }
    write_atomically(out / "report.json", json.dumps(report, indent=1).encode())
    write_atomically(out / "images.csv", _images(folds, vote).to_csv(index=False).encode())
    write_atomically(out / "report.md", _markdown(recipe, report).encode())
    return report


def _images(folds: Sequence[dict[str, Any]], vote: pd.DataFrame | None) -> pd.DataFrame:
    parts = [
        pd.DataFrame(fold[kind]).assign(split=kind, fold=str(fold["fold"]))
        for kind in ("validation", "test")
        for fold in folds
        if fold[kind]
    ]
    if vote is not None:
        parts.append(vote.assign(split="test", fold="vote"))
    return pd.concat(parts)[["split", "fold", "name", "dice", "iou"]]


def _markdown(recipe: Recipe, report: dict[str, Any]) -> str:
    lines = [
        f"# {recipe.title}, by {recipe.whose}",
        "",
        f"`{report['command']}`" if report["command"] else "",
        "",
        f"Dice and IoU in percent, per {recipe.scored[:-1]} at {SIZE}×{SIZE} px, mean ± "
        "standard deviation.",
        "",
        "| | Dice | IoU | over, or source |",
        "|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(recipe, report["summary"])]
    lines += ["", *(f"- {note}" for note in report["notes"])]
    kept = [f"{fold['kept_epoch']} of {fold['epochs']}" for fold in report["folds"]]
    n_parameters = np.mean([fold["parameters"] for fold in report["folds"]]) / 1e6
    lines += ["", f"Kept epoch: {', '.join(kept)}. {n_parameters:.2f} million parameters.", ""]
    return "\n".join(lines)
