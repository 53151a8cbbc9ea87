"""Do the attention maps say anything? Four questions, each with its control.

*weights*: do the maps depend on what was learned? Weights are drawn anew stage by stage, from
the last one back (Adebayo et al. 2018), and the maps compared with the trained network's.
Control: what these share with the predicted foreground.
*seeds*: do three trainings that differ in their seed alone show the same maps? (Arun et al.,
2020) Controls: what the first one's share with the predicted foreground and with the image.
*deletion*: does the network rely on ψ where ψ is high? ψ of one stage is set to 0 on a fifth of
its map, and the network decides again; given is how far the Dice of the foreground falls. The
same for the places that Grad-CAM and occlusion call important. Controls of ψ: the area moved;
and areas of the same size with as many pixels of cells.
*usefulness*: do the maps tell which cells are wrong (IoU < 0.5 with every true object)? The
area under the ROC curve of single quantities and, by logistic regressions that were fitted on
validation images, of several; beside the present order of review.

    python -m benchmarks evidence [--weights --seeds --deletion --usefulness]

Images: test images of the 2018 Data Science Bowl, and probes for the last question. Everything
is seeded. Intervals are of 95 %, by bootstrap over images. Nothing is chosen by these figures.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.bench_accuracy import DATA, EVERY, Picture, probes, test_images
from benchmarks.bench_review import best_iou
from benchmarks.tables import show
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize
from scipy.stats import rankdata, spearmanr
from skimage.metrics import structural_similarity
from skimage.transform import resize
from torch import Tensor, nn

import napari_sa2net as sa2net
from napari_sa2net.config import CLASSES, TrainConfig
from napari_sa2net.data import plan_image, read_image
from napari_sa2net.data.training_set import load_training_folder, split_items
from napari_sa2net.edits import Corrections, ReviewQueue
from napari_sa2net.inference.cpu import optimised
from napari_sa2net.inference.instances import foreground_probability
from napari_sa2net.inference.predict import activate
from napari_sa2net.inference.tiling import ScaledPlane, network_scale
from napari_sa2net.models import Model, load_model
from napari_sa2net.nn import SA2Net, pad_to_stride

STAGES = {8: "ψ 1/8", 4: "ψ 1/4", 2: "ψ 1/2", 1: "ψ full"}
GATES = "scale gates"
#: Part of a map that is suppressed.
SHARE = 0.2
#: Controls that are drawn are averaged over so many.
DRAWS = 3
#: Images of the first three questions: every so many-th by name, their middle of this side.
FEW, CROP = 6, 256
#: Occlusion covers a patch at a time, so many along each side of the image.
PATCHES = 10
#: Steps of each of the three trainings.
STEPS = int(os.environ.get("SA2NET_BENCH_STEPS", 400))
RESAMPLES = 2000

Mask = NDArray[np.bool_]
Values = NDArray[np.floating]


@dataclass(frozen=True)
class Case:
    """An image with its truth."""

    image: NDArray[np.generic]
    truth: NDArray[np.integer]

    @property
    def diameter(self) -> float:
        """Median diameter of the circles with the objects' areas."""
        areas = np.unique(self.truth[self.truth > 0], return_counts=True)[1]
        return float(np.median(np.sqrt(4 * areas / np.pi)))


def cases() -> Iterator[Case]:
    """Every so many-th test image by name; of larger ones their middle."""
    for picture in sorted(test_images(), key=lambda one: one.name)[::FEW]:
        top, left = (max(0, (n - CROP) // 2) for n in picture.truth.shape)
        window = slice(top, top + CROP), slice(left, left + CROP)
        if picture.truth[window].any():
            yield Case(picture.image[window], picture.truth[window])


def mean_interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and the bootstrap interval over images."""
    draw = np.random.default_rng(1).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(np.asarray(values)[draw].mean(axis=1), (2.5, 97.5))
    # Adding 0 makes a rounded -0.0 a plain zero.
    mean, low, high = (round(float(v), digits) + 0.0 for v in (np.mean(values), low, high))
    return f"{mean:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"


# --- maps, and how alike two of them are -------------------------------------------------


class Scene:
    """An image as a network gets it."""

    def __init__(self, model: Model, case: Case) -> None:
        plan = plan_image(case.image, model_input=model.card.input, in_channels=3)
        scale = network_scale(case.diameter, model.card.diameter, plan.spatial)
        self.plane = ScaledPlane(plan, (), scale)
        self.shape = self.plane.shape
        values = self.plane.read(0, self.shape[0], 0, self.shape[1])
        self.x = pad_to_stride(torch.from_numpy(values)[None])

    def to_image(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (C, h, w) at image size."""
        rows, columns = self.plane.plan.spatial
        return self.plane.to_image(probability, (0, 0), (0, rows, 0, columns))

    def crop(self, values: Tensor, stride: int) -> NDArray[np.float32]:
        """A map without what pads the image."""
        height, width = (-(-n // stride) for n in self.shape)
        return values[..., :height, :width].detach().numpy()


def maps(net: SA2Net, scene: Scene) -> dict[str, list[Values]]:
    """ψ of the four stages and the four scale gates, of the network as it is."""
    found: dict[str, list[Values]] = {}
    handles = []
    for up, (stride, name) in zip(
        (net.up4, net.up3, net.up2, net.up1), STAGES.items(), strict=True
    ):

        def keep(_m: object, _i: object, psi: Tensor, s: int = stride, n: str = name) -> None:
            found[n] = [scene.crop(psi[0, 0], s)]

        handles.append(up.AG.focal.register_forward_hook(keep))

    def gates(_m: object, _i: object, values: Tensor) -> None:
        found[GATES] = list(scene.crop(values[0], 4))

    handles.append(net.bottleneck.scale_gates.register_forward_hook(gates))
    try:
        with torch.inference_mode():
            net(scene.x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def alike(first: Sequence[Values], second: Sequence[Values]) -> tuple[float, float]:
    """Rank correlation and SSIM of maps, each scaled to 0…1; of a flat map both are 0."""
    rank, structure = [], []
    for a, b in zip(first, second, strict=True):
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            rank.append(0.0)
            structure.append(0.0)
            continue
        rank.append(float(spearmanr(a.ravel(), b.ravel()).statistic))
        a, b = ((m - m.min()) / np.ptp(m) for m in (a, b))
        window = min(7, *(n - 1 + n % 2 for n in a.shape))
        structure.append(float(structural_similarity(a, b, win_size=window, data_range=1.0)))
    return float(np.mean(rank)), float(np.mean(structure))


def foreground_of(model: Model, scene: Scene) -> NDArray[np.float32]:
    """The predicted foreground (h, w) as the network sees it, 0…1."""
    with torch.inference_mode():
        logits = model.net(scene.x).float()
    probability = scene.crop(activate(logits, len(CLASSES))[0], 1)
    return foreground_probability(probability, model.card.classes)


def as_large(picture: Values, own: Sequence[Values]) -> list[Values]:
    """A picture at the size of each map."""
    return [resize(picture, one.shape, anti_aliasing=True) for one in own]


def table(found: dict[tuple[str, str], list[tuple[float, float]]], by: str) -> None:
    """Rows by the first key, columns by the second: rank correlation / SSIM."""
    rows = []
    for row in dict.fromkeys(row for row, _ in found):
        cells = {
            name: f"{mean_interval([r for r, _ in found[row, name]])} / "
            f"{mean_interval([s for _, s in found[row, name]])}"
            for name in dict.fromkeys(n for r, n in found if r == row)
        }
        rows.append({by: row, **cells})
    show(rows)


# --- weights ---------------------------------------------------------------------------------


def parts(net: SA2Net) -> dict[str, list[nn.Module]]:
    """The network from its end to its beginning."""
    known: dict[str, list[nn.Module]] = {
        "heads and full stage": [net.outc1, net.outc2, net.outc3, net.outc4, net.up1],
        "and 1/2": [net.up2],
        "and 1/4": [net.up3],
        "and 1/8": [net.up4],
        "and scale attention": [net.bottleneck],
    }
    used = {id(one) for some in known.values() for one in some}
    return {**known, "and encoder": [one for one in net.children() if id(one) not in used]}


def weights() -> None:
    """Maps of the trained network against those of one with drawn weights."""
    model = load_model("nuclei")
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    plain: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for case in cases():
        scene = Scene(model, case)
        trained = maps(model.net.eval(), scene)
        foreground = foreground_of(model, scene)
        for name, own in trained.items():
            likeness = alike(own, as_large(foreground, own))
            plain.setdefault(("predicted foreground", name), []).append(likeness)
        for seed in range(DRAWS):
            net = copy.deepcopy(model.net).eval()
            torch.manual_seed(seed)
            for part, modules in parts(net).items():
                for module in (one for top in modules for one in top.modules()):
                    if hasattr(module, "reset_parameters"):
                        module.reset_parameters()
                    if isinstance(module, nn.BatchNorm2d):
                        module.train()  # statistics of drawn weights are those of the image
                for name, drawn in maps(net, scene).items():
                    found.setdefault((part, name), []).append(alike(trained[name], drawn))
    # the draws of an image are one observation
    merged = {
        key: [tuple(np.mean(some[i : i + DRAWS], axis=0)) for i in range(0, len(some), DRAWS)]
        for key, some in found.items()
    }
    print(
        "Weights drawn anew, from the end back: rank correlation / SSIM with the trained maps"
    )
    table(merged, "drawn")
    print("\nMaps as trained")
    table(plain, "compared with")


# --- seeds -----------------------------------------------------------------------------------


def seeds() -> None:
    """Maps of three trainings that differ in their seed alone."""
    from napari_sa2net.training.train import train_folder

    config = TrainConfig(
        steps=STEPS,
        batch_size=4,
        diameter=28,
        learning_rate=1.5e-3,
        ema_decay=0.98,
        validate_every=STEPS,
        max_validation_images=8,
    )
    models = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["SA2NET_HOME"] = home
        for seed in range(3):
            own = config.model_copy(update={"seed": seed, "validation_fraction": 0.1})
            made = train_folder(DATA / "dsb2018", f"seed-{seed}", own)
            scores = made.card.scores["validation"]
            print(f"seed {seed}: {STEPS} steps, AP@0.5 of validation {scores['ap50']:.3f}")
            models.append(load_model(made.path))
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for case in cases():
        scene = Scene(models[0], case)
        of_seeds = [maps(m.net.eval(), scene) for m in models]
        foreground = foreground_of(models[0], scene)
        for name, psi in of_seeds[0].items():
            pairs = [alike(a[name], b[name]) for a, b in combinations(of_seeds, 2)]
            rank, structure = (float(np.mean(one)) for one in zip(*pairs, strict=True))
            found.setdefault(("another seed", name), []).append((rank, structure))
            for control, picture in (
                ("map and predicted foreground", foreground),
                ("map and image", scene.crop(scene.x[0].mean(0), 1)),
            ):
                likeness = alike(psi, as_large(picture, psi))
                found.setdefault((control, name), []).append(likeness)
    print(
        "Three trainings, each against the others, and what a map of the first shares with "
        "plainer pictures: rank correlation / SSIM"
    )
    table(found, "compared")


# --- deletion --------------------------------------------------------------------------------


class Decoder:
    """One image's encoder output, decoded as often as wanted with ψ of one stage changed."""

    def __init__(self, model: Model, case: Case) -> None:
        assert isinstance(model.net, SA2Net)
        self.net, self.card = model.net, model.card
        self.scene = Scene(model, case)
        self.truth = case.truth > 0
        self.quick = optimised(model.net, torch.device("cpu"), torch.bfloat16)
        scales, deepest = self.net.encode(self.scene.x)
        self.skips = self.net.bottleneck(scales)
        self.ups = (self.net.up4, self.net.up3, self.net.up2, self.net.up1)
        # What goes into each stage; a change in one leaves the stages before it as they are.
        self.inputs = [deepest]
        for up, skip in zip(self.ups, self.skips[::-1], strict=True):
            self.inputs.append(up(self.inputs[-1], skip))

    def logits(self, stride: int, skip: Tensor | None = None) -> Tensor:
        """Logits (C, h, w) of what comes from a stage on, perhaps with another skip."""
        first = list(STAGES).index(stride)
        feature = self.inputs[first]
        for k in range(first, len(self.ups)):
            own = self.skips[3 - k] if skip is None or k > first else skip
            feature = self.ups[k](feature, own)
        height, width = self.scene.shape
        return self.net.outc4(feature)[0, :, :height, :width]

    def fall(self, as_is: float, stride: int, off: Mask) -> float:
        """How far Dice falls (points of 100) with ψ set to 0 on a mask of one stage's map."""
        closed = torch.from_numpy(off)

        def suppress(_module: object, _inputs: object, psi: Tensor) -> Tensor:
            return psi.masked_fill(closed, 0.0)

        gate = self.ups[list(STAGES).index(stride)].AG
        handle = gate.focal.register_forward_hook(suppress)
        try:
            return 100 * (as_is - self.dice(stride))
        finally:
            handle.remove()

    def dice(self, stride: int = 1) -> float:
        """Dice of the foreground against the truth."""
        probability = activate(self.logits(stride)[None], len(CLASSES))[0].numpy()
        values = foreground_probability(self.scene.to_image(probability), self.card.classes)
        found = values >= self.card.instance.foreground
        total = int(found.sum() + self.truth.sum())
        return 2 * float((found & self.truth).sum()) / max(1, total)

    def psi(self, stride: int) -> NDArray[np.float32]:
        """The map of a stage as it is, (h, w), with what pads the image."""
        kept: list[Tensor] = []
        k = list(STAGES).index(stride)
        gate = self.ups[k].AG
        handle = gate.focal.register_forward_hook(lambda _m, _i, psi: kept.append(psi))
        try:
            gate(self.inputs[k], self.skips[3 - k])
        finally:
            handle.remove()
        return kept[0][0, 0].numpy()

    def grad_cam(self, stride: int) -> NDArray[np.float32]:
        """Grad-CAM (Selvaraju et al. 2017) of the foreground for the skip that ψ gates."""
        with torch.enable_grad():
            skip = self.skips[3 - list(STAGES).index(stride)].clone().requires_grad_(True)
            logits = self.logits(stride, skip)
            sure = logits[1 : len(CLASSES)].logsumexp(0) - logits[0]
            (gradient,) = torch.autograd.grad(sure[sure > 0].sum(), skip)
        weight = gradient.mean((2, 3), keepdim=True)
        return F.relu((weight * skip.detach()).sum(1))[0].numpy()

    def occlusion(self) -> NDArray[np.float32]:
        """By how much the predicted foreground falls when a patch of the image is covered."""
        before = self._probability(self.scene.x)
        inside = before > 0.5
        plain, (height, width) = self.scene.x.median(), before.shape
        step = -(-max(height, width) // PATCHES)
        rows = []
        for y in range(0, height, step):
            row = []
            for x in range(0, width, step):
                covered = self.scene.x.clone()
                covered[..., y : y + step, x : x + step] = plain
                row.append(float((before - self._probability(covered))[inside].sum()))
            rows.append(row)
        patch = np.ones((step, step), np.float32)
        return np.kron(np.asarray(rows, np.float32), patch)[:height, :width]

    def _probability(self, x: Tensor) -> Tensor:
        return 1 - activate(self.quick(x).float(), len(CLASSES))[0, 0]


def top(values: Values, rng: np.random.Generator, among: Mask, n: int) -> Mask:
    """The n highest places of a mask."""
    # Saturated maps have many equal values; among those chance decides, not the place.
    order = np.lexsort((rng.random(values.size), np.where(among, values, -np.inf).ravel()))
    chosen = np.zeros(values.size, bool)
    chosen[order[values.size - n :]] = True
    return chosen.reshape(values.shape)


def areas(
    psi: Values, cells: Mask, others: dict[str, Values], rng: np.random.Generator
) -> dict[str, list[Mask]]:
    """Where to suppress: equal numbers of pixels each."""
    n, everywhere = round(SHARE * psi.size), np.ones(psi.shape, bool)
    highest = top(psi, rng, everywhere, n)
    inside = int((highest & cells).sum())
    moved = [
        np.roll(highest, [int(rng.integers(1, m)) for m in psi.shape], (0, 1))
        for _ in range(DRAWS)
    ]
    # Blobs about as wide as those of a map, so that chance gets no dust.
    noise = [ndimage.gaussian_filter(rng.random(psi.shape), 2) for _ in range(DRAWS)]
    share = [top(v, rng, cells, inside) | top(v, rng, ~cells, n - inside) for v in noise]
    return {
        "ψ highest": [highest],
        "ψ lowest": [top(-psi, rng, everywhere, n)],
        "moved": moved,
        "same share of cells": share,
        **{name: [top(values, rng, everywhere, n)] for name, values in others.items()},
    }


def deletion() -> None:
    """ψ closed by place, per stage."""
    model, rng = load_model("nuclei"), np.random.default_rng(0)
    model.net.eval()
    falls: dict[str, dict[str, list[float]]] = {name: {} for name in STAGES.values()}
    inside: dict[str, list[float]] = {name: [] for name in STAGES.values()}
    before = []
    with torch.no_grad():
        for case in cases():
            decoder = Decoder(model, case)
            as_is, covered = decoder.dice(), decoder.occlusion()
            before.append(100 * as_is)
            truth = np.zeros(covered.shape)
            height, width = decoder.scene.shape
            truth[:height, :width] = resize(
                decoder.truth.astype(float), (height, width), order=1
            )
            for stride, name in STAGES.items():
                psi = decoder.psi(stride)
                cells = resize(truth, psi.shape, order=1) >= 0.5
                others = {
                    "Grad-CAM highest": decoder.grad_cam(stride),
                    "occlusion highest": resize(covered, psi.shape, order=1),
                }
                chosen = areas(psi, cells, others, rng)
                inside[name].append(100 * float(cells[chosen["ψ highest"][0]].mean()))
                for place, masks in chosen.items():
                    left = [decoder.fall(as_is, stride, mask) for mask in masks]
                    falls[name].setdefault(place, []).append(float(np.mean(left)))
    print(f"ψ closed: fall of foreground Dice in points, of {np.mean(before):.1f}")
    rows = []
    for name, places in falls.items():
        row = {"stage": name, **{place: mean_interval(v, 1) for place, v in places.items()}}
        fair = np.subtract(places["ψ highest"], places["same share of cells"])
        row["highest − same share"] = mean_interval(fair.tolist(), 1)
        row["% of highest in cells"] = mean_interval(inside[name], 0)
        rows.append(row)
    show(rows)


# --- usefulness ------------------------------------------------------------------------------

PSI = [f"psi_{s}_{where}" for s in STAGES for where in ("inside", "boundary", "outside")]
MOVED = [f"moved_{s}_{how}_px" for s in (4, 2, 1) for how in ("mean", "max")]
GROUPS: dict[str, list[str]] = {
    "confidence": ["confidence"],
    "contested": ["contested"],
    "boundary movement": ["refinement_px", *MOVED],
    "flips": ["flips"],
    "ψ": PSI,
    GATES: [f"scale_gate_{i}" for i in (1, 2, 3, 4)],
    "ψ, gates, contested, movement": [
        *PSI,
        *[f"scale_gate_{i}" for i in (1, 2, 3, 4)],
        "contested",
        "refinement_px",
        *MOVED,
    ],
}
ORDER = "order of review"


@dataclass(frozen=True)
class Cells:
    """Quantities of the cells of one image, and which are wrong."""

    kind: str
    values: dict[str, Values]
    wrong: Mask


def cells_of(model: Model, picture: Picture) -> Cells | None:
    """Explain an image; None where nothing is found."""
    seen = sa2net.explain(picture.image, model)
    labels = np.asarray(seen.labels)
    if not labels.max():
        return None
    foreground = foreground_probability(np.asarray(seen.probability), model.card.classes)
    ids = seen.objects["label"].to_numpy()
    values = {
        name: seen.objects[name].to_numpy(float)
        for group in GROUPS.values()
        for name in group
        if name in seen.objects
    }
    flipped = []
    for axis in (0, 1):
        turned = sa2net.segment(
            np.flip(picture.image, axis), model, diameter=seen.diameter, table=False
        )
        p = foreground_probability(np.asarray(turned.probability), model.card.classes)
        flipped.append(np.abs(np.flip(p, axis) - foreground))
    values["flips"] = ndimage.mean(np.mean(flipped, axis=0), labels, ids)
    queue = ReviewQueue(Corrections(labels), foreground=foreground).score_all()
    doubts = [queue.doubt(int(label)) for label in ids]
    values[ORDER] = np.array([0.0 if d is None else d.score for d in doubts])
    wrong = best_iou(labels, picture.truth.astype(np.int64))[ids] < 0.5
    return Cells(picture.kind, values, wrong)


def validation_images() -> Iterator[Picture]:
    """Images that no bundled model learned from, and that no table here is printed of."""
    _, held = split_items(load_training_folder(DATA / "dsb2018"), 0.1, 0)
    for item in held[::EVERY]:
        image, truth = (np.asarray(read_image(p).array) for p in (item.image, item.labels))
        yield Picture(item.name, item.kind, image, truth)


class Regression:
    """Logistic regression of ranked quantities, with a little ridge."""

    def __init__(self, names: Sequence[str], cells: Sequence[Cells]) -> None:
        self.names = names
        raw = self._columns(cells)
        self.sorted = np.sort(raw, axis=0)
        x, y = self._ranked(raw), np.concatenate([c.wrong for c in cells]).astype(float)

        def loss(w: Values) -> tuple[float, Values]:
            z = x @ w
            p = 1 / (1 + np.exp(-z))
            ridge = np.append(w[:-1], 0)
            value = np.logaddexp(0, z).sum() - (y * z).sum() + 0.5 * (ridge**2).sum()
            return float(value), x.T @ (p - y) + ridge

        self.weights = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x

    def __call__(self, cells: Cells) -> Values:
        """Higher: more likely wrong."""
        return np.asarray(self._ranked(self._columns([cells])) @ self.weights)

    def _columns(self, cells: Sequence[Cells]) -> Values:
        columns = [np.concatenate([c.values[n] for c in cells]) for n in self.names]
        return np.stack(columns, axis=1)

    def _ranked(self, raw: Values) -> Values:
        """Each quantity as its rank among those fitted to, and whether it is known."""
        known = np.isfinite(raw)
        ranks = np.empty(raw.shape)
        for i in range(raw.shape[1]):
            base = self.sorted[:, i][np.isfinite(self.sorted[:, i])]
            ranks[:, i] = np.searchsorted(base, raw[:, i]) / max(1, base.size) - 0.5
        columns = [np.where(known, ranks, 0), ~known, np.ones((len(raw), 1))]
        return np.concatenate(columns, axis=1)


def auroc(scores: Values, wrong: Mask) -> float:
    """Chance that a wrong cell scores above a right one."""
    n = int(wrong.sum())
    if not 0 < n < wrong.size:
        return float("nan")
    above = rankdata(scores)[wrong].sum() - n * (n + 1) / 2
    return float(above / (n * (wrong.size - n)))


def usefulness() -> None:
    """AUROC of quantities for wrong cells, on test images and on probes of nuclei."""
    model = load_model("nuclei")

    def found(pictures: Callable[[], Iterator[Picture] | list[Picture]]) -> list[Cells]:
        made = (cells_of(model, picture) for picture in pictures())
        return [one for one in made if one is not None]

    fitted = found(validation_images)
    n = sum(c.wrong.size for c in fitted)
    print(f"fitted on {len(fitted)} validation images, {n} cells")
    scores: dict[str, Callable[[Cells], Values]] = {ORDER: lambda cells: cells.values[ORDER]}
    scores |= {name: Regression(group, fitted) for name, group in GROUPS.items()}
    maps_too = [ORDER, *GROUPS["ψ, gates, contested, movement"]]
    scores["order and confidence, flips"] = Regression([ORDER, "confidence", "flips"], fitted)
    scores["order and maps"] = Regression(maps_too, fitted)
    scores["all"] = Regression([*maps_too, "confidence", "flips"], fitted)
    for what, some in (
        ("test images", found(test_images)),
        ("probes", found(lambda: [p for p in probes() if p.kind.endswith("nuclei")])),
    ):
        wrong = sum(int(c.wrong.sum()) for c in some)
        total = sum(c.wrong.size for c in some)
        print(f"\n{what}: {len(some)} images, {total} cells, {wrong} of them wrong")
        given = {name: [score(cells) for cells in some] for name, score in scores.items()}
        wrongs = [cells.wrong for cells in some]
        rng, drawn = np.random.default_rng(0), []
        for _ in range(RESAMPLES // 4):
            pick = rng.integers(0, len(some), len(some))
            truth = np.concatenate([wrongs[i] for i in pick])
            drawn.append(
                {
                    k: auroc(np.concatenate([v[i] for i in pick]), truth)
                    for k, v in given.items()
                }
            )
        rows = []
        for name, values in given.items():
            area = auroc(np.concatenate(values), np.concatenate(wrongs))
            low, high = np.nanpercentile([d[name] for d in drawn], (2.5, 97.5))
            row = {"by": name, "AUROC": f"{area:.3f} ({low:.3f} … {high:.3f})"}
            more = [d[name] - d[ORDER] for d in drawn]
            low, high = np.nanpercentile(more, (2.5, 97.5))
            row["− order of review"] = f"{low:+.3f} … {high:+.3f}" if name != ORDER else ""
            rows.append(row)
        show(rows)


QUESTIONS = {f.__name__: f for f in (weights, seeds, deletion, usefulness)}


def main() -> int:
    """Answer the questions that are named, or all."""
    if not DATA.is_dir():
        print(f"no images at {DATA} (set SA2NET_DATA)")
        return 0
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    for name in [arg.removeprefix("--") for arg in sys.argv[1:]] or QUESTIONS:
        start = time.process_time()
        print(f"\n{name}", flush=True)
        QUESTIONS[name]()
        print(f"{time.process_time() - start:.0f} s of processor time", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
