"""One plane, predicted and explained in one pass: probabilities, attention maps, heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import n_classes
from napari_sa2net.data import ImagePlan
from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.attention import (
    WIDE,
    AttentionMaps,
    Collector,
    to_image,
    wide_bytes,
)
from napari_sa2net.inference.maps import AttentionMap, place
from napari_sa2net.inference.prediction import fill_background
from napari_sa2net.inference.predictor import CancelCallback, Predictor
from napari_sa2net.inference.store import allocate
from napari_sa2net.inference.tiles import Seams, inside

#: Memory for unreduced maps (bytes); of larger planes only reduced ones are kept, and a
#: single channel is run again when it is asked for.
KEEP_WIDE = 2**28

Box = tuple[int, int, int, int]


class Crop:
    """A box of a planned image, with the levels of the whole.

    Attributes
    ----------
    spatial : (h, w)
    in_channels : int
    whole : ImagePlan
    """

    def __init__(self, plan: ImagePlan, box: Box) -> None:
        self.whole = plan
        self._y, self._x = box[0], box[2]
        self.spatial = (box[1] - box[0], box[3] - box[2])
        self.in_channels = plan.in_channels

    def read(
        self, index: tuple[int, ...], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[np.float32]:
        """As of `ImagePlan`, counted from the box's first pixel."""
        y, x = self._y, self._x
        return self.whole.read(index, y0 + y, y1 + y, x0 + x, x1 + x)


@dataclass(frozen=True, eq=False)
class Explained:
    """A predicted box of a plane, and what the network showed.

    Attributes
    ----------
    probability : array-like float32 (classes, h, w)
        Of the box; as an ordinary prediction gives it, bit for bit.
    maps : AttentionMaps or None
        Of the box with its context; None where the network was not run, because the image
        is empty or of one value throughout.
    heads : dict of stride to array-like float32 (classes, h, w)
        Probabilities of the heads at strides 8, 4, 2, on their grids, with context.
    box, outer : (y0, y1, x0, x1)
        What was asked for, and what the network was given, in pixels of the image.
    index : tuple of int
        The plane.
    scale : float
        Network pixels per image pixel.
    n_tiles : int
    seams : (rows, columns)
        Where tiles met, in pixels of the box.
    """

    probability: Any
    maps: AttentionMaps | None
    heads: dict[int, Any]
    box: Box
    outer: Box
    index: tuple[int, ...]
    scale: float
    n_tiles: int
    seams: Seams = ((), ())

    @property
    def n_bytes(self) -> int:
        """Memory of maps and heads; what lies on disk does not count."""
        arrays = list(self.heads.values())
        if self.maps is not None:
            arrays += [*self.maps.reduced.values(), *self.maps.native.values()]
        # A map of one channel is there twice, once as a view.
        own = {id(a if a.base is None else a.base): a for a in arrays if _in_memory(a)}
        return sum(array.nbytes for array in own.values())

    def placed(self) -> dict[str, AttentionMap]:
        """All maps over the box, reduced."""
        if self.maps is None:
            return {}
        return {
            name: self._place(name, values, None) for name, values in self.maps.reduced.items()
        }

    def channel(self, name: str, channel: int | None) -> AttentionMap | None:
        """One map over the box, of one channel; None where that must be run again.

        Raises
        ------
        SettingsError
            There is no such map or channel.
        """
        maps = self.maps
        if maps is None or name not in maps.reduced:
            there = ", ".join(maps.reduced) if maps is not None else "none"
            raise SettingsError(f"There is no map '{name}' here; there are: {there}.")
        n = maps.n_channels[name]
        if channel is not None and not 0 <= channel < n:
            raise SettingsError(f"'{name}' has the channels 0 to {n - 1}, not {channel}.")
        if channel is None or n == 1:
            return self._place(name, maps.reduced[name], None)
        if name not in maps.native:
            return None
        return self._place(name, maps.native[name][channel], channel)

    def place_channel(self, name: str, values: Any, channel: int) -> AttentionMap:
        """A channel that was run again; see `run_channel`."""
        return self._place(name, values, channel)

    def stage(self, stride: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Probabilities by the head of a stride, brought to image size.

        Parameters
        ----------
        stride : int
            8, 4 or 2; the network was run.
        rows, columns : slice
            With start and stop, counted in the box.

        Returns
        -------
        float32 (classes, h, w)
        """
        assert self.maps is not None
        y, x = self.box[0] - self.outer[0], self.box[2] - self.outer[2]
        window = (rows.start + y, rows.stop + y, columns.start + x, columns.stop + x)
        return to_image(self.heads[stride], stride, self.maps.scale, self.maps.shape, window)

    def _place(self, name: str, values: Any, channel: int | None) -> AttentionMap:
        assert self.maps is not None
        origin = self.outer[0], self.outer[2]
        n = self.maps.n_channels[name]
        return place(name, values, self.maps.scale, self.box, origin, channel, n)


def _in_memory(array: Any) -> bool:
    return isinstance(array, np.ndarray)


def explain_plane(
    predictor: Predictor,
    plan: ImagePlan,
    index: tuple[int, ...] = (),
    scale: float = 1.0,
    *,
    box: Box | None = None,
    on_tile: Callable[[int, int], None] | None = None,
    cancelled: CancelCallback | None = None,
) -> Explained:
    """Predict a plane, or a box of it, and collect what the network shows.

    Parameters
    ----------
    predictor : Predictor
    plan : ImagePlan
        The whole image.
    index : tuple of int
        Which plane of its stack.
    scale : float
        Network pixels per image pixel.
    box : (y0, y1, x0, x1), optional
        Predicted with context around it; the whole plane if not given.
    on_tile, cancelled : callable, optional
        As of `Predictor.predict_plane`.

    Raises
    ------
    OutOfMemoryError, Cancelled, ImageError
    """
    everything = (0, plan.spatial[0], 0, plan.spatial[1])
    if plan.is_empty or plan.constant:
        inner = box or everything
        size = inner[1] - inner[0], inner[3] - inner[2]
        out = allocate((predictor.n_classes, *size), np.float32)
        fill_background(out)
        return Explained(out, None, {}, inner, inner, index, scale, 0)
    inner, outer, crop = framed(predictor, plan, scale, box)
    plane = predictor.scaled(crop, index, scale)
    base = predictor.card.network.base_channels
    collector = Collector(
        plane,
        WIDE if wide_bytes(base, plane) <= KEEP_WIDE else (),
        heads=True,
        classes=n_classes(predictor.card.classes),
    )
    n_tiles = 0

    def count(done: int, total: int) -> None:
        nonlocal n_tiles
        n_tiles += done > 0
        if on_tile is not None:
            on_tile(done, total)

    out = allocate((predictor.n_classes, *crop.spatial), np.float32)
    predictor.predict_plane(
        crop, index, scale, out=out, watch=collector, on_tile=count, cancelled=cancelled
    )
    corner = inner[0] - outer[0], inner[2] - outer[2]
    size = inner[1] - inner[0], inner[3] - inner[2]
    return Explained(
        cropped(out, outer, inner),
        collector.maps(plane),
        collector.heads,
        inner,
        outer,
        index,
        scale,
        n_tiles,
        inside(predictor.seams(crop, scale), corner, size),
    )


def run_channel(
    predictor: Predictor,
    plan: ImagePlan,
    explained: Explained,
    name: str,
    channel: int,
    *,
    on_tile: Callable[[int, int], None] | None = None,
    cancelled: CancelCallback | None = None,
) -> AttentionMap:
    """One channel of a map that was kept reduced only: the network runs half-way again.

    Raises
    ------
    OutOfMemoryError, Cancelled, ImageError
    """
    crop = Crop(plan, explained.outer)
    plane = predictor.scaled(crop, explained.index, explained.scale)
    collector = Collector(plane, channels={name: channel})
    predictor.look_at_plane(
        crop, explained.index, explained.scale, collector, on_tile=on_tile, cancelled=cancelled
    )
    return explained.place_channel(name, collector.single[name], channel)


def framed(
    predictor: Predictor, plan: ImagePlan, scale: float, box: Box | None
) -> tuple[Box, Box, Crop]:
    """A box, the box with the context that it is predicted with, and that to be read."""
    everything = (0, plan.spatial[0], 0, plan.spatial[1])
    inner = box or everything
    outer = everything if box is None else predictor.context(plan.spatial, inner, scale)
    return inner, outer, Crop(plan, outer)


def cropped(out: Any, outer: Box, inner: Box) -> Any:
    """What was predicted with context, without it."""
    if inner == outer:
        return out
    y, x = inner[0] - outer[0], inner[2] - outer[2]
    window = (
        slice(None),
        slice(y, y + inner[1] - inner[0]),
        slice(x, x + inner[3] - inner[2]),
    )
    return np.ascontiguousarray(out[window])
