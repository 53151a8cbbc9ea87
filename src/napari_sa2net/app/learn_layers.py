"""What learning shows over the image: the child so far, and what it does otherwise."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.jobs import Job, JobKind
from napari_sa2net.app.learn_state import Difference
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.preview import source_plan
from napari_sa2net.app.requests import SegmentRequest, as_seen
from napari_sa2net.app.session import ErrorInfo, ImageSource
from napari_sa2net.app.why import DIFFERENCE, PREVIEW, Box, Overlay, Patch
from napari_sa2net.app.why_words import signed
from napari_sa2net.engine import protocol as p
from napari_sa2net.errors import ImageError, SA2NetError
from napari_sa2net.inference.changes import Changes, compare_objects


@dataclass(frozen=True, eq=False)
class _Pair:
    """Parent and child on the way; each answer fills one."""

    request: SegmentRequest
    found: dict[str, NDArray[np.int32]]


class LearnLayers:
    """Asks the engine that segments, in the view of the chosen image.

    Parameters
    ----------
    link
        The engine and the session.
    show
        Takes an `Overlay`: a layer is to be shown, replaced or taken away.
    previewed
        Called with the number of the round that is shown now.
    compared
        Called with a `Difference`, or None where it came to nothing.
    failed
        Called with an `ErrorInfo`.
    kept_channels
        Channels that went in when cells of an image were kept, by its name.
    """

    def __init__(
        self,
        link: EngineLink,
        show: Callable[[Overlay], None],
        previewed: Callable[[int], None],
        compared: Callable[[Difference | None], None],
        failed: Callable[[ErrorInfo], None],
        kept_channels: Callable[[], Mapping[str, tuple[int, ...]]],
    ) -> None:
        self._link = link
        self._kept_channels = kept_channels
        self._show = show
        self._previewed = previewed
        self._compared = compared
        self._failed = failed
        self._pair: _Pair | None = None
        self._shown: dict[str, Overlay] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="learn-compare")
        link.answer(("learn_preview", "learn_compare"), self)

    # --- asking ------------------------------------------------------------------------

    def preview(self, model: str, number: int) -> None:
        """Show the view as a model file sees it; passed over while another is on the way."""
        if self._link.jobs.find("learn_preview") is None:
            request = self._request(model)
            if request is not None:
                self._ask("learn_preview", str(number), request, request)

    def compare(self, parent: str, child: str) -> None:
        """Show what the child gains and loses in the view.

        Raises
        ------
        ImageError
            If there is no image, or the view shows nothing of it.
        """
        requests = [self._request(model) for model in (parent, child)]
        if requests[0] is None or requests[1] is None:
            raise ImageError(
                "There is no image in view to compare the two models on. Open one, or move "
                "the camera over it."
            )
        self._pair = _Pair(requests[1], {})
        for which, request in zip(("parent", "child"), requests, strict=True):
            assert request is not None
            self._ask("learn_compare", which, request, self._pair)

    def hide(self, slot: str) -> None:
        """Take a layer away."""
        overlay = self._shown.pop(slot, None)
        if slot == DIFFERENCE:
            self._pair = None
        if overlay is not None:
            self._show(Overlay(overlay.source, slot, None, overlay.index))

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    # --- what the engine says ----------------------------------------------------------

    def job_done(self, job: Job, result: p.SegmentResult) -> None:
        """A job of ours is done; the link calls this."""
        if job.kind == "learn_preview":
            lines = self._worker.submit(outlines, _plane(result.labels))
            lines.add_done_callback(
                lambda done: self._link.dispatch(partial(self._show_lines, job, result, done))
            )
            return
        pair: _Pair = job.request
        if self._pair is None or job.request is not self._pair:
            return
        pair.found[job.key] = _plane(result.labels)
        if len(pair.found) == 2:
            work = self._worker.submit(
                compare_objects, pair.found["parent"], pair.found["child"]
            )
            work.add_done_callback(
                lambda done: self._link.dispatch(partial(self._show_pair, pair, result, done))
            )

    def job_failed(self, job: Job, error: ErrorInfo) -> None:
        """A job of ours failed; a preview whose file is gone already is no loss."""
        if job.kind == "learn_compare" and job.request is self._pair:
            self._pair = None
            self._compared(None)
            self._failed(error)

    def job_cancelled(self, job: Job) -> None:
        """A job of ours was cancelled."""
        if job.kind == "learn_compare" and job.request is self._pair:
            self._pair = None
            self._compared(None)

    # --- inside ------------------------------------------------------------------------

    def _show_lines(self, job: Job, result: p.SegmentResult, done: Any) -> None:
        with self._link.lock:
            if not self._link.closed and self._fresh(job.request):
                self._put(PREVIEW, job.request, done.result(), _box(result))
                self._previewed(int(job.key))

    def _show_pair(self, pair: _Pair, result: p.SegmentResult, done: Any) -> None:
        with self._link.lock:
            if self._link.closed or pair is not self._pair:
                return
            self._pair = None
            if not self._fresh(pair.request):
                self._compared(None)
                return
            changes: Changes = done.result()
            self._put(DIFFERENCE, pair.request, changes.change, _box(result))
            n = [int((np.unique(pair.found[k]) > 0).sum()) for k in ("parent", "child")]
            words = difference_words(changes, n[1] - n[0])
            self._compared(Difference(pair.request.source.key, words))

    def _put(self, slot: str, request: SegmentRequest, values: Any, box: Box) -> None:
        index = request.window.index or ()
        overlay = Overlay(request.source, slot, Patch(values, box), index)
        former = self._shown.get(slot)
        if former is not None and former.source.key != request.source.key:
            self.hide(slot)
        self._shown[slot] = overlay
        self._show(overlay)

    def _fresh(self, request: SegmentRequest) -> bool:
        return self._link.generation(request.source.key) == request.generation

    def _request(self, model: str) -> SegmentRequest | None:
        """The view of the chosen image; None where it shows nothing of one."""
        session = self._link.session
        source = session.image
        if source is None:
            return None
        box = source.view
        if box is not None and (box[1] <= box[0] or box[3] <= box[2]):
            return None
        return SegmentRequest(
            as_seen(self._as_kept(source), session),
            self._link.generation(source.key),
            uuid.uuid4().hex,
            model,
            session.predict,
            session.instances,
            session.normalize,
            p.Window(index=source.plane, box=box),
        )

    def _as_kept(self, source: ImageSource) -> ImageSource:
        """With the channels that its kept cells were made from, where none are chosen now."""
        channels = self._kept_channels().get(source.name)
        if source.channels is not None or not channels:
            return source
        with suppress(SA2NetError):  # the request says what is wrong
            plan = source_plan(source)
            if not plan.is_rgb and max(channels) < plan.n_channels:
                return replace(source, channels=channels)
        return source

    def _ask(self, kind: JobKind, key: str, request: SegmentRequest, about: Any) -> None:
        job = self._link.jobs.open(kind, key, about)
        self._link.submit(replace(request.to_engine(job.number), keep_as=""))


def outlines(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """1 on the outermost two pixels of every object (H, W), 0 elsewhere.

    napari can draw contours of labels itself, but works them out on the window's thread.
    """
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        ahead = (slice(1, None), slice(None))[:: 1 - 2 * axis]
        behind = (slice(None, -1), slice(None))[:: 1 - 2 * axis]
        differs = labels[ahead] != labels[behind]
        edge[ahead] |= differs
        edge[behind] |= differs
    wide = edge.copy()
    for axis in (0, 1):
        for step in (1, -1):
            rolled = np.roll(edge, step, axis)
            wide |= rolled
    return (wide & (labels > 0)).astype(np.uint8)


def difference_words(changes: Changes, more: int) -> str:
    """``+4 cells, 2 of them split, +318 px, −40 px``."""
    parts = []
    if more:
        parts.append(f"{signed(more)} cell{'' if abs(more) == 1 else 's'}")
    for n, word in (
        (changes.appeared, "found anew"),
        (changes.vanished, "dropped"),
        (changes.split, "split"),
        (changes.merged, "merged"),
    ):
        if n:
            parts.append(f"{n} {word}")
    if changes.gained_px:
        parts.append(f"+{changes.gained_px:,} px")
    if changes.lost_px:
        parts.append(f"−{changes.lost_px:,} px")
    return ", ".join(parts) or "No pixel differs"


def _plane(labels: Any) -> NDArray[np.int32]:
    values: NDArray[np.int32] = np.asarray(labels)
    return values.reshape(values.shape[-2:])


def _box(result: p.SegmentResult) -> Box:
    height, width = np.shape(result.labels)[-2:]
    y, x = (int(v) for v in result.offset[-2:])
    return y, y + height, x, x + width
