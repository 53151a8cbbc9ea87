"""A training set as the Learn page shows it; read on a thread of its own, without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.learn_state import ImportQuestion, SetItem, SetSummary
from napari_sa2net.data.manifest import CommitRecord, is_training_set
from napari_sa2net.data.normalize import apply_levels
from napari_sa2net.data.plan import plan_image
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
        channels={r.source.name: r.seen.channels for r in records if r.seen is not None},
    )


def _of_folder(folder: Path, share: float) -> SetSummary:
    from napari_sa2net.data.io import read_image
    from napari_sa2net.data.seen import unchosen

    items = load_training_folder(folder)
    note = ""
    with suppress(SA2NetError):  # learning says what is wrong
        note = unchosen(read_image(items[0].image), items[0])
    marked = any(item.split == "val" for item in items)
    units = {item.group or item.name for item in items}
    return SetSummary(
        folder,
        len(items),
        tuple(SetItem(item.name, item.name, None, item.group) for item in items[:MOST_LISTED]),
        None,
        len({item.group for item in items if item.group}),
        " ".join(filter(None, (_division(len(items), len(units), marked, share), note))),
    )


def import_question(source: Path) -> ImportQuestion | None:
    """What a person has to say of the images of a source; None where all is plain.

    Raises
    ------
    SA2NetError
        If there are none.
    """
    from napari_sa2net.data.exchange import opened_source
    from napari_sa2net.data.io import read_image

    with opened_source(source) as folder:
        if is_training_set(folder):
            return None
        file = read_image(load_training_folder(folder)[0].image)
        plan = plan_image(file.array, file.axes, in_channels=1, measure=False)
        axes: tuple[str, ...] = (plan.axes,)
        if plan.n_planes > 1:
            if plan.channel_axis is not None or len(plan.shape) != 3:
                return None  # whole stacks are not taken in, which is said then
            first, last = plan.shape[0], plan.shape[2]
            axes = ("CYX", "YXC") if first <= last else ("YXC", "CYX")
        elif plan.n_channels < 2 or plan.is_rgb:
            return None
        return ImportQuestion(source, axes, plan.shape, file.channel_names)


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
    """A small picture of what is learned from, uint8 (h, w) or (h, w, 3)."""
    from napari_sa2net.data.seen import plan_item

    plan = plan_item(item)
    height, width = plan.spatial
    step = max(1, max(height, width) // THUMBNAIL)
    first = (0,) * len(plan.stack_shape)
    values = plan.read_raw(first, 0, height, 0, width)[:, ::step, ::step]
    if len(values) == 3 and plan.is_rgb and values.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(values, 0, -1))
    small = np.clip(apply_levels(values, plan.measured_of(first)), 0, 1)
    small = np.moveaxis(small, 0, -1) if len(small) == 3 else small.mean(0)
    return np.round(255 * small).astype(np.uint8)


def gone(summary: SetSummary) -> SetSummary:
    """The summary of a folder that was there before."""
    words = f"The folder {summary.folder} is gone. Bring it back or choose another."
    return replace(summary, problem=words, gone=True)


def with_thumbnails(summary: SetSummary, pictures: dict[str, Any]) -> SetSummary:
    """The same summary with pictures."""
    items = tuple(replace(i, thumbnail=pictures.get(i.key, i.thumbnail)) for i in summary.items)
    return replace(summary, items=items)
