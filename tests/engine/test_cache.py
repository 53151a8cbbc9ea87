"""What the engine keeps between calls, and what it sums up, in this process."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from napari_sa2net.config import InputConfig, PredictConfig
from napari_sa2net.engine.cache import Cache, in_image, summarize
from napari_sa2net.engine.messages import Summary
from napari_sa2net.errors import SA2NetError
from napari_sa2net.inference import tiling


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr(tiling, "MEMORY_LIMIT", 0)  # which it sets
    server: Any = SimpleNamespace()
    return Cache(server)


def test_cells_of_a_plane_are_summed_up() -> None:
    labels = np.zeros((10, 12), np.int32)
    labels[0:2, 3:5] = 2  # at the border
    labels[4:7, 4:7] = 5
    labels[9, 11] = 9  # at two of them
    assert summarize(labels, "YX") == Summary(3, 4, 2)
    assert summarize(labels.T, "XY") == Summary(3, 4, 2)
    for edge in (labels[1:], labels[:-1], labels[:, :-1], labels[::-1], labels[:, ::-1]):
        assert summarize(edge, "YX").n_objects >= 2
    assert summarize(labels[1:9, 1:11], "YX") == Summary(2, 5.5, 1)
    for empty in (labels * 0, labels[:0]):
        none = summarize(empty, "YX")
        assert (none.n_objects, none.n_border, none.in_depth) == (0, 0, False)
        assert np.isnan(none.median_area_px)


@pytest.mark.parametrize("edge", [(0, 5), (9, 5), (5, 0), (5, 9)])
def test_each_edge_is_a_border(edge: tuple[int, int]) -> None:
    labels = np.zeros((10, 10), np.int32)
    labels[edge] = 1
    assert summarize(labels, "YX").n_border == 1
    assert summarize(np.pad(labels, 1), "YX").n_border == 0


def test_cells_that_go_on_in_depth_are_one_with_all_of_their_pixels() -> None:
    stack = np.zeros((3, 10, 12), np.int32)
    stack[0, 2:4, 2:4] = 1
    stack[1, 2:5, 2:5] = 1
    stack[2, 5:7, 5:8] = 4
    assert summarize(stack, "ZYX") == Summary(2, 9.5, 0, in_depth=True)
    # over time they are counted the same, but it is no depth
    assert summarize(stack, "TYX") == Summary(2, 9.5, 0)
    assert not summarize(stack[1:], "ZYX").in_depth


def test_positions_count_from_the_first_pixel_of_the_image() -> None:
    table = pd.DataFrame({"label": [3], "z": [1], "centroid_y": [2.5], "centroid_x": [4.0]})
    columns = in_image(table, {"Z": 10, "Y": 20, "X": 30})
    assert {name: values.tolist() for name, values in columns.items()} == {
        "label": [3],
        "z": [11],
        "centroid_y": [22.5],
        "centroid_x": [34.0],
    }
    assert table["z"].tolist() == [1]


def test_a_model_is_read_again_when_its_file_is_another(
    cache: Cache, tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(tiny_model, path)
    first = cache.model(str(path))
    assert cache.model(str(path)) is first
    shutil.copy(other_model, path)
    assert cache.model(str(path)).card.description == "another"
    with pytest.raises(SA2NetError):
        cache.model(str(tmp_path / "none.safetensors"))


def test_the_models_used_last_are_kept_and_predictors_go_with_theirs(
    cache: Cache, tiny_model: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path in paths:
        shutil.copy(tiny_model, path)
    first = cache.model(str(paths[0]))
    second = cache.model(str(paths[1]))
    made = cache.predictor(second, PredictConfig(device="cpu"), InputConfig())
    assert cache.model(str(paths[0])) is first
    cache.model(str(paths[2]))  # in the place of the one not used for longest
    assert cache.model(str(paths[0])) is first
    again = cache.model(str(paths[1]))
    assert again is not second
    assert cache.predictor(again, PredictConfig(device="cpu"), InputConfig()) is not made


def test_a_predictor_is_made_anew_for_what_it_looks_at_alone(
    cache: Cache, tiny_model: Path
) -> None:
    dropped: list[int] = []
    cache.before_predictor.append(lambda: dropped.append(1))
    model, expects = cache.model(str(tiny_model)), InputConfig()
    config = PredictConfig(device="cpu", tile=256)
    made = cache.predictor(model, config, expects)
    assert dropped == [1]
    for more in (
        {"diameter": 9.0},
        {"rescale": False},
        {"levels": "stack"},
        {"contrast": (0.0, 2.0)},
        {"engine": "torch"},
    ):
        said = config.model_copy(update=more)
        assert cache.predictor(model, said, expects) is made
        assert made.config == said.model_copy(update={"engine": "auto"})
    assert dropped == [1]
    other = cache.predictor(model, config.model_copy(update={"tile": 512}), expects)
    assert other is not made
    # one network on the device at a time
    assert cache.predictor(model, config, expects) is not made
    assert cache.predictor(model, config, InputConfig(low=5)) is not other
    assert len(dropped) == 4
