"""Objects that a model proposes: what stays, what a person did meanwhile, what is counted."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.edits import (
    Corrections,
    History,
    Snapshot,
    accept,
    delete,
    mark_region,
    proposal,
    proposed,
    redraw_mask,
)
from napari_sa2net.errors import NothingToEditError


def plane(**boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Rectangles (y0, y1, x0, x1) by label."""
    labels = np.zeros((60, 60), np.int32)
    for name, (y0, y1, x0, x1) in boxes.items():
        labels[y0:y1, x0:x1] = int(name[1:])
    return labels


OLD = {"l1": (5, 15, 5, 15), "l2": (5, 15, 30, 40), "l3": (30, 40, 5, 15)}
#: 1 larger, 2 hardly another, 3 not there, and one more
NEW = {"l7": (5, 19, 5, 15), "l8": (5, 15, 30, 41), "l9": (30, 40, 30, 40)}
NOTHING = np.zeros((60, 60), bool)


def laid(corrections: Corrections, patch, since: Snapshot | None = None):
    since = since or Snapshot.of(corrections, ())
    step, changed = proposal(corrections, (), patch, "wave 1", since)
    History(corrections).do(step)
    return step, changed


def test_objects_change_appear_and_go() -> None:
    corrections = Corrections(plane(**OLD))
    step, changed = laid(corrections, proposed(corrections.labels, plane(**NEW), NOTHING))
    assert (changed.changed, changed.new, changed.gone) == ((1,), (4,), (3,))
    assert step.words == "wave 1 (1 cell changed, 1 new, 1 gone)"
    want = plane(l1=NEW["l7"], l2=OLD["l2"], l4=NEW["l9"])
    np.testing.assert_array_equal(corrections.labels, want)
    assert not corrections.marked()
    corrections.revert(step)
    np.testing.assert_array_equal(corrections.labels, plane(**OLD))


def test_what_stays_stays_to_the_pixel_and_whole() -> None:
    old = plane(**OLD)
    stays = NOTHING.copy()
    stays[6, 6] = True  # of cell 1
    stays[30:40, 30:35] = True  # half of where one would be new: it yields
    patch = proposed(old, plane(**NEW), stays)
    assert set(patch.old.tolist()) | set(patch.new.tolist()) == {3, 0}


def test_a_new_object_yields_in_one_piece() -> None:
    old = plane(l1=(20, 24, 0, 60))
    patch = proposed(old, plane(l5=(10, 40, 10, 20)), old > 0)
    result = old.copy()
    rows, cols = patch.pixels()
    result[rows, cols] = 9
    np.testing.assert_array_equal(result, plane(l1=(20, 24, 0, 60), l9=(24, 40, 10, 20)))


@pytest.mark.parametrize("meanwhile", ["accepted", "deleted", "drawn", "ignored", "marked"])
def test_what_was_edited_meanwhile_wins(meanwhile: str) -> None:
    corrections = Corrections(plane(**OLD))
    history = History(corrections)
    patch = proposed(corrections.labels, plane(**NEW), NOTHING)
    since = Snapshot.of(corrections, ())
    if meanwhile == "accepted":
        history.do(accept(corrections, [1]))
    elif meanwhile == "deleted":
        history.do(delete(corrections, [1]))
    elif meanwhile == "drawn":  # where the new part of cell 1 would be
        history.do(redraw_mask(corrections, np.ones((3, 3), bool), (16, 8)))
    else:
        kind = "ignore" if meanwhile == "ignored" else "reviewed"
        history.do(mark_region(corrections, kind, box=(16, 19, 0, 20)))
    before = corrections.labels.copy()
    _, changed = laid(corrections, patch, since)
    assert (len(changed.changed), len(changed.new), changed.gone) == (0, 1, (3,))
    np.testing.assert_array_equal(corrections.labels[:29], before[:29])


def test_neighbours_of_what_was_edited_are_left_with_it() -> None:
    """One proposed object for two: with one of them accepted, the other stays, too."""
    corrections = Corrections(plane(l1=(5, 15, 5, 15), l2=(5, 15, 15, 25)))
    patch = proposed(corrections.labels, plane(l7=(5, 15, 5, 25)), NOTHING)
    since = Snapshot.of(corrections, ())
    History(corrections).do(accept(corrections, [2]))
    with pytest.raises(NothingToEditError):
        proposal(corrections, (), patch, "wave 1", since)


def test_in_a_box_what_reaches_beyond_it_stays() -> None:
    old = plane(l1=(5, 15, 5, 15), l2=(5, 15, 20, 35))
    new = plane(l7=(5, 19, 5, 15), l8=(5, 20, 20, 40), l9=(18, 30, 2, 12))
    box = np.s_[0:30, 0:30]
    patch = proposed(old[box], new[box], NOTHING[box], (0, 0), (60, 60))
    # 8 and 9 are cut by edges of the box, and 2 reaches beyond it
    assert set(patch.new.tolist()) == {1}
    assert patch.box == (15, 19, 5, 15)


def test_the_plane_of_a_stack() -> None:
    labels = np.stack([plane(**OLD)] * 2)
    corrections = Corrections(labels.copy())
    patch = proposed(labels[1], plane(**NEW), NOTHING)
    step, _ = proposal(corrections, (1,), patch, "wave 1", Snapshot.of(corrections, (1,)))
    History(corrections).do(step)
    np.testing.assert_array_equal(corrections.labels[0], labels[0])
    assert corrections.labels[1].max() == 4
