"""What cannot be an edit is refused in words and changes nothing."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_sa2net import edits
from napari_sa2net.edits import Corrections, Step
from napari_sa2net.edits.corrections import LabelIndex
from napari_sa2net.edits.step import Patch
from napari_sa2net.errors import (
    EditConflictError,
    EditError,
    NothingToEditError,
    StepFormatError,
)


def squares() -> np.ndarray:
    """Cells 1 and 2 of 8 × 8 pixels beside each other, and 3 apart."""
    labels = np.zeros((40, 40), np.int32)
    labels[4:12, 4:12], labels[4:12, 12:20], labels[24:32, 24:32] = 1, 2, 3
    return labels


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda c: edits.redraw_mask(c, np.ones((2, 3, 3), bool)), r"not bool \(2, 3, 3\)"),
        (lambda c: edits.redraw_mask(c, np.ones(3, bool)), r"not bool \(3,\)"),
        (lambda c: edits.redraw_mask(c, np.ones((3, 3), int)), r"not int64 \(3, 3\)"),
        (lambda c: edits.redraw_mask(c, np.ones((3, 3), bool), (-1, 0)), "beyond the image"),
        (lambda c: edits.redraw_mask(c, np.ones((3, 3), bool), (0, -1)), "beyond the image"),
        (lambda c: edits.redraw_mask(c, np.ones((3, 3), bool), (38, 0)), "beyond the image"),
        (lambda c: edits.redraw_mask(c, np.ones((3, 3), bool), (0, 38)), "beyond the image"),
        (lambda c: edits.redraw_mask(c, np.zeros((3, 3), bool)), "no free pixel"),
        (lambda c: edits.redraw_mask(c, np.ones((3, 3), bool), (5, 5)), "no free pixel"),
        (lambda c: edits.redraw_mask(c, np.ones((3, 3), bool), label=9), "no cell|9"),
        (lambda c: edits.smooth(c, [1], radius=0.49), "from 0.5 to 20 px, not 0.49"),
        (lambda c: edits.smooth(c, [1], radius=20.01), "from 0.5 to 20 px, not 20.01"),
    ],
)
def test_what_is_no_edit(make, words):
    labels = squares()
    with pytest.raises(EditError, match=words):
        make(Corrections(labels))
    assert np.array_equal(labels, squares())


@pytest.mark.parametrize("corner", [(0, 0), (0, 37), (37, 0), (37, 37)])
def test_a_mask_may_reach_every_edge_of_the_image(corner):
    labels = squares()
    corrections = Corrections(labels)
    corrections.apply(edits.redraw_mask(corrections, np.ones((3, 3), bool), corner))
    assert (labels[corner[0] : corner[0] + 3, corner[1] : corner[1] + 3] == 4).all()
    assert (labels > 0).sum() == 3 * 64 + 9


@pytest.mark.parametrize("radius", [0.5, 20])
def test_smoothing_takes_both_ends_of_its_range(radius):
    with suppress(NothingToEditError):
        edits.smooth(Corrections(squares()), [3], radius=radius)


def test_smoothing_one_cell_keeps_it_in_one_piece():
    """The neck between two halves is thinner than the radius: the larger half stays."""
    labels = np.zeros((40, 60), np.int32)
    labels[5:25, 5:25] = labels[10:20, 40:50] = 1
    labels[15, 25:40] = 1
    corrections = Corrections(labels)
    corrections.apply(edits.smooth(corrections, [1], radius=3))
    assert labels[15, 15] == 1
    assert not labels[:, 36:].any()
    # one that lies apart from the start is smoothed as it lies
    labels[:] = 0
    labels[5:25, 5:25] = labels[8:22, 40:54] = 1
    labels[4, 10] = 1
    corrections = Corrections(labels)
    corrections.apply(edits.smooth(corrections, [1], radius=3))
    assert labels[15, 15] == labels[15, 47] == 1
    assert labels[4, 10] == 0


class Shapeless:
    dtype = np.dtype(np.int32)


@pytest.mark.parametrize("labels", [None, 3, "labels", Shapeless()])
def test_what_is_no_array_of_labels(labels: Any):
    with pytest.raises(EditError, match="array of labels"):
        Corrections(labels)


def test_pixels_of_labels_on_disk_are_those_asked_for():
    labels = squares()
    on_disk = Corrections(da.from_array(labels, chunks=16))
    rows, cols = np.array([31, 4, 24, 0]), np.array([24, 19, 31, 39])
    assert on_disk.read_pixels((), rows, cols).tolist() == [3, 2, 3, 0]
    none = on_disk.read_pixels((), rows[:0], cols[:0])
    assert none.size == 0
    assert none.dtype == labels.dtype


def test_a_stroke_over_pixels_that_were_others_is_in_conflict():
    """What is recorded lies in the array already; what it was before must be possible."""
    labels = squares()
    corrections = Corrections(labels)
    corrections.plane()
    rows, cols = np.nonzero(squares() == 3)
    before = np.full(rows.size, 1)
    labels[rows, cols] = 0
    taken = edits.stroke(corrections, [((rows, cols), before, 0)])
    corrections.record(taken)  # all 64 pixels of cell 1 may have been these
    labels = squares()
    corrections = Corrections(labels)
    corrections.plane()
    labels[rows, cols] = 0
    labels[0, 0] = 0
    more = np.append(rows, 0), np.append(cols, 0)
    too_many = edits.stroke(corrections, [(more, np.full(65, 1), 0)])
    with pytest.raises(EditConflictError, match="belonged to other cells before"):
        corrections.record(too_many)


def test_a_plane_that_was_never_looked_at_could_hold_anything():
    index = LabelIndex(squares())
    patch = Patch.between((), (0, 0), np.full((1, 5), 9), np.zeros((1, 5), int))
    assert index.could_hold(patch)
    index.plane()
    assert not index.could_hold(patch)


def damaged(step: Step, name: str, change: Any) -> bytes:
    with np.load(io.BytesIO(step.to_bytes())) as file:
        arrays = {key: file[key].copy() for key in file.files}
    if name in arrays:
        arrays[name] = change(arrays[name])
    else:
        meta = json.loads(arrays["meta"].tobytes())
        meta[name] = change(meta[name])
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def with_row(row: int, value: int) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        array[row, 0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("patches", with_row(2, 0)),  # a run of no pixels
        ("patches", lambda a: a.astype(np.int32)),
        ("patches", lambda a: a[:-1]),
        ("patches", lambda a: a[:, :-1]),
        ("patches", lambda a: a[0]),
        ("marks", with_row(1, -1)),
        ("marks", with_row(2, -1)),
        ("marks", with_row(1, 9)),
        ("marks", with_row(2, 9)),
        ("kind", lambda _: "explode"),
        ("regions", lambda r: [[*one[:4], one[4] + 1] for one in r]),
    ],
)
def test_a_step_of_which_an_array_does_not_fit(name, change):
    corrections = Corrections(squares())
    corrections.apply(edits.accept(corrections, [1]))
    step = edits.delete(corrections, [1])
    assert step.patches
    assert step.marks
    assert Step.from_bytes(damaged(step, name, lambda same: same)).words == step.words
    with pytest.raises(StepFormatError, match="damaged"):
        Step.from_bytes(damaged(step, name, change))


def test_a_line_is_lengthened_past_the_hook_at_its_end():
    """A stroke that ends in the cell goes straight on, and one of one point cuts nothing."""
    labels = np.zeros((40, 40), np.int32)
    labels[5:35, 5:35] = 1
    corrections = Corrections(labels)
    corrections.apply(edits.split(corrections, [(10, 20), (28, 20), (28, 21)]))
    found = np.unique(labels[labels > 0], return_counts=True)[1]
    assert len(found) == 2
    assert found.min() > 400
    with pytest.raises((EditError, NothingToEditError)):
        edits.split(corrections, [(20, 10), (20, 10)])


def test_a_crumb_beside_a_cut_stays_with_the_cell():
    """No pixel is lost, wherever the line runs."""
    labels = np.zeros((30, 30), np.int32)
    labels[5:25, 5:25] = 1
    labels[5, 15] = 0
    labels[4, 15] = 1  # touches by corners alone
    corrections = Corrections(labels)
    before = (labels > 0).sum()
    corrections.apply(edits.split(corrections, [(0, 15), (29, 15)]))
    assert (labels > 0).sum() == before
    assert len(np.unique(labels[labels > 0])) == 2
