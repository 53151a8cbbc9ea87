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
from napari_sa2net.inference.instances import (
    PlaneLinker,
    foreground_probability,
    label_objects,
)
from napari_sa2net.inference.store import allocate
from napari_sa2net.measure import empty_table, object_table, offset_labels

if TYPE_CHECKING:
    import pandas as pd


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
        With link_planes, objects are linked along Z (else the last stack axis but T).
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
            labels = label_objects(np.asarray(probability[index]), classes, config)
            if linker:
                labels = linker.add(labels)
            # out[...] of the image's own order of axes
            out[_label_index(plan, index)] = _turned(plan, offset_labels(labels, offset))
            if not linker:
                offset += int(labels.max(initial=0))
            done += 1
            if progress and plan.n_planes > 1:
                progress(done, plan.n_planes, "planes")
        if linker:
            offset += linker.count
    return out


def measure_objects(
    plan: ImagePlan,
    labels: Any,
    probability: Any,
    classes: Sequence[str],
    pixel_size_um: float | Sequence[float] | None = None,
    *,
    table: bool = True,
) -> pd.DataFrame:
    """Object table of the labels of a plan; empty if `table` is false.

    Parameters
    ----------
    labels : array-like int32, plan.label_shape
    probability : array-like float32, stack axes + (classes, Y, X)
    """
    if not table or plan.is_empty:
        return empty_table(plan.stack_axes)
    shape = (*plan.stack_shape, *plan.spatial)

    def label_plane(index: tuple[int, ...]) -> NDArray[Any]:
        return _turned(plan, np.asarray(labels[_label_index(plan, index)]))

    def foreground(index: tuple[int, ...]) -> NDArray[Any]:
        return foreground_probability(np.asarray(probability[index]), classes)

    def intensity(index: tuple[int, ...]) -> NDArray[Any]:
        return np.moveaxis(plan.read_raw(index, 0, plan.spatial[0], 0, plan.spatial[1]), 0, -1)

    return object_table(
        Planes(shape, np.dtype(np.int32), label_plane),
        Planes(shape, np.dtype(np.float32), foreground),
        Planes((*shape, len(plan.channels)), plan.dtype, intensity),
        pixel_size_um,
        plan.stack_axes,
    )


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
    """Position of the axis that objects are linked along; None if there is none."""
    if "Z" in stack_axes:
        return stack_axes.index("Z")
    others = [i for i, name in enumerate(stack_axes) if name != "T"]
    return others[-1] if others else None


def _runs(shape: tuple[int, ...], link_axis: int | None) -> Iterator[Iterator[tuple[int, ...]]]:
    """Plane indices in runs: one run per stack that is linked, else one of all planes."""
    if link_axis is None:
        yield iter(product(*(range(n) for n in shape)))
        return
    rest = [range(1) if i == link_axis else range(n) for i, n in enumerate(shape)]
    for at in product(*rest):
        yield ((*at[:link_axis], z, *at[link_axis + 1 :]) for z in range(shape[link_axis]))


def _label_index(plan: ImagePlan, index: tuple[int, ...]) -> tuple[Any, ...]:
    at: dict[str, Any] = {"Y": slice(None), "X": slice(None)}
    at |= dict(zip(plan.stack_axes, index, strict=True))
    return tuple(at[name] for name in plan.label_axes)


def _turned(plan: ImagePlan, plane: NDArray[Any]) -> NDArray[Any]:
    """(Y, X) as the image has it, and back."""
    return plane.T if plan.label_axes.index("X") < plan.label_axes.index("Y") else plane
