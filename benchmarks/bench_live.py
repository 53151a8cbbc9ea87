"""Live: what does one wave of learning bring to the cells that nobody has reviewed?

A simulated person puts right some cells of an image, every fourth of which is held back; a wave
learns from the others and proposes the rest anew. AP at an overlap of half is that of what was
not reviewed, before and after, and of another image of the source that nobody has touched. With
`--choose` on images that models may be trained on (settings are chosen by these), else on the
probes, which nothing was chosen by. A wave that what is held back speaks against is not shown,
as on the page.

    python -m benchmarks live
    python -m benchmarks.bench_live [--choose] [--cells 20] [--seeds 3] [NAME=VALUE …]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.loop_person import _put_right
from benchmarks.study_click import rows
from benchmarks.tables import show
from benchmarks.training_data import DATA
from numpy.typing import NDArray

import napari_sa2net as sa2net
from napari_sa2net import edits
from napari_sa2net.app.live import HOLD, JUDGES, WORSE
from napari_sa2net.config import LiveConfig
from napari_sa2net.data import read_image
from napari_sa2net.errors import NothingToEditError
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import plan_for, predict_image
from napari_sa2net.metrics import ImageScore, pool, score_image
from napari_sa2net.models import Model
from napari_sa2net.training.compare import HeldBack
from napari_sa2net.training.live import LivePlane

SIDE = 400


@dataclass
class Picture:
    """An image with its truth."""

    image: NDArray[Any]
    truth: NDArray[np.int32]


def pictures(folder: str, images: int) -> dict[str, list[Picture]]:
    """The middle of some images of each source, and of one more."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows(DATA / folder / "index.csv"):
        found[f"{row['source']} {row['kind']}"].append(row["name"])
    out = {}
    for source, names in sorted(found.items()):
        some = names[:: max(1, len(names) // (images + 1))][: images + 1]
        out[source] = [_picture(DATA / folder / source.split()[0], name) for name in some]
    return out


def _picture(folder: Any, name: str) -> Picture:
    image, truth = (
        np.asarray(read_image(folder / part / name).array) for part in ("images", "labels")
    )
    y, x = ((n - min(n, SIDE)) // 2 for n in truth.shape)
    cut = np.s_[y : y + SIDE, x : x + SIDE]
    return Picture(image[cut], truth[cut].astype(np.int32))


def rest(labels: NDArray[Any], truth: NDArray[Any], seen: NDArray[Any]) -> ImageScore:
    """Score without the true cells that were reviewed, and what lies mostly on them."""
    on = np.isin(truth, seen)
    areas = np.bincount(labels.ravel())
    inside = np.bincount(labels[on].ravel(), minlength=areas.size)
    mostly = np.flatnonzero(2 * inside > areas)
    return score_image(np.where(np.isin(labels, mostly), 0, labels), np.where(on, 0, truth))


@dataclass
class Outcome:
    """Of one wave."""

    before: ImageScore
    after: ImageScore
    other: tuple[ImageScore, ImageScore]
    shown: bool
    seconds: float


def wave(
    model: Model, picture: Picture, other: Picture, cells: int, seed: int, config: LiveConfig
) -> Outcome | None:
    """Correct some cells, learn, propose; None where there are too few."""
    predictor = Predictor(model)
    plan = plan_for(model, picture.image)
    truth, rng = picture.truth, np.random.default_rng(seed)
    plane = LivePlane(predictor, plan, ())
    first = np.asarray(predict_image(model, plan, predictor=predictor).labels(plane.instances))
    numbers = np.unique(truth)[1:]
    if numbers.size < 12:
        return None
    seen = rng.permutation(numbers)[: min(cells, numbers.size // 2)]
    corrections = edits.Corrections(np.array(first, np.int32))
    history = edits.History(corrections)
    for number in seen:
        _put_right(corrections, history, truth == number)
    held = []
    for number in seen[HOLD - 1 :: HOLD]:
        at = np.argwhere(truth == number)
        (y0, x0), (y1, x1) = at.min(0), at.max(0) + 1
        held.append(HeldBack((int(y0), int(x0)), truth[y0:y1, x0:x1] == number))
    labels = corrections.labels
    stays = np.isin(labels, list(corrections.marked()))
    for region in corrections.regions_of(()):
        stays |= region.mask((0, stays.shape[0], 0, stays.shape[1]))
    start = time.perf_counter()
    made = plane.wave(
        labels, edits.reviewed_mask(corrections), stays, judged=held, config=config
    )
    seconds = time.perf_counter() - start
    before = rest(labels, truth, seen)
    shown = made.n_judged < JUDGES or made.after >= made.before - WORSE
    if shown:
        since = edits.Snapshot.of(corrections, ())
        with contextlib.suppress(NothingToEditError):
            history.do(edits.proposal(corrections, (), made.patch, "wave", since)[0])
    segmented = [
        np.asarray(sa2net.segment(other.image, model=one, table=False).labels)
        for one in (model, made.model)
    ]
    others = [score_image(one, other.truth) for one in segmented]
    return Outcome(before, rest(labels, truth, seen), (others[0], others[1]), shown, seconds)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    given = parser.parse_args()
    if not DATA.is_dir():
        print("no images to score on (set SA2NET_DATA)")
        return 0
    settings = dict(one.split("=", 1) for one in given.settings)
    model = sa2net.load_model(given.model)
    table = []
    gains = []
    for source, some in pictures("more" if given.choose else "probes", given.images).items():
        *learned, other = some
        by_seed = []
        for seed in range(given.seeds):
            config = LiveConfig.model_validate({"seconds": 1e6, **settings, "seed": seed})
            made = [wave(model, one, other, given.cells, seed, config) for one in learned]
            by_seed += [[one for one in made if one is not None]]
        outcomes = [one for made in by_seed for one in made]
        if not outcomes:
            continue

        def ap(scores: list[ImageScore]) -> float:
            return float(pool(scores)["ap50"])

        per_seed = [
            ap([o.after for o in made]) - ap([o.before for o in made]) for made in by_seed
        ]
        gains += per_seed
        table.append(
            {
                "source": source,
                "waves": len(outcomes),
                "before": f"{ap([o.before for o in outcomes]):.2f}",
                "after": f"{ap([o.after for o in outcomes]):.2f}",
                "gain by seed": " ".join(f"{gain:+.2f}" for gain in per_seed),
                "other image": f"{ap([o.other[0] for o in outcomes]):.2f} → "
                f"{ap([o.other[1] for o in outcomes]):.2f}",
                "not shown": sum(not o.shown for o in outcomes),
                "seconds": f"{np.median([o.seconds for o in outcomes]):.1f}",
            }
        )
        print(table[-1], flush=True)
    show(table)
    print(f"mean gain {np.mean(gains):+.3f}, least {np.min(gains):+.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
