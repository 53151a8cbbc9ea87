"""Which loss should learning from corrections use? Not part of ``make bench``: it takes long.

As in the loop's benchmark a model that has seen fluorescence only learns from five corrected
images of stained tissue, here with each loss, and over several draws of images and seeds.
The same draws serve all losses, so differences are paired. Children are scored on training
images that nobody corrected (to choose by) and on test images (to report).

    python -m benchmarks.study_losses [--draws 3] [--steps 240] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.bench_loop import AT, STEPS, Images, parent_model
from benchmarks.loop_person import correct
from benchmarks.tables import show

import napari_sa2net as sa2net
from napari_sa2net.config import FineTuneConfig, UnifiedFocalConfig
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.metrics import pool, score_image
from napari_sa2net.models import Model
from napari_sa2net.training.fine_tune import fine_tune
from napari_sa2net.training.focal_study.statistics import t_interval

#: Stained and fluorescent training images that no draw corrects and no parent learned from.
TO_CHOOSE_BY = 20


def losses() -> dict[str, dict[str, object]]:
    """Settings of each loss by name; the first is what the others are compared with."""
    unified: dict[str, dict[str, float]] = {
        "unified focal, γ 0.5": {},
        "unified focal, γ 0.2": {"gamma": 0.2},
        "unified focal, γ 0.5, γ_d 1": {"distance_gamma": 1.0},
    }
    return {
        "Dice + cross-entropy": {},
        **{
            name: {"loss": "unified_focal", "unified_focal": UnifiedFocalConfig(**said)}
            for name, said in unified.items()
        },
    }


def stained_names(images: Images, draw: int) -> tuple[list[str], list[str]]:
    """Five to correct, and those to choose by, which are the same in every draw."""
    names = images.names("train", "rgb")
    order = np.random.default_rng(11).permutation(len(names))
    kept = [names[i] for i in order[-TO_CHOOSE_BY:]]
    pool_ = [names[i] for i in order[:-TO_CHOOSE_BY]]
    drawn = np.random.default_rng(100 + draw).permutation(len(pool_))[:AT]
    return [pool_[i] for i in drawn], kept


def ap50(images: Images, model: Model, split: str, names: list[str]) -> float:
    """AP at an overlap of half, over all images together."""
    found = []
    for name in names:
        picture = images.picture(split, name)
        labels = sa2net.segment(picture.image, model=model, table=False).labels
        found.append(score_image(np.asarray(labels), picture.truth))
    return float(pool(found)["ap50"])


def run(draws: int, steps: int) -> list[dict[str, object]]:
    """One row for each loss and draw: changes against the parent."""
    images = Images()
    parent = parent_model(images)
    asked = {
        "stained, to choose by": ("train", stained_names(images, 0)[1]),
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
        for loss, said in losses().items():
            config = FineTuneConfig(steps=steps, seed=draw, **said)
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
            rows.append({"loss": loss, "draw": draw, **changes, "seconds": round(seconds)})
            print(rows[-1], flush=True)
    return rows


def summary(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Means over the draws, and paired differences to the first loss with 95 % t-intervals."""
    out = []
    names = list(losses())
    columns = [c for c in rows[0] if c not in ("loss", "draw", "seconds")]
    for name in names:
        line: dict[str, object] = {"loss": name}
        for column in columns:
            own, first = (
                np.array([float(r[column]) for r in rows if r["loss"] == n])  # type: ignore[arg-type]
                for n in (name, names[0])
            )
            line[column] = f"{own.mean():+.3f}"
            if name != names[0]:
                _, low, high = t_interval(own - first)
                line[column] = f"{line[column]} (Δ {low:+.3f} … {high:+.3f})"
        out.append(line)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    found = run(given.draws, given.steps)
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
    show(summary(found))
