"""Keeping corrections: from a session to commits of a training set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.correct_session import EditSession
from napari_sa2net.app.correct_source import Box, CellSource, Index
from napari_sa2net.app.session import ImageSource
from napari_sa2net.data.commit import Commit
from napari_sa2net.data.corrections import CommittedData, TrainingSet
from napari_sa2net.data.fingerprint import image_fingerprint
from napari_sa2net.data.manifest import CommitRecord
from napari_sa2net.data.plan import ImagePlan, plan_image
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
    n_cells, n_planes
        Reviewed cells, and planes of which anything was said.
    problem
        Why nothing can be kept; empty if it can.
    """

    n_cells: int = 0
    n_planes: int = 0
    problem: str = ""


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
    number, depth
        Of the journal and of the history, when it was asked for.
    mine
        Commits of this session: they hold nothing that it does not hold itself.
    """

    folder: Path
    source: CellSource
    image: ImageSource
    planes: tuple[KeptPlane, ...]
    group: str
    n_edits: int
    number: int
    depth: int
    mine: frozenset[str]


def what_to_keep(session: EditSession, source: CellSource) -> WhatToKeep:
    """What would be kept now."""
    problem = _problem(source)
    planes = session.reviewed_planes()
    n_cells = 0
    for index in planes:
        plane = session.corrections.plane(index)
        reviewed = reviewed_labels(session.corrections, index)
        n_cells += sum(label in plane for label in reviewed)
    if not problem and not planes:
        problem = "Nothing is reviewed yet: correct or accept a cell first."
    if not problem and not session.dirty:
        problem = "Everything that is reviewed is kept."
    return WhatToKeep(n_cells, len(planes), problem)


def keep_request(
    session: EditSession,
    source: CellSource,
    folder: Path,
    group: str,
    mine: frozenset[str],
) -> KeepRequest:
    """Copy what is to be kept: the planes that changed since the last Keep.

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
    for index in session.reviewed_planes():
        if index in session.dirty:
            reviewed = session.reviewed(index)
            if reviewed.any():
                planes.append(KeptPlane(index, np.array(session.labels[index]), reviewed))
    if not planes:
        raise CorrectionsError(
            "There is nothing new to keep: accept or correct a cell, or mark a region as "
            "reviewed."
        )
    return KeepRequest(
        folder,
        source,
        source.image,
        tuple(planes),
        group,
        session.tally.depth,
        session.journal.number if session.journal is not None else 0,
        session.tally.depth,
        mine,
    )


def keep(request: KeepRequest) -> list[CommitRecord]:
    """Write the commits; takes as long as the disk needs, so not on the window's thread.

    What an earlier commit of the same place had reviewed, and this session has not, is kept
    too: a commit takes the place of the one before.

    Raises
    ------
    SA2NetError
        If the image cannot be read or the set not be written. Nothing is kept then.
    """
    source, image = request.source, request.image
    kept = source.kept
    plan = plan_image(image.data, image.axes, _channels(source, image))
    fingerprint = kept.fingerprint if kept is not None else ""
    fingerprint = fingerprint or image_fingerprint(image.level0)
    training_set = TrainingSet.open(request.folder, create=True)
    commits = []
    for plane in request.planes:
        index = source.image_index(plane.index)
        place = source.image_box()
        whole = (0, plan.spatial[0], 0, plan.spatial[1])
        box = None if place == whole else place
        labels, reviewed = plane.labels, plane.reviewed
        pixels, axes = _pixels(plan, index, place)
        more: dict[str, Any] = {
            "source": image.name,
            "path": source.path,
            "levels": plan.levels.tolist(),
            "group": request.group,
        }
        if kept is not None and box is None:
            index, box = kept.index, kept.box
            more |= {
                "source": kept.name,
                "path": kept.path,
                "levels": kept.levels or more["levels"],
                "group": request.group or kept.group,
                "kind": kept.kind,
                "split": kept.split,
            }
        former = training_set.latest(fingerprint, index, box)
        if former is not None and former.id not in request.mine:
            labels, reviewed = with_former(labels, reviewed, training_set.load(former.id))
        commits.append(
            Commit(
                pixels,
                labels,
                reviewed,
                fingerprint=fingerprint,
                index=index,
                box=box,
                axes=axes,
                pixel_size_um=image.pixel_size_um,
                parent=source.model,
                parent_sha256=source.model_sha256,
                n_edits=request.n_edits,
                **more,
            )
        )
    return training_set.commit_all(commits)


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
    if source.corner is None:
        return (
            f"The pixels of {source.name!r} are not those of {source.image.name!r}, so the "
            "two cannot be kept together. Choose cells that were made on this image."
        )
    return ""


def _channels(source: CellSource, image: ImageSource) -> tuple[int, ...] | None:
    """Of an image that was kept all channels: they were chosen when it was."""
    axes = image.axes or ""
    if source.kept is None or "C" not in axes:
        return image.channels
    return tuple(range(image.shape[axes.index("C")]))


def _pixels(plan: ImagePlan, index: Index, place: Box) -> tuple[NDArray[Any], str]:
    """Chosen channels of a plane or window, and how its axes are spelled."""
    values = plan.read_raw(index, *place)
    if len(values) == 1:
        return values[0], "YX"
    if plan.is_rgb and len(values) == 3:
        return np.moveaxis(values, 0, 2), "YXC"
    return values, "CYX"
