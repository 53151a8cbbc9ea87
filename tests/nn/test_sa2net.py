from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from napari_sa2net.nn import (
    ATTENTION_NAMES,
    FocalUNet,
    SA2Net,
    capture_attention,
    network_config,
    pad_to_stride,
)
from napari_sa2net.nn.blocks import Depthwise, channels_first


def make_net(**sizes: object) -> SA2Net:
    torch.manual_seed(0)
    net = SA2Net(**{"in_channels": 1, "n_classes": 2, "base_channels": 4, **sizes})
    # Statistics away from 0 and 1, so that a skipped normalisation would show.
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


def n_hooks(net: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


@pytest.fixture(scope="module")
def net() -> SA2Net:
    return make_net()


@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 48])
@pytest.mark.parametrize("width", [1, 2, 7, 16, 18, 37])
def test_padding_equals_numpy_reflection(height: int, width: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, height, width)).astype(np.float32)
    pad = [(0, 0), (0, 0), (0, -height % 16), (0, -width % 16)]
    # numpy reflects an axis of one pixel into copies of it, too
    expected = np.pad(x, pad, mode="reflect")
    assert np.array_equal(pad_to_stride(torch.from_numpy(x)).numpy(), expected)


def test_padding_leaves_whole_strides_alone() -> None:
    x = torch.zeros(1, 1, 32, 16)
    assert pad_to_stride(x) is x


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (2, 3), (17, 50)])
def test_any_size_equals_padding_and_cropping(net: SA2Net, height: int, width: int) -> None:
    x = torch.randn(2, 1, height, width, generator=torch.Generator().manual_seed(1))
    padded = np.pad(
        x.numpy(), [(0, 0), (0, 0), (0, -height % 16), (0, -width % 16)], mode="reflect"
    )
    with torch.no_grad():
        got = net(x, deep_supervision=True)
        expected = net(torch.from_numpy(padded), deep_supervision=True)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == (2, 2, height, width)
        assert torch.equal(a, b[..., :height, :width])


@pytest.mark.parametrize(
    ("in_channels", "n_classes", "base"), [(1, 1, 1), (3, 3, 2), (4, 2, 8), (7, 5, 3)]
)
def test_sizes(in_channels: int, n_classes: int, base: int) -> None:
    net = SA2Net(in_channels, n_classes, base).eval()
    with torch.no_grad():
        y = net(torch.randn(1, in_channels, 20, 30))
    assert y.shape == (1, n_classes, 20, 30)
    assert y.dtype == torch.float32


def test_published_size_has_the_published_number_of_used_parameters() -> None:
    with torch.device("meta"):
        net = SA2Net(3, 1, 64)
    n = sum(p.numel() for p in net.parameters())
    assert round(n / 1e6, 2) == 19.30


@pytest.mark.parametrize("sizes", [(0, 1, 4), (1, 0, 4), (1, 1, 0), (-1, 1, 4)])
def test_sizes_below_one_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SA2Net(*sizes)


def test_deterministic(net: SA2Net) -> None:
    x = torch.randn(1, 1, 33, 47)
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
        assert torch.equal(make_net()(x), net(x))


def test_main_head_is_the_same_with_and_without_deep_supervision(net: SA2Net) -> None:
    x = torch.randn(1, 1, 20, 20)
    with torch.no_grad():
        heads = net(x, deep_supervision=True)
        assert len(heads) == 4
        assert torch.equal(heads[0], net(x))


def test_batch_items_do_not_mix(net: SA2Net) -> None:
    x = torch.randn(3, 1, 32, 48)
    with torch.no_grad():
        whole = net(x)
        apart = torch.cat([net(item[None]) for item in x])
    torch.testing.assert_close(whole, apart, rtol=0, atol=1e-5)


# --- attention -------------------------------------------------------------------------


def test_capture_gives_every_map_on_its_grid() -> None:
    net = make_net(base_channels=4)
    with torch.no_grad(), capture_attention(net) as maps:
        net(torch.randn(2, 1, 40, 50))  # padded to 48 × 64
    assert set(maps) == set(ATTENTION_NAMES)
    for i in (1, 2, 3, 4):
        assert maps[f"scale_gate_{i}"].shape == (2, 1, 12, 16)
        local = maps[f"local_gate_{i}"]
        assert local.shape == (2, 16, 12, 16)
        assert 0.5 <= float(local.min()) <= float(local.max()) < 1
    assert maps["global_query"].shape == (2, 4, 12, 16)
    for stride in (8, 4, 2, 1):
        psi = maps[f"aua_{stride}"]
        assert psi.shape == (2, 1, 48 // stride, 64 // stride)
        assert 0 < float(psi.min()) <= float(psi.max()) < 1
    assert all(m.dtype == torch.float32 and not m.requires_grad for m in maps.values())


def test_capture_detaches_and_does_not_change_the_result() -> None:
    net = make_net()
    x = torch.randn(1, 1, 16, 16)
    plain = net(x)
    with capture_attention(net) as maps:
        watched = net(x)
    assert torch.equal(plain, watched)
    assert watched.requires_grad
    assert not any(m.requires_grad for m in maps.values())


def test_capture_leaves_no_hook_behind() -> None:
    net = make_net()
    before = n_hooks(net)
    with capture_attention(net) as maps:
        assert n_hooks(net) > before
        net(torch.randn(1, 1, 16, 16))
    assert n_hooks(net) == before
    kept = {name: value.clone() for name, value in maps.items()}
    net(torch.randn(1, 1, 32, 32))
    assert all(torch.equal(maps[name], value) for name, value in kept.items())


def test_capture_leaves_no_hook_behind_after_errors() -> None:
    net = make_net()
    before = n_hooks(net)
    with pytest.raises(RuntimeError), capture_attention(net):
        net(torch.randn(1, 5, 16, 16))  # five channels into a network of one
    assert n_hooks(net) == before
    with pytest.raises(KeyboardInterrupt), capture_attention(net):
        raise KeyboardInterrupt
    assert n_hooks(net) == before


def test_captures_nest() -> None:
    net = make_net()
    with capture_attention(net) as outer:
        with capture_attention(net) as inner:
            net(torch.randn(1, 1, 16, 16))
        assert set(inner) == set(outer) == set(ATTENTION_NAMES)
    assert n_hooks(net) == 0


def test_maps_are_copies() -> None:
    net = make_net()
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad(), capture_attention(net) as maps:
        first = net(x)
        for value in maps.values():
            value.zero_()
        assert torch.equal(net(x), first)


# --- γ ---------------------------------------------------------------------------------


def test_gamma_in_the_config_reaches_each_psi() -> None:
    gammas = (0.0, 0.5, 2.0, 8.0)
    plain, focal = make_net(), make_net(gamma=gammas)
    focal.load_state_dict(plain.state_dict())
    assert focal.gamma == gammas
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        with capture_attention(plain) as before:
            plain(x)
        with capture_attention(focal) as after:
            focal(x)
    # ψ4 is computed before any γ acts, so it is the published map to the power γ4.
    assert torch.equal(after["aua_8"], torch.ones_like(after["aua_8"]))
    psi3 = make_net(gamma=(1.0, 0.5, 1.0, 1.0))
    psi3.load_state_dict(plain.state_dict())
    with torch.no_grad(), capture_attention(psi3) as one:
        psi3(x)
    torch.testing.assert_close(one["aua_8"], before["aua_8"])
    torch.testing.assert_close(one["aua_4"], before["aua_4"] ** 0.5)


def test_gamma_zero_makes_every_psi_one() -> None:
    net = make_net(gamma=(0, 0, 0, 0))
    with torch.no_grad(), capture_attention(net) as maps:
        net(torch.randn(1, 1, 16, 16))
    for stride in (8, 4, 2, 1):
        assert torch.equal(maps[f"aua_{stride}"], torch.ones_like(maps[f"aua_{stride}"]))


def test_gamma_one_is_the_published_network_bit_for_bit() -> None:
    net, same = make_net(), make_net(gamma=(1, 1, 1, 1))
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(x), same(x))
    assert net.state_dict().keys() == same.state_dict().keys()
    assert not any("gamma" in key for key in net.state_dict())


def test_learnable_gamma_learns() -> None:
    net = make_net(gamma=(2, 2, 2, 2), learnable_gamma=True).train()
    net(torch.randn(2, 1, 32, 32)).square().mean().backward()
    grads = [up.AG.focal.gamma.grad for up in (net.up4, net.up3, net.up2, net.up1)]
    assert all(g is not None and torch.isfinite(g) for g in grads)
    assert any(float(g) != 0 for g in grads)


@pytest.mark.parametrize(
    "gamma", [(1, 1, 1), (1, 1, 1, -0.1), (1, 1, 1, float("nan")), (float("inf"),) * 4]
)
def test_bad_gamma_is_refused(gamma: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="gamma"):
        SA2Net(1, 1, 2, gamma=gamma)


def test_large_depthwise_kernels_are_channels_first_whatever_the_network_is():
    conv = Depthwise(6, 11).double().to(memory_format=torch.channels_last)
    x = torch.randn(2, 6, 20, 18, dtype=torch.float64).to(memory_format=torch.channels_last)
    assert conv.weight.stride() != channels_first(conv.weight).stride() == (121, 121, 11, 1)
    y = conv(x)
    expected = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=5, groups=6)
    torch.testing.assert_close(y, expected)
    assert y.stride() == torch.empty(y.shape).stride()
    y.sum().backward()
    assert conv.weight.grad.shape == (6, 1, 11, 11)


@pytest.mark.parametrize("kernel", [3, 5, 7, 11])
@pytest.mark.parametrize("size", [(3, 4), (9, 17), (32, 32)])
@pytest.mark.parametrize("learns", ["all", "weights", "nothing"])
def test_gradients_of_depthwise_kernels_are_those_of_torch(
    kernel: int, size: tuple[int, int], learns: str
) -> None:
    conv = Depthwise(6, kernel)
    conv.requires_grad_(learns != "nothing")
    x = torch.randn(2, 6, *size).to(memory_format=torch.channels_last)
    x.requires_grad_(learns != "weights")
    asked = [*conv.parameters()] * (learns != "nothing") + [x] * (learns != "weights")
    pull = torch.randn(2, 6, *size)
    expected = torch.nn.functional.conv2d(
        x, conv.weight, conv.bias, padding=kernel // 2, groups=6
    )
    y = conv(x)
    torch.testing.assert_close(y, expected)
    for got, want in zip(
        torch.autograd.grad(y, asked, pull),
        torch.autograd.grad(expected, asked, pull),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "se"), [(SA2Net, (False,) * 4), (FocalUNet, (True,) * 4)])
def test_unsaid_a_network_is_the_published_one(kind: Any, se: Any) -> None:
    """Every module of it, all exponents 1, and for the channels and classes of the paper."""
    net = kind(base_channels=4)
    said = network_config(net)
    assert (said.in_channels, said.n_classes, said.base_channels) == (3, 1, 4)
    assert said.gamma == said.se_gamma == (1.0,) * 4
    assert said.gates == said.scales == (True,) * 4
    assert said.se == se
    assert not [name for name, _ in net.named_parameters() if name.endswith("focal.gamma")]
    assert inspect.signature(kind).parameters["base_channels"].default == 64
