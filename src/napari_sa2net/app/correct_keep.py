"""Keeping corrections: from a session to commits of a training set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.correct_kept import KeptPlanes
from napari_sa2net.app.correct_seen import how_seen, levels_of, provenance_of
from napari_sa2net.app.correct_session import EditSession
from napari_sa2net.app.correct_source import Box, CellSource, Index
from napari_sa2net.app.session import ImageSource
from napari_sa2net.data.commit import Commit, as_plane
from napari_sa2net.data.corrections import CommittedData, TrainingSet
from napari_sa2net.data.fingerprint import image_fingerprint
from napari_sa2net.data.manifest import CommitRecord, is_training_set, read_manifest
from napari_sa2net.data.numbered import as_labels
from napari_sa2net.edits import reviewed_labels
from napari_sa2net.errors import CorrectionsError
from napari_sa2net.files import user_data_dir


def default_folder() -> Path:
    """Training set that is offered first."""
    return user_data_dir() / "corrections"


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
        parts = [f"{n} {kind} cell{'' if n == 1 else 's'}" for kind, n in said if n]
        return " and ".join(parts) or "what you marked as all right"

    @property
    def withdrawn(self) -> str:
        """``2 planes``, or ``this image`` where it is all that there is."""
        n = self.n_withdrawn
        return f"{n} {self.noun}{'' if n == 1 else 's'}" if self.is_stack else "this image"


@dataclass(frozen=True, eq=False)
class KeptPlane:
    """Labels and reviewed pixels of one plane, copied."""

    index: Index
    labels: NDArray[Any]
    reviewed: NDArray[np.bool_]


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
    changed: dict[Index, int]
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
    problem = _problem(source)
    if not problem and not planes and not withdrawn:
        problem = "Nothing is reviewed yet: correct or accept a cell first."
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
    for index in due:
        reviewed = session.reviewed(index)
        if reviewed.any():
            planes.append(KeptPlane(index, np.array(session.labels[index]), reviewed))
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
        dict(session.changed),
        group,
        session.tally.depth,
        session.journal.number if session.journal is not None else 0,
        session.tally.depth,
        session.began,
        known.copy(),
        page or {},
    )


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

    commits, replaced = [], []
    for plane in request.planes:
        index, box = where(plane.index)
        # Numbers of any layer; a training set holds those of int32.
        labels, reviewed = as_labels(plane.labels), plane.reviewed
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
        former = training_set.latest(fingerprint, index, box)
        if former is not None and former.id not in request.known.mine:
            labels, reviewed = with_former(labels, reviewed, training_set.load(former.id))
            if _moment(former.time) >= times.get(plane.index, request.began):
                replaced.append(former)
        commits.append(
            Commit(
                pixels,
                labels,
                reviewed,
                fingerprint=fingerprint,
                index=index,
                box=box,
                axes=axes,
                made=made,
                pixel_size_um=image.pixel_size_um,
                parent=source.model,
                parent_sha256=source.model_sha256,
                n_edits=request.n_edits,
                **more,
            )
        )
    left = []
    for withdrawn in request.withdrawn:
        there = training_set.latest(fingerprint, *where(withdrawn))
        others = there is not None and there.id not in request.known.mine
        if there is not None and others and _moment(there.time) >= times[withdrawn]:
            left.append(there)
    back = [one for index in request.withdrawn for one in request.known.commits[index]]
    records = training_set.commit_all(commits, back)
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
    return {index: _moment(records[one.commit].time) for index, one in versions.items()}


def _moment(time: str) -> datetime:
    """A commit's time, to the second."""
    return datetime.fromisoformat(time)


def with_former(
    labels: NDArray[Any], reviewed: NDArray[np.bool_], former: CommittedData
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Add what was reviewed before where nothing is reviewed now.

    Cells of before that were reviewed anew in part are left out, so that none is kept with a
    piece missing.

    Returns
    -------
    labels : int64 (H, W)
    reviewed : bool (H, W)
    """
    result = labels.astype(np.int64)
    torn = np.unique(former.labels[reviewed & former.reviewed])
    taken = former.reviewed & ~reviewed & ~np.isin(former.labels, torn[torn > 0])
    above = int(result.max(initial=0))
    result[taken] = np.where(former.labels[taken] > 0, former.labels[taken] + above, 0)
    _, compact = np.unique(result, return_inverse=True)
    if 0 not in result:
        compact = compact + 1
    return compact.reshape(result.shape), reviewed | taken


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
