"""``sa2net train``: a model from a folder of images and labels."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

from cyclopts import Parameter
from rich.logging import RichHandler

from napari_sa2net.cli import console
from napari_sa2net.cli.progress import StepProgress
from napari_sa2net.config import TrainConfig
from napari_sa2net.errors import Cancelled

INTERRUPTED = 130


def train(
    directory: Path,
    /,
    *,
    name: str,
    out: Path | None = None,
    config: Annotated[TrainConfig | None, Parameter(name="*")] = None,
) -> int:
    """Train a model on a folder of images and labels.

    DIRECTORY holds images/ and labels/ (the same file names; 0 is background), and if you
    like reviewed/ (masks of the pixels that count) and index.csv (columns split, name, kind,
    group). Ctrl-C stops after the present step; --resume goes on.

    Parameters
    ----------
    directory
        Training folder.
    name
        What the new model is called.
    out
        Where the run's checkpoints and log go; unsaid: a folder beside your models.
    """
    from napari_sa2net.training.train import train_folder

    command = shlex.join(["sa2net", *sys.argv[1:]])
    with StepProgress() as progress, _log_to(progress), _ctrl_c() as pressed:
        try:
            result = train_folder(
                directory,
                name,
                config or TrainConfig(),
                out=out,
                on_progress=progress.step,
                cancelled=pressed,
                command=command,
            )
        except Cancelled as stopped:
            console.warning(str(stopped))
            return INTERRUPTED
    rows = [(key, f"{value:.3f}") for key, value in result.scores.items()]
    console.table(("validation", "score"), rows)
    console.stdout().print(f"model {name}: {result.path}", markup=False)
    return 0


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
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
def _log_to(progress: StepProgress) -> Iterator[None]:
    """Show validation scores above the bar while training."""
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
