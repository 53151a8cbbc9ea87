"""Models by name: those of the package, and the user's in a folder of their own.

Nothing here needs torch. Changes hold a lock of the folder and end in one rename, so two
processes may use it at once and a reader never sees half a model.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import filelock

from napari_sa2net.errors import (
    CheckpointError,
    ModelExistsError,
    ModelNotFoundError,
    OutputError,
    SettingsError,
)
from napari_sa2net.files import (
    HOME_VARIABLE,
    TEMPORARY_PREFIX,
    taken,
    user_data_dir,
    write_atomically,
)
from napari_sa2net.models.card import (
    ModelCard,
    open_checked,
    read_card,
    variant_card,
    write_with_card,
)

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
#: Endings of the other formats in which models are written, which a copied file is not in.
ONNX_SUFFIX, ZOO_SUFFIX = ".onnx", ".zip"
_OTHERS = {ONNX_SUFFIX: "model in ONNX", ZOO_SUFFIX: "package of the BioImage Model Zoo"}
#: Seconds to wait for another process that changes the registry.
LOCK_TIMEOUT = 30
MAX_NAME = 64

# Letters of any language, digits, and in the middle spaces, dots, dashes.
_NAME = re.compile(r"\w(?:[\w .-]*[\w-])?")
# Names that Windows keeps for devices, also with an ending.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class ModelEntry:
    """A model that is there by name.

    Attributes
    ----------
    name : str
    path : Path
    bundled : bool
        Part of the package: cannot be removed or renamed.
    card : ModelCard
        Its name is the entry's.
    size_bytes : int
    aside : bool
        Kept, but not offered: it was not better than its parent. `promote_model` changes
        that.
    """

    name: str
    path: Path
    bundled: bool
    card: ModelCard
    size_bytes: int
    aside: bool = False

    @property
    def limits(self) -> str:
        """What the model is not for, in words; empty where nothing is known."""
        return limits_of(self.card)


def limits_of(card: ModelCard) -> str:
    """What a model is not for, as its card says under ``training``; empty where it does not."""
    return str(card.training.get("limits") or "")


def bundled_models_dir() -> Path:
    """Folder of the models that come with the package."""
    return Path(__file__).parent.parent / "weights"


def user_models_dir() -> Path:
    """Folder of the user's models; it may not exist yet."""
    return user_data_dir() / "models"


def aside_models_dir() -> Path:
    """Folder of the user's models that are kept aside; it may not exist yet."""
    return user_models_dir() / "aside"


def is_model_name(name: str) -> bool:
    """Whether a model may be called so: a portable file name without separators."""
    return (
        len(name) <= MAX_NAME
        and _NAME.fullmatch(name) is not None
        and _RESERVED.fullmatch(name) is None
    )


def check_model_name(name: str) -> str:
    """The name; raises SettingsError if no model may be called so."""
    if not is_model_name(name):
        raise SettingsError(
            f"{name!r} cannot name a model. Use 1 to {MAX_NAME} letters, digits, spaces, "
            "dots, dashes or underscores, beginning with a letter or digit."
        )
    return name


def list_models(aside: bool = False) -> list[ModelEntry]:
    """Models to choose from, bundled ones first, each group by name.

    A damaged file is left out, and named in a warning of the log.

    Parameters
    ----------
    aside : bool
        Also those that are kept aside, at the end.
    """
    entries, problems = read_models(aside)
    for problem in problems:
        logger.warning("Left out of the list of models: %s", problem)
    return entries


def read_models(aside: bool = False) -> tuple[list[ModelEntry], list[str]]:
    """As `list_models`, and what is wrong with the files that were left out, in words."""
    entries, problems = [], []
    for path, bundled in _files(aside):
        try:
            entries.append(entry_of(path, bundled))
        except CheckpointError as error:
            if path.exists():  # not removed by another process meanwhile
                problems.append(str(error))
    return entries, problems


def find_model(name: str) -> ModelEntry | None:
    """The model of that name (upper and lower case alike), also one kept aside, or None.

    Raises
    ------
    CheckpointError
        If there is such a file but its card cannot be read.
    """
    for path, bundled in _files():
        if _same(path, name):
            try:
                return entry_of(path, bundled)
            except CheckpointError:
                if path.exists():
                    raise
    return None


def get_model(name: str) -> ModelEntry:
    """As `find_model`, but raises ModelNotFoundError if there is none."""
    entry = find_model(name)
    if entry is None:
        raise model_not_found(name)
    return entry


def free_model_name(wanted: str) -> str:
    """The name, or where it is taken the first of "wanted-2", "wanted-3", … that is not.

    Raises
    ------
    SettingsError
        If no model may be called so.
    """
    check_model_name(wanted)
    name, number = wanted, 1
    while any(_same(path, name) for path, _ in _files()):
        number += 1
        ending = f"-{number}"
        name = f"{wanted[: MAX_NAME - len(ending)]}{ending}"
    return name


def variant_name(parent: str) -> str:
    """A name for a variant of a model that no model has: ``nuclei-variant``.

    Raises
    ------
    SettingsError
        If no model may be called so.
    """
    return free_model_name(f"{parent[: MAX_NAME - len('-variant')].rstrip(' .-')}-variant")


def save_variant(
    model: str,
    name: str | None = None,
    *,
    gates: Sequence[bool | None] = (None,) * 4,
    gamma: Sequence[float | None] = (None,) * 4,
    se_gamma: Sequence[float | None] = (None,) * 4,
    sha256: str | None = None,
    overwrite: bool = False,
) -> ModelEntry:
    """Keep a model with its attention changed as a model of its own.

    Its weights are the model's, byte for byte; the change stands in its card, which names the
    model and has no scores, since nobody has measured them. It computes what
    `napari_sa2net.interpret.attention.WhatIfRun` does with the same change, bit for bit.
    `remove_model` takes it away again.

    Parameters
    ----------
    model : str
        Name of a model.
    name : str, optional
        Of the variant; unsaid: the first of ``MODEL-variant``, ``MODEL-variant-2``, … that is
        free.
    gates : four bools or None
        Scale gates 1 (finest) to 4: False switches one off, None keeps it.
    gamma : four floats in 0…8, or None
        Selectivity of the detail maps (exponents γ of ψ) at strides 8, 4, 2, 1; None keeps the
        model's own.
    se_gamma : four floats in 0…8, or None
        The same of the weights of features (squeeze and excitation).
    sha256 : str, optional
        Of the file that the change was tried with, hexadecimal.
    overwrite : bool
        Replace the user's model of that name.

    Returns
    -------
    ModelEntry
        Offered like any other.

    Raises
    ------
    ModelNotFoundError
        If there is no such model, or its file is not the one of `sha256`.
    SettingsError
        If the change is none or of what the model lacks, or the name is not allowed.
    ModelExistsError
        If the name is taken (by a bundled model or the model itself: even with `overwrite`).
    CheckpointError, OutputError
        If the file cannot be read or written.

    Examples
    --------
    >>> from napari_sa2net.models import remove_model, save_variant
    >>> variant = save_variant("nuclei", "nuclei-fine", gates=(None, None, None, False))
    >>> variant.card.description
    'nuclei with scale 4 off. Its scores have not been measured.'
    >>> gone = remove_model("nuclei-fine")
    """
    parent = get_model(model)
    found = file_sha256(parent.path)
    if sha256 is not None and found != sha256:
        raise ModelNotFoundError(
            f"{model!r} is another model than the one that was tried. Look inside again, and "
            "keep the change then."
        )
    name = check_model_name(variant_name(parent.name) if name is None else name)
    card = variant_card(parent.card, name, f"{parent.name} {found}", gates, gamma, se_gamma)
    if name.casefold() == parent.name.casefold():
        raise ModelExistsError(f"{name!r} is the model itself. Choose another name.")
    with tempfile.TemporaryDirectory() as folder, open_checked(parent.path) as file:
        made = Path(folder) / f"variant{SUFFIX}"
        write_atomically(made, lambda out: write_with_card(file, out, card))
        return add_file(made, name, overwrite)


def model_not_found(name: str) -> ModelNotFoundError:
    """The error for a name that no model has, with those that there are."""
    names = ", ".join(path.name.removesuffix(SUFFIX) for path, _ in _files()) or "none"
    return ModelNotFoundError(
        f"There is no model and no file {name!r}. Models: {names}. "
        "Import a file with: sa2net models import FILE"
    )


def add_file(
    source: str | os.PathLike[str], name: str, overwrite: bool = False, aside: bool = False
) -> ModelEntry:
    """Copy one of our model files into the registry, byte for byte.

    Parameters
    ----------
    source : path
    name : str
    overwrite : bool
        Replace the user's model of that name.
    aside : bool
        Keep it aside: there by name, but not offered.

    Raises
    ------
    SettingsError, ModelExistsError, CheckpointError, OutputError
        If the name is not allowed or taken (by a bundled model: even with `overwrite`), the
        file has no readable card, or cannot be copied.
    """
    check_model_name(name)
    read_card(source)
    with open_checked(source) as file, locked():
        check_free(name, overwrite)
        target = (aside_models_dir() if aside else user_models_dir()) / f"{name}{SUFFIX}"
        write_atomically(target, lambda out: _copy(file, out))
        # On file systems that tell case, "Cells" would stay beside the new "cells".
        for path in _user_files():
            if path != target and _same(path, name):
                path.unlink(missing_ok=True)
        # Under the lock: the next process may remove it at once.
        return entry_of(target, bundled=False)


def export_model(
    name: str, destination: str | os.PathLike[str], overwrite: bool = False
) -> Path:
    """Copy a model's file to a path, or into a folder under the model's name.

    Returns
    -------
    Path of the copy.

    Raises
    ------
    ModelNotFoundError, OutputError
        If there is no such model; if the destination exists or cannot be written.
    """
    entry = get_model(name)
    target = Path(destination).expanduser()
    if target.is_dir():
        target = target / f"{entry.name}{SUFFIX}"
    elif target.suffix.lower() != SUFFIX:
        others = " or ".join(f"FILE{ending} (a {what})" for ending, what in _OTHERS.items())
        raise OutputError(
            f"{target} is neither a folder nor a name that ends with {SUFFIX}, as that of a "
            "copy of a model's file has to. For other programs: sa2net models export "
            f"{entry.name} {others}."
        )
    free_destination(target, overwrite)
    with open_checked(entry.path) as file:
        return write_atomically(target, lambda out: _copy(file, out))


def free_destination(target: Path, overwrite: bool) -> Path:
    """The path; raises OutputError if it exists and is not to be replaced."""
    if target.exists() and not overwrite:
        raise taken(target)
    return target


def rename_model(name: str, new_name: str) -> ModelEntry:
    """Give a model of the user another name; its file's content, and sha256, stay.

    Raises
    ------
    SettingsError, ModelNotFoundError, ModelExistsError, OutputError
    """
    check_model_name(new_name)
    with locked():
        path = user_path(name, "renamed")
        if name.casefold() != new_name.casefold():
            check_free(new_name, overwrite=None)
        target = path.with_name(f"{new_name}{SUFFIX}")
        try:
            os.replace(path, target)
        except OSError as error:
            raise OutputError(f"{path} cannot be renamed ({error}).") from error
        return entry_of(target, bundled=False)


def promote_model(name: str) -> ModelEntry:
    """Offer a model that was kept aside; nothing changes for one that is offered already.

    Raises
    ------
    ModelNotFoundError, ModelExistsError, OutputError
        If there is none; if it is a bundled one; if the file cannot be moved.
    """
    return _move(name, user_models_dir(), "promoted")


def demote_model(name: str) -> ModelEntry:
    """Keep a model of the user aside: there by name, but not offered.

    Raises
    ------
    ModelNotFoundError, ModelExistsError, OutputError
        If there is none; if it is a bundled one; if the file cannot be moved.
    """
    return _move(name, aside_models_dir(), "kept aside")


def _move(name: str, folder: Path, what: str) -> ModelEntry:
    with locked():
        path = user_path(name, what)
        target = folder / path.name
        if target != path:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            except OSError as error:
                raise OutputError(f"{path} cannot be moved ({error}).") from error
        return entry_of(target, bundled=False)


def entry_of(path: Path, bundled: bool) -> ModelEntry:
    """The model in a file of the registry; raises CheckpointError if it has no card."""
    name = path.name.removesuffix(SUFFIX)
    card = read_card(path).model_copy(update={"name": name})
    with open_checked(path) as file:
        size = os.fstat(file.fileno()).st_size
    return ModelEntry(name, path, bundled, card, size, path.parent == aside_models_dir())


def _files(aside: bool = True) -> Iterator[tuple[Path, bool]]:
    # A bundled model is never shadowed, so it comes first.
    for path in _model_files(bundled_models_dir()):
        yield path, True
    for path in _user_files(aside):
        yield path, False


def _user_files(aside: bool = True) -> list[Path]:
    offered = _model_files(user_models_dir())
    return [*offered, *_model_files(aside_models_dir())] if aside else offered


def _model_files(folder: Path) -> list[Path]:
    try:
        # By name alone: the suffix's dot would put "cells-2" before "cells".
        paths = sorted(
            folder.iterdir(), key=lambda path: path.name.removesuffix(SUFFIX).casefold()
        )
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return [
        path
        for path in paths
        if path.name.endswith(SUFFIX)
        and not path.name.startswith(TEMPORARY_PREFIX)
        and path.is_file()
    ]


def _same(path: Path, name: str) -> bool:
    return path.name.removesuffix(SUFFIX).casefold() == name.casefold()


def check_free(name: str, overwrite: bool | None = False) -> None:
    """Raise ModelExistsError if the name is taken (by a bundled model: in any case).

    ``overwrite`` is None where there is no such choice, and the error does not advise it.
    """
    for path, bundled in _files():
        if _same(path, name) and (bundled or not overwrite):
            what = "A bundled model" if bundled else "A model"
            choice = not bundled and overwrite is not None
            advice = "Choose another, or overwrite it." if choice else "Choose another name."
            raise ModelExistsError(f"{what} is called {name!r} already. {advice}")


def user_path(name: str, what: str) -> Path:
    """File of a model of the user, that shall be ``what`` ("removed").

    Raises
    ------
    ModelNotFoundError, ModelExistsError
        If there is none; if it is a bundled one.
    """
    for path, bundled in _files():
        if _same(path, name):
            if bundled:
                raise ModelExistsError(
                    f"{name!r} comes with the package and cannot be {what}. "
                    "Export it and import the copy under another name."
                )
            return path
    raise model_not_found(name)


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    source.seek(0)
    shutil.copyfileobj(source, target, 1 << 20)


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of the user's folder; raises OutputError if it cannot be had."""
    folder = user_models_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock", timeout=LOCK_TIMEOUT):
            yield
    except filelock.Timeout:
        raise OutputError(
            f"Another program has been changing {folder} for {LOCK_TIMEOUT} s. Try again."
        ) from None
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error}). Check its permissions, or set "
            f"{HOME_VARIABLE} to another folder."
        ) from error


# --------------------------------------------------------------------------------------------
# Removing models of the user, and putting them back: nothing is deleted unasked.


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


# --------------------------------------------------------------------------------------------
# Which model came of which: by the sha256 that a card names, whatever files are called.

_SHA256 = re.compile(r"[0-9a-f]{64}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; read again only when the file has changed.

    Raises
    ------
    CheckpointPathError, CorruptCheckpointError
        If it cannot be read or is empty.
    """
    with open_checked(path):
        stat = path.stat()
    return _sha256(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=512)
def _sha256(path: Path, _changed: int, _size: int) -> str:
    with open_checked(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parent_named(card: ModelCard) -> tuple[str, str]:
    """Name and sha256 of the parent that a card names; empty where it names none."""
    text = card.parent or ""
    found = _SHA256.search(text)
    name = _SHA256.sub("", text).strip().removesuffix("sha256").rstrip(" ,")
    return name, found.group() if found else ""


def parent_of(card: ModelCard, entries: Sequence[ModelEntry]) -> ModelEntry | None:
    """The model that a card's model learned from, if it is among the entries.

    Raises
    ------
    CheckpointError
        If the file of an entry cannot be read.
    """
    _, sha256 = parent_named(card)
    if not sha256:
        return None
    return next((e for e in entries if file_sha256(e.path) == sha256), None)


def ancestors(card: ModelCard, entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """Parent, grandparent, …, as far as they are among the entries; raises as `parent_of`."""
    found: list[ModelEntry] = []
    while (parent := parent_of(card, entries)) is not None and parent not in found:
        found.append(parent)
        card = parent.card
    return found
