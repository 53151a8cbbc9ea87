"""Our own model file: card and weights there and back, and never half of one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from napari_sa2net import errors
from napari_sa2net.config import InputConfig, InstanceConfig, NetworkConfig
from napari_sa2net.files import write_atomically
from napari_sa2net.models import (
    Model,
    ModelCard,
    load_checkpoint,
    load_model,
    open_model,
    read_card,
    save_model,
)
from napari_sa2net.nn import SA2Net

THREE = ("background", "interior", "boundary")


def make_card(**fields: Any) -> ModelCard:
    return ModelCard(
        **{
            "name": "cells",
            "network": NetworkConfig(in_channels=1, n_classes=3, base_channels=2),
            "classes": THREE,
            **fields,
        }
    )


@pytest.fixture
def net() -> SA2Net:
    torch.manual_seed(0)
    return SA2Net(1, 3, 2).eval()


def test_there_and_back(tmp_path: Path, net: SA2Net) -> None:
    card = make_card(
        description="Zellen, 細胞",
        input=InputConfig(channel_order="any", low=0.5, high=99.9),
        diameter=24.5,
        instance=InstanceConfig(split=0.7),
        training={"data": "here", "seed": 3, "settings": {"steps": 10, "lr": 1e-3, "on": None}},
        scores={"validation": {"ap50": 0.8}},
        licence="BSD-3-Clause",
        parent="other",
    )
    path = save_model(tmp_path / "a.safetensors", net, card)
    model = open_model(path)
    assert model.card == card == read_card(path)
    assert model.name == "cells"
    assert model.diameter == 24.5
    assert model.path == path
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not model.net.training
    state = model.net.state_dict()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_half_precision_file(tmp_path: Path, net: SA2Net) -> None:
    with torch.no_grad():
        net.inc.norm.running_var.fill_(1e-9)  # would be 0 in float16
        net.side_conv2.weight[0, 0, 0, 0] = 1e6  # would be infinite in float16
    full = save_model(tmp_path / "full.safetensors", net, make_card())
    half = save_model(tmp_path / "half.safetensors", net, make_card(), dtype="float16")
    assert half.stat().st_size < 0.75 * full.stat().st_size
    loaded = load_checkpoint(half)
    assert torch.equal(loaded.inc.norm.running_var, net.inc.norm.running_var)
    assert torch.equal(loaded.side_conv2.weight, net.side_conv2.weight)
    assert torch.equal(
        loaded.down1.nConvs[0].conv.weight, net.down1.nConvs[0].conv.weight.half().float()
    )
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_gamma_travels_in_the_card(tmp_path: Path) -> None:
    net = SA2Net(1, 3, 2, gamma=(0, 0.5, 1, 2)).eval()
    path = save_model(tmp_path / "g.safetensors", net, make_card())
    loaded = load_checkpoint(path)
    assert loaded.gamma == (0, 0.5, 1, 2) == read_card(path).network.gamma
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), net(x))


def test_learned_gamma_is_kept(tmp_path: Path) -> None:
    net = SA2Net(1, 3, 2, gamma=(1, 1, 1, 1), learnable_gamma=True).eval()
    with torch.no_grad():
        net.up3.AG.focal.gamma.fill_(1.5)
    loaded = load_checkpoint(save_model(tmp_path / "g.safetensors", net, make_card()))
    assert loaded.gamma == (1, 1.5, 1, 1)
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), net(x))


def test_same_model_makes_the_same_file(tmp_path: Path, net: SA2Net) -> None:
    card = make_card()
    a = save_model(tmp_path / "a", net, card).read_bytes()
    assert a == save_model(tmp_path / "b", net, card).read_bytes()


def test_channels_last_network_is_saved(tmp_path: Path, net: SA2Net) -> None:
    path = save_model(tmp_path / "c", net.to(memory_format=torch.channels_last), make_card())
    state = load_checkpoint(path).state_dict()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_sizes_learned_from_travel_in_the_card(tmp_path: Path, net: SA2Net) -> None:
    """Earlier versions read cards without them, and say of others that they are too old."""
    sized = make_card(image_diameters=(13.5, 40))
    assert json.loads(sized.to_json())["schema_version"] == 3
    read = read_card(save_model(tmp_path / "a", net, sized))
    assert read.image_diameters == (13.5, 40)
    assert read.expected_diameter is None  # it rescales nothing
    for trained, expected in ((10, 13.5), (20, 20), (50, 40)):
        assert sized.model_copy(update={"diameter": trained}).expected_diameter == expected
    plain = json.loads(make_card().to_json())
    assert plain["schema_version"] == 1
    assert "image_diameters" not in plain
    assert ModelCard.from_json(json.dumps(plain)).image_diameters is None


def test_what_no_model_is_tuned_for_is_the_default_whatever_an_older_card_says() -> None:
    older = json.loads(make_card().to_json())
    older["instance"] |= {"link_planes": False, "min_size": 20, "split": 0.43}
    read = ModelCard.from_json(json.dumps(older)).instance
    assert read == InstanceConfig(split=0.43)


def test_a_least_confidence_travels_in_the_card(tmp_path: Path, net: SA2Net) -> None:
    """As sizes: earlier versions read cards without one."""
    doubting = make_card(instance=InstanceConfig(min_confidence=0.9), image_diameters=(13, 40))
    assert json.loads(doubting.to_json())["schema_version"] == 4
    read = read_card(save_model(tmp_path / "a", net, doubting))
    assert read.instance.min_confidence == 0.9
    assert read.image_diameters == (13, 40)
    plain = json.loads(make_card().to_json())
    assert plain["schema_version"] == 1
    assert "min_confidence" not in plain["instance"]
    assert ModelCard.from_json(json.dumps(plain)).instance.min_confidence == 0


def test_card_of_another_network_is_not_saved(tmp_path: Path, net: SA2Net) -> None:
    card = make_card(network=NetworkConfig(in_channels=3, n_classes=3, base_channels=2))
    with pytest.raises(errors.CardError, match="Make the card for it") as refused:
        save_model(tmp_path / "a", net, card)
    assert "base_channels 2" in str(refused.value)
    assert "gamma" not in str(refused.value)  # that may differ, and is no reason
    assert not list(tmp_path.iterdir())


def test_card_that_json_cannot_hold_is_not_saved(tmp_path: Path, net: SA2Net) -> None:
    with pytest.raises(errors.CardError, match="JSON"):
        save_model(tmp_path / "a", net, make_card(training={"net": net}))
    assert not list(tmp_path.iterdir())


def test_broken_network_is_not_saved(tmp_path: Path, net: SA2Net) -> None:
    path = save_model(tmp_path / "a", net, make_card())
    before = path.read_bytes()
    with torch.no_grad():
        net.outc4.bias[0] = float("nan")
    with pytest.raises(errors.NonFiniteWeightsError, match=r"outc4\.bias"):
        save_model(path, net, make_card())
    assert path.read_bytes() == before


# --- the card --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": ("background", "interior")},
        {"classes": ("a", "a", "b")},
        {"classes": ("a", "", "b")},
        {"diameter": 0},
        {"diameter": float("nan")},
        {"image_diameters": (20, 19)},
        {"image_diameters": (0, 19)},
        {"name": ""},
        {"surprise": 1},
    ],
)
def test_cards_that_contradict_themselves(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_card(**fields)


def write_with_card(path: Path, net: SA2Net, card: str | None) -> Path:
    metadata = None if card is None else {"card": card}
    safetensors.torch.save_file(net.state_dict(), path, metadata=metadata)
    return path


@pytest.mark.parametrize("read", [read_card, load_checkpoint, open_model])
def test_unusable_cards(tmp_path: Path, net: SA2Net, read: Any) -> None:
    good = json.loads(make_card().to_json())
    cases = {
        None: "without a model card",
        "{": "not valid JSON",
        "[]": "no schema version",
        json.dumps({**good, "schema_version": 5}): "Update it",
        json.dumps({**good, "schema_version": 99, "new_field": 1}): "Update it",
        json.dumps({**good, "schema_version": "1"}): "no schema version",
        json.dumps({**good, "schema_version": True}): "no schema version",
        json.dumps({**good, "schema_version": 0}): "malformed",
        json.dumps({**good, "surprise": 1}): "surprise",
        json.dumps({**good, "classes": ["a"]}): "class names",
        json.dumps({k: v for k, v in good.items() if k != "network"}): "network",
    }
    for text, message in cases.items():
        path = write_with_card(tmp_path / "c.safetensors", net, text)
        with pytest.raises(errors.CardError, match=message):
            read(path)


def test_card_of_other_weights(tmp_path: Path, net: SA2Net) -> None:
    card = make_card(network=NetworkConfig(in_channels=1, n_classes=3, base_channels=8))
    path = write_with_card(tmp_path / "c", net, card.to_json())
    with pytest.raises(errors.CardError, match="does not belong"):
        load_checkpoint(path)


def test_surplus_weights_in_our_file(tmp_path: Path, net: SA2Net) -> None:
    # Unused published weights are dropped from published files only.
    state = {**net.state_dict(), "up1.AG.weight.0.bias": torch.zeros(2)}
    safetensors.torch.save_file(state, tmp_path / "s", metadata={"card": make_card().to_json()})
    with pytest.raises(errors.ForeignCheckpointError, match="surplus"):
        load_checkpoint(tmp_path / "s")


@pytest.mark.parametrize("key", ["outc4.weight", "up2.AG.psi.0.weight"])
def test_a_weight_missing_in_our_file(tmp_path: Path, net: SA2Net, key: str) -> None:
    state = {name: value for name, value in net.state_dict().items() if name != key}
    safetensors.torch.save_file(state, tmp_path / "m", metadata={"card": make_card().to_json()})
    with pytest.raises(errors.ForeignCheckpointError, match="incomplete or changed") as caught:
        load_checkpoint(tmp_path / "m")
    assert key in str(caught.value)
    assert "another network" not in str(caught.value)


@pytest.mark.parametrize("damage", ["shorter", "longer", "header", "offsets"])
def test_damaged_files(tmp_path: Path, net: SA2Net, damage: str) -> None:
    data = save_model(tmp_path / "a", net, make_card()).read_bytes()
    n = int.from_bytes(data[:8], "little")
    damaged = {
        "shorter": data[:-1],
        "longer": data + b"\0",
        "header": data[:8] + data[8 : 8 + n].replace(b":", b";") + data[8 + n :],
        "offsets": data.replace(b'"data_offsets"', b'"data_offsetz"'),
    }[damage]
    (tmp_path / "b").write_bytes(damaged)
    for read in (read_card, load_checkpoint):
        with pytest.raises(errors.CorruptCheckpointError, match="again"):
            read(tmp_path / "b")


def test_card_of_a_file_of_another_kind(tmp_path: Path, net: SA2Net) -> None:
    torch.save(net.state_dict(), tmp_path / "p.pt")
    with pytest.raises(errors.ForeignCheckpointError, match="imported"):
        read_card(tmp_path / "p.pt")


def test_card_is_read_without_torch(tmp_path: Path, net: SA2Net) -> None:
    path = save_model(tmp_path / "a.safetensors", net, make_card())
    code = (
        "import sys; from napari_sa2net.models import read_card, list_models;"
        f"print(read_card({str(path)!r}).name); list_models();"
        "sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "cells"), run.stderr


# --- load_model ------------------------------------------------------------------------


def test_load_model_by_path(
    tmp_path: Path, net: SA2Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    path = save_model(tmp_path / "a.safetensors", net, make_card())
    loaded = load_model(path)
    assert isinstance(loaded, Model)
    assert load_model(str(path)).sha256 == loaded.sha256
    assert load_model(loaded) is loaded
    monkeypatch.chdir(tmp_path)
    relative = load_model("a.safetensors")
    assert relative.path == path
    torch.save(net.state_dict(), tmp_path / "published")
    assert load_model("published").card.input.normalization == "range"


def test_load_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))
    with pytest.raises(errors.ModelNotFoundError, match=r"'no-such'.*sa2net models import"):
        load_model("no-such")
    for path in (tmp_path / "no.pt", str(tmp_path / "no"), "no.pt", "folder/no", ""):
        with pytest.raises(errors.CheckpointPathError):
            load_model(path)


# --- atomic writing --------------------------------------------------------------------


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(errors.OutputError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", interrupt)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a", tmp_path / "folder", "zero\0"):
        with pytest.raises(errors.OutputError):
            write_atomically(path, b"x")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits of POSIX")
def test_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        path = write_atomically(tmp_path / "new" / "a", b"x")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640


def test_every_promised_name_is_there() -> None:
    from napari_sa2net import models

    for name in models.__all__:
        assert callable(getattr(models, name))
        assert name in dir(models)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = models.no_such_name
