"""What is measured of cells beyond their size, by groups: shape, intensity, neighbours.

A plane is read in tiles with a margin; sums of a tile add up, so that memory stays small
however large the image or a cell is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import scipy  # its parts are loaded when they are used
from numpy.typing import NDArray

from napari_sa2net.errors import SettingsError
from napari_sa2net.metrics import numbered

GROUPS = ("shape", "intensity", "neighbours")
#: What is measured where nothing is said.
DEFAULT = ("shape",)
#: The background ring: so far from the cell (px) it begins, and so wide (px) it is.
RING_GAP, RING_WIDTH = 2, 5
#: As far (px) a cell's measurements look.
MARGIN = RING_GAP + RING_WIDTH + 1
#: Side of a tile (px).
TILE = 1024
#: What is said of each channel.
OF_CHANNELS = ("mean", "sum", "std", "min", "max", "background")
#: Flat objects whose hulls are made at once.
_HULLS = 2**12
#: Pairs of points that are looked at at once.
_PAIRS = 2**20
_EPS = 1e-9

#: Reads labels, or raw values with channels last, of a plane: index, rows, columns.
Read = Callable[[tuple[int, ...], slice, slice], NDArray[Any]]
#: Part of a plane (index, rows, columns), and the labels to be measured in it; None for all.
Piece = tuple[tuple[int, ...], slice, slice, NDArray[Any] | None]
Sums = dict[str, NDArray[Any]]


def checked_groups(groups: Iterable[str] | None) -> tuple[str, ...]:
    """Groups in their order; None stands for the usual ones, "none" for none.

    Raises
    ------
    SettingsError
        If one is unknown.
    """
    if groups is None:
        return DEFAULT
    wanted = {groups} if isinstance(groups, str) else set(groups)
    unknown = sorted(wanted - {*GROUPS, "none"})
    if unknown:
        raise SettingsError(
            f"There is no group of measurements {', '.join(map(repr, unknown))}. "
            f"There are {', '.join(GROUPS)}, and none."
        )
    return tuple(group for group in GROUPS if group in wanted)


@dataclass(frozen=True)
class Quantities:
    """Which groups are measured, and of what.

    Attributes
    ----------
    groups
        Of `GROUPS`.
    shape
        Of the labels, stack axes + (H, W).
    stack_axes
        One letter per stack axis.
    n_channels
        Of the image; 0 where there is none.
    pixel_size
        (y, x) in µm; NaN where unknown.
    z_step
        In µm; NaN where unknown.
    """

    groups: tuple[str, ...]
    shape: tuple[int, ...]
    stack_axes: str = ""
    n_channels: int = 0
    pixel_size: tuple[float, float] = (math.nan, math.nan)
    z_step: float = math.nan

    @property
    def depth(self) -> int | None:
        """Which stack axis goes into depth; None where cells are flat."""
        at = self.stack_axes.upper().find("Z")
        return at if at >= 0 and self.shape[at] > 1 else None

    @property
    def unit(self) -> str:
        """Of lengths: um, or px where a size is unknown."""
        sizes = (*self.pixel_size, *([] if self.depth is None else [self.z_step]))
        return "um" if np.isfinite(sizes).all() else "px"

    @property
    def spacing(self) -> tuple[float, float, float]:
        """From pixel to pixel along z, y and x, in the unit."""
        if self.unit == "px":
            return 1.0, 1.0, 1.0
        return (1.0 if self.depth is None else self.z_step), *self.pixel_size

    def columns(self) -> dict[str, str]:
        """Names of the columns, with their dtypes."""
        unit, found = self.unit, dict[str, str]()
        if "shape" in self.groups:
            flat = (f"perimeter_{unit}", "circularity", "orientation_deg")
            deep = (f"surface_{unit}2", "sphericity")
            names = [
                *(flat if self.depth is None else deep),
                f"equivalent_diameter_{unit}",
                f"major_axis_{unit}",
                f"minor_axis_{unit}",
                "solidity",
                f"feret_max_{unit}",
            ]
            found |= dict.fromkeys(names, "float64")
        if "intensity" in self.groups:
            found |= {
                f"{what}_ch{channel}": "float64"
                for channel in range(self.n_channels)
                for what in OF_CHANNELS
            }
        if "neighbours" in self.groups:
            contact = f"contact_{unit}" + ("" if self.depth is None else "2")
            found |= {"neighbours": "int64", contact: "float64", "contact_fraction": "float64"}
        return found

    def nothing(self) -> Sums:
        """The columns without rows."""
        return {name: np.empty(0, dtype) for name, dtype in self.columns().items()}

    def frame(self, index: tuple[int, ...]) -> tuple[int, int]:
        """Which time point, or the like, a plane belongs to, and its depth in it."""
        at, shape = list(index), list(self.shape[:-2])
        z = 0
        if self.depth is not None:
            z = at.pop(self.depth)
            shape.pop(self.depth)
        return (int(np.ravel_multi_index(at, shape)) if shape else 0), z


def groups_in(columns: Iterable[str]) -> tuple[str, ...]:
    """The groups that a table has columns of."""
    names = set(columns)
    tells = {"shape": "solidity", "intensity": "mean_ch0", "neighbours": "contact_fraction"}
    return tuple(group for group in GROUPS if tells[group] in names)


def tiles(shape: tuple[int, ...]) -> Iterator[Piece]:
    """Pieces that cover labels of a shape."""
    height, width = shape[-2:]
    for index in np.ndindex(*shape[:-2]):
        for y, x in product(range(0, height, TILE), range(0, width, TILE)):
            yield index, slice(y, min(y + TILE, height)), slice(x, min(x + TILE, width)), None


def measure_groups(
    wanted: Quantities,
    labels: Read,
    image: Read | None = None,
    pieces: Iterable[Piece] | None = None,
    between: Callable[[], None] = lambda: None,
) -> Sums:
    """Columns of the groups, with the column label in ascending order.

    Parameters
    ----------
    wanted
    labels, image
        The image is read only where intensities are asked for.
    pieces
        Where the cells and their surroundings are; unsaid: everywhere. Each pixel of a
        label may be in one piece only.
    between
        Called after every piece.
    """
    parts: list[Sums] = []
    hulls: list[NDArray[np.int64]] = []
    pairs: list[NDArray[Any]] = []
    if "intensity" not in wanted.groups or wanted.n_channels == 0:
        image = None
    for index, rows, columns, own in tiles(wanted.shape) if pieces is None else pieces:
        _add(wanted, labels, image, index, rows, columns, own, parts, hulls, pairs)
        between()
    if not parts:
        return {"label": np.empty(0, np.int64), **wanted.nothing()}
    return _finished(wanted, parts, hulls, pairs)


# --- one tile ----------------------------------------------------------------------------


def _add(
    wanted: Quantities,
    read: Read,
    image: Read | None,
    index: tuple[int, ...],
    rows: slice,
    columns: slice,
    own: NDArray[Any] | None,
    parts: list[Sums],
    hulls: list[NDArray[np.int64]],
    pairs: list[NDArray[Any]],
) -> None:
    """Take in the sums of one tile of a plane."""
    height, width = wanted.shape[-2:]
    top, left = max(0, rows.start - MARGIN), max(0, columns.start - MARGIN)
    bottom, right = min(height, rows.stop + MARGIN), min(width, columns.stop + MARGIN)
    window = np.pad(read(index, slice(top, bottom), slice(left, right)), 1)
    if not window.any():
        return
    # the tile itself in its window
    y0, x0 = rows.start - top + 1, columns.start - left + 1
    core = (
        slice(y0, y0 + rows.stop - rows.start),
        slice(x0, x0 + columns.stop - columns.start),
    )
    inner = window[core]
    mask = inner != 0 if own is None else np.isin(inner, own) & (inner != 0)
    at = np.flatnonzero(mask)
    y, x = np.divmod(at, inner.shape[1])
    values, number = numbered(inner[y, x])
    n = values.size
    frame, z = wanted.frame(index)
    raw = None if image is None else np.asarray(image(index, rows, columns), np.float64)
    if n:
        sums: Sums = {
            "label": values.astype(np.int64),
            "frame": np.full(n, frame),
            "n": np.bincount(number, minlength=n),
        }
        place = window, y + y0, x + x0, values, number
        if "shape" in wanted.groups:
            position = y + rows.start, x + columns.start, z
            sums |= _moments(position, number, n)
            if wanted.depth is None:
                sums["perimeter"] = _perimeters(place, wanted.spacing)
            corner = rows.start, columns.start
            hulls.append(_outlines(wanted, (inner, mask), *corner, frame, z))
        if raw is not None:
            sums |= _intensities(raw[y, x], number, n)
        if "neighbours" in wanted.groups:
            sums |= _contacts(
                wanted, place, _next_planes(wanted, read, index, rows, columns), (y, x), pairs
            )
        parts.append(sums)
    if raw is not None:
        ring = _rings(window, core, raw, own)
        if ring is not None:
            ring["frame"] = np.full(ring["label"].size, frame)
            parts.append(ring)


def _moments(
    position: tuple[NDArray[Any], NDArray[Any], int], number: NDArray[Any], n: int
) -> Sums:
    """Centre of each object, and the sums of squares about it."""

    def total(weights: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(number, weights, minlength=n)

    y, x, z = position
    count = np.bincount(number, minlength=n)
    cy, cx = total(y) / count, total(x) / count
    dy, dx = y - cy[number], x - cx[number]
    return {
        "cz": np.full(n, float(z)),
        "cy": cy,
        "cx": cx,
        "yy": total(dy * dy),
        "xx": total(dx * dx),
        "yx": total(dy * dx),
    }


def _perimeters(
    place: tuple[NDArray[Any], ...], spacing: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Length of the line through the outermost pixels of each object.

    As scikit-image measures it; of pixels that are not square, steps along each axis have
    their own length.
    """
    window, y, x, values, number = place
    labels = values[number]
    size_y, size_x = spacing[1:]
    edge = np.zeros(window.shape, bool)
    middle = window[1:-1, 1:-1]
    edge[1:-1, 1:-1] = (middle != 0) & (
        (window[:-2, 1:-1] != middle)
        | (window[2:, 1:-1] != middle)
        | (window[1:-1, :-2] != middle)
        | (window[1:-1, 2:] != middle)
    )
    outer = edge[y, x]
    y, x, labels, number = y[outer], x[outer], labels[outer], number[outer]

    def steps(*ways: tuple[int, int]) -> NDArray[np.int64]:
        return sum(
            (edge[y + dy, x + dx] & (window[y + dy, x + dx] == labels)).astype(np.int64)
            for dy, dx in ways
        )  # type: ignore[return-value]

    down, across = steps((-1, 0), (1, 0)), steps((0, -1), (0, 1))
    straight = down + across
    diagonal = steps((-1, -1), (-1, 1), (1, -1), (1, 1))
    side = (down * size_y + across * size_x) / np.maximum(straight, 1)
    slant = math.hypot(size_y, size_x)
    # which mean steps a pixel stands for, by how many neighbours of either kind it has
    length = np.zeros(y.size)
    along = (straight >= 2) & (straight <= 3) & (diagonal <= 2)
    length[along] = side[along]
    across_corner = ((straight == 0) & (diagonal == 2)) | ((straight == 1) & (diagonal == 3))
    length[across_corner] = slant
    mixed = (straight == 1) & ((diagonal == 1) | (diagonal == 2))
    length[mixed] = (side[mixed] + slant) / 2
    return np.bincount(number, length, minlength=values.size).astype(np.float64)


def _outlines(
    wanted: Quantities,
    of: tuple[NDArray[Any], NDArray[np.bool_]],
    top: int,
    left: int,
    frame: int,
    z: int,
) -> NDArray[np.int64]:
    """Points that hold each object between them, by label and time point.

    In depth they are whole rows of voxels: z, y, first and last x; of flat objects corners of
    the convex hull, y and x in half pixels.
    """
    labels, mask = of
    here = np.where(mask, labels, 0)
    change = here[:, 1:] != here[:, :-1]
    edge = np.ones((here.shape[0], 1), bool)
    y, first = np.nonzero((here != 0) & np.concatenate([edge, change], axis=1))
    last = np.nonzero((here != 0) & np.concatenate([change, edge], axis=1))[1]
    values, number = numbered(here[y, first])
    y, first, last = y + top, first + left, last + left
    if wanted.depth is not None:
        own = values.astype(np.int64)[number]
        return np.stack(
            [own, np.full(y.size, frame), np.full(y.size, z), y, first, last], axis=1
        )
    which, y, x = _hulls_of(*_diamonds_of(number, y, first, last))
    return np.stack([values.astype(np.int64)[which], np.full(y.size, frame), y, x], axis=1)


def _intensities(raw: NDArray[np.float64], number: NDArray[Any], n: int) -> Sums:
    """Sums of the finite values (n, channels) of each object."""
    sums: Sums = {}
    for channel in range(raw.shape[1]):
        value = raw[:, channel]
        finite = np.isfinite(value)
        which, value = number[finite], value[finite]
        count = np.bincount(which, minlength=n)
        total = np.bincount(which, value, minlength=n)
        mean = total / np.maximum(count, 1)
        low, high = np.full(n, np.inf), np.full(n, -np.inf)
        np.minimum.at(low, which, value)
        np.maximum.at(high, which, value)
        sums |= {
            f"count{channel}": count,
            f"sum{channel}": total,
            f"squares{channel}": np.bincount(which, (value - mean[which]) ** 2, minlength=n),
            f"min{channel}": low,
            f"max{channel}": high,
        }
    return sums


def _rings(
    window: NDArray[Any],
    core: tuple[slice, slice],
    raw: NDArray[np.float64],
    own: NDArray[Any] | None,
) -> Sums | None:
    """Sums of the pixels of the tile that are in an object's ring and in no object."""
    wanted = window != 0 if own is None else np.isin(window, own) & (window != 0)
    values, number = numbered(window[wanted])
    small = np.zeros(window.shape, np.int32)
    small[wanted] = number + 1
    rings: list[tuple[int, NDArray[Any], NDArray[Any]]] = []
    for i, box in enumerate(scipy.ndimage.find_objects(small)):
        part = tuple(
            slice(max(0, axis.start - MARGIN), min(n, axis.stop + MARGIN))
            for axis, n in zip(box, window.shape, strict=True)
        )
        distance = scipy.ndimage.distance_transform_edt(small[part] != i + 1)
        ring = (distance > RING_GAP) & (distance <= RING_GAP + RING_WIDTH)
        ring &= window[part] == 0
        y, x = np.nonzero(ring)
        y, x = y + part[0].start - core[0].start, x + part[1].start - core[1].start
        inside = (y >= 0) & (x >= 0) & (y < raw.shape[0]) & (x < raw.shape[1])
        if inside.any():
            seen = raw[y[inside], x[inside]]
            finite = np.isfinite(seen)
            rings.append((i, finite.sum(axis=0), np.where(finite, seen, 0).sum(axis=0)))
    if not rings:
        return None
    sums: Sums = {"label": values[[i for i, _, _ in rings]].astype(np.int64)}
    counts, totals = np.array([c for _, c, _ in rings]), np.array([t for _, _, t in rings])
    for channel in range(raw.shape[2]):
        sums[f"ring_count{channel}"] = counts[:, channel]
        sums[f"ring_sum{channel}"] = totals[:, channel]
    return sums


def _next_planes(
    wanted: Quantities, read: Read, index: tuple[int, ...], rows: slice, columns: slice
) -> list[NDArray[Any] | int]:
    """The tile in the planes before and after in depth; 0 where there is none."""
    if wanted.depth is None:
        return []
    found: list[NDArray[Any] | int] = []
    for step in (-1, 1):
        at = list(index)
        at[wanted.depth] += step
        there = 0 <= at[wanted.depth] < wanted.shape[wanted.depth]
        found.append(read(tuple(at), rows, columns) if there else 0)
    return found


def _contacts(
    wanted: Quantities,
    place: tuple[NDArray[Any], ...],
    beside: list[NDArray[Any] | int],
    inner: tuple[NDArray[Any], NDArray[Any]],
    pairs: list[NDArray[Any]],
) -> Sums:
    """Sides of pixels on the outline of each object, and those of them at other objects."""
    window, y, x, values, number = place
    labels = values[number]
    size_z, size_y, size_x = wanted.spacing
    n = values.size
    outline, contact = np.zeros(n), np.zeros(n)
    sides = [
        (window[y - 1, x], size_x * size_z),
        (window[y + 1, x], size_x * size_z),
        (window[y, x - 1], size_y * size_z),
        (window[y, x + 1], size_y * size_z),
        *(
            (0 * labels if isinstance(one, int) else one[inner], size_y * size_x)
            for one in beside
        ),
    ]
    for other, size in sides:
        differs = other != labels
        outline += size * np.bincount(number[differs], minlength=n)
        touches = differs & (other != 0)
        contact += size * np.bincount(number[touches], minlength=n)
        if touches.any():
            both = np.stack([labels[touches], other[touches]], axis=1)
            pairs.append(np.unique(both, axis=0))
    return {"outline": outline, "contact": contact}


# --- hulls of flat objects, all at once; in half pixels, so that every corner is whole -----

Points = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _diamonds_of(
    number: NDArray[Any], y: NDArray[Any], first: NDArray[Any], last: NDArray[Any]
) -> Points:
    """Object, y and x of the middles of the sides of pixels that begin and end rows."""
    y, first, last = 2 * y, 2 * first, 2 * last
    return (
        np.tile(number, 6),
        np.concatenate([y, y, y - 1, y - 1, y + 1, y + 1]),
        np.concatenate([first - 1, last + 1, first, last, first, last]),
    )


def _hulls_of(number: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> Points:
    """Corners of the convex hulls of objects, those on the left before those on the right."""
    left = _envelope(number, y, x)
    which, at, across = _envelope(number, y, -x)
    return (
        np.concatenate([left[0], which]),
        np.concatenate([left[1], at]),
        np.concatenate([left[2], -across]),
    )


def _envelope(number: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> Points:
    """Corners of the line to the left of the points of each object, from top to bottom."""
    order = np.lexsort((x, y, number))
    number, y, x = number[order], y[order], x[order]
    new = np.ones(number.size, bool)
    new[1:] = (number[1:] != number[:-1]) | (y[1:] != y[:-1])
    number, y, x = number[new], y[new], x[new]
    # Andrew's monotone chain, which goes on to the next object where one begins
    chain: list[int] = []
    begin, object_before = 0, -1
    which, ys, xs = number.tolist(), y.tolist(), x.tolist()
    for i, (this, py, px) in enumerate(zip(which, ys, xs, strict=True)):
        if this != object_before:
            begin, object_before = len(chain), this
        while len(chain) - begin >= 2:
            a, b = chain[-2], chain[-1]
            if (xs[b] - xs[a]) * (py - ys[a]) < (px - xs[a]) * (ys[b] - ys[a]):
                break
            chain.pop()
        chain.append(i)
    return number[chain], y[chain], x[chain]


def _rows_in(number: NDArray[Any], y: NDArray[Any], x: NDArray[Any], n: int) -> tuple[Any, ...]:
    """Object, y, first and last x of the rows of pixels in the hulls that points have."""
    which, low, high = np.arange(n), np.full(n, np.iinfo(np.int64).max), np.zeros(n, np.int64)
    np.minimum.at(low, number, y)
    np.maximum.at(high, number, y)
    # even numbers are centres of pixels; below and above these are half ones
    low, high = (low + 1) // 2, high // 2
    size = high - low + 1
    which = np.repeat(which, size)
    rows = np.arange(which.size) - np.repeat(np.cumsum(size) - size, size) + low[which]
    first = _crossed(which, 2 * rows, _envelope(number, y, x))
    last = -_crossed(which, 2 * rows, _envelope(number, y, -x))
    there = last >= first
    return which[there], rows[there], first[there], last[there]


def _crossed(which: NDArray[Any], y: NDArray[Any], corners: Points) -> NDArray[np.int64]:
    """First whole pixel at or right of the line through corners, in rows of objects."""
    number, at, x = corners
    span = int(max(y.max(initial=0), at.max(initial=0))) + 2
    # the last corner that is not below the row
    a = np.searchsorted(number * span + at, which * span + y, side="right") - 1
    b = np.minimum(a + 1, number.size - 1)
    b = np.where(number[b] == number[a], b, a)
    height = np.maximum(at[b] - at[a], 1)
    above = x[a] * height + (x[b] - x[a]) * (y - at[a])
    return np.asarray(-(-above // (2 * height)), np.int64)


def _diameters(
    number: NDArray[Any], y: NDArray[Any], x: NDArray[Any], n: int, spacing: Sequence[float]
) -> NDArray[np.float64]:
    """Distance of the two points of each object that are farthest from each other."""
    order = np.argsort(number, kind="stable")
    y, x = y[order] * (spacing[0] / 2), x[order] * (spacing[1] / 2)
    count = np.bincount(number, minlength=n)
    start = np.cumsum(count) - count
    found = np.zeros(n)
    for size in np.unique(count[count > 0]).tolist():
        own = np.flatnonzero(count == size)
        each = max(1, _PAIRS // size**2)
        for some in (own[i : i + each] for i in range(0, own.size, each)):
            at = start[some][:, None] + np.arange(size)
            py, px = y[at], x[at]
            for begin in range(0, size, 1 + _PAIRS // size):
                part = slice(begin, begin + 1 + _PAIRS // size)
                apart = (py[:, part, None] - py[:, None]) ** 2 + (
                    px[:, part, None] - px[:, None]
                ) ** 2
                found[some] = np.maximum(found[some], apart.max(axis=(1, 2)))
    return np.sqrt(found)


# --- hulls and surfaces in depth, one by one ------------------------------------------------


def _diamonds(points: NDArray[Any]) -> NDArray[np.float64]:
    """Middles of the sides of voxels (n, 3)."""
    offsets = np.concatenate([np.eye(3), -np.eye(3)]) / 2
    return np.asarray((points[:, None] + offsets).reshape(-1, 3), np.float64)


def _corners(runs: NDArray[Any]) -> NDArray[np.float64]:
    """Corners of the convex hull of rows of voxels (z, y, first, last)."""
    points = _diamonds(np.concatenate([runs[:, [0, 1, 2]], runs[:, [0, 1, 3]]]))
    return np.asarray(points[scipy.spatial.ConvexHull(points).vertices], np.float64)


def _filled(corners: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows of voxels (z, y, first, last) whose centres are in a hull or on its surface."""
    origin = np.floor(corners.min(axis=0))
    points = corners - origin
    # normal · point + offset ≤ 0 inside
    equations = scipy.spatial.ConvexHull(points).equations
    deep, high = (int(n) + 1 for n in np.floor(points.max(axis=0))[:2])
    rows = np.indices((deep, high)).reshape(2, -1).T
    rest = rows @ equations[:, :2].T + equations[:, 3]
    slope = equations[:, 2]
    flat = np.abs(slope) < _EPS
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = -rest / slope
    first = np.ceil(np.where(slope < -_EPS, bound, -np.inf).max(axis=1) - _EPS)
    last = np.floor(np.where(slope > _EPS, bound, np.inf).min(axis=1) + _EPS)
    there = (last >= first) & ~(rest[:, flat] > _EPS).any(axis=1)
    found = np.column_stack([rows, first, last])[there] + origin[[0, 1, 2, 2]]
    return found.astype(np.int64)


def _solid(runs: NDArray[np.int64], spacing: Sequence[float]) -> tuple[int, float, float]:
    """Voxels of the convex hull of an object, its largest diameter and its surface."""
    from skimage.measure import marching_cubes, mesh_surface_area  # slow to load

    full = _filled(_corners(runs))
    corners = _corners(full) * np.asarray(spacing)
    low = np.array([runs[:, 0].min(), runs[:, 1].min(), runs[:, 2].min()])
    high = np.array([runs[:, 0].max(), runs[:, 1].max(), runs[:, 3].max()])
    solid = np.zeros(high - low + 3, bool)
    for z, y, first, last in (runs - low[[0, 1, 2, 2]] + 1).tolist():
        solid[z, y, first : last + 1] = True
    vertices, faces, _, _ = marching_cubes(solid, 0.5, spacing=tuple(spacing))
    return (
        int((full[:, 3] - full[:, 2] + 1).sum()),
        float(scipy.spatial.distance.pdist(corners).max()),
        float(mesh_surface_area(vertices, faces)),
    )


# --- all tiles ---------------------------------------------------------------------------


def _finished(
    wanted: Quantities,
    parts: list[Sums],
    hulls: list[NDArray[np.int64]],
    pairs: list[NDArray[Any]],
) -> Sums:
    """The columns, of the sums of all tiles."""
    names = dict.fromkeys(name for part in parts for name in part)
    # what a tile does not tell of a cell is nothing that adds up
    rows: Sums = {
        name: np.concatenate([part.get(name, np.zeros(part["label"].size)) for part in parts])
        for name in names
    }
    # rings alone are of cells of other tiles
    labels = np.unique(rows["label"][rows["n"] > 0]) if "n" in rows else rows["label"][:0]
    stay = np.isin(rows["label"], labels)
    rows = {name: column[stay] for name, column in rows.items()}
    rows["number"] = np.searchsorted(labels, rows["label"])
    frame = rows["frame"].astype(np.int64)
    span = int(frame.max(initial=0)) + 1
    # a key is a cell at a time point
    keys, rows["key"] = np.unique(rows["number"] * span + frame, return_inverse=True)
    of = labels[keys // span], keys % span
    found: Sums = {"label": labels.astype(np.int64)}
    if "shape" in wanted.groups:
        found |= _shapes(wanted, rows, hulls, *of)
    if "intensity" in wanted.groups:
        found |= _channels(wanted, rows, labels.size)
    if "neighbours" in wanted.groups:
        found |= _neighbours(wanted, rows, pairs, of[0])
    dtypes = {"label": "int64", **wanted.columns()}
    return {name: np.asarray(found[name]).astype(dtype) for name, dtype in dtypes.items()}


def _averaged(values: dict[str, Any], weight: Any, labels: Any) -> Sums:
    """Values of each object, over several time points their mean by area."""
    if labels.size == np.unique(labels).size:
        return {name: np.asarray(column) for name, column in values.items()}
    own, which = np.unique(labels, return_inverse=True)
    total = np.bincount(which, weight, minlength=own.size)
    return {
        name: np.bincount(which, np.asarray(column) * weight, minlength=own.size) / total
        for name, column in values.items()
    }


def _shapes(
    wanted: Quantities,
    rows: Sums,
    hulls: list[NDArray[np.int64]],
    labels: NDArray[Any],
    frames: NDArray[Any],
) -> Sums:
    unit, spacing, deep = wanted.unit, np.array(wanted.spacing), wanted.depth is not None
    key, n = rows["key"], rows["n"]

    def total(weights: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(key, weights, minlength=labels.size).astype(np.float64)

    area = total(n)
    away = {
        axis: rows[f"c{axis}"] - (total(rows[f"c{axis}"] * n) / area)[key] for axis in "zyx"
    }
    moments = {
        a + b: total(rows.get(a + b, 0) + n * away[a] * away[b])
        / area
        * spacing["zyx".index(a)]
        * spacing["zyx".index(b)]
        for a, b in ("zz", "zy", "zx", "yy", "yx", "xx")
    }
    size = area * float(np.prod(spacing if deep else spacing[1:]))
    values: dict[str, Any] = {}
    if deep:
        tensor = np.array(
            [[moments["".join(sorted(a + b, reverse=True))] for b in "zyx"] for a in "zyx"]
        )
        axes = np.linalg.eigvalsh(np.moveaxis(tensor, -1, 0)).clip(0)
        values[f"major_axis_{unit}"] = np.sqrt(20 * axes[:, -1])
        values[f"minor_axis_{unit}"] = np.sqrt(20 * axes[:, 0])
        values[f"equivalent_diameter_{unit}"] = np.cbrt(6 * size / np.pi)
    else:
        yy, xx, yx = moments["yy"], moments["xx"], moments["yx"]
        mean, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
        values[f"major_axis_{unit}"] = 4 * np.sqrt(mean + spread)
        values[f"minor_axis_{unit}"] = 4 * np.sqrt(np.maximum(mean - spread, 0))
        even = np.abs(yy - xx) <= 1e-12 * (yy + xx)
        angle = np.where(
            even, np.where(yx > 0, np.pi / 4, -np.pi / 4), np.arctan2(2 * yx, yy - xx) / 2
        )
        values["orientation_deg"] = np.degrees(angle)
        values[f"equivalent_diameter_{unit}"] = np.sqrt(4 * size / np.pi)
        values[f"perimeter_{unit}"] = perimeter = total(rows["perimeter"])
        with np.errstate(divide="ignore"):
            circularity = 4 * np.pi * size / perimeter**2
        values["circularity"] = np.where(perimeter > 0, circularity, np.nan)
    convex, feret, surface = _hulls(wanted, hulls, labels, frames)
    values["solidity"] = area / convex
    values[f"feret_max_{unit}"] = feret
    if deep:
        values[f"surface_{unit}2"] = surface
        values["sphericity"] = np.cbrt(np.pi) * np.cbrt(6 * size) ** 2 / surface
    return _averaged(values, area, labels)


def _hulls(
    wanted: Quantities, hulls: list[NDArray[np.int64]], labels: Any, frames: Any
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Pixels of the convex hull, largest diameter and surface of each object, by number."""
    n, points = labels.size, np.concatenate(hulls)
    number = np.searchsorted(labels, points[:, 0])
    if frames.any():
        # of a label's time points, the one
        keys = np.stack([labels, frames], axis=1)
        every = np.unique(np.concatenate([keys, points[:, :2]]), axis=0, return_inverse=True)[1]
        number = every[n:].ravel()
    if wanted.depth is None:
        order = np.argsort(number, kind="stable")
        ends = np.searchsorted(number[order], np.arange(0, n + _HULLS, _HULLS)).tolist()
        parts = [
            _flat_hulls(number[some] - i * _HULLS, points[some, 2:], wanted.spacing[1:])
            for i, some in enumerate(order[a:b] for a, b in pairwise(ends))
        ]
        convex, feret = (np.concatenate(column) for column in zip(*parts, strict=True))
        return convex, feret, np.full(n, np.nan)
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(n + 1)).tolist()
    runs = points[order, 2:]
    found = [_solid(runs[a:b], wanted.spacing) for a, b in pairwise(ends)]
    convex, feret, surface = np.array(found, float).T
    return convex, feret, surface


def _flat_hulls(
    number: NDArray[Any], points: NDArray[Any], spacing: Sequence[float]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Pixels of the convex hull and largest diameter of the objects that have points (y, x)."""
    n = int(number.max()) + 1
    which, rows, first, last = _rows_in(number, points[:, 0], points[:, 1], n)
    corners = _hulls_of(*_diamonds_of(which, rows, first, last))
    convex = np.bincount(which, last - first + 1, minlength=n)
    return convex, _diameters(*corners, n, spacing)


def _channels(wanted: Quantities, rows: Sums, n: int) -> Sums:
    found: Sums = {}
    number = rows["number"]

    def total(weights: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(number, weights, minlength=n).astype(np.float64)

    for channel in range(wanted.n_channels):
        one = {what: rows[f"{what}{channel}"] for what in ("count", "sum", "squares")}
        there = one["count"] > 0
        which = number[there]
        low, high = np.full(n, np.inf), np.full(n, -np.inf)
        np.minimum.at(low, which, rows[f"min{channel}"][there])
        np.maximum.at(high, which, rows[f"max{channel}"][there])
        count, sums = total(one["count"]), total(one["sum"])
        known = count > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = sums / count
            away = np.where(there, one["sum"] / one["count"] - mean[number], 0)
            squares = total(one["squares"] + one["count"] * away**2)
            background = np.full(n, np.nan)
            if f"ring_sum{channel}" in rows:
                ring = total(rows[f"ring_count{channel}"])
                background = total(rows[f"ring_sum{channel}"]) / ring
            values = {
                "mean": mean,
                "sum": np.where(known, sums, np.nan),
                "std": np.sqrt(squares / count),
                "min": np.where(known, low, np.nan),
                "max": np.where(known, high, np.nan),
                "background": background,
            }
        found |= {f"{name}_ch{channel}": of for name, of in values.items()}
    return found


def _neighbours(
    wanted: Quantities, rows: Sums, pairs: list[NDArray[Any]], labels: NDArray[Any]
) -> Sums:
    outline, contact, area = (
        np.bincount(rows["key"], rows[name], minlength=labels.size)
        for name in ("outline", "contact", "n")
    )
    name = f"contact_{wanted.unit}" + ("" if wanted.depth is None else "2")
    values = {name: contact, "contact_fraction": contact / outline}
    found = _averaged(values, area, labels)
    own = np.unique(labels)
    count = np.zeros(own.size, np.int64)
    if pairs:
        of = np.unique(np.concatenate(pairs), axis=0)[:, 0]
        np.add.at(count, np.searchsorted(own, of), 1)
    return {**found, "neighbours": count}
