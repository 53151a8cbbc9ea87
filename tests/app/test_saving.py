"""Cells of a layer as files, without a window: where they lie, and what is said of it."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.saving import Placed, Saving
from napari_sa2net.app.session import Session

#: of one axis: a place, or a part in steps, as arrays are indexed
INDEX = st.one_of(
    st.integers(-5, 4),
    st.slices(5).filter(lambda part: part.step is None or part.step > 0),
)


@given(index=st.tuples(INDEX, INDEX, INDEX), n_axes=st.integers(0, 3), corner=st.data())
@settings(max_examples=150, deadline=None)
def test_a_part_is_read_as_the_whole_would_be(index: Any, n_axes: int, corner: Any) -> None:
    shape, inner = (5, 5, 5), (2, 3, 4)
    first = tuple(corner.draw(st.integers(0, n - m)) for n, m in zip(shape, inner, strict=True))
    labels = np.arange(1, 25, dtype=np.int32).reshape(inner)
    without = np.array([3, 7, 24])
    whole = np.zeros(shape, np.int32)
    whole[tuple(slice(a, a + m) for a, m in zip(first, inner, strict=True))] = np.where(
        np.isin(labels, without), 0, labels
    )
    placed = Placed(labels, first, shape, without=without)
    key = index[:n_axes]
    np.testing.assert_array_equal(placed[key], whole[key])
    # labels with an axis that the image lacks, of which the first place counts
    deeper = np.stack([labels, 0 * labels], 1)
    placed = Placed(deeper, first, shape, (1,), without)
    np.testing.assert_array_equal(placed[key], whole[key])
    assert placed[key].dtype == np.int32


def test_it_is_an_array_to_who_wants_one() -> None:
    labels = np.ones((2, 3), np.uint16)
    placed = Placed(labels, (1, 1), (4, 5))
    assert np.asarray(placed).tolist() == np.pad(labels, ((1, 1), (1, 1))).tolist()
    assert np.asarray(placed).dtype == np.uint16
    assert np.asarray(placed, np.float32).dtype == np.float32
    assert placed[2].tolist() == [0, 1, 1, 1, 0]


class Desk:
    """A queue of what is written, told of on the thread of the test."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.link = EngineLink(
            Session(), self.calls.put, make_client=lambda _: SimpleNamespace()
        )  # type: ignore[arg-type,return-value]
        self.saving = Saving(self.link)
        self.changes = 0
        self.saving.changed.connect(self._changed)
        self.go = threading.Event()

    def _changed(self) -> None:
        self.changes += 1

    def write(self, name: str, what: str = "", error: Exception | None = None) -> None:
        def work() -> None:
            assert self.go.wait(30)
            if error is not None:
                raise error

        self.saving.write(Path(f"/somewhere/{name}"), work, what, f"layer of {name}")

    def told(self) -> str:
        self.calls.get(timeout=30)()
        return self.saving.said


@pytest.fixture
def desk() -> Any:
    one = Desk()
    yield one
    one.go.set()
    one.saving.close()


LARGE = SimpleNamespace(size=2**24 + 1, dtype=np.dtype(np.int32))
SMALL = SimpleNamespace(size=2**24, dtype=np.dtype(np.int32))


def test_what_is_written_is_told_with_what_it_holds(desk: Desk) -> None:
    assert not desk.saving.busy
    desk.write("a.tif", "12 cells")
    assert desk.saving.busy
    assert (desk.saving.said, desk.saving.of) == ("Saving a.tif…", "layer of a.tif")
    assert desk.changes == 1
    desk.write("b.tif")
    desk.go.set()
    assert desk.told() == "Saved a.tif: 12 cells"
    assert desk.saving.of == "layer of a.tif"
    assert desk.saving.busy
    assert desk.told() == "Saved b.tif"
    assert not desk.saving.busy
    assert desk.changes == 4


def test_what_fails_is_an_error_and_the_next_is_written(desk: Desk) -> None:
    desk.write("a.tif", error=OSError("No space left on device"))
    desk.write("b.tif")
    desk.go.set()
    assert desk.told() == ""
    error = desk.link.session.error
    assert error is not None
    assert "No space left" in error.message
    assert desk.saving.busy
    assert desk.told() == "Saved b.tif"


@pytest.mark.parametrize("labels", [SMALL, LARGE])
def test_cells_that_change_while_they_are_read_are_to_be_saved_again(
    desk: Desk, labels: Any
) -> None:
    again = "; cells were changed meanwhile: save them again" if labels is LARGE else ""
    desk.saving.edited(labels)  # before: that is no matter
    desk.write("a.tif")
    desk.saving.edited(labels)
    desk.saving.edited(SMALL)
    desk.go.set()
    assert desk.told() == f"Saved a.tif{again}"
    desk.write("b.tif")
    assert desk.told() == "Saved b.tif"


def test_nothing_is_begun_after_the_end_and_what_waits_is_written(desk: Desk) -> None:
    done = threading.Event()
    desk.write("a.tif")
    desk.saving.write(Path("b.tif"), done.set)
    changes = desk.changes
    desk.saving.close()
    desk.go.set()
    assert done.wait(30)
    desk.write("c.tif")
    assert desk.saving.said == "Saving b.tif…"
    assert desk.changes == changes
