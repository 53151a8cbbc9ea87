"""Cells one by one: outlines that hold just a cell's pixels; ImageJ ROIs and GeoJSON."""

from __future__ import annotations

import json
import math
import re
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.axes import STACK_NAMES
from napari_sa2net.edits.shapes import polygon_box, polygon_mask
from napari_sa2net.errors import FormatError, LabelsError
from napari_sa2net.metrics import numbered
from napari_sa2net.words import counted, plural

# --------------------------------------------------------------------------------------------
# What is written: labels with all that is known of them, read cell by cell.

#: Corners (x, y) of a ring on the grid between the pixels: the first pixel spans 0 … 1.
Ring = NDArray[np.integer[Any]]
#: Pixels that are looked at in one go; cells whose boxes begin in one square are read together.
BAND = 2**22
SQUARE = 1024


class Reordered:
    """An array with its axes in another order, read by slices."""

    def __init__(self, array: Any, axes: str, wanted: str) -> None:
        self._array = array
        self._order = [axes.index(axis) for axis in wanted]
        self.shape = tuple(int(array.shape[i]) for i in self._order)
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        given = index if isinstance(index, tuple) else (index,)
        parts = (*given, *[slice(None)] * (len(self._order) - len(given)))
        own = [parts[self._order.index(at)] for at in range(len(parts))]
        kept = [at for at, part in zip(self._order, parts, strict=True) if _is_slice(part)]
        values = np.asarray(self._array[tuple(own)])
        return values.transpose([sorted(kept).index(at) for at in kept])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[()] if dtype is None else self[()].astype(dtype)


def _is_slice(part: Any) -> bool:
    return isinstance(part, slice)


@dataclass(frozen=True, eq=False)
class Cells:
    r"""Labels of an image with all that is known of them.

    Attributes
    ----------
    labels : integers ≥ 0 (\*stack, H, W)
        numpy, or lazy: read by slices.
    axes : str
        One letter per axis, brought into the order of YX last; unsaid: a stack of YX.
    scale_um : mapping of str to float
        Spacing (µm) by axis, as far as it is known.
    table : mapping of str to array
        Columns of measurements, one of them ``label``; may be empty.
    name : str
        Of the image.
    image : array, optional
        That the cells are of, with `image_axes`.
    image_axes : str
    image_path : Path, optional
        Its file.
    made : mapping
        Provenance: model, settings, versions.
    """

    labels: Any
    axes: str = ""
    scale_um: Mapping[str, float] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict)
    name: str = "cells"
    image: Any = None
    image_axes: str = ""
    image_path: Path | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels.shape) < 2:
            raise FormatError(
                f"Cells have at least the axes Y and X, not {len(self.labels.shape)}."
            )
        if not self.axes:
            stack = STACK_NAMES[: len(self.labels.shape) - 2][::-1]
            object.__setattr__(self, "axes", stack + "YX")
        axes = self.axes.upper()
        if len(axes) == len(self.labels.shape) and {"Y", "X"} <= set(axes):
            wanted = axes.replace("Y", "").replace("X", "") + "YX"
            if wanted != axes:
                object.__setattr__(self, "labels", Reordered(self.labels, axes, wanted))
            axes = wanted
        object.__setattr__(self, "axes", axes)
        if len(axes) != len(self.labels.shape) or axes[-2:] != "YX":
            raise FormatError(
                f"axes {axes!r} do not fit labels of shape {tuple(self.labels.shape)}: one "
                "letter for each axis, Y and X last."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the labels."""
        return tuple(int(n) for n in self.labels.shape)

    @property
    def stack_axes(self) -> str:
        """Letters before YX."""
        return self.axes[:-2]

    def rows(self) -> dict[int, int]:
        """Row of the table by label."""
        labels = np.asarray(self.table.get("label", ())).tolist()
        return {int(label): row for row, label in enumerate(labels)}

    def measured(self, row: int | None) -> dict[str, Any]:
        """Finite numbers of a row but for its label; a truth is 0 or 1."""
        if row is None:
            return {}
        found = {}
        for name, column in self.table.items():
            value = np.asarray(column)[row]
            if name == "label" or np.asarray(value).dtype.kind not in "buif":
                continue
            number = float(value)
            if math.isfinite(number):
                found[name] = int(number) if number.is_integer() else number
        return found


@dataclass(frozen=True, eq=False)
class Piece:
    """What of a cell lies in a plane: `mask` (h, w), its first pixel at `corner` (y, x)."""

    label: int
    index: tuple[int, ...]
    corner: tuple[int, int]
    mask: NDArray[np.bool_]


def pieces(cells: Cells) -> Iterator[Piece]:
    """The cells plane by plane, from the top left; a plane is never read as a whole."""
    for index in np.ndindex(*cells.shape[:-2]):
        boxes = _boxes(cells, index)
        squares: dict[tuple[int, int], list[int]] = {}
        for label, (y0, _, x0, _) in boxes.items():
            squares.setdefault((y0 // SQUARE, x0 // SQUARE), []).append(label)
        for _, labels in sorted(squares.items()):
            yield from _cut(cells, index, sorted(labels), boxes)


def _boxes(cells: Cells, index: tuple[int, ...]) -> dict[int, tuple[int, int, int, int]]:
    height, width = cells.shape[-2:]
    rows = max(1, BAND // max(1, width))
    found: dict[int, tuple[int, int, int, int]] = {}
    for top in range(0, height, rows):
        band = np.asarray(cells.labels[(*index, slice(top, top + rows))])
        at = np.nonzero(band)
        if not at[0].size:
            continue
        values, which = numbered(band[at])
        order = np.argsort(which, kind="stable")
        first = np.searchsorted(which[order], np.arange(values.size))
        y, x = at[0][order] + top, at[1][order]
        ends = (
            *(np.minimum.reduceat(axis, first) for axis in (y, x)),
            *(np.maximum.reduceat(axis, first) + 1 for axis in (y, x)),
        )
        for label, y0, x0, y1, x1 in zip(
            values.tolist(), *(end.tolist() for end in ends), strict=True
        ):
            old = found.get(label, (y0, y1, x0, x1))
            found[label] = min(old[0], y0), max(old[1], y1), min(old[2], x0), max(old[3], x1)
    least = min(found, default=0)
    if least < 0 or max(found, default=0) > np.iinfo(np.int32).max:
        raise FormatError("Labels must lie in 0 … 2147483647: give each cell such a number.")
    return found


def _cut(
    cells: Cells,
    index: tuple[int, ...],
    labels: Sequence[int],
    boxes: Mapping[int, tuple[int, int, int, int]],
) -> Iterator[Piece]:
    """Cells whose boxes begin near each other, read together but for very large ones."""
    large = [n for n in labels if _side(boxes[n]) > 4 * SQUARE]
    together = [n for n in labels if _side(boxes[n]) <= 4 * SQUARE]
    for group in ([together] if together else []) + [[n] for n in large]:
        ends = np.array([boxes[n] for n in group])
        top, left = int(ends[:, 0].min()), int(ends[:, 2].min())
        part = (slice(top, int(ends[:, 1].max())), slice(left, int(ends[:, 3].max())))
        window = np.asarray(cells.labels[(*index, *part)])
        for label in group:
            y0, y1, x0, x1 = boxes[label]
            mask = window[y0 - top : y1 - top, x0 - left : x1 - left] == label
            yield Piece(label, index, (y0, x0), mask)


def _side(box: tuple[int, int, int, int]) -> int:
    return max(box[1] - box[0], box[3] - box[2])


# --------------------------------------------------------------------------------------------
# Outlines along the edges of the pixels, and the pixels in outlines.


def polygons(piece: Piece) -> list[list[Ring]]:
    """Outlines that hold just the pixels of a piece: polygons, of each the shell and its holes.

    Pixels that touch at a corner only are in polygons of their own, so that every polygon is a
    valid one: no ring crosses or touches itself.
    """
    from scipy import ndimage

    parts, n = ndimage.label(piece.mask)
    found: list[list[Ring]] = [[] for _ in range(n)]
    holes: list[tuple[int, Ring]] = []
    padded = np.pad(parts, 1)
    for ring in _rings(padded):
        # The ring's first corner is its top left one: of a shell the cell lies below right.
        x, y = ring[0]
        inside = int(padded[y + 1, x + 1])
        corners = ring + np.array(piece.corner[::-1])
        if inside:
            found[inside - 1].insert(0, _turned(corners, 1))
        else:
            holes.append((int(padded[y, x + 1]) - 1, _turned(corners, -1)))
    for owner, ring in holes:
        found[owner].append(ring)
    return found


def _turned(ring: Ring, way: int) -> Ring:
    """A ring with the sign of its area as wanted; the first corner stays."""
    x, y = ring[:, 0].astype(np.int64), ring[:, 1].astype(np.int64)
    area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
    return ring if area * way > 0 else np.roll(ring[::-1], 1, axis=0)


def _rings(padded: NDArray[Any]) -> Iterator[Ring]:
    """Closed lines between different parts and background, by their corners.

    In a row of the grid every corner begins or ends a horizontal edge, so they pair up in
    order, and in a column likewise. Where four pixels meet and two of them touch at the corner
    only, it is a corner of two lines: of one part they part the background, else the parts.
    """
    inside = padded > 0
    nw, ne, sw, se = inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]
    falling, rising = nw & se & ~ne & ~sw, ne & sw & ~nw & ~se
    single = nw ^ ne ^ sw ^ se
    at = np.argwhere(single | falling | rising)
    crossed = (falling | rising)[tuple(at.T)]
    fall = falling[tuple(at.T)]
    one_part = np.where(
        fall,
        padded[:-1, :-1][tuple(at.T)] == padded[1:, 1:][tuple(at.T)],
        padded[:-1, 1:][tuple(at.T)] == padded[1:, :-1][tuple(at.T)],
    )
    # Of a crossing, does the left edge go up? (else it goes down)
    left_up = np.where(fall, ~one_part, one_part)
    n = len(at)
    # Of two corners in one place the second has the right edge.
    twin = np.cumsum(crossed) - 1 + n
    y = np.concatenate([at[:, 0], at[crossed, 0]])
    x = np.concatenate([at[:, 1], at[crossed, 1]])
    rank = np.concatenate([np.zeros(n, int), np.ones(int(crossed.sum()), int)])
    high = rank.copy()  # in the order along the column: 0 has the upper edge
    down = crossed & ~left_up
    high[:n][down], high[twin[down]] = 1, 0
    across, along = np.empty(len(y), int), np.empty(len(y), int)
    orders = (across, np.lexsort((rank, x, y))), (along, np.lexsort((high, y, x)))
    for partner, order in orders:
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    corners = np.stack([x, y], axis=1)
    next_across, next_along = across.tolist(), along.tolist()
    seen = [False] * len(y)
    for start in np.lexsort((x, y)).tolist():
        if seen[start]:
            continue
        ring, here = [], start
        while not seen[here]:
            there = next_across[here]
            seen[here] = seen[there] = True
            ring += [here, there]
            here = next_along[there]
        yield corners[ring]


@dataclass(frozen=True, eq=False)
class Found:
    """One cell as a file has it: its number (0: none), plane, and rings or pixels.

    Attributes
    ----------
    parts
        Lists of rings (x, y), each filled by the even-odd rule and put together.
    pixels
        Rows and columns instead.
    area_um2
        As the file has measured it; None where it has not.
    """

    number: int
    index: Mapping[str, int]
    parts: Sequence[Sequence[NDArray[Any]]] = ()
    pixels: tuple[NDArray[Any], NDArray[Any]] | None = None
    area_um2: float | None = None


@dataclass(frozen=True, eq=False)
class ReadCells:
    """Labels of a file, and what a person should know of how they were read."""

    labels: NDArray[Any]
    notes: tuple[str, ...] = ()


def painted(
    found: Sequence[Found], shape: tuple[int, ...], axes: str, notes: Iterable[str] = ()
) -> ReadCells:
    """Labels of cells that a file has one by one; where they overlap, the later one is taken.

    Raises
    ------
    LabelsError
        If cells lie outside the image, or in planes that it does not have.
    """
    stack = axes[:-2]
    used = [{axis: one.index.get(axis, 0) for axis in "TZ"} for one in found]
    for axis in "TZ":
        several = len({place[axis] for place in used}) > 1
        if several and axis not in stack:
            raise LabelsError(
                f"These cells lie in several {'time points' if axis == 'T' else 'planes'}, and "
                "the image is one plane: export them plane by plane."
            )
    labels = np.zeros(shape, np.int32)
    outside, shared, hidden = 0, 0, 0
    places = [
        tuple(place.get(axis, 0) if n > 1 else 0 for axis, n in zip(stack, shape, strict=False))
        for place in used
    ]
    for one, index, number in zip(found, places, _numbers(found, places), strict=True):
        if any(not 0 <= i < n for i, n in zip(index, shape, strict=False)):
            outside += 1
            continue
        put = _put(labels[index], one, number)
        if put is None:
            outside += 1
        else:
            shared, hidden = shared + put[0], hidden + (put[1] == 0)
    if outside:
        raise LabelsError(
            f"{outside} of {counted(len(found), 'cell')} {plural(outside, 'lies', 'lie')} "
            f"outside an image of {' × '.join(map(str, shape))}: are they of another image, or "
            "of a part of it?"
        )
    told = list(notes)
    if shared:
        told.append(
            f"cells overlap in {counted(shared, 'pixel')}; what overlaps belongs to the cell "
            "that comes later in the file"
        )
    if hidden:
        told.append(f"{counted(hidden, 'outline')} without a pixel left out")
    return ReadCells(labels, tuple(told))


def _numbers(found: Sequence[Found], places: Sequence[tuple[int, ...]]) -> Iterator[int]:
    """The cells' own numbers; a new one for who has none, or one that is taken in its plane."""
    known = {one.number for one in found}
    free = (number for number in count(1) if number not in known)
    given: set[tuple[tuple[int, ...], int]] = set()
    for one, place in zip(found, places, strict=True):
        number = one.number
        if not 0 < number <= np.iinfo(np.int32).max or (place, number) in given:
            number = next(free)
        given.add((place, number))
        yield number


def _put(plane: NDArray[Any], one: Found, number: int) -> tuple[int, int] | None:
    """Paint a cell; pixels that others had, and all of it. None where it lies outside."""
    if one.pixels is not None:
        rows, columns = one.pixels
        before = plane[rows, columns]
        plane[rows, columns] = number
        return int(np.count_nonzero((before != 0) & (before != number))), rows.size
    shared = area = 0
    met = False
    for rings in one.parts:
        # Pixel centres are at whole numbers there, here between the corners.
        points = [np.asarray(ring, np.float64)[:, ::-1] - 0.5 for ring in rings if len(ring)]
        if not points:
            continue
        box = polygon_box(np.concatenate(points), plane.shape)  # type: ignore[arg-type]
        if box is None:
            continue
        met = True
        mask = np.zeros((box[1] - box[0], box[3] - box[2]), bool)
        for ring in points:
            # each ring in its own box, as a cell may have thousands
            own = polygon_box(ring, plane.shape)  # type: ignore[arg-type]
            if own is not None:
                y, x = own[0] - box[0], own[2] - box[2]
                inner = mask[y : y + own[1] - own[0], x : x + own[3] - own[2]]
                inner ^= polygon_mask(ring, own)
        window = plane[box[0] : box[1], box[2] : box[3]]
        shared += int(np.count_nonzero(mask & (window != 0) & (window != number)))
        area += int(mask.sum())
        window[mask] = number
    return (shared, area) if met else None


def read_json(path: Path) -> Any:
    """Content of a JSON file; that of the last one is kept, as many images may be in it."""
    stat = path.stat()
    return _read_json(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _read_json(path: Path, changed: int, size: int) -> Any:
    return json.loads(path.read_bytes())


def _check_stack(cells: Cells, letters: str, what: str) -> None:
    odd = [axis for axis in cells.stack_axes if axis not in letters]
    if odd:
        raise FormatError(
            f"{what} can say planes (Z) and time points (T), and these cells have the axis "
            f"{odd[0]}. Take OME-Zarr, or save them plane by plane."
        )


# --------------------------------------------------------------------------------------------
# ImageJ: a zip file of ROIs.

#: Largest position that an ImageJ ROI holds as a whole number.
_ROI_SIDE = 32767


def write_rois(file: BinaryIO, cells: Cells) -> None:
    """ROIs for the ROI Manager, with the slice that each lies in."""
    from roifile import ROI_TYPE, ImagejRoi

    if max(cells.shape[-2:]) > _ROI_SIDE:
        raise FormatError(
            f"ImageJ ROIs end at pixel {_ROI_SIDE}, and this image has "
            f"{' × '.join(map(str, cells.shape[-2:]))}. Take GeoJSON, OME-TIFF or OME-Zarr."
        )
    _check_stack(cells, "TZ", "ImageJ ROIs")
    hyper = len(cells.stack_axes) > 1 or "C" in cells.image_axes
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for piece in pieces(cells):
            rings = [ring for one in polygons(piece) for ring in one]
            where = dict(zip(cells.stack_axes, piece.index, strict=True))
            name = " ".join(
                [f"cell {piece.label}", *(f"{a.lower()}{i + 1}" for a, i in where.items())]
            )
            roi = ImagejRoi()
            roi.name = name
            corners = np.concatenate(rings)
            roi.left, roi.top = (int(n) for n in corners.min(0))
            roi.right, roi.bottom = (int(n) for n in corners.max(0))
            if len(rings) == 1:
                roi.roitype = ROI_TYPE.TRACED
                roi.integer_coordinates = (rings[0] - [roi.left, roi.top]).astype(np.int32)
                roi.n_coordinates = len(rings[0])
            else:
                roi.roitype = ROI_TYPE.RECT  # of a path, as ImageJ itself writes it
                roi.multi_coordinates = _path(rings)
                roi.shape_roi_size = len(roi.multi_coordinates)
            if where and hyper:
                roi.z_position, roi.t_position = (where.get(axis, -1) + 1 for axis in "ZT")
            elif where:
                roi.position = next(iter(where.values())) + 1
            archive.writestr(f"{name}.roi", roi.tobytes())


def _path(rings: Sequence[Ring]) -> NDArray[np.float32]:
    """Rings as move to, line to …, close."""
    parts: list[float] = []
    for ring in rings:
        for i, (x, y) in enumerate(ring.tolist()):
            parts += [1.0 if i else 0.0, x, y]
        parts.append(4.0)
    return np.array(parts, np.float32)


def read_rois(path: Path, axes: str) -> tuple[list[Found], list[str]]:
    """Cells of a zip file of ROIs, or of one .roi, and what is to be said of them."""
    from roifile import ROI_TYPE, ImagejRoi

    rois: list[Any] = []
    if path.suffix.lower() == ".roi":
        rois.append((path.name, ImagejRoi.frombytes(path.read_bytes())))
    else:
        with zipfile.ZipFile(path) as archive:
            # macOS puts files of its own beside those that it zips
            every = (n for n in archive.namelist() if not n.rsplit("/", 1)[-1].startswith("._"))
            names = [n for n in every if n.lower().endswith(".roi")]
            rois += [(n, ImagejRoi.frombytes(archive.read(n))) for n in names]
            if not rois and archive.namelist():
                raise LabelsError(f"{path} holds no ImageJ ROI (.roi).")
    found, others = [], 0
    for file, roi in rois:
        kind = roi.roitype
        areas = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED, ROI_TYPE.RECT)
        if roi.composite or kind in areas:
            rings = roi.coordinates(multi=True)
        elif kind == ROI_TYPE.OVAL:
            rings = [_oval(roi.left, roi.top, roi.right, roi.bottom)]
        else:
            others += 1
            continue
        number = _number_in(roi.name or Path(file).stem)
        found.append(Found(number, _slice_of(roi, axes), [rings]))
    notes = [f"{others} ROIs are lines, points or text, and no cells"] if others else []
    return found, notes


def _oval(left: float, top: float, right: float, bottom: float) -> NDArray[np.float64]:
    turn = np.linspace(0, 2 * np.pi, 361)[:-1]
    x = (left + right) / 2 + (right - left) / 2 * np.cos(turn)
    y = (top + bottom) / 2 + (bottom - top) / 2 * np.sin(turn)
    return np.stack([x, y], axis=1)


def _number_in(name: str) -> int:
    """Label in a name that we gave; 0 for names of others."""
    words = name.split(" ")
    ours = len(words) > 1 and words[0] == "cell" and words[1].isdecimal()
    return int(words[1]) if ours else 0


def _slice_of(roi: Any, axes: str) -> dict[str, int]:
    if roi.z_position or roi.t_position:
        return {"Z": max(0, roi.z_position - 1), "T": max(0, roi.t_position - 1)}
    stack = axes[:-2] or "Z"
    if not roi.position:
        return {}
    return {stack[-1]: roi.position - 1}


# --------------------------------------------------------------------------------------------
# QuPath: GeoJSON of detections.

_SPACE = uuid.UUID("c9d1b3a6-0f9b-4c50-9f55-7a2a5c6a2f10")
_CLASS = {"name": "cell", "color": [255, 200, 0]}


def write_geojson(file: BinaryIO, cells: Cells) -> None:
    """A FeatureCollection of detections in pixels, with their measurements."""
    _check_stack(cells, "TZ", "GeoJSON of QuPath")
    rows = cells.rows()
    file.write(b'{"type": "FeatureCollection", "features": [')
    between = b"\n"
    for piece in pieces(cells):
        shapes = [
            [[*ring.tolist(), ring[0].tolist()] for ring in one] for one in polygons(piece)
        ]
        several = len(shapes) > 1
        geometry: dict[str, Any] = {
            "type": "MultiPolygon" if several else "Polygon",
            "coordinates": shapes if several else shapes[0],
        }
        where = dict(zip(cells.stack_axes, piece.index, strict=True))
        if where:
            geometry["plane"] = {"c": -1, "z": where.get("Z", 0), "t": where.get("T", 0)}
        known = f"{cells.name}/{piece.index}/{piece.label}"
        feature = {
            "type": "Feature",
            "id": str(uuid.uuid5(_SPACE, known)),
            "geometry": geometry,
            "properties": {
                "objectType": "detection",
                "name": f"cell {piece.label}",
                "classification": _CLASS,
                "isLocked": False,
                "measurements": {
                    "label": piece.label,
                    **{
                        column_head(name): value
                        for name, value in cells.measured(rows.get(piece.label)).items()
                    },
                },
            },
        }
        file.write(between + json.dumps(feature, ensure_ascii=False).encode())
        between = b",\n"
    file.write(b"\n]}\n")


def read_geojson(path: Path) -> tuple[list[Found], list[str]]:
    """Cells of GeoJSON, as QuPath exports it, and what is to be said of them."""
    content = read_json(path)
    features = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(features, list) or not all(
        isinstance(one, dict) and "geometry" in one for one in features
    ):
        raise LabelsError("This is no GeoJSON with a geometry for each cell.")
    kinds = [str((one.get("properties") or {}).get("objectType", "")) for one in features]
    regions = sum(kind == "annotation" for kind in kinds)
    cells_too = any(kind in ("detection", "cell", "tile") for kind in kinds)
    found, others, parents = [], 0, 0
    for one, kind in zip(features, kinds, strict=True):
        if kind == "annotation" and cells_too:
            parents += 1
            continue
        geometry = one.get("geometry") or {}
        shapes = _shapes(geometry)
        if not shapes:
            others += 1
            continue
        plane = geometry.get("plane") or {}
        index = {"Z": int(plane.get("z", 0) or 0), "T": int(plane.get("t", 0) or 0)}
        measured = _measured(one.get("properties") or {})
        found.append(Found(_label_of(one, measured), index, shapes, None, _area_um2(measured)))
    notes = []
    if parents:
        notes.append(
            f"{parents} of {counted(regions, 'annotation')} not read: regions around cells"
        )
    if others:
        notes.append(
            f"{counted(others, 'point or line', 'points or lines')} not read: no cells"
        )
    return found, notes


def _shapes(geometry: Mapping[str, Any]) -> list[list[NDArray[np.float64]]]:
    """Polygons of a geometry, of each its rings."""
    kind, given = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection":
        return [one for part in geometry.get("geometries", ()) for one in _shapes(part)]
    if kind not in ("Polygon", "MultiPolygon"):
        return []
    many = [given] if kind == "Polygon" else given
    return [
        [np.asarray(ring, np.float64).reshape(len(ring), -1)[:, :2] for ring in one]
        for one in many or ()
        if one
    ]


def _measured(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    measured = properties.get("measurements") or {}
    if isinstance(measured, list):  # as QuPath wrote them before 0.4
        measured = {one.get("name"): one.get("value") for one in measured}
    return measured if isinstance(measured, dict) else {}


def _label_of(feature: Mapping[str, Any], measured: Mapping[str, Any]) -> int:
    properties = feature.get("properties") or {}
    label = measured.get("label", properties.get("label"))
    ours = str(properties.get("name", "")) == f"cell {label}"
    return cell_number(label) if ours else 0


#: What an outline's own area is called: by us, and by QuPath, which has that of nuclei too.
_AREA_UM2 = re.compile(r"(cell: )?area \(?[µμu]m\^?[2²]\)?", re.IGNORECASE)


def _area_um2(measured: Mapping[str, Any]) -> float | None:
    for name, value in measured.items():
        if _AREA_UM2.fullmatch(str(name)) and isinstance(value, (int, float)) and value > 0:
            return float(value)
    return None


#: Numbers in µm and in pixels are told apart where a pixel's side differs so much from 1 µm.
_APART = 0.1
#: So many outlines are compared with their measured area.
_COMPARED = 500
#: Outlines that reach so far towards the ends of an image in µm may be of all of it.
_ALL_OF_IT = 0.9


def check_pixels_meant(
    found: Sequence[Found], shape: tuple[int, ...], pixel_size_um: float | None
) -> str:
    """What is to be said where outlines of GeoJSON, which has no units, may be in µm.

    Raises
    ------
    LabelsError
        They are: they measure so, or fit the image in no other way.
    """
    size = pixel_size_um or 1.0
    rings = [ring for one in found for part in one.parts for ring in part if len(ring)]
    if abs(size - 1) < _APART or not rings:
        return ""
    measured = [
        sum(_area(part) for part in one.parts) / one.area_um2
        for one in found[:_COMPARED]
        if one.area_um2
    ]
    ratio = float(np.median(measured)) if measured else math.nan
    ends = np.max([ring.max(0) for ring in rings], axis=0)[::-1]
    pixels = np.array(shape[-2:], float)
    um, slack = pixels * size, 1 + max(1.0, size)
    in_um = bool((ends <= um + slack).all())
    why = ""
    if abs(ratio - 1) < _APART / 2:
        why = "their areas are those that the file gives in µm²"
    elif in_um and math.isnan(ratio) and (ends > (1 + _APART) * pixels + slack).any():
        why = "they reach beyond its pixels, and not beyond its size in µm"
    if why:
        raise LabelsError(
            f"These outlines seem to be in µm, and a pixel of the image is {size:.4g} µm: "
            f"{why}. Export them in pixels, or divide their coordinates by {size:.4g}."
        )
    if size < 1 and math.isnan(ratio) and in_um and (ends >= _ALL_OF_IT * um).all():
        return (
            f"the outlines end where the image would in µm ({size:.4g} µm per pixel); they "
            "were taken as pixels. If they do not lie on the cells, they are in µm: divide "
            f"their coordinates by {size:.4g}"
        )
    return ""


def _area(rings: Sequence[NDArray[Any]]) -> float:
    """Of a shell without its holes, whichever way they turn."""
    sides = [(ring[:, 0], ring[:, 1]) for ring in rings]
    areas = [abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2 for x, y in sides]
    return areas[0] - sum(areas[1:])


def cell_number(label: Any) -> int:
    """A cell's number in JSON; 0 where it has none, such as where it is a word."""
    if (isinstance(label, float) and label.is_integer()) or (
        isinstance(label, str) and label.isdecimal()
    ):
        return int(label)
    return label if isinstance(label, int) else 0


# --------------------------------------------------------------------------------------------
# Heads of columns, with their units.

_UNITS = {"px": "px", "um": "µm", "um2": "µm²", "um3": "µm³", "px2": "px²", "deg": "°"}
_HEADS = {
    "area_px": "area (px²)",
    "volume_voxels": "volume (voxels)",
    "centroid_z": "z (planes)",
    "centroid_y": "y (px)",
    "centroid_x": "x (px)",
    "t": "time point (from 0)",
    "z": "first plane (from 0)",
}


def column_head(name: str) -> str:
    """What a column of the table is called where people read it, with its unit."""
    if name in _HEADS:
        return _HEADS[name]
    stem, _, last = name.rpartition("_")
    if stem and last in _UNITS:
        return f"{stem.replace('_', ' ')} ({_UNITS[last]})"
    return name.replace("_", " ")
