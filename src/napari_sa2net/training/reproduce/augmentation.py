"""How images are varied while a network trains: as published, and more widely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from kornia.augmentation import (
    AugmentationSequential,
    ColorJiggle,
    RandomAffine,
    RandomGaussianBlur,
    RandomHorizontalFlip,
    RandomVerticalFlip,
)
from kornia.constants import DataKey
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor


def augment(
    image: NDArray[Any], mask: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Turn by right angles and flip (half of the time), or turn by up to 20° (a quarter).

    Parameters
    ----------
    image : (h, w, C), mask : (h, w), square
    rng : numpy Generator
    """
    if rng.random() < 0.5:
        turns, axis = int(rng.integers(4)), int(rng.integers(2))
        return (
            np.flip(np.rot90(image, turns), axis),
            np.flip(np.rot90(mask, turns), axis),
        )
    if rng.random() < 0.5:
        angle = int(rng.integers(-20, 20))
        return (
            ndimage.rotate(image, angle, order=0, reshape=False),
            ndimage.rotate(mask, angle, order=0, reshape=False),
        )
    return image, mask


class WideAugmentation:
    """Whole batches, on their device: any angle, mirror, size, shear, colour, focus, crop.

    For stained tissue in three channels. Beyond its edges an image is reflected.

    Parameters
    ----------
    seed : sequence of int
        With the step it decides all, so that a run that goes on sees the same images.
    crop : int
        Side of what is cut out of larger images (px).
    """

    def __init__(self, seed: Sequence[int], crop: int) -> None:
        self.seed, self.crop = list(seed), crop
        self._vary = AugmentationSequential(
            RandomHorizontalFlip(p=0.5),
            RandomVerticalFlip(p=0.5),
            RandomAffine(
                degrees=180.0,
                translate=(0.1, 0.1),
                scale=(0.75, 1.4),
                shear=(-10.0, 10.0),
                padding_mode="reflection",
                p=0.8,
            ),
            ColorJiggle(
                brightness=(0.75, 1.25), contrast=(0.75, 1.25), saturation=(0.6, 1.4),
                hue=(-0.06, 0.06), p=0.8,
            ),
            RandomGaussianBlur((5, 5), (0.2, 1.2), p=0.2),
            data_keys=["input", "mask"],
            extra_args={DataKey.MASK: {"resample": "nearest"}},
        )  # fmt: skip

    def __call__(self, image: Tensor, mask: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Varied images (B, 3, crop, crop) and masks (B, crop, crop).

        Parameters
        ----------
        image : (B, 3, h, h) float32 in 0…1
        mask : (B, h, h) int
        step : int
        """
        seed = int(np.random.SeedSequence([*self.seed, step]).generate_state(1)[0])
        # What is drawn is drawn on the CPU, whatever the device.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image, varied = self._vary(image, mask[:, None].float())
            corners = torch.randint(image.shape[-1] - self.crop + 1, (len(image), 2)).tolist()
        image, varied = (
            torch.stack([one[:, y : y + self.crop, x : x + self.crop] for one, (y, x) in pairs])
            for pairs in (
                list(zip(several, corners, strict=True)) for several in (image, varied)
            )
        )
        return image.clamp(0, 1), varied[:, 0].round().to(mask.dtype)
