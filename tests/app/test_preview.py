"""How long a run is said to take, by what is known of the size of the cells."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.app.session import ImageSource, RunTime, Session, time_to_run
from napari_sa2net.config import PredictConfig
from napari_sa2net.engine.messages import EngineInfo

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


def test_much_enlarged_cells_cost_what_they_cost() -> None:
    """A tissue of 512 x 512 whose cells were taken for 6 px was said to take a second."""
    low, high = seconds(session(np.zeros((512, 512), np.uint8), found_diameter=6.0))
    assert low == high > 512**2 / 1e6 * 25 + 2 * 0.78


def test_nothing_is_said_before_the_probe() -> None:
    assert time_to_run(Session()) is None
    assert RunTime(1, 2) * 3 == RunTime(3, 6)
