"""A run of fine-tuning on disk: what was asked (JSON), and how far it has come (tensors)."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import ValidationError

from napari_sa2net.config import FineTuneConfig, Settings
from napari_sa2net.errors import SettingsError, TrainingError
from napari_sa2net.files import write_atomically

ASKED, STATE = "fine-tune.json", "state.pt"
SCHEMA_VERSION = 1


class Asked(Settings):
    """How a run was begun."""

    schema_version: int = SCHEMA_VERSION
    name: str
    training_set: str
    base: str
    base_name: str
    base_sha256: str
    config: FineTuneConfig
    division: dict[str, tuple[str, ...]]
    schedule: tuple[tuple[int, int], ...] = ()
    promote: bool | None = None
    registered: bool = True
    command: str = ""


def is_run(run: Path) -> bool:
    """Whether a folder is that of a fine-tuning."""
    return (run / ASKED).is_file()


def write_asked(run: Path, asked: Asked) -> None:
    """Note how a run is begun; OutputError if it cannot be written."""
    write_atomically(run / ASKED, asked.model_dump_json(indent=1).encode())


def read_asked(run: Path) -> Asked:
    """How a run was begun; SettingsError if there is none in that folder."""
    try:
        return Asked.model_validate(json.loads((run / ASKED).read_bytes()))
    except OSError:
        raise SettingsError(
            f"There is no fine-tuning in {run}. Give the folder of a run that was paused."
        ) from None
    except (ValueError, ValidationError) as error:
        raise SettingsError(
            f"{run / ASKED} is damaged or of another version ({error}). Start a new run."
        ) from error


def write_state(run: Path, state: dict[str, Any]) -> None:
    """Replace the state, whole; OutputError if it cannot be written."""
    whole = {"schema_version": SCHEMA_VERSION, **state}
    write_atomically(run / STATE, lambda file: torch.save(whole, file))


def read_state(run: Path) -> dict[str, Any]:
    """The state of a run.

    Raises
    ------
    SettingsError
        If it has none, because it ended before its first round.
    TrainingError
        If the file is damaged.
    """
    path = run / STATE
    if not path.is_file():
        raise SettingsError(
            f"The run in {run} has left nothing to go on with: it is finished, or ended before "
            "its first round. Start a new one."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["schema_version"] == SCHEMA_VERSION:
            return dict(state)
    except (OSError, RuntimeError, KeyError, EOFError, UnpicklingError) as error:
        raise TrainingError(
            f"{path} is damaged ({type(error).__name__}). Start a new run."
        ) from error
    raise TrainingError(f"{path} was written by another version. Start a new run.")
