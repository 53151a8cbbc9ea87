"""Score a folder of predicted labels against a folder of true ones."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import EvaluationError, ImageError, ImageFileError
from napari_sa2net.metrics import SCORES, ImageScore, pool, score_image

#: Endings of label files; anything else in the folders (tables, notes) is passed over.
LABEL_SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".png", ".npy")
#: Version of the layout of :meth:`EvaluationReport.to_dict`.
SCHEMA_VERSION = 1
#: Names listed in an error before the rest is only counted.
_NAMED = 5


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
    to its scores.
    """

    groups: tuple[GroupScore, ...]
    all: GroupScore
    images: dict[str, GroupScore]

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
        """Plain numbers and strings for JSON: "all", "groups" and "images" by name."""
        return {
            "schema_version": SCHEMA_VERSION,
            "all": _plain(self.all),
            "groups": {group.name: _plain(group) for group in self.groups},
            "images": {name: _plain(score) for name, score in self.images.items()},
        }


def evaluate_folders(
    predicted_dir: str | Path,
    truth_dir: str | Path,
    index: str | Path | None = None,
    split: str | None = None,
    group_by: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> EvaluationReport:
    """Score every true label file against the prediction of the same stem.

    Parameters
    ----------
    predicted_dir, truth_dir : path
        Folders of .tif, .tiff, .png or .npy files with integer labels. Predictions without
        a truth are passed over.
    index : path of a CSV file, optional
        With a column ``name`` (stems) and, as needed, ``split`` and others. Only its rows
        are scored.
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
    for done, stem in enumerate(group_of):
        if progress is not None:
            progress(done, len(group_of), stem)
        by_stem[stem] = _score_files(predicted[stem], truth[stem])
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


def _stem(name: str) -> str | None:
    """File name without the ending of a label file; None for other files."""
    for suffix in LABEL_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def _label_files(folder: str | Path, what: str) -> dict[str, Path]:
    """Label files of a folder by stem, sorted."""
    folder = Path(folder)
    if not folder.is_dir():
        raise EvaluationError(f"The folder of {what} {folder} does not exist.")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = _stem(path.name)
        if stem is None or path.name.startswith(".") or not path.is_file():
            continue
        if stem in files:
            raise EvaluationError(
                f"{files[stem].name} and {path.name} in {folder} have the same stem: keep "
                "one of them, so that it is clear which to score."
            )
        files[stem] = path
    if not files:
        raise EvaluationError(
            f"There are no label files ({', '.join(LABEL_SUFFIXES[2:])}) in {folder}."
        )
    return files


def _all_there(missing: list[str], folder: str | Path, what: str) -> None:
    if missing:
        names = ", ".join(missing[:_NAMED])
        rest = len(missing) - _NAMED
        more = f" and {rest} more" if rest > 0 else ""
        raise EvaluationError(
            f"{len(missing)} {what} missing in {folder}: {names}{more}. Files are paired by "
            "name without ending."
        )


def _score_files(predicted: Path, truth: Path) -> ImageScore:
    try:
        return score_image(_read_labels(predicted), _read_labels(truth))
    except (ImageFileError, ImageError) as error:
        raise EvaluationError(
            f"{predicted} cannot be scored against {truth}. {error}"
        ) from error
    except EvaluationError as error:
        raise EvaluationError(f"{predicted} against {truth}: {error}") from error


def _read_labels(path: Path) -> NDArray[Any]:
    from napari_sa2net.data import read_image  # the file formats load on first use

    image = read_image(path)
    if image.axes.endswith("C"):
        raise EvaluationError(
            f"{path.name} is a colour image: labels are one whole number per pixel."
        )
    return np.asarray(image.array)


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
    columns, rows = _read_index(Path(index))
    needed = ["name", *(["split"] if split is not None else []), *filter(None, [group_by])]
    absent = [column for column in needed if column not in columns]
    if absent:
        raise EvaluationError(
            f"{index} has no column {', '.join(absent)}; its columns are {', '.join(columns)}."
        )
    chosen = [row for row in rows if split is None or row["split"] == split]
    if not chosen:
        known = sorted({row["split"] for row in rows}) if "split" in columns else []
        raise EvaluationError(
            f"{index} has no row"
            + (f" of split {split!r}" if split is not None else "")
            + (f"; its splits are {', '.join(known)}." if known else ".")
        )
    wanted: dict[str, str] = {}
    for row in chosen:
        stem = _stem(row["name"]) or row["name"]
        if stem in wanted:
            raise EvaluationError(f"{index} lists {stem} more than once; keep one row of it.")
        wanted[stem] = row[group_by] or "(none)" if group_by is not None else ""
    return wanted


def _read_index(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [
                {key: (value or "").strip() for key, value in row.items() if key is not None}
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"The index {path} cannot be read: {error}") from error
    return columns, rows
