"""Which loss, and how much of the old answers, should learning from corrections use?

As in the loop's benchmark a model that has seen fluorescence only learns from five corrected
images of stained tissue, here in several ways, and over several draws of images and seeds.
The same draws serve all ways, so differences are paired. Children are scored on images of the
training split that nobody corrected (to choose by; of the fluorescent ones only such as the
parent did not learn from) and, with --test, on test images (to report). It is not part of
``make bench``, as it takes long.

    python -m benchmarks.study_learning [--draws 3] [--only NAME …] [--test] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.bench_loop import AT, PARENT, STEPS, Images, parent_model
from benchmarks.loop_person import correct
from benchmarks.tables import show

import napari_sa2net as sa2net
from napari_sa2net.config import FineTuneConfig, UnifiedFocalConfig
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.training_set import TrainingItem, split_items
from napari_sa2net.experiments.focal_study.report import t_interval
from napari_sa2net.metrics import pool, score_image
from napari_sa2net.models import Model
from napari_sa2net.training.fine_tune import fine_tune

#: Images of each kind to choose by.
TO_CHOOSE_BY = 20
UNIFIED = {"loss": "unified_focal"}
#: Ways to learn by name; the first is what the others are compared with.
WAYS: dict[str, dict[str, object]] = {
    "default": {},
    "unified": UNIFIED,
    "answers 6": {"distillation": 6.0},
    "unified γ 0.2": {**UNIFIED, "unified_focal": UnifiedFocalConfig(gamma=0.2)},
    "unified γ_d 1": {**UNIFIED, "unified_focal": UnifiedFocalConfig(distance_gamma=1.0)},
}


def stained_names(images: Images, draw: int) -> tuple[list[str], list[str]]:
    """Five to correct, and those to choose by, which are the same in every draw."""
    names = images.names("train", "rgb")
    order = np.random.default_rng(11).permutation(len(names))
    kept = [names[i] for i in order[-TO_CHOOSE_BY:]]
    pool_ = [names[i] for i in order[:-TO_CHOOSE_BY]]
    drawn = np.random.default_rng(100 + draw).permutation(len(pool_))[:AT]
    return [pool_[i] for i in drawn], kept


def unseen_fluorescent(images: Images) -> list[str]:
    """Training images that validated the parent: its training divides the same way."""
    items = [
        TrainingItem(Path(name).stem, Path(name), Path(name))
        for name in images.names("train", "fluo")
    ]
    _, validation = split_items(items, PARENT.validation_fraction, PARENT.seed)
    return sorted(str(item.image) for item in validation)[:TO_CHOOSE_BY]


def ap50(images: Images, model: Model, split: str, names: list[str]) -> float:
    """AP at an overlap of half, over all images together."""
    found = []
    for name in names:
        picture = images.picture(split, name)
        labels = sa2net.segment(picture.image, model=model, table=False).labels
        found.append(score_image(np.asarray(labels), picture.truth))
    return float(pool(found)["ap50"])


def run(draws: int, names: list[str], test: bool) -> list[dict[str, object]]:
    """One row for each way and draw: changes against the parent."""
    images = Images()
    parent = parent_model(images)
    asked = {
        "stained, to choose by": ("train", stained_names(images, 0)[1]),
        "fluorescence, to choose by": ("train", unseen_fluorescent(images)),
    }
    if test:
        asked |= {
            "stained, test": ("test", images.names("test", "rgb")),
            "fluorescence, test": ("test", images.names("test", "fluo")),
        }
    before = {what: ap50(images, parent, *where) for what, where in asked.items()}
    print({what: round(value, 3) for what, value in before.items()}, flush=True)
    rows = []
    for draw in range(draws):
        commits = []
        for i, name in enumerate(stained_names(images, draw)[0]):
            picture = images.picture("train", name)
            predicted = sa2net.segment(picture.image, model=parent, table=False).labels
            commits.append(correct(picture, predicted, seed=i))
        for way in names:
            config = FineTuneConfig(steps=STEPS, seed=draw, **WAYS[way])
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                training_set = TrainingSet.open(Path(folder) / "set", create=True)
                training_set.commit_all(commits)
                tuned = fine_tune(
                    training_set, parent, config, name="child", out=Path(folder) / "run"
                )
                seconds = time.perf_counter() - start
                changes = {
                    what: ap50(images, tuned.model, *where) - before[what]
                    for what, where in asked.items()
                }
            rows.append({"way": way, "draw": draw, **changes, "seconds": round(seconds)})
            print(rows[-1], flush=True)
    return rows


def summary(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Means over the draws, and paired differences to the first way with 95 % t-intervals."""
    out = []
    names = list(dict.fromkeys(str(row["way"]) for row in rows))
    for name in names:
        line: dict[str, object] = {"way": name}
        for column in (c for c in rows[0] if c not in ("way", "draw", "seconds")):
            own, first = (
                np.array([float(r[column]) for r in rows if r["way"] == n])  # type: ignore[arg-type]
                for n in (name, names[0])
            )
            line[column] = f"{own.mean():+.3f}"
            if name != names[0] and len(own) > 1:
                _, low, high = t_interval(own - first)
                line[column] = f"{line[column]} (Δ {low:+.3f} … {high:+.3f})"
        out.append(line)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    found = run(given.draws, given.only, given.test)
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
    show(summary(found))
