"""What a study learns from and what it is measured on: never the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_sa2net.config import InputConfig
from napari_sa2net.data.training_set import (
    LEARNED_FROM,
    TrainingItem,
    load_training_folder,
    split_items,
)
from napari_sa2net.errors import TrainingDataError
from napari_sa2net.experiments.focal_study.plan import SPLIT_SEED, TEST_FRACTION, StudySettings
from napari_sa2net.training.dataset import Example, evenly, load_example

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class StudyImages:
    """Images in memory.

    Attributes
    ----------
    named : bool
        The index names the test images; else they were held out.
    digest : str
        SHA-256 of all files and of what they are used for.
    """

    training: list[Example]
    test: list[Example]
    named: bool
    digest: str

    def plain(self) -> dict[str, Any]:
        """Names and digest, for JSON."""
        return {
            "training": [e.item.name for e in self.training],
            "test": [e.item.name for e in self.test],
            "test_is_named_in_the_index": self.named,
            "digest": self.digest,
        }


def choose_items(
    directory: str | Path, settings: StudySettings
) -> tuple[list[TrainingItem], list[TrainingItem], bool]:
    """Items to train on, items to measure on, and whether the index names the latter.

    Rows of split train and val are trained on (no step of the study needs validation
    images), rows of split test are measured on. Without such rows a seeded share of each
    kind is held out, whole groups at a time.

    Raises
    ------
    TrainingDataError
        If a side would be empty, the folder does not serve, or the kind is not there.
    """
    items = load_training_folder(directory, (*LEARNED_FROM, "test"))
    if settings.kind is not None:
        kinds = sorted({item.kind for item in items if item.kind})
        items = [item for item in items if item.kind == settings.kind]
        if not items:
            there = f"The kinds there are: {', '.join(kinds)}." if kinds else (
                "Its index.csv has no column kind, or there is no index.csv."
            )  # fmt: skip
            raise TrainingDataError(
                f"{directory} has no images of kind {settings.kind!r}. {there}"
            )
    test = [item for item in items if item.split == "test"]
    learned = [item for item in items if item.split != "test"]
    named = bool(test)
    if not learned:
        raise TrainingDataError(
            f"{directory} has test images alone. Mark images to train on in index.csv with "
            "split train."
        )
    if not named:
        unmarked = [replace(item, split="") for item in learned]
        learned, test = split_items(unmarked, TEST_FRACTION, SPLIT_SEED)
    learned, test = (
        evenly(side, settings.images, lambda item: (item.kind, item.name))
        for side in (learned, test)
    )
    return learned, test, named


def load_images(
    directory: str | Path,
    settings: StudySettings,
    on_progress: Progress | None = None,
    cancelled: Callable[[], None] | None = None,
) -> StudyImages:
    """Read what `choose_items` chose.

    Parameters
    ----------
    on_progress : callable (done, total, what), optional
    cancelled : callable, optional
        Asked before each image; raises what shall end it.

    Raises
    ------
    TrainingDataError
        As of `choose_items` and `dataset.load_example`, or if no image has an object.
    """
    training, test, named = choose_items(directory, settings)
    digest = hashlib.sha256()
    examples: list[Example] = []
    items = [*training, *test]
    for i, item in enumerate(items):
        if cancelled:
            cancelled()
        if on_progress:
            on_progress(i, len(items), "reading images")
        use = "train" if i < len(training) else "test"
        digest.update(f"{use}/{item.name}/{item.kind}\0".encode())
        for path in (item.image, item.labels, item.reviewed):
            if path is not None:
                digest.update(_content(path))
        examples.append(load_example(item, InputConfig(), settings.diameter))
    for use, some in (
        ("trained", examples[: len(training)]),
        ("measured", examples[len(training) :]),
    ):
        if not any(e.labels.any() for e in some):
            raise TrainingDataError(
                f"None of the {len(some)} images that would be {use} on has a labelled "
                "object. Label images are 0 for background and one number per object."
            )
    return StudyImages(
        examples[: len(training)], examples[len(training) :], named, digest.hexdigest()
    )


def _content(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise TrainingDataError(f"{path} cannot be read ({error}).") from error
