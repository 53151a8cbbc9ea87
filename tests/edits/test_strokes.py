"""Strokes as napari's own Labels layer reports them."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.edits import Corrections, History, PlaneIndex, split, stroke
from napari_sa2net.errors import EditError, NothingToEditError


def painted(labels, paint) -> list:
    """Atoms of what a function paints on a real layer with these labels."""
    layers = pytest.importorskip("napari.layers")
    layer = layers.Labels(labels)
    seen = []
    layer.events.paint.connect(lambda event: seen.extend(event.value))
    paint(layer)
    assert layer.data is labels
    return seen


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros((40, 50), np.int32)
    labels[5:20, 5:20] = 3
    labels[25:35, 25:45] = 8
    return labels


def test_brush_and_eraser_of_a_real_layer(labels):
    start = labels.copy()
    corrections = Corrections(labels)
    history = History(corrections)

    def brush(layer):
        layer.brush_size, layer.selected_label = 9, 12
        with layer.block_history():
            for x in range(10, 40, 3):
                layer.paint((22, x), 12)

    history.record(stroke(corrections, painted(labels, brush)))
    assert history.undo_words == "Undo painting of cell 12"
    assert corrections.marked() == dict.fromkeys((3, 8, 12), "corrected")
    after = labels.copy()

    def erase(layer):
        layer.brush_size = 60
        layer.paint((12, 12), 0)

    history.record(stroke(corrections, painted(labels, erase)))
    assert history.undo_words == "Undo erasing of cells 3, 8 and 12"
    assert not (labels == 3).any()
    assert 3 not in corrections.marked()
    assert corrections.regions_of()[0].mask((5, 20, 5, 20)).sum() == (after == 3).sum()
    history.undo()
    np.testing.assert_array_equal(labels, after)
    history.undo()
    np.testing.assert_array_equal(labels, start)
    assert corrections.marked() == {}
    history.redo()
    np.testing.assert_array_equal(labels, after)
    assert corrections.index.max_label == 12
    history.do(split(corrections, [(0, 12), (39, 12)], labels=[3]))
    assert 13 in corrections.plane()


def test_fill_polygon_and_setitem_of_a_real_layer(labels):
    start = labels.copy()
    corrections = Corrections(labels)
    history = History(corrections)
    history.record(stroke(corrections, painted(labels, lambda layer: layer.fill((10, 10), 4))))
    history.record(
        stroke(
            corrections,
            painted(labels, lambda la: la.paint_polygon([(2, 30), (2, 45), (20, 45)], 5)),
        )
    )

    def at_once(layer):
        layer.data_setitem((np.array([0, 0]), np.array([0, 1])), np.array([6, 7]))

    history.record(stroke(corrections, painted(labels, at_once)))
    assert set(np.unique(labels)) == {0, 4, 5, 6, 7, 8}
    while history.undo_words:
        history.undo()
    np.testing.assert_array_equal(labels, start)


def test_a_pixel_painted_twice_goes_back_to_the_first():
    labels = np.zeros((4, 4), np.int32)
    labels[1] = 2
    corrections = Corrections(labels)
    where = (np.array([1, 1]), np.array([0, 1]))
    atoms = [(where, np.array([2, 2]), 5), (where, np.array([5, 5]), 0), (where, 0, 9)]
    labels[1, :2] = 9
    step = stroke(corrections, atoms)
    (patch,) = step.patches
    assert patch.old.tolist() == [2]
    assert patch.new.tolist() == [9]
    labels[1, 3] = 9
    single = stroke(corrections, ((1, 3), 2, 9))  # one bare triple
    assert single.patches[0].n_pixels == 1


def test_a_stroke_over_several_planes():
    labels = np.zeros((3, 8, 8), np.int32)
    labels[:, 2:4, 2:4] = 1
    corrections = Corrections(labels)  # no plane scanned yet: the stroke comes first
    start = labels.copy()
    where = np.nonzero(np.ones((2, 3, 3)))
    where = (where[0] + 1, where[1] + 2, where[2] + 2)
    old = labels[where].copy()
    labels[where] = 7
    history = History(corrections)
    step = history.record(stroke(corrections, [(where, old, 7)]))
    assert sorted(step.boxes) == [(1,), (2,)]
    for z in range(3):
        known, fresh = corrections.plane((z,)), PlaneIndex(labels[z])
        assert known.labels.tolist() == fresh.labels.tolist()
        assert known.boxes.tolist() == fresh.boxes.tolist()
        assert known.areas.tolist() == fresh.areas.tolist()
    history.undo()
    np.testing.assert_array_equal(labels, start)


def test_strokes_that_are_none(labels):
    corrections = Corrections(labels)
    one = (np.array([3]), np.array([3]))
    for atoms in ([], [(one, np.array([5]), 5)]):
        with pytest.raises(NothingToEditError):
            stroke(corrections, atoms)
    for atoms in (
        None,
        3,
        [1, 2],
        [((np.array([3]),), np.array([5]), 1)],
        [(one, np.array([5, 6, 7]), 1)],
        [(one, np.array([0.5]), 1)],
        [((np.array([3.5]), np.array([3])), np.array([0]), 1)],
        [((np.array([3, 4]), np.array([3, 4, 5])), np.array([0]), 1)],
        ["ab"],
    ):
        with pytest.raises(EditError, match="no stroke"):
            stroke(corrections, atoms)
    with pytest.raises(EditError, match="outside"):
        stroke(corrections, [((np.array([40]), np.array([3])), np.array([0]), 1)])
    with pytest.raises(EditError, match="does not fit"):
        History(corrections).record(stroke(corrections, [(one, np.array([0]), 1)]))
    assert corrections.marked() == {}


def test_a_scan_counts_each_object_as_its_pixels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_sa2net.edits.corrections._ROWS", 7)  # in several parts
    labels = np.random.default_rng(0).choice([0, 3, 2**40, 1, 70_000], (25, 31))
    plane = PlaneIndex(labels)
    assert sorted(plane.labels.tolist()) == [1, 3, 70_000, 2**40]
    rows = zip(plane.labels, plane.areas, plane.boxes, plane.centres, strict=True)
    for label, area, box, centre in rows:
        y, x = np.nonzero(labels == label)
        assert area == y.size
        assert box.tolist() == [y.min(), y.max() + 1, x.min(), x.max() + 1]
        assert np.allclose(centre, (y.mean(), x.mean()))
