"""What a study found: means over seeds, and differences of variants, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from napari_sa2net.training.focal_study.plan import METRICS, PAIRS, VARIANTS
from napari_sa2net.training.focal_study.scoring import Scores, pooled

#: Draws of the bootstrap over images.
DRAWS = 2000
LEVEL = 0.95


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; values that are all equal give themselves."""
    n = len(values)
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(np.std(values, ddof=1))
    half /= math.sqrt(n)
    return mean, mean - half, mean + half


def summarise(
    scores: Mapping[str, Sequence[Scores]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Means of every variant and differences of every pair.

    Parameters
    ----------
    scores : mapping of variant to the scores of each seed
        Of the same images in the same order.

    Returns
    -------
    dict of variant to dict of metric to seeds, mean, low, high
        Low and high: t-interval over seeds.
    list of dict with of, against, metric, seeds, mean, low, high, images_low, images_high,
        verdict
        `seeds` are differences within a seed; `images_low` and `images_high` a bootstrap over
        images of the mean over seeds, all variants and seeds drawn together. The verdict is
        "higher" or "lower" only where both intervals exclude 0.
    """
    n = len(scores[VARIANTS[0]][0]["dice"])
    rng = np.random.default_rng(0)
    picks = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    values = {
        v: {m: [float(pooled(s)[m][0]) for s in scores[v]] for m in METRICS} for v in VARIANTS
    }
    drawn = {v: [pooled(s, picks) for s in scores[v]] for v in VARIANTS}
    variants: dict[str, Any] = {v: {} for v in VARIANTS}
    for v in VARIANTS:
        for m, each in values[v].items():
            mean, low, high = t_interval(each)
            variants[v][m] = {"seeds": each, "mean": mean, "low": low, "high": high}
    differences: list[dict[str, Any]] = []
    for of, against in PAIRS:
        for metric in METRICS:
            each = [
                a - b for a, b in zip(values[of][metric], values[against][metric], strict=True)
            ]
            mean, low, high = t_interval(each)
            draws = np.mean(
                [a[metric] - b[metric] for a, b in zip(drawn[of], drawn[against], strict=True)],
                axis=0,
            )
            outside = (1 - LEVEL) / 2
            images = np.quantile(draws, [outside, 1 - outside])
            differences.append(
                {
                    "of": of,
                    "against": against,
                    "metric": metric,
                    "seeds": each,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "images_low": float(images[0]),
                    "images_high": float(images[1]),
                    "verdict": _verdict(low, high, *images),
                }
            )
    return variants, differences


def _verdict(low: float, high: float, images_low: float, images_high: float) -> str:
    if min(low, images_low) > 0:
        return "higher"
    if max(high, images_high) < 0:
        return "lower"
    return "not told apart"
