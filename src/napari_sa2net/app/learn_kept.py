"""What can be done with the images of a training set: show, remove, take in, copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_sa2net.app.correct_source import KeptPlace
from napari_sa2net.app.learn_set import import_question
from napari_sa2net.app.learn_state import ImportQuestion, LearnState, SetSaid
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.session import ErrorInfo, error_info
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.exchange import import_into
from napari_sa2net.data.manifest import CommitRecord, is_training_set
from napari_sa2net.data.training_set import check_pixels, load_training_folder
from napari_sa2net.errors import CommitNotFoundError, SA2NetError

#: pixels that are looked at to choose the contrast
_LOOKED_AT = 1 << 18


@dataclass(frozen=True, eq=False)
class KeptImage:
    """An image of a training set with its cells, to be shown.

    Attributes
    ----------
    key
        Of the row, see `SetItem`.
    image, axes
        As it was kept: YX, YXC (colours) or CYX.
    labels : int32 (H, W)
    limits
        Values that are shown black and white; None for colours.
    pixel_size_um
        None where unknown.
    place
        Where it came from; None where the set does not say.
    channels
        Those of a CYX image that go in.
    model
        Name and sha256 of the model that made the cells, as far as is known.
    """

    folder: Path
    key: str
    name: str
    image: NDArray[Any]
    axes: str
    labels: NDArray[np.int32]
    limits: tuple[float, float] | None
    pixel_size_um: float | None = None
    place: KeptPlace | None = None
    channels: tuple[int, ...] = ()
    model: dict[str, str] | None = None


class LearnSet:
    """The training set of the Learn page; a part of its controller.

    All methods return at once; files are read and written on a thread of its own.

    Parameters
    ----------
    link
        Its dispatch and lock.
    state
        Of the page.
    changed
        Called when the set is another than before.
    failed
        Called with an `ErrorInfo`.

    Attributes
    ----------
    opened
        `KeptImage`: show it.
    """

    opened = Signal(KeptImage)

    def __init__(
        self,
        link: EngineLink,
        state: LearnState,
        changed: Callable[[], None],
        failed: Callable[[ErrorInfo], None],
    ) -> None:
        self._link = link
        self._state = state
        self._changed = changed
        self._failed = failed
        self._closed = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="training-set")

    def show(self, keys: Sequence[str]) -> None:
        """Open images and their cells as layers."""
        folder = self._state.folder
        for key in keys:
            self._do("Opening…", partial(read_kept, folder, key), self.opened.emit)

    def remove(self, keys: Sequence[str]) -> None:
        """Take images out of the set; `put_back` undoes that."""
        folder = self._state.folder

        def removed(records: list[CommitRecord]) -> None:
            what = records[0].source.name if len(records) == 1 else f"{len(records)} images"
            text = f"Removed {what} from the training set; nothing is deleted."
            self._say(folder, text, tuple(record.id for record in records))

        if keys:
            self._do("Removing…", lambda: _remove(folder, keys), removed)

    def put_back(self) -> None:
        """Undo the last removal."""
        said = self._state.set_said
        if said is None or not said.removed:
            return

        def restored(records: list[CommitRecord]) -> None:
            what = f"{records[0].source.name} is" if len(records) == 1 else "They are"
            self._say(said.folder, f"{what} in the training set again.")

        self._do("Putting back…", lambda: _restore(said.folder, said.removed), restored)

    def look_into(self, source: Path) -> None:
        """Take a folder or zip file in, or ask first what its images do not tell."""

        def looked(question: ImportQuestion | None) -> None:
            self._state.set_question = question
            if question is None:
                self.take_in(source)

        self._do(f"Looking into {source.name}…", lambda: import_question(source), looked)

    def take_in(
        self, source: Path, axes: str = "", channels: tuple[int, ...] | None = None
    ) -> None:
        """Copy another set, or images and labels, into this one; a folder or a zip file."""
        folder = self._state.folder

        notes: list[str] = []

        def taken(records: list[CommitRecord]) -> None:
            n = len(records)
            text = f"Imported {n} image{'' if n == 1 else 's'} from {source.name}."
            text = text if n else f"All of {source.name} is here already."
            self._say(folder, " ".join([text, *notes]))

        self._do(
            f"Importing {source.name}…",
            lambda: import_into(
                folder, source, note=notes.append, axes=axes or None, channels=channels
            )[1],
            taken,
        )

    def drop_question(self) -> None:
        """Do not take in what was asked about."""
        self._state.set_question = None

    def copy_to(self, target: Path, overwrite: bool = False) -> None:
        """Copy the set to a new folder, or to a zip file."""
        folder = self._state.folder
        self._do(
            "Copying the training set…",
            lambda: TrainingSet.open(folder).export(target, overwrite),
            lambda path: self._say(folder, f"Copied the training set to {path}"),
        )

    def forget(self) -> None:
        """Another set is chosen: what was done with this one is not said any more."""
        self._state.set_said = self._state.set_question = None

    def close(self) -> None:
        """Finish what is being written; nothing is told any more."""
        self._closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)

    # --- inside --------------------------------------------------------------------------

    def _say(self, folder: Path, text: str, removed: tuple[str, ...] = ()) -> None:
        if folder == self._state.folder:
            self._state.set_said = SetSaid(folder, text, removed)
            self._changed()

    def _do(self, words: str, work: Callable[[], Any], done: Callable[[Any], Any]) -> None:
        """Work in the background, one after another; an error goes to the page."""

        def tell(future: Future[Any]) -> None:
            with self._link.lock:
                if self._closed or future.cancelled():
                    return
                self._state.set_busy = ""
                error = future.exception()
                if error is None:
                    done(future.result())
                else:
                    self._failed(error_info(error))
                    self._changed()

        if self._closed:
            return
        self._state.set_busy = words
        self._state.set_said = self._state.set_question = self._state.error = None
        future = self._worker.submit(work)
        future.add_done_callback(lambda ended: self._link.dispatch(lambda: tell(ended)))


def read_kept(folder: Path, key: str) -> KeptImage:
    """Read an image of a training set with its cells.

    Parameters
    ----------
    key
        Of the row, see `SetItem`.

    Raises
    ------
    SA2NetError
        If it is gone, or cannot be read.
    """
    if is_training_set(folder):
        data = TrainingSet.open(folder).load(key)
        record = data.record
        limits = None if record.axes == "YXC" else _limits(data.image, record.levels)
        return KeptImage(
            folder,
            key,
            record.source.name,
            data.image,
            record.axes,
            data.labels,
            limits,
            record.pixel_size_um,
            _place(record),
            record.channels or tuple(range(len(data.image))) if record.axes == "CYX" else (),
            record.parent.model_dump(),
        )
    return _read_item(folder, key)


def _read_item(folder: Path, key: str) -> KeptImage:
    from napari_sa2net.data.io import read_image
    from napari_sa2net.data.label_file import read_labels

    item = next((one for one in load_training_folder(folder) if one.name == key), None)
    if item is None:
        raise CommitNotFoundError(f"{key} is not in {folder} any more. Choose another image.")
    file = read_image(item.image)
    image = np.asarray(file.array)
    shape = image.shape[file.axes.index("Y")], image.shape[file.axes.index("X")]
    check_pixels(item, shape)
    labels = read_labels(item.labels, shape).astype(np.int32)
    rgb = file.axes == "YXC" and image.shape[2] in (3, 4)
    limits = None if rgb else _limits(image, item.levels)
    return KeptImage(
        folder, key, item.name, image, file.axes, labels, limits, file.pixel_size_um
    )


def _limits(image: NDArray[Any], levels: Sequence[tuple[float, float]] | None) -> Any:
    if levels:
        low, high = min(level[0] for level in levels), max(level[1] for level in levels)
    else:
        every = max(1, image.size // _LOOKED_AT)
        low, high = np.nanpercentile(image.ravel()[::every].astype(np.float64), [0.1, 99.9])
    return float(low), float(high) if high > low else float(low) + 1


def _place(record: CommitRecord) -> KeptPlace:
    source = record.source
    return KeptPlace(
        source.name,
        source.path,
        source.fingerprint,
        record.index,
        record.box,
        record.levels,
        record.group,
        record.kind,
        record.split,
        record.seen,
        record.channels,
    )


def _remove(folder: Path, keys: Sequence[str]) -> list[CommitRecord]:
    """All of them, or after an error none."""
    training_set = TrainingSet.open(folder)
    removed: list[CommitRecord] = []
    try:
        for key in keys:
            removed.append(training_set.remove(key))
    except SA2NetError:
        for record in removed:
            training_set.restore(record.id)
        raise
    return removed


def _restore(folder: Path, keys: Sequence[str]) -> list[CommitRecord]:
    training_set = TrainingSet.open(folder)
    return [training_set.restore(key) for key in keys]
