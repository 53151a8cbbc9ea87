"""What files tell of a folder of images: the list, results, an image with its cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.training_set import picture_of
from napari_sa2net.data.commit import is_training_set, read_manifest
from napari_sa2net.data.io import Sizes, read_image
from napari_sa2net.data.journal import list_journals
from napari_sa2net.data.plan import plan_image
from napari_sa2net.data.results import (
    CORRECTED,
    Job,
    input_images,
    name_jobs,
    records_of,
    table_of,
)
from napari_sa2net.engine import messages as p
from napari_sa2net.errors import ImageFileError, SA2NetError
from napari_sa2net.files import readable, real, user_data_dir, write_atomically
from napari_sa2net.metrics import distinct
from napari_sa2net.words import counted

#: Where results go unless a person says otherwise, inside the folder of the images.
RESULTS = "sa2net-cells"
#: Pixels that are looked at to choose the contrast.
LOOKED_AT = 1 << 18
#: Folders whose place of results is remembered.
MOST_FOLDERS = 100

What = Literal["", "running", "segmented", "corrected", "kept", "failed"]


@dataclass(frozen=True)
class FolderImage:
    """One image of the folder.

    Attributes
    ----------
    name
        Of its results.
    path
        Of its file.
    what
        How far it is.
    n_cells
        As a person has corrected them, else as they were segmented last; None where they were
        not.
    wrong
        How many of its cells are wrong, about, as the model's own doubt has it.
    model
        That segmented it.
    why
        Why it failed, in words.
    key
        Of its layer, where the list is that of open layers; no file is looked at then.
    """

    name: str
    path: Path
    what: What = ""
    n_cells: int | None = None
    wrong: float | None = None
    model: str = ""
    why: str = ""
    key: str = ""

    @property
    def title(self) -> str:
        """What it is called in the list."""
        return self.name if self.key else self.path.name

    def words(self, model: str = "", doubt: bool = False) -> str:
        """``143 cells · corrected``.

        Parameters
        ----------
        model
            The chosen one: another one that segmented the image is named.
        doubt
            Say also how many cells may be wrong.
        """
        if self.what == "failed":
            return f"failed: {self.why}"
        if self.what == "running":
            return "segmenting…"
        if self.n_cells is None:
            return self.what or "not segmented"
        parts = [counted(self.n_cells, "cell")]
        if self.what in ("corrected", "kept"):
            parts.append(self.what)
        elif doubt and self.wrong is not None:
            parts.append(f"about {self.wrong:.0f} wrong or missed")
        if model and self.model and self.model != model:
            parts.append(f"by {self.model}")
        return " · ".join(parts)


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image of the folder with its cells, to be shown.

    Attributes
    ----------
    number
        In the list.
    data, axes
        As `read_image` gives them, but for channels that come last and are no colours: these
        come first.
    limits
        Values that are shown black and white; None for colours.
    labels
        Its cells; None where there are none yet, or a journal has them.
    table
        Of the cells as they were segmented; None of corrected ones.
    provenance
        Of the segmentation.
    corrected
        A person has corrected them.
    journal
        Id of the journal that has the corrected cells, to be taken up; empty for none.
    """

    number: int
    name: str
    path: Path
    data: Any
    axes: str
    scale_um: Mapping[str, float]
    limits: tuple[float, float] | None
    labels: NDArray[np.int32] | None = None
    table: p.ObjectTable | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    corrected: bool = False
    journal: str = ""

    @property
    def rgb(self) -> bool:
        """The last axis is colours."""
        return self.limits is None


@dataclass(frozen=True, eq=False)
class Corrected:
    """Cells of the shown image as a person has left them."""

    number: int
    labels: NDArray[Any]
    axes: str
    pixel_size_um: Sizes = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def list_folder(folder: Path) -> list[Job]:
    """The images of a folder, with the names of their results, as on the shell.

    Raises
    ------
    ImageFileError
        It is gone, cannot be read, or holds no image.
    """
    if not folder.is_dir():
        raise ImageFileError(f"The folder {folder} is not there; choose another one.")
    try:
        return name_jobs(input_images([str(folder)]))
    except ImageFileError as error:
        if "holds no image" not in str(error):
            raise
        raise ImageFileError(
            f"“{folder.name}” holds no image that can be read (TIFF, PNG, JPEG, BMP, NPY, "
            "OME-Zarr). Open the folder in which the images themselves lie."
        ) from error


def look_at(
    images: Iterable[FolderImage], output: Path, training_set: Path
) -> list[FolderImage]:
    """The images as files tell of them: records of results, journals, what was kept."""
    images = list(images)
    records = records_of(output, [image.name for image in images])
    journals, kept = _journalled(), _kept(training_set)
    found = []
    for image in images:
        record = records.get(image.name, {})
        path = readable(str(real(image.path)))
        if record.get("input", {}).get("path", path) != path:
            record = {}  # of another image of that name
        now = FolderImage(image.name, image.path)
        if record.get("state") == "done":
            now = replace(
                now,
                what="segmented",
                n_cells=record["objects"],
                wrong=record.get("wrong"),
                model=record.get("provenance", {}).get("model", {}).get("name", ""),
            )
        elif record.get("state") == "failed" and record.get("error") != "interrupted":
            why = reason_words(str(record.get("error", "")), image.path)
            now = replace(now, what="failed", why=why)
        theirs = corrected_file(output, image.name)
        if path in journals or theirs.is_file():
            now = replace(now, what="corrected", n_cells=_counted(theirs, now.n_cells))
        if path in kept and path not in journals:
            now = replace(now, what="kept")
        found.append(now)
    return found


def _counted(path: Path, otherwise: int | None) -> int | None:
    """Cells of a file of labels, where it is there and can be read."""
    try:
        return _count_of(path, path.stat().st_mtime_ns)
    except (OSError, SA2NetError):
        return otherwise


@lru_cache(maxsize=4096)
def _count_of(path: Path, changed: int) -> int:
    """Distinct cells of a file as it was at that time."""
    labels = np.asarray(read_image(path).array)
    return int(np.count_nonzero(distinct(labels)[0]))


def corrected_file(output: Path, name: str) -> Path:
    """Where the corrected cells of an image are."""
    return output / CORRECTED / f"{name}.tif"


def _journalled(in_use: bool = True) -> dict[str, str]:
    """Files of images with corrections that were never kept, and the newest journal of each."""
    try:
        return {
            readable(str(real(info.image.path))): info.id
            for info in reversed(list_journals(in_use=in_use))
            if info.image.path and info.n_edits and not info.problem
        }
    except (SA2NetError, OSError):
        return {}


def _kept(training_set: Path) -> set[str]:
    """Files of images that a training set has corrections of."""
    try:
        if not is_training_set(training_set):
            return set()
        records = read_manifest(training_set).commits
    except (SA2NetError, OSError):
        return set()
    sources = [record.source.path for record in records if record.state == "active"]
    return {readable(str(real(path))) for path in sources if path}


def read_opened(number: int, image: FolderImage, output: Path) -> OpenedImage:
    """Read an image, and its cells where there are some.

    Raises
    ------
    SA2NetError
        The image cannot be read.
    """
    file = read_image(image.path)
    data, axes = file.array, file.axes
    if axes.endswith("C") and data.shape[-1] not in (3, 4):
        data, axes = np.moveaxis(np.asarray(data), -1, -3), f"{axes[:-3]}C{axes[-3:-1]}"
    rgb = axes.endswith("C")
    opened = OpenedImage(
        number,
        image.name,
        image.path,
        data,
        axes,
        file.spacing_um,
        None if rgb else _limits(data),
    )
    journal = _journalled(in_use=False).get(readable(str(real(image.path))))
    if journal is not None:
        return replace(opened, journal=journal)
    shape = plan_image(file.array, file.axes, measure=False).label_shape
    record = records_of(output, [image.name]).get(image.name, {})
    made = record.get("provenance", {})
    theirs = _labels(corrected_file(output, image.name), shape)
    if theirs is not None:
        return replace(opened, labels=theirs, provenance=made, corrected=True)
    if record.get("state") != "done":
        return opened
    labels = _labels(output / f"{image.name}.tif", shape)
    return replace(opened, labels=labels, provenance=made, table=_table(output, image.name))


def _limits(data: Any) -> tuple[float, float]:
    """What is shown black and white, of the middle plane."""
    middle = tuple(n // 2 for n in data.shape[:-2])
    step = max(1, int(np.sqrt(np.prod(data.shape[-2:]) / LOOKED_AT)))
    values = np.asarray(data[(*middle, slice(None, None, step), slice(None, None, step))])
    if not values.size:
        return 0.0, 1.0
    low, high = np.nanpercentile(values.astype(np.float64), [0.1, 99.9])
    return float(low), float(high) if high > low else float(low) + 1


def _labels(path: Path, shape: tuple[int, ...]) -> NDArray[np.int32] | None:
    """Labels of a file; None where there are none that fit."""
    if not path.is_file():
        return None
    try:
        labels = np.asarray(read_image(path).array)
    except SA2NetError:
        return None
    return labels.astype(np.int32) if labels.shape == tuple(shape) else None


def _table(output: Path, name: str) -> p.ObjectTable | None:
    import pandas as pd

    try:
        table = pd.read_csv(table_of(output, name))
    except (OSError, ValueError):
        return None
    return {str(column): table[column].to_numpy() for column in table.columns}


def small_picture(path: Path) -> NDArray[np.uint8]:
    """The first plane of an image, uint8 (h, w) or (h, w, 3).

    Raises
    ------
    SA2NetError
        The image cannot be read.
    """
    file = read_image(path)
    return picture_of(plan_image(file.array, file.axes, measure=False))


# --------------------------------------------------------------------------------------------
# Where the results of a folder were put, for the next time.


def _places() -> Path:
    return user_data_dir() / "folders.json"


def output_of(folder: Path) -> Path:
    """Where the results of a folder go: as a person chose last, else inside it."""
    with suppress(OSError, ValueError, AttributeError):
        chosen = json.loads(_places().read_text("utf-8")).get(str(real(folder)))
        if chosen:
            return Path(str(chosen))
    return folder / RESULTS


def remember_output(folder: Path, output: Path) -> None:
    """Write down where the results of a folder go."""
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = dict(json.loads(_places().read_text("utf-8")))
    known.pop(str(real(folder)), None)
    known[str(real(folder))] = str(output)
    known = dict(list(known.items())[-MOST_FOLDERS:])
    with suppress(SA2NetError, OSError):
        write_atomically(_places(), json.dumps(known, indent=1).encode())


def reason_words(words: str, path: Path) -> str:
    """Why an image failed, without its path, which the row is of."""
    for text in (f"{path} ", f"{real(path)} "):
        words = words.replace(text, "")
    return words
