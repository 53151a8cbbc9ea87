"""The rewritten network equals the network."""

from __future__ import annotations

import copy

import pytest
import torch

from napari_sa2net.inference.cpu import FastSA2Net, optimised

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN"
)


@pytest.mark.parametrize(
    ("base", "n_classes", "in_channels", "gamma"),
    [(4, 3, 3, (1, 1, 1, 1)), (16, 1, 1, (1, 1, 1, 1)), (6, 2, 4, (0, 0.5, 2, 3))],
)
def test_float32_equals_the_network(
    make_network, base: int, n_classes: int, in_channels: int, gamma: tuple[float, ...]
) -> None:
    net = make_network(base, n_classes, in_channels, gamma=gamma)
    before = copy.deepcopy(net.state_dict())
    x = torch.rand(2, in_channels, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact = copy.deepcopy(net).double()(x.double())
        fast, plain = FastSA2Net(net, torch.float32)(x), net(x)
    # Rounding alone: as far from the exact result as the network itself is.
    assert (fast - exact).abs().max() <= 4 * (plain - exact).abs().max() + 1e-5
    assert (fast - exact).abs().max() <= 1e-4 * exact.abs().max()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_strips_of_the_mlp_do_not_show(make_network, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_network()
    x = torch.rand(1, 3, 112, 80)
    with torch.inference_mode():
        whole = FastSA2Net(net, torch.float32)(x)
        monkeypatch.setattr("napari_sa2net.inference.cpu.STRIP_ELEMENTS", 20000)
        strips = FastSA2Net(net, torch.float32)(x)
    torch.testing.assert_close(strips, whole, atol=1e-4, rtol=1e-4)


def test_bfloat16_is_close(make_network) -> None:
    net = make_network(16)
    x = torch.rand(1, 3, 96, 64)
    with torch.inference_mode():
        exact = net(x).softmax(1)
        fast = FastSA2Net(net, torch.bfloat16)(x).float().softmax(1)
    assert (fast - exact).abs().mean() < 0.01


def test_unusable_fused_calls_fall_back(make_network, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_network()
    x = torch.rand(1, 3, 48, 32)

    def broken(self, x, activation="none", add=None):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("napari_sa2net.inference.cpu.FusedConv.__call__", broken)
    run = optimised(net, torch.device("cpu"), torch.float32)
    assert not isinstance(run, FastSA2Net)
    with torch.inference_mode():
        torch.testing.assert_close(run(x), net(x), atol=1e-4, rtol=1e-4)


def test_wrong_fused_calls_fall_back(make_network, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sa2net.inference.cpu import FusedConv

    right = FusedConv.__call__
    monkeypatch.setattr(
        FusedConv, "__call__", lambda self, x, activation="none", add=None: -right(self, x)
    )
    run = optimised(make_network(), torch.device("cpu"), torch.float32)
    assert not isinstance(run, FastSA2Net)


def test_training_mode_is_restored(make_network) -> None:
    net = make_network().train()
    optimised(net, torch.device("cpu"), torch.float32)
    assert net.training
