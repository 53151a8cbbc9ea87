"""Waves of learning in a real engine process: results, giving way, and being killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.conftest import PATIENCE, call

from napari_sa2net.app.cells import CellSource
from napari_sa2net.app.correct import CorrectController
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.live import LiveController
from napari_sa2net.app.session import ImageSource, Session
from napari_sa2net.config import InstanceConfig, LiveConfig, PredictConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.engine import messages as p

pytestmark = pytest.mark.timeout(600)
SMALL = PredictConfig(tile=192, precision="float32", rescale=False)
SHAPE = (200, 240)


@pytest.fixture(scope="module")
def image() -> Any:
    """Dark cells on bright ground, which the model does not know."""
    return 255 - synthetic_nuclei(SHAPE, 30, seed=5)[0]


@pytest.fixture(scope="module")
def truth() -> Any:
    return synthetic_nuclei(SHAPE, 30, seed=5)[1].astype(np.int32)


def asked(image: Any, truth: Any, model: Path, **more: Any) -> dict[str, Any]:
    counts = np.zeros(SHAPE, bool)
    counts[:, :120] = True
    labels = np.where(counts, truth, 0)
    reviewed = tuple(np.unique(labels)[1:].tolist())
    return {
        "image": image,
        "model": str(model),
        "predict": SMALL,
        "labels": labels,
        "counts": counts,
        "areas": np.zeros(SHAPE, bool),
        "reviewed": reviewed,
        "config": LiveConfig(steps=6),
        "window": p.Window(None, (0, SHAPE[0], 0, SHAPE[1])),
        **more,
    }


def test_a_wave_proposes_what_it_has_learned(
    engine: Any, image: Any, truth: Any, tiny_model: Path
) -> None:
    result = engine.result(call("wave", "live", **asked(image, truth, tiny_model)))
    rows, cols = result.patch.pixels()
    assert rows.size
    assert not (truth[rows, cols][cols < 100] > 0).any()
    assert result.n_learned > 3
    assert result.n_judged == 0
    assert result.provenance["live"]["cells"] == result.n_learned
    assert result.provenance["model"]["name"]
    said = {e.what for e in engine.of(p.Progress)}
    assert "learning from cells" in said
    again = engine.result(call("wave", "live", **asked(image, truth, tiny_model)))
    np.testing.assert_array_equal(again.patch.rows, result.patch.rows)


def test_it_gives_way_and_what_is_quick_is_answered_meanwhile(
    engine: Any, image: Any, truth: Any, tiny_model: Path
) -> None:
    segment = call("segment", "s", image=image, model=str(tiny_model), predict=SMALL)
    engine.result(segment)
    wave = engine.submit(call("wave", "live", **asked(image, truth, tiny_model)))
    engine.wait(lambda e: isinstance(e, p.Progress) and e.job == wave and "learning" in e.what)
    quick = engine.submit(call("derive", "s", instances=InstanceConfig(foreground=0.6)))
    other = engine.submit(call("segment", image=image, model=str(tiny_model), predict=SMALL))
    assert isinstance(engine.answer(quick), p.Call)
    assert isinstance(engine.answer(wave), p.WasCancelled | p.Call)
    assert isinstance(engine.answer(other), p.Call)
    order = [e.job for e in engine.events if isinstance(e, p.Call | p.WasCancelled)]
    assert order.index(wave) < order.index(other)


def test_what_corrections_cannot_teach_is_said(
    engine: Any, image: Any, truth: Any, tiny_model: Path
) -> None:
    nothing = asked(image, truth, tiny_model, counts=np.zeros(SHAPE, bool))
    event = engine.answer(engine.submit(call("wave", "live", **nothing)))
    assert isinstance(event, p.Failed)
    assert event.kind == "TrainingDataError"


@pytest.fixture
def desk(
    image: Any,
    truth: Any,
    tiny_model: Path,
    tmp_path: Path,
    warm_engines: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[CorrectController, LiveController, Any]]:
    """Controllers with an engine of their own, and the labels that they correct."""
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))
    monkeypatch.setattr("napari_sa2net.app.live.REST_S", 0.2)
    lock = threading.RLock()

    def dispatch(act: Callable[[], None]) -> None:
        with lock:
            act()

    session = Session()
    session.model, session.predict = str(tiny_model), SMALL
    link = EngineLink(session, dispatch=dispatch)
    source = ImageSource("image", "dark cells", image)
    session.image = source
    labels = np.where(np.arange(SHAPE[1]) < 150, truth, 0).astype(np.int32)
    correct = CorrectController(link)
    live = LiveController(correct)
    live.config = LiveConfig(steps=6)
    correct.set_cells(CellSource("cells", "cells", labels, corner=(0, 0), image=source))
    link.client.start()
    yield correct, live, labels
    live.close()
    correct.close()
    link.close()


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def test_killed_in_mid_wave_the_next_begins_from_the_corrections(desk: Any) -> None:
    correct, live, labels = desk
    for label in np.unique(labels[:, :120])[1:9].tolist():
        assert correct.accept(label)
    before = labels.copy()
    progress: list[str] = []
    handle = correct.link._handle
    correct.link._handle = lambda e: (
        progress.append(e.what) if isinstance(e, p.Progress) else None,
        handle(e),
    )
    live.set_on(True)
    until(lambda: "learning from cells" in progress)
    os.kill(correct.link.client.pid, signal.SIGKILL)
    until(lambda: live.state.words.startswith("Wave 1: "))
    session = correct.session
    assert [record["wave"] for record in session.waves] == [1]
    reviewed = list(session.corrections.marked())
    for label in reviewed:
        np.testing.assert_array_equal(labels == label, before == label)
    assert (labels != before).any()
    assert live.undo()
    np.testing.assert_array_equal(labels, before)
