"""One engine for all pages of a viewer: jobs go out, each event finds who asked for it."""

from __future__ import annotations

import atexit
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from psygnal import Signal

from napari_sa2net.app.session import ErrorInfo, JobProgress, RunTime, Session, device_line
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.client import EngineClient
from napari_sa2net.errors import SettingsError

# --------------------------------------------------------------------------------------------
# Jobs in flight: numbers, and what each one is for.

JobKind = Literal[
    "warm_up",
    "segment",
    "derive",
    "measure",
    "measure_image",
    "confidence",
    "explain",
    "map_channel",
    "inspect",
    "what_if",
    "box",
    "level",
    "learn_preview",
    "learn_compare",
    "import",
    "compare",
]


@dataclass(frozen=True, eq=False)
class Job:
    """A job that was submitted.

    Attributes
    ----------
    key
        Of the result that it belongs to.
    request
        What was asked for, as the controller wants it back: of a run a `SegmentRequest`.
    """

    number: int
    kind: JobKind
    key: str = ""
    request: Any = None


class JobBook:
    """Numbers jobs and finds them again; a job that is not in it is stale."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}

    def open(
        self,
        kind: JobKind,
        key: str = "",
        request: Any = None,
    ) -> Job:
        """Enter a job and give it a number."""
        job = Job(next(self._numbers), kind, key, request)
        self._jobs[job.number] = job
        return job

    def get(self, number: int) -> Job | None:
        """The job of a number; None when it was closed or dropped."""
        return self._jobs.get(number)

    def close(self, number: int) -> Job | None:
        """Remove and return the job; None when it was dropped before."""
        return self._jobs.pop(number, None)

    def find(self, kind: JobKind, key: str | None = None) -> Job | None:
        """The newest open job of a kind (and of a key)."""
        for job in reversed(self._jobs.values()):
            if job.kind == kind and (key is None or job.key == key):
                return job
        return None

    def all(self, kind: JobKind | None = None) -> list[Job]:
        """Open jobs (of a kind)."""
        return [j for j in self._jobs.values() if kind is None or j.kind == kind]


# --------------------------------------------------------------------------------------------
# When what goes on will be over, by how long its parts have taken so far.


class TimeLeft:
    """Follows the progress of one run.

    Parameters
    ----------
    expected : RunTime, optional
        How long all of it would take; told where nothing better is known yet.
    """

    def __init__(self, expected: RunTime | None = None) -> None:
        self._ends = None
        # a wide range says nothing that could be counted down
        if expected is not None and expected.high <= 2 * expected.low:
            self._ends = time.monotonic() + expected.high
        self._first = self._last = JobProgress(0, 0, "")
        self._began = 0.0

    def of(self, progress: JobProgress) -> JobProgress:
        """The progress with the time at which it will be over."""
        now = time.monotonic()
        if progress.total != self._last.total or progress.done < self._last.done:
            self._first, self._began = progress, now
        self._last = progress
        parts = progress.done - self._first.done
        if not (progress.total and parts):
            return replace(progress, ends=self._ends)
        per_part = (now - self._began) / parts
        return replace(progress, ends=now + per_part * (progress.total - progress.done))


Call = Callable[[], None]

RUNS: tuple[JobKind, ...] = ("segment", "explain", "box", "compare")
"""Kinds that the one progress line tells of, and that Cancel stops; one at a time."""


class Client(Protocol):
    """The part of `EngineClient` that is used here."""

    def start(self) -> None:
        """Start the engine in the background."""

    def restart(self) -> None:
        """Start it again where it stays down."""

    def submit(self, request: p.Request) -> None:
        """Queue a request."""

    def cancel(self, job: int, force: bool = True) -> None:
        """Stop a job."""

    def close(self) -> None:
        """End the engine."""


class Answers(Protocol):
    """What a controller does when a job of its own ends."""

    def job_done(self, job: Job, result: Any) -> None:
        """A job is done."""

    def job_failed(self, job: Job, error: ErrorInfo) -> None:
        """A job failed."""

    def job_cancelled(self, job: Job) -> None:
        """A job was cancelled."""


def direct(call: Call) -> None:
    """Handle an event on the thread that brings it."""
    call()


class EngineLink:
    """Sends requests to the engine and hands its events to the controllers.

    Parameters
    ----------
    session
        Whose fields on engine, progress and error it keeps.
    dispatch
        Runs a function on the controllers' thread, later or now.
    make_client
        Makes the engine's client from a callback for its events.

    Attributes
    ----------
    lock
        Held while an event is handled; controllers hold it in their methods.
    jobs
        Jobs in flight, of all controllers.
    ready
        The engine runs and keeps nothing from before.
    died
        The engine is gone with all it kept.
    failed
        `ErrorInfo`, also in ``session.error``.
    """

    ready = Signal()
    died = Signal()
    failed = Signal(ErrorInfo)

    def __init__(
        self,
        session: Session,
        dispatch: Callable[[Call], None] = direct,
        make_client: Callable[[Callable[[p.Event], None]], Client] = EngineClient,
    ) -> None:
        self.session = session
        self.dispatch = dispatch
        self.lock = threading.RLock()
        self.jobs = JobBook()
        self.closed = False
        self._answers: dict[str, Answers] = {}
        self._generations: dict[str, int] = {}
        self._left = TimeLeft()
        self.client = make_client(self._on_event)

    # --- for the controllers ---------------------------------------------------------

    def answer(self, kinds: tuple[JobKind, ...], answers: Answers) -> None:
        """Hand the ends of jobs of these kinds to ``answers``."""
        self._answers.update(dict.fromkeys(kinds, answers))

    def submit(self, request: p.Request) -> None:
        """Queue a request; returns at once."""
        self.client.submit(request)

    def restart(self) -> None:
        """Start the engine again after it stayed down."""
        with self.lock:
            self.session.error = None
            self.client.restart()

    def run(self, job: Job, request: p.Request, expected: RunTime | None = None) -> None:
        """Submit a job that the progress line tells of; ``expected``: how long it takes."""
        waiting = self.session.engine in ("stopped", "starting")
        what = "getting ready" if waiting else "starting"
        self._left = TimeLeft(None if waiting else expected)
        self.session.error = None
        self.session.running = True
        self.session.progress = JobProgress(0, 0, what)
        self._engine_state()
        self.submit(request)

    def cancel_runs(self) -> None:
        """Cancel what the progress line tells of; politely, by force after a second."""
        with self.lock:
            for job in self._runs():
                self.session.progress = JobProgress(0, 0, "cancelling")
                self.client.cancel(job.number)

    def generation(self, image_key: str) -> int:
        """Number of an image's content; a result of an older one is stale."""
        return self._generations.get(image_key, 0)

    def outdate(self, image_key: str) -> None:
        """The image has other pixels, or is gone: what is still to come of it is stale."""
        self._generations[image_key] = self.generation(image_key) + 1
        for job in self._runs():
            if job.request is not None and job.request.source.key == image_key:
                # not by force, which would cost what the engine keeps of other images
                self.client.cancel(job.number, force=False)

    def fail(self, error: ErrorInfo) -> None:
        """Show an error on every page."""
        self.session.error = error
        self.failed.emit(error)

    def close(self) -> None:
        """End the engine; returns at once, and no event is handled any more."""
        self.closed = True
        self.session.engine = "stopped"
        self.client.close()

    # --- what the engine says --------------------------------------------------------

    def _on_event(self, event: p.Event) -> None:
        """On the client's thread."""
        self.dispatch(lambda: self._handle(event))

    def _handle(self, event: p.Event) -> None:
        with self.lock:
            if self.closed:
                return
            match event:
                case p.Starting():
                    self.session.engine = "starting"
                case p.Ready(info):
                    self.session.engine = "ready"
                    self.session.info = info
                    self.session.device_line = device_line(info)
                    self.ready.emit()
                case p.Progress(number, done, total, what):
                    job = self.jobs.get(number)
                    if job is not None and job.kind in RUNS:
                        self.session.progress = self._left.of(JobProgress(done, total, what))
                case p.Done(number, result):
                    self._end(number, lambda to, job: to.job_done(job, result))
                case p.Failed(number, kind, message, details):
                    error = ErrorInfo(kind, message, details)
                    self._end(number, lambda to, job: to.job_failed(job, error))
                case p.WasCancelled(number):
                    self._end(number, lambda to, job: to.job_cancelled(job))
                case p.Died(message, details, restarting):
                    self._died(ErrorInfo("EngineError", message, details), restarting)
                case _:
                    raise SettingsError(f"unknown event {event!r}")
            self._engine_state()

    def _end(self, number: int, tell: Callable[[Answers, Job], None]) -> None:
        job = self.jobs.close(number)
        if job is None:
            return
        if job.kind in RUNS and not self._runs():
            self.session.running = False
            self.session.progress = None
        tell(self._answers[job.kind], job)

    def _died(self, error: ErrorInfo, restarting: bool) -> None:
        self.session.info = None
        self.session.engine = "starting" if restarting else "down"
        self.died.emit()
        # A job that failed with the engine has said so already.
        if error.message and not (restarting and self.session.error is not None):
            self.fail(error)

    def _runs(self) -> list[Job]:
        return [job for job in self.jobs.all() if job.kind in RUNS]

    def _engine_state(self) -> None:
        if self.session.engine in ("ready", "busy"):
            self.session.engine = "busy" if self.session.running else "ready"


# --------------------------------------------------------------------------------------------
# Work of this process beside the engine's, on a thread of its own.


class Background:
    """Runs work one after another on a thread; what becomes of it is told on the link's.

    Parameters
    ----------
    link
        Its dispatch and lock.
    name
        Of the thread.
    """

    def __init__(self, link: EngineLink, name: str) -> None:
        self._link = link
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.closed = False

    def run(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], Any],
        failed: Callable[[Exception], Any],
    ) -> Future[Any]:
        """Run ``work``, then ``done`` with what it gives or ``failed`` with its error.

        Raises
        ------
        RuntimeError
            After `close`.
        """

        def tell(ended: Future[Any]) -> None:
            with self._link.lock:
                if self.closed or self._link.closed or ended.cancelled():
                    return
                error = ended.exception()
                if error is None:
                    done(ended.result())
                elif isinstance(error, Exception):
                    failed(error)

        future = self._worker.submit(work)
        future.add_done_callback(lambda ended: self._link.dispatch(lambda: tell(ended)))
        return future

    def close(self, wait: bool = False, cancel: bool = True) -> None:
        """Finish what is being done, and what waits unless ``cancel``; tell nothing more."""
        self.closed = True
        self._worker.shutdown(wait=wait, cancel_futures=cancel)


# --------------------------------------------------------------------------------------------
# Questions that come faster than their answers: the newest of each kind counts.


class Newest:
    """Asks the engine: one question of a kind in flight for a key, the newest waits.

    Of several that wait, only those with different ``about`` are all asked.
    """

    def __init__(self, link: EngineLink) -> None:
        self._link = link
        self._waiting: dict[tuple[JobKind, str], dict[Any, dict[str, Any]]] = {}

    def ask(self, kind: JobKind, key: str, about: Any, arguments: dict[str, Any]) -> None:
        """Call the engine's function ``kind`` now or when the one in flight has ended.

        ``about`` comes back as ``job.request``.
        """
        if self._link.jobs.find(kind, key) is not None:
            self._waiting.setdefault((kind, key), {})[about] = arguments
            return
        job = self._link.jobs.open(kind, key, about)
        self._link.submit(p.Call(job.number, kind, arguments, key))

    def ended(self, job: Job) -> None:
        """A job has ended: ask what waits for it."""
        waiting = self._waiting.get((job.kind, job.key))
        if waiting:
            about = next(iter(waiting))
            self.ask(job.kind, job.key, about, waiting.pop(about))

    def forget(self, key: str, kind: JobKind | None = None) -> None:
        """Ask nothing more of a key."""
        for one in [w for w in self._waiting if w[1] == key and kind in (None, w[0])]:
            del self._waiting[one]


# --------------------------------------------------------------------------------------------
# An engine process for one run of fine-tuning, beside the one that segments.

JOB = 1
"""Number of the only job of such an engine."""
LEAVE_S = 10.0
"""A run that nobody watches any more is given so long to write down where it stands."""

MakeClient = Callable[[Callable[[p.Event], None]], Client]
_TERMINAL = (p.Done, p.Failed, p.WasCancelled)


class Trainer:
    """Starts the process with `begin`, ends it with the run.

    Parameters
    ----------
    heard
        Called with every event, on a thread of the client's, until `end` or `leave`.
    make_client
        Makes the engine's client from a callback for its events.
    """

    def __init__(
        self, heard: Callable[[p.Event], None], make_client: MakeClient = EngineClient
    ) -> None:
        self._heard: Callable[[p.Event], None] | None = heard
        self.ready = False
        self._answered = threading.Event()
        self.client = make_client(self._on_event)

    def begin(self, request: p.Call) -> None:
        """Start the engine in the background and let it learn; returns at once."""
        self.client.start()
        self.client.submit(request)

    def pause(self) -> None:
        """Write the run to disk and end it; answered with a `FineTuneResult`, or cancelled."""
        if self.ready:
            self.client.submit(p.Pause(JOB))
        else:
            # torch is still being imported: there is nothing to write down
            self.client.cancel(JOB, force=False)

    def stop(self, resumed: bool = False) -> None:
        """End it with the best so far; answered so, or cancelled where there is nothing.

        ``resumed``: the best lies on disk already, so the engine has to start for it.
        """
        if self.ready or resumed:
            self.client.submit(p.StopAndKeep(JOB))
        else:
            self.client.cancel(JOB, force=False)

    def end(self) -> None:
        """End the process; nothing is heard any more."""
        self._heard = None
        self.client.close()

    def leave(self) -> None:
        """Pause without a listener, and end the process when that is done; returns at once.

        The interpreter waits for it before it ends.
        """
        self._heard = None
        if not self.ready or self._answered.is_set():
            self.client.close()
            return
        self.pause()
        _leaving.add(self)
        threading.Thread(target=self._wait, name="sa2net-leave", daemon=True).start()

    def _wait(self) -> None:
        self._answered.wait(LEAVE_S)
        self.client.close()
        _leaving.discard(self)

    def _on_event(self, event: p.Event) -> None:
        if isinstance(event, p.Ready):
            self.ready = True
        elif isinstance(event, _TERMINAL):
            self._answered.set()
        heard = self._heard
        if heard is not None:
            heard(event)


_leaving: set[Trainer] = set()


@atexit.register
def _wait_for_all() -> None:
    """Called before the clients end their engines by force, which registered earlier."""
    deadline = time.monotonic() + LEAVE_S
    for trainer in list(_leaving):
        trainer._answered.wait(max(0.0, deadline - time.monotonic()))
