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


@pytest.mark.parametrize(
    ("shape", "of_image", "fits"),
    [
        ((4, 5), (4, 5), True),
        ((1, 4, 5), (4, 5), True),
        ((4, 5, 1), (4, 5), True),
        ((1, 1, 4, 5, 1), (4, 5), True),
        ((1, 5, 1), (1, 5), True),
        ((1, 5, 1), (5, 1), True),
        ((3, 4, 5), (4, 5), True),
        ((4, 5, 4), (4, 5), True),
        ((2, 4, 5), (4, 5), False),
        ((4, 5, 5), (4, 5), False),
        ((5, 4), (4, 5), False),
        ((4, 5), (1, 4), False),
    ],
)
def test_labels_in_the_shape_of_their_image(shape, of_image, fits):
    """Axes of length 1 and colours that are one grey are dropped, nothing else."""
    plane = np.arange(np.prod(of_image), dtype=np.uint8).reshape(of_image)
    values = plane
    for axis in (0, -1):
        grey = np.stack([plane] * shape[axis], axis)
        values = grey if grey.shape == shape else values
    if not fits:
        with pytest.raises(LabelsError, match="do not fit an image of"):
            as_labels(np.zeros(shape, np.uint8), of_image)
        return
    values = values if values.shape == shape else plane.reshape(shape)
    np.testing.assert_array_equal(as_labels(values, of_image), plane)


@pytest.mark.parametrize("channel", range(4))
@pytest.mark.parametrize("axis", [0, -1])
def test_colours_are_no_labels_but_what_is_opaque_may_differ(channel, axis):
    picture = np.stack([np.arange(20).reshape(4, 5)] * 4, axis)
    np.moveaxis(picture, axis, 0)[channel, 2, 3] = 99
    if channel == 3:
        assert as_labels(picture, (4, 5)).max() == 19
    else:
        with pytest.raises(LabelsError, match="colour picture"):
            as_labels(picture, (4, 5))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (np.array([[0, 2**31 - 1, 5]], np.int64), [[0, 2**31 - 1, 5]]),
        (np.array([[0, 2**31, 5]], np.int64), [[0, 2, 1]]),
        (np.array([[2**40, 7, 7, 2**50]], np.int64), [[2, 1, 1, 3]]),
        (np.array([[0, 2**32 - 1, 9]], np.uint32), [[0, 2**31 - 1, 1]]),
        (np.array([[0, 2**64 - 1, 2**63]], np.uint64), [[0, 2**31 - 1, 1]]),
        (np.array([[True, False]]), [[1, 0]]),
        (np.array([[3.0, 0.0]]), [[3, 0]]),
    ],
)
def test_numbers_beyond_32_bits_keep_their_order_and_the_greatest(values, labels):
    assert as_labels(values).tolist() == labels


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[0, -1]], "go down to -1"),
        ([[0.5, 1]], "these hold 0.5"),
        ([[np.nan, 1]], "these hold nan"),
        ([[np.inf, 1]], "these hold inf"),
        ([[1j, 1]], "not complex128"),
        ([["a", "b"]], "not <U1"),
    ],
)
def test_what_is_no_number_of_a_cell_is_refused(values, words):
    with pytest.raises(LabelsError, match=words):
        as_labels(np.array(values))
    assert as_labels(np.zeros((0, 3))).shape == (0, 3)


def test_pieces_of_numbers_get_numbers_of_their_own():
    labels = np.zeros((60, 100), np.int64)
    labels[0:12, 0:12] = labels[0:10, 14:24] = 4  # something lies across it
    labels[40:50, 80:90] = labels[52:58, 80:90] = 4  # another, far from it
    labels[40:50, 0:10] = 9
    labels[30, 50] = 4  # a crumb stays
    new = numbered(labels, Look(apart=(4,)), count(20))
    assert new[0, 0] == new[0, 14] == new[30, 50] == 4
    assert new[40, 80] == new[52, 80] == 20
    assert new[40, 0] == 9
    every = numbered(labels, Look("a mask", numbers=(4,)), count(20))
    assert every[40, 0] == 9
    places = [(0, 0), (0, 14), (30, 50), (40, 80), (52, 80)]
    assert sorted(int(every[at]) for at in places) == [20, 21, 22, 23, 24]
    assert np.array_equal(every > 0, labels > 0)
    assert np.array_equal(numbered(labels, Look(), count(20)), labels)


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


@pytest.mark.parametrize("torn", range(7))
def test_numbers_of_two_pieces_are_told_where_most_numbers_have_them(torn):
    """A few cells may lie in two pieces that are near; most of them do not."""
    labels = np.zeros((40, 180), int)
    for i in range(6):
        labels[5:15, 30 * i : 30 * i + 10] = i + 1
        if i < torn:
            labels[20:30, 30 * i : 30 * i + 10] = i + 1
    look = look_at(labels)
    assert look.apart == ()
    assert look.problem == ""
    if torn <= 3:
        assert look.note == ""
    else:
        names = ", ".join(str(n + 1) for n in range(min(torn, 3)))
        said = f"{torn} of 6 numbers stand in several separate places, such as {names}"
        assert look.note.startswith(said)


def test_notes_are_few():
    assert notes_on(["", ""], []) == []
    notes = notes_on([f"image {i}" for i in range(9)], [f"empty {i}" for i in range(5)])
    assert notes[3] == "Labels of 6 more images look like these."
    assert notes[4].startswith("empty 0, empty 1, empty 2 and 2 more: no cell is labelled")
    assert len(notes) == 5


def pieces(value: int, n: int, size: int = 4, others: int = 0) -> np.ndarray:
    """Squares of one number in a row, and cells of other numbers in the row below."""
    labels = np.zeros((30, 8 * max(n, others)), np.int64)
    for i in range(n):
        labels[4 : 4 + size, 8 * i : 8 * i + size] = value
    for i in range(others):
        labels[20:24, 8 * i : 8 * i + 4] = value + 1 + i
    return labels


@pytest.mark.parametrize(
    ("value", "n", "others", "is_mask"),
    [
        (1, 1, 0, False),
        (1, 2, 0, False),
        (1, 3, 0, True),
        (255, 1, 0, False),
        (255, 2, 0, True),  # what programs write into masks
        (254, 2, 0, False),
        (255, 2, 1, False),
        (1, 3, 1, False),  # half of two numbers: as many whole as in pieces
        (1, 6, 1, True),
        (1, 6, 2, False),
    ],
)
def test_from_three_places_of_a_number_on_it_looks_like_a_mask(value, n, others, is_mask):
    assert bool(look_at(pieces(value, n, others=others)).problem) == is_mask


@pytest.mark.parametrize(("crumb", "is_mask"), [((1, 9), False), ((1, 10), True)])
def test_pieces_of_less_than_a_tenth_of_the_largest_are_crumbs(crumb, is_mask):
    labels = np.zeros((40, 60), np.int64)
    labels[0:10, 0:10] = 3
    labels[20 : 20 + crumb[0], 0 : crumb[1]] = labels[30 : 30 + crumb[0], 0 : crumb[1]] = 3
    assert bool(look_at(labels).problem) == is_mask


@pytest.mark.parametrize(
    ("numbers", "dtype", "marks"),
    [
        ((1, 2, 3, 244, 255), np.uint8, False),
        ((1, 2, 3, 255), np.uint8, True),
        ((*range(1, 245), 255), np.uint8, True),  # 11 above the next
        ((*range(1, 246), 255), np.uint8, False),
        ((1, 85, 255), np.uint8, True),  # 170 above it, the others 84 apart
        ((1, 86, 255), np.uint8, False),
        ((1, 2, 254), np.uint8, False),
        ((1, 2, 2**15 - 1), np.int16, True),
        ((1, 2, 2**16 - 1), np.uint16, True),
        ((1, 2, 2**31 - 1), np.int32, True),
        ((255,), np.uint8, False),
    ],
)
def test_the_greatest_of_a_type_far_above_the_others_may_be_a_mark(numbers, dtype, marks):
    labels = np.zeros((4, 4 * len(numbers)), dtype)
    for i, number in enumerate(numbers):
        labels[1:3, 4 * i : 4 * i + 2] = number
    look = look_at(labels)
    assert ("far above the next number" in look.note) == marks
    assert look.problem == ""


@pytest.mark.parametrize(
    ("around", "gaps", "large", "said"),
    [
        # a frame of so many px around cells of 4 x 4; share of 0; where it is said
        (12, 0.0, True, "problem"),
        (12, 0.15, True, "problem"),
        (12, 0.25, True, "note"),
        (1, 0.0, False, ""),
    ],
)
def test_a_number_that_touches_all_sides_and_is_large_looks_like_background(
    around, gaps, large, said
):
    side = 60
    labels = np.full((side, side), 9, np.int64)
    inner = labels[around:-around, around:-around]
    inner[:] = 0
    n = inner.shape[0] // 4
    for y in range(n):
        for x in range(n):
            inner[4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 10 + y * n + x
    if not large:  # cells as large as it is
        inner[:] = np.where(np.indices(inner.shape)[0] < side // 2, 10, 11)
    inner[: round(gaps * side**2 / inner.shape[1])] = 0
    look = look_at(labels)
    assert ("label 9 covers" in look.problem) == (said == "problem")
    assert ("label 9 covers" in look.note) == (said == "note")
    assert look.background == (9 if said == "problem" else 0)


def rim(side: int, n: int, cell: int) -> np.ndarray:
    """So many pixels of 9 that touch all sides, and four cells in the corner opposite."""
    labels = np.zeros((side, side), np.int64)
    labels[[0, -1]] = labels[:, [0, -1]] = 9
    inner = labels[1:-1, 1:-1]
    more = np.arange(inner.size).reshape(inner.shape) < n - 4 * (side - 1)
    inner[more] = 9
    for i in range(4):
        labels[-2 - cell : -2, 4 + (cell + 3) * i : 4 + (cell + 3) * i + cell] = 10 + i
    return labels


@pytest.mark.parametrize(
    ("labels", "is_background"),
    [
        # more than ten times the usual cell, of which it is 100 px
        (rim(90, 1000, 10), False),
        (rim(90, 1001, 10), True),
        # and more than a tenth of the image
        (rim(110, 1210, 4), False),
        (rim(110, 1211, 4), True),
        # or more than half of it, beside one cell
        (np.pad(np.full((80, 63), 3), ((10, 10), (18, 19)), constant_values=9), False),
        (np.pad(np.full((80, 62), 3), ((10, 10), (19, 19)), constant_values=9), True),
    ],
)
def test_how_large_background_is(labels, is_background):
    look = look_at(labels)
    assert ("label 9 covers" in look.problem + look.note) == is_background


def holed(*holes: tuple[int, int, int, int]) -> np.ndarray:
    """255 with boxes (y, x, height, width) of 0."""
    plane = np.full((60, 60), 255, np.uint8)
    for y, x, height, width in holes:
        plane[y : y + height, x : x + width] = 0
    return plane


THREE = ((45, 5, 10, 10), (45, 20, 10, 10), (45, 35, 10, 10))


@pytest.mark.parametrize(
    ("plane", "inverted"),
    [
        (holed(*THREE), True),
        (holed(*THREE[:2]), False),  # so few may be anything
        # more than half of the image lies around them
        (holed(*THREE, (5, 5, 29, 50)), True),
        (holed(*THREE, (5, 5, 30, 50)), False),
    ],
)
def test_what_lies_around_cells_is_most_of_the_image(plane, inverted):
    assert look_at(plane).inverted == inverted


@pytest.mark.parametrize(("island", "inverted"), [(16, True), (17, False)])
def test_what_lies_around_cells_is_in_one_piece_but_for_a_tenth(island, inverted):
    plane = holed(*THREE, (5, 5, 30, 30))
    plane[10 : 10 + island, 10 : 10 + island] = 255
    assert look_at(plane).inverted == inverted


@pytest.mark.parametrize(
    ("width", "depth", "are_cells"), [(0, 0, True), (4, 10, True), (5, 9, False)]
)
def test_cells_fill_what_a_band_around_them_would_enclose(width, depth, are_cells):
    """Nine tenths of it, or more: gaps between round cells do not."""
    plane = holed(*((y, x, 20, 20) for y in (5, 35) for x in (5, 35)))
    for y in (5, 35):
        for x in (5, 35):
            plane[y : y + depth, x + 8 : x + 8 + width] = 255
    look = look_at(plane)
    assert look.inverted
    assert ("is all around 4 places" in look.problem) == are_cells
    assert ("cells that touch each other" in look.problem) != are_cells


@pytest.mark.parametrize(("missing", "are_cells"), [(0, True), (1, False)])
def test_gaps_of_few_pixels_have_no_shape(missing, are_cells):
    plane = holed(*((y, x, 4, 5) for y in (5, 35) for x in (5, 35)))
    for y in (5, 35):
        for x in (5, 35):
            plane[y, x : x + missing] = 255
    assert ("is all around 4 places" in look_at(plane).problem) == are_cells


@pytest.mark.parametrize(
    ("height", "width", "cell", "is_cell"),
    [
        (3, 54, 10, True),
        (3, 56, 10, False),  # a band
        (16, 10, 4, True),
        (7, 23, 4, False),  # more than ten times as large as the others
    ],
)
def test_the_greatest_number_of_a_type_is_no_cell_by_its_shape(height, width, cell, is_cell):
    labels = np.zeros((60, 80), np.uint8)
    for i in range(4):
        labels[5 : 5 + cell, 15 * i : 15 * i + cell] = i + 1
    labels[30 : 30 + height, 5 : 5 + width] = 255
    look = look_at(labels)
    assert ("label 255 stands far above the next number, 4" in look.note) == is_cell
    assert ("label 255, far above the next number, 4" in look.problem) != is_cell


@pytest.mark.parametrize(("gap", "apart"), [(9, ()), (10, ()), (11, (4,))])
def test_cells_lie_apart_that_are_further_from_each_other_than_they_are_large(gap, apart):
    labels = np.zeros((60, 80), np.int64)
    for i in range(4):
        labels[5:15, 20 * i : 20 * i + 10] = i + 1
    labels[15 + gap : 25 + gap, 60:70] = 4
    assert look_at(labels).apart == apart


@pytest.mark.parametrize(("n", "apart"), [(49, ()), (50, (1,))])
def test_so_many_pieces_are_no_cell_however_near_they_lie(n, apart):
    labels = np.zeros((40, 40), np.int64)
    for i in range(n):
        y, x = divmod(i, 10)
        labels[3 * y : 3 * y + 2, 3 * x : 3 * x + 2] = 1
    for i in range(3):
        labels[30:32, 10 * i : 10 * i + 2] = 2 + i
    assert look_at(labels).apart == apart


@pytest.mark.parametrize(("most", "seen"), [(1600, True), (1599, False)])
def test_of_a_huge_plane_not_every_row_is_looked_at(most, seen, monkeypatch):
    labels = np.zeros((40, 40), np.int64)
    labels[1::4, 1::4] = 1
    monkeypatch.setattr("napari_sa2net.data.labels.LOOKED_AT", most)
    assert bool(look_at(labels).problem) == seen
