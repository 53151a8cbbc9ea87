"""Focal attention: coefficients raised to the focal parameter γ (a → a^γ).

γ = 0 switches a module off (all ones), 1 is ordinary attention, above 1 suppresses harder.
Published: Yeung et al., ISBI 2022 (arXiv 2111.00534).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_sa2net.config import GAMMA_MOST

#: Lower clip of an attention coefficient before the power; keeps the gradient of a^γ finite.
ATTENTION_FLOOR = 1e-7
#: Channels per hidden unit of squeeze and excitation, and the fewest hidden units. The paper
#: gives neither.
SE_REDUCTION, SE_MIN_HIDDEN = 16, 4


def raised(attention: Tensor, gamma: Tensor) -> Tensor:
    """Attention ** γ, same shape and dtype; computed in float32 at least."""
    exact = attention.to(torch.promote_types(attention.dtype, torch.float32))
    return exact.clamp(ATTENTION_FLOOR, 1.0).pow(gamma).to(attention.dtype)


class FocalExponent(nn.Module):
    """Raise attention coefficients to the focal parameter γ, after the sigmoid.

    Parameters
    ----------
    gamma : float
        0 makes every coefficient 1 (attention off), 1 leaves the map as it is, above 1
        suppresses harder. From 0 to 8 (`GAMMA_MOST`).
    learnable : bool
        Make γ a trainable scalar, kept within these bounds. A fixed γ of 1 skips clip and
        power, so the network is the published one bit for bit.

    Raises
    ------
    ValueError
        If gamma is out of bounds.

    Notes
    -----
    Published: Yeung et al., ISBI 2022 (arXiv 2111.00534).
    """

    def __init__(self, gamma: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        if not 0 <= gamma <= GAMMA_MOST:
            raise ValueError(f"gamma must be from 0 to {GAMMA_MOST:g}, got {gamma}")
        self.learnable = learnable
        value = torch.tensor(float(gamma))
        self.gamma: Tensor | nn.Parameter
        if learnable:
            self.gamma = nn.Parameter(value)
        else:
            # Not persistent: a fixed γ lives in the network config, so that published
            # checkpoints and ours have the same keys.
            self.register_buffer("gamma", value, persistent=False)
        self._identity = not learnable and gamma == 1.0

    @property
    def value(self) -> float:
        """γ as it is now. A learned one may be out of bounds until its next use."""
        return min(max(0.0, float(self.gamma.detach())), GAMMA_MOST)

    def forward(self, attention: Tensor, gamma: float | None = None) -> Tensor:
        """Return attention ** γ, same shape and dtype; `gamma` stands in for the module's.

        It gives the same bits as a module whose fixed γ it is.
        """
        if gamma is not None:
            if gamma == 1.0:
                return attention
            # A tensor, as a module's is: a power by a plain number may round otherwise.
            own = torch.tensor(gamma, dtype=self.gamma.dtype, device=self.gamma.device)
            return raised(attention, own)
        if self._identity:
            return attention
        if self.learnable and self.training:
            # Back onto the border rather than clipped in the graph: beyond it the gradient
            # would be 0, and a module once switched off could never come back.
            self.gamma.data.clamp_(0.0, GAMMA_MOST)
        return raised(attention, self.gamma.clamp(0.0, GAMMA_MOST))


class FocalSE(nn.Module):
    """Focal squeeze and excitation: s = σ(W2 · ReLU(W1 · GAP(x)))^γ; out = s · x.

    Parameters
    ----------
    channels : int
    gamma, learnable : float, bool
        As of `FocalExponent`.

    Notes
    -----
    Published: arXiv 2111.00534. The reduction ratio is not: 16, with at least 4 hidden
    units. GAP is over the image that the network is given; `pooled_over` takes it from
    another one, so that tiles of a large image agree.
    """

    def __init__(self, channels: int, gamma: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        hidden = max(SE_MIN_HIDDEN, channels // SE_REDUCTION)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.focal = FocalExponent(gamma, learnable)
        #: Means (1, channels, 1, 1) used instead of the input's own; see `fixed_statistics`.
        self.means: Tensor | None = None

    def forward(self, x: Tensor, gamma: float | None = None) -> Tensor:
        """Weigh the channels of x (B, channels, h, w); `gamma` stands in for the own γ."""
        means = self.squeeze(x) if self.means is None else self.means
        return self.weights(means, gamma).to(x) * x

    def squeeze(self, x: Tensor) -> Tensor:
        """Mean of each channel, (B, channels, 1, 1), at least float32."""
        return x.mean((2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))

    def weights(self, means: Tensor, gamma: float | None = None) -> Tensor:
        """Weight of each channel, (B, channels, 1, 1), in (0, 1]."""
        hidden = F.relu(self.fc1(means.to(self.fc1.weight.dtype)))
        weights: Tensor = self.focal(torch.sigmoid(self.fc2(hidden)), gamma)
        return weights


class FocalGate(nn.Module):
    """Focal attention gate: α = σ(ψ(ReLU(W_g · g + W_x · x)))^γ; out = α · x.

    Parameters
    ----------
    channels : int
        Of the skip x and of the gating feature g, which has the same height and width.
    gamma, learnable : float, bool
        As of `FocalExponent`.

    Notes
    -----
    Published: arXiv 2111.00534. Reconstruction: half as many inner channels as outer ones,
    as in Attention U-Net (arXiv 1804.03999), since the paper gives no number.
    """

    def __init__(self, channels: int, gamma: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.w_g = nn.Conv2d(channels, inner, 1)
        self.w_x = nn.Conv2d(channels, inner, 1, bias=False)
        self.psi = nn.Conv2d(inner, 1, 1)
        self.focal = FocalExponent(gamma, learnable)

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        """The skip x (B, channels, h, w), suppressed where g and x together see nothing."""
        return self.focal(self.coefficients(g, x)) * x

    def coefficients(self, g: Tensor, x: Tensor) -> Tensor:
        """α (B, 1, h, w) before the power."""
        return torch.sigmoid(self.psi(F.relu(self.w_g(g) + self.w_x(x))))


def pools_globally(net: nn.Module) -> bool:
    """Whether a network looks at the whole of its input at once, so that tiles disagree."""
    return any(isinstance(module, FocalSE) for module in net.modules())


def pooled_statistics(net: nn.Module, whole: Tensor) -> dict[str, Tensor]:
    """What squeeze and excitation pools of an image.

    Parameters
    ----------
    net : Module
        In eval mode.
    whole : (1, in_channels, H, W)
        Runs through the network once, no further than to the last pooling.

    Returns
    -------
    dict of str to Tensor (1, channels, 1, 1)
        By module; empty for a network without squeeze and excitation.
    """
    modules = {name: m for name, m in net.named_modules() if isinstance(m, FocalSE)}
    names = {module: name for name, module in modules.items()}
    means: dict[str, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        assert isinstance(module, FocalSE)
        means[names[module]] = module.squeeze(inputs[0])
        if len(means) == len(modules):
            raise _AllPooled

    handles = [module.register_forward_hook(keep) for module in modules.values()]
    try:
        # Each module pools what it is given itself, also inside another image's statistics.
        with torch.no_grad(), fixed_statistics(net, dict.fromkeys(modules)):
            if modules:
                net(whole)
    except _AllPooled:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return means


@contextmanager
def fixed_statistics(net: nn.Module, statistics: Mapping[str, Tensor | None]) -> Iterator[None]:
    """Let squeeze and excitation use these statistics instead of its input's own.

    Parameters
    ----------
    net : Module
    statistics : mapping of str to Tensor (1, channels, 1, 1) or None
        As `pooled_statistics` gives them; None stands for the input's own.
    """
    modules = {
        name: module
        for name, module in net.named_modules()
        if name in statistics and isinstance(module, FocalSE)
    }
    before = {name: module.means for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.means = statistics[name]
        yield
    finally:
        for name, module in modules.items():
            module.means = before[name]


def pooled_over(net: nn.Module, whole: Tensor) -> AbstractContextManager[None]:
    """Let squeeze and excitation take its statistics from another image.

    Inside the block the network gives each window of the image what it would give it as a
    part of the whole. `whole` is the image, or a coarse version of it; see
    `pooled_statistics`.
    """
    return fixed_statistics(net, pooled_statistics(net, whole))


class _AllPooled(Exception):
    """The rest of the network has nothing to pool."""
