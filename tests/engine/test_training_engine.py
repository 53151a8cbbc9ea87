"""Fine-tuning in an engine of its own: news, pause, resume, stop."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from tests.engine.conftest import call

from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.engine import messages as p
from napari_sa2net.models.registry import find_model, list_models

CONFIG = FineTuneConfig(
    steps=1000,
    rounds=1000,
    patience=1000,
    batch_size=2,
    crop=48,
    replay=0,
    held_out=0.4,
    max_scored=1,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The engine of a module inherits it, so it is set before that starts."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="module")
def corrections(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corrections")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i in range(2):
        image, labels = synthetic_nuclei((64, 64), n=5, diameter=22, seed=i)
        tifffile.imwrite(folder / "images" / f"{i}.tif", image)
        tifffile.imwrite(folder / "labels" / f"{i}.tif", labels.astype(np.uint16))
    return folder


def asked_of(folder, base, name):
    return {"training_set": str(folder), "base": str(base), "config": CONFIG, "name": name}


def news_of(engine, job):
    return [e for e in engine.of(p.TrainProgress) if e.job == job]


def test_learn_pause_go_on_and_stop(home, corrections, engine, tiny_model):
    asked = asked_of(corrections, tiny_model, "child")
    job = engine.submit(call("fine_tune", **asked, preview=True))
    first = engine.wait(lambda e: isinstance(e, p.TrainProgress) and e.preview)
    plans = [e.plan for e in news_of(engine, job) if e.plan]
    assert len(plans) == 1
    assert plans[0].steps == 1000
    engine.client.submit(p.Pause(job))
    paused = engine.answer(job)
    assert isinstance(paused, p.Call), paused
    assert paused.result.paused
    assert paused.result.run == first.run
    points = [point for e in news_of(engine, job) for point in e.losses]
    assert [point.step for point in points] == list(range(1, len(points) + 1))
    assert find_model("child") is None

    again = engine.submit(call("resume_fine_tuning", run=first.run))
    engine.wait(
        lambda e: (
            isinstance(e, p.TrainProgress)
            and e.job == again
            and e.losses
            and e.losses[-1].step > len(points)
        )
    )
    # The curves begin with what was there before the pause.
    old = news_of(engine, again)[0]
    assert old.losses == tuple(points)
    engine.client.submit(p.StopAndKeep(again))
    done = engine.answer(again)
    assert isinstance(done, p.Call), done
    result = done.result
    assert result.model == "child"
    assert result.verdict.text
    assert result.held_out.before.n > 0
    # Where it went is what was said of it.
    entry = find_model("child")
    assert str(entry.path) == result.path
    assert entry.aside is not result.promoted
    assert ("child" in [e.name for e in list_models()]) is result.promoted


def test_cancelled_and_failed_jobs_say_so(home, corrections, engine, tiny_model):
    job = engine.submit(call("fine_tune", **asked_of(corrections, tiny_model, "gone")))
    engine.wait(lambda e: isinstance(e, p.TrainProgress) and e.job == job and e.losses)
    engine.client.cancel(job, force=False)
    assert isinstance(engine.answer(job), p.WasCancelled)
    nowhere = asked_of(home / "nowhere", tiny_model, "lost")
    failed = engine.answer(engine.submit(call("fine_tune", **nowhere)))
    assert isinstance(failed, p.Failed)
    assert failed.kind == "TrainingDataError"
    assert "not a folder" in failed.message
