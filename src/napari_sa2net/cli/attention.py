"""``sa2net attention``: attention maps, boundary refinement and a figure of images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
from napari_sa2net.cli.segment import nothing_found, plan_notes, prepared, run_command
from napari_sa2net.data.results import ATTENTION, Job, ResultFolder, input_images, name_jobs
from napari_sa2net.errors import AxesError, SettingsError
from napari_sa2net.files import real, write_atomically
from napari_sa2net.inference.batch import BatchSettings, channels_of, claimed

if TYPE_CHECKING:
    from napari_sa2net.data import ImageFile
    from napari_sa2net.interpret.explain import Explanation
    from napari_sa2net.models import Model

Window = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class AttentionSettings(BatchSettings):
    """What every image of a batch is explained with.

    Attributes
    ----------
    plane : tuple of int
        Which plane of a stack; empty for single images.
    zarr : bool
        Maps as one OME-Zarr instead of OME-TIFF files.
    figure : bool
    window : (y0, y1, x0, x1) or None
        Part of the image that the figure shows.
    """

    plane: tuple[int, ...]
    zarr: bool
    figure: bool
    window: Window | None

    def describe(self) -> dict[str, Any]:
        """As JSON; without the device, on which the result does not depend."""
        own = ("plane", "zarr", "figure", "window")
        return {**super().describe(), **{name: getattr(self, name) for name in own}}


def attention(
    inputs: Inputs,
    /,
    *,
    output: Output,
    model: ModelOrFile = "nuclei",
    axes: ImageAxes = None,
    channels: ImageChannels = None,
    plane: str | None = None,
    normalize: Normalize = True,
    zarr: Flag = False,
    figure: bool = True,
    window: str | None = None,
    overwrite: Flag = False,
    json: JsonOfRun = False,
    instances: Instances = None,
    predict: Predict = None,
) -> int:
    """Show why: attention maps, boundary refinement of every object, and a figure.

    Writes OUT/NAME/ with labels.tif, the labels of the earlier stages, the maps, objects.csv,
    profiles.csv (ψ by distance from each object's boundary) and figure.png and .svg;
    OUT/objects.csv with the objects of all images; records under OUT/extra. A batch that was
    interrupted goes on where it stopped when the same command is given again.

    Parameters
    ----------
    plane
        Plane of a stack, counted from 0, such as 12; of several stack axes 0,12.
    zarr
        Write the maps as one OME-Zarr instead of OME-TIFF files.
    figure
        Draw the figure, which takes a second or two for each image.
    window
        Part that the figure shows, as first and last row and column in px: 0,255,100,355.
    overwrite
        Do finished images again, and replace results that came from elsewhere.
    """
    jobs = name_jobs(input_images(inputs))
    _refuse_inputs_as_outputs(jobs, output)
    loaded, said = prepared(model, axes, channels, normalize, instances, predict)
    settings = AttentionSettings(
        **said,
        plane=plane_numbers(plane),
        zarr=zarr,
        figure=figure,
        window=window_numbers(window),
    )
    more: dict[str, Any] = {"work": explain_file, "layout": ATTENTION}
    return run_command(jobs, output, loaded, settings, overwrite, json, **more)


def explain_file(
    job: Job,
    folder: ResultFolder,
    model: Model,
    settings: BatchSettings,
    progress: BatchProgress,
) -> dict[str, Any]:
    """Explain one file and write everything about it; returns its record."""
    from napari_sa2net.interpret.explain import explain

    assert isinstance(settings, AttentionSettings)
    start = time.monotonic()
    source, image = claimed(job, folder, settings, progress)
    _ask_for_plane(job, image, settings)
    result = explain(
        image.array,
        model,
        axes=settings.axes or image.axes,
        channels=channels_of(image, settings),
        normalize=settings.normalize,
        index=settings.plane,
        pixel_size_um=image.pixel_sides_um,
        progress=progress.step,
        **settings.predict.model_dump(),
        **settings.instances.model_dump(),
    )
    for note in plan_notes(result.plan, image, settings):
        progress.note(job.name, note)
    if result.n_tiles and not len(result.objects):
        progress.note(job.name, nothing_found(result))
    if not result.n_tiles:
        progress.note(
            job.name, "the image has one value throughout: no network was run, no maps"
        )
    elif not result.maps:
        progress.note(job.name, "this model has no attention: there are no maps")
    table = result.objects.to_csv(index=False)
    where = folder.mask_path(job.name).parent
    _write_files(where, job.name, image, result, table, settings)
    record = {
        "objects": len(result.objects),
        "seconds": round(time.monotonic() - start, 3),
        "image_gates": [None if np.isnan(gate) else gate for gate in result.image_gates],
        "provenance": result.provenance,
    }
    return folder.finish(job, source, table, record)


def _write_files(
    folder: Path,
    name: str,
    image: ImageFile,
    result: Explanation,
    table_csv: str,
    settings: AttentionSettings,
) -> None:
    from napari_sa2net.data import write_labels
    from napari_sa2net.data.write import write_map, write_maps_zarr

    size, record = image.pixel_sides_um, result.provenance
    if settings.zarr:
        write_maps_zarr(folder / "maps.ome.zarr", result.maps, size, record)
    else:
        for map_name, one in result.maps.items():
            write_map(folder / "maps" / f"{map_name}.ome.tif", one, size, record)
    for stride, labels in result.stages.items():
        if stride != 1:
            path = folder / f"stage_{stride}.tif"
            write_labels(path, labels, pixel_size_um=size, metadata=record, axes="YX")
    if settings.figure and 0 not in result.labels.shape:
        _write_figure(folder, name, result, image.pixel_size_um, settings)
    write_atomically(folder / "objects.csv", table_csv.encode())
    profiles = result.profiles.long().to_csv(index=False, float_format="%.4f")
    write_atomically(folder / "profiles.csv", profiles.encode())
    # Last, as its presence says that the rest is there.
    write_labels(
        folder / "labels.tif", result.labels, pixel_size_um=size, metadata=record, axes="YX"
    )


def _write_figure(
    folder: Path,
    name: str,
    result: Explanation,
    pixel_size_um: float | None,
    settings: AttentionSettings,
) -> None:
    from napari_sa2net.cli.figure import Shown, draw
    from napari_sa2net.data.write import render

    shown = Shown(
        name,
        picture(result, settings.plane),
        result.labels,
        result.maps,
        result.stages,
        result.objects,
        pixel_size_um,
        _inside(settings.window, result.labels.shape),
        ran=result.n_tiles > 0,
    )
    figure = draw(shown)
    for kind in ("png", "svg"):
        write_atomically(folder / f"figure.{kind}", render(figure, kind))


def picture(result: Explanation, index: tuple[int, ...]) -> NDArray[Any]:
    """The plane as people look at it: (H, W), or (H, W, 3) of a colour image."""
    plan = result.plan
    values = plan.read_raw(index, 0, plan.spatial[0], 0, plan.spatial[1])
    if plan.is_rgb and len(values) == 3:
        return np.moveaxis(values, 0, -1)
    return values[0] if len(values) == 1 else values.mean(axis=0, dtype=np.float32)


def plane_numbers(text: str | None) -> tuple[int, ...]:
    """Numbers of ``--plane``.

    Raises
    ------
    SettingsError
        If they are none.
    """
    try:
        return tuple(int(part) for part in (text or "").replace(",", " ").split())
    except ValueError:
        raise SettingsError(
            f"--plane {text}: give a number counted from 0, such as 12; of several stack axes "
            "one each, such as 0,12."
        ) from None


def window_numbers(text: str | None) -> Window | None:
    """Rows and columns of ``--window``, first and one past the last.

    Raises
    ------
    SettingsError
        If there are not four, or none is inside.
    """
    if text is None:
        return None
    try:
        y0, y1, x0, x1 = (int(part) for part in text.replace(",", " ").split())
    except ValueError:
        y0 = y1 = x0 = x1 = -1
    if not (0 <= y0 <= y1 and 0 <= x0 <= x1):
        raise SettingsError(
            f"--window {text}: give first and last row, first and last column in px, such as "
            "0,255,100,355."
        )
    return y0, y1 + 1, x0, x1 + 1


def _inside(window: Window | None, shape: tuple[int, ...]) -> Window | None:
    if window is None:
        return None
    y0, y1, x0, x1 = window
    if y0 >= shape[0] or x0 >= shape[1]:
        raise SettingsError(
            f"The window starts at row {y0}, column {x0}, but the image has {shape[0]} × "
            f"{shape[1]} pixels; choose another --window."
        )
    return y0, min(y1, shape[0]), x0, min(x1, shape[1])


def _ask_for_plane(job: Job, image: ImageFile, settings: AttentionSettings) -> None:
    """Say in the words of the flags what is wrong with the plane.

    Raises
    ------
    AxesError
    """
    from napari_sa2net.data import plan_image

    plan = plan_image(image.array, settings.axes or image.axes, measure=False)
    n = len(plan.stack_shape)
    if len(settings.plane) == n and all(
        0 <= i < size for i, size in zip(settings.plane, plan.stack_shape, strict=True)
    ):
        return
    if not n:
        raise AxesError(f"{job.path} is a single plane; explain it without --plane.")
    sizes = ", ".join(
        f"{axis} 0…{size - 1}"
        for axis, size in zip(plan.stack_axes, plan.stack_shape, strict=True)
    )
    middle = ",".join(str(size // 2) for size in plan.stack_shape)
    notice = "" if settings.axes else plan.notice("give --axes {}", not image.axes_told)
    raise AxesError(
        f"{job.path} is a stack ({sizes}), and one plane is explained at a time: choose it, "
        f"such as --plane {middle}. {notice}"
    )


def _refuse_inputs_as_outputs(jobs: Sequence[Job], output: Path) -> None:
    folders = {real(output / job.name) for job in jobs}
    for job in jobs:
        source = real(job.path)
        if folders & {source, *source.parents}:
            raise SettingsError(
                f"Results would be written to the folder of the image {job.path}. "
                "Choose another output folder."
            )
