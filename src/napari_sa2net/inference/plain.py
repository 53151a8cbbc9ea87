"""Networks as they are, on any device, in the stages of `napari_sa2net.inference.staged`."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_sa2net.inference.staged import (
    AS_TRAINED,
    SA2NET_MARGINS,
    STAGES,
    UNET_MARGINS,
    Change,
    Exponents,
    Memo,
    Part,
    See,
    coarse_grid,
    packed,
    run,
    see_attention,
    there,
)
from napari_sa2net.nn import FocalGate, FocalSE, FocalUNet, Network, SA2Net
from napari_sa2net.nn.blocks import AttentionGate, LocalScaleAttention, resize


class _Plain:
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

    def __call__(
        self: Any,
        x: Tensor,
        keep: Part | None = None,
        see: See | None = None,
        change: Change = AS_TRAINED,
        memo: Memo | None = None,
    ) -> Tensor:
        with self._precision(x):
            return run(self, packed(x), keep, see, change, memo)

    def see_attention(self: Any, x: Tensor, see: See) -> None:
        """As the function of this name."""
        with self._precision(x):
            see_attention(self, packed(x), see)

    def _precision(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, self._dtype, enabled=self._dtype != torch.float32)

    @property
    def margins(self) -> tuple[int | None, ...]:
        # squeeze and excitation that pools over what it is given must be given all
        if any(cast(FocalSE, se).means is None for se in self.net.se.values()):
            return (None,) * len(STAGES)
        return self.own_margins

    @property
    def gamma(self) -> Exponents:
        return there(self.net.gamma, self.net.gates)

    @property
    def se_gamma(self) -> Exponents:
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

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.net.encode(x)

    def local(self, i: int, feature: Tensor) -> tuple[Tensor, Tensor]:
        block = self.net.bottleneck.get_submodule(f"gcn{i + 1}")
        assert isinstance(block, LocalScaleAttention)
        return block.gated(resize(feature, coarse_grid(i, feature)))

    def mix(self, local: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.net.bottleneck.mix(local)

    def attended(self, i: int, feature: Tensor, gated: Tensor | None) -> Tensor:
        return self.net.bottleneck.attended(i, feature, gated)

    def side(self, k: int, skip: Tensor) -> Tensor:
        side: Tensor = self._ups[k].AG.conv(skip)
        return side

    def attention(self, k: int, deep: Tensor, side: Tensor) -> Tensor | None:
        gate: AttentionGate = self._ups[k].AG
        return gate.coefficients(deep, side) if gate.gated else None

    def up(
        self, k: int, psi: Tensor | None, side: Tensor, skip: Tensor, deep: Tensor
    ) -> Tensor:
        feature: Tensor = self._ups[k].nConvs(self._ups[k].AG.applied(psi, side, skip))
        return feature


class PlainUNet(_Plain):
    """A FocalUNet's own modules, in stages, on any device."""

    own_margins = UNET_MARGINS
    has_scale_attention = False
    net: FocalUNet

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        net = self.net
        scales = [net.inc2(net.inc(x))]
        for down in (net.down1, net.down2, net.down3):
            scales.append(down(scales[-1]))
        return scales, net.down4(scales[-1])

    def local(self, i: int, feature: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def mix(self, local: list[Tensor]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def attended(self, i: int, feature: Tensor, gated: Tensor | None) -> Tensor:
        return feature

    def side(self, k: int, skip: Tensor) -> Tensor:
        return skip

    def attention(self, k: int, deep: Tensor, side: Tensor) -> Tensor | None:
        if not self._ups[k].gated:
            return None
        gate: FocalGate = self._ups[k].AG
        return gate.coefficients(_doubled(deep), side)

    def up(
        self, k: int, psi: Tensor | None, side: Tensor, skip: Tensor, deep: Tensor
    ) -> Tensor:
        kept = skip if psi is None else psi * skip
        feature: Tensor = self._ups[k].nConvs(torch.cat([kept, _doubled(deep)], dim=1))
        return feature


def plain_stages(net: Network, dtype: torch.dtype) -> PlainSA2Net | PlainUNet:
    """A network's own modules, in stages."""
    return PlainUNet(net, dtype) if isinstance(net, FocalUNet) else PlainSA2Net(net, dtype)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
