"""Intensity levels of a whole image, and pixel values on that scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InputConfig
from napari_sa2net.errors import ImageError

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
