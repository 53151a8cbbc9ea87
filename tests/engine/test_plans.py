"""What one click on Segment does with the image: how often it is planned, what holds it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.segment import SegmentController
from napari_sa2net.app.session import ImageSource, Session
from napari_sa2net.config import PredictConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.plan import plan_image
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.arrays import prepare
from napari_sa2net.engine.service import Handlers

ROOT = Path(__file__).parents[2]


class Quiet:
    """A server that nobody listens to."""

    def send(self, event: Any) -> None: ...
    def between(self) -> None: ...
    def cancelled(self, job: int) -> Any:
        return lambda: False

    def read_region(self, source: str, key: Any) -> Any:
        raise AssertionError("small images are copied")


class BothEnds:
    """A client with the engine's work in the same process and thread."""

    def __init__(self, on_event: Any) -> None:
        self.on_event = on_event
        self.handlers = Handlers(Quiet())  # type: ignore[arg-type]

    def start(self) -> None:
        self.on_event(p.Ready(self.handlers.info("cpu")))

    def restart(self) -> None: ...
    def cancel(self, job: int, force: bool = True) -> None: ...
    def close(self) -> None: ...
    def submit(self, request: p.Request) -> None:
        if isinstance(request, p.Call) and request.name == "segment":
            result = self.handlers.run(prepare(request, {}))
            self.on_event(request.done(result))


def opened(model: Path) -> tuple[Session, SegmentController]:
    session = Session(model=str(model), predict=PredictConfig(device="cpu"))
    controller = SegmentController(EngineLink(session, make_client=BothEnds))
    controller.start()
    return session, controller


@pytest.mark.parametrize("shape", [(96, 112), (2, 3, 48, 56)])
def test_a_click_plans_the_image_once_at_each_end(
    tiny_model: Path, shape: tuple[int, ...]
) -> None:
    plane = synthetic_nuclei(shape[-2:], n=6, diameter=20, seed=0)[0]
    image = np.broadcast_to(plane, shape).copy()
    session, controller = opened(tiny_model)
    axes, channels = ("YX", None) if image.ndim == 2 else ("TCYX", (1,))
    controller.set_image(ImageSource("image", "image", image, axes, channels))
    plans: list[str] = []

    def hear(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is plan_image.__code__:
            assert frame.f_back is not None
            plans.append(frame.f_back.f_code.co_name)

    sys.setprofile(hear)
    try:
        assert controller.segment() is not None
    finally:
        sys.setprofile(None)
    assert session.error is None
    assert session.summary is not None
    assert 1 <= len(plans) <= 2, plans
    controller.close()


def test_the_classes_that_hold_the_image_are_those_of_the_page(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.bench_click import SIZE, WANTED_WRAPPERS, Trace

    session, controller = opened(tiny_model)
    image = synthetic_nuclei((SIZE, SIZE), n=30, diameter=20, seed=0)[0]
    trace = Trace()
    controller.result_ready.connect(lambda _: setattr(trace, "on", False))
    trace.on = True
    try:
        controller.set_image(ImageSource("image", "image", image, "YX"))
        assert controller.segment() is not None
    finally:
        trace.stop()
    assert session.error is None
    assert not trace.on
    controller.close()
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\| `.*\n)+", page.split("## Two corridors")[1], re.M)
    named = [re.findall(r"^\| `([\w.]+)`", rows, re.M) for rows in tables]
    image_classes, more = named[:2]
    assert set(trace.figures()["wrappers"]) == {f"napari_sa2net.{c}" for c in image_classes}
    assert len(image_classes) <= WANTED_WRAPPERS
    assert len(more) <= 12
    for name in more:
        module, _, last = name.rpartition(".")
        assert getattr(importlib.import_module(f"napari_sa2net.{module}"), last)
