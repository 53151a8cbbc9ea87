"""A simulated person who corrects a model's labels, through `edits` and commits alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.commit import Commit
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.labels import look_at_reviewed, numbered
from napari_sa2net.edits import (
    Corrections,
    History,
    accept,
    delete,
    mark_region,
    redraw_mask,
    reviewed_mask,
)
from napari_sa2net.errors import NothingToEditError

#: An object is good as it is when it covers a true one with this IoU.
GOOD = 0.85

Rest = Literal["reviewed", "predicted", "unlabelled"]


@dataclass(frozen=True)
class Picture:
    """An image with its truth."""

    name: str
    image: NDArray[Any]
    truth: NDArray[np.integer]


def correct(
    picture: Picture,
    predicted: NDArray[np.integer],
    share: float = 1.0,
    rest: Rest = "reviewed",
    seed: int = 0,
) -> Commit:
    """Correct the objects of an image, or a share of them.

    Parameters
    ----------
    picture : Picture
    predicted : int (H, W)
        What the person starts from.
    share : float
        Of the true objects that the person looks at.
    rest : "reviewed", "predicted" or "unlabelled"
        The image is marked as wholly reviewed; or what the person has not looked at stays as
        predicted; or is not labelled at all.
    """
    truth = picture.truth
    numbers = np.unique(truth)
    numbers = numbers[numbers > 0]
    rng = np.random.default_rng(seed)
    looked_at = rng.permutation(numbers)[: max(1, round(share * numbers.size))]
    labels = np.array(predicted, np.int32)
    if rest == "unlabelled":
        labels *= np.isin(truth, looked_at)
    corrections = Corrections(labels)
    history = History(corrections)
    for number in looked_at:
        _put_right(corrections, history, truth == number)
    # Leftovers of what was drawn over, and in a wholly reviewed image all that is false.
    right = {int(np.bincount(labels[truth == number]).argmax()) for number in looked_at}
    judged = np.unique(labels) if rest == "reviewed" else list(corrections.marked())
    false = [int(n) for n in judged if n > 0 and int(n) not in right]
    if false:
        history.do(delete(corrections, false))
    if rest == "reviewed":
        history.do(
            mark_region(corrections, "reviewed", box=(0, truth.shape[0], 0, truth.shape[1]))
        )
    reviewed = reviewed_mask(corrections)
    labels = corrections.labels
    look = look_at_reviewed(labels, reviewed)
    if look.apart:
        # as the page offers it: pieces far from each other are cells of their own
        labels = numbered(labels, look, count(int(labels.max()) + 1)).astype(np.int32)
    return Commit(
        picture.image,
        labels,
        reviewed,
        source=picture.name,
        fingerprint=picture.name,
    )


def _put_right(corrections: Corrections, history: History, true: NDArray[np.bool_]) -> None:
    """Make one object what it truly is: accept it, or clear the place and draw it."""
    under = np.bincount(corrections.labels[true])
    best = int(under[1:].argmax()) + 1 if under[1:].any() else 0
    own = corrections.labels == best
    if best and (own & true).sum() / (own | true).sum() >= GOOD:
        with suppress(NothingToEditError):
            history.do(accept(corrections, [best]))
        return
    # What lies mostly on this cell is a piece or a blob of it, and goes; the rest yields.
    areas = np.bincount(corrections.labels.ravel())
    mostly = [
        int(n)
        for n in np.flatnonzero(under)
        if n > 0 and 2 * under[n] > areas[n] and not corrections.status(int(n))
    ]
    if mostly:
        history.do(delete(corrections, mostly))
    rows, columns = np.flatnonzero(true.any(1)), np.flatnonzero(true.any(0))
    corner = (int(rows[0]), int(columns[0]))
    mask = true[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    history.do(redraw_mask(corrections, mask, corner, overwrite=True))


def commit_all(training_set: TrainingSet, commits: list[Commit]) -> None:
    """Keep all corrections."""
    training_set.commit_all(commits)
