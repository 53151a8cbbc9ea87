"""``sa2net train``, a model from images and labels; ``sa2net evaluate``, scores of masks."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, make_dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from cyclopts import Group, Parameter
from pydantic import ValidationError
from rich.logging import RichHandler

from napari_sa2net.cli import console
from napari_sa2net.cli.console import StepProgress
from napari_sa2net.cli.options import Flag
from napari_sa2net.config import FineTuneConfig, Settings, TrainConfig
from napari_sa2net.errors import Cancelled, SettingsError

# --------------------------------------------------------------------------------------------
# The flags of ``sa2net train``: settings of two recipes, and which recipe is meant.

BOTH = Group("Training", sort_key=10)
FINE = Group("Learning from corrections", sort_key=11)
FULL = Group("Training in full (from random weights, or --base with --full)", sort_key=12)


def _flags() -> type[Any]:
    """All settings of both recipes; None is: not said."""
    both = {**TrainConfig.model_fields, **FineTuneConfig.model_fields}
    beside: dict[str, list[str]] = {name: [] for name in both}
    for name, field in both.items():
        for other, needed in _company(field).items():
            beside[other].append(f"--{name.replace('_', '-')} counts only with {needed}")
    parts = []
    for name, field in both.items():
        full, fine = TrainConfig.model_fields.get(name), FineTuneConfig.model_fields.get(name)
        group = BOTH if full and fine else FINE if fine else FULL
        text = ". ".join(part for part in (field.title, field.description) if part)
        if beside[name]:
            text += f". {', '.join(beside[name])}"
        said = [_default(f) for f in (fine, full) if f is not None]
        if any(said):
            shown = dict.fromkeys(value or "by the time" for value in said)
            text += f" [{' / in full '.join(shown)}]"
        annotation: Any = field.annotation
        kind = Annotated[
            annotation | None,
            Parameter(group=BOTH if name in ("base", "resume") else group, help=text),
        ]
        parts.append((name, kind, None))
    # Classes of the module `types`, where these come from, are taken for plain values.
    return make_dataclass("TrainFlags", parts, frozen=True, namespace={"__module__": __name__})


def _company(field: Any) -> dict[str, Any]:
    """Values of other settings beside which alone a setting counts."""
    extra = field.json_schema_extra
    return extra.get("only_with", {}) if isinstance(extra, dict) else {}


def _default(field: Any) -> str:
    value = field.get_default()  # None of what is made anew, too
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


TrainFlags = _flags()


def given(flags: Any) -> dict[str, Any]:
    """The flags that were said."""
    if flags is None:
        return {}
    said = {field.name: getattr(flags, field.name) for field in fields(flags)}
    return {name: value for name, value in said.items() if value is not None}


def settings_of(recipe: type[Settings], said: dict[str, Any], name: str, hint: str) -> Any:
    """The settings of a recipe.

    Raises
    ------
    SettingsError
        If a flag belongs to the other recipe, a value is out of bounds, or a flag counts
        only beside another one that was not said.
    """
    strange = [flag for flag in said if flag not in recipe.model_fields]
    if strange:
        flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in strange)
        raise SettingsError(f"{flags}: no setting of {name}. {hint}")
    try:
        settings = recipe.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        flag = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise SettingsError(f"--{flag}: {first['msg']} (got {first['input']!r}).") from error
    check_company(settings, said)
    return settings


def check_company(settings: Settings, said: dict[str, Any]) -> None:
    """See that nothing was said that counts only beside another value than is chosen.

    Raises
    ------
    SettingsError
        Naming the flags as they were typed.
    """
    for name, value in said.items():
        for other, needed in _company(type(settings).model_fields[name]).items():
            if getattr(settings, other) != needed:
                raise SettingsError(
                    f"{', '.join(_typed(name, value))}: only with "
                    f"--{other.replace('_', '-')} {needed}. Add that, or leave it out."
                )


def _typed(name: str, value: Any) -> list[str]:
    """The flags that gave a value."""
    flag = f"--{name.replace('_', '-')}"
    if not isinstance(value, Settings):
        return [flag]
    return [
        f"{flag}.{'no-' if getattr(value, part) is False else ''}{part.replace('_', '-')}"
        for part in sorted(value.model_fields_set)
    ]


def is_resumable(folder: Path | None) -> bool:
    """Whether a folder is the run of a fine-tuning."""
    from napari_sa2net.training.runs import is_run

    return folder is not None and is_run(Path(folder).expanduser())


INTERRUPTED = 130


def train(
    directory: Path,
    /,
    *,
    name: str | None = None,
    out: Path | None = None,
    full: Flag = False,
    from_card: str | None = None,
    promote: bool | None = None,
    keep_best: Flag = False,
    axes: str | None = None,
    channels: str | None = None,
    settings: Annotated[TrainFlags | None, Parameter(name="*")] = None,  # type: ignore[valid-type]
) -> int:
    """Train a model on a folder of images and labels, or let one learn from corrections.

    DIRECTORY is a set of corrections, or holds images/ and labels/ (the same file names; 0 is
    background), and if you like reviewed/ (masks of the pixels that count) and index.csv
    (columns split, name, kind, group).

    With --base, or where DIRECTORY is a set of corrections, a model that is there learns from
    them in minutes: part of them is held back, and the new model is offered only if it is
    better on those (else it is kept aside). Otherwise, and with --full, a network is trained
    in full, for hours: from random weights, or from those of --base.

    Ctrl-C ends learning from corrections with the best that was reached, and training in full
    after the present step; --resume goes on with what was broken off otherwise.

    Parameters
    ----------
    directory
        Training folder.
    name
        What the new model is called; may be left out with --from-card, and with --resume of a
        run that learns from corrections.
    out
        Where the run's checkpoints and log go; unsaid: a folder beside your models.
    full
        Train in full also where there are corrections or a --base.
    from_card
        Repeat the training of a model (name, file, or its card as .json) on DIRECTORY.
    promote
        Offer the new model, or keep it aside, whatever its scores.
    keep_best
        With --resume: end a run that was paused with the best it has. Its images are not
        needed.
    axes
        One letter per axis of the images, such as CYX; unsaid: as the files tell.
    channels
        Channels that show the cells, counted from 0 or by name, such as 1 or DAPI,GFP; unsaid:
        the colours, or the first. Sets of corrections know theirs.
    """
    read_as = {"axes": axes, "channels": channels}
    said = given(settings)
    command = shlex.join(["sa2net", *sys.argv[1:]])
    with StepProgress() as progress, log_to(progress), ctrl_c() as pressed:
        try:
            watch = {"progress": progress.step, "cancelled": pressed}
            if keep_best:
                if not is_resumable(said.get("resume")):
                    raise SettingsError("--keep-best: name a paused run with --resume RUN.")
                watch["cancelled"] = lambda: True
            result = _carry_out(
                directory, name, out, full, from_card, promote, said, read_as, command, watch
            )
        except Cancelled as stopped:
            console.warning(str(stopped))
            return INTERRUPTED
    _report(result)
    return INTERRUPTED if pressed() else 0


def _carry_out(
    directory: Path,
    name: str | None,
    out: Path | None,
    full: bool,
    from_card: str | None,
    promote: bool | None,
    said: dict[str, Any],
    read_as: dict[str, Any],
    command: str,
    watch: dict[str, Any],
) -> Any:
    """Choose the recipe and follow it."""
    from napari_sa2net.data.commit import is_training_set
    from napari_sa2net.training.fine_tune import fine_tune, resume_fine_tuning
    from napari_sa2net.training.train import train_folder

    if from_card is not None:
        from napari_sa2net.training.fine_tune import card_of, repeat_from_card

        base = said.pop("base", None)
        said |= {flag: value for flag, value in read_as.items() if value is not None}
        if said or full:
            flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in said) or "--full"
            raise SettingsError(f"{flags}: with --from-card all settings are the card's.")
        return repeat_from_card(
            card_of(from_card), directory, name, base=base, out=out, command=command, **watch
        )
    if is_resumable(said.get("resume")):
        if any(value is not None for value in read_as.values()):
            raise SettingsError("--axes, --channels: a run goes on with those it began with.")
        return resume_fine_tuning(said["resume"], **watch, on_event=_notice)
    if name is None:
        raise SettingsError("Give the new model a name: --name NAME")
    learn = "base" in said or is_training_set(directory.expanduser())
    if learn and not full:
        base = said.pop("base", "nuclei")
        hint = "Leave it out, or train in full with --full."
        config = settings_of(FineTuneConfig, said, "learning from corrections", hint)
        return fine_tune(
            directory,
            base,
            config,
            name=name,
            out=out,
            promote=promote,
            command=command,
            on_event=_notice,
            progress=watch["progress"],
            cancelled=watch["cancelled"],
            **read_as,
        )
    hint = "Leave it out, or name the model that shall learn with --base (without --full)."
    config = settings_of(TrainConfig, said, "training in full", hint)
    return train_folder(
        directory,
        name,
        config,
        out=out,
        on_progress=watch["progress"],
        cancelled=watch["cancelled"],
        command=command,
        **read_as,
    )


def _notice(event: Any) -> None:
    from napari_sa2net.training.compare import Notice

    if isinstance(event, Notice):
        console.warning(event.text)


def _report(result: Any) -> None:
    out = console.stdout()
    name = result.card.name
    if hasattr(result, "verdict"):
        rows = []
        for where, part in (
            ("corrections held back", result.held_out),
            ("reference set", result.reference),
        ):
            was, now = part.before, part.after
            for score, old, new, one in (
                ("AP@0.5", was.ap50, now.ap50, part),
                ("Dice", was.dice, now.dice, part.dice),
            ):
                change = f"{one.difference:+.3f} ± {one.margin:.3f}"
                rows.append((where, score, f"{old:.3f}", f"{new:.3f}", change, str(now.n)))
        console.table(("scored on", "score", "parent", "child", "change", "cells"), rows)
        out.print(result.verdict.text, markup=False)
        if result.verdict.advice:
            out.print(result.verdict.advice, markup=False)
        if not result.promoted:
            out.print(
                "Kept aside. To use it all the same: "
                f"sa2net models promote {shlex.quote(name)}",
                markup=False,
            )
    else:
        scores = [(key, f"{value:.3f}") for key, value in result.scores.items()]
        console.table(("validation", "score"), scores)
    out.print(f"model {name}: {result.path}", markup=False)


@contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a question that training asks; the second one interrupts.

    Lightning would catch the interrupt itself, and leave with a code that says failure.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def log_to(progress: StepProgress) -> Iterator[None]:
    """Show what training notes, such as validation scores, above the bar."""
    logger = logging.getLogger("napari_sa2net")
    handler = RichHandler(console=progress.console, show_path=False, show_level=False)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


# --------------------------------------------------------------------------------------------
# sa2net evaluate


def evaluate(
    predicted: Path,
    truth: Path,
    /,
    *,
    index: Path | None = None,
    split: str | None = None,
    group_by: str | None = None,
    json: Flag = False,
) -> None:
    """Score a folder of masks against a folder of true masks.

    Files are paired by name without ending. Objects are matched one to one; counts are
    summed over all images before they are divided.

    Parameters
    ----------
    predicted
        Folder of predicted masks.
    truth
        Folder of true masks.
    index
        Table (CSV) of the images to score, with a column name.
    split
        Only images with this value in the table's column split.
    group_by
        Score each value of this column of the table on its own as well, such as kind.
    json
        Print one JSON document, with the scores of each image.
    """
    from napari_sa2net.evaluation import evaluate_folders

    with StepProgress(quiet=json) as progress:
        report = evaluate_folders(predicted, truth, index, split, group_by, progress.step)
    if json:
        console.print_json(report.to_dict())
    else:
        header, *rows = report.rows()
        console.table(header, rows)
        for note in report.notes:
            console.warning(note)
