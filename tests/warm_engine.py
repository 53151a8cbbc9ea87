"""Forks engines that have torch already; started by the fixture ``warm_engines``.

``python warm_engine.py napari_sa2net FD``: each message on the socket FD is an environment as
JSON, with the engine's stdin and stderr; the answer is the engine's process number.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import json
import os
import socket
import sys
import time
from pathlib import Path

LONGEST = 1 << 20


def main() -> None:
    """Import what engines import, then fork whenever asked, until the tests are gone."""
    import lightning.pytorch  # noqa: F401
    import skimage.measure
    import skimage.segmentation  # noqa: F401

    import napari_sa2net.training.fine_tune  # noqa: F401
    from napari_sa2net.engine import service
    from napari_sa2net.models import read_card
    from napari_sa2net.training.material import reference_examples

    # kept per process, and the same in all of them: who learns need not draw it anew
    reference_examples(read_card(Path(__file__).with_name("tiny.safetensors")))

    # each engine times its network: as long as half of all that a test with a window does
    service.PROBE = 64

    gc.freeze()
    tests = os.getppid()
    with socket.socket(fileno=int(sys.argv[2])) as asked:
        while True:
            message, files, _, _ = socket.recv_fds(asked, LONGEST, 2)
            if not message:
                return
            if os.fork() == 0:
                # An engine ends with its parent, which the tests are to be: they adopt the
                # child of a child that has ended.
                if os.fork():
                    os._exit(0)
                while os.getppid() != tests:
                    time.sleep(0.001)
                asked.send(str(os.getpid()).encode())
                asked.close()
                become_engine(json.loads(message), files)
            for file in files:
                os.close(file)
            os.wait()


def become_engine(environment: dict[str, str], files: list[int]) -> None:
    """What ``python -m napari_sa2net.engine`` does, from where torch has been imported."""
    from napari_sa2net.engine.__main__ import main as engine

    status = 70
    try:
        os.dup2(files[0], 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(files[1], 2)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True)
        os.environ.clear()
        os.environ.update(environment)
        faulthandler.enable()
        status = engine()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
