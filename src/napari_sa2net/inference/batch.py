"""A batch of image files into one output folder, for shell and window alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.data.formats import write_cells
from napari_sa2net.data.outlines import Cells
from napari_sa2net.data.results import (
    SEGMENT,
    Job,
    Layout,
    ResultFolder,
    settings_key,
    table_of,
)
from napari_sa2net.errors import Cancelled, FormatError, ImageFileError, SA2NetError
from napari_sa2net.files import real
from napari_sa2net.quantities import DEFAULT

if TYPE_CHECKING:
    from napari_sa2net.data import ImageFile
    from napari_sa2net.inference.segment import Segmentation
    from napari_sa2net.models import Model


@dataclass(frozen=True)
class BatchSettings:
    """What every image of a batch is segmented with."""

    axes: str | None = None
    channels: tuple[str | int, ...] | None = None
    normalize: bool = True
    predict: PredictConfig = field(default_factory=PredictConfig)
    instances: InstanceConfig = field(default_factory=InstanceConfig)
    measure: tuple[str, ...] = DEFAULT
    #: instead of what the files tell
    pixel_size_um: float | None = None

    def describe(self) -> dict[str, Any]:
        """As JSON; without the device, on which the result does not depend."""
        # nor on an engine that is not named: what was begun before there were any goes on
        by_torch = self.predict.engine in ("auto", "torch")
        left_out = {"device", "engine"} if by_torch else {"device"}
        return {
            "axes": self.axes,
            "channels": self.channels,
            "normalize": self.normalize,
            "predict": self.predict.model_dump(mode="json", exclude=left_out),
            "instances": self.instances.model_dump(mode="json"),
            "measure": list(self.measure),
            # where none is given, what was begun before one could be goes on
            **({"pixel_size_um": self.pixel_size_um} if self.pixel_size_um else {}),
        }


class News(Protocol):
    """Who hears how the present image goes; `step` may raise `Cancelled`."""

    def step(self, done: int, total: int, what: str) -> None:
        """What goes on, and how far it is."""

    def note(self, name: str, message: str) -> None:
        """Something about the image that a person should know."""


#: Segments an opened image: image, model, settings, news.
By = Callable[["ImageFile", "Model", "BatchSettings", News], "Segmentation"]
#: Does one image and returns its record: job, folder, model, settings, news.
Work = Callable[[Job, ResultFolder, "Model", Any, Any], dict[str, Any]]


class Batch:
    """Does images one by one; a bad one is noted, and the rest are done.

    Parameters
    ----------
    output : Path
    model : Model
    settings : BatchSettings
    overwrite, layout, otherwise
        As of `ResultFolder`.
    formats : sequence of str
        Of `data.formats.FORMATS`: in these too, each in a folder of its own. Files of an image
        that are there from earlier are written anew with it, so that none is out of date.
    work : callable, optional
        What is done with each image; unsaid: `segment_file`.

    Raises
    ------
    OutputError
        If the output folder cannot be made.
    """

    def __init__(
        self,
        output: Path,
        model: Model,
        settings: BatchSettings,
        overwrite: bool = False,
        work: Work | None = None,
        layout: Layout = SEGMENT,
        otherwise: str = "",
        formats: Sequence[str] = (),
    ) -> None:
        key = settings_key(settings.describe(), model.sha256)
        self.folder = ResultFolder(output, key, overwrite, layout, otherwise)
        self._model = model
        self._settings = settings
        self.folder.formats = tuple(dict.fromkeys(formats))
        self._work = work or segment_file

    def image(self, job: Job, news: News) -> dict[str, Any]:
        """Do one image: what became of it, in the words of the manifest.

        Raises
        ------
        Cancelled
            By the news; the image is not done then, and nothing half-made counts.
        """
        entry: dict[str, Any] = {"name": job.name, "input": str(job.path)}
        try:
            record = self.folder.finished(job)
            if record is not None:
                not_written = export_again(job, self.folder, record, self._settings, news)
                more = {"not_written": not_written} if not_written else {}
                return {**entry, "state": "skipped", "objects": record["objects"], **more}
            record = self._work(job, self.folder, self._model, self._settings, news)
        except Cancelled:
            self.folder.fail(job, "interrupted")
            raise
        except Exception as error:  # one odd file must not end a night's run
            message = words_of(error, job)
            self.folder.fail(job, message)
            return {**entry, "state": "failed", "error": message}
        return _done(job, record)

    def interrupted(self, job: Job) -> list[dict[str, Any]]:
        """An image was broken off; what became of it, if it was done in that very moment."""
        self.folder.fail(job, "interrupted")
        return [_done(job, self.folder.done[job.name])] if job.name in self.folder.done else []

    def finish(
        self, images: Sequence[dict[str, Any]], n_images: int, state: str, seconds: float
    ) -> dict[str, Any]:
        """Write table and manifest; where nothing was done, a new folder is taken away.

        Parameters
        ----------
        images
            What became of each, as `image` says it.
        n_images
            That were to be done.
        state
            ``finished`` or ``interrupted``.
        seconds
            That it took.

        Returns
        -------
        The manifest that is also in the folder.
        """
        summary = {
            "state": state,
            "model": {"name": self._model.name, "sha256": self._model.sha256},
            "settings": self._settings.describe(),
            "output": str(real(self.folder.folder)),
            "seconds": round(seconds, 3),
            "n_images": n_images,
            "n_done": sum(image["state"] != "failed" for image in images),
            "n_failed": sum(image["state"] == "failed" for image in images),
            "n_objects": 0,
            "images": list(images),
        }
        if state != "finished" or summary["n_done"] or not self.folder.discard():
            summary["n_objects"] = self.folder.write_objects()
            self.folder.write_manifest(summary)
        return summary


def words_of(error: Exception, job: Job) -> str:
    """What to say of an image that could not be done."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or job.path}"
    if isinstance(error, SA2NetError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}"


def _done(job: Job, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": job.name,
        "input": str(job.path),
        "state": "done",
        "objects": record["objects"],
        "seconds": record["seconds"],
        **({"not_written": record["not_written"]} if "not_written" in record else {}),
    }


def claimed(
    job: Job, folder: ResultFolder, settings: BatchSettings, news: News
) -> tuple[dict[str, Any], ImageFile]:
    """Claim an image's name in the output folder, and open the image."""
    from napari_sa2net.data import read_image

    try:
        source = folder.claim(job)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageFileError(f"{job.path} cannot be read: {reason}.") from error
    image = _sized(read_image(job.path), settings)
    for note in image.notes:
        news.note(job.name, note)
    return source, image


def _sized(image: ImageFile, settings: BatchSettings) -> ImageFile:
    """The image with the pixel size that was given for it, if any."""
    if (size := settings.pixel_size_um) is None:
        return image
    scale = {**image.scale_um, "Y": size, "X": size}
    return replace(image, pixel_size_um=size, scale_um=scale)


def segment_file(
    job: Job,
    folder: ResultFolder,
    model: Model,
    settings: BatchSettings,
    news: News,
    told: Callable[[ImageFile, Segmentation], None] | None = None,
    by: By | None = None,
) -> dict[str, Any]:
    """Segment one file and write everything about it; returns its record.

    Parameters
    ----------
    told : callable, optional
        Hears of the result before it is written.
    by : callable, optional
        How; unsaid: as a whole, here and now.
    """
    from napari_sa2net.data import write_labels

    start = time.monotonic()
    source, image = claimed(job, folder, settings, news)
    result = (by or segment_image)(image, model, settings, news)
    if told is not None:
        told(image, result)
    write_labels(
        folder.mask_path(job.name),
        result.labels,
        pixel_size_um=image.voxel_sides_um,
        metadata=result.provenance,
        axes=result.plan.label_axes,
    )
    not_written = {}
    if formats := folder.exported(job.name):
        cells = Cells(
            result.labels,
            result.plan.label_axes,
            image.spacing_um,
            {str(name): result.objects[name].to_numpy() for name in result.objects.columns},
            job.name,
            image.array,
            result.plan.axes,
            job.path,
            result.provenance,
        )
        not_written = export(cells, folder, formats, news)
    record = {
        "objects": len(result.objects),
        "wrong": round(expected_wrong(result, model), 2),
        "seconds": round(time.monotonic() - start, 3),
        "provenance": result.provenance,
        **({"not_written": not_written} if not_written else {}),
    }
    return folder.finish(job, source, result.objects.to_csv(index=False), record)


def segment_image(
    image: ImageFile, model: Model, settings: BatchSettings, news: News
) -> Segmentation:
    """Segment an opened image with the settings of a batch."""
    from napari_sa2net.inference.segment import segment

    return segment(
        image.array,
        model,
        axes=settings.axes or image.axes,
        channels=channels_of(image, settings),
        normalize=settings.normalize,
        pixel_size_um=image.pixel_sides_um,
        z_step_um=image.scale_um.get("Z"),
        progress=news.step,
        measure=settings.measure or "none",
        **settings.predict.model_dump(),
        **settings.instances.model_dump(),
    )


def export(
    cells: Cells, folder: ResultFolder, formats: Sequence[str], news: News
) -> dict[str, str]:
    """Write cells of an image in further formats.

    Returns
    -------
    Formats that cannot hold them, and why; the news hear it too.
    """
    not_written = {}
    for key in formats:
        target = folder.export_path(cells.name, key)
        try:
            write_cells(target, cells, key, overwrite=True)
        except FormatError as error:
            not_written[key] = str(error)
            news.note(cells.name, f"no {key}: {error}")
            folder.drop(target)
    return not_written


def export_again(
    job: Job,
    folder: ResultFolder,
    record: dict[str, Any],
    settings: BatchSettings,
    news: News,
) -> dict[str, str]:
    """Formats that an image lacks which was done before, from its files; as of `export`."""
    formats = folder.missing(job.name)
    if not formats:
        return {}
    return export(cells_of(job, folder, record, settings), folder, formats, news)


def cells_of(
    job: Job, folder: ResultFolder, record: dict[str, Any], settings: BatchSettings
) -> Cells:
    """The cells of an image that is done with these settings, from its files."""
    import pandas as pd

    from napari_sa2net.data import read_image

    labels = read_image(folder.mask_path(job.name))
    image = _sized(read_image(job.path), settings)
    table = pd.read_csv(table_of(folder.folder, job.name))
    made = record.get("provenance", {})
    said = made.get("settings", {}).get("image", {}).get("axes")
    return Cells(
        labels.array,
        labels.axes,
        image.spacing_um,
        {str(name): table[name].to_numpy() for name in table.columns},
        job.name,
        image.array,
        said or image.axes,
        job.path,
        made,
    )


#: Of a stack so many planes are looked at, and of a plane a middle of this side (px).
LOOKED_AT, MIDDLE = 8, 2048


def expected_wrong(result: Segmentation, model: Model) -> float:
    """How many cells are wrong or missed, about: see `edits.review.expected_wrong`.

    Of large images a part is looked at, and the number is that of as much as there is.
    """
    from napari_sa2net.data.levels import spread_indices
    from napari_sa2net.edits.review import expected_wrong
    from napari_sa2net.inference.instances import foreground_probability
    from napari_sa2net.inference.planes import plane_of

    plan = result.plan
    if plan.is_empty:
        return 0.0
    planes = spread_indices(plan.stack_shape, LOOKED_AT)
    middle = tuple(
        slice(max(0, (n - MIDDLE) // 2), max(0, (n - MIDDLE) // 2) + MIDDLE)
        for n in plan.spatial
    )
    found, pixels = 0.0, 0
    for index in planes:
        labels = np.asarray(plane_of(plan, result.labels, index)[middle])
        seen = np.asarray(result.probability[(*index, slice(None), *middle)])
        foreground = foreground_probability(seen, model.card.classes)
        found += expected_wrong(labels, foreground, result.diameter)
        pixels += labels.size
    return found * plan.n_planes * math.prod(plan.spatial) / pixels


def channels_of(image: ImageFile, settings: BatchSettings) -> tuple[int, ...] | None:
    """Numbers of the channels that are asked for, in this image."""
    from napari_sa2net.data.training_set import named_channels

    if settings.channels is None:
        return None
    return named_channels(image, settings.axes, settings.channels)
