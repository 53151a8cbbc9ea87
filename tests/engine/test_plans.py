"""How often an image is planned on its way to the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from napari_sa2net.config import PredictConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.arrays import Sources, prepare
from napari_sa2net.engine.service import Handlers


class Quiet:
    """A server that nobody listens to."""

    def send(self, event: Any) -> None: ...
    def between(self) -> None: ...
    def cancelled(self, job: int) -> Any:
        return lambda: False

    def read_region(self, source: str, key: Any) -> Any:
        raise AssertionError("small images are copied")


def test_a_run_plans_its_image_once_at_each_end(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[object] = []
    begin = ImagePlan.__init__

    def plan(self: ImagePlan, *args: Any) -> None:
        plans.append(self)
        begin(self, *args)

    monkeypatch.setattr(ImagePlan, "__init__", plan)
    image = synthetic_nuclei((96, 112), n=6, diameter=20, seed=0)[0]
    request = p.Segment(
        1, image, str(tiny_model), predict=PredictConfig(device="cpu"), keep_as="run"
    )
    wire = prepare(request, Sources())
    assert len(plans) == 1
    Handlers(Quiet()).run(wire)  # type: ignore[arg-type]
    assert len(plans) == 2
