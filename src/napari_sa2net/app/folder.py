"""A folder of images: what is known of each, opened one by one, and all segmented."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal, SignalGroupDescriptor

from napari_sa2net.app.folder_files import (
    Corrected,
    FolderImage,
    OpenedImage,
    What,
    corrected_file,
    list_folder,
    look_at,
    output_of,
    read_opened,
    reason_words,
    remember_output,
    small_picture,
)
from napari_sa2net.app.link import Background, EngineLink, TimeLeft
from napari_sa2net.app.session import ErrorInfo, JobProgress, error_info
from napari_sa2net.app.training_set import cells, picture_of
from napari_sa2net.data.results import Job, refuse_inputs_as_outputs
from napari_sa2net.data.write import write_labels
from napari_sa2net.edits.review import expected_wrong
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import EngineError, OutputError, SA2NetError
from napari_sa2net.inference.batch import BatchSettings

if TYPE_CHECKING:
    from napari_sa2net.data.plan import ImagePlan

#: So many small pictures are held.
MOST_THUMBNAILS = 400
#: So many small pictures that were asked for wait to be made: the rest are asked for again.
MOST_WAITING = 40
#: Parts of an image, for the progress of all.
PARTS = 1000


# --------------------------------------------------------------------------------------------
# What the page shows, as evented state.


@dataclass
class FolderState:
    """Evented; written by the controller, read by the page.

    Attributes
    ----------
    folder
        None where none is open.
    layers
        The list is that of the open image layers.
    output
        Folder of the results.
    images, order
        All images, and the order in which they are shown and walked through.
    by_worth
        The order is that of doubt; else of names.
    current, opening
        Number of the image that is shown, and of one that is being read; -1 for none.
    busy
        What is being read, in words.
    running, stopping, progress
        All are being segmented, that ends with the present piece, how far it is.
    said
        What the last run did.
    error
        What went wrong here.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    folder: Path | None = None
    layers: bool = False
    output: Path = field(default_factory=Path)
    images: tuple[FolderImage, ...] = ()
    order: tuple[int, ...] = ()
    by_worth: bool = False
    current: int = -1
    opening: int = -1
    busy: str = ""
    running: bool = False
    stopping: bool = False
    progress: JobProgress | None = None
    said: str = ""
    error: ErrorInfo | None = None


def summary_words(state: FolderState) -> str:
    """``24 images · 10 segmented · 2 corrected · 1 failed``."""
    n = len(state.images)
    count = dict.fromkeys(("segmented", "corrected", "kept", "failed"), 0)
    for image in state.images:
        if image.what == "segmented" or (image.what in ("corrected", "kept") and image.model):
            count["segmented"] += 1
        if image.what in ("corrected", "kept", "failed"):
            count[image.what] += 1
    parts = [f"{n:,} image{'' if n == 1 else 's'}"]
    parts += [f"{number:,} {words}" for words, number in count.items() if number]
    return " · ".join(parts)


def by_worth(images: Sequence[FolderImage]) -> tuple[int, ...]:
    """Numbers of images, those first in which most cells are wrong, as far as is known.

    After them those that nobody knows anything of, and last those that a person has seen.
    """

    def key(number: int) -> tuple[int, float, int]:
        image = images[number]
        if image.what in ("corrected", "kept"):
            return 3, 0.0, number
        if image.what == "failed":
            return 2, 0.0, number
        if image.wrong is None:
            return 1, 0.0, number
        return 0, -image.wrong, number

    return tuple(sorted(range(len(images)), key=key))


# --------------------------------------------------------------------------------------------
# The controller.


class Shelf(Protocol):
    """The open image layers, as the viewer has them."""

    def look(self) -> list[FolderImage]:
        """All of them with what is known of their cells, the first opened first."""

    def chosen(self) -> str:
        """Key of the one that is worked on; empty for none."""

    def choose(self, key: str) -> bool:
        """Work on one, and show it alone; False where it is gone."""

    def plan(self, key: str) -> ImagePlan | None:
        """How it is read; None where it is gone."""

    def labels(self, key: str) -> NDArray[Any] | None:
        """Its cells, a copy; None where there are none."""

    def segment(self, key: str) -> bool:
        """Begin to segment it with the page's settings; False where that cannot be."""

    def cancel(self) -> None:
        """Stop that."""


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


class FolderController:
    """Runs the folder of one viewer.

    All methods return at once and belong to the link's thread.

    Parameters
    ----------
    link
        The engine, and the session whose settings are taken.
    training_set
        Tells where corrections are kept.

    Attributes
    ----------
    opened
        `OpenedImage`: show it, in the place of the one before.
    segmented
        `OpenedImage`: the image that is shown has been segmented with all the others.
    pictured
        Number of an image of which there is a small picture now.
    leaving
        Gives the shown cells as a person has left them; None where nobody touched them.
    """

    opened = Signal(OpenedImage)
    segmented = Signal(OpenedImage)
    pictured = Signal(int)
    closed = Signal()

    def __init__(
        self, link: EngineLink, training_set: Callable[[], Path] = lambda: Path("-")
    ) -> None:
        self.link = link
        self.state = FolderState()
        self.leaving: Callable[[], Corrected | None] = lambda: None
        #: the open layers, where they can be the list
        self.shelf: Shelf | None = None
        self._wrong: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        self._todo: list[str] = []
        self._doing = ""
        self._training_set = training_set
        self._files = Background(link, "sa2net-folder")
        self._painter = Background(link, "sa2net-pictures")
        self._pictures: OrderedDict[Path, Any] = OrderedDict()
        self._waiting: OrderedDict[int, Path] = OrderedDict()
        self._painting = False
        self._run: _Run | None = None
        self._axes = ""
        link.answer(("segment_file", "finish_files"), self)
        link.hear("segment_file", self._heard)
        link.session.events.running.connect(self._ran)
        link.session.events.progress.connect(self._layer_progress)

    # --- the folder --------------------------------------------------------------------

    def open_folder(self, folder: Path) -> None:
        """List its images with what is known of them."""
        with self.link.lock:
            if self.state.running:
                self._fail_words("Images are being segmented: cancel that first.")
                return
            output, training_set = output_of(folder), self._training_set()

            def work() -> list[FolderImage]:
                jobs = list_folder(folder)
                named = [FolderImage(job.name, job.path) for job in jobs]
                return look_at(named, output, training_set)

            def done(images: list[FolderImage]) -> None:
                state = self.state
                self._pictures.clear()
                self._waiting.clear()
                state.busy, state.said = "", ""
                state.current = state.opening = -1
                state.by_worth = False
                state.order = ()
                state.images = tuple(images)
                state.order = tuple(range(len(images)))
                state.output = output
                state.layers = False
                state.folder = folder

            self.state.error = None
            self.state.busy = f"Reading “{folder.name}”…"
            self._files.run(work, done, self._failed)

    def open_layers(self) -> None:
        """Take all open image layers as the list."""
        with self.link.lock:
            state, shelf = self.state, self.shelf
            if state.running:
                self._fail_words("Images are being segmented: cancel that first.")
                return
            if shelf is None or not shelf.look():
                self._fail_words("No image is open: open some, or a folder of images.")
                return
            self.save()
            self._pictures.clear()
            self._waiting.clear()
            state.busy, state.said, state.error = "", "", None
            state.by_worth, state.order = False, ()
            state.opening = -1
            state.folder, state.layers = None, True
            self.look_again()

    def layers_changed(self) -> None:
        """Layers came, went, or have other cells."""
        with self.link.lock:
            if self.state.layers:
                self.look_again()

    def _look_at_layers(self) -> None:
        """Take the list of the open layers as it is."""
        assert self.shelf is not None
        state, found = self.state, []
        for image in self.shelf.look():
            key = image.key
            if key == self._doing:
                image = replace(image, what="running")
            elif key in self._failures and not image.what:
                image = replace(image, what="failed", why=self._failures[key])
            elif image.what == "segmented":
                image = replace(image, wrong=self._wrong.get(key))
            found.append(image)
        if not found:
            self._let_go()
            return
        before = {state.images[i].key: place for place, i in enumerate(state.order)}
        state.images = tuple(found)
        # who looks through the list keeps the order; what came since is at its end
        numbers = range(len(found))
        order = tuple(sorted(numbers, key=lambda i: before.get(found[i].key, len(found))))
        if order != state.order:
            state.order = order
        shown = self.shelf.chosen()
        current = next((i for i in numbers if found[i].key == shown), -1)
        if current != state.current:
            state.current = current

    def set_output(self, output: Path) -> None:
        """Put results elsewhere; what is there already is shown."""
        with self.link.lock:
            folder = self.state.folder
            if folder is None or self.state.running:
                return
            self.state.output = output
            remember_output(folder, output)
            self.look_again()

    def close_folder(self) -> None:
        """Write the shown cells and let go of the list; what is shown stays."""
        with self.link.lock:
            if self.state.running:
                self.cancel()
            self.save(self._let_go)

    def _let_go(self) -> None:
        with self.link.lock:
            state = self.state
            state.order = ()
            state.folder, state.images, state.layers = None, (), False
            state.current = state.opening = -1
            state.said, state.error = "", None
            self._pictures.clear()
            self._waiting.clear()
            self.closed.emit()

    def look_again(self, numbers: Iterable[int] | None = None) -> None:
        """Read anew what files tell of some images, or of all."""
        with self.link.lock:
            state = self.state
            if state.layers:
                self._look_at_layers()
                return
            if state.folder is None or self._files.closed:
                return
            chosen = list(range(len(state.images)) if numbers is None else numbers)
            before = [state.images[i] for i in chosen]
            output, training_set = state.output, self._training_set()

            def done(found: list[FolderImage]) -> None:
                images = list(self.state.images)
                for i, one, now in zip(chosen, before, found, strict=True):
                    there = i < len(images) and images[i].path == one.path
                    # what failed in memory alone, as in a folder that cannot be written
                    if there and not (images[i].what == "failed" and not now.what):
                        images[i] = now
                if output == self.state.output:
                    self.state.images = tuple(images)

            self._files.run(lambda: look_at(before, output, training_set), done, self._failed)

    # --- walking -----------------------------------------------------------------------

    def open(self, number: int, by: int = 0) -> None:
        """Show an image; corrections of the one before are written first.

        One that cannot be read is stepped over, ``by`` so many.
        """
        with self.link.lock:
            state = self.state
            if not 0 <= number < len(state.images) or number == state.current:
                state.opening = -1
                return
            if state.layers:
                assert self.shelf is not None
                self.shelf.choose(state.images[number].key)
                self.look_again()
                return
            state.opening, state.error = number, None
            image, output = state.images[number], state.output

            def work() -> OpenedImage | None:
                # keys are pressed faster than images are read
                return read_opened(number, image, output) if state.opening == number else None

            def failed(error: Exception) -> None:
                self._set(number, what="failed", why=_reason(error, image.path))
                self._failed(error)
                if by:
                    self._step(number, by)

            self._files.run(work, self._read, failed)

    def _read(self, opened: OpenedImage | None) -> None:
        state = self.state
        if opened is None or state.opening != opened.number or state.folder is None:
            return
        self.save(lambda: self._show(opened))

    def save(self, then: Callable[[], Any] = lambda: None) -> None:
        """Write the shown cells if a person has corrected them, and go on with something."""
        with self.link.lock:
            state = self.state
            left = None if state.layers else self.leaving()
            if left is None or not 0 <= left.number < len(state.images):
                then()
                return
            path = corrected_file(state.output, state.images[left.number].name)

            def work() -> None:
                write_labels(
                    path, left.labels, left.pixel_size_um, dict(left.provenance), left.axes
                )

            def done(_: None) -> None:
                then()
                self.look_again([left.number])

            def failed(error: Exception) -> None:
                state.opening = -1
                self._failed(
                    OutputError(
                        f"The corrected cells could not be written, so the image stays open: "
                        f"{error} Choose another folder for the results."
                    )
                )

            self._files.run(work, done, failed)

    def _show(self, opened: OpenedImage) -> None:
        before = self.state.current
        if self.state.images[opened.number].what == "failed":
            self._set(opened.number, what="", why="")  # it can be read now
        self.state.current, self.state.opening = opened.number, -1
        self._axes = opened.axes
        self.opened.emit(opened)
        self.look_again([i for i in (before, opened.number) if i >= 0])

    def step(self, by: int) -> None:
        """Open the next image in the order that is shown (1), or the one before (-1)."""
        with self.link.lock:
            state = self.state
            if not state.order:
                return
            at = state.opening if state.opening >= 0 else state.current
            if at < 0:
                self.open(state.order[0], 1)
                return
            self._step(at, by)

    def _step(self, number: int, by: int) -> None:
        """Open the next image after one, those left out that are known to be unreadable."""
        state = self.state
        place = state.order.index(number) + by
        while 0 <= place < len(state.order):
            image = state.images[state.order[place]]
            if image.what != "failed" or image.n_cells is not None:
                self.open(state.order[place], by)
                return
            place += by

    def next(self) -> None:
        """Open the next image."""
        self.step(1)

    def previous(self) -> None:
        """Open the image before."""
        self.step(-1)

    def most_worth(self) -> None:
        """Order the images by doubt, and open the most doubtful that nobody has corrected."""
        with self.link.lock:
            self.sort(True)
            images, current = self.state.images, self.state.current
            worth = [
                number
                for number in self.state.order
                if images[number].what == "segmented" and images[number].wrong is not None
            ]
            if worth:
                # pressed again, the one after the shown one
                at = worth.index(current) + 1 if current in worth else 0
                self.open(worth[at % len(worth)])
                return
            if not any(image.wrong is not None for image in images):
                self._fail_words(
                    "Nothing is known of these images yet: press “Segment all” first."
                )

    def go_on(self) -> str:
        """The shown image is through: open the next one that is most worth it.

        Returns
        -------
        What follows, in words.
        """
        with self.link.lock:
            images, current = self.state.images, self.state.current
            left = [
                number
                for number in by_worth(images)
                if number != current and images[number].what in ("segmented", "")
            ]
            if not left:
                return "So is every other image of the list."
            self.open(left[0])
            return f"On to “{images[left[0]].title}”…"

    def sort(self, worth: bool) -> None:
        """Order the images by doubt, or by name."""
        with self.link.lock:
            state = self.state
            state.by_worth = worth
            names = tuple(range(len(state.images)))
            state.order = by_worth(state.images) if worth else names

    def touched(self, what: What = "corrected", n_cells: int | None = None) -> None:
        """A person has corrected the shown image, or kept the corrections.

        ``n_cells``: how many cells it has now, where that is known.
        """
        with self.link.lock:
            number, images = self.state.current, self.state.images
            if not 0 <= number < len(images):
                return
            now = images[number].n_cells if n_cells is None else n_cells
            if (images[number].what, images[number].n_cells) != (what, now):
                self._set(number, what=what, n_cells=now)

    def forget_shown(self) -> None:
        """The shown image was taken away by somebody else."""
        with self.link.lock:
            self.state.current = -1

    # --- small pictures ----------------------------------------------------------------

    def picture(self, number: int) -> Any:
        """Small picture of an image; None while there is none, then `pictured` tells."""
        with self.link.lock:
            path = self.state.images[number].path
            if path in self._pictures:
                self._pictures.move_to_end(path)
                return self._pictures[path]
            self._waiting[number] = path
            self._waiting.move_to_end(number)
            while len(self._waiting) > MOST_WAITING:
                self._waiting.popitem(last=False)
            self._paint()
            return None

    def _paint(self) -> None:
        """Make the picture that was asked for last; what is seen now comes first."""
        if self._painting or not self._waiting or self._painter.closed:
            return
        self._painting = True
        number, path = self._waiting.popitem()
        make: Callable[[], Any] = partial(small_picture, path)
        if self.state.layers and self.shelf is not None:
            plan = self.shelf.plan(path.name)  # of a layer the path is its key
            make = partial(picture_of, plan) if plan is not None else bool

        def done(picture: Any) -> None:
            self._painting = False
            images = self.state.images
            if number < len(images) and images[number].path == path:
                self._pictures[path] = picture
                while len(self._pictures) > MOST_THUMBNAILS:
                    self._pictures.popitem(last=False)
                self.pictured.emit(number)
            self._paint()

        # an image that cannot be read has no picture, and its row says why when it is opened
        self._painter.run(make, done, lambda _: done(False))

    # --- segmenting all ----------------------------------------------------------------

    def settings(self) -> BatchSettings:
        """What all images are segmented with: as the Segment page is set now."""
        session = self.link.session
        predict, axes, channels = session.predict, None, None
        source, state = session.image, self.state
        current = state.images[state.current] if state.current >= 0 else None
        if source is not None and current is not None and source.path == str(current.path):
            if source.contrast is not None and session.normalize:
                predict = predict.model_copy(update={"contrast": source.contrast})
            if source.axes != self._axes:
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
            parts.append(f"channel{'' if len(settings.channels) == 1 else 's'} {names}")
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
                self._failed(error)
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
            if self.state.layers and self.state.running and self.shelf is not None:
                self.state.stopping = True
                self.shelf.cancel()
            elif self._run is not None and self.state.running:
                force, self.state.stopping = self.state.stopping, True
                self.link.client.cancel(self._run.job, force=force)

    def _segment_layers(self) -> bool:
        """Segment the open layers one after the other, but for those that are corrected."""
        state = self.state
        done = ("corrected", "kept")
        self._todo = [one.key for one in state.images if one.what not in done]
        self._failures.clear()
        if not self._todo:
            self._fail_words("Every layer of the list is corrected: there is nothing to do.")
            return False
        state.error, state.said, state.progress = None, "", None
        state.stopping, state.running = False, True
        self._next_layer()
        return True

    def _next_layer(self) -> None:
        assert self.shelf is not None
        while self._todo and not self.state.stopping:
            self._doing = self._todo.pop(0)
            if self.shelf.choose(self._doing) and self.shelf.segment(self._doing):
                self.look_again()
                return
            error = self.link.session.error
            self._failures[self._doing] = error.message if error is not None else "it is gone"
        self._doing = ""
        failed, stopped = len(self._failures), self.state.stopping
        self._stopped(None)
        n = sum(image.n_cells or 0 for image in self.state.images)
        words = f"{cells(n)} in the open layers."
        if stopped:
            words = "Stopped; “Segment all” begins with the first again."
        elif failed:
            words += f" {failed:,} could not be done; their rows say why."
        self.state.said = words

    def _ran(self, running: bool) -> None:
        """A segmentation of the page has begun or ended; perhaps ours."""
        if running or not self._doing:
            return
        # after those who show what it found
        self.link.dispatch(self._layer_done)

    def _layer_done(self) -> None:
        with self.link.lock:
            key, shelf = self._doing, self.shelf
            if not key or shelf is None or self.link.session.running:
                return
            error = self.link.session.error
            labels = shelf.labels(key)
            if error is not None and not self.state.stopping:
                self._failures[key] = error.message
            elif labels is not None and not self.state.stopping:
                self._files.run(
                    partial(_doubt_of, labels), partial(self._doubted, key), self._failed
                )
            self._doing = ""
            self.look_again()
            self._next_layer()

    def _doubted(self, key: str, wrong: float) -> None:
        self._wrong[key] = wrong
        self.layers_changed()

    def _layer_progress(self, progress: JobProgress | None) -> None:
        if not self._doing or progress is None:
            return
        n = sum(image.what not in ("corrected", "kept") for image in self.state.images)
        at = max(0, n - len(self._todo) - 1)
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
            self._set(call.about, what="running")
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
            self._set(call.about, what="failed", why=why)
        else:
            if result["state"] == "skipped":
                run.left = TimeLeft()  # tells nothing of the time that others take
            elif call.about == self.state.current:
                self._read_anew(call.about)
            self.look_again([call.about])
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
        self._set(call.about, what="failed", why=error.message)
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
            self._set(call.about, what="", why="")
            self._stopped(error)

    def job_cancelled(self, call: p.Call) -> None:
        """A call of ours was cancelled."""
        run = self._run
        if run is None or call.key != run.key:
            return
        if call.name == "segment_file":
            self.look_again([call.about])
            self._set(call.about, what="")
            self._finish("interrupted")
        else:
            self._stopped(None)

    def _read_anew(self, number: int) -> None:
        """The shown image has cells now."""
        image, output = self.state.images[number], self.state.output

        def done(opened: OpenedImage) -> None:
            if number == self.state.current and self.state.opening < 0:
                self.segmented.emit(opened)

        self._files.run(lambda: read_opened(number, image, output), done, self._failed)

    def _ended(self, summary: Mapping[str, Any]) -> None:
        run = self._run
        assert run is not None
        failed = summary["n_failed"]
        words = f"{cells(summary['n_objects'])} in “{run.output.name}”."
        if summary["state"] != "finished":
            done = summary["n_done"]
            words = (
                f"Stopped after {done:,} image{'' if done == 1 else 's'}; "
                "“Segment all” goes on from here."
            )
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
        self.look_again()

    # --- inside ------------------------------------------------------------------------

    def _set(self, number: int, **changes: Any) -> None:
        images = list(self.state.images)
        if number < len(images):
            images[number] = replace(images[number], **changes)
            self.state.images = tuple(images)

    def dismiss_error(self) -> None:
        """The person has read the error."""
        self.state.error = None

    def _fail_words(self, words: str) -> None:
        self.state.error = ErrorInfo("SettingsError", words)

    def _failed(self, error: Exception) -> None:
        self.state.busy, self.state.opening = "", -1
        self.state.error = error_info(error)

    def close(self) -> None:
        """End what runs with the present piece; nothing is told any more."""
        self._painter.close()
        self._files.close(wait=True, cancel=False)


def _doubt_of(labels: NDArray[Any]) -> float:
    """How many cells of all planes are wrong, about, by size and shape."""
    return sum(expected_wrong(labels[index], None) for index in np.ndindex(*labels.shape[:-2]))


def _reason(error: Exception, path: Path) -> str:
    return reason_words(str(error), path)
