"""What the shell prints: progress on a terminal and elsewhere, lines, tables, odd signs."""

from __future__ import annotations

import io
import json

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


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    made = Console(file=text, force_terminal=False, width=80, soft_wrap=True)
    monkeypatch.setattr(console, "stderr", lambda: made)
    return text


def test_elsewhere_a_batch_is_one_line_for_each_image(pipe: io.StringIO) -> None:
    with BatchProgress(2) as batch:
        batch.begin("a")
        batch.step(1, 4, "segmenting")
        batch.note("a\nb", "odd\taxes [Z]")
        batch.tell("3 of 4 blocks, [1] min left\n")
        batch.end("a\nb", "5 cells")
        batch.end("b", "failed")
    lines = ["a b: odd axes [Z]", "3 of 4 blocks, [1] min left", "[1/2] a b: 5 cells"]
    assert pipe.getvalue().splitlines() == [*lines, "[2/2] b: failed"]


def test_a_terminal_has_bars_and_is_not_told_twice(terminal: io.StringIO) -> None:
    with BatchProgress(2) as batch:
        batch.tell("3 of 4 blocks")
    assert "3 of 4 blocks" not in terminal.getvalue()


def test_bars_are_gone_when_the_work_is_done(terminal: io.StringIO) -> None:
    with StepProgress() as steps:
        steps.step(1, 4, "segmenting")
        steps._progress.refresh()
    erase_line = "\x1b[2K"
    assert terminal.getvalue().rstrip().endswith(erase_line)


@pytest.mark.parametrize("where", ["terminal", "pipe"])
def test_quiet_is_quiet(where: str, request: pytest.FixtureRequest) -> None:
    screen = request.getfixturevalue(where)
    with BatchProgress(2, quiet=True) as batch:
        batch.begin("a")
        batch.step(1, 4, "segmenting")
        batch.note("a", "odd")
        batch.tell("3 of 4 blocks")
        batch.end("a", "5 cells")
    with StepProgress(quiet=True) as steps:
        steps.step(1, 4, "segmenting")
    assert screen.getvalue() == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_a_pipe_has_no_bars(pipe: io.StringIO, quiet: bool) -> None:
    with StepProgress(quiet) as steps:
        steps.step(1, 4, "segmenting")
    assert pipe.getvalue() == ""


def test_errors_and_notes_are_one_line_each(pipe: io.StringIO) -> None:
    console.error("a [bold]\r\nb\u2028c\x1b[2J")
    console.warning(" odd\x00 ")
    assert pipe.getvalue().splitlines() == ["error: a [bold] b c [2J", "note: odd"]


def test_tables_are_not_folded_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 120
    console.table(("name", "cells"), [("a", "5"), (f"[{long}]", "6,710")], title="Found")
    title, head, first, second = (
        line.rstrip() for line in capsys.readouterr().out.splitlines()
    )
    assert title == "Found"
    assert head.split() == ["name", "cells"]
    assert second == f"[{long}]  6,710"
    assert first.startswith("a ")
    assert len(first) == len(head) == len(second)  # numbers stand at the right


def test_json_is_one_document_without_what_json_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.print_json({"name": "\udce4", "n": [1, None]})
    out = capsys.readouterr().out
    assert json.loads(out) == {"name": "ä", "n": [1, None]}
    assert out.endswith("}\n")
    with pytest.raises(ValueError, match="JSON"):
        console.print_json({"score": float("nan")})


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("ascii", b"ok 2.5 um2 -> -3 ... e A ? -"),
        ("latin-1", b"ok 2.5 \xb5m\xb2 -> -3 ... \xe9 A ? \xb7"),
        ("utf-8", "✓ 2.5 µm² → −3 … é Ā 細 ·".encode()),
    ],
)
def test_signs_that_a_terminal_lacks_are_written_in_others(
    encoding: str, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr("sys.stderr", io.StringIO())  # what has no encoding stays
    console.print_on_any_encoding()
    print("✓ 2.5 µm² → −3 … é Ā 細 ·", end="", flush=True)
    assert raw.getvalue() == written
    # names of files that are no UTF-8 can be printed anywhere
    print("\udce4", end="", flush=True)
    assert raw.getvalue()[len(written) :] == ("ä" if encoding != "ascii" else "a").encode(
        encoding
    )
