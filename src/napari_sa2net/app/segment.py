"""What the Segment page does, without a page: requests out, results in, state kept."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from psygnal import Signal

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.session import (
    SLIDER_WORDS,
    ErrorInfo,
    ImageSource,
    LabelsUpdate,
    Planes,
    RunTime,
    SegmentRequest,
    Session,
    Sliders,
    TableUpdate,
    Where,
    as_seen,
    decided_in,
    device_line,
    image_line,
    nothing_found_words,
    segment_request,
    summary_line,
    time_to_run,
)
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.messages import Summary
from napari_sa2net.errors import EngineError, NotKeptError, SA2NetError
from napari_sa2net.files import user_data_dir, write_atomically
from napari_sa2net.quantities import checked_groups

# --------------------------------------------------------------------------------------------
# The newest result of each image, and what the sliders still want of it.

R = TypeVar("R", bound=SegmentRequest)

REST_S = 0.25
"""A slider that has not moved for so long rests: the table follows."""


#: What the sliders do not reach, and how they would.
ADDED_WORDS = (
    "The sliders change the cells of the part that was segmented last; cells elsewhere stay as "
    "they are. To change all at once, segment the whole image."
)

#: Why a run brings nothing.
CHANGED_WORDS = (
    "The pixels of “{}” were replaced during the run, so its result was dropped: it is of the "
    "image before. Run it again. If a camera or a script keeps changing the image, stop that "
    "first, or duplicate the layer and take the copy."
)
AXES_CHANGED_WORDS = (
    "The axes of “{}” were changed during the run, so its result was dropped: it is of the "
    "image as it was read before. Run it again."
)


@dataclass
class ResultState:
    """The newest result of one image.

    Attributes
    ----------
    shown, table_of, wanted
        Settings of the labels that are shown, of their table, and of the sliders.
    edited
        A person has edited the labels.
    kept
        The engine keeps its probabilities, and they belong to the image as it is.
    diameter
        Size of the cells (px) that set the scale; None where nothing was rescaled.
    decided
        What was left to the program, see `decided_in`.
    replaces
        Key of the image's former result if no person has edited it: its layer takes the new
        labels. None: the labels go to a new layer.
    adds_to
        Key of the image's former result where this is another part of the image: its cells
        stay, but for those of this part, and are settled.
    looks_into
        Key of the image's former result where a person has edited it, and this was only to
        look into it: its layer stays with the cells that it has, and is this result's.
    blank
        The image has one value throughout, so there was nothing to run.
    """

    key: str
    request: SegmentRequest
    summary: Summary
    shown: InstanceConfig
    table_of: InstanceConfig
    wanted: InstanceConfig
    edited: bool = False
    kept: bool = True
    diameter: float | None = None
    decided: Mapping[str, str] = field(default_factory=lambda: decided_in({}))
    replaces: str | None = None
    adds_to: str | None = None
    looks_into: str | None = None
    blank: bool = False

    @property
    def sliders(self) -> Sliders:
        """Whether the sliders act on it."""
        return "edited" if self.edited else "live" if self.kept else "lost"

    def is_of(self, source: ImageSource) -> bool:
        """Whether it is of the image as it is read now."""
        return source.reads_as(self.request.source)

    def size_unsure(self, table: p.ObjectTable | None) -> bool:
        """Many cells are doubtful, and their size was only estimated: it may be wrong."""
        from napari_sa2net.measure import many_doubtful  # scipy takes a while to load

        if table is None or self.request.predict.diameter or not self.diameter:
            return False
        return many_doubtful(table["confidence"])


class Results:
    """Results by image; asks for derivations, one in flight for each result.

    Parameters
    ----------
    link
        The engine.
    at_rest
        Called on another thread when sliders have rested; shall call `tables`.
    """

    def __init__(self, link: EngineLink, at_rest: Callable[[], None]) -> None:
        self._link = link
        self._at_rest = at_rest
        self._by_image: dict[str, ResultState] = {}
        self._timer: threading.Timer | None = None
        #: no slider has moved lately
        self.resting = True

    def of_image(self, image_key: str | None) -> ResultState | None:
        """Newest result of an image."""
        return self._by_image.get(image_key) if image_key is not None else None

    def get(self, key: str) -> ResultState | None:
        """The result of that key, if it is the newest of its image."""
        return next((r for r in self._by_image.values() if r.key == key), None)

    def all(self) -> list[ResultState]:
        """The newest of each image."""
        return list(self._by_image.values())

    def put(self, result: ResultState) -> None:
        """Make it the newest result of its image."""
        self._by_image[result.request.source.key] = result

    def remove(self, result: ResultState) -> None:
        """Forget a result."""
        self._by_image.pop(result.request.source.key, None)

    def lose_all(self) -> None:
        """The engine keeps nothing any more."""
        for result in self._by_image.values():
            result.kept = False

    def want(self, result: ResultState, config: InstanceConfig) -> None:
        """A slider moved: derive at once or after the derivation that runs."""
        if result.edited or not result.kept:
            return
        result.wanted = config
        self.derive(result)
        self._start_timer()

    def derive(self, result: ResultState, table: bool = False) -> None:
        """Ask for the wanted setting unless a derivation of this result is in flight."""
        if result.edited or not result.kept:
            return
        if result.wanted == (result.table_of if table else result.shown):
            return
        if not self._link.asked("derive", result.key):
            arguments = {"instances": result.wanted, "table": table}
            self._link.ask("derive", arguments, result.key, about=result.wanted)

    def tables(self) -> None:
        """Sliders rest: ask for the tables that are behind."""
        self.resting = True
        for result in self._by_image.values():
            self.derive(result, table=True)

    def go_on(self, result: ResultState) -> None:
        """A derivation has ended: ask for what is still wanted of its result."""
        self.derive(result)
        if self.resting:
            self.derive(result, table=True)

    def close(self) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def show(self, session: Session) -> None:
        """Set the session's fields that follow the chosen image's result."""
        source = session.image
        result = self.of_image(source.key if source is not None else None)
        if result is None:
            session.sliders, session.result_key, session.summary = "none", "", ""
            session.found_diameter = None
        else:
            same = result.request.model == session.model
            session.found_diameter = result.diameter if same else None
            session.sliders = result.sliders
            if source is not None and not result.edited and not result.is_of(source):
                session.sliders = "reread"
            session.result_key = result.key
            source = result.request.source
            session.summary = summary_line(
                result.summary, source.pixel_side_um, source.z_step_um
            )
        session.sliders_note = SLIDER_WORDS[session.sliders]
        live = result if session.sliders == "live" else None
        if live is not None and not live.summary.n_objects:
            session.sliders_note = nothing_found_words(live.request, live.blank)
        elif live is not None and live.adds_to:
            session.sliders_note = ADDED_WORDS

    def _start_timer(self) -> None:
        self.close()
        self.resting = False
        self._timer = threading.Timer(REST_S, self._at_rest)
        self._timer.daemon = True
        self._timer.start()


#: Settings of the objects that have nothing to do with the model.
KEPT_BY_CHOICE = ("remove_border", "fill_holes", "link_planes")


def _read_as(request: SegmentRequest) -> tuple[Any, ...]:
    """What the size that a search finds depends on."""
    source = request.source
    return (
        *(request.model, request.generation, request.normalize),
        *(source.axes, source.channels),
    )


class SegmentController:
    """Runs the Segment page of one viewer.

    All methods return at once. They, and the signals, belong to one thread: the link's
    ``dispatch`` must bring the engine's events there (a Qt widget gives a queued call).
    Without it events are handled on the client's thread, under a lock.

    Parameters
    ----------
    link
        The engine, and the state of the viewer.

    Attributes
    ----------
    result_ready
        `ResultState` and `SegmentResult`: show the labels and their table.
    labels_updated
        `LabelsUpdate`: a slider moved.
    table_ready
        `TableUpdate`: the table for the labels that are shown now.
    failed
        `ErrorInfo`, also in ``session.error``.
    cancelled
        The segmentation of the image with this key was cancelled.
    """

    result_ready = Signal(ResultState, p.SegmentResult)
    labels_updated = Signal(LabelsUpdate)
    table_ready = Signal(TableUpdate)
    cancelled = Signal(str)

    def __init__(self, link: EngineLink) -> None:
        self.link = link
        self.session = link.session
        self.failed = link.failed
        self._lock = link.lock
        #: a person has moved a slider; else the model's own settings are shown
        self.instances_chosen = False
        self._identities: dict[str, str] = {}
        #: axes of each image as they were last told, by its key
        self._axes: dict[str, str | None] = {}
        #: size of the cells (px) that was said of an image, by its identity, the newest last
        self.sizes: dict[str, float] = {}
        self._results = Results(link, lambda: link.dispatch(self._sliders_rest))
        link.answer(("warm_up", "segment", "derive", "measure"), self)
        link.ready.connect(self._warm_up)
        link.died.connect(self._engine_died)

    # --- what a person does ----------------------------------------------------------

    def start(self) -> None:
        """Start the engine in the background and load the chosen model there."""
        self.link.client.start()

    def refresh_models(self, wanted: str = "") -> None:
        """Read the list of models again; keep the choice if it is still there.

        ``wanted``: choose this one, such as the chosen one under another name.
        """
        from napari_sa2net.models.registry import list_models

        with self._lock:
            entries = tuple(list_models())
            wanted = wanted or self.session.model
            if entries == self.session.models and wanted == self.session.model:
                return
            self.session.models = entries
            names = [entry.name for entry in entries]
            if names and wanted not in names and not Path(wanted).is_file():
                self.choose_model(names[0])
            else:
                self.set_model(wanted)

    def set_image(self, source: ImageSource | None) -> None:
        """Choose the image, or tell that its channels, axes, view or plane changed."""
        with self._lock:
            before, error = self.session.image, self.session.error
            other = (before and before.key) != (source and source.key)
            if other and error is not None and error.kind != EngineError.__name__:
                # What was wrong with one image says nothing of another.
                self.session.error = None
            if source is not None:
                source = as_seen(source, self.session)
                source.take_plan(before)
                if source.axes != self._axes.get(source.key, source.axes):
                    self._drop_runs(source.key, AXES_CHANGED_WORDS)
                self._axes[source.key] = source.axes
            if other:
                self._take_size(before, source)
            self.session.image = source
            self.session.image_line = image_line(source) if source is not None else ""
            self._show_result()

    def _take_size(self, before: ImageSource | None, source: ImageSource | None) -> None:
        """The size of the cells that was said of this image, not of the one before."""
        predict = self.session.predict
        if source is None:
            diameter = None
        else:
            known = self._identities.setdefault(source.key, source.identity)
            diameter = self.sizes.get(known)
            if before is None and diameter is None and predict.diameter is not None:
                # said before there was an image
                diameter = self.sizes[known] = predict.diameter
        if diameter != predict.diameter:
            self.session.predict = predict.model_copy(update={"diameter": diameter})

    def _keep_size(self) -> None:
        source, diameter = self.session.image, self.session.predict.diameter
        if source is not None:
            known = self._identities.setdefault(source.key, source.identity)
            self.sizes.pop(known, None)
            if diameter is not None:
                self.sizes[known] = diameter

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
            card = self.session.card
            if card is not None and not self.instances_chosen:
                # The model's own defaults, until a person moves a slider.
                self.session.instances = card.instance
            if self.session.info is not None:
                self._warm_up()

    def choose_model(self, name: str) -> None:
        """As `set_model`, with the thresholds that were tuned for that model.

        What becomes of the cells (holes, border, planes) stays as a person chose it.
        """
        with self._lock:
            self.set_model(name)
            if self.instances_chosen:
                self.reset_instances()

    @property
    def tuned(self) -> InstanceConfig:
        """The thresholds that were tuned for the chosen model, and the rest as it is."""
        now, card = self.session.instances, self.session.card
        if card is None:
            return now
        kept = {field: getattr(now, field) for field in KEPT_BY_CHOICE}
        return InstanceConfig(**{**card.instance.model_dump(), **kept})

    def reset_instances(self) -> None:
        """Back to `tuned`."""
        with self._lock:
            if self.tuned != self.session.instances:
                self.set_instances(self.tuned)

    def set_predict(self, config: PredictConfig) -> None:
        """Settings of the next run."""
        with self._lock:
            before = self.session.predict
            self.session.predict = config
            self._keep_size()
            # What changes the time of a tile: it is measured again.
            slower = (config.device, config.augment, config.precision)
            changed = slower != (before.device, before.augment, before.precision)
            if changed and self.session.info is not None:
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
            self.instances_chosen = True
            self.session.instances = config
            source = self.session.image
            result = self._results.of_image(source.key if source is not None else None)
            if source is not None and result is not None and result.is_of(source):
                self._results.want(result, config)

    def segment(self) -> int | None:
        """Segment the chosen image with the settings of now.

        A run that is still in flight is cancelled. Returns the job's number; None when
        something is missing, which ``session.error`` and ``failed`` say.
        """
        with self._lock:
            source = self.session.image
            generation = self.link.generation(source.key) if source else 0
            try:
                request = segment_request(self.session, generation, uuid.uuid4().hex)
            except SA2NetError as error:
                self.link.fail(ErrorInfo(type(error).__name__, str(error)))
                return None
            return self.run(request, self.session.estimate)

    def run(self, request: SegmentRequest, expected: RunTime | None) -> int:
        """Run a request in the place of what runs; the call's number."""
        self.link.cancel_runs()
        arguments = request.arguments()
        return self.link.run(request.function, arguments, request.key, expected, about=request)

    def bring_back(self) -> int | None:
        """Run the shown result again whose probabilities are gone, so that sliders act on it.

        With its own model and settings, and the sliders of now. Returns the job's number.
        """
        with self._lock:
            image = self.session.image
            result = self._results.of_image(image.key if image is not None else None)
            if image is None or result is None or result.sliders != "lost":
                return None
            former = result.request
            request = SegmentRequest(
                replace(former.source, data=image.data),
                self.link.generation(image.key),
                uuid.uuid4().hex,
                former.model,
                former.predict,
                self.session.instances,
                former.normalize,
                former.window,
            )
            return self.run(request, self.session.estimate)

    def results(self) -> dict[str, ResultState]:
        """The newest result of each image, by its key."""
        return {result.key: result for result in self._results.all()}

    def take_up(self, results: Iterable[ResultState]) -> None:
        """Know results again, as `results` gave them when the window was closed."""
        with self._lock:
            for result in results:
                self._results.put(result)
            self._show_result()

    def cancel(self) -> None:
        """Cancel what runs, of this page or another; politely, by force after a second."""
        self.link.cancel_runs()

    def image_changed(self, key: str) -> None:
        """The pixels of an image changed: a result that is still to come is dropped."""
        with self._lock:
            self._drop_runs(key, CHANGED_WORDS)
            result = self._results.of_image(key)
            if result is not None:
                result.kept = False
                self.link.submit(p.Forget(result.key))
            self._show_result()

    def _drop_runs(self, key: str, words: str) -> None:
        """A result of an image that is still to come is stale, and it is said why."""
        for call in self.link.outdate(key):
            self.link.fail(ErrorInfo("ImageChanged", words.format(call.about.source.name)))

    def forget_image(self, key: str) -> None:
        """The layer of an image is gone."""
        with self._lock:
            self.link.outdate(key)
            self._axes.pop(key, None)
            result = self._results.of_image(key)
            if result is not None:
                self._results.remove(result)
                self.link.submit(p.Forget(result.key))
            if self.session.image is not None and self.session.image.key == key:
                self.set_image(None)

    def forget_result(self, result_key: str) -> None:
        """The layer of a result is gone."""
        with self._lock:
            self.link.submit(p.Forget(result_key))
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
            self.link.ask("measure", {"labels": labels}, result_key)

    def dismiss_error(self) -> None:
        """The person has read the error."""
        self.session.error = None

    def close(self) -> None:
        """End the engine; returns at once, and nothing is signalled any more."""
        with self._lock:
            self._results.close()
            self.link.close()

    # --- what the engine says --------------------------------------------------------

    def job_done(self, call: p.Call, result: Any) -> None:
        """A call of ours is done; the link says so."""
        if call.kind == "warm_up":
            self.session.info = result
            self.session.device_line = device_line(result)
            self._estimate()
        elif call.kind == "segment":
            self.accept(call.about, result)
        elif call.kind == "derive":
            self._derived(call, result)
        else:
            self.table_ready.emit(TableUpdate(call.key, result))

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """A call of ours failed."""
        if call.kind == "derive" and error.kind == NotKeptError.__name__:
            state = self._results.get(call.key)
            if state is not None:
                state.kept = False
                self._show_result()
            return
        self.link.fail(error)

    def job_cancelled(self, call: p.Call) -> None:
        """A call of ours was cancelled, or a newer one took its place."""
        if call.kind == "segment":
            self.cancelled.emit(call.about.source.key)
        elif call.kind == "derive":
            state = self._results.get(call.key)
            if state is not None:
                self._results.go_on(state)

    def at_known_size(self, request: R) -> R:
        """The request with what the last result of the image has found of cells and stain.

        As it is where a size is chosen, or where model or channels are others since.
        """
        former = self._results.of_image(request.source.key)
        predict = request.predict
        if former is None or former.diameter is None or predict.diameter or not predict.rescale:
            return request
        if _read_as(request) != _read_as(former.request):
            return request
        if any(
            getattr(predict, name) not in ("auto", way) for name, way in former.decided.items()
        ):
            return request
        found = {"diameter": former.diameter, **former.decided}
        return replace(request, predict=predict.model_copy(update=found))

    def accept(
        self, request: SegmentRequest, result: p.SegmentResult, kept: bool = True
    ) -> bool:
        """Take a finished segmentation as the newest result of its image.

        ``kept``: the engine has its probabilities; else it is one from before.

        Its labels go to a new layer where a person has edited the former result, or where
        `SegmentRequest.may_replace` says so; those of another part of the image are added to
        the former result's. False when the image has changed meanwhile: the
        result is dropped.
        """
        image_key = request.source.key
        if self.link.generation(image_key) != request.generation:
            self.link.submit(p.Forget(request.key))
            return False
        former = self._results.of_image(image_key)
        replaces = adds_to = looks_into = None
        same = former is not None and former.is_of(request.source)
        if former is not None and same and request.adds_to(former.request):
            adds_to = former.key
        elif former is not None and request.may_replace(former.request):
            if not former.edited:
                replaces = former.key
            elif same and request.looks and request.window == former.request.window:
                # it lays no cells over those that a person has corrected
                looks_into = former.key
        if former is not None and (replaces or adds_to or looks_into):
            self.link.submit(p.Forget(former.key))
        made_with = request.instances
        state = ResultState(
            request.key,
            request,
            result.summary,
            shown=made_with,
            table_of=made_with,
            wanted=made_with,
            edited=looks_into is not None,
            kept=kept,
            diameter=result.diameter,
            decided=decided_in(result.provenance),
            replaces=replaces,
            adds_to=adds_to,
            looks_into=looks_into,
            blank=not (result.n_tiles or request.predict.tissue),
        )
        self._results.put(state)
        self.session.error = None
        self._show_result()
        self.result_ready.emit(state, result)
        if self.session.instances != made_with:
            # A slider moved while the network ran.
            self._results.want(state, self.session.instances)
        return True

    def _derived(self, call: p.Call, result: p.SegmentResult) -> None:
        state = self._results.get(call.key)
        if state is None or state.edited or not state.kept:
            return
        config = call.about
        state.summary = result.summary
        if config != state.shown:
            state.shown = config
            self.labels_updated.emit(LabelsUpdate(call.key, result.labels, result.summary))
        if result.objects is not None:
            state.table_of = config
            self.table_ready.emit(TableUpdate(call.key, result.objects))
        self._show_result()
        self._results.go_on(state)

    def _sliders_rest(self) -> None:
        with self._lock:
            if not self.link.closed:
                self._results.tables()

    # --- inside ----------------------------------------------------------------------

    def _engine_died(self) -> None:
        self._results.lose_all()
        self._show_result()

    def _warm_up(self) -> None:
        for call in self.link.asked("warm_up"):
            self.link.client.cancel(call.job, force=False)
        arguments = {"model": self.session.model, "predict": self.session.predict}
        self.link.ask("warm_up", arguments)

    def _show_result(self) -> None:
        self._results.show(self.session)
        self._estimate()

    def _estimate(self) -> None:
        self.session.estimate = time_to_run(self.session)


# --------------------------------------------------------------------------------------------
# What a person last chose, for the next time: model, object size, options, sliders.

SCHEMA_VERSION = 1
#: images whose object size is kept
MOST_SIZES = 500
#: what napari's preferences are where nobody has set them
DEFAULTS = {"model": "nuclei", "device": "auto"}


def settings_file() -> Path:
    """Where it is written, in the person's folder of this plugin."""
    return user_data_dir() / "settings.json"


def remember(controller: SegmentController, preferences: dict[str, str]) -> None:
    """Write down what is chosen now; a folder that cannot be written is no reason to stop.

    Parameters
    ----------
    preferences : dict
        What napari's preferences say, as far as it tells; what is changed there later
        counts more.
    """
    session = controller.session
    now: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "preferences": preferences,
        "model": session.model,
        # each image has an object size of its own
        "predict": session.predict.model_dump(mode="json", exclude={"diameter"}),
        "sizes": dict(list(controller.sizes.items())[-MOST_SIZES:]),
        "normalize": session.normalize,
        "where": session.where,
        "planes": session.planes,
        "live": session.live,
        "measure": list(session.measure),
    }
    if controller.instances_chosen:
        now["instances"] = session.instances.model_dump(mode="json")
    text = json.dumps(now, indent=1)
    with suppress(SA2NetError, OSError):
        path = settings_file()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text.encode())


def recall(controller: SegmentController, preferences: dict[str, str]) -> None:
    """Choose as the person did last; what cannot be read is as if there were nothing."""
    try:
        then = json.loads(settings_file().read_text(encoding="utf-8"))
        if then["schema_version"] != SCHEMA_VERSION:
            return
        predict = {**then["predict"], "diameter": None}
        sizes = {
            str(image): PredictConfig(diameter=size).diameter
            for image, size in then.get("sizes", {}).items()
        }
        model = str(then["model"])
        for name, value in preferences.items():
            before = then["preferences"].get(name, DEFAULTS.get(name))
            if before != value:  # chosen anew in napari
                model = value if name == "model" else model
                predict = {**predict, name: value} if name == "device" else predict
        config = PredictConfig(**predict)
        # what was chosen before there was a least confidence would turn it off
        chosen = "min_confidence" in then.get("instances", {})
        instances = InstanceConfig(**then["instances"]) if chosen else None
        where, planes, normalize = then["where"], then["planes"], bool(then["normalize"])
        measure = checked_groups(then.get("measure")) if then.get("measure") != [] else ()
        if where not in get_args(Where) or planes not in ("current", "all"):
            return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SA2NetError):
        return
    controller.sizes.update({image: size for image, size in sizes.items() if size})
    session = controller.session
    session.model, session.predict, session.normalize = model, config, normalize
    # what was drawn is gone with the window
    session.where, session.planes = "whole" if where == "area" else where, planes
    session.live, session.measure = then.get("live") is True, measure
    if instances is not None:
        controller.set_instances(instances)
