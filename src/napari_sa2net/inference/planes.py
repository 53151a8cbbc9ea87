"""Labels and object table of a whole stack, plane by plane, from its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InstanceConfig, Progress
from napari_sa2net.data import ImagePlan
from napari_sa2net.errors import Cancelled
from napari_sa2net.inference.instances import PlaneLinker, foreground_probability, label_objects
from napari_sa2net.inference.tiling import allocate
from napari_sa2net.measure import (
    confidence_of,
    confidence_sums,
    empty_table,
    object_table,
    offset_labels,
    sizes_of,
    with_groups,
)
from napari_sa2net.metrics import numbered, overlap_table
from napari_sa2net.quantities import Quantities, Read, checked_groups

if TYPE_CHECKING:
    import pandas as pd


# --------------------------------------------------------------------------------------------
# Labels of planes too large to hold in memory, block by block.
#
# Blocks overlap, each is labelled by itself, and what two neighbours see alike in their
# overlap is one object.

#: Planes with more pixels than this are labelled in parts: it takes 50 bytes a pixel, about.
LARGE = 16_000_000
#: Side of a block's core, and how far it looks beyond (px).
BLOCK = 2048
OVERLAP = 256
#: Rows that are renumbered at a time.
BAND = 1024
#: Intersection over union in the overlap from which two blocks mean the same object.
SAME = 0.5

#: Objects are dropped when they are whole: a block's edge is not the image's.
AT_THE_END = {"remove_border": False, "min_confidence": 0.0}

ReadBlock = Callable[[slice, slice], NDArray[Any]]
#: Labels of rows and columns, numbered from 1, that were made before; the first is the plane.
Labelled = Callable[[tuple[int, ...], slice, slice], NDArray[np.int32]]


def parts_of(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns that are labelled at once: of a huge plane blocks that overlap."""
    height, width = shape
    if height * width <= LARGE:
        yield slice(0, height), slice(0, width)
        return
    for y0 in range(0, height, BLOCK):
        for x0 in range(0, width, BLOCK):
            yield _seen(y0, height), _seen(x0, width)


def _seen(start: int, length: int) -> slice:
    return slice(max(0, start - OVERLAP), min(length, start + BLOCK + OVERLAP))


def label_part(
    probability: NDArray[Any],
    plan: ImagePlan,
    classes: Sequence[str],
    config: InstanceConfig,
) -> NDArray[np.int32]:
    """Label one of `parts_of` a plane of this plan; numbers are those of the part alone."""
    if plan.spatial[0] * plan.spatial[1] > LARGE:
        config = config.model_copy(update=AT_THE_END)
    elif _link_axis(plan, config) is not None:
        config = config.model_copy(update={"min_confidence": 0.0})
    return label_objects(probability, classes, config)


def label_in_blocks(
    probability: ReadBlock,
    shape: tuple[int, int],
    classes: Sequence[str],
    config: InstanceConfig,
    out: Any,
    *,
    first: int = 0,
    cancelled: Callable[[], bool] | None = None,
    labelled: Callable[[slice, slice], NDArray[np.int32]] | None = None,
) -> int:
    """Label the objects of one plane.

    Parameters
    ----------
    probability : callable (rows, columns) -> float32 (classes, h, w)
    shape : (H, W)
    classes : sequence of str
    config : InstanceConfig
    out : array-like int32 (H, W)
        Written by slices, and read again.
    first : int
        Number before that of the first object.
    cancelled : callable -> bool, optional
        Asked before every block.
    labelled : callable (rows, columns) -> int32 (h, w), optional
        Gives what `label_part` made of a block before.

    Returns
    -------
    int
        The last object's number; they are numbered from first + 1 by their first pixel in
        raster order.

    Raises
    ------
    Cancelled
    """
    height, width = shape
    inner = config.model_copy(update=AT_THE_END)
    same = _Groups()
    doubt = _Doubt(config.min_confidence)
    below: dict[int, NDArray[np.int32]] = {}
    for y0 in range(0, height, BLOCK):
        y1 = min(y0 + BLOCK, height)
        top, bottom = max(0, y0 - OVERLAP), min(height, y1 + OVERLAP)
        right: NDArray[np.int32] | None = None
        for x0 in range(0, width, BLOCK):
            if cancelled and cancelled():
                raise Cancelled("Cancelled; nothing was changed.")
            x1 = min(x0 + BLOCK, width)
            left, end = max(0, x0 - OVERLAP), min(width, x1 + OVERLAP)
            seen = slice(top, bottom), slice(left, end)
            core = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
            if labelled is None:
                values = probability(*seen)
                labels = label_objects(values, classes, inner)
                doubt.add(labels[core], values[:, *core], classes, same.count)
            else:
                labels = labelled(*seen)
                if doubt.least > 0:
                    values = probability(slice(y0, y1), slice(x0, x1))
                    doubt.add(labels[core], values, classes, same.count)
            labels[labels > 0] += same.count
            same.grow(int(labels.max(initial=0)))
            if right is not None:
                same.match(right, labels[:, : x0 - left + OVERLAP])
            if x0 in below:
                same.match(below[x0], labels[: y0 - top + OVERLAP])
            out[y0:y1, x0:x1] = labels[core]
            # What the next blocks see too: OVERLAP on both sides of the seam.
            right = labels[:, x1 - OVERLAP - left :].copy()
            below[x0] = labels[y1 - OVERLAP - top :].copy()
    roots = same.roots()
    dropped = doubt.below(roots)
    if config.remove_border:
        dropped = np.union1d(dropped, _on_border(out, shape))
    return _renumber(out, shape, roots, dropped, first, cancelled)


class _Doubt:
    """Objects of less than a least confidence, found part by part.

    Parameters
    ----------
    least : float
        0: none is looked for.
    """

    def __init__(self, least: float) -> None:
        self.least = least
        self._sums = np.zeros((2, 1))

    def add(
        self,
        labels: NDArray[np.int32],
        probability: NDArray[Any],
        classes: Sequence[str],
        offset: int = 0,
    ) -> None:
        """Look at labels (h, w), which count from ``offset`` + 1, by (C, h, w)."""
        if self.least == 0 or not labels.any():
            return
        values, number = numbered(labels[labels > 0])
        foreground = foreground_probability(probability, classes)[labels > 0]
        at = values + offset
        missing = int(at[-1]) + 1 - self._sums.shape[1]
        if missing > 0:
            self._sums = np.pad(self._sums, ((0, 0), (0, max(missing, self._sums.shape[1]))))
        self._sums[:, at] += confidence_sums(number, foreground, values.size)

    def below(self, roots: NDArray[np.int32]) -> NDArray[np.int32]:
        """Labels that are to be dropped; ``roots``: the object of each label, 0 … n."""
        n = len(roots)
        sums = np.pad(self._sums[:, :n], ((0, 0), (0, max(0, n - self._sums.shape[1]))))
        whole = [np.bincount(roots, one, minlength=n) for one in sums]
        dropped = confidence_of(*whole)[roots] < self.least
        dropped[0] = False
        return np.flatnonzero(dropped).astype(np.int32)


class _Groups:
    """Labels 1..count, joined where they mean the same object (union-find)."""

    def __init__(self) -> None:
        self.count = 0
        self._parent: list[int] = [0]

    def grow(self, largest: int) -> None:
        self._parent.extend(range(self.count + 1, largest + 1))
        self.count = max(self.count, largest)

    def match(self, first: NDArray[np.int32], second: NDArray[np.int32]) -> None:
        """Join the labels of two views of one region that cover the same pixels."""
        rows, columns = (min(a, b) for a, b in zip(first.shape, second.shape, strict=True))
        found = overlap_table(first[:rows, :columns], second[:rows, :columns])
        found = found.of(found.iou > SAME)
        pairs = found.before[found.i].tolist(), found.after[found.j].tolist()
        for i, j in zip(*pairs, strict=True):
            self._parent[self.root(i)] = self.root(j)

    def root(self, label: int) -> int:
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def roots(self) -> NDArray[np.int32]:
        return np.array([self.root(i) for i in range(self.count + 1)], np.int32)


def _on_border(labels: Any, shape: tuple[int, int]) -> NDArray[np.int32]:
    height, width = shape
    edges = (labels[0:1, :], labels[height - 1 :, :], labels[:, 0:1], labels[:, width - 1 :])
    return np.unique(np.concatenate([np.asarray(edge).ravel() for edge in edges]))


def _renumber(
    labels: Any,
    shape: tuple[int, int],
    roots: NDArray[np.int32],
    dropped: NDArray[np.int32],
    n: int,
    cancelled: Callable[[], bool] | None,
) -> int:
    """Join groups, drop objects, and number by first pixel, in one pass over the rows."""
    number = np.full(len(roots), -1, np.int32)
    number[roots[dropped]] = 0
    number[0] = 0
    for y0, y1 in _bands(shape[0]):
        if cancelled and cancelled():
            raise Cancelled("Cancelled; nothing was changed.")
        band = roots[np.asarray(labels[y0:y1, :])]
        found, first = np.unique(band, return_index=True)
        fresh = number[found] < 0
        for root in found[fresh][np.argsort(first[fresh])]:
            n += 1
            number[root] = n
        labels[y0:y1, :] = number[band]
    return n


def _bands(height: int) -> Iterator[tuple[int, int]]:
    for y0 in range(0, height, BAND):
        yield y0, min(y0 + BAND, height)


#: What goes on, as a person reads it.
SEPARATING = "separating the cells"
MEASURING = "measuring the cells"


def label_stack(
    plan: ImagePlan,
    probability: Any,
    classes: Sequence[str],
    config: InstanceConfig,
    *,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    labelled: Labelled | None = None,
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
    labelled : callable (plane, rows, columns) -> int32 (h, w), optional
        Gives what `label_part` made before of each of `parts_of` a plane.

    Returns
    -------
    array-like int32 of shape plan.label_shape
        numpy, or zarr on disk above 256 MB. Labels are unique over the stack.

    Raises
    ------
    Cancelled
    SettingsError
        If the classes do not fit.
    """
    out = allocate(plan.label_shape, np.int32)
    if plan.is_empty:
        return out
    link_axis = _link_axis(plan, config)
    # An object of several planes is doubtful as a whole, when it is whole.
    of_plane = (
        config if link_axis is None else config.model_copy(update={"min_confidence": 0.0})
    )
    offset = done = 0
    for run in _runs(plan.stack_shape, link_axis):
        linker = PlaneLinker(config.link_overlap) if link_axis is not None else None
        doubt = _Doubt(config.min_confidence)
        linked = []
        for index in run:
            if cancelled and cancelled():
                raise Cancelled("Cancelled; nothing was changed.")
            target = plane_of(plan, out, index)
            if linker is not None:
                plane = np.zeros(plan.spatial, np.int32)
                _label_plane(
                    probability, index, classes, of_plane, plane, 0, cancelled, labelled
                )
                plane = linker.add(plane)
                target[:, :] = offset_labels(plane, offset)
                for y0, y1 in _bands(plan.spatial[0]) if doubt.least > 0 else ():
                    values = np.asarray(probability[(*index, slice(None), slice(y0, y1))])
                    doubt.add(plane[y0:y1], values, classes)
                linked.append(index)
            else:
                offset = _label_plane(
                    probability, index, classes, of_plane, target, offset, cancelled, labelled
                )
            done += 1
            if progress and plan.n_planes > 1:
                progress(done, plan.n_planes, SEPARATING)
        if linker is not None:
            labels = np.arange(linker.count + 1, dtype=np.int32)
            kept = np.isin(labels, doubt.below(labels), invert=True)
            number = np.where(kept, np.cumsum(kept) - 1 + offset, 0).astype(np.int32)
            number[0] = 0
            for index in linked if not kept.all() else ():
                if cancelled and cancelled():
                    raise Cancelled("Cancelled; nothing was changed.")
                target = plane_of(plan, out, index)
                plane = np.asarray(target[:, :])
                target[:, :] = number[np.where(plane > 0, plane - offset, 0)]
            offset += int(np.count_nonzero(kept[1:]))
    return out


def _label_plane(
    probability: Any,
    index: tuple[int, ...],
    classes: Sequence[str],
    config: InstanceConfig,
    out: Any,
    first: int,
    cancelled: Callable[[], bool] | None,
    labelled: Labelled | None,
) -> int:
    """Write the labels of one plane, numbered from first + 1; the last number."""
    shape = tuple(probability.shape[-2:])
    made = labelled and partial(labelled, index)
    if shape[0] * shape[1] <= LARGE:
        if made is None:
            labels = label_objects(np.asarray(probability[index]), classes, config)
        else:
            labels = made(slice(0, shape[0]), slice(0, shape[1]))
        out[:, :] = offset_labels(labels, first)
        return first + int(labels.max(initial=0))

    def read(rows: slice, columns: slice) -> NDArray[Any]:
        return np.asarray(probability[(*index, slice(None), rows, columns)])

    return label_in_blocks(
        read, shape, classes, config, out, first=first, cancelled=cancelled, labelled=made
    )


def plane_of(plan: ImagePlan, labels: Any, index: tuple[int, ...]) -> Any:
    """One plane (Y, X) of labels of a plan, to be read and written by slices."""
    if not isinstance(labels, np.ndarray):
        return LabelPlane(plan, labels, index)
    plane = labels[_at(plan, index, slice(None), slice(None))]
    return plane.T if _turned(plan) else plane


def _at(plan: ImagePlan, index: tuple[int, ...], rows: slice, columns: slice) -> Any:
    at: dict[str, Any] = dict(zip(plan.stack_axes, index, strict=True))
    at |= {"Y": rows, "X": columns}
    return tuple(at[name] for name in plan.label_axes)


def _turned(plan: ImagePlan) -> bool:
    return plan.label_axes.index("X") < plan.label_axes.index("Y")


class LabelPlane:
    """One plane (Y, X) of stored labels that have the image's own order of axes."""

    def __init__(self, plan: ImagePlan, labels: Any, index: tuple[int, ...]) -> None:
        self._labels = labels
        self._plan, self._index = plan, index

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.int32]:
        block = np.asarray(self._labels[_at(self._plan, self._index, *key)])
        return block.T if _turned(self._plan) else block

    def __setitem__(self, key: tuple[slice, slice], block: NDArray[np.int32]) -> None:
        turned = block.T if _turned(self._plan) else block
        self._labels[_at(self._plan, self._index, *key)] = turned


def measure_objects(
    plan: ImagePlan,
    labels: Any,
    probability: Any,
    classes: Sequence[str],
    pixel_size_um: float | Sequence[float] | None = None,
    *,
    z_step_um: float | None = None,
    boxes: bool = False,
    groups: Iterable[str] | None = (),
) -> pd.DataFrame:
    """Object table of the labels of a plan.

    Parameters
    ----------
    labels : array-like int32, plan.label_shape
    probability : array-like float32, stack axes + (classes, Y, X)
    classes, pixel_size_um, z_step_um, boxes
        As of `object_table`, and the names of the classes.
    groups
        Likewise; intensities are those of all channels, chosen or not.
    """
    shape = (*plan.stack_shape, *plan.spatial)
    wanted = Quantities(
        checked_groups(groups),
        shape,
        plan.stack_axes,
        plan.n_channels,
        sizes_of(pixel_size_um),
        sizes_of(z_step_um)[0],
    )
    if plan.is_empty:
        return empty_table(plan.stack_axes, boxes).assign(**wanted.nothing())

    def window_of_labels(index: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
        return np.asarray(plane_of(plan, labels, index)[rows, columns])

    def foreground(index: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
        part = np.asarray(probability[(*index, slice(None), rows, columns)])
        return foreground_probability(part, classes)

    table = object_table(
        Windows(shape, np.dtype(np.int32), window_of_labels),
        Windows(shape, np.dtype(np.float32), foreground),
        intensities(plan, (0,) * len(shape), shape),
        pixel_size_um,
        plan.stack_axes,
        z_step_um,
        boxes,
    )
    return with_groups(table, wanted, window_of_labels, plan.read_channels)


def intensities(plan: ImagePlan, first: tuple[int, ...], shape: tuple[int, ...]) -> Windows:
    """Raw values of the segmented channels of a part of an image: shape + (channels,).

    Parameters
    ----------
    first : tuple of int
        First pixel of the part (stack axes, y, x).
    """

    def window(index: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
        at, y, x = moved(first, index, rows, columns)
        return np.moveaxis(plan.read_raw(at, y.start, y.stop, x.start, x.stop), 0, -1)

    return Windows((*shape, len(plan.channels)), plan.dtype, window)


def channels_at(plan: ImagePlan, first: tuple[int, ...]) -> Read:
    """Reads all channels of windows whose places count from a pixel of an image."""

    def read(index: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
        return plan.read_channels(*moved(first, index, rows, columns))

    return read


def moved(
    first: tuple[int, ...], index: tuple[int, ...], rows: slice, columns: slice
) -> tuple[tuple[int, ...], slice, slice]:
    """A window of a part of an image, in the image; ``first``: first pixel of the part."""
    *at, y, x = first
    return (
        tuple(a + b for a, b in zip(index, at, strict=True)),
        slice(y + rows.start, y + rows.stop),
        slice(x + columns.start, x + columns.stop),
    )


class Windows:
    """An array that is made part by part, as it is indexed by a plane, rows and columns."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], window: Read) -> None:
        self.shape, self.dtype, self._window = shape, dtype, window

    def __getitem__(self, key: tuple[Any, ...]) -> NDArray[Any]:
        *index, rows, columns = key
        height, width = self.shape[len(index) :][:2]
        parts = (slice(*part.indices(n)) for part, n in ((rows, height), (columns, width)))
        return self._window(tuple(index), *parts)


def _link_axis(plan: ImagePlan, config: InstanceConfig) -> int | None:
    """Position of the axis that objects are linked along; None if they are not.

    Cells go on from plane to plane in depth only: over time they move, and positions are
    different cells.
    """
    linked = config.link_planes and "Z" in plan.stack_axes
    return plan.stack_axes.index("Z") if linked else None


def _runs(shape: tuple[int, ...], link_axis: int | None) -> Iterator[Iterator[tuple[int, ...]]]:
    """Plane indices in runs: one run per stack that is linked, else one of all planes."""
    if link_axis is None:
        yield iter(product(*(range(n) for n in shape)))
        return
    rest = [range(1) if i == link_axis else range(n) for i, n in enumerate(shape)]
    for at in product(*rest):
        yield ((*at[:link_axis], z, *at[link_axis + 1 :]) for z in range(shape[link_axis]))
