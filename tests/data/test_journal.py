"""Edits that were not kept yet, found again after whatever happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from napari_sa2net.data import journal_store
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


def database_of(journal: Journal) -> Path:
    (path,) = journal.path.glob("*.sqlite")
    return path


def as_killed(journal: Journal, to: Path) -> Path:
    """A copy of its files as they are now, in the place of the journal once it is closed."""
    shutil.copytree(journal.path, to, dirs_exist_ok=True)
    return to


def put_back(journal: Journal, files: Path) -> None:
    shutil.rmtree(journal.path, ignore_errors=True)
    shutil.copytree(files, journal.path)


def payloads_after_reopening(journal: Journal) -> list[bytes]:
    again = Journal.reopen(journal.id)
    try:
        return [step.payload for step in again.read().steps]
    finally:
        again.close()


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
    monkeypatch.setattr(journal_store, "_CHUNK_BYTES", 300)
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


def test_appending_does_not_wait_for_the_disk(journal):
    journal.wait(0)
    with closing(sqlite3.connect(database_of(journal), isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        for _ in range(20):
            journal.append(b"x")
        assert not journal.wait(timeout=0.1)
        assert journal.durable == 0
        busy.execute("ROLLBACK")
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


def test_what_is_no_journal_is_not_opened_or_deleted(own_home, journal):
    with pytest.raises(JournalError, match="no journal 'never'"):
        Journal.reopen("never")
    elsewhere = as_killed(journal, own_home.parent / "elsewhere")
    journal.close()
    for name, content in (
        ("empty", None),
        ("gone", json.dumps({"schema_version": journal_store.SCHEMA_VERSION})),
    ):
        (own_home / name).mkdir()
        if content is not None:  # the database that it tells of is not there
            (own_home / name / journal_store.ABOUT).write_text(content)
        for _ in range(2):  # nor does the first try hold anything
            with pytest.raises(JournalError, match=f"no journal '{name}'"):
                Journal.reopen(name)
        assert (own_home / name).is_dir()
    for act in (Journal.reopen, discard_journal):
        with pytest.raises(JournalError, match="no journal"):
            act("../elsewhere")
    assert elsewhere.is_dir()
    shutil.rmtree(own_home)
    with pytest.raises(JournalError, match="no journal"):
        Journal.reopen(journal.id)
    assert not own_home.exists()


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


def test_a_journal_tells_whether_its_last_steps_may_be_missing(journal, tmp_path):
    journal.append(b"x")
    journal.wait()
    files = as_killed(journal, tmp_path / "killed")
    journal.close()
    assert list_journals()[0].is_whole
    put_back(journal, files)
    assert not list_journals()[0].is_whole
    Journal.reopen(journal.id).close()
    assert list_journals()[0].is_whole


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
    journal.compact({"labels": labels + 1}, {"tool": "split"})
    journal.append(b"b")
    journal.wait()
    journal.close()
    assert {path.name for path in journal.path.iterdir()} == {"about.json", "edits.sqlite"}
    again = reopened(journal)
    restored = again.read()
    assert (restored.arrays["labels"] == labels + 1).all()
    assert restored.state == {"tool": "split"}
    assert [(s.number, s.payload) for s in restored.steps] == [(2, b"b")]
    assert again.n_uncommitted == 2
    again.discard()


def test_killed_while_it_begins_anew_it_is_as_before_or_after(journal, labels, tmp_path):
    journal.append(b"a")
    journal.wait()
    journal.compact({"labels": labels * 2})
    journal.append(b"b")
    journal.wait()
    files = as_killed(journal, tmp_path / "killed")
    journal.close()
    wal = files / "edits.sqlite-wal"
    whole = wal.read_bytes()
    seen = []
    for cut in range(0, len(whole) + 1, 1999):
        wal.write_bytes(whole[:cut])
        put_back(journal, files)
        again = Journal.reopen(journal.id)
        restored = again.read()
        again.close()
        factor = 2 if (restored.arrays["labels"] == labels * 2).all() else 1
        assert (restored.arrays["labels"] == labels * factor).all()
        seen.append((factor, [step.payload for step in restored.steps]))
    moments = [(1, []), (1, [b"a"]), (2, []), (2, [b"b"])]
    assert [moments.index(one) for one in seen] == sorted(map(moments.index, seen))
    assert len(set(map(moments.index, seen))) > 2
    wal.write_bytes(whole)
    put_back(journal, files)
    assert payloads_after_reopening(journal) == [b"b"]


# --- trouble -------------------------------------------------------------------------------


def test_a_log_torn_anywhere_gives_the_whole_steps_before(journal, tmp_path):
    wal = journal.path / "edits.sqlite-wal"
    ends = []
    for number in range(1, 4):
        journal.append(bytes([number]) * 50, {"n": number})
        journal.wait()
        ends.append(wal.stat().st_size)
    files = as_killed(journal, tmp_path / "killed")
    journal.close()
    torn = files / wal.name
    whole = torn.read_bytes()
    for cut in range(0, len(whole), 997):
        torn.write_bytes(whole[:cut])
        put_back(journal, files)
        n = sum(end <= cut for end in ends)
        assert payloads_after_reopening(journal) == [bytes([i]) * 50 for i in (1, 2, 3)][:n]
    torn.write_bytes(whole[: ends[1] + 9])
    put_back(journal, files)
    again = Journal.reopen(journal.id)
    assert again.number == 2
    assert again.append(b"new") == 3
    again.close()
    assert payloads_after_reopening(journal)[-1] == b"new"
    torn.unlink()  # what is in the database alone
    put_back(journal, files)
    assert payloads_after_reopening(journal) == []


def test_a_database_cut_anywhere_gives_whole_steps_or_says_so(journal, labels):
    payloads = [os.urandom(9000) for _ in range(20)]
    for payload in payloads:
        journal.append(payload)
    journal.close()
    database = database_of(journal)
    whole = database.read_bytes()
    found = set()
    for cut in range(0, len(whole), 4096 * 5 + 11):
        database.write_bytes(whole[:cut])
        (info,) = list_journals()
        if info.problem:
            assert "damaged" in info.problem
            assert cut < len(whole) / 2  # not even the first step
            continue
        again = Journal.reopen(journal.id)
        restored = again.read()
        assert (restored.arrays["labels"] == labels).all()
        n = len(restored.steps)
        assert [step.payload for step in restored.steps] == payloads[:n]
        assert again.append(b"new") == n + 1
        again.close()
        assert payloads_after_reopening(journal)[-1] == b"new"
        found.add(n)
    assert len(found) > 3


def test_a_changed_byte_is_noticed(journal, labels):
    payloads = [os.urandom(700) for _ in range(30)]
    for number, payload in enumerate(payloads):
        journal.append(payload, {"n": number})
    journal.close()
    database = database_of(journal)
    whole = database.read_bytes()
    lost = 0
    for place in range(0, len(whole), 311):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        database.write_bytes(damaged)
        try:
            again = Journal.reopen(journal.id)
        except (JournalError, OutputError):
            lost += 1
            continue
        try:
            restored = again.read()
        except JournalError:
            lost += 1
            continue
        finally:
            again._committed = -1  # whatever is left, it is to be there for the next one
            again.close()
        n = len(restored.steps)
        assert [s.payload for s in restored.steps] == payloads[:n]
        assert [s.header for s in restored.steps] == [{"n": i} for i in range(n)]
        assert (restored.arrays["labels"] == labels).all()
        lost += n < len(payloads)
    assert lost > 50


def test_a_damaged_journal_is_listed_with_its_problem(journal):
    journal.append(b"x")
    journal.close()
    database = database_of(journal)
    content = database.read_bytes()

    def change(words: str) -> None:
        database.write_bytes(content)
        with closing(sqlite3.connect(database)) as db, db:
            db.execute(words)

    for words in ("UPDATE chunk SET payload = zeroblob(9)", "DELETE FROM chunk"):
        change(words)
        again = Journal.reopen(journal.id)  # its steps are whole
        with pytest.raises(JournalError, match="damaged"):
            again.read()
        again.close()
    for words in ("UPDATE snapshot SET number = 5", "DROP TABLE snapshot"):
        change(words)
        assert "damaged" in list_journals()[0].problem
        assert list_journals()[0].image == IMAGE
        with pytest.raises(JournalError, match="damaged"):
            Journal.reopen(journal.id)
    change("DROP TABLE step")
    assert "damaged" in list_journals()[0].problem
    for bytes_left in (0, 30, 5000):
        database.write_bytes(content[:bytes_left])
        assert "damaged" in list_journals()[0].problem
        with pytest.raises(JournalError, match="damaged"):
            Journal.reopen(journal.id)
    database.write_bytes(b"x" * 9000)
    assert "damaged" in list_journals()[0].problem
    change("UPDATE about SET schema_version = 3")
    assert "newer version" in list_journals()[0].problem
    discard_journal(journal.id)


def test_a_full_disk_keeps_the_steps_until_there_is_room(journal, monkeypatch):
    journal.append(b"first")
    journal = reopened(journal)
    real = journal_store.connect

    def full(file, mode):
        db = real(file, mode)
        db.execute("PRAGMA max_page_count=1")  # as many as there are
        return db

    second = os.urandom(100_000)
    with monkeypatch.context() as patch:
        patch.setattr(journal_store, "connect", full)
        journal.append(second)
        with pytest.raises(OutputError, match="disk is full"):
            journal.wait()
        assert journal.durable == 1
        assert "disk is full" in str(journal.error)
        journal.append(b"third")
        with pytest.raises(OutputError):
            journal.wait()
    assert [s.payload for s in journal.read().steps] == [b"first"]
    journal.retry()
    assert journal.wait()
    assert journal.error is None
    assert [s.payload for s in journal.read().steps] == [b"first", second, b"third"]
    journal.discard()


def test_who_closes_a_journal_on_a_full_disk_does_not_wait_for_room(journal, monkeypatch):
    journal.append(b"first")
    assert journal.wait()
    tried = []

    def full(*_):
        tried.append(1)
        raise OSError("disk is full")

    monkeypatch.setattr(journal_store, "transaction", full)
    journal.append(b"second")
    with pytest.raises(OutputError, match="disk is full"):
        journal.wait()
    with pytest.raises(OutputError, match="disk is full"):
        journal.close()
    assert len(tried) == 2, "once more, and not for ever"


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
def test_a_file_that_may_not_grow_keeps_the_steps(own_home):
    code = (
        "import os, resource, numpy as np\n"
        "from napari_sa2net.data.journal import Journal, JournalImage\n"
        "from napari_sa2net.errors import OutputError\n"
        "j = Journal.create(JournalImage('x'), {'labels': np.zeros((9, 9), int)})\n"
        "j.append(b'first'); j.wait()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))\n"
        "j.append(os.urandom(100_000))\n"
        "try:\n    j.wait()\nexcept OutputError as e:\n    print(j.durable)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, resource.RLIM_INFINITY))\n"
        "j.retry(); print(j.wait(), j.durable)\n"
        "os._exit(0)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert run.stdout.split() == ["1", "True", "2"], run.stderr
    assert list_journals()[0].n_edits == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
def test_last_steps_that_find_no_room_when_python_ends_are_told(own_home):
    code = (
        "import os, resource, numpy as np\n"
        "from napari_sa2net.data.journal import Journal, JournalImage\n"
        "j = Journal.create(JournalImage('x'), {'labels': np.zeros((9, 9), int)})\n"
        "j.append(b'first'); j.wait()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "j.append(os.urandom(100_000))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "The last corrections of 'x' were not written down" in run.stderr
    (info,) = list_journals()
    assert (info.n_edits, info.is_whole) == (1, False)


def test_a_snapshot_that_fails_leaves_the_log_in_use(journal, labels):
    class Gone:
        shape, dtype, ndim = (20, 50, 60), labels.dtype, 3

        def __getitem__(self, index):
            if index[0] == 9:
                raise OSError(28, "No space")
            return labels[index[1]]

    journal.append(b"a")
    journal.wait()
    journal.compact({"labels": Gone()})
    with pytest.raises(OutputError, match="No space"):
        journal.wait(2, timeout=10)
    journal.append(b"b")
    assert journal.wait(2)
    assert [s.payload for s in journal.read().steps] == [b"a", b"b"]
    assert (journal.read().arrays["labels"] == labels).all()


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


def test_a_journal_made_anew_waits_until_that_works(journal, labels):
    class FailsOnce:
        shape, dtype, fails = labels.shape, labels.dtype, True

        def __getitem__(self, index):
            if self.fails:
                self.fails = False
                raise OSError(28, "No space")
            return labels[index]

    journal.append(b"a")
    journal.wait()
    shutil.rmtree(journal.path)
    journal.compact({"labels": FailsOnce()})
    with pytest.raises(OutputError, match="No space"):
        journal.wait()
    assert journal.durable == -1
    journal.append(b"b")
    assert journal.wait()
    assert (journal.read().arrays["labels"] == labels).all()
    assert [s.payload for s in journal.read().steps] == [b"b"]


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
    assert (info.n_edits, info.is_whole) == (50, True)
    discard_journal(info.id)


# --- files of SQLite -----------------------------------------------------------------------


def test_the_log_beside_the_database_does_not_grow_without_bound(journal, labels):
    wal = journal.path / "edits.sqlite-wal"
    sizes = []
    for _ in range(60):
        journal.append(os.urandom(300_000))
        journal.wait()
        sizes.append(wal.stat().st_size)
    assert max(sizes) < 6e6
    journal.compact({"labels": np.random.default_rng(0).integers(0, 2**30, (1500, 1500))})
    journal.append(b"x")
    journal.wait()
    journal.append(b"x")
    journal.wait()
    assert wal.stat().st_size < 6e6
    journal.close()
    assert {path.name for path in journal.path.iterdir()} == {"about.json", "edits.sqlite"}


def test_a_log_that_was_cleared_away_loses_nothing(journal, tmp_path):
    journal.append(b"a")
    journal.wait()
    (journal.path / "edits.sqlite-wal").unlink()
    journal.append(b"b")
    journal.wait()
    files = as_killed(journal, tmp_path / "killed")
    journal.close()
    put_back(journal, files)
    assert payloads_after_reopening(journal) == [b"a", b"b"]


@pytest.mark.skipif(sys.platform == "win32", reason="no links")
def test_without_shared_memory_there_is_no_log_beside_the_database(journal):
    """As on network drives."""
    journal.append(b"a")
    journal.close()
    (journal.path / "edits.sqlite-shm").symlink_to("nowhere")  # SQLite follows none
    assert list_journals()[0].n_edits == 1
    again = Journal.reopen(journal.id)
    again.append(b"b")
    again.wait()
    assert not (journal.path / "edits.sqlite-wal").exists()
    assert [s.payload for s in again.read().steps] == [b"a", b"b"]
    assert list_journals(in_use=True)[0].n_edits == 2
    again.close()
    (journal.path / "edits.sqlite-shm").unlink()
    assert payloads_after_reopening(journal) == [b"a", b"b"]


def test_looking_neither_stops_nor_changes_what_is_written(journal):
    journal.append(b"a")
    journal.wait()
    wal = journal.path / "edits.sqlite-wal"
    before = database_of(journal).read_bytes(), wal.read_bytes()
    uri = f"{database_of(journal).as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, isolation_level=None, uri=True)) as looking:
        looking.execute("BEGIN")
        assert looking.execute("SELECT count(*) FROM step").fetchone() == (1,)
        assert list_journals(in_use=True)[0].n_edits == 1
        assert (database_of(journal).read_bytes(), wal.read_bytes()) == before
        journal.append(b"b")
        assert journal.wait(timeout=5)
        assert looking.execute("SELECT count(*) FROM step").fetchone() == (1,)
    assert list_journals(in_use=True)[0].n_edits == 2


# --- journals of version 0.1.0 -------------------------------------------------------------


@pytest.fixture
def old(own_home):
    """Whole; torn in the midst of a step; killed while it began anew."""
    own_home.mkdir(parents=True)
    with zipfile.ZipFile(Path(__file__).with_name("journals_0.1.0.zip")) as file:
        file.extractall(own_home)
    for path in own_home.glob("*.npy"):
        path.rename(own_home.parent / path.name)
    return [f"20260901-10150{i}-{letter * 6}" for i, letter in enumerate("abc")]


def test_journals_of_the_old_format_are_listed_and_converted(old, own_home):
    listed = {info.id: info for info in list_journals()}
    assert [listed[one].n_edits for one in old] == [5, 4, 6]
    assert {info.image.name for info in listed.values()} == {"Präparat 3"}
    assert not any(info.problem for info in listed.values())
    for identity, numbers in zip(old, ([*range(1, 8)], [*range(1, 7)], [8]), strict=True):
        for _ in range(2):
            journal = Journal.reopen(identity)
            restored = journal.read()
            assert [step.number for step in restored.steps] == numbers
            assert restored.committed == 2
            assert journal.image == listed[identity].image
            names = {path.name for path in journal.path.iterdir()}
            assert names == {"about.json", "edits.sqlite"}
            journal.close()
        journal = Journal.reopen(identity)
        assert journal.append(b"new") == numbers[-1] + 1
        journal.close()
    after = {info.id: info for info in list_journals()}
    assert [after[one].n_edits for one in old] == [6, 5, 7]
    labels = np.load(own_home.parent / "whole.npy")
    anew = Journal.reopen(old[2])
    assert (anew.read().arrays["labels"] == labels).all()
    anew.close()


def test_an_old_journal_stays_as_it_is_where_it_cannot_be_converted(old, own_home, monkeypatch):
    folder = own_home / old[0]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real = journal_store.connect

    def full(file, mode):
        db = real(file, mode)
        db.execute("PRAGMA max_page_count=2")
        return db

    with monkeypatch.context() as patch:
        patch.setattr(journal_store, "connect", full)
        with pytest.raises(OutputError, match="disk is full"):
            Journal.reopen(old[0])
    for name, content in before.items():
        assert (folder / name).read_bytes() == content
    assert {info.id: info.n_edits for info in list_journals()}[old[0]] == 5
    (base,) = folder.glob("*.snap")
    base.write_bytes(before[base.name][:30])
    (info,) = (info for info in list_journals() if info.id == old[0])
    assert "damaged" in info.problem
    assert info.image.name == "Präparat 3"
    with pytest.raises(JournalError, match="damaged"):
        Journal.reopen(old[0])
    (folder / "about.json").write_text("{")
    assert any("cannot be read" in info.problem for info in list_journals())
    discard_journal(old[0])


def test_version_0_1_0_would_not_clear_away_what_it_cannot_read(journal):
    journal.wait(0)
    about = json.loads((journal.path / "about.json").read_text())
    assert about["schema_version"] > 1
