"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Threads of torch that wait by spinning make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core of its own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of data and reference numbers beside the project; skips where it is absent."""
    folder = Path(
        os.environ.get("SA2NET_DATA") or Path(__file__).parent.parent.parent / "shared"
    )
    if not folder.is_dir():
        pytest.skip("no folder of shared data (set SA2NET_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """File of a base 4 network that finds synthetic nuclei; see make_tiny_model.py."""
    return Path(__file__).with_name("tiny.safetensors")
