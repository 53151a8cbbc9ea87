"""Images that are kept anew after a model learned from them: lineage, paused runs, groups."""

import numpy as np
import pytest
import torch

from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data.commit import Commit
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.samples import ReferenceImage, synthetic_nuclei
from napari_sa2net.data.training_set import load_training_folder
from napari_sa2net.errors import Cancelled, Paused, SettingsError, TrainingDataError
from napari_sa2net.models import load_model
from napari_sa2net.provenance import image_fingerprint
from napari_sa2net.training.compare import Notice, RoundPoint, use_of
from napari_sa2net.training.compare_models import compare_models
from napari_sa2net.training.fine_tune import fine_tune, repeat_from_card, resume_fine_tuning
from napari_sa2net.training.material import ONE_GROUP, prepare

SMALL = FineTuneConfig(
    steps=4,
    rounds=2,
    batch_size=1,
    crop=48,
    replay=0.0,
    max_scored=1,
    held_out=0.2,
    learning_rate=2e-3,
    precision="float32",
)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def commit_of(seed, group="", index=()):
    image, labels = synthetic_nuclei((96, 96), n=8, diameter=20, seed=seed)
    return Commit(
        image,
        labels,
        source=f"s{seed}",
        fingerprint=image_fingerprint(image),
        group=group,
        index=index,
    )


def make_set(folder, n=3, group=""):
    corrections = TrainingSet.open(folder, create=True)
    for seed in range(n):
        corrections.commit(commit_of(seed, group))
    return corrections


def seed_of(corrections, name):
    return int(corrections.find(name).source.name[1:])


def paused_run(corrections, parent, home, after=3):
    """A run that was paused after its first round, or before it."""
    steps = []
    with pytest.raises(Paused):
        fine_tune(
            corrections,
            parent,
            SMALL,
            name="halves",
            on_event=steps.append,
            paused=lambda: sum(hasattr(e, "loss") for e in steps) >= after,
        )
    return home / "runs" / "halves"


def test_an_image_that_is_kept_anew_is_still_the_image_it_was(tmp_path, tiny_model):
    corrections = make_set(tmp_path / "set")
    child = fine_tune(corrections, tiny_model, SMALL, name="child", promote=True)
    card = child.card
    learned = [seed_of(corrections, name) for name in card.training["commits"]]
    (held_out,) = (seed_of(corrections, name) for name in card.training["held_out"])
    uses = {"learned": learned, "held out": [held_out]}
    for seed in range(3):
        corrections.commit(commit_of(seed))
    new = load_training_folder(corrections.path)
    # Also as an old card has it, which names no places, and in a set of its own.
    old = card.model_copy(update={"training": {**card.training, "places": None}})
    elsewhere = load_training_folder(corrections.export(tmp_path / "copy"))
    for one, items in ((card, new), (old, new), (card, elsewhere)):
        for use, seeds in uses.items():
            found = {int(i.name[1]) for i in items if use_of(one, i) == use}
            assert found == set(seeds), use
    split = prepare(corrections.path, child.model, SMALL)
    assert [int(e.item.name[1]) for e in split.held_out] == [held_out]
    assert not split.known
    # judged again by one that was learned, too
    names = {int(item.name[1]): item.name for item in new}
    first, second = (names[seed] for seed in learned)
    for judges, known in (([names[held_out]], False), ([second, names[held_out]], True)):
        division = {"training": [first], "held_out": judges, "earlier": []}
        again = prepare(corrections.path, child.model, SMALL, division=division)
        assert again.known == known


def test_what_belongs_to_a_learned_image_is_not_held_out(tmp_path, tiny_model):
    corrections = make_set(tmp_path / "set")
    child = fine_tune(corrections, tiny_model, SMALL, name="child", promote=True)
    learned = seed_of(corrections, child.card.training["commits"][0])
    # Another plane of a learned image, and the learned one gone.
    corrections.commit(commit_of(learned, index=(1,)))
    corrections.remove(child.card.training["commits"][0])
    (plane,) = [i for i in load_training_folder(corrections.path) if "_1_" in i.name]
    assert use_of(child.card, plane) == "learned"
    split = prepare(corrections.path, child.model, SMALL)
    assert plane.name in [e.item.name for e in split.training]
    # A grandchild of what never saw it still comes of what did.
    other = child.card.model_copy(
        update={
            "training": {"recipe": "fine-tune", "commits": [], "held_out": [plane.name]},
            "parent": f"child {child.model.sha256}",
        }
    )
    grandchild = type(child.model)(child.model.net, other, None, "")
    assert prepare(corrections.path, grandchild, SMALL, [plane.name]).known


def test_comparing_leaves_out_what_was_learned_and_kept_anew(tmp_path, tiny_model, monkeypatch):
    from napari_sa2net.training import compare_models as module

    one = ReferenceImage("fluo", "fluo", 22.0, *synthetic_nuclei((96, 96), 6, 22.0, 9, "fluo"))
    monkeypatch.setattr(module, "reference_images", lambda: iter([one]))
    corrections = make_set(tmp_path / "set")
    child = fine_tune(corrections, tiny_model, SMALL, name="child", promote=True)
    corrections.commit(commit_of(seed_of(corrections, child.card.training["commits"][0])))
    result = compare_models(tiny_model, child.path, corrections)
    assert result.parts[0].n_images == 1
    assert "2 images that child learned from are left out." in result.notes


def test_a_paused_run_goes_on_after_its_image_was_kept_anew(tmp_path, tiny_model, home):
    corrections = make_set(tmp_path / "set")
    run = paused_run(corrections, tiny_model, home)
    for record in corrections.commits()[:2]:
        corrections.commit(commit_of(seed_of(corrections, record.id)))
    corrections.remove(corrections.commits()[0].id)
    tuned = resume_fine_tuning(run)
    assert tuned.card.training["steps"] == 4
    # The card repeats it with the images that it was, too.
    again = repeat_from_card(tuned.card, corrections.path, "again", base=str(tiny_model))
    assert again.card.training["commits"] == tuned.card.training["commits"]


def test_the_best_is_kept_without_the_images(tmp_path, tiny_model, home):
    corrections = make_set(tmp_path / "set")
    run = paused_run(corrections, tiny_model, home)
    for path in corrections.path.glob("images/*"):
        path.unlink()
    with pytest.raises(TrainingDataError, match=r"no longer has .*can be kept .*--keep-best"):
        resume_fine_tuning(run)
    tuned = resume_fine_tuning(run, cancelled=lambda: True)
    assert tuned.card.training["best_step"] == 2
    assert len(tuned.card.training["commit_ids"]) == 3
    assert tuned.card.scores["held-out corrections"]["ap50"] == tuned.after.ap50
    assert load_model("halves").card == tuned.card
    with pytest.raises(SettingsError, match="finished"):
        resume_fine_tuning(run)


def test_before_the_first_round_there_is_nothing_to_keep(tmp_path, tiny_model, home):
    corrections = make_set(tmp_path / "set")
    run = paused_run(corrections, tiny_model, home, after=1)
    with pytest.raises(Cancelled, match="nothing to keep"):
        resume_fine_tuning(run, cancelled=lambda: True)


def test_one_group_alone_is_said(tmp_path, tiny_model):
    events = []
    corrections = make_set(tmp_path / "set", group="A")
    tuned = fine_tune(corrections, tiny_model, SMALL, name="kind", on_event=events.append)
    assert ONE_GROUP in [event.text for event in events if isinstance(event, Notice)]
    assert tuned.verdict.text.endswith(ONE_GROUP)
    assert any(isinstance(event, RoundPoint) for event in events)
    corrections.commit(commit_of(9, "B"))
    material = prepare(corrections.path, load_model(tiny_model), SMALL)
    sides = [{e.item.group for e in s} for s in (material.training, material.held_out)]
    assert sorted(map(sorted, sides)) == [["A"], ["B"]]
    assert material.caveats() == ()


def test_settings_and_sets_of_other_types(tmp_path, tiny_model):
    corrections = make_set(tmp_path / "set")
    tuned = fine_tune(corrections, tiny_model, SMALL.model_dump(), name="mapped")
    assert tuned.card.training["settings"] == SMALL.model_dump(mode="json")
    with pytest.raises(SettingsError, match="minutes"):
        fine_tune(corrections, tiny_model, {"minutes": -1})
    with pytest.raises(SettingsError, match=r"a list.*dictionary"):
        fine_tune(corrections, tiny_model, [1])
    with pytest.raises(TrainingDataError, match="path of its folder"):
        fine_tune(None, tiny_model)
    with pytest.raises(TrainingDataError, match="path of its folder"):
        fine_tune(np.zeros(3), tiny_model)
