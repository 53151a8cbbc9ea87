"""Runs of fine-tuning as they lie on disk: what was asked, how far they came, which can go on.

Only who reads or writes how far a run has come needs torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import Field, ValidationError

from napari_sa2net.config import FineTuneConfig, Settings
from napari_sa2net.errors import OutputError, SA2NetError, SettingsError, TrainingError
from napari_sa2net.files import take_lock, write_atomically
from napari_sa2net.models.registry import check_model_name, find_model, user_models_dir

if TYPE_CHECKING:
    import torch

ASKED, STATE, LOCK = "fine-tune.json", "state.pt", ".lock"
#: What the card calls this way of training.
RECIPE = "fine-tune"
SCHEMA_VERSION = 1


class Asked(Settings):
    """How a run was begun.

    ``commit_ids`` and ``places`` tell the images by name, ``image_diameters`` goes into the
    child's card, and ``caveats`` end the verdict: so that the best can be kept without a look
    at the images.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    training_set: str
    base: str
    base_name: str
    base_sha256: str
    config: FineTuneConfig
    division: dict[str, tuple[str, ...]]
    commit_ids: dict[str, str] = Field(default_factory=dict)
    places: dict[str, str] = Field(default_factory=dict)
    image_diameters: tuple[float, float] | None = None
    caveats: tuple[str, ...] = ()
    schedule: tuple[tuple[int, int], ...] = ()
    promote: bool | None = None
    registered: bool = True
    command: str = ""
    axes: str | None = None
    channels: tuple[int | str, ...] | None = None


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that was paused, or that ended without a word.

    Attributes
    ----------
    run : Path
        Its folder, for `fine_tune.resume_fine_tuning`.
    time : float
        When its state was last written (seconds since 1970).
    """

    run: Path
    asked: Asked
    time: float


def folder_input(axes: str | None, channels: Sequence[int | str] | None) -> dict[str, Any]:
    """Axes and channels of a folder's images for the card, as far as they were said."""
    said = {"axes": axes, "channels": None if channels is None else list(channels)}
    return {name: value for name, value in said.items() if value is not None}


def runs_dir() -> Path:
    """Folder of the runs that end among the user's models; it may not exist yet."""
    return user_models_dir().parent / "runs"


def is_run(run: Path) -> bool:
    """Whether a folder is that of a fine-tuning."""
    return (run / ASKED).is_file()


def write_asked(run: Path, asked: Asked) -> None:
    """Note how a run is begun; OutputError if it cannot be written."""
    # In ASCII: a path that is no UTF-8 must come back as it was.
    write_atomically(run / ASKED, json.dumps(asked.model_dump(mode="json"), indent=1).encode())


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
            f"{run / ASKED} is damaged or of another version. Start a new run."
        ) from error


def free_name(parent: str) -> str:
    """A name for a child that no model has."""
    stem = f"{parent.removesuffix('.safetensors')[:50]}-tuned".strip(" .-")
    for number in range(1, 10_000):
        name = stem if number == 1 else f"{stem}-{number}"
        if find_model(name) is None and not (runs_dir() / name / STATE).exists():
            return check_model_name(name)
    raise SettingsError(f"All names like {stem} are taken. Give the new model a name.")


def unfinished_runs() -> list[UnfinishedRun]:
    """Runs that can go on, the newest first; not those that a process is at work on."""
    try:
        folders = [path.parent for path in runs_dir().glob(f"*/{STATE}")]
    except OSError:
        return []
    found = []
    for run in folders:
        with suppress(SA2NetError, OSError):
            asked = read_asked(run)
            # One that ended between the child's birth and its own tidying up is finished.
            if not _is_busy(run) and find_model(asked.name) is None:
                found.append(UnfinishedRun(run, asked, (run / STATE).stat().st_mtime))
    return sorted(found, key=lambda one: -one.time)


def discard_run(run: Path) -> None:
    """Delete an unfinished run.

    Raises
    ------
    SettingsError
        If there is none in that folder.
    OutputError
        If a process is at work on it, or it cannot be deleted.
    """
    read_asked(run)
    if _is_busy(run):
        raise _busy(run)
    try:
        # First what makes it a run that can go on: a rest that stays is not offered.
        (run / STATE).unlink(missing_ok=True)
        shutil.rmtree(run)
    except OSError as error:
        raise OutputError(f"{run} cannot be deleted ({error}).") from error


def tidy(run: Path) -> None:
    """A finished run leaves its settings and model, not what was for going on."""
    with suppress(OSError):
        (run / STATE).unlink()


@contextmanager
def working_on(run: Path, busy: SA2NetError | None = None) -> Iterator[None]:
    """Hold the lock of a run's folder while the block runs: no two processes go on with it.

    Raises
    ------
    OutputError
        If another one does (or `busy`), or the folder cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{run} cannot be made ({error}). Choose a folder that may be written to."
        ) from error
    lock = take_lock(run / LOCK)
    if lock is None:
        raise busy or _busy(run)
    try:
        yield
    finally:
        lock.release()


def _busy(run: Path) -> OutputError:
    return OutputError(f"Another window is learning in {run}. Wait for it, or stop it there.")


def _is_busy(run: Path) -> bool:
    lock = take_lock(run / LOCK)
    if lock is None:
        return True
    lock.release()
    return False


# --------------------------------------------------------------------------------------------
# How far a run has come, as tensors.


def write_state(run: Path, state: dict[str, Any]) -> None:
    """Replace the state, whole; OutputError if it cannot be written."""
    write_tensors(run / STATE, {"schema_version": SCHEMA_VERSION, **state})


def write_tensors(path: Path, content: Any) -> None:
    """Write what torch saves, whole or not at all; OutputError if it cannot be written."""
    import torch

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
    import torch

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
