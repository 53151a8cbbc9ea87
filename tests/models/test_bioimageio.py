"""Packages of the BioImage Model Zoo: written, tested by the Zoo's own tool, and taken back."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from napari_sa2net import cli, errors
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.inference.predict import activate
from napari_sa2net.models import (
    Model,
    ModelCard,
    export_as,
    export_bioimageio,
    export_model,
    find_model,
    import_model,
    list_models,
    load_model,
    open_model,
)
from napari_sa2net.models import export as exporting

ATTACHED = "napari-sa2net.safetensors"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models of these tests stay in a folder of their own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_HOME", str(folder))
        yield folder


def zip_of(path: Path, **files: bytes) -> Path:
    """A zip file of these contents."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"rdf.yaml": b"type: model\n", **files}.items():
            archive.writestr(name, content)
    return path


def shell(*words: str) -> int | str | None:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return ended.value.code


def own_names() -> list[str]:
    return [entry.name for entry in list_models() if not entry.bundled]


# --- taken in, which needs nothing beside the program ----------------------------------------


def test_a_package_is_taken_in_byte_for_byte(tiny_model: Path, tmp_path: Path) -> None:
    """Under its own name; not twice, and not before it is imported."""
    path = zip_of(tmp_path / "my cells.zip", **{f"a/{ATTACHED}": tiny_model.read_bytes()})
    with pytest.raises(errors.ForeignCheckpointError, match="sa2net models import FILE"):
        open_model(path)
    entry = import_model(path)
    assert entry.name == "my cells"
    assert entry.path.read_bytes() == tiny_model.read_bytes()
    with pytest.raises(errors.ModelExistsError, match=r"my cells\.zip is there already"):
        import_model(path)
    with pytest.raises(errors.ModelExistsError, match="under the name 'my cells'"):
        import_model(tiny_model)


OUTSIDE = ("../up.safetensors", "/etc/up.safetensors", "a\\..\\..\\up.txt", "C:\\up.txt")


def test_bad_packages_change_nothing(tiny_model: Path, tmp_path: Path, home: Path) -> None:
    content = tiny_model.read_bytes()
    before = sorted(home.rglob("*"))
    place = tmp_path / "packages"
    place.mkdir()

    def refused(path: Path, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words) as caught:
            import_model(path, "bad")
        assert path.name in str(caught.value)
        path.unlink()

    for name in OUTSIDE:
        path = zip_of(place / "slip.zip", **{ATTACHED: content, name: content})
        refused(path, errors.UnsafeCheckpointError, "outside of it")
    path = zip_of(place / "foreign.zip", **{"weights.onnx": b"1"})
    refused(path, errors.ForeignCheckpointError, "with no file .*Only packages with one model")
    path = zip_of(place / "two.zip", **{ATTACHED: content, "b.safetensors": content})
    refused(path, errors.ForeignCheckpointError, "with 2 files")
    path = zip_of(place / "odd.zip", **{ATTACHED: b"not a model"})
    refused(path, errors.CheckpointError, f"{ATTACHED} in .*odd.zip")

    path = zip_of(place / "damaged.zip", **{ATTACHED: content})
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    path.write_bytes(damaged)
    refused(path, errors.CorruptCheckpointError, f"damaged at {ATTACHED}")
    path = zip_of(place / "cut.zip", **{ATTACHED: content})
    path.write_bytes(path.read_bytes()[:-2000])
    refused(path, errors.CorruptCheckpointError, "truncated or damaged")
    path = zip_of(place / "secret.zip", **{ATTACHED: content})
    secret = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        secret[secret.rindex(mark) + at] |= 1  # it says that it has a password
    path.write_bytes(secret)
    refused(path, errors.ForeignCheckpointError, "without a password")

    path = place / "texts.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    refused(path, errors.ForeignCheckpointError, "zip without weights. Expected is")
    path.write_text("no zip at all")
    refused(path, errors.ForeignCheckpointError, "Expected is")

    assert sorted(home.rglob("*")) == before
    assert not list(tmp_path.glob("up*"))


# --- written ---------------------------------------------------------------------------------


def test_what_cannot_be_written_leaves_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "cells.zip"
    model = load_model(tiny_model)
    with pytest.raises(errors.ModelNotFoundError, match="'missing'"):
        export_as("missing", target)
    for name in ("", " ", "a/b", "a\nb"):
        with pytest.raises(errors.SettingsError, match="no author's name"):
            export_as(model, target, authors=["A", name])
    with pytest.raises(errors.SettingsError, match="Authors go into packages alone"):
        export_as("nuclei", target.with_suffix(".onnx"), authors=["A"])
    with pytest.raises(errors.SettingsError, match="ONNX files alone"):
        export_as("nuclei", target, attention=True)
    with pytest.raises(
        errors.OutputError, match=r"ends with \.safetensors.* export nuclei .* FILE\.zip"
    ):
        export_model("nuclei", target.with_suffix(".ZIP"))
    for package in ("onnx", "bioimageio.spec"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            errors.SettingsError, match=r'pip install "napari-sa2net\[bioimageio\]"'
        ):
            export_as(model, target)
    assert not list(tmp_path.iterdir())

    there = tmp_path / "there.zip"
    there.write_text("mine")
    with pytest.raises(errors.OutputError, match="exists already"):
        export_as(model, there)
    assert there.read_text() == "mine"


def test_the_recipe_in_the_documentation_is_what_the_program_does(tiny_model: Path) -> None:
    """Its code, run on an image, gives what goes into the network."""
    text = exporting._documentation(load_model(tiny_model))
    scope: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], scope)
    image, _ = synthetic_nuclei((64, 80), n=9, seed=4)
    card = load_model(tiny_model).card
    plan = plan_image(image, model_input=card.input, in_channels=3)
    expected = plan.read((), 0, 64, 0, 80)
    np.testing.assert_allclose(scope["prepare"](image), expected[0], atol=1e-6)


def test_documentation_says_how_the_published_scripts_prepared_images(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    said = model.card.input.model_copy(
        update={"channel_order": "BGR", "normalization": "divide", "resize_to": 224}
    )
    card: ModelCard = model.card.model_copy(update={"input": said})
    text = exporting._documentation(Model(model.net, card))
    for words in ("blue, green, red", "divided by 255", "224 × 224 px"):
        assert words in text
    assert "prepare(" not in text
    assert exporting._test_input(card).shape == (1, 3, 224, 224)


# --- with the Zoo's own tool -----------------------------------------------------------------


def check(path: Path, model: Model, folder: Path) -> dict[str, Any]:
    """Let the Zoo's tool test a package, and compare both of its networks with ours.

    Returns what the package says of itself.
    """
    runtime = pytest.importorskip("onnxruntime")
    # In a process of its own: it leaves files open.
    script = (
        "import sys, bioimageio.core as c; s = c.test_model(sys.argv[1]); print(s.format())"
    )
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        f"{script}; sys.exit(s.status != 'passed')",
    ]
    run = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for weights in ("onnx", "torchscript"):
        assert f"Reproduce test outputs from test inputs ({weights})" in run.stdout
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, by PyTorch
        script = torch.jit.load(str(folder / "model.pt"))
    session = runtime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    classes = len(model.card.classes) - ("distance" in model.card.classes)
    for shape in ((1, 96, 64), (2, 48, 160), (1, 16, 32)):
        x = torch.rand(shape[0], model.net.in_channels, *shape[1:])
        with torch.inference_mode():
            ours = activate(model.net(x), classes).numpy()
            np.testing.assert_allclose(script(x).numpy(), ours, atol=1e-4)
        (theirs,) = session.run(None, {"image": x.numpy()})
        np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert (folder / ATTACHED).read_bytes() == model.path.read_bytes()
    said = yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))
    assert said["format_version"].startswith("0.5.")
    return said


@pytest.mark.timeout(900)
def test_a_model_goes_out_and_comes_back(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the shell; the Zoo's tool finds all it wants in it."""
    for package in ("onnx", "onnxscript", "bioimageio.spec"):
        pytest.importorskip(package)
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    import_model(tiny_model, "Zellen grün")
    path = tmp_path / "out.zip"
    command = ["models", "export", "Zellen grün", str(path), "--author", "A. One"]
    assert shell(*command, "--author", "B. Two") == 0
    before = path.read_bytes()
    assert shell(*command) == 2
    assert path.read_bytes() == before

    said = check(path, load_model("Zellen grün"), tmp_path / "in")
    assert said["name"] == "SA2-Net Zellen gr-n"
    assert [author["name"] for author in said["authors"]] == ["A. One", "B. Two"]
    assert said.get("license") is None
    assert "SA2-Net" in said["cite"][0]["text"]
    axes = said["inputs"][0]["axes"]
    assert [axis.get("id", axis["type"]) for axis in axes] == ["batch", "channel", "y", "x"]
    assert axes[1]["channel_names"] == ["red", "green", "blue"]
    assert axes[2]["size"] == axes[3]["size"] == {"min": 272, "step": 16}
    assert [axis["halo"] for axis in said["outputs"][0]["axes"][2:]] == [128, 128]
    assert said["outputs"][0]["axes"][1]["channel_names"] == [
        "background",
        "interior",
        "boundary",
    ]

    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "elsewhere"))
    assert shell("models", "import", str(path), "--name", "back") == 0
    assert find_model("back").path.read_bytes() == tiny_model.read_bytes()
    assert own_names() == ["back"]


@pytest.mark.timeout(900)
def test_the_bundled_model_is_fit_for_the_zoo(tmp_path: Path) -> None:
    """With authors and licence of its own, and the distance that is no class."""
    for package in ("onnx", "onnxscript", "bioimageio.spec"):
        pytest.importorskip(package)
    path = export_bioimageio("nuclei", tmp_path / "nuclei.zip")
    said = check(path, load_model("nuclei"), tmp_path / "in")
    assert [author["name"] for author in said["authors"]] == ["The napari-sa2net authors"]
    assert said["license"] == "BSD-3-Clause"
    assert said["outputs"][0]["axes"][1]["channel_names"][-1] == "distance"
    text = (tmp_path / "in" / "README.md").read_text(encoding="utf-8")
    assert "about 28 px across" in text
    assert "test: all" in text
    with pytest.raises(errors.ModelExistsError, match="under the name 'nuclei'"):
        import_model(path)


def test_the_picture_of_a_package_shows_all_greys_beside_the_cells() -> None:
    x = np.array([[[-0.5, 0.0, 1.5]]], np.float32)
    background = np.array([[[1.0, 0.6, 0.0]]], np.float32)
    said: Any = SimpleNamespace(classes=("background", "interior"))
    alone: Any = SimpleNamespace(classes=("foreground",))
    for card, y in (
        (said, background),
        (alone, 1 - background),
    ):
        assert exporting._cover(x, y, card).tolist() == [[0, 64, 255, 0, 102, 255]]
    assert exporting._cover(x * 0 + 7, background, said).tolist() == [[0, 0, 0, 0, 102, 255]]
