"""A real engine process with a small real network: results, sliders, regions, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from tests.engine.conftest import call

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.engine import arrays as images
from napari_sa2net.engine import messages as p
from napari_sa2net.inference.predict import HALO
from napari_sa2net.inference.segment import segment
from napari_sa2net.inference.tiling import plan_tiles
from napari_sa2net.quantities import DEFAULT, Quantities

SMALL = PredictConfig(tile=192, precision="float32")


@pytest.fixture(scope="module")
def warm_engines():
    """Here an engine starts as it does for everyone."""


@pytest.fixture(scope="module")
def image():
    return synthetic_nuclei((200, 240), 15, seed=5)[0]


@pytest.fixture(scope="module")
def expected(image, tiny_model):
    """What the Python API gives in this process."""
    return segment(image, str(tiny_model), tile=192, precision="float32", pixel_size_um=0.5)


def request(image, model, key="", **more):
    options = {"predict": SMALL, "pixel_size_um": 0.5, **more}
    return call("segment", key, image=image, model=str(model), **options)


def test_the_engine_tells_what_it_is(engine):
    info = engine.kind(p.Ready).info
    assert info.pid == engine.client.pid != os.getpid()
    assert info.device in info.devices
    assert info.threads >= 1


def test_warm_up_measures_the_model(engine, tiny_model):
    asked = {"model": str(tiny_model), "predict": PredictConfig()}
    info = engine.result(call("warm_up", **asked))
    assert 0 < info.seconds_per_megapixel < 1000
    assert info.model == str(tiny_model)


def test_same_as_the_python_api(engine, image, expected, tiny_model):
    job = engine.submit(request(image, tiny_model, key="api"))
    result = engine.answer(job).result
    assert result.labels.dtype == np.int32
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert result.labels.max() > 5
    assert result.labels.flags.writeable
    # what takes longer comes with a call of its own (`measure_image`)
    shape = Quantities(DEFAULT, image.shape, "", 0, (0.5, 0.5), 1.0).nothing()
    assert {*expected.objects.columns} - {*result.objects} == {*shape}
    for name in {*expected.objects.columns} & {*result.objects}:
        np.testing.assert_allclose(result.objects[name], expected.objects[name], rtol=1e-5)
    areas = np.bincount(expected.labels.ravel())[1:]
    assert result.summary.n_objects == len(areas)
    assert result.summary.median_area_px == np.median(areas)
    assert result.provenance["model"] == expected.provenance["model"]
    tiles = [e for e in engine.of(p.Progress) if e.job == job and e.what == "segmenting"]
    assert [e.done for e in tiles] == list(range(result.n_tiles + 1))
    assert {e.total for e in tiles} == {result.n_tiles}


def test_sliders_run_no_network(engine, image, tiny_model):
    engine.result(request(image, tiny_model, key="sliders"))
    config = InstanceConfig(foreground=0.7, min_size=30)
    derived = engine.result(call("derive", "sliders", instances=config, table=True))
    direct = segment(
        image, str(tiny_model), tile=192, precision="float32", foreground=0.7, min_size=30
    )
    np.testing.assert_array_equal(derived.labels, direct.labels)
    assert derived.n_tiles == 0
    assert list(derived.objects["label"]) == list(range(1, derived.labels.max() + 1))
    assert derived.provenance["settings"]["instances"]["foreground"] == 0.7


def test_only_the_newest_derivation_runs(engine, image, tiny_model):
    # The network is busy meanwhile, so that they meet in the queue.
    busy = engine.submit(request(np.tile(image, (3, 3)), tiny_model))
    engine.wait(lambda e: isinstance(e, p.Progress) and e.job == busy)
    jobs = [
        engine.submit(call("derive", "sliders", instances=InstanceConfig(foreground=f)))
        for f in np.linspace(0.3, 0.7, 12)
    ]
    answers = [engine.answer(job) for job in jobs]
    assert isinstance(answers[-1], p.Call)
    assert {type(a) for a in answers} <= {p.Call, p.WasCancelled}
    assert sum(isinstance(a, p.WasCancelled) for a in answers) >= 6
    engine.client.cancel(busy)
    engine.answer(busy)


def test_derivations_are_answered_between_tiles(engine, image, tiny_model):
    busy = engine.submit(request(np.tile(image, (6, 6)), tiny_model))
    engine.wait(
        lambda e: isinstance(e, p.Progress) and e.job == busy and e.what == "segmenting"
    )
    engine.result(call("derive", "sliders", instances=InstanceConfig(foreground=0.31)))
    assert not any(isinstance(e, p.Call) and e.job == busy for e in engine.events)
    engine.client.cancel(busy)
    assert isinstance(engine.answer(busy), p.WasCancelled)


def test_forgotten_probabilities_are_said_to_be_gone(engine, image, tiny_model):
    engine.result(request(image, tiny_model, key="gone"))
    engine.client.submit(p.Forget("gone"))
    failed = engine.answer(engine.submit(call("derive", "gone")))
    assert failed.kind == "NotKeptError"
    assert "Segment again" in failed.message


def test_edited_labels_are_measured(engine, image, tiny_model):
    result = engine.result(request(image, tiny_model, key="measure"))
    labels = result.labels.copy()
    labels[labels == 1] = 2
    table = engine.result(call("measure", "measure", labels=labels))
    assert 1 not in table["label"]
    assert table["area_px"][0] == (labels == 2).sum()
    wrong = engine.submit(call("measure", "measure", labels=labels[:5]))
    assert engine.answer(wrong).kind == "SettingsError"


def test_a_view_is_what_the_whole_image_has_there(engine, image, tiny_model):
    """Probabilities of a view have context and levels of the whole image."""
    whole = engine.result(request(image, tiny_model, key="whole"))
    box = (30, 150, 60, 260)
    view = engine.result(request(image, tiny_model, window=p.Window(box=box)))
    assert view.offset == (30, 60)
    assert view.labels.shape == (120, 180)
    inside = (whole.labels > 0)[30:150, 60:240]
    assert ((view.labels > 0) != inside).mean() < 0.002
    assert view.objects["centroid_x"].min() >= 60
    outside = engine.submit(request(image, tiny_model, window=p.Window(box=(500, 600, 0, 9))))
    assert engine.answer(outside).kind == "ImageError"


def test_where_tiles_meet(engine, tiny_model):
    """At the rows and columns of the labels at which the network saw cells in two pieces."""
    image = np.random.default_rng(0).integers(0, 255, (500, 470), np.uint8)
    predict = PredictConfig(tile=320, rescale=False)
    tiles = plan_tiles(500, 470, 320, HALO)
    rows = tuple(sorted({tile.core.y0 for tile in tiles} - {0}))
    columns = tuple(sorted({tile.core.x0 for tile in tiles} - {0}))
    assert rows
    assert columns
    whole = engine.result(request(image, tiny_model, key="met", predict=predict))
    assert whole.seams == (rows, columns)
    derived = engine.result(call("derive", "met", instances=InstanceConfig()))
    assert derived.seams == (rows, columns)
    one = engine.result(request(image[:200, :200], tiny_model, predict=predict))
    assert one.seams == ((), ())
    # of a view, counted from its own first pixel; it has context around it
    box = (0, 400, 100, 420)
    view = engine.result(request(image, tiny_model, predict=predict, window=p.Window(box=box)))
    assert all(0 < row < 400 for row in view.seams[0])
    assert all(0 < column < 320 for column in view.seams[1])


def test_one_plane_of_a_stack_or_all(engine, image, tiny_model):
    stack = np.stack([image // 2, image, image[::-1]])
    everything = engine.result(request(stack, tiny_model, axes="ZYX"))
    assert everything.labels.shape == stack.shape
    assert everything.offset == (0, 0, 0)
    one = engine.result(request(stack, tiny_model, axes="ZYX", window=p.Window((2,))))
    assert one.labels.shape == (1, *image.shape)
    assert one.offset == (2, 0, 0)
    assert set(one.objects["z"]) == {2}
    np.testing.assert_array_equal(one.labels[0] > 0, everything.labels[2] > 0)
    missing = engine.submit(request(stack, tiny_model, axes="ZYX", window=p.Window((3,))))
    assert engine.answer(missing).kind == "ImageError"


def test_lazy_images(engine, image, expected, tiny_model, tmp_path, monkeypatch):
    stored = zarr.create_array(
        str(tmp_path / "image.zarr"), shape=image.shape, chunks=(64, 64), dtype=image.dtype
    )
    stored[:] = image
    dask_image = da.from_array(image, chunks=(50, 70))
    levels = [image, image[::2, ::2]]
    for source in (stored, dask_image, levels):
        result = engine.result(request(source, tiny_model))
        np.testing.assert_array_equal(result.labels, expected.labels)
    # As if they were larger than a gigabyte: read through the client, region by region.
    monkeypatch.setattr(images, "WHOLE_LIMIT", 1000)
    for source in (dask_image, image):
        result = engine.result(request(source, tiny_model, key="remote"))
        np.testing.assert_array_equal(result.labels, expected.labels)
    table = engine.result(call("derive", "remote", table=True)).objects
    np.testing.assert_allclose(table["mean_intensity"], expected.objects["mean_intensity"])


def test_an_image_that_cannot_be_read(engine, image, tiny_model, monkeypatch):
    def broken(block):
        raise OSError("disk gone")

    lazy = da.from_array(image, chunks=100).map_blocks(broken, dtype=image.dtype)
    for limit in (images.WHOLE_LIMIT, 1000):
        monkeypatch.setattr(images, "WHOLE_LIMIT", limit)
        failed = engine.answer(engine.submit(request(lazy, tiny_model)))
        assert failed.kind == "ImageError"
        assert "disk gone" in failed.message


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (np.zeros((20, 20), complex), "ImageError"),
        (np.full((20, 20), np.nan), "ImageError"),
        (np.array([["a"]], object), "ImageError"),
        ("text", "ImageError"),
        (np.zeros(7), "AxesError"),
    ],
)
def test_bad_images_are_our_errors(engine, tiny_model, bad, kind):
    failed = engine.answer(engine.submit(request(bad, tiny_model)))
    assert failed.kind == kind
    assert failed.message


def test_other_errors(engine, image, tmp_path, tiny_model):
    missing = engine.answer(engine.submit(request(image, "no-such-model")))
    assert missing.kind == "ModelNotFoundError"
    (tmp_path / "empty.safetensors").touch()
    empty = engine.answer(engine.submit(request(image, tmp_path / "empty.safetensors")))
    assert empty.kind == "CorruptCheckpointError"
    device = PredictConfig(device="cuda:99")
    failed = engine.answer(engine.submit(request(image, tiny_model, predict=device)))
    assert failed.kind == "DeviceError"
    assert "Traceback" in failed.details


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 700), (17, 2, 40)])
def test_odd_shapes(engine, tiny_model, shape):
    odd = np.random.default_rng(0).random(shape, np.float32)
    assert engine.result(request(odd, tiny_model)).labels.shape == shape


def test_cancelled_between_tiles_the_engine_lives_on(engine, image, tiny_model, held):
    pid, before = engine.client.pid, set(held(engine.client))
    big = engine.submit(request(np.tile(image, (6, 6)), tiny_model))
    waiting = engine.submit(request(image, tiny_model))
    engine.wait(lambda e: isinstance(e, p.Progress) and e.job == big and e.done >= 2)
    engine.client.cancel(waiting)
    engine.client.cancel(big)
    assert isinstance(engine.answer(big), p.WasCancelled)
    assert isinstance(engine.answer(waiting), p.WasCancelled)
    tiles = [e for e in engine.of(p.Progress) if e.job == big and e.what == "segmenting"]
    assert tiles[-1].done < tiles[-1].total
    engine.result(request(image, tiny_model))
    assert engine.client.pid == pid
    # Every array of these jobs has been let go.
    engine.wait(lambda _: set(held(engine.client)) <= before, 5)


def test_each_job_was_answered_once(engine):
    last = (p.Call, p.Failed, p.WasCancelled)
    jobs = [e.job for e in engine.events if isinstance(e, last)]
    assert len(jobs) == len(set(jobs))


def test_closing_leaves_nothing(new_engine, image, tiny_model, alive):
    new_engine.client.start()
    # Asked before it is there: kept until it is.
    job = new_engine.submit(request(image, tiny_model, key="kept"))
    assert isinstance(new_engine.answer(job), p.Call)
    pid = new_engine.client.pid
    folders = [Path(folder) for folder in new_engine.client._link.folders]
    assert all(folder.is_dir() for folder in folders)
    running = new_engine.submit(request(np.tile(image, (6, 6)), tiny_model))
    new_engine.wait(lambda e: isinstance(e, p.Progress) and e.job == running)
    n_events = len(new_engine.events)
    new_engine.client.close(10)
    assert not alive(pid)
    assert not any(folder.exists() for folder in folders)
    assert not [t for t in new_engine.client._threads if t.is_alive()]
    assert len(new_engine.events) <= n_events + 1
    new_engine.client.submit(request(image, tiny_model)(99))
    new_engine.client.start()
    assert new_engine.client.pid is None


def test_the_client_needs_no_torch():
    code = (
        "import sys, napari_sa2net.engine.client, napari_sa2net.engine.process\n"
        "import napari_sa2net.engine.__main__, napari_sa2net.app.segment\n"
        "import napari_sa2net.app.session, napari_sa2net.app.session\n"
        "bad = {'torch', 'napari', 'qtpy', 'lightning', 'PyQt6'} & set(sys.modules)\n"
        "print(sorted(bad))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_a_click_is_answered_by_the_object_there(engine, tiny_model):
    """With what is kept of a result, without, beyond what was segmented, in a stack."""
    plane, truth = synthetic_nuclei((200, 240), 15, seed=5)
    stack = np.stack([np.zeros_like(plane), plane])
    about = {"image": stack, "model": str(tiny_model), "axes": "ZYX", "predict": SMALL}
    part = p.Window(index=(1,), box=(0, 120, 0, 240))
    engine.result(call("segment", "clicked", window=part, **about))
    for label in (3, 7, 11):
        ys, xs = np.nonzero(truth == label)
        y, x = float(np.median(ys)), float(np.median(xs))
        near = (max(0, int(y) - 45), min(200, int(y) + 45), max(0, int(x) - 45), int(x) + 45)
        for key, (y0, y1, x0, x1) in (
            ("clicked", (0, 200, 0, 240)),
            ("clicked", (*near[:3], min(240, near[3]))),
            ("gone", (*near[:3], min(240, near[3]))),
        ):
            mask = engine.result(
                call(
                    "object_at",
                    key,
                    labels=np.zeros((y1 - y0, x1 - x0), np.int32),
                    click=(y - y0, x - x0),
                    diameter=22.0,
                    window=p.Window(index=(1,), box=(y0, y1, x0, x1)),
                    **about,
                )
            )
            own = truth[y0:y1, x0:x1] == label
            assert (mask & own).sum() / (mask | own).sum() > 0.5, (label, key)


def test_clicks_learn_from_a_persons_cells(engine, tiny_model):
    """Of nuclei in faint cells, what an untaught click does not give: the nucleus, or all."""
    plane, whole = synthetic_nuclei((200, 240), 12, 24, seed=5)
    nuclei = np.zeros_like(whole)
    image = 0.2 * (whole > 0)
    for label in np.unique(whole[whole > 0]):
        y, x = (c[len(c) // 2] for c in np.nonzero(whole == label))
        disk = np.hypot(*(np.indices(whole.shape) - np.array([y, x])[:, None, None])) <= 5
        nuclei[disk & (whole == label)] = label
        image[disk & (whole == label)] = 1
    stack = np.stack([np.zeros(plane.shape), image]).astype(np.float32)
    about = {"image": stack, "model": str(tiny_model), "axes": "ZYX", "predict": SMALL}
    box = (0, 200, 0, 240)

    def overlap(label: int, truth: np.ndarray, lesson: str = "") -> float:
        y, x = (float(np.median(c)) for c in np.nonzero(nuclei == label))
        asked = call(
            "object_at",
            labels=np.zeros((200, 240), np.int32),
            click=(y, x),
            diameter=24.0,
            lesson=lesson,
            window=p.Window(index=(1,), box=box),
            **about,
        )
        mask, own = engine.result(asked), truth == label
        return (mask & own).sum() / (mask | own).sum()

    some = [int(n) for n in np.unique(nuclei[nuclei > 0])]
    untaught = [np.mean([overlap(n, t) for n in some[4:9]]) for t in (nuclei, whole)]
    before, wanted = min(untaught), (nuclei, whole)[int(np.argmin(untaught))]
    taught = tuple(p.TaughtCell(n, wanted, box) for n in some[:4])
    learned = engine.result(
        call(
            "teach_clicks",
            "lesson",
            taught=taught,
            diameter=24.0,
            window=p.Window(index=(1,)),
            **about,
        )
    )
    assert learned == tuple(some[:4])
    after = np.mean([overlap(n, wanted, "lesson") for n in some[4:9]])
    assert after > before + 0.2, (before, after)
    engine.client.submit(p.Forget("lesson"))
    assert np.mean([overlap(n, wanted, "lesson") for n in some[4:9]]) == before
