"""A wave of learning: what it learns from, what it leaves, and what it says of itself."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from napari_sa2net.config import LiveConfig, PredictConfig
from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.errors import Cancelled, TrainingDataError
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import plan_for, predict_image
from napari_sa2net.metrics import pool, score_image
from napari_sa2net.models import load_model
from napari_sa2net.training import live
from napari_sa2net.training.compare import HeldBack
from napari_sa2net.training.live import LivePlane, Reviewed, score, without

SIDE, LEFT = 256, 128
PREDICT = PredictConfig(device="cpu", precision="float32", rescale=False)


@pytest.fixture(scope="module")
def unusual() -> tuple[Any, Any]:
    """Cells that are no brighter than what is around them, but rougher; and where they are."""
    truth = synthetic_nuclei((SIDE, SIDE), 40, 24, 3)[1].astype(np.int32)
    noise = np.random.default_rng(0).standard_normal(truth.shape)
    return 100 + 20 * noise * np.where(truth > 0, 4, 1), truth


@pytest.fixture(scope="module")
def plane(unusual: Any, tiny_model: Path) -> LivePlane:
    model = load_model(tiny_model)
    plan = plan_for(model, unusual[0], predict=PREDICT)
    return LivePlane(Predictor(model, PREDICT), plan, ())


def ap50(labels: Any, truth: Any) -> float:
    return float(pool([score_image(labels, truth)])["ap50"])


def predicted(plane: LivePlane, model: Any, config: PredictConfig) -> Any:
    made = predict_image(model, plane.plan, config)
    return np.asarray(made.labels(plane.instances))


def left_half(truth: Any) -> Any:
    """Reviewed pixels."""
    counts = np.zeros(truth.shape, bool)
    counts[:, :LEFT] = True
    return counts


def test_what_nobody_has_reviewed_gets_better(unusual: Any) -> None:
    image, truth = unusual
    model = load_model("nuclei")
    known = PredictConfig(device="cpu", diameter=24)
    plane = LivePlane(Predictor(model, known), plan_for(model, image, predict=known), ())
    counts = left_half(truth)
    before = predicted(plane, model, known)
    child = plane.learn(Reviewed(truth * counts, counts), LiveConfig(steps=30, seconds=1e6))
    # it is as any model is that is there to predict with
    assert not child.net.training
    assert not any(one.requires_grad for one in child.net.parameters())
    right = np.s_[:, LEFT:]
    after = predicted(plane, child, known)
    assert ap50(after[right], truth[right]) > ap50(before[right], truth[right]) + 0.3
    # only the decoder has learned, its statistics have not, and the base model is as it was
    base = model.net.state_dict()
    for name, value in child.net.state_dict().items():
        same = bool((value == base[name]).all())
        assert same or (name.startswith(("up", "outc")) and "running" not in name), name
    np.testing.assert_array_equal(predicted(plane, model, known), before)


def test_a_wave_leaves_what_is_reviewed_and_says_how_it_learned(
    plane: LivePlane, unusual: Any
) -> None:
    _, truth = unusual
    counts = left_half(truth)
    labels = np.where(counts, truth, 0).astype(np.int32)
    stays = labels > 0
    held = int(truth[:, : LEFT - 30].max())
    box = np.argwhere(truth == held)
    (y0, x0), (y1, x1) = box.min(0), box.max(0) + 1
    judged = (HeldBack((int(y0), int(x0)), truth[y0:y1, x0:x1] == held),)
    said: list[str] = []
    asked = plane.predictor.config
    wave = plane.wave(
        labels,
        counts,
        stays,
        judged=judged,
        config=LiveConfig(steps=8, seconds=1e6),
        progress=lambda *what: said.append(what[2]),
    )
    assert plane.predictor.config is asked  # others run with it, too
    rows, cols = wave.patch.pixels()
    assert rows.size
    assert not stays[rows, cols].any()
    assert wave.n_judged == 1
    assert wave.n_learned == len(np.unique(labels[labels > 0])) - 1
    assert 0 <= wave.before <= 1
    assert 0 <= wave.after <= 1
    live = wave.provenance["live"]
    assert live["base"]["name"] == plane.base.name
    assert live["settings"]["steps"] == 8
    assert (live["cells"], live["held_back"]) == (wave.n_learned, 1)
    assert wave.provenance["settings"]["predict"]["rescale"] is False
    assert wave.provenance["settings"]["predict"]["adapt"] == "off"  # as it was decided
    assert "learning from cells" in said
    again = plane.wave(
        labels, counts, stays, judged=judged, config=LiveConfig(steps=8, seconds=1e6)
    )
    np.testing.assert_array_equal(again.patch.new, wave.patch.new)


def test_empty_places_alone_do_not_speak_for_clicks(
    plane: LivePlane, unusual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clicks that find nothing are right about every place without cells."""
    _, truth = unusual
    counts = left_half(truth)
    labels = np.where(counts, truth, 0).astype(np.int32)
    y, x = np.argwhere(counts & ~binary_dilation(truth > 0, iterations=2))[0]
    place = HeldBack((int(y), int(x)), np.ones((1, 1), bool), False)
    cell = labels == labels[labels > 0][0]
    (top, left), own = np.argwhere(cell).min(0), cell[cell.any(1)][:, cell.any(0)]
    monkeypatch.setattr(live, "objects_everywhere", lambda image, kept, *_: np.zeros_like(kept))
    config = LiveConfig(steps=5, seconds=1e6)
    for judged in ([place], [place, HeldBack((int(top), int(left)), own)]):
        wave = plane.wave(labels, counts, labels > 0, judged=judged, config=config)
        assert wave.provenance["live"]["by_clicks"] is False


def test_clicks_find_what_the_model_does_not(tiny_model: Path) -> None:
    """Eight steps of a tiny decoder are for nothing; clicks know a nucleus, and learn a few."""
    image, truth = synthetic_nuclei((140, 200), 28, 20, 6)
    model = load_model(tiny_model)
    dark = 255 - image
    plane = LivePlane(Predictor(model, PREDICT), plan_for(model, dark, predict=PREDICT), ())
    counts = np.zeros(truth.shape, bool)
    counts[:, :90] = True
    labels = np.where(counts, truth, 0).astype(np.int32)
    held = (truth == np.unique(labels)[-1]) & counts
    wave = plane.wave(
        labels,
        counts,
        labels > 0,
        judged=[HeldBack((0, 0), held)],
        config=LiveConfig(steps=8, seconds=1e6),
    )
    assert wave.provenance["live"]["by_clicks"] is True
    found = labels.astype(np.int64)
    found[wave.patch.pixels()] = np.repeat(wave.patch.new, wave.patch.lengths)
    found = np.unique(found, return_inverse=True)[1].reshape(found.shape)
    right = np.s_[:, 100:]
    assert ap50(found[right], truth[right]) > 0.5
    alone = predicted(plane, wave.model, PREDICT)
    assert ap50(alone[right], truth[right]) < 0.2


@pytest.mark.parametrize(
    ("clicks", "decoder", "taken"),
    [(0.8, 0.85, True), (0.8, 0.95, False), (1.0, 0.2, True), (0.0, 0.0, False)],
)
def test_clicks_give_way_where_they_are_much_worse(
    plane: LivePlane,
    unusual: Any,
    monkeypatch: pytest.MonkeyPatch,
    clicks: float,
    decoder: float,
    taken: bool,
) -> None:
    """On what is held back; where nothing is, nobody could tell, and they are not asked."""
    _, truth = unusual
    counts = left_half(truth)
    labels = np.where(counts, truth, 0).astype(np.int32)
    found = np.ones_like(labels)
    asked: list[Any] = []
    monkeypatch.setattr(live, "learned_clicks", lambda *_: None)
    monkeypatch.setattr(live, "objects_everywhere", lambda *a: asked.append(a) or found)
    monkeypatch.setattr(live, "score", lambda made, *_: clicks if made is found else decoder)
    config = LiveConfig(steps=1, seconds=1e6)
    cell = HeldBack((200, 200), np.ones((9, 9), bool))
    made = plane.wave(labels, counts, labels > 0, judged=[cell], config=config)
    assert made.provenance["live"]["by_clicks"] is taken
    assert made.after == (clicks if taken else decoder)
    assert len(asked) == 1
    made = plane.wave(labels, counts, labels > 0, config=config)
    assert made.provenance["live"]["by_clicks"] is False
    assert len(asked) == 1


def test_clicks_that_take_too_long_are_left_out(
    plane: LivePlane, unusual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder's cells come all the same, and a wave that is cancelled ends."""
    _, truth = unusual
    counts = left_half(truth)
    labels = np.where(counts, truth, 0).astype(np.int32)
    held = HeldBack((0, 0), (truth == np.unique(labels)[-1]) & counts)
    config = LiveConfig(steps=6, seconds=20)
    now, steps, lessons = [0.0], [], []

    def step(share: float) -> float:
        steps.append(share)
        now[0] += 1.5
        return 1.0

    def lesson(examples: Any, on_step: Any, steps: int, seconds: float, seed: int) -> None:
        lessons.append(seconds)
        now[0] += seconds
        on_step(5, steps)

    def slow(*given: Any) -> Any:
        for i in range(100):
            now[0] += 1
            given[-1](i, 100)
        raise AssertionError("went on for too long")

    said: list[Any] = []
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(live, "_share", step)
    monkeypatch.setattr(live, "learned_clicks", lesson)
    monkeypatch.setattr(live, "objects_everywhere", slow)

    def wave() -> Any:
        now[0] = 0
        return plane.wave(
            *(labels, counts, labels > 0),
            judged=[held],
            config=config,
            progress=lambda *what: said.append(what),
        )

    made = wave()
    assert made.provenance["live"]["by_clicks"] is False
    assert made.n_judged == 1
    # one limit for all: of 20 s the decoder took 9, and each of the others has half the rest
    assert lessons == [5.5]
    assert 20 < made.seconds <= 21
    assert (5, 6, "learning what your cells look like") in said
    assert [what for what in said if "cells like yours" in what[2]] == [
        (i, 100, "looking for cells like yours") for i in range(5)
    ]
    # the decoder ends after its half, where clicks are to follow
    config = LiveConfig(steps=50, seconds=20)
    steps.clear()
    assert wave().provenance["live"]["by_clicks"] is False
    assert len(steps) == 7
    # and where it took all of the time, they do not begin
    config = LiveConfig(steps=50, seconds=5)
    lessons.clear()
    wave()
    assert lessons == []


def test_the_decoder_has_all_of_the_time_where_no_clicks_can_follow(
    plane: LivePlane, unusual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, truth = unusual
    seconds: list[float] = []

    def learn(*arguments: Any) -> Any:
        seconds.append(arguments[-1])
        raise Cancelled

    monkeypatch.setattr(plane, "learn", learn)
    first, *cells = np.unique(truth)[1:].tolist()
    held = HeldBack((0, 0), np.ones((2, 2), bool))
    place = HeldBack((0, 0), np.ones((2, 2), bool), is_cell=False)
    for n, judged in ((8, [held]), (7, [held]), (8, [place])):
        labels = np.where(np.isin(truth, [first, *cells[: n - 1]]), truth, 0)
        labels[:2, :2] = 0
        with pytest.raises(Cancelled):
            plane.wave(labels, np.ones(truth.shape, bool), labels > 0, judged=judged)
    whole = LiveConfig().seconds
    assert seconds == [whole / 2, whole, whole]


def test_what_is_held_back_has_no_say(plane: LivePlane, unusual: Any) -> None:
    """Its pixels may be anything: the weights are the same."""
    _, truth = unusual
    counts = left_half(truth)
    # one that touches no other: of two that touch, each tells where the other ends
    alone = (
        truth == n
        for n in np.unique(truth[:, : LEFT - 30])[1:]
        if set(np.unique(truth[binary_dilation(truth == n, iterations=6)])) == {0, n}
    )
    own = next(alone)
    box = np.argwhere(own)
    (y0, x0), (y1, x1) = box.min(0), box.max(0) + 1
    judged = (HeldBack((int(y0), int(x0)), own[y0:y1, x0:x1]),)
    left = without(counts, truth, judged)
    assert not left[own].any()
    other = truth.copy()
    other[own] = 0
    both = [
        plane.learn(Reviewed(labels, left), LiveConfig(steps=3, seconds=1e6)).net.state_dict()
        for labels in (truth, other)
    ]
    for name, value in both[0].items():
        np.testing.assert_allclose(value, both[1][name], atol=1e-5)


def test_scores_of_what_is_held_back() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[5:15, 5:15] = 3
    cell = HeldBack((5, 5), np.ones((10, 10), bool))
    half = HeldBack((5, 5), np.ones((10, 20), bool))
    missed = HeldBack((25, 25), np.ones((5, 5), bool))
    place = HeldBack((25, 5), np.ones((5, 5), bool), is_cell=False)
    wrong = HeldBack((5, 5), np.ones((5, 5), bool), is_cell=False)
    assert score(labels, [cell]) == 1
    assert score(labels, [half]) == pytest.approx(0.5 / 0.8)
    assert score(labels, [missed, place]) == 0.5
    assert score(labels, [wrong]) == 0
    assert math.isnan(score(labels, []))
    assert score(labels[3:, 3:], [cell, missed], (3, 3)) == 0.5


def test_a_slow_machine_takes_fewer_steps(plane: LivePlane, unusual: Any) -> None:
    _, truth = unusual
    steps: list[int] = []
    config = LiveConfig(steps=50, seconds=1e-6)
    reviewed = Reviewed(truth, left_half(truth))
    plane.learn(reviewed, config, on_step=lambda i, _: steps.append(i))
    assert steps == list(range(6))


def test_nothing_reviewed_and_cancelled(plane: LivePlane, unusual: Any) -> None:
    _, truth = unusual
    nothing = np.zeros(truth.shape, bool)
    with pytest.raises(TrainingDataError, match="Nothing is reviewed"):
        plane.learn(Reviewed(truth, nothing))
    steps: list[int] = []
    with pytest.raises(Cancelled):
        plane.learn(
            Reviewed(truth, left_half(truth)),
            on_step=lambda i, _: steps.append(i),
            cancelled=lambda: len(steps) == 2,
        )


def test_what_is_kept_of_windows_is_bounded(
    plane: LivePlane, unusual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, truth = unusual
    monkeypatch.setattr("napari_sa2net.training.live.KEPT_BYTES", 2**20)
    plane.learn(Reviewed(truth, left_half(truth)), LiveConfig(steps=6))
    assert plane.kept_bytes <= 2**20


@pytest.mark.parametrize("corner", [(0, 0), (10, 20)])
@pytest.mark.parametrize("at", [(0, 0), (20, 25), (41, 44)])
def test_what_is_held_back_is_left_out_with_what_lies_around_it(corner, at) -> None:
    """But for other cells there, which count on."""
    counts = np.ones((50, 50), bool)
    counts[:, 49] = False
    labels = np.zeros((50, 50), np.int32)
    mask = np.ones((6, 5), bool)
    mask[0, 0] = False
    (y, x) = at
    labels[y : y + 6, x : x + 5][mask] = 3
    labels[25, 0:50:2] = 7
    labels[y : y + 6, x : x + 5][mask] = 3
    held = HeldBack((y + corner[0], x + corner[1]), mask)
    left = without(counts, labels, [held], corner)
    own = np.argwhere(labels == 3)
    rows, columns = np.indices(labels.shape)
    far = np.min([np.hypot(rows - a, columns - b) for a, b in own], axis=0) > 8
    np.testing.assert_array_equal(left, counts & (far | (labels == 7)))
    assert counts[:, :49].all()  # a copy
    assert without(counts, labels, [], corner).sum() == counts.sum()


# --- what is reviewed, window by window ------------------------------------------------------


def on_grid(shape: tuple[int, int], scale: float = 1.0) -> Any:
    """A plane on the network's grid, as far as a lesson looks at it."""
    sides = [SimpleNamespace(scale=scale, n_out=round(n * scale)) for n in shape]
    return SimpleNamespace(
        rows=sides[0], columns=sides[1], shape=tuple(side.n_out for side in sides)
    )


def lesson(scale: float = 1.0, corner: tuple[int, int] = (110, 120), cells: bool = True) -> Any:
    labels = np.zeros((60, 70), np.int32)
    if cells:
        labels[5:15, 5:15], labels[30:40, 45:55] = 7, 2**31 - 1
    counts = np.zeros((60, 70), bool)
    counts[3:42, 4:60] = True
    counts[20:25] = False
    reviewed = Reviewed(labels, counts, corner)
    made = live._Lesson.of(reviewed, on_grid((400, 420), scale), 128)
    whole = np.zeros((400, 420), np.int32), np.zeros((400, 420), bool)
    for into, part in zip(whole, (labels, counts), strict=True):
        into[corner[0] : corner[0] + 60, corner[1] : corner[1] + 70] = part
    return made, whole


@pytest.mark.parametrize("at", [(0, 0), (0, 64), (64, 128), (128, 128), (64, 64), (272, 292)])
def test_a_window_shows_the_targets_that_are_there(at: tuple[int, int]) -> None:
    made, (labels, counts) = lesson()
    y, x = at
    window = (slice(y, y + 128), slice(x, x + 128))
    target, count, certain, distance = made.cut(y, x, 0)
    assert target.shape == count.shape == certain.shape == distance.shape == (128, 128)
    np.testing.assert_array_equal(count, counts[window])
    seen = counts[window]
    np.testing.assert_array_equal((target.numpy() > 0)[seen], (labels[window] > 0)[seen])
    assert not (certain.numpy() & ~seen).any()
    assert not distance.numpy()[labels[window] == 0].any()
    for turn in range(8):
        turned = np.rot90(counts[window], turn % 4)
        turned = turned[:, ::-1] if turn >= 4 else turned
        np.testing.assert_array_equal(made.cut(y, x, turn)[1], turned)


def test_windows_lie_around_the_cells_or_where_it_is_empty() -> None:
    made, (labels, counts) = lesson()
    centres = sorted(map(tuple, made.centres.tolist()))
    assert centres == [(119.5, 129.5), (144.5, 169.5)]
    rng = np.random.default_rng(0)
    drawn = [made.draw(rng) for _ in range(60)]
    assert len(set(drawn)) > 2
    for y, x in (*drawn, *made.places()):
        assert counts[y : y + 128, x : x + 128].any()
        assert 0 <= y <= 400 - 128
        assert 0 <= x <= 420 - 128
    both = {
        label for y, x in made.places() for label in np.unique(labels[y : y + 128, x : x + 128])
    }
    assert len(both) == 3
    empty, (_, counts) = lesson(cells=False)
    assert 32 <= len(empty.centres) <= 130
    for y, x in empty.centres.astype(int).tolist():
        assert counts[y, x]
    assert len(empty.places()) <= 6
    np.testing.assert_array_equal(empty.cut(0, 0, 0)[0], np.zeros((128, 128)))


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_lesson_is_on_the_networks_grid(scale: float) -> None:
    made, _ = lesson(scale)
    centres = sorted(map(tuple, made.centres.tolist()))
    wanted = [((119.5 + 0.5) * scale - 0.5, (129.5 + 0.5) * scale - 0.5)]
    wanted += [((144.5 + 0.5) * scale - 0.5, (169.5 + 0.5) * scale - 0.5)]
    np.testing.assert_allclose(centres, wanted, atol=0.51)
    assert made.corner == (int(113 * scale), int(124 * scale))
    areas = np.bincount((made.labels * made.counts).ravel())
    assert sorted(areas[areas > 0])[:2] == pytest.approx([100 * scale**2] * 2, rel=0.11)


def test_nothing_reviewed_is_no_lesson() -> None:
    none = np.zeros((20, 20), bool)
    with pytest.raises(TrainingDataError, match="Nothing is reviewed yet"):
        live._Lesson.of(Reviewed(none.astype(np.int32), none, (0, 0)), on_grid((20, 20)), 64)


def test_the_rate_rises_over_a_tenth_and_falls_to_nothing() -> None:
    shares = [live._share(i / 100) for i in range(101)]
    assert shares[0] == pytest.approx(0.2)
    assert max(shares) == shares[10] == 1
    assert shares[-1] == pytest.approx(0)
    assert shares == [*sorted(shares[:10]), *sorted(shares[10:], reverse=True)]
    assert live._share(0.55) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("covered", "is_cell", "right"),
    [
        (49, False, 1.0),  # less than half of a place without cells
        (50, False, 0.0),
        (80, True, 1.0),
        (79, True, 0.79 / 0.8),
        (100, True, 1.0),
        (0, True, 0.0),
    ],
)
def test_what_is_right_of_what_is_held_back(covered: int, is_cell: bool, right: float) -> None:
    labels = np.zeros((20, 20), np.int32)
    inner = np.zeros(100, np.int32)
    inner[:covered] = 4
    labels[5:15, 5:15] = inner.reshape(10, 10)
    held = HeldBack((5, 5), np.ones((10, 10), bool), is_cell)
    assert score(labels, [held]) == pytest.approx(right)


def test_of_several_objects_under_a_cell_the_best_counts() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:15, 5:12], labels[5:15, 12:15] = 7, 2
    cell = HeldBack((5, 5), np.ones((10, 10), bool))
    assert score(labels, [cell]) == pytest.approx(0.7 / 0.8)


def test_large_values_are_kept_as_they_are() -> None:
    """In half the memory, where that holds them."""
    small, large = torch.tensor([1.0, -6e4]), torch.tensor([1.0, -7e4])
    assert live._halved(small).dtype == torch.float16
    assert live._halved(large) is large
