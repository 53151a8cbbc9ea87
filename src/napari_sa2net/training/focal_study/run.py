"""A whole study: train, apply the rule, train again, measure, report. Goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from napari_sa2net.errors import Cancelled, OutputError, SettingsError
from napari_sa2net.inference.devices import device_name, resolve_device
from napari_sa2net.models.file import load_checkpoint, save_model
from napari_sa2net.provenance import versions
from napari_sa2net.training.focal_study.fit import discard_state, fit, training_dtype
from napari_sa2net.training.focal_study.images import StudyImages, choose_items, load_images
from napari_sa2net.training.focal_study.networks import (
    build,
    count_parameters,
    gamma_of,
    keep,
    modules_of,
)
from napari_sa2net.training.focal_study.plan import TITLES, VARIANTS, StudySettings, Variant
from napari_sa2net.training.focal_study.report import write_report
from napari_sa2net.training.focal_study.scoring import (
    card_of,
    pooled,
    score_images,
    time_variants,
)
from napari_sa2net.training.focal_study.state import LOCK, begin, read, without_scores, write
from napari_sa2net.training.focal_study.statistics import summarise

logger = logging.getLogger(__name__)

MODEL = "model.safetensors"

Progress = Callable[[int, int, str], None]


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
        Training folder; see `images.choose_items`.
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
        with _own(out):
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
        self.dtype = training_dtype(device, settings.precision)
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
        """Whether a training has its scores and its model, with the modules that it shall
        have: others may be kept once trainings before it were repeated."""
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
        net, seconds = fit(
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
        discard_state(folder)
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


@contextmanager
def _own(out: Path) -> Iterator[None]:
    """Nobody else writes in that folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be made ({error}). Choose a folder that may be written to."
        ) from error
    try:
        with FileLock(out / LOCK, timeout=0):
            yield
    except Timeout:
        raise SettingsError(
            f"Another process runs a study in {out}. Wait for it, or choose another folder."
        ) from None
