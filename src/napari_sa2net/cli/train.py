"""``sa2net train``: a model from a folder of images and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_sa2net.config import TrainConfig


def train(
    directory: Path,
    /,
    *,
    name: str,
    out: Path | None = None,
    config: Annotated[TrainConfig | None, Parameter(name="*")] = None,
) -> None:
    """Train a model on a folder of images and labels.

    DIRECTORY holds images/ and labels/ (the same file names; 0 is background), and if you
    like reviewed/ (masks of the pixels that count) and index.csv (columns split, name, kind,
    group).

    Parameters
    ----------
    directory
        Training folder.
    name
        What the new model is called.
    out
        Where the run's checkpoints and log go; unsaid: a folder beside your models.
    """
    from napari_sa2net.training.train import train_folder

    train_folder(directory, name, config or TrainConfig(), out=out)
