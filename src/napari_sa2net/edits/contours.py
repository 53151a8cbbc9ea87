"""Correct the outline of objects: holes, roughness, the probability's edge, drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import scipy  # its parts load on first use
from numpy.typing import ArrayLike, NDArray

from napari_sa2net.edits.corrections import Corrections
from napari_sa2net.edits.objects import joined, label_at, named, pixel_step
from napari_sa2net.edits.reviewed import reviewed_labels
from napari_sa2net.edits.shapes import (
    Box,
    as_points,
    common,
    grown,
    polygon_box,
    polygon_mask,
    squared_distance,
)
from napari_sa2net.edits.step import Index, Patch, Step
from napari_sa2net.errors import EditError, NothingToEditError
from napari_sa2net.metrics import distinct

Mask = NDArray[np.bool_]
Overwrite = bool | Literal["unreviewed"]

_EIGHT = np.ones((3, 3), bool)


def fill_holes(corrections: Corrections, labels: Iterable[int], index: Index = ()) -> Step:
    """Give background that an object encloses to it; other objects in a hole stay.

    Parameters
    ----------
    corrections : Corrections
    labels : iterable of int
    index : tuple of int
        Plane of the stack.

    Raises
    ------
    NothingToEditError
        If there are no holes.
    EditError
        If a label is not there.
    """
    index = corrections.checked(index)
    chosen = corrections.objects(labels, index)
    patch, _ = _reshaped(
        corrections,
        chosen,
        index,
        0,
        lambda window, label, _: scipy.ndimage.binary_fill_holes(window == label),
    )
    if not patch:
        raise NothingToEditError(f"There are no holes in {named(chosen)}.")
    return pixel_step(corrections, "fill", f"filling of {named(chosen)}", [patch])


def smooth(
    corrections: Corrections, labels: Iterable[int], index: Index = (), radius: float = 2.0
) -> Step:
    """Smooth the outlines of objects.

    Bays are filled and spurs removed that are narrower than about twice the radius. Where
    two objects touch, the line between them stays as it is.

    Parameters
    ----------
    corrections : Corrections
    labels : iterable of int
    index : tuple of int
        Plane of the stack.
    radius : float
        Standard deviation of the blur, 0.5 to 20 px.

    Raises
    ------
    NothingToEditError
        If they are as smooth already, or so small that nothing would be left.
    EditError
        If a label is not there or the radius is out of bounds.
    """
    index = corrections.checked(index)
    if not 0.5 <= radius <= 20:
        raise EditError(f"Smoothing takes a radius from 0.5 to 20 px, not {radius}.")
    chosen = corrections.objects(labels, index)

    def smoothed(window: NDArray[Any], label: int, _: Box) -> Mask:
        own = window == label
        free = own | (window == 0)
        # Blurred over the free pixels alone: a neighbour neither pulls nor pushes.
        inside, around = (
            scipy.ndimage.gaussian_filter(
                mask.astype(np.float32), radius, mode="nearest", truncate=3
            )
            for mask in (own, free)
        )
        smooth: Mask = free & (inside >= 0.5 * around) & (around > 0)
        pieces, n = scipy.ndimage.label(smooth, _EIGHT)
        if n > 1 and scipy.ndimage.label(own, _EIGHT)[1] == 1:
            smooth = pieces == np.bincount(pieces[smooth]).argmax()
        return smooth

    patch, _ = _reshaped(corrections, chosen, index, int(3 * radius) + 1, smoothed)
    if not patch:
        raise NothingToEditError(f"There is nothing to smooth on {named(chosen)}.")
    return pixel_step(corrections, "smooth", f"smoothing of {named(chosen)}", [patch])


def fit_to_edge(
    corrections: Corrections,
    labels: Iterable[int],
    foreground: Any,
    index: Index = (),
    threshold: float = 0.5,
    reach: int = 10,
) -> Step:
    """Grow and shrink objects to where the foreground probability crosses a threshold.

    An object takes background pixels above the threshold that hang together with it, lie
    within reach, and are nearer to it than to any other object; it gives up pixels below.

    Parameters
    ----------
    corrections : Corrections
    labels : iterable of int
    foreground : float array (H, W), numpy or anything read by slices
        Foreground probability of the plane.
    index : tuple of int
        Plane of the stack.
    threshold : float
        In 0…1; lower gives larger cells.
    reach : int
        Farthest growth, 1 to 100 px.

    Raises
    ------
    NothingToEditError
        If an outline lies at the edge already, or there is no probability above the
        threshold in the object.
    EditError
        If a label is not there, or the probability does not fit.
    """
    index = corrections.checked(index)
    if tuple(np.shape(foreground)) != corrections.shape:
        raise EditError(
            f"The probability has shape {tuple(np.shape(foreground))}, the plane "
            f"{corrections.shape}: use the probability of this plane."
        )
    if not 0 < threshold < 1 or not 1 <= reach <= 100:
        raise EditError("The threshold lies between 0 and 1, the reach from 1 to 100 px.")
    chosen = corrections.objects(labels, index)

    def fitted(window: NDArray[Any], label: int, box: Box) -> Mask:
        y0, y1, x0, x1 = box
        edge = np.asarray(foreground[y0:y1, x0:x1]) >= threshold
        return _fitted(window, label, edge, reach)

    # Beyond the reach lie objects that may be nearer to a pixel within it.
    patch, seen = _reshaped(corrections, chosen, index, 2 * reach, fitted)
    if not seen:
        raise NothingToEditError(
            f"The model sees nothing at {named(chosen)} above {threshold:g}: lower the "
            "threshold, or delete it."
        )
    if not patch:
        raise NothingToEditError(f"The outline of {named(chosen)} lies at the edge already.")
    return pixel_step(corrections, "edge", f"fitting of {named(chosen)}", [patch])


def _fitted(window: NDArray[Any], label: int, edge: Mask, reach: int) -> Mask:
    own, others = window == label, (window != label) & (window != 0)
    away = squared_distance(own, reach)
    free = edge & ~others & (away <= reach**2)
    if others.any():
        free &= away <= squared_distance(others, reach)
    pieces, _ = scipy.ndimage.label(free)
    held = np.unique(pieces[free & own])
    return np.asarray(
        scipy.ndimage.binary_fill_holes(np.isin(pieces, held[held > 0])) & ~others
    )


def redraw(
    corrections: Corrections,
    outline: ArrayLike,
    index: Index = (),
    label: int | None = None,
    overwrite: Overwrite = False,
) -> Step:
    """Draw an object anew by its outline.

    Parameters
    ----------
    corrections : Corrections
    outline : (n, 2) points (y, x), n >= 3
    index : tuple of int
        Plane of the stack.
    label : int, optional
        The object to redraw; a new one is made without it.
    overwrite : bool or "unreviewed"
        Also take pixels of other objects under the outline; or only of those that nobody has
        reviewed, and of these all where more than half lies under it.

    Raises
    ------
    NothingToEditError
        If no pixel would change.
    EditError
        If the label is not there or the outline holds no free pixel.
    """
    index = corrections.checked(index)
    points = as_points(outline, 3, "outline")
    box = polygon_box(points, corrections.shape)
    if box is None:
        raise EditError("The outline lies outside the image: draw it on the image.")
    return redraw_mask(
        corrections, polygon_mask(points, box), (box[0], box[2]), index, label, overwrite
    )


def redraw_mask(
    corrections: Corrections,
    mask: ArrayLike,
    corner: tuple[int, int] = (0, 0),
    index: Index = (),
    label: int | None = None,
    overwrite: Overwrite = False,
) -> Step:
    """Draw an object anew by a mask (h, w) whose first pixel lies at corner (y, x).

    The other parameters and errors are those of :func:`redraw`.
    """
    index = corrections.checked(index)
    drawn = np.asarray(mask)
    if drawn.ndim != 2 or drawn.dtype != np.bool_:
        raise EditError(f"A mask is bool (h, w), not {drawn.dtype} {drawn.shape}.")
    y0, x0 = (int(c) for c in corner)
    box: Box = (y0, y0 + drawn.shape[0], x0, x0 + drawn.shape[1])
    if y0 < 0 or x0 < 0 or box[1] > corrections.shape[0] or box[3] > corrections.shape[1]:
        raise EditError("The mask reaches beyond the image: cut it to the image.")
    if label is not None:
        (label,) = corrections.objects([label], index)
    window = corrections.look(index, box)
    own = window == label if label is not None else np.zeros(window.shape, bool)
    if not drawn.any():
        raise EditError("The outline holds no free pixel: draw it larger.")
    yields: set[int] = set()
    if overwrite == "unreviewed":
        yields = {*distinct(window[drawn])[0].tolist()} - reviewed_labels(corrections, index)
        yields -= {0, label}
    if overwrite is not True:
        drawn = drawn & (own | np.isin(window, [0, *yields]))
    if not drawn.any():
        raise EditError(
            "The outline holds no free pixel, as other cells lie there: draw around a whole "
            "cell to redraw that one, or delete those cells first."
        )
    words, former = f"redrawing of cell {label}", []
    if label is not None:
        former = corrections.parts(label, index)
    else:
        (label,) = corrections.new_labels(1)
        words = f"drawing of cell {label}"
    plane = corrections.plane(index)
    under, areas = (found.tolist() for found in distinct(window[drawn]))
    goes = [
        other
        for other, area in zip(under, areas, strict=True)
        if other in yields and area > plane.area(other) / 2
    ]
    former += [part for other in goes for part in corrections.parts(other, index)]
    left = [label, *goes]
    new = np.where(drawn, label, np.where(np.isin(window, left), 0, window))
    patches = [Patch.between(index, (box[0], box[2]), window, new)]
    for part in former:
        # what of these cells lies outside the mask
        window = corrections.look(index, part)
        new = np.where(np.isin(window, left), 0, window)
        if shared := common(part, box):
            here, there = (
                (slice(shared[0] - y, shared[1] - y), slice(shared[2] - x, shared[3] - x))
                for y, x in ((part[0], part[2]), (box[0], box[2]))
            )
            new[here] = np.where(drawn[there], label, new[here])
        patches.append(Patch.between(index, (part[0], part[2]), window, new))
    patch = joined(index, patches)
    return pixel_step(corrections, "redraw", words, [patch], yielded=yields)


#: A click on an object that leaves less of it than this share means all of it.
_LEFT = 0.15
#: One that covers this share of what is meant is what is meant.
SAME = 1 - _LEFT


def add_at(
    corrections: Corrections,
    mask: ArrayLike,
    corner: tuple[int, int],
    point: tuple[float, float],
    index: Index = (),
) -> Step:
    """Make an object of what was clicked: a new one, a part cut off another, or more of it.

    Parameters
    ----------
    corrections : Corrections
    mask : (h, w) bool
        What belongs to it, wherever other objects are.
    corner : (y, x)
        Of the mask's first pixel.
    point : (y, x)
        The click. On background the new object takes background only; on an object it takes
        pixels of that one, too, and crumbs that would be left of it. Where all of that one
        belongs to it, that one grows.
    index : tuple of int
        Plane of the stack.

    Raises
    ------
    EditError
        If the object under the click is just about what is meant, or nothing is free.
    """
    index = corrections.checked(index)
    drawn = np.asarray(mask, bool)
    y0, x0 = (int(c) for c in corner)
    box: Box = (y0, y0 + drawn.shape[0], x0, x0 + drawn.shape[1])
    under = label_at(corrections, point, index)
    if not under:
        return redraw_mask(corrections, drawn, (y0, x0), index)
    window = corrections.look(index, box)
    own = window == under
    drawn = drawn & (own | (window == 0))
    known = corrections.plane(index)
    goes_on = known.areas[known.labels == under].sum() > own.sum()
    if not goes_on:
        pieces, n = scipy.ndimage.label(own & ~drawn)
        sizes = np.bincount(pieces.ravel(), minlength=n + 1)
        sizes[0] = own.sum()
        drawn |= (sizes < _LEFT * own.sum())[pieces]
    if not (own & drawn).any() or not (goes_on or (own & ~drawn).any()):
        if own.any() and own.sum() < SAME * drawn.sum():
            return redraw_mask(corrections, drawn, (y0, x0), index, under)
        raise EditError(
            f"Cell {under} is one cell there, as it is. Click on a cell that is missing, or "
            "on the other cell where two are one; Split cuts along a line."
        )
    (label,) = corrections.new_labels(1)
    patch = Patch.between(index, (y0, x0), window, np.where(drawn, label, window))
    return pixel_step(corrections, "split", f"cutting of cell {under} by a click", [patch])


def _reshaped(
    corrections: Corrections,
    labels: Iterable[int],
    index: Index,
    margin: int,
    shape: Callable[[NDArray[Any], int, Box], Mask],
) -> tuple[Patch, set[int]]:
    """Objects with new masks, of each of their places with a margin; taking background only.

    An object whose new mask is empty there stays as it is. Returns also the others.
    """
    patches, seen = [], set()
    for label in labels:
        for place in corrections.places(label, index):
            box = grown(place, margin, corrections.shape)
            window = corrections.look(index, box)
            mask = shape(window, label, box)
            if mask.any():
                seen.add(label)
                new = np.where(window == label, 0, window)
                new[mask & (new == 0)] = label
                patches.append(Patch.between(index, (box[0], box[2]), window, new))
    return joined(index, patches), seen
