"""Our predictor against the same network run plainly; what it costs in accuracy, and per pixel.

    python -m benchmarks predictor [--only ratios | accuracy | cost] [--size 1024] [--repeats 3]

*ratios*: each network run plainly and by every engine that is installed, turn by turn in one
process, in processor time. *accuracy*: the bundled model on test images of dsb2018 by each
engine, against PyTorch in float32; skipped without the shared data. *cost*: a whole
segmentation of larger and larger TIFFs by the command of the shell (`--sides 2048 8192 20000`),
each in a process of its own: processor time per megapixel, and the most memory that was held.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from functools import partial
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path

import numpy as np
import tifffile
import torch
from benchmarks.bench_accuracy import DATA, test_images
from benchmarks.tables import show

import napari_sa2net as sa2net
from napari_sa2net.cli import run
from napari_sa2net.config import NetworkConfig, PredictConfig, n_classes
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.errors import ModelNotFoundError
from napari_sa2net.inference.cpu import LIBRARIES
from napari_sa2net.inference.predict import Predictor, activate
from napari_sa2net.metrics import score_image
from napari_sa2net.models import Model, load_model
from napari_sa2net.models.card import ModelCard
from napari_sa2net.nn import SA2Net

#: Smallest ratio wanted, by base channels; most that probabilities and mean AP may differ.
WANTED = {16: 6.0, 64: 7.0}
PROBABILITY, AP = 0.03, 0.003


def engines() -> list[str]:
    """Those that are installed."""
    there = find_spec("onnxscript") is not None  # which the libraries' files are made with
    return ["torch", *(name for name in LIBRARIES if there and find_spec(name))]


def ratios(size: int, repeats: int) -> Iterator[dict[str, object]]:
    """One row per network and engine."""
    models: list[Callable[[], Model]] = [partial(random_model, 64)]
    try:
        models.insert(0, partial(load_model, load_model("nuclei").name))
    except ModelNotFoundError:
        models.insert(0, partial(random_model, 16))
    for model in models:
        yield from compare(model(), size, repeats)


def compare(model: Model, size: int, repeats: int) -> list[dict[str, object]]:
    """Time one network all ways on one image (CPU), interleaved."""
    image, _ = synthetic_nuclei(shape=(size, size), n=size * size // 2000, seed=0)
    plan = plan_image(image, model_input=model.card.input, in_channels=model.net.in_channels)
    x = torch.from_numpy(plan.read((), 0, size, 0, size))[None].contiguous()

    def plain() -> torch.Tensor:
        with torch.no_grad():
            return activate(model.net(x), n_classes(model.card.classes))[0]

    def ours(predictor: Predictor) -> torch.Tensor:
        return torch.from_numpy(predictor.predict_plane(plan))

    predictors: dict[str, Predictor] = {}
    ways: dict[str, Callable[[], torch.Tensor]] = {"plain": plain}
    for engine in engines():
        told(f"{model.name}: {engine} is made ready")
        config = PredictConfig(device="cpu", engine=engine)
        predictors[engine] = Predictor(model, config, plan.model_input)
        ways[engine] = partial(ours, predictors[engine])
    results = {}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):  # the first is the warm-up
        for name, way in ways.items():
            start = time.process_time()
            results[name] = way()
            if turn:
                times[name].append(time.process_time() - start)
            told(f"{model.name}: {name}, {turn} of {repeats}")
    slow, *all_fast = (statistics.median(seconds) for seconds in times.values())
    base = model.net.base_channels
    return [
        {
            "network": f"{model.name} (base {base})",
            "engine": engine,
            "plain (s)": round(slow, 3),
            "ours (s)": round(fast, 3),
            "ratio": round(slow / fast, 2),
            "wanted": f"≥ {WANTED[base]:g}" if base in WANTED else "",
            "largest difference": round(
                float((results["plain"] - results[engine]).abs().max()), 4
            ),
            "precision": predictors[engine].used[1],
        }
        for engine, fast in zip(predictors, all_fast, strict=True)
    ]


def random_model(base: int) -> Model:
    """A network of random weights whose batch normalisation has seen an image."""
    torch.manual_seed(0)
    net = SA2Net(3, 3, base)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain mean over the passes
    image, _ = synthetic_nuclei(shape=(256, 256), n=40, seed=1)
    plan = plan_image(image)
    with torch.no_grad():
        net.train()(torch.from_numpy(plan.read((), 0, 256, 0, 256))[None])
    card = ModelCard(
        name=f"random-{base}",
        network=NetworkConfig(in_channels=3, n_classes=3, base_channels=base),
        classes=("background", "interior", "boundary"),
    )
    return Model(net.eval(), card)


def accuracy(n: int) -> Iterator[dict[str, object]]:
    """One row per engine: mean AP of test images, and how far from PyTorch in float32."""
    pictures = test_images()
    pictures = pictures[:: max(1, len(pictures) // n)][:n]
    model = load_model("nuclei")
    ways = {"torch, float32": {"engine": "torch", "precision": "float32"}}
    ways |= {engine: {"engine": engine} for engine in engines()}
    found: dict[str, list[tuple[np.ndarray, float]]] = {way: [] for way in ways}
    for number, picture in enumerate(pictures):
        told(f"image {number + 1} of {len(pictures)}")
        diameter = None  # as it is estimated once: that is no part of the comparison
        for way, settings in ways.items():
            result = sa2net.segment(
                picture.image,
                model,
                diameter=diameter,
                device="cpu",
                measure="none",
                **settings,
            )
            diameter = result.diameter
            score = score_image(result.labels, picture.truth)
            means = [counts.ap for counts in score.matches]
            found[way].append((np.asarray(result.probability), statistics.mean(means)))
    exact = found["torch, float32"]
    reference = statistics.mean(ap for _, ap in exact)
    for way, ours in found.items():
        mean = statistics.mean(ap for _, ap in ours)
        yield {
            "engine": way,
            "images": len(ours),
            "mean AP": round(mean, 4),
            "difference": round(mean - reference, 5),
            "wanted": f"≤ {AP:g}",
            "largest of one image": round(
                max(abs(a[1] - b[1]) for a, b in zip(ours, exact, strict=True)), 5
            ),
            "probability": round(
                max(float(np.abs(a[0] - b[0]).max()) for a, b in zip(ours, exact, strict=True)),
                4,
            ),
            "wanted ": f"≤ {PROBABILITY:g}",
        }


def cost(sides: list[int]) -> Iterator[dict[str, object]]:
    """One row per side of an image."""
    for side in sides:
        told(f"{side} × {side} px")
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--one", str(side)]
        yield json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def one(side: int) -> dict[str, object]:
    """Segment one image that is as large by the shell's command, in this process."""
    square, _ = synthetic_nuclei(shape=(1024, 1024), n=370, diameter=24, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "image.tif", Path(folder) / "out"
        kind = {"shape": (side, side), "dtype": square.dtype, "tile": square.shape}
        tifffile.imwrite(path, repeat(square, (-(-side // 1024)) ** 2), **kind)
        sa2net.segment(square[:256, :256], device="cpu")
        before = time.process_time()
        with redirect_stdout(sys.stderr):
            failed = run(["segment", str(path), "--output", str(out), "--device", "cpu"])
        seconds = time.process_time() - before
        if failed:
            raise SystemExit(failed)
        cells = json.loads((out / "extra" / "run.json").read_text())["n_objects"]
    return {
        "side (px)": side,
        "cells": cells,
        "processor time (s)": round(seconds, 1),
        "per megapixel (s)": round(seconds / (side * side / 1e6), 2),
        "most memory (GB)": round(most_memory() / 1e9, 2),
    }


def most_memory() -> int:
    """Bytes that this process has held at once."""
    # what the system counts for a process begins with the most of the one that started it
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
        return int(peak) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def told(text: str) -> None:
    """Say how far it is."""
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure what is asked for, and print each table as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=("ratios", "accuracy", "cost"))
    parser.add_argument("--size", type=int, default=512, help="side of the image of ratios")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--sides", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one)))
        return
    parts: dict[str, Callable[[], Iterator[dict[str, object]]]] = {
        "ratios": partial(ratios, asked.size, asked.repeats),
        "accuracy": partial(accuracy, asked.images),
        "cost": partial(cost, asked.sides),
    }
    for name, part in parts.items():
        if asked.only in (None, name):
            if name == "accuracy" and not DATA.is_dir():
                told("accuracy: no shared data here")
                continue
            print(f"\n{name}")
            rows = []
            for row in part():
                told(", ".join(f"{key} {value}" for key, value in row.items()))
                rows.append(row)
            if rows:
                show(rows)


if __name__ == "__main__":
    main()
