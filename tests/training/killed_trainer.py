"""A trainer that is killed again and again; run by test_killed.py in a process of its own.

Prints one line of JSON per kill: when, what was on disk, and whether all of it could be read.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from napari_sa2net.config import FineTuneConfig
from napari_sa2net.models import load_model, read_card
from napari_sa2net.training.compare import RoundPoint
from napari_sa2net.training.fine_tune import fine_tune, resume_fine_tuning
from napari_sa2net.training.material import reference_examples
from napari_sa2net.training.runs import read_state

CONFIG = FineTuneConfig(
    steps=1000, rounds=1000, patience=1000, batch_size=1, crop=32, replay=0, max_scored=1
)


def child(folder: Path, model: Path, run: Path, late: bool) -> None:
    """Learn, or go on; every step is a round, so that something is written all the time.

    `late`: the clock of the kill starts after the first round, else with the first event.
    """
    torch.set_num_threads(1)
    marker = run / "begun"

    rounds: list[float] = []

    def begun(event: object) -> None:
        if isinstance(event, RoundPoint):
            rounds.append(time.monotonic())
        if rounds or not late:
            marker.touch()

    # A stop after a while, so that kills also hit the verdict and the registry.
    stop = {"cancelled": lambda: bool(rounds) and time.monotonic() - rounds[0] > 0.6}
    if (run / "state.pt").exists():
        resume_fine_tuning(run, on_event=begun, **stop)
    else:
        fine_tune(folder, model, CONFIG, name=run.name, on_event=begun, promote=True, **stop)


def readable(home: Path) -> dict[str, int]:
    """Load every model and state that lies about; raises if one cannot be."""
    models = [p for p in home.rglob("*.safetensors") if not p.name.startswith(".part-")]
    for path in models:
        assert all(value.isfinite().all() for value in load_model(path).net.parameters())
    states = list(home.rglob("state.pt"))
    for path in states:
        read_state(path.parent)
    return {"models": len(models), "states": len(states)}


def main() -> None:
    folder, model, home, kills, seed = sys.argv[1:]
    rng = random.Random(int(seed))
    reference_examples(read_card(model))  # drawn once, for all children
    for i in range(int(kills)):
        # Two kills of one run, so that what a kill leaves is also gone on with.
        name = f"run-{i // 2}"
        if (Path(home) / "models" / f"{name}.safetensors").exists():
            name += "-more"  # it came to its end before it was killed
        run = Path(home) / "runs" / name
        (run / "begun").unlink(missing_ok=True)
        # Forked before torch has worked, so that no thread of it is lost in the child.
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child(Path(folder), Path(model), run, late=i % 2 == 0)
                status = 0
            finally:
                os._exit(status)
        deadline = time.monotonic() + 120
        while not (run / "begun").exists() and time.monotonic() < deadline:
            if os.waitpid(pid, os.WNOHANG)[0]:
                sys.exit("the trainer ended by itself")
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.0))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        checker = os.fork()
        if checker == 0:
            code = 1
            try:
                found = readable(Path(home))
                print(json.dumps({"killed": os.WIFSIGNALED(status), **found}), flush=True)
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(checker, 0)[1]:
            sys.exit("something on disk cannot be read")


if __name__ == "__main__":
    main()
