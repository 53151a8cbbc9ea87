"""The parts of the See-why page, each by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QSlider

from napari_sa2net.app.session import WhatIfSettings
from napari_sa2net.config import NetworkConfig
from napari_sa2net.engine.messages import AttentionMap, CellInspection, StageStep
from napari_sa2net.widgets.see_why.maps import ROWS, MapDetail, MapTiles, shrunk
from napari_sa2net.widgets.see_why.sections import (
    OUTLINE,
    CellSection,
    ProfilePlot,
    StageSection,
    WhatIfSection,
    outlined,
)

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

pytestmark = pytest.mark.both_bindings
PANELS = [MapTiles, MapDetail, StageSection, lambda: CellSection("W"), WhatIfSection]


def a_map(name: str, values: Any = None, **more: Any) -> AttentionMap:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4) if values is None else values
    fields: dict[str, Any] = {"low": 0.0, "high": 1.0, **more}
    return AttentionMap(name, values, 4, (4, 4), (1.5, 1.5), **fields)


@pytest.mark.parametrize("make", PANELS)
def test_every_control_has_a_tooltip(make: Any, qtbot: QtBot) -> None:
    panel = make()
    qtbot.addWidget(panel)
    for kind in (QAbstractButton, QAbstractSpinBox, QSlider):
        for control in panel.findChildren(kind):
            if not control.objectName().startswith("qt_"):
                assert control.toolTip(), control


def test_tiles_in_the_order_of_the_network(qtbot: QtBot) -> None:
    tiles = MapTiles()
    qtbot.addWidget(tiles)
    names = [name for _, _, row in ROWS for name, _ in row]
    assert list(tiles.tiles) == names
    assert names[-4:] == ["aua_8", "aua_4", "aua_2", "aua_1"]
    assert len(names) == 13
    heard: list[tuple[str, bool]] = []
    tiles.toggled.connect(lambda *what: heard.append(what))
    # a model without some stage: its tiles say so and cannot be pressed
    tiles.set_maps({"aua_8": a_map("aua_8"), "aua_1": a_map("aua_1")})
    assert not tiles.tiles["aua_4"].isEnabled()
    assert "no such stage" in tiles.tiles["aua_4"].toolTip()
    tiles.tiles["aua_4"].click()
    assert heard == []
    tiles.tiles["aua_8"].click()
    tiles.tiles["aua_8"].click()
    assert heard == [("aua_8", True), ("aua_8", False)]
    tiles.set_shown(frozenset({"aua_1"}), "aua_1")
    assert tiles.tiles["aua_1"].isChecked()
    assert tiles.tiles["aua_1"].described
    assert not tiles.tiles["aua_8"].isChecked()
    assert len(heard) == 2


def test_a_tile_shows_its_map(qtbot: QtBot) -> None:
    """Low values dark, high ones bright, and where they are in the map."""
    tiles = MapTiles()
    qtbot.addWidget(tiles)
    tiles.resize(340, 300)
    values = np.zeros((20, 20), np.float32)
    values[:, 10:] = 1
    tiles.set_maps({"aua_1": a_map("aua_1", values)})
    tiles.show()
    qtbot.waitExposed(tiles)
    tile = tiles.tiles["aua_1"]
    picture = tile.grab().toImage()
    scale = picture.width() / tile.width()
    middle = int(22 * scale)
    left = QColor(picture.pixel(int(picture.width() / 2 - 10 * scale), middle))
    right = QColor(picture.pixel(int(picture.width() / 2 + 10 * scale), middle))
    assert left.lightness() < 20
    assert right.lightness() > 150


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (1000, 700), (0, 4), (160, 160)])
def test_thumbnails_of_any_shape(shape: tuple[int, int], qtbot: QtBot) -> None:
    small = shrunk(np.ones(shape, np.float32))
    assert max(small.shape) <= 160
    assert (small == 1).all()
    tiles = MapTiles()
    qtbot.addWidget(tiles)
    tiles.set_maps({"aua_1": a_map("aua_1", np.ones(shape, np.float32))})
    tiles.grab()


def test_detail_says_what_is_shown(qtbot: QtBot) -> None:
    detail = MapDetail()
    qtbot.addWidget(detail)
    assert detail.bar.isHidden()
    assert detail.help.text()
    detail.set_map(a_map("scale_gate_2", low=-3.456, high=3.456))
    assert detail.title.text() == "scale 2"
    assert "−3.46" in detail.bar.toolTip()
    assert "not" in detail.help.text()
    assert detail.channel_row.isHidden()
    detail.grab()
    heard: list[tuple[str, Any]] = []
    detail.channelChanged.connect(lambda *what: heard.append(what))
    detail.set_map(a_map("local_gate_1", n_channels=64, low=0.5), 4)
    assert not detail.channel_row.isHidden()
    assert detail.channel.maximum() == 64
    assert detail.channel_words.text() == "4 of 0–63"
    assert heard == []
    detail.channel.setValue(9)
    detail.channel.setValue(0)
    assert heard == [("local_gate_1", 8), ("local_gate_1", None)]
    detail.set_map(a_map("local_gate_1", n_channels=64), can_choose=False)
    assert not detail.channel.isEnabled()


def test_stages_are_walked_through(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    section = StageSection()
    qtbot.addWidget(section)
    heard: list[int] = []
    section.stageChanged.connect(heard.append)
    section.setValue(1, False, False)
    assert heard == []
    section.slider.setValue(0)
    section.slider.setValue(1)
    assert heard == [8, 4]
    section._timer.setInterval(10)
    section.play.click()
    qtbot.waitUntil(lambda: len(heard) >= 7)
    assert heard[2:7] == [2, 1, 8, 4, 2]
    section.stop()
    n = len(heard)
    qtbot.wait(60)
    assert len(heard) == n
    # a model with fewer stages
    section.set_stages((8, 1))
    section.setValue(1, True, True)
    section.play.click()
    section.stop()
    assert heard[n:] == [8]
    section.slider.setValue(1)
    assert heard[n:] == [8]
    section.set_stages((1,))
    assert not section.slider.isEnabled()
    jumps: list[str] = []
    section.jumpWanted.connect(jumps.append)
    section.refined.click()
    section.contested.click()
    assert jumps == ["refinement_px", "contested"]


def inspection(size: int = 30, gates: tuple[float, ...] = (0.3, -0.1, 0.0, 2.0)) -> Any:
    distances = np.arange(-12, 13, dtype=np.float32)
    profile = np.linspace(1, 0, 25, dtype=np.float32)
    gap = profile.copy()
    gap[:9] = np.nan
    nan = float("nan")
    history = (
        StageStep(8, 1, 90, nan, nan),
        StageStep(4, 2, 90, 2.3, 5.0, "split"),
        StageStep(1, 1, 80, 0.4, 1.0),
    )
    outline = np.zeros((size, size), bool)
    outline[0] = True
    thumbnail = np.full((size, size), 0.5, np.float32)
    return CellInspection(
        12, gates, (0.1, 0.1, nan, 1.0), distances, {8: profile, 1: gap}, history, thumbnail,
        outline, (5.0, 6.0),
    )  # fmt: skip


def test_one_cell(qtbot: QtBot) -> None:
    section = CellSection("W")
    qtbot.addWidget(section)
    assert "W" in section.hint.text()
    assert section.body.isHidden()
    section.set_colors(QColor("white"), QColor("black"))
    section.set_cell(inspection())
    assert not section.body.isHidden()
    assert section.title.text() == "Cell 12"
    words = section.history.text()
    assert "split off" in words
    assert "2.3" in words
    curves = section.plot.curves()
    assert len(curves) == 2
    np.testing.assert_array_equal(curves[0][0], np.arange(-12, 13))
    assert np.isnan(curves[1][1]).sum() == 9
    section.grab()
    # numbers that are not there, a cell of one pixel
    section.set_cell(inspection(1, (np.nan, np.nan, 0.0, 0.0)))
    section.grab()
    section.set_colors(QColor("black"), QColor("white"))
    # a network without scales has no bars for them
    assert not section.bars.isHidden()
    none = (float("nan"),) * 4
    section.set_cell(replace(inspection(gates=none), image_gates=none))
    assert section.bars.isHidden()
    assert section.scales.isHidden()
    section.set_cell(None)
    assert section.body.isHidden()


def test_the_outline_is_drawn_on_grey_and_colour() -> None:
    outline = np.zeros((2, 2), bool)
    outline[0, 0] = True
    for thumbnail in (np.full((2, 2), 0.5), np.full((2, 2, 3), 0.5)):
        pixels = outlined(thumbnail, outline)
        assert tuple(pixels[0, 0, :3]) == QColor(OUTLINE).getRgb()[:3]
        assert tuple(pixels[1, 1]) == (128, 128, 128, 255)


def test_curves_are_replaced(qtbot: QtBot) -> None:
    plot = ProfilePlot()
    qtbot.addWidget(plot)
    assert plot.curves() == []
    x = np.arange(-12, 13)
    plot.set_profiles(x, {8: x * 0, 4: x * 0})
    plot.set_profiles(x, {2: x * 0 + 1})
    assert len(plot.curves()) == 1


def test_what_if_controls(qtbot: QtBot) -> None:
    section = WhatIfSection()
    qtbot.addWidget(section)
    heard: list[int] = []
    section.valueChanged.connect(lambda: heard.append(1))
    assert section.value().is_default
    assert not section.reset.isEnabled()
    # 1 stands in the middle of the slider, 0 at its left end
    assert section.gammas[0].slider.value() == section.gammas[0].slider.maximum() // 2
    # most of the way is for 0 to 4, and the largest γ of any model can be reached
    section.gammas[1].slider.setValue(790)
    assert 3.8 < section.gammas[1].value() < 4.0
    section.gammas[1].spin.setValue(6)
    assert section.value().gamma == (None, 6.0, None, None)
    section.gammas[1].spin.setValue(1)
    assert section.value().is_default
    heard.clear()
    section.gates[1].click()
    section.gammas[2].slider.setValue(0)
    assert len(heard) == 2
    wanted = WhatIfSettings((None, False, None, None), (None, None, 0.0, None))
    assert section.value() == wanted
    section.setValue(WhatIfSettings())
    assert len(heard) == 2
    section.setValue(wanted)
    assert section.value() == wanted
    assert section.reset.isEnabled()
    section.set_network(NetworkConfig(gates=(True, False, False, True)))
    section.setValue(WhatIfSettings())
    assert not section.scales.isHidden()
    assert section.fold.isHidden()
    assert [s.isEnabled() for s in section.gammas] == [True, False, False, True]
    assert [s.value() for s in section.gammas] == [1, 0, 0, 1]
    assert section.value().is_default
    section.set_line("−2 cells · +318 px")
    assert "318" in section.line.text()


LEARNED = NetworkConfig(
    kind="focal_unet",
    gamma=(0.0, 0.6734, 3.6449, 1.0),
    se=(True, False, True, True),
    se_gamma=(2.5, 1.0, 0.333, 8.0),
)


def test_what_if_begins_at_the_models_own_exponents(qtbot: QtBot) -> None:
    section = WhatIfSection()
    qtbot.addWidget(section)
    section.set_network(LEARNED)
    section.setValue(WhatIfSettings())
    assert [s.value() for s in section.gammas] == [0.0, 0.67, 3.64, 1.0]
    assert [s.value() for s in section.se_gammas] == [2.5, 0.0, 0.33, 8.0]
    assert [s.isHidden() for s in section.se_gammas] == [False, True, False, False]
    # what is shown rounded is still as trained
    assert section.value() == WhatIfSettings()
    assert "As trained: 0.67" in section.gammas[1].toolTip()
    # switched on again, and a channel weight changed
    section.gammas[0].spin.setValue(1.0)
    section.fold.click()
    assert not section.se_form.isHidden()
    section.se_gammas[3].spin.setValue(0.0)
    wanted = WhatIfSettings(gamma=(1.0, None, None, None), se_gamma=(None, None, None, 0.0))
    assert section.value() == wanted
    # back by hand, and by Reset
    section.gammas[0].spin.setValue(0.0)
    assert section.value().gamma == (None,) * 4
    section.setValue(WhatIfSettings())
    assert [s.value() for s in section.se_gammas] == [2.5, 0.0, 0.33, 8.0]


def test_what_if_begins_at_the_models_own_switches(qtbot: QtBot) -> None:
    section = WhatIfSection()
    qtbot.addWidget(section)
    section.set_network(NetworkConfig(scales=(False, True, True, True)))
    section.setValue(WhatIfSettings())
    assert [box.isChecked() for box in section.gates] == [True, True, True, False]
    assert section.value().is_default
    section.gates[3].click()
    assert section.value() == WhatIfSettings((None, None, None, True))


def test_the_parts_of_another_network_have_their_own_names(qtbot: QtBot) -> None:
    section, tiles = WhatIfSection(), MapTiles()
    for widget in (section, tiles):
        qtbot.addWidget(widget)
    section.set_network(LEARNED)
    assert section.scales.isHidden()
    assert section.gammas[0].accessibleName() == "Detail 1/8"
    assert section.se_gammas[3].accessibleName() == "Features full"
    tiles.set_maps({"aua_4": a_map("aua_4")}, network="focal_unet")
    assert tiles.tiles["aua_4"].text() == "1/4"
    assert tiles.tiles["aua_4"].accessibleName() == "detail 1/4"
    assert "attention gate α" in tiles.tiles["aua_4"].toolTip()
    assert tiles.stage_row.text() == "Where fine detail passes"
    assert tiles.tiles["scale_gate_1"].isHidden()
    assert tiles.tiles["local_gate_4"].isHidden()
    tiles.set_maps({"aua_4": a_map("aua_4")})
    assert "ψ of up-attention at stage 1/4" in tiles.tiles["aua_4"].toolTip()
    assert not tiles.tiles["scale_gate_1"].isHidden()
    assert tiles.stage_row.text() == "Where fine detail shapes the boundary"


def test_tiles_take_the_keyboard(qtbot: QtBot) -> None:
    tiles = MapTiles()
    qtbot.addWidget(tiles)
    tiles.set_maps({"aua_8": a_map("aua_8")})
    heard: list[str] = []
    tiles.toggled.connect(lambda name, on: heard.append(name))
    qtbot.keyClick(tiles.tiles["aua_8"], Qt.Key.Key_Space)
    assert heard == ["aua_8"]
