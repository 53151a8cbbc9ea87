"""napari's side of the engine: starts it, talks to it, starts it again when it dies.

Nothing here blocks the caller. One thread starts the engine and reads its events, one shares
images and sends requests, one serves regions of lazy images.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from napari_sa2net.engine import messages as p
from napari_sa2net.engine.arrays import Packed, Sources, prepare, read_region, source_name
from napari_sa2net.engine.process import EXIT_NO_TORCH, Link, describe_end
from napari_sa2net.errors import Cancelled, EngineError, SA2NetError

# --------------------------------------------------------------------------------------------
# What the client remembers of jobs, and tells of them itself.


@dataclass
class OpenJob:
    """A job without an answer yet.

    Attributes
    ----------
    source, kept
        Name of its image, and whether the engine goes on to ask for that when it is done.
    """

    source: str
    kept: bool
    sent: bool = False
    cancelled: bool = False
    timer: threading.Timer | None = None


@dataclass(frozen=True)
class Tell:
    """Not a request: an event to be told from a thread of ours."""

    event: p.WasCancelled


_log = logging.getLogger(__name__)

GRACE_S = 1.0
"""A cancelled job that has not stopped by then is stopped by force."""
MAX_CRASHES, CRASH_WINDOW_S = 3, 60.0
"""So many crashes within so many seconds, and the engine stays down."""

_TERMINAL = (p.Call, p.Failed, p.WasCancelled)


class EngineClient:
    """Client of one engine process.

    Parameters
    ----------
    on_event
        Called with every event, one at a time, on a thread of the client's. Every job that
        was submitted comes back itself or gets one `Failed` or `WasCancelled`, also when the
        engine dies; after `close`, nothing is called.
    python
        Interpreter of the engine; this one if not given.

    Attributes
    ----------
    memory
        Bytes that results may take, of an engine that is started from now on; 0 for the
        usual ones.
    """

    def __init__(self, on_event: Callable[[p.Event], None], python: str | None = None) -> None:
        self._on_event = on_event
        self._python = python or sys.executable
        self.memory = 0
        self._emitting = threading.RLock()
        self._state = threading.Condition()
        self._outbox: deque[p.Request | Tell] = deque()
        self._regions: deque[tuple[Link, p.ReadRegion]] = deque()
        self._jobs: dict[int, OpenJob] = {}
        self._sources: Sources = {}
        self._link: Link | None = None
        self._ready = False
        self._forced = False
        self._down: EngineError | None = None
        self._crashes: deque[float] = deque(maxlen=MAX_CRASHES)
        self._threads: list[threading.Thread] = []
        self._closed = False
        _alive.add(self)

    @property
    def pid(self) -> int | None:
        """Process id of the engine while it is connected."""
        link = self._link
        return link.process.pid if link is not None else None

    def start(self) -> None:
        """Start the engine in the background; returns at once. Once is enough."""
        with self._state:
            if self._threads or self._closed:
                return
            self._thread(self._boot, "sa2net-engine")

    def restart(self) -> None:
        """Start the engine again where it stays down; else do nothing but `start`."""
        self.start()
        with self._state:
            self._crashes.clear()
            self._down = None
            self._state.notify_all()

    def submit(self, request: p.Request) -> None:
        """Queue a request; returns at once. Images and labels in it may be any array."""
        with self._state:
            if self._closed:
                return
            if isinstance(request, p.Call):
                self._jobs[request.job] = OpenJob(source_name(request), bool(request.key))
            elif isinstance(request, p.Forget):
                self._sources.pop(request.key, None)
            self._outbox.append(request)
            self._state.notify_all()

    def cancel(self, job: int, force: bool = True) -> None:
        """Stop a job at the next tile or plane.

        With ``force``, one that has not stopped after a second is stopped by ending the
        engine, which starts again without what it kept.
        """
        with self._state:
            entry = self._jobs.get(job)
            if entry is None:
                return
            if not entry.cancelled:
                entry.cancelled = True
                # One that was not sent yet never will be.
                event = p.Cancel(job) if entry.sent else Tell(p.WasCancelled(job))
                self._outbox.appendleft(event)
            if force and entry.sent and entry.timer is None:
                entry.timer = threading.Timer(GRACE_S, self._force, (job,))
                entry.timer.daemon = True
                entry.timer.start()
            self._state.notify_all()

    def close(self, timeout: float = 0.0) -> None:
        """End the engine, by force after a second, and free everything.

        Returns at once, or waits up to ``timeout`` seconds until all is gone.
        """
        with self._state:
            if not self._closed:
                self._closed = True
                for job in self._jobs.values():
                    if job.timer is not None:
                        job.timer.cancel()
                self._jobs.clear()
                self._outbox.clear()
                self._sources.clear()
                self._thread(self._end, "sa2net-end")
            self._state.notify_all()
        deadline = time.monotonic() + timeout
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    # --- starting, reading, ending -----------------------------------------------------

    def _thread(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()  # first: another thread may close the client and wait for all
        self._threads.append(thread)

    def _boot(self) -> None:
        # Give the interpreter's lock back to the caller of `start` before anything else.
        time.sleep(0.005)
        self._thread(self._send_all, "sa2net-send")
        self._thread(self._serve_regions, "sa2net-regions")
        self._supervise()

    def _supervise(self) -> None:
        while not self._closed:
            self._emit(p.Starting())
            link: Link | None = None
            failure: EngineError | None = None
            try:
                link = Link(self._python, self.memory)
                with self._state:
                    self._link = link
                if self._closed:
                    break
                link.connect()
                with self._state:
                    self._ready = True
                    self._state.notify_all()
                self._read(link)
            except EngineError as error:
                _log.debug("engine: %s", error)
                failure = error
            self._engine_gone(link, failure)
        with self._state:
            link, self._link = self._link, None
        if link is not None:
            link.end()

    def _read(self, link: Link) -> None:
        while True:
            try:
                event = link.pipe.receive()
            except (EOFError, OSError):
                return
            except Exception:
                if self._closed:  # and the pipe with it, in the middle of a read
                    return
                # What cannot be unpickled leaves the pipe in an unknown state.
                _log.exception("the engine sent what cannot be read")
                link.kill()
                return
            if isinstance(event, p.ReadRegion):
                with self._state:
                    self._regions.append((link, event))
                    self._state.notify_all()
            elif isinstance(event, _TERMINAL):
                self._finish(event)
            else:
                self._emit(event)

    def _engine_gone(self, link: Link | None, failure: EngineError | None) -> None:
        status = link.end() if link is not None else None
        details = link.last_words() if link is not None else ""
        with self._state:
            self._link = None
            self._ready = False
            if self._closed:
                return
            forced, self._forced = self._forced, False
            answers: list[p.Event] = []
            message = describe_end(status) if status is not None else str(failure)
            for number, job in self._jobs.items():
                if job.cancelled or (job.sent and forced):
                    answers.append(p.WasCancelled(number))
                elif job.sent:
                    answers.append(p.Failed(number, "EngineError", message, details))
            self._sources.clear()
            now = time.monotonic()
            if not forced:
                self._crashes.append(now)
            hopeless = status == EXIT_NO_TORCH or (
                len(self._crashes) == MAX_CRASHES and now - self._crashes[0] < CRASH_WINDOW_S
            )
            if hopeless:
                if status != EXIT_NO_TORCH:
                    message = (
                        f"The background process stopped {MAX_CRASHES} times within a "
                        "minute and was not started again. Restart it when the cause is "
                        f"gone; the details say more. Last: {message}"
                    )
                self._down = EngineError(message)
                self._state.notify_all()
        for answer in answers:
            self._finish(answer)
        self._emit(p.Died("" if forced else message, details, restarting=not hopeless))
        with self._state:
            self._state.wait_for(lambda: self._down is None or self._closed)

    def _force(self, job: int) -> None:
        """The job did not stop in time: end the engine."""
        with self._state:
            if job not in self._jobs or self._link is None:
                return
            self._forced = True
            link = self._link
        link.kill()

    def _end(self) -> None:
        link = self._link
        if link is None:
            return
        if link.pipe is not None:
            with contextlib.suppress(OSError):
                link.pipe.send(p.Shutdown())
        link.end(GRACE_S)

    # --- sending -------------------------------------------------------------------------

    def _send_all(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(
                    lambda: (
                        self._closed
                        or (self._outbox and (self._ready or self._down or self._is_emit()))
                    )
                )
                if self._closed:
                    return
                item = self._outbox.popleft()
                link, down = self._link, self._down
            if isinstance(item, Tell):
                self._finish(item.event)
            elif down is not None:
                if isinstance(item, p.Call):
                    self._finish(p.Failed(item.job, "EngineError", str(down)))
            elif link is not None:
                self._send(link, item)

    def _is_emit(self) -> bool:
        return isinstance(self._outbox[0], Tell)

    def _send(self, link: Link, request: p.Request) -> None:
        if not isinstance(request, p.Call):
            with contextlib.suppress(OSError):
                link.pipe.send(request)
            return
        entry = self._jobs.get(request.job)
        if entry is None or entry.cancelled:
            return

        def check() -> None:
            if entry.cancelled or self._closed:
                raise Cancelled("cancelled while the image was copied")

        try:
            packed = link.pipe.pack(prepare(request, self._sources), check)
        except Cancelled:
            return
        except EngineError as error:
            if not link.ended:
                self._finish(p.Failed(request.job, type(error).__name__, str(error)))
                return
            packed = Packed(b"")
        except SA2NetError as error:
            self._finish(p.Failed(request.job, type(error).__name__, str(error)))
            return
        except Exception as error:
            message = f"The image could not be sent to the background process: {error}"
            details = traceback.format_exc()
            self._finish(p.Failed(request.job, type(error).__name__, message, details))
            return
        with self._state:
            if self._link is not link or link.ended:
                # The engine died meanwhile, and its folder with it; the next one gets it.
                self._outbox.appendleft(request)
                return
            entry.sent = not entry.cancelled
        if not entry.sent:
            packed.drop()
            return
        # When the pipe breaks here, the reading thread answers the job.
        with contextlib.suppress(OSError):
            link.pipe.send(packed)

    def _serve_regions(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._closed or self._regions)
                if self._closed:
                    return
                link, request = self._regions.popleft()
            try:
                region = read_region(self._sources, request.source, request.key)
                answer = link.pipe.pack(p.RegionData(request.token, region))
            except Exception as error:
                answer = link.pipe.pack(p.RegionData(request.token, None, str(error)))
            with contextlib.suppress(OSError):
                link.pipe.send(answer)

    # --- telling -------------------------------------------------------------------------

    def _finish(self, event: Any) -> None:
        """Emit a job's last event, unless it has had one."""
        with self._state:
            job = self._jobs.pop(event.job, None)
            if job is None:
                return
            if job.timer is not None:
                job.timer.cancel()
        if not (job.kept and isinstance(event, p.Call)):
            self._sources.pop(job.source, None)
        self._emit(event)

    def _emit(self, event: p.Event) -> None:
        with self._emitting:
            if self._closed:
                return
            try:
                self._on_event(event)
            except Exception:
                _log.exception("error while an engine event was handled")


_alive: weakref.WeakSet[EngineClient] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """The interpreter ends: daemon threads no longer run, so end the engines here."""
    for client in list(_alive):
        client._closed = True
        link = client._link
        if link is not None:
            link.kill()
            link.end()
