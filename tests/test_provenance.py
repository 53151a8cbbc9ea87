from __future__ import annotations

import json

import napari_sa2net
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.provenance import provenance


def test_record_is_plain_and_complete() -> None:
    settings = {
        "predict": PredictConfig(diameter=30),
        "instances": InstanceConfig(),
        "x": {"a": 1},
    }
    record = provenance("nuclei", "ab" * 32, settings, pixel_size_um=0.3, device="cpu")
    assert json.loads(json.dumps(record)) == record
    assert record["schema_version"] == 1
    assert record["model"] == {"name": "nuclei", "sha256": "ab" * 32}
    assert PredictConfig(**record["settings"]["predict"]) == settings["predict"]
    assert record["settings"]["instances"]["split"] == 0.5
    assert record["settings"]["x"] == {"a": 1}
    assert record["versions"]["napari-sa2net"] == napari_sa2net.__version__
    assert record["versions"]["torch"]
    assert (record["pixel_size_um"], record["device"]) == (0.3, "cpu")
    assert record == provenance("nuclei", "ab" * 32, settings, pixel_size_um=0.3, device="cpu")
