"""What every reader gives: an array, its axes, and sizes in µm where they are known."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MICROMETRES = {
    "m": 1e6,
    "dm": 1e5,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "inch": 25400.0,
    "in": 25400.0,
}
_LONG_PREFIXES = {
    "nano": "n",
    "micro": "µ",
    "milli": "m",
    "centi": "c",
    "deci": "d",
    "pico": "p",
}


@dataclass(frozen=True)
class ImageFile:
    """An opened image.

    Attributes
    ----------
    array : array
        Read into memory, or lazy (zarr, memory map) where it is large.
    axes : str
        One letter per axis of `array`, as `plan_image` takes them.
    pixel_size_um : float or None
        Side of a pixel in µm; None where the file does not tell.
    name : str
        File name without its endings.
    channel_names : tuple of str
        Empty where the file does not tell.
    path : Path
    scale_um : dict of str to float
        Spacing in µm of the spatial axes that the file tells.
    notes : tuple of str
        What was left out, for the user to know.
    """

    array: Any
    axes: str
    pixel_size_um: float | None
    name: str
    channel_names: tuple[str, ...] = ()
    path: Path | None = None
    scale_um: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def image_name(path: Path) -> str:
    """File name without .tif, .ome.tif, .ome.zarr and the like."""
    return re.sub(r"\.ome$", "", path.stem, flags=re.IGNORECASE) or path.name


def pixel_size(scale: dict[str, float]) -> float | None:
    """One figure for both sides of a pixel, its area kept; None where one is unknown."""
    if "Y" not in scale or "X" not in scale:
        return None
    return scale["X"] if scale["X"] == scale["Y"] else math.sqrt(scale["Y"] * scale["X"])


def micrometres(unit: str | None) -> float | None:
    """How many µm a unit of length is; None for pixels, unknown or missing units."""
    if not unit:
        return None
    name = unit.strip().replace("\\u00B5", "µ").replace("μ", "µ").lower()
    match = re.fullmatch(r"(nano|micro|milli|centi|deci|pico)?met(?:er|re)s?", name)
    if match:
        name = _LONG_PREFIXES.get(match[1] or "", "") + "m"
    return _MICROMETRES.get(name, _MICROMETRES.get(name.removesuffix("s")))
