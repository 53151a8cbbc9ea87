"""A data set as the network sees it: all of it resized and in memory, prepared once."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
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

from napari_sa2net.config import Progress
from napari_sa2net.errors import Cancelled, TrainingDataError
from napari_sa2net.experiments.layouts import Layout, LayoutItem, Sample
from napari_sa2net.experiments.reproduce.recipes import SIZE, Recipe
from napari_sa2net.files import write_atomically


@dataclass(frozen=True)
class Prepared:
    """Images and masks, ready for the network.

    Attributes
    ----------
    images : (N, side, side, C) uint8, or float32 in 0…1
        The side is 224 times the recipe's zoom.
    ranged : bool
        Whole numbers go in from each image's least to its greatest, else divided by 255.
    masks : (N, 224, 224) uint8
    names, groups, splits, units : (N,) str
        As of `LayoutItem`.
    digest : str
        SHA-256 of images and masks as they were read, and of what they are used for; the
        same wherever the files lie.
    """

    images: NDArray[Any]
    masks: NDArray[np.uint8]
    names: NDArray[np.str_]
    groups: NDArray[np.str_]
    splits: NDArray[np.str_]
    units: NDArray[np.str_]
    digest: str
    ranged: bool

    def where(self, *splits: str) -> NDArray[np.intp]:
        """Indices of the images of some splits."""
        return np.flatnonzero(np.isin(self.splits, splits))

    def tensor(self, index: Any) -> Tensor:
        """Network input (C, h, w) or (n, C, h, w), float32."""
        return to_input(self.images[index], self.ranged)


def to_input(image: NDArray[Any], ranged: bool = False) -> Tensor:
    """Network input (…, C, h, w) of an image (…, h, w, C); see `Prepared`."""
    x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, -3)))
    if x.dtype != torch.uint8:
        return x
    x = x.float()
    if not ranged:
        return x / 255
    low = x.amin((-3, -2, -1), keepdim=True)
    return (x - low) / (x.amax((-3, -2, -1), keepdim=True) - low).clamp(min=1)


def prepare(
    layout: Layout,
    recipe: Recipe,
    cache: Path,
    on_progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Prepared:
    """Read and resize all images, or take them from an earlier run's file.

    Parameters
    ----------
    cache : path
        NPZ file, written once; made anew where it is of other images, or damaged.

    Raises
    ------
    TrainingDataError
        If an image cannot be read or does not fit the recipe.
    Cancelled
    """
    key = _key(layout, recipe)
    before = _cached(cache, key)
    if before is not None:
        return before
    images, masks, digest = [], [], hashlib.sha256()
    for done, item in enumerate(layout.items):
        if cancelled and cancelled():
            raise Cancelled("Cancelled while images were read; nothing was written.")
        sample = item.read()
        digest.update(_content(item, sample))
        image, mask = prepare_sample(sample, recipe)
        images.append(image)
        masks.append(mask)
        if on_progress:
            on_progress(done + 1, len(layout), "reading images")
    result = Prepared(
        np.stack(images),
        np.stack(masks),
        names=np.array([item.name for item in layout.items]),
        groups=np.array([item.group for item in layout.items]),
        splits=np.array([item.split for item in layout.items]),
        units=np.array([item.unit or item.name for item in layout.items]),
        digest=digest.hexdigest(),
        ranged=recipe.scaling == "range",
    )
    write_atomically(cache, lambda file: np.savez(file, key=key, **vars(result)))
    return result


def _cached(cache: Path, key: str) -> Prepared | None:
    """What an earlier run prepared of the same files."""
    try:
        with cache.open("rb") as stream, np.load(stream) as file:
            if str(file["key"]) != key:
                return None
            found: dict[str, Any] = {f.name: file[f.name] for f in fields(Prepared)}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
        return None  # it saves time and holds nothing that the images do not
    found |= {"digest": str(found["digest"]), "ranged": bool(found["ranged"])}
    return Prepared(**found)


def _content(item: LayoutItem, sample: Sample) -> bytes:
    """Fingerprint of an image, its mask, and what they are used for."""
    use = [item.name, item.group, item.split, item.unit]
    found = hashlib.sha256(json.dumps(use).encode())
    for array in (sample.image, sample.mask):
        found.update(f"{array.shape} {array.dtype.str}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.digest()


def prepare_sample(sample: Sample, recipe: Recipe) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """One image (side, side, C) uint8 or float32, and its mask (224, 224) uint8."""
    image = sample.image if sample.image.ndim == 3 else sample.image[..., None]
    if image.shape[-1] == 1 and recipe.in_channels == 3:
        image = np.repeat(image, 3, axis=-1)
    if image.shape[-1] != recipe.in_channels:
        raise TrainingDataError(
            f"{sample.name} has {image.shape[-1]} channels, where {recipe.title} has "
            f"{recipe.in_channels}. Unpack the data set again."
        )
    if recipe.channel_order == "BGR":
        image = image[..., ::-1]
    if image.dtype != np.uint8 and recipe.in_channels > 1:
        raise TrainingDataError(
            f"{sample.name} is {image.dtype}, where {recipe.title} has 8-bit images. "
            "Unpack the data set again."
        )
    small: NDArray[Any] = bilinear(image, SIZE * recipe.zoom, recipe.antialiased)
    if image.dtype == np.uint8:
        small = np.rint(small).astype(np.uint8)
    else:
        low, high = float(small.min()), float(small.max())
        small = (small - low) / np.float32(max(high - low, 1e-6))
    return small, _small_mask(sample.mask, recipe)


def _small_mask(mask: NDArray[np.int32], recipe: Recipe) -> NDArray[np.uint8]:
    # With two classes, whatever is above 0 is the second one.
    values = (mask if recipe.n_classes > 2 else mask > 0).astype(np.float32)
    if recipe.masks == "above_zero":
        # The published scripts resize in whole numbers: what rounds to 0 is background.
        return (np.rint(bilinear(255 * values[..., None], SIZE)[..., 0]) > 0).astype(np.uint8)
    small = F.interpolate(torch.from_numpy(values)[None, None], (SIZE, SIZE), mode=recipe.masks)
    return small[0, 0].numpy().astype(np.uint8)


def bilinear(image: NDArray[Any], side: int, antialiased: bool = False) -> NDArray[np.float32]:
    """Resize (Y, X, C) to a square, bilinear, pixel centres at halves."""
    x = torch.from_numpy(np.array(image, np.float32, order="C")).permute(2, 0, 1)[None]
    y = F.interpolate(
        x, size=(side, side), mode="bilinear", align_corners=False, antialias=antialiased
    )
    return y[0].permute(1, 2, 0).numpy()


def _key(layout: Layout, recipe: Recipe) -> str:
    """Fingerprint of what the prepared images depend on."""
    how = [
        recipe.channel_order, recipe.scaling, recipe.masks, recipe.n_classes,
        SIZE, recipe.zoom, recipe.antialiased,
    ]  # fmt: skip
    items = [(i.name, i.group, i.split, i.unit, _stamps(i)) for i in layout.items]
    return hashlib.sha256(json.dumps([layout.form, how, items]).encode()).hexdigest()


def _stamps(item: LayoutItem) -> list[list[int]]:
    """Size and time of an item's files, so that replaced ones are read again."""
    paths = [v for v in vars(item.load).values() if isinstance(v, Path)]
    stats = [path.stat() for path in paths if path.is_file()]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


# --------------------------------------------------------------------------------------------
# How images are varied while a network trains: as published, and more widely.


def augment(
    image: NDArray[Any], mask: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Turn by right angles and flip (half of the time), or turn by up to 20° (a quarter).

    Parameters
    ----------
    image : (h, w, C), mask : (h, w), square
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
