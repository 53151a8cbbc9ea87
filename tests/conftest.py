"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

# Threads of torch that wait by spinning make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core of its own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Preferences of this process alone: not the person's, nor those of the other workers.
_preferences = tempfile.TemporaryDirectory(prefix="napari-", ignore_cleanup_errors=True)
os.environ["NAPARI_CONFIG"] = str(Path(_preferences.name) / "settings.yaml")


# Collecting leaves no garbage: the search for it takes a quarter of the time.
gc.disable()


def pytest_collection_finish() -> None:
    """What collecting made stays: Python need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def files_not_flushed() -> Iterator[None]:
    """No test pulls the plug: what it writes needs not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of data and reference numbers beside the project; skips where it is absent."""
    folder = Path(
        os.environ.get("SA2NET_DATA") or Path(__file__).parent.parent.parent / "shared"
    )
    if not folder.is_dir():
        pytest.skip("no folder of shared data (set SA2NET_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """File of a base 4 network that finds synthetic nuclei; see make_tiny_model.py."""
    return Path(__file__).with_name("tiny.safetensors")


@pytest.fixture(scope="session")
def other_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in a file of another content."""
    from napari_sa2net.models.file import open_model, save_model

    model = open_model(tiny_model)
    card = model.card.model_copy(update={"description": "another"})
    path = tmp_path_factory.mktemp("other") / "tiny.safetensors"
    return save_model(path, model.net, card)


class WarmEngine:
    """A forked engine: what `engine.process` asks of `subprocess.Popen`."""

    def __init__(self, pid: int, stdin: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid, self.stdin, self.stderr = pid, stdin, stderr
        self.returncode: int | None = None
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        with self._waiting:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        end = time.monotonic() + timeout
        with contextlib.suppress(ProcessLookupError):
            ended = os.pidfd_open(self.pid)
            try:
                seconds = None if timeout == float("inf") else timeout
                select.select([ended], [], [], seconds)
            finally:
                os.close(ended)
        # another thread may be asking, too
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(["engine"], timeout)
            time.sleep(0.005)
        return status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, 9)


class WarmEngines:
    """Forks engines from a process that has imported torch: a start takes no seconds."""

    def __init__(self) -> None:
        from napari_sa2net.engine.process import _environment

        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name("warm_engine.py")),
                    "napari_sa2net",
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
            )
        self._path = _environment()["PYTHONPATH"]
        self._one = threading.Lock()

    def start(self, command: list[str], **options: Any) -> Any:
        """In the place of `subprocess.Popen`, for the engine of this Python."""
        environment = options["env"]
        if command[0] != sys.executable or environment["PYTHONPATH"] != self._path:
            return subprocess.Popen(command, **options)
        stdin, to_stdin = os.pipe()
        from_stderr, stderr = os.pipe()
        message = json.dumps(environment).encode()
        with self._one:
            socket.send_fds(self._socket, [message], [stdin, stderr])
            pid = int(self._socket.recv(20))
        os.close(stdin)
        os.close(stderr)
        return WarmEngine(pid, os.fdopen(to_stdin, "wb"), os.fdopen(from_stderr, "rb"))

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


@pytest.fixture(scope="session")
def warm_engine_maker() -> Iterator[WarmEngines | None]:
    """What engines are forked from, where the system can do that."""
    engines = WarmEngines() if sys.platform.startswith("linux") else None
    yield engines
    if engines is not None:
        engines.close()


def _warm(maker: WarmEngines | None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if maker is not None:
            ours = SimpleNamespace(**{**vars(subprocess), "Popen": maker.start})
            patch.setattr("napari_sa2net.engine.process.subprocess", ours)
        yield


@pytest.fixture(scope="module")
def warm_engines(warm_engine_maker: WarmEngines | None) -> Iterator[None]:
    """Engines start at once, where the system can do that; else as they always do."""
    yield from _warm(warm_engine_maker)


@pytest.fixture
def started_warm(warm_engine_maker: WarmEngines | None) -> Iterator[None]:
    """The same for one test of a module in which others ask how an engine starts."""
    yield from _warm(warm_engine_maker)
