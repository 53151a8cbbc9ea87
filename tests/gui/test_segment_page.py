"""The Segment page by its buttons: real viewer, real engine process, real network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from napari.layers import Labels

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.widgets.napari_port.reading import camera_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

    OpenDock = Callable[[], SA2NetDock]

#: generous: on a busy machine the engine takes long to import torch
WAIT_MS = 180_000
pytestmark = pytest.mark.timeout(600)


def nuclei(shape: tuple[int, int] = (160, 200), seed: int = 0) -> tuple[Any, Any]:
    return synthetic_nuclei(shape, n=12, diameter=20, seed=seed)


def parts(dock: SA2NetDock) -> tuple[Any, Any, Any]:
    page: Any = dock.pages[0]
    return page.port.viewer, page, page.session


def run(qtbot: QtBot, page: Any) -> None:
    """Press Segment and wait for the end."""
    page.button.click()
    assert page.session.running
    qtbot.waitUntil(lambda: not page.session.running, timeout=WAIT_MS)


def results(viewer: Any) -> list[Labels]:
    return [layer for layer in viewer.layers if isinstance(layer, Labels)]


def engine_pid(page: Any, qtbot: QtBot) -> int:
    qtbot.waitUntil(lambda: page.session.info is not None, timeout=WAIT_MS)
    return int(page.session.info.pid)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # asked for in one call, as it may end between two
        return True


@pytest.mark.both_bindings
def test_segment_adjust_edit_rerun(open_dock: OpenDock, qtbot: QtBot) -> None:
    """The whole way: segment, move sliders, edit, segment again; then close."""
    dock = open_dock()
    viewer, page, session = parts(dock)
    assert not page.empty.isHidden()
    assert page.work.isHidden()

    image, truth = nuclei()
    source = viewer.add_image(
        image, name="nuclei", scale=(0.5, 0.5), translate=(7, 3), units=("um", "um")
    )
    assert page.empty.isHidden()
    assert (
        page.details.line.text().replace("\u00a0", " ") == "160 × 200 · 1 channel · 0.5 µm/px"
    )
    assert page.image_row.value() == str(source.unique_id)
    assert not page.result.form.isEnabled()
    camera = (camera_of(viewer).zoom, camera_of(viewer).center)

    # the engine may still be starting: pressing at once is fine
    run(qtbot, page)
    assert session.error is None
    (cells,) = results(viewer)
    assert cells.name == "nuclei cells"
    assert cells.data.dtype == np.int32
    assert cells.data.shape == image.shape
    np.testing.assert_allclose(cells.scale, source.scale)
    np.testing.assert_allclose(cells.translate, source.translate)
    assert cells.units == source.units
    n = int(cells.data.max())
    assert n >= truth.max() // 2
    features = cells.features
    assert list(features["label"]) == list(range(1, n + 1))
    assert "index" not in features.columns
    for column in (
        "label",
        "area_px",
        "area_um2",
        "eccentricity",
        "mean_intensity",
        "confidence",
    ):
        assert column in features.columns
    np.testing.assert_allclose(features["area_um2"], features["area_px"] / 4)
    assert viewer.layers.selection.active is source
    assert (camera_of(viewer).zoom, camera_of(viewer).center) == camera
    assert cells.metadata["napari-sa2net"]["model"]
    assert str(n) in page.result.summary.text()
    assert page.result.form.isEnabled()

    # a live slider: the same layer, other cells, no network run, then the table
    page.result.smallest.spin.setValue(0.25 * float(np.median(features["area_px"])) + 0.1)
    least = session.instances.min_size
    assert least > 0
    qtbot.waitUntil(
        lambda: (
            len(cells.features) == len(np.unique(cells.data)) - 1
            and cells.features["area_px"].min() >= least
        ),
        timeout=WAIT_MS,
    )
    page.result.smallest.spin.setValue(0)
    qtbot.waitUntil(lambda: session.instances.min_size == 0, timeout=WAIT_MS)
    before = int((cells.data > 0).sum())
    page.result.foreground.spin.setValue(0.9)
    qtbot.waitUntil(lambda: int((cells.data > 0).sum()) < before, timeout=WAIT_MS)
    assert results(viewer) == [cells]
    assert not session.running

    # unedited: a new run goes into the same layer
    run(qtbot, page)
    assert results(viewer) == [cells]

    # edited: the sliders let go, say so, and a new run makes a new layer
    cells.paint((20, 20), n + 5)
    assert session.sliders == "edited"
    assert not page.result.form.isEnabled()
    assert "edited" in page.result.note.text()
    kept = cells.data.copy()
    run(qtbot, page)
    assert len(results(viewer)) == 2
    np.testing.assert_array_equal(cells.data, kept)
    assert page.result.form.isEnabled()

    # closing the dock ends the engine and leaves the layers
    pid = engine_pid(page, qtbot)
    viewer.window.remove_dock_widget(dock)
    assert dock.workspace is None
    qtbot.waitUntil(lambda: gone(pid), timeout=WAIT_MS)
    assert len(results(viewer)) == 2
    cells.paint((30, 30), 3)
    viewer.layers.clear()


def test_stack_view_and_plane(open_dock: OpenDock, qtbot: QtBot) -> None:
    """One plane of a stack, then only what the camera shows of it."""
    dock = open_dock()
    viewer, page, session = parts(dock)
    stack = np.stack([nuclei((128, 128), seed)[0] for seed in range(3)])
    image = viewer.add_image(stack, name="stack", scale=(3, 1, 1))
    assert not page.region_row.plane.isHidden()
    assert not page.details.axes.isHidden()
    viewer.dims.set_current_step(0, 2)
    page.region_row.plane.click()
    run(qtbot, page)
    assert session.error is None
    (cells,) = results(viewer)
    assert cells.data.shape == (1, 128, 128)
    np.testing.assert_allclose(cells.data_to_world((0, 0, 0)), image.data_to_world((2, 0, 0)))
    whole = cells.data[0]

    page.region_row.view.click()
    camera_of(viewer).zoom = max(viewer.canvas.size) / 64
    camera_of(viewer).center = (6, 64, 64)
    run(qtbot, page)
    assert results(viewer) == [cells]
    # the cells around the view stay, those in it are nearly the same
    assert cells.data.shape == (1, 128, 128)
    y0, y1, x0, x1 = session.image.view
    shown = np.array(viewer.canvas.size) / camera_of(viewer).zoom
    np.testing.assert_allclose((y1 - y0, x1 - x0), shown, atol=2)
    outside = np.ones(whole.shape, bool)
    outside[y0:y1, x0:x1] = False
    np.testing.assert_array_equal(cells.data[0][outside] > 0, whole[outside] > 0)
    assert np.mean((whole > 0) == (cells.data[0] > 0)) > 0.9

    # a view beside the image is said in the page, in words
    camera_of(viewer).center = (6, 9000, 9000)
    page.button.click()
    assert "view" in page.error.message.text()
    assert not page.error.isHidden()
    page.error.dismiss.click()
    assert page.error.isHidden()

    # all planes, linked
    page.region_row.whole.click()
    page.region_row.all.click()
    assert page.region_row.link.isChecked()
    assert session.instances.link_planes
    run(qtbot, page)
    assert results(viewer)[-1].data.shape == stack.shape


def test_whatever_happens_in_mid_run(open_dock: OpenDock, qtbot: QtBot) -> None:
    """Cancel, delete, switch and close while the network runs: no harm, no stray layer."""
    dock = open_dock()
    viewer, page, session = parts(dock)
    image = np.tile(nuclei((256, 256))[0], (4, 4))
    first = viewer.add_image(image, name="first")
    page.size_row.spin.setValue(20)
    page.advanced.tile.setCurrentIndex(page.advanced.tile.findData(256))
    page.advanced.tile.activated.emit(page.advanced.tile.currentIndex())
    assert session.predict.tile == 256
    assert session.predict.diameter == 20

    def under_way() -> None:
        page.button.click()
        qtbot.waitUntil(
            lambda: session.progress is not None and session.progress.done > 0,
            timeout=WAIT_MS,
        )

    # cancel
    under_way()
    assert page.button.text() == "Cancel"
    assert "%" in page.progress.label.text()
    page.button.click()
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    assert page.button.text() == "Segment"
    assert results(viewer) == []
    assert session.error is None

    # another image is chosen: the result still goes over its own
    under_way()
    second = viewer.add_image(image[:64, :64], name="second")
    assert page.image_row.value() == str(second.unique_id)
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    (cells,) = results(viewer)
    assert cells.name == "first cells"
    assert cells.data.shape == image.shape
    assert session.sliders == "none"

    # the image is deleted: nothing comes
    viewer.layers.remove(cells)
    viewer.layers.selection.active = first
    under_way()
    viewer.layers.remove(first)
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    assert results(viewer) == []
    assert session.error is None

    # its pixels are replaced: nothing comes, which is said
    third = viewer.add_image(image, name="third")
    under_way()
    third.data = np.zeros_like(image)
    qtbot.waitUntil(lambda: not session.running, timeout=WAIT_MS)
    assert results(viewer) == []
    assert page.error.message.text().startswith("The pixels of “third” were replaced")
    assert "Run it again." in page.error.message.text()
    assert not page.error.isHidden()

    # the viewer is closed: the engine ends
    third.data = image
    under_way()
    pid = engine_pid(page, qtbot)
    viewer.close()
    qtbot.waitUntil(lambda: gone(pid), timeout=WAIT_MS)


def test_engine_that_dies_is_started_again(open_dock: OpenDock, qtbot: QtBot) -> None:
    dock = open_dock()
    viewer, page, session = parts(dock)
    viewer.add_image(nuclei()[0], name="nuclei")
    run(qtbot, page)
    assert session.sliders == "live"
    pid = engine_pid(page, qtbot)
    psutil.Process(pid).kill()
    qtbot.waitUntil(lambda: session.sliders == "lost", timeout=WAIT_MS)
    assert not page.result.form.isEnabled()
    assert page.result.note.text()
    assert engine_pid(page, qtbot) != pid
    run(qtbot, page)
    assert session.error is None
    assert session.sliders == "live"
    assert len(results(viewer)) == 1


def test_two_docks_share_one_engine(open_dock: OpenDock, qtbot: QtBot, home: Path) -> None:
    from napari_sa2net.widgets.dock import SegmentDock

    dock = open_dock()
    viewer, page, _ = parts(dock)
    other = SegmentDock(viewer)
    viewer.window.add_dock_widget(other, name="Segment")
    assert other.workspace is dock.workspace
    pid = engine_pid(page, qtbot)
    viewer.window.remove_dock_widget(dock)
    viewer.add_image(nuclei()[0], name="nuclei")
    run(qtbot, other.pages[0])
    assert len(results(viewer)) == 1
    assert not gone(pid)
    viewer.window.remove_dock_widget(other)
    qtbot.waitUntil(lambda: gone(pid), timeout=WAIT_MS)


def test_the_channel_that_is_seen_goes_in(open_dock: OpenDock, qtbot: QtBot) -> None:
    """Two channels on one slider; the page, its button and the result count alike."""
    dock = open_dock()
    viewer, page, session = parts(dock)
    image, _ = nuclei()
    noise = np.random.default_rng(0).integers(0, 100, image.shape).astype(image.dtype)
    viewer.add_image(np.stack([noise, image]), axis_labels=("c", "y", "x"))
    page.size_row.spin.setValue(20)

    def line() -> str:
        return str(page.details.line.text().replace("\u00a0", " "))

    assert page.details.channels.text().strip() == "0"
    assert line() == "160 × 200 · channel 0 of 2"
    viewer.dims.set_current_step(0, 1)
    qtbot.waitUntil(lambda: page.details.channels.text().strip() == "1")
    assert line() == "160 × 200 · channel 1 of 2"
    run(qtbot, page)
    assert session.error is None
    (cells,) = results(viewer)
    assert cells.data.max() > 3
    assert cells.metadata["napari-sa2net"]["settings"]["image"]["channels"] == [1]

    # pressed before the page has followed
    viewer.dims.set_current_step(0, 0)
    run(qtbot, page)
    (cells,) = results(viewer)
    assert cells.metadata["napari-sa2net"]["settings"]["image"]["channels"] == [0]

    # what a person has ticked stays, whatever is shown
    page.details.channels.menu().actions()[1].trigger()
    page.details.channels.menu().actions()[0].trigger()
    assert line() == "160 × 200 · channel 1 of 2"
    run(qtbot, page)
    assert viewer.dims.current_step[0] == 0
    assert cells.metadata["napari-sa2net"]["settings"]["image"]["channels"] == [1]


def test_no_cells_found_says_what_to_try(open_dock: OpenDock, qtbot: QtBot) -> None:
    dock = open_dock()
    viewer, page, session = parts(dock)
    image, _ = nuclei()
    flash = image.copy()
    flash[::2] = 65535
    viewer.add_image(np.stack([image, flash]), name="movie")
    page.size_row.spin.setValue(20)
    run(qtbot, page)
    assert session.summary == "No cells found"
    words = page.result.note.text()
    for tried in ("measure…", "Foreground", "Brightness of each plane", "Model"):
        assert tried in words
    assert "channel" not in words
    # as it says
    assert not page.advanced.levels.isHidden()
    page.advanced.levels.setCurrentIndex(page.advanced.levels.findData("plane"))
    page.advanced.levels.activated.emit(page.advanced.levels.currentIndex())
    assert session.predict.levels == "plane"
    run(qtbot, page)
    (cells,) = results(viewer)
    assert len(np.unique(cells.data[0])) > 3
    assert "Try" not in page.result.note.text()
    # no setting helps where there is nothing to see
    viewer.layers.clear()
    viewer.add_image(np.full((60, 60), 7.0), name="blank")
    run(qtbot, page)
    assert session.summary == "No cells found"
    blank = "What went in has one value throughout: choose another image."
    assert page.result.note.text() == blank


def test_levels_as_displayed(open_dock: OpenDock, qtbot: QtBot) -> None:
    dock = open_dock()
    viewer, page, session = parts(dock)
    image, _ = nuclei()
    low, high = np.percentile(image, (1, 99.8))
    dirty = image.copy()
    dirty[:40] = 65535
    layer = viewer.add_image(dirty, name="dirty")
    page.size_row.spin.setValue(20)
    page.advanced.levels.setCurrentIndex(page.advanced.levels.findData("displayed"))
    page.advanced.levels.activated.emit(page.advanced.levels.currentIndex())
    layer.contrast_limits = (low, high)
    run(qtbot, page)
    assert session.error is None
    (cells,) = results(viewer)
    assert len(np.unique(cells.data[60:])) > 3
    used = cells.metadata["napari-sa2net"]["settings"]["predict"]["contrast"]
    np.testing.assert_allclose(used, (low, high))


def test_two_planes_may_be_channels_unless_somebody_told(
    open_dock: OpenDock, qtbot: QtBot
) -> None:
    dock = open_dock()
    viewer, page, _ = parts(dock)
    image, _ = nuclei()
    layer = viewer.add_image(np.stack([image] * 2), name="two")
    words = page.details.misread.notice.text().replace("\u00a0", " ")
    assert "Read as 2 planes of 160 × 200 pixels; if the first axis holds channels" in words
    assert "press “split into channels”" in words
    page.port.set_axes("ZYX")  # a person has said so
    qtbot.waitUntil(page.details.misread.notice.isHidden)
    layer.name = "stack"
    viewer.add_image(np.stack([image] * 2), axis_labels=("z", "y", "x"), name="told")
    assert page.details.misread.notice.isHidden()
    viewer.add_image(np.stack([image] * 2), scale=(2, 1, 1), units="um", name="spaced")
    assert page.details.misread.notice.isHidden()
    viewer.add_image(np.stack([image] * 2), name="again")
    page.details.misread.split.click()
    assert [one.name for one in viewer.layers if one.name.startswith("again")] == [
        "again channel 0",
        "again channel 1",
    ]
    assert page.details.line.text().replace("\u00a0", " ") == "160 × 200 · 1 channel"


def test_what_becomes_of_a_brown_stain_is_chosen_for_images_in_colour(
    open_dock: OpenDock, qtbot: QtBot
) -> None:
    dock = open_dock()
    viewer, page, session = parts(dock)
    image, _ = nuclei()
    viewer.add_image(image, name="grey")
    assert page.stain.isHidden()
    colours = np.full((96, 96, 3), (150, 100, 60), np.uint8)
    viewer.add_image(colours, name="brown", rgb=True)
    assert not page.stain.isHidden()
    assert [page.stain.itemText(i) for i in range(3)] == ["automatic", "keep", "remove"]
    assert session.predict.dab == page.stain.currentData() == "auto"
    page.stain.setCurrentIndex(2)
    page.stain.activated.emit(2)
    assert session.predict.dab == "remove"
    page.advanced.augment.click()
    assert (session.predict.dab, session.predict.augment) == ("remove", True)
    page.advanced.augment.click()
    adapt = page.advanced.adapt
    assert [adapt.itemText(i) for i in range(3)] == ["automatic", "always", "never"]
    adapt.setCurrentIndex(1)
    adapt.activated.emit(1)
    assert (session.predict.dab, session.predict.adapt) == ("remove", "on")
    page.size_row.spin.setValue(20)
    run(qtbot, page)
    assert session.error is None
    made = results(viewer)[-1].metadata["napari-sa2net"]
    assert made["settings"]["predict"]["dab"] == "remove"
    # of a choice nothing is said; where nobody has chosen, what became of it
    assert page.stain.itemText(0) == "automatic"
    page.stain.setCurrentIndex(0)
    page.stain.activated.emit(0)
    page._show_removed(True)
    assert page.stain.currentText() == "automatic: removed"
    viewer.layers.selection.active = viewer.layers["grey"]
    assert page.stain.itemText(0) == "automatic"


def test_channels_last_are_split_on_demand(open_dock: OpenDock, qtbot: QtBot) -> None:
    dock = open_dock()
    viewer, page, _ = parts(dock)
    image, _ = nuclei()
    viewer.add_image(np.dstack([image] * 5), name="five", rgb=False)
    assert not page.details.misread.notice.isHidden()
    words = page.details.misread.notice.text().replace("\u00a0", " ")
    assert "Read as 160 planes of 200 × 5 pixels" in words
    assert "press “split into channels”" in words
    page.details.misread.split.click()
    assert len(viewer.layers) == 5
    assert page.details.line.text().replace("\u00a0", " ") == "160 × 200 · 1 channel"
    assert page.details.misread.notice.isHidden()
    assert page.details.misread.split.isHidden()
