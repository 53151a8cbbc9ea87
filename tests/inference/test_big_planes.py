"""Labels and table in parts equal those of the whole plane."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import zarr

from napari_sa2net.config import InstanceConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
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
    sure = np.random.default_rng(0).uniform(0.7, 0.98, labels.max() + 1).astype(np.float32)
    sure[0] = 0.02
    foreground = sure[labels]
    return np.stack([1 - foreground, foreground])


def in_blocks(probability: np.ndarray, out: Any, config: InstanceConfig, **more: Any) -> int:
    return label_in_blocks(
        lambda y, x: probability[:, y, x], probability.shape[1:], CLASSES, config, out, **more
    )


@pytest.mark.parametrize("least", [0.0, 0.8])
@pytest.mark.parametrize("remove_border", [False, True])
def test_labels_equal_the_whole(
    probability: np.ndarray, remove_border: bool, least: float
) -> None:
    config = InstanceConfig(remove_border=remove_border, min_confidence=least)
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


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_an_object_larger_than_blocks_is_dropped_as_a_whole_or_not_at_all(share: float) -> None:
    """Sure in its upper part only, which a block below does not see."""
    foreground = np.full((500, 480), 0.02, np.float32)
    foreground[20:480, 100:130] = 0.7
    foreground[20 : 20 + int(460 * share), 100:130] = 0.95
    foreground[20:480, 300:330] = 0.7
    probability = np.stack([1 - foreground, foreground])
    config = InstanceConfig(split=0, min_confidence=0.9)
    out = np.zeros(foreground.shape, np.int32)
    assert in_blocks(probability, out, config) == 1
    np.testing.assert_array_equal(out, label_objects(probability, CLASSES, config))
    assert (out[20:480, 100:130] == 1).all()


@pytest.mark.parametrize("least", [0.0, 0.8])
@pytest.mark.parametrize("remove_border", [False, True])
def test_blocks_that_were_labelled_before_are_joined_to_the_same(
    probability: np.ndarray, remove_border: bool, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As processes label them, each a part, in any order."""
    shape = probability.shape[1:]
    plan = plan_image(np.zeros(shape, np.uint8))
    config = InstanceConfig(remove_border=remove_border, min_confidence=least)
    monkeypatch.setattr(big_planes, "LARGE", shape[0] * shape[1])
    assert list(big_planes.parts_of(shape)) == [(slice(0, 410), slice(0, 530))]
    whole = big_planes.label_part(probability, plan, CLASSES, config)
    np.testing.assert_array_equal(whole, label_objects(probability, CLASSES, config))

    monkeypatch.setattr(big_planes, "LARGE", shape[0] * shape[1] - 1)
    made = {
        (y.start, y.stop, x.start, x.stop): big_planes.label_part(
            probability[:, y, x], plan, CLASSES, config
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


# --- stacks ----------------------------------------------------------------------------


def stack(sure: Any) -> np.ndarray:
    """(Z, 2, 40, 120) of three cells, with what the network says of each in each plane."""
    foreground = np.full((len(sure), 40, 120), 0.02, np.float32)
    for plane, values in zip(foreground, sure, strict=True):
        for at, value in enumerate(values):
            plane[10:30, 40 * at + 5 : 40 * at + 35] = value
    return np.stack([1 - foreground, foreground], 1)


SURE = ((0.95, 0.7, 0.95), (0.7, 0.75, 0.95), (0.95, 0.7, 0.95))


@pytest.mark.parametrize("axes", ["ZYX", "TZYX"])
def test_a_linked_object_is_doubtful_as_a_whole(axes: str) -> None:
    probability = stack(SURE)
    shape = (3, 40, 120)
    if axes == "TZYX":
        probability, shape = np.stack([probability, probability]), (2, *shape)
    plan = plan_image(np.zeros(shape, np.uint8), axes)
    config = InstanceConfig(min_confidence=0.9)
    labels = big_planes.label_stack(plan, probability, CLASSES, config)
    last = labels.reshape(-1, 3, 40, 120)
    for number, one in enumerate(last):
        assert np.unique(one).tolist() == [0, 2 * number + 1, 2 * number + 2]
        assert (one[:, 20, 20] == 2 * number + 1).all()  # also where it is faint
        assert (one[:, 20, 60] == 0).all()
        assert (one[:, 20, 100] == 2 * number + 2).all()


def test_of_planes_that_are_not_linked_each_is_by_itself() -> None:
    for axes, config in (
        ("ZYX", InstanceConfig(min_confidence=0.9, link_planes=False)),
        ("TYX", InstanceConfig(min_confidence=0.9)),
    ):
        plan = plan_image(np.zeros((3, 40, 120), np.uint8), axes)
        labels = big_planes.label_stack(plan, stack(SURE), CLASSES, config)
        assert labels[:, 20, 20].tolist() == [1, 0, 4]
        assert labels[:, 20, 100].tolist() == [2, 3, 5]
        assert not labels[:, 20, 60].any()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_parts_of_a_stack_that_were_labelled_before_give_the_same(
    large: bool, link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability = stack(SURE)
    plan = plan_image(np.zeros((3, 40, 120), np.uint8), "ZYX")
    config = InstanceConfig(min_confidence=0.9, link_planes=link)
    whole = big_planes.label_stack(plan, probability, CLASSES, config)
    if large:
        monkeypatch.setattr(big_planes, "LARGE", 40 * 120 - 1)
        monkeypatch.setattr(big_planes, "BLOCK", 50)
        monkeypatch.setattr(big_planes, "OVERLAP", 40)

    def labelled(index: tuple[int, ...], y: slice, x: slice) -> np.ndarray:
        return big_planes.label_part(
            probability[(*index, slice(None), y, x)], plan, CLASSES, config
        )

    again = big_planes.label_stack(plan, probability, CLASSES, config, labelled=labelled)
    np.testing.assert_array_equal(again, whole)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_labelling_ends_wherever_it_is_cancelled(
    large: bool, link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability = stack(SURE)
    plan = plan_image(np.zeros((3, 40, 120), np.uint8), "ZYX")
    config = InstanceConfig(min_confidence=0.9, link_planes=link)
    if large:
        monkeypatch.setattr(big_planes, "LARGE", 40 * 120 - 1)
        monkeypatch.setattr(big_planes, "BLOCK", 50)
        monkeypatch.setattr(big_planes, "OVERLAP", 40)
    asked = 0

    def cancelled_at(number: float) -> bool:
        nonlocal asked
        asked += 1
        return asked > number

    big_planes.label_stack(
        plan, probability, CLASSES, config, cancelled=lambda: cancelled_at(np.inf)
    )
    n, told = asked, []
    assert n >= 3
    for number in range(n):
        asked = 0
        with pytest.raises(Cancelled, match="nothing was changed"):
            big_planes.label_stack(
                plan, probability, CLASSES, config, cancelled=partial(cancelled_at, number)
            )
        told.append(asked)
    assert told == [number + 1 for number in range(n)]  # at once, and not at the next question
