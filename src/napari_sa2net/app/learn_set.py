"""A training set as the Learn page shows it; read on a thread of its own, without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.learn_state import SetItem, SetSummary
from napari_sa2net.data.manifest import CommitRecord, is_training_set
from napari_sa2net.data.training_set import TrainingItem, load_training_folder
from napari_sa2net.errors import SA2NetError

#: Fewest reviewed cells where there is one image only, as `training.held_out` has it.
FEWEST = 4
#: So many are listed, the newest; all are learned from.
MOST_LISTED = 60
THUMBNAIL = 40
NOTHING = (
    "There are no corrections to learn from yet. Repair some cells on the Correct page and "
    "keep them."
)


def read_summary(folder: Path, share: float) -> SetSummary:
    """What a folder holds; `share` of the cells is to be held back.

    Never raises: what is wrong is the summary's ``problem``.
    """
    try:
        if is_training_set(folder):
            return _of_commits(folder, share)
        if not folder.is_dir():
            return SetSummary(folder, problem=NOTHING, there=False)
        if not any(folder.iterdir()):
            return SetSummary(folder, problem=NOTHING)
        return _of_folder(folder, share)
    except (SA2NetError, OSError) as error:
        return SetSummary(folder, n_cells=None, problem=str(error))


def _of_commits(folder: Path, share: float) -> SetSummary:
    from napari_sa2net.data.corrections import TrainingSet

    records = TrainingSet.open(folder).commits()
    if not records:
        return SetSummary(folder, problem=NOTHING, listed=True)
    n_cells = sum(record.n_reviewed for record in records)
    units = Counter(_unit(record) for record in records if record.n_reviewed)
    marked = any(record.split == "val" for record in records)
    most = max(record.n_reviewed for record in records)
    problem = ""
    if not n_cells:
        problem = (
            "No cell of these images has been reviewed. Accept or correct some on the Correct "
            "page, and keep them again."
        )
    elif len(records) == 1 and most < FEWEST:
        problem = (
            f"One image with {n_cells} reviewed cell{'' if n_cells == 1 else 's'} is too "
            f"little: review {FEWEST} or more, or keep a second image, so that some can be "
            "held back to judge by."
        )
    return SetSummary(
        folder,
        len(records),
        tuple(
            SetItem(r.id, r.source.name, r.n_reviewed, r.group, r.time)
            for r in reversed(records[-MOST_LISTED:])
        ),
        n_cells,
        len({record.group for record in records if record.group}),
        _division(len(records), len(units), marked, share),
        problem,
        listed=True,
    )


def _of_folder(folder: Path, share: float) -> SetSummary:
    items = load_training_folder(folder)
    marked = any(item.split == "val" for item in items)
    units = {item.group or item.name for item in items}
    return SetSummary(
        folder,
        len(items),
        tuple(SetItem(item.name, item.name, None, item.group) for item in items[:MOST_LISTED]),
        None,
        len({item.group for item in items if item.group}),
        _division(len(items), len(units), marked, share),
    )


def _unit(record: CommitRecord) -> str:
    """What is never torn apart: a group, or all that is of one image."""
    return record.group or record.source.fingerprint or record.source.name


def _division(n_images: int, n_units: int, marked: bool, share: float) -> str:
    if marked:
        return "Held back to judge by: the images that are marked for validation."
    if n_images == 1:
        return (
            f"A strip of the image with about {share:.0%} of its cells is held back to judge "
            "by. A second image makes a fairer judge."
        )
    if n_units == 1:
        return (
            f"About {share:.0%} of the cells are held back to judge by. All images are of one "
            "group, so it judges kindly: images of another group would tell more."
        )
    whole = "whole images"
    if 1 < n_units < n_images:
        whole = "whole groups"
    return f"About {share:.0%} of the cells are held back to judge by: {whole}."


def thumbnails(summary: SetSummary) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Key and small picture of every listed image, as they are read.

    Images that cannot be read are passed over: learning itself says what is wrong.
    """
    try:
        items = load_training_folder(summary.folder)
    except (SA2NetError, OSError):
        return
    by_key = {item.commit or item.name: item for item in items}
    for shown in summary.items:
        item = by_key.get(shown.key)
        if item is None:
            continue
        try:
            yield shown.key, thumbnail(item)
        except (SA2NetError, OSError, ValueError):
            continue


def thumbnail(item: TrainingItem) -> NDArray[np.uint8]:
    """A small picture of an image, uint8 (h, w) or (h, w, 3), stretched to its levels."""
    from napari_sa2net.data.io import read_image

    file = read_image(item.image)
    y, x = file.axes.index("Y"), file.axes.index("X")
    size = max(file.array.shape[y], file.array.shape[x])
    step = max(1, size // THUMBNAIL)
    key = tuple(
        slice(None, None, step) if i in (y, x) else slice(None) for i in range(len(file.axes))
    )
    small = np.asarray(file.array[key])
    small = np.moveaxis(small, (y, x), (0, 1)).reshape(small.shape[y], small.shape[x], -1)
    small = small[..., :3] if small.shape[2] >= 3 else small[..., 0]
    values = small.astype(np.float32)
    low, high = np.percentile(values, [1, 99.8])
    if small.ndim == 3 and small.dtype == np.uint8:
        return small
    return np.round(255 * np.clip((values - low) / ((high - low) or 1), 0, 1)).astype(np.uint8)


def gone(summary: SetSummary) -> SetSummary:
    """The summary of a folder that was there before."""
    words = f"The folder {summary.folder} is gone. Bring it back or choose another."
    return replace(summary, problem=words, gone=True)


def with_thumbnails(summary: SetSummary, pictures: dict[str, Any]) -> SetSummary:
    """The same summary with pictures."""
    items = tuple(replace(i, thumbnail=pictures.get(i.key, i.thumbnail)) for i in summary.items)
    return replace(summary, items=items)
