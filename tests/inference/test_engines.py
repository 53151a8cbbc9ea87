"""Libraries that run the network in PyTorch's place give the cells that PyTorch gives."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_sa2net import cli, segment
from napari_sa2net.config import NetworkConfig, PredictConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.engine.service import Handlers
from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.batch import BatchSettings
from napari_sa2net.inference.cpu import LIBRARIES
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.interpret.attention import attention
from napari_sa2net.models import Model, ModelCard, export, load_model
from napari_sa2net.models.export import weights_sha256
from napari_sa2net.nn import make_network


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's files, where a model is made once for all engines."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", LIBRARIES)
def test_cells_are_those_of_torch(
    engine: str, kept: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They compute in float32, and so the same."""
    for package in (engine, "onnx", "onnxscript"):
        pytest.importorskip(package)
    monkeypatch.setenv("SA2NET_HOME", str(kept))
    image, _ = synthetic_nuclei(shape=(420, 500), n=60, diameter=22, seed=4)
    exactly = {"precision": "float32", "tile": 320, "augment": True}
    for model, more, most in (
        ("nuclei", {}, 1e-3),  # as it comes
        (tiny_model, exactly, 1e-4),  # over tiles, with flips
    ):
        settings = {"model": model, "device": "cpu", "diameter": 22, **more}
        expected = segment(image, engine="torch", **{**settings, "precision": "float32"})
        got = segment(image, engine=engine, **settings)
        assert np.abs(got.probability - expected.probability).max() <= most
        assert len(got.objects) == len(expected.objects) > 20
        assert ((got.labels > 0) == (expected.labels > 0)).mean() > 0.995
        assert got.provenance["engine"].startswith(f"{engine} ")
        assert got.provenance["settings"]["predict"]["engine"] == engine
        assert expected.provenance["engine"] == "torch"

    # Made once; and a file that is damaged is made again.
    files = list((kept / "engines").iterdir())
    assert len(files) == 2
    (file,) = (f for f in files if weights_sha256(load_model(tiny_model).net) in f.name)
    whole = file.read_bytes()
    monkeypatch.setattr(export, "onnx_bytes", lambda *_: whole)
    file.write_bytes(whole[: len(whole) // 2])
    segment(image[:64, :64], engine=engine, **settings)
    assert file.read_bytes() == whole

    # What looks inside runs on PyTorch all the same.
    plain = attention(image[:96, :96], tiny_model, device="cpu", diameter=22)
    seen = attention(image[:96, :96], tiny_model, device="cpu", diameter=22, engine=engine)
    np.testing.assert_array_equal(seen["aua_1"], plain["aua_1"])


def test_auto_is_torch_and_makes_no_files(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    image, _ = synthetic_nuclei(shape=(64, 64), n=4, seed=1)
    results = [segment(image, tiny_model, engine=name) for name in ("auto", "torch")]
    np.testing.assert_array_equal(results[0].probability, results[1].probability)
    assert {one.provenance["engine"] for one in results} == {"torch"}
    assert not (tmp_path / "home" / "engines").exists()


@pytest.mark.parametrize("engine", LIBRARIES)
def test_what_is_not_installed_is_said_before_anything_runs(
    engine: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(SettingsError, match=rf"{engine}.* pip install \"napari-sa2net\["):
        Predictor(load_model(tiny_model), PredictConfig(engine=engine))
    with pytest.raises(SettingsError, match="engine"):
        segment(np.zeros((8, 8)), tiny_model, engine="tensorflow")


def test_a_missing_engine_ends_a_batch_before_it_begins(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    image, _ = synthetic_nuclei(shape=(64, 64), n=4, seed=1)
    tifffile.imwrite(tmp_path / "a.tif", image)
    words = ("segment", tmp_path / "a.tif", "-o", tmp_path / "out", "--engine", "openvino")
    assert cli.run([*map(str, words), "--model", str(tiny_model)]) == 2
    assert 'pip install "napari-sa2net[openvino]"' in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_batch_without_an_engine_goes_on_as_before() -> None:
    said = {
        name: BatchSettings(predict=PredictConfig(engine=name)).describe()["predict"]
        for name in ("auto", "torch", *LIBRARIES)
    }
    assert said["auto"] == said["torch"]
    assert "engine" not in said["auto"]
    assert said["openvino"]["engine"] == "openvino"


def test_the_window_looks_inside_by_torch(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at cells that an engine made which is not there."""
    for engine in LIBRARIES:
        monkeypatch.setitem(sys.modules, engine, None)
    handlers, model = Handlers(None), load_model(tiny_model)  # type: ignore[arg-type]
    for engine in ("auto", *LIBRARIES):
        config = PredictConfig(engine=engine)
        assert handlers.predictor(model, config, model.card.input).engine == "torch"


def test_squeeze_of_the_whole_image_needs_torch() -> None:
    engine = next((name for name in LIBRARIES if find_spec(name)), None)
    if engine is None:
        pytest.skip("no engine beside PyTorch is installed")
    config = NetworkConfig(kind="focal_unet", base_channels=4, se=(True,) * 4)
    classes = ("background", "interior", "boundary")
    card = ModelCard(name="se", network=config, classes=classes)
    model = Model(make_network(config).eval(), card)
    with pytest.raises(SettingsError, match="--engine torch"):
        Predictor(model, PredictConfig(engine=engine))
