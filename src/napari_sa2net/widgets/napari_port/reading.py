"""Describe image layers: axes, pixel size, place, plane and part that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.session import ImageSource
from napari_sa2net.data.axes import STACK_NAMES
from napari_sa2net.data.io import Sizes, counts_dots, is_plausible

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.viewer import Viewer
    from numpy.typing import NDArray


def layer_key(layer: Layer) -> str:
    """Identifies a layer for as long as it lives, whatever it is called."""
    return str(layer.unique_id)


#: What tells in ``layer.metadata`` from which file we have read it.
PATH_KEY = "napari-sa2net file"


def layer_path(layer: Layer) -> str:
    """The file that a layer was read from, by napari or by us; empty where unknown."""
    return str(layer.metadata.get(PATH_KEY) or layer.source.path or "")


def layer_axes(layer: Image) -> str:
    """Spelling of the layer's array as its shape, colours and axis labels suggest it."""
    labels = tuple(getattr(layer, "axis_labels", ()))
    return guess_axes(layer.ndim, bool(layer.rgb), labels)


def pixel_size_um(layer: Layer) -> float | tuple[float, float] | None:
    """Side of a pixel in micrometres, height and width where they differ; None where unknown.

    None too where it is a screen's or a mistake, as of files that we read ourselves.

    All transforms count, so a pixel size given through ``affine`` is found too.
    """
    try:
        factors = [float((1 * unit).to("micrometer").magnitude) for unit in layer.units[-2:]]
    except Exception:  # pint: pixels and the like are no lengths
        return None
    points = np.array([layer.data_to_world(p) for p in unit_points(layer.ndim)])
    vectors = linear_part(points)
    height, width = np.linalg.norm(vectors[:, -2:], axis=0).tolist()
    vectors[-2:] *= np.array(factors)[:, None]
    # a plane tilted out of YX by a 3-D rotation: lengths along Z need the same unit
    area = parallelogram_area(vectors[-2:, -2], vectors[-2:, -1])
    size = float(np.sqrt(area)) if np.isfinite(area) and area > 0 else 0.0
    dots = any(counts_dots(str(unit)) for unit in layer.units[-2:])
    if not is_plausible(size, dots):
        return None
    # a factor of the unit is the same for both
    ratio = height / width if width else 1.0
    if not np.isfinite(ratio) or np.isclose(ratio, 1, rtol=1e-6):
        return size
    return size * float(np.sqrt(ratio)), size / float(np.sqrt(ratio))


def z_step_um(layer: Layer, axes: str) -> float | None:
    """Micrometres from plane to plane along Z; None without that axis or its unit."""
    axis = axes[: layer.ndim].find("Z")
    if axis < 0:
        return None
    points = np.array([layer.data_to_world(p) for p in unit_points(layer.ndim)])
    vector = linear_part(points)[:, axis]
    total = 0.0
    for step, unit in zip(vector.tolist(), layer.units, strict=True):
        if step:
            try:
                total += float((step * unit).to("micrometer").magnitude) ** 2
            except Exception:  # pint: pixels and the like are no lengths
                return None
    return float(np.sqrt(total)) if np.isfinite(total) and total > 0 else None


def voxel_sides_um(layer: Layer, axes: str) -> Sizes:
    """As `pixel_size_um`, and the step between planes before them where it is known."""
    sides, step = pixel_size_um(layer), z_step_um(layer, axes)
    if sides is None or step is None:
        return sides
    return (step, *(sides if isinstance(sides, tuple) else (sides, sides)))


def in_layer_units(viewer: Viewer, layer: Layer, world: NDArray[Any]) -> NDArray[Any]:
    """A world position (last axes) in the layer's units; napari converts lengths to draw."""
    world = np.array(world, dtype=float)[-layer.ndim :]
    units = getattr(viewer.dims, "units", None)
    if units is None or len(world) < layer.ndim:
        return world
    for i, (shown, own) in enumerate(zip(units[-layer.ndim :], layer.units, strict=True)):
        with suppress(Exception):
            world[i] *= float((1 * shown).to(own).magnitude)
    return world


def in_viewer_units(viewer: Viewer, layer: Layer, world: NDArray[Any]) -> NDArray[Any]:
    """The other way round: a position in the layer's world, as camera and sliders count."""
    world = np.array(world, dtype=float)
    one = in_layer_units(viewer, layer, np.ones(viewer.dims.ndim))
    return world / one if len(one) == len(world) else world


def shown_plane(viewer: Viewer, layer: Image, axes: str) -> tuple[int, ...] | None:
    """Stack index that the viewer shows, in the order of the stack axes; None for 2-D."""
    names = axes[: layer.ndim]
    stack = [i for i, name in enumerate(names) if name not in "YXC"]
    if not stack:
        return None
    position = layer.world_to_data(in_layer_units(viewer, layer, viewer.dims.point))
    shape = plane_shape(layer)
    return tuple(int(np.clip(round(float(position[i])), 0, shape[i] - 1)) for i in stack)


def shown_channel(viewer: Viewer, layer: Image, axes: str) -> int | None:
    """Channel that the viewer shows, where the layer has a channel axis of its own.

    None too where that axis lies along the screen, so that all are shown.
    """
    channel = -1 if "S" in axes else axes[: layer.ndim].find("C")
    if channel < 0 or channel + viewer.dims.ndim - layer.ndim in viewer.dims.displayed:
        return None
    position = layer.world_to_data(in_layer_units(viewer, layer, viewer.dims.point))
    return int(np.clip(round(float(position[channel])), 0, plane_shape(layer)[channel] - 1))


def canvas_size(viewer: Viewer) -> NDArray[Any]:
    """Height and width of the canvas, in pixels of the screen."""
    if hasattr(viewer, "canvas"):
        return np.array(viewer.canvas.viewbox_size(viewer.layers), dtype=float)
    # before napari 0.9, which have no public name for it
    return np.array(viewer._canvas_size, dtype=float)


def camera_of(viewer: Viewer) -> Any:
    """The camera, which napari 0.9 moved into the scene."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def visible_box(viewer: Viewer, layer: Layer) -> tuple[int, int, int, int] | None:
    """Part of the layer's planes that the camera shows: ``(y0, y1, x0, x1)`` in pixels.

    None in the 3-D display and where other axes than the last two are displayed.
    """
    shown = tuple(viewer.dims.displayed)
    ndim = viewer.dims.ndim
    if viewer.dims.ndisplay != 2 or sorted(shown) != [ndim - 2, ndim - 1]:
        return None
    camera = camera_of(viewer)
    half = canvas_size(viewer) / camera.zoom / 2
    corners = []
    for sign in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        point = np.array(viewer.dims.point, dtype=float)
        # the camera's axes follow the order of display, also when x and y are swapped
        for axis, center, side in zip(shown, camera.center[-2:], half * sign, strict=True):
            point[axis] = center + side
        corners.append(layer.world_to_data(in_layer_units(viewer, layer, point))[-2:])
    return box_around(np.array(corners), plane_shape(layer)[-2:])


def plane_shape(layer: Any) -> tuple[int, ...]:
    """Shape of the finest level without the colours of an RGB layer."""
    data = layer.data[0] if layer.multiscale else layer.data
    return tuple(data.shape[: layer.ndim])


def image_source(
    viewer: Viewer,
    layer: Image,
    axes: str | None,
    channels: tuple[int, ...] | None,
    as_displayed: bool = False,
) -> ImageSource:
    """The layer as it is now: array, axes, pixel size, plane and view that are shown.

    ``as_displayed``: its contrast limits shall be the levels; colours have none.
    """
    told = bool(axes) or told_axes(layer.ndim, tuple(layer.axis_labels)) != ""
    axes = axes or layer_axes(layer)
    z_step = z_step_um(layer, axes)
    low, high = (float(limit) for limit in layer.contrast_limits)
    return ImageSource(
        key=layer_key(layer),
        name=layer.name,
        data=layer.data,
        axes=axes,
        channels=channels,
        pixel_size_um=pixel_size_um(layer),
        plane=shown_plane(viewer, layer, axes),
        view=visible_box(viewer, layer),
        seen_channel=shown_channel(viewer, layer, axes),
        contrast=(low, high) if as_displayed and not layer.rgb and low < high else None,
        z_step_um=z_step,
        path=layer_path(layer),
        axes_guessed=not told and z_step is None,
    )


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


def box_around(
    corners: NDArray[np.floating], shape: Sequence[int]
) -> tuple[int, int, int, int]:
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
