"""Keep, restore and discard: the files of the Correct page."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from napari_sa2net.app.cells import CellSource
from napari_sa2net.app.edit_session import EditSession, Offer, RestoredCells, restored_session
from napari_sa2net.app.keep import (
    NOTHING,
    CommitsGoneError,
    CorrectFiles,
    KeepRequest,
    KeepResult,
    KeptPlanes,
    KeptVersion,
    WhatToKeep,
    before_words,
    gone_words,
    keep,
    keep_request,
    kept_words,
    meanwhile_words,
    what_to_keep,
)
from napari_sa2net.app.planes import Corrector
from napari_sa2net.app.session import ErrorInfo, ImageSource, as_seen, for_image
from napari_sa2net.config import InputConfig
from napari_sa2net.data.commit import CommitRecord
from napari_sa2net.data.journal import discard_journal
from napari_sa2net.errors import SA2NetError


class CorrectKeeping:
    """Commits and journals of the chosen cells; a part of the controller.

    Parameters
    ----------
    controller
        Whose state and sessions these are.
    files
        Runs what takes long.
    """

    def __init__(self, controller: Corrector, files: CorrectFiles) -> None:
        self._controller = controller
        self._state = controller.state
        self._files = files
        self._kept_by: dict[str, dict[Path, KeptPlanes]] = {}
        self._groups: dict[str, str] = {}
        self._image_key = ""
        self._waiting: dict[str, EditSession] = {}

    # --- keeping -----------------------------------------------------------------------

    def set_folder(self, folder: Path) -> None:
        """Where to keep."""
        if folder != self._state.folder:
            self._state.kept_before = ""
        self._state.folder = folder
        self.refresh()
        self._look_for_kept()

    def set_group(self, group: str) -> None:
        """What the image belongs to: slide, patient, dish."""
        self._groups[self._image_key] = group
        self._state.group = group
        self.refresh()

    def image_chosen(self, key: str) -> None:
        """Another image: it has a group of its own, and nothing was just kept of it."""
        if key != self._image_key:
            self._image_key = key
            self._state.group = self._groups.get(key, "")
            self._state.kept_before = self._state.kept = self._state.kept_note = ""
            self._look_for_kept()

    def _look_for_kept(self) -> None:
        """Say what the folder holds of the image from before, and go on with its group."""
        image, folder = self._image(), self._state.folder
        if image is None or not self._image_key:
            return

        def found(records: list[CommitRecord]) -> None:
            state = self._state
            if image.key != self._image_key or folder != state.folder or not records:
                return
            newest = max(records, key=lambda record: record.time)
            if not state.group and newest.group and image.key not in self._groups:
                self.set_group(newest.group)
            if not state.kept:
                state.kept_before = before_words(folder, records, datetime.now(UTC))

        # a folder that cannot be read says so when something is kept in it
        self._files.run(lambda: self._files.find_kept(image, folder), found, lambda _: None)

    def refresh(self) -> None:
        """Say anew what Keep would do."""
        with self._controller.lock:
            session, source, state = (
                self._controller.session,
                self._state.cells,
                self._state,
            )
            if session is not None and source is not None:
                known = self._known(source.key, state.folder)
                group = state.group.strip()
                state.keep = what_to_keep(session, source, state.folder, group, known)
                self._controller.show_odd()
            else:
                state.keep = WhatToKeep(problem=NOTHING)

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
            answer: Future[list[CommitRecord]] = Future()
            try:
                self._keep(session, source, self._state.folder, answer)
            except SA2NetError as error:
                self._controller.say(str(error), ok=False)
                return None
            self._state.keeping = True
            return answer

    def _keep(
        self,
        session: EditSession,
        source: CellSource,
        folder: Path,
        answer: Future[list[CommitRecord]],
        note: str = "",
    ) -> None:
        group = self._state.group.strip()
        known = self._known(source.key, folder)
        page = self._page(source.image)
        request = keep_request(session, source, folder, group, known, page)

        def failed(error: Exception) -> None:
            if isinstance(error, CommitsGoneError):
                self._keep_anew(session, request, error, answer)
            else:
                self._state.keeping = False
                self.report(error)
                answer.set_exception(error)

        def done(result: KeepResult) -> None:
            self._kept(request, result, note)
            answer.set_result(result.records)

        self._files.run(lambda: keep(request), done, failed)

    def _keep_anew(
        self,
        session: EditSession,
        request: KeepRequest,
        error: CommitsGoneError,
        answer: Future[list[CommitRecord]],
    ) -> None:
        """Folder or commits are gone: keep all that was in them."""
        for folders in self._kept_by.values():
            if request.folder in folders:
                folders[request.folder].forget(error.commits)
                if error.folder:
                    folders[request.folder].planes.clear()
        note = gone_words(request.folder, error.folder)
        try:
            self._keep(session, request.source, request.folder, answer, note)
        except SA2NetError:  # all that was kept is undone: there is nothing to write
            self._state.keeping = False
            self._state.kept, self._state.kept_note = "", note
            self.refresh()
            answer.set_result([])

    def _kept(self, request: KeepRequest, result: KeepResult, note: str) -> None:
        key, records = request.source.key, result.records
        self._state.keeping = False
        known = self._known(key, request.folder)
        for plane, record in zip(request.planes, records, strict=True):
            changed = request.changed[plane.index]
            known.add(plane.index, KeptVersion(record.id, changed, request.group))
        for index in request.withdrawn:
            known.withdraw(index)
        session = self._controller.session_of(key)
        if session is not None:
            session.tally.keep(request.depth)
            if session.journal is not None:
                names = ",".join(record.id for record in records)
                session.journal.mark_committed(request.number, names)
        if request.image.key == self._image_key:
            notes = [note, meanwhile_words(request.folder, result, datetime.now(UTC))]
            self._state.kept_before = ""
            self._state.kept = kept_words(request.folder, request.what)
            self._state.kept_note = " ".join(words for words in notes if words)
        self._controller.show()
        self.refresh()

    def _page(self, image: ImageSource | None) -> dict[str, Any]:
        """How the image would go in now, as a result's provenance says it."""
        session = self._controller.link.session
        predict = for_image(session.predict, image)
        channels: tuple[int, ...] | None = None
        if image is not None:
            channels = as_seen(image, session).channels
            if image.contrast is not None and session.normalize:
                predict = predict.model_copy(update={"contrast": image.contrast})
        expects = session.card.input if session.card is not None else InputConfig()
        settings = {
            "image": {"normalize": session.normalize, "channels": channels or ()},
            "input": expects.model_dump(mode="json"),
            "predict": predict.model_dump(mode="json"),
        }
        return {"settings": settings}

    def _known(self, key: str, folder: Path) -> KeptPlanes:
        """What the corrections of a layer have kept in a folder."""
        return self._kept_by.setdefault(key, {}).setdefault(folder, KeptPlanes())

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
        self._kept_by.pop(key, None)

    def report(self, error: Exception | None) -> None:
        """Show an error of files on the page."""
        if error is not None:
            self._controller.link.fail(ErrorInfo(type(error).__name__, str(error)))

    def leave(self) -> list[EditSession]:
        """Let restored corrections go that no layer has taken; these, to be closed."""
        left = list(self._waiting.values())
        self._waiting.clear()
        return left

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
