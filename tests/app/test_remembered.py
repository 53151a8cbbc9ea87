"""What was chosen is chosen again the next time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.segment import SegmentController, recall, remember, settings_file
from napari_sa2net.app.session import ImageSource, Session
from napari_sa2net.config import InstanceConfig, PredictConfig

PREFERENCES = {"model": "nuclei", "device": "auto"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def controller() -> SegmentController:
    return SegmentController(EngineLink(Session()))


def image(path: str, value: int = 0, key: str = "") -> ImageSource:
    return ImageSource(key or f"{path} {value}", "name", np.full((8, 9), value), path=path)


def chosen() -> SegmentController:
    one = controller()
    one.set_image(image("a.tif"))
    one.set_model("mine")
    one.set_predict(PredictConfig(diameter=17.5, device="cpu", augment=True))
    one.set_instances(InstanceConfig(foreground=0.3, min_size=12))
    one.set_normalize(False)
    one.set_region("view", "current")
    return one


def test_all_of_it_comes_back() -> None:
    remember(chosen(), PREFERENCES)
    after = controller()
    recall(after, PREFERENCES)
    session = after.session
    assert session.predict.diameter is None  # no image, no size
    after.set_image(image("a.tif", key="another layer"))
    assert session.model == "mine"
    assert session.predict == PredictConfig(diameter=17.5, device="cpu", augment=True)
    assert session.instances == InstanceConfig(foreground=0.3, min_size=12)
    assert after.instances_chosen
    assert not session.normalize
    assert (session.where, session.planes) == ("view", "current")


def test_sliders_from_before_there_was_a_least_confidence_do_not_turn_it_off() -> None:
    remember(chosen(), PREFERENCES)
    written = json.loads(settings_file().read_text(encoding="utf-8"))
    del written["instances"]["min_confidence"]
    settings_file().write_text(json.dumps(written), encoding="utf-8")
    after = controller()
    recall(after, PREFERENCES)
    assert after.session.model == "mine"
    assert not after.instances_chosen


def test_sliders_that_nobody_moved_stay_the_models_own() -> None:
    remember(controller(), PREFERENCES)
    after = controller()
    recall(after, PREFERENCES)
    assert not after.instances_chosen


def test_what_was_set_in_napari_since_counts_more() -> None:
    remember(chosen(), {})  # napari does not tell where nobody has set anything
    after = controller()
    recall(after, PREFERENCES)
    assert after.session.model == "mine"
    after = controller()
    recall(after, {"model": "other", "device": "auto"})
    assert after.session.model == "other"
    assert after.session.predict.device == "cpu"
    after.set_image(image("a.tif"))
    assert after.session.predict.diameter == 17.5


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 99}', "\x00"]
)
def test_a_file_that_is_damaged_is_as_none(home: Path, text: str) -> None:
    remember(chosen(), PREFERENCES)
    settings_file().write_text(text)
    after = controller()
    recall(after, PREFERENCES)
    assert after.session.predict == PredictConfig()
    assert after.session.model == "nuclei"


def test_values_out_of_bounds_are_not_taken(home: Path) -> None:
    remember(chosen(), PREFERENCES)
    text = settings_file().read_text()
    settings_file().write_text(text.replace("17.5", "-4"))
    after = controller()
    recall(after, PREFERENCES)
    after.set_image(image("a.tif"))
    assert after.session.predict == PredictConfig()


def test_every_image_has_its_own_object_size() -> None:
    one = chosen()
    session = one.session
    one.set_image(image("b.tif"))
    assert session.predict == PredictConfig(device="cpu", augment=True)
    one.set_image(image("", 1))
    one.set_predict(PredictConfig(diameter=30))
    one.set_image(None)
    one.set_image(image("", 2))
    assert session.predict.diameter is None
    one.set_image(image("a.tif"))
    assert session.predict.diameter == 17.5
    remember(one, PREFERENCES)
    after = controller()
    recall(after, PREFERENCES)
    for source, size in (("", 30), ("a.tif", 17.5), ("b.tif", None)):
        after.set_image(image(source, 1))
        assert after.session.predict.diameter == size
    # automatic again
    after.set_image(image("a.tif"))
    after.set_predict(PredictConfig())
    after.set_image(image("b.tif"))
    after.set_image(image("a.tif"))
    assert after.session.predict.diameter is None


def test_a_size_said_before_there_was_an_image_is_that_of_the_first() -> None:
    one = controller()
    one.set_predict(PredictConfig(diameter=12))
    one.set_image(image("a.tif"))
    assert one.session.predict.diameter == 12
    one.set_image(image("b.tif"))
    assert one.session.predict.diameter is None


def test_a_folder_that_cannot_be_written_stops_nothing(home: Path) -> None:
    home.write_text("a file where the folder belongs")
    remember(chosen(), PREFERENCES)
    recall(controller(), PREFERENCES)
