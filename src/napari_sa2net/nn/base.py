"""What all our networks share: padding, four heads, and modules on the four skips."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_sa2net.config import ALL
from napari_sa2net.nn.focal import FocalExponent, FocalSE

#: Height and width inside a network are multiples of this (four poolings by 2).
STRIDE = 16
#: Channels of the skips 4, 3, 2, 1 in units of the base channels.
SKIP_WIDTHS = (8, 4, 2, 1)

#: How far an image's statistics stand in for those of training (`adapted_to`).
ADAPTED = 0.75

T = TypeVar("T")
N = TypeVar("N", bound="SegmentationNet")


class SegmentationNet(nn.Module):
    """A network with four skips, four heads and an attention module on every skip.

    Sequences of four go from the deepest skip to the shallowest (4, 3, 2, 1).

    Parameters
    ----------
    in_channels : int
        Channels of the input image, >= 1.
    n_classes : int
        Channels of the output: 1 is a sigmoid model, more a softmax model.
    base_channels : int
        Width C; skip k has 2^(k-1) C channels.
    gates, se : four bools
        Skips with an attention gate, and with squeeze and excitation.
    scales : four bools
        Skips that scale-aware attention adds to, where there is any.
    gamma, se_gamma : four floats in 0…8
        Focal exponents of the gates, and of squeeze and excitation.
    learnable_gamma : bool
        Train all exponents.

    Raises
    ------
    ValueError
        If a size is below 1 or a sequence does not have four good values.
    """

    #: Modules from the image to the deepest feature, one after the other.
    encoder: ClassVar[tuple[str, ...]]
    #: Stages of the decoder, each network's own.
    up4: Any
    up3: Any
    up2: Any
    up1: Any

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        base_channels: int,
        gamma: Sequence[float],
        learnable_gamma: bool,
        gates: Sequence[bool],
        se: Sequence[bool],
        se_gamma: Sequence[float],
        scales: Sequence[bool] = ALL,
    ) -> None:
        super().__init__()
        if min(in_channels, n_classes, base_channels) < 1:
            raise ValueError(
                "in_channels, n_classes and base_channels must be at least 1, got "
                f"{in_channels}, {n_classes}, {base_channels}"
            )
        self.in_channels = in_channels
        self.n_classes = n_classes
        self.base_channels = base_channels
        self.gates = _four("gates", gates)
        self.scales = _four("scales", scales)
        _four("gamma", gamma)
        #: Squeeze and excitation by skip, "4" to "1"; no entry where there is none.
        self.se = nn.ModuleDict(
            {
                str(k): FocalSE(width * base_channels, exponent, learnable_gamma)
                for k, width, wanted, exponent in zip(
                    (4, 3, 2, 1),
                    SKIP_WIDTHS,
                    _four("se", se),
                    _four("se_gamma", se_gamma),
                    strict=True,
                )
                if wanted
            }
        )

    def _add_heads(self) -> None:
        """The four heads; last, as checkpoints of optimisers count parameters in order."""
        c, n_classes = self.base_channels, self.n_classes
        self.outc4 = nn.Conv2d(c, n_classes, 1)
        self.outc3 = nn.Conv2d(c, n_classes, 1)
        self.outc2 = nn.Conv2d(2 * c, n_classes, 1)
        self.outc1 = nn.Conv2d(4 * c, n_classes, 1)

    @property
    def gamma(self) -> tuple[float, float, float, float]:
        """Focal exponents of ψ4, ψ3, ψ2, ψ1 as they are now; 0 where there is no gate."""
        return self._exponents("up{}.AG.focal")

    @property
    def se_gamma(self) -> tuple[float, float, float, float]:
        """Focal exponents of squeeze and excitation, skips 4, 3, 2, 1; 0 where none is."""
        return self._exponents("se.{}.focal")

    def _exponents(self, path: str) -> tuple[float, float, float, float]:
        modules = dict(self.named_modules())
        g4, g3, g2, g1 = (
            module.value if isinstance(module, FocalExponent) else 0.0
            for module in (modules.get(path.format(k)) for k in (4, 3, 2, 1))
        )
        return g4, g3, g2, g1

    def excite(self, skips: list[Tensor]) -> list[Tensor]:
        """The skips 1…4, channels weighted where there is squeeze and excitation."""
        return [
            self.se[str(k)](skip) if str(k) in self.se else skip
            for k, skip in enumerate(skips, start=1)
        ]

    def decode(self, skips: list[Tensor], deepest: Tensor) -> list[Tensor]:
        """Decoder features P4, P3, P2, P1 from the skips 1…4 and the deepest feature."""
        skips = self.excite(skips)
        p4 = self.up4(deepest, skips[3])
        p3 = self.up3(p4, skips[2])
        p2 = self.up2(p3, skips[1])
        return [p4, p3, p2, self.up1(p2, skips[0])]

    def features(self, x: Tensor) -> list[Tensor]:
        """Decoder features P4, P3, P2, P1 of an image whose sides are multiples of 16."""
        raise NotImplementedError

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
        logits = self.heads(self.features(pad_to_stride(x)), deep_supervision)
        cropped = [y[..., :height, :width] for y in logits]
        return cropped if deep_supervision else cropped[0]


def with_encoder(net: N, of: SegmentationNet) -> N:
    """A network with a copy of another one's encoder; it shares all else with the first."""
    own = copy.copy(net)
    own._modules = dict(net._modules)
    at = next(net.parameters())
    for name in net.encoder:
        own._modules[name] = copy.deepcopy(of._modules[name]).to(at.device)  # type: ignore[union-attr]
    return own


@torch.no_grad()
def adapted_to(net: N, x: Tensor) -> N:
    """A network whose encoder is normalised by the statistics of an image.

    Another stain, microscope or camera shifts what the encoder's convolutions give; with the
    means and variances of training, layers after them see what they have never seen.

    Parameters
    ----------
    net : SegmentationNet
        In evaluation; left as it is, and shares all but its encoder with what is returned.
    x : Tensor (B, in_channels, H, W)
        Windows of the image, on any device; sides are multiples of `STRIDE`.

    Returns
    -------
    SegmentationNet
        On the device of `net`.

    Notes
    -----
    Adaptive batch normalisation (Li et al., Pattern Recognition 80 (2018) 109), with the
    weight of the training's statistics as of Schneider et al. (NeurIPS 2020). That it is the
    encoder alone was chosen by measurement (docs/models.md).

    Examples
    --------
    >>> import torch
    >>> from napari_sa2net.nn import SA2Net, adapted_to
    >>> net = SA2Net(base_channels=8).eval()
    >>> own = adapted_to(net, torch.rand(1, 3, 64, 64))
    >>> own.up1 is net.up1, own.down1 is net.down1
    (True, False)
    """
    own = with_encoder(net, net)

    def take(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        values = inputs[0].float()
        new, own_mean = torch.var_mean(values, (0, 2, 3), correction=0)
        # of what training and the image together would show
        variance.lerp_(new, ADAPTED).add_(ADAPTED * (1 - ADAPTED) * (own_mean - mean) ** 2)
        mean.lerp_(own_mean, ADAPTED)

    handles = [
        norm.register_forward_pre_hook(take)
        for name in net.encoder
        for norm in getattr(own, name).modules()
        if isinstance(norm, nn.BatchNorm2d)
    ]
    for name in net.encoder:
        x = getattr(own, name).to(x.device)(x)
    for handle in handles:
        handle.remove()
    return with_encoder(net, own)


def _four(name: str, values: Sequence[T]) -> tuple[T, ...]:
    if len(values) != 4:
        raise ValueError(f"{name} needs four values (skips 4, 3, 2, 1), got {len(values)}")
    return tuple(values)


def resize(x: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Bilinear resize to (h, w), align_corners=False; the tensor itself if it fits."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def activate(logits: Tensor, classes: int | None = None) -> Tensor:
    """Probabilities of logits (B, C, H, W).

    Parameters
    ----------
    logits : Tensor
    classes : int, optional
        So many channels, the first, are classes of which one is right (`config.n_classes`);
        each of the others is a value in 0…1 by itself. Unsaid: all are classes.
    """
    n = logits.shape[1] if classes is None else classes
    p = logits[:, :n].sigmoid() if n == 1 else logits[:, :n].softmax(dim=1)
    return p if n == logits.shape[1] else torch.cat([p, logits[:, n:].sigmoid()], dim=1)


def pad_to_stride(x: Tensor) -> Tensor:
    """Pad (B, C, H, W) at bottom and right to multiples of `STRIDE` by reflection.

    The reflection repeats where the image is smaller than the pad (as numpy's does); an
    axis of one pixel repeats its value.
    """
    for axis in (-2, -1):
        n = x.shape[axis]
        if n % STRIDE:
            index = reflect_index(n, n + (-n) % STRIDE, x.device)
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


# --------------------------------------------------------------------------------------------
# Watch a SA2-Net's attention while it runs.

#: Module whose output is each map, by public name. The scale gates come as one tensor.
LOCAL_GATES = {f"local_gate_{i}": f"bottleneck.gcn{i}.gate" for i in (1, 2, 3, 4)}
AUA_MAPS = {f"aua_{2 ** (k - 1)}": f"up{k}.AG.focal" for k in (4, 3, 2, 1)}
SCALE_GATES = tuple(f"scale_gate_{i}" for i in (1, 2, 3, 4))
#: All map names, in the order the network computes them.
ATTENTION_NAMES = (*LOCAL_GATES, *SCALE_GATES, "global_query", *AUA_MAPS)


@contextmanager
def capture_attention(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the attention maps of every forward pass inside the block.

    Parameters
    ----------
    net : SA2Net
        A network without some of the stages yields only the maps that it has.

    Yields
    ------
    dict of str to Tensor, filled by the forward pass, the last pass winning
        Detached float32 copies (B, C, h, w) on the network's grids, which belong to the
        input padded to multiples of 16: ``scale_gate_1``…``4`` and ``global_query`` and
        ``local_gate_1``…``4`` at stride 4, ``aua_8``, ``aua_4``, ``aua_2``, ``aua_1`` (ψ of
        up4…up1) at strides 8, 4, 2, 1. The hooks are gone when the block ends, also by an
        error.
    """
    maps: dict[str, Tensor] = {}
    modules = dict(net.named_modules())

    def keep(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            maps[name] = output.detach().float().clone()

        handles.append(modules[paths[name]].register_forward_hook(hook))

    def keep_gates(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        for i, name in enumerate(SCALE_GATES):
            maps[name] = output[:, i : i + 1].detach().float().clone()

    paths = {**LOCAL_GATES, "global_query": "bottleneck.global_query", **AUA_MAPS}
    handles = []
    try:
        for name, path in paths.items():
            if path in modules:
                keep(name)
        if "bottleneck.scale_gates" in modules:
            handles.append(modules["bottleneck.scale_gates"].register_forward_hook(keep_gates))
        yield maps
    finally:
        for handle in handles:
            handle.remove()
