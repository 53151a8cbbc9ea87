"""Attention maps of an image of any size: captured tile by tile, joined on their grids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sa2net.errors import Cancelled
from napari_sa2net.inference.devices import resolve_device
from napari_sa2net.inference.predictor import (
    DEFAULT_TILE,
    HALO,
    CancelCallback,
    ModelLike,
    ProgressCallback,
)
from napari_sa2net.inference.resample import Axis, ScaledPlane, resample
from napari_sa2net.inference.tiles import plan_tiles
from napari_sa2net.nn import ATTENTION_NAMES, capture_attention, pad_to_stride

#: Network pixels per pixel of each map.
MAP_STRIDES: dict[str, int] = {
    name: int(name.removeprefix("aua_")) if name.startswith("aua_") else 4
    for name in ATTENTION_NAMES
}


class AttentionMaps(Mapping[str, NDArray[np.float32]]):
    """Attention maps by name, each float32 (Y, X) at image size, as they are looked at.

    Several channels become one: the query by its length, the local gates by their mean.

    Attributes
    ----------
    native : dict of str to (C, h, w) float32
        Unreduced, on the network's own grids: h = ceil(network height / stride).
    strides : dict of str to int
        Network pixels per pixel of each native map.
    scale : (float, float)
        Network pixels per image pixel along Y and X.
    shape : (H, W)
        Of the image.
    """

    def __init__(
        self,
        native: dict[str, NDArray[np.float32]],
        plane: ScaledPlane,
    ) -> None:
        self.native = native
        self.strides = {name: MAP_STRIDES[name] for name in native}
        self.scale = (plane.rows.scale, plane.columns.scale)
        self.shape = (plane.rows.n_in, plane.columns.n_in)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if 0 in self.shape:
            if name not in self.native:
                raise KeyError(name)
            return np.zeros(self.shape, np.float32)
        values = reduce_channels(name, self.native[name])
        rows, columns = (
            Axis(n_in, n_out, self.strides[name] / scale)
            for n_in, n_out, scale in zip(values.shape, self.shape, self.scale, strict=True)
        )
        return resample(values[None], rows, columns, (0, self.shape[0], 0, self.shape[1]))[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.native)

    def __len__(self) -> int:
        return len(self.native)


def empty_maps(base: int) -> dict[str, NDArray[np.float32]]:
    """Native maps of an image without pixels."""
    channels = {"global_query": base} | {f"local_gate_{i}": 4 * base for i in (1, 2, 3, 4)}
    return {
        name: np.zeros((channels.get(name, 1), 0, 0), np.float32) for name in ATTENTION_NAMES
    }


def reduce_channels(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """One image (h, w) of a native map (C, h, w)."""
    if len(values) == 1:
        return values[0]
    if name == "global_query":
        return np.sqrt(np.square(values).sum(axis=0))
    return values.mean(axis=0)


def attention_maps(
    model: ModelLike,
    plane: ScaledPlane,
    *,
    device: str = "auto",
    tile: int | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCallback | None = None,
) -> AttentionMaps:
    """Run the network in float32 and collect all its attention maps.

    Parameters
    ----------
    model : Model
    plane : ScaledPlane
        The image as the network sees it.
    device : str
    tile : int, optional
        Side of a tile (network px).
    progress, cancelled : callable, optional
        As of `segment`.

    Raises
    ------
    DeviceError, Cancelled
    """
    if 0 in (plane.rows.n_in, plane.columns.n_in):
        return AttentionMaps(empty_maps(model.net.base_channels), plane)
    where = resolve_device(device)
    net = model.net
    home = next(net.parameters()).device
    height, width = plane.shape
    tiles = plan_tiles(height, width, tile or DEFAULT_TILE[where.type], HALO)
    native: dict[str, NDArray[np.float32]] = {}
    try:
        net.to(where)
        for done, one in enumerate(tiles):
            if cancelled and cancelled():
                raise Cancelled("Cancelled; nothing was changed.")
            read, core = one.read, one.core
            x = torch.from_numpy(plane.read(read.y0, read.y1, read.x0, read.x1))[None]
            with torch.inference_mode(), capture_attention(net) as maps:
                net(pad_to_stride(x.to(where)))
            for name in ATTENTION_NAMES:
                s = MAP_STRIDES[name]
                values = maps[name][0].cpu().numpy()
                if name not in native:
                    grid = -(-height // s), -(-width // s)
                    native[name] = np.zeros((len(values), *grid), np.float32)
                y0, x0, y1, x1 = core.y0 // s, core.x0 // s, -(-core.y1 // s), -(-core.x1 // s)
                top, left = read.y0 // s, read.x0 // s
                native[name][:, y0:y1, x0:x1] = values[
                    :, y0 - top : y1 - top, x0 - left : x1 - left
                ]
            if progress:
                progress(done + 1, len(tiles), "tiles")
    finally:
        net.to(home)
    return AttentionMaps(native, plane)
