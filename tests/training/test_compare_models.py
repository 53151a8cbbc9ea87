"""Two models compared on corrections and the reference set: what counts, and who is better."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

from napari_sa2net.data.samples import ReferenceImage, synthetic_nuclei
from napari_sa2net.errors import Cancelled, SettingsError, TrainingDataError
from napari_sa2net.models.file import open_model, save_model
from napari_sa2net.models.registry import file_sha256
from napari_sa2net.training import material as reference
from napari_sa2net.training.compare_models import compare_models

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))


@pytest.fixture
def small_reference(monkeypatch):
    """Two small images instead of the reference set, for speed."""
    from napari_sa2net.training import compare_models as module

    some = [
        ReferenceImage(kind, kind, 22.0, *synthetic_nuclei((96, 96), 6, 22.0, 9, kind))
        for kind in ("fluo", "stained")
    ]
    monkeypatch.setattr(module, "reference_images", lambda: iter(some))
    # of parent and child the parts of images are scored that a verdict is spoken on
    monkeypatch.setattr(reference, "reference_images", lambda: iter(some))
    reference._drawn.cache_clear()
    yield
    reference._drawn.cache_clear()


@pytest.fixture
def corrections(tmp_path):
    folder = tmp_path / "set"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(4):
        image, labels = synthetic_nuclei((96, 96), n=6, diameter=22, seed=i)
        tifffile.imwrite(folder / "images" / f"{i}.tif", image)
        tifffile.imwrite(folder / "labels" / f"{i}.tif", labels.astype(np.uint16))
    return folder


@pytest.fixture
def ruined(tmp_path):
    """Makes a child of a model that finds nothing any more."""

    def make(parent, **training):
        model = open_model(parent)
        for tensor in model.net.parameters():
            tensor.data *= 0.0
        card = model.card.model_copy(
            update={
                "name": "ruined",
                "training": {"recipe": "fine-tune", **training},
                "parent": f"tiny {file_sha256(parent)}",
            }
        )
        return save_model(tmp_path / "ruined.safetensors", model.net, card)

    return make


def test_worse_is_said_to_be_worse(tiny_model, ruined, corrections, small_reference):
    child = ruined(tiny_model, commits=["0", "1"], held_out=["2"], held_out_before=["3"])
    result = compare_models(tiny_model, child, corrections)
    assert (result.first, result.second) == ("tiny", "ruined")
    assert result.training_set == str(corrections)
    parts = {part.name: part for part in result.parts}
    assert list(parts) == [
        "held-out corrections",
        "earlier corrections",
        "fluorescence",
        "stained tissue",
    ]
    assert parts["held-out corrections"].n_images == 1
    assert parts["held-out corrections"].change.before.ap50 > 0.3
    assert parts["held-out corrections"].change.after.ap50 == 0
    assert not result.verdict.better
    assert "Worse" in result.verdict.text
    assert any(
        "2 images that ruined learned from are left out" in note for note in result.notes
    )
    other_way = compare_models(child, tiny_model, corrections)
    assert other_way.verdict.better
    assert "Better" in other_way.verdict.text


def test_where_all_was_learned_the_note_says_so(
    tiny_model, ruined, corrections, small_reference
):
    child = ruined(tiny_model, commits=["0", "1", "2", "3"])
    result = compare_models(tiny_model, child, corrections)
    assert result.parts[0].n_images == 4
    assert "ruined learned from these corrections, which flatters" in result.notes[0]


def test_of_one_image_only_the_strip_that_was_held_out_counts(
    tiny_model, ruined, corrections, small_reference
):
    for i in (1, 2, 3):
        for kind in ("images", "labels"):
            (corrections / kind / f"{i}.tif").unlink()
    whole = compare_models(tiny_model, ruined(tiny_model), corrections).parts[0].change
    child = ruined(tiny_model, commits=["0"], held_out=["0"], settings={"held_out": 0.4})
    strip = compare_models(tiny_model, child, corrections).parts[0].change
    assert whole.before.n == 6
    assert 0 < strip.before.n < whole.before.n


def test_without_corrections_the_reference_set_decides(tiny_model, ruined, small_reference):
    steps = []
    result = compare_models(
        ruined(tiny_model), tiny_model, progress=lambda *step: steps.append(step)
    )
    assert [part.name for part in result.parts] == ["fluorescence", "stained tissue"]
    assert result.training_set == ""
    assert result.verdict.better
    assert result.verdict.text.startswith("tiny is better on fluorescence")
    assert steps[1][:2] == (0, 4)
    assert steps[-1][:2] == (4, 4)


def test_what_cannot_be_compared(tiny_model, ruined, corrections, tmp_path):
    with pytest.raises(SettingsError, match="the same model"):
        compare_models(tiny_model, tiny_model)
    child = ruined(tiny_model)
    with pytest.raises(TrainingDataError, match="not a folder"):
        compare_models(tiny_model, child, tmp_path / "nowhere")
    with pytest.raises(Cancelled):
        compare_models(tiny_model, child, corrections, cancelled=lambda: True)
