"""Learning while a person corrects: seconds of the decoder on what is reviewed of one plane."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from napari_sa2net.config import (
    CLASSES,
    OUTPUTS,
    FineTuneConfig,
    LossConfig,
    TrainConfig,
    is_taught,
)
from napari_sa2net.data.plan import ImagePlan
from napari_sa2net.errors import Cancelled, SettingsError, TrainingDataError
from napari_sa2net.inference.predict import Predictor, whole_plane
from napari_sa2net.inference.stages import encoded
from napari_sa2net.models.file import Model
from napari_sa2net.nn import STRIDE, Network, pad_to_stride
from napari_sa2net.training.dataset import class_targets, depths, distance_target, nearest
from napari_sa2net.training.held_out import certain_pixels
from napari_sa2net.training.losses import deep_supervision_loss, make_loss
from napari_sa2net.training.replay import agreement, answers_kept, trust
from napari_sa2net.training.tuning import CLIP, DECODER

#: Windows begin at multiples of this (network px), so that later waves meet them again.
GRID = 64
#: Memory for what is kept of windows (bytes).
KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class LiveConfig:
    """How a wave learns; chosen by `benchmarks/bench_live.py` on training images.

    Attributes
    ----------
    steps, batch, window
        Steps, windows in each, and their side (network px).
    learning_rate
        Peak; it falls to 0 along a cosine.
    weight_decay
        Towards the base model's weights.
    distillation
        Weight of the base model's sure answers where nobody has reviewed; times the trust
        that they have earned where somebody has.
    turned
        In how many ways a window is turned and mirrored, 1 … 8.
    seed
        Of the order of windows.
    """

    steps: int = 50
    batch: int = 2
    window: int = 192
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    distillation: float = 1.0
    turned: int = 4
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Reviewed:
    """What a person has reviewed of a box of a plane.

    Attributes
    ----------
    labels : int (H, W)
    counts : bool (H, W)
        Reviewed pixels to learn from.
    corner : (y, x)
        Of the first of them in the image.
    """

    labels: NDArray[np.integer]
    counts: NDArray[np.bool_]
    corner: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class _Window:
    """A window of the plane as the network sees it, and what does not change of it."""

    skips: list[Tensor]
    deepest: Tensor
    teacher: Tensor

    @property
    def n_bytes(self) -> int:
        parts = (*self.skips, self.deepest, self.teacher)
        return sum(t.numel() * t.element_size() for t in parts)


class LivePlane:
    """Teaches the decoder of a model one plane of an image, again and again.

    Encoder and scale attention do not learn. What they make of a window is kept, within a
    bound of memory, so later waves have only the decoder to run.

    Parameters
    ----------
    predictor : Predictor
        Of the base model, which stays as it is.
    plan : ImagePlan
        Of the whole image.
    index : tuple of int
        Plane of the stack.
    scale : float
        Network pixels per image pixel, at which the plane was segmented.

    Raises
    ------
    SettingsError
        If corrections cannot teach the model.
    """

    def __init__(
        self, predictor: Predictor, plan: ImagePlan, index: tuple[int, ...], scale: float
    ) -> None:
        base = predictor.model
        if not is_taught(base.card.classes):
            raise SettingsError(
                f"Model {base.name!r} has the classes {', '.join(base.card.classes)}; "
                f"corrections teach models with {', '.join(CLASSES)}, such as 'nuclei'."
            )
        self.base = base
        self.device = predictor.device
        self.plane = predictor.scaled(plan, index, scale)
        self._net: Network = copy.deepcopy(base.net).to(self.device).eval()
        self._net.requires_grad_(False)
        self._kept: OrderedDict[tuple[int, int, int, int], _Window] = OrderedDict()
        self._statistics: dict[int, dict[str, Tensor]] = {}

    # --- learning ----------------------------------------------------------------------

    def learn(
        self,
        reviewed: Reviewed,
        config: LiveConfig | None = None,
        on_step: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        start: Network | None = None,
    ) -> Model:
        """A copy of the base model that has learned from what is reviewed.

        Parameters
        ----------
        start : Network, optional
            Begin with its weights instead of the base model's.

        Raises
        ------
        TrainingDataError
            If nothing that is reviewed can be learned from.
        Cancelled
            Between two steps.
        """
        config = config or LiveConfig()
        lesson = _Lesson.of(reviewed, self.plane, config.window)
        net: Network = copy.deepcopy(start or self.base.net).to(self.device).eval()
        names = [n for n, _ in net.named_parameters() if n.startswith(DECODER)]
        own = dict(net.named_parameters())
        for name, parameter in own.items():
            parameter.requires_grad_(name in names)
        first = {name: dict(self._net.named_parameters())[name].detach() for name in names}
        learning = [own[name] for name in names]
        optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=0.0)
        loss_of = make_loss(LossConfig()).to(self.device)
        weights = TrainConfig().head_weights
        learns_distance = net.n_classes == len(OUTPUTS)
        rng = np.random.default_rng(config.seed)
        trusted = config.distillation * self._trust(lesson, config) if config.distillation else 0
        for step in range(config.steps):
            if cancelled and cancelled():
                raise Cancelled("Cancelled; nothing was changed.")
            if on_step:
                on_step(step, config.steps)
            rate = config.learning_rate * _share(step, config.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            drawn = [
                (*lesson.draw(rng), int(rng.integers(config.turned)))
                for _ in range(config.batch)
            ]
            windows = [self._window(y, x, config.window, turn) for y, x, turn in drawn]
            truth = [lesson.cut(y, x, turn) for y, x, turn in drawn]
            target, counts, certain, distance = (
                torch.stack(parts).to(self.device) for parts in zip(*truth, strict=True)
            )
            skips = [torch.cat([w.skips[i] for w in windows]).float() for i in range(4)]
            heads = _decoded(net, skips, torch.cat([w.deepest for w in windows]).float())
            empty = heads[0].detach()[:, : len(CLASSES)].softmax(1)[:, 0] > 0.5
            mask = counts & (certain | empty)
            deep = distance if learns_distance else None
            loss = deep_supervision_loss(loss_of, heads, weights, target, mask, deep)
            if trusted:
                teacher = torch.cat([w.teacher for w in windows]).float()
                rest = (~counts).float()
                kept = answers_kept(
                    heads[:1], [teacher], [1.0], rest, FineTuneConfig().confidence
                )
                loss = loss + trusted * kept
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(learning, CLIP)
            if not (math.isfinite(float(loss.detach())) and math.isfinite(float(norm))):
                continue
            optimizer.step()
            if config.weight_decay:
                with torch.no_grad():
                    for name in names:
                        own[name].lerp_(first[name], min(1.0, rate * config.weight_decay))
        return replace(self.base, net=net.cpu().eval().requires_grad_(False), sha256="")

    # --- inside ------------------------------------------------------------------------

    def _trust(self, lesson: _Lesson, config: LiveConfig) -> float:
        """How much the base model's answers are worth, by those where a person has looked."""
        counted = np.zeros((2, 2), np.int64)
        for y, x in lesson.places():
            window = self._window(y, x, config.window, 0)
            n = len(CLASSES)
            probability = window.teacher[0, :n].float().softmax(0).cpu().numpy()
            target, counts, certain, _ = lesson.cut(y, x, 0)
            sure = (counts & certain).numpy()
            counted += agreement(
                probability, target.numpy(), sure, FineTuneConfig().confidence
            )
        return trust(counted)

    def _window(self, y: int, x: int, side: int, turn: int) -> _Window:
        key = (y, x, side, turn)
        if key not in self._kept:
            self._kept[key] = self._encoded(y, x, side, turn)
            held = sum(one.n_bytes for one in self._kept.values())
            while held > KEPT_BYTES and len(self._kept) > 1:
                held -= self._kept.popitem(last=False)[1].n_bytes
        self._kept.move_to_end(key)
        return self._kept[key]

    def _encoded(self, y: int, x: int, side: int, turn: int) -> _Window:
        height, width = self.plane.shape
        pixels = self.plane.read(y, min(height, y + side), x, min(width, x + side))
        image = torch.from_numpy(_turned(np.asarray(pixels), turn))[None].to(self.device)
        image = pad_to_stride(image).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), whole_plane(self._net, self.plane, kept=self._statistics):
            skips, deepest = encoded(self._net, image)
            teacher = _decoded(self._net, skips, deepest)[0]
        # half the memory; what learns is float32
        return _Window([s.half() for s in skips], deepest.half(), teacher.half())


def _decoded(net: Network, skips: list[Tensor], deepest: Tensor) -> list[Tensor]:
    """Logits of the four heads, main first, from what the decoder is given."""
    p4 = net.up4(deepest, skips[3])
    p3 = net.up3(p4, skips[2])
    p2 = net.up2(p3, skips[1])
    return net.heads([p4, p3, p2, net.up1(p2, skips[0])], deep_supervision=True)


def _share(step: int, steps: int) -> float:
    """Learning rate as a share of its peak: up over a tenth of the steps, then a cosine."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _turned(array: NDArray[Any], turn: int) -> NDArray[Any]:
    """An array (..., h, w) turned by right angles, and mirrored from the fourth on."""
    out = np.rot90(array, turn % 4, axes=(-2, -1))
    return np.ascontiguousarray(out[..., ::-1] if turn >= 4 else out)


class _Lesson:
    """What is reviewed of a plane, on the network's grid, window by window."""

    def __init__(
        self,
        labels: NDArray[np.int32],
        counts: NDArray[np.bool_],
        certain: NDArray[np.bool_],
        deepest: NDArray[np.float32],
        corner: tuple[int, int],
        shape: tuple[int, int],
        side: int,
        centres: NDArray[np.floating],
    ) -> None:
        self.labels, self.counts, self.certain = labels, counts, certain
        self.deepest = deepest
        self.corner, self.shape, self.side, self.centres = corner, shape, side, centres

    @classmethod
    def of(cls, reviewed: Reviewed, plane: Any, side: int) -> _Lesson:
        """On the grid of a plane; TrainingDataError where nothing is reviewed."""
        counts = np.asarray(reviewed.counts, bool)
        if not counts.any():
            raise TrainingDataError("Nothing is reviewed yet: accept or correct a few cells.")
        # only what lies around reviewed pixels is looked at
        rows, columns = (np.flatnonzero(counts.any(axis)) for axis in (1, 0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        numbers, flat = np.unique(np.asarray(reviewed.labels)[box], return_inverse=True)
        labels = flat.reshape(counts[box].shape).astype(np.int32) + (numbers[0] != 0)
        counts = counts[box]
        own = labels * counts
        areas = np.bincount(own.ravel())[1:]
        diameter = 2 * math.sqrt(float(np.median(areas[areas > 0])) / math.pi) if areas.any() else 0
        certain = certain_pixels(labels, counts, diameter)
        certain = counts if certain is None else certain
        y0, x0 = reviewed.corner[0] + int(rows[0]), reviewed.corner[1] + int(columns[0])
        spans = []
        for first, n, axis in ((y0, counts.shape[0], plane.rows), (x0, counts.shape[1], plane.columns)):
            spans.append((math.floor(first * axis.scale), min(axis.n_out, math.ceil((first + n) * axis.scale))))
        (top, bottom), (left, right) = spans
        at_y = np.clip(np.floor((np.arange(top, bottom) + 0.5) / plane.rows.scale).astype(int) - y0, 0, counts.shape[0] - 1)
        at_x = np.clip(np.floor((np.arange(left, right) + 0.5) / plane.columns.scale).astype(int) - x0, 0, counts.shape[1] - 1)
        at = np.ix_(at_y, at_x)
        labels, counts, certain = labels[at], counts[at], certain[at]
        seen = np.unique((labels * counts)[counts])
        seen = seen[seen > 0]
        if seen.size:
            centres = np.asarray(ndimage.center_of_mass(counts, labels * counts, seen))
        else:
            centres = np.argwhere(counts)[:: max(1, int(counts.sum()) // 64)].astype(float)
        return cls(labels, counts, certain, depths(labels), (top, left), plane.shape, side, centres + (top, left))

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """First pixel of a window with something reviewed in it."""
        centre = self.centres[int(rng.integers(len(self.centres)))]
        at = centre + rng.uniform(-0.35, 0.35, 2) * self.side - self.side / 2
        return self._snapped(at)

    def places(self, most: int = 6) -> list[tuple[int, int]]:
        """A few windows that show what is reviewed."""
        places = {self._snapped(c - self.side / 2): None for c in self.centres}
        some = list(places)
        return some[:: max(1, len(some) // most)][:most]

    def _snapped(self, at: NDArray[np.floating]) -> tuple[int, int]:
        first = [
            int(np.clip(round(float(a) / GRID) * GRID, 0, max(0, (n - self.side) // STRIDE * STRIDE)))
            for a, n in zip(at, self.shape, strict=True)
        ]
        return first[0], first[1]

    def cut(self, y: int, x: int, turn: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Target, what counts, what is certain, and distance of a window."""
        height = min(self.shape[0], y + self.side) - y
        width = min(self.shape[1], x + self.side) - x
        top, left = self.corner
        rows, columns = self.labels.shape
        inner = (slice(max(0, y - top), max(0, y + height - top)), slice(max(0, x - left), max(0, x + width - left)))
        labels = np.zeros((height, width), np.int32)
        counts = np.zeros((height, width), bool)
        certain = np.zeros((height, width), bool)
        part = self.labels[inner]
        oy, ox = max(0, top - y), max(0, left - x)
        here = (slice(oy, oy + part.shape[0]), slice(ox, ox + part.shape[1]))
        labels[here], counts[here], certain[here] = part, self.counts[inner], self.certain[inner]
        arrays = [
            class_targets(labels).astype(np.int64),
            counts,
            certain,
            distance_target(labels, self.deepest),
        ]
        out = [_turned(a, turn) for a in arrays]
        pads = [((0, (-s) % STRIDE)) for s in out[0].shape]
        padded = [np.pad(a, pads) for a in out]
        target, count, sure, distance = (torch.from_numpy(a) for a in padded)
        return target, count, sure, distance
