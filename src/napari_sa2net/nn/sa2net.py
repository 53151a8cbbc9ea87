"""SA2-Net (Fiaz et al., BMVC 2023), as its published code computes it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from napari_sa2net.nn.base import SegmentationNet
from napari_sa2net.nn.blocks import ConvBatchNorm, DownBlock, ScaleAwareAttention, UpBlock


class SA2Net(SegmentationNet):
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
        Train all exponents.
    gates : sequence of 4 bools
        Which of ψ4, ψ3, ψ2, ψ1 there are; without one the network is that with γ = 0 there.
    se : sequence of 4 bools
        Focal squeeze and excitation on O4, O3, O2, O1; none is the published network.
    se_gamma : sequence of 4 floats
        Focal exponents of squeeze and excitation.
    scales : sequence of 4 bools
        Scales 4, 3, 2, 1 that scale-aware attention adds to; all is the published network.

    Raises
    ------
    ValueError
        If a size is below 1 or a sequence does not have four good values.

    Notes
    -----
    Returns logits, never probabilities. Source: arXiv 2309.16661 and its published code
    (where figure and code differ, the code).
    """

    encoder = ("inc", "down1", "down2", "down3", "down4")

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 1,
        base_channels: int = 64,
        gamma: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        learnable_gamma: bool = False,
        gates: Sequence[bool] = (True, True, True, True),
        se: Sequence[bool] = (False, False, False, False),
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
        self.down1 = DownBlock(c, 2 * c)
        self.down2 = DownBlock(2 * c, 4 * c)
        self.down3 = DownBlock(4 * c, 8 * c)
        self.down4 = DownBlock(8 * c, 8 * c)
        self.side_conv2 = nn.Conv2d(2 * c, c, 3, padding=1)
        self.side_conv3 = nn.Conv2d(4 * c, c, 3, padding=1)
        self.side_conv4 = nn.Conv2d(8 * c, c, 3, padding=1)
        self.side_conv5 = nn.Conv2d(8 * c, 8 * c, 3, padding=1)
        self.bottleneck = ScaleAwareAttention(c, tuple(reversed(self.scales)))
        self.up4 = UpBlock(8 * c, 4 * c, gamma[0], learnable_gamma, gates[0])
        self.up3 = UpBlock(4 * c, 2 * c, gamma[1], learnable_gamma, gates[1])
        self.up2 = UpBlock(2 * c, c, gamma[2], learnable_gamma, gates[2])
        self.up1 = UpBlock(c, c, gamma[3], learnable_gamma, gates[3])
        self._add_heads()

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Four scales of C channels (strides 1, 2, 4, 8) and the deepest feature P5."""
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        scales = [x1, self.side_conv2(x2), self.side_conv3(x3), self.side_conv4(x4)]
        return scales, self.side_conv5(x5)

    def features(self, x: Tensor) -> list[Tensor]:
        """Decoder features P4, P3, P2, P1."""
        scales, deepest = self.encode(x)
        return self.decode(self.bottleneck(scales), deepest)
