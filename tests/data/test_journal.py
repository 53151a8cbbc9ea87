"""Edits that were not kept yet, found again after whatever happened."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from napari_sa2net.data import journal as journal_files
from napari_sa2net.data.journal import (
    Journal,
    JournalImage,
    discard_journal,
    journals_dir,
    list_journals,
)
from napari_sa2net.errors import JournalError, JournalInUseError, OutputError

IMAGE = JournalImage("Zellen Ä 1", "/data/ä.tif", "ff00", (50, 60), {"set": "Übung"})


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "Hörsaal 1"))
    return tmp_path / "Hörsaal 1" / "journals"


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(3000, dtype=np.int32).reshape(50, 60)


@pytest.fixture
def journal(labels):
    made = Journal.create(IMAGE, {"labels": labels, "reviewed": labels > 7}, {"tool": "brush"})
    yield made
    made.discard()


def log_of(journal: Journal) -> Path:
    (path,) = journal.path.glob("*.log")
    return path


def reopened(journal: Journal) -> Journal:
    journal.close()
    return Journal.reopen(journal.id)


# --- what is journalled --------------------------------------------------------------------


def test_steps_and_labels_come_back(journal, labels, own_home):
    assert journals_dir() == own_home
    payloads = [b"", b"one", os.urandom(100_000)]
    numbers = [journal.append(p, {"tool": "split", "wo": "ü", "n": [1]}) for p in payloads]
    assert numbers == [1, 2, 3]
    assert journal.wait(3)
    assert journal.durable == journal.n_uncommitted == 3
    labels[:] = 0  # the journal has its own copy
    again = reopened(journal)
    restored = again.read()
    assert (restored.arrays["labels"] == np.arange(3000).reshape(50, 60)).all()
    assert restored.arrays["reviewed"].dtype == bool
    assert restored.state == {"tool": "brush"}
    assert [step.payload for step in restored.steps] == payloads
    assert restored.steps[1].header == {"tool": "split", "wo": "ü", "n": [1]}
    assert again.image == IMAGE
    assert again.append(b"four") == 4
    again.wait()
    assert [step.number for step in again.read().steps] == [1, 2, 3, 4]
    again.discard()


@pytest.mark.parametrize("shape", [(7,), (0, 5), (3, 2, 40, 50), (1, 1)])
def test_arrays_of_any_shape(shape, monkeypatch):
    monkeypatch.setattr(journal_files, "_CHUNK_BYTES", 300)
    array = np.random.default_rng(0).integers(-9, 9, shape).astype(np.int64)
    journal = Journal.create(IMAGE, {"a": array})
    journal.append(b"x")
    journal.wait()
    kept = journal.read().arrays["a"]
    assert kept.dtype == array.dtype
    np.testing.assert_array_equal(kept, array)
    journal.discard()


def test_lazy_arrays_are_read_block_by_block(tmp_path):
    import zarr

    held = zarr.create_array(tmp_path / "z", shape=(3, 20, 30), dtype="int32")
    held[1] = 5
    journal = Journal.create(IMAGE, {"labels": held})
    journal.wait(0)
    assert (journal.read().arrays["labels"] == held[:]).all()
    journal.discard()


def test_a_header_of_other_than_plain_values_is_refused_at_once(journal):
    with pytest.raises(TypeError):
        journal.append(b"", {"x": object()})
    assert journal.append(b"") == 1


def test_appending_does_not_wait_for_the_disk(journal, monkeypatch):
    journal.wait(0)
    gate = threading.Event()
    real = os.fsync

    def slow(handle):
        assert gate.wait(10)
        real(handle)

    monkeypatch.setattr(os, "fsync", slow)
    for _ in range(20):
        journal.append(b"x")
    assert not journal.wait(timeout=0.01)
    assert journal.durable == 0
    gate.set()
    assert journal.wait()
    assert journal.durable == 20


def test_whoever_listens_is_told(journal):
    told = threading.Event()
    seen = []
    journal.wait(0)

    def listen():
        seen.append((journal.durable, journal.error))
        told.set()

    journal.listen(listen)
    journal.append(b"x")
    assert told.wait(10)
    assert seen[-1] == (1, None)


# --- listing -------------------------------------------------------------------------------


def test_what_can_be_restored_is_listed(journal, labels):
    journal.append(b"x")
    journal.wait()
    assert list_journals() == []
    (living,) = list_journals(in_use=True)
    assert living.in_use
    with pytest.raises(JournalInUseError, match=f"process {os.getpid()}"):
        Journal.reopen(journal.id)
    with pytest.raises(JournalInUseError):
        discard_journal(journal.id)
    journal.close()
    (info,) = list_journals()
    assert (info.id, info.image, info.n_edits) == (journal.id, IMAGE, 1)
    assert info.n_bytes > 100
    assert not info.problem
    discard_journal(info.id)
    assert list_journals() == []
    with pytest.raises(JournalError, match="no journal"):
        discard_journal(info.id)


def test_another_process_does_not_take_over_a_living_journal(journal):
    journal.append(b"x")
    journal.wait()
    code = (
        "import sys\n"
        "from napari_sa2net.data.journal import Journal, list_journals\n"
        "print(len(list_journals()))\n"
        "try:\n    Journal.reopen(sys.argv[1])\n"
        "except Exception as error:\n    print(type(error).__name__)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, journal.id], capture_output=True, text=True, timeout=60
    )
    assert run.stdout.split() == ["0", "JournalInUseError"], run.stderr


def test_a_journal_without_uncommitted_steps_goes_when_it_is_closed(own_home, labels):
    for act in (
        lambda j: j.close(),
        lambda j: (j.append(b"x"), j.finish("id")),
        lambda j: (j.append(b"x"), j.mark_committed(), j.close()),
        lambda j: (j.append(b"x"), j.discard()),
    ):
        journal = Journal.create(IMAGE, {"labels": labels})
        act(journal)
        assert [p.name for p in own_home.iterdir()] == [".lock"]
        journal.close()
        journal.discard()
        with pytest.raises(JournalError, match="closed"):
            journal.append(b"x")


def test_steps_after_a_commit_are_still_offered(journal):
    for step in (b"a", b"b", b"c"):
        journal.append(step)
    journal.mark_committed(2, "commit 1")
    journal.wait()
    assert journal.n_uncommitted == 1
    again = reopened(journal)
    assert again.n_uncommitted == 1
    assert again.read().committed == 2
    again.close()
    assert list_journals()[0].n_edits == 1
    discard_journal(journal.id)


def test_rubbish_is_cleared_away(own_home, journal):
    journal.append(b"x")
    journal.close()
    (own_home / "20200101-000000-abcdef").mkdir()  # died before its first snapshot
    (own_home / "20200101-000000-abcdef" / ".part-x").write_bytes(b"half")
    (own_home / "20200101-000000-fedcba.lock").write_bytes(b"")
    assert [info.id for info in list_journals()] == [journal.id]
    assert {p.name for p in own_home.iterdir()} == {".lock", journal.id, f"{journal.id}.lock"}


# --- compaction ----------------------------------------------------------------------------


def test_compacting_keeps_what_came_after(journal, labels):
    journal.append(b"a" * 1000)
    journal.wait()
    long = journal.log_bytes
    journal.compact({"labels": labels + 1}, {"tool": "split"})
    journal.append(b"b")
    journal.wait()
    assert journal.log_bytes < long
    assert len(list(journal.path.iterdir())) == 3
    again = reopened(journal)
    restored = again.read()
    assert (restored.arrays["labels"] == labels + 1).all()
    assert restored.state == {"tool": "split"}
    assert [(s.number, s.payload) for s in restored.steps] == [(2, b"b")]
    assert again.n_uncommitted == 2
    again.discard()


def test_of_two_snapshots_the_later_whole_one_counts(journal, labels, tmp_path):
    journal.append(b"a")
    journal.wait()
    shutil.copytree(journal.path, tmp_path / "before")
    journal.compact({"labels": labels * 2})
    journal.append(b"b")
    journal.close()
    # Killed before the older ones were deleted.
    shutil.copytree(tmp_path / "before", journal.path, dirs_exist_ok=True)
    again = Journal.reopen(journal.id)
    assert [s.payload for s in again.read().steps] == [b"b"]
    assert (again.read().arrays["labels"] == labels * 2).all()
    again.close()
    # The later snapshot damaged: what came before is better than nothing.
    later = max(journal.path.glob("*.snap"))
    later.write_bytes(b"x" + later.read_bytes()[1:])
    again = Journal.reopen(journal.id)
    assert [s.payload for s in again.read().steps] == [b"a"]
    again.discard()


# --- trouble -------------------------------------------------------------------------------


def test_a_log_torn_anywhere_gives_the_whole_steps_before(journal):
    ends = []
    for number in range(1, 4):
        journal.append(bytes([number]) * 50, {"n": number})
        journal.wait()
        ends.append(journal.log_bytes)
    journal.close()
    log = log_of(journal)
    whole = log.read_bytes()
    for cut in range(0, len(whole), 7):
        log.write_bytes(whole[:cut])
        scan = journal_files.scan_log(log, 1)
        assert len(scan.frames) == sum(end <= cut for end in ends)
        assert scan.good_bytes + scan.lost_bytes == cut
    log.write_bytes(whole[: ends[1] + 9])
    again = Journal.reopen(journal.id)
    assert again.number == 2
    assert again.append(b"new") == 3
    again.close()
    again = Journal.reopen(journal.id)
    assert [s.payload for s in again.read().steps][-1] == b"new"
    again.discard()


def test_a_changed_byte_is_noticed(journal):
    for number in range(1, 4):
        journal.append(b"payload", {"n": number})
    journal.close()
    log = log_of(journal)
    whole = log.read_bytes()
    first = len(journal_files.frame_bytes(journal_files.Frame(0, 1, {"n": 1}, b"payload")))
    begin = len(journal_files.MAGIC) + first
    for place in range(begin, begin + first):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        log.write_bytes(damaged)
        frames = journal_files.scan_log(log, 1).frames
        assert [f.header for f in frames] == [{"n": 1}], place
    log.write_bytes(whole)


def test_a_damaged_journal_is_listed_with_its_problem(journal):
    journal.append(b"x")
    journal.close()
    (base,) = journal.path.glob("*.snap")
    content = base.read_bytes()
    base.write_bytes(content[:-5])
    again = Journal.reopen(journal.id)  # the first record is whole
    with pytest.raises(JournalError, match="damaged"):
        again.read()
    again.close()
    base.write_bytes(content[:30])
    assert "damaged" in list_journals()[0].problem
    with pytest.raises(JournalError, match="damaged"):
        Journal.reopen(journal.id)
    about = journal.path / "about.json"
    content = json.loads(about.read_text())
    about.write_text(json.dumps(content | {"schema_version": 2}))
    assert "newer version" in list_journals()[0].problem
    about.write_text("{")
    assert "cannot be read" in list_journals()[0].problem
    discard_journal(journal.id)


def test_a_full_disk_keeps_the_steps_until_there_is_room(journal, monkeypatch):
    journal.append(b"first")
    journal.wait()
    real = os.write

    def full(handle, data):
        real(handle, data[:5])  # half a record gets through
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        journal.append(b"second")
        with pytest.raises(OutputError, match="No space left"):
            journal.wait()
        assert journal.durable == 1
        assert "No space" in str(journal.error)
        journal.append(b"third")
        with pytest.raises(OutputError):
            journal.wait()
    assert [s.payload for s in journal.read().steps] == [b"first"]
    journal.retry()
    assert journal.wait()
    assert journal.error is None
    assert [s.payload for s in journal.read().steps] == [b"first", b"second", b"third"]


def test_a_snapshot_that_fails_leaves_the_log_in_use(journal, labels, monkeypatch):
    journal.append(b"a")
    journal.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
        journal.compact({"labels": labels})
        with pytest.raises(OutputError, match="No space"):
            journal.wait(2, timeout=10)
    journal.append(b"b")
    assert journal.wait(2)
    assert [s.payload for s in journal.read().steps] == [b"a", b"b"]


def test_a_journal_deleted_in_mid_work_is_noticed_and_made_anew(journal, labels):
    journal.append(b"a")
    journal.wait()
    shutil.rmtree(journal.path)
    journal.append(b"b")
    with pytest.raises(JournalError, match="was deleted"):
        journal.wait()
    assert journal.durable == -1
    journal.compact({"labels": labels * 3})
    journal.append(b"c")
    assert journal.wait()
    again = reopened(journal)
    assert (again.read().arrays["labels"] == labels * 3).all()
    assert [s.payload for s in again.read().steps] == [b"c"]
    assert again.n_uncommitted == 3
    again.discard()


def test_a_home_that_cannot_be_written_says_so(tmp_path, monkeypatch, labels):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="SA2NET_HOME"):
        Journal.create(IMAGE, {"labels": labels})
    assert list_journals() == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX only")
def test_leaving_python_without_closing_loses_nothing():
    code = (
        "import numpy as np\n"
        "from napari_sa2net.data.journal import Journal, JournalImage\n"
        "j = Journal.create(JournalImage('x'), {'labels': np.zeros((9, 9), int)})\n"
        "for i in range(50): j.append(b'x' * i)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    (info,) = list_journals()
    assert info.n_edits == 50
    discard_journal(info.id)
