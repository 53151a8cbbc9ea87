"""A desk to correct at, without a window."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sa2net.app.cells import CellSource
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.session import ImageSource, Session


class Client:
    """Takes requests; a test answers them."""

    def __init__(self, on_event: Any) -> None:
        self.on_event = on_event
        self.requests: list[Any] = []

    def start(self) -> None: ...
    def restart(self) -> None: ...
    def submit(self, request: Any) -> None:
        self.requests.append(request)

    def cancel(self, job: int, force: bool = True) -> None: ...
    def close(self) -> None: ...


class Desk:
    """A controller on cells over an image, and the tests' side of the engine."""

    def __init__(self, labels: Any, image: Any = None, **source: Any) -> None:
        self.link = EngineLink(Session(), make_client=Client)
        self.client: Any = self.link.client
        self.controller = CorrectController(self.link)
        self.state = self.controller.state
        self.image = ImageSource(
            "image", "nuclei Ü 3", labels.astype(np.float32) if image is None else image
        )
        self.link.session.image = self.image
        fields: dict[str, Any] = {"corner": (0,) * labels.ndim, "image": self.image}
        self.source = CellSource("cells", "my cells", labels, **{**fields, **source})
        self.controller.set_cells(self.source)

    def settle(self) -> None:
        """Wait for the background."""
        done = threading.Event()
        self.controller._files.run(lambda: None, lambda _: done.set(), lambda _: done.set())
        assert done.wait(30)

    def keep(self) -> list[Any]:
        future = self.controller.keeping.keep()
        assert future is not None, self.state.said
        records = future.result(30)
        self.settle()
        assert self.link.session.error is None
        return records


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def desks(home: Path) -> Iterator[Any]:
    made: list[Desk] = []

    def make(*args: Any, **kwargs: Any) -> Desk:
        made.append(Desk(*args, **kwargs))
        return made[-1]

    yield make
    for desk in made:
        desk.controller.close()


@pytest.fixture(autouse=True)
def _warm(warm_engines: None) -> None:
    """What an engine does is asked here; that it starts is asked in ``engine``."""
