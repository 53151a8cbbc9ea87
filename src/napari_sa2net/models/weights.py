"""From a state dict to a network, with every way in which it may not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from napari_sa2net.config import NetworkConfig
from napari_sa2net.errors import (
    CardError,
    CheckpointDtypeError,
    CheckpointShapeError,
    CorruptCheckpointError,
    ForeignCheckpointError,
    NonFiniteWeightsError,
)
from napari_sa2net.nn import FocalExponent, Network, make_network

#: Weights that the published network builds but never uses in its forward pass.
UNUSED = re.compile(
    r"Multi_scale_Fuse\d+\..+"
    r"|up[1-4]\.AG\.weight\..+"
    r"|bottleneck\.gcn[1-4]\.dwconv(3x3|5x5)_1\.(weight|bias)"
)
#: Written by DataParallel in front of every key.
PARALLEL_PREFIX = "module."
COUNTER = ".num_batches_tracked"
ANOTHER = "Is it a checkpoint of another network?"


def build_network(
    state_dict: Mapping[str, object],
    where: str,
    config: NetworkConfig | None = None,
    drop_unused: bool = False,
) -> tuple[Network, tuple[str, ...]]:
    """Network of the sizes that the weights have.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Floating-point weights of any precision; ``num_batches_tracked`` may be missing.
    where : str
        Path, for messages.
    config : NetworkConfig, optional
        Which network it is; unsaid: the published SA2-Net.
    drop_unused : bool
        Leave out the weights that the published network never uses, instead of refusing
        them.

    Returns
    -------
    net : SA2Net or FocalUNet, float32, eval mode
    dropped : names of the weights left out, in the file's order

    Raises
    ------
    ForeignCheckpointError, CheckpointShapeError, CheckpointDtypeError,
    NonFiniteWeightsError, CorruptCheckpointError
    CardError
        If the weights have other sizes than `config`.
    """
    given = _tensors(state_dict, where)
    dropped = tuple(key for key in given if UNUSED.fullmatch(key)) if drop_unused else ()
    for key in dropped:
        del given[key]
    ours = config is not None
    in_channels, n_classes, base = sizes = _sizes(given, where, ours)
    if config is None:
        # Not validated as settings: absurd sizes are told apart below, by the weights.
        config = NetworkConfig.model_construct(
            in_channels=in_channels, n_classes=n_classes, base_channels=base
        )
    elif sizes != (config.in_channels, config.n_classes, config.base_channels):
        raise CardError(
            f"The card in {where} does not belong to its weights: they have {in_channels} "
            f"input channels, {n_classes} classes and {base} base channels. "
            "Get the file again from where it came."
        )
    # Without memory: shapes are compared before anything is allocated.
    with torch.device("meta"):
        net = make_network(config)
    wanted = net.state_dict()
    for key in wanted:
        if key.endswith(COUNTER):
            given.setdefault(key, torch.tensor(0))
    _check_keys(given, wanted, where, ours)
    weights = {key: _checked(key, given[key], wanted[key], where) for key in wanted}
    net.load_state_dict(weights, assign=True)
    _set_exponents(net, config)
    return net.eval(), dropped


def _set_exponents(net: Network, config: NetworkConfig) -> None:
    """Put the focal exponents in: they are in no state dict, so still on the meta device."""
    for path, values in (("up{}.AG", config.gamma), ("se.{}", config.se_gamma)):
        for k, exponent in zip((4, 3, 2, 1), values, strict=True):
            name = path.format(k)
            if f"{name}.focal" in dict(net.named_modules()):
                net.get_submodule(name).focal = FocalExponent(exponent)


def _tensors(state_dict: Mapping[str, object], where: str) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ForeignCheckpointError(
                f"{where} holds {key!r} of type {type(value).__name__} where a SA2-Net has "
                "named weights. Give the state dict of a SA2-Net."
            )
        given[key] = value
    if given and all(key.startswith(PARALLEL_PREFIX) for key in given):
        given = {key.removeprefix(PARALLEL_PREFIX): value for key, value in given.items()}
    return given


def _sizes(given: Mapping[str, Tensor], where: str, ours: bool) -> tuple[int, int, int]:
    """Input channels, classes and base channels, off the first and last convolution."""
    missing = [key for key in ("inc.conv.weight", "outc4.weight") if key not in given]
    if missing and ours:
        raise _changed(where, f"{_names(missing)} missing")
    if missing:
        raise ForeignCheckpointError(
            f"{where} is not a SA2-Net: {_names(missing)} missing. {ANOTHER}"
        )
    first, last = given["inc.conv.weight"].shape, given["outc4.weight"].shape
    if len(first) != 4 or len(last) != 4 or min(*first, *last) < 1:
        raise CheckpointShapeError(
            f"{where} is not a SA2-Net: inc.conv.weight has shape {tuple(first)} and "
            f"outc4.weight {tuple(last)}, where four axes are needed. {ANOTHER}"
        )
    return first[1], last[0], first[0]


def _changed(where: str, problem: str) -> ForeignCheckpointError:
    """The error for a file with a card of ours, whose weights are not those of its card."""
    return ForeignCheckpointError(
        f"{where} is incomplete or changed: {problem}. Get the file again from where it came."
    )


def _check_keys(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str, ours: bool
) -> None:
    missing = [key for key in wanted if key not in given]
    surplus = [key for key in given if key not in wanted]
    if not missing and not surplus:
        return
    problems = []
    if missing:
        problems.append(f"{_names(missing)} missing")
    if surplus:
        problems.append(f"{_names(surplus)} surplus")
    if ours:
        raise _changed(where, "; ".join(problems))
    raise ForeignCheckpointError(f"{where} is not a SA2-Net: {'; '.join(problems)}. {ANOTHER}")


def _names(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def _checked(key: str, value: Tensor, wanted: Tensor, where: str) -> Tensor:
    if value.shape != wanted.shape:
        raise CheckpointShapeError(
            f"{where}: {key} has shape {tuple(value.shape)}, a SA2-Net of this size "
            f"{tuple(wanted.shape)}. {ANOTHER}"
        )
    if value.layout != torch.strided or value.is_quantized:
        raise CheckpointDtypeError(
            f"{where}: {key} is sparse or quantised. Save the network with ordinary weights."
        )
    if value.device.type == "meta":
        raise CorruptCheckpointError(
            f"{where}: {key} was saved without its values (meta device). Save the network "
            "after its weights are loaded."
        )
    if key.endswith(COUNTER):
        return value.detach().to(torch.int64).clone()
    if not value.is_floating_point():
        raise CheckpointDtypeError(
            f"{where}: {key} is {str(value.dtype).removeprefix('torch.')}; weights must be "
            "floating-point. Save the network with float32 weights."
        )
    # A copy of its own, since weights in a file may share memory.
    result = value.detach().to(torch.float32, copy=True).contiguous()
    if not torch.isfinite(result).all():
        raise NonFiniteWeightsError(
            f"{where}: {key} holds NaN or infinity, so its training broke down. "
            "Use an earlier checkpoint."
        )
    return result
