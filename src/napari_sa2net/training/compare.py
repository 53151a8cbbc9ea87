"""Parent and child scored on the same images, and what that says, in words.

Only reviewed pixels count. Scores are kept object by object, so that the difference of two
models gets an interval: objects are drawn anew, always for both models together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import EvaluationError
from napari_sa2net.metrics import ImageScore, MatchCounts, overlaps, pool, score_image
from napari_sa2net.models.card import VARIANT, ModelCard
from napari_sa2net.training.runs import RECIPE
from napari_sa2net.words import counted

if TYPE_CHECKING:
    from napari_sa2net.data.training_set import TrainingItem

# --------------------------------------------------------------------------------------------
# Pixels of each object that were found or not, and Dice from objects drawn anew.


def areas_of(
    found: NDArray[np.bool_], true: NDArray[np.int32], numbers: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Pixels found, missed, and falsely found nearest to each true object."""
    areas = np.zeros((max(1, numbers.size), 3), np.int64)
    false = found & (true == 0)
    if not numbers.size:
        areas[0, 2] = false.sum()
        return areas
    nearest = true
    if false.any():
        from scipy import ndimage  # slow to load

        at = ndimage.distance_transform_edt(
            true == 0, return_distances=False, return_indices=True
        )
        nearest = true[tuple(at)]
    most = int(numbers[-1]) + 1
    for column, pixels in enumerate((found & (true > 0), ~found & (true > 0), false)):
        areas[:, column] = np.bincount(nearest[pixels], minlength=most)[numbers]
    return areas


def drawn_dice(
    shares: Sequence[NDArray[np.floating]], picks: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Dice of each draw of objects, as a mean over the images that the draw holds.

    Parameters
    ----------
    shares : sequence of (n, 3)
        Per image, of each object: pixels found, missed, and falsely found nearest to it.
    picks : (draws, all n)
        Numbers of the objects that each draw takes, counted through all images.
    """
    n = picks.shape[1]
    rows = np.arange(len(picks))[:, None]
    times = np.bincount((picks + n * rows).ravel(), minlength=n * len(picks))
    times = times.reshape(len(picks), n)
    total, images = np.zeros(len(picks)), np.zeros(len(picks))
    start = 0
    for one in shares:
        part = times[:, start : start + len(one)]
        start += len(one)
        hit, missed, false = (part @ one).T
        whole = 2 * hit + missed + false
        there = part.any(1)
        total += there * np.where(whole > 0, 2 * hit / np.where(whole > 0, whole, 1), 1.0)
        images += there
    return total / np.maximum(images, 1)


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
        return self.difference < -TOLERANCE and 1 - self.chance >= SURE

    @property
    def rose(self) -> bool:
        """Likewise higher."""
        return self.difference > TOLERANCE and self.chance >= SURE


@dataclass(frozen=True, kw_only=True)
class Change(Interval):
    """Two models on the same images: the difference of ap50.

    Attributes
    ----------
    before, after : Score
    dice : Interval
        The same of Dice.
    """

    before: Score
    after: Score
    dice: Interval = Interval()


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
    p_of, t_of, shared = overlaps(found, true)
    area_p, area_t = np.bincount(found.ravel()), np.bincount(true.ravel())
    iou = shared / (area_p[p_of] + area_t[t_of] - shared)
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


def change(before: Sequence[Tally], after: Sequence[Tally]) -> Change:
    """Compare two models on the same images, with an interval.

    Raises
    ------
    EvaluationError
        If the images or their true objects are not the same.
    """
    found = ap_change(before, after)
    picks = _picks(sum(len(one.units) for one in before))
    covered = _interval(_dice_of(after, picks) - _dice_of(before, picks))
    first, second = score_of(before), score_of(after)
    return Change(
        **vars(found),
        before=first,
        after=second,
        dice=replace(covered, difference=second.dice - first.dice),
    )


def ap_change(before: Sequence[Tally], after: Sequence[Tally]) -> Interval:
    """The part of `change` that is of the cells found."""
    a = np.concatenate([one.units for one in before])
    b = np.concatenate([one.units for one in after])
    if len(before) != len(after) or a.shape != b.shape:
        raise EvaluationError("Two models can only be compared on the same images.")
    # in portions: all draws at once are hundreds of megabytes
    drawn = [
        _ap(b[some].sum(1)) - _ap(a[some].sum(1)) for some in np.array_split(_picks(len(a)), 20)
    ]
    difference = float(_ap(b.sum(0))) - float(_ap(a.sum(0)))
    return replace(_interval(np.concatenate(drawn)), difference=difference)


def _picks(n: int) -> NDArray[np.int64]:
    """Which of n cells each draw holds: the same for all comparisons."""
    return np.random.default_rng(0).integers(n, size=(DRAWS, n))


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
    and not worse on any part of the reference set. Cells are counted by AP; few of them say
    little, so it is also enough that AP is higher and that Dice rose beyond chance. A Dice
    that fell beyond chance, on either, speaks against a child that finds more cells.

    Parameters
    ----------
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
    elif gain < 0 and 1 - held_out.chance >= SURE:
        text = f"Worse {there}: {numbers}"
    elif gain > 0 and held_out.dice.rose:
        better = True
        text = (
            f"Better {there}: {numbers}, which chance may explain, and the area is covered "
            f"better beyond it: {_dice(held_out)} (± {held_out.dice.margin:.2f})"
        )
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
        link = "and"
    worse = {
        name: part for name, part in (reference or {}).items() if part.fell or part.dice.fell
    }
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
    gain, sure = held_out.difference, held_out.chance >= SURE or held_out.dice.rose
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
            f"With {counted(n, 'cell')} held back, little can be told from chance. "
            f"{more}, and learn again."
        )
    return f"{more}, and learn again; a longer time can help, too."


def _arrow(part: Change) -> str:
    return f"AP {part.before.ap50:.2f} → {part.after.ap50:.2f}"


def _dice(part: Change) -> str:
    return f"Dice {part.before.dice:.2f} → {part.after.dice:.2f}"


def _lost(part: Change) -> str:
    """The scores of a part that fell."""
    said = [_arrow(part)] if part.fell else []
    return " and ".join([*said, _dice(part)] if part.dice.fell else said)


def _gained(part: Change) -> bool:
    return part.difference > TOLERANCE and part.low > 0


def _ap(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """AP of (..., 3) counts; 1 where there is nothing to find and nothing was found."""
    whole = counts.sum(-1)
    found = counts[..., 0]
    return np.where(whole > 0, found / np.maximum(whole, 1), 1.0)


# --------------------------------------------------------------------------------------------
# Two models side by side: on which images, the scores, and what they say; without torch.

#: What a model had an image for: to learn from, to be judged by, both (parts of the one
#: image), to be judged by before its parent was made, or nothing.
Use = Literal["learned", "held out", "both", "earlier", "none"]


@dataclass(frozen=True)
class Part:
    """Scores on one set of images.

    Attributes
    ----------
    name : str
        "held-out corrections", "earlier corrections", "fluorescence", "stained tissue".
    change : Change
        From the first model to the second.
    """

    name: str
    n_images: int
    change: Change


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes
    ----------
    first, second : str
        Names of the models.
    training_set : str
        Folder of the corrections; empty if there were none.
    verdict : Verdict
        Whether the second is better, in words.
    notes : tuple of str
        What is to be known of the scores, in sentences.
    """

    first: str
    second: str
    training_set: str
    parts: tuple[Part, ...]
    verdict: Verdict
    notes: tuple[str, ...] = ()


def use_of(card: ModelCard, item: TrainingItem) -> Use:
    """What a model had an image of a training set for, as its card says.

    Images are told by the ids of their commits; by name where one of both has no ids. One
    that was kept anew is still the image it was, and what belongs to the group of an image,
    or is cut from the same source, was had for the same.
    """
    training = card.training
    if training.get("recipe") not in (RECIPE, VARIANT):
        return "none"
    by_use = {
        use: tuple(training.get(key) or ())
        for use, key in (
            ("learned", "commits"),
            ("held out", "held_out"),
            ("earlier", "held_out_before"),
        )
    }
    named = {name: _nearness(training, name, item) for some in by_use.values() for name in some}
    near = min((n for n in named.values() if n is not None), default=None)
    if near is None:
        return "none"
    uses = [use for use, some in by_use.items() if any(named[name] == near for name in some)]
    if "learned" in uses and "held out" in uses and near == 0:
        return "both"
    # Of other parts than it was torn into, nobody knows on which side they lay.
    return cast(Use, uses[0])


def use_in_line(cards: Sequence[ModelCard], item: TrainingItem) -> Use:
    """What a model, or what it came of, had an image for; its own card comes first."""
    uses = [use_of(card, item) for card in cards]
    if "learned" in uses:
        return "learned"
    if "both" in uses:
        return "both"
    if uses and uses[0] == "held out":
        return "held out"
    return "earlier" if "held out" in uses or "earlier" in uses else "none"


def _nearness(training: Mapping[str, Any], name: str, item: TrainingItem) -> int | None:
    """0: the image of that name is this one; 1: kept anew; 2: of its group; None: neither."""
    identity = (training.get("commit_ids") or {}).get(name, "")
    if not (identity and item.commit):
        return 0 if name == item.name else 2 if name in item.kin else None
    if identity == item.commit:
        return 0
    place = str((training.get("places") or {}).get(name, ""))
    if identity in item.before or (place and place == item.place):
        return 1
    source = item.place.partition("/")[0]
    if identity in item.kin or (source and place.partition("/")[0] == source):
        return 2
    return None


def verdict_on(
    first: str, second: str, held_out: Change | None, reference: dict[str, Change]
) -> Verdict:
    """Whether the second model is better, and why, in a sentence."""
    if held_out is not None:
        return judge(held_out, reference)
    gained = [n for n, part in reference.items() if part.low > 0 and not part.dice.fell]
    # Also where cells are found, but the area is covered worse.
    lost = [
        name if part.high < 0 else f"{name} (Dice {part.dice.difference:+.2f})"
        for name, part in reference.items()
        if part.high < 0 or part.dice.fell
    ]
    if gained and lost:
        text = f"{second} is better on {_list(gained)}, {first} on {_list(lost)}"
    elif gained or lost:
        text = f"{second if gained else first} is better on {_list(gained or lost)}"
    else:
        text = "No difference beyond chance"
    better = bool(gained) and not lost and all(1 - p.chance < SURE for p in reference.values())
    return Verdict(better, f"{text} (reference set of synthetic cells).")


def _list(names: Sequence[str]) -> str:
    return " and ".join(names)


# --------------------------------------------------------------------------------------------
# What fine-tuning tells while it runs: plain and small, and without torch.


@dataclass(frozen=True)
class Planned:
    """What is going to happen.

    Attributes
    ----------
    seconds : float
        Expected for all of it.
    n_learned, n_held_out : int
        Reviewed objects to learn from, and held back.
    parent : Score
        Of the parent, on what was held back.
    reference : Score
        Of the parent, on the reference set.
    """

    steps: int
    rounds: int
    seconds: float
    n_learned: int
    n_held_out: int
    parent: Score
    reference: Score


@dataclass(frozen=True)
class LossPoint:
    """One step: its loss and its share of the peak learning rate."""

    step: int
    steps: int
    loss: float
    rate: float


@dataclass(frozen=True)
class RoundPoint:
    """One round: how good the averaged weights are.

    Attributes
    ----------
    best : bool
        The best so far; its weights are what a stop would keep.
    """

    round: int
    step: int
    held_out: Score
    reference: Score
    best: bool


@dataclass(frozen=True)
class Notice:
    """Something that a person should know: a rollback, less memory, an early end."""

    text: str


Event = Planned | LossPoint | RoundPoint | Notice


# --------------------------------------------------------------------------------------------
# What is held back while a person corrects, as it is sent to the engine.


@dataclass(frozen=True, eq=False)
class HeldBack:
    """A correction that is scored instead of learned from.

    Attributes
    ----------
    corner : (y, x)
        First pixel in the image.
    mask : bool (h, w)
    is_cell : bool
        False: a place where there is none.
    """

    corner: tuple[int, int]
    mask: NDArray[np.bool_]
    is_cell: bool = True
