"""Scores against hand-computed cases and a slow, independent count."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.ndimage import label

from napari_sa2net.errors import EvaluationError
from napari_sa2net.metrics import (
    SCORES,
    THRESHOLDS,
    MatchCounts,
    evaluate,
    pool,
    score_image,
    typical_diameter,
)


def strip(*runs):
    """One-row labels from (length, label) runs."""
    return np.concatenate([np.full(length, value) for length, value in runs])[None]


def blobs(seed, shape=(40, 50), level=0.6):
    rng = np.random.default_rng(seed)
    field = rng.random(shape)
    return label(field > level)[0]


# --- by hand ---------------------------------------------------------------------------


def test_a_perfect_result_scores_one():
    truth = blobs(0)
    assert evaluate(truth, truth) == dict.fromkeys(SCORES, 1.0)


def test_numbering_does_not_matter():
    truth = blobs(0)
    shuffled = np.random.default_rng(0).permutation(truth.max() + 1)
    shuffled[shuffled == 0] = shuffled[0]
    shuffled[0] = 0
    assert evaluate(shuffled[truth] * 1000, truth) == dict.fromkeys(SCORES, 1.0)


def test_one_match_of_known_overlap():
    # 8 of 10 pixels shared: IoU 8/10; one object missed; one made up
    truth = strip((10, 1), (5, 0), (4, 2), (5, 0))
    labels = strip((8, 7), (12, 0), (4, 9))
    scores = evaluate(labels, truth)
    assert scores["ap50"] == pytest.approx(1 / 3)
    assert scores["ap75"] == pytest.approx(1 / 3)
    # thresholds 0.50 ... 0.80 match (7 of 9), 0.85 and 0.90 do not
    assert scores["mean_ap"] == pytest.approx(7 / 9 / 3)
    assert scores["f1"] == pytest.approx(2 / 4)
    assert scores["pq"] == pytest.approx(0.8 / (1 + 0.5 + 0.5))
    assert scores["aji"] == pytest.approx(8 / (10 + 4 + 4))
    assert scores["dice"] == pytest.approx(2 * 8 / (12 + 14))
    assert scores["iou"] == pytest.approx(8 / (12 + 14 - 8))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_an_overlap_equal_to_the_threshold_counts(threshold):
    shared = round(threshold * 20)
    score = score_image(strip((shared, 1), (20 - shared, 0)), strip((20, 1)))
    at = THRESHOLDS.index(threshold)
    assert [count.tp for count in score.matches] == [1] * (at + 1) + [0] * (8 - at)


def test_of_two_halves_only_one_is_the_cell():
    halves, whole = strip((5, 1), (5, 2)), strip((10, 1))
    for labels, truth in ((halves, whole), (whole, halves)):
        counts = score_image(labels, truth).matches[0]
        assert counts.tp == 1
        assert counts.fp + counts.fn == 1
        assert evaluate(labels, truth)["ap50"] == 0.5


def test_optimal_assignment_at_exactly_one_half():
    # A chain of halves: labels 1-2-3 over truths shifted by half a cell; every neighbouring
    # pair has IoU 2/4. A greedy choice can leave one unmatched; the best matches three.
    truth = np.zeros((4, 8), int)
    labels = np.zeros((4, 8), int)
    truth[0:4, 0], truth[0:4, 2], truth[0:4, 4] = 1, 2, 3
    labels[0:2, 0] = 1  # half of truth 1
    labels[2:4, 0] = 2  # the other half of truth 1
    labels[0:4, 2] = 3
    labels[0:2, 4] = 4
    counts = score_image(labels, truth).matches[0]
    assert counts == MatchCounts(tp=3, fp=1, fn=0)


def test_two_empty_images_score_one():
    empty = np.zeros((5, 5), int)
    assert evaluate(empty, empty) == dict.fromkeys(SCORES, 1.0)
    assert evaluate(np.zeros((0, 5), int), np.zeros((0, 5), int))["dice"] == 1


def test_nothing_found_and_nothing_there():
    empty, cells = np.zeros((40, 50), int), blobs(1)
    assert evaluate(empty, cells) == dict.fromkeys(SCORES, 0.0)
    assert evaluate(cells, empty) == dict.fromkeys(SCORES, 0.0)


def test_a_prediction_may_serve_two_cells_in_aji():
    # One prediction over two cells of 5 + 5 (IoU 5/10 each): taken twice.
    assert evaluate(strip((10, 1)), strip((5, 1), (5, 2)))["aji"] == pytest.approx(10 / 20)


# --- pooling ---------------------------------------------------------------------------


def test_counts_are_summed_before_dividing():
    few = strip((10, 1), (10, 0))
    many = strip(*((2, i) for i in range(1, 11)))
    truths = [few, many]
    labels = [few * 0, many]  # 0 of 1 and 10 of 10
    scores = evaluate(labels, truths)
    assert scores["ap50"] == pytest.approx(10 / 11)
    assert scores["f1"] == pytest.approx(20 / 21)
    assert scores["aji"] == pytest.approx(20 / 30)
    assert scores["dice"] == pytest.approx(0.5)  # mean over images


def test_pooling_equals_one_large_image():
    labels, truths = [blobs(i) for i in range(4)], [blobs(i + 10) for i in range(4)]
    labels[2] = truths[2]
    apart = evaluate(labels, truths)

    def row(images):
        gap, offset, parts = np.zeros((40, 1), int), 0, []
        for image in images:
            parts += [np.where(image > 0, image + offset, 0), gap]
            offset += image.max()
        return np.hstack(parts)

    together = evaluate(row(labels), row(truths))
    for key in ("ap50", "ap75", "mean_ap", "f1", "pq", "aji"):
        assert apart[key] == pytest.approx(together[key])


def test_pool_of_scores_equals_evaluate():
    labels, truths = [blobs(1), blobs(2)], [blobs(3), blobs(2)]
    scores = [score_image(p, t) for p, t in zip(labels, truths, strict=True)]
    assert pool(iter(scores)) == evaluate(labels, truths)
    assert pool(scores[1:]) == dict.fromkeys(SCORES, 1.0)
    assert scores[0].n_predicted == labels[0].max()
    assert scores[0].n_truth == truths[0].max()


def test_match_counts_add_up():
    total = MatchCounts(1, 2, 3) + MatchCounts(4, 0, 1)
    assert total == MatchCounts(5, 2, 4)
    assert total.ap == pytest.approx(5 / 11)
    assert total.f1 == pytest.approx(10 / 16)


# --- against a slow independent count --------------------------------------------------


def slow_scores(labels, truth):
    """Scores with sets of pixels and every assignment tried; no code shared with ours."""
    ps = [set(np.flatnonzero(labels == v)) for v in np.unique(labels) if v]
    ts = [set(np.flatnonzero(truth == v)) for v in np.unique(truth) if v]
    iou = [[len(p & t) / len(p | t) for t in ts] for p in ps]

    def best_matching(threshold):
        if len(ps) > len(ts):
            rows = [[iou[i][j] for i in range(len(ps))] for j in range(len(ts))]
        else:
            rows = iou
        n = max(len(ps), len(ts))
        return max(
            (
                [r[j] for r, j in zip(rows, order, strict=True) if r[j] >= threshold]
                for order in permutations(range(n), len(rows))
            ),
            key=lambda found: (len(found), sum(found)),
        )

    result = {}
    aps = []
    for threshold in [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]:
        found = best_matching(threshold)
        aps.append(len(found) / (len(ps) + len(ts) - len(found)))
        if threshold == 0.5:
            result["ap50"] = aps[-1]
            result["f1"] = 2 * len(found) / (len(ps) + len(ts))
            result["pq"] = sum(found) / ((len(ps) + len(ts)) / 2)
        if threshold == 0.75:
            result["ap75"] = aps[-1]
    result["mean_ap"] = sum(aps) / 9
    inter = union = 0
    used = set()
    for t in ts:
        best = max(range(len(ps)), key=lambda i: len(ps[i] & t) / len(ps[i] | t))
        if ps[best] & t:
            inter, union = inter + len(ps[best] & t), union + len(ps[best] | t)
            used.add(best)
        else:
            union += len(t)
    union += sum(len(p) for i, p in enumerate(ps) if i not in used)
    result["aji"] = inter / union
    p, t = set().union(*ps), set().union(*ts)
    result["dice"] = 2 * len(p & t) / (len(p) + len(t))
    result["iou"] = len(p & t) / len(p | t)
    return result


def boxes(rng, n=5, size=12):
    image = np.zeros((size, size), int)
    for value in range(1, n + 1):
        y, x = rng.integers(0, size - 3, 2)
        h, w = rng.integers(2, 6, 2)
        image[y : y + h, x : x + w] = value * 3
    return image


@pytest.mark.parametrize("seed", range(60))
def test_equal_to_a_slow_count(seed):
    rng = np.random.default_rng(seed)
    truth = boxes(rng)
    labels = np.roll(truth, rng.integers(-1, 2, 2), (0, 1)) if seed % 3 else boxes(rng)
    if seed % 2:
        labels[:, rng.integers(12)] = 0
        labels[4:6][labels[4:6] > 0] = 99
    expected = slow_scores(labels, truth)
    assert evaluate(labels, truth) == {key: pytest.approx(expected[key]) for key in SCORES}


# --- inputs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", ">i4", "int32", "uint32", "int64", "uint64"]
)
def test_every_integer_dtype(dtype):
    truth = blobs(2)
    labels = np.roll(truth, 1, 0)
    expected = evaluate(labels, truth)
    assert evaluate((labels % 128).astype(dtype), truth % 128) == evaluate(
        labels % 128, truth % 128
    )
    if np.iinfo(dtype).max > 255:
        assert evaluate(labels.astype(dtype), truth) == expected


def test_huge_sparse_labels():
    truth = blobs(2).astype(np.uint64)
    labels = np.where(truth > 0, truth + np.uint64(2**60), 0).astype(np.uint64)
    assert evaluate(labels, truth) == dict.fromkeys(SCORES, 1.0)


def test_a_mask_is_one_object():
    mask = blobs(2) > 0
    assert evaluate(mask, mask.astype(int)) == dict.fromkeys(SCORES, 1.0)


def test_stacks_are_scored_whole():
    stack = np.stack([blobs(1), blobs(1)])
    assert evaluate(stack, stack)["pq"] == 1


@pytest.mark.parametrize(
    ("labels", "truth", "says"),
    [
        (np.zeros((3, 4), int), np.zeros((4, 3), int), "shape"),
        (np.zeros((3, 4)), np.zeros((3, 4), int), "whole numbers"),
        (np.zeros((3, 4), int), np.zeros((3, 4), complex), "whole numbers"),
        (np.full((3, 4), -1), np.zeros((3, 4), int), "negative"),
        (np.zeros((3, 4), int), np.full((3, 4), -1), "negative"),
        (np.zeros(4, int), np.zeros(4, int), "axes"),
        ("text", "text", "whole numbers"),
        ([np.zeros((3, 4), int)], np.zeros((3, 4), int), "two lists"),
        ([np.zeros((3, 4), int)], [], "1 predictions"),
        ([], [], "no image"),
        ([[[1, 2], [3]]], [[[1, 2], [3]]], "not an array"),
    ],
)
def test_what_cannot_be_compared_is_refused(labels, truth, says):
    with pytest.raises(EvaluationError, match=says):
        evaluate(labels, truth)


def test_the_typical_diameter_is_of_a_disc_with_the_median_area():
    assert typical_diameter([np.pi, 25 * np.pi, 1e6]) == pytest.approx(10)
    assert np.isnan(typical_diameter([]))
