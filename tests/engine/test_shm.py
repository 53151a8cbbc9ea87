"""Arrays in shared memory: contents, fallbacks, and that nothing stays behind."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from napari_sa2net.engine import arrays as shm
from napari_sa2net.engine.arrays import Pool, SharedArray, copy_chunked, take
from napari_sa2net.engine.messages import ArrayRef
from napari_sa2net.errors import Cancelled, EngineError

linux = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="looks into /dev/shm")
ARRAYS = [
    np.arange(12, dtype=np.uint8).reshape(3, 4),
    np.arange(24, dtype=">u2").reshape(2, 3, 4),
    np.asfortranarray(np.random.default_rng(0).random((50, 40))),
    np.arange(100, dtype=np.int64).reshape(10, 10)[::2, ::-3],
    np.ones((5, 5), bool),
    np.zeros((0, 7), np.float32),
    np.float16(3.5) * np.ones((3, 0)),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_what_is_shared_is_taken(array, shared_of):
    pool = Pool()
    ref = pool.share(array)
    got = take(ref)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)
    pool.release(ref.name)
    assert not shared_of(os.getpid())
    with pytest.raises(EngineError, match="gone"):
        take(ref)


def test_lazy_and_large_arrays_are_copied_in_pieces(monkeypatch):
    monkeypatch.setattr(shm, "CHUNK", 1000)
    monkeypatch.setattr(shm, "LAZY_CHUNK", 3000)
    array = np.random.default_rng(1).integers(0, 1000, (4, 37, 41), np.int32)
    for source in (array, da.from_array(array, chunks=(1, 10, 41))):
        out = np.zeros_like(array)
        calls = itertools.count()
        copy_chunked(source, out, calls.__next__)
        np.testing.assert_array_equal(out, array)
        assert next(calls) > 10


def test_a_copy_can_be_stopped_and_leaves_nothing(shared_of):
    def stop() -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        Pool().share(np.ones((10, 10)), stop)
    assert not shared_of(os.getpid())


def test_a_file_serves_where_shared_memory_is_too_small(monkeypatch, tmp_path, shared_of):
    monkeypatch.setattr(shm, "_reserve", lambda name, n_bytes: False)
    array = np.arange(1000.0).reshape(10, 100)
    pool = Pool(str(tmp_path))
    ref = pool.share(array)
    assert ref.is_file
    assert Path(ref.name).parent == tmp_path
    np.testing.assert_array_equal(take(ref), array)
    pool.close()
    assert not list(tmp_path.iterdir())
    assert not shared_of(os.getpid())


@linux
def test_more_than_there_is_is_refused_without_a_crash(shared_of):
    # 64 TB: neither memory nor disk; touching it would kill this process.
    with pytest.raises(EngineError, match="no room"):
        SharedArray.create((2**46,), np.uint8)
    assert not shared_of(os.getpid())


@linux
def test_a_process_that_attaches_does_not_free_what_is_not_its_own():
    pool = Pool()
    ref = pool.share(np.arange(5))
    code = (
        "from napari_sa2net.engine.arrays import take\n"
        "from napari_sa2net.engine.messages import ArrayRef\n"
        f"print(take({ref!r}).sum())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "10"
    assert not run.stderr
    np.testing.assert_array_equal(take(ref), np.arange(5))
    pool.close()


@linux
def test_segments_of_a_killed_process_are_freed(shared_of):
    code = (
        "import os, numpy as np\n"
        "from napari_sa2net.engine.arrays import Pool\n"
        "pool = Pool(); ref = pool.share(np.ones(10))\n"
        "print(os.path.exists('/dev/shm/' + ref.name), flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # communicate also waits for the resource tracker, which has the same stderr.
    out, _ = process.communicate(timeout=60)
    assert out.strip() == "True"
    assert not shared_of(process.pid)


def test_a_view_still_in_use_does_not_break_closing():
    pool = Pool()
    ref = pool.share(np.arange(6))
    other = SharedArray.attach(ref)
    view = other.array[2:]
    other.close()
    np.testing.assert_array_equal(view, [2, 3, 4, 5])
    del view
    pool.close()


def test_a_wrong_name_is_an_engine_error():
    with pytest.raises(EngineError):
        SharedArray.attach(ArrayRef("sa2net_no_such", (1,), "|u1"))
    with pytest.raises(EngineError):
        SharedArray.attach(ArrayRef("/no/such/file", (1,), "|u1", is_file=True))
