"""Let a model learn from corrections, and keep the child only where it is better."""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_sa2net.config import FineTuneConfig, Progress, TrainConfig
from napari_sa2net.data.axes import Channels, channel_choice
from napari_sa2net.errors import (
    Cancelled,
    CardError,
    CheckpointPathError,
    CorrectionsError,
    ModelExistsError,
    ModelNotFoundError,
    Paused,
    SettingsError,
    TrainingDataError,
    TrainingError,
)
from napari_sa2net.models.card import VARIANT, ModelCard, read_card
from napari_sa2net.models.file import Model, load_model
from napari_sa2net.models.registry import (
    check_model_name,
    find_model,
    is_model_name,
    list_models,
    parent_named,
)
from napari_sa2net.training.compare import Event
from napari_sa2net.training.dataset import image_diameters
from napari_sa2net.training.material import prepare
from napari_sa2net.training.run import FineTuned, Stopped, TuningRun, finish
from napari_sa2net.training.runs import (
    RECIPE,
    STATE,
    Asked,
    free_name,
    read_asked,
    read_state,
    runs_dir,
    tidy,
    working_on,
    write_asked,
    write_state,
)
from napari_sa2net.training.train import TrainResult, train_folder


def fine_tune(
    training_set: Any,
    base: str | os.PathLike[str] | Model = "nuclei",
    config: FineTuneConfig | Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    out: str | os.PathLike[str] | None = None,
    promote: bool | None = None,
    on_event: Callable[[Event], None] | None = None,
    progress: Progress | None = None,
    preview: Callable[[Model, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    paused: Callable[[], bool] | None = None,
    commits: Sequence[str] | None = None,
    division: Mapping[str, Sequence[str]] | None = None,
    schedule: Sequence[tuple[int, int]] = (),
    command: str = "",
    axes: str | None = None,
    channels: Channels = None,
) -> FineTuned:
    """Let a model learn from corrections.

    Part of the corrections is held back. The loss sees reviewed pixels only; on synthetic
    cells and, as far as the parent was right, on pixels that nobody reviewed, the child is
    kept to the parent's answers. After every round the held-back corrections and a reference
    set are scored; the best round becomes the child. It is promoted if it is better than
    its parent, and kept aside otherwise.

    Parameters
    ----------
    training_set : path, or an open training set
        Its folder: a set of corrections, or ``images/``, ``labels/`` and, if you like,
        ``reviewed/`` and ``index.csv``.
    base : str, path or Model
        The parent: a name or a model file. It is not changed.
    config : FineTuneConfig or mapping, optional
        Above all the time in minutes: ``FineTuneConfig(minutes=5)`` or ``{"minutes": 5}``.
    name : str, optional
        Of the child; unsaid: the parent's with "-tuned" and, if need be, a number.
    out : path, optional
        Folder of the run; unsaid: beside your models.
    promote : bool, optional
        True offers the child, and False keeps it aside, whatever the scores say.
    on_event : callable(Event), optional
        Takes `Planned`, `LossPoint`, `RoundPoint` and `Notice` of `training.compare`.
    progress : callable(done, total, what), optional
    preview : callable(Model, round), optional
        Called after each round with the present weights, for as long as it takes.
    cancelled : callable() -> bool, optional
        Asked several times a second; true ends learning and keeps the best round so far.
    paused : callable() -> bool, optional
        As `cancelled`; true writes everything to disk and raises `Paused`.
    commits : sequence of str, optional
        Only these images of the set (by name or id of the commit).
    division : mapping, optional
        Names of the images to learn from ("training"), to hold back ("held_out"), and of
        those held back before ("earlier"), to repeat a run; unsaid: drawn.
    schedule : sequence of (step, total), optional
        Follow the plan of an earlier run instead of measuring.
    command : str
        How it was called, for the card.
    axes, channels
        Of a folder of images and labels, as of `load_training_folder`: ``channels="DAPI"``.
        Sets of corrections know theirs.

    Returns
    -------
    FineTuned

    Raises
    ------
    TrainingDataError, SettingsError, ModelExistsError, ModelNotFoundError
        If set, settings, name or parent do not serve.
    Paused
        `resume_fine_tuning` goes on.
    Cancelled
        Before the first round was over: there is nothing to keep.
    OutputError
        If it cannot be written, or another process is at work on that run.
    TrainingError, OutOfMemoryError
    """
    start = time.monotonic()
    config = _checked_config(config)
    folder = _checked_folder(training_set)
    parent = load_model(base)
    child = free_name(parent.name) if name is None else check_model_name(name)
    run = Path(out).expanduser() if out else runs_dir() / child
    _check_name(child, out is not None)
    if (run / STATE).exists():
        raise ModelExistsError(
            f"A run of that name was paused or broken off: {run}. Go on with it (sa2net train "
            f"DIR --resume {shlex.quote(str(run))}), delete that folder, or choose another "
            "name."
        )
    channels = channel_choice(channels)
    material = prepare(
        folder, parent, config, commits, progress, cancelled, division, axes, channels
    )
    asked = Asked(
        name=child,
        training_set=str(folder),
        base=str(parent.path) if parent.path else "",
        base_name=parent.name,
        base_sha256=parent.sha256,
        config=config,
        division={use: tuple(names) for use, names in material.division().items()},
        commit_ids=material.commit_ids(),
        places=material.places(),
        image_diameters=image_diameters(material.training),
        caveats=material.caveats(),
        axes=axes,
        channels=channels,
        schedule=tuple((int(a), int(b)) for a, b in schedule),
        promote=promote,
        registered=out is None,
        command=command,
    )
    with working_on(run):
        write_asked(run, asked)
        work = TuningRun(
            run, asked, parent, material, start, on_event, preview, cancelled, paused
        )
        return _from_the_start(work, progress)


def _from_the_start(work: TuningRun, progress: Progress | None) -> FineTuned:
    """Score the parent, plan, and learn; paused before that, it begins anew."""
    try:
        work.begin(progress)
    except Stopped:
        tidy(work.run)
        raise Cancelled("Cancelled before the first step; nothing was changed.") from None
    except Paused:
        write_state(work.run, {"begun": False})
        raise Paused(
            f"Learning is paused before the first step. Go on with the run {work.run}"
        ) from None
    return _carry_out(work, progress)


def resume_fine_tuning(
    run: str | os.PathLike[str],
    *,
    on_event: Callable[[Event], None] | None = None,
    progress: Progress | None = None,
    preview: Callable[[Model, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    paused: Callable[[], bool] | None = None,
) -> FineTuned:
    """Go on with a run that was paused, or that ended without a word, where it stood.

    Parameters
    ----------
    run : path
        Folder of the run. Settings, parent and images are those it began with; corrections
        that were added since are not looked at.
    on_event, progress, preview, cancelled, paused
        As of `fine_tune`. With `cancelled` true from the start, the best round so far is
        kept without another step.

    Raises
    ------
    SettingsError
        If there is nothing to go on with.
    TrainingError
        If parent or images are not those that the run began with.
    and the errors of `fine_tune`.
    """
    start = time.monotonic()
    run = Path(run).expanduser()
    asked = read_asked(run)
    state = read_state(run)
    if not asked.base:
        raise SettingsError(
            f"The run in {run} began with a model that was in no file, so it cannot go on. "
            "Save the model and start a new run."
        )
    parent = load_model(asked.base)
    if parent.sha256 != asked.base_sha256:
        raise TrainingError(
            f"{asked.base} is not the model that this run began with. Bring back "
            f"{asked.base_name!r} with sha256 {asked.base_sha256}, or start a new run."
        )
    parent = Model(
        parent.net,
        parent.card.model_copy(update={"name": asked.base_name}),
        parent.path,
        parent.sha256,
    )
    _check_name(asked.name, not asked.registered)
    begun = state.get("begun", True)
    if cancelled and cancelled():
        return _keep_best(run, asked, parent, state)
    folder = Path(asked.training_set)
    try:
        material = prepare(
            folder,
            parent,
            asked.config,
            progress=progress,
            division=asked.division,
            axes=asked.axes,
            channels=asked.channels,
        )
    except (TrainingDataError, CorrectionsError) as error:
        if cancelled and cancelled():
            return _keep_best(run, asked, parent, state)
        if not begun or state["record"]["best"] is None:
            raise
        raise TrainingDataError(
            f"{error} The best so far can be kept without the images (on the shell: sa2net "
            f"train DIR --resume {shlex.quote(str(run))} --keep-best), or the run discarded."
        ) from error
    with working_on(run):
        work = TuningRun(
            run, asked, parent, material, start, on_event, preview, cancelled, paused
        )
        if not begun:
            return _from_the_start(work, progress)
        work.take_on(state)
        return _carry_out(work, progress)


def _keep_best(run: Path, asked: Asked, parent: Model, state: dict[str, Any]) -> FineTuned:
    """End a run with what lies on disk: the best round's scores are there, too."""
    with working_on(run):
        if not state.get("begun", True):
            tidy(run)
            raise Cancelled("Cancelled before the first step; nothing was changed.")
        return finish(run, asked, parent, state)


def _carry_out(work: TuningRun, progress: Progress | None) -> FineTuned:
    with suppress(Stopped):  # what was reached counts
        work.train(progress)
    return finish(work.run, work.asked, work.parent, work.state())


def _checked_config(config: Any) -> FineTuneConfig:
    if config is None or isinstance(config, FineTuneConfig):
        return config or FineTuneConfig()
    if not isinstance(config, Mapping):
        raise SettingsError(
            f"The settings are a {type(config).__name__}. Give a FineTuneConfig, or a "
            'dictionary such as {"minutes": 5}.'
        )
    try:
        return FineTuneConfig.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        raise SettingsError(
            f"{name}: {first['msg']} (got {first['input']!r}). FineTuneConfig lists the "
            "settings and their bounds."
        ) from error


def _checked_folder(training_set: Any) -> Path:
    folder = getattr(training_set, "path", training_set)
    if not isinstance(folder, (str, os.PathLike)):
        raise TrainingDataError(
            f"{type(training_set).__name__} is no training set. Give the path of its folder, "
            "or an open TrainingSet."
        )
    return Path(folder).expanduser().absolute()


def _check_name(name: str, elsewhere: bool) -> None:
    if not elsewhere and find_model(name) is not None:
        raise ModelExistsError(
            f"There is a model {name!r} already. Choose another name, or remove it (sa2net "
            f"models remove {shlex.quote(name)})."
        )


# --------------------------------------------------------------------------------------------
# Repeat a training from the card of what came out of it.


def card_of(source: str | os.PathLike[str]) -> ModelCard:
    """The card of a model (by name or file), or in a JSON file.

    Raises
    ------
    CheckpointError
        If there is no readable card.
    """
    text = str(source)
    entry = find_model(text) if is_model_name(text) else None
    if entry is not None:
        return entry.card
    path = Path(source).expanduser()
    if path.suffix.lower() != ".json":
        return read_card(path)
    try:
        return ModelCard.from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointPathError(f"{path} cannot be read ({error}).") from error


def repeat_from_card(
    card: ModelCard,
    directory: str | os.PathLike[str],
    name: str | None = None,
    *,
    base: str | None = None,
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    on_event: Callable[[Any], None] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> FineTuned | TrainResult:
    """Train as a card says: same images, parent, settings, steps and seed.

    Parameters
    ----------
    directory : path
        The training set. It may have grown; what the card names must still be there.
    name : str, optional
        Of the new model; unsaid: the card's with "-again".
    base : str, optional
        Where the parent is, if it is not among your models.
    out, command, on_event, progress, cancelled
        As of `fine_tune`.

    Raises
    ------
    CardError
        If the card does not tell how the model was trained.
    ModelNotFoundError
        If the parent is not there.
    and the errors of `fine_tune` and `train_folder`.
    """
    training = card.training
    name = name or f"{card.name[:56]}-again"
    read_as = {key: training.get(key) for key in ("axes", "channels")}
    if training.get("recipe") == VARIANT:
        raise CardError(
            f"{card.name!r} was not trained: it is {parent_named(card)[0]} with its attention "
            "changed. Repeat the training of that model, and keep the change again."
        )
    full = training.get("recipe") != RECIPE
    try:
        if full:
            config = TrainConfig.model_validate({**training["settings"], "resume": None})
        else:
            settings = {**training["settings"], "rounds": training["rounds"]}
            division = {
                "training": list(training["commits"]),
                "held_out": list(training["held_out"]),
                "earlier": list(training["held_out_before"]),
            }
            schedule = [(int(at), int(total)) for at, total in training["schedule"]]
            fine = FineTuneConfig.model_validate(settings)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise CardError(
            f"The card of {card.name!r} does not tell how it was trained "
            f"({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from error
    if full:
        if config.base is not None:
            # What has that name now may be another, such as the child.
            named = config.base if Path(config.base).expanduser().is_file() else None
            parent = find_parent(card, base or named)
            # cards of 0.1.0 say of these what was not done where there was a base
            was = {
                "network": card.network.kind,
                "base_channels": card.network.base_channels,
                "squeeze_excitation": None,
                "base": str(parent.path),
            }
            config = config.model_copy(update=was)
        run = None if out is None else Path(out)
        return train_folder(
            Path(directory), name, config, run, progress, cancelled, command, **read_as
        )
    return fine_tune(
        directory,
        find_parent(card, base),
        fine,
        name=name,
        out=out,
        on_event=on_event,
        progress=progress,
        cancelled=cancelled,
        division=division,
        schedule=schedule,
        command=command,
        **read_as,
    )


def find_parent(card: ModelCard, base: str | None = None) -> Model:
    """The parent that a card names: the very file, whatever it is called now.

    Raises
    ------
    ModelNotFoundError
    """
    name, _, sha256 = (card.parent or "").rpartition(" ")
    if base is not None:
        parent = load_model(base)
        if parent.sha256 == sha256:
            return parent
        raise ModelNotFoundError(
            f"{base} is not the parent of {card.name!r}: its sha256 is {parent.sha256}, that "
            f"of the parent {sha256}."
        )
    for entry in list_models(aside=True):
        if hashlib.sha256(entry.path.read_bytes()).hexdigest() == sha256:
            return load_model(entry.path)
    raise ModelNotFoundError(
        f"The parent of {card.name!r} ({name or 'unnamed'}, sha256 {sha256}) is not among your "
        "models. Say where its file is with --base."
    )
