"""What the shell's progress says, on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Task

from napari_sa2net.cli import console
from napari_sa2net.cli.console import BatchProgress, StepProgress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    screen = io.StringIO()
    made = Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(console, "stderr", lambda: made)
    return screen


def test_a_batch_says_what_goes_on(terminal: io.StringIO) -> None:
    with BatchProgress(3) as batch:
        batch.begin("a")
        batch.step(0, 0, "reading the image")
        batch.step(1, 4, "segmenting")
        batch._progress.refresh()
        shown = terminal.getvalue()
        assert "a: segmenting" in shown
        assert "25%" in shown
        assert "0/3" in shown
        batch.step(0, 0, "measuring the cells")
        batch._progress.refresh()
        last = terminal.getvalue().rpartition("images")[2]
        assert "a: measuring the cells" in last
        assert "%" not in last
        batch.end("a", "done")
        batch._progress.refresh()
        assert "1/3" in terminal.getvalue()


def test_time_left_begins_anew_with_what_goes_on(terminal: io.StringIO) -> None:
    with StepProgress() as steps:

        def now() -> Task:
            (task,) = steps._progress.tasks
            return task

        steps.step(8, 9, "finding the size of the cells")
        assert (now().completed, now().total) == (8, 9)
        steps.step(0, 4, "segmenting")
        assert (now().completed, now().total) == (0, 4)
        assert now().time_remaining is None
        assert now().fields["amount"] == "0%"
        steps.step(0, 1, "segmenting")
        assert now().total is None
