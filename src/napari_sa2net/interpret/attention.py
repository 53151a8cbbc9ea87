"""Attention in an image of any size: its maps, tile by tile, and what if it were otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_sa2net.config import (
    CancelCallback,
    InputConfig,
    PredictConfig,
    PredictSettings,
    Progress,
)
from napari_sa2net.data.plan import Box, ImagePlan
from napari_sa2net.errors import AxesError
from napari_sa2net.inference.predict import SEGMENTING, Predictor
from napari_sa2net.inference.segment import (
    cropped,
    fill_background,
    look_first,
    plan_for,
    refuse_tissue,
    split_settings,
    with_context,
)
from napari_sa2net.inference.stages import AS_TRAINED, Change, Memo, Part, n_bytes
from napari_sa2net.inference.tiling import (
    STRIDE,
    Axis,
    PlaneOf,
    ScaledPlane,
    Tile,
    allocate,
    resample,
)
from napari_sa2net.interpret.maps import map_stride
from napari_sa2net.models import Model, load_model
from napari_sa2net.models.card import check_change
from napari_sa2net.nn import ATTENTION_NAMES, activate

# --------------------------------------------------------------------------------------------
# Maps, joined on their own grids.

#: Network pixels per pixel of each map.
MAP_STRIDES: dict[str, int] = {name: map_stride(name) for name in ATTENTION_NAMES}
#: Maps of many channels: the four local gates and the query.
WIDE = ("global_query", *(f"local_gate_{i}" for i in (1, 2, 3, 4)))
#: Memory for all of them unreduced (bytes); what needs more goes to disk.
WIDE_LIMIT = 2**29
#: Side of their chunks on disk (px of the map).
CHUNK = 64
#: Rows of an image that a map is brought to at a time.
BAND = 1024


class AttentionMaps(Mapping[str, Any]):
    """Attention maps by name, each float32 (Y, X) at image size, as they are looked at.

    Several channels become one: the query by its length, the local gates by their mean.
    Maps are brought to image size when they are asked for; above 256 MB they are zarr on disk.

    Attributes
    ----------
    reduced : dict of str to array-like (h, w) float32
        The same on the network's own grids: h = ceil(network height / stride).
    native : dict of str to array-like (C, h, w) float32
        Unreduced; numpy, or zarr on disk where they are large.
    n_channels : dict of str to int
        C of each.
    strides : dict of str to int
        Network pixels per pixel of each native map.
    scale : (float, float)
        Network pixels per image pixel along Y and X.
    shape : (H, W)
        Of the image.
    """

    def __init__(
        self,
        reduced: dict[str, Any],
        native: dict[str, Any],
        n_channels: dict[str, int],
        plane: ScaledPlane,
    ) -> None:
        self.reduced = {name: reduced[name] for name in ATTENTION_NAMES if name in reduced}
        self.native = {name: native[name] for name in ATTENTION_NAMES if name in native}
        self.n_channels = n_channels
        self.strides = {name: MAP_STRIDES[name] for name in self.reduced}
        self.scale = (plane.rows.scale, plane.columns.scale)
        self.shape = (plane.rows.n_in, plane.columns.n_in)

    def __getitem__(self, name: str) -> Any:
        values = self.reduced[name]
        out = allocate(self.shape, np.float32)
        for y0 in range(0, self.shape[0] if self.shape[1] else 0, BAND):
            y1 = min(y0 + BAND, self.shape[0])
            window = (y0, y1, 0, self.shape[1])
            out[y0:y1, :] = to_image(
                values, self.strides[name], self.scale, self.shape, window
            )[0]
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(self.reduced)

    def __len__(self) -> int:
        return len(self.reduced)


def to_image(
    values: Any,
    stride: int,
    scale: tuple[float, float],
    shape: tuple[int, int],
    window: Part,
) -> NDArray[np.float32]:
    """Bring a window of an image from the network's grid of a stride to its own pixels.

    Parameters
    ----------
    values : array-like (h, w) or (C, h, w)
    stride : int
    scale : (float, float)
        Network pixels per image pixel along Y and X.
    shape : (H, W) of the image
    window : (y0, y1, x0, x1) of the image

    Returns
    -------
    float32 (C, y1 - y0, x1 - x0)
    """
    rows, columns = (
        Axis(n_in, n_out, stride / s)
        for n_in, n_out, s in zip(values.shape[-2:], shape, scale, strict=True)
    )
    top, bottom = rows.needs(*window[:2])
    left, right = columns.needs(*window[2:])
    # All leading axes: a PlaneOf wants one slice each.
    lead = (slice(None),) * (len(values.shape) - 2)
    block = np.asarray(values[(*lead, slice(top, bottom), slice(left, right))], np.float32)
    block = block.reshape(-1, *block.shape[-2:])
    return resample(block, rows, columns, window, (top, left))


def reduced(name: str, values: Tensor) -> Tensor:
    """One image (h, w) of a native map (C, h, w)."""
    if len(values) == 1:
        return values[0]
    if name == "global_query":
        return values.square().sum(dim=0).sqrt()
    return values.mean(dim=0)


def wide_bytes(base: int, plane: ScaledPlane) -> int:
    """Memory for the local gates and the query of a plane, unreduced."""
    return 4 * (4 * 4 * base + base) * -(-plane.shape[0] // 4) * -(-plane.shape[1] // 4)


class Collector:
    """A `napari_sa2net.inference.predict.Watch` that joins what the tiles show.

    Parameters
    ----------
    plane : ScaledPlane
    unreduced : collection of str
        Names of the maps of many channels to keep unreduced.
    heads : bool
        Collect the heads' probabilities.
    channels : mapping of str to int, optional
        Of these maps take only one channel, instead of reducing.
    classes : int, optional
        How many of the heads' channels are classes (`config.n_classes`); unsaid: all.

    Attributes
    ----------
    single : dict of str to (h, w)
        Reduced maps, or the channels that were asked for.
    wide : dict of str to (C, h, w)
        Unreduced maps.
    heads : dict of stride to (outputs, h, w)
        Probabilities on the heads' own grids.
    n_channels : dict of str to int
    """

    def __init__(
        self,
        plane: ScaledPlane,
        unreduced: Sequence[str] = (),
        heads: bool = False,
        channels: Mapping[str, int] | None = None,
        classes: int | None = None,
    ) -> None:
        self._classes = classes
        self._shape = plane.shape
        self._unreduced = set(unreduced)
        self._with_heads = heads
        self._channels = channels
        self._seen: dict[tuple[str, str], Tensor] = {}
        self.single: dict[str, Any] = {}
        self.wide: dict[str, Any] = {}
        self.heads: dict[int, Any] = {}
        self.n_channels: dict[str, int] = {}

    def maps(self, plane: ScaledPlane) -> AttentionMaps:
        """What was collected."""
        return AttentionMaps(self.single, self.wide, self.n_channels, plane)

    def begin(self) -> None:
        """A tile begins."""
        self._seen = {}

    def look(self, name: str, values: Tensor) -> None:
        """Add a map or head of one pass."""
        if name.startswith("head_"):
            if self._with_heads:
                self._add("head", name, activate(values[None], self._classes)[0])
            return
        self.n_channels[name] = len(values)
        if self._channels is not None:
            if name in self._channels:
                self._add("single", name, values[self._channels[name]])
            return
        self._add("single", name, reduced(name, values))
        if name in self._unreduced:
            self._add("wide", name, values)

    def _add(self, kind: str, name: str, values: Tensor) -> None:
        before = self._seen.get((kind, name))
        # A copy: the network goes on to write over what it shows.
        self._seen[kind, name] = values.clone() if before is None else before.add_(values)

    def store(self, tile: Tile, keep: Part, passes: int) -> None:
        """Put what was seen of a tile in its place."""
        for (kind, name), total in self._seen.items():
            values = total / passes if passes > 1 else total
            stride = int(name.removeprefix("head_")) if kind == "head" else MAP_STRIDES[name]
            out = self._array(kind, name, stride, len(values))
            core = tile.core
            y0, x0 = core.y0 // stride, core.x0 // stride
            y1, x1 = -(-core.y1 // stride), -(-core.x1 // stride)
            top, left = (tile.read.y0 + keep[0]) // stride, (tile.read.x0 + keep[2]) // stride
            part = values[..., y0 - top : y1 - top, x0 - left : x1 - left]
            lead = (slice(None),) * (values.ndim - 2)
            window = (*lead, slice(y0, y1), slice(x0, x1))
            if isinstance(out, np.ndarray):
                # torch turns channels-last around many times faster than numpy.
                torch.from_numpy(out[window]).copy_(part)
            else:
                out[window] = part.cpu().numpy()

    def _array(self, kind: str, name: str, stride: int, channels: int) -> Any:
        """Where a map is written; made for the first tile."""
        grid = tuple(-(-n // stride) for n in self._shape)
        if kind == "head":
            if stride not in self.heads:
                self.heads[stride] = allocate((channels, *grid), np.float32)
            return self.heads[stride]
        if kind == "wide":
            if name not in self.wide:
                limit = WIDE_LIMIT // len(WIDE)
                self.wide[name] = allocate((channels, *grid), np.float32, limit, CHUNK)
            return self.wide[name]
        if name not in self.single:
            own = allocate((1, *grid), np.float32)
            self.single[name] = own[0] if isinstance(own, np.ndarray) else PlaneOf(own, (0,))
            if self.n_channels[name] == 1:
                self.wide[name] = own
        return self.single[name]


def attention_maps(
    model: Model,
    plan: ImagePlan,
    scale: float = 1.0,
    *,
    config: PredictConfig | None = None,
    input_config: InputConfig | None = None,
    progress: Progress | None = None,
    cancelled: CancelCallback | None = None,
) -> AttentionMaps:
    """Run the network in float32 and collect all its attention maps.

    Parameters
    ----------
    model : Model
    plan : ImagePlan
        Of a single plane.
    scale : float
        Network pixels per image pixel.
    config : PredictConfig, optional
        Its precision and averaging of flips are not used.
    input_config : InputConfig, optional
        What the plan was made for, where that is not the model's own.
    progress, cancelled : callable, optional
        As of `segment`.

    Raises
    ------
    DeviceError, OutOfMemoryError, Cancelled
    """
    exact = {"precision": "float32", "augment": False, "engine": "torch"}
    config = (config or PredictConfig()).model_copy(update=exact)
    predictor = Predictor(model, config, input_config)
    plane = predictor.scaled(plan, (), scale)
    collector = Collector(plane, WIDE)
    if 0 in plan.spatial:
        predictor.probabilities(
            np.zeros((model.net.in_channels, STRIDE, STRIDE), np.float32), look=collector.look
        )
        channels = collector.n_channels
        native = {name: np.zeros((n, 0, 0), np.float32) for name, n in channels.items()}
        reduced = {name: values[0] for name, values in native.items()}
        return AttentionMaps(reduced, native, channels, plane)
    predictor.predict_plane(
        plan,
        (),
        scale,
        out=Nowhere(),
        watch=collector,
        on_tile=progress and (lambda i, n: progress(i, n, SEGMENTING)),
        cancelled=cancelled,
    )
    return collector.maps(plane)


class Nowhere:
    """Takes what is written to it and keeps nothing."""

    def __setitem__(self, key: Any, values: Any) -> None:
        pass


def attention(
    image: Any,
    model: str | os.PathLike[str] | Model = "nuclei",
    axes: str | None = None,
    channels: int | Iterable[int] | None = None,
    diameter: float | None = None,
    normalize: bool = True,
    device: str = "auto",
    *,
    progress: Progress | None = None,
    cancelled: CancelCallback | None = None,
    **settings: Unpack[PredictSettings],
) -> AttentionMaps:
    """Attention maps of the network on one image.

    Parameters
    ----------
    image, model, axes, channels, diameter, normalize, device
        As of `segment`. The image must be a single plane.
    progress, cancelled : callable, optional
        As of `segment`.
    **settings
        Any field of `PredictConfig`.

    Returns
    -------
    AttentionMaps
        A mapping: maps[name] is float32 (Y, X) at image size, channels reduced;
        maps.native[name] is unreduced (C, h, w) on the network's grid. Computed in float32
        without averaging flips. Large ones are zarr on disk.

    Raises
    ------
    AxesError
        If the image is a stack.
    and the errors of `segment`.
    """
    loaded = load_model(model)
    predict, _ = split_settings(
        loaded.card.instance, diameter=diameter, device=device, **settings
    )
    refuse_tissue(predict)
    plan = plan_for(loaded, image, axes, channels, normalize, predict)
    if plan.stack_shape:
        raise AxesError(
            f"Attention is shown for one plane, but the image is a stack ({plan.axes}). "
            "Pass one plane of it, or spell the axes if one of them is channels."
        )
    predictor = Predictor(loaded, predict, input_config=plan.model_input)
    instances = loaded.card.instance
    predictor, plan, _, scale = look_first(predictor, plan, instances, cancelled, progress)
    return attention_maps(
        predictor.model,
        plan,
        scale,
        config=predict,
        input_config=plan.model_input,
        progress=progress,
        cancelled=cancelled,
    )


# --------------------------------------------------------------------------------------------
# What if the network had attended otherwise: only what a change touches is run again.

#: Memory for what is kept of the tiles of one box (bytes). Tiles beyond it run as a whole.
CACHE_BYTES = 2**29


@dataclass
class _Held:
    """What is kept of a tile: its input, and per pass what a change does not touch."""

    x: NDArray[np.float32]
    memos: list[Memo]

    @property
    def n_bytes(self) -> int:
        return self.x.nbytes + sum(n_bytes(memo) for memo in self.memos)


class WhatIfRun:
    """A box of a plane, to be predicted again and again with attention changed.

    With nothing changed it is the ordinary prediction of the box, bit for bit.

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
        Of the image; the whole plane if not given.
    max_bytes : int
        Memory for what is kept.

    Attributes
    ----------
    box : (y0, y1, x0, x1)
    from_cache : bool
        Whether the last run found everything kept that it did not need to run.
    """

    def __init__(
        self,
        predictor: Predictor,
        plan: ImagePlan,
        index: tuple[int, ...] = (),
        scale: float = 1.0,
        box: Box | None = None,
        *,
        max_bytes: int = CACHE_BYTES,
    ) -> None:
        self.predictor = predictor
        self._part = plan.part(index, box)
        self._read = with_context(predictor, self._part, scale)
        self._flat = plan.is_empty or plan.constant
        at = (0,) * len(plan.stack_shape)
        self._plane = predictor.scaled(self._read, at, scale)
        self.box = self._part.box
        self._max_bytes = max_bytes
        self._held: dict[Tile, _Held] = {}
        self._pooled: dict[int, dict[str, Tensor]] = {}
        self._full = False
        self._tile = predictor.tile
        self.from_cache = False

    @property
    def n_bytes(self) -> int:
        """Memory that is held."""
        return sum(held.n_bytes for held in self._held.values())

    def run(
        self,
        gates: Sequence[bool | None] = AS_TRAINED.gates,
        gamma: Sequence[float | None] = AS_TRAINED.gamma,
        se_gamma: Sequence[float | None] = AS_TRAINED.se_gamma,
        *,
        on_tile: Callable[[int, int], None] | None = None,
        cancelled: CancelCallback | None = None,
    ) -> Any:
        """Class probabilities of the box.

        Parameters
        ----------
        gates : four bools, or None
            Scale gates 1…4: False switches one off (0), True on, None keeps it as the model
            has it.
        gamma : four floats in 0…8, or None
            Exponents of ψ at strides 8, 4, 2, 1, whatever the model's own: 0 is off, 1 plain
            ψ. None keeps the model's own.
        se_gamma : four floats in 0…8, or None
            The same of squeeze and excitation on the skips at these strides.
        on_tile, cancelled : callable, optional
            As of `Predictor.predict_plane`.

        Returns
        -------
        array-like float32 (classes, h, w)

        Raises
        ------
        SettingsError
            If an exponent is out of bounds or something does not come in four.
        OutOfMemoryError, Cancelled, ImageError
        """
        change = checked(gates, gamma, se_gamma)
        predictor, plane = self.predictor, self._plane
        out = allocate((predictor.n_classes, *self._read.spatial), np.float32)
        if self._flat:
            fill_background(out)
            return cropped(out, self._read, self._part)
        self.from_cache = True

        def visit(tile: Tile) -> None:
            if predictor.tile != self._tile:
                # Memory ran out: none for keeping things.
                self._tile, self._full = predictor.tile, True
                self._held.clear()
            keep = predictor.kept(plane, tile)
            held = self._held.get(tile)
            if held is None:
                self.from_cache = False
                held = self._of_tile(tile)
            values = predictor.probabilities(held.x, keep, change=change, memos=held.memos)
            predictor.write(values, plane, tile, keep, out)
            if held.memos and tile not in self._held:
                self._hold(tile, held)

        predictor.each_tile(plane, visit, on_tile, cancelled, self._pooled)
        return cropped(out, self._read, self._part)

    def _of_tile(self, tile: Tile) -> _Held:
        read = tile.read
        x = self._plane.read(read.y0, read.y1, read.x0, read.x1)
        return _Held(x, [] if self._full else [{} for _ in range(self.predictor.n_passes)])

    def _hold(self, tile: Tile, held: _Held) -> None:
        if self.n_bytes + held.n_bytes <= self._max_bytes:
            self._held[tile] = held
        else:
            # First come, first kept: runs go over the tiles in one order, so dropping the
            # oldest would drop each one just before it is needed.
            self._full = True


def checked(
    gates: Sequence[bool | None],
    gamma: Sequence[float | None],
    se_gamma: Sequence[float | None] = AS_TRAINED.se_gamma,
) -> Change:
    """The change, if it is one; raises as `check_change`."""
    check_change(gates, gamma, se_gamma)
    switches = tuple(None if on is None else bool(on) for on in gates)
    return Change(switches, _floats(gamma), _floats(se_gamma))


def _floats(values: Sequence[float | None]) -> tuple[float | None, ...]:
    return tuple(None if value is None else float(value) for value in values)
