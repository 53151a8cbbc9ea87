"""The bundled model on images it has not seen: found, and found the same in tiles."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import napari_sa2net as sa2net
from napari_sa2net.data import read_image, samples, synthetic_nuclei
from napari_sa2net.models import load_model


@pytest.fixture(scope="module")
def nuclei():
    return load_model("nuclei")


def test_the_card_says_how_it_was_made(nuclei):
    card = nuclei.card
    assert card.classes == ("background", "interior", "boundary", "distance")
    assert card.diameter is not None
    assert "sa2net train" in card.training["command"]
    assert card.licence
    assert {"validation", "test: all"} <= set(card.scores)


def test_synthetic_nuclei_are_found(nuclei):
    image, truth = synthetic_nuclei((384, 384), n=60, diameter=22, seed=5)
    result = sa2net.segment(image, model=nuclei)
    scores = sa2net.evaluate(result.labels, truth)
    assert scores["ap50"] > 0.8
    assert scores["dice"] > 0.85
    assert len(result.objects) == result.labels.max()


#: Nuclei of the sample of stained tissue, seen by eye.
SEEN = [
    *[(7, 259), (15, 323), (25, 240), (34, 134), (33, 251), (37, 118), (39, 253), (53, 128)],
    *[(58, 181), (60, 333), (80, 159), (81, 343), (91, 184), (102, 338), (107, 161)],
    *[(107, 207), (110, 194), (143, 226)],
]


def test_the_sample_of_stained_tissue_is_one_that_it_can_do(nuclei):
    result = sa2net.segment(samples.tissue().array, model=nuclei)
    assert 7 < result.diameter < 13
    found = {int(result.labels[at]) for at in SEEN} - {0}
    assert len(found) >= 0.85 * len(SEEN)
    assert 60 < len(result.objects) < 160
    assert result.objects.confidence.mean() > 0.95


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_object_size_is_estimated(nuclei, factor):
    image, _ = synthetic_nuclei((384, 384), n=int(60 / factor**2), diameter=22 * factor, seed=6)
    result = sa2net.segment(image, model=nuclei)
    assert result.diameter == pytest.approx(22 * factor, rel=0.3)


def test_tiles_and_fast_mode_agree_with_the_whole_in_float32(nuclei):
    image, _ = synthetic_nuclei((640, 640), n=150, seed=7)
    whole = sa2net.segment(image, model=nuclei, diameter=nuclei.diameter, precision="float32")
    tiles = sa2net.segment(
        image, model=nuclei, diameter=nuclei.diameter, precision="float32", tile=384
    )
    fast = sa2net.segment(image, model=nuclei, diameter=nuclei.diameter)
    assert whole.n_tiles == 1 < tiles.n_tiles
    assert np.abs(whole.probability - tiles.probability).max() <= 1e-3
    assert np.abs(whole.probability - fast.probability).max() <= 0.03


def test_held_out_images_of_all_kinds(nuclei, shared_dir):
    folder = shared_dir / "data" / "dsb2018"
    with (folder / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    chosen = []
    for kind, most in (("fluo", 5), ("rgb", 3)):
        small = (r for r in rows if r["kind"] == kind and int(r["height"]) <= 360)
        chosen += list(small)[:most]
    labels, truth = [], []
    for row in chosen:
        name = row["name"].removesuffix(".tif") + ".tif"
        image = read_image(folder / "test" / "images" / name)
        labels.append(np.asarray(sa2net.segment(image.array, model=nuclei).labels))
        truth.append(np.asarray(read_image(folder / "test" / "labels" / name).array))
    scores = sa2net.evaluate(labels, truth)
    assert scores["ap50"] > 0.6
    assert scores["dice"] > 0.8
