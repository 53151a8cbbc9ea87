"""Masks are told from numbered cells."""

import numpy as np

from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.numbered import mask_problem


def test_masks_of_one_value_and_of_classes():
    _, labels = synthetic_nuclei((128, 128), 12, 16, 1)
    cells = labels > 0
    assert "the one value 255 stands in" in mask_problem(cells * np.uint8(255))
    assert mask_problem(cells)
    assert "each of 2 values" in mask_problem(np.where(labels % 2, 1, 2) * cells)
    two = np.zeros((40, 40), np.uint8)
    two[5:15, 5:15] = two[20:30, 20:30] = 255
    assert mask_problem(two)


def test_numbered_cells_are_left_alone():
    _, labels = synthetic_nuclei((128, 128), 12, 16, 1)
    assert mask_problem(labels) == ""
    assert mask_problem(labels * 0) == ""
    assert mask_problem(labels * 0 + 3) == ""
    one = (labels == 5) * 255
    assert mask_problem(one) == ""
    one[0, 0] = 255  # a crumb
    assert mask_problem(one) == ""
    # A cell in pieces among whole ones; one cell that something lies across.
    torn = labels.copy()
    for y in (2, 30, 60):
        torn[y : y + 6, 120:126] = 5
    assert mask_problem(torn) == ""
    across = np.zeros((40, 40), int)
    across[10:30, 10:30] = 1
    across[20] = 0
    assert mask_problem(across) == ""
