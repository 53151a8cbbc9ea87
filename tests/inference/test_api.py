"""The public functions on images of many shapes."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from dataclasses import replace

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr

from napari_sa2net.config import InputConfig, InstanceConfig, PredictConfig
from napari_sa2net.data import plan_image
from napari_sa2net.errors import (
    AxesError,
    Cancelled,
    ChannelError,
    DeviceError,
    ImageError,
    ModelNotFoundError,
    SettingsError,
)
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import look_first, segment, split_settings
from napari_sa2net.interpret.attention import attention
from napari_sa2net.interpret.explain import explain
from napari_sa2net.measure import object_table
from napari_sa2net.models import load_model
from napari_sa2net.quantities import GROUPS


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


def image_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "axes", "labels", "probability"),
    [
        ((40, 30), None, (40, 30), (3, 40, 30)),
        ((1, 1), None, (1, 1), (3, 1, 1)),
        ((17, 33, 3), None, (17, 33), (3, 17, 33)),
        ((2, 40, 30), "ZYX", (2, 40, 30), (2, 3, 40, 30)),
        ((3, 40, 30), "CYX", (40, 30), (3, 40, 30)),
        ((40, 2, 30), "YZX", (40, 2, 30), (2, 3, 40, 30)),
        ((2, 2, 3, 20, 18), "TZCYX", (2, 2, 20, 18), (2, 2, 3, 20, 18)),
        ((30, 40), "XY", (30, 40), (3, 40, 30)),
        ((0, 9), None, (0, 9), (3, 0, 9)),
        ((0, 9, 8), None, (0, 9, 8), (0, 3, 9, 8)),
    ],
)
def test_shapes(model, shape, axes, labels, probability) -> None:
    result = segment(image_of(shape), model=model, axes=axes)
    assert result.labels.shape == labels
    assert result.labels.dtype == np.int32
    assert result.probability.shape == probability
    assert result.probability.dtype == np.float32
    assert len(result.objects) == len(np.unique(result.labels[result.labels > 0]))


def test_axes_order_does_not_change_the_result(model) -> None:
    image = image_of((2, 40, 30), seed=3)
    straight = segment(image, model=model, axes="ZYX", precision="float32")
    turned = segment(image.transpose(2, 1, 0), model=model, axes="XYZ", precision="float32")
    np.testing.assert_array_equal(turned.labels.transpose(2, 1, 0), straight.labels)
    np.testing.assert_array_equal(turned.probability, straight.probability)


@pytest.mark.parametrize("value", [0, 7, np.nan])
def test_constant_images_have_no_objects(model, value: float) -> None:
    image = np.full((20, 30), value, np.float32)
    if np.isnan(value):
        image[3, 4] = 1
    result = segment(image, model=model)
    assert not result.labels.any()
    assert len(result.objects) == 0
    np.testing.assert_array_equal(result.probability[0], 1)
    assert not result.probability[1:].any()


def test_lazy_in_equals_numpy(model, tmp_path) -> None:
    image = image_of((40, 500), seed=5)
    stored = zarr.create_array(tmp_path / "i", shape=image.shape, chunks=(64, 64), dtype="u1")
    stored[:] = image
    settings = {"model": model, "tile": 336, "precision": "float32"}
    expected = segment(image, **settings)
    for lazy in (da.from_array(image, chunks=50), stored, [image, image[::2, ::2]]):
        result = segment(lazy, **settings)
        np.testing.assert_allclose(result.probability, expected.probability, atol=1e-6)
        np.testing.assert_array_equal(result.labels, expected.labels)


def test_large_results_go_to_disk(model, monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_of((2, 60, 50), seed=6)
    expected = segment(image, model=model, axes="ZYX")
    monkeypatch.setattr("napari_sa2net.inference.tiling.MEMORY_LIMIT", 1000)
    result = segment(image, model=model, axes="ZYX")
    assert isinstance(result.probability, zarr.Array)
    assert isinstance(result.labels, zarr.Array)
    np.testing.assert_array_equal(result.labels[:], expected.labels)
    assert result.objects.equals(expected.objects)


def test_labels_count_over_the_stack(model) -> None:
    stack = image_of((3, 50, 50), seed=8)
    labels = segment(stack, model=model, axes="ZYX", min_size=0, link_planes=False).labels
    per_plane = [set(np.unique(plane[plane > 0])) for plane in labels]
    assert sum(map(len, per_plane)) == len(set().union(*per_plane)) == labels.max() > 0


def test_linked_planes_share_labels(model) -> None:
    plane = image_of((50, 50), seed=9)
    stack = np.stack([plane, plane, plane])
    settings = {"model": model, "foreground": 0.4, "min_size": 0}
    sizes = {"pixel_size_um": 0.5, "z_step_um": 2}
    result = segment(stack, axes="ZYX", **settings, **sizes)
    assert result.labels.any()
    np.testing.assert_array_equal(result.labels[0], result.labels[2])
    objects = result.objects
    assert (objects["planes"] == 3).all()
    assert (objects["volume_voxels"] == 3 * (objects["area_px"] // 3)).all()
    np.testing.assert_allclose(objects["volume_um3"], objects["volume_voxels"] / 2)
    assert (objects["centroid_z"] == 1).all()
    # time and positions are no depth: nothing is linked there
    for axes in ("TYX", "PYX"):
        apart = segment(stack, axes=axes, **settings).labels
        assert len({*apart[0][apart[0] > 0]} & {*apart[2][apart[2] > 0]}) == 0
    times = np.stack([stack, stack])
    both = segment(times, axes="TZYX", **settings).labels
    np.testing.assert_array_equal(both[1] > 0, both[0] > 0)
    assert not set(np.unique(both[0])) & set(np.unique(both[1])) - {0}


def test_groups_are_those_of_the_table_of_arrays(model) -> None:
    image = image_of((90, 120, 2)).astype(np.float32)
    spelled = {"axes": "YXC", "channels": [1], "pixel_size_um": (0.5, 0.25)}
    result = segment(image, model=model, measure=GROUPS, min_size=0, **spelled)
    assert len(result.objects) > 3
    want = object_table(
        result.labels, image=image, pixel_size_um=(0.5, 0.25), groups=GROUPS
    ).drop(columns=["confidence", "mean_intensity"])
    got = result.objects.drop(columns=["confidence", "mean_intensity"])
    # of all channels, also of those that were not segmented
    pd.testing.assert_frame_equal(got, want)
    # whatever the order of the axes
    turned = segment(
        image.transpose(1, 0, 2),
        model=model,
        measure=GROUPS,
        min_size=0,
        **spelled | {"axes": "XYC"},
    )
    np.testing.assert_array_equal(turned.labels.T, result.labels)
    pd.testing.assert_frame_equal(turned.objects, result.objects)
    with pytest.raises(SettingsError, match="neighbours"):
        segment(image, model=model, measure=["size"], **spelled)


def test_progress_is_of_time_points_where_they_are(model) -> None:
    for axes, noun in (("ZYX", "plane"), ("TYX", "time point")):
        said: list[str] = []
        segment(
            image_of((3, 40, 40)),
            model=model,
            axes=axes,
            progress=lambda done, total, what, said=said: said.append(what),
        )
        for i in (0, 1, 2):
            assert f"segmenting, {i} of 3 {noun}s done" in said


def test_progress_and_provenance(model) -> None:
    steps: list[tuple[int, int, str]] = []
    result = segment(
        image_of((2, 500, 40)),
        model=model,
        axes="ZYX",
        tile=336,
        pixel_size_um=0.5,
        progress=lambda *step: steps.append(step),
    )
    said = [what for what, _ in itertools.groupby(step[2] for step in steps)]
    assert said == [
        "segmenting, 0 of 2 planes done",
        "segmenting, 1 of 2 planes done",
        "separating the cells",
        "measuring the cells",
    ]
    tiles = [step[:2] for step in steps if step[2].startswith("segmenting")]
    half, n = result.n_tiles // 2, result.n_tiles
    assert tiles == [(i, n) for i in (*range(half + 1), *range(half, n + 1))]
    last = [step[:2] for step in steps if not step[2].startswith("segmenting")]
    assert last == [(0, 0), (1, 2), (2, 2), (0, 0)]
    assert result.n_tiles > 2
    assert result.provenance["pixel_size_um"] == 0.5
    assert result.provenance["settings"]["predict"]["tile"] == 336
    assert (result.objects.area_um2 == result.objects.area_px / 4).all()


def test_cancelled(model) -> None:
    asked: list[int] = []
    with pytest.raises(Cancelled):
        segment(
            image_of((60, 60)), model=model, cancelled=lambda: bool(asked.append(0)) or True
        )
    assert asked


def test_diameter_rescales(make_model, nuclei: np.ndarray) -> None:
    model = make_model(diameter=20)
    result = segment(nuclei, model=model, diameter=10)
    assert result.diameter == 10
    assert result.provenance["scale"] == 2
    assert result.labels.shape == nuclei.shape
    assert segment(nuclei, model=model, diameter=10, rescale=False).provenance["scale"] == 1


def test_the_size_is_looked_for_in_some_planes_of_a_stack(make_model, monkeypatch) -> None:
    seen: list = []

    def look(predictor, plan, planes, **more) -> float:
        seen.extend(planes)
        return 10.0

    monkeypatch.setattr("napari_sa2net.inference.segment.estimate_diameter", look)
    result = segment(image_of((9, 40, 40)), model=make_model(diameter=20), axes="ZYX")
    assert result.diameter == 10
    assert seen[0] == (4,)
    assert 1 < len(set(seen)) == len(seen) < 9
    assert all(0 <= z < 9 for (z,) in seen)


def test_all_channels_go_in_where_they_fit(make_model) -> None:
    model = make_model(in_channels=4)
    plan = segment(image_of((4, 20, 20)), model=model, axes="CYX").plan
    assert plan.channels == (0, 1, 2, 3)
    assert segment(image_of((20, 20, 4)), model=model).plan.channels == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("error", "match", "image", "settings"),
    [
        (SettingsError, "Unknown setting tiles", (20, 20), {"tiles": 64}),
        (SettingsError, "tile", (20, 20), {"tile": 100}),
        (SettingsError, "diameter", (20, 20), {"diameter": -1}),
        (SettingsError, "foreground", (20, 20), {"foreground": 2}),
        (DeviceError, "auto", (20, 20), {"device": "abacus"}),
        (AxesError, "axes", (20, 20), {"axes": "ZYX"}),
        (ChannelError, "channel 7", (20, 20), {"channels": 7}),
        (ModelNotFoundError, "nowhere", (20, 20), {"model": "nowhere"}),
        (ImageError, "axes", (20,), {}),
    ],
)
def test_bad_input_is_refused(model, error, match, image, settings) -> None:
    with pytest.raises(error, match=match):
        segment(image_of(image), **{"model": model, **settings})


@pytest.mark.parametrize("wrong", [3, None])
def test_what_is_no_model(wrong) -> None:
    with pytest.raises(SettingsError, match="name such as 'nuclei'"):
        segment(image_of((20, 20)), model=wrong)


def test_two_channels_at_the_end_are_pointed_out(model) -> None:
    with pytest.warns(UserWarning, match=r"12 planes of 40 × 2 .* axes='YXC'"):
        segment(image_of((12, 40, 2)), model=model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment(image_of((12, 40, 2)), model=model, axes="YXC")
        segment(image_of((5, 40, 12)), model=model)


def test_few_planes_may_be_channels(model) -> None:
    with pytest.warns(UserWarning, match=r"2 planes of 40 × 12 .* axes='CYX'"):
        result = segment(image_of((2, 40, 12)), model=model)
    assert result.labels.shape == (2, 40, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment(image_of((2, 40, 12)), model=model, axes="ZYX")
        segment(image_of((2, 40, 12)), model=model, axes="CYX")


def test_settings_are_sorted_by_name() -> None:
    predict, instances = split_settings(InstanceConfig(split=0.7), tile=128, min_size=3)
    assert predict.tile == 128
    assert instances == InstanceConfig(split=0.7, min_size=3)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_results_can_be_copied_and_pickled(model, nuclei, how, tmp_path) -> None:
    result = segment(nuclei, model)
    again = how(result)
    np.testing.assert_array_equal(again.labels, result.labels)
    np.testing.assert_array_equal(again.probability, result.probability)
    assert again.objects.equals(result.objects)
    assert again.provenance == result.provenance
    np.testing.assert_array_equal(segment(nuclei, how(model)).labels, result.labels)
    explained = explain(nuclei, model)
    np.testing.assert_array_equal(how(explained).labels, explained.labels)
    maps = attention(nuclei, model)
    assert how(maps).keys() == maps.keys()
    # Plans of arrays on disk, also where chunks of them are kept.
    store = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(1100, 1000), chunks=(1100, 1000), dtype="u2"
    )
    store[:] = np.tile(np.arange(1000, dtype="u2"), (1100, 1))
    for image in (store, da.from_array(np.asarray(store), chunks=1100)):
        plan = plan_image(image)
        window = plan.read((), 5, 9, 100, 110)
        np.testing.assert_array_equal(how(plan).read((), 5, 9, 100, 110), window)


def test_where_nothing_is_found_it_looks_at_a_size_that_it_learned_from(tiny_model):
    image = np.zeros((96, 96), np.float32)
    image[5, 5] = 1
    model = load_model(tiny_model)
    trained = model.card.diameter or 20.0
    for learned, scale in ((None, 1.0), ((2 * trained, 3 * trained), 0.5), ((1, 900), 1.0)):
        card = model.card.model_copy(update={"diameter": trained, "image_diameters": learned})
        predictor = Predictor(replace(model, card=card))
        # no size is told that nobody has found
        assert look_first(predictor, plan_image(image))[2:] == (None, scale)


@pytest.mark.parametrize(
    ("function", "shape", "more"),
    [
        (segment, (2, 60, 60), {"axes": "ZYX", "min_confidence": 0.5}),
        (segment, (60, 60), {"table": False}),
        (attention, (60, 60), {}),
        (explain, (60, 60), {}),
    ],
)
def test_cancelled_at_any_question_it_ends_there(model, function, shape, more) -> None:
    image, asked = image_of(shape), [0]

    def cancelled_at(number: float) -> bool:
        asked[0] += 1
        return asked[0] > number

    function(image, model=model, cancelled=lambda: cancelled_at(np.inf), **more)
    n = asked[0]
    assert n >= 1
    for number in sorted({*range(min(n, 5)), *range(max(0, n - 5), n)}):
        asked[0] = 0
        with pytest.raises(Cancelled):
            function(image, model=model, cancelled=lambda at=number: cancelled_at(at), **more)
        assert asked[0] == number + 1


@pytest.mark.parametrize(
    ("config", "trained", "input_config"),
    [
        ({"rescale": False}, 20.0, {}),
        ({"rescale": False, "diameter": 9.0}, 20.0, {}),
        ({}, None, {}),
        ({"diameter": 9.0}, None, {}),
        ({}, 20.0, {"resize_to": 64}),
    ],
)
def test_no_size_is_looked_for_where_nothing_is_rescaled(
    make_model, config, trained, input_config
) -> None:
    made = make_model(input=InputConfig(**input_config))
    made = replace(made, card=made.card.model_copy(update={"diameter": trained}))
    plan = plan_image(image_of((60, 60)))

    def cancelled() -> bool:
        raise AssertionError("the network was run")

    predictor = Predictor(made, PredictConfig(device="cpu", **config))
    assert look_first(predictor, plan, cancelled=cancelled)[1:] == (plan, None, 1.0)
