"""Is the brown of immunohistochemistry better kept or removed, and does *auto* choose rightly?

No images of H-DAB tissue with outlined nuclei are free to choose by, so the stain is drawn onto
stained images of which the nuclei are known: validation images of dsb2018, and a third of
those that models are trained on. Brown is put on membranes, into the cytoplasm or into half of
the nuclei, in regions of random shape, with grain and random strength; eosin becomes weak. Each
image is segmented with the brown kept, removed, and as *auto* chooses: AP at an overlap of
half, object sizes estimated, objects summed over the images.

    python -m benchmarks.study_stain [--every 3] [--model nuclei]
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
from benchmarks import training_data
from benchmarks.tables import show
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import hed2rgb, rgb2hed

import napari_sa2net as sa2net
from napari_sa2net.data import read_image
from napari_sa2net.metrics import pool, score_image, typical_diameter

#: Side of what is looked at of each image (px).
SIDE = 512
KINDS = ("as it is", "membranes", "cytoplasm", "nuclei")
WAYS = ("keep", "remove", "auto")
#: Least and most brown, in scikit-image's units of stains.
AMOUNT = (0.06, 0.2)


def immunostained(
    image: NDArray[np.uint8], truth: NDArray[np.int32], kind: str, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """An image (Y, X, 3) with brown drawn onto membranes, cytoplasm or nuclei."""
    stains = rgb2hed(image).clip(0)
    areas = np.bincount(truth.ravel())[1:]
    size = typical_diameter(areas[areas > 0])
    inside = truth > 0
    grain = 0.35 * _field(rng, truth.shape, 1.2) + 0.3 * _field(rng, truth.shape, size / 2)
    brown = rng.uniform(*AMOUNT) * np.exp(grain)
    if kind == "nuclei":
        numbers = rng.permutation(np.unique(truth)[1:])
        chosen = np.isin(truth, numbers[: len(numbers) // 2]).astype(float)
        chosen = ndimage.gaussian_filter(chosen, 1)
        brown *= chosen
        stains[..., 0] *= 1 - 0.6 * chosen
    else:
        brown *= _field(rng, truth.shape, 2 * size) > -0.3
        if kind == "cytoplasm":
            brown *= np.where(inside, 0.35, 1)
        else:
            out = ndimage.distance_transform_edt(~inside) / size
            brown *= np.exp(-(((out - 0.18) / 0.12) ** 2)) * ~inside + 0.25 * (out < 0.6)
    stains[..., 1] *= 0.15
    stains[..., 2] = brown
    return np.rint(hed2rgb(stains).clip(0, 1) * 255).astype(np.uint8)


def _field(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: float
) -> NDArray[np.float64]:
    """Smooth noise of unit variance."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return field / field.std()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=3, help="of the training images")
    parser.add_argument("--model", default="nuclei")
    asked = parser.parse_args()
    model = sa2net.load_model(asked.model)
    rows = [row for row in training_data.nuclei() if row[2].startswith("rgb")]
    chosen = {
        "validation": [row for row in rows if row[0] == "val"],
        "training": [row for row in rows if row[0] == "train"][:: asked.every],
    }
    table = []
    for split, some in chosen.items():
        scores, removed = defaultdict(list), defaultdict(int)
        for number, (_, _, _, image_path, truth_path) in enumerate(some):
            image = np.asarray(read_image(image_path).array)[:SIDE, :SIDE, :3]
            truth = np.asarray(read_image(truth_path).array)[:SIDE, :SIDE].astype(np.int32)
            for i, kind in enumerate(KINDS):
                rng = np.random.default_rng([number, i])
                shown = immunostained(image, truth, kind, rng) if i else image
                for way in WAYS:
                    made = sa2net.segment(shown, model=model, table=False, dab=way)
                    scores[kind, way].append(score_image(np.asarray(made.labels), truth))
                took = made.provenance["settings"]["predict"]["dab"]
                removed[kind] += took == "remove"
        for kind in KINDS:
            table.append(
                {
                    "images": f"{split}, {len(some)}",
                    "brown": kind,
                    **{way: f"{pool(scores[kind, way])['ap50']:.3f}" for way in WAYS},
                    "auto removed": removed[kind],
                }
            )
    show(table)


if __name__ == "__main__":
    main()
