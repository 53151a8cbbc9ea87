"""Jobs that a newer one outdates stop, and what is kept is bounded; no process, no network."""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_sa2net.config import CLASSES, OUTPUTS, InstanceConfig, PredictConfig
from napari_sa2net.data import plan_image
from napari_sa2net.engine import messages as p
from napari_sa2net.engine import service
from napari_sa2net.engine.cache import KeptResults
from napari_sa2net.engine.server import Server, failure
from napari_sa2net.engine.service import Handlers
from napari_sa2net.errors import Cancelled, ImageError, NotKeptError
from napari_sa2net.inference import segment as prediction
from napari_sa2net.inference import tiling
from napari_sa2net.inference.click import seen_at, seen_by_model
from napari_sa2net.inference.segment import Prediction

CARD = SimpleNamespace(classes=("background", "foreground"))
MODEL: Any = SimpleNamespace(card=CARD, name="none", sha256="")


class Patient:
    """Work that goes on until it is stopped."""

    def __init__(self) -> None:
        self.server: Any = None
        self.begun: list[int] = []
        self.began = threading.Event()

    def run(self, request: Any) -> str:
        self.begun.append(request.job)
        self.began.set()
        cancelled = self.server.cancelled(request.job)
        pause = threading.Event()
        for _ in range(500):
            if cancelled():
                raise Cancelled("stopped")
            pause.wait(0.01)
        return "ran to its end"

    def forget(self, key: str) -> None: ...


class Bench:
    """A server whose requests are put in by hand, and the events that it sends."""

    def __init__(self, folder: Path) -> None:
        self.theirs, ours = Pipe()
        self.work = Patient()
        self.server = self.work.server = Server(ours, [str(folder)])
        self.server._work = self.work  # type: ignore[assignment]
        self.threads: list[threading.Thread] = []

    def run(self, request: Any) -> None:
        """Begin with a request on a thread of its own."""
        self.work.began.clear()
        thread = threading.Thread(target=self.server._answer, args=(request,))
        thread.start()
        self.threads.append(thread)
        assert self.work.began.wait(60)

    def waiting(self) -> list[int]:
        return [request.job for request in self.server._queue]  # type: ignore[union-attr]

    def events(self) -> list[Any]:
        for thread in self.threads:
            thread.join(60)
        found = []
        while self.theirs.poll():
            found.append(self.theirs.recv())
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    for request in list(one.server._running):
        one.server._stopped.add(request.job)
    one.events()


KEYED = [
    lambda job, key: p.Call(job, "derive", {}, key),
    lambda job, key: p.Call(job, "map_channel", {"name": "aua_1"}, key),
    lambda job, key: p.Call(job, "inspect", {"label": 1, "labels": None}, key),
    lambda job, key: p.Call(job, "what_if", {}, key),
]


@pytest.mark.parametrize("make", KEYED)
def test_the_newest_stops_the_one_that_runs(bench: Bench, make: Any) -> None:
    bench.run(make(1, "a"))
    bench.server._take(make(2, "a"))
    assert bench.events() == [p.WasCancelled(1)]
    assert bench.waiting() == [2]


@pytest.mark.parametrize("make", KEYED)
def test_of_those_that_wait_only_the_newest_is_left(bench: Bench, make: Any) -> None:
    for job in (1, 2, 3):
        bench.server._take(make(job, "a"))
    assert bench.waiting() == [3]
    assert bench.events() == [p.WasCancelled(1), p.WasCancelled(2)]


def test_others_go_on(bench: Bench) -> None:
    bench.run(p.Call(1, "derive", {}, "a"))
    for other in (
        p.Call(2, "derive", {}, "b"),
        p.Call(3, "map_channel", {"name": "aua_1"}, "a"),
        p.Call(4, "warm_up"),
        p.Call(5, "measure", {}, "a"),
    ):
        bench.server._take(other)
    assert bench.waiting() == [2, 3, 4, 5]
    assert not bench.server.cancelled(1)()
    # a number that is used again is not stopped by what was said of the one before
    bench.server._take(p.Cancel(1))
    assert bench.events() == [p.WasCancelled(1)]
    assert not bench.server.cancelled(1)()


def test_what_is_quick_is_answered_one_after_the_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a long run, and none within another one, which would wait for it."""
    told: list[str] = []

    def run(request: Any) -> str:
        told.append(f"begins {request.job}")
        bench.server.between()
        told.append(f"ends {request.job}")
        return "done"

    monkeypatch.setattr(bench.work, "run", run)
    for call in (p.Call(2, "derive", {}, "a"), p.Call(3, "warm_up"), p.Call(4, "measure")):
        bench.server._take(call)
    bench.server._answer(p.Call(1, "segment"))
    assert told == ["begins 1", "begins 2", "ends 2", "begins 4", "ends 4", "ends 1"]
    assert bench.waiting() == [3]


def test_a_result_without_room_is_a_failure_that_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.work, "run", lambda request: np.zeros(10**5))
    full = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    bench.server._answer(p.Call(1, "derive", {}, "a"))
    (failed,) = bench.events()
    assert (failed.job, failed.kind) == (1, "EngineError")
    assert "no room" in failed.message
    assert "TMPDIR" in failed.message


def test_what_waits_is_cancelled_at_once_and_what_is_unknown_not_at_all(bench: Bench) -> None:
    for job in (1, 2, 3):
        bench.server._take(p.Call(job, "segment"))
    bench.server._take(p.Cancel(2))
    bench.server._take(p.Cancel(7))
    assert bench.waiting() == [1, 3]
    assert bench.events() == [p.WasCancelled(2)]
    assert not bench.server.cancelled(7)()


def test_a_job_knows_what_is_asked_of_it_and_whether_others_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def run(request: Any) -> str:
        told.append((bench.server.signal(1), bench.server.signal(2)))
        return "done"

    monkeypatch.setattr(bench.work, "run", run)
    assert not bench.server.is_waited_for()
    bench.server._take(p.Pause(1))
    bench.server._take(p.StopAndKeep(2))
    bench.server._take(p.Call(3, "derive"))  # is answered between two steps
    assert not bench.server.is_waited_for()
    bench.server._take(p.Call(4, "segment"))
    assert bench.server.is_waited_for()
    bench.server._answer(p.Call(1, "fine_tune"))
    assert told == [(p.Pause, p.StopAndKeep)]
    assert bench.server.signal(1) is None  # it has ended
    assert bench.server.signal(2) is p.StopAndKeep


@pytest.mark.parametrize("answer", ["pixels", "error", "cancel"])
def test_pixels_that_the_client_holds_are_asked_for_and_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    key = (slice(0, 2), 3)
    monkeypatch.setattr(
        bench.work, "run", lambda _: bench.server.read_region("image", key).tolist()
    )
    thread = threading.Thread(target=bench.server._answer, args=(p.Call(1, "segment"),))
    thread.start()
    bench.threads.append(thread)
    asked = bench.theirs.recv()
    assert (asked.source, asked.key) == ("image", key)
    bench.server._take(p.RegionData(asked.token + 1, None, "of another one"))
    if answer == "cancel":
        bench.server._take(p.Cancel(1))
    elif answer == "error":
        bench.server._take(p.RegionData(asked.token, None, "The file is gone."))
    else:
        bench.server._take(p.RegionData(asked.token, np.arange(2), ""))
    (event,) = bench.events()
    if answer == "cancel":
        assert event == p.WasCancelled(1)
    elif answer == "error":
        assert (event.kind, event.message) == ("ImageError", "The file is gone.")
    else:
        assert event.result == [0, 1]
    assert not bench.server._regions
    # what comes too late is dropped
    bench.server._take(p.RegionData(asked.token, np.arange(2), ""))
    assert not bench.server._regions


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ImageError("The image is flat."), "ImageError", "The image is flat."),
        (MemoryError(), "OutOfMemoryError", "choose smaller pieces"),
        (RuntimeError("CUDA Out of Memory. Tried"), "OutOfMemoryError", "the device 'cpu'"),
        (KeyError("a"), "KeyError", "went wrong (KeyError: 'a'). Run again"),
        (ValueError(), "ValueError", "went wrong (ValueError). Run again"),
        (ValueError("  \n one\ntwo"), "ValueError", "(ValueError: one). Run again"),
        (ValueError("x" * 900), "ValueError", f"(ValueError: {'x' * 200}). Run again"),
    ],
)
def test_a_failure_says_what_can_be_done(error: Exception, kind: str, words: str) -> None:
    failed = failure(5, error)
    assert (failed.job, failed.kind) == (5, kind)
    assert words in failed.message
    assert type(error).__name__ in failed.details


class Quiet:
    """A server that says that a job is outdated after some questions."""

    def __init__(self, patience: int) -> None:
        self.patience, self.asked = patience, 0

    def cancelled(self, job: int) -> Any:
        def ask() -> bool:
            self.asked += 1
            return self.asked > self.patience

        return ask


def kept_stack(n: int = 6) -> Prediction:
    probability = np.zeros((n, 2, 24, 24), np.float32)
    probability[:, 1, 4:16, 4:16] = 0.9
    probability[:, 0] = 1 - probability[:, 1]
    image = np.zeros((n, 24, 24), np.uint8)
    plan = plan_image(image, in_channels=1).part(None, (0, 24, 0, 24))
    return Prediction(plan, probability, MODEL, PredictConfig())


def test_an_outdated_derivation_stops_between_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Quiet(3)
    handlers = Handlers(server)  # type: ignore[arg-type]
    kept = kept_stack()
    handlers.kept.put("a", kept)
    planes: list[int] = []
    whole = prediction.label_stack

    def watched(*args: Any, **options: Any) -> Any:
        return whole(*args, **{**options, "progress": lambda done, *_: planes.append(done)})

    monkeypatch.setattr(prediction, "label_stack", watched)
    with pytest.raises(Cancelled):
        handlers.derive(1, "a", InstanceConfig(min_size=1))
    assert planes == [1, 2, 3]
    # half of the planes are no result
    assert kept.last is None
    made = kept.labels(InstanceConfig(min_size=1), lambda: False)
    assert [len(np.unique(plane)) for plane in made] == [2] * 6
    assert planes[3:] == [1, 2, 3, 4, 5, 6]


def test_clicks_are_answered_while_learning_is_being_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded, begun, answered = threading.Event(), [], []

    class Asked(Quiet):
        """Between two looks somebody clicks; after three of them what is needed is there."""

        def between(self) -> None:
            answered.append(len(answered))
            if len(answered) == 5:
                loaded.set()

        def is_waited_for(self) -> bool:
            return len(answered) == 2

    def load() -> None:
        begun.append(1)
        assert loaded.wait(60)

    monkeypatch.setattr(service, "load_learning", load)
    handlers = Handlers(Asked(10**6))  # type: ignore[arg-type]
    box = (0, 24, 0, 24)
    plane = np.zeros((24, 24), np.int32)
    plane[4:16, 4:16] = 1
    handlers.kept.put("a", kept_stack())
    taught = (p.TaughtCell(1, plane, box),)

    def teach() -> Any:
        window = p.Window(index=(0,))
        return handlers.teach_clicks(1, "b", taught, 12.0, "a", window, model="none")

    monkeypatch.setattr("napari_sa2net.training.click.learned_clicks", lambda *_: None)
    # somebody waits for something else: it is done first, and the loading goes on beside it
    with pytest.raises(Cancelled):
        teach()
    assert answered == [0, 1]
    assert teach() == ()
    assert len(answered) >= 5
    assert begun == [1]
    assert teach() == ()
    assert begun == [1]


class Plan:
    """In place of a plan, with an image so large."""

    def __init__(self, n_bytes: int = 0) -> None:
        self.image = np.zeros(n_bytes, np.uint8)


def kept_of(n_bytes: int, plan: Plan | None = None) -> Prediction:
    probability = np.zeros(n_bytes, np.uint8)
    return Prediction(plan or Plan(), probability, MODEL, PredictConfig())  # type: ignore[arg-type]


def test_results_take_the_memory_that_is_given(monkeypatch):
    monkeypatch.setattr(tiling, "MEMORY_LIMIT", tiling.MEMORY_LIMIT)
    usual = Handlers(server=None)
    assert (usual.kept._max_bytes, tiling.MEMORY_LIMIT) == (3 * 2**29, 2**30)
    less = Handlers(server=None, memory=3 * 2**19)
    assert (less.kept._max_bytes, tiling.MEMORY_LIMIT) == (3 * 2**19, 2**20)


def keys(results: KeptResults, names: str) -> str:
    return "".join(name for name in names if name in results._kept)


def test_memory_of_what_is_kept_is_bounded() -> None:
    results = KeptResults(max_bytes=100)
    plans = {}

    def put(name: str) -> None:
        plan = Plan(10)
        plans[name] = weakref.ref(plan)
        results.put(name, kept_of(20, plan))

    for name in "abc":
        put(name)
    assert keys(results, "abc") == "abc"
    # just as much as there is room for, no more: the least recently used makes room
    results.get("a")
    put("d")
    assert keys(results, "abcd") == "acd"
    assert [name for name in "abcd" if plans[name]() is None] == ["b"]
    with pytest.raises(NotKeptError):
        results.get("b")
    # the newest is kept however large it is, and alone then
    results.put("e", kept_of(500))
    assert keys(results, "abcde") == "e"
    assert all(plan() is None for plan in plans.values())


def test_what_counts_is_what_is_in_memory() -> None:
    results = KeptResults(max_bytes=100)
    first = kept_of(40)
    results.put("a", first)
    results.put("b", kept_of(40))
    assert len(results) == 2
    # labels of a result are as large as it
    first.last = (InstanceConfig(), np.zeros(40, np.uint8))
    assert first.n_bytes == 80
    results.put("c", kept_of(20))
    assert keys(results, "abc") == "bc"
    # and those on disk do not count
    stored = kept_of(0)
    stored.probability = object()
    assert stored.n_bytes == 0


def test_the_number_of_kept_results_is_bounded_too() -> None:
    results = KeptResults()
    for name in "abcdefgh":
        results.put(name, kept_of(1))
    assert keys(results, "abcdefgh") == "cdefgh"
    results.put("c", kept_of(1))
    assert len(results) == 6


def test_a_result_that_takes_a_name_again_replaces_the_former() -> None:
    results = KeptResults()
    plan = Plan()
    results.put("a", kept_of(1, plan))
    former = weakref.ref(plan)
    del plan
    results.put("a", kept_of(1))
    assert former() is None
    assert len(results) == 1


def test_a_result_that_was_made_again_is_the_newest() -> None:
    results = KeptResults(max_results=2)
    for name in "aba":
        results.put(name, kept_of(1))
    results.put("c", kept_of(1))
    assert keys(results, "abc") == "ac"


def test_probabilities_for_a_click_are_those_of_its_place() -> None:
    """Of what was predicted only, and of its pixels; other classes than ours give the cell."""
    plan = plan_image(np.zeros((3, 20, 30), np.uint8), "ZYX").part((2,), (5, 15, 8, 28))
    probability = np.random.default_rng(0).random((1, 4, 10, 20)).astype(np.float32)
    probability[0, 1] = 1 - probability[0, 0]
    three, four = (
        SimpleNamespace(card=SimpleNamespace(classes=names), name="", sha256="")
        for names in (CLASSES, OUTPUTS)
    )
    part, nothing = probability[0, :, 1:4, 3:9], np.zeros((3, 6))
    models: Any = (
        (four, part[1:]),
        (three, np.stack([part[1], part[2], nothing])),
        (MODEL, np.stack([part[1], nothing, nothing])),
    )
    for model, wanted in models:
        own = probability[:, : len(model.card.classes)]
        made = Prediction(plan, own, model, PredictConfig())
        found = seen_by_model(made, (2,), (6, 9, 11, 17))
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert seen_by_model(made, (2,), (5, 15, 8, 28)) is not None
        for index, box in (
            ((1,), (6, 9, 11, 17)),
            ((3,), (6, 9, 11, 17)),
            ((2,), (4, 9, 11, 17)),
            ((2,), (6, 16, 11, 17)),
            ((2,), (6, 9, 7, 17)),
            ((2,), (6, 9, 11, 29)),
        ):
            assert seen_by_model(made, index, box) is None, (index, box)


@pytest.mark.parametrize(("channels", "seen"), [(1, (0, 0, 0)), (2, (0, 1, 1)), (4, (0, 1, 2))])
def test_a_click_sees_three_channels_of_a_model_of_any_number(
    channels: int, seen: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).random((channels, 20, 30)).astype(np.float32)
    plan = plan_image(values, "CYX", in_channels=channels)
    image, predicted = seen_at(plan, None, (), (2, 12, 3, 23))
    assert predicted is None
    np.testing.assert_array_equal(image, plan.read((), 2, 12, 3, 23)[list(seen)])


def test_an_image_of_a_folder_tells_how_far_it_is_and_ends_where_it_is_cancelled() -> None:
    told: list[Any] = []
    stop: list[int] = []
    handlers: Any = SimpleNamespace(
        reporter=lambda job: lambda *news: told.append((job, *news)),
        cancelled=lambda job: lambda: job in stop,
    )
    news = service._FileNews(handlers, 7)
    news.step(1, 4, "segmenting")
    news.note("a", "said on the shell alone")
    assert told == [(7, 1, 4, "segmenting")]
    stop.append(7)
    with pytest.raises(Cancelled, match="what was done before is kept"):
        news.step(2, 4, "segmenting")
    assert len(told) == 1
