"""A U-Net with focal attention gates and focal squeeze and excitation at every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_sa2net.nn.base import SegmentationNet
from napari_sa2net.nn.blocks import ConvBatchNorm, DownBlock, double_conv
from napari_sa2net.nn.focal import FocalGate


class GatedUpBlock(nn.Module):
    """Decoder stage: upsample, gate the skip by it, join both, two convolutions."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        gamma: float = 1.0,
        learnable_gamma: bool = False,
        gated: bool = True,
    ) -> None:
        super().__init__()
        if gated:
            self.AG = FocalGate(channels, gamma, learnable_gamma)
        self.gated = gated
        self.nConvs = double_conv(2 * channels, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Compute the output."""
        deep = F.interpolate(deep, scale_factor=2, mode="nearest")
        if self.gated:
            skip = self.AG(deep, skip)
        return self.nConvs(torch.cat([skip, deep], dim=1))


class FocalUNet(SegmentationNet):
    """U-Net with focal attention gates and focal squeeze and excitation on its skips.

    Each skip is weighted channel by channel (SE), then pixel by pixel (gate). Padding, heads
    and names of the maps are those of SA2-Net.

    Parameters
    ----------
    in_channels : int
        Channels of the input image, >= 1.
    n_classes : int
        Channels of the output: 1 is a sigmoid model, more a softmax model.
    base_channels : int
        Channels of the first level; the next have 2, 4, 8 and 8 times as many.
    gamma : sequence of 4 floats
        Focal exponents of the gates of skips 4, 3, 2, 1 (deep to shallow).
    learnable_gamma : bool
        Train all exponents.
    gates, se : sequence of 4 bools
        Skips (4, 3, 2, 1) that have a gate, and squeeze and excitation.
    se_gamma : sequence of 4 floats
        Focal exponents of squeeze and excitation.
    scales : sequence of 4 bools
        Without effect: there is no scale-aware attention.

    Raises
    ------
    ValueError
        If a size is below 1 or a sequence does not have four good values.

    Notes
    -----
    Returns logits, never probabilities. The modules are published (arXiv 2111.00534); widths
    and the order of SE and gate are ours, as the paper studied such networks without giving
    one.
    """

    encoder = ("inc", "inc2", "down1", "down2", "down3", "down4")

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 1,
        base_channels: int = 64,
        gamma: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        learnable_gamma: bool = False,
        gates: Sequence[bool] = (True, True, True, True),
        se: Sequence[bool] = (True, True, True, True),
        se_gamma: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        scales: Sequence[bool] = (True, True, True, True),
    ) -> None:
        super().__init__(
            in_channels,
            n_classes,
            base_channels,
            gamma,
            learnable_gamma,
            gates,
            se,
            se_gamma,
            scales,
        )
        c = base_channels
        self.inc = ConvBatchNorm(in_channels, c)
        self.inc2 = ConvBatchNorm(c, c)
        self.down1 = DownBlock(c, 2 * c)
        self.down2 = DownBlock(2 * c, 4 * c)
        self.down3 = DownBlock(4 * c, 8 * c)
        self.down4 = DownBlock(8 * c, 8 * c)
        self.up4 = GatedUpBlock(8 * c, 4 * c, gamma[0], learnable_gamma, gates[0])
        self.up3 = GatedUpBlock(4 * c, 2 * c, gamma[1], learnable_gamma, gates[1])
        self.up2 = GatedUpBlock(2 * c, c, gamma[2], learnable_gamma, gates[2])
        self.up1 = GatedUpBlock(c, c, gamma[3], learnable_gamma, gates[3])
        self._add_heads()

    def features(self, x: Tensor) -> list[Tensor]:
        """Decoder features P4, P3, P2, P1."""
        x1 = self.inc2(self.inc(x))
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        return self.decode([x1, x2, x3, x4], self.down4(x4))
