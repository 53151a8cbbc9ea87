"""SA2-Net rewritten for speed on a CPU: the same function, fewer passes over memory.

Batch normalisation is folded into the convolution before it, activations and residual sums
run inside the convolutions (oneDNN's post-operations), what only repeats after upsampling is
computed before it, and the wide layers of the pixel-wise MLPs run in strips that stay in
cache. Of a tile's halo, only the coarse stages see all: the finer ones, which cost most and
look least far, run on the part that the result needs. In float32 the result equals the
network's to rounding.

In bfloat16 three places stay exact, because measured errors come from there and they cost
little: the image and the first layer's weights, scale-aware attention on its coarse grid,
and the main head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_sa2net.inference.fused import FusedConv, SplitConv, affine_of, packed
from napari_sa2net.nn import SA2Net
from napari_sa2net.nn.blocks import (
    AttentionGate,
    ChannelLayerNorm,
    ConvBatchNorm,
    LocalScaleAttention,
    Mlp,
    ScaleAwareAttention,
    UpBlock,
    resize,
)

#: Largest difference of float32 logits, relative to the largest, that the rewriting may make.
TOLERANCE = 1e-3

#: A part of a window: rows y0…y1-1, columns x0…x1-1, multiples of 16.
Part = tuple[int, int, int, int]
#: Pixels around the wanted part that the decoder at stride 8, 4, 2, 1 runs on (None: all).
#: A stage's longest way is its 11×11 and four 3×3 convolutions, 8 of its own pixels; what it
#: is given must be right that far out, so nothing of these cuts shows in the result.
MARGINS = (None, 64, 32, 16)

#: Elements of an MLP's wide layer, or of the head's input, that are computed in one piece:
#: they stay in the second-level cache.
STRIP_ELEMENTS = 2**20


class Forward(Protocol):
    """A network in evaluation; see `optimised`."""

    def __call__(self, x: Tensor, keep: Part | None = None) -> Tensor: ...


def optimised(net: SA2Net, device: torch.device, dtype: torch.dtype) -> Forward:
    """The network as a function, as fast as this device can run it.

    Parameters
    ----------
    net : SA2Net
        Left as it is; later changes of it have no effect on the function.
    device : torch.device
    dtype : torch.dtype
        float32, bfloat16 or float16, of the bulk of the computation.

    Returns
    -------
    Callable (x, keep=None) -> logits
        x is (B, in_channels, h, w) on the device, h and w multiples of 16; keep is the part
        whose logits are wanted, all if not given.
    """
    if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
        fast = _fused(net, dtype)
        if fast is not None:
            return fast
    own = copy.deepcopy(net).eval().to(device)
    own = own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(x: Tensor, keep: Part | None = None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits: Tensor = own(x)
        return logits if keep is None else logits[..., keep[0] : keep[1], keep[2] : keep[3]]

    return forward


def _fused(net: SA2Net, dtype: torch.dtype) -> FastSA2Net | None:
    """The rewritten network, or None where this PyTorch cannot run it or runs it wrongly."""
    if not torch.backends.mkldnn.is_available():
        return None
    # The fused calls are no public API: they are trusted only as far as they are tested.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, net.in_channels, 32, 48, generator=generator)
    training = net.training
    try:
        with torch.inference_mode():
            expected = net.eval()(x)
            difference = (FastSA2Net(net, torch.float32)(x) - expected).abs().max()
            if not difference <= TOLERANCE * expected.abs().max().clamp(min=1):
                return None
            fast = FastSA2Net(net, dtype)
            fast(x)
        return fast
    except (RuntimeError, AttributeError, TypeError):
        return None
    finally:
        net.train(training)


class FastSA2Net:
    """Callable like the network in evaluation; see `optimised`.

    Parameters
    ----------
    net : SA2Net
        Left as it is.
    dtype : torch.dtype
        float32 or bfloat16, of weights and activations.
    """

    def __init__(self, net: SA2Net, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.inc = (
            SplitConv(net.inc.conv, net.inc.norm)
            if dtype == torch.bfloat16
            else self._conv_norm(net.inc)
        )
        self.downs = [
            [self._conv_norm(c) for c in getattr(net, f"down{i}").nConvs] for i in (1, 2, 3, 4)
        ]
        self.sides = [self._conv(getattr(net, f"side_conv{i}")) for i in (2, 3, 4, 5)]
        self.attend = self._scale_aware(net.bottleneck)
        self.ups = [self._up(getattr(net, f"up{k}")) for k in (4, 3, 2, 1)]
        self.head = FusedConv(net.outc4, dtype=torch.float32)

    def __call__(self, x: Tensor, keep: Part | None = None) -> Tensor:
        x = packed(x)
        whole = (0, x.shape[-2], 0, x.shape[-1])
        parts = [_grown(keep or whole, margin, whole) for margin in MARGINS]
        features = [self.inc(x, "relu")]
        for first, second in self.downs:
            features.append(second(first(F.max_pool2d(features[-1], 2), "relu"), "relu"))
        scales = [features[0]]
        scales += [side(f) for side, f in zip(self.sides, features[1:4], strict=False)]
        deep = self.sides[3](features[4])
        del features
        skips = self.attend(scales, whole, parts[::-1])
        del scales
        inside = whole
        for up, part, stride in zip(self.ups, parts, (8, 4, 2, 1), strict=True):
            deep = up(_cut(deep, inside, part, 2 * stride), skips.pop())
            inside = part
        deep = _cut(deep, inside, keep or whole, 1)
        if self.dtype == torch.float32:
            return self.head(deep)
        return in_strips(lambda part: self.head(part.float()), deep)

    def _conv(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> FusedConv:
        return FusedConv(conv, norm, dtype=self.dtype)

    def _conv_norm(self, block: ConvBatchNorm) -> FusedConv:
        return self._conv(block.conv, block.norm)

    def _norm(self, norm: ChannelLayerNorm) -> Callable[[Tensor], Tensor]:
        weight, bias = norm.weight.detach().to(self.dtype), norm.bias.detach().to(self.dtype)

        def forward(x: Tensor) -> Tensor:
            y = F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps=1e-6)
            return y.permute(0, 3, 1, 2)

        return forward

    def _local(self, block: LocalScaleAttention) -> Callable[[Tensor], Tensor]:
        project_in, project_out, value, gate = (
            FusedConv(conv, dtype=torch.float32)
            for conv in (block.project_in, block.project_out, block.dwconv3x3, block.dwconv5x5)
        )

        def forward(x: Tensor) -> Tensor:
            x = project_in(x)
            return project_out(value(x, "relu").mul_(gate(x, "relu").sigmoid_()))

        return forward

    def _mlp(self, block: Mlp) -> Callable[[Tensor], Tensor]:
        norm, pos = self._norm(block.norm), self._conv(block.pos)
        fc1, fc2 = self._conv(block.fc1), self._conv(block.fc2)
        width = block.fc1.out_channels

        def forward(x: Tensor) -> Tensor:
            n = norm(x)
            n = pos(n, "gelu").add_(n)
            return in_strips(lambda n, x: fc2(fc1(n, "gelu"), add=x), n, x, width=width)

        return forward

    def _scale_aware(
        self, block: ScaleAwareAttention
    ) -> Callable[[list[Tensor], Part, list[Part]], list[Tensor]]:
        local = [self._local(block.get_submodule(f"gcn{i}")) for i in (1, 2, 3, 4)]  # type: ignore[arg-type]
        mlps = [self._mlp(block.get_submodule(f"mlp{i}")) for i in (1, 2, 3, 4)]  # type: ignore[arg-type]
        convs = [self._conv(block.get_submodule(f"conv{i}")) for i in (1, 2, 3, 4)]  # type: ignore[arg-type]
        mix, query_conv = (FusedConv(c, dtype=torch.float32) for c in (block.conv, block.qconv))
        # Not folded: the convolution after it pads with zeros, not with the shift.
        scale, shift = (v.float()[:, None, None] for v in affine_of(block.bn))
        channels = block.channels

        def forward(features: list[Tensor], whole: Part, parts: list[Part]) -> list[Tensor]:
            grid = features[2].shape[-2:]
            loc = [f(resize(x, grid).float()) for f, x in zip(local, features, strict=True)]
            y = mix(torch.addcmul(shift, torch.cat(loc, dim=1), scale), "gelu")
            query = query_conv(packed(y[:, :channels]), "gelu")
            out = []
            for i, (f, l_i) in enumerate(zip(features, loc, strict=True)):
                gated = (l_i * y[:, channels + i : channels + i + 1] * query).to(f.dtype)
                f = _cut(f, whole, parts[i], 2**i)
                e = resize(_cut(gated, whole, parts[i], 4), f.shape[-2:]) + f
                out.append(convs[i](mlps[i](e)))
            return out

        return forward

    def _gate(self, block: AttentionGate) -> Callable[[Tensor, Tensor], Tensor]:
        norm_layer, conv1, _, dw11 = _children(block.dwconv)
        norm, mix, wide = self._norm(norm_layer), self._conv(conv1), self._conv(dw11)
        (dw5,) = _children(block.conv)
        skip_conv, project = self._conv(dw5), self._conv(block.proj)
        psi_conv, psi_norm, _ = _children(block.psi)
        half = psi_conv.in_channels // 2
        deep_part, skip_part = nn.Conv2d(half, 1, 1), nn.Conv2d(half, 1, 1, bias=False)
        deep_part.weight.data = psi_conv.weight.data[:, :half].float()
        deep_part.bias.data = psi_conv.bias.data.float()  # type: ignore[union-attr]
        skip_part.weight.data = psi_conv.weight.data[:, half:].float()
        deep_psi = self._conv(deep_part, psi_norm)
        scale, _ = affine_of(psi_norm)
        skip_part.weight.data = (skip_part.weight.data.double() * scale).float()
        skip_psi = self._conv(skip_part)
        focal = copy.deepcopy(block.focal)

        def forward(deep: Tensor, skip: Tensor) -> Tensor:
            # Everything up to the depthwise convolution acts on pixels alone, so it
            # commutes with the nearest-neighbour upsampling: a quarter of the work.
            coarse = mix(norm(deep), "gelu")
            g = wide(F.interpolate(coarse, scale_factor=2, mode="nearest"), "gelu")
            s = skip_conv(skip)
            psi = focal(skip_psi(F.gelu(s), add=deep_psi(g)).sigmoid_())
            return project(s.mul_(psi), add=skip)

        return forward

    def _up(self, block: UpBlock) -> Callable[[Tensor, Tensor], Tensor]:
        gate = self._gate(block.AG)
        first, second = (self._conv_norm(c) for c in _children(block.nConvs))

        def forward(deep: Tensor, skip: Tensor) -> Tensor:
            return second(first(gate(deep, skip), "relu"), "relu")

        return forward


def in_strips(
    function: Callable[..., Tensor], *tensors: Tensor, width: int | None = None
) -> Tensor:
    """A function of pixels (B, C, h, w), computed in strips of rows that stay in cache.

    `width` is the number of channels at its widest, C of the first tensor if not given.
    """
    batch, channels, height, columns = tensors[0].shape
    rows = max(1, STRIP_ELEMENTS // ((width or channels) * batch * columns))
    if rows >= height:
        return function(*tensors)
    out: Tensor | None = None
    for y in range(0, height, rows):
        part = function(*(t[:, :, y : y + rows] for t in tensors))
        if out is None:
            shape = (batch, part.shape[1], height, columns)
            out = torch.empty(shape, dtype=part.dtype, memory_format=torch.channels_last)
        out[:, :, y : y + rows] = part
    assert out is not None
    return out


def _children(block: nn.Sequential) -> list[Any]:
    return list(block)


def _grown(part: Part, margin: int | None, whole: Part) -> Part:
    """The part with a margin around it, within the whole."""
    if margin is None:
        return whole
    y0, y1, x0, x1 = part
    return (
        max(whole[0], y0 - margin),
        min(whole[1], y1 + margin),
        max(whole[2], x0 - margin),
        min(whole[3], x1 + margin),
    )


def _cut(x: Tensor, have: Part, want: Part, stride: int) -> Tensor:
    """Features (B, C, h, w) at a stride, cut from one part to a part of it."""
    if want == have:
        return x
    top, left = have[0] // stride, have[2] // stride
    y0, y1, x0, x1 = (n // stride for n in want)
    return packed(x[..., y0 - top : y1 - top, x0 - left : x1 - left])
