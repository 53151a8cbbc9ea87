"""What a result records of its making, to be repeated or told apart later."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from napari_sa2net.config import Settings

#: Version of the record's fields.
SCHEMA_VERSION = 1

#: Packages whose version may change a result.
PACKAGES = ("napari-sa2net", "torch", "numpy", "scipy", "scikit-image")


def versions() -> dict[str, str]:
    """Versions of this package, Python, and what a result depends on; nothing is imported."""
    return {"python": platform.python_version(), **_installed()}


@cache
def _installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def provenance(
    model: str,
    sha256: str,
    settings: Mapping[str, Settings | Mapping[str, Any]],
    pixel_size_um: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Record of how a result was made, ready for JSON.

    Parameters
    ----------
    model : str
        Name of the model.
    sha256 : str
        Of its file; empty for a network made in memory.
    settings : mapping of str to Settings or to a plain mapping
        All settings that were used, by group ("predict", "instances", ...).
    pixel_size_um : float, optional
        Of the image, where it is known.
    **more
        Further entries of plain values ("diameter", "device", ...).

    Returns
    -------
    dict with schema_version, model, settings, versions, pixel_size_um and the further
    entries; equal for equal inputs, so no time is in it.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {"name": model, "sha256": sha256},
        "settings": {
            group: value.model_dump(mode="json") if isinstance(value, Settings) else dict(value)
            for group, value in settings.items()
        },
        "versions": versions(),
        "pixel_size_um": pixel_size_um,
        **more,
    }
