"""What is read from image layers and where results are put; a viewer without a window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from tests.app.conftest import Client

from napari_sa2net.app.edit_session import RestoredCells
from napari_sa2net.app.link import EngineLink
from napari_sa2net.app.measurements import Measurements
from napari_sa2net.app.segment import ResultState
from napari_sa2net.app.session import (
    ImageSource,
    SegmentRequest,
    Session,
    image_line,
    segment_request,
)
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine.messages import SegmentResult, Summary, Window
from napari_sa2net.widgets.napari_port import METADATA_KEY, NapariPort
from napari_sa2net.widgets.napari_port.cells import CellLayers
from napari_sa2net.widgets.napari_port.measured_layers import MeasuredLayers
from napari_sa2net.widgets.napari_port.reading import (
    camera_of,
    voxel_sides_um,
    z_step_um,
)
from napari_sa2net.widgets.napari_port.results import set_features

SHEARED = np.array([[1, 0.1, 0, 3], [0, 1.2, 0, 4], [0, 0.3, 0.9, 5], [0, 0, 0, 1.0]])


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def port(viewer: ViewerModel) -> Any:
    port = NapariPort(viewer)
    yield port
    port.close()


def outcome(
    source: ImageSource,
    labels: np.ndarray,
    offset: tuple[int, ...],
    key: str = "a",
    replaces: str | None = None,
) -> tuple[ResultState, SegmentResult]:
    request = SegmentRequest(
        source, 0, key, "tiny", PredictConfig(), InstanceConfig(), True, Window()
    )
    n = int(labels.max())
    area = float(np.count_nonzero(labels) / max(n, 1))
    table = {"label": np.arange(1, n + 1), "area_px": np.full(n, 4.0)}
    result = SegmentResult(
        key, labels, offset, Summary(n, area, 0), table, provenance={"model": "tiny"}
    )
    made_with = (request.instances,) * 3
    return ResultState(key, request, result.summary, *made_with, replaces=replaces), result


def some_labels(shape: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    labels[..., 1:3, 1:3] = 1
    return labels


def source_of(port: NapariPort) -> ImageSource:
    source = port.source()
    assert source is not None
    return source


# --- reading -----------------------------------------------------------------------------


def test_no_image(port: NapariPort) -> None:
    assert port.source() is None
    assert port.choices() == []


@pytest.mark.parametrize(
    ("units", "scale", "size"),
    [
        (("um", "um"), (0.5, 0.5), 0.5),
        (("nm", "nm"), (200, 50), 0.1),
        (("mm", "mm"), (0.001, 0.001), 1.0),
        (("pixel", "pixel"), (0.5, 0.5), None),
        (("inch", "inch"), (1 / 72, 1 / 72), None),
        (("um", "um"), (352.78, 352.78), None),
        (("m", "m"), (1, 1), None),
    ],
)
def test_pixel_size(
    viewer: ViewerModel,
    port: NapariPort,
    units: tuple[str, ...],
    scale: tuple[float, ...],
    size: float | None,
) -> None:
    viewer.add_image(np.zeros((10, 12)), scale=scale, units=units)
    found = source_of(port).pixel_side_um
    assert found == (pytest.approx(size) if size else None)


def test_pixel_size_through_affine(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((10, 12)), affine=np.diag([0.5, 2, 1]), units=("um", "um"))
    assert source_of(port).pixel_size_um == pytest.approx((0.5, 2))
    assert source_of(port).pixel_side_um == pytest.approx(1.0)


def test_sides_of_a_pixel_go_to_the_table(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((10, 12)), scale=(0.6, 0.3), units=("um", "um"))
    source = source_of(port)
    assert image_line(source).endswith("0.6 × 0.3 µm/px")
    asked = segment_request(Session(image=source, model="tiny"), 0, "k").arguments()
    assert asked["pixel_size_um"] == pytest.approx((0.6, 0.3))
    layer = viewer.layers[0]
    assert voxel_sides_um(layer, "YX") == pytest.approx((0.6, 0.3))
    viewer.layers.clear()
    layer = viewer.add_image(np.zeros((2, 10, 12)), scale=(2, 0.5, 0.5), units=("um",) * 3)
    assert voxel_sides_um(layer, "ZYX") == pytest.approx((2, 0.5, 0.5))
    assert voxel_sides_um(layer, "TYX") == pytest.approx(0.5)
    # planes that are shifted against each other: from one to the next, not along an axis
    viewer.layers.clear()
    shifted = np.array([[2, 0.7, 0, 0], [0, 0.5, 0, 0], [1.5, 0, 0.5, 0], [0, 0, 0, 1]])
    layer = viewer.add_image(np.zeros((2, 10, 12)), affine=shifted, units=("um",) * 3)
    assert z_step_um(layer, "ZYX") == pytest.approx(2.5)


def test_rgb_stack_and_lazy_images(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((10, 12, 3), np.uint8), rgb=True)
    assert source_of(port).axes == "YXS"
    viewer.add_image(da.zeros((7, 10, 3)), rgb=False)
    source = source_of(port)
    assert source.axes == "ZYX"
    assert isinstance(source.data, da.Array)
    viewer.add_image([np.zeros((64, 64)), np.zeros((32, 32))], multiscale=True)
    assert source_of(port).shape == (64, 64)


def test_shown_plane_follows_the_slider(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((4, 6, 20, 20)), scale=(1, 2, 0.5, 0.5), translate=(0, 10, 0, 0))
    viewer.dims.set_current_step(0, 3)
    viewer.dims.set_current_step(1, 1)
    assert source_of(port).plane == (3, 1)
    port.set_axes("CZYX")
    source = source_of(port)
    assert source.axes == "CZYX"
    assert source.plane == (1,)


def test_view_is_what_the_camera_shows(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((1000, 2000)), scale=(0.5, 0.5), translate=(100, 0))
    height, width = viewer.canvas.size
    camera_of(viewer).zoom = 4
    camera_of(viewer).center = (100 + 250, 500)
    view = source_of(port).view
    assert view is not None
    # zoom 4 with scale 0.5: two screen pixels to an image pixel
    assert view[0] == pytest.approx(500 - height / 4, abs=2)
    assert view[1] == pytest.approx(500 + height / 4, abs=2)
    assert view[2] == pytest.approx(1000 - width / 4, abs=2)
    assert view[3] == pytest.approx(1000 + width / 4, abs=2)
    viewer.dims.ndisplay = 3
    assert source_of(port).view is None


def test_view_beside_the_image_is_empty(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((100, 100)))
    camera_of(viewer).center = (5000, 5000)
    view = source_of(port).view
    assert view is not None
    assert view[1] <= view[0] or view[3] <= view[2]


def test_the_channel_that_is_shown_is_told(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((3, 20, 20)))
    assert source_of(port).seen_channel is None
    port.set_axes("CYX")
    viewer.dims.set_current_step(0, 1)
    assert source_of(port).seen_channel == 1
    viewer.dims.set_current_step(0, 2)
    assert source_of(port).seen_channel == 2
    # what a person has ticked stays
    port.set_channels((0, 1))
    assert source_of(port).channels == (0, 1)
    # all of them are shown, one beside the other
    viewer.dims.order = (1, 0, 2)
    assert source_of(port).seen_channel is None


def test_the_channel_of_a_stack_is_told(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((4, 3, 20, 20)), axis_labels=("t", "c", "y", "x"))
    viewer.dims.set_current_step(0, 3)
    viewer.dims.set_current_step(1, 1)
    source = source_of(port)
    assert (source.axes, source.plane, source.seen_channel) == ("TCYX", (3,), 1)


def test_plane_and_channel_beside_a_layer_in_another_unit(
    viewer: ViewerModel, port: NapariPort
) -> None:
    """Napari's sliders count in one unit for all."""
    um, axes = ("um",) * 4, ("z", "c", "y", "x")
    image = np.zeros((4, 3, 20, 20))
    viewer.add_image(image, units=um, scale=(2, 1, 0.5, 0.5), axis_labels=axes)
    viewer.add_labels(np.zeros((20, 20), int), units=("nm", "nm"), scale=(500, 500))
    viewer.dims.set_current_step(0, 2)
    viewer.dims.set_current_step(1, 1)
    source = source_of(port)
    assert (source.plane, source.seen_channel) == ((2,), 1)


def test_colours_are_no_channel_to_choose_from(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((5, 20, 20, 3), np.uint8), rgb=True)
    port.set_axes("CYXS")
    assert source_of(port).seen_channel is None


def test_contrast_limits_are_told_where_they_are_wanted(
    viewer: ViewerModel, port: NapariPort
) -> None:
    image = viewer.add_image(np.zeros((10, 12)), contrast_limits=(3, 9))
    assert source_of(port).contrast is None
    port.set_as_displayed(True)
    assert source_of(port).contrast == (3, 9)
    image.contrast_limits = (4, 5)
    assert source_of(port).contrast == (4, 5)
    viewer.add_image(np.zeros((10, 12, 3), np.uint8), rgb=True)
    assert source_of(port).contrast is None


def test_split_into_channels(viewer: ViewerModel, port: NapariPort) -> None:
    data = np.random.default_rng(0).random((30, 40, 5))
    viewer.add_image(data, name="five", rgb=False, scale=(0.5, 0.5, 1))
    port.split(2)
    assert [layer.name for layer in viewer.layers] == [f"five channel {i}" for i in range(5)]
    source = source_of(port)
    assert (source.name, source.axes, source.shape) == ("five channel 0", "YX", (30, 40))
    np.testing.assert_array_equal(viewer.layers[3].data, data[..., 3])
    np.testing.assert_allclose(viewer.layers[3].scale, (0.5, 0.5))


# --- following ---------------------------------------------------------------------------


def test_the_image_that_is_seen_is_followed(viewer: ViewerModel, port: NapariPort) -> None:
    dapi = viewer.add_image(np.zeros((10, 10)), name="DAPI")
    gfp = viewer.add_image(np.zeros((10, 10)), name="GFP")
    actin = viewer.add_image(np.zeros((10, 10)), name="actin")
    assert port.current is actin
    actin.visible = gfp.visible = False
    assert port.current is dapi
    gfp.visible = True
    assert port.current is dapi  # seen still
    dapi.visible = False
    assert port.current is gfp
    actin.visible = True
    assert port.current is actin  # the selected one is seen again
    # with none that is seen, the selected one stays
    dapi.visible = gfp.visible = actin.visible = False
    assert port.current is actin
    # looking at the cells without their image, and back
    viewer.add_labels(np.zeros((10, 10), int))
    dapi.visible = actin.visible = True
    actin.visible = False
    assert port.current is dapi
    actin.visible = True
    assert port.current is actin
    port.choose(str(gfp.unique_id))
    assert port.current is gfp  # pinned, seen or not


def test_follows_the_selection_until_pinned(viewer: ViewerModel, port: NapariPort) -> None:
    a = viewer.add_image(np.zeros((10, 10)), name="a")
    b = viewer.add_image(np.zeros((10, 10)), name="b")
    assert port.current is b
    viewer.layers.selection.active = a
    assert port.current is a
    # a layer of another kind is not followed
    viewer.add_labels(np.zeros((10, 10), int))
    assert port.current is a
    port.choose(source_of(port).key)
    viewer.layers.selection.active = b
    assert port.pinned
    assert port.current is a
    port.set_pinned(False)
    assert port.current is b


def test_deleting_a_pinned_image_unpins(viewer: ViewerModel, port: NapariPort) -> None:
    a = viewer.add_image(np.zeros((10, 10)), name="a")
    b = viewer.add_image(np.zeros((10, 10)), name="b")
    gone: list[str] = []
    port.image_gone.connect(gone.append)
    port.choose(str(a.unique_id))
    viewer.layers.remove(a)
    assert gone == [str(a.unique_id)]
    assert not port.pinned
    assert port.current is b
    viewer.layers.clear()
    assert port.current is None


def test_new_pixels_and_names_are_noticed(viewer: ViewerModel, port: NapariPort) -> None:
    image = viewer.add_image(np.zeros((10, 10)), name="a")
    keys: list[str] = []
    port.pixels_changed.connect(keys.append)
    image.data = np.ones((10, 12))
    assert keys == [str(image.unique_id)]
    assert source_of(port).shape == (10, 12)
    image.name = "renamed"
    assert port.choices() == [(str(image.unique_id), "renamed")]


def test_close_leaves_no_callback(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((10, 10)))
    emitters = [
        viewer.layers.events.inserted,
        viewer.layers.events.removed,
        viewer.layers.events.reordered,
        viewer.layers.selection.events.active,
        viewer.dims.events.current_step,
        camera_of(viewer).events.zoom,
        image.events.data,
        image.events.name,
        image.events.scale,
    ]
    before = [len(emitter.callbacks) for emitter in emitters]
    port = NapariPort(viewer)
    port.show(*outcome(source_of(port), some_labels((10, 10)), (0, 0)))
    viewer.layers.remove(viewer.layers[-1])
    assert [len(emitter.callbacks) for emitter in emitters] != before
    port.close()
    assert [len(emitter.callbacks) for emitter in emitters] == before


# --- results -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "axes", "offset", "shape"),
    [
        (
            Image(np.zeros((40, 50)), scale=(0.5, 0.25), units=("um", "um")),
            None,
            (3, 7),
            (9, 9),
        ),
        (
            Image(np.zeros((40, 50)), scale=(2, 3), rotate=30, shear=[0.4], translate=(5, -8)),
            None,
            (11, 5),
            (12, 8),
        ),
        (
            Image(np.zeros((40, 50, 3), np.uint8), rgb=True, scale=(0.5, 0.5), rotate=10),
            None,
            (4, 4),
            (6, 6),
        ),
        (
            Image(
                np.zeros((5, 40, 50)),
                scale=(2, 0.5, 0.25),
                rotate=(10, 20, 30),
                shear=(0.1, 0.2, 0.3),
                translate=(1, 2, 3),
                affine=SHEARED,
                units=("um", "um", "um"),
            ),
            None,
            (2, 10, 20),
            (1, 5, 6),
        ),
        (
            Image(np.zeros((3, 40, 50)), scale=(1, 2, 3), translate=(0, 4, 5)),
            "CYX",
            (7, 9),
            (8, 8),
        ),
        (
            Image(np.zeros((3, 6, 40, 50)), scale=(1, 4, 2, 3), translate=(0, 1, 4, 5)),
            "CZYX",
            (2, 7, 9),
            (3, 8, 8),
        ),
    ],
    ids=["scaled", "rotated and sheared", "rgb", "affine stack", "channels", "channels, stack"],
)
def test_results_lie_over_their_image(
    viewer: ViewerModel,
    port: NapariPort,
    image: Image,
    axes: str | None,
    offset: tuple[int, ...],
    shape: tuple[int, ...],
) -> None:
    viewer.add_layer(image)
    if axes:
        port.set_axes(axes)
    port.show(*outcome(source_of(port), some_labels(shape), offset))
    layer = viewer.layers[-1]
    assert isinstance(layer, Labels)
    assert layer.data.dtype == np.int32
    lead = image.ndim - layer.ndim
    assert layer.units == image.units[lead:]
    np.testing.assert_allclose(layer.scale, image.scale[lead:])
    rng = np.random.default_rng(0)
    for point in rng.uniform(0, 5, (5, layer.ndim)):
        inside = (*(0,) * lead, *(point + offset))
        np.testing.assert_allclose(
            layer.data_to_world(point), np.array(image.data_to_world(inside))[lead:], atol=1e-9
        )


def test_channels_between_stack_and_plane(viewer: ViewerModel, port: NapariPort) -> None:
    image = viewer.add_image(np.zeros((4, 3, 20, 30)), scale=(5, 1, 1, 1))
    port.set_axes("TCYX")
    port.set_channels((2,))
    port.show(*outcome(source_of(port), some_labels((4, 20, 30)), (0, 0, 0)))
    layer = viewer.layers[-1]
    assert layer.data.shape == (4, 1, 20, 30)
    # seen with every channel, at its own time point only
    for t, c in np.ndindex(4, 3):
        position = layer.world_to_data(image.data_to_world((t, c, 5, 6)))
        assert tuple(np.round(position)) == (t, 0, 5, 6)
    # and the channels' slider is as it was
    assert viewer.dims.nsteps == (4, 3, 20, 30)


def test_new_layer_keeps_selection_and_camera(viewer: ViewerModel, port: NapariPort) -> None:
    a = viewer.add_image(np.zeros((30, 30)), name="cells of mine")
    b = viewer.add_image(np.zeros((30, 30)), name="b")
    viewer.layers.selection.active = a
    viewer.layers.selection.add(b)
    camera_of(viewer).zoom = 3.3
    camera_of(viewer).center = (0, 3, 4)
    before = (camera_of(viewer).zoom, camera_of(viewer).center)
    selected = set(viewer.layers.selection)
    port.choose(str(a.unique_id))
    port.show(*outcome(source_of(port), some_labels((30, 30)), (0, 0)))
    layer = viewer.layers[-1]
    assert layer.name == "cells of mine cells"
    assert set(viewer.layers.selection) == selected
    assert (camera_of(viewer).zoom, camera_of(viewer).center) == before
    assert layer.metadata[METADATA_KEY] == {"model": "tiny"}
    assert list(layer.features["label"]) == [1]
    assert set(layer.features.columns) == {"label", "area_px"}


def test_cells_are_outlined(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((3, 60, 60)))
    labels = np.zeros((3, 60, 60), np.int32)
    labels[:, 10:40, 10:40] = 1
    port.show(*outcome(source_of(port), labels, (0, 0, 0)))
    layer = viewer.layers[-1]
    assert isinstance(layer, Labels)
    assert layer.contour > 0
    # what a person has chosen stays in the next run
    layer.contour = 0
    port.show(*outcome(source_of(port), labels, (0, 0, 0), "b", "a"))
    assert viewer.layers[-1] is layer
    assert layer.contour == 0


@pytest.mark.parametrize(("side", "outlined"), [(8, True), (40, True), (1100, False)])
def test_small_cells_are_not_all_outline_and_large_planes_are_filled(
    viewer: ViewerModel, port: NapariPort, side: int, outlined: bool
) -> None:
    labels = np.zeros((max(60, side), max(60, side)), np.int32)
    labels[5 : side - 2, 5 : side - 2] = 1
    viewer.add_image(np.zeros(labels.shape))
    port.show(*outcome(source_of(port), labels, (0, 0)))
    layer = viewer.layers[-1]
    assert isinstance(layer, Labels)
    assert layer.contour == (0 if not outlined else 1 if side < 20 else 2)


def test_rerun_replaces_in_place(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((30, 30)), translate=(5, 5))
    port.show(*outcome(source_of(port), some_labels((30, 30)), (0, 0)))
    layer = viewer.layers[-1]
    layer.opacity = 0.3
    port.show(*outcome(source_of(port), some_labels((10, 12)) * 2, (4, 6), "b", "a"))
    assert len(viewer.layers) == 2
    assert viewer.layers[-1] is layer
    assert layer.opacity == 0.3
    assert layer.data.shape == (10, 12)
    np.testing.assert_allclose(layer.translate, (9, 11))
    port.update_labels("b", np.full((10, 12), 3, np.int32))
    assert (layer.data == 3).all()
    # the former key means nothing any more
    port.update_labels("a", np.zeros((10, 12), np.int32))
    assert (layer.data == 3).all()


@pytest.mark.parametrize("how", ["paint", "data_setitem", "assign"])
def test_an_edited_result_is_the_users(viewer: ViewerModel, port: NapariPort, how: str) -> None:
    viewer.add_image(np.zeros((30, 30)))
    port.show(*outcome(source_of(port), some_labels((30, 30)), (0, 0)))
    layer = viewer.layers[-1]
    edited: list[str] = []
    port.result_edited.connect(edited.append)
    if how == "paint":
        layer.paint((10, 10), 7)
    elif how == "data_setitem":
        layer.data_setitem((np.array([5]), np.array([5])), 7)
    else:
        layer.data = np.full((30, 30), 7, np.int32)
    assert edited == ["a"]
    now = layer.data.copy()
    port.update_labels("a", some_labels((30, 30)))
    port.show(*outcome(source_of(port), some_labels((30, 30)), (0, 0), "b", None))
    np.testing.assert_array_equal(layer.data, now)
    assert len(viewer.layers) == 3


def test_our_own_updates_are_no_edits(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((30, 30)))
    edited: list[str] = []
    port.result_edited.connect(edited.append)
    port.show(*outcome(source_of(port), some_labels((30, 30)), (0, 0)))
    port.update_labels("a", some_labels((30, 30)))
    port.update_table("a", {"label": np.array([1])})
    assert edited == []


def test_result_of_a_deleted_image_is_not_shown(viewer: ViewerModel, port: NapariPort) -> None:
    image = viewer.add_image(np.zeros((30, 30)))
    late = outcome(source_of(port), some_labels((30, 30)), (0, 0))
    other = viewer.add_image(np.zeros((30, 30)))
    viewer.layers.remove(image)
    port.show(*late)
    assert list(viewer.layers) == [other]


def test_deleted_result_is_told_and_comes_anew(viewer: ViewerModel, port: NapariPort) -> None:
    viewer.add_image(np.zeros((30, 30)))
    gone: list[str] = []
    port.result_gone.connect(gone.append)
    port.show(*outcome(source_of(port), some_labels((30, 30)), (0, 0)))
    viewer.layers.remove(viewer.layers[-1])
    assert gone == ["a"]
    port.update_labels("a", some_labels((30, 30)))
    assert len(viewer.layers) == 1
    port.show(*outcome(source_of(port), some_labels((30, 30)), (0, 0), "b", "a"))
    assert len(viewer.layers) == 2


# --- measuring ---------------------------------------------------------------------------


class Mouse:
    """A mouse event as napari hands it to callbacks."""

    button = 1
    modifiers: tuple[str, ...] = ()

    def __init__(self, position: tuple[float, ...]) -> None:
        self.type = "mouse_press"
        self.move(position)

    def move(self, position: tuple[float, ...]) -> None:
        self.position = position
        self.pos = 10 * np.array(position[-2:])


def drag(layer: Any, start: tuple[float, ...], end: tuple[float, ...]) -> None:
    event = Mouse(start)
    generator = layer.mouse_drag_callbacks[-1](layer, event)
    next(generator)
    event.type = "mouse_move"
    event.move(end)
    next(generator)
    event.type = "mouse_release"
    with pytest.raises(StopIteration):
        next(generator)


class Later:
    """Runs calls after the event that made them, as Qt's event loop does."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, call: Any) -> None:
        self.calls.append(call)

    def run(self) -> None:
        while self.calls:
            self.calls.pop(0)()


@pytest.fixture
def later() -> Later:
    return Later()


def test_measure_in_pixels_of_the_image(
    viewer: ViewerModel, port: NapariPort, later: Later
) -> None:
    image = viewer.add_image(np.zeros((3, 50, 50)), scale=(9, 0.5, 0.5), translate=(0, 5, 5))
    lengths: list[float | None] = []
    port.measure(later, lengths.append)
    line = viewer.layers[-1]
    # one of napari's own tools on it would go on drawing when the layer is gone
    assert line.mode == "pan_zoom"
    drag(image, (0, 6, 6), (0, 6 + 3, 6 + 4))
    later.run()
    assert lengths == [pytest.approx(10)]
    assert list(viewer.layers) == [image]
    assert viewer.layers.selection.active is image


def test_a_click_is_no_line(viewer: ViewerModel, port: NapariPort, later: Later) -> None:
    image = viewer.add_image(np.zeros((50, 50)))
    lengths: list[float | None] = []
    port.measure(later, lengths.append)
    line = viewer.layers[-1]
    drag(image, (6, 6), (6, 6.2))
    drag(image, (6, 6), (6, 6.9))
    later.run()
    assert lengths == []
    assert line in viewer.layers
    drag(image, (6, 6), (6, 16))
    later.run()
    assert lengths == [pytest.approx(10)]


@pytest.mark.parametrize("how", ["escape", "select", "delete line", "delete image", "close"])
def test_measuring_is_cleaned_up(
    viewer: ViewerModel, port: NapariPort, later: Later, how: str
) -> None:
    image = viewer.add_image(np.zeros((50, 50)))
    other = viewer.add_image(np.zeros((50, 50)))
    viewer.dims.ndisplay = 2
    lengths: list[float | None] = []
    port.measure(later, lengths.append)
    line = viewer.layers[-1]
    if how == "escape":
        from app_model.types import KeyBinding

        other.keymap[KeyBinding.from_str("Escape")](other)
    elif how == "select":
        viewer.layers.selection.active = image
    elif how == "delete line":
        viewer.layers.remove(line)
    elif how == "delete image":
        viewer.layers.remove(other)
        port.cancel_measure()
    else:
        port.close()
    later.run()
    assert line not in viewer.layers
    assert lengths == [None]
    assert not other.mouse_drag_callbacks
    assert other.mouse_pan
    expected = image if how in ("select", "delete image") else other
    if how != "delete image":
        assert viewer.layers.selection.active is expected


def test_napari_tells_of_a_cell_its_own_row(viewer: ViewerModel, port: NapariPort) -> None:
    """Under the mouse: by its label, whoever gives the table, and not by its position."""
    cells = CellLayers(port)
    link = EngineLink(Session(), make_client=Client)
    measured = MeasuredLayers(port, cells, Measurements(link))
    layer = viewer.add_labels(2 * some_labels((8, 8)) + 2 * (np.eye(8, dtype=np.int32) > 0))

    def told() -> str:
        return str(layer.get_status((1, 2))["coordinates"])

    layer.features = pd.DataFrame({"label": [4, 2, 7], "size": [11.5, 12.5, 13.5]})
    assert layer.data[1, 2] == 2
    assert "size: 12.5" in told()
    # a script puts others in their place
    layer.features = pd.DataFrame({"label": [2, 4], "size": [14.5, 15.5]})
    assert "size: 14.5" in told()
    set_features(layer, {"label": np.array([1, 2, 4]), "area_px": np.array([21.5, 22.5, 23.5])})
    assert "area_px: 22.5" in told()
    # of what it says of its own, the newest counts
    layer.features = layer.features.assign(dose=[1, 2, 3])
    set_features(layer, {"label": np.array([2, 4]), "area_px": np.array([22.5, 23.5])})
    assert layer.features["dose"].tolist() == [2, 3]
    layer.features = layer.features.assign(dose=[7, 8])
    set_features(layer, {"label": np.array([1, 2, 4]), "area_px": np.array([1, 22.5, 23.5])})
    assert layer.features["dose"].tolist() == [1, 7, 8]
    measured.close()
    cells.close()


def test_a_part_above_and_left_of_the_first_one_is_added_in_its_place(
    viewer: ViewerModel, port: NapariPort
) -> None:
    viewer.add_image(np.zeros((2, 40, 50)), axis_labels=("z", "y", "x"), translate=(1, 7, 9))
    source = source_of(port)
    first, second = some_labels((1, 10, 12)), some_labels((1, 8, 9))
    port.show(*outcome(source, first, (1, 20, 30), "a"))
    port.show(*_added_to("a", *outcome(source, second, (0, 3, 25), "b")))
    (cells,) = (layer for layer in viewer.layers if isinstance(layer, Labels))
    want = np.zeros((2, 40, 50), int)
    want[1, 20:30, 30:42], want[0, 3:11, 25:34] = first[0] > 0, second[0] > 0

    def shown() -> np.ndarray:
        whole = np.zeros_like(want)
        z, y, x = (int(v) for v in np.array(cells.translate) - (1, 7, 9))
        part = whole[z : z + cells.data.shape[0], y:, x:]
        part[:, : cells.data.shape[1], : cells.data.shape[2]] = cells.data > 0
        return whole

    np.testing.assert_array_equal(shown(), want)
    # the same part once more: what lies around it stays where it is
    state, result = outcome(source, 0 * second, (0, 3, 25), "c", replaces="b")
    window = Window(index=(0,), box=(3, 11, 25, 34))
    port.show(replace(state, request=replace(state.request, window=window)), result)
    want[0] = 0
    np.testing.assert_array_equal(shown(), want)


def _added_to(
    former: str, state: ResultState, result: SegmentResult
) -> tuple[ResultState, SegmentResult]:
    return replace(state, adds_to=former), result


@pytest.mark.parametrize("axes", ["YX", "CYX"])
def test_restored_labels_with_an_axis_that_the_image_lacks_lie_on_it(
    viewer: ViewerModel, port: NapariPort, axes: str
) -> None:
    """They are shown in the shape in which they were corrected."""
    cells = CellLayers(port)
    n = len(axes)
    image = np.zeros((3, 30, 40)[-n:])
    turned = np.eye(n + 1)
    turned[-3:-1, -3:-1] = [[0.8, -0.6], [0.6, 0.8]]
    own = {"scale": (1, 0.5, 0.25)[-n:], "translate": (0, 3, 4)[-n:], "affine": turned}
    viewer.add_image(image, axis_labels=tuple(axes.lower()), units=("um",) * n, **own)
    labels = some_labels((1, 20, 20))
    more = np.eye(4)
    more[-n - 1 :, -n - 1 :] = turned
    first = viewer.add_labels(
        *(labels,),
        scale=(1, 0.5, 0.25),
        translate=(0, 3 + 2.5, 4 + 1.25),
        affine=more,
        units=("um",) * 3,
    )
    source = cells.source()
    assert source is not None
    assert source.image is not None
    assert (source.corner, source.extra) == ((5, 5), (0,))
    want = np.asarray(first.data_to_world((0, 7, 9)))
    viewer.layers.remove(first)
    cells.show_restored(RestoredCells("j", "mine", labels, source.image, source.corner, {}))
    shown = viewer.layers[-1]
    assert shown.data is labels
    np.testing.assert_allclose(shown.data_to_world((0, 7, 9))[-2:], want[-2:])
    again = cells.source()
    assert again is not None
    assert (again.corner, again.extra) == ((5, 5), (0,))
    cells.close()
