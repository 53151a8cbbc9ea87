"""How good are the masks, what is wrong with the others, and how far does a model reach?

On the test images of dsb2018 by kind, on probes (sources that no bundled model was trained on)
as shipped, and on the same test images changed: default settings throughout, object size
estimated from each image. Nothing may be chosen by these figures. Without the folder of shared
data there is nothing to measure.

    SA2NET_BENCH_MODEL=nuclei python -m benchmarks accuracy

AP = TP / (TP + FP + FN), objects summed over the images of a kind before dividing. A true
object that no prediction matches at IoU 0.5 is *merged* where a prediction covers half of it
and half of another; *split* where predictions that lie in it cover half of it, and none alone;
*missed* where less than half of it is covered; else its outline is off. *Spurious* is a
prediction that lies outside objects for the most part.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.tables import show
from scipy import ndimage
from skimage.transform import rescale

import napari_sa2net as sa2net
from napari_sa2net.data import read_image
from napari_sa2net.metrics import ImageScore, pool, score_image
from napari_sa2net.models import Model
from napari_sa2net.training.dataset import as_jpeg, median_diameter, to_tensor

MODEL = os.environ.get("SA2NET_BENCH_MODEL", "nuclei")
DATA = Path(os.environ.get("SA2NET_DATA") or Path(__file__).parents[2] / "shared") / "data"
#: Every n-th image only, for a quick look.
EVERY = int(os.environ.get("SA2NET_BENCH_EVERY", 1))


@dataclass(frozen=True)
class Picture:
    """An image with its true labels."""

    name: str
    kind: str
    image: np.ndarray
    truth: np.ndarray


def test_images() -> list[Picture]:
    """The test images of dsb2018."""
    folder = DATA / "dsb2018"
    rows = [r for r in _rows(folder / "index.csv") if r["split"] == "test"]
    return [_picture(folder / "test", r["name"], r["kind"]) for r in rows[::EVERY]]


def probes() -> list[Picture]:
    """Sources that nobody trains on; the kind is source and target."""
    rows = _rows(DATA / "probes" / "index.csv")
    return [
        _picture(DATA / "probes" / r["source"], r["name"], f"{r['source']}, {r['target']}")
        for r in rows[::EVERY]
    ]


def tissue() -> list[Picture]:
    """H&E tissue (MoNuSeg, that nobody trains on) of which the foreground alone is known."""
    images = sorted((DATA / "monuseg").glob("*_Folder/img/*.png"))
    masks = [path.parents[1] / "labelcol" / path.name for path in images]
    return [
        Picture(path.stem, "H&E", *(np.asarray(read_image(one).array) for one in (path, mask)))
        for path, mask in zip(images[::EVERY], masks[::EVERY], strict=True)
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _picture(folder: Path, name: str, kind: str) -> Picture:
    image = np.asarray(read_image(folder / "images" / name).array)
    return Picture(name, kind, image, np.asarray(read_image(folder / "labels" / name).array))


def faults(labels: np.ndarray, truth: np.ndarray) -> Counter[str]:
    """What became of the true objects that were not found, and predictions beside objects."""
    n, m = int(truth.max(initial=0)), int(labels.max(initial=0))
    table = np.bincount(
        truth.ravel().astype(np.int64) * (m + 1) + labels.ravel(), minlength=(n + 1) * (m + 1)
    ).reshape(n + 1, m + 1)
    area, own = table.sum(1), table.sum(0)
    cover = table[1:, 1:]
    iou = cover / np.maximum(area[1:, None] + own[None, 1:] - cover, 1)
    found = (iou > 0.5).any(1) | (area[1:] == 0)
    half = cover > 0.5 * area[1:, None]  # of the true object lies under that prediction
    inside = cover > 0.5 * own[None, 1:]  # of that prediction lies in the true object
    crowded = half.sum(0) > 1
    out: Counter[str] = Counter()
    for i in np.flatnonzero(~found):
        covered = cover[i].sum() / area[i + 1]
        parts = inside[i] & (cover[i] > 0)
        if (half[i] & crowded).any():
            out["merged"] += 1
        elif parts.sum() > 1 and cover[i][parts].sum() > 0.5 * area[i + 1]:
            out["split"] += 1
        elif covered < 0.5:
            out["missed"] += 1
        else:
            out["outline off"] += 1
    matched = (iou > 0.5).any(0)
    out["spurious"] = int((~matched & (table[0, 1:] > 0.5 * own[1:]) & (own[1:] > 0)).sum())
    out["not found"] = int((~found).sum())
    return out


@dataclass
class Found:
    """What a model found in a picture."""

    picture: Picture
    score: ImageScore
    faults: Counter[str]
    diameter: float | None


def look(
    model: Model,
    pictures: Iterable[Picture],
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    at_true_size: bool = False,
) -> list[Found]:
    """Segment pictures with default settings."""
    out = []
    for picture in pictures:
        image, truth = picture.image, picture.truth
        if change is not None:
            image = change(image)
        if image.shape[:2] != truth.shape:
            rows = (np.arange(image.shape[0]) * truth.shape[0]) // image.shape[0]
            columns = (np.arange(image.shape[1]) * truth.shape[1]) // image.shape[1]
            truth = truth[np.ix_(rows, columns)]
        size = median_diameter(truth) if at_true_size else None
        result = sa2net.segment(image, model=model, diameter=size)
        labels = np.asarray(result.labels)
        out.append(
            Found(picture, score_image(labels, truth), faults(labels, truth), result.diameter)
        )
    return out


def by_kind(found: list[Found]) -> list[dict[str, object]]:
    """Rows of a table: each kind, and all."""
    kinds = sorted({f.picture.kind for f in found})
    rows: list[dict[str, object]] = []
    for kind in [*kinds, *(["all"] if len(kinds) > 1 else [])]:
        some = [f for f in found if kind in ("all", f.picture.kind)]
        scores = pool([f.score for f in some])
        total = sum((f.faults for f in some), Counter())
        rows.append(
            {
                "kind": kind,
                "images": len(some),
                "AP@0.5": f"{scores['ap50']:.3f}",
                "mean AP": f"{scores['mean_ap']:.3f}",
                "F1": f"{scores['f1']:.3f}",
                "Dice": f"{scores['dice']:.3f}",
            }
            | {
                name: total[name]
                for name in (
                    "not found",
                    "merged",
                    "split",
                    "missed",
                    "outline off",
                    "spurious",
                )
            }
        )
    return rows


def sizes(estimated: list[Found], true: list[Found]) -> list[dict[str, object]]:
    """What is lost to the estimate of the object size, by kind; and its error."""
    kinds = sorted({f.picture.kind for f in true})
    rows: list[dict[str, object]] = []
    for kind in [*kinds, "all"]:
        pair = [
            pool([f.score for f in some if kind in ("all", f.picture.kind)])
            for some in (estimated, true)
        ]
        off = [
            abs(np.log2(a.diameter / b.diameter))
            for a, b in zip(estimated, true, strict=True)
            if kind in ("all", a.picture.kind) and a.diameter and b.diameter
        ]
        rows.append(
            {
                "kind": kind,
                "AP@0.5 estimated": f"{pair[0]['ap50']:.3f}",
                "true": f"{pair[1]['ap50']:.3f}",
                "lost": f"{pair[1]['ap50'] - pair[0]['ap50']:+.3f}",
                "median factor off": f"{2 ** np.median(off):.2f}",
                "off by more than 1.5": int((np.array(off) > np.log2(1.5)).sum()),
            }
        )
    return rows


# --- changes -------------------------------------------------------------------------------


def _noise(image: np.ndarray) -> np.ndarray:
    return _as_byte(image + np.random.default_rng(0).normal(0, 12, image.shape))


def _poisson(image: np.ndarray) -> np.ndarray:
    top = max(float(np.percentile(image, 99.9)), 1.0)
    photons = np.random.default_rng(0).poisson(image / top * 40)
    return _as_byte(photons / 40 * top)


def _blur(image: np.ndarray) -> np.ndarray:
    sigma = (1.5, 1.5) + (0,) * (image.ndim - 2)
    return _as_byte(ndimage.gaussian_filter(image.astype(np.float32), sigma))


def _half(image: np.ndarray) -> np.ndarray:
    axis = -1 if image.ndim == 3 else None
    small = rescale(image.astype(np.float32), 0.5, anti_aliasing=True, channel_axis=axis)
    return _as_byte(small)


def _inverted(image: np.ndarray) -> np.ndarray:
    return 255 - image


def _jpeg(image: np.ndarray) -> np.ndarray:
    planes = image[None] if image.ndim == 2 else np.moveaxis(image[..., :3], -1, 0)
    back = as_jpeg(to_tensor(planes.astype(np.float32) / 255), 30).numpy() * 255
    return _as_byte(back[0] if image.ndim == 2 else np.moveaxis(back, 0, -1))


def _as_byte(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise, σ 12 of 255": _noise,
    "Poisson, 40 photons": _poisson,
    "blur, σ 1.5 px": _blur,
    "half resolution": _half,
    "inverted": _inverted,
    "JPEG 30": _jpeg,
}


def main() -> None:
    """Print all tables."""
    if not (DATA / "dsb2018" / "index.csv").is_file():
        print("No test images: set SA2NET_DATA to the folder of shared data.")
        return
    model = sa2net.load_model(MODEL)
    print(f"model {MODEL}, sha256 {model.sha256[:12]}\n\nTest images, as shipped")
    pictures = test_images()
    shipped = look(model, pictures)
    show(by_kind(shipped))

    print("\nAt the true object size, and how far the estimate is off")
    show(sizes(shipped, look(model, pictures, at_true_size=True)))

    if (DATA / "probes" / "index.csv").is_file():
        print("\nProbes, as shipped")
        pictures_far = probes()
        far = look(model, pictures_far)
        by_source = by_kind(far)
        show(by_source)
        nuclei = [
            float(str(r["AP@0.5"])) for r in by_source if str(r["kind"]).endswith(", nuclei")
        ]
        print(f"mean AP@0.5 over sources of nuclei: {np.mean(nuclei):.3f}")
        print("\nProbes at the true object size, and how far the estimate is off")
        show(sizes(far, look(model, pictures_far, at_true_size=True)))

    if tissues := tissue():
        dice = [pool([f.score])["dice"] for f in look(model, tissues)]
        print(
            f"\nH&E tissue, {len(dice)} images: mean Dice of the foreground {np.mean(dice):.3f}"
        )

    print("\nThe test images changed: F1 at IoU 0.5, and its fall")
    before = pool([f.score for f in shipped])["f1"]
    rows: list[dict[str, object]] = []
    for name, change in CHANGES.items():
        after = pool([f.score for f in look(model, pictures, change)])["f1"]
        rows.append({"change": name, "F1": f"{after:.3f}", "fall": f"{before - after:+.3f}"})
    show(rows)


if __name__ == "__main__":
    main()
