"""Score any two models on a person's corrections and on the reference set."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sa2net.config import FineTuneConfig, InputConfig, PredictConfig, Progress, is_taught
from napari_sa2net.data.axes import Channels, channel_choice
from napari_sa2net.data.commit import is_training_set
from napari_sa2net.data.samples import reference_images
from napari_sa2net.data.training_set import (
    TrainingItem,
    is_unscaled,
    load_training_folder,
    plan_item,
)
from napari_sa2net.errors import Cancelled, SettingsError
from napari_sa2net.inference.devices import resolve_device
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import plan_for, predict_image
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import Model, load_model
from napari_sa2net.models.registry import ancestors, list_models, parent_named
from napari_sa2net.training.compare import (
    Change,
    Comparison,
    Part,
    Tally,
    Use,
    change,
    tally,
    use_of,
    verdict_on,
)
from napari_sa2net.training.dataset import Example, load_example
from napari_sa2net.training.held_out import focus, split_examples, spread
from napari_sa2net.training.material import (
    DIAMETER,
    EARLIER,
    HELD_OUT,
    KINDS,
    prepare,
    reference_views,
)
from napari_sa2net.training.runs import RECIPE
from napari_sa2net.training.tuning import Scorer, Tallies, working_dtype
from napari_sa2net.words import counted, plural

# --------------------------------------------------------------------------------------------
# Parent and child scored once more as they were when the child was judged.


@dataclass(frozen=True, eq=False)
class Judged:
    """Two models on the parts of images that a verdict was spoken on.

    Attributes
    ----------
    tallies : list of Tallies
        One for each model.
    n_learned : int
        Images of the set that the child learned from, and is not judged by.
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
    progress: Progress | None,
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
    views: dict[str, list[Example]]
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


#: Most images of a part that are scored; evenly drawn where there are more.
MOST = 24
#: Networks are small beside images: context that no image reaches the end of.
_ALL_OF_IT = 1e-3


@dataclass(frozen=True, eq=False)
class _Task:
    """One image to score both models on: of a training set, or in memory."""

    part: str
    image: TrainingItem | NDArray[Any]
    labels: NDArray[np.int32]
    counts: NDArray[np.bool_] | None
    diameter: float


def compare_models(
    first: str | os.PathLike[str] | Model,
    second: str | os.PathLike[str] | Model,
    training_set: Any = None,
    *,
    device: str = "auto",
    axes: str | None = None,
    channels: Channels = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Comparison:
    """Score two models on the same images, as they would segment them.

    Corrections that one of the two, or what it came of, has learned from are left out as far
    as others are there. Each model sees the cells at the size it was trained at. Parent and
    child on the set that the child learned from are scored as they were for its verdict.

    Parameters
    ----------
    first, second : str, path or Model
        Differences are told from the first to the second.
    training_set : path, or an open training set, optional
        Corrections; unsaid: only the reference set of synthetic cells is scored.
    device : str
    axes, channels
        Of a folder of images and labels, as of `load_training_folder`; unsaid: as one of the
        models learned from it.
    progress : callable(done, total, what), optional
    cancelled : callable() -> bool, optional
        Asked between tiles.

    Returns
    -------
    Comparison

    Raises
    ------
    ModelNotFoundError, CheckpointError, TrainingDataError, ChannelError
        If a model or an image does not serve.
    SettingsError
        If both are the same model.
    Cancelled
    """
    models = [load_model(first), load_model(second)]
    if models[0].sha256 and models[0].sha256 == models[1].sha256:
        raise SettingsError(
            f"{models[0].name} and {models[1].name} are the same model. Choose another one to "
            "compare with."
        )
    folder = None
    channels = channel_choice(channels)
    tasks: list[_Task] = []
    notes: list[str] = []
    if training_set is not None:
        folder = Path(getattr(training_set, "path", training_set)).expanduser().absolute()
    kin = family(models)
    changed = changed_since(kin[1], folder) if kin and folder is not None else 0
    if kin and changed == 0 and _reads_alike(kin[1], axes, channels):
        judged = judge_again(
            models, *kin, folder, device, progress, cancelled, lambda: _ask(cancelled)
        )
        notes = [*_left_out(judged.n_learned, {kin[1].name}), *judged.notes]
        return _told(models, folder, judged.tallies, notes)
    if kin and changed:
        said = counted(changed, "image is", "images are")
        notes = [
            f"{said} new in this set, or other than when {kin[1].name} was judged: these "
            "numbers are not those of its verdict."
        ]
    if folder is not None:
        items = _items(folder, models, axes, channels)
        tasks, more = _corrections(items, models, progress, cancelled)
        notes += more
    if progress:
        progress(0, 0, "drawing the reference set")
    tasks += _reference()
    tallies: list[dict[str, list[Tally]]] = [{}, {}]
    done, total = 0, 2 * len(tasks)
    for model, own in zip(models, tallies, strict=True):
        predictors: dict[InputConfig, Predictor] = {}
        for task in tasks:
            if progress:
                progress(done, total, f"scoring images with {model.name}")
            _ask(cancelled)
            labels = _labels(model, predictors, PredictConfig(device=device), task, cancelled)
            own.setdefault(task.part, []).append(tally(labels, task.labels, task.counts))
            done += 1
    if progress:
        progress(total, total, "scoring images")
    return _told(models, folder, tallies, notes)


def _told(
    models: Sequence[Model],
    folder: Path | None,
    tallies: Sequence[Mapping[str, list[Tally]]],
    notes: Sequence[str],
) -> Comparison:
    """What the scores say."""
    changes: dict[str, Change] = {
        name: change(some, tallies[1][name]) for name, some in tallies[0].items()
    }
    corrections = [name for name in (HELD_OUT, EARLIER) if name in changes]
    parts = tuple(
        Part(name, len(tallies[0][name]), changes[name])
        for name in dict.fromkeys([*corrections, *changes])
    )
    held_out = changes.pop(HELD_OUT, None)
    names = models[0].name, models[1].name
    return Comparison(
        *names,
        "" if folder is None else str(folder),
        parts,
        verdict_on(*names, held_out, changes),
        tuple(notes),
    )


def _labels(
    model: Model,
    predictors: dict[InputConfig, Predictor],
    config: PredictConfig,
    task: _Task,
    cancelled: Callable[[], bool] | None,
) -> NDArray[np.int32]:
    """What a model finds in an image, at the image's size."""
    size: dict[str, Any] = {"diameter": task.diameter}
    if isinstance(task.image, TrainingItem):
        card = model.card
        plan = plan_item(task.image, card.input, card.network.in_channels)
        size["rescale"] = not is_unscaled(task.image)
        if task.image.seen is not None:
            size["dab"] = "keep"  # the plan shows it as it was seen
    else:
        plan = plan_for(model, task.image)
    if plan.model_input not in predictors:
        predictors[plan.model_input] = Predictor(model, config, input_config=plan.model_input)
    predictor = predictors[plan.model_input]
    predictor.config = config.model_copy(update=size)
    made = predict_image(model, plan, predictor=predictor, cancelled=cancelled)
    probability = np.asarray(made.probability).reshape(predictor.n_classes, *plan.spatial)
    labels = label_objects(probability, model.card.classes, model.card.instance)
    return np.asarray(labels, np.int32)


def _reference() -> list[_Task]:
    return [
        _Task(KINDS[one.kind], one.image, one.labels, None, one.diameter)
        for one in reference_images()
    ]


def _reads_alike(
    child: Model, axes: str | None, channels: tuple[str | int, ...] | None
) -> bool:
    """Whether a folder is to be read as a child did that has learned from it."""
    training = child.card.training
    learned = ",".join(map(str, training.get("channels") or ()))
    said = None if channels is None else ",".join(map(str, channels))
    return axes in (None, training.get("axes")) and said in (None, learned)


def _items(
    folder: Path, models: Sequence[Model], axes: str | None, channels: Channels
) -> list[TrainingItem]:
    """Images of a training set, read as a model did that has learned from them."""
    if axes is None and channels is None and not is_training_set(folder):
        for model in reversed(models):
            training = model.card.training
            if training.get("data") == folder.name:
                axes, channels = training.get("axes"), training.get("channels")
                break
    return load_training_folder(folder, axes=axes, channels=channels)


def _corrections(
    items: Sequence[TrainingItem],
    models: Sequence[Model],
    progress: Progress | None,
    cancelled: Callable[[], bool] | None,
) -> tuple[list[_Task], list[str]]:
    """Images with something reviewed, by what the models had them for."""
    registered = list_models(aside=True)
    lines = [
        [model.card, *(entry.card for entry in ancestors(model.card, registered))]
        for model in models
    ]
    examples: dict[str, list[tuple[TrainingItem, Example]]] = {HELD_OUT: [], EARLIER: []}
    learned: list[tuple[TrainingItem, Example]] = []
    who: set[str] = set()
    told: list[str] = []
    for i, item in enumerate(items):
        _ask(cancelled)
        if progress:
            progress(i, len(items), "reading corrections")
        example = focus(load_example(item, InputConfig(), DIAMETER), _ALL_OF_IT)
        told += [example.unchosen] if example.unchosen else []
        if not len(example.centres):
            continue
        uses = [[use_of(card, item) for card in line] for line in lines]
        if _has_learned(uses):
            learned.append((item, example))
            who |= {
                model.name
                for model, one in zip(models, uses, strict=True)
                if _has_learned([one])
            }
            continue
        for card in _torn(lines, uses):
            # Learned from one part of it, held out the other.
            share = float((card.training.get("settings") or {}).get("held_out", 0.2))
            example = split_examples([example], share, 0).held_out[0]
        earlier = any("earlier" in one for one in uses)
        examples[EARLIER if earlier else HELD_OUT].append((item, example))
    notes = told[:1]
    if not examples[HELD_OUT]:
        examples[HELD_OUT], examples[EARLIER] = examples[EARLIER], []
    if not examples[HELD_OUT] and learned:
        examples[HELD_OUT] = learned
        notes.append(
            f"{' and '.join(sorted(who))} learned from these corrections, which flatters: "
            "there are no others. Keep corrections of one more image for a fair comparison."
        )
    else:
        notes += _left_out(len(learned), who)
    tasks = []
    for part, some in examples.items():
        by_name = {item.name: (item, example) for item, example in some}
        for example in spread([example for _, example in some], MOST):
            item, _ = by_name[example.item.name]
            tasks.append(_Task(part, item, example.labels, example.counts, example.diameter))
        if len(some) > MOST:
            notes.append(f"{MOST} of {len(some)} images ({part}) were scored.")
    return tasks, notes


def _left_out(n: int, who: Collection[str]) -> list[str]:
    """How many images are not scored, and why."""
    if not n:
        return []
    return [
        f"{counted(n, 'image')} that {' or '.join(sorted(who))} learned from "
        f"{plural(n, 'is', 'are')} left out."
    ]


def _has_learned(uses: Sequence[Sequence[Use]]) -> bool:
    return any(use == "learned" for one in uses for use in one)


def _torn(
    lines: Sequence[Sequence[ModelCard]], uses: Sequence[Sequence[Use]]
) -> list[ModelCard]:
    """The card that tore the image apart, if any; all tear it alike but for the share."""
    found = [
        card
        for line, one in zip(lines, uses, strict=True)
        for card, use in zip(line, one, strict=True)
        if use == "both"
    ]
    return found[:1]


def _ask(cancelled: Callable[[], bool] | None) -> None:
    if cancelled and cancelled():
        raise Cancelled("Cancelled; nothing was changed.")
