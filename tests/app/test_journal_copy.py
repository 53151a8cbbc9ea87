"""Labels are copied into a journal while a person corrects: nothing waits, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sa2net.app import link
from napari_sa2net.app.edit_session import find_offers, labels_before, restored_session
from napari_sa2net.data import journal, journal_store
from napari_sa2net.data.journal import list_journals
from napari_sa2net.errors import OutputError
from napari_sa2net.provenance import image_fingerprint

ROWS = 10


class SlowCopy:
    """Copies one block of ten rows for each leave."""

    def __init__(self) -> None:
        self.leave = threading.Semaphore(0)
        self.n = 0
        self.copied = threading.Condition()

    def slabs(self, shape: Any, dtype: Any) -> Iterator[Any]:
        for start in range(0, shape[0], ROWS):
            assert self.leave.acquire(timeout=30)
            yield (), (start, min(shape[0], start + ROWS))
            with self.copied:  # the next one is asked for
                self.n += 1
                self.copied.notify_all()

    def copy(self, n: int) -> None:
        """So many blocks, and come back when they are copied."""
        until = self.n + n
        self.leave.release(n)
        with self.copied:
            assert self.copied.wait_for(lambda: self.n >= until, 30)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowCopy]:
    copy = SlowCopy()
    monkeypatch.setattr(journal_store, "_slabs", copy.slabs)
    yield copy
    copy.leave.release(10_000)


def grid() -> Any:
    """48 cells of 8 px on 80 × 60 px."""
    labels = np.zeros((80, 60), np.int32)
    cells = np.arange(1, 49).reshape(8, 6)
    for y in range(8):
        for x in range(6):
            labels[10 * y + 1 : 10 * y + 9, 10 * x + 1 : 10 * x + 9] = cells[y, x]
    return labels


def cell(row: int, column: int) -> tuple[int, int]:
    return 10 * row + 4, 10 * column + 4


def painted(desk: Any, labels: Any, row: int) -> None:
    """A stroke across a row of cells, as napari makes it: in the labels before it is told."""
    where = np.mgrid[10 * row + 3 : 10 * row + 5, 5:55].reshape(2, -1)
    old = labels[tuple(where)].copy()
    labels[tuple(where)] = 99
    assert desk.controller.stroke("cells", [(tuple(where), old, 99)])


def test_corrections_wait_for_no_copy_and_all_are_restored(desks: Any, slow: SlowCopy) -> None:
    labels = grid()
    began = labels.copy()
    desk = desks(labels)
    controller, state = desk.controller, desk.state
    assert controller.delete(point=cell(0, 0))
    slow.copy(2)  # with that in it, and nothing of what comes
    for row in range(8):
        assert controller.delete(point=cell(row, 1))
    assert not state.safe
    slow.copy(2)
    painted(desk, labels, 0)
    painted(desk, labels, 3)
    painted(desk, labels, 7)
    slow.copy(1)
    assert controller.undo()  # of what is partly in the copy
    assert controller.undo()
    assert controller.redo()
    slow.copy(1)
    assert controller.merge([cell(7, 3), cell(7, 4)])
    assert controller.undo()
    assert controller.mark("ignore", [(2, 2), (2, 30), (30, 30)])
    session = controller.session
    assert session.journal.durable == -1
    assert list_journals(in_use=True) == []
    slow.leave.release(2)
    assert session.journal.wait()
    assert session.is_safe
    stored = session.journal.read()
    assert (stored.arrays["labels"] != began).any()
    np.testing.assert_array_equal(labels_before(stored), began)
    controller.close()
    again, cells = restored_session(session.journal.id, desk.image)
    np.testing.assert_array_equal(cells.labels, labels)
    assert again.corrections.marked() == session.corrections.marked()
    assert [step.words for step in again.history.done] == [
        step.words for step in session.history.done
    ]
    while again.history.done:
        again.undo()
    np.testing.assert_array_equal(cells.labels, began)
    again.journal.discard()


def test_corrections_do_not_wait_for_an_image_that_is_read_slowly(desks: Any) -> None:
    read = threading.Event()

    class Far:
        shape, dtype, ndim = (80, 60), np.dtype(np.uint8), 2

        def __getitem__(self, index: Any) -> Any:
            assert read.wait(30)
            return np.zeros(self.shape, self.dtype)[index]

    desk = desks(grid(), image=Far())
    assert desk.controller.delete(point=cell(0, 0))
    one = desk.controller.session.journal
    assert one.durable == -1
    read.set()
    assert one.wait()
    desk.controller.close()
    (info,) = list_journals()
    assert info.image.name == desk.image.name
    assert info.image.fingerprint == image_fingerprint(np.zeros((80, 60), np.uint8))


def test_a_stroke_that_is_under_way_while_all_is_copied(desks: Any, slow: SlowCopy) -> None:
    """napari paints first and tells when the button is let go."""
    labels = grid()
    began = labels.copy()
    desk = desks(labels)
    assert desk.controller.delete(point=cell(0, 0))
    where = np.mgrid[33:35, 5:55].reshape(2, -1)
    old = labels[tuple(where)].copy()
    labels[tuple(where)] = 99
    slow.leave.release(8)
    assert desk.controller.session.journal.wait()
    assert desk.controller.delete(point=cell(7, 0))
    assert desk.controller.stroke("cells", [(tuple(where), old, 99)])
    session = desk.controller.session
    assert session.journal.wait()
    np.testing.assert_array_equal(labels_before(session.journal.read()), began)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_of_the_copy_it_has_what_was_acknowledged() -> None:
    script = Path(__file__).with_name("crash_copy.py")
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert figures["killed before all was copied"] >= 2
    assert figures["killed after that"] >= 2
    assert figures["steps restored"] > 10


def test_closed_in_the_midst_it_waits_as_long_as_blocks_are_copied(
    desks: Any, slow: SlowCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "CLOSE_TIMEOUT", 0.5)
    labels = grid()
    desk = desks(labels)
    assert desk.controller.delete(point=cell(7, 0))
    one = desk.controller.session.journal
    pause = threading.Event()

    def now_and_then() -> None:
        for _ in range(8):
            pause.wait(0.2)
            slow.leave.release()

    threading.Thread(target=now_and_then).start()
    desk.controller.close()
    again, cells = restored_session(one.id, desk.image)
    np.testing.assert_array_equal(cells.labels, labels)
    again.journal.discard()

    other = desks(grid())
    assert other.controller.delete(point=cell(7, 0))
    other.controller.forget_cells("cells")  # its layer is deleted, and no block is copied
    assert "in time" in str(other.link.session.error)


def test_a_window_closes_while_the_copy_goes_on(
    desks: Any, slow: SlowCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CLOSE_S", 0.05)
    labels = grid()
    desk = desks(labels)
    assert desk.controller.delete(point=cell(7, 0))
    one = desk.controller.session.journal
    desk.controller.close()
    assert one.durable == -1  # not one block is copied
    slow.leave.release(8)
    for thread in threading.enumerate():
        if thread.name == link.CLOSING:
            thread.join(30)
    (offer,) = find_offers(one.image.fingerprint, desk.image.name)
    assert offer.is_whole
    again, cells = restored_session(offer.id, desk.image)
    np.testing.assert_array_equal(cells.labels, labels)
    again.journal.discard()


def test_what_a_closing_window_cannot_write_is_told(
    desks: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = journal_store.put

    def full(db: Any, table: str, row: Any) -> None:
        if table == "step" and row.number > 1:
            raise OSError(28, "No space left on device")
        real(db, table, row)

    monkeypatch.setattr(journal_store, "put", full)
    desk = desks(grid())
    assert desk.controller.delete(point=cell(7, 0))
    one = desk.controller.session.journal
    assert one.wait()
    assert desk.controller.delete(point=cell(6, 0))
    desk.controller.close()
    assert f"The last corrections of {desk.image.name!r} were not written" in caplog.text
    assert "No space" in caplog.text
    (offer,) = find_offers(one.image.fingerprint, desk.image.name)
    assert (offer.n_edits, offer.is_whole) == (1, False)


def test_closed_with_nothing_to_restore_the_copy_is_given_up(
    desks: Any, slow: SlowCopy, home: Path
) -> None:
    desk = desks(grid())
    assert desk.controller.delete(point=cell(7, 0))
    slow.copy(3)
    assert desk.controller.undo()
    # the block that is being copied ends only when the copy has been given up
    released = threading.Timer(0.5, slow.leave.release)
    released.start()
    desk.controller.close()
    released.join()
    assert slow.n < 8
    assert [path.name for path in (home / "journals").iterdir()] == [".lock"]


def test_a_disk_that_fills_in_the_midst_is_told_and_corrections_go_on(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_store, "_CHUNK_BYTES", 40_000)
    labels = np.random.default_rng(0).integers(1, 9, (300, 300)).astype(np.int32)
    labels[:10, :10] = 0
    labels[2:8, 2:8] = 100
    began = labels.copy()
    real = journal_store.connect

    def full(file: Path, mode: str) -> Any:
        db = real(file, mode)
        db.execute("PRAGMA max_page_count=20")
        return db

    desk = desks(labels)
    controller, state = desk.controller, desk.state
    with monkeypatch.context() as patch:
        patch.setattr(journal_store, "connect", full)
        assert controller.mark("ignore", [(20, 20), (20, 40), (40, 40)])
        one = controller.session.journal
        with pytest.raises(OutputError, match="disk is full"):
            one.wait()
        assert not list(one.path.iterdir())  # what was copied takes no room
        assert controller.delete(point=(4, 4))
        with pytest.raises(OutputError, match="disk is full"):
            one.wait()
        controller.show()
        assert "Free some space" in state.journal_problem
        assert not state.safe
    assert controller.undo()
    assert controller.redo()
    assert one.wait()
    controller.show()
    assert state.safe
    assert state.journal_problem == ""
    np.testing.assert_array_equal(labels_before(one.read()), began)
    controller.close()
    again, cells = restored_session(one.id, desk.image)
    np.testing.assert_array_equal(cells.labels, labels)
    assert len(again.corrections.regions) == 2  # marked, and where a cell was deleted
    again.journal.discard()


def test_no_second_copy_lies_in_memory(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_store, "_CHUNK_BYTES", 2**18)
    labels = np.zeros((2000, 2000), np.int32)
    labels[:1000, :1000] = np.kron(grid(), np.ones((20, 20), np.int32))[:1000, :1000]
    desk = desks(labels, image=np.zeros((2000, 2000), np.uint8))
    assert desk.controller.open() is not None
    tracemalloc.start()
    try:
        assert desk.controller.delete(point=(300, 300))
        assert desk.controller.session.journal.wait()
        # in pieces: far from all, whatever else goes on in this process
        assert tracemalloc.get_traced_memory()[1] < labels.nbytes / 2
    finally:
        tracemalloc.stop()
