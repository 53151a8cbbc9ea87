"""How far a run of fine-tuning has come, on disk, as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from napari_sa2net.errors import SettingsError, TrainingError
from napari_sa2net.files import write_atomically
from napari_sa2net.training.runs import SCHEMA_VERSION, STATE


def write_state(run: Path, state: dict[str, Any]) -> None:
    """Replace the state, whole; OutputError if it cannot be written."""
    write_tensors(run / STATE, {"schema_version": SCHEMA_VERSION, **state})


def write_tensors(path: Path, content: Any) -> None:
    """Write what torch saves, whole or not at all; OutputError if it cannot be written."""

    def save(file: BinaryIO) -> None:
        target: Any = _Target(file)
        try:
            torch.save(content, target)
        except RuntimeError:
            if target.error is not None:
                raise target.error from None
            raise

    write_atomically(path, save)


class _Target:
    """A file that remembers what was wrong with the disk, which torch does not pass on."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


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
    return read_tensors(path, SCHEMA_VERSION, "Start a new run.")


def read_tensors(
    path: Path, version: int, advice: str, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """A state with its version; TrainingError, with advice, if it is damaged or of another."""
    with reading(path, advice):
        state = torch.load(path, map_location=device, weights_only=True)
        if state["schema_version"] == version:
            return dict(state)
    raise TrainingError(f"{path} was written by another version. {advice}")


@contextmanager
def reading(path: Path, advice: str) -> Iterator[None]:
    """Say that a file is damaged, and what to do, where the block cannot read it."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise TrainingError(f"{path} is damaged. {advice}") from error
