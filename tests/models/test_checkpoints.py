"""Files of unknown origin: what loads, and the error of each that does not."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from napari_sa2net import errors
from napari_sa2net.models import load_checkpoint, open_model
from napari_sa2net.nn import SA2Net


def make_net(in_channels: int = 3, n_classes: int = 1, base: int = 2) -> SA2Net:
    torch.manual_seed(0)
    return SA2Net(in_channels, n_classes, base).eval()


def published_state(net: SA2Net) -> dict[str, torch.Tensor]:
    """State dict as the published code writes it: with the weights it never uses."""
    c = net.base_channels
    state = dict(net.state_dict())
    for i in (1, 2, 3, 4):
        for k in (3, 5):
            gcn = f"bottleneck.gcn{i}.dwconv{k}x{k}_1"
            state[f"{gcn}.weight"] = torch.randn(2 * c, 2, k, k)
            state[f"{gcn}.bias"] = torch.randn(2 * c)
        state[f"up{i}.AG.weight.0.weight"] = torch.randn(c, 2 * c, 1, 1)
        state[f"up{i}.AG.weight.2.bias"] = torch.randn(c)
    for i in (1, 2, 3):
        state[f"Multi_scale_Fuse{i}.layernorm2.weight"] = torch.randn(2 * c)
    return state


def script_dict(state: dict[str, torch.Tensor], **more: Any) -> dict[str, Any]:
    """What the MoNuSeg/GlaS script saves."""
    return {
        "epoch": 3,
        "best_model": "val_best",
        "model": "MyNet",
        "state_dict": state,
        "val_loss": torch.tensor(0.5),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
        **more,
    }


def assert_same_weights(a: SA2Net, b: SA2Net) -> None:
    x = torch.randn(1, b.in_channels, 20, 17)
    with torch.no_grad():
        assert torch.equal(a.eval()(x), b(x))


# --- what loads ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_channels", "n_classes", "base"),
    [(3, 1, 4), (1, 1, 1), (4, 2, 3), (2, 5, 2), (3, 20, 2)],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_published_formats_load(
    tmp_path: Path, in_channels: int, n_classes: int, base: int, legacy: bool
) -> None:
    net = make_net(in_channels, n_classes, base)
    state = published_state(net)
    for name, content in {"a.pth.tar": script_dict(state), "b.pt": state}.items():
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        loaded = load_checkpoint(path)
        assert not loaded.training
        sizes = (loaded.in_channels, loaded.n_classes, loaded.base_channels)
        assert sizes == (in_channels, n_classes, base)
        assert_same_weights(loaded, net)


def test_published_size_loads(tmp_path: Path) -> None:
    net = make_net(3, 1, 64)
    torch.save(net.state_dict(), tmp_path / "full.pt")
    assert load_checkpoint(tmp_path / "full.pt").base_channels == 64


@pytest.mark.parametrize("name", ["official_monuseg_style.pth.tar", "official_segpc_style.pt"])
def test_real_published_checkpoints(shared_dir: Path, name: str) -> None:
    model = open_model(shared_dir / "golden" / name)
    assert len(model.card.dropped_keys) == 62
    assert model.net.base_channels == 8


def test_suffix_does_not_matter(tmp_path: Path) -> None:
    net = make_net()
    for name in ("weights.png", "weights", "weights.safetensors"):
        torch.save(net.state_dict(), tmp_path / name)
        assert_same_weights(load_checkpoint(tmp_path / name), net)


def test_data_parallel_prefix(tmp_path: Path) -> None:
    net = make_net()
    state = {f"module.{k}": v for k, v in published_state(net).items()}
    torch.save(script_dict(state), tmp_path / "p.pth.tar")
    model = open_model(tmp_path / "p.pth.tar")
    assert_same_weights(model.net, net)
    assert all(not key.startswith("module.") for key in model.card.dropped_keys)


def test_parameters_and_ordered_dicts(tmp_path: Path) -> None:
    net = make_net()
    state = OrderedDict(net.state_dict(keep_vars=True))
    assert isinstance(state["inc.conv.weight"], nn.Parameter)
    torch.save(state, tmp_path / "p.pt")
    assert_same_weights(load_checkpoint(tmp_path / "p.pt"), net)


@pytest.mark.parametrize("scalar", [np.float64(0.25), np.float32(1), np.int64(3), np.bool_(1)])
def test_numpy_scalars_beside_the_weights(tmp_path: Path, scalar: np.generic) -> None:
    net = make_net()
    content = script_dict(net.state_dict(), val_loss=scalar, scores=[scalar, scalar])
    torch.save(content, tmp_path / "n.pth.tar")
    assert_same_weights(load_checkpoint(tmp_path / "n.pth.tar"), net)


def test_loss_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    net = make_net()
    source, path = tmp_path / "cpu.pth.tar", tmp_path / "cuda.pth.tar"
    torch.save(script_dict(net.state_dict()), source)
    # The storages' location is a string in the pickle, shared by all of them.
    cpu, cuda = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert cpu in data
                data = data.replace(cpu, cuda)
            new.writestr(name, data)
    assert_same_weights(load_checkpoint(path), net)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    net = make_net()
    state = {
        k: v.to(dtype) if v.is_floating_point() else v for k, v in net.state_dict().items()
    }
    torch.save(state, tmp_path / "d.pt")
    loaded = load_checkpoint(tmp_path / "d.pt").state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            assert loaded[key].dtype == torch.float32
            assert torch.equal(loaded[key], value.float())


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    net = make_net()
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "c.pt")
    assert_same_weights(load_checkpoint(tmp_path / "c.pt"), net)


def test_weights_that_share_memory_are_taken_apart(tmp_path: Path) -> None:
    state = dict(make_net(base=2).state_dict())
    state["inc.conv.bias"] = state["inc.norm.weight"] = torch.ones(2)
    torch.save(state, tmp_path / "s.pt")
    net = load_checkpoint(tmp_path / "s.pt")
    with torch.no_grad():
        net.inc.conv.bias.zero_()
    assert float(net.inc.norm.weight.detach().sum()) == 2


def test_loaded_network_trains(tmp_path: Path) -> None:
    torch.save(make_net().state_dict(), tmp_path / "t.pt")
    net = load_checkpoint(tmp_path / "t.pt").train()
    net(torch.randn(2, 3, 16, 16)).mean().backward()
    grads = [p.grad for n, p in net.named_parameters() if not n.startswith("outc")]
    assert all(g is not None for g in grads)


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.save(make_net().state_dict(), tmp_path / "t.pt")
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "t.pt")
    assert torch.equal(before, torch.get_rng_state())


def test_dropped_weights_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = make_net()
    state = published_state(net)
    torch.save(state, tmp_path / "x.pt")
    with caplog.at_level(logging.INFO, logger="napari_sa2net"):
        model = open_model(tmp_path / "x.pt")
    unused = [key for key in state if key not in net.state_dict()]
    assert list(model.card.dropped_keys) == unused
    assert all(key in caplog.text for key in unused)


# --- cards of published checkpoints ----------------------------------------------------


def test_card_of_the_monuseg_glas_script(tmp_path: Path) -> None:
    torch.save(
        script_dict(published_state(make_net(3, 1))), tmp_path / "best_model-MyNet.pth.tar"
    )
    card = open_model(tmp_path / "best_model-MyNet.pth.tar").card
    assert card.name == "best_model-MyNet"
    assert card.classes == ("foreground",)
    assert card.input.channel_order == "BGR"
    assert (card.input.normalization, card.input.divisor) == ("divide", 255)
    assert card.input.resize_to == 224


@pytest.mark.parametrize(("in_channels", "order"), [(3, "RGB"), (4, "any"), (1, "any")])
def test_card_of_the_isic_segpc_script(tmp_path: Path, in_channels: int, order: str) -> None:
    torch.save(make_net(in_channels, 2).state_dict(), tmp_path / "s.pt")
    card = open_model(tmp_path / "s.pt").card
    assert card.classes == ("background", "foreground")
    assert card.input.channel_order == order
    assert (card.input.normalization, card.input.resize_to) == ("range", 224)


# --- what does not load ----------------------------------------------------------------


class Evil:
    """Pickled, it would write a file when opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "beside", "pickle2", "pickle4", "pickle0"])
def test_code_is_refused_and_never_run(tmp_path: Path, how: str) -> None:
    target, path = tmp_path / "was_run", tmp_path / "evil.pt"
    evil = Evil(target)
    if how == "zip":
        torch.save(evil, path)
    elif how == "legacy":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    elif how == "beside":
        torch.save(script_dict(make_net().state_dict(), extra=evil), path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": evil}, protocol=int(how[-1])))
    with pytest.raises(errors.UnsafeCheckpointError, match="system"):
        load_checkpoint(path)
    assert not target.exists()


def test_whole_network_is_refused(tmp_path: Path) -> None:
    torch.save(make_net(), tmp_path / "net.pt")
    with pytest.raises(errors.UnsafeCheckpointError, match="state_dict"):
        load_checkpoint(tmp_path / "net.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), str(tmp_path / "s.pt"))
    with pytest.raises(errors.UnsafeCheckpointError, match="TorchScript"):
        load_checkpoint(tmp_path / "s.pt")


def test_message_never_advises_unsafe_loading(tmp_path: Path) -> None:
    torch.save(make_net().state_dict(), tmp_path / "p4.pt", pickle_protocol=4)
    with pytest.raises(errors.UnsafeCheckpointError) as caught:
        load_checkpoint(tmp_path / "p4.pt")
    assert "weights_only" not in str(caught.value)
    assert "state_dict" in str(caught.value)


def whole_file(kind: str) -> bytes:
    buffer = io.BytesIO()
    state = make_net().state_dict()
    if kind == "safetensors":
        return safetensors.torch.save(state, metadata={"card": "{}"})
    torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("part", [0.002, 0.05, 0.5, 0.9, 0.99999])
def test_truncated(tmp_path: Path, kind: str, part: float) -> None:
    data = whole_file(kind)
    (tmp_path / "t").write_bytes(data[: max(9, int(part * len(data)))])
    with pytest.raises(errors.CorruptCheckpointError, match="again"):
        load_checkpoint(tmp_path / "t")


def test_flipped_bit_in_a_zip(tmp_path: Path) -> None:
    data = bytearray(whole_file("zip"))
    weight = make_net().state_dict()["down4.nConvs.0.conv.weight"].numpy().tobytes()
    data[data.index(weight[:32]) + 5] ^= 1
    (tmp_path / "f.pt").write_bytes(data)
    with pytest.raises(errors.CorruptCheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "f.pt")


def test_garbled_pickle_inside_a_sound_zip(tmp_path: Path) -> None:
    torch.save(make_net().state_dict(), tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w") as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:100] if name.endswith("data.pkl") else data)
    with pytest.raises(errors.CorruptCheckpointError):
        load_checkpoint(tmp_path / "b.pt")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    with pytest.raises(errors.CorruptCheckpointError, match="empty"):
        load_checkpoint(tmp_path / "empty.pt")


@pytest.mark.parametrize("n", range(1, 10))
def test_a_few_bytes(tmp_path: Path, n: int) -> None:
    (tmp_path / "few").write_bytes(whole_file("zip")[:n])
    with pytest.raises(errors.CorruptCheckpointError):
        load_checkpoint(tmp_path / "few")


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c626001000000ffff03000006000557bfabd40000000049454e44ae426082"
)


@pytest.mark.parametrize(
    "data",
    [
        PNG,
        b"name,size\ncell,12\n" * 20,
        b"import os\nprint('weights')\n",
        b"cell 1\nos.system\n. and more text",
        b"\x00" * 1000,
        b"\xff\xd8\xff\xe0" + bytes(range(256)),
        b"II*\x00" + bytes(200),
        b"12345678{ not a header }",
    ],
)
def test_foreign_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "foreign.pt").write_bytes(data)
    with pytest.raises(errors.ForeignCheckpointError, match="Expected"):
        load_checkpoint(tmp_path / "foreign.pt")


def test_random_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(errors.ForeignCheckpointError, match="zip"):
        load_checkpoint(tmp_path / "z.pt")


@pytest.mark.parametrize(
    "content",
    [
        [1, 2, 3],
        7,
        "text",
        None,
        {},
        torch.zeros(3),
        [torch.zeros(3)],
        {"epoch": 3},
        {"state_dict": {}},
        {"state_dict": None},
        {1: torch.zeros(2)},
        {"inc.conv.weight": 1.0},
        nn.Conv2d(3, 4, 3).state_dict(),
        {"inc.conv.weight": torch.zeros(4, 3, 3, 3), "outc4.weight": torch.zeros(1, 4, 1, 1)},
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_of_other_things(tmp_path: Path, content: object, legacy: bool) -> None:
    torch.save(content, tmp_path / "o.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(errors.ForeignCheckpointError, match=r"Expected|another|state dict"):
        load_checkpoint(tmp_path / "o.pt")


@pytest.mark.parametrize(
    ("more", "named"),
    [({"note": "mine"}, "'note' of type str"), ({7: torch.zeros(1)}, "7 of type Tensor")],
)
def test_what_is_no_weight_is_named(
    tmp_path: Path, more: dict[Any, object], named: str
) -> None:
    torch.save({**published_state(make_net()), **more}, tmp_path / "m.pt")
    with pytest.raises(errors.ForeignCheckpointError, match=named):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("content", [[1, 2], 5, {"a": 1}, "text", {"state_dict": {}}])
def test_plain_pickles(tmp_path: Path, content: object) -> None:
    for protocol in (2, 4, 5):
        (tmp_path / "p.pkl").write_bytes(pickle.dumps(content, protocol) + b"\n" * 8)
        with pytest.raises(errors.ForeignCheckpointError, match="Expected"):
            load_checkpoint(tmp_path / "p.pkl")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("up2.AG.psi.0.weight"), "up2.AG.psi.0.weight missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra surplus"),
        (
            lambda s: s.update({"bottleneck.gcn1.dwconv3x3_2.weight": torch.zeros(1)}),
            "dwconv3x3_2.weight surplus",
        ),
        (lambda s: s.update({"up5.AG.weight.0.bias": torch.zeros(1)}), "up5"),
        (lambda s: s.update({"xMulti_scale_Fuse1.a": torch.zeros(1)}), "xMulti"),
        (lambda s: s.update({"module.extra": torch.zeros(1)}), "module.extra surplus"),
    ],
)
def test_other_missing_or_surplus_keys(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    state = published_state(make_net())
    change(state)
    torch.save(state, tmp_path / "k.pt")
    with pytest.raises(errors.ForeignCheckpointError, match=named):
        load_checkpoint(tmp_path / "k.pt")


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("inc.conv.weight", (2, 3, 3)),
        ("inc.conv.weight", (100_000, 3, 3, 3)),
        ("inc.conv.weight", (0, 3, 3, 3)),
        ("inc.conv.weight", (2, 3, 5, 5)),
        ("outc4.weight", ()),
        ("outc4.weight", (1, 3, 1, 1)),
        ("down2.nConvs.0.conv.weight", (1,)),
        ("inc.norm.num_batches_tracked", (3,)),
    ],
)
def test_wrong_shapes(tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    state = dict(make_net().state_dict())
    state[key] = torch.zeros(shape, dtype=state[key].dtype)
    torch.save(state, tmp_path / "s.pt")
    with pytest.raises(errors.CheckpointShapeError, match=key.removesuffix(".weight")):
        load_checkpoint(tmp_path / "s.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    state = dict(make_net().state_dict())
    state["up3.AG.proj.bias"] = state["up3.AG.proj.bias"].clone()
    state["up3.AG.proj.bias"][1] = value
    torch.save(script_dict(state), tmp_path / "n.pth.tar")
    with pytest.raises(errors.NonFiniteWeightsError, match=r"up3\.AG\.proj\.bias"):
        load_checkpoint(tmp_path / "n.pth.tar")


def test_values_too_large_for_float32(tmp_path: Path) -> None:
    state = dict(make_net().state_dict())
    state["outc4.bias"] = torch.tensor([1e300], dtype=torch.float64)
    torch.save(state, tmp_path / "n.pt")
    with pytest.raises(errors.NonFiniteWeightsError, match=r"outc4\.bias"):
        load_checkpoint(tmp_path / "n.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.to(torch.int32),
        lambda v: v.to(torch.uint8),
        lambda v: v.to(torch.bool),
        lambda v: v.to(torch.complex64),
        lambda v: v.to_sparse(),
    ],
)
def test_other_kinds_of_numbers(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    state = dict(make_net().state_dict())
    state["side_conv2.weight"] = change(state["side_conv2.weight"])
    torch.save(state, tmp_path / "i.pt")
    with pytest.raises(errors.CheckpointDtypeError, match=r"side_conv2\.weight"):
        load_checkpoint(tmp_path / "i.pt")


def test_weights_without_values(tmp_path: Path) -> None:
    with torch.device("meta"):
        net = SA2Net(3, 1, 2)
    torch.save(net.state_dict(), tmp_path / "m.pt")
    with pytest.raises(errors.CorruptCheckpointError, match="meta"):
        load_checkpoint(tmp_path / "m.pt")


def test_another_pickle_protocol_is_read_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    torch.save(SA2Net(3, 1, 2).state_dict(), path, pickle_protocol=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(path)


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(errors.CheckpointPathError, match="folder") as caught:
        load_checkpoint(tmp_path)
    assert str(caught.value).count(str(tmp_path)) == 1
    with pytest.raises(errors.CheckpointPathError, match="does not exist"):
        load_checkpoint(tmp_path / "missing.pt")
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.CheckpointPathError, match="does not exist"):
        load_checkpoint(tmp_path / "file" / "inside.pt")
    with pytest.raises(errors.CheckpointPathError):
        load_checkpoint("with\0zero.pt")
    with pytest.raises(errors.CheckpointPathError):
        load_checkpoint("")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name here")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.CheckpointPathError, match="not a file"):
        load_checkpoint(tmp_path / "pipe")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_garbled_files_never_raise_anything_else(tmp_path: Path, kind: str) -> None:
    data, random = whole_file(kind), np.random.default_rng(0)
    # Where the structure is: the start, and of a zip its directory at the end.
    places = np.r_[0:1500, len(data) - 3000 : len(data)]
    for _ in range(20):
        garbled = bytearray(data)
        for place in random.choice(places, size=random.integers(1, 6)):
            garbled[place] = random.integers(256)
        (tmp_path / "g").write_bytes(garbled)
        with contextlib.suppress(errors.CheckpointError):
            assert isinstance(load_checkpoint(tmp_path / "g"), SA2Net)


def test_a_pickle_that_asks_for_all_memory(tmp_path: Path) -> None:
    # BYTEARRAY8 and BINBYTES8 of 2⁶² bytes
    for opcode in (b"\x96", b"\x8e"):
        data = b"\x80\x05" + opcode + (1 << 62).to_bytes(8, "little") + b"x" * 20
        (tmp_path / "m").write_bytes(data)
        with pytest.raises(errors.CorruptCheckpointError, match="again"):
            load_checkpoint(tmp_path / "m")
