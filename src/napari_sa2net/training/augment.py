"""Augmentation: one affine warp for image and labels, then intensities of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import imagecodecs
import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import warp_affine
from numpy.typing import NDArray
from torch import Tensor

from napari_sa2net.training.targets import depths

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


@dataclass(frozen=True)
class Crop:
    """A warped piece of an image: (C, H, W), labels and grades (H, W), and depths by label."""

    image: Tensor
    labels: Tensor
    grade: Tensor
    deepest: NDArray[np.float32]


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


def vary_intensity(
    image: Tensor, rng: np.random.Generator, colour: bool, wide: bool = False
) -> Tensor:
    """Vary brightness, contrast, gamma, colour, focus and noise of a normalised image.

    Parameters
    ----------
    image : (C, H, W) float32, about 0 … 1
    rng : numpy Generator
    colour : bool
        The channels differ (stained tissue), so their balance and saturation vary too.
    wide : bool
        Also what other stains, microscopes, cameras and files do (`widen`, `degrade`).
    """
    if (most := float(image.abs().max())) > 2:
        # Values went in as they are: varied on the usual scale, and brought back.
        return most * vary_intensity(image / most, rng, colour, wide)
    if wide and len(image) == 3:
        image, colour = widen(image, rng, colour)
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
    n = len(image)
    if not colour and n == 3:
        image = image[:1]  # all three are the same
    image = _power(image, torch.tensor(2.0 ** rng.uniform(-0.7, 0.7), dtype=image.dtype))
    image = image * rng.uniform(0.75, 1.25) + rng.uniform(-0.1, 0.1)
    if rng.random() < 0.2:
        sigma = rng.uniform(0.4, 1.4)
        image = gaussian_blur2d(image[None], (7, 7), (sigma, sigma))[0]
    if rng.random() < 0.4:
        noise = rng.standard_normal(image.shape)
        image = image + torch.from_numpy(noise.astype(np.float32)) * rng.uniform(0.0, 0.08)
    if wide:
        image = degrade(image, rng)
    return image.clamp(-0.5, 1.5).expand(n, -1, -1)


@dataclass(frozen=True)
class Wide:
    """Chances of what only wide augmentation does to a crop."""

    turned: float = 0.15  # fluorescence made to look stained, and the reverse
    inverted: float = 0.08
    channels: float = 0.1
    blurred: float = 0.15
    coarse: float = 0.15
    shaded: float = 0.25
    noisy: float = 0.3
    counted: float = 0.15
    jpeg: float = 0.15
    packed: float = 0.25


WIDE = Wide()


def widen(image: Tensor, rng: np.random.Generator, colour: bool) -> tuple[Tensor, bool]:
    """Show the cells as another stain or microscope would.

    Parameters
    ----------
    image : (3, H, W) float32, about 0 … 1
    rng : numpy Generator
    colour : bool
        The channels differ.

    Returns
    -------
    image (3, H, W), and whether its channels differ now
    """
    if rng.random() < WIDE.turned:
        image = as_fluorescence(image) if colour else as_stained(image, rng)
        colour = not colour
    if rng.random() < WIDE.inverted:
        image = 1.0 - image
    if colour and rng.random() < WIDE.channels:
        image = image[torch.from_numpy(rng.permutation(3))]
    return image, colour


def degrade(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Take away what a worse microscope, camera or file would: (C, H, W) in and out."""
    if rng.random() < WIDE.blurred:
        sigma = float(rng.uniform(1.0, 3.0))
        size = 2 * math.ceil(2.5 * sigma) + 1
        image = gaussian_blur2d(image[None], (size, size), (sigma, sigma))[0]
    if rng.random() < WIDE.coarse:
        height, width = image.shape[-2:]
        factor = rng.uniform(1.5, 3.0)
        small = (max(1, round(height / factor)), max(1, round(width / factor)))
        image = F.interpolate(image[None], small, mode="area")
        image = F.interpolate(image, (height, width), mode="bilinear")[0]
    if rng.random() < WIDE.shaded:
        image = image * _field(rng, image.shape[-2:], 2).mul(rng.uniform(0.2, 0.7)).exp()
    if rng.random() < WIDE.noisy:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        image = image + torch.from_numpy(noise) * float(rng.uniform(0.02, 0.15))
    if rng.random() < WIDE.counted:
        photons = float(np.exp(rng.uniform(np.log(8), np.log(200))))
        counted = rng.poisson(image.clamp(min=0).numpy() * photons).astype(np.float32)
        image = torch.from_numpy(counted) / photons
    if rng.random() < WIDE.jpeg and len(image) in (1, 3):
        image = as_jpeg(image, int(rng.integers(15, 80)))
    return image


def as_jpeg(image: Tensor, quality: int) -> Tensor:
    """What is left of an image (C, H, W), 0 … 1, that was saved as JPEG."""
    pixels = (image.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    flat = pixels[..., 0].copy() if pixels.shape[-1] == 1 else pixels
    back = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(flat, level=quality))
    back = back.reshape(pixels.shape).astype(np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(back.transpose(2, 0, 1)))


def as_fluorescence(image: Tensor) -> Tensor:
    """Stained nuclei as bright ones on dark: the amount of haematoxylin, (3, H, W)."""
    density = -image.clamp(0.02, 1.2).log()
    amount = torch.einsum("chw,c->hw", density, torch.linalg.inv(STAINS)[:, 0]).clamp(min=0)
    top = torch.quantile(amount[::4, ::4], 0.99).clamp(min=0.1)
    return (amount / top).expand(3, -1, -1)


def as_stained(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Grey cells as a stain in tissue with a counterstain, (3, H, W)."""
    grey = image.mean(0)
    cells = (1 - grey if torch.median(grey) > 0.5 else grey).clamp(0, 1.2)
    size = cells.shape
    texture = torch.from_numpy(rng.standard_normal(size, dtype=np.float32))
    texture = gaussian_blur2d(texture[None, None], (5, 5), (1.0, 1.0))[0, 0]
    nuclear = rng.uniform(0.5, 1.8) * cells ** rng.uniform(0.6, 1.4) * (1 + 0.4 * texture)
    fibres = _field(rng, size, int(rng.integers(4, 24))).mul(0.6).exp() + 0.3 * texture
    counter = rng.uniform(0.05, 0.6) * fibres * (1 - 0.6 * cells.clamp(max=1))
    jitter = torch.from_numpy(rng.normal(0, 0.06, (2, 3)).astype(np.float32))
    nuclei, ground = (2, 0) if rng.random() < BROWN_SHARE else (0, 1)
    colours = torch.nn.functional.normalize(STAINS[[nuclei, ground]] + jitter, dim=1)
    amounts = torch.stack([nuclear, counter]).clamp(min=0)
    return torch.einsum("shw,sc->chw", amounts, colours).neg().exp()


def _field(rng: np.random.Generator, size: tuple[int, ...], knots: int) -> Tensor:
    """A smooth random field (H, W), about -1 … 1."""
    coarse = rng.uniform(-1, 1, (1, 1, knots, knots)).astype(np.float32)
    return F.interpolate(
        torch.from_numpy(coarse), tuple(size), mode="bicubic", align_corners=True
    )[0, 0]


def pack(first: Crop, second: Crop) -> Crop:
    """Put the cells of a second crop between and onto those of the first.

    What is left of a cell that was covered for the most part no longer counts.
    """
    over = second.labels > 0
    both = torch.maximum(first.image, second.image)
    soft = gaussian_blur2d(over.float()[None, None], (5, 5), (1.0, 1.0))
    image = first.image + (both - first.image) * soft[0]
    n = len(first.deepest) - 1
    labels = torch.where(over, second.labels + n, first.labels)
    grade = torch.where(over, second.grade, first.grade)
    before = np.bincount(first.labels.numpy().ravel(), minlength=n + 1)
    after = np.bincount(labels.numpy().ravel(), minlength=n + 1)[: n + 1]
    gone = after < 0.6 * before
    gone[0] = False
    grade = torch.where(torch.from_numpy(gone)[first.labels.long()] & ~over, 0.0, grade)
    deepest = np.concatenate([first.deepest, second.deepest[1:]])
    changed = np.flatnonzero((after < before) & (after > 0))
    changed = changed[changed > 0]
    if changed.size:
        deepest[changed] = depths(labels.numpy())[changed]
    return Crop(image, labels, grade, deepest)


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
