"""What the commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import codecs
import io
import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

import pydantic
from cyclopts import CycloptsError
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from napari_sa2net.files import readable, readable_all

#: Signs that old encodings lack, in signs that all have.
_PLAIN = {
    "✓": "ok",
    "✗": "x",
    "×": "x",
    "·": "-",
    "•": "-",
    "…": "...",
    "→": "->",
    "−": "-",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
    "≈": "~",
    "–": "-",
    "—": "-",
    "∞": "inf",
    "“": '"',
    "”": '"',
    "„": '"',
    "’": "'",
    "‘": "'",
    "²": "2",
    "³": "3",
    "⁷": "7",
    "µ": "u",
    "μ": "u",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "λ": "lambda",
    "σ": "sigma",
    "ψ": "psi",
    "φ": "phi",
    "Δ": "Delta",
}

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def print_on_any_encoding() -> None:
    """Nothing that is printed may fail for want of a sign in the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a test or a notebook put there
            name = f"sa2net-{stream.encoding}"
            codecs.register_error(name, partial(_in_other_signs, stream.encoding))
            stream.reconfigure(errors=name)


def _in_other_signs(encoding: str, error: UnicodeError) -> tuple[bytes, int]:
    """For signs that an encoding lacks: a stand-in, else the sign without accents, else ?."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    written = []
    for sign in readable(error.object[error.start : error.end]):
        plain = _PLAIN.get(sign) or unicodedata.normalize("NFKD", sign)
        for one in (sign, plain, plain[0], "?"):
            with suppress(UnicodeEncodeError):
                one.encode(encoding)
                written.append(one)
                break
    # Bytes, since for text UTF-8 takes ASCII alone here.
    return "".join(written).encode(encoding), error.end


def stdout() -> Console:
    """A console on the present stdout (made anew, so that redirection is seen)."""
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """A console on the present stderr."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line on stdout, as it is."""
    stdout().print(text, markup=False)


def one_line(text: str) -> str:
    """Text without line ends and what else moves a cursor, as names of files may hold."""
    return " ".join(_CONTROLS.sub(" ", text).split())


def error(message: str) -> None:
    """One line that says what is wrong and what to do."""
    stderr().print(Text.assemble(("error: ", "bold red"), one_line(message)))


def warning(message: str) -> None:
    """One line on something that may not be what the user wants."""
    stderr().print(Text.assemble(("note: ", "yellow"), one_line(message)))


def usage_error(problem: CycloptsError) -> None:
    """A mistake on the command line, in one line, with where to look."""
    cause = problem.__cause__
    if isinstance(cause, pydantic.ValidationError):
        argument = getattr(problem, "argument", None)
        # Settings within settings have flags of two parts: --unified-focal.gamma.
        within = argument.name if argument is not None and argument.names else ""
        message = settings_message(cause, within.strip("-*"))
    else:
        message = str(problem)
    chain = problem.command_chain or ()
    error(f"{message} (see: {' '.join(('sa2net', *chain))} --help)")


def settings_message(problem: pydantic.ValidationError, within: str = "") -> str:
    """Pydantic's complaint in the words of the flags, which are `within` another one's."""
    parts = []
    for item in problem.errors():
        flag = "-".join(str(part) for part in item["loc"]).replace("_", "-")
        flag = f"--{within}.{flag}" if within else f"--{flag}"
        parts.append(f"{flag} {item['input']}: {item['msg'].lower()}")
    return "; ".join(parts)


def print_json(value: Any) -> None:
    """One JSON document on stdout, nothing else."""
    json.dump(readable_all(value), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None
) -> None:
    """A plain table; all columns but the first are right-aligned."""
    view = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for position, column in enumerate(columns):
        view.add_column(
            column, justify="left" if position == 0 else "right", overflow="fold", no_wrap=False
        )
    for row in rows:
        view.add_row(*(Text(cell) for cell in row))
    console = stdout()
    if not console.is_terminal:
        # A pipe has no width; cells must not be folded at a guess of 80 columns.
        console.width = 200
    console.print(view, soft_wrap=False)


# --------------------------------------------------------------------------------------------
# Progress of a batch: images done, and how far the present one is.


class _Bars:
    """Bars on a terminal, while a block runs."""

    def __init__(self, quiet: bool, *more: ProgressColumn) -> None:
        self.console = view = stderr()
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}", justify="right"),
            *more,
            TimeRemainingColumn(),
            console=view,
            transient=True,
            disable=quiet or not view.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class BatchProgress(_Bars):
    """Two bars on a terminal, one line per image anywhere.

    Parameters
    ----------
    total : int
        Number of images.
    quiet : bool
        Print nothing at all.
    """

    def __init__(self, total: int, quiet: bool = False) -> None:
        super().__init__(quiet, TimeElapsedColumn())
        self._total = total
        self._done = 0
        self._name = ""
        self._images = self._progress.add_task("images", total=total, amount=f"0/{total}")
        self._present = _Phases(self._progress, visible=False)

    def begin(self, name: str) -> None:
        """The next image starts."""
        name = one_line(name)
        self._name = name
        self._present.show(0, 0, name)

    def step(self, done: int, total: int, what: str) -> None:
        """Callback of the prediction: what goes on with the present image, and how far."""
        self._present.show(done, total, f"{self._name}: {what}")

    def tell(self, message: str) -> None:
        """How far it is, where no bar shows it."""
        if not self._quiet and not self.console.is_terminal:
            self.console.print(one_line(message), markup=False)

    def note(self, name: str, message: str) -> None:
        """Something about the present image that the user should know."""
        if not self._quiet:
            line = Text.assemble((f"{one_line(name)}: ", "yellow"), one_line(message))
            self._progress.console.print(line)

    def end(self, name: str, message: str, style: str = "") -> None:
        """The present image is finished, skipped or failed."""
        self._done += 1
        amount = f"{self._done}/{self._total}"
        self._progress.update(self._images, completed=self._done, amount=amount)
        if not self._quiet:
            count = f"[{self._done}/{self._total}] "
            line = Text.assemble(
                (count, "dim"), f"{one_line(name)}: ", (one_line(message), style)
            )
            self._progress.console.print(line)


class StepProgress(_Bars):
    """One bar for one job, on a terminal only; none of a quiet one."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self._phases = _Phases(self._progress)

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
