"""A map's colours as a strip."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from qtpy.QtGui import QImage

from napari_sa2net.widgets.map_colors import colored
from napari_sa2net.widgets.see_why.map_tiles import to_image


@lru_cache(maxsize=32)
def color_strip(name: str, bright: bool = False) -> QImage:
    """All colours of the map ``name`` from left to right, 256 × 1 px."""
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    return to_image(colored(values, name, 0, 1, bright))
