"""Arrays between processes: contents, room, and that nothing stays behind."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_sa2net.engine import arrays as module
from napari_sa2net.engine.arrays import SMALL, ArrayPipe, load, pieces, save
from napari_sa2net.engine.messages import Whole
from napari_sa2net.errors import Cancelled, EngineError, ImageError

linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
ARRAYS = [
    np.arange(12, dtype=np.uint8).reshape(3, 4),
    np.arange(24, dtype=">u2").reshape(2, 3, 4),
    np.asfortranarray(np.random.default_rng(0).random((50, 40))),
    np.arange(100, dtype=np.int64).reshape(10, 10)[::2, ::-3],
    np.ones((5, 5), bool),
    np.zeros((0, 7), np.float32),
    np.float16(3.5) * np.ones((3, 0)),
    np.array(7.5),
]


def pair(*folders: object) -> tuple[ArrayPipe, ArrayPipe]:
    ours, theirs = Pipe()
    names = [str(folder) for folder in folders]
    return ArrayPipe(ours, names), ArrayPipe(theirs, names)


def maps(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_what_is_saved_is_loaded_and_its_name_is_gone(array, tmp_path):
    path = save(array, [str(tmp_path)])
    got = load(str(path))
    assert got.dtype == array.dtype
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, array)
    assert os.name == "nt" or not path.exists()
    if os.name != "nt":
        with pytest.raises(EngineError, match="gone"):
            load(str(path))


@linux
def test_the_memory_is_free_when_the_last_view_is_gone(tmp_path):
    got = load(str(save(np.zeros((500, 500)), [str(tmp_path)])))
    view = got[3:, ::2]
    del got
    gc.collect()
    assert maps(tmp_path) == 1
    # whoever has it may write into it
    view[0, 0] = 3
    del view
    gc.collect()
    assert maps(tmp_path) == 0


def test_what_is_open_and_cannot_be_removed_goes_with_the_next(tmp_path, monkeypatch):
    """As on Windows."""
    unlink = Path.unlink

    def refuse(self, missing_ok=False):
        raise PermissionError("in use")

    monkeypatch.setattr(Path, "unlink", refuse)
    first = load(str(save(np.arange(5), [str(tmp_path)])))
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(Path, "unlink", unlink)
    load(str(save(first, [str(tmp_path)])))
    assert list(tmp_path.iterdir()) == []


def test_lazy_and_large_arrays_are_read_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1000)
    monkeypatch.setattr(module, "LAZY_CHUNK", 3000)
    array = np.random.default_rng(1).integers(0, 1000, (4, 37, 41), np.int32)
    for source in (array, da.from_array(array, chunks=(1, 10, 41))):
        parts = list(pieces(source))
        assert len(parts) > 10
        np.testing.assert_array_equal(np.concatenate(parts).reshape(array.shape), array)


def test_arrays_anywhere_in_a_message_go_as_files(tmp_path):
    ours, theirs = pair(tmp_path)
    big, small = np.arange(SMALL // 8.0), np.arange(3)
    text = np.array(["a", None], object)
    lazy = da.from_array(small, chunks=2)
    packed = ours.pack(
        {"a": (big, [small, big * 2]), 8: "word", "text": text, "l": Whole(lazy)}
    )
    assert len(packed.data) < 2000
    assert len(list(tmp_path.iterdir())) == 3
    ours.send(packed)
    got = theirs.receive()
    np.testing.assert_array_equal(got["a"][1][1], big * 2)
    np.testing.assert_array_equal(got["l"], small)
    assert isinstance(got["a"], tuple)
    assert list(got["text"]) == ["a", None]
    assert list(tmp_path.iterdir()) == []


def test_what_is_stopped_or_dropped_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", SMALL)
    ours, _ = pair(tmp_path)
    asked = itertools.count()

    def stop() -> None:
        # in the middle of the second array
        if next(asked) == 12:
            raise Cancelled("stop")

    message = [np.ones(SMALL), np.ones(SMALL)]
    with pytest.raises(Cancelled):
        ours.pack(message, stop)
    assert list(tmp_path.iterdir()) == []
    packed = ours.pack(message)
    assert len(list(tmp_path.iterdir())) == 2
    packed.drop()
    assert list(tmp_path.iterdir()) == []


def test_a_lazy_array_that_cannot_be_read_is_our_error(tmp_path):
    def broken(block):
        raise OSError("disk gone")

    lazy = da.ones((20, 20)).map_blocks(broken, dtype=float)
    with pytest.raises(ImageError, match="disk gone"):
        save(lazy, [str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_passed_over(tmp_path):
    gone, disk = tmp_path / "gone", tmp_path / "disk"
    disk.mkdir()
    array = np.arange(6.0)
    assert save(array, [str(gone), str(disk)]).parent == disk
    with pytest.raises(EngineError, match=r"no room for 0 MB in .*gone"):
        save(array, [str(gone)])
    assert not gone.exists()


@pytest.mark.parametrize("full", ["asked", "written"])
def test_the_next_folder_serves_where_the_first_is_too_small(tmp_path, monkeypatch, full):
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    usage, begin = shutil.disk_usage, np.lib.format.write_array_header_1_0

    def free(path):
        found = usage(path)
        return found._replace(free=0) if Path(path) == memory else found

    def write(file, header):
        if Path(file.name).parent == memory:
            raise OSError(28, "No space left on device")
        begin(file, header)

    if full == "asked":
        monkeypatch.setattr(shutil, "disk_usage", free)
    else:
        monkeypatch.setattr(np.lib.format, "write_array_header_1_0", write)
    array = np.arange(1000.0).reshape(10, 100)
    path = save(array, [str(memory), str(disk)])
    assert path.parent == disk
    assert list(memory.iterdir()) == []
    np.testing.assert_array_equal(load(str(path)), array)


def test_more_than_there_is_is_refused_without_a_crash(tmp_path):
    huge = zarr.create_array({}, shape=(2**26, 2**20), chunks=(1, 2**20), dtype="u1")
    with pytest.raises(EngineError, match="no room"):
        save(huge, [str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "is_room"), [(800, True), (799, False)])
def test_an_array_goes_where_its_bytes_have_room(tmp_path, monkeypatch, free, is_room):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    array = np.arange(100.0)
    if is_room:
        np.testing.assert_array_equal(load(str(save(array, [str(tmp_path)]))), array)
    else:
        with pytest.raises(EngineError, match="no room"):
            save(array, [str(tmp_path)])
