from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

import napari_sa2net
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.provenance import (
    MAX_PIXELS,
    image_fingerprint,
    provenance,
    quick_fingerprint,
)


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


def test_an_image_is_known_by_its_pixels_however_they_are_held() -> None:
    image = np.random.default_rng(0).integers(0, 999, (7, 30, 40), np.uint16)
    one = image_fingerprint(image)
    assert len(one) == 32
    assert int(one, 16) >= 0
    held = [image.copy(), np.asfortranarray(image), image.astype(">u2"), zarr.array(image)]
    assert {image_fingerprint(same) for same in held} == {one}
    turned = [image.astype(np.int16), image.astype(np.uint32), image[:, :, :-1], image[None]]
    assert one not in {image_fingerprint(other) for other in turned}


@pytest.mark.parametrize("shape", [(6, 5), (5, 6, 5), (2, 2, 6, 5), (6, 5, 3), (3, 6, 5, 4)])
def test_each_pixel_of_a_small_image_counts(shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.uint8)
    known = {image_fingerprint(image)}
    for i in range(image.size):
        other = image.copy()
        other.flat[i] = 1
        known.add(image_fingerprint(other))
    assert len(known) == image.size + 1


def test_of_a_long_stack_first_and_last_and_some_between_count() -> None:
    image = np.zeros((101, 4, 5), np.uint8)
    one = image_fingerprint(image)
    counts = []
    for plane in range(101):
        image[plane, 1, 2] = 1
        if image_fingerprint(image) != one:
            counts.append(plane)
        image[plane, 1, 2] = 0
    assert counts == [0, 25, 50, 75, 100]
    assert image_fingerprint(image[:0]) != one  # nor does an empty one fail


def test_a_large_plane_is_looked_at_from_corner_to_corner() -> None:
    side = round(MAX_PIXELS**0.5)
    read: list[tuple[slice, ...]] = []

    class Lazy:
        shape, dtype = (side, side + 1), np.dtype(np.uint8)

        def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
            read.append(key)
            return np.zeros(
                [len(range(*k.indices(n))) for k, n in zip(key, self.shape, strict=True)]
            )

    image_fingerprint(Lazy())
    assert len(read) == 25
    assert {(y.stop - y.start, x.stop - x.start) for y, x in read} == {(128, 128)}
    for axis, size in enumerate(Lazy.shape):
        assert min(key[axis].start for key in read) == 0
        assert max(key[axis].stop for key in read) == size
    read.clear()
    Lazy.shape = (side, side)
    image_fingerprint(Lazy())
    assert read == [(slice(None), slice(None))]


def test_a_quick_look_reads_nothing_that_is_not_in_memory() -> None:
    image = np.random.default_rng(0).integers(0, 999, (70, 80), np.uint16)
    assert quick_fingerprint(image) == quick_fingerprint(image.copy())
    other = image.copy()
    other[-1, -1] += 1  # the last one is among them
    assert quick_fingerprint(other) != quick_fingerprint(image)
    assert quick_fingerprint(image[:, :-1]) != quick_fingerprint(image)
    assert quick_fingerprint(image[:0])
    lazy = SimpleNamespace(shape=image.shape, dtype=image.dtype)
    assert quick_fingerprint(lazy) not in {quick_fingerprint(image), quick_fingerprint(image.T)}
