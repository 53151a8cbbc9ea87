"""What cannot be learned from, gone on with or repeated is said before any work."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from napari_sa2net.config import FineTuneConfig, InputConfig, NetworkConfig
from napari_sa2net.errors import (
    Cancelled,
    CardError,
    CheckpointPathError,
    ModelExistsError,
    ModelNotFoundError,
    Paused,
    SettingsError,
    TrainingDataError,
    TrainingError,
)
from napari_sa2net.models import load_model
from napari_sa2net.models.registry import add_file
from napari_sa2net.training import fine_tune as fine_tune_module
from napari_sa2net.training import run as run_module
from napari_sa2net.training.fine_tune import (
    card_of,
    find_parent,
    fine_tune,
    repeat_from_card,
    resume_fine_tuning,
)
from napari_sa2net.training.material import ONE_GROUP, Material, prepare
from napari_sa2net.training.run import Stopped
from napari_sa2net.training.runs import (
    STATE,
    Asked,
    read_state,
    runs_dir,
    write_asked,
    write_state,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    return tmp_path


def begun(name: str, base: Path | str, sha256: str = "ab", begun: bool = True) -> Path:
    asked = Asked(
        name=name,
        training_set="/nowhere",
        base=str(base),
        base_name="nuclei",
        base_sha256=sha256,
        config=FineTuneConfig(minutes=2),
        division={"training": ("a",), "held_out": (), "earlier": ()},
    )
    run = runs_dir() / name
    write_asked(run, asked)
    write_state(run, {"begun": begun, "record": {"best": None}})
    return run


def test_a_run_of_that_name_goes_on_or_is_deleted_first(home, tiny_model):
    run = begun("child", tiny_model)
    with pytest.raises(ModelExistsError, match=f"paused or broken off: {run}"):
        fine_tune(home, tiny_model, FineTuneConfig(steps=1), name="child")


@pytest.mark.parametrize(
    ("base", "sha256", "error", "words"),
    [
        ("", "ab", SettingsError, "in no file, so it cannot go on"),
        ("tiny", "ab", TrainingError, "is not the model that this run began with"),
        # from here on the images are looked for
        ("tiny", "", TrainingDataError, "nowhere"),
    ],
)
def test_a_run_goes_on_with_the_model_that_it_began_with(
    tiny_model, base, sha256, error, words
):
    sha256 = sha256 or load_model(tiny_model).sha256
    run = begun("child", tiny_model if base else "", sha256)
    with pytest.raises(error, match=words) as caught:
        resume_fine_tuning(run)
    assert "--keep-best" not in str(caught.value)  # there is no best yet


def test_a_run_does_not_end_under_the_name_of_a_model(tiny_model):
    add_file(tiny_model, "child")
    run = begun("child", tiny_model, load_model(tiny_model).sha256)
    with pytest.raises(ModelExistsError, match="a model 'child' already"):
        resume_fine_tuning(run)


def test_a_card_is_known_by_name_file_or_text(home, tiny_model):
    card = load_model(tiny_model).card
    add_file(tiny_model, "one")
    assert card_of("one").network == card.network
    assert card_of(tiny_model) == card
    text = home / "card.JSON"
    text.write_text(card.to_json(), encoding="utf-8")
    assert card_of(text) == card
    text.write_bytes(b"\xff\xfe{")
    for path in (text, home / "none.json"):
        with pytest.raises(CheckpointPathError, match="cannot be read"):
            card_of(path)


def test_a_parent_is_the_very_file(tiny_model, other_model):
    own = load_model(tiny_model)
    child = own.card.model_copy(
        update={"name": "child", "parent": f"my nuclei {own.sha256}", "training": {}}
    )
    with pytest.raises(ModelNotFoundError, match=r"\(my nuclei, sha256 .*--base"):
        find_parent(child)
    with pytest.raises(ModelNotFoundError, match="is not the parent of 'child'"):
        find_parent(child, str(other_model))
    assert find_parent(child, str(tiny_model)).sha256 == own.sha256
    add_file(other_model, "other")
    add_file(tiny_model, "called otherwise now")
    assert find_parent(child).path.stem == "called otherwise now"
    nameless = child.model_copy(update={"parent": "0" * 64})
    with pytest.raises(ModelNotFoundError, match=r"\(unnamed, sha256 000"):
        find_parent(nameless)


FULL = {"recipe": "train", "settings": {"steps": 5}}
FINE = {
    "recipe": "fine-tune",
    "settings": {"minutes": 2},
    "rounds": 3,
    "commits": ["a"],
    "held_out": ["b"],
    "held_out_before": [],
    "schedule": [[0, 7]],
}


@pytest.mark.parametrize(
    ("training", "left", "words"),
    [
        ({"recipe": "variant"}, "", "was not trained: it is nuclei with its attention"),
        (FULL, "settings", r"does not tell how it was trained \(KeyError"),
        (FULL, "", ""),
        ({**FULL, "settings": {"steps": "few"}}, "", "ValidationError"),
        ({**FULL, "settings": None}, "", "TypeError"),
        *((FINE, key, f"KeyError: '{key}'") for key in FINE if key != "recipe"),
        ({**FINE, "schedule": [[0]]}, "", "ValueError"),
        (FINE, "", ""),
    ],
)
def test_a_training_is_repeated_of_which_the_card_tells_all(
    home, tiny_model, monkeypatch, training, left, words
):
    calls: list[dict[str, Any]] = []
    for name in ("fine_tune", "train_folder"):
        monkeypatch.setattr(
            fine_tune_module, name, lambda *_, of=name, **more: calls.append({"of": of, **more})
        )
    own = load_model(tiny_model)
    card = own.card.model_copy(
        update={
            "name": "n" * 60,
            "parent": f"nuclei {own.sha256}",
            "training": {k: v for k, v in training.items() if k != left},
        }
    )
    if words:
        with pytest.raises(CardError, match=words):
            repeat_from_card(card, home, base=str(tiny_model))
        assert not calls
        return
    repeat_from_card(card, home, base=str(tiny_model))
    (call,) = calls
    assert call["of"] == ("fine_tune" if "rounds" in training else "train_folder")
    if "rounds" in training:
        assert call["name"] == "n" * 56 + "-again"
        assert call["schedule"] == [(0, 7)]
        assert call["division"] == {"training": ["a"], "held_out": ["b"], "earlier": []}


@pytest.mark.parametrize(
    ("known", "one_group", "said"),
    [
        (False, False, ()),
        (True, False, ("The parent had learned from these corrections before.",)),
        (False, True, (ONE_GROUP,)),
        (True, True, ("The parent had learned from these corrections before.", ONE_GROUP)),
    ],
)
def test_why_a_judgement_is_too_kind(known, one_group, said):
    material = SimpleNamespace(known=known, one_group=one_group)
    assert Material.caveats(material) == said  # type: ignore[arg-type]


def model(classes: tuple[str, ...]) -> Any:
    card = SimpleNamespace(
        classes=classes, diameter=None, input=InputConfig(), network=NetworkConfig()
    )
    return SimpleNamespace(card=card, name="mine")


def test_what_has_other_classes_is_not_taught(home):
    with pytest.raises(SettingsError, match="'mine' has the classes background, cell"):
        prepare(home, model(("background", "cell")), FineTuneConfig())


def test_reading_corrections_can_be_cancelled(tmp_path, monkeypatch):
    for kind in ("images", "labels"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for name in "ab":
            (tmp_path / "set" / kind / f"{name}.png").write_bytes(b"")
    told: list[int] = []
    with pytest.raises(Cancelled, match="nothing was changed"):
        prepare(
            tmp_path / "set",
            model(("background", "interior", "boundary")),
            FineTuneConfig(),
            progress=lambda i, n, _: told.append(i),
            cancelled=lambda: True,
        )
    assert not told


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Memory ran out while the model was scored"),
        (
            RuntimeError("CUDA out of memory. Tried"),
            "Memory ran out while the model was scored",
        ),
        (RuntimeError("mat1 and mat2"), "mat1 and mat2"),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, words):
    def score() -> Any:
        raise error

    with pytest.raises(Exception, match=words):
        run_module.TuningRun._careful(SimpleNamespace(), score)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        (Stopped(), Cancelled, "before the first step; nothing was changed"),
        (Paused(), Paused, r"paused before the first step\. Go on with the run"),
    ],
)
def test_before_the_first_step_a_run_leaves_nothing_or_begins_anew(tmp_path, end, error, words):
    def begin(_: Any) -> None:
        raise end

    run = tmp_path / "run"
    write_state(run, {"begun": True})
    work = SimpleNamespace(run=run, begin=begin)
    with pytest.raises(error, match=words):
        fine_tune_module._from_the_start(work, None)  # type: ignore[arg-type]
    assert (run / STATE).exists() == (error is Paused)
    if error is Paused:
        assert read_state(run)["begun"] is False


@pytest.mark.parametrize(
    ("best", "weights", "all_better", "own_better", "is_tried"),
    [
        ("best", "w", False, True, True),  # what was forgotten alone speaks against it
        ("best", "w", True, True, False),
        ("best", "w", False, False, False),
        (None, "w", False, True, False),
        ("best", None, False, True, False),
    ],
)
def test_weights_are_taken_back_where_that_alone_may_help(
    monkeypatch, best, weights, all_better, own_better, is_tried
):
    class Tried(Exception):
        pass

    def network() -> Any:
        raise Tried

    monkeypatch.setattr(run_module, "changes", lambda *_: ("held out", "parts"))
    monkeypatch.setattr(
        run_module,
        "judge",
        lambda _, parts=None: SimpleNamespace(
            better=own_better if parts is None else all_better
        ),
    )
    run = SimpleNamespace(
        record=SimpleNamespace(best=best, weights=weights, parent="parent"),
        asked=SimpleNamespace(name="child"),
        parent=SimpleNamespace(card=SimpleNamespace(name="nuclei")),
        _network=network,
    )
    with pytest.raises(Tried) if is_tried else nullcontext():
        run_module.TuningRun._take_back(run)  # type: ignore[arg-type]
