"""Parts of a batch done apart and joined equal the batch done by one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile

from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.results import name_jobs
from napari_sa2net.errors import EngineError
from napari_sa2net.inference import planes
from napari_sa2net.inference.blocks import difference
from napari_sa2net.inference.shares import Order


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of many tiles, with cells over all of their seams."""
    path = tmp_path_factory.mktemp("large") / "large.tif"
    image, _ = synthetic_nuclei(shape=(340, 460), n=110, diameter=18, seed=7)
    tifffile.imwrite(path, image, resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    return path


#: How often workers are killed in one run.
KILLS = int(os.environ.get("SA2NET_KILLS", 5))

#: Small tiles, so that a small image has many.
SMALL = ("--tile", "320")


@pytest.fixture
def segment(run, tiny_model, tmp_path):
    def call(*more, inputs, out="out"):
        return run("segment", *inputs, "-o", tmp_path / out, "--model", tiny_model, *more)

    return call


def same(one: Path, other: Path, names=("large",)) -> None:
    for name in names:
        expected = tifffile.imread(one / f"{name}.tif")
        assert expected.max() > 0
        np.testing.assert_array_equal(tifffile.imread(other / f"{name}.tif"), expected)
    assert (other / "objects.csv").read_text() == (one / "objects.csv").read_text()
    records = [
        json.loads((folder / "extra" / "images" / f"{names[0]}.json").read_text())
        for folder in (one, other)
    ]
    assert records[0]["provenance"] == records[1]["provenance"]
    assert records[0]["wrong"] == records[1]["wrong"]


@pytest.mark.parametrize(
    ("block", "huge", "more"),
    [
        (100, False, ()),
        (256, True, ()),
        (100, True, ("--remove-border",)),
        (5000, True, ()),
        (256, False, ("--diameter", "14")),  # on another grid than the image's
        (256, True, ("--diameter", "30")),
    ],
)
def test_blocks_of_one_image(segment, large, tmp_path, monkeypatch, block, huge, more):
    if huge:  # labelled in parts that overlap, which the blocks do not fit
        monkeypatch.setattr(planes, "LARGE", 10_000)
        monkeypatch.setattr(planes, "BLOCK", 180)
        monkeypatch.setattr(planes, "OVERLAP", 60)
    assert segment(*SMALL, *more, inputs=[large], out="one").code == 0
    more = (*SMALL, *more, "--block", block)
    for part in (2, 1, 3):
        result = segment(*more, "--shard", f"{part}/3", inputs=[large])
        assert result.code == 0, result.err
    assert not (tmp_path / "out" / "large.tif").exists()
    assert segment(*more, "--shard", "join", inputs=[large]).code == 0
    same(tmp_path / "one", tmp_path / "out")
    left = {path.name for path in (tmp_path / "out" / "extra").rglob("*")}
    assert left == {"run.json", "images", "large.json", "large.csv", "blocks"}


def test_the_record_names_the_library_that_ran(segment, large, tmp_path, monkeypatch):
    from napari_sa2net.inference.predict import Predictor

    monkeypatch.setattr(Predictor, "engine", property(lambda _: "another 1.2"))
    assert segment(*SMALL, inputs=[large], out="one").code == 0
    for part in ("1/1", "join"):
        more = ("--block", 256, "--shard", part)
        assert segment(*SMALL, *more, inputs=[large]).code == 0
    same(tmp_path / "one", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "extra" / "images" / "large.json").read_text())
    assert record["provenance"]["engine"] == "another 1.2"


def test_stacks(segment, tmp_path):
    """Time points have levels of their own, and cells go on in depth."""
    planes = [synthetic_nuclei(shape=(96, 110), n=9, diameter=18, seed=s)[0] for s in (1, 1, 2)]
    path = tmp_path / "stack.tif"
    image = np.stack([planes, [plane // 3 for plane in planes]])
    tifffile.imwrite(path, image, imagej=True, metadata={"axes": "TZYX"})
    assert segment(inputs=[path], out="one").code == 0
    for part in range(1, 5):
        assert segment("--shard", f"{part}/4", inputs=[path]).code == 0
    assert segment("--shard", "join", inputs=[path]).code == 0
    same(tmp_path / "one", tmp_path / "out", ["stack"])


def test_many_files_are_shared_out(segment, images, tmp_path):
    """Each file is one shard's; a bad one fails there, and is told of at the join."""
    assert segment(inputs=[images], out="one").code == 1
    codes = [segment("--shard", f"{part}/2", inputs=[images]).code for part in (1, 2)]
    assert sorted(codes) == [0, 1]
    masks = {path.stem for path in (tmp_path / "out").glob("*.tif")}
    assert masks == {"a", "b", "colour"}
    joined = segment("--shard", "join", inputs=[images])
    assert joined.code == 1
    assert "bad.tif" in joined.err
    same(tmp_path / "one", tmp_path / "out", ["a", "b", "colour"])
    # what is mended is done by its shard, and then all is well
    tifffile.imwrite(images / "bad.tif", np.zeros((40, 40), np.uint8))
    for part in (1, 2):
        assert segment("--shard", f"{part}/2", inputs=[images]).code == 0
    assert segment("--shard", "join", inputs=[images]).code == 0
    again = segment("--shard", "join", inputs=[images])
    assert again.code == 0
    assert again.err.count("done before") == 4


def test_going_on(segment, large, tmp_path, monkeypatch):
    """What was made is not made again; what is half-written or gone is."""
    from napari_sa2net.inference.blocks import SharedImage

    made = []
    predict = SharedImage._predict

    def counted(self, number):
        made.append(number)
        predict(self, number)

    monkeypatch.setattr(SharedImage, "_predict", counted)
    more = (*SMALL, "--diameter", "18", "--block", "100")
    for part in (1, 2):
        assert segment(*more, "--shard", f"{part}/2", inputs=[large]).code == 0
    every = sorted(made)
    assert every == list(range(len(every)))
    assert len(every) > 3
    assert segment(*more, "--shard", "2/2", inputs=[large]).code == 0
    assert sorted(made) == every

    blocks = tmp_path / "out" / "extra" / "blocks" / "large"
    (blocks / "block-0000.npy").unlink()
    half = blocks / "block-0001.npy"
    half.write_bytes(half.read_bytes()[:-1000])
    (blocks / "part-0000.npy").unlink()
    missing = segment(*more, "--shard", "join", inputs=[large])
    assert missing.code == 2
    assert f"2 of {len(every)} blocks are missing (1, 2)" in missing.err
    assert not (tmp_path / "out" / "large.tif").exists()
    made.clear()
    assert segment(*more, "--shard", "1/2", inputs=[large]).code == 0
    assert made == [0, 1]
    assert segment(*more, "--shard", "join", inputs=[large]).code == 0
    assert segment(*SMALL, "--diameter", "18", inputs=[large], out="one").code == 0
    same(tmp_path / "one", tmp_path / "out")
    assert "done before" in segment(*more, "--shard", "2/2", inputs=[large]).err
    # which leaves no note that the join would take for shards that are missing
    assert segment(*more, "--shard", "join", inputs=[large]).code == 0


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/0", "a/b", "-1/4", "joined", "1/2/3"])
def test_a_shard_that_cannot_be(segment, large, tmp_path, text):
    result = segment(f"--shard={text}", inputs=[large])
    assert result.code == 2
    assert "from 1/8 to 8/8" in result.err
    assert not (tmp_path / "out").exists()


def test_a_setting_that_is_new_is_named_with_its_values():
    """As it was begun by a version that did not know it, or with nothing said."""
    before, now = {"settings": {"low": 1}}, {"settings": {"low": 1, "tiles": {"size": 64}}}
    assert difference(before, now) == "tiles was None and is {'size': 64}"
    assert difference(now, before) == "tiles was {'size': 64} and is None"


def test_shards_that_do_not_fit(segment, large, images, tmp_path):
    more = (*SMALL, "--diameter", "18")
    assert segment(*more, "--shard", "1/3", inputs=[large]).code == 0
    unfinished = segment(*more, "--shard", "join", inputs=[large])
    assert unfinished.code == 2
    assert "--shard 2/3, --shard 3/3" in unfinished.err
    other = segment(*SMALL, "--diameter", "19", "--shard", "2/3", inputs=[large])
    assert other.code == 2
    assert "diameter was 18.0 and is 19.0" in other.err
    number = segment(*more, "--shard", "2/4", inputs=[large])
    assert number.code == 2
    assert "other shards here are of 3" in number.err
    inputs = segment(*more, "--shard", "2/3", inputs=[large, images / "a.tif"])
    assert inputs.code == 2
    assert "images was 1 and is 2" in inputs.err
    block = segment(*more, "--block", "300", "--shard", "2/3", inputs=[large])
    assert "block was None and is 300" in block.err
    both = segment(*more, "--overwrite", "--shard", "2/3", inputs=[large])
    assert "do not go together" in both.err
    assert "--block is the size" in segment("--block", "300", inputs=[large]).err


def test_an_image_without_anything(segment, tmp_path):
    path = tmp_path / "flat.tif"
    tifffile.imwrite(path, np.full((50, 60), 7, np.uint8))
    assert segment("--shard", "1/2", inputs=[path]).code == 0
    assert segment("--shard", "2/2", inputs=[path]).code == 0
    assert segment("--shard", "join", inputs=[path]).code == 0
    assert not tifffile.imread(tmp_path / "out" / "flat.tif").any()


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


ZARR = "ome-zarr/large.ome.zarr"


def test_ome_zarr_written_by_several(segment, large, tiny_model, tmp_path, monkeypatch):
    """Each chunk is one share's, in whatever order and twice where a worker ended."""
    from napari_sa2net.data import formats, write
    from napari_sa2net.inference.batch import BatchSettings
    from napari_sa2net.inference.shares import Worker
    from napari_sa2net.models import load_model

    monkeypatch.setattr(formats, "_CHUNK", 64)
    monkeypatch.setattr(formats, "_SHARE", 7)
    monkeypatch.setattr(write, "_PYRAMID", 128)
    assert segment("--format", "ome-zarr", inputs=[large], out="one").code == 0
    assert segment(inputs=[large]).code == 0
    model = load_model(tiny_model)
    settings = BatchSettings(instances=model.card.instance)
    (job,) = name_jobs([large])
    order = Order(
        *(tmp_path / "out", str(tiny_model), model.sha256, settings, (job,)),
        block=256,
        formats=("ome-zarr",),
        together=("ome-zarr",),
    )
    first, second = Worker(order, model), Worker(order, model)
    levels = first.begin(job, "ome-zarr")
    assert [len(level) for level in levels] == [14, 4, 2]
    for level in levels:
        for i, share in enumerate(reversed(level)):
            (first, second)[i % 2].fill(job, "ome-zarr", share)
        second.fill(job, "ome-zarr", level[0])
    assert not (tmp_path / "out" / ZARR).exists()
    for worker in (first, second):
        worker.end(job, "ome-zarr")
    assert files_of(tmp_path / "out" / ZARR) == files_of(tmp_path / "one" / ZARR)
    assert second.begin(job, "ome-zarr") == []
    assert not list((tmp_path / "out" / "extra" / "blocks").iterdir())


def test_what_cannot_be_written_together_is_taken_away(
    segment, large, tiny_model, tmp_path, monkeypatch
):
    """A disk that is full in the middle; the cluster is this process."""
    from napari_sa2net.cli.segment import write_together
    from napari_sa2net.inference import shares
    from napari_sa2net.inference.batch import BatchSettings
    from napari_sa2net.models import load_model

    class Here:
        loop = None

        def submit(self, task, order, *what, pure):
            return SimpleNamespace(result=lambda: task(order, *what))

    class KilledWorker(Exception):
        pass

    cluster = SimpleNamespace(
        as_completed=lambda futures, loop: futures, KilledWorker=KilledWorker
    )
    monkeypatch.setitem(sys.modules, "distributed", cluster)
    assert segment(inputs=[large]).code == 0
    model = load_model(tiny_model)
    (job,) = name_jobs([large])
    settings = BatchSettings(instances=model.card.instance)
    order = Order(
        *(tmp_path / "out", str(tiny_model), model.sha256, settings, (job,)),
        formats=("ome-zarr",),
        together=("ome-zarr",),
    )
    before = files_of(tmp_path / "out")
    progress: Any = SimpleNamespace(step=lambda *_: None)
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device")
        patch.setattr(shares, "fill_zarr", Mock(side_effect=full))
        why = write_together(Here(), order, job, "ome-zarr", progress)
    assert why is not None
    assert "No space left" in why
    assert files_of(tmp_path / "out") == before
    assert not list((tmp_path / "out" / "extra" / "blocks").iterdir())
    assert write_together(Here(), order, job, "ome-zarr", progress) is None
    assert (tmp_path / "out" / ZARR).is_dir()


# --- dask ------------------------------------------------------------------------------------


def start(*arguments, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "napari_sa2net.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SA2NET_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def workers_of(scheduler: int) -> list[Any]:
    import psutil

    found = []
    for one in psutil.Process(scheduler).children():
        with suppress(psutil.Error):  # it ends in this moment
            if "spawn_main" in " ".join(one.cmdline()):
                found.append(one)
    return found


@pytest.mark.timeout(600)
def test_workers_that_are_killed_cost_their_blocks(
    segment, large, images, tiny_model, tmp_path, own_home
):
    pytest.importorskip("distributed")
    pytest.importorskip("psutil")
    assert segment(*SMALL, "--format", "ome-zarr", inputs=[large], out="one").code == 0
    arguments = ("--model", tiny_model, *SMALL, "--block", "100", "--dask", "local:2")
    arguments += ("--format", "ome-zarr")
    running = start("segment", large, "-o", tmp_path / "out", *arguments, home=own_home)
    blocks = tmp_path / "out" / "extra" / "blocks" / "large"

    killed, seen = 0, 0
    while running.poll() is None and killed < KILLS:
        made = len(list(blocks.glob("block-*.npy")))
        if made > seen and (present := workers_of(running.pid)):
            present[killed % len(present)].kill()
            killed, seen = killed + 1, made
        time.sleep(0.05)
    _, err = running.communicate()
    assert running.returncode == 0, err
    assert killed == KILLS
    same(tmp_path / "one", tmp_path / "out")
    assert files_of(tmp_path / "out" / ZARR) == files_of(tmp_path / "one" / ZARR)
    assert not blocks.exists()
    again = segment(*arguments[2:], inputs=[large])
    assert again.err.count("done before") == 1


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of dask's, such as on a port that is in use
def test_a_worker_that_is_slow_to_come_back_is_waited_for():
    """Where dask would give it up, and all that is asked for would wait for ever."""
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    psutil = pytest.importorskip("psutil")
    from napari_sa2net.cli.segment import connected

    given_up = {"distributed.deploy.lost-worker-timeout": "10ms"}
    with dask.config.set(given_up), connected("local:1") as (client, _):
        (pid,) = client.run(os.getpid).values()
        psutil.Process(pid).kill()
        assert client.submit(sum, (1, 2)).result(timeout=200) == 3


@pytest.mark.timeout(600)
def test_files_on_a_cluster(segment, images, tiny_model, tmp_path, own_home):
    pytest.importorskip("distributed")
    assert segment(inputs=[images], out="one").code == 1
    arguments = ("--model", tiny_model, "--dask", "local:2", "--json")
    running = start("segment", images, "-o", tmp_path / "out", *arguments, home=own_home)
    out, err = running.communicate()
    assert running.returncode == 1, err
    told = json.loads(out)
    assert [image["name"] for image in told["images"]] == ["a", "b", "bad", "colour"]
    assert (told["n_done"], told["n_failed"]) == (3, 1)
    assert "bad.tif" in told["images"][2]["error"]
    same(tmp_path / "one", tmp_path / "out", ["a", "b", "colour"])


SCHEDULER = """
import sys, distributed
if __name__ == "__main__":
    options = {"n_workers": int(sys.argv[1]), "threads_per_worker": 2}
    options["dashboard_address"] = None
    with distributed.LocalCluster(**options) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@contextmanager
def scheduler_of(n: int, folder: Path) -> Iterator[tuple[str, int]]:
    """Address and process of a scheduler with n workers."""
    path = folder / "scheduler.py"
    path.write_text(SCHEDULER)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, path, str(n)], **pipes) as scheduler:
        yield scheduler.stdout.readline().strip(), scheduler.pid
        scheduler.stdin.close()


@pytest.mark.timeout(600)
def test_a_scheduler_that_runs(segment, images, tmp_path):
    """Its workers have several threads, and one model; a stack goes in blocks."""
    pytest.importorskip("distributed")
    with scheduler_of(1, tmp_path) as (address, _):
        stack = tmp_path / "stack.tif"
        times = [synthetic_nuclei(shape=(64, 80), n=5, diameter=14, seed=s)[0] for s in (1, 2)]
        tifffile.imwrite(stack, np.stack(times), imagej=True, metadata={"axes": "TYX"})
        more = ("--block", "1000", "--dask", address)
        inputs = [stack, images / "a.tif", images / "bad.tif"]
        result = segment(*more, inputs=inputs)
    assert result.code == 1
    assert "bad.tif" in result.err
    segment(inputs=inputs, out="one")
    same(tmp_path / "one", tmp_path / "out", ["a", "stack"])


@pytest.mark.timeout(600)
def test_what_a_worker_that_hangs_has_is_done_by_others(segment, large, tmp_path, monkeypatch):
    """To the scheduler it is there for minutes, and gives nothing."""
    pytest.importorskip("distributed")
    pytest.importorskip("psutil")
    command = sys.modules["napari_sa2net.cli.segment"]  # its function has the same name
    monkeypatch.setattr(command, "_LONG", 2.0)
    monkeypatch.setattr(command, "_TIMES", 1)
    blocks = tmp_path / "out" / "extra" / "blocks" / "large"
    stopped = []

    def stop(scheduler: int) -> None:
        while not list(blocks.glob("block-*.npy")):
            time.sleep(0.01)
        stopped.append(workers_of(scheduler)[0])
        stopped[0].suspend()

    with scheduler_of(2, tmp_path) as (address, scheduler):
        Thread(target=stop, args=[scheduler], daemon=True).start()
        result = segment(*SMALL, "--block", "100", "--dask", address, inputs=[large])
        stopped[0].kill()
    assert result.code == 0, result.err
    assert "nothing was done for 2 s" in result.err
    assert segment(*SMALL, inputs=[large], out="one").code == 0
    same(tmp_path / "one", tmp_path / "out")


def test_a_scheduler_that_cannot_be_reached_is_told():
    command = sys.modules["napari_sa2net.cli.segment"]

    class Client:
        scheduler = SimpleNamespace(processing="asked")

        def sync(self, asked, workers, callback_timeout):
            assert asked == "asked"
            assert 10 < callback_timeout < 600  # it does not wait without an end
            raise TimeoutError(f"timed out after {callback_timeout} s")

    with pytest.raises(EngineError, match=r"cannot be reached; what is done is kept\. See to"):
        command._at_work(Client())


def test_what_is_wrong_about_a_cluster(segment, large, monkeypatch):
    both = segment("--dask", "local:2", "--shard", "1/2", inputs=[large])
    assert both.code == 2
    assert "give one of them" in both.err
    monkeypatch.setitem(sys.modules, "distributed", None)
    missing = segment("--dask", "local:2", inputs=[large])
    assert missing.code == 2
    assert "napari-sa2net[dask]" in missing.err


@pytest.mark.parametrize("address", ["local:0", "local:x", "tcp://127.0.0.1:9"])
def test_a_cluster_that_cannot_be(segment, large, address):
    pytest.importorskip("distributed")
    result = segment("--dask", address, inputs=[large])
    assert result.code == 2
    assert address in result.err
    assert "local:" in result.err
