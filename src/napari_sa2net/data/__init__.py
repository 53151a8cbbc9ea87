"""Images in, labels out: axes, channels, normalisation and files, without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .formats import write_cells
    from .io import ImageFile, read_image
    from .label_files import read_cells
    from .listing import list_images
    from .plan import ImagePlan, plan_image
    from .samples import synthetic_nuclei
    from .write import write_labels, write_tiff_float

_HOME = {
    "ImagePlan": "plan",
    "plan_image": "plan",
    "ImageFile": "io",
    "list_images": "listing",
    "read_cells": "label_files",
    "read_image": "io",
    "write_cells": "formats",
    "write_labels": "write",
    "write_tiff_float": "write",
    "synthetic_nuclei": "samples",
}
__all__ = [
    "ImageFile",
    "ImagePlan",
    "list_images",
    "plan_image",
    "read_cells",
    "read_image",
    "synthetic_nuclei",
    "write_cells",
    "write_labels",
    "write_tiff_float",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
