"""Attention maps, outlines and changes as layers, and in which colours."""

from __future__ import annotations

import colorsys
from functools import cache
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import (
    Colormap,
    CyclicLabelColormap,
    DirectLabelColormap,
    ensure_colormap,
)
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_sa2net.app.session import CELL, PREVIEW, STAGE, Overlay, Patch
from napari_sa2net.engine.messages import AttentionMap
from napari_sa2net.interpret.maps import ADDED, REMOVED, STRIDES, palette
from napari_sa2net.widgets.napari_port.results import (
    METADATA_KEY,
    keep_selection,
    place_grid,
    set_transforms,
)

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

# --------------------------------------------------------------------------------------------
# Colours of maps, stages and changes; safe for the colour-blind.

#: of the four stages, wherever one is drawn: outlines, curves, ticks (Okabe and Ito)
STAGE_COLORS = dict(zip(STRIDES, ("#56b4e9", "#009e73", "#e69f00", "#e0529c"), strict=True))
#: of the cell that is looked at
OUTLINE = "#ffd166"


@cache
def map_colormap(name: str, bright: bool = False) -> Colormap:
    """Colours of a map by its name; one map of colours for each kind.

    Over a dark image maps are added as light, so what is black changes nothing: 0 of signed
    maps, the low end of ψ. Over a brighter one they lie as a film, and 0 of signed maps is
    white.
    """
    colors = palette(name, bright)
    if isinstance(colors, str):
        return ensure_colormap(colors)
    return Colormap(
        [(*rgb, 1.0) for rgb in colors],
        controls=np.linspace(0, 1, len(colors)),
        name="sa2net signed on bright" if bright else "sa2net signed",
    )


def change_colormap() -> Colormap:
    """−1 lost, +1 gained, 0 transparent."""
    return _CHANGE


def lines_colormap() -> Colormap:
    """1 a line, 0 transparent."""
    return _LINES


def outline_colormap(stride: int) -> DirectLabelColormap:
    """All objects of a stage in its colour."""
    return DirectLabelColormap(color_dict={None: STAGE_COLORS[stride], 0: (0.0, 0.0, 0.0, 0.0)})


def cell_colormap() -> DirectLabelColormap:
    """1 and 2: the lines around one cell, light and dark, to be seen on any image."""
    return DirectLabelColormap(
        color_dict={None: (0.0, 0.0, 0.0, 0.0), 1: OUTLINE, 2: "#202020"}
    )


#: Hues, and how strong and bright each is tried; black and white besides.
_HUES, _TONES = 24, ((1.0, 1.0), (0.5, 1.0), (1.0, 0.3))
#: Levels of red, green and blue that are told apart in a picture.
_SHADES = 8
#: A thin line is told from what is under it by its lightness more than by its hue.
_LIGHTNESS = 1.5
#: Colours are taken that stand out so well, as a share of the best; so different from each
#: other (CIELAB); and so many.
_GOOD, _APART, _FEWEST, _MOST = 0.6, 15.0, 6, 12


def readable_colors(picture: NDArray[np.floating]) -> NDArray[np.float32]:
    """Colours of lines that can be read over a picture, the best one first.

    Parameters
    ----------
    picture : float array (n, 3)
        Pixels of it, RGB from 0 to 1.

    Returns
    -------
    float32 (k, 4)
        RGBA. Each is far from nearly all of the picture's colours.
    """
    from skimage.color import rgb2lab

    tried = [colorsys.hsv_to_rgb(i / _HUES, s, v) for s, v in _TONES for i in range(_HUES)]
    rgb = np.array([*tried, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)])
    weights = np.array([_LIGHTNESS, 1.0, 1.0])
    # a colour counts once, however much of the picture has it: nuclei are a small part of it
    picture = np.unique(np.round(picture * _SHADES), axis=0) / _SHADES
    there, lines = (weights * rgb2lab(colors[None])[0] for colors in (picture, rgb))
    away = np.linalg.norm(lines[:, None] - there[None], axis=2)
    score = np.percentile(away, 10, axis=1)
    order = np.argsort(-score, kind="stable")
    good = max(_FEWEST, int(np.count_nonzero(score >= _GOOD * score.max())))
    left, chosen = order[:good].tolist(), [int(order[0])]
    while len(chosen) < min(_MOST, good):
        apart = np.linalg.norm(lines[left][:, None] - lines[chosen][None], axis=2).min(axis=1)
        if apart.max() < _APART and len(chosen) >= _FEWEST:
            break
        chosen.append(left[int(apart.argmax())])
    return np.array([(*rgb[i], 1.0) for i in chosen], np.float32)


def colored(
    values: NDArray[np.floating], name: str, low: float, high: float, bright: bool = False
) -> NDArray[np.uint8]:
    """Values (h, w) in the colours of a map, uint8 (h, w, 4)."""
    share = np.clip((values - low) / ((high - low) or 1), 0, 1)
    flat = map_colormap(name, bright).map(np.nan_to_num(share).ravel())
    return np.round(255 * flat).astype(np.uint8).reshape(*values.shape, 4)


_CHANGE = Colormap(
    [REMOVED, (0.0, 0.0, 0.0, 0.0), ADDED], controls=[0, 0.5, 1], name="sa2net change"
)
_LINES = Colormap([(0.0, 0.0, 0.0, 0.0), STAGE_COLORS[1]], name="sa2net lines")


# --------------------------------------------------------------------------------------------
# Layers of See why and Learn.

#: mean brightness of an image, 0 to 1, from which light that is added to it washes it out
BRIGHT = 0.25
#: opacity of a map over such an image: its colours are told apart, and the image shows through
FILM = 0.6
#: width of outlines, in pixels of the image, and of those of cells of at most so many px²
CONTOUR, THIN, SMALL = 2, 1, 400
#: pixels of a plane up to which cells are outlined; napari draws the outlines of larger ones
#: so slowly that sliders and brush would lag
OUTLINED = 1 << 20
SLOT_KEY = "why"
IMAGE_KEY = "image"


def contour_for(area: float) -> int:
    """Width of the outlines of cells of such an area (px²); a small one is not all outline."""
    return THIN if area <= SMALL else CONTOUR


def is_overlay(layer: Layer) -> bool:
    """A layer of ours that is no image to work on."""
    return SLOT_KEY in layer.metadata.get(METADATA_KEY, {})


def is_cells(layer: Layer) -> TypeGuard[Labels]:
    """A layer of labels that is no overlay."""
    return isinstance(layer, Labels) and not is_overlay(layer)


def is_bright(image: Image) -> bool:
    """The image as it is drawn is not mostly dark: stained tissue, bright field."""
    inner = _as_drawn(image)
    return bool(inner.size and inner.mean() > 255 * BRIGHT)


def _as_drawn(image: Image) -> NDArray[np.floating]:
    """The image as it is drawn, small (h, w, 3), from 0 to 255."""
    shown = np.asarray(image.thumbnail, dtype=float)
    # an image that is not square has black bars beside it
    finest = image.data[0] if image.multiscale else image.data
    sides = np.array(finest.shape[: image.ndim][-2:], dtype=float)
    bars = np.floor(shown.shape[:2] * (1 - sides / max(sides.max(), 1)) / 2).astype(int) + 1
    return shown[bars[0] : -bars[0], bars[1] : -bars[1], :3]


def cell_colors(image: Image) -> dict[str, Any]:
    """Colours of cells over an image: by what is under them where that is bright.

    napari's own, by chance, can all be told from black; over stained tissue many cannot.
    """
    shown = _as_drawn(image) / 255
    if not (shown.size and shown.mean() > BRIGHT):
        return {}
    pixels = shown.reshape(-1, 3)
    # as small as it is, it has lost the nuclei: they are stained about twice as deep
    colors = readable_colors(np.concatenate([pixels, pixels**2]))
    clear = np.zeros((1, 4), np.float32)
    return {"colormap": CyclicLabelColormap(colors=np.concatenate([clear, colors]))}


class MapLayers:
    """One layer for each image and slot, replaced in place.

    Of several maps over one image each is made weaker, as added light would be white and
    films would hide each other, until a person sets its opacity.

    Attributes
    ----------
    gone
        Image key and slot of a layer that a person deleted, by itself or with its image.
    """

    gone = Signal(str, str)

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._layers: dict[tuple[str, str], Layer] = {}
        self._opacities: dict[tuple[str, str], float] = {}
        self._alone: dict[tuple[str, str], float] = {}

    def show(self, image: Image, overlay: Overlay) -> None:
        """Add, replace or take away a layer; selection and camera stay as they are."""
        key = (overlay.source.key, overlay.slot)
        layer = self._find(*key)
        if overlay.content is None:
            if layer is not None:
                self._drop(key, layer)
                with keep_selection(self._viewer):
                    self._viewer.layers.remove(layer)
                self._balance()
            return
        arguments, transforms = _arguments(image, overlay)
        if layer is not None and layer.ndim != arguments["data"].ndim:
            # the image's axes were spelled anew
            self._drop(key, layer)
            self._viewer.layers.remove(layer)
            layer = None
        if layer is None:
            kind = Labels if overlay.slot in (STAGE, CELL) else Image
            metadata = {METADATA_KEY: {SLOT_KEY: overlay.slot, IMAGE_KEY: overlay.source.key}}
            layer = kind(**arguments, **transforms, metadata=metadata)
            if overlay.slot == STAGE:
                layer.contour = CONTOUR
            if overlay.slot == CELL:
                layer.editable = False
            with keep_selection(self._viewer):
                self._viewer.layers.insert(self._place(image, overlay), layer)
        else:
            _replace(layer, arguments, transforms)
        if self._layers.get(key) is not layer:
            self._layers[key] = layer
            layer.events.visible.connect(self._balance)
        if isinstance(overlay.content, AttentionMap):
            self._alone[key] = 1.0 if self._layers[key].blending == "additive" else FILM
        self._balance()

    def set_seen(self, slot: str, seen: bool) -> None:
        """Whether the layers of a slot are to be seen; they stay in the list."""
        for (_, known), layer in self._layers.items():
            if known == slot:
                layer.visible = seen

    def layer(self, image_key: str, slot: str) -> Layer | None:
        """The layer of a slot, if it is there."""
        layer = self._layers.get((image_key, slot))
        return layer if layer is not None and layer in self._viewer.layers else None

    def removed(self, layer: Layer) -> None:
        """A layer has left the viewer."""
        for key, known in list(self._layers.items()):
            if known is layer:
                self._drop(key, layer)
                self.gone.emit(*key)
                self._balance()

    def forget_image(self, image_key: str, replaced: bool = False) -> None:
        """The image is gone, or has other pixels: what was drawn of it means nothing now."""
        for key, layer in list(self._layers.items()):
            if key[0] == image_key:
                self._drop(key, layer)
                # a preview of the other pixels comes after the next round
                if not (replaced and key[1] == PREVIEW):
                    self.gone.emit(*key)
        # Soon, as napari may be about to delete some of them itself.
        QTimer.singleShot(0, lambda: self._sweep(image_key))

    def close(self) -> None:
        """Leave the layers to the user."""
        for key, layer in list(self._layers.items()):
            self._drop(key, layer)

    def _drop(self, key: tuple[str, str], layer: Layer) -> None:
        if self._layers.pop(key, None) is not None:
            layer.events.visible.disconnect(self._balance)
        self._opacities.pop(key, None)
        self._alone.pop(key, None)

    def _sweep(self, image_key: str) -> None:
        """Delete what still lies where an image was, or its former pixels."""
        layers = self._viewer.layers
        for layer in list(layers):
            ours = layer.metadata.get(METADATA_KEY, {})
            if SLOT_KEY in ours and ours.get(IMAGE_KEY) == image_key and not layer.locked:
                with keep_selection(self._viewer):
                    layers.remove(layer)

    def _balance(self, event: Any = None) -> None:
        """Share the light among the maps that are seen together; leave what a person set."""
        seen: dict[str, list[tuple[str, str]]] = {}
        for key, layer in self._layers.items():
            if layer.visible and key in self._alone:
                seen.setdefault(key[0], []).append(key)
        for keys in seen.values():
            for key in keys:
                layer, alone = self._layers[key], self._alone[key]
                if np.isclose(layer.opacity, self._opacities.get(key, alone)):
                    layer.opacity = self._opacities[key] = alone / len(keys)

    def _place(self, image: Image, overlay: Overlay) -> int:
        """On top of all; a map just below the outlines of its image, which it would hide."""
        layers = self._viewer.layers
        above = layers.index(image) + 1
        if isinstance(overlay.content, AttentionMap):
            for at, layer in enumerate(layers[above:], above):
                if isinstance(layer, Labels) and self._outlines(layer, overlay.source.key):
                    return at
        return len(layers)

    def _outlines(self, layer: Labels, image_key: str) -> bool:
        if is_overlay(layer):
            return bool(layer.metadata[METADATA_KEY].get(IMAGE_KEY) == image_key)
        return layer.contour > 0

    def _find(self, image_key: str, slot: str) -> Layer | None:
        """Ours, or one that was left when the page was closed."""
        layer = self.layer(image_key, slot)
        if layer is not None:
            return layer
        wanted = {SLOT_KEY: slot, IMAGE_KEY: image_key}
        for other in self._viewer.layers:
            if other.metadata.get(METADATA_KEY) == wanted:
                return other
        return None


def _arguments(image: Image, overlay: Overlay) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a layer is made of, and where it lies."""
    from napari_sa2net.app.see_why import layer_name  # not needed to open the dock

    content = overlay.content
    if isinstance(content, AttentionMap):
        values, corner, step = content.values, content.translate, content.scale
        low, high = content.low, content.high
        bright = is_bright(image)
        more: dict[str, Any] = {
            "name": layer_name(overlay.slot, image.name, channel=content.channel),
            "contrast_limits": (low, high if high > low else low + 1),
            "colormap": map_colormap(overlay.slot, bright),
            # as the network reads a coarse map between its pixels
            "interpolation2d": "linear",
            "blending": "translucent_no_depth" if bright else "additive",
            "opacity": FILM if bright else 1.0,
        }
    else:
        assert isinstance(content, Patch)
        values, step = content.values, (1.0, 1.0)
        corner = (content.box[0], content.box[2])
        more = {"name": layer_name(overlay.slot, image.name, stride=content.stride)}
        if overlay.slot == STAGE:
            more["colormap"] = outline_colormap(content.stride)
            more["opacity"] = 1.0
        elif overlay.slot == CELL:
            more["colormap"] = cell_colormap()
            more["opacity"] = 1.0
        else:
            lines = overlay.slot == PREVIEW
            more["contrast_limits"] = (0, 1) if lines else (-1, 1)
            more["colormap"] = lines_colormap() if lines else change_colormap()
            more["blending"] = "translucent_no_depth"
            more["interpolation2d"] = "nearest"
    transforms = place_grid(image, overlay.source, (*overlay.index, *corner), step)
    n_lead = len(transforms["scale"]) - 2
    more["data"] = np.asarray(values).reshape((1,) * n_lead + np.shape(values))
    return more, transforms


def _replace(layer: Layer, arguments: dict[str, Any], transforms: dict[str, Any]) -> None:
    """Other content in the same layer; how it is drawn stays as the person has set it."""
    layer.data = arguments["data"]
    layer.name = arguments["name"]
    if isinstance(layer, Labels):
        layer.colormap = arguments["colormap"]
    else:
        layer.contrast_limits_range = arguments["contrast_limits"]
        layer.contrast_limits = arguments["contrast_limits"]
    set_transforms(layer, transforms)
