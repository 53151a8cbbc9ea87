"""Which reviewed background is believed."""

import numpy as np
import torch

from napari_sa2net.edits import Corrections, History, accept, mark_region, reviewed_mask
from napari_sa2net.training.held_out import certain_pixels
from napari_sa2net.training.tuning import _believed


def disk(shape, centre, radius):
    y, x = np.indices(shape)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def corrected():
    """One accepted cell; beside it another that nobody has labelled."""
    labels = disk((100, 140), (50, 40), 10).astype(np.int32)
    corrections = Corrections(labels)
    History(corrections).do(accept(corrections, [1]))
    return labels, corrections


def test_an_unlabelled_neighbour_is_not_certain_background():
    labels, corrections = corrected()
    counts = reviewed_mask(corrections)
    neighbour = disk(labels.shape, (50, 64), 10)
    assert (counts & neighbour).sum() > 100  # it lies in the reviewed surroundings
    certain = certain_pixels(labels, counts, 20.0)
    assert not (certain & neighbour).any()
    assert certain[labels == 1].all()
    next_to_it = disk(labels.shape, (50, 40), 12) & (labels == 0)
    assert certain[next_to_it].all()


def test_a_region_that_is_all_right_is_certain():
    labels, corrections = corrected()
    History(corrections).do(mark_region(corrections, "reviewed", box=(20, 80, 10, 120)))
    counts = reviewed_mask(corrections)
    certain = certain_pixels(labels, counts, 20.0)
    assert (certain == counts).mean() > 0.97
    assert certain_pixels(labels, np.ones(labels.shape, bool), 20.0) is None
    assert certain_pixels(labels, None, 20.0) is None


def test_uncertain_background_counts_while_it_looks_empty():
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 0] = torch.tensor([[5.0, -5.0], [-5.0, 5.0]])  # columns: empty, cell / cell, …
    batch = {
        "mask": torch.tensor([[[True, True], [True, False]]]),
        "certain": torch.tensor([[[False, False], [True, False]]]),
    }
    assert _believed(logits, batch).tolist() == [[[True, False], [True, False]]]
