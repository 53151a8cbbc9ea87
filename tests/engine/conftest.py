"""A real engine process, and a recorder of its events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from napari_sa2net.engine import messages as p
from napari_sa2net.engine.client import EngineClient

PATIENCE = 150.0
"""Seconds; an engine starts in three on an idle machine, and ours are not always idle."""


def call(function: str, key: str = "", /, **arguments: Any) -> Callable[[int], p.Call]:
    """What `Engine.submit` and `Engine.result` take, of a call."""
    return lambda job: p.Call(job, function, arguments, key)


class Engine:
    """A client with its events; `wait` for one of them."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._changed = threading.Condition()
        self._job = 0
        self.client = EngineClient(self._on_event)

    def _on_event(self, event: p.Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, found: Callable[[Any], bool], timeout: float = PATIENCE) -> Any:
        """The first event, of all so far or to come, that is the one."""

        def first() -> Any:
            return next((event for event in self.events if found(event)), None)

        with self._changed:
            assert self._changed.wait_for(first, timeout), f"only {self.events}"
            return first()

    def kind(self, kind: type, nth: int = 0) -> Any:
        """The nth event of a class."""
        with self._changed:
            come = self._changed.wait_for(lambda: len(self.of(kind)) > nth, PATIENCE)
            assert come, f"no {kind.__name__} in {self.events}"
            return self.of(kind)[nth]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def submit(self, make: Callable[[int], p.Call]) -> int:
        self._job += 1
        self.client.submit(make(self._job))
        return self._job

    def answer(self, job: int) -> Any:
        """The job's last event."""
        last = (p.Call, p.Failed, p.WasCancelled)
        return self.wait(lambda event: isinstance(event, last) and event.job == job)

    def result(self, make: Callable[[int], p.Call]) -> Any:
        """Submit and wait for success."""
        event = self.answer(self.submit(make))
        assert isinstance(event, p.Call), event
        return event.result


@pytest.fixture(scope="module")
def engine(warm_engines: None) -> Iterator[Engine]:
    """One engine for all tests of a module."""
    one = Engine()
    one.client.start()
    one.kind(p.Ready)
    yield one
    one.client.close(10)


@pytest.fixture
def new_engine(started_warm: None) -> Iterator[Engine]:
    """An engine that has not been started."""
    one = Engine()
    yield one
    one.client.close(10)


def held(client: EngineClient) -> list[str]:
    """Files of arrays under way, and memory maps of those that the engine holds."""
    assert client._link is not None
    files = [
        str(path) for folder in client._link.folders for path in Path(folder).glob("*.npy")
    ]
    maps = Path(f"/proc/{client.pid}/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return files + [line.split()[5] for line in lines if "napari-sa2net-" in line]


@pytest.fixture(name="held")
def _held() -> Callable[[EngineClient], list[str]]:
    return held


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(name="alive")
def _alive() -> Callable[[int], bool]:
    return alive
