"""Public data sets as their authors hand them out, read without preparing anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari_sa2net.data.layouts.acdc import open_acdc
from napari_sa2net.data.layouts.base import Layout, LayoutItem, Sample
from napari_sa2net.data.layouts.glas import open_glas
from napari_sa2net.data.layouts.isic2018 import open_isic2018
from napari_sa2net.data.layouts.monuseg import open_monuseg
from napari_sa2net.data.layouts.segpc2021 import open_segpc2021
from napari_sa2net.errors import SettingsError

__all__ = ["DATASETS", "Layout", "LayoutItem", "Sample", "open_layout"]

#: What opens each data set, by name.
DATASETS: dict[str, Callable[[Path], Layout]] = {
    "monuseg": open_monuseg,
    "glas": open_glas,
    "isic2018": open_isic2018,
    "segpc2021": open_segpc2021,
    "acdc": open_acdc,
}


def open_layout(dataset: str, directory: str | Path) -> Layout:
    """Find the images and masks of a public data set; nothing is read yet.

    Parameters
    ----------
    dataset : str
        One of `DATASETS`.
    directory : path
        Where it was unpacked.

    Raises
    ------
    SettingsError
        If the data set is not known.
    TrainingDataError
        If the folder is not laid out as its authors hand it out; the message names the file
        or folder that is missing.
    """
    if dataset not in DATASETS:
        raise SettingsError(f"Unknown data set {dataset!r}. Known are: {', '.join(DATASETS)}.")
    return DATASETS[dataset](Path(directory).expanduser())
