"""Focal attention: coefficients raised to the focal parameter γ (a → a^γ).

γ = 0 switches a module off (all ones), 1 is ordinary attention, above 1 suppresses harder.
Published: Yeung et al., ISBI 2022 (arXiv 2111.00534).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Lower clip of an attention coefficient before the power; keeps the gradient of a^γ finite.
ATTENTION_FLOOR = 1e-7
#: Channels per hidden unit of squeeze and excitation, and the fewest hidden units. The paper
#: gives neither.
SE_REDUCTION, SE_MIN_HIDDEN = 16, 4


class FocalExponent(nn.Module):
    """Raise attention coefficients to the focal parameter γ, after the sigmoid.

    Parameters
    ----------
    gamma : float
        0 makes every coefficient 1 (attention off), 1 leaves the map as it is, above 1
        suppresses harder. Must be >= 0.
    learnable : bool
        Make γ a trainable scalar, kept >= 0. A fixed γ of 1 skips clip and power, so the
        network is the published one bit for bit.

    Raises
    ------
    ValueError
        If gamma is negative or not finite.

    Notes
    -----
    Published: Yeung et al., ISBI 2022 (arXiv 2111.00534).
    """

    def __init__(self, gamma: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma must be a finite number >= 0, got {gamma}")
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

    def forward(self, attention: Tensor) -> Tensor:
        """Return attention ** γ, same shape and dtype."""
        if self._identity:
            return attention
        if self.learnable and self.training:
            # Back onto the border rather than clipped in the graph: beyond it the gradient
            # would be 0, and a module once switched off could never come back.
            self.gamma.data.clamp_(min=0.0)
        gamma = self.gamma.clamp(min=0.0)
        clipped = attention.float().clamp(ATTENTION_FLOOR, 1.0)
        return clipped.pow(gamma).to(attention.dtype)


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
        #: Means (1, channels, 1, 1) used instead of the input's own, while `pooled_over`.
        self.means: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels of x (B, channels, h, w)."""
        return self.weights(self.squeeze(x) if self.means is None else self.means).to(x) * x

    def squeeze(self, x: Tensor) -> Tensor:
        """Mean of each channel, (B, channels, 1, 1), at least float32."""
        return x.mean((2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))

    def weights(self, means: Tensor) -> Tensor:
        """Weight of each channel, (B, channels, 1, 1), in (0, 1]."""
        hidden = F.relu(self.fc1(means.to(self.fc1.weight.dtype)))
        return self.focal(torch.sigmoid(self.fc2(hidden)))


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
    Published: arXiv 2111.00534; half as many inner channels as outer ones, as in Attention
    U-Net (arXiv 1804.03999).
    """

    def __init__(self, channels: int, gamma: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.w_g = nn.Conv2d(channels, inner, 1)
        self.w_x = nn.Conv2d(channels, inner, 1, bias=False)
        self.psi = nn.Conv2d(inner, 1, 1)
        self.focal = FocalExponent(gamma, learnable)

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        """x (B, channels, h, w), suppressed where g and x together see nothing."""
        return self.focal(torch.sigmoid(self.psi(F.relu(self.w_g(g) + self.w_x(x))))) * x


def pools_globally(net: nn.Module) -> bool:
    """Whether a network looks at the whole of its input at once, so that tiles disagree."""
    return any(isinstance(module, FocalSE) for module in net.modules())


@contextmanager
def pooled_over(net: nn.Module, whole: Tensor) -> Iterator[None]:
    """Let squeeze and excitation take its statistics from another image.

    Parameters
    ----------
    net : Module
        In eval mode. Networks without squeeze and excitation are left alone.
    whole : (1, in_channels, H, W)
        What stands for the whole image: the image, or a coarse version of it. The network
        runs on it once.

    Yields
    ------
    Inside the block the network gives each window of the image what it would give it as a
    part of the whole.
    """
    modules = [module for module in net.modules() if isinstance(module, FocalSE)]
    before = [module.means for module in modules]
    handles = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, FocalSE)
        module.means = module.squeeze(inputs[0])

    try:
        if modules:
            handles = [module.register_forward_pre_hook(keep) for module in modules]
            with torch.no_grad():
                net(whole)
            while handles:
                handles.pop().remove()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, means in zip(modules, before, strict=True):
            module.means = means
