"""A batch shared out: which image or block is whose, in shards or tasks, and the join.

::

    OUT/extra/shards/2-of-8.json                what became of a shard
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from napari_sa2net.data.formats import Share, begin_zarr, fill_zarr
from napari_sa2net.data.results import Job, ResultFolder, records_of
from napari_sa2net.errors import ImageFileError, OutputError, SettingsError
from napari_sa2net.files import write_atomically
from napari_sa2net.inference.batch import (
    Batch,
    BatchSettings,
    News,
    Work,
    cells_of,
    claimed,
    segment_file,
    words_of,
)
from napari_sa2net.inference.blocks import SharedImage, difference, place, read_json
from napari_sa2net.inference.predict import SEGMENTING
from napari_sa2net.inference.segment import Segmentation
from napari_sa2net.models import load_model
from napari_sa2net.provenance import versions

if TYPE_CHECKING:
    from napari_sa2net.data import ImageFile
    from napari_sa2net.data.outlines import Cells
    from napari_sa2net.models import Model


@dataclass(frozen=True)
class Order:
    """A batch as every process that shares it is told of it.

    Attributes
    ----------
    output, settings, overwrite, formats, work
        As of `Batch`.
    model : str
        Name or file.
    sha256 : str
        Of its file.
    jobs : tuple of Job
    block : int or None
        Side of a block (px), if images are cut into blocks; 0: as large as usual; None: no
        image is cut.
    otherwise : str
        As of `ResultFolder`.
    together : tuple of str
        Of `data.formats.SHARED`: formats that workers write together when the labels are known.
    """

    output: Path
    model: str
    sha256: str
    settings: BatchSettings
    jobs: tuple[Job, ...]
    block: int | None = None
    formats: tuple[str, ...] = ()
    overwrite: bool = False
    work: Callable[..., dict[str, Any]] = segment_file
    otherwise: str = ""
    together: tuple[str, ...] = ()

    def batch(self, model: Model, work: Work | None = None) -> Batch:
        """The batch, as one process does it."""
        return Batch(
            self.output,
            model,
            self.settings,
            self.overwrite,
            work or self.work,
            otherwise=self.otherwise,
            formats=self.formats,
        )


class Worker:
    """Does what is asked of an order, with one model.

    Parameters
    ----------
    order : Order
    model : Model, optional
        That is loaded; else it is now.

    Raises
    ------
    SettingsError
        The model of that name is another one here.
    """

    def __init__(self, order: Order, model: Model | None = None) -> None:
        self.order = order
        self.model = model or load_model(order.model)
        if self.model.sha256 != order.sha256:
            raise SettingsError(
                f"The model {order.model} is another one on this machine. Give the path of one "
                "model file that all can read."
            )
        self.batch = order.batch(self.model)
        self._joining = order.batch(self.model, self.join_file)
        self._joining.folder.together = order.together
        self._opened: tuple[Job, SharedImage] | None = None
        self._cells: tuple[Job, Cells] | None = None

    def whole(self, job: Job, news: News) -> dict[str, Any]:
        """Segment an image as a whole; what became of it, as of `Batch.image`."""
        return self.batch.image(job, news)

    def open(self, job: Job, news: News, anew: bool = False) -> SharedImage | None:
        """An image in blocks; None of one that needs not be done again.

        Raises
        ------
        SA2NetError
            Whatever is wrong with it.
        """
        if self.batch.folder.finished(job) is not None:
            return None
        if anew:
            self._opened = None
            if self.order.overwrite:
                shutil.rmtree(place(self.batch.folder, job), ignore_errors=True)
        if self._opened is None or self._opened[0] != job:
            self._opened = None
            _, image = claimed(job, self.batch.folder, self.order.settings, news)
            side = self.order.block or None
            self._opened = (
                job,
                SharedImage(
                    job,
                    self.batch.folder,
                    image,
                    self.model,
                    self.order.settings,
                    side,
                    anew,
                    news,
                ),
            )
        return self._opened[1]

    def joined(self, job: Job, news: News) -> dict[str, Any]:
        """Make an image's results of its blocks; what became of it, as of `Batch.image`."""
        return self._joining.image(job, news)

    def join_file(
        self, job: Job, folder: ResultFolder, model: Model, settings: BatchSettings, news: News
    ) -> dict[str, Any]:
        """As of `batch.segment_file`, from the blocks of an image."""
        if not place(folder, job).is_dir():
            record = records_of(folder.folder, [job.name]).get(job.name, {})
            raise ImageFileError(
                record.get("error")
                or f"{job.path} was not done by any shard. Give the command with --shard 1/N, "
                "2/N … N/N first, and join then."
            )

        def by(image: ImageFile, *_: Any) -> Segmentation:
            side = self.order.block or None
            shared = SharedImage(job, folder, image, model, settings, side)
            result = shared.join(news)
            for key in self.order.together:  # out of date from now on
                folder.drop(folder.export_path(job.name, key))
            return result

        record = self.order.work(job, folder, model, settings, news, by=by)
        shutil.rmtree(place(folder, job), ignore_errors=True)
        return record

    # --- OME-Zarr, written together: the numbers of the cells are known when all is joined ---

    def begin(self, job: Job, key: str) -> list[list[Share]]:
        """Begin a file of a joined image, whose shares are to be filled level by level.

        Returns
        -------
        Nothing where the file is there.
        """
        folder = self.batch.folder
        if folder.export_path(job.name, key).exists():
            return []
        self._cells, made = None, place(folder, job) / key
        shutil.rmtree(made, ignore_errors=True)
        try:
            return begin_zarr(made, self._joined_cells(job), key)
        except Exception:
            shutil.rmtree(made, ignore_errors=True)
            raise

    def fill(self, job: Job, key: str, share: Share) -> None:
        """Write some of its chunks, which no other share has."""
        fill_zarr(place(self.batch.folder, job) / key, self._joined_cells(job), share)

    def end(self, job: Job, key: str) -> None:
        """Put the whole file where it belongs."""
        folder = self.batch.folder
        made, target = place(folder, job) / key, folder.export_path(job.name, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if made.exists():  # else a worker did it that ended in that moment
            made.replace(target)
        shutil.rmtree(place(folder, job), ignore_errors=True)

    def drop(self, job: Job, key: str) -> None:
        """Take away what was begun and cannot be filled."""
        folder = place(self.batch.folder, job)
        shutil.rmtree(folder / key, ignore_errors=True)
        with suppress(OSError):  # another format may be in it
            folder.rmdir()

    def _joined_cells(self, job: Job) -> Cells:
        if self._cells is None or self._cells[0] != job:
            folder = self.batch.folder
            record = records_of(folder.folder, [job.name])[job.name]
            self._cells = job, cells_of(job, folder, record, self.order.settings)
        return self._cells[1]


# --------------------------------------------------------------------------------------------
# Tasks: what a process of a cluster is asked for. Each has one worker, and one task at a time.

_present: Worker | None = None
_one = Lock()


class Notes:
    """Hears the news of a task, to be told where it was asked for."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []

    def step(self, done: int, total: int, what: str) -> None:
        """Nobody looks on."""

    def note(self, name: str, message: str) -> None:
        """Something about the image that a person should know."""
        self.notes.append((name, message))


@contextmanager
def _at_work(order: Order) -> Iterator[Worker]:
    global _present
    with _one:
        if _present is None or _present.order != order:
            _present = None  # before the next model takes room
            _present = Worker(order)
        yield _present


def open_task(order: Order, job: Job) -> list[int] | None:
    """Blocks that an image lacks; None of an image that needs not be done again."""
    with _at_work(order) as worker:
        shared = worker.open(job, Notes(), anew=True)
        return None if shared is None else shared.missing()


def make_task(order: Order, job: Job, number: int) -> None:
    """Make a block."""
    with _at_work(order) as worker:
        shared = worker.open(job, Notes())
        if shared is not None:
            shared.make(number)


def finish_task(order: Order, job: Job) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """An image's results, from its blocks where images are cut: as of `Batch.image`; notes."""
    with _at_work(order) as worker:
        news = Notes()
        finish = worker.whole if order.block is None else worker.joined
        return finish(job, news), news.notes


def zarr_task(order: Order, what: str, job: Job, *more: Any) -> Any:
    """Begin, fill or end a file that workers write together."""
    with _at_work(order) as worker:
        return getattr(worker, what)(job, *more)


# --------------------------------------------------------------------------------------------
# Shards: processes that know nothing of each other, such as the tasks of a SLURM array.


@dataclass(frozen=True)
class Shard:
    """Which part of how many, counted from 1."""

    number: int
    of: int

    @classmethod
    def of_text(cls, text: str) -> Shard:
        """Of such as 2/8.

        Raises
        ------
        SettingsError
        """
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        number, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= of:
            raise SettingsError(
                f"--shard {text}: say which part of how many, from 1/8 to 8/8, and join when "
                "all are done."
            )
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def mine(self, n: int) -> range:
        """Its part of n things in a row."""
        return range(n * (self.number - 1) // self.of, n * self.number // self.of)


class ShardNotes:
    """What shards leave for each other and for the join.

    Parameters
    ----------
    order : Order
    """

    def __init__(self, order: Order) -> None:
        self.folder = order.output / "extra" / "shards"
        paths = sorted(str(job.path) for job in order.jobs)
        self._asked = dict(
            json.loads(
                json.dumps(
                    {
                        "model": order.sha256,
                        "version": versions().get("napari-sa2net", ""),
                        "settings": order.settings.describe(),
                        "block": order.block,
                        "images": len(paths),
                        "list of images": hashlib.sha256("\n".join(paths).encode()).hexdigest(),
                    }
                )
            )
        )

    def begin(self, shard: Shard) -> None:
        """Note that a shard goes on.

        Raises
        ------
        SettingsError
            Others of them were given something else.
        """
        for other, note in self._others():
            if other.of != shard.of:
                raise SettingsError(
                    f"--shard {shard}: other shards here are of {other.of}. Give the same "
                    f"number to all, or delete {self.folder} to begin anew."
                )
            self._check(other, note)
        self._write(shard, "running")

    def end(self, shard: Shard) -> None:
        """Note that a shard has finished."""
        self._write(shard, "finished")

    def check_finished(self) -> None:
        """Whether all shards have finished.

        Raises
        ------
        SettingsError, OutputError
        """
        others = list(self._others())
        for other, note in others:
            self._check(other, note)
        if len({other.of for other, _ in others}) > 1:
            raise SettingsError(
                f"The shards in {self.folder} are of different numbers. Delete it, and begin "
                "anew."
            )
        done = {other.number for other, note in others if note.get("state") == "finished"}
        of = others[0][0].of if others else 0
        if missing := [n for n in range(1, of + 1) if n not in done]:
            raise OutputError(
                f"{len(missing)} of {of} shards have not finished. Give the same command with "
                + ", ".join(f"--shard {n}/{of}" for n in missing[:8])
                + (" …" if len(missing) > 8 else "")
                + ", and join then."
            )

    @property
    def cleared(self) -> bool:
        """Whether there are none, as after a join."""
        return not self.folder.is_dir()

    def clear(self) -> None:
        """Take all notes away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _others(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for path in sorted(self.folder.glob("*-of-*.json")):
            number, _, of = path.stem.partition("-of-")
            yield Shard(int(number), int(of)), read_json(path)

    def _check(self, other: Shard, note: dict[str, Any]) -> None:
        if note.get("asked") != self._asked:
            raise SettingsError(
                f"Shard {other} was given something else: "
                f"{difference(note.get('asked'), self._asked)}. Give the same to all, or "
                f"delete {self.folder} to begin anew."
            )

    def _write(self, shard: Shard, state: str) -> None:
        path = self.folder / f"{shard.number}-of-{shard.of}.json"
        write_atomically(path, json.dumps({"state": state, "asked": self._asked}).encode())


def do_shard(worker: Worker, shard: Shard, news: Any) -> Iterator[dict[str, Any]]:
    """Do a shard's part; what became of each image, as of `Batch.image`.

    Files are shared out; where there are fewer than shards, or a size of blocks was said, the
    blocks of each image are. ``news`` also hears that an image begins.
    """
    jobs = worker.order.jobs
    if worker.order.block is None:
        for i in shard.mine(len(jobs)):
            news.begin(jobs[i].name)
            yield worker.whole(jobs[i], news)
        return
    for job in jobs:
        news.begin(job.name)
        entry: dict[str, Any] = {"name": job.name, "input": str(job.path)}
        start = time.monotonic()
        try:
            shared = worker.open(job, news)
            mine = range(0)
            if shared is not None:
                mine = shard.mine(len(shared.blocks))
                for done, number in enumerate(mine):
                    news.step(done, len(mine), SEGMENTING)
                    shared.make(number)
        except Exception as error:  # one odd file must not end a night's run
            yield {**entry, "state": "failed", "error": words_of(error, job)}
            continue
        seconds = round(time.monotonic() - start, 3)
        state = "skipped" if shared is None else "shared"
        yield {**entry, "state": state, "blocks": len(mine), "seconds": seconds}
