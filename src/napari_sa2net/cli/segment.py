"""``sa2net segment``: masks and tables of files, folders and OME-Zarr images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_sa2net.cli import console
from napari_sa2net.cli.console import BatchProgress
from napari_sa2net.cli.options import (
    Flag,
    Formats,
    ImageAxes,
    ImageChannels,
    Inputs,
    Instances,
    JsonOfRun,
    Measure,
    ModelOrFile,
    Normalize,
    Output,
    Predict,
)
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data.axes import channel_choice
from napari_sa2net.data.results import (
    SEGMENT,
    Job,
    Layout,
    ResultFolder,
    input_images,
    name_jobs,
    refuse_inputs_as_outputs,
)
from napari_sa2net.inference import batch
from napari_sa2net.inference.batch import Batch, BatchSettings, Work
from napari_sa2net.quantities import checked_groups

if TYPE_CHECKING:
    from napari_sa2net.data import ImageFile, ImagePlan
    from napari_sa2net.inference.segment import Segmentation
    from napari_sa2net.models import Model


#: What the shell offers where a mask came from elsewhere.
OR_OVERWRITE = ", or replace it with --overwrite"


def segment(
    inputs: Inputs,
    /,
    *,
    output: Output,
    model: ModelOrFile = "nuclei",
    axes: ImageAxes = None,
    channels: ImageChannels = None,
    normalize: Normalize = True,
    measure: Measure = None,
    format: Formats = (),
    overwrite: Flag = False,
    json: JsonOfRun = False,
    instances: Instances = None,
    predict: Predict = None,
) -> int:
    """Segment images into labelled masks and a table of objects.

    Writes OUT/NAME.tif (labels), OUT/objects.csv, and records under OUT/extra; other formats
    into folders of their own, such as OUT/geojson/NAME.geojson. A batch that
    was interrupted goes on where it stopped when the same command is given again.

    Parameters
    ----------
    overwrite
        Do finished images again, and replace masks that came from elsewhere.
    """
    jobs = name_jobs(input_images(inputs))
    refuse_inputs_as_outputs(jobs, output)
    loaded, said = prepared(model, axes, channels, normalize, instances, predict)
    settings = BatchSettings(**said, measure=checked_groups(measure))
    return run_command(jobs, output, loaded, settings, overwrite, json, formats=format)


def prepared(
    model: str,
    axes: str | None,
    channels: str | None,
    normalize: bool,
    instances: InstanceConfig | None,
    predict: PredictConfig | None,
) -> tuple[Model, dict[str, Any]]:
    """The model of a batch, and what was said, as arguments of `BatchSettings`."""
    from napari_sa2net.inference.cpu import check_engine
    from napari_sa2net.inference.devices import resolve_device
    from napari_sa2net.models import load_model

    predict = predict or PredictConfig()
    resolve_device(predict.device)
    check_engine(predict.engine)
    loaded = load_model(model)
    # Only what was said on the command line replaces the model's own tuning.
    own = instances.model_dump(include=instances.model_fields_set) if instances else {}
    return loaded, {
        "axes": axes,
        "channels": chosen_channels(channels),
        "normalize": normalize,
        "predict": predict,
        "instances": loaded.card.instance.model_copy(update=own),
    }


def run_command(
    jobs: Sequence[Job],
    output: Path,
    model: Model,
    settings: BatchSettings,
    overwrite: bool,
    json: bool,
    **more: Any,
) -> int:
    """Run a batch and tell of it; the exit code. `more` as of `run_batch`."""
    summary = run_batch(jobs, output, model, settings, overwrite=overwrite, quiet=json, **more)
    if json:
        console.print_json(summary)
    if not summary["n_failed"]:
        return 0
    return 1 if summary["n_done"] else 2


def run_batch(
    jobs: Sequence[Job],
    output: Path,
    model: Model,
    settings: BatchSettings,
    *,
    overwrite: bool = False,
    quiet: bool = False,
    work: Work | None = None,
    layout: Layout = SEGMENT,
    formats: Sequence[str] = (),
) -> dict[str, Any]:
    """Segment all images; a bad one is noted, and the rest are done.

    Parameters
    ----------
    jobs : sequence of Job
    output : Path
    model : Model
    settings : BatchSettings
    overwrite, quiet : bool
        As of `ResultFolder` and `BatchProgress`.
    work : callable, optional
        What is done with each image, with the parameters of `segment_file`, which it is if
        not given.
    layout : Layout
        Of the output folder.
    formats : sequence of str
        As of `Batch`.

    Returns
    -------
    The manifest that is also in the folder.

    Raises
    ------
    OutputError
        If the output folder cannot be written.
    KeyboardInterrupt
        On Ctrl-C, after the table and the manifest of what is done have been written.
    """
    work = work or segment_file
    done = Batch(output, model, settings, overwrite, work, layout, OR_OVERWRITE, formats)
    images: list[dict[str, Any]] = []
    start = time.monotonic()
    stopped: BaseException | None = None
    told: dict[str, str] = {}
    with BatchProgress(len(jobs), quiet) as progress:
        try:
            for job in jobs:
                progress.begin(job.name)
                images.append(done.image(job, progress))
                progress.end(job.name, *_ended(images[-1], told))
        except (KeyboardInterrupt, SystemExit) as error:
            stopped = error
            for job in jobs[len(images) : len(images) + 1]:
                images += done.interrupted(job)
    state = "interrupted" if stopped else "finished"
    summary = done.finish(images, len(jobs), state, time.monotonic() - start)
    if not quiet:
        _report(summary)
    if stopped:
        raise stopped
    return summary


def _ended(entry: dict[str, Any], told: dict[str, str]) -> tuple[str, str]:
    """What is printed of an image, and how; ``told``: errors so far, and of which image."""
    if entry["state"] == "failed":
        first = told.setdefault(entry["error"], entry["name"])
        return (entry["error"] if first == entry["name"] else f"as {first}"), "red"
    words = _count(entry["objects"])
    if entry["state"] == "skipped":
        return f"{words} (done before)", "dim"
    return f"{words} in {entry['seconds']:.1f} s", ""


def segment_file(
    job: Job,
    folder: ResultFolder,
    model: Model,
    settings: BatchSettings,
    progress: BatchProgress,
) -> dict[str, Any]:
    """Segment one file and say what should be known of it; returns its record."""
    from napari_sa2net.measure import many_doubtful

    def told(image: ImageFile, result: Segmentation) -> None:
        for note in plan_notes(result.plan, image, settings):
            progress.note(job.name, note)
        if not (result.plan.is_empty or len(result.objects)):
            progress.note(job.name, nothing_found(result.plan))
        estimated = settings.predict.diameter is None and result.diameter is not None
        if estimated and many_doubtful(result.objects["confidence"]):
            progress.note(
                job.name,
                f"many doubtful cells; their size, estimated as {result.diameter:.3g} px, is "
                "unsure: measure a cell and give it as --diameter",
            )

    return batch.segment_file(job, folder, model, settings, progress, told)


def plan_notes(plan: ImagePlan, image: ImageFile, settings: BatchSettings) -> list[str]:
    """What was decided about the axes and channels of an image, where it is not plain."""
    notes = []
    guessed = not image.axes_told
    if settings.axes is None and (notice := plan.notice("give --axes {}", guessed)):
        notes.append(notice)
    if settings.channels is None and len(plan.channels) < plan.n_channels and not plan.is_rgb:
        names = image.channel_names
        told = len(names) == plan.n_channels
        every = [f"{i} {name}" for i, name in enumerate(names)] if told else []
        listed = f" ({', '.join(every)})" if every else ""
        notes.append(f"{plan.channel_words()}{listed} is taken; --channels takes others")
    return notes


def nothing_found(plan: ImagePlan) -> str:
    """What to try next where an image has no cells."""
    if plan.constant:
        return "no cells found: the image has one value throughout"
    tries = ["--channels, if others show the cells"] if plan.n_channels > 1 else []
    tries += ["--diameter with the size of a cell in pixels", "a lower --foreground"]
    if plan.n_planes > 1 and plan.levels_along != plan.stack_axes:
        tries.append("--levels plane, if the planes differ in brightness")
    return f"no cells found; try {'; '.join(tries)}; or another --model"


def chosen_channels(text: str | None) -> tuple[str | int, ...] | None:
    """What ``--channels`` says: numbers and names.

    Raises
    ------
    ChannelError
        If it names none.
    """
    choice = channel_choice(text)
    if choice is None:
        return None
    # as numbers where they are, which is how earlier batches have noted them
    return tuple(int(one) if str(one).isdecimal() else one for one in choice)


def _report(summary: dict[str, Any]) -> None:
    done, n = summary["n_done"], summary["n_images"]
    line = f"{done} of {n} images in {summary['seconds']:.1f} s with {summary['model']['name']}"
    if done:
        line += f"; {_count(summary['n_objects'])} in {summary['output']}/objects.csv"
    console.stderr().print(line)
    if summary["state"] == "interrupted":
        console.warning("Stopped. Give the same command again to go on from here.")
    failed: dict[str, list[str]] = {}
    for image in summary["images"]:
        if image["state"] == "failed":
            failed.setdefault(image["error"], []).append(image["input"])
    for error, paths in failed.items():
        if len(paths) > 1:
            console.error(f"{len(paths)} images, {_listed(paths)}: {error}")
        else:
            console.error(error if paths[0] in error else f"{paths[0]}: {error}")


def _listed(paths: Sequence[str], most: int = 3) -> str:
    more = len(paths) - most
    return ", ".join(paths[:most]) + (f" and {more} more" if more > 0 else "")


def _count(objects: int) -> str:
    return "1 object" if objects == 1 else f"{objects} objects"
