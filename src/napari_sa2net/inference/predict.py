"""The network over planes of any size: tile by tile, in and out of lazy arrays."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_sa2net.config import CancelCallback, InputConfig, PredictConfig, n_classes
from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.errors import Cancelled, OutOfMemoryError, SettingsError
from napari_sa2net.inference.cpu import Library, check_engine, optimised
from napari_sa2net.inference.devices import (
    fast_dtype,
    give_memory_back,
    is_out_of_memory,
    memory_kept,
    resolve_device,
)
from napari_sa2net.inference.stages import AS_TRAINED, Change, Memo, Part, See
from napari_sa2net.inference.tiling import (
    STRIDE,
    Axis,
    Plane,
    ScaledPlane,
    Seams,
    Tile,
    plan_tiles,
)
from napari_sa2net.models.file import Model
from napari_sa2net.nn import (
    activate,
    adapted_to,
    fixed_statistics,
    pad_to_stride,
    pooled_statistics,
    pools_globally,
)

# --------------------------------------------------------------------------------------------
# What is seen of a tile while it is predicted: the part that is kept, the right way round.

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
    around = 0 if axis.is_identity else STRIDE  # the taps reach 8 px at most, as of MAX_SCALE
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


# --------------------------------------------------------------------------------------------
# Statistics of a whole plane, for networks that weigh channels by what they see of it all.
#
# Squeeze and excitation pools over its whole input, so tiles on their own would disagree. Its
# statistics therefore come from one coarse pass over the whole plane, whatever the tiles are.

#: Side (network px) of the largest square plane whose statistics are taken as it is; larger
#: planes are shrunk to its area.
COARSE_SIDE = 1024


def coarse_plane(plane: ScaledPlane, side: int = COARSE_SIDE) -> ScaledPlane:
    """The plane, shrunk to at most the area of a square; itself if it is not larger.

    Of a plane that shows a part of an image, the plane of that image.
    """
    part = plane.plan
    if isinstance(part, ImagePlan) and part.spatial != part.whole.spatial:
        plane = ScaledPlane(part.whole, part.in_whole(plane.index), plane.rows.scale)
    height, width = plane.shape
    shrink = side / math.sqrt(height * width)
    if shrink >= 1:
        return plane
    if plane.rows.scale != plane.columns.scale:  # a model of a fixed input size
        return ScaledPlane(
            plane.plan, plane.index, resize_to=side, antialias=plane.rows.antialias
        )
    return ScaledPlane(plane.plan, plane.index, plane.rows.scale * shrink)


@contextmanager
def whole_plane(
    net: nn.Module,
    plane: ScaledPlane,
    dtype: torch.dtype = torch.float32,
    side: int = COARSE_SIDE,
    kept: dict[int, dict[str, Tensor]] | None = None,
) -> Iterator[None]:
    """Inside the block, windows of a plane are seen as parts of it.

    Parameters
    ----------
    net : Module
        In eval mode, on its device. One that pools nothing is not run.
    plane : ScaledPlane
    dtype : torch.dtype
        Precision of the coarse pass.
    side : int
        As of `coarse_plane`.
    kept : dict, optional
        Statistics of this plane by side: taken from it, or put into it for later.
    """
    if not pools_globally(net):
        yield
        return
    statistics = {} if kept is None else kept
    if side not in statistics:
        statistics[side] = _statistics(net, coarse_plane(plane, side), dtype)
    with fixed_statistics(net, statistics[side]):
        yield


def _statistics(net: nn.Module, coarse: ScaledPlane, dtype: torch.dtype) -> dict[str, Tensor]:
    device = next(net.parameters()).device
    x = torch.from_numpy(coarse.read(0, coarse.shape[0], 0, coarse.shape[1]))[None]
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
    ):
        return pooled_statistics(net, pad_to_stride(x.to(device)))


#: Context around a tile's core that is read and cropped away (network px). The network looks
#: 208 px far at most; what lies beyond the halo changes probabilities by less than 1e-3
#: (benchmarks/measure_halo.py).
HALO = 128
#: Side of a tile (network px) where the settings do not say.
DEFAULT_TILE = {"cpu": 1024, "cuda": 2048, "mps": 1024}

#: From more tiles on, memory is kept from one for the next, and handed back at the end.
MANY_TILES = 4
#: And after every so many: they differ in size, so that holes are left which grow.
TIDIED = 8

#: Axes flipped in turn when averaging over flips.
FLIPS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))

Wanted = Callable[[int, int, int, int], bool]
"""Whether rows y0…y1-1 and columns x0…x1-1 of the image are to be predicted."""


def is_wanted(tile: Tile, plane: ScaledPlane, wanted: Wanted | None) -> bool:
    """Whether a tile is to be run."""
    core = tile.core
    return wanted is None or wanted(*plane.image_window(core.y0, core.y1, core.x0, core.x1))


#: What goes on, as a person reads it.
FINDING_SIZE = "finding the size of the cells"
ASKING_STAIN = "looking with and without the brown stain"
ADAPTING = "looking whether the model has to be adapted"
SEGMENTING = "segmenting"


class Predictor:
    """A model, ready to run on a device.

    Parameters
    ----------
    model : Model
        Left as it is; the predictor works on a copy of its network.
    config : PredictConfig, optional
    input_config : InputConfig, optional
        What the image plan was made for, where that is not the model's own.

    Attributes
    ----------
    device : torch.device
    dtype : torch.dtype
        Precision of the network's bulk.
    tile : int
        Side of a tile (network px); becomes smaller when memory runs out.
    n_classes : int

    Raises
    ------
    DeviceError
        If the device that was asked for is not there.
    """

    def __init__(
        self,
        model: Model,
        config: PredictConfig | None = None,
        input_config: InputConfig | None = None,
    ) -> None:
        self.config = config or PredictConfig()
        self.model = model
        self.card = model.card
        self.input = input_config or model.card.input
        self.n_classes = model.net.n_classes
        self._classes = n_classes(model.card.classes)
        engine = self.config.engine
        by_library = check_engine(engine)
        own_device = "cpu" if by_library and self.config.device == "auto" else None
        self.device = resolve_device(own_device or self.config.device)
        if by_library and self.device.type != "cpu":
            raise SettingsError(
                f"{engine} runs on the processor here. Choose --device cpu, or --engine torch."
            )
        exact = by_library or self.config.precision == "float32"
        self.dtype = torch.float32 if exact else fast_dtype(self.device)
        self.min_tile = 2 * HALO + 4 * STRIDE
        wanted = self.config.tile or DEFAULT_TILE[self.device.type]
        self.tile = max(wanted, self.min_tile)
        self._library = Library(model, engine) if by_library else None
        self._net = optimised(model.net, self.device, self.dtype)
        self._coarse = COARSE_SIDE

    @property
    def adapts(self) -> bool:
        """Whether it can be adapted to an image, and is not yet.

        Not a model that is given images as they are, without finding their size, nor one that
        a library runs as it was exported.
        """
        config = self.config
        sized = config.rescale and self.card.diameter and not self.input.resize_to
        return bool(config.adapt != "off" and sized and not (self.model.base or self._library))

    def adapted(self, windows: Sequence[NDArray[np.float32]]) -> Predictor:
        """A predictor whose encoder is normalised by what an image shows.

        Parameters
        ----------
        windows : sequence of float32 (in_channels, h, w)
            Of the image, ready for the network and of one size.

        Returns
        -------
        Predictor
            With a model of its own; this one if it does not adapt, see `adapts`.
        """
        if not self.adapts:
            return self
        net = adapted_to(self.model.net, torch.cat([self._batch(one) for one in windows]))
        return self.with_encoder(replace(self.model, net=net, base=self.model))

    def with_encoder(self, model: Model) -> Predictor:
        """The same for a model that differs in its encoder; all else is shared."""
        own = copy.copy(self)
        own.model, own._net = model, self._net.with_encoder(model.net)
        return own

    @property
    def used(self) -> tuple[str, str]:
        """Names of device and precision."""
        return str(self.device), str(self.dtype).removeprefix("torch.")

    @property
    def engine(self) -> str:
        """What runs the network where nothing of it is looked at or changed."""
        return "torch" if self._library is None else self._library.name

    def scaled(self, plan: Plane, index: tuple[int, ...], scale: float) -> ScaledPlane:
        """The plane as this model's network sees it."""
        return ScaledPlane(plan, index, scale, self.input.resize_to, self.input.antialias)

    def tiles(self, plane: ScaledPlane) -> list[Tile]:
        """Tiles in which a plane is run."""
        return plan_tiles(*plane.shape, self.tile, HALO)

    def seams(self, plan: ImagePlan, scale: float = 1.0) -> Seams:
        """Where the tiles of an image's planes met that were run last."""
        plane = self.scaled(plan, (), scale)
        height, width = plane.shape
        cores = [tile.core for tile in self.tiles(plane)]
        rows = sorted({core.y0 for core in cores if core.y0})
        columns = sorted({core.x0 for core in cores if core.x0})
        return (
            tuple(plane.image_window(y, height, 0, width)[0] for y in rows),
            tuple(plane.image_window(0, height, x, width)[2] for x in columns),
        )

    def predict_plane(
        self,
        plan: Plane,
        index: tuple[int, ...] = (),
        scale: float = 1.0,
        *,
        out: Any = None,
        watch: Watch | None = None,
        on_tile: Callable[[int, int], None] | None = None,
        cancelled: CancelCallback | None = None,
        wanted: Wanted | None = None,
    ) -> Any:
        """Class probabilities of one plane, at image size.

        Parameters
        ----------
        plan : ImagePlan, or another `tiling.Plane`
        index : tuple of int
            Which plane of the stack.
        scale : float
            Network pixels per image pixel.
        out : array-like (classes, H, W) float32, optional
            Where to write, block by block; a new numpy array if not given.
        watch : Watch, optional
            Shown the attention maps and heads; the probabilities stay what they are.
        on_tile : callable (done, total), optional
            Before the first tile, and after every one.
        cancelled : callable -> bool, optional
            Asked before every tile.
        wanted : callable (y0, y1, x0, x1) -> bool, optional
            Whether a window of the image is; `out` stays as it is elsewhere.

        Returns
        -------
        `out`

        Raises
        ------
        Cancelled
            When `cancelled` says so; `out` is then partly written.
        OutOfMemoryError
            If memory runs out with the smallest tiles.
        """
        plane = self.scaled(plan, index, scale)
        if out is None:
            out = np.zeros((self.n_classes, *plan.spatial), np.float32)

        look = None if watch is None else watch.look

        def visit(tile: Tile) -> None:
            read = tile.read
            keep = self.kept(plane, tile)
            if watch is not None:
                watch.begin()
            x = plane.read(read.y0, read.y1, read.x0, read.x1)
            values = self.probabilities(x, keep, look)
            self.write(values, plane, tile, keep, out)
            if watch is not None:
                watch.store(tile, keep, self.n_passes)

        self.each_tile(plane, visit, on_tile, cancelled, wanted=wanted)
        return out

    def look_at_plane(
        self,
        plan: ImagePlan,
        index: tuple[int, ...],
        scale: float,
        watch: Watch,
        *,
        on_tile: Callable[[int, int], None] | None = None,
        cancelled: CancelCallback | None = None,
    ) -> None:
        """Show a plane's local gates, scale gates and query; what follows is not run.

        Parameters and errors as of `predict_plane`.
        """
        plane = self.scaled(plan, index, scale)

        def visit(tile: Tile) -> None:
            read = tile.read
            keep = self.kept(plane, tile)
            watch.begin()
            with torch.inference_mode():
                batch = self._batch(plane.read(read.y0, read.y1, read.x0, read.x1))
                part = on_grid(keep, read.shape, batch)
                for axes in self._flips:
                    see = see_through(
                        watch.look, flipped_part(part, axes, *batch.shape[-2:]), axes
                    )
                    self._net.see_attention(batch.flip(axes) if axes else batch, see)
            watch.store(tile, keep, self.n_passes)

        self.each_tile(plane, visit, on_tile, cancelled)

    def each_tile(
        self,
        plane: ScaledPlane,
        visit: Callable[[Tile], None],
        on_tile: Callable[[int, int], None] | None = None,
        cancelled: CancelCallback | None = None,
        pooled: dict[int, dict[str, Tensor]] | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        """Visit all tiles; all of them again, smaller ones, when memory runs out.

        `pooled` keeps what the whole plane showed, where it is visited more than once;
        `wanted` is as of `predict_plane`.

        Raises
        ------
        Cancelled
        OutOfMemoryError
            If memory runs out with the smallest tiles.
        """

        def run() -> None:
            tiles = [one for one in self.tiles(plane) if is_wanted(one, plane, wanted)]
            if on_tile:
                on_tile(0, len(tiles))
            many = len(tiles) > MANY_TILES
            with self.whole_plane(plane, pooled), memory_kept() if many else nullcontext():
                for done, tile in enumerate(tiles):
                    if cancelled and cancelled():
                        raise Cancelled("Cancelled; nothing was changed.")
                    visit(tile)
                    if (done + 1) % TIDIED == 0:
                        give_memory_back()
                    if on_tile:
                        on_tile(done + 1, len(tiles))

        self._with_smaller_tiles(run)

    def whole_plane(
        self, plane: ScaledPlane, pooled: dict[int, dict[str, Tensor]] | None = None
    ) -> AbstractContextManager[None]:
        """Inside the block, windows of a plane are seen as parts of it.

        That makes a difference (and costs a coarse pass) for networks with squeeze and
        excitation only.
        """
        net = getattr(self._net, "net", None)
        if net is None:
            return nullcontext()
        return whole_plane(net, plane, self.dtype, self._coarse, pooled)

    @property
    def n_passes(self) -> int:
        """Passes of the network per tile."""
        return len(self._flips)

    @property
    def _flips(self) -> tuple[tuple[int, ...], ...]:
        return FLIPS if self.config.augment else FLIPS[:1]

    @staticmethod
    def write(
        values: NDArray[np.float32], plane: ScaledPlane, tile: Tile, keep: Part, out: Any
    ) -> None:
        """Put the kept part of a tile's values (C, h, w) where it belongs in the image."""
        read, core = tile.read, tile.core
        y0, y1, x0, x1 = plane.image_window(core.y0, core.y1, core.x0, core.x1)
        if y1 > y0 and x1 > x0:
            out[:, y0:y1, x0:x1] = plane.to_image(
                values, (read.y0 + keep[0], read.x0 + keep[2]), (y0, y1, x0, x1)
            )

    def context(
        self, spatial: tuple[int, int], box: tuple[int, int, int, int], scale: float
    ) -> tuple[int, int, int, int]:
        """A box (y0, y1, x0, x1) of an image, widened by what its probabilities depend on."""
        margin = max(spatial) if self.input.resize_to else int(np.ceil(HALO / scale))
        (height, width), (y0, y1, x0, x1) = spatial, box
        return (
            max(0, y0 - margin),
            min(height, y1 + margin),
            max(0, x0 - margin),
            min(width, x1 + margin),
        )

    def kept(self, plane: ScaledPlane, tile: Tile) -> Part:
        """Part of a tile's window that is kept, with what resampling back looks at."""
        read, core = tile.read, tile.core
        rows = kept_range(plane.back_rows, read.y0, core.y0, core.y1, read.y1)
        columns = kept_range(plane.back_columns, read.x0, core.x0, core.x1, read.x1)
        return (*rows, *columns)

    def probabilities(
        self,
        x: NDArray[np.float32],
        keep: Part | None = None,
        look: Look | None = None,
        change: Change = AS_TRAINED,
        memos: Sequence[Memo | None] | None = None,
    ) -> NDArray[np.float32]:
        """Run the network on one array that is ready for it.

        Parameters
        ----------
        x : (in_channels, h, w) float32
        keep : (y0, y1, x0, x1), optional
            Part that is wanted, from multiples of 16 to multiples of 16 or the edge; cheaper
            than all of it, and the same values.
        look : callable, optional
            See `Look`.
        change : Change
            Of attention.
        memos : sequence of dict, one per pass, optional
            Made at the first call, so that later ones with the same x and keep run only what
            a change touches.

        Returns
        -------
        (classes, h, w) float32, or as large as `keep`
            Softmax over the classes, or the sigmoid of a one-class model.
        """
        height, width = x.shape[-2:]
        y0, y1, x0, x1 = keep = keep or (0, height, 0, width)
        with torch.inference_mode():
            batch = self._batch(x)
            h, w = batch.shape[-2:]
            part = on_grid(keep, (height, width), batch)
            total: Tensor | None = None
            # Flipped after padding, so that poolings fall on one grid in every tile.
            for i, axes in enumerate(self._flips):
                flipped = flipped_part(part, axes, h, w)
                seen = batch.flip(axes) if axes else batch
                if self._library and look is None and memos is None and change == AS_TRAINED:
                    top, bottom, left, right = flipped
                    logits = self._library(seen)[..., top:bottom, left:right]
                else:
                    logits = self._net(
                        seen,
                        flipped,
                        look and see_through(look, flipped, axes),
                        change,
                        memos[i] if memos else None,
                    )
                p = activate(logits.float(), self._classes)
                p = p.flip(axes) if axes else p
                total = p if total is None else total.add_(p)
            assert total is not None
            if self.config.augment:
                total = total.div_(len(FLIPS))
            return total[0, :, : y1 - y0, : x1 - x0].cpu().numpy()

    def _batch(self, x: NDArray[np.float32]) -> Tensor:
        return pad_to_stride(torch.from_numpy(x)[None].to(self.device))

    def _with_smaller_tiles(self, run: Callable[[], None]) -> None:
        """Call run; after each out-of-memory halve the tile and call it again."""
        while True:
            try:
                return run()
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
                    raise
                if self.tile <= self.min_tile:
                    raise OutOfMemoryError(
                        f"Memory ran out even with pieces of {self.tile} px. Close other "
                        "programs, choose the device 'cpu', or use a smaller model."
                    ) from error
            # Outside the except clause: the traceback would keep the tensors alive.
            half = self.tile // 2 // STRIDE * STRIDE
            self.tile = max(self.min_tile, half)
            self._coarse = min(self._coarse, self.tile)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
