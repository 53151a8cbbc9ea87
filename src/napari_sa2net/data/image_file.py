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
_NO_LENGTH = ("", "pixel", "px", "dot", "reference frame", "none", "null", "unknown")
#: Sizes in those units above this (µm) come from such devices, not from microscopes.
MAX_DOT_UM = 50.0
#: Sizes in any unit outside of this (µm) are mistakes.
POSSIBLE_UM = (1e-5, 1e4)
#: Dots per inch that programs assume where nothing is known, also when they write in µm.
_ASSUMED_DPI = (72, 96, 150, 300)
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
    return _MICROMETRES.get(_unit_name(unit))


def unknown_unit(unit: str | None) -> tuple[str, ...]:
    """What to say of a unit that is neither a length nor a word for pixels."""
    name = _unit_name(unit)
    if name in _MICROMETRES or name in _NO_LENGTH:
        return ()
    return (f"no pixel size: the unit {unit!r} is not known",)


def counts_dots(unit: str | None) -> bool:
    """Whether screens and scanners count their dots in this unit."""
    return _unit_name(unit) in ("in", "inch", "cm")


def is_plausible(size_um: float, dots: bool = False) -> bool:
    """Whether a microscope may have recorded this size of a pixel (µm).

    Pictures of unknown size often carry that of a screen, such as 72 dots per inch. `dots`:
    it was recorded in a unit that such devices count in.
    """
    if not POSSIBLE_UM[0] <= size_um <= POSSIBLE_UM[1]:
        return False
    if dots:
        return size_um <= MAX_DOT_UM
    return not any(math.isclose(size_um, 25400 / dpi, rel_tol=2e-3) for dpi in _ASSUMED_DPI)


def plausible_scale(
    scale: dict[str, float], dots: bool = False
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The spacing by axis (µm) as far as it may be true, and what to say of what is not.

    Without the size of a pixel nothing is left: a doubtful unit is doubtful for all axes.
    """
    wrong = [scale[a] for a in "XY" if a in scale and not is_plausible(scale[a], dots)]
    if wrong:
        return {}, (f"no pixel size: the recorded {wrong[0]:.3g} µm is no microscope's",)
    return {a: size for a, size in scale.items() if is_plausible(size)}, ()


def _unit_name(unit: str | None) -> str:
    """A unit's short name, in the singular."""
    name = re.sub(r"\\u00b5|\\u03bc|&micro;|âµ|μ", "µ", (unit or "").strip().lower())
    name = re.sub(r"\s*(/|per)\s*(px|pixels?)$", "", name)
    match = re.fullmatch(r"(nano|micro|milli|centi|deci|pico)?met(?:er|re)s?", name)
    if match:
        return _LONG_PREFIXES.get(match[1] or "", "") + "m"
    aliases = {"µ": "µm", "inches": "inch", '"': "inch"}
    return aliases.get(name, name if name in _MICROMETRES else name.removesuffix("s"))
