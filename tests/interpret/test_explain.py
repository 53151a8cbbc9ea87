"""Explaining a plane: what is seen costs the prediction nothing and lies where it should."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.errors import AxesError, Cancelled, ImageError, SettingsError
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import segment
from napari_sa2net.interpret import attention, explain
from napari_sa2net.interpret.explain import explain as explain_image
from napari_sa2net.interpret.explain import explain_plane, run_channel
from napari_sa2net.interpret.maps import place, sample_grid
from napari_sa2net.models import load_model
from napari_sa2net.nn import ATTENTION_NAMES


def predictor_of(model, **settings) -> Predictor:
    return Predictor(model, PredictConfig(device="cpu", **settings))


@pytest.fixture(scope="module")
def bundled():
    return load_model("nuclei")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return synthetic_nuclei((460, 350), 40, diameter=33, seed=4)[0]


@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("augment", [False, True])
def test_probabilities_are_those_of_an_ordinary_run(
    make_model, nuclei: np.ndarray, precision: str, augment: bool
) -> None:
    predictor = predictor_of(make_model(), precision=precision, tile=384, augment=augment)
    plan = plan_image(nuclei)
    for scale in (1.0, 0.7):
        made = explain_plane(predictor, plan, (), scale)
        assert made.n_tiles > 1
        np.testing.assert_array_equal(
            made.probability, predictor.predict_plane(plan, (), scale)
        )


def test_tiles_do_not_show(bundled, image: np.ndarray) -> None:
    """The bundled network, in float32: maps and heads of tiles are those of the whole."""
    plan = plan_image(image, model_input=bundled.card.input)
    whole = explain_plane(predictor_of(bundled, precision="float32"), plan)
    tiled = explain_plane(predictor_of(bundled, precision="float32", tile=384), plan)
    assert whole.n_tiles == 1 < tiled.n_tiles
    assert tuple(whole.maps) == ATTENTION_NAMES
    for name in ATTENTION_NAMES:
        assert np.abs(whole.maps.native[name] - tiled.maps.native[name]).max() <= 1e-3, name
        assert np.abs(whole.maps.reduced[name] - tiled.maps.reduced[name]).max() <= 1e-3
    for stride in (8, 4, 2):
        assert np.abs(whole.heads[stride] - tiled.heads[stride]).max() <= 1e-3


def test_flips_are_averaged(make_model, nuclei: np.ndarray) -> None:
    """A network sees a flipped image otherwise; the mean of both does not depend on it."""
    model, part = make_model(), nuclei[:48, :64]
    plain, flipped = (
        explain_plane(predictor_of(model, precision="float32", augment=True), plan_image(one))
        for one in (part, part[:, ::-1])
    )
    one = explain_plane(predictor_of(model, precision="float32"), plan_image(part))
    for name in ATTENTION_NAMES:
        mean = plain.maps.reduced[name]
        np.testing.assert_allclose(mean, flipped.maps.reduced[name][:, ::-1], atol=1e-4)
        assert np.abs(mean - one.maps.reduced[name]).max() > 1e-4, name
    np.testing.assert_allclose(plain.heads[4], flipped.heads[4][..., ::-1], atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
def test_maps_lie_over_the_box(make_model, nuclei: np.ndarray, scale: float) -> None:
    """A map pixel covers the pixels of the image that its network pixels cover."""
    predictor = predictor_of(make_model())
    box = (7, 43, 301, 402)
    made = explain_plane(predictor, plan_image(nuclei), (), scale, box=box)
    assert made.probability.shape[1:] == (36, 101)
    assert made.outer[2] < 301
    for name, one in made.placed().items():
        assert one.scale == pytest.approx((one.stride / scale,) * 2)
        for axis, (start, stop) in enumerate((box[:2], box[2:])):
            low = one.translate[axis] - one.scale[axis] / 2
            high = low + one.values.shape[axis] * one.scale[axis]
            # The box is covered, and nothing beyond it but the rest of the edge pixels.
            assert low <= start - 0.5 + 1e-6 < low + one.scale[axis] + 1e-6, name
            if stop < nuclei.shape[axis]:
                assert high - one.scale[axis] - 1e-6 < stop - 0.5 <= high + 1e-6, name
            # On the network's grid, which begins where its input begins.
            steps = (low + 0.5 - made.outer[2 * axis]) / one.scale[axis]
            assert steps == pytest.approx(round(steps), abs=1e-6)
        assert one.low < one.high
    whole = explain_plane(predictor, plan_image(nuclei), (), scale)
    assert whole.placed()["aua_8"].translate == pytest.approx(((8 / scale - 1) / 2,) * 2)
    seen = made.stage(2, slice(2, 36), slice(5, 85))[0].ravel()
    alike = {
        (y, x): np.corrcoef(seen, whole.stage(2, slice(y, y + 34), slice(x, x + 80))[0].ravel())
        for y, x in ((9, 306), (1, 306), (17, 306), (9, 298), (9, 314))
    }
    assert max(alike, key=lambda at: alike[at][0, 1]) == (9, 306)


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
def test_placed_maps_are_those_at_image_size(
    make_model, nuclei: np.ndarray, scale: float
) -> None:
    """Two ways from the grid to the image: by its placement, and by resampling."""
    plan = plan_image(nuclei)
    made = explain_plane(predictor_of(make_model()), plan, (), scale)
    box = (11, 40, 300, 377)
    ys, xs = np.arange(15, 36), np.arange(310, 360)
    for name in ATTENTION_NAMES:
        part = place(name, made.maps.reduced[name], made.maps.scale, box)
        assert part.values.size < made.maps.reduced[name].size / 5
        if part.scale[0] < 1:
            continue  # shrunk with antialiasing there
        expected = made.maps[name][15:36, 310:360]
        np.testing.assert_allclose(sample_grid(part, ys, xs), expected, atol=1e-4)


def test_what_does_not_fit_is_kept_reduced_and_run_again(
    make_model, nuclei: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, plan = predictor_of(make_model(), tile=384), plan_image(nuclei)
    full = explain_plane(predictor, plan, box=(0, 50, 0, 700))
    monkeypatch.setattr(explain, "KEEP_WIDE", 1000)
    lean = explain_plane(predictor, plan, box=(0, 50, 0, 700))
    assert lean.map_bytes < full.map_bytes / 2
    for name in ATTENTION_NAMES:
        np.testing.assert_array_equal(lean.placed()[name].values, full.placed()[name].values)
    for name, channel in (("local_gate_3", 5), ("global_query", 0)):
        assert lean.channel(name, channel) is None
        again = run_channel(predictor, lean, name, channel)
        kept = full.channel(name, channel)
        np.testing.assert_array_equal(again.values, kept.values)
        assert (again.channel, again.n_channels) == (channel, kept.n_channels)
        assert again.translate == kept.translate
    assert full.channel("aua_2", 0).channel is None
    with pytest.raises(SettingsError, match="channels 0 to 15"):
        full.channel("local_gate_1", 16)
    with pytest.raises(SettingsError, match="no map 'aua_16'"):
        full.channel("aua_16", None)


def test_large_maps_lie_on_disk(
    make_model, nuclei: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, model = plan_image(nuclei), make_model()
    small = attention.attention_maps(model, plan, config=PredictConfig(tile=384))
    monkeypatch.setattr(attention, "WIDE_LIMIT", 1000)
    monkeypatch.setattr("napari_sa2net.inference.tiling.MEMORY_LIMIT", 1000)
    monkeypatch.setattr(attention, "BAND", 16)
    large = attention.attention_maps(model, plan, config=PredictConfig(tile=384))
    for name in ATTENTION_NAMES:
        assert not isinstance(large.native[name], np.ndarray)
        np.testing.assert_array_equal(np.asarray(large.native[name]), small.native[name])
        assert not isinstance(large[name], np.ndarray)
        np.testing.assert_allclose(np.asarray(large[name]), small[name], atol=1e-6)


def test_contrast_is_honest() -> None:
    values = np.linspace(-3, 5, 400, dtype=np.float32).reshape(20, 20)

    def limits(name: str, values: np.ndarray, channel: int | None = None):
        one = place(name, values, (1.0, 1.0), (0, 80, 0, 80), channel=channel)
        return one.low, one.high

    low, high = limits("scale_gate_2", values)
    assert low == -high
    assert 4.9 < high <= 5
    assert limits("aua_4", values) == (0, 1)
    assert limits("local_gate_1", values, 3) == (0.5, 1)
    assert limits("global_query", abs(values))[0] == 0
    assert limits("global_query", values, 3)[0] < 0
    flat = np.zeros((20, 20), np.float32)
    assert limits("scale_gate_1", flat) == (-1, 1)


# --- the whole of it ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def explained(bundled, image):
    return explain_image(image, bundled, diameter=33, pixel_size_um=0.5)


def test_explained_is_segmented_with_reasons(explained, bundled, image) -> None:
    plain = segment(image, bundled, diameter=33, pixel_size_um=0.5)
    np.testing.assert_array_equal(explained.labels, plain.labels)
    np.testing.assert_array_equal(explained.probability, plain.probability)
    own = explained.objects[list(plain.objects.columns)]
    assert own.equals(plain.objects)
    more = set(explained.objects.columns) - set(plain.objects.columns)
    assert {"scale_gate_4", "moved_2_mean_px", "moved_1_max_um", "history"} < more
    assert {"refinement_px", "contested"} < more
    assert explained.objects["contested"].between(0, 1).all()
    np.testing.assert_array_equal(explained.stages[1], explained.labels)
    assert explained.labels.max() > 20


def test_stages_refine(explained) -> None:
    """The heads agree with the result ever better, and the change is what the last one did."""
    final = explained.labels > 0
    overlap = [
        ((stage > 0) & final).sum() / ((stage > 0) | final).sum()
        for stage in (explained.stages[s] for s in (8, 4, 2))
    ]
    assert overlap == sorted(overlap)
    assert overlap[0] > 0.6
    before = explained.stages[2] > 0
    np.testing.assert_array_equal(explained.change == 1, final & ~before)
    np.testing.assert_array_equal(explained.change == -1, before & ~final)


def test_the_gates_of_an_object_are_those_of_its_place(explained) -> None:
    gate = explained.maps["scale_gate_1"]
    row = explained.objects.iloc[10]
    pixels = np.argwhere(explained.labels == row["label"])
    cells = np.rint((pixels - gate.translate) / gate.scale).astype(int)
    cells = np.clip(cells, 0, np.array(gate.values.shape) - 1)
    nearest = gate.values[cells[:, 0], cells[:, 1]].mean()
    assert row["scale_gate_1"] == pytest.approx(nearest, abs=0.15 * gate.high)
    assert explained.image_gates[0] == pytest.approx(gate.values.mean(), rel=1e-5)


def test_large_stages_are_labelled_in_blocks(explained, bundled, monkeypatch) -> None:
    made = explain_plane(
        predictor_of(bundled), explained.plan, box=(0, explained.labels.shape[0], 0, 300)
    )
    config = InstanceConfig()
    rows, columns = slice(0, 460), slice(0, 300)
    direct = label_objects(made.stage(4, rows, columns), bundled.card.classes, config)
    monkeypatch.setattr("napari_sa2net.interpret.explain.IN_BLOCKS", 1000)
    monkeypatch.setattr("napari_sa2net.inference.planes.BLOCK", 300)
    from napari_sa2net.interpret.explain import stage_labels

    # earlier heads are less sure than the last one, for which the least confidence was tuned
    sure = InstanceConfig(min_confidence=1)
    stages = stage_labels(made, bundled.card.classes, sure, direct)
    assert (stages[4] > 0).mean() == pytest.approx((direct > 0).mean(), rel=1e-3)
    assert stages[4].max() == direct.max()
    with pytest.raises(Cancelled):
        stage_labels(made, bundled.card.classes, config, direct, lambda: True)


@pytest.mark.parametrize("shape", [(0, 9), (1, 1), (40, 30)])
def test_nothing_to_see(bundled, shape: tuple[int, int]) -> None:
    """Empty images, and images of one value: no maps, no objects, and no error."""
    result = explain_image(np.full(shape, 7, np.uint8), bundled)
    assert result.maps == {}
    assert result.labels.shape == result.change.shape == shape
    assert all(stage.shape == shape and not stage.any() for stage in result.stages.values())
    assert len(result.objects) == 0
    assert "scale_gate_1" in result.objects.columns
    assert np.isnan(result.image_gates).all()


def test_stages_begin_with_the_thresholds_of_the_model(bundled) -> None:
    """Those of the bundled one are not the defaults of the settings."""
    assert bundled.card.instance != InstanceConfig()
    image = synthetic_nuclei((120, 130), 10, diameter=28, seed=2)[0]
    made = explain_plane(predictor_of(bundled), plan_image(image))
    own = label_objects(made.plane, made.classes, bundled.card.instance)
    np.testing.assert_array_equal(made.stages()[1], own)


def test_no_object_and_one_pixel_objects(bundled) -> None:
    noise = np.random.default_rng(0).normal(100, 1, (70, 90))
    none = explain_image(noise, bundled, diameter=bundled.diameter, foreground=0.98)
    assert len(none.objects) == none.labels.max() == 0
    assert none.maps["aua_1"].values.shape == (70, 90)
    tiny = explain_image(noise, bundled, diameter=33, foreground=0.02, min_size=0, split=1)
    assert len(tiny.objects) == tiny.labels.max()


def test_one_plane_at_a_time(make_model) -> None:
    model = make_model()
    stack = _stack()
    with pytest.raises(AxesError, match="name one of the stack Z"):
        explain_image(stack, model)
    with pytest.raises(AxesError, match="name one"):
        explain_image(stack, model, index=(3,))
    with pytest.raises(AxesError, match="single plane"):
        explain_image(stack[0], model, index=(0,))
    plane = explain_image(stack, model, index=(1,), normalize=False)
    alone = explain_image(stack[1], model, normalize=False)
    np.testing.assert_array_equal(plane.labels, alone.labels)
    np.testing.assert_array_equal(plane.maps["aua_2"].values, alone.maps["aua_2"].values)


def _stack() -> np.ndarray:
    planes = [synthetic_nuclei((40, 50), 6, seed=seed)[0] for seed in range(3)]
    return np.stack(planes).astype(np.float32) / 1000


def test_too_large(make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_sa2net.interpret.explain.LARGE", 1000)
    with pytest.raises(ImageError, match="choose the view"):
        explain_image(np.eye(50), make_model())


def test_cancelling(make_model, nuclei: np.ndarray) -> None:
    with pytest.raises(Cancelled):
        explain_image(nuclei, make_model(), cancelled=lambda: True)
