"""Two models side by side: on which images, the scores, and what they say; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from napari_sa2net.data.training_set import TrainingItem
from napari_sa2net.models.card import ModelCard
from napari_sa2net.training.compare import SURE, Change, Verdict, judge

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

    Images are told by the ids of their commits, or by name where one of both has no ids.
    """
    training = card.training
    if training.get("recipe") != "fine-tune":
        return "none"
    ids = training.get("commit_ids") or {}

    def among(key: str) -> bool:
        names = training.get(key) or ()
        if item.commit and ids:
            return any(ids.get(name) == item.commit for name in names)
        return item.name in names

    learned, held_out = among("commits"), among("held_out")
    if learned and held_out:
        return "both"
    if learned:
        return "learned"
    if held_out:
        return "held out"
    return "earlier" if among("held_out_before") else "none"


def verdict_on(
    first: str, second: str, held_out: Change | None, reference: dict[str, Change]
) -> Verdict:
    """Whether the second model is better, and why, in a sentence."""
    if held_out is not None:
        return judge(held_out, reference)
    gained = [name for name, part in reference.items() if part.low > 0]
    lost = [name for name, part in reference.items() if part.high < 0]
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
