"""Progress of a batch: images done, and how far the present one is."""

from __future__ import annotations

from types import TracebackType

from rich.progress import (
    BarColumn,
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
        self._name = ""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}", justify="right"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._images: TaskID = self._progress.add_task(
            "images", total=total, amount=f"0/{total}"
        )
        self._present = _Phases(self._progress, visible=False)

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
        self._name = name
        self._present.show(0, 0, name)

    def step(self, done: int, total: int, what: str) -> None:
        """Callback of the prediction: what goes on with the present image, and how far."""
        self._present.show(done, total, f"{self._name}: {what}")

    def note(self, name: str, message: str) -> None:
        """Something about the present image that the user should know."""
        if not self._quiet:
            line = Text.assemble((f"{name}: ", "yellow"), " ".join(message.split()))
            self._progress.console.print(line)

    def end(self, name: str, message: str, style: str = "") -> None:
        """The present image is finished, skipped or failed."""
        self._done += 1
        amount = f"{self._done}/{self._total}"
        self._progress.update(self._images, completed=self._done, amount=amount)
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
            TextColumn("{task.fields[amount]}", justify="right"),
            TimeRemainingColumn(),
            console=view,
            transient=True,
            disable=quiet or not view.is_terminal,
        )
        self._phases = _Phases(self._progress)

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
        """Callback of the job: what goes on, and ``done`` of ``total`` parts of it."""
        self._phases.show(done, total, what)


class _Phases:
    """A bar that begins anew, with its time left, for whatever goes on."""

    def __init__(self, progress: Progress, visible: bool = True) -> None:
        self._progress = progress
        self._task = self._add(None, visible)
        self._done = self._total = 0

    def show(self, done: int, total: int, what: str) -> None:
        """``done`` of ``total`` parts; a total of 0 or 1 says nothing of how far it is."""
        known = total > 1
        if total != self._total or done < self._done:
            # a task whose total was known once cannot be of unknown length again
            self._progress.remove_task(self._task)
            self._task = self._add(total if known else None)
        self._done, self._total = done, total
        self._progress.update(
            self._task,
            completed=done if known else 0,
            description=what,
            amount=f"{done / total:.0%}" if known else "",
            visible=True,
        )

    def _add(self, total: int | None, visible: bool = True) -> TaskID:
        return self._progress.add_task("", total=total, visible=visible, amount="")
