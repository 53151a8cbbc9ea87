"""``sa2net segment``: masks and tables of files, folders and OME-Zarr images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_sa2net.cli import console
from napari_sa2net.cli.console import BatchProgress
from napari_sa2net.cli.options import (
    Flag,
    ImageAxes,
    ImageChannels,
    Inputs,
    Instances,
    JsonOfRun,
    ModelOrFile,
    Normalize,
    Output,
    Predict,
)
from napari_sa2net.cli.results import (
    SEGMENT,
    Job,
    Layout,
    ResultFolder,
    is_result,
    name_jobs,
    settings_key,
    without_results,
)
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data.axes import channel_choice
from napari_sa2net.errors import ImageFileError, SA2NetError, SettingsError
from napari_sa2net.files import real

if TYPE_CHECKING:
    from napari_sa2net.data import ImageFile, ImagePlan
    from napari_sa2net.models import Model


@dataclass(frozen=True)
class BatchSettings:
    """What every image of a batch is segmented with."""

    axes: str | None = None
    channels: tuple[str | int, ...] | None = None
    normalize: bool = True
    predict: PredictConfig = field(default_factory=PredictConfig)
    instances: InstanceConfig = field(default_factory=InstanceConfig)

    def describe(self) -> dict[str, Any]:
        """As JSON; without the device, on which the result does not depend."""
        return {
            "axes": self.axes,
            "channels": self.channels,
            "normalize": self.normalize,
            "predict": self.predict.model_dump(mode="json", exclude={"device"}),
            "instances": self.instances.model_dump(mode="json"),
        }


#: Does one image and returns its record.
Work = Callable[[Job, ResultFolder, "Model", BatchSettings, BatchProgress], dict[str, Any]]


def segment(
    inputs: Inputs,
    /,
    *,
    output: Output,
    model: ModelOrFile = "nuclei",
    axes: ImageAxes = None,
    channels: ImageChannels = None,
    normalize: Normalize = True,
    overwrite: Flag = False,
    json: JsonOfRun = False,
    instances: Instances = None,
    predict: Predict = None,
) -> int:
    """Segment images into labelled masks and a table of objects.

    Writes OUT/NAME.tif (labels), OUT/objects.csv, and records under OUT/extra. A batch that
    was interrupted goes on where it stopped when the same command is given again.

    Parameters
    ----------
    overwrite
        Do finished images again, and replace masks that came from elsewhere.
    """
    jobs = name_jobs(input_images(inputs))
    _refuse_inputs_as_outputs(jobs, output)
    loaded, said = prepared(model, axes, channels, normalize, instances, predict)
    return run_command(jobs, output, loaded, BatchSettings(**said), overwrite, json)


def prepared(
    model: str,
    axes: str | None,
    channels: str | None,
    normalize: bool,
    instances: InstanceConfig | None,
    predict: PredictConfig | None,
) -> tuple[Model, dict[str, Any]]:
    """The model of a batch, and what was said, as arguments of `BatchSettings`."""
    from napari_sa2net.inference.devices import resolve_device
    from napari_sa2net.models import load_model

    predict = predict or PredictConfig()
    resolve_device(predict.device)
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


def input_images(inputs: Sequence[str]) -> list[Path]:
    """Images among files, folders and patterns, without the results of an earlier batch.

    Raises
    ------
    ImageFileError
        A path does not exist, or no image is left.
    """
    from napari_sa2net.data import list_images

    # A shell's pattern names also the table and the folder of records, which are no images.
    given = [one for one in inputs if not is_result(Path(one))]
    return without_results(list_images(given or inputs))


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
    key = settings_key(settings.describe(), model.sha256)
    folder = ResultFolder(output, key, overwrite, layout)
    images: list[dict[str, Any]] = []
    start = time.monotonic()
    stopped: BaseException | None = None
    told: dict[str, str] = {}
    with BatchProgress(len(jobs), quiet) as progress:
        try:
            for job in jobs:
                images.append(
                    _one(job, folder, model, settings, progress, work or segment_file, told)
                )
        except (KeyboardInterrupt, SystemExit) as error:
            stopped = error
            for job in jobs[len(images) : len(images) + 1]:
                folder.fail(job, "interrupted")
                if job.name in folder.done:  # in the very moment after
                    images.append(_done(job, folder.done[job.name]))
    summary = {
        "state": "interrupted" if stopped else "finished",
        "model": {"name": model.name, "sha256": model.sha256},
        "settings": settings.describe(),
        "output": str(real(output)),
        "seconds": round(time.monotonic() - start, 3),
        "n_images": len(jobs),
        "n_done": sum(image["state"] != "failed" for image in images),
        "n_failed": sum(image["state"] == "failed" for image in images),
        "n_objects": 0,
        "images": images,
    }
    if stopped or summary["n_done"] or not folder.discard():
        summary["n_objects"] = folder.write_objects()
        folder.write_manifest(summary)
    if not quiet:
        _report(summary)
    if stopped:
        raise stopped
    return summary


def _one(
    job: Job,
    folder: ResultFolder,
    model: Model,
    settings: BatchSettings,
    progress: BatchProgress,
    work: Work,
    told: dict[str, str],
) -> dict[str, Any]:
    """Do one image; ``told``: errors that were shown, and of which image."""
    entry: dict[str, Any] = {"name": job.name, "input": str(job.path)}
    try:
        record = folder.finished(job)
        if record is not None:
            progress.end(job.name, f"{_count(record['objects'])} (done before)", "dim")
            return {**entry, "state": "skipped", "objects": record["objects"]}
        progress.begin(job.name)
        record = work(job, folder, model, settings, progress)
    except Exception as error:  # one odd file must not end a night's run
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.strerror}: {error.filename or job.path}"
        elif not isinstance(error, SA2NetError):
            message = f"unexpected {type(error).__name__}: {error}"
        folder.fail(job, message)
        first = told.setdefault(message, job.name)
        progress.end(job.name, message if first == job.name else f"as {first}", "red")
        return {**entry, "state": "failed", "error": message}
    progress.end(job.name, f"{_count(record['objects'])} in {record['seconds']:.1f} s")
    return _done(job, record)


def _done(job: Job, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": job.name,
        "input": str(job.path),
        "state": "done",
        "objects": record["objects"],
        "seconds": record["seconds"],
    }


def claimed(
    job: Job, folder: ResultFolder, progress: BatchProgress
) -> tuple[dict[str, Any], ImageFile]:
    """Claim an image's name in the output folder, and open the image."""
    from napari_sa2net.data import read_image

    try:
        source = folder.claim(job)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageFileError(f"{job.path} cannot be read: {reason}.") from error
    image = read_image(job.path)
    for note in image.notes:
        progress.note(job.name, note)
    return source, image


def segment_file(
    job: Job,
    folder: ResultFolder,
    model: Model,
    settings: BatchSettings,
    progress: BatchProgress,
) -> dict[str, Any]:
    """Segment one file and write everything about it; returns its record."""
    from napari_sa2net.data import write_labels
    from napari_sa2net.inference.segment import segment as segment_image
    from napari_sa2net.measure import many_doubtful

    start = time.monotonic()
    source, image = claimed(job, folder, progress)
    result = segment_image(
        image.array,
        model,
        axes=settings.axes or image.axes,
        channels=channels_of(image, settings),
        normalize=settings.normalize,
        pixel_size_um=image.pixel_size_um,
        z_step_um=image.scale_um.get("Z"),
        progress=progress.step,
        **settings.predict.model_dump(),
        **settings.instances.model_dump(),
    )
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
    write_labels(
        folder.mask_path(job.name),
        result.labels,
        pixel_size_um=image.pixel_size_um,
        metadata=result.provenance,
        axes=result.plan.label_axes,
    )
    record = {
        "objects": len(result.objects),
        "seconds": round(time.monotonic() - start, 3),
        "provenance": result.provenance,
    }
    return folder.finish(job, source, result.objects.to_csv(index=False), record)


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


def _refuse_inputs_as_outputs(jobs: Sequence[Job], output: Path) -> None:
    sources = {real(job.path) for job in jobs}
    for job in jobs:
        target = real(output / f"{job.name}.tif")
        if target in sources:
            raise SettingsError(
                f"The mask of {job.path} would replace the image {target}. "
                "Choose another output folder."
            )


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


def channels_of(image: ImageFile, settings: BatchSettings) -> tuple[int, ...] | None:
    """Numbers of the channels that are asked for, in this image."""
    from napari_sa2net.data.training_set import named_channels

    if settings.channels is None:
        return None
    return named_channels(image, settings.axes, settings.channels)


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
