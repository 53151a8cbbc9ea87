"""Images as the engine sees them: attached, opened from disk, or read through the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.normalize import Levels
from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.engine.protocol import ArrayRef, FileRef, RegionRef
from napari_sa2net.engine.shm import SharedArray
from napari_sa2net.errors import ImageError

ReadRegion = Callable[[str, tuple[int | slice, ...]], NDArray[Any]]
Box = tuple[int, int, int, int]


class OpenImage:
    """An image that stays readable until `close`.

    Attributes
    ----------
    array
        numpy, zarr or `RemoteArray`.
    n_bytes
        Memory that it holds.
    """

    def __init__(self, array: Any, shared: SharedArray | None = None) -> None:
        self.array = array
        self._shared = shared
        self.n_bytes = array.nbytes if shared is not None else 0

    def close(self) -> None:
        self.array = None
        if self._shared is not None:
            self._shared.close()


def open_image(ref: ArrayRef | FileRef | RegionRef, read: ReadRegion) -> OpenImage:
    """Open what the client sent.

    Raises
    ------
    EngineError
        The shared memory is gone.
    ImageError
        The zarr array cannot be opened.
    """
    if isinstance(ref, RegionRef):
        return OpenImage(RemoteArray(ref, read))
    if isinstance(ref, ArrayRef):
        shared = SharedArray.attach(ref)
        shared.array.flags.writeable = False
        return OpenImage(shared.array, shared)
    try:
        import zarr

        array = zarr.open_array(store=ref.store, path=ref.path, mode="r")
    except Exception as error:
        raise ImageError(
            f"The image at {Path(ref.store) / ref.path} could not be opened "
            f"({type(error).__name__}: {error}). Check that it is still there."
        ) from error
    return OpenImage(array)


class RemoteArray:
    """A lazy array of napari's process; every slice is a question to the client."""

    def __init__(self, ref: RegionRef, read: ReadRegion) -> None:
        self.shape = ref.shape
        self.dtype = np.dtype(ref.dtype)
        self.ndim = len(ref.shape)
        if ref.chunks is not None:
            # Only where they are known: who samples by chunks looks for the attribute.
            self.chunks = ref.chunks
        self._source = ref.source
        self._read = read

    def __getitem__(self, key: Any) -> NDArray[Any]:
        parts = key if isinstance(key, tuple) else (key,)
        plain = tuple(part if isinstance(part, slice) else int(part) for part in parts)
        return self._read(self._source, plain)


class WindowPlan(ImagePlan):
    """Part of a planned image, normalised as the whole of it.

    Parameters
    ----------
    plan
        The whole image.
    index
        One plane of its stack, which then has length 1 everywhere; None for all planes.
    box
        ``(y0, y1, x0, x1)`` inside the image.
    """

    def __init__(self, plan: ImagePlan, index: tuple[int, ...] | None, box: Box) -> None:
        _ = plan.measured
        self.__dict__.update(plan.__dict__)
        self._whole = plan
        self._first = index or (0,) * len(plan.stack_shape)
        self._y, self._x = box[0], box[2]
        sizes = dict(zip(plan.axes, plan.shape, strict=True))
        sizes |= {"Y": box[1] - box[0], "X": box[3] - box[2]}
        if index is not None:
            sizes |= dict.fromkeys(plan.stack_axes, 1)
        self.shape = tuple(sizes[name] for name in plan.axes)
        self.stack_shape = tuple(sizes[name] for name in plan.stack_axes)
        self.spatial = (sizes["Y"], sizes["X"])
        self.is_empty = 0 in self.shape

    def measured_of(self, index: Sequence[int]) -> Levels:
        """As of `ImagePlan`, counted from the window's first plane."""
        return self._whole.measured_of([a + b for a, b in zip(index, self._first, strict=True)])

    @property
    def origin(self) -> dict[str, int]:
        """Index of the first pixel in the whole image, by axis."""
        stack = dict(zip(self.stack_axes, self._first, strict=True))
        return {**stack, "Y": self._y, "X": self._x}

    def read_raw(
        self, index: Sequence[int], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[Any]:
        """As of `ImagePlan`, counted from the window's first pixel."""
        where = tuple(a + b for a, b in zip(index, self._first, strict=True))
        y, x = self._y, self._x
        return self._whole.read_raw(where, y0 + y, y1 + y, x0 + x, x1 + x)


def resolve_index(plan: ImagePlan, index: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The plane, checked.

    Raises
    ------
    ImageError
        The stack has no such plane.
    """
    if index is None or not plan.stack_shape:
        return None
    if len(index) != len(plan.stack_shape) or not all(
        0 <= i < n for i, n in zip(index, plan.stack_shape, strict=True)
    ):
        raise ImageError(
            f"There is no plane {index}: the stack has shape {plan.stack_shape}. Choose a "
            "plane of it, or all planes."
        )
    return index


def resolve_box(plan: ImagePlan, box: Box | None) -> Box:
    """The box clipped to the image; the whole plane for None.

    Raises
    ------
    ImageError
        Nothing of the image is in it.
    """
    height, width = plan.spatial
    if box is None:
        return 0, height, 0, width
    y0, y1 = max(0, box[0]), min(height, box[1])
    x0, x1 = max(0, box[2]), min(width, box[3])
    if y1 <= y0 or x1 <= x0:
        raise ImageError(
            "The view shows no part of this image. Move the camera over it, or choose the "
            "whole image."
        )
    return y0, y1, x0, x1
