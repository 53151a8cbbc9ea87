"""Labels and table in parts equal those of the whole plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr

from napari_sa2net.config import InstanceConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.errors import Cancelled
from napari_sa2net.inference import planes as big_planes
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.inference.planes import label_in_blocks

CLASSES = ("background", "foreground")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(big_planes, "BLOCK", 150)
    monkeypatch.setattr(big_planes, "OVERLAP", 60)
    monkeypatch.setattr(big_planes, "BAND", 70)


@pytest.fixture(scope="module")
def probability() -> np.ndarray:
    _, labels = synthetic_nuclei(shape=(410, 530), n=150, diameter=18, seed=4)
    foreground = (labels > 0).astype(np.float32) * 0.9 + 0.02
    return np.stack([1 - foreground, foreground])


def in_blocks(probability: np.ndarray, out: Any, config: InstanceConfig, **more: Any) -> int:
    return label_in_blocks(
        lambda y, x: probability[:, y, x], probability.shape[1:], CLASSES, config, out, **more
    )


@pytest.mark.parametrize("remove_border", [False, True])
def test_labels_equal_the_whole(probability: np.ndarray, remove_border: bool) -> None:
    config = InstanceConfig(remove_border=remove_border)
    expected = label_objects(probability, CLASSES, config)
    out = np.full(expected.shape, -5, np.int32)
    assert in_blocks(probability, out, config) == expected.max() > 50
    np.testing.assert_array_equal(out, expected)


def test_numbers_go_on_from_another_plane(probability: np.ndarray) -> None:
    out = np.zeros(probability.shape[1:], np.int32)
    last = in_blocks(probability, out, InstanceConfig(), first=1000)
    found = np.unique(out[out > 0])
    assert (found[0], found[-1], len(found)) == (1001, last, last - 1000)


def test_objects_larger_than_blocks_stay_whole() -> None:
    y, x = np.ogrid[:500, :480]
    ring = np.abs(np.hypot(y - 250, x - 240) - 180) < 25
    bar = np.zeros_like(ring)
    bar[240:260, 230:250] = True
    foreground = (ring | bar).astype(np.float32)
    probability = np.stack([1 - foreground, foreground])
    out = np.zeros(ring.shape, np.int32)
    config = InstanceConfig(split=0, fill_holes=False)
    assert in_blocks(probability, out, config) == 2
    np.testing.assert_array_equal(out, np.where(ring, 1, np.where(bar, 2, 0)))


@pytest.mark.parametrize("remove_border", [False, True])
def test_blocks_that_were_labelled_before_are_joined_to_the_same(
    probability: np.ndarray, remove_border: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As processes label them, each a part, in any order."""
    shape = probability.shape[1:]
    config = InstanceConfig(remove_border=remove_border)
    monkeypatch.setattr(big_planes, "LARGE", shape[0] * shape[1])
    assert list(big_planes.parts_of(shape)) == [(slice(0, 410), slice(0, 530))]
    whole = big_planes.label_part(probability, shape, CLASSES, config)
    np.testing.assert_array_equal(whole, label_objects(probability, CLASSES, config))

    monkeypatch.setattr(big_planes, "LARGE", shape[0] * shape[1] - 1)
    made = {
        (y.start, y.stop, x.start, x.stop): big_planes.label_part(
            probability[:, y, x], shape, CLASSES, config
        )
        for y, x in reversed(list(big_planes.parts_of(shape)))
    }
    rows, columns = (
        [(0, 210), (90, 360), (240, 410)],
        [(0, 210), (90, 360), (240, 510), (390, 530)],
    )
    assert sorted(made) == [(*y, *x) for y in rows for x in columns]
    out = np.zeros(shape, np.int32)

    def labelled(y: slice, x: slice) -> np.ndarray:
        return made[y.start, y.stop, x.start, x.stop]

    in_blocks(probability, out, config, labelled=labelled)
    np.testing.assert_array_equal(out, label_objects(probability, CLASSES, config))


def test_on_disk(probability: np.ndarray, tmp_path) -> None:
    shape = probability.shape[1:]
    out = zarr.create_array(tmp_path / "labels", shape=shape, chunks=(64, 64), dtype="i4")
    in_blocks(probability, out, InstanceConfig())
    expected = label_objects(probability, CLASSES, InstanceConfig())
    np.testing.assert_array_equal(out[:], expected)


def test_cancelled(probability: np.ndarray) -> None:
    asked: list[int] = []

    def third_time() -> bool:
        asked.append(0)
        return len(asked) == 3

    out = np.zeros(probability.shape[1:], np.int32)
    with pytest.raises(Cancelled):
        in_blocks(probability, out, InstanceConfig(), cancelled=third_time)


def test_segment_takes_this_way(make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sa2net.inference.segment import segment

    image, _ = synthetic_nuclei(shape=(120, 140), n=15, seed=3)
    settings = {
        "model": make_model(),
        "precision": "float32",
        "min_size": 0,
        "link_planes": False,
    }
    expected = segment(image, **settings)
    stack = segment(np.stack([image, image]), axes="ZYX", **settings)
    monkeypatch.setattr(big_planes, "LARGE", 1000)
    for axes, turn in (("YX", image), ("XY", image.T)):
        result = segment(turn, axes=axes, **settings)
        assert result.labels.max() == len(result.objects)
        # A landscape of random weights is not the same at every block's edge.
        labels = result.labels if axes == "YX" else result.labels.T
        assert ((labels > 0) == (expected.labels > 0)).mean() > 0.99
    both = segment(np.stack([image, image]), axes="ZYX", **settings)
    assert ((both.labels > 0) == (stack.labels > 0)).mean() > 0.99
    assert both.labels[1].min() == 0 < both.labels[0].max() < both.labels[1].max()
