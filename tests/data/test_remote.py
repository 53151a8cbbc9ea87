"""Images that lie on the network."""

from __future__ import annotations

import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_sa2net.cli import run
from napari_sa2net.data import io as io_module
from napari_sa2net.data import read_image, synthetic_nuclei
from napari_sa2net.data.listing import list_images
from napari_sa2net.errors import ImageFileError
from napari_sa2net.files import as_path, remote

AXES = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]


def write_image(place: str, image: np.ndarray) -> None:
    group = zarr.open_group(place, mode="w", zarr_format=2)
    group.create_array("0", data=image, chunks=(64, 64))
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": AXES, "datasets": datasets}]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return synthetic_nuclei(shape=(150, 170), n=16, diameter=18, seed=3)[0]


@pytest.fixture
def served(tmp_path, image):
    """Address of a server, and its folder with an image and a plate."""
    folder = tmp_path / "served"
    write_image(str(folder / "cells.zarr"), image)
    for well in ("A/1", "B/2"):
        write_image(str(folder / f"plate.zarr/{well}/0"), image)
        group = zarr.open_group(str(folder / f"plate.zarr/{well}"), mode="a", zarr_format=2)
        group.attrs["well"] = {"images": [{"path": "0"}]}
    plate = zarr.open_group(str(folder / "plate.zarr"), mode="a", zarr_format=2)
    wells = [{"path": "A/1"}, {"path": "B/2"}, {"path": "C/3"}]  # one that was never taken
    plate.attrs["plate"] = {"wells": wells}

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("https://a.org/b/c.zarr", "https://a.org/b/c.zarr"),
        (Path("https://a.org/b/c.zarr"), "https://a.org/b/c.zarr"),
        (as_path("S3://bucket/c.zarr") / "A", "s3://bucket/c.zarr/A"),
        (as_path("http://h:80/c.zarr/0").parent, "http://h:80/c.zarr"),
        ("/here/c.zarr", None),
        ("C:/here/c.zarr", None),
        ("https", None),
    ],
)
def test_addresses(given, address):
    assert remote(given) == address
    assert address is None or str(as_path(given)) == address


def test_over_http(served, image):
    pytest.importorskip("aiohttp")
    address, _ = served
    found = read_image(f"{address}/cells.zarr")
    np.testing.assert_array_equal(found.array[...], image)
    assert (found.axes, found.name, found.pixel_size_um) == ("YX", "cells", 0.5)
    assert not isinstance(found.array, np.ndarray)  # read window by window


def test_segmented_as_if_it_were_here(served, tiny_model, tmp_path, capsys):
    pytest.importorskip("aiohttp")
    address, folder = served
    more = ("--model", str(tiny_model), "--diameter", "18")
    assert run(["segment", f"{address}/cells.zarr", "-o", str(tmp_path / "out"), *more]) == 0
    here = str(folder / "cells.zarr")
    assert run(["segment", here, "-o", str(tmp_path / "one"), *more]) == 0
    expected = tifffile.imread(tmp_path / "one" / "cells.tif")
    assert expected.max() > 5
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "cells.tif"), expected)
    tables = [(tmp_path / name / "objects.csv").read_text() for name in ("one", "out")]
    assert tables[0] == tables[1]
    capsys.readouterr()
    assert run(["segment", f"{address}/cells.zarr", "-o", str(tmp_path / "out"), *more]) == 0
    assert "done before" in capsys.readouterr().err
    for part in ("1/2", "2/2", "join"):
        shards = ("-o", str(tmp_path / "shards"), *more, "--shard", part)
        assert run(["segment", f"{address}/cells.zarr", *shards]) == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "shards" / "cells.tif"), expected)


def test_plates(served, tiny_model, tmp_path):
    address, folder = served
    plate = folder / "plate.zarr"
    assert list_images(plate) == [plate / "A/1/0", plate / "B/2/0"]
    assert list_images(plate / "B/2") == [plate / "B/2/0"]
    assert (
        run(["segment", str(plate), "-o", str(tmp_path / "out"), "--model", str(tiny_model)])
        == 0
    )
    assert {path.stem for path in (tmp_path / "out").glob("*.tif")} == {"A_1_0", "B_2_0"}
    pytest.importorskip("aiohttp")
    far = list_images(f"{address}/plate.zarr")
    assert [str(path) for path in far] == [
        f"{address}/plate.zarr/A/1/0",
        f"{address}/plate.zarr/B/2/0",
    ]


def test_what_is_not_there(served):
    pytest.importorskip("aiohttp")
    address, _ = served
    with pytest.raises(ImageFileError, match="no OME-Zarr at http"):
        read_image(f"{address}/nothing.zarr")
    with pytest.raises(ImageFileError, match="download it first"):
        read_image(f"{address}/a.tif")
    with pytest.raises(ImageFileError, match="Check the address"):
        read_image("http://127.0.0.1:9/cells.zarr")


def test_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ImageFileError, match=r"napari-sa2net\[remote\]"):
        read_image("https://127.0.0.1:9/cells.zarr")
    with pytest.raises(ImageFileError, match=r"napari-sa2net\[s3\]"):
        read_image("s3://bucket/cells.zarr")


def test_another_file_system(image):
    pytest.importorskip("fsspec")
    write_image("memory://test_remote/cells.zarr", image)
    found = read_image("memory://test_remote/cells.zarr")
    np.testing.assert_array_equal(found.array[...], image)


def test_s3(image, monkeypatch, tmp_path):
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        there = s3fs.S3FileSystem()
        there.mkdir("bucket")
        write_image(str(tmp_path / "cells.zarr"), image)
        there.put(str(tmp_path / "cells.zarr"), "bucket/cells.zarr", recursive=True)
        found = read_image("s3://bucket/cells.zarr")
        np.testing.assert_array_equal(found.array[...], image)
        assert found.pixel_size_um == 0.5
        with pytest.raises(ImageFileError, match="no OME-Zarr at s3"):
            read_image("s3://bucket/nothing.zarr")
    finally:
        server.stop()


def test_what_a_network_sends_in_pieces_is_said(monkeypatch):
    class Broken:
        @property
        def attrs(self):
            raise RuntimeError("half of a chunk")

    monkeypatch.setattr(io_module, "open_remote", lambda _: Broken())
    with pytest.raises(ImageFileError, match=r"https://a.org/b.zarr cannot be read \(half"):
        read_image("https://a.org/b.zarr")
