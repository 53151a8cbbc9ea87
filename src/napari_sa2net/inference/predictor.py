"""The network over planes of any size: tile by tile, in and out of lazy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_sa2net.config import InputConfig, PredictConfig
from napari_sa2net.errors import Cancelled, OutOfMemoryError
from napari_sa2net.inference.devices import fast_dtype, is_out_of_memory, resolve_device
from napari_sa2net.inference.fast import optimised
from napari_sa2net.inference.resample import Axis, Plane, ScaledPlane
from napari_sa2net.inference.staged import Part
from napari_sa2net.inference.tiles import STRIDE, Tile, plan_tiles
from napari_sa2net.models.card import ModelCard
from napari_sa2net.nn import Network, pad_to_stride

#: Context around a tile's core that is read and cropped away (network px). The network looks
#: 208 px far at most; what lies beyond the halo changes probabilities by less than 1e-3
#: (benchmarks/measure_halo.py).
HALO = 128
#: Side of a tile (network px) where the settings do not say.
DEFAULT_TILE = {"cpu": 1024, "cuda": 2048, "mps": 1024}

MIN_SCALE, MAX_SCALE = 1 / 8, 8.0
#: Scales this close to 1 are 1: resampling would cost more than it brings.
SCALE_TOLERANCE = 0.05

#: Axes flipped in turn when averaging over flips.
FLIPS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))

ProgressCallback = Callable[[int, int, str], None]
CancelCallback = Callable[[], bool]


class ModelLike(Protocol):
    """What is used of a `napari_sa2net.models.Model`."""

    @property
    def net(self) -> Network: ...

    @property
    def card(self) -> ModelCard: ...


def network_scale(
    diameter: float | None, model_diameter: float | None, spatial: tuple[int, int]
) -> float:
    """Network pixels per image pixel for objects of a diameter.

    Parameters
    ----------
    diameter, model_diameter : float or None
        Typical object diameter in the image and in the model's training images (px);
        either unknown gives 1.
    spatial : (H, W) of the image

    Returns
    -------
    float
        In 1/8…8, exactly 1 when within 5 %, and not so small that the shorter side falls
        below 16 network pixels.
    """
    if not diameter or not model_diameter:
        return 1.0
    smallest = min(1.0, STRIDE / max(1, min(spatial)))
    scale = min(max(model_diameter / diameter, MIN_SCALE, smallest), MAX_SCALE)
    return 1.0 if abs(scale - 1) < SCALE_TOLERANCE else scale


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
        model: ModelLike,
        config: PredictConfig | None = None,
        input_config: InputConfig | None = None,
    ) -> None:
        self.config = config or PredictConfig()
        self.card = model.card
        self.input = input_config or model.card.input
        self.n_classes = model.net.n_classes
        self.device = resolve_device(self.config.device)
        self.dtype = (
            torch.float32 if self.config.precision == "float32" else fast_dtype(self.device)
        )
        self.min_tile = 2 * HALO + 4 * STRIDE
        wanted = self.config.tile or DEFAULT_TILE[self.device.type]
        self.tile = max(wanted, self.min_tile)
        self._net = optimised(model.net, self.device, self.dtype)

    def scaled(self, plan: Plane, index: tuple[int, ...], scale: float) -> ScaledPlane:
        """The plane as this model's network sees it."""
        return ScaledPlane(plan, index, scale, self.input.resize_to)

    def tiles(self, plane: ScaledPlane) -> list[Tile]:
        """Tiles in which a plane is run."""
        return plan_tiles(*plane.shape, self.tile, HALO)

    def predict_plane(
        self,
        plan: Plane,
        index: tuple[int, ...] = (),
        scale: float = 1.0,
        *,
        out: Any = None,
        on_tile: Callable[[int, int], None] | None = None,
        cancelled: CancelCallback | None = None,
    ) -> Any:
        """Class probabilities of one plane, at image size.

        Parameters
        ----------
        plan : ImagePlan
        index : tuple of int
            Which plane of the stack.
        scale : float
            Network pixels per image pixel.
        out : array-like (classes, H, W) float32, optional
            Where to write, block by block; a new numpy array if not given.
        on_tile : callable (done, total), optional
            After every tile.
        cancelled : callable -> bool, optional
            Asked before every tile.

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

        def run() -> None:
            tiles = self.tiles(plane)
            for done, tile in enumerate(tiles):
                if cancelled and cancelled():
                    raise Cancelled("Cancelled; nothing was changed.")
                read, core = tile.read, tile.core
                keep = self._kept(plane, tile)
                values = self.probabilities(
                    plane.read(read.y0, read.y1, read.x0, read.x1), keep
                )
                y0, y1, x0, x1 = plane.image_window(core.y0, core.y1, core.x0, core.x1)
                if y1 > y0 and x1 > x0:
                    out[:, y0:y1, x0:x1] = plane.to_image(
                        values, (read.y0 + keep[0], read.x0 + keep[2]), (y0, y1, x0, x1)
                    )
                if on_tile:
                    on_tile(done + 1, len(tiles))

        self._with_smaller_tiles(run)
        return out

    def _kept(self, plane: ScaledPlane, tile: Tile) -> Part:
        """Part of a tile's window that is kept, with what resampling back looks at."""
        read, core = tile.read, tile.core
        rows = _kept_range(plane.back_rows, read.y0, core.y0, core.y1, read.y1)
        columns = _kept_range(plane.back_columns, read.x0, core.x0, core.x1, read.x1)
        return (*rows, *columns)

    def probabilities(
        self, x: NDArray[np.float32], keep: Part | None = None
    ) -> NDArray[np.float32]:
        """Run the network on one array that is ready for it.

        Parameters
        ----------
        x : (in_channels, h, w) float32
        keep : (y0, y1, x0, x1), optional
            Part that is wanted, from multiples of 16 to multiples of 16 or the edge; cheaper
            than all of it, and the same values.

        Returns
        -------
        (classes, h, w) float32, or as large as `keep`
            Softmax over the classes, or the sigmoid of a one-class model.
        """
        height, width = x.shape[-2:]
        y0, y1, x0, x1 = keep or (0, height, 0, width)
        with torch.inference_mode():
            batch = pad_to_stride(torch.from_numpy(x)[None].to(self.device))
            h, w = batch.shape[-2:]
            part = (y0, h if y1 == height else y1, x0, w if x1 == width else x1)
            total: Tensor | None = None
            # Flipped after padding, so that poolings fall on one grid in every tile.
            for axes in FLIPS if self.config.augment else FLIPS[:1]:
                view = batch.flip(axes) if axes else batch
                p = activate(self._net(view, _flipped(part, axes, h, w)).float())
                p = p.flip(axes) if axes else p
                total = p if total is None else total.add_(p)
            assert total is not None
            if self.config.augment:
                total = total.div_(len(FLIPS))
            return total[0, :, : y1 - y0, : x1 - x0].cpu().numpy()

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
                        f"Memory ran out even with tiles of {self.tile} px. Close other "
                        "programs, choose the device 'cpu', or use a smaller model."
                    ) from error
            # Outside the except clause: the traceback would keep the tensors alive.
            half = self.tile // 2 // STRIDE * STRIDE
            self.tile = max(self.min_tile, half)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def _kept_range(
    axis: Axis, read_start: int, start: int, stop: int, read_stop: int
) -> tuple[int, int]:
    """Range start…stop with the taps of resampling back, relative to the read window."""
    around = 0 if axis.is_identity else -(-int(axis.reach + 1) // STRIDE) * STRIDE
    return max(0, start - around - read_start), min(read_stop, stop + around) - read_start


def _flipped(part: Part, axes: tuple[int, ...], height: int, width: int) -> Part:
    y0, y1, x0, x1 = part
    if -2 in axes:
        y0, y1 = height - y1, height - y0
    if -1 in axes:
        x0, x1 = width - x1, width - x0
    return y0, y1, x0, x1


def activate(logits: Tensor) -> Tensor:
    """Probabilities of logits (B, classes, H, W)."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
