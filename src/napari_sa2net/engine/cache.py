"""What the engine keeps between calls: models, predictors and results."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_sa2net.config import InputConfig, InstanceConfig, PredictConfig, Progress
from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.arrays import open_image, whole
from napari_sa2net.engine.messages import ObjectTable, Summary
from napari_sa2net.engine.server import Server
from napari_sa2net.errors import NotKeptError
from napari_sa2net.inference import tiling
from napari_sa2net.inference.instances import foreground_probability
from napari_sa2net.inference.planes import Windows, moved
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import Prediction, plan_for
from napari_sa2net.measure import object_table
from napari_sa2net.models.file import Model, load_model
from napari_sa2net.models.registry import find_model, is_model_name

AS_SET, AS_LEARNED, WHOLE = InstanceConfig(), PredictConfig(), p.Window()
"""How objects are made, how is predicted, and what of an image, where nothing is said."""

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
        where, y, x = moved(at, index, rows, columns)
        part = np.asarray(made.probability[(*where, slice(None), y, x)])
        return foreground_probability(part, made.classes)

    table = object_table(
        labels,
        Windows(labels.shape, np.dtype(np.float32), foreground),
        stack_axes=made.plan.stack_axes,
    )
    return {name: table[name].to_numpy() for name in ("label", "confidence")}


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


MAX_MODELS = 2


class Cache:
    """Models, predictors and results, and what a call is about.

    Attributes
    ----------
    kept : KeptResults
    before_predictor : list of callables
        Called before another predictor is made, to let go of what belongs to the one before.
    """

    def __init__(self, server: Server, memory: int = 0) -> None:
        self.server = server
        memory = memory or MAX_BYTES
        self.kept = KeptResults(memory)
        # where the memory is chosen, in the same proportion
        tiling.MEMORY_LIMIT = memory * ON_DISK // MAX_BYTES
        self.before_predictor: list[Callable[[], None]] = []
        self._models: OrderedDict[tuple[Any, ...], Model] = OrderedDict()
        self._predictors: OrderedDict[tuple[Any, ...], Predictor] = OrderedDict()
        #: a predictor, and the same as adapted to an image: the last one
        self._adapted: tuple[Predictor, Predictor] | None = None

    def cancelled(self, job: int) -> Callable[[], bool]:
        """Asks whether a job shall stop."""
        return self.server.cancelled(job)

    def reporter(self, job: int) -> Progress:
        """Tells the client of progress, and lets quick requests pass meanwhile."""

        def progress(done: int, total: int, what: str) -> None:
            self.server.send(p.Progress(job, done, total, what))
            self.server.between()

        return progress

    def open(
        self,
        progress: Progress,
        window: p.Window,
        *,
        image: Any,
        model: str,
        axes: str | None = None,
        channels: tuple[int, ...] | None = None,
        normalize: bool = True,
        predict: PredictConfig = AS_LEARNED,
        instances: InstanceConfig = AS_SET,
        pixel_size_um: float | tuple[float, float] | None = None,
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
        loaded = self.model(model)
        opened = open_image(image, self.server.read_region)
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

    def model(self, name: str) -> Model:
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
        told = {"diameter": None, "rescale": True, "levels": "auto", "contrast": None}
        same = config.model_copy(update={**told, "dab": "auto", "adapt": "auto"})
        base = model.base or model
        key = (id(base), same, expects)
        if key not in self._predictors:
            # One network on the device at a time: its memory is scarce.
            self._predictors.clear()
            self._adapted = None
            for drop in self.before_predictor:
                drop()
            self._predictors[key] = Predictor(base, config, input_config=expects)
        predictor = self._predictors[key]
        if model is not base:
            former, adapted = self._adapted or (None, None)
            if adapted is None or former is not predictor or adapted.model is not model:
                adapted = predictor.with_encoder(model)
                self._adapted = predictor, adapted
            predictor = adapted
        predictor.config = config
        return predictor
