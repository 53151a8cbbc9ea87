"""One object from a click: a small network looks at a window around it.

The window is as wide as a few typical objects, whatever the pixel size. The network sees
the image, what the model made of it, where other objects are, and the clicks. It also says how
sure it is of what it marks, so that it can be asked everywhere (`objects_everywhere`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn

from napari_sa2net.config import is_taught
from napari_sa2net.data.plan import Box, ImagePlan
from napari_sa2net.inference.devices import bfloat16_is_fast
from napari_sa2net.inference.instances import foreground_probability
from napari_sa2net.inference.segment import Prediction

SIDE, TYPICAL = 64, 18
"""Side of the window, and diameter of a typical object in it (px of the network)."""
REACH = SIDE / TYPICAL / 2
"""Half of the window's side, in typical diameters."""
_MIDDLE = (SIDE - 1) / 2
_CLICK = (_MIDDLE, _MIDDLE)
_SPREAD = 2.0
#: Clicks everywhere lie so far apart (typical diameters), and are answered so many at once.
SPACING, TOGETHER = 0.5, 64
#: ... and farther where they would be more than this.
MOST = 6000
#: What they mark counts from this score and this number of pixels on, and where so much of it
#: is left beside other objects.
SURE, SMALLEST, LEFT = 0.6, 12, 0.7
_WEIGHTS = Path(__file__).parent.parent / "weights" / "click" / "click.safetensors"

Point = tuple[float, float]


#: What it sees: the window's own contrast (3) and that of the image (3), the model's
#: interior, boundary and distance, other objects, clicks inside, clicks outside.
CHANNELS = 12


class ClickNet(nn.Module):
    """U-Net over a window around a click, which also scores what it marks.

    Our own; neither paper has it. That a network says how well its mask will overlap is as in
    Segment Anything (Kirillov et al., ICCV 2023).

    Parameters
    ----------
    widths : sequence of int
        Channels of each level, fine to coarse.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 64)) -> None:
        super().__init__()
        self.d = nn.ModuleList(
            _convolutions(a, b) for a, b in zip((CHANNELS, *widths), widths, strict=False)
        )
        self.u = nn.ModuleList(
            _convolutions(a + b, b) for a, b in zip(widths[::-1], widths[-2::-1], strict=False)
        )
        self.h = nn.Conv2d(widths[0], 1, 1)
        self.s = nn.Sequential(
            nn.Linear(2 * widths[0] + 2 * widths[-1], 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What it makes of (B, `CHANNELS`, H, W).

        Returns
        -------
        logits : (B, H, W)
            Of the object.
        scores : (B,)
            Logits of the IoU that it expects; low where the click is on no object.
        """
        skips: list[Tensor] = []
        for block in self.d:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        deep = skips.pop()
        for block in self.u:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skips.pop()], 1))
        logits: Tensor = self.h(x)[:, 0]
        share = logits.detach().sigmoid()[:, None]
        own = (x * share).sum((2, 3)) / (share.sum((2, 3)) + 1)
        around = x.mean((2, 3))
        at = deep.shape[-1] // 2
        middle = deep[:, :, at - 1 : at + 1, at - 1 : at + 1].mean((2, 3))
        score: Tensor = self.s(torch.cat([own, around, middle, deep.mean((2, 3))], 1))[:, 0]
        return logits, score


def _convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (in_channels, out_channels):
        layers += [
            nn.Conv2d(n, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


@cache
def click_network() -> ClickNet:
    """The bundled network, for a CPU: it is too small for a GPU to pay."""
    net = ClickNet()
    net.load_state_dict({key: value.float() for key, value in load_file(_WEIGHTS).items()})
    return net.eval()


def object_at(
    image: NDArray[np.float32],
    labels: NDArray[np.integer],
    click: Point,
    diameter: float,
    against: Sequence[Point] = (),
    seen: NDArray[np.floating] | None = None,
    net: ClickNet | None = None,
) -> NDArray[np.bool_]:
    """The object under a click.

    Parameters
    ----------
    image : (3, H, W) float32
        Around the click, at least `REACH` diameters to each side where the image goes on;
        about 0…1, as `ImagePlan.read` gives it.
    labels : (H, W) integer
        Objects that are there; the one under the click may be a part of what is looked for,
        or more than it.
    click : (y, x)
        In pixels of these arrays.
    diameter : float
        Of a typical object, in pixels.
    against : sequence of (y, x)
        Clicks on what belongs to other objects.
    seen : (3, H, W), optional
        What a model says of interior, boundary and distance; 0 where it has no such output.
    net : ClickNet, optional
        Unsaid: the bundled one.

    Returns
    -------
    (H, W) bool
        Without holes and in one piece; at the least the pixel under the click.

    Examples
    --------
    >>> mask = object_at(image, labels, (40, 52), diameter=22)  # doctest: +SKIP
    """
    window = ClickWindow(click, diameter, labels.shape)
    given = None if seen is None else torch.tensor(np.asarray(seen, np.float32))
    x = network_input(
        window.cut(torch.tensor(image)),
        torch.zeros(3, SIDE, SIDE) if given is None else window.cut(given),
        window.nearest(torch.as_tensor(labels.astype(np.int64))),
        [_CLICK],
        [window.inside(point) for point in against],
    )
    with torch.inference_mode():
        logits = (net or click_network())(x[None])[0][0]
    mask = window.back(logits) > 0
    y, x_ = (int(np.clip(round(c), 0, n - 1)) for c, n in zip(click, mask.shape, strict=True))
    mask[y, x_] = True
    pieces, _ = ndimage.label(mask)
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(pieces == pieces[y, x_])
    return filled


def objects_everywhere(
    image: NDArray[np.float32],
    labels: NDArray[np.integer],
    diameter: float,
    guesses: NDArray[np.integer],
    seen: NDArray[np.floating] | None = None,
    net: ClickNet | None = None,
    on_places: Callable[[int, int], None] = lambda *_: None,
) -> NDArray[np.int32]:
    """The objects of a plane, by clicks wherever nothing is.

    Parameters
    ----------
    image, diameter, seen, net
        As of `object_at`; of the whole plane.
    labels : (H, W) integer
        Objects that are there and stay.
    guesses : (H, W) integer
        What a model found: it is clicked on, too.
    on_places : callable
        Called now and then with the number of places that were clicked on, and of all; what
        it raises ends this.

    Returns
    -------
    (H, W) int32
        The others, numbered from 1, beside those that stay.

    Notes
    -----
    The surest objects come first and later ones yield to them, as the automatic masks of
    Segment Anything do (Kirillov et al., ICCV 2023).

    Examples
    --------
    >>> new = objects_everywhere(image, labels, 22, guesses, seen, net)  # doctest: +SKIP
    """
    marked = []
    points = _places(labels, guesses, diameter)
    whole = ClickWindow((0.0, 0.0), diameter, labels.shape)
    if seen is None:
        seen = np.zeros((3, *labels.shape), np.float32)
    values = whole.smooth(torch.tensor(np.concatenate([image, seen], dtype=np.float32)))
    # as `nearest` needs them: else the whole plane would be converted at every click
    others = torch.as_tensor(labels.astype(np.float64))
    for first in range(0, len(points), TOGETHER):
        on_places(first, len(points))
        windows = [
            ClickWindow(point, diameter, labels.shape)
            for point in points[first : first + TOGETHER]
        ]
        inputs = []
        for window in windows:
            own = window.of_smooth(values)
            there = window.nearest(others)
            inputs.append(network_input(own[:3], own[3:], there, [_CLICK], []))
        logits, scores = _answers(net or click_network(), torch.stack(inputs))
        for window, own, score in zip(windows, logits.numpy() > 0, scores, strict=True):
            piece = _piece(own)
            if piece is not None and float(score) >= SURE:
                marked.append((float(score), window, piece))
    found = np.zeros(labels.shape, np.int32)
    taken = labels > 0
    n = 0
    for _, window, piece in sorted(marked, key=lambda one: -one[0]):
        part, mask = window.back_there(piece)
        free = mask & ~taken[part]
        if free.sum() >= max(SMALLEST, LEFT * mask.sum()):
            n += 1
            found[part][free] = n
            taken[part] |= free
    return found


def _places(
    labels: NDArray[np.integer], guesses: NDArray[np.integer], diameter: float
) -> list[Point]:
    """Middles of what is guessed, and of a lattice, where nothing is."""
    free = np.where(labels > 0, 0, guesses)
    points: list[Point] = []
    for number, box in enumerate(ndimage.find_objects(free), 1):
        if box is not None:
            depth = ndimage.distance_transform_edt(np.pad(free[box] == number, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            points.append((float(box[0].start + y), float(box[1].start + x)))
    step = max(3.0, SPACING * diameter, math.sqrt(labels.size / MOST))
    ys, xs = (np.arange(step / 2, n, step).tolist() for n in labels.shape)
    return points + [(y, x) for y in ys for x in xs if not labels[int(y), int(x)]]


def _answers(net: ClickNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and scores (0 … 1), in float32."""
    x = x.contiguous(memory_format=torch.channels_last)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()),
    ):
        logits, scores = net(x)
    return logits.float(), scores.float().sigmoid()


def _piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The piece in the middle, without holes; None where it is tiny or goes beyond."""
    pieces, _ = ndimage.label(mask)
    own = pieces[SIDE // 2, SIDE // 2] or pieces[SIDE // 2 - 1, SIDE // 2 - 1]
    piece: NDArray[np.bool_] = pieces == own
    if not own or piece.sum() < SMALLEST:
        return None
    if piece[[0, -1]].any() or piece[:, [0, -1]].any():
        return None
    return ndimage.binary_fill_holes(piece)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ClickWindow:
    """A square around a click, on the grid of the network.

    Parameters
    ----------
    click : (y, x)
        Its middle, in pixels of the arrays that it is cut from.
    diameter : float
        Of a typical object, in pixels.
    shape : (H, W)
        Of those arrays.
    angle : float
        It may be turned, in radians, to learn from.
    flip : bool
        Or mirrored.
    """

    click: Point
    diameter: float
    shape: tuple[int, ...]
    angle: float = 0.0
    flip: bool = False

    @property
    def step(self) -> float:
        """Pixels from one element of the grid to the next."""
        return self.diameter / TYPICAL

    @property
    def grid(self) -> tuple[Tensor, Tensor]:
        """Place of each element in pixels: y and x (SIDE, SIDE)."""
        along = (torch.arange(SIDE) - _MIDDLE) * self.step
        y, x = torch.meshgrid(-along if self.flip else along, along, indexing="ij")
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return self.click[0] + cos * y - sin * x, self.click[1] + sin * y + cos * x

    def cut(self, values: Tensor) -> Tensor:
        """(C, H, W) values on the grid, smoothed where it is coarse; mirrored beyond."""
        return self.of_smooth(self.smooth(values))

    @property
    def _every(self) -> int:
        return max(1, round(self.step))

    def smooth(self, values: Tensor) -> Tensor:
        """(C, H, W) values, as smooth as the grid is coarse: the same around every click."""
        every = self._every
        if every > 1:
            # rows, then columns: the same, and fast for large objects, too
            for kernel, pad in (((every, 1), (every // 2, 0)), ((1, every), (0, every // 2))):
                values = F.avg_pool2d(values[None], kernel, 1, pad, count_include_pad=False)[0]
            values = values[:, : self.shape[0], : self.shape[1]]
        return values

    def of_smooth(self, values: Tensor) -> Tensor:
        """What `smooth` gave, on the grid."""
        return self._sampled(values, "bilinear", "reflection", (self._every - 1) % 2 / 2)

    def nearest(self, labels: Tensor) -> Tensor:
        """(H, W) labels on the grid; 0 beyond."""
        # in float32, labels above 2**24 would be the same as their neighbours
        return self._sampled(labels[None].double(), "nearest", "zeros")[0].long()

    def inside(self, point: Point) -> Point:
        """Place on the grid of a point of the arrays; of one that is not turned."""
        return tuple(  # type: ignore[return-value]
            (p - c) / self.step + _MIDDLE for p, c in zip(point, self.click, strict=True)
        )

    def back(self, values: Tensor) -> NDArray[np.float32]:
        """Values on the grid in pixels of the arrays; far below 0 beyond."""
        ys, xs = (
            ((torch.arange(n) - c) / self.step + _MIDDLE + 0.5) / SIDE * 2 - 1
            for n, c in zip(self.shape, self.click, strict=True)
        )
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        low = 30.0
        grid = torch.stack([x, y], -1)[None].float()
        out = F.grid_sample(values[None, None] + low, grid, align_corners=False)[0, 0] - low
        result: NDArray[np.float32] = out.numpy()
        return result

    def back_there(self, mask: NDArray[np.bool_]) -> tuple[Any, NDArray[np.bool_]]:
        """Where in the arrays the window lies, and a mask on its grid in their pixels."""
        reach = math.ceil(self.step * SIDE / 2) + 1
        first = [max(0, int(at) - reach) for at in self.click]
        last = [
            min(n, int(at) + reach + 1) for at, n in zip(self.click, self.shape, strict=True)
        ]
        here = ClickWindow(
            (self.click[0] - first[0], self.click[1] - first[1]),
            self.diameter,
            tuple(b - a for a, b in zip(first, last, strict=True)),
        )
        part = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        return part, here.back(torch.where(torch.as_tensor(mask), 4.0, -4.0)) > 0

    def _sampled(self, values: Tensor, mode: str, beyond: str, shift: float = 0.0) -> Tensor:
        y, x = self.grid
        height, width = values.shape[-2:]
        grid = torch.stack(
            [(x + 0.5 + shift) / width * 2 - 1, (y + 0.5 + shift) / height * 2 - 1], -1
        )
        return F.grid_sample(
            values[None], grid[None].to(values.dtype), mode, beyond, align_corners=False
        )[0]


def network_input(
    image: Tensor,
    seen: Tensor,
    labels: Tensor,
    inside: Sequence[Point],
    outside: Sequence[Point],
) -> Tensor:
    """Channels of `ClickNet`, all on the grid of a window; the clicks, too."""
    own = (image - image.mean((1, 2), keepdim=True)) / (image.std() + 0.03)
    y, x = (int(np.clip(c, 0, SIDE - 1)) for c in inside[0])
    other = (labels > 0) & (labels != labels[y, x])
    return torch.cat(
        [
            own.clamp(-4, 4),
            image,
            seen,
            other[None].float(),
            _marked(inside)[None],
            _marked(outside)[None],
        ]
    )


def seen_at(
    plan: ImagePlan, made: Prediction | None, index: tuple[int, ...], box: Box
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """What the network is given of a box of an image.

    Parameters
    ----------
    plan : ImagePlan
        Of the whole image.
    made : Prediction, optional
        What a model made of it, or of a part.
    index : tuple of int
        Plane of the stack.
    box : (y0, y1, x0, x1)

    Returns
    -------
    image : float32 (3, y1 - y0, x1 - x0)
    seen : float32, of the same shape, or None
        Interior, boundary and distance; None where the model has not looked at all of the box.
    """
    read = plan.read(index, *box)
    # of two channels the second counts twice
    image = read[np.minimum(range(3), len(read) - 1)]
    return image, None if made is None else seen_by_model(made, index, box)


def seen_by_model(
    made: Prediction, index: tuple[int, ...], box: Box
) -> NDArray[np.float32] | None:
    """Interior, boundary and distance in a box of the image, if it was predicted."""
    plan, classes = made.plan, made.classes
    first = plan.in_whole((0,) * len(plan.stack_shape))
    at = tuple(i - f for i, f in zip(index, first, strict=True))
    top, bottom, left, right = plan.box
    y0, y1, x0, x1 = box
    if not all(0 <= i < n for i, n in zip(at, plan.stack_shape, strict=True)) or not (
        top <= y0 and y1 <= bottom and left <= x0 and x1 <= right
    ):
        return None
    rows, columns = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    part = np.asarray(made.probability[(*at, slice(None), rows, columns)])
    out = np.zeros((3, *part.shape[1:]), np.float32)
    if is_taught(classes):
        out[: len(classes) - 1] = part[1:]
    else:
        out[0] = foreground_probability(part, classes)
    return out


def _marked(points: Sequence[Point]) -> Tensor:
    """A spot at each point."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    spots = torch.zeros(SIDE, SIDE)
    for py, px in points:
        square = (y - py) ** 2 + (x - px) ** 2
        spots = torch.maximum(spots, torch.exp(-square / (2 * _SPREAD**2)))
    return spots
