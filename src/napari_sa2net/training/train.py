"""Train a model on a folder: data, Lightning loop, best checkpoint, model file."""

from __future__ import annotations

import json
import logging
import math
import shlex
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from napari_sa2net.config import (
    CLASSES,
    OUTPUTS,
    InputConfig,
    InstanceConfig,
    NetworkConfig,
    PredictConfig,
    Progress,
    TrainConfig,
    is_taught,
)
from napari_sa2net.data.axes import Channels, channel_choice
from napari_sa2net.data.training_set import load_training_folder, split_items
from napari_sa2net.errors import (
    Cancelled,
    ModelExistsError,
    SettingsError,
    TrainingDataError,
    TrainingError,
)
from napari_sa2net.files import cannot_write, readable, write_atomically
from napari_sa2net.inference.devices import fast_dtype, memory_kept, resolve_device
from napari_sa2net.inference.instances import (
    confidences,
    foreground_probability,
    label_at_splits,
    label_objects,
)
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.metrics import ImageScore, pool, score_image
from napari_sa2net.models.card import ModelCard
from napari_sa2net.models.file import Model, load_model, save_model
from napari_sa2net.models.registry import (
    add_file,
    check_model_name,
    find_model,
    user_models_dir,
)
from napari_sa2net.nn import Network, activate, make_network, network_config, widened
from napari_sa2net.provenance import versions
from napari_sa2net.training.dataset import (
    VALIDATION_SIDE,
    CropDataset,
    Example,
    InMemory,
    ValidationDataset,
    evenly,
    image_diameters,
    label_notes,
    load_example,
    middle_part,
    wrong_places,
)
from napari_sa2net.training.losses import deep_supervision_loss, make_loss
from napari_sa2net.training.processes import Place, shared, told
from napari_sa2net.training.processes import check as check_devices
from napari_sa2net.training.runs import folder_input, write_tensors
from napari_sa2net.training.schedule import Schedule, decay_at
from napari_sa2net.words import plural

# --------------------------------------------------------------------------------------------
# The Lightning module: loss on four heads, optimiser, validation by objects.


#: What Lightning warns of, and is meant: few loader workers, as crops are cheap beside the
#: network on a CPU; a run's own log and settings in its folder; loaders that do go on where
#: they were (`CropDataset`); schedules and modes of modules that are our own; scores that
#: `Place.gather` has made one; an option of PyTorch whose successor older ones lack.
_MEANT = (
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*your dataloader is not resumable.*",
    ".*number of training batches.*",
    ".*lr_scheduler.step.. before.*",
    ".*in eval mode at the start of training.*",
    ".*recommended to use `self.log.*sync_dist=True.*",
    ".*broadcast_buffers. is deprecated.*",
    ".*defined a `validation_step`.*",
)


def fit(
    module: pl.LightningModule,
    batches: DataLoader[Any],
    device: torch.device,
    dtype: torch.dtype,
    *callbacks: Callback,
    validation: DataLoader[Any] | None = None,
    checkpoint: Path | None = None,
    **options: Any,
) -> pl.Trainer:
    """Train: the one loop of trainings in full, from corrections, and of experiments.

    Parameters
    ----------
    module : LightningModule
        What a step is.
    device, dtype
        Where, and how exactly, the bulk of a network is computed.
    *callbacks : Callback
        What happens beside the steps: states, scores, progress, and whether to stop.
    checkpoint : Path, optional
        Of Lightning, to go on from.
    **options
        Of Lightning's Trainer.
    """
    if not logger.isEnabledFor(logging.DEBUG):
        # Lightning greets, advertises, and tells of every checkpoint; nobody asked for that.
        for room in (
            "pytorch.utilities.rank_zero",
            "pytorch.trainer.connectors.checkpoint_connector",
            "fabric.utilities.distributed",
        ):
            logging.getLogger(f"lightning.{room}").setLevel(logging.WARNING)
    devices = [device.index or 0] if device.type == "cuda" else 1
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        precision=PRECISIONS[dtype],  # type: ignore[arg-type]
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"devices": devices, **options},
    )
    with warnings.catch_warnings(), memory_kept():
        for words in _MEANT:
            warnings.filterwarnings("ignore", words)
        whole = None if checkpoint is None else False  # a checkpoint of ours holds objects
        trainer.fit(module, batches, validation, ckpt_path=checkpoint, weights_only=whole)
    return trainer


#: Tried on the validation images; a boundary that counts double in the loss makes cells wide.
FOREGROUNDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
#: A network that has learned what lies between touching cells dips deeper there.
SPLITS = (0.5, 0.43, 0.58)
CONFIDENCES = (0.0, 0.85, 0.9)
TUNED = ("foreground", "split", "min_confidence")
TRIED = tuple(product(FOREGROUNDS, SPLITS, CONFIDENCES))


class SegmentationModule(pl.LightningModule):
    """Trains a network on crops and scores it on whole images.

    Parameters
    ----------
    net : SA2Net or FocalUNet
        With the outputs `config.OUTPUTS`, or without the distance.
    place : Place, optional
        Among processes that share the validation images.
    """

    def __init__(self, net: Network, config: TrainConfig, place: Place | None = None) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.place = place or Place()
        self.loss = make_loss(config)
        self.learns_distance = net.n_classes == len(OUTPUTS)
        self.outputs = OUTPUTS if self.learns_distance else CLASSES
        #: Of each validation image, its loss and its scores with all `TRIED`.
        self._validated: list[tuple[float, list[ImageScore]]] = []

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        """Called by Lightning."""
        loss = self.loss_of(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def loss_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch of crops."""
        return deep_supervision_loss(
            self.loss,
            self.net(self._image(batch), deep_supervision=True),
            self.config.head_weights,
            batch["target"],
            batch["mask"],
            batch["distance"] if self.learns_distance else None,
            batch["weight"],
        )

    def on_validation_epoch_start(self) -> None:
        """Called by Lightning."""
        self._validated = []

    def validation_step(self, batch: dict[str, Tensor], _index: int) -> None:
        """Called by Lightning."""
        logits = self.net(self._image(batch))
        classes = logits[:, : len(CLASSES)]
        loss = float(self.loss(classes, batch["target"], batch["mask"]))
        probability = activate(logits.float(), len(CLASSES))[0].cpu().numpy()
        counts = batch["mask"][0].cpu().numpy()
        truth = batch["labels"][0].cpu().numpy() * counts
        scores = []
        foreground = foreground_probability(probability, self.outputs)
        for value in FOREGROUNDS:
            config = InstanceConfig(foreground=value)
            for labels in label_at_splits(probability, self.outputs, config, SPLITS):
                sure = confidences(labels, foreground)
                for least in CONFIDENCES:
                    kept = np.where(sure[labels] >= least, labels, 0)
                    scores.append(score_image(kept * counts, truth))
        self._validated.append((loss, scores))

    def on_validation_epoch_end(self) -> None:
        """Called by Lightning."""
        losses, scores = zip(*self.place.gather(self._validated), strict=True)
        pooled = [pool(some) for some in zip(*scores, strict=True)]
        # Chosen by both: found at all, and found exactly. Of equals the first.
        both = [(one["ap50"] + one["mean_ap"]) / 2 for one in pooled]
        best = both.index(max(both))
        self.log("val_loss", sum(losses) / len(losses), prog_bar=True)
        for name in ("ap50", "mean_ap", "dice"):
            self.log(f"val_{name}", pooled[best][name], prog_bar=True)
        self.log("val_score", both[best])
        for name, value in zip(TUNED, TRIED[best], strict=True):
            self.log(f"val_{name}", value)

    def configure_optimizers(self) -> Any:
        """Called by Lightning."""
        decay = [p for p in self.net.parameters() if p.ndim > 1]
        plain = [p for p in self.net.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": self.config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, Schedule(self.config.steps, 1, self.config.warmup).rate
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _image(self, batch: dict[str, Tensor]) -> Tensor:
        return _channels_last(batch["image"])


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
#: Places that the model gets wrong that training starts from, by image.
HARD = "hard.npz"
#: Side of the middle part of a large image in which they are looked for (network px).
HARD_SIDE = 2048
_TITLES = {"sa2net": "SA2-Net", "focal_unet": "Focal U-Net"}
#: A run is on disk at least so often.
SAVE_AFTER = timedelta(minutes=5)
#: Crops that BatchNorm's statistics of the averaged weights come from.
STATISTICS_CROPS = 128
PRECISIONS = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed", torch.float32: "32-true"}


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes
    ----------
    path : Path
        The model file.
    scores : dict of str to float
        On the validation images, of the weights that were kept.
    """

    path: Path
    card: ModelCard
    scores: dict[str, float]


def train_folder(
    directory: str | Path,
    name: str,
    config: TrainConfig | None = None,
    out: str | Path | None = None,
    on_progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    command: str = "",
    axes: str | None = None,
    channels: Channels = None,
) -> TrainResult:
    """Train a network on a folder of images and labels, and register it.

    Parameters
    ----------
    directory : path
        See `data.training_set.load_training_folder`.
    name : str
        What the model is called.
    config : TrainConfig, optional
    out : path, optional
        Folder of the run: checkpoints, log, settings, and NAME.safetensors. Unsaid: a folder
        beside the registered models. A run that was interrupted there goes on with
        ``config.resume``.
    on_progress : callable(done, total, what), optional
    cancelled : callable() -> bool, optional
        Asked after every step.
    command : str
        How it was called, for the card.
    axes, channels
        Of the images, as of `data.training_set.load_training_folder`.

    Raises
    ------
    TrainingDataError, SettingsError, ModelExistsError
        If folder, settings or name do not serve.
    TrainingError
        If the loss stops being finite.
    Cancelled
        If `cancelled` said so; checkpoints of the run stay.
    """
    result = train_with(
        Place(), directory, name, config, out, on_progress, cancelled, command, axes, channels
    )
    assert result is not None
    return result


def train_with(
    place: Place,
    directory: str | Path,
    name: str,
    config: TrainConfig | None = None,
    out: str | Path | None = None,
    on_progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    command: str = "",
    axes: str | None = None,
    channels: Channels = None,
) -> TrainResult | None:
    """What each of the processes does that train together; see `train_folder`.

    Returns
    -------
    TrainResult or None
        None in all but the first, which write nothing.
    """
    config = config or TrainConfig()
    check_model_name(name)
    taken = find_model(name)
    if taken is not None and out is None:
        raise ModelExistsError(
            f"There is a model {name!r} already. Choose another name, remove it (sa2net "
            f"models remove {shlex.quote(name)}), or say where the new one goes with --out."
        )
    run = Path(out).expanduser() if out else user_models_dir().parent / "runs" / name
    last = _last_checkpoint(config)
    channels = channel_choice(channels)
    read_as = folder_input(axes, channels)
    _check_goes_on(config, read_as)
    items, validation_items = split_items(
        load_training_folder(directory, axes=axes, channels=channels),
        config.validation_fraction,
        config.seed,
    )
    input_config = InputConfig()
    device = resolve_device(config.device)
    check_devices(config.devices, device, config.batch_size)
    if config.hard_share and config.base is None:
        raise SettingsError(
            "--hard-share is about what a model gets wrong: give that model with --full --base "
            "MODEL, or leave --hard-share out."
        )
    examples = _load(items, input_config, config, on_progress, "reading images")
    validation = _load(
        evenly(validation_items, config.max_validation_images, lambda i: (i.kind, i.name)),
        input_config,
        config,
        on_progress,
        "reading validation images",
    )
    if len(validation) < config.devices:
        raise SettingsError(
            f"--devices {config.devices}: each needs an image to validate with, and there "
            f"{plural(len(validation), 'is', 'are')} {len(validation)}. Give fewer devices, "
            "or a larger --validation-fraction or more rows of split val."
        )
    for note in label_notes([*examples, *validation], Path(directory)):
        logger.warning(note)
    done = _steps_done(last)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    net, parent = start_network(config)
    settings = config.model_dump(mode="json")
    if place.is_first:
        with _writing_to(run):
            run.mkdir(parents=True, exist_ok=True)
    hard_of: dict[str, Any] = {}
    if config.hard_share:
        hard_of = _hard_of(examples, config, parent)
        beside = last.parent if last and place.is_first else run
        if place.is_first and (last is None or not (beside / HARD).is_file()):
            examples = _with_hard(examples, config, on_progress, cancelled)
        else:
            examples = _with_kept_hard(examples, beside / HARD, hard_of)
    if place.is_first:
        if last is None or not run.samefile(last.parent):
            with _writing_to(run):  # another run's is not what these settings are of
                (run / "last.ckpt").unlink(missing_ok=True)
        if hard_of:
            _keep_hard(examples, run / HARD, hard_of)
        kept = {**settings, **read_as}
        write_atomically(run / SETTINGS, json.dumps(kept, indent=1).encode())

    best = ModelCheckpoint(
        dirpath=run,
        filename="best",
        monitor="val_score",
        mode="max",
        enable_version_counter=False,
    )
    # After each validation, so that who goes on knows what it found.
    latest = ModelCheckpoint(
        dirpath=run,
        filename="last",
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    # Validations of a long run lie far apart; a kill costs no more than this.
    often = ModelCheckpoint(
        dirpath=run,
        filename="last",
        train_time_interval=SAVE_AFTER,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    watch = _Watch(config.steps, on_progress, cancelled)
    length = config.steps * config.batch_size
    # A loader always begins at its first crop, also where a run goes on.
    crops = CropDataset(examples, config, length, done * config.batch_size)
    whole = ValidationDataset(validation, config)
    seen = CropDataset(examples, config, min(STATISTICS_CROPS, length))
    statistics = DataLoader(seen, config.batch_size)
    exact = config.precision == "float32"
    callbacks = (_Averaging(config.ema_decay, statistics), best, latest, often, watch)
    call = {
        "directory": str(directory),
        "name": name,
        "config": settings,
        "out": str(run),
        "axes": axes,
        "channels": channels,
    }
    with _writing_to(run), shared(place, config.devices, device, call) as place:
        module = SegmentationModule(net, config, place)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainer = fit(
            module,
            DataLoader(
                crops,
                batch_size=config.batch_size // place.n,
                sampler=place.share(length),
                num_workers=config.workers,
                persistent_workers=config.workers > 0,
            ),
            device,
            torch.float32 if exact else fast_dtype(device),
            *callbacks,
            validation=DataLoader(whole, batch_size=1, sampler=place.share(len(whole))),
            checkpoint=last,
            max_steps=config.steps,
            val_check_interval=min(config.validate_every, config.steps),
            check_val_every_n_epoch=None,
            plugins=[_WholeCheckpoints()],
            # One table per part: Lightning empties the folder of a log that it opens.
            logger=CSVLogger(run, name="log", version=f"from_step_{done}" if done else ""),
            log_every_n_steps=max(1, min(50, config.steps)),
            gradient_clip_val=5.0,
            **place.options(device),
        )
    if not place.is_first:
        return None
    if watch.stopped:
        raise Cancelled(
            f"Training was cancelled at step {trainer.global_step} of {config.steps}. "
            f"Go on with the same command and: --resume {shlex.quote(str(run))}"
        )
    if not best.best_model_path:
        raise TrainingError("Training ended before its first validation. Train for more steps.")
    scores = _restore(module, Path(best.best_model_path))
    # a checkpoint of an older version did not choose all of them
    chosen = {
        field: round(scores.pop(field, getattr(InstanceConfig(), field)), 2) for field in TUNED
    }
    data = readable(Path(directory).name)
    card = ModelCard(
        name=name,
        description=f"{_TITLES[network_config(net).kind]} trained on {data}",
        network=network_config(net),
        classes=module.outputs,
        input=input_config,
        diameter=config.diameter,
        image_diameters=image_diameters(examples),
        instance=InstanceConfig(**chosen),
        training={
            "data": data,
            **read_as,
            "images": len(items),
            "validation_images": len(validation_items),
            "command": command,
            "settings": settings,
            "steps": trainer.global_step,
            "best_step": int(scores.pop("step")),
            "versions": versions(),
        },
        scores={"validation": scores},
        parent=parent,
    )
    path = save_model(run / f"{name}.safetensors", module.net, card, dtype="float16")
    if taken is None:
        path = add_file(path, name).path
    return TrainResult(path, card, scores)


def follow() -> None:
    """What a process does that `processes.shared` has started: train along, write nothing."""
    place, call = told()
    train_with(place, **{**call, "config": TrainConfig(**call["config"])})


@contextmanager
def _writing_to(run: Path) -> Iterator[None]:
    """Of the images all is in memory, so what the system complains of is the run's folder."""
    try:
        yield
    except OSError as error:
        raise cannot_write(run, error) from error


def _load(
    items: list[Any],
    input_config: InputConfig,
    config: TrainConfig,
    on_progress: Progress | None,
    what: str,
) -> list[Example]:
    examples = []
    for i, item in enumerate(items):
        examples.append(load_example(item, input_config, config.diameter))
        if on_progress:
            on_progress(i + 1, len(items), what)
    if not any(example.labels.any() for example in examples):
        raise TrainingDataError(
            f"None of the {len(items)} images has a labelled object. Label images are 0 for "
            "background and one number per object."
        )
    return examples


def _with_hard(
    examples: list[Example],
    config: TrainConfig,
    on_progress: Progress | None,
    cancelled: Callable[[], bool] | None,
) -> list[Example]:
    """Examples with the places that the model gets wrong that training starts from.

    It is judged as it would segment them, at the object size of the training.

    Raises
    ------
    Cancelled
    """
    assert config.base is not None
    base = load_model(config.base)
    predict = PredictConfig(
        device=config.device, precision=config.precision, tile=VALIDATION_SIDE
    )
    predictor = Predictor(base, predict, InputConfig())
    found = []
    for example in examples:
        scale = config.diameter / example.diameter
        part, start = middle_part(example, 1.0, math.ceil(HARD_SIDE / scale))
        values = predictor.predict_plane(InMemory(part.image), scale=scale, cancelled=cancelled)
        labels = label_objects(values, base.card.classes, base.card.instance)
        wrong = wrong_places(labels, part.labels, part.counts)
        found.append(replace(example, hard=wrong + np.asarray(start)))
        if on_progress:
            on_progress(len(found), len(examples), "looking for what the model gets wrong")
    return found


def _hard_of(
    examples: list[Example], config: TrainConfig, parent: str | None
) -> dict[str, Any]:
    """What hard places depend on, as JSON has it."""
    return {
        "base": (parent or "").rpartition(" ")[2],
        "diameter": config.diameter,
        "set of images": [[one.item.name, *one.labels.shape] for one in examples],
    }


def _keep_hard(examples: list[Example], path: Path, of: dict[str, Any]) -> None:
    """For who goes on, and for processes that train along: all look at the same."""
    places: dict[str, Any] = {str(i): one.hard for i, one in enumerate(examples)}
    write_atomically(path, lambda file: np.savez(file, of=json.dumps(of), **places))


def _with_kept_hard(examples: list[Example], path: Path, of: dict[str, Any]) -> list[Example]:
    """Examples with the places that `_keep_hard` kept.

    Raises
    ------
    SettingsError
        If they are of something else, or damaged.
    """
    try:
        with np.load(path) as kept:
            began = json.loads(str(kept["of"]))
            places = [kept[name] for name in kept.files if name != "of"]
    except (OSError, EOFError, KeyError, ValueError, BadZipFile, zlib.error) as error:
        raise SettingsError(
            f"{path} is damaged ({error}). Delete it: its places are looked for once more."
        ) from error
    for what, now in of.items():
        if began.get(what) != now:
            raise SettingsError(
                f"That run began with another {what}. Give the same, or begin anew without "
                "--resume."
            )
    return [replace(one, hard=hard) for one, hard in zip(examples, places, strict=True)]


def start_network(config: TrainConfig) -> tuple[Network, str | None]:
    """The network that training begins with, and the name and sha256 of its base, if any.

    Raises
    ------
    SettingsError
        If the base does not serve.
    ModelNotFoundError, CheckpointError
        If it cannot be loaded.
    """
    if config.base is None:
        unsaid = _unsaid(config)
        extra = config.squeeze_excitation
        se = unsaid["squeeze_excitation"] if extra is None else extra
        shape = NetworkConfig(
            kind=config.network or unsaid["network"],
            n_classes=len(OUTPUTS if config.distance else CLASSES),
            base_channels=config.base_channels or unsaid["base_channels"],
            se=(se, se, se, se),
        )
        net = make_network(shape, config.learnable_gamma)
        # Most pixels are background: starting there spares the first steps.
        share = torch.tensor([0.8, 0.15, 0.05]).log()
        for head in (net.outc4, net.outc3, net.outc2, net.outc1):
            assert head.bias is not None
            head.bias.data[: len(CLASSES)] = share
        return net, None
    model = load_model(config.base)
    if not is_taught(model.card.classes) or model.net.in_channels != 3:
        raise SettingsError(
            f"Model {model.name!r} has the classes {', '.join(model.card.classes)} and "
            f"{model.net.in_channels} input channels; training starts from models with "
            f"{', '.join(CLASSES)} and 3 channels, such as 'nuclei'."
        )
    _check_same_network(config, model)
    net = model.net
    if config.base_channels is not None and config.base_channels != net.base_channels:
        net = widened(net, config.base_channels, config.seed)
    outputs = OUTPUTS if config.distance else model.card.classes
    if config.learnable_gamma or len(outputs) != net.n_classes:
        shape = network_config(net).model_copy(update={"n_classes": len(outputs)})
        wider = make_network(shape, learnable_gamma=config.learnable_gamma)
        state = net.state_dict()
        if len(outputs) != net.n_classes:
            for key in [key for key in state if key.startswith("outc")]:
                # The distance begins at 0.5 everywhere: its weights are zero.
                more = torch.zeros(len(outputs) - net.n_classes, *state[key].shape[1:])
                state[key] = torch.cat([state[key], more.to(state[key])])
        # A saved network's exponents are fixed, so its weights lack them alone.
        wider.load_state_dict(state, strict=False)
        net = wider
    return net.train(), f"{model.name} {model.sha256}"


def _unsaid(config: TrainConfig) -> dict[str, Any]:
    """What the network is where these settings do not say it."""
    if config.base is None:
        se = config.network == "focal_unet"
        return {"network": "sa2net", "base_channels": 16, "squeeze_excitation": se}
    has = network_config(load_model(config.base).net)
    return {
        "network": has.kind,
        "base_channels": has.base_channels,
        "squeeze_excitation": any(has.se),
    }


def _check_same_network(config: TrainConfig, base: Model) -> None:
    """What was said of the network is so of the base, or can be made of it."""
    has = network_config(base.net)
    of = f"Model {base.name!r}, which training would start from,"
    if config.network not in (None, has.kind):
        raise SettingsError(
            f"{of} is a {has.kind}: leave out --network {config.network}, or --base."
        )
    if config.squeeze_excitation not in (None, any(has.se)):
        said = "has" if any(has.se) else "has no"
        raise SettingsError(
            f"{of} {said} squeeze and excitation, and that stays so: leave that setting out, "
            "or --base."
        )
    if (config.base_channels or has.base_channels) % has.base_channels:
        raise SettingsError(
            f"{of} has {has.base_channels} base channels: give a multiple of that, or leave "
            f"out --base-channels {config.base_channels}."
        )


def _last_checkpoint(config: TrainConfig) -> Path | None:
    if config.resume is None:
        return None
    last = Path(config.resume).expanduser() / "last.ckpt"
    if not last.is_file():
        raise SettingsError(
            f"There is no last.ckpt in {config.resume}, so no training to go on with. Give "
            "the folder of an interrupted run, or leave --resume out."
        )
    return last


#: What may change where a run goes on: how long and on what it trains, not what it learns.
_MAY_CHANGE = {"resume", "steps", "validate_every", "precision", "device", "devices", "workers"}
#: Runs of 0.1.0 wrote these where nothing had been said.
_FORMERLY = {"network": "sa2net", "base_channels": 16}


def _check_goes_on(config: TrainConfig, read_as: dict[str, Any]) -> None:
    """A run goes on with its settings, and images as it began to read them, or not at all.

    Raises
    ------
    SettingsError
    """
    if config.resume is None:
        return
    try:
        began = json.loads((Path(config.resume).expanduser() / SETTINGS).read_bytes())
    except (OSError, ValueError):
        return
    for name in ("axes", "channels"):
        was, now = (",".join(map(str, said.get(name) or ())) for said in (began, read_as))
        if was != now:
            was = was if name == "channels" else was.replace(",", "")
            raise SettingsError(
                f"That run began with --{name} {was}: give the same to go on with it."
                if was
                else f"That run began without --{name}: leave it out to go on with it."
            )
    unsaid = _unsaid(config)
    changed = []
    # A run of before there was a setting did what is its default.
    began = began and {**TrainConfig().model_dump(mode="json"), **began}
    for name, said in config.model_dump(mode="json").items():
        if name not in began or name in _MAY_CHANGE:
            continue
        had, has = (unsaid.get(name) if one is None else one for one in (began[name], said))
        if had != has and (said is not None or began[name] != _FORMERLY.get(name)):
            changed.append(f"--{name.replace('_', '-')} was {had} and is {has}")
    if changed:
        raise SettingsError(
            f"That run began with other settings: {', '.join(changed)}. Give the same to go on "
            "with it."
        )


def _steps_done(last: Path | None) -> int:
    if last is None:
        return 0
    return int(torch.load(last, map_location="cpu", weights_only=False)["global_step"])


class _Averaging(WeightAveraging):
    """The moving average, kept in Lightning's checkpoints.

    It is scored with statistics of BatchNorm that are taken anew from crops: averages of them
    lag behind while the rate is high, and spoil the weights.
    """

    def __init__(self, decay: float, crops: DataLoader[Any]) -> None:
        def average(mean: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
            if not mean.is_floating_point():
                return value  # BatchNorm's counter
            return mean.lerp(value, 1 - decay_at(decay, int(count)))

        super().__init__(avg_fn=average)
        self.crops = crops
        self._averages: dict[str, Tensor] = {}

    @property
    def state_key(self) -> str:
        """As of its base: runs that began with that go on."""
        return WeightAveraging.__qualname__

    def on_validation_epoch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        assert isinstance(pl_module, SegmentationModule)
        self._averages = {name: value.clone() for name, value in pl_module.named_buffers()}
        # Crops are made before: augmentation is not for autocast.
        images = [_channels_last(crops["image"]) for crops in self.crops]
        with trainer.precision_plugin.forward_context():
            update_bn(images, pl_module.net, device=pl_module.device)

    def on_train_batch_start(self, *_: Any) -> None:
        # How often it was scored does not change what is learned.
        if self._averages and self._average_model is not None:
            for name, value in self._average_model.module.named_buffers():
                value.copy_(self._averages[name])
        self._averages = {}


def _restore(module: SegmentationModule, path: Path) -> dict[str, float]:
    """Put the best averaged weights into the module; returns their validation scores."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    module.load_state_dict(checkpoint["state_dict"])
    module.cpu().eval()
    scores = {k: float(v) for k, v in checkpoint["validation"].items()}
    return {**scores, "step": float(checkpoint["global_step"])}


class _WholeCheckpoints(TorchCheckpointIO):
    """A disk that is full must not cost the checkpoint before."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        write_tensors(Path(path), checkpoint)


class _Watch(Callback):
    """Progress out, cancel in, and a stop where the loss is no number."""

    def __init__(
        self, steps: int, on_progress: Progress | None, cancelled: Callable[[], bool] | None
    ) -> None:
        self.steps = steps
        self.on_progress = on_progress
        self.cancelled = cancelled
        self.stopped = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        # One answer for all processes that train together.
        loss = float(trainer.strategy.reduce(outputs["loss"].detach()))
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss} at step {trainer.global_step}. Lower the learning "
                "rate, or use precision float32, and go on with --resume."
            )
        if self.on_progress:
            self.on_progress(trainer.global_step, self.steps, f"training, loss {loss:.3f}")
        asked = bool(self.cancelled and self.cancelled())
        if trainer.strategy.reduce_boolean_decision(asked, all=False):
            self.stopped = True
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics
        logger.info(
            "step %d: %s",
            trainer.global_step,
            ", ".join(f"{k} {float(v):.3f}" for k, v in metrics.items() if k[:3] == "val"),
        )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        metrics = trainer.callback_metrics
        checkpoint["validation"] = {
            k[4:]: float(v) for k, v in metrics.items() if k.startswith("val_")
        }
