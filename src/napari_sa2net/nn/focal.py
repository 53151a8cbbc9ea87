"""The focal exponent γ that sharpens or switches off an attention map (a → a^γ)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Lower clip of an attention coefficient before the power; keeps the gradient of a^γ finite.
ATTENTION_FLOOR = 1e-7


class FocalExponent(nn.Module):
    """Raise attention coefficients to the focal parameter γ, after the sigmoid.

    Parameters
    ----------
    gamma : float
        0 makes every coefficient 1 (attention off), 1 leaves the map as it is, above 1
        suppresses harder. Must be >= 0.
    learnable : bool
        Make γ a trainable scalar. A fixed γ of 1 skips clip and power, so the network is
        the published one bit for bit.

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
        gamma = self.gamma.clamp(min=0.0)
        clipped = attention.float().clamp(ATTENTION_FLOOR, 1.0)
        return clipped.pow(gamma).to(attention.dtype)
