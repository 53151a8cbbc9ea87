"""How an image goes into a network: axes, channels, levels, and any window on request."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import product
from os import PathLike
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InputConfig, LevelsOf
from napari_sa2net.data.axes import (
    Axes,
    axis_noun,
    channel_mapping,
    choose_channels,
    mix_channels,
    resolve_axes,
)
from napari_sa2net.data.levels import (
    BROWN_FROM,
    Levels,
    Window,
    apply_levels,
    brown_share,
    contrast_of,
    fixed_levels,
    is_flat,
    measure_levels,
    read_sample,
    remove_dab,
    sample_windows,
    spread_indices,
    unit_levels,
    white_of,
    with_contrast,
)
from napari_sa2net.errors import ChannelError, ImageError, SettingsError
from napari_sa2net.words import plural

Box = tuple[int, int, int, int]

# --------------------------------------------------------------------------------------------
# Rectangles of pixels out of an array of any kind, loaded once where chunks are large.

#: Chunks of more pixels are kept between reads: every tile inside would load them again.
LARGE_CHUNK = 1024**2
#: But no more than this many bytes of them.
MAX_KEPT = 256 * 2**20


class BlockReader:
    """Reads planes of an array whose axes have names.

    Parameters
    ----------
    image : array
        Anything with shape, dtype and slicing by whole numbers and slices.
    axes : str
        One letter per axis, among them Y and X.
    """

    def __init__(self, image: Any, axes: str) -> None:
        self.image = image
        self.axes = axes
        self._chunks = chunk_sizes(image)
        self._keep = (
            self._chunks is not None
            and LARGE_CHUNK < math.prod(self._chunks) <= MAX_KEPT // image.dtype.itemsize
        )
        self._kept: OrderedDict[tuple[int, ...], NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A copy, also one in another process, loads chunks anew.
        return {**self.__dict__, "_kept": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    @property
    def chunk(self) -> tuple[int, int] | None:
        """Chunk size along Y and X, where the array tells it."""
        if self._chunks is None:
            return None
        return self._chunks[self.axes.index("Y")], self._chunks[self.axes.index("X")]

    def read_block(self, at: dict[str, int | slice]) -> NDArray[Any]:
        """Rows, columns and channels of one plane, (channels, rows, columns).

        Parameters
        ----------
        at : dict of str to int or slice
            For every axis: a number on stack axes, a slice with both ends on Y, X and C.

        Raises
        ------
        ImageError
            Whatever the array raised.
        """
        key = tuple(at[name] for name in self.axes)
        kept = [name for name in self.axes if name in "YXC"]
        block = self._from_chunks(key) if self._keep else self._load(key)
        if block.ndim != len(kept):
            raise ImageError(
                f"Slicing this {type(self.image).__name__} gave {block.ndim} axes instead of "
                f"{len(kept)}; convert it with numpy.asarray first."
            )
        if "C" not in kept:
            return block.transpose(kept.index("Y"), kept.index("X"))[np.newaxis]
        return block.transpose([kept.index(name) for name in "CYX"])

    def _load(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        try:
            return np.asarray(self.image[key])
        except (MemoryError, ImageError):
            raise
        except Exception as error:  # any reader's own: file gone, chunk damaged, ...
            raise ImageError(f"The pixels could not be loaded: {error}") from error

    def _from_chunks(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        """Put together from whole chunks, which any read loads and which are kept."""
        assert self._chunks is not None
        wanted = [k if isinstance(k, slice) else slice(k, k + 1) for k in key]
        out = np.empty([w.stop - w.start for w in wanted], self.image.dtype)
        numbers = (
            range(w.start // size, -(-w.stop // size))
            for w, size in zip(wanted, self._chunks, strict=True)
        )
        for number in product(*numbers):
            starts = [i * size for i, size in zip(number, self._chunks, strict=True)]
            chunk = self._chunk_at(tuple(starts))
            ends = [start + n for start, n in zip(starts, chunk.shape, strict=True)]
            source, target = [], []
            for w, start, end in zip(wanted, starts, ends, strict=True):
                low, high = max(w.start, start), min(w.stop, end)
                source.append(slice(low - start, high - start))
                target.append(slice(low - w.start, high - w.start))
            out[tuple(target)] = chunk[tuple(source)]
        return out[tuple(slice(None) if isinstance(k, slice) else 0 for k in key)]

    def _chunk_at(self, starts: tuple[int, ...]) -> NDArray[Any]:
        assert self._chunks is not None
        with self._lock:
            chunk = self._kept.pop(starts, None)
        if chunk is None:
            ends = [
                min(start + size, n)
                for start, size, n in zip(starts, self._chunks, self.image.shape, strict=True)
            ]
            chunk = self._load(tuple(slice(a, b) for a, b in zip(starts, ends, strict=True)))
        with self._lock:
            self._kept[starts] = chunk  # the last used is the last to go
            while sum(kept.nbytes for kept in self._kept.values()) > MAX_KEPT:
                self._kept.popitem(last=False)
        return chunk


def chunk_sizes(image: Any) -> tuple[int, ...] | None:
    """Largest chunk along every axis of a lazy array, where it tells it."""
    chunks = getattr(image, "chunks", None)
    if isinstance(image, np.ndarray) or not isinstance(chunks, tuple):
        return None
    if len(chunks) != len(image.shape):
        return None
    sizes = (max(c, default=1) if isinstance(c, tuple) else int(c) for c in chunks)
    return tuple(max(1, size) for size in sizes)


# --------------------------------------------------------------------------------------------
# The plan of an image.

#: Ways to normalise for which the image is measured.
MEASURED = ("percentile", "range")
#: What the channels of a colour image are called.
COLOURS = ("red", "green", "blue")
#: Time points or planes that are looked at to know what is typical of all.
FEW_PLANES = 9
#: Share of the typical contrast that a time point or plane has at least.
LEAST_CONTRAST = 0.25
#: A plane of a stack that is no wider is more likely a misread axis ...
FEW_PIXELS = 4
#: Of the pixels that are sampled so many are looked at for brown: one of these.
EVERY = 4
#: So few planes of a stack of which nobody has said that it is one may be channels.
FEW_CHANNELS = 4
#: ... and so is one up to this width that is this many times longer, as the stack is.
SOME_PIXELS, LONGER = 32, 4


def plan_image(
    image: Any,
    axes: str | None = None,
    channels: int | Iterable[int] | None = None,
    normalize: bool = True,
    model_input: InputConfig | None = None,
    in_channels: int = 3,
    measure: bool = True,
    levels: LevelsOf = "auto",
    contrast: tuple[float, float] | None = None,
) -> ImagePlan:
    """Decide how `image` goes into a network.

    Parameters
    ----------
    image : array
        numpy, dask or zarr array, anything with shape, dtype and slicing, or a list of
        multiscale levels, of which the first, full-size one is used. Any real dtype.
    axes : str, optional
        One letter per axis, see `resolve_axes`.
    channels : int or iterable of int, optional
        Channels to use; unsaid: the colours of an RGB(A) image, otherwise the first.
    normalize : bool
        False: values go into the network as they are.
    model_input : InputConfig, optional
        What the model expects.
    in_channels : int
        Channels that the network takes.
    measure : bool
        Look at the pixel values now. Otherwise at the first use of `levels`, `constant` or
        `read`, so that a description costs nothing.
    levels, contrast
        See `PredictConfig`.

    Raises
    ------
    ImageError
        Not an image of real numbers, or no finite value in it.
    AxesError, ChannelError
        `axes` or `channels` do not fit the image or the model.
    SettingsError
        Contrast limits without normalisation.
    """
    if contrast is not None and not normalize:
        raise SettingsError(
            "Contrast limits adjust the brightness, and not adjusting it was asked for too. "
            "Leave out one of them."
        )
    array = _as_array(image)
    plan = ImagePlan(
        array,
        resolve_axes(tuple(array.shape), axes),
        channels,
        normalize,
        model_input or InputConfig(),
        in_channels,
        levels,
        contrast,
    )
    if measure:
        _ = plan.measured
    return plan


def plan_as_input(
    image: Any,
    axes: str | None,
    channels: int | Iterable[int] | None,
    normalize: bool,
    model_input: InputConfig,
    in_channels: int,
    measure: bool = True,
    levels: LevelsOf = "auto",
    contrast: tuple[float, float] | None = None,
) -> ImagePlan:
    """`plan_image` for a network of that input, whoever reads: to segment or to learn."""
    if not normalize:
        # As it is: neither channel order nor a fixed size is imposed on raw values.
        model_input = model_input.model_copy(update={"channel_order": "any", "resize_to": None})
    if channels is None and (not normalize or in_channels > 3):
        # All channels, where they are just as many as the network takes.
        shape_only = plan_image(image, axes, in_channels=1, measure=False)
        channels = range(in_channels) if shape_only.n_channels == in_channels else None
    return plan_image(
        image, axes, channels, normalize, model_input, in_channels, measure, levels, contrast
    )


class ImagePlan(BlockReader):
    """An image as a network sees it; made by `plan_image`, and of a part of it by `part`.

    Attributes
    ----------
    image : array
        The array, full resolution.
    axes : str
        One letter per axis of `image`: Y, X, C for channels, others are a stack.
    shape, dtype
        Of `image`.
    is_lazy : bool
        Values come from disk or a task graph rather than from memory.
    stack_axes, stack_shape : str, tuple of int
        The axes that are walked through plane by plane, in the image's order.
    spatial : (int, int)
        Height and width.
    channel_axis : int or None
    n_channels : int
        Channels of the image, 1 without a channel axis.
    channels : tuple of int
        Those that are used.
    is_rgb : bool
        The channel axis holds colours.
    is_empty : bool
        There is no pixel.
    contrast : (low, high) or None
        Values that were chosen to become 0 and 1.
    removes_dab : bool
        The network sees it without the brown of immunohistochemistry.
    levels_along : str
        Stack axes along which every index has levels of its own; empty: all have the same.
    origin : dict of str to int
        Index of its first pixel in the whole image, by axis but C.
    boxed : bool
        It is a box of each plane, not all of it.
    """

    def __init__(
        self,
        array: Any,
        axes: Axes,
        channels: int | Iterable[int] | None,
        normalize: bool,
        model_input: InputConfig,
        in_channels: int,
        levels: LevelsOf = "auto",
        contrast: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(array, axes.names)
        self.removes_dab = False
        self._without_dab: ImagePlan | None = None
        self.shape: tuple[int, ...] = tuple(int(n) for n in array.shape)
        self.dtype = np.dtype(array.dtype)
        self.is_rgb = axes.rgb
        self.is_lazy = not isinstance(array, np.ndarray) or isinstance(array, np.memmap)
        self.stack_axes = axes.stack
        self.stack_shape = tuple(self.shape[self.axes.index(name)] for name in axes.stack)
        self.spatial = (self.shape[axes.y], self.shape[axes.x])
        self.channel_axis = axes.channel
        self.n_channels = 1 if axes.channel is None else self.shape[axes.channel]
        self.channels = self._chosen(channels)
        self.is_empty = 0 in self.shape
        self.normalize = bool(normalize)
        self.model_input = model_input
        self.in_channels = in_channels
        self.contrast = contrast
        self.levels_along = self._axes_of_levels(levels)
        self._levels: dict[tuple[int, ...], Levels] = {}
        self._whole: ImagePlan | None = None
        self.origin = dict.fromkeys(self.stack_axes + "YX", 0)
        self.boxed = False
        self._mapping = (
            channel_mapping(len(self.channels), in_channels, model_input.channel_order)
            if self.channels
            else np.zeros((in_channels, 0), np.float32)
        )

    def _chosen(self, channels: int | Iterable[int] | None) -> tuple[int, ...]:
        try:
            return choose_channels(channels, self.n_channels, self.is_rgb)
        except ChannelError as error:
            raise self.no_such_channel(error) from error

    def no_such_channel(self, error: ChannelError) -> ChannelError:
        """The error, with how the image was read where its planes may be channels."""
        if self.channel_axis is not None or not self.stack_axes:
            return error
        counts = " × ".join(map(str, self.stack_shape))
        noun = axis_noun(self.stack_axes, math.prod(self.stack_shape))
        at = self.axes.index(self.stack_axes[-1])
        axes = self.axes[:at] + "C" + self.axes[at + 1 :]
        return ChannelError(
            f"{error} It was read as {counts} {noun} ({self.axes}); if those are channels, "
            f"give axes {axes} (in the shell --axes {axes})."
        )

    # --- shape ---------------------------------------------------------------------------

    def part(self, index: Sequence[int] | None = None, box: Box | None = None) -> ImagePlan:
        """A part of the image, with the levels of the whole; itself where all is wanted.

        Parameters
        ----------
        index : sequence of int, optional
            One plane of the stack, which then has length 1 everywhere; else all planes.
        box : (y0, y1, x0, x1), optional
            Of each plane, clipped to the image.

        Raises
        ------
        ImageError
            There is no such plane, or nothing of the image is in the box.
        """
        assert self._whole is None
        sizes = dict(zip(self.axes, self.shape, strict=True))
        origin = dict(self.origin)
        if index is not None and self.stack_shape:
            self._check_index(index, ". Choose a plane of it, or all planes.")
            origin |= zip(self.stack_axes, index, strict=True)
            sizes |= dict.fromkeys(self.stack_axes, 1)
        if box is not None:
            y0, x0 = max(0, box[0]), max(0, box[2])
            y1, x1 = min(self.spatial[0], box[1]), min(self.spatial[1], box[3])
            if y1 <= y0 or x1 <= x0:
                raise ImageError(
                    "The view shows no part of this image. Move the camera over it, or choose "
                    "the whole image."
                )
            origin |= {"Y": y0, "X": x0}
            sizes |= {"Y": y1 - y0, "X": x1 - x0}
        elif sizes == dict(zip(self.axes, self.shape, strict=True)):
            return self
        _ = self.measured
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, _whole=self, origin=origin, boxed=box is not None)
        made._without_dab = None
        made.shape = tuple(sizes[name] for name in self.axes)
        made.stack_shape = tuple(sizes[name] for name in self.stack_axes)
        made.spatial = (sizes["Y"], sizes["X"])
        made.is_empty = 0 in made.shape
        return made

    def without_dab(self) -> ImagePlan:
        """The same, seen without the brown of immunohistochemistry.

        Raises
        ------
        SettingsError
            The image has no colours, or none in which stains can be told apart.
        """
        if not self.tells_stains:
            raise SettingsError(
                "The brown stain can be removed from images in colour whose red, green and "
                "blue are all used, and this is none. Set it to automatic (in the shell leave "
                "out --dab)."
            )
        if self.removes_dab:
            return self
        if self._without_dab is not None:
            return self._without_dab
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, removes_dab=True, _levels={})
        for known in ("measured", "_typical_contrast"):
            made.__dict__.pop(known, None)
        if self._whole is not None:
            made._whole = self._whole.without_dab()
            made.measured = made._whole.measured
        self._without_dab = made  # its levels are measured once, whoever asks
        return made

    @property
    def tells_stains(self) -> bool:
        """Whether it has colours whose stains can be told apart."""
        return self.is_rgb and self.channels == (0, 1, 2) and self.dtype.kind in "iuf"

    @cached_property
    def has_dab(self) -> bool:
        """Whether a sample of the whole image has the brown of immunohistochemistry."""
        if self._whole is not None:
            return self._whole.has_dab
        return self.tells_stains and not self.is_empty and self._stains[1] >= BROWN_FROM

    @cached_property
    def _stains(self) -> tuple[float, float]:
        """Value of white, and share of brown; of the whole image."""
        if self._whole is not None:
            return self._whole._stains
        # mostly `_measure` has; levels that were given were not measured
        return _stains_of(self._sample(list(self.indices()), 1)[0])

    @property
    def whole(self) -> ImagePlan:
        """Of the image that this is a part of; itself where it is none."""
        # None within: a plan that holds itself would keep its image until garbage is collected
        return self if self._whole is None else self._whole

    @property
    def first(self) -> tuple[int, ...]:
        """Index of its first plane in the whole image."""
        return tuple(self.origin[name] for name in self.stack_axes)

    @property
    def box(self) -> Box:
        """``(y0, y1, x0, x1)`` in pixels of the whole image."""
        y, x = self.origin["Y"], self.origin["X"]
        return y, y + self.spatial[0], x, x + self.spatial[1]

    def in_whole(self, index: Sequence[int]) -> tuple[int, ...]:
        """Index in the whole image of a plane of this part."""
        return tuple(a + b for a, b in zip(index, self.first, strict=True))

    def _check_index(self, index: Sequence[int], advice: str = ".") -> None:
        if len(index) != len(self.stack_shape) or not all(
            0 <= i < n for i, n in zip(index, self.stack_shape, strict=True)
        ):
            raise ImageError(
                f"There is no plane {tuple(index)}: the stack has shape "
                f"{self.stack_shape}{advice}"
            )

    @property
    def label_axes(self) -> str:
        """Axes of a mask of this image: its own, in their order, without channels."""
        return self.axes.replace("C", "")

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of a mask of this image."""
        return tuple(self.shape[self.axes.index(name)] for name in self.label_axes)

    @property
    def n_planes(self) -> int:
        """Number of planes, 1 for a single image."""
        return math.prod(self.stack_shape)

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Index of every plane along the stack axes; one empty index for a single image."""
        return product(*(range(n) for n in self.stack_shape))

    def describe(self, pixel_size_um: float | tuple[float, float] | None = None) -> str:
        """One line for people: size, channels used, pixel size where known.

        Parameters
        ----------
        pixel_size_um : float or (float, float), optional
            Pixel size in µm, or along Y and X.
        """
        height, width = self.spatial
        size = f"{height} × {width}"
        if self.stack_axes:
            counts = " × ".join(
                f"{n} {axis_noun(axis, n)} ({axis})"
                for axis, n in zip(self.stack_axes, self.stack_shape, strict=True)
            )
            size = f"{counts} of {size}"
        parts = [size, self.channel_words()]
        if pixel_size_um is not None:
            y, x = np.broadcast_to(np.asarray(pixel_size_um, float), 2)
            same = math.isclose(y, x, rel_tol=1e-3)
            parts.append(f"{y:.3g} µm/px" if same else f"{y:.3g} × {x:.3g} µm/px")
        return " · ".join(parts)

    def notice(self, say: str = "say axes='{}'", guessed: bool = False) -> str:
        """What is odd about the axes and may be a misunderstanding; empty where nothing is.

        ``say`` tells how axes are spelled out where the notice is read, and ``guessed`` that
        neither a person nor a file has said what the axes are.
        """
        likely = self.likely_channels(guessed)
        if likely is None:
            return ""
        height, width = self.spatial
        place = len(self.axes) - likely
        # The axes before it are one less of the stack, and the plane.
        which, example = {
            1: ("last axis", self.axes[1:] + "C"),
            2: ("axis before the last", self.axes[1:-1] + "CX"),
            3: ("first axis", "C" + self.axes[1:]),
        }[place]
        return (
            f"Read as {self.n_planes} {axis_noun(self.stack_axes, 2)} of {height} × {width} "
            f"pixels; if the {which} holds channels, {say.format(example)}."
        )

    def stack_words(self, purpose: str) -> str:
        """What to do about a stack where planes are wanted; follows the name of its file."""
        counts = " × ".join(map(str, self.stack_shape))
        likely = "" if "C" in self.axes else ". If its axes hold channels, give --axes CYX"
        return (
            f"is a stack of {counts} planes ({self.stack_axes}). Save its planes as single 2-D "
            f"images to {purpose}{likely}."
        )

    def likely_channels(self, guessed: bool = False) -> int | None:
        """The axis that is so short that it rather holds channels, if any is.

        One of the plane; or, where the axes were ``guessed``, the only one before it.
        """
        plain = self.axes.endswith("YX")
        if not plain or not self.stack_shape or self.channel_axis is not None or self.is_empty:
            return None
        short, long = sorted(self.spatial)
        few = short <= FEW_PIXELS < long
        some = short <= SOME_PIXELS and LONGER * short <= min(long, self.stack_shape[-1])
        if not few and not some:
            lead = self.stack_shape
            return 0 if guessed and len(lead) == 1 and 2 <= lead[0] <= FEW_CHANNELS else None
        return len(self.axes) - (1 if self.spatial[1] == short else 2)

    def channel_words(self) -> str:
        """``channel 0 of 3``, as people, the page and the shell count them: from 0."""
        if self.n_channels == 1:
            return "1 channel"
        if self.is_rgb and self.channels == (0, 1, 2):
            return "RGB"
        if self.is_rgb and max(self.channels, default=3) < len(COLOURS):
            return f"{', '.join(COLOURS[c] for c in self.channels)} of RGB"
        noun = plural(len(self.channels), "channel")
        return f"{noun} {', '.join(map(str, self.channels)) or 'none'} of {self.n_channels}"

    def settings(self, measured: bool = True, **more: Any) -> dict[str, Any]:
        """How the image goes in, for a result's provenance: read so again, it is the same.

        ``measured``: with its levels; ``more`` entries are those of the caller.
        """
        image = {
            "axes": self.axes,
            "shape": list(self.shape),
            "channels": list(self.channels),
            "normalize": self.normalize,
            **more,
        }
        if measured and self.levels_along:
            # Of the planes that were looked at so far.
            image["levels_along"] = self.levels_along
            image["levels"] = {
                "-".join(map(str, key)): one.as_array().tolist()
                for key, one in self._levels.items()
            }
        elif measured:
            image["levels"] = self.levels.tolist()
        return {"image": image, "input": self.model_input.model_dump(mode="json")}

    # --- values --------------------------------------------------------------------------

    @cached_property
    def measured(self) -> Levels:
        """Levels over the whole image, its stack included; a sample of huge or lazy ones."""
        if self.is_empty:
            return unit_levels(len(self.channels))
        measured = self._measure(list(self.indices()))
        return fixed_levels(measured, *self.contrast) if self.contrast else measured

    def measured_of(self, index: Sequence[int]) -> Levels:
        """Levels of a plane: of the whole image, or of the time point or plane alone."""
        if self._whole is not None:
            return self._whole.measured_of(self.in_whole(index))
        if not self.levels_along or self.is_empty or self.measured.constant:
            return self.measured
        at = dict(zip(self.stack_axes, index, strict=True))
        key = tuple(at[name] for name in self.levels_along)
        if key not in self._levels:
            try:
                alone = self._measure_at(key)
            except ImageError:  # no finite value there
                alone = self.measured
            self._levels[key] = with_contrast(alone, LEAST_CONTRAST * self._typical_contrast)
        return self._levels[key]

    @property
    def levels(self) -> NDArray[np.float64]:
        """Values that become 0 and 1, float64 (chosen channels, 2), of the whole image."""
        return self.measured.as_array()

    @property
    def constant(self) -> bool:
        """Every pixel has the same value: there is nothing to segment."""
        return self.measured.constant

    def read(
        self, index: Sequence[int], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[np.float32]:
        """A window of one plane, as the network takes it.

        Only the window is loaded, and a pixel's value does not depend on the window.

        Parameters
        ----------
        index : sequence of int
            The plane, one number per stack axis.
        y0, y1, x0, x1 : int
            Rows y0 … y1 − 1 and columns x0 … x1 − 1, inside the image.

        Returns
        -------
        float32 (in_channels, y1 − y0, x1 − x0), C-contiguous and finite

        Raises
        ------
        ImageError
            The window lies outside the image, or the pixels could not be loaded.
        """
        values = self.read_raw(index, y0, y1, x0, x1)
        if self.removes_dab and values.size:
            values = remove_dab(values, self._stains[0])
        return mix_channels(apply_levels(values, self.measured_of(index)), self._mapping)

    def read_raw(
        self, index: Sequence[int], y0: int, y1: int, x0: int, x1: int
    ) -> NDArray[Any]:
        """The chosen channels of a window in the image's dtype, (chosen, y1 − y0, x1 − x0)."""
        index = tuple(index)
        height, width = self.spatial
        if not (0 <= y0 <= y1 <= height and 0 <= x0 <= x1 <= width):
            raise ImageError(
                f"Rows {y0}…{y1}, columns {x0}…{x1} are not inside the image of "
                f"{height} × {width} pixels."
            )
        self._check_index(index)
        if 0 in (y1 - y0, x1 - x0, len(self.channels)):
            return np.zeros((len(self.channels), y1 - y0, x1 - x0), self.dtype)
        first, last = min(self.channels), max(self.channels) + 1
        if self.channel_axis is None or last - first <= 2 * len(self.channels) + 2:
            block = self._window(index, slice(y0, y1), slice(x0, x1), slice(first, last))
            picks = [channel - first for channel in self.channels]
            return block if picks == list(range(len(block))) else block[picks]
        rows = [
            self._window(index, slice(y0, y1), slice(x0, x1), slice(channel, channel + 1))
            for channel in self.channels
        ]
        return np.concatenate(rows)

    def read_channels(self, index: Sequence[int], y: slice, x: slice) -> NDArray[Any]:
        """All channels of a window, chosen or not, in the image's dtype: (rows, columns, C)."""
        block = self._window(tuple(index), y, x, slice(0, self.n_channels))
        return np.moveaxis(block, 0, -1)

    def _window(self, index: tuple[int, ...], y: slice, x: slice, c: slice) -> NDArray[Any]:
        top, left = self.origin["Y"], self.origin["X"]
        at: dict[str, int | slice] = dict(
            zip(self.stack_axes, self.in_whole(index), strict=True)
        )
        at |= {
            "Y": slice(top + y.start, top + y.stop),
            "X": slice(left + x.start, left + x.stop),
            "C": c,
        }
        return self.read_block(at)

    def _axes_of_levels(self, levels: LevelsOf) -> str:
        """Stack axes along which brightness is measured anew."""
        measures = self.normalize and self.model_input.normalization in MEASURED
        if not measures or self.contrast or levels == "stack":
            return ""
        sizes = dict(zip(self.stack_axes, self.stack_shape, strict=True))
        if levels == "plane":
            return self.stack_axes if self.n_planes > 1 else ""
        return "T" if sizes.get("T", 1) > 1 else ""

    def _measure_at(self, key: tuple[int, ...]) -> Levels:
        """Levels of the planes at these indices along `levels_along`."""
        at = dict(zip(self.levels_along, key, strict=True))
        every = [
            [at[name]] if name in at else range(n)
            for name, n in zip(self.stack_axes, self.stack_shape, strict=True)
        ]
        return self._measure(list(product(*every)))

    @cached_property
    def _typical_contrast(self) -> float:
        """Median range of the levels, of a few time points or planes spread over the stack."""
        counts = [self.stack_shape[self.stack_axes.index(a)] for a in self.levels_along]
        found = []
        for key in spread_indices(counts, FEW_PLANES):
            with suppress(ImageError):
                alone = self._measure_at(key)
                if not alone.constant:
                    found.append(contrast_of(alone))
        return float(np.median(found)) if found else contrast_of(self.measured)

    def _measure(self, planes: Sequence[tuple[int, ...]]) -> Levels:
        """Levels over planes of the stack."""
        looks = self.tells_stains and len(planes) == self.n_planes
        looks = looks and "_stains" not in self.__dict__
        for effort in (1, 16):
            samples, complete = self._sample(planes, effort)
            if looks:
                self._stains = _stains_of(samples)  # so that pixels are not loaded again
            if self.removes_dab:
                samples = list(remove_dab(np.stack(samples), self._stains[0]))
            # A flat sample of a larger image may just be its empty background.
            if complete or not all(is_flat(sample) for sample in samples):
                break
        else:
            complete = not self.is_lazy and self._is_flat_throughout(planes)
        return measure_levels(samples, self.model_input, self.normalize, complete)

    def _sample(
        self, planes: Sequence[tuple[int, ...]], effort: int
    ) -> tuple[list[NDArray[Any]], bool]:
        """Windows of planes of the stack, as they are, and whether these are all of them."""

        def read(window: Window) -> NDArray[Any]:
            return self.read_raw(
                planes[window.plane], window.y0, window.y1, window.x0, window.x1
            )

        windows, complete = sample_windows(
            len(planes), *self.spatial, self.chunk, not self.is_lazy, effort
        )
        return read_sample(windows, read, effort), complete

    def _is_flat_throughout(self, planes: Iterable[tuple[int, ...]]) -> bool:
        """Whether each chosen channel has one finite value at most, over these planes."""
        found: list[set[float]] = [set() for _ in self.channels]
        for index in planes:
            for values, plane in zip(
                found, self.read_raw(index, 0, self.spatial[0], 0, self.spatial[1]), strict=True
            ):
                values |= {
                    float(np.fmin.reduce(plane, axis=None)),
                    float(np.fmax.reduce(plane, axis=None)),
                }
                if len({value for value in values if np.isfinite(value)}) > 1:
                    return False
        return True


def _stains_of(samples: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Value of white, and share of brown."""
    colours = np.stack(samples)
    white = white_of(colours)
    return white, brown_share(colours[:, ::EVERY], white)


def _as_array(image: Any) -> Any:
    """The full-size array of whatever a caller calls an image, checked."""
    if isinstance(image, (str, bytes, PathLike)):
        raise ImageError(
            "This is the name of an image, not an image; open a file with "
            "napari_sa2net.data.read_image."
        )
    if isinstance(image, Sequence) and not hasattr(image, "__array_interface__"):
        image = _first_level(image)
    try:
        dtype = np.dtype(image.dtype)
        shape = tuple(image.shape)
        image.__getitem__  # noqa: B018
    except Exception:
        image = _to_numpy(image)
        dtype, shape = image.dtype, image.shape
    if isinstance(image, np.generic) or type(image) is np.matrix:
        image = np.asarray(image)
    if dtype.kind not in "biuf":
        raise ImageError(f"An image needs real numbers; these values are {_spoken(dtype)}.")
    if not all(isinstance(n, (int, np.integer)) for n in shape):
        raise ImageError(
            f"The array's shape {shape} is not known yet; call compute_chunk_sizes() on it."
        )
    return image


def _to_numpy(image: Any) -> NDArray[Any]:
    try:
        return np.asarray(image)
    except Exception as error:
        raise ImageError(
            f"A {type(image).__name__} is not an image; pass a numpy, dask or zarr array."
        ) from error


def _first_level(levels: Sequence[Any]) -> Any:
    """The first of multiscale levels; nested lists of numbers become an array."""
    if len(levels) == 0:
        raise ImageError("This list holds no image.")
    shapes = [tuple(getattr(level, "shape", ())) for level in levels]
    if len(shapes[0]) < 2:
        return _to_numpy(levels)
    same_axes = all(len(shape) == len(shapes[0]) for shape in shapes)
    sizes = [math.prod(shape) for shape in shapes]
    if len(levels) > 1 and not (same_axes and sizes == sorted(sizes, reverse=True)):
        raise ImageError(
            f"A list is taken as one image at falling resolutions, but its shapes are {shapes}."
        )
    if len(levels) > 1 and sizes[0] > 0 and sizes[0] == sizes[1]:
        raise ImageError(
            "A list of equally large images is no multiscale image; "
            "stack them with numpy.stack or pass one at a time."
        )
    return levels[0]


def _spoken(dtype: np.dtype[Any]) -> str:
    words = {"c": "complex numbers", "U": "text", "S": "text", "O": "Python objects"}
    words |= {"M": "dates", "m": "time spans", "V": "records", "T": "text"}
    return words.get(dtype.kind, str(dtype)) + (
        "; pass numpy.abs(image) or its real part" if dtype.kind == "c" else ""
    )
