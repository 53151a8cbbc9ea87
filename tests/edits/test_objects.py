"""Split, merge and delete."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net import edits
from napari_sa2net.edits import (
    Corrections,
    History,
    ReviewedMask,
    ReviewQueue,
    accept,
    delete,
    delete_everywhere,
    label_at,
    labels_in,
    labels_under,
    merge,
    split,
)
from napari_sa2net.errors import EditError, NothingToEditError


@pytest.fixture
def blob() -> np.ndarray:
    """One wide object 7 and a small one 3 beside it, touching."""
    labels = np.zeros((30, 60), np.int32)
    labels[5:25, 5:45] = 7
    labels[5:25, 45:50] = 3
    return labels


def done(labels: np.ndarray, step_of) -> Corrections:
    corrections = Corrections(labels)
    History(corrections).do(step_of(corrections))
    return corrections


def test_what_is_told_of_all_objects_belongs_to_who_asked(blob):
    plane = Corrections(blob).plane()
    for name, told in (("labels", [3, 7]), ("areas", [100, 800])):
        getattr(plane, name)[:] = 0
        assert sorted(getattr(plane, name).tolist()) == told
    plane.boxes[:] = 0
    assert plane.boxes.max() == 50


@pytest.mark.parametrize(
    "line",
    [
        [(0, 15), (29, 15)],
        [(0, 5), (29, 30)],  # diagonal: nothing may slip through
        [(0, 30), (15, 12), (29, 26)],
        [(-400, 15), (500, 15)],
    ],
)
def test_split_cuts_and_loses_no_pixel(blob, line):
    before = blob.copy()
    corrections = done(blob, lambda c: split(c, line))
    assert set(np.unique(blob)) == {0, 3, 7, 8}
    np.testing.assert_array_equal(blob > 0, before > 0)
    np.testing.assert_array_equal(blob == 3, before == 3)
    parts = [blob == 7, blob == 8]
    assert parts[0].sum() >= parts[1].sum() > 100
    for part in parts:
        assert ndimage.label(part, np.ones((3, 3)))[1] == 1
    assert corrections.marked() == {7: "corrected", 8: "corrected"}


def test_split_goes_through_all_cells_on_its_way(blob):
    done(blob, lambda c: split(c, [(15, 0), (15, 59)]))
    assert len(np.unique(blob)) == 5
    upper, lower = np.unique(blob[5:15, 5:50]), np.unique(blob[16:25, 5:50])
    assert len(upper) == len(lower) == 2
    assert not set(upper) & set(lower)


def test_split_of_the_cells_that_were_asked_for(blob):
    done(blob, lambda c: split(c, [(15, 0), (15, 59)], labels=[3]))
    assert (blob == 7).sum() == 800
    assert len(np.unique(blob)) == 4


def test_a_line_that_stops_short_is_lengthened(blob):
    done(blob, lambda c: split(c, [(0, 25), (17, 25)]))
    assert (blob == 8).sum() + (blob == 7).sum() == 800
    assert min((blob == 8).sum(), (blob == 7).sum()) > 350


def test_a_short_dab_does_not_cut(blob):
    corrections = Corrections(blob)
    with pytest.raises(EditError, match="does not cut cell 7 through"):
        split(corrections, [(4, 25), (8, 25)])
    with pytest.raises(EditError, match="does not cut cell 7"):
        split(corrections, [(24, 5), (24, 44)], labels=[7])  # along the outline
    with pytest.raises(NothingToEditError, match="touches no cell"):
        split(corrections, [(0, 0), (29, 0)])
    with pytest.raises(NothingToEditError, match="touches no cell"):
        split(corrections, [(0, 10), (29, 10)], labels=[3])


def test_pieces_that_lay_apart_stay_with_the_largest_part(blob):
    blob[27:30, 5:20] = 7
    done(blob, lambda c: split(c, [(0, 15), (26, 15)], labels=[7]))
    assert (blob[27:30, 5:20] == 7).all()
    assert (blob[5:25, 16:45] == 7).all()


def test_a_closed_line_cuts_out_the_middle(blob):
    angle = np.linspace(0, 2 * np.pi, 60)
    ring = np.stack([15 + 6 * np.sin(angle), 25 + 6 * np.cos(angle)], axis=1)
    done(blob, lambda c: split(c, ring))
    assert blob[15, 25] == 8
    assert blob[6, 25] == 7


def test_merge_by_a_stroke_keeps_the_largest_label(blob):
    corrections = done(blob, lambda c: merge(c, [(15, 40), (15, 48)]))
    assert set(np.unique(blob)) == {0, 7}
    assert (blob == 7).sum() == 900
    assert corrections.marked() == {7: "corrected"}


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_merge_fills_a_narrow_gap(gap):
    labels = np.zeros((30, 40), np.int32)
    labels[5:25, 5:15], labels[5:25, 15 + gap : 30] = 1, 2
    done(labels, lambda c: merge(c, labels=[1, 2]))
    assert (labels[5:25, 5:30] == 2).all()
    assert (labels == 2).sum() <= 20 * 25 + 4  # and next to nothing else


def test_merge_leaves_a_wide_gap_and_others_alone():
    labels = np.zeros((30, 40), np.int32)
    labels[5:25, 5:15], labels[5:25, 16:30] = 1, 2
    labels[5:25, 15] = 9  # a thin cell between them
    done(labels, lambda c: merge(c, labels=[1, 2]))
    assert (labels[5:25, 15] == 9).all()
    labels = np.zeros((30, 40), np.int32)
    labels[5:25, 5:15], labels[5:25, 25:30] = 1, 2
    done(labels, lambda c: merge(c, [(10, 10), (10, 28)]))
    assert (labels == 1).sum() == 20 * 15


def test_merge_needs_two(blob):
    corrections = Corrections(blob)
    for ways in (
        {"stroke": [(15, 10), (15, 20)]},
        {"labels": [7]},
        {"stroke": [(0, 0), (0, 9)]},
    ):
        with pytest.raises(NothingToEditError, match="two cells"):
            merge(corrections, **ways)
    for ways in ({}, {"stroke": [(0, 0)], "labels": [3, 7]}):
        with pytest.raises(EditError, match="Say which"):
            merge(corrections, **ways)
    with pytest.raises(EditError, match="no cell 8"):
        merge(corrections, labels=[7, 8])


def test_delete_by_label_click_and_lasso(blob):
    done(blob, lambda c: delete(c, [3]))
    assert set(np.unique(blob)) == {0, 7}
    corrections = done(
        blob, lambda c: delete(c, lasso=[(10, 20), (10, 30), (20, 30), (20, 20)])
    )
    assert not blob.any()
    assert corrections.marked() == {}
    assert [region.kind for region in corrections.regions_of()] == ["cleared"]
    blob[3:6, 3:6] = 5
    done(blob, lambda c: delete(c, point=(4.4, 4.4)))
    assert not blob.any()


def test_delete_in_all_planes_is_one_step():
    rng = np.random.default_rng(0)
    stack = np.repeat(np.repeat(rng.integers(0, 60, (3, 20, 25)), 4, 1), 4, 2).astype(np.int32)
    before, gone = stack.copy(), [*range(5, 40), 999]
    corrections = Corrections(stack)
    history = History(corrections)
    step = history.do(delete_everywhere(corrections, gone))
    assert step.words == "deletion of 35 cells"
    np.testing.assert_array_equal(stack, np.where(np.isin(before, gone), 0, before))
    assert not {5, 20, 39} & set(corrections.plane((1,)).labels.tolist())
    history.undo()
    np.testing.assert_array_equal(stack, before)
    with pytest.raises(NothingToEditError, match="no cell"):
        delete_everywhere(corrections, [0, 999])


def test_delete_finds_nothing(blob):
    corrections = Corrections(blob)
    for ways in ({"point": (0, 0)}, {"point": (-9, 4)}, {"lasso": [(0, 0), (0, 4), (4, 4)]}):
        with pytest.raises(NothingToEditError, match="no cell"):
            delete(corrections, **ways)
    with pytest.raises(EditError, match="no cell 4"):
        delete(corrections, [4])
    with pytest.raises(EditError, match="Say which"):
        delete(corrections)


def test_finding(blob):
    corrections = Corrections(blob)
    assert label_at(corrections, (24.4, 44.4)) == 7
    assert label_at(corrections, (24.4, 44.6)) == 3
    assert label_at(corrections, (24.6, 44.4)) == 0
    assert label_at(corrections, (1e12, 3)) == 0
    assert labels_under(corrections, [(15, 59), (15, 0)]) == [3, 7]
    assert labels_under(corrections, [(1, 1)]) == []
    square = [(-1, -1), (-1, 60), (30, 60), (30, -1)]
    assert labels_in(corrections, square) == [3, 7]


def test_stacks_are_edited_plane_by_plane(blob):
    stack = np.stack([blob, blob])
    corrections = done(stack, lambda c: delete(c, [7], (1,)))
    np.testing.assert_array_equal(stack[0], blob)
    assert set(np.unique(stack[1])) == {0, 3}
    History(corrections).do(split(corrections, [(0, 15), (29, 15)], (0,)))
    assert set(np.unique(stack[0])) == {0, 3, 7, 8}
    for index in ((), (2,), (-1,), (0, 0), "x", None, 1):
        with pytest.raises(EditError, match="no plane"):
            delete(corrections, [3], index)


def test_labels_on_disk_are_edited_too(tmp_path, blob):
    zarr = pytest.importorskip("zarr")
    disk = zarr.create_array(
        tmp_path / "labels.zarr", shape=blob.shape, dtype=blob.dtype, chunks=(16, 16)
    )
    disk[:] = blob
    on_disk, in_memory = Corrections(disk), Corrections(blob.copy())
    histories = [History(on_disk), History(in_memory)]
    for history in histories:
        c = history.corrections
        history.do(split(c, [(0, 15), (29, 15)]))
        history.do(merge(c, [(15, 40), (15, 48)]))
        history.do(delete(c, point=(15, 8)))
    np.testing.assert_array_equal(disk[:], in_memory.labels)
    for history in histories:
        while history.undo_words:
            history.undo()
    np.testing.assert_array_equal(disk[:], blob)


@pytest.mark.parametrize("kind", ["array", "memory map", "broadcast", "zarr"])
def test_labels_that_are_read_only_say_what_to_do(blob, tmp_path, kind):
    labels = blob.copy()
    if kind == "array":
        labels.flags.writeable = False
    elif kind == "memory map":
        np.save(tmp_path / "labels.npy", blob)
        labels = np.load(tmp_path / "labels.npy", mmap_mode="r")
    elif kind == "broadcast":
        labels = np.broadcast_to(blob, blob.shape)
    else:
        zarr = pytest.importorskip("zarr")
        zarr.save_array(tmp_path / "labels.zarr", blob)
        labels = zarr.open_array(tmp_path / "labels.zarr", mode="r")
    corrections = Corrections(labels)
    history = History(corrections)
    with pytest.raises(EditError, match="read-only"):
        history.do(delete(corrections, [7]))
    np.testing.assert_array_equal(labels, blob)
    assert 7 in corrections.plane()
    assert not history.done
    # what is said of cells changes no pixel
    history.do(accept(corrections, [3]))
    assert corrections.status(3) == "accepted"
    # and a copy takes all
    corrections = done(np.array(labels), lambda c: delete(c, [7]))
    assert 7 not in corrections.plane()


def test_labels_that_cannot_be_written_are_left_as_they_were(blob):
    class Fails:
        """Takes one piece and no more, as on a full disk."""

        shape, dtype = (2, *blob.shape), blob.dtype

        def __init__(self):
            self.data = np.stack([blob, blob])
            self.left = 1

        def __getitem__(self, key):
            return self.data[key]

        def __setitem__(self, key, value):
            if not self.left and not np.array_equal(value, np.stack([blob, blob])[key]):
                raise OSError("No space left on device")
            self.left = 0
            self.data[key] = value

    labels = Fails()
    corrections = Corrections(labels)
    steps = [delete(corrections, [3], (i,)) for i in range(2)]
    both = replace(steps[0], patches=steps[0].patches + steps[1].patches, marks=(), added=())
    with pytest.raises(EditError, match="No space left"):
        corrections.apply(both)
    np.testing.assert_array_equal(labels.data, [blob, blob])


def test_several_resolutions_are_not_corrected_at_once(blob):
    with pytest.raises(EditError, match=r"labels\[0\]"):
        Corrections([blob, blob[::2, ::2]])


def test_of_a_cell_in_far_parts_only_these_are_looked_at(monkeypatch):
    labels = np.zeros((2000, 2000), np.int32)
    labels[50:90, 50:90] = 1  # and far away
    labels[1900:1940, 1900:1990] = 1
    labels[1910:1913, 1910:1913] = 0
    labels[50:90, 92:120] = 2
    corrections = Corrections(labels)
    foreground = (labels > 0).astype(np.float32)
    queue = ReviewQueue(corrections, foreground=foreground)
    mask = ReviewedMask(corrections)
    mask.plane()
    history = History(corrections)
    corrections.parts(1)  # looked for once
    looked = 0
    look = Corrections.look

    def counted(self, index, box):
        nonlocal looked
        looked += (box[1] - box[0]) * (box[3] - box[2])
        return look(self, index, box)

    monkeypatch.setattr(Corrections, "look", counted)

    def correct(step_of, *args, **more):
        nonlocal looked
        looked = 0
        history.do(step_of(corrections, *args, **more))
        for move in (history.undo, history.redo):
            step = move()
            mask.update(step)
            queue.update(step)
            queue.score_all()
        assert looked < 1_000_000  # of 3,500,000 in its box, many times
        np.testing.assert_array_equal(mask.plane(), edits.reviewed_mask(corrections))
        return labels

    queue.score_all()
    assert correct(edits.fill_holes, [1])[1911, 1911] == 1
    assert correct(edits.smooth, [1])[50, 50] == labels[1900, 1900] == 0
    after = correct(edits.split, [(1890, 1950), (1950, 1950)])
    assert (after[1920, 1920], after[1920, 1980], after[70, 70]) == (1, 3, 1)
    assert correct(edits.merge, labels=[1, 3])[1920, 1980] == 1
    assert correct(edits.merge, labels=[1, 2])[70, 91] == 1  # with the gap between them
    square = [(60, 60), (60, 80), (80, 80), (80, 60)]
    assert (correct(edits.redraw, square, label=1) == 1).sum() == 400
    history.undo()
    assert not (correct(edits.delete, [1]) == 1).any()


@pytest.mark.parametrize("beyond", [3, 4, 5, 6])
def test_a_cut_off_part_has_five_pixels_at_least(beyond: int) -> None:
    """An arm one pixel wide is cut where it begins; so many pixels of it lie beyond."""
    labels = np.zeros((30, 40), np.int32)
    labels[5:15, 5:15] = 3
    labels[10, 15 : 16 + beyond] = 3
    before = labels.copy()
    corrections = Corrections(labels)
    line = [(8, 15), (12, 15)]
    if beyond < 5:
        with pytest.raises(EditError):
            split(corrections, line)
        np.testing.assert_array_equal(labels, before)
        return
    corrections.apply(split(corrections, line))
    assert np.unique(labels).tolist() == [0, 3, 4]
    np.testing.assert_array_equal(labels > 0, before > 0)
    assert np.count_nonzero(labels == 4) in (beyond, beyond + 1)
    assert (labels[5:15, 5:15] == 3).all()


def test_cells_of_a_large_plane_are_deleted_once_wherever_they_lie() -> None:
    """A plane is looked through in bands of rows, 2097 of this one."""
    labels = np.zeros((2110, 2000), np.uint8)
    for label, row in ((1, 0), (2, 2090), (3, 2096), (1, 2105)):
        labels[row : row + 3, 10:14] = label
    labels[2050:2109, 100:103] = 4
    before = labels.copy()
    corrections = Corrections(labels)
    step = delete_everywhere(corrections, [0, 1, 3, 4, 9])
    assert sum(patch.lengths.sum() for patch in step.patches) == 3 * 12 + 59 * 3
    assert step.words == "deletion of cells 1, 3 and 4"
    corrections.apply(step)
    assert np.unique(labels).tolist() == [0, 2]
    corrections.revert(step)
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize(("gap", "joined"), [(1, True), (3, True), (4, False)])
def test_gaps_of_three_pixels_are_filled_where_cells_are_joined(gap, joined):
    labels = np.zeros((30, 40), np.int32)
    labels[10:20, 5:15] = 1
    labels[10:20, 15 + gap : 27 + gap] = 2
    done(labels, lambda corrections: merge(corrections, labels=[1, 2]))
    assert ndimage.label(labels)[1] == (1 if joined else 2)
    assert set(np.unique(labels)) == {0, 2}


@pytest.mark.parametrize(
    ("n", "words"),
    [(1, "cell 1"), (2, "cells 1 and 2"), (4, "cells 1, 2, 3 and 4"), (5, "5 cells")],
)
def test_a_few_cells_are_named_and_more_are_counted(n, words):
    labels = np.arange(1, 7).repeat(4)[None].repeat(5, 0).astype(np.int32)
    step = delete(Corrections(labels), list(range(1, n + 1)))
    assert step.words == f"deletion of {words}"


@pytest.mark.parametrize(("rows", "says_something"), [(20, True), (21, False)])
def test_a_deleted_object_of_more_than_four_cells_says_nothing_of_its_place(
    rows, says_something
):
    labels = np.zeros((60, 90), np.int32)
    for i in range(5):
        labels[45:55, 15 * i : 15 * i + 10] = i + 1
    labels[5 : 5 + rows, 5:25] = 9  # the others are of 100 px
    corrections = done(labels, lambda corrections: delete(corrections, [9]))
    assert edits.reviewed_mask(corrections)[10, 10] == says_something


@pytest.mark.parametrize("line", [[(17, 25), (0, 25)], [(10, 25), (20, 25)]])
def test_a_line_that_begins_within_a_cell_is_lengthened_at_its_beginning_too(blob, line):
    done(blob, lambda c: split(c, line))
    assert (blob == 8).sum() + (blob == 7).sum() == 800
    assert min((blob == 8).sum(), (blob == 7).sum()) > 350
