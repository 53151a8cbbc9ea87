"""How each decoder stage moved, split and merged the objects that came out in the end.

The four heads of the network give labels at strides 8, 4, 2 and 1. Here each object of the
last one is followed through them. Objects of two stages match when they share a quarter of
the smaller one's area (:mod:`napari_sa2net.interpret.refinement`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from napari_sa2net.errors import SettingsError
from napari_sa2net.interpret.maps import STRIDES, Changes
from napari_sa2net.metrics import Overlaps, overlap_table

# --------------------------------------------------------------------------------------------
# Boundary pixels of labelled objects, and the bands of pixels along them.

Index = NDArray[np.int64]
Line = NDArray[np.signedinteger[Any]]


def boundary_pixels(labels: NDArray[np.integer[Any]]) -> Index:
    """Flat positions of all object pixels beside another label, in raster order.

    Neighbours are left, right, above and below. The edge of the array is no boundary: what
    an object does beyond it is not known.

    Parameters
    ----------
    labels : integer array (H, W), 0 background
    """
    edge = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    edge &= labels > 0
    return np.flatnonzero(edge)


def band_pixels(labels: NDArray[np.integer[Any]], width: int) -> tuple[Index, Index]:
    """Pixels within `width` steps of an object's boundary, on both sides of it.

    Inside, these are the object's own pixels; outside, unlabelled ones, each given to the
    object that reaches it in the fewest steps (of several the highest label). A step goes to
    any of the eight neighbours. The edge of the array is no boundary.

    Returns
    -------
    position : int64 (n,)
        Flat position of each pixel of a band; none occurs twice.
    owner : int64 (n,)
        Label of the object whose band it is in.
    """
    height, stride = labels.shape[0], labels.shape[1] + 2
    # A frame that is neither background nor object: no neighbour ever falls off the array.
    framed = np.full((height + 2, stride), -1, np.promote_types(labels.dtype, np.int32))
    framed[1:-1, 1:-1] = labels
    line = framed.ravel()
    around = [dy * stride + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    rows, columns = np.divmod(boundary_pixels(labels), max(labels.shape[1], 1))
    inner = (rows + 1) * stride + columns + 1
    owner = np.zeros_like(line)
    owner[inner] = line[inner]
    outer = inner
    positions = [inner]
    for step in range(width):
        outer = _step(outer, around, line, owner, outside=True)
        positions.append(outer)
        if step:  # the boundary pixels are the first inside
            inner = _step(inner, around, line, owner, outside=False)
            positions.append(inner)
    found = np.concatenate(positions)
    rows, columns = np.divmod(found, stride)
    return (rows - 1) * labels.shape[1] + columns - 1, owner[found].astype(np.int64)


def _step(pixels: Index, around: list[int], line: Line, owner: Line, *, outside: bool) -> Index:
    """Pixels one step on that nobody owns yet; fills in their owners."""
    whose = owner[pixels]
    reached = []
    for offset in around:
        beside = pixels + offset
        fits = (line[beside] == (0 if outside else whose)) & (owner[beside] == 0)
        reached.append((beside[fits], whose[fits]))
    positions, best = (np.concatenate(parts) for parts in zip(*reached, strict=True))
    # Ascending, so that of several the highest label is written last.
    order = np.argsort(best, kind="stable")
    owner[positions[order]] = best[order]
    positions.sort()  # np.unique hashes integers here, ten times slower
    return positions[np.diff(positions, prepend=-1) > 0]


# --------------------------------------------------------------------------------------------
# What became of objects from one segmentation to another of the same pixels.

#: Share of the smaller object's area from which two objects are the same cell's. Below it
#: they merely touch: a boundary that moved by a pixel or two laps over its neighbour.
MATCH = 0.25


def stage_change(
    before: NDArray[np.integer[Any]], after: NDArray[np.integer[Any]]
) -> NDArray[np.int8]:
    """Where foreground came and went between two labelled planes.

    Parameters
    ----------
    before, after : integer arrays (H, W)
        0 is background.

    Returns
    -------
    int8 (H, W)
        +1 foreground only after, −1 only before, 0 elsewhere.

    Raises
    ------
    SettingsError
        If they are not labels of one shape.
    """
    before, after = check_labels(before, after)
    return np.subtract(after > 0, before > 0, dtype=np.int8)


def compare_objects(
    before: NDArray[np.integer[Any]], after: NDArray[np.integer[Any]]
) -> Changes:
    """Count what happened to objects between two labelled planes (H, W).

    Objects match that share at least a quarter of the smaller one's area. The numbering does
    not matter.

    Raises
    ------
    SettingsError
        If they are not labels of one shape.
    """
    change = stage_change(before, after)
    found = overlaps(before, after)
    children, parents = found.children, found.parents
    return Changes(
        appeared=int((parents == 0).sum()),
        vanished=int((children == 0).sum()),
        split=int((children > 1).sum()),
        merged=int((parents > 1).sum()),
        gained_px=int((change > 0).sum()),
        lost_px=int((change < 0).sum()),
        change=change,
    )


def overlaps(before: NDArray[np.integer[Any]], after: NDArray[np.integer[Any]]) -> Overlaps:
    """Objects of two labelled planes (H, W) that share `MATCH` of the smaller one's area."""
    found = overlap_table(*check_labels(before, after))
    smaller = np.minimum(found.area_before[found.i], found.area_after[found.j])
    return found.of(found.shared >= MATCH * smaller)


def check_labels(
    *planes: NDArray[np.integer[Any]],
) -> tuple[NDArray[np.integer[Any]], ...]:
    """The planes as arrays, if all are labels of one shape (H, W).

    Raises
    ------
    SettingsError
    """
    arrays = tuple(np.asarray(plane) for plane in planes)
    for array in arrays:
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise SettingsError(
                f"Labels of one plane are whole numbers (Y, X), not {array.dtype} of shape "
                f"{array.shape}; choose one plane of a stack."
            )
        if array.shape != arrays[0].shape:
            raise SettingsError(
                f"Labels of shapes {arrays[0].shape} and {array.shape} cannot be compared: "
                "both must be of the same pixels."
            )
    return arrays


#: Stages that have one before them.
LATER = STRIDES[1:]
#: How a stage is called in words.
STAGE_NAMES = {8: "1/8", 4: "1/4", 2: "1/2", 1: "full"}
#: Half width (px) of the band along a boundary where `contested` looks.
BAND = 3
#: Rows that it looks at at once, which bounds memory.
_ROWS = 512

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StageColumns:
    """What one stage shows of each object of the last one; arrays of length n objects.

    Attributes
    ----------
    n_objects : int64
        Objects of this stage that match; 0: it is not seen here.
    area_px : int64
        Their pixels together.
    mean_move_px, max_move_px : float64
        Distance the boundary moved since the stage before; NaN where it has none there or
        here, and at the first stage.
    event : object (str)
        "", "split", "merged", "appeared" or "vanished" since the stage before.
    """

    n_objects: Index
    area_px: Index
    mean_move_px: Floats
    max_move_px: Floats
    event: NDArray[Any]


def refinement_table(
    stages: Mapping[int, NDArray[np.integer[Any]]],
    foreground: NDArray[np.floating[Any]],
    pixel_size_um: float | Sequence[float] | None = None,
) -> pd.DataFrame:
    """Boundary refinement of every object, one row each.

    Parameters
    ----------
    stages : mapping of stride to integer labels (H, W)
        8, 4, 2, 1, coarse to fine; stage 1 is the result and must be there, others may be
        missing. All of the same pixels; the numbering of each is its own.
    foreground : float array (H, W)
        Foreground probability of the last stage; NaN counts as 0.
    pixel_size_um : float or (y, x) pair, optional
        Adds the movements in µm (of a pair, its geometric mean counts).

    Returns
    -------
    DataFrame, in ascending order of label, with the columns

    label : int64
    moved_4_mean_px, moved_4_max_px, moved_2_…, moved_1_… : float64
        How far the boundary moved from the stage before to stride 4, 2, 1. For every
        boundary pixel of the objects that match this one at the later stage, the distance
        (px) to the nearest boundary pixel of the objects linked to them (by matching,
        directly or through others) at the stage before; mean and largest. Of a clump that is
        cut only later, only the boundary pixels nearest to this object count. A new cut
        counts as movement. The edge of the image is no boundary. NaN: there was no boundary
        to compare with, or the stage is missing.
    moved_4_mean_um, … : float64
        The same in µm, with a pixel size only.
    refinement_px : float64
        Sum of the three mean movements, NaN counting as 0.
    history : str
        "split at 1/4", "merged at full", "appeared at 1/2", "vanished at 1/2", several
        joined by "; ". Split: the object it belonged to at the stage before became several;
        merged: several became the one it belongs to; appeared: there was none at the stage
        before; vanished: there was, and is none at this one. Where a stage did both, the
        split is named.
    contested : float64
        Mean binary entropy (bits, 0…1) of the foreground probability in the band of 3 px on
        both sides of the boundary: the object's own pixels and unlabelled ones. 0: the
        network was sure where the object ends; 1: every pixel there is a toss-up. It does
        not know of cuts between touching objects. NaN for an object without a boundary.

    Raises
    ------
    SettingsError
        If stage 1 is missing or shapes do not fit.
    """
    foreground = np.asarray(foreground)
    labels, columns = follow_objects(stages)
    if foreground.shape != np.shape(stages[1]):
        raise SettingsError(
            f"The foreground has shape {foreground.shape}, the labels {np.shape(stages[1])}: "
            "both must be of the same pixels."
        )
    table: dict[str, Any] = {"label": labels}
    empty = np.full(labels.size, np.nan)
    for stride in LATER:
        step = columns.get(stride)
        table[f"moved_{stride}_mean_px"] = empty if step is None else step.mean_move_px
        table[f"moved_{stride}_max_px"] = empty if step is None else step.max_move_px
    if pixel_size_um is not None:
        size = float(np.sqrt(np.prod(np.broadcast_to(np.asarray(pixel_size_um, float), 2))))
        for name in [name for name in table if name.endswith("_px")]:
            table[name.removesuffix("px") + "um"] = table[name] * size
    means = np.stack([table[f"moved_{stride}_mean_px"] for stride in LATER])
    table["refinement_px"] = np.nan_to_num(means).sum(axis=0)
    table["history"] = _histories(labels.size, columns)
    table["contested"] = contested(np.asarray(stages[1]), foreground, labels)
    return pd.DataFrame(table)


def follow_objects(
    stages: Mapping[int, NDArray[np.integer[Any]]], only: int | None = None
) -> tuple[Index, dict[int, StageColumns]]:
    """Labels of the last stage in ascending order, and what each stage shows of them.

    Parameters
    ----------
    stages : mapping of stride to integer labels (H, W)
    only : int, optional
        Measure movements of the object with this label alone; those of the others are NaN.

    Raises
    ------
    SettingsError
        If stage 1 is missing, a stride is unknown, or shapes do not fit.
    """
    unknown = sorted(set(stages) - set(STRIDES))
    if 1 not in stages or unknown:
        raise SettingsError(
            "Stages are given by their strides 8, 4, 2, 1, of which 1 is needed; these are "
            f"{sorted(stages, reverse=True)}."
        )
    present = [stride for stride in STRIDES if stride in stages]
    planes = dict(zip(present, check_labels(*(stages[s] for s in present)), strict=True))
    # Which objects of each stage match which of the last; of the last with itself, each one.
    members = {stride: overlaps(planes[stride], planes[1]) for stride in present}
    labels = members[1].after
    final = Boundaries(planes[1], labels)
    result: dict[int, StageColumns] = {}
    before: int | None = None
    boundaries = final
    for stride in present:
        found = members[stride]
        step = StageColumns(
            found.parents,
            np.bincount(found.j, found.area_before[found.i], minlength=labels.size).astype(
                np.int64
            ),
            np.full(labels.size, np.nan),
            np.full(labels.size, np.nan),
            np.full(labels.size, "", object),
        )
        here = final if stride == 1 else Boundaries(planes[stride], found.before)
        if before is not None:
            graph = members[before] if stride == 1 else overlaps(planes[before], planes[stride])
            _name_events(step, found, graph, result[before])
            at = None if only is None else int(np.searchsorted(labels, only))
            _measure_moves(step, found, graph, boundaries, here, final, at)
        result[stride] = step
        before, boundaries = stride, here
    return labels, result


def contested(
    labels: NDArray[np.integer[Any]], foreground: NDArray[np.floating[Any]], values: Index
) -> Floats:
    """Column `contested` of :func:`refinement_table` for the labels `values`, ascending."""
    total, count = np.zeros(values.size), np.zeros(values.size)
    for start in range(0, labels.shape[0], _ROWS):
        # one row more, which tells whether the last that counts is a boundary
        first = max(0, start - BAND - 1)
        rows = slice(first, start + _ROWS + BAND + 1)
        position, owner = band_pixels(labels[rows], BAND)
        row = position // labels.shape[1] + first
        own = (start <= row) & (row < start + _ROWS)
        p = foreground[rows].ravel()[position[own]].astype(np.float64)
        p = np.nan_to_num(p).clip(1e-12, 1 - 1e-12)
        entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        which = np.searchsorted(values, owner[own])
        total += np.bincount(which, entropy, minlength=values.size)
        count += np.bincount(which, minlength=values.size)
    with np.errstate(invalid="ignore"):
        mean: Floats = total / count
    return mean


class Boundaries:
    """Boundary pixels of one stage's objects.

    Parameters
    ----------
    labels : integer array (H, W)
    values : int64 (n,)
        Its labels in ascending order.

    Attributes
    ----------
    points : float64 (k, 2)
        Y, x of each boundary pixel.
    which : int64 (k,)
        Position in `values` of the object it is of.
    """

    def __init__(self, labels: NDArray[np.integer[Any]], values: Index) -> None:
        self.shape = labels.shape
        flat = boundary_pixels(labels)
        self.which = np.searchsorted(values, labels.ravel()[flat])
        self.points = np.stack(np.divmod(flat, max(labels.shape[1], 1)), axis=1).astype(float)

    @cached_property
    def tree(self) -> cKDTree:
        """Of all boundary pixels."""
        return _tree(self.points)


def _tree(points: Floats) -> cKDTree:
    # Pixels lie evenly: a sliding midpoint builds faster than medians and searches as fast.
    return cKDTree(points, balanced_tree=False, compact_nodes=False)


def _name_events(
    step: StageColumns, found: Overlaps, graph: Overlaps, before: StageColumns
) -> None:
    """Fill `step.event`; `graph` links the stage before to this one, `found` this to last."""
    merged, split = graph.parents > 1, np.zeros(graph.after.size, bool)
    split[graph.j[graph.children[graph.i] > 1]] = True
    step.event[found.j[merged[found.i]]] = "merged"
    step.event[found.j[split[found.i]]] = "split"
    step.event[(step.n_objects > 0) & (before.n_objects == 0)] = "appeared"
    step.event[(step.n_objects == 0) & (before.n_objects > 0)] = "vanished"


def _measure_moves(
    step: StageColumns,
    found: Overlaps,
    graph: Overlaps,
    before: Boundaries,
    here: Boundaries,
    final: Boundaries,
    only: int | None,
) -> None:
    """Fill `step.mean_move_px` and `step.max_move_px`, or only those at position `only`."""
    points, which = here.points, here.which
    if only is not None:
        mine = np.isin(which, found.i[found.j == only])
        points, which = points[mine], which[mine]
    if not (len(before.points) and len(points) and len(final.points)):
        return
    moved = _distances(graph, before, points, which)
    if here is final:
        owner, own = which, np.isfinite(moved)
    else:
        # Of a clump each object takes the boundary that is nearest to it.
        owner = final.which[final.tree.query(points)[1]]
        n = found.before.size
        own = np.isin(owner * n + which, found.j * n + found.i) & np.isfinite(moved)
        if only is not None:
            own &= owner == only
    owner, moved = owner[own], moved[own]
    count = np.bincount(owner, minlength=step.n_objects.size)
    with np.errstate(invalid="ignore"):
        step.mean_move_px[:] = np.bincount(owner, moved, minlength=count.size) / count
    step.max_move_px[count > 0] = 0
    np.maximum.at(step.max_move_px, owner, moved)


def _distances(graph: Overlaps, before: Boundaries, points: Floats, which: Index) -> Floats:
    """From each point to the nearest boundary pixel before among linked objects, else NaN.

    Linked are objects that match, directly or through others; `which` tells the points'
    objects after.
    """
    n, m = graph.before.size, graph.after.size
    links = coo_matrix((np.ones(graph.i.size, bool), (graph.i, graph.j + n)), (n + m, n + m))
    group = connected_components(links, directed=False)[1]
    theirs, wanted = group[:n][before.which], group[n:][which]
    used = np.zeros(n + m, bool)
    used[wanted] = True
    used = used[theirs]
    if not used.any():
        return np.full(len(points), np.nan)
    # A third axis far apart for every group: one search finds the nearest of the own group.
    apart = 4.0 * sum(before.shape)
    tree = _tree(np.column_stack([before.points[used], apart * theirs[used]]))
    distance: Floats = tree.query(np.column_stack([points, apart * wanted]))[0]
    return np.where(distance < apart / 2, distance, np.nan)


def _histories(n: int, columns: Mapping[int, StageColumns]) -> list[str]:
    """Events of all stages of each object in words."""
    texts = [""] * n
    for stride, step in columns.items():
        for at in np.flatnonzero(step.event != ""):
            word = f"{step.event[at]} at {STAGE_NAMES[stride]}"
            texts[at] = f"{texts[at]}; {word}" if texts[at] else word
    return texts
