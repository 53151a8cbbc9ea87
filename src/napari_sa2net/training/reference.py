"""The reference set: synthetic cells, always the same, that tell what a child forgot."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.models.card import ModelCard
from napari_sa2net.training.dataset import Example

#: (kind, number of nuclei, size as a share of the network's object size) of each image.
IMAGES: tuple[tuple[Literal["fluo", "stained"], int, float], ...] = (
    ("fluo", 30, 1.0),
    ("fluo", 60, 1.0),
    ("fluo", 45, 0.8),
    ("fluo", 35, 1.25),
    ("stained", 40, 1.0),
    ("stained", 55, 0.9),
)
#: Side in typical diameters, and the seed of the first image.
SIDE, FIRST_SEED = 10, 900


def reference_examples(card: ModelCard, diameter: float) -> list[Example]:
    """Synthetic cells with known outlines, at the network's object size."""
    side = round(SIDE * diameter)
    examples = []
    for i, (kind, n, size) in enumerate(IMAGES):
        image, labels = synthetic_nuclei((side, side), n, size * diameter, FIRST_SEED + i, kind)
        plan = plan_image(image, model_input=card.input, in_channels=card.network.in_channels)
        item = TrainingItem(f"reference-{i}", Path(), Path(), kind=kind)
        pixels = plan.read((), 0, side, 0, side)
        nowhere = np.zeros((0, 2))
        examples.append(Example(item, pixels, labels, None, diameter, nowhere))
    return examples
