"""How long a run is said to take, by what is known of the size of the cells."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from napari_sa2net.app.session import (
    MORE_TO_EXPLAIN,
    ImageSource,
    RunTime,
    Session,
    time_to_explain,
    time_to_run,
)
from napari_sa2net.config import NetworkConfig, PredictConfig
from napari_sa2net.engine.messages import EngineInfo
from napari_sa2net.models.card import ModelCard

TRAINED = 30.0


def session(image: np.ndarray, **more) -> Session:
    info = EngineInfo("cpu", "CPU", "2", 1, seconds_per_megapixel=1.0, model_diameter=TRAINED)
    return Session(info=info, image=ImageSource("a", "a", image), **more)


def seconds(one: Session) -> tuple[float, float]:
    time = time_to_run(one)
    assert time is not None
    return time.low, time.high


def test_a_range_until_the_size_is_known() -> None:
    image = np.zeros((1000, 1000), np.uint8)
    low, high = seconds(session(image))
    assert low < 2
    assert high > 2.5**2
    # Said: that scale, without a search.
    said = session(image, predict=PredictConfig(diameter=TRAINED / 2))
    assert seconds(said) == (4, 4)
    # Found by the last run: that scale, and the search, which is done again.
    low, high = seconds(session(image, found_diameter=TRAINED / 2))
    assert low == high == pytest.approx(4 + 2 * 3 * 512**2 / 1e6)
    as_it_is = session(image, predict=PredictConfig(rescale=False))
    assert seconds(as_it_is) == (1, 1)


def test_sizes_that_a_model_has_learned_from_are_likely() -> None:
    image = np.zeros((1000, 1000), np.uint8)

    def taught(least: float, most: float) -> Session:
        card = ModelCard(
            name="mine",
            network=NetworkConfig(n_classes=1),
            classes=("cell",),
            diameter=TRAINED,
            image_diameters=(least, most),
        )
        return session(image, model="mine", models=(SimpleNamespace(name="mine", card=card),))

    # One pass of the search, at that size.
    one = taught(2 * TRAINED, 2 * TRAINED)
    assert seconds(one) == (pytest.approx(0.25 + 0.25),) * 2
    # It begins at the nearest, where least is resized; the largest cells take the least time.
    low, high = seconds(taught(TRAINED / 2, 2 * TRAINED))
    crops = 3 * 512**2 / 1e6
    assert low == pytest.approx(0.25 + crops + 0.25)
    assert high == pytest.approx(4 + 2 * crops)
    # What the last run found counts more, and a size that is said most.
    one.found_diameter = TRAINED / 2
    assert seconds(one) == (pytest.approx(4 + 0.25 + crops),) * 2
    one.predict = PredictConfig(diameter=TRAINED)
    assert seconds(one) == (1, 1)


def test_much_enlarged_cells_cost_what_they_cost() -> None:
    """A tissue of 512 x 512 whose cells were taken for 6 px was said to take a second."""
    low, high = seconds(session(np.zeros((512, 512), np.uint8), found_diameter=6.0))
    assert low == high > 512**2 / 1e6 * 25 + 2 * 0.78


def test_nothing_is_said_before_the_probe() -> None:
    assert time_to_run(Session()) is None
    assert RunTime(1, 2) * 3 == RunTime(3, 6)
    # nor of what is no image; another page says so
    assert time_to_run(session(np.zeros((4, 4), complex))) == RunTime(0.0, 0.0)
    info = EngineInfo("cpu", "CPU", "2", 1)
    assert time_to_run(Session(info=info, image=ImageSource("a", "a", np.ones((4, 4))))) is None


@pytest.mark.parametrize(
    ("more", "one_plane", "pixels"),
    [
        ({}, False, 6 * 200 * 300),
        ({}, True, 200 * 300),
        ({"planes": "current"}, False, 200 * 300),
        ({"where": "view"}, False, 6 * 100 * 50),
        ({"where": "view", "planes": "current"}, False, 100 * 50),
    ],
)
def test_only_the_part_that_is_segmented_takes_time(more, one_plane, pixels) -> None:
    image = np.zeros((6, 200, 300), np.uint8)
    info = EngineInfo("cpu", "CPU", "2", 1, seconds_per_megapixel=2.0, model_diameter=TRAINED)
    source = ImageSource("a", "a", image, axes="ZYX", view=(10, 110, 250, 300))
    as_it_is = Session(info=info, image=source, predict=PredictConfig(rescale=False), **more)
    time = time_to_run(as_it_is, one_plane=one_plane)
    assert time is not None
    assert time.low == time.high == pytest.approx(2 * pixels / 1e6)
    # a size that is known already; no search
    as_it_is.predict = PredictConfig()
    time = time_to_run(as_it_is, one_plane=one_plane, diameter=TRAINED / 3)
    assert time is not None
    assert time.low == time.high == pytest.approx(9 * 2 * pixels / 1e6)


def test_explaining_takes_longer_than_segmenting_a_plane() -> None:
    image = np.zeros((5, 1000, 1000), np.uint8)
    info = EngineInfo("cpu", "CPU", "2", 1, seconds_per_megapixel=1.0, model_diameter=TRAINED)
    one = Session(info=info, image=ImageSource("a", "a", image, axes="ZYX"))

    def seconds_to_explain() -> tuple[float, float]:
        time = time_to_explain(one)
        assert time is not None
        return time.low / MORE_TO_EXPLAIN, time.high / MORE_TO_EXPLAIN

    assert 1 < MORE_TO_EXPLAIN < 2
    low, high = seconds_to_explain()
    assert low < high
    # of what the last run found nothing is looked for again
    one.found_diameter = TRAINED / 2
    assert seconds_to_explain() == pytest.approx((4, 4))
    one.predict = PredictConfig(diameter=TRAINED / 3)
    assert seconds_to_explain() == pytest.approx((9, 9))
    one.predict = PredictConfig(rescale=False)
    assert seconds_to_explain() == pytest.approx((1, 1))
    assert time_to_explain(Session()) is None
