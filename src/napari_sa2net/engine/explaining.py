"""What the engine does to explain: maps, stages, single objects, what-ifs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.config import InstanceConfig
from napari_sa2net.data.plan import Box
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.cache import AS_SET, WHOLE, Cache
from napari_sa2net.errors import NotKeptError, SettingsError
from napari_sa2net.inference.devices import give_memory_back
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.inference.planes import MEASURING, SEPARATING
from napari_sa2net.inference.predict import SEGMENTING, Predictor
from napari_sa2net.interpret.attention import WhatIfRun
from napari_sa2net.interpret.explain import Explained, look_inside, run_channel
from napari_sa2net.interpret.objects import inspect_object
from napari_sa2net.interpret.refinement import compare_objects, stage_change
from napari_sa2net.nn import network_config


class ExplainHandlers:
    """Answers requests to explain, for the engine's `service.Handlers`."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
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
        cache = self._cache
        progress, cancelled = cache.reporter(job), cache.cancelled(job)
        predictor, part, instances, units = cache.open(progress, window, **asked)
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
        segmentation = cache.result(key, kept, labels, table, kept.n_tiles, start)
        self.forget(key)
        cache.kept.put(key, kept)
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
        progress = self._cache.reporter(job)
        return run_channel(
            self._predictor(kept),
            kept,
            name,
            channel,
            on_tile=lambda i, n: progress(i, n, SEGMENTING),
            cancelled=self._cache.cancelled(job),
        )

    def inspect(
        self, job: int, key: str, label: int, labels: NDArray[Any] | None = None
    ) -> p.CellInspection:
        """One object, as the labels are now; None: those of the last segmentation."""
        kept = self._kept(key)
        cancelled = self._cache.cancelled(job)
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
        cancelled = self._cache.cancelled(job)
        reporter = self._cache.reporter(job)

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
        kept = self._cache.kept.get(key)
        if not isinstance(kept, Explained):
            raise NotKeptError("This result was segmented only. Look inside to explain it.")
        return kept

    def _predictor(self, kept: Explained) -> Predictor:
        return self._cache.predictor(kept.model, kept.config, kept.plan.model_input)

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
