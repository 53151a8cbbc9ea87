"""The small parts of the page, each by itself."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from qtpy.QtCore import QLocale, Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QSlider

from napari_sa2net.app.session import ErrorInfo, JobProgress
from napari_sa2net.config import InstanceConfig, PredictConfig
from napari_sa2net.engine.messages import EngineInfo
from napari_sa2net.models.registry import list_models
from napari_sa2net.widgets.controls import (
    ErrorBox,
    Form,
    LineLabel,
    ProgressLine,
    ValueSlider,
    duration_words,
    range_words,
)
from napari_sa2net.widgets.number_field import NumberField, WholeNumberField
from napari_sa2net.widgets.page import NoImage
from napari_sa2net.widgets.rows import (
    ChannelButton,
    ImageDetails,
    ImageRow,
    ModelRow,
    RegionRow,
    SizeRow,
)
from napari_sa2net.widgets.segment import AdvancedSection, ResultSection
from napari_sa2net.widgets.workspace import GuiDispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_sa2net.widgets.dock import SA2NetDock

pytestmark = pytest.mark.both_bindings
PANELS = [
    AdvancedSection,
    ErrorBox,
    ImageRow,
    ModelRow,
    RegionRow,
    ResultSection,
    SizeRow,
    lambda: NoImage(cast(Any, SimpleNamespace(session=None, port=None)), ""),
]


@pytest.mark.parametrize("make", PANELS)
def test_every_control_has_a_tooltip(make: Any, qtbot: QtBot) -> None:
    panel = make()
    qtbot.addWidget(panel)
    kinds = (QAbstractButton, QAbstractSpinBox, QComboBox, QSlider)
    controls = [w for kind in kinds for w in panel.findChildren(kind)]
    # parts that Qt makes inside its own widgets are named by Qt
    controls = [w for w in controls if not w.objectName().startswith("qt_")]
    assert controls
    for control in controls:
        assert control.toolTip(), control


def test_size_row(qtbot: QtBot) -> None:
    row = SizeRow()
    qtbot.addWidget(row)
    heard: list[float | None] = []
    row.valueChanged.connect(heard.append)
    assert row.value() is None
    assert row.spin.text() == "auto"
    row.spin.setValue(18)
    assert heard == [18.0]
    row.set_pixel_size(0.5)
    assert "9" in row.note.text()
    assert "µm" in row.note.text()
    row.setValue(None)
    assert heard == [18.0]
    row.set_estimate(20.0)
    assert "20" in row.note.text()
    row.spin.setValue(0.2)
    PredictConfig(diameter=row.value())  # within the setting's bounds


def test_value_slider_speaks_only_of_people(qtbot: QtBot) -> None:
    slider = ValueSlider(0, 100, power=2)
    qtbot.addWidget(slider)
    heard: list[float] = []
    slider.valueChanged.connect(heard.append)
    slider.setValue(25)
    assert heard == []
    assert slider.slider.value() == 500
    slider.slider.setValue(1000)
    assert heard == [100.0]
    slider.spin.setValue(25)
    assert heard == [100.0, 25.0]
    assert slider.slider.value() == 500


def test_smallest_is_canonically_in_pixels(qtbot: QtBot) -> None:
    section = ResultSection()
    qtbot.addWidget(section)
    config = InstanceConfig(foreground=0.4, split=0.7, min_size=33, min_confidence=0.85)
    section.setValue(config)
    assert section.value(InstanceConfig()) == config
    section.set_pixel_size(0.25)
    assert section.smallest.spin.suffix() == " µm²"
    # showing it in other units changes nothing, whatever the rounding of the display
    assert section.value(InstanceConfig()) == config
    section.smallest.spin.setValue(4)
    assert section.value(config).min_size == 64
    section.set_pixel_size(None)
    assert section.smallest.spin.suffix() == " px²"
    assert section.smallest.value() == 64


def test_sliders_follow_the_state_of_the_result(qtbot: QtBot) -> None:
    section = ResultSection()
    qtbot.addWidget(section)
    section.set_state("none", "Segment first", "")
    assert not section.form.isEnabled()
    assert section.table.isHidden()
    section.set_state("live", "", "3 cells · median 20 px²")
    assert section.form.isEnabled()
    assert section.note.isHidden()
    assert not section.table.isHidden()
    assert "3\u00a0cells" in section.summary.text()


def test_advanced_gives_valid_settings(qtbot: QtBot) -> None:
    section = AdvancedSection()
    qtbot.addWidget(section)
    assert section.form.isHidden()
    section.fold.click()
    assert not section.form.isHidden()
    section.set_info(EngineInfo("cuda:0", "H", "2", 1, ("cpu", "cuda:0")))
    section.device.setCurrentIndex(section.device.findData("cuda:0"))
    section.tile.setCurrentIndex(section.tile.findData(512))
    section.precision.setCurrentIndex(1)
    predict = section.predict(PredictConfig(diameter=9))
    assert predict == PredictConfig(diameter=9, device="cuda:0", tile=512, precision="float32")
    section.drop_border.click()
    assert section.instances(InstanceConfig(min_size=5)) == InstanceConfig(
        min_size=5, remove_border=True
    )
    other = PredictConfig(tile=320, augment=True)
    section.set_values(other, InstanceConfig(fill_holes=False), False)
    assert section.predict(PredictConfig()) == other
    assert not section.instances(InstanceConfig()).fill_holes
    assert not section.normalize()


def test_what_brightness_is_measured_over(qtbot: QtBot) -> None:
    section = AdvancedSection()
    qtbot.addWidget(section)
    section.fold.click()
    displayed: list[bool] = []
    section.displayedChanged.connect(lambda: displayed.append(section.as_displayed()))

    def choose(value: str) -> None:
        section.levels.setCurrentIndex(section.levels.findData(value))
        section.levels.activated.emit(section.levels.currentIndex())

    def offered() -> list[str]:
        return [section.levels.itemData(i) for i in range(section.levels.count())]

    # a row with one choice does nothing
    assert section.levels.isHidden()
    section.set_levels(stack=False, grey=True)
    assert offered() == ["auto", "displayed"]
    assert not section.levels.isHidden()
    section.set_levels(stack=True, grey=True)
    assert offered() == ["auto", "stack", "plane", "displayed"]
    choose("plane")
    assert displayed == [False]
    chosen = section.predict(PredictConfig())
    assert chosen.levels == "plane"
    # another image does not offer it: the choice is kept for the next stack
    section.set_levels(stack=False, grey=True)
    section.set_values(chosen, InstanceConfig(), True)
    assert section.predict(chosen).levels == "plane"
    choose("displayed")
    assert displayed == [False, True]
    assert section.predict(chosen).levels == "plane"
    section.set_levels(stack=True, grey=False)
    assert offered() == ["auto", "stack", "plane"]
    section.set_values(chosen, InstanceConfig(), True, as_displayed=True)
    assert section.levels.currentData() == "auto"
    section.set_values(chosen, InstanceConfig(), True)
    assert section.levels.currentData() == "plane"
    section.normalize_box.click()
    assert not section.levels.isEnabled()


def test_channels_in_disguise_are_pointed_out(qtbot: QtBot) -> None:
    form = Form()
    qtbot.addWidget(form)
    details = ImageDetails(form)
    assert details.misread.notice.isHidden()
    assert details.misread.split.isHidden()
    wanted: list[int] = []
    details.misread.splitWanted.connect(wanted.append)
    details.misread.set_notice("Read as 9 planes", 2)
    assert not details.misread.notice.isHidden()
    details.misread.split.click()
    assert wanted == [2]


def test_one_channel_stays_chosen(qtbot: QtBot) -> None:
    button = ChannelButton()
    qtbot.addWidget(button)
    heard: list[tuple[int, ...]] = []
    button.valueChanged.connect(heard.append)
    button.set_channels(["1", "2", "3"], (0,))
    actions = button.menu().actions()
    actions[0].trigger()
    assert heard == []
    assert button.value() == (0,)
    actions[2].trigger()
    assert heard == [(0, 2)]
    assert "3" in button.text()


def test_axes_and_channels_show_where_they_matter(qtbot: QtBot) -> None:
    form = Form()
    qtbot.addWidget(form)
    details = ImageDetails(form)
    assert details.axes.isHidden()
    assert details.channels.isHidden()
    details.set_axes([("ZYX", "planes"), ("TYX", "time")], "TYX")
    details.set_channels(["1", "2"], (1,))
    assert details.axes.currentText() == "time"
    assert not details.axes.isHidden()
    assert not details.channels.isHidden()


def test_region_row(qtbot: QtBot) -> None:
    row = RegionRow()
    qtbot.addWidget(row)
    heard: list[int] = []
    row.valueChanged.connect(lambda: heard.append(1))
    assert row.plane.isHidden()
    assert row.link.isHidden()
    # what makes no difference is not asked, and time is no depth
    row.set_stack("T", (1,))
    assert row.all.isHidden()
    row.set_stack("T", (4,))
    assert row.all.text() == "all time points"
    assert row.link.isHidden()
    row.set_stack("TZ", (4, 1))
    assert row.link.isHidden()
    row.set_stack("TZ", (4, 5))
    assert row.all.text() == "all planes"
    assert not row.link.isHidden()
    links: list[int] = []
    row.linkChanged.connect(lambda: links.append(1))
    row.link.click()
    assert links == [1]
    row.plane.click()
    assert row.link.isHidden()
    row.all.click()
    assert not row.link.isHidden()
    heard.clear()
    row.view.click()
    row.plane.click()
    assert (row.where(), row.planes()) == ("view", "current")
    assert len(heard) == 2
    row.setValue("whole", "all")
    assert (row.where(), row.planes()) == ("whole", "all")
    assert len(heard) == 2


def test_model_card_in_words(home: Path, qtbot: QtBot) -> None:
    row = ModelRow()
    qtbot.addWidget(row)
    assert not row.info.isEnabled()
    row.set_models(tuple(list_models()), "tiny")
    assert row.value() == "tiny"
    row.show_card()
    assert row.popup.isVisible()
    text = row.popup.label.text()
    assert "tiny" in text
    assert "MB" in text
    row.popup.close()


def test_error_box(qtbot: QtBot) -> None:
    box = ErrorBox()
    qtbot.addWidget(box)
    assert box.isHidden()
    box.set_error(ErrorInfo("ImageError", "This is wrong. Do that.", "line 1\nline 2"))
    assert not box.isHidden()
    assert box.details.isHidden()
    box.fold.click()
    assert not box.details.isHidden()
    box.copy.click()
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    assert "Do that." in clipboard.text()
    assert "line 2" in clipboard.text()
    assert box.restart.isHidden()
    box.set_error(ErrorInfo("EngineError", "It is gone."), can_restart=True)
    assert not box.restart.isHidden()
    assert box.fold.isHidden()
    box.set_error(None)
    assert box.isHidden()


def test_progress_line(qtbot: QtBot) -> None:
    line = ProgressLine()
    qtbot.addWidget(line)
    assert line.bar.isHidden()
    line.set_progress(JobProgress(14, 22, "scoring images with A_b"), "")
    assert line.label.text() == "Scoring images with A_b · 64%"
    assert (line.bar.value(), line.bar.maximum()) == (14, 22)
    ends = time.monotonic() + 60
    line.set_progress(JobProgress(14, 22, "segmenting", ends), "")
    assert line.label.text() == "Segmenting · 64% · about a minute left"
    line.set_progress(JobProgress(14, 22, "segmenting", ends - 70), "")
    assert line.label.text() == "Segmenting · 64%"
    line.set_progress(JobProgress(0, 1, "segmenting"), "")
    assert line.label.text() == "Segmenting…"
    assert line.bar.maximum() == 0
    line.set_progress(None, "About a second")
    assert line.bar.isHidden()
    assert line.label.text() == "About a second"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about a second"),
        (4.4, "about 4 seconds"),
        (33, "about 35 seconds"),
        (58, "about a minute"),
        (200, "about 3 minutes"),
        (4000, "about an hour"),
        (9000, "about 2 hours"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (3, 3, "about 3 seconds"),
        (0.4, 7, "about a second to 7 seconds"),
        (2, 14, "about 2 to 15 seconds"),
        (20, 200, "about 20 seconds to 3 minutes"),
        (58, 400, "about a minute to 7 minutes"),
    ],
)
def test_ranges_in_words(low: float, high: float, words: str) -> None:
    assert range_words(low, high) == words


def test_a_size_that_is_unsure_asks_for_a_measurement(qtbot: QtBot) -> None:
    row = SizeRow()
    qtbot.addWidget(row)
    row.set_estimate(16.5, unsure=True)
    assert "16.5" in row.note.text()
    assert "doubtful" in row.note.text()
    assert row.note.property("role") == "warning"
    row.setValue(15)
    assert "doubtful" not in row.note.text()
    row.setValue(None)
    row.set_estimate(16.5)
    assert "doubtful" not in row.note.text()
    assert row.note.property("role") == "muted"


def test_dispatcher_brings_calls_to_the_gui_thread(qtbot: QtBot) -> None:
    import threading

    dispatcher = GuiDispatcher()
    seen: list[tuple[int, threading.Thread]] = []

    def note(i: int) -> None:
        seen.append((i, threading.current_thread()))

    def work() -> None:
        for i in range(50):
            dispatcher(note, i)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == []
    qtbot.waitUntil(lambda: len(seen) == 50)
    assert [i for i, _ in seen] == list(range(50))
    assert {thread for _, thread in seen} == {threading.main_thread()}
    dispatcher(note, 99)
    dispatcher.close()
    dispatcher(note, 100)
    qtbot.wait(50)
    assert len(seen) == 50


def type_into(spin: QAbstractSpinBox, text: str) -> None:
    """As a person does, key by key."""
    spin.selectAll()
    if text.isascii():
        QTest.keyClicks(spin.lineEdit(), text)
    else:  # QTest has no keys for these
        for character in text:
            spin.lineEdit().insert(character)
    QTest.keyClick(spin.lineEdit(), Qt.Key.Key_Return)


@pytest.fixture(params=["C", "de_DE", "fr_FR", "en_IN", "de_CH", "ar_EG", "fa_IR"])
def locale(request: pytest.FixtureRequest) -> Iterator[str]:
    """The system's language."""
    before = QLocale()
    QLocale.setDefault(QLocale(request.param))
    yield request.param
    QLocale.setDefault(before)


TYPED = [
    ("18.5", 18.5),
    ("18,5", 18.5),
    ("0.5", 0.5),
    (",5", 0.5),
    ("7", 7.0),
    ("1234.5", 1234.5),
    ("18.55", 18.55),
    ("١٨٫٥", 18.5),
    ("１８．５", 18.5),
    # not taken, and never read as something else
    ("1,000", None),
    ("1.000", None),
    ("1.000,5", None),
    ("1,000.5", None),
    ("18.5.2", None),
    ("99999", None),
    ("-3", None),
    (".", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "number"), TYPED)
def test_a_number_typed_is_the_number_used(
    text: str, number: float | None, locale: str, qtbot: QtBot
) -> None:
    spin = NumberField()
    qtbot.addWidget(spin)
    spin.setRange(0, 10000)
    spin.setSuffix(" px")
    spin.setValue(42.25)
    told: list[float] = []
    spin.valueChanged.connect(told.append)
    type_into(spin, text)
    assert spin.value() == pytest.approx(42.25 if number is None else number)
    assert told == ([] if number is None else [spin.value()])
    # what is shown reads the same way
    assert spin.text() == f"{spin.value():.2f} px"
    shown = spin.cleanText()
    spin.setValue(1)
    type_into(spin, shown)
    assert spin.text() == f"{shown} px"


@pytest.mark.parametrize(
    ("text", "number"),
    [("18", 18), ("1500", 1500), ("18.5", 42), ("18,5", 42), ("1.500", 42), ("20000", 42)],
)
def test_a_whole_number_typed_is_the_number_used(
    text: str, number: int, locale: str, qtbot: QtBot
) -> None:
    spin = WholeNumberField()
    qtbot.addWidget(spin)
    spin.setRange(0, 10000)
    spin.setValue(42)
    type_into(spin, text)
    assert spin.value() == number
    assert spin.text() == str(number)
    assert bool(spin.problem) == (number == 42)


@pytest.mark.parametrize(
    ("text", "number", "why"),
    [
        ("1e9", None, "outside of 0.02 to 98"),
        ("1e1", 10, ""),
        ("1.234,5", None, "no number"),
        ("abc", None, "“abc” is no number"),
        ("-4", None, "“-4” is outside of"),
        ("99,5", None, "is outside of 0.02 to 98"),
        ("1.000", None, "may be 1 or 1000"),
        ("9 parsec", None, "give the number in px"),
        ("9.75 um", 19.5, ""),
        ("9.75µm", 19.5, ""),
        ("9,75 μm", 19.5, ""),
        ("9750 nm", 19.5, ""),
        ("12 PX", 12, ""),
    ],
)
def test_what_is_not_taken_is_said(
    text: str, number: float | None, why: str, qtbot: QtBot
) -> None:
    spin = NumberField()
    qtbot.addWidget(spin)
    spin.setRange(0.02, 98)
    spin.setSuffix(" px")
    spin.set_lengths(0.5)
    spin.setValue(42.25)
    told: list[str] = []
    spin.problemChanged.connect(told.append)
    type_into(spin, text)
    assert spin.value() == pytest.approx(number or 42.25)
    assert (why in spin.problem) if why else not spin.problem
    assert why == "" or spin.problem.endswith("It stays at 42.25 px.")
    assert told[-1] == spin.problem
    type_into(spin, "7")
    assert spin.problem == ""
    assert spin.value() == 7
    # The number that is shown is the number that is used.
    type_into(spin, "7.1284")
    assert (spin.text(), spin.value()) == ("7.13 px", 7.13)


def test_object_size_in_units_and_back_to_auto(qtbot: QtBot) -> None:
    row = SizeRow()
    qtbot.addWidget(row)
    told: list[object] = []
    row.valueChanged.connect(told.append)
    type_into(row.spin, "9.75 µm")
    assert row.value() is None
    assert "the size of a pixel is not known" in row.note.text()
    assert row.note.property("role") == "warning"
    row.set_pixel_size(0.5)
    type_into(row.spin, "9.75 µm")
    assert row.value() == 19.5
    assert row.note.text().replace("\xa0", " ") == "9.75 µm"
    for back in ("auto", "AUTO", "", "0"):
        row.setValue(19.5)
        assert not row.auto.isHidden()
        row.spin.selectAll()
        QTest.keyClick(row.spin.lineEdit(), Qt.Key.Key_Delete)
        type_into(row.spin, back)
        assert row.value() is None
        assert row.spin.text() == "auto"
        assert row.auto.isHidden()
        assert row.spin.problem == ""
    row.setValue(19.5)
    told.clear()
    qtbot.mouseClick(row.auto, Qt.MouseButton.LeftButton)
    assert told == [None]


def test_every_number_of_the_dock_reads_alike(open_dock: Callable[[], SA2NetDock]) -> None:
    dock = open_dock()
    fields = [spin for page in dock.pages for spin in page.findChildren(QAbstractSpinBox)]
    assert len(fields) > 10
    assert {type(field) for field in fields} == {NumberField, WholeNumberField}


def test_a_number_still_being_typed_counts(
    open_dock: Callable[[], SA2NetDock], monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = open_dock()
    page = dock.pages[0]
    dock.workspace.port.viewer.add_image(np.zeros((32, 32)))
    asked: list[float | None] = []
    controller = dock.workspace.controller
    monkeypatch.setattr(
        controller, "segment", lambda: asked.append(dock.workspace.session.predict.diameter)
    )
    page.size_row.spin.selectAll()
    QTest.keyClicks(page.size_row.spin.lineEdit(), "18,5")
    # without taking the focus, as buttons of macOS
    page.button.click()
    assert asked == [18.5]


def test_a_size_too_small_is_shown_as_it_is_used(qtbot: QtBot) -> None:
    row = SizeRow()
    qtbot.addWidget(row)
    sizes: list[float | None] = []
    row.valueChanged.connect(sizes.append)
    type_into(row.spin, "0.3")
    assert sizes == [1.0]
    assert row.spin.text() == "1.0 px"
    type_into(row.spin, "0")
    assert sizes == [1.0, None]
    assert row.spin.text() == "auto"


def test_a_line_that_is_too_long_ends_in_an_ellipsis(qtbot):
    def line(text, width):
        label = LineLabel()
        qtbot.addWidget(label)
        label.setText(text)
        label.resize(width, 20)
        return label

    words = "nuclei cells: 143 cells · median 96 µm² · 3 touch the border"
    narrow, wide = line(words, 150), line(words, 1500)
    assert wide.shown() == narrow.text() == words
    assert narrow.shown().endswith("…")
    assert words.startswith(narrow.shown()[:-1])
    # that is what is drawn, too
    assert narrow.grab().toImage() == line(narrow.shown(), 150).grab().toImage()
    assert narrow.grab().toImage() != line("", 150).grab().toImage()
