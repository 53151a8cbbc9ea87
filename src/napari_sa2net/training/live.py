"""Learning while a person corrects: seconds of the decoder on what is reviewed of one plane."""

from __future__ import annotations

import copy
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
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
    CancelCallback,
    FineTuneConfig,
    InstanceConfig,
    LiveConfig,
    LossConfig,
    Progress,
    is_taught,
)
from napari_sa2net.data.plan import Box, ImagePlan
from napari_sa2net.edits import Patch, proposed
from napari_sa2net.errors import Cancelled, SettingsError, TrainingDataError
from napari_sa2net.inference.click import objects_everywhere, seen_at
from napari_sa2net.inference.predict import Predictor, whole_plane
from napari_sa2net.inference.segment import Prediction, look_first, predict_image
from napari_sa2net.inference.stages import encoded
from napari_sa2net.metrics import typical_diameter
from napari_sa2net.models.file import Model
from napari_sa2net.nn import STRIDE, Network, pad_to_stride
from napari_sa2net.training.click import examples_in, learned_clicks
from napari_sa2net.training.compare import HeldBack
from napari_sa2net.training.dataset import class_targets, depths, distance_target
from napari_sa2net.training.held_out import certain_pixels
from napari_sa2net.training.losses import deep_supervision_loss, make_loss
from napari_sa2net.training.replay import agreement, answers_kept, trust
from napari_sa2net.training.tuning import CLIP, DECODER

#: Windows begin at multiples of this (network px), so that later waves meet them again.
GRID = 64
#: Steps that are taken even where the time is over.
FEWEST = 5
#: What clicks give is taken, as it is better in the mean, unless what is held back scores by so
#: much less.
MUCH = 0.1
#: From so many cells, and as many pixels beside them, clicks learn: fewer teach them too little
#: for what is found by them to be better.
FEW = 8
#: Of the time of a wave the decoder has this share where clicks are to follow; the lesson of
#: clicks has half of what is left then, and asking them the rest.
DECODER_TIME = 0.5
#: Share of the way in which the learning rate rises.
WARM = 0.1
#: Memory for what is kept of windows (bytes).
KEPT_BYTES = 256 << 20


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
class Wave:
    """What became of one wave of learning.

    Attributes
    ----------
    patch : Patch
        As of `edits.proposed`, in pixels of the plane.
    model : Model
        That has learned.
    n_learned, n_judged : int
        Cells that it learned from; corrections that were held back.
    before, after : float
        Their mean score by the base model and by this one; NaN without any.
    seconds : float
    provenance : dict
        Of the segmentation, with ``live``: how it learned.
    """

    patch: Patch
    model: Model
    n_learned: int
    n_judged: int
    before: float
    after: float
    seconds: float
    provenance: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Window:
    """A window of the plane as the network sees it, and what does not change of it."""

    skips: list[Tensor]
    deepest: Tensor
    teacher: Tensor | None

    @property
    def n_bytes(self) -> int:
        parts = (*self.skips, self.deepest, self.teacher)
        return sum(t.numel() * t.element_size() for t in parts if t is not None)


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
    instances : InstanceConfig, optional
        How objects are made; the model's own if not given.
    progress, cancelled : optional
        As of `segment`: the size of the objects may have to be found.

    Raises
    ------
    SettingsError
        If corrections cannot teach the model.
    """

    def __init__(
        self,
        predictor: Predictor,
        plan: ImagePlan,
        index: tuple[int, ...],
        instances: InstanceConfig | None = None,
        progress: Progress | None = None,
        cancelled: CancelCallback | None = None,
    ) -> None:
        base = predictor.model
        if not is_taught(base.card.classes):
            raise SettingsError(
                f"Model {base.name!r} has the classes {', '.join(base.card.classes)}; "
                f"corrections teach models with {', '.join(CLASSES)}, such as 'nuclei'."
            )
        self.index = index
        self.instances = instances or base.card.instance
        self.device, self.dtype = predictor.device, predictor.dtype
        # float16 would need scaled gradients
        self._is_low = self.dtype == torch.bfloat16
        predictor, self.plan, self.diameter, scale = look_first(
            predictor, plan.whole, self.instances, cancelled, progress
        )
        self.predictor = predictor
        # as trained, like what is kept: from an adapted encoder less was learned
        self.base = predictor.model.base or predictor.model
        self.plane = predictor.scaled(self.plan, index, scale)
        self._as_base: tuple[Box, NDArray[np.integer]] | None = None
        self._net: Network = copy.deepcopy(self.base.net).to(self.device).eval()
        self._net.requires_grad_(False)
        self._kept: OrderedDict[tuple[int, int, int, int], _Window] = OrderedDict()
        self._statistics: dict[int, dict[str, Tensor]] = {}

    @property
    def kept_bytes(self) -> int:
        """Memory of what is kept of windows."""
        return sum(one.n_bytes for one in self._kept.values())

    # --- a wave ------------------------------------------------------------------------

    def wave(
        self,
        labels: NDArray[np.integer],
        counts: NDArray[np.bool_],
        stays: NDArray[np.bool_],
        corner: tuple[int, int] = (0, 0),
        judged: Sequence[HeldBack] = (),
        config: LiveConfig | None = None,
        progress: Progress | None = None,
        cancelled: CancelCallback | None = None,
        **units: Any,
    ) -> Wave:
        """Learn from a box of the plane, and segment anew what nobody has reviewed in it.

        Parameters
        ----------
        labels : int (h, w)
        counts : bool (h, w)
            Reviewed pixels.
        stays : bool (h, w)
            Pixels that must not change, such as those of reviewed cells.
        corner : (y, x)
            First pixel of the box.
        judged : sequence of HeldBack
            Reviewed, but held back to score by.
        progress, cancelled
            As of `segment`.
        **units
            ``pixel_size_um``, ``z_step_um`` for the provenance.

        Raises
        ------
        TrainingDataError
            If nothing is left to learn from.
        Cancelled
        """
        start = time.monotonic()
        config = config or LiveConfig()
        reviewed = Reviewed(labels, without(counts, labels, judged, corner), corner)
        say = progress or (lambda *_: None)
        # places alone would speak for clicks that find nothing
        cells = [one for one in judged if one.is_cell]
        learned = np.unique(np.asarray(labels)[reviewed.counts])
        n_learned = int((learned > 0).sum())
        clicks_follow = bool(cells) and n_learned >= FEW
        model = self.learn(
            reviewed,
            config,
            lambda i, n: say(i, n, "learning from cells"),
            cancelled,
            config.seconds * (DECODER_TIME if clicks_follow else 1),
        )
        box = (corner[0], corner[0] + labels.shape[0], corner[1], corner[1] + labels.shape[1])
        before = after = math.nan
        made = self._predicted(model, box, progress, cancelled)
        new = _flat(made.labels(self.instances, cancelled))
        by_clicks = False
        if judged:
            before = score(self._base_labels(box, progress, cancelled), judged, corner)
            after = score(new, judged, corner)
            known = without(stays, labels, judged, corner)
            clicked = None
            if clicks_follow:
                ends = start + config.seconds
                clicked = self._by_clicks(
                    made, new, reviewed, known, config, ends, say, cancelled
                )
            if clicked is not None:
                right = score(clicked, judged, corner)
                by_clicks = score(clicked, cells, corner) > 0 and right >= after - MUCH
                if by_clicks:
                    new, after = clicked, right
        own = {
            "base": {"name": self.base.name, "sha256": self.base.sha256},
            "settings": config.model_dump(mode="json"),
            "cells": n_learned,
            "held_back": len(judged),
            "by_clicks": by_clicks,
            "before": None if math.isnan(before) else round(before, 4),
            "after": None if math.isnan(after) else round(after, 4),
        }
        as_made = made.config.model_copy(update={"adapt": "auto"})
        record = replace(made, model=self.predictor.model, config=as_made, **units).record(
            self.instances
        )
        return Wave(
            proposed(labels, new, stays, corner, self.plan.spatial),
            model,
            n_learned,
            len(judged),
            before,
            after,
            time.monotonic() - start,
            {**record, "live": own},
        )

    def _predicted(
        self,
        model: Model,
        box: Box,
        progress: Progress | None,
        cancelled: CancelCallback | None,
    ) -> Prediction:
        """The box as another model sees it, at the scale of the base model."""
        predictor = self.predictor
        known = predictor.config.model_copy(
            update={"diameter": self.diameter, "dab": "keep", "adapt": "off"}
        )
        if model is not predictor.model:
            predictor = Predictor(model, known, input_config=predictor.input)
        former, predictor.config = predictor.config, known
        try:
            return predict_image(
                model,
                self.plan.part(self.index or None, box),
                instances=self.instances,
                predictor=predictor,
                progress=progress,
                cancelled=cancelled,
            )
        finally:
            predictor.config = former

    def _by_clicks(
        self,
        made: Prediction,
        found: NDArray[np.integer],
        reviewed: Reviewed,
        stays: NDArray[np.bool_],
        config: LiveConfig,
        ends: float,
        say: Progress,
        cancelled: CancelCallback | None,
    ) -> NDArray[np.integer] | None:
        """What clicks everywhere give that know the reviewed cells.

        None where these are too few, and where it cannot be done before ``ends`` (s).
        """
        (y, x), (height, width) = reviewed.corner, stays.shape
        image, seen = seen_at(self.plan, made, self.index, (y, y + height, x, x + width))
        assert seen is not None
        examples = examples_in(image, seen, reviewed.labels, reviewed.counts)
        n_empty = sum(one.is_empty for one in examples)
        if min(n_empty, len(examples) - n_empty) < FEW:
            return None

        def check() -> None:
            if cancelled and cancelled():
                raise Cancelled("Cancelled; nothing was changed.")
            if time.monotonic() > ends:
                raise TimeoutError

        def on_step(i: int, n: int) -> None:
            check()
            say(i, n, "learning what your cells look like")

        def on_places(done: int, n: int) -> None:
            check()
            say(done, n, "looking for cells like yours")

        try:
            check()
            seconds = (ends - time.monotonic()) / 2
            net = learned_clicks(examples, on_step, config.steps, seconds, config.seed)
            kept = np.where(stays, reviewed.labels, 0)
            return objects_everywhere(
                image, kept, examples[0].diameter, found, seen, net, on_places
            )
        except TimeoutError:
            return None

    def _base_labels(
        self, box: Box, progress: Progress | None, cancelled: CancelCallback | None
    ) -> NDArray[np.integer]:
        if self._as_base is None or self._as_base[0] != box:
            made = self._predicted(self.predictor.model, box, progress, cancelled)
            self._as_base = (box, _flat(made.labels(self.instances, cancelled)))
        return self._as_base[1]

    # --- learning ----------------------------------------------------------------------

    def learn(
        self,
        reviewed: Reviewed,
        config: LiveConfig | None = None,
        on_step: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        seconds: float | None = None,
    ) -> Model:
        """A copy of the base model that has learned from what is reviewed.

        ``seconds``: it ends by then, with fewer steps; unsaid, after those of ``config``.

        Raises
        ------
        TrainingDataError
            If nothing that is reviewed can be learned from.
        Cancelled
            Between two steps.
        """
        config = config or LiveConfig()
        seconds = config.seconds if seconds is None else seconds
        lesson = _Lesson.of(reviewed, self.plane, config.window)
        net: Network = copy.deepcopy(self.base.net).to(self.device).eval()
        learning = []
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.startswith(DECODER))
            if parameter.requires_grad:
                learning.append(parameter)
        optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=0.0)
        loss_of = make_loss(LossConfig()).to(self.device)
        learns_distance = net.n_classes == len(OUTPUTS)
        rng = np.random.default_rng(config.seed)
        trusted = (
            config.distillation * self._trust(lesson, config) if config.distillation else 0
        )
        began = time.monotonic()
        for step in range(config.steps):
            if cancelled and cancelled():
                raise Cancelled("Cancelled; nothing was changed.")
            if on_step:
                on_step(step, config.steps)
            late = (time.monotonic() - began) / seconds
            if late >= 1 and step >= FEWEST:
                break
            rate = config.learning_rate * _share(max(step / config.steps, min(late, 1.0)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            drawn = [
                (*lesson.draw(rng), int(rng.integers(config.turned)))
                for _ in range(config.batch)
            ]
            windows = [
                self._window(y, x, config.window, turn, asked=trusted > 0)
                for y, x, turn in drawn
            ]
            truth = [lesson.cut(y, x, turn) for y, x, turn in drawn]
            target, counts, certain, distance = (
                torch.stack(parts).to(self.device) for parts in zip(*truth, strict=True)
            )
            skips = [torch.cat([w.skips[i] for w in windows]).float() for i in range(4)]
            deepest = torch.cat([w.deepest for w in windows]).float()
            with torch.autocast(self.device.type, self.dtype, enabled=self._is_low):
                heads = [h.float() for h in _decoded(net, skips, deepest)]
            empty = heads[0].detach()[:, : len(CLASSES)].softmax(1)[:, 0] > 0.5
            mask = counts & (certain | empty)
            deep = distance if learns_distance else None
            loss = deep_supervision_loss(loss_of, heads, (1.0,), target, mask, deep)
            if trusted:
                teacher = torch.cat([w.teacher for w in windows if w.teacher is not None])
                rest = (~counts).float()
                kept = answers_kept(
                    heads, [teacher.float()], [1.0], rest, FineTuneConfig().confidence
                )
                loss = loss + trusted * kept
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(learning, CLIP)
            if not (math.isfinite(float(loss.detach())) and math.isfinite(float(norm))):
                continue
            optimizer.step()
        return replace(self.base, net=net.cpu().eval().requires_grad_(False), sha256="")

    # --- inside ------------------------------------------------------------------------

    def _trust(self, lesson: _Lesson, config: LiveConfig) -> float:
        """How much the base model's answers are worth, by those where a person has looked."""
        counted = np.zeros((2, 2), np.int64)
        for y, x in lesson.places():
            window = self._window(y, x, config.window, 0, asked=True)
            n = len(CLASSES)
            assert window.teacher is not None
            probability = window.teacher[0, :n].float().softmax(0).cpu().numpy()
            target, counts, certain, _ = lesson.cut(y, x, 0)
            sure = (counts & certain).numpy()
            counted += agreement(probability, target.numpy(), sure, FineTuneConfig().confidence)
        return trust(counted)

    def _window(self, y: int, x: int, side: int, turn: int, asked: bool) -> _Window:
        """A window; ``asked``: with what the base model says of it."""
        key = (y, x, side, turn)
        known = self._kept.get(key)
        if known is None or (asked and known.teacher is None):
            self._kept[key] = self._encoded(y, x, side, turn, asked)
        self._kept.move_to_end(key)
        while self.kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _encoded(self, y: int, x: int, side: int, turn: int, asked: bool) -> _Window:
        height, width = self.plane.shape
        pixels = self.plane.read(y, min(height, y + side), x, min(width, x + side))
        image = torch.from_numpy(_turned(np.asarray(pixels), turn))[None].to(self.device)
        image = pad_to_stride(image).contiguous(memory_format=torch.channels_last)
        with (
            torch.no_grad(),
            whole_plane(self._net, self.plane, kept=self._statistics),
            torch.autocast(self.device.type, self.dtype, enabled=self._is_low),
        ):
            skips, deepest = encoded(self._net, image)
            teacher = _decoded(self._net, skips, deepest)[0] if asked else None
        kept = [_halved(s) for s in skips]
        return _Window(kept, _halved(deepest), None if teacher is None else _halved(teacher))


def _halved(x: Tensor) -> Tensor:
    """In half the memory, if it holds such values; what learns is float32 all the same."""
    return x.half() if float(x.abs().max()) < torch.finfo(torch.float16).max else x


#: A cell that is covered so well (IoU) scores fully.
FULL = 0.8
#: So far around what is held back nothing is learned (px), but of other cells.
AROUND = 8


def score(
    labels: NDArray[np.integer], judged: Sequence[HeldBack], corner: tuple[int, int] = (0, 0)
) -> float:
    """Mean score of what is held back, 0 … 1.

    A cell scores by the best IoU with an object, fully from `FULL` on; a place without cells
    fully where no object lies on half of it or more. NaN without any.
    """
    areas = np.bincount(np.asarray(labels).ravel())
    scores = []
    for one in judged:
        y, x = one.corner[0] - corner[0], one.corner[1] - corner[1]
        height, width = one.mask.shape
        under = np.asarray(labels[y : y + height, x : x + width])[one.mask]
        on = np.bincount(under[under > 0], minlength=1)
        if one.is_cell:
            best = 0.0
            for label in np.flatnonzero(on).tolist():
                best = max(best, on[label] / (one.mask.sum() + areas[label] - on[label]))
            scores.append(min(1.0, best / FULL))
        else:
            scores.append(float(2 * on.sum() < one.mask.sum()))
    return float(np.mean(scores)) if scores else math.nan


def without(
    counts: NDArray[np.bool_],
    labels: NDArray[np.integer],
    judged: Sequence[HeldBack],
    corner: tuple[int, int] = (0, 0),
) -> NDArray[np.bool_]:
    """Reviewed pixels without what is held back, and what lies around it."""
    out = np.array(counts, bool)
    for one in judged:
        y, x = one.corner[0] - corner[0], one.corner[1] - corner[1]
        height, width = one.mask.shape
        y0, x0 = max(0, y - AROUND), max(0, x - AROUND)
        part = np.s_[y0 : y + height + AROUND, x0 : x + width + AROUND]
        own = np.zeros(out[part].shape, bool)
        own[y - y0 : y - y0 + height, x - x0 : x - x0 + width] = one.mask
        near = ndimage.distance_transform_edt(~own) <= AROUND
        out[part] &= ~near | ((np.asarray(labels[part]) > 0) & ~own)
    return out


def _flat(labels: Any) -> NDArray[np.integer]:
    """Labels of one plane, without the axes of the stack."""
    array = np.asarray(labels)
    return array.reshape(array.shape[-2:])


def _decoded(net: Network, skips: list[Tensor], deepest: Tensor) -> list[Tensor]:
    """Logits of the main head, in a list, from what the decoder is given."""
    p4 = net.up4(deepest, skips[3])
    p3 = net.up3(p4, skips[2])
    p2 = net.up2(p3, skips[1])
    # the others would cost as much as all the rest of the loss
    return net.heads([p4, p3, p2, net.up1(p2, skips[0])], deep_supervision=False)


def _share(progress: float) -> float:
    """Learning rate as a share of its peak: up over a tenth of the way, then a cosine."""
    if progress < WARM:
        return 0.2 + 0.8 * progress / WARM
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM) / (1 - WARM)))


def _turned(array: NDArray[Any], turn: int) -> NDArray[Any]:
    """An array (..., h, w) turned by right angles, and mirrored from the fourth on."""
    out = np.rot90(array, turn % 4, axes=(-2, -1))
    return np.ascontiguousarray(out[..., ::-1] if turn >= 4 else out)


@dataclass(eq=False)
class _Lesson:
    """What is reviewed of a plane, on the network's grid, window by window."""

    labels: NDArray[np.int32]
    counts: NDArray[np.bool_]
    certain: NDArray[np.bool_]
    deepest: NDArray[np.float32]
    corner: tuple[int, int]
    shape: tuple[int, int]
    side: int
    centres: NDArray[np.floating]

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
        diameter = typical_diameter(areas[areas > 0]) if areas.any() else 0
        certain = certain_pixels(labels, counts, diameter)
        certain = counts if certain is None else certain
        y0, x0 = reviewed.corner[0] + int(rows[0]), reviewed.corner[1] + int(columns[0])
        spans = []
        for first, n, axis in (
            (y0, counts.shape[0], plane.rows),
            (x0, counts.shape[1], plane.columns),
        ):
            spans.append(
                (
                    math.floor(first * axis.scale),
                    min(axis.n_out, math.ceil((first + n) * axis.scale)),
                )
            )
        (top, bottom), (left, right) = spans
        at_y = np.clip(
            np.floor((np.arange(top, bottom) + 0.5) / plane.rows.scale).astype(int) - y0,
            0,
            counts.shape[0] - 1,
        )
        at_x = np.clip(
            np.floor((np.arange(left, right) + 0.5) / plane.columns.scale).astype(int) - x0,
            0,
            counts.shape[1] - 1,
        )
        at = np.ix_(at_y, at_x)
        labels, counts, certain = labels[at], counts[at], certain[at]
        seen = np.unique((labels * counts)[counts])
        seen = seen[seen > 0]
        if seen.size:
            centres = np.asarray(ndimage.center_of_mass(counts, labels * counts, seen))
        else:
            centres = np.argwhere(counts)[:: max(1, int(counts.sum()) // 64)].astype(float)
        return cls(
            labels,
            counts,
            certain,
            depths(labels),
            (top, left),
            plane.shape,
            side,
            centres + np.array([top, left]),
        )

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
            int(
                np.clip(
                    round(float(a) / GRID) * GRID, 0, max(0, (n - self.side) // STRIDE * STRIDE)
                )
            )
            for a, n in zip(at, self.shape, strict=True)
        ]
        return first[0], first[1]

    def cut(self, y: int, x: int, turn: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Target, what counts, what is certain, and distance of a window."""
        height = min(self.shape[0], y + self.side) - y
        width = min(self.shape[1], x + self.side) - x
        top, left = self.corner
        inner = (
            slice(max(0, y - top), max(0, y + height - top)),
            slice(max(0, x - left), max(0, x + width - left)),
        )
        labels = np.zeros((height, width), np.int32)
        counts = np.zeros((height, width), bool)
        certain = np.zeros((height, width), bool)
        part = self.labels[inner]
        oy, ox = max(0, top - y), max(0, left - x)
        here = (slice(oy, oy + part.shape[0]), slice(ox, ox + part.shape[1]))
        labels[here], counts[here], certain[here] = (
            part,
            self.counts[inner],
            self.certain[inner],
        )
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
