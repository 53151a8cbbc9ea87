"""What each axis of an array means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index as as_index

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import AxesError, ChannelError
from napari_sa2net.words import counted, plural

#: Names given to unnamed stack axes, the one next to the plane first.
STACK_NAMES = "ZTPMVHARLEIQBDFGJKNOUW"


def axis_noun(stack_axes: str, n: int) -> str:
    """What one element along stack axes is called: "time points" of T, else "planes"."""
    noun = "time point" if stack_axes == "T" else "plane"
    return plural(n, noun)


def index_words(axes: str, index: Sequence[int], stack: Sequence[int] = ()) -> str:
    """``time point 2, plane 12``: a place in a stack, counted from 0 as by napari's slider.

    Parameters
    ----------
    axes : str
        Letters of the stack's axes; unsaid they are planes.
    index, stack : sequence of int
        The place, and how long the axes are: then ``time point 2 of 0–4, plane 12 of 0–59``,
        and axes of length 1 are left out.
    """
    axes = axes if len(axes) == len(index) else axes.strip().rjust(len(index), "Z")
    sizes = stack if len(stack) == len(index) else (0,) * len(index)
    return ", ".join(
        f"{axis_noun(axis, 1)} {i}" + (f" of 0–{n - 1}" if n else "")
        for axis, i, n in zip(axes, index, sizes, strict=True)
        if n != 1
    )


@dataclass(frozen=True)
class Axes:
    """The meaning of an array's axes.

    Attributes
    ----------
    names : str
        One upper-case letter per axis; ``Y``, ``X``, ``C`` (channel), others are a stack.
    rgb : bool
        The channel axis holds RGB or RGBA samples.
    """

    names: str
    rgb: bool = False

    @property
    def y(self) -> int:
        """Position of the Y axis."""
        return self.names.index("Y")

    @property
    def x(self) -> int:
        """Position of the X axis."""
        return self.names.index("X")

    @property
    def channel(self) -> int | None:
        """Position of the channel axis, if there is one."""
        return self.names.index("C") if "C" in self.names else None

    @property
    def stack(self) -> str:
        """Names of the stack axes, in the array's order."""
        return "".join(name for name in self.names if name not in "YXC")

    @property
    def labels(self) -> str:
        """Names of the axes that a mask of this image has: all but the channels."""
        return self.names.replace("C", "")


def resolve_axes(shape: tuple[int, ...], axes: str | None = None) -> Axes:
    """Name the axes of an array of `shape`.

    Parameters
    ----------
    shape : tuple of int
    axes : str, optional
        One letter per axis: Y and X are needed, C are channels, S are RGB samples, every
        other letter is a stack axis. Unsaid: a last axis of 3 or 4 is RGB(A), and one of 1 the
        only channel, where at least two others are left; the two before it (or the last two)
        are Y and X, all others are a stack, never channels.

    Raises
    ------
    AxesError
        The array has fewer than two axes, or the string does not fit it.
    """
    if len(shape) < 2:
        kind = "a single value" if not shape else f"a row of {shape[0]} values"
        raise AxesError(f"An image needs two axes, Y and X; this is {kind}.")
    if axes is None:
        return Axes(*_default(shape))
    if not isinstance(axes, str):
        raise AxesError(
            f'axes must be a string such as "YX" or "ZYX", not {type(axes).__name__}.'
        )
    names = axes.strip().upper()
    if not (names.isascii() and names.isalpha()):
        raise AxesError(f'axes may hold letters only, as in "ZYX"; got {axes!r}.')
    if len(names) != len(shape):
        raise AxesError(
            f"axes {axes!r} names {len(names)} axes, but the array has {len(shape)}: "
            f"shape {tuple(shape)}. Give one letter per axis."
        )
    for name in names:
        if names.count(name) > 1:
            raise AxesError(f"axes {axes!r} names {name} twice; use another letter for one.")
    for name in "YX":
        if name not in names:
            raise AxesError(f"axes {axes!r} has no {name}; an image needs both Y and X.")
    samples = "S" in names
    if samples:
        # Both C and S: samples are the channels, and C is walked through like a stack.
        free = next(letter for letter in STACK_NAMES if letter not in names)
        names = names.replace("C", free).replace("S", "C")
    channel = names.find("C")
    rgb = channel >= 0 and shape[channel] in (3, 4) and (samples or channel == len(shape) - 1)
    return Axes(names, rgb)


def _default(shape: tuple[int, ...]) -> tuple[str, bool]:
    rgb = len(shape) > 2 and shape[-1] in (3, 4)
    channels = rgb or (len(shape) > 2 and shape[-1] == 1 < shape[-2])
    n_stack = len(shape) - (3 if channels else 2)
    if n_stack > len(STACK_NAMES):
        raise AxesError(
            f"This array has {len(shape)} axes, more than there are names for; "
            "pass one image of it."
        )
    return STACK_NAMES[:n_stack][::-1] + ("YXC" if channels else "YX"), rgb


# --------------------------------------------------------------------------------------------
# Which channels of an image go into the network, and how.

#: Channels as people name them: ``"DAPI"``, ``"0,2"``, ``1``, ``("DAPI", 2)``.
Channels = str | int | Iterable[str | int] | None


def choose_channels(
    channels: int | Iterable[int] | None, n_channels: int, rgb: bool
) -> tuple[int, ...]:
    """Channels of the image to use, in order.

    Parameters
    ----------
    channels : int or iterable of int, optional
        Numbers from 0. Unsaid: the three colours of an RGB(A) image (alpha is left out),
        otherwise the first channel.
    n_channels : int
        Channels that the image has (1 without a channel axis).
    rgb : bool
        The image is RGB or RGBA.

    Raises
    ------
    ChannelError
        A channel does not exist, or none is given.
    """
    if channels is None:
        return (0, 1, 2) if rgb else tuple(range(min(n_channels, 1)))
    wanted = channels if isinstance(channels, Iterable) else (channels,)
    chosen = []
    for channel in wanted:
        try:
            number = as_index(channel)  # type: ignore[arg-type]
        except TypeError:
            raise ChannelError(
                f"Channels are given by whole numbers from 0, not by {channel!r}."
            ) from None
        if isinstance(channel, bool) or not 0 <= number < n_channels:
            have = f"channels 0 to {n_channels - 1}" if n_channels > 1 else "channel 0 only"
            have = have if n_channels else "no channel"
            raise ChannelError(f"There is no channel {channel!r}: the image has {have}.")
        chosen.append(number)
    if not chosen:
        raise ChannelError("No channel is chosen; give at least one, for instance 0.")
    return tuple(chosen)


def channel_choice(channels: Channels) -> tuple[str | int, ...] | None:
    """Numbers and names, one by one.

    Raises
    ------
    ChannelError
        None is named.
    """
    if channels is None:
        return None
    if isinstance(channels, (int, np.integer)):
        return (int(channels),)
    parts = channels.split(",") if isinstance(channels, str) else channels
    chosen: list[str | int] = []
    for part in parts:
        words = part.split() if isinstance(part, str) else [part]
        numbers = all(isinstance(word, str) and word.isdecimal() for word in words)
        chosen += words if numbers or not isinstance(part, str) else [part.strip()]
    if not chosen:
        raise ChannelError("No channel is named; give numbers from 0, or names: 1 or DAPI,GFP.")
    return tuple(chosen)


def channel_numbers(
    choice: Iterable[str | int], n_channels: int, names: Sequence[str] = ()
) -> tuple[int, ...]:
    """Numbers of channels that are given by number or by name, in order.

    Parameters
    ----------
    choice : iterable of str or int
        See `channel_choice`. A number that no channel has is looked for among the names.
    n_channels : int
    names : sequence of str
        Of the channels, as far as the image tells; upper and lower case are alike.

    Raises
    ------
    ChannelError
    """
    known = [_plain(name) for name in names]
    left = list(choice)
    chosen = []
    while left:
        # a name may have commas: of several parts in a row rather the longest
        joined = [_plain(", ".join(map(str, left[:n]))) for n in range(len(left), 1, -1)]
        n = next((len(left) - i for i, text in enumerate(joined) if text in known), 1)
        one, text, left = left[0], _plain(", ".join(map(str, left[:n]))), left[n:]
        if text.isdecimal() and int(text) < n_channels:
            chosen.append(int(text))
        elif known.count(text) == 1:
            chosen.append(known.index(text))
        elif text.isdecimal() or text.lstrip("-").isdecimal():
            choose_channels(int(text), n_channels, False)  # says which there are
        else:
            have = f"its channels are {', '.join(names)}" if known else "it names no channel"
            twice = "two channels are" if text in known else "no channel is"
            raise ChannelError(
                f"In this image {twice} called {one!r}: {have}. Give its number."
            )
    return tuple(chosen)


def _plain(name: str) -> str:
    """A name as it is compared: case and spaces around commas do not count."""
    return ",".join(part.strip() for part in name.casefold().split(","))


def channel_mapping(n_chosen: int, in_channels: int, order: str) -> NDArray[np.float32]:
    """Weights (in_channels, n_chosen) that mix the chosen channels into the network's.

    As many as the network takes go in as they are (BGR networks get the first three
    reversed); one is repeated; a one-channel network takes the mean; a colour network takes
    the mean of several grey ones, repeated.

    Raises
    ------
    ChannelError
        The network takes separate stains, and another number of channels is chosen.
    """
    colour = order in ("RGB", "BGR")
    if n_chosen == in_channels:
        mix = np.eye(in_channels, dtype=np.float32)
        if order == "BGR":
            mix[:3] = mix[:3][::-1].copy()
        return mix
    if in_channels == 1 or colour or (n_chosen == 1 and in_channels == 3):
        return np.full((in_channels, n_chosen), 1 / max(n_chosen, 1), np.float32)
    raise ChannelError(
        f"This model takes {counted(in_channels, 'channel')}, and {n_chosen} "
        f"{plural(n_chosen, 'is', 'are')} chosen; choose {in_channels}."
    )


def mix_channels(
    values: NDArray[np.float32], mapping: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Apply `mapping` (n, k) to `values` (k, H, W); float32 (n, H, W), contiguous.

    Sums run channel by channel, so a pixel's value never depends on the window around it,
    as it may in a matrix product.
    """
    out = np.empty((len(mapping), *values.shape[1:]), np.float32)
    rows: dict[bytes, int] = {}
    for i, row in enumerate(mapping):
        same = rows.setdefault(row.tobytes(), i)
        if same != i:
            out[i] = out[same]
            continue
        (used,) = np.nonzero(row)
        if len(used) == 1 and row[used[0]] == 1:
            out[i] = values[used[0]]
            continue
        out[i] = 0
        for j in used:
            out[i] += row[j] * values[j]
    return out
