"""Image files: pixels, axes, sizes and names as the writing program meant them."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
import zarr
from PIL import Image

from napari_sa2net.data import io as tiff
from napari_sa2net.data import list_images, plan_image, read_image
from napari_sa2net.data.axes import channel_choice
from napari_sa2net.data.io import micrometres
from napari_sa2net.data.training_set import named_channels
from napari_sa2net.errors import AxesError, ChannelError, ImageFileError


def _ramp(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def _same(path: Path, array: np.ndarray, axes: str) -> None:
    image = read_image(path)
    assert image.axes == axes
    assert image.array.dtype == array.dtype
    np.testing.assert_array_equal(image.array[...], array)
    plan_image(image.array, image.axes)


# --- TIFF ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "axes"),
    [
        ((20, 30), np.uint8, "YX"),
        ((20, 30), ">u2", "YX"),
        ((20, 30, 3), np.uint8, "YXC"),
        ((20, 30, 4), np.uint8, "YXC"),
        ((20, 30, 3), np.float32, "YXC"),
        ((7, 20, 30), np.uint16, "ZYX"),
        ((2, 7, 20, 30), np.int16, "TZYX"),
        ((7, 20, 30, 3), np.uint8, "ZYXC"),
        ((1, 1), np.float64, "YX"),
        ((1, 20, 30), np.uint8, "ZYX"),
    ],
)
def test_plain_tiff(tmp_path, shape, dtype, axes) -> None:
    array = _ramp(*shape, dtype=dtype)
    photometric = "rgb" if axes.endswith("C") else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric)
    _same(tmp_path / "a.tif", array.astype(array.dtype.newbyteorder("=")), axes)
    assert read_image(tmp_path / "a.tif").pixel_size_um is None


def test_pages_without_metadata_are_a_stack(tmp_path) -> None:
    array = _ramp(5, 20, 30)
    with tifffile.TiffWriter(tmp_path / "a.tif", shaped=False) as tif:
        for page in array:
            tif.write(page, metadata=None, contiguous=False)
    _same(tmp_path / "a.tif", array, "ZYX")


def test_imagej(tmp_path) -> None:
    array = _ramp(4, 3, 20, 30)
    meta = {"axes": "TCYX", "unit": "um", "spacing": 2.0}
    tifffile.imwrite(
        tmp_path / "a.tif", array, imagej=True, metadata=meta, resolution=(1 / 0.3, 1 / 0.3)
    )
    _same(tmp_path / "a.tif", array, "TCYX")
    image = read_image(tmp_path / "a.tif")
    assert image.pixel_size_um == pytest.approx(0.3)
    assert image.scale_um == pytest.approx({"Z": 2.0, "Y": 0.3, "X": 0.3})


def test_imagej_in_pixels_has_no_size(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", _ramp(9, 9), imagej=True, resolution=(4, 4))
    assert read_image(tmp_path / "a.tif").pixel_size_um is None


def test_ome_tiff(tmp_path) -> None:
    array = _ramp(2, 3, 20, 30)
    meta = {
        "axes": "CZYX",
        "PhysicalSizeX": 320,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.0005,
        "PhysicalSizeYUnit": "mm",
        "PhysicalSizeZ": 2,
        "Channel": {"Name": ["DAPI", "actin"]},
    }
    tifffile.imwrite(tmp_path / "plate 1.ome.tif", array, metadata=meta)
    _same(tmp_path / "plate 1.ome.tif", array, "CZYX")
    image = read_image(tmp_path / "plate 1.ome.tif")
    assert image.name == "plate 1"
    assert image.channel_names == ("DAPI", "actin")
    assert image.scale_um == pytest.approx({"Z": 2, "Y": 0.5, "X": 0.32})
    assert image.pixel_size_um == pytest.approx(0.4)  # the area of a pixel is 0.16 µm²


@pytest.mark.parametrize(("side", "told"), [("X", "width"), ("Y", "height")])
def test_of_one_side_of_a_pixel_it_is_square(tmp_path, side, told) -> None:
    path = tmp_path / "a.ome.tif"
    size = {f"PhysicalSize{side}": 320, f"PhysicalSize{side}Unit": "nm"}
    tifffile.imwrite(path, np.zeros((8, 9), "u2"), metadata={"axes": "YX", **size})
    image = read_image(path)
    assert image.pixel_size_um == image.pixel_sides_um == 0.32
    assert image.scale_um == {"X": 0.32, "Y": 0.32}
    assert image.notes[0].startswith(f"only the {told} of a pixel is recorded (0.32 µm)")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize(("number", "how"), [(1, ""), (3, "turned by 180°"), (6, "by 90°")])
def test_a_picture_that_viewers_turn_is_read_as_stored(tmp_path, suffix, number, how) -> None:
    path = tmp_path / f"a{suffix}"
    stored = np.zeros((16, 24), np.uint8)
    stored[:8, :8] = 255
    if suffix == ".tif":
        tifffile.imwrite(path, stored, extratags=[(274, "H", 1, number, True)])
    else:
        picture = Image.fromarray(stored)
        exif = picture.getexif()
        exif[274] = number
        picture.save(path, exif=exif)
    image = read_image(path)
    assert image.array.shape == (16, 24)
    assert image.array[:8, :8].min() > 250 > 5 > image.array[8:, 8:].max()
    notes = [note for note in image.notes if "as it is stored" in note]
    assert len(notes) == (number != 1)
    assert how in " ".join(notes)


def test_planar_rgb(tmp_path) -> None:
    array = _ramp(3, 20, 30, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig="separate")
    image = read_image(tmp_path / "a.tif")
    assert plan_image(image.array, image.axes).channels == (0, 1, 2)


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected"),
    [
        ("CENTIMETER", 1e4 / 0.25, 0.25),
        ("INCH", 25400 / 0.5, 0.5),
        ("INCH", 72, None),
        ("CENTIMETER", 28.3, None),
        ("NONE", 3, None),
    ],
)
def test_resolution_tags(tmp_path, unit, per_unit, expected) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", _ramp(9, 9), resolution=(per_unit,) * 2, resolutionunit=unit
    )
    size = read_image(tmp_path / "a.tif").pixel_size_um
    assert size == (None if expected is None else pytest.approx(expected, rel=1e-4))


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_large_tiff_stays_on_disk(tmp_path, monkeypatch, compression) -> None:
    monkeypatch.setattr(tiff, "LAZY_BYTES", 10_000)
    array = _ramp(5, 100, 120)
    options = {"tile": (32, 32)} if compression else {}
    tifffile.imwrite(tmp_path / "a.tif", array, compression=compression, **options)
    image = read_image(tmp_path / "a.tif")
    assert isinstance(image.array, zarr.Array if compression else np.memmap)
    plan = plan_image(image.array, image.axes)
    assert plan.is_lazy
    np.testing.assert_array_equal(plan.read_raw((2,), 30, 70, 5, 99)[0], array[2, 30:70, 5:99])
    del image, plan
    gc.collect()
    assert [one for one in psutil.Process().open_files() if one.path.endswith("a.tif")] == []


def test_pyramid_is_read_at_full_size(tmp_path, monkeypatch) -> None:
    array = _ramp(128, 256, dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        tif.write(array, subifds=1, tile=(64, 64))
        tif.write(array[::2, ::2], subfiletype=1, tile=(64, 64))
    _same(tmp_path / "a.ome.tif", array, "YX")
    monkeypatch.setattr(tiff, "LAZY_BYTES", 100)
    _same(tmp_path / "a.ome.tif", array, "YX")


def test_further_series_are_noted(tmp_path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(_ramp(20, 30))
        tif.write(_ramp(5, 6))
    image = read_image(tmp_path / "a.tif")
    assert image.array.shape == (20, 30)
    assert "1 further" in image.notes[0]


def test_a_record_without_channels_is_none_of_them(tmp_path) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=_ramp(2, 20, 30))
    for omero in (None, {"channels": None}, {}):
        group.attrs["multiscales"] = [{"axes": ["c", "y", "x"], "datasets": [{"path": "0"}]}]
        group.attrs["omero"] = omero
        image = read_image(tmp_path / "a.zarr")
        assert (image.axes, image.channel_names) == ("CYX", ())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "it is a web page"),
        (b"II", "may be damaged or incomplete"),
    ],
)
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.npy"])
def test_what_lies_in_the_place_of_an_image_is_said(tmp_path, content, words, name) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageFileError, match=words):
        read_image(tmp_path / name)


def test_white_that_is_0_is_noted(tmp_path) -> None:
    array = _ramp(20, 30, dtype=np.uint8)
    for photometric, notes in (("minisblack", 0), ("miniswhite", 1)):
        tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric)
        image = read_image(tmp_path / "a.tif")
        np.testing.assert_array_equal(image.array, array)
        assert len(image.notes) == notes
    assert "0 is white" in image.notes[0]


def test_colours_of_a_table_that_are_no_brightness_are_noted(tmp_path) -> None:
    """How bright a colour is seen: green more than red, and red more than blue."""
    array = _ramp(20, 30, dtype=np.uint8)
    ramp = np.arange(256, dtype=np.uint16) * 257
    nothing = np.zeros_like(ramp)
    drawn = np.random.default_rng(0).integers(0, 65535, (3, 256)).astype(np.uint16)

    def through(*colours: str) -> list[np.ndarray]:
        """From black through these to white."""
        stops = np.linspace(0, 255, len(colours) + 2)
        each = [[0, *(part in colour for colour in colours), 1] for part in "rgb"]
        return [65535 * np.interp(np.arange(256), stops, one) for one in each]

    tables = {
        "grey": [ramp] * 3,
        "green": [nothing, ramp, nothing],
        "inverted": [ramp[::-1]] * 3,
        "ever brighter": through("b", "r", "rb", "g", "gb", "rg"),
        "drawn": drawn,
        "red after green": through("g", "r"),
        "blue after red": through("r", "b"),
    }
    for name, table in tables.items():
        path = tmp_path / f"{name}.tif"
        colours = np.array(table, np.uint16)
        tifffile.imwrite(path, array, photometric="palette", colormap=colours)
        image = read_image(path)
        np.testing.assert_array_equal(image.array, array)
        assert ["come from a table" in note for note in image.notes] == [True] * (
            name in ("drawn", "red after green", "blue after red")
        )


def _part_of_three(
    path: Path, number: int, names: str = "ch{}.ome.tif", positions: bool = False
) -> None:
    """One of three files with a channel, or a position, each, as microscopes write them."""
    uuids = [f"urn:uuid:0000000{i}-0000-0000-0000-000000000000" for i in range(3)]
    planes = [
        f'<TiffData FirstC="{0 if positions else i}" FirstZ="0" FirstT="0" IFD="0" '
        f'PlaneCount="1"><UUID FileName="{names.format(i)}">{uuid}</UUID></TiffData>'
        for i, uuid in enumerate(uuids)
    ]
    images = "".join(
        f'<Image ID="Image:{i}"><Pixels ID="Pixels:{i}" DimensionOrder="XYCZT" Type="uint16" '
        f'SizeX="30" SizeY="20" SizeC="{1 if positions else 3}" SizeZ="1" SizeT="1">{content}'
        "</Pixels></Image>"
        for i, content in enumerate(planes if positions else ["".join(planes)])
    )
    record = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="{uuids[number]}">{images}</OME>'
    )
    tifffile.imwrite(path, _ramp(20, 30) + number, description=record, metadata=None)


def test_files_of_an_image_that_are_not_there_are_named(tmp_path) -> None:
    for i in range(3):
        _part_of_three(tmp_path / f"ch{i}.ome.tif", i)
    whole = read_image(tmp_path / "ch0.ome.tif")
    assert (whole.array.shape, whole.axes, whole.notes) == ((3, 20, 30), "CYX", ())
    assert whole.array[2].max() == 601
    (tmp_path / "ch2.ome.tif").unlink()
    (note,) = read_image(tmp_path / "ch0.ome.tif").notes
    assert "read as 0: ch2.ome.tif is not there" in note
    # alone and under another name
    (tmp_path / "ch1.ome.tif").unlink()
    (tmp_path / "ch0.ome.tif").rename(tmp_path / "mine.ome.tif")
    (note,) = read_image(tmp_path / "mine.ome.tif").notes
    assert "ch1.ome.tif and 1 more is not there" in note


def test_files_of_other_images_and_odd_names_are_not_missed(tmp_path) -> None:
    for i in range(3):
        _part_of_three(tmp_path / f"a&b{i}.ome.tif", i, "a&amp;b{}.ome.tif")
    assert read_image(tmp_path / "a&b0.ome.tif").notes == ()
    (tmp_path / "a&b1.ome.tif").unlink()
    (note,) = read_image(tmp_path / "a&b0.ome.tif").notes
    assert note.endswith("read as 0: a&b1.ome.tif is not there")
    # of several positions one alone is whole
    _part_of_three(tmp_path / "p1.ome.tif", 1, "p{}.ome.tif", positions=True)
    image = read_image(tmp_path / "p1.ome.tif")
    assert image.array.max() == 600
    assert not [note for note in image.notes if "not there" in note]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_the_largest_picture_is_read(tmp_path, monkeypatch, lazy, compression) -> None:
    if lazy:
        monkeypatch.setattr(tiff, "LAZY_BYTES", 100)
    main = _ramp(40, 60, dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(_ramp(20, 30, 3, dtype=np.uint8), photometric="rgb")  # the macro picture
        tif.write(main, compression=compression, resolution=(1e4 / 0.25,) * 2, resolutionunit=3)
        tif.write(_ramp(50, 40, dtype=np.uint8))
    _same(tmp_path / "a.tif", main, "YX")
    image = read_image(tmp_path / "a.tif")
    assert image.pixel_size_um == pytest.approx(0.25)
    assert image.notes == ("picture 2 of 3 in this file read, the largest (40 × 60)",)


def test_pages_of_other_sizes_are_not_the_picture(tmp_path) -> None:
    stack = _ramp(3, 40, 60)
    with tifffile.TiffWriter(tmp_path / "a.tif", shaped=False) as tif:
        for page in (_ramp(8, 9), *stack):
            tif.write(page, metadata=None, contiguous=False)
    _same(tmp_path / "a.tif", stack, "ZYX")


def test_of_equally_large_pictures_the_first_is_read(tmp_path) -> None:
    first = _ramp(20, 30)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for i in range(3):
            tif.write(first + i, contiguous=False)
    _same(tmp_path / "a.tif", first, "YX")
    assert read_image(tmp_path / "a.tif").notes == (
        "2 further image series in this file not read",
    )


def test_the_size_of_a_pixel_is_that_of_the_picture_read(tmp_path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        for array, size in ((_ramp(8, 9), 16.0), (_ramp(80, 90), 0.5)):
            meta = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size}
            tif.write(array, metadata=meta)
    image = read_image(tmp_path / "a.ome.tif")
    assert image.array.shape == (80, 90)
    assert image.pixel_size_um == 0.5


def test_aperio_slide(tmp_path) -> None:
    """The slide with its levels, then a thumbnail; a decimal comma in its description."""
    slide = _ramp(128, 256, 3, dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.svs") as tif:
        for array in (slide, slide[::8, ::8], slide[::2, ::2]):
            tif.write(
                array,
                tile=None if len(array) == 16 else (64, 64),
                photometric="rgb",
                description="Aperio Image Library v1\n256x128 |AppMag = 40|MPP = 0,252",
                metadata=None,
            )
    _same(tmp_path / "a.svs", slide, "YXC")
    assert read_image(tmp_path / "a.svs").pixel_size_um == 0.252


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("µm", 1), ("μm", 1), ("um", 1), ("micron", 1), ("microns", 1), ("micrometer", 1),
        ("\\u00B5m", 1), ("\\u00b5m", 1), ("Microns", 1), ("µ", 1), ("um/pixel", 1),
        ("nanometre", 1e-3), ("nm", 1e-3), ("mm", 1e3), ("meter", 1e6), ("inches", 25400),
        ("pixel", None), ("", None), (None, None), ("reference frame", None),
    ],
)  # fmt: skip
def test_units(unit, expected) -> None:
    assert micrometres(unit) == expected


@pytest.mark.parametrize(
    ("unit", "size", "expected"),
    [
        ("inch", 1 / 72, None),
        ("inches", 1 / 96, None),
        ("inch", 1 / 50800, 0.5),
        ("cm", 1 / 28.35, None),
        ("cm", 0.5e-4, 0.5),
        ("mm", 0.5e-3, 0.5),
        ("mm", 0.1, 100.0),  # plants and colonies
        ("mm", 25.4 / 72, None),
        ("nm", 250, 0.25),
        ("micron", 0.25, 0.25),
        ("\\u00B5m", 0.25, 0.25),
        ("um", 25400 / 72, None),  # a screen's, converted by some program
        ("m", 1, None),
        ("um", 1e-7, None),
        ("pixel", 1, None),
        ("", 0.3, None),
        ("furlong", 0.3, None),
    ],
)
def test_pixel_sizes_that_no_microscope_has(tmp_path, unit, size, expected) -> None:
    noted = expected is None and unit not in ("", "pixel")
    array = _ramp(9, 9)
    tifffile.imwrite(
        tmp_path / "a.tif",
        array,
        imagej=True,
        metadata={"unit": unit, "spacing": 2 * size},
        resolution=(1 / size, 1 / size),
    )
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        array,
        metadata={f"PhysicalSize{a}": size for a in "XY"}
        | {f"PhysicalSize{a}Unit": unit for a in "XY"},
    )
    axes = [{"name": a, "type": "space", "unit": unit} for a in "yx"]
    steps = [{"type": "scale", "scale": [size, size]}]
    group = zarr.open_group(str(tmp_path / "a.zarr"), zarr_format=2)
    group.create_array("0", data=array)
    group.attrs["multiscales"] = [
        {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    ]
    for name in ("a.tif", "a.ome.tif", "a.zarr"):
        if name == "a.ome.tif" and unit == "":
            continue  # nothing said is µm there
        image = read_image(tmp_path / name)
        wanted = None if expected is None else pytest.approx(expected, rel=1e-3)
        assert image.pixel_size_um == wanted, name
        assert (image.scale_um == {}) == (expected is None), name
        assert any("no pixel size" in note for note in image.notes) == noted, name


def test_a_size_of_zero_says_nothing(tmp_path) -> None:
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    steps = [{"type": "scale", "scale": [0, 0]}]
    group = zarr.open_group(str(tmp_path / "a.zarr"), zarr_format=2)
    group.create_array("0", data=_ramp(9, 9))
    group.attrs["multiscales"] = [
        {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    ]
    image = read_image(tmp_path / "a.zarr")
    assert (image.scale_um, image.notes) == ({}, ())


# --- OME-Zarr --------------------------------------------------------------------------

AXES = [
    {"name": "t", "type": "time"},
    {"name": "c", "type": "channel"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
]


def _ome_zarr(path: Path, array: np.ndarray, version: str, **changes: object) -> zarr.Group:
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("full/0", data=array, chunks=(1, 1, 16, 16))
    group.create_array("full/1", data=np.ascontiguousarray(array[..., ::2, ::2]))
    steps = [{"type": "scale", "scale": [1, 1, 0.4, 0.2]}]
    multiscale = {
        "version": version,
        "axes": AXES,
        "datasets": [{"path": f"full/{i}", "coordinateTransformations": steps} for i in (0, 1)],
        "coordinateTransformations": [{"type": "scale", "scale": [3, 1, 2, 1]}],
    } | changes
    attributes = {
        "multiscales": [{k: v for k, v in multiscale.items() if v is not None}],
        "omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]},
    }
    group.attrs.update({"ome": attributes} if version == "0.5" else attributes)
    return group


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(tmp_path, version) -> None:
    array = _ramp(3, 2, 40, 50)
    _ome_zarr(tmp_path / "well.ome.zarr", array, version)
    _same(tmp_path / "well.ome.zarr", array, "TCYX")
    image = read_image(tmp_path / "well.ome.zarr")
    assert isinstance(image.array, zarr.Array)
    assert (image.name, image.channel_names) == ("well", ("DAPI", "GFP"))
    assert image.scale_um == pytest.approx({"Y": 0.8, "X": 0.2})
    assert image.pixel_size_um == pytest.approx(0.4)
    assert read_image(tmp_path / "well.ome.zarr" / "full" / "1").array.shape[-2:] == (20, 25)


def test_ome_zarr_written_by_the_reference_library(tmp_path) -> None:
    from ome_zarr.writer import write_image

    array = _ramp(2, 64, 96)
    for version in (2, 3):
        group = zarr.open_group(str(tmp_path / f"{version}.zarr"), zarr_format=version)
        write_image(array, group, axes="cyx", scale_factors=[2])
        _same(tmp_path / f"{version}.zarr", array, "CYX")


@pytest.mark.parametrize("axes", [["t", "c", "y", "x"], None])
def test_ome_zarr_before_0_4(tmp_path, axes) -> None:
    _ome_zarr(tmp_path / "a.zarr", _ramp(3, 2, 40, 50), "0.3", axes=axes)
    image = read_image(tmp_path / "a.zarr")
    assert image.axes == ("TCYX" if axes else "CZYX")
    assert image.pixel_size_um is None


def test_ome_zarr_without_units_has_no_size(tmp_path) -> None:
    axes = [{"name": axis["name"], "type": axis["type"]} for axis in AXES]
    _ome_zarr(tmp_path / "a.zarr", _ramp(3, 2, 40, 50), "0.4", axes=axes)
    assert read_image(tmp_path / "a.zarr").pixel_size_um is None


def test_ome_zarr_in_a_unit_of_screens_has_no_size(tmp_path) -> None:
    """Though other axes have none: 0.8 cm is no pixel of a microscope, 0.8 mm may be."""
    for unit, size in (("centimeter", None), ("millimeter", 400)):
        axes = [{**axis, **({"unit": unit} if "unit" in axis else {})} for axis in AXES]
        path = tmp_path / f"{unit}.zarr"
        _ome_zarr(path, _ramp(3, 2, 40, 50), "0.4", axes=axes)
        found = read_image(path).pixel_size_um
        assert found == (size and pytest.approx(size))


def test_bioformats2raw_layout(tmp_path) -> None:
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    _ome_zarr(tmp_path / "a.zarr" / "0", _ramp(1, 2, 40, 50), "0.4")
    assert read_image(tmp_path / "a.zarr").axes == "TCYX"
    _ome_zarr(tmp_path / "a.zarr" / "1", _ramp(1, 2, 80, 100), "0.4")
    image = read_image(tmp_path / "a.zarr")
    assert image.array.shape[-2:] == (80, 100)
    assert image.notes == (
        "picture 1 of 0 to 1 in this file read, the largest (1 × 2 × 80 × 100)",
    )


def test_plain_zarr(tmp_path) -> None:
    array = _ramp(3, 20, 30)
    zarr.create_array(str(tmp_path / "a.zarr"), data=array)
    _same(tmp_path / "a.zarr", array, "ZYX")
    group = zarr.open_group(str(tmp_path / "b.zarr"), mode="w")
    group.create_array("data", data=array, dimension_names=["c", "y", "x"])
    _same(tmp_path / "b.zarr", array, "ZYX")
    _same(tmp_path / "b.zarr" / "data", array, "CYX")


def test_zarr_that_is_no_image(tmp_path) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    with pytest.raises(ImageFileError, match="no array"):
        read_image(tmp_path / "a.zarr")
    group.create_array("p", data=_ramp(2, 2))
    group.create_array("q", data=_ramp(2, 2))
    with pytest.raises(ImageFileError, match="2 arrays: p, q"):
        read_image(tmp_path / "a.zarr")
    group.attrs["ome"] = {"plate": {}}
    with pytest.raises(ImageFileError, match="plate"):
        read_image(tmp_path / "a.zarr")
    _ome_zarr(tmp_path / "b.zarr", _ramp(1, 1, 4, 4), "0.5", axes=AXES[1:])
    with pytest.raises(ImageFileError, match="3 axes, but the array has 4"):
        read_image(tmp_path / "b.zarr")
    (tmp_path / "c.zarr").mkdir()
    with pytest.raises(ImageFileError):
        read_image(tmp_path / "c.zarr")


# --- pictures and NPY ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG"])
def test_pictures(tmp_path, suffix) -> None:
    for shape, axes in [((20, 30), "YX"), ((20, 30, 3), "YXC")]:
        array = (_ramp(*shape) % 256).astype(np.uint8)
        Image.fromarray(array).save(tmp_path / f"a{suffix}")
        _same(tmp_path / f"a{suffix}", array, axes)


def test_png_of_other_kinds(tmp_path) -> None:
    deep = _ramp(20, 30)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png").array, deep)
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:4, :, 0] = 255
    Image.fromarray(colours).quantize(4).save(tmp_path / "palette.png")
    _same(tmp_path / "palette.png", colours, "YXC")
    grey_alpha = np.dstack([colours[..., 0], np.full((8, 8), 9, np.uint8)])
    Image.fromarray(grey_alpha, "LA").save(tmp_path / "la.png")
    _same(tmp_path / "la.png", colours[..., 0], "YX")
    Image.fromarray(colours[..., 0] > 0).save(tmp_path / "bits.png")
    _same(tmp_path / "bits.png", colours[..., 0] > 0, "YX")


def test_jpeg(tmp_path) -> None:
    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(tmp_path / "a.jpeg")
    _same(tmp_path / "a.jpeg", np.full((20, 30, 3), 77, np.uint8), "YXC")
    Image.new("CMYK", (30, 20)).save(tmp_path / "cmyk.jpg")
    assert read_image(tmp_path / "cmyk.jpg").array.shape == (20, 30, 3)


def test_npy(tmp_path) -> None:
    np.save(tmp_path / "a.npy", _ramp(4, 20, 30))
    _same(tmp_path / "a.npy", _ramp(4, 20, 30), "ZYX")
    assert isinstance(read_image(tmp_path / "a.npy").array, np.memmap)
    np.save(tmp_path / "empty.npy", np.zeros((0, 30)))
    assert read_image(tmp_path / "empty.npy").array.shape == (0, 30)
    np.save(tmp_path / "row.npy", np.zeros(5))
    with pytest.raises(AxesError, match="row of 5"):
        read_image(tmp_path / "row.npy")


# --- damage ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".bmp", ".npy", ".ome.tif", ".svs"])
@pytest.mark.parametrize("content", [b"", b"no image at all, just text" * 9])
def test_damaged_files(tmp_path, suffix, content) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=f"a{suffix}"):
        read_image(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_truncated_files(tmp_path, suffix, share) -> None:
    path = tmp_path / f"a{suffix}"
    array = np.random.default_rng(0).integers(0, 255, (60, 70), dtype=np.uint8)
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        tifffile.imwrite(path, array, compression="zlib", rowsperstrip=4)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageFileError):
        read_image(path)


def test_a_damaged_tiff_is_told_of_once(tmp_path, capsys, monkeypatch) -> None:
    """Python prints what libraries log where nobody has set up logging, as in our shell."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, _ramp(64, 64))
    path.write_bytes(path.read_bytes()[:200])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(ImageFileError):
        read_image(path)
    assert capsys.readouterr().err == ""


def test_objects_in_npy_are_not_unpickled(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.array([[print, 1]], object), allow_pickle=True)
    with pytest.raises(ImageFileError):
        read_image(tmp_path / "a.npy")


def test_what_is_no_image_file(tmp_path) -> None:
    with pytest.raises(ImageFileError, match="no file"):
        read_image(tmp_path / "missing.tif")
    with pytest.raises(ImageFileError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ImageFileError, match="unknown kind"):
        read_image(tmp_path / "notes.txt")


def test_real_images(shared_dir) -> None:
    found = list_images(shared_dir / "data" / "dsb2018" / "test" / "images")
    assert len(found) == 80
    kinds = {(read_image(path).axes, str(read_image(path).array.dtype)) for path in found}
    assert kinds == {("YX", "uint8"), ("YXC", "uint8")}


def test_a_copy_of_an_image_on_disk_opens_it_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "LAZY_BYTES", 100)
    values = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, tile=(16, 16), compression="zlib")
    file = read_image(path)
    assert not isinstance(file.array, np.ndarray)
    for again in (copy.deepcopy(file), pickle.loads(pickle.dumps(file))):
        assert again.axes == file.axes
        np.testing.assert_array_equal(again.array[10:20, 5:9], values[10:20, 5:9])


@pytest.mark.parametrize(
    ("unit", "more", "step"),
    [
        ("nm", {"zunit": "micron"}, 0.5),
        ("nm", {}, 0.0005),
        ("nm", {"zunit": "micron", "spacing": -0.5}, 0.5),
    ],
)
def test_imagej_may_give_depth_another_unit(tmp_path, unit, more, step) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.zeros((3, 8, 9), np.uint16),
        imagej=True,
        resolution=(0.005, 0.005),
        metadata={"axes": "ZYX", "unit": unit, "spacing": 0.5, **more},
    )
    assert read_image(tmp_path / "a.tif").scale_um == pytest.approx(
        {"Y": 0.2, "X": 0.2, "Z": step}
    )


@pytest.mark.parametrize(
    ("photometric", "words"), [("separated", "CMYK"), ("cielab", "L*a*b*"), ("rgb", "")]
)
def test_colours_that_are_not_red_green_and_blue_are_noted(
    tmp_path, photometric, words
) -> None:
    n = 4 if photometric == "separated" else 3
    pixels = np.zeros((20, 24, n), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric)
    notes = read_image(tmp_path / "a.tif").notes
    assert [words in note for note in notes] == ([True] if words else [])


def test_channels_are_called_as_the_file_does(tmp_path) -> None:
    def chosen(names: list[str], text: str, axes: str = "CYX", **more: str) -> tuple[int, ...]:
        shape = {"C": 2, "Y": 20, "X": 24, "S": 3}
        path = tmp_path / "a.ome.tif"
        pixels = np.zeros([shape[a] for a in axes], np.uint8)
        tifffile.imwrite(
            path, pixels, metadata={"axes": axes, "Channel": {"Name": names}}, **more
        )
        choice = channel_choice(text)
        assert choice is not None
        return named_channels(read_image(path), None, choice)

    assert chosen(["GFP", "DAPI, 405"], "dapi,405, GFP") == (1, 0)
    assert chosen(["DAPI", ""], "DAPI, 1") == (0, 1)
    # two pictures of three colours each: the names are of the pictures
    assert chosen(["HE", "IHC"], "green", "CYXS", photometric="rgb") == (1,)
    with pytest.raises(ChannelError, match="called 'IHC': its channels are red, green, blue"):
        chosen(["HE", "IHC"], "IHC", "CYXS", photometric="rgb")
    # one name of all three colours is not that of red
    with pytest.raises(ChannelError, match="its channels are red, green, blue"):
        chosen(["HE"], "HE", "YXS", photometric="rgb")


def test_ome_zarr_that_lacks_its_full_resolution_says_so(tmp_path) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("1", data=np.zeros((8, 9), np.uint8))
    axes = [{"name": name, "type": "space"} for name in "yx"]
    one = {"version": "0.4", "axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}
    group.attrs["multiscales"] = [one]
    with pytest.raises(ImageFileError, match="lacks its full resolution, the array 0"):
        read_image(tmp_path / "a.zarr")
    group.attrs["multiscales"] = [{**one, "datasets": []}]
    with pytest.raises(ImageFileError, match="its metadata name no array"):
        read_image(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("scale", "kept", "note"),
    [
        ({}, {}, ""),
        ({"Y": 0.5, "X": 0.25}, {"Y": 0.5, "X": 0.25}, ""),
        ({"Z": 2.0, "Y": 0.5, "X": 0.5}, {"Z": 2.0, "Y": 0.5, "X": 0.5}, ""),
        ({"Z": 0.0, "Y": 0.5, "X": 0.5}, {"Y": 0.5, "X": 0.5}, ""),
        ({"X": 0.5}, {"Y": 0.5, "X": 0.5}, "only the width of a pixel is recorded (0.5 µm)"),
        ({"Y": 0.2}, {"Y": 0.2, "X": 0.2}, "only the height of a pixel is recorded (0.2 µm)"),
        ({"Y": 0.5, "X": 25400 / 72}, {}, "the recorded 353 µm is no microscope's"),
        ({"Y": 25400 / 96 * 1.001, "X": 0.5}, {}, "the recorded 265 µm is no microscope's"),
        ({"Y": 1e-6, "X": 0.5}, {}, "the recorded 1e-06 µm is no microscope's"),
        ({"Y": 0.5, "X": 1.1e4}, {}, "the recorded 1.1e+04 µm is no microscope's"),
    ],
)
def test_sizes_of_pixels_as_far_as_they_may_be_true(scale, kept, note):
    found, notes = tiff.plausible_scale(scale)
    assert found == kept
    assert len(notes) == bool(note)
    assert note in " ".join(notes)


@pytest.mark.parametrize(
    ("size", "may_be", "of_dots"),
    [
        (1e-5, True, True),
        (0.9e-5, False, False),
        (1e4, True, False),
        (1.01e4, False, False),
        (50, True, True),
        (50.1, True, False),
        (25400 / 300, False, False),
        (25400 / 300 * 1.0019, False, False),
        (25400 / 300 * 1.0021, True, False),
        (25400 / 150, False, False),
        (25400 / 600, True, True),
    ],
)
def test_what_a_microscope_may_have_recorded(size, may_be, of_dots):
    """Sizes of the dots of printers and screens are none of pixels."""
    assert tiff.is_plausible(size) == may_be
    assert tiff.is_plausible(size, dots=True) == of_dots


def test_of_a_group_without_a_word_its_only_array_is_the_image(tmp_path):
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    root.create_group("notes")
    with pytest.raises(ImageFileError, match=r"holds no OME-Zarr image but no array; name"):
        read_image(tmp_path / "a.zarr")
    root.create_array("x", data=np.zeros((6, 7), np.uint8))
    assert read_image(tmp_path / "a.zarr").array.shape == (6, 7)
    root.create_array("b", data=np.zeros((8, 9), np.uint8))
    with pytest.raises(ImageFileError, match=r"but 2 arrays: b, x; name the array"):
        read_image(tmp_path / "a.zarr")
