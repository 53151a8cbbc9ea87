"""One training of an experiment: a fold, or the only one."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from napari_sa2net.config import InputConfig, NetworkConfig
from napari_sa2net.errors import TrainingError
from napari_sa2net.experiments.reproduce.prepare import Prepared
from napari_sa2net.experiments.reproduce.protocol import (
    AugmentedImages,
    EpochSampler,
    Keeper,
    PlainImages,
    ProtocolModule,
)
from napari_sa2net.experiments.reproduce.recipes import SIZE, Recipe
from napari_sa2net.experiments.reproduce.scoring import decided, pooled, predict, score, scored
from napari_sa2net.files import write_atomically
from napari_sa2net.inference.devices import fast_dtype, resolve_device
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.checkpoint import class_names
from napari_sa2net.models.file import load_checkpoint, save_model
from napari_sa2net.nn import make_network
from napari_sa2net.provenance import versions
from napari_sa2net.training.run_state import reading
from napari_sa2net.training.train import fit

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
    card = _card(recipe, settings, number, keeper, data, len(training))
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
    data: Prepared,
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
