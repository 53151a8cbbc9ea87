"""Files of microscopes and slide scanners, by the libraries that know them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tifffile

from napari_sa2net.data import read_image
from napari_sa2net.data.listing import list_images
from napari_sa2net.errors import ImageFileError


def stack() -> np.ndarray:
    """Two channels of three planes."""
    plane = np.random.default_rng(0).integers(0, 900, (80, 90)).astype(np.uint16)
    return np.stack([np.stack([plane + 1000 * c + z for z in range(3)]) for c in range(2)])


@pytest.fixture
def czi(tmp_path):
    pytest.importorskip("bioio_czi")
    from pylibCZIrw import czi as pyczi

    path = tmp_path / "cells.czi"
    with pyczi.create_czi(str(path)) as file:
        for c, planes in enumerate(stack()):
            for z, plane in enumerate(planes):
                file.write(data=plane[..., None], plane={"C": c, "Z": z, "T": 0})
        file.write_metadata(
            "cells",
            channel_names={0: "DAPI", 1: "GFP"},
            scale_x=0.5e-6,
            scale_y=0.5e-6,
            scale_z=2e-6,
        )
    return path


def test_czi(czi):
    image = read_image(czi)
    np.testing.assert_array_equal(image.array, stack())
    assert image.axes == "CZYX"
    assert image.channel_names == ("DAPI", "GFP")
    assert image.scale_um == {"Z": 2.0, "Y": 0.5, "X": 0.5}
    assert (image.name, image.pixel_size_um) == ("cells", 0.5)
    assert list_images(czi.parent) == [czi]


def test_large_ones_stay_on_disk(czi, monkeypatch):
    monkeypatch.setattr("napari_sa2net.data.io.LAZY_BYTES", 10)
    image = read_image(czi)
    assert not isinstance(image.array, np.ndarray)
    np.testing.assert_array_equal(np.asarray(image.array[1, 2, 10:20]), stack()[1, 2, 10:20])


@pytest.mark.parametrize("kind", ["nd2", "czi", "lif"])
def test_what_is_missing_for_them(kind, tmp_path, monkeypatch):
    path = tmp_path / f"cells.{kind}"
    path.write_bytes(b"something")
    monkeypatch.setitem(sys.modules, "bioio", None)
    with pytest.raises(ImageFileError, match=rf"bioio-{kind}.*napari-sa2net\[bioio\]"):
        read_image(path)


@pytest.mark.parametrize("kind", ["nd2", "czi", "lif"])
def test_damaged(kind, tmp_path):
    pytest.importorskip(f"bioio_{kind}")
    path = tmp_path / f"cells.{kind}"
    path.write_bytes(b"something")
    with pytest.raises(ImageFileError, match="may be damaged"):
        read_image(path)


@pytest.fixture
def svs(tmp_path):
    """A slide with its size where Aperio puts it, or nowhere."""

    def make(description: str):
        path = tmp_path / "slide.svs"
        image = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
        options = {"photometric": "rgb", "tile": (256, 256), "metadata": None}
        tifffile.imwrite(path, image, description=description, **options)
        return path, image

    return make


def test_slides(svs):
    path, image = svs("Aperio Image Library v1\r\n400x300 |AppMag = 20|MPP = 0.5")
    found = read_image(path)
    np.testing.assert_array_equal(found.array, image)
    assert (found.axes, found.pixel_size_um) == ("YXC", 0.5)


def test_size_that_tiffslide_finds(svs, monkeypatch):
    tiffslide = pytest.importorskip("tiffslide")
    path, _ = svs("a slide")
    assert read_image(path).pixel_size_um is None
    assert read_image(path).notes == ()
    known = {"tiffslide.mpp-x": 0.25, "tiffslide.mpp-y": 0.25}
    monkeypatch.setattr(tiffslide.TiffSlide, "properties", known)
    assert read_image(path).pixel_size_um == 0.25


def test_slides_without_tiffslide(svs, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiffslide", None)
    path, _ = svs("a slide")
    (note,) = read_image(path).notes
    assert "napari-sa2net[slides]" in note
