"""An engine process for one run of fine-tuning, beside the one that segments."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable

from napari_sa2net.app.link import Client
from napari_sa2net.engine import protocol as p
from napari_sa2net.engine.client import EngineClient

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

    def begin(self, request: p.FineTune) -> None:
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
