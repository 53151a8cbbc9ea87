"""``sa2net demo``: the main job on real images, in napari or, without a display, as files."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from napari_sa2net.cli import console
from napari_sa2net.cli.options import Device
from napari_sa2net.files import real

if TYPE_CHECKING:
    from napari_sa2net.data.samples import Sample
    from napari_sa2net.models import Model

#: Attention maps in the picture: name in the network -> what it shows.
MAPS = {
    "aua_8": "where the network looked, coarse",
    "aua_1": "where the network looked, fine",
}


def demo(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("demo-output"),
    model: str = "nuclei",
    device: Device = "auto",
    window: Annotated[bool | None, Parameter(show_default=False)] = None,
) -> int:
    """Segment real sample images.

    Where there is a display, napari opens with a sample and its masks. Elsewhere masks,
    pictures (image, masks outlined, two attention maps) and the table of objects are written.

    Parameters
    ----------
    output
        Folder for masks, pictures and the table.
    model
        Model to use.
    window
        Open napari; unsaid: if there is a display.
    """
    if window or (window is None and has_display()):
        if importlib.util.find_spec("napari") is not None:
            from napari_sa2net.widgets.dock import open_demo

            open_demo(model=model, device=device)
            return 0
        console.warning('napari is not installed (pip install "napari-sa2net[all]").')
    return write_demo(output, model, device)


def has_display() -> bool:
    """Whether a window can be opened here."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def planes() -> list[tuple[Sample, NDArray[Any]]]:
    """The samples, and of each the plane that the demo shows."""
    from napari_sa2net.data import samples

    found = []
    if samples.has_bio_samples():
        # First what the model was made for, last what is hardest for it.
        found += [samples.nuclei_stack(), samples.nuclei_timelapse()]
    else:
        console.warning(
            'More samples come with: pip install "napari-sa2net[samples]"; one is shown.'
        )
    found.append(samples.tissue())
    return [
        (
            sample,
            sample.array[len(sample.array) // 2] if sample.axes[0] in "ZT" else sample.array,
        )
        for sample in found
    ]


def write_demo(output: Path, model: str, device: str) -> int:
    """Write the demo's files, and print its table; the exit code."""
    from napari_sa2net.cli.segment import run_batch
    from napari_sa2net.config import PredictConfig
    from napari_sa2net.data import read_image
    from napari_sa2net.data.results import Job
    from napari_sa2net.data.write import write_image
    from napari_sa2net.inference.batch import BatchSettings
    from napari_sa2net.models import load_model

    loaded = load_model(model)
    shown = planes()
    jobs = []
    for sample, plane in shown:
        path = output / "images" / f"{sample.name}.tif"
        write_image(
            path, np.asarray(plane), "YX" if plane.ndim == 2 else "YXC", sample.pixel_size_um
        )
        jobs.append(Job(sample.name, path))
    settings = BatchSettings(
        predict=PredictConfig(device=device), instances=loaded.card.instance
    )
    summary = run_batch(jobs, output, loaded, settings, overwrite=True)
    for sample, plane in shown:
        mask = output / f"{sample.name}.tif"
        if mask.is_file():
            labels = np.asarray(read_image(mask).array)
            _write_picture(output, sample, plane, labels, loaded, device)
    _print_table(output)
    console.say(f"\nMasks, objects.csv and pictures: {real(output)}")
    return 0 if not summary["n_failed"] else 1


def _write_picture(
    output: Path,
    sample: Sample,
    plane: NDArray[Any],
    labels: NDArray[Any],
    model: Model,
    device: str,
) -> None:
    from napari_sa2net.cli.figure import save_picture
    from napari_sa2net.interpret.attention import attention

    axes = sample.axes.lstrip("ZT")
    found = attention(plane, model, axes=axes, device=device)
    maps = {title: found[name] for name, title in MAPS.items()}
    save_picture(output / f"{sample.name}.png", plane, labels, maps, sample.title)


def _print_table(output: Path) -> None:
    import pandas as pd

    objects = pd.read_csv(output / "objects.csv")
    rows = []
    for name, group in objects.groupby("image", sort=False):
        rows.append(
            (
                str(name),
                str(len(group)),
                f"{group['area_px'].median():.0f}",
                f"{group['area_um2'].median():.0f}" if group["area_um2"].notna().any() else "–",
                f"{group['eccentricity'].median():.2f}",
                f"{group['confidence'].median():.2f}",
                str(int(group["touches_border"].sum())),
            )
        )
    shape = ("area px²", "area µm²", "eccentricity")
    header = ("image", "cells", *shape, "confidence", "at border")
    console.table(header, rows, title="Cells found (medians)")
