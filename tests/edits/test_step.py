"""Steps on disk, and arrays that cannot be corrected."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest

from napari_sa2net import edits
from napari_sa2net.edits import Corrections, Step
from napari_sa2net.errors import EditError, StepFormatError


@pytest.fixture
def step() -> Step:
    labels = np.zeros((2, 20, 20), np.int32)
    labels[1, 5:10, 5:10] = 2**31 - 5
    corrections = Corrections(labels)
    corrections.apply(edits.accept(corrections, [2**31 - 5], (1,)))
    return edits.delete(corrections, [2**31 - 5], (1,))


def test_a_step_is_small_and_comes_back_whole(step):
    read = Step.from_bytes(step.to_bytes())
    assert len(step.to_bytes()) < 2000
    assert (read.kind, read.words) == ("delete", "deletion of cell 2147483643")
    assert read.boxes == {(1,): (5, 10, 5, 10)}
    assert read.labels == (2**31 - 5,)
    assert read.added == step.added
    assert read.marks[0].before.tolist() == [1]
    assert Step.from_bytes(step.inverse().to_bytes()).removed == step.added


def test_regions_come_back_whole():
    corrections = Corrections(np.zeros((20, 20), np.int32))
    outline = [(1.25, 2.5), (3, 17.7), (15, 4)]
    step = edits.mark_region(corrections, "ignore", polygon=outline)
    corrections.apply(Step.from_bytes(step.to_bytes()))
    (region,) = corrections.regions_of()
    assert region == step.added[0]
    assert region.mask((0, 20, 0, 20)).sum() > 50
    removed = edits.remove_region(corrections, region.id)
    corrections.apply(Step.from_bytes(removed.to_bytes()))
    assert not corrections.regions


def test_any_damage_is_told(step):
    data = step.to_bytes()
    for bad in (b"", b"step", data[:-30], data[: len(data) // 2], data[100:]):
        with pytest.raises(StepFormatError, match="damaged"):
            Step.from_bytes(bad)
    random = np.random.default_rng(0)
    for _ in range(60):
        bad = bytearray(data)
        bad[random.integers(len(bad))] ^= int(random.integers(1, 256))
        try:
            read = Step.from_bytes(bytes(bad))
        except StepFormatError:
            continue
        assert read.to_bytes() == data  # a byte that means nothing (dates, attributes)


def rewritten(step: Step, more: Mapping = MappingProxyType({}), **changes) -> bytes:
    with np.load(io.BytesIO(step.to_bytes())) as file:
        arrays = {name: file[name] for name in file.files} | more
    meta = json.loads(arrays["meta"].tobytes())
    for name, value in changes.items():
        if name in meta:
            meta[name] = value
        else:
            arrays[name] = value
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def test_deletions_of_the_first_layout_are_read(step):
    (before,) = step.added
    assert (before.runs[3] == 25).all()
    (after,) = Step.from_bytes(
        rewritten(step, {"regions": before.runs[:3]}, schema_version=1)
    ).added
    np.testing.assert_array_equal(after.runs[:3], before.runs[:3])
    assert not after.runs[3].any()  # small: reviewed, as it was then


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema_version": 3}, "layout 3, this program reads 2: update"),
        ({"schema_version": None}, "layout None"),
        ({"kind": "explode"}, "damaged"),
        ({"patches": [[[1], 3]]}, "damaged"),
        ({"patches": [[[1], "x"]]}, "damaged"),
        ({"marks": [[["a"], 1]]}, "damaged"),
        ({"regions": [[1, "secret", [1], 0, 5]]}, "damaged"),
        ({"regions": [[1, "cleared", [1], 0, 500]]}, "damaged"),
        ({"n_added": "all"}, "damaged"),
    ],
)
def test_what_does_not_fit_together_is_told(step, changes, match):
    assert Step.from_bytes(rewritten(step)).words == step.words
    with pytest.raises(StepFormatError, match=match):
        Step.from_bytes(rewritten(step, **changes))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([[1, 2]], "one array of labels"),
        (np.zeros((4, 4)), "whole numbers"),
        (np.zeros((4, 4), bool), "whole numbers"),
        (np.zeros(4, int), "no plane"),
        (np.zeros((4, 0), int), "no plane"),
    ],
)
def test_arrays_that_hold_no_labels(labels, match):
    with pytest.raises(EditError, match=match):
        Corrections(labels)


def test_a_full_type_is_told():
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 2:18] = 255
    corrections = Corrections(labels)
    with pytest.raises(EditError, match="astype\\('int32'\\)"):
        edits.split(corrections, [(0, 10), (19, 10)])
    small = Corrections(labels, max_label=3)
    small.plane()
    assert small.index.max_label == 255  # a wrong promise is found out by the scan


def test_new_numbers_never_come_twice():
    labels = np.zeros((20, 20), np.int32)
    labels[5:15, 2:18] = 4
    corrections = Corrections(labels)
    history = edits.History(corrections)
    for turn in range(3):
        history.do(edits.split(corrections, [(0, 10), (19, 10)], labels=[4]))
        assert history.done[-1].labels == (4, 5 + turn)
        history.undo()


@pytest.mark.parametrize(
    "points",
    [
        [(0, np.nan), (1, 1), (2, 2)],
        [(0, np.inf), (1, 1), (2, 2)],
        [(0, 1e30), (1, 1), (2, 2)],
        [(0, 1, 2), (1, 1, 1), (2, 2, 2)],
        [0, 1, 2],
        [],
        "line",
        [("a", "b")],
        [(0, 1), (2,)],
        None,
    ],
)
def test_shapes_that_are_none(points):
    labels = np.ones((20, 20), np.int32)
    corrections = Corrections(labels)
    for make in (
        lambda: edits.split(corrections, points),
        lambda: edits.merge(corrections, points if points is not None else "x"),
        lambda: edits.delete(corrections, lasso=points if points is not None else "x"),
        lambda: edits.redraw(corrections, points),
        lambda: edits.mark_region(corrections, "ignore", polygon=points),
        lambda: edits.label_at(corrections, points),
        lambda: edits.region_at(corrections, points),
    ):
        with pytest.raises(EditError):
            make()
    assert (labels == 1).all()


def test_labels_that_are_none():
    corrections = Corrections(np.ones((20, 20), np.int32))
    for labels in (["x"], 3, [None], [1.5j]):
        for make in (edits.delete, edits.smooth, edits.accept, edits.unaccept):
            with pytest.raises(EditError):
                make(corrections, labels)


@pytest.mark.parametrize(
    ("lost", "box"),
    [
        ((slice(5, 6), slice(5, 10)), (6, 10, 5, 10)),
        ((slice(9, 10), slice(5, 10)), (5, 9, 5, 10)),
        ((slice(5, 10), slice(5, 6)), (5, 10, 6, 10)),
        ((slice(5, 10), slice(9, 10)), (5, 10, 5, 9)),
        ((slice(6, 9), slice(6, 9)), (5, 10, 5, 10)),
    ],
)
def test_a_box_is_tight_whatever_edge_was_lost(lost, box):
    labels = np.zeros((20, 20), np.int32)
    labels[5:10, 5:10] = 3
    corrections = Corrections(labels)
    plane = corrections.plane()
    mask = np.zeros(labels.shape, bool)
    mask[5:10, 5:10] = True
    mask[lost] = False
    corrections.apply(edits.redraw_mask(corrections, mask, label=3))
    assert plane.box(3) == box
    assert plane.area(3) == mask.sum()
    assert plane.centre(3) == pytest.approx(np.argwhere(mask).mean(0))
