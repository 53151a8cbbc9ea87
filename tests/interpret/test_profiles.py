from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net.interpret import objects as profiles
from napari_sa2net.interpret.objects import REACH, all_profiles

SHAPE = (110, 130)
ORIGIN = (5, 9)


def maps() -> dict[str, SimpleNamespace]:
    rng = np.random.default_rng(1)
    made = {}
    for stride in (8, 4, 2, 1):
        grid = [-(-n // stride) for n in SHAPE]
        at = (stride - 1) / 2
        made[f"aua_{stride}"] = SimpleNamespace(
            values=rng.uniform(0, 1, grid).astype(np.float32),
            scale=(stride, stride),
            translate=(at + ORIGIN[0], at + ORIGIN[1]),
        )
    return made


def blobs(cut: bool) -> np.ndarray:
    """Objects of all sizes, some at the border; cut in two, or numbered with gaps."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 4)
    labels = ndimage.label(noise > 0.02)[0].astype(np.int32)
    if cut:
        labels[:, 60:][labels[:, 60:] > 0] += 1000
    labels[0, 0] = 77
    return labels


def distance_to(target: np.ndarray) -> np.ndarray:
    if not target.any():
        return np.full(target.shape, np.inf)
    return ndimage.distance_transform_edt(~target)


def profile_alone(labels: np.ndarray, label: int, one: SimpleNamespace) -> np.ndarray:
    """The profile of one object, from the distances of all pixels of the image."""
    mine, others = labels == label, (labels > 0) & (labels != label)
    distance = np.where(mine, 1 - distance_to(~mine), distance_to(mine))
    wanted = (mine | (~others & (distance < distance_to(others)))) & np.isfinite(distance)
    bins = np.rint(distance[wanted]).astype(int) + REACH
    at = [
        (axis + first - shift) / scale
        for axis, first, shift, scale in zip(
            np.nonzero(wanted), ORIGIN, one.translate, one.scale, strict=True
        )
    ]
    psi = ndimage.map_coordinates(one.values.astype(float), at, order=1, mode="nearest")
    means = [psi[bins == n].mean() if (bins == n).any() else np.nan for n in range(25)]
    return np.array(means)


@pytest.mark.parametrize("rows", [512, 30])
@pytest.mark.parametrize("cut", [False, True])
def test_profiles_are_those_of_each_object_alone(monkeypatch, rows, cut):
    monkeypatch.setattr(profiles, "_PROFILE_ROWS", rows)
    labels, given = blobs(cut), maps()
    found = all_profiles(labels, given, ORIGIN)
    assert len(found.labels) > 10
    np.testing.assert_array_equal(found.distances, np.arange(-12, 13))
    for at, label in enumerate(found.labels):
        for stride in (8, 4, 2, 1):
            alone = profile_alone(labels, int(label), given[f"aua_{stride}"])
            np.testing.assert_allclose(found.means(stride)[at], alone, atol=1e-5)


def test_columns_are_means_over_pixels_inside_on_and_outside_the_boundary():
    y, x = np.ogrid[:90, :90]
    labels = ((y - 45) ** 2 + (x - 45) ** 2 <= 20**2).astype(np.int32)
    distance = np.where(
        labels > 0,
        1 - ndimage.distance_transform_edt(labels),
        ndimage.distance_transform_edt(labels == 0),
    )
    psi = SimpleNamespace(values=distance, scale=(1.0, 1.0), translate=(0.0, 0.0))
    (row,) = all_profiles(labels, {"aua_4": psi}).columns().to_dict("records")
    for name, low, high in (
        ("inside", -12.5, -2.5), ("boundary", -2.5, 2.5), ("outside", 2.5, 12.5)
    ):  # fmt: skip
        wanted = distance[(distance > low) & (distance < high)].mean()
        assert row[f"psi_4_{name}"] == pytest.approx(wanted, abs=0.02)
    assert np.isnan(row["psi_8_inside"])  # no such map
    assert list(row)[:4] == ["label", "psi_8_inside", "psi_8_boundary", "psi_8_outside"]


def test_long_table_has_a_row_for_every_distance_with_pixels():
    labels = np.zeros(SHAPE, np.int32)
    labels[50, 60] = 4  # one pixel: nothing inside of it
    found = all_profiles(labels, maps())
    table = found.long()
    assert list(table) == ["label", "stride", "distance_px", "psi"]
    assert set(table["label"]) == {4}
    assert set(table["stride"]) == {8, 4, 2, 1}
    one = table[table["stride"] == 2]
    assert one["distance_px"].tolist() == list(range(13))
    np.testing.assert_array_equal(one["psi"], found.means(2)[0, 12:])
    assert np.isnan(found.columns()["psi_2_inside"][0])


def test_nothing_to_look_at():
    nothing = all_profiles(np.zeros(SHAPE, np.int32), maps())
    assert len(nothing.columns()) == len(nothing.long()) == 0
    everywhere = all_profiles(np.ones(SHAPE, np.int32), maps())  # no boundary
    assert everywhere.columns().drop(columns="label").isna().all(axis=None)
    without = all_profiles(blobs(False), {})
    assert without.columns()["psi_1_inside"].isna().all()
    assert list(without.long()) == ["label", "stride", "distance_px", "psi"]


@pytest.mark.parametrize("turns", range(4))
def test_what_is_as_far_from_another_object_is_of_neither(turns):
    """On whichever side, and as far as is looked: here below the gap between two."""
    labels = np.zeros(SHAPE, np.int32)
    labels[30:40, 40:50], labels[30:40, 51:60] = 1, 2
    labels = np.ascontiguousarray(np.rot90(labels, turns))
    given = {
        name: SimpleNamespace(
            values=np.rot90(one.values, turns), scale=one.scale, translate=one.translate
        )
        for name, one in maps().items()
    }
    found = all_profiles(labels, given, ORIGIN)
    for at, label in enumerate(found.labels):
        alone = profile_alone(labels, int(label), given["aua_1"])
        np.testing.assert_allclose(found.means(1)[at], alone, atol=1e-5)
