"""What if the network had attended otherwise: only what a change touches is run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from napari_sa2net.config import CancelCallback
from napari_sa2net.data.plan import Box, ImagePlan
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import cropped, fill_background, with_context
from napari_sa2net.inference.stages import AS_TRAINED, Change, Memo, n_bytes
from napari_sa2net.inference.tiling import Tile, allocate
from napari_sa2net.models.card import check_change

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
