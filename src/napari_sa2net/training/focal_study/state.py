"""study.json: what a study has done so far, read back only if it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from napari_sa2net.errors import OutputError, SettingsError
from napari_sa2net.files import write_atomically
from napari_sa2net.metrics import THRESHOLDS
from napari_sa2net.training.focal_study.images import StudyImages
from napari_sa2net.training.focal_study.plan import StudySettings

SCHEMA_VERSION = 1
STUDY, LOCK = "study.json", ".lock"


class _Images(BaseModel):
    training: list[str]
    test: list[str]
    test_is_named_in_the_index: bool
    digest: str


class _Scores(BaseModel):
    matches: list[list[tuple[int, int, int]]]
    dice: list[float]
    iou: list[float]


class _Run(BaseModel):
    gamma: dict[str, float]
    parameters: int
    seconds: float
    precision: str
    device: str
    scores: _Scores


class _Time(BaseModel):
    seconds: float
    ratio: float
    low: float
    high: float


class _Times(BaseModel):
    images: int
    rounds: int
    variants: dict[str, _Time]


class _State(BaseModel):
    """What is read of a study; its result is always computed anew."""

    command: str
    data: str
    settings: StudySettings
    images: _Images
    runs: dict[str, _Run]
    time: _Times | None = None


def begin(
    settings: StudySettings, images: StudyImages, data: str | Path, command: str
) -> dict[str, Any]:
    """The state of a study before its first training."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "data": Path(data).expanduser().resolve().name,
        "settings": settings.model_dump(mode="json"),
        "images": images.plain(),
        "runs": {},
    }


def read(out: Path, settings: StudySettings) -> dict[str, Any] | None:
    """The study that is in a folder, which must be this one; None where there is none yet.

    Its threshold may be another: it is applied to what was learned.

    Raises
    ------
    SettingsError
        If the folder holds something else, or the file is damaged or of another version.
    OutputError
        If it is no folder.
    """
    path = out / STUDY
    if not path.is_file():
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out} is a file. Give a folder for the results.")
        if out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
            raise SettingsError(f"{out} holds other files. Choose an empty or a new folder.")
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        version = state["schema_version"]
        if version == SCHEMA_VERSION:
            before = _whole(state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is damaged. Choose another folder.") from error
    if version != SCHEMA_VERSION:
        raise SettingsError(f"{path} is of another version. Choose another folder.")
    was, now = _flat(before.settings), _flat(settings)
    for key, value in now.items():
        if was[key] != value and key != "threshold":
            raise SettingsError(
                f"{out} holds a study with {key.replace('_', ' ')} {was[key]}, and this "
                f"one has {value}. Choose another folder, or repeat its settings."
            )
    return state | {"settings": settings.model_dump(mode="json")}


def write(out: Path, state: dict[str, Any]) -> None:
    """Replace the state on disk, durably."""
    content = json.dumps(state, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(out / STUDY, content.encode(), durable=True)


def without_scores(state: dict[str, Any]) -> dict[str, Any]:
    """The state without the scores of single images."""
    runs = {
        key: {k: v for k, v in run.items() if k != "scores"}
        for key, run in state["runs"].items()
    }
    return state | {"runs": runs}


def _whole(state: Any) -> _State:
    """The state, of which nothing is missing; raises ValueError."""
    found = _State.model_validate(state)
    n = len(found.images.test)
    for key, run in found.runs.items():
        scores = run.scores
        if not len(scores.matches) == len(scores.dice) == len(scores.iou) == n or any(
            len(one) != len(THRESHOLDS) for one in scores.matches
        ):
            raise ValueError(f"{key} has not the scores of {n} images")
    return found


def _flat(settings: StudySettings) -> dict[str, Any]:
    """Settings by name, those inside others too."""
    flat: dict[str, Any] = {}
    for key, value in settings.model_dump(mode="json").items():
        inner = value if isinstance(value, dict) else {}
        flat |= {f"{key} {name}": one for name, one in inner.items()} or {key: value}
    return flat
