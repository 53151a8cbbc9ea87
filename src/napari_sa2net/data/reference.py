"""Synthetic images with truth that never change, to compare models on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.synthetic import synthetic_nuclei

#: Of all pixels and labels, see `reference_digest`. Scores of different digests do not compare.
REFERENCE_SHA256 = "ba824240fa061b5452a460da7c311f263b703b4cdc389ec61b2e375f05efe8e3"

_SIDE = 256
# Diameter in px, and share of the field that cells would cover if none were left out.
_SIZES = {"small": 14.0, "medium": 24.0, "large": 44.0}
_DENSITIES = {"sparse": 0.15, "crowded": 0.6}


@dataclass(frozen=True)
class ReferenceImage:
    """An image of the reference set.

    Attributes
    ----------
    name : str
        As "fluo-small-sparse".
    kind : "fluo" or "stained"
    diameter : float
        Typical diameter of its cells, px.
    image : uint16 (H, W), or uint8 (H, W, 3) for "stained"
    labels : int32 (H, W)
        The truth.
    """

    name: str
    kind: Literal["fluo", "stained"]
    diameter: float
    image: NDArray[Any]
    labels: NDArray[np.int32]


def reference_images(*kinds: Literal["fluo", "stained"]) -> Iterator[ReferenceImage]:
    """Draw the reference set, image by image; always the same.

    Parameters
    ----------
    *kinds
        Unsaid: both. Each has three sizes of cells, sparse and crowded: six images.
    """
    seed = 20_000
    for kind in ("fluo", "stained"):
        for size, diameter in _SIZES.items():
            for density, share in _DENSITIES.items():
                seed += 1  # each image has its own, whatever is left out
                if kinds and kind not in kinds:
                    continue
                n = max(2, round(share * _SIDE**2 / (np.pi / 4 * diameter**2)))
                image, labels = synthetic_nuclei((_SIDE, _SIDE), n, diameter, seed, kind)
                name = f"{kind}-{size}-{density}"
                yield ReferenceImage(name, kind, diameter, image, labels)


def reference_digest() -> str:
    """SHA-256 of all images and labels, to be recorded with scores."""
    digest = hashlib.sha256()
    for one in reference_images():
        digest.update(one.name.encode())
        for array in (one.image, one.labels):
            digest.update(f"{array.shape}{array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
