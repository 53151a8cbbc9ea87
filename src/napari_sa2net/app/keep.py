"""Keeping corrections: from a session to commits of a training set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.cells import Box, CellSource, Index, KeptPlace, Odd
from napari_sa2net.app.edit_session import (
    EditSession,
    Offer,
    find_offers,
    journal_place,
    moment_words,
)
from napari_sa2net.app.link import Background, EngineLink
from napari_sa2net.app.session import ImageSource
from napari_sa2net.data.commit import (
    Commit,
    CommitRecord,
    Seen,
    as_plane,
    is_training_set,
    read_manifest,
)
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.journal import Journal, JournalImage
from napari_sa2net.data.labels import as_labels
from napari_sa2net.data.plan import ImagePlan, plan_as_input, plan_image
from napari_sa2net.edits import reviewed_labels
from napari_sa2net.errors import CorrectionsError
from napari_sa2net.files import user_data_dir
from napari_sa2net.provenance import image_fingerprint
from napari_sa2net.words import counted, listed

# --------------------------------------------------------------------------------------------
# What the corrections of a layer have kept so far in a training set.


@dataclass(frozen=True)
class KeptVersion:
    """The version of a plane that was kept last.

    Attributes
    ----------
    commit
        Its id.
    changed
        How often the plane had been changed then.
    group
        It was kept with.
    """

    commit: str
    changed: int
    group: str


@dataclass
class KeptPlanes:
    """Planes that a session has kept in one folder.

    Attributes
    ----------
    planes
        The last version of each.
    commits
        Ids of all versions of each plane, also of those that were withdrawn.
    """

    planes: dict[Index, KeptVersion] = field(default_factory=dict)
    commits: dict[Index, list[str]] = field(default_factory=dict)

    @property
    def mine(self) -> frozenset[str]:
        """All commits of the session: they hold nothing that it does not hold itself."""
        return frozenset(one for ids in self.commits.values() for one in ids)

    def due(self, session: EditSession, group: str) -> tuple[list[Index], list[Index]]:
        """Planes to keep, and planes that were kept and of which nothing is reviewed now."""
        reviewed = session.reviewed_planes()
        new = [index for index in reviewed if self._is_new(session, index, group)]
        return new, [index for index in self.planes if index not in reviewed]

    def copy(self) -> KeptPlanes:
        """As it is now."""
        commits = {index: list(ids) for index, ids in self.commits.items()}
        return KeptPlanes(dict(self.planes), commits)

    def add(self, index: Index, version: KeptVersion) -> None:
        """A plane was kept."""
        self.planes[index] = version
        self.commits.setdefault(index, []).append(version.commit)

    def withdraw(self, index: Index) -> None:
        """A plane was taken back."""
        self.planes.pop(index, None)

    def forget(self, commits: Iterable[str]) -> None:
        """These commits are not in the folder any more: their planes are to be kept anew."""
        gone = set(commits)
        for index, version in list(self.planes.items()):
            if version.commit in gone:
                del self.planes[index]

    def _is_new(self, session: EditSession, index: Index, group: str) -> bool:
        version = self.planes.get(index)
        return (
            version is None
            or version.changed != session.changed[index]
            or version.group != group
        )


# --------------------------------------------------------------------------------------------
# What the Correct page reads and writes: journals, commits, what can be restored.

#: seconds that a journal waits for the image's fingerprint
FINGERPRINT_S = 5.0


class CorrectFiles(Background):
    """Threads and files of the Correct page; outcomes come back on the link's thread.

    Parameters
    ----------
    link
        Its dispatch and lock.
    moved
        A journal has written, or failed to; called on the link's thread.
    """

    def __init__(self, link: EngineLink, moved: Callable[[], None]) -> None:
        super().__init__(link, "corrections")
        self._moved = moved
        # apart, as a journal waits for it and must not wait for a commit
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="fingerprint")
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="journal-news")
        self._fingerprints: dict[str, Future[str]] = {}

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
        image = source.image
        about = JournalImage(
            image.name if image is not None else source.name,
            source.path,
            shape=tuple(source.labels.shape),
            more=journal_place(source),
        )
        future = self.fingerprint(image) if image is not None else None

        def known() -> JournalImage:
            if future is None:
                return about
            return replace(about, fingerprint=_digest(future, FINGERPRINT_S))

        journal = Journal.create(known, arrays, copy=False)
        self.listen(journal)
        return journal

    def listen(self, journal: Journal) -> None:
        """Tell of what a journal writes."""

        # not on the journal's thread: closing a journal waits for it, maybe under the lock
        def tell() -> None:
            with suppress(RuntimeError):  # closed meanwhile
                self._teller.submit(self._link.dispatch, self._news)

        journal.listen(tell)

    def close(self, wait: bool = True, cancel: bool = False) -> None:
        """Finish what is being written; nothing is told any more."""
        super().close(wait, cancel)
        for other in (self._reader, self._teller):
            other.shutdown(wait=False, cancel_futures=True)

    def _news(self) -> None:
        with self._link.lock:
            if not self.closed:
                self._moved()


def _digest(future: Future[str], timeout: float | None) -> str:
    """Empty where the image could not be read (in time): the image's name must do then."""
    try:
        return future.result(timeout)
    except Exception:
        return ""


# --------------------------------------------------------------------------------------------
# How the image under corrected cells went in when they were made: that is what is kept.


def how_seen(
    source: CellSource, image: ImageSource, page: Mapping[str, Any]
) -> tuple[ImagePlan, Seen | None]:
    """The image as it went in when the cells were made: its plan and settings.

    As the segmentation that made them says, whatever the page is set to by now; else as the
    commit says, where the image was opened from a training set; else as the page is set.

    Returns
    -------
    plan : ImagePlan
        Its channels are those that are kept.
    seen : Seen or None
        None: as the commit says that the image came from.
    """
    kept = source.kept
    whole = plan_image(image.data, image.axes, in_channels=1, measure=False)
    n = whole.n_channels
    seen = Seen.of(source.made)
    if seen is not None and seen.n_channels == n:
        return _planned(image, seen.channels, seen), seen
    if kept is not None:
        channels = kept.channels or (whole.channels if whole.is_rgb else tuple(range(n)))
        return plan_image(image.data, image.axes, channels), None
    seen = Seen.of(page) or Seen()
    plan = _planned(image, image.channels or seen.channels or None, seen)
    return plan, seen.model_copy(update=plan.settings(measured=False))


def levels_of(
    plan: ImagePlan, seen: Seen | None, kept: KeptPlace | None, index: Index
) -> Sequence[Sequence[float]]:
    """Values that became 0 and 1 in a plane, as far as is known; else measured."""
    known: Sequence[Sequence[float]] = ()
    if seen is not None:
        known = seen.levels_of(index)
    elif kept is not None:
        known = kept.levels or ()
    if len(known) == len(plan.channels):
        return known
    measured: list[list[float]] = plan.measured_of(index).as_array().tolist()
    return measured


def _planned(image: ImageSource, channels: tuple[int, ...] | None, seen: Seen) -> ImagePlan:
    predict = seen.predicted
    plan = plan_as_input(
        image.data,
        image.axes,
        channels,
        seen.normalize,
        seen.expects,
        3 if channels is None else len(channels),
        measure=False,
        levels=predict.levels,
        contrast=predict.contrast if seen.normalize else None,
    )
    return plan.without_dab() if predict.dab == "remove" else plan


def provenance_of(seen: Seen | None, kept: KeptPlace | None) -> dict[str, Any]:
    """What a commit is told of how the image went in."""
    if seen is None:
        seen = kept.seen if kept is not None else None
    elif kept is not None and kept.seen is not None:
        # Counted in the image that this one was cut from.
        former = dict(enumerate(kept.seen.channels))
        counted = [former.get(c, c) for c in seen.channels]
        seen = seen.model_copy(update={"image": {**seen.image, "channels": counted}})
    if seen is None:
        return {}
    settings = seen.model_dump(mode="json")
    # Those of the plane are the commit's own.
    settings["image"].pop("levels", None)
    more = {name: settings.pop(name) for name in ("diameter", "scale")}
    return {"settings": settings, **more}


def default_folder() -> Path:
    """Training set that is offered first."""
    return user_data_dir() / "corrections"


#: Why nothing can be kept.
NOTHING = "Nothing is reviewed yet: correct or accept a cell first."


@dataclass(frozen=True)
class WhatToKeep:
    """What "Keep" would do, for the page.

    Attributes
    ----------
    n_cells, n_deleted, n_planes
        Reviewed and deleted cells of the planes that would be kept, and how many planes.
    n_withdrawn
        Planes that were kept and of which nothing is reviewed any more: they are taken back.
    is_stack
        The planes are some of several.
    folder_gone
        The folder that was kept to is not there any more.
    problem
        Why nothing can be kept; empty if it can.
    noun
        What one of the planes is called: "plane" or "time point".
    """

    n_cells: int = 0
    n_deleted: int = 0
    n_planes: int = 0
    n_withdrawn: int = 0
    is_stack: bool = False
    folder_gone: bool = False
    problem: str = ""
    noun: str = "plane"

    @property
    def can(self) -> bool:
        """Keep would do something."""
        return not self.problem and self.n_planes + self.n_withdrawn > 0

    @property
    def cells(self) -> str:
        """``12 reviewed cells and 1 deleted cell``."""
        said = (("reviewed", self.n_cells), ("deleted", self.n_deleted))
        parts = [counted(n, f"{kind} cell") for kind, n in said if n]
        return " and ".join(parts) or "what you marked as all right"

    @property
    def withdrawn(self) -> str:
        """``2 planes``, or ``this image`` where it is all that there is."""
        n = self.n_withdrawn
        return counted(n, self.noun) if self.is_stack else "this image"


@dataclass(frozen=True, eq=False)
class KeptPlane:
    """Labels and reviewed pixels of one plane, copied; and what was carried to it."""

    index: Index
    labels: NDArray[Any]
    reviewed: NDArray[np.bool_]
    notes: str = ""


@dataclass(frozen=True, eq=False)
class KeepRequest:
    """Everything that a Keep needs, so that a person can go on correcting meanwhile.

    Attributes
    ----------
    folder
        Of the training set; made where there is none.
    withdrawn
        Planes of which nothing is reviewed any more.
    what
        The same in numbers.
    changed
        How often each plane had been changed.
    number, depth
        Of the journal and of the history, when it was asked for.
    began
        When the cells were shown first: what is in the set since then, they do not know of.
    known
        What it has kept there so far.
    page
        What goes in by the page's settings, for cells that no segmentation has made.
    """

    folder: Path
    source: CellSource
    image: ImageSource
    planes: tuple[KeptPlane, ...]
    withdrawn: tuple[Index, ...]
    what: WhatToKeep
    changed: Counter[Index]
    group: str
    n_edits: int
    number: int
    depth: int
    began: datetime
    known: KeptPlanes
    page: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class KeepResult:
    """What a Keep did.

    Attributes
    ----------
    records
        Of the planes, in their order.
    replaced
        Commits that were made elsewhere since this session knew its own; ours have taken
        their place.
    left
        Such commits of planes that were withdrawn: they stay.
    """

    records: list[CommitRecord]
    replaced: tuple[CommitRecord, ...] = ()
    left: tuple[CommitRecord, ...] = ()


class CommitsGoneError(Exception):
    """The folder does not hold what this session kept there; nothing was written.

    Attributes
    ----------
    commits : frozenset of str
        Those that are missing.
    folder : bool
        The folder itself, or its list of commits, is gone.
    """

    def __init__(self, commits: frozenset[str], folder: bool) -> None:
        super().__init__("What was kept is gone.")
        self.commits = commits
        self.folder = folder


def what_to_keep(
    session: EditSession, source: CellSource, folder: Path, group: str, known: KeptPlanes
) -> WhatToKeep:
    """What would be kept now in a folder that is known to hold some of it."""
    gone = bool(known.planes) and not is_training_set(folder)
    planes, withdrawn = (KeptPlanes() if gone else known).due(session, group)
    problem = _problem(source) or _odd(session, source, planes)
    if not problem and not planes and not withdrawn:
        problem = NOTHING
        if session.reviewed_planes():
            problem = "Everything that is reviewed is kept."
        elif any(r.kind == "cleared" for r in session.corrections.regions.values()):
            problem += " Where you deleted a large blob, cells may lie."
    is_stack = int(np.prod(session.labels.shape[:-2])) > 1
    counts = _counts(session, planes)
    return WhatToKeep(
        *counts, len(planes), len(withdrawn), is_stack, gone, problem, source.axis_noun
    )


def _counts(session: EditSession, planes: list[Index]) -> tuple[int, int]:
    """Reviewed and deleted cells."""
    n_cells = 0
    for index in planes:
        plane = session.corrections.plane(index)
        reviewed = reviewed_labels(session.corrections, index)
        n_cells += sum(label in plane for label in reviewed)
    return n_cells, sum(session.n_deleted(index) for index in planes)


def keep_request(
    session: EditSession,
    source: CellSource,
    folder: Path,
    group: str,
    known: KeptPlanes,
    page: Mapping[str, Any] | None = None,
) -> KeepRequest:
    """Copy what is to be kept: the planes that are not in the folder as they are now.

    Raises
    ------
    CorrectionsError
        If nothing is reviewed, or the cells do not lie on the pixels of an image.
    """
    problem = _problem(source)
    if problem:
        raise CorrectionsError(problem)
    assert source.image is not None
    planes = []
    due, withdrawn = known.due(session, group)
    if odd := _odd(session, source, due):
        raise CorrectionsError(odd)
    for index in due:
        reviewed = session.reviewed(index)
        if reviewed.any():
            notes = carried_words(session, source, index)
            labels = np.array(session.labels[index])
            planes.append(KeptPlane(index, labels, reviewed, notes))
        elif index in known.planes:
            withdrawn.append(index)
    if not planes and not withdrawn:
        raise CorrectionsError(
            "There is nothing new to keep: accept or correct a cell, or mark a region as "
            "reviewed."
        )
    indices = [plane.index for plane in planes]
    what = WhatToKeep(
        *_counts(session, indices),
        len(planes),
        len(withdrawn),
        int(np.prod(session.labels.shape[:-2])) > 1,
        noun=source.axis_noun,
    )
    return KeepRequest(
        folder,
        source,
        source.image,
        tuple(planes),
        tuple(withdrawn),
        what,
        session.changed.copy(),
        group,
        session.tally.depth,
        session.journal.number if session.journal is not None else 0,
        session.tally.depth,
        session.began,
        known.copy(),
        page or {},
    )


def carried_words(session: EditSession, source: CellSource, index: Index) -> str:
    """Which corrections of a plane were carried there from another one, for its record."""
    words = [
        f"{record['carried']}: carried from {source.words_of(tuple(record['from']))}"
        for record in session.carried
        if list(index) in record["planes"]
    ]
    return "; ".join(words)


def keep(request: KeepRequest) -> KeepResult:
    """Write the commits; takes as long as the disk needs, so not on the window's thread.

    What an earlier commit of the same place had reviewed, and this session has not, is kept
    too: a commit takes the place of the one before.

    Raises
    ------
    SA2NetError
        If the image cannot be read or the set not be written. Nothing is kept then.
    CommitsGoneError
        If the folder does not hold what the session knows to be there.
    """
    source, image = request.source, request.image
    times = _check_known(request)
    kept = source.kept
    plan, seen = how_seen(source, image, request.page)
    made = provenance_of(seen, kept)
    fingerprint = kept.fingerprint if kept is not None else ""
    fingerprint = fingerprint or image_fingerprint(image.level0)
    training_set = TrainingSet.open(request.folder, create=True)
    place = source.image_box()
    whole = place == (0, plan.spatial[0], 0, plan.spatial[1])

    def where(plane: Index) -> tuple[Index, Box | None]:
        """Place in the image; of one from a training set, in the image that it was cut from."""
        if kept is not None and whole:
            return kept.index, kept.box
        return source.image_index(plane), None if whole else place

    commits = []
    for plane in request.planes:
        index, box = where(plane.index)
        at = source.image_index(plane.index)
        values = plan.read_raw(at, *place)
        pixels, axes = as_plane(values, plan.is_rgb)
        more: dict[str, Any] = {
            "source": image.name,
            "path": source.path,
            "levels": levels_of(plan, seen, kept, at),
            "group": request.group,
        }
        if kept is not None and whole:
            more |= {
                "source": kept.name,
                "path": kept.path,
                "group": request.group or kept.group,
                "kind": kept.kind,
                "split": kept.split,
            }
        commits.append(
            Commit(
                pixels,
                # Numbers of any layer; a training set holds those of int32.
                as_labels(plane.labels),
                plane.reviewed,
                fingerprint=fingerprint,
                index=index,
                box=box,
                axes=axes,
                made=made,
                pixel_size_um=image.pixel_side_um,
                parent=source.model,
                parent_sha256=source.model_sha256,
                n_edits=request.n_edits,
                notes=plane.notes,
                **more,
            )
        )
    mine = request.known.mine
    replaced = []
    for plane, commit in zip(request.planes, commits, strict=True):
        former = training_set.former(commit, mine)
        last = times.get(plane.index, request.began)
        if former is not None and datetime.fromisoformat(former.time) >= last:
            replaced.append(former)
    left = []
    for withdrawn in request.withdrawn:
        there = training_set.latest(fingerprint, *where(withdrawn))
        # ours took the place of what was there, so whatever is there came later, also where it
        # is an older version that was restored
        if there is not None and there.id not in mine:
            left.append(there)
    back = [one for index in request.withdrawn for one in request.known.commits[index]]
    records = training_set.commit_all(commits, back, known=mine)
    return KeepResult(records, tuple(replaced), tuple(left))


def _check_known(request: KeepRequest) -> dict[Index, datetime]:
    """When each plane was kept last; CommitsGoneError where the folder has lost one."""
    versions = request.known.planes
    ids = frozenset(version.commit for version in versions.values())
    if not ids:
        return {}
    if not is_training_set(request.folder):
        raise CommitsGoneError(ids, folder=True)
    records = {record.id: record for record in read_manifest(request.folder).commits}
    if ids - records.keys():
        raise CommitsGoneError(ids - records.keys(), folder=False)
    return {
        index: datetime.fromisoformat(records[one.commit].time)
        for index, one in versions.items()
    }


def _odd(session: EditSession, source: CellSource, planes: list[Index]) -> str:
    """Why labels of planes that are to be kept are no cells; empty if they are."""
    for index in planes:
        odd = Odd.of(session.look(index))
        if words := odd.words:
            place = source.words_of(index, sizes=True)
            if not place:
                return f'{words} Press "{odd.mend}", above.'
            words = f"{words[:1].lower()}{words[1:]}"
            return f'On {place}: {words} Show that {source.axis_noun}, and press "{odd.mend}".'
    return ""


def _problem(source: CellSource) -> str:
    if source.image is None:
        return "These cells lie on no image. Open the image that they belong to."
    if source.could_lie_on:
        return (
            f"These cells are as large as {source.image.name!r}, but do not lie on its pixels: "
            "lay them on it first, with the button above."
        )
    if source.corner is None:
        return (
            f"The pixels of {source.name!r} are not those of {source.image.name!r}, so the "
            "two cannot be kept together. Choose cells that were made on this image."
        )
    return ""


# --------------------------------------------------------------------------------------------
# What the page says after a Keep.


def kept_words(folder: Path, what: WhatToKeep) -> str:
    """Say ``Kept 12 reviewed cells of 2 planes in “my set”.``."""
    kept = taken = ""
    if what.n_planes:
        planes = f" of {counted(what.n_planes, what.noun)}" if what.n_planes > 1 else ""
        kept = f"Kept {what.cells}{planes} in “{folder.name}”."
    if what.n_withdrawn:
        taken = f"Took {what.withdrawn} back out of “{folder.name}”."
    return f"{kept} {taken}".strip()


def before_words(folder: Path, records: Sequence[CommitRecord], now: datetime) -> str:
    """Say ``Kept before in “my set”: 12 reviewed cells, the last today 17:03.``."""
    n = sum(record.n_reviewed for record in records)
    last = max(datetime.fromisoformat(record.time) for record in records)
    return (
        f"Kept before in “{folder.name}”: {counted(n, 'reviewed cell')} of this "
        f"image, the last {moment_words(last, now)}."
    )


#: Said beside the button where there is something from before.
ADDED = (
    "What you keep now is added to what was kept before, and takes the place of the cells that "
    "you review anew."
)


def gone_words(folder: Path, whole: bool) -> str:
    """What a person has to know where a folder did not hold what was kept there."""
    if whole:
        return (
            f"The folder “{folder.name}” was gone, so it was made anew, with everything that "
            "is reviewed here. What was kept in it of other images is not there: if you moved "
            "the folder, choose it at its new place and keep there."
        )
    return (
        f"The folder “{folder.name}” did not hold what you had kept there of this image, so "
        "that was kept again."
    )


def meanwhile_words(folder: Path, result: KeepResult, now: datetime) -> str:
    """What was kept in another window meanwhile, and how to get it back."""
    sentences = []
    if result.replaced:
        names = _named(result.replaced, now)
        many = len(result.replaced) > 1
        sentences.append(
            f"Meanwhile {names} kept in another window. "
            f"{'Those versions are' if many else 'That version is'} in “earlier” of the "
            f"folder now. To have {'one' if many else 'it'} back in place of yours, on the "
            "shell beside the folder: "
            f'sa2net corrections restore "{folder.name}" {result.replaced[0].id[:8]}'
        )
    if result.left:
        names = _named(result.left, now)
        sentences.append(
            f"Meanwhile {names} kept in another window, and that stays in the training set. "
            "To take it out, on the shell beside the folder: "
            f'sa2net corrections remove "{folder.name}" {result.left[0].id[:8]}'
        )
    return " ".join(sentences)


def _named(records: tuple[CommitRecord, ...], now: datetime) -> str:
    """``version 3f2a91bc (today 17:03) was``, or several of them."""
    named = [
        f"{record.id[:8]} ({moment_words(datetime.fromisoformat(record.time), now)})"
        for record in records
    ]
    what, was = ("version", "was") if len(records) == 1 else ("versions", "were")
    return f"{what} {listed(named)} {was}"
