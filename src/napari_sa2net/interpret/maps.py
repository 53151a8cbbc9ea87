"""Attention maps as they are looked at: on their own grids, placed over the image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Strides of the heads, in the order the decoder computes them.
STRIDES = (8, 4, 2, 1)
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


# --------------------------------------------------------------------------------------------
# What is found of one object (`interpret.objects.inspect_object`), and of all from one
# segmentation to another (`interpret.refinement.compare_objects`).


@dataclass(frozen=True)
class StageStep:
    """An object at one stage of the decoder.

    Attributes
    ----------
    stride : int
        8, 4, 2 or 1.
    n_objects_overlapping : int
        Objects of this stage that match it; 0: not seen here.
    area_px : int
        Their pixels together.
    mean_move_px, max_move_px : float
        As the columns `moved_…` of the table; NaN at the first stage.
    event : str
        "", "split", "merged", "appeared" or "vanished", since the stage before.
    """

    stride: int
    n_objects_overlapping: int
    area_px: int
    mean_move_px: float
    max_move_px: float
    event: str = ""


@dataclass(frozen=True, eq=False)
class CellInspection:
    """One object under the loupe.

    Attributes
    ----------
    label : int
    gates, image_gates : four floats
        Mean of each scale gate in the object, and in the image; NaN without that map.
    distances : float32 (25,)
        −12 … +12 px. 0: the object's outermost pixels; negative: inside.
    profiles : dict of stride to float32 (25,)
        Mean ψ at each distance; NaN where no pixel lies that far.
    history : tuple of StageStep
        Coarse to fine.
    thumbnail : float32 (h, w) or (h, w, 3)
        The image around the object, 0…1.
    outline : bool (h, w)
        The object's outermost pixels in the thumbnail.
    centre : (float, float)
        Mean y, x of the object in px of the whole image.
    by_hand : bool
        The network did not make this object as it is: a person drew or changed it.
    ring : uint8 (h, w)
        Lines around the object, in its image: 1 next to it, 2 around that, else 0.
    ring_box : (y0, y1, x0, x1)
        Where the ring lies, in px of the whole image.
    """

    label: int
    gates: tuple[float, float, float, float]
    image_gates: tuple[float, float, float, float]
    distances: NDArray[np.float32]
    profiles: dict[int, NDArray[np.float32]]
    history: tuple[StageStep, ...]
    thumbnail: NDArray[np.float32]
    outline: NDArray[np.bool_]
    centre: tuple[float, float]
    by_hand: bool = False
    ring: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    ring_box: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Changes:
    """What became of the objects of a segmentation in another one.

    Attributes
    ----------
    appeared : int
        Objects that match none before.
    vanished : int
        Objects before that match none after.
    split : int
        Objects before that match several after.
    merged : int
        Objects after that match several before.
    gained_px, lost_px : int
        Pixels that became foreground, and background.
    change : int8 (H, W)
        +1 where foreground was gained, −1 where it was lost. A new cut between objects that
        leaves no gap changes no foreground: it shows in the counts only.
    """

    appeared: int
    vanished: int
    split: int
    merged: int
    gained_px: int
    lost_px: int
    change: NDArray[np.int8]


# --------------------------------------------------------------------------------------------
# Values of attention maps at pixels of the image, without making the map that large.

Floats = NDArray[np.float64]


def sample_grid(one: AttentionMap, ys: NDArray[Any], xs: NDArray[Any]) -> NDArray[np.float32]:
    """Bilinear values of a map at every crossing of rows and columns of the image.

    Parameters
    ----------
    one : AttentionMap
    ys, xs : arrays
        In px of the whole image; beyond the map's edge, values are those at the edge.

    Returns
    -------
    float32 (ys, xs); NaN where the map has no pixel at all
    """
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


# --------------------------------------------------------------------------------------------
# Colours of maps and changes, the same in the window and in figures.
#
# Signed maps diverge from their middle: blue is positive, orange negative, which the
# colour-blind tell apart. The middle is what changes nothing: black over a dark image, to which
# maps are added as light; white over a brighter one, on which they lie as a film, and on paper.

RGB = tuple[float, float, float]

#: Pixels gained and lost, and bars to either side of 0.
ADDED, REMOVED = "#3aa0ff", "#ff8c1a"
#: Low end, half, middle, half, high end.
SIGNED_ON_DARK: tuple[RGB, ...] = (
    (1.0, 0.62, 0.2),
    (0.85, 0.35, 0.0),
    (0.0, 0.0, 0.0),
    (0.0, 0.35, 0.85),
    (0.35, 0.75, 1.0),
)
SIGNED_ON_BRIGHT: tuple[RGB, ...] = (
    (0.65, 0.25, 0.0),
    (1.0, 0.6, 0.2),
    (1.0, 1.0, 1.0),
    (0.3, 0.6, 1.0),
    (0.0, 0.2, 0.65),
)
_NAMED = {"aua": "inferno", "global_query": "viridis", "local_gate": "cividis"}


def palette(name: str, bright: bool = False) -> str | tuple[RGB, ...]:
    """Colours of a map by its name.

    Parameters
    ----------
    name : str
        Such as aua_8 or scale_gate_1.
    bright : bool
        Over a bright image, or on paper.

    Returns
    -------
    Name of a colour map that both matplotlib and napari know; of signed maps colours at equal
    distances, from low to high.
    """
    if name.startswith("scale_gate"):
        return SIGNED_ON_BRIGHT if bright else SIGNED_ON_DARK
    return next(colours for kind, colours in _NAMED.items() if name.startswith(kind))
