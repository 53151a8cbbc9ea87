"""ACDC: heart chambers in cine MRI (Bernard et al., IEEE TMI 2018), slice by slice."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data.layouts.base import (
    Layout,
    LayoutItem,
    check_directory,
    files_below,
    make_layout,
    missing,
)
from napari_sa2net.errors import SettingsError, TrainingDataError

CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
#: In the training part.
PATIENTS = 100
EXPECTED = "training/patient001/patient001_frame01.nii.gz with …_gt.nii.gz and so on"
NAME = re.compile(r"(patient(\d+)_frame\d+)\.nii(\.gz)?")


def open_acdc(directory: Path) -> Layout:
    """ACDC as downloaded, one item per slice; see `open_layout`.

    The two annotated frames of each of the 100 patients in ``training``. Of ten patients in
    order of their numbers, which are sorted by disease, the first seven train, the eighth
    validates, the last two test: shares as in the papers that compare on it, whose lists of
    patients we could not verify. Groups are patients; a frame is scored as one volume.

    Raises
    ------
    SettingsError
        If nibabel is not installed.
    """
    check_directory(directory, "ACDC", EXPECTED)
    nibabel = _nibabel()
    root = directory / "training" if (directory / "training").is_dir() else directory
    items = []
    for path in files_below(root, (".nii", ".nii.gz")):
        match = NAME.fullmatch(path.name)
        if match is None:
            image = path.with_name(path.name.replace("_gt.", ".", 1))
            if NAME.fullmatch(image.name) and not image.is_file():
                raise missing(image, f"the image of {path.name}")
            continue  # the whole film, or a mask
        frame, number = match[1], int(match[2])
        mask = path.with_name(path.name.replace(frame, f"{frame}_gt", 1))
        if not mask.is_file():
            raise missing(mask, f"the mask of {path.name}")
        try:
            shape = nibabel.load(path).shape
        except Exception as error:  # whatever a damaged file provokes
            raise TrainingDataError(
                f"{path} cannot be read ({error}). Download it again."
            ) from error
        if len(shape) != 3:
            raise TrainingDataError(f"{path} has {len(shape)} axes, where a frame has three.")
        turn = (number - 1) % 10
        split = "train" if turn < 7 else "val" if turn < 8 else "test"
        items += [
            LayoutItem(
                f"{frame}_slice{z:02d}",
                f"patient{number:03d}",
                split,
                _Slice(path, mask, z),
                frame,
            )
            for z in range(shape[2])
        ]
    notes = _missing_patients({item.group for item in items})
    return make_layout(directory, "acdc", CLASSES, items, "downloaded", EXPECTED, notes)


def _missing_patients(there: Collection[str]) -> tuple[str, ...]:
    lacking = [p for n in range(1, PATIENTS + 1) if (p := f"patient{n:03d}") not in there]
    if not lacking:
        return ()
    some = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
    return (f"Of {PATIENTS} patients {len(lacking)} are not there ({some}).",)


@dataclass(frozen=True)
class _Slice:
    image: Path
    mask: Path
    z: int

    def __call__(self) -> tuple[NDArray[Any], NDArray[Any]]:
        image, mask = (self._plane(path) for path in (self.image, self.mask))
        return image.astype(np.float32), np.rint(mask).astype(np.int32)

    def _plane(self, path: Path) -> NDArray[Any]:
        volume = _nibabel().load(path)
        # Stored with X first.
        return np.asarray(volume.dataobj[..., self.z]).T


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError:
        raise SettingsError(
            "NIfTI files need nibabel, which is not installed: pip install nibabel"
        ) from None
    return nibabel
