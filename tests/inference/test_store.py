"""Results in memory or on disk."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path

import numpy as np
import pytest

from napari_sa2net.errors import OutputError
from napari_sa2net.inference.tiling import allocate


def test_small_results_stay_in_memory() -> None:
    array = allocate((3, 20, 30), np.float32)
    assert isinstance(array, np.ndarray)
    assert not array.any()
    assert allocate((0, 5), np.int32).shape == (0, 5)


def test_large_results_go_to_disk_and_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = allocate((2, 3, 600, 700), np.float32, limit=1000)
    assert array.shape == (2, 3, 600, 700)
    values = np.random.default_rng(0).random((3, 100, 50)).astype(np.float32)
    array[1, :, 500:600, 490:540] = values
    np.testing.assert_array_equal(array[1, :, 500:600, 490:540], values)
    assert np.asarray(array[0]).max() == 0
    assert list(tmp_path.iterdir())
    del array
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_no_room_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="TMPDIR"):
        allocate((600, 700), np.float32, limit=1000)


def test_a_copy_of_a_large_result_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = allocate((2, 600, 700), np.int32, limit=1000)
    array[1, 5:9, 5:9] = 7
    copies = [pickle.loads(pickle.dumps(array)), copy.deepcopy(array)]
    array[0, 0, 0] = 1  # is not seen in the copies
    del array
    gc.collect()
    for one in copies:
        assert np.asarray(one[1, 5:9, 5:9]).min() == 7
        assert np.asarray(one[:]).sum() == 7 * 16
        one[0, 0, 0] = 3
        assert one[0, 0, 0] == 3
    del copies, one
    gc.collect()
    assert not list(tmp_path.iterdir())
