"""What the Correct page reads and writes: journals, commits, what can be restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from napari_sa2net.app.correct_restore import Offer, find_offers, journal_place
from napari_sa2net.app.correct_source import CellSource
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.session import ImageSource
from napari_sa2net.data.fingerprint import image_fingerprint
from napari_sa2net.data.journal import Journal, JournalImage
from napari_sa2net.data.manifest import CommitRecord, is_training_set, read_manifest

#: seconds that the first step waits for the image's fingerprint
FINGERPRINT_S = 5.0


class CorrectFiles:
    """Threads and files of the Correct page; outcomes come back on the link's thread.

    Parameters
    ----------
    link
        Its dispatch and lock.
    moved
        A journal has written, or failed to; called on the link's thread.
    """

    def __init__(self, link: EngineLink, moved: Callable[[], None]) -> None:
        self._link = link
        self._moved = moved
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="corrections")
        # apart, as the first step waits for it and must not wait for a commit
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="fingerprint")
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="journal-news")
        self._fingerprints: dict[str, Future[str]] = {}
        self._closed = False

    def run(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], Any],
        failed: Callable[[Exception], Any],
    ) -> Future[Any]:
        """Run in the background, one after another; then ``done`` or ``failed``."""

        def tell(future: Future[Any]) -> None:
            error = future.exception()
            with self._link.lock:
                if self._closed:
                    return
                if error is None:
                    done(future.result())
                elif isinstance(error, Exception):
                    failed(error)

        future = self._worker.submit(work)
        future.add_done_callback(lambda ended: self._link.dispatch(partial(tell, ended)))
        return future

    def fingerprint(self, image: ImageSource) -> Future[str]:
        """The image's fingerprint, computed once."""
        future = self._fingerprints.get(image.key)
        if future is None:
            future = self._reader.submit(image_fingerprint, image.level0)
            self._fingerprints[image.key] = future
        return future

    def image_changed(self, key: str) -> None:
        """The pixels of an image changed, or its layer is gone."""
        self._fingerprints.pop(key, None)

    def find_offers(self, image: ImageSource) -> tuple[Offer, ...]:
        """What can be restored of an image; on the worker.

        Raises
        ------
        OutputError
            If the folder of the journals cannot be used.
        """
        return find_offers(_digest(self.fingerprint(image), None), image.name)

    def find_kept(self, image: ImageSource, folder: Path) -> list[CommitRecord]:
        """Commits of an image in a training set; on the worker.

        Raises
        ------
        CorrectionsError
            If the set cannot be read.
        """
        if not is_training_set(folder):
            return []
        known = _digest(self.fingerprint(image), None)
        commits = read_manifest(folder).commits
        return [
            record
            for record in commits
            if record.state == "active" and known and record.source.fingerprint == known
        ]

    def begin_journal(self, source: CellSource, arrays: Mapping[str, Any]) -> Journal:
        """A journal of the corrections of cells.

        Raises
        ------
        OutputError
            If none can be written.
        """
        image, name, digest = source.image, source.name, ""
        if image is not None:
            name, digest = image.name, _digest(self.fingerprint(image), FINGERPRINT_S)
        about = JournalImage(
            name, source.path, digest, tuple(source.labels.shape), journal_place(source)
        )
        journal = Journal.create(about, arrays, copy=False)
        self.listen(journal)
        return journal

    def listen(self, journal: Journal) -> None:
        """Tell of what a journal writes."""

        # not on the journal's thread: closing a journal waits for it, maybe under the lock
        def tell() -> None:
            with suppress(RuntimeError):  # closed meanwhile
                self._teller.submit(self._link.dispatch, self._news)

        journal.listen(tell)

    def close(self) -> None:
        """Finish what is being written; nothing is told any more."""
        self._closed = True
        self._worker.shutdown(wait=True)
        for other in (self._reader, self._teller):
            other.shutdown(wait=False, cancel_futures=True)

    def _news(self) -> None:
        with self._link.lock:
            if not self._closed:
                self._moved()


def _digest(future: Future[str], timeout: float | None) -> str:
    """Empty where the image could not be read (in time): the image's name must do then."""
    try:
        return future.result(timeout)
    except Exception:
        return ""
