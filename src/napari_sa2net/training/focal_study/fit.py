"""One training of a study: a plain loop whose state on disk is all that the next step needs."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from napari_sa2net.config import TrainConfig
from napari_sa2net.errors import Cancelled, OutOfMemoryError, TrainingError
from napari_sa2net.inference.devices import fast_dtype, is_out_of_memory
from napari_sa2net.nn import FocalExponent, Network
from napari_sa2net.training.dataset import CropDataset, Example
from napari_sa2net.training.focal_study.networks import as_trained
from napari_sa2net.training.losses import deep_supervision_loss, make_loss
from napari_sa2net.training.run_state import write_tensors
from napari_sa2net.training.schedule import Schedule, gamma_peak

SCHEMA_VERSION = 1
STATE = "state.pt"
#: Seconds between writing states; a kill costs no more.
SAVE_SECONDS = 20.0
CLIP = 5.0


def training_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Precision of the network's bulk in training; float16 would need scaled gradients."""
    dtype = torch.float32 if precision == "float32" else fast_dtype(device)
    return torch.float32 if dtype == torch.float16 else dtype


def fit(
    net: Network,
    examples: Sequence[Example],
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    on_step: Callable[[int, float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Network, float]:
    """Train a network, or go on where a training in that folder was.

    Parameters
    ----------
    net : Network
        As it begins; trained in place.
    examples : sequence of Example
    config : TrainConfig
    folder : path
        Holds the state of a training that is not over.
    device, dtype
    on_step : callable (steps done, loss), optional
    cancelled : callable -> bool, optional
        Asked after every step; the state is written then.

    Returns
    -------
    Network
        The moving average of the weights after the last step, γ fixed, on the CPU. No step
        is chosen, so no image is needed to choose it by.
    float
        Seconds that it took, over all parts.

    Raises
    ------
    Cancelled, TrainingError, OutOfMemoryError, OutputError
    """
    run = _Run(net, config, device, dtype)
    path = folder / STATE
    if path.is_file():
        run.load(path)
    size = config.batch_size
    # A loader always begins at its first crop, also where a run goes on.
    crops = CropDataset(examples, config, (config.steps - run.done) * size, run.done * size)
    batches = DataLoader(crops, batch_size=size, num_workers=config.workers)
    start = saved = time.monotonic()
    before = run.seconds
    try:
        for batch in batches:
            loss = run.step(batch)
            if on_step:
                on_step(run.done, loss)
            now = time.monotonic()
            run.seconds = before + now - start
            stop = bool(cancelled and cancelled())
            if stop or now - saved >= SAVE_SECONDS or run.done == config.steps:
                run.save(path)
                saved = time.monotonic()
            if stop and run.done < config.steps:
                raise Cancelled(f"Stopped at step {run.done} of {config.steps}.")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"Memory ran out in training with {size} crops of {config.crop} px. "
            "Choose a smaller --batch-size, --crop or --base, and another folder."
        ) from error
    return as_trained(run.mean), run.seconds


def discard_state(folder: Path) -> None:
    """Remove the state of a training whose result is on disk."""
    with contextlib.suppress(OSError):
        (folder / STATE).unlink()


class _Run:
    """Network, its moving average, optimiser, and how far they are."""

    def __init__(
        self, net: Network, config: TrainConfig, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config = config
        self.device = device
        self.dtype = dtype
        self.net = net.to(device).train()
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = copy.deepcopy(self.net).eval()
        self.loss = make_loss(config).to(device)
        self.schedule = Schedule(config.steps, 1, config.warmup)
        self.gamma = [
            module.gamma
            for module in net.modules()
            if isinstance(module, FocalExponent) and module.learnable
        ]
        exponents = {id(g) for g in self.gamma}
        weights = [p for p in net.parameters() if id(p) not in exponents]
        total = sum(self.schedule.rate(step) for step in range(config.steps))
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in weights if p.ndim > 1],
                "weight_decay": config.weight_decay,
                "peak": config.learning_rate,
            },
            {
                "params": [p for p in weights if p.ndim <= 1],
                "weight_decay": 0.0,
                "peak": config.learning_rate,
            },
        ]
        if self.gamma:
            groups.append(
                {"params": self.gamma, "weight_decay": 0.0, "peak": gamma_peak(total)}
            )
        self.optimizer = torch.optim.AdamW(groups)
        self.done = 0
        self.seconds = 0.0

    def step(self, batch: dict[str, Tensor]) -> float:
        """One step; returns its loss."""
        share = self.schedule.rate(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        here = {key: value.to(self.device) for key, value in batch.items()}
        image = here["image"].contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            heads = self.net(image, deep_supervision=True)
            loss = deep_supervision_loss(
                self.loss, heads, self.config.head_weights, here["target"], here["mask"]
            )
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss became {value} at step {self.done + 1}. Run the study with "
                "--precision float32, in another folder."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # γ apart, as its gradients are of another size than the weights'.
        for group in self.optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], CLIP)
        self.optimizer.step()
        self.done += 1
        self._average()
        return value

    @torch.no_grad()
    def _average(self) -> None:
        """Moving average of weights and statistics; its decay grows to its value, so that the
        first, random weights are soon gone."""
        decay = min(self.config.ema_decay, (1 + self.done) / (10 + self.done))
        now = self.net.state_dict()
        for key, mean in self.mean.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(now[key], 1 - decay)
            else:
                mean.copy_(now[key])

    def save(self, path: Path) -> None:
        state = {
            "schema_version": SCHEMA_VERSION,
            "done": self.done,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_tensors(path, state)

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            if state["schema_version"] != SCHEMA_VERSION:
                raise KeyError("schema_version")
            self.net.load_state_dict(state["net"])
            self.mean.load_state_dict(state["mean"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
            EOFError,
            UnpicklingError,
        ) as error:
            raise TrainingError(
                f"{path} is damaged or of another version ({type(error).__name__}). Delete "
                "that file: its training then begins anew, the others are kept."
            ) from error
        self.done = int(state["done"])
        self.seconds = float(state["seconds"])
