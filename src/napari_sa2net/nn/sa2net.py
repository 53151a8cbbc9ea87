"""SA2-Net (Fiaz et al., BMVC 2023), as its published code computes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_sa2net.nn.blocks import (
    ConvBatchNorm,
    DownBlock,
    ScaleAwareAttention,
    UpBlock,
    resize,
)

#: Height and width inside the network are multiples of this (four poolings by 2).
STRIDE = 16


class SA2Net(nn.Module):
    """U-Net with scale-aware attention on the skips and adaptive up-attention.

    Parameters
    ----------
    in_channels : int
        Channels of the input image, >= 1.
    n_classes : int
        Channels of the output: 1 is a sigmoid model, more a softmax model.
    base_channels : int
        C in the paper; 64 is the published size.
    gamma : sequence of 4 floats
        Focal exponent of the up-attention maps ψ4, ψ3, ψ2, ψ1 (deep to shallow). 1 is the
        published network.
    learnable_gamma : bool
        Train the four exponents.

    Raises
    ------
    ValueError
        If a size is below 1 or gamma does not have four values >= 0.

    Notes
    -----
    Returns logits, never probabilities. Source: arXiv 2309.16661 and its published code
    (where figure and code differ, the code).
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 1,
        base_channels: int = 64,
        gamma: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        learnable_gamma: bool = False,
    ) -> None:
        super().__init__()
        if min(in_channels, n_classes, base_channels) < 1:
            raise ValueError(
                "in_channels, n_classes and base_channels must be at least 1, got "
                f"{in_channels}, {n_classes}, {base_channels}"
            )
        if len(gamma) != 4:
            raise ValueError(f"gamma needs four values (ψ4, ψ3, ψ2, ψ1), got {len(gamma)}")
        self.in_channels = in_channels
        self.n_classes = n_classes
        self.base_channels = c = base_channels

        self.inc = ConvBatchNorm(in_channels, c)
        self.down1 = DownBlock(c, 2 * c)
        self.down2 = DownBlock(2 * c, 4 * c)
        self.down3 = DownBlock(4 * c, 8 * c)
        self.down4 = DownBlock(8 * c, 8 * c)
        self.side_conv2 = nn.Conv2d(2 * c, c, 3, padding=1)
        self.side_conv3 = nn.Conv2d(4 * c, c, 3, padding=1)
        self.side_conv4 = nn.Conv2d(8 * c, c, 3, padding=1)
        self.side_conv5 = nn.Conv2d(8 * c, 8 * c, 3, padding=1)
        self.bottleneck = ScaleAwareAttention(c)
        self.up4 = UpBlock(8 * c, 4 * c, gamma[0], learnable_gamma)
        self.up3 = UpBlock(4 * c, 2 * c, gamma[1], learnable_gamma)
        self.up2 = UpBlock(2 * c, c, gamma[2], learnable_gamma)
        self.up1 = UpBlock(c, c, gamma[3], learnable_gamma)
        self.outc4 = nn.Conv2d(c, n_classes, 1)
        self.outc3 = nn.Conv2d(c, n_classes, 1)
        self.outc2 = nn.Conv2d(2 * c, n_classes, 1)
        self.outc1 = nn.Conv2d(4 * c, n_classes, 1)

    @property
    def gamma(self) -> tuple[float, float, float, float]:
        """Focal exponents of ψ4, ψ3, ψ2, ψ1 as they are now."""
        g4, g3, g2, g1 = (
            float(up.AG.focal.gamma) for up in (self.up4, self.up3, self.up2, self.up1)
        )
        return g4, g3, g2, g1

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Four scales of C channels (strides 1, 2, 4, 8) and the deepest feature P5."""
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        scales = [x1, self.side_conv2(x2), self.side_conv3(x3), self.side_conv4(x4)]
        return scales, self.side_conv5(x5)

    def decode(self, skips: list[Tensor], deepest: Tensor) -> list[Tensor]:
        """Decoder features P4, P3, P2, P1 from the attended skips O1…O4 and P5."""
        p4 = self.up4(deepest, skips[3])
        p3 = self.up3(p4, skips[2])
        p2 = self.up2(p3, skips[1])
        return [p4, p3, p2, self.up1(p2, skips[0])]

    def heads(self, decoded: list[Tensor], deep_supervision: bool) -> list[Tensor]:
        """Logits at full size: main head, then those of 1/2, 1/4 and 1/8 resolution."""
        p4, p3, p2, p1 = decoded
        main = self.outc4(p1)
        if not deep_supervision:
            return [main]
        size = p1.shape[-2:]
        # Published: resize, then Conv1. Both are linear and the bilinear weights sum to 1,
        # so the order does not matter, and few channels are cheaper to resize than many.
        return [
            main,
            resize(self.outc3(p2), size),
            resize(self.outc2(p3), size),
            resize(self.outc1(p4), size),
        ]

    def forward(self, x: Tensor, deep_supervision: bool = False) -> Tensor | list[Tensor]:
        """Compute logits.

        Parameters
        ----------
        x : Tensor, (B, in_channels, H, W), any H, W >= 1
            Padded at bottom and right to multiples of 16 by reflection, and cropped back.
        deep_supervision : bool
            Return the logits of all four heads, main first, all at full size.

        Returns
        -------
        Tensor (B, n_classes, H, W), or a list of four such.
        """
        height, width = x.shape[-2:]
        scales, deepest = self.encode(pad_to_stride(x))
        logits = self.heads(self.decode(self.bottleneck(scales), deepest), deep_supervision)
        cropped = [y[..., :height, :width] for y in logits]
        return cropped if deep_supervision else cropped[0]


def pad_to_stride(x: Tensor, stride: int = STRIDE) -> Tensor:
    """Pad (B, C, H, W) at bottom and right to multiples of stride by reflection.

    The reflection repeats where the image is smaller than the pad (as numpy's does); an
    axis of one pixel repeats its value.
    """
    for axis in (-2, -1):
        n = x.shape[axis]
        if n % stride:
            index = reflect_index(n, n + (-n) % stride, x.device)
            x = x.index_select(axis, index)
    return x


def reflect_index(n: int, length: int, device: torch.device | None = None) -> Tensor:
    """Indices 0…length-1 reflected into 0…n-1 (edge not repeated)."""
    index = torch.arange(length, device=device)
    if n == 1:
        return torch.zeros_like(index)
    period = 2 * (n - 1)
    index = index % period
    return torch.minimum(index, period - index)
