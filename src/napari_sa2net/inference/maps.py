"""Attention maps as they are looked at: on their own grids, placed over the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Share of the pixels within the contrast range of an unbounded map (%).
PERCENTILE = 99.8
#: Pixels that the range is measured on, at most.
SAMPLE = 2**18


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """One attention map on its own grid, and where it lies in the image.

    Attributes
    ----------
    name
        ``scale_gate_1`` … ``4``, ``global_query``, ``local_gate_1`` … ``4``, ``aua_8``,
        ``aua_4``, ``aua_2`` or ``aua_1``.
    values
        float32 (h, w). Several channels are reduced (the query to its norm, a local gate to
        its mean), or one of them was asked for.
    stride
        Network pixels per map pixel.
    scale
        Image pixels per map pixel, (y, x).
    translate
        Centre of map pixel (0, 0) in the whole image, (y, x); there, pixel centres are whole
        numbers.
    low, high
        Contrast range in which maps can be compared: 0…1 for ψ, 0.5…1 for local gates,
        symmetric about 0 for scale gates and single channels of the query, from 0 for the
        query's norm.
    channel
        The one that is shown; None where they are reduced, or where there is one only.
    n_channels
        Of the unreduced map.
    """

    name: str
    values: Any
    stride: int
    scale: tuple[float, float]
    translate: tuple[float, float]
    low: float
    high: float
    channel: int | None = None
    n_channels: int = 1


def place(
    name: str,
    values: Any,
    network_scale: tuple[float, float],
    box: tuple[int, int, int, int],
    origin: tuple[int, int] = (0, 0),
    channel: int | None = None,
    n_channels: int = 1,
) -> AttentionMap:
    """The part of a map that lies over a box of the image.

    Parameters
    ----------
    name : str
    values : array-like (h, w)
        Starts where the network's input starts.
    network_scale : (float, float)
        Network pixels per image pixel, (y, x).
    box : (y0, y1, x0, x1)
        Of the image.
    origin : (int, int)
        First pixel of the image that the network was given, (y, x).
    channel, n_channels
        As of `AttentionMap`.
    """
    stride = map_stride(name)
    scale = stride / network_scale[0], stride / network_scale[1]
    cuts, translate = [], []
    for step, first, start, stop, n in zip(
        scale, origin, box[::2], box[1::2], values.shape, strict=True
    ):
        low = min(max(0, int((start - first) / step + 1e-9)), max(0, n - 1))
        high = min(n, max(low + 1, int(np.ceil((stop - first) / step - 1e-9))))
        cuts.append(slice(low, high))
        translate.append(first + (low + 0.5) * step - 0.5)
    part = np.ascontiguousarray(values[cuts[0], cuts[1]], np.float32)
    return AttentionMap(
        name,
        part,
        stride,
        scale,
        (translate[0], translate[1]),
        *contrast(name, part, channel),
        channel,
        n_channels,
    )


def contrast(
    name: str, values: NDArray[np.float32], channel: int | None = None
) -> tuple[float, float]:
    """Range of values that spans the colours; low < high."""
    if name.startswith("aua_"):
        return 0.0, 1.0
    if name.startswith("local_gate_"):
        return 0.5, 1.0
    line = np.abs(values).ravel()
    some = line[:: max(1, line.size // SAMPLE)]
    high = float(np.percentile(some, PERCENTILE)) if some.size else 0.0
    high = high or float(line.max(initial=0)) or 1.0
    signed = name.startswith("scale_gate_") or channel is not None
    return (-high if signed else 0.0), high


def map_stride(name: str) -> int:
    """Network pixels per map pixel."""
    return int(name.removeprefix("aua_")) if name.startswith("aua_") else 4
