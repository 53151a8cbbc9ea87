"""Explaining with a real engine process: results, maps, objects, what-ifs, and errors."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from tests.engine.conftest import call

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.engine import arrays as images
from napari_sa2net.engine import messages as p
from napari_sa2net.interpret.explain import explain
from napari_sa2net.models import load_model
from napari_sa2net.nn import ATTENTION_NAMES
from napari_sa2net.quantities import DEFAULT, Quantities

SMALL = PredictConfig(tile=320, precision="float32", diameter=24)
BOX = (30, 190, 60, 240)


@pytest.fixture(scope="module")
def image():
    return synthetic_nuclei((220, 340), 25, seed=5)[0]


@pytest.fixture(scope="module")
def request_of(image, tiny_model):
    """request_of(function, key=…, …) -> what to submit."""

    def make(function, source=image, key="", **more):
        options = {"predict": SMALL, "pixel_size_um": 0.5, **more}
        return call(function, key, image=source, model=str(tiny_model), **options)

    return make


@pytest.fixture(scope="module")
def explained(engine, request_of):
    return engine.result(request_of("explain", key="image"))


def test_an_explanation_has_a_name(engine, request_of):
    failed = engine.answer(engine.submit(request_of("explain")))
    assert failed.kind == "SettingsError"
    assert "key" in failed.message


def test_explained_is_segmented(engine, request_of, explained):
    plain = engine.result(request_of("segment"))
    ours = explained.segmentation
    np.testing.assert_array_equal(ours.labels, plain.labels)
    assert ours.summary == plain.summary
    for name, column in plain.objects.items():
        np.testing.assert_array_equal(ours.objects[name], column)
    assert {"scale_gate_1", "moved_1_max_um", "contested"} < set(ours.objects)
    assert ours.provenance["settings"] == plain.provenance["settings"]
    assert ours.provenance["scale"] == plain.provenance["scale"]


def test_same_as_the_python_api(explained, image, tiny_model):
    settings = {**InstanceConfig().model_dump(), **SMALL.model_dump()}
    direct = explain(image, str(tiny_model), pixel_size_um=0.5, **settings)
    assert tuple(explained.maps) == tuple(direct.maps) == ATTENTION_NAMES
    for name, one in explained.maps.items():
        np.testing.assert_array_equal(one.values, direct.maps[name].values)
        assert one.values.flags.writeable
        assert (one.scale, one.translate) == (
            direct.maps[name].scale,
            direct.maps[name].translate,
        )
    for stride in (8, 4, 2, 1):
        np.testing.assert_array_equal(
            explained.stages[stride], direct.stages[stride], err_msg=str(stride)
        )
    np.testing.assert_array_equal(explained.change, direct.change)
    assert explained.image_gates == direct.image_gates
    assert explained.network == load_model(str(tiny_model)).card.network
    assert explained.box == (0, *image.shape[:1], 0, *image.shape[1:])
    told = explained.segmentation.objects
    # what takes longer comes with a call of its own (`measure_image`)
    shape = Quantities(DEFAULT, image.shape[:2], "", 0, (0.5, 0.5), 1.0).nothing()
    assert {*direct.objects.columns} - {*told} == {*shape}
    for name in {*direct.objects.columns} & {*told}:
        np.testing.assert_array_equal(told[name], direct.objects[name])


def test_sliders_and_edits_keep_the_reasons(engine, explained):
    config = InstanceConfig(foreground=0.7, min_size=30)
    moved = engine.result(call("derive", "image", instances=config, table=True))
    assert {"scale_gate_1", "history"} < set(moved.objects)
    assert list(moved.objects["label"]) == list(range(1, moved.labels.max() + 1))
    labels = moved.labels.copy()
    labels[labels == 2] = 0
    table = engine.result(call("measure", "image", labels=labels))
    assert 2 not in table["label"]
    assert np.isfinite(table["contested"]).all()
    engine.result(call("derive", "image", table=True))


def test_a_channel(engine, explained):
    mean = explained.maps["local_gate_2"]
    channels = [
        engine.result(call("map_channel", "image", name="local_gate_2", channel=c))
        for c in range(mean.n_channels)
    ]
    assert [one.channel for one in channels] == list(range(16))
    np.testing.assert_allclose(
        np.mean([one.values for one in channels], axis=0), mean.values, atol=1e-5
    )
    again = engine.result(call("map_channel", "image", name="local_gate_2"))
    np.testing.assert_array_equal(again.values, mean.values)
    for name, channel in (("local_gate_2", 16), ("local_gate_9", 0)):
        job = engine.submit(call("map_channel", "image", name=name, channel=channel))
        assert engine.answer(job).kind == "SettingsError"


def test_an_object(engine, explained):
    label = 7
    found = engine.result(call("inspect", "image", label=label))
    objects = explained.segmentation.objects
    row = {name: column[label - 1] for name, column in objects.items()}
    assert found.gates == pytest.approx([row[f"scale_gate_{i}"] for i in (1, 2, 3, 4)])
    assert found.image_gates == explained.image_gates
    assert found.centre == pytest.approx((row["centroid_y"], row["centroid_x"]))
    assert [step.stride for step in found.history] == [8, 4, 2, 1]
    assert found.history[-1].mean_move_px == pytest.approx(row["moved_1_mean_px"], nan_ok=True)
    assert isinstance(found.history[0], p.StageStep)
    assert set(found.profiles) == {8, 4, 2, 1}
    assert found.distances.shape == found.profiles[1].shape == (25,)
    assert found.thumbnail.shape == found.outline.shape
    assert 0 <= found.thumbnail.min() < found.thumbnail.max() <= 1
    # Labels as a person has them now: joined with its neighbour, in either shape.
    labels = np.where(explained.segmentation.labels == 8, label, explained.stages[1])
    for given in (labels, labels.astype(np.uint16)):
        joined = engine.result(call("inspect", "image", label=label, labels=given))
        assert joined.history[-1].area_px == (labels == label).sum()
        assert joined.by_hand
    assert not found.by_hand
    for part, reach in (("inside", (-12, -3)), ("outside", (3, 12))):
        near = (found.distances >= reach[0]) & (found.distances <= reach[1])
        profile = found.profiles[2][near]
        low, high = np.nanmin(profile), np.nanmax(profile)
        assert low <= row[f"psi_2_{part}"] <= high
    for wrong, given in ((999, None), (label, labels[:50])):
        job = engine.submit(call("inspect", "image", label=wrong, labels=given))
        assert engine.answer(job).kind == "SettingsError"


def test_an_object_of_an_image_in_colour_is_shown_as_it_is(engine, image, request_of):
    grey = (image / image.max() * 255).astype(np.uint8)
    colour = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    shown = engine.result(request_of("explain", colour, "colour", axes="YXC"))
    labels = shown.segmentation.labels
    label = int(labels[labels > 0][0])
    found = engine.result(call("inspect", "colour", label=label))
    ys, xs = np.nonzero(labels == label)
    more = max(4, max(np.ptp(ys) + 1, np.ptp(xs) + 1) // 4)
    around = colour[
        max(0, ys.min() - more) : ys.max() + 1 + more,
        max(0, xs.min() - more) : xs.max() + 1 + more,
    ]
    np.testing.assert_allclose(found.thumbnail, around / 255, atol=1e-6)


def test_a_view_is_explained_as_it_is_segmented(engine, request_of):
    window = p.Window(box=BOX)
    view = engine.result(request_of("explain", key="view", window=window))
    plain = engine.result(request_of("segment", window=window))
    np.testing.assert_array_equal(view.segmentation.labels, plain.labels)
    assert view.box == BOX
    assert view.segmentation.offset == (30, 60)
    assert view.change.shape == view.stages[4].shape == (160, 180)
    for one in view.maps.values():
        assert -0.5 <= 30 - one.translate[0] + one.scale[0] / 2 <= one.scale[0] + 0.5
    # Positions in the whole image, gates of the right place.
    label = 3
    found = engine.result(call("inspect", "view", label=label))
    objects = plain.objects
    assert found.centre == pytest.approx(
        (objects["centroid_y"][label - 1], objects["centroid_x"][label - 1])
    )
    at = view.segmentation.objects["scale_gate_2"][label - 1]
    assert found.gates[1] == pytest.approx(at)
    whole = engine.result(request_of("explain", key="image"))
    same = whole.segmentation.labels[tuple(np.rint(found.centre).astype(int))]
    assert same
    assert whole.segmentation.objects["scale_gate_2"][same - 1] == pytest.approx(at, abs=0.05)


def test_one_plane_of_a_stack(engine, image, request_of):
    stack = np.stack([image // 2, image, image[::-1]])
    options = {"axes": "ZYX", "key": "stack"}
    failed = engine.answer(engine.submit(request_of("explain", stack, **options)))
    assert failed.kind == "AxesError"
    window = p.Window((2,), BOX)
    one = engine.result(request_of("explain", stack, window=window, **options))
    plain = engine.result(request_of("segment", stack, axes="ZYX", window=window))
    np.testing.assert_array_equal(one.segmentation.labels, plain.labels)
    assert one.segmentation.labels.shape == (1, 160, 180)
    assert one.segmentation.offset == (2, 30, 60)
    assert one.stages[1].shape == (160, 180)
    assert one.index == (2,)
    assert set(one.segmentation.objects["z"]) == {2}
    for labels in (None, plain.labels, plain.labels[0]):
        found = engine.result(call("inspect", "stack", label=1, labels=labels))
        assert found.label == 1
    tried = engine.result(call("what_if", "stack", box=BOX))
    np.testing.assert_array_equal(tried.labels, plain.labels[0])


def test_what_if_nothing_is_changed(engine, request_of, explained):
    for box in (None, BOX):
        tried = engine.result(call("what_if", "image", box=box))
        plain = engine.result(request_of("segment", window=p.Window(box=box)))
        np.testing.assert_array_equal(tried.labels, plain.labels)
        assert not tried.change.any()
        assert tried.n_before == tried.n_after == plain.labels.max()
        assert tried.appeared == tried.vanished == tried.split == tried.merged == 0
        assert not tried.from_cache
    assert 0 < tried.seconds < 100


def test_what_if(engine, explained):
    plain = engine.result(call("what_if", "image", box=BOX))
    for gates, gamma in (
        ((False, True, True, True), (1.0, 1.0, 1.0, 1.0)),
        ((True, True, True, True), (1.0, 1.0, 1.0, 0.0)),
        ((False, False, False, False), (0.0, 0.0, 0.0, 0.0)),
    ):
        tried = engine.result(call("what_if", "image", gates=gates, gamma=gamma, box=BOX))
        assert tried.from_cache
        before, after = plain.labels > 0, tried.labels > 0
        np.testing.assert_array_equal(tried.change == 1, after & ~before)
        np.testing.assert_array_equal(tried.change == -1, before & ~after)
        assert (tried.gained_px, tried.lost_px) == (
            (after & ~before).sum(),
            (before & ~after).sum(),
        )
        assert tried.gained_px + tried.lost_px > 0
        assert (tried.n_before, tried.n_after) == (plain.labels.max(), tried.labels.max())
        assert tried.box == BOX
    other = engine.result(
        call("what_if", "image", instances=InstanceConfig(min_size=400), box=BOX)
    )
    assert other.n_before < plain.n_before


def test_what_cannot_be_tried(engine, request_of, explained):
    outside = engine.submit(call("what_if", "image", box=(500, 600, 0, 9)))
    assert engine.answer(outside).kind == "ImageError"
    high = engine.submit(call("what_if", "image", gamma=(99.0, 1.0, 1.0, 1.0)))
    assert engine.answer(high).kind == "SettingsError"
    engine.result(request_of("explain", key="part", window=p.Window(box=BOX)))
    beside = engine.submit(call("what_if", "part", box=(0, 20, 0, 20)))
    assert "what was explained" in engine.answer(beside).message
    clipped = engine.result(call("what_if", "part", box=(0, 60, 0, 100)))
    assert clipped.box == (30, 60, 60, 100)


def test_what_was_not_explained(engine, request_of):
    engine.result(request_of("segment", key="plain"))
    for make in (
        call("what_if", "plain"),
        call("inspect", "plain", label=1),
        call("map_channel", "nothing", name="aua_1"),
    ):
        assert engine.answer(engine.submit(make)).kind == "NotKeptError"


def test_only_the_newest_of_a_kind_runs(engine, image, request_of, explained):
    # The network is busy meanwhile, so that they meet in the queue.
    busy = engine.submit(request_of("segment", np.tile(image, (3, 3))))
    engine.wait(lambda e: isinstance(e, p.Progress) and e.job == busy)
    jobs = [
        engine.submit(call("what_if", "image", gamma=(g, 1.0, 1.0, 1.0)))
        for g in np.linspace(0, 3, 6)
    ]
    channel = engine.submit(call("map_channel", "image", name="local_gate_1", channel=1))
    # Inspecting does not wait for the network.
    engine.result(call("inspect", "image", label=2))
    assert not any(isinstance(e, p.Call) and e.job == busy for e in engine.events)
    engine.client.cancel(busy)
    answers = [engine.answer(job) for job in jobs]
    assert [type(a) for a in answers] == [p.WasCancelled] * 5 + [p.Call]
    assert isinstance(engine.answer(channel), p.Call)


def test_cancelling_an_explanation(engine, image, request_of):
    pid = engine.client.pid
    job = engine.submit(request_of("explain", np.tile(image, (4, 4)), key="never"))
    engine.wait(lambda e: isinstance(e, p.Progress) and e.job == job and e.what == "segmenting")
    engine.client.cancel(job, force=False)
    assert isinstance(engine.answer(job), p.WasCancelled)
    gone = engine.submit(call("what_if", "never"))
    assert engine.answer(gone).kind == "NotKeptError"
    assert engine.client.pid == pid


def test_images_read_in_regions(engine, image, request_of, explained, monkeypatch):
    monkeypatch.setattr(images, "WHOLE_LIMIT", 1000)
    lazy = da.from_array(image, chunks=(50, 70))
    remote = engine.result(request_of("explain", lazy, key="remote"))
    np.testing.assert_array_equal(remote.segmentation.labels, explained.segmentation.labels)
    tried = engine.result(call("what_if", "remote", box=BOX))
    assert tried.n_before > 0
    engine.result(call("inspect", "remote", label=1))


@pytest.mark.parametrize("fill", ["flat", "empty", "pixel"])
def test_nothing_to_explain(engine, request_of, fill):
    source = {
        "flat": np.full((40, 50), 3, np.uint8),
        "empty": np.zeros((0, 50), np.uint8),
        "pixel": np.ones((1, 1), np.uint8),
    }[fill]
    result = engine.result(request_of("explain", source, key=fill))
    assert result.maps == {}
    assert result.segmentation.summary.n_objects == 0
    assert result.stages[8].shape == result.change.shape == source.shape
    assert len(result.segmentation.objects["scale_gate_1"]) == 0
    job = engine.submit(call("inspect", fill, label=1))
    assert "no object 1" in engine.answer(job).message
    job = engine.submit(call("map_channel", fill, name="aua_1"))
    assert engine.answer(job).kind == "SettingsError"
    tried = engine.result(call("what_if", fill, gates=(False,) * 4))
    assert tried.labels.shape == source.shape
    assert tried.n_after == 0


def test_nothing_stays_of_what_is_forgotten(engine, request_of, held):
    engine.result(request_of("explain", key="last"))
    assert held(engine.client)
    for key in ("last", "image", "view", "stack", "part", "remote", "plain"):
        engine.client.submit(p.Forget(key))
    asked = {"model": request_of("segment")(0).arguments["model"], "predict": PredictConfig()}
    engine.result(call("warm_up", **asked))
    engine.wait(lambda _: not held(engine.client), 10)
