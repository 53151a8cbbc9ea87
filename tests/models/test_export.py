"""Models in formats of other programs, run by those programs' own libraries."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_sa2net import errors
from napari_sa2net.config import NetworkConfig
from napari_sa2net.models import Model, ModelCard, export_as, export_model, load_model
from napari_sa2net.models.card import SWITCHED_VERSION
from napari_sa2net.models.export import map_names, needed
from napari_sa2net.nn import capture_attention, make_network

#: Outputs of a network, by its kind.
OUTPUTS = {
    "sa2net": ("background", "interior", "boundary", "distance"),
    "focal_unet": ("foreground",),
}


def random_model(kind: str) -> Model:
    """With γ that are not 1, a scale off, and batch normalisation that has seen values."""
    torch.manual_seed(3)
    config = NetworkConfig(
        kind=kind,
        in_channels=3 if kind == "sa2net" else 2,
        n_classes=len(OUTPUTS[kind]),
        base_channels=4,
        gamma=(1.0, 2.0, 1.0, 0.5),
        gates=(True, True, False, True),
        se=(False, True, False, False),
        scales=(True, False, True, True),
    )
    net = make_network(config)
    with torch.no_grad():
        net.train()(torch.rand(2, config.in_channels, 64, 64))
    card = ModelCard(
        schema_version=SWITCHED_VERSION,
        name=kind,
        network=config,
        classes=OUTPUTS[kind],
        diameter=24,
    )
    return Model(net.eval(), card)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", sorted(OUTPUTS))
def test_onnx_gives_what_the_network_gives(kind: str, tmp_path: Path) -> None:
    """At several sizes and batch sizes, maps included, by ONNX Runtime alone."""
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = random_model(kind)
    path = export_as(model, tmp_path / "cells.onnx", attention=True)
    with pytest.raises(errors.OutputError, match="exists already"):
        export_as(model, path)

    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert {one.domain: one.version for one in proto.opset_import}[""] >= 20
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    assert names == ["logits", *map_names(model.net)]
    assert "aua_2" not in names
    assert "aua_1" in names
    assert ("local_gate_1" in names) == (kind == "sa2net")
    for batch, height, width in ((1, 96, 64), (3, 48, 160), (1, 16, 32)):
        x = torch.rand(batch, model.net.in_channels, height, width)
        with torch.inference_mode(), capture_attention(model.net) as maps:
            expected = model.net(x)
        got = dict(zip(names, session.run(None, {"image": x.numpy()}), strict=True))
        assert got["logits"].dtype == np.float32
        np.testing.assert_allclose(got["logits"], expected.numpy(), atol=1e-4)
        for name in names[1:]:
            np.testing.assert_allclose(got[name], maps[name].numpy(), atol=1e-4)

    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["outputs"]) == list(OUTPUTS[kind])
    assert said["object_size_px"] == "24"
    assert "percentile 1 becomes 0" in said["normalisation"]
    assert said["size_multiple"] == "16"
    assert ModelCard.from_json(said["card"]) == model.card
    # sigmoid of one class; of classes and distance the classes alone are a softmax
    assert (
        said["activation"]
        == {
            "sa2net": "softmax of outputs 0 to 2, sigmoid of the others",
            "focal_unet": "sigmoid of all outputs",
        }[kind]
    )


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.SettingsError, match=r'pip install "napari-sa2net\[onnx\]"'):
        export_as(load_model(tiny_model), tmp_path / "cells.onnx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(errors.SettingsError, match=r"napari-sa2net\[openvino\]"):
        needed("openvino", "openvino")
    assert not list(tmp_path.iterdir())


def test_an_ending_is_never_of_another_format(tmp_path: Path) -> None:
    """A copy is no ONNX file, and a copy has no attention maps."""
    for name in ("n.ONNX", "n.txt", "n", "nowhere/n.safetensors.bak"):
        with pytest.raises(
            errors.OutputError, match=r"models export nuclei FILE\.onnx"
        ) as said:
            export_model("nuclei", tmp_path / name)
        assert str(tmp_path / name) in str(said.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(errors.SettingsError, match="ONNX files alone"):
        export_as("nuclei", tmp_path / "n.safetensors", attention=True)
    assert export_as("nuclei", tmp_path) == tmp_path / "nuclei.safetensors"
    with pytest.raises(errors.ModelNotFoundError):
        export_model("missing", tmp_path / "n.onnx")
