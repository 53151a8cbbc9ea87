"""Crops to train on and whole images to validate with, from a list of items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from napari_sa2net.config import InputConfig, TrainConfig
from napari_sa2net.data import read_image
from napari_sa2net.data.numbered import NO_CELL, notes_on
from napari_sa2net.data.seen import object_size, plan_file, unchosen
from napari_sa2net.data.training_set import TrainingItem, read_truth
from napari_sa2net.errors import SA2NetError, TrainingDataError
from napari_sa2net.inference.resample import ScaledPlane
from napari_sa2net.training.augment import (
    WIDE,
    Crop,
    pack,
    random_warp,
    to_tensor,
    vary_intensity,
    warp_pair,
)
from napari_sa2net.training.targets import (
    class_targets,
    depths,
    distance_target,
    median_diameter,
)

#: Side of the middle part of a large image that is validated on (network px).
VALIDATION_SIDE = 768


@dataclass(frozen=True)
class Example:
    """An image in memory, ready for the network.

    Attributes
    ----------
    image : (C, H, W) float32, normalised
    labels : (H, W) int32
    counts : (H, W) bool or None
        Pixels that count.
    diameter : float
        Object diameter that sets the scale, px: see `object_size`.
    centres : (n, 2) float
        Centre (y, x) of each object.
    certain : (H, W) bool or None
        Of the pixels that count, those whose label is certain (`certain_pixels`); None: all.
    note : str
        What may be wrong with the labels.
    unchosen : str
        Which of several channels was read, where nobody has chosen.
    """

    item: TrainingItem
    image: NDArray[np.float32]
    labels: NDArray[np.int32]
    counts: NDArray[np.bool_] | None
    diameter: float
    centres: NDArray[np.floating]
    certain: NDArray[np.bool_] | None = None
    note: str = ""
    unchosen: str = ""

    @cached_property
    def depths(self) -> NDArray[np.float32]:
        """Depth (px) of each object, by label."""
        return depths(self.labels)

    @cached_property
    def is_colour(self) -> bool:
        return len(self.image) == 3 and bool((self.image[0] != self.image[-1]).any())

    @cached_property
    def is_dark(self) -> bool:
        """Grey, and bright objects on a dark background."""
        return not self.is_colour and float(np.median(self.image)) < 0.5


def load_example(
    item: TrainingItem, config: InputConfig, fallback_diameter: float, in_channels: int = 3
) -> Example:
    """Read an item's files; the image is what was seen when its cells were made.

    Parameters
    ----------
    item : TrainingItem
    config : InputConfig
        What the network expects.
    fallback_diameter : float
        Object size of the network (px), where neither item nor labels tell.
    in_channels : int
        Channels that the network takes.

    Raises
    ------
    TrainingDataError
        If a file cannot be read, is not 2-D, or sizes differ.
    """
    try:
        image_file = read_image(item.image)
        plan = plan_file(image_file, item, config, in_channels)
    except SA2NetError as error:
        raise TrainingDataError(f"{item.name}: {error}") from error
    if plan.n_planes > 1:
        raise TrainingDataError(f"{item.image} {plan.stack_words('train on them')}")
    labels, counts, note = read_truth(item, plan.spatial)
    # Renumbered, so that huge label values stay exact in float32 and histograms small.
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    labels = (np.searchsorted(numbers, labels, side="right") * (labels > 0)).astype(np.int32)
    height, width = plan.spatial
    diameter = object_size(item, median_diameter(labels), fallback_diameter)
    image = plan.read((0,) * len(plan.stack_shape), 0, height, 0, width)
    centres = ndimage.center_of_mass(labels > 0, labels, np.arange(1, len(numbers) + 1))
    return Example(
        item,
        image,
        labels,
        counts,
        diameter,
        np.asarray(centres, float).reshape(-1, 2),
        note=note,
        unchosen=unchosen(image_file, item),
    )


def label_notes(examples: Sequence[Example], folder: Path) -> tuple[str, ...]:
    """What may be wrong with a folder: its labels, or which of several channels is read.

    Raises
    ------
    TrainingDataError
        If none of them holds a cell, and no person has looked at them.
    """
    empty = [e.item.name for e in examples if not e.item.commit and not e.labels.any()]
    if examples and len(empty) == len(examples):
        raise TrainingDataError(f"No label image of {folder} {NO_CELL}")
    told = [e.unchosen for e in examples if e.unchosen][:1]
    return (*told, *notes_on([e.note for e in examples], empty))


class CropDataset(Dataset[dict[str, Tensor]]):
    """Augmented crops; number i is the same crop in every run with the same seed.

    Parameters
    ----------
    examples : sequence of Example
    config : TrainConfig
    length : int
        Number of crops.
    start : int
        Number of the first one, where a run goes on.
    """

    def __init__(
        self, examples: Sequence[Example], config: TrainConfig, length: int, start: int = 0
    ) -> None:
        self.start = start
        self.examples = list(examples)
        self.config = config
        self.length = length
        self.cumulative = np.cumsum(sampling_weights(self.examples, config))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.config.seed, self.start + i])
        pick = np.searchsorted(
            self.cumulative, rng.random() * self.cumulative[-1], side="right"
        )
        example = self.examples[min(int(pick), len(self.examples) - 1)]
        crop = self._cut(example, rng)
        wide = self.config.augmentation == "wide"
        # Fluorescence adds up; what absorbs or is grown on glass does not lie on top of itself.
        if wide and example.is_dark and rng.random() < WIDE.packed:
            crop = pack(crop, self._cut(example, rng))
        labels = crop.labels.numpy()
        return {
            "image": vary_intensity(crop.image, rng, example.is_colour, wide),
            "target": torch.from_numpy(class_targets(labels).astype(np.int64)),
            "distance": torch.from_numpy(distance_target(labels, crop.deepest)),
            "mask": crop.grade > 0.5,
            "certain": crop.grade > 1.5,
        }

    def _cut(self, example: Example, rng: np.random.Generator) -> Crop:
        """A crop of an example, as it is in the image."""
        shape = (example.labels.shape[0], example.labels.shape[1])
        scale = self.config.diameter / example.diameter
        warp = random_warp(rng, shape, self.config.crop, scale, example.centres)
        image, labels, grade = warp_pair(
            to_tensor(example.image),
            to_tensor(example.labels),
            to_tensor(_grades(example)),
            warp,
            self.config.crop,
        )
        return Crop(image, labels, grade, example.depths * np.float32(warp.scale))


def _grades(example: Example) -> NDArray[np.uint8]:
    """2 for pixels whose label is certain, 1 for others that count, 0 for the rest."""
    if example.counts is None:
        return np.full(example.labels.shape, 2, np.uint8)
    certain = example.counts if example.certain is None else example.certain
    return example.counts.astype(np.uint8) + (example.counts & certain)


def sampling_weights(examples: Sequence[Example], config: TrainConfig) -> NDArray[np.float64]:
    """Chance of each image: its kind's share, within a kind by the root of its content.

    Content is the area in the network's pixels, so large images come up more often, but do
    not drown the small ones.
    """
    root = np.array(
        [np.sqrt(e.labels.size) * config.diameter / max(e.diameter, 1.0) for e in examples],
        dtype=np.float64,
    )
    kinds = [e.item.kind for e in examples]
    weights = np.zeros(len(examples))
    named = {k: w for k, w in config.kind_weights.items() if k in kinds}
    rest = [k not in named for k in kinds]
    for kind, share in named.items():
        own = np.array([k == kind for k in kinds])
        weights[own] = share * root[own] / root[own].sum()
    if any(rest):
        others = np.array(rest)
        share = max(1.0 - sum(named.values()), 0.0) if named else 1.0
        weights[others] = share * root[others] / root[others].sum()
    if not weights.sum() > 0:
        raise TrainingDataError(
            "No image is left to train on: the kind weights give every kind the share 0."
        )
    return weights


class ValidationDataset(Dataset[dict[str, Tensor]]):
    """Whole images (the middle of large ones) at the training object size."""

    def __init__(self, examples: Sequence[Example], config: TrainConfig) -> None:
        self.examples = list(examples)
        self.config = config

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        example = self.examples[i]
        scale = self.config.diameter / example.diameter
        plane = ScaledPlane(InMemory(example.image), (), scale)
        height, width = plane.shape
        y = max(0, (height - VALIDATION_SIDE) // 2)
        x = max(0, (width - VALIDATION_SIDE) // 2)
        window = (y, min(height, y + VALIDATION_SIDE), x, min(width, x + VALIDATION_SIDE))
        rows = nearest(example.labels.shape[0], scale, window[0], window[1])
        columns = nearest(example.labels.shape[1], scale, window[2], window[3])
        labels = example.labels[np.ix_(rows, columns)]
        mask = (
            np.ones(labels.shape, bool)
            if example.counts is None
            else example.counts[np.ix_(rows, columns)]
        )
        return {
            "image": torch.from_numpy(np.ascontiguousarray(plane.read(*window))),
            "labels": torch.from_numpy(labels),
            "target": torch.from_numpy(class_targets(labels).astype(np.int64)),
            "distance": torch.from_numpy(distance_target(labels, example.depths * scale)),
            "mask": torch.from_numpy(mask),
        }


class InMemory:
    """An array as a plane that can be read in windows."""

    def __init__(self, image: NDArray[np.float32]) -> None:
        self.image = image
        self.spatial = (image.shape[1], image.shape[2])

    def read(
        self, _index: tuple[int, ...], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[np.float32]:
        return self.image[:, y0:y1, x0:x1]


def nearest(n: int, scale: float, start: int, stop: int) -> NDArray[np.intp]:
    """Pixels of an axis of length `n` under the pixels start…stop of its scaled grid."""
    index = np.floor((np.arange(start, stop) + 0.5) / scale).astype(np.intp)
    return np.clip(index, 0, n - 1)
