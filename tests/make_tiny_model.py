"""Make ``tests/tiny.safetensors``: a base 4 network that finds synthetic nuclei.

Run with ``python tests/make_tiny_model.py`` after a change of the model file's format.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from skimage.segmentation import find_boundaries

from napari_sa2net.config import NetworkConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import save_model
from napari_sa2net.nn import SA2Net

STEPS, BATCH, SIDE = 150, 4, 128


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, 3, H, W) and classes (B, H, W) of one step."""
    images, classes = [], []
    for i in range(BATCH):
        image, labels = synthetic_nuclei((SIDE, SIDE), 8 + step % 8, seed=step * BATCH + i)
        images.append(plan_image(image).read((), 0, SIDE, 0, SIDE))
        classes.append(np.where(find_boundaries(labels, mode="inner"), 2, labels > 0))
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(classes)).long()


def main() -> None:
    torch.manual_seed(0)
    net = SA2Net(in_channels=3, n_classes=3, base_channels=4).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    weight = torch.tensor([1.0, 1.0, 2.0])
    for step in range(STEPS):
        x, y = batch(step)
        loss = torch.nn.functional.cross_entropy(net(x), y, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 24:
            print(step + 1, round(loss.item(), 3))
    card = ModelCard(
        name="tiny",
        description="For tests only",
        network=NetworkConfig(in_channels=3, n_classes=3, base_channels=4),
        classes=("background", "interior", "boundary"),
        created="2026-01-01T00:00:00+00:00",
    )
    save_model(Path(__file__).with_name("tiny.safetensors"), net.eval(), card, "float16")


if __name__ == "__main__":
    main()
