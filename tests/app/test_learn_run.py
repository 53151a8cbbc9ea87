"""A run of learning as the page tells of it; the engine that learns is the test's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from napari_sa2net.app import learn as learn_module
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.learn import NOTHING_KEPT, LearnController
from napari_sa2net.app.link import JOB, EngineLink
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import DIFFERENCE, PREVIEW, ErrorInfo, JobProgress, Session
from napari_sa2net.app.training_set import SetSummary
from napari_sa2net.engine import messages as p
from napari_sa2net.models.registry import add_file
from napari_sa2net.training.compare import (
    Change,
    LossPoint,
    Planned,
    RoundPoint,
    Score,
    Verdict,
)


class Client:
    memory = 0

    def __init__(self, on_event: Any) -> None:
        self.on_event = on_event
        self.requests: list[Any] = []
        self.cancelled: list[int] = []
        self.closed = False

    def start(self) -> None: ...
    def restart(self) -> None: ...
    def submit(self, request: Any) -> None:
        self.requests.append(request)

    def cancel(self, job: int, force: bool = True) -> None:
        self.cancelled.append(job)

    def close(self) -> None:
        self.closed = True


SCORE = Score(0.5, 0.5, 0.5, 4)
PLAN = Planned(40, 4, 0.0, 57, 14, SCORE, SCORE)


def loss(step: int, steps: int = 40) -> LossPoint:
    return LossPoint(step, steps, 1.0 / step, 1e-3)


def scored(number: int, step: int) -> RoundPoint:
    return RoundPoint(number, step, SCORE, SCORE, True)


class Desk:
    def __init__(self) -> None:
        self.session = Session(model="tiny")
        link = EngineLink(self.session, make_client=Client)
        self.segment, self.correct = SegmentController(link), CorrectController(link)
        self.clients: list[Client] = []
        self.learn = LearnController(self.segment, self.correct, self.make)
        self.state = self.learn.state
        self.segment.refresh_models()

    def make(self, on_event: Any) -> Any:
        self.clients.append(Client(on_event))
        return self.clients[-1]

    def hear(self, event: Any) -> None:
        self.clients[-1].on_event(event)

    def news(self, **news: Any) -> None:
        self.hear(p.TrainProgress(JOB, "/runs/1", **news))

    def close(self) -> None:
        for page in (self.learn, self.correct, self.segment):
            page.close()


@pytest.fixture
def desk(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))
    add_file(tiny_model, "tiny")
    # there is something to learn from, whenever it is read
    monkeypatch.setattr(learn_module, "read_summary", lambda folder, _: SetSummary(folder))
    made = Desk()
    yield made
    made.close()


def test_what_is_asked_for_and_how_far_it_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(learn_module.time, "monotonic", lambda: now[0])
    learn, state = desk.learn, desk.state
    learn.set_child("  sharper ")
    assert learn.learn()
    assert not learn.learn()  # one run at a time
    (client,) = desk.clients
    (request,) = client.requests
    assert (request.job, request.name) == (JOB, "fine_tune")
    assert request.arguments == {
        "training_set": str(state.folder),
        "base": "tiny",
        "config": state.config,
        "name": "sharper",
        "preview": True,
    }
    assert (state.phase, state.parent, state.name) == ("starting", "tiny", "sharper")
    assert learn.running
    desk.hear(p.Ready(p.EngineInfo("cpu", "CPU", "2", 1)))
    assert state.progress == JobProgress(0, 0, "reading the corrections")
    desk.hear(p.Progress(JOB, 2, 8, "scoring the parent"))
    assert state.progress == JobProgress(2, 8, "scoring the parent")
    desk.hear(p.Progress(JOB, 1, 40, "learning"))  # is told with its losses
    assert state.progress == JobProgress(2, 8, "scoring the parent")
    desk.news(plan=PLAN)
    assert state.plan
    assert (state.curves.parent, state.curves.steps) == (PLAN.parent, 40)
    assert state.phase == "starting"
    desk.news(losses=(loss(1), loss(2)))
    assert state.phase == "learning"
    assert state.progress == JobProgress(2, 40, "learning")
    now[0] += 4
    desk.news(losses=(loss(4),))
    assert state.seconds_left == pytest.approx(2 * 36)
    desk.news(rounds=(scored(1, 10),), notices=("odd",))
    desk.news(notices=("odder",))
    assert state.notices == ("odd", "odder")
    assert [point.step for point in state.curves.losses] == [1, 2, 4]
    assert [point.round for point in state.curves.rounds] == [1]
    # planned anew, and then what comes after the last step
    desk.news(losses=(loss(11, 60),))
    assert state.curves.steps == 60
    desk.hear(p.Progress(JOB, 0, 3, "scoring the child"))
    assert state.progress == JobProgress(0, 3, "scoring the child")
    now[0] += 5
    desk.hear(p.Progress(JOB, 1, 3, "scoring the child"))
    assert state.seconds_left == pytest.approx(10)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_run_that_comes_to_nothing(desk: Desk, end: str) -> None:
    assert desk.learn.learn()
    desk.news(losses=(loss(1),))
    if end == "failed":
        desk.hear(p.Failed(JOB, "TrainingError", "The loss was no number."))
        assert "no number" in desk.state.error.message
        assert desk.state.notices == ()
    else:
        desk.hear(p.WasCancelled(JOB))
        assert desk.state.error is None
        assert desk.state.notices == (NOTHING_KEPT,)
    state = desk.state
    assert (state.phase, state.run, state.name, state.progress) == ("idle", "", "", None)
    assert state.curves.losses == ()
    assert desk.clients[0].closed
    # what it says after its end is of nobody's interest
    desk.clients[0].on_event(p.Failed(JOB, "X", "late"))
    assert state.phase == "idle"
    assert state.error is None or "late" not in state.error.message
    assert desk.learn.learn()
    assert len(desk.clients) == 2


def test_pausing_and_going_on(desk: Desk, tmp_path: Path) -> None:
    learn, state = desk.learn, desk.state
    learn.pause()  # nothing runs
    learn.stop()
    learn.discard()
    assert not learn.resume()
    assert learn.learn()
    desk.hear(p.Ready(p.EngineInfo("cpu", "CPU", "2", 1)))
    desk.news(losses=(loss(1), loss(2)))
    learn.pause()
    learn.pause()  # once is enough
    assert desk.clients[0].requests[1:] == [p.Pause(JOB)]
    assert state.phase == "pausing"
    desk.hear(
        p.Call(JOB, "fine_tune", result=p.FineTuneResult(str(tmp_path / "run"), paused=True))
    )
    assert (state.phase, state.run) == ("paused", str(tmp_path / "run"))
    assert state.curves.losses
    assert desk.clients[0].closed
    assert not learn.running
    # what cannot be read cannot go on
    assert not learn.resume()
    assert state.phase == "idle"
    assert state.error is not None


def test_stopping_keeps_what_there_is(desk: Desk) -> None:
    assert desk.learn.learn()
    desk.learn.stop()
    desk.learn.stop()
    assert desk.clients[0].cancelled == [JOB]  # before there is anything
    assert desk.state.phase == "stopping"
    desk.hear(p.Ready(p.EngineInfo("cpu", "CPU", "2", 1)))
    assert desk.state.progress == JobProgress(0, 0, "keeping the best so far")
    desk.news(losses=(loss(1),))
    assert desk.state.phase == "stopping"


def test_a_run_that_goes_on_tells_its_curves_anew_and_then_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learn, state = desk.learn, desk.state
    asked = SimpleNamespace(base_name="tiny", name="mine")
    monkeypatch.setattr(learn_module, "read_asked", lambda _: asked)
    assert learn.learn()
    desk.news(plan=replace(PLAN, seconds=90.0), losses=(loss(1),))
    assert state.seconds_left == 90
    desk.news(losses=(loss(2),), rounds=(scored(1, 2),))
    learn.pause()
    paused = p.FineTuneResult(str(tmp_path / "run"), paused=True)
    desk.hear(p.Call(JOB, "fine_tune", result=paused))
    assert state.seconds_left is None
    assert learn.resume()
    assert not learn.resume()  # once
    (request,) = desk.clients[-1].requests
    assert request.name == "resume_fine_tuning"
    assert request.arguments == {"run": str(tmp_path / "run"), "preview": True}
    assert (state.phase, state.parent, state.name) == ("starting", "tiny", "mine")
    assert [point.step for point in state.curves.losses] == [1, 2]  # shown meanwhile
    desk.news(losses=(loss(1), loss(2)), rounds=(scored(1, 2),))
    assert [point.step for point in state.curves.losses] == [1, 2]
    assert len(state.curves.rounds) == 1
    assert state.phase == "starting"  # no step of this sitting yet
    desk.news(losses=(loss(3),))
    assert state.phase == "learning"
    assert [point.step for point in state.curves.losses] == [1, 2, 3]
    # the best of it lies on disk: it is kept, whether its engine is ready or not
    learn.stop()
    assert desk.clients[-1].requests[1:] == [p.StopAndKeep(JOB)]


def test_a_paused_run_is_stopped_or_deleted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = SimpleNamespace(base_name="tiny", name="mine")
    monkeypatch.setattr(learn_module, "read_asked", lambda _: asked)
    gone: list[Any] = []
    monkeypatch.setattr(learn_module, "discard_run", gone.append)
    paused = p.FineTuneResult(str(tmp_path / "run"), paused=True)
    assert desk.learn.learn()
    desk.learn.discard()  # not while it runs
    desk.hear(p.Call(JOB, "fine_tune", result=paused))
    desk.learn.stop()
    assert desk.clients[-1].requests[1:] == [p.StopAndKeep(JOB)]
    assert desk.state.phase == "stopping"
    desk.hear(p.Call(JOB, "fine_tune", result=paused))
    desk.learn.discard()
    assert desk.state.phase == "idle"
    desk.learn._background.close(wait=True, cancel=False)
    assert gone == [tmp_path / "run"]


@pytest.mark.parametrize("promoted", [True, False])
def test_what_became_of_a_run(desk: Desk, promoted: bool) -> None:
    change = Change(before=SCORE, after=SCORE)
    verdict = Verdict(promoted, "It is so.")
    assert desk.learn.learn()
    desk.news(losses=(loss(1),))
    desk.session.model = "other"  # chosen meanwhile
    assert desk.state.parent == "tiny"
    result = p.FineTuneResult(
        "/runs/1", False, "mine", "/models/mine", promoted, verdict, change, change, 12.0
    )
    desk.learn._fail(ErrorInfo("X", "of before"))
    desk.hear(p.Call(JOB, "fine_tune", result=result))
    state = desk.state
    outcome = state.outcome
    assert outcome is not None
    assert (outcome.parent, outcome.child, outcome.path) == ("tiny", "mine", "/models/mine")
    assert (outcome.aside, outcome.verdict, outcome.seconds) == (not promoted, verdict, 12.0)
    assert (state.phase, state.run, state.error) == ("idle", "", None)
    assert state.curves.losses  # are looked at
    assert not state.in_use
    desk.session.model = "mine"
    assert state.in_use
    assert state.parent == "mine"
    desk.learn.back_to_parent()
    assert desk.session.model == "tiny"
    desk.learn.dismiss_outcome()
    assert state.outcome is None
    assert not state.curves.losses
    assert not state.in_use


def test_a_model_that_tells_no_cells_apart_cannot_learn(desk: Desk) -> None:
    learn, state = desk.learn, desk.state
    card = SimpleNamespace(classes=("background", "cell"))
    desk.session.models = (SimpleNamespace(name="tiny", card=card),)
    learn._read(learn._reading, SetSummary(state.folder))
    assert "tiny does not tell cells apart (its classes are background, cell)" in state.problem
    learn._read(learn._reading, SetSummary(state.folder, problem="Nothing is kept."))
    assert state.problem == "Nothing is kept."
    # what was read before the last look is of no interest
    learn._read(learn._reading - 1, SetSummary(state.folder))
    assert state.problem == "Nothing is kept."
    assert not learn.learn()
    assert state.error is not None
    assert state.error.message == "Nothing is kept."


def test_the_set_is_read_anew_where_another_share_is_held_out(desk: Desk) -> None:
    learn, state = desk.learn, desk.state
    before = learn._reading
    learn.set_config(state.config.model_copy(update={"minutes": 2.0}))
    learn._kept("")
    learn._folder_chosen(state.folder)
    assert learn._reading == before
    learn.set_config(state.config.model_copy(update={"held_out": 0.4}))
    assert learn._reading == before + 1
    learn._kept("Kept one image.")
    assert learn._reading == before + 2


def test_names_that_are_taken_or_cannot_be_are_refused_before_anything_starts(
    desk: Desk,
) -> None:
    for name, words in (("tiny", "already"), ("a/b", "name")):
        desk.learn.set_child(name)
        assert not desk.learn.learn()
        assert words in desk.state.error.message
        desk.learn.dismiss_error()
        assert desk.state.error is None
    assert not desk.clients


def test_a_preview_is_asked_for_after_a_round_and_as_long_as_it_is_wanted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    hidden: list[str] = []
    monkeypatch.setattr(desk.learn._layers, "preview", lambda *given: asked.append(given))
    monkeypatch.setattr(desk.learn._layers, "hide", hidden.append)
    assert desk.learn.learn()
    desk.learn.set_preview(True)
    desk.news(preview="/runs/1/0")  # before the first round
    assert not asked
    desk.news(rounds=(scored(1, 10),), preview="/runs/1/1")
    desk.learn._previewed(1)
    assert asked == [("/runs/1/1", 1)]
    assert desk.state.previewed == 1
    hidden.clear()
    desk.learn.layer_gone("image", PREVIEW)  # a person deletes it: it would come back
    assert not desk.state.wants_preview
    assert (hidden, desk.state.previewed) == ([PREVIEW], 0)
    desk.news(rounds=(scored(2, 20),), preview="/runs/1/2")
    assert len(asked) == 1
    desk.learn._previewed(2)  # it was on its way
    assert desk.state.previewed == 0
    hidden.clear()
    desk.learn.layer_gone("image", DIFFERENCE)
    assert hidden == [DIFFERENCE]
