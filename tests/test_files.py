"""Files that are whole or not there, names that are no text, locks, addresses."""

from __future__ import annotations

import errno
import os
import pickle
import sys
import threading
from pathlib import Path

import pytest

from napari_sa2net import files
from napari_sa2net.errors import OutputError, SettingsError
from napari_sa2net.files import (
    TEMPORARY_PREFIX,
    as_path,
    file_name,
    is_there,
    locked,
    readable,
    readable_all,
    real,
    remote,
    sync_folder,
    take_lock,
    user_data_dir,
    write_atomically,
    write_once,
)


def test_the_folder_of_a_persons_files(tmp_path, monkeypatch):
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))
    assert user_data_dir() == tmp_path
    monkeypatch.setenv("SA2NET_HOME", "~/cells")
    assert user_data_dir() == Path.home() / "cells"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SA2NET_HOME", "here")
    assert user_data_dir() == tmp_path / "here"
    monkeypatch.setenv("SA2NET_HOME", "")
    assert "napari-sa2net" in str(user_data_dir())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://a.org/b.zarr", "https://a.org/b.zarr"),
        ("https:/a.org/b.zarr", "https://a.org/b.zarr"),  # as a path has it
        ("HTTP://a.org/B", "http://a.org/B"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("memory://x", "memory://x"),
        ("ftp://a.org/b", None),
        ("https:", None),
        ("https://", None),
        ("/home/https://a.org", None),
        ("C:/images", None),
    ],
)
def test_addresses_are_told_from_paths(text, address):
    assert remote(text) == address
    path = as_path(text)
    assert isinstance(path, files.RemotePath) == (address is not None)
    if address is not None:
        assert remote(path) == str(path) == os.fspath(path) == address
        assert str(path / "0") == f"{address}/0"
        assert real(path) == path  # nothing of this machine leads there
        assert str(pickle.loads(pickle.dumps(path))) == address


def test_a_path_leads_where_its_links_do(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert real(tmp_path / "link" / ".." / "there") == real(tmp_path / "there")


def test_names_that_are_no_text_can_be_read_and_stored():
    assert readable("plain µ") == "plain µ"
    assert readable("nuclei \udce4\udcb5.tif") == "nuclei äµ.tif"  # Windows-1252
    assert readable("\udc80") == "€"
    assert readable("\udc81") == "\x81"  # no letter of Windows-1252: Latin-1
    assert readable("a\ud83db") == "a\ufffdb"  # half a character
    assert readable("\ud83d\ud83d") == "\ufffd\ufffd"
    given = {"\udce4": ["\udce4", ("\udce4", 1)], "n": None}
    assert readable_all(given) == {"ä": ["ä", ("ä", 1)], "n": None}


def test_names_of_files_where_few_letters_can_be_had(monkeypatch):
    assert file_name("Ü µ.tif") == "Ü µ.tif"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii"))
    assert file_name("Ü µ.tif") == "_ _.tif"
    assert file_name("a.tif") == "a.tif"


def test_a_reader_sees_the_old_file_or_the_whole_new_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    assert write_atomically(path, b"one") == path
    seen = []

    def write(file):
        file.write(b"tw")
        file.flush()
        seen.append(path.read_bytes())
        seen.extend(one.name.startswith(TEMPORARY_PREFIX) for one in path.parent.iterdir())
        file.write(b"o")

    write_atomically(path, write)
    assert seen[0] == b"one"
    assert sorted(seen[1:]) == [False, True]  # it, and what is being written beside it
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_atomically(tmp_path / "a", b"one")

    def full(file):
        file.write(b"t")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"a' cannot be written .*No space.*disk is not full"):
        write_atomically(path, full)
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, lambda _: 1 / 0)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
    for wrong in (path / "in a file", tmp_path / "zero\0byte"):
        with pytest.raises(OutputError, match="cannot be written"):
            write_atomically(wrong, b"")


def test_a_folder_that_is_gone_stays_gone_where_it_is_to(tmp_path):
    with pytest.raises(OutputError):
        write_atomically(tmp_path / "gone" / "a", b"", make_folder=False)
    assert not (tmp_path / "gone").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_atomically(tmp_path / "file" / "a", b"", make_folder=False)


def test_an_interrupt_as_the_file_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path.open

    def interrupted(path: Path, *mode: str) -> None:
        made(path, *mode).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"one")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_a_file_is_as_open_to_others_as_any_new_one(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_atomically(tmp_path / "a", b"")
    finally:
        assert os.umask(before) == 0o027
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_folder_is_flushed_where_its_entry_must_last(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "sync_folder", flushed.append)
    write_atomically(tmp_path / "a", b"")
    assert not flushed
    write_atomically(tmp_path / "a", b"", durable=True)
    assert flushed == [tmp_path]


@pytest.mark.skipif(os.name == "nt", reason="there it is not done")
@pytest.mark.parametrize(
    ("number", "fails"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)]
)
def test_systems_that_cannot_flush_a_folder_are_passed_over(
    tmp_path, monkeypatch, number, fails
):
    handles = []

    def flush(handle):
        handles.append(handle)
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", flush)
    if fails:
        with pytest.raises(OSError, match="no"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(handles[0])  # it is closed


@pytest.mark.parametrize("links", [True, False])
def test_of_several_processes_the_first_decides(tmp_path, monkeypatch, links):
    if not links:

        def none(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", none)
    path = tmp_path / "decided"
    for content in (b"first", b"second"):
        write_once(path, content)
        assert path.read_bytes() == b"first"
        assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_results_is_ours_empty_or_refused(tmp_path):
    record, folder = tmp_path / "out" / "run.json", tmp_path / "out"
    assert not is_there(record, "log")  # no folder yet
    folder.mkdir()
    assert not is_there(record, "log")
    (folder / "log").touch()
    assert not is_there(record, "log")
    (folder / "other").touch()
    with pytest.raises(SettingsError, match="holds other files"):
        is_there(record, "log")
    record.touch()
    assert is_there(record, "log")
    with pytest.raises(OutputError, match="is a file"):
        is_there(folder / "other" / "run.json", "log")


def test_one_at_a_time_holds_a_lock(tmp_path):
    path = tmp_path / "lock"
    with locked(path):
        assert take_lock(path) is None
        with (
            pytest.raises(OutputError, match=r"Another window has been writing .* for 0\.1 s"),
            locked(path, timeout=0.1),
        ):
            pass
    lock = take_lock(path)
    assert lock is not None
    # who waits gets it when it is free
    threading.Timer(0.1, lock.release).start()
    with locked(path, timeout=20):
        assert take_lock(path) is None
    with pytest.raises(ZeroDivisionError), locked(path):
        1 / 0  # noqa: B018
    lock = take_lock(path)
    assert lock is not None
    lock.release()


def test_a_lock_makes_no_folder(tmp_path):
    with pytest.raises(OutputError, match="Check that the folder is there"):
        take_lock(tmp_path / "gone" / "lock")
    assert not (tmp_path / "gone").exists()
