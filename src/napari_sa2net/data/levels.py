"""Pixel values as a network sees them: levels by a sample of the image, and stains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InputConfig
from napari_sa2net.errors import ImageError

# --------------------------------------------------------------------------------------------
# A bounded, repeatable sample of the pixels of an image of any size.

#: Pixels kept per channel in a first sample, and in the one after a constant first sample.
MAX_PIXELS = 4_000_000
#: Pixels per channel that may be loaded for it: whole chunks are, whatever is kept of them.
MAX_LOADED = 64_000_000
_WINDOW = 1024
_MAX_WINDOWS = 256
_MAX_PLANES = 4096
# Fractions of the golden-ratio kind in three dimensions: evenly spread, never periodic.
_SPREAD = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)


@dataclass(frozen=True)
class Window:
    """A rectangle of one plane: rows y0…y1 and columns x0…x1 of plane number `plane`."""

    plane: int
    y0: int
    y1: int
    x0: int
    x1: int


def sample_windows(
    n_planes: int,
    height: int,
    width: int,
    chunk: tuple[int, int] | None = None,
    in_memory: bool = False,
    effort: int = 1,
) -> tuple[list[Window], bool]:
    """Rectangles to look at, and whether `read_sample` keeps every pixel of the image.

    Whole planes of a small image or one in memory; otherwise windows spread over it, which
    load at most `effort` × 64 M pixels (or eight chunks).

    Parameters
    ----------
    n_planes, height, width : int
        Size of the image, none of them 0.
    chunk : (int, int), optional
        Chunk size along Y and X; windows lie inside chunks, so that each loads just one.
    in_memory : bool
        Pixels cost nothing to load.
    effort : int
        A multiple of the usual number of pixels.
    """
    small = n_planes * height * width <= MAX_PIXELS * effort
    if small or in_memory:
        every = math.ceil(n_planes / _MAX_PLANES)
        planes = [Window(i, 0, height, 0, width) for i in range(0, n_planes, every)]
        return planes, small and every == 1
    step_y = min(height, chunk[0] if chunk else _WINDOW)
    step_x = min(width, chunk[1] if chunk else _WINDOW)
    size_y, size_x = min(step_y, _WINDOW), min(step_x, _WINDOW)
    n_y, n_x = math.ceil(height / step_y), math.ceil(width / step_x)
    loaded = max(step_y * step_x, 1)
    count = max(8, min(_MAX_WINDOWS, MAX_LOADED // loaded)) * effort
    windows: dict[Window, None] = {}
    for i in range(1, 4 * count):
        if len(windows) == count:
            break
        at = [math.modf(i * fraction)[0] for fraction in _SPREAD]
        y0, x0 = int(at[1] * n_y) * step_y, int(at[2] * n_x) * step_x
        # Within a large chunk the window sits in the middle; at the image's end it is cut.
        y0 += max(0, (min(step_y, height - y0) - size_y) // 2)
        x0 += max(0, (min(step_x, width - x0) - size_x) // 2)
        windows[
            Window(
                int(at[0] * n_planes), y0, min(y0 + size_y, height), x0, min(x0 + size_x, width)
            )
        ] = None
    return list(windows), False


def spread_indices(counts: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """Up to `n` places spread over a stack of that shape, the middle first; all of few."""
    total = math.prod(counts)
    if total <= n:
        return list(product(*(range(count) for count in counts)))
    steps = [_SPREAD[axis % 3] * (1 + axis // 3) for axis in range(len(counts))]
    places = (
        tuple(
            int(math.modf(0.5 + i * step)[0] * count)
            for step, count in zip(steps, counts, strict=True)
        )
        for i in range(8 * n)
    )
    return list(dict.fromkeys(places))[:n]


def read_sample(
    windows: list[Window], read: Callable[[Window], NDArray[Any]], effort: int = 1
) -> list[NDArray[Any]]:
    """Values of the windows, one 1-D array per channel.

    `read` gives (k, h, w); where the windows hold too many pixels, a regular grid of each is
    kept. Among planes of a stack, those of one value throughout are left out: a frame that is
    saturated or blank says nothing of the others.
    """
    pixels = sum((w.y1 - w.y0) * (w.x1 - w.x0) for w in windows)
    step = math.ceil(math.sqrt(max(pixels / (MAX_PIXELS * effort), 1)))
    parts: list[list[NDArray[Any]]] = []
    for window in windows:
        values = read(window)
        parts.append([plane[::step, ::step].flatten() for plane in values])
    if len({(w.y0, w.y1, w.x0, w.x1) for w in windows}) == 1:
        parts = [part for part in parts if not all(map(is_flat, part))] or parts
    return [np.concatenate(channel) for channel in zip(*parts, strict=True)]


def is_flat(sample: NDArray[Any]) -> bool:
    """Whether all finite values are the same."""
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    return sample.size == 0 or bool((sample == sample[0]).all())


# --------------------------------------------------------------------------------------------
# Intensity levels of a whole image, and pixel values on that scale.

#: Normalised values are clipped to these, so that a hot pixel cannot swamp its neighbours.
CLIP = (-0.5, 1.5)
#: A colour channel that is nearly empty must not have its noise blown up to full contrast.
MIN_SHARE_OF_WIDEST = 0.25
_MAX64, _MAX32 = float(np.finfo(np.float64).max), float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Levels:
    """How pixel values become the network's input.

    Attributes
    ----------
    low, high : float64 (k,)
        Per chosen channel, the values that become 0 and 1.
    least, most : float64 (k,)
        Smallest and largest finite value seen; infinities are replaced by them where
        values are not clipped.
    clip : bool
        Whether values are clipped to −0.5 … 1.5.
    constant : bool
        Every pixel of the chosen channels is the same; all of them become 0.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    clip: bool = True
    constant: bool = False

    def as_array(self) -> NDArray[np.float64]:
        """Low and high per channel, float64 (k, 2)."""
        return np.stack([self.low, self.high], axis=1)


def unit_levels(n_channels: int) -> Levels:
    """Levels that change nothing, for images without pixels."""
    zero, one = np.zeros(n_channels), np.ones(n_channels)
    return Levels(zero, one, zero, one, clip=False)


def measure_levels(
    samples: Sequence[NDArray[Any]], config: InputConfig, normalize: bool, complete: bool
) -> Levels:
    """Levels from one sample of pixel values per channel.

    Parameters
    ----------
    samples : sequence of array
        Per chosen channel, values in any order and of any real dtype.
    config : InputConfig
        The model's normalisation.
    normalize : bool
        False: values go in as they are.
    complete : bool
        The samples hold every pixel; otherwise a constant sample proves nothing.

    Raises
    ------
    ImageError
        No channel has a finite value.

    Notes
    -----
    Percentiles are order statistics (no interpolation), so they are exact in every dtype.
    Dividing suits 8-bit images only: values outside 0 … divisor, and floats or booleans that
    never exceed 1, are brought to 0 … 1 by percentiles instead. A range is from the least
    to the greatest value of all channels together.
    """
    rows = np.array([_statistics(sample, config) for sample in samples], np.float64)
    finite = np.isfinite(rows[:, 0])
    if not finite.any():
        raise ImageError(
            "The image has no finite value: every pixel is NaN or infinite. "
            "Check how it was made or loaded."
        )
    rows[~finite] = rows[finite][0, 0]  # a dead channel: no range of its own
    least, low, high, most = rows.T
    constant = complete and bool((least == most).all())
    kind = config.normalization if normalize else "none"
    if kind == "divide" and not _fits_division(samples, least, most, config.divisor):
        kind = "percentile"
    if kind == "range":
        low, high = np.full_like(low, least.min()), np.full_like(high, most.max())
    elif kind != "percentile":
        top = config.divisor if kind == "divide" else 1.0
        zero = np.zeros(len(rows))
        return Levels(zero, zero + top, least, most, kind == "divide", constant)

    # Few bright pixels on an even ground leave no room between the percentiles.
    flat = high <= low
    low, high = np.where(flat, least, low), np.where(flat, most, high)
    half = high / 2 - low / 2  # halves, since a range can exceed the largest float64
    widest = float(half.max())
    if widest == 0:
        high = low + np.maximum(np.spacing(np.abs(low)), 1.0)
    else:
        floor = widest * MIN_SHARE_OF_WIDEST
        with np.errstate(over="ignore"):
            high = np.where(half < floor, np.minimum(low + 2 * floor, _MAX64), high)
    return Levels(low, high, least, most, True, constant)


def fixed_levels(measured: Levels, low: float, high: float) -> Levels:
    """The same values for every channel, chosen by a person."""
    zero = np.zeros_like(measured.low)
    return replace(measured, low=zero + low, high=zero + high, clip=True)


def contrast_of(levels: Levels) -> float:
    """The widest range between the low and the high value of a channel; inf beyond float64."""
    with np.errstate(over="ignore"):
        return float((levels.high - levels.low).max())


def with_contrast(levels: Levels, least: float) -> Levels:
    """Levels with at least this range, so that the noise of an empty plane stays noise."""
    low, high = levels.low, levels.high
    with np.errstate(over="ignore"):
        return replace(levels, high=np.where(high - low < least, low + least, high))


def apply_levels(values: NDArray[Any], levels: Levels) -> NDArray[np.float32]:
    """Bring pixel values (k, H, W) of any real dtype to the network's scale, float32.

    Element by element, so a pixel's result does not depend on its neighbours. NaN becomes 0
    (the low level); infinities become the end of the range.
    """
    out = np.empty(values.shape, np.float32)
    if levels.constant and levels.clip:
        out[:] = 0
        return out
    with np.errstate(over="ignore", invalid="ignore"):
        for i, plane in enumerate(values):
            if not levels.clip:
                out[i] = plane
                least = max(float(levels.least[i]), -_MAX32)
                most = min(float(levels.most[i]), _MAX32)
                np.nan_to_num(out[i], copy=False, nan=0.0, posinf=most, neginf=least)
                continue
            low, high = float(levels.low[i]), float(levels.high[i])
            if _float32_is_enough(values.dtype, low, high):
                out[i] = plane
                out[i] -= np.float32(low)
                out[i] /= np.float32(high - low)
            else:
                out[i] = (plane.astype(np.float64) / 2 - low / 2) / (high / 2 - low / 2)
            if values.dtype.kind == "f":
                out[i][np.isnan(out[i])] = 0
            np.clip(out[i], *CLIP, out=out[i])
    return out


def _statistics(sample: NDArray[Any], config: InputConfig) -> tuple[float, ...]:
    """Minimum, low percentile, high percentile, maximum of the finite values."""
    values = np.asarray(sample).ravel()
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    elif values.dtype.kind == "f":
        if values.dtype.itemsize > 8:
            with np.errstate(over="ignore"):
                values = values.astype(np.float64)
        values = values[np.isfinite(values)]
    if not values.size:
        return (np.nan,) * 4
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    low = np.percentile(values, config.low, method="lower")
    high = np.percentile(values, config.high, method="higher")
    return float(values.min()), float(low), float(high), float(values.max())


def _fits_division(
    samples: Sequence[NDArray[Any]],
    least: NDArray[np.float64],
    most: NDArray[np.float64],
    divisor: float,
) -> bool:
    dtype = samples[0].dtype
    if dtype == np.uint8:
        return True
    return bool(
        least.min() >= 0 and most.max() <= divisor and (dtype.kind in "iu" or most.max() > 1)
    )


def _float32_is_enough(dtype: np.dtype[Any], low: float, high: float) -> bool:
    if dtype.itemsize <= 2:
        return True
    safe = max(abs(low), abs(high)) < 1e30 and high - low > 1e-30
    return dtype.kind == "f" and dtype.itemsize == 4 and safe


# --------------------------------------------------------------------------------------------
# Brown of immunohistochemistry (3,3'-diaminobenzidine, DAB), beside the blue of nuclei.

#: From this share of brown pixels on an image may be immunohistochemistry.
BROWN_FROM = 0.005
#: A pixel is stained from this optical density of its three colours together, and brown where
#: it takes away so many times more blue than green, and more green than red.
STAINED, BLUE_TO_GREEN, GREEN_TO_RED = 0.3, 1.1, 1.2
#: What may be white where the type does not tell: cameras and files have so many bits; and
#: how far values may be over it, as smooth resizing leaves them.
WHITES, OVER = (1, 255, 1023, 4095, 16383, 65535), 1.1


def white_of(colours: NDArray[Any]) -> float:
    """Value of unstained glass: 255 in 8 bits, else by the largest value that there is."""
    if colours.dtype == np.uint8:
        return 255.0
    most = float(np.max(colours, initial=0, where=np.isfinite(colours)))
    return next((float(white) for white in WHITES if most <= OVER * white), most)


def brown_share(colours: NDArray[Any], white: float) -> float:
    """Share of pixels that are as brown as DAB.

    Parameters
    ----------
    colours, white
        As `remove_dab` takes them.
    """
    light = np.nan_to_num(_light(colours, white), nan=1.0)
    red, green, blue = -np.log10(np.clip(light, 1 / 255, 1))
    brown = (red + green + blue > STAINED) & (blue > BLUE_TO_GREEN * green)
    brown &= green > GREEN_TO_RED * red
    return float(brown.mean())


def remove_dab(colours: NDArray[Any], white: float) -> NDArray[Any]:
    """What is seen without DAB: stains are separated, and the others mixed again.

    Parameters
    ----------
    colours : array, shape (3, ...)
        Red, green and blue.
    white : float
        Value of what is not stained; 0 is black.

    Returns
    -------
    array of the same shape and dtype

    Notes
    -----
    The colours of haematoxylin, eosin and DAB are those of Ruifrok and Johnston (Anal. Quant.
    Cytol. Histol. 23:291, 2001), as `skimage.color.rgb2hed` has them.
    """
    from skimage.color import hed2rgb, rgb2hed

    stains = rgb2hed(np.moveaxis(_light(colours, white), 0, -1))
    stains[..., 2] = 0
    without = np.moveaxis(hed2rgb(stains), -1, 0) * white
    if colours.dtype.kind == "f":
        return without.astype(colours.dtype)
    return np.rint(np.clip(without, 0, white)).astype(colours.dtype)


def _light(colours: NDArray[Any], white: float) -> NDArray[np.float32]:
    """Share of the light that comes through, 0 … 1."""
    # values of float64 may be more than float32 holds
    wide = np.float64 if colours.dtype == np.float64 else np.float32
    return np.clip(colours.astype(wide) / wide(white), 0, 1).astype(np.float32)
