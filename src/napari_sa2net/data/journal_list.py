"""Which journals there are, whose they are, and which can be restored."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from napari_sa2net.data.journal_files import (
    COMMITTED,
    STEP,
    Frame,
    LogScan,
    read_snapshot_header,
    scan_log,
)
from napari_sa2net.data.locks import locked, take_lock
from napari_sa2net.errors import JournalError, JournalInUseError, OutputError
from napari_sa2net.files import user_data_dir, write_atomically

SCHEMA_VERSION = 1
ABOUT = "about.json"
#: Held while journals appear and go, and while their locks are tried.
LOCK = ".lock"


@dataclass(frozen=True)
class JournalImage:
    """The image whose labels are edited, as far as it takes to find it again.

    Attributes
    ----------
    name : str
    path : str
        Its file, where there is one.
    fingerprint : str
        See `image_fingerprint`.
    shape : tuple of int
        Of the labels.
    more : dict of plain values
        What the editor needs (training set, model).
    """

    name: str
    path: str = ""
    fingerprint: str = ""
    shape: tuple[int, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JournalInfo:
    """A journal as it is listed.

    Attributes
    ----------
    id : str
    image : JournalImage
    changed : datetime
        Of the last step, UTC.
    n_edits : int
        Steps that are in no commit.
    n_bytes : int
    in_use : bool
        A window is writing it.
    problem : str
        Why it cannot be restored; empty if it can.
    """

    id: str
    image: JournalImage
    changed: datetime
    n_edits: int
    n_bytes: int
    in_use: bool = False
    problem: str = ""


def journals_dir() -> Path:
    """Folder of all journals of this user; it may not exist yet."""
    return user_data_dir() / "journals"


def list_journals(folder: Path | None = None, in_use: bool = False) -> list[JournalInfo]:
    """Journals with edits that were never kept, the latest first.

    Those without any, and what is left of half-made or half-deleted ones, are cleared away.

    Parameters
    ----------
    folder : Path, optional
        Unsaid: `journals_dir`.
    in_use : bool
        Also list those of living windows (this one's too).

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    folder = folder or journals_dir()
    if not folder.is_dir():
        return []
    found = []
    with locked(folder / LOCK):
        for path in sorted(p for p in folder.iterdir() if p.is_dir()):
            lock = take_lock(_lock_path(path))
            try:
                info = _describe(path, lock is None)
                if lock is not None and (info is None or not (info.n_edits or info.problem)):
                    _delete(path)
                elif info is not None and (in_use or lock is not None):
                    found.append(info)
            finally:
                if lock is not None:
                    lock.release()
        for path in folder.glob("*.lock"):
            if path.name != LOCK and not path.with_suffix("").is_dir():
                path.unlink(missing_ok=True)
    return sorted(found, key=lambda info: info.changed, reverse=True)


def discard_journal(identity: str, folder: Path | None = None) -> None:
    """Delete a journal that no window is writing.

    Raises
    ------
    JournalError, JournalInUseError
        If there is none; if a window is writing it.
    """
    folder = folder or journals_dir()
    lock = _claim(folder, identity)
    try:
        delete_journal(folder / identity, lock)
    finally:
        lock.release()


# --- for Journal ---------------------------------------------------------------------------


def new_journal(folder: Path) -> tuple[str, BaseFileLock]:
    """Make the folder of a journal; returns its id and its lock, held."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            while True:
                identity = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
                lock = take_lock(_lock_path(folder / identity))
                if lock is not None:
                    (folder / identity).mkdir()
                    return identity, lock
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error}), so edits cannot be journalled. Check its "
            "permissions, or set SA2NET_HOME to another folder."
        ) from error


def claim_journal(folder: Path, identity: str) -> tuple[JournalImage, BaseFileLock]:
    """Image and lock, held, of a journal that nobody is writing."""
    lock = _claim(folder, identity)
    try:
        return _image(_read_about(folder / identity)), lock
    except BaseException:
        lock.release()
        raise


def write_about(path: Path, image: JournalImage) -> None:
    """Say whose journal this is; without this file it does not count."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "image": asdict(image),
        "pid": os.getpid(),
    }
    text = json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
    write_atomically(path / ABOUT, text, durable=True, make_folder=False)


def delete_journal(path: Path, lock: BaseFileLock) -> None:
    """Delete a journal whose lock is held; the lock is released."""
    if not path.parent.is_dir():
        lock.release()
        return
    with locked(path.parent / LOCK):
        _delete(path)
        lock.release()
        _lock_path(path).unlink(missing_ok=True)


def find_base(path: Path) -> tuple[Path, Frame]:
    """The latest snapshot of a journal, and its first record.

    Raises
    ------
    JournalError
        If none can be read.
    """
    problem = JournalError(f"The journal {path} is gone, or nothing was written to it yet.")
    for base in sorted(path.glob("base-*.snap"), reverse=True):
        try:
            return base, read_snapshot_header(base)
        except JournalError as error:
            problem = error
    raise problem


def log_of(base: Path) -> Path:
    """The log of the steps after a snapshot."""
    return base.with_name(base.name.replace("base-", "steps-")).with_suffix(".log")


def progress(top: Frame, scan: LogScan) -> tuple[int, int]:
    """Number of the last step, and of the last one that is in a commit."""
    number = top.number + sum(frame.kind == STEP for frame in scan.frames)
    marks = [frame.header["upto"] for frame in scan.frames if frame.kind == COMMITTED]
    return number, max([top.header["committed"], *marks])


def _claim(folder: Path, identity: str) -> BaseFileLock:
    path = folder / identity
    if not folder.is_dir():
        raise _unknown(path)
    with locked(folder / LOCK):
        if not (path / ABOUT).is_file() or path.parent != folder:
            raise _unknown(path)
        lock = take_lock(_lock_path(path))
    if lock is None:
        pid = _read_about(path).get("pid")
        raise JournalInUseError(
            f"Another window (process {pid}) is writing these edits. Go on there, or close it "
            "first."
        )
    return lock


def _describe(path: Path, in_use: bool) -> JournalInfo | None:
    """None for what is no journal (yet, or any more)."""
    if not (path / ABOUT).is_file():
        return None
    changed = max((p.stat().st_mtime for p in path.iterdir()), default=0.0)
    when = datetime.fromtimestamp(changed, UTC)
    size = sum(p.stat().st_size for p in path.iterdir())
    image = JournalImage("?")
    try:
        image = _image(_read_about(path))
        base, top = find_base(path)
        number, committed = progress(top, scan_log(log_of(base), top.number + 1))
    except JournalError as error:
        return JournalInfo(path.name, image, when, 0, size, in_use, str(error))
    return JournalInfo(path.name, image, when, number - committed, size, in_use)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / ABOUT).read_bytes())
        version = content["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{path / ABOUT} cannot be read ({error}).") from error
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"The journal {path} was written by a newer version of this program. Update: "
            "pip install -U napari-sa2net"
        )
    return dict(content)


def _image(about: dict[str, Any]) -> JournalImage:
    one = about["image"]
    return JournalImage(
        one["name"], one["path"], one["fingerprint"], tuple(one["shape"]), one["more"]
    )


def _unknown(path: Path) -> JournalError:
    return JournalError(f"There is no journal {path.name!r} in {path.parent}.")


def _lock_path(path: Path) -> Path:
    # Beside the folder, so that the folder can be deleted while the lock is held.
    return path.with_name(f"{path.name}.lock")


def _delete(path: Path) -> None:
    # First what makes it a journal, so that a crash leaves rubbish rather than half of one.
    (path / ABOUT).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
