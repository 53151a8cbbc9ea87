"""Which settings a result depends on, so that what was done with others is done anew."""

from __future__ import annotations

from typing import Any

import pytest

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.inference.batch import BatchSettings


@pytest.mark.parametrize(
    ("more", "same"),
    [
        ({}, True),
        ({"predict": PredictConfig(device="cpu")}, True),
        ({"predict": PredictConfig(engine="torch")}, True),
        ({"predict": PredictConfig(engine="openvino")}, False),
        ({"predict": PredictConfig(diameter=20)}, False),
        ({"instances": InstanceConfig(min_size=7)}, False),
        ({"axes": "ZYX"}, False),
        ({"channels": (1,)}, False),
        ({"normalize": False}, False),
        ({"measure": ()}, False),
        ({"pixel_size_um": 0.5}, False),
    ],
)
def test_what_a_result_depends_on(more: dict[str, Any], same: bool) -> None:
    assert (BatchSettings(**more).describe() == BatchSettings().describe()) == same


def test_what_was_begun_before_there_were_more_settings_goes_on() -> None:
    said = BatchSettings().describe()
    assert "pixel_size_um" not in said
    assert not {"device", "engine"} & set(said["predict"])
    said = BatchSettings(pixel_size_um=0.5, predict=PredictConfig(engine="openvino")).describe()
    assert said["pixel_size_um"] == 0.5
    assert said["predict"]["engine"] == "openvino"
    assert "device" not in said["predict"]
