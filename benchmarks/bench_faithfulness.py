"""Does the network rely on ψ where ψ is high? Up-attention suppressed by place, per stage.

For each test image and each decoder stage, ψ is set to 0 on a fifth of its map, and the
network decides again: where ψ is highest, where it is lowest, and on the area of the highest
moved by a random distance (wrapping around), so that chance gets an area of the same size and
the same shape. The figure is how far foreground Dice against the truth falls, in points of
100, mean over images with a bootstrap interval of 95 %.

Images: every sixth test image of the 2018 Data Science Bowl in the order of their names
(larger ones: their middle 256×256), where the shared data are there (SA2NET_DATA); otherwise
synthetic nuclei. Everything is seeded; float32 on the CPU.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from benchmarks.tables import show
from numpy.typing import NDArray
from torch import Tensor

from napari_sa2net.data import plan_image, read_image, synthetic_nuclei
from napari_sa2net.inference.instances import foreground_probability
from napari_sa2net.inference.tiling import ScaledPlane, network_scale
from napari_sa2net.models import Model, load_model
from napari_sa2net.nn import SA2Net, pad_to_stride

STAGES = {8: "1/8", 4: "1/4", 2: "1/2", 1: "full"}
#: Part of a map that is suppressed.
SHARE = 0.2
#: Moved copies of the area, averaged per image.
MOVES = 3
EVERY = 6
CROP = 256
RESAMPLES = 4000

Mask = NDArray[np.bool_]
Case = tuple[NDArray[np.generic], Mask, float]


def cases() -> Iterator[Case]:
    """Images, true foreground, and median diameter of the true objects (px)."""
    shared = Path(os.environ.get("SA2NET_DATA") or Path(__file__).parents[2] / "shared")
    folder = shared / "data" / "dsb2018"
    if folder.is_dir():
        with (folder / "index.csv").open(newline="") as file:
            names = sorted(
                row["name"] for row in csv.DictReader(file) if row["split"] == "test"
            )
        print(f"{len(names[::EVERY])} test images, every {EVERY}th by name, from {folder.name}")
        for name in names[::EVERY]:
            image = np.asarray(read_image(folder / "test" / "images" / name).array)
            truth = np.asarray(read_image(folder / "test" / "labels" / name).array)
            top, left = (max(0, (n - CROP) // 2) for n in truth.shape)
            window = slice(top, top + CROP), slice(left, left + CROP)
            if truth[window].any():
                yield image[window], truth[window] > 0, diameter(truth[window])
        return
    print("no test images (set SA2NET_DATA): 8 synthetic ones instead")
    for seed in range(8):
        image, truth = synthetic_nuclei(shape=(CROP, CROP), n=30, diameter=28, seed=seed)
        yield image, truth > 0, diameter(truth)


def diameter(truth: NDArray[np.integer]) -> float:
    """Median diameter of the circles with the objects' areas."""
    areas = np.unique(truth[truth > 0], return_counts=True)[1]
    return float(np.median(np.sqrt(4 * areas / np.pi)))


class Decoder:
    """One image's encoder output, decoded as often as wanted with ψ of one stage changed."""

    def __init__(self, model: Model, image: NDArray[np.generic], size: float) -> None:
        assert isinstance(model.net, SA2Net)
        self.net = model.net
        self.classes = model.card.classes
        plan = plan_image(image, model_input=model.card.input, in_channels=3)
        scale = network_scale(size, model.card.diameter, plan.spatial)
        self.plane = ScaledPlane(plan, (), scale)
        x = torch.from_numpy(self.plane.read(0, self.plane.shape[0], 0, self.plane.shape[1]))
        scales, deepest = self.net.encode(pad_to_stride(x[None]))
        self.skips = self.net.bottleneck(scales)
        self.ups = (self.net.up4, self.net.up3, self.net.up2, self.net.up1)
        # What goes into each stage; a change in one leaves the stages before it as they are.
        self.inputs = [deepest]
        for up, skip in zip(self.ups, self.skips[::-1], strict=True):
            self.inputs.append(up(self.inputs[-1], skip))

    def foreground(self, stride: int = 1, off: Mask | None = None) -> Mask:
        """Foreground at image size, with ψ set to 0 on a mask of one stage's map."""

        def suppress(_module: object, _inputs: object, psi: Tensor) -> Tensor:
            return psi if off is None else psi.masked_fill(torch.from_numpy(off), 0.0)

        first = list(STAGES).index(stride)
        handle = self.ups[first].AG.focal.register_forward_hook(suppress)
        try:
            feature = self.inputs[first]
            for k in range(first, len(self.ups)):
                feature = self.ups[k](feature, self.skips[3 - k])
        finally:
            handle.remove()
        height, width = self.plane.shape
        logits = self.net.outc4(feature)[0, :, :height, :width]
        rows, columns = self.plane.plan.spatial
        probability = logits.softmax(dim=0).numpy()
        values = self.plane.to_image(probability, (0, 0), (0, rows, 0, columns))
        return np.asarray(foreground_probability(values, self.classes) >= 0.5)

    def psi(self, stride: int) -> NDArray[np.float32]:
        """The map of a stage as it is, (h, w)."""
        kept: list[Tensor] = []
        k = list(STAGES).index(stride)
        focal = self.ups[k].AG.focal
        handle = focal.register_forward_hook(lambda _m, _i, psi: kept.append(psi))
        try:
            self.ups[k].AG(self.inputs[k], self.skips[3 - k])
        finally:
            handle.remove()
        return kept[0][0, 0].numpy()


def areas(psi: NDArray[np.float32], rng: np.random.Generator) -> dict[str, list[Mask]]:
    """Where to suppress: equal numbers of pixels each."""
    n = round(SHARE * psi.size)
    # Saturated maps have many equal values; among those chance decides, not the place.
    order = np.lexsort((rng.random(psi.size), psi.ravel()))
    masks = []
    for chosen in (order[-n:], order[:n]):
        mask = np.zeros(psi.size, bool)
        mask[chosen] = True
        masks.append(mask.reshape(psi.shape))
    moved = [
        np.roll(masks[0], [int(rng.integers(1, n)) for n in psi.shape], (0, 1))
        for _ in range(MOVES)
    ]
    return {"highest": masks[:1], "random": moved, "lowest": masks[1:]}


def dice(found: Mask, truth: Mask) -> float:
    """Twice the overlap over the sum of both."""
    return 2 * float((found & truth).sum()) / max(1, int(found.sum() + truth.sum()))


def measure() -> list[dict[str, object]]:
    """Run all images; one row per stage and place."""
    model = load_model("nuclei")
    model.net.eval()
    rng = np.random.default_rng(0)
    falls: dict[tuple[int, str], list[float]] = {}
    before = []
    with torch.inference_mode():
        for image, truth, size in cases():
            decoder = Decoder(model, image, size)
            as_is = dice(decoder.foreground(), truth)
            before.append(as_is)
            for stride in STAGES:
                psi = decoder.psi(stride)
                for place, masks in areas(psi, rng).items():
                    left = [dice(decoder.foreground(stride, mask), truth) for mask in masks]
                    falls.setdefault((stride, place), []).append(
                        100 * (as_is - float(np.mean(left)))
                    )
    print(f"foreground Dice as trained: {100 * np.mean(before):.1f}; fall in points:")
    rows: list[dict[str, object]] = []
    for stride, name in STAGES.items():
        row: dict[str, object] = {"stage": name}
        high, chance = falls[stride, "highest"], falls[stride, "random"]
        for place in ("highest", "random", "lowest"):
            row[f"ψ off where {place}"] = interval(falls[stride, place])
        row["highest − random"] = interval(np.subtract(high, chance).tolist())
        rows.append(row)
    return rows


def interval(values: list[float]) -> str:
    """Mean, and the bootstrap interval of 95 % over images."""
    rng = np.random.default_rng(1)
    sample = np.asarray(values)[rng.integers(0, len(values), (RESAMPLES, len(values)))]
    low, high = np.percentile(sample.mean(axis=1), (2.5, 97.5))
    # Adding 0 makes a rounded -0.0 a plain zero.
    mean, low, high = (round(float(v), 1) + 0.0 for v in (np.mean(values), low, high))
    return f"{mean:.1f} ({low:.1f} … {high:.1f})"


if __name__ == "__main__":
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    start = time.process_time()
    show(measure())
    print(f"{time.process_time() - start:.0f} s of processor time")
    sys.exit(0)
