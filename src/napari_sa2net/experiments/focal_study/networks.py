"""The attention modules of a network, variants with some of them, and the rule.

Published (arXiv 2111.00534): a module's coefficients are raised to one trainable γ, and γ
tells which modules a data set needs. Reconstruction: everything about how, since the text
gives neither rule nor threshold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import median

import torch

from napari_sa2net.config import Four, NetworkKind
from napari_sa2net.experiments.focal_study.plan import StudySettings
from napari_sa2net.nn import Network, make_network, network_config
from napari_sa2net.training.train import start_network

SKIPS = (4, 3, 2, 1)


def modules_of(kind: NetworkKind) -> tuple[str, ...]:
    """Names of the modules that have a γ: the gates of skips 4…1, then SE of skips 4…1."""
    gate = "psi" if kind == "sa2net" else "gate"
    return tuple(f"{name}{k}" for name in (gate, "se") for k in SKIPS)


def title_of(module: str) -> str:
    """Name of a module for people: ψ4, gate 4, SE 4."""
    name, k = module[:-1], module[-1]
    return {"psi": f"ψ{k}", "gate": f"gate {k}", "se": f"SE {k}"}[name]


def build(
    settings: StudySettings, seed: int, kept: Collection[str], learnable: bool
) -> Network:
    """A network with some of the modules, before its first step.

    The weights are those that a network with all modules draws from the seed, so all
    variants of a seed begin equal in what they share.

    Parameters
    ----------
    kept : collection of str
        Of `modules_of`.
    learnable : bool
        Train γ of every module; else it is 1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole, _ = start_network(settings.training(seed))
        names = modules_of(settings.network)
        there = [name in kept for name in names]
        config = network_config(whole).model_copy(
            update={"gates": _four(there[:4]), "se": _four(there[4:])}
        )
        net = make_network(config, learnable)
    state = whole.state_dict()
    net.load_state_dict({key: state[key] for key in net.state_dict()})
    return net


def gamma_of(net: Network, kind: NetworkKind) -> dict[str, float]:
    """γ of every module that there is."""
    config = network_config(net)
    there, gamma = (*config.gates, *config.se), (*net.gamma, *net.se_gamma)
    return {
        name: float(g) for name, g, t in zip(modules_of(kind), gamma, there, strict=True) if t
    }


def as_trained(net: Network) -> Network:
    """A copy in eval mode and on the CPU, with γ fixed where it was learned."""
    fixed = make_network(network_config(net))
    state = net.state_dict()
    fixed.load_state_dict({key: state[key].detach().cpu() for key in fixed.state_dict()})
    return fixed.eval()


def keep(gamma: Mapping[str, Sequence[float]], threshold: float) -> tuple[str, ...]:
    """The rule (reconstruction): modules whose median γ over seeds reaches the threshold."""
    return tuple(name for name, values in gamma.items() if median(values) >= threshold)


def count_parameters(net: Network) -> int:
    """Weights of a network; a fixed γ is none."""
    return sum(p.numel() for p in net.parameters())


def _four(values: Sequence[bool]) -> Four:
    a, b, c, d = values
    return a, b, c, d
