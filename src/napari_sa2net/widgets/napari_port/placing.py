"""Where a Labels layer lies on an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_sa2net.widgets.napari_port import geometry

if TYPE_CHECKING:
    from napari.layers import Image, Labels

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
    points = np.array([layer.data_to_world(p) for p in geometry.unit_points(layer.ndim)])
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
