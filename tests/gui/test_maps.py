"""Layers of the See-why page: where they lie and how they behave; a viewer without a window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_sa2net.app.session import (
    CELL,
    CHANGE,
    PREVIEW,
    STAGE,
    WHAT_IF,
    ImageSource,
    Overlay,
    Patch,
)
from napari_sa2net.engine.messages import AttentionMap
from napari_sa2net.widgets.napari_port import METADATA_KEY, NapariPort
from napari_sa2net.widgets.napari_port.maps import (
    STAGE_COLORS,
    is_overlay,
    map_colormap,
    readable_colors,
)
from napari_sa2net.widgets.napari_port.picking import bring_into_view, go_to, label_at
from napari_sa2net.widgets.napari_port.reading import camera_of
from napari_sa2net.widgets.napari_port.results import ranked

AFFINE = np.array([[1, 0.1, 0, 3], [0, 1.2, 0, 4], [0, 0.3, 0.9, 5], [0, 0, 0, 1.0]])


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def port(viewer: ViewerModel) -> Any:
    port = NapariPort(viewer)
    yield port
    port.close()


def source_of(port: NapariPort) -> ImageSource:
    source = port.source()
    assert source is not None
    return source


def a_map(
    name: str = "aua_8",
    grid: tuple[int, int] = (5, 7),
    scale: tuple[float, float] = (8.0, 8.0),
    translate: tuple[float, float] = (3.5, 3.5),
    **more: Any,
) -> AttentionMap:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, grid).astype(np.float32)
    fields: dict[str, Any] = {"low": 0.0, "high": 1.0, **more}
    return AttentionMap(name, values, 8, scale, translate, **fields)


IMAGES: dict[str, tuple[Image, str | None, tuple[int, ...]]] = {
    "plain": (Image(np.zeros((40, 56))), None, ()),
    "scaled, in µm": (
        Image(np.zeros((40, 56)), scale=(0.5, 0.25), translate=(7, -3), units=("um", "um")),
        None,
        (),
    ),
    "rotated and sheared": (
        Image(np.zeros((40, 56)), scale=(2, 3), rotate=30, shear=[0.4], translate=(5, -8)),
        None,
        (),
    ),
    "affine": (
        Image(
            np.zeros((40, 56)), rotate=-70, affine=[[0.9, 0.2, 4], [-0.1, 1.3, 9], [0, 0, 1]]
        ),
        None,
        (),
    ),
    "rgb": (
        Image(np.zeros((40, 56, 3), np.uint8), rgb=True, scale=(0.5, 0.5), rotate=10),
        None,
        (),
    ),
    "stack": (
        Image(
            np.zeros((5, 40, 56)),
            scale=(2, 0.5, 0.25),
            rotate=(10, 20, 30),
            shear=(0.1, 0.2, 0.3),
            translate=(1, 2, 3),
            affine=AFFINE,
            units=("um", "um", "um"),
        ),
        "TYX",
        (3,),
    ),
    "channels first": (
        Image(np.zeros((3, 40, 56)), scale=(1, 2, 3), translate=(0, 4, 5)),
        "CYX",
        (),
    ),
    "channels between": (
        Image(np.zeros((4, 3, 40, 56)), scale=(5, 1, 2, 2), translate=(2, 0, 4, 5)),
        "TCYX",
        (2,),
    ),
}


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("window", ["whole", "cropped"])
def test_maps_lie_where_the_network_looked(
    viewer: ViewerModel, port: NapariPort, case: str, window: str
) -> None:
    """To well below half a pixel, whatever the transforms."""
    image, axes, index = IMAGES[case]
    image = Image(**{**image.as_layer_data_tuple()[1], "data": image.data})
    viewer.add_layer(image)
    if axes:
        port.set_axes(axes)
    # a map of stride 8 of a network that saw the image 1.3 times as large
    step = (8 / 1.3, 8 / 1.3)
    corner = ((step[0] - 1) / 2, (step[1] - 1) / 2)
    if window == "cropped":
        corner = (corner[0] + 11, corner[1] + 6)
    shown = a_map(scale=step, translate=corner)
    port.show_overlay(Overlay(source_of(port), "aua_8", shown, index))
    layer = viewer.layers[-1]
    assert isinstance(layer, Image)
    assert layer.data.shape[-2:] == (5, 7)
    lead = image.ndim - layer.ndim
    assert layer.units == image.units[lead:]
    before: list[float] = list(index)
    names = (axes or "YX")[: image.ndim - 2]
    if "C" in names:
        # the middle of all channels, with each of which the map is seen
        channel = names.index("C")
        before.insert(channel, (image.data.shape[channel] - 1) / 2 if channel else 0)
    for y, x in ((0, 0), (4, 6), (2.5, 1.25)):
        there = (*before, corner[0] + step[0] * y, corner[1] + step[1] * x)
        here = (*(0,) * (layer.ndim - 2), y, x)
        world = np.array(image.data_to_world(there))[lead:]
        np.testing.assert_allclose(layer.data_to_world(here), world, atol=1e-6)


def test_a_patch_lies_in_its_box(viewer: ViewerModel, port: NapariPort) -> None:
    image = viewer.add_image(np.zeros((40, 56)), scale=(2, 2), rotate=20)
    change = np.zeros((10, 12), np.int8)
    change[2, 3], change[4, 5] = 1, -1
    port.show_overlay(Overlay(source_of(port), CHANGE, Patch(change, (5, 15, 20, 32)), ()))
    layer = viewer.layers[-1]
    np.testing.assert_allclose(layer.data_to_world((2, 3)), image.data_to_world((7, 23)))
    assert layer.data.dtype == np.int8
    lost, same, gained = layer.colormap.map(np.array([0, 0.5, 1]))
    assert same[3] == 0
    assert lost[0] > lost[2]
    assert gained[2] > gained[0]


def test_how_maps_look(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((40, 56)), name="nuclei_03")
    source = source_of(port)
    port.show_overlay(Overlay(source, "aua_4", a_map("aua_4"), ()))
    port.show_overlay(
        Overlay(source, "scale_gate_2", a_map("scale_gate_2", low=-2.5, high=2.5), ())
    )
    psi, gate = viewer.layers[-2:]
    assert psi.name == "why: detail 1/4 (nuclei_03)"
    assert gate.name == "why: scale 2 (nuclei_03)"
    assert psi.blending == gate.blending == "additive"
    assert tuple(psi.contrast_limits) == (0, 1)
    assert tuple(gate.contrast_limits) == (-2.5, 2.5)
    # 0 of a signed map adds no light; the ends are told apart
    low, zero, high = gate.colormap.map(np.array([0, 0.5, 1]))
    assert not zero[:3].any()
    assert low[0] > low[2]
    assert high[2] > high[0]
    # a map that is the same everywhere
    port.show_overlay(Overlay(source, "aua_4", a_map("aua_4", low=0.0, high=0.0), ()))
    assert psi.contrast_limits[0] < psi.contrast_limits[1]


@pytest.mark.parametrize("grey", [90, 140, 200, 255])
def test_over_an_image_that_is_not_dark_maps_lie_as_a_film(
    viewer: ViewerModel, port: NapariPort, grey: int
) -> None:
    """Light that is added to white is not seen, and washes out what is half as bright."""
    # also where napari draws its thumbnail with black bars
    viewer.add_image(np.full((20, 56, 3), grey, np.uint8), rgb=True)
    source = source_of(port)
    port.show_overlay(Overlay(source, "scale_gate_1", a_map("scale_gate_1"), ()))
    layer = viewer.layers[-1]
    assert layer.blending.startswith("translucent")
    assert 0.4 <= layer.opacity <= 0.8
    np.testing.assert_allclose(layer.colormap.map(np.array([0.5])), 1)
    assert map_colormap("aua_1", bright=True) == map_colormap("aua_1")
    # of two, neither hides the other
    alone = layer.opacity
    port.show_overlay(Overlay(source, "aua_1", a_map("aua_1"), ()))
    assert layer.opacity == viewer.layers[-1].opacity == pytest.approx(alone / 2)
    port.show_overlay(Overlay(source, "aua_1", None, ()))
    assert layer.opacity == pytest.approx(alone)


def test_maps_do_not_hide_the_outlines(viewer: ViewerModel, port: NapariPort) -> None:
    image = viewer.add_image(np.full((40, 56), 0.5), name="a", contrast_limits=(0, 1))
    cells = viewer.add_labels(np.zeros((40, 56), int), name="filled")
    source = source_of(port)
    port.show_overlay(Overlay(source, "aua_8", a_map("aua_8"), ()))
    port.show_overlay(Overlay(source, CELL, Patch(np.ones((2, 2), int), (0, 2, 0, 2)), ()))
    port.show_overlay(Overlay(source, "aua_4", a_map("aua_4"), ()))
    names = ("detail 1/8", "detail 1/4", "this cell")
    first, second, ring = (viewer.layers[f"why: {name} (a)"] for name in names)
    assert list(viewer.layers) == [image, cells, first, second, ring]
    cells.contour = 2
    port.show_overlay(Overlay(source, "aua_2", a_map("aua_2"), ()))
    third = viewer.layers["why: detail 1/2 (a)"]
    assert list(viewer.layers) == [image, third, cells, first, second, ring]


def test_the_cell_that_is_looked_at_is_outlined(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((40, 56)), name="a")
    source = source_of(port)
    ring = np.array([[2, 1, 0], [2, 1, 1]], np.uint8)
    port.show_overlay(Overlay(source, CELL, Patch(ring, (5, 7, 9, 12)), ()))
    layer = viewer.layers[-1]
    assert isinstance(layer, Labels)
    assert layer.name == "why: this cell (a)"
    assert is_overlay(layer)
    np.testing.assert_array_equal(layer.data_to_world((0, 0)), (5, 9))
    light, dark = layer.get_color(1)[:3], layer.get_color(2)[:3]
    assert light.mean() > 0.6 > 0.2 > dark.mean()
    # the next one takes its place
    port.show_overlay(Overlay(source, CELL, Patch(ring[:, 1:], (1, 3, 2, 4)), ()))
    assert viewer.layers[-1] is layer
    np.testing.assert_array_equal(layer.data_to_world((0, 0)), (1, 2))
    port.maps.set_seen(CELL, False)
    assert not layer.visible


def test_outlines_of_a_stage_have_its_color(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((40, 56)))
    source = source_of(port)
    labels = np.zeros((40, 56), np.int32)
    labels[3:9, 3:9], labels[20:30, 3:9] = 1, 2
    port.show_overlay(Overlay(source, STAGE, Patch(labels, (0, 40, 0, 56), 8), ()))
    layer = viewer.layers[-1]
    assert isinstance(layer, Labels)
    assert layer.contour > 0
    assert "1/8" in layer.name
    one = layer.get_color(1)
    np.testing.assert_array_equal(one, layer.get_color(2))
    assert tuple(np.round(255 * one[:3]).astype(int)) == _rgb(STAGE_COLORS[8])
    layer.contour = 5
    port.show_overlay(Overlay(source, STAGE, Patch(labels * 0, (0, 40, 0, 56), 4), ()))
    assert viewer.layers[-1] is layer
    assert not layer.data.any()
    assert "1/4" in layer.name
    assert layer.contour == 5  # as the person has set it
    assert tuple(np.round(255 * layer.get_color(1)[:3]).astype(int)) == _rgb(STAGE_COLORS[4])


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def test_replaced_in_place_with_nothing_stolen(viewer: ViewerModel, port: NapariPort) -> None:
    a = viewer.add_image(np.zeros((40, 56)), name="a")
    viewer.add_points([[1, 1]])
    source = source_of(port)
    camera_of(viewer).zoom = 3.3
    camera = (camera_of(viewer).zoom, camera_of(viewer).center)
    selected = set(viewer.layers.selection)
    port.show_overlay(Overlay(source, "aua_8", a_map(), ()))
    layer = viewer.layers[-1]
    layer.opacity, layer.blending = 0.4, "translucent"
    other = a_map(grid=(3, 4), scale=(4, 4), translate=(9, 9), low=0.2, high=0.7)
    port.show_overlay(Overlay(source, "aua_8", other, ()))
    assert viewer.layers[-1] is layer
    np.testing.assert_array_equal(layer.data, other.values)
    assert tuple(layer.contrast_limits) == (0.2, 0.7)
    np.testing.assert_allclose(layer.translate, (9, 9))
    assert (layer.opacity, layer.blending) == (0.4, "translucent")
    assert set(viewer.layers.selection) == selected
    assert (camera_of(viewer).zoom, camera_of(viewer).center) == camera
    port.show_overlay(Overlay(source, "aua_8", None, ()))
    assert layer not in viewer.layers
    assert set(viewer.layers.selection) == selected
    # of another image it would be another layer
    viewer.layers.selection.active = a
    viewer.add_image(np.zeros((40, 56)), name="b")
    port.show_overlay(Overlay(source, "aua_8", a_map(), ()))
    port.show_overlay(Overlay(source_of(port), "aua_8", a_map(), ()))
    assert [x.name for x in viewer.layers if "why" in x.name] == [
        "why: detail 1/8 (a)",
        "why: detail 1/8 (b)",
    ]


def test_maps_are_no_images_to_work_on(viewer: ViewerModel, port: NapariPort) -> None:
    image = viewer.add_image(np.zeros((40, 56)), name="a")
    keys: list[str] = []
    port.pixels_changed.connect(keys.append)
    port.show_overlay(Overlay(source_of(port), "aua_8", a_map(), ()))
    layer = viewer.layers[-1]
    viewer.layers.selection.active = layer
    assert port.current is image
    assert [name for _, name in port.choices()] == ["a"]
    layer.data = layer.data * 2
    assert keys == []


def test_a_deleted_map_is_told(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((40, 56)))
    source = source_of(port)
    gone: list[tuple[str, str]] = []
    port.maps.gone.connect(lambda *what: gone.append(what))
    port.show_overlay(Overlay(source, "aua_8", a_map(), ()))
    viewer.layers.remove(viewer.layers[-1])
    assert gone == [(source.key, "aua_8")]
    # one that the page takes away is not
    port.show_overlay(Overlay(source, "aua_8", a_map(), ()))
    port.show_overlay(Overlay(source, "aua_8", None, ()))
    assert len(gone) == 1
    # and nothing comes over an image that is gone
    viewer.layers.clear()
    port.show_overlay(Overlay(source, "aua_8", a_map(), ()))
    assert len(viewer.layers) == 0


def test_a_layer_of_a_closed_page_is_found_again(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((40, 56)))
    first = NapariPort(viewer)
    first.show_overlay(Overlay(source_of(first), "aua_8", a_map(), ()))
    layer = viewer.layers[-1]
    first.close()
    second = NapariPort(viewer)
    assert second.current is viewer.layers[0]
    second.show_overlay(Overlay(source_of(second), "aua_8", a_map(grid=(2, 2)), ()))
    assert len(viewer.layers) == 2
    assert layer.data.shape == (2, 2)
    assert layer.metadata[METADATA_KEY]["why"] == "aua_8"
    second.close()


@pytest.mark.parametrize("units", [None, ("um", "um")])
def test_a_click_finds_the_cell(viewer: ViewerModel, units: Any) -> None:
    data = np.zeros((40, 56), np.int32)
    data[10:14, 20:26] = 7
    labels = viewer.add_labels(data, scale=(0.5, 0.5), rotate=30, translate=(3, 9), units=units)
    assert label_at(viewer, labels, labels.data_to_world((12, 22))) == 7
    assert label_at(viewer, labels, labels.data_to_world((9, 22))) == 0
    assert label_at(viewer, labels, labels.data_to_world((-9, 22))) == 0


def test_a_jump_leaves_the_channel(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((4, 3, 40, 56)))
    port.set_axes("TCYX")
    labels = np.zeros((40, 56), np.int32)
    labels[5:9, 5:9] = 1
    port.show_overlay(Overlay(source_of(port), STAGE, Patch(labels, (0, 40, 0, 56), 8), (1,)))
    viewer.dims.set_current_step(1, 2)
    layer = viewer.layers[-1]
    assert isinstance(layer, Labels)
    assert go_to(viewer, layer, 1)
    assert viewer.dims.current_step[:2] == (1, 2)


def test_jump_to_a_cell_of_a_stack(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((5, 400, 560)), scale=(3, 0.5, 0.5))
    data = np.zeros((1, 400, 560), np.int32)
    data[0, 100:112, 200:216] = 7
    labels = viewer.add_labels(data, scale=(3, 0.5, 0.5), translate=(9, 0, 0))
    assert go_to(viewer, labels, 7)
    assert viewer.dims.current_step[0] == 3
    assert labels.selected_label == 7
    np.testing.assert_allclose(camera_of(viewer).center[1:], (52.75, 103.75))
    # a seventh of the canvas's height: the cell, and what is around it
    assert camera_of(viewer).zoom * 16 * 0.5 == pytest.approx(90)
    # it goes nowhere where there is no such cell, and does not zoom out without need
    assert not go_to(viewer, labels, 8)
    camera_of(viewer).zoom = 50
    assert go_to(viewer, labels, 7)
    assert camera_of(viewer).zoom == 50


def test_the_view_moves_only_to_show_a_cell_well(viewer: ViewerModel) -> None:
    """A canvas of 600 × 800: cells of 20 px at zoom 4.5 take a seventh of its height."""
    data = np.zeros((400, 400), np.int32)
    data[100:120, 100:120], data[120:140, 125:145] = 1, 2
    data[300:302, 300:302], data[10:380, 10:14] = 3, 4
    labels = viewer.add_labels(data)
    camera = camera_of(viewer)

    def at(label: int, typical: float | None = 20) -> tuple[float, ...]:
        where = np.argwhere(data == label)
        low, high = where.min(0).astype(float), where.max(0).astype(float)
        bring_into_view(viewer, labels, low, high, typical)
        return (camera.zoom, *camera.center[-2:])

    camera.zoom = 1
    first = at(1)
    assert first == pytest.approx((4.5, 109.5, 109.5))
    # a neighbour is well in view, and so is the first one after that
    assert at(2) == at(1) == first
    # a person came closer, or went a little back: the zoom is theirs
    camera.zoom = 12
    assert at(1)[0] == 12
    camera.zoom = 3
    assert at(1) == pytest.approx((3, 109.5, 109.5))
    # too near to the edge of the canvas to see what is around it
    camera.zoom, camera.center = 4.5, (0, 180, 109.5)
    assert at(1) == first
    # a speck is centred at the size of its neighbours, and no nearer
    assert at(3) == pytest.approx((4.5, 300.5, 300.5))
    # but for itself it is zoomed to
    assert at(3, None)[0] == pytest.approx(45)
    # a giant is seen whole
    assert at(4)[0] * 370 == pytest.approx(0.7 * 600)
    assert at(1) == first


def test_overlays_go_with_their_image_and_cells_stay(
    viewer: ViewerModel, port: NapariPort, qtbot: Any
) -> None:
    image = viewer.add_image(np.zeros((40, 56)), name="a")
    source = source_of(port)
    other = viewer.add_image(np.zeros((40, 56)), name="b")
    theirs = source_of(port)
    cells = viewer.add_labels(np.zeros((40, 56), int), name="a cells")
    labels = np.zeros((40, 56), np.int32)
    for shown in (
        Overlay(source, "aua_8", a_map(), ()),
        Overlay(source, STAGE, Patch(labels, (0, 40, 0, 56), 8), ()),
        Overlay(source, WHAT_IF, Patch(labels.astype(np.int8), (0, 40, 0, 56)), ()),
        Overlay(theirs, "aua_8", a_map(), ()),
    ):
        port.show_overlay(shown)
    gone: list[tuple[str, str]] = []
    port.maps.gone.connect(lambda *what: gone.append(what))
    kept = viewer.layers[-1]
    # together with one of its maps, as "select, delete" does
    viewer.layers.selection = {image, viewer.layers["why: detail 1/8 (a)"]}
    viewer.layers.remove_selected()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)
    assert set(viewer.layers) == {other, cells, kept}
    assert {slot for key, slot in gone if key == source.key} == {"aua_8", STAGE, WHAT_IF}
    assert {key for key, _ in gone} == {source.key}


def test_overlays_of_former_pixels_go(
    viewer: ViewerModel, port: NapariPort, qtbot: Any
) -> None:
    image = viewer.add_image(np.zeros((40, 56)), name="a")
    source = source_of(port)
    other = viewer.add_image(np.zeros((40, 56)), name="b")
    port.show_overlay(Overlay(source, "aua_8", a_map(), ()))
    port.show_overlay(Overlay(source_of(port), "aua_8", a_map(), ()))
    cells = viewer.add_labels(np.zeros((40, 56), int), name="a cells")
    theirs = viewer.layers["why: detail 1/8 (b)"]
    lines = Patch(np.zeros((40, 56), np.uint8), (0, 40, 0, 56))
    port.show_overlay(Overlay(source, PREVIEW, lines, ()))
    gone: list[str] = []
    port.maps.gone.connect(lambda _, slot: gone.append(slot))
    image.data = np.ones((40, 56))
    qtbot.waitUntil(lambda: len(viewer.layers) == 4)
    assert set(viewer.layers) == {image, other, cells, theirs}
    # the preview of what is learned stays on: its next round is of the pixels now
    assert gone == ["aua_8"]
    # and come again
    port.show_overlay(Overlay(source, "aua_8", a_map(), ()))
    assert "why: detail 1/8 (a)" in viewer.layers


def test_several_maps_share_the_light(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((40, 56)), name="a")
    source = source_of(port)
    for name in ("aua_8", "aua_4", "scale_gate_1"):
        port.show_overlay(Overlay(source, name, a_map(name), ()))
    maps = list(viewer.layers[1:])
    assert [layer.opacity for layer in maps] == pytest.approx([1 / 3] * 3)
    # all of them at their brightest are no lighter than one
    maps[0].opacity = 0.8  # a person's
    maps[2].visible = False
    assert [layer.opacity for layer in maps[:2]] == pytest.approx([0.8, 1 / 2])
    maps[2].visible = True
    assert [layer.opacity for layer in maps] == pytest.approx([0.8, 1 / 3, 1 / 3])
    viewer.layers.remove(maps[2])
    assert [layer.opacity for layer in maps[:2]] == pytest.approx([0.8, 1 / 2])
    port.show_overlay(Overlay(source, "aua_8", None, ()))
    assert maps[1].opacity == 1
    # outlines and changes are no light
    labels = np.zeros((40, 56), np.int32)
    port.show_overlay(Overlay(source, STAGE, Patch(labels, (0, 40, 0, 56), 8), ()))
    assert maps[1].opacity == viewer.layers[-1].opacity == 1


def test_specks_are_gone_to_last() -> None:
    table = pd.DataFrame(
        {
            "label": [1, 2, 3, 4, 5],
            "area_px": [100, 100, 12, 80, 90],
            "contested": [0.2, 0.5, 0.9, np.nan, 0.3],
        }
    )
    assert ranked(table, "contested") == [2, 5, 1, 3]
    assert ranked(table.drop(columns="area_px"), "contested") == [3, 2, 5, 1]


def test_outlines_are_read_over_the_picture_that_is_under_them() -> None:
    """Far from nearly all of its pixels, in lightness above all; and told from each other."""
    from skimage.color import rgb2lab

    rng = np.random.default_rng(0)
    pictures = {
        "stained tissue": np.array([[0.85, 0.55, 0.7], [0.45, 0.25, 0.55], [0.9, 0.8, 0.85]]),
        "brown stain": np.array([[0.55, 0.4, 0.3], [0.75, 0.75, 0.85], [0.6, 0.5, 0.6]]),
        "phase contrast": np.array([[0.5, 0.5, 0.5], [0.6, 0.6, 0.6], [0.4, 0.4, 0.4]]),
    }
    for kinds in pictures.values():
        pixels = (kinds[rng.integers(0, 3, 300)] + rng.normal(0, 0.03, (300, 3))).clip(0, 1)
        colors = readable_colors(pixels)
        assert 6 <= len(colors) <= 12
        lab, there = rgb2lab(colors[None, :, :3])[0], rgb2lab(pixels[None])[0]
        away = np.linalg.norm(lab[:, None] - there[None], axis=2)
        assert np.percentile(away, 10, axis=1).min() > 30
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 99 * np.eye(len(lab))
        assert apart.min() > 10
