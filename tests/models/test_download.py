"""Downloads from a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from napari_sa2net import errors
from napari_sa2net.config import NetworkConfig
from napari_sa2net.models import ModelCard, download_model, list_models, save_model
from napari_sa2net.models.imports import download, downloads_dir
from napari_sa2net.nn import SA2Net

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file.bin": CONTENT}
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = self.path.split("?")[0].removeprefix("/cut")
        if path not in self.server.files:
            self.send_error(404)
            return
        data = self.server.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        # "/cut/…" breaks the connection half-way.
        self.wfile.write(data[: len(data) // 2] if self.path.startswith("/cut") else data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def files_left() -> list[Path]:
    return [path for path in downloads_dir().rglob("*") if path.is_file()]


def test_download_once(server: Server) -> None:
    calls: list[tuple[int, int, str]] = []
    path = download(server.url("/file.bin"), SHA256, progress=lambda *c: calls.append(c))
    assert path.read_bytes() == CONTENT
    assert path.name == "file.bin"
    assert calls[-1][0] == calls[-1][1] == len(CONTENT)
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    assert download(server.url("/file.bin"), SHA256.upper()) == path
    assert len(server.requests) == 1


def test_changed_local_copy_is_fetched_again(server: Server) -> None:
    path = download(server.url("/file.bin"), SHA256)
    path.write_bytes(b"damaged")
    assert download(server.url("/file.bin"), SHA256).read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("sha256", ["", "0" * 63, "g" * 64, "md5:" + "0" * 32])
def test_sha256_is_mandatory(server: Server, sha256: str) -> None:
    with pytest.raises(errors.SettingsError, match="sha256"):
        download(server.url("/file.bin"), sha256)
    assert server.requests == []


def test_other_content_is_refused(server: Server) -> None:
    with pytest.raises(errors.DownloadError, match="changed or damaged"):
        download(server.url("/file.bin"), "0" * 64)
    assert files_left() == []


def test_broken_connection(server: Server) -> None:
    with pytest.raises(errors.DownloadError):
        download(server.url("/cut/file.bin"), SHA256)
    assert files_left() == []


def test_missing_file_and_missing_server(server: Server) -> None:
    with pytest.raises(errors.DownloadError, match="404"):
        download(server.url("/missing.bin"), SHA256)
    url = server.url("/file.bin")
    server.shutdown()
    server.server_close()
    with pytest.raises(errors.DownloadError, match="internet"):
        download(url, SHA256)
    assert files_left() == []


@pytest.mark.parametrize(
    "url", ["", "file.bin", "file:///etc/passwd", "ftp://x/y", "doi:10.5281/z", "http://"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(errors.SettingsError, match="web address"):
        download(url, SHA256)


def test_cancel(server: Server) -> None:
    done: list[int] = []
    with pytest.raises(errors.Cancelled):
        download(
            server.url("/file.bin"),
            SHA256,
            progress=lambda n, total, what: done.append(n),
            cancelled=lambda: len(done) >= 3,
        )
    assert len(done) == 3
    assert files_left() == []


def test_odd_file_names_stay_inside_the_folder(server: Server) -> None:
    server.files["/a/..%2F..%2Fx"] = CONTENT
    path = download(server.url("/a/..%2F..%2Fx"), SHA256)
    assert downloads_dir() in path.resolve().parents
    server.files["/"] = CONTENT
    assert downloads_dir() in download(server.url("/?id=3"), SHA256).parents


def test_downloaded_model_is_registered(server: Server, tmp_path: Path) -> None:
    card = ModelCard(
        name="cells",
        network=NetworkConfig(in_channels=1, n_classes=1, base_channels=1),
        classes=("foreground",),
    )
    torch.manual_seed(0)
    data = save_model(tmp_path / "m", SA2Net(1, 1, 1), card).read_bytes()
    server.files["/models/cells.safetensors"] = data
    sha256 = hashlib.sha256(data).hexdigest()
    entry = download_model(server.url("/models/cells.safetensors"), sha256)
    assert entry.name == "cells"
    assert entry.path.read_bytes() == data
    assert entry.name in [e.name for e in list_models()]
    assert files_left() == []
    with pytest.raises(errors.ForeignCheckpointError):
        download_model(server.url("/file.bin"), SHA256, name="other")
    assert files_left() == []
