"""Is the time of a person better spent on the images that a model doubts most?

The bundled model segments the test images of dsb2018 and those of sources that it never saw
(`data/probes`), each source as a folder of images in the window would be; of large images the
middle. "Most worth your time next" then orders them by the expected number of wrong and missed
cells, as the window does. Printed are, for the first 5 images in that order against 5 at
random:

- found: the share of all wrong and missed cells of the folder that lie in them;
- wrong: the share of their own cells that are wrong or missed.

A cell is wrong when no true one overlaps it with an IoU of 0.5 or more, and a true one is
missed likewise. Folders of up to 20 images are drawn from each source and from all together;
intervals are of 95 %, by bootstrap over the images. The order was chosen on other images.

With --learn, which takes hours, a model learns from the 5 images (wholly labelled), in that
order and at random, three seeds each, and AP@0.5 on the images of the source that were not
offered is printed.

    python -m benchmarks order
    python -m benchmarks.bench_order --learn SOURCE [--steps 240]
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from benchmarks.bench_review import best_iou
from benchmarks.tables import show
from numpy.typing import NDArray

import napari_sa2net as sa2net
from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data import read_image
from napari_sa2net.data.write import write_image
from napari_sa2net.inference.batch import expected_wrong
from napari_sa2net.metrics import pool, score_image
from napari_sa2net.models import Model
from napari_sa2net.training.fine_tune import fine_tune

FIRST = 5
FOLDER = 20
RESAMPLES = 500
SEEDS = (0, 1, 2)
#: Fewest images of a kind of which folders are drawn.
FEWEST = 8


#: Of larger images the middle is looked at (px).
SIDE = 512


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with its truth, as files."""

    source: str
    image: Path
    labels: Path

    def read(self) -> tuple[NDArray[Any], str, NDArray[np.int64]]:
        """The middle of the image, its axes, and the truth, its cells numbered anew."""
        file = read_image(self.image)
        truth = np.asarray(read_image(self.labels).array)
        cut = tuple(slice(max(0, (n - SIDE) // 2), (n + SIDE) // 2) for n in truth.shape)
        whole = (slice(None),)
        at = {"YX": cut, "YXC": (*cut, *whole), "CYX": (*whole, *cut)}[file.axes]
        numbers, places = np.unique(np.append(0, truth[cut]), return_inverse=True)
        del numbers
        numbered = places[1:].reshape(truth[cut].shape).astype(np.int64)
        return np.asarray(file.array[at]), file.axes, numbered


@dataclass(frozen=True, eq=False)
class Looked:
    """An image as the model segments it: the doubt, and the truth about it."""

    source: str
    picture: Picture
    doubt: float
    bad: int
    cells: int


def data() -> Path:
    """Folder of the images."""
    shared = Path(os.environ.get("SA2NET_DATA") or Path(__file__).parents[2] / "shared")
    return shared / "data"


def pictures() -> list[Picture]:
    """Test images of dsb2018 by kind, and the probes by source."""
    found = []
    dsb, probes = data() / "dsb2018", data() / "probes"
    if dsb.is_dir():
        with (dsb / "index.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
        for row in rows:
            at = (dsb / "test" / part / row["name"] for part in ("images", "labels"))
            found.append(Picture(f"dsb2018 {row['kind']}", *at))
    if probes.is_dir():
        with (probes / "index.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                folder = probes / row["source"]
                at = (folder / part / row["name"] for part in ("images", "labels"))
                found.append(Picture(row["source"], *at))
    return found


def look(model: Model, picture: Picture) -> Looked:
    """Segment an image, and count what is wrong."""
    image, axes, truth = picture.read()
    result = sa2net.segment(image, model=model, axes=axes)
    labels = np.asarray(result.labels)
    wrong = unmatched(labels, truth)
    missed = unmatched(truth.astype(np.int32), labels.astype(np.int64))
    cells = np.unique(truth[truth > 0]).size + wrong
    doubt = expected_wrong(result, model)
    return Looked(picture.source, picture, doubt, wrong + missed, cells)


def unmatched(labels: NDArray[np.int32], others: NDArray[np.int64]) -> int:
    """How many labels overlap with no other one by half."""
    own = np.unique(labels[labels > 0])
    if not own.size or not others.any():
        return int(own.size)
    return int(np.count_nonzero(best_iou(labels, others)[own] < 0.5))


def gains(images: list[Looked], random: np.random.Generator) -> tuple[float, ...]:
    """Found and wrong of the first images in the order, and of as many at random."""
    first = sorted(images, key=lambda one: -one.doubt)[:FIRST]
    bad, cells = (np.array([getattr(one, n) for one in images]) for n in ("bad", "cells"))
    all_bad = max(1, int(bad.sum()))
    drawn = [random.permutation(len(images))[:FIRST] for _ in range(20)]
    return (
        sum(one.bad for one in first) / all_bad,
        float(np.mean([bad[d].sum() for d in drawn])) / all_bad,
        sum(one.bad for one in first) / max(1, sum(one.cells for one in first)),
        float(np.mean([bad[d].sum() / max(1, cells[d].sum()) for d in drawn])),
    )


def row_of(name: str, images: list[Looked]) -> tuple[dict[str, object], float]:
    """A row of the table, and how much more is found than at random."""
    random = np.random.default_rng(0)
    n = min(FOLDER, len(images))
    found = np.array(
        [
            gains([images[i] for i in random.integers(0, len(images), n)], random)
            for _ in range(RESAMPLES)
        ]
    )
    ours, by_chance, wrong, wrong_by_chance = found.mean(axis=0)
    low, high = np.quantile(found[:, 0] - found[:, 1], (0.025, 0.975))
    worst, best = np.quantile(found[:, 2] - found[:, 3], (0.025, 0.975))
    row: dict[str, object] = {
        "images": name,
        "n": len(images),
        "first": f"{FIRST} of {n}",
        "found": f"{ours:.2f}",
        "at random": f"{by_chance:.2f}",
        "gain (95 %)": f"{low:+.2f} … {high:+.2f}",
        "wrong there": f"{wrong:.2f}",
        "wrong at random": f"{wrong_by_chance:.2f}",
        "gain of it (95 %)": f"{worst:+.2f} … {best:+.2f}",
    }
    return row, float(ours - by_chance)


def learned(source: str, steps: int) -> list[dict[str, object]]:
    """AP@0.5 on images that are left out, after learning from 5 images of a source."""
    model = sa2net.load_model("nuclei")
    every = [picture for picture in pictures() if picture.source == source]
    rows: list[dict[str, object]] = []
    for seed in SEEDS:
        order = [every[i] for i in np.random.default_rng(seed).permutation(len(every))]
        # two thirds are offered, and the rest judges
        n = max(FIRST + 1, 2 * len(order) // 3)
        offered, left_out = order[:n], order[n:]
        looked = sorted((look(model, one) for one in offered), key=lambda one: -one.doubt)
        before = ap50(model, left_out)
        for words, chosen in (
            ("doubt", [one.picture for one in looked[:FIRST]]),
            ("random", offered[:FIRST]),
        ):
            after = ap50(taught(chosen, steps, seed), left_out)
            row: dict[str, object] = {"seed": seed, "order": words, "left out": len(left_out)}
            rows.append({**row, "before": f"{before:.3f}", "after": f"{after:.3f}"})
            print(rows[-1], flush=True)
    return rows


def taught(chosen: list[Picture], steps: int, seed: int) -> Model:
    """The bundled model after learning from wholly labelled images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("images", "labels"):
            (folder / part).mkdir()
        for picture in chosen:
            image, axes, truth = picture.read()
            write_image(folder / "images" / f"{picture.image.stem}.tif", image, axes)
            labels = truth.astype(np.uint16)
            tifffile.imwrite(folder / "labels" / f"{picture.image.stem}.tif", labels)
        config = FineTuneConfig(steps=steps, seed=seed)
        made = fine_tune(folder, "nuclei", config, out=folder / "run", promote=False)
        return sa2net.load_model(made.path)


def ap50(model: Model, some: list[Picture]) -> float:
    """AP at an overlap of half, over all images together."""
    scores = []
    for picture in some:
        image, axes, truth = picture.read()
        result = sa2net.segment(image, model=model, axes=axes, table=False)
        scores.append(score_image(np.asarray(result.labels), truth))
    return float(pool(scores)["ap50"])


def main() -> int:
    """Measure on the images that are there; 1 where the order gains nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learn", metavar="SOURCE", default="")
    parser.add_argument("--steps", type=int, default=240)
    said = parser.parse_args()
    found = pictures()
    if not found:
        print(f"no images at {data()} (set SA2NET_DATA)")
        return 0
    if said.learn:
        show(learned(said.learn, said.steps))
        return 0
    model = sa2net.load_model("nuclei")
    images: list[Looked] = []
    rows = []
    for source in dict.fromkeys(picture.source for picture in found):
        some = [look(model, one) for one in found if one.source == source]
        images += some
        if len(some) >= FEWEST:
            rows.append(row_of(source, some)[0])
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    last, gained = row_of("all", images)
    bad, cells = sum(one.bad for one in images), sum(one.cells for one in images)
    print(f"{len(images)} images; {bad} of {cells} cells are wrong or missed")
    show([*rows, last])
    return 0 if gained > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
