"""The networks: SA2-Net and FocalUNet, focal attention, and attention capture."""

from __future__ import annotations

import copy

from napari_sa2net.config import Four, NetworkConfig
from napari_sa2net.nn.base import (
    ATTENTION_NAMES,
    STRIDE,
    SegmentationNet,
    activate,
    capture_attention,
    pad_to_stride,
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
    "capture_attention",
    "fixed_statistics",
    "make_network",
    "network_config",
    "pad_to_stride",
    "pooled_over",
    "pooled_statistics",
    "pools_globally",
    "without_idle_modules",
]
