"""Learning without a window: real engines, a tiny network, a few steps."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time

import numpy as np
import pytest
import tifffile

from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.learn import NOTHING_KEPT, LearnController
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import (
    DIFFERENCE,
    PREVIEW,
    ErrorInfo,
    ImageSource,
    JobProgress,
    Session,
)
from napari_sa2net.app.training_set import seconds_to_learn
from napari_sa2net.config import FineTuneConfig, PredictConfig
from napari_sa2net.data import write_cells
from napari_sa2net.data.commit import Commit
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.labels import IN_PYTHON
from napari_sa2net.data.plan import plan_image
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.engine import messages as p
from napari_sa2net.models.registry import add_file, find_model, list_models
from napari_sa2net.training.runs import unfinished_runs

pytestmark = pytest.mark.timeout(300)

#: as short as it can be
FEW = FineTuneConfig(
    steps=3, rounds=1, batch_size=2, crop=48, replay=0, held_out=0.4, max_scored=1
)
#: for ever, a round after each step
LONG = FineTuneConfig(**{**FEW.model_dump(), "steps": 3000, "rounds": 1000, "patience": 1000})


class Desk:
    """Session and controllers; a pump stands where a widget has the Qt event loop."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue = queue.SimpleQueue()
        self.session = Session(model="tiny", predict=PredictConfig(tile=192))
        link = EngineLink(self.session, self.calls.put)
        self.segment = SegmentController(link)
        self.correct = CorrectController(link)
        self.learn = LearnController(self.segment, self.correct)
        self.state = self.learn.state
        self.overlays: list = []
        self.learn.overlay.connect(self.overlays.append)
        self.segment.refresh_models()

    def until(self, condition, timeout=120.0):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, (self.session.error, self.state)
            try:
                self.calls.get(timeout=0.05)()
            except queue.Empty:
                continue

    def summarised(self) -> Desk:
        self.learn.refresh()
        self.until(lambda: self.state.summary is not None)
        return self

    def close(self) -> None:
        self.learn.close()
        self.segment.close()
        self.correct.close()


@pytest.fixture
def home(tiny_model, tmp_path, monkeypatch):
    folder = tmp_path / "home"
    monkeypatch.setenv("SA2NET_HOME", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    add_file(tiny_model, "tiny")
    return folder


@pytest.fixture
def desk(home):
    made = Desk()
    yield made
    made.close()


def keep(folder, n=2, labels_of=lambda i, labels: labels, size=(96, 104)):
    """A training set of whole images."""
    training_set = TrainingSet.open(folder, create=True)
    for i in range(n):
        image, labels = synthetic_nuclei(size, n=8, diameter=22, seed=60 + i)
        training_set.commit(
            Commit(image, labels_of(i, labels), source=f"slide {i}", fingerprint=str(i))
        )
    return training_set


def test_what_is_missing_is_said_before_anything_is_pressed(desk, home):
    state = desk.summarised().state
    assert state.summary.n_images == 0
    assert "Correct page" in state.problem
    assert not desk.learn.learn()
    assert "Correct page" in desk.state.error.message

    folder = state.folder
    image, labels = synthetic_nuclei((64, 64), n=3, diameter=20, seed=1)
    labels[labels > 2] = 0
    training_set = TrainingSet.open(folder, create=True)
    training_set.commit(Commit(image, labels, source="one", fingerprint="one"))
    desk.learn.refresh()
    desk.until(lambda: state.summary.n_images == 1)
    assert "too little" in state.problem
    assert "strip" in state.summary.division

    keep(folder)
    desk.learn.refresh()
    desk.until(lambda: state.summary.n_images == 3)
    assert state.problem == ""
    assert "whole images" in state.summary.division
    assert [item.name for item in state.summary.items] == ["slide 1", "slide 0", "one"]
    desk.until(lambda: all(item.thumbnail is not None for item in state.summary.items))
    assert state.summary.items[0].thumbnail.dtype == np.uint8
    assert state.suggested == "tiny-tuned"
    # a folder that is not there is no error: nothing was kept yet
    desk.correct.keeping.set_folder(home / "elsewhere")
    desk.until(lambda: state.summary is not None and state.summary.folder == home / "elsewhere")
    assert "Correct page" in state.problem


def test_labels_that_are_refused_in_a_run_can_be_mended_in_the_window(desk):
    message = f"a.tif: label 1 covers 90% of the image{IN_PYTHON}labels[labels == 1] = 0"
    desk.learn._fail(ErrorInfo("TrainingDataError", message))
    said = desk.state.error.message
    assert "one click on the Correct page" in said
    assert said.endswith("In Python: labels[labels == 1] = 0")
    desk.learn._fail(ErrorInfo("OutputError", "The disk is full."))
    assert desk.state.error.message == "The disk is full."


def test_previews_look_at_the_channels_that_were_kept(desk):
    image, labels = synthetic_nuclei((96, 104), n=8, diameter=22, seed=60)
    stack = np.stack([np.zeros_like(image), image])
    made = {"settings": plan_image(stack, "CYX", (1,)).settings()}
    commit = Commit(stack, labels, source="slide 0", axes="CYX", channels=(1,), made=made)
    TrainingSet.open(desk.state.folder, create=True).commit(commit)
    desk.summarised()
    for source, channels in (
        (ImageSource("a", "slide 0", stack, "CYX"), (1,)),
        (ImageSource("a", "slide 0", stack, "CYX", (0,)), (0,)),  # a person has chosen
        (ImageSource("a", "slide 1", stack, "CYX"), None),
        (ImageSource("a", "slide 0", image, "YX"), None),
    ):
        desk.session.image = source
        assert desk.learn._layers._request("tiny").source.channels == channels


def test_from_corrections_to_a_child_while_segmenting_goes_on(desk):
    keep(desk.state.folder)
    image, _ = synthetic_nuclei((96, 104), n=8, diameter=22, seed=3)
    desk.segment.start()
    desk.segment.set_image(ImageSource("a", "a", image, view=(10, 90, 0, 104)))
    state = desk.summarised().state
    desk.learn.set_config(FEW.model_copy(update={"steps": 30, "rounds": 10, "patience": 50}))
    phases, said = [], []
    state.events.phase.connect(phases.append)
    state.events.progress.connect(lambda now: now and said.append(now))
    assert desk.learn.learn()
    assert not desk.learn.learn()  # one at a time
    desk.until(lambda: state.curves.losses)
    assert phases == ["starting", "learning"]
    # how far the scoring before it is, and how long it takes
    scored = [one for one in said if one.what == "scoring the model as it is"]
    assert scored[-1].total > 1
    assert scored[-1].done == scored[-1].total - 1
    assert scored[-1].ends is not None
    assert "held back" in state.plan
    assert state.curves.parent.n > 0
    # the other engine segments meanwhile
    results = []
    desk.segment.result_ready.connect(lambda _, result: results.append(result))
    desk.segment.segment()
    desk.until(lambda: results)
    assert state.phase == "learning"
    assert results[0].labels.max() > 0
    desk.until(lambda: state.previewed)
    shown = next(o for o in desk.overlays if o.slot == PREVIEW)
    assert shown.content.box == (10, 90, 0, 104)
    assert shown.content.values.shape == (80, 104)
    assert set(np.unique(shown.content.values)) == {0, 1}
    desk.until(lambda: state.outcome is not None)
    assert state.phase == "idle"
    assert [point.step for point in state.curves.losses] == list(range(1, 31))
    assert len(state.curves.rounds) == 10
    outcome = state.outcome
    assert (outcome.parent, outcome.child) == ("tiny", "tiny-tuned")
    assert find_model("tiny-tuned").aside is outcome.aside is not outcome.verdict.better
    # the preview went with the run
    desk.until(lambda: [o for o in desk.overlays if o.slot == PREVIEW][-1].content is None)

    # what the child does otherwise, in the view
    desk.learn.show_difference(True)
    assert state.comparing
    desk.until(lambda: not state.comparing)
    assert state.difference.words
    change = desk.overlays[-1]
    assert change.slot == DIFFERENCE
    assert change.content.values.shape == (80, 104)
    assert set(np.unique(change.content.values)) <= {-1, 0, 1}
    desk.learn.show_difference(False)
    assert desk.overlays[-1].content is None

    # used, aside, and back
    desk.learn.use_child()
    desk.until(lambda: state.in_use)
    assert desk.session.model == "tiny-tuned"
    assert "tiny-tuned" in [e.name for e in desk.session.models]
    desk.learn.back_to_parent()
    assert desk.session.model == "tiny"
    assert not state.in_use
    assert not find_model("tiny-tuned").aside
    desk.learn.keep_aside()
    desk.until(lambda: state.outcome.aside)
    assert "tiny-tuned" not in [e.name for e in desk.session.models]
    assert "tiny-tuned" not in [e.name for e in list_models()]
    assert state.suggested == "tiny-tuned-2"


def test_scoring_after_the_last_step_has_words_and_a_time_of_its_own(desk) -> None:
    """Where the model goes back part of the way to its parent."""
    state, learn = desk.state, desk.learn
    learn._trainer = trainer = object()

    def heard(done: int, total: int, what: str) -> None:
        learn._heard(trainer, p.Progress(1, done, total, what))

    try:
        state.phase, state.seconds_left = "learning", 90.0
        state.progress = steps = JobProgress(20, 50, "learning")  # it ended early
        heard(21, 50, "learning, loss 0.300")
        assert (state.progress, state.seconds_left) == (steps, 90.0)
        heard(0, 30, "going back towards nuclei, to forget less")
        assert str(state.progress) == "going back towards nuclei, to forget less · 0%"
        assert state.seconds_left is None
        time.sleep(0.02)
        heard(15, 30, "going back towards nuclei, to forget less")
        assert str(state.progress) == "going back towards nuclei, to forget less · 50%"
        assert 0 < state.seconds_left < 5
        # a run that goes on there, after a pause, has no step to tell of
        state.phase, state.progress = "starting", None
        heard(3, 30, "going back towards nuclei, to forget less")
        assert str(state.progress) == "going back towards nuclei, to forget less · 10%"
    finally:
        learn._trainer, state.phase = None, "idle"


def test_an_image_opened_from_the_set_says_what_is_doubtful_of_its_cells(desk, home) -> None:
    folder = home / "set"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    image, labels = synthetic_nuclei((80, 80), n=6, diameter=14, seed=1)
    labels[40:] = labels[:, 40:] = 0
    labels[30:40, 30:40] = labels.max() + 1
    tifffile.imwrite(
        folder / "images" / "a.tif",
        image,
        imagej=True,
        resolution=(2.0, 2.0),
        metadata={"unit": "um"},
    )
    write_cells(folder / "labels" / "a.geojson", labels, "geojson")
    desk.correct.keeping.set_folder(folder)
    opened = []
    desk.learn.set.opened.connect(opened.append)
    desk.learn.set.show(["a"])
    desk.until(lambda: desk.state.set_said is not None)
    assert [kept.name for kept in opened] == ["a"]
    said = desk.state.set_said.text
    assert said.startswith("a: the outlines end where the image would in µm (0.5 µm per pixel)")
    assert said.endswith("divide their coordinates by 0.5.")


def test_the_time_on_the_button_includes_what_comes_before() -> None:
    """Scoring and measuring, which take most of a short run on a slow computer."""
    short = FineTuneConfig(minutes=0.5)
    assert seconds_to_learn(short, 11, None) == 30
    assert seconds_to_learn(short, 11, 0.1) == 30
    assert 120 < seconds_to_learn(short, 11, 30.0) < 300
    assert seconds_to_learn(short, 200, 30.0) > seconds_to_learn(short, 11, 30.0)
    assert seconds_to_learn(FineTuneConfig(minutes=10), 11, 30.0) == 600


def test_stop_keeps_the_best_so_far_long_before_the_end(desk):
    keep(desk.state.folder)
    desk.summarised().learn.set_config(LONG)
    desk.learn.learn()
    desk.until(lambda: len(desk.state.curves.rounds) >= 2)
    desk.learn.stop()
    assert desk.state.phase == "stopping"
    desk.until(lambda: desk.state.outcome is not None)
    assert len(desk.state.curves.rounds) < LONG.rounds / 2
    assert find_model("tiny-tuned") is not None
    assert unfinished_runs() == []


def test_stopped_before_there_was_anything_nothing_is_kept(desk):
    keep(desk.state.folder)
    desk.summarised().learn.set_config(LONG)
    desk.learn.learn()
    desk.learn.stop()
    desk.until(lambda: desk.state.phase == "idle")
    assert desk.state.notices == (NOTHING_KEPT,)
    assert find_model("tiny-tuned") is None
    # and it can begin again
    assert desk.learn.learn()


def test_paused_before_the_first_step_it_can_go_on(desk):
    keep(desk.state.folder)
    state = desk.summarised().state
    desk.learn.set_config(FEW)
    desk.learn.learn()
    desk.learn.pause()  # before the engine has answered at all
    desk.until(lambda: state.phase == "paused")
    assert state.curves.losses == ()
    assert [run.asked.name for run in unfinished_runs()] == ["tiny-tuned"]
    assert desk.learn.resume()
    desk.until(lambda: state.outcome is not None)
    assert len(state.curves.losses) == 3
    assert find_model("tiny-tuned") is not None
    assert unfinished_runs() == []

    # paused so and stopped, there is nothing to keep, and nothing is left
    desk.learn.learn()
    desk.learn.pause()
    desk.until(lambda: state.phase == "paused")
    desk.learn.stop()
    desk.until(lambda: state.phase == "idle")
    assert state.notices == (NOTHING_KEPT,)
    assert unfinished_runs() == []


def test_killed_paused_and_gone_on_with(desk, home):
    keep(desk.state.folder)
    state = desk.summarised().state
    desk.learn.set_config(LONG)
    desk.learn.learn()
    desk.until(lambda: len(state.curves.rounds) >= 2)
    os.kill(desk.learn._trainer.client.pid, signal.SIGKILL)
    desk.until(lambda: state.phase == "idle" and state.unfinished)
    assert "background process was killed" in desk.state.error.message
    run = state.unfinished[0]
    assert run.asked.name == "tiny-tuned"
    assert run.asked.base_name == "tiny"

    # the unfinished one keeps its name; the next would have another
    desk.until(lambda: state.suggested == "tiny-tuned-2")
    assert desk.learn.resume(run)
    desk.until(lambda: state.phase == "learning")
    before = state.curves.losses[-1].step
    desk.until(lambda: state.curves.losses[-1].step > before + 1)
    steps = [point.step for point in state.curves.losses]
    assert steps == list(range(1, len(steps) + 1))
    assert state.curves.parent is not None
    assert state.unfinished == ()
    desk.learn.pause()
    desk.until(lambda: state.phase == "paused")
    assert desk.learn._trainer is None  # memory is given back
    paused_at = len(state.curves.losses)
    desk.until(lambda: not desk.learn.running)

    # a paused one is stopped: an engine comes back for the verdict alone
    desk.learn.stop()
    desk.until(lambda: state.outcome is not None)
    assert find_model("tiny-tuned") is not None
    assert len(state.curves.losses) <= paused_at + 1
    assert unfinished_runs() == []


def test_a_window_that_closes_leaves_a_run_that_another_goes_on_with(home):
    first = Desk()
    keep(first.state.folder)
    first.summarised().learn.set_config(LONG)
    first.learn.learn()
    first.until(lambda: first.state.curves.rounds)
    # another window does not touch it meanwhile
    assert unfinished_runs() == []
    trainer = first.learn._trainer
    first.close()
    assert trainer._answered.wait(10)
    second = Desk()
    second.summarised()
    second.until(lambda: second.state.unfinished)
    run = second.state.unfinished[0]
    second.learn.discard(run)
    second.until(lambda: not second.state.unfinished)
    assert not run.run.exists()
    second.close()
    end = time.monotonic() + 15
    while any(t.name == "sa2net-leave" for t in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_child_made_worse_is_kept_aside_and_it_is_said_why(desk):
    # the image that is held back is right; what is learned is nonsense
    folder = desk.state.folder
    training_set = TrainingSet.open(folder, create=True)
    for i in range(2):
        image, labels = synthetic_nuclei((128, 144), n=14, diameter=22, seed=50 + i)
        if i:
            labels = np.ascontiguousarray(labels[::-1, ::-1])
        training_set.commit(
            Commit(
                image, labels, source=str(i), fingerprint=str(i), split="train" if i else "val"
            )
        )
    desk.summarised().learn.set_config(
        FEW.model_copy(
            update={
                "steps": 16,
                "learning_rate": 5e-2,
                "decoder_first": 0,
                "ema_decay": 0.5,
                "distillation": 0,
                "crop": 64,
            }
        )
    )
    desk.learn.learn()
    desk.until(lambda: desk.state.outcome is not None)
    outcome = desk.state.outcome
    assert outcome.aside
    assert outcome.verdict.text.startswith("Worse on corrections you held back: AP ")
    assert outcome.held_out.after.ap50 < outcome.held_out.before.ap50
    assert [e.name for e in desk.session.models if e.name.startswith("tiny")] == ["tiny"]
    assert desk.session.model == "tiny"


def test_a_folder_that_vanished_is_said_to_be_gone(desk, home):
    folder = home / "mine"
    keep(folder)
    desk.correct.keeping.set_folder(folder)
    state = desk.state
    desk.until(lambda: state.summary is not None and state.summary.n_images == 2)
    folder.rename(home / "elsewhere")
    # the page has not looked yet: the engine finds out
    desk.learn.set_config(FEW)
    assert desk.learn.learn()
    words = f"The folder {folder} is gone. Bring it back or choose another."
    desk.until(lambda: state.phase == "idle" and state.problem == words and not state.error)
    assert state.summary.gone
    assert desk.session.error is None
    (home / "elsewhere").rename(folder)
    desk.learn.refresh()
    desk.until(lambda: state.problem == "")
    assert not state.summary.gone


def test_wrong_names_and_models_are_refused_with_words(desk, tiny_model):
    keep(desk.state.folder)
    desk.summarised()
    desk.learn.set_child("tiny")
    assert not desk.learn.learn()
    assert "already" in desk.state.error.message
    desk.learn.set_child("a/b")
    assert not desk.learn.learn()
    assert "cannot name a model" in desk.state.error.message
