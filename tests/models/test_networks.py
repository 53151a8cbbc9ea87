"""Model files of other networks than the published one, and of older cards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from napari_sa2net.config import NetworkConfig
from napari_sa2net.errors import CardError, ForeignCheckpointError
from napari_sa2net.models import ModelCard, load_checkpoint, open_model, read_card, save_model
from napari_sa2net.models.card import CARD_KEY
from napari_sa2net.nn import FocalUNet, SA2Net, make_network, network_config, widened

TWO = ("background", "cell")
CONFIGS = (
    NetworkConfig(
        kind="focal_unet", in_channels=2, n_classes=2, base_channels=3, se=(True,) * 4
    ),
    NetworkConfig(
        kind="focal_unet",
        in_channels=2,
        n_classes=2,
        base_channels=3,
        gamma=(0.5, 1, 2, 1),
        gates=(True, True, True, False),
        se=(True, False, False, True),
        se_gamma=(0.25, 1, 1, 3),
    ),
    NetworkConfig(
        in_channels=2, n_classes=2, base_channels=3, se=(True,) * 4, se_gamma=(1, 0, 0.5, 2)
    ),
    NetworkConfig(
        in_channels=2, n_classes=2, base_channels=3, gates=(False, True, False, True)
    ),
)


def card_of(network: NetworkConfig) -> ModelCard:
    return ModelCard(name="cells", network=network, classes=TWO)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("learnable", [False, True])
def test_the_card_names_the_network(
    tmp_path: Path, config: NetworkConfig, learnable: bool
) -> None:
    torch.manual_seed(0)
    net = make_network(config, learnable).eval()
    path = save_model(tmp_path / "a.safetensors", net, card_of(config))
    model = open_model(path)
    assert type(model.net) is (FocalUNet if config.kind == "focal_unet" else SA2Net)
    assert model.card.network == network_config(model.net) == config
    x = torch.rand(1, 2, 20, 33)
    with torch.no_grad():
        torch.testing.assert_close(model.net(x), net(x), rtol=0, atol=1e-6)
    assert not any(p.device.type == "meta" for p in model.net.state_dict().values())


def test_learned_exponents_are_saved(tmp_path: Path) -> None:
    net = make_network(CONFIGS[0], learnable_gamma=True).eval()
    with torch.no_grad():
        net.up3.AG.focal.gamma.fill_(1.5)
        net.se["2"].focal.gamma.fill_(0.25)
        net.se["1"].focal.gamma.fill_(-0.1)  # a step past 0, which means 0
        net.up1.AG.focal.gamma.fill_(8.3)  # and one past the largest
    path = save_model(tmp_path / "a.safetensors", net, card_of(CONFIGS[0]))
    network = read_card(path).network
    assert network.gamma == (1, 1.5, 1, 8)
    assert network.se_gamma == (1, 1, 0.25, 0)
    loaded = load_checkpoint(path)
    assert (loaded.gamma, loaded.se_gamma) == (network.gamma, network.se_gamma)
    x = torch.rand(1, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"kind": "sa2net"}, {"se": (True, True, True, False)}, {"gates": (False,) * 4}]
)
def test_a_card_of_another_network_is_not_saved(tmp_path: Path, wrong: dict) -> None:
    net = make_network(CONFIGS[0])
    with pytest.raises(CardError, match="Make the card for it"):
        save_model(tmp_path / "a", net, card_of(CONFIGS[0].model_copy(update=wrong)))
    assert not list(tmp_path.iterdir())


def rewrite(path: Path, **network: object) -> None:
    """Change the network in the card of a model file; None takes a field out."""
    with safetensors.safe_open(path, "pt") as file:
        card = json.loads(file.metadata()[CARD_KEY])
    for key, value in network.items():
        if value is None:
            del card["network"][key]
        else:
            card["network"][key] = value
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, metadata={CARD_KEY: json.dumps(card)})


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path / "a", make_network(CONFIGS[0]), card_of(CONFIGS[0]))
    rewrite(path, kind="sa2net")
    with pytest.raises(ForeignCheckpointError, match="missing"):
        load_checkpoint(path)
    rewrite(path, kind="no such network")
    with pytest.raises(CardError, match="kind"):
        load_checkpoint(path)


def test_cards_from_before_there_were_kinds(tmp_path: Path) -> None:
    net = SA2Net(1, 2, 2, gamma=(1, 0.5, 1, 1)).eval()
    config = NetworkConfig(in_channels=1, n_classes=2, base_channels=2, gamma=net.gamma)
    path = save_model(tmp_path / "a", net, card_of(config))
    rewrite(path, kind=None, gates=None, se=None, se_gamma=None)
    model = open_model(path)
    assert model.card.network == config
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(model.net(x), net(x))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("times", [2, 3])
def test_a_wider_network_gives_the_same_and_its_twins_learn_apart(
    config: NetworkConfig, times: int
) -> None:
    torch.manual_seed(0)
    net = make_network(config)
    x = torch.rand(2, 2, 48, 32)
    net(x)  # the statistics of its norms are no longer those of a new network
    net.eval()
    wide = widened(net, 3 * times)
    assert network_config(wide).base_channels == 3 * times
    with torch.no_grad():
        torch.testing.assert_close(wide(x), net(x), rtol=1e-4, atol=1e-4)
    wide(x)[0].square().sum().backward()
    first = wide.inc.conv.weight.grad
    assert not torch.allclose(first[0], first[1], rtol=1e-2)


def test_no_narrower_network_is_made() -> None:
    with pytest.raises(ValueError, match="multiple of 3, got 4"):
        widened(make_network(CONFIGS[0]), 4)
