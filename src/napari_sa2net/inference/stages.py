"""One pass of a network, stage by stage: watched, changed, or resumed where it was changed.

The ordinary prediction, the capture of attention and the what-ifs are one and the same code,
so that looking at the network cannot alter what it answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_sa2net.nn import FocalGate, FocalSE, FocalUNet, Network, SA2Net, with_encoder
from napari_sa2net.nn.blocks import AttentionGate, LocalScaleAttention, resize

#: A part of a window: rows y0…y1-1, columns x0…x1-1, multiples of 16.
Part = tuple[int, int, int, int]
#: Strides of the decoder's stages, in the order in which they run.
STAGES = (8, 4, 2, 1)

#: Pixels around the wanted part that a SA2-Net's decoder at stride 8, 4, 2, 1 runs on (None:
#: all). A stage's longest way is its 11×11 and four 3×3 convolutions, 8 of its own pixels; what
#: it is given must be right that far out, so nothing of these cuts shows in the result.
SA2NET_MARGINS = (None, 64, 32, 16)
#: The same of a FocalUNet: two 3×3 convolutions, 2 of its own pixels. That needs 32, 16, 8, 2;
#: in steps of 8 of its own pixels, convolutions also round as they do without the cut.
UNET_MARGINS = (64, 32, 16, 16)

#: What the first pass leaves for later ones, by name.
Memo = dict[str, Tensor]

#: Exponents at strides 8, 4, 2, 1; None: the network's own, or none to have.
Exponents = tuple[float | None, ...]
#: Gates of the scales 1…4, on or off; None: as the network has them.
Switches = tuple[bool | None, ...]
OWN = (None, None, None, None)


@dataclass(frozen=True)
class Change:
    """A change of attention.

    Attributes
    ----------
    gates
        For each scale 1…4: its gate switched on, or off (0); None keeps it as the network has
        it.
    gamma
        Exponents of ψ at strides 8, 4, 2, 1, in place of the network's own; None keeps that.
    se_gamma
        The same of squeeze and excitation on the skips.
    """

    gates: Switches = OWN
    gamma: Exponents = OWN
    se_gamma: Exponents = OWN

    @property
    def first(self) -> int:
        """The first stage (index in `STAGES`) that it touches; 4 for none."""
        touched = [3 - i for i, on in enumerate(self.gates) if on is not None]
        for exponents in (self.gamma, self.se_gamma):
            touched += [k for k, gamma in enumerate(exponents) if gamma is not None]
        return min(touched, default=len(STAGES))

    def of(self, net: Staged) -> Change:
        """What of it makes a difference to a network."""
        return Change(
            _switched(self.gates, net.scales),
            _other(self.gamma, net.gamma),
            _other(self.se_gamma, net.se_gamma),
        )


AS_TRAINED = Change()


class See(Protocol):
    """Told of each attention map and head; must not change or keep the tensor."""

    def __call__(self, name: str, values: Tensor, part: Part, stride: int) -> None:
        """`values` is (B, C, h, w) of a part of the window, on the grid of the stride."""


class Staged:
    """A network in evaluation, cut into its stages.

    Scales i = 0…3 are those of strides 1, 2, 4, 8; stages k = 0…3 those of `STAGES`.

    Attributes
    ----------
    has_scale_attention
        Whether there are local gates, scale gates and a query.
    gamma, se_gamma
        The own exponents of ψ, and of squeeze and excitation; None where there is none.
    scales
        Which scale gates are on; None where there is none.
    margins
        Pixels around the wanted part that each stage runs on; None: all.
    """

    has_scale_attention: bool
    gamma: Any = OWN
    se_gamma: Any = OWN
    scales: Any = OWN
    margins: Any

    def __call__(
        self,
        x: Tensor,
        keep: Part | None = None,
        see: See | None = None,
        change: Change = AS_TRAINED,
        memo: Memo | None = None,
    ) -> Tensor:
        """Logits of a window; see `run`."""
        with self._precision(x):
            return run(self, packed(x), keep, see, change, memo)

    def see_attention(self, x: Tensor, see: See) -> None:
        """Run only as far as local attention, scale gates and query."""
        if not self.has_scale_attention:
            return
        with self._precision(x):
            whole = (0, x.shape[-2], 0, x.shape[-1])
            _attend(self, self.encode(packed(x))[0], whole, see)

    def _precision(self, x: Tensor) -> AbstractContextManager[Any]:
        return nullcontext()

    def with_encoder(self, net: Network) -> Staged:
        """The same with the encoder of another network; all else is shared."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The four scales and the deepest feature."""
        raise NotImplementedError

    def local(self, i: int, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Output of local attention, on the grid of stride 4, and its gates."""
        raise NotImplementedError

    def mix(self, local: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scale gates, as if all were on, and global query."""
        raise NotImplementedError

    def attended(self, i: int, feature: Tensor, gated: Tensor | None) -> Tensor:
        """The skip of a scale, before squeeze and excitation."""
        return feature

    def excited(self, i: int, skip: Tensor, gamma: float | None) -> Tensor:
        """The skip with its channels weighted; itself where there is nothing to do that."""
        return skip

    def side(self, k: int, skip: Tensor) -> Tensor:
        """The skip as ψ looks at it."""
        return skip

    def attention(self, k: int, deep: Tensor, side: Tensor) -> Tensor | None:
        """ψ (B, 1, h, w) before its power; None where the stage has none."""
        raise NotImplementedError

    def powered(self, k: int, psi: Tensor, gamma: float | None) -> Tensor:
        """ψ to the power of the stage's own exponent, or of another one."""
        raise NotImplementedError

    def up(
        self, k: int, psi: Tensor | None, side: Tensor, skip: Tensor, deep: Tensor
    ) -> Tensor:
        """The stage's feature; may overwrite `side`."""
        raise NotImplementedError

    def head(self, stride: int, feature: Tensor) -> Tensor:
        """Logits of a stage's feature, on its own grid."""
        raise NotImplementedError


def run(
    net: Staged,
    x: Tensor,
    keep: Part | None = None,
    see: See | None = None,
    change: Change = AS_TRAINED,
    memo: Memo | None = None,
) -> Tensor:
    """Logits of a window.

    Parameters
    ----------
    net : Staged
    x : (B, in_channels, h, w), h and w multiples of 16
    keep : (y0, y1, x0, x1), optional
        Part whose logits are wanted.
    see : callable, optional
        Shown ``local_gate_*``, ``scale_gate_*``, ``global_query``, ``aua_*`` and the logits
        ``head_8``, ``head_4``, ``head_2``.
    change : Change
    memo : dict, optional
        Filled where it is empty; then a pass runs only what its change touches. One per
        window and `keep`; its tensors must not be altered.

    Returns
    -------
    (B, classes, h, w) of `keep`
    """
    change = change.of(net)
    if memo is not None and not memo and change != AS_TRAINED:
        run(net, x, keep, memo=memo)
    whole = (0, x.shape[-2], 0, x.shape[-1])
    wanted = keep or whole
    parts = [grown(wanted, margin, whole) for margin in net.margins]
    if memo and "logits" in memo:
        first = change.first
        if first == len(STAGES):
            return memo["logits"]
        values = memo
    else:
        first = 0
        values = {} if memo is None else memo
        _begin(net, x, whole, parts, see, values)
    kept = memo is not None
    # What a change has touched is not what later passes may build on.
    untouched = kept and "logits" not in values

    deep, inside = values["up_16"], whole
    if first:
        deep, inside = values[f"up_{2 * STAGES[first]}"], parts[first - 1]
    if not kept:
        del values["up_16"]
    for k in range(first, len(STAGES)):
        stride, part, i = STAGES[k], parts[k], 3 - k
        deep = cut(deep, inside, part, 2 * stride)
        on = bool(net.scales[i] if change.gates[i] is None else change.gates[i])
        skip = _skip(net, i, on, values, kept)
        skip = net.excited(i, skip, change.se_gamma[k])
        side = net.side(k, skip)
        same = k == first and change.gates[i] is None and change.se_gamma[k] is None
        if same and f"psi_{stride}" in values:
            psi: Tensor | None = values[f"psi_{stride}"]
        else:
            psi = net.attention(k, deep, side)
        if psi is not None:
            if untouched:
                values[f"psi_{stride}"] = psi
            psi = net.powered(k, psi, change.gamma[k])
            if see is not None:
                see(f"aua_{stride}", psi, part, stride)
        deep, inside = net.up(k, psi, side, skip, deep), part
        del skip, side, psi
        if stride > 1:
            if untouched:
                values[f"up_{stride}"] = deep
            if see is not None:
                see(f"head_{stride}", net.head(stride, deep), part, stride)
    logits = net.head(1, cut(deep, inside, wanted, 1))
    if untouched:
        values["logits"] = logits
    return logits


def _attend(
    net: Staged, scales: list[Tensor], whole: Part, see: See | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    local = []
    for i, feature in enumerate(scales):
        value, gate = net.local(i, feature)
        local.append(value)
        if see is not None:
            see(f"local_gate_{i + 1}", gate, whole, 4)
    gates, query = net.mix(local)
    if see is not None:
        for i, on in enumerate(net.scales):
            gate = gates[:, i : i + 1]
            see(f"scale_gate_{i + 1}", gate if on else torch.zeros_like(gate), whole, 4)
        see("global_query", query, whole, 4)
    return local, gates, query


def _begin(
    net: Staged,
    x: Tensor,
    whole: Part,
    parts: Sequence[Part],
    see: See | None,
    values: Memo,
) -> None:
    """Encoder and scale attention: what every skip is made of, cut to where it is needed."""
    scales, values["up_16"] = net.encode(x)
    if net.has_scale_attention:
        local, gates, query = _attend(net, scales, whole, see)
        for i, part in enumerate(reversed(parts)):
            gated = (local[i] * gates[:, i : i + 1] * query).to(scales[i].dtype)
            values[f"gated_{i}"] = cut(gated, whole, part, 4)
    for i, part in enumerate(reversed(parts)):
        values[f"scale_{i}"] = cut(scales[i], whole, part, 2**i)


def _skip(net: Staged, i: int, on: bool, values: Memo, kept: bool) -> Tensor:
    """The skip of a scale, before squeeze and excitation."""
    name = f"skip_{i}" if on else f"skip_{i}_off"
    if name in values:
        return values[name]
    feature = values[f"scale_{i}"] if kept else values.pop(f"scale_{i}")
    gated = values.pop(f"gated_{i}", None)
    if not kept:
        return net.attended(i, feature, gated if on else None)
    # Both now, so that every later answer comes as soon as the others.
    values[f"skip_{i}"] = net.attended(i, feature, gated)
    values[f"skip_{i}_off"] = net.attended(i, values.pop(f"scale_{i}"), None)
    return values[name]


def there(gamma: Sequence[float], has: Sequence[bool]) -> Exponents:
    """Exponents, None where there is no module to have one."""
    return tuple(g if t else None for g, t in zip(gamma, has, strict=True))


def _switched(wanted: Switches, own: Switches) -> Switches:
    """The switches that are wanted, None where the network's are so, or it has none."""
    return tuple(
        None if a is None or b is None or a == b else a
        for a, b in zip(wanted, own, strict=True)
    )


def _other(wanted: Exponents, own: Exponents) -> Exponents:
    """The exponents that are wanted, None where they are the network's, or it has none."""
    return tuple(
        # A network keeps its own in float32.
        None if a is None or b is None or math.isclose(a, b, rel_tol=1e-6) else a
        for a, b in zip(wanted, own, strict=True)
    )


def grown(part: Part, margin: int | None, whole: Part) -> Part:
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


def cut(x: Tensor, have: Part, want: Part, stride: int) -> Tensor:
    """Features (B, C, h, w) at a stride, cut from one part to a part of it."""
    if want == have:
        return x
    top, left = have[0] // stride, have[2] // stride
    y0, y1, x0, x1 = (n // stride for n in want)
    return packed(x[..., y0 - top : y1 - top, x0 - left : x1 - left])


def n_bytes(memo: Memo) -> int:
    """Memory that a memo holds, in bytes."""
    return sum(t.untyped_storage().nbytes() for t in memo.values())


def coarse_grid(i: int, feature: Tensor) -> tuple[int, int]:
    """Height and width at stride 4 of the scale i (stride 2^i)."""
    height, width = feature.shape[-2:]
    return (height << i) // 4, (width << i) // 4


def packed(x: Tensor) -> Tensor:
    """The tensor, dense in channels-last order."""
    return x.contiguous(memory_format=torch.channels_last)


# --------------------------------------------------------------------------------------------
# Networks as they are, on any device, in the stages of `napari_sa2net.inference.stages`.


class _Plain(Staged):
    """What `PlainSA2Net` and `PlainUNet` share.

    Parameters
    ----------
    net
        In evaluation, on its device.
    dtype : torch.dtype
        float32, or what autocast shall use.
    """

    own_margins: tuple[int | None, ...]

    def __init__(self, net: Network, dtype: torch.dtype) -> None:
        self.net = net
        self._ups: tuple[Any, ...] = (net.up4, net.up3, net.up2, net.up1)
        self._heads = {8: net.outc1, 4: net.outc2, 2: net.outc3, 1: net.outc4}
        self._dtype = dtype

    def with_encoder(self, net: Network) -> Staged:
        """The same with the encoder of another network; all else is shared."""
        own = with_encoder(self.net, net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return plain_stages(own, self._dtype)

    def _precision(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, self._dtype, enabled=self._dtype != torch.float32)

    @property
    def margins(self) -> tuple[int | None, ...]:  # type: ignore[override]
        # squeeze and excitation that pools over what it is given must be given all
        if any(cast(FocalSE, se).means is None for se in self.net.se.values()):
            return (None,) * len(STAGES)
        return self.own_margins

    @property
    def gamma(self) -> Exponents:  # type: ignore[override]
        return there(self.net.gamma, self.net.gates)

    @property
    def se_gamma(self) -> Exponents:  # type: ignore[override]
        has = (str(k) in self.net.se for k in (4, 3, 2, 1))
        return there(self.net.se_gamma, tuple(has))

    def excited(self, i: int, skip: Tensor, gamma: float | None) -> Tensor:
        name = str(i + 1)
        out: Tensor = self.net.se[name](skip, gamma) if name in self.net.se else skip
        return out

    def powered(self, k: int, psi: Tensor, gamma: float | None) -> Tensor:
        out: Tensor = self._ups[k].AG.focal(psi, gamma)
        return out

    def head(self, stride: int, feature: Tensor) -> Tensor:
        logits: Tensor = self._heads[stride](feature)
        return logits


class PlainSA2Net(_Plain):
    """A SA2-Net's own modules, in stages, on any device."""

    own_margins = SA2NET_MARGINS
    has_scale_attention = True
    net: SA2Net

    @property
    def scales(self) -> Switches:  # type: ignore[override]
        """Which scale gates are on."""
        return self.net.bottleneck.scales

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The four scales and the deepest feature."""
        return self.net.encode(x)

    def local(self, i: int, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Output of local attention, and its gates."""
        block = self.net.bottleneck.get_submodule(f"gcn{i + 1}")
        assert isinstance(block, LocalScaleAttention)
        return block.gated(resize(feature, coarse_grid(i, feature)))

    def mix(self, local: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scale gates and global query."""
        return self.net.bottleneck.mix(local)

    def attended(self, i: int, feature: Tensor, gated: Tensor | None) -> Tensor:
        """The skip of a scale, before squeeze and excitation."""
        return self.net.bottleneck.attended(i, feature, gated)

    def side(self, k: int, skip: Tensor) -> Tensor:
        """The skip as ψ looks at it."""
        side: Tensor = self._ups[k].AG.conv(skip)
        return side

    def attention(self, k: int, deep: Tensor, side: Tensor) -> Tensor | None:
        """ψ before its power."""
        gate: AttentionGate = self._ups[k].AG
        return gate.coefficients(deep, side) if gate.gated else None

    def up(
        self, k: int, psi: Tensor | None, side: Tensor, skip: Tensor, deep: Tensor
    ) -> Tensor:
        """The stage's feature."""
        feature: Tensor = self._ups[k].nConvs(self._ups[k].AG.applied(psi, side, skip))
        return feature


class PlainUNet(_Plain):
    """A FocalUNet's own modules, in stages, on any device."""

    own_margins = UNET_MARGINS
    has_scale_attention = False
    net: FocalUNet

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The four scales and the deepest feature."""
        net = self.net
        scales = [net.inc2(net.inc(x))]
        for down in (net.down1, net.down2, net.down3):
            scales.append(down(scales[-1]))
        return scales, net.down4(scales[-1])

    def attention(self, k: int, deep: Tensor, side: Tensor) -> Tensor | None:
        """ψ before its power."""
        if not self._ups[k].gated:
            return None
        gate: FocalGate = self._ups[k].AG
        return gate.coefficients(_doubled(deep), side)

    def up(
        self, k: int, psi: Tensor | None, side: Tensor, skip: Tensor, deep: Tensor
    ) -> Tensor:
        """The stage's feature."""
        kept = skip if psi is None else psi * skip
        feature: Tensor = self._ups[k].nConvs(torch.cat([kept, _doubled(deep)], dim=1))
        return feature


def plain_stages(net: Network, dtype: torch.dtype) -> _Plain:
    """A network's own modules, in stages."""
    return PlainUNet(net, dtype) if isinstance(net, FocalUNet) else PlainSA2Net(net, dtype)


def encoded(net: Network, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """What a network's decoder is given: the skips of strides 1, 2, 4, 8, and the deepest.

    Parameters
    ----------
    net
        In evaluation, on its device.
    x : (B, in_channels, h, w), h and w multiples of 16
    """
    stages = plain_stages(net, torch.float32)
    whole = (0, x.shape[-2], 0, x.shape[-1])
    values: Memo = {}
    _begin(stages, packed(x), whole, [whole] * len(STAGES), None, values)
    skips = []
    for i in range(len(STAGES)):
        gated = values.get(f"gated_{i}") if stages.scales[i] else None
        skip = stages.attended(i, values[f"scale_{i}"], gated)
        skips.append(stages.excited(i, skip, None))
    return skips, values["up_16"]


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
