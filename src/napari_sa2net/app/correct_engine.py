"""What correcting asks of the engine: a box segmented again, and the probability's levels."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.correct_source import Box, CellSource, Index
from napari_sa2net.app.jobs import Job
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.requests import SegmentRequest, as_seen
from napari_sa2net.app.session import ErrorInfo
from napari_sa2net.config import InstanceConfig
from napari_sa2net.engine import protocol as p
from napari_sa2net.errors import EditError

#: thresholds at which the foreground is asked for, beside that of the cells
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: results with more pixels are not asked for: it would keep the engine busy for long
MOST_PIXELS = 32_000_000


@dataclass(frozen=True, eq=False)
class Foreground:
    """Foreground probability in steps, read by slices like an array.

    Attributes
    ----------
    thresholds : tuple of float
        Ascending; whether a pixel reaches one of them is exact.
    reached : uint8 (\\*stack, H, W)
        How many thresholds each pixel reaches.
    edge : float
        The threshold of the cells, one of them.
    seams : (rows, columns)
        First rows and columns of the network's tiles but for the first.
    """

    thresholds: tuple[float, ...]
    reached: NDArray[np.uint8]
    edge: float
    seams: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.reached.shape

    def plane(self, index: Index) -> Foreground:
        """One plane of a stack."""
        return replace(self, reached=self.reached[index])

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        ends = np.array([0.0, *self.thresholds, 1.0], np.float32)
        middles = (ends[1:] + ends[:-1]) / 2
        values: NDArray[np.float32] = middles[self.reached[key]]
        return values


@dataclass(frozen=True, eq=False)
class BoxRequest(SegmentRequest):
    """A box of one plane of the cells, to be segmented again.

    Attributes
    ----------
    cells, index, box
        Key of the layer, plane and box of its labels.
    """

    cells: str
    index: Index
    box: Box


@dataclass(eq=False)
class _Asked:
    """Levels of one result on the way."""

    cells: str
    thresholds: tuple[float, ...]
    edge: float
    reached: NDArray[np.uint8]
    done: int = 0


class CorrectEngine:
    """Asks the engine for the Correct page and takes its answers.

    Parameters
    ----------
    link
        The engine.
    foreground_ready
        Called with the key of the cells and a `Foreground`.
    box_ready
        Called with a `BoxRequest` and int32 labels of its box.
    """

    def __init__(
        self,
        link: EngineLink,
        foreground_ready: Callable[[str, Foreground], None],
        box_ready: Callable[[BoxRequest, NDArray[np.int32]], None],
    ) -> None:
        self._link = link
        self._foreground_ready = foreground_ready
        self._box_ready = box_ready
        self._asked: dict[str, _Asked] = {}
        link.answer(("box", "level"), self)

    # --- asking ------------------------------------------------------------------------

    def ask_foreground(self, source: CellSource) -> bool:
        """Ask for the levels of a result, once; False where the engine cannot have them."""
        key = source.result_key
        if not key or source.labels.size > MOST_PIXELS:
            return False
        if key not in self._asked:
            edge = self._link.session.instances.foreground
            thresholds = tuple(sorted({*LEVELS, edge}))
            reached = np.zeros(source.labels.shape, np.uint8)
            self._asked[key] = _Asked(source.key, thresholds, edge, reached)
            self._ask_level(key)
        return True

    def segment_box(
        self,
        source: CellSource,
        outline: Any,
        instances: InstanceConfig,
        diameter: float | None,
    ) -> None:
        """Segment a box of the shown plane again with these settings.

        Raises
        ------
        EditError
            If the box holds too little of the image, or the cells lie on none.
        """
        image, session = source.image, self._link.session
        if image is None or source.corner is None:
            raise EditError(
                "These cells do not lie on the pixels of an image, so there is nothing to "
                "segment. Choose cells that were made on the image."
            )
        image = as_seen(image, session)
        box = _box_of(outline, source.shape)
        index = source.image_index(source.plane) or None
        predict = session.predict
        if diameter is not None:
            predict = predict.model_copy(update={"diameter": diameter})
        request = BoxRequest(
            image,
            self._link.generation(image.key),
            uuid.uuid4().hex,
            session.model,
            predict,
            instances,
            session.normalize,
            p.Window(index=index, box=source.image_box(box)),
            source.key,
            source.plane,
            box,
        )
        self._link.cancel_runs()
        job = self._link.jobs.open("box", request.key, request)
        self._link.run(job, replace(request.to_engine(job.number), keep_as=""))

    # --- what the engine says ----------------------------------------------------------

    def job_done(self, job: Job, result: Any) -> None:
        """A job of ours is done; the link calls this."""
        if job.kind == "box":
            y0, y1, x0, x1 = job.request.box
            self._link.session.error = None
            self._box_ready(job.request, np.asarray(result.labels).reshape(y1 - y0, x1 - x0))
            return
        asked = self._asked.get(job.key)
        if asked is None or result.labels.size != asked.reached.size:
            self._asked.pop(job.key, None)
            return
        asked.reached += np.asarray(result.labels).reshape(asked.reached.shape) > 0
        asked.done += 1
        if asked.done < len(asked.thresholds):
            self._ask_level(job.key)
            return
        del self._asked[job.key]
        known = Foreground(asked.thresholds, asked.reached, asked.edge, result.seams)
        self._foreground_ready(asked.cells, known)

    def job_failed(self, job: Job, error: ErrorInfo) -> None:
        """A job of ours failed; without levels there are other reasons for doubt."""
        if job.kind == "box":
            self._link.fail(error)
        else:
            self._asked.pop(job.key, None)

    def job_cancelled(self, job: Job) -> None:
        """A slider's question took the place of ours: ask again."""
        if job.kind == "level" and job.key in self._asked:
            self._ask_level(job.key)

    def _ask_level(self, key: str) -> None:
        asked = self._asked[key]
        config = InstanceConfig(
            foreground=asked.thresholds[asked.done], split=0, min_size=0, fill_holes=False
        )
        job = self._link.jobs.open("level", key)
        self._link.submit(p.Derive(job.number, key, config))


def _box_of(outline: Any, shape: tuple[int, int]) -> Box:
    """Pixels inside a drawn rectangle, clipped to the plane."""
    points = np.asarray(outline, float)
    low = np.floor(points.min(axis=0) + 0.5).astype(int)
    high = np.floor(points.max(axis=0) + 0.5).astype(int) + 1
    y0, x0 = np.clip(low, 0, shape)
    y1, x1 = np.clip(high, 0, shape)
    if min(y1 - y0, x1 - x0) < 8:
        raise EditError("The box is too small: drag it around at least one cell.")
    return int(y0), int(y1), int(x0), int(x1)
