"""The engine's loop: one thread listens to napari, the main thread works."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.engine import messages as p
from napari_sa2net.engine.arrays import ArrayPipe, Packed
from napari_sa2net.errors import Cancelled, ImageError, OutOfMemoryError, SA2NetError

_PARENT_CHECK_S = 1.0

NEWEST = ("derive", "map_channel", "inspect", "what_if")
"""Of several calls of one of these that wait for one key only the newest runs."""
QUICK = ("derive", "measure", "inspect", "object_at")
"""Calls that are answered between two tiles of another job."""


class Work(Protocol):
    """What answers requests; `napari_sa2net.engine.service.Handlers`."""

    def info(self) -> p.EngineInfo:
        """What the process runs on."""

    def run(self, request: p.Call) -> Any:
        """The result of a call; raises what goes wrong."""

    def forget(self, key: str) -> None:
        """Drop what is kept under a key."""


class Server:
    """The engine's end of the pipe.

    Parameters
    ----------
    connection
        To the client, authenticated.
    folders
        For arrays, and for temporary files; removed at the end.
    """

    def __init__(self, connection: Connection, folders: Sequence[str]) -> None:
        self._folders = folders
        self._pipe = ArrayPipe(connection, folders)
        self._state = threading.Condition()
        self._queue: deque[p.Call | p.Forget | p.Shutdown] = deque()
        self._running: list[p.Call] = []
        self._stopped: set[int] = set()
        self._signals: dict[int, type[p.Pause | p.StopAndKeep]] = {}
        self._tokens = itertools.count()
        self._regions: dict[int, p.RegionData | None] = {}
        self._parent = os.getppid()
        self._work: Work | None = None

    # --- listening -----------------------------------------------------------------------

    def listen(self) -> None:
        """Take requests from now on, in a thread; end the process when the client is gone."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def _listen(self) -> None:
        try:
            while os.getppid() == self._parent:
                # A fork of napari's may hold the pipe open after napari has gone.
                if self._pipe.poll(_PARENT_CHECK_S):
                    self._take(self._pipe.receive())
        except (EOFError, OSError):
            pass
        except Exception:
            traceback.print_exc()
        finally:
            self._vanish()

    def _vanish(self) -> None:
        """End at once, also in the middle of a tile, and leave nothing behind."""
        try:
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os._exit(0)

    def _take(self, request: p.Request) -> None:
        if isinstance(request, p.Cancel):
            self._cancel(request.job)
            return
        if isinstance(request, p.Pause | p.StopAndKeep):
            self._signals[request.job] = type(request)
            return
        with self._state:
            dropped: list[int] = []
            if isinstance(request, p.RegionData):
                # Else its job was cancelled while the client read.
                if request.token in self._regions:
                    self._regions[request.token] = request
            else:
                if isinstance(request, p.Call) and request.name in NEWEST:
                    dropped = self._overtake(request)
                self._queue.append(request)
            self._state.notify_all()
        for job in dropped:
            self.send(p.WasCancelled(job))

    def _overtake(self, newest: p.Call) -> list[int]:
        """Drop those of its name and key that still wait, and stop one that runs."""

        def outdated(request: object) -> bool:
            about = (newest.name, newest.key)
            return isinstance(request, p.Call) and (request.name, request.key) == about

        old = [r for r in self._queue if isinstance(r, p.Call) and outdated(r)]
        for request in old:
            self._queue.remove(request)
        self._stopped.update(running.job for running in self._running if outdated(running))
        return [request.job for request in old]

    def _cancel(self, job: int) -> None:
        with self._state:
            for request in self._queue:
                if isinstance(request, p.Call) and request.job == job:
                    self._queue.remove(request)
                    break
            else:
                if any(running.job == job for running in self._running):
                    self._stopped.add(job)
                    self._state.notify_all()
                return
        self.send(p.WasCancelled(job))

    # --- working -------------------------------------------------------------------------

    def work(self, work: Work) -> None:
        """Answer requests until `Shutdown`; call `listen` before."""
        self._work = work
        self.send(p.Ready(work.info()))
        while True:
            # Named by nothing here: its image would stay until the next one comes.
            self._answer(self._next())

    def _next(self) -> p.Call | p.Forget | p.Shutdown:
        with self._state:
            self._state.wait_for(lambda: self._queue)
            return self._queue.popleft()

    def between(self) -> None:
        """Between two tiles: answer what is quick, so that sliders live while others run."""
        if len(self._running) > 1:
            return
        while True:
            with self._state:
                request = next((r for r in self._queue if _is_quick(r)), None)
                if request is None:
                    return
                self._queue.remove(request)
            self._answer(request)

    def is_waited_for(self) -> bool:
        """Somebody waits for something that is not answered between two steps."""
        with self._state:
            return any(isinstance(r, p.Call) and not _is_quick(r) for r in self._queue)

    def _answer(self, request: p.Call | p.Forget | p.Shutdown) -> None:
        assert self._work is not None
        if isinstance(request, p.Forget):
            self._work.forget(request.key)
            return
        if isinstance(request, p.Shutdown):
            self._vanish()
            return
        with self._state:
            self._running.append(request)
        event: p.Event | Packed
        try:
            event = self._pipe.pack(request.done(self._work.run(request)))
        except Cancelled:
            event = p.WasCancelled(request.job)
        except BaseException as error:
            event = failure(request.job, error)
        with self._state:
            self._running.remove(request)
            self._stopped.discard(request.job)
            self._signals.pop(request.job, None)
        self.send(event)

    # --- what handlers use ---------------------------------------------------------------

    def send(self, event: p.Event | Packed) -> None:
        """Send an event; the end of the client ends this process."""
        try:
            self._pipe.send(event)
        except OSError:
            self._vanish()

    def cancelled(self, job: int) -> Callable[[], bool]:
        """What is asked between tiles and planes: shall the job stop."""
        return lambda: job in self._stopped

    def signal(self, job: int) -> type[p.Pause | p.StopAndKeep] | None:
        """What the client has asked of a running training, if anything."""
        return self._signals.get(job)

    def read_region(self, source: str, key: tuple[int | slice, ...]) -> NDArray[np.generic]:
        """Part of an array that the client serves, for the job that runs.

        Raises
        ------
        ImageError
            The client cannot read it.
        Cancelled
            It was cancelled meanwhile.
        """
        with self._state:
            token = next(self._tokens)
            job = self._running[-1].job
            self._regions[token] = None
        self.send(p.ReadRegion(token, source, key))
        with self._state:
            self._state.wait_for(lambda: self._regions[token] or job in self._stopped)
            answer = self._regions.pop(token)
        if answer is None:
            raise Cancelled("cancelled while the image was read")
        if answer.array is None:
            raise ImageError(answer.error)
        return answer.array


def _is_quick(request: object) -> bool:
    if isinstance(request, p.Call):
        return request.name in QUICK
    return isinstance(request, p.Forget)


def failure(job: int, error: BaseException) -> p.Failed:
    """The event for an error: ours as they are, foreign ones with what can be done."""
    details = "".join(traceback.format_exception(error))
    kind = type(error).__name__
    message = str(error)
    if isinstance(error, SA2NetError):
        return p.Failed(job, kind, message, details)
    if isinstance(error, MemoryError) or "out of memory" in message.lower():
        message = (
            "Memory ran out. Close other programs, choose smaller pieces or the device 'cpu' "
            "under Advanced, or segment only the view."
        )
        return p.Failed(job, OutOfMemoryError.__name__, message, details)
    first = message.strip().splitlines()[0][:200] if message.strip() else ""
    message = (
        f"Something unexpected went wrong ({kind}{': ' + first if first else ''}). Run again; "
        "if it happens again, copy the details into a report."
    )
    return p.Failed(job, kind, message, details)
