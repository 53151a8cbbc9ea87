"""Masks are told from numbered cells."""

from itertools import count

import numpy as np
import pytest

from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.labels import (
    Look,
    as_labels,
    look_at,
    look_at_reviewed,
    notes_on,
    numbered,
)
from napari_sa2net.errors import LabelsError


def test_masks_of_one_value_and_of_classes():
    _, labels = synthetic_nuclei((128, 128), 12, 16, 1)
    cells = labels > 0
    assert "the one value 255 stands in" in look_at(cells * np.uint8(255)).problem
    assert look_at(cells).problem
    assert "each of 2 values" in look_at(np.where(labels % 2, 1, 2) * cells).problem
    two = np.zeros((40, 40), np.uint8)
    two[5:15, 5:15] = two[20:30, 20:30] = 255
    assert look_at(two).problem


def test_numbered_cells_are_left_alone():
    _, labels = synthetic_nuclei((128, 128), 12, 16, 1)
    assert look_at(labels).problem == ""
    assert look_at(labels * 0).problem == ""
    assert look_at(labels * 0 + 3).problem == ""
    one = (labels == 5) * 255
    assert look_at(one).problem == ""
    one[0, 0] = 255  # a crumb
    assert look_at(one).problem == ""
    # A cell in pieces among whole ones; one cell that something lies across.
    torn = labels.copy()
    for y in (2, 30, 60):
        torn[y : y + 6, 120:126] = 5
    assert look_at(torn).problem == ""
    across = np.zeros((40, 40), int)
    across[10:30, 10:30] = 1
    across[20] = 0
    assert look_at(across).problem == ""


def test_a_cell_far_from_two_pieces_of_its_number_is_found():
    labels = np.zeros((80, 80), np.int32)
    for n, x in enumerate((0, 20, 40, 60), start=1):
        labels[40:50, x : x + 10] = n
    labels[60:70, 0:10] = labels[60:70, 12:22] = 9
    assert look_at(labels).apart == ()  # something lies across it
    labels[0:10, 60:70] = 9
    assert look_at(labels).apart == (9,)


def test_floats_are_taken_as_far_as_they_are_exact():
    largest = np.array([[0, 2**24]], np.float32)
    assert as_labels(largest).max() == 2**24
    with pytest.raises(LabelsError, match="not exact in float32"):
        as_labels(largest + np.float32(2) * (largest > 0))


def test_the_last_of_numbers_with_gaps_is_a_cell():
    """Cells before it were deleted; one far above the others may be a mark."""
    labels = np.zeros((80, 80), np.uint8)
    numbers = (1, 100, 180, 255)
    for n, x in zip(numbers, (0, 20, 40, 60), strict=True):
        labels[40:50, x : x + 10] = n
    assert look_at(labels) == Look()
    few = np.where(labels == 255, 255, np.searchsorted(numbers, labels) * (labels > 0))
    assert "label 255 stands far above the next number, 2" in look_at(few).note


def test_what_nobody_has_reviewed_may_be_anything():
    labels = np.zeros((80, 80), np.int32)
    for n, x in enumerate((0, 20, 40, 60), start=1):
        labels[40:50, x : x + 10] = n
    labels[0:10, 0:10] = labels[0:10, 60:70] = 9
    reviewed = np.zeros(labels.shape, bool)
    reviewed[30:] = True
    assert look_at_reviewed(labels, reviewed) == Look()
    reviewed[0, 0] = True
    look = look_at_reviewed(labels, reviewed)
    assert look.apart == (9,)
    assert "left out" in look.note


def test_background_with_a_number():
    _, labels = synthetic_nuclei((128, 128), 30, 20, 1)
    assert look_at(labels).problem == ""
    assert "label 1 covers" in look_at(labels + 1).problem
    ridges = labels + 1  # as a watershed leaves them: lines of 0 between all
    ridges[8::16] = 0
    assert "label 1 covers" in look_at(ridges).problem
    assert "label 1 covers" in look_at(np.stack([labels, labels + 1])).problem
    # Much is 0, so the large one may be a cell: said, not refused.
    large = labels * 0
    large[60:68] = large[:, 60:68] = 7
    large[20:24, 20:24] = 8
    look = look_at(large)
    assert look.problem == ""
    assert "label 7 covers" in look.note
    # Cells without a gap, and one cell alone, are cells.
    tiled = 1 + np.arange(16).reshape(4, 4).repeat(32, 0).repeat(32, 1)
    assert look_at(tiled) == look_at(labels * 0 + 3) == look_at(labels * 0)


def test_masks_with_black_and_white_swapped():
    _, labels = synthetic_nuclei((128, 128), 12, 16, 1)
    inner = labels.copy()
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        inner[np.isin(inner, edge)] = 0
    n = np.unique(inner).size - 1
    look = look_at((inner == 0) * np.uint8(255))
    assert f"the cells are 0: label 255 is all around {n} places" in look.problem
    again = numbered((inner == 0) * np.uint8(255), look, count(1))
    assert np.array_equal(again > 0, inner > 0)
    assert np.unique(again).size == n + 1
    assert not look_at(again).problem
    dense = np.ones((60, 60), np.uint8)
    for y, x in ((5, 5), (5, 35), (35, 5), (35, 35)):
        dense[y : y + 20, x : x + 20] = 0
    assert "all around 4 places" in look_at(dense).problem
    # Large cells with gaps within and between them are no cells of 0.
    crowded = np.ones((60, 60), np.uint8)
    crowded[29:31] = crowded[:, 29:31] = 0
    for y, x in ((10, 10), (10, 45), (45, 10), (45, 45)):
        crowded[y : y + 3, x : x + 3] = 0
    look = look_at(crowded)
    assert not look.inverted
    assert "the one value 1 stands in 4 separate places" in look.problem
    # A layer of cells that touch, in one piece: the gaps between them are drawn in.
    yy, xx = np.indices((120, 120))
    layer = np.zeros((120, 120), int)
    for row in range(-1, 7):
        for column in range(-1, 6):
            y, x = 21 * row, 24 * column + 12 * (row % 2)
            layer |= np.hypot(yy - y, xx - x) < 13
    look = look_at(layer * 255)
    assert "a mask of cells that touch each other, not like numbered cells" in look.problem
    assert "label 255 is one piece with" in look.problem
    assert "unless the gaps are the cells: in Python" in look.problem
    assert look.inverted  # so one click makes cells of them
    # One cell that fills the picture, with or without a hole, is a cell.
    yy, xx = np.indices((64, 64)) - 31.5
    round_cell = (np.hypot(yy, xx) < 32).astype(int)
    assert not look_at(round_cell).problem
    round_cell[30:34, 30:34] = 0
    assert not look_at(round_cell).problem


def test_cells_under_one_number():
    _, labels = synthetic_nuclei((128, 128), 12, 16, 1)
    assert look_at(labels).note == ""
    pairs = (labels + 1) // 2
    assert f"{pairs.max()} of {pairs.max()} numbers stand" in look_at(pairs).note
    # Two tiles that were numbered each on its own: one number twice is enough to tell.
    one = np.zeros((60, 200), int)
    for i in range(6):
        one[10:30, 5 + 30 * i : 25 + 30 * i] = i + 1
    assert look_at(one).note == ""
    one[40:55, 5:20] = 6
    assert "1 of 6 numbers stands in several far apart places, such as 6" in look_at(one).note
    # A cell that a fibre lies across is still one.
    across = one.copy()
    across[across == 6] = 0
    across[20] = 0
    assert look_at(across[:, :30]).note != ""
    across[20, :100] = one[20, :100]
    across[40:] = 0
    assert look_at(across).note == ""
    # The same cells at several times, each in one place of its plane.
    moved = np.zeros((3, 128, 128), int)
    for time in range(3):
        moved[time, 10:30, 10 + 30 * time : 30 + 30 * time] = 1
        moved[time, 60:80, 100 - 30 * time : 120 - 30 * time] = 2
    assert look_at(moved) == look_at(labels)
    assert look_at(np.stack([labels > 0] * 3)).problem


def test_notes_are_few():
    assert notes_on(["", ""], []) == []
    notes = notes_on([f"image {i}" for i in range(9)], [f"empty {i}" for i in range(5)])
    assert notes[3] == "Labels of 6 more images look like these."
    assert notes[4].startswith("empty 0, empty 1, empty 2 and 2 more: no cell is labelled")
    assert len(notes) == 5
