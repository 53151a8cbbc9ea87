"""What the Segment page does, without a page: requests out, results in, state kept."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from psygnal import Signal

from napari_sa2net.app.jobs import Job, JobBook
from napari_sa2net.app.preview import image_line, pixels_to_segment
from napari_sa2net.app.requests import segment_request
from napari_sa2net.app.results import Results, ResultState
from napari_sa2net.app.session import (
    ErrorInfo,
    ImageSource,
    JobProgress,
    LabelsUpdate,
    Planes,
    SegmentOutcome,
    Session,
    TableUpdate,
    Where,
    device_line,
)
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine import protocol as p
from napari_sa2net.engine.client import EngineClient
from napari_sa2net.errors import NotKeptError, SA2NetError, SettingsError

Call = Callable[[], None]


class Client(Protocol):
    """The part of `EngineClient` that a controller uses."""

    def start(self) -> None: ...
    def restart(self) -> None: ...
    def submit(self, request: p.Request) -> None: ...
    def cancel(self, job: int, force: bool = True) -> None: ...
    def close(self) -> None: ...


def _direct(call: Call) -> None:
    call()


class SegmentController:
    """Runs the Segment page of one viewer.

    All methods return at once. They, and the signals, belong to one thread: ``dispatch``
    must bring the engine's events there (a Qt widget gives a queued call). Without it events
    are handled on the client's thread, under a lock.

    Parameters
    ----------
    session
        State to keep; one per viewer.
    dispatch
        Runs a function on the controller's thread, later or now.
    make_client
        Makes the engine's client from a callback for its events.

    Attributes
    ----------
    result_ready
        `SegmentOutcome`: show the labels and their table.
    labels_updated
        `LabelsUpdate`: a slider moved.
    table_ready
        `TableUpdate`: the table for the labels that are shown now.
    failed
        `ErrorInfo`, also in ``session.error``.
    cancelled
        The segmentation of the image with this key was cancelled.
    """

    result_ready = Signal(SegmentOutcome)
    labels_updated = Signal(LabelsUpdate)
    table_ready = Signal(TableUpdate)
    failed = Signal(ErrorInfo)
    cancelled = Signal(str)

    def __init__(
        self,
        session: Session,
        dispatch: Callable[[Call], None] = _direct,
        make_client: Callable[[Callable[[p.Event], None]], Client] = EngineClient,
    ) -> None:
        self.session = session
        self._dispatch = dispatch
        self._lock = threading.RLock()
        self._jobs = JobBook()
        self._generations: dict[str, int] = {}
        self._closed = False
        self._instances_chosen = False
        self._client = make_client(self._on_event)
        self._results = Results(
            self._jobs, self._client.submit, lambda: dispatch(self._sliders_rest)
        )

    # --- what a person does ----------------------------------------------------------

    def start(self) -> None:
        """Start the engine in the background and load the chosen model there."""
        self._client.start()

    def restart_engine(self) -> None:
        """Start the engine again after it stayed down."""
        with self._lock:
            self.session.error = None
            self._client.restart()

    def refresh_models(self) -> None:
        """Read the list of models again; keep the choice if it is still there."""
        from napari_sa2net.models.registry import list_models

        with self._lock:
            self.session.models = tuple(list_models())
            names = [entry.name for entry in self.session.models]
            wanted = self.session.model
            if names and wanted not in names and not Path(wanted).is_file():
                wanted = names[0]
            self.set_model(wanted)

    def set_image(self, source: ImageSource | None) -> None:
        """Choose the image, or tell that its channels, axes, view or plane changed."""
        with self._lock:
            self.session.image = source
            self.session.image_line = image_line(source) if source is not None else ""
            self._show_result()
            self._estimate()

    def set_channels(self, channels: tuple[int, ...] | None) -> None:
        """Choose the channels that go in; None for the default."""
        source = self.session.image
        if source is not None:
            self.set_image(replace(source, channels=channels))

    def set_model(self, name: str) -> None:
        """Choose a model by name or path and load it in the engine.

        Until `set_instances` is called, the sliders take the model's own defaults.
        """
        with self._lock:
            self.session.model = name
            card = next((e.card for e in self.session.models if e.name == name), None)
            if card is not None and not self._instances_chosen:
                # The model's own defaults, until a person moves a slider.
                self.session.instances = card.instance
            if self.session.info is not None:
                self._warm_up()

    def set_predict(self, config: PredictConfig) -> None:
        """Settings of the next run."""
        with self._lock:
            device_changed = config.device != self.session.predict.device
            self.session.predict = config
            if device_changed and self.session.info is not None:
                self._warm_up()
            self._estimate()

    def set_normalize(self, normalize: bool) -> None:
        """Whether the next run normalises the image as the model expects."""
        self.session.normalize = normalize

    def set_region(self, where: Where | None = None, planes: Planes | None = None) -> None:
        """Whole image or view; all planes of a stack or the current one."""
        with self._lock:
            self.session.where = where or self.session.where
            self.session.planes = planes or self.session.planes
            self._estimate()

    def set_instances(self, config: InstanceConfig) -> None:
        """Settings of the objects; act at once on the shown result while that is possible.

        May be called as often as a slider moves: one derivation is in flight, the newest
        setting waits, those between are skipped. The table follows when they rest.
        """
        with self._lock:
            self._instances_chosen = True
            self.session.instances = config
            source = self.session.image
            result = self._results.of_image(source.key if source is not None else None)
            if result is not None:
                self._results.want(result, config)

    def segment(self) -> int | None:
        """Segment the chosen image with the settings of now.

        A run that is still in flight is cancelled. Returns the job's number; None when
        something is missing, which ``session.error`` and ``failed`` say.
        """
        with self._lock:
            source = self.session.image
            generation = self._generations.get(source.key, 0) if source else 0
            try:
                request = segment_request(self.session, generation, uuid.uuid4().hex)
            except SA2NetError as error:
                self._fail(ErrorInfo(type(error).__name__, str(error)))
                return None
            self.cancel()
            self.session.error = None
            job = self._jobs.open("segment", request.key, request)
            waiting = self.session.engine in ("stopped", "starting")
            what = "waiting for the engine to start" if waiting else "starting"
            self._set_running(JobProgress(0, 0, what))
            self._client.submit(request.to_engine(job.number))
            return job.number

    def cancel(self) -> None:
        """Cancel the segmentation that runs; politely, by force after a second."""
        with self._lock:
            for job in self._jobs.all("segment"):
                self.session.progress = JobProgress(0, 0, "cancelling")
                self._client.cancel(job.number)

    def image_changed(self, key: str) -> None:
        """The pixels of an image changed: a result that is still to come is dropped."""
        with self._lock:
            self._generations[key] = self._generations.get(key, 0) + 1
            self._drop_jobs(key)
            result = self._results.of_image(key)
            if result is not None:
                result.kept = False
                self._client.submit(p.Forget(result.key))
            self._show_result()

    def forget_image(self, key: str) -> None:
        """The layer of an image is gone."""
        with self._lock:
            self._generations[key] = self._generations.get(key, 0) + 1
            self._drop_jobs(key)
            result = self._results.of_image(key)
            if result is not None:
                self._results.remove(result)
                self._client.submit(p.Forget(result.key))
            if self.session.image is not None and self.session.image.key == key:
                self.set_image(None)

    def forget_result(self, result_key: str) -> None:
        """The layer of a result is gone."""
        with self._lock:
            self._client.submit(p.Forget(result_key))
            result = self._results.get(result_key)
            if result is not None:
                self._results.remove(result)
            self._show_result()

    def mark_edited(self, result_key: str) -> None:
        """A person edited the labels of a result: they are theirs, sliders let go of them."""
        with self._lock:
            result = self._results.get(result_key)
            if result is not None:
                result.edited = True
            self._show_result()

    def measure(self, result_key: str, labels: Any) -> None:
        """Ask for the table of edited labels; `table_ready` brings it."""
        with self._lock:
            job = self._jobs.open("measure", result_key)
            self._client.submit(p.Measure(job.number, result_key, labels))

    def dismiss_error(self) -> None:
        """The person has read the error."""
        self.session.error = None

    def close(self) -> None:
        """End the engine; returns at once, and nothing is signalled any more."""
        with self._lock:
            self._closed = True
            self._results.close()
            self.session.engine = "stopped"
            self._client.close()

    # --- what the engine says --------------------------------------------------------

    def _on_event(self, event: p.Event) -> None:
        """On the client's thread."""
        self._dispatch(lambda: self._handle(event))

    def _handle(self, event: p.Event) -> None:
        with self._lock:
            if self._closed:
                return
            match event:
                case p.Starting():
                    self.session.engine = "starting"
                case p.Ready(info):
                    self._engine_ready(info)
                case p.Progress(number, done, total, what):
                    job = self._jobs.get(number)
                    if job is not None and job.kind == "segment":
                        self.session.progress = JobProgress(done, total, what)
                case p.Done(number, result):
                    job = self._jobs.close(number)
                    if job is not None:
                        self._done(job, result)
                case p.Failed(number, kind, message, details):
                    job = self._jobs.close(number)
                    if job is not None:
                        self._job_failed(job, ErrorInfo(kind, message, details))
                case p.WasCancelled(number):
                    job = self._jobs.close(number)
                    if job is not None:
                        self._job_cancelled(job)
                case p.Died(message, details, restarting):
                    self._engine_died(ErrorInfo("EngineError", message, details), restarting)
                case _:
                    raise SettingsError(f"unknown event {event!r}")
            self._engine_state()

    def _engine_ready(self, info: p.EngineInfo) -> None:
        self.session.engine = "ready"
        self.session.info = info
        self.session.device_line = device_line(info)
        self._warm_up()

    def _engine_died(self, error: ErrorInfo, restarting: bool) -> None:
        self._results.lose_all()
        self.session.info = None
        self.session.estimate_s = None
        self.session.engine = "starting" if restarting else "down"
        self._show_result()
        # A job that failed with the engine has said so already.
        if error.message and not (restarting and self.session.error is not None):
            self._fail(error)

    def _done(self, job: Job, result: Any) -> None:
        if job.kind == "warm_up":
            self.session.info = result
            self.session.device_line = device_line(result)
            self._estimate()
        elif job.kind == "segment":
            self._segmented(job, result)
        elif job.kind == "derive":
            self._derived(job, result)
        else:
            self.table_ready.emit(TableUpdate(job.key, result))

    def _segmented(self, job: Job, result: p.SegmentResult) -> None:
        request = job.request
        assert request is not None
        self._set_idle()
        image_key = request.source.key
        if self._generations.get(image_key, 0) != request.generation:
            self._client.submit(p.Forget(job.key))
            return
        former = self._results.of_image(image_key)
        replaces = None
        if former is not None and not former.edited:
            replaces = former.key
            self._client.submit(p.Forget(former.key))
        made_with = request.instances
        state = ResultState(
            job.key,
            request,
            result.summary,
            shown=made_with,
            table_of=made_with,
            wanted=made_with,
        )
        self._results.put(state)
        self.session.error = None
        self._show_result()
        self.result_ready.emit(SegmentOutcome(job.key, replaces, request, result))
        if self.session.instances != made_with:
            # A slider moved while the network ran.
            self._results.want(state, self.session.instances)

    def _derived(self, job: Job, result: p.SegmentResult) -> None:
        state = self._results.get(job.key)
        if state is None or state.edited or not state.kept:
            return
        assert job.request is not None
        config = job.request.instances
        state.summary = result.summary
        if config != state.shown:
            state.shown = config
            self.labels_updated.emit(LabelsUpdate(job.key, result.labels))
        if result.objects is not None:
            state.table_of = config
            self.table_ready.emit(TableUpdate(job.key, result.objects))
        self._show_result()
        self._results.derive(state)

    def _job_failed(self, job: Job, error: ErrorInfo) -> None:
        state = self._results.get(job.key)
        if job.kind == "segment":
            self._set_idle()
        elif job.kind == "derive" and error.kind == NotKeptError.__name__:
            if state is not None:
                state.kept = False
                self._show_result()
            return
        self._fail(error)

    def _job_cancelled(self, job: Job) -> None:
        if job.kind == "segment":
            self._set_idle()
            assert job.request is not None
            self.cancelled.emit(job.request.source.key)
        elif job.kind == "derive":
            state = self._results.get(job.key)
            if state is not None:
                self._results.derive(state)

    def _sliders_rest(self) -> None:
        with self._lock:
            if not self._closed:
                self._results.tables()

    # --- inside ----------------------------------------------------------------------

    def _warm_up(self) -> None:
        for job in self._jobs.all("warm_up"):
            self._client.cancel(job.number, force=False)
        job = self._jobs.open("warm_up")
        self._client.submit(p.WarmUp(job.number, self.session.model, self.session.predict))

    def _drop_jobs(self, image_key: str) -> None:
        """Cancel the image's segmentations, sparing what the engine keeps of others."""
        for job in self._jobs.all("segment"):
            if job.request is not None and job.request.source.key == image_key:
                self._client.cancel(job.number, force=False)

    def _show_result(self) -> None:
        self._results.show(self.session)

    def _set_running(self, progress: JobProgress) -> None:
        self.session.running = True
        self.session.progress = progress
        self._engine_state()

    def _set_idle(self) -> None:
        if self._jobs.find("segment") is None:
            self.session.running = False
            self.session.progress = None

    def _engine_state(self) -> None:
        if self.session.engine in ("ready", "busy"):
            self.session.engine = "busy" if self.session.running else "ready"

    def _estimate(self) -> None:
        info, source = self.session.info, self.session.image
        if info is None or info.seconds_per_megapixel is None or source is None:
            self.session.estimate_s = None
            return
        box = source.view if self.session.where == "view" else None
        pixels = pixels_to_segment(source, box, self.session.planes == "current")
        scale = 1.0
        diameter = self.session.predict.diameter
        if diameter and info.model_diameter and self.session.predict.rescale:
            scale = info.model_diameter / diameter
        self.session.estimate_s = pixels / 1e6 * scale**2 * info.seconds_per_megapixel

    def _fail(self, error: ErrorInfo) -> None:
        self.session.error = error
        self.failed.emit(error)
