"""Labels under correction, with what a person said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import scipy  # its parts load on first use
from numpy.typing import NDArray

from napari_sa2net.edits.shapes import Box, blocks_of, common, union
from napari_sa2net.edits.step import (
    STATUS,
    UNSEEN,
    Index,
    Integers,
    Marks,
    Patch,
    Region,
    Step,
    cell_boxes,
)
from napari_sa2net.errors import EditConflictError, EditError, NothingToEditError
from napari_sa2net.metrics import typical_diameter

# --------------------------------------------------------------------------------------------
# Where the objects of each plane are, kept true by the edits instead of by scanning.

#: Reads a window of a plane.
Reader = Callable[[Box], NDArray[Any]]

# Columns of the table.
_LABEL, _AREA, _SUM_Y, _SUM_X, _Y0, _Y1, _X0, _X1 = range(8)
_FAR = 2**40
#: The table holds no larger label.
_FAR_LABEL = 2**63 - 1
#: Rows scanned at a time, so that a scan of a huge plane needs little memory.
_ROWS = 1024
#: An object whose box has a longer side (px) may be in few places of it.
_WIDE = 256
#: Side of the blocks in which such an object is looked for (px).
_BLOCK = 128


class PlaneIndex:
    """Boxes, areas and centres of the objects of one plane.

    Parameters
    ----------
    plane : integer array, shape (H, W)
        Scanned once, here.
    """

    def __init__(self, plane: Any) -> None:
        self.shape: tuple[int, int] = (int(plane.shape[0]), int(plane.shape[1]))
        self._table = np.zeros((64, 8), np.int64)
        self._row_of: dict[int, int] = {}
        self._free: list[int] = list(range(63, -1, -1))
        self._rows_taken: Integers | None = None
        self._parts: dict[int, list[Box]] = {}
        for top in range(0, self.shape[0], _ROWS):
            self._scan(np.asarray(plane[top : top + _ROWS]), top)

    def _scan(self, part: NDArray[Any], top: int) -> None:
        height, width = part.shape
        if part.size == 0:
            return
        starts = np.ones((height, width), bool)
        np.not_equal(part[:, 1:], part[:, :-1], out=starts[:, 1:])
        at = np.flatnonzero(starts)
        lengths = np.diff(np.append(at, part.size))
        values = part.ravel()[at]
        held = values != 0
        at, lengths, values = at[held], lengths[held], values[held].astype(np.int64)
        self._add(values, at // width + top, at % width, lengths, 1)

    # --- questions -------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, label: object) -> bool:
        return label in self._row_of

    def _taken(self) -> Integers:
        """Rows of the objects; kept until something changes, as questions come in bursts."""
        if self._rows_taken is None:
            at = np.fromiter(self._row_of.values(), np.int64, len(self._row_of))
            self._rows_taken = self._table[at]
        return self._rows_taken

    @property
    def labels(self) -> Integers:
        """All labels, int64 (n,); the other columns have the same order."""
        return self._taken()[:, _LABEL].copy()

    @property
    def areas(self) -> Integers:
        """Pixels of each object, int64 (n,)."""
        return self._taken()[:, _AREA].copy()

    @property
    def typical_diameter(self) -> float:
        """Of a disc (px) with the median area; not a number where there is no object."""
        return typical_diameter(self.areas)

    @property
    def boxes(self) -> Integers:
        """Bounding boxes (y0, y1, x0, x1), int64 (n, 4)."""
        return self._taken()[:, _Y0:].copy()

    @property
    def centres(self) -> NDArray[np.float64]:
        """Centroids (y, x), float64 (n, 2)."""
        taken = self._taken()
        centres: NDArray[np.float64] = taken[:, _SUM_Y : _SUM_X + 1] / taken[:, [_AREA]]
        return centres

    def area(self, label: int) -> int:
        """Pixels of one object; 0 where there is none of that label."""
        row = self._row_of.get(label)
        return 0 if row is None else int(self._table[row, _AREA])

    def box(self, label: int) -> Box:
        """Bounding box of one object, which must be there."""
        y0, y1, x0, x1 = self._table[self._row_of[label], _Y0:]
        return int(y0), int(y1), int(x0), int(x1)

    def parts(self, label: int, read: Reader) -> list[Box]:
        """Boxes that together hold an object, which must be there.

        That of a small one; of one whose box is large, none is much larger than 128 px: two
        parts far from each other have a box that is as good as the plane.
        """
        box = self.box(label)
        if not _is_wide(box):
            return [box]
        if label not in self._parts:
            self._parts[label] = self._tight([box], label, read)
        return self._parts[label]

    def places(self, label: int, read: Reader) -> list[Box]:
        """Boxes without common pixels around those parts of an object that lie far apart.

        A part that hangs together lies in one of them.
        """
        parts = self.parts(label, read)
        if len(parts) == 1:
            return [self.box(label)]
        grid = np.zeros([-(-n // _BLOCK) for n in self.shape], bool)
        for y0, y1, x0, x1 in parts:
            rows, cols = (
                slice(a // _BLOCK, (b - 1) // _BLOCK + 1) for a, b in ((y0, y1), (x0, x1))
            )
            grid[rows, cols] = True
        which = scipy.ndimage.label(grid, np.ones((3, 3), bool))[0]
        found: list[Box] = []
        for n in range(1, int(which.max()) + 1):
            box = union([p for p in parts if which[p[0] // _BLOCK, p[2] // _BLOCK] == n])
            while meeting := [other for other in found if common(other, box)]:
                box = union([box, *meeting])
                found = [other for other in found if other not in meeting]
            found.append(box)
        # blocks reach beyond what lies in them
        tight = (common(box, self.box(label)) for box in found)
        return [box for box in tight if box is not None]

    def _tight(self, boxes: list[Box], label: int, read: Reader) -> list[Box]:
        """Boxes around what is there of an object in some boxes."""
        found = []
        for box in boxes:
            window = read(box)
            rows, cols = np.divmod(np.flatnonzero(window == label), window.shape[1])
            if rows.size:
                rows, cols = rows + box[0], cols + box[2]
                found += cell_boxes(rows, cols, cols + 1, _BLOCK)
        return found

    def centre(self, label: int) -> tuple[float, float]:
        """Centroid (y, x) of one object, which must be there."""
        row = self._table[self._row_of[label]]
        return float(row[_SUM_Y] / row[_AREA]), float(row[_SUM_X] / row[_AREA])

    def within(self, box: Box) -> Integers:
        """Labels whose centres lie in a box."""
        taken = self._taken()
        y, x = taken[:, _SUM_Y] / taken[:, _AREA], taken[:, _SUM_X] / taken[:, _AREA]
        inside = (y >= box[0] - 0.5) & (y < box[1] - 0.5)
        inside &= (x >= box[2] - 0.5) & (x < box[3] - 0.5)
        labels: Integers = taken[inside, _LABEL]
        return labels

    def meeting(self, box: Box) -> Integers:
        """Labels whose bounding boxes share a pixel with a box."""
        taken = self._taken()
        meets = (taken[:, _Y0] < box[1]) & (taken[:, _Y1] > box[0])
        meets &= (taken[:, _X0] < box[3]) & (taken[:, _X1] > box[2])
        labels: Integers = taken[meets, _LABEL]
        return labels

    # --- changes ---------------------------------------------------------------------

    def update(self, patch: Patch, read: Reader) -> None:
        """Follow a patch that has just been written.

        Parameters
        ----------
        patch : Patch
        read : callable
            Reads a window of the plane as it is now.
        """
        self._rows_taken = None
        lost, gained = patch.old != 0, patch.new != 0
        rows, cols, lengths = patch.rows, patch.cols, patch.lengths
        shrunk = self._edge_losers(patch, lost)
        known = self._known_parts(patch.new[gained])
        # Gains first: an object that only moves keeps its row.
        self._add(patch.new[gained], rows[gained], cols[gained], lengths[gained], 1)
        for label, boxes in known.items():
            if _is_wide(self.box(label)):
                own = patch.new == label
                ends = cols[own] + lengths[own]
                boxes = [*boxes, *cell_boxes(rows[own], cols[own], ends, _BLOCK)]
                self._parts[label] = blocks_of(boxes, _BLOCK, self.shape)
        self._add(patch.old[lost], rows[lost], cols[lost], lengths[lost], -1)
        for label in shrunk:
            if label in self._row_of:
                self._tighten(label, read)

    def _known_parts(self, labels: Integers) -> dict[int, list[Box]]:
        """Where these objects are, as far as that is known without looking."""
        found: dict[int, list[Box]] = {}
        for label in np.unique(labels).tolist():
            if label in self._parts:
                found[label] = self._parts[label]
            elif label not in self:
                found[label] = []
            elif not _is_wide(box := self.box(label)):
                found[label] = [box]
        return found

    def _edge_losers(self, patch: Patch, lost: NDArray[np.bool_]) -> list[int]:
        """Labels that lose a pixel at the edge of their box: only these boxes can shrink."""
        if not lost.any():
            return []
        labels = patch.old[lost]
        boxes = self._table[self._rows(labels), _Y0:]
        rows, cols = patch.rows[lost], patch.cols[lost]
        ends = cols + patch.lengths[lost]
        edge = (rows == boxes[:, 0]) | (rows == boxes[:, 1] - 1)
        edge |= (cols == boxes[:, 2]) | (ends == boxes[:, 3])
        return [int(label) for label in np.unique(labels[edge])]

    def _rows(self, labels: Integers) -> Integers:
        distinct, which = np.unique(labels, return_inverse=True)
        rows = [self._row_of[int(label)] for label in distinct]
        return np.asarray(rows, np.int64)[which]

    def _add(
        self, labels: Integers, rows: Integers, cols: Integers, lengths: Integers, sign: int
    ) -> None:
        """Add runs to the sums of their labels, or take them away."""
        if labels.size == 0:
            return
        order = np.argsort(labels, kind="stable")
        ordered = labels[order]
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        distinct = ordered[first]
        at = np.asarray([self._place(label) for label in distinct.tolist()], np.int64)
        sum_x = lengths * cols + lengths * (lengths - 1) // 2
        for column, values in ((_AREA, lengths), (_SUM_Y, lengths * rows), (_SUM_X, sum_x)):
            self._table[at, column] += sign * np.add.reduceat(values[order], first)
        if sign > 0:
            boxes = self._table[at, _Y0:]
            for column, reduce, values in (
                (0, np.minimum, rows),
                (1, np.maximum, rows + 1),
                (2, np.minimum, cols),
                (3, np.maximum, cols + lengths),
            ):
                extreme = reduce.reduceat(values[order], first)
                boxes[:, column] = reduce(boxes[:, column], extreme)
            self._table[at, _Y0:] = boxes
        else:
            for label, row in zip(distinct, at, strict=True):
                if self._table[row, _AREA] == 0:
                    del self._row_of[int(label)]
                    self._parts.pop(int(label), None)
                    self._free.append(int(row))

    def _place(self, label: int) -> int:
        """Row of a label in the table, a new one if need be."""
        row = self._row_of.get(label)
        if row is None:
            if not self._free:
                n = len(self._table)
                self._table = np.concatenate([self._table, np.zeros_like(self._table)])
                self._free = list(range(2 * n - 1, n - 1, -1))
            row = self._row_of[label] = self._free.pop()
            self._table[row] = (label, 0, 0, 0, _FAR, -1, _FAR, -1)
        return row

    def _tighten(self, label: int, read: Reader) -> None:
        parts = self._tight(self.parts(label, read), label, read)
        y0, y1, x0, x1 = np.asarray(parts).T
        box = int(y0.min()), int(y1.max()), int(x0.min()), int(x1.max())
        self._table[self._row_of[label], _Y0:] = box
        self._parts.pop(label, None)
        if _is_wide(box):
            self._parts[label] = parts


def _is_wide(box: Box) -> bool:
    return max(box[1] - box[0], box[3] - box[2]) > _WIDE


class LabelIndex:
    r"""Objects of all planes of a stack, each plane scanned when it is first asked for.

    Parameters
    ----------
    labels : integer array, shape (\*stack, H, W)
    max_label : int, optional
        Largest label in it, where it is known; otherwise all planes are looked at once.

    Attributes
    ----------
    max_label : int
        Largest label there ever was; new objects count on from it.

    Raises
    ------
    EditError
        If a label is negative, or larger than is counted here.
    """

    def __init__(self, labels: Any, max_label: int | None = None) -> None:
        self._labels = labels
        self._planes: dict[Index, PlaneIndex] = {}
        if max_label is None:
            max_label = 0
            for index in np.ndindex(*labels.shape[:-2]):
                plane = np.asarray(labels[index])
                max_label = max(max_label, int(plane.max(initial=0)))
                least = int(plane.min(initial=0))
                if least < 0:
                    raise EditError(
                        f"Labels must not be negative; these go down to {least}. Give "
                        "background the number 0 and every cell a number of its own above it."
                    )
                if max_label > _FAR_LABEL:
                    raise EditError(
                        f"Labels must not exceed {_FAR_LABEL}; these go up to {max_label}. "
                        "Number them anew, such as with relabel_sequential of "
                        "skimage.segmentation."
                    )
        self.max_label = int(max_label)

    def plane(self, index: Index = ()) -> PlaneIndex:
        """Objects of one plane."""
        if index not in self._planes:
            known = self._planes[index] = PlaneIndex(self._labels[index])
            self.max_label = max(self.max_label, int(known.labels.max(initial=0)))
        return self._planes[index]

    def could_hold(self, patch: Patch) -> bool:
        """Whether objects have the pixels that a patch takes from them."""
        plane = self._planes.get(patch.index)
        if plane is None:
            return True
        labels, which = np.unique(patch.old, return_inverse=True)
        taken = np.bincount(which, patch.lengths)
        return all(
            plane.area(label) >= n
            for label, n in zip(labels.tolist(), taken.tolist(), strict=True)
            if label != 0
        )

    def scan_before(self, patch: Patch, read: Callable[[Index, Box], Any]) -> None:
        """Scan the plane of a patch that is in the array already, as it was before it."""
        if patch.index not in self._planes:
            self.plane(patch.index).update(patch.inverse(), partial(read, patch.index))

    def update(self, patches: Iterable[Patch], read: Callable[[Index, Box], Any]) -> None:
        """Follow patches that have just been written.

        Parameters
        ----------
        patches : iterable of Patch
        read : callable (index, box)
            Reads a window of a plane as it is now.
        """
        for patch in patches:
            self.max_label = max(self.max_label, int(patch.new.max()), int(patch.old.max()))
            plane = self._planes.get(patch.index)
            if plane is not None:  # others are scanned afresh when asked for
                plane.update(patch, partial(read, patch.index))


READ_ONLY = (
    "These labels are read-only. Open them for writing (as tifffile.memmap does with mode "
    "'r+'), or correct a copy in memory: numpy.array(labels)."
)
NOT_WRITTEN = (
    "These labels could not be written. Correct a copy in memory: numpy.array(labels)."
)


class Corrections:
    r"""Labels of an image or stack, the review status of objects, and marked regions.

    Corrections are made in two moves: a function of this package looks at the labels and
    gives a :class:`Step`; :meth:`apply` (or :meth:`History.do`) carries it out.

    Parameters
    ----------
    labels : integer array, shape (\*stack, H, W)
        Edited in place. numpy, or anything that is read and written by slices (zarr).
        0 is background. What is read-only can be looked at, but no step can be applied.
    max_label : int, optional
        Largest label in it, where it is known; saves looking at every plane of a stack.

    Attributes
    ----------
    labels : array
    index : LabelIndex
        Boxes, areas and centres of the objects.
    regions : dict of int to Region
        By id; those of kind "cleared" come from deletions.

    Raises
    ------
    EditError
        If the array cannot hold labels of objects.
    """

    def __init__(self, labels: Any, max_label: int | None = None) -> None:
        if isinstance(labels, Sequence):
            raise EditError(
                "Corrections are made on one array of labels; of several resolutions take the "
                "finest: labels[0]."
            )
        if not (hasattr(labels, "shape") and hasattr(labels, "dtype")):
            raise EditError("Corrections are made on an array of labels.")
        if not np.issubdtype(labels.dtype, np.integer):
            raise EditError(
                f"Labels must be whole numbers, one per object, not {labels.dtype}: make "
                "them with labels.astype('int32')."
            )
        if len(labels.shape) < 2 or 0 in labels.shape:
            raise EditError(f"Labels of shape {tuple(labels.shape)} have no plane to edit.")
        self.labels = labels
        self.index = LabelIndex(labels, max_label)
        self.regions: dict[int, Region] = {}
        self._status: dict[Index, dict[int, int]] = {}
        self._last_region = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a plane (px)."""
        return int(self.labels.shape[-2]), int(self.labels.shape[-1])

    def plane(self, index: Index = ()) -> PlaneIndex:
        """Objects of one plane.

        Raises
        ------
        EditError
            If there is no such plane.
        """
        return self.index.plane(self.checked(index))

    def checked(self, index: Any) -> Index:
        """The index of a plane as a tuple of int; EditError if there is no such plane."""
        stack = self.labels.shape[:-2]
        try:
            plane = tuple(int(i) for i in index)
        except (TypeError, ValueError):
            plane = None
        if (
            plane is None
            or len(plane) != len(stack)
            or not all(0 <= i < n for i, n in zip(plane, stack, strict=True))
        ):
            raise EditError(f"There is no plane {index!r} in labels with stack axes {stack}.")
        return plane

    # --- reading ---------------------------------------------------------------------

    def read(self, index: Index, box: Box) -> NDArray[Any]:
        """Labels of a box of a plane; a copy (y1 - y0, x1 - x0)."""
        return np.array(self.look(index, box))

    def look(self, index: Index, box: Box) -> NDArray[Any]:
        """The same, not to be written into: it may be a view."""
        y0, y1, x0, x1 = box
        return np.asarray(self.labels[(*index, slice(y0, y1), slice(x0, x1))])

    def parts(self, label: int, index: Index = ()) -> list[Box]:
        """Boxes that together hold an object, which must be there; see `PlaneIndex.parts`."""
        return self.plane(index).parts(label, partial(self.look, index))

    def places(self, label: int, index: Index = ()) -> list[Box]:
        """Boxes around the parts of an object that lie far apart; see `PlaneIndex.places`."""
        return self.plane(index).places(label, partial(self.look, index))

    def read_pixels(self, index: Index, rows: NDArray[Any], cols: NDArray[Any]) -> NDArray[Any]:
        """Labels of pixels of a plane."""
        if isinstance(self.labels, np.ndarray):
            values: NDArray[Any] = self.labels[index][rows, cols]
            return values
        if rows.size == 0:
            return np.empty(0, self.labels.dtype)
        y0, x0 = int(rows.min()), int(cols.min())
        window = self.read(index, (y0, int(rows.max()) + 1, x0, int(cols.max()) + 1))
        read: NDArray[Any] = window[rows - y0, cols - x0]
        return read

    # --- review status and regions ---------------------------------------------------

    def status(self, label: int, index: Index = ()) -> str:
        """What was said of an object: "", "accepted" or "corrected"."""
        return STATUS[self.status_code(label, index)]

    def status_code(self, label: int, index: Index = ()) -> int:
        """Review status as UNSEEN, ACCEPTED or CORRECTED."""
        return self._status.get(index, {}).get(label, UNSEEN)

    def marked(self, index: Index = ()) -> dict[int, str]:
        """Status of the accepted and corrected objects of a plane, by label."""
        return {label: STATUS[code] for label, code in self._status.get(index, {}).items()}

    def marked_labels(self, index: Index = ()) -> Set[int]:
        """The accepted and corrected objects of a plane; a view, not to be kept."""
        return self._status.get(index, {}).keys()

    def regions_of(self, index: Index = ()) -> list[Region]:
        """Regions of a plane, oldest first."""
        return [region for region in self.regions.values() if region.index == index]

    def said(self) -> Step:
        """All that was said so far, as one step for new Corrections on the same labels.

        A journal that begins anew from an array of labels keeps it beside them.
        """
        marks = []
        for index, known in self._status.items():
            labels = np.fromiter(known.keys(), np.int64, len(known))
            after = np.fromiter(known.values(), np.int64, len(known))
            if labels.size:
                marks.append(Marks(index, labels, np.zeros_like(labels), after))
        words = "restoring of what was reviewed"
        return Step("restore", words, (), tuple(marks), added=tuple(self.regions.values()))

    # --- numbers that are free --------------------------------------------------------

    def new_labels(self, n: int) -> list[int]:
        """Take n labels that no object has or ever had here.

        Raises
        ------
        EditError
            If the array's type holds no larger numbers.
        """
        first = self.index.max_label + 1
        last = first + n - 1
        if last > np.iinfo(self.labels.dtype).max:
            raise EditError(
                f"Labels of type {self.labels.dtype} cannot number another object: convert "
                "the layer with layer.data = layer.data.astype('int32')."
            )
        self.index.max_label = last
        return list(range(first, last + 1))

    def new_region(self) -> int:
        """Take an id for a region."""
        self._last_region += 1
        return self._last_region

    # --- steps -----------------------------------------------------------------------

    def apply(self, step: Step) -> None:
        """Carry out a step.

        Raises
        ------
        EditConflictError
            If the labels are not as they were when the step was made. Nothing has changed
            then.
        EditError
            If the labels cannot be written.
        """
        if step.patches and not _is_writable(self.labels):
            raise EditError(READ_ONLY)
        self._check_rest(step)
        for patch in step.patches:
            self._check_pixels(patch, patch.old)
        for n, patch in enumerate(step.patches):
            try:
                self._write(patch)
            except (ValueError, TypeError, OSError, NotImplementedError) as error:
                with suppress(Exception):  # what was written before that one
                    for written in step.patches[:n]:
                        self._write(written.inverse())
                raise EditError(f"{NOT_WRITTEN} ({error})") from error
        self._follow(step)

    def revert(self, step: Step) -> None:
        """Take a step back; the labels must be as it left them (EditConflictError)."""
        self.apply(step.inverse())

    def record(self, step: Step) -> None:
        """Take note of a step whose pixels are in the array already, such as a stroke.

        Raises
        ------
        EditConflictError
            If they are not.
        """
        self._check_rest(step)
        for patch in step.patches:
            self._check_pixels(patch, patch.new)
            if not self.index.could_hold(patch):
                raise self._conflict(step, "its pixels belonged to other cells before")
        self._follow(step)

    def _check_rest(self, step: Step) -> None:
        """That regions and status are as the step found them, and planes and types fit."""
        for patch in step.patches:
            y0, y1, x0, x1 = patch.box
            stack = self.labels.shape[:-2]
            fits = len(patch.index) == len(stack) and all(
                0 <= i < n for i, n in zip(patch.index, stack, strict=True)
            )
            limits = np.iinfo(self.labels.dtype)
            values = (
                min(patch.new.min(), patch.old.min()),
                max(patch.new.max(), patch.old.max()),
            )
            if not fits or y0 < 0 or x0 < 0 or y1 > self.shape[0] or x1 > self.shape[1]:
                raise self._conflict(step, "they have another shape")
            if values[0] < limits.min or values[1] > limits.max:
                raise self._conflict(step, f"{self.labels.dtype} cannot hold its numbers")
        for marks in step.marks:
            known = self._status.get(marks.index, {})
            for label, before in zip(marks.labels.tolist(), marks.before.tolist(), strict=True):
                if known.get(label, UNSEEN) != before:
                    raise self._conflict(step, f"cell {label} was reviewed differently")
        for region in step.removed:
            if self.regions.get(region.id) != region:
                raise self._conflict(step, "a marked region is not there")
        for region in step.added:
            if region.id in self.regions:
                raise self._conflict(step, "a marked region is there already")

    def check_painted(self, patch: Patch) -> None:
        """That the pixels of a patch are in the array; EditConflictError if not."""
        self._check_pixels(patch, patch.new)

    def _check_pixels(self, patch: Patch, values: NDArray[np.int64]) -> None:
        rows, cols = patch.pixels()
        found = self.read_pixels(patch.index, rows, cols)
        different = np.count_nonzero(found != np.repeat(values, patch.lengths))
        if different:
            raise EditConflictError(
                f"This correction does not fit: {different} of its {rows.size} pixels were "
                "changed by something else. Go back to the labels it was made on."
            )

    @staticmethod
    def _conflict(step: Step, why: str) -> EditConflictError:
        return EditConflictError(
            f"The {step.words} does not fit these labels: {why}. Go back to the labels it "
            "was made on."
        )

    def _write(self, patch: Patch) -> None:
        rows, cols = patch.pixels()
        values = np.repeat(patch.new, patch.lengths).astype(self.labels.dtype)
        if isinstance(self.labels, np.ndarray):
            self.labels[patch.index][rows, cols] = values
            return
        y0, y1, x0, x1 = patch.box
        window = self.read(patch.index, patch.box)
        window[rows - y0, cols - x0] = values
        self.labels[(*patch.index, slice(y0, y1), slice(x0, x1))] = window

    def _follow(self, step: Step) -> None:
        self.index.update(step.patches, self.look)
        for marks in step.marks:
            self._mark(marks)
        for region in step.removed:
            del self.regions[region.id]
        for region in step.added:
            self.regions[region.id] = region
            self._last_region = max(self._last_region, region.id)

    def _mark(self, marks: Marks) -> None:
        known = self._status.setdefault(marks.index, {})
        for label, after in zip(marks.labels.tolist(), marks.after.tolist(), strict=True):
            if after == UNSEEN:
                known.pop(label, None)
            else:
                known[label] = after

    def objects(self, labels: Iterable[int], index: Index = ()) -> list[int]:
        """Check that objects are on a plane; their labels, sorted and distinct.

        Raises
        ------
        EditError
            If one is not there.
        """
        plane = self.plane(index)
        try:
            wanted = sorted({int(label) for label in labels})
        except (TypeError, ValueError) as error:
            raise EditError(f"Cells are named by whole numbers, not {labels!r}.") from error
        for label in wanted:
            if label not in plane:
                raise EditError(
                    f"There is no cell {label} in this plane: click on a cell that is there."
                )
        return wanted


def _is_writable(labels: Any) -> bool:
    """What arrays say of themselves: numpy by flags, zarr by ``read_only``."""
    flags = getattr(labels, "flags", None)
    return bool(getattr(flags, "writeable", True)) and not getattr(labels, "read_only", False)


# --------------------------------------------------------------------------------------------
# Undo and redo over all corrections.

#: Memory that steps may take before the oldest are forgotten.
LIMIT_BYTES = 256 << 20


class History:
    """Steps that were done and steps that were taken back.

    Parameters
    ----------
    corrections : Corrections
        What the steps are done on.
    limit_bytes : int
        Memory for all steps; the oldest are forgotten beyond it (the newest never).

    Attributes
    ----------
    done, undone : list of Step
        Oldest first; the last ones are next to be taken back and done again.
    """

    def __init__(self, corrections: Corrections, limit_bytes: int = LIMIT_BYTES) -> None:
        self.corrections = corrections
        self.limit_bytes = limit_bytes
        self.done: list[Step] = []
        self.undone: list[Step] = []
        self._bytes = 0

    def do(self, step: Step) -> Step:
        """Carry out a step and remember it; what was taken back is forgotten.

        Raises
        ------
        EditConflictError
            If it does not fit the labels; nothing has changed then.
        """
        self.corrections.apply(step)
        self._push(step)
        return step

    def record(self, step: Step) -> Step:
        """Remember a step whose pixels are in the array already (a stroke)."""
        self.corrections.record(step)
        self._push(step)
        return step

    def undo(self) -> Step:
        """Take back the newest step; the step.

        Raises
        ------
        NothingToEditError
            If there is none.
        EditConflictError
            If something else changed its pixels; nothing has changed then.
        """
        if not self.done:
            raise NothingToEditError("There is no correction to undo.")
        step = self.done[-1]
        self.corrections.revert(step)
        self.undone.append(self.done.pop())
        return step

    def redo(self) -> Step:
        """Do again what was taken back last; errors as of :meth:`undo`."""
        if not self.undone:
            raise NothingToEditError("There is no correction to do again.")
        step = self.undone[-1]
        self.corrections.apply(step)
        self.done.append(self.undone.pop())
        return step

    @property
    def undo_words(self) -> str:
        """For the tooltip: "Undo split of cell 17"; empty where there is nothing."""
        return f"Undo {self.done[-1].words}" if self.done else ""

    @property
    def redo_words(self) -> str:
        """For the tooltip: "Redo split of cell 17"; empty where there is nothing."""
        return f"Redo {self.undone[-1].words}" if self.undone else ""

    @property
    def nbytes(self) -> int:
        """Memory of all steps, nearly."""
        return self._bytes

    def _push(self, step: Step) -> None:
        self._bytes += step.nbytes - sum(other.nbytes for other in self.undone)
        self.undone.clear()
        self.done.append(step)
        while self._bytes > self.limit_bytes and len(self.done) > 1:
            self._bytes -= self.done.pop(0).nbytes
