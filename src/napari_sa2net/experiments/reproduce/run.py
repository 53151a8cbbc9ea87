"""A whole experiment: prepare, train every fold, vote, report. Goes on where it was."""

from __future__ import annotations

import json
import multiprocessing
import queue
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from napari_sa2net.config import Progress
from napari_sa2net.errors import (
    SA2NetError,
    SettingsError,
    TrainingDataError,
    TrainingError,
)
from napari_sa2net.experiments.layouts import open_layout
from napari_sa2net.experiments.reproduce.fold import (
    FoldSettings,
    finished,
    run_fold,
    test_probabilities,
)
from napari_sa2net.experiments.reproduce.prepare import Prepared, prepare
from napari_sa2net.experiments.reproduce.recipes import FOLDS, Recipe, RecipeName, recipe_of
from napari_sa2net.experiments.reproduce.report import decided, score, write_report
from napari_sa2net.files import is_there, write_atomically
from napari_sa2net.inference.devices import resolve_device

# --------------------------------------------------------------------------------------------
# Folds at the same time, one process on each device.

#: Seconds between looks at how far the folds are, and whether the user still wants them.
POLL = 0.2


def run_in_parallel(
    jobs: Sequence[tuple[Any, ...]],
    devices: Sequence[str],
    workers: int = 0,
    on_progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[dict[str, Any]]:
    """Run folds, as many at a time as there are devices, each device in a process of its own.

    Parameters
    ----------
    jobs : sequence of tuple
        Positional arguments of `run_fold`.
    devices, workers, on_progress, cancelled

    Returns
    -------
    list of dict, in the order of the jobs

    Raises
    ------
    The first error of any fold; the others are then stopped, and keep their checkpoints.
    """
    # Spawned: a forked process cannot use CUDA.
    context = multiprocessing.get_context("spawn")
    events, free, stop = context.Queue(), context.Queue(), context.Event()
    for device in devices:
        free.put(device)
    steps: dict[int, tuple[int, int]] = {}
    failure: BaseException | None = None
    with ProcessPoolExecutor(len(devices), context, _begin, (events, free, stop)) as pool:
        runs = [pool.submit(_work, i, job, workers) for i, job in enumerate(jobs)]
        waiting = set(runs)
        try:
            while waiting:
                done, waiting = wait(waiting, POLL, FIRST_COMPLETED)
                # The first error says why; that others were stopped by it does not.
                failure = failure or next(filter(None, (run.exception() for run in done)), None)
                if failure is not None:
                    break
                if cancelled and cancelled():
                    stop.set()
                with suppress(queue.Empty):
                    while True:
                        i, now, total, what = events.get_nowait()
                        steps[i] = now, total
                        if on_progress:
                            so_far = sum(d for d, _ in steps.values())
                            where = f"fold {i + 1} of {len(jobs)}, {what}"
                            on_progress(so_far, len(jobs) * total, where)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    if isinstance(failure, BrokenProcessPool):
        raise TrainingError(
            "The process of a fold ended; memory may have run out. Use fewer devices or a "
            "smaller batch, and give the command again."
        ) from failure
    if failure is not None:
        raise failure
    return [run.result() for run in runs]


#: Of a process: where it tells how far it is, whether it is to stop, and its device.
_own: dict[str, Any] = {}


def _begin(events: Any, free: Any, stop: Any) -> None:
    # Ctrl-C reaches all processes of a terminal; the first one decides and tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    events.cancel_join_thread()  # what is not read any more holds up no end
    _own.update(events=events, stop=stop, device=free.get())


def _work(i: int, job: tuple[Any, ...], workers: int) -> dict[str, Any]:
    try:
        return run_fold(
            *job,
            device=_own["device"],
            workers=workers,
            on_step=lambda *step: _own["events"].put((i, *step)),
            cancelled=_own["stop"].is_set,
        )
    except SA2NetError:
        raise
    except Exception as error:  # sent as words: not every error can be pickled
        raise TrainingError(f"Fold {i + 1}: {type(error).__name__}: {error}") from None


SETTINGS, CACHE = "settings.json", "prepared.npz"


def reproduce(
    dataset: str,
    data: str | Path,
    out: str | Path,
    *,
    recipe: RecipeName = "published",
    keep: Literal["best", "last"] | None = None,
    base_channels: int = 64,
    folds: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    workers: int = 0,
    seed: int = 0,
    on_progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Repeat an experiment of the paper by what is published of its recipe, or by ours.

    Parameters
    ----------
    dataset : str
        "monuseg", "glas", "isic2018", "segpc2021" or "acdc".
    data : path
        Where the data set was unpacked; see `napari_sa2net.experiments.layouts`.
    out : path
        Gets folds, models, scores and report. The same call goes on where one was broken
        off; finished folds are kept.
    recipe : "published" or "ours"
        Published: of acdc nothing is, and all is our reading; what else is our reading the
        report lists. Ours: same network, images and scores, trained and asked in another
        way; for monuseg and glas.
    keep : "best" or "last", optional
        Which epoch's weights are tested: the best on the validation images, or the last, and
        then all epochs run. Unsaid: as in the recipe.
    base_channels : int
        Width of the network; 64 is published.
    folds : int, optional
        Run the first so many of the five; unsaid: all. Data sets with a split of their own
        have one.
    epochs, batch_size : int, optional
        Unsaid: as in the recipe.
    device : str
        "auto" (every CUDA device), "cpu", "cuda:1", or several with commas between: then
        folds run at the same time, one on each.
    precision : "float32" or "auto"
    workers : int
        Loader processes per fold.
    seed : int
    on_progress : callable (steps done, steps at most, what), optional
    cancelled : callable -> bool, optional
    command : str
        How it was called, for the report.

    Returns
    -------
    dict
        As in report.json: summary, published figures, notes, folds.

    Raises
    ------
    TrainingDataError, SettingsError, DeviceError, TrainingError, OutputError, Cancelled
    """
    chosen = recipe_of(dataset, recipe)
    if keep is not None:
        chosen = replace(chosen, keeps=keep)
    out = Path(out).expanduser()
    n_folds = _number_of_folds(chosen, folds)
    settings = FoldSettings(
        base_channels=_at_least_one("base channels", base_channels),
        epochs=_at_least_one("epochs", chosen.epochs if epochs is None else epochs),
        batch_size=_at_least_one(
            "batch size", chosen.batch_size if batch_size is None else batch_size
        ),
        seed=seed,
        precision=precision,
    )
    if seed < 0:
        raise SettingsError(f"The seed must be 0 or more, not {seed}.")
    devices = _devices(device)
    layout = open_layout(dataset, data)
    said = {
        "dataset": dataset,
        "recipe": recipe,
        "kept_epoch": chosen.keeps,
        **asdict(settings),
    }
    before = _read(out, said, chosen)  # a folder that does not serve shows at once
    prepared = prepare(layout, chosen, out / CACHE, on_progress, cancelled)
    if before is None:
        content = json.dumps(said | {"images": prepared.digest}, indent=1)
        write_atomically(out / SETTINGS, content.encode())
    elif before.get("images") != prepared.digest:
        raise SettingsError(
            f"{out} holds a run on other images than {data} has now. Choose another folder."
        )
    splits = fold_splits(prepared, chosen, seed)[:n_folds]
    jobs = [
        (i, prepared, *split, chosen, settings, out / f"fold_{i}")
        for i, split in enumerate(splits, start=1)
    ]
    for job in jobs:
        finished(job[-1])  # a damaged one shows before the others train
    if len(devices) > 1 and len(jobs) > 1:
        results = run_in_parallel(jobs, devices, workers, on_progress, cancelled)
    else:
        results = []
        for i, job in enumerate(jobs):

            def on_step(done: int, total: int, what: str, i: int = i) -> None:
                if on_progress:
                    where = f"fold {i + 1} of {len(jobs)}, " if len(jobs) > 1 else ""
                    on_progress(i * total + done, len(jobs) * total, where + what)

            results.append(
                run_fold(
                    *job, device=devices[0], workers=workers, on_step=on_step,
                    cancelled=cancelled,
                )
            )  # fmt: skip
    vote = None
    test = prepared.where("test")
    if len(test) and len(jobs) > 1:
        mean = np.mean([test_probabilities(job[-1]) for job in jobs], axis=0)
        vote = score(
            decided(mean), prepared.masks[test], prepared.units[test], chosen.n_classes
        )
    return write_report(out, chosen, asdict(settings), results, vote, command, layout.notes)


def fold_splits(
    data: Prepared, recipe: Recipe, seed: int = 0
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Training and validation images of each fold.

    Five folds of training and validation images together, shuffled image by image (not by
    patient); or the one split that the data set has.

    Raises
    ------
    TrainingDataError
        If there are too few images.
    """
    if not recipe.cross_validated:
        one = data.where("train"), data.where("val")
        if min(map(len, one)) < 1 or len(one[0]) < 2:
            raise TrainingDataError(
                f"{recipe.title} has {len(one[0])} training and {len(one[1])} validation "
                "images here, which is too few. Is the data set complete?"
            )
        return [one]
    images = data.where("train", "val")
    if len(images) < FOLDS:
        raise TrainingDataError(
            f"{len(images)} images are too few for {FOLDS} folds. Is the data set complete?"
        )
    shuffled = np.random.default_rng(seed).permutation(images)
    parts = np.array_split(shuffled, FOLDS)
    return [
        (np.sort(np.concatenate(parts[:i] + parts[i + 1 :])), np.sort(parts[i]))
        for i in range(FOLDS)
    ]


def _number_of_folds(recipe: Recipe, folds: int | None) -> int:
    most = FOLDS if recipe.cross_validated else 1
    if folds is None:
        return most
    if not 1 <= folds <= most:
        raise SettingsError(
            f"{recipe.title} has {most} fold(s), so {folds} cannot be run. "
            f"Choose from 1 to {most}."
        )
    return folds


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise SettingsError(f"The {name} must be 1 or more, not {value}.")
    return value


def _devices(names: str) -> list[str]:
    """Devices by name; every CUDA device for "auto"."""
    if names.strip().lower() in ("", "auto"):
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [f"cuda:{i}" for i in range(n)] if n else ["auto"]
    devices = [name.strip() for name in names.split(",")]
    for name in devices:
        resolve_device(name)
    return devices


def _read(out: Path, settings: dict[str, Any], recipe: Recipe) -> dict[str, Any] | None:
    """Settings of the run that is in a folder, which must be these; None: there is no run."""
    path = out / SETTINGS
    if not is_there(path, CACHE):
        return None
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("not a table of settings")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is damaged. Choose another folder.") from error
    if "kept_epoch" not in before:  # of an earlier version
        if recipe.pooled:
            raise SettingsError(
                f"{out} holds a run of {recipe.title} by an earlier reading of its recipe. "
                "Choose another folder."
            )
        before["kept_epoch"] = recipe_of(recipe.dataset, recipe.name).keeps
    for key, value in settings.items():
        if before.get(key) != value:
            raise SettingsError(
                f"{out} holds a run with {key.replace('_', ' ')} {before.get(key)}, and "
                f"this one has {value}. Choose another folder, or repeat its settings."
            )
    return before
