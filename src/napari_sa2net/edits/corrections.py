"""Labels under correction, with what a person said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.edits.label_index import LabelIndex, PlaneIndex
from napari_sa2net.edits.patch import Index, Patch
from napari_sa2net.edits.regions import Region
from napari_sa2net.edits.shapes import Box
from napari_sa2net.edits.step import STATUS, UNSEEN, Marks, Step
from napari_sa2net.errors import EditConflictError, EditError

READ_ONLY = (
    "These labels are read-only. Open them for writing (as tifffile.memmap does with mode "
    "'r+'), or correct a copy in memory: numpy.array(labels)."
)
NOT_WRITTEN = (
    "These labels could not be written. Correct a copy in memory: numpy.array(labels)."
)


class Corrections:
    """Labels of an image or stack, the review status of objects, and marked regions.

    Corrections are made in two moves: a function of this package looks at the labels and
    gives a :class:`Step`; :meth:`apply` (or :meth:`History.do`) carries it out.

    Parameters
    ----------
    labels : integer array, shape (\\*stack, H, W)
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
