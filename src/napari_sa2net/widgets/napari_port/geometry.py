"""Geometry between layers and arrays: axes in words, boxes, transforms; plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.axes import STACK_NAMES

if TYPE_CHECKING:
    from napari.layers import Image, Labels


_WORDS = {"Z": "planes in depth (Z)", "T": "time points (T)", "C": "channels (C)"}
_LABELS = {
    "z": "Z", "depth": "Z", "plane": "Z", "t": "T", "time": "T", "frame": "T",
    "c": "C", "ch": "C", "channel": "C", "channels": "C",
}  # fmt: skip


def guess_axes(ndim: int, rgb: bool, labels: Sequence[str] = ()) -> str:
    """Spell the axes of a layer's array.

    Parameters
    ----------
    ndim : int
        Axes that the layer shows; the samples of an RGB layer are not among them.
    rgb : bool
        The array has one more axis at the end: the colours.
    labels : sequence of str
        The layer's axis labels; used where all leading ones are known words.

    Returns
    -------
    str
        Leading axes, then ``YX``, then ``S`` where `rgb` (samples, so that a channel axis
        beside them stays one).
    """
    lead = told_axes(ndim, labels) or STACK_NAMES[: ndim - 2][::-1]
    return lead + "YX" + ("S" if rgb else "")


def told_axes(ndim: int, labels: Sequence[str]) -> str:
    """The leading axes, where a layer's labels name them all; else empty."""
    n_lead = ndim - 2
    named = [_LABELS.get(label.strip().lower(), "") for label in labels[:n_lead]]
    told = len(named) == n_lead and all(named) and len(set(named)) == n_lead
    return "".join(named) if told else ""


def axes_choices(axes: str) -> list[tuple[str, str]]:
    """Other spellings of the leading axes, each with its words; empty for a 2-D image.

    Up to three leading axes are offered in every order of planes, time and channels; the
    given spelling comes first.
    """
    end = axes.index("Y")
    lead, tail = axes[:end], axes[end:]
    if not lead:
        return []
    letters = "ZT" if tail.endswith("S") else "ZTC"
    leads = [lead]
    if len(lead) <= len(letters):
        leads += [
            spelled
            for letters_in_order in permutations(letters, len(lead))
            if (spelled := "".join(letters_in_order)) != lead
        ]
    return [
        (spelled + tail, " × ".join(_WORDS.get(s, f"stack ({s})") for s in spelled))
        for spelled in leads
    ]


def visible_box(corners: NDArray[np.floating], shape: tuple[int, int]) -> tuple[int, ...]:
    """Pixels of a plane that lie in a quadrilateral's bounding box.

    Parameters
    ----------
    corners : (n, 2) float
        Corners in pixel coordinates (pixel centres at whole numbers), y and x.
    shape : tuple of int
        Height and width of the plane.

    Returns
    -------
    tuple of int
        ``(y0, y1, x0, x1)`` clipped to the plane; empty where nothing is visible.
    """
    low = np.floor(corners.min(axis=0) + 0.5)
    high = np.ceil(corners.max(axis=0) + 0.5)
    y0, x0 = (int(np.clip(v, 0, n)) for v, n in zip(low, shape, strict=True))
    y1, x1 = (int(np.clip(v, 0, n)) for v, n in zip(high, shape, strict=True))
    return y0, max(y0, y1), x0, max(x0, x1)


def linear_part(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Matrix of an affine map from the images of the origin and of the unit vectors.

    Parameters
    ----------
    points : (n + 1, n) float
        Where the map sends 0, e₀ … eₙ₋₁.
    """
    return (points[1:] - points[0]).T


def unit_points(ndim: int) -> NDArray[np.floating]:
    """The origin and the unit vectors, (n + 1, n)."""
    return np.vstack([np.zeros(ndim), np.eye(ndim)])


def parallelogram_area(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Area spanned by two vectors of any dimension."""
    return float(np.sqrt(max(0.0, (a @ a) * (b @ b) - (a @ b) ** 2)))


# --------------------------------------------------------------------------------------------
# Where a Labels layer lies on an image.

#: pixels of two layers count as the same up to this shift, in pixels
_SLACK = 0.05


def place_on(
    image: Image, layer: Labels, axes: str
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Where a layer's first pixel lies in an image, and which of its axes the image lacks.

    Parameters
    ----------
    axes : str
        Spelling of the image's axes.

    Returns
    -------
    None where the pixels of the two do not lie on each other, or the layer reaches beyond.
    """
    names = axes[: image.ndim]
    shape = (image.data[0] if image.multiscale else image.data).shape[: image.ndim]
    # axes are aligned from the last
    lead = image.ndim - layer.ndim
    points = np.array([layer.data_to_world(p) for p in unit_points(layer.ndim)])
    if lead > 0:
        points = np.pad(points, ((0, 0), (lead, 0)))
    in_image = np.array([image.world_to_data(p[-image.ndim :]) for p in points])
    origin, steps = in_image[0], in_image[1:] - in_image[0]
    corner, extra = [], []
    for axis in range(layer.ndim):
        target = axis + lead
        if target < 0 or names[target] == "C":
            if layer.data.shape[axis] != 1:
                return None
            extra.append(axis)
            continue
        unit = np.zeros(image.ndim)
        unit[target] = 1
        first = origin[target]
        end = round(float(first)) + layer.data.shape[axis]
        if (
            not np.allclose(steps[axis], unit, atol=_SLACK / max(1, layer.data.shape[axis]))
            or abs(first - round(float(first))) > _SLACK
            or round(float(first)) < 0
            or end > shape[target]
        ):
            return None
        corner.append(round(float(first)))
    if lead > 0 and any(name != "C" for name in names[:lead]):
        return None
    return tuple(corner), tuple(extra)
