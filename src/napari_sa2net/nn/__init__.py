"""The networks: SA2-Net and FocalUNet, focal attention, and attention capture."""

from __future__ import annotations

import copy

import torch

from napari_sa2net.config import Four, NetworkConfig
from napari_sa2net.nn.base import (
    ATTENTION_NAMES,
    STRIDE,
    SegmentationNet,
    activate,
    adapted_to,
    capture_attention,
    pad_to_stride,
    with_encoder,
)
from napari_sa2net.nn.focal import (
    FocalExponent,
    FocalGate,
    FocalSE,
    fixed_statistics,
    pooled_over,
    pooled_statistics,
    pools_globally,
)
from napari_sa2net.nn.focal_unet import FocalUNet
from napari_sa2net.nn.sa2net import SA2Net

# --------------------------------------------------------------------------------------------
# From settings to a network, from a network to its settings, and networks without idlers.

Network = SA2Net | FocalUNet


def make_network(config: NetworkConfig, learnable_gamma: bool = False) -> Network:
    """A network with random weights.

    Parameters
    ----------
    config : NetworkConfig
    learnable_gamma : bool
        Train the focal exponents, beginning at the settings' values.
    """
    kind: type[SA2Net] | type[FocalUNet] = SA2Net if config.kind == "sa2net" else FocalUNet
    return kind(
        config.in_channels,
        config.n_classes,
        config.base_channels,
        gamma=config.gamma,
        learnable_gamma=learnable_gamma,
        gates=config.gates,
        se=config.se,
        se_gamma=config.se_gamma,
        scales=config.scales,
    )


def network_config(net: SegmentationNet) -> NetworkConfig:
    """The settings of a network, with its focal exponents as they are now."""
    g4, g3, g2, g1 = net.gates
    s4, s3, s2, s1 = (str(k) in net.se for k in (4, 3, 2, 1))
    gates, se = (g4, g3, g2, g1), (s4, s3, s2, s1)
    a4, a3, a2, a1 = net.scales
    return NetworkConfig(
        kind="focal_unet" if isinstance(net, FocalUNet) else "sa2net",
        in_channels=net.in_channels,
        n_classes=net.n_classes,
        base_channels=net.base_channels,
        gates=gates,
        gamma=_present(net.gamma, gates),
        se=se,
        se_gamma=_present(net.se_gamma, se),
        scales=(a4, a3, a2, a1),
    )


def widened(net: Network, base_channels: int, seed: int = 0) -> Network:
    """A network with more channels that computes the same, to be trained on.

    Each channel gets twins, and what reads them shares its weights among them, in uneven
    parts: twins that are read differently learn differently.

    Parameters
    ----------
    net : SA2Net or FocalUNet
    base_channels : int
        A multiple of the network's.
    seed : int
        Of the parts.

    Returns
    -------
    Network of the same kind in evaluation mode, on the CPU. Its exponents are fixed.

    Raises
    ------
    ValueError
        If `base_channels` is no multiple.

    Notes
    -----
    Source: Net2WiderNet (Chen, Goodfellow, Shlens, ICLR 2016, arXiv 1511.05641).

    Examples
    --------
    >>> widened(make_network(NetworkConfig(base_channels=4)), 8).base_channels
    8
    """
    if base_channels % net.base_channels:
        raise ValueError(
            f"base_channels must be a multiple of {net.base_channels}, got {base_channels}"
        )
    random = torch.Generator().manual_seed(seed)
    config = network_config(net).model_copy(update={"base_channels": base_channels})
    wide = make_network(config)
    state = {key: value.cpu() for key, value in net.state_dict().items()}
    for key, target in wide.state_dict().items():
        value = state[key]
        if isinstance(net, SA2Net) and key.startswith("bottleneck.conv."):
            # Its last four channels are the gates of the scales, which have no twins.
            query, gates = value[: net.base_channels], value[net.base_channels :]
            times = base_channels // net.base_channels
            value = torch.cat([query.repeat_interleave(times, 0), gates])
        for dim, (was, now) in enumerate(zip(value.shape, target.shape, strict=True)):
            value = value.repeat_interleave(now // was, dim)
            if dim == 1 and now != was:
                parts = torch.randn((len(value), was, now // was, 1, 1), generator=random)
                parts = (parts - parts.mean(2, keepdim=True)) / (2 * parts.shape[2])
                value = value * (parts + was / now).view(len(value), now, 1, 1)
        state[key] = value
    wide.load_state_dict({key: state[key] for key in wide.state_dict()})
    return wide.eval()


def without_idle_modules(net: Network) -> Network:
    """A copy of a network that lacks the attention modules whose γ is 0.

    A map to the power 0 is 1 everywhere, so the copy computes the same with fewer
    parameters. Learned exponents become fixed.

    Returns
    -------
    Network of the same kind, in the same mode and on the same device.
    """
    config = network_config(net)
    config = config.model_copy(
        update={
            "gates": _without(config.gates, net.gamma),
            "se": _without(config.se, net.se_gamma),
        }
    )
    lean = make_network(config)
    state = copy.deepcopy(net.state_dict())
    lean.load_state_dict({key: state[key] for key in lean.state_dict()})
    device = next(net.parameters()).device
    return lean.to(device).train(net.training)


def _present(
    gamma: tuple[float, float, float, float], there: Four
) -> tuple[float, float, float, float]:
    """The exponents, 1 where there is no module to have one."""
    g4, g3, g2, g1 = (g if t else 1.0 for g, t in zip(gamma, there, strict=True))
    return g4, g3, g2, g1


def _without(there: Four, gamma: tuple[float, float, float, float]) -> Four:
    a, b, c, d = (t and g > 0 for t, g in zip(there, gamma, strict=True))
    return a, b, c, d


__all__ = [
    "ATTENTION_NAMES",
    "STRIDE",
    "FocalExponent",
    "FocalGate",
    "FocalSE",
    "FocalUNet",
    "Network",
    "SA2Net",
    "SegmentationNet",
    "activate",
    "adapted_to",
    "capture_attention",
    "fixed_statistics",
    "make_network",
    "network_config",
    "pad_to_stride",
    "pooled_over",
    "pooled_statistics",
    "pools_globally",
    "widened",
    "with_encoder",
    "without_idle_modules",
]
