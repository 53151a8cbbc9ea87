"""Where is a model better adapted to an image, and does *auto* choose rightly?

Looked at are validation images of dsb2018 and more/ as they are; the same as other stains,
microscopes and cameras would show them (`study_click.widely`, one draw); and with --tissue H&E
tissue, of which the foreground is known. Each is segmented by the model as it is, adapted, and
as *auto* chooses, at the object size that the model finds.

    python -m benchmarks.study_adapt [--model nuclei] [--tissue]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from benchmarks import bench_accuracy, training_data
from benchmarks.study_click import widely
from benchmarks.tables import show
from numpy.typing import NDArray

import napari_sa2net as sa2net
from napari_sa2net.data import read_image
from napari_sa2net.metrics import pool, score_image

#: Side of what is looked at of each image (px).
SIDE = 640
WAYS = ("off", "on", "auto")


def pictures(tissue: bool) -> Iterator[tuple[str, str, NDArray[np.uint8], NDArray[np.int32]]]:
    """Group, kind, image and truth."""
    rows = [row for row in training_data.nuclei() if row[0] == "val"]
    for number, (*_, image_path, labels_path) in enumerate(rows):
        paths = image_path, labels_path
        image, truth = (np.asarray(read_image(p).array)[:SIDE, :SIDE] for p in paths)
        colour = "in colour" if image.ndim == 3 else "grey"
        yield "validation", colour, image, truth.astype(np.int32)
        other = widely(image, truth.astype(np.int32), np.random.default_rng(number))
        yield "shown otherwise", colour, *other
    for picture in bench_accuracy.tissue() if tissue else ():
        yield "H&E tissue", "in colour", picture.image, picture.truth


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--tissue", action="store_true")
    asked = parser.parse_args()
    model = sa2net.load_model(asked.model)
    scores = defaultdict(list)
    adapted: dict[tuple[str, str], int] = defaultdict(int)
    for group, kind, image, truth in pictures(asked.tissue):
        for way in WAYS:
            made = sa2net.segment(image, model=model, table=False, dab="keep", adapt=way)
            scores[group, kind, way].append(score_image(np.asarray(made.labels), truth))
        adapted[group, kind] += made.provenance["settings"]["predict"]["adapt"] == "on"
    rows = []
    for group, kind in adapted:
        row: dict[str, object] = {"images": group, "": kind}
        row["number"] = len(scores[group, kind, "auto"])
        for way in WAYS:
            some = scores[group, kind, way]
            both = pool(some)
            row[way] = (
                f"Dice {np.mean([pool([one])['dice'] for one in some]):.3f}"
                if group == "H&E tissue"
                else f"{both['ap50']:.3f} / {both['mean_ap']:.3f}"
            )
        rows.append({**row, "adapted": adapted[group, kind]})
    show(rows)


if __name__ == "__main__":
    main()
