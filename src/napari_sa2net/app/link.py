"""One engine for all pages of a viewer: jobs go out, each event finds who asked for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from psygnal import Signal

from napari_sa2net.app.jobs import Job, JobBook, JobKind
from napari_sa2net.app.preview import RunTime
from napari_sa2net.app.session import ErrorInfo, JobProgress, Session, device_line
from napari_sa2net.app.time_left import TimeLeft
from napari_sa2net.engine import protocol as p
from napari_sa2net.engine.client import EngineClient
from napari_sa2net.errors import SettingsError

Call = Callable[[], None]

RUNS: tuple[JobKind, ...] = ("segment", "explain", "box", "compare")
"""Kinds that the one progress line tells of, and that Cancel stops; one at a time."""


class Client(Protocol):
    """The part of `EngineClient` that is used here."""

    def start(self) -> None: ...
    def restart(self) -> None: ...
    def submit(self, request: p.Request) -> None: ...
    def cancel(self, job: int, force: bool = True) -> None: ...
    def close(self) -> None: ...


class Answers(Protocol):
    """What a controller does when a job of its own ends."""

    def job_done(self, job: Job, result: Any) -> None: ...
    def job_failed(self, job: Job, error: ErrorInfo) -> None: ...
    def job_cancelled(self, job: Job) -> None: ...


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
