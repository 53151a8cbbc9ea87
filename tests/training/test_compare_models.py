"""Two models compared on corrections and the reference set: what counts, and who is better."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_sa2net.config import CLASSES, NetworkConfig
from napari_sa2net.data.samples import ReferenceImage, synthetic_nuclei
from napari_sa2net.data.training_set import load_training_folder
from napari_sa2net.errors import Cancelled, SettingsError, TrainingDataError
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import open_model, save_model
from napari_sa2net.models.registry import file_sha256
from napari_sa2net.training import compare_models as compare_module
from napari_sa2net.training import material as reference
from napari_sa2net.training.compare_models import changed_since, compare_models, family

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
    steps: list[Any] = []
    result = compare_models(
        tiny_model, child, corrections, progress=lambda *step: steps.append(step)
    )
    # two models on four corrected images and two of the reference set
    scored = [step[:2] for step in steps if step[2].startswith("scoring images")]
    assert scored == [(i, 12) for i in range(13)]
    assert [step[0] for step in steps if step[2] == "reading corrections"] == [0, 1, 2, 3]
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
    assert steps[0] == (0, 0, "drawing the reference set")
    names = ("ruined", "ruined", "tiny", "tiny")
    said = [f"scoring images with {name}" for name in names] + ["scoring images"]
    assert steps[1:] == [(i, 4, words) for i, words in enumerate(said)]


def test_what_cannot_be_compared(tiny_model, ruined, corrections, tmp_path):
    with pytest.raises(SettingsError, match="the same model"):
        compare_models(tiny_model, tiny_model)
    child = ruined(tiny_model)
    with pytest.raises(TrainingDataError, match="not a folder"):
        compare_models(tiny_model, child, tmp_path / "nowhere")
    with pytest.raises(Cancelled):
        compare_models(tiny_model, child, corrections, cancelled=lambda: True)


# --- what counts, by what two models learned; nothing is scored ------------------------------


def taught(name: str, parent: str = "", sha256: str = "", **training: Any) -> Any:
    """A model as far as its card tells of it."""
    card = ModelCard(
        name=name,
        network=NetworkConfig(n_classes=3),
        classes=CLASSES,
        parent=parent or None,
        training={"recipe": "fine-tune", **training} if training else {},
    )
    return SimpleNamespace(name=name, card=card, sha256=sha256)


SHA = "ab" * 32


@pytest.mark.parametrize(
    ("parent", "is_kin"), [(f"old {SHA}", True), (f"old {'cd' * 32}", False), ("old", False)]
)
def test_parent_and_child_are_known_whichever_comes_first(parent: str, is_kin: bool) -> None:
    old, new = taught("old", sha256=SHA), taught("new", parent, commits=["0"])
    for pair in ((old, new), (new, old)):
        assert family(pair) == ((old, new) if is_kin else None)
    # one that was trained in full from the other was not taught by corrections
    new.card.training["recipe"] = "train"
    assert family((old, new)) is None


@pytest.mark.parametrize(
    ("training", "changed"),
    [
        ({"commits": ["0", "1"], "held_out": ["2"], "held_out_before": ["3"]}, 0),
        ({"commits": ["0"], "held_out": ["2"]}, 2),  # two are new
        ({"commits": ["0", "1", "9"], "held_out": ["2", "3"]}, 1),  # one is gone
        ({"commits": ["0", "1"], "held_out": ["2", "3"], "commit_ids": {"0": "x"}}, 1),
        ({"commits": ["0", "1", "2", "3"]}, None),  # nothing was judged
        ({"commits": ["a"], "held_out": ["b"]}, None),  # another set
    ],
)
def test_what_has_changed_since_a_child_learned(training, changed, corrections) -> None:
    assert changed_since(taught("new", **training), corrections) == changed


@pytest.mark.parametrize(
    ("learned", "axes", "channels", "alike"),
    [
        ({}, None, None, True),
        ({}, "CYX", None, False),
        ({}, None, (0,), False),
        ({"axes": "CYX", "channels": [0, 1]}, None, None, True),
        ({"axes": "CYX", "channels": [0, 1]}, "CYX", (0, 1), True),
        ({"axes": "CYX", "channels": [0, 1]}, "YXC", (0, 1), False),
        ({"axes": "CYX", "channels": [0, 1]}, "CYX", (1, 0), False),
    ],
)
def test_whether_a_set_is_read_as_a_child_did(learned, axes, channels, alike) -> None:
    child = taught("new", held_out=["a"], **learned)
    assert compare_module._reads_alike(child, axes, channels) == alike


@pytest.mark.parametrize(
    ("first", "second", "axes", "channels", "read"),
    [
        ({}, {}, None, None, (None, None)),
        ({"data": "set", "axes": "CYX", "channels": [1]}, {}, None, None, ("CYX", [1])),
        ({"data": "other", "axes": "CYX", "channels": [1]}, {}, None, None, (None, None)),
        ({"data": "set", "axes": "CYX"}, {"data": "set", "axes": "YXC"}, None, None,
         ("YXC", None)),
        ({"data": "set", "axes": "CYX", "channels": [1]}, {}, None, (0,), (None, (0,))),
        ({"data": "set", "axes": "CYX", "channels": [1]}, {}, "YXC", None, ("YXC", None)),
    ],
)  # fmt: skip
def test_a_folder_is_read_as_a_model_did_that_learned_from_it(
    first, second, axes, channels, read, corrections, monkeypatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        compare_module, "load_training_folder", lambda _, **how: given.append(how) or []
    )
    models = [taught("a", **first), taught("b", **second)]
    compare_module._items(corrections, models, axes, channels)
    assert given == [{"axes": read[0], "channels": read[1]}]


def tasks_of(folder: Any, *models: Any) -> tuple[dict[str, list[str]], list[str]]:
    """Names of the images that are scored, by part, and what is said of them."""
    items = load_training_folder(folder)
    tasks, notes = compare_module._corrections(items, models, None, None)
    parts: dict[str, list[str]] = {}
    for task in tasks:
        parts.setdefault(task.part, []).append(task.image.name)
    return parts, notes


HELD, BEFORE = "held-out corrections", "earlier corrections"


def test_images_are_scored_by_what_the_models_had_them_for(corrections) -> None:
    tifffile.imwrite(corrections / "labels" / "3.tif", np.zeros((96, 96), np.uint16))
    # nothing is reviewed of the last; of two that learned each is named
    one = taught("one", commits=["0"], held_out=["2"])
    two = taught("two", commits=["1"])
    assert tasks_of(corrections, one, two) == (
        {HELD: ["2"]},
        ["2 images that one or two learned from are left out."],
    )
    assert tasks_of(corrections, two, taught("three")) == (
        {HELD: ["0", "2"]},
        ["1 image that two learned from is left out."],
    )
    # what was held back from an earlier model stands apart, unless there is no other
    three = taught("three", commits=["0"], held_out=["1"], held_out_before=["2"])
    assert tasks_of(corrections, three, taught("x"))[0] == {HELD: ["1"], BEFORE: ["2"]}
    three = taught("three", commits=["0"], held_out_before=["1", "2"])
    assert tasks_of(corrections, three, taught("x"))[0] == {HELD: ["1", "2"]}
    # all were learned from
    both = (taught("a", commits=["0", "1"]), taught("b", commits=["2"]))
    parts, (note,) = tasks_of(corrections, *both)
    assert parts == {HELD: ["0", "1", "2"]}
    assert note.startswith("a and b learned from these corrections, which flatters")


def test_of_many_images_some_are_scored_and_that_is_said(corrections, monkeypatch) -> None:
    monkeypatch.setattr(compare_module, "MOST", 4)
    parts, notes = tasks_of(corrections, taught("a"), taught("b"))
    assert (parts, notes) == ({HELD: ["0", "1", "2", "3"]}, [])
    monkeypatch.setattr(compare_module, "MOST", 2)
    parts, notes = tasks_of(corrections, taught("a"), taught("b"))
    assert len(parts[HELD]) == 2
    assert notes == ["2 of 4 images (held-out corrections) were scored."]


@pytest.mark.parametrize(("settings", "share"), [({}, 0.2), ({"held_out": 0.5}, 0.5)])
def test_of_an_image_that_was_torn_the_part_that_was_held_back_counts(
    settings, share, corrections
) -> None:
    torn = taught("a", commits=["0"], held_out=["0"], settings=settings)
    items = load_training_folder(corrections)[:1]
    ((task,), notes) = compare_module._corrections(items, [torn, taught("b")], None, None)
    assert notes == []
    whole = tifffile.imread(corrections / "labels" / "0.tif")
    cells = np.unique(task.labels[task.counts])[1:].size
    assert cells == pytest.approx(share * (np.unique(whole).size - 1), abs=1)
    assert cells > 0
