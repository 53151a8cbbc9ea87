"""Parent and child scored once more as they were when the child was judged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from napari_sa2net.config import FineTuneConfig, is_taught
from napari_sa2net.data.training_set import load_training_folder
from napari_sa2net.inference.devices import resolve_device
from napari_sa2net.models.lineage import parent_named
from napari_sa2net.models.model import Model
from napari_sa2net.training.held_out import View
from napari_sa2net.training.material import prepare, reference_views
from napari_sa2net.training.rounds import Scorer, Tallies, working_dtype
from napari_sa2net.training.runs import RECIPE


@dataclass(frozen=True, eq=False)
class Judged:
    """Two models on the parts of images that a verdict was spoken on.

    Attributes
    ----------
    tallies : list of Tallies
        One for each model.
    n_learned : int
        Images of the set that the child learned from, and is not judged by.
    notes : tuple of str
    """

    tallies: list[Tallies]
    n_learned: int
    notes: tuple[str, ...]


def family(models: Sequence[Model]) -> tuple[Model, Model] | None:
    """Parent and child, where one of two models was taught by corrections from the other."""
    for parent, child in (models, models[::-1]):
        named = parent_named(child.card)[1]
        taught = child.card.training.get("recipe") == RECIPE
        if taught and named and named == parent.sha256 and is_taught(parent.card.classes):
            return parent, child
    return None


def changed_since(child: Model, folder: Path) -> int | None:
    """Images that are new, gone or other since a child learned; None for another set."""
    training = child.card.training
    division = division_of(child)
    named = {name for some in division.values() for name in some}
    if not division["held_out"]:
        return None
    ids = training.get("commit_ids") or {}
    then = {(name, str(ids.get(name, ""))) for name in named}
    now = {(item.name, item.commit) for item in load_training_folder(folder)}
    if not named & {name for name, _ in now}:
        return None
    return len({name for name, _ in then ^ now})


def division_of(child: Model) -> dict[str, list[str]]:
    """What a child had each image of its set for, as `Material.division` says it."""
    training = child.card.training
    return {
        use: list(training.get(key) or ())
        for use, key in (
            ("training", "commits"),
            ("held_out", "held_out"),
            ("earlier", "held_out_before"),
        )
    }


def judge_again(
    models: Sequence[Model],
    parent: Model,
    child: Model,
    folder: Path | None,
    device: str,
    progress: Callable[[int, int, str], None] | None,
    cancelled: Callable[[], bool] | None,
    ask: Callable[[], None],
) -> Judged:
    """Score both on the very parts of the images, and as the verdict on the child did.

    Parameters
    ----------
    models : sequence of Model
        Parent and child, in the order of the tallies.
    folder : Path or None
        The set that the child learned from, as it was; None: the reference set alone.
    ask : callable
        Called between images; raises to stop.
    """
    config = FineTuneConfig(**(child.card.training.get("settings") or {}))
    notes: tuple[str, ...] = ()
    n_learned = 0
    if progress:
        progress(0, 0, "drawing the reference set")
    views: dict[str, list[View]]
    if folder is None:
        views = reference_views(parent.card, config.max_scored)
    else:
        material = prepare(
            folder,
            parent,
            config.model_copy(update={"replay": 0.0}),
            progress=progress,
            cancelled=cancelled,
            division=division_of(child),
            axes=child.card.training.get("axes"),
            channels=child.card.training.get("channels"),
        )
        views, notes = material.views, material.caveats()
        names = material.division()
        n_learned = len({*names["training"]} - {*names["held_out"]})
    done, total, name = 0, len(models) * sum(map(len, views.values())), ""

    def step() -> None:
        nonlocal done
        ask()
        if progress:
            progress(done, total, f"scoring images with {name}")
        done += 1

    on = resolve_device(device)
    scorer = Scorer(views, parent.card, on, working_dtype(on, config.precision), step)
    tallies = []
    for model in models:
        name = model.name
        net = copy.deepcopy(model.net).float().eval().to(on)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        tallies.append(scorer.score(net))
    if progress:
        progress(total, total, "scoring images")
    return Judged(tallies, n_learned, notes)
