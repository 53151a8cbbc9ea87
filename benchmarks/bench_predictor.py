"""Our predictor against the same network run plainly, in one process, turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress

import torch
from benchmarks.tables import show

from napari_sa2net.config import NetworkConfig, PredictConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.errors import ModelNotFoundError
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
    """Measure; one row per network."""
    models = [random_model(16), random_model(64)]
    with suppress(ModelNotFoundError):
        models.insert(0, load_model("nuclei"))
    return [compare(model) for model in models]


def compare(model: Model) -> dict[str, object]:
    """Time one network both ways on one image (CPU), interleaved."""
    image, _ = synthetic_nuclei(shape=(SIZE, SIZE), n=500, seed=0)
    plan = plan_image(image, model_input=model.card.input, in_channels=model.net.in_channels)
    predictor = Predictor(model, PredictConfig(device="cpu"), plan.model_input)
    x = torch.from_numpy(plan.read((), 0, SIZE, 0, SIZE))[None].contiguous()

    def plain() -> torch.Tensor:
        with torch.no_grad():
            return activate(model.net(x))[0]

    def ours() -> torch.Tensor:
        return torch.from_numpy(predictor.predict_plane(plan))

    expected, got = plain(), ours()  # also the warm-up
    times: dict[Callable[[], torch.Tensor], list[float]] = {plain: [], ours: []}
    for _ in range(REPEATS):
        for way, seconds in times.items():
            start = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - start)
    slow, fast = (statistics.median(seconds) for seconds in times.values())
    base = model.net.base_channels
    return {
        "network": f"{model.name} (base {base})",
        "plain (s)": round(slow, 3),
        "ours (s)": round(fast, 3),
        "ratio": round(slow / fast, 2),
        "wanted": WANTED.get(base, ""),
        "largest difference": round(float((expected - got).abs().max()), 4),
        "precision": str(predictor.dtype).removeprefix("torch."),
        "device": device_name(predictor.device),
    }


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
