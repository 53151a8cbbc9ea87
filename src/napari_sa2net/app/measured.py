"""A table of cells that stays true: after a change only the changed cells are measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts are loaded when they are used
from numpy.typing import NDArray

from napari_sa2net.app.session import ImageSource, source_plan
from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.engine.messages import ObjectTable, Summary
from napari_sa2net.errors import SA2NetError
from napari_sa2net.measure import box_columns, pixel_table, sizes_of
from napari_sa2net.metrics import numbered
from napari_sa2net.quantities import MARGIN, Piece, Quantities, groups_in, measure_groups

#: Labels with more bytes are not copied: of a change one must be told where it was.
MOST_BYTES = 2**30
#: Pixels of changed cells that are measured at once in the window's process, and those of
#: the boxes around them; the engine measures more.
MOST_PIXELS = 2**18
MOST_READ = 2**24
#: Pixels compared at a time.
CHUNK = 2**22
#: A cell whose box has more pixels is looked for in those blocks of a grid only where it is:
#: of two parts far from each other the box is as good as the plane.
WIDE = 2**17
BLOCK = 128

Part = tuple[slice, ...]
Box = tuple[NDArray[np.int64], NDArray[np.int64]]
#: Blocks of a grid by their place in it: stack axes, rows and columns of blocks.
Blocks = set[tuple[int, ...]]


class TooMuch(Exception):
    """So much has changed that all cells are to be measured anew."""


@dataclass(frozen=True, eq=False)
class Place:
    """How labels lie on their image, and how large their pixels are.

    Attributes
    ----------
    image
        The image under them; None where there is none.
    corner
        Place of the first label in the image without channels (stack axes, y, x); None
        where the pixels of the two do not lie on each other.
    extra
        Axes of the labels that the image does not have; they have length 1.
    stack_axes
        Letters of the other stack axes of the labels.
    pixel_size_um, z_step_um
        As of `ImageSource`; where the sides of a pixel differ, (y, x).
    """

    image: ImageSource | None = None
    corner: tuple[int, ...] | None = None
    extra: tuple[int, ...] = ()
    stack_axes: str = ""
    pixel_size_um: float | tuple[float, float] | None = None
    z_step_um: float | None = None

    @property
    def area_um2(self) -> float:
        """Of a pixel; NaN where unknown."""
        height, width = sizes_of(self.pixel_size_um)
        return height * width

    def plan(self) -> ImagePlan | None:
        """The image whose pixels lie under the labels; None where there is none."""
        if self.image is None or self.corner is None:
            return None
        try:
            return source_plan(self.image)
        except SA2NetError:
            return None


class MeasuredCells:
    r"""Columns of the object table of one array of labels.

    Parameters
    ----------
    labels : array (\*stack, H, W)
        What is shown, and edited in place.
    place : Place

    Attributes
    ----------
    columns : dict of str to array
        In ascending order of the labels; positions count from the image's first pixel.
    n_measured : int
        Cells that were measured anew by `follow`, all in all.
    """

    def __init__(self, labels: Any, place: Place) -> None:
        self.labels = labels
        self.place = place
        self.columns: ObjectTable = {}
        self.n_measured = 0
        self._known: NDArray[Any] | None = None
        self._boxes: dict[int, Box] | None = None
        self._blocks: dict[int, Blocks] = {}
        self._touched: dict[int, Blocks] = {}  # of the last change, where it was wide
        self._stamps: dict[int, int] = {}
        self._stamp = 0

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of measurements that the table tells; what changes is measured for them."""
        return groups_in(self.columns)

    def quantities(self, groups: tuple[str, ...]) -> Quantities:
        """What groups measure of these labels."""
        place = self.place
        plan = place.plan() if "intensity" in groups else None
        return Quantities(
            groups,
            self.shape,
            place.stack_axes,
            0 if plan is None else plan.n_channels,
            sizes_of(place.pixel_size_um),
            sizes_of(place.z_step_um)[0],
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the labels, without axes that the image does not have."""
        return tuple(
            int(n) for i, n in enumerate(self.labels.shape) if i not in self.place.extra
        )

    def now(self) -> NDArray[Any]:
        """A copy of the labels."""
        return np.array(self.read(tuple(slice(0, n) for n in self.shape)))

    def read(self, part: Part) -> NDArray[Any]:
        """Part of the labels as they are now; may be a view of them."""
        rest = iter(part)
        key = tuple(
            0 if i in self.place.extra else next(rest) for i in range(len(self.labels.shape))
        )
        return np.asarray(self.labels[key])

    def adopt(self, table: Mapping[str, Any], known: NDArray[Any] | None = None) -> None:
        """Take a table that was measured elsewhere, of the labels as they are or were."""
        order = np.argsort(np.asarray(table["label"]), kind="stable")
        columns = {name: np.asarray(column)[order] for name, column in table.items()}
        boxes = _boxes_in(columns, self.place.stack_axes)
        self.columns = columns
        n_bytes = np.dtype(self.labels.dtype).itemsize * math.prod(self.shape)
        if known is None and n_bytes <= MOST_BYTES:
            known = self.now()
        self._known = known
        if boxes is None and known is None:
            boxes = boxes_of(self.now())
        self._boxes = boxes
        self._blocks = {}
        self._touch(self.columns["label"].tolist())

    # --- following ---------------------------------------------------------------------

    def follow(self, parts: Sequence[Part] | None = None) -> dict[int, Box]:
        """Measure the cells anew that changed.

        Parameters
        ----------
        parts : sequence of tuples of slices, optional
            Where to look, all else is as it was; unsaid, everywhere.

        Returns
        -------
        dict of label to box
            Cells that gained or lost pixels, also those that are gone, and where.

        Raises
        ------
        TooMuch
        """
        changed, pixels = self._changes(parts)
        if not changed:
            return {}
        boxes = self.boxes
        search = {
            label: union(box, boxes[label]) if label in boxes else box
            for label, box in changed.items()
        }
        for label in self._others(changed, pixels):
            search[label] = boxes[label]
        own = np.isin(self.columns["label"], list(search))
        if self.columns["area_px"][own].sum() > MOST_PIXELS:
            raise TooMuch
        labels = list(search)
        self._touched = {
            label: set().union(*(_blocks_at(where[:, of == label]) for of, where in pixels))
            for label, _ in _wide(changed)
            if pixels
        }
        wide = {label: self._look_in(label, box, pixels) for label, box in _wide(search)}
        near = {label: box for label, box in search.items() if label not in wide}
        n_read = sum(volume(box) for box in near.values())
        if n_read + BLOCK**2 * sum(len(blocks) for blocks in wide.values()) > MOST_READ:
            raise TooMuch
        places = list(windows(near))
        places += [
            (block, [label]) for label, some in wide.items() for block in self._boxes_of(some)
        ]
        fresh = self._measure(labels, places)
        if self.groups:
            fresh |= self._more(fresh["label"], places, wide)
        self._replace(labels, fresh)
        self._touch(changed)
        return changed

    def _changes(
        self, parts: Sequence[Part] | None
    ) -> tuple[dict[int, Box], list[tuple[NDArray[Any], NDArray[Any]]]]:
        """Where each label has changed, and the labels of the pixels that did, and these."""
        found: dict[int, Box] = {}
        pixels = []
        if self._known is None:
            # no copy to compare with: whatever is there, or was
            for part in parts or ():
                low, high = corners(part, self.shape)
                for label in np.unique(self.read(part)).tolist():
                    _add(found, label, (low, high))
                for label, box in self.boxes.items():
                    if (box[0] < high).all() and (box[1] > low).all():
                        _add(found, label, box)
            found.pop(0, None)
            return found, []
        for part in parts if parts is not None else chunks(self.shape):
            before, now = self._known[part], self.read(part)
            different = before != now
            n = np.count_nonzero(different)
            if n == 0:
                continue
            if n > MOST_PIXELS:
                raise TooMuch
            low = corners(part, self.shape)[0]
            where = np.stack(np.nonzero(different)) + low[:, None]
            pixels += [(before[different], where), (now[different], where)]
            before[different] = now[different]
        if pixels:
            values = np.concatenate([of for of, _ in pixels])
            found = dict(extents(values, np.concatenate([at for _, at in pixels], axis=1)))
        found.pop(0, None)
        return found, pixels

    def _look_in(
        self, label: int, box: Box, pixels: Sequence[tuple[NDArray[Any], NDArray[Any]]]
    ) -> Blocks:
        """Blocks that hold all pixels of a cell which lies scattered in a box."""
        former = self.boxes.get(label)
        if former is None or self._known is None:
            known = None
        elif label in self._blocks:
            known = self._blocks[label]
        elif volume(former) <= WIDE:
            known = _blocks_in(former)
        else:
            known = None
        found = set() if known is None else set(known)
        if known is None and (former is not None or self._known is None):
            if volume(box) > MOST_READ:
                raise TooMuch
            part = slices(box)
            found = _blocks_at(_positions(self.read(part) == label) + box[0][:, None])
        for values, where in pixels:
            found |= _blocks_at(where[:, values == label])
        return found

    def _boxes_of(self, blocks: Blocks) -> Iterator[Box]:
        side = np.ones(len(self.shape), np.int64)
        side[-2:] = BLOCK
        for place in sorted(blocks):
            low = np.asarray(place, np.int64) * side
            yield low, np.minimum(low + side, self.shape)

    @property
    def boxes(self) -> dict[int, Box]:
        """Where each cell is, as of the last look."""
        if self._boxes is None:
            assert self._known is not None
            self._boxes = boxes_of(self._known)
        return self._boxes

    def _measure(self, labels: list[int], places: list[tuple[Box, list[int]]]) -> ObjectTable:
        """Columns of some cells; a place is a box, and the cells to be looked for in it."""
        place = self.place
        plan = place.plan()
        found = [self._pixels(box, own, plan) for box, own in places]
        where = np.concatenate(
            [np.empty((len(self.shape), 0), np.int64), *(part[0] for part in found)], axis=1
        )
        values = np.concatenate([np.empty(0, self.labels.dtype), *(part[1] for part in found)])
        seen = [part[2] for part in found if part[2] is not None]
        columns = pixel_table(
            where,
            values,
            self.shape,
            np.concatenate(seen) if seen else None,
            place.pixel_size_um,
            place.stack_axes,
            place.z_step_um,
        )
        for label in labels:
            self.boxes.pop(label, None)
            self._blocks.pop(label, None)
        fresh = _boxes_in(columns, place.stack_axes) or {}
        self.boxes.update(fresh)
        for label, _ in _wide(fresh):
            self._blocks[label] = _blocks_at(where[:, values == label])
        first = np.asarray(place.corner if place.corner is not None else [0] * len(self.shape))
        for axis, at in zip(place.stack_axes.lower() + "yx", first.tolist(), strict=True):
            for name in (axis, f"centroid_{axis}"):
                if name in columns:
                    columns[name] = columns[name] + at
        self.n_measured += columns["label"].size
        return columns

    def _pixels(
        self, box: Box, own: Sequence[int], plan: ImagePlan | None
    ) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any] | None]:
        """Positions (ndim, n), labels (n,) and intensities (n, channels) of cells in a box."""
        low = box[0]
        labels = self.read(slices(box))
        mine = labels == own[0] if len(own) == 1 else np.isin(labels, own)
        where = _positions(mine)
        values = labels[tuple(where)]
        if plan is None:
            return where + low[:, None], values, None
        from napari_sa2net.inference.planes import intensities  # takes a while to load

        assert self.place.corner is not None
        at = tuple((low + np.asarray(self.place.corner)).tolist())
        image = intensities(plan, at, labels.shape)
        seen = np.zeros((values.size, len(plan.channels)), plan.dtype)
        # plane by plane: positions come in that order
        stack = labels.shape[:-2]
        plane = np.ravel_multi_index(tuple(where[:-2]), stack) if stack else 0 * where[0]
        ends = np.searchsorted(plane, np.arange(math.prod(stack) + 1)).tolist()
        for index, a, b in zip(np.ndindex(*stack), ends, ends[1:], strict=False):
            if b > a:
                whole = image[(*index, slice(None), slice(None))]
                seen[a:b] = whole[where[-2, a:b], where[-1, a:b]]
        return where + low[:, None], values, seen

    def _others(
        self, changed: Mapping[int, Box], pixels: Sequence[tuple[Any, NDArray[Any]]]
    ) -> set[int]:
        """Cells of which something else is to be told for a change beside them."""
        if not {"intensity", "neighbours"} & set(self.groups):
            return set()
        parts: list[Box] = list(changed.values())
        if pixels:
            where = np.concatenate([at for _, at in pixels], axis=1)
            parts = list(self._boxes_of(_blocks_at(where)))
        found: set[int] = set()
        for part in parts:
            around = grown(part, self.shape, MARGIN)
            if "Z" in self.place.stack_axes.upper():
                around[0][:-2] = np.maximum(around[0][:-2] - 1, 0)
                around[1][:-2] = np.minimum(around[1][:-2] + 1, self.shape[:-2])
            if volume(around) > MOST_READ:
                raise TooMuch
            found.update(np.unique(self.read(slices(around))).tolist())
        return {label for label in found if label in self.boxes} - set(changed) - {0}

    def _more(
        self,
        labels: NDArray[np.int64],
        places: Sequence[tuple[Box, list[int]]],
        wide: Mapping[int, Blocks],
    ) -> ObjectTable:
        """Columns of the groups, of cells that `_measure` has measured at these places."""
        wanted, plan = self.quantities(self.groups), self.place.plan()
        pieces: list[Piece] = []
        parts = [
            (grown(box, self.shape, MARGIN), own)
            for box, own in places
            if len(own) > 1 or own[0] not in wide
        ]
        # a ring may reach into the blocks beside those of a cell
        for label, some in wide.items():
            near = {
                (*lead, y + dy, x + dx)
                for *lead, y, x in some
                for dy, dx in itertools.product((-1, 0, 1), repeat=2)
                if 0 <= (y + dy) * BLOCK < self.shape[-2]
                and 0 <= (x + dx) * BLOCK < self.shape[-1]
            }
            parts += [(box, [label]) for box in self._boxes_of(near)]
        for (low, high), own in parts:
            *stack, rows, columns = slices((low, high))
            pieces += [
                (index, rows, columns, np.array(own))
                for index in itertools.product(*(range(s.start, s.stop) for s in stack))
            ]

        def read(index: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
            part = self.read((*(slice(i, i + 1) for i in index), rows, columns))
            return part[(0,) * len(index)]

        image = None
        if plan is not None and "intensity" in self.groups:
            from napari_sa2net.inference.planes import channels_at  # takes a while to load

            assert self.place.corner is not None
            image = channels_at(plan, self.place.corner)
        more = measure_groups(wanted, read, image, pieces)
        assert np.array_equal(more.pop("label"), labels)
        return more

    def _replace(self, labels: list[int], fresh: ObjectTable) -> None:
        """Put measured rows in the place of those of some labels."""
        old = self.columns
        keep = ~np.isin(old["label"], labels)
        # what is not in it, only the network can say
        unknown = np.full(fresh["label"].size, np.nan)
        new: ObjectTable = {}
        for name, column in old.items():
            more = fresh.get(name, unknown)
            new[name] = np.concatenate([column[keep], more]) if more.size else column[keep]
        order = np.argsort(new["label"], kind="stable")
        self.columns = {name: column[order] for name, column in new.items()}

    def add(self, stamps: Mapping[int, int], more: Mapping[str, Any]) -> bool:
        """Take columns of groups that were measured elsewhere; whether the cells are the same.

        Parameters
        ----------
        stamps
            Of all cells, as they were when they were asked of.
        """
        own = self.columns["label"]
        if not np.array_equal(own, more["label"]) or stamps != self.stamps(own.tolist()):
            return False
        added = {name: np.asarray(column) for name, column in more.items() if name != "label"}
        self.columns = {**self.columns, **added}
        return True

    def drop(self, groups: Iterable[str]) -> bool:
        """Tell no more what groups measure; whether anything of it was told."""
        gone = {name for group in groups for name in self.quantities((group,)).columns()}
        gone &= set(self.columns)
        self.columns = {k: column for k, column in self.columns.items() if k not in gone}
        return bool(gone)

    # --- confidence, which the engine knows --------------------------------------------

    def recall(self, before: ObjectTable) -> None:
        """Keep what only the network could say of cells that are as they were."""
        if not before or not self.columns["label"].size:
            return
        columns = dict(self.columns)
        own, old = columns["label"], before["label"]
        at = np.searchsorted(old, own).clip(0, max(0, old.size - 1))
        if not old.size:
            return
        same = old[at] == own
        for name in ("area_px", "centroid_y", "centroid_x"):
            same &= np.isclose(before[name][at], columns[name])
        for name, column in before.items():
            if column.dtype.kind == "f" and name in columns:
                unknown = same & np.isnan(columns[name].astype(float))
                columns[name] = np.where(unknown, column[at], columns[name])
        self.columns = columns

    def crops(self, labels: Iterable[int]) -> Iterator[tuple[Box, list[int]]]:
        """Windows that hold some cells."""
        boxes = {label: self.boxes[label] for label in labels}
        # of one that is scattered over more than is read at once nothing is said
        yield from windows({at: box for at, box in boxes.items() if volume(box) <= MOST_READ})

    def stamps(self, labels: Iterable[int]) -> dict[int, int]:
        """When these cells changed last; `set_confidence` asks for it."""
        return {label: self._stamps.get(label, 0) for label in labels}

    def set_confidence(self, stamps: Mapping[int, int], table: Mapping[str, Any]) -> bool:
        """Fill in the confidence of cells that have not changed since; whether any was."""
        if "confidence" not in self.columns:
            return False
        values = dict(zip(table["label"].tolist(), table["confidence"].tolist(), strict=True))
        own, confidence = self.columns["label"], self.columns["confidence"].copy()
        wanted = [
            label
            for label, stamp in stamps.items()
            if label in values and self._stamps.get(label, 0) == stamp
        ]
        at = np.searchsorted(own, wanted)
        there = [
            (i, label)
            for i, label in zip(at.tolist(), wanted, strict=True)
            if i < own.size and own[i] == label
        ]
        for i, label in there:
            confidence[i] = values[label]
        self.columns = {**self.columns, "confidence": confidence}
        return bool(there)

    def _touch(self, labels: Iterable[int]) -> None:
        self._stamp += 1
        self._stamps.update(dict.fromkeys(labels, self._stamp))

    # --- sums --------------------------------------------------------------------------

    def move(self, place: Place) -> bool:
        """Take another place of the same labels; whether columns are others by that."""
        old, self.place = self.place, place
        sizes = place.pixel_size_um, place.z_step_um
        if sizes == (old.pixel_size_um, old.z_step_um) or not self.columns:
            return False
        self.drop(self.groups)  # lengths in another unit are measured anew
        area = place.area_um2
        columns = {**self.columns, "area_um2": self.columns["area_px"] * area}
        if "volume_voxels" in columns:
            volumes = columns["volume_voxels"] * area * (place.z_step_um or np.nan)
            columns["volume_um3"] = volumes
        self.columns = columns
        return True

    def summary(self) -> Summary:
        """Count, median size and how many touch the border."""
        areas = self.columns["area_px"]
        planes = self.columns.get("planes")
        in_depth = "z" in self.columns and planes is not None and bool((planes > 1).any())
        return Summary(
            int(areas.size),
            float(np.median(areas)) if areas.size else float("nan"),
            int(np.count_nonzero(self.columns["touches_border"])),
            in_depth,
        )


# --- boxes: lowest and highest corner, half-open ---------------------------------------


def _boxes_in(columns: dict[str, Any], stack_axes: str) -> dict[int, Box] | None:
    """Take the columns of boxes out of a table; None where it has none."""
    names = box_columns(stack_axes)
    if not set(names) <= set(columns):
        return None
    ends = np.stack([np.asarray(columns.pop(name), np.int64) for name in names], axis=1)
    return {
        label: (low, high)
        for label, low, high in zip(
            np.asarray(columns["label"]).tolist(), ends[:, ::2], ends[:, 1::2], strict=True
        )
    }


def boxes_of(labels: NDArray[Any]) -> dict[int, Box]:
    """Box of every label."""
    highest = int(labels.max(initial=0))
    names: Any = None
    if highest > labels.size + 1_000_000:
        names = np.unique(labels[labels > 0])
        labels = np.where(labels > 0, np.searchsorted(names, labels) + 1, 0)
    found = {}
    for i, part in enumerate(scipy.ndimage.find_objects(np.ascontiguousarray(labels)), start=1):
        if part is not None:
            box = (
                np.array([axis.start for axis in part], np.int64),
                np.array([axis.stop for axis in part], np.int64),
            )
            found[i if names is None else int(names[i - 1])] = box
    return found


def extents(values: NDArray[Any], where: NDArray[Any]) -> Iterator[tuple[int, Box]]:
    """Label and box of pixels (n,) at positions (ndim, n)."""
    labels, which = numbered(values)
    if labels.size <= 2**16:
        which = which.astype(np.uint16)  # several times faster to sort
    order = np.argsort(which, kind="stable")
    first = np.searchsorted(which[order], np.arange(labels.size))
    ordered = where[:, order]
    low = np.minimum.reduceat(ordered, first, axis=1)
    high = np.maximum.reduceat(ordered, first, axis=1) + 1
    for i, label in enumerate(labels.tolist()):
        yield label, (low[:, i].astype(np.int64), high[:, i].astype(np.int64))


def _add(boxes: dict[int, Box], label: int, box: Box) -> None:
    boxes[label] = union(boxes[label], box) if label in boxes else box


def union(a: Box, b: Box) -> Box:
    """The smallest box around two."""
    return np.minimum(a[0], b[0]), np.maximum(a[1], b[1])


def volume(box: Box) -> int:
    """Pixels of a box."""
    return int(np.prod(box[1] - box[0]))


def grown(box: Box, shape: tuple[int, ...], by: int) -> Box:
    """A box with what is near it in the plane."""
    reach = np.zeros(len(shape), np.int64)
    reach[-2:] = by
    return np.maximum(box[0] - reach, 0), np.minimum(box[1] + reach, shape)


def _wide(boxes: Mapping[int, Box]) -> Iterator[tuple[int, Box]]:
    """Labels of large boxes, and these."""
    return ((label, box) for label, box in boxes.items() if volume(box) > WIDE)


def _positions(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where a mask is true, (ndim, n); several times faster than nonzero where that is rare."""
    at = np.flatnonzero(mask)
    return np.stack(np.unravel_index(at, mask.shape))


def _blocks_in(box: Box) -> Blocks:
    """Blocks that a box meets."""
    low, last = box[0].copy(), box[1] - 1
    low[-2:] //= BLOCK
    last[-2:] //= BLOCK
    ways = (range(a, b + 1) for a, b in zip(low.tolist(), last.tolist(), strict=True))
    return set(itertools.product(*ways))


def _blocks_at(where: NDArray[Any]) -> Blocks:
    """Blocks that hold positions (ndim, n)."""
    if where.shape[1] == 0:
        return set()
    at = where.copy()
    at[-2:] //= BLOCK
    ends = tuple((at.max(axis=1) + 1).tolist())
    found = np.unravel_index(np.unique(np.ravel_multi_index(tuple(at), ends)), ends)
    return set(zip(*(axis.tolist() for axis in found), strict=True))


def slices(box: Box) -> Part:
    """A box as a key of an array."""
    return tuple(slice(int(a), int(b)) for a, b in zip(*box, strict=True))


def corners(part: Part, shape: tuple[int, ...]) -> Box:
    """A key of an array as a box."""
    ends = [piece.indices(n) for piece, n in zip(part, shape, strict=True)]
    low = np.array([a for a, _, _ in ends], np.int64)
    return low, np.array([b for _, b, _ in ends], np.int64)


def chunks(shape: tuple[int, ...]) -> Iterator[Part]:
    """Parts of an array that are compared at a time: rows of planes."""
    rows = max(1, CHUNK // max(1, shape[-1]))
    for index in np.ndindex(*shape[:-2]):
        lead = tuple(slice(i, i + 1) for i in index)
        for y in range(0, shape[-2], rows):
            yield (*lead, slice(y, min(y + rows, shape[-2])), slice(0, shape[-1]))


def windows(boxes: Mapping[int, Box]) -> Iterator[tuple[Box, list[int]]]:
    """Boxes of labels, brought together where that is not much more to read."""
    if not boxes:
        return
    low = np.min([box[0] for box in boxes.values()], axis=0)
    high = np.max([box[1] for box in boxes.values()], axis=0)
    total = sum(volume(box) for box in boxes.values())
    if volume((low, high)) <= max(2**16, 2**14 * len(boxes), 3 * total):
        yield (low, high), list(boxes)
        return
    # halves along the longest side, until what is read is about what is wanted
    axis = int(np.argmax(high - low))
    ordered = sorted(boxes, key=lambda label: int(boxes[label][0][axis]))
    middle = len(ordered) // 2
    for half in (ordered[:middle], ordered[middle:]):
        yield from windows({label: boxes[label] for label in half})
