"""The estimate of object size, with a stand-in that sees what a good network sees."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net.config import InstanceConfig
from napari_sa2net.data import ImagePlan, plan_image
from napari_sa2net.data.levels import spread_indices
from napari_sa2net.errors import Cancelled
from napari_sa2net.inference import diameter
from napari_sa2net.inference.diameter import CROP, Found, _measure, crops, estimate_diameter
from napari_sa2net.inference.tiling import N_PLANES, ScaledPlane, Window, pixels_of_search

TRAINED = 24.0


class Card:
    classes = ("foreground",)
    instance = InstanceConfig(min_size=5)

    def __init__(
        self, diameter: float | None = TRAINED, learned: tuple[float, float] | None = None
    ) -> None:
        self.diameter, self.image_diameters = diameter, learned


class Threshold:
    """In place of a network: bright is foreground, but only near the trained size."""

    def __init__(self, learned: tuple[float, float] | None = None) -> None:
        self.card = Card(learned=learned)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        return (x[:1] > 0.5).astype(np.float32)


def discs(diameter: float, size: int = 700) -> np.ndarray:
    """Separate discs on a jittered grid."""
    rng = np.random.default_rng(0)
    image = np.zeros((size, size), np.float32)
    step = int(2 * diameter + 2)
    y, x = np.ogrid[:size, :size]
    for cy in range(step // 2, size, step):
        for cx in range(step // 2, size, step):
            jy, jx = rng.uniform(-0.2, 0.2, 2) * diameter
            image[(y - cy - jy) ** 2 + (x - cx - jx) ** 2 <= diameter**2 / 4] = 1
    return image


@pytest.mark.parametrize("diameter", [9, 24, 70])
def test_finds_the_diameter(diameter: float) -> None:
    plan = plan_image(discs(diameter), normalize=False, in_channels=1)
    assert estimate_diameter(Threshold(), plan) == pytest.approx(diameter, rel=0.1)


def test_a_network_trained_at_tiny_cells_finds_them() -> None:
    one = Threshold()
    one.card = Card(4.0)
    plan = plan_image(discs(5, 200), normalize=False, in_channels=1)
    assert estimate_diameter(one, plan) == pytest.approx(5, rel=0.15)


class Doubting(Threshold):
    """Finds the same, less certain of it; more certain of objects at the trained size."""

    def __init__(self, certainty: float, at_size: float) -> None:
        super().__init__()
        self.certainty, self.at_size = certainty, at_size

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        found = super().probabilities(x)
        n = ndimage.label(found[0])[1]
        diameter = np.sqrt(4 / np.pi * found.sum() / max(n, 1))
        return found * (self.at_size if diameter > 0.8 * TRAINED else self.certainty)


@pytest.mark.parametrize(
    ("certainty", "at_size", "expected"),
    [
        (0.6, 0.9, 6),  # small cells, and the network is sure of them
        (0.6, 0.7, 6),  # doubtful, but less so than at any smaller scale
        (0.6, 0.61, TRAINED / 2),  # specks, no better for being enlarged four times
    ],
)
def test_much_enlarged_specks_are_not_believed(
    certainty: float, at_size: float, expected: float
) -> None:
    plan = plan_image(discs(6, 300), normalize=False, in_channels=1)
    found = estimate_diameter(Doubting(certainty, at_size), plan)
    assert found == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("learned", "diameter", "expected"),
    [
        (
            (60, 60),
            70,
            60,
        ),  # what is near the sizes that it learned from is the nearest of them
        ((30, 50), 70, 50),
        ((80, 90), 70, 80),
        ((60, 80), 70, 70),  # one of them, as found
        ((40, 40), 22, 40),  # up to a factor of two
        ((40, 40), 18, 18),
        ((20, 20), 37, 20),
        ((20, 20), 45, 45),
        ((9, 11), 24, 24),  # another magnification
        ((50, 70), 24, 24),
    ],
)
def test_sizes_near_those_learned_from_are_taken_for_them(
    learned: tuple[float, float], diameter: float, expected: float
) -> None:
    plan = plan_image(discs(diameter), normalize=False, in_channels=1)
    found = estimate_diameter(Threshold(learned), plan)
    assert found == pytest.approx(expected, rel=0.1)


class Knowing(Threshold):
    """Finds whole objects where they are as large as it was trained at, elsewhere specks."""

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        found = super().probabilities(x)
        numbers, n = ndimage.label(found[0])
        diameter = np.sqrt(4 / np.pi * found.sum() / max(n, 1))
        if 0.7 < diameter / TRAINED < 1.4:
            return found
        specks = np.zeros_like(found)
        for y, x in ndimage.center_of_mass(found[0], numbers, range(1, n + 1)):
            specks[0, int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = 1
        return specks


def test_the_search_begins_at_what_was_learned_from() -> None:
    plan = plan_image(discs(70), normalize=False, in_channels=1)
    unknowing = estimate_diameter(Knowing(), plan)
    assert unknowing is not None
    assert unknowing < 35
    for learned in ((60, 80), (66, 90), (60, 60)):
        found = estimate_diameter(Knowing(learned), plan)
        assert found == pytest.approx(min(70, learned[1]), rel=0.05)
    # of all sizes: it begins where nothing has to be resized, as if it knew none
    assert estimate_diameter(Knowing((5, 200)), plan) == unknowing


def test_small_cells_that_were_learned_from_are_believed() -> None:
    plan = plan_image(discs(6, 300), normalize=False, in_channels=1)
    assert estimate_diameter(Doubting(0.6, 0.61), plan) == pytest.approx(12, rel=0.15)
    known = Doubting(0.6, 0.61)
    known.card = Card(learned=(6, 7))
    assert estimate_diameter(known, plan) == pytest.approx(6, rel=0.15)


def squares(cells: int, specks: int, side: int) -> np.ndarray:
    """So many cells of 20×20 px, and more and smaller ones."""
    image = np.zeros((400, 400), np.float32)
    for i in range(cells):
        image[10:30, 10 + 30 * i : 30 + 30 * i] = 1
    for i in range(specks):
        y, x = 60 + 20 * (i // 15), 10 + 20 * (i % 15)
        image[y : y + side, x : x + side] = 1
    return image


@pytest.mark.parametrize(
    ("side", "typical"),
    [
        (3, 20),  # many more specks than cells, and little of the foreground
        (7, 20),  # 0.12 of a cell
        (8, 8),  # 0.16 of one: small cells
    ],
)
def test_specks_do_not_count_by_their_number(side: int, typical: int) -> None:
    plan = plan_image(squares(10, 30, side), normalize=False, in_channels=1)
    found = _measure(
        Threshold(), plan, [()], 1.0, InstanceConfig(min_size=5), None, lambda *_: None
    )
    assert found is not None
    assert found.diameter == pytest.approx(np.sqrt(4 / np.pi) * typical, rel=0.02)
    # of all that was looked at, and without a doubt
    assert found.share == pytest.approx((10 * 20**2 + 30 * side**2) / 400**2)
    assert found.confidence == pytest.approx(1)


def test_an_image_full_of_specks_is_not_enlarged_for_them() -> None:
    image = discs(24, 400)
    rng = np.random.default_rng(1)
    for y, x in rng.integers(5, 395, (400, 2)):
        if not image[y - 4 : y + 5, x - 4 : x + 5].any():
            image[y - 1 : y + 2, x - 1 : x + 2] = 1
    n_specks = ndimage.label(image)[1] - ndimage.label(discs(24, 400))[1]
    assert n_specks > 100
    plan = plan_image(image, normalize=False, in_channels=1)
    assert estimate_diameter(Threshold(), plan) == pytest.approx(24, rel=0.1)


def test_nothing_to_find() -> None:
    flat = plan_image(np.zeros((300, 300), np.float32), normalize=False, in_channels=1)
    assert estimate_diameter(Threshold(), flat) is None


def test_models_of_unknown_size_are_not_asked() -> None:
    predictor = Threshold()
    predictor.card = Card(None)
    plan = plan_image(discs(24), normalize=False, in_channels=1)
    assert estimate_diameter(predictor, plan) is None


def test_cancelled() -> None:
    plan = plan_image(discs(24), normalize=False, in_channels=1)
    with pytest.raises(Cancelled):
        estimate_diameter(Threshold(), plan, cancelled=lambda: True)


def test_crops_are_few_and_lie_where_objects_are() -> None:
    image = np.zeros((3000, 2000), np.float32)
    image[2400:2900, 1400:1900] = discs(24, 500)
    plane = ScaledPlane(plan_image(image, normalize=False, in_channels=1), ())
    windows = [window for _, window in crops([plane])]
    assert len(windows) == 3
    assert any(w.y0 <= 2488 and w.y1 == 3000 and w.x1 == 2000 for w in windows)
    assert all(w.shape == (CROP, CROP) for w in windows)


@pytest.mark.parametrize("diameter", [9, 24, 70])
def test_how_far_the_search_is(diameter: float) -> None:
    plan = plan_image(discs(diameter), normalize=False, in_channels=1)
    told: list[tuple[int, int]] = []
    estimate_diameter(Threshold(), plan, on_crop=lambda *step: told.append(step))
    done, totals = zip(*told, strict=True)
    assert done[0] == 0
    assert list(done) == sorted(done)
    assert len(set(totals)) == 1
    assert 0 < done[-1] <= totals[0]


def _stack(*planes: np.ndarray) -> ImagePlan:
    return plan_image(np.stack(planes), "ZYX", normalize=False, in_channels=1)


def test_the_size_is_that_of_several_planes() -> None:
    cells, flash = discs(40), np.ones((700, 700), np.float32)
    dirt = np.zeros_like(cells)
    dirt[300:400, 300:700] = discs(6, 400)[:100]
    # whichever plane is odd
    for planes in ([flash, cells, cells], [cells, flash, cells], [cells, dirt, cells, cells]):
        plan = _stack(*planes)
        indices = spread_indices(plan.stack_shape, N_PLANES)
        found = estimate_diameter(Threshold(), plan, indices)
        assert found == pytest.approx(40, rel=0.1)


def test_crops_come_from_several_planes() -> None:
    plan = _stack(*[discs(24, 800) * (1 - 0.1 * i) for i in range(4)], np.zeros((800, 800)))
    planes = [ScaledPlane(plan, index) for index in plan.indices()]
    assert [plane.index for plane, _ in crops(planes)] == [(0,), (1,), (2,)]
    # empty planes give none while others have more
    assert {plane.index for plane, _ in crops(planes[3:])} == {(3,)}


@pytest.mark.parametrize("counts", [(), (1,), (4,), (30,), (10, 5), (3, 2, 200), (2, 2, 2, 40)])
def test_planes_are_spread(counts: tuple[int, ...]) -> None:
    places = spread_indices(counts, 5)
    total = int(np.prod(counts))
    assert len(places) == len(set(places)) == min(5, total)
    if total > 5:
        assert places[0] == tuple(n // 2 for n in counts)
        for at, n in zip(zip(*places, strict=True), counts, strict=True):
            assert len(set(at)) > 1
            assert max(at) < n
            if n >= 30:
                assert max(at) - min(at) > n / 2


@pytest.mark.parametrize(
    ("spatial", "scale", "planes", "million"),
    [
        ((1000, 500), 1.0, 1, 0.5),
        ((1000, 500), 1.2, 1, 0.5),  # as good as scale 1: nothing is run once more
        ((1000, 500), 1 / 1.2, 1, 0.5),
        ((1000, 500), 0.5, 1, 0.5 + 0.125),
        ((200, 500), 2.0, 1, 0.1 + 0.4),
        ((200, 500), 2.5, 1, 0.1 + 0.625),
        ((100, 500), 3.0, 1, 0.05 + 2 * 0.45),  # and a look at whether they look like cells
        ((200, 500), 2.0, 2, 0.2 + 3 * 512**2 / 1e6),
        ((200, 500), 1.0, 9, 0.3),
        ((4000, 4000), 1.0, 1, 3 * 512**2 / 1e6),
        ((4000, 4000), 0.5, 1, 6 * 512**2 / 1e6),
        ((4000, 4000), 4.0, 50, 9 * 512**2 / 1e6),
    ],
)
def test_what_a_search_costs(spatial, scale, planes, million) -> None:
    """Three crops at most, at scale 1 and where it ends."""
    assert pixels_of_search(spatial, scale, planes) / 1e6 == pytest.approx(million)


def test_what_a_search_costs_that_begins_elsewhere() -> None:
    """At a size that was learned from; cells much enlarged there are looked at no more."""
    assert pixels_of_search((200, 500), 3.0, first=3.0) == pytest.approx(3 * 512**2)
    at, begin = 0.9e5, 1.6e5
    assert pixels_of_search((100, 100), 3.0, first=4.0) == pytest.approx(begin + at)
    assert pixels_of_search((100, 100), 3.0, first=1.0) == pytest.approx(1e4 + 2 * at)


def found(scale: float, diameter: float, share: float = 0.2, confidence: float = 0.9) -> Found:
    return Found(scale, share, diameter, confidence)


@pytest.mark.parametrize(
    ("at", "looks", "expected"),
    [
        # agreement at once, and after one pass
        ({1.0: found(1, 24)}, [1.0], 24),
        ({1.0: found(1, 20)}, [1.0], 20),  # as good as the same
        ({1.0: found(1, 12), 2.0: found(2, 11)}, [1.0, 2.0], 11),
        # scales have bounds
        ({1.0: found(1, 2), 5.0: found(5, 4.8)}, [1.0, 5.0], 4.8),
        ({1.0: found(1, 400), 1 / 8: found(1 / 8, 192)}, [1.0, 1 / 8], 192),
        # no agreement: where most was found
        (
            {1.0: found(1, 12), 2.0: found(2, 36, 0.3), 2 / 3: found(2 / 3, 12)},
            [1.0, 2.0, 2 / 3],
            12,
        ),
        ({1.0: found(1, 12, 0.4), 2.0: None}, [1.0, 2.0], 24),
        # nothing at the first scale: others are tried
        ({1.0: None, 2.0: found(2, 10.5)}, [1.0, 2.0], 10.5),
        ({1.0: None, 2.0: found(2, 9), 8 / 3: found(8 / 3, 8.5)}, [1.0, 2.0, 8 / 3], 8.5),
        ({1.0: None, 2.0: None, 0.5: found(0.5, 60)}, [1.0, 2.0, 0.5], 60),
        ({1.0: None, 2.0: None, 0.5: None}, [1.0, 2.0, 0.5], None),
        # tiny cells that run together in an image made smaller ...
        (
            {
                1.0: found(1, 48, confidence=0.75),
                0.5: None,
                2.0: found(2, 8, confidence=0.7),
                3.0: found(3, 7.5, confidence=0.76),
            },
            [1.0, 0.5, 2.0, 3.0],
            7.5,
        ),
        # ... are believed where the network is surer of them
        (
            {
                1.0: found(1, 48, confidence=0.77),
                0.5: None,
                2.0: found(2, 8, confidence=0.7),
                3.0: found(3, 7.5, confidence=0.76),
            },
            [1.0, 0.5, 2.0, 3.0],
            24,
        ),
        # cells smaller than can be looked at are as good as those that just can
        ({1.0: found(1, 3), 5.0: found(5, 3.5)}, [1.0, 5.0], 3.5),
        # enlarged more than 2.5 times and not sure: compared with twice
        ({1.0: found(1, 8), 3.0: found(3, 8, confidence=0.75)}, [1.0, 3.0], 8),
        (
            {
                1.0: found(1, 8, confidence=0.5),
                3.0: found(3, 8, confidence=0.74),
                2.0: found(2, 9, confidence=0.70),
            },
            [1.0, 3.0, 2.0],
            8,
        ),
        (
            {
                1.0: found(1, 8, confidence=0.5),
                3.0: found(3, 8, confidence=0.74),
                2.0: found(2, 9, confidence=0.72),
            },
            [1.0, 3.0, 2.0],
            12,
        ),
        (
            {
                1.0: found(1, 8, confidence=0.73),
                3.0: found(3, 8, confidence=0.74),
                2.0: found(2, 9, confidence=0.72),
            },
            [1.0, 3.0, 2.0],
            24,
        ),
        ({1.0: found(1, 9.6), 2.5: found(2.5, 9.6, confidence=0.1)}, [1.0, 2.5], 9.6),
    ],
)
def test_the_way_to_the_scale(at, looks, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []
    said: list[tuple[int, int]] = []

    def measure(predictor, plan, planes, scale, config, cancelled, seen):
        looked.append(pytest.approx(scale))
        for done in range(3):  # of two crops
            seen(done, 2)
        return next(one for known, one in at.items() if known == pytest.approx(scale))

    monkeypatch.setattr(diameter, "_measure", measure)
    plan = plan_image(np.zeros((9, 9)), measure=False)
    estimate = estimate_diameter(
        Threshold(), plan, on_crop=lambda done, n: said.append((done, n))
    )
    assert estimate == (expected if expected is None else pytest.approx(expected))
    assert looked == looks
    # three crops of each of three passes, however many there are; it never falls
    steps = [(min(3 * i + done, 9), 9) for i in range(len(looks)) for done in (0, 2, 3)]
    assert said == steps


def test_an_image_without_pixels_has_no_size() -> None:
    for shape in ((0, 9), (9, 0)):
        assert estimate_diameter(Threshold(), plan_image(np.zeros(shape))) is None


@pytest.mark.parametrize("edge", range(4))
def test_objects_that_a_crop_cuts_are_not_measured(edge: int) -> None:
    """But those that the image's own border cuts are."""
    labels = np.zeros((20, 20), np.int32)
    labels[8:12, 8:12] = 1
    place = [np.s_[0:3, 5:7], np.s_[17:20, 5:7], np.s_[5:7, 0:3], np.s_[5:7, 17:20]][edge]
    labels[place] = 2
    shape = (200, 200)
    for inside in (False, True):
        y0, x0 = (90, 90)
        if not inside:
            y0, x0 = [(0, 90), (180, 90), (90, 0), (90, 180)][edge]
        window = Window(y0, y0 + 20, x0, x0 + 20)
        areas = diameter._areas(labels, window, shape)
        assert areas.tolist() == ([16] if inside else [16, 6])


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (100, [0]),
        (CROP, [0]),
        (CROP + 1, [0, 1]),
        (2 * CROP, [0, CROP]),
        (2 * CROP + 2, [0, CROP // 2 + 1, CROP + 2]),
        (9 * CROP, [0, 4 * CROP, 8 * CROP]),
    ],
)
def test_crops_begin_at_both_ends_and_between(length: int, starts: list[int]) -> None:
    assert diameter._starts(length) == starts
