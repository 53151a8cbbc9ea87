"""The engine dies, hangs, or loses its parent: nothing stays behind, and it comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.engine.conftest import call

from napari_sa2net.config import PredictConfig
from napari_sa2net.engine import client as client_module
from napari_sa2net.engine import messages as p
from napari_sa2net.engine import process
from napari_sa2net.engine.client import EngineClient

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals"),
    pytest.mark.timeout(500),
]

LARGE = np.random.default_rng(0).integers(0, 255, (1500, 1500), np.uint8)
SMALL = PredictConfig(tile=192)


def until(condition, timeout=30.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_starting_and_closing_do_not_block(new_engine, monkeypatch):
    """Both return while the engine cannot even begin to start."""
    gate, waited = threading.Event(), []

    class Held(client_module.Link):
        def __init__(self, python, memory):
            waited.append((gate.wait(60), memory))
            super().__init__(python, memory)

    monkeypatch.setattr(client_module, "Link", Held)
    new_engine.client.memory = 2**29
    new_engine.client.start()
    new_engine.kind(p.Starting)
    # In the middle of the start.
    new_engine.client.close()
    assert waited == []
    gate.set()
    new_engine.client.close(20)
    assert waited == [(True, 2**29)]
    assert not [t for t in new_engine.client._threads if t.is_alive()]
    assert new_engine.client.pid is None


def test_killed_in_mid_run_it_says_so_and_comes_back(new_engine, tiny_model, alive):
    client = new_engine.client
    client.start()
    pid = new_engine.kind(p.Ready).info.pid
    folders = [Path(folder) for folder in client._link.folders]
    asked = {"model": str(tiny_model), "predict": SMALL}
    job = new_engine.submit(call("segment", "k", image=LARGE, **asked))
    new_engine.wait(lambda e: isinstance(e, p.Progress) and e.what == "segmenting")
    os.kill(pid, signal.SIGKILL)
    failed = new_engine.answer(job)
    assert failed.kind == "EngineError"
    assert "signal 9" in failed.message
    assert "Run again" in failed.message
    died = new_engine.kind(p.Died)
    assert died.restarting
    until(lambda: not any(folder.exists() for folder in folders))
    assert new_engine.kind(p.Ready, 1).info.pid != pid
    gone = new_engine.answer(new_engine.submit(call("derive", "k")))
    assert gone.kind == "NotKeptError"
    small = LARGE[:64, :64]
    again = new_engine.result(call("segment", image=small, model=str(tiny_model)))
    assert again.n_tiles == 1

    # A cancelled job that does not stop is stopped by force, here because all stands still.
    second = client.pid
    job = new_engine.submit(call("segment", image=LARGE, **asked))
    new_engine.wait(
        lambda e: isinstance(e, p.Progress) and e.job == job and e.what == "segmenting"
    )
    os.kill(second, signal.SIGSTOP)
    begun = time.monotonic()
    client.cancel(job)
    assert isinstance(new_engine.answer(job), p.WasCancelled)
    assert time.monotonic() - begun > 0.9 * client_module.GRACE_S
    assert new_engine.kind(p.Died, 1).message == ""
    until(lambda: not alive(second))
    assert new_engine.kind(p.Ready, 2).info.pid != second


def test_after_three_crashes_it_stays_down_until_restarted(tmp_path):
    """An interpreter that cannot run the engine."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\necho 'something is wrong' >&2\ntest -e {tmp_path}/good && "
        f'exec {sys.executable} "$@"\nexit 3\n'
    )
    python.chmod(0o755)
    events = []
    client = EngineClient(events.append, python=str(python))
    client.start()
    client.submit(p.Call(1, "warm_up"))
    died = [until(lambda: len(_of(events, p.Died)) == 3, 60)] and _of(events, p.Died)
    assert [d.restarting for d in died] == [True, True, False]
    assert "status 3" in died[-1].message
    assert "something is wrong" in died[-1].details
    until(lambda: _of(events, p.Failed))
    assert _of(events, p.Failed)[0].kind == "EngineError"
    client.submit(p.Call(2, "warm_up"))
    until(lambda: len(_of(events, p.Failed)) == 2)
    time.sleep(0.2)
    assert len(_of(events, p.Starting)) == 3
    (tmp_path / "good").touch()
    client.restart()
    until(lambda: _of(events, p.Ready), 150)
    client.close(10)


def _of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_without_an_interpreter_or_torch(tmp_path):
    events = []
    client = EngineClient(events.append, python=str(tmp_path / "missing"))
    client.start()
    until(lambda: len(_of(events, p.Died)) == 3, 60)
    assert "could not be started" in _of(events, p.Died)[-1].message
    client.close(10)
    # A torch that cannot be imported: trying again is no use.
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={tmp_path}:$PYTHONPATH\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    events = []
    client = EngineClient(events.append, python=str(python))
    client.start()
    until(lambda: _of(events, p.Died), 60)
    died = _of(events, p.Died)[0]
    assert not died.restarting
    assert "pip install torch" in died.message
    assert "no torch here" in died.details
    client.close(10)


PARENT = """
import os, sys, threading
import numpy as np
from napari_sa2net.config import PredictConfig
from napari_sa2net.engine import client as client_module
from napari_sa2net.engine import messages as p
from napari_sa2net.engine.client import EngineClient

def on_event(event):
    if isinstance(event, p.Progress) and event.what == "segmenting":
        print(client.pid, *client._link.folders, flush=True)

client = EngineClient(on_event)
client.start()
image = np.random.default_rng(0).integers(0, 255, (1500, 1500), np.uint8)
asked = {"image": image, "model": sys.argv[1], "predict": PredictConfig(tile=192)}
client.submit(p.Call(1, "segment", asked))
threading.Event().wait(60) if sys.argv[2] == "wait" else sys.stdin.readline()
"""


@pytest.mark.parametrize("way", ["killed", "ends"])
def test_the_engine_ends_with_its_parent(tiny_model, alive, way):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tiny_model), "wait" if way == "killed" else "read"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    engine, *folders = parent.stdout.readline().split()
    assert alive(int(engine))
    assert all(Path(folder).is_dir() for folder in folders)
    if way == "killed":
        parent.kill()
    else:
        # The interpreter ends in the ordinary way, without close.
        parent.stdin.write("\n")
        parent.stdin.flush()
    parent.wait(30)
    until(lambda: not alive(int(engine)), 10)
    until(lambda: not any(Path(folder).exists() for folder in folders), 10)
    _, errors = parent.communicate(timeout=30)
    assert "Traceback" not in errors


def test_what_two_killed_processes_left_is_swept_at_the_next_start(tiny_model, new_engine):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tiny_model), "wait"],
        stdout=subprocess.PIPE,
        text=True,
    )
    engine, *folders = parent.stdout.readline().split()
    # Neither has the time to clean up after the other.
    os.kill(int(engine), signal.SIGSTOP)
    parent.kill()
    os.kill(int(engine), signal.SIGKILL)
    parent.communicate(timeout=30)
    assert all(Path(folder).is_dir() for folder in folders)
    new_engine.client.start()
    until(lambda: new_engine.client._link)
    own = new_engine.client._link.folders
    assert not any(Path(folder).exists() for folder in folders)
    # Those of the living stay.
    process.sweep()
    assert all(Path(folder).is_dir() for folder in own)


@pytest.mark.parametrize("closed", [True, False])
def test_closing_in_the_middle_of_a_read_is_no_fault(closed, caplog):
    """Python's pipes raise a TypeError then; else that is an answer that cannot be read."""
    client = EngineClient(lambda event: None)
    if closed:
        client.close()
    killed = []

    class Pipe:
        def receive(self):
            raise TypeError("'NoneType' object cannot be interpreted as an integer")

    client._read(SimpleNamespace(pipe=Pipe(), kill=lambda: killed.append(True)))
    assert killed == ([] if closed else [True])
    assert ("cannot be read" in caplog.text) != closed
