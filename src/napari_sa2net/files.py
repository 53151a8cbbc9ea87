"""Files of which a reader sees the old one or the whole new one, and locks on folders."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import filelock
import platformdirs

from napari_sa2net.errors import OutputError, SettingsError

#: Environment variable with the folder that holds all of the user's files of this program.
HOME_VARIABLE = "SA2NET_HOME"
#: Unfinished files start with this; a folder's readers skip them.
TEMPORARY_PREFIX = ".part-"
_UNDECODED = re.compile("[\ud800-\udfff]+")


def user_data_dir() -> Path:
    """Folder of the user's files of this program; it may not exist yet."""
    home = os.environ.get(HOME_VARIABLE)
    root = home or platformdirs.user_data_dir("napari-sa2net", appauthor=False)
    return Path(root).expanduser().absolute()


#: A place on the network; one slash is what a path leaves of two.
_REMOTE = re.compile(r"(https?|s3|gs|gcs|abfs|memory):/{1,2}(?=[^/])", re.IGNORECASE)


def remote(path: str | os.PathLike[str]) -> str | None:
    """The address of what lies on the network; None of a path on this machine."""
    text = path.as_posix() if isinstance(path, Path) else os.fspath(path)
    found = _REMOTE.match(text)
    return f"{found[1].lower()}://{text[found.end() :]}" if found else None


class RemotePath(type(Path())):  # type: ignore[misc]
    """An address with the names and parts of a path."""

    def __str__(self) -> str:
        return remote(self.as_posix()) or super().__str__()

    def as_posix(self) -> str:
        """With slashes; of two after the protocol one is left."""
        return "/".join(self.parts)

    def __fspath__(self) -> str:
        return str(self)


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path, or the address of something on the network as one."""
    return Path(path) if remote(path) is None else RemotePath(path)


def real(path: str | os.PathLike[str]) -> Path:
    """Where a path leads, as far as that can be told; links in a circle lead to themselves."""
    return Path(os.path.realpath(path)) if remote(path) is None else as_path(path)


def readable(text: str) -> str:
    """Text in which names of files that are no UTF-8 are read as Windows-1252 (or Latin-1).

    What Python makes of such a name can be neither printed nor stored.
    """
    return _UNDECODED.sub(_decoded, text)


def file_name(text: str) -> str:
    """`readable`, in the letters that names of files can have here.

    They are all, but where the system's language is set to an encoding of few.
    """
    text, encoding = readable(text), sys.getfilesystemencoding()
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        text = text.encode(encoding, "replace").decode(encoding).replace("?", "_")
    return text


def readable_all(value: Any) -> Any:
    """`readable`, of every text in lists and dictionaries."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, dict):
        return {readable_all(key): readable_all(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(readable_all, value))
    return value


def _decoded(found: re.Match[str]) -> str:
    try:
        raw = found[0].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as Windows allows in names
        return "\ufffd" * len(found[0])
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def write_atomically(
    path: str | os.PathLike[str],
    content: bytes | Callable[[BinaryIO], None],
    durable: bool = False,
    make_folder: bool = True,
) -> Path:
    """Write a file beside its place, flush it to disk, and rename it over.

    Parameters
    ----------
    path : path
        An existing file is replaced.
    content : bytes, or a callable that writes to the open file
    durable : bool
        Flush the folder too, so that a power cut cannot undo the rename.
    make_folder : bool
        Make its folder if need be. False where a folder that is gone must stay gone.

    Returns
    -------
    The path.

    Raises
    ------
    OutputError
        If the file cannot be written; an existing one is then as it was. (Where only the
        folder could not be flushed, the new file is in place.)
    """
    path = Path(path).expanduser()
    try:
        if "\0" in path.name:
            raise ValueError("zero byte in the name")
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from error
    # named before it is there, so that an interrupt at any moment leaves none behind
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # it is in its place, or never was
            temporary.unlink()
    return path


def write_once(path: Path, content: bytes) -> None:
    """Write a file whole, unless there is one: of several processes the first decides.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    own = path.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}")
    write_atomically(own, content)
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush a folder's entries to disk, so that renames in it outlive a power cut.

    Raises
    ------
    OSError
        If the disk fails. Systems that cannot flush a folder are passed over.
    """
    if os.name == "nt":  # folders cannot be opened; NTFS journals its renames
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(handle)


def cannot_write(path: Path, error: Exception) -> OutputError:
    """What to raise where a file or folder cannot be written."""
    return OutputError(
        f"{str(path)!r} cannot be written ({error}). "
        "Check that the folder may be written to and that the disk is not full."
    )


def taken(path: Path) -> OutputError:
    """What to raise where a file is there that nobody allowed to replace."""
    return OutputError(
        f"{path} exists already. Give another path, or allow to overwrite: --overwrite in the "
        "shell, overwrite=True in Python."
    )


def is_there(path: Path, besides: str) -> bool:
    """Whether a folder of results has the file that tells what they are.

    Raises
    ------
    OutputError
        The folder is a file.
    SettingsError
        It holds other files (but for one of the name ``besides``), and not this one.
    """
    folder = path.parent
    if path.is_file() or not folder.exists():
        return path.is_file()
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file. Give a folder for the results.")
    if any(one.name != besides for one in folder.iterdir()):
        raise SettingsError(f"{folder} holds other files. Choose an empty or a new folder.")
    return False


# --------------------------------------------------------------------------------------------
# Locks between processes, freed by the system when their holder dies.

#: Seconds to wait for another window that changes the same folder.
LOCK_TIMEOUT = 30.0


@contextmanager
def locked(path: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Hold a lock file while the block runs; its folder must be there.

    Raises
    ------
    OutputError
        If another process holds it all the time, or it cannot be made (read-only folder).
    """
    lock = take_lock(path, timeout)
    if lock is None:
        raise OutputError(
            f"Another window has been writing to {path.parent} for {timeout:g} s. Try again "
            "when it is done."
        )
    try:
        yield
    finally:
        lock.release()


def take_lock(path: Path, timeout: float = 0) -> filelock.BaseFileLock | None:
    """A lock held until it is released or the process ends; None while another holds it.

    Raises
    ------
    OutputError
        If the lock file cannot be made.
    """
    # Not singletons: two sets or journals of one process must exclude each other too.
    lock = filelock.FileLock(path, thread_local=False)
    try:
        if not path.parent.is_dir():
            # Older versions of filelock would make the folder anew.
            raise FileNotFoundError(f"no folder {path.parent}")
        lock.acquire(timeout=timeout, poll_interval=0.02)
    except filelock.Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"{path.parent} cannot be written ({error}). Check that the folder is there and "
            "may be written to."
        ) from error
    return lock
