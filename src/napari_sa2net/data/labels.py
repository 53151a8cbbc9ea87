"""What counts as labels: one whole number for each cell, 0 for background.

One rule for all who take labels from elsewhere (training, import, scores, the Correct page):
`as_labels` takes the values or says why not, and `look_at` tells what is numbered, but not
cell by cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import LabelsError
from napari_sa2net.words import counted, listed, plural

#: Separate pieces of the usual label from which an image is taken for a mask.
PIECES = 3
#: Pieces below this share of a label's largest are crumbs.
CRUMB = 0.1
NUMBER_THEM = (
    "Number the cells first: with scikit-image, skimage.measure.label(mask > 0); with Fiji, "
    "Analyze Particles, Show: Count Masks."
)
#: Begins what is said of a number that must be 0 to those who have no button for it.
IN_PYTHON = ": in Python, "
#: Said where a label image is not empty, but has no cell in any image.
NO_CELL = (
    "holds a cell: every pixel is 0. Check that labels/ holds the numbered cells, one whole "
    "number for each."
)
#: Background of another number than 0 is at least so many times as large as the usual cell.
LARGE = 10
#: Less than this share of pixels is 0 where background has another number (lines may be 0).
FEW_ZEROS = 0.2
#: What lies around cells is in one piece: it has this share of such pixels or more.
ALL_AROUND = 0.9
#: Cells fill so much of the space that a band around them would enclose; gaps between round
#: cells are drawn in, and fill less.
CONVEX = 0.9
#: Smaller ones (px) have no shape; of many, the first are looked at.
_SMALLEST_CELL, _MOST_HOLES = 20, 100
#: A number in so many pieces is of a mask.
MANY = 50
#: Greatest numbers of types, which data sets give to pixels that do not count.
_MARKS = tuple(int(np.iinfo(kind).max) for kind in (np.uint8, np.int16, np.uint16, np.int32))
#: They stand so far above the cells' numbers, and so many times as far as these lie apart.
_FAR, _TIMES = 10, 2
#: Perimeter² / (4π · area) of what is no cell but a band: a disk has 1, one of 3:1 has 2.
_BAND = 6.0
#: Of a plane with more pixels only every second, third … row and column is looked at.
LOOKED_AT = 2**26
#: Largest number of a label.
_LARGEST = int(np.iinfo(np.int32).max)
#: Names in a message before the rest is only counted.
_NAMED = 3


@dataclass(frozen=True)
class Look:
    """What is odd about labels; empty texts where nothing is.

    Attributes
    ----------
    problem : str
        Why they cannot be cells, and what to do.
    note : str
        What may be wrong with them.
    background : int
        Number that must be 0, where that is the problem: background, or what does not count.
    numbers : tuple of int
        What the problem is about: the background, or the values of a mask.
    apart : tuple of int
        Numbers of cells that lie far from each other.
    inverted : bool
        It is a mask in which the cells are 0, or may be.
    """

    problem: str = ""
    note: str = ""
    background: int = 0
    numbers: tuple[int, ...] = ()
    apart: tuple[int, ...] = ()
    inverted: bool = False

    @property
    def blocks(self) -> str:
        """Why a person cannot say of these labels that they are right; empty if they can."""
        return self.problem or (self.note if self.apart else "")


def as_labels(values: Any, shape: tuple[int, int] | None = None) -> NDArray[Any]:
    """Labels as integers that int32 holds.

    Whole numbers are taken in every type. Numbers beyond int32 become 1, 2, … in their order,
    but for the greatest of the type, which becomes the greatest of int32.

    Parameters
    ----------
    values : array
    shape : (H, W), optional
        Of the image they belong to: further axes of length 1, and colours that are all the
        same grey, are dropped.

    Raises
    ------
    LabelsError
        If they are no whole numbers ≥ 0, or of another shape.
    """
    array = np.asarray(values)
    if shape is not None:
        array = fitted(array, shape)
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.uint8)
    if kind == "f":
        array = _whole(array)
    elif kind not in "iu":
        raise LabelsError(
            f"Labels must be whole numbers, one for each cell and 0 for background, not "
            f"{array.dtype}."
        )
    if not array.size:
        return array
    if array.dtype.kind != "u" and (least := array.min()) < 0:
        raise LabelsError(
            f"Labels must not be negative; these go down to {least}. Give background the "
            "number 0 and every cell a number of its own above it."
        )
    if array.dtype.itemsize >= 4 and array.max() > _LARGEST:
        numbers = np.unique(array)
        numbers = numbers[numbers > 0]
        places = np.searchsorted(numbers, array, side="right")
        if numbers[-1] == np.iinfo(array.dtype).max:
            places[array == numbers[-1]] = _LARGEST
        return np.where(array > 0, places, 0).astype(np.int32)
    return array


def fitted(array: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Values in the shape of their image, see `as_labels`."""
    given = array.shape
    while array.ndim > 2 and array.shape != shape and 1 in array.shape:
        array = _without_one(array, shape)
    for axis in (-1, 0):
        rest = array.shape[:-1] if axis else array.shape[1:]
        if array.ndim == 3 and rest == shape and array.shape[axis] in (3, 4):
            return grey(array, axis)
    if array.shape != shape:
        raise LabelsError(
            f"Labels of shape {given} do not fit an image of {shape}: the two must have the "
            "same height and width."
        )
    return array


def _without_one(array: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Without an axis of length 1, rather one whose loss leaves the image's shape."""
    ones = [axis for axis, n in enumerate(array.shape) if n == 1]
    rests = {axis: array.shape[:axis] + array.shape[axis + 1 :] for axis in ones}
    axis = next((axis for axis in ones if rests[axis] == shape), ones[0])
    return np.squeeze(array, axis)


def grey(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """The one number of red, green and blue; LabelsError where they are colours."""
    colours = np.moveaxis(array, axis, 0)
    if not (np.array_equal(colours[0], colours[1]) and np.array_equal(colours[0], colours[2])):
        raise LabelsError(
            "These labels are a colour picture, and labels are one whole number for each "
            "pixel. Save the numbers themselves, as 16-bit TIFF or PNG."
        )
    return colours[0]


def _whole(array: NDArray[Any]) -> NDArray[Any]:
    """Floats that are whole numbers, as integers."""
    odd = array[~np.isfinite(array) | (array != np.round(array))]
    if odd.size:
        raise LabelsError(
            f"Labels must be whole numbers, one for each cell and 0 for background; these "
            f"hold {odd.flat[0]:.4g} ({array.dtype})."
        )
    exact = 2 ** (np.finfo(array.dtype).nmant + 1)
    if array.size and np.abs(array).max() > exact:
        raise LabelsError(
            f"Numbers above {exact} are not exact in {array.dtype}, so cells may share one. "
            "Save the labels as whole numbers (32-bit)."
        )
    return array.astype(np.int64)


def look_at(labels: NDArray[Any], many: str = "learned as one") -> Look:
    r"""Whether labels are numbered cell by cell: no mask, no numbered background.

    Parameters
    ----------
    labels : integers ≥ 0 (\*stack, H, W)
        Planes of a stack are looked at one by one.
    many : str
        What becomes of several cells under one number.
    """
    planes = _told(labels)
    around = [plane for plane in planes if plane.holes >= PIECES]
    if around:
        # where one plane is plain, the others are taken to be like it
        plane = max(around, key=lambda one: one.are_cells)
        value, n = int(plane.values[0]), plane.holes
        words = f"this looks like a mask in which the cells are 0: label {value} is all around "
        words += f"{n} places"
        if not plane.are_cells:
            words = (
                f"this looks like a mask of cells that touch each other, not like numbered "
                f"cells: label {value} is one piece with {n} gaps. Number the cells where it "
                "was made, unless the gaps are the cells"
            )
        words += f"{IN_PYTHON}labels = skimage.measure.label(labels == 0)"
        return Look(words, numbers=(value,), inverted=True)
    problem = _mask_words(planes)
    mark, below = _mark_of(planes)
    sure, unsure, background = "", "", 0
    for plane in planes:
        number, share, few_zeros = plane.background
        if number and not (sure or unsure):
            words = (
                f"label {number} covers {share:.0%} of the image and touches all its sides, so "
                "it looks like background. Background must have the number 0"
                f"{IN_PYTHON}labels[labels == {number}] = 0"
            )
            sure, unsure = (words, "") if few_zeros else ("", words)
            background = number if few_zeros else 0
        if not mark or mark not in plane.values:
            continue
        if plane.has_no_cell and not sure:
            sure, background = (
                f"label {mark}, far above the next number, {below}, lies in bands "
                "or in several places as no cell does: it looks like a mark of pixels that do "
                "not count. Only cells may have numbers"
                f"{IN_PYTHON}labels[labels == {mark}] = 0",
                mark,
            )
        elif not (sure or unsure):
            unsure = (
                f"label {mark} stands far above the next number, {below}: if it "
                "marks pixels that do not count, and no cell, give it the number 0"
            )
    apart = sorted({number for plane in planes for number in plane.apart})
    shared = _shared_words(planes, many)
    note = shared if apart else unsure or shared
    if problem:
        numbers = sorted({int(n) for plane in planes for n in plane.several})
        return Look(problem, note, numbers=tuple(numbers), apart=tuple(apart))
    return Look(sure, note, background, (background,) if sure else (), tuple(apart))


#: What becomes of several cells under one number in a set of corrections.
LEFT_OUT = "left out"


def look_at_reviewed(labels: NDArray[Any], reviewed: NDArray[np.bool_]) -> Look:
    """What is odd about labels (H, W) that a person has reviewed; the rest may be anything."""
    look = look_at(labels, LEFT_OUT)
    if not (look.problem or look.apart):
        return Look()
    said = set(np.unique(labels[reviewed]).tolist())
    apart = tuple(number for number in look.apart if number in said)
    if said.isdisjoint(look.numbers):
        return Look(note=look.note if apart else "", apart=apart)
    return replace(look, apart=apart)


def numbered(plane: NDArray[Any], look: Look, free: Iterator[int]) -> NDArray[np.int64]:
    """Give the pieces of a plane's labels numbers of their own, as far as `look` says so.

    Of a mask every piece gets one, of an inverted one every piece of 0. Of cells that lie far
    from each other under one number the largest keeps it; what lies beside a cell, and crumbs,
    stay with it.

    Parameters
    ----------
    plane : integers (H, W)
    look : Look
    free : iterator of int
        Numbers to give.

    Returns
    -------
    int64 (H, W)
    """
    if look.inverted:
        zero = _pieces_of_zero(plane)
        numbers = [0, *(next(free) for _ in range(int(zero.max())))]
        return np.array(numbers, np.int64)[zero]
    known = _Pieces(plane)
    given = known.owner.copy()
    if look.numbers:
        wanted = np.flatnonzero(np.isin(known.owner, look.numbers))
        given[wanted] = [next(free) for _ in wanted]
    else:
        for number in look.apart:
            for group in known.groups(number)[1:]:
                given[group] = next(free)
    new: NDArray[np.int64] = given[known.pieces]
    return new


def notes_on(doubts: Iterable[str], empty: Iterable[str]) -> list[str]:
    """What a person should know of labels that are going to be learned from.

    Parameters
    ----------
    doubts : str
        What `look_at` notes on each image.
    empty : str
        Names of images without a cell.
    """
    said, names = [doubt for doubt in doubts if doubt], list(empty)
    notes = said[:_NAMED]
    if len(said) > _NAMED:
        notes.append(f"Labels of {counted(len(said) - _NAMED, 'more image')} look like these.")
    if names:
        notes.append(
            f"{listed(names)}: no cell is labelled, so all of it is learned as background. "
            "Leave that out if it is wrong."
        )
    return notes


def _planes(labels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    labels = np.asarray(labels)
    for plane in labels.reshape(-1, *labels.shape[-2:]) if labels.size else ():
        every = math.ceil(math.sqrt(plane.size / LOOKED_AT))
        yield plane[::every, ::every]


def _told(labels: NDArray[Any]) -> list[_Pieces]:
    planes = []
    for plane in _planes(labels):
        planes.append(_Pieces(plane))
        del planes[-1].pieces  # as large as the plane
    return planes


class _Pieces:
    """What the connected pieces of a plane tell of its labels.

    Attributes
    ----------
    values : array
        Labels but for 0.
    per_label : array
        Pieces of each that are no crumbs.
    background : (int, float, bool)
        Number of a label that looks like background (else 0), its share, and if few are 0.
    holes : int
        Places of 0 within the only number, where that touches all sides.
    are_cells : bool
        Those have the shape of cells.
    has_no_cell : bool
        If the greatest number of a type is here and its shape is no cell's.
    several : array
        Numbers of more than one piece.
    shared : list of int
        Numbers of several cells.
    apart : list of int
        Those of which one cell lies far from the others.
    typical : float
        Side of a piece (px).
    pieces, areas, owner : array
        Map of the pieces, and area and label of each; 0 is background.
    """

    def __init__(self, plane: NDArray[Any]) -> None:
        from skimage.measure import label  # slow to load

        pieces = label(plane.astype(np.int64), connectivity=2)
        areas = np.bincount(pieces.ravel())[1:]
        owner = np.zeros(areas.size + 1, np.int64)
        owner[pieces.ravel()] = plane.ravel()
        self.pieces, self.areas, self.owner = pieces, areas, owner
        self.values, index = np.unique(owner[1:], return_inverse=True)
        largest = np.zeros(self.values.size, np.int64)
        np.maximum.at(largest, index, areas)
        whole = np.flatnonzero(areas >= CRUMB * largest[index])
        self.per_label = np.bincount(index[whole], minlength=self.values.size)
        self.several = self.values[self.per_label > 1]
        per_value = np.bincount(index, areas, self.values.size)
        self.background = self._background(plane, per_value)
        self.holes, self.are_cells = self._holes(plane, areas)
        self.has_no_cell = self._has_no_cell(plane, per_value)
        self.typical = float(np.sqrt(np.median(areas[whole]))) if areas.size else 0.0
        # So many pieces lie apart anyhow.
        several = np.flatnonzero((self.per_label > 1) & (self.per_label < MANY)).tolist()
        of_label = {at: whole[index[whole] == at] for at in several}
        far = self._far(of_label) + np.flatnonzero(self.per_label >= MANY).tolist()
        numbers = np.flatnonzero(self.per_label > 1).tolist()
        if 2 * len(numbers) <= self.values.size:
            numbers = sorted(far)
        self.shared = [int(self.values[at]) for at in numbers]
        self.apart = [int(self.values[at]) for at in sorted(far)]

    def _background(self, plane: NDArray[Any], areas: NDArray[Any]) -> tuple[int, float, bool]:
        """It touches all sides, and is far larger than cells are; 0 for none."""
        candidates = []
        if min(plane.shape) >= 3:
            edges = (plane[0], plane[-1], plane[:, 0], plane[:, -1])
            around = set.intersection(*(set(np.unique(edge)) for edge in edges)) - {0}
            candidates = [at for at, value in enumerate(self.values) if value in around]
        at = max(candidates, key=lambda i: areas[i], default=None)
        if at is not None:
            others = np.delete(areas, at)
            share = float(areas[at] / plane.size)
            few_zeros = 1 - areas.sum() / plane.size < FEW_ZEROS
            if others.size and (
                share > 0.5 or (share > 0.1 and areas[at] > LARGE * np.median(others))
            ):
                return int(self.values[at]), share, few_zeros
        return 0, 0.0, False

    def _holes(self, plane: NDArray[Any], areas: NDArray[Any]) -> tuple[int, bool]:
        """How many there are; whether they have the shape of cells, and not of gaps."""
        from skimage.measure import regionprops

        edges = (plane[:1], plane[-1:], plane[:, :1], plane[:, -1:])
        if self.values.size != 1 or not all(edge.any() for edge in edges):
            return 0, False
        if areas.max() < ALL_AROUND * areas.sum() or 2 * np.count_nonzero(plane) <= plane.size:
            return 0, False  # large cells, and gaps between them
        zero = _pieces_of_zero(plane)
        at_edges = np.concatenate([zero[0], zero[-1], zero[:, 0], zero[:, -1]])
        sizes = np.bincount(zero.ravel())
        sizes[[0, *np.unique(at_edges)]] = 0
        n = int(np.count_nonzero(sizes))
        if n < PIECES:
            return n, False
        some = np.flatnonzero(sizes >= CRUMB * sizes.max())[:_MOST_HOLES]
        if np.median(sizes[some]) < _SMALLEST_CELL:
            return n, False
        known = regionprops(np.where(np.isin(zero, some), zero, 0))
        return n, bool(np.median([hole.solidity for hole in known]) >= CONVEX)

    def _has_no_cell(self, plane: NDArray[Any], areas: NDArray[Any]) -> bool:
        """Whether the greatest number, if it may be a mark, has the shape of no cell."""
        if not self.values.size or self.values[-1] not in _MARKS:
            return False
        own = np.pad(plane == self.values[-1], 1)
        within = (
            own[1:-1, 1:-1] & own[:-2, 1:-1] & own[2:, 1:-1] & own[1:-1, :-2] & own[1:-1, 2:]
        )
        perimeter = areas[-1] - within.sum()
        is_band = perimeter**2 > _BAND * 4 * np.pi * areas[-1]
        is_large = areas.size > 1 and areas[-1] > LARGE * np.median(areas[:-1])
        return bool(is_band or is_large or self.per_label[-1] > 1)

    def groups(self, number: int) -> list[NDArray[np.intp]]:
        """Pieces of one number that lie near each other, those of the largest first.

        Crumbs are in none.
        """
        from scipy.ndimage import find_objects
        from scipy.sparse.csgraph import connected_components

        own = np.flatnonzero(self.owner == number)
        areas = self.areas[own - 1]
        own = own[areas >= CRUMB * areas.max(initial=0)]
        own = own[np.argsort(-self.areas[own - 1], kind="stable")]
        if own.size >= MANY:
            return list(own[:, None])
        if own.size == 0:
            return []
        boxes = find_objects(self.pieces)
        near = _gaps([boxes[i - 1] for i in own]) <= self.typical
        n, group = connected_components(near, directed=False)
        # Groups are counted in the order of their first pieces.
        return [own[group == one] for one in range(n)]

    def _far(self, of_label: dict[int, NDArray[np.intp]]) -> list[int]:
        from scipy.ndimage import find_objects

        if not of_label:
            return []
        boxes = find_objects(self.pieces)
        return [
            at
            for at, own in of_label.items()
            if _is_apart([boxes[i] for i in own], self.typical)
        ]


def _pieces_of_zero(plane: NDArray[Any]) -> NDArray[Any]:
    from skimage.measure import label  # slow to load

    zero: NDArray[Any] = label(plane == 0, connectivity=1)
    return zero


def _is_apart(boxes: list[Any], typical: float) -> bool:
    """Whether a piece lies further from all others than a cell is large."""
    gaps = _gaps(boxes)
    np.fill_diagonal(gaps, np.inf)
    return bool(gaps.min(1).max() > typical)


def _gaps(boxes: list[Any]) -> NDArray[Any]:
    """How far boxes lie from each other (px), each from each."""
    spans = np.array([[(s.start, s.stop) for s in box] for box in boxes], float)
    gaps = np.maximum(spans[:, None, :, 0] - spans[None, :, :, 1], 0).max(-1)
    return np.maximum(gaps, gaps.T)


def _mark_of(planes: list[_Pieces]) -> tuple[int, int]:
    """Number that may mark pixels that do not count, and the next below it; else 0, 0.

    It is the greatest of a type, and farther above the others than these are from each other:
    cells, too, get that number, and those before it may have been deleted.
    """
    values = np.unique([number for plane in planes for number in plane.values.tolist()])
    if values.size < 2 or values[-1] not in _MARKS:
        return 0, 0
    *others, gap = np.diff(values, prepend=0)
    if gap <= max(_FAR, _TIMES * max(others)):
        return 0, 0
    return int(values[-1]), int(values[-2])


def _mask_words(planes: list[_Pieces]) -> str:
    """What is wrong, and what to do, where labels look like a mask; empty where they do not.

    A numbered cell is one piece, or a few where something lies across it. In a mask of 0 and
    1, of 0 and 255, or of classes, one value stands in many places.
    """
    counts = [plane.per_label for plane in planes if plane.values.size]
    if not counts:
        return ""
    usual = int(np.median(np.concatenate(counts)))
    values = np.unique(np.concatenate([plane.values for plane in planes]))
    # 255 is what programs write into masks; as a number of a single cell it is an odd one.
    is_mask = values.size == 1 and values[0] == 255 and usual > 1
    if usual < PIECES and not is_mask:
        return ""
    what = f"the one value {values[0]}" if values.size == 1 else f"each of {values.size} values"
    return (
        f"this looks like a mask, not like numbered cells: {what} stands in {usual} separate "
        f"places. {NUMBER_THEM}"
    )


def _shared_words(planes: list[_Pieces], many: str) -> str:
    numbers = [str(number) for plane in planes for number in plane.shared]
    if not numbers:
        return ""
    n = sum(plane.values.size for plane in planes)
    where = "far apart" if any(plane.apart for plane in planes) else "separate"
    some = ", ".join(numbers[:_NAMED])
    return (
        f"{len(numbers)} of {n} numbers {plural(len(numbers), 'stands', 'stand')} in several "
        f"{where} places, such as {some}: several cells under one number are {many}. "
        "Give each cell a number of its own."
    )
