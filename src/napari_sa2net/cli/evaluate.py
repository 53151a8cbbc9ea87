"""``sa2net evaluate``: score a folder of masks against the truth."""

from __future__ import annotations

from pathlib import Path

from napari_sa2net.cli import console
from napari_sa2net.cli.console import StepProgress
from napari_sa2net.cli.options import Flag


def evaluate(
    predicted: Path,
    truth: Path,
    /,
    *,
    index: Path | None = None,
    split: str | None = None,
    group_by: str | None = None,
    json: Flag = False,
) -> None:
    """Score a folder of masks against a folder of true masks.

    Files are paired by name without ending. Objects are matched one to one; counts are
    summed over all images before they are divided.

    Parameters
    ----------
    predicted
        Folder of predicted masks.
    truth
        Folder of true masks.
    index
        Table (CSV) of the images to score, with a column name.
    split
        Only images with this value in the table's column split.
    group_by
        Score each value of this column of the table on its own as well, such as kind.
    json
        Print one JSON document, with the scores of each image.
    """
    from napari_sa2net.evaluation import evaluate_folders

    with StepProgress(quiet=json) as progress:
        report = evaluate_folders(predicted, truth, index, split, group_by, progress.step)
    if json:
        console.print_json(report.to_dict())
    else:
        header, *rows = report.rows()
        console.table(header, rows)
        for note in report.notes:
            console.warning(note)
