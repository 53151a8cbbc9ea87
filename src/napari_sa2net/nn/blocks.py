"""Building blocks of SA2-Net.

Attribute names are those of the published code's state dicts, so that published
checkpoints load by name. Source of every block: Fiaz et al., BMVC 2023 (arXiv 2309.16661)
and its published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_sa2net.nn.base import resize
from napari_sa2net.nn.focal import FocalExponent

#: Depthwise kernels above this want their channels first on a GPU.
LARGE = 5


class ConvBatchNorm(nn.Module):
    """Conv3 + BatchNorm + ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return F.relu(self.norm(self.conv(x)))


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two times Conv3 + BatchNorm + ReLU."""
    return nn.Sequential(
        ConvBatchNorm(in_channels, out_channels), ConvBatchNorm(out_channels, out_channels)
    )


class DownBlock(nn.Module):
    """Encoder stage: MaxPool 2, then two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.nConvs = double_conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.nConvs(F.max_pool2d(x, 2))


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channel axis at each pixel (biased variance, eps 1e-6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # Channels last is a view for channels_last tensors, and layer_norm is fused there.
        """Compute the output."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, eps=1e-6)
        return y.permute(0, 3, 1, 2)


class Depthwise(nn.Conv2d):
    """Depthwise k×k convolution.

    Computed in float32 on a CPU, also under autocast: the bfloat16 kernels there are three
    to four times slower with gradients, and less exact. On a GPU large kernels get their
    channels first: cuDNN's depthwise kernels for channels last took up to eight times as long
    as PyTorch's own at 11×11 (and half as long at 5×5).
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        if x.device.type != "cpu" or x.dtype == self.weight.dtype == torch.float64:
            if self.kernel_size[0] <= LARGE:
                return super().forward(x)
            return self._conv_forward(x.contiguous(), channels_first(self.weight), self.bias)
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.float()
            weight = self.weight.float()
            if self.kernel_size[0] > STRIP and weight.requires_grad and torch.is_grad_enabled():
                y = _DepthwiseInStrips.apply(x.float(), weight, bias)
            else:
                y = self._conv_forward(x.float(), weight, bias)
        return y.to(x.dtype)


#: oneDNN's gradient of depthwise weights is fast up to this width, of whatever height, and
#: some twenty times slower beyond it.
STRIP = 3


class _DepthwiseInStrips(torch.autograd.Function):
    """A depthwise k×k convolution whose weights' gradient is computed in strips of columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the output."""
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _depthwise(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Gradients of input, weight and bias."""
        (grad,) = grads
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        for_x = _depthwise(grad, weight.flip(2, 3), None) if ctx.needs_input_grad[0] else None
        k, width = weight.shape[-1], x.shape[-1]
        padded = F.pad(x, (k // 2, k // 2 + -k % STRIP))
        strips = [
            torch.ops.aten.convolution_backward(
                grad,
                padded[..., start : start + width + STRIP - 1],
                weight[..., :STRIP],
                None,
                [1, 1],
                [k // 2, 0],
                [1, 1],
                False,
                [0, 0],
                x.shape[1],
                [False, True, False],
            )[1]
            for start in range(0, k, STRIP)
        ]
        for_bias = grad.sum((0, 2, 3)) if ctx.biased else None
        return for_x, torch.cat(strips, dim=-1)[..., :k], for_bias


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])


def channels_first(weight: Tensor) -> Tensor:
    """A depthwise weight (C, 1, k, k) with the strides of channels first.

    With one channel both orders are the same memory, but not the same strides, and by those
    PyTorch chooses the kernel.
    """
    return weight.flatten(1).view(weight.shape)


class LocalScaleAttention(nn.Module):
    """LSA: one scale's features gated by what two receptive fields agree on.

    The gates are σ(ReLU(·)), so they lie in [0.5, 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, 4 * channels, 1)
        self.dwconv3x3 = Depthwise(4 * channels, 3)
        self.dwconv5x5 = Depthwise(4 * channels, 5)
        self.project_out = nn.Conv2d(4 * channels, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.gated(x)[0]

    def gated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output (B, C, h, w) and the gates (B, 4C, h, w) that made it."""
        x = self.project_in(x)
        value = F.relu(self.dwconv3x3(x))
        gate = self.gate(F.relu(self.dwconv5x5(x)))
        # The published code gates two halves apart and concatenates: the same product.
        return self.project_out(value * gate), gate


class Mlp(nn.Module):
    """Pixel-wise MLP with a depthwise positional term and a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelLayerNorm(channels)
        self.fc1 = nn.Conv2d(channels, 4 * channels, 1)
        self.pos = Depthwise(channels, 3)
        self.fc2 = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        n = self.norm(x)
        n = n + F.gelu(self.pos(n))
        return self.fc2(F.gelu(self.fc1(n))) + x


class ScaleAwareAttention(nn.Module):
    """SA2: local attention per scale, then scale gates and a global query over all four.

    Parameters
    ----------
    channels : int
        Base channels C. The four inputs have C channels each; output i has
        (C, 2C, 4C, 8C)[i] channels at its input's resolution.
    scales : sequence of 4 bools
        Scales 1, 2, 3, 4 that something is added to; the gate of the others is 0.
    """

    def __init__(
        self, channels: int, scales: Sequence[bool] = (True, True, True, True)
    ) -> None:
        super().__init__()
        self.channels = channels
        self.scales = tuple(scales)
        for i, width in enumerate((1, 2, 4, 8), start=1):
            self.add_module(f"gcn{i}", LocalScaleAttention(channels))
            self.add_module(f"mlp{i}", Mlp(channels))
            self.add_module(f"conv{i}", nn.Conv2d(channels, width * channels, 3, padding=1))
        self.bn = nn.BatchNorm2d(4 * channels)
        self.conv = nn.Conv2d(4 * channels, channels + 4, 3, padding=1)
        self.qconv = Depthwise(channels, 5)
        # Identities: places where attention can be watched (or changed) by a hook.
        self.scale_gates = nn.Identity()
        self.global_query = nn.Identity()

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Compute the output."""
        grid = features[2].shape[-2:]
        local = [
            self.get_submodule(f"gcn{i}")(resize(f, grid))
            for i, f in enumerate(features, start=1)
        ]
        gates, query = self.mix(local)
        gates, query = self.scale_gates(self.switched(gates)), self.global_query(query)
        return [
            self.attended(i, f, local[i] * gates[:, i : i + 1] * query if on else None)
            for i, (f, on) in enumerate(zip(features, self.scales, strict=True))
        ]

    def mix(self, local: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scale gates (B, 4, h, w) and global query (B, C, h, w) of the local outputs.

        The gates are those of a block that has all its scales.
        """
        y = F.gelu(self.conv(self.bn(torch.cat(local, dim=1))))
        return y[:, self.channels :], F.gelu(self.qconv(y[:, : self.channels]))

    def switched(self, gates: Tensor) -> Tensor:
        """Gates (B, 4, h, w), 0 where the scale is off."""
        if all(self.scales):
            return gates
        return gates * torch.tensor(self.scales, device=gates.device)[:, None, None]

    def attended(self, i: int, feature: Tensor, gated: Tensor | None) -> Tensor:
        """Output i (from 0) of its feature and what attention adds; None adds nothing."""
        if gated is not None:
            feature = resize(gated, feature.shape[-2:]) + feature
        out: Tensor = self.get_submodule(f"conv{i + 1}")(
            self.get_submodule(f"mlp{i + 1}")(feature)
        )
        return out


class AttentionGate(nn.Module):
    """The gate of adaptive up-attention: ψ = σ(BN(Conv1(GELU[g, s]))), one channel.

    Not gated, ψ is 1 and what computes it is left out.
    """

    def __init__(
        self,
        channels: int,
        gamma: float = 1.0,
        learnable_gamma: bool = False,
        gated: bool = True,
    ) -> None:
        super().__init__()
        self.gated = gated
        # In the order of the published network: optimisers count parameters.
        if gated:
            self.dwconv = nn.Sequential(
                ChannelLayerNorm(channels),
                nn.Conv2d(channels, channels, 1),
                nn.GELU(),
                Depthwise(channels, 11),
            )
        self.conv = nn.Sequential(Depthwise(channels, 5))
        if gated:
            self.psi = nn.Sequential(
                nn.Conv2d(2 * channels, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid()
            )
            self.focal = FocalExponent(gamma, learnable_gamma)
        self.proj = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Compute the output."""
        s = self.conv(skip)
        psi = self.focal(self.coefficients(deep, s)) if self.gated else None
        return self.applied(psi, s, skip)

    def coefficients(self, deep: Tensor, s: Tensor) -> Tensor:
        """ψ (B, 1, h, w) of the deeper feature and the convolved skip, before the power."""
        # LN, Conv1 and GELU work pixel by pixel, so they commute with the nearest-neighbour
        # upsampling and cost a quarter before it.
        norm, conv1, gelu, conv11 = self.dwconv
        g = conv11(F.interpolate(gelu(conv1(norm(deep))), scale_factor=2, mode="nearest"))
        psi: Tensor = self.psi(F.gelu(torch.cat([g, s], dim=1)))
        return psi

    def applied(self, psi: Tensor | None, s: Tensor, skip: Tensor) -> Tensor:
        """The skip with what ψ lets through; all of it for None."""
        out: Tensor = self.proj(s if psi is None else psi * s) + skip
        return out


class UpBlock(nn.Module):
    """Decoder stage: adaptive up-attention (AuA), then two convolutions."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        gamma: float = 1.0,
        learnable_gamma: bool = False,
        gated: bool = True,
    ) -> None:
        super().__init__()
        self.AG = AttentionGate(channels, gamma, learnable_gamma, gated)
        self.nConvs = double_conv(channels, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Compute the output."""
        return self.nConvs(self.AG(deep, skip))
