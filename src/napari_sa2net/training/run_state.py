"""How far a run of fine-tuning has come, on disk, as tensors."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from napari_sa2net.errors import SettingsError, TrainingError
from napari_sa2net.files import write_atomically
from napari_sa2net.training.runs import SCHEMA_VERSION, STATE


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
