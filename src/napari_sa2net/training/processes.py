"""Processes that share each batch of a training: Lightning's DDP, where a run is no script.

The first is the process that was asked; the others are started here, read the same images, and
do what it does (`train.train_with`), but for writing.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed

from napari_sa2net.errors import SettingsError, TrainingError

_READY = b"ready\n"
#: Seconds that the others have to end when the first has.
_GRACE_S = 60
#: Seconds after a lost connection in which a process that ended is found out.
_NEWS_S = 5
_SCRIPT = "from napari_sa2net.training.train import follow; follow()"


@dataclass(frozen=True)
class Place:
    """Which of the processes this is, and where they meet; the only one, if unsaid."""

    rank: int = 0
    n: int = 1
    port: int = 0

    @property
    def is_first(self) -> bool:
        """Whether it is the one that was asked, which alone writes."""
        return self.rank == 0

    def share(self, length: int) -> range:
        """Which of so many things are its own."""
        return range(self.rank, length, self.n)

    def gather(self, mine: list[Any]) -> list[Any]:
        """Things of `share` from all processes, in their order."""
        if self.n == 1:
            return mine
        found: list[Any] = [None] * self.n
        distributed.all_gather_object(found, mine)
        length = sum(map(len, found))
        return [found[i % self.n][i // self.n] for i in range(length)]

    def options(self, device: torch.device) -> dict[str, Any]:
        """What Lightning's Trainer is told."""
        if self.n == 1:
            return {}
        strategy = DDPStrategy(
            cluster_environment=_Meeting(self),
            process_group_backend="nccl" if device.type == "cuda" else "gloo",
            # Statistics of the averaged weights are taken anew before they count, and
            # processes may have different numbers of images to validate with.
            broadcast_buffers=False,
        )
        return {"strategy": strategy, "devices": self.n, "use_distributed_sampler": False}


class _Meeting(LightningEnvironment):
    """All processes are of one machine and have been started."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self.place.port

    def local_rank(self) -> int:
        return self.place.rank

    def node_rank(self) -> int:
        return 0


def check(n: int, device: torch.device, batch_size: int) -> None:
    """See that so many processes can share a batch on this device.

    Raises
    ------
    SettingsError
    """
    if n == 1:
        return
    if not distributed.is_available() or device.type not in ("cpu", "cuda"):
        raise SettingsError(f"Training on {device.type} has one device: leave --devices out.")
    there = torch.cuda.device_count() if device.type == "cuda" else os.cpu_count() or 1
    if n > there:
        what = "GPUs" if device.type == "cuda" else "processor cores"
        raise SettingsError(f"--devices {n}: this machine has {there} {what}.")
    if device.type == "cuda" and device.index:
        raise SettingsError(
            f"--devices {n} takes the first {n} GPUs: give --device cuda without a number."
        )
    if batch_size % n:
        below = batch_size // n * n
        sizes = f"{below} or {below + n}" if below else f"{n}"
        raise SettingsError(
            f"--devices {n} cannot share batches of {batch_size} crops evenly: give a "
            f"--batch-size of {sizes}."
        )


@contextmanager
def shared(place: Place, n: int, device: torch.device, call: dict[str, Any]) -> Iterator[Place]:
    """All processes of a training, for the block in which they meet.

    Parameters
    ----------
    place : Place
        Of this process: the only one so far, or one that was started here.
    n : int
        How many there shall be.
    call : dict
        Arguments of `train_with`, as JSON has them, for those that are started.

    Raises
    ------
    TrainingError
        If one that was started has ended.
    """
    if n == 1:
        yield place
        return
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, threads // n))
    try:
        if place.is_first:
            with _others(n, call) as place:
                yield place
        else:
            sys.stdout.buffer.write(_READY)
            sys.stdout.buffer.flush()
            yield place
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        torch.set_num_threads(threads)


@contextmanager
def _others(n: int, call: dict[str, Any]) -> Iterator[Place]:
    place = Place(0, n, _free_port())
    with tempfile.TemporaryFile() as said:
        started = [_start(Place(rank, n, place.port), call, said) for rank in range(1, n)]

        def ended() -> str:
            """What one that has ended badly said; empty where none has."""
            if not any(process.poll() for process in started):
                return ""
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else "It was killed."

        try:
            for process in started:
                assert process.stdout is not None
                while (line := process.stdout.readline()) != _READY:
                    if not line:
                        process.wait()
                        raise RuntimeError("a process ended while it read the images")
            yield place
            for process in started:
                process.wait(_GRACE_S)
        except RuntimeError as error:
            # That a connection is lost is known before its process has ended.
            end = time.monotonic() + _NEWS_S
            while not (words := ended()) and time.monotonic() < end:
                time.sleep(0.1)
            if words:
                raise TrainingError(
                    f"One of the {n} processes that share the batches ended: {words} What was "
                    "saved stays: go on with --resume, or begin anew with fewer --devices."
                ) from error
            raise
        finally:
            for process in started:
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()


def _start(place: Place, call: dict[str, Any], said: Any) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
    )
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(json.dumps({"place": vars(place), "call": call}).encode())
    return process


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def told() -> tuple[Place, dict[str, Any]]:
    """What `shared` tells a process that it starts: its place, and how training was called."""
    # Ctrl-C is for the first process, which tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = json.load(sys.stdin)
    return Place(**asked["place"]), asked["call"]
