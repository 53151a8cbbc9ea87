"""Colours of maps and changes, the same in the window and in figures.

Signed maps diverge from their middle: blue is positive, orange negative, which the
colour-blind tell apart. The middle is what changes nothing: black over a dark image, to which
maps are added as light; white over a brighter one, on which they lie as a film, and on paper.
"""

from __future__ import annotations

RGB = tuple[float, float, float]

#: Pixels gained and lost, and bars to either side of 0.
ADDED, REMOVED = "#3aa0ff", "#ff8c1a"
#: Low end, half, middle, half, high end.
SIGNED_ON_DARK: tuple[RGB, ...] = (
    (1.0, 0.62, 0.2),
    (0.85, 0.35, 0.0),
    (0.0, 0.0, 0.0),
    (0.0, 0.35, 0.85),
    (0.35, 0.75, 1.0),
)
SIGNED_ON_BRIGHT: tuple[RGB, ...] = (
    (0.65, 0.25, 0.0),
    (1.0, 0.6, 0.2),
    (1.0, 1.0, 1.0),
    (0.3, 0.6, 1.0),
    (0.0, 0.2, 0.65),
)
_NAMED = {"aua": "inferno", "global_query": "viridis", "local_gate": "cividis"}


def palette(name: str, bright: bool = False) -> str | tuple[RGB, ...]:
    """Colours of a map by its name.

    Parameters
    ----------
    name : str
        Such as aua_8 or scale_gate_1.
    bright : bool
        Over a bright image, or on paper.

    Returns
    -------
    Name of a colour map that both matplotlib and napari know; of signed maps colours at equal
    distances, from low to high.
    """
    if name.startswith("scale_gate"):
        return SIGNED_ON_BRIGHT if bright else SIGNED_ON_DARK
    return next(colours for kind, colours in _NAMED.items() if name.startswith(kind))
