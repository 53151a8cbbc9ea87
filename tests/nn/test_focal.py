"""Focal attention: γ of 0, 1 and in between, squeeze and excitation, and FocalUNet."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from napari_sa2net.config import NetworkConfig
from napari_sa2net.nn import (
    ATTENTION_NAMES,
    FocalExponent,
    FocalGate,
    FocalSE,
    FocalUNet,
    SA2Net,
    capture_attention,
    make_network,
    network_config,
    pooled_over,
    pools_globally,
    without_idle_modules,
)

KINDS = pytest.mark.parametrize("kind", ["sa2net", "focal_unet"])
ALL = (True, True, True, True)


def make(kind: str = "sa2net", learnable: bool = False, **fields):
    torch.manual_seed(0)
    net = make_network(
        NetworkConfig(
            **{"kind": kind, "in_channels": 1, "n_classes": 2, "base_channels": 4, **fields}
        ),
        learnable,
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.momentum = None
    # Statistics that fit the data, so that what is deep in the network shows in its output.
    with torch.no_grad():
        net.train()(torch.randn(2, net.in_channels, 48, 48))
    return net.eval()


def image(height: int = 32, width: int = 48, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, height, width, generator=torch.Generator().manual_seed(7))


# --- modules -----------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_squeeze_and_excitation_is_its_formula(gamma: float) -> None:
    torch.manual_seed(0)
    block, x = FocalSE(64, gamma), torch.randn(2, 64, 5, 7)
    assert block.fc1.out_channels == 4
    assert FocalSE(128).fc1.out_channels == 8
    z = x.mean((2, 3))
    w1, w2 = (conv.weight[:, :, 0, 0] for conv in (block.fc1, block.fc2))
    s = torch.sigmoid(torch.relu(z @ w1.T + block.fc1.bias) @ w2.T + block.fc2.bias) ** gamma
    torch.testing.assert_close(block(x), s[:, :, None, None] * x)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gate_is_its_formula(gamma: float) -> None:
    torch.manual_seed(0)
    gate = FocalGate(6, gamma)
    g, x = torch.randn(2, 6, 5, 7), torch.randn(2, 6, 5, 7)
    both = torch.einsum("oc,bchw->bohw", gate.w_g.weight[:, :, 0, 0], g)
    both += torch.einsum("oc,bchw->bohw", gate.w_x.weight[:, :, 0, 0], x)
    both += gate.w_g.bias[:, None, None]
    alpha = torch.einsum("oc,bchw->bohw", gate.psi.weight[:, :, 0, 0], both.relu())
    alpha = torch.sigmoid(alpha + gate.psi.bias[:, None, None]) ** gamma
    torch.testing.assert_close(gate(g, x), alpha * x)


@pytest.mark.parametrize("module", [FocalSE, FocalGate])
def test_modules_at_zero_pass_everything(module: type[nn.Module]) -> None:
    x = torch.randn(1, 8, 4, 4)
    block = module(8, 0.0)
    assert torch.equal(block(x) if module is FocalSE else block(x, x), x)


def test_a_learned_exponent_stays_above_zero_and_comes_back() -> None:
    exponent = FocalExponent(0.05, learnable=True)
    optimizer = torch.optim.SGD(exponent.parameters(), lr=1.0)
    attention = torch.full((4,), 0.5)
    values = []
    for towards in (1.0, 1.0, 0.3, 0.3):
        optimizer.zero_grad()
        (exponent(attention) - towards).square().sum().backward()
        optimizer.step()
        values.append(float(exponent(attention.clone())[0].detach()))
    assert values[1] == 1.0, "γ = 0: attention is off"
    assert exponent.gamma.item() > 0.05, "and it was switched on again"
    assert values[-1] < 0.97


def test_half_precision_stays_finite() -> None:
    x = torch.full((1, 8, 64, 64), 300.0, dtype=torch.float16)
    assert torch.isfinite(FocalSE(8).half()(x)).all()
    exponent = FocalExponent(0.3, learnable=True)
    attention = torch.tensor([0.0, 1e-8, 1.0], dtype=torch.float16, requires_grad=True)
    exponent(attention).sum().backward()
    assert torch.isfinite(attention.grad).all()
    assert torch.isfinite(exponent.gamma.grad)


def test_gradients_in_float64() -> None:
    torch.manual_seed(1)
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    for gamma in (0.5, 1.0, 2.0):
        exponent = FocalExponent(gamma, learnable=True).double()
        se = FocalSE(4, gamma, learnable=True).double()
        gate = FocalGate(4, gamma, learnable=True).double()
        assert torch.autograd.gradcheck(lambda a, m=exponent: m(a.sigmoid()), (x,))
        assert torch.autograd.gradcheck(se, (x,))
        assert torch.autograd.gradcheck(lambda a, m=gate: m(a, a.flip(1)), (x,))
        # And with respect to γ itself.
        for module, inputs in ((se, (x,)), (gate, (x, x.flip(1)))):
            g = module.focal.gamma.detach().clone().requires_grad_()
            assert torch.autograd.gradcheck(
                lambda g, m=module, i=inputs: functional_call(m, {"focal.gamma": g}, i), (g,)
            )


def test_another_exponent_stands_in_for_the_own_one() -> None:
    """Of the coefficients before the power, so that a module at 0 can be switched on."""
    a = torch.rand(5)
    for own in (0.0, 1.0, 3.0):
        exponent = FocalExponent(own)
        for gamma in (0.0, 0.7, 2.0):
            torch.testing.assert_close(exponent(a, gamma), a**gamma)
        assert torch.equal(exponent(a, None), exponent(a))


def test_a_learned_exponent_stays_below_the_largest() -> None:
    """However it is trained, the network can be described and saved."""
    net = make(learnable=True, se=ALL).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with torch.no_grad():
        net.up4.AG.focal.gamma.fill_(9.5)
        net.se["1"].focal.gamma.fill_(30.0)
    assert network_config(net).gamma[0] == network_config(net).se_gamma[3] == 8
    net(image(batch=2)).square().mean().backward()
    optimizer.step()
    assert net.up4.AG.focal.gamma.item() == net.se["1"].focal.gamma.item() == 8
    assert net.up4.AG.focal.gamma.grad != 0, "and it comes back"
    for gamma in (-0.1, 8.1, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 8"):
            FocalExponent(gamma)


# --- networks ----------------------------------------------------------------------------


@KINDS
def test_learnable_exponents_of_one_change_nothing(kind: str) -> None:
    fixed, learned = make(kind, se=ALL), make(kind, learnable=True, se=ALL)
    learned.load_state_dict(fixed.state_dict(), strict=False)
    assert learned.gamma == fixed.gamma == learned.se_gamma == (1, 1, 1, 1)
    with torch.no_grad():
        assert (fixed(image()) - learned(image())).abs().max() <= 1e-6


@KINDS
@pytest.mark.parametrize("learnable", [False, True])
def test_modules_with_exponent_zero_can_be_removed(kind: str, learnable: bool) -> None:
    gamma, se_gamma = (0.0, 1.5, 0.0, 0.7), (1.0, 0.0, 0.5, 0.0)
    net = make(kind, learnable, gamma=gamma, se=ALL, se_gamma=se_gamma)
    lean = without_idle_modules(net)
    assert network_config(lean).gates == (False, True, False, True)
    assert network_config(lean).se == (True, False, True, False)
    assert lean.gamma == pytest.approx(gamma)
    assert lean.se_gamma == pytest.approx(se_gamma)
    assert len(list(lean.parameters())) < len(list(net.parameters()))
    x = image(33, 50, batch=2)
    with torch.no_grad(), capture_attention(net) as maps:
        expected = net(x, deep_supervision=True)
    assert torch.equal(maps["aua_8"], torch.ones_like(maps["aua_8"]))
    assert not torch.equal(maps["aua_4"], torch.ones_like(maps["aua_4"]))
    with torch.no_grad(), capture_attention(lean) as fewer:
        got = lean(x, deep_supervision=True)
    assert set(maps) - set(fewer) == {"aua_8", "aua_2"}
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@KINDS
def test_a_module_that_is_used_is_missed(kind: str) -> None:
    net = make(kind, gamma=(0.5, 1, 1, 1), se=ALL)
    without = make(kind, gates=(False, True, True, True), se=ALL)
    state = net.state_dict()
    without.load_state_dict({k: state[k] for k in without.state_dict()})
    with torch.no_grad():
        assert (net(image()) - without(image())).abs().max() > 1e-5


@KINDS
def test_settings_there_and_back(kind: str) -> None:
    config = NetworkConfig(
        kind=kind,
        in_channels=4,
        n_classes=2,
        base_channels=3,
        gamma=(0.5, 1, 2, 1),
        gates=(True, False, True, False),
        se=(False, True, True, False),
        se_gamma=(1, 0.25, 3, 1),
    )
    assert network_config(make_network(config)) == config
    assert network_config(make_network(config, learnable_gamma=True)) == config


def test_without_extras_the_keys_are_the_published_ones() -> None:
    assert make().state_dict().keys() == SA2Net(1, 2, 4).state_dict().keys()
    extra = make(se=ALL).state_dict().keys() - make().state_dict().keys()
    assert {key.split(".")[0] for key in extra} == {"se"}


def test_focal_unet_has_the_rooms_of_sa2net() -> None:
    net = FocalUNet(in_channels=3, n_classes=2, base_channels=4).eval()
    assert sorted(net.se) == ["1", "2", "3", "4"]
    x = torch.randn(2, 3, 33, 47)
    with torch.no_grad(), capture_attention(net) as maps:
        heads = net(x, deep_supervision=True)
        assert torch.equal(heads[0], net(x))
    assert [tuple(h.shape) for h in heads] == [(2, 2, 33, 47)] * 4
    assert set(maps) == {n for n in ATTENTION_NAMES if n.startswith("aua")}
    for stride in (8, 4, 2, 1):
        assert maps[f"aua_{stride}"].shape == (2, 1, 48 // stride, 48 // stride)


@KINDS
def test_every_exponent_learns(kind: str) -> None:
    net = make(kind, learnable=True, se=ALL).train()
    net(image(batch=2)).square().mean().backward()
    learned = {n: p.grad for n, p in net.named_parameters() if n.endswith("focal.gamma")}
    assert len(learned) == 8
    assert all(g is not None and torch.isfinite(g) and g != 0 for g in learned.values())


@pytest.mark.parametrize("name", ["gamma", "gates", "se", "se_gamma"])
def test_four_values_are_needed(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs four"):
        FocalUNet(1, 1, 2, **{name: (1, 1, 1)})


# --- statistics of the whole image ---------------------------------------------------------


@KINDS
def test_a_part_with_the_statistics_of_the_whole(kind: str) -> None:
    net, whole = make(kind, se=ALL), image(512, 32)
    part = whole[:, :, :432]
    with torch.no_grad():
        expected = net(whole)[:, :, :128]
        with pooled_over(net, whole):
            got = net(part)[:, :, :128]
        alone = net(part)[:, :, :128]
    # What lies far below reaches these rows through the statistics alone.
    assert (got - expected).abs().max() < 1e-4
    assert (alone - expected).abs().max() > 10 * (got - expected).abs().max()


def test_statistics_are_gone_after_the_block() -> None:
    net = make(se=ALL)
    with torch.no_grad():
        before = net(image())
        with pytest.raises(RuntimeError), pooled_over(net, image(64, 64)):
            raise RuntimeError
        assert torch.equal(net(image()), before)
        with pooled_over(net, image()):
            assert torch.equal(net(image()), before)
            with pooled_over(net, image(64, 64)):
                assert not torch.equal(net(image()), before)
            assert torch.equal(net(image()), before)
        with pytest.raises(RuntimeError), pooled_over(net, torch.zeros(1, 5, 16, 16)):
            pass
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert pools_globally(net)
    assert not pools_globally(make())
