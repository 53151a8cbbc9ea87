"""Labels after a slider move, against the textbook watershed, in one process turn by turn.

Times are of the processor, of the whole call from probabilities to labels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from benchmarks.tables import show
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from napari_sa2net.config import InstanceConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.inference.instances import label_objects
from napari_sa2net.measure import object_table

CLASSES = ("background", "interior", "boundary")
REPEATS = 5
#: Milliseconds allowed for labels after a slider move, 1024×1024 with 500 nuclei.
WANTED = 150


def run() -> list[dict[str, object]]:
    """Measure; one row per image."""
    nuclei = probabilities(synthetic_nuclei(shape=(1024, 1024), n=500, diameter=24)[1])
    large = probabilities(synthetic_nuclei(shape=(1024, 1024), n=20, diameter=180)[1])
    noise = np.random.default_rng(0).dirichlet((1, 1, 1), (1024, 1024))
    return [
        row("500 nuclei of 24 px", nuclei, WANTED),
        row("20 cells of 180 px", large),
        row("16 × 500 nuclei, 4096×4096", np.tile(nuclei, (1, 4, 4))),
        row("noise", noise.transpose(2, 0, 1).astype(np.float32)),
    ]


def row(
    name: str, probability: NDArray[np.float32], wanted: int | None = None
) -> dict[str, object]:
    """Time labels, table and the textbook way on one image of probabilities."""
    config = InstanceConfig()
    labels = label_objects(probability, CLASSES, config)
    foreground = 1 - probability[0]
    ways: dict[str, Callable[[], object]] = {
        "labels (ms)": lambda: label_objects(probability, CLASSES, config),
        "textbook watershed (ms)": lambda: textbook(probability),
        "table (ms)": lambda: object_table(labels, foreground, foreground),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPEATS if probability[0].size < 2e6 else 1):
        for way, call in ways.items():
            start = time.process_time()
            call()
            times[way].append((time.process_time() - start) * 1000)
    return {
        "image": name,
        "objects": int(labels.max()),
        **{way: round(statistics.median(seconds)) for way, seconds in times.items()},
        "wanted (ms)": "" if wanted is None else f"≤ {wanted}",
    }


def textbook(probability: NDArray[np.float32]) -> NDArray[np.int32]:
    """Distance transform, its h-maxima as seeds, watershed."""
    mask = 1 - probability[0] >= 0.5
    distance = ndimage.distance_transform_edt(mask)
    seeds, _ = ndimage.label(h_maxima(distance, 1.0))
    result: NDArray[np.int32] = watershed(-distance, seeds, mask=mask)
    return result


def probabilities(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Class probabilities as a network gives them for these objects: a little blurred."""
    other = ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)
    cell = labels > 0
    classes = np.stack([~cell, cell & ~other, cell & other]).astype(np.float32)
    blurred = ndimage.gaussian_filter(classes, (0, 1, 1))
    result: NDArray[np.float32] = blurred / blurred.sum(axis=0)
    return result


if __name__ == "__main__":
    show(run())
