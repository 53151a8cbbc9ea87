"""Repeat a training from the card of what came out of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_sa2net.config import FineTuneConfig, TrainConfig
from napari_sa2net.errors import CardError, CheckpointPathError, ModelNotFoundError
from napari_sa2net.models.card import ModelCard, read_card
from napari_sa2net.models.model import Model, load_model
from napari_sa2net.models.registry import find_model, is_model_name, list_models
from napari_sa2net.training.child import FineTuned
from napari_sa2net.training.fine_tune import fine_tune
from napari_sa2net.training.runs import RECIPE
from napari_sa2net.training.train import TrainResult, train_folder


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
    progress: Callable[[int, int, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> FineTuned | TrainResult:
    """Train as a card says: same images, parent, settings, steps and seed.

    Parameters
    ----------
    card : ModelCard
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
    try:
        if training.get("recipe") != RECIPE:
            config = TrainConfig.model_validate({**training["settings"], "resume": None})
            if config.base is not None and base is not None:
                config = config.model_copy(update={"base": base})
            run = None if out is None else Path(out)
            return train_folder(
                Path(directory), name, config, run, progress, cancelled, command, **read_as
            )
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
