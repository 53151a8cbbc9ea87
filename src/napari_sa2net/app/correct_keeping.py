"""Keep, restore and discard: the files of the Correct page."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from napari_sa2net.app.correct_files import CorrectFiles
from napari_sa2net.app.correct_keep import KeepRequest, keep, keep_request, what_to_keep
from napari_sa2net.app.correct_restore import Offer, RestoredCells, restored_session
from napari_sa2net.app.correct_session import EditSession
from napari_sa2net.app.correct_source import Index
from napari_sa2net.app.session import ErrorInfo, ImageSource
from napari_sa2net.data.journal import discard_journal
from napari_sa2net.data.manifest import CommitRecord
from napari_sa2net.errors import SA2NetError

if TYPE_CHECKING:
    from napari_sa2net.app.correct import CorrectController


class CorrectKeeping:
    """Commits and journals of the chosen cells; a part of the controller.

    Parameters
    ----------
    controller
        Whose state and sessions these are.
    files
        Runs what takes long.
    """

    def __init__(self, controller: CorrectController, files: CorrectFiles) -> None:
        self._controller = controller
        self._state = controller.state
        self._files = files
        self._commits: dict[str, set[str]] = {}
        self._waiting: dict[str, EditSession] = {}

    # --- keeping -----------------------------------------------------------------------

    def set_folder(self, folder: Path) -> None:
        """Where to keep."""
        self._state.folder = folder

    def set_group(self, group: str) -> None:
        """What the image belongs to: slide, patient, dish."""
        self._state.group = group

    def refresh(self) -> None:
        """Say anew what Keep would do."""
        with self._controller.lock:
            session, source = self._controller.session, self._state.cells
            if session is not None and source is not None:
                self._state.keep = what_to_keep(session, source)

    def keep(self) -> Future[list[CommitRecord]] | None:
        """Commit what is reviewed into the training set, in the background.

        Returns
        -------
        None where there is nothing to keep, which ``state.said`` tells.
        """
        with self._controller.lock:
            session, source = self._controller.session, self._state.cells
            if session is None or source is None or self._state.keeping:
                return None
            mine = frozenset(self._commits.get(source.key, ()))
            try:
                request = keep_request(
                    session, source, self._state.folder, self._state.group, mine
                )
            except SA2NetError as error:
                self._controller.say(str(error), ok=False)
                return None
            self._state.keeping = True
            dirty, session.dirty = session.dirty, set()
            return self._files.run(
                lambda: keep(request),
                lambda records: self._kept(request, records),
                lambda error: self._not_kept(source.key, dirty, error),
            )

    def _kept(self, request: KeepRequest, records: list[CommitRecord]) -> None:
        key = request.source.key
        self._state.keeping = False
        self._commits.setdefault(key, set()).update(record.id for record in records)
        session = self._controller.session_of(key)
        if session is not None:
            session.tally.keep(request.depth)
            if session.journal is not None:
                names = ",".join(record.id for record in records)
                session.journal.mark_committed(request.number, names)
        n = sum(record.n_reviewed for record in records)
        planes = "" if len(records) == 1 else f" of {len(records)} planes"
        cells = f"{n} cell{'' if n == 1 else 's'}"
        self._state.kept = f"Kept {cells}{planes} in “{request.folder.name}”."
        self._controller.show()
        self.refresh()

    def _not_kept(self, key: str, dirty: set[Index], error: Exception) -> None:
        self._state.keeping = False
        session = self._controller.session_of(key)
        if session is not None:
            session.dirty |= dirty
        self.report(error)

    # --- restoring ---------------------------------------------------------------------

    def look_for_offers(self, image: ImageSource | None) -> None:
        """Find out what can be restored of an image."""
        if image is None:
            self._state.offers = ()
            return
        place = image

        def found(offers: tuple[Offer, ...]) -> None:
            if self._image() is None or getattr(self._image(), "key", "") == place.key:
                self._state.offers = offers
                self.taken_up(*self._controller.journals())

        self._files.run(lambda: self._files.find_offers(place), found, self.report)

    def restore(self, offer: Offer) -> None:
        """Show corrections that were never kept, in a layer of their own."""
        image = self._image()
        if image is None:
            return
        self._files.run(
            lambda: restored_session(offer.id, image),
            self._restored,
            self._report_and_look,
        )

    def discard(self, offer: Offer) -> None:
        """Delete corrections that were never kept."""
        self._files.run(
            lambda: discard_journal(offer.id),
            lambda _: self.look_for_offers(self._image()),
            self._report_and_look,
        )

    def taken_up(self, *journals: str) -> None:
        """Corrections that someone here goes on with are not offered."""
        left = tuple(offer for offer in self._state.offers if offer.id not in journals)
        if left != self._state.offers:
            self._state.offers = left

    def take(self, journal: str) -> EditSession | None:
        """The session of a layer that was just restored."""
        return self._waiting.pop(journal, None)

    def forget(self, key: str) -> None:
        """The cells are gone."""
        self._commits.pop(key, None)

    def report(self, error: Exception | None) -> None:
        """Show an error of files on the page."""
        if error is not None:
            self._controller.link.fail(ErrorInfo(type(error).__name__, str(error)))

    def close(self) -> None:
        """Let restored journals go that no layer has taken."""
        for session in self._waiting.values():
            session.close()
        self._waiting.clear()

    def _restored(self, made: tuple[EditSession, RestoredCells]) -> None:
        session, cells = made
        self._waiting[cells.journal] = session
        self.taken_up(cells.journal)
        self._controller.restored.emit(cells)

    def _report_and_look(self, error: Exception) -> None:
        self.report(error)
        self.look_for_offers(self._image())

    def _image(self) -> ImageSource | None:
        cells = self._state.cells
        image = cells.image if cells is not None else None
        return image or self._controller.link.session.image
