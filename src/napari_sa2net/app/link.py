"""One engine for all pages of a viewer: jobs go out, each event finds who asked for it."""

from __future__ import annotations

import atexit
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from psygnal import Signal

from napari_sa2net.app.session import ErrorInfo, JobProgress, RunTime, Session, device_line
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.client import EngineClient
from napari_sa2net.errors import SettingsError

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


RUNS = ("segment", "explain", "box", "compare_models")
"""Kinds that the one progress line tells of, and that Cancel stops; one at a time."""


class Client(Protocol):
    """The part of `EngineClient` that is used here."""

    memory: int

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
    """What a controller does when a call of its own ends."""

    def job_done(self, call: p.Call, result: Any) -> None:
        """It is done."""

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """It failed."""

    def job_cancelled(self, call: p.Call) -> None:
        """It was cancelled."""


def direct(act: Callable[[], None]) -> None:
    """Handle an event on the thread that brings it."""
    act()


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
    calls
        Those in flight, of all controllers, by number; one that is not there is stale.
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
        dispatch: Callable[[Callable[[], None]], None] = direct,
        make_client: Callable[[Callable[[p.Event], None]], Client] = EngineClient,
    ) -> None:
        self.session = session
        self.dispatch = dispatch
        self.lock = threading.RLock()
        self.calls: dict[int, p.Call] = {}
        self._numbers = itertools.count(1)
        self.closed = False
        self._answers: dict[str, Answers] = {}
        self._hearers: dict[str, Callable[[p.Call, p.Progress], None]] = {}
        self._generations: dict[str, int] = {}
        self._left = TimeLeft()
        self.client = make_client(self._on_event)

    # --- for the controllers ---------------------------------------------------------

    def answer(self, kinds: tuple[str, ...], answers: Answers) -> None:
        """Hand the ends of calls of these kinds to ``answers``."""
        self._answers.update(dict.fromkeys(kinds, answers))

    def hear(self, kind: str, heard: Callable[[p.Call, p.Progress], None]) -> None:
        """Tell of the progress of calls of a kind that the one progress line does not show."""
        self._hearers[kind] = heard

    def submit(self, request: p.Request) -> None:
        """Queue a request; returns at once."""
        self.client.submit(request)

    def ask(
        self,
        name: str,
        arguments: dict[str, Any],
        key: str = "",
        kind: str = "",
        about: Any = None,
    ) -> int:
        """Call one of the engine's functions; the number of the call.

        Parameters
        ----------
        name, arguments, key
            As of `messages.Call`.
        kind
            Whose call it is, see `answer`; unsaid, the function's name.
        about
            What comes back with it: of a run a `SegmentRequest`.
        """
        number = next(self._numbers)
        call = p.Call(number, name, arguments, key, kind=kind or name, about=about)
        self.calls[number] = call
        self.client.submit(call)
        return number

    def asked(self, kind: str, key: str | None = None) -> list[p.Call]:
        """Calls in flight of a kind (and of a key)."""
        calls = self.calls.values()
        return [c for c in calls if c.kind == kind and key in (None, c.key)]

    def restart(self) -> None:
        """Start the engine again after it stayed down."""
        with self.lock:
            self.session.error = None
            self.client.restart()

    def run(
        self,
        name: str,
        arguments: dict[str, Any],
        key: str = "",
        expected: RunTime | None = None,
        **what: Any,
    ) -> int:
        """As `ask`, and the progress line tells of it; ``expected``: how long it takes."""
        waiting = self.session.engine in ("stopped", "starting")
        words = "getting ready" if waiting else "starting"
        self._left = TimeLeft(None if waiting else expected)
        self.session.error = None
        self.session.running = True
        self.session.progress = JobProgress(0, 0, words)
        self._engine_state()
        return self.ask(name, arguments, key, **what)

    def cancel_runs(self) -> None:
        """Cancel what the progress line tells of; politely, by force after a second."""
        with self.lock:
            for call in self._runs():
                self.session.progress = JobProgress(0, 0, "cancelling")
                self.client.cancel(call.job)

    def generation(self, image_key: str) -> int:
        """Number of an image's content; a result of an older one is stale."""
        return self._generations.get(image_key, 0)

    def outdate(self, image_key: str) -> list[p.Call]:
        """The image has other pixels, or is gone: what is still to come of it is stale.

        Returns
        -------
        list of Call
            Of those that the progress line tells of, whose results will be dropped now.
        """
        former = self.generation(image_key)
        self._generations[image_key] = former + 1
        about = [call for call in self._runs() if call.about is not None]
        stale = [
            call
            for call in about
            if (call.about.source.key, call.about.generation) == (image_key, former)
        ]
        for call in stale:
            # not by force, which would cost what the engine keeps of other images
            self.client.cancel(call.job, force=False)
        return stale

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
                    call = self.calls.get(number)
                    if call is not None and call.kind in RUNS:
                        self.session.progress = self._left.of(JobProgress(done, total, what))
                    elif call is not None and call.kind in self._hearers:
                        self._hearers[call.kind](call, event)
                case p.Call(number, result=result):
                    self._end(number, lambda to, call: to.job_done(call, result))
                case p.Failed(number, kind, message, details):
                    error = ErrorInfo(kind, message, details)
                    self._end(number, lambda to, call: to.job_failed(call, error))
                case p.WasCancelled(number):
                    self._end(number, lambda to, call: to.job_cancelled(call))
                case p.Died(message, details, restarting):
                    self._died(ErrorInfo("EngineError", message, details), restarting)
                case _:
                    raise SettingsError(f"unknown event {event!r}")
            self._engine_state()

    def _end(self, number: int, tell: Callable[[Answers, p.Call], None]) -> None:
        call = self.calls.pop(number, None)
        if call is None:
            return
        if call.kind in RUNS and not self._runs():
            self.session.running = False
            self.session.progress = None
        tell(self._answers[call.kind], call)

    def _died(self, error: ErrorInfo, restarting: bool) -> None:
        self.session.info = None
        self.session.engine = "starting" if restarting else "down"
        self.died.emit()
        # A job that failed with the engine has said so already.
        if error.message and not (restarting and self.session.error is not None):
            self.fail(error)

    def _runs(self) -> list[p.Call]:
        return [call for call in self.calls.values() if call.kind in RUNS]

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
        """Finish what is being done, and what waits unless ``cancel``; tell nothing more.

        ``wait`` for it, as `wait_a_while` does.
        """
        self.closed = True
        self._worker.shutdown(wait=False, cancel_futures=cancel)
        if wait:
            wait_a_while(self._worker.shutdown)


#: s; a window that closes waits so long for what is being written
CLOSE_S = 3.0
CLOSING = "sa2net-closing"  # name of the thread that does it


def wait_a_while(close: Callable[[], Any]) -> None:
    """Close something that may be slow, as a disk is, and wait for it some seconds at most.

    What takes longer goes on behind the window that closes.
    """
    closing = threading.Thread(target=close, name=CLOSING, daemon=True)
    closing.start()
    closing.join(CLOSE_S)


# --------------------------------------------------------------------------------------------
# Questions that come faster than their answers: the newest of each kind counts.


class Newest:
    """Asks the engine: one question of a kind in flight for a key, the newest waits.

    Of several that wait, only those with different ``about`` are all asked.
    """

    def __init__(self, link: EngineLink) -> None:
        self._link = link
        self._waiting: dict[tuple[str, str], dict[Any, dict[str, Any]]] = {}

    def ask(self, name: str, key: str, about: Any, arguments: dict[str, Any]) -> None:
        """Call the engine's function now or when the call in flight has ended."""
        if self._link.asked(name, key):
            self._waiting.setdefault((name, key), {})[about] = arguments
        else:
            self._link.ask(name, arguments, key, about=about)

    def ended(self, call: p.Call) -> None:
        """A call has ended: ask what waits for it."""
        waiting = self._waiting.get((call.name, call.key))
        if waiting:
            about = next(iter(waiting))
            self.ask(call.name, call.key, about, waiting.pop(about))

    def forget(self, key: str, kind: str | None = None) -> None:
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
_TERMINAL = (p.Call, p.Failed, p.WasCancelled)


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
        """Write the run to disk and end it; answered with a `FineTuneResult`.

        Before the first step, too: then the run begins anew when it goes on.
        """
        self.client.submit(p.Pause(JOB))

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
