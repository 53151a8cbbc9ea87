"""Convolutions with what follows them, as single oneDNN calls (CPU)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_sa2net.inference.staged import packed


class FusedConv:
    """A convolution with its activation and residual sum, in one oneDNN call.

    Parameters
    ----------
    conv : Conv2d
    norm : BatchNorm2d, optional
        Follows the convolution; folded into it with its running statistics.
    dtype : torch.dtype
    """

    def __init__(
        self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None, *, dtype: torch.dtype
    ) -> None:
        weight = conv.weight.detach().double()
        bias = (
            conv.bias.detach().double()
            if conv.bias is not None
            else weight.new_zeros(weight.shape[0])
        )
        if norm is not None:
            scale, shift = affine_of(norm)
            weight = weight * scale[:, None, None, None]
            bias = bias * scale + shift
        last = torch.channels_last
        self.weight = weight.to(dtype).contiguous(memory_format=last)
        self.bias = bias.to(dtype)
        self.padding = list(conv.padding)
        self.groups = conv.groups

    def __call__(
        self, x: Tensor, activation: str = "none", add: Tensor | None = None
    ) -> Tensor:
        """activation(conv(x)) or conv(x) + add; activation is "none", "relu" or "gelu"."""
        ones = [1, 1]
        # "none" as algorithm is the exact (erf) GELU.
        algorithm = "none" if activation == "gelu" else None
        if add is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, self.padding, ones, ones, self.groups,
                activation, [], algorithm,
            )  # fmt: skip
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, add, self.weight, self.bias, self.padding, ones, ones, self.groups,
            "add", 1.0, None, [], None,
        )  # fmt: skip


def affine_of(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (float64) that batch normalisation is in evaluation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


class SplitConv:
    """A bfloat16 convolution of a float32 image that loses nothing by the rounding.

    Image and weights are each the sum of two bfloat16 parts, and three of the four products
    go in as further input channels (the fourth is below the rounding of the result). The
    first layer is where rounding hurts most and channels are cheapest.

    Parameters
    ----------
    conv : Conv2d
    norm : BatchNorm2d, optional
        As of `FusedConv`.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> None:
        exact = FusedConv(conv, norm, dtype=torch.float32)
        high = exact.weight.bfloat16()
        low = (exact.weight - high.float()).bfloat16()
        self._fused = FusedConv(conv, norm, dtype=torch.bfloat16)
        self._fused.weight = packed(torch.cat([high, high, low], dim=1))

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """activation(conv(x)) in bfloat16 of x in float32."""
        high = x.bfloat16()
        low = (x - high).bfloat16()
        return self._fused(packed(torch.cat([high, low, high], dim=1)), activation)
