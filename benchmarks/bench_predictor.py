"""Our predictor against the same network run plainly, in one process, turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec

import torch
from benchmarks.tables import show

from napari_sa2net.config import NetworkConfig, PredictConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.errors import ModelNotFoundError
from napari_sa2net.inference.cpu import LIBRARIES
from napari_sa2net.inference.devices import device_name
from napari_sa2net.inference.predict import Predictor, activate
from napari_sa2net.models import Model, load_model
from napari_sa2net.models.card import ModelCard
from napari_sa2net.nn import SA2Net

SIZE = 1024
REPEATS = 5
#: Smallest ratio wanted on two CPU cores with bfloat16 instructions, by base channels.
WANTED = {16: 2.5, 64: 2.0}


def run() -> list[dict[str, object]]:
    """Measure; one row per network and engine that is installed."""
    models = [random_model(16), random_model(64)]
    with suppress(ModelNotFoundError):
        models.insert(0, load_model("nuclei"))
    return [row for model in models for row in compare(model)]


def compare(model: Model) -> list[dict[str, object]]:
    """Time one network all ways on one image (CPU), interleaved."""
    image, _ = synthetic_nuclei(shape=(SIZE, SIZE), n=500, seed=0)
    plan = plan_image(image, model_input=model.card.input, in_channels=model.net.in_channels)
    engines = ["torch", *(name for name in LIBRARIES if find_spec(name))]
    predictors = {
        engine: Predictor(model, PredictConfig(device="cpu", engine=engine), plan.model_input)
        for engine in engines
    }
    x = torch.from_numpy(plan.read((), 0, SIZE, 0, SIZE))[None].contiguous()

    def plain() -> torch.Tensor:
        with torch.no_grad():
            return activate(model.net(x))[0]

    def ours(engine: str) -> torch.Tensor:
        return torch.from_numpy(predictors[engine].predict_plane(plan))

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "plain": plain,
        **{engine: partial(ours, engine) for engine in engines},
    }
    results = {name: way() for name, way in ways.items()}  # also the warm-up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    slow, *all_fast = (statistics.median(seconds) for seconds in times.values())
    base = model.net.base_channels
    return [
        {
            "network": f"{model.name} (base {base})",
            "engine": engine,
            "plain (s)": round(slow, 3),
            "ours (s)": round(fast, 3),
            "ratio": round(slow / fast, 2),
            "wanted": WANTED.get(base, "") if engine == "torch" else "",
            "largest difference": round(
                float((results["plain"] - results[engine]).abs().max()), 4
            ),
            "precision": str(predictors[engine].dtype).removeprefix("torch."),
            "device": device_name(predictors[engine].device),
        }
        for engine, fast in zip(engines, all_fast, strict=True)
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


if __name__ == "__main__":
    show(run())
