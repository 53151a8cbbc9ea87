"""The object table: one row per label, computed tile by tile from sums over pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import SettingsError
from napari_sa2net.metrics import numbered
from napari_sa2net.quantities import Quantities, Read, checked_groups, measure_groups, tiles

if TYPE_CHECKING:
    import pandas as pd

#: A cell of less confidence is doubtful. On validation images, also at half and twice their
#: size, the median never was; on five of twelve of phase contrast, which the bundled
#: model makes nothing of, it was.
DOUBTFUL = 0.94

_COLUMNS: dict[str, str] = {
    "area_px": "int64",
    "area_um2": "float64",
    "diameter_px": "float64",
    "eccentricity": "float64",
    "mean_intensity": "float64",
    "confidence": "float64",
    "touches_border": "bool",
    "centroid_y": "float64",
    "centroid_x": "float64",
}
#: Of stacks in depth, before the column of that name.
_IN_DEPTH: dict[str, dict[str, str]] = {
    "diameter_px": {"volume_voxels": "int64", "volume_um3": "float64"},
    "centroid_y": {"centroid_z": "float64"},
}

#: Columns of the sums of a plane that add up over planes.
_SUMMED = (
    "planes",
    "area_px",
    "sum_z",
    "sum_y",
    "sum_x",
    "weighted_eccentricity",
    "intensity",
    "finite",
)


def object_table(
    labels: Any,
    probability_fg: Any = None,
    image: Any = None,
    pixel_size_um: float | Sequence[float] | None = None,
    stack_axes: str = "",
    z_step_um: float | None = None,
    boxes: bool = False,
    groups: Iterable[str] | None = (),
) -> pd.DataFrame:
    r"""Measure every labelled object.

    Parameters
    ----------
    labels : integer array, shape (\*stack, H, W)
        0 is background. Numpy, dask or zarr, of which parts are read. Labels are unique
        over the stack, or linked across planes; gaps in the numbering are fine.
    probability_fg : float array of the same shape, optional
        Foreground probability; without it the confidence is NaN.
    image : array, shape of labels or with one more, last axis of channels, optional
        Raw intensities; channels are averaged. Without it mean_intensity is NaN.
    pixel_size_um : float or (y, x) pair, optional
        Micrometres per pixel; without it area_um2 is NaN.
    stack_axes : str
        One letter per stack axis, such as "TZ".
    z_step_um : float, optional
        Micrometres from plane to plane of a Z stack; without it volume_um3 is NaN.
    boxes : bool
        Add the columns that `box_columns` names: the first element of each object along
        each axis, and the one after its last.
    groups : iterable of str
        What else is measured: any of "shape", "intensity" and "neighbours". None stands for
        the usual ones, "shape". Their columns come last; docs/measure.md tells of each.

    Returns
    -------
    DataFrame, one row per label in ascending order, with the columns

    label : int64
    t, z, ... : int64
        For stacks: plane where the object appears first, one column per stack axis.
    planes : int64
        For stacks: number of planes with the object.
    area_px : int64
        Pixels with this label, over all its planes.
    area_um2 : float64
        area_px in µm²; NaN when the pixel size is unknown.
    volume_voxels : int64
        For stacks with an axis Z: voxels with this label, over all its planes.
    volume_um3 : float64
        Likewise: volume_voxels in µm³; NaN when a size is unknown.
    diameter_px : float64
        Diameter of the circle with the mean area per plane.
    eccentricity : float64
        0 for a circle, towards 1 for a line, from second moments; over planes weighted by
        area.
    mean_intensity : float64
        Mean of the finite pixels of the raw image.
    confidence : float64
        Probability where the network is surest of the object: mean over its pixels, each
        weighed by the eighth power of its own probability. In [0, 1]. It hardly depends on
        where the outline lies, and does not know of wrong cuts between touching cells.
    touches_border : bool
    centroid_z : float64
        For stacks with an axis Z: in planes, 0 is the first one.
    centroid_y, centroid_x : float64
        In pixels, 0 is the centre of the first one; over planes the mean.

    An image without objects gives an empty table with the same columns and dtypes.

    Raises
    ------
    SettingsError
        If shapes, dtypes or axes do not fit.
    """
    labels = (
        labels if hasattr(labels, "shape") and hasattr(labels, "dtype") else np.asarray(labels)
    )
    import pandas as pd  # slow to load

    shape = tuple(labels.shape)
    groups = checked_groups(groups)
    _check(labels, shape, probability_fg, image, stack_axes)
    size_y, size_x = sizes_of(pixel_size_um)
    step = sizes_of(z_step_um)[0]
    aspect = _aspect((size_y, size_x))

    several = image is not None and len(image.shape) > len(shape)

    def window(array: Any) -> Read:
        return lambda index, rows, columns: np.asarray(array[(*index, rows, columns)])

    def raw(index: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
        part = np.asarray(image[(*index, rows, columns)])  # type: ignore[index]
        return part if several else part[..., None]

    parts = []
    for index in np.ndindex(*shape[:-2]):
        sums = _plane_sums(
            (index, shape[-2], shape[-1]),
            window(labels),
            None if probability_fg is None else window(probability_fg),
            None if image is None else raw,
            boxes,
            aspect,
        )
        if sums is not None:
            _place(sums, stack_axes, index, boxes)
            parts.append(sums)
    table = pd.DataFrame(_finished(parts, (size_y, size_x), stack_axes, step, boxes))
    return with_groups(
        table,
        Quantities(
            groups,
            shape,
            stack_axes,
            0 if image is None else int(image.shape[-1]) if several else 1,
            (size_y, size_x),
            step,
        ),
        window(labels),
        raw,
    )


def with_groups(
    table: pd.DataFrame, wanted: Quantities, labels: Read, image: Read | None
) -> pd.DataFrame:
    """A table with the columns of groups, of the same cells; see `measure_groups`."""
    if not wanted.groups:
        return table
    more = measure_groups(wanted, labels, image)
    assert np.array_equal(more.pop("label"), table["label"])
    return table.assign(**more)


def pixel_table(
    where: NDArray[np.integer[Any]],
    values: NDArray[Any],
    shape: tuple[int, ...],
    intensity: NDArray[Any] | None = None,
    pixel_size_um: float | Sequence[float] | None = None,
    stack_axes: str = "",
    z_step_um: float | None = None,
) -> dict[str, NDArray[Any]]:
    """Measure objects by their pixels alone, however far apart these lie.

    Parameters
    ----------
    where : int (ndim, n)
        Each pixel once, in any order.
    values : integer (n,)
        Their labels; none is 0.
    shape : tuple of int
        Of the labels.
    intensity : array (n,) or (n, channels), optional
        Raw intensities of the pixels.
    pixel_size_um, stack_axes, z_step_um
        As of :func:`object_table`.

    Returns
    -------
    dict of str to array
        Columns as of :func:`object_table` with boxes, without confidence.
    """
    size, step = sizes_of(pixel_size_um), sizes_of(z_step_um)[0]
    stack = shape[:-2]
    plane = (
        np.ravel_multi_index(tuple(where[:-2]), stack) if stack else np.zeros(values.size, int)
    )
    order = np.argsort(plane, kind="stable")
    first = np.flatnonzero(np.diff(plane[order], prepend=-1))
    parts = []
    for pixels in np.split(order, first[1:]) if values.size else ():
        sums = _pixel_sums(
            where[-2][pixels],
            where[-1][pixels],
            values[pixels],
            (shape[-2], shape[-1]),
            None if intensity is None else intensity[pixels],
            boxes=True,
            aspect=_aspect(size),
        )[0]
        sums["weighted_eccentricity"] = _weighted_eccentricity(sums)
        _place(sums, stack_axes, where[:-2, pixels[0]].tolist(), boxes=True)
        parts.append(sums)
    return _finished(parts, size, stack_axes, step, boxes=True)


def _finished(
    parts: list[dict[str, Any]],
    size: tuple[float, float],
    stack_axes: str,
    step: float,
    boxes: bool,
) -> dict[str, NDArray[Any]]:
    """Columns of the table of the sums of all planes."""
    columns = _dtypes(stack_axes, boxes)
    if not parts:
        return {name: np.empty(0, dtype) for name, dtype in columns.items()}
    table = _combine(parts, stack_axes.lower(), boxes)
    table["area_um2"] = table["area_px"] * (size[0] * size[1])
    table["volume_voxels"] = table["area_px"]
    table["volume_um3"] = table["area_um2"] * step
    return {name: table[name].astype(dtype) for name, dtype in columns.items()}


def box_columns(stack_axes: str = "") -> tuple[str, ...]:
    """Names of the columns of boxes: first and last of each stack axis, of y and of x."""
    return tuple(f"box_{axis}{end}" for axis in stack_axes.lower() + "yx" for end in (0, 1))


def many_doubtful(confidence: Any) -> bool:
    """Whether the median of confidences (n,) is doubtful; not of none at all."""
    values = np.asarray(confidence, float)
    values = values[np.isfinite(values)]
    return bool(values.size and np.median(values) < DOUBTFUL)


def empty_table(stack_axes: str = "", boxes: bool = False) -> pd.DataFrame:
    """A table without rows, with the columns and dtypes of :func:`object_table`."""
    import pandas as pd  # slow to load

    columns = _dtypes(stack_axes, boxes)
    return pd.DataFrame({name: np.empty(0, dtype) for name, dtype in columns.items()})


def offset_labels(labels: NDArray[np.integer[Any]], offset: int) -> NDArray[np.int32]:
    """Add ``offset`` to every object, so that labels stay unique over a stack (int32).

    Raises
    ------
    SettingsError
        If a label would pass the int32 range.
    """
    labels = np.asarray(labels)
    if labels.size and int(labels.max()) + offset > np.iinfo(np.int32).max:
        raise SettingsError(
            "The stack has more objects than labels can number (2147483647): raise the "
            "smallest size, or segment fewer planes at once."
        )
    moved = labels.astype(np.int32)
    moved[moved > 0] += offset
    return moved


# --- one plane -------------------------------------------------------------------------


def _plane_sums(
    plane: tuple[tuple[int, ...], int, int],
    labels: Read,
    probability: Read | None,
    image: Read | None,
    boxes: bool,
    aspect: float,
) -> dict[str, Any] | None:
    """Sums per object of one plane (index, height, width), as columns; None without objects."""
    index, *shape = plane
    parts = []
    for _, rows, columns, _ in tiles((shape[0], shape[1])):
        inner = labels(index, rows, columns)
        y, x = np.nonzero(inner != 0)  # of truths it is much faster
        if y.size == 0:
            continue
        pixels = None if image is None else image(index, rows, columns)[y, x]
        at = y + rows.start, x + columns.start
        sums, number = _pixel_sums(
            *at, inner[y, x], (shape[0], shape[1]), pixels, boxes, aspect
        )
        if probability is not None:
            p = np.asarray(probability(index, rows, columns))[y, x]
            sums["weight"], sums["weighted"] = confidence_sums(number, p, sums["label"].size)
        parts.append(sums)
    if not parts:
        return None
    sums = parts[0] if len(parts) == 1 else _of_tiles(parts, aspect)
    sums["weighted_eccentricity"] = _weighted_eccentricity(sums)
    return sums


def confidence_sums(
    number: NDArray[np.integer[Any]], probability: NDArray[np.floating[Any]], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of pixels' weights and of weighted probabilities, by object.

    Their ratio is the confidence, :func:`confidence_of`; sums of parts of an object add up.

    Parameters
    ----------
    number : integer array
        Which object, 0 … n - 1, each pixel belongs to.
    probability : float array, same shape
        Of the foreground; NaN counts as 0.

    Returns
    -------
    two float64 arrays, shape (n,)
    """
    p = np.nan_to_num(probability.ravel().astype(np.float64)).clip(0, 1)
    weight = p * p
    weight *= weight
    weight *= weight  # the eighth power
    number = number.ravel()
    weights, weighted = (np.bincount(number, w, minlength=n) for w in (weight, weight * p))
    return weights.astype(np.float64), weighted.astype(np.float64)


def confidence_of(weight: NDArray[Any], weighted: NDArray[Any]) -> NDArray[np.float64]:
    """Confidence in [0, 1] from :func:`confidence_sums`; NaN stays."""
    result: NDArray[np.float64] = np.divide(
        weighted, weight, out=np.zeros(np.shape(weight)), where=weight != 0
    )
    return result


def _of_tiles(parts: list[dict[str, Any]], aspect: float) -> dict[str, Any]:
    """Sums of a plane of those of its tiles."""
    values, number = numbered(np.concatenate([part["label"] for part in parts]))
    n = values.size

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([np.broadcast_to(p[name], p["label"].shape) for p in parts])

    def total(weights: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(number, weights, minlength=n).astype(np.float64)

    sums: dict[str, Any] = {"label": values}
    areas = column("area_px")
    for name in ("area_px", "sum_y", "sum_x", "weight", "weighted", "intensity", "finite"):
        sums[name] = total(column(name))
    sums["touches_border"] = total(column("touches_border")) > 0
    # squares about the centre of the whole, by those about the centres of the parts
    away = {
        axis: (column(f"sum_{axis}") / areas - (sums[f"sum_{axis}"] / sums["area_px"])[number])
        for axis in "yx"
    }
    away["y"] *= aspect
    for a, b in ("yy", "xx", "yx"):
        sums[a + b] = total(column(a + b) + areas * away[a] * away[b])
    for name in parts[0]:
        if name.startswith("box_"):
            first = name.endswith("0")
            ends = column(name)
            sums[name] = np.full(n, ends.max() if first else 0)
            (np.minimum if first else np.maximum).at(sums[name], number, ends)
    return sums


def _pixel_sums(
    rows: NDArray[Any],
    cols: NDArray[Any],
    labels: NDArray[Any],
    shape: tuple[int, ...],
    pixels: NDArray[Any] | None,
    boxes: bool,
    aspect: float,
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Sums per object of pixels of one plane, and the number of each pixel's object."""
    height, width = shape
    values, number = numbered(labels)
    n = values.size

    def total(weights: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(number, weights=weights, minlength=n).astype(np.float64)

    area = np.bincount(number, minlength=n)
    centre_y, centre_x = total(rows) / area, total(cols) / area
    dy, dx = (rows - centre_y[number]) * aspect, cols - centre_x[number]
    sums: dict[str, Any] = {
        "label": values.astype(np.int64),
        "area_px": area,
        "sum_y": centre_y * area,
        "sum_x": centre_x * area,
        "yy": total(dy * dy),
        "xx": total(dx * dx),
        "yx": total(dy * dx),
        "weight": np.nan,
        "weighted": np.nan,
        "intensity": 0.0,
        "finite": 0,
    }
    if boxes:
        for axis, at in (("y", rows), ("x", cols)):
            low, high = np.full(n, max(height, width)), np.zeros(n, np.int64)
            np.minimum.at(low, number, at)
            np.maximum.at(high, number, at + 1)
            sums[f"box_{axis}0"], sums[f"box_{axis}1"] = low, high
    edge = (rows == 0) | (rows == height - 1) | (cols == 0) | (cols == width - 1)
    sums["touches_border"] = np.bincount(number[edge], minlength=n) > 0
    if pixels is not None:
        pixels = pixels.astype(np.float64)
        if pixels.ndim == 2:
            pixels = pixels.mean(axis=1)
        finite = np.isfinite(pixels)
        sums["intensity"] = total(np.where(finite, pixels, 0))
        sums["finite"] = np.bincount(number[finite], minlength=n)
    return sums, number


def _place(sums: dict[str, Any], stack_axes: str, index: Sequence[int], boxes: bool) -> None:
    """Add in which plane of a stack the sums are."""
    for axis, at in zip(stack_axes.lower(), index, strict=True):
        sums[axis] = at
        if boxes:
            sums[f"box_{axis}0"], sums[f"box_{axis}1"] = at, at + 1


def _aspect(size: tuple[float, float]) -> float:
    """Height of a pixel by its width; 1 where unknown."""
    return size[0] / size[1] if np.isfinite(size).all() else 1.0


def _weighted_eccentricity(sums: dict[str, Any]) -> NDArray[np.float64]:
    """Area times eccentricity, which adds up over planes."""
    area = sums["area_px"]
    yy, xx, yx = (sums.pop(name) / area for name in ("yy", "xx", "yx"))
    return np.asarray(area * _eccentricity(yy, xx, yx))


def _eccentricity(
    yy: NDArray[np.float64], xx: NDArray[np.float64], yx: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Eccentricity of the ellipse with these second central moments."""
    mean = (yy + xx) / 2
    spread = np.sqrt(((yy - xx) / 2) ** 2 + yx**2)
    major, minor = mean + spread, np.maximum(mean - spread, 0)
    ratio = np.divide(minor, major, out=np.ones_like(major), where=major > 0)
    return np.sqrt(np.maximum(1 - ratio, 0))


# --- several planes --------------------------------------------------------------------


def _combine(
    parts: list[dict[str, Any]], axes: str, boxes: bool = False
) -> dict[str, NDArray[Any]]:
    """Join the sums of all planes and turn them into measurements."""
    for part in parts:
        part["planes"] = 1
        part["sum_z"] = part["z"] * part["area_px"] if "z" in axes else 0
    if len(parts) > 1:
        table = _joined(parts, axes, boxes)
    else:
        n = parts[0]["label"].size
        table = {name: np.broadcast_to(sums, n) for name, sums in parts[0].items()}
    area = table["area_px"]
    table["diameter_px"] = np.sqrt(4 / np.pi * area / table["planes"])
    table["eccentricity"] = table["weighted_eccentricity"] / area
    with np.errstate(invalid="ignore"):
        table["mean_intensity"] = table["intensity"] / table["finite"]
    table["confidence"] = confidence_of(table["weight"], table["weighted"])
    table["centroid_z"] = table["sum_z"] / area
    table["centroid_y"] = table["sum_y"] / area
    table["centroid_x"] = table["sum_x"] / area
    return table


def _joined(parts: list[dict[str, Any]], axes: str, boxes: bool) -> dict[str, NDArray[Any]]:
    """Sums of several planes, of each object together."""
    import pandas as pd  # slow to load

    rows = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    how = dict.fromkeys(axes, "first") | dict.fromkeys(_SUMMED, "sum")
    if boxes:
        ends = box_columns(axes)
        how |= dict.fromkeys(ends[::2], "min") | dict.fromkeys(ends[1::2], "max")
    grouped = rows.groupby("label", sort=True)
    table = grouped.agg({**how, "touches_border": "any"})
    # min_count: NaN stays NaN where there was no probability
    table[["weight", "weighted"]] = grouped[["weight", "weighted"]].sum(min_count=1)
    table = table.reset_index()
    return {str(name): table[name].to_numpy() for name in table.columns}


def _dtypes(stack_axes: str, boxes: bool = False) -> dict[str, str]:
    stack = dict.fromkeys(stack_axes.lower(), "int64")
    if stack:
        stack["planes"] = "int64"
    columns = {"label": "int64", **stack}
    for name, dtype in _COLUMNS.items():
        if "z" in stack:
            columns |= _IN_DEPTH.get(name, {})
        columns[name] = dtype
    return columns | dict.fromkeys(box_columns(stack_axes) if boxes else (), "int64")


def sizes_of(pixel_size_um: float | Sequence[float] | None) -> tuple[float, float]:
    """Height and width of a pixel in µm, from one figure or two; NaN where unknown."""
    if pixel_size_um is None:
        return np.nan, np.nan
    sizes = np.atleast_1d(np.asarray(pixel_size_um, np.float64))
    if sizes.size not in (1, 2) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise SettingsError(
            "The pixel size must be one positive number or a (y, x) pair in micrometres, "
            f"not {pixel_size_um!r}."
        )
    return float(sizes[0]), float(sizes[-1])


def _check(
    labels: Any, shape: tuple[int, ...], probability: Any, image: Any, axes: str
) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise SettingsError(f"Labels must be whole numbers, not {labels.dtype}.")
    if len(shape) != len(axes) + 2:
        raise SettingsError(
            f"Labels of shape {shape} do not fit the stack axes {axes!r}: {len(axes) + 2} "
            "dimensions are expected, one per stack axis and Y, X."
        )
    for name, array in _named(probability, image):
        extra = len(array.shape) - len(shape) if name == "image" else 0
        if tuple(array.shape[: len(shape)]) != shape or extra not in (0, 1):
            raise SettingsError(
                f"The {name} has shape {tuple(array.shape)}, the labels {shape}: measure on "
                "the image that was segmented."
            )


def _named(probability: Any, image: Any) -> Iterator[tuple[str, Any]]:
    if probability is not None:
        yield "probability", probability
    if image is not None:
        yield "image", image
