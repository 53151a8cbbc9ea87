"""What the engine does for each request; the one module here that needs torch."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_sa2net.config import InputConfig, PredictConfig
from napari_sa2net.data.plan import ImagePlan, plan_image
from napari_sa2net.engine import protocol as p
from napari_sa2net.engine.explain_handlers import ExplainHandlers
from napari_sa2net.engine.kept import Kept, KeptResults, in_image, summarize
from napari_sa2net.engine.models_handlers import compare, take_in
from napari_sa2net.engine.remote import (
    OpenImage,
    WindowPlan,
    open_image,
    resolve_box,
    resolve_index,
)
from napari_sa2net.engine.server import Server
from napari_sa2net.engine.shm import take
from napari_sa2net.errors import Cancelled, SettingsError
from napari_sa2net.inference.devices import device_name, resolve_device
from napari_sa2net.inference.labelling import MEASURING, SEPARATING, intensities
from napari_sa2net.inference.prediction import (
    Prediction,
    choose_scale,
    plan_for,
    predict_image,
)
from napari_sa2net.inference.predictor import (
    CancelCallback,
    Predictor,
    ProgressCallback,
)
from napari_sa2net.inference.tiles import inside
from napari_sa2net.measure import object_table
from napari_sa2net.models.model import Model, load_model
from napari_sa2net.models.registry import find_model, is_model_name
from napari_sa2net.provenance import provenance

MAX_MODELS = 2
PROBE = 512
"""Side of the tile (px) that a warm-up times."""


@dataclass(frozen=True)
class Opened:
    """What a request is about.

    Attributes
    ----------
    whole, window
        Plans of the image, and of the part of it that was asked for.
    index
        Plane of the stack; None for all, or where there is no stack.
    box
        ``(y0, y1, x0, x1)`` in pixels of the image.
    """

    model: Model
    image: OpenImage
    whole: ImagePlan
    window: WindowPlan
    index: tuple[int, ...] | None
    box: tuple[int, int, int, int]
    predictor: Predictor


class Handlers:
    """Answers requests one at a time, on the server's main thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.kept = KeptResults()
        self._models: OrderedDict[tuple[Any, ...], Model] = OrderedDict()
        self._predictors: OrderedDict[tuple[Any, ...], Predictor] = OrderedDict()
        self.explaining = ExplainHandlers(self, server)

    def run(self, request: p.JobRequest) -> Any:
        """The result of a request; raises what goes wrong."""
        match request:
            case p.WarmUp():
                return self.warm_up(request)
            case p.Explain():
                return self.explaining.explain(request)
            case p.MapChannel():
                return self.explaining.map_channel(request)
            case p.Inspect():
                return self.explaining.inspect(request)
            case p.WhatIf():
                return self.explaining.what_if(request)
            case p.Segment():
                return self.segment(request)
            case p.Derive():
                return self.derive(request)
            case p.Measure():
                return self.measure(request)
            case p.MeasureImage():
                return self.measure_image(request)
            case p.ImportModel():
                return take_in(request)
            case p.Compare():
                job = request.job
                return compare(request, self.reporter(job), self._server.cancelled(job))
            case p.FineTune():
                # Loaded in the training engine alone: it takes seconds.
                from napari_sa2net.engine.train_handlers import TrainHandlers

                return TrainHandlers(self._server).fine_tune(request)

    def forget(self, key: str) -> None:
        """Drop what is kept under a key."""
        self.kept.forget(key)
        self.explaining.forget(key)

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

    def warm_up(self, request: p.WarmUp) -> p.EngineInfo:
        """Load the model and time one tile: the best of two, after a first one."""
        cancelled = self._server.cancelled(request.job)
        model = self._model(request.model)
        predictor = self.predictor(model, request.predict, model.card.input)
        side = min(PROBE, predictor.tile)
        channels = model.card.network.in_channels
        x = np.random.default_rng(0).random((channels, side, side), np.float32)
        times = []
        for _ in range(3):
            if cancelled():
                raise Cancelled("Cancelled; nothing was changed.")
            start = time.perf_counter()
            predictor.probabilities(x)
            times.append(time.perf_counter() - start)
        # The first run of a network is slower, and napari starts beside it.
        seconds = min(times)
        info = self.info(request.predict.device)
        return p.EngineInfo(
            **{
                **vars(info),
                "seconds_per_megapixel": seconds / (side * side / 1e6),
                "model": request.model,
                "model_diameter": model.card.diameter,
            }
        )

    def segment(self, request: p.Segment) -> p.SegmentResult:
        """Run the network, keep the probabilities, make labels and table."""
        start = time.perf_counter()
        progress, cancelled = self.reporter(request.job), self._server.cancelled(request.job)
        opened = self.open(request, progress)
        try:
            made, probability = _predict(opened, request, progress, cancelled)
            kept = Kept(
                opened.window,
                opened.image,
                probability,
                opened.model.card.classes,
                request.pixel_size_um,
                made.diameter,
                self.record(opened, request, made),
                made.seams,
                z_step_um=request.z_step_um,
            )
            result = self.finish(request, kept, made.n_tiles, start, progress, cancelled)
        except BaseException:
            opened.image.close()
            raise
        if request.keep_as:
            self.kept.put(request.keep_as, kept)
        else:
            opened.image.close()
        return result

    def derive(self, request: p.Derive) -> p.SegmentResult:
        """Labels of kept probabilities, with the table if asked for."""
        start = time.perf_counter()
        kept = self.kept.get(request.key)
        labels = kept.labels(request.instances, self._server.cancelled(request.job))
        kept.provenance = {
            **kept.provenance,
            "settings": {
                **kept.provenance["settings"],
                "instances": request.instances.model_dump(mode="json"),
            },
        }
        objects = kept.table(labels) if request.table else None
        return self.result(request.key, kept, labels, objects, 0, start)

    def measure(self, request: p.Measure) -> p.ObjectTable:
        """The table of labels that came from the client."""
        labels = take(request.labels)
        self._server.send(p.Release(request.labels.name))
        kept = self.kept.get(request.key)
        if request.at is not None:
            return kept.confidence(labels, request.at)
        if labels.shape != kept.plan.label_shape or labels.dtype.kind not in "iu":
            raise SettingsError(
                f"Labels of shape {labels.shape} do not fit the result of shape "
                f"{kept.plan.label_shape}; segment again."
            )
        return kept.table(labels)

    def measure_image(self, request: p.MeasureImage) -> p.ObjectTable:
        """The table of labels of any origin on the image under them."""
        labels = take(request.labels)
        self._server.send(p.Release(request.labels.name))
        image = None
        if request.image is not None:
            image = open_image(request.image, self._server.read_region)
            if isinstance(request.image, p.ArrayRef):
                self._server.send(p.Release(request.image.name))
        try:
            raw = None
            first = request.corner or (0,) * labels.ndim
            if image is not None:
                plan = plan_image(image.array, request.axes, request.channels, measure=False)
                raw = intensities(plan, first, labels.shape)
            table = object_table(
                labels,
                image=raw,
                pixel_size_um=request.pixel_size_um,
                stack_axes=request.stack_axes,
                z_step_um=request.z_step_um,
                boxes=True,
            )
        finally:
            if image is not None:
                image.close()
        axes = request.stack_axes + "YX"
        return in_image(table, dict(zip(axes, first, strict=True)))

    # --- inside --------------------------------------------------------------------------

    def reporter(self, job: int) -> ProgressCallback:
        """Tells the client of progress, and lets quick requests pass meanwhile."""

        def progress(done: int, total: int, what: str) -> None:
            self._server.send(p.Progress(job, done, total, what))
            self._server.between()

        return progress

    def open(self, request: p.Segment, progress: ProgressCallback) -> Opened:
        """What a request is about: model, image, plans and predictor."""
        model = self._model(request.model)
        image = open_image(request.image, self._server.read_region)
        if isinstance(request.image, p.ArrayRef):
            self._server.send(p.Release(request.image.name))
        try:
            progress(0, 0, "reading the image")
            whole = plan_for(
                model,
                image.array,
                request.axes,
                request.channels,
                request.normalize,
                request.predict,
            )
            index = resolve_index(whole, request.window.index)
            box = resolve_box(whole, request.window.box)
            window = WindowPlan(whole, index, box)
            predictor = self.predictor(model, request.predict, whole.model_input)
        except BaseException:
            image.close()
            raise
        return Opened(model, image, whole, window, index, box, predictor)

    def finish(
        self,
        request: p.Segment,
        kept: Kept,
        n_tiles: int,
        start: float,
        progress: ProgressCallback,
        cancelled: CancelCallback,
    ) -> p.SegmentResult:
        """Labels and table of probabilities."""
        progress(0, 0, SEPARATING)
        labels = kept.labels(request.instances, cancelled, progress)
        progress(0, 0, MEASURING)
        return self.result(request.keep_as, kept, labels, kept.table(labels), n_tiles, start)

    def result(
        self,
        key: str,
        kept: Kept,
        labels: Any,
        objects: p.ObjectTable | None,
        n_tiles: int,
        start: float,
    ) -> p.SegmentResult:
        return p.SegmentResult(
            key=key,
            labels=self._server.pool.share(labels),
            offset=kept.offset,
            summary=summarize(labels, kept.plan.label_axes),
            objects=objects,
            diameter=kept.diameter,
            provenance=kept.provenance,
            n_tiles=n_tiles,
            seconds=time.perf_counter() - start,
            seams=kept.seams,
        )

    @staticmethod
    def record(opened: Opened, request: p.Segment, made: Prediction) -> dict[str, Any]:
        """Provenance of a result."""
        model, window = opened.model, opened.window
        box = request.window.box
        return provenance(
            model.name,
            model.sha256,
            {
                **window.settings(
                    origin=window.origin,
                    whole=box is None and request.window.index is None,
                ),
                "predict": request.predict,
                "instances": request.instances,
            },
            request.pixel_size_um,
            diameter=made.diameter,
            scale=made.scale,
            device=made.device,
            precision=made.precision,
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
        # What the predictor does not look at, or is told anew.
        same = config.model_copy(
            update={"diameter": None, "rescale": True, "levels": "auto", "contrast": None}
        )
        key = (id(model), same, expects)
        if key not in self._predictors:
            # One network on the device at a time: its memory is scarce.
            self._predictors.clear()
            self.explaining.drop_run()
            self._predictors[key] = Predictor(model, config, input_config=expects)
        predictor = self._predictors[key]
        predictor.config = config
        return predictor


def _predict(
    opened: Opened,
    request: p.Segment,
    progress: ProgressCallback,
    cancelled: CancelCallback,
) -> tuple[Prediction, Any]:
    """Prediction, and the probabilities of the window."""
    model, whole, predictor = opened.model, opened.whole, opened.predictor
    options: dict[str, Any] = {
        "instances": request.instances,
        "predictor": predictor,
        "progress": progress,
        "cancelled": cancelled,
    }
    if request.window.box is None:
        made = predict_image(model, opened.window, **options)
        return made, made.probability
    # The view is segmented as it would be within the whole image: with its object size, and
    # with context around it.
    diameter, scale = choose_scale(predictor, whole, request.instances, cancelled, progress)
    predictor.config = predictor.config.model_copy(update={"diameter": diameter})
    inner = outer = opened.box
    if not whole.is_empty:
        outer = predictor.context(whole.spatial, inner, scale)
    made = predict_image(model, WindowPlan(whole, opened.index, outer), **options)
    y, x = inner[0] - outer[0], inner[2] - outer[2]
    height, width = opened.window.spatial
    crop = (..., slice(y, y + height), slice(x, x + width))
    made = replace(made, seams=inside(made.seams, (y, x), (height, width)))
    return made, np.ascontiguousarray(made.probability[crop])
