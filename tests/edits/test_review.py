"""The order of review."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net import edits
from napari_sa2net.edits import Corrections, History, ReviewQueue, review
from napari_sa2net.edits.review import expected_wrong
from napari_sa2net.errors import EditError


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Sound disks 1 to 8; 9 blurred, 10 tiny, 11 huge, 12 bent, 13 and 14 touching."""
    labels = np.zeros((200, 300), np.int32)
    y, x = np.indices(labels.shape)

    def disk(label, cy, cx, r):
        labels[np.hypot(y - cy, x - cx) <= r] = label

    for k in range(8):
        disk(k + 1, 20, 20 + 33 * k, 9)
    disk(9, 60, 30, 9)
    disk(10, 60, 70, 2)
    disk(11, 110, 60, 27)
    labels[60:90, 150:156] = 12
    labels[84:90, 150:185] = 12
    labels[120:140, 150:170] = 13
    labels[120:140, 170:190] = 14
    foreground = ndimage.gaussian_filter((labels > 0).astype(np.float32), 0.7)
    foreground[45:76, 15:46] = ndimage.gaussian_filter(foreground, 6)[45:76, 15:46]
    return labels, foreground


def queue_of(labels, foreground=None, **more) -> ReviewQueue:
    return ReviewQueue(Corrections(labels), foreground=foreground, **more).score_all()


def test_what_is_odd_comes_first_and_says_why():
    queue = queue_of(*scene())
    assert set(queue.order[:6]) == {9, 10, 11, 12, 13, 14}
    assert set(queue.order[6:]) == set(range(1, 9))
    doubts = {label: queue.doubt(label) for label in queue.order}
    scores = [doubts[label].score for label in queue.order]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] < 0.05 < scores[5] < scores[0] < 1
    assert doubts[9].reasons == ("blurred boundary",)
    assert "unusually small" in doubts[10].reasons
    assert doubts[11].reasons == ("unusually large",)
    assert doubts[12].reasons[0] == "irregular shape"
    assert doubts[13].reasons == doubts[14].reasons == ("touches a neighbour",)
    assert doubts[1].reasons == ()
    assert queue.doubt(99) is None


def test_borders_seams_and_flips_are_said():
    labels, foreground = scene()
    labels[:, :20] = 0  # cuts through 1
    labels = np.ascontiguousarray(labels[:, 20:])
    foreground = np.ascontiguousarray(foreground[:, 20:])
    flipped = foreground.copy()
    flipped[10:31, 25:46] *= 0.5
    plain = queue_of(labels, foreground)
    queue = queue_of(labels, foreground, flips=[flipped], seams=([100], []))
    assert "cut at the image border" in queue.doubt(1).reasons
    assert "on a seam, where the network saw it in two pieces" in queue.doubt(11).reasons
    assert "on a seam, where the network saw it in two pieces" not in queue.doubt(12).reasons
    assert "changes when the image is flipped" in queue.doubt(2).reasons
    for label in (2, 11):
        assert queue.doubt(label).score > plain.doubt(label).score
    assert queue.doubt(3).score == plain.doubt(3).score


def test_cells_that_the_edge_cuts_come_last():
    labels, foreground = scene()
    before = queue_of(labels, foreground).order
    odd = before[0]
    rows, columns = np.nonzero(labels == odd)
    for edge in (
        np.s_[rows.min() + 3 :],
        np.s_[: rows.max() - 2],
        np.s_[:, columns.min() + 3 :],
        np.s_[:, : columns.max() - 2],
    ):
        queue = queue_of(np.ascontiguousarray(labels[edge]), foreground[edge])
        cut = [label for label in queue.order if queue.doubt(label).cut]
        assert odd in cut
        assert queue.order[-len(cut) :] == cut
        assert queue.next() not in cut
        whole = [label for label in queue.order if label not in cut]
        for part in (cut, whole):
            scores = [queue.doubt(label).score for label in part]
            assert scores == sorted(scores, reverse=True)
        # the walk goes through both, and round to the beginning
        assert queue.next(whole[-1]) == cut[0]
        assert queue.next(cut[-1]) == whole[0]
        assert queue.previous(cut[0]) == whole[-1]


def test_without_probabilities_size_and_shape_decide():
    labels, _ = scene()
    queue = queue_of(labels)
    assert set(queue.order[:5]) == {10, 11, 12, 13, 14}


def test_walking():
    labels, foreground = scene()
    corrections = Corrections(labels)
    history = History(corrections)
    queue = ReviewQueue(corrections, foreground=foreground).score_all()
    order = queue.order
    assert queue.progress == (0, 14)
    assert queue.next() == order[0]
    assert queue.next(order[0]) == order[1]
    assert queue.previous(order[1]) == order[0]
    assert queue.previous(order[0]) is None
    queue.update(history.do(edits.accept(corrections, [order[0], order[2]])))
    assert queue.progress == (2, 14)
    assert queue.next() == order[1]
    assert queue.next(order[1]) == order[3]
    assert queue.previous(order[3]) == order[2]  # back to what was accepted
    assert queue.next(order[-1]) == order[1]  # round to the beginning

    # What is deleted still has its place in the walk.
    queue.update(history.do(edits.delete(corrections, [order[4]])))
    assert queue.score_some(1)
    assert order[4] not in queue.order
    assert queue.next(order[4]) == order[5]
    assert queue.previous(order[4]) == order[3]
    assert queue.progress == (2, 13)
    queue.update(history.undo())
    assert queue.score_some(1)
    assert queue.order == order

    ignored = edits.mark_region(corrections, "ignore", box=(0, 40, 0, 300))
    queue.update(history.do(ignored))
    assert queue.order == [label for label in order if label > 8]
    assert queue.progress[1] == 6
    queue.update(history.do(edits.accept_in_view(corrections, (0, 200, 0, 300))))
    assert queue.progress == (6, 6)
    assert queue.next() is None
    assert queue.next(order[0]) is None


def test_scores_follow_the_edits():
    labels, foreground = scene()
    corrections = Corrections(labels)
    history = History(corrections)
    queue = ReviewQueue(corrections, foreground=foreground).score_all()
    before = {label: queue.doubt(label) for label in queue.order}
    step = history.do(edits.merge(corrections, labels=[13, 14]))
    queue.update(step)
    queue.score_all()
    (kept,) = {13, 14} & set(queue.order)
    assert "touches a neighbour" not in queue.doubt(kept).reasons
    fresh = ReviewQueue(corrections, foreground=foreground)
    for label in before:
        if label not in (13, 14):
            assert queue.doubt(label) == before[label]
    assert fresh.order == []  # not scored yet
    assert not fresh.score_some(0)  # one object at a time, if there is no more time
    assert len(fresh.order) == 1
    queue.update(history.undo())
    queue.score_all()
    assert {label: queue.doubt(label) for label in queue.order} == before
    assert edits.reviewed_labels(corrections) == set()
    history.do(edits.mark_region(corrections, "reviewed", box=(100, 200, 100, 300)))
    assert edits.reviewed_labels(corrections) == {13, 14}
    assert queue.progress == (2, 14)


def test_giants_are_judged_by_some_of_their_pixels():
    labels = np.zeros((600, 600), np.int32)
    labels[20:580, 20:580] = 1
    for k in range(6):
        labels[2:12, 10 + 20 * k : 20 + 20 * k] = k + 2
    foreground = (labels > 0).astype(np.float32)
    queue = queue_of(labels, foreground)
    assert queue.order[0] == 1
    assert queue.doubt(1).reasons == ("unusually large",)


def test_a_stack_has_a_queue_per_plane():
    labels, foreground = scene()
    stack = np.stack([np.zeros_like(labels), labels])
    corrections = Corrections(stack)
    assert ReviewQueue(corrections, (0,)).score_all().order == []
    queue = ReviewQueue(corrections, (1,), foreground).score_all()
    assert queue.order == queue_of(labels, foreground).order
    with pytest.raises(EditError, match="no plane"):
        ReviewQueue(corrections, (2,))
    for bad in ({"foreground": foreground[1:]}, {"flips": [foreground.T]}):
        with pytest.raises(EditError, match="shape"):
            ReviewQueue(corrections, (1,), **bad)


def test_doubts_and_missed_cells_of_a_plane_add_up():
    y, x = np.mgrid[:80, :120]
    labels = np.zeros(y.shape, np.int32)
    for i in range(6):
        labels[(y - 40) ** 2 + (x - 10 - 20 * i) ** 2 <= 49] = i + 1
    sharp = (labels > 0).astype(np.float32)
    sure = expected_wrong(labels, sharp)
    assert sure < 0.2
    assert expected_wrong(labels, 0.4 + 0.2 * sharp) > sure + 1
    # two cells that the model saw and left out: each counts about once
    two = np.where(labels > 4, 0, labels)
    assert expected_wrong(two, sharp) == pytest.approx(2 + 4 * sure / 6, abs=0.2)
    # without any cell the size that was estimated tells how many there may be
    none = np.zeros_like(labels)
    assert expected_wrong(none, sharp, diameter=14) == pytest.approx(6, abs=0.5)
    assert expected_wrong(none, np.zeros_like(sharp)) == 0
    assert expected_wrong(none, np.full_like(sharp, np.nan)) == 0


@pytest.mark.parametrize(("n", "looked_at"), [(1999, 1999), (4000, 1000)])
def test_of_very_many_cells_some_tell_how_doubtful_all_are(monkeypatch, n, looked_at):
    """Else a plane of a whole slide keeps a person waiting."""
    seen = []

    def doubt(label, *_):
        seen.append(label)
        return edits.Doubt(label, 0.25, (), cut=False)

    monkeypatch.setattr(review, "doubt", doubt)
    labels = np.repeat(np.arange(1, n + 1, dtype=np.int32)[None], 3, axis=0)
    assert expected_wrong(labels, None) == pytest.approx(n / 4)
    assert len(set(seen)) == looked_at


def disk(radius: float = 15, side: int = 60) -> np.ndarray:
    y, x = np.indices((side, side)) - side // 2
    return (np.hypot(y, x) <= radius).astype(np.int32)


def test_a_round_cell_of_which_nothing_else_is_known_is_seldom_wrong():
    """About once in seventy times: with the blur of an ordinary one."""
    assert expected_wrong(disk(), None) == pytest.approx(1 / 70, rel=0.1)


@pytest.mark.parametrize(("away", "doubtful"), [(3, True), (4, False)])
def test_the_boundary_is_looked_at_three_pixels_wide(away, doubtful):
    labels = disk()
    sure = labels.astype(np.float32)
    near = ndimage.binary_dilation(labels, np.ones((3, 3)), iterations=away)
    ring = near & ~ndimage.binary_dilation(labels, np.ones((3, 3)), iterations=away - 1)
    blurred = np.where(ring, np.float32(0.5), sure)
    plain, other = (
        ReviewQueue(Corrections(labels), foreground=one).score_all().doubt(1)
        for one in (sure, blurred)
    )
    assert (other.score > plain.score + 1e-3) == doubtful


@pytest.mark.parametrize(("n", "said"), [(4, False), (5, True)])
def test_from_five_cells_on_one_of_another_size_is_odd(n, said):
    labels = np.zeros((60, 60 * n), np.int32)
    for i in range(n):
        labels[:, 60 * i : 60 * i + 60] = (i + 1) * disk(8 if i else 20)
    queue = ReviewQueue(Corrections(labels)).score_all()
    assert ("unusually large" in queue.doubt(1).reasons) == said


def test_a_giant_that_is_nothing_but_thin_lines_is_looked_at_whole():
    """Of a giant every second pixel would be looked at, and of this one none is there."""
    labels = np.zeros((700, 700), np.int32)
    labels[1, 1:600] = labels[1:600, 1] = 5
    labels[650:660, 650:660] = 6
    queue = queue_of(labels, (labels > 0).astype(np.float32))
    assert queue.order[0] == 5
    assert "irregular shape" in queue.doubt(5).reasons
