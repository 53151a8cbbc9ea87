"""One link of all pages to the engine: who is told of what, and what state it is in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from napari_sa2net.app import link as link_module
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.folder import FolderController
from napari_sa2net.app.learn import LearnController
from napari_sa2net.app.link import JOB, RUNS, Background, EngineLink, Trainer
from napari_sa2net.app.models import ModelsController
from napari_sa2net.app.saving import Saving
from napari_sa2net.app.see_why import ExplainController
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import ErrorInfo, JobProgress, RunTime, Session
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import SettingsError

INFO = p.EngineInfo("cpu", "CPU", "2.9", 1)


class Client:
    """Notes what is asked of it."""

    memory = 0

    def __init__(self, on_event: Any) -> None:
        self.on_event = on_event
        self.requests: list[Any] = []
        self.cancelled: list[Any] = []
        self.did: list[str] = []
        self.ended = threading.Event()

    def start(self) -> None:
        self.did.append("start")

    def restart(self) -> None:
        self.did.append("restart")

    def submit(self, request: Any) -> None:
        self.requests.append(request)

    def cancel(self, job: int, force: bool = True) -> None:
        self.cancelled.append((job, force))

    def close(self) -> None:
        self.did.append("close")
        self.ended.set()


class Page:
    """Notes how its calls end."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def job_done(self, call: p.Call, result: Any) -> None:
        self.told.append(("done", call.job, call.about, result))

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        self.told.append(("failed", call.job, call.about, error))

    def job_cancelled(self, call: p.Call) -> None:
        self.told.append(("cancelled", call.job, call.about))


class Line:
    """A link with one page."""

    def __init__(self) -> None:
        self.session = Session()
        self.link = EngineLink(self.session, make_client=Client)
        self.client: Any = self.link.client
        self.page = Page()
        self.link.answer(("derive", "segment", "map"), self.page)

    def hear(self, event: Any) -> None:
        self.client.on_event(event)

    def done(self, job: int, result: Any = None) -> None:
        self.hear(p.Call(job, "any", result=result))


@pytest.fixture
def line() -> Line:
    return Line()


def about(key: str, generation: int) -> Any:
    return SimpleNamespace(source=SimpleNamespace(key=key), generation=generation)


def test_each_end_finds_who_asked_once(line: Line) -> None:
    jobs = [line.link.ask("derive", {"a": n}, "key", about=n) for n in range(3)]
    assert [request.arguments for request in line.client.requests] == [
        {"a": n} for n in range(3)
    ]
    assert len(set(jobs)) == 3
    assert [call.job for call in line.link.asked("derive")] == jobs
    assert line.link.asked("derive", "other") == line.link.asked("segment") == []
    line.done(jobs[1], "labels")
    line.hear(p.Failed(jobs[0], "ImageError", "It is flat.", "where"))
    line.hear(p.WasCancelled(jobs[2]))
    line.done(jobs[1], "again")  # nobody waits for it
    line.hear(p.WasCancelled(99))
    assert line.page.told == [
        ("done", jobs[1], 1, "labels"),
        ("failed", jobs[0], 0, ErrorInfo("ImageError", "It is flat.", "where")),
        ("cancelled", jobs[2], 2),
    ]
    assert not line.link.calls


def test_a_kind_of_its_own_has_answers_of_its_own(line: Line) -> None:
    other = Page()
    line.link.answer(("box",), other)
    job = line.link.ask("segment", {}, kind="box")
    assert line.link.asked("box", "")
    assert not line.link.asked("segment")
    line.done(job)
    assert other.told
    assert not line.page.told


@pytest.mark.parametrize(
    ("before", "words"), [("starting", "getting ready"), ("ready", "starting")]
)
def test_the_line_of_progress_is_of_runs(line: Line, before: str, words: str) -> None:
    session = line.session
    line.hear(p.Starting())
    assert session.engine == "starting"
    if before == "ready":
        line.hear(p.Ready(INFO))
        assert session.engine == "ready"
        assert session.info == INFO
        assert session.device_line
    line.link.fail(ErrorInfo("X", "of the last run"))
    job = line.link.run("segment", {})
    assert session.error is None
    assert session.running
    assert session.progress == JobProgress(0, 0, words)
    assert session.engine == ("busy" if before == "ready" else "starting")
    line.hear(p.Ready(INFO))
    assert session.engine == "busy"
    line.hear(p.Progress(job, 2, 8, "segmenting"))
    assert session.progress == JobProgress(2, 8, "segmenting")
    other = line.link.ask("derive", {})
    line.hear(p.Progress(other, 1, 2, "deriving"))
    line.hear(p.Progress(99, 1, 2, "of nobody"))
    assert session.progress == JobProgress(2, 8, "segmenting")
    line.done(other)
    assert session.running
    line.done(job)
    assert not session.running
    assert session.progress is None
    assert session.engine == "ready"


def test_of_two_runs_the_line_is_there_until_the_last(line: Line) -> None:
    line.hear(p.Ready(INFO))
    jobs = [line.link.run("segment", {}) for _ in range(2)]
    line.done(jobs[0])
    assert line.session.running
    assert line.session.engine == "busy"
    line.hear(p.WasCancelled(jobs[1]))
    assert not line.session.running


def test_progress_of_other_kinds_is_told_to_who_hears_of_it(line: Line) -> None:
    heard: list[Any] = []
    line.link.hear("map", lambda call, event: heard.append((call.job, event.done)))
    job = line.link.ask("map", {})
    line.hear(p.Progress(job, 1, 2, "learning"))
    assert heard == [(job, 1)]
    assert line.session.progress is None


def test_a_run_is_known_to_end_when_it_was_expected_to(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module.time, "monotonic", lambda: 100.0)
    for engine, ends in (("ready", 104.0), ("starting", None), ("stopped", None)):
        line.session.engine = engine
        job = line.link.run("segment", {}, expected=RunTime(2.0, 4.0))
        words = "starting" if engine == "ready" else "getting ready"
        assert line.session.progress == JobProgress(0, 0, words)
        line.hear(p.Progress(job, 0, 8, "segmenting"))
        assert line.session.progress is not None
        assert line.session.progress.ends == ends
    job = line.link.run("segment", {}, expected=RunTime(1.9, 4.0))  # too wide to count down
    line.hear(p.Progress(job, 0, 8, "segmenting"))
    assert line.session.progress is not None
    assert line.session.progress.ends is None


def test_cancel_stops_the_runs_alone(line: Line) -> None:
    line.link.ask("derive", {})
    job = line.link.run("segment", {})
    line.link.cancel_runs()
    assert line.client.cancelled == [(job, True)]  # by force where it does not stop
    assert line.session.progress == JobProgress(0, 0, "cancelling")
    line.hear(p.WasCancelled(job))
    line.client.cancelled.clear()
    line.link.cancel_runs()
    assert not line.client.cancelled
    assert line.session.progress is None


def test_what_is_of_other_pixels_now_is_stopped_politely(line: Line) -> None:
    assert line.link.generation("a") == 0
    jobs = [
        line.link.run("segment", {}, about=about(key, generation))
        for key, generation in (("a", 0), ("b", 0), ("a", 1))
    ]
    line.link.run("segment", {})  # of no image
    line.link.ask("derive", {}, about=about("a", 0))  # no run
    stale = line.link.outdate("a")
    assert [call.job for call in stale] == [jobs[0]]
    assert line.client.cancelled == [(jobs[0], False)]
    assert (line.link.generation("a"), line.link.generation("b")) == (1, 0)
    assert [call.job for call in line.link.outdate("a")] == [jobs[2]]


@pytest.mark.parametrize("restarting", [True, False])
def test_an_engine_that_died_is_told_of_once(line: Line, restarting: bool) -> None:
    told: list[Any] = []
    line.link.died.connect(lambda: told.append("died"))
    line.link.failed.connect(lambda error: told.append(error.message))
    line.hear(p.Ready(INFO))
    line.hear(p.Died("It stopped.", "trace", restarting))
    assert told == ["died", "It stopped."]
    assert line.session.error == ErrorInfo("EngineError", "It stopped.", "trace")
    assert line.session.info is None
    assert line.session.engine == ("starting" if restarting else "down")
    line.hear(p.Died("It stopped again.", "", restarting))
    # of one that comes back by itself the error that is shown says enough
    again = [] if restarting else ["It stopped again."]
    assert told == ["died", "It stopped.", "died", *again]
    line.link.restart()
    assert line.session.error is None
    assert line.client.did == ["restart"]


def test_an_engine_that_was_ended_says_nothing(line: Line) -> None:
    line.hear(p.Died("", "", False))
    assert line.session.error is None
    assert line.session.engine == "down"


def test_nothing_is_heard_after_the_end(line: Line) -> None:
    job = line.link.ask("derive", {})
    line.hear(p.Ready(INFO))
    line.link.close()
    line.done(job)
    line.hear(p.Starting())
    assert not line.page.told
    assert line.session.engine == "stopped"
    assert line.client.did == ["close"]


def test_what_no_engine_says_is_an_error(line: Line) -> None:
    with pytest.raises(SettingsError, match="unknown event 'x'"):
        line.hear("x")


def test_every_run_has_a_line() -> None:
    assert set(RUNS) == {"segment", "explain", "box", "compare_models"}


# --- work beside the engine's ----------------------------------------------------------------


@pytest.fixture
def background(line: Line) -> Iterator[Background]:
    one = Background(line.link, "test")
    yield one
    one.close(wait=True)


def test_work_is_done_in_its_order_and_its_end_is_told(background: Background) -> None:
    told: list[Any] = []
    last = threading.Event()

    def broken() -> None:
        raise ValueError("no")

    background.run(lambda: 1, told.append, told.append)
    background.run(broken, told.append, told.append)
    background.run(lambda: 3, lambda n: (told.append(n), last.set()), told.append)
    assert last.wait(30)
    one, error, three = told
    assert (one, str(error), three) == (1, "no", 3)


@pytest.mark.parametrize("cancel", [True, False])
def test_what_waits_at_the_end_is_done_unless_cancelled(line: Line, cancel: bool) -> None:
    one = Background(line.link, "test")
    told: list[Any] = []
    did: list[int] = []
    go = threading.Event()
    one.run(lambda: (go.wait(30), did.append(1)), told.append, told.append)
    one.run(lambda: did.append(2), told.append, told.append)
    one.close(cancel=cancel)
    go.set()
    one.close(wait=True, cancel=False)
    assert did == [1] if cancel else [1, 2]
    assert not told
    with pytest.raises(RuntimeError):
        one.run(lambda: None, told.append, told.append)


def test_a_slow_disk_does_not_hold_a_window_that_closes(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "CLOSE_S", 0.05)
    one = Background(line.link, "test")
    go, written = threading.Event(), threading.Event()
    one.run(lambda: (go.wait(30), written.set()), pytest.fail, pytest.fail)
    one.close(wait=True, cancel=False)
    assert not written.is_set()
    go.set()
    assert written.wait(30)


def test_nothing_is_told_when_the_link_is_closed(line: Line, background: Background) -> None:
    told: list[Any] = []
    line.link.close()
    background.run(lambda: 1, told.append, told.append).result(30)
    background.close(wait=True)
    assert not told


def test_pages_that_close_leave_no_thread_at_work(
    line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))
    made: list[Background] = []
    begin = Background.__init__

    def noted(self: Background, *given: Any) -> None:
        made.append(self)
        begin(self, *given)

    monkeypatch.setattr(Background, "__init__", noted)
    segment, correct = SegmentController(line.link), CorrectController(line.link)
    pages: list[Any] = [segment, correct, ExplainController(segment), ModelsController(segment)]
    pages.append(LearnController(segment, correct))
    pages.append(FolderController(line.link, lambda: tmp_path))
    pages.append(Saving(line.link))
    assert len(made) >= 7
    for page in reversed(pages):
        page.close()
    assert all(one.closed and one._worker._shutdown for one in made)
    assert correct.keeping is not None
    files: Any = correct._files
    assert files._reader._shutdown
    assert files._teller._shutdown


# --- an engine that learns -------------------------------------------------------------------


def trainer(heard: list[Any]) -> Any:
    one: Any = Trainer(heard.append, Client)
    one.begin(p.Call(JOB, "fine_tune"))
    return one


def test_a_run_is_stopped_as_far_as_it_has_come() -> None:
    heard: list[Any] = []
    one = trainer(heard)
    assert one.client.did == ["start"]
    one.stop()  # before it is ready there is nothing to keep
    assert one.client.cancelled == [(JOB, False)]
    one.stop(resumed=True)
    assert one.client.requests[1:] == [p.StopAndKeep(JOB)]
    one.client.on_event(p.Ready(INFO))
    one.stop()
    one.pause()
    assert one.client.requests[2:] == [p.StopAndKeep(JOB), p.Pause(JOB)]
    assert len(one.client.cancelled) == 1
    assert heard == [p.Ready(INFO)]
    one.end()
    one.client.on_event(p.WasCancelled(JOB))
    assert len(heard) == 1
    assert one.client.did == ["start", "close"]


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_run_that_is_left_writes_down_where_it_stands(when: str) -> None:
    heard: list[Any] = []
    one = trainer(heard)
    if when != "before":
        one.client.on_event(p.Ready(INFO))
    if when == "after":
        one.client.on_event(p.Failed(JOB, "X", "no"))
    n = len(heard)
    one.leave()
    assert (one in link_module._leaving) == (when == "during")
    if when == "during":
        assert one.client.requests[-1] == p.Pause(JOB)
        assert not one.client.ended.is_set()
        one.client.on_event(p.Call(JOB, "fine_tune"))
    assert one.client.ended.wait(30)
    assert (p.Pause(JOB) in one.client.requests) == (when == "during")
    assert len(heard) == n  # nobody listens any more


def test_a_run_that_does_not_answer_is_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "LEAVE_S", 0.05)
    one = trainer([])
    one.client.on_event(p.Ready(INFO))
    one.leave()
    assert one.client.ended.wait(30)


def test_the_interpreter_waits_for_all_that_write_but_not_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, waited = [0.0], []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += min(seconds, 7.0)

    writes = SimpleNamespace(_answered=SimpleNamespace(wait=wait))
    monkeypatch.setattr(link_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(link_module, "_leaving", [writes] * 3)
    link_module._wait_for_all()
    assert waited == [10.0, 3.0, 0.0]
