"""Let a model learn from corrections, and keep the child only where it is better."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data.reference import REFERENCE_SHA256
from napari_sa2net.errors import (
    Cancelled,
    ModelExistsError,
    Paused,
    SettingsError,
    TrainingError,
)
from napari_sa2net.inference.devices import device_name
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import save_model
from napari_sa2net.models.model import Model, load_model
from napari_sa2net.models.registry import (
    add_file,
    check_model_name,
    find_model,
)
from napari_sa2net.provenance import versions
from napari_sa2net.training.compare import Change, Score, Verdict, change, judge
from napari_sa2net.training.events import Event
from napari_sa2net.training.material import HELD_OUT, prepare
from napari_sa2net.training.rounds import reference_of
from napari_sa2net.training.run_state import read_state
from napari_sa2net.training.runs import (
    STATE,
    Asked,
    free_name,
    read_asked,
    runs_dir,
    working_on,
    write_asked,
)
from napari_sa2net.training.tuning_run import Stopped, TuningRun

Progress = Callable[[int, int, str], None]
#: What the card calls this way of training.
RECIPE = "fine-tune"


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What became of a fine-tuning.

    Attributes
    ----------
    model : Model
        The child, with the weights of its best round.
    before, after : Score
        Parent and child on the corrections that were held back.
    held_out, reference : Change
        The same with an interval, and on the reference set.
    verdict : Verdict
        Whether the child is better, in words.
    promoted : bool
        Offered by name from now on; otherwise kept aside (`models.promote_model`).
    path : Path
        The child's file.
    run : Path
        Folder of the run.
    """

    model: Model
    before: Score
    after: Score
    held_out: Change
    reference: Change
    verdict: Verdict
    promoted: bool
    path: Path
    run: Path

    @property
    def card(self) -> ModelCard:
        """The child's card."""
        return self.model.card


def fine_tune(
    training_set: Any,
    base: str | os.PathLike[str] | Model = "nuclei",
    config: FineTuneConfig | None = None,
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
    config : FineTuneConfig, optional
        Above all the time in minutes.
    name : str, optional
        Of the child; unsaid: the parent's with "-tuned" and, if need be, a number.
    out : path, optional
        Folder of the run; unsaid: beside your models.
    promote : bool, optional
        True offers the child, and False keeps it aside, whatever the scores say.
    on_event : callable(Event), optional
        Takes `Planned`, `LossPoint`, `RoundPoint` and `Notice` of `training.events`.
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
    config = config or FineTuneConfig()
    parent = load_model(base)
    child = free_name(parent.name) if name is None else check_model_name(name)
    run = Path(out).expanduser() if out else runs_dir() / child
    _check_name(child, out is not None)
    if (run / STATE).exists():
        raise ModelExistsError(
            f"A run of that name was paused or broken off: {run}. Go on with it (sa2net train "
            "DIR --resume RUN), delete that folder, or choose another name."
        )
    folder = Path(getattr(training_set, "path", training_set)).expanduser().absolute()
    material = prepare(folder, parent, config, commits, progress, cancelled, division)
    asked = Asked(
        name=child,
        training_set=str(folder),
        base=str(parent.path) if parent.path else "",
        base_name=parent.name,
        base_sha256=parent.sha256,
        config=config,
        division={use: tuple(names) for use, names in material.division().items()},
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
        try:
            work.begin()
        except (Stopped, Paused):
            raise Cancelled("Cancelled before the first step; nothing was changed.") from None
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
    folder = Path(asked.training_set)
    material = prepare(folder, parent, asked.config, progress=progress, division=asked.division)
    with working_on(run):
        work = TuningRun(
            run, asked, parent, material, start, on_event, preview, cancelled, paused
        )
        work.take_on(state)
        return _carry_out(work, progress)


def _carry_out(work: TuningRun, progress: Progress | None) -> FineTuned:
    try:
        work.train(progress)
    except Stopped:
        if work.record.best is None:
            raise Cancelled(
                "Learning was stopped before its first round was over, so there is nothing to "
                f"keep. Nothing was changed. Run: {work.run}"
            ) from None
    return _finish(work)


def _finish(work: TuningRun) -> FineTuned:
    """Judge the best round, save it, and put it where it belongs."""
    record, asked = work.record, work.asked
    assert record.best is not None and record.weights is not None
    held_out = change(record.parent[HELD_OUT], record.best[HELD_OUT])
    parts = {
        name: change(before, record.best[name])
        for name, before in record.parent.items()
        if name != HELD_OUT
    }
    reference = change(reference_of(record.parent), reference_of(record.best))
    verdict = judge(held_out, parts)
    if work.material.split.known:
        verdict = Verdict(
            verdict.better,
            f"{verdict.text} The parent had learned from these corrections before.",
        )
    promoted = verdict.better if asked.promote is None else asked.promote
    net = work.child_net()
    net.load_state_dict(record.weights)
    card = _card(work, {HELD_OUT: held_out, **parts}, verdict)
    path = save_model(work.run / f"{asked.name}.safetensors", net.cpu().eval(), card, "float16")
    if asked.registered:
        path = add_file(path, asked.name, aside=not promoted).path
        work.tidy()
    return FineTuned(
        load_model(path),
        held_out.before,
        held_out.after,
        held_out,
        reference,
        verdict,
        promoted and asked.registered,
        path,
        work.run,
    )


def _card(work: TuningRun, changes: dict[str, Change], verdict: Verdict) -> ModelCard:
    asked, parent, material = work.asked, work.parent, work.material
    split = material.split
    training = {
        "recipe": RECIPE,
        "data": Path(asked.training_set).name,
        "commits": material.names(split.training),
        "held_out": material.names(split.held_out),
        "held_out_before": material.names(split.earlier),
        "commit_ids": material.commit_ids(),
        "command": asked.command or shlex.join(Path(sys.argv[0]).name.split()),
        "settings": asked.config.model_dump(mode="json"),
        "seed": asked.config.seed,
        "schedule": [list(piece) for piece in work.schedule.pieces],
        "rounds": work.schedule.rounds,
        "steps": work.module.done,
        "best_step": work.record.step,
        "batch": {"crops_at_once": work.module.micro, "crop": work.crop},
        "device": device_name(work.device),
        "versions": versions(),
        "reference_sha256": REFERENCE_SHA256,
        "verdict": verdict.text,
        "better": verdict.better,
    }
    return parent.card.model_copy(
        update={
            "name": asked.name,
            "description": f"{parent.name}, taught by corrections "
            f"({Path(asked.training_set).name})",
            "diameter": material.diameter,
            "training": training,
            "scores": {
                **{name: _scores(part.after) for name, part in changes.items()},
                **{f"{name}, parent": _scores(part.before) for name, part in changes.items()},
            },
            "parent": f"{parent.name} {parent.sha256}",
            "created": work.now(),
        }
    )


def _scores(score: Score) -> dict[str, float]:
    return {
        "ap50": score.ap50,
        "mean_ap": score.mean_ap,
        "dice": score.dice,
        "objects": float(score.n),
    }


def _check_name(name: str, elsewhere: bool) -> None:
    if not elsewhere and find_model(name) is not None:
        raise ModelExistsError(
            f"There is a model {name!r} already. Choose another name, or remove it (sa2net "
            f"models remove {name})."
        )


__all__ = ["FineTuneConfig", "FineTuned", "fine_tune", "free_name", "resume_fine_tuning"]
