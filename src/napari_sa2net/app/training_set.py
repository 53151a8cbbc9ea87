"""What can be done with the images of a training set: show, remove, take in, copy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal, SignalGroupDescriptor

from napari_sa2net.app.cells import KeptPlace
from napari_sa2net.app.link import Background, EngineLink
from napari_sa2net.app.session import ErrorInfo, JobProgress, error_info
from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data.commit import CommitRecord, is_training_set
from napari_sa2net.data.corrections import TrainingSet, import_into
from napari_sa2net.data.labels import IN_PYTHON, NUMBER_THEM
from napari_sa2net.data.levels import apply_levels
from napari_sa2net.data.plan import ImagePlan, plan_image
from napari_sa2net.data.training_set import TrainingItem, check_pixels, load_training_folder
from napari_sa2net.errors import CommitNotFoundError, SA2NetError
from napari_sa2net.training.compare import (
    Change,
    LossPoint,
    Planned,
    RoundPoint,
    Score,
    Verdict,
)
from napari_sa2net.training.runs import UnfinishedRun
from napari_sa2net.words import counted, plural

# --------------------------------------------------------------------------------------------
# What the Learn page shows, as evented state.

Phase = Literal["idle", "starting", "learning", "pausing", "paused", "stopping"]
RUNNING: tuple[Phase, ...] = ("starting", "learning", "pausing", "stopping")
"""Phases in which an engine of learning is at work."""


@dataclass(frozen=True, eq=False)
class SetItem:
    """One image of the training set.

    Attributes
    ----------
    n_cells
        Reviewed cells; None where the set does not say.
    time
        When it was kept (ISO 8601, UTC); empty where unknown.
    thumbnail
        uint8 (h, w) or (h, w, 3); None until it was read.
    """

    key: str
    name: str
    n_cells: int | None = None
    group: str = ""
    time: str = ""
    thumbnail: Any = None


@dataclass(frozen=True, eq=False)
class SetSummary:
    """What there is to learn from.

    Attributes
    ----------
    items
        The newest, the last one first; not always all.
    n_cells
        Reviewed cells of all; None where the set does not say.
    n_groups
        Groups that a person has named.
    division
        How it will be divided, in words.
    problem
        Why nothing can be learned from it, and what to do; empty if it can.
    listed
        It has a list of commits, from which images can be removed, and which can be added to.
    there, gone
        There is such a folder; it was there, and no longer is.
    channels
        Channels that went in, by name of the image that they were kept of.
    """

    folder: Path
    n_images: int = 0
    items: tuple[SetItem, ...] = ()
    n_cells: int | None = 0
    n_groups: int = 0
    division: str = ""
    problem: str = ""
    listed: bool = False
    there: bool = True
    gone: bool = False
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SetSaid:
    """What was last done with the training set.

    Attributes
    ----------
    removed
        Commits that were removed, which can be undone; empty otherwise.
    """

    folder: Path
    text: str
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportQuestion:
    """What a folder does not tell of its images, and a person has to say.

    Attributes
    ----------
    source
        The folder or zip file.
    axes
        Spellings to choose from, the likeliest first; a single one is known.
    shape
        Of the first image.
    names
        Of its channels, where the file tells.
    """

    source: Path
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()

    def channels(self, axes: str) -> tuple[str, ...]:
        """What the channels are called, if the axes are spelled so."""
        n = self.shape[axes.index("C")] if "C" in axes else 1
        if len(self.names) == n:
            return self.names
        return tuple(map(str, range(n)))


@dataclass(frozen=True, eq=False)
class Curves:
    """Points of a run so far.

    Attributes
    ----------
    parent
        The model as it was, on what is held back: the dashed lines.
    """

    losses: tuple[LossPoint, ...] = ()
    rounds: tuple[RoundPoint, ...] = ()
    parent: Score | None = None
    steps: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a run.

    Attributes
    ----------
    parent, child
        Names of models.
    aside
        The child is kept aside now; else it is offered by name.
    """

    parent: str
    child: str
    path: str
    aside: bool
    verdict: Verdict
    held_out: Change
    reference: Change
    seconds: float


@dataclass(frozen=True, eq=False)
class Difference:
    """Parent and child on a part of an image, in words."""

    image_key: str
    words: str


@dataclass
class LearnState:
    """Evented; written by the controller, read by the page.

    Attributes
    ----------
    folder, summary
        The training set; no summary before it was read.
    problem
        Why learning cannot begin, and what to do; empty if it can.
    child
        Name that a person gave; empty for `suggested`.
    phase
        What goes on; `parent` and `run` are those of the run.
    progress, seconds_left
        How far it is; None while that is not known.
    plan
        What the run is going to do, in words.
    notices
        Sentences that came up on the way.
    wants_preview
        Show the image's view as the child sees it, after each round.
    previewed
        Number of the round that is shown; 0 for none.
    unfinished
        Runs that can go on.
    outcome
        Of the last run; None before the first has ended.
    in_use
        The outcome's child is the chosen model.
    difference
        What is shown of parent and child; `comparing` while that is on the way.
    set_busy, set_said, set_question
        What is being done with the training set, in words, and what was; what has to be said
        before images are taken in.
    error
        What went wrong here; other pages have nothing to do with it.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    folder: Path = field(default_factory=Path)
    summary: SetSummary | None = None
    problem: str = ""
    child: str = ""
    suggested: str = ""
    config: FineTuneConfig = field(default_factory=FineTuneConfig)
    phase: Phase = "idle"
    parent: str = ""
    name: str = ""
    run: str = ""
    progress: JobProgress | None = None
    seconds_left: float | None = None
    plan: str = ""
    curves: Curves = field(default_factory=Curves)
    notices: tuple[str, ...] = ()
    wants_preview: bool = True
    previewed: int = 0
    unfinished: tuple[UnfinishedRun, ...] = ()
    outcome: Outcome | None = None
    in_use: bool = False
    comparing: bool = False
    difference: Difference | None = None
    set_busy: str = ""
    set_said: SetSaid | None = None
    set_question: ImportQuestion | None = None
    error: ErrorInfo | None = None


def plan_words(plan: Planned) -> str:
    """``Learns from 57 cells, and is judged on 14 that are held back.``."""
    held = plan.n_held_out
    return (
        f"Learns from {counted(plan.n_learned, 'cell')}, and is judged on {held:,} that "
        f"{plural(held, 'is', 'are')} held back."
    )


#: Megapixels of the reference set, which is scored before and after even the shortest run;
#: of an image that is held back; and steps with which learning begins: timed, and taken.
REFERENCE_MEGAPIXELS, HELD_OUT_MEGAPIXELS = 1.0, 0.1
FIRST_STEPS: dict[str, int] = {"everything": 5, "attention": 14}
#: A step costs so many passes of its crops through the network.
PASSES = 4


def seconds_to_learn(
    config: FineTuneConfig, n_images: int, seconds_per_megapixel: float | None
) -> float:
    """How long a run takes: the time that is given, or what it cannot do without.

    Before its first step the model is scored as it is and the computer's speed is measured;
    at least one round is scored after. On a slow computer that may be most of it.
    """
    given = 60 * config.minutes
    if seconds_per_megapixel is None:
        return given
    held_out = min(config.max_scored, math.ceil(config.held_out * n_images))
    scored = REFERENCE_MEGAPIXELS + HELD_OUT_MEGAPIXELS * held_out
    step = PASSES * config.batch_size * config.crop**2 / 1e6
    least = 2 * scored + FIRST_STEPS[config.learn] * step
    return max(given, least * seconds_per_megapixel)


# --------------------------------------------------------------------------------------------
# A training set as the Learn page shows it; read on a thread of its own, without torch.

#: Fewest reviewed cells where there is one image only, as `training.held_out` has it.
FEWEST = 4
#: So many are listed, the newest; all are learned from.
MOST_LISTED = 60
#: Side (px) of a small picture.
THUMBNAIL = 40
NOTHING = (
    "There are no corrections to learn from yet. Repair some cells on the Correct page and "
    "keep them."
)


def read_summary(folder: Path, share: float) -> SetSummary:
    """What a folder holds; `share` of the cells is to be held back.

    Never raises: what is wrong is the summary's ``problem``.
    """
    try:
        if is_training_set(folder):
            return _of_commits(folder, share)
        if not folder.is_dir():
            return SetSummary(folder, problem=NOTHING, there=False)
        if not any(folder.iterdir()):
            return SetSummary(folder, problem=NOTHING)
        return _of_folder(folder, share)
    except (SA2NetError, OSError) as error:
        return SetSummary(folder, n_cells=None, problem=str(error))


def _of_commits(folder: Path, share: float) -> SetSummary:
    from napari_sa2net.data.corrections import TrainingSet

    records = TrainingSet.open(folder).commits()
    if not records:
        return SetSummary(folder, problem=NOTHING, listed=True)
    n_cells = sum(record.n_reviewed for record in records)
    units = Counter(_unit(record) for record in records if record.n_reviewed)
    marked = any(record.split == "val" for record in records)
    problem = ""
    if not n_cells:
        problem = (
            "No cell of these images has been reviewed. Accept or correct some on the Correct "
            "page, and keep them again."
        )
    elif len(records) == 1 and n_cells < FEWEST:
        problem = (
            f"One image with {counted(n_cells, 'reviewed cell')} is too little: review "
            f"{FEWEST} or more, or keep a second image, so that some can be held back to judge "
            "by."
        )
    return SetSummary(
        folder,
        len(records),
        tuple(
            SetItem(r.id, r.source.name, r.n_reviewed, r.group, r.time)
            for r in reversed(records[-MOST_LISTED:])
        ),
        n_cells,
        len({record.group for record in records if record.group}),
        _division(len(records), len(units), marked, share),
        problem,
        listed=True,
        channels={r.source.name: r.seen.channels for r in records if r.seen is not None},
    )


def _of_folder(folder: Path, share: float) -> SetSummary:
    from napari_sa2net.data.io import read_image
    from napari_sa2net.data.training_set import unchosen

    items = load_training_folder(folder)
    note = ""
    with suppress(SA2NetError):  # learning says what is wrong
        note = unchosen(read_image(items[0].image), items[0])
    marked = any(item.split == "val" for item in items)
    units = {item.group or item.name for item in items}
    return SetSummary(
        folder,
        len(items),
        tuple(SetItem(item.name, item.name, None, item.group) for item in items[:MOST_LISTED]),
        None,
        len({item.group for item in items if item.group}),
        " ".join(filter(None, (_division(len(items), len(units), marked, share), note))),
    )


def import_question(source: Path) -> ImportQuestion | None:
    """What a person has to say of the images of a source; None where all is plain.

    Raises
    ------
    SA2NetError
        If there are none.
    """
    from napari_sa2net.data.corrections import opened_source
    from napari_sa2net.data.io import read_image

    with opened_source(source) as folder:
        if is_training_set(folder):
            return None
        file = read_image(load_training_folder(folder)[0].image)
        plan = plan_image(file.array, file.axes, in_channels=1, measure=False)
        axes: tuple[str, ...] = (plan.axes,)
        if plan.n_planes > 1:
            if plan.channel_axis is not None or len(plan.shape) != 3:
                return None  # whole stacks are not taken in, which is said then
            first, last = plan.shape[0], plan.shape[2]
            axes = ("CYX", "YXC") if first <= last else ("YXC", "CYX")
        elif plan.n_channels < 2 or plan.is_rgb:
            return None
        return ImportQuestion(source, axes, plan.shape, file.channel_names)


def _unit(record: CommitRecord) -> str:
    """What is never torn apart: a group, or all that is of one image."""
    return record.group or record.source.fingerprint or record.source.name


def _division(n_images: int, n_units: int, marked: bool, share: float) -> str:
    if marked:
        return "Held back to judge by: the images that are marked for validation."
    if n_images == 1:
        return (
            f"A strip of the image with about {share:.0%} of its cells is held back to judge "
            "by. A second image makes a fairer judge."
        )
    if n_units == 1:
        return (
            f"About {share:.0%} of the cells are held back to judge by. All images are of one "
            "group, so it judges kindly: images of another group would tell more."
        )
    whole = "whole images"
    if 1 < n_units < n_images:
        whole = "whole groups"
    return f"About {share:.0%} of the cells are held back to judge by: {whole}."


def thumbnails(summary: SetSummary) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Key and small picture of every listed image, as they are read.

    Images that cannot be read are passed over: learning itself says what is wrong.
    """
    try:
        items = load_training_folder(summary.folder)
    except (SA2NetError, OSError):
        return
    by_key = {item.commit or item.name: item for item in items}
    for shown in summary.items:
        item = by_key.get(shown.key)
        if item is None:
            continue
        with suppress(SA2NetError, OSError, ValueError):
            yield shown.key, thumbnail(item)


def thumbnail(item: TrainingItem) -> NDArray[np.uint8]:
    """A small picture of what is learned from, uint8 (h, w) or (h, w, 3)."""
    from napari_sa2net.data.training_set import plan_item

    return picture_of(plan_item(item))


def picture_of(plan: ImagePlan) -> NDArray[np.uint8]:
    """The middle plane of an image, small: uint8 (h, w) or (h, w, 3)."""
    height, width = plan.spatial
    first = tuple(n // 2 for n in plan.stack_shape)
    step = max(1, max(height, width) // THUMBNAIL)
    values = plan.read_raw(first, 0, height, 0, width)[:, ::step, ::step]
    if plan.is_rgb and len(values) == 3 and values.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(values, 0, -1))
    small = np.clip(apply_levels(values, plan.measured_of(first)), 0, 1)
    small = np.moveaxis(small, 0, -1) if len(small) == 3 else small.mean(0)
    return np.round(255 * np.nan_to_num(small)).astype(np.uint8)


def gone(summary: SetSummary) -> SetSummary:
    """The summary of a folder that was there before."""
    words = f"The folder {summary.folder} is gone. Bring it back or choose another."
    return replace(summary, problem=words, gone=True)


def with_thumbnails(summary: SetSummary, pictures: dict[str, Any]) -> SetSummary:
    """The same summary with pictures."""
    items = tuple(replace(i, thumbnail=pictures.get(i.key, i.thumbnail)) for i in summary.items)
    return replace(summary, items=items)


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
    notes
        What may be wrong with the cells, or was not read of them.
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
    notes: str = ""


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
        self._state = state
        self._changed = changed
        self._failed = failed
        self._background = Background(link, "training-set")

    def show(self, keys: Sequence[str]) -> None:
        """Open images and their cells as layers."""
        folder = self._state.folder

        def opened(kept: KeptImage) -> None:
            self.opened.emit(kept)
            if kept.notes:
                self._say(folder, f"{kept.name}: {kept.notes}")

        for key in keys:
            self._do("Opening…", partial(read_kept, folder, key), opened)

    def remove(self, keys: Sequence[str]) -> None:
        """Take images out of the set; `put_back` undoes that."""
        folder = self._state.folder

        def removed(records: list[CommitRecord]) -> None:
            n = len(records)
            what = records[0].source.name if n == 1 else counted(n, "image")
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
            text = f"Imported {counted(n, 'image')} from {source.name}."
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
        self._background.close()

    # --- inside --------------------------------------------------------------------------

    def _say(self, folder: Path, text: str, removed: tuple[str, ...] = ()) -> None:
        if folder == self._state.folder:
            self._state.set_said = SetSaid(folder, text, removed)
            self._changed()

    def _do(self, words: str, work: Callable[[], Any], done: Callable[[Any], Any]) -> None:
        """Work in the background, one after another; an error goes to the page."""

        def ended(result: Any) -> None:
            self._state.set_busy = ""
            done(result)

        def failed(error: Exception) -> None:
            self._state.set_busy = ""
            self._failed(error_info(error))
            self._changed()

        if self._background.closed:
            return
        self._state.set_busy = words
        self._state.set_said = self._state.set_question = self._state.error = None
        self._background.run(work, ended, failed)


def in_window(error: ErrorInfo) -> ErrorInfo:
    """What is wrong with labels can be mended in the window, too, and not in Python alone."""
    words, by_hand, code = error.message.partition(IN_PYTHON)
    if not by_hand and NUMBER_THEM not in words:
        return error
    in_python = f" In Python: {code}" if by_hand else ""
    return replace(error, message=f"{words.removesuffix('.')}. {ONE_CLICK}{in_python}")


#: How labels are mended that were refused.
ONE_CLICK = (
    "Or open this image and its labels here: one click on the Correct page mends them, and "
    "there you can accept and keep them."
)


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
    from napari_sa2net.data.label_files import read_cells

    item = next((one for one in load_training_folder(folder) if one.name == key), None)
    if item is None:
        raise CommitNotFoundError(f"{key} is not in {folder} any more. Choose another image.")
    file = read_image(item.image)
    image = np.asarray(file.array)
    shape = image.shape[file.axes.index("Y")], image.shape[file.axes.index("X")]
    check_pixels(item, shape)
    read = read_cells(item.labels, shape, item.name, pixel_size_um=file.pixel_size_um)
    labels = read.labels.astype(np.int32)
    rgb = file.axes == "YXC" and image.shape[2] in (3, 4)
    limits = None if rgb else _limits(image, item.levels)
    return KeptImage(
        folder,
        key,
        item.name,
        image,
        file.axes,
        labels,
        limits,
        file.pixel_size_um,
        notes=f"{'; '.join(read.notes)}." if read.notes else "",
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
