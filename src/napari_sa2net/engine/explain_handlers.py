"""What the engine does to explain: maps, stages, single objects, what-ifs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.engine import protocol as p
from napari_sa2net.engine.kept import Kept
from napari_sa2net.engine.remote import resolve_box
from napari_sa2net.engine.shm import take
from napari_sa2net.errors import NotKeptError, SettingsError
from napari_sa2net.inference.changes import compare_objects, stage_change
from napari_sa2net.inference.devices import give_memory_back
from napari_sa2net.inference.explain import Explained, explain_plane, run_channel
from napari_sa2net.inference.explanation import (
    check_plane,
    check_size,
    stage_labels,
    with_reasons,
)
from napari_sa2net.inference.inspection import inspect_object, mean_gates
from napari_sa2net.inference.instances import foreground_probability, label_objects
from napari_sa2net.inference.labelling import MEASURING, SEPARATING, LabelPlane
from napari_sa2net.inference.prediction import Prediction, choose_scale
from napari_sa2net.inference.predictor import (
    SEGMENTING,
    CancelCallback,
    Predictor,
)
from napari_sa2net.inference.profiles import all_profiles
from napari_sa2net.inference.whatif import WhatIfRun
from napari_sa2net.models.model import Model
from napari_sa2net.nn import network_config

if TYPE_CHECKING:
    from napari_sa2net.engine.handlers import Handlers, Opened
    from napari_sa2net.engine.server import Server

Box = tuple[int, int, int, int]


@dataclass(eq=False)
class KeptExplanation(Kept):
    """What is kept of an explained plane.

    Attributes
    ----------
    model, predict
        What it was made with.
    whole
        Plan of the whole image.
    """

    model: Model = None  # type: ignore[assignment]  # fields of Kept have defaults
    predict: PredictConfig = None  # type: ignore[assignment]
    whole: ImagePlan = None  # type: ignore[assignment]
    explained: Explained = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self._stages: tuple[InstanceConfig, dict[int, NDArray[np.int32]]] | None = None
        self._config = InstanceConfig()
        self.maps = self.explained.placed()
        self.image_gates = mean_gates(self.maps)

    @property
    def n_bytes(self) -> int:
        stages = self._stages[1].values() if self._stages is not None else ()
        maps = sum(one.values.nbytes for one in self.maps.values())
        return super().n_bytes + self.explained.n_bytes + maps + sum(s.nbytes for s in stages)

    @property
    def origin(self) -> tuple[int, int]:
        """First pixel of the window in the image."""
        return self.explained.box[0], self.explained.box[2]

    def labels(
        self, config: InstanceConfig, cancelled: CancelCallback, progress: Any = None
    ) -> Any:
        made = super().labels(config, cancelled, progress)
        self._config = config
        return made

    def current(self, cancelled: CancelCallback) -> Any:
        """The labels of the last segmentation."""
        return self.labels(self._config, cancelled)

    def stages(
        self, labels: Any, cancelled: CancelCallback | None = None
    ) -> dict[int, NDArray[np.int32]]:
        """Labels (Y, X) of all heads, those of the main one as given."""
        finest = self.flat(labels)
        if self._stages is None or self._stages[0] != self._config:
            made = stage_labels(self.explained, self.classes, self._config, finest, cancelled)
            self._stages = (self._config, {s: v for s, v in made.items() if s > 1})
        return {**self._stages[1], 1: finest}

    def flat(self, labels: Any) -> NDArray[np.int32]:
        """The plane (Y, X) of labels of the window.

        Raises
        ------
        SettingsError
            They are of another shape.
        """
        plan = self.plan
        if tuple(labels.shape) != plan.label_shape and labels.ndim == 2:
            # A plane of a stack, without the stack's axes.
            lead = [slice(None) if name in "YX" else None for name in plan.label_axes]
            labels = labels[tuple(lead)]
        if tuple(labels.shape) != plan.label_shape or labels.dtype.kind not in "iu":
            raise SettingsError(
                f"Labels of shape {labels.shape} do not fit the explained part of shape "
                f"{plan.label_shape}; look inside again."
            )
        plane = LabelPlane(plan, labels, (0,) * len(plan.stack_shape))
        return plane[slice(None), slice(None)]

    def table(self, labels: Any) -> p.ObjectTable:
        """The object table with what gates and stages say."""
        plain = super().table(labels)
        stages = self.stages(labels)
        made = with_reasons(
            pd.DataFrame(plain),
            stages,
            foreground_probability(self.plane_probability, self.classes),
            self.maps,
            all_profiles(stages[1], self.maps, self.origin),
            self.origin,
            self.pixel_size_um,
        )
        return {str(name): made[name].to_numpy() for name in made.columns}

    @property
    def plane_probability(self) -> NDArray[np.float32]:
        """float32 (classes, Y, X)."""
        return np.asarray(self.explained.probability)


class ExplainHandlers:
    """Answers requests to explain, for the engine's `Handlers`."""

    def __init__(self, handlers: Handlers, server: Server) -> None:
        self._handlers = handlers
        self._server = server
        self._tried: _Tried | None = None

    def explain(self, request: p.Explain) -> p.ExplainResult:
        """Segment a plane, keep what the network showed."""
        start = time.perf_counter()
        handlers, job = self._handlers, request.job
        progress, cancelled = handlers.reporter(job), self._server.cancelled(job)
        opened = handlers.open(request, progress)
        try:
            index = _plane(opened)
            check_size(opened.window.spatial)
            predictor = opened.predictor
            diameter, scale = choose_scale(
                predictor, opened.whole, request.instances, cancelled, progress
            )
            explained = explain_plane(
                predictor,
                opened.whole,
                index,
                scale,
                box=request.window.box and opened.box,
                on_tile=lambda i, n: progress(i, n, SEGMENTING),
                cancelled=cancelled,
            )
            # The stack's axes, with length 1 each, as `Segment` of one plane has them.
            lead = (None,) * len(opened.whole.stack_shape)
            made = Prediction(
                explained.probability,
                diameter,
                scale,
                explained.n_tiles,
                str(predictor.device),
                str(predictor.dtype).removeprefix("torch."),
                explained.seams,
            )
            kept = KeptExplanation(
                opened.window,
                opened.image,
                np.asarray(explained.probability)[lead] if lead else explained.probability,
                opened.model.card.classes,
                request.pixel_size_um,
                diameter,
                handlers.record(opened, request, made),
                explained.seams,
                z_step_um=request.z_step_um,
                model=opened.model,
                predict=request.predict,
                whole=opened.whole,
                explained=explained,
            )
            progress(0, 0, SEPARATING)
            labels = kept.labels(request.instances, cancelled, progress)
            progress(0, 0, "following the boundaries")
            stages = kept.stages(labels, cancelled)
            progress(0, 0, MEASURING)
            table = kept.table(labels)
            # What is sent is there twice for a moment.
            give_memory_back()
            segmentation = handlers.result(
                request.keep_as, kept, labels, table, made.n_tiles, start
            )
        except BaseException:
            opened.image.close()
            raise
        self.forget(request.keep_as)
        handlers.kept.put(request.keep_as, kept)
        return p.ExplainResult(
            segmentation,
            kept.maps,
            stages,
            stage_change(stages[2], stages[1]),
            kept.image_gates,
            index,
            explained.box,
            network_config(opened.model.net),
        )

    def map_channel(self, request: p.MapChannel) -> p.AttentionMap:
        """A map of one channel, from what is kept or run again."""
        kept = self._kept(request.key)
        found = kept.explained.channel(request.name, request.channel)
        if found is not None:
            return found
        assert request.channel is not None
        progress = self._handlers.reporter(request.job)
        return run_channel(
            self._predictor(kept),
            kept.whole,
            kept.explained,
            request.name,
            request.channel,
            on_tile=lambda i, n: progress(i, n, SEGMENTING),
            cancelled=self._server.cancelled(request.job),
        )

    def inspect(self, request: p.Inspect) -> p.CellInspection:
        """One object, as the labels are now."""
        labels = None
        if request.labels is not None:
            labels = take(request.labels)
            self._server.send(p.Release(request.labels.name))
        kept = self._kept(request.key)
        cancelled = self._server.cancelled(request.job)
        stages = kept.stages(kept.current(cancelled), cancelled)
        plane = stages[1] if labels is None else kept.flat(labels)
        found = inspect_object(
            plane,
            request.label,
            kept.maps,
            stages,
            _Raw(kept),  # type: ignore[arg-type]  # read where the object is only
            origin=kept.origin,
            image_gates=kept.image_gates,
        )
        steps = tuple(p.StageStep(**vars(step)) for step in found.history)
        return p.CellInspection(**{**vars(found), "history": steps})

    def what_if(self, request: p.WhatIf) -> p.WhatIfResult:
        """The box segmented anew, against the same box with attention as trained."""
        start = time.perf_counter()
        kept = self._kept(request.key)
        tried = self._run(kept, request)
        cancelled = self._server.cancelled(request.job)
        reporter = self._handlers.reporter(request.job)

        def on_tile(done: int, total: int) -> None:
            reporter(done, total, SEGMENTING)

        run, classes, config = tried.run, kept.classes, request.instances
        known = tried.probability is not None
        if tried.probability is None:
            tried.probability = np.asarray(run.run(on_tile=on_tile, cancelled=cancelled))
        if tried.before is None or tried.before[0] != config:
            tried.before = (config, label_objects(tried.probability, classes, config))
        changed = run.run(
            request.gates,
            request.gamma,
            request.se_gamma,
            on_tile=on_tile,
            cancelled=cancelled,
        )
        before = tried.before[1]
        after = label_objects(np.asarray(changed), classes, config)
        changes = compare_objects(before, after)
        return p.WhatIfResult(
            key=request.key,
            labels=after,
            change=changes.change,
            box=run.box,
            appeared=changes.appeared,
            vanished=changes.vanished,
            split=changes.split,
            merged=changes.merged,
            gained_px=changes.gained_px,
            lost_px=changes.lost_px,
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

    def _kept(self, key: str) -> KeptExplanation:
        kept = self._handlers.kept.get(key)
        if not isinstance(kept, KeptExplanation):
            raise NotKeptError("This result was segmented only. Look inside to explain it.")
        return kept

    def _predictor(self, kept: KeptExplanation) -> Predictor:
        return self._handlers.predictor(kept.model, kept.predict, kept.whole.model_input)

    def _run(self, kept: KeptExplanation, request: p.WhatIf) -> _Tried:
        predictor = self._predictor(kept)
        explained = kept.explained
        box = explained.box if request.box is None else _inside(kept, request.box)
        tried = self._tried
        if (
            tried is None
            or tried.run.predictor is not predictor
            or (tried.key, tried.box) != (request.key, box)
        ):
            self._tried = tried = None
            run = WhatIfRun(predictor, kept.whole, explained.index, explained.scale, box)
            self._tried = tried = _Tried(request.key, box, run)
        return tried


@dataclass
class _Tried:
    """The box that what-ifs are about, and how it is with attention as trained."""

    key: str
    box: Box
    run: WhatIfRun
    probability: NDArray[np.float32] | None = None
    before: tuple[InstanceConfig, NDArray[np.int32]] | None = None


class _Raw:
    """Raw values (Y, X) or (Y, X, 3) of an explained window, read where they are looked at."""

    def __init__(self, kept: KeptExplanation) -> None:
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


def _plane(opened: Opened) -> tuple[int, ...]:
    """The plane that was asked for; the only one of a stack need not be named."""
    shape = opened.whole.stack_shape
    index = opened.index
    if index is None:
        index = (0,) * len(shape) if all(n == 1 for n in shape) else ()
    check_plane(opened.whole, index)
    return index


def _inside(kept: KeptExplanation, box: Box) -> Box:
    """The box, as far as it lies in what was explained.

    Raises
    ------
    ImageError
        Nothing of the image is in it.
    SettingsError
        Nothing that was explained is in it.
    """
    y0, y1, x0, x1 = resolve_box(kept.whole, box)
    top, bottom, left, right = kept.explained.box
    y0, y1, x0, x1 = max(y0, top), min(y1, bottom), max(x0, left), min(x1, right)
    if y1 <= y0 or x1 <= x0:
        raise SettingsError(
            "The view shows nothing of what was explained. Move the camera back over it, or "
            "look inside here."
        )
    return y0, y1, x0, x1
