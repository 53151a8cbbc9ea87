"""A small U-Net that marks the one object under a click."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CHANNELS", "ClickNet"]

#: What it sees: the window's own contrast (3) and that of the image (3), the model's
#: probability of interior and boundary, other objects, clicks inside, clicks outside.
CHANNELS = 11


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

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, H, W) of the object, for (B, `CHANNELS`, H, W)."""
        skips: list[Tensor] = []
        for block in self.d:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        for block in self.u:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skips.pop()], 1))
        out: Tensor = self.h(x)[:, 0]
        return out


def _convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (in_channels, out_channels):
        layers += [
            nn.Conv2d(n, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
