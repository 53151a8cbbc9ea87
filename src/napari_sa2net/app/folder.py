"""A folder of images: what is known of each, opened one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

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
from napari_sa2net.app.link import Background, EngineLink
from napari_sa2net.app.segment_all import SegmentAll
from napari_sa2net.app.session import ErrorInfo, JobProgress, error_info
from napari_sa2net.app.training_set import picture_of
from napari_sa2net.data.write import write_labels
from napari_sa2net.errors import OutputError
from napari_sa2net.words import counted

if TYPE_CHECKING:
    from napari_sa2net.data.plan import ImagePlan

#: So many small pictures are held.
MOST_THUMBNAILS = 400
#: So many small pictures that were asked for wait to be made: the rest are asked for again.
MOST_WAITING = 40


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
    parts = [counted(n, "image")]
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
        self._training_set = training_set
        self.files = Background(link, "sa2net-folder")
        self._painter = Background(link, "sa2net-pictures")
        self._pictures: OrderedDict[Path, Any] = OrderedDict()
        self._waiting: OrderedDict[int, Path] = OrderedDict()
        self._painting = False
        self.axes = ""
        self.segmenting = SegmentAll(self)

    # --- the folder --------------------------------------------------------------------

    def open_folder(self, folder: Path) -> None:
        """List its images with what is known of them."""
        with self.link.lock:
            if self.state.running:
                self.fail_words("Images are being segmented: cancel that first.")
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
            self.files.run(work, done, self.failed)

    def open_layers(self) -> None:
        """Take all open image layers as the list."""
        with self.link.lock:
            state, shelf = self.state, self.shelf
            if state.running:
                self.fail_words("Images are being segmented: cancel that first.")
                return
            if shelf is None or not shelf.look():
                self.fail_words("No image is open: open some, or a folder of images.")
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
            if key == self.segmenting.doing:
                image = replace(image, what="running")
            elif key in self.segmenting.failures and not image.what:
                image = replace(image, what="failed", why=self.segmenting.failures[key])
            elif image.what == "segmented":
                image = replace(image, wrong=self.segmenting.wrong.get(key))
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
                self.segmenting.cancel()
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
            if state.folder is None or self.files.closed:
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

            self.files.run(lambda: look_at(before, output, training_set), done, self.failed)

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
                self.set_image(number, what="failed", why=reason_words(str(error), image.path))
                self.failed(error)
                if by:
                    self._step(number, by)

            self.files.run(work, self._read, failed)

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
                self.failed(
                    OutputError(
                        f"The corrected cells could not be written, so the image stays open: "
                        f"{error} Choose another folder for the results."
                    )
                )

            self.files.run(work, done, failed)

    def _show(self, opened: OpenedImage) -> None:
        before = self.state.current
        if self.state.images[opened.number].what == "failed":
            self.set_image(opened.number, what="", why="")  # it can be read now
        self.state.current, self.state.opening = opened.number, -1
        self.axes = opened.axes
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
            elif not any(image.wrong is not None for image in images):
                self.fail_words(
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
                self.set_image(number, what=what, n_cells=now)

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

    # --- inside ------------------------------------------------------------------------

    def set_image(self, number: int, **changes: Any) -> None:
        """Say something else of an image."""
        images = list(self.state.images)
        if number < len(images):
            images[number] = replace(images[number], **changes)
            self.state.images = tuple(images)

    def dismiss_error(self) -> None:
        """The person has read the error."""
        self.state.error = None

    def fail_words(self, words: str) -> None:
        """Say why something cannot be."""
        self.state.error = ErrorInfo("SettingsError", words)

    def failed(self, error: Exception) -> None:
        """Say what went wrong."""
        self.state.busy, self.state.opening = "", -1
        self.state.error = error_info(error)

    def close(self) -> None:
        """End what runs with the present piece; nothing is told any more."""
        self._painter.close()
        self.files.close(wait=True, cancel=False)
