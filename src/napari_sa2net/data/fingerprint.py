"""Telling whether an image is the same as last time, without reading all of a large one."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

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
    if isinstance(image, np.ndarray):
        flat = np.unravel_index(np.linspace(0, image.size - 1, _FEW).astype(int), image.shape)
        digest.update(np.ascontiguousarray(image[flat] if image.size else image).tobytes())
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
