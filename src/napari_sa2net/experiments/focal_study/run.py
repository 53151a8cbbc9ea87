"""A whole study: train, apply the rule, train again, measure, report. Goes on where it was."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from pydantic import BaseModel
from torch import Tensor
from torch.utils.data import DataLoader

from napari_sa2net.config import Progress, TrainConfig
from napari_sa2net.errors import (
    Cancelled,
    OutOfMemoryError,
    SettingsError,
    TrainingError,
)
from napari_sa2net.experiments.focal_study.plan import (
    TITLES,
    VARIANTS,
    StudyImages,
    StudySettings,
    Variant,
    as_trained,
    build,
    choose_items,
    count_parameters,
    gamma_of,
    keep,
    load_images,
    modules_of,
)
from napari_sa2net.experiments.focal_study.report import summarise, write_report
from napari_sa2net.experiments.focal_study.scoring import (
    card_of,
    pooled,
    score_images,
    time_variants,
)
from napari_sa2net.files import is_there, write_atomically
from napari_sa2net.inference.devices import device_name, is_out_of_memory, resolve_device
from napari_sa2net.metrics import THRESHOLDS
from napari_sa2net.models.file import load_checkpoint, save_model
from napari_sa2net.nn import FocalExponent, Network
from napari_sa2net.provenance import versions
from napari_sa2net.training.dataset import CropDataset, Example
from napari_sa2net.training.runs import LOCK, read_tensors, reading, working_on, write_tensors
from napari_sa2net.training.schedule import MovingAverage, Schedule, gamma_peak
from napari_sa2net.training.train import SegmentationModule, fit
from napari_sa2net.training.tuning import working_dtype

# --------------------------------------------------------------------------------------------
# study.json: what a study has done so far, read back only if it is whole.

SCHEMA_VERSION = 1
STUDY = "study.json"


class _Images(BaseModel):
    training: list[str]
    test: list[str]
    test_is_named_in_the_index: bool
    digest: str


class _Scores(BaseModel):
    matches: list[list[tuple[int, int, int]]]
    dice: list[float]
    iou: list[float]


class _Run(BaseModel):
    gamma: dict[str, float]
    parameters: int
    seconds: float
    precision: str
    device: str
    scores: _Scores


class _Time(BaseModel):
    seconds: float
    ratio: float
    low: float
    high: float


class _Times(BaseModel):
    images: int
    rounds: int
    variants: dict[str, _Time]


class _State(BaseModel):
    """What is read of a study; its result is always computed anew."""

    command: str
    data: str
    settings: StudySettings
    images: _Images
    runs: dict[str, _Run]
    time: _Times | None = None


def begin(
    settings: StudySettings, images: StudyImages, data: str | Path, command: str
) -> dict[str, Any]:
    """The state of a study before its first training."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "data": Path(data).expanduser().resolve().name,
        "settings": settings.model_dump(mode="json"),
        "images": images.plain(),
        "runs": {},
    }


def read(out: Path, settings: StudySettings) -> dict[str, Any] | None:
    """The study that is in a folder, which must be this one; None where there is none yet.

    Its threshold may be another: it is applied to what was learned.

    Raises
    ------
    SettingsError
        If the folder holds something else, or the file is damaged or of another version.
    OutputError
        If it is no folder.
    """
    path = out / STUDY
    if not is_there(path, LOCK):
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        version = state["schema_version"]
        if version == SCHEMA_VERSION:
            before = _whole(state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is damaged. Choose another folder.") from error
    if version != SCHEMA_VERSION:
        raise SettingsError(f"{path} is of another version. Choose another folder.")
    was, now = _flat(before.settings), _flat(settings)
    for key, value in now.items():
        if was[key] != value and key != "threshold":
            raise SettingsError(
                f"{out} holds a study with {key.replace('_', ' ')} {was[key]}, and this "
                f"one has {value}. Choose another folder, or repeat its settings."
            )
    return state | {"settings": settings.model_dump(mode="json")}


def write(out: Path, state: dict[str, Any]) -> None:
    """Replace the state on disk, durably."""
    content = json.dumps(state, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(out / STUDY, content.encode(), durable=True)


def without_scores(state: dict[str, Any]) -> dict[str, Any]:
    """The state without the scores of single images."""
    runs = {
        key: {k: v for k, v in run.items() if k != "scores"}
        for key, run in state["runs"].items()
    }
    return state | {"runs": runs}


def _whole(state: Any) -> _State:
    """The state, of which nothing is missing; raises ValueError."""
    found = _State.model_validate(state)
    n = len(found.images.test)
    for key, run in found.runs.items():
        scores = run.scores
        if not len(scores.matches) == len(scores.dice) == len(scores.iou) == n or any(
            len(one) != len(THRESHOLDS) for one in scores.matches
        ):
            raise ValueError(f"{key} has not the scores of {n} images")
    return found


def _flat(settings: StudySettings) -> dict[str, Any]:
    """Settings by name, those inside others too."""
    flat: dict[str, Any] = {}
    for key, value in settings.model_dump(mode="json").items():
        inner = value if isinstance(value, dict) else {}
        flat |= {f"{key} {name}": one for name, one in inner.items()} or {key: value}
    return flat


# --------------------------------------------------------------------------------------------
# One training of a study, whose state on disk is all that the next step needs.

FIT_SCHEMA_VERSION = 1
STATE = "state.pt"
#: Seconds between writing states; a kill costs no more.
SAVE_SECONDS = 20.0
CLIP = 5.0


def fit_network(
    net: Network,
    examples: Sequence[Example],
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    on_step: Callable[[int, float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Network, float]:
    """Train a network, or go on where a training in that folder was.

    Parameters
    ----------
    net : Network
        As it begins; trained in place.
    folder : path
        Holds the state of a training that is not over.
    on_step : callable (steps done, loss), optional
    cancelled : callable -> bool, optional
        Asked after every step; the state is written then.

    Returns
    -------
    Network
        The moving average of the weights after the last step, γ fixed, on the CPU. No step
        is chosen, so no image is needed to choose it by.
    float
        Seconds that it took, over all parts.

    Raises
    ------
    Cancelled, TrainingError, OutOfMemoryError, OutputError
    """
    module = _StudyModule(net.to(device), config)
    path = folder / STATE
    if path.is_file():
        module.take_on(path)
    size = config.batch_size
    # A loader always begins at its first crop, also where a run goes on.
    crops = CropDataset(
        examples, config, (config.steps - module.done) * size, module.done * size
    )
    try:
        if len(crops):
            fit(
                module,
                DataLoader(crops, batch_size=size, num_workers=config.workers),
                device,
                dtype,
                _Watch(path, on_step, cancelled),
                max_epochs=1,
                logger=False,
                enable_checkpointing=False,
                limit_val_batches=0,
            )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"Memory ran out in training with {size} crops of {config.crop} px. "
            "Choose a smaller --batch-size, --crop or --base, and another folder."
        ) from error
    net.load_state_dict(module.average.state)
    return as_trained(net), module.seconds


class _StudyModule(SegmentationModule):
    """A step of a study: γ has a learning rate of its own, and is clipped apart."""

    def __init__(self, net: Network, config: TrainConfig) -> None:
        super().__init__(net, config)
        self.automatic_optimization = False
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = MovingAverage(net, config.ema_decay)
        self.schedule = Schedule(config.steps, 1, config.warmup)
        self.done, self.seconds, self.last_loss = 0, 0.0, math.nan
        exponents = [
            module.gamma
            for module in net.modules()
            if isinstance(module, FocalExponent) and module.learnable
        ]
        own = {id(gamma) for gamma in exponents}
        weights = [p for p in net.parameters() if id(p) not in own]
        rates = sum(self.schedule.rate(step) for step in range(config.steps))
        peak, decay = config.learning_rate, config.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": decay, "peak": peak},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0, "peak": peak},
            {"params": exponents, "weight_decay": 0.0, "peak": gamma_peak(rates)},
        ]
        self._adam = torch.optim.AdamW([group for group in groups if group["params"]])

    def configure_optimizers(self) -> Any:
        return self._adam

    def training_step(self, batch: dict[str, Tensor], _index: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        share = self.schedule.rate(self.done)
        loss = self.loss_of(batch)
        self.last_loss = float(loss.detach())
        if not math.isfinite(self.last_loss):
            raise TrainingError(
                f"The loss became {self.last_loss} at step {self.done + 1}. Run the study with "
                "--precision float32, in another folder."
            )
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        # γ apart, as its gradients are of another size than the weights'.
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share
            torch.nn.utils.clip_grad_norm_(group["params"], CLIP)
        optimizer.step()
        self.done += 1
        self.average.update(self.net)

    def write(self, path: Path) -> None:
        """Write all that the next step depends on."""
        state = {
            "schema_version": FIT_SCHEMA_VERSION,
            "done": self.done,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "mean": self.average.state,
            "optimizer": self._adam.state_dict(),
        }
        write_tensors(path, state)

    def take_on(self, path: Path) -> None:
        """Go on from what was written."""
        advice = "Delete that file: its training then begins anew, the others are kept."
        device = next(self.net.parameters()).device
        state = read_tensors(path, FIT_SCHEMA_VERSION, advice, device)
        with reading(path, advice):
            self.net.load_state_dict(state["net"])
            self.average.restore(state["mean"], int(state["done"]))
            self._adam.load_state_dict(state["optimizer"])
            self.done, self.seconds = int(state["done"]), float(state["seconds"])


class _Watch(Callback):
    """Progress out, cancel in, and the state to disk now and then."""

    def __init__(
        self,
        path: Path,
        on_step: Callable[[int, float], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.path, self.on_step, self.cancelled = path, on_step, cancelled
        self.clock = self.saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        module = pl_module
        assert isinstance(module, _StudyModule)
        if self.on_step:
            self.on_step(module.done, module.last_loss)
        now = time.monotonic()
        module.seconds += now - self.clock
        self.clock = now
        stop, over = (
            bool(self.cancelled and self.cancelled()),
            module.done == module.config.steps,
        )
        if stop or over or now - self.saved >= SAVE_SECONDS:
            module.write(self.path)
            self.saved = time.monotonic()
        if stop and not over:
            raise Cancelled(f"Stopped at step {module.done} of {module.config.steps}.")


logger = logging.getLogger(__name__)

MODEL = "model.safetensors"


def focal_study(
    data: str | Path,
    out: str | Path,
    settings: StudySettings | None = None,
    *,
    device: str = "auto",
    workers: int = 0,
    on_progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Find out which attention modules a data set needs, and what they bring.

    Parameters
    ----------
    data : path
        Training folder; see `plan.choose_items`.
    out : path
        Gets study.json, tables, figure, page and models. The same call goes on where one was
        broken off: finished trainings are kept, the present one goes on from its state.
    settings : StudySettings, optional
    device : str
    workers : int
        Loader processes; the crops are the same with any number.
    on_progress : callable (steps done, steps at most, what), optional
    cancelled : callable -> bool, optional
    command : str
        How it was called, for the report.

    Returns
    -------
    dict
        The content of study.json without the scores of single images.

    Raises
    ------
    TrainingDataError, SettingsError, DeviceError, TrainingError, OutputError,
    OutOfMemoryError
    Cancelled
        If `cancelled` said so; what is done is on disk.
    """
    settings = settings or StudySettings()
    out = Path(out).expanduser()
    where = resolve_device(device)
    read(out, settings)  # a folder that does not serve shows at once

    def ask() -> None:
        if cancelled and cancelled():
            raise Cancelled("Stopped.")

    try:
        choose_items(data, settings)  # mistakes show before anything is read at length
        images = load_images(data, settings, on_progress, ask)
        busy = f"Another process runs a study in {out}. Wait for it, or choose another folder."
        with working_on(out, SettingsError(busy)):
            state = read(out, settings) or begin(settings, images, data, command)
            if state["images"]["digest"] != images.digest:
                raise SettingsError(
                    f"{out} holds a study of other images than {data} has now. Choose another "
                    "folder."
                )
            state |= {
                "command": command or state["command"],
                "device": device_name(where),
                "versions": versions(),
            }
            write(out, state)
            study = _Study(
                state, settings, images, out, where, workers, on_progress, ask, cancelled
            )
            return study.carry_out()
    except Cancelled as stopped:
        raise Cancelled(f"{stopped} The same command goes on from there.") from None


class _Study:
    """The steps of a study, each of which is skipped where its result is in the state."""

    def __init__(
        self,
        state: dict[str, Any],
        settings: StudySettings,
        images: StudyImages,
        out: Path,
        device: torch.device,
        workers: int,
        on_progress: Progress | None,
        ask: Callable[[], None],
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.state = state
        self.settings = settings
        self.images = images
        self.out = out
        self.device = device
        self.dtype = working_dtype(device, settings.precision)
        self.workers = workers
        self.on_progress = on_progress
        self.ask = ask
        self.cancelled = cancelled
        self.modules = modules_of(settings.network)
        self.runs: dict[str, Any] = state["runs"]
        #: Trainings that are over, of how many.
        self.done, self.total = 0, len(VARIANTS) * settings.seeds

    def carry_out(self) -> dict[str, Any]:
        self._train("learnable", self.modules, learnable=True)
        gamma = {
            m: [self.runs[key]["gamma"][m] for key in self._keys("learnable")]
            for m in self.modules
        }
        kept = keep(gamma, self.settings.threshold)
        self._train("none", (), learnable=False)
        self._train("all", self.modules, learnable=False)
        # The same network, data and order give the same result: it is not trained twice.
        same: dict[int, Variant] = {len(self.modules): "learnable", 0: "none"}
        twin = same.get(len(kept))
        if twin is None:
            self._train("chosen", kept, learnable=True)
        else:
            self.done += self.settings.seeds
        variant_of: dict[Variant, Variant] = {v: v for v in VARIANTS}
        variant_of["chosen"] = twin or "chosen"
        timed = self.state.get("time", {}).get("variants", {})
        if not timed.keys() >= set(variant_of.values()):
            self.state["time"] = self._time(variant_of)
            write(self.out, self.state)
        variants, differences = summarise(
            {
                v: [self.runs[key]["scores"] for key in self._keys(variant_of[v])]
                for v in VARIANTS
            }
        )
        for v in VARIANTS:
            first = self.runs[self._keys(variant_of[v])[0]]
            variants[v] |= {
                "modules": {"none": [], "chosen": list(kept)}.get(v, list(self.modules)),
                "parameters": first["parameters"],
                "time": self.state["time"]["variants"][variant_of[v]],
            }
        for d in differences:
            if variant_of[d["of"]] == variant_of[d["against"]]:
                d["verdict"] = "the same network"
        self.state["result"] = {
            "kept": list(kept),
            "removed": [m for m in self.modules if m not in kept],
            "chosen_is": twin,
            "gamma": gamma,
            "variants": variants,
            "differences": differences,
        }
        write(self.out, self.state)
        write_report(self.out, self.state)
        self._tell(0, "done")
        return without_scores(self.state)

    def _keys(self, variant: Variant) -> list[str]:
        return [f"{variant}_{seed}" for seed in range(self.settings.seeds)]

    def _train(self, variant: Variant, kept: tuple[str, ...], learnable: bool) -> None:
        for seed, key in enumerate(self._keys(variant)):
            if not self._is_over(key, kept):
                self.ask()
                self._train_one(key, variant, kept, seed, learnable)
            self.done += 1

    def _is_over(self, key: str, kept: tuple[str, ...]) -> bool:
        """Whether a training has its scores and its model, with the modules that it shall have.

        Others may be kept once trainings before it were repeated.
        """
        if key not in self.runs or not (self.out / "runs" / key / MODEL).is_file():
            return False
        return set(self.runs[key]["gamma"]) == set(kept)

    def _train_one(
        self, key: str, variant: Variant, kept: tuple[str, ...], seed: int, learnable: bool
    ) -> None:
        settings = self.settings
        config = settings.training(seed).model_copy(update={"workers": self.workers})
        what = f"{variant}, seed {seed} ({seed + 1} of {settings.seeds})"
        folder = self.out / "runs" / key
        net, seconds = fit_network(
            build(settings, seed, kept, learnable),
            self.images.training,
            config,
            folder,
            self.device,
            self.dtype,
            lambda done, loss: self._tell(done, f"{what}: loss {loss:.3f}"),
            self.cancelled,
        )
        self._tell(config.steps, f"{what}: scoring")
        scores = score_images(
            net,
            self.images.test,
            settings.diameter,
            self.device,
            settings.precision,
            self.ask,
        )
        card = card_of(
            net,
            f"study {key}",
            settings.diameter,
            settings=settings.model_dump(mode="json"),
            seed=seed,
            modules=list(kept),
            images=len(self.images.training),
            versions=versions(),
        )
        save_model(folder / MODEL, net, card)
        self.state.pop("time", None)  # of a network that is no more
        self.runs[key] = {
            "gamma": gamma_of(net, settings.network),
            "parameters": count_parameters(net),
            "seconds": seconds,
            "precision": str(self.dtype).removeprefix("torch."),
            "device": device_name(self.device),
            "scores": scores,
        }
        write(self.out, self.state)
        with contextlib.suppress(OSError):
            (folder / STATE).unlink()  # the result is on disk
        found = {metric: float(value[0]) for metric, value in pooled(scores).items()}
        said = ", ".join(f"{TITLES[metric]} {value:.3f}" for metric, value in found.items())
        logger.info("%s: %s (%.0f s)", what, said, seconds)

    def _time(self, variant_of: dict[Variant, Variant]) -> dict[str, Any]:
        self._tell(0, "timing")
        nets = {
            v: load_checkpoint(self.out / "runs" / self._keys(v)[0] / MODEL)
            for v in dict.fromkeys(variant_of.values())
        }
        return time_variants(
            nets, self.images.test, self.settings.diameter, self.device, self.dtype, self.ask
        )

    def _tell(self, step: int, what: str) -> None:
        if self.on_progress:
            steps = self.settings.steps
            self.on_progress(self.done * steps + step, self.total * steps, what)
