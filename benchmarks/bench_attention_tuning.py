"""Tuning the exponents of the attention maps alone, against fine-tuning of all weights.

A person corrects one picture of 512×512 pixels for a model that has seen fluorescence only, and
for the bundled one. Both ways of learning are timed, and their children are scored on test
images; the one image is divided into a part to learn from and a part to judge by.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.bench_loop import LEARNING, Images, corrected_names, gain, parent_model, scores
from benchmarks.loop_person import Picture, correct
from benchmarks.tables import show

import napari_sa2net as sa2net
from napari_sa2net.config import FineTuneConfig
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.metrics import pool
from napari_sa2net.models import Model, load_model
from napari_sa2net.training.fine_tune import FineTuned, fine_tune

SIDE = 512
#: Seconds that tuning attention may take on two processor cores.
LIMIT = 20
WAYS = {"attention only": FineTuneConfig(learn="attention"), "everything": LEARNING}


def picture(images: Images) -> Picture:
    """Stained training images side by side, cut to 512×512: none is as large by itself."""
    half = SIDE // 2
    parts = []
    for name in corrected_names(images, 1000):
        one = images.picture("train", name)
        if min(one.truth.shape) >= half:
            parts.append((one.image[:half, :half], one.truth[:half, :half].astype(np.int32)))
        if len(parts) == 4:
            break
    highest = 0
    for _, truth in parts:
        truth[truth > 0] += highest
        highest = int(truth.max(initial=highest))
    image, truth = (
        np.concatenate([np.concatenate(side[i : i + 2], axis=1) for i in (0, 2)])
        for side in zip(*parts, strict=True)
    )
    return Picture("four", image, truth)


def learn(parent: Model, one: Picture, config: FineTuneConfig) -> tuple[FineTuned, float]:
    """The child of one corrected image, and the seconds it took."""
    labels = sa2net.segment(one.image, model=parent, table=False).labels
    with tempfile.TemporaryDirectory() as folder:
        training_set = TrainingSet.open(Path(folder) / "set", create=True)
        training_set.commit_all([correct(one, labels)])
        start = time.perf_counter()
        tuned = fine_tune(training_set, parent, config, name="c", out=Path(folder) / "run")
        return tuned, time.perf_counter() - start


def run() -> list[dict[str, object]]:
    """One row for each parent, and for each of its children."""
    images = Images()
    one = picture(images)
    rows: list[dict[str, object]] = []
    for parent in (parent_model(images), load_model("nuclei")):
        before = scores(images, parent)
        children = {way: learn(parent, one, config) for way, config in WAYS.items()}
        whole = children["everything"][1]
        for way, (tuned, seconds) in children.items():
            after = scores(images, tuned.model)
            gamma = tuned.model.card.network.gamma
            limit = f" (≤ {LIMIT})" if way == "attention only" else ""
            rows.append(
                {
                    "parent": parent.name,
                    "learns": way,
                    "stained AP": f"{pool(before['rgb'])['ap50']:.3f}",
                    "stained − parent": gain(before["rgb"], after["rgb"]),
                    "fluorescence − parent": gain(before["fluo"], after["fluo"]),
                    "γ of ψ 1/8 … full": " ".join(f"{g:.2f}" for g in gamma),
                    "seconds": f"{seconds:.1f}{limit}",
                    "of everything's": f"{seconds / whole:.2f}",
                    "verdict": tuned.verdict.text,
                }
            )
    return rows


if __name__ == "__main__":
    show(run())
