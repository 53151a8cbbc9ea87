"""What a figure is made of: all of it, a part, or as coarse as it can be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from napari_sa2net.inference.maps import AttentionMap

Labels = NDArray[np.integer[Any]]
Window = tuple[int, int, int, int]

#: Panels are this wide at most in pixels: three times what is printed, to look closer.
MOST = 1000


@dataclass(frozen=True, eq=False)
class Shown:
    """What a figure is made of.

    Attributes
    ----------
    name : str
    image : array (H, W) or (H, W, 3)
        Colours of uint8 as they are; other values are stretched.
    labels : integer array (H, W)
    maps : mapping of name to AttentionMap
        Any of the thirteen; a model without some stage has fewer.
    stages : mapping of stride to integer labels (H, W)
    objects : DataFrame
        With the columns label, refinement_px and contested.
    pixel_size_um : float or None
    window : (y0, y1, x0, x1), optional
        Part that is shown; unsaid: all of it.
    step : int
        Pixels of the image per pixel of what is given here.
    ran : bool
        The network was run; it is not on an image of one value.
    attends : str
        What attends at each stage: ψ, or the gate of a skip in a FocalUNet.
    """

    name: str
    image: NDArray[Any]
    labels: Labels
    maps: Mapping[str, AttentionMap]
    stages: Mapping[int, Labels]
    objects: pd.DataFrame
    pixel_size_um: float | None = None
    window: Window | None = None
    step: int = 1
    ran: bool = True
    attends: str = "ψ"


def part_of(shown: Shown, window: Window) -> Shown:
    """The same of a window alone."""
    y0, y1, x0, x1 = window
    cut = slice(y0, y1), slice(x0, x1)
    return replace(
        shown,
        image=shown.image[cut],
        labels=shown.labels[cut],
        stages={stride: labels[cut] for stride, labels in shown.stages.items()},
        maps={
            name: replace(one, translate=(one.translate[0] - y0, one.translate[1] - x0))
            for name, one in shown.maps.items()
        },
        window=None,
    )


def coarser(shown: Shown) -> Shown:
    """The same with as many pixels as can be seen.

    Outlines of ten thousand cells, drawn at full size in every panel, take minutes and cover
    the picture.
    """
    step = -(-max(shown.labels.shape) // MOST)
    if step == 1:
        return shown
    middle = np.ix_(
        *(np.minimum(np.arange(0, n, step) + step // 2, n - 1) for n in shown.labels.shape)
    )

    def place(one: AttentionMap) -> AttentionMap:
        values = np.asarray(one.values)
        many = tuple(
            max(1, min(n, int(step / scale)))
            for n, scale in zip(values.shape, one.scale, strict=True)
        )
        (sy, sx), (ty, tx) = one.scale, one.translate
        return replace(
            one,
            values=_means(values, many),
            scale=(sy * many[0] / step, sx * many[1] / step),
            translate=(
                _coarse_position(ty + sy * (many[0] - 1) / 2, step),
                _coarse_position(tx + sx * (many[1] - 1) / 2, step),
            ),
        )

    return replace(
        shown,
        image=_means(np.asarray(shown.image), (step, step)),
        labels=np.asarray(shown.labels)[middle],
        stages={stride: np.asarray(labels)[middle] for stride, labels in shown.stages.items()},
        maps={name: place(one) for name, one in shown.maps.items()},
        step=step,
    )


def _coarse_position(at: float, step: int) -> float:
    """Of a position in pixels that in pixels of `step` × `step`."""
    return (at + 0.5) / step - 0.5


def _means(values: NDArray[Any], many: tuple[int, int]) -> NDArray[Any]:
    """Means of blocks; those at the far edges may be smaller. Keeps the type."""
    if 0 in values.shape or many == (1, 1):
        return values
    starts = [np.arange(0, n, step) for n, step in zip(values.shape, many, strict=False)]
    # Rows first, in the order of memory: no second copy of a large image is made.
    total = np.add.reduceat(values, starts[0], axis=0, dtype=np.float32)
    total = np.add.reduceat(total, starts[1], axis=1)
    rows, columns = (
        np.diff(start, append=n) for start, n in zip(starts, values.shape, strict=False)
    )
    count = np.outer(rows, columns).reshape(*total.shape[:2], *(1,) * (values.ndim - 2))
    return np.asarray(total / count, values.dtype if values.dtype == np.uint8 else np.float32)
