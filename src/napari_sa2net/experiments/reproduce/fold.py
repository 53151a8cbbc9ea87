"""One training of an experiment, a fold or the only one: losses, loop, scores."""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler

from napari_sa2net.config import InputConfig, NetworkConfig
from napari_sa2net.errors import Cancelled, TrainingError
from napari_sa2net.experiments.reproduce.prepare import (
    Prepared,
    WideAugmentation,
    augment,
    to_input,
)
from napari_sa2net.experiments.reproduce.recipes import SIZE, Recipe
from napari_sa2net.experiments.reproduce.report import (
    at_side,
    decided,
    pooled,
    predict,
    probabilities,
    score,
    scored,
)
from napari_sa2net.files import write_atomically
from napari_sa2net.inference.devices import fast_dtype, resolve_device
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.checkpoint import class_names
from napari_sa2net.models.file import load_checkpoint, save_model
from napari_sa2net.nn import Network, make_network
from napari_sa2net.provenance import versions
from napari_sa2net.training.runs import reading
from napari_sa2net.training.train import fit

# --------------------------------------------------------------------------------------------
# Losses, and the module and callbacks of the loop.

#: Cosine warm restarts: epochs of a period, and the lowest learning rate.
PERIOD, LOWEST_RATE = 5, 1e-4
#: One cycle: share of the steps in which the learning rate rises.
RISE = 0.1
#: Keeps Dice defined where neither side has a pixel.
SMOOTH = 1e-5
#: The same of the form without squares.
EPSILON = 1e-6


def dice_bce(
    logits: Tensor, target: Tensor, dice_share: float = 0.5, balanced: bool = True
) -> Tensor:
    """Dice and binary cross-entropy of a sigmoid head.

    Parameters
    ----------
    logits : (B, 1, h, w)
    target : (B, h, w) int, 0 or 1
    balanced : bool
        Foreground and background of the batch weigh the same in the cross-entropy.

    Notes
    -----
    Published: half Dice (mean over images), half balanced cross-entropy.
    """
    x, t = logits[:, 0].float(), target.float()
    p = x.sigmoid().flatten(1)
    y = t.flatten(1)
    dice = (2 * (p * y).sum(1) + SMOOTH) / ((p * p).sum(1) + (y * y).sum(1) + SMOOTH)
    pixel = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    if balanced:
        sides = [(pixel * side).sum() / side.sum().clamp(min=1) for side in (t, 1 - t)]
        entropy = (sides[0] + sides[1]) / 2
    else:
        entropy = pixel.mean()
    return dice_share * (1 - dice).mean() + (1 - dice_share) * entropy


def dice_ce(logits: Tensor, target: Tensor, dice_share: float, squared: bool = True) -> Tensor:
    """Dice (mean over all classes of the batch) and cross-entropy of a softmax head.

    Parameters
    ----------
    logits : (B, C, h, w)
    target : (B, h, w) int
    squared : bool
        Squared terms in the denominator of Dice.

    Notes
    -----
    Published, of ISIC 2018 and SegPC-2021: no squares, 2 Σ p y / (Σ (p + y) + 1e-6).
    """
    logits, target = logits.float(), target.long()
    p = logits.softmax(1)
    y = F.one_hot(target, logits.shape[1]).movedim(-1, 1).float()
    axes = (0, 2, 3)
    both = 2 * (p * y).sum(axes)
    if squared:
        dice = (both + SMOOTH) / ((p * p).sum(axes) + (y * y).sum(axes) + SMOOTH)
    else:
        dice = both / ((p + y).sum(axes) + EPSILON)
    return dice_share * (1 - dice.mean()) + (1 - dice_share) * F.cross_entropy(logits, target)


class EpochSampler(Sampler[tuple[int, int]]):
    """All images in an order that depends on seed and epoch alone, so that runs go on."""

    def __init__(self, n: int, seed: Sequence[int]) -> None:
        self.n, self.seed, self.epoch = n, list(seed), 0

    def set_epoch(self, epoch: int) -> None:
        """Told by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([*self.seed, self.epoch]).permutation(self.n)
        return iter([(self.epoch, int(i)) for i in order])

    def __len__(self) -> int:
        return self.n


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images of a fold in each epoch, indexed by (epoch, number).

    Augmented as published, or as they are (also for `WideAugmentation`).
    """

    def __init__(
        self,
        data: Prepared,
        index: NDArray[np.intp],
        seed: Sequence[int],
        as_published: bool = True,
    ) -> None:
        self.data, self.index, self.seed = data, index, list(seed)
        self.as_published = as_published

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, number = key
        rng = np.random.default_rng([*self.seed, epoch, number])
        i = self.index[number]
        image, mask = self.data.images[i], self.data.masks[i]
        if self.as_published:
            image, mask = augment(image, mask, rng)
        x = to_input(image, self.data.ranged)
        return x, torch.from_numpy(np.ascontiguousarray(mask))


class PlainImages(Dataset[tuple[Tensor, Tensor]]):
    """Images as they are."""

    def __init__(self, data: Prepared, index: NDArray[np.intp]) -> None:
        self.data, self.index = data, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        i = self.index[number]
        return self.data.tensor(i), torch.from_numpy(self.data.masks[i])


class ProtocolModule(pl.LightningModule):
    """Trains a network by a recipe, and scores it on whole validation images.

    Parameters
    ----------
    net : SA2Net or FocalUNet
    units : (n,) str
        Names of the validation images, or of the volumes that they are slices of.
    seed : sequence of int
        Of what is drawn on the device.
    """

    def __init__(
        self, net: Network, recipe: Recipe, units: NDArray[np.str_], seed: Sequence[int] = (0,)
    ) -> None:
        super().__init__()
        self.net, self.recipe, self.units = net, recipe, units
        self.vary = WideAugmentation(seed, SIZE) if recipe.augmentation == "wide" else None
        self.mean: AveragedModel | None = None
        if recipe.ema_decay is not None:
            average = get_ema_multi_avg_fn(recipe.ema_decay)
            self.mean = AveragedModel(net, multi_avg_fn=average, use_buffers=True)
        self._seen: list[tuple[NDArray[np.integer], NDArray[np.integer]]] = []
        self._losses: list[Tensor] = []

    @property
    def judged(self) -> Network:
        """The network that is validated and kept: the mean one, where the recipe has one."""
        return self.net if self.mean is None else cast("Network", self.mean.module)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of one head."""
        share = self.recipe.dice_share
        if self.recipe.loss == "dice_bce":
            return dice_bce(logits, target, share, self.recipe.balanced)
        return dice_ce(logits, target, share, self.recipe.squared_dice)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Called by Lightning."""
        image, target = batch
        target = on_grid(target, image.shape[-1])
        if self.vary is not None:
            image, target = self.vary(image, target, self.global_step)
        heads = self.net(image, deep_supervision=True)
        loss = torch.stack([self.loss(head, target) for head in heads]).sum()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(image))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Called by Lightning."""
        if self.mean is not None:
            self.mean.update_parameters(self.net)

    def on_validation_epoch_start(self) -> None:
        """Called by Lightning."""
        self._seen, self._losses = [], []

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        """Called by Lightning."""
        image, target = batch
        logits = self.judged(image)
        self._losses.append(self.loss(logits, on_grid(target, image.shape[-1])))
        p = at_side(probabilities(logits), target.shape[-1])
        found, truth = decided(p.cpu().numpy()), target.cpu().numpy()
        self._seen.append(scored(found, truth, image.cpu().numpy(), 1, self.recipe))

    def on_validation_epoch_end(self) -> None:
        """Called by Lightning."""
        found, truth = (np.concatenate(part) for part in zip(*self._seen, strict=True))
        scores = score(found, truth, self.units, self.recipe.n_classes)
        self.log("val_dice", float(scores["dice"].mean()))
        self.log("val_iou", float(scores["iou"].mean()))
        loss = torch.stack(self._losses).mean()
        self.log("val_loss", loss)
        if self.recipe.schedule == "plateau":
            # Here and not where Lightning would, which is after a checkpoint was written: a
            # run that goes on would lack this step.
            cast("ReduceLROnPlateau", self.lr_schedulers()).step(loss)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Called by Lightning."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def configure_optimizers(self) -> Any:
        """Called by Lightning."""
        kind = torch.optim.Adam if self.recipe.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(
            self.net.parameters(),
            lr=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
        )
        if self.recipe.schedule == "constant":
            return optimizer
        if self.recipe.schedule == "plateau":
            plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=10)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"},
            }
        if self.recipe.schedule == "one_cycle":
            steps = int(self.trainer.estimated_stepping_batches)
            cycle = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.recipe.learning_rate, total_steps=steps, pct_start=RISE
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": cycle, "interval": "step"},
            }
        restarts = torch.optim.lr_scheduler.LambdaLR(optimizer, self._warm_restarts)
        return {"optimizer": optimizer, "lr_scheduler": restarts}

    def _warm_restarts(self, epoch: int) -> float:
        # The published script steps a period of ten epochs after training and again after
        # validating, so its period is five.
        lowest = LOWEST_RATE / self.recipe.learning_rate
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * (epoch % PERIOD) / PERIOD)) / 2


def on_grid(mask: Tensor, side: int) -> Tensor:
    """A mask (B, h, h) on a grid that is finer by a whole factor: (B, side, side)."""
    factor = side // mask.shape[-1]
    if factor == 1:
        return mask
    return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


class Keeper(Callback):
    """Keeps the weights that the recipe wants, stops in time, reports, can be stopped.

    Parameters
    ----------
    recipe : Recipe
        Of it, which epoch is kept and the patience.
    on_step : callable (steps done, what), optional
    cancelled : callable -> bool, optional
        Asked after every step.
    """

    def __init__(
        self,
        recipe: Recipe,
        on_step: Callable[[int, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self.recipe, self.on_step, self.cancelled = recipe, on_step, cancelled
        self.best = -1.0  # Dice of the epoch that is kept
        self.merit = -math.inf
        self.epoch = -1
        self.weights: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs."""
        return {
            "best": self.best,
            "merit": self.merit,
            "epoch": self.epoch,
            "weights": self.weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by Lightning."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        self.merit = state_dict.get("merit", self.best)  # one of before had Dice alone
        self.weights = state_dict["weights"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Called by Lightning."""
        loss = float(outputs["loss"].detach())
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss} in epoch {trainer.current_epoch + 1}. Give the same "
                "command again to go on from the last checkpoint, or another --seed."
            )
        if self.on_step:
            best_dice = self.recipe.keeps == "best" and self.recipe.best_by == "dice"
            which = "best Dice" if best_dice else "Dice"
            best = f", {which} {100 * self.best:.2f}" if self.epoch >= 0 else ""
            self.on_step(trainer.global_step, f"epoch {trainer.current_epoch + 1}{best}")
        if self.cancelled and self.cancelled():
            # Not should_stop, which would validate and save in the middle of an epoch.
            raise Cancelled(
                f"Stopped in epoch {trainer.current_epoch + 1}. Give the same command again "
                "to go on from the last checkpoint."
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called by Lightning."""
        metrics, epoch = trainer.callback_metrics, trainer.current_epoch
        dice, loss = float(metrics["val_dice"]), float(metrics["val_loss"])
        merit = dice if self.recipe.best_by == "dice" else -loss
        keeps_last = self.recipe.keeps == "last"
        if merit > self.merit or keeps_last:
            self.merit, self.best, self.epoch = merit, dice, epoch
            if not keeps_last or epoch + 1 == trainer.max_epochs:
                assert isinstance(pl_module, ProtocolModule)
                state = pl_module.judged.state_dict()
                self.weights = {k: v.detach().cpu().clone() for k, v in state.items()}
        elif self.recipe.patience is not None and epoch - self.epoch >= self.recipe.patience:
            trainer.should_stop = True


# --------------------------------------------------------------------------------------------
# The fold.

#: Seconds between checkpoints, which are written at the ends of epochs: an epoch of few images
#: is shorter than writing a large network.
SAVE_SECONDS = 30.0
#: Epochs from one validation to the next, at most, where validation chooses nothing.
SELDOM = 10

MODEL, RESULT, TEST = "model.safetensors", "result.json", "test.npz"

OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True)
class FoldSettings:
    """What a fold's result depends on, beside its images.

    Attributes
    ----------
    precision : "float32" or "auto"
        auto: half precision where the device is faster with it.
    """

    base_channels: int = 64
    epochs: int = 2000
    batch_size: int = 4
    seed: int = 0
    precision: str = "float32"


def run_fold(
    number: int,
    data: Prepared,
    training: NDArray[np.intp],
    validation: NDArray[np.intp],
    recipe: Recipe,
    settings: FoldSettings,
    folder: Path,
    *,
    device: str = "auto",
    workers: int = 0,
    on_step: OnStep | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train and score one fold; one that is finished is only read.

    Parameters
    ----------
    number : int
        From 1.
    training, validation : (n,) int
        Which images train and which choose the epoch.
    folder : path
        Gets checkpoint, log, model, scores; a fold that was broken off goes on from there.
    workers : int
        Loader processes.

    Returns
    -------
    dict
        fold, epochs, kept_epoch, n_training, parameters, under ``validation`` and ``test``
        lists of name, dice, iou, and under ``pooled`` what `scoring.pooled` says of either,
        where the recipe wants it; ready for JSON.

    Raises
    ------
    Cancelled, TrainingError, DeviceError, OutputError
    """
    before = finished(folder)
    if before is not None:
        return before
    where = resolve_device(device)
    pl.seed_everything(settings.seed + number, workers=True, verbose=False)
    net = make_network(
        NetworkConfig(
            in_channels=recipe.in_channels,
            n_classes=recipe.n_classes,
            base_channels=settings.base_channels,
        )
    )
    seed = (settings.seed, number)
    if settings.precision == "auto":
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = ProtocolModule(net, recipe, data.units[validation], seed)
    batch = min(settings.batch_size, len(training))
    # The published loader drops no images; one alone is too few for batch statistics.
    batches = DataLoader(
        AugmentedImages(data, training, seed, recipe.augmentation == "published"),
        batch_size=batch,
        sampler=EpochSampler(len(training), seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=len(training) % batch == 1,
    )
    whole = DataLoader(PlainImages(data, validation), batch_size=settings.batch_size)
    total = settings.epochs * len(batches)
    keeper = Keeper(
        recipe, on_step and (lambda done, what: on_step(done, total, what)), cancelled
    )
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    _check_checkpoint(last)
    needed = recipe.keeps == "best" or recipe.schedule == "plateau"
    every = 1 if needed else seldom(settings.epochs)
    trainer = fit(
        module,
        batches,
        where,
        torch.float32 if settings.precision == "float32" else fast_dtype(where),
        keeper,
        Saver(last),
        validation=whole,
        checkpoint=last if last.is_file() else None,
        max_epochs=settings.epochs,
        check_val_every_n_epoch=every,
        enable_checkpointing=False,
        logger=CSVLogger(folder, name="log"),
        log_every_n_steps=1,
    )
    if not keeper.weights:
        raise TrainingError(f"Fold {number} ended before its first validation.")
    net.load_state_dict(keeper.weights)
    module.cpu()
    card = _card(recipe, settings, number, keeper, len(training))
    model = save_model(folder / MODEL, net, card)
    outcome: dict[str, Any] = {
        "fold": number,
        "epochs": trainer.current_epoch,
        "kept_epoch": keeper.epoch + 1,
        "n_training": len(training),
        "parameters": sum(p.numel() for p in net.parameters()),
        "validation": [],
        "test": [],
        "pooled": {},
    }
    for name, index in (("validation", validation), ("test", data.where("test"))):
        if len(index):
            # Read back: what is scored is what was saved.
            p = predict(
                load_checkpoint(model),
                data.tensor(index),
                where,
                settings.batch_size,
                data.masks.shape[-1],
                recipe.symmetries,
            )
            pair = scored(decided(p), data.masks[index], data.images[index], -1, recipe)
            scores = score(*pair, data.units[index], recipe.n_classes)
            outcome[name] = scores.to_dict("records")
            if recipe.pooled:
                outcome["pooled"][name] = pooled(*pair)
            if name == "test":
                _save(folder / TEST, p)
    write_atomically(folder / RESULT, json.dumps(outcome, indent=1).encode())
    last.unlink(missing_ok=True)
    return outcome


def finished(folder: Path) -> dict[str, Any] | None:
    """The outcome of a fold, None where it is not over or its model is gone.

    Raises
    ------
    TrainingError
        If the file of its outcome is damaged.
    """
    path = folder / RESULT
    if not path.is_file() or not (folder / MODEL).is_file():
        return None
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
        for key in ("fold", "epochs", "kept_epoch", "n_training", "parameters"):
            int(outcome[key])
        for row in (*outcome["validation"], *outcome["test"]):
            str(row["name"]), float(row["dice"]), float(row["iou"])
        for row in outcome.get("pooled", {}).values():
            float(row["dice"]), float(row["iou"]), float(row["foreground_iou"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    return dict(outcome)


def test_probabilities(folder: Path) -> NDArray[np.float32]:
    """What a finished fold predicts of the test images: (N, C, h, w).

    Raises
    ------
    TrainingError
        If their file is damaged.
    """
    path = folder / TEST
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            return file["probability"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> TrainingError:
    return TrainingError(
        f"{path} is damaged or gone. Delete the folder {path.parent}: that fold is then "
        "trained anew, the others are kept."
    )


def _check_checkpoint(path: Path) -> None:
    """Raises TrainingError if a checkpoint is there and cannot be read."""
    again = "Delete that file: its training then begins anew, the other folds are kept."
    if path.is_file():
        with reading(path, again):
            torch.load(path, map_location="cpu", weights_only=False, mmap=True)


def _save(path: Path, probability: NDArray[np.float32]) -> None:
    write_atomically(
        path, lambda file: np.savez(file, probability=probability.astype(np.float16))
    )


class Saver(Callback):
    """Writes a checkpoint at the end of an epoch, when the last one is old enough."""

    def __init__(self, path: Path) -> None:
        self.path, self.saved = path, time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called by Lightning."""
        if time.monotonic() - self.saved >= SAVE_SECONDS:
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


def seldom(epochs: int) -> int:
    """Epochs from one validation to the next, so that the last epoch is validated, too."""
    return max(n for n in range(1, SELDOM + 1) if epochs % n == 0)


def _card(
    recipe: Recipe,
    settings: FoldSettings,
    number: int,
    keeper: Keeper,
    n_training: int,
) -> ModelCard:
    return ModelCard(
        name=f"{recipe.dataset} fold {number}",
        description=f"Trained on {recipe.title} by {recipe.whose}",
        network=NetworkConfig(
            in_channels=recipe.in_channels,
            n_classes=recipe.n_classes,
            base_channels=settings.base_channels,
        ),
        classes=class_names(recipe.n_classes),
        input=InputConfig(
            channel_order=recipe.channel_order,
            normalization=recipe.scaling,
            resize_to=SIZE * recipe.zoom,
            antialias=recipe.antialiased,
        ),
        training={
            "data": recipe.title,
            "recipe": asdict(recipe) | {"figures": []},
            "settings": asdict(settings),
            "fold": number,
            "images": n_training,
            "kept_epoch": keeper.epoch + 1,
            "versions": versions(),
        },
        scores={"validation": {"dice": keeper.best}},
        licence=f"as the images of {recipe.title}: see their authors' terms",
    )
