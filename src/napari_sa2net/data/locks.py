"""Locks between processes, freed by the system when their holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from napari_sa2net.errors import OutputError

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
