"""Are wrong objects found sooner in the order of doubt than at random, or by size?

The bundled model segments the test images of dsb2018. An object is wrong when no true one
overlaps it with an IoU of 0.5 or more. A person who goes through the objects one by one has
found, after any share of them, some share of the wrong ones: the area under that curve is
0.5 at random. It is shown for one queue over all images, and for a queue of each image by
itself (mean over the images with wrong objects, as a person works). Intervals are of 95 %,
by bootstrap over the images.

True objects that no object covers are in no queue, so they count for no order; how many
there are is printed. The score was chosen on images of the training split alone.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.tables import show
from numpy.typing import NDArray

from napari_sa2net.data import read_image
from napari_sa2net.edits import Corrections, ReviewQueue

#: Gain of the area over a random order that is wanted.
WANTED = 0.10
RESAMPLES = 2000

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Objects of one image: scores of each order, and whether they are wrong."""

    orders: dict[str, Scores]
    wrong: NDArray[np.bool_]
    missed: int
    truth: int


def table(images: list[Scored]) -> list[dict[str, object]]:
    """One row per order."""
    rows: list[dict[str, object]] = []
    for order in images[0].orders:
        row: dict[str, object] = {"order": order}
        for name, area in QUEUES.items():
            row[name] = f"{area(images, order):.3f}"
            row[f"{name} − random"] = in_words(interval(images, order, area))
            if order != "doubt":
                row[f"doubt − this, {name}"] = in_words(interval(images, "doubt", area, order))
        rows.append(row)
    rows.append({"order": "random (expected)", **dict.fromkeys(QUEUES, "0.500")})
    wanted = f"≥ {0.5 + WANTED:.3f}"
    rows.append({"order": "wanted of doubt", **dict.fromkeys(QUEUES, wanted)})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in columns} for row in rows]


def in_words(bounds: tuple[float, float]) -> str:
    """An interval."""
    return f"{bounds[0]:+.3f} … {bounds[1]:+.3f}"


def test_names(folder: Path) -> list[str]:
    """Files of the test split."""
    with (folder / "index.csv").open(newline="") as file:
        return [row["name"] for row in csv.DictReader(file) if row["split"] == "test"]


def segmented(folder: Path, name: str) -> Scored:
    """Segment one image and score its objects."""
    import napari_sa2net as sa2net
    from napari_sa2net.inference.instances import foreground_probability

    file = read_image(folder / "test" / "images" / name)
    truth = np.asarray(read_image(folder / "test" / "labels" / name).array)
    model = sa2net.load_model("nuclei")
    result = sa2net.segment(file.array, model=model, axes=file.axes, table=False)
    foreground = foreground_probability(np.asarray(result.probability), model.card.classes)
    return scored(np.asarray(result.labels), foreground, truth.astype(np.int64))


def scored(
    labels: NDArray[np.int32], foreground: NDArray[np.floating], truth: NDArray[np.int64]
) -> Scored:
    """Score the objects of one image."""
    corrections = Corrections(labels)
    plane = corrections.plane()
    queue = ReviewQueue(corrections, foreground=foreground).score_all()
    doubts = [queue.doubt(label) for label in plane.labels.tolist()]
    areas = plane.areas.astype(float)
    found = np.unique(truth[labels > 0])
    return Scored(
        {
            "doubt": np.array([d.score for d in doubts if d is not None]),
            "smallest first": -areas,
            "largest first": areas,
        },
        best_iou(labels, truth)[plane.labels] < 0.5,
        missed=np.setdiff1d(truth, np.append(found, 0)).size,
        truth=np.unique(truth[truth > 0]).size,
    )


def best_iou(labels: NDArray[np.int32], truth: NDArray[np.int64]) -> Scores:
    """Largest IoU of each label with any true object, by label."""
    n = int(truth.max()) + 1
    pairs, shared = np.unique(labels.astype(np.int64) * n + truth, return_counts=True)
    mine, theirs = pairs // n, pairs % n
    both = (mine > 0) & (theirs > 0)
    mine, theirs, shared = mine[both], theirs[both], shared[both]
    size_mine, size_theirs = np.bincount(labels.ravel()), np.bincount(truth.ravel())
    best = np.zeros(size_mine.size)
    np.maximum.at(best, mine, shared / (size_mine[mine] + size_theirs[theirs] - shared))
    return best


def curve_area(scores: Scores, wrong: NDArray[np.bool_]) -> float:
    """Area under the found-errors curve; wrong objects among equal scores share places."""
    _, which, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2)[which]
    return float(1 - (ranks[wrong] / scores.size).mean())


def pooled(images: list[Scored], order: str) -> float:
    """Area of one queue over all images."""
    return curve_area(
        np.concatenate([image.orders[order] for image in images]),
        np.concatenate([image.wrong for image in images]),
    )


def per_image(images: list[Scored], order: str) -> float:
    """Mean area over the images that have wrong objects."""
    return float(
        np.mean([curve_area(i.orders[order], i.wrong) for i in images if i.wrong.any()])
    )


QUEUES: dict[str, Callable[[list[Scored], str], float]] = {
    "one queue": pooled,
    "queue per image": per_image,
}


def interval(
    images: list[Scored],
    order: str,
    area: Callable[[list[Scored], str], float],
    against: str | None = None,
) -> tuple[float, float]:
    """95 % interval of the gain of an order over another one, or over a random order."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = [images[i] for i in random.integers(0, len(images), len(images))]
        if any(image.wrong.any() for image in drawn):
            found.append(area(drawn, order) - (area(drawn, against) if against else 0.5))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def report(images: list[Scored]) -> int:
    """Print what was found; 1 where the order of doubt gains too little, else 0."""
    n = sum(image.wrong.size for image in images)
    wrong = sum(int(image.wrong.sum()) for image in images)
    print(f"{len(images)} images, {n} objects, {wrong} of them wrong;")
    missed, truth = sum(image.missed for image in images), sum(i.truth for i in images)
    print(f"{missed} of {truth} true objects have no object at all and are in no queue")
    show(table(images))
    enough = all(
        area(images, "doubt") >= 0.5 + WANTED and interval(images, "doubt", area)[0] > 0
        for area in QUEUES.values()
    )
    return 0 if enough else 1


def main() -> int:
    """Measure on the test images, where they are."""
    shared = Path(os.environ.get("SA2NET_DATA") or Path(__file__).parents[2] / "shared")
    folder = shared / "data" / "dsb2018"
    if not folder.is_dir():
        print(f"no images at {folder} (set SA2NET_DATA)")
        return 0
    return report([segmented(folder, name) for name in test_names(folder)])


if __name__ == "__main__":
    sys.exit(main())
