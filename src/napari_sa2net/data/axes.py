"""What each axis of an array means."""

from __future__ import annotations

from dataclasses import dataclass

from napari_sa2net.errors import AxesError

#: Names given to unnamed stack axes, the one next to the plane first.
STACK_NAMES = "ZTPMVHARLEIQBDFGJKNOUW"


def axis_noun(stack_axes: str, n: int) -> str:
    """What one element along stack axes is called: "time points" of T, else "planes"."""
    noun = "time point" if stack_axes == "T" else "plane"
    return noun if n == 1 else noun + "s"


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
        other letter is a stack axis. Unsaid: a last axis of 3 or 4 is RGB(A) where at least
        two others are left, the two before it (or the last two) are Y and X, all others are
        a stack, never channels.

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
    n_stack = len(shape) - (3 if rgb else 2)
    if n_stack > len(STACK_NAMES):
        raise AxesError(
            f"This array has {len(shape)} axes, more than there are names for; "
            "pass one image of it."
        )
    return STACK_NAMES[:n_stack][::-1] + ("YXC" if rgb else "YX"), rgb
