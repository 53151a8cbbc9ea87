from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from napari_sa2net.data import read_image
from napari_sa2net.data.write import write_map, write_maps_zarr
from napari_sa2net.errors import OutputError


def a_map(name="aua_8", stride=8.0, shape=(5, 7)) -> SimpleNamespace:
    values = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape) / 35
    at = (stride - 1) / 2
    return SimpleNamespace(
        name=name, values=values, scale=(stride, stride), translate=(at + 10, at)
    )


def test_ome_tiff_knows_its_own_pixels_and_place(tmp_path):
    one = a_map()
    path = write_map(tmp_path / "new" / "aua_8.ome.tif", one, 0.25, {"model": "µ"})
    again = read_image(path)
    assert np.array_equal(again.array, one.values)
    assert again.axes == "YX"
    assert again.pixel_size_um == 2.0
    with tifffile.TiffFile(path) as file:
        text = file.ome_metadata
    assert 'PositionY="3.375"' in text
    assert 'PositionX="0.875"' in text
    assert 'Name="aua_8"' in text
    assert "model" in text


def test_without_a_pixel_size_lengths_are_pixels(tmp_path):
    path = write_map(tmp_path / "m.ome.tif", a_map())
    assert read_image(path).pixel_size_um is None
    with tifffile.TiffFile(path) as file:
        text = file.ome_metadata
    assert 'PhysicalSizeXUnit="pixel"' in text
    assert 'PhysicalSizeX="8.0"' in text
    folder = write_maps_zarr(tmp_path / "m.ome.zarr", {"aua_8": a_map()})
    assert read_image(folder / "aua_8").pixel_size_um is None


def test_pixels_that_are_not_square(tmp_path):
    path = write_map(tmp_path / "m.ome.tif", a_map(), (0.5, 0.25))
    assert read_image(path).pixel_sides_um == (4.0, 2.0)
    with tifffile.TiffFile(path) as file:
        assert 'PositionY="6.75"' in file.ome_metadata
    folder = write_maps_zarr(tmp_path / "m.ome.zarr", {"aua_8": a_map()}, (0.5, 0.25))
    assert read_image(folder / "aua_8").pixel_sides_um == (4.0, 2.0)


def test_ome_zarr_is_read_by_others(tmp_path):
    maps = {"aua_8": a_map(), "scale_gate_1": a_map("scale_gate_1", 4.0, (10, 14))}
    folder = write_maps_zarr(tmp_path / "maps.ome.zarr", maps, 0.5, {"model": "x"})
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    for name, one in maps.items():
        (node,) = Reader(parse_url(str(folder / name)))()
        assert np.array_equal(np.asarray(node.data[0]), one.values)
        (steps,) = node.metadata["coordinateTransformations"]
        by_type = {step["type"]: step[step["type"]] for step in steps}
        assert by_type["scale"] == [one.scale[0] / 2] * 2
        assert by_type["translation"] == [at / 2 for at in one.translate]
        assert read_image(folder / name).pixel_size_um == one.scale[0] / 2


def test_a_zarr_is_replaced_as_a_whole_and_nothing_is_left(tmp_path):
    folder = tmp_path / "maps.ome.zarr"
    write_maps_zarr(folder, {"aua_8": a_map(), "aua_4": a_map("aua_4")})
    write_maps_zarr(folder, {"aua_8": a_map()})
    assert not (folder / "aua_4").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["maps.ome.zarr"]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_map(tmp_path / "file" / "m.ome.tif", a_map())
    with pytest.raises(OutputError):
        write_maps_zarr(tmp_path / "file" / "m.ome.zarr", {"aua_8": a_map()})
