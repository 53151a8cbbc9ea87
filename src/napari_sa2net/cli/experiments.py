"""``sa2net reproduce`` and ``sa2net focal-study``: the papers' experiments, on your data."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

from napari_sa2net.cli import console
from napari_sa2net.cli.console import StepProgress
from napari_sa2net.cli.options import Device, JsonOnStdout, Output
from napari_sa2net.cli.train import INTERRUPTED, check_company, ctrl_c, log_to
from napari_sa2net.config import UnifiedFocalConfig
from napari_sa2net.errors import Cancelled


def reproduce(
    dataset: Literal["monuseg", "glas", "isic2018", "segpc2021", "acdc"],
    /,
    *,
    data: Path,
    output: Output,
    recipe: Literal["published", "ours"] = "published",
    keep: Literal["best", "last"] | None = None,
    base_channels: int = 64,
    folds: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: Literal["float32", "auto"] = "float32",
    workers: int = 0,
    seed: int = 0,
    json: JsonOnStdout = False,
) -> int:
    """Repeat an experiment of the SA2-Net paper by what is published of it, or by our recipe.

    Trains and scores on a data set that you downloaded, and puts Dice and IoU per image, for
    isic2018 and segpc2021 also over all pixels as published, beside published figures. Writes
    models, scores of every image, and report.md to OUT. Ctrl-C stops; the same command goes
    on.

    Parameters
    ----------
    dataset
        MoNuSeg and GlaS: five folds, and their vote on the test images; the others: one
        training.
    data
        Folder that the data set was unpacked into, as its authors hand it out.
    recipe
        published: as in the published code; of acdc nothing is there, and the report says what
        is our reading. ours: same network, images and scores, trained and asked in another
        way; for monuseg and glas.
    keep
        The epoch that is tested: the best on the validation images, or the last, for which all
        epochs run. Unsaid: as in the recipe; for isic2018 and segpc2021 the last, as the
        published code does, though it means the best.
    base_channels
        Width of the network; the published one has 64.
    folds
        Run only the first so many of the five folds.
    epochs
        At most; unsaid: as in the recipe.
    batch_size
        Unsaid: as in the recipe.
    device
        auto (all GPUs there are), cpu, cuda:1, mps; several with commas between share the
        folds, also a large one that is named more than once.
    precision
        auto: half precision where the device is faster with it.
    workers
        Loader processes per fold.
    seed
        Of folds, first weights and augmentation.
    """
    from napari_sa2net.experiments.reproduce.recipes import recipe_of
    from napari_sa2net.experiments.reproduce.report import table_rows
    from napari_sa2net.experiments.reproduce.run import reproduce as run

    work = partial(
        run,
        dataset,
        data,
        output,
        recipe=recipe,
        keep=keep,
        base_channels=base_channels,
        folds=folds,
        epochs=epochs,
        batch_size=batch_size,
        device=device,
        precision=precision,
        workers=workers,
        seed=seed,
    )

    def show(report: dict[str, Any]) -> None:
        of = recipe_of(dataset, recipe)
        rows = table_rows(of, report["summary"])
        console.table((f"per {of.scored[:-1]}", "Dice", "IoU", "over, or source"), rows)
        for note in report["notes"]:
            console.warning(note)
        console.say(f"report: {output / 'report.md'}")

    return _ended(work, show, json)


def focal_study(
    data: Path,
    /,
    *,
    output: Output,
    preset: Literal["cpu", "full"] = "cpu",
    network: Literal["sa2net", "focal_unet"] = "sa2net",
    kind: str | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    base: int | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    crop: int | None = None,
    loss: Literal["dice_ce", "unified_focal"] = "dice_ce",
    unified_focal: UnifiedFocalConfig | None = None,
    threshold: float | None = None,
    precision: Literal["auto", "float32"] = "auto",
    device: Device = "auto",
    workers: int = 0,
    json: JsonOnStdout = False,
) -> int:
    """Find out which attention modules a data set needs, and what they bring.

    Trains with one learnable exponent γ per attention module, removes the modules whose γ
    ends near 0, trains again, and compares with no module and with all of them at γ = 1, over
    several seeds. Writes study.md, results.csv, gamma.csv and a figure to OUT. Ctrl-C stops;
    the same command goes on.

    Parameters
    ----------
    data
        Folder with images/, labels/ and, if you like, index.csv (columns split, name, kind,
        group). Rows of split test are measured on; without them a fifth is held out.
    preset
        cpu ends within an hour on two cores; full is for a GPU.
    network
        sa2net, or focal_unet: a U-Net with attention gates.
    kind
        Study the images of this kind alone.
    seeds
        Trainings of each variant, at least 3.
    steps
        Optimiser steps of each training.
    base
        Width of the network.
    images
        At most so many to train on, and so many to measure on.
    batch_size
        Crops per step.
    crop
        Side of a crop (px).
    loss
        dice_ce, or unified_focal, whose parameters (--unified-focal.gamma and so on) count
        only with it.
    unified_focal
        Parameters of that loss; only with --loss unified_focal.
    threshold
        A module is removed where the median of its γ is below [0.5].
    precision
        auto: half precision where the device is faster with it.
    workers
        Loader processes.
    """
    from napari_sa2net.experiments.focal_study.plan import settings_of
    from napari_sa2net.experiments.focal_study.report import (
        SUMMARY_COLUMNS,
        conclusion,
        summary_rows,
    )
    from napari_sa2net.experiments.focal_study.run import focal_study as run

    settings = settings_of(
        preset,
        network=network,
        kind=kind,
        seeds=seeds,
        steps=steps,
        base_channels=base,
        images=images,
        batch_size=batch_size,
        crop=crop,
        loss=loss,
        unified_focal=unified_focal,
        threshold=threshold,
        precision=precision,
    )
    if unified_focal is not None:
        check_company(settings, {"unified_focal": unified_focal})

    def show(study: dict[str, Any]) -> None:
        console.table(SUMMARY_COLUMNS, summary_rows(study))
        out = console.stdout()
        out.print(conclusion(study), markup=False)
        out.print(f"report: {output / 'study.md'}", markup=False)

    work = partial(run, data, output, settings, device=device, workers=workers)
    return _ended(work, show, json, log=True)


def _ended(
    work: Callable[..., dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    json: bool,
    log: bool = False,
) -> int:
    """Run an experiment to its end or Ctrl-C, and print what it found; the exit status."""
    with (
        StepProgress(quiet=json) as progress,
        log_to(progress) if log and not json else nullcontext(),
        ctrl_c() as pressed,
    ):
        try:
            found = work(
                on_progress=progress.step,
                cancelled=pressed,
                command=shlex.join(["sa2net", *sys.argv[1:]]),
            )
        except Cancelled as stopped:
            console.warning(str(stopped))
            return INTERRUPTED
    if json:
        console.print_json(found)
    else:
        show(found)
    return 0
