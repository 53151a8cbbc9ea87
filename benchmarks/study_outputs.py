"""Which outputs should a network have, so that touching cells come apart?

From the bundled weights, networks with different outputs learn from the same crops for the same
number of steps; each is read in every way that its outputs allow. Scored on the validation
images of dsb2018 at their true object size, by objects; nothing is chosen on test images.
Needs the images of dsb2018, and is not part of ``make bench``, as it takes long.

    python -m benchmarks.study_outputs [--steps 500] [--seeds 0] [--only NAME …] [--out FOLDER]

Outputs beside the three classes: the distance to the object's edge and the nearness to its
centre, both normalised by object (as in micro-sam, Archit et al. 2025), and unit vectors to the
centre (flows, as in Cellpose, Stringer et al. 2021).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.bench_loop import Images
from benchmarks.tables import show
from scipy import ndimage
from torch import Tensor, nn

from napari_sa2net.config import InputConfig, InstanceConfig, TrainConfig
from napari_sa2net.data.training_set import load_training_folder, split_items
from napari_sa2net.inference.instances import (
    SMALLEST_PART,
    Basins,
    _clean,
    label_objects,
)
from napari_sa2net.metrics import pool, score_image
from napari_sa2net.models import load_model
from napari_sa2net.nn import SA2Net
from napari_sa2net.training.dataset import (
    CLASSES,
    CropDataset,
    Example,
    ValidationDataset,
    class_targets,
    depths,
    distance_target,
    load_example,
    random_warp,
    sampling_weights,
    to_tensor,
    vary_intensity,
    warp_pair,
)
from napari_sa2net.training.losses import deep_supervision_loss, make_loss

#: Channels of each output beside the classes.
EXTRA = {"distance": 1, "centre": 1, "flow": 2}
VARIANTS: dict[str, tuple[str, ...]] = {
    "classes": (),
    "+ distance": ("distance",),
    "+ distance, centre, flow": ("distance", "centre", "flow"),
}
#: Weight of the other outputs' losses beside the classes'.
WEIGHT = 3.0
CONFIG = TrainConfig(diameter=30, batch_size=4, learning_rate=1e-3, seed=0)


class Crops(CropDataset):
    """Crops with targets for every output; the same crops for every variant."""

    def __init__(self, examples: list[Example], config: TrainConfig, length: int) -> None:
        super().__init__(examples, config, length)
        self.depths = [depths(e.labels) for e in self.examples]
        self.centres = [_centres(e.labels) for e in self.examples]
        self.cumulative = np.cumsum(sampling_weights(self.examples, config))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.config.seed, i])
        pick = int(np.searchsorted(self.cumulative, rng.random() * self.cumulative[-1]))
        example, crop = self.examples[pick], self.config.crop
        scale = self.config.diameter / example.diameter
        warp = random_warp(rng, example.labels.shape, crop, scale, example.centres)
        whole = np.full(example.labels.shape, 2, np.uint8)
        image, warped, grade = warp_pair(
            to_tensor(example.image), to_tensor(example.labels), to_tensor(whole), warp, crop
        )
        labels = warped.numpy()
        matrix = warp.matrix(crop)[0].numpy()
        middle, reach = self.centres[pick]
        moved = middle[:, ::-1] @ matrix[:, :2].T + matrix[:, 2]
        return {
            "image": vary_intensity(image, rng, example.is_colour),
            "target": torch.from_numpy(class_targets(labels).astype(np.int64)),
            "mask": grade > 0.5,
            "extra": torch.from_numpy(
                targets(
                    labels, self.depths[pick] * warp.scale, moved[:, ::-1], reach * warp.scale
                )
            ),
        }


def _centres(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each label its centre (y, x), a pixel of it, and the farthest pixel's distance."""
    n = int(labels.max(initial=0))
    middle, reach = np.zeros((n + 1, 2)), np.ones(n + 1)
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        at = np.argwhere(labels[box] == i)
        pixel = at[np.argmin(((at - np.median(at, 0)) ** 2).sum(1))]
        middle[i] = pixel + [b.start for b in box]
        reach[i] = max(1.0, np.sqrt(((at - pixel) ** 2).sum(1).max()))
    return middle, reach


def targets(
    labels: np.ndarray, deepest: np.ndarray, middle: np.ndarray, reach: np.ndarray
) -> np.ndarray:
    """(4, H, W) float32: distance, centre, flow along y and x."""
    y, x = np.indices(labels.shape, dtype=np.float32)
    dy, dx = middle[labels, 0] - y, middle[labels, 1] - x
    length = np.sqrt(dy**2 + dx**2)
    inside = labels > 0
    nearness = np.clip(1 - length / (reach[labels] + 1), 0, 1) * inside
    unit = np.stack([dy, dx]) / np.maximum(length, 1e-3) * inside
    distance = distance_target(labels, deepest)
    return np.concatenate([distance[None], nearness[None], unit]).astype(np.float32)


def extra_loss(logits: Tensor, target: Tensor, names: tuple[str, ...], mask: Tensor) -> Tensor:
    """Loss of the outputs beside the classes: mean over objects and background alike."""
    inside = (target[:, 0] > 0) & mask
    weight = inside / inside.sum().clamp(min=1) + 0.5 * (mask & ~inside) / (
        (mask & ~inside).sum().clamp(min=1)
    )
    total, at = torch.zeros(()), 0
    for name in names:
        n = EXTRA[name]
        here, at = logits[:, at : at + n].float(), at + n
        if name == "flow":
            error = F.smooth_l1_loss(here, target[:, 2:], beta=0.1, reduction="none").mean(1)
            total = total + (error * inside).sum() / inside.sum().clamp(min=1)
        else:
            wanted = target[:, 0 if name == "distance" else 1]
            error = F.smooth_l1_loss(here[:, 0].sigmoid(), wanted, beta=0.1, reduction="none")
            total = total + (error * weight).sum()
    return total


def network(names: tuple[str, ...]) -> SA2Net:
    """The bundled network's classes with heads for further outputs, at zero."""
    start = load_model("nuclei").net
    n = sum(EXTRA[name] for name in names)
    net = SA2Net(3, len(CLASSES) + n, start.base_channels)
    state = start.state_dict()
    for key in [k for k in state if k.startswith("outc")]:
        more = torch.zeros(n, *state[key].shape[1:])
        state[key] = torch.cat([state[key][: len(CLASSES)].float(), more])
    net.load_state_dict(state)
    return net


def train(names: tuple[str, ...], crops: Crops, steps: int) -> nn.Module:
    """Learn; returns the moving average of the weights."""
    torch.manual_seed(crops.config.seed)
    net = network(names).to(memory_format=torch.channels_last).train()
    mean = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=CONFIG.learning_rate, weight_decay=1e-2)
    loss = make_loss(CONFIG)
    began = time.perf_counter()
    for step, batch in enumerate(_batches(crops, steps)):
        done = step / steps
        rate = min(1.0, done / 0.05 + 0.02) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = CONFIG.learning_rate * rate
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            heads = net(image, deep_supervision=True)
        k, weights = len(CLASSES), CONFIG.head_weights
        total = deep_supervision_loss(
            loss, [h[:, :k] for h in heads], weights, batch["target"], batch["mask"]
        )
        if names:
            more = [extra_loss(h[:, k:], batch["extra"], names, batch["mask"]) for h in heads]
            total = total + WEIGHT * sum(
                w * m for w, m in zip(weights, more, strict=True)
            ) / sum(weights)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        keep = min(0.99, (1 + step) / (10 + step))
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                mean[key].lerp_(value, 1 - keep)
        if step % 50 == 49:
            took = (time.perf_counter() - began) / (step + 1)
            print(
                f"  step {step + 1}: loss {float(total):.3f}, {took:.2f} s a step", flush=True
            )
    net.load_state_dict(mean)
    return net.eval()


def _batches(crops: Crops, steps: int) -> Iterator[dict[str, Tensor]]:
    for step in range(steps):
        some = [crops[step * CONFIG.batch_size + j] for j in range(CONFIG.batch_size)]
        yield {key: torch.stack([one[key] for one in some]) for key in some[0]}


# --- reading -----------------------------------------------------------------------------


def cut(landscape: np.ndarray, mask: np.ndarray, depth: float) -> np.ndarray:
    """Objects of a mask, cut where the landscape has a pass at least so deep."""
    labels = np.zeros(mask.shape, np.int32)
    pixels = np.flatnonzero(mask)
    if pixels.size:
        basins = Basins(mask.shape, pixels, landscape.ravel()[pixels].astype(np.float32))
        group = basins.merged(depth, SMALLEST_PART)
        labels.ravel()[pixels] = (group + 1).astype(np.int32)[basins.basin]
    return _clean(labels, InstanceConfig())


def follow(flow: np.ndarray, mask: np.ndarray, steps: int = 30) -> np.ndarray:
    """Objects of the pixels that flow to the same place."""
    at = np.argwhere(mask).astype(np.float32)
    labels = np.zeros(mask.shape, np.int32)
    if not len(at):
        return labels
    smooth = ndimage.gaussian_filter(flow, (0, 1, 1))
    limit = np.array(mask.shape, np.float32) - 1
    for _ in range(steps):
        move = [ndimage.map_coordinates(part, at.T, order=1, mode="nearest") for part in smooth]
        at = np.clip(at + np.stack(move, 1), 0, limit)
    end = np.round(at).astype(int)
    heat = np.zeros(mask.shape, np.float32)
    np.add.at(heat, (end[:, 0], end[:, 1]), 1)
    heat = ndimage.gaussian_filter(heat, 2.0)
    basins = cut(heat / max(float(heat.max()), 1e-6), heat > 1e-3, 0.02)
    labels[mask] = basins[end[:, 0], end[:, 1]]
    return _clean(labels, InstanceConfig())


def readings(names: tuple[str, ...]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Ways to make objects of the outputs, by name."""
    config = InstanceConfig()
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "classes": lambda p: label_objects(p[:3], CLASSES, config)
    }

    def share(p: np.ndarray) -> np.ndarray:
        return p[1] / (p[1] + p[2] + 1e-3)

    if "distance" in names:
        for depth in (0.08, 0.12, 0.17, 0.25):
            ways[f"distance, {depth}"] = lambda p, h=depth: cut(
                ndimage.gaussian_filter(p[3], 1.0), p[0] <= 0.5, h
            )
        for w, depth in ((0.5, 0.17), (0.5, 0.25), (0.25, 0.17), (1.0, 0.3), (1.0, 0.4)):
            ways[f"distance + {w} share, {depth}"] = lambda p, w=w, h=depth: cut(
                ndimage.gaussian_filter(p[3], 1.0) + w * share(p), p[0] <= 0.5, h
            )
    if "centre" in names:
        for depth in (0.08, 0.12, 0.17, 0.25):
            ways[f"centre, {depth}"] = lambda p, h=depth: cut(
                ndimage.gaussian_filter(p[4], 1.0), p[0] <= 0.5, h
            )
        for depth in (0.17, 0.25, 0.35):
            ways[f"centre + distance, {depth}"] = lambda p, h=depth: cut(
                ndimage.gaussian_filter(p[3] + p[4], 1.0), p[0] <= 0.5, h
            )
    if "flow" in names:
        ways["flow"] = lambda p: follow(p[5:7], p[0] <= 0.5)
    return ways


def outputs_of(net: nn.Module, image: Tensor, names: tuple[str, ...]) -> np.ndarray:
    """(channels, H, W): probabilities of the classes, and the other outputs."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = net(image[None].contiguous(memory_format=torch.channels_last)).float()[0]
    k = len(CLASSES)
    parts, at = [logits[:k].softmax(0)], k
    for name in names:
        here, at = logits[at : at + EXTRA[name]], at + EXTRA[name]
        parts.append(here if name == "flow" else here.sigmoid())
    return torch.cat(parts).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    parser.add_argument("--out", type=Path, help="networks are kept here, and not made twice")
    args = parser.parse_args()
    images = Images()
    if not images.real:
        raise SystemExit("The images of dsb2018 are needed; set SA2NET_DATA.")
    learned, held = split_items(load_training_folder(images.folder, ("train", "val")), 0.1, 0)
    load = [load_example(i, InputConfig(), CONFIG.diameter) for i in learned]
    validation = ValidationDataset(
        [load_example(i, InputConfig(), CONFIG.diameter) for i in held], CONFIG
    )
    kinds = [i.kind for i in held]
    rows = []
    for seed in args.seeds:
        config = CONFIG.model_copy(update={"seed": seed, "kind_weights": {"rgb": 0.35}})
        crops = Crops(load, config, args.steps * CONFIG.batch_size)
        for variant in args.only:
            names = VARIANTS[variant]
            file = (
                args.out
                and args.out / f"{'-'.join(('classes', *names))}_{args.steps}_{seed}.pt"
            )
            print(f"{variant}, seed {seed}", flush=True)
            if file and file.is_file():
                net = network(names).to(memory_format=torch.channels_last)
                net.load_state_dict(torch.load(file, weights_only=True))
                net.eval()
            else:
                net = train(names, crops, args.steps)
                if file:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    torch.save(net.state_dict(), file)
            scores: dict[str, list] = {}
            for i in range(len(validation)):
                one = validation[i]
                p = outputs_of(net, one["image"], names)
                for way, read in readings(names).items():
                    scores.setdefault(way, []).append(
                        score_image(read(p), one["labels"].numpy())
                    )
            for way, some in scores.items():
                row = {"trained": variant, "seed": seed, "read by": way}
                for kind in ("all", "fluo", "rgb"):
                    own = [s for s, k in zip(some, kinds, strict=True) if kind in ("all", k)]
                    pooled = pool(own)
                    row[kind] = f"{pooled['ap50']:.3f} / {pooled['mean_ap']:.3f}"
                rows.append(row)
            show(rows)
            if args.out:
                (args.out / "rows.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
