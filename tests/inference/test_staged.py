"""One pass in stages: what is watched, changed and resumed."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_sa2net.inference.cpu import FastSA2Net, optimised
from napari_sa2net.inference.stages import Change, Memo, plain_stages
from napari_sa2net.inference.stages import cut as cut_to
from napari_sa2net.nn import (
    ATTENTION_NAMES,
    FocalExponent,
    FocalUNet,
    SA2Net,
    capture_attention,
    pooled_over,
)

KEEP = (32, 96, 16, 64)
CHANGES = [
    Change(gates=(False, True, True, True)),
    Change(gates=(True, True, True, False)),
    Change(gates=(False, False, False, False), gamma=(2.0, 0.5, 1.0, 0.0)),
    Change(gamma=(1.0, 1.0, 1.0, 3.0)),
    Change(gamma=(0.0, 1.0, 1.0, 1.0)),
]


@pytest.fixture(scope="module")
def net(make_network) -> SA2Net:
    return make_network(8)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(3))


def passes(net: SA2Net) -> list:
    """The network as the ordinary prediction runs it, on each path."""
    cpu = torch.device("cpu")
    return [
        optimised(net, cpu, torch.float32),
        optimised(net, cpu, torch.bfloat16),
        plain_stages(net.eval(), torch.float32),
    ]


def test_looking_does_not_alter_the_answer(net: SA2Net, x: torch.Tensor) -> None:
    with torch.inference_mode():
        for run in passes(net):
            seen: dict[str, tuple] = {}
            plain = run(x, KEEP)
            watched = run(
                x, KEEP, see=lambda n, v, part, s, seen=seen: seen.update({n: (v, part, s)})
            )
            assert torch.equal(plain, watched)
            assert set(seen) == {*ATTENTION_NAMES, "head_8", "head_4", "head_2"}
            for values, (y0, y1, x0, x1), stride in seen.values():
                assert values.shape[-2:] == ((y1 - y0) // stride, (x1 - x0) // stride)


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_seen_is_what_the_network_computes(
    net: SA2Net, x: torch.Tensor, fast: bool
) -> None:
    run = FastSA2Net(net, torch.float32) if fast else plain_stages(net.eval(), torch.float32)
    seen: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        run(x, see=lambda name, values, part, stride: seen.update({name: values.clone()}))
        with capture_attention(net.eval()) as maps:
            heads = net(x, deep_supervision=True)
        for name in ATTENTION_NAMES:
            torch.testing.assert_close(seen[name], maps[name], atol=1e-5, rtol=1e-5)
        for i, stride in enumerate((2, 4, 8), start=1):
            up = torch.nn.functional.interpolate(
                seen[f"head_{stride}"], scale_factor=stride, mode="bilinear"
            )
            torch.testing.assert_close(up, heads[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_resumed_is_run_anew_bit_for_bit(net: SA2Net, x: torch.Tensor, change: Change) -> None:
    with torch.inference_mode():
        for run in passes(net):
            memo: Memo = {}
            assert torch.equal(run(x, KEEP, memo=memo), run(x, KEEP))
            before = {name: value.clone() for name, value in memo.items()}
            changed = run(x, KEEP, change=change)
            assert torch.equal(run(x, KEEP, change=change, memo=memo), changed)
            assert torch.equal(run(x, KEEP, memo=memo), run(x, KEEP))
            for name, value in before.items():
                assert torch.equal(memo[name], value), name
            # An empty memo is filled on the way.
            assert torch.equal(run(x, KEEP, change=change, memo={}), changed)
            assert not torch.equal(changed, run(x, KEEP))


def test_a_change_is_what_it_says(net: SA2Net, x: torch.Tensor) -> None:
    """Against the network itself, with hooks on the places where attention passes."""
    run = FastSA2Net(net, torch.float32)
    change = Change(gates=(True, False, True, False), gamma=(1.0, 2.0, 1.0, 0.0))

    def gates(module, inputs, output):
        on = torch.tensor(change.gates).view(1, 4, 1, 1)
        return output * on

    bottleneck = net.eval().bottleneck
    handles = [bottleneck.scale_gates.register_forward_hook(gates)]
    for up, gamma in zip((net.up4, net.up3, net.up2, net.up1), change.gamma, strict=True):
        handles.append(up.AG.focal.register_forward_hook(lambda m, i, o, g=gamma: o**g))
    with torch.inference_mode():
        expected = net(x)
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(run(x, change=change), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(net(x), expected, atol=1e-2)


OWN = {
    "gamma": (0.0, 0.5, 3.0, 1.0),
    "se": (True, False, True, True),
    "se_gamma": (2.0, 1.0, 0.0, 1.0),
}
OTHER = [
    Change(gamma=(1.0, None, None, None)),
    Change(gamma=(None, 2.0, 1.0, 0.0)),
    Change(se_gamma=(None, None, 1.0, None)),
    Change((True, True, False, True), (None, None, None, 2.0), (0.0, None, 1.5, 0.3)),
]


@pytest.fixture(scope="module", params=["fast", "plain", "unet"])
def focal(request: pytest.FixtureRequest, make_network) -> SA2Net | FocalUNet:
    """Networks with exponents of their own, with and without squeeze and excitation."""
    if request.param == "fast":
        return make_network(8, gamma=OWN["gamma"]).eval()
    if request.param == "plain":
        return make_network(4, **OWN).eval()
    torch.manual_seed(0)
    return FocalUNet(3, 3, 4, **OWN).eval()


@pytest.mark.parametrize("change", OTHER, ids=str)
def test_exponents_are_absolute(focal: SA2Net | FocalUNet, x: torch.Tensor, change) -> None:
    """As the network would be that had been made with them, also where its own are 0."""
    run = optimised(focal, torch.device("cpu"), torch.float32)

    def other(own, wanted):
        return tuple(a if b is None else b for a, b in zip(own, wanted, strict=True))

    made = copy.deepcopy(focal)
    for k, g, s in zip(
        (4, 3, 2, 1),
        other(OWN["gamma"], change.gamma),
        other(OWN["se_gamma"], change.se_gamma),
        strict=True,
    ):
        getattr(made, f"up{k}").AG.focal = FocalExponent(g)
        if str(k) in made.se:
            made.se[str(k)].focal = FocalExponent(s)
    expected = optimised(made, torch.device("cpu"), torch.float32)
    gates = Change(gates=change.gates)
    with torch.inference_mode():
        as_trained, memo = run(x, KEEP), {}
        changed = run(x, KEEP, change=change)
        torch.testing.assert_close(
            changed, expected(x, KEEP, change=gates), atol=1e-5, rtol=1e-4
        )
        assert torch.equal(run(x, KEEP, memo=memo), as_trained)
        # A skip without squeeze and excitation has no exponent to change.
        touched = change.of(run).first < 4
        for _ in range(2):
            assert torch.equal(run(x, KEEP, change=change, memo=memo), changed)
            assert torch.equal(changed, as_trained) != touched
            assert torch.equal(run(x, KEEP, memo=memo), as_trained)


def test_the_own_exponents_are_no_change(focal: SA2Net | FocalUNet, x: torch.Tensor) -> None:
    run = optimised(focal, torch.device("cpu"), torch.float32)
    same = Change(gamma=OWN["gamma"], se_gamma=OWN["se_gamma"])
    assert same.of(run) == Change()
    with torch.inference_mode():
        assert torch.equal(run(x, KEEP, change=same), run(x, KEEP))


def test_statistics_of_the_whole_are_kept_in_a_change(make_network, x: torch.Tensor) -> None:
    """Squeeze and excitation with another γ still pools over the image, not the window."""
    net = make_network(4, **OWN).eval()
    run = plain_stages(net, torch.float32)
    change = Change(se_gamma=(0.5, None, 1.0, 3.0))
    with torch.inference_mode():
        alone = run(x, change=change)
        with pooled_over(net, x * 3):
            memo: Memo = {}
            run(x, memo=memo)
            inside = run(x, change=change, memo=memo)
            assert torch.equal(inside, run(x, change=change))
    assert not torch.equal(alone, inside)


def test_networks_without_some_stage(x: torch.Tensor, make_network) -> None:
    """They lack its maps, and changes of it change nothing."""
    lean = make_network(4, gates=(False, True, True, False))
    excited = make_network(4, se=(True, False, True, False))
    unet = FocalUNet(3, 3, 4, gates=(True, False, True, True)).eval()
    scales = set(ATTENTION_NAMES) - {"aua_8", "aua_4", "aua_2", "aua_1"}
    expected = {
        lean: scales | {"aua_4", "aua_2"},
        excited: set(ATTENTION_NAMES),
        unet: {"aua_8", "aua_2", "aua_1"},
    }
    for net, names in expected.items():
        net.eval()
        for dtype in (torch.float32, torch.bfloat16):
            run = optimised(net, torch.device("cpu"), dtype)
            seen: set[str] = set()
            memo: Memo = {}
            with torch.inference_mode():
                out = run(x, see=lambda name, *_, seen=seen: seen.add(name), memo=memo)
                if dtype == torch.float32:
                    torch.testing.assert_close(out, net(x), atol=1e-4, rtol=1e-4)
                assert seen == names | {"head_8", "head_4", "head_2"}
                off = Change(gates=(False,) * 4, gamma=(0.0, 0.0, 0.0, 0.0))
                assert torch.equal(run(x, change=off, memo=memo), run(x, change=off))
                if net is unet:
                    assert torch.equal(run(x, change=Change((False,) * 4)), out)
                only_8 = Change(gamma=(0.0, 1.0, 1.0, 1.0))
                assert torch.equal(run(x, change=only_8), out) == ("aua_8" not in names)


def networks(make_network) -> dict[str, SA2Net | FocalUNet]:
    """One of each kind, in evaluation, with plausible statistics."""
    torch.manual_seed(1)
    found: dict[str, SA2Net | FocalUNet] = {
        "SA2-Net": make_network(8).eval(),
        "SA2-Net with SE": make_network(8, se=(True, False, True, False)).eval(),
        "U-Net": FocalUNet(3, 3, 8, se=(False,) * 4, gamma=(1.0, 2.0, 1.0, 0.5)),
        "U-Net with SE": FocalUNet(3, 3, 8),
    }
    for net in found.values():
        for module in net.eval().modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
                torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
        net.to(memory_format=torch.channels_last)
    return found


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("kind", ["SA2-Net", "SA2-Net with SE", "U-Net", "U-Net with SE"])
def test_a_halo_is_run_only_as_far_as_it_counts(make_network, kind: str, pooled: bool) -> None:
    """The path of GPUs: the same bits, maps and what-ifs as with all stages run on all."""
    net = networks(make_network)[kind]
    x = torch.rand(1, 3, 384, 352, generator=torch.Generator().manual_seed(5))
    change = Change(gamma=(1.0, 1.0, 2.0, 1.5))
    cut, whole = plain_stages(net, torch.float32), plain_stages(net, torch.float32)
    whole.own_margins = (None,) * 4
    keeps = [(128, 256, 128, 224), (0, 128, 128, 224), (256, 384, 0, 352)]
    pooling = pooled_over(net, x[..., ::2, ::2]) if pooled else nullcontext()
    with torch.inference_mode(), pooling:
        for keep in keeps:
            seen: dict[str, torch.Tensor] = {}
            maps: dict[str, torch.Tensor] = {}

            def see(name, values, part, stride, *, into, keep=keep) -> None:
                into[name] = cut_to(values, part, keep, stride).clone()

            expected = whole(x, keep, see=partial(see, into=maps))
            memo: Memo = {}
            assert torch.equal(cut(x, keep, see=partial(see, into=seen)), expected)
            assert torch.equal(cut(x, keep, memo=memo), expected)
            assert seen.keys() == maps.keys()
            for name, values in maps.items():
                assert torch.equal(seen[name], values), name
            changed = whole(x, keep, change=change)
            assert torch.equal(cut(x, keep, change=change), changed)
            assert torch.equal(cut(x, keep, change=change, memo=memo), changed)
            assert not torch.equal(changed, expected)


@pytest.mark.parametrize("kind", ["SA2-Net", "U-Net"])
def test_the_halo_costs_half_of_the_work_less(make_network, kind: str) -> None:
    net = networks(make_network)[kind]
    x = torch.rand(1, 3, 384, 352, generator=torch.Generator().manual_seed(5))
    cut, whole = plain_stages(net, torch.float32), plain_stages(net, torch.float32)
    whole.own_margins = (None,) * 4
    work = []
    for run in (cut, whole):
        with torch.inference_mode(), FlopCounterMode(display=False) as counted:
            run(x, (128, 256, 128, 224))
        work.append(counted.get_total_flops())
    assert work[0] < 0.65 * work[1]


def test_a_network_that_pools_what_it_is_given_is_given_all(make_network) -> None:
    net = networks(make_network)["U-Net with SE"]
    run = plain_stages(net, torch.float32)
    assert run.margins == (None,) * 4
    with pooled_over(net, torch.rand(1, 3, 64, 64)):
        assert run.margins == type(run).own_margins
