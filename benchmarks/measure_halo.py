"""How much context a tile needs: differences from the whole image, by distance and by halo.

    python -m benchmarks.measure_halo [MODEL] [IMAGE ...]

Float32; MODEL is a name or path ("nuclei"), images are files (two synthetic ones if none is
given). The first table cuts each image in two and shows the largest probability difference
at least so many pixels away from the cut; the second is the difference of whole predictions
of 1024×1024 pixels in tiles of 512 px. The third is about the stages of the decoder, as GPUs
run them: what a tile of 512 px with a halo costs when the fine stages run only on what they
need (`inference.staged`), and how far the logits are from those of stages that run on all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from napari_sa2net.config import PredictConfig
from napari_sa2net.data import plan_image, read_image, synthetic_nuclei
from napari_sa2net.inference import predict as predictor
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.stages import plain_stages
from napari_sa2net.models import Model, load_model

SIZE = 1024
DISTANCES = (0, 16, 32, 48, 64, 80, 96, 112, 128, 160, 208)
HALOS = (16, 32, 48, 64, 80, 96, 128)
TILE = 512


def run(model: Model, images: Sequence[NDArray[np.generic]]) -> None:
    """Print both tables."""
    config = PredictConfig(device="cpu", precision="float32", tile=2048)
    whole = Predictor(model, config)
    plans = [
        plan_image(image, model_input=model.card.input, in_channels=model.net.in_channels)
        for image in images
    ]
    expected = [whole.predict_plane(plan) for plan in plans]

    print("distance (px)  largest difference")
    far = np.zeros(len(DISTANCES))
    for plan, exact in zip(plans, expected, strict=True):
        cut = SIZE // 2
        difference = np.abs(
            whole.probabilities(plan.read((), 0, SIZE, 0, cut)) - exact[..., :cut]
        )
        columns = difference.max(axis=(0, 1))
        far = np.maximum(far, [columns[: cut - d].max() for d in DISTANCES])
    for distance, value in zip(DISTANCES, far, strict=True):
        print(f"{distance:13d}  {value:.1e}")

    print(f"\nhalo (px)  largest difference in tiles of {TILE} px")
    tiled = Predictor(model, config.model_copy(update={"tile": TILE}))
    for halo in HALOS:
        predictor.HALO = halo
        worst = max(
            float(np.abs(tiled.predict_plane(plan) - exact).max())
            for plan, exact in zip(plans, expected, strict=True)
        )
        print(f"{halo:9d}  {worst:.1e}")

    stages(model, plans[0].read((), 0, TILE, 0, TILE))


def stages(model: Model, window: NDArray[np.float32]) -> None:
    """Print the third table."""
    run = plain_stages(model.net.eval(), torch.float32)
    keep = (128, TILE - 128, 128, TILE - 128)
    own = run.own_margins
    fewer = [tuple(m and m // n for m in own) for n in (2, 4)]
    x = torch.from_numpy(window)[None]
    print("\nmargins at stride 8, 4, 2, 1  multiply-adds  largest difference of logits")
    exact, most = torch.zeros(()), 0
    for margins in [(None,) * 4, own, *fewer]:
        run.own_margins = margins
        with torch.inference_mode(), FlopCounterMode(display=False) as counted:
            logits = run(x, keep)
        work = counted.get_total_flops()
        if not most:
            exact, most = logits, work
        worst = float((logits - exact).abs().max())
        print(f"{margins!s:28}  {work / most:13.2f}  {worst:.1e}")


def square(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """The image repeated by reflection, or cropped, to SIZE×SIZE."""
    pad = [(0, max(0, SIZE - n)) for n in image.shape[:2]] + [(0, 0)] * (image.ndim - 2)
    return np.pad(image, pad, mode="symmetric")[:SIZE, :SIZE]


def main(arguments: Sequence[str]) -> None:
    torch.manual_seed(0)
    model = load_model(arguments[0] if arguments else "nuclei")
    images = [square(np.asarray(read_image(path).array)) for path in arguments[1:]]
    if not images:
        images = [
            synthetic_nuclei(shape=(SIZE, SIZE), n=500, seed=0, kind=kind)[0]
            for kind in ("fluo", "stained")
        ]
    run(model, images)


if __name__ == "__main__":
    main(sys.argv[1:])
