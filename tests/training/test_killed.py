"""A trainer that is killed at any time leaves whole files only, and can go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_sa2net.data.samples import synthetic_nuclei

KILLS = int(os.environ.get("SA2NET_KILLS", 3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.timeout(600)
def test_kill_at_any_time(tmp_path, tiny_model):
    folder, home = tmp_path / "set", tmp_path / "home"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(2):
        image, labels = synthetic_nuclei((48, 48), n=4, diameter=22, seed=i)
        tifffile.imwrite(folder / "images" / f"{i}.tif", image)
        tifffile.imwrite(folder / "labels" / f"{i}.tif", labels.astype(np.uint16))
    script = Path(__file__).with_name("killed_trainer.py")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder, tiny_model, home, str(KILLS), "5"],
        env={**os.environ, "SA2NET_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert run.returncode == 0, run.stderr + run.stdout
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == KILLS
    assert any(line["killed"] for line in lines)
    assert max(line["states"] + line["models"] for line in lines) > 0
