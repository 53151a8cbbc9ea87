"""Corrections of one array: what is noted of them, what is on disk, what is held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_sa2net.app import edit_session
from napari_sa2net.app.cells import CellSource
from napari_sa2net.app.edit_session import EditSession
from napari_sa2net.edits import Patch, accept, delete, mark_region, merge, split
from napari_sa2net.errors import EditConflictError, JournalError


class Log:
    """A journal that is a list."""

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays
        self.entries: list[Any] = []
        self.error: Any = None
        self.number = self.durable = 0
        self.did: list[str] = []

    def append(self, payload: bytes, header: Any) -> None:
        self.entries.append((header, bool(payload)))
        self.number += 1

    def mark_committed(self) -> None:
        self.did.append("committed")

    def close(self) -> None:
        self.did.append("closed")


def session(planes: int = 0) -> EditSession:
    labels = np.zeros((40, 60), np.int32)
    labels[5:15, 5:15], labels[5:15, 25:35], labels[20:30, 5:15] = 1, 2, 3
    if planes:
        labels = np.stack([labels] * planes)
    return EditSession(labels, Log)  # type: ignore[arg-type]


def test_what_is_noted_of_steps_goes_with_those_taken_back() -> None:
    one = session()
    first = one.do(accept(one.corrections, [1]), {"wave": 1}).step
    second = one.do(accept(one.corrections, [2]), {"carried": "x", "planes": []}).step
    third = one.do(accept(one.corrections, [3])).step
    assert one.record_of(first) == one.record_of(first, "wave") == {"wave": 1}
    assert one.record_of(first, "carried") is None
    assert one.record_of(third) is None
    assert one.waves == ({"wave": 1},)
    assert one.carried == ({"carried": "x", "planes": []},)
    one.undo()
    one.undo()
    assert one.carried == ()
    assert one.record_of(second) is not None  # it may be done again
    one.redo()
    assert len(one.carried) == 1
    one.undo()
    one.do(delete(one.corrections, [2]))  # something else: it cannot
    assert one.record_of(second) is None
    assert one.waves == ({"wave": 1},)


def test_a_step_takes_the_place_of_the_newest_or_that_stays() -> None:
    one = session()
    before = one.labels.copy()
    change = one.do(split(one.corrections, [(10, 0), (10, 20)]))
    other = merge(one.corrections, labels=[2, 3])  # made of what is there now
    with pytest.raises(EditConflictError):
        one.do(change.step)  # it does not fit any more
    after = one.labels.copy()
    with pytest.raises(EditConflictError):
        one.extend(other.inverse(), {"carried": "x"})
    np.testing.assert_array_equal(one.labels, after)
    assert one.history.done == [change.step]
    assert one.carried == ()
    one.undo()
    wider = merge(one.corrections, labels=[1, 2])
    one.redo()
    whole = one.extend(wider, {"carried": "x"})
    assert one.history.done == [wider]
    assert one.carried == ({"carried": "x"},)
    # reviewed pixels of both may be others now
    assert set(change.reviewed) <= set(whole.reviewed)
    assert len(whole.reviewed[()]) > len(change.reviewed[()])
    one.undo()
    np.testing.assert_array_equal(one.labels, before)


@pytest.mark.parametrize("script", [False, True])
def test_an_area_that_was_added_can_be_taken_back_unless_a_script_wrote_over_it(
    script: bool,
) -> None:
    one = session()
    former = one.labels.copy()
    new = one.labels.copy()
    new[32:38, 40:50] = 9
    patch = Patch.between((), (0, 0), former, new)
    one.labels[:] = new
    if script:
        one.labels[33, 41] = 77
    one.record_area((patch,))
    assert len(one.history.done) == (not script)
    if not script:
        assert 9 in one.corrections.plane(()).labels.tolist()
        assert one.corrections.marked() == {}  # nobody has reviewed it
        one.undo()
        np.testing.assert_array_equal(one.labels, former)


def test_steps_are_safe_when_they_are_on_disk() -> None:
    one = session()
    assert one.is_safe
    assert one.close() is None
    one.do(accept(one.corrections, [1]))
    log: Any = one.journal
    assert log.arrays["labels"] is one.labels
    assert log.entries == [({"move": "do"}, True)]
    assert not one.is_safe
    log.durable = 1
    assert one.is_safe
    log.error = JournalError("full")
    assert not one.is_safe
    log.error = None
    one.do(accept(one.corrections, [2]), {"wave": 2})
    one.undo()
    one.redo()
    assert log.entries[1:] == [
        ({"move": "do", "wave": {"wave": 2}}, True),
        ({"move": "undo"}, False),
        ({"move": "redo"}, False),
    ]
    assert one.close() is None
    assert log.did == ["closed"]  # what was not kept is offered again
    one.tally.keep(2)
    one.close()
    assert log.did == ["closed", "committed", "closed"]

    def broken() -> None:
        raise JournalError("gone")

    log.close = broken
    assert str(one.close()) == "gone"


def test_without_a_journal_correcting_goes_on_and_the_next_step_tries_again() -> None:
    one = session()
    begin = one._begin_journal

    def fails(_: Any) -> Any:
        raise JournalError("no room")

    one._begin_journal = fails
    one.do(accept(one.corrections, [1]))
    one.do(delete(one.corrections, [2]))
    assert str(one.journal_error) == "no room"
    assert not one.is_safe
    one._begin_journal = begin
    one.do(accept(one.corrections, [3]))
    assert one.journal_error is None
    log: Any = one.journal
    # what was done before is in its labels, and what was said, in one entry
    assert log.entries == [({"move": "state"}, True)]
    one.undo()
    assert [header["move"] for header, _ in log.entries] == ["state", "state"]
    one.redo()
    one.do(delete(one.corrections, [1]))
    assert log.entries[-1] == ({"move": "do"}, True)


def test_few_planes_are_held_those_shown_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit_session, "MAX_PLANES", 2)
    one = session(planes=5)
    forgotten: list[Any] = []
    monkeypatch.setattr(one.mask, "forget", forgotten.append)
    for plane in (0, 1, 0, 2):
        one.show_plane((plane,))
    assert forgotten == [(1,)]
    forgotten.clear()
    one.reviewed((0,))
    one.reviewed((2,))
    assert forgotten == []
    mask = one.reviewed((4,))
    assert forgotten == [(4,)]
    mask[:] = True
    assert not one.reviewed((4,)).any()  # it was a copy


def test_cells_and_planes_are_counted_as_they_are_now() -> None:
    one = session(planes=3)
    assert one.n_cells == 3
    assert one.reviewed_planes() == []
    one.do(delete(one.corrections, [2], (1,)))
    assert one.n_cells == 3  # it is on other planes
    for plane in (0, 2):
        one.do(delete(one.corrections, [2], (plane,)))
    assert one.n_cells == 2
    assert [one.n_deleted((plane,)) for plane in range(3)] == [1, 1, 1]
    one.undo()
    assert one.n_cells == 3
    assert one.n_deleted((2,)) == 0
    assert one.reviewed_planes() == [(0,), (1,)]
    box = [(32, 32), (32, 50), (38, 50), (38, 32)]
    one.do(mark_region(one.corrections, "ignore", (2,), polygon=box))
    assert one.reviewed_planes() == [(0,), (1,)]  # nothing can be learned from that
    assert one.changed[(0,)] == 1
    assert one.changed[(2,)] == 3


def test_the_order_of_doubt_is_kept_until_more_is_known() -> None:
    one = session(planes=3)
    source = CellSource("c", "cells", one.labels, (1,))
    queue = one.queue(source)
    assert one.queue(source) is queue
    one.forget_queue()
    assert one.queue(source) is not queue
