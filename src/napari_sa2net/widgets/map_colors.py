"""Colours of maps, stages and changes; safe for the colour-blind."""

from __future__ import annotations

import colorsys
from functools import cache

import numpy as np
from napari.utils.colormaps import Colormap, DirectLabelColormap, ensure_colormap
from numpy.typing import NDArray

from napari_sa2net.app.session import STRIDES
from napari_sa2net.interpret.maps import ADDED, REMOVED, palette

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
