"""What the engine does for each request; only it and `learning` need torch here."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from napari_sa2net.config import (
    FineTuneConfig,
    InputConfig,
    InstanceConfig,
    LiveConfig,
    PredictConfig,
    is_taught,
)
from napari_sa2net.data.plan import Box, ImagePlan, plan_image
from napari_sa2net.data.results import Job
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.arrays import (
    open_image,
    whole,
)
from napari_sa2net.engine.learning import News, learn
from napari_sa2net.engine.messages import ObjectTable, Summary
from napari_sa2net.engine.server import Server
from napari_sa2net.errors import Cancelled, NotKeptError, SettingsError
from napari_sa2net.inference import tiling
from napari_sa2net.inference.batch import Batch, BatchSettings
from napari_sa2net.inference.click import object_at
from napari_sa2net.inference.devices import device_name, give_memory_back, resolve_device
from napari_sa2net.inference.instances import foreground_probability, label_objects
from napari_sa2net.inference.planes import (
    MEASURING,
    SEPARATING,
    Windows,
    channels_at,
    intensities,
)
from napari_sa2net.inference.predict import (
    SEGMENTING,
    Predictor,
    ProgressCallback,
)
from napari_sa2net.inference.segment import Prediction, plan_for, predict_image
from napari_sa2net.interpret.explain import (
    Explained,
    look_inside,
    run_channel,
)
from napari_sa2net.interpret.objects import inspect_object
from napari_sa2net.interpret.refinement import compare_objects, stage_change
from napari_sa2net.interpret.whatif import WhatIfRun
from napari_sa2net.measure import object_table, sizes_of
from napari_sa2net.models.checkpoint import name_of_file
from napari_sa2net.models.file import Model, load_model
from napari_sa2net.models.imports import import_model
from napari_sa2net.models.registry import (
    ModelEntry,
    check_model_name,
    find_model,
    is_model_name,
)
from napari_sa2net.nn import network_config
from napari_sa2net.quantities import Quantities, measure_groups
from napari_sa2net.training.compare import (
    Comparison,
    HeldBack,
)
from napari_sa2net.training.run_state import read_state
from napari_sa2net.training.runs import runs_dir

if TYPE_CHECKING:
    from napari_sa2net.training.fine_tune import FineTuned
    from napari_sa2net.training.live import LivePlane

# --------------------------------------------------------------------------------------------
# What the engine keeps of its results, so that sliders need no network.

AS_SET, AS_LEARNED, WHOLE = InstanceConfig(), PredictConfig(), p.Window()
"""How objects are made, how is predicted, and what of an image, where nothing is said."""
LIVE = LiveConfig()

MAX_BYTES = 3 * 2**29
"""Memory for kept results (1.5 GB); the newest is kept however large it is."""
MAX_RESULTS = 6
ON_DISK = 2**30
"""A result of more bytes is kept on disk; without a window, which has sliders, sooner."""


def confidence(made: Prediction, labels: NDArray[Any], at: tuple[int, ...]) -> ObjectTable:
    """Labels and confidence of the objects of a part of what was predicted.

    Parameters
    ----------
    labels : integer array
        Stack axes, Y and X.
    at : tuple of int
        Index of its first element in the prediction's plan.
    """

    def foreground(index: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
        where = tuple(a + b for a, b in zip(index, at[:-2], strict=True))
        y, x = (
            slice(part.start + first, part.stop + first)
            for part, first in zip((rows, columns), at[-2:], strict=True)
        )
        part = np.asarray(made.probability[(*where, slice(None), y, x)])
        return foreground_probability(part, made.classes)

    table = object_table(
        labels,
        Windows(labels.shape, np.dtype(np.float32), foreground),
        stack_axes=made.plan.stack_axes,
    )
    return {name: table[name].to_numpy() for name in ("label", "confidence")}


def _inner_and_rim(
    made: Prediction, index: tuple[int, ...], box: Box
) -> NDArray[np.float32] | None:
    """Probability of interior and boundary in a box of the image, if it was predicted."""
    plan, classes = made.plan, made.classes
    first = plan.in_whole((0,) * len(plan.stack_shape))
    at = tuple(i - f for i, f in zip(index, first, strict=True))
    top, bottom, left, right = plan.box
    y0, y1, x0, x1 = box
    if not all(0 <= i < n for i, n in zip(at, plan.stack_shape, strict=True)) or not (
        top <= y0 and y1 <= bottom and left <= x0 and x1 <= right
    ):
        return None
    rows, columns = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    part = np.asarray(made.probability[(*at, slice(None), rows, columns)])
    if is_taught(classes):
        return part[1:3]
    inner = foreground_probability(part, classes)
    return np.stack([inner, np.zeros_like(inner)])


def in_image(table: pd.DataFrame, origin: Mapping[str, int]) -> ObjectTable:
    """Columns of a table, their positions counted from the first pixel of the image.

    Parameters
    ----------
    table : DataFrame
        Of a window of the image.
    origin : mapping of str to int
        Index of the window's first pixel, by axis.
    """
    columns = {str(name): table[name].to_numpy() for name in table.columns}
    for axis, first in origin.items():
        for name in (axis.lower(), f"centroid_{axis.lower()}"):
            if name in columns:
                columns[name] = columns[name] + first
    return columns


def summarize(labels: Any, axes: str) -> Summary:
    """Count, median area (px²) and how many touch the border of their plane.

    Parameters
    ----------
    labels
        int32, numpy or zarr.
    axes
        One letter per axis, with Y and X.
    """
    count = np.zeros(1, np.int64)
    border = np.zeros(1, bool)
    planes = np.zeros(1, np.int64)
    y, x = axes.index("Y"), axes.index("X")
    stack = [range(n) if i not in (y, x) else [slice(None)] for i, n in enumerate(labels.shape)]
    for index in product(*stack) if 0 not in labels.shape else ():
        plane = np.asarray(labels[index])
        here = np.bincount(plane.ravel(), minlength=len(count))
        more = (0, len(here) - len(count))
        border, planes = np.pad(border, more), np.pad(planes, more) + (here > 0)
        here[: len(count)] += count
        count = here
        for edge in (plane[0], plane[-1], plane[:, 0], plane[:, -1]):
            border[edge] = True
    areas = count[1:][count[1:] > 0]
    median = float(np.median(areas)) if len(areas) else float("nan")
    in_depth = "Z" in axes and bool((planes[1:] > 1).any())
    return Summary(len(areas), median, int(border[1:].sum()), in_depth)


class KeptResults:
    """The newest results by key, within a bound of memory."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_results: int = MAX_RESULTS) -> None:
        self._max_bytes = max_bytes
        self._max_results = max_results
        self._kept: OrderedDict[str, Prediction] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: str, kept: Prediction) -> None:
        """Keep a result; the least recently used ones make room."""
        self.forget(key)
        self._kept[key] = kept
        while len(self._kept) > 1 and (
            len(self._kept) > self._max_results
            or sum(one.n_bytes for one in self._kept.values()) > self._max_bytes
        ):
            self.forget(next(iter(self._kept)))

    def get(self, key: str) -> Prediction:
        """A kept result.

        Raises
        ------
        NotKeptError
            It was dropped, or never there.
        """
        try:
            self._kept.move_to_end(key)
        except KeyError:
            raise NotKeptError(
                "The probabilities of this result are no longer kept. Segment again to "
                "adjust it."
            ) from None
        return self._kept[key]

    def find(self, key: str) -> Prediction | None:
        """A kept result, if it is there."""
        return self.get(key) if key in self._kept else None

    def forget(self, key: str) -> None:
        """Drop a result."""
        self._kept.pop(key, None)


# --------------------------------------------------------------------------------------------
# What the engine does to explain: maps, stages, single objects, what-ifs.


class ExplainHandlers:
    """Answers requests to explain, for the engine's `Handlers`."""

    def __init__(self, handlers: Handlers, server: Server) -> None:
        self._handlers = handlers
        self._server = server
        self._tried: _Tried | None = None

    def explain(
        self, job: int, key: str = "", window: p.Window = WHOLE, **asked: Any
    ) -> p.ExplainResult:
        """Segment a plane, keep what the network showed; arguments as of `Handlers.segment`.

        Raises
        ------
        SettingsError
            Nothing would be kept.
        AxesError
            Of a stack one plane must be named.
        """
        if not key:
            raise SettingsError("An explanation is kept under a name: give a 'key'.")
        start = time.perf_counter()
        handlers = self._handlers
        progress, cancelled = handlers.reporter(job), self._server.cancelled(job)
        predictor, part, instances, units = handlers.open(progress, window, **asked)
        index = part.first if all(n == 1 for n in part.stack_shape) else ()
        kept = look_inside(
            predictor,
            part.whole,
            index,
            instances,
            box=part.box if part.boxed else None,
            progress=progress,
            cancelled=cancelled,
            **units,
        )
        progress(0, 0, SEPARATING)
        labels = kept.labels(instances, cancelled, progress)
        progress(0, 0, "following the boundaries")
        stages = kept.stages(labels, cancelled)
        progress(0, 0, MEASURING)
        table = kept.table(labels, boxes=True)
        # What is sent is there twice for a moment.
        give_memory_back()
        segmentation = handlers.result(key, kept, labels, table, kept.n_tiles, start)
        self.forget(key)
        handlers.kept.put(key, kept)
        return p.ExplainResult(
            segmentation,
            kept.image_maps,
            stages,
            stage_change(stages[2], stages[1]),
            kept.image_gates,
            index,
            kept.box,
            network_config(predictor.model.net),
        )

    def map_channel(
        self, job: int, key: str, name: str, channel: int | None = None
    ) -> p.AttentionMap:
        """A map of one channel, from what is kept or run again; None: of all together."""
        kept = self._kept(key)
        found = kept.channel(name, channel)
        if found is not None:
            return found
        assert channel is not None
        progress = self._handlers.reporter(job)
        return run_channel(
            self._predictor(kept),
            kept,
            name,
            channel,
            on_tile=lambda i, n: progress(i, n, SEGMENTING),
            cancelled=self._server.cancelled(job),
        )

    def inspect(
        self, job: int, key: str, label: int, labels: NDArray[Any] | None = None
    ) -> p.CellInspection:
        """One object, as the labels are now; None: those of the last segmentation."""
        kept = self._kept(key)
        cancelled = self._server.cancelled(job)
        stages = kept.stages(cancelled=cancelled)
        plane = stages[1] if labels is None else kept.flat(labels)
        return inspect_object(
            plane,
            label,
            kept.image_maps,
            stages,
            _Raw(kept),  # type: ignore[arg-type]  # read where the object is only
            origin=kept.corner,
            image_gates=kept.image_gates,
        )

    def what_if(
        self,
        job: int,
        key: str,
        gates: tuple[bool, bool, bool, bool] = (True, True, True, True),
        gamma: p.Exponents = (None, None, None, None),
        se_gamma: p.Exponents = (None, None, None, None),
        instances: InstanceConfig = AS_SET,
        box: Box | None = None,
    ) -> p.WhatIfResult:
        """The box segmented anew, against the same box with attention as trained.

        Parameters
        ----------
        gates
            For each of the four scale gates: as trained, or switched off (False).
        gamma
            Exponents of ψ at strides 8, 4, 2 and 1, in place of the model's own: 0 is off, 1
            plain ψ, above 1 sharper. None keeps the model's own.
        se_gamma
            The same of squeeze and excitation on the skips at these strides.
        box
            ``(y0, y1, x0, x1)`` in pixels of the image, inside what was explained; None for
            all of it.
        """
        start = time.perf_counter()
        kept = self._kept(key)
        tried = self._run(kept, key, box)
        cancelled = self._server.cancelled(job)
        reporter = self._handlers.reporter(job)

        def on_tile(done: int, total: int) -> None:
            reporter(done, total, SEGMENTING)

        run, classes, config = tried.run, kept.classes, instances
        known = tried.probability is not None
        if tried.probability is None:
            tried.probability = np.asarray(run.run(on_tile=on_tile, cancelled=cancelled))
        if tried.before is None or tried.before[0] != config:
            tried.before = (config, label_objects(tried.probability, classes, config))
        changed = run.run(
            gates,
            gamma,
            se_gamma,
            on_tile=on_tile,
            cancelled=cancelled,
        )
        before = tried.before[1]
        after = label_objects(np.asarray(changed), classes, config)
        changes = compare_objects(before, after)
        return p.WhatIfResult(
            **vars(changes),
            key=key,
            labels=after,
            box=run.box,
            n_before=int(before.max(initial=0)),
            n_after=int(after.max(initial=0)),
            seconds=time.perf_counter() - start,
            from_cache=known and run.from_cache,
        )

    def forget(self, key: str) -> None:
        """Drop what belongs to a result that is gone."""
        if self._tried is not None and self._tried.key == key:
            self._tried = None

    def drop_run(self) -> None:
        """Let go of a predictor that is no longer the current one."""
        self._tried = None

    # --- inside --------------------------------------------------------------------------

    def _kept(self, key: str) -> Explained:
        kept = self._handlers.kept.get(key)
        if not isinstance(kept, Explained):
            raise NotKeptError("This result was segmented only. Look inside to explain it.")
        return kept

    def _predictor(self, kept: Explained) -> Predictor:
        return self._handlers.predictor(kept.model, kept.config, kept.plan.model_input)

    def _run(self, kept: Explained, key: str, part: Box | None) -> _Tried:
        predictor = self._predictor(kept)
        box = kept.box if kept.plan.boxed else None
        if part is not None:
            box = _inside(kept, part)
        tried = self._tried
        if (
            tried is None
            or tried.run.predictor is not predictor
            or (tried.key, tried.box) != (key, box)
        ):
            self._tried = tried = None
            run = WhatIfRun(predictor, kept.plan.whole, kept.plan.first, kept.scale, box)
            self._tried = tried = _Tried(key, box, run)
        return tried


@dataclass
class _Tried:
    """The box that what-ifs are about, and how it is with attention as trained."""

    key: str
    box: Box | None
    run: WhatIfRun
    probability: NDArray[np.float32] | None = None
    before: tuple[InstanceConfig, NDArray[np.int32]] | None = None


class _Raw:
    """Raw values (Y, X) or (Y, X, 3) of an explained window, read where they are looked at."""

    def __init__(self, kept: Explained) -> None:
        self._plan = kept.plan
        self._index = (0,) * len(kept.plan.stack_shape)
        self._colours = len(kept.plan.channels) >= 3
        self.shape = (*kept.plan.spatial, 3) if self._colours else kept.plan.spatial
        self.ndim = len(self.shape)

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[Any]:
        y, x = window
        block = self._plan.read_raw(self._index, y.start, y.stop, x.start, x.stop)
        block = block[:, :: y.step, :: x.step]
        return np.moveaxis(block[:3], 0, -1) if self._colours else block[0]


def _inside(kept: Explained, box: Box) -> Box:
    """The box, as far as it lies in what was explained.

    Raises
    ------
    ImageError
        Nothing of the image is in it.
    SettingsError
        Nothing that was explained is in it.
    """
    y0, y1, x0, x1 = kept.plan.whole.part(box=box).box
    top, bottom, left, right = kept.box
    y0, y1, x0, x1 = max(y0, top), min(y1, bottom), max(x0, left), min(x1, right)
    if y1 <= y0 or x1 <= x0:
        raise SettingsError(
            "The view shows nothing of what was explained. Move the camera back over it, or "
            "look inside here."
        )
    return y0, y1, x0, x1


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


MAX_MODELS = 2
PROBE = 512
"""Side of the tile (px) that a warm-up times."""


class Handlers:
    """Answers requests one at a time, on the server's main thread."""

    def __init__(self, server: Server, memory: int = 0) -> None:
        self._server = server
        memory = memory or MAX_BYTES
        self.kept = KeptResults(memory)
        # where the memory is chosen, in the same proportion
        tiling.MEMORY_LIMIT = memory * ON_DISK // MAX_BYTES
        self._models: OrderedDict[tuple[Any, ...], Model] = OrderedDict()
        self._predictors: OrderedDict[tuple[Any, ...], Predictor] = OrderedDict()
        self.explaining = ExplainHandlers(self, server)
        self._batch: tuple[str, Batch] | None = None
        self._live: tuple[tuple[Any, ...], LivePlane] | None = None
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
        if self._live is not None and self._live[0][0] == key:
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
        cancelled = self._server.cancelled(job)
        loaded = self._model(model)
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
            **arguments, progress=self.reporter(job), cancelled=self._server.cancelled(job)
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
        return learn(self._server, job, run, preview, train)

    def resume_fine_tuning(self, job: int, run: str, preview: bool = False) -> p.FineTuneResult:
        """Go on with a run where it stood; news begin with its curves."""
        from napari_sa2net.training.fine_tune import resume_fine_tuning

        def train(on_event: News, **options: Any) -> FineTuned:
            if record := read_state(Path(run)).get("record"):
                on_event.repeat(record)
            return resume_fine_tuning(Path(run), on_event=on_event, **options)

        return learn(self._server, job, Path(run), preview, train)

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
        progress, cancelled = self.reporter(job), self._server.cancelled(job)
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
            self._batch = key, Batch(output, self._model(model), settings)
        return self._batch[1]

    def derive(
        self, job: int, key: str, instances: InstanceConfig = AS_SET, table: bool = False
    ) -> p.SegmentResult:
        """Labels of kept probabilities, with the table if asked for."""
        start = time.perf_counter()
        kept = self.kept.get(key)
        labels = kept.labels(instances, self._server.cancelled(job))
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
        window
            Plane and box in the image.
        **asked
            See `open`.
        """
        made = self.kept.find(key)
        whole = (made.plan if made is not None else self._plan(**asked)).whole
        index, box = tuple(window.index or ()), window.box
        assert box is not None
        image = np.broadcast_to(
            whole.read(index, *box)[:3], (3, box[1] - box[0], box[3] - box[2])
        )
        seen = None if made is None else _inner_and_rim(made, index, box)
        return object_at(image, np.asarray(labels), click, diameter, against, seen)

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
        # Here, because only who learns needs it.
        from napari_sa2net.training.live import LivePlane

        index, box = tuple(window.index or ()), window.box
        assert box is not None
        stopped = self._server.cancelled(job)

        def cancelled() -> bool:
            return stopped() or self._server.is_waited_for()

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
        opened = open_image(image, self._server.read_region)
        return plan_for(self._model(model), opened, axes, channels, normalize, predict)

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
            opened = open_image(image, self._server.read_region)
            plan = plan_image(opened, axes, channels, measure=False)
        if groups:
            units = (sizes_of(sizes["pixel_size_um"]), sizes_of(sizes["z_step_um"])[0])
            n_channels = 0 if plan is None else plan.n_channels
            return measure_groups(
                Quantities(groups, labels.shape, stack_axes, n_channels, *units),
                lambda index, rows, columns: labels[index][rows, columns],
                None if plan is None else channels_at(plan, first),
                between=self._server.between,
            )
        raw = None if plan is None else intensities(plan, first, labels.shape)
        table = object_table(labels, image=raw, stack_axes=stack_axes, boxes=True, **sizes)
        return in_image(table, dict(zip(stack_axes + "YX", first, strict=True)))

    # --- inside --------------------------------------------------------------------------

    def cancelled(self, job: int) -> Callable[[], bool]:
        """Asks whether a job shall stop."""
        return self._server.cancelled(job)

    def reporter(self, job: int) -> ProgressCallback:
        """Tells the client of progress, and lets quick requests pass meanwhile."""

        def progress(done: int, total: int, what: str) -> None:
            self._server.send(p.Progress(job, done, total, what))
            self._server.between()

        return progress

    def open(
        self,
        progress: ProgressCallback,
        window: p.Window,
        *,
        image: Any,
        model: str,
        axes: str | None = None,
        channels: tuple[int, ...] | None = None,
        normalize: bool = True,
        predict: PredictConfig = AS_LEARNED,
        instances: InstanceConfig = AS_SET,
        pixel_size_um: float | None = None,
        z_step_um: float | None = None,
    ) -> tuple[Predictor, ImagePlan, InstanceConfig, dict[str, Any]]:
        """What a call is about: predictor, plan of the part, settings of objects, units.

        Parameters
        ----------
        image, axes, channels, normalize
            As `napari_sa2net.segment` takes them.
        model
            Name or path.
        pixel_size_um, z_step_um
            For the table; None where units are unknown.
        """
        loaded = self._model(model)
        opened = open_image(image, self._server.read_region)
        progress(0, 0, "reading the image")
        plan = plan_for(loaded, opened, axes, channels, normalize, predict)
        part = plan.part(window.index, window.box)
        predictor = self.predictor(loaded, predict, plan.model_input)
        units = {"pixel_size_um": pixel_size_um, "z_step_um": z_step_um}
        return predictor, part, instances, units

    def result(
        self,
        key: str,
        made: Prediction,
        labels: Any,
        table: pd.DataFrame | None,
        n_tiles: int,
        start: float,
    ) -> p.SegmentResult:
        """What is sent of labels that were made last."""
        plan = made.plan
        assert made.last is not None
        return p.SegmentResult(
            key=key,
            labels=whole(labels),
            offset=tuple(plan.origin[name] for name in plan.label_axes),
            summary=summarize(labels, plan.label_axes),
            objects=None if table is None else in_image(table, plan.origin),
            diameter=made.diameter,
            provenance=made.record(made.last[0], origin=plan.origin, whole=plan is plan.whole),
            n_tiles=n_tiles,
            seconds=time.perf_counter() - start,
            seams=made.seams,
        )

    def _model(self, name: str) -> Model:
        """A model by name or path, read again only when its file has changed."""
        entry = find_model(name) if is_model_name(name) else None
        path = entry.path if entry is not None else Path(name)
        try:
            stat = path.stat()
        except OSError:
            return load_model(name)
        key = (name, str(path), stat.st_mtime_ns, stat.st_size)
        if key not in self._models:
            self._models[key] = load_model(name)
            while len(self._models) > MAX_MODELS:
                gone = self._models.popitem(last=False)[1]
                for one in [k for k in self._predictors if k[0] == id(gone)]:
                    del self._predictors[one]
        self._models.move_to_end(key)
        return self._models[key]

    def predictor(self, model: Model, config: PredictConfig, expects: InputConfig) -> Predictor:
        """A predictor, made again only when something of it differs."""
        if config.engine != "auto":
            # Of cells that another engine made elsewhere; what looks inside runs on PyTorch.
            config = config.model_copy(update={"engine": "auto"})
        # What the predictor does not look at, or is told anew.
        same = config.model_copy(
            update={"diameter": None, "rescale": True, "levels": "auto", "contrast": None}
        )
        key = (id(model), same, expects)
        if key not in self._predictors:
            # One network on the device at a time: its memory is scarce.
            self._predictors.clear()
            self._live = None
            self.explaining.drop_run()
            self._predictors[key] = Predictor(model, config, input_config=expects)
        predictor = self._predictors[key]
        predictor.config = config
        return predictor
