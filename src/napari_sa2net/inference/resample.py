"""Exact resampling of any window of an image, without the rest of it.

Grids are aligned by their outer edges: pixel i of the network's grid lies at image
coordinate (i + 0.5) / s - 0.5. Each output pixel's taps depend only on its own position, so
windows agree with the whole to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: Largest piece of the image held as float32 while a window is resampled (bytes).
MAX_READ_BYTES = 256 * 2**20


class Plane(Protocol):
    """What is read of an image plan."""

    @property
    def spatial(self) -> tuple[int, int]: ...

    def read(
        self, index: tuple[int, ...], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Axis:
    """Resampling of one axis.

    Parameters
    ----------
    n_in, n_out : int
        Pixels before and after.
    scale : float
        Output pixels per input pixel; need not be n_out / n_in exactly.
    antialias : bool
        Widen the triangle filter by 1 / scale when shrinking.
    """

    n_in: int
    n_out: int
    scale: float
    antialias: bool = True

    @property
    def is_identity(self) -> bool:
        return self.scale == 1.0 and self.n_in == self.n_out

    @property
    def reach(self) -> float:
        """Half width of the filter in input pixels."""
        return max(1.0, 1.0 / self.scale) if self.antialias else 1.0

    def taps(self, start: int, stop: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Input indices and weights of output pixels start…stop-1.

        Returns
        -------
        index : (stop - start, k) intp, within 0…n_in-1
        weight : (stop - start, k) float32, rows sum to 1
        """
        centre = (np.arange(start, stop) + 0.5) / self.scale - 0.5
        centre = np.clip(centre, 0, self.n_in - 1)
        reach = self.reach
        first = np.floor(centre - reach).astype(np.intp) + 1
        index = first[:, None] + np.arange(int(np.ceil(2 * reach)), dtype=np.intp)
        weight = np.maximum(0.0, 1.0 - np.abs(index - centre[:, None]) / reach)
        weight[(index < 0) | (index >= self.n_in)] = 0.0
        weight /= weight.sum(axis=1, keepdims=True)
        return np.clip(index, 0, self.n_in - 1), weight.astype(np.float32)

    def needs(self, start: int, stop: int) -> tuple[int, int]:
        """Range of input pixels that output pixels start…stop-1 are made of."""
        first, _ = self.taps(start, start + 1)
        last, _ = self.taps(stop - 1, stop)
        return int(first.min()), int(last.max()) + 1


def resample(
    block: NDArray[np.float32],
    rows: Axis,
    columns: Axis,
    out: tuple[int, int, int, int],
    origin: tuple[int, int] = (0, 0),
) -> NDArray[np.float32]:
    """Compute output window (y0, y1, x0, x1) from a block of the input.

    Parameters
    ----------
    block : (C, h, w) float32
        Part of the input that starts at `origin` and covers what the window needs.
    rows, columns : Axis
    out : y0, y1, x0, x1 in output pixels
    origin : y, x of the block in input pixels

    Returns
    -------
    (C, y1 - y0, x1 - x0) float32
    """
    y0, y1, x0, x1 = out
    if rows.is_identity and columns.is_identity:
        oy, ox = origin
        return block[:, y0 - oy : y1 - oy, x0 - ox : x1 - ox]
    # Rows first: whole rows are contiguous, and shrinking leaves less for the columns.
    return _apply(_apply(block, rows, y0, y1, origin[0], 1), columns, x0, x1, origin[1], 2)


def _apply(
    block: NDArray[np.float32], axis: Axis, start: int, stop: int, origin: int, dim: int
) -> NDArray[np.float32]:
    if axis.is_identity:
        window = [slice(None)] * 3
        window[dim] = slice(start - origin, stop - origin)
        return block[tuple(window)]
    index, weight = axis.taps(start, stop)
    shape = [1, 1, 1]
    shape[dim] = -1
    total: NDArray[np.float32] | None = None
    for i, w in zip(index.T - origin, weight.T, strict=True):
        term = block.take(np.clip(i, 0, block.shape[dim] - 1), axis=dim)
        term *= w.reshape(shape)
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return total


class ScaledPlane:
    """One plane of an image as the network sees it: rescaled, read window by window.

    Parameters
    ----------
    plan : ImagePlan
    index : tuple of int
        Which plane of the stack.
    scale : float
        Network pixels per image pixel; 1 reads the image itself.
    resize_to : int, optional
        Instead of by `scale`, resize the whole plane to this square, bilinear.
    antialias : bool
        With `resize_to`: smooth what shrinks; a published script did not.
    """

    def __init__(
        self,
        plan: Plane,
        index: tuple[int, ...],
        scale: float = 1.0,
        resize_to: int | None = None,
        antialias: bool = False,
    ) -> None:
        self.plan = plan
        self.index = index
        height, width = plan.spatial
        if resize_to:
            self.rows = Axis(height, resize_to, resize_to / height, antialias)
            self.columns = Axis(width, resize_to, resize_to / width, antialias)
        else:
            self.rows = Axis(height, max(1, round(height * scale)), scale)
            self.columns = Axis(width, max(1, round(width * scale)), scale)
        # The way back: the same geometry from the other side.
        self.back_rows = _inverse(self.rows)
        self.back_columns = _inverse(self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in network pixels."""
        return self.rows.n_out, self.columns.n_out

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.float32]:
        """Network input of a window in network pixels: (C, y1 - y0, x1 - x0) float32."""
        if self.rows.is_identity and self.columns.is_identity:
            return self.plan.read(self.index, y0, y1, x0, x1)
        left, right = self.columns.needs(x0, x1)
        parts = []
        for a, b in self._bands(y0, y1, right - left):
            top, bottom = self.rows.needs(a, b)
            block = self.plan.read(self.index, top, bottom, left, right)
            parts.append(resample(block, self.rows, self.columns, (a, b, x0, x1), (top, left)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _bands(self, y0: int, y1: int, width: int) -> Iterator[tuple[int, int]]:
        """Cut rows so that a strongly shrunk image is not read in one piece."""
        channels = getattr(self.plan, "in_channels", 4)
        rows_in = max(1, MAX_READ_BYTES // (4 * channels * width))
        step = max(1, int((rows_in - 2 * self.rows.reach) * self.rows.scale))
        for a in range(y0, y1, step):
            yield a, min(a + step, y1)

    def image_window(self, y0: int, y1: int, x0: int, x1: int) -> tuple[int, int, int, int]:
        """Image pixels whose centres lie in a window of the network's grid.

        Windows that tile the network's grid give windows that tile the image.
        """
        return (*_pixels(self.rows, y0, y1), *_pixels(self.columns, x0, x1))

    def to_image(
        self,
        values: NDArray[np.float32],
        origin: tuple[int, int],
        window: tuple[int, int, int, int],
    ) -> NDArray[np.float32]:
        """Resample network values (C, h, w) that start at `origin` to an image window."""
        return resample(values, self.back_rows, self.back_columns, window, origin)


def _inverse(axis: Axis) -> Axis:
    return Axis(axis.n_out, axis.n_in, 1.0 / axis.scale, axis.antialias)


def _pixels(axis: Axis, start: int, stop: int) -> tuple[int, int]:
    """Input pixels j with start <= (j + 0.5) * scale < stop; the ends take the rest."""
    first = 0 if start <= 0 else int(np.ceil(start / axis.scale - 0.5))
    last = axis.n_in if stop >= axis.n_out else int(np.ceil(stop / axis.scale - 0.5))
    return min(first, axis.n_in), min(last, axis.n_in)
