"""Bringing models into the registry: from a file of any known format, or from the web."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from napari_sa2net.models.card import is_safetensors, open_checked
from napari_sa2net.models.download import Progress, download
from napari_sa2net.models.file import open_model, save_model
from napari_sa2net.models.importers import name_of_file
from napari_sa2net.models.registry import ModelEntry, add_file, check_model_name


def import_model(
    path: str | os.PathLike[str], name: str | None = None, overwrite: bool = False
) -> ModelEntry:
    """Check a model file or published checkpoint and take it into the registry.

    Our files are copied byte for byte; published checkpoints become one of ours, without
    the weights that the published network never uses.

    Parameters
    ----------
    path : path
    name : str, optional
        Name in the registry; the file's name if None.
    overwrite : bool
        Replace a model of the user's of the same name.

    Raises
    ------
    CheckpointError, SettingsError, ModelExistsError, OutputError
        Nothing is changed then.
    """
    path = Path(path).expanduser()
    name = check_model_name(name_of_file(path) if name is None else name)
    model = open_model(path)
    with open_checked(path) as file:
        ours = is_safetensors(file.read(9))
    if ours:
        return add_file(path, name, overwrite)
    with tempfile.TemporaryDirectory() as folder:
        parent = f"{path.name}, sha256 {model.sha256}"
        card = model.card.model_copy(update={"name": name, "parent": parent})
        converted = save_model(Path(folder) / "model.safetensors", model.net, card)
        return add_file(converted, name, overwrite)


def download_model(
    url: str,
    sha256: str,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ModelEntry:
    """Download a model, check it, and take it into the registry.

    Raises
    ------
    DownloadError, Cancelled
        As `download`.
    CheckpointError, SettingsError, ModelExistsError, OutputError
        As `import_model`.
    """
    path = download(url, sha256, progress=progress, cancelled=cancelled)
    try:
        return import_model(path, name, overwrite)
    finally:
        # The registry has its own copy.
        path.unlink(missing_ok=True)
