"""Drawing a part of a Labels layer anew after its array has changed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, ref

import numpy as np
from napari.components import Dims

from napari_sa2net.widgets.napari_port.reading import in_layer_units

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

Box = tuple[int, int, int, int]


def repaint(viewer: Viewer, layer: Labels, index: tuple[int, ...], box: Box) -> None:
    """Send the pixels of a box to the screen, as napari's own brush does.

    napari has no public call for it; where its inside is not as expected, the whole layer is
    drawn anew, which is right but takes longer.

    Parameters
    ----------
    index : tuple of int
        Plane of the layer's data.
    box : (y0, y1, x0, x1)
        Half-open, inside the plane.
    """
    across = is_turned(viewer.dims.order)
    if index != shown_index(viewer, layer) and viewer.dims.ndisplay == 2 and not across:
        return
    draw_parts(viewer, layer)
    try:
        drawn = _repaint_part(layer, index, box)
    except (AttributeError, TypeError, ValueError, IndexError):
        drawn = False
    if not drawn:
        layer.refresh(extent=False)


#: What draws layers whose parts we send to the screen.
_ours: WeakSet[Any] = WeakSet()


def draw_parts(viewer: Viewer, layer: Labels) -> None:
    """Let parts of a plane that is larger than a texture be drawn by themselves.

    napari shows every n-th pixel of such a plane, and at each stroke, its own brush's too,
    draws all of it anew, which takes seconds.
    """
    window = getattr(viewer, "window", None)
    canvas = getattr(getattr(window, "_qt_viewer", None), "canvas", None)
    visual = getattr(canvas, "layer_to_visual", {}).get(layer)
    most = getattr(visual, "MAX_TEXTURE_SIZE_2D", None)
    if visual is None or most is None or layer.multiscale or visual in _ours:
        return
    if max(layer.data.shape[-2:]) <= most:
        return
    try:
        layer.events.labels_update.disconnect(visual._on_partial_labels_update)
    except (AttributeError, ValueError):  # another napari: as it does it
        return
    _ours.add(visual)
    layer.events.labels_update.connect(partial(_draw_part, ref(visual)))


def _draw_part(of: ref[Any], event: Any) -> None:
    visual = of()
    if visual is None:
        return
    try:
        drawn = _sent(visual, event)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        drawn = False  # another napari: as it does it
    if not drawn:
        visual._on_partial_labels_update(event)


def _sent(visual: Any, event: Any) -> bool:
    """Send what changed to the texture; False where it does not hold every n-th pixel."""
    layer, texture = visual.layer, getattr(visual.node, "_texture", None)
    view, shown = layer._slice.image.view, layer._slice_input.displayed
    steps = [int(layer._transforms["tile2data"].scale[axis]) for axis in shown]
    coarse = tuple(slice(None, None, step) for step in steps)
    if (
        not layer.loaded
        or len(steps) != 2
        or texture is None
        or texture.shape[:2] != view[coarse].shape
    ):
        return False
    first = [-(-start // step) for start, step in zip(event.offset, steps, strict=True)]
    part = view[
        tuple(
            slice(at * step, start + n, step)
            for at, step, start, n in zip(
                first, steps, event.offset, event.data.shape, strict=True
            )
        )
    ]
    if part.size:
        texture.scale_and_set_data(np.ascontiguousarray(part), copy=False, offset=first)
        visual.node.update()
    return True


def shown_index(viewer: Viewer, layer: Labels) -> tuple[int, ...]:
    """Plane of the layer's data that is shown, one number for each axis but the last two."""
    if layer.ndim <= 2:
        return ()
    point = layer.world_to_data(in_layer_units(viewer, layer, np.array(viewer.dims.point)))
    return tuple(
        int(np.clip(round(float(position)), 0, n - 1))
        for position, n in zip(point[:-2], layer.data.shape[:-2], strict=True)
    )


def is_turned(order: tuple[int, ...]) -> bool:
    """Whether the view with this order of axes shows something else than planes (y, x)."""
    return sorted(order[-2:]) != sorted(range(len(order)))[-2:]


def turned_words(dims: Dims) -> str:
    """How to turn the view back to the planes of a stack; empty where it shows them."""
    if not is_turned(dims.order):
        return ""
    trial = Dims(ndim=dims.ndim, range=dims.range, order=dims.order, rollable=dims.rollable)
    times = 0
    while is_turned(trial.order) and times < dims.ndim:
        trial.roll()
        times += 1
    if is_turned(trial.order):
        how = f"type viewer.dims.order = {tuple(range(dims.ndim))} into napari's console"
    else:
        often = ("", " twice")[times - 1] if times < 3 else f" {times} times"
        how = f"press Ctrl+E{often} (the roll button below the list of layers)"
    return (
        "The view shows the stack from another side, and you would correct a plane that you "
        f"do not see: to turn it back, {how}."
    )


def _repaint_part(layer: Labels, index: tuple[int, ...], box: Box) -> bool:
    shown = layer._slice_input
    if (
        tuple(shown.displayed) != (layer.ndim - 2, layer.ndim - 1)
        or not isinstance(layer.data, np.ndarray)
        or not layer._slicing_state.loaded
    ):
        return False
    height, width = layer.data.shape[-2:]
    grow = max(1, int(layer.contour)) if layer.contour else 0
    y0, y1, x0, x1 = box
    y0, y1 = max(0, y0 - grow), min(height, y1 + grow)
    x0, x1 = max(0, x0 - grow), min(width, x1 + grow)
    here = (slice(y0, y1), slice(x0, x1))
    raw, view = layer._slice.image.raw, layer._slice.image.view
    if raw.shape != (height, width) or view.shape[:2] != (height, width):
        return False
    if not np.shares_memory(raw, layer.data):
        raw[here] = layer.data[index][here]
    colors = layer._raw_to_displayed(raw, data_slice=here)
    view[here] = colors
    layer.events.labels_update(data=colors, offset=[y0, x0])
    return True
