"""Stacks: one order of review for all planes, and corrections that are carried over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net import edits
from napari_sa2net.edits import Corrections, History, ReviewQueue, StackQueue
from napari_sa2net.errors import EditError


def disks(*cells: tuple[int, int, int, int], shape: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A plane of (label, y, x, radius)."""
    y, x = np.indices(shape)
    plane = np.zeros(shape, np.int32)
    for label, cy, cx, radius in cells:
        plane[np.hypot(y - cy, x - cx) <= radius] = label
    return plane


def bent(plane: np.ndarray, label: int, y: int, x: int) -> np.ndarray:
    """An odd shape: it is doubtful."""
    plane[y : y + 18, x : x + 4] = label
    plane[y + 14 : y + 18, x : x + 18] = label
    return plane


def queue_of(labels: np.ndarray, along: int | None = 0) -> tuple[StackQueue, Corrections]:
    corrections = Corrections(labels)
    made = StackQueue(corrections, lambda index: ReviewQueue(corrections, index), along)
    return made, corrections


# --- the order ---------------------------------------------------------------------------


def test_cells_of_all_planes_come_in_one_order_and_linked_ones_once() -> None:
    one = disks((1, 20, 20, 9), (2, 20, 60, 9))
    two = bent(disks((1, 20, 20, 9), (2, 20, 60, 9)), 3, 40, 40)
    three = bent(disks((1, 20, 20, 9)), 3, 40, 40)
    three[42:50, 40:44] = 0  # of cell 3 the second plane is odder
    queue, corrections = queue_of(np.stack([one, two, three]))
    assert queue.planes == (0, 3)
    queue.score_all()
    assert queue.planes == (3, 3)
    assert queue.progress == (0, 3)
    assert queue.run((1,), 1) == [((0,), 1), ((1,), 1), ((2,), 1)]
    walked = [queue.next()]
    while (node := queue.next(walked[-1])) is not None and node != walked[0]:
        walked.append(node)
    assert walked[0][1] == 3
    assert sorted(label for _, label in walked) == [1, 2, 3]
    scores = {i: queue.doubt((i,), 3) for i in (1, 2)}
    most = max(scores, key=lambda i: scores[i].score)  # type: ignore[union-attr]
    assert walked[0] == ((most,), 3)
    assert queue.previous(walked[1]) == walked[0]
    assert queue.previous(walked[0]) is None
    # what is said of a cell on one of its planes holds for the cell
    history = History(corrections)
    queue.update(history.do(edits.accept(corrections, [3], (2,))))
    assert queue.progress == (1, 3)
    assert queue.next()[1] != 3  # type: ignore[index]
    # deleted on the plane between, it is two
    queue.update(history.do(edits.delete(corrections, [1], (1,))))
    assert queue.progress == (1, 4)
    queue.update(history.undo())
    assert queue.progress == (1, 3)


def test_over_time_and_where_numbers_are_used_anew_cells_are_not_one() -> None:
    planes = np.stack([disks((1, 20, 20, 9)), disks((1, 20, 20, 9)), disks((1, 45, 70, 9))])
    queue, _ = queue_of(planes, along=None)
    assert queue.score_all().progress == (0, 3)
    queue, _ = queue_of(planes)
    assert queue.score_all().progress == (0, 2)


def test_only_depth_links_of_a_stack_over_time() -> None:
    labels = np.stack([np.stack([disks((1, 20, 20, 9))] * 3)] * 2)
    queue, _ = queue_of(labels, along=1)
    assert queue.score_all().progress == (0, 2)
    assert queue.run((1, 1), 1) == [((1, z), 1) for z in range(3)]


def test_planes_are_looked_at_when_there_is_time_the_shown_one_first() -> None:
    class Counted:
        """Labels that tell which planes were read."""

        def __init__(self, labels: np.ndarray) -> None:
            self.labels, self.read = labels, set()
            self.shape, self.dtype, self.ndim = labels.shape, labels.dtype, labels.ndim

        def __getitem__(self, key: Any) -> np.ndarray:
            self.read.add(key[0] if isinstance(key, tuple) else key)
            return self.labels[key]

    labels: Any = Counted(np.stack([disks((1, 20, 20, 9))] * 50))
    corrections = Corrections(labels, max_label=1)
    queue = StackQueue(corrections, lambda index: ReviewQueue(corrections, index), 0)
    queue.show((30,))
    assert labels.read == {30}
    assert queue.next() is None  # nothing is scored yet
    while queue.planes[0] < 4:
        queue.score_some(0.0)
    assert {30, 29, 31} <= labels.read <= set(range(27, 34))
    assert queue.next() is not None
    assert not queue.scored


def test_ignored_cells_do_not_count_on_any_plane() -> None:
    labels = np.stack([disks((1, 20, 20, 9), (2, 20, 60, 9))] * 3)
    queue, corrections = queue_of(labels)
    queue.score_all()
    history = History(corrections)
    everywhere = [(0, 0), (0, 40), (40, 40), (40, 0)]
    for i in range(3):
        step = edits.mark_region(corrections, "ignore", (i,), polygon=everywhere)
        queue.update(history.do(step))
    assert queue.progress == (0, 1)
    assert queue.next()[1] == 2  # type: ignore[index]
    for _ in range(3):
        queue.update(history.undo())
    assert queue.progress == (0, 2)


def test_one_plane_is_walked_as_by_its_own_queue() -> None:
    plane = bent(disks((1, 20, 20, 9), (2, 20, 60, 9), (4, 50, 80, 3)), 3, 40, 20)
    stack, corrections = queue_of(plane, along=None)
    stack.score_all()
    own = ReviewQueue(corrections).score_all()
    order, node = [], stack.next()
    while node is not None and node[1] not in order:
        order.append(node[1])
        node = stack.next(node)
    assert order == own.order
    assert stack.progress == own.progress


# --- carrying ----------------------------------------------------------------------------

SHAPE = (9, 64, 96)


def solid(*cells: tuple[int, float, float, float, float], bright: float = 1.0) -> Any:
    """Truth of balls (label, y, x, radius, radius in planes) in the middle, and the image."""
    z, y, x = np.indices(SHAPE)
    truth = np.zeros(SHAPE, np.int32)
    for label, cy, cx, radius, deep in cells:
        away = ((z - 4) / deep) ** 2 + ((y - cy) / radius) ** 2 + ((x - cx) / radius) ** 2
        truth[away <= 1] = label
    noise = np.random.default_rng(1).normal(0, 0.05, SHAPE)
    image = ndimage.gaussian_filter((truth > 0).astype(np.float32), (0.5, 0.8, 0.8))
    return truth, (0.2 + bright * image + noise).astype(np.float32)


def look_at(image: np.ndarray) -> Any:
    return lambda index, box: image[index][box[0] : box[1], box[2] : box[3]]


def iou(one: Any, other: Any) -> float:
    both = np.count_nonzero(one & other)
    return both / max(1, np.count_nonzero(one | other))


def carry(corrections: Corrections, step: edits.Step, image: Any, **more: Any) -> edits.Step:
    """Do it, carry it, and put that in its place, as one step."""
    history = History(corrections)
    history.do(step)
    look = look_at(image) if image is not None else None
    both = edits.carried(corrections, step, 0, look, **more)
    history.undo()
    history.do(both)
    assert len(history.done) == 1
    corrections.history = history  # type: ignore[attr-defined]
    return both


@pytest.mark.parametrize("bright", [1.0, -0.15])
def test_a_drawn_cell_goes_on_as_far_as_the_image_shows_it(bright: float) -> None:
    truth, image = solid((1, 30, 30, 12, 3.6), (2, 30, 75, 10, 4.0), bright=bright)
    if bright < 0:
        image = (1.0 - image.max() + (image - 0.2) * 6 + 0.8).astype(np.float32)
    labels = np.where(truth == 1, 0, truth).astype(np.int32)
    began = labels.copy()
    corrections = Corrections(labels)
    step = edits.redraw_mask(corrections, truth[4] == 1, (0, 0), (4,))
    both = carry(corrections, step, image)
    (new,) = {*step.labels} - {2}
    inside = [i for i in range(9) if (truth[i] == 1).any()]
    right = [iou(labels[i] == new, truth[i] == 1) for i in inside]
    assert sum(value >= 0.5 for value in right) >= len(inside) - 2
    assert sum(value >= 0.8 for value in right) >= len(inside) - 3
    beyond = [i for i in range(9) if i not in inside]
    assert not (labels[beyond] == new).any()
    # all of it is corrected, and one undo takes all of it back
    planes = {patch.index for patch in both.patches}
    assert len(planes) >= 4
    assert all(corrections.status(new, index) == "corrected" for index in planes)
    corrections.history.undo()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(labels, began)
    assert not any(corrections.marked(index) for index in planes)


def test_a_large_cell_may_lie_further_on_the_next_plane_than_a_small_one() -> None:
    """Up to a share of its size."""
    truth = np.stack([disks((1, 32, x, 20)) for x in (40, 45, 50)])
    noise = np.random.default_rng(1).normal(0, 0.02, truth.shape)
    image = (0.2 + (truth > 0) + noise).astype(np.float32)
    labels = np.zeros_like(truth)
    corrections = Corrections(labels)
    carry(corrections, edits.redraw_mask(corrections, truth[0] == 1, (0, 0), (0,)), image)
    assert all(iou(labels[i] > 0, truth[i] > 0) > 0.95 for i in (1, 2))


def test_deleted_where_it_goes_on_but_not_what_is_reviewed() -> None:
    labels = np.stack([disks((1, 20, 20, 9), (2, 20, 60, 9))] * 7)
    labels[5] = disks((2, 20, 60, 9))  # it ends before the sixth
    labels[6] = disks((1, 20, 20, 9), (2, 20, 60, 9))
    corrections = Corrections(labels)
    corrections.apply(edits.accept(corrections, [1], (1,)))
    carry(corrections, edits.delete(corrections, [1], (3,)), None)
    assert [bool((plane == 1).any()) for plane in labels] == [
        *(True, True, False, False, False, False, True)
    ]
    assert all((plane == 2).any() for plane in labels)
    # where it was is background that a model may learn, on every plane
    assert all(edits.reviewed_mask(corrections, (i,))[20, 20] for i in (2, 3, 4))


def test_numbers_of_linked_cells_go_on_and_others_stay_by_themselves() -> None:
    plane = disks((7, 30, 30, 12))
    linked = np.stack([plane] * 5)
    corrections = Corrections(linked)
    carry(corrections, edits.split(corrections, [(30, 10), (30, 50)], (2,)), None)
    assert [np.unique(one).tolist() for one in linked] == [[0, 7, 8]] * 5
    for one in linked:
        np.testing.assert_array_equal(one, linked[2])
    # one after the other through time, each with a number of its own
    own = np.stack([np.where(plane > 0, 7 + i, 0) for i in range(5)]).astype(np.int32)
    corrections = Corrections(own)
    carry(corrections, edits.split(corrections, [(30, 10), (30, 50)], (2,)), None, linked=False)
    named = [np.unique(one[one > 0]).tolist() for one in own]
    assert all(7 + i in labels for i, labels in enumerate(named))
    assert all(len(labels) == 2 for labels in named)
    assert len({label for labels in named for label in labels}) == 10


def test_joined_where_there_are_still_two() -> None:
    two = disks((3, 30, 25, 9), (4, 30, 42, 10))
    other = two.copy()
    other[other == 4] = 3  # one already
    alone = disks((4, 30, 42, 10))
    labels = np.stack([other, two, two, two, alone])
    corrections = Corrections(labels)
    carry(corrections, edits.merge(corrections, labels=[3, 4], index=(2,)), None)
    (name,) = np.unique(labels[2][labels[2] > 0])
    assert [np.unique(plane[plane > 0]).tolist() for plane in labels[1:4]] == [[name]] * 3
    # one already: it is the same cell, and has its number
    np.testing.assert_array_equal(labels[0], np.where(other, name, 0))
    np.testing.assert_array_equal(labels[4], alone)


def test_a_cell_that_is_right_there_or_reviewed_stays() -> None:
    truth, image = solid((1, 30, 30, 12, 9.0))
    labels = truth.copy()
    labels[2:7][truth[2:7] == 1] = 0
    small = disks((1, 30, 30, 5))
    labels[3:6] = small  # much too small there
    labels[3] = disks((9, 30, 30, 5))
    corrections = Corrections(labels)
    corrections.apply(edits.accept(corrections, [9], (3,)))
    before = labels.copy()
    step = edits.redraw_mask(corrections, truth[4] == 1, (0, 0), (4,), 1, "unreviewed")
    carry(corrections, step, image)
    np.testing.assert_array_equal(labels[:4], before[:4])  # stopped at the reviewed one
    assert iou(labels[5] == 1, truth[5] == 1) > 0.8
    assert iou(labels[6] == 1, truth[6] == 1) > 0.8
    np.testing.assert_array_equal(labels[7:], before[7:])  # right as they are


def test_without_a_clear_level_the_outline_goes_on_while_the_picture_stays_alike() -> None:
    rng = np.random.default_rng(3)
    texture, other = (ndimage.gaussian_filter(rng.normal(0, 1, SHAPE[1:]), 1.5) for _ in "12")
    image = np.stack([texture] * 6 + [other] * 3)
    image = (image + rng.normal(0, 0.02, SHAPE)).astype(np.float32)
    labels = np.zeros(SHAPE, np.int32)
    corrections = Corrections(labels)
    step = edits.redraw_mask(corrections, disks((1, 30, 30, 12)) > 0, (0, 0), (4,))
    carry(corrections, step, image)
    assert [bool(plane.any()) for plane in labels] == [True] * 6 + [False] * 3


def test_what_cannot_be_carried_says_why_and_changes_nothing() -> None:
    labels = np.stack([disks((1, 20, 20, 9))] * 3)
    corrections = Corrections(labels)
    accepted = edits.accept(corrections, [1], (1,))
    corrections.apply(accepted)
    with pytest.raises(EditError, match="cannot be carried"):
        edits.carried(corrections, accepted, 0)
    drawn = edits.redraw_mask(corrections, np.ones((8, 8), bool), (40, 60), (1,))
    corrections.apply(drawn)
    with pytest.raises(EditError, match="no image"):
        edits.carried(corrections, drawn, 0)
    for i in (0, 2):
        corrections.apply(edits.accept(corrections, [1], (i,)))
    gone = edits.delete(corrections, [1], (1,))
    corrections.apply(gone)
    before = labels.copy()
    with pytest.raises(EditError, match="goes on in no plane"):
        edits.carried(corrections, gone, 0)
    np.testing.assert_array_equal(labels, before)


def test_the_carried_step_is_written_down_and_done_again() -> None:
    labels = np.stack([disks((7, 30, 30, 12))] * 4)
    began = labels.copy()
    corrections = Corrections(labels)
    both = carry(corrections, edits.split(corrections, [(30, 10), (30, 50)], (2,)), None)
    again = Corrections(began)
    again.apply(edits.Step.from_bytes(both.to_bytes()))
    np.testing.assert_array_equal(began, labels)
    for i in range(4):
        assert again.marked((i,)) == corrections.marked((i,))


def bar(label: int, x0: int, x1: int) -> np.ndarray:
    plane = np.zeros((30, 60), np.int32)
    plane[10:20, x0:x1] = label
    return plane


@pytest.mark.parametrize(
    ("other", "moved", "goes_on"),
    [
        (8, 0, True),
        (8, 6, True),  # 14 of 26 pixels wide
        (8, 7, False),  # 13 of 27
        (8, 30, False),
        (7, 7, True),
        (7, 10, True),  # under its number half of it is enough
        (7, 11, False),
    ],
)
def test_a_cell_goes_on_where_another_lies_on_half_of_both(other, moved, goes_on) -> None:
    labels = np.stack([bar(7, 10, 30), bar(other, 10 + moved, 30 + moved)])
    corrections = Corrections(labels)
    step = edits.delete(corrections, [7], (0,))
    if goes_on:
        carry(corrections, step, None)
        assert not labels.any()
        return
    corrections.apply(step)
    with pytest.raises(EditError, match="goes on in no plane"):
        edits.carried(corrections, step, 0)
    assert labels[1].any()


def test_of_several_cells_the_one_that_lies_on_most_is_the_same() -> None:
    labels = np.stack([bar(7, 10, 30), bar(5, 4, 11) + bar(9, 11, 29) + bar(6, 29, 33)])
    corrections = Corrections(labels)
    carry(corrections, edits.delete(corrections, [7], (0,)), None)
    assert np.unique(labels[1]).tolist() == [0, 5, 6]


@pytest.mark.parametrize(
    ("ends", "cut"),
    [
        ((10, 30), True),
        ((16, 30), True),  # 4 of 10 columns of the left part
        ((17, 30), False),
        ((10, 25), True),
        ((10, 23), False),
    ],
)
def test_a_cut_goes_on_where_enough_of_both_parts_is_in_the_cell(ends, cut) -> None:
    labels = np.stack([bar(7, 10, 30), bar(7, *ends)])
    corrections = Corrections(labels)
    step = edits.split(corrections, [(5, 20), (25, 20)], (0,))
    if not cut:
        corrections.apply(step)
        with pytest.raises(EditError, match="goes on in no plane"):
            edits.carried(corrections, step, 0)
        return
    carry(corrections, step, None)
    assert np.unique(labels[1]).tolist() == np.unique(labels[0]).tolist() == [0, 7, 8]
    np.testing.assert_array_equal(labels[1] > 0, bar(7, *ends) > 0)
    same = (labels[0] > 0) & (labels[1] > 0)
    assert (labels[0][same] == labels[1][same]).mean() > 0.9


def assert_goes_on(plane: np.ndarray, image: np.ndarray, least: float | None) -> None:
    """A cell drawn on the first plane is on the next as it was, or, where None, on none."""
    labels = np.zeros((2, *plane.shape), np.int32)
    corrections = Corrections(labels)
    step = edits.redraw_mask(corrections, plane == 1, (0, 0), (0,))
    if least is not None:
        carry(corrections, step, image)
        assert iou(labels[1] > 0, plane > 0) > least
        return
    corrections.apply(step)
    with pytest.raises(EditError, match="goes on in no plane"):
        edits.carried(corrections, step, 0, look_at(image))


@pytest.mark.parametrize(
    ("bright", "goes_on"), [(1.0, True), (0.6, True), (0.4, False), (-1.0, False)]
)
def test_a_drawn_cell_goes_on_where_it_is_half_as_bright(bright, goes_on) -> None:
    plane = disks((1, 32, 48, 14))
    noise = np.random.default_rng(1).normal(0, 0.02, (2, *plane.shape))
    image = (5 + noise + np.stack([plane, bright * plane])).astype(np.float32)
    assert_goes_on(plane, image, 0.85 if goes_on else None)


@pytest.mark.parametrize(
    ("rim", "halo", "bright", "goes_on"),
    [
        (0.4, 0.0, 0.6, True),
        (0.4, 0.0, 0.5, False),  # brighter than its rim was, but not its middle
        (1.0, -0.7, 0.6, True),  # against what is around it, not against its halo
        (1.0, -0.7, 0.4, False),
    ],
)
def test_how_bright_a_cell_is_is_seen_in_its_middle_and_beyond_its_halo(
    rim, halo, bright, goes_on
) -> None:
    plane, inner, outer = (disks((1, 32, 48, radius)) for radius in (14, 12, 17))
    noise = np.random.default_rng(1).normal(0, 0.02, (2, *plane.shape))
    drawn = rim * plane + (1 - rim) * inner + halo * (outer - plane)
    image = (1 + noise + np.stack([drawn, bright * plane])).astype(np.float32)
    assert_goes_on(plane, image, 0.9 if goes_on else None)


@pytest.mark.parametrize(("radius", "stays"), [(14, True), (13, True), (12, False), (8, False)])
def test_a_cell_that_is_like_the_outline_already_stays(radius, stays) -> None:
    """On the next plane the image shows a disk of radius 14: 13 is 0.86 of it, 12 0.73."""
    plane = disks((1, 32, 48, 14))
    noise = np.random.default_rng(1).normal(0, 0.02, (2, *plane.shape))
    image = (1 + noise + plane).astype(np.float32)
    labels = np.stack([disks((5, 32, 48, 8)), disks((5, 32, 48, radius))])
    corrections = Corrections(labels)
    step = edits.redraw_mask(corrections, plane == 1, (0, 0), (0,), 5)
    if not stays:
        carry(corrections, step, image)
        assert iou(labels[1] == 5, plane == 1) > 0.95
        return
    before = labels[1].copy()
    corrections.apply(step)
    with pytest.raises(EditError, match="goes on in no plane"):
        edits.carried(corrections, step, 0, look_at(image))
    np.testing.assert_array_equal(labels[1], before)


def shown(*planes: np.ndarray) -> np.ndarray:
    """An image in which the cells of these planes shine."""
    noise = np.random.default_rng(1).normal(0, 0.02, (len(planes), *planes[0].shape))
    return (1 + noise + np.stack([plane > 0 for plane in planes])).astype(np.float32)


@pytest.mark.parametrize(
    ("below", "linked", "same"),
    [
        ([(2, 20, 20, 6), (3, 20, 74, 6)], False, True),  # cells have one number here
        ([(12, 20, 20, 6), (13, 20, 74, 6)], True, False),
        ([(2, 20, 20, 6), (3, 50, 74, 6)], True, False),  # no more than half of them have
        ([], True, True),  # nothing tells: as it is said to be
        ([], False, False),
    ],
)
def test_a_new_cell_has_one_number_where_others_have(below, linked, same) -> None:
    new = disks((1, 45, 45, 12))
    labels = np.stack([disks((2, 20, 20, 6), (3, 20, 74, 6)), disks(*below)])
    image = shown(*(np.maximum(plane, new) for plane in labels))
    corrections = Corrections(labels)
    step = edits.redraw_mask(corrections, new == 1, (0, 0), (0,))
    carry(corrections, step, image, linked=linked)
    (one,), (other,) = (np.unique(plane[new == 1]) for plane in labels)
    assert 0 not in (one, other)
    assert (one == other) == same


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (8, 9, {9}),  # the larger keeps its number
        (4, 3, {4}),
        (8, 4, {4}),  # one is linked: it is the same cell
        (3, 9, {4}),
        (8, 0, None),  # nothing to join it with, and another cell by its number
        (0, 4, None),  # right as it is
        (3, 0, {4}),  # joined there already, under a number that is no more
    ],
)
def test_joined_cells_are_called_as_they_are_linked(one, other, names) -> None:
    def two(first: int, second: int) -> np.ndarray:
        return bar(first, 10, 20) + bar(second, 20, 32)

    labels = np.stack([two(3, 4), two(one, other)])
    if names == {4} and not other:
        labels[1] = bar(3, 10, 21)
    corrections = Corrections(labels)
    step = edits.merge(corrections, labels=[3, 4], index=(0,))
    if names is None:
        corrections.apply(step)
        with pytest.raises(EditError, match="goes on in no plane"):
            edits.carried(corrections, step, 0)
        return
    carry(corrections, step, None)
    assert set(labels[0][labels[0] > 0]) == {4}
    assert set(labels[1][labels[1] > 0]) == names


@pytest.mark.parametrize(
    ("x", "reviewed", "left"),
    [(56, False, 0), (56, True, 6), (62, False, 6), (70, False, 6)],
)
def test_pieces_of_a_drawn_cell_give_way_on_the_next_plane_too(x, reviewed, left) -> None:
    """Those that lie in it for the most part, and nobody has reviewed."""
    whole = disks((5, 32, 48, 14))
    piece = disks((6, 32, x, 5))
    core = disks((5, 32, 42, 8))
    labels = np.stack([core, np.where(piece > 0, piece, core)])
    corrections = Corrections(labels)
    if reviewed:
        corrections.apply(edits.accept(corrections, [6], (1,)))
    step = edits.redraw_mask(corrections, whole == 5, (0, 0), (0,), 5, "unreviewed")
    carry(corrections, step, shown(whole, whole))
    assert np.unique(labels[1]).tolist() == ([0, 5, 6] if left else [0, 5])
    if left:
        np.testing.assert_array_equal(labels[1] == 6, piece == 6)
    assert iou(labels[1] == 5, (whole > 0) & (labels[1] != 6)) > 0.9


@pytest.mark.parametrize(
    ("x", "radius", "clear", "drawn"),
    [
        (64, 10, True, True),
        (50, 10, True, False),  # half of it is gone
        (48, 5, False, True),  # an eighth of the outline
        (48, 6, False, False),  # a sixth
    ],
)
def test_a_new_cell_goes_on_where_other_cells_leave_room_for_it(
    x, radius, clear, drawn
) -> None:
    new, other = disks((1, 32, 48, 14)), disks((9, 32, x, radius))
    image = shown(new, new)
    if not clear:  # no level is that of the outline
        texture = np.random.default_rng(3).normal(0, 1, new.shape)
        image = np.stack([ndimage.gaussian_filter(texture, 1.5)] * 2).astype(np.float32)
    labels = np.stack([new * 0, other])
    corrections = Corrections(labels)
    step = edits.redraw_mask(corrections, new == 1, (0, 0), (0,))
    if drawn:
        carry(corrections, step, image)
        assert iou((labels[1] > 0) & (labels[1] != 9), (new > 0) & (other == 0)) > 0.85
    else:
        corrections.apply(step)
        with pytest.raises(EditError, match="goes on in no plane"):
            edits.carried(corrections, step, 0, look_at(image))
    np.testing.assert_array_equal(labels[1] == 9, other == 9)


def test_a_cell_that_was_erased_is_erased_where_it_goes_on() -> None:
    labels = np.stack([bar(7, 10, 30) + bar(8, 40, 50)] * 2)
    corrections = Corrections(labels)
    where = np.nonzero(labels[0] == 7)
    at = (np.zeros(where[0].size, int), *where)
    labels[0][where] = 0
    step = edits.stroke(corrections, [(at, np.full(where[0].size, 7), 0)])
    history = History(corrections)
    history.record(step)
    both = edits.carried(corrections, step, 0)
    history.undo()
    history.do(both)
    np.testing.assert_array_equal(labels, np.stack([bar(8, 40, 50)] * 2))
