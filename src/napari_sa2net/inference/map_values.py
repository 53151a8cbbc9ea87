"""Values of attention maps at pixels of the image, without making the map that large."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Map(Protocol):
    """What is read of an attention map.

    Attributes
    ----------
    values : array-like float (h, w)
        numpy or zarr.
    scale : (float, float)
        Image px per map px along Y and X.
    translate : (float, float)
        Y, x of the centre of map pixel (0, 0), px of the whole image, in which the centre of
        the first pixel is 0.
    """

    @property
    def values(self) -> Any: ...

    @property
    def scale(self) -> tuple[float, float]: ...

    @property
    def translate(self) -> tuple[float, float]: ...


def sample(one: Map, ys: NDArray[Any], xs: NDArray[Any]) -> Floats:
    """Bilinear values of a map at points of the image; beyond its edge, those at the edge.

    Parameters
    ----------
    one : Map
    ys, xs : arrays (n,)
        In px of the whole image.

    Returns
    -------
    float64 (n,); NaN where the map has no pixel at all
    """
    height, width = one.values.shape
    if 0 in (height, width) or not len(ys):
        return np.full(len(ys), np.nan)
    top, down = _taps(ys, one.scale[0], one.translate[0], height)
    left, right = _taps(xs, one.scale[1], one.translate[1], width)
    y0, x0 = int(top.min()), int(left.min())
    # Only what is needed, since a large map lies on disk.
    part = np.asarray(one.values[y0 : int(top.max()) + 2, x0 : int(left.max()) + 2], np.float64)
    top, left = top - y0, left - x0
    below, beside = (
        np.minimum(top + 1, part.shape[0] - 1),
        np.minimum(left + 1, part.shape[1] - 1),
    )
    upper = part[top, left] * (1 - right) + part[top, beside] * right
    lower = part[below, left] * (1 - right) + part[below, beside] * right
    result: Floats = upper * (1 - down) + lower * down
    return result


def sample_grid(one: Map, ys: NDArray[Any], xs: NDArray[Any]) -> NDArray[np.float32]:
    """As `sample`, at every crossing of rows `ys` and columns `xs`: float32 (ys, xs)."""
    height, width = one.values.shape
    if 0 in (height, width, len(ys), len(xs)):
        return np.full((len(ys), len(xs)), np.nan, np.float32)
    top, down = _taps(ys, one.scale[0], one.translate[0], height)
    left, right = _taps(xs, one.scale[1], one.translate[1], width)
    y0 = int(top.min())
    part = np.asarray(one.values[y0 : int(top.max()) + 2], np.float32)
    beside = np.minimum(left + 1, width - 1)
    weight = right.astype(np.float32)
    wide = part[:, left] * (1 - weight) + part[:, beside] * weight
    top = top - y0
    below = np.minimum(top + 1, part.shape[0] - 1)
    weight = down.astype(np.float32)[:, None]
    result: NDArray[np.float32] = wide[top] * (1 - weight) + wide[below] * weight
    return result


def _taps(
    at: NDArray[Any], scale: float, translate: float, n: int
) -> tuple[NDArray[np.intp], Floats]:
    """Lower of the two neighbours on the map's axis, and the weight of the upper."""
    position = np.clip((np.asarray(at, np.float64) - translate) / scale, 0, n - 1)
    lower = np.minimum(position.astype(np.intp), max(n - 2, 0))
    return lower, position - lower
