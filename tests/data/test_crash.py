"""A process that edits and commits is killed at random moments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_loses_nothing_that_was_acknowledged():
    script = Path(__file__).with_name("crash_loop.py")
    run = subprocess.run(
        [sys.executable, str(script), "5", "1"], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert figures["kills"] == 5
    assert figures["acknowledged_commits"] > 0
    assert figures["acknowledged_steps"] > 10
