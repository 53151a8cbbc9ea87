"""Fine-tuning as a whole, with a tiny network that finds synthetic nuclei."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch

import napari_sa2net as sa2net
from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data.samples import reference_images, synthetic_nuclei
from napari_sa2net.errors import (
    Cancelled,
    ModelExistsError,
    OutOfMemoryError,
    Paused,
    SettingsError,
    TrainingError,
)
from napari_sa2net.models import find_model, list_models, load_model, promote_model
from napari_sa2net.training import compare_models as compare_models_module
from napari_sa2net.training import fine_tune as fine_tune_module
from napari_sa2net.training import material as reference
from napari_sa2net.training import run as tuning_run
from napari_sa2net.training import tuning as rounds
from napari_sa2net.training import tuning as tuning_module
from napari_sa2net.training.compare import LossPoint, Notice, Planned, RoundPoint, Verdict
from napari_sa2net.training.compare_models import compare_models
from napari_sa2net.training.fine_tune import fine_tune, resume_fine_tuning
from napari_sa2net.training.material import HELD_OUT
from napari_sa2net.training.runs import read_state, runs_dir
from napari_sa2net.training.schedule import Schedule

SMALL = FineTuneConfig(
    steps=4,
    rounds=2,
    batch_size=2,
    crop=64,
    replay=0.0,
    max_scored=1,
    held_out=0.34,
    decoder_first=0.25,
    learning_rate=2e-3,
    precision="float32",
)


def write_set(directory, labels_of=lambda i, labels: labels, n=3):
    for kind in ("images", "labels", "reviewed"):
        (directory / kind).mkdir(parents=True)
    rows = ["split,name"]
    for i in range(n):
        image, labels = synthetic_nuclei((128, 144), n=14, diameter=22, seed=50 + i)
        reviewed = np.zeros(labels.shape, np.uint8)
        reviewed[:, :110] = 1
        tifffile.imwrite(directory / "images" / f"{i}.tif", image)
        tifffile.imwrite(
            directory / "labels" / f"{i}.tif", labels_of(i, labels).astype(np.uint16)
        )
        tifffile.imwrite(directory / "reviewed" / f"{i}.tif", reviewed)
        rows.append(f"{'train' if i else 'val'},{i}")
    (directory / "index.csv").write_text("\n".join(rows) + "\n")
    return directory


@pytest.fixture(scope="module")
def corrections(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("corrections"))


@pytest.fixture(scope="module", autouse=True)
def four_reference_images():
    """Of each kind the cells of medium size, drawn once: what is tested needs no more."""
    some = [one for one in reference_images() if "medium" in one.name]
    with pytest.MonkeyPatch.context() as patch:
        for module in (compare_models_module, reference):
            patch.setattr(module, "reference_images", lambda: iter(some))
        reference._drawn.cache_clear()
        yield
    reference._drawn.cache_clear()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def weights(tuned):
    return load_model(tuned.path).net.state_dict()


def test_comparing_parent_and_child_gives_the_numbers_of_the_verdict(tmp_path, tiny_model):
    folder = write_set(tmp_path / "set", n=4)
    config = SMALL.model_copy(update={"max_scored": 2, "replay": 0.5})
    tuned = fine_tune(folder, tiny_model, config, name="child")
    told = compare_models(tiny_model, tuned.path, folder)
    parts = {part.name: part.change for part in told.parts}
    assert parts[HELD_OUT] == tuned.held_out
    assert told.verdict == tuned.verdict
    assert told.notes == ("3 images that child learned from are left out.",)
    for name, part in parts.items():
        assert tuned.card.scores[name]["ap50"] == part.after.ap50
        assert tuned.card.scores[name]["dice"] == part.after.dice
        assert tuned.card.scores[f"{name}, parent"]["dice"] == part.before.dice
    # the other way round, and without the set
    back = compare_models(tuned.path, tiny_model, folder)
    assert back.parts[0].change.after == tuned.held_out.before
    alone = compare_models(tiny_model, tuned.path)
    assert alone.training_set == ""
    assert {part.name: part.change for part in alone.parts} == {
        name: part for name, part in parts.items() if name != HELD_OUT
    }
    # with a new image it is another set, and that is said
    image, labels = synthetic_nuclei((128, 144), n=14, diameter=22, seed=99)
    tifffile.imwrite(folder / "images" / "new.tif", image)
    tifffile.imwrite(folder / "labels" / "new.tif", labels.astype(np.uint16))
    with (folder / "index.csv").open("a") as index:
        index.write("train,new\n")
    more = compare_models(tiny_model, tuned.path, folder)
    assert more.parts[0].n_images == 2
    assert "1 image is new in this set" in more.notes[0]
    assert "not those of its verdict" in more.notes[0]


def test_from_corrections_to_a_child_with_its_story(corrections, tiny_model):
    events, shown = [], []
    config = SMALL.model_copy(update={"replay": 0.5})
    tuned = sa2net.fine_tune(
        corrections,
        tiny_model,
        config,
        name="child",
        on_event=events.append,
        preview=lambda model, number: shown.append((number, model)),
        promote=True,
    )
    assert tuned.promoted
    assert find_model("child").path == tuned.path
    assert tuned.model.net.base_channels == 4
    kinds = [type(event) for event in events]
    assert kinds[0] is Planned
    assert kinds.count(LossPoint) == 4
    assert kinds.count(RoundPoint) == 2
    assert events[0].parent == tuned.before
    assert events[0].seconds == 0, "of steps that are told no speed is measured"
    assert [number for number, _ in shown] == [1, 2]
    assert shown[0][1].net.outc4.weight.shape == tuned.model.net.outc4.weight.shape
    best = [event for event in events if isinstance(event, RoundPoint) and event.best][-1]
    assert best.held_out == tuned.after
    # statistics of batch normalisation stay the parent's
    parent, child = load_model(tiny_model).net.state_dict(), tuned.model.net.state_dict()
    means = [key for key in parent if key.endswith("running_mean")]
    assert means
    assert all(torch.equal(parent[key], child[key]) for key in means)
    assert not torch.equal(parent["up1.AG.dwconv.0.weight"], child["up1.AG.dwconv.0.weight"])
    card = tuned.card
    assert card.parent == f"tiny {load_model(tiny_model).sha256}"
    assert card.training["commits"] == ["1", "2"]
    assert card.training["held_out"] == ["0"]
    assert card.training["settings"] == config.model_dump(mode="json")
    assert card.training["best_step"] == best.step
    assert card.training["versions"]["torch"]
    # sizes of the reviewed cells of the two images that it learned from
    sizes = []
    for name in ("1", "2"):
        labels, reviewed = (
            tifffile.imread(corrections / part / f"{name}.tif")
            for part in ("labels", "reviewed")
        )
        edge = np.unique([*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]])
        sizes.append(
            np.median(
                [
                    np.sqrt(4 / np.pi * (labels == n).sum())
                    for n in np.setdiff1d(labels, edge)
                    if (reviewed[labels == n] > 0).mean() >= 0.5
                ]
            )
        )
    assert card.image_diameters == pytest.approx(sorted(sizes), rel=0.01)
    assert card.scores["held-out corrections"]["ap50"] == tuned.after.ap50
    assert card.scores["held-out corrections, parent"]["ap50"] == tuned.before.ap50
    json.loads(card.to_json())
    # What was for going on is gone, the model works.
    with pytest.raises(SettingsError, match="finished"):
        resume_fine_tuning(tuned.run)
    image, _ = synthetic_nuclei((128, 128), 10, 22, seed=1)
    assert sa2net.segment(image, model="child", diameter=22).labels.shape == (128, 128)


def test_a_child_of_shuffled_labels_is_kept_aside_and_the_verdict_says_why(
    tmp_path, tiny_model
):
    # The image that is held back is right; what it learns from is nonsense.
    shuffled = write_set(
        tmp_path / "shuffled", lambda i, labels: labels if i == 0 else labels[::-1, ::-1] * 1
    )
    config = SMALL.model_copy(
        update={"steps": 24, "rounds": 1, "learning_rate": 4e-2, "freeze_norm": False}
    )
    tuned = fine_tune(shuffled, tiny_model, config, name="worse")
    assert tuned.before.ap50 > tuned.after.ap50
    assert not tuned.promoted
    assert not tuned.verdict.better
    assert tuned.verdict.text.startswith("Worse on corrections you held back: AP ")
    assert [entry.name for entry in list_models() if not entry.bundled] == []
    kept = [entry for entry in list_models(aside=True) if entry.aside]
    assert [entry.name for entry in kept] == ["worse"]
    assert load_model("worse").card.training["better"] is False
    # By the person's own choice it may still be used.
    assert not promote_model("worse").aside


def test_a_child_that_only_forgot_goes_back_part_of_the_way(
    corrections, tiny_model, monkeypatch
):
    config = SMALL.model_copy(update={"steps": 2, "rounds": 1})
    whole = fine_tune(corrections, tiny_model, config, name="whole")
    assert whole.card.training["taken_back"] == 0
    asked = []

    def forgetful(held_out, reference=None):
        """Better on what was held back, but it has forgotten, until half of it is undone."""
        asked.append(reference)
        n = sum(one is not None for one in asked)
        return Verdict(reference is None or n >= 3, "Better")

    monkeypatch.setattr(tuning_run, "judge", forgetful)
    events, counted = [], []
    part = fine_tune(
        corrections,
        tiny_model,
        config,
        name="part",
        on_event=events.append,
        progress=lambda done, total, what: "forget" in what and counted.append((done, total)),
    )
    # how far it is of all that it may have to try; two of three shares were enough
    assert counted == sorted(counted)
    (total,) = {total for _, total in counted}
    assert total % 3 == 0
    assert total / 3 < counted[-1][0] <= 2 * total / 3
    assert part.verdict.better
    assert part.promoted
    assert part.card.training["taken_back"] == 0.5
    (said,) = (one.text for one in events if isinstance(one, Notice) and "way" in one.text)
    assert "50%" in said

    def flat(weights):
        return torch.cat(
            [w.double().ravel() for w in weights.values() if w.is_floating_point()]
        )

    first, last, half = map(
        flat, (load_model(tiny_model).net.state_dict(), weights(whole), weights(part))
    )
    way = first - last
    assert way.norm() > 0
    assert float((half - last) @ way / (way @ way)) == pytest.approx(0.5, abs=0.02)
    # paused in between, it goes on there and takes no further step
    asked.clear()
    pausing = [True]

    def paused():
        return pausing[0] and any(one is not None for one in asked)

    with pytest.raises(Paused):
        fine_tune(corrections, tiny_model, config, name="later", paused=paused)
    pausing[0] = False
    asked.clear()
    later = resume_fine_tuning(runs_dir() / "later")
    assert later.card.training["taken_back"] == 0.5
    assert later.card.training["steps"] == 2
    torch.testing.assert_close(flat(weights(later)), half)
    # the scores are of those weights
    again = compare_models(tiny_model, part.path, corrections).parts[0].change
    assert again.after == part.after


def test_pause_and_resume_is_as_if_nothing_had_happened(corrections, tiny_model, tmp_path):
    config = SMALL.model_copy(update={"replay": 0.5, "steps": 4})
    whole = fine_tune(corrections, tiny_model, config, name="whole")
    steps = []

    def count(event):
        steps.extend([event] if isinstance(event, LossPoint) else [])

    with pytest.raises(sa2net.errors.Paused) as pause:
        fine_tune(
            corrections,
            tiny_model,
            config,
            name="halves",
            on_event=count,
            paused=lambda: len(steps) == 3,
        )
    run = tmp_path / "home" / "runs" / "halves"
    assert str(run) in str(pause.value)
    assert find_model("halves") is None
    assert read_state(run)["module"]["done"] == 3
    halves = resume_fine_tuning(run, on_event=count)
    assert [point.step for point in steps] == [1, 2, 3, 4]
    after = weights(halves)
    for key, value in weights(whole).items():
        assert torch.equal(value, after[key]), key
    assert halves.after == whole.after
    assert halves.card.training["steps"] == 4


def test_paused_before_the_first_step_it_goes_on_as_if_nothing_had_happened(
    corrections, tiny_model, tmp_path
):
    config = SMALL.model_copy(update={"steps": 1})
    whole = fine_tune(corrections, tiny_model, config, name="whole")
    run = tmp_path / "home" / "runs" / "later"
    with pytest.raises(sa2net.errors.Paused, match="before the first step") as pause:
        fine_tune(corrections, tiny_model, config, name="later", paused=lambda: True)
    assert str(run) in str(pause.value)
    with pytest.raises(sa2net.errors.Paused):
        resume_fine_tuning(run, paused=lambda: True)
    given_up = shutil.copytree(run, run.with_name("given-up"))
    with pytest.raises(Cancelled, match="before the first step"):
        resume_fine_tuning(given_up, cancelled=lambda: True)
    with pytest.raises(SettingsError, match="nothing to go on with"):
        resume_fine_tuning(given_up)
    later = resume_fine_tuning(run)
    after = weights(later)
    for key, value in weights(whole).items():
        assert torch.equal(value, after[key]), key
    assert later.after == whole.after


def test_a_stop_keeps_the_best_round_so_far(corrections, tiny_model, monkeypatch):
    config = SMALL.model_copy(update={"steps": 1000, "rounds": 500})
    seen, asked, late = [], [], []

    def stop():
        if seen:
            asked.append(True)
        return bool(seen)

    step = tuning_module.TuningModule.loss_of

    def counted(self, batch):
        late.extend(asked[:1])
        return step(self, batch)

    monkeypatch.setattr(tuning_module.TuningModule, "loss_of", counted)

    tuned = fine_tune(
        corrections,
        tiny_model,
        config,
        name="stopped",
        on_event=lambda event: seen.extend([event] if isinstance(event, RoundPoint) else []),
        cancelled=stop,
        promote=True,
    )
    # no more than the step that was under way
    assert len(late) <= 1
    assert len(seen) == 1
    assert tuned.after == seen[0].held_out
    assert tuned.card.training["best_step"] == seen[0].step
    begun = []
    with pytest.raises(Cancelled, match="first round"):
        fine_tune(
            corrections,
            tiny_model,
            SMALL,
            name="too-early",
            on_event=begun.append,
            cancelled=lambda: bool(begun),
        )
    assert find_model("too-early") is None


def test_a_loss_that_is_no_number_is_rolled_back(corrections, tiny_model, monkeypatch):
    original = tuning_module.deep_supervision_loss
    calls = []

    def broken(*args, **kwargs):
        calls.append(1)
        factor = torch.nan if len(calls) == 2 else 1.0
        return original(*args, **kwargs) * factor

    monkeypatch.setattr(tuning_module, "deep_supervision_loss", broken)
    events = []
    tuned = fine_tune(corrections, tiny_model, SMALL, name="mended", on_event=events.append)
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "back to the last good weights" in notices[0]
    losses = [event for event in events if isinstance(event, LossPoint)]
    assert [point.step for point in losses] == [1, 3, 4]
    # less than half of what the third step has where nothing went wrong
    planned = Schedule(SMALL.steps, SMALL.rounds, SMALL.warmup).rate(2)
    assert losses[1].rate < 0.5 * planned
    assert all(value.isfinite().all() for value in weights(tuned).values())

    monkeypatch.setattr(
        tuning_module, "deep_supervision_loss", lambda *a, **k: original(*a, **k) * torch.inf
    )
    with pytest.raises(TrainingError, match="no number"):
        fine_tune(
            corrections,
            tiny_model,
            SMALL.model_copy(update={"steps": 20, "rounds": 1}),
            name="hopeless",
        )
    assert find_model("hopeless") is None


def test_out_of_memory_is_tried_again_with_less(corrections, tiny_model, monkeypatch):
    original = tuning_module.TuningModule.loss_of
    sizes = []

    def greedy(self, batch):
        size = batch["image"].shape
        sizes.append(tuple(size))
        if size[0] * size[-1] > 96:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(self, batch)

    monkeypatch.setattr(tuning_module.TuningModule, "loss_of", greedy)
    events = []
    config = SMALL.model_copy(update={"crop": 128, "batch_size": 2})
    tuned = fine_tune(corrections, tiny_model, config, name="lean", on_event=events.append)
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert notices == [
        "Memory ran out: on with 1 crops at once.",
        "Memory ran out: on with crops of 64 px.",
    ]
    assert sizes[:3] == [(2, 3, 128, 128), (1, 3, 128, 128), (1, 3, 64, 64)]
    assert tuned.card.training["batch"] == {"crops_at_once": 1, "crop": 64}
    assert tuned.card.training["steps"] == 4


def test_out_of_memory_in_mid_run_forgets_nothing_of_the_steps_before(
    corrections, tiny_model, monkeypatch
):
    """Not even what the optimiser has seen of the gradients."""
    original = tuning_module.TuningModule.loss_of
    modules = []

    def greedy(self, batch):
        if self.done == 2 and len(batch["target"]) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        modules.append(self)
        return original(self, batch)

    monkeypatch.setattr(tuning_module.TuningModule, "loss_of", greedy)
    config = SMALL.model_copy(update={"batch_size": 2})
    tuned = fine_tune(corrections, tiny_model, config, name="lean")
    assert tuned.card.training["batch"]["crops_at_once"] == 1
    (module,) = set(modules)
    taken = {int(of["step"]) for of in module._adam[0].state.values()}
    assert max(taken) == module.done == 4


@pytest.mark.parametrize(
    ("crops", "side", "then"),
    [
        (8, 256, [(4, 256), (2, 256), (1, 256), (1, 128), (1, 64)]),
        (3, 208, [(1, 208), (1, 96), (1, 64)]),
        (1, 80, [(1, 64)]),
        (1, 64, []),
    ],
)
def test_fewer_crops_at_once_then_smaller_ones(crops, side, then):
    network = SimpleNamespace(micro=crops, zero_grad=lambda set_to_none: None)
    run = SimpleNamespace(device=torch.device("cpu"), module=network, crop=side)
    told = []
    for wanted in then:
        tuning_run.TuningRun._shrink(run, told.append)
        assert (run.module.micro, run.crop) == wanted
    assert len(told) == len(then)
    with pytest.raises(OutOfMemoryError, match=r"one crop of 64 px .* Close other programs"):
        tuning_run.TuningRun._shrink(run, told.append)


@pytest.mark.parametrize("slower", [1, 4])
def test_about_as_long_as_was_asked(corrections, tiny_model, monkeypatch, slower):
    """Six seconds by a clock that goes on half a second with each step, later more."""
    clock, planned = [0.0], []
    step = tuning_module.TuningModule.loss_of

    def takes_a_while(self, batch):
        clock[0] += 0.5 * (slower if planned else 1)
        return step(self, batch)

    monkeypatch.setattr(tuning_module.TuningModule, "loss_of", takes_a_while)
    for module in (fine_tune_module, tuning_run, rounds):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    config = SMALL.model_copy(update={"steps": None, "minutes": 0.1, "rounds": 2})
    tuned = fine_tune(
        corrections,
        tiny_model,
        config,
        name=f"timed-{slower}",
        on_event=lambda e: planned.extend([e] if isinstance(e, Planned) else []),
    )
    # what the probe took is of that time
    probed = 6 - 0.5 * planned[0].steps
    assert 0.5 <= probed <= 3
    assert 6 <= clock[0] <= 6 * rounds.LATE + 0.5 * slower
    if slower == 1:
        assert tuned.card.training["steps"] == planned[0].steps
    else:
        assert 1 <= tuned.card.training["steps"] < planned[0].steps


def test_names_and_parents_are_checked_before_the_work(corrections, tiny_model):
    fine_tune(corrections, tiny_model, SMALL.model_copy(update={"steps": 1}), name="taken")
    with pytest.raises(ModelExistsError, match="another name"):
        fine_tune(corrections, tiny_model, SMALL, name="Taken")
    with pytest.raises(SettingsError, match="cannot name"):
        fine_tune(corrections, tiny_model, SMALL, name="a/b")
    with pytest.raises(SettingsError, match="no fine-tuning"):
        resume_fine_tuning(corrections)


def test_attention_alone_learns_its_exponents_and_nothing_else(corrections, tiny_model):
    config = FineTuneConfig(learn="attention", steps=6, batch_size=2, crop=64, rounds=1)
    assert config.replay == 0
    assert FineTuneConfig(learn="attention", replay=0.5).replay == 0.5
    tuned = fine_tune(corrections, tiny_model, config, name="focused", promote=True)
    before, after = load_model(tiny_model), load_model("focused")
    assert after.card.network.gamma != before.card.network.gamma
    assert after.net.gamma == pytest.approx(after.card.network.gamma)
    for key, value in before.net.state_dict().items():
        torch.testing.assert_close(after.net.state_dict()[key], value, atol=2e-3, rtol=2e-3)
    assert tuned.model.card.training["settings"]["learn"] == "attention"
    # Switched on from γ = 0 and near the largest exponent it stays within bounds.
    assert all(0 <= g <= 8 for g in after.net.gamma)
