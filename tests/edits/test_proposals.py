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
from napari_sa2net.edits.proposals import SAME, Changed
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


@pytest.mark.parametrize("wider", [1, 3, 4])
def test_what_is_nearly_as_it_was_is_left_as_it_is(wider: int) -> None:
    """A cell 20 px wide: of 21, 23 and 24 it is 0.952, 0.870 and 0.833."""
    old, new = plane(l1=(5, 15, 5, 25)), plane(l9=(5, 15, 5, 25 + wider))
    patch = proposed(old, new, NOTHING)
    assert len(patch.rows) == (0 if 20 / (20 + wider) >= SAME else 10)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("beyond", [False, True])
def test_only_where_the_plane_goes_on_the_edge_of_a_box_cuts(turns: int, beyond: bool) -> None:
    """A new object at one edge: cut there by a box, whole at the border of the image."""
    new = np.rot90(plane(l1=(0, 8, 20, 30)), turns)  # above, to the left, below, to the right
    above, left = ((beyond, 0), (0, beyond), (0, 0), (0, 0))[turns]
    below, right = ((0, 0), (0, 0), (beyond, 0), (0, beyond))[turns]
    shape = (60 + above + below, 60 + left + right)
    patch = proposed(np.zeros_like(new), new, NOTHING, (above, left), shape)
    assert len(patch.rows) == (0 if beyond else len(proposed(new * 0, new, NOTHING).rows))
    assert len(proposed(new * 0, new, NOTHING).rows) > 0


@pytest.mark.parametrize(
    ("kind", "meanwhile", "wins"),
    [
        ("reviewed", True, True),
        ("ignore", True, True),
        ("reviewed", False, False),
        ("ignore", False, False),
    ],
)
def test_only_regions_that_were_marked_meanwhile_are_left(kind, meanwhile, wins) -> None:
    corrections = Corrections(plane(**OLD))
    history = History(corrections)
    patch = proposed(corrections.labels, plane(**NEW), NOTHING)
    before = Snapshot.of(corrections, ())
    history.do(mark_region(corrections, kind, box=(35, 36, 35, 36)))  # where 4 would be
    _, changed = laid(corrections, patch, before if meanwhile else None)
    assert (len(changed.new) == 0) == wins
    assert changed.gone == (3,)


def test_what_is_tied_to_an_edited_cell_over_others_is_left_too() -> None:
    """A chain: each new cell takes half of two old ones, and the last is accepted."""
    old = plane(**{f"l{i + 1}": (5, 15, 10 * i, 10 * i + 10) for i in range(4)})
    new = plane(**{f"l{i + 5}": (5, 15, 10 * i + 5, 10 * i + 15) for i in range(3)})
    new[40:50, 40:50] = 9  # and one elsewhere
    corrections = Corrections(old.copy())
    patch = proposed(old, new, NOTHING)
    since = Snapshot.of(corrections, ())
    assert set(patch.old.tolist()) == {0, 1, 2, 3, 4}
    History(corrections).do(accept(corrections, [4]))
    laid(corrections, patch, since)
    np.testing.assert_array_equal(corrections.labels[:30], old[:30])
    assert (corrections.labels[40:50, 40:50] == 5).all()


def test_of_pieces_that_lie_apart_the_largest_is_taken() -> None:
    old = plane(l1=(20, 24, 0, 60), l2=(0, 60, 30, 33))
    patch = proposed(old, plane(l5=(10, 30, 20, 50)), old > 0)
    rows, cols = patch.pixels()
    result = np.zeros_like(old)
    result[rows, cols] = 1
    # pieces of 10 × 10, 10 × 17, 6 × 10 and 6 × 17 px
    np.testing.assert_array_equal(result, plane(l1=(10, 20, 33, 50)))


def test_changes_are_said_in_words() -> None:
    assert Changed((1,), (), ()).words == "1 cell changed"
    assert Changed((), (2, 3), ()).words == "2 cells new"
    assert Changed((), (), (4,)).words == "1 cell gone"
    assert Changed((1, 2), (), (4,)).words == "2 cells changed, 1 gone"
    assert Changed((), (), ()).words == "0 cells changed"
    assert [bool(Changed(*one)) for one in (((), (), ()), ((1,), (), ()), ((), (1,), ()))] == [
        False,
        True,
        True,
    ]
    assert Changed((), (), (1,))


@pytest.mark.parametrize(("columns", "changes"), [(17, False), (16, True)])
def test_a_difference_of_a_sixth_is_no_change(columns: int, changes: bool) -> None:
    """17 of 20 columns are 0.85 of both together."""
    old = plane(l1=(5, 25, 5, 25))
    patch = proposed(old, plane(l7=(5, 25, 5, 5 + columns)), NOTHING, (0, 0))
    assert bool(patch) == changes
