"""Blocks of a plane, and the probabilities out of their files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data import read_image, synthetic_nuclei
from napari_sa2net.data.plan import plan_image
from napari_sa2net.data.results import Job, ResultFolder
from napari_sa2net.errors import OutputError, SettingsError
from napari_sa2net.inference.batch import BatchSettings
from napari_sa2net.inference.blocks import (
    Block,
    Mosaic,
    SharedImage,
    cut,
    difference,
    read_json,
)
from napari_sa2net.inference.predict import HALO
from napari_sa2net.inference.shares import Order, Shard, ShardNotes
from napari_sa2net.inference.tiling import ScaledPlane
from napari_sa2net.models import open_model

TILE = 2 * HALO + 64


def plane(height: int, width: int, scale: float = 1.0) -> ScaledPlane:
    image = np.zeros((height, width), np.uint8)
    return ScaledPlane(plan_image(image, "YX", in_channels=1, measure=False), (), scale)


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("side", [1, 100, 200, 330, 10_000])
def test_blocks_cover_a_plane_once_with_all_of_its_tiles(scale: float, side: int) -> None:
    blocks = cut(plane(630, 440, scale), TILE, side)
    seen = np.zeros((630, 440), int)
    for block in blocks:
        y0, y1, x0, x1 = block.box
        seen[y0:y1, x0:x1] += 1
    assert (seen == 1).all()
    tiles = [tile for block in blocks for tile in block.tiles]
    every = [tile for block in cut(plane(630, 440, scale), TILE, 10**6) for tile in block.tiles]
    assert len(tiles) == len(set(tiles))
    assert set(tiles) == set(every)
    # as many as come nearest to the side, but none without a tile
    n = len(blocks)
    expected = {100: 6 * 3, 200: 3 * 2, 330: 2 * 1, 10_000: 1}
    if scale == 1 and side in expected:
        assert n == expected[side]
    rows = [block.box[:2] for block in blocks]
    assert rows == sorted(rows)


@pytest.fixture
def mosaic(tmp_path: Path) -> Any:
    """Of two planes in four blocks, one of which is glass; and what they hold."""
    rng = np.random.default_rng(0)
    whole = rng.random((2, 3, 6, 9)).astype(np.float32)
    blocks, files = [], []
    for i in range(2):
        for box in ((0, 4, 0, 9), (4, 6, 0, 5), (4, 6, 5, 9)):
            y0, y1, x0, x1 = box
            values = whole[i, :, y0:y1, x0:x1]
            if (i, x0) == (1, 5):
                whole[i, :, y0:y1, x0:x1] = np.array([1, 0, 0], np.float32)[:, None, None]
                values = values[:, :0, :0]
            blocks.append(Block((i,), box, ()))
            files.append(tmp_path / f"{len(files)}.npy")
            np.save(files[-1], values)
    return Mosaic(whole.shape, blocks, files), whole


@pytest.mark.parametrize(
    "key",
    [
        (0,),
        (1,),
        (1, slice(None), slice(3, 6), slice(4, 7)),
        (1, slice(1, 3), slice(5, 6), slice(None)),
        (0, slice(0, 1), slice(0, 4), slice(8, 9)),
        (1, slice(2, None), slice(-2, None), slice(None, -1)),
        (0, slice(None), slice(4, 4), slice(0, 9)),
        (np.int64(1), slice(None), slice(2, 5)),
    ],
)
def test_a_mosaic_is_read_as_the_whole_array_would_be(mosaic: Any, key: Any) -> None:
    there, whole = mosaic
    np.testing.assert_array_equal(there[key], whole[key])


def test_a_single_plane_and_a_single_class_are_no_exception(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    np.save(tmp_path / "0.npy", values[:, :, :3])
    np.save(tmp_path / "1.npy", values[:, :0, :0])
    blocks = [Block((), (0, 4, 0, 3), ()), Block((), (0, 4, 3, 5), ())]
    there = Mosaic((1, 4, 5), blocks, [tmp_path / "0.npy", tmp_path / "1.npy"])
    np.testing.assert_array_equal(
        there[:, 1:3], np.pad(values[:, 1:3, :3], [(0, 0)] * 2 + [(0, 2)])
    )


def test_what_differs_is_named_as_the_flags_are() -> None:
    before = {"block": 64, "of": {"model": "a", "settings": {"min_size": 3, "split": 1}}}
    now = {"block": 64, "of": {"model": "b", "settings": {"min_size": 4, "split": 1}}}
    assert difference(before, now) == "model was a and is b, min-size was 3 and is 4"
    assert difference(before, {**before, "block": 32, "more": 1}) == (
        "block was 64 and is 32, more was None and is 1"
    )


def test_agreements_that_cannot_be_read_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "decided.json").write_text("{")
    for name in ("decided.json", "none.json"):
        with pytest.raises(OutputError, match=rf"{name} cannot be read .* Delete it"):
            read_json(tmp_path / name)


@pytest.mark.parametrize("of", [1, 2, 3, 7, 12])
def test_shards_have_all_and_each_thing_once(of: int) -> None:
    for n in (0, 1, 5, 7, 100):
        parts = [Shard(number, of).mine(n) for number in range(1, of + 1)]
        assert [i for part in parts for i in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_as_they_are_typed() -> None:
    assert Shard.of_text(" 2 / 8 ") == Shard(2, 8)
    assert str(Shard.of_text("8/8")) == "8/8"
    for wrong in ("0/8", "9/8", "2", "2/", "a/8", "-1/8", "0/0", "2/8/9"):
        with pytest.raises(SettingsError, match=f"--shard {wrong}"):
            Shard.of_text(wrong)


def notes(folder: Path, *names: str, block: int | None = 64, min_size: int = 15) -> ShardNotes:
    settings = BatchSettings(instances=InstanceConfig(min_size=min_size))
    jobs = tuple(Job(name, Path(f"{name}.tif")) for name in names or ("a", "b"))
    return ShardNotes(Order(folder, "nuclei", "ab", settings, jobs, block))


def test_shards_go_together_only_where_all_were_given_the_same(tmp_path: Path) -> None:
    notes(tmp_path).begin(Shard(1, 2))
    notes(tmp_path, "b", "a").begin(Shard(2, 2))  # the order of files does not matter
    notes(tmp_path).begin(Shard(1, 2))  # nor that one is begun again
    with pytest.raises(SettingsError, match="--shard 1/3: other shards here are of 2"):
        notes(tmp_path).begin(Shard(1, 3))
    for other, words in (
        (notes(tmp_path, block=32), "block was 64 and is 32"),
        (notes(tmp_path, "a", "b", "c"), "images was 2 and is 3"),
        (notes(tmp_path, "a", "c"), "list of images was"),
        (notes(tmp_path, min_size=16), "min-size was 15 and is 16"),
    ):
        with pytest.raises(
            SettingsError, match=rf"Shard 1/2 was given something else: .*{words}"
        ):
            other.begin(Shard(2, 2))
        with pytest.raises(SettingsError, match=words):
            other.check_finished()


def test_what_has_not_finished_is_named(tmp_path: Path) -> None:
    shards = notes(tmp_path)
    assert shards.cleared
    shards.check_finished()  # nothing was shared out
    shards.begin(Shard(2, 12))
    shards.end(Shard(2, 12))
    assert not shards.cleared
    shards.begin(Shard(3, 12))
    with pytest.raises(OutputError, match=r"11 of 12 shards") as refused:
        shards.check_finished()
    named = re.findall(r"--shard (\d+)/12", str(refused.value))
    assert named == ["1", "3", "4", "5", "6", "7", "8", "9"]
    assert "--shard 9/12 …" in str(refused.value)
    for number in range(4, 13):
        shards.end(Shard(number, 12))
    with pytest.raises(OutputError, match=r"2 of 12 .* --shard 1/12, --shard 3/12, and join"):
        shards.check_finished()
    for number in (1, 3):
        shards.end(Shard(number, 12))
    shards.check_finished()
    shards._write(Shard(1, 11), "finished")
    with pytest.raises(SettingsError, match="of different numbers"):
        shards.check_finished()
    shards.clear()
    assert shards.cleared


def test_what_was_begun_otherwise_is_refused_or_done_anew(
    tmp_path: Path, tiny_model: Path
) -> None:
    path = tmp_path / "a.tif"
    image, _ = synthetic_nuclei((96, 96), n=6, diameter=14, seed=1)
    tifffile.imwrite(path, image)
    file, model = read_image(path), open_model(tiny_model)
    folder = ResultFolder(tmp_path / "out", "key")

    def shared(size: int, block: int | None = 64, anew: bool = False) -> SharedImage:
        predict = PredictConfig(device="cpu", diameter=14)
        settings = BatchSettings(predict=predict, instances=InstanceConfig(min_size=size))
        return SharedImage(Job("a", path), folder, file, model, settings, block, anew)

    first = shared(15)
    assert first.blocks
    first.make(0)
    assert first.done(0)
    assert shared(15).done(0)  # who shares it sees what is made
    assert shared(15, anew=True).done(0)  # nothing of it is otherwise
    with pytest.raises(SettingsError, match=r"min-size was 15 and is 16.* or delete"):
        shared(16)
    with pytest.raises(SettingsError, match="block was 64 and is 96"):
        shared(15, 96)
    again = shared(16, anew=True)
    assert not again.done(0)
    with pytest.raises(SettingsError, match="min-size was 16 and is 15"):
        shared(15)


def test_a_half_written_block_is_made_again(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "a.tif"
    image, _ = synthetic_nuclei((96, 96), n=6, diameter=14, seed=1)
    tifffile.imwrite(path, image)
    settings = BatchSettings(predict=PredictConfig(device="cpu", diameter=14))
    one = SharedImage(
        Job("a", path),
        ResultFolder(tmp_path / "out", "key"),
        read_image(path),
        open_model(tiny_model),
        settings,
        64,
    )
    assert not one.done(0)
    one.make(0)
    whole = one.file(0).read_bytes()
    one.file(0).write_bytes(whole[: len(whole) // 2])
    assert not one.done(0)
    one.make(0)
    assert one.file(0).read_bytes() == whole
    before = one.file(0).stat().st_mtime_ns
    one.make(0)  # it is there
    assert one.file(0).stat().st_mtime_ns == before
