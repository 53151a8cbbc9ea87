"""What a closed dock leaves of its layers, for the one that is opened next in this napari."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_sa2net.app.segment import ResultState
    from napari_sa2net.engine.messages import SegmentResult
    from napari_sa2net.widgets.napari_port.results import Area


@dataclass(frozen=True, eq=False)
class LeftResult:
    """A result that a layer showed.

    Attributes
    ----------
    key
        Of the result.
    image
        Key of its image.
    number
        Results that came later have higher ones.
    result, area, edited
        As of `ResultLayer`.
    state
        Where it was the newest of its image; without the image's pixels.
    labels
        Digest of the labels when the dock was closed.
    """

    key: str
    image: str
    number: int
    result: SegmentResult
    area: Area | None
    edited: bool
    state: ResultState | None
    labels: int | None


@dataclass(frozen=True, eq=False)
class LeftTable:
    """A table that followed a layer's cells, and the digest of its labels then.

    It is empty where it was still to come.
    """

    columns: Mapping[str, Any]
    labels: int | None


#: Nothing in the values holds the layers.
RESULTS: WeakKeyDictionary[Labels, LeftResult] = WeakKeyDictionary()
TABLES: WeakKeyDictionary[Labels, LeftTable] = WeakKeyDictionary()
#: Axes and channels as a person chose them.
CHOSEN: WeakKeyDictionary[Image, tuple[str | None, tuple[int, ...] | None]] = (
    WeakKeyDictionary()
)


def digest(layer: Labels) -> int | None:
    """Changes with any label of a layer; None where they do not lie in memory."""
    if not isinstance(layer.data, np.ndarray) or isinstance(layer.data, np.memmap):
        return None
    return zlib.crc32(np.ascontiguousarray(layer.data).data, layer.data.ndim)
