"""Augmentation: one affine warp for image and labels, then intensities of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import warp_affine
from numpy.typing import NDArray
from torch import Tensor

#: Scale jitter: most crops within half an octave, some over one, for images whose object
#: size is not known yet.
NEAR_OCTAVES, FAR_OCTAVES, FAR_SHARE = 0.5, 1.2, 0.2
#: Share of crops that look at an object rather than anywhere.
OBJECT_SHARE = 0.7
#: Colour of haematoxylin, eosin and DAB as unit optical densities in red, green and blue
#: (Ruifrok and Johnston 2001, Anal. Quant. Cytol. Histol. 23:291).
STAINS = torch.nn.functional.normalize(
    torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]]), dim=1
)
#: Share of stained crops whose stains are separated and mixed anew, and of those the share
#: whose counterstain turns towards DAB's brown.
RESTAIN_SHARE, BROWN_SHARE = 0.6, 0.35


@dataclass(frozen=True)
class Warp:
    """An affine map from image to crop: scale, rotation, flip, and the centre it looks at."""

    scale: float
    angle: float
    flip: bool
    centre: tuple[float, float]

    def matrix(self, crop: int) -> Tensor:
        """(1, 2, 3) matrix from image (x, y) to crop (x, y)."""
        cos, sin = math.cos(self.angle) * self.scale, math.sin(self.angle) * self.scale
        mirror = -1.0 if self.flip else 1.0
        linear = torch.tensor([[mirror * cos, -sin], [mirror * sin, cos]])
        y, x = self.centre
        middle = torch.tensor([(crop - 1) / 2, (crop - 1) / 2])
        offset = middle - linear @ torch.tensor([x, y])
        return torch.cat([linear, offset[:, None]], dim=1)[None]


def random_warp(
    rng: np.random.Generator,
    shape: tuple[int, int],
    crop: int,
    scale: float,
    places: NDArray[np.floating] | None = None,
) -> Warp:
    """A warp that shows a random part of an image of `shape` at about `scale`.

    Most crops look at one of `places`, (n, 2) centres of objects, so that few are empty.
    """
    octaves = FAR_OCTAVES if rng.random() < FAR_SHARE else NEAR_OCTAVES
    scale *= 2.0 ** rng.uniform(-octaves, octaves)
    half = crop / scale / 2
    centre = [
        rng.uniform(half, n - half)
        if n > 2 * half
        else (n - 1) / 2 + rng.uniform(-0.1, 0.1) * n
        for n in shape
    ]
    if places is not None and len(places) and rng.random() < OBJECT_SHARE:
        place = places[int(rng.integers(len(places)))] + rng.uniform(-0.7, 0.7, 2) * half
        centre = [
            float(np.clip(p, half, n - half)) if n > 2 * half else c
            for p, n, c in zip(place, shape, centre, strict=True)
        ]
    # Right angles keep the pixels as they are; free angles show what they do not.
    right = rng.random() < 0.5
    angle = math.pi / 2 * int(rng.integers(4)) if right else rng.uniform(0, 2 * math.pi)
    return Warp(scale, angle, bool(rng.random() < 0.5), (centre[0], centre[1]))


def warp_pair(
    image: Tensor, labels: Tensor, grades: Tensor, warp: Warp, crop: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Warp an image (C, H, W), its labels (H, W) and how far they count (H, W) into a crop.

    Returns
    -------
    image (C, crop, crop) float32, labels (crop, crop) int32, grades (crop, crop) float32
        The image is reflected beyond its edges; pixels there have the grade 0.
    """
    matrix = warp.matrix(crop)
    if warp.scale < 0.8:  # against aliasing when shrinking
        sigma = 0.4 / warp.scale
        size = 2 * math.ceil(2 * sigma) + 1
        image = gaussian_blur2d(image[None], (size, size), (sigma, sigma))[0]
    size2 = (crop, crop)
    out = warp_affine(image[None], matrix, size2, padding_mode="reflection")[0]
    # float32 holds labels exactly up to 2^24.
    planes = torch.stack([labels.float(), grades.float()])[None]
    both = warp_affine(planes, matrix, size2, mode="nearest", padding_mode="zeros")[0]
    return out, both[0].to(torch.int32), both[1]


def vary_intensity(image: Tensor, rng: np.random.Generator, colour: bool) -> Tensor:
    """Vary brightness, contrast, gamma, colour, focus and noise of a normalised image.

    Parameters
    ----------
    image : (C, H, W) float32, about 0 … 1
    rng : numpy Generator
    colour : bool
        The channels differ (stained tissue), so their balance and saturation vary too.
    """
    if (most := float(image.abs().max())) > 2:
        # Values went in as they are: varied on the usual scale, and brought back.
        return most * vary_intensity(image / most, rng, colour)
    if colour:
        # Stains differ in strength and hue: each channel's optical density varies alone.
        powers = torch.tensor(2.0 ** rng.uniform(-0.5, 0.5, (3, 1, 1)), dtype=image.dtype)
        image = _power(image, powers)
        mix = torch.eye(3) + torch.tensor(rng.normal(0, 0.04, (3, 3)), dtype=torch.float32)
        image = torch.einsum("ij,jhw->ihw", mix, image)
        if rng.random() < RESTAIN_SHARE:
            image = restain(image, rng)
        saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.5, 1.4)
        grey = image.mean(0, keepdim=True)
        image = grey + saturation * (image - grey)
    elif rng.random() < 0.05:
        image = 1.0 - image
    image = _power(image, torch.tensor(2.0 ** rng.uniform(-0.7, 0.7), dtype=image.dtype))
    image = image * rng.uniform(0.75, 1.25) + rng.uniform(-0.1, 0.1)
    if rng.random() < 0.2:
        sigma = rng.uniform(0.4, 1.4)
        image = gaussian_blur2d(image[None], (7, 7), (sigma, sigma))[0]
    if rng.random() < 0.4:
        noise = rng.standard_normal(image.shape[-2:] if not colour else image.shape)
        image = image + torch.from_numpy(noise.astype(np.float32)) * rng.uniform(0.0, 0.08)
    return image.clamp(-0.5, 1.5)


def restain(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Separate the stains of tissue, vary how strong and what colour each is, mix them anew.

    Parameters
    ----------
    image : (3, H, W) float32
        Red, green, blue; unstained background is about 1.
    rng : numpy Generator

    Returns
    -------
    (3, H, W) float32
    """
    density = -image.clamp(0.02, 1.2).log()
    amounts = torch.einsum("chw,cs->shw", density, torch.linalg.inv(STAINS))
    strength = torch.tensor(2.0 ** rng.uniform(-0.8, 0.8, (3, 1, 1)), dtype=image.dtype)
    colours = STAINS + torch.tensor(rng.normal(0, 0.07, (3, 3)), dtype=image.dtype)
    if rng.random() < BROWN_SHARE:
        brown = rng.uniform(0.4, 1.0)
        colours[1] = (1 - brown) * colours[1] + brown * colours[2]
    colours = torch.nn.functional.normalize(colours, dim=1)
    return torch.einsum("shw,sc->chw", amounts * strength, colours).neg().exp().clamp(max=1.5)


def _power(image: Tensor, exponent: Tensor) -> Tensor:
    return image.sign() * image.abs().clamp(min=1e-6).pow(exponent)


def to_tensor(array: NDArray[np.generic]) -> Tensor:
    """A tensor that owns its memory."""
    return torch.from_numpy(np.ascontiguousarray(array).copy())
