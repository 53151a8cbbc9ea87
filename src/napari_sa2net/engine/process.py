"""One engine process, from its start to its end: process, pipe, folders."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from multiprocessing.connection import Client, Listener
from pathlib import Path

from filelock import BaseFileLock

import napari_sa2net
from napari_sa2net.engine.arrays import ArrayPipe
from napari_sa2net.errors import EngineError, OutputError
from napari_sa2net.files import take_lock

EXIT_NO_TORCH = 4
"""The engine's exit status when torch cannot be imported: starting again is no use."""

_LAST_LINES = 40

MEMORY = Path("/dev/shm")
"""Folder in memory; where there is none, arrays go to the temporary folder."""
_PREFIX, _LOCK = "napari-sa2net-", "lock"


class Link:
    """A running engine process and the pipe to it.

    The constructor starts the process; `connect` waits for it. Both are for a background
    thread.

    Attributes
    ----------
    process
        The engine.
    pipe
        To it, once it is connected.
    folders
        For arrays and, the last, for all that is temporary; gone at the end.
    ended
        The folders are gone, or about to go.

    Raises
    ------
    EngineError
        The process cannot be started.
    """

    def __init__(self, python: str, memory: int = 0) -> None:
        sweep()
        self.pipe: ArrayPipe = None  # type: ignore[assignment]  # set by connect
        self.ended = False
        self._stderr: deque[str] = deque(maxlen=_LAST_LINES)
        self._ending = threading.Lock()
        self._listener: Listener | None = None
        self._locks: list[BaseFileLock] = []
        self.folders: list[str] = []
        self._make_folders()
        key = secrets.token_bytes(32)
        try:
            if os.name == "nt":
                name = secrets.token_hex(8)
                self._address = rf"\\.\pipe\napari-sa2net-{name}"
                self._listener = Listener(self._address, "AF_PIPE", authkey=key)
            else:
                self._address = str(Path(self.folders[-1]) / "pipe")
                self._listener = Listener(self._address, "AF_UNIX", authkey=key)
            self.process = subprocess.Popen(
                # -P: a file torch.py in the current folder must not be taken for torch.
                [python, "-P", "-X", "faulthandler", "-m", "napari_sa2net.engine"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
                # Windows only, both are 0 elsewhere: no console, and napari goes first.
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0)
                | getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0),
            )
        except OSError as error:
            self.free()
            raise EngineError(
                f"The background process could not be started with {python} ({error}). Check "
                "that this Python is still there and that the temporary folder can be written."
            ) from error
        self._reader = threading.Thread(
            target=self._read_stderr, name="sa2net-stderr", daemon=True
        )
        self._reader.start()
        hello = {
            "address": self._address,
            "key": key.hex(),
            "folders": self.folders,
            "memory": memory,
        }
        assert self.process.stdin is not None
        # If it has died already, connect says so.
        with contextlib.suppress(OSError), self.process.stdin as stdin:
            stdin.write(json.dumps(hello).encode() + b"\n")

    def _make_folders(self) -> None:
        """In memory, where that can be, and in the temporary folder; locked against `sweep`."""
        for parent in (MEMORY, Path(tempfile.gettempdir())):
            try:
                self.folders.append(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            except OSError as error:
                if parent is not MEMORY:
                    self.free()
                    raise EngineError(
                        f"{parent} cannot be written ({error}). Make room there, or set TMPDIR "
                        "to another folder, and restart napari."
                    ) from error
                continue
            with contextlib.suppress(OutputError):
                lock = take_lock(Path(self.folders[-1]) / _LOCK)
                self._locks += [lock] if lock is not None else []

    def connect(self) -> None:
        """Wait until the engine has called back.

        Raises
        ------
        EngineError
            It ended before it did.
        """
        threading.Thread(target=self._unblock, name="sa2net-watch", daemon=True).start()
        listener = self._listener
        assert listener is not None
        while self.pipe is None:
            try:
                self.pipe = ArrayPipe(listener.accept(), self.folders)
            except (OSError, EOFError, ConnectionError):
                pass
            except Exception as error:
                # A wrong key: not our engine; wait for ours.
                if type(error).__name__ != "AuthenticationError":
                    raise
            if self.pipe is None and self.process.poll() is not None:
                raise EngineError("The background process ended before it was ready.")
        listener.close()

    def _unblock(self) -> None:
        self.process.wait()
        if self.pipe is None:
            self._wake()

    def _wake(self) -> None:
        """``accept`` has no timeout, and closing does not end it: call ourselves."""
        with contextlib.suppress(Exception):
            Client(self._address).close()

    def kill(self) -> None:
        """End the process by force."""
        with contextlib.suppress(OSError):
            self.process.kill()

    def end(self, grace: float = 1.0) -> int:
        """Wait for the process, by force after ``grace`` seconds; free all. Its status."""
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
        self.free()
        return self.process.returncode

    def free(self) -> None:
        """Free pipe and folders; for a process that has ended."""
        # Whoever comes second waits: at the interpreter's end the first may be a thread that
        # stops with it.
        with self._ending:
            if self.ended:
                return
            self.ended = True
            if self._listener is not None and self.pipe is None:
                self._wake()
            for one in (self._listener, self.pipe):
                if one is not None:
                    with contextlib.suppress(OSError):
                        one.close()
            for lock in self._locks:
                lock.release()
            for folder in self.folders:
                shutil.rmtree(folder, ignore_errors=True)

    def last_words(self) -> str:
        """The end of what the engine wrote to stderr; of a process that has ended."""
        # not for ever: a process that it has started may hold the pipe open
        self._reader.join(1.0)
        return "".join(self._stderr).strip()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self._stderr.append(line.decode(errors="replace"))


def sweep() -> None:
    """Remove the folders of sessions that were killed together with their engine."""
    for parent in (MEMORY, Path(tempfile.gettempdir())):
        for path in parent.glob(f"{_PREFIX}*/{_LOCK}"):
            with contextlib.suppress(OutputError):
                lock = take_lock(path)
                if lock is not None:
                    lock.release()
                    shutil.rmtree(path.parent, ignore_errors=True)


def describe_end(status: int) -> str:
    """What an exit status means, and what to do."""
    if status == EXIT_NO_TORCH:
        return (
            "PyTorch cannot be loaded in this Python. Install it with: pip install torch "
            "(see pytorch.org for GPUs), then press Restart."
        )
    if status == -9:
        what = "was killed (signal 9), as the system does when memory runs out"
    elif status < 0:
        what = f"crashed (signal {-status})"
    else:
        what = f"ended unexpectedly (status {status})"
    return (
        f"The background process {what}. Your layers are safe. Run again; if it happens again, "
        "choose smaller pieces or another device under Advanced."
    )


def _environment() -> dict[str, str]:
    """Ours, with patient threads, and the folder that this package was imported from."""
    environment = dict(os.environ)
    package_home = str(Path(napari_sa2net.__file__).resolve().parent.parent)
    path = environment.get("PYTHONPATH", "")
    # Threads that wait for the next layer by spinning keep napari from drawing, and where
    # anything else runs they hold up the network itself: twelve times, measured on 2 cores.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (path, package_home) if p)
    return environment
