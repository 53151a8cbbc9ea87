"""Learning in the engine: until the end, a pause or a stop, with news on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_sa2net.engine import messages as p
from napari_sa2net.engine.server import Server
from napari_sa2net.errors import Cancelled, Paused
from napari_sa2net.models.file import Model, save_model
from napari_sa2net.training.compare import Event, LossPoint, Notice, Planned, RoundPoint

if TYPE_CHECKING:
    from napari_sa2net.training.fine_tune import FineTuned

#: Seconds between two events with points of the loss curve.
PERIOD = 0.2
PREVIEW = "preview.safetensors"


def learn(
    server: Server, job: int, run: Path, preview: bool, train: Callable[..., FineTuned]
) -> p.FineTuneResult:
    """Learn until the end, a pause, or a stop.

    Parameters
    ----------
    train
        `fine_tune` or `resume_fine_tuning` with all but the options for news and ending.
    preview
        After each round write the present weights to a model file, and say where. Any engine
        can segment with that path as model.

    Raises
    ------
    Cancelled
        By `Cancel`, or by `StopAndKeep` before there was anything to keep.
    and the errors of ``train``.
    """
    start = time.monotonic()
    cancelled = server.cancelled(job)
    news = News(server, job, run)
    try:
        tuned = train(
            cancelled=lambda: server.signal(job) is p.StopAndKeep,
            paused=lambda: cancelled() or server.signal(job) is p.Pause,
            on_event=news,
            progress=news.progress,
            preview=news.show if preview else None,
        )
    except Paused:
        if cancelled():
            raise Cancelled("Cancelled; what was learned so far stays on disk.") from None
        return p.FineTuneResult(str(run), paused=True)
    finally:
        news.flush()
        (run / PREVIEW).unlink(missing_ok=True)
    return p.FineTuneResult(
        str(run),
        model=tuned.card.name,
        path=str(tuned.path),
        promoted=tuned.promoted,
        verdict=tuned.verdict,
        held_out=tuned.held_out,
        reference=tuned.reference,
        seconds=time.monotonic() - start,
    )


class News:
    """Gathers events and sends them a few times a second."""

    def __init__(self, server: Server, job: int, run: Path) -> None:
        self._server = server
        self._job = job
        self._run = run
        self._sent = 0.0
        self._clear()

    def _clear(self) -> None:
        self._plan: Planned | None = None
        self._losses: list[LossPoint] = []
        self._rounds: list[RoundPoint] = []
        self._notices: list[str] = []
        self._preview = ""

    def __call__(self, event: Event) -> None:
        """Something happened."""
        match event:
            case LossPoint():
                self._losses.append(event)
                if time.monotonic() - self._sent < PERIOD:
                    return
            case RoundPoint():
                self._rounds.append(event)
            case Notice():
                self._notices.append(event.text)
            case Planned():
                self._plan = event
        self.flush()

    def repeat(self, record: dict[str, Any]) -> None:
        """The curves of a run that goes on."""
        from napari_sa2net.training.tuning import round_point

        self._losses = [LossPoint(**point) for point in record["losses"]]
        self._rounds = [round_point(point) for point in record["rounds"]]
        self.flush()

    def show(self, model: Model, _round: int) -> None:
        """Write the weights of a round, for any engine to segment with."""
        path = save_model(self._run / PREVIEW, model.net, model.card, "float16")
        self._preview = str(path)
        self.flush()

    def progress(self, done: int, total: int, what: str) -> None:
        """Steps and images, for the progress line."""
        if done == total or time.monotonic() - self._sent >= PERIOD or not self._losses:
            self._server.send(p.Progress(self._job, done, total, what))

    def flush(self) -> None:
        """Send what has gathered."""
        parts = (self._plan, self._losses, self._rounds, self._notices, self._preview)
        if any(parts):
            self._server.send(
                p.TrainProgress(
                    self._job,
                    str(self._run),
                    self._plan,
                    tuple(self._losses),
                    tuple(self._rounds),
                    tuple(self._notices),
                    self._preview,
                )
            )
            self._clear()
        self._sent = time.monotonic()
