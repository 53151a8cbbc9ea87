"""How often an image is planned for one click on Segment."""

from __future__ import annotations

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
            self.on_event(p.Done(request.job, result))


@pytest.mark.parametrize("shape", [(96, 112), (2, 3, 48, 56)])
def test_a_click_plans_the_image_once_at_each_end(
    tiny_model: Path, shape: tuple[int, ...]
) -> None:
    plane = synthetic_nuclei(shape[-2:], n=6, diameter=20, seed=0)[0]
    image = np.broadcast_to(plane, shape).copy()
    session = Session(model=str(tiny_model), predict=PredictConfig(device="cpu"))
    controller = SegmentController(EngineLink(session, make_client=BothEnds))
    controller.start()
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
