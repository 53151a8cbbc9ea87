"""Two models side by side: on which images, the scores, and what they say; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.models.card import ModelCard
from napari_sa2net.training.compare import SURE, Change, Verdict, judge
from napari_sa2net.training.runs import RECIPE

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
    n_images : int
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
    parts : tuple of Part
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
    if training.get("recipe") != RECIPE:
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
    better = bool(gained) and not lost and all(p.chance >= 1 - SURE for p in reference.values())
    return Verdict(better, f"{text} (reference set of synthetic cells).")


def _list(names: Sequence[str]) -> str:
    return " and ".join(names)
