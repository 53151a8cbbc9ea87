"""Scores of labelled objects against the truth.

An image is scored once into counts (:func:`score_image`); counts of any group of images are
pooled (:func:`pool`), so that an image with many objects weighs as much as its objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_sa2net.errors import EvaluationError

Positions = NDArray[np.int64]

#: IoU thresholds of mean_ap.
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
#: Keys and titles of the scores, in the order of tables.
SCORES = {
    "ap50": "AP@0.5",
    "ap75": "AP@0.75",
    "mean_ap": "mean AP",
    "f1": "F1",
    "pq": "PQ",
    "aji": "AJI",
    "dice": "Dice",
    "iou": "IoU",
}


@dataclass(frozen=True)
class MatchCounts:
    """Objects matched one to one at one IoU threshold; counts add up over images."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: MatchCounts) -> MatchCounts:
        return MatchCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def ap(self) -> float:
        """TP / (TP + FP + FN); 1 where there is nothing to find and nothing was found."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 where there is nothing on either side."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


@dataclass(frozen=True)
class ImageScore:
    """What one image adds to pooled scores.

    Attributes
    ----------
    matches : tuple of MatchCounts
        One per threshold of THRESHOLDS.
    matched_iou : float
        Sum of the IoU of the pairs matched at 0.5 (for PQ).
    aji_intersection, aji_union : int
        Pixels, summed as in the aggregated Jaccard index.
    dice, iou : float
        Of the foregrounds; 1 for two empty images.
    """

    matches: tuple[MatchCounts, ...]
    matched_iou: float
    aji_intersection: int
    aji_union: int
    dice: float
    iou: float

    @property
    def n_predicted(self) -> int:
        """Number of predicted objects."""
        return self.matches[0].tp + self.matches[0].fp

    @property
    def n_truth(self) -> int:
        """Number of true objects."""
        return self.matches[0].tp + self.matches[0].fn


def evaluate(labels: Any, truth: Any) -> dict[str, float]:
    """Score labels against the truth, as `napari_sa2net.evaluate`, but taken as they are.

    Parameters
    ----------
    labels, truth : integer array, or lists of as many arrays
        Pairs of the same shape; 0 is background. A mask is one object.

    Raises
    ------
    EvaluationError
        If shapes or list lengths differ, or labels are not whole numbers >= 0.
    """
    several = isinstance(labels, (list, tuple)), isinstance(truth, (list, tuple))
    if several[0] != several[1]:
        raise EvaluationError(
            "Give two arrays or two lists of arrays, not a list on one side alone."
        )
    if not several[0]:
        return pool([score_image(labels, truth)])
    predictions, truths = list(labels), list(truth)
    if len(predictions) != len(truths):
        raise EvaluationError(
            f"{len(predictions)} predictions cannot be compared with {len(truths)} true "
            "images: give one prediction for each, in the same order."
        )
    return pool([score_image(p, t) for p, t in zip(predictions, truths, strict=True)])


def pool(scores: Iterable[ImageScore]) -> dict[str, float]:
    """Pool image scores into the dict of :func:`evaluate`.

    Raises
    ------
    EvaluationError
        If there is no image.
    """
    scores = list(scores)
    if not scores:
        raise EvaluationError("There is no image to score.")
    counts = [
        sum((score.matches[i] for score in scores), MatchCounts())
        for i in range(len(THRESHOLDS))
    ]
    half = counts[THRESHOLDS.index(0.5)]
    return {
        "ap50": half.ap,
        "ap75": counts[THRESHOLDS.index(0.75)].ap,
        "mean_ap": float(np.mean([count.ap for count in counts])),
        "f1": half.f1,
        "pq": _ratio(
            sum(score.matched_iou for score in scores), half.tp + (half.fp + half.fn) / 2
        ),
        "aji": _ratio(
            sum(score.aji_intersection for score in scores),
            sum(score.aji_union for score in scores),
        ),
        "dice": float(np.mean([score.dice for score in scores])),
        "iou": float(np.mean([score.iou for score in scores])),
    }


def score_image(labels: ArrayLike, truth: ArrayLike) -> ImageScore:
    """Score one image; arguments and errors as for :func:`evaluate`."""
    predicted, true = _checked(labels, "The labels"), _checked(truth, "The truth")
    if predicted.shape != true.shape:
        raise EvaluationError(
            f"The labels have shape {predicted.shape} and the truth {true.shape}: compare "
            "labels of the same image at the same size."
        )
    (p, n_p), (t, n_t) = (objects_numbered(one.ravel()) for one in (predicted, true))
    # Overlaps of all pairs that share a pixel, background included as number 0.
    pair, shared = distinct(p * (n_t + 1) + t)
    p_of, t_of = pair // (n_t + 1), pair % (n_t + 1)
    size_p = np.bincount(p_of, weights=shared, minlength=n_p + 1).astype(np.int64)
    size_t = np.bincount(t_of, weights=shared, minlength=n_t + 1).astype(np.int64)
    objects = (p_of > 0) & (t_of > 0)
    p_of, t_of, shared = p_of[objects] - 1, t_of[objects] - 1, shared[objects]
    size_p, size_t = size_p[1:], size_t[1:]
    union = size_p[p_of] + size_t[t_of] - shared
    iou = shared / union

    matched = [_one_to_one(p_of, t_of, iou >= least, n_p, n_t) for least in THRESHOLDS]
    matches = [MatchCounts(one.size, n_p - one.size, n_t - one.size) for one in matched]
    common = int(shared.sum())
    either = int(size_p.sum() + size_t.sum()) - common
    return ImageScore(
        tuple(matches),
        float(iou[matched[THRESHOLDS.index(0.5)]].sum()),
        *_aji_sums(p_of, t_of, shared, union, size_p, size_t),
        dice=_ratio(2 * common, either + common),
        iou=_ratio(common, either),
    )


def _one_to_one(
    p_of: NDArray[np.int64],
    t_of: NDArray[np.int64],
    fits: NDArray[np.bool_],
    n_p: int,
    n_t: int,
) -> NDArray[np.int64]:
    """Positions of the pairs of a largest one-to-one matching among those that fit.

    Above an IoU of 0.5 an object fits at most one other. At exactly 0.5 it may fit two (the
    halves of one cell): only then is there something to choose.
    """
    from scipy.sparse import coo_array  # slow to load
    from scipy.sparse.csgraph import maximum_bipartite_matching

    at = np.flatnonzero(fits)
    if np.unique(p_of[at]).size == at.size and np.unique(t_of[at]).size == at.size:
        return at
    graph = coo_array((np.ones(at.size), (p_of[at], t_of[at])), shape=(n_p, n_t)).tocsr()
    partner = maximum_bipartite_matching(graph, perm_type="column")
    return at[partner[p_of[at]] == t_of[at]]


def _aji_sums(
    p_of: NDArray[np.int64],
    t_of: NDArray[np.int64],
    shared: NDArray[np.int64],
    union: NDArray[np.int64],
    size_p: NDArray[np.int64],
    size_t: NDArray[np.int64],
) -> tuple[int, int]:
    """Aggregated intersection and union after Kumar et al., IEEE TMI 2017.

    Every true object takes the prediction of highest IoU (of equal ones the lowest label),
    which may be taken twice; predictions that none took count in the union.
    """
    order = np.lexsort((p_of, -(shared / union), t_of))
    true, start = np.unique(t_of[order], return_index=True)
    best = order[start]
    missed = np.ones(size_t.size, bool)
    missed[true] = False
    unused = np.ones(size_p.size, bool)
    unused[p_of[best]] = False
    return (
        int(shared[best].sum()),
        int(union[best].sum() + size_t[missed].sum() + size_p[unused].sum()),
    )


def _checked(labels: ArrayLike, name: str) -> NDArray[Any]:
    try:
        array = np.asarray(labels)
    except ValueError as error:  # ragged
        raise EvaluationError(f"{name} are not an array of numbers: {error}") from error
    if not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
        raise EvaluationError(
            f"{name} must be whole numbers, one per object, not {array.dtype}: convert them "
            "with labels.astype(int) if they are."
        )
    if array.ndim < 2:
        raise EvaluationError(f"{name} must have at least the axes Y and X, not {array.ndim}.")
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise EvaluationError(f"{name} must not be negative; 0 is background.")
    return array


# --------------------------------------------------------------------------------------------
# Tables of labels: which there are, how large, and which share pixels. Labels of a plane are
# mostly a narrow range of numbers, where counting beats the sorting of np.unique.


def distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Distinct whole numbers, ascending, and how often each occurs."""
    if not _is_narrow(values):
        return np.unique(values, return_counts=True)
    low = values.min().astype(np.int64)
    counts = np.bincount(values.ravel().astype(np.int64) - low)
    there = np.flatnonzero(counts)
    return (there + low).astype(values.dtype), counts[there]


def numbered(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Distinct whole numbers, ascending, and the place of each element's among them."""
    if not _is_narrow(values):
        found, number = np.unique(values, return_inverse=True)
        return found, number.astype(np.int64)
    low = values.min().astype(np.int64)
    shifted = values.astype(np.int64) - low
    there = np.zeros(int(shifted.max()) + 1, bool)
    there[shifted] = True
    found = np.flatnonzero(there)
    return (found + low).astype(values.dtype), (np.cumsum(there) - 1)[shifted]


def objects_numbered(labels: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Labels ≥ 0 as 0..n, with n; 0 stays background, also where there is none."""
    found, number = numbered(np.append(labels, labels.dtype.type(0)))
    return number[:-1].reshape(labels.shape), found.size - 1


def typical_diameter(areas: ArrayLike) -> float:
    """Of a disc (px) with the median of areas (px²); not a number where there is none."""
    sizes = np.asarray(areas)
    return 2 * math.sqrt(float(np.median(sizes)) / math.pi) if sizes.size else math.nan


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Objects of two labelled arrays, and which of them meet.

    Attributes
    ----------
    before, after : int64 (n,), (m,)
        Labels in ascending order; gaps in the numbering are fine.
    area_before, area_after : int64 (n,), (m,)
        Pixels of each.
    i, j, shared : int64 (pairs,)
        Positions in `before` and `after` of the objects that meet, and the pixels that they
        share.
    """

    before: Positions
    after: Positions
    area_before: Positions
    area_after: Positions
    i: Positions
    j: Positions
    shared: Positions

    def of(self, wanted: NDArray[np.bool_]) -> Overlaps:
        """With only some of the pairs."""
        return replace(self, i=self.i[wanted], j=self.j[wanted], shared=self.shared[wanted])

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair."""
        both = self.area_before[self.i] + self.area_after[self.j]
        iou: NDArray[np.float64] = self.shared / (both - self.shared)
        return iou

    @property
    def children(self) -> Positions:
        """Pairs of each object before, (n,)."""
        return np.bincount(self.i, minlength=self.before.size)

    @property
    def parents(self) -> Positions:
        """Pairs of each object after, (m,)."""
        return np.bincount(self.j, minlength=self.after.size)


def overlap_table(
    before: NDArray[np.integer[Any]], after: NDArray[np.integer[Any]]
) -> Overlaps:
    """Which objects of two labelled arrays of one shape meet, and in how many pixels."""
    a, b = before.ravel(), after.ravel()
    starts = np.flatnonzero(_turns(a) | _turns(b))
    lengths = np.diff(starts, append=a.size)
    run_a, run_b = a[starts].astype(np.int64), b[starts].astype(np.int64)
    names_a, area_a = _areas(run_a, lengths)
    names_b, area_b = _areas(run_b, lengths)
    both = (run_a > 0) & (run_b > 0)
    i, j = np.searchsorted(names_a, run_a[both]), np.searchsorted(names_b, run_b[both])
    pairs, which = np.unique(i * max(names_b.size, 1) + j, return_inverse=True)
    shared = np.bincount(which, lengths[both], minlength=pairs.size).astype(np.int64)
    i, j = np.divmod(pairs, max(names_b.size, 1))
    return Overlaps(names_a, names_b, area_a, area_b, i, j, shared)


def _turns(line: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Where a run of equal values starts: few places, where pixels are many."""
    turns = np.ones(line.size, bool)
    if line.size:
        np.not_equal(line[1:], line[:-1], out=turns[1:])
    return turns


def _areas(labels: Positions, lengths: Positions) -> tuple[Positions, Positions]:
    """Labels of runs without background, and the pixels of each."""
    own = labels > 0
    names, which = np.unique(labels[own], return_inverse=True)
    area = np.bincount(which, lengths[own], minlength=names.size)
    return names, area.astype(np.int64)


def overlaps(
    first: NDArray[Any], second: NDArray[Any]
) -> tuple[Positions, Positions, Positions]:
    """Pairs of objects of two label images (> 0) that share pixels, and how many they share."""
    table = overlap_table(first, second)
    return table.before[table.i], table.after[table.j], table.shared


def _is_narrow(values: NDArray[Any]) -> bool:
    if values.size == 0 or values.dtype == np.bool_:
        return False
    return int(values.max()) - int(values.min()) <= 4 * values.size + 1_000_000


def _ratio(part: float, whole: float) -> float:
    """Part of the whole; 1 where the whole is nothing."""
    return float(part / whole) if whole else 1.0
