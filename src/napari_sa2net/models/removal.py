"""Removing models of the user, and putting them back: nothing is deleted unasked."""

from __future__ import annotations

import os
from pathlib import Path

from napari_sa2net.errors import ModelNotFoundError, OutputError
from napari_sa2net.models.registry import (
    SUFFIX,
    ModelEntry,
    aside_models_dir,
    check_free,
    check_model_name,
    entry_of,
    locked,
    model_not_found,
    user_models_dir,
    user_path,
)


def removed_models_dir() -> Path:
    """Folder of removed models, which nobody else looks into; it may not exist yet."""
    return user_models_dir() / "removed"


def remove_model(name: str, forever: bool = False) -> Path | None:
    """Take a model of the user out of the list.

    Parameters
    ----------
    name : str
    forever : bool
        Delete its file, instead of moving it to `removed_models_dir`.

    Returns
    -------
    Where the file is now, for `restore_model`; None if it was deleted.

    Raises
    ------
    ModelNotFoundError
        If there is none of that name.
    ModelExistsError
        If it is a bundled one.
    OutputError
        If the file cannot be moved or deleted.
    """
    with locked():
        path = user_path(name, "removed")
        try:
            if forever:
                path.unlink()
                return None
            folder = removed_models_dir()
            if path.parent == aside_models_dir():
                folder /= "aside"
            folder.mkdir(parents=True, exist_ok=True)
            target = _free_path(folder, path.name.removesuffix(SUFFIX))
            os.replace(path, target)
            target.touch()  # its time tells which was removed last
        except FileNotFoundError:
            raise model_not_found(name) from None
        except OSError as error:
            raise OutputError(f"{path} cannot be removed ({error}).") from error
    return target


def restore_model(which: str | Path, name: str | None = None) -> ModelEntry:
    """Put a removed model back where it was, offered or kept aside.

    Parameters
    ----------
    which : str or Path
        What `remove_model` returned, or the model's name: the one removed last.
    name : str, optional
        What to call it; unsaid: as before.

    Raises
    ------
    ModelNotFoundError
        If no such model was removed.
    SettingsError, ModelExistsError, OutputError
        If the name is not allowed or taken; if the file cannot be moved.
    """
    with locked():
        path = which if isinstance(which, Path) else _newest(which)
        if not path.is_file():
            raise ModelNotFoundError(
                f"{path} is no longer there, so it cannot be put back. Import the model anew."
            )
        name = check_model_name(name or _name_of(path))
        check_free(name)
        aside = path.parent.name == "aside"
        target = (aside_models_dir() if aside else user_models_dir()) / f"{name}{SUFFIX}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        except OSError as error:
            raise OutputError(f"{path} cannot be moved back ({error}).") from error
        return entry_of(target, bundled=False)


def removed_models() -> list[Path]:
    """Files of removed models, the one removed last first."""
    folder = removed_models_dir()
    paths = [*folder.glob(f"*{SUFFIX}"), *(folder / "aside").glob(f"*{SUFFIX}")]
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest(name: str) -> Path:
    for path in removed_models():
        if _name_of(path).casefold() == name.casefold():
            return path
    names = ", ".join(dict.fromkeys(_name_of(path) for path in removed_models())) or "none"
    raise ModelNotFoundError(f"No model {name!r} was removed. Removed models: {names}.")


def _free_path(folder: Path, name: str) -> Path:
    path, number = folder / f"{name}{SUFFIX}", 1
    while path.exists():
        number += 1
        # No model is called so, since brackets are not allowed in names.
        path = folder / f"{name} ({number}){SUFFIX}"
    return path


def _name_of(path: Path) -> str:
    return path.name.removesuffix(SUFFIX).rpartition(" (")[0] or path.name.removesuffix(SUFFIX)
