"""Segmenting all images of a list: files by the engine, or open layers one after the other."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.folder_files import (
    OpenedImage,
    read_opened,
    reason_words,
    remember_output,
)
from napari_sa2net.app.link import Background, EngineLink, TimeLeft
from napari_sa2net.app.session import ErrorInfo, JobProgress, for_image
from napari_sa2net.data.results import Job, refuse_inputs_as_outputs
from napari_sa2net.edits.review import expected_wrong
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import EngineError, SA2NetError
from napari_sa2net.inference.batch import BatchSettings
from napari_sa2net.words import counted, plural

#: Parts of an image, for the progress of all.
PARTS = 1000


class Listing(Protocol):
    """Whose images are segmented: the controller of the list."""

    link: EngineLink
    files: Background
    state: Any
    shelf: Any
    segmented: Any
    axes: str

    def look_again(self, numbers: Iterable[int] | None = None) -> None:
        """Read anew what files tell of some images, or of all."""

    def layers_changed(self) -> None:
        """Layers have other cells."""

    def set_image(self, number: int, **changes: Any) -> None:
        """Say something else of an image."""

    def fail_words(self, words: str) -> None:
        """Say why something cannot be."""

    def failed(self, error: Exception) -> None:
        """Say what went wrong."""


@dataclass
class _Run:
    """All images are being segmented."""

    key: str
    output: Path
    model: str
    settings: BatchSettings
    began: float
    entries: list[dict[str, Any]] = field(default_factory=list)
    left: TimeLeft = field(default_factory=TimeLeft)
    at: int = 0
    job: int = 0

    def about(self) -> dict[str, Any]:
        """Of each call."""
        return {"output": self.output, "model": self.model, "settings": self.settings}


class SegmentAll:
    """Segments all images of a list; a part of its controller.

    Parameters
    ----------
    controller
        Whose images and state these are.

    Attributes
    ----------
    doing
        Key of the open layer that is under way; empty for none.
    failures
        Why open layers could not be segmented, by key.
    wrong
        How many of a layer's cells are wrong, about, by key.
    """

    def __init__(self, controller: Listing) -> None:
        self._controller = controller
        self.link, self.state = controller.link, controller.state
        self.doing = ""
        self.failures: dict[str, str] = {}
        self.wrong: dict[str, float] = {}
        self._todo: list[str] = []
        self._n_layers = 0
        self._run: _Run | None = None
        link = self.link
        link.answer(("segment_file", "finish_files"), self)
        link.hear("segment_file", self._heard)
        link.session.events.running.connect(self._ran)
        link.session.events.progress.connect(self._layer_progress)

    def settings(self) -> BatchSettings:
        """What all images are segmented with: as the Segment page is set now."""
        session = self.link.session
        axes, channels = None, None
        source, state = session.image, self.state
        predict = for_image(session.predict, source)
        current = state.images[state.current] if state.current >= 0 else None
        if source is not None and current is not None and source.path == str(current.path):
            if source.contrast is not None and session.normalize:
                predict = predict.model_copy(update={"contrast": source.contrast})
            if source.axes != self._controller.axes:
                axes = source.axes
            channels = source.channels
            if channels == (0,) and not source.plan.is_rgb:
                channels = None  # what files are segmented by where nobody chooses
        return BatchSettings(
            axes, channels, session.normalize, predict, session.instances, session.measure
        )

    def settings_words(self) -> str:
        """``nuclei · size of the cells estimated in each image``."""
        settings = self.settings()
        size = settings.predict.diameter
        sized = f"cells of {size:g} px" if size else "size of the cells estimated in each"
        parts = [self.link.session.model, sized]
        if settings.channels is not None:
            names = ", ".join(str(one) for one in settings.channels)
            parts.append(f"{plural(len(settings.channels), 'channel')} {names}")
        return " · ".join(parts)

    def segment_all(self) -> bool:
        """Segment all images that were not with these settings; False where that cannot be."""
        with self.link.lock:
            state = self.state
            if state.layers and not state.running:
                return self._segment_layers()
            if state.folder is None or state.running or not state.images:
                return False
            try:
                refuse_inputs_as_outputs(self._jobs(), state.output)
            except SA2NetError as error:
                self._controller.failed(error)
                return False
            self._run = _Run(
                uuid.uuid4().hex,
                state.output,
                self.link.session.model,
                self.settings(),
                time.monotonic(),
            )
            remember_output(state.folder, state.output)
            state.error, state.said = None, ""
            state.stopping, state.running = False, True
            self._next()
            return True

    def cancel(self) -> None:
        """End with the present piece; pressed again, at once."""
        with self.link.lock:
            if self.state.layers and self.state.running and self._controller.shelf is not None:
                self.state.stopping = True
                self._controller.shelf.cancel()
            elif self._run is not None and self.state.running:
                force, self.state.stopping = self.state.stopping, True
                self.link.client.cancel(self._run.job, force=force)

    def _segment_layers(self) -> bool:
        """Segment the open layers one after the other, but for those that are corrected."""
        state = self.state
        done = ("corrected", "kept")
        self._todo = [one.key for one in state.images if one.what not in done]
        self._n_layers = len(self._todo)
        self.failures.clear()
        if not self._todo:
            self._controller.fail_words(
                "Every layer of the list is corrected: there is nothing to do."
            )
            return False
        state.error, state.said, state.progress = None, "", None
        state.stopping, state.running = False, True
        self._next_layer()
        return True

    def _next_layer(self) -> None:
        assert self._controller.shelf is not None
        while self._todo and not self.state.stopping:
            self.doing = self._todo.pop(0)
            if self._controller.shelf.choose(self.doing) and self._controller.shelf.segment(
                self.doing
            ):
                self._controller.look_again()
                return
            error = self.link.session.error
            self.failures[self.doing] = error.message if error is not None else "it is gone"
        self.doing = ""
        failed, stopped = len(self.failures), self.state.stopping
        self._stopped(None)
        n = sum(image.n_cells or 0 for image in self.state.images)
        words = f"{counted(n, 'cell')} in the open layers."
        if stopped:
            words = "Stopped; “Segment all” begins with the first again."
        elif failed:
            words += f" {failed:,} could not be done; their rows say why."
        self.state.said = words

    def _ran(self, running: bool) -> None:
        """A segmentation of the page has begun or ended; perhaps ours."""
        if running or not self.doing:
            return
        # after those who show what it found
        self.link.dispatch(self._layer_done)

    def _layer_done(self) -> None:
        with self.link.lock:
            key, shelf = self.doing, self._controller.shelf
            if not key or shelf is None or self.link.session.running:
                return
            error = self.link.session.error
            labels = shelf.labels(key)
            if error is not None and not self.state.stopping:
                self.failures[key] = error.message
            elif labels is not None and not self.state.stopping:
                self._controller.files.run(
                    partial(_doubt_of, labels),
                    partial(self._doubted, key),
                    self._controller.failed,
                )
            self.doing = ""
            self._controller.look_again()
            self._next_layer()

    def _doubted(self, key: str, wrong: float) -> None:
        self.wrong[key] = wrong
        self._controller.layers_changed()

    def _layer_progress(self, progress: JobProgress | None) -> None:
        if not self.doing or progress is None:
            return
        n = self._n_layers
        at = n - len(self._todo) - 1
        words = f"image {at + 1} of {n}: {progress.what}"
        if self.state.stopping:
            words = "stopping after this piece"
        done = round(PARTS * (at + progress.fraction))
        self.state.progress = JobProgress(done, PARTS * n, words)

    def _jobs(self) -> list[Job]:
        return [Job(image.name, image.path) for image in self.state.images]

    def _next(self) -> None:
        run = self._run
        assert run is not None
        if run.at >= len(self.state.images):
            self._finish("finished")
            return
        image = self.state.images[run.at]
        self._progress(0.0, "")
        arguments = {"file": Job(image.name, image.path), **run.about()}
        run.job = self.link.ask("segment_file", arguments, run.key, about=run.at)
        if self.state.stopping:
            self.link.client.cancel(run.job, force=False)

    def _finish(self, how: str) -> None:
        run = self._run
        assert run is not None
        arguments = {
            **run.about(),
            "images": run.entries,
            "n_images": len(self.state.images),
            "state": how,
            "seconds": time.monotonic() - run.began,
        }
        run.job = self.link.ask("finish_files", arguments, run.key, about=how)

    def _heard(self, call: p.Call, progress: p.Progress) -> None:
        """An image is under way."""
        if self._run is None or call.key != self._run.key:
            return
        done = progress.done / progress.total if progress.total > 1 else 0.0
        if progress.done == 0 and self.state.images[call.about].what != "running":
            self._controller.set_image(call.about, what="running")
        self._progress(done, progress.what)

    def _progress(self, fraction: float, what: str) -> None:
        run = self._run
        assert run is not None
        n = len(self.state.images)
        words = f"image {run.at + 1} of {n}" + (f": {what}" if what else "")
        if self.state.stopping:
            words = "stopping after this piece"
        now = JobProgress(round(PARTS * (run.at + fraction)), PARTS * n, words)
        # a step like "measuring", of unknown length, must not count backwards
        before = self.state.progress
        if before is not None and before.total == now.total and now.done < before.done:
            now = replace(now, done=before.done)
        self.state.progress = run.left.of(now)

    # --- what the engine says ----------------------------------------------------------

    def job_done(self, call: p.Call, result: Any) -> None:
        """A call of ours is done; the link says so."""
        run = self._run
        if run is None or call.key != run.key:
            return
        if call.name == "finish_files":
            self._ended(result)
            return
        run.entries.append(result)
        if result["state"] == "failed":
            why = reason_words(result["error"], self.state.images[call.about].path)
            self._controller.set_image(call.about, what="failed", why=why)
        else:
            if result["state"] == "skipped":
                run.left = TimeLeft()  # tells nothing of the time that others take
            elif call.about == self.state.current:
                self._read_anew(call.about)
            self._controller.look_again([call.about])
        run.at += 1
        self._next()

    def job_failed(self, call: p.Call, error: ErrorInfo) -> None:
        """A call of ours failed: the engine has ended, or nothing can be written."""
        run = self._run
        if run is None or call.key != run.key:
            return
        if call.name == "finish_files":
            self._stopped(error)
            return
        image = self.state.images[call.about]
        self._controller.set_image(call.about, what="failed", why=error.message)
        run.entries.append(
            {
                "name": image.name,
                "input": str(image.path),
                "state": "failed",
                "error": error.message,
            }
        )
        if error.kind == EngineError.__name__ and self.link.session.engine != "down":
            run.at += 1
            self._next()
        else:
            self._controller.set_image(call.about, what="", why="")
            self._stopped(error)

    def job_cancelled(self, call: p.Call) -> None:
        """A call of ours was cancelled."""
        run = self._run
        if run is None or call.key != run.key:
            return
        if call.name == "segment_file":
            self._controller.look_again([call.about])
            self._controller.set_image(call.about, what="")
            self._finish("interrupted")
        else:
            self._stopped(None)

    def _read_anew(self, number: int) -> None:
        """The shown image has cells now."""
        image, output = self.state.images[number], self.state.output

        def done(opened: OpenedImage) -> None:
            if number == self.state.current and self.state.opening < 0:
                self._controller.segmented.emit(opened)

        self._controller.files.run(
            lambda: read_opened(number, image, output), done, self._controller.failed
        )

    def _ended(self, summary: Mapping[str, Any]) -> None:
        run = self._run
        assert run is not None
        failed = summary["n_failed"]
        words = f"{counted(summary['n_objects'], 'cell')} in “{run.output.name}”."
        if summary["state"] != "finished":
            done = summary["n_done"]
            words = f"Stopped after {counted(done, 'image')}; “Segment all” goes on from here."
        elif failed:
            words += f" {failed:,} could not be done; their rows say why."
        self._stopped(None)
        self.state.said = words

    def _stopped(self, error: ErrorInfo | None) -> None:
        self._run = None
        state = self.state
        state.running = state.stopping = False
        state.progress = None
        if error is not None:
            state.error = error
        self._controller.look_again()


def _doubt_of(labels: NDArray[Any]) -> float:
    """How many cells of all planes are wrong, about, by size and shape."""
    return sum(expected_wrong(labels[index], None) for index in np.ndindex(*labels.shape[:-2]))
