"""The whole loop with a simulated person: does a model learn from few corrected images?

A parent has seen fluorescence only. A person corrects its labels on 1, 3, 5 and 10 images of
stained tissue of the training split, through `edits` and commits; the parent learns from
them with a fixed number of steps. The children are scored on test images that no choice was
made on: AP@0.5 with default settings, object size estimated. Beside them, with 5 images:
plain fine-tuning of all weights without replay, and children of a person who looked at a
fifth of the objects only. Without the images of dsb2018 synthetic ones are used.

The parent is trained once, for about 12 minutes, and kept in the user's cache.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import platformdirs
import tifffile
from benchmarks.loop_person import Picture, Rest, correct
from benchmarks.tables import show

import napari_sa2net as sa2net
from napari_sa2net.config import FineTuneConfig, TrainConfig
from napari_sa2net.data import read_image, synthetic_nuclei
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.metrics import ImageScore, pool, score_image
from napari_sa2net.models import Model, load_model
from napari_sa2net.training.fine_tune import FineTuned, fine_tune
from napari_sa2net.training.train import train_folder

#: Fits three minutes on two processor cores that do nothing else.
STEPS = int(os.environ.get("SA2NET_BENCH_STEPS", 240))
#: Another one shows what is chance: it decides what is held back and which crops are seen.
SEED = int(os.environ.get("SA2NET_BENCH_SEED", 0))
#: Images that are corrected.
COUNTS = (1, 3, 5, 10)
AT = 5
LEARNING = FineTuneConfig(steps=STEPS, seed=SEED)
#: Everything that guards against forgetting and overfitting switched off.
PLAIN = FineTuneConfig(
    steps=STEPS,
    seed=SEED,
    rounds=1,
    replay=0,
    distillation=0,
    encoder_rate=1,
    decoder_first=0,
    freeze_norm=False,
    ema_decay=0,
)
PLAIN_RATES = (3e-4, 1e-3, 3e-3)
PARENT = TrainConfig(
    steps=1000,
    batch_size=4,
    crop=192,
    learning_rate=2e-3,
    ema_decay=0.995,
    seed=3,
    validate_every=500,
    max_validation_images=12,
)
#: Wanted: rise on stained tissue, fall on fluorescence, and what sparse review may cost.
RISE, FALL, SPARSE = 0.25, 0.02, 0.05


# --- images ------------------------------------------------------------------------------


class Images:
    """Training and test pictures by kind: of dsb2018, or synthetic ones."""

    def __init__(self) -> None:
        shared = os.environ.get("SA2NET_DATA") or Path(__file__).parents[2] / "shared"
        self.folder = Path(shared) / "data" / "dsb2018"
        self.real = (self.folder / "index.csv").is_file()
        self.name = "dsb2018" if self.real else "synthetic"

    def names(self, split: str, kind: str) -> list[str]:
        """Names of the pictures of a split and kind, sorted."""
        if not self.real:
            n = {"train": 12, "test": 6}[split]
            return [f"{split}-{kind}-{i}" for i in range(n)]
        with (self.folder / "index.csv").open(newline="") as file:
            rows = [r for r in csv.DictReader(file) if (r["split"], r["kind"]) == (split, kind)]
        return sorted(row["name"] for row in rows)

    def picture(self, split: str, name: str) -> Picture:
        """One picture with its truth."""
        if self.real:
            where = self.folder / split
            image, truth = (
                np.asarray(read_image(where / k / name).array) for k in ("images", "labels")
            )
            return Picture(Path(name).stem, image, truth)
        _, kind, number = name.split("-")
        seed = 5000 + int(number) + (100 if split == "test" else 0)
        look = "fluo" if kind == "fluo" else "stained"
        image, truth = synthetic_nuclei((256, 256), 45, 22, seed, look)  # type: ignore[arg-type]
        return Picture(name, image, truth)


def corrected_names(images: Images, n: int) -> list[str]:
    """The first n stained training images in a drawn order; more contain fewer."""
    names = images.names("train", "rgb")
    order = np.random.default_rng(11).permutation(len(names))
    return [names[i] for i in order[:n]]


# --- the parent --------------------------------------------------------------------------


def parent_model(images: Images) -> Model:
    """The model that has seen fluorescence only; trained at the first call."""
    settings = json.dumps([images.name, PARENT.model_dump(mode="json"), 1], sort_keys=True)
    key = hashlib.sha256(settings.encode()).hexdigest()[:12]
    cache = Path(platformdirs.user_cache_dir("napari-sa2net", appauthor=False)) / "bench"
    path = cache / f"fluo-{images.name}-{key}" / "fluo-only.safetensors"
    if not path.is_file():
        print("training the parent on fluorescence, once", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            _write_folder(images, Path(folder))
            train_folder(folder, "fluo-only", PARENT, out=path.parent)
    return load_model(path)


def _write_folder(images: Images, folder: Path) -> None:
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for name in images.names("train", "fluo"):
        picture = images.picture("train", name)
        tifffile.imwrite(folder / "images" / f"{picture.name}.tif", picture.image)
        tifffile.imwrite(
            folder / "labels" / f"{picture.name}.tif", picture.truth.astype(np.int32)
        )


# --- learning ----------------------------------------------------------------------------


def learn(
    images: Images,
    parent: Model,
    n: int,
    config: FineTuneConfig = LEARNING,
    share: float = 1.0,
    rest: Rest = "reviewed",
) -> FineTuned:
    """Correct n images, commit, learn."""
    with tempfile.TemporaryDirectory() as folder:
        training_set = TrainingSet.open(Path(folder) / "set", create=True)
        commits = []
        for i, name in enumerate(corrected_names(images, n)):
            picture = images.picture("train", name)
            predicted = sa2net.segment(picture.image, model=parent, table=False).labels
            commits.append(correct(picture, predicted, share, rest, seed=i))
        training_set.commit_all(commits)
        return fine_tune(training_set, parent, config, name="child", out=Path(folder) / "run")


# --- scoring -----------------------------------------------------------------------------


def scores(images: Images, model: Model) -> dict[str, list[ImageScore]]:
    """Of the test images, by kind."""
    out: dict[str, list[ImageScore]] = {}
    for kind in ("rgb", "fluo"):
        out[kind] = []
        for name in images.names("test", kind):
            picture = images.picture("test", name)
            labels = sa2net.segment(picture.image, model=model, table=False).labels
            out[kind].append(score_image(np.asarray(labels), picture.truth))
    return out


def gain(before: Sequence[ImageScore], after: Sequence[ImageScore]) -> str:
    """Difference of AP@0.5 with a 95 % bootstrap interval over the images."""
    rng = np.random.default_rng(0)

    def ap(some: Sequence[ImageScore]) -> float:
        return pool(some)["ap50"]

    draws = []
    for _ in range(500):
        picks = rng.integers(len(before), size=len(before))
        draws.append(ap([after[i] for i in picks]) - ap([before[i] for i in picks]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{ap(after) - ap(before):+.3f} ({low:+.3f} … {high:+.3f})"


def run() -> list[dict[str, object]]:
    """All children; one row each, in the order in which they are made."""
    images = Images()
    parent = parent_model(images)
    before = scores(images, parent)
    rows: list[dict[str, object]] = [
        _row("parent, fluorescence only", before, before, ""),
    ]
    print(f"{images.name}, {STEPS} steps", flush=True)

    def add(what: str, tuned: FineTuned, seconds: float) -> None:
        after = scores(images, tuned.model)
        rows.append(_row(what, before, after, f"{seconds:.0f}", tuned))
        print(*rows[-1].values(), sep="  ", flush=True)

    for n in COUNTS:
        start = time.process_time()
        tuned = learn(images, parent, n)
        add(f"{n} corrected", tuned, time.process_time() - start)
    best: tuple[float, FineTuned, float, float] | None = None
    for rate in PLAIN_RATES:
        start = time.process_time()
        tuned = learn(images, parent, AT, PLAIN.model_copy(update={"learning_rate": rate}))
        spent = time.process_time() - start
        if best is None or tuned.after.both > best[0]:
            best = (tuned.after.both, tuned, rate, spent)
    assert best is not None
    add(f"{AT} corrected, plain fine-tuning at {best[2]:g}", best[1], best[3])
    for rest in ("predicted", "unlabelled"):
        start = time.process_time()
        tuned = learn(images, parent, AT, LEARNING, 0.2, rest)  # type: ignore[arg-type]
        add(f"{AT} with a fifth reviewed, rest {rest}", tuned, time.process_time() - start)
    rows.append(
        {
            **dict.fromkeys(rows[0], ""),
            "model": f"wanted with {AT} corrected",
            "stained − parent": f"≥ +{RISE}",
            "fluorescence − parent": f"≥ −{FALL}",
            "verdict": f"a fifth reviewed within {SPARSE} of {AT} corrected",
        }
    )
    return rows


def _row(
    what: str,
    before: dict[str, list[ImageScore]],
    after: dict[str, list[ImageScore]],
    seconds: str,
    tuned: FineTuned | None = None,
) -> dict[str, object]:
    stained, fluo = (pool(after[kind]) for kind in ("rgb", "fluo"))
    return {
        "model": what,
        "stained AP": f"{stained['ap50']:.3f}",
        "stained − parent": gain(before["rgb"], after["rgb"]) if tuned else "",
        "fluorescence AP": f"{fluo['ap50']:.3f}",
        "fluorescence − parent": gain(before["fluo"], after["fluo"]) if tuned else "",
        "processor (s)": seconds,
        "verdict": tuned.verdict.text if tuned else "",
    }


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "parent":
        print(parent_model(Images()).path)
    else:
        show(run())
