"""Folds at the same time, one process on each device."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Sequence
from typing import Any

from napari_sa2net.errors import SA2NetError, TrainingError
from napari_sa2net.training.reproduce.fold import run_fold

Progress = Callable[[int, int, str], None]
#: Seconds between looks at whether a process is still there and the user still wants it.
POLL = 0.2


def run_in_parallel(
    jobs: Sequence[tuple[Any, ...]],
    devices: Sequence[str],
    workers: int = 0,
    on_progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[dict[str, Any]]:
    """Run folds, each in a process of its own, as many at a time as there are devices.

    Parameters
    ----------
    jobs : sequence of tuple
        Positional arguments of `run_fold`.
    devices : sequence of str
    workers : int
    on_progress, cancelled : callable, optional

    Returns
    -------
    list of dict, in the order of the jobs

    Raises
    ------
    The first error of any fold; the others are then stopped, and keep their checkpoints.
    """
    # Spawned: a forked process cannot use CUDA.
    context = multiprocessing.get_context("spawn")
    events, stop = context.Queue(), context.Event()
    waiting = list(range(len(jobs)))
    free = list(devices)
    running: dict[int, tuple[Any, str]] = {}
    results: dict[int, dict[str, Any]] = {}
    steps: dict[int, tuple[int, int]] = {}
    failure: BaseException | None = None
    try:
        while running or (waiting and failure is None):
            while waiting and free and failure is None:
                i, device = waiting.pop(0), free.pop(0)
                process = context.Process(
                    target=_work, args=(i, jobs[i], device, workers, events, stop)
                )
                process.start()
                running[i] = process, device
            if cancelled and cancelled():
                stop.set()
            try:
                i, kind, value = events.get(timeout=POLL)
            except queue.Empty:
                failure = failure or _dead(running, stop)
                continue
            if kind == "step":
                steps[i] = value[0], value[1]
                if on_progress:
                    total = len(jobs) * value[1]
                    done = sum(d for d, _ in steps.values())
                    on_progress(done, total, f"fold {i + 1} of {len(jobs)}, {value[2]}")
                continue
            if kind == "result":
                results[i] = value
            else:
                # The first error says why; that others were stopped by it does not.
                failure = failure or value
                stop.set()
            process, device = running.pop(i)
            process.join()
            free.append(device)
    finally:
        stop.set()
        for process, _ in running.values():
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()
    if failure is not None:
        raise failure
    return [results[i] for i in range(len(jobs))]


def _dead(running: dict[int, tuple[Any, str]], stop: Any) -> TrainingError | None:
    """The error for a process that ended without a word, and no longer wait for it."""
    for i, (process, _) in list(running.items()):
        if process.exitcode not in (None, 0):
            del running[i]
            stop.set()
            return TrainingError(
                f"The process of fold {i + 1} ended with code {process.exitcode}; memory may "
                "have run out. Use fewer devices or a smaller batch, and give the command "
                "again."
            )
    return None


def _work(
    i: int, job: tuple[Any, ...], device: str, workers: int, events: Any, stop: Any
) -> None:
    """Body of a process."""
    # Ctrl-C reaches all processes of a terminal; the first one decides and tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = run_fold(
            *job,
            device=device,
            workers=workers,
            on_step=lambda *step: events.put((i, "step", step)),
            cancelled=stop.is_set,
        )
    except SA2NetError as error:
        events.put((i, "error", error))
    except Exception as error:  # sent as words: not every error can be pickled
        events.put(
            (i, "error", TrainingError(f"Fold {i + 1}: {type(error).__name__}: {error}"))
        )
    else:
        events.put((i, "result", result))
