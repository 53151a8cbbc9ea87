"""A bounded, repeatable sample of the pixels of an image of any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
