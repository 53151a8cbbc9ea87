"""Bringing models into the registry: from a file of any known format, or from the web."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote, urlsplit

import platformdirs
import pooch
import requests

from napari_sa2net.config import Progress
from napari_sa2net.errors import (
    Cancelled,
    CheckpointError,
    CorruptCheckpointError,
    DownloadError,
    ForeignCheckpointError,
    ModelExistsError,
    OutputError,
    SettingsError,
    UnsafeCheckpointError,
)
from napari_sa2net.files import HOME_VARIABLE, write_atomically
from napari_sa2net.models.card import is_safetensors, open_checked
from napari_sa2net.models.checkpoint import AGAIN, holds_package, name_of_file
from napari_sa2net.models.file import open_model, save_model
from napari_sa2net.models.registry import (
    SUFFIX,
    ModelEntry,
    add_file,
    check_model_name,
    file_sha256,
    free_model_name,
    list_models,
)

# --------------------------------------------------------------------------------------------
# Downloading model files; only with their sha256, and never half of one.

#: Seconds without an answer after which a download fails.
TIMEOUT = 30


def downloads_dir() -> Path:
    """Folder of downloaded files; it may not exist yet."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return Path(home).expanduser().absolute() / "downloads"
    return Path(platformdirs.user_cache_dir("napari-sa2net", appauthor=False)) / "downloads"


def download(
    url: str,
    sha256: str,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Download a file, or find it downloaded already.

    Parameters
    ----------
    url : str
        http or https.
    sha256 : str
        Of the file, 64 hexadecimal digits; without it nothing is downloaded.
    progress : callable, optional
        Called with bytes done, bytes in all (0 if the server does not say), and the name.
    cancelled : callable, optional
        Asked at each chunk.

    Returns
    -------
    Path of the file, its content checked.

    Raises
    ------
    SettingsError
        If the URL or the sha256 is malformed.
    DownloadError
        If the server does not answer or the content is another; no file is left.
    Cancelled
        If `cancelled` said so; no file is left.
    OutputError
        If the file cannot be written.
    """
    sha256 = sha256.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise SettingsError(
            "A download needs the file's sha256, 64 hexadecimal digits. "
            "Ask whoever offers the model for it."
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SettingsError(f"{url!r} is not a web address. Give one with http:// or https://")
    base = re.sub(r"[^\w .-]+", "_", unquote(parts.path).rsplit("/", 1)[-1]).strip(" .")
    folder = downloads_dir()
    # Pooch reports each download on the console, unasked.
    log = pooch.get_logger()
    level = log.level
    log.setLevel("WARNING")
    bar = _Bar(base or url, progress, cancelled)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = pooch.retrieve(
            url,
            known_hash=f"sha256:{sha256}",
            fname=base or "model",
            # By hash: another version of the same name is another file.
            path=folder / sha256[:16],
            downloader=pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT),
        )
    except requests.RequestException as error:
        raise DownloadError(
            f"{url} could not be downloaded ({error}). "
            "Check the address and the internet connection, and try again."
        ) from error
    except ValueError as error:  # what pooch raises for a wrong hash
        raise DownloadError(
            f"The file at {url} is not the one with sha256 {sha256}. "
            "It was changed or damaged on the way, and is not used."
        ) from error
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error}). Check its permissions and the free space."
        ) from error
    finally:
        log.setLevel(level)
    return Path(path)


class _Bar:
    """What pooch wants of a progress bar."""

    def __init__(
        self,
        name: str,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.total = 0
        self._done = 0
        self._name = name
        self._progress = progress
        self._cancelled = cancelled

    def update(self, n: int) -> None:
        self._done += n
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("The download was cancelled.")
        if self._progress is not None:
            self._progress(self._done, int(self.total), self._name)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def import_model(
    path: str | os.PathLike[str],
    name: str | None = None,
    overwrite: bool = False,
    *,
    free_name: bool = False,
) -> ModelEntry:
    """Check a model file, package or published checkpoint and take it into the registry.

    Our files are copied byte for byte, also out of a package of the BioImage Model Zoo;
    published checkpoints become one of ours, without the weights that the published network
    never uses.

    Parameters
    ----------
    path : path
    name : str, optional
        Name in the registry; the file's name if None. A file that is there already is taken
        in once more only where a name is given.
    overwrite : bool
        Replace a model of the user's of the same name.
    free_name : bool
        Without a name: one like the file's that no model has.

    Raises
    ------
    CheckpointError, SettingsError, ModelExistsError, OutputError
        Nothing is changed then.
    """
    path = Path(path).expanduser()
    wanted = check_model_name(name_of_file(path) if name is None else name)
    with _unpacked(path) as file:
        return _import(file, path, wanted, overwrite, name is not None, free_name)


def _import(
    path: Path, source: Path, name: str, overwrite: bool, given: bool, free_name: bool
) -> ModelEntry:
    """Take in a file that came out of ``source``, which may be itself."""
    model = open_model(path)
    if not given and not overwrite:
        there = found_as(path)
        if there is not None:
            raise ModelExistsError(
                f"{source.name} is there already, under the name {there.name!r}. Give another "
                "name to have it twice (on the shell: --name)."
            )
        if free_name:
            name = free_model_name(name)
    with open_checked(path) as file:
        ours = is_safetensors(file.read(9))
    if ours:
        return add_file(path, name, overwrite)
    with tempfile.TemporaryDirectory() as folder:
        parent = f"{path.name}, sha256 {model.sha256}"
        card = model.card.model_copy(update={"name": name, "parent": parent})
        converted = save_model(Path(folder) / "model.safetensors", model.net, card)
        return add_file(converted, name, overwrite)


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The model file in a package, for as long as it is looked at; else the path itself.

    Raises
    ------
    CheckpointError
        If it is a package without a model file of ours, a damaged or an unsafe one. What is
        said of the model file names the package.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile):  # whoever opens it says what is wrong
        yield path
        return
    with archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        if not holds_package(names):
            yield path
            return
        member = _model_in(names, path)
        # Under a name of our own: what the archive calls it leads nowhere.
        inner = Path(folder) / f"model{SUFFIX}"
        try:
            with archive.open(member) as source:
                write_atomically(inner, lambda out: shutil.copyfileobj(source, out, 1 << 20))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise CorruptCheckpointError(f"{path} is damaged at {member}. {AGAIN}") from error
        except (RuntimeError, NotImplementedError) as error:  # encrypted, odd compression
            raise ForeignCheckpointError(
                f"{member} in {path} cannot be unpacked ({error}). Pack it anew, without a "
                "password."
            ) from error
        try:
            yield inner
        except CheckpointError as error:
            said = str(error).replace(str(inner), f"{member} in {path}")
            raise type(error)(said) from error


def _model_in(names: list[str], path: Path) -> str:
    """Name of the one model file among those of a package."""
    for name in names:
        parts = PureWindowsPath(name)  # which knows both kinds of slashes
        if parts.anchor or ".." in parts.parts:
            raise UnsafeCheckpointError(
                f"{path} is not read: its file {name!r} would lie outside of it. Get the "
                "package anew from where it came."
            )
    found = [name for name in names if name.endswith(SUFFIX)]
    if len(found) != 1:
        held = f"{len(found)} files" if found else "no file"
        raise ForeignCheckpointError(
            f"{path} is a package with {held} *{SUFFIX}. Only packages with one model file of "
            "napari-sa2net can be read, as 'sa2net models export NAME FILE.zip' writes them: "
            "ONNX and TorchScript weights do not tell what is needed to see into a network "
            "and to teach it."
        )
    return found[0]


def found_as(path: Path) -> ModelEntry | None:
    """The model that a file is already, or was made into, whatever it is called."""
    sha256 = file_sha256(path)
    return next(
        (
            entry
            for entry in list_models(aside=True)
            if file_sha256(entry.path) == sha256
            or (entry.card.parent or "").endswith(f", sha256 {sha256}")
        ),
        None,
    )


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
