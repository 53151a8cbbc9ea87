"""From a state dict to a network, with every way in which it may not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from napari_sa2net.errors import (
    CheckpointDtypeError,
    CheckpointShapeError,
    CorruptCheckpointError,
    ForeignCheckpointError,
    NonFiniteWeightsError,
)
from napari_sa2net.nn import FocalExponent, SA2Net

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
    gamma: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    drop_unused: bool = False,
) -> tuple[SA2Net, tuple[str, ...]]:
    """Network of the sizes that the weights have.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Floating-point weights of any precision; ``num_batches_tracked`` may be missing.
    where : str
        Path, for messages.
    gamma : 4 floats
        Focal exponents of ψ4, ψ3, ψ2, ψ1.
    drop_unused : bool
        Leave out the weights that the published network never uses, instead of refusing
        them.

    Returns
    -------
    net : SA2Net, float32, eval mode
    dropped : names of the weights left out, in the file's order

    Raises
    ------
    ForeignCheckpointError, CheckpointShapeError, CheckpointDtypeError,
    NonFiniteWeightsError, CorruptCheckpointError
    """
    given = _tensors(state_dict, where)
    dropped = tuple(key for key in given if UNUSED.fullmatch(key)) if drop_unused else ()
    for key in dropped:
        del given[key]
    in_channels, n_classes, base = _sizes(given, where)
    # Without memory: shapes are compared before anything is allocated.
    with torch.device("meta"):
        net = SA2Net(in_channels, n_classes, base)
    wanted = net.state_dict()
    for key in wanted:
        if key.endswith(COUNTER):
            given.setdefault(key, torch.tensor(0))
    _check_keys(given, wanted, where)
    weights = {key: _checked(key, given[key], wanted[key], where) for key in wanted}
    net.load_state_dict(weights, assign=True)
    for up, exponent in zip((net.up4, net.up3, net.up2, net.up1), gamma, strict=True):
        # The exponent is in no state dict, so it is still on the meta device.
        up.AG.focal = FocalExponent(exponent)
    return net.eval(), dropped


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


def _sizes(given: Mapping[str, Tensor], where: str) -> tuple[int, int, int]:
    """Input channels, classes and base channels, off the first and last convolution."""
    missing = [key for key in ("inc.conv.weight", "outc4.weight") if key not in given]
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


def _check_keys(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    missing = [key for key in wanted if key not in given]
    surplus = [key for key in given if key not in wanted]
    if not missing and not surplus:
        return
    problems = []
    if missing:
        problems.append(f"{_names(missing)} missing")
    if surplus:
        problems.append(f"{_names(surplus)} surplus")
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
