"""Where the tiles of a plane lie: pure geometry."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from napari_sa2net.errors import SettingsError

#: Tile origins and sizes are multiples of this, so that all poolings fall on one grid.
STRIDE = 16

Seams = tuple[tuple[int, ...], tuple[int, ...]]
"""First rows and first columns (image px) of the tiles but for the first."""


@dataclass(frozen=True)
class Window:
    """Rows y0…y1-1 and columns x0…x1-1."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.y1 - self.y0, self.x1 - self.x0


@dataclass(frozen=True)
class Tile:
    """What is read, and the part of it that is kept.

    `read` starts on the stride grid and ends on it or at the image's edge; `core` windows
    tile the image without gap or overlap.
    """

    core: Window
    read: Window


def plan_tiles(
    height: int, width: int, tile: int, halo: int, stride: int = STRIDE
) -> list[Tile]:
    """Cut a plane into tiles.

    Parameters
    ----------
    height, width : int, >= 1
    tile : int
        Largest side of a read window, a multiple of `stride`, > 2 * halo.
    halo : int
        Least distance, a multiple of `stride`, from a core to the edge of its read window
        (0 where that edge is the image's own).
    stride : int

    Returns
    -------
    list of Tile, row by row

    Raises
    ------
    SettingsError
        If tile or halo is off the stride grid, or the halo leaves no core.
    """
    if tile % stride or halo % stride or tile <= 2 * halo or halo < 0:
        raise SettingsError(
            f"A tile of {tile} px with a halo of {halo} px is not possible: both must be "
            f"multiples of {stride} and the tile larger than twice the halo. "
            f"Choose a tile of at least {2 * halo + stride} px."
        )
    rows = split_axis(height, tile, halo, stride)
    columns = split_axis(width, tile, halo, stride)
    return [
        Tile(Window(cy0, cy1, cx0, cx1), Window(ry0, ry1, rx0, rx1))
        for (cy0, cy1), (ry0, ry1) in rows
        for (cx0, cx1), (rx0, rx1) in columns
    ]


def inside(seams: Seams, corner: tuple[int, int], size: tuple[int, int]) -> Seams:
    """Seams that run through a part of an image, counted from its first pixel."""
    rows, columns = (
        tuple(line - first for line in lines if 0 < line - first < length)
        for lines, first, length in zip(seams, corner, size, strict=True)
    )
    return rows, columns


def split_axis(
    length: int, tile: int, halo: int, stride: int = STRIDE
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Cut one axis into (core, read) ranges; see `plan_tiles`."""
    padded = _up(length, stride)
    if padded <= tile:
        return [((0, length), (0, length))]
    # As few tiles as fit, then as small as covers: equal sizes, little overlap.
    n = -(-(padded - 2 * halo) // (tile - 2 * halo))
    size = _up(-(-(padded + (n - 1) * 2 * halo) // n), stride)
    starts = [i * (padded - size) // (n - 1) // stride * stride for i in range(n)]
    cuts = [0]
    for left, right in pairwise(starts):
        cuts.append((left + size + right) // 2 // stride * stride)
    cuts.append(length)
    return [
        ((cuts[i], cuts[i + 1]), (start, min(start + size, length)))
        for i, start in enumerate(starts)
    ]


def _up(n: int, stride: int) -> int:
    return -(-n // stride) * stride
