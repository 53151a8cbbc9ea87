"""Crops to train on and whole images to validate with, from a list of items."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import imagecodecs
import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import warp_affine
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from napari_sa2net.config import InputConfig, TrainConfig
from napari_sa2net.data import read_image
from napari_sa2net.data.labels import NO_CELL, notes_on
from napari_sa2net.data.training_set import (
    TrainingItem,
    is_unscaled,
    object_size,
    plan_file,
    read_truth,
    unchosen,
)
from napari_sa2net.errors import SA2NetError, TrainingDataError
from napari_sa2net.inference.tiling import ScaledPlane
from napari_sa2net.metrics import overlap_table, typical_diameter

# --------------------------------------------------------------------------------------------
# From labelled objects to the classes a network learns: background, interior, boundary.

#: Objects with a smaller area keep a thin boundary also where they touch (px²).
TOUCHING_MIN_AREA = 60


def class_targets(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Class of each pixel.

    The boundary is the inner one, 1 px wide, and 2 px wide on either side where two objects
    touch: what has to be cut is worth more pixels than what is only outlined.

    Parameters
    ----------
    labels : (H, W) integer
        0 is background.

    Returns
    -------
    (H, W) uint8
        0 background, 1 interior, 2 boundary. An object so thin that all of it is boundary
        keeps its innermost pixels as interior.
    """
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    target = (labels > 0).astype(np.uint8)
    if not target.any():
        return target
    # An edge of the image is no boundary: the object may go on beyond it.
    lowest = ndimage.minimum_filter(labels, size=3, mode="nearest")
    highest = ndimage.maximum_filter(labels, size=3, mode="nearest")
    inner = (target > 0) & (lowest != highest)
    far = np.where(labels > 0, labels, np.iinfo(np.int32).max)
    touching = (
        (ndimage.minimum_filter(far, size=5, mode="nearest") != labels)
        | (ndimage.maximum_filter(labels, size=5, mode="nearest") != labels)
    ) & (target > 0)
    areas = np.bincount(labels.ravel())
    boundary = inner | (touching & (areas[labels] >= TOUCHING_MIN_AREA))
    target[boundary] = 2

    whole = np.bincount(labels.ravel()[target.ravel() == 1], minlength=areas.size) == 0
    lost = whole & (areas > 0)
    lost[0] = False
    if lost.any():
        thin = lost[labels]
        depth = ndimage.distance_transform_edt(labels > 0)
        deepest = ndimage.maximum(depth, labels, index=np.arange(areas.size))
        target[thin & (depth >= np.asarray(deepest)[labels])] = 1
    return target


#: Within this many pixels of two objects at once is between touching ones.
TOUCHING_REACH = 4


def between_objects(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels (H, W) that have two objects within `TOUCHING_REACH`, along rows and columns."""
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    side = 2 * TOUCHING_REACH + 1
    far = np.where(labels > 0, labels, np.iinfo(np.int32).max)
    lowest = ndimage.minimum_filter(far, size=side, mode="nearest")
    highest = ndimage.maximum_filter(labels, size=side, mode="nearest")
    return (highest > 0) & (lowest != highest)


def edge_distance(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Distance (px) of each object's pixels to the object's edge; 0 on the background.

    The middle of a boundary pixel is half a pixel away. An edge of the image is no edge of an
    object: it may go on beyond it.

    Parameters
    ----------
    labels : (H, W) integer
        0 is background; objects may touch.

    Returns
    -------
    (H, W) float32
    """
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    cross = ndimage.generate_binary_structure(2, 1)
    rim = ndimage.minimum_filter(labels, footprint=cross, mode="nearest") != labels
    rim |= ndimage.maximum_filter(labels, footprint=cross, mode="nearest") != labels
    if not rim.any():
        return (labels > 0) * np.float32(max(labels.shape))
    distance = ndimage.distance_transform_edt(~rim) + 0.5
    return (distance * (labels > 0)).astype(np.float32)


def depths(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Largest distance to its edge (px) of every object, by label; 0 for unused labels."""
    distance = edge_distance(labels)
    deepest = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(deepest, np.asarray(labels).ravel(), distance.ravel())
    deepest[0] = 0
    return deepest


def distance_target(
    labels: NDArray[np.integer], deepest: NDArray[np.floating]
) -> NDArray[np.float32]:
    """What the output ``distance`` learns: 0 on the background, 1 in the middle of an object.

    Parameters
    ----------
    labels : (H, W) integer
        0 is background.
    deepest : (n + 1,) float
        Depth of every object, by label (`depths`), in pixels of this grid: of the whole object,
        also where `labels` shows a part of it.

    Returns
    -------
    (H, W) float32, 0 … 1
    """
    whole = np.maximum(np.asarray(deepest, np.float32), 0.5)[labels]
    return np.minimum(edge_distance(labels) / whole, 1.0, dtype=np.float32)


def median_diameter(labels: NDArray[np.integer]) -> float | None:
    """Median diameter (px) of discs with the objects' areas; None without objects.

    Objects cut by the image's edge count only where there is no whole one.
    """
    areas = np.bincount(np.asarray(labels, np.int64).ravel())
    areas[0] = 0
    edge = np.unique(
        np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).astype(np.int64)
    )
    inside = areas.copy()
    inside[edge] = 0
    sizes = inside[inside > 0] if (inside > 0).any() else areas[areas > 0]
    return typical_diameter(sizes) if sizes.size else None


# --------------------------------------------------------------------------------------------
# Augmentation: one affine warp for image and labels, then intensities of the image.

#: Scale jitter: most crops within half an octave, some over one, for images whose object
#: size is not known yet.
NEAR_OCTAVES, FAR_OCTAVES, FAR_SHARE = 0.5, 1.2, 0.2
#: Share of crops that look at an object rather than anywhere.
OBJECT_SHARE = 0.7
#: How far (half crops) the crop's middle may be from the object; from one that is hard.
OFF, OFF_HARD = 0.7, 0.5
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
    hard: NDArray[np.floating] | None = None,
    hard_share: float = 0.0,
) -> Warp:
    """A warp that shows a random part of an image of `shape` at about `scale`.

    Most crops look at one of `places`, (n, 2) centres of objects, so that few are empty; the
    given share of these at one of `hard`, (n, 2), if there are any, also where no object is.
    """
    places = np.zeros((0, 2)) if places is None else places
    hard = np.zeros((0, 2)) if hard is None or not hard_share else hard
    octaves = FAR_OCTAVES if rng.random() < FAR_SHARE else NEAR_OCTAVES
    scale *= 2.0 ** rng.uniform(-octaves, octaves)
    half = crop / scale / 2
    centre = [
        rng.uniform(half, n - half)
        if n > 2 * half
        else (n - 1) / 2 + rng.uniform(-0.1, 0.1) * n
        for n in shape
    ]
    if len(places) + len(hard) and rng.random() < OBJECT_SHARE:
        off = OFF
        if len(hard) and rng.random() < hard_share:
            places, off = hard, OFF_HARD
        if len(places):
            place = places[int(rng.integers(len(places)))] + rng.uniform(-off, off, 2) * half
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


T = TypeVar("T")

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
    hard : (n, 2) float or None
        Places (y, x) that a network gets wrong.
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
    hard: NDArray[np.floating] | None = None

    @cached_property
    def depths(self) -> NDArray[np.float32]:
        """Depth (px) of each object, by label."""
        return depths(self.labels)

    @cached_property
    def is_colour(self) -> bool:
        """Whether the channels differ."""
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
    labels, counts, note = read_truth(
        item, plan.spatial, pixel_size_um=image_file.pixel_size_um
    )
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


def image_diameters(examples: Iterable[Example]) -> tuple[float, float] | None:
    """Least and greatest object size (px) of those that have objects and were resized."""
    sizes = [e.diameter for e in examples if len(e.centres) and not is_unscaled(e.item)]
    return (round(min(sizes), 2), round(max(sizes), 2)) if sizes else None


def evenly(items: Iterable[T], most: int | None, key: Callable[[T], Any]) -> list[T]:
    """At most so many of the items (None: all), evenly over their order by a key."""
    ordered = sorted(items, key=key)
    if most is None or len(ordered) <= most:
        return ordered
    return [ordered[int((i + 0.5) * len(ordered) / most)] for i in range(most)]


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
        share = self.config.wide_share
        wide = self.config.augmentation == "wide" and (share == 1 or rng.random() < share)
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
            "weight": torch.from_numpy(self._weights(labels)),
        }

    def _weights(self, labels: NDArray[np.int32]) -> NDArray[np.float32]:
        """How much each pixel counts in the loss."""
        more = np.float32(self.config.touching_weight)
        if more == 0:
            return np.ones(labels.shape, np.float32)
        return 1 + more * between_objects(labels)

    def _cut(self, example: Example, rng: np.random.Generator) -> Crop:
        """A crop of an example, as it is in the image."""
        shape = (example.labels.shape[0], example.labels.shape[1])
        scale = self.config.diameter / example.diameter
        warp = random_warp(
            rng,
            shape,
            self.config.crop,
            scale,
            example.centres,
            example.hard,
            self.config.hard_share,
        )
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
        part, _ = middle_part(example, scale, VALIDATION_SIDE)
        labels = part.labels
        mask = np.ones(labels.shape, bool) if part.counts is None else part.counts
        return {
            "image": torch.from_numpy(part.image),
            "labels": torch.from_numpy(labels),
            "target": torch.from_numpy(class_targets(labels).astype(np.int64)),
            "distance": torch.from_numpy(distance_target(labels, example.depths * scale)),
            "mask": torch.from_numpy(mask),
        }


def scaled_part(
    example: Example,
    scale: float,
    side: int,
    start: Callable[[tuple[int, int]], tuple[int, ...]],
) -> Example:
    """A square of an example at another scale; `start` says where, of the scaled shape."""
    plane = ScaledPlane(InMemory(example.image), (), scale)
    y, x = start(plane.shape)
    window = (y, min(plane.shape[0], y + side), x, min(plane.shape[1], x + side))
    rows = nearest(example.labels.shape[0], scale, window[0], window[1])
    columns = nearest(example.labels.shape[1], scale, window[2], window[3])
    at = np.ix_(rows, columns)
    return replace(
        example,
        image=np.ascontiguousarray(plane.read(*window)),
        labels=example.labels[at],
        counts=None if example.counts is None else example.counts[at],
        certain=None if example.certain is None else example.certain[at],
        centres=np.zeros((0, 2)),
    )


def middle_part(example: Example, scale: float, side: int) -> tuple[Example, tuple[int, ...]]:
    """The middle square of an example at another scale, and where in the whole it starts."""
    at: list[tuple[int, ...]] = []

    def start(shape: tuple[int, int]) -> tuple[int, ...]:
        at.append(tuple(max(0, (n - side) // 2) for n in shape))
        return at[0]

    return scaled_part(example, scale, side, start), at[0]


def wrong_places(
    labels: NDArray[np.integer],
    truth: NDArray[np.integer],
    counts: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Middles of the objects of either side that no object of the other is.

    Parameters
    ----------
    labels, truth : (H, W) integer
    counts : (H, W) bool, optional
        Pixels whose truth is known; objects in the middle of others are left out.

    Returns
    -------
    (n, 2) float
        Positions (y, x): missed and merged ones of the truth, then those that are none.
    """
    table = overlap_table(truth, labels)
    same = table.of(table.iou > 0.5)
    missed = np.setdiff1d(table.before, table.before[same.i])
    made_up = np.setdiff1d(table.after, table.after[same.j])
    places = [
        np.asarray(ndimage.center_of_mass(one > 0, one, some), float).reshape(-1, 2)
        for one, some in ((truth, missed), (labels, made_up))
    ]
    found = np.concatenate(places)
    if counts is not None and len(found):
        found = found[counts[tuple(np.rint(found).astype(np.intp).T)]]
    return found


class InMemory:
    """An array as a plane that can be read in windows."""

    def __init__(self, image: NDArray[np.float32]) -> None:
        self.image = image
        self.spatial = (image.shape[1], image.shape[2])

    def read(
        self, _index: tuple[int, ...], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[np.float32]:
        """A window of the plane."""
        return self.image[:, y0:y1, x0:x1]


def nearest(n: int, scale: float, start: int, stop: int) -> NDArray[np.intp]:
    """Pixels of an axis of length `n` under the pixels start…stop of its scaled grid."""
    index = np.floor((np.arange(start, stop) + 0.5) / scale).astype(np.intp)
    return np.clip(index, 0, n - 1)
