"""Lines, polygons and boxes on the pixel grid.

Points are (y, x) in pixels with pixel centres at whole numbers, as napari gives them. Boxes
are half-open: (y0, y1, x0, x1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_sa2net.errors import EditError

Box = tuple[int, int, int, int]
Points = NDArray[np.float64]
Pixels = NDArray[np.int64]

#: Points are rounded to this fraction of a pixel, so that a polygon covers the same pixels
#: whichever window it is drawn in.
_GRID = 64
#: Farthest point from the origin that is taken, in pixels.
_FARTHEST = 2**30


def as_points(points: ArrayLike, at_least: int, what: str) -> Points:
    """Check points of a drawn shape.

    Parameters
    ----------
    points : array-like (n, 2)
        (y, x) in pixels.
    at_least : int
        Fewest points of the shape.
    what : str
        Its name in messages, such as "line".

    Returns
    -------
    float64 (n, 2)

    Raises
    ------
    EditError
        If they are too few, not pairs, or not finite.
    """
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EditError(f"The {what} is not a list of points: {error}") from error
    if array.ndim != 2 or array.shape[1] != 2:
        raise EditError(
            f"The {what} must be points (y, x) in one plane, but has shape {array.shape}."
        )
    if not np.isfinite(array).all() or (np.abs(array) > _FARTHEST).any():
        raise EditError(f"The {what} has points that are no positions in the image.")
    if len(array) < at_least:
        raise EditError(
            f"The {what} has {len(array)} point(s), at least {at_least} are needed: "
            "draw it again."
        )
    rounded: Points = np.round(array * _GRID) / _GRID
    return rounded


def as_point(point: ArrayLike) -> tuple[float, float]:
    """Check one position (y, x); EditError if it is none."""
    try:
        array = np.asarray(point, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EditError(f"A position is (y, x) in pixels, not {point!r}.") from error
    if array.shape != (2,) or not np.isfinite(array).all():
        raise EditError(f"A position is (y, x) in pixels, not {point!r}.")
    return float(array[0]), float(array[1])


def as_box(box: Any, shape: tuple[int, int]) -> Box:
    """Clip a box to a plane.

    Raises
    ------
    EditError
        If it is no box or lies outside the plane.
    """
    try:
        y0, y1, x0, x1 = (int(value) for value in box)
    except (TypeError, ValueError, OverflowError) as error:
        raise EditError(f"A box is (y0, y1, x0, x1) in pixels, not {box!r}.") from error
    clipped = (max(y0, 0), min(y1, shape[0]), max(x0, 0), min(x1, shape[1]))
    if clipped[0] >= clipped[1] or clipped[2] >= clipped[3]:
        raise EditError("The box holds no pixel of the image: draw it on the image.")
    return clipped


def grown(box: Box, by: int, shape: tuple[int, int]) -> Box:
    """A box with a margin, clipped to the plane."""
    y0, y1, x0, x1 = box
    return max(y0 - by, 0), min(y1 + by, shape[0]), max(x0 - by, 0), min(x1 + by, shape[1])


def runs_box(rows: Pixels, starts: Pixels, ends: Pixels) -> Box:
    """Smallest box around runs of pixels along rows, of which there is at least one."""
    return int(rows.min()), int(rows.max()) + 1, int(starts.min()), int(ends.max())


def union(boxes: Any) -> Box:
    """Smallest box around boxes, of which there is at least one."""
    array = np.asarray(boxes, np.int64).reshape(-1, 4)
    y0, x0 = array[:, [0, 2]].min(axis=0)
    y1, x1 = array[:, [1, 3]].max(axis=0)
    return int(y0), int(y1), int(x0), int(x1)


def common(a: Box, b: Box) -> Box | None:
    """What two boxes share; None where they are apart."""
    box = (max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3]))
    return box if box[0] < box[1] and box[2] < box[3] else None


def line_pixels(
    points: Points, shape: tuple[int, int], tight: bool = False
) -> tuple[Pixels, Pixels]:
    """Pixels under a polyline, in drawing order, without those outside the plane.

    Parameters
    ----------
    points : (n, 2)
    shape : (H, W)
    tight : bool
        Neighbouring pixels share an edge, so that nothing slips through diagonally.

    Returns
    -------
    rows, cols : int64 (m,)
        A pixel that is crossed twice comes twice.
    """
    points = _clipped(points, shape)
    if len(points) == 1:
        points = np.repeat(points, 2, axis=0)
    start, move = points[:-1], np.diff(points, axis=0)
    steps = np.ceil(np.abs(move).max(axis=1)).astype(np.int64)
    n = steps + 1
    segment = np.repeat(np.arange(len(steps)), n)
    k = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    part = k / np.maximum(steps[segment], 1)
    pixels = np.floor(start[segment] + part[:, None] * move[segment] + 0.5).astype(np.int64)
    if tight and len(pixels) > 1:
        diagonal = (np.diff(pixels, axis=0) != 0).all(axis=1)
        at = np.flatnonzero(diagonal)
        corners = np.stack([pixels[at, 0], pixels[at + 1, 1]], axis=1)
        pixels = np.insert(pixels, at + 1, corners, axis=0)
    inside = ((pixels >= 0) & (pixels < np.asarray(shape))).all(axis=1)
    rows, cols = pixels[inside].T
    return rows, cols


def _clipped(points: Points, shape: tuple[int, int]) -> Points:
    """Points with far away ones pulled in, so that a line to nowhere costs no memory."""
    margin = 4 * max(*shape, 1)
    return np.clip(points, -margin, np.asarray(shape) + margin)


def polygon_mask(points: Points, box: Box) -> NDArray[np.bool_]:
    """Pixels of a box whose centres lie in a polygon; bool (y1 - y0, x1 - x0).

    Even-odd rule, as :func:`inside_polygon`; a centre on an edge belongs to one side of it.
    """
    y0, y1, x0, x1 = box
    ends = np.roll(points, -1, axis=0)
    upper = np.where((points[:, 0] <= ends[:, 0])[:, None], points, ends)
    lower = np.where((points[:, 0] <= ends[:, 0])[:, None], ends, points)
    first = np.clip(np.ceil(upper[:, 0]), y0, y1).astype(np.int64)
    n = np.clip(np.ceil(lower[:, 0]), y0, y1).astype(np.int64) - first
    edge = np.repeat(np.arange(len(points)), n)
    rows = np.repeat(first, n) + np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    fall = np.maximum(lower[:, 0] - upper[:, 0], 1 / _GRID)
    slope = (lower[:, 1] - upper[:, 1]) / fall
    crossing = upper[edge, 1] + (rows - upper[edge, 0]) * slope[edge]
    # Each crossing turns inside and outside round for all columns from it on.
    cols = np.clip(np.ceil(crossing), x0, x1).astype(np.int64)
    width = x1 - x0 + 1
    turns = np.bincount((rows - y0) * width + cols - x0, minlength=(y1 - y0) * width).reshape(
        y1 - y0, width
    )
    mask: NDArray[np.bool_] = np.logical_xor.accumulate(turns[:, :-1] % 2 == 1, axis=1)
    return mask


def polygon_box(points: Points, shape: tuple[int, int]) -> Box | None:
    """Box of a plane's pixels that a polygon may cover; None where it lies outside."""
    low = np.floor(points.min(axis=0)).astype(np.int64)
    high = np.ceil(points.max(axis=0)).astype(np.int64) + 1
    box = (int(low[0]), int(high[0]), int(low[1]), int(high[1]))
    return common(box, (0, shape[0], 0, shape[1]))


def inside_polygon(points: Points, y: ArrayLike, x: ArrayLike) -> NDArray[np.bool_]:
    """Which positions lie in a polygon (even-odd rule)."""
    all_y: NDArray[np.float64] = np.asarray(y, np.float64)
    all_x: NDArray[np.float64] = np.asarray(x, np.float64)
    (top, left), (bottom, right) = points.min(axis=0), points.max(axis=0)
    near = (all_y >= top) & (all_y <= bottom) & (all_x >= left) & (all_x <= right)
    order = np.argsort(all_y[near], kind="stable")
    at_y, at_x = all_y[near][order], all_x[near][order]
    # each edge with the positions at its height only, upper end in and lower end out
    ends = np.roll(points, -1, axis=0)
    first = np.searchsorted(at_y, np.minimum(points[:, 0], ends[:, 0]))
    n = np.searchsorted(at_y, np.maximum(points[:, 0], ends[:, 0])) - first
    edge = np.repeat(np.arange(len(points)), n)
    which = np.repeat(first, n) + np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    (ya, xa), (yb, xb) = points[edge].T, ends[edge].T
    turns = at_x[which] < xa + (at_y[which] - ya) / (yb - ya) * (xb - xa)
    found = np.empty(at_y.size, bool)
    found[order] = np.bincount(which[turns], minlength=at_y.size) % 2 == 1
    inside = np.zeros(all_y.shape, bool)
    inside[near] = found
    return inside


def blocks_of(boxes: Sequence[Box], side: int, shape: tuple[int, int]) -> list[Box]:
    """Squares of a grid that meet any of the boxes, each once, clipped to the plane."""
    found = {
        (row, col)
        for y0, y1, x0, x1 in boxes
        for row in range(y0 // side, -(-y1 // side))
        for col in range(x0 // side, -(-x1 // side))
    }
    height, width = shape
    return [
        (r * side, min((r + 1) * side, height), c * side, min((c + 1) * side, width))
        for r, c in sorted(found)
    ]


def box_polygon(box: Box) -> Points:
    """Corners of the polygon that covers just the pixels of a box."""
    y0, y1, x0, x1 = box
    top, bottom, left, right = y0 - 0.5, y1 - 0.5, x0 - 0.5, x1 - 0.5
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])


def squared_distance(mask: NDArray[np.bool_], reach: int) -> NDArray[np.uint16]:
    """Squared distance (px²) to the nearest pixel of a mask, exact up to a reach of 100 px.

    Farther ones are some number above the squared reach. Several times faster than a
    distance transform without bound.
    """
    far = np.where(mask, np.uint8(0), np.uint8(reach + 1))
    for way in (2**i for i in range(reach.bit_length())):  # together all ways up to reach
        _lower(far, far.copy(), way, way)
    squares = np.ascontiguousarray(np.minimum(far, reach + 1).T).astype(np.uint16)
    squares *= squares
    best = squares.copy()
    for way in range(1, reach + 1):
        _lower(best, squares, way, way * way)
    return best.T


def _lower(best: NDArray[Any], values: NDArray[Any], way: int, by: int) -> None:
    """Lower to the values that lie so far up or down the column, plus a number; in place."""
    if way < len(values):
        farther = values + values.dtype.type(by)
        np.minimum(best[way:], farther[:-way], out=best[way:])
        np.minimum(best[:-way], farther[way:], out=best[:-way])
