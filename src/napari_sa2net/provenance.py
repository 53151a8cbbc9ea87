"""What a result records of its making, and how an image is known again."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from napari_sa2net.config import Settings

#: Version of the record's fields.
SCHEMA_VERSION = 1

#: Packages whose version may change a result.
PACKAGES = ("napari-sa2net", "torch", "numpy", "scipy", "scikit-image")


def versions() -> dict[str, str]:
    """Versions of this package, Python, and what a result depends on; nothing is imported."""
    return {"python": platform.python_version(), **_installed()}


@cache
def _installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def provenance(
    model: str,
    sha256: str,
    settings: Mapping[str, Settings | Mapping[str, Any]],
    pixel_size_um: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Record of how a result was made, ready for JSON.

    Parameters
    ----------
    model : str
        Name of the model.
    sha256 : str
        Of its file; empty for a network made in memory.
    settings : mapping of str to Settings or to a plain mapping
        All settings that were used, by group ("predict", "instances", ...).
    pixel_size_um : float, optional
        Of the image, where it is known.
    **more
        Further entries of plain values ("diameter", "device", ...).

    Returns
    -------
    dict with schema_version, model, settings, versions, pixel_size_um and the further
    entries; equal for equal inputs, so no time is in it.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {"name": model, "sha256": sha256},
        "settings": {
            group: value.model_dump(mode="json") if isinstance(value, Settings) else dict(value)
            for group, value in settings.items()
        },
        "versions": versions(),
        "pixel_size_um": pixel_size_um,
        **more,
    }


# --------------------------------------------------------------------------------------------
# Whether an image is the same as last time, without reading all of a large one.

#: Planes with more pixels are looked at in a grid of windows.
MAX_PIXELS = 4_000_000
#: Planes of a stack that are looked at.
MAX_PLANES = 5
_WINDOW = 128
_GRID = 5
_FEW = 4096


def image_fingerprint(image: Any) -> str:
    """Digest of an image's shape, type and pixels (of large ones: of a fixed sample).

    Parameters
    ----------
    image : array
        Anything with shape, dtype and slicing, lazy ones too; two axes or more. The same
        pixels give the same digest however they are held.

    Returns
    -------
    32 hexadecimal digits.
    """
    shape = tuple(int(n) for n in image.shape)
    dtype = np.dtype(image.dtype)
    digest = hashlib.blake2b(f"{shape} {dtype.kind}{dtype.itemsize}".encode(), digest_size=16)
    # Colours last are part of the plane, so that a window holds all of them.
    rest = 1 if len(shape) > 2 and shape[-1] <= 4 else 0
    rows, columns = shape[-2 - rest], shape[-1 - rest]
    stack = shape[: len(shape) - 2 - rest]
    n_planes = int(np.prod(stack, dtype=np.int64))
    picks = sorted({round(i * (n_planes - 1) / (MAX_PLANES - 1)) for i in range(MAX_PLANES)})
    for pick in picks if n_planes else []:
        index = np.unravel_index(pick, stack) if stack else ()
        for box in _windows(rows, columns):
            values = np.asarray(image[(*(int(i) for i in index), *box)])
            digest.update(np.ascontiguousarray(values, dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def quick_fingerprint(image: Any) -> str:
    """Digest of shape, type and a few pixels: at once, but some images are taken for another.

    Pixels of lazy arrays are not looked at.
    """
    digest = hashlib.blake2b(f"{tuple(image.shape)} {image.dtype}".encode(), digest_size=16)
    if isinstance(image, np.ndarray) and image.size:
        flat = np.unravel_index(np.linspace(0, image.size - 1, _FEW).astype(int), image.shape)
        digest.update(np.ascontiguousarray(image[flat]).tobytes())
    return digest.hexdigest()


def _windows(rows: int, columns: int) -> list[tuple[slice, slice]]:
    if rows * columns <= MAX_PIXELS:
        return [(slice(None), slice(None))]
    starts = [
        [round(i * (size - min(size, _WINDOW)) / (_GRID - 1)) for i in range(_GRID)]
        for size in (rows, columns)
    ]
    return [
        (slice(y, y + _WINDOW), slice(x, x + _WINDOW)) for y in starts[0] for x in starts[1]
    ]
