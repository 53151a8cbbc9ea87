"""Labels and masks out of files: the numbers themselves, whatever a picture wraps them in."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.io import read_image
from napari_sa2net.data.numbered import as_labels, fitted, grey
from napari_sa2net.errors import LabelsError

#: Kinds of files that change the numbers they are given.
_LOSSY = (".jpg", ".jpeg")


def read_labels(path: str | Path, shape: tuple[int, int] | None = None) -> NDArray[Any]:
    """Labels of a file as integers that int32 holds, see `as_labels`.

    Of an indexed picture the index is the number, and of a grey one in RGB its grey.

    Parameters
    ----------
    path : path
    shape : (H, W), optional
        Of their image; unsaid: all axes but those of length 1, and of colours.

    Raises
    ------
    ImageFileError
        If the file cannot be read.
    LabelsError
        If it does not hold labels, or they have another shape.
    """
    return as_labels(_numbers(Path(path), "labels", shape))


def read_mask(path: str | Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask of a file: where it is above 0; parameters and errors as of `read_labels`."""
    values = _numbers(Path(path), "a mask", shape)
    if values.dtype.kind not in "biuf":
        raise LabelsError(f"A mask must be numbers, not {values.dtype}.")
    return np.asarray(values > 0)


def _numbers(path: Path, what: str, shape: tuple[int, int] | None) -> NDArray[Any]:
    if path.suffix.lower() in _LOSSY:
        raise LabelsError(
            f"JPEG changes the numbers of {what} a little. Save it as TIFF or PNG, from the "
            "original numbers."
        )
    plain = _picture(path)
    if plain is not None:
        return plain if shape is None else fitted(plain, shape)
    file = read_image(path)
    array = np.asarray(file.array)
    if "C" in file.axes:
        axis = file.axes.index("C")
        if array.shape[axis] in (3, 4):
            array = grey(array, axis)
        elif array.shape[axis] != 1:
            raise LabelsError(
                f"These labels have {array.shape[axis]} channels, and labels are one whole "
                "number for each pixel. Save the channel with the numbers on its own."
            )
    if shape is not None:
        return fitted(array, shape)
    while array.ndim > 2 and 1 in array.shape:
        array = np.squeeze(array, array.shape.index(1))
    return array


def _picture(path: Path) -> NDArray[Any] | None:
    """Numbers that the reader of images would resolve to colours, or cut to 8 bits."""
    if path.suffix.lower() not in (".png", ".bmp"):
        return None
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if picture.mode in ("P", "PA"):
                indices = np.asarray(picture)
                return indices[..., 0] if picture.mode == "PA" else indices
        with path.open("rb") as file:
            header = file.read(26)
        # Depth and kind of colour of a PNG; Pillow reads 16 bits of several channels as 8.
        if picture.format == "PNG" and header[24] == 16 and header[25] in (2, 4, 6):
            from imagecodecs import png_decode

            values = np.asarray(png_decode(path.read_bytes()))
            return values[..., 0] if header[25] == 4 else grey(values, -1)
    except LabelsError:
        raise
    except Exception:  # whatever decoders raise: `read_image` says what is wrong
        return None
    return None
