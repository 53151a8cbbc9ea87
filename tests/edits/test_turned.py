"""Edits see no direction: what is done in an image that is turned is what is done, turned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net import edits
from napari_sa2net.edits import Corrections, ReviewQueue

HEIGHT, WIDTH = 60, 75


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ragged cells that touch, and a probability of the same."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    y, x = np.indices(labels.shape)
    for label, (cy, cx) in enumerate(rng.uniform(8, [HEIGHT - 8, WIDTH - 8], (9, 2)), 1):
        near = np.hypot(y - cy, x - cx) + 2 * ndimage.gaussian_filter(
            rng.normal(size=y.shape), 2
        )
        labels[(near < 9) & (labels == 0)] = label
    noise = ndimage.gaussian_filter(rng.normal(size=y.shape), 1.5)
    probability = ndimage.gaussian_filter((labels > 0).astype(float), 1.5) + 0.5 * noise
    return labels, probability.clip(0, 1).astype(np.float32)


class Turn:
    """One of the eight ways to turn an image, and what that does to places in it."""

    def __init__(self, turns: int, across: bool) -> None:
        self.turns, self.across = turns, across

    def __call__(self, image: np.ndarray) -> np.ndarray:
        turned = np.rot90(image, self.turns)
        return np.array(turned[:, ::-1] if self.across else turned)

    def points(self, points: Any) -> np.ndarray:
        where = np.array(points, float)
        shape = (HEIGHT, WIDTH)
        for _ in range(self.turns):
            where = np.stack([shape[1] - 1 - where[:, 1], where[:, 0]], axis=1)
            shape = shape[::-1]
        if self.across:
            where[:, 1] = shape[1] - 1 - where[:, 1]
        return where


TURNS = [Turn(turns, across) for turns in range(4) for across in (False, True)][1:]
OUTLINE = [(12.3, 20.4), (14.2, 44.7), (30.6, 52.1), (41.8, 33.3), (28.4, 17.6)]

LASSO = [(0, 0), (0, 60.5), (45.2, 50.1), (50.4, 0)]


def redrawn(c: Corrections, p: np.ndarray, t: Turn) -> Any:
    return edits.redraw(c, t.points(OUTLINE))


def drawn_over(c: Corrections, p: np.ndarray, t: Turn) -> Any:
    return edits.redraw(c, t.points(OUTLINE), overwrite="unreviewed")


def deleted(c: Corrections, p: np.ndarray, t: Turn) -> Any:
    return edits.delete(c, lasso=t.points(LASSO))


def smoothed(c: Corrections, p: np.ndarray, t: Turn) -> Any:
    return edits.smooth(c, c.plane().labels.tolist(), radius=2)


def fitted(c: Corrections, p: np.ndarray, t: Turn) -> Any:
    return edits.fit_to_edge(c, c.plane().labels.tolist(), p)


def region(c: Corrections, p: np.ndarray, t: Turn) -> Any:
    return edits.mark_region(c, "reviewed", polygon=t.points(OUTLINE))


def area(c: Corrections, p: np.ndarray, t: Turn) -> Any:
    new = ndimage.label(p > 0.6, np.ones((3, 3)))[0].astype(np.int32)
    return edits.replace_area(c, (0, 0), new)


@pytest.mark.parametrize("make", [redrawn, drawn_over, deleted, smoothed, fitted, region, area])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_edit_of_an_image_that_is_turned_is_turned(
    make: Callable[..., Any], seed: int
) -> None:
    labels, probability = scene(seed)

    def done(turn: Turn) -> tuple[np.ndarray, np.ndarray]:
        own = turn(labels)
        corrections = Corrections(own)
        corrections.apply(edits.accept(corrections, [3]))
        corrections.apply(make(corrections, turn(probability), turn))
        return own, edits.reviewed_mask(corrections)

    after, reviewed = done(Turn(0, False))
    assert make is region or (after != labels).any()
    for turn in TURNS:
        own, seen = done(turn)
        pairs = np.unique(np.stack([turn(after).ravel(), own.ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))
        assert np.array_equal(own == 0, turn(after) == 0)
        assert np.array_equal(seen, turn(reviewed))


@pytest.mark.parametrize("seed", [0, 1])
def test_doubt_is_the_same_whichever_way_an_image_lies(seed: int) -> None:
    labels, probability = scene(seed)

    def doubts(turn: Turn) -> list[Any]:
        queue = ReviewQueue(Corrections(turn(labels)), foreground=turn(probability))
        queue.score_all()
        return [queue.doubt(label) for label in sorted(queue.order)]

    first = doubts(Turn(0, False))
    assert len(first) == labels.max()
    for turn in TURNS:
        for one, other in zip(first, doubts(turn), strict=True):
            assert other.score == pytest.approx(one.score, abs=1e-9)
            assert (other.reasons, other.cut) == (one.reasons, one.cut)
