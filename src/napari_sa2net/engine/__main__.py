"""``python -m napari_sa2net.engine``: started by the client, which tells where to call."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from multiprocessing.connection import Client

from napari_sa2net.engine.process import EXIT_NO_TORCH
from napari_sa2net.engine.server import Server

NICENESS = 5
"""napari draws first; on an idle machine the engine is as fast as without."""


def main() -> int:
    """Call the client back and serve it until it is gone; the exit status."""
    if sys.stdin is None or sys.stdin.isatty():
        print("This is the engine of napari-sa2net; napari starts it.", file=sys.stderr)
        return 2
    line = sys.stdin.readline()
    if not line:
        return 3
    hello = json.loads(line)
    # Ctrl-C in the terminal is for napari; the engine ends when napari's pipe closes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(NICENESS)
    # Everything temporary goes where whoever survives the other removes it.
    folders = hello["folders"]
    tempfile.tempdir = folders[-1]
    try:
        connection = Client(hello["address"], authkey=bytes.fromhex(hello["key"]))
    except (OSError, EOFError):
        # napari has gone already, perhaps without the time to clean up.
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        return 3
    server = Server(connection, folders)
    server.listen()
    try:
        # Here, after listening: it takes seconds, and the client may go away meanwhile.
        import torch  # noqa: F401
    except (ImportError, OSError):
        import traceback

        traceback.print_exc()
        return EXIT_NO_TORCH
    from napari_sa2net.engine.service import Handlers

    server.work(Handlers(server, hello["memory"]))
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Not sys.exit: no thread of torch's or ours shall hold up the end.
    os._exit(status)
