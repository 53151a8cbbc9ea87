"""What the engine keeps of its results, so that sliders need no network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InstanceConfig
from napari_sa2net.engine.protocol import ObjectTable, Summary
from napari_sa2net.engine.remote import OpenImage, WindowPlan
from napari_sa2net.errors import NotKeptError
from napari_sa2net.inference.instances import foreground_probability
from napari_sa2net.inference.labelling import Planes, label_stack, measure_objects
from napari_sa2net.inference.tiles import Seams
from napari_sa2net.measure import object_table

if TYPE_CHECKING:
    import pandas as pd

MAX_BYTES = 3 * 2**29
"""Memory for kept results (1.5 GB); the newest is kept however large it is."""
MAX_RESULTS = 6


@dataclass(eq=False)
class Kept:
    """Probabilities of one run and what labels and table are made from.

    Attributes
    ----------
    plan
        Of the window that was segmented.
    image
        What the plan reads.
    probability
        float32, stack axes + (classes, Y, X) of the window; numpy or zarr.
    seams
        Where tiles met, in pixels of the window.
    """

    plan: WindowPlan
    image: OpenImage
    probability: Any
    classes: tuple[str, ...]
    pixel_size_um: float | None
    diameter: float | None
    provenance: dict[str, Any] = field(default_factory=dict)
    seams: Seams = ((), ())
    last: tuple[InstanceConfig, Any] | None = None
    z_step_um: float | None = None

    @property
    def n_bytes(self) -> int:
        """Memory that is held; what lies on disk does not count."""
        arrays = [self.probability, self.last[1] if self.last is not None else None]
        own = sum(one.nbytes for one in arrays if isinstance(one, np.ndarray))
        return own + self.image.n_bytes

    @property
    def offset(self) -> tuple[int, ...]:
        """Index of the first label in the image without C."""
        origin = self.plan.origin
        return tuple(origin[name] for name in self.plan.label_axes)

    def labels(
        self,
        config: InstanceConfig,
        cancelled: Callable[[], bool],
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Any:
        """int32 labels, the window's axes without C; the last ones are remembered.

        Raises
        ------
        Cancelled
            Between two planes.
        """
        if self.last is None or self.last[0] != config:
            self.last = None
            made = label_stack(
                self.plan,
                self.probability,
                self.classes,
                config,
                progress=progress,
                cancelled=cancelled,
            )
            self.last = (config, made)
        return self.last[1]

    def table(self, labels: Any) -> ObjectTable:
        """The object table of labels of the window, in pixels of the image."""
        table = measure_objects(
            self.plan,
            labels,
            self.probability,
            self.classes,
            self.pixel_size_um,
            z_step_um=self.z_step_um,
            boxes=True,
        )
        return in_image(table, self.plan.origin)

    def confidence(self, labels: NDArray[Any], at: tuple[int, ...]) -> ObjectTable:
        """Labels and confidence of the objects of a part of the window.

        Parameters
        ----------
        labels : integer array
            Stack axes, Y and X.
        at : tuple of int
            Index of its first element in the window.
        """
        y, x = at[-2:]
        rows, columns = (
            slice(a, a + n) for a, n in zip((y, x), labels.shape[-2:], strict=True)
        )

        def foreground(index: tuple[int, ...]) -> NDArray[Any]:
            where = tuple(a + b for a, b in zip(index, at[:-2], strict=True))
            part = np.asarray(self.probability[(*where, slice(None), rows, columns)])
            return foreground_probability(part, self.classes)

        table = object_table(
            labels,
            Planes(labels.shape, np.dtype(np.float32), foreground),
            stack_axes=self.plan.stack_axes,
        )
        return {name: table[name].to_numpy() for name in ("label", "confidence")}


def in_image(table: pd.DataFrame, origin: Mapping[str, int]) -> ObjectTable:
    """Columns of a table, their positions counted from the first pixel of the image.

    Parameters
    ----------
    table : DataFrame
        Of a window of the image.
    origin : mapping of str to int
        Index of the window's first pixel, by axis.
    """
    columns = {str(name): table[name].to_numpy() for name in table.columns}
    for axis, first in origin.items():
        for name in (axis.lower(), f"centroid_{axis.lower()}"):
            if name in columns:
                columns[name] = columns[name] + first
    return columns


def summarize(labels: Any, axes: str) -> Summary:
    """Count, median area (px²) and how many touch the border of their plane.

    Parameters
    ----------
    labels
        int32, numpy or zarr.
    axes
        One letter per axis, with Y and X.
    """
    count = np.zeros(1, np.int64)
    border = np.zeros(1, bool)
    planes = np.zeros(1, np.int64)
    y, x = axes.index("Y"), axes.index("X")
    stack = [range(n) if i not in (y, x) else [slice(None)] for i, n in enumerate(labels.shape)]
    for index in product(*stack) if 0 not in labels.shape else ():
        plane = np.asarray(labels[index])
        here = np.bincount(plane.ravel(), minlength=len(count))
        more = (0, len(here) - len(count))
        border, planes = np.pad(border, more), np.pad(planes, more) + (here > 0)
        here[: len(count)] += count
        count = here
        for edge in (plane[0], plane[-1], plane[:, 0], plane[:, -1]):
            border[edge] = True
    areas = count[1:][count[1:] > 0]
    median = float(np.median(areas)) if len(areas) else float("nan")
    in_depth = "Z" in axes and bool((planes[1:] > 1).any())
    return Summary(len(areas), median, int(border[1:].sum()), in_depth)


class KeptResults:
    """The newest results by key, within a bound of memory."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_results: int = MAX_RESULTS) -> None:
        self._max_bytes = max_bytes
        self._max_results = max_results
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: str, kept: Kept) -> None:
        """Keep a result; the least recently used ones make room."""
        self.forget(key)
        self._kept[key] = kept
        while len(self._kept) > 1 and (
            len(self._kept) > self._max_results
            or sum(one.n_bytes for one in self._kept.values()) > self._max_bytes
        ):
            self.forget(next(iter(self._kept)))

    def get(self, key: str) -> Kept:
        """A kept result.

        Raises
        ------
        NotKeptError
            It was dropped, or never there.
        """
        try:
            self._kept.move_to_end(key)
        except KeyError:
            raise NotKeptError(
                "The probabilities of this result are no longer kept. Segment again to "
                "adjust it."
            ) from None
        return self._kept[key]

    def forget(self, key: str) -> None:
        """Drop a result and free what it holds."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            image = kept.image
            # The plan looks at the image's memory, so it goes first.
            del kept
            image.close()
