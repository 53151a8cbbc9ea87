"""Training on this machine's CPU: crops per second, as it was and as it is.

As it was: gradients of large depthwise kernels as torch computes them, and memory handed back
to the system at every step. Both take the same steps in turns; the losses must agree.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import torch
from benchmarks.tables import show

from napari_sa2net.config import TrainConfig
from napari_sa2net.inference.devices import memory_kept
from napari_sa2net.nn import SA2Net, blocks
from napari_sa2net.training.train import SegmentationModule

BATCH, SIDE, STEPS, ROUNDS = 8, 256, 3, 3
NO_STRIPS = 1000


def steps() -> tuple[float, float]:
    """Crops per second of some steps, and their last loss."""
    torch.manual_seed(0)
    net = SA2Net(3, 4, 16).to(memory_format=torch.channels_last).train()
    module = SegmentationModule(net, TrainConfig())
    batch = {
        "image": torch.randn(BATCH, 3, SIDE, SIDE),
        "target": torch.randint(0, 3, (BATCH, SIDE, SIDE)),
        "mask": torch.ones(BATCH, SIDE, SIDE, dtype=torch.bool),
        "distance": torch.rand(BATCH, SIDE, SIDE),
    }
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    start = 0.0
    for step in range(STEPS + 1):
        if step == 1:  # the first one warms up
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = module.loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return STEPS * BATCH / (time.perf_counter() - start), float(loss.detach())


def main() -> int:
    """Print the rates; 1 where the losses differ."""
    ways = {"as it was": (NO_STRIPS, nullcontext), "as it is": (blocks.STRIP, memory_kept)}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, float] = {}
    for _ in range(ROUNDS):
        for way, (strip, kept) in ways.items():
            with patch.object(blocks, "STRIP", strip), kept():
                rate, losses[way] = steps()
            rates[way].append(rate)
    show(
        [
            {
                "training": way,
                "crops / s": f"{np.median(some):.2f}",
                "loss": f"{losses[way]:.4f}",
            }
            for way, some in rates.items()
        ]
    )
    was, now = (np.array(rates[way]) for way in ways)
    print(
        f"{np.median(now / was):.2f} times as fast ({(now / was).min():.2f} … "
        f"{(now / was).max():.2f}), {torch.get_num_threads()} threads"
    )
    first, second = losses.values()
    return int(abs(first - second) > 0.02 * abs(first))


if __name__ == "__main__":
    sys.exit(main())
