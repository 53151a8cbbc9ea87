from __future__ import annotations

import os
from pathlib import Path

import pytest

from napari_sa2net.data.results import name_jobs


def names(*paths: str) -> list[str]:
    return [job.name for job in name_jobs([Path(path) for path in paths])]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("a.tif", "b.png"), ["a", "b"]),
        (("x.y.tif", "plate.ome.zarr", "c.OME.TIF"), ["x.y", "plate", "c"]),
        (("p1/a.tif", "p2/a.tif", "p2/b.tif"), ["p1_a", "p2_a", "b"]),
        (("p/a.tif", "p/a.png"), ["a_tif", "a_png"]),
        (("p/a.tif", "p/A.png"), ["a_tif", "A_png"]),
        (("p1/a.tif", "p1/a.png", "p2/a.tif"), ["p1_a_tif", "p1_a_png", "p2_a_tif"]),
        (("a.tif", "./a.tif"), ["a"]),
        (("x/p/a.tif", "y/p/a.tif"), ["x_p_a", "y_p_a"]),
        (("x/p/a.tif", "y/p/a.tif", "y/p/a.png"), ["x_p_a_tif", "y_p_a_tif", "y_p_a_png"]),
        (("p.zarr/A/1/0", "p.zarr/A/2/0", "p.zarr/B/1/0"), ["A_1_0", "A_2_0", "B_1_0"]),
        (("p.zarr/A/1/0", "q.ome.zarr/A/1/0"), ["p_A_1_0", "q_A_1_0"]),
        (("d/p.zarr/A/1/0",), ["A_1_0"]),
        ((os.fsdecode(b"caf\xe9.tif"),), ["café"]),
    ],
)
def test_every_input_gets_a_name_of_its_own(paths, expected):
    assert names(*paths) == expected


def test_a_refined_name_must_not_meet_another_input():
    # p1_a is what p1/a.tif would be called, and there is such a file.
    given = ("q/p1_a.tif", "p1/a.tif", "p2/a.tif")
    found = names(*given)
    assert len({name.casefold() for name in found}) == 3


def test_names_that_cannot_be_told_apart_are_numbered():
    assert names("p/a.tif", "p/A.TIF") == ["a_2", "A"]
    assert names("p/a.ome.tif", "p/a.tif") == ["a", "a_2"]
    assert names("p/a.tif", "p/a.ome.tif", "p/a_2.png") == ["a_3", "a", "a_2"]
