"""SA2-Net rewritten for speed on a CPU: the same function, fewer passes over memory.

Batch normalisation is folded into the convolution before it, activations and residual sums
run inside the convolutions (oneDNN's post-operations), what only repeats after upsampling is
computed before it, and the wide layers of the pixel-wise MLPs run in strips that stay in
cache. Of a tile's halo, only the coarse stages see all: the finer ones, which cost most and
look least far, run on the part that the result needs. In float32 the result equals the
network's to rounding.

In bfloat16 four places stay exact, because measured errors come from there and they cost
little: the first layer, scale-aware attention on its coarse grid, what ψ takes from the deeper
feature, and the main head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.stages import (
    SA2NET_MARGINS,
    Staged,
    coarse_grid,
    packed,
    plain_stages,
    there,
)
from napari_sa2net.models.export import IMAGE, kept_onnx, needed
from napari_sa2net.models.file import Model
from napari_sa2net.nn import Network, SA2Net, pools_globally
from napari_sa2net.nn.blocks import (
    AttentionGate,
    ChannelLayerNorm,
    ConvBatchNorm,
    LocalScaleAttention,
    Mlp,
    ScaleAwareAttention,
    resize,
)

# --------------------------------------------------------------------------------------------
# Convolutions with what follows them, as single oneDNN calls (CPU).


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


#: Largest difference of float32 logits, relative to the largest, that the rewriting may make.
TOLERANCE = 1e-3

#: Elements of an MLP's wide layer, or of the head's input, that are computed in one piece:
#: they stay in the second-level cache.
STRIP_ELEMENTS = 2**20


def optimised(net: Network, device: torch.device, dtype: torch.dtype) -> Staged:
    """The network as a function, as fast as this device can run it.

    Parameters
    ----------
    net : SA2Net or FocalUNet
        Left as it is; later changes of it have no effect on the function.
    device : torch.device
    dtype : torch.dtype
        float32, bfloat16 or float16, of the bulk of the computation.

    Returns
    -------
    Callable (x, keep=None, see=None, change=AS_TRAINED, memo=None) -> logits
        As of `napari_sa2net.inference.stages.run`; x is on the device.
    """
    if (
        device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and isinstance(net, SA2Net)
        and not net.se
    ):
        fast = _fused(net, dtype)
        if fast is not None:
            return fast
    own = copy.deepcopy(net).eval().to(device)
    own = own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return plain_stages(own, dtype)


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
            exact = FastSA2Net(net, torch.float32)
            difference = (exact(x) - expected).abs().max()
            if not difference <= TOLERANCE * expected.abs().max().clamp(min=1):
                return None
            if dtype == torch.float32:
                return exact
            fast = FastSA2Net(net, dtype)
            fast(x)
        return fast
    except (RuntimeError, AttributeError, TypeError):
        return None
    finally:
        net.train(training)


class FastSA2Net(Staged):
    """The rewritten network; see `optimised`.

    Parameters
    ----------
    net : SA2Net
        Left as it is.
    dtype : torch.dtype
        float32 or bfloat16, of weights and activations.
    """

    margins = SA2NET_MARGINS
    has_scale_attention = True

    def __init__(self, net: SA2Net, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.gamma = there(net.gamma, net.gates)
        self.scales = net.bottleneck.scales
        self._set_encoder(net)
        self._sides = [self._conv(getattr(net, f"side_conv{i}")) for i in (2, 3, 4, 5)]
        block = net.bottleneck
        self._local = [self._gated(block.get_submodule(f"gcn{i}")) for i in (1, 2, 3, 4)]  # type: ignore[arg-type]
        self._mlps = [self._mlp(block.get_submodule(f"mlp{i}")) for i in (1, 2, 3, 4)]  # type: ignore[arg-type]
        self._outs = [self._conv(block.get_submodule(f"conv{i}")) for i in (1, 2, 3, 4)]  # type: ignore[arg-type]
        self._mix = _mixer(block)
        self._gates = [Gate(up.AG, dtype) for up in (net.up4, net.up3, net.up2, net.up1)]
        self._ups = [
            [self._conv_norm(c) for c in _children(getattr(net, f"up{k}").nConvs)]
            for k in (4, 3, 2, 1)
        ]
        heads = {8: net.outc1, 4: net.outc2, 2: net.outc3, 1: net.outc4}
        self._heads = {s: FusedConv(conv, dtype=torch.float32) for s, conv in heads.items()}

    def _set_encoder(self, net: SA2Net) -> None:
        self._inc = FusedConv(net.inc.conv, net.inc.norm, dtype=torch.float32)
        self._downs = [
            [self._conv_norm(c) for c in getattr(net, f"down{i}").nConvs] for i in (1, 2, 3, 4)
        ]

    def with_encoder(self, net: Network) -> FastSA2Net:
        """The same with the encoder of another network; all else is shared."""
        assert isinstance(net, SA2Net)
        own = copy.copy(self)
        own._set_encoder(net)
        return own

    # --- the stages ------------------------------------------------------------------------

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The four scales and the deepest feature."""
        features = [self._inc(packed(x), "relu").to(self.dtype)]
        for first, second in self._downs:
            features.append(second(first(F.max_pool2d(features[-1], 2), "relu"), "relu"))
        scales = [features[0]]
        scales += [side(f) for side, f in zip(self._sides, features[1:4], strict=False)]
        return scales, self._sides[3](features[4])

    def local(self, i: int, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Output of local attention, and its gates."""
        return self._local[i](resize(feature, coarse_grid(i, feature)).float())

    def mix(self, local: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scale gates and global query."""
        return self._mix(local)

    def attended(self, i: int, feature: Tensor, gated: Tensor | None) -> Tensor:
        """The skip of a scale, before squeeze and excitation."""
        if gated is not None:
            feature = resize(gated, feature.shape[-2:]) + feature
        return self._outs[i](self._mlps[i](feature))

    def side(self, k: int, skip: Tensor) -> Tensor:
        """The skip as ψ looks at it."""
        return self._gates[k].side(skip)

    def attention(self, k: int, deep: Tensor, side: Tensor) -> Tensor | None:
        """ψ before its power."""
        return self._gates[k].attention(deep, side)

    def powered(self, k: int, psi: Tensor, gamma: float | None) -> Tensor:
        """ψ to the power of an exponent."""
        out: Tensor = self._gates[k].focal(psi, gamma)
        return out

    def up(
        self, k: int, psi: Tensor | None, side: Tensor, skip: Tensor, deep: Tensor
    ) -> Tensor:
        """The stage's feature."""
        first, second = self._ups[k]
        let_through = side if psi is None else side.mul_(psi)
        return second(first(self._gates[k].project(let_through, add=skip), "relu"), "relu")

    def head(self, stride: int, feature: Tensor) -> Tensor:
        """Logits of a stage's feature."""
        head = self._heads[stride]
        if self.dtype == torch.float32:
            return head(feature)
        return in_strips(lambda part: head(part.float()), feature)

    # --- what they are made of -------------------------------------------------------------

    def _conv(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> FusedConv:
        return FusedConv(conv, norm, dtype=self.dtype)

    def _conv_norm(self, block: ConvBatchNorm) -> FusedConv:
        return self._conv(block.conv, block.norm)

    def _gated(self, block: LocalScaleAttention) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        project_in, project_out, value, gate = (
            FusedConv(conv, dtype=torch.float32)
            for conv in (block.project_in, block.project_out, block.dwconv3x3, block.dwconv5x5)
        )

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            x = project_in(x)
            gates = gate(x, "relu").sigmoid_()
            return project_out(value(x, "relu").mul_(gates)), gates

        return forward

    def _mlp(self, block: Mlp) -> Callable[[Tensor], Tensor]:
        norm, pos = _layer_norm(block.norm, self.dtype), self._conv(block.pos)
        fc1, fc2 = self._conv(block.fc1), self._conv(block.fc2)
        width = block.fc1.out_channels

        def forward(x: Tensor) -> Tensor:
            n = norm(x)
            n = pos(n, "gelu").add_(n)
            return in_strips(lambda n, x: fc2(fc1(n, "gelu"), add=x), n, x, width=width)

        return forward


class Gate:
    """Adaptive up-attention; see `napari_sa2net.nn.blocks.AttentionGate`."""

    def __init__(self, block: AttentionGate, dtype: torch.dtype) -> None:
        (dw5,) = _children(block.conv)
        self.side = FusedConv(dw5, dtype=dtype)
        self.project = FusedConv(block.proj, dtype=dtype)
        self._gated = block.gated
        if not block.gated:
            return
        norm, conv1, _, dw11 = _children(block.dwconv)
        self._norm = _layer_norm(norm, dtype)
        self._mix, self._wide = FusedConv(conv1, dtype=dtype), FusedConv(dw11, dtype=dtype)
        psi_conv, psi_norm, _ = _children(block.psi)
        half = psi_conv.in_channels // 2
        deep_part, skip_part = nn.Conv2d(half, 1, 1), nn.Conv2d(half, 1, 1, bias=False)
        deep_part.weight.data = psi_conv.weight.data[:, :half].float()
        deep_part.bias.data = psi_conv.bias.data.float()  # type: ignore[union-attr]
        # In float32: its large weights cancel, so their rounding moves borders.
        self._deep_psi = FusedConv(deep_part, psi_norm, dtype=torch.float32)
        scale, _ = affine_of(psi_norm)
        weight = psi_conv.weight.data[:, half:].float()
        skip_part.weight.data = (weight.double() * scale).float()
        self._skip_psi = FusedConv(skip_part, dtype=dtype)
        self.focal = copy.deepcopy(block.focal)

    def attention(self, deep: Tensor, side: Tensor) -> Tensor | None:
        """ψ of the deeper feature and the convolved skip, before its power; None: no gate."""
        if not self._gated:
            return None
        # Everything up to the depthwise convolution acts on pixels alone, so it commutes
        # with the nearest-neighbour upsampling: a quarter of the work.
        coarse = self._mix(self._norm(deep), "gelu")
        g = self._wide(F.interpolate(coarse, scale_factor=2, mode="nearest"), "gelu")
        psi = in_strips(lambda part: self._deep_psi(part.float()), g)
        return psi.add_(self._skip_psi(F.gelu(side))).sigmoid_().to(side.dtype)


def _mixer(block: ScaleAwareAttention) -> Callable[[list[Tensor]], tuple[Tensor, Tensor]]:
    mix, query_conv = (FusedConv(c, dtype=torch.float32) for c in (block.conv, block.qconv))
    # Not folded: the convolution after it pads with zeros, not with the shift.
    scale, shift = (v.float()[:, None, None] for v in affine_of(block.bn))
    channels = block.channels

    def forward(local: list[Tensor]) -> tuple[Tensor, Tensor]:
        y = mix(torch.addcmul(shift, torch.cat(local, dim=1), scale), "gelu")
        return y[:, channels:], query_conv(packed(y[:, :channels]), "gelu")

    return forward


def _layer_norm(norm: ChannelLayerNorm, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    weight, bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)

    def forward(x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps=1e-6)
        return y.permute(0, 3, 1, 2)

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


# --------------------------------------------------------------------------------------------
# Whole networks run by libraries of others: OpenVINO and ONNX Runtime.

#: Extra that a library comes with.
LIBRARIES = {"openvino": "openvino", "onnxruntime": "onnx"}


def check_engine(engine: str) -> bool:
    """Whether an engine is a library beside PyTorch.

    Raises
    ------
    SettingsError
        If it is not installed.
    """
    if engine not in LIBRARIES:
        return False
    needed(engine, LIBRARIES[engine])
    return True


class Library:
    """A model run by a library: logits of windows, and nothing of what lies between.

    Parameters
    ----------
    model : Model
    engine : str
        ``openvino`` or ``onnxruntime``.

    Attributes
    ----------
    name : str
        Of the library, with its version.

    Raises
    ------
    SettingsError
        If it is not installed, or cannot run such a network.
    """

    def __init__(self, model: Model, engine: str) -> None:
        check_engine(engine)
        if pools_globally(model.net):
            raise SettingsError(
                f"{model.name!r} weighs channels by what it sees of the whole image, which "
                f"{engine} cannot do piece by piece. Choose --engine torch."
            )
        self.name = f"{engine} {version(engine)}"
        load = self._openvino if engine == "openvino" else self._onnxruntime
        path = kept_onnx(model)
        try:
            self._run = load(path)
        except Exception:  # each library has errors of its own for a damaged file
            self._run = load(kept_onnx(model, anew=True))

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, classes, h, w) of windows whose sides are multiples of 16."""
        return torch.from_numpy(self._run(np.ascontiguousarray(x.numpy())))

    def _openvino(self, path: Path) -> Callable[[Any], Any]:
        openvino = import_module("openvino")
        compiled = openvino.Core().compile_model(
            path,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                # Its bfloat16 rounds everywhere: probabilities were off by up to 0.067.
                "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        return lambda x: compiled(x)[0].copy()

    def _onnxruntime(self, path: Path) -> Callable[[Any], Any]:
        onnxruntime = import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        return lambda x: session.run(None, {IMAGE: x})[0]
