"""What the engine does for each request; only it and what it is made of need torch here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sa2net.config import FineTuneConfig, InstanceConfig, LiveConfig, PredictConfig
from napari_sa2net.data.plan import ImagePlan, plan_image
from napari_sa2net.data.results import Job
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.arrays import open_image
from napari_sa2net.engine.cache import (
    AS_LEARNED,
    AS_SET,
    WHOLE,
    Cache,
    confidence,
    in_image,
)
from napari_sa2net.engine.explaining import ExplainHandlers
from napari_sa2net.engine.server import Server
from napari_sa2net.errors import Cancelled, Paused, SettingsError
from napari_sa2net.inference.batch import Batch, BatchSettings
from napari_sa2net.inference.click import ClickNet, object_at, seen_at
from napari_sa2net.inference.devices import device_name, give_memory_back, resolve_device
from napari_sa2net.inference.planes import MEASURING, SEPARATING, channels_at, intensities
from napari_sa2net.inference.segment import plan_for, predict_image
from napari_sa2net.measure import object_table, sizes_of
from napari_sa2net.models.checkpoint import name_of_file
from napari_sa2net.models.file import Model, save_model
from napari_sa2net.models.imports import import_model
from napari_sa2net.models.registry import ModelEntry, check_model_name
from napari_sa2net.quantities import Quantities, measure_groups
from napari_sa2net.training.compare import (
    Comparison,
    Event,
    HeldBack,
    LossPoint,
    Notice,
    Planned,
    RoundPoint,
)
from napari_sa2net.training.runs import read_state, runs_dir

if TYPE_CHECKING:
    from napari_sa2net.training.fine_tune import FineTuned
    from napari_sa2net.training.live import LivePlane

#: Seconds between two events with points of the loss curve.
PERIOD = 0.2
PREVIEW = "preview.safetensors"
LIVE = LiveConfig()
#: Side of the tile (px) that a warm-up times.
PROBE = 512


class _FileNews:
    """Progress of an image of a batch, which ends where it is cancelled."""

    def __init__(self, handlers: Handlers, job: int) -> None:
        self._report = handlers.reporter(job)
        self._cancelled = handlers.cancelled(job)

    def step(self, done: int, total: int, what: str) -> None:
        """What goes on, and how far it is."""
        if self._cancelled():
            raise Cancelled("Cancelled; what was done before is kept.")
        self._report(done, total, what)

    def note(self, name: str, message: str) -> None:
        """What the shell prints beside; the window shows it with the image itself."""


def _learn(
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
    news = _RunNews(server, job, run)
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


class _RunNews:
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


def load_learning() -> None:
    """What learning needs beside the network: torch's optimizers take a second to be loaded."""
    import napari_sa2net.training.live  # noqa: F401

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


class Handlers(Cache):
    """Answers requests one at a time, on the server's main thread."""

    def __init__(self, server: Server, memory: int = 0) -> None:
        super().__init__(server, memory)
        self.explaining = ExplainHandlers(self)
        self.before_predictor += [self._drop_live, self.explaining.drop_run]
        self._batch: tuple[str, Batch] | None = None
        self._live: tuple[tuple[Any, ...], LivePlane] | None = None
        self._lessons: dict[str, ClickNet] = {}
        self._learning: threading.Thread | None = None
        functions: tuple[Callable[..., Any], ...] = (
            self.segment,
            self.explaining.explain,
            self.warm_up,
            self.import_model,
            self.compare_models,
            self.fine_tune,
            self.resume_fine_tuning,
            self.derive,
            self.measure,
            self.measure_image,
            self.object_at,
            self.teach_clicks,
            self.segment_file,
            self.finish_files,
            self.wave,
            self.explaining.map_channel,
            self.explaining.inspect,
            self.explaining.what_if,
        )
        self._calls = {function.__name__: function for function in functions}

    def run(self, call: p.Call) -> Any:
        """The result of a call; raises what goes wrong."""
        about = {"key": call.key} if call.key else {}
        return self._calls[call.name](call.job, **about, **call.arguments)

    def forget(self, key: str) -> None:
        """Drop what is kept under a key."""
        self.kept.forget(key)
        self.explaining.forget(key)
        self._lessons.pop(key, None)
        if self._live is not None and self._live[0][0] == key:
            self._drop_live()

    def _drop_live(self) -> None:
        self._live = None

    def info(self, device: str = "auto") -> p.EngineInfo:
        """What this process runs on."""
        chosen = resolve_device(device)
        devices = ["cpu"]
        if torch.cuda.is_available():
            devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            devices.append("mps")
        return p.EngineInfo(
            device=str(chosen),
            device_name=device_name(chosen),
            torch_version=str(torch.__version__),
            pid=os.getpid(),
            devices=tuple(devices),
            threads=torch.get_num_threads(),
        )

    # --- requests ------------------------------------------------------------------------

    def warm_up(self, job: int, model: str, predict: PredictConfig) -> p.EngineInfo:
        """Load the model and time one tile: the best of two, after a first one."""
        cancelled = self.server.cancelled(job)
        loaded = self.model(model)
        predictor = self.predictor(loaded, predict, loaded.card.input)
        side = min(PROBE, predictor.tile)
        channels = loaded.card.network.in_channels
        x = np.random.default_rng(0).random((channels, side, side), np.float32)
        times = []
        for _ in range(3):
            if cancelled():
                raise Cancelled("Cancelled; nothing was changed.")
            start = time.perf_counter()
            predictor.probabilities(x)
            times.append(time.perf_counter() - start)
        # The first run of a network is slower, and napari starts beside it.
        return replace(
            self.info(predict.device),
            seconds_per_megapixel=min(times) / (side * side / 1e6),
            model=model,
            model_diameter=loaded.card.diameter,
        )

    def import_model(self, job: int, path: str) -> tuple[ModelEntry, str]:
        """Take in a file under a name that is free; also the name that it should have had."""
        wanted = name_of_file(Path(path))
        return import_model(path, free_name=True), wanted

    def compare_models(self, job: int, **arguments: Any) -> Comparison:
        """Score two models on the same images."""
        # Here, because only who compares needs it.
        from napari_sa2net.training.compare_models import compare_models

        return compare_models(
            **arguments, progress=self.reporter(job), cancelled=self.server.cancelled(job)
        )

    def fine_tune(
        self,
        job: int,
        training_set: str,
        base: str,
        config: FineTuneConfig,
        name: str,
        preview: bool = False,
    ) -> p.FineTuneResult:
        """Let a model learn from corrections."""
        # Here and below: what trains takes longer to import than all the rest.
        from napari_sa2net.training.fine_tune import fine_tune

        run = runs_dir() / check_model_name(name)
        train = partial(fine_tune, training_set, base, config, name=name)
        return _learn(self.server, job, run, preview, train)

    def resume_fine_tuning(self, job: int, run: str, preview: bool = False) -> p.FineTuneResult:
        """Go on with a run where it stood; news begin with its curves."""
        from napari_sa2net.training.fine_tune import resume_fine_tuning

        def train(on_event: _RunNews, **options: Any) -> FineTuned:
            if record := read_state(Path(run)).get("record"):
                on_event.repeat(record)
            return resume_fine_tuning(Path(run), on_event=on_event, **options)

        return _learn(self.server, job, Path(run), preview, train)

    def segment(
        self, job: int, key: str = "", window: p.Window = WHOLE, **asked: Any
    ) -> p.SegmentResult:
        """Run the network, make labels and table; with a key, keep the probabilities.

        Parameters
        ----------
        window
            What to segment; the normalisation is always that of the whole image.
        **asked
            See `open`.
        """
        start = time.perf_counter()
        progress, cancelled = self.reporter(job), self.server.cancelled(job)
        predictor, part, instances, units = self.open(progress, window, **asked)
        made = predict_image(
            predictor.model,
            part,
            instances=instances,
            predictor=predictor,
            progress=progress,
            cancelled=cancelled,
            **units,
        )
        progress(0, 0, SEPARATING)
        labels = made.labels(instances, cancelled, progress)
        progress(0, 0, MEASURING)
        table = made.table(labels, boxes=True)
        result = self.result(key, made, labels, table, made.n_tiles, start)
        if key:
            self.kept.put(key, made)
        return result

    def segment_file(
        self, job: int, key: str, file: Job, output: Path, model: str, settings: BatchSettings
    ) -> dict[str, Any]:
        """Do one image of a batch into its output folder, as the shell does.

        Parameters
        ----------
        key
            Of the batch.

        Returns
        -------
        What became of it, in the words of the manifest; an image that failed says why.

        Raises
        ------
        OutputError
            If the output folder cannot be written.
        """
        return self._batch_of(key, output, model, settings).image(file, _FileNews(self, job))

    def finish_files(
        self,
        job: int,
        key: str,
        output: Path,
        model: str,
        settings: BatchSettings,
        images: list[dict[str, Any]],
        n_images: int,
        state: str,
        seconds: float,
    ) -> dict[str, Any]:
        """Write the table and the manifest of a batch; see `Batch.finish`."""
        batch = self._batch_of(key, output, model, settings)
        self._batch = None
        return batch.finish(images, n_images, state, seconds)

    def _batch_of(self, key: str, output: Path, model: str, settings: BatchSettings) -> Batch:
        if self._batch is None or self._batch[0] != key:
            self._batch = key, Batch(output, self.model(model), settings)
        return self._batch[1]

    def derive(
        self, job: int, key: str, instances: InstanceConfig = AS_SET, table: bool = False
    ) -> p.SegmentResult:
        """Labels of kept probabilities, with the table if asked for."""
        start = time.perf_counter()
        kept = self.kept.get(key)
        labels = kept.labels(instances, self.server.cancelled(job))
        objects = kept.table(labels, boxes=True) if table else None
        return self.result(key, kept, labels, objects, 0, start)

    def measure(
        self, job: int, key: str, labels: NDArray[Any], at: tuple[int, ...] | None = None
    ) -> p.ObjectTable:
        """The object table of labels that a person has edited, over the kept image.

        Parameters
        ----------
        labels
            int32, in the shape of the result.
        at
            Where only part of the result is given, its first element (stack axes, y, x): then
            the table has the columns label and confidence alone.
        """
        kept = self.kept.get(key)
        if at is not None:
            return confidence(kept, labels, at)
        if labels.shape != kept.plan.label_shape or labels.dtype.kind not in "iu":
            raise SettingsError(
                f"Labels of shape {labels.shape} do not fit the result of shape "
                f"{kept.plan.label_shape}; segment again."
            )
        return in_image(kept.table(labels, boxes=True), kept.plan.origin)

    def object_at(
        self,
        job: int,
        labels: NDArray[Any],
        click: tuple[float, float],
        diameter: float,
        key: str = "",
        against: tuple[tuple[float, float], ...] = (),
        lesson: str = "",
        window: p.Window = WHOLE,
        **asked: Any,
    ) -> NDArray[np.bool_]:
        """The object under a click in a box of a plane, with what is kept under the key.

        Parameters
        ----------
        labels
            Of the window's box.
        click, against
            (y, x) in that box, as of `inference.click.object_at`.
        diameter
            Of a typical object (px).
        lesson
            Key of `teach_clicks`; of one that is not known, the bundled network answers.
        window
            Plane and box in the image.
        **asked
            See `open`.
        """
        made = self.kept.find(key)
        whole = (made.plan if made is not None else self._plan(**asked)).whole
        assert window.box is not None
        image, seen = seen_at(whole, made, tuple(window.index or ()), window.box)
        return object_at(
            image, np.asarray(labels), click, diameter, against, seen, self._lessons.get(lesson)
        )

    def teach_clicks(
        self,
        job: int,
        key: str,
        taught: tuple[p.TaughtCell, ...],
        diameter: float,
        result: str = "",
        window: p.Window = WHOLE,
        **asked: Any,
    ) -> tuple[int, ...]:
        """Let clicks on a plane learn from a person's cells; their labels, none if no help.

        It gives way to whatever else is asked for, and is cancelled then.

        Parameters
        ----------
        key
            Under which what is learned is kept, in place of what was.
        diameter
            Of a typical cell (px).
        result
            Key of what was predicted there, if anything was.
        window
            The plane.
        **asked
            See `open`.
        """
        stopped = self.server.cancelled(job)

        def on_step(*_: int) -> None:
            self.server.between()
            if stopped() or self.server.is_waited_for():
                raise Cancelled("Cancelled; nothing was changed.")

        self._ready_to_learn(on_step)
        # Here, because only who learns needs it.
        from napari_sa2net.training.click import ClickExample, learned_clicks

        made = self.kept.find(result)
        whole = (made.plan if made is not None else self._plan(**asked)).whole
        examples = []
        for cell in taught:
            image, seen = seen_at(whole, made, tuple(window.index or ()), cell.box)
            if seen is None:
                seen = np.zeros((3, *cell.labels.shape), np.float32)
            own = np.asarray(cell.labels) == cell.label
            examples.append(ClickExample(image, seen, np.asarray(cell.labels), own, diameter))
        net = learned_clicks(examples, on_step)
        self._lessons.pop(key, None)
        if net is None:
            return ()
        self._lessons[key] = net
        return tuple(cell.label for cell in taught)

    def wave(
        self,
        job: int,
        key: str,
        labels: NDArray[Any],
        counts: NDArray[np.bool_],
        areas: NDArray[np.bool_],
        reviewed: tuple[int, ...],
        held_back: tuple[HeldBack, ...] = (),
        config: LiveConfig = LIVE,
        window: p.Window = WHOLE,
        **asked: Any,
    ) -> p.WaveResult:
        """Learn from what is reviewed in a box of a plane, and propose the rest anew.

        It gives way to whatever else is asked for: then it is cancelled.

        Parameters
        ----------
        key
            Of the image and its content; what does not change is kept under it.
        labels
            Of the window's box.
        counts, areas
            Pixels of the box to learn from, and of marked and cleared areas.
        reviewed
            Labels of the cells that must not change.
        held_back
            Corrections to score by.
        config
            How it learns.
        window
            Plane and box in the image.
        **asked
            See `open`.
        """
        index, box = tuple(window.index or ()), window.box
        assert box is not None
        stopped = self.server.cancelled(job)

        def cancelled() -> bool:
            return stopped() or self.server.is_waited_for()

        def give_way() -> None:
            self.server.between()
            if cancelled():
                raise Cancelled("Cancelled; nothing was changed.")

        self._ready_to_learn(give_way)
        # Here, because only who learns needs it.
        from napari_sa2net.training.live import LivePlane

        progress = self.reporter(job)
        predictor, part, instances, units = self.open(progress, window, **asked)
        same = (key, index, id(predictor), predictor.config, instances, part.whole.channels)
        if self._live is None or self._live[0] != same:
            self._live = None
            plane = LivePlane(predictor, part, index, instances, progress, cancelled)
            self._live = (same, plane)
        plane = self._live[1]
        labels = np.asarray(labels)
        made = plane.wave(
            labels,
            np.asarray(counts),
            np.asarray(areas) | np.isin(labels, reviewed),
            (box[0], box[2]),
            held_back,
            config,
            progress=progress,
            cancelled=cancelled,
            **units,
        )
        give_memory_back()
        return p.WaveResult(
            made.patch,
            made.n_learned,
            made.n_judged,
            made.before,
            made.after,
            made.seconds,
            made.provenance,
        )

    def _ready_to_learn(self, give_way: Callable[[], None]) -> None:
        """Load what learning needs, once; meanwhile ``give_way`` lets others be answered."""
        if self._learning is None:
            self._learning = threading.Thread(target=load_learning, daemon=True)
            self._learning.start()
        while self._learning.is_alive():
            give_way()
            self._learning.join(0.01)

    def _plan(
        self,
        image: Any,
        model: str,
        axes: str | None = None,
        channels: Any = None,
        normalize: bool = True,
        predict: PredictConfig = AS_LEARNED,
        **_: Any,
    ) -> ImagePlan:
        """Plan of an image for a model, of the arguments of `open`."""
        opened = open_image(image, self.server.read_region)
        return plan_for(self.model(model), opened, axes, channels, normalize, predict)

    def measure_image(
        self,
        job: int,
        labels: NDArray[Any],
        image: Any = None,
        axes: str | None = None,
        channels: tuple[int, ...] | None = None,
        corner: tuple[int, ...] | None = None,
        stack_axes: str = "",
        groups: tuple[str, ...] = (),
        **sizes: Any,
    ) -> p.ObjectTable:
        """The table of labels of any origin, without intensities where there is no image.

        Parameters
        ----------
        labels
            Whole numbers, stack axes + (H, W).
        image, axes, channels
            As of `open`.
        corner
            Place of the first label in the image (stack axes, y, x).
        groups
            Of measurements, as of `object_table`: then the table has their columns alone,
            and intensities are those of all channels.
        stack_axes, **sizes
            Of the labels, as of `object_table`.
        """
        first = corner or (0,) * labels.ndim
        plan = None
        if image is not None:
            opened = open_image(image, self.server.read_region)
            plan = plan_image(opened, axes, channels, measure=False)
        if groups:
            units = (sizes_of(sizes["pixel_size_um"]), sizes_of(sizes["z_step_um"])[0])
            n_channels = 0 if plan is None else plan.n_channels
            return measure_groups(
                Quantities(groups, labels.shape, stack_axes, n_channels, *units),
                lambda index, rows, columns: labels[index][rows, columns],
                None if plan is None else channels_at(plan, first),
                between=self.server.between,
            )
        raw = None if plan is None else intensities(plan, first, labels.shape)
        table = object_table(labels, image=raw, stack_axes=stack_axes, boxes=True, **sizes)
        return in_image(table, dict(zip(stack_axes + "YX", first, strict=True)))
