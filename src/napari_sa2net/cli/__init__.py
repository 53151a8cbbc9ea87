"""``sa2net``: segment, score, train and manage models from the shell."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from cyclopts import App, CycloptsError, Parameter

from napari_sa2net import __version__
from napari_sa2net.cli import console
from napari_sa2net.cli.attention import attention
from napari_sa2net.cli.corrections import corrections
from napari_sa2net.cli.demo import demo
from napari_sa2net.cli.doctor import doctor
from napari_sa2net.cli.experiments import focal_study, reproduce
from napari_sa2net.cli.models import models
from napari_sa2net.cli.segment import segment
from napari_sa2net.cli.train import evaluate, train
from napari_sa2net.errors import SA2NetError

OK, SOME_FAILED, FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

app = App(
    name="sa2net",
    help="Cell and nucleus segmentation with SA2-Net.",
    help_epilogue=(
        "Exit codes: 0 all done, 1 some images failed, 2 wrong usage or nothing done, "
        "130 interrupted. With `--debug` errors show where they came from."
    ),
    version=__version__,
    # No --empty-NAME: a setting of several numbers is left out, not emptied.
    default_parameter=Parameter(negative_iterable=()),
)
for _command in (segment, attention, evaluate, train, reproduce, focal_study, demo, doctor):
    app.command(_command)
app.command(models)
app.command(corrections)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    arguments = list(arguments)
    debug = bool(os.environ.get("SA2NET_DEBUG"))
    if "--debug" in arguments:
        arguments.remove("--debug")
        debug = True
    try:
        code = app(
            arguments,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        console.usage_error(error)
        return FAILED
    except SA2NetError as error:
        if debug:
            raise
        console.error(str(error))
        return FAILED
    except BrokenPipeError:
        # `sa2net ... | head`: whoever read us has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:  # of a disk, wherever it is written to
        if debug:
            raise
        console.error(_of_disk(error))
        return FAILED
    return code if isinstance(code, int) else OK


def _of_disk(error: OSError) -> str:
    where = f"{error.filename!r}: " if error.filename else ""
    what = {
        errno.EACCES: "Check who may read and write there, or choose another folder.",
        errno.EPERM: "Check who may read and write there, or choose another folder.",
        errno.ENAMETOOLONG: "Give a shorter name.",
        errno.ELOOP: "This link leads back to itself: name the file or folder that is meant.",
    }.get(error.errno or 0, "Free space, or choose another folder.")
    return f"{where}{error.strerror or error}. {what}"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of ``sa2net``; always ends in :class:`SystemExit`."""
    # Threads that spin while they wait hold up one another wherever anything else runs. Read
    # when torch is loaded, which no command has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A batch system's kill unwinds like Ctrl-C does, so temporary files are removed.
    signal.signal(signal.SIGTERM, _terminate)
    console.print_on_any_encoding()
    try:
        code = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)
