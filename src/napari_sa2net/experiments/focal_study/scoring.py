"""Scores of a trained network on test images, and its time beside that of the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sa2net.config import CLASSES, InstanceConfig, PredictConfig
from napari_sa2net.experiments.focal_study.plan import Variant
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.tiling import ScaledPlane, network_scale
from napari_sa2net.metrics import THRESHOLDS, ImageScore, score_image
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import Model
from napari_sa2net.nn import Network, network_config, pad_to_stride
from napari_sa2net.training.dataset import Example, InMemory, evenly

#: Images, rounds and seconds of the timing; the last ends it early on a slow machine.
TIMED_IMAGES, ROUNDS, MOST_SECONDS = 6, 12, 60.0
#: Draws of the bootstrap of time ratios.
DRAWS = 2000

Scores = dict[str, Any]


def card_of(net: Network, name: str, diameter: float, **training: Any) -> ModelCard:
    """The card of a study's network, for its file."""
    return ModelCard(
        name=name,
        description="Trained by a study of attention modules",
        network=network_config(net),
        classes=CLASSES,
        diameter=diameter,
        training=training,
    )


def score_images(
    net: Network,
    examples: Sequence[Example],
    diameter: float,
    device: torch.device,
    precision: str,
    cancelled: Callable[[], None],
) -> Scores:
    """Score a network on whole images, at image size, as `sa2net segment` would see them.

    Each image is scaled by the median diameter of its true objects, the same for every
    variant, so that estimating it has no part in the comparison.

    Parameters
    ----------
    diameter : float
        That the network was trained at.
    precision : "auto" or "float32"
    cancelled : callable
        Asked before each image; raises what shall end it.

    Returns
    -------
    dict with lists per image: matches (thresholds × 3: found, false, missed), dice, iou
    """
    model = Model(net, card_of(net, "study", diameter))
    config = PredictConfig.model_validate({"device": str(device), "precision": precision})
    predictor = Predictor(model, config)
    scores: list[ImageScore] = []
    for example in examples:
        cancelled()
        plane = InMemory(example.image)
        scale = network_scale(example.diameter, diameter, plane.spatial)
        probability = predictor.predict_plane(plane, scale=scale)
        # a fixed least size, so that a study that goes on scores as it began
        labels = label_objects(probability, CLASSES, InstanceConfig(min_size=20))
        truth = example.labels
        if example.counts is not None:
            labels, truth = labels * example.counts, truth * example.counts
        scores.append(score_image(labels, truth))
    return {
        "matches": [[[m.tp, m.fp, m.fn] for m in one.matches] for one in scores],
        "dice": [one.dice for one in scores],
        "iou": [one.iou for one in scores],
    }


def pooled(
    scores: Scores, weights: NDArray[np.integer] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Metrics of some images, by draw.

    Parameters
    ----------
    scores : dict
        Of `score_images`, of I images.
    weights : int (D, I), optional
        How often each image counts in each draw; unsaid: one draw, each once.

    Returns
    -------
    dict of metric to float (D,)
        As `metrics.pool` computes them: counts of objects are summed over images before
        dividing, Dice and IoU averaged over images.
    """
    dice, iou = np.array(scores["dice"]), np.array(scores["iou"])
    matches = np.array(scores["matches"], np.int64)
    if weights is None:
        weights = np.ones((1, len(dice)), np.int64)
    counts = np.einsum("di,itk->dtk", weights, matches)
    whole = counts.sum(-1)
    ap = np.where(whole > 0, counts[..., 0] / np.maximum(whole, 1), 1.0)
    n = weights.sum(1)
    return {
        "dice": weights @ dice / n,
        "iou": weights @ iou / n,
        "ap50": ap[:, THRESHOLDS.index(0.5)],
        "mean_ap": ap.mean(1),
    }


def time_variants(
    nets: Mapping[Variant, Network],
    examples: Sequence[Example],
    diameter: float,
    device: torch.device,
    dtype: torch.dtype,
    cancelled: Callable[[], None],
) -> dict[str, Any]:
    """Time of the networks per image, interleaved, so that a busy machine slows all alike.

    The networks run as they are, without the rewriting for a CPU that `sa2net segment` does
    where there is no squeeze and excitation: what differs are the modules alone.

    Returns
    -------
    dict with images, rounds, and per variant seconds (median over images and rounds), ratio
    (median of the ratios to "none", image by image and round by round), low and high (95 %
    bootstrap interval of that median)
    """
    batches = [
        torch.from_numpy(_scaled(example, diameter))[None].to(device)
        # from the smallest to the largest
        for example in evenly(
            examples, TIMED_IMAGES, lambda e: (e.labels.size / e.diameter**2, e.item.name)
        )
    ]
    batches = [pad_to_stride(b).contiguous(memory_format=torch.channels_last) for b in batches]
    there = {}
    for name, net in nets.items():
        there[name] = net.eval().to(device)
        there[name].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    names = list(there)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    begin, rounds = time.monotonic(), 0
    low = dtype != torch.float32
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=low):
        for batch in batches:  # the first run of a size is slower
            for name in names:
                cancelled()
                there[name](batch)
        while rounds < ROUNDS and (rounds < 2 or time.monotonic() - begin < MOST_SECONDS):
            for i, batch in enumerate(batches):
                turn = (rounds + i) % len(names)
                for name in names[turn:] + names[:turn]:
                    cancelled()
                    seconds[name].append(_seconds(there[name], batch, device))
            rounds += 1
    base = np.array(seconds["none"])
    rng = np.random.default_rng(0)
    picks = rng.integers(len(base), size=(DRAWS, len(base)))
    result: dict[str, Any] = {"images": len(batches), "rounds": rounds, "variants": {}}
    for name in names:
        ratio = np.array(seconds[name]) / base
        draws = np.median(ratio[picks], axis=1)
        result["variants"][name] = {
            "seconds": float(np.median(seconds[name])),
            "ratio": float(np.median(ratio)),
            "low": float(np.quantile(draws, 0.025)),
            "high": float(np.quantile(draws, 0.975)),
        }
    return result


def _seconds(net: Network, batch: torch.Tensor, device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()

    wait()
    start = time.perf_counter()
    net(batch)
    wait()
    return time.perf_counter() - start


def _scaled(example: Example, diameter: float) -> NDArray[np.float32]:
    spatial = (example.image.shape[1], example.image.shape[2])
    scale = network_scale(example.diameter, diameter, spatial)
    plane = ScaledPlane(InMemory(example.image), (), scale)
    height, width = plane.shape
    return np.ascontiguousarray(plane.read(0, height, 0, width))
