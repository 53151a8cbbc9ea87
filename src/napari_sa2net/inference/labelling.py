"""Labels and object table of a whole stack, plane by plane, from its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InstanceConfig
from napari_sa2net.data import ImagePlan
from napari_sa2net.errors import Cancelled
from napari_sa2net.inference import big_planes
from napari_sa2net.inference.instances import (
    PlaneLinker,
    foreground_probability,
    label_objects,
)
from napari_sa2net.inference.store import allocate
from napari_sa2net.measure import empty_table, object_table, offset_labels

if TYPE_CHECKING:
    import pandas as pd

#: What goes on, as a person reads it.
SEPARATING = "separating the cells"
MEASURING = "measuring the cells"


def label_stack(
    plan: ImagePlan,
    probability: Any,
    classes: Sequence[str],
    config: InstanceConfig,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Any:
    """Label the objects of all planes.

    Parameters
    ----------
    plan : ImagePlan
    probability : array-like float32, stack axes + (classes, Y, X)
    classes : sequence of str
    config : InstanceConfig
        With link_planes, objects are linked along the stack's axis Z, if it has one.
    progress, cancelled : callable, optional
        progress only for stacks, after every plane.

    Returns
    -------
    array-like int32 of shape plan.label_shape
        numpy, or zarr on disk above 1 GB. Labels are unique over the stack.

    Raises
    ------
    Cancelled
    SettingsError
        If the classes do not fit.
    """
    out = allocate(plan.label_shape, np.int32)
    if plan.is_empty:
        return out
    link_axis = _link_axis(plan.stack_axes) if config.link_planes else None
    offset = done = 0
    for run in _runs(plan.stack_shape, link_axis):
        linker = PlaneLinker(config.link_overlap) if link_axis is not None else None
        for index in run:
            if cancelled and cancelled():
                raise Cancelled("Cancelled; nothing was changed.")
            target = LabelPlane(plan, out, index)
            if linker is not None:
                plane = np.zeros(plan.spatial, np.int32)
                _label_plane(probability, index, classes, config, plane, 0, cancelled)
                target[:, :] = offset_labels(linker.add(plane), offset)
            else:
                offset = _label_plane(
                    probability, index, classes, config, target, offset, cancelled
                )
            done += 1
            if progress and plan.n_planes > 1:
                progress(done, plan.n_planes, SEPARATING)
        if linker is not None:
            offset += linker.count
    return out


def _label_plane(
    probability: Any,
    index: tuple[int, ...],
    classes: Sequence[str],
    config: InstanceConfig,
    out: Any,
    first: int,
    cancelled: Callable[[], bool] | None,
) -> int:
    """Write the labels of one plane, numbered from first + 1; the last number."""
    shape = tuple(probability.shape[-2:])
    if shape[0] * shape[1] <= big_planes.LARGE:
        labels = label_objects(np.asarray(probability[index]), classes, config)
        out[:, :] = offset_labels(labels, first)
        return first + int(labels.max(initial=0))

    def read(rows: slice, columns: slice) -> NDArray[Any]:
        return np.asarray(probability[(*index, slice(None), rows, columns)])

    return big_planes.label_in_blocks(
        read, shape, classes, config, out, first=first, cancelled=cancelled
    )


class LabelPlane:
    """One plane (Y, X) of labels that have the image's own order of axes."""

    def __init__(self, plan: ImagePlan, labels: Any, index: tuple[int, ...]) -> None:
        self._labels = labels
        self._at: dict[str, Any] = dict(zip(plan.stack_axes, index, strict=True))
        self._axes = plan.label_axes
        self._turned = self._axes.index("X") < self._axes.index("Y")

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.int32]:
        block = np.asarray(self._labels[self._key(key)])
        return block.T if self._turned else block

    def __setitem__(self, key: tuple[slice, slice], block: NDArray[np.int32]) -> None:
        self._labels[self._key(key)] = block.T if self._turned else block

    def _key(self, key: tuple[slice, slice]) -> tuple[Any, ...]:
        at = self._at | {"Y": key[0], "X": key[1]}
        return tuple(at[name] for name in self._axes)


def measure_objects(
    plan: ImagePlan,
    labels: Any,
    probability: Any,
    classes: Sequence[str],
    pixel_size_um: float | Sequence[float] | None = None,
    *,
    table: bool = True,
    z_step_um: float | None = None,
    boxes: bool = False,
) -> pd.DataFrame:
    """Object table of the labels of a plan; empty if `table` is false.

    Parameters
    ----------
    labels : array-like int32, plan.label_shape
    probability : array-like float32, stack axes + (classes, Y, X)
    classes, pixel_size_um, z_step_um, boxes
        As of `object_table`, and the names of the classes.
    """
    if not table or plan.is_empty:
        return empty_table(plan.stack_axes, boxes)
    shape = (*plan.stack_shape, *plan.spatial)
    height, width = plan.spatial
    everything = slice(None), slice(None)

    def label_plane(index: tuple[int, ...]) -> NDArray[Any]:
        return LabelPlane(plan, labels, index)[everything]

    def foreground(index: tuple[int, ...]) -> NDArray[Any]:
        return foreground_probability(np.asarray(probability[index]), classes)

    def intensity(index: tuple[int, ...]) -> NDArray[Any]:
        return np.moveaxis(plan.read_raw(index, 0, height, 0, width), 0, -1)

    if height * width > big_planes.LARGE and not plan.stack_shape:
        whole = LabelPlane(plan, labels, ())
        return big_planes.table_in_bands(
            lambda rows: whole[rows, slice(None)],
            lambda rows, columns: np.asarray(probability[:, rows, columns]),
            lambda rows: np.moveaxis(plan.read_raw((), rows.start, rows.stop, 0, width), 0, -1),
            plan.spatial,
            classes,
            pixel_size_um,
            boxes,
        )
    return object_table(
        Planes(shape, np.dtype(np.int32), label_plane),
        Planes(shape, np.dtype(np.float32), foreground),
        Planes((*shape, len(plan.channels)), plan.dtype, intensity),
        pixel_size_um,
        plan.stack_axes,
        z_step_um,
        boxes,
    )


def intensities(plan: ImagePlan, first: tuple[int, ...], shape: tuple[int, ...]) -> Planes:
    """Raw values of a window of an image, read plane by plane: shape + (channels,).

    Parameters
    ----------
    first : tuple of int
        First pixel of the window (stack axes, y, x).
    """
    y, x = first[-2:]
    height, width = shape[-2:]

    def plane(index: tuple[int, ...]) -> NDArray[Any]:
        at = tuple(a + b for a, b in zip(index, first[:-2], strict=True))
        return np.moveaxis(plan.read_raw(at, y, y + height, x, x + width), 0, -1)

    return Planes((*shape, len(plan.channels)), plan.dtype, plane)


class Planes:
    """An array that is made plane by plane when it is indexed."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        plane: Callable[[tuple[int, ...]], NDArray[Any]],
    ) -> None:
        self.shape, self.dtype, self._plane = shape, dtype, plane

    def __getitem__(self, index: tuple[int, ...]) -> NDArray[Any]:
        return self._plane(index)


def _link_axis(stack_axes: str) -> int | None:
    """Position of the axis that objects are linked along; None if there is none.

    Cells go on from plane to plane in depth only: over time they move, and positions are
    different cells.
    """
    return stack_axes.index("Z") if "Z" in stack_axes else None


def _runs(shape: tuple[int, ...], link_axis: int | None) -> Iterator[Iterator[tuple[int, ...]]]:
    """Plane indices in runs: one run per stack that is linked, else one of all planes."""
    if link_axis is None:
        yield iter(product(*(range(n) for n in shape)))
        return
    rest = [range(1) if i == link_axis else range(n) for i, n in enumerate(shape)]
    for at in product(*rest):
        yield ((*at[:link_axis], z, *at[link_axis + 1 :]) for z in range(shape[link_axis]))
