"""The focal exponents γ of a model in words, for cards in the dock and on the shell."""

from __future__ import annotations

from collections.abc import Sequence

from napari_sa2net.config import NetworkConfig, NetworkKind

#: What attends at each stage of the decoder: up-attention, or the gate of a skip.
GATE_WORDS: dict[NetworkKind, str] = {"sa2net": "ψ", "focal_unet": "gate"}
#: Scale of each map, the deepest first.
SCALES = ("1/8", "1/4", "1/2", "full")
#: γ = 1 everywhere, in words.
ORDINARY = "1 (ordinary attention)"


def gamma_rows(network: NetworkConfig) -> list[tuple[str, str]]:
    """Title and values for the maps, and for squeeze and excitation where there is any.

    Parameters
    ----------
    network : NetworkConfig

    Returns
    -------
    list of (title, values)
        As ``("γ of ψ", "1/8: 1.2 · 1/4: 1 · 1/2: off · full: 0.7")``; one number where all are
        equal.
    """
    maps = "ψ" if network.kind == "sa2net" else "the gates"
    rows = [(f"γ of {maps}", _values(network.gamma, network.gates))]
    if any(network.se):
        rows.append(("γ of squeeze", _values(network.se_gamma, network.se)))
    return rows


def _values(gamma: Sequence[float], there: Sequence[bool]) -> str:
    values = [f"{g:.3g}" if t else "off" for g, t in zip(gamma, there, strict=True)]
    if len(set(values)) == 1:
        return ORDINARY if values[0] == "1" else f"{values[0]} (at every scale)"
    return " · ".join(f"{name}: {value}" for name, value in zip(SCALES, values, strict=True))
