"""Classes from labelled objects."""

import numpy as np
import pytest

from napari_sa2net.training.dataset import (
    class_targets,
    depths,
    distance_target,
    median_diameter,
)


def disc(shape, centre, radius):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def test_a_lone_object_has_a_boundary_of_one_pixel():
    labels = np.zeros((20, 20), np.int32)
    labels[5:15, 5:15] = 7
    target = class_targets(labels)
    expected = np.zeros_like(target)
    expected[5:15, 5:15] = 2
    expected[6:14, 6:14] = 1
    np.testing.assert_array_equal(target, expected)


def test_touching_objects_are_parted_by_a_wider_boundary():
    labels = np.zeros((20, 30), np.int32)
    labels[4:16, 3:15], labels[4:16, 15:27] = 1, 2
    target = class_targets(labels)
    assert (target[6:14, 13:17] == 2).all()
    assert (target[6:14, 4] == 1).all(), "away from the contact one pixel is enough"


def test_the_edge_of_the_image_is_no_boundary():
    assert (class_targets(np.ones((8, 8), np.int32)) == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 2), (2, 9)])
def test_thin_objects_keep_an_interior(shape):
    labels = np.zeros((20, 20), np.int32)
    labels[5 : 5 + shape[0], 5 : 5 + shape[1]] = 3
    target = class_targets(labels)
    assert (target == 1).any()
    np.testing.assert_array_equal(target > 0, labels > 0)


def test_empty_labels_are_background():
    assert not class_targets(np.zeros((5, 6), np.uint16)).any()


def test_median_diameter_is_that_of_discs():
    labels = np.zeros((100, 100), np.int32)
    for i, centre in enumerate([(20, 20), (20, 70), (70, 20)]):
        labels[disc(labels.shape, centre, 8)] = i + 1
    assert median_diameter(labels) == pytest.approx(16, abs=0.5)
    assert median_diameter(np.zeros((5, 5), int)) is None


def test_objects_cut_by_the_edge_count_only_alone():
    labels = np.zeros((60, 60), np.int32)
    labels[:3, :] = 1
    assert median_diameter(labels) is not None
    labels[disc(labels.shape, (30, 30), 10)] = 2
    assert median_diameter(labels) == pytest.approx(20, abs=0.5)


def test_distance_is_one_in_the_middle_and_falls_to_every_edge():
    labels = np.zeros((30, 40), np.int32)
    labels[5:16, 5:16], labels[5:16, 16:27] = 1, 2  # they touch
    target = distance_target(labels, depths(labels))
    assert target[10, 10] == target[10, 21] == 1
    # From the edge inwards: half a pixel, one and a half … of 5.5.
    np.testing.assert_allclose(target[10, 5:11], (np.arange(6) + 0.5) / 5.5, rtol=1e-6)
    np.testing.assert_allclose(target[10, 15:17], 0.5 / 5.5, rtol=1e-6)
    assert (target[labels == 0] == 0).all()


def test_what_an_image_cuts_is_measured_by_the_whole_object():
    labels = np.zeros((40, 40), np.int32)
    labels[10:31, 10:31] = 3
    whole = depths(labels)
    part = labels[:, :14]
    # The crop's edge is no edge of the object, and its depth is that of all of it.
    np.testing.assert_allclose(
        distance_target(part, whole), distance_target(labels, whole)[:, :14]
    )
    assert distance_target(part, depths(part)).max() == 1


@pytest.mark.parametrize("labels", [np.zeros((4, 5), int), np.ones((4, 5), int)])
def test_nothing_and_everything_have_a_distance(labels):
    np.testing.assert_array_equal(distance_target(labels, depths(labels)), labels)
