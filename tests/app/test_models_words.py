"""What a model's card says to a person, and how the Models page tells of what it asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.models import (
    ModelsController,
    _made_with,
    detail_rows,
    file_words,
    hint_words,
    main_rows,
    short_rows,
)
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import Session
from napari_sa2net.config import InputConfig, NetworkConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.commit import MANIFEST, Commit
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.engine import messages as p
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.registry import ModelEntry, add_file, find_model

CLASSES = ("background", "interior", "boundary")


def entry(**card: Any) -> ModelEntry:
    given = {"name": "m", "network": NetworkConfig(), "classes": CLASSES, **card}
    made = ModelCard(created="2026-11-22T10:00:00+00:00", **given)
    return ModelEntry(made.name, Path("m.safetensors"), False, made, 2_460_000)


def test_a_card_that_says_little() -> None:
    bare = entry()
    assert short_rows(bare) == [
        ("Images", "colour or grey"),
        ("File", "2.5 MB, made 2026-11-22"),
    ]
    assert main_rows(bare) == [
        ("Object size", "images are not resized"),
        ("Images", "colour or grey"),
        ("Licence", "not said"),
    ]
    titles = [title for title, _ in detail_rows(bare)]
    assert titles[:3] == ["Network", "Channels", "Classes"]
    assert not {"All scores", "Commits", "Made with", "To repeat it", "Left out"} & set(titles)
    assert file_words(bare) == "2.5 MB, made 2026-11-22"


@pytest.mark.parametrize(
    ("n", "order", "images", "channels"),
    [
        (1, "any", "one channel", "1, as they are"),
        (3, "RGB", "colour or grey", "3, red, green, blue; a grey image goes into all"),
        (3, "BGR", "colour or grey", "3, blue, green, red; a grey image goes into all"),
        (3, "any", "3 channels", "3, as they are"),
        (5, "any", "5 channels", "5, as they are"),
    ],
)
def test_channels_in_words(n: int, order: Any, images: str, channels: str) -> None:
    one = entry(network=NetworkConfig(in_channels=n), input=InputConfig(channel_order=order))
    for rows in (short_rows(one), main_rows(one)):
        assert dict(rows)["Images"] == images
    assert dict(detail_rows(one))["Channels"] == channels


def test_a_card_that_says_all() -> None:
    training = {
        "data": {"nuclei": ["DSB", "NuInsSeg"], "cells": "own"},
        "images": 1,
        "limits": "bright-field",
        "verdict": "better",
        "steps": 4000,
        "seed": 3,
        "versions": {"napari-sa2net": "0.2", "torch": "2.9", "numpy": "2"},
    }
    scores = {
        "test": {"ap50": 0.784, "ap50_margin": 0.02, "dice": 0.9, "seconds": 3.0},
        "test, parent": {"ap50": 0.61},
        "timing": {"seconds": 3.0},
    }
    one = entry(
        training=training,
        scores=scores,
        diameter=30,
        image_diameters=(12, 40),
        licence="BSD-3-Clause",
        parent="nuclei sha256 " + "a" * 64,
        dropped_keys=("x", "y"),
    )
    short = dict(short_rows(one))
    assert short["Trained on"] == "nuclei: DSB, NuInsSeg, cells: own (1 image)"
    assert short["Object size"] == "about 30 px across; images are resized"
    assert short["Expects"].startswith("objects 12 to 40 px across")
    assert short["Not for"] == "bright-field"
    assert short["Scores, test"] == "AP@0.5 0.78 · Dice 0.90"
    assert "Scores, timing" not in short
    assert short["Licence"] == "BSD-3-Clause"
    assert short["Learned from"] == "nuclei"
    main = dict(main_rows(one))
    assert main["Verdict"] == "better"
    assert main["Scores"] == "test: AP 0.61 → 0.78 ± 0.02 · Dice 0.90"
    assert main["Object size"] == "about 30 px across"
    assert main["Not for"] == "bright-field"
    assert main["Licence"] == "BSD-3-Clause"
    detail = dict(detail_rows(one))
    assert detail["Network"] == "SA2-Net, 16 base channels"
    assert detail["Classes"] == "background, interior, boundary"
    assert detail["All scores"] == "test: AP@0.5 0.61 → 0.78 ± 0.02 · Dice 0.90"
    assert detail["Made with"] == "4,000 steps · seed 3 · napari-sa2net 0.2 · torch 2.9"
    assert detail["Left out"] == "2 weights that the published network never uses"
    assert "To repeat it" not in detail


def test_a_variant_and_an_earlier_model_of_the_same_name() -> None:
    one = entry(
        training={"recipe": "variant", "changed": "gate 1 off"}, parent="m sha256 " + "b" * 64
    )
    assert dict(short_rows(one))["Variant of"] == "an earlier m"
    assert dict(short_rows(one))["Scores"] == "not measured"
    assert dict(main_rows(one))["Changed"] == "gate 1 off"
    assert dict(main_rows(one))["Scores"] == "not measured"
    assert hint_words(one) == ""
    assert hint_words(entry(diameter=30), "nuclei") == "from nuclei · 30 px"
    assert hint_words(entry(), "nuclei") == "from nuclei"


@pytest.mark.parametrize(
    ("learned", "held", "words"),
    [
        (["a"], ["a"], "1 corrected image of “mine”; a part of it held back to judge it"),
        (["a", "b", "b"], ["c"], "2 corrected images of “mine”; 1 held back to judge it"),
        (None, None, "0 corrected images of “mine”; 0 held back to judge it"),
    ],
)
def test_what_was_learned_and_what_held_back(learned: Any, held: Any, words: str) -> None:
    training = {"recipe": "fine-tune", "data": "mine", "commits": learned, "held_out": held}
    assert dict(main_rows(entry(training=training)))["Trained on"] == words


def test_commits_are_named_as_far_as_a_line_goes() -> None:
    names = [f"slide {i}" for i in range(8)]
    training: dict[str, Any] = {"recipe": "fine-tune", "commits": names}
    training["commit_ids"] = {"slide 0": "0123456789abcdef"}
    rows = dict(detail_rows(replace(entry(training=training), name="my model")))
    assert rows["Commits"] == (
        "01234567, slide 1, slide 2, slide 3, slide 4, slide 5 and 2 more"
    )
    assert rows["To repeat it"] == "sa2net train FOLDER --from-card 'my model'"
    training["recipe"] = "train"
    assert "Commits" not in dict(detail_rows(entry(training=training)))


# --- what the page asked for ----------------------------------------------------------------


class Client:
    memory = 0

    def __init__(self, on_event: Any) -> None:
        self.on_event = on_event
        self.requests: list[Any] = []

    def submit(self, request: Any) -> None:
        self.requests.append(request)

    def cancel(self, job: int, force: bool = True) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def page(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))
    add_file(tiny_model, "tiny")
    segment = SegmentController(EngineLink(Session(model="tiny"), make_client=Client))
    segment.refresh_models()
    models = ModelsController(segment)
    models.refresh()
    made = SimpleNamespace(models=models, state=models.state, session=segment.session)
    made.client = segment.link.client
    yield made
    models.close()
    segment.close()


def hear(page: Any, event: Any) -> None:
    page.client.on_event(event)


def test_of_files_that_are_taken_in_each_end_has_its_line(page: Any) -> None:
    page.models.import_files([])
    assert page.state.busy == ""
    page.models.import_files([Path("a.pt"), Path("b.pt"), Path("c.pt"), Path("d.pt")])
    assert page.state.busy == "Checking the files…"
    asked = page.client.requests
    assert [call.arguments["path"] for call in asked] == ["a.pt", "b.pt", "c.pt", "d.pt"]
    hear(page, p.WasCancelled(asked[0].job))
    assert page.state.said.text == "Cancelled; a.pt was not imported."
    hear(page, p.Failed(asked[1].job, "CorruptCheckpointError", "It is damaged.", "one"))
    assert page.state.error.message == "It is damaged."
    hear(page, p.Failed(asked[2].job, "ForeignCheckpointError", "It is another.", "two"))
    assert page.state.error.message == "b.pt: It is damaged.\nc.pt: It is another."
    assert page.state.error.details == "b.pt\none\n\nc.pt\ntwo"
    assert page.state.error.kind == "CorruptCheckpointError"
    assert page.state.busy == "Checking the files…"
    tiny = find_model("tiny")
    assert tiny is not None
    card = tiny.card.model_copy(update={"dropped_keys": ("x", "y")})
    hear(page, asked[3].done((replace(tiny, card=card), "d")))
    assert page.state.busy == ""
    assert page.state.said.text == (
        "Cancelled; a.pt was not imported.\n"
        "Imported as tiny, since there is a model d already. "
        "Left out: 2 weights that the published network never uses."
    )
    # the next ones begin anew
    page.models.import_files([Path("e.pt")])
    assert page.state.busy == "Checking the file…"
    assert page.state.error is None
    assert page.state.said is None
    hear(page, asked[4].done((tiny, "tiny")))
    assert page.state.said.text == "Imported tiny."


@pytest.mark.parametrize("end", ["done", "failed", "cancelled", "died"])
def test_a_comparison_ends(page: Any, end: str, tmp_path: Path) -> None:
    page.models.choose("tiny")
    page.models.choose_other("nuclei")
    number = page.models.compare()
    assert number is not None
    assert page.models.compare() is None  # one at a time
    call = page.client.requests[-1]
    assert (call.arguments["first"], call.arguments["second"]) == ("nuclei", "tiny")
    assert call.arguments["training_set"] is None
    assert page.state.comparing
    if end == "done":
        hear(page, call.done("scores"))
        assert page.state.comparison == "scores"
    elif end == "failed":
        hear(page, p.Failed(number, "EvaluationError", "There is nothing to score."))
        assert page.state.error.message == "There is nothing to score."
    elif end == "cancelled":
        hear(page, p.WasCancelled(number))
        assert page.state.said.text == "Cancelled; nothing was compared."
    else:
        hear(page, p.Died("It stopped.", "", True))
    assert not page.state.comparing
    assert (page.state.comparison is not None) == (end == "done")
    page.models.choose_other("gone")
    page.session.running = False
    assert page.models.compare() is None


def test_a_folder_of_images_is_there_to_compare_on(page: Any, tmp_path: Path) -> None:
    page.models.set_folder(tmp_path / "none")
    assert not page.state.has_corrections
    (tmp_path / "set" / "images").mkdir(parents=True)
    page.models.set_folder(tmp_path / "set")
    assert page.state.has_corrections
    assert page.state.folder == tmp_path / "set"
    page.models.choose("tiny")
    page.models.choose_other("nuclei")
    page.models.compare()
    assert page.client.requests[-1].arguments["training_set"] == str(tmp_path / "set")


def test_corrections_are_there_where_one_is_active(page: Any, tmp_path: Path) -> None:
    training_set = TrainingSet.open(tmp_path / "set", create=True)
    page.models.set_folder(training_set.path)
    assert not page.state.has_corrections
    image, labels = synthetic_nuclei((40, 56), 4, 12, 0)
    record = training_set.commit(Commit(image, labels, source="one"))
    page.models.set_folder(training_set.path)
    assert page.state.has_corrections
    training_set.remove(record.id)
    page.models.set_folder(training_set.path)
    assert not page.state.has_corrections
    # what is wrong with it is said when models are compared
    (training_set.path / MANIFEST).write_bytes(b"{")
    page.models.set_folder(training_set.path)
    assert page.state.has_corrections


def test_who_looks_at_a_model_goes_on_with_it(page: Any) -> None:
    page.models.choose("tiny")
    assert page.state.chosen == "tiny"
    page.models.choose("none of that name")
    assert page.state.chosen == "tiny"
    assert page.state.other == "nuclei"
    page.models.choose("nuclei")
    assert page.state.other == "tiny"
    page.models.refresh()
    assert page.state.chosen == "nuclei"
    page.models.put_back()  # nothing was removed
    page.models.rename("tiny", "tiny")  # nor renamed
    assert page.state.busy == ""
    assert page.state.error is None


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"steps": 1, "seed": 3}, ["1 step", "seed 3"]),
        ({"steps": 240, "settings": {"seed": 4}}, ["240 steps", "seed 4"]),
        ({"seed": 0, "settings": {"seed": 4}}, ["seed 0"]),
        ({"settings": None}, []),
        ({}, []),
    ],
)
def test_what_a_training_was_made_with(training: dict[str, Any], words: list[str]) -> None:
    made = _made_with(training)
    assert [word for word in made.split(" · ") if word] == words
