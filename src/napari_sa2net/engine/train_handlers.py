"""What the training engine does: fine-tuning, with news on the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_sa2net.engine import protocol as p
from napari_sa2net.errors import Cancelled, Paused
from napari_sa2net.models.file import save_model
from napari_sa2net.models.model import Model
from napari_sa2net.models.registry import check_model_name
from napari_sa2net.training.events import Event, LossPoint, Notice, Planned, RoundPoint
from napari_sa2net.training.fine_tune import fine_tune, resume_fine_tuning
from napari_sa2net.training.run_state import read_state
from napari_sa2net.training.runs import free_name, read_asked, runs_dir

if TYPE_CHECKING:
    from napari_sa2net.engine.server import Server

#: Seconds between two events with points of the loss curve.
PERIOD = 0.2
PREVIEW = "preview.safetensors"


class TrainHandlers:
    """Answers `FineTune`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def fine_tune(self, request: p.FineTune) -> p.FineTuneResult:
        """Learn until the end, a pause, or a stop.

        Raises
        ------
        Cancelled
            By `Cancel`, or by `StopAndKeep` before there was anything to keep.
        and the errors of `training.fine_tune`.
        """
        start = time.monotonic()
        cancelled = self._server.cancelled(request.job)
        signal = self._server.signal
        options: dict[str, Any] = {
            "cancelled": lambda: signal(request.job) is p.StopAndKeep,
            "paused": lambda: cancelled() or signal(request.job) is p.Pause,
        }
        if request.resume:
            run = Path(request.resume)
            name = read_asked(run).name
        else:
            name = request.name or free_name(Path(request.base).name)
            run = runs_dir() / check_model_name(name)
        news = _News(self._server, request.job, run)
        if request.preview:
            options["preview"] = news.show
        options["on_event"] = news
        options["progress"] = news.progress
        try:
            if request.resume:
                news.repeat(read_state(run)["record"])
                tuned = resume_fine_tuning(run, **options)
            else:
                tuned = fine_tune(
                    request.training_set, request.base, request.config, name=name, **options
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


class _News:
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
        from napari_sa2net.training.rounds import round_point

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
