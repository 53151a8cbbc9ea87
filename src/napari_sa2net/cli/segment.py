"""``sa2net segment``: masks and tables of files, folders and OME-Zarr images."""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

from cyclopts import Group, Parameter

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
    PixelSize,
    Predict,
)
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data.axes import channel_choice
from napari_sa2net.data.formats import SHARED
from napari_sa2net.data.results import (
    SEGMENT,
    Job,
    Layout,
    ResultFolder,
    input_images,
    name_jobs,
    refuse_inputs_as_outputs,
)
from napari_sa2net.errors import EngineError, OutOfMemoryError, SettingsError
from napari_sa2net.inference import batch
from napari_sa2net.inference.batch import Batch, BatchSettings, By, News, Work
from napari_sa2net.measure import sizes_of
from napari_sa2net.quantities import checked_groups
from napari_sa2net.words import counted, listed

if TYPE_CHECKING:
    from napari_sa2net.data import ImageFile, ImagePlan
    from napari_sa2net.inference.segment import Segmentation
    from napari_sa2net.inference.shares import Order
    from napari_sa2net.interpret.explain import Explanation
    from napari_sa2net.models import Model


_SHARED = Parameter(group=Group("Sharing out", sort_key=3))
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
    pixel_size: PixelSize = None,
    format: Formats = (),
    overwrite: Flag = False,
    json: JsonOfRun = False,
    shard: Annotated[str | None, _SHARED] = None,
    dask: Annotated[str | None, _SHARED] = None,
    block: Annotated[int | None, _SHARED] = None,
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
    shard
        Do this part only, such as 2/8, as a task of a SLURM array; after all of them, join.
    dask
        Do it with the workers of the dask scheduler at this address; or with local, or local:4,
        in processes of this machine.
    block
        Share out images in blocks of this side (px); unsaid: files, or blocks of 4096 px where
        there are fewer files than that share them.
    """
    jobs = name_jobs(input_images(inputs))
    refuse_inputs_as_outputs(jobs, output)
    loaded, said = prepared(model, axes, channels, normalize, instances, predict)
    sizes_of(pixel_size)  # refuses what is none
    settings = BatchSettings(**said, measure=checked_groups(measure), pixel_size_um=pixel_size)
    if shard is not None and dask is not None:
        raise SettingsError("--shard and --dask share out in two ways: give one of them.")
    if block is not None and shard is None and dask is None:
        raise SettingsError(
            "--block is the size of what is shared out: give --shard or --dask too."
        )
    if block is not None and block < 1:
        raise SettingsError(f"--block {block}: give the side of a block in px, such as 4096.")
    if shard is None and dask is None:
        return run_command(jobs, output, loaded, settings, overwrite, json, formats=format)
    from napari_sa2net.inference.shares import Order

    order = Order(
        output.absolute(),
        _for_all(model),
        loaded.sha256,
        settings,
        tuple(jobs),
        block,
        tuple(format),
        overwrite,
        segment_file,
        OR_OVERWRITE,
    )
    if shard is not None:
        return run_shard(order, loaded, shard, json)
    with connected(str(dask)) as (client, n):
        cut = block is not None or len(jobs) < n
        if cut:
            together = tuple(key for key in SHARED if key in format)
            order = replace(order, block=block or 0, together=together)
        return run_command(
            *(jobs, output, loaded, settings, overwrite, json),
            formats=format,
            each=partial(on_cluster, client, order),
        )


def _for_all(model: str) -> str:
    """A model as a process in another folder finds it."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.is_file() else model


@contextmanager
def connected(address: str) -> Iterator[tuple[Any, int]]:
    """A client of a dask scheduler while the block runs, and how many workers it has.

    Raises
    ------
    SettingsError
        It cannot be had.
    """
    try:
        import dask
        import distributed
    except ImportError as error:
        raise SettingsError(
            "--dask needs dask.distributed: pip install 'napari-sa2net[dask]'."
        ) from error
    if found := re.fullmatch(r"local(?::(\d+))?", address.strip()):
        cores = os.cpu_count() or 1
        n = int(found[1]) if found[1] else max(2, cores // 2)
        if n < 1:
            raise SettingsError(f"--dask {address}: at least one process is needed: local:1.")
        threads = str(max(1, cores // n))
        environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        settings = {
            "distributed.nanny.pre-spawn-environ": environment,
            # one that ended is started again, however long a busy machine takes for it; else
            # it is given up after 15 s, and a run without workers waits for ever
            "distributed.deploy.lost-worker-timeout": "1 day",
        }
        with (
            dask.config.set(settings),
            distributed.LocalCluster(
                n_workers=n,
                threads_per_worker=1,
                # what a block needs is known; a guess of what is free must not end it
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client, n
        return
    if address.strip().startswith("local"):
        raise SettingsError(f"--dask {address}: local, local:4, or a scheduler's address.")
    try:
        client = distributed.Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"--dask {address}: no scheduler answers there ({error}). Start one by dask "
            "scheduler, workers by dask worker, and give the address that it prints, such as "
            "tcp://host:8786; or take local:4."
        ) from error
    with client:
        yield client, len(client.scheduler_info(n_workers=-1)["workers"])


#: How often a task is given again that workers have ended under, each time as often as the
#: scheduler allows (3 times), before it counts as the cause.
_PATIENCE = 5
#: Where nothing is done for so long (s), and for so many times as long as ever before, what is
#: waited for is said, and blocks are given to workers that have nothing to do.
_LONG, _TIMES = 60.0, 3
#: So long (s) a scheduler is given to answer.
_PATIENT = 60.0
_NO_SCHEDULER = (
    "The dask scheduler has ended or cannot be reached; what is done is kept. See to it that "
    "it runs, and give the same command to go on."
)


def _at_work(client: Any) -> Mapping[str, Sequence[str]]:
    """Which tasks each worker has.

    Raises
    ------
    EngineError
        The scheduler does not answer, for which client.processing() would wait without an end.
    """
    asked = client.scheduler.processing
    try:
        at: Mapping[str, Sequence[str]] = client.sync(
            asked, workers=None, callback_timeout=_PATIENT
        )
    except (OSError, RuntimeError) as error:  # RuntimeError of a client that has closed
        raise EngineError(_NO_SCHEDULER) from error
    return at


def on_cluster(client: Any, order: Order, progress: BatchProgress) -> Iterator[dict[str, Any]]:
    """Have a batch done by a cluster; what became of each image, as it is done.

    A worker that ends costs what it was at: others do that again. So they do with blocks of
    one that hangs, when nothing else is left.
    """
    import distributed

    from napari_sa2net.inference.batch import words_of
    from napari_sa2net.inference.shares import finish_task, make_task, open_task

    told = replace(order, jobs=())  # in every task
    doing: dict[Any, tuple[Any, Job, tuple[int, ...]]] = {}
    ended: Counter[tuple[Any, ...]] = Counter()
    left: dict[str, int] = {}
    over: set[str] = set()
    made: set[tuple[Job, tuple[int, ...]]] = set()
    done = total = 0
    longest = 0.0
    start = time.monotonic()
    first = open_task if order.block is not None else finish_task
    running = distributed.as_completed(loop=client.loop)

    def submit(task: Any, job: Job, *more: int, workers: Sequence[str] | None = None) -> None:
        future = client.submit(
            *(task, told, job, *more),
            key=f"{task.__name__}-{uuid4().hex}",
            retries=2 if task is make_task else 0,
            priority=1 if task is finish_task else 0,
            workers=workers,
            allow_other_workers=workers is not None,
        )
        doing[future] = (task, job, more)
        running.add(future)

    def next_done() -> Any:
        nonlocal longest
        begun = heard = time.monotonic()
        waited = max(_LONG, _TIMES * longest)
        while not running.has_ready():
            time.sleep(0.05)
            if time.monotonic() - heard > waited:
                at = _at_work(client)
                hanging = [one for one in doing if any(one.key in keys for keys in at.values())]
                progress.note("dask", _waiting(waited, len(doing), at))
                idle = [address for address, keys in at.items() if not keys]
                for task, job, more in [doing[one] for one in hanging] if idle else ():
                    if task is make_task and (job, more) not in made:
                        submit(task, job, *more, workers=idle)
                heard, waited = time.monotonic(), 2 * waited
        if heard == begun:
            longest = max(longest, time.monotonic() - begun)
        return next(running)

    for job in order.jobs:
        submit(first, job)
    opening = len(order.jobs) if first is open_task else 0
    progress.begin("all images")
    while len(over) < len(order.jobs):
        future = next_done()
        task, job, more = doing.pop(future)
        if job.name in over or (job, more) in made:
            continue
        if future.cancelled():
            raise EngineError(_NO_SCHEDULER)
        if (error := future.exception()) is not None:
            killed = isinstance(error, distributed.KilledWorker)
            ended[task, job, more] += 1
            if killed and ended[task, job, more] < _PATIENCE:
                submit(task, job, *more)
                continue
            if killed:
                error = OutOfMemoryError(
                    f"{job.path}: workers ended again and again under one task; they may lack "
                    "memory. Take fewer workers, a smaller --block or a smaller --tile."
                )
            over.add(job.name)
            opening -= task is open_task
            entry = {"name": job.name, "input": str(job.path)}
            yield {**entry, "state": "failed", "error": words_of(error, job)}
            continue
        # of a block there is nothing to be fetched, which a worker that hangs would not give
        result: Any = None if task is make_task else future.result()
        if task is finish_task:
            over.add(job.name)
            for note in result[1]:
                progress.note(*note)
            entry = result[0]
            if entry["state"] != "failed":
                for key in order.together:
                    if error := write_together(client, told, job, key, progress):
                        progress.note(job.name, f"no {key}: {error}")
                        entry.setdefault("not_written", {})[key] = error
            yield entry
            continue
        if task is open_task:
            opening -= 1
            left[job.name] = len(result or ())
            total += left[job.name]
            for number in result or ():
                submit(make_task, job, number)
        else:
            made.add((job, more))
            left[job.name] -= 1
            done += 1
        if not left[job.name]:
            submit(finish_task, job)
        if not opening:
            progress.step(done, total, "blocks")
            tenth = max(1, total // 10)
            if task is make_task and done % tenth == 0 and done < total:
                seconds = (time.monotonic() - start) * (total - done) / done
                progress.tell(f"{done} of {total} blocks, {_time(seconds)} left")


def _waiting(seconds: float, n: int, at: Mapping[str, Sequence[str]]) -> str:
    """What to say where nothing was done for so long: n tasks, and what is where."""
    if not at:
        where = "no worker is left. Start one again"
    else:
        busy = (
            ", ".join(address for address, keys in at.items() if keys) or "none of the workers"
        )
        where = f"at work: {busy}. If one hangs, end it, and others do what it had"
    return (
        f"nothing was done for {_time(seconds)}; parts that are left: {n}; {where}; or stop "
        "with Ctrl-C, and give the same command later to go on."
    )


def write_together(
    client: Any, order: Order, job: Job, key: str, progress: BatchProgress
) -> str | None:
    """Have the workers of a cluster write the cells of a joined image; why they could not.

    Each writes chunks of its own, level after level.
    """
    import distributed

    from napari_sa2net.inference.batch import words_of
    from napari_sa2net.inference.shares import zarr_task

    def each_of(what: str, *each: tuple[Any, ...]) -> Iterator[Any]:
        futures = [
            client.submit(zarr_task, order, what, job, key, *one, pure=False) for one in each
        ]
        for future in distributed.as_completed(futures, loop=client.loop):
            yield future.result()

    for left in reversed(range(_PATIENCE)):
        try:
            (levels,) = each_of("begin", ())
            done, total = 0, sum(map(len, levels))
            for level in levels:
                for _ in each_of("fill", *((share,) for share in level)):
                    done += 1
                    progress.step(done, total, f"writing {key}")
            (_,) = each_of("end", ())
        except Exception as error:  # the image itself is done
            if left and isinstance(error, distributed.KilledWorker):
                continue
            with suppress(Exception):  # a full disk is not left full
                list(each_of("drop", ()))
            return words_of(error, job)
        break
    return None


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def run_shard(order: Order, model: Model, text: str, json: bool) -> int:
    """Do a part of a batch, or join all parts; the exit code.

    Raises
    ------
    SettingsError, OutputError
        If it does not fit the other parts, or some are missing.
    """
    from napari_sa2net.inference.shares import Shard, ShardNotes, Worker, do_shard

    if order.overwrite:
        raise SettingsError(
            "--overwrite and --shard do not go together, as a part would take away what "
            "another has made. Delete the old results, or choose another output folder."
        )
    notes = ShardNotes(order)
    if text.strip() == "join":
        notes.check_finished()
        joining = Worker(order, model)
        code = run_command(
            *(order.jobs, order.output, model, order.settings, False, json),
            formats=order.formats,
            work=joining.join_file,
        )
        if code == 0:
            notes.clear()
        return code
    shard = Shard.of_text(text)
    cut = order.block is not None or len(order.jobs) < shard.of
    worker = Worker(replace(order, block=order.block or 0 if cut else None), model)
    # after the join there is nothing to be noted, which a later join would wait for
    joined = notes.cleared and all(map(worker.batch.folder.finished, order.jobs))
    if not joined:
        notes.begin(shard)
    start = time.monotonic()
    images: list[dict[str, Any]] = []
    told: dict[str, str] = {}
    n = len(order.jobs) if cut else len(shard.mine(len(order.jobs)))
    with BatchProgress(n, json) as progress:
        for image in do_shard(worker, shard, progress):
            images.append(image)
            progress.end(image["name"], *_ended(image, told))
    failed = sum(image["state"] == "failed" for image in images)
    if not joined:
        notes.end(shard)
    seconds = round(time.monotonic() - start, 3)
    if json:
        summary = {"shard": str(shard), "seconds": seconds, "n_images": n, "n_failed": failed}
        console.print_json({**summary, "images": images})
    else:
        done = f"{n - failed} of {counted(n, 'image')}"
        console.stderr().print(f"shard {shard}: {done} in {seconds:.1f} s")
    return 0 if not failed else 1 if failed < n else 2


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
    each: Callable[[BatchProgress], Iterator[dict[str, Any]]] | None = None,
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
    each : callable, optional
        Does them all and gives what became of each, as of `Batch.image`; unsaid: one after the
        other, here.

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

    def in_turn(progress: BatchProgress) -> Iterator[dict[str, Any]]:
        for job in jobs:
            progress.begin(job.name)
            yield done.image(job, progress)

    with BatchProgress(len(jobs), quiet) as progress:
        try:
            for image in (each or in_turn)(progress):
                images.append(image)
                progress.end(image["name"], *_ended(image, told))
        except (KeyboardInterrupt, SystemExit) as error:
            stopped = error
            for job in jobs[len(images) : len(images) + 1] if each is None else ():
                images += done.interrupted(job)
    place = {job.name: number for number, job in enumerate(jobs)}
    images.sort(key=lambda image: place[image["name"]])
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
    if "blocks" in entry and entry["state"] == "shared":
        return f"{counted(entry['blocks'], 'block')} in {entry['seconds']:.1f} s", ""
    if "objects" not in entry:
        return "done before", "dim"
    words = counted(entry["objects"], "object")
    if entry["state"] == "skipped":
        return f"{words} (done before)", "dim"
    return f"{words} in {entry['seconds']:.1f} s", ""


def segment_file(
    job: Job,
    folder: ResultFolder,
    model: Model,
    settings: BatchSettings,
    progress: News,
    by: By | None = None,
) -> dict[str, Any]:
    """Segment one file and say what should be known of it; returns its record."""
    from napari_sa2net.measure import many_doubtful

    def told(image: ImageFile, result: Segmentation) -> None:
        for note in plan_notes(result.plan, image, settings):
            progress.note(job.name, note)
        if not (result.plan.is_empty or len(result.objects)):
            progress.note(job.name, nothing_found(result))
        estimated = settings.predict.diameter is None and result.diameter is not None
        if estimated and many_doubtful(result.objects["confidence"]):
            progress.note(
                job.name,
                f"many doubtful cells; their size, estimated as {result.diameter:.3g} px, is "
                "unsure: measure a cell and give it as --diameter",
            )

    return batch.segment_file(job, folder, model, settings, progress, told, by)


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


def nothing_found(result: Segmentation | Explanation) -> str:
    """What to try next where an image has no cells."""
    plan = result.plan
    if plan.constant:
        return "no cells found: the image has one value throughout"
    tries = ["--channels, if others show the cells"] if plan.n_channels > 1 else []
    settings = result.provenance["settings"]["instances"]
    sure = "--min-confidence or " if settings["min_confidence"] > 0 else ""
    tries += ["--diameter with the size of a cell in pixels", f"a lower {sure}--foreground"]
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
    time, model = f"{summary['seconds']:.1f} s", summary["model"]["name"]
    line = f"{done} of {counted(n, 'image')} in {time} with {model}"
    if done:
        objects = counted(summary["n_objects"], "object")
        line += f"; {objects} in {summary['output']}/objects.csv"
    console.stderr().print(line)
    if summary["state"] == "interrupted":
        console.warning("Stopped. Give the same command again to go on from here.")
    failed: dict[str, list[str]] = {}
    for image in summary["images"]:
        if image["state"] == "failed":
            failed.setdefault(image["error"], []).append(image["input"])
    for error, paths in failed.items():
        if len(paths) > 1:
            console.error(f"{counted(len(paths), 'image')}, {listed(paths)}: {error}")
        else:
            console.error(error if paths[0] in error else f"{paths[0]}: {error}")
