"""Parent and child scored on the same images, and what that says, in words.

Only reviewed pixels count. Scores are kept object by object, so that the difference of two
models gets an interval: objects are drawn anew, always for both models together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import EvaluationError
from napari_sa2net.metrics import ImageScore, MatchCounts, pool, score_image
from napari_sa2net.training.areas import areas_of, drawn_dice, overlaps

#: Draws of the bootstrap, and the share of them that the interval leaves out.
DRAWS, OUTSIDE = 2000, 0.05
#: A child is better when at least this share of the draws says so.
SURE = 0.9
#: Changes of the reference set below this are no change.
TOLERANCE = 0.02
#: Fewer held-back cells than this tell little; a parent as good as this has little to learn.
FEW, ALMOST_ALL = 30, 0.9
#: What sums of other orders may differ by.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Tally:
    """What one image adds to a score.

    Attributes
    ----------
    units : int64 (n, 3)
        Per true object: found, falsely found nearby, missed (at IoU 0.5). An image without
        true objects is one unit.
    score : ImageScore
    areas : int64 (n, 3) or None
        Per true object, pixels that were found, missed, and falsely found nearest to it; None
        where a run was stored without them.
    """

    units: NDArray[np.int64]
    score: ImageScore
    areas: NDArray[np.int64] | None = None

    @property
    def n(self) -> int:
        """True objects."""
        return int(self.units[:, 0].sum() + self.units[:, 2].sum())

    def plain(self) -> dict[str, Any]:
        """As lists and numbers, to be stored."""
        areas = None if self.areas is None else self.areas.tolist()
        return {"units": self.units.tolist(), "score": asdict(self.score), "areas": areas}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Tally:
        """From `plain`."""
        score = dict(plain["score"])
        matches = tuple(MatchCounts(**counts) for counts in score.pop("matches"))
        units = np.array(plain["units"], np.int64).reshape(-1, 3)
        areas = plain.get("areas")
        return cls(
            units,
            ImageScore(matches, **score),
            None if areas is None else np.array(areas, np.int64).reshape(-1, 3),
        )

    def shares(self) -> NDArray[np.float64]:
        """Pixels found, missed and false per object; alike for all where only Dice is known."""
        if self.areas is not None:
            return self.areas.astype(np.float64)
        dice = self.score.dice
        return np.tile([dice, 1 - dice, 1 - dice], (len(self.units), 1))


@dataclass(frozen=True)
class Score:
    """Pooled scores of some images.

    Attributes
    ----------
    ap50, mean_ap, dice : float
    n : int
        True objects that were looked for.
    """

    ap50: float
    mean_ap: float
    dice: float
    n: int

    @property
    def both(self) -> float:
        """Found at all and found exactly, as models are chosen by."""
        return (self.ap50 + self.mean_ap) / 2


@dataclass(frozen=True)
class Interval:
    """Difference of one score, with a 95 % bootstrap interval.

    Attributes
    ----------
    difference, low, high : float
    chance : float
        Share of the draws in which the second model is better; a draw counts half.
    """

    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    chance: float = 0.5

    @property
    def margin(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def fell(self) -> bool:
        """Lower by more than nothing, and beyond what chance explains."""
        return self.difference < -TOLERANCE and self.chance <= 1 - SURE


@dataclass(frozen=True)
class Change:
    """Two models on the same images.

    Attributes
    ----------
    before, after : Score
    difference : float
        Of ap50.
    low, high : float
        95 % bootstrap interval of the difference.
    chance : float
        Share of the draws in which the second model is better; a draw counts half.
    dice : Interval
        The same of Dice.
    """

    before: Score
    after: Score
    difference: float
    low: float
    high: float
    chance: float
    dice: Interval = Interval()

    @property
    def margin(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Verdict:
    """Whether the child earned its place, and the sentence that says why.

    Attributes
    ----------
    better : bool
    text : str
    advice : str
        What to do next where it did not; may be empty.
    """

    better: bool
    text: str
    advice: str = ""


def reviewed_objects(
    labels: NDArray[np.integer], counts: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Which labels (index = label; 0 is false) have at least half their area reviewed."""
    areas = np.bincount(labels.ravel())
    inside = areas if counts is None else np.bincount(labels[counts], minlength=areas.size)
    chosen = (2 * inside >= areas) & (areas > 0)
    chosen[:1] = False
    return chosen


def reviewed_part(
    labels: NDArray[np.integer], counts: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    """Labels with only the objects that were reviewed, and of them only reviewed pixels.

    An object of which most lies elsewhere is nothing that a person has judged.
    """
    kept = np.where(reviewed_objects(labels, counts)[labels], labels, 0).astype(np.int32)
    return kept if counts is None else kept * counts


def tally(
    labels: NDArray[np.integer],
    truth: NDArray[np.integer],
    counts: NDArray[np.bool_] | None = None,
) -> Tally:
    """Score labels (H, W) against the truth where it was reviewed.

    Raises
    ------
    EvaluationError
        If the shapes differ.
    """
    if labels.shape != truth.shape:
        raise EvaluationError(
            f"The labels have shape {labels.shape} and the truth {truth.shape}: compare "
            "labels of the same image at the same size."
        )
    found, true = reviewed_part(labels, counts), reviewed_part(truth, counts)
    score = score_image(found, true)
    p_of, t_of, iou = overlaps(found, true)
    numbers = np.unique(true)
    numbers = numbers[numbers > 0]
    others = np.unique(found)
    others = others[others > 0]
    units = np.zeros((max(1, numbers.size), 3), np.int64)
    taken: set[int] = set()
    met: set[int] = set()
    # Above 0.5 a pair is unique; at exactly 0.5 the first one in order is taken.
    for k in np.lexsort((p_of, t_of, -iou)):
        p, t = int(p_of[k]), int(t_of[k])
        if iou[k] >= 0.5 and p not in taken and t not in met:
            taken.add(p)
            met.add(t)
    units[: numbers.size, 0] = np.isin(numbers, list(met))
    units[: numbers.size, 2] = 1 - units[: numbers.size, 0]
    false = np.array([p for p in others if int(p) not in taken], np.int64)
    if false.size and numbers.size:
        from scipy import ndimage  # slow to load
        from scipy.spatial import KDTree

        at = KDTree(ndimage.center_of_mass(true > 0, true, numbers))
        near = at.query(ndimage.center_of_mass(found > 0, found, false))[1]
        np.add.at(units[:, 1], near, 1)
    elif false.size:
        units[0, 1] = false.size
    return Tally(units, score, areas_of(found > 0, true, numbers))


def score_of(tallies: Sequence[Tally]) -> Score:
    """Pooled scores; EvaluationError if there is no image."""
    pooled = pool(one.score for one in tallies)
    units = np.concatenate([one.units for one in tallies])
    return Score(
        float(_ap(units.sum(0))),
        pooled["mean_ap"],
        pooled["dice"],
        sum(one.n for one in tallies),
    )


def change(before: Sequence[Tally], after: Sequence[Tally], seed: int = 0) -> Change:
    """Compare two models on the same images, with an interval.

    Raises
    ------
    EvaluationError
        If the images or their true objects are not the same.
    """
    a = np.concatenate([one.units for one in before])
    b = np.concatenate([one.units for one in after])
    if len(before) != len(after) or a.shape != b.shape:
        raise EvaluationError("Two models can only be compared on the same images.")
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(a), size=(DRAWS, len(a)))
    found = _interval(_ap(b[picks].sum(1)) - _ap(a[picks].sum(1)))
    covered = _interval(_dice_of(after, picks) - _dice_of(before, picks))
    first, second = score_of(before), score_of(after)
    return Change(
        first,
        second,
        second.ap50 - first.ap50,
        found.low,
        found.high,
        found.chance,
        replace(covered, difference=second.dice - first.dice),
    )


def _interval(differences: NDArray[np.float64]) -> Interval:
    """What the draws say; the difference is their mean."""
    low, high = np.quantile(differences, [OUTSIDE / 2, 1 - OUTSIDE / 2])
    # Sums of other orders differ in the last digits, which is no difference.
    better, same = differences > ROUNDING, np.abs(differences) <= ROUNDING
    chance = float(better.mean() + same.mean() / 2)
    return Interval(float(differences.mean()), float(low), float(high), chance)


def _dice_of(tallies: Sequence[Tally], picks: NDArray[np.int64]) -> NDArray[np.float64]:
    return drawn_dice([one.shares() for one in tallies], picks)


def judge(held_out: Change, reference: Mapping[str, Change] | None = None) -> Verdict:
    """Whether a child is better than its parent, and why, in a sentence.

    Better is: better on the corrections that were held back, beyond what chance explains,
    and not worse on any part of the reference set. Cells are counted by AP; a Dice that fell
    beyond chance, on either, speaks against a child that finds more cells.

    Parameters
    ----------
    held_out : Change
    reference : mapping of str to Change, optional
        By the name of the part: what was forgotten of one is not made up for by another.
    """
    gain = held_out.difference
    scores = f"AP {held_out.before.ap50:.2f} → {held_out.after.ap50:.2f}"
    numbers = f"{scores} (n = {held_out.after.n}, ± {held_out.margin:.2f})"
    there = "on corrections you held back"
    better = gain > 0 and held_out.chance >= SURE
    if better:
        text = f"Better {there}: {numbers}"
    elif gain < 0 and held_out.chance <= 1 - SURE:
        text = f"Worse {there}: {numbers}"
    elif abs(gain) < 0.005:
        text = f"No better {there}: {numbers}"
    else:
        word = "Better" if gain > 0 else "Worse"
        text = f"{word} {there}, but within what chance explains: {numbers}"
    link = "but" if gain > 0 else "and"
    if held_out.dice.fell:
        # Cells are found, and beside them much that is none.
        better = False
        text += (
            f"; {link} the area is covered worse: {_dice(held_out)} "
            f"(± {held_out.dice.margin:.2f})"
        )
    worse = {name: part for name, part in (reference or {}).items() if _worse(part)}
    advice = "" if better and not worse else _advice(held_out, tuple(worse))
    if not reference:
        return Verdict(better, f"{text}.", advice)
    if worse:
        said = ", ".join(f"{name} {_lost(part)}" for name, part in worse.items())
        return Verdict(False, f"{text}; {link} worse on the reference set: {said}.", advice)
    gained = [f"{name} {_arrow(part)}" for name, part in reference.items() if _gained(part)]
    if gained:
        text = f"{text}; better on the reference set: {', '.join(gained)}."
        return Verdict(better, text, advice)
    return Verdict(better, f"{text}; unchanged on the reference set.", advice)


def _advice(held_out: Change, forgotten: Sequence[str]) -> str:
    """What a person can do where a child is no better."""
    gain, sure = held_out.difference, held_out.chance >= SURE
    if held_out.dice.fell:
        return (
            "It takes for cells what is none. Correct such places too, or mark regions in "
            "which everything is right (All right, on the Correct page), keep them, and learn "
            "again."
        )
    if forgotten and gain > 0 and sure:
        return (
            f"It learned your images and forgot some of {' and '.join(forgotten)}. If you "
            "segment only images like yours, use it; for others stay with the model as it was. "
            "Corrections of more images, or a shorter time, make it forget less."
        )
    more = "Keep corrections of two or three more images, above all of where the model errs"
    if held_out.before.ap50 >= ALMOST_ALL:
        return (
            "The model finds almost all of these cells as it is, so there is little to learn. "
            f"{more}, and learn again; or go on with it as it is."
        )
    if held_out.after.n < FEW:
        n = held_out.after.n
        return (
            f"With {n} cell{'' if n == 1 else 's'} held back, little can be told from chance. "
            f"{more}, and learn again."
        )
    return f"{more}, and learn again; a longer time can help, too."


def _arrow(part: Change) -> str:
    return f"AP {part.before.ap50:.2f} → {part.after.ap50:.2f}"


def _dice(part: Change) -> str:
    return f"Dice {part.before.dice:.2f} → {part.after.dice:.2f}"


def _lost(part: Change) -> str:
    """The scores of a part that fell."""
    said = [_arrow(part)] if _finds_less(part) else []
    return " and ".join([*said, _dice(part)] if part.dice.fell else said)


def _worse(part: Change) -> bool:
    return _finds_less(part) or part.dice.fell


def _finds_less(part: Change) -> bool:
    return part.difference < -TOLERANCE and part.chance <= 1 - SURE


def _gained(part: Change) -> bool:
    return part.difference > TOLERANCE and part.low > 0


def _ap(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """AP of (..., 3) counts; 1 where there is nothing to find and nothing was found."""
    whole = counts.sum(-1)
    found = counts[..., 0]
    return np.where(whole > 0, found / np.maximum(whole, 1), 1.0)
