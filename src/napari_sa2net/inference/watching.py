"""What is seen of a tile while it is predicted: the part that is kept, the right way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from napari_sa2net.inference.resample import Axis
from napari_sa2net.inference.staged import Part, See
from napari_sa2net.inference.tiles import STRIDE, Tile

Look = Callable[[str, Tensor], None]
"""Told of each map and head of one pass: its name and float32 (C, h, w) of the part kept,
which must be copied."""


class Watch(Protocol):
    """Looks at a plane while it is predicted."""

    def begin(self) -> None:
        """A tile begins."""

    def look(self, name: str, values: Tensor) -> None:
        """See `Look`; once per pass of the tile."""

    def store(self, tile: Tile, keep: Part, passes: int) -> None:
        """A tile is done."""


def kept_range(
    axis: Axis, read_start: int, start: int, stop: int, read_stop: int
) -> tuple[int, int]:
    """Range start…stop with the taps of resampling back, relative to the read window."""
    around = 0 if axis.is_identity else -(-int(axis.reach + 1) // STRIDE) * STRIDE
    return max(0, start - around - read_start), min(read_stop, stop + around) - read_start


def on_grid(keep: Part, shape: tuple[int, int], batch: Tensor) -> Part:
    """The part that is kept of the padded batch: its edge instead of the image's."""
    y0, y1, x0, x1 = keep
    h, w = batch.shape[-2:]
    return (y0, h if y1 == shape[0] else y1, x0, w if x1 == shape[1] else x1)


def see_through(look: Look, keep: Part, axes: tuple[int, ...]) -> See:
    """Cuts what a pass shows to the part that is kept, and flips it back."""
    y0, y1, x0, x1 = keep

    def see(name: str, values: Tensor, part: Part, stride: int) -> None:
        top, left = part[0], part[2]
        own = values[
            0,
            :,
            (y0 - top) // stride : (y1 - top) // stride,
            (x0 - left) // stride : (x1 - left) // stride,
        ].float()
        look(name, own.flip(axes) if axes else own)

    return see


def flipped_part(part: Part, axes: tuple[int, ...], height: int, width: int) -> Part:
    """Where a part of a window lies when the window is flipped along axes."""
    y0, y1, x0, x1 = part
    if -2 in axes:
        y0, y1 = height - y1, height - y0
    if -1 in axes:
        x0, x1 = width - x1, width - x0
    return y0, y1, x0, x1
