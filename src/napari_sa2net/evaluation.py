"""Score labels, and folders of labels, against true ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_sa2net import metrics
from napari_sa2net.config import Progress
from napari_sa2net.data.label_files import (
    is_other_format,
    label_files,
    outlined_shape,
    read_cells,
    tells_shape,
)
from napari_sa2net.data.labels import as_labels, fitted, look_at
from napari_sa2net.data.listing import stem_of
from napari_sa2net.data.training_set import read_index, split_word
from napari_sa2net.errors import (
    EvaluationError,
    ImageError,
    ImageFileError,
    LabelsError,
    TrainingDataError,
)
from napari_sa2net.metrics import SCORES, ImageScore, pool, score_image
from napari_sa2net.words import listed

logger = logging.getLogger(__name__)

#: Endings of label files; anything else in the folders (tables, notes) is passed over.
LABEL_SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".png", ".npy")
#: Version of the layout of :meth:`EvaluationReport.to_dict`.
SCHEMA_VERSION = 1
#: Names listed in an error before the rest is only counted.
_NAMED = 5
#: Notes on labels before the rest is only counted.
_NOTED = 3
#: What becomes of cells that share a number, see `look_at`.
_COUNTED = "counted as one"


@dataclass(frozen=True)
class GroupScore:
    """Pooled scores of some images."""

    name: str
    n_images: int
    n_truth: int
    n_predicted: int
    scores: dict[str, float]


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of each group (in the order of names), of all images, and of each image.

    ``groups`` is empty where no grouping was asked for; ``images`` maps the stem of a file
    to its scores; ``notes`` say what may be wrong with labels.
    """

    groups: tuple[GroupScore, ...]
    all: GroupScore
    images: dict[str, GroupScore]
    notes: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, ...]]:
        """Cells of the table, header first: name, counts, scores to three places."""
        header = ("group", "images", "truth", "found", *SCORES)
        lines: list[tuple[str, ...]] = [header]
        for group in (*self.groups, self.all):
            counts = (group.n_images, group.n_truth, group.n_predicted)
            lines.append(
                (
                    group.name,
                    *(str(count) for count in counts),
                    *(f"{group.scores[key]:.3f}" for key in SCORES),
                )
            )
        return lines

    def table(self) -> str:
        """The table as text with aligned columns."""
        lines = self.rows()
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings for JSON: "all", "groups", "images" by name, "notes"."""
        return {
            "schema_version": SCHEMA_VERSION,
            "all": _plain(self.all),
            "groups": {group.name: _plain(group) for group in self.groups},
            "images": {name: _plain(score) for name, score in self.images.items()},
            "notes": list(self.notes),
        }


def evaluate(labels: Any, truth: Any) -> dict[str, float]:
    """Score labels against the truth.

    Parameters
    ----------
    labels, truth : array of whole numbers, or lists of as many arrays
        Pairs of the same shape; 0 is background, labels need not be consecutive.

    Returns
    -------
    dict with

    ap50, ap75, mean_ap : float
        TP / (TP + FP + FN) with one-to-one matching at IoU >= 0.5, at 0.75, and the mean
        over 0.50, 0.55 ... 0.90. Counts are summed over all images before dividing.
    f1, pq : float
        F1 and panoptic quality at IoU 0.5, pooled in the same way.
    aji : float
        Aggregated Jaccard index, pooled.
    dice, iou : float
        Of the foreground, mean over the images.

    Two empty images score 1 everywhere.

    Raises
    ------
    EvaluationError
        If shapes or list lengths differ, or labels are not whole numbers >= 0, or a mask of
        several cells, or background has a number.
    """
    pairs = [(labels, truth)]
    several = isinstance(labels, (list, tuple)) and isinstance(truth, (list, tuple))
    if several:
        pairs = list(zip(labels, truth, strict=False))
    notes: list[str] = []
    taken = [_taken(*pair, notes) for pair in pairs]
    for note in _some(notes):
        logger.warning(note)
    if not several:
        return metrics.evaluate(*taken[0])
    # What has no partner is for `metrics.evaluate` to complain of.
    n = len(pairs)
    return metrics.evaluate(
        [*(pair[0] for pair in taken), *labels[n:]], [*(pair[1] for pair in taken), *truth[n:]]
    )


def _taken(labels: Any, truth: Any, notes: list[str]) -> tuple[Any, Any]:
    """A pair as labels in one shape, with what may be wrong noted."""
    named = (("labels", labels), ("truth", truth))
    arrays = []
    for name, values in named:
        try:
            array = as_labels(values)
        except LabelsError as error:
            raise EvaluationError(f"The {name}: {error}") from error
        except ValueError:  # ragged: `metrics.evaluate` says so
            return labels, truth
        arrays.append(array)
    found, true = arrays
    if found.shape != true.shape and min(found.ndim, true.ndim) == 2:
        try:
            if found.ndim > 2:
                found = fitted(found, true.shape)
            else:
                true = fitted(true, found.shape)
        except LabelsError as error:
            raise EvaluationError(str(error)) from error
    for (name, _), array in zip(named, (found, true), strict=True):
        _looked_at(array, f"The {name}", notes)
    return found, true


def _looked_at(array: NDArray[Any], where: str, notes: list[str]) -> None:
    if array.ndim < 2:
        return
    look = look_at(array, _COUNTED)
    if look.problem:
        raise EvaluationError(f"{where}: {look.problem}")
    if look.note:
        notes.append(f"{where}: {look.note}")


def _some(notes: list[str]) -> list[str]:
    more = len(notes) - _NOTED
    return notes[:_NOTED] + ([f"{more} more label images look like these."] if more > 0 else [])


def evaluate_folders(
    predicted_dir: str | Path,
    truth_dir: str | Path,
    index: str | Path | None = None,
    split: str | None = None,
    group_by: str | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Score every true label file against the prediction of the same stem.

    Parameters
    ----------
    predicted_dir, truth_dir : path
        Folders of files with labels: .tif, .tiff, .png, .npy, or another format that
        `read_labels` takes; the images may lie beside those. Two files with outlines are
        compared on the pixels that these reach.
        Predictions without a truth are passed over.
    index : path of a CSV file, optional
        With a column ``name`` (stems) and, as needed, ``split`` and others, see `read_index`.
        Only its rows are scored.
    split : str, optional
        Only rows with this value in the column ``split``; needs an index.
    group_by : str, optional
        Column of the index; scores are pooled by its values as well.
    progress : callable(done, total, name), optional

    Raises
    ------
    EvaluationError
        If a prediction or truth is missing, files cannot be compared, or the index lacks
        what was asked for.
    """
    predicted = _label_files(predicted_dir, "predictions")
    truth = _label_files(truth_dir, "truth")
    group_of = _wanted(truth, index, split, group_by)
    _all_there([stem for stem in group_of if stem not in truth], truth_dir, "true labels")
    _all_there(
        [stem for stem in group_of if stem not in predicted], predicted_dir, "predictions"
    )

    by_stem: dict[str, ImageScore] = {}
    notes: list[str] = []
    for done, stem in enumerate(group_of):
        if progress is not None:
            progress(done, len(group_of), stem)
        by_stem[stem] = _score_files(predicted[stem], truth[stem], notes, stem)
    if not any(score.n_truth for score in by_stem.values()):
        notes.insert(0, f"No file of {truth_dir} holds a cell: every pixel is 0.")
    if progress is not None:
        progress(len(group_of), len(group_of), "")

    members: dict[str, list[ImageScore]] = {}
    if group_by is not None:
        for stem, group in group_of.items():
            members.setdefault(group, []).append(by_stem[stem])
    return EvaluationReport(
        groups=tuple(_group(name, members[name]) for name in sorted(members)),
        all=_group("all", list(by_stem.values())),
        images={stem: _group(stem, [score]) for stem, score in by_stem.items()},
        notes=tuple(_some(notes)),
    )


def _group(name: str, scores: list[ImageScore]) -> GroupScore:
    return GroupScore(
        name,
        n_images=len(scores),
        n_truth=sum(score.n_truth for score in scores),
        n_predicted=sum(score.n_predicted for score in scores),
        scores=pool(scores),
    )


def _plain(group: GroupScore) -> dict[str, Any]:
    return {
        "n_images": group.n_images,
        "n_truth": group.n_truth,
        "n_predicted": group.n_predicted,
        **group.scores,
    }


# --- files -----------------------------------------------------------------------------


def _label_files(folder: str | Path, what: str) -> dict[str, Path]:
    """Label files of a folder by stem, sorted."""
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise EvaluationError(f"The folder of {what} {folder} does not exist.")
    files: dict[str, Path] = {}
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise EvaluationError(f"{folder} cannot be read: {error.strerror}.") from error
    # A link that leads nowhere is named when it is read.
    wanted = [
        path
        for path in entries
        if is_other_format(path)
        or (path.name.lower().endswith(LABEL_SUFFIXES) and not os.path.isdir(path))
    ]
    for stem, paths in label_files(wanted).items():
        others = [path for path in paths if is_other_format(path)]
        if len(others) == 1 and len(paths) == 2:
            paths = others  # the picture beside it is the image
        if len(paths) > 1:
            first, second = sorted(paths)[:2]
            raise EvaluationError(
                f"{first.name} and {second.name} in {folder} have the same stem: keep "
                "one of them, so that it is clear which to score."
            )
        files[stem] = paths[0]
    if not files:
        raise EvaluationError(
            f"There are no label files ({', '.join(LABEL_SUFFIXES[2:])}, ImageJ ROIs, GeoJSON, "
            f"COCO, _seg.npy or OME-Zarr) in {folder}."
        )
    return files


def _all_there(missing: list[str], folder: str | Path, what: str) -> None:
    if missing:
        raise EvaluationError(
            f"{len(missing)} {what} missing in {folder}: {listed(missing, _NAMED)}. Files are "
            "paired by name without ending."
        )


def _score_files(predicted: Path, truth: Path, notes: list[str], name: str) -> ImageScore:
    found: dict[Path, NDArray[Any]] = {}
    shape: tuple[int, ...] | None = None
    # Outlines do not tell how large their image is, so the other file goes first.
    for path in sorted((predicted, truth), key=lambda path: not tells_shape(path)):
        try:
            if shape is None and not tells_shape(path):
                sizes = [outlined_shape(one) for one in (predicted, truth)]
                shape = max(size[0] for size in sizes), max(size[1] for size in sizes)
            read = read_cells(path, None if tells_shape(path) else shape, name)
            found[path], shape = read.labels, read.labels.shape
            notes += [f"{path}: {note}" for note in read.notes]
        except LabelsError as error:
            said = str(error) if str(path) in str(error) else f"{path}: {error}"
            raise EvaluationError(said) from error
        except (ImageFileError, ImageError) as error:
            raise EvaluationError(
                f"{predicted} cannot be scored against {truth}. {error}"
            ) from error
        _looked_at(found[path], str(path), notes)
    try:
        return score_image(found[predicted], found[truth])
    except EvaluationError as error:
        raise EvaluationError(f"{predicted} against {truth}: {error}") from error


# --- index -----------------------------------------------------------------------------


def _wanted(
    truth: Iterable[str], index: str | Path | None, split: str | None, group_by: str | None
) -> dict[str, str]:
    """Stems to score, in order, with the group of each ("" without grouping)."""
    if index is None:
        if split is not None or group_by is not None:
            raise EvaluationError(
                "A split or a grouping needs an index: a CSV file with a column name and the "
                "columns that are asked for."
            )
        return dict.fromkeys(truth, "")
    try:
        columns, rows = read_index(Path(index))
    except TrainingDataError as error:
        raise EvaluationError(str(error)) from error
    group_by = group_by and group_by.casefold()
    needed = ["name", *(["split"] if split is not None else []), *filter(None, [group_by])]
    absent = [column for column in needed if column not in columns]
    if absent:
        told = f"its columns are {', '.join(columns)}" if columns else "it is empty"
        raise EvaluationError(f"{index} has no column {', '.join(absent)}; {told}.")
    chosen = [
        row for row in rows if split is None or split_word(row["split"]) == split_word(split)
    ]
    if not chosen:
        known = sorted({row["split"] for row in rows}) if "split" in columns else []
        raise EvaluationError(
            f"{index} has no row"
            + (f" of split {split!r}" if split is not None else "")
            + (f"; its splits are {', '.join(known)}." if known else ".")
        )
    wanted: dict[str, str] = {}
    for row in chosen:
        stem = stem_of(row["name"])
        if stem in wanted:
            raise EvaluationError(f"{index} lists {stem} more than once; keep one row of it.")
        wanted[stem] = row[group_by] or "(none)" if group_by is not None else ""
    return wanted
