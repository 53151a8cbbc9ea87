"""How the search for the object size looks at an image, and what that costs; no torch."""

from __future__ import annotations

import math

#: Side of a crop (network px) and how many are run at each scale.
CROP = 512
N_CROPS = 3
#: Planes of a stack among which they are chosen.
N_PLANES = 5
#: A scale within this factor of the one before ends the search.
AGREEMENT = 1.2
#: Cells so small that a larger scale were needed are not taken for cells.
LARGEST_SCALE = 5.0
#: Enlarged by more than this, cells must look like cells.
LARGE_SCALE = 2.5


def agree(one: float, other: float) -> bool:
    """Whether two scales are as good as the same."""
    return abs(math.log(one / other)) <= math.log(AGREEMENT)


def pixels_of_pass(spatial: tuple[int, int], scale: float, n_planes: int = 1) -> float:
    """Network pixels that one pass of the search runs, of an image (H, W) or a stack."""
    planes = min(n_planes, N_CROPS)
    return min(N_CROPS * CROP**2, planes * spatial[0] * spatial[1] * scale**2)


def pixels_of_search(spatial: tuple[int, int], scale: float, n_planes: int = 1) -> float:
    """Network pixels of a search that ends at a scale: at scale 1, there, and once more."""
    first = pixels_of_pass(spatial, 1.0, n_planes)
    if agree(scale, 1.0):
        return first
    return first + pixels_of_pass(spatial, scale, n_planes) * (1 if scale <= LARGE_SCALE else 2)
