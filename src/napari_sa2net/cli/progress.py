"""Progress of a batch: images done, and tiles of the present one."""

from __future__ import annotations

from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from napari_sa2net.cli import console


class BatchProgress:
    """Two bars on a terminal, one line per image anywhere.

    Parameters
    ----------
    total : int
        Number of images.
    quiet : bool
        Print nothing at all.
    """

    def __init__(self, total: int, quiet: bool = False) -> None:
        self._console = console.stderr()
        self._total = total
        self._done = 0
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._images: TaskID = self._progress.add_task("images", total=total)
        self._tiles: TaskID = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> BatchProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        """The next image starts."""
        self._progress.reset(self._tiles, total=None, description=name, visible=True)

    def step(self, done: int, total: int, what: str) -> None:
        """Callback of the prediction: ``done`` of ``total`` steps of the present image."""
        self._progress.update(self._tiles, completed=done, total=total)

    def note(self, name: str, message: str) -> None:
        """Something about the present image that the user should know."""
        if not self._quiet:
            line = Text.assemble((f"{name}: ", "yellow"), " ".join(message.split()))
            self._progress.console.print(line)

    def end(self, name: str, message: str, style: str = "") -> None:
        """The present image is finished, skipped or failed."""
        self._done += 1
        self._progress.update(self._images, completed=self._done)
        if not self._quiet:
            count = f"[{self._done}/{self._total}] "
            line = Text.assemble(
                (count, "dim"), f"{name}: ", (" ".join(message.split()), style)
            )
            self._progress.console.print(line)


class StepProgress:
    """One bar for one job, on a terminal only.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = view = console.stderr()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=view,
            transient=True,
            disable=quiet or not view.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> StepProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self, done: int, total: int, what: str) -> None:
        """Callback of the job: ``done`` of ``total`` steps, now at ``what``."""
        self._progress.update(self._task, completed=done, total=total, description=what)
