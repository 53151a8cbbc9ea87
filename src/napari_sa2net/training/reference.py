"""The reference set as a network sees it: what tells that a child has forgotten."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from napari_sa2net.config import InputConfig
from napari_sa2net.data import plan_image
from napari_sa2net.data.reference import reference_images
from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.models.card import ModelCard
from napari_sa2net.training.dataset import Example

#: Side of the part of an image that is scored (network px): a fixed cost in every round.
REFERENCE_SIDE = 320


def reference_examples(card: ModelCard) -> list[Example]:
    """Synthetic cells with known outlines, always the same."""
    return list(_drawn(card.input, card.network.in_channels))


@lru_cache(maxsize=2)
def _drawn(expects: InputConfig, in_channels: int) -> tuple[Example, ...]:
    examples = []
    for one in reference_images():
        plan = plan_image(one.image, model_input=expects, in_channels=in_channels)
        height, width = plan.spatial
        item = TrainingItem(one.name, Path(), Path(), kind=one.kind)
        pixels = plan.read((), 0, height, 0, width)
        nowhere = np.zeros((0, 2))
        examples.append(Example(item, pixels, one.labels, None, one.diameter, nowhere))
    return tuple(examples)
