"""Train the network that marks the object under a click (`inference.click`).

    python -m benchmarks.study_click OUT.safetensors [--minutes 50] [--seed 0]

It learns from the images that the bundled model learned from (`benchmarks.training_data`), with
what that model makes of them: from every object, from one that it missed six times as often.
That model knows these images, and misses little; so it also sees each of them as other stains,
microscopes and cameras would show it (`widely`), and learns from what was missed there.
Every fifth image is left out and scored. Not part of ``make bench``, as it takes long.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.training_data import CELLS, DATA, NUCLEI
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage
from skimage.transform import resize
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import napari_sa2net as sa2net
from napari_sa2net.data import read_image
from napari_sa2net.inference.click import REACH, ClickNet, object_at
from napari_sa2net.training.click import ClickExample, ClickLook, both_losses
from napari_sa2net.training.dataset import degrade, vary_intensity

#: Larger images are cut to this side (px), and objects of fewer pixels are left out.
LARGEST, SMALLEST = 640, 25
#: Share of the crops from each source.
SHARES = {
    "train": 0.48,
    "dsb2018_stage1_test": 0.3,
    "bbbc039": 0.06,
    "usiigaci_t98g": 0.06,
    "cellbindb_demo": 0.05,
    "yeastvision_phase": 0.03,
    "ecoli_dapi": 0.02,
}
BATCH, RATE = 32, 3e-3
#: Share of the crops from images as others would show them; so much smaller they are at most,
#: and this share of them is.
WIDELY, COARSEST, COARSE = 0.6, 0.45, 0.6
#: Share of the clicks where nothing is, and of these anywhere; the others are where the model
#: sees something, or near an object.
NOTHING, ANYWHERE = 0.25, 0.4


@dataclass
class Case:
    """An image with its truth and what the bundled model found."""

    source: str
    kind: str
    image: Tensor
    truth: NDArray[np.int32]
    labels: Tensor
    seen: Tensor
    diameter: float
    is_varied: bool = False
    objects: list[tuple[int, float]] = field(default_factory=list)
    """Number and best IoU with what was found, of each object."""

    @cached_property
    def places(self) -> list[tuple[slice, slice]]:
        """Box of each object."""
        return ndimage.find_objects(self.truth)  # type: ignore[no-any-return]

    def click(self, number: int, rng: np.random.Generator) -> tuple[int, int]:
        """A place well inside an object."""
        where = self.places[number - 1]
        inside = np.pad(self.truth[where] == number, 1)
        depth = ndimage.distance_transform_edt(inside)
        ys, xs = np.nonzero(depth >= depth.max() / 2)
        i = rng.integers(len(ys))
        return ys[i] - 1 + where[0].start, xs[i] - 1 + where[1].start

    def around(
        self, point: tuple[float, float], reach: float
    ) -> tuple[tuple[slice, slice], tuple[int, int]]:
        """A square around a point, and its first pixel."""
        first = [max(0, math.floor(at - reach)) for at in point]
        last = [
            min(n, math.ceil(at + reach) + 1)
            for at, n in zip(point, self.truth.shape, strict=True)
        ]
        cut = slice(first[0], last[0]), slice(first[1], last[1])
        return cut, (first[0], first[1])

    def example(self, number: int) -> ClickExample:
        """Of an object."""
        y, x = (float(p.start + p.stop - 1) / 2 for p in self.places[number - 1])
        cut, _ = self.around((y, x), self.diameter * 1.4 * REACH)
        return self._example(cut, self.truth[cut] == number)

    def _example(self, cut: Any, own: NDArray[np.bool_], empty: bool = False) -> ClickExample:
        return ClickExample(
            self.image[:, *cut].numpy(),
            self.seen[:, *cut].numpy(),
            self.labels[cut].numpy(),
            own,
            self.diameter,
            empty,
        )

    @cached_property
    def _empty(self) -> list[NDArray[np.intp]]:
        """Places without an object: all, those that may be taken for one, those near one."""
        empty = self.truth == 0
        taken = (self.seen[0].numpy() > 0.15) | (self.labels.numpy() > 0)
        reach = max(2, int(0.6 * self.diameter))
        near = ndimage.binary_dilation(~empty, iterations=reach)
        some = [np.argwhere(empty & where) for where in (taken, near)]
        return [np.argwhere(empty), *(places for places in some if len(places) > 20)]

    def nothing(self, rng: np.random.Generator) -> ClickExample | None:
        """Of a place without an object; None where there is none."""
        anywhere, *hard = self._empty
        is_anywhere = rng.random() < ANYWHERE or not hard
        places = anywhere if is_anywhere else hard[rng.integers(len(hard))]
        if not len(places):
            return None
        y, x = places[rng.integers(len(places))]
        cut, (top, left) = self.around((y, x), self.diameter * 1.4 * REACH)
        own = np.zeros(self.truth[cut].shape, bool)
        own[y - top, x - left] = True
        return self._example(cut, own, empty=True)


def rows(table: Path) -> list[dict[str, str]]:
    """Of a CSV file."""
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def learned() -> Iterator[tuple[str, str, Path, str]]:
    """(source, kind, folder, name) of the images to learn from."""
    for row in rows(DATA / "dsb2018" / "index.csv"):
        if row["split"] == "train":
            yield "train", row["kind"], DATA / "dsb2018" / "train", row["name"]
    for row in rows(DATA / "more" / "index.csv"):
        if (row["source"], row["kind"]) in {**NUCLEI, **CELLS}:
            yield row["source"], row["kind"], DATA / "more" / row["source"], row["name"]


def widely(
    image: NDArray[Any], truth: NDArray[np.int32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """An image (H, W) or (H, W, 3) as others would show it, and its truth on its pixels."""
    values = _scaled(image)
    colour = bool(np.ptp(values, axis=-1).max() > 0.05)
    zoom = math.exp(rng.uniform(math.log(COARSEST), 0)) if rng.random() < COARSE else 1.0
    if zoom < 1:
        size = [max(96, round(n * zoom)) for n in truth.shape]
        at = [
            np.minimum(((np.arange(n) + 0.5) * of / n).astype(int), of - 1)
            for n, of in zip(size, truth.shape, strict=True)
        ]
        values, truth = resize(values, size, anti_aliasing=True), truth[np.ix_(*at)]
    made = torch.tensor(np.moveaxis(values, -1, 0).astype(np.float32))
    made = vary_intensity(made, rng, colour, wide=True)
    if rng.random() < 0.5:
        made = degrade(made, rng)
    made = (made - made.min()) / (made.max() - made.min()).clamp(min=1e-6)
    return (np.moveaxis(made.numpy(), 0, -1) * 255).astype(np.uint8), truth


def _scaled(image: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, 3), about 0 … 1."""
    values = image[..., None].repeat(3, -1) if image.ndim == 2 else image[..., :3]
    low, high = np.percentile(values, (0.5, 99.8))
    scaled = np.clip((values - low) / max(high - low, 1e-6), -0.2, 1.5)
    return scaled.astype(np.float32)  # type: ignore[no-any-return]


def cases(files: Any, model: Any, rng: np.random.Generator | None = None) -> Iterator[Case]:
    """Images with truth and prediction, without those that show no object.

    ``rng``: as others would show them.
    """
    for source, kind, folder, name in files:
        cut = np.s_[:LARGEST, :LARGEST]
        image = np.asarray(read_image(folder / "images" / name).array)[cut]
        truth = np.asarray(read_image(folder / "labels" / name).array)[cut].astype(np.int32)
        if rng is not None:
            image, truth = widely(image, truth, rng)
        found = sa2net.segment(image, model=model)
        areas = np.bincount(truth.ravel())
        numbers = [i for i in np.unique(truth[truth > 0]) if areas[i] >= SMALLEST]
        if not numbers:
            continue
        sizes = np.bincount(found.labels.ravel())[1:]
        of = sizes[sizes > 0] if (sizes > 0).sum() >= 3 else areas[numbers]
        case = Case(
            source,
            kind,
            torch.tensor(np.ascontiguousarray(np.moveaxis(_scaled(image), -1, 0))),
            truth,
            torch.tensor(found.labels.astype(np.int32)),
            torch.tensor(np.asarray(found.probability, np.float32)[1:4]),
            2 * math.sqrt(float(np.median(of)) / math.pi),
            rng is not None,
        )
        for number in numbers:
            own = truth == number
            hits = np.bincount(found.labels[own], minlength=2)
            hits[0] = 0
            best = int(hits.argmax())
            union = areas[number] + (found.labels == best).sum() - hits[best]
            case.objects.append((int(number), float(hits[best] / union) if best else 0.0))
        yield case


def example(case: Case, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor] | None:
    """Input, truth and pixels that count for one click; None where little of it is seen."""
    if rng.random() < NOTHING:
        empty = case.nothing(rng)
        look = empty.look(rng, sizes=0.3) if empty is not None else None
        return None if look is None else _degraded(look, rng).given()
    weights = np.array([6.0 if best < 0.5 else 1.0 for _, best in case.objects])
    number, _ = case.objects[rng.choice(len(weights), p=weights / weights.sum())]
    look = case.example(number).look(rng, sizes=0.3)
    if look is None:
        return None
    inside, outside = [], []
    if rng.random() < 0.25:
        near = F.max_pool2d(look.own.float()[None], 13, 1, 6)[0].bool() & ~look.own
        outside = _some(near, rng)
    if rng.random() < 0.1:
        inside = _some(look.own, rng)
    return _degraded(look, rng).given(inside, outside)


def _degraded(look: ClickLook, rng: np.random.Generator) -> ClickLook:
    """In other colours, and now and then without what the model made of it."""
    seen = look.seen * float(rng.random() > 0.2)
    seen[2] *= float(rng.random() > 0.15)
    labels = look.labels * int(rng.random() > 0.3)
    return replace(look, image=_varied(look.image, rng), seen=seen, labels=labels)


def _some(where: Tensor, rng: np.random.Generator) -> list[Any]:
    places = torch.nonzero(where)
    return [tuple(places[rng.integers(len(places))].tolist())] if len(places) else []


def _varied(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Inverted, brighter, in other colours, noisy or blurred."""
    if rng.random() < 0.25:
        image = 1 - image
    if rng.random() < 0.5:
        image = image.clamp(0, 1.5) ** float(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.5:
        image = image * float(np.exp(rng.normal(0, 0.2))) + float(rng.normal(0, 0.1))
    if rng.random() < 0.3:
        image = image[torch.tensor(rng.permutation(3))]
    if rng.random() < 0.2:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    if rng.random() < 0.3:
        image = image + torch.randn(image.shape) * float(rng.uniform(0, 0.1))
    if rng.random() < 0.25:
        side = int(rng.choice([3, 5]))
        image = F.avg_pool2d(image[None], side, 1, side // 2, count_include_pad=False)[0]
    return image


def train(some: list[Case], minutes: float, seed: int) -> ClickNet:
    """Train for so many minutes of processor time."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    weights = np.zeros(len(some))
    for i, case in enumerate(some):
        missed = min(sum(best < 0.5 for _, best in case.objects), 10)
        weights[i] = min(len(case.objects), 30) ** 0.5 * (1 + missed / 3)
        weights[i] *= 1 if case.kind == "fluo" else 2
    for source, share in SHARES.items():
        for is_varied, own in ((False, 1 - WIDELY), (True, WIDELY)):
            of = np.array([(c.source, c.is_varied) == (source, is_varied) for c in some])
            weights[of] *= share * own / max(weights[of].sum(), 1e-9)
    weights /= weights.sum()
    net = ClickNet().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2)
    start, step = time.process_time(), 0
    while (done := (time.process_time() - start) / (minutes * 60)) < 1:
        rate = RATE * min(1, (step + 1) / 100) * (0.01 + 0.495 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch: list[Any] = []
        while len(batch) < BATCH:
            one = example(some[rng.choice(len(some), p=weights)], rng)
            batch += [one] if one is not None else []
        x, truth, counts = (torch.stack(part) for part in zip(*batch, strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            answers = net(x.contiguous(memory_format=torch.channels_last))
        logits, scores = (part.float() for part in answers)
        value = both_losses(scores, logits, truth, counts)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        mean.update_parameters(net)
        step += 1
        if step % 500 == 0:
            print(f"{step} steps, {done:.0%}, loss {value.detach():.3f}", flush=True)
    return mean.module.eval()  # type: ignore[no-any-return]


def score(
    some: Any, net: ClickNet | None = None, most: int = 40, seed: int = 1
) -> Iterator[tuple[Case, float, float]]:
    """IoU of the first click on each missed object, and of a disc of the typical size there."""
    rng = np.random.default_rng(seed)
    for case in some:
        missed = [number for number, best in case.objects if best < 0.5]
        rng.shuffle(missed)
        for number in missed[:most]:
            y, x = case.click(number, rng)
            cut, (top, left) = case.around((y, x), case.diameter * (REACH + 0.5))
            height, width = case.truth.shape
            own = case.truth == number
            mask = object_at(
                case.image[:, *cut].numpy(),
                case.labels[cut].numpy(),
                (y - top, x - left),
                case.diameter,
                seen=case.seen[:, *cut].numpy(),
                net=net,
            )
            rows, columns = np.ogrid[:height, :width]
            disc = (rows - y) ** 2 + (columns - x) ** 2 <= (case.diameter / 2) ** 2
            whole = np.zeros_like(own)
            whole[cut] = mask
            yield case, *(float((m & own).sum() / (m | own).sum()) for m in (whole, disc))


def main() -> None:
    """Train, score what was left out, and write the weights as float16."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    model, files = sa2net.load_model("nuclei"), list(learned())
    some, left_out = [f for i, f in enumerate(files) if i % 5], files[::5]
    varied = cases(some, model, np.random.default_rng(asked.seed))
    net = train([*cases(some, model), *varied], asked.minutes, asked.seed)
    ious = np.array([both[1:] for both in score(cases(left_out, model), net)])
    first, disc = (ious >= 0.5).mean(axis=0)
    print(f"{len(ious)} missed objects left out: first click {first:.3f}, a disc {disc:.3f}")
    state = {key: value.half().contiguous() for key, value in net.state_dict().items()}
    save_file(state, asked.out)


if __name__ == "__main__":
    main()
