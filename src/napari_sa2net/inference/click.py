"""One object from a click: a small network looks at a window around it.

The window is as wide as a few typical objects, whatever the pixel size. The network sees
the image, what the model made of it, where other objects are, and the clicks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn

SIDE, TYPICAL = 64, 18
"""Side of the window, and diameter of a typical object in it (px of the network)."""
REACH = SIDE / TYPICAL / 2
"""Half of the window's side, in typical diameters."""
_MIDDLE = (SIDE - 1) / 2
_SPREAD = 2.0
_WEIGHTS = Path(__file__).parent.parent / "weights" / "click" / "click.safetensors"

Point = tuple[float, float]


#: What it sees: the window's own contrast (3) and that of the image (3), the model's
#: interior, boundary and distance, other objects, clicks inside, clicks outside.
CHANNELS = 12


class ClickNet(nn.Module):
    """U-Net over a window around a click.

    Our own; neither paper has it.

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
        """Logits (B, H, W) of the object, for (B, `CHANNELS`, H, W), and of its score (B,)."""
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
        [(_MIDDLE, _MIDDLE)],
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
        every = max(1, round(self.step))
        if every > 1:
            # rows, then columns: the same, and fast for large objects, too
            for kernel, pad in (((every, 1), (every // 2, 0)), ((1, every), (0, every // 2))):
                values = F.avg_pool2d(values[None], kernel, 1, pad, count_include_pad=False)[0]
            values = values[:, : self.shape[0], : self.shape[1]]
        return self._sampled(values, "bilinear", "reflection", (every - 1) % 2 / 2)

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


def _marked(points: Sequence[Point]) -> Tensor:
    """A spot at each point."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    spots = torch.zeros(SIDE, SIDE)
    for py, px in points:
        square = (y - py) ** 2 + (x - px) ** 2
        spots = torch.maximum(spots, torch.exp(-square / (2 * _SPREAD**2)))
    return spots
