"""Watch a SA2-Net's attention while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

#: Module whose output is each map, by public name. The scale gates come as one tensor.
LOCAL_GATES = {f"local_gate_{i}": f"bottleneck.gcn{i}.gate" for i in (1, 2, 3, 4)}
AUA_MAPS = {f"aua_{2 ** (k - 1)}": f"up{k}.AG.focal" for k in (4, 3, 2, 1)}
SCALE_GATES = tuple(f"scale_gate_{i}" for i in (1, 2, 3, 4))
#: All map names, in the order the network computes them.
ATTENTION_NAMES = (*LOCAL_GATES, *SCALE_GATES, "global_query", *AUA_MAPS)


@contextmanager
def capture_attention(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the attention maps of every forward pass inside the block.

    Parameters
    ----------
    net : SA2Net
        A network without some of the stages yields only the maps that it has.

    Yields
    ------
    dict of str to Tensor, filled by the forward pass, the last pass winning
        Detached float32 copies (B, C, h, w) on the network's grids, which belong to the
        input padded to multiples of 16: ``scale_gate_1``…``4`` and ``global_query`` and
        ``local_gate_1``…``4`` at stride 4, ``aua_8``, ``aua_4``, ``aua_2``, ``aua_1`` (ψ of
        up4…up1) at strides 8, 4, 2, 1. The hooks are gone when the block ends, also by an
        error.
    """
    maps: dict[str, Tensor] = {}
    modules = dict(net.named_modules())

    def keep(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            maps[name] = output.detach().float().clone()

        handles.append(modules[paths[name]].register_forward_hook(hook))

    def keep_gates(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        for i, name in enumerate(SCALE_GATES):
            maps[name] = output[:, i : i + 1].detach().float().clone()

    paths = {**LOCAL_GATES, "global_query": "bottleneck.global_query", **AUA_MAPS}
    handles = []
    try:
        for name, path in paths.items():
            if path in modules:
                keep(name)
        if "bottleneck.scale_gates" in modules:
            handles.append(modules["bottleneck.scale_gates"].register_forward_hook(keep_gates))
        yield maps
    finally:
        for handle in handles:
            handle.remove()
